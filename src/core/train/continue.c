#include "core/train/continue.h"

#include <math.h>
#include <string.h>

#include "core/train/failure.h"

/* `values` [count] divided by the temperature; NULL when the arena refuses. */
static const SermReal *
divided(const SermReal *values, size_t count, float temperature, SermArena *arena)
{
	SermReal *result = serm_arena_array(arena, count, sizeof(*result));

	for (size_t i = 0; result != NULL && i < count; i++)
		result[i] = values[i] / (SermReal) temperature;
	return result;
}

SermStatus
serm_continue_open(const SermModel *model, SermArena *arena, SermInteractionParts *parts, SermError *error)
{
	SermHeads *heads = &parts->heads;
	size_t rows;

	if (!serm_interaction_parts(model, parts))
		return serm_fail(
		    error, SERM_ERR_INVALID, "only a model of kind \"%s\" can be continued", SERM_KIND_INTERACTION);
	/* The cache belongs to whoever opened the model. */
	parts->embedding.cache = NULL;
	heads->packed = NULL;
	if (!(heads->temperature > 0))
		return SERM_OK;
	rows = (size_t) heads->head_count * heads->grade_count;
	heads->w3 = divided(heads->w3, rows * SERM_HIDDEN2, heads->temperature, arena);
	heads->b3 = divided(heads->b3, rows, heads->temperature, arena);
	if (heads->w3 == NULL || heads->b3 == NULL)
		return serm_train_out_of_memory(error);
	parts->guard.slope /= heads->temperature;
	heads->temperature = 0;
	return SERM_OK;
}

/* The shares of the origins that have pieces, brought to sum 1; all alike when nothing else is left. */
static void
settle_shares(SermMixture *mixture, const double *share)
{
	double total = 0;

	for (int o = 0; o < SERM_ORIGIN_COUNT; o++)
		if (mixture->start[o + 1] > mixture->start[o])
			total += share[o];
	for (int o = 0; o < SERM_ORIGIN_COUNT; o++) {
		bool any = mixture->start[o + 1] > mixture->start[o];

		mixture->share[o] = !any ? 0 : total > 0 ? share[o] / total : 1;
	}
}

bool
serm_mixture_init(SermMixture *mixture, const uint8_t *origin, const uint32_t *length, uint32_t count,
    const double *share, SermArena *arena)
{
	uint64_t examples[SERM_ORIGIN_COUNT] = {0}, all = 0;
	double wanted;

	*mixture = (SermMixture){.length = length, .deck = serm_arena_array(arena, count, sizeof(uint32_t))};
	if (mixture->deck == NULL)
		return false;
	for (int o = 0; o < SERM_ORIGIN_COUNT; o++) {
		mixture->start[o + 1] = mixture->start[o];
		for (uint32_t i = 0; i < count; i++)
			if (origin[i] == o) {
				mixture->deck[mixture->start[o + 1]++] = i;
				examples[o] += length[i];
			}
		all += examples[o];
	}
	settle_shares(mixture, share);
	wanted = mixture->share[SERM_ORIGIN_NEW] > 0
	             ? ceil((double) examples[SERM_ORIGIN_NEW] / mixture->share[SERM_ORIGIN_NEW])
	             : (double) all;
	mixture->examples = (uint32_t) fmin(wanted, (double) all);
	/* A piece has at least one example. */
	mixture->piece_max = mixture->examples;
	return true;
}

uint32_t
serm_mixture_draw(SermMixture *mixture, SermRng *rng, uint32_t *order)
{
	uint32_t next[SERM_ORIGIN_COUNT], count = 0;
	double taken[SERM_ORIGIN_COUNT] = {0}, total = 0;

	for (int o = 0; o < SERM_ORIGIN_COUNT; o++)
		next[o] = mixture->start[o + 1];
	while (total < mixture->examples) {
		uint32_t piece;
		int chosen = 0;
		double most = -INFINITY;

		/* Whoever lags most behind its share. */
		for (int o = 0; o < SERM_ORIGIN_COUNT; o++)
			if (mixture->share[o] > 0 && mixture->share[o] * (total + 1) - taken[o] > most) {
				most = mixture->share[o] * (total + 1) - taken[o];
				chosen = o;
			}
		if (next[chosen] == mixture->start[chosen + 1]) {
			next[chosen] = mixture->start[chosen];
			serm_rng_shuffle(
			    rng, mixture->deck + next[chosen], mixture->start[chosen + 1] - mixture->start[chosen]);
		}
		piece = mixture->deck[next[chosen]++];
		order[count++] = piece;
		taken[chosen] += mixture->length[piece];
		total += mixture->length[piece];
	}
	return count;
}
