#include "core/math/linear.h"

#include <string.h>

#include "core/math/int8.h"

#define ALIGN ((size_t) 64)

static const char *const precision_names[] = {"f32", "bf16", "int8"};

const char *
serm_precision_name(SermPrecision precision)
{
	return precision_names[precision];
}

bool
serm_precision_parse(const char *name, SermPrecision *precision)
{
	for (int i = 0; i < SERM_PRECISION_COUNT; i++)
		if (strcmp(name, precision_names[i]) == 0) {
			*precision = (SermPrecision) i;
			return true;
		}
	return false;
}

SermPrecision
serm_precision_here(SermPrecision precision)
{
	return precision == SERM_PRECISION_INT8 && !serm_int8_fast() ? SERM_PRECISION_F32 : precision;
}

static size_t
align_up(size_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t
serm_linear_bytes(const SermLinear *linear)
{
	switch (linear->precision) {
		case SERM_PRECISION_INT8:
			return align_up(serm_int8_packed_bytes(linear->out, linear->in));
		case SERM_PRECISION_BF16:
			return align_up(serm_panels_count(linear->out, linear->in) * sizeof(uint16_t));
		default:
			return align_up(linear->gemm->packed_count(linear->out, linear->in) * sizeof(SermReal));
	}
}

void
serm_linear_pack(const SermLinear *linear, const SermReal *weights, void *packed)
{
	switch (linear->precision) {
		case SERM_PRECISION_INT8:
			serm_int8_pack(linear->out, linear->in, weights, packed);
			break;
		case SERM_PRECISION_BF16:
			serm_panels_pack_bf16(true, linear->out, linear->in, weights, linear->in, packed);
			break;
		default:
			linear->gemm->pack(true, linear->out, linear->in, weights, linear->in, packed);
	}
}

void
serm_linear_unpack(const SermLinear *linear, SermReal *weights)
{
	if (linear->precision == SERM_PRECISION_INT8)
		serm_int8_unpack(linear->out, linear->in, linear->packed, weights);
	else if (linear->precision == SERM_PRECISION_BF16)
		serm_panels_unpack_bf16(linear->out, linear->in, linear->packed, weights);
	else
		linear->gemm->unpack(linear->out, linear->in, linear->packed, weights);
}

size_t
serm_linear_scratch(const SermLinear *linear, size_t rows)
{
	if (linear->precision != SERM_PRECISION_INT8)
		return 0;
	return rows * (sizeof(SermQuantised) + serm_int8_row_bytes(linear->in));
}

static void
run_int8(const SermLinear *linear, size_t rows, const SermReal *x, SermReal *y, void *scratch)
{
	SermQuantised *row = scratch;
	size_t bytes = serm_int8_row_bytes(linear->in);
	uint8_t *q = (uint8_t *) (row + rows);
	SermInt8Product product = {rows, linear->in, linear->out, q, row, linear->packed, linear->bias, y};

	for (size_t r = 0; r < rows; r++)
		row[r] = serm_int8_quantise(linear->in, x + r * linear->in, q + r * bytes);
	serm_int8_multiply(&product);
}

void
serm_linear_run(const SermLinear *linear, size_t rows, const SermReal *x, SermReal *y, void *scratch)
{
	SermProduct product = {
	    rows, linear->out, linear->in, x, linear->in, 1, linear->packed, linear->bias, false, y, linear->out};

	if (linear->precision == SERM_PRECISION_INT8)
		run_int8(linear, rows, x, y, scratch);
	else if (linear->precision == SERM_PRECISION_BF16)
		serm_panels_multiply_bf16(&product);
	else
		linear->gemm->multiply(&product);
}
