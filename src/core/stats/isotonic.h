/*
 * Monotone regression: the non-decreasing curve that is nearest to weighted
 * points in squares, by pooling adjacent violators (Ayer et al. 1955).
 */
#ifndef SERM_CORE_STATS_ISOTONIC_H
#define SERM_CORE_STATS_ISOTONIC_H

#include "core/base/arena.h"

typedef struct SermIsotonicPoint {
	double x;
	double y;
	double weight; /* > 0 */
} SermIsotonicPoint;

/* Knots of the curve: blocks of equal level, placed at the mean x of their points. */
typedef struct SermIsotonicCurve {
	double *at;    /* [knot_count], strictly increasing */
	double *level; /* [knot_count], strictly increasing */
	uint32_t knot_count;
} SermIsotonicCurve;

/*
 * Sorts `points` by x; points of equal x count as their mean. O(n log n).
 * Errors: NO_DATA without points, INVALID a weight that is not positive or a number that is not finite,
 * MEMORY.
 */
extern SermStatus serm_isotonic_fit(
    SermIsotonicPoint *points, uint32_t count, SermArena *arena, SermIsotonicCurve *curve, SermError *error);

/* Linear between knots, constant beyond the first and the last, NaN at NaN; knot_count > 0. */
extern double serm_isotonic_value(const double *at, const double *level, uint32_t knot_count, double x);

#endif
