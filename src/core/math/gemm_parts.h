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

/* A stretch of k for a block of rows. */
typedef struct Part {
	size_t p0, depth;
	bool add;         /* to what c holds */
	bool gathered;    /* the left side was brought together */
	size_t a_row;     /* where it was not */
	size_t soon_step; /* bytes of the next stretch that are asked for in four steps of this one */
} Part;

#endif
