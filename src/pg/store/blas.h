/*
 * Optional libraries for matrix products, opened in the process that uses them and nowhere else.
 */
#ifndef SERM_PG_STORE_BLAS_H
#define SERM_PG_STORE_BLAS_H

#include "core/math/kernels.h"
#include "pg/serm.h"

/* serm.blas: off by default; see doc/evolution.md for what it changes. */
extern bool serm_blas_wanted;

extern void serm_blas_define_gucs(void);

/*
 * The matrix product of OpenBLAS, or NULL for the built-in one: when serm.blas is off, the library is
 * missing, or this is the postmaster. *name tells which, with the library's own description, for the record:
 * different kernels give different last bits.
 */
extern SermGemm serm_blas_gemm(const char **name);

#endif
