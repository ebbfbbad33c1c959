/*
 * Selection under a budget. Sampling without replacement in proportion to
 * exp(priority / temperature) is the top k of priority / temperature plus
 * Gumbel noise (Kool, van Hoof and Welling 2019); a uniform draw is the top k
 * of the noise alone.
 */
#include "core/stats/select.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/hash.h"

#define PER_QUERY_MIN 2
/* Elements between two calls of keep_going. */
#define STEPS_PER_CHECK 65536
/* Separates the noise of the picked from the draw of the explored. */
#define PICK_STREAM UINT64_C(0x7069636b)

/* One candidate in the order in which it is offered: highest weight first, ties by key, then by index. */
typedef struct Offer {
	double weight;
	uint64_t key;
	uint32_t candidate;
} Offer;

typedef struct Choosing {
	const SermCandidate *candidates;
	uint32_t candidate_count;
	uint32_t query_count;
	uint8_t *choice;
	uint32_t *taken; /* [query_count] */
	uint32_t per_query;
	SermKeepGoing keep_going;
	void *context;
} Choosing;

static bool
may_go_on(const Choosing *choosing, uint32_t step)
{
	return step % STEPS_PER_CHECK != 0 || choosing->keep_going == NULL ||
	       choosing->keep_going(choosing->context);
}

double
serm_select_chance(uint64_t key, uint64_t seed)
{
	uint64_t bits = serm_hash_mix(key ^ serm_hash_mix(seed + UINT64_C(0x9e3779b97f4a7c15)));

	return ((double) (bits >> 11) + 0.5) * 0x1.0p-53;
}

static int
compare_floats(const void *left, const void *right)
{
	float a = *(const float *) left, b = *(const float *) right;

	return (a > b) - (a < b);
}

double
serm_select_quantile(float *values, size_t count, double quantile)
{
	double place = quantile * (double) (count - 1);
	size_t below = (size_t) place;

	SERM_ASSERT(count > 0 && quantile >= 0.0 && quantile <= 1.0);
	qsort(values, count, sizeof(float), compare_floats);
	if (below + 1 >= count)
		return values[count - 1];
	return values[below] + (place - (double) below) * ((double) values[below + 1] - values[below]);
}

void
serm_select_ranks(const float *values, size_t count, float *scratch, float *rank)
{
	for (size_t i = 0; i < count; i++)
		scratch[i] = values[i];
	qsort(scratch, count, sizeof(float), compare_floats);
	for (size_t i = 0; i < count; i++) {
		size_t low = 0, high = count;

		while (low < high) {
			size_t middle = low + (high - low) / 2;

			if (scratch[middle] <= values[i])
				low = middle + 1;
			else
				high = middle;
		}
		rank[i] = (float) ((double) low / (double) count);
	}
}

static int
compare_offers(const void *left, const void *right)
{
	const Offer *a = left, *b = right;

	if (a->weight != b->weight)
		return a->weight < b->weight ? 1 : -1;
	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	return (a->candidate > b->candidate) - (a->candidate < b->candidate);
}

/* Take offers in order, at most `wanted` and per_query for each query; returns how many were taken. */
static SermStatus
take(Choosing *choosing, Offer *offers, uint32_t offer_count, uint32_t wanted, SermChoice as, uint32_t *taken,
    SermError *error)
{
	*taken = 0;
	if (!may_go_on(choosing, 0))
		return serm_fail(error, SERM_ERR_CANCELED, "the selection was canceled");
	qsort(offers, offer_count, sizeof(Offer), compare_offers);
	for (uint32_t i = 0; i < offer_count && *taken < wanted; i++) {
		const SermCandidate *candidate = &choosing->candidates[offers[i].candidate];

		if (!may_go_on(choosing, i))
			return serm_fail(error, SERM_ERR_CANCELED, "the selection was canceled");
		if (choosing->choice[offers[i].candidate] != SERM_CHOICE_NONE ||
		    choosing->taken[candidate->query] >= choosing->per_query)
			continue;
		choosing->choice[offers[i].candidate] = (uint8_t) as;
		choosing->taken[candidate->query]++;
		(*taken)++;
	}
	return SERM_OK;
}

static uint32_t
offer_all(const Choosing *choosing, uint64_t seed, Offer *offers)
{
	for (uint32_t i = 0; i < choosing->candidate_count; i++) {
		uint64_t key = choosing->candidates[i].key;

		offers[i] = (Offer){serm_select_chance(key, seed), key, i};
	}
	return choosing->candidate_count;
}

static uint32_t
offer_picked(const Choosing *choosing, double temperature, uint64_t seed, Offer *offers)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < choosing->candidate_count; i++) {
		const SermCandidate *candidate = &choosing->candidates[i];
		double weight = candidate->priority;

		if (!candidate->picked)
			continue;
		if (temperature > 0)
			weight = weight / temperature - log(-log(serm_select_chance(candidate->key, seed ^ PICK_STREAM)));
		offers[count++] = (Offer){weight, candidate->key, i};
	}
	return count;
}

/* The least cap >= PER_QUERY_MIN under which the eligible pairs fill the budget; `available` is scratch. */
static uint32_t
fitting_cap(const Choosing *choosing, bool picked_only, uint32_t budget, uint32_t *available)
{
	uint32_t low = PER_QUERY_MIN, high = PER_QUERY_MIN;
	uint64_t total = 0;

	for (uint32_t i = 0; i < choosing->candidate_count; i++) {
		const SermCandidate *candidate = &choosing->candidates[i];

		if (picked_only && !candidate->picked)
			continue;
		if (++available[candidate->query] > high)
			high = available[candidate->query];
	}
	/* Invariant: `high` gives all that can be had or fills the budget. */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		total = 0;
		for (uint32_t q = 0; q < choosing->query_count; q++)
			total += available[q] < middle ? available[q] : middle;
		if (total >= budget)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static SermStatus
check_input(const SermCandidate *candidates, uint32_t candidate_count, uint32_t query_count,
    const SermSelectOptions *options, SermError *error)
{
	if (!(options->explore >= 0.0 && options->explore <= 1.0))
		return serm_fail(error, SERM_ERR_INVALID, "the share of exploration must be within [0, 1]");
	if (!(options->temperature >= 0.0) || !isfinite(options->temperature))
		return serm_fail(error, SERM_ERR_INVALID, "the temperature must be finite and not negative");
	for (uint32_t i = 0; i < candidate_count; i++)
		if (candidates[i].query >= query_count || !isfinite(candidates[i].priority))
			return serm_fail(error, SERM_ERR_INVALID, "candidate %u has query %u of %u and priority %g", i,
			    candidates[i].query, query_count, candidates[i].priority);
	return SERM_OK;
}

static SermStatus
choose(Choosing *choosing, const SermSelectOptions *options, Offer *offers, SermSelection *selection,
    SermError *error)
{
	uint32_t budget =
	    options->budget < choosing->candidate_count ? options->budget : choosing->candidate_count;
	uint32_t share = (uint32_t) lround(options->explore * budget);
	uint32_t explored = 0, picked = 0, filled = 0, count;
	SermStatus status;

	/* Chance first: what it draws is then a fair sample of the stream, whatever the agents like. */
	count = offer_all(choosing, options->seed, offers);
	status = take(choosing, offers, count, share, SERM_CHOICE_EXPLORED, &explored, error);
	if (status != SERM_OK)
		return status;
	count = offer_picked(choosing, options->temperature, options->seed, offers);
	status = take(choosing, offers, count, budget - explored, SERM_CHOICE_PICKED, &picked, error);
	if (status != SERM_OK)
		return status;
	if (options->explore > 0.0 && explored + picked < budget) {
		count = offer_all(choosing, options->seed, offers);
		status =
		    take(choosing, offers, count, budget - explored - picked, SERM_CHOICE_EXPLORED, &filled, error);
	}
	selection->explored = explored + filled;
	selection->chosen = explored + picked + filled;
	return status;
}

SermStatus
serm_select_pairs(const SermCandidate *candidates, uint32_t candidate_count, uint32_t query_count,
    const SermSelectOptions *options, SermArena *arena, SermKeepGoing keep_going, void *context,
    SermSelection *selection, SermError *error)
{
	Choosing choosing = {.candidates = candidates,
	    .candidate_count = candidate_count,
	    .query_count = query_count,
	    .per_query = options->per_query,
	    .keep_going = keep_going,
	    .context = context};
	SermStatus status = check_input(candidates, candidate_count, query_count, options, error);
	SermArenaMark mark;
	uint32_t *available;
	Offer *offers;

	*selection = (SermSelection){0};
	if (status != SERM_OK)
		return status;
	choosing.choice = serm_arena_array(arena, candidate_count, 1);
	mark = serm_arena_mark(arena);
	choosing.taken = serm_arena_array(arena, query_count, sizeof(uint32_t));
	available = serm_arena_array(arena, query_count, sizeof(uint32_t));
	offers = serm_arena_array(arena, candidate_count, sizeof(Offer));
	if (choosing.choice == NULL || choosing.taken == NULL || available == NULL || offers == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory to select from %u pairs", candidate_count);

	if (choosing.per_query == 0)
		choosing.per_query = fitting_cap(&choosing, options->explore == 0.0, options->budget, available);
	status = choose(&choosing, options, offers, selection, error);
	serm_arena_rewind(arena, mark);
	selection->choice = choosing.choice;
	selection->per_query = choosing.per_query;
	return status;
}
