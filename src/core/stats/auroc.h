/*
 * How well a number foretells errors: the area under the ROC curve, which is
 * the chance that an example with an error has a larger value than one
 * without, equal values counting half.
 */
#ifndef SERM_CORE_STATS_AUROC_H
#define SERM_CORE_STATS_AUROC_H

#include "core/base/arena.h"

/* Values in order, so that many weightings of them (bootstrap draws) cost one pass each. */
typedef struct SermRoc {
	size_t count;
	const uint32_t *order; /* [count] ascending by value */
	const float *value;    /* [count] as given */
} SermRoc;

/* `value` [count] must outlive the result. INVALID: one is not a number, or there are 2^32 of them. */
extern SermStatus serm_roc_sort(
    const float *value, size_t count, SermArena *arena, SermRoc *roc, SermError *error);

/*
 * In [0, 1]; .5 for values that say nothing. positive [count]: what should have the larger values; weight
 * [count], >= 0, or NULL for 1. NAN when all weight is on one side.
 */
extern double serm_roc_area(const SermRoc *roc, const bool *positive, const double *weight);

#endif
