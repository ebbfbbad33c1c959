/*
 * A round of evolution: the state in serm.round, and its phases.
 */
#ifndef SERM_PG_EVOLVE_ROUND_H
#define SERM_PG_EVOLVE_ROUND_H

#include "pg/evolve/evolve.h"

typedef struct SermGateSettings {
	double margin;
	double confidence;
	int32 min_queries;
	int32 draws;
	char *recent; /* what the segment of recent queries may refuse: SermRecentRule by name */
	int32 recent_min_queries;
	int32 recent_rounds; /* whose queries it has, this round included */
} SermGateSettings;

typedef struct SermRoundSettings {
	int32 budget;
	int32 gold;     /* pairs graded by people that agents have graded too, so that their errors are known */
	int32 seed;     /* -1: that of mining and training */
	double explore; /* < 0: as mining does by itself */
	char *since;    /* timestamptz as text, or NULL */
	char *until;
	bool restart;
	Jsonb *mine; /* options of serm.mine */
	SermTrainSettings train;
	SermGateSettings gate;
} SermRoundSettings;

typedef struct SermRound {
	SermHost host; /* of the phase */
	const SermModelRow *row;
	SermRoundSettings settings;
	int32 number;
	int32 candidate;
	char phase[16];
	SermProgress progress;
	int level; /* of serm_spi_begin */
	double phase_started;
	MemoryContext context; /* of the phase; survives commits */
} SermRound;

/* --- round_options.c */

extern void serm_round_settings_read(const Jsonb *options, const char *kind, SermRoundSettings *settings);
/*
 * The options of a call that goes on with a round in `phase`, laid over those that the round stored, key by
 * key; what phases that are over have used stays as it is.
 */
extern Jsonb *serm_round_options_lay(const Jsonb *stored, const Jsonb *given, const char *phase);
/* What a round stores: every option with the value it uses, the thresholds of mining included. Inside SPI. */
extern Jsonb *serm_round_settings_write(const SermModelRow *row, const SermRoundSettings *settings);

/* --- round_state.c: rows of serm.round; all inside SPI, none commits */

/* The unfinished round of the model, if there is one: number, phase, candidate; its options with `given` over
 * them. */
extern bool serm_round_resume(SermRound *round, const Jsonb *given);
extern void serm_round_start(SermRound *round, const Jsonb *given);
/* Move to the next phase: merge counts and metrics (each may be NULL), note the seconds of the phase that
 * ends. */
extern void serm_round_advance(
    SermRound *round, const char *phase, const Jsonb *counts, const Jsonb *metrics);
/* The same, to the end: phase is promoted, rejected or failed. */
extern void serm_round_finish(
    SermRound *round, const char *phase, const char *reason, const Jsonb *counts, const Jsonb *metrics);

/* --- labels.c */

/* Whether the model's rule weighs the agents: then their soft targets are stored as samples are settled. */
extern bool serm_round_weighs(const SermRound *round);

/* What the agents said about the samples of a round. */
typedef struct SermRoundLabels {
	int64 voted;    /* samples with at least one valid vote */
	int64 agreed;   /* by the model's rule */
	int64 disputed; /* waiting in serm.review_queue */
	int64 settled;  /* by people, while the round ran */
	int64 failed;
	int64 open;        /* still to be annotated */
	int64 suspended;   /* agents, since the round began */
	int64 extra_votes; /* of paths that were asked for because agents differed */
	int64 judgments;   /* pairs of the round that training gets, or would if their query were in its split */
} SermRoundLabels;

/* Count the states of the round's samples. Inside SPI. */
extern void serm_round_count_labels(SermRound *round, SermRoundLabels *labels);
/*
 * Measure the agreement of the agents (the result, for serm.round.metrics), and with labels "posterior"
 * append judgments with soft targets. Commits between reading and computing; the judgments are written in the
 * transaction that it leaves open.
 */
extern Jsonb *serm_round_settle_labels(SermRound *round);

/* --- gate.c */

/* Compare candidate and active version; activates or rejects the candidate and finishes the round. Commits.
 */
extern void serm_round_gate(SermRound *round);

#endif
