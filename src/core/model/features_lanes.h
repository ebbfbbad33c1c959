/*
 * Arithmetic on vectors of SERM_LANES words of the query, inline: what calls
 * it is compiled once per instruction set. Vectors pass by pointer, so that no
 * calling convention depends on the set. Private to features*.c.
 *
 * The five kernels of one width are evenly spaced, so two exponentials and a
 * recurrence give them all.
 */
#ifndef SERM_CORE_MODEL_FEATURES_LANES_H
#define SERM_CORE_MODEL_FEATURES_LANES_H

#include <string.h>

#include "core/model/features_parts.h"

/* mu is 1, .8, .6, .4, .2, 0; sigma is .03 for mu = 1, where only equal words count, and .15 else. */
#define SERM_KERNEL_STEP 0.2f
#define SERM_KERNEL_NARROW (1 / (2 * 0.03f * 0.03f))
#define SERM_KERNEL_WIDE (1 / (2 * 0.15f * 0.15f))
#define SERM_KERNEL_EXPONENT_MIN -80.0f

typedef float SermLanes
    __attribute__((vector_size(SERM_LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
/* Unsigned, because adding to an exponent may pass through the sign bit in lanes that are masked out. */
typedef uint32_t SermBits
    __attribute__((vector_size(SERM_LANES * sizeof(uint32_t)), aligned(sizeof(uint32_t)), may_alias));

/*
 * exp(x) in place for x <= 80; 0 below SERM_KERNEL_EXPONENT_MIN. 2^n by the exponent's bits times a
 * polynomial in the rest: relative error below 1e-6 near 0 and 1e-5 at the ends, where the sums do not see
 * it.
 */
static inline __attribute__((always_inline)) void
serm_lanes_exp(SermLanes *x)
{
	/* Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa. */
	const float shift = 12582912.0f;
	SermBits above = (SermBits) (*x > SERM_KERNEL_EXPONENT_MIN);
	SermLanes power = *x * 1.44269504f;
	SermLanes shifted = power + shift;
	SermLanes rest = power - (shifted - shift);
	SermLanes sum = rest * 1.54035304e-4f + 1.33335581e-3f;

	sum = sum * rest + 9.61812911e-3f;
	sum = sum * rest + 5.55041087e-2f;
	sum = sum * rest + 2.40226507e-1f;
	sum = sum * rest + 6.93147181e-1f;
	sum = sum * rest + 1.0f;
	*x = (SermLanes) (((SermBits) sum + ((SermBits) shifted << 23)) & above);
}

/* sums[k] += the kernels of the cosines in one group of lanes with one document word. */
static inline __attribute__((always_inline)) void
serm_lanes_add_kernels(const SermLanes *cosine, SermLanes *sums)
{
	SermLanes x = *cosine;
	SermLanes exact = (x - 1) * (x - 1) * -SERM_KERNEL_NARROW;
	SermLanes kernel = x * x * -SERM_KERNEL_WIDE;
	SermLanes ratio = x * (2 * SERM_KERNEL_STEP * SERM_KERNEL_WIDE);
	SermBits close = (SermBits) (exact > SERM_KERNEL_EXPONENT_MIN);
	uint64_t any[SERM_LANES / 2];

	/* Few words are so close to a word of the query that the narrow kernel is more than 0. */
	memcpy(any, &close, sizeof(any));
	if ((any[0] | any[1] | any[2] | any[3]) != 0) {
		serm_lanes_exp(&exact);
		sums[0] += exact;
	}
	serm_lanes_exp(&kernel);
	serm_lanes_exp(&ratio);
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

/* log(x) in place for x >= 1, after Cephes; exact for 1, relative error below 1e-6. */
static inline __attribute__((always_inline)) void
serm_lanes_log(SermLanes *x)
{
	/* The exponent that leaves a mantissa between sqrt(.5) and sqrt(2). */
	SermBits bits = (SermBits) *x, exponent = (bits - 0x3f3504f3u) >> 23;
	SermLanes scale = __builtin_convertvector(exponent, SermLanes);
	SermLanes m = (SermLanes) (bits - (exponent << 23)) - 1, square = m * m;
	SermLanes sum = m * 7.0376836292e-2f - 1.1514610310e-1f;

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

#endif
