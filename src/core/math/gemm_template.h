/*
 * The product of gemm.h, written once over vectors of VECTOR_BYTES and
 * included for each instruction set and each type of the packed side; not a
 * header in the usual sense. The includer defines VECTOR_BYTES, TILE_ROWS (6
 * or 14: what the registers hold), TARGET (the function attribute),
 * NAMED(name), SIDE (the packed type) and SIDE_IS_BF16 (0 or 1).
 *
 * A tile is TILE_ROWS rows by two vectors of columns, kept in registers over
 * a stretch of k. The stretch of a panel stays in the first cache while a
 * block of rows, which the second cache holds, passes by tile after tile.
 * Weights come from behind both caches, so the stretch that is next is asked
 * for meanwhile, a little at a time. Steps of k are written out in fours: a
 * processor that is shared with another thread has few instructions to spare.
 */
#define LANES (VECTOR_BYTES / sizeof(SermReal))
#define VECTOR NAMED(GemmVector)
#define LOAD(pointer) (*(const VECTOR *) (pointer))
#define TILE_COLUMNS (2 * LANES)
#define BLOCK (BLOCK_ROWS / TILE_ROWS * TILE_ROWS)

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

/*
 * x += *left b0, y += *left b1: the number read by each multiply-add itself, or once for both. Sanitizers do
 * not see what assembly reads.
 */
#if VECTOR_BYTES == 64 && !defined(__SANITIZE_ADDRESS__)
#define ADD_BOTH_READING(x, y, left)                                                                         \
	do {                                                                                                     \
		__asm__(SERM_MULTIPLY_ADD_READ : "+v"(x) : "v"(b0), "m"(*(left)));                                   \
		__asm__(SERM_MULTIPLY_ADD_READ : "+v"(y) : "v"(b1), "m"(*(left)));                                   \
	} while (0)
#define ADD_BOTH(x, y, left)                                                                                 \
	do {                                                                                                     \
		VECTOR repeated;                                                                                     \
		__asm__(SERM_REPEAT : "=v"(repeated) : "m"(*(left)));                                                \
		__asm__(SERM_MULTIPLY_ADD : "+v"(x) : "v"(b0), "v"(repeated));                                       \
		__asm__(SERM_MULTIPLY_ADD : "+v"(y) : "v"(b1), "v"(repeated));                                       \
	} while (0)
#else
#define ADD_BOTH(x, y, left) (x) += *(left) *b0, (y) += *(left) *b1
#define ADD_BOTH_READING ADD_BOTH
#endif

#define START(row)                                                                                           \
	if (rows > (row)) {                                                                                      \
		if (from != NULL)                                                                                    \
			x[row] = LOAD(from + (row) *from_row), y[row] = LOAD(from + (row) *from_row + LANES);            \
		else                                                                                                 \
			x[row] = y[row] = (VECTOR){0};                                                                   \
	}
/*
 * Row 2 i + 1 is found from row 2 i: few enough pointers to stay in registers. An address of two registers
 * would split a multiply-add that reads; so only even rows do.
 */
#define STEP(row, base, offset, q)                                                                           \
	if (rows > (row)) {                                                                                      \
		const SermReal *left = gathered ? a + (q) *TILE_ROWS + (row) : (base) + (offset) *a_row + (q);       \
                                                                                                             \
		if ((offset) == 0)                                                                                   \
			ADD_BOTH_READING(x[row], y[row], left);                                                          \
		else                                                                                                 \
			ADD_BOTH(x[row], y[row], left);                                                                  \
	}
#define STEP_OF_6(q)                                                                                         \
	STEP(0, a, 0, q);                                                                                        \
	STEP(1, a, 1, q);                                                                                        \
	STEP(2, a2, 0, q);                                                                                       \
	STEP(3, a2, 1, q);                                                                                       \
	STEP(4, a4, 0, q);                                                                                       \
	STEP(5, a4, 1, q)
#if TILE_ROWS > 6
#define STEPS(q)                                                                                             \
	do {                                                                                                     \
		VECTOR b0 = WIDEN(b + (q) *SERM_PANEL), b1 = WIDEN(b + (q) *SERM_PANEL + LANES);                     \
		STEP_OF_6(q);                                                                                        \
		STEP(6, a6, 0, q);                                                                                   \
		STEP(7, a6, 1, q);                                                                                   \
		STEP(8, a8, 0, q);                                                                                   \
		STEP(9, a8, 1, q);                                                                                   \
		STEP(10, a10, 0, q);                                                                                 \
		STEP(11, a10, 1, q);                                                                                 \
		STEP(12, a12, 0, q);                                                                                 \
		STEP(13, a12, 1, q);                                                                                 \
	} while (0)
#define GO_ON(q)                                                                                             \
	b += (q) *SERM_PANEL, a += (q) *a_step, a2 += (q) *a_step, a4 += (q) *a_step, a6 += (q) *a_step,         \
	    a8 += (q) *a_step, a10 += (q) *a_step, a12 += (q) *a_step
#else
#define STEPS(q)                                                                                             \
	do {                                                                                                     \
		VECTOR b0 = WIDEN(b + (q) *SERM_PANEL), b1 = WIDEN(b + (q) *SERM_PANEL + LANES);                     \
		STEP_OF_6(q);                                                                                        \
	} while (0)
#define GO_ON(q) b += (q) *SERM_PANEL, a += (q) *a_step, a2 += (q) *a_step, a4 += (q) *a_step
#endif
/* With every access checked the same in a loop, or compilers take minutes. */
#ifdef __SANITIZE_ADDRESS__
#define FOUR_STEPS                                                                                           \
	for (int q = 0; q < 4; q++) {                                                                            \
		STEPS(0);                                                                                            \
		GO_ON(1);                                                                                            \
	}
#else
#define FOUR_STEPS                                                                                           \
	STEPS(0);                                                                                                \
	STEPS(1);                                                                                                \
	STEPS(2);                                                                                                \
	STEPS(3);                                                                                                \
	GO_ON(4)
#endif
#define STOP(row)                                                                                            \
	if (rows > (row))                                                                                        \
	*(VECTOR *) (c + (row) *c_row) = x[row], *(VECTOR *) (c + (row) *c_row + LANES) = y[row]

/*
 * c[rows][TILE_COLUMNS] = from + a b over `depth` of k; `rows`, `gathered` and `by_four` are constants at
 * each place that calls. A gathered left side is [k][TILE_ROWS]. What lies at `soon` is needed next.
 */
static inline __attribute__((always_inline)) TARGET void
NAMED(tile_of)(const size_t rows, const bool gathered, const bool by_four, size_t depth, size_t a_row,
    const SermReal *a, const SIDE *b, const char *soon, size_t soon_step, const SermReal *from,
    size_t from_row, SermReal *c, size_t c_row)
{
	const size_t a_step = gathered ? TILE_ROWS : 1;
	const SermReal *a2 = a + 2 * a_row, *a4 = a + 4 * a_row;
#if TILE_ROWS > 6
	const SermReal *a6 = a + 6 * a_row, *a8 = a + 8 * a_row, *a10 = a + 10 * a_row, *a12 = a + 12 * a_row;
#endif
	VECTOR x[TILE_ROWS], y[TILE_ROWS];

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
	for (const SIDE *end = b + depth * SERM_PANEL; by_four && b != end; soon += soon_step) {
		__builtin_prefetch(soon, 0, 2);
		FOUR_STEPS;
	}
	for (size_t p = 0; !by_four && p < depth; p++) {
		STEPS(0);
		GO_ON(1);
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
		NAMED(tile_of)                                                                                       \
		(count, gathered, by_four, depth, a_row, a, b, soon, soon_step, from, from_row, c, c_row);           \
		break

/* Rows beyond a tile's are computed with fewer registers: a row costs what it costs. */
static inline __attribute__((always_inline)) TARGET void
NAMED(tile_as)(size_t rows, const bool gathered, const bool by_four, size_t depth, size_t a_row,
    const SermReal *a, const SIDE *b, const char *soon, size_t soon_step, const SermReal *from,
    size_t from_row, SermReal *c, size_t c_row)
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

#define TILE_AS(name, gathered, by_four)                                                                     \
	static TARGET __attribute__((noinline)) void NAMED(name)(size_t rows, size_t depth, size_t a_row,        \
	    const SermReal *a, const SIDE *b, const char *soon, size_t soon_step, const SermReal *from,          \
	    size_t from_row, SermReal *c, size_t c_row)                                                          \
	{                                                                                                        \
		NAMED(tile_as)                                                                                       \
		(rows, gathered, by_four, depth, a_row, a, b, soon, soon_step, from, from_row, c, c_row);            \
	}
TILE_AS(straight_fours, false, true)
TILE_AS(straight_rest, false, false)
TILE_AS(gathered_fours, true, true)
TILE_AS(gathered_rest, true, false)

static inline __attribute__((always_inline)) TARGET void
NAMED(tile)(size_t rows, const Part *part, const SermReal *a, const SIDE *b, const char *soon,
    const SermReal *from, size_t from_row, SermReal *c, size_t c_row)
{
	size_t fours = part->depth / 4 * 4, rest = part->depth - fours;

	if (fours > 0 || rest == 0) {
		(part->gathered ? NAMED(gathered_fours) : NAMED(straight_fours))(
		    rows, fours, part->a_row, a, b, soon, part->soon_step, from, from_row, c, c_row);
		from = c, from_row = c_row;
	}
	if (rest > 0)
		(part->gathered ? NAMED(gathered_rest) : NAMED(straight_rest))(rows, rest, part->a_row,
		    a + fours * (part->gathered ? TILE_ROWS : 1), b + fours * SERM_PANEL, soon, 0, from, from_row, c,
		    c_row);
}

/* One tile at (i, j); what reaches beyond the last column goes through a copy of its own. */
static inline __attribute__((always_inline)) TARGET void
NAMED(place)(const SermProduct *product, const Part *part, const SermReal *a, size_t i, size_t rows, size_t j,
    const char *soon)
{
	const SIDE *b =
	    (const SIDE *) product->b + (j / SERM_PANEL * product->k + part->p0) * SERM_PANEL + j % SERM_PANEL;
	SermReal *c = product->c + i * product->c_row + j;
	SermReal edge[TILE_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
	const SermReal *from = part->add ? c : product->bias == NULL ? NULL : product->bias + j;
	size_t from_row = part->add ? product->c_row : 0, columns = product->n - j;

	if (columns >= TILE_COLUMNS) {
		NAMED(tile)(rows, part, a, b, soon, from, from_row, c, product->c_row);
		return;
	}
	memset(edge, 0, sizeof(edge));
	for (size_t r = 0; r < rows && from != NULL; r++)
		memcpy(edge + r * TILE_COLUMNS, from + r * from_row, columns * sizeof(SermReal));
	NAMED(tile)(rows, part, a, b, soon, edge, TILE_COLUMNS, edge, TILE_COLUMNS);
	for (size_t r = 0; r < rows; r++)
		memcpy(c + r * product->c_row, edge + r * TILE_COLUMNS, columns * sizeof(SermReal));
}

/* A stretch of a panel, and the block of rows [i0, i1). */
static TARGET void
NAMED(column)(
    const SermProduct *product, const Part *part, const SermReal *tiles, size_t i0, size_t i1, size_t j)
{
	/* Stretches of a panel lie one behind the other, and so do panels; the gathered pass from panel to panel.
	 */
	size_t ahead = part->gathered ? product->k : part->depth;
	const char *soon = (const char *) ((const SIDE *) product->b +
	                                   (j / SERM_PANEL * product->k + part->p0 + ahead) * SERM_PANEL);

	for (size_t i = i0; i < i1; i += TILE_ROWS, soon += part->depth / 4 * part->soon_step) {
		const SermReal *a =
		    part->gathered ? tiles + (i - i0) * part->depth : product->a + i * product->a_row + part->p0;

		NAMED(place)(product, part, a, i, i1 - i < TILE_ROWS ? i1 - i : TILE_ROWS, j, soon);
	}
}

/* A turned `a` is read down its columns: the tiles of a block are brought together before they are used. */
static TARGET void
NAMED(gather)(const SermProduct *product, const Part *part, size_t i0, size_t i1, SermReal *tiles)
{
	for (size_t p = 0; p < part->depth; p++) {
		const SermReal *a = product->a + (part->p0 + p) * product->a_step;

		for (size_t i = i0; i < i1; i += TILE_ROWS)
			memcpy(tiles + (i - i0) * part->depth + p * TILE_ROWS, a + i,
			    (i1 - i < TILE_ROWS ? i1 - i : TILE_ROWS) * sizeof(SermReal));
	}
}

/* Stretch by stretch for all columns, so that each is brought together once. */
static TARGET __attribute__((noinline)) void
NAMED(turned)(const SermProduct *product, Part *part, size_t depth, size_t i0, size_t i1)
{
	SermReal tiles[BLOCK * STRETCH] __attribute__((aligned(64)));

	part->gathered = true;
	for (part->p0 = 0; part->p0 < product->k; part->p0 += depth) {
		part->depth = product->k - part->p0 < depth ? product->k - part->p0 : depth;
		part->add = product->add || part->p0 > 0;
		NAMED(gather)(product, part, i0, i1, tiles);
		for (size_t j = 0; j < product->n; j += TILE_COLUMNS)
			NAMED(column)(product, part, tiles, i0, i1, j);
	}
}

static TARGET void
NAMED(multiply)(const SermProduct *product)
{
	size_t k = product->k, blocks = (product->m + BLOCK - 1) / BLOCK, stretches = (k + STRETCH - 1) / STRETCH;
	/* Equal parts, or nearly: a small one would wait for weights. */
	size_t block =
	    blocks == 0 ? 1 : ((product->m + blocks - 1) / blocks + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
	size_t depth = stretches == 0 ? 1 : ((k + stretches - 1) / stretches + 3) / 4 * 4;

	for (size_t i0 = 0; i0 < product->m; i0 += block) {
		size_t i1 = product->m - i0 < block ? product->m : i0 + block;
		Part part = {.a_row = product->a_row};

		part.soon_step = 4 * TILE_COLUMNS * sizeof(SIDE) / ((i1 - i0 + TILE_ROWS - 1) / TILE_ROWS);
		if (k > 0 && product->a_row == 1 && product->a_step != 1) {
			NAMED(turned)(product, &part, depth, i0, i1);
			continue;
		}
		for (size_t j = 0; j < product->n; j += TILE_COLUMNS)
			for (part.p0 = 0; part.p0 == 0 || part.p0 < k; part.p0 += depth) {
				part.depth = k - part.p0 < depth ? k - part.p0 : depth;
				part.add = product->add || part.p0 > 0;
				NAMED(column)(product, &part, NULL, i0, i1, j);
			}
	}
}

#undef WIDEN
#undef ADD_BOTH
#undef ADD_BOTH_READING
#undef START
#undef STEP
#undef STEP_OF_6
#undef STEPS
#undef GO_ON
#undef FOUR_STEPS
#undef STOP
#undef TILE
#undef TILE_AS
#undef LANES
#undef VECTOR
#undef LOAD
#undef TILE_COLUMNS
#undef BLOCK
#undef TILE_ROWS
#undef VECTOR_BYTES
#undef TARGET
#undef NAMED
