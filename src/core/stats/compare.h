/*
 * From comparisons to grades.
 *
 * Strengths are Bradley-Terry's with Davidson's ties ("On extending the Bradley-Terry model to accommodate
 * ties", JASA 1970): with worth p = exp(strength),
 *
 *     P(i beats j) = p_i / (p_i + p_j + nu sqrt(p_i p_j)),  P(tie) = nu sqrt(p_i p_j) / (same).
 *
 * Strengths have a normal prior around 0, so that an item that always won, or was
 * never compared, has a finite one, and groups that were never compared with each
 * other lie around the same middle. The posterior is log-concave in the strengths and log nu; its mode is
 * found by Newton's method with conjugate gradients (Nocedal and Wright, "Numerical Optimization",
 * section 7.1), which needs memory and time by comparisons, not by pairs of items.
 *
 * Grades come from strengths by anchors: items whose grade is known. Within a group (the documents of one
 * query) a value is offset + slope x strength. The slope is common to all groups and the offset the group's
 * own; both are shrunk towards what a prior distribution of grades expects. Values are cut at points between
 * which the anchors have their grades as often as they do, shrunk towards those that give all items the prior
 * distribution; with no anchor it is these alone.
 */
#ifndef SERM_CORE_STATS_COMPARE_H
#define SERM_CORE_STATS_COMPARE_H

#include "core/base/arena.h"

#define SERM_COMPARE_GRADES_MAX 10

/* One comparison: `score` is 1 when `first` won, 0 when `second` did, .5 for a tie. */
typedef struct SermComparison {
	uint32_t first;
	uint32_t second;
	float score;
	float weight; /* > 0 */
} SermComparison;

typedef struct SermCompareOptions {
	double spread;    /* of the prior of strengths; > 0, default 2 */
	double tie;       /* log nu expected, default -1 */
	double tie_width; /* standard deviation of that; > 0, default 1 */
} SermCompareOptions;

extern void serm_compare_defaults(SermCompareOptions *options);

/*
 * Fit strengths [items], which are set to the mode, and *tie (may be NULL) to log nu.
 * INVALID: an item or score out of range, an item against itself. CANCELED, MEMORY.
 */
extern SermStatus serm_compare_fit(const SermComparison *comparisons, size_t count, size_t items,
    const SermCompareOptions *options, SermArena *arena, SermKeepGoing keep_going, void *context,
    double *strength, double *tie, SermError *error);

/* Items of all groups end to end. */
typedef struct SermCompareScale {
	uint32_t grade_count;
	size_t items;
	const uint32_t *group; /* [item], rising from 0 */
	const double *strength;
	const double *known;       /* [item] its grade; NAN: not known */
	const double *group_mean;  /* [group] the grade that is expected in it; NULL: that of grade_prior */
	const double *grade_prior; /* [grade] sums to 1; NULL: even */
	double strength_of_prior;  /* anchors that weigh as much as the prior: of the slope and cuts 10, of an
	                              offset 1 */
} SermCompareScale;

typedef struct SermCompareResult {
	double slope;
	size_t anchors;
	double cut[SERM_COMPARE_GRADES_MAX - 1];
	double *value;  /* [item], in grades */
	uint8_t *grade; /* [item] */
} SermCompareResult;

/* INVALID: grades, groups or numbers out of range. MEMORY. */
extern SermStatus serm_compare_grade(
    const SermCompareScale *scale, SermArena *arena, SermCompareResult *result, SermError *error);

#endif
