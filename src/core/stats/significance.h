/*
 * Is a difference real? Bootstrap intervals and the paired randomisation test
 * over queries, both seeded: the same input and seed give the same numbers.
 *
 * The unit of resampling is the query, because the documents of one query are
 * not independent (Smucker, Allan and Carterette, CIKM 2007).
 */
#ifndef SERM_CORE_STATS_SIGNIFICANCE_H
#define SERM_CORE_STATS_SIGNIFICANCE_H

#include "core/base/arena.h"

typedef struct SermResampling {
	uint32_t draws;    /* 1..SERM_DRAWS_MAX, default 2000 */
	double confidence; /* of the interval, in (0, 1), default .95 */
	uint64_t seed;
	SermKeepGoing keep_going; /* may be NULL */
	void *context;
} SermResampling;

#define SERM_DRAWS_MAX 1000000

/* A mean with its percentile interval over the clusters that took part. */
typedef struct SermInterval {
	double value;
	double low;
	double high;
	size_t count; /* clusters (queries) */
} SermInterval;

extern void serm_resampling_defaults(SermResampling *resampling);

/*
 * The mean of `values` (one per query; NAN is skipped) with its bootstrap interval. For a paired
 * comparison pass the differences. The limits are quantiles of the resampled means, interpolated
 * linearly between order statistics. NO_DATA: no value. INVALID: an infinite value or a bad option.
 */
extern SermStatus serm_bootstrap_mean(const double *values, size_t count, const SermResampling *resampling,
    SermArena *arena, SermInterval *interval, SermError *error);

/*
 * The mean over examples, resampled by cluster: cluster c holds weight[c] examples (>= 0) whose values
 * sum to sum[c]; the statistic is sum(sum) / sum(weight). Clusters of weight 0 are left out.
 */
extern SermStatus serm_bootstrap_ratio(const double *sum, const double *weight, size_t count,
    const SermResampling *resampling, SermArena *arena, SermInterval *interval, SermError *error);

/*
 * Two-sided p-value of the paired randomisation test: how often a mean at least as far from 0 comes
 * about when the sign of each difference is tossed. All 2^n sign patterns when these are no more than
 * `draws`, else (1 + hits) / (1 + draws). NAN is skipped. NO_DATA: no difference.
 */
extern SermStatus serm_randomisation_p(const double *difference, size_t count,
    const SermResampling *resampling, SermArena *arena, double *p_value, SermError *error);

#endif
