/*
 * What lies between the products of a transformer: the curves of its
 * feed-forward layers, softmax, layer normalisation, and their derivatives.
 * One copy per instruction set from activation_template.h. In float GELU is
 * within 3e-7 max(1, |x|) of the truth and exp within 3e-7 of itself; in the
 * double build both are the C library's.
 *
 * The bits of a row depend on that row alone.
 */
#ifndef SERM_CORE_MATH_ACTIVATION_H
#define SERM_CORE_MATH_ACTIVATION_H

#include "core/base/real.h"
#include "core/base/status.h"

typedef enum SermCurve {
	SERM_CURVE_GELU = 0,  /* x Phi(x), with the error function */
	SERM_CURVE_GELU_TANH, /* x sigma(2 sqrt(2 / pi) (x + .044715 x^3)) */
	SERM_CURVE_RELU,
	SERM_CURVE_SILU, /* x sigma(x) */
	SERM_CURVE_COUNT
} SermCurve;

/* y[i] = curve(x[i]); y may be x. */
extern void serm_curve(SermCurve curve, const SermReal *x, SermReal *y, size_t n);
/* d[i] *= the derivative of the curve at x[i]. */
extern void serm_curve_back(SermCurve curve, const SermReal *x, SermReal *d, size_t n);

/* Rows that softmax works on have room for n rounded up to this. */
#define SERM_ROW_ROOM ((size_t) 32)

/*
 * x[i] = exp(scale (x[i] - max)); returns their sum, at least 1. What lies behind n up to the next multiple
 * of SERM_ROW_ROOM becomes 0. n > 0, scale > 0.
 */
extern SermReal serm_softmax(SermReal *x, size_t n, SermReal scale);
/* d becomes the derivative by what softmax read: p (d - sum of p d) scale, p being the probabilities. */
extern void serm_softmax_back(const SermReal *p, SermReal *d, size_t n, SermReal scale);
extern void serm_scale(SermReal *x, size_t n, SermReal factor);
extern void serm_add(const SermReal *x, SermReal *y, size_t n); /* y += x */

/*
 * Inverted dropout: x[i] becomes 0 with probability `rate`, else x[i] / (1 - rate), by a hash of seed and i:
 * the same call on a gradient is its derivative. 0 <= rate < 1.
 */
extern void serm_drop(uint64_t seed, double rate, SermReal *x, size_t n);

/* Over n channels: y = gamma hat + beta with hat = (x - mean) / sqrt(variance + epsilon). */
typedef struct SermNorm {
	size_t n;
	SermReal epsilon;
	const SermReal *gamma; /* [n] */
	const SermReal *beta;  /* [n] or NULL: none */
} SermNorm;

/* x += residual first, where there is one; y and hat may be x; hat NULL: not wanted. Returns the factor of
 * hat. */
extern SermReal serm_layer_norm(
    const SermNorm *norm, SermReal *x, const SermReal *residual, SermReal *y, SermReal *hat);
/* d_x from d_y, hat and the factor; d_gamma and d_beta [n] are added to where they are not NULL. d_x may be
 * d_y. */
extern void serm_layer_norm_back(const SermNorm *norm, const SermReal *hat, SermReal factor,
    const SermReal *d_y, SermReal *d_x, SermReal *d_gamma, SermReal *d_beta);

/*
 * One update of AdamW on n parameters: the gradient counts `scale` times, `keep` is 1 - rate x decay, `rate`
 * and `epsilon` carry the corrections of the moments.
 */
typedef struct SermAdamStep {
	SermReal beta1, beta2, scale, rate, epsilon, keep;
} SermAdamStep;
extern void serm_adam_update(const SermAdamStep *step, size_t n, const SermReal *gradient, SermReal *mean,
    SermReal *square, SermReal *parameters);

/* The sum of squares. */
extern double serm_square_norm(const SermReal *x, size_t n);

/* For tests: with vectors of 16, 32 or 64 bytes; false when the processor has none so wide. */
extern bool serm_curve_with(size_t vector_bytes, SermCurve curve, const SermReal *x, SermReal *y, size_t n);
extern bool serm_softmax_with(size_t vector_bytes, SermReal *x, size_t n, SermReal scale, SermReal *sum);

#endif
