/*
 * The gate: may a candidate version replace the active one? Both are measured
 * on the same test pairs; differences are paired by query.
 *
 * The candidate is promoted when all four rules hold, in this order:
 *   finite      every score of both versions is a finite number
 *   queries     at least `queries_min` test queries have a defined NDCG
 *   ranking     low(NDCG@4 candidate - active) >= -margin
 *   likelihood  low(NLL candidate - active) <= 0: there are examples and they do not show that it is worse
 * where low() is the lower end of the two-sided bootstrap interval over queries.
 * NLL is the mean over examples, resampled by query.
 */
#ifndef SERM_CORE_STATS_GATE_H
#define SERM_CORE_STATS_GATE_H

#include "core/stats/significance.h"

typedef enum SermGateRule {
	SERM_GATE_PASSED,
	SERM_GATE_FINITE,
	SERM_GATE_QUERIES,
	SERM_GATE_RANKING,
	SERM_GATE_LIKELIHOOD
} SermGateRule;

typedef struct SermGateOptions {
	double margin;            /* of NDCG, >= 0, default .005: half a point */
	double confidence;        /* default .95 */
	uint32_t draws;           /* default 2000 */
	uint64_t seed;            /* default 1 */
	uint32_t queries_min;     /* default 10 */
	SermKeepGoing keep_going; /* may be NULL */
	void *context;
} SermGateOptions;

/*
 * One entry per test query (NDCG@4) and per test example (NLL in nats); `query_of` of an example is an
 * index below query_count. NAN in both NDCG arrays: the query has no positive grade and is left out.
 */
typedef struct SermGateInput {
	const double *ndcg_active;
	const double *ndcg_candidate;
	size_t query_count;
	const double *nll_active;
	const double *nll_candidate;
	const uint32_t *query_of;
	size_t example_count;
	bool active_finite;    /* every score of the active version is finite */
	bool candidate_finite; /* every score of the candidate is finite */
} SermGateInput;

/* A metric of both versions and their difference, candidate less active. */
typedef struct SermGateMetric {
	double active;
	double candidate;
	SermInterval difference; /* all NAN where it could not be computed */
} SermGateMetric;

typedef struct SermGateDecision {
	bool promote;
	SermGateRule rule; /* the first that failed, or PASSED */
	SermGateMetric ndcg;
	SermGateMetric nll;
	char reason[512]; /* one sentence with the rules that failed and their numbers */
} SermGateDecision;

extern void serm_gate_defaults(SermGateOptions *options);
/* The name of a rule: "passed", "finite", "queries", "ranking", "likelihood". */
extern const char *serm_gate_rule_name(SermGateRule rule);
/*
 * A poor candidate is a decision, not an error. INVALID: a bad option, an NDCG outside [0, 1] or
 * defined for one version only, an example of an unknown query. CANCELED, MEMORY.
 */
extern SermStatus serm_gate_decide(const SermGateInput *input, const SermGateOptions *options,
    SermArena *arena, SermGateDecision *decision, SermError *error);

#endif
