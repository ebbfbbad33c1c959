/*
 * Ranking metrics of one query. A list is sorted once by serm_metrics_rank();
 * every metric is then a pass over the result.
 *
 * Order: score descending, documents without a score last; equal scores by
 * document id descending as bytes, as trec_eval does. Documents that are still
 * equal (no ids given) form a tie group, and each metric returns its exact
 * expectation over the orders of the groups (McSherry and Najork, ECIR 2008):
 * no metric depends on the order of arrival.
 *
 * Undefined values are NAN: the metric says nothing about this query, which
 * means that it is skipped in a mean.
 */
#ifndef SERM_CORE_STATS_METRICS_H
#define SERM_CORE_STATS_METRICS_H

#include "core/base/arena.h"

/* Grades above this would overflow the exponential gain of a long list. */
#define SERM_METRICS_GRADE_MAX 500.0
#define SERM_METRICS_NO_CUTOFF SIZE_MAX

typedef enum SermGain {
	SERM_GAIN_LINEAR,     /* y, as trec_eval's ndcg_cut */
	SERM_GAIN_EXPONENTIAL /* 2^y - 1 (Burges et al. 2005) */
} SermGain;

typedef struct SermRankedDoc {
	double score;       /* not NaN */
	double grade;       /* NAN: not judged */
	const char *doc_id; /* any bytes; NULL: none */
	size_t doc_id_length;
	bool unscored; /* ranked after all scored ones; `score` is not read */
} SermRankedDoc;

/* A sorted list; read it through the functions below. */
typedef struct SermRanking {
	size_t count;
	const double *grade;     /* [count] in rank order; NAN: not judged */
	const size_t *tie_end;   /* [count] end of the tie group that the position is in */
	const size_t *score_end; /* [count] the same by score alone */
} SermRanking;

/*
 * Sort `docs` (left as they are) into `ranking`, whose arrays come from `arena`.
 * INVALID: a NaN score, an infinite grade or one above SERM_METRICS_GRADE_MAX.
 */
extern SermStatus serm_metrics_rank(
    const SermRankedDoc *docs, size_t count, SermArena *arena, SermRanking *ranking, SermError *error);

/* `cutoff` >= 1, or SERM_METRICS_NO_CUTOFF. Documents count as relevant when grade >= threshold. */

/* Sum of gain / log2(rank + 1) over the first `cutoff` ranks. */
extern double serm_metrics_dcg(const SermRanking *ranking, SermGain gain, size_t cutoff);
/*
 * DCG over that of the ideal order of all judged documents, in [0, 1]; NAN without a positive grade.
 * Scratch is taken from `arena` and given back. Only MEMORY can go wrong.
 */
extern SermStatus serm_metrics_ndcg(const SermRanking *ranking, SermGain gain, size_t cutoff,
    SermArena *arena, double *value, SermError *error);
/* Relevant ones among the first `cutoff`, over `cutoff` even where the list is shorter; without a cutoff,
 * over the list. */
extern double serm_metrics_precision(const SermRanking *ranking, double threshold, size_t cutoff);
/* Relevant ones among the first `cutoff`, over all relevant ones; NAN without one. */
extern double serm_metrics_recall(const SermRanking *ranking, double threshold, size_t cutoff);
/* Mean over the relevant documents of the precision at their ranks; NAN without one. */
extern double serm_metrics_average_precision(const SermRanking *ranking, double threshold);
/* 1 / rank of the first relevant document; NAN without one. */
extern double serm_metrics_reciprocal_rank(const SermRanking *ranking, double threshold);
/*
 * Expected reciprocal rank (Chapelle et al., CIKM 2009): a user stops at a document of grade y with
 * probability (2^y - 1) / 2^grade_max. INVALID: grade_max outside (0, SERM_METRICS_GRADE_MAX], or a grade
 * above it.
 */
extern SermStatus serm_metrics_err(const SermRanking *ranking, double grade_max, size_t cutoff,
    SermArena *arena, SermKeepGoing keep_going, void *context, double *value, SermError *error);
/*
 * Share of the pairs of judged documents with different grades that the scores order rightly, equal
 * scores counting half (document ids do not matter); NAN without such a pair.
 */
extern SermStatus serm_metrics_pair_accuracy(
    const SermRanking *ranking, SermArena *arena, double *value, SermError *error);

#endif
