#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/stats/select.h"
#include "unit.h"

#define COUNT 2000
#define QUERIES 100

static SermCandidate candidates[COUNT];

/* Query q has the pairs q, q + QUERIES, ...; one in five of its first ten is picked. */
static void
make_candidates(void)
{
	for (uint32_t i = 0; i < COUNT; i++) {
		bool picked = i < COUNT / 2 && (i + i / QUERIES) % 5 == 0;

		candidates[i] = (SermCandidate){.key = serm_hash_mix(i + 1),
		    .query = i % QUERIES,
		    .picked = picked,
		    .priority = picked ? (double) (i * 7919 % 1000) / 1000 : 0};
	}
}

static SermStatus
choose(const SermSelectOptions *options, uint32_t count, SermArena *arena, SermSelection *selection)
{
	SermError error = {0};

	return serm_select_pairs(candidates, count, QUERIES, options, arena, NULL, NULL, selection, &error);
}

static void
tally(const SermSelection *selection, uint32_t count, uint32_t *explored, uint32_t *picked, uint32_t *most)
{
	uint32_t per_query[QUERIES] = {0};

	*explored = *picked = *most = 0;
	for (uint32_t i = 0; i < count; i++) {
		*explored += selection->choice[i] == SERM_CHOICE_EXPLORED;
		*picked += selection->choice[i] == SERM_CHOICE_PICKED;
		if (selection->choice[i] != SERM_CHOICE_NONE && ++per_query[candidates[i].query] > *most)
			*most = per_query[candidates[i].query];
	}
}

static void
test_budget(void)
{
	SermArena arena = unit_arena();
	SermSelectOptions options = {.budget = 80, .explore = 0.5, .seed = 1};
	SermSelection selection;
	uint32_t explored, picked, most, fired = 0;

	make_candidates();
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 80,
	    "the budget is met");
	tally(&selection, COUNT, &explored, &picked, &most);
	CHECK(explored == 40 && picked == 40 && selection.explored == 40, "half of it by chance");
	CHECK(most <= 2 && selection.per_query == 2, "with at most two pairs of a query");
	for (uint32_t i = 0; i < COUNT; i++)
		fired += selection.choice[i] == SERM_CHOICE_PICKED && !candidates[i].picked;
	CHECK(fired == 0, "what counts as picked was picked by an agent");

	options.budget = 700;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 700 &&
	          selection.per_query == 7,
	    "a budget over two pairs of each query raises the cap to the least that meets it");
	tally(&selection, COUNT, &explored, &picked, &most);
	CHECK(most == 7 && explored + picked == 700 && explored >= 350,
	    "empty slots of agents are drawn by chance");

	options.per_query = 3;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 300,
	    "a given cap holds even if the budget is not met");
	tally(&selection, COUNT, &explored, &picked, &most);
	CHECK(most == 3, "with at most three of a query");
	options.per_query = 0;

	options.explore = 0;
	options.budget = 150;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 150 &&
	          selection.explored == 0,
	    "without exploration all are picked");
	options.budget = 5000;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 200,
	    "and never more than the agents picked");
	options.budget = SERM_SELECT_ALL;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 200,
	    "no budget gives all of the picked");
	options.explore = 1;
	options.budget = 100;
	CHECK(
	    choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.explored == 100, "all by chance");
	options.budget = 0;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 0,
	    "nothing for nothing");
	options.budget = 10;
	CHECK(
	    choose(&options, 0, &arena, &selection) == SERM_OK && selection.chosen == 0, "nothing from nothing");
	CHECK(choose(&options, 1, &arena, &selection) == SERM_OK && selection.chosen == 1, "one from one");
	serm_arena_free(&arena);
}

static void
test_greedy(void)
{
	SermArena arena = unit_arena();
	SermSelectOptions options = {.budget = 30, .explore = 0, .per_query = COUNT, .seed = 3};
	SermSelection selection;
	double least_chosen = 1e9, most_left = -1e9;

	make_candidates();
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 30,
	    "thirty are chosen");
	for (uint32_t i = 0; i < COUNT; i++) {
		if (!candidates[i].picked)
			continue;
		if (selection.choice[i] != SERM_CHOICE_NONE)
			least_chosen = fmin(least_chosen, candidates[i].priority);
		else
			most_left = fmax(most_left, candidates[i].priority);
	}
	CHECK(least_chosen >= most_left, "at temperature 0 they have the highest priorities");
	serm_arena_free(&arena);
}

static void
test_seed(void)
{
	SermArena arena = unit_arena();
	SermSelectOptions options = {.budget = 60, .explore = 0.5, .temperature = 0.3, .seed = 5};
	SermSelection first, second;
	SermCandidate reversed[COUNT];
	SermError error = {0};
	uint32_t same = 0, equal = 0;

	make_candidates();
	CHECK(choose(&options, COUNT, &arena, &first) == SERM_OK, "a choice with seed 5");
	for (uint32_t i = 0; i < COUNT; i++)
		reversed[COUNT - 1 - i] = candidates[i];
	CHECK(
	    serm_select_pairs(reversed, COUNT, QUERIES, &options, &arena, NULL, NULL, &second, &error) == SERM_OK,
	    "and again in another order");
	for (uint32_t i = 0; i < COUNT; i++)
		equal += first.choice[i] == second.choice[COUNT - 1 - i];
	CHECK(equal == COUNT, "the order of the pairs does not matter");
	options.seed = 6;
	CHECK(choose(&options, COUNT, &arena, &second) == SERM_OK, "and with seed 6");
	for (uint32_t i = 0; i < COUNT; i++)
		same += first.choice[i] != SERM_CHOICE_NONE && second.choice[i] != SERM_CHOICE_NONE;
	CHECK(same < 40, "another seed draws others (%u of 60 in both)", same);
	serm_arena_free(&arena);
}

/* Gumbel-top-1 has the frequencies of a softmax; a uniform draw is uniform. */
static void
test_frequencies(void)
{
	SermArena arena = unit_arena();
	SermSelectOptions options = {.budget = 1, .explore = 0, .temperature = 0.5};
	SermSelection selection;
	const double priority[4] = {0.0, 0.25, 0.5, 1.0};
	double hits[4] = {0}, uniform[4] = {0}, total = 0, worst = 0, worst_uniform = 0;

	for (uint32_t i = 0; i < 4; i++)
		candidates[i] =
		    (SermCandidate){.key = serm_hash_mix(i), .query = i, .picked = true, .priority = priority[i]};
	for (int i = 0; i < 4; i++)
		total += exp(priority[i] / 0.5);
	for (uint32_t seed = 0; seed < 40000; seed++) {
		SermArenaMark mark = serm_arena_mark(&arena);

		options.seed = seed;
		options.explore = 0;
		(void) choose(&options, 4, &arena, &selection);
		for (int i = 0; i < 4; i++)
			hits[i] += selection.choice[i] != SERM_CHOICE_NONE;
		options.explore = 1;
		(void) choose(&options, 4, &arena, &selection);
		for (int i = 0; i < 4; i++)
			uniform[i] += selection.choice[i] != SERM_CHOICE_NONE;
		serm_arena_rewind(&arena, mark);
	}
	for (int i = 0; i < 4; i++) {
		worst = fmax(worst, fabs(hits[i] / 40000 - exp(priority[i] / 0.5) / total));
		worst_uniform = fmax(worst_uniform, fabs(uniform[i] / 40000 - 0.25));
	}
	CHECK(worst < 0.01, "Gumbel-top-1 is a softmax (worst error %.4f)", worst);
	CHECK(worst_uniform < 0.01, "exploration is uniform (worst error %.4f)", worst_uniform);
	serm_arena_free(&arena);
}

static int
compare(const void *left, const void *right)
{
	float a = *(const float *) left, b = *(const float *) right;

	return (a > b) - (a < b);
}

static void
test_ranks(void)
{
	float values[] = {3, 1, 2, 2, -5, -0.0f, 0.0f, 7};
	float scratch[2 * COUNT], rank[COUNT], many[COUNT], twin[COUNT];
	const float expected[] = {7 / 8.0f, 4 / 8.0f, 6 / 8.0f, 6 / 8.0f, 1 / 8.0f, 3 / 8.0f, 3 / 8.0f, 1};
	SermRng rng;
	bool good = true;

	serm_select_ranks(values, 8, scratch, rank);
	CHECK(memcmp(rank, expected, sizeof(expected)) == 0,
	    "ranks are shares of values not above, ties are equal");
	CHECK_NEAR(
	    serm_select_quantile(values, scratch, 8, 0.5), 1.5, 1e-12, "the median lies between two values");
	CHECK_NEAR(serm_select_quantile(values, scratch, 8, 0.9), 4.2, 1e-6, "type 7 interpolates: 3 + .3 * 4");
	CHECK(
	    serm_select_quantile(values, scratch, 8, 0) == -5 && serm_select_quantile(values, scratch, 8, 1) == 7,
	    "the ends are the extremes");
	CHECK(serm_select_quantile(values, scratch, 1, 0.9) == -5, "one value is every quantile");
	serm_rng_seed(&rng, 1);
	for (int i = 0; i < COUNT; i++)
		many[i] = twin[i] = (float) (serm_rng_normal(&rng) * exp(10 * serm_rng_normal(&rng)));
	many[0] = twin[0] = INFINITY;
	(void) serm_select_quantile(many, scratch, COUNT, 0.5);
	qsort(twin, COUNT, sizeof(float), compare);
	for (int i = 0; i < COUNT; i++)
		good &= many[i] == twin[i];
	CHECK(good, "the radix sort equals qsort");
}

static bool
stop(void *context)
{
	return --*(int *) context > 0;
}

static void
test_errors(void)
{
	SermArena arena = unit_arena();
	SermSelectOptions options = {.budget = 10, .explore = 0.5};
	SermSelection selection;
	SermError error = {0};
	int calls = 1;

	make_candidates();
	CHECK(serm_select_pairs(candidates, COUNT, QUERIES, &options, &arena, stop, &calls, &selection, &error) ==
	          SERM_ERR_CANCELED,
	    "a selection can be canceled");
	options.explore = 1.5;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_ERR_INVALID, "a share over 1 is refused");
	options.explore = NAN;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_ERR_INVALID, "so is one that is no number");
	options.explore = 0.5;
	options.temperature = -1;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_ERR_INVALID, "and a negative temperature");
	options.temperature = 0;
	candidates[3].priority = NAN;
	CHECK(
	    choose(&options, COUNT, &arena, &selection) == SERM_ERR_INVALID, "and a priority that is no number");
	candidates[3] = (SermCandidate){.query = QUERIES};
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_ERR_INVALID, "and a query out of range");
	serm_arena_free(&arena);
}

static uint32_t
chosen_of(const SermSelection *selection, uint32_t agents, uint32_t segment)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < COUNT; i++)
		count += selection->choice[i] != SERM_CHOICE_NONE &&
		         (agents == 0 ||
		             (selection->choice[i] == SERM_CHOICE_PICKED && (candidates[i].agents & agents) != 0)) &&
		         (segment == SERM_SELECT_ALL || candidates[i].segment == segment);
	return count;
}

/* Agent 0 has all high priorities, agent 1 the low ones; segment 2 is rare and has no picks. */
static void
test_quotas(void)
{
	SermArena arena = unit_arena();
	SermQuota agent_quota = {1, 0.25}, segment_quota = {2, 0.2};
	SermSelectOptions options = {.budget = 100, .per_query = 100, .seed = 3};
	SermSelection selection;

	make_candidates();
	for (uint32_t i = 0; i < COUNT; i++) {
		candidates[i].agents = candidates[i].picked ? 1 + (i % 7 == 0) : 0;
		candidates[i].priority += candidates[i].agents == 1;
		candidates[i].segment = !candidates[i].picked && i % 50 == 1 ? 2 : i % 2;
	}
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK &&
	          chosen_of(&selection, 2, SERM_SELECT_ALL) == 0 && chosen_of(&selection, 0, 2) == 0,
	    "without quotas a weak agent and a rare segment get nothing");
	options.agent_quota = &agent_quota;
	options.agent_quota_count = 1;
	options.segment_quota = &segment_quota;
	options.segment_quota_count = 1;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 100 &&
	          chosen_of(&selection, 2, SERM_SELECT_ALL) == 25,
	    "the quota of an agent is exact");
	CHECK(chosen_of(&selection, 0, 2) == 20, "and that of a segment, by chance where no agent picked");
	options.explore = 0.5;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 100 &&
	          chosen_of(&selection, 2, SERM_SELECT_ALL) == 25 && chosen_of(&selection, 0, 2) == 20,
	    "beside exploring; what is explored counts for its segment");
	options.explore = 1;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == 100 &&
	          selection.explored == 100,
	    "but the budget is a limit");
	agent_quota.share = 1.5;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_ERR_INVALID, "a quota over all is refused");
	serm_arena_free(&arena);
}

static void
test_copies(void)
{
	SermArena arena = unit_arena();
	SermSelectOptions options = {.budget = COUNT, .per_query = COUNT, .explore = 1, .seed = 3};
	SermSelection selection;
	SermSimilarity one = {0}, near = {0}, other = {0};
	uint32_t worst = 64, distance;
	SermRng rng;

	serm_rng_seed(&rng, 8);
	make_candidates();
	for (uint32_t i = 0; i < COUNT; i++)
		candidates[i].signature = serm_hash_mix(i / 4) ^ (i % 4 == 0 ? 0 : UINT64_C(1) << (i * 37 % 64));
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == COUNT,
	    "copies may stay");
	options.distinct = true;
	CHECK(choose(&options, COUNT, &arena, &selection) == SERM_OK && selection.chosen == COUNT / 4,
	    "or one of each four that are nearly the same is chosen (%u, %u copies)", selection.chosen,
	    selection.copies);
	for (uint32_t i = 0; i < COUNT; i++)
		for (uint32_t j = 0; j < i && selection.choice[i] != SERM_CHOICE_NONE; j++)
			if (selection.choice[j] != SERM_CHOICE_NONE) {
				distance = (uint32_t) __builtin_popcountll(candidates[i].signature ^ candidates[j].signature);
				worst = distance < worst ? distance : worst;
			}
	CHECK(worst > 3, "no two of the choice are within three bits (%u)", worst);
	for (uint64_t word = 0; word < 200; word++) {
		serm_similarity_add(&one, word, 1);
		serm_similarity_add(&near, word == 7 ? 1000 : word, 1);
		serm_similarity_add(&other, word + 5000, 1);
	}
	CHECK(__builtin_popcountll(serm_similarity_signature(&one) ^ serm_similarity_signature(&near)) <= 6 &&
	          __builtin_popcountll(serm_similarity_signature(&one) ^ serm_similarity_signature(&other)) > 16,
	    "texts of the same words have near signatures, others do not");
	serm_arena_free(&arena);
}

int
main(void)
{
	test_quotas();
	test_copies();
	test_budget();
	test_greedy();
	test_seed();
	test_frequencies();
	test_ranks();
	test_errors();
	DONE();
}
