/*
 * The kernels, written once over vectors of VECTOR_BYTES and included by
 * kernels.c for each instruction set; not a header in the usual sense. The
 * includer defines VECTOR_BYTES, TARGET (the function attribute) and
 * NAMED(name), and gets static functions.
 *
 * LANES reals make a vector. Loads are unaligned. Sums run in four vectors
 * that are added as (0 + 1) + (2 + 3), then the lanes by halving.
 */
#define LANES (VECTOR_BYTES / sizeof(SermReal))
#define VECTOR NAMED(Vector)
#define LOAD(pointer) (*(const VECTOR *) (pointer))
#define TILE_COLUMNS (2 * LANES)

typedef SermReal VECTOR __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(SermReal)), may_alias));

/* The sum of the lanes: lane i is added to lane i + half, and again. */
static inline __attribute__((always_inline)) TARGET SermReal
NAMED(lane_sum)(const VECTOR *vector)
{
	SermReal lane[LANES];

	*(VECTOR *) lane = *vector;
	for (size_t half = LANES / 2; half > 0; half /= 2)
		for (size_t i = 0; i < half; i++)
			lane[i] += lane[i + half];
	return lane[0];
}

static TARGET SermReal
NAMED(dot)(const SermReal *x, const SermReal *y, size_t n)
{
	VECTOR s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
	SermReal sum;
	size_t i = 0;

	for (; i + 4 * LANES <= n; i += 4 * LANES) {
		s0 += LOAD(x + i) * LOAD(y + i);
		s1 += LOAD(x + i + LANES) * LOAD(y + i + LANES);
		s2 += LOAD(x + i + 2 * LANES) * LOAD(y + i + 2 * LANES);
		s3 += LOAD(x + i + 3 * LANES) * LOAD(y + i + 3 * LANES);
	}
	for (; i + LANES <= n; i += LANES)
		s0 += LOAD(x + i) * LOAD(y + i);
	s0 = (s0 + s1) + (s2 + s3);
	sum = NAMED(lane_sum)(&s0);
	for (; i < n; i++)
		sum += x[i] * y[i];
	return sum;
}

static TARGET void
NAMED(axpy)(SermReal alpha, const SermReal *x, SermReal *y, size_t n)
{
	size_t i = 0;

	for (; i + LANES <= n; i += LANES)
		*(VECTOR *) (y + i) += alpha * LOAD(x + i);
	for (; i < n; i++)
		y[i] += alpha * x[i];
}

/* serm_affine() never takes the widest vectors. */
#if VECTOR_BYTES < 64
#if VECTOR_BYTES >= 32 || !defined(SERM_REAL_DOUBLE)
/* Halve until four lanes are left. */
static inline __attribute__((always_inline)) TARGET Four
NAMED(to_four)(const VECTOR *vector)
{
	const Four *quarter = (const Four *) vector;
	Four sum = quarter[0];

	if (LANES == 8)
		sum = quarter[0] + quarter[1];
	return sum;
}
#endif

/* The sums of four vectors, each in the order of lane_sum. */
static inline __attribute__((always_inline)) TARGET void
NAMED(sum_four)(const VECTOR *s0, const VECTOR *s1, const VECTOR *s2, const VECTOR *s3, SermReal *sums)
{
#if VECTOR_BYTES >= 32 || !defined(SERM_REAL_DOUBLE)
	Four q0 = NAMED(to_four)(s0), q1 = NAMED(to_four)(s1), q2 = NAMED(to_four)(s2), q3 = NAMED(to_four)(s3);
	Four s01 = __builtin_shufflevector(q0, q1, 0, 4, 1, 5) + __builtin_shufflevector(q0, q1, 2, 6, 3, 7);
	Four s23 = __builtin_shufflevector(q2, q3, 0, 4, 1, 5) + __builtin_shufflevector(q2, q3, 2, 6, 3, 7);

	*(Four *) sums =
	    __builtin_shufflevector(s01, s23, 0, 1, 4, 5) + __builtin_shufflevector(s01, s23, 2, 3, 6, 7);
#else
	sums[0] = NAMED(lane_sum)(s0);
	sums[1] = NAMED(lane_sum)(s1);
	sums[2] = NAMED(lane_sum)(s2);
	sums[3] = NAMED(lane_sum)(s3);
#endif
}

/*
 * Four outputs at a time share the loads of x. What does not fill a vector is
 * read again from the end of the row, against a copy of x that is zero where
 * the vectors before have been.
 */
static TARGET void
NAMED(affine)(
    const SermReal *w, const SermReal *b, const SermReal *x, size_t outputs, size_t inputs, SermReal *y)
{
	size_t whole = inputs / LANES * LANES, rest = inputs - whole;
	SermReal tail[LANES] = {0};
	size_t o = 0;

	if (inputs < LANES) {
		for (; o < outputs; o++) {
			SermReal sum = b[o];

			for (size_t i = 0; i < inputs; i++)
				sum += w[o * inputs + i] * x[i];
			y[o] = sum;
		}
		return;
	}
	for (size_t i = 0; i < rest; i++)
		tail[LANES - rest + i] = x[whole + i];
	for (; o + 4 <= outputs; o += 4) {
		const SermReal *w0 = w + o * inputs, *w1 = w0 + inputs, *w2 = w1 + inputs, *w3 = w2 + inputs;
		VECTOR s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};

		for (size_t i = 0; i < whole; i += LANES) {
			VECTOR v = LOAD(x + i);

			s0 += LOAD(w0 + i) * v;
			s1 += LOAD(w1 + i) * v;
			s2 += LOAD(w2 + i) * v;
			s3 += LOAD(w3 + i) * v;
		}
		if (rest > 0) {
			size_t i = inputs - LANES;

			s0 += LOAD(w0 + i) * LOAD(tail);
			s1 += LOAD(w1 + i) * LOAD(tail);
			s2 += LOAD(w2 + i) * LOAD(tail);
			s3 += LOAD(w3 + i) * LOAD(tail);
		}
		NAMED(sum_four)(&s0, &s1, &s2, &s3, y + o);
		for (size_t i = 0; i < 4; i++)
			y[o + i] += b[o + i];
	}
	for (; o < outputs; o++) {
		const SermReal *row = w + o * inputs;
		VECTOR s0 = {0};

		for (size_t i = 0; i < whole; i += LANES)
			s0 += LOAD(row + i) * LOAD(x + i);
		if (rest > 0)
			s0 += LOAD(row + inputs - LANES) * LOAD(tail);
		y[o] = NAMED(lane_sum)(&s0) + b[o];
	}
}
#endif

/*
 * sums[6][TILE_COLUMNS] = sum over p < k of a[i][p * step] * packed[p][TILE_COLUMNS].
 * Twelve accumulators fill the registers of the smallest set and hide the
 * latency of the largest.
 */
static TARGET void
NAMED(tile)(size_t k, const SermReal *const a[TILE_ROWS], size_t step, const SermReal *packed, SermReal *sums)
{
	const SermReal *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3], *a4 = a[4], *a5 = a[5];
	VECTOR c00 = {0}, c01 = {0}, c10 = {0}, c11 = {0}, c20 = {0}, c21 = {0};
	VECTOR c30 = {0}, c31 = {0}, c40 = {0}, c41 = {0}, c50 = {0}, c51 = {0};

	for (size_t p = 0; p < k; p++, packed += TILE_COLUMNS) {
		VECTOR b0 = LOAD(packed), b1 = LOAD(packed + LANES);
		size_t at = p * step;

		c00 += a0[at] * b0, c01 += a0[at] * b1;
		c10 += a1[at] * b0, c11 += a1[at] * b1;
		c20 += a2[at] * b0, c21 += a2[at] * b1;
		c30 += a3[at] * b0, c31 += a3[at] * b1;
		c40 += a4[at] * b0, c41 += a4[at] * b1;
		c50 += a5[at] * b0, c51 += a5[at] * b1;
	}
#define PUT(row, first, second)                                                                              \
	*(VECTOR *) (sums + (row) *TILE_COLUMNS) = first,                                                        \
	                          *(VECTOR *) (sums + (row) *TILE_COLUMNS + LANES) = second
	PUT(0, c00, c01);
	PUT(1, c10, c11);
	PUT(2, c20, c21);
	PUT(3, c30, c31);
	PUT(4, c40, c41);
	PUT(5, c50, c51);
#undef PUT
}

/* packed[p][TILE_COLUMNS] = op(B)[p0 + p][j0 ...], with zeros beyond the last column. */
static TARGET void
NAMED(pack)(bool transpose, size_t n, size_t k, const SermReal *b, size_t p0, size_t depth, size_t j0,
    size_t columns, SermReal *packed)
{
	for (size_t p = 0; p < depth; p++) {
		SermReal *row = packed + p * TILE_COLUMNS;

		if (transpose)
			for (size_t j = 0; j < columns; j++)
				row[j] = b[(j0 + j) * k + p0 + p];
		else
			memcpy(row, b + (p0 + p) * n + j0, columns * sizeof(SermReal));
		memset(row + columns, 0, (TILE_COLUMNS - columns) * sizeof(SermReal));
	}
}

static TARGET void
NAMED(gemm)(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, const SermReal *a,
    const SermReal *b, SermReal beta, SermReal *c)
{
	SermReal packed[TILE_DEPTH * TILE_COLUMNS] __attribute__((aligned(64)));
	SermReal sums[TILE_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
	size_t row_step = transpose_a ? 1 : k, step = transpose_a ? m : 1;

	for (size_t p0 = 0; p0 < k; p0 += TILE_DEPTH) {
		size_t depth = k - p0 < TILE_DEPTH ? k - p0 : TILE_DEPTH;
		bool add = p0 > 0 || beta != 0;

		for (size_t j0 = 0; j0 < n; j0 += TILE_COLUMNS) {
			size_t columns = n - j0 < TILE_COLUMNS ? n - j0 : TILE_COLUMNS;

			NAMED(pack)(transpose_b, n, k, b, p0, depth, j0, columns, packed);
			for (size_t i0 = 0; i0 < m; i0 += TILE_ROWS) {
				size_t rows = m - i0 < TILE_ROWS ? m - i0 : TILE_ROWS;
				const SermReal *row[TILE_ROWS];

				/* Rows past the end repeat the last one; their sums are not stored. */
				for (size_t i = 0; i < TILE_ROWS; i++)
					row[i] = a + (i0 + (i < rows ? i : rows - 1)) * row_step + p0 * step;
				NAMED(tile)(depth, row, step, packed, sums);
				for (size_t i = 0; i < rows; i++) {
					SermReal *out = c + (i0 + i) * n + j0;
					const SermReal *sum = sums + i * TILE_COLUMNS;

					for (size_t j = 0; j < columns; j++)
						out[j] = add ? out[j] + sum[j] : sum[j];
				}
			}
		}
	}
}

#undef LANES
#undef VECTOR
#undef LOAD
#undef TILE_COLUMNS
#undef VECTOR_BYTES
#undef TARGET
#undef NAMED
