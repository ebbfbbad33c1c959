#include "core/base/rng.h"
#include "core/stats/compare.h"
#include "unit.h"

#define TEAMS 7

/* American League, 1987 season (Agresti, "Categorical Data Analysis", second edition, table 10.10): wins of
 * row over column. */
static const int wins[TEAMS][TEAMS] = {
    {0, 7, 9, 7, 7, 9, 11}, /* Milwaukee */
    {6, 0, 7, 5, 11, 9, 9}, /* Detroit */
    {4, 6, 0, 7, 7, 8, 12}, /* Toronto */
    {6, 8, 6, 0, 6, 7, 10}, /* New York */
    {6, 2, 6, 7, 0, 7, 12}, /* Boston */
    {4, 4, 5, 6, 6, 0, 6},  /* Cleveland */
    {2, 4, 1, 3, 1, 7, 0},  /* Baltimore */
};
/* Strengths beyond Baltimore's as published there. */
static const double published[TEAMS] = {1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0};

static SermCompareOptions
nearly_flat(void)
{
	return (SermCompareOptions){.spread = 1e4, .tie = -30, .tie_width = 1e-3};
}

static SermStatus
fit(const SermComparison *comparisons, size_t count, size_t items, const SermCompareOptions *options,
    double *strength, double *tie)
{
	SermArena arena = unit_arena();
	SermError error;
	SermStatus status =
	    serm_compare_fit(comparisons, count, items, options, &arena, NULL, NULL, strength, tie, &error);

	serm_arena_free(&arena);
	return status;
}

static void
test_baseball(void)
{
	SermComparison games[1000];
	SermCompareOptions options = nearly_flat();
	double strength[TEAMS];
	size_t count = 0;

	for (uint32_t i = 0; i < TEAMS; i++)
		for (uint32_t j = 0; j < TEAMS; j++)
			for (int k = 0; k < wins[i][j]; k++)
				games[count++] = i < j ? (SermComparison){i, j, 1, 1} : (SermComparison){j, i, 0, 1};
	CHECK(fit(games, count, TEAMS, &options, strength, NULL) == SERM_OK, "%zu games are fitted", count);
	for (int i = 0; i < TEAMS; i++)
		CHECK_NEAR(strength[i] - strength[6], published[i], 6e-4, "team %d is as strong as published", i);
}

static size_t
repeat(SermComparison *to, SermComparison one, int times)
{
	for (int i = 0; i < times; i++)
		to[i] = one;
	return (size_t) times;
}

static void
test_ties(void)
{
	SermComparison ends[100];
	SermCompareOptions options = {.spread = 1e4, .tie = 0, .tie_width = 1e4};
	double strength[3], tie, weighted[3], weighted_tie;
	size_t count = repeat(ends, (SermComparison){0, 1, 1, 1}, 12);

	count += repeat(ends + count, (SermComparison){1, 0, 1, 1}, 3);
	count += repeat(ends + count, (SermComparison){0, 1, 0.5f, 1}, 6);
	CHECK(fit(ends, count, 2, &options, strength, &tie) == SERM_OK, "two items with ties");
	/* Three outcomes and two parameters: the mode gives each its share. */
	CHECK_NEAR(strength[0] - strength[1], log(12.0 / 3.0), 1e-6, "the difference is log(wins / losses)");
	CHECK_NEAR(tie, log(6.0 / sqrt(12.0 * 3.0)), 1e-6, "nu is ties / sqrt(wins x losses)");

	ends[0] = (SermComparison){0, 1, 1, 12};
	ends[1] = (SermComparison){1, 0, 1, 3};
	ends[2] = (SermComparison){0, 1, 0.5f, 6};
	CHECK(fit(ends, 3, 2, &options, weighted, &weighted_tie) == SERM_OK, "the same by weights");
	CHECK_NEAR(weighted[0], strength[0], 1e-7, "gives the same strength");
	CHECK_NEAR(weighted_tie, tie, 1e-7, "and the same nu");

	count = repeat(ends, (SermComparison){0, 1, 0.5f, 1}, 9);
	serm_compare_defaults(&options);
	CHECK(fit(ends, count, 3, &options, strength, &tie) == SERM_OK && fabs(strength[0]) < 1e-9 &&
	          fabs(strength[1]) < 1e-9 && strength[2] == 0,
	    "nothing but ties are equals, and so is who was never compared");
}

static void
test_prior(void)
{
	SermComparison one[] = {{0, 1, 1, 1}, {1, 2, 1, 1}};
	SermCompareOptions options;
	double strength[3], wide[3];

	serm_compare_defaults(&options);
	CHECK(fit(one, 2, 3, &options, strength, NULL) == SERM_OK && strength[0] > strength[1] &&
	          strength[1] > strength[2] && strength[0] < 3,
	    "who never lost has a finite strength");
	CHECK_NEAR(strength[0] + strength[1] + strength[2], 0, 1e-7, "the middle is 0");
	CHECK_NEAR(strength[1], 0, 1e-7, "won once and lost once is the middle");
	options.spread = 4;
	CHECK(fit(one, 2, 3, &options, wide, NULL) == SERM_OK && wide[0] > strength[0],
	    "a wider prior lets it be more");
	CHECK(fit(one, 0, 3, &options, wide, NULL) == SERM_OK && wide[0] == 0 && wide[2] == 0,
	    "no comparison at all");
	options.spread = 0;
	CHECK(fit(one, 2, 3, &options, wide, NULL) == SERM_ERR_INVALID, "a prior has a width");
	serm_compare_defaults(&options);
	CHECK(fit(one, 2, 2, &options, wide, NULL) == SERM_ERR_INVALID, "an item that is not there");
	one[0].second = 0;
	CHECK(fit(one, 2, 3, &options, wide, NULL) == SERM_ERR_INVALID, "an item against itself");
	one[0].second = 1, one[0].score = 0.3f;
	CHECK(fit(one, 2, 3, &options, wide, NULL) == SERM_ERR_INVALID, "an end that is none");
}

static bool
refuse(void *context)
{
	(void) context;
	return false;
}

/* At the mode each item's expected score, less the pull of the prior, is the one it has. */
static void
test_many(void)
{
	enum { ITEMS = 400, COMPARISONS = 4000 };
	SermComparison *games = calloc(COMPARISONS, sizeof(*games));
	double *truth = calloc(ITEMS, sizeof(double)), *strength = calloc(ITEMS, sizeof(double));
	double *excess = calloc(ITEMS, sizeof(double));
	SermCompareOptions options;
	SermArena arena = unit_arena();
	SermError error;
	SermRng rng;
	double tie, worst = 0, xy = 0, xx = 0, yy = 0;

	serm_rng_seed(&rng, 7);
	serm_compare_defaults(&options);
	for (int i = 0; i < ITEMS; i++)
		truth[i] = 1.5 * serm_rng_normal(&rng);
	for (uint32_t k = 0; k < COMPARISONS; k++) {
		uint32_t i = k % ITEMS, j = (i + 1 + serm_rng_below(&rng, ITEMS - 1)) % ITEMS;
		double half = (truth[i] - truth[j]) / 2, total = exp(half) + exp(-half) + 0.5,
		       draw = serm_rng_uniform(&rng);

		games[k] = (SermComparison){i, j,
		    draw * total < exp(half)         ? 1
		    : draw * total < exp(half) + 0.5 ? 0.5f
		                                     : 0,
		    1};
	}
	CHECK(serm_compare_fit(games, COMPARISONS, ITEMS, &options, &arena, NULL, NULL, strength, &tie, &error) ==
	          SERM_OK,
	    "4,000 comparisons of 400 items");
	for (int k = 0; k < COMPARISONS; k++) {
		double half = (strength[games[k].first] - strength[games[k].second]) / 2;
		double total = exp(half) + exp(-half) + exp(tie);
		double expected = (exp(half) + exp(tie) / 2) / total;

		excess[games[k].first] += games[k].score - expected;
		excess[games[k].second] -= games[k].score - expected;
	}
	for (int i = 0; i < ITEMS; i++) {
		worst = fmax(worst, fabs(excess[i] - strength[i] / (options.spread * options.spread)));
		xy += truth[i] * strength[i], xx += truth[i] * truth[i], yy += strength[i] * strength[i];
	}
	CHECK(worst < 1e-7, "scores are as expected at the mode");
	CHECK(xy / sqrt(xx * yy) > 0.87, "what was drawn is found again: %.3f", xy / sqrt(xx * yy));
	CHECK_NEAR(tie, log(0.5), 0.15, "and how often ties happen");
	CHECK(serm_compare_fit(games, COMPARISONS, ITEMS, &options, &arena, refuse, NULL, strength, &tie,
	          &error) == SERM_ERR_CANCELED,
	    "it can be stopped");
	serm_arena_free(&arena);
	free(games), free(truth), free(strength), free(excess);
}

static void
test_grades(void)
{
	static const uint32_t group[] = {0, 0, 0, 0, 1, 1, 1, 1};
	static const double strength[] = {-2, -1, 1, 2, -2, -1, 1, 2};
	static const double even[] = {.25, .25, .25, .25}, low[] = {.7, .1, .1, .1};
	double known[8] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
	double mean[2] = {1.5, 1.5};
	SermCompareScale scale = {.grade_count = 4,
	    .items = 8,
	    .group = group,
	    .strength = strength,
	    .known = known,
	    .grade_prior = even,
	    .strength_of_prior = 10};
	SermCompareResult result;
	SermArena arena = unit_arena();
	SermError error;

	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_OK && result.anchors == 0, "no anchor");
	CHECK(result.grade[0] == 0 && result.grade[1] == 1 && result.grade[2] == 2 && result.grade[3] == 3 &&
	          memcmp(result.grade, result.grade + 4, 4) == 0,
	    "an even prior spreads them evenly");
	scale.grade_prior = low;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_OK && result.grade[0] == 0 &&
	          result.grade[1] == 0 && result.grade[3] == 3 && result.grade[7] == 3,
	    "where most are bad, most are bad");
	scale.grade_prior = even;
	scale.group_mean = mean;
	mean[0] = 0, mean[1] = 3;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_OK && result.grade[3] < 3 &&
	          result.grade[4] > 0 && result.value[7] > result.value[3] + 2.5,
	    "a group of which the model expects more has more");

	/* The second group is known to be good: its best and worst. */
	scale.group_mean = NULL;
	known[4] = 2, known[7] = 3;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_OK && result.anchors == 2 &&
	          result.value[5] > result.value[1] + 0.5 && result.grade[6] >= 2,
	    "anchors lift their group");
	CHECK(result.value[1] < result.value[2] && result.grade[0] < 2, "and leave the other");
	known[4] = 3, known[7] = 0;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_OK && result.slope >= 0,
	    "a judge that has it the wrong way round is not turned round");
	known[4] = 4;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_ERR_INVALID, "a grade that is none");
	known[4] = NAN;
	scale.grade_count = 11;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_ERR_INVALID, "too many grades");
	scale.grade_count = 4, scale.items = 0;
	CHECK(serm_compare_grade(&scale, &arena, &result, &error) == SERM_OK, "nothing to grade");
	serm_arena_free(&arena);
}

int
main(void)
{
	test_baseball();
	test_ties();
	test_prior();
	test_many();
	test_grades();
	DONE();
}
