/*
 * Inside of the consensus: what consensus.c (posterior, cuts, abstention) and consensus_rate.c (how good each
 * judge is) share.
 */
#ifndef SERM_CORE_STATS_CONSENSUS_PARTS_H
#define SERM_CORE_STATS_CONSENSUS_PARTS_H

#include "core/stats/consensus.h"

/* Items between two questions whether to go on: some 100 microseconds of work each. */
#define ITEMS_PER_CHECK 256

/* What a fit works on besides its result. */
typedef struct SermConsensusFit {
	const SermJudgeLabels *labels;
	const SermConsensusOptions *options;
	SermConsensus *consensus;
	SermArena *arena;
	SermKeepGoing keep_going;
	void *context;
	double *met;    /* [judge][judge]: pairs labelled by both */
	double *counts; /* [grade][grade] */
	SermError *error;
} SermConsensusFit;

static inline bool
serm_consensus_stopped(const SermConsensusFit *fit)
{
	return fit->keep_going != NULL && !fit->keep_going(fit->context);
}

static inline int16_t
serm_consensus_label_of(const SermConsensusFit *fit, size_t item, uint32_t judge)
{
	return fit->labels->label[item * fit->labels->judge_count + judge];
}

static inline int16_t
serm_consensus_gold_of(const SermConsensusFit *fit, size_t item)
{
	return fit->labels->gold == NULL ? SERM_LABEL_MISSING : fit->labels->gold[item];
}

static inline double
serm_consensus_weight(const SermConsensusFit *fit, size_t item)
{
	return fit->options->gold_weight == NULL ? 1.0 : fit->options->gold_weight[item];
}

/* Fill consensus->judge and ->kappa. */
extern SermStatus serm_consensus_rate(SermConsensusFit *fit);
/* The weighted mean of the labels less the levels of their judges; NAN without an answer. */
extern double serm_consensus_mean(const SermConsensus *consensus, const int16_t *label);

#endif
