/*
 * Agreement between raters.
 *
 * Two raters: confusion counts and Cohen's kappa. Any number of raters with
 * holes: Krippendorff's alpha and the share of agreeing pairs. Matrices are
 * dense, row-major doubles owned by the caller.
 */
#ifndef SERM_CORE_STATS_AGREEMENT_H
#define SERM_CORE_STATS_AGREEMENT_H

#include "core/base/arena.h"

typedef enum SermKappaWeights {
	SERM_KAPPA_NONE,      /* every disagreement counts 1 (Cohen 1960) */
	SERM_KAPPA_LINEAR,    /* |a - b| (Cohen 1968) */
	SERM_KAPPA_QUADRATIC, /* (a - b)^2 */
} SermKappaWeights;

typedef enum SermAlphaMetric {
	SERM_ALPHA_NOMINAL,
	SERM_ALPHA_ORDINAL,
	SERM_ALPHA_INTERVAL,
} SermAlphaMetric;

/* One rating: `unit` is any key, equal for ratings of the same thing; `value` is finite. */
typedef struct SermRating {
	uint64_t unit;
	double value;
} SermRating;

typedef struct SermAgreement {
	double alpha;    /* Krippendorff's alpha; NAN when all pairable values are equal or none can be paired */
	double observed; /* mean disagreement within units, in the unit of the metric */
	double expected; /* the same of values drawn at random from all pairable ones */
	double share;    /* pairs within a unit that agree exactly, each unit weighted by its ratings */
	size_t pairable; /* ratings of units that have at least two */
	size_t units;    /* units that have at least two ratings */
} SermAgreement;

/*
 * Kappa of a [categories][categories] matrix of counts, rows one rater, columns the other. Category c
 * stands for the number value[c]; NULL means c. NAN when there is no count or no disagreement is
 * expected (both raters use one and the same category). INVALID: a negative or non-finite entry.
 */
extern SermStatus serm_agreement_kappa(const double *counts, size_t categories, const double *value,
    SermKappaWeights weights, double *kappa, SermError *error);
/* Share of the counts with |row - column| <= distance; NAN without counts. */
extern double serm_agreement_share(const double *counts, size_t categories, size_t distance);
/* Add the pairs (row[i], column[i]) to `counts`; pairs with a negative side are holes. INVALID: a category
 * too large. */
extern SermStatus serm_agreement_count(const int16_t *row, const int16_t *column, size_t count,
    double *counts, size_t categories, SermError *error);
/*
 * Krippendorff's alpha (2011) of `ratings`, which are sorted in place. Alpha does not look at who
 * gave a rating. The result does not depend on the order of the ratings.
 */
extern SermStatus serm_agreement_alpha(SermRating *ratings, size_t count, SermAlphaMetric metric,
    SermArena *arena, SermAgreement *agreement, SermError *error);

#endif
