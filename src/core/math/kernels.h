/*
 * Vector and matrix kernels. Plain C, with faster twins chosen by CPU at run
 * time; nothing here is compiled with -ffast-math. The table may be replaced
 * by the host (OpenBLAS) for large products only.
 */
#ifndef SERM_CORE_MATH_KERNELS_H
#define SERM_CORE_MATH_KERNELS_H

#include "core/base/real.h"
#include "core/base/status.h"

extern SermReal serm_dot(const SermReal *x, const SermReal *y, size_t n);
extern void serm_axpy(SermReal alpha, const SermReal *x, SermReal *y, size_t n); /* y += alpha x */

/*
 * C[m][n] = beta C + op(A)[m][k] op(B)[k][n], all row-major and dense; op transposes when asked:
 * A is stored [k][m] when transpose_a, B is stored [n][k] when transpose_b. beta is 0 or 1.
 */
typedef void (*SermGemm)(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, const SermReal *a,
    const SermReal *b, SermReal beta, SermReal *c);

extern void serm_gemm_builtin(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k,
    const SermReal *a, const SermReal *b, SermReal beta, SermReal *c);

#endif
