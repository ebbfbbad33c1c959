/*
 * A linear layer y = x W^T + b whose weights are laid out once, in the
 * precision that its owner chose:
 *
 *   f32   panels of gemm.h
 *   bf16  the same panels, each weight rounded to the upper half of a float
 *   int8  signed weights with one scale for each output; the inputs of a row
 *         are quantised to unsigned bytes with a scale and a zero of that row
 *
 * Sums of int8 are exact, so every processor gives the same ones. A row has
 * the same bits alone and among others.
 */
#ifndef SERM_CORE_MATH_LINEAR_H
#define SERM_CORE_MATH_LINEAR_H

#include "core/math/gemm.h"

typedef enum SermPrecision {
	SERM_PRECISION_F32 = 0,
	SERM_PRECISION_BF16,
	SERM_PRECISION_INT8,
	SERM_PRECISION_COUNT
} SermPrecision;

typedef struct SermLinear {
	uint32_t in, out;
	SermPrecision precision;
	const SermGemmProvider *gemm; /* of f32 */
	const void *packed;           /* of serm_linear_pack() */
	const SermReal *bias;         /* [out] or NULL */
} SermLinear;

extern const char *serm_precision_name(SermPrecision precision); /* "f32", "bf16", "int8" */
/* false: no such name. */
extern bool serm_precision_parse(const char *name, SermPrecision *precision);
/*
 * What this processor computes instead of `precision`: itself, or f32 for int8 without the instructions that
 * make it worth while.
 */
extern SermPrecision serm_precision_here(SermPrecision precision);

/* Bytes of the packed weights: a multiple of 64, as is their alignment. */
extern size_t serm_linear_bytes(const SermLinear *linear);
/* Lay out weights [out][in] in `packed`, serm_linear_bytes() of it. */
extern void serm_linear_pack(const SermLinear *linear, const SermReal *weights, void *packed);
/* The weights [out][in] that the layer computes with: what packing rounded stays rounded. */
extern void serm_linear_unpack(const SermLinear *linear, SermReal *weights);

/* Bytes that serm_linear_run() needs beside for so many rows; 0 for f32. */
extern size_t serm_linear_scratch(const SermLinear *linear, size_t rows);
/* y [rows][out] from x [rows][in]; `scratch` is aligned to 64. */
extern void serm_linear_run(
    const SermLinear *linear, size_t rows, const SermReal *x, SermReal *y, void *scratch);

#endif
