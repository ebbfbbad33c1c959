/*
 * Products whose packed side is held as bfloat16: the upper half of a float,
 * widened when it is loaded. The left side and the sums stay whole.
 */
#include <string.h>

#include "core/math/cpu.h"
#include "core/math/gemm.h"
#include "core/math/gemm_parts.h"

#define SIDE uint16_t
#define SIDE_IS_BF16 1

#define VECTOR_BYTES 16
#define TILE_ROWS 6
#define TARGET
#define NAMED(name) bf16_##name##_16
#include "core/math/gemm_template.h"

#if defined(__x86_64__)
#define VECTOR_BYTES 32
#define TILE_ROWS 6
#define TARGET SERM_TARGET_32
#define NAMED(name) bf16_##name##_32
#include "core/math/gemm_template.h"

#define VECTOR_BYTES 64
#define TILE_ROWS 14
#define TARGET SERM_TARGET_64
#define NAMED(name) bf16_##name##_64
#include "core/math/gemm_template.h"
#endif

/* To the nearest, ties to even; weights are finite. */
static uint16_t
round_to_half(SermReal value)
{
	float single = (float) value;
	uint32_t bits;

	memcpy(&bits, &single, sizeof(bits));
	return (uint16_t) ((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void
serm_panels_pack_bf16(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, uint16_t *packed)
{
	for (size_t j0 = 0; j0 < n; j0 += SERM_PANEL, packed += SERM_PANEL * k)
		for (size_t p = 0; p < k; p++)
			for (size_t j = 0; j < SERM_PANEL; j++) {
				const SermReal *from = transpose ? b + (j0 + j) * b_row + p : b + p * b_row + j0 + j;

				packed[p * SERM_PANEL + j] = j0 + j < n ? round_to_half(*from) : 0;
			}
}

void
serm_panels_unpack_bf16(size_t n, size_t k, const uint16_t *packed, SermReal *b)
{
	for (size_t j = 0; j < n; j++) {
		const uint16_t *panel = packed + j / SERM_PANEL * SERM_PANEL * k + j % SERM_PANEL;

		for (size_t p = 0; p < k; p++) {
			uint32_t bits = (uint32_t) panel[p * SERM_PANEL] << 16;
			float value;

			memcpy(&value, &bits, sizeof(value));
			b[j * k + p] = value;
		}
	}
}

void
serm_panels_multiply_bf16(const SermProduct *product)
{
#if defined(__x86_64__)
	if (serm_cpu_vector_bytes() == 64)
		bf16_multiply_64(product);
	else if (serm_cpu_vector_bytes() == 32)
		bf16_multiply_32(product);
	else
#endif
		bf16_multiply_16(product);
}
