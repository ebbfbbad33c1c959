/*
 * What the copies of gemm_template.h share.
 */
#ifndef SERM_CORE_MATH_GEMM_PARTS_H
#define SERM_CORE_MATH_GEMM_PARTS_H

#include "core/base/real.h"
#include "core/base/status.h"

/* Reals of the packed side that are used again and again before the next are read: a part of the second
 * cache. */
#define GROUP_REALS ((size_t) 160 * 1024)

/* Of k that a turned left side is brought together for. */
#define GATHER_DEPTH ((size_t) 512)

/* A stretch of k, and where its left side lies. */
typedef struct Part {
	size_t p0, depth;
	bool add; /* to what c holds */
	const SermReal *a;
	size_t a_row, a_step;
} Part;

#endif
