/*
 * The position-based click model: P(click) = theta[position] * alpha[pair].
 * theta is the probability that a position is examined, alpha (attractiveness)
 * the probability that an examined (query, document) pair is clicked. The user
 * browsing model (Dupret and Piwowarski 2008) is the same with a theta for each
 * position and last click above it.
 *
 * Only products are observed, so the scale is fixed by theta = 1 at the first
 * position seen without a click above: alpha is the click rate that the pair
 * would have there.
 */
#ifndef SERM_CORE_CLICK_PBM_H
#define SERM_CORE_CLICK_PBM_H

#include "core/click/click.h"

#define SERM_PBM_POSITIONS_MAX 1000

typedef struct SermPbmOptions {
	double alpha_strength; /* pseudo-impressions of the prior of alpha; 0: none */
	double alpha_mean;     /* in (0, 1); negative: the smoothed click rate at the first position */
	double theta_strength; /* pseudo-impressions of the prior of theta, with mean 1 / distance; 0: none */
	bool by_previous;      /* one theta for each position and last click: the user browsing model */
	double tolerance;      /* stop when an iteration gains less than this per impression */
	uint32_t iterations_max;
} SermPbmOptions;

typedef struct SermPbm {
	const double *alpha;   /* [pair_count]; a pair without impressions has the mean of the prior */
	const double *theta;   /* [slot_count], by serm_click_slot(); 0 where nothing was shown */
	const uint64_t *shown; /* [slot_count] */
	uint32_t slot_count;
	uint32_t position_count;
	double alpha_mean;     /* the mean of the prior that was used */
	double log_likelihood; /* of the clicks, in nats */
	double objective;      /* log-likelihood plus the log of the priors: what EM climbs */
	uint64_t impressions;
	uint32_t iterations;
	bool converged;
} SermPbm;

extern void serm_pbm_defaults(SermPbmOptions *options);

/*
 * Fit by EM in O(cells) per iteration; the result comes from `arena`. Cells may
 * be in any order, but those of a pair together are faster. Deterministic.
 * Errors: INVALID (a cell or option out of range), NO_DATA (no impressions),
 * CANCELED, MEMORY.
 */
extern SermStatus serm_pbm_fit(const SermClickCell *cells, size_t cell_count, uint32_t pair_count,
    const SermPbmOptions *options, SermArena *arena, SermKeepGoing keep_going, void *context, SermPbm *model,
    SermError *error);

#endif
