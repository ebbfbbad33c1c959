/*
 * Samples on their way from votes to a judgment: settle.c finds what the votes
 * come to, settle_store.c writes it down.
 */
#ifndef SERM_PG_ANNOTATE_SETTLE_H
#define SERM_PG_ANNOTATE_SETTLE_H

#include "pg/annotate/panel.h"

typedef struct SermSettleSample {
	int64 id;
	char *query;
	char *doc_id;
	char *doc;
	int round;
	bool gold;    /* people have graded it: its votes tell about the agents only */
	List *agents; /* of SermSettleVotes, by name */
} SermSettleSample;

typedef struct SermSettleVotes {
	const SermAgent *agent;
	int prompt; /* of its first path */
	SermPath paths[SERM_PATHS_KEPT];
	int count;
} SermSettleVotes;

/* What became of a sample: of the votes, and by weighted and posterior with a target. */
typedef struct SermSettleOutcome {
	SermVerdict verdict;
	double grade;
	const float *target; /* NULL: none */
} SermSettleOutcome;

/*
 * Store the judgment of a sample and close it; inside serm_spi_begin. A judgment that the table refuses is
 * an error, or with `careful` (which costs a subtransaction) a warning, and the sample has failed.
 */
extern void serm_settle_sample(const SermModelRow *model, const SermSettleSample *sample,
    const SermSettleOutcome *outcome, bool careful);

#endif
