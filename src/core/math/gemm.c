#include "core/math/gemm.h"

#include <string.h>

#include "core/math/cpu.h"

/* Reals of the packed side that are used again and again before the next are read: a part of the second
 * cache. */
#define GROUP_REALS ((size_t) 160 * 1024)

/* Of k that a turned left side is brought together for. */
#define GATHER_DEPTH ((size_t) 512)

/* A stretch of k, and where its left side lies. */
typedef struct Part {
	size_t p0, depth;
	bool add; /* to what c holds */
	const SermReal *a;
	size_t a_row, a_step;
} Part;

#define VECTOR_BYTES 16
#define TILE_ROWS 6
#define TARGET
#define NAMED(name) name##_16
#include "core/math/gemm_template.h"

#if defined(__x86_64__)
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#define TARGET SERM_TARGET_32
#define NAMED(name) name##_32
#include "core/math/gemm_template.h"

#define VECTOR_BYTES 64
#define TILE_ROWS 14
#define TARGET SERM_TARGET_64
#define NAMED(name) name##_64
#include "core/math/gemm_template.h"
#endif

const SermGemmProvider serm_gemm_packed = {
    "built-in", serm_panels_count, serm_panels_pack, serm_panels_multiply};

size_t
serm_panels_count(size_t n, size_t k)
{
	return (n + SERM_PANEL - 1) / SERM_PANEL * SERM_PANEL * k;
}

void
serm_panels_pack(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	for (size_t j0 = 0; j0 < n; j0 += SERM_PANEL, packed += SERM_PANEL * k) {
		size_t columns = n - j0 < SERM_PANEL ? n - j0 : SERM_PANEL;

		for (size_t p = 0; p < k; p++) {
			SermReal *row = packed + p * SERM_PANEL;

			if (transpose)
				for (size_t j = 0; j < columns; j++)
					row[j] = b[(j0 + j) * b_row + p];
			else
				memcpy(row, b + p * b_row + j0, columns * sizeof(SermReal));
			if (columns < SERM_PANEL)
				memset(row + columns, 0, (SERM_PANEL - columns) * sizeof(SermReal));
		}
	}
}

bool
serm_panels_multiply_with(size_t vector_bytes, const SermProduct *product)
{
	SERM_ASSERT(product->a_row == 1 || product->a_step == 1);
	if (vector_bytes > serm_cpu_vector_bytes())
		return false;
#if defined(__x86_64__)
	if (vector_bytes == 64)
		multiply_64(product);
	else if (vector_bytes == 32)
		multiply_32(product);
	else
#endif
		multiply_16(product);
	return true;
}

void
serm_panels_multiply(const SermProduct *product)
{
	(void) serm_panels_multiply_with(serm_cpu_vector_bytes(), product);
}
