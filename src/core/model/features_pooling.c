/*
 * Interactions of embeddings (S9): kernel pooling after Xiong et al. 2017
 * (K-NRM) over the cosines of query and document words, and the dot product
 * of the idf-weighted mean vectors.
 *
 * Query words lie in lanes and document words meet them one by one. The code
 * exists twice, for AVX2 and for any processor, with the same operations in the
 * same order: the bits are the same.
 */
#include <math.h>
#include <string.h>

#include "core/model/features_lanes.h"
#include "core/model/features_parts.h"

#define WIDTH SERM_EMBEDDING_WIDTH
/* cosines[group][lane] of one unit. */
static inline __attribute__((always_inline)) void
pool(const float *lanes, uint32_t groups, const float *unit, float *cosines)
{
	for (uint32_t group = 0; group < groups; group++) {
		const SermLanes *query = (const SermLanes *) lanes + (size_t) group * WIDTH;
		SermLanes part[4] = {{0}};

		for (int i = 0; i < WIDTH; i += 4) {
			part[0] += query[i] * unit[i];
			part[1] += query[i + 1] * unit[i + 1];
			part[2] += query[i + 2] * unit[i + 2];
			part[3] += query[i + 3] * unit[i + 3];
		}
		((SermLanes *) cosines)[group] = (part[0] + part[1]) + (part[2] + part[3]);
	}
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void
pool_avx2(const float *lanes, uint32_t groups, const float *unit, float *cosines)
{
	pool(lanes, groups, unit, cosines);
}
#endif

static void
pool_portable(const float *lanes, uint32_t groups, const float *unit, float *cosines)
{
	pool(lanes, groups, unit, cosines);
}

bool
serm_pooling_parse(
    const SermEmbedding *embedding, const SermWords *words, SermArena *arena, SermParsedQuery *query)
{
	uint32_t count =
	    query->token_count < SERM_INTERACTION_QUERY_WORDS ? query->token_count : SERM_INTERACTION_QUERY_WORDS;
	float *units = serm_arena_array(arena, (size_t) count * WIDTH, sizeof(float));
	double weight = 0;

	if (count == 0)
		return true;
	query->lane_groups = (count + SERM_LANES - 1) / SERM_LANES;
	query->lanes = serm_arena_array(arena, (size_t) query->lane_groups * WIDTH * SERM_LANES, sizeof(float));
	query->share = serm_arena_array(arena, (size_t) query->lane_groups * SERM_LANES, sizeof(float));
	if (units == NULL || query->lanes == NULL || query->share == NULL ||
	    !serm_embedding_words(embedding, words, count, arena, units))
		return false;
	for (uint32_t i = 0; i < count; i++)
		weight += query->terms[query->tokens[i]].idf;
	for (uint32_t i = 0; i < count; i++) {
		query->share[i] = (float) (query->terms[query->tokens[i]].idf / weight);
		for (uint32_t d = 0; d < WIDTH; d++) {
			float component = units[(size_t) i * WIDTH + d];

			query->lanes[(i / SERM_LANES * WIDTH + d) * SERM_LANES + i % SERM_LANES] = component;
			query->mean[d] += query->share[i] * component;
		}
	}
	return true;
}

bool
serm_pooling_word(const SermParsedQuery *query, const float *unit, float *cosines, float *dot)
{
	float sum = 0;
	bool close = false;

#if defined(__x86_64__)
	if (query->level >= SERM_VECTOR_AVX2)
		pool_avx2(query->lanes, query->lane_groups, unit, cosines);
	else
#endif
		pool_portable(query->lanes, query->lane_groups, unit, cosines);
	for (int i = 0; i < WIDTH; i++)
		sum += query->mean[i] * unit[i];
	*dot = sum;
	for (uint32_t i = 0; i < query->lane_groups * SERM_LANES; i++)
		close |= (cosines[i] - 1) * (cosines[i] - 1) * -SERM_KERNEL_NARROW > SERM_KERNEL_EXPONENT_MIN;
	return close;
}

static inline __attribute__((always_inline)) void
finish(const float *share, uint32_t groups, const float *sums, float *kernels)
{
	SermLanes total[SERM_KERNELS] = {{0}};

	for (uint32_t group = 0; group < groups; group++)
		for (uint32_t k = 0; k < SERM_KERNELS; k++) {
			SermLanes value = ((const SermLanes *) sums)[group * SERM_KERNELS + k] + 1;

			serm_lanes_log(&value);
			total[k] += ((const SermLanes *) share)[group] * value;
		}
	for (uint32_t k = 0; k < SERM_KERNELS; k++) {
		const float *lane = (const float *) &total[k];

		kernels[k] =
		    ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
	}
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void
finish_avx2(const float *share, uint32_t groups, const float *sums, float *kernels)
{
	finish(share, groups, sums, kernels);
}
#endif

static void
finish_portable(const float *share, uint32_t groups, const float *sums, float *kernels)
{
	finish(share, groups, sums, kernels);
}

void
serm_pooling_finish(const SermParsedQuery *query, const float *sums, float *kernels)
{
#if defined(__x86_64__)
	if (query->level >= SERM_VECTOR_AVX2)
		finish_avx2(query->share, query->lane_groups, sums, kernels);
	else
#endif
		finish_portable(query->share, query->lane_groups, sums, kernels);
}
