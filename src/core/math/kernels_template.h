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
typedef uint32_t NAMED(Bits) __attribute__((vector_size(VECTOR_BYTES), may_alias));

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

static inline __attribute__((always_inline)) TARGET void
NAMED(affine_store)(const VECTOR *sum, bool rectify, SermReal *y)
{
	VECTOR result = *sum;

	if (rectify)
		result = (VECTOR) ((NAMED(Bits)) result & (NAMED(Bits))(result > 0));
	*(VECTOR *) y = result;
}

/*
 * Two vectors of outputs of four products at once: eight sums hide the latency of the additions. Each
 * takes the inputs in order, so it does not depend on what is computed beside it.
 */
static inline __attribute__((always_inline)) TARGET void
NAMED(affine_two)(const SermAffine *const jobs[4], const uint16_t *index, size_t count, size_t outputs,
    size_t at, bool rectify)
{
	const SermReal *w0 = jobs[0]->w + at, *w1 = jobs[1]->w + at, *w2 = jobs[2]->w + at, *w3 = jobs[3]->w + at;
	const SermReal *x0 = jobs[0]->x, *x1 = jobs[1]->x, *x2 = jobs[2]->x, *x3 = jobs[3]->x;
	VECTOR a0 = LOAD(jobs[0]->b + at), b0 = LOAD(jobs[0]->b + at + LANES);
	VECTOR a1 = LOAD(jobs[1]->b + at), b1 = LOAD(jobs[1]->b + at + LANES);
	VECTOR a2 = LOAD(jobs[2]->b + at), b2 = LOAD(jobs[2]->b + at + LANES);
	VECTOR a3 = LOAD(jobs[3]->b + at), b3 = LOAD(jobs[3]->b + at + LANES);

	for (size_t n = 0; n < count; n++) {
		size_t i = index[n], row = i * outputs;

		a0 += LOAD(w0 + row) * x0[i], b0 += LOAD(w0 + row + LANES) * x0[i];
		a1 += LOAD(w1 + row) * x1[i], b1 += LOAD(w1 + row + LANES) * x1[i];
		a2 += LOAD(w2 + row) * x2[i], b2 += LOAD(w2 + row + LANES) * x2[i];
		a3 += LOAD(w3 + row) * x3[i], b3 += LOAD(w3 + row + LANES) * x3[i];
	}
	NAMED(affine_store)
	(&a0, rectify, jobs[0]->y + at), NAMED(affine_store)(&b0, rectify, jobs[0]->y + at + LANES);
	NAMED(affine_store)
	(&a1, rectify, jobs[1]->y + at), NAMED(affine_store)(&b1, rectify, jobs[1]->y + at + LANES);
	NAMED(affine_store)
	(&a2, rectify, jobs[2]->y + at), NAMED(affine_store)(&b2, rectify, jobs[2]->y + at + LANES);
	NAMED(affine_store)
	(&a3, rectify, jobs[3]->y + at), NAMED(affine_store)(&b3, rectify, jobs[3]->y + at + LANES);
}

/* The same with one vector. */
static inline __attribute__((always_inline)) TARGET void
NAMED(affine_one)(const SermAffine *const jobs[4], const uint16_t *index, size_t count, size_t outputs,
    size_t at, bool rectify)
{
	const SermReal *w0 = jobs[0]->w + at, *w1 = jobs[1]->w + at, *w2 = jobs[2]->w + at, *w3 = jobs[3]->w + at;
	VECTOR a0 = LOAD(jobs[0]->b + at), a1 = LOAD(jobs[1]->b + at);
	VECTOR a2 = LOAD(jobs[2]->b + at), a3 = LOAD(jobs[3]->b + at);

	for (size_t n = 0; n < count; n++) {
		size_t i = index[n], row = i * outputs;

		a0 += LOAD(w0 + row) * jobs[0]->x[i];
		a1 += LOAD(w1 + row) * jobs[1]->x[i];
		a2 += LOAD(w2 + row) * jobs[2]->x[i];
		a3 += LOAD(w3 + row) * jobs[3]->x[i];
	}
	NAMED(affine_store)(&a0, rectify, jobs[0]->y + at), NAMED(affine_store)(&a1, rectify, jobs[1]->y + at);
	NAMED(affine_store)(&a2, rectify, jobs[2]->y + at), NAMED(affine_store)(&a3, rectify, jobs[3]->y + at);
}

static TARGET void
NAMED(affine)(
    const SermAffine *const jobs[4], const uint16_t *index, size_t count, size_t outputs, bool rectify)
{
	size_t at = 0;

	for (; at + 2 * LANES <= outputs; at += 2 * LANES)
		NAMED(affine_two)(jobs, index, count, outputs, at, rectify);
	for (; at < outputs; at += LANES)
		NAMED(affine_one)(jobs, index, count, outputs, at, rectify);
}

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
