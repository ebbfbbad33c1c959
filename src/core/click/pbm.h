/*
 * The position-based click model: P(click) = theta[position] * alpha[pair].
 * theta is the probability that a position is examined, alpha (attractiveness)
 * the probability that an examined (query, document) pair is clicked.
 *
 * Only products are observed, so the scale is fixed by theta = 1 at the first
 * position seen: alpha is the click rate that the pair would have there.
 */
#ifndef SERM_CORE_CLICK_PBM_H
#define SERM_CORE_CLICK_PBM_H

#include "core/base/arena.h"

#define SERM_PBM_POSITIONS_MAX 1000

/* What a log says about one pair at one position. Cells of the same pair and position may repeat. */
typedef struct SermClickCell {
	uint32_t pair;     /* 0 .. pair_count - 1 */
	uint32_t position; /* 1 .. SERM_PBM_POSITIONS_MAX */
	uint32_t shown;
	uint32_t clicked; /* <= shown */
} SermClickCell;

typedef struct SermPbmOptions {
	double alpha_strength; /* pseudo-impressions of the prior of alpha; 0: none */
	double alpha_mean;     /* in (0, 1); negative: the smoothed click rate at the first position */
	double theta_strength; /* pseudo-impressions of the prior of theta, with mean 1 / position; 0: none */
	double tolerance;      /* stop when an iteration gains less than this per impression */
	uint32_t iterations_max;
} SermPbmOptions;

typedef struct SermPbm {
	const double *alpha;   /* [pair_count]; a pair without impressions has the mean of the prior */
	const double *theta;   /* [position_count], by position - 1; 0 where nothing was shown */
	const uint64_t *shown; /* [position_count] */
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
