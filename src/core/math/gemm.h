/*
 * Matrix products against a right side that is laid out beforehand: weights
 * are packed once and multiplied many times. Three copies of one template
 * (gemm_template.h) are chosen by the processor at each call; a host may put
 * another library behind the same table of functions.
 *
 * Every element of a product is one sum over k in order, so it has the same
 * bits whatever rows are computed beside it.
 */
#ifndef SERM_CORE_MATH_GEMM_H
#define SERM_CORE_MATH_GEMM_H

#include "core/base/real.h"
#include "core/base/status.h"

/* Columns are packed in panels of so many; the last one is filled up with zeros. */
#define SERM_PANEL ((size_t) 32)

/*
 * c[i][j] = start + sum over p < k of a[i * a_row + p * a_step] * b[p][j], where start is c[i][j] when `add`,
 * else bias[j], else 0. One of a_row and a_step is 1; c does not overlap a.
 */
typedef struct SermProduct {
	size_t m, n, k;
	const SermReal *a;
	size_t a_row, a_step;
	const void *b;        /* packed [k][n] */
	const SermReal *bias; /* [n] or NULL */
	bool add;
	SermReal *c; /* [m][c_row] */
	size_t c_row;
} SermProduct;

typedef struct SermGemmProvider {
	const char *name;
	/* Reals that a packed [k][n] takes. */
	size_t (*packed_count)(size_t n, size_t k);
	/* packed = b [k][b_row], or its transpose [n][b_row] when `transpose`. */
	void (*pack)(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed);
	/* The way back: b [n][k]. */
	void (*unpack)(size_t n, size_t k, const SermReal *packed, SermReal *b);
	void (*multiply)(const SermProduct *product);
} SermGemmProvider;

extern const SermGemmProvider serm_gemm_packed;

/* The built-in functions of the table. */
extern size_t serm_panels_count(size_t n, size_t k);
extern void serm_panels_pack(
    bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed);
extern void serm_panels_unpack(size_t n, size_t k, const SermReal *packed, SermReal *b);
extern void serm_panels_multiply(const SermProduct *product);
/* The same with a side rounded to the upper halves of floats: half the memory, the same arithmetic. */
extern void serm_panels_pack_bf16(
    bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, uint16_t *packed);
extern void serm_panels_unpack_bf16(size_t n, size_t k, const uint16_t *packed, SermReal *b);
extern void serm_panels_multiply_bf16(const SermProduct *product);
/* With vectors of 16, 32 or 64 bytes, for tests; false when the processor has none so wide. */
extern bool serm_panels_multiply_with(size_t vector_bytes, const SermProduct *product);

#endif
