#include "core/math/activation.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/math/cpu.h"

#define TANH_SLOPE ((SermReal) 1.5957691216057307) /* 2 sqrt(2 / pi) */
#define TANH_CUBE ((SermReal) 0.07135481627260024) /* the same times .044715 */
#define DENSITY_AT_0 ((SermReal) 0.3989422804014327)
/* Odd constants of a finaliser in the manner of murmur: every bit of the index reaches every bit of the hash.
 */
#define HASH_SPREAD 0x9e3779b1u
#define HASH_FIRST 0x85ebca6bu
#define HASH_SECOND 0xc2b2ae35u
#define NORM_STRETCH ((size_t) 4096)
#ifdef SERM_REAL_DOUBLE
#define REAL_SQRT sqrt
#define SQRT_HALF 0.70710678118654752
#else
#define REAL_SQRT sqrtf
/* exp() of less is 0 for every use here, and of more does not occur. */
#define EXP_LOW -87.f
#define EXP_HIGH 88.f
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693145752f /* 15 bits: its product with n is exact */
#define LN2_LOW 1.42860677e-06f
#define ROUNDER 12582912.f
#define ROUNDER_BITS 0x4b400000u
#define PHI_LIMIT 5.5f
#endif

/* Lane by lane, so that it holds for every width. */
#define ROOT_BY_LANE(vector)                                                                                 \
	for (size_t lane = 0; lane < LANES; lane++)                                                              \
	(vector)[lane] = REAL_SQRT((vector)[lane])
#define CLAMP_BY_LANE(vector, low, high)                                                                     \
	((vector) = SELECT((vector) < (low), (low), (vector)),                                                   \
	    (vector) = SELECT((vector) > (high), (high), (vector)))
#define MOST_BY_LANE(vector, other) ((vector) = SELECT((other) > (vector), (other), (vector)))
/* The upper half onto the lower one until one is left: every way below sums in this order. */
#define TOTAL_BY_LANE(vector, total)                                                                         \
	for (size_t half = LANES / 2; half > 0; half /= 2)                                                       \
		for (size_t i = 0; i < half; i++)                                                                    \
			(vector)[i] += (vector)[i + half];                                                               \
	(total) = (vector)[0]
#define TOP_BY_LANE(vector, top)                                                                             \
	(top) = (vector)[0];                                                                                     \
	for (size_t i = 1; i < LANES; i++)                                                                       \
	(top) = (vector)[i] > (top) ? (vector)[i] : (top)

#define VECTOR_BYTES 16
#define TARGET
#define ROOT ROOT_BY_LANE
#define CLAMP CLAMP_BY_LANE
#define MOST MOST_BY_LANE
#define TOTAL TOTAL_BY_LANE
#define TOP TOP_BY_LANE
#define NAMED(name) name##_16
#include "core/math/activation_template.h"

#if defined(__x86_64__)
#ifdef SERM_REAL_DOUBLE
#define ROOT_32 ROOT_BY_LANE
#define ROOT_64 ROOT_BY_LANE
#define CLAMP_32 CLAMP_BY_LANE
#define MOST_32 MOST_BY_LANE
#define CLAMP_64 CLAMP_BY_LANE
#define MOST_64 MOST_BY_LANE
#define TOTAL_32 TOTAL_BY_LANE
#define TOTAL_64 TOTAL_BY_LANE
#define TOP_32 TOP_BY_LANE
#define TOP_64 TOP_BY_LANE
#else
#define ROOT_32(vector) ((vector) = (Reals_32) _mm256_sqrt_ps((__m256) (vector)))
#define ROOT_64(vector) ((vector) = (Reals_64) _mm512_sqrt_ps((__m512) (vector)))
/* In this order of arguments what is not a number stays so. */
#define CLAMP_32(vector, low, high)                                                                          \
	((vector) = (Reals_32) _mm256_min_ps((__m256) (high), _mm256_max_ps((__m256) (low), (__m256) (vector))))
#define CLAMP_64(vector, low, high)                                                                          \
	((vector) = (Reals_64) _mm512_min_ps((__m512) (high), _mm512_max_ps((__m512) (low), (__m512) (vector))))
#define MOST_32(vector, other) ((vector) = (Reals_32) _mm256_max_ps((__m256) (other), (__m256) (vector)))
#define MOST_64(vector, other) ((vector) = (Reals_64) _mm512_max_ps((__m512) (other), (__m512) (vector)))

/* The four of a quarter vector, folded twice. */
#define FOLD(four, combine)                                                                                  \
	combine##_ss(combine##_ps(four, _mm_movehl_ps(four, four)),                                              \
	    _mm_movehdup_ps(combine##_ps(four, _mm_movehl_ps(four, four))))

static inline __attribute__((always_inline)) SERM_TARGET_32 float
total_of_32(__m256 v)
{
	__m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	return _mm_cvtss_f32(FOLD(four, _mm_add));
}

static inline __attribute__((always_inline)) SERM_TARGET_32 float
top_of_32(__m256 v)
{
	__m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));

	return _mm_cvtss_f32(FOLD(four, _mm_max));
}

#define HALF_64(v, high)                                                                                     \
	((high) ? _mm512_extractf32x8_ps((__m512) (v), 1) : _mm512_castps512_ps256((__m512) (v)))
#define TOTAL_32(vector, total) ((total) = total_of_32((__m256) (vector)))
#define TOP_32(vector, top) ((top) = top_of_32((__m256) (vector)))
#define TOTAL_64(vector, total) ((total) = total_of_32(_mm256_add_ps(HALF_64(vector, 0), HALF_64(vector, 1))))
#define TOP_64(vector, top) ((top) = top_of_32(_mm256_max_ps(HALF_64(vector, 0), HALF_64(vector, 1))))
#endif
#define VECTOR_BYTES 32
#define TARGET SERM_TARGET_32
#define ROOT ROOT_32
#define CLAMP CLAMP_32
#define MOST MOST_32
#define TOTAL TOTAL_32
#define TOP TOP_32
#define NAMED(name) name##_32
#include "core/math/activation_template.h"

#define VECTOR_BYTES 64
#define TARGET SERM_TARGET_64
#define ROOT ROOT_64
#define CLAMP CLAMP_64
#define MOST MOST_64
#define TOTAL TOTAL_64
#define TOP TOP_64
#define NAMED(name) name##_64
#include "core/math/activation_template.h"

#define CHOOSE(width, name, ...)                                                                             \
	((width) == 64 ? name##_64(__VA_ARGS__) : (width) == 32 ? name##_32(__VA_ARGS__) : name##_16(__VA_ARGS__))
#else
#define CHOOSE(width, name, ...) name##_16(__VA_ARGS__)
#endif
#define BEST serm_cpu_vector_bytes()

bool
serm_curve_with(size_t vector_bytes, SermCurve curve, const SermReal *x, SermReal *y, size_t n)
{
	if (vector_bytes > BEST)
		return false;
	CHOOSE(vector_bytes, curve, curve, x, y, n);
	return true;
}

bool
serm_softmax_with(size_t vector_bytes, SermReal *x, size_t n, SermReal scale, SermReal *sum)
{
	if (vector_bytes > BEST)
		return false;
	*sum = CHOOSE(vector_bytes, softmax, x, n, scale);
	return true;
}

void
serm_curve(SermCurve curve, const SermReal *x, SermReal *y, size_t n)
{
	CHOOSE(BEST, curve, curve, x, y, n);
}

void
serm_curve_back(SermCurve curve, const SermReal *x, SermReal *d, size_t n)
{
	CHOOSE(BEST, curve_back, curve, x, d, n);
}

SermReal
serm_softmax(SermReal *x, size_t n, SermReal scale)
{
	return CHOOSE(BEST, softmax, x, n, scale);
}

void
serm_softmax_back(const SermReal *p, SermReal *d, size_t n, SermReal scale)
{
	CHOOSE(BEST, softmax_back, p, d, n, scale);
}

void
serm_scale(SermReal *x, size_t n, SermReal factor)
{
	CHOOSE(BEST, scale, x, n, factor);
}

void
serm_add(const SermReal *x, SermReal *y, size_t n)
{
	CHOOSE(BEST, add, x, y, n);
}

void
serm_drop(uint64_t seed, double rate, SermReal *x, size_t n)
{
	uint32_t limit = (uint32_t) (rate * 4294967296.0);
	SermReal scale = (SermReal) (1 / (1 - rate));

	SERM_ASSERT(rate >= 0 && rate < 1);
	CHOOSE(BEST, drop, seed, limit, scale, x, n);
}

SermReal
serm_layer_norm(const SermNorm *norm, SermReal *x, const SermReal *residual, SermReal *y, SermReal *hat)
{
	return CHOOSE(BEST, layer_norm, norm, x, residual, y, hat);
}

void
serm_layer_norm_back(const SermNorm *norm, const SermReal *hat, SermReal factor, const SermReal *d_y,
    SermReal *d_x, SermReal *d_gamma, SermReal *d_beta)
{
	CHOOSE(BEST, layer_norm_back, norm, hat, factor, d_y, d_x, d_gamma, d_beta);
}

void
serm_adam_update(const SermAdamStep *step, size_t n, const SermReal *gradient, SermReal *mean,
    SermReal *square, SermReal *parameters)
{
	CHOOSE(BEST, adam_update, step, n, gradient, mean, square, parameters);
}

double
serm_square_norm(const SermReal *x, size_t n)
{
	return CHOOSE(BEST, square_norm, x, n);
}
