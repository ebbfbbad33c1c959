/*
 * The gate: may a candidate version replace the active one? Both are measured
 * on the same test pairs; differences are paired by query.
 *
 * The candidate is promoted when all five rules hold, in this order:
 *   finite      every score of both versions is a finite number
 *   queries     at least `queries_min` test queries have a defined NDCG
 *   ranking     low(NDCG@4 candidate - active) >= -margin
 *   likelihood  low(NLL candidate - active) <= 0: there are examples and they do not show that it is worse
 *   recent      the recent queries do not object
 * where low() is the lower end of the two-sided bootstrap interval over queries.
 * NLL is the mean over examples, resampled by query.
 *
 * Recent queries and their grades are a segment of their own: no other figure
 * is computed from them, and they can only refuse. With fewer than
 * recent_queries_min they have no say; else, d being NDCG@4 candidate - active:
 *   lenient     high(d) >= 0: they do not show that it is worse
 *   strict      mean(d) >= 0
 *   off         the numbers are reported and never refuse
 * (all but for rounding).
 */
#ifndef SERM_CORE_STATS_GATE_H
#define SERM_CORE_STATS_GATE_H

#include "core/stats/significance.h"

typedef enum SermGateRule {
	SERM_GATE_PASSED,
	SERM_GATE_FINITE,
	SERM_GATE_QUERIES,
	SERM_GATE_RANKING,
	SERM_GATE_LIKELIHOOD,
	SERM_GATE_RECENT
} SermGateRule;

/* What is asked of the recent segment. */
typedef enum SermRecentRule { SERM_RECENT_OFF, SERM_RECENT_LENIENT, SERM_RECENT_STRICT } SermRecentRule;

/* What it says. */
typedef enum SermRecentVerdict {
	SERM_RECENT_UNUSED, /* the rule is off */
	SERM_RECENT_FEW,    /* too few queries */
	SERM_RECENT_HOLDS,
	SERM_RECENT_FAILS
} SermRecentVerdict;

typedef struct SermGateOptions {
	double margin;               /* of NDCG, >= 0, default .005: half a point */
	double confidence;           /* default .95 */
	uint32_t draws;              /* default 2000 */
	uint64_t seed;               /* default 1 */
	uint32_t queries_min;        /* default 10 */
	SermRecentRule recent;       /* default LENIENT */
	uint32_t recent_queries_min; /* default 10; 0 is 1 */
	SermKeepGoing keep_going;    /* may be NULL */
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
	bool active_finite;    /* every score of the active version is finite, those of the segment included */
	bool candidate_finite; /* the same of the candidate */
	const double *recent_active; /* NDCG@4 of the recent segment, as above */
	const double *recent_candidate;
	size_t recent_count;
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
	SermGateMetric recent; /* NDCG@4 of the recent segment */
	SermRecentVerdict verdict;
	char reason[768]; /* one sentence: the rules that failed, or what passed, with the numbers */
} SermGateDecision;

extern void serm_gate_defaults(SermGateOptions *options);
/* The name of a rule: "passed", "finite", "queries", "ranking", "likelihood", "recent". */
extern const char *serm_gate_rule_name(SermGateRule rule);
/* "unused", "few", "holds", "fails". */
extern const char *serm_recent_verdict_name(SermRecentVerdict verdict);
/* "off", "lenient", "strict". */
extern const char *serm_recent_rule_name(SermRecentRule rule);
/* False for another name. */
extern bool serm_recent_rule_parse(const char *name, SermRecentRule *rule);
/*
 * A poor candidate is a decision, not an error. INVALID: a bad option, an NDCG outside [0, 1] or
 * defined for one version only, an example of an unknown query. CANCELED, MEMORY.
 */
extern SermStatus serm_gate_decide(const SermGateInput *input, const SermGateOptions *options,
    SermArena *arena, SermGateDecision *decision, SermError *error);

#endif
