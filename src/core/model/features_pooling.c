/*
 * Interactions of embeddings (S9): kernel pooling after Xiong et al. 2017
 * (K-NRM) over the cosines of query and document words, and the dot product
 * of the idf-weighted mean vectors.
 *
 * Query words lie in lanes and document words meet them one by one. The five
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

/* The kernels of the cosines in one group of lanes with one document word. */
static inline __attribute__((always_inline)) void
kernels_of(const Lanes *cosine, Lanes *kernels)
{
	Lanes x = *cosine;
	Lanes exact = (x - 1) * (x - 1) * -NARROW;
	Lanes kernel = x * x * -WIDE;
	Lanes ratio = x * (2 * STEP * WIDE);

	exp_lanes(&exact);
	exp_lanes(&kernel);
	exp_lanes(&ratio);
	kernels[0] = exact;
	kernels[5] = kernel;
	/* From mu to mu + STEP: times exp(2 STEP WIDE x) exp(-(2 mu STEP + STEP^2) WIDE). */
	kernel = kernel * ratio * 0.411112291f;
	kernels[4] = kernel;
	kernel = kernel * ratio * 0.0694834512f;
	kernels[3] = kernel;
	kernel = kernel * ratio * 0.0117436285f;
	kernels[2] = kernel;
	kernel = kernel * ratio * 0.00198482958f;
	kernels[1] = kernel;
}

/* kernels[group][kernel][lane] of one unit. */
static inline __attribute__((always_inline)) void
pool(const float *lanes, uint32_t groups, const float *unit, float *kernels)
{
	for (uint32_t group = 0; group < groups; group++) {
		const Lanes *query = (const Lanes *) lanes + (size_t) group * WIDTH;
		Lanes part[4] = {{0}};
		Lanes cosine;

		for (int i = 0; i < WIDTH; i += 4) {
			part[0] += query[i] * unit[i];
			part[1] += query[i + 1] * unit[i + 1];
			part[2] += query[i + 2] * unit[i + 2];
			part[3] += query[i + 3] * unit[i + 3];
		}
		cosine = (part[0] + part[1]) + (part[2] + part[3]);
		kernels_of(&cosine, (Lanes *) kernels + (size_t) group * KERNELS);
	}
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void
pool_avx2(const float *lanes, uint32_t groups, const float *unit, float *kernels)
{
	pool(lanes, groups, unit, kernels);
}
#endif

static void
pool_portable(const float *lanes, uint32_t groups, const float *unit, float *kernels)
{
	pool(lanes, groups, unit, kernels);
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
	query->share = serm_arena_array(arena, (size_t) query->lane_groups * LANES, sizeof(float));
	if (units == NULL || query->lanes == NULL || query->share == NULL ||
	    !serm_embedding_words(embedding, words, count, arena, units))
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

void
serm_pooling_word(const SermParsedQuery *query, const float *unit, float *kernels, float *dot)
{
	float sum = 0;

#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		pool_avx2(query->lanes, query->lane_groups, unit, kernels);
	else
#endif
		pool_portable(query->lanes, query->lane_groups, unit, kernels);
	for (int i = 0; i < WIDTH; i++)
		sum += query->mean[i] * unit[i];
	*dot = sum;
}

/* log(x) in place for x >= 1, after Cephes; exact for 1, relative error below 1e-6. */
static inline __attribute__((always_inline)) void
log_lanes(Lanes *x)
{
	/* The exponent that leaves a mantissa between sqrt(.5) and sqrt(2). */
	Bits bits = (Bits) *x, exponent = (bits - 0x3f3504f3u) >> 23;
	Lanes scale = __builtin_convertvector(exponent, Lanes);
	Lanes m = (Lanes) (bits - (exponent << 23)) - 1, square = m * m;
	Lanes sum = m * 7.0376836292e-2f - 1.1514610310e-1f;

	sum = sum * m + 1.1676998740e-1f;
	sum = sum * m - 1.2420140846e-1f;
	sum = sum * m + 1.4249322787e-1f;
	sum = sum * m - 1.6668057665e-1f;
	sum = sum * m + 2.0000714765e-1f;
	sum = sum * m - 2.4999993993e-1f;
	sum = sum * m + 3.3333331174e-1f;
	sum = sum * m * square - 0.5f * square;
	*x = (sum + scale * -2.12194440e-4f + m) + scale * 0.693359375f;
}

static inline __attribute__((always_inline)) void
finish(const float *share, uint32_t groups, const float *sums, float *kernels)
{
	Lanes total[KERNELS] = {{0}};

	for (uint32_t group = 0; group < groups; group++)
		for (uint32_t k = 0; k < KERNELS; k++) {
			Lanes value = ((const Lanes *) sums)[group * KERNELS + k] + 1;

			log_lanes(&value);
			total[k] += ((const Lanes *) share)[group] * value;
		}
	for (uint32_t k = 0; k < KERNELS; k++) {
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
	if (__builtin_cpu_supports("avx2"))
		finish_avx2(query->share, query->lane_groups, sums, kernels);
	else
#endif
		finish_portable(query->share, query->lane_groups, sums, kernels);
}
