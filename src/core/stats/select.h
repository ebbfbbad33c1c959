/*
 * Choosing which pairs to have graded: quantile gates, ranks, and a budget
 * shared between a random draw from the stream and the picks of the agents.
 *
 * Chance is a function of (seed, key of the pair) alone: the same pairs give
 * the same choice in any order, and a pair that joins or leaves does not
 * re-draw the others.
 */
#ifndef SERM_CORE_STATS_SELECT_H
#define SERM_CORE_STATS_SELECT_H

#include "core/base/arena.h"

#define SERM_SELECT_ALL UINT32_MAX

typedef struct SermCandidate {
	uint64_t key;       /* identity of the pair, e.g. a hash of query and document id */
	uint32_t query;     /* 0 .. query_count - 1 */
	bool picked;        /* by at least one agent */
	double priority;    /* higher first among the picked; finite */
	uint32_t agents;    /* bits of the agents that picked it */
	uint32_t segment;   /* SERM_SELECT_ALL: none */
	uint64_t signature; /* of its words, for near copies */
} SermCandidate;

/* Slots that are kept for the picks of an agent, or for a segment. */
typedef struct SermQuota {
	uint32_t of;  /* number of the agent or of the segment */
	double share; /* of the budget, in [0, 1] */
} SermQuota;

typedef struct SermSelectOptions {
	uint32_t budget;    /* pairs to choose; SERM_SELECT_ALL: no limit */
	uint32_t per_query; /* pairs per query at most; 0: the least that is >= 2 and lets the budget be met */
	double explore;     /* share of the budget drawn at random from all candidates, in [0, 1] */
	double temperature; /* of Gumbel-top-k among the picked; 0: highest priority first */
	uint64_t seed;
	const SermQuota *agent_quota;
	uint32_t agent_quota_count;
	const SermQuota *segment_quota;
	uint32_t segment_quota_count;
	bool distinct; /* leave out near copies of what is chosen: signatures that differ in at most 3 bits */
} SermSelectOptions;

typedef enum SermChoice {
	SERM_CHOICE_NONE = 0,
	SERM_CHOICE_PICKED,   /* by the agents */
	SERM_CHOICE_EXPLORED, /* by chance; the agents may have picked it too */
	SERM_CHOICE_SEGMENT   /* by chance, for the quota of its segment */
} SermChoice;

typedef struct SermSelection {
	const uint8_t *choice; /* [candidate_count] SermChoice */
	uint32_t chosen;
	uint32_t explored;
	uint32_t per_query; /* the cap that was used */
	uint32_t copies;    /* near copies that were left out */
} SermSelection;

/*
 * round(explore * budget) pairs are drawn uniformly from all candidates. Then the
 * quotas are filled: that of an agent with the best of its picks, that of a segment
 * with the best picks in it and, where those do not suffice, with any of its pairs;
 * what is chosen already counts. The rest are the best of the picked. Slots that the agents leave empty are
 * drawn at random too, unless explore is 0. O(n log n). Errors: INVALID, CANCELED, MEMORY.
 */
extern SermStatus serm_select_pairs(const SermCandidate *candidates, uint32_t candidate_count,
    uint32_t query_count, const SermSelectOptions *options, SermArena *arena, SermKeepGoing keep_going,
    void *context, SermSelection *selection, SermError *error);

/* 64-bit similarity hash (Charikar 2002) of weighted features: start with zeros, add, then take the signs. */
typedef struct SermSimilarity {
	int32_t sums[64];
} SermSimilarity;

extern void serm_similarity_add(SermSimilarity *similarity, uint64_t feature, int32_t weight);
extern uint64_t serm_similarity_signature(const SermSimilarity *similarity);

/*
 * The linearly interpolated quantile (type 7, as percentile_cont). Sorts
 * `values`; `scratch` has room for `count` floats; count > 0, no NaN. O(n).
 */
extern double serm_select_quantile(float *values, float *scratch, size_t count, double quantile);

/*
 * rank[i] = share of the values that are <= values[i], in (0, 1]; equal values have equal ranks.
 * `scratch` has room for 2 * count floats. No NaN. O(n log n) without a comparison sort.
 */
extern void serm_select_ranks(const float *values, size_t count, float *scratch, float *rank);

#endif
