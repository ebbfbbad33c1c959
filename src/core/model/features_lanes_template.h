/*
 * What features_lanes.h defines for each width; not a header in the usual sense. The includer defines LANES,
 * FLOATS and BITS (the types of a vector) and NAMED(name).
 */
typedef float FLOATS __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
/* Unsigned, because adding to an exponent may pass through the sign bit in lanes that are masked out. */
typedef uint32_t BITS
    __attribute__((vector_size(LANES * sizeof(uint32_t)), aligned(sizeof(uint32_t)), may_alias));

/*
 * exp(x) in place for x <= 80; 0 below SERM_KERNEL_EXPONENT_MIN. 2^n by the exponent's bits times a
 * polynomial in the rest: relative error below 1e-6 near 0 and 1e-5 at the ends, where the sums do not see
 * it.
 */
static inline __attribute__((always_inline)) void
NAMED(exp)(FLOATS *x)
{
	/* Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa. */
	const float shift = 12582912.0f;
	BITS above = (BITS) (*x > SERM_KERNEL_EXPONENT_MIN);
	FLOATS power = *x * 1.44269504f;
	FLOATS shifted = power + shift;
	FLOATS rest = power - (shifted - shift);
	FLOATS sum = rest * 1.54035304e-4f + 1.33335581e-3f;

	sum = sum * rest + 9.61812911e-3f;
	sum = sum * rest + 5.55041087e-2f;
	sum = sum * rest + 2.40226507e-1f;
	sum = sum * rest + 6.93147181e-1f;
	sum = sum * rest + 1.0f;
	*x = (FLOATS) (((BITS) sum + ((BITS) shifted << 23)) & above);
}

/* sums[0] += the narrow kernel of the cosines in one group of lanes with one document word. */
static inline __attribute__((always_inline)) void
NAMED(add_narrow)(const FLOATS *cosine, FLOATS *sums)
{
	FLOATS exact = (*cosine - 1) * (*cosine - 1) * -SERM_KERNEL_NARROW;

	NAMED(exp)(&exact);
	sums[0] += exact;
}

/* sums[k] += the other kernels of them. */
static inline __attribute__((always_inline)) void
NAMED(add_wide)(const FLOATS *cosine, FLOATS *sums)
{
	FLOATS x = *cosine;
	FLOATS kernel = x * x * -SERM_KERNEL_WIDE;
	FLOATS ratio = x * (2 * SERM_KERNEL_STEP * SERM_KERNEL_WIDE);

	NAMED(exp)(&kernel);
	NAMED(exp)(&ratio);
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
NAMED(log)(FLOATS *x)
{
	/* The exponent that leaves a mantissa between sqrt(.5) and sqrt(2). */
	BITS bits = (BITS) *x, exponent = (bits - 0x3f3504f3u) >> 23;
	FLOATS scale = __builtin_convertvector(exponent, FLOATS);
	FLOATS m = (FLOATS) (bits - (exponent << 23)) - 1, square = m * m;
	FLOATS sum = m * 7.0376836292e-2f - 1.1514610310e-1f;

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

#undef LANES
#undef FLOATS
#undef BITS
#undef NAMED
