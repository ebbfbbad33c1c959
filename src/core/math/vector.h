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

/* y[o] = b[o] + sum over i of w[o][i] x[i]; w is [outputs][inputs], finite. */
extern void serm_affine(
    const SermReal *w, const SermReal *b, const SermReal *x, size_t outputs, size_t inputs, SermReal *y);

#endif
