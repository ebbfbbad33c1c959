/* The area under the ROC curve against pairs counted one by one. */
#include "core/base/rng.h"
#include "core/stats/auroc.h"
#include "unit.h"

#define N 60

static double
by_pairs(const float *value, const bool *positive, const double *weight)
{
	double won = 0, pairs = 0;

	for (int i = 0; i < N; i++)
		for (int j = 0; j < N; j++)
			if (positive[i] && !positive[j]) {
				double both = weight != NULL ? weight[i] * weight[j] : 1;

				won += both * (value[i] > value[j] ? 1 : value[i] == value[j] ? .5 : 0);
				pairs += both;
			}
	return won / pairs;
}

int
main(void)
{
	SermArena arena = unit_arena();
	SermRng rng;
	SermRoc roc;
	SermError error;
	float value[N], four[4] = {1, 2, 2, 3}, bad[2] = {0, NAN};
	double weight[N], twice[N], area;
	bool positive[N], mark[4] = {false, true, false, true};
	SermArenaMark start;

	CHECK(serm_roc_sort(four, 4, &arena, &roc, &error) == SERM_OK, "four values are sorted");
	CHECK_NEAR(serm_roc_area(&roc, mark, NULL), 3.5 / 4, 1e-12, "one tie of four pairs counts half");
	mark[1] = mark[3] = false;
	CHECK(isnan(serm_roc_area(&roc, mark, NULL)), "without a positive there is no area");
	mark[0] = true;
	CHECK(serm_roc_area(&roc, mark, NULL) == 0, "the lowest value as the only positive: 0");
	mark[0] = false, mark[3] = true;
	CHECK(serm_roc_area(&roc, mark, NULL) == 1, "the highest: 1");
	four[0] = four[1] = four[2] = four[3] = 7;
	CHECK(serm_roc_sort(four, 4, &arena, &roc, &error) == SERM_OK && serm_roc_area(&roc, mark, NULL) == .5,
	    "values that say nothing: a half");
	CHECK(serm_roc_sort(bad, 2, &arena, &roc, &error) == SERM_ERR_INVALID, "NaN has no place");
	CHECK(serm_roc_sort(bad, 0, &arena, &roc, &error) == SERM_OK && isnan(serm_roc_area(&roc, mark, NULL)),
	    "no values, no area");

	serm_rng_seed(&rng, 4);
	for (int draw = 0; draw < 5; draw++) {
		for (int i = 0; i < N; i++) {
			value[i] = (float) serm_rng_below(&rng, 20) / 4 - 1;
			positive[i] = serm_rng_uniform(&rng) < .3;
			weight[i] = serm_rng_below(&rng, 3);
			twice[i] = 2 * weight[i];
		}
		positive[0] = true, positive[1] = false, weight[0] = weight[1] = 1, twice[0] = twice[1] = 2;
		CHECK(serm_roc_sort(value, N, &arena, &roc, &error) == SERM_OK, "draw %d", draw);
		CHECK_NEAR(serm_roc_area(&roc, positive, NULL), by_pairs(value, positive, NULL), 1e-12, "unweighted");
		area = serm_roc_area(&roc, positive, weight);
		CHECK_NEAR(area, by_pairs(value, positive, weight), 1e-12, "weighted, zeros included");
		CHECK_NEAR(serm_roc_area(&roc, positive, twice), area, 1e-12, "by the ratio of the weights");
		for (int i = 0; i < N; i++)
			value[i] = -value[i];
		CHECK(serm_roc_sort(value, N, &arena, &roc, &error) == SERM_OK, "turned round");
		CHECK_NEAR(serm_roc_area(&roc, positive, weight), 1 - area, 1e-12, "one minus the area");
	}
	serm_arena_free(&arena);
	serm_arena_init(&arena, serm_heap_allocator(), 64);
	start = serm_arena_mark(&arena);
	CHECK(serm_roc_sort(value, N, &arena, &roc, &error) == SERM_ERR_MEMORY, "no memory");
	serm_arena_rewind(&arena, start);
	serm_arena_free(&arena);
	DONE();
}
