/*
 * Products of quantised numbers: signed weights with a scale for each output,
 * unsigned inputs with a scale and a zero for each row. Sums are exact, so all
 * processors give the same ones; VNNI makes them fast, elsewhere plain C does.
 */
#ifndef SERM_CORE_MATH_INT8_H
#define SERM_CORE_MATH_INT8_H

#include "core/base/real.h"
#include "core/base/status.h"

/* Inputs come in fours: so many bytes a row takes. */
extern size_t serm_int8_row_bytes(size_t in);

/* Weights laid out for the product: panels of 32 outputs, [panel][in / 4][32][4], then scales, then sums. */
extern size_t serm_int8_packed_bytes(size_t out, size_t in);
extern void serm_int8_unpack(size_t out, size_t in, const void *packed, SermReal *weights);
/* Has this processor the instruction that makes the product fast? */
extern bool serm_int8_fast(void);
extern void serm_int8_pack(size_t out, size_t in, const SermReal *weights, void *packed);

/* x = scale (q - zero) */
typedef struct SermQuantised {
	float scale;
	int32_t zero;
} SermQuantised;

extern SermQuantised serm_int8_quantise(size_t in, const SermReal *x, uint8_t *q);

typedef struct SermInt8Product {
	size_t rows, in, out;
	const uint8_t *q;         /* [rows][serm_int8_row_bytes(in)] */
	const SermQuantised *row; /* [rows] */
	const void *packed;       /* of serm_int8_pack() */
	const SermReal *bias;     /* [out] or NULL */
	SermReal *y;              /* [rows][out] */
} SermInt8Product;

extern void serm_int8_multiply(const SermInt8Product *product);
/* The two copies, for tests; false when the processor lacks the instruction. */
extern bool serm_int8_multiply_with(bool vnni, const SermInt8Product *product);

#endif
