/*
 * What the copies of gemm_template.h share.
 */
#ifndef SERM_CORE_MATH_GEMM_PARTS_H
#define SERM_CORE_MATH_GEMM_PARTS_H

#include "core/base/real.h"
#include "core/base/status.h"

/* Rows at most that a stretch of a panel is used for before the next one is read. */
#define BLOCK_ROWS ((size_t) 168)

/* Of k at most: 32 columns of so many floats are half of the first cache. */
#define STRETCH ((size_t) 192)

/*
 * Multiply-adds of 64 bytes, written as they are meant: compilers never let one read its left number from
 * memory when two use it, and move sums between registers.
 */
#ifdef SERM_REAL_DOUBLE
#define SERM_MULTIPLY_ADD "vfmadd231pd %2, %1, %0"
#define SERM_MULTIPLY_ADD_READ "vfmadd231pd %2%{1to8%}, %1, %0"
#define SERM_REPEAT "vbroadcastsd %1, %0"
#else
#define SERM_MULTIPLY_ADD "vfmadd231ps %2, %1, %0"
#define SERM_MULTIPLY_ADD_READ "vfmadd231ps %2%{1to16%}, %1, %0"
#define SERM_REPEAT "vbroadcastss %1, %0"
#endif

/* A stretch of k for a block of rows. */
typedef struct Part {
	size_t p0, depth;
	bool add;         /* to what c holds */
	bool gathered;    /* the left side was brought together */
	size_t a_row;     /* where it was not */
	size_t soon_step; /* bytes of the next stretch that are asked for in four steps of this one */
} Part;

#endif
