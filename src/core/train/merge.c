#include "core/train/merge.h"

#include <math.h>
#include <string.h>

/* A tensor of a model by its place in the struct of its heads, and its values per head. */
typedef struct Layer {
	const SermReal *(*of)(const SermInteractionParts *parts);
	size_t count;
} Layer;

#define LAYER(name)                                                                                          \
	static const SermReal *of_##name(const SermInteractionParts *parts)                                      \
	{                                                                                                        \
		return parts->heads.name;                                                                            \
	}
LAYER(w1)
LAYER(b1)
LAYER(w2)
LAYER(b2)
LAYER(w3)
LAYER(b3)
LAYER(cuts)
#undef LAYER

static bool
same_bytes(const void *a, const void *b, size_t bytes)
{
	return a == b || bytes == 0 || memcmp(a, b, bytes) == 0;
}

static bool
same_scripts(const SermScriptStatistics *a, const SermScriptStatistics *b)
{
	return a == b ||
	       (a != NULL && b != NULL && memcmp(a, b, SERM_SCRIPTS * sizeof(SermScriptStatistics)) == 0);
}

static bool
same_kin(const SermStatistics *a, const SermStatistics *b)
{
	size_t words = a->word_count * sizeof(uint32_t);

	if (a->word_kin == NULL || b->word_kin == NULL)
		return a->word_kin == b->word_kin;
	return same_bytes(a->word_kin, b->word_kin, words) && same_bytes(a->kin_df, b->kin_df, words);
}

/* What judgments support may differ: each version has its own. */
static bool
same_statistics(const SermStatistics *a, const SermStatistics *b)
{
	size_t words = a->word_count * sizeof(uint32_t), trigrams = a->trigram_count * sizeof(uint32_t);

	return a->word_count == b->word_count && same_bytes(a->word_id, b->word_id, words) &&
	       same_bytes(a->word_df, b->word_df, words) && same_kin(a, b) &&
	       a->trigram_count == b->trigram_count && same_bytes(a->trigram_id, b->trigram_id, trigrams) &&
	       same_bytes(a->trigram_df, b->trigram_df, trigrams) && a->document_count == b->document_count &&
	       a->title_length == b->title_length && a->body_length == b->body_length &&
	       a->joined_length == b->joined_length && a->spelled_share == b->spelled_share &&
	       same_scripts(a->scripts, b->scripts);
}

/* The slope is a parameter: it may differ. */
static bool
same_guard(const SermGuard *a, const SermGuard *b)
{
	return a->lexical_mean == b->lexical_mean && a->lexical_inverse == b->lexical_inverse &&
	       a->dot_mean == b->dot_mean && a->dot_inverse == b->dot_inverse && a->dot_share == b->dot_share;
}

const char *
serm_merge_difference(const SermInteractionParts *a, const SermInteractionParts *b)
{
	if (a->heads.head_count != b->heads.head_count)
		return "number of heads";
	if (a->heads.grade_count != b->heads.grade_count)
		return "number of grades";
	if (!same_bytes(
	        a->embedding.rows, b->embedding.rows, (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH) ||
	    !same_bytes(a->embedding.scale, b->embedding.scale, SERM_EMBEDDING_ROWS * sizeof(float)))
		return "embeddings";
	if (!same_statistics(&a->statistics, &b->statistics))
		return "statistics";
	if (!same_bytes(a->mean, b->mean, SERM_FEATURES * sizeof(float)) ||
	    !same_bytes(a->inverse, b->inverse, SERM_FEATURES * sizeof(float)) ||
	    !same_guard(&a->guard, &b->guard))
		return "scales";
	return NULL;
}

static SermStatus
merge_layer(const Layer *layer, const SermInteractionParts *ancestor, const SermInteractionParts *models,
    const double *weights, size_t count, SermReal *result, SermError *error)
{
	for (size_t i = 0; i < layer->count; i++) {
		double origin = (double) layer->of(ancestor)[i], sum = origin;

		for (size_t m = 0; m < count; m++)
			sum += weights[m] * ((double) layer->of(&models[m])[i] - origin);
		result[i] = (SermReal) sum;
		if (!(fabs(sum) <= SERM_INTERACTION_NUMBER_MAX))
			return serm_fail(error, SERM_ERR_DIVERGED, "the merged version has a weight out of range");
	}
	return SERM_OK;
}

/* A word is supported as well as in the version that knows it best; in full when one of them says nothing. */
static bool
merge_support(const SermInteractionParts *models, size_t count, SermArena *arena, SermStatistics *merged)
{
	uint8_t *support;

	for (size_t m = 0; m < count; m++)
		if (models[m].statistics.word_support == NULL)
			merged->word_support = NULL;
	if (merged->word_support == NULL)
		return true;
	support = serm_arena_array(arena, merged->word_count, 1);
	if (support == NULL)
		return false;
	memcpy(support, merged->word_support, merged->word_count);
	for (size_t m = 0; m < count; m++)
		for (uint32_t w = 0; w < merged->word_count; w++) {
			uint8_t own = models[m].statistics.word_support[w];

			support[w] = own > support[w] ? own : support[w];
		}
	merged->word_support = support;
	return true;
}

SermStatus
serm_merge(const SermInteractionParts *ancestor, const SermInteractionParts *models, const double *weights,
    size_t count, SermArena *arena, SermInteractionParts *merged, SermError *error)
{
	const SermHeads *heads = &ancestor->heads;
	size_t k = heads->head_count, grades = heads->grade_count;
	SermReal *cuts = serm_arena_array(arena, grades - 1, sizeof(*cuts));
	double slope = (double) ancestor->guard.slope;

	*merged = *ancestor;
	if (!merge_support(models, count, arena, &merged->statistics))
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while merging versions");
	const struct {
		Layer layer;
		const SermReal **result;
	} layers[] = {
	    {{of_w1, k * SERM_HIDDEN1 * heads->input_count}, &merged->heads.w1},
	    {{of_b1, k * SERM_HIDDEN1}, &merged->heads.b1},
	    {{of_w2, k * SERM_HIDDEN2 * SERM_HIDDEN1}, &merged->heads.w2},
	    {{of_b2, k * SERM_HIDDEN2}, &merged->heads.b2},
	    {{of_w3, k * grades * SERM_HIDDEN2}, &merged->heads.w3},
	    {{of_b3, k * grades}, &merged->heads.b3},
	    {{of_cuts, grades - 1}, &merged->heads.cuts},
	};
	for (size_t i = 0; i < SERM_LENGTH(layers); i++) {
		bool last = i + 1 == SERM_LENGTH(layers);
		SermReal *result = last ? cuts : serm_arena_array(arena, layers[i].layer.count, sizeof(*result));
		SermStatus status;

		if (result == NULL)
			return serm_fail(error, SERM_ERR_MEMORY, "out of memory while merging versions");
		status = merge_layer(&layers[i].layer, ancestor, models, weights, count, result, error);
		if (status != SERM_OK)
			return status;
		*layers[i].result = result;
	}
	/* Weights below 0 or above 1 in all may cross them. */
	for (size_t y = 1; y + 1 < grades; y++)
		cuts[y] = cuts[y] < cuts[y - 1] ? cuts[y - 1] : cuts[y];
	for (size_t m = 0; m < count; m++)
		slope += weights[m] * ((double) models[m].guard.slope - (double) ancestor->guard.slope);
	merged->guard.slope = (float) slope;
	return SERM_OK;
}
