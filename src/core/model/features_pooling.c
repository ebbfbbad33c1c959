/*
 * Interactions of embeddings (S9): kernel pooling after Xiong et al. 2017
 * (K-NRM) over the cosines of query and document words, and the dot product
 * of the idf-weighted mean vectors.
 *
 * Query words lie in lanes and document words are streamed past them. The five
 * kernels of one width are evenly spaced, so two exponentials and a recurrence
 * give them all. The code exists twice, for AVX2 and for any processor, with
 * the same operations in the same order: the bits are the same.
 */
#include <math.h>
#include <string.h>

#include "core/model/features_parts.h"

#define WIDTH SERM_EMBEDDING_WIDTH
#define LANES SERM_LANES
#define KERNELS SERM_KERNELS

/* mu is 1, .8, .6, .4, .2, 0; sigma is .03 for mu = 1, where only equal words count, and .15 else. */
#define STEP 0.2f
#define NARROW (1 / (2 * 0.03f * 0.03f))
#define WIDE (1 / (2 * 0.15f * 0.15f))
#define EXPONENT_MIN -80.0f

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
/* Unsigned, because adding to an exponent may pass through the sign bit in lanes that are masked out. */
typedef uint32_t Bits
    __attribute__((vector_size(LANES * sizeof(uint32_t)), aligned(sizeof(uint32_t)), may_alias));

/*
 * exp(x) in place for x <= 80; 0 below EXPONENT_MIN. 2^n by the exponent's bits times a polynomial in
 * the rest: relative error below 1e-6 near 0 and 1e-5 at the ends, where the sums do not see it.
 */
static inline __attribute__((always_inline)) void
exp_lanes(Lanes *x)
{
	/* Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa. */
	const float shift = 12582912.0f;
	Bits above = (Bits) (*x > EXPONENT_MIN);
	Lanes power = *x * 1.44269504f;
	Lanes shifted = power + shift;
	Lanes rest = power - (shifted - shift);
	Lanes sum = rest * 1.54035304e-4f + 1.33335581e-3f;

	sum = sum * rest + 9.61812911e-3f;
	sum = sum * rest + 5.55041087e-2f;
	sum = sum * rest + 2.40226507e-1f;
	sum = sum * rest + 6.93147181e-1f;
	sum = sum * rest + 1.0f;
	*x = (Lanes) (((Bits) sum + ((Bits) shifted << 23)) & above);
}

/* sums[k] += the kernels of the cosines in one group of lanes with one document word. */
static inline __attribute__((always_inline)) void
add_kernels(const Lanes *cosine, Lanes *sums)
{
	Lanes x = *cosine;
	Lanes exact = (x - 1) * (x - 1) * -NARROW;
	Lanes kernel = x * x * -WIDE;
	Lanes ratio = x * (2 * STEP * WIDE);

	exp_lanes(&exact);
	exp_lanes(&kernel);
	exp_lanes(&ratio);
	sums[0] += exact;
	sums[5] += kernel;
	/* From mu to mu + STEP: times exp(2 STEP WIDE x) exp(-(2 mu STEP + STEP^2) WIDE). */
	kernel = kernel * ratio * 0.411112291f;
	sums[4] += kernel;
	kernel = kernel * ratio * 0.0694834512f;
	sums[3] += kernel;
	kernel = kernel * ratio * 0.0117436285f;
	sums[2] += kernel;
	kernel = kernel * ratio * 0.00198482958f;
	sums[1] += kernel;
}

/* sums[group][kernel][lane] over the units of a field. */
static inline __attribute__((always_inline)) void
pool(const float *lanes, uint32_t groups, const float *units, uint32_t count, float *sums)
{
	for (uint32_t group = 0; group < groups; group++) {
		const Lanes *query = (const Lanes *) lanes + (size_t) group * WIDTH;
		Lanes sum[KERNELS] = {{0}};

		for (uint32_t word = 0; word < count; word++) {
			const float *unit = units + (size_t) word * WIDTH;
			Lanes part[4] = {{0}};
			Lanes cosine;

			for (int i = 0; i < WIDTH; i += 4) {
				part[0] += query[i] * unit[i];
				part[1] += query[i + 1] * unit[i + 1];
				part[2] += query[i + 2] * unit[i + 2];
				part[3] += query[i + 3] * unit[i + 3];
			}
			cosine = (part[0] + part[1]) + (part[2] + part[3]);
			add_kernels(&cosine, sum);
		}
		memcpy(sums + (size_t) group * KERNELS * LANES, sum, sizeof(sum));
	}
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void
pool_avx2(const float *lanes, uint32_t groups, const float *units, uint32_t count, float *sums)
{
	pool(lanes, groups, units, count, sums);
}
#endif

static void
pool_portable(const float *lanes, uint32_t groups, const float *units, uint32_t count, float *sums)
{
	pool(lanes, groups, units, count, sums);
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
	query->lane_groups = (count + LANES - 1) / LANES;
	query->lanes = serm_arena_array(arena, (size_t) query->lane_groups * WIDTH * LANES, sizeof(float));
	if (units == NULL || query->lanes == NULL || !serm_embedding_words(embedding, words, count, arena, units))
		return false;
	for (uint32_t i = 0; i < count; i++)
		weight += query->terms[query->tokens[i]].idf;
	for (uint32_t i = 0; i < count; i++) {
		query->share[i] = (float) (query->terms[query->tokens[i]].idf / weight);
		for (uint32_t d = 0; d < WIDTH; d++) {
			float component = units[(size_t) i * WIDTH + d];

			query->lanes[(i / LANES * WIDTH + d) * LANES + i % LANES] = component;
			query->mean[d] += query->share[i] * component;
		}
	}
	return true;
}

static float
mean_dot(const float *mean, const float *units, const float *idf, uint32_t count)
{
	float sum[WIDTH] = {0}, weight = 0, dot = 0;

	for (uint32_t i = 0; i < count; i++) {
		weight += idf[i];
		for (int d = 0; d < WIDTH; d++)
			sum[d] += idf[i] * units[(size_t) i * WIDTH + (size_t) d];
	}
	for (int d = 0; d < WIDTH; d++)
		dot += mean[d] * sum[d];
	return weight > 0 ? dot / weight : 0;
}

bool
serm_pooling_field(const SermEmbedding *embedding, const SermParsedQuery *query, const SermField *field,
    uint32_t window, SermArena *scratch, float *kernels, float *dot)
{
	uint32_t count = field->words.count < window ? field->words.count : window;
	float sums[SERM_INTERACTION_QUERY_WORDS / LANES][KERNELS][LANES];
	float *units = serm_arena_array(scratch, (size_t) count * WIDTH, sizeof(float));

	if (units == NULL || !serm_embedding_words(embedding, &field->words, count, scratch, units))
		return false;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		pool_avx2(query->lanes, query->lane_groups, units, count, &sums[0][0][0]);
	else
#endif
		pool_portable(query->lanes, query->lane_groups, units, count, &sums[0][0][0]);
	for (uint32_t k = 0; k < KERNELS; k++)
		kernels[k] = 0;
	for (uint32_t i = 0; i < query->token_count && i < SERM_INTERACTION_QUERY_WORDS; i++)
		for (uint32_t k = 0; k < KERNELS; k++)
			kernels[k] += query->share[i] * logf(1 + sums[i / LANES][k][i % LANES]);
	*dot = mean_dot(query->mean, units, field->idf, count);
	return true;
}
