/*
 * Selection under a budget. Sampling without replacement in proportion to
 * exp(priority / temperature) is the top k of priority / temperature plus
 * Gumbel noise (Kool, van Hoof and Welling 2019); a uniform draw is the top k
 * of the noise alone.
 */
#include "core/stats/select.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"

#define PER_QUERY_MIN 2
/* Steps of a heap between two calls of keep_going: about 10 ms. */
#define STEPS_PER_CHECK 16384
/* Signatures that differ in at most COPY_BITS bits agree in one of BANDS parts. */
#define COPY_BITS 3
#define BANDS 4
#define BAND_VALUES 65536
#define NONE UINT32_MAX
/* Separates the noise of the picked from the draw of the explored. */
#define PICK_STREAM UINT64_C(0x7069636b)

/* Candidates are offered highest weight first, ties by key, then by index. */
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
	uint32_t *band_head; /* [BANDS][BAND_VALUES] last chosen with that part; NULL: copies may stay */
	uint32_t *band_next; /* [BANDS][candidate_count] */
	uint32_t copies;
	SermKeepGoing keep_going;
	void *context;
} Choosing;

static bool
may_go_on(const Choosing *choosing, uint32_t step)
{
	return step % STEPS_PER_CHECK != 0 || choosing->keep_going == NULL ||
	       choosing->keep_going(choosing->context);
}

/* Uniform in (0, 1): the chance that belongs to `key` under `seed`. */
static double
chance_of(uint64_t key, uint64_t seed)
{
	uint64_t bits = serm_hash_mix(key ^ serm_hash_mix(seed + UINT64_C(0x9e3779b97f4a7c15)));

	return ((double) (bits >> 11) + 0.5) * 0x1.0p-53;
}

/* Floats as unsigned integers of the same order. */
static uint32_t
ordered_bits(float value)
{
	uint32_t bits;

	/* -0 and 0 are equal and must sort as equal. */
	value += 0.0f;
	memcpy(&bits, &value, sizeof(bits));
	return (bits & UINT32_C(0x80000000)) != 0 ? ~bits : bits | UINT32_C(0x80000000);
}

/* Radix sort, ascending: linear, so that a sort of millions needs no check for interrupts. */
static void
sort_floats(float *values, float *scratch, size_t count)
{
	for (int shift = 0; shift < 32; shift += 8) {
		size_t start[257] = {0};

		for (size_t i = 0; i < count; i++)
			start[((ordered_bits(values[i]) >> shift) & 255) + 1]++;
		for (int digit = 0; digit < 256; digit++)
			start[digit + 1] += start[digit];
		for (size_t i = 0; i < count; i++)
			scratch[start[(ordered_bits(values[i]) >> shift) & 255]++] = values[i];
		memcpy(values, scratch, count * sizeof(float));
	}
}

double
serm_select_quantile(float *values, float *scratch, size_t count, double quantile)
{
	double place = quantile * (double) (count - 1);
	size_t below = (size_t) place;

	SERM_ASSERT(count > 0 && quantile >= 0.0 && quantile <= 1.0);
	sort_floats(values, scratch, count);
	if (below + 1 >= count)
		return values[count - 1];
	return values[below] + (place - (double) below) * ((double) values[below + 1] - values[below]);
}

void
serm_select_ranks(const float *values, size_t count, float *scratch, float *rank)
{
	float *sorted = scratch;

	memcpy(sorted, values, count * sizeof(float));
	sort_floats(sorted, scratch + count, count);
	for (size_t i = 0; i < count; i++) {
		size_t low = 0, high = count;

		while (low < high) {
			size_t middle = low + (high - low) / 2;

			if (sorted[middle] <= values[i])
				low = middle + 1;
			else
				high = middle;
		}
		rank[i] = (float) ((double) low / (double) count);
	}
}

void
serm_similarity_add(SermSimilarity *similarity, uint64_t feature, int32_t weight)
{
	uint64_t bits = serm_hash_mix(feature);

	for (int bit = 0; bit < 64; bit++)
		similarity->sums[bit] += (bits >> bit & 1) != 0 ? weight : -weight;
}

uint64_t
serm_similarity_signature(const SermSimilarity *similarity)
{
	uint64_t signature = 0;

	for (int bit = 0; bit < 64; bit++)
		signature |= (uint64_t) (similarity->sums[bit] > 0) << bit;
	return signature;
}

static bool
comes_before(const Offer *a, const Offer *b)
{
	if (a->weight != b->weight)
		return a->weight > b->weight;
	if (a->key != b->key)
		return a->key < b->key;
	return a->candidate < b->candidate;
}

/* Restore the heap (the first offer at the root) below `at`. */
static void
sift_down(Offer *heap, uint32_t count, uint32_t at)
{
	Offer moved = heap[at];

	for (;;) {
		uint64_t child = 2 * (uint64_t) at + 1;

		if (child >= count)
			break;
		if (child + 1 < count && comes_before(&heap[child + 1], &heap[child]))
			child++;
		if (!comes_before(&heap[child], &moved))
			break;
		heap[at] = heap[child];
		at = (uint32_t) child;
	}
	heap[at] = moved;
}

static uint32_t
band_of(uint64_t signature, int band)
{
	return (uint32_t) band * BAND_VALUES + (uint32_t) (signature >> (16 * band) & (BAND_VALUES - 1));
}

/* Is something chosen nearly the same? */
static bool
is_copy(const Choosing *choosing, uint32_t candidate)
{
	uint64_t signature = choosing->candidates[candidate].signature;

	for (int band = 0; choosing->band_head != NULL && band < BANDS; band++)
		for (uint32_t other = choosing->band_head[band_of(signature, band)]; other != NONE;
		     other = choosing->band_next[(size_t) band * choosing->candidate_count + other])
			if (__builtin_popcountll(choosing->candidates[other].signature ^ signature) <= COPY_BITS)
				return true;
	return false;
}

static void
choose_one(Choosing *choosing, uint32_t candidate, SermChoice as)
{
	uint64_t signature = choosing->candidates[candidate].signature;

	choosing->choice[candidate] = (uint8_t) as;
	choosing->taken[choosing->candidates[candidate].query]++;
	for (int band = 0; choosing->band_head != NULL && band < BANDS; band++) {
		uint32_t *head = &choosing->band_head[band_of(signature, band)];

		choosing->band_next[(size_t) band * choosing->candidate_count + candidate] = *head;
		*head = candidate;
	}
}

/*
 * Take offers in order, at most `wanted` in all and per_query of each query. A
 * heap, not a sort: it orders only what is looked at and can stop at any step.
 */
static SermStatus
take(Choosing *choosing, Offer *offers, uint32_t offer_count, uint32_t wanted, SermChoice as, uint32_t *taken,
    SermError *error)
{
	*taken = 0;
	for (uint32_t i = offer_count / 2; i > 0; i--) {
		if (!may_go_on(choosing, i - 1))
			return serm_fail(error, SERM_ERR_CANCELED, "the selection was canceled");
		sift_down(offers, offer_count, i - 1);
	}
	while (offer_count > 0 && *taken < wanted) {
		uint32_t chosen = offers[0].candidate;
		uint32_t query = choosing->candidates[chosen].query;

		if (choosing->choice[chosen] == SERM_CHOICE_NONE && choosing->taken[query] < choosing->per_query) {
			if (is_copy(choosing, chosen))
				choosing->copies++;
			else {
				choose_one(choosing, chosen, as);
				(*taken)++;
			}
		}
		offers[0] = offers[--offer_count];
		if (offer_count > 0)
			sift_down(offers, offer_count, 0);
		if (!may_go_on(choosing, offer_count))
			return serm_fail(error, SERM_ERR_CANCELED, "the selection was canceled");
	}
	return SERM_OK;
}

/* Which of the candidates a quota is about; all where both are at rest. */
typedef struct Filter {
	uint32_t agents;  /* one of these bits; 0: any */
	uint32_t segment; /* NONE: any */
} Filter;

static bool
passes(const SermCandidate *candidate, Filter filter)
{
	return (filter.agents == 0 || (candidate->agents & filter.agents) != 0) &&
	       (filter.segment == NONE || candidate->segment == filter.segment);
}

static uint32_t
offer_picked(const Choosing *choosing, double temperature, uint64_t seed, Filter filter, Offer *offers)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < choosing->candidate_count; i++) {
		const SermCandidate *candidate = &choosing->candidates[i];
		double weight = candidate->priority;

		if (!candidate->picked || !passes(candidate, filter))
			continue;
		if (temperature > 0)
			weight = weight / temperature - log(-log(chance_of(candidate->key, seed ^ PICK_STREAM)));
		offers[count++] = (Offer){weight, candidate->key, i};
	}
	return count;
}

static uint32_t
offer_all(const Choosing *choosing, uint64_t seed, Filter filter, Offer *offers)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < choosing->candidate_count; i++) {
		uint64_t key = choosing->candidates[i].key;

		if (passes(&choosing->candidates[i], filter))
			offers[count++] = (Offer){chance_of(key, seed), key, i};
	}
	return count;
}

/* The least cap >= PER_QUERY_MIN under which the eligible pairs fill the budget; `available` is scratch. */
static uint32_t
fitting_cap(const Choosing *choosing, bool picked_only, uint32_t budget, uint32_t *available)
{
	uint32_t low = PER_QUERY_MIN, high = PER_QUERY_MIN;

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
		uint64_t total = 0;

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
	for (uint32_t i = 0; i < options->agent_quota_count; i++)
		if (options->agent_quota[i].of >= 32 || !(options->agent_quota[i].share >= 0.0) ||
		    options->agent_quota[i].share > 1.0)
			return serm_fail(error, SERM_ERR_INVALID, "the quota of an agent must be within [0, 1]");
	for (uint32_t i = 0; i < options->segment_quota_count; i++)
		if (!(options->segment_quota[i].share >= 0.0) || options->segment_quota[i].share > 1.0)
			return serm_fail(error, SERM_ERR_INVALID, "the quota of a segment must be within [0, 1]");
	for (uint32_t i = 0; i < candidate_count; i++)
		if (candidates[i].query >= query_count || !isfinite(candidates[i].priority))
			return serm_fail(error, SERM_ERR_INVALID, "candidate %u has query %u of %u and priority %g", i,
			    candidates[i].query, query_count, candidates[i].priority);
	return SERM_OK;
}

static const Filter everything = {0, NONE};

/* What of the choice made so far a quota is about; explored pairs count for segments, not for agents. */
static uint32_t
count_chosen(const Choosing *choosing, Filter filter)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < choosing->candidate_count; i++)
		count += choosing->choice[i] != SERM_CHOICE_NONE &&
		         (filter.agents == 0 || choosing->choice[i] == SERM_CHOICE_PICKED) &&
		         passes(&choosing->candidates[i], filter);
	return count;
}

/* Fill one quota; `left` is what remains of the budget. */
static SermStatus
fill_quota(Choosing *choosing, const SermSelectOptions *options, Filter filter, uint32_t slots, Offer *offers,
    uint32_t *left, SermError *error)
{
	uint32_t chosen = count_chosen(choosing, filter), wanted, count, taken;
	SermStatus status;

	if (chosen >= slots || *left == 0)
		return SERM_OK;
	wanted = slots - chosen < *left ? slots - chosen : *left;
	count = offer_picked(choosing, options->temperature, options->seed, filter, offers);
	status = take(choosing, offers, count, wanted, SERM_CHOICE_PICKED, &taken, error);
	*left -= taken;
	if (status == SERM_OK && filter.agents == 0 && taken < wanted) {
		wanted -= taken;
		count = offer_all(choosing, options->seed, filter, offers);
		status = take(choosing, offers, count, wanted, SERM_CHOICE_SEGMENT, &taken, error);
		*left -= taken;
	}
	return status;
}

static SermStatus
fill_quotas(Choosing *choosing, const SermSelectOptions *options, uint32_t budget, Offer *offers,
    uint32_t *left, SermError *error)
{
	SermStatus status = SERM_OK;

	for (uint32_t i = 0; i < options->agent_quota_count && status == SERM_OK; i++)
		status = fill_quota(choosing, options, (Filter){UINT32_C(1) << options->agent_quota[i].of, NONE},
		    (uint32_t) lround(options->agent_quota[i].share * budget), offers, left, error);
	for (uint32_t i = 0; i < options->segment_quota_count && status == SERM_OK; i++)
		status = fill_quota(choosing, options, (Filter){0, options->segment_quota[i].of},
		    (uint32_t) lround(options->segment_quota[i].share * budget), offers, left, error);
	return status;
}

static SermStatus
choose(Choosing *choosing, const SermSelectOptions *options, Offer *offers, SermSelection *selection,
    SermError *error)
{
	uint32_t budget =
	    options->budget < choosing->candidate_count ? options->budget : choosing->candidate_count;
	uint32_t share = (uint32_t) lround(options->explore * budget);
	uint32_t explored = 0, picked = 0, filled = 0, count, left;
	SermStatus status;

	/* Chance first: what it draws is then a fair sample of the stream, whatever the agents like. */
	count = offer_all(choosing, options->seed, everything, offers);
	status = take(choosing, offers, count, share, SERM_CHOICE_EXPLORED, &explored, error);
	left = budget - explored;
	if (status == SERM_OK)
		status = fill_quotas(choosing, options, budget, offers, &left, error);
	if (status != SERM_OK)
		return status;
	count = offer_picked(choosing, options->temperature, options->seed, everything, offers);
	status = take(choosing, offers, count, left, SERM_CHOICE_PICKED, &picked, error);
	if (status != SERM_OK)
		return status;
	left -= picked;
	if (options->explore > 0.0 && left > 0) {
		count = offer_all(choosing, options->seed, everything, offers);
		status = take(choosing, offers, count, left, SERM_CHOICE_EXPLORED, &filled, error);
	}
	selection->explored = explored + filled;
	selection->chosen = budget - left + filled;
	selection->copies = choosing->copies;
	return status;
}

/* Tables for finding near copies of what is chosen. */
static bool
prepare_bands(Choosing *choosing, SermArena *arena)
{
	choosing->band_head = serm_arena_reserve(arena, (size_t) BANDS * BAND_VALUES * sizeof(uint32_t));
	choosing->band_next = serm_arena_array(arena, choosing->candidate_count, BANDS * sizeof(uint32_t));
	if (choosing->band_head == NULL || choosing->band_next == NULL)
		return false;
	memset(choosing->band_head, 0xff, (size_t) BANDS * BAND_VALUES * sizeof(uint32_t));
	return true;
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
	if (choosing.choice == NULL || choosing.taken == NULL || available == NULL || offers == NULL ||
	    (options->distinct && !prepare_bands(&choosing, arena)))
		return serm_fail(error, SERM_ERR_MEMORY, "no memory to select from %u pairs", candidate_count);

	if (choosing.per_query == 0)
		choosing.per_query = fitting_cap(&choosing, options->explore == 0.0, options->budget, available);
	status = choose(&choosing, options, offers, selection, error);
	serm_arena_rewind(arena, mark);
	selection->choice = choosing.choice;
	selection->per_query = choosing.per_query;
	return status;
}
