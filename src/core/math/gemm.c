#include "core/math/gemm.h"

#include <string.h>

#include "core/math/cpu.h"
#include "core/math/gemm_parts.h"

#define SIDE SermReal
#define SIDE_IS_BF16 0

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
    "built-in", serm_panels_count, serm_panels_pack, serm_panels_unpack, serm_panels_multiply};

size_t
serm_panels_count(size_t n, size_t k)
{
	return (n + SERM_PANEL - 1) / SERM_PANEL * SERM_PANEL * k;
}

typedef SermReal Four
    __attribute__((vector_size(4 * sizeof(SermReal)), aligned(sizeof(SermReal)), may_alias));

/* A square of four rows becomes one of four columns. */
static inline void
turn_square(const SermReal *b, size_t b_row, SermReal *packed)
{
	Four r0 = *(const Four *) b, r1 = *(const Four *) (b + b_row);
	Four r2 = *(const Four *) (b + 2 * b_row), r3 = *(const Four *) (b + 3 * b_row);
	Four low0 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5),
	     high0 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
	Four low1 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5),
	     high1 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);

	*(Four *) packed = __builtin_shufflevector(low0, low1, 0, 1, 4, 5);
	*(Four *) (packed + SERM_PANEL) = __builtin_shufflevector(low0, low1, 2, 3, 6, 7);
	*(Four *) (packed + 2 * SERM_PANEL) = __builtin_shufflevector(high0, high1, 0, 1, 4, 5);
	*(Four *) (packed + 3 * SERM_PANEL) = __builtin_shufflevector(high0, high1, 2, 3, 6, 7);
}

/* Turned in squares, so that both what is read and what is written stays near. */
static void
turn_panel(size_t columns, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	for (size_t p0 = 0; p0 < k; p0 += SERM_PANEL) {
		size_t p1 = k - p0 < SERM_PANEL ? k : p0 + SERM_PANEL, p4 = p0 + (p1 - p0) / 4 * 4, j = 0;

		for (; j + 4 <= columns; j += 4) {
			for (size_t p = p0; p < p4; p += 4)
				turn_square(b + j * b_row + p, b_row, packed + p * SERM_PANEL + j);
			for (size_t p = p4; p < p1; p++)
				for (size_t i = j; i < j + 4; i++)
					packed[p * SERM_PANEL + i] = b[i * b_row + p];
		}
		for (; j < columns; j++)
			for (size_t p = p0; p < p1; p++)
				packed[p * SERM_PANEL + j] = b[j * b_row + p];
	}
}

/* Written out where the panel is whole: it is copied for every head of every sequence. */
static inline void
copy_row(size_t columns, const SermReal *b, SermReal *packed)
{
	if (columns < SERM_PANEL)
		memcpy(packed, b, columns * sizeof(SermReal));
	else
		for (size_t j = 0; j < SERM_PANEL; j += 4)
			*(Four *) (packed + j) = *(const Four *) (b + j);
}

void
serm_panels_pack(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	for (size_t j0 = 0; j0 < n; j0 += SERM_PANEL, packed += SERM_PANEL * k) {
		size_t columns = n - j0 < SERM_PANEL ? n - j0 : SERM_PANEL;

		if (columns < SERM_PANEL)
			memset(packed, 0, SERM_PANEL * k * sizeof(SermReal));
		if (transpose)
			turn_panel(columns, k, b + j0 * b_row, b_row, packed);
		for (size_t p = 0; !transpose && p < k; p++)
			copy_row(columns, b + p * b_row + j0, packed + p * SERM_PANEL);
	}
}

void
serm_panels_unpack(size_t n, size_t k, const SermReal *packed, SermReal *b)
{
	for (size_t j0 = 0; j0 < n; j0 += SERM_PANEL, packed += SERM_PANEL * k) {
		size_t columns = n - j0 < SERM_PANEL ? n - j0 : SERM_PANEL;

		for (size_t p0 = 0; p0 < k; p0 += SERM_PANEL) {
			size_t p1 = k - p0 < SERM_PANEL ? k : p0 + SERM_PANEL;

			for (size_t j = 0; j < columns; j++)
				for (size_t p = p0; p < p1; p++)
					b[(j0 + j) * k + p] = packed[p * SERM_PANEL + j];
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
