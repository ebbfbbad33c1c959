/*
 * The agents of a model as judges: what they have said about all pairs, how good
 * they are, and what their labels make of a pair.
 *
 * A judge is an active agent under one version of its prompt. Its label of a pair is
 * the grade of its paths, by serm_vote_agent(); an agent that abstains has none.
 * Gold are grades by people of pairs of the train split: the test split must not
 * leak into labels. Of samples that were drawn to be gold so that every grade has its
 * share each counts by the share that its grade has among what people graded.
 *
 * Reading is done in steps of one short transaction each; the computation between
 * them needs none.
 */
#ifndef SERM_PG_ANNOTATE_PANEL_H
#define SERM_PG_ANNOTATE_PANEL_H

#include "core/stats/consensus.h"
#include "pg/annotate/annotate.h"

/* Paths of one agent that count, extra ones included. */
#define SERM_PATHS_KEPT (2 * SERM_PATHS_MAX)

typedef struct SermPanelJudge {
	const SermAgent *agent;
	int prompt;
} SermPanelJudge;

typedef struct SermPanel {
	const SermModelRow *row;
	MemoryContext context; /* of all that it holds; must survive commits */
	SermHost host;         /* of the fit */
	SermVoteRule rule;
	List *agents; /* of SermAgent: the active ones */
	uint32 judge_count;
	SermPanelJudge *judges;
	size_t count;
	size_t capacity;
	int64 *ids;
	int16 *label; /* [sample][judge] */
	int16 *gold;  /* [sample] */
	bool *drawn;  /* [sample]: it was put there so that every grade has its share */
	double *gold_weight;
	float *prior; /* [sample][grade], or NULL */
	size_t predicted;
	size_t gold_count;
	int64 first; /* the oldest sample that is looked at */
	SermScorer *scorer;
	SermStatus status; /* of the fit, for serm_panel_check() */
	SermError error;
	bool fitted; /* `consensus` may be used */
	SermConsensus consensus;
} SermPanel;

/* All but the last are called inside serm_spi_begin; the first three may be followed by a commit. */

/* Find the judges. `context` must survive commits. */
extern SermPanel *serm_panel_create(const SermModelRow *row, SermVoteRule rule, MemoryContext context);
/* Read the labels of some more samples; false when there are no more. */
extern bool serm_panel_read(SermPanel *panel);
/* Predict some more samples where the rule needs the model; false when there are no more. */
extern bool serm_panel_predict(SermPanel *panel);
/* Fit the consensus: long, needs no transaction, raises nothing. */
extern void serm_panel_fit(SermPanel *panel);
/* Raise what the fit left; store serm.reliability; suspend agents below their limit and return how many. */
extern int serm_panel_store(SermPanel *panel);

/* The judge that an agent is under a prompt; -1: none. */
extern int serm_panel_find(const SermPanel *panel, const SermAgent *agent, int prompt);
/* The opinion on a pair, by the labels [judge] and, where the rule needs it, the model. */
extern void serm_panel_judge(
    SermPanel *panel, const int16 *label, SermText query, SermText doc, SermOpinion *opinion);

#endif
