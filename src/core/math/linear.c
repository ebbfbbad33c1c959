#include "core/math/linear.h"

#include <string.h>

#define ALIGN ((size_t) 64)

const char *
serm_precision_name(SermPrecision precision)
{
	static const char *const names[] = {"f32", "bf16", "int8"};

	return names[precision];
}

static size_t
align_up(size_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t
serm_linear_bytes(const SermLinear *linear)
{
	return align_up(linear->gemm->packed_count(linear->out, linear->in) * sizeof(SermReal));
}

void
serm_linear_pack(const SermLinear *linear, const SermReal *weights, void *packed)
{
	linear->gemm->pack(true, linear->out, linear->in, weights, linear->in, packed);
}

size_t
serm_linear_scratch(const SermLinear *linear, size_t rows)
{
	(void) linear, (void) rows;
	return 0;
}

void
serm_linear_run(const SermLinear *linear, size_t rows, const SermReal *x, SermReal *y, void *scratch)
{
	SermProduct product = {
	    rows, linear->out, linear->in, x, linear->in, 1, linear->packed, linear->bias, false, y, linear->out};

	(void) scratch;
	linear->gemm->multiply(&product);
}
