/*
 * Predictions for a set of pairs: by the model that was just trained and still
 * lies in memory, or by a stored version. Both run the same core code, and the
 * checksum over their bits proves it (serm.check_version).
 */
#include "pg/serm.h"

#include <math.h>

#include "core/base/hash.h"
#include "miscadmin.h"
#include "pg/evolve/evolve.h"

static void
make_room(SermHost *host, const SermPairSet *set, uint32 grade_count, SermPredictions *predictions)
{
	size_t count = Max(set->pair_count, 1);
	SermError error = {0};

	*predictions = (SermPredictions){.set = set, .grade_count = grade_count, .finite = true};
	predictions->score = serm_arena_array(&host->arena, count, sizeof(float));
	predictions->probability = serm_arena_array(&host->arena, count * grade_count, sizeof(float));
	predictions->grade = serm_arena_alloc(&host->arena, count);
	predictions->argmax = serm_arena_alloc(&host->arena, count);
	predictions->entropy = serm_arena_array(&host->arena, count, sizeof(float));
	predictions->disagreement = serm_arena_array(&host->arena, count, sizeof(float));
	if (predictions->score == NULL || predictions->probability == NULL || predictions->grade == NULL ||
	    predictions->argmax == NULL || predictions->entropy == NULL || predictions->disagreement == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
}

static void
keep(SermPredictions *predictions, size_t pair, const SermPrediction *prediction)
{
	uint32 grade_count = predictions->grade_count;

	predictions->score[pair] = prediction->score;
	predictions->grade[pair] = (uint8) prediction->grade;
	predictions->argmax[pair] = (uint8) prediction->argmax;
	predictions->entropy[pair] = prediction->entropy;
	predictions->disagreement[pair] = prediction->disagreement;
	predictions->finite &=
	    isfinite(prediction->score) && isfinite(prediction->entropy) && isfinite(prediction->disagreement);
	for (uint32 y = 0; y < grade_count; y++) {
		predictions->probability[pair * grade_count + y] = prediction->probability[y];
		predictions->finite &= isfinite(prediction->probability[y]);
	}
}

void
serm_predict_model(
    SermHost *host, const SermModel *model, const SermPairSet *set, SermPredictions *predictions)
{
	SermArena scratch;
	SermError error = {0};
	size_t pair = 0;

	make_room(host, set, serm_model_grade_count(model), predictions);
	serm_arena_init(&scratch, serm_context_allocator(host->context), SERM_PREDICT_BYTES_MAX);
	while (pair < set->pair_count) {
		SermArenaMark mark = serm_arena_mark(&scratch);
		uint32 query = set->pairs[pair].query;
		SermQuery *parsed;

		serm_check(
		    serm_model_parse_query(model, set->queries[query].utf8, &scratch, &parsed, &error), &error);
		for (; pair < set->pair_count && set->pairs[pair].query == query; pair++) {
			SermPrediction prediction;

			CHECK_FOR_INTERRUPTS();
			serm_host_check(host,
			    serm_model_predict(model, parsed, set->pairs[pair].doc.utf8, &scratch, &prediction, &error),
			    &error);
			keep(predictions, pair, &prediction);
		}
		serm_arena_rewind(&scratch, mark);
	}
	serm_arena_free(&scratch);
}

void
serm_predict_scorer(SermHost *host, SermScorer *scorer, const SermPairSet *set, SermPredictions *predictions)
{
	make_room(host, set, (uint32) serm_scorer_row(scorer)->grade_count, predictions);
	for (size_t pair = 0; pair < set->pair_count; pair++) {
		SermPrediction prediction;

		CHECK_FOR_INTERRUPTS();
		serm_scorer_predict(
		    scorer, set->queries[set->pairs[pair].query].text, set->pairs[pair].doc.text, &prediction);
		keep(predictions, pair, &prediction);
	}
}

static uint32
add_text(uint32 crc, SermText text)
{
	uint64 length = text.length;

	crc = serm_crc32c(crc, &length, sizeof(length));
	return serm_crc32c(crc, text.bytes, text.length);
}

uint32
serm_pairs_crc(const SermPairSet *set)
{
	uint32 crc = 0;

	for (size_t pair = 0; pair < set->pair_count; pair++) {
		crc = add_text(crc, set->queries[set->pairs[pair].query].utf8);
		crc = add_text(crc, set->pairs[pair].doc.utf8);
	}
	return crc;
}

uint32
serm_predictions_crc(const SermPredictions *predictions)
{
	size_t count = predictions->set->pair_count;
	uint32 crc = serm_crc32c(0, predictions->score, count * sizeof(float));

	return serm_crc32c(crc, predictions->probability, count * predictions->grade_count * sizeof(float));
}
