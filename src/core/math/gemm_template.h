/*
 * The product of gemm.h, written once over vectors of VECTOR_BYTES and
 * included for each instruction set and each type of the packed side; not a
 * header in the usual sense. The includer defines VECTOR_BYTES, TILE_ROWS (6
 * or 14: what the registers hold), TARGET (the function attribute),
 * NAMED(name), SIDE (the packed type) and SIDE_IS_BF16 (0 or 1).
 *
 * A tile is TILE_ROWS rows by two vectors of columns, kept in registers over
 * the whole of k. A group of panels that fits into the second cache is walked
 * for each tile of rows, whose part of `a` stays in the first.
 */
#define LANES (VECTOR_BYTES / sizeof(SermReal))
#define VECTOR NAMED(GemmVector)
#define LOAD(pointer) (*(const VECTOR *) (pointer))
#define TILE_COLUMNS (2 * LANES)

typedef SermReal VECTOR __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(SermReal)), may_alias));

#if SIDE_IS_BF16
typedef uint16_t NAMED(Halves) __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t NAMED(Wholes) __attribute__((vector_size(LANES * 4)));
typedef float NAMED(Floats) __attribute__((vector_size(LANES * 4)));
#define WIDEN(pointer)                                                                                       \
	__builtin_convertvector(                                                                                 \
	    (NAMED(Floats))(__builtin_convertvector(*(const NAMED(Halves) *) (pointer), NAMED(Wholes)) << 16),   \
	    VECTOR)
#else
#define WIDEN(pointer) LOAD(pointer)
#endif

#define START(row)                                                                                           \
	VECTOR x##row = {0}, y##row = {0};                                                                       \
	if (rows > (row) && from != NULL)                                                                        \
	x##row = LOAD(from + (row) *from_row), y##row = LOAD(from + (row) *from_row + LANES)
/* Row 3 i + r is found from base i: few enough pointers to stay in registers. */
#define STEP(row, base, offset)                                                                              \
	if (rows > (row))                                                                                        \
	x##row += base[(offset) *a_row] * b0, y##row += base[(offset) *a_row] * b1
#define STOP(row)                                                                                            \
	if (rows > (row))                                                                                        \
	*(VECTOR *) (c + (row) *c_row) = x##row, *(VECTOR *) (c + (row) *c_row + LANES) = y##row

/* c[rows][TILE_COLUMNS] = from + a b; `rows` is a constant at each place that calls. */
static inline __attribute__((always_inline)) TARGET void
NAMED(tile_of)(const size_t rows, size_t k, const SermReal *a, size_t a_row, size_t a_step, const SIDE *b,
    const SermReal *from, size_t from_row, SermReal *c, size_t c_row)
{
	const SermReal *a3 = a + 3 * a_row;
#if TILE_ROWS > 6
	const SermReal *a6 = a + 6 * a_row, *a9 = a + 9 * a_row, *a12 = a + 12 * a_row;
#endif

	START(0);
	START(1);
	START(2);
	START(3);
	START(4);
	START(5);
#if TILE_ROWS > 6
	START(6);
	START(7);
	START(8);
	START(9);
	START(10);
	START(11);
	START(12);
	START(13);
#endif
	for (size_t p = 0; p < k; p++, b += SERM_PANEL) {
		VECTOR b0 = WIDEN(b), b1 = WIDEN(b + LANES);

		STEP(0, a, 0);
		STEP(1, a, 1);
		STEP(2, a, 2);
		STEP(3, a3, 0);
		STEP(4, a3, 1);
		STEP(5, a3, 2);
		a += a_step, a3 += a_step;
#if TILE_ROWS > 6
		STEP(6, a6, 0);
		STEP(7, a6, 1);
		STEP(8, a6, 2);
		STEP(9, a9, 0);
		STEP(10, a9, 1);
		STEP(11, a9, 2);
		STEP(12, a12, 0);
		STEP(13, a12, 1);
		a6 += a_step, a9 += a_step, a12 += a_step;
#endif
	}
	STOP(0);
	STOP(1);
	STOP(2);
	STOP(3);
	STOP(4);
	STOP(5);
#if TILE_ROWS > 6
	STOP(6);
	STOP(7);
	STOP(8);
	STOP(9);
	STOP(10);
	STOP(11);
	STOP(12);
	STOP(13);
#endif
}

#define TILE(count)                                                                                          \
	case (count):                                                                                            \
		NAMED(tile_of)(count, k, a, a_row, a_step, b, from, from_row, c, c_row);                             \
		break

/* Rows beyond a tile's are computed with fewer registers: a row costs what it costs. */
static TARGET __attribute__((noinline)) void
NAMED(tile)(size_t rows, size_t k, const SermReal *a, size_t a_row, size_t a_step, const SIDE *b,
    const SermReal *from, size_t from_row, SermReal *c, size_t c_row)
{
	switch (rows) {
		TILE(1);
		TILE(2);
		TILE(3);
		TILE(4);
		TILE(5);
		TILE(6);
#if TILE_ROWS > 6
		TILE(7);
		TILE(8);
		TILE(9);
		TILE(10);
		TILE(11);
		TILE(12);
		TILE(13);
		TILE(14);
#endif
	}
}

/* One tile at (i, j) over `depth` of k; what reaches beyond the last column goes through a copy of its own.
 */
static TARGET void
NAMED(place)(const SermProduct *product, const Part *part, size_t i, size_t rows, size_t j)
{
	const SIDE *b =
	    (const SIDE *) product->b + (j / SERM_PANEL * product->k + part->p0) * SERM_PANEL + j % SERM_PANEL;
	SermReal *c = product->c + i * product->c_row + j;
	SermReal edge[TILE_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
	const SermReal *from = part->add ? c : product->bias == NULL ? NULL : product->bias + j;
	size_t from_row = part->add ? product->c_row : 0, columns = product->n - j;

	if (columns >= TILE_COLUMNS) {
		NAMED(tile)
		(rows, part->depth, part->a, part->a_row, part->a_step, b, from, from_row, c, product->c_row);
		return;
	}
	memset(edge, 0, sizeof(edge));
	for (size_t r = 0; r < rows && from != NULL; r++)
		memcpy(edge + r * TILE_COLUMNS, from + r * from_row, columns * sizeof(SermReal));
	NAMED(tile)
	(rows, part->depth, part->a, part->a_row, part->a_step, b, edge, TILE_COLUMNS, edge, TILE_COLUMNS);
	for (size_t r = 0; r < rows; r++)
		memcpy(c + r * product->c_row, edge + r * TILE_COLUMNS, columns * sizeof(SermReal));
}

/* A turned `a` is read down its columns: a tile of it is brought together before it is used. */
static TARGET void
NAMED(gather)(const SermProduct *product, const Part *part, size_t i, size_t rows, SermReal *tile)
{
	const SermReal *a = product->a + i + part->p0 * product->a_step;

	for (size_t p = 0; p < part->depth; p++)
		memcpy(tile + p * TILE_ROWS, a + p * product->a_step, rows * sizeof(SermReal));
}

static TARGET void
NAMED(multiply)(const SermProduct *product)
{
	SermReal tile[TILE_ROWS * GATHER_DEPTH] __attribute__((aligned(64)));
	size_t k = product->k, n = product->n;
	bool turned = product->a_row == 1 && product->a_step != 1;
	size_t depth = turned ? GATHER_DEPTH : k > 0 ? k : 1;
	size_t group = GROUP_REALS / (depth < k ? depth : k + 1) / SERM_PANEL * SERM_PANEL;

	if (group == 0)
		group = SERM_PANEL;
	for (size_t p0 = 0; p0 == 0 || p0 < k; p0 += depth) {
		Part part = {p0, k - p0 < depth ? k - p0 : depth, product->add || p0 > 0, NULL, product->a_row,
		    product->a_step};

		for (size_t j0 = 0; j0 < n; j0 += group) {
			size_t j1 = n - j0 < group ? n : j0 + group;

			for (size_t i = 0; i < product->m; i += TILE_ROWS) {
				size_t rows = product->m - i < TILE_ROWS ? product->m - i : TILE_ROWS;

				part.a = product->a + i * product->a_row + p0 * product->a_step;
				if (turned) {
					NAMED(gather)(product, &part, i, rows, tile);
					part.a = tile, part.a_row = 1, part.a_step = TILE_ROWS;
				}
				for (size_t j = j0; j < j1; j += TILE_COLUMNS)
					NAMED(place)(product, &part, i, rows, j);
			}
		}
	}
}

#undef WIDEN
#undef START
#undef STEP
#undef STOP
#undef TILE
#undef LANES
#undef VECTOR
#undef LOAD
#undef TILE_COLUMNS
#undef TILE_ROWS
#undef VECTOR_BYTES
#undef TARGET
#undef NAMED
