/*
 * Kernels that only the core calls. Like those of kernels.h they exist once
 * per instruction set (kernels_template.h) and are chosen at each call; the
 * order of every summation depends on the lengths alone, never on how many
 * rows are computed together.
 */
#ifndef SERM_CORE_MATH_VECTOR_H
#define SERM_CORE_MATH_VECTOR_H

#include "core/base/real.h"
#include "core/base/status.h"

/* What the processor has. Code that is chosen by it computes the same in each, as its comment says. */
typedef enum SermVectorLevel { SERM_VECTOR_PLAIN, SERM_VECTOR_AVX2, SERM_VECTOR_AVX512 } SermVectorLevel;

extern SermVectorLevel serm_vector_level(void);

/* Rows of weights are padded to a multiple of this. */
#define SERM_AFFINE_OUTPUTS 16

/* y[o] = b[o] + sum over i of x[i] w[i][o]; all finite. */
typedef struct SermAffine {
	const SermReal *w; /* [inputs][outputs] */
	const SermReal *b; /* [outputs] */
	const SermReal *x;
	SermReal *y; /* [outputs] */
} SermAffine;

/*
 * Some products of one shape. The sums run over the inputs that `index` names, `count` of them, in its
 * order; leaving one out whose x is 0 changes no bit. `rectify` makes what is negative 0. A product has the
 * same bits among others and alone.
 */
extern void serm_affine(const SermAffine *jobs, size_t job_count, const uint16_t *index, size_t count,
    size_t outputs, bool rectify);

/* The same with vectors of 16, 32 or 64 bytes, for tests; false when the processor has none so wide. */
extern bool serm_affine_with(size_t vector_bytes, const SermAffine *jobs, size_t job_count,
    const uint16_t *index, size_t count, size_t outputs, bool rectify);

#endif
