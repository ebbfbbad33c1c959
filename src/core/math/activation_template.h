/*
 * The functions of activation.h, written once over vectors of VECTOR_BYTES and
 * included by activation.c for each instruction set; not a header in the usual
 * sense. The includer defines VECTOR_BYTES, TARGET, NAMED(name), and for vectors of that width ROOT, CLAMP,
 * MOST (the larger lanes of two), TOTAL (of the lanes) and TOP (the largest lane).
 *
 * The end of an array that fills no vector is computed in a copy of a whole
 * one, so a number has the same bits wherever it lies.
 */
#define LANES (VECTOR_BYTES / sizeof(SermReal))
#define VECTOR NAMED(Reals)
#define BITS NAMED(Integers)
#define LOAD(pointer) (*(const VECTOR *) (pointer))
#define STORE(pointer) (*(VECTOR *) (pointer))
#define NONE ((VECTOR){0})
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef SermReal VECTOR __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(SermReal)), may_alias));
#ifdef SERM_REAL_DOUBLE
typedef uint64_t BITS __attribute__((vector_size(VECTOR_BYTES), may_alias));
#else
typedef uint32_t BITS __attribute__((vector_size(VECTOR_BYTES), may_alias));
#endif

/* Lanes of `yes` where the mask is all ones, of `no` where it is 0. */
#define SELECT(mask, yes, no) ((VECTOR) (((BITS) (yes) & (BITS) (mask)) | ((BITS) (no) & ~(BITS) (mask))))

#ifdef SERM_REAL_DOUBLE
INLINE void
NAMED(exp)(VECTOR *x)
{
	for (size_t i = 0; i < LANES; i++)
		(*x)[i] = exp((*x)[i]);
}

INLINE void
NAMED(phi)(const VECTOR *x, VECTOR *y)
{
	for (size_t i = 0; i < LANES; i++)
		(*y)[i] = 0.5 * erfc(-(*x)[i] * SQRT_HALF);
}
#else
/* exp: 2^n e^r with |r| <= ln 2 / 2 and the Taylor polynomial of degree 7, whose rest is below 1e-8 there. */
INLINE void
NAMED(exp)(VECTOR *x)
{
	VECTOR low = NONE + EXP_LOW, high = NONE + EXP_HIGH, t, r, p;

	CLAMP(*x, low, high);
	/* Adding 1.5 x 2^23 leaves the rounded number in the low bits. */
	t = *x * LOG2_E + ROUNDER;
	r = t - ROUNDER;
	r = *x - r * LN2_HIGH - r * LN2_LOW;
	p = r * (1.f / 5040) + 1.f / 720;
	p = p * r + 1.f / 120;
	p = p * r + 1.f / 24;
	p = p * r + 1.f / 6;
	p = p * r + .5f;
	p = p * r + 1;
	p = p * r + 1;
	*x = p * (VECTOR) (((BITS) t - ROUNDER_BITS + 127) << 23);
}

/*
 * Phi(x) = 1/2 + x P(x^2) / Q(x^2) on |x| <= 5.5, where what is left of the tail is below 2e-8. Our own fit:
 * least squares over Chebyshev nodes, reweighted until the largest error stopped falling at 2e-8.
 */
INLINE void
NAMED(phi)(const VECTOR *value, VECTOR *y)
{
	VECTOR x = *value, low = NONE - PHI_LIMIT, high = NONE + PHI_LIMIT, t, p, q;

	CLAMP(x, low, high);
	t = x * x;
	p = t * 2.22161633e-08f + 6.53034376e-06f;
	p = p * t + 1.8283521e-04f;
	p = p * t + 4.76148215e-03f;
	p = p * t + 3.51403106e-02f;
	p = p * t + 3.98941986e-01f;
	q = t * 1.19537454e-06f + 7.8601525e-05f;
	q = q * t + 1.96231016e-03f;
	q = q * t + 2.93975076e-02f;
	q = q * t + 2.5474729e-01f;
	q = q * t + 1;
	*y = x * p / q + .5f;
}
#endif

/* sigma(x) */
INLINE void
NAMED(sigma)(const VECTOR *x, VECTOR *y)
{
	VECTOR e = -*x;

	NAMED(exp)(&e);
	*y = 1 / (1 + e);
}

INLINE void
NAMED(curve_at)(SermCurve curve, const VECTOR *value, VECTOR *y)
{
	VECTOR x = *value, s;

	if (curve == SERM_CURVE_GELU) {
		NAMED(phi)(&x, &s);
		*y = x * s;
	} else if (curve == SERM_CURVE_RELU) {
		*y = SELECT(x > 0, x, x - x);
	} else {
		VECTOR u = x;

		if (curve != SERM_CURVE_SILU)
			u *= TANH_SLOPE + TANH_CUBE * x * x;
		NAMED(sigma)(&u, &s);
		*y = x * s;
	}
}

/* The derivative of x s(u(x)): s + x s' u'. */
INLINE void
NAMED(slope_at)(SermCurve curve, const VECTOR *value, VECTOR *y)
{
	VECTOR x = *value, s;

	if (curve == SERM_CURVE_GELU) {
		VECTOR density = x * x * (SermReal) -.5;

		NAMED(exp)(&density);
		NAMED(phi)(&x, &s);
		*y = s + x * density * DENSITY_AT_0;
	} else if (curve == SERM_CURVE_RELU) {
		*y = SELECT(x > 0, NONE + 1, x - x);
	} else {
		VECTOR u = x, slope = NONE + 1;

		if (curve != SERM_CURVE_SILU) {
			u *= TANH_SLOPE + TANH_CUBE * x * x;
			slope = TANH_SLOPE + 3 * TANH_CUBE * x * x;
		}
		NAMED(sigma)(&u, &s);
		*y = s + x * s * (1 - s) * slope;
	}
}

INLINE void
NAMED(curve_of)(SermCurve curve, const SermReal *x, SermReal *y, size_t n)
{
	VECTOR v;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES) {
		v = LOAD(x + i);
		NAMED(curve_at)(curve, &v, &v);
		STORE(y + i) = v;
	}
	if (i < n) {
		v = (VECTOR){0};
		memcpy(&v, x + i, (n - i) * sizeof(SermReal));
		NAMED(curve_at)(curve, &v, &v);
		memcpy(y + i, &v, (n - i) * sizeof(SermReal));
	}
}

/* `curve` is a constant at each place that calls. */
static TARGET void
NAMED(curve)(SermCurve curve, const SermReal *x, SermReal *y, size_t n)
{
	if (curve == SERM_CURVE_GELU)
		NAMED(curve_of)(SERM_CURVE_GELU, x, y, n);
	else if (curve == SERM_CURVE_GELU_TANH)
		NAMED(curve_of)(SERM_CURVE_GELU_TANH, x, y, n);
	else if (curve == SERM_CURVE_RELU)
		NAMED(curve_of)(SERM_CURVE_RELU, x, y, n);
	else
		NAMED(curve_of)(SERM_CURVE_SILU, x, y, n);
}

static TARGET void
NAMED(curve_back)(SermCurve curve, const SermReal *x, SermReal *d, size_t n)
{
	for (size_t i = 0; i < n; i += LANES) {
		size_t count = n - i < LANES ? n - i : LANES;
		VECTOR v = {0}, slope, gradient = {0};

		memcpy(&v, x + i, count * sizeof(SermReal));
		memcpy(&gradient, d + i, count * sizeof(SermReal));
		NAMED(slope_at)(curve, &v, &slope);
		gradient *= slope;
		memcpy(d + i, &gradient, count * sizeof(SermReal));
	}
}

INLINE SermReal
NAMED(sum_of)(const VECTOR *value)
{
	VECTOR v = *value;
	SermReal total;

	TOTAL(v, total);
	return total;
}

static TARGET SermReal
NAMED(softmax)(SermReal *x, size_t n, SermReal scale)
{
	size_t whole = (n + LANES - 1) / LANES * LANES,
	       room = (n + SERM_ROW_ROOM - 1) / SERM_ROW_ROOM * SERM_ROW_ROOM;
	VECTOR most, sum = {0};
	SermReal top;

	for (size_t i = n; i < room; i++)
		x[i] = x[0];
	most = LOAD(x);
	for (size_t i = LANES; i < whole; i += LANES)
		MOST(most, LOAD(x + i));
	TOP(most, top);
	for (size_t i = 0; i < whole; i += LANES) {
		VECTOR v = (LOAD(x + i) - top) * scale;

		NAMED(exp)(&v);
		STORE(x + i) = v;
		if (i + LANES <= n)
			sum += v;
	}
	for (size_t i = n; i < room; i++)
		x[i] = 0;
	if (n % LANES != 0)
		sum += LOAD(x + whole - LANES);
	return NAMED(sum_of)(&sum);
}

static TARGET void
NAMED(softmax_back)(const SermReal *p, SermReal *d, size_t n, SermReal scale)
{
	VECTOR sum = {0};
	SermReal mean;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		sum += LOAD(p + i) * LOAD(d + i);
	mean = NAMED(sum_of)(&sum);
	for (; i < n; i++)
		mean += p[i] * d[i];
	for (i = 0; i + LANES <= n; i += LANES)
		STORE(d + i) = LOAD(p + i) * (LOAD(d + i) - mean) * scale;
	for (; i < n; i++)
		d[i] = p[i] * (d[i] - mean) * scale;
}

static TARGET void
NAMED(scale)(SermReal *x, size_t n, SermReal factor)
{
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		STORE(x + i) = LOAD(x + i) * factor;
	for (; i < n; i++)
		x[i] *= factor;
}

static TARGET void
NAMED(add)(const SermReal *x, SermReal *y, size_t n)
{
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		STORE(y + i) = LOAD(x + i) + LOAD(y + i);
	for (; i < n; i++)
		y[i] += x[i];
}

static TARGET void
NAMED(drop)(uint64_t seed, uint32_t limit, SermReal scale, SermReal *x, size_t n)
{
	uint32_t low = (uint32_t) seed, high = (uint32_t) (seed >> 32);
	size_t i = 0;

#ifndef SERM_REAL_DOUBLE
	BITS index;

	for (uint32_t lane = 0; lane < LANES; lane++)
		index[lane] = lane;
	for (; i + LANES <= n; i += LANES, index += (uint32_t) LANES) {
		BITS h = (index + low) * HASH_SPREAD ^ high;
		VECTOR v = LOAD(x + i) * scale;

		h = (h ^ h >> 16) * HASH_FIRST;
		h = (h ^ h >> 13) * HASH_SECOND;
		h ^= h >> 16;
		STORE(x + i) = SELECT(h >= limit, v, v - v);
	}
#endif
	for (; i < n; i++) {
		uint32_t h = ((uint32_t) i + low) * HASH_SPREAD ^ high;

		h = (h ^ h >> 16) * HASH_FIRST;
		h = (h ^ h >> 13) * HASH_SECOND;
		h ^= h >> 16;
		x[i] = h >= limit ? x[i] * scale : 0;
	}
}

/* The sum of x[i] - center to the power that is asked for, 1 or 2. */
INLINE SermReal
NAMED(moment)(const SermReal *x, size_t n, SermReal center, bool squared)
{
	VECTOR s0 = {0}, s1 = {0};
	SermReal sum;
	size_t i = 0;

	for (; i + 2 * LANES <= n; i += 2 * LANES) {
		VECTOR v0 = LOAD(x + i) - center, v1 = LOAD(x + i + LANES) - center;

		if (squared)
			v0 *= v0, v1 *= v1;
		s0 += v0, s1 += v1;
	}
	s0 += s1;
	sum = NAMED(sum_of)(&s0);
	for (; i < n; i++)
		sum += squared ? (x[i] - center) * (x[i] - center) : x[i] - center;
	return sum;
}

/* Stretches are summed in reals, the stretches in double. */
static TARGET double
NAMED(square_norm)(const SermReal *x, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i += NORM_STRETCH)
		sum += (double) NAMED(moment)(x + i, n - i < NORM_STRETCH ? n - i : NORM_STRETCH, 0, true);
	return sum;
}

static TARGET SermReal
NAMED(layer_norm)(const SermNorm *norm, SermReal *x, const SermReal *residual, SermReal *y, SermReal *hat)
{
	size_t n = norm->n, i = 0;
	SermReal mean, factor;

	if (residual != NULL)
		NAMED(add)(residual, x, n);
	mean = NAMED(moment)(x, n, 0, false) / (SermReal) n;
	factor = 1 / REAL_SQRT(NAMED(moment)(x, n, mean, true) / (SermReal) n + norm->epsilon);
	for (; i + LANES <= n; i += LANES) {
		VECTOR v = (LOAD(x + i) - mean) * factor;

		if (hat != NULL)
			STORE(hat + i) = v;
		v *= LOAD(norm->gamma + i);
		if (norm->beta != NULL)
			v += LOAD(norm->beta + i);
		STORE(y + i) = v;
	}
	for (; i < n; i++) {
		SermReal v = (x[i] - mean) * factor;

		if (hat != NULL)
			hat[i] = v;
		y[i] = norm->beta == NULL ? v * norm->gamma[i] : v * norm->gamma[i] + norm->beta[i];
	}
	return factor;
}

static TARGET void
NAMED(layer_norm_back)(const SermNorm *norm, const SermReal *hat, SermReal factor, const SermReal *d_y,
    SermReal *d_x, SermReal *d_gamma, SermReal *d_beta)
{
	const SermReal *gamma = norm->gamma;
	VECTOR s0 = {0}, s1 = {0};
	SermReal mean, slope;
	size_t n = norm->n, i = 0;

	for (; i + LANES <= n; i += LANES) {
		VECTOR d = LOAD(d_y + i), h = LOAD(hat + i);

		if (d_gamma != NULL)
			STORE(d_gamma + i) = LOAD(d_gamma + i) + d * h;
		if (d_beta != NULL)
			STORE(d_beta + i) = LOAD(d_beta + i) + d;
		d *= LOAD(gamma + i);
		s0 += d;
		s1 += d * h;
	}
	mean = NAMED(sum_of)(&s0), slope = NAMED(sum_of)(&s1);
	for (; i < n; i++) {
		if (d_gamma != NULL)
			d_gamma[i] += d_y[i] * hat[i];
		if (d_beta != NULL)
			d_beta[i] += d_y[i];
		mean += d_y[i] * gamma[i];
		slope += d_y[i] * gamma[i] * hat[i];
	}
	mean /= (SermReal) n, slope /= (SermReal) n;
	for (i = 0; i + LANES <= n; i += LANES)
		STORE(d_x + i) = (LOAD(d_y + i) * LOAD(gamma + i) - mean - LOAD(hat + i) * slope) * factor;
	for (; i < n; i++)
		d_x[i] = (d_y[i] * gamma[i] - mean - hat[i] * slope) * factor;
}

static TARGET void
NAMED(adam_update)(const SermAdamStep *step, size_t n, const SermReal *gradient, SermReal *mean,
    SermReal *square, SermReal *parameters)
{
	SermReal beta1 = step->beta1, beta2 = step->beta2;
	size_t i = 0;

	for (; i + LANES <= n; i += LANES) {
		VECTOR g = LOAD(gradient + i) * step->scale, m = LOAD(mean + i) * beta1 + g * (1 - beta1);
		VECTOR v = LOAD(square + i) * beta2 + g * g * (1 - beta2), root = v;

		STORE(mean + i) = m;
		STORE(square + i) = v;
		ROOT(root);
		STORE(parameters + i) = LOAD(parameters + i) * step->keep - m * step->rate / (root + step->epsilon);
	}
	for (; i < n; i++) {
		SermReal g = gradient[i] * step->scale;

		mean[i] = mean[i] * beta1 + g * (1 - beta1);
		square[i] = square[i] * beta2 + g * g * (1 - beta2);
		parameters[i] =
		    parameters[i] * step->keep - mean[i] * step->rate / (REAL_SQRT(square[i]) + step->epsilon);
	}
}

#undef LANES
#undef VECTOR
#undef BITS
#undef LOAD
#undef STORE
#undef NONE
#undef INLINE
#undef SELECT
#undef ROOT
#undef CLAMP
#undef MOST
#undef TOTAL
#undef TOP
#undef VECTOR_BYTES
#undef TARGET
#undef NAMED
