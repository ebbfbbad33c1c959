/*
 * Mining: which pairs of the search log are worth a grade. One pass reads the
 * log grouped by pair and scores each pair once (gather.c), the agents look at
 * what was gathered (agents.c), the core selects under the budget, and mine.c
 * hands out rows.
 */
#ifndef SERM_PG_MINE_MINE_H
#define SERM_PG_MINE_MINE_H

#include "pg/serm.h"

#include "core/click/pbm.h"
#include "core/stats/select.h"
#include "lib/stringinfo.h"
#include "pg/store/store.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* Positions from here on count as one: examination hardly changes so far down. */
#define SERM_MINE_POSITIONS 100
/* A click model of fewer impressions than this says nothing. */
#define SERM_MINE_EVENTS_MIN 1000
/* Seconds of attention that mean satisfaction, whatever the window says. */
#define SERM_MINE_DWELL_FLOOR_MS 30000
#define SERM_MINE_DWELL_QUANTILE 0.7
#define SERM_MINE_SEGMENTS_MAX 100

/* Options of the mining functions; NaN and -1 are resolved by serm_mine_options_resolve() and the window. */
typedef struct SermMineOptions {
	double tau_c;        /* a score below it is low */
	double tau_u_ms;     /* a dwell above it counts like a click */
	double tau_cm;       /* an attractiveness above it counts like a click */
	double disagreement; /* fires above it */
	double disagreement_quantile;
	double uncertainty;
	double uncertainty_quantile;
	double explore;
	double temperature;
	int32 min_impressions;
	int32 per_query;
	int32 seed;
	bool include_judged;
	bool stored_clicks;  /* use a fitted click model that covers the window */
	bool distinct;       /* leave out near copies */
	bool drift;          /* give drifted segments a quota */
	double drift_share;  /* of the budget, for all of them together */
	char *agents;        /* names separated by commas; NULL: all */
	char *agent_quota;   /* "name=share, ..."; NULL: none */
	char *segment_quota; /* the same by segment */
	char *order;         /* rank (default), margin */
} SermMineOptions;

/* One distinct pair of the log that has a document and was scored. */
typedef struct SermMinePair {
	uint64 key;
	TimestampTz last_shown;
	uint32 query;  /* number of its query among the pairs */
	uint32 stream; /* number of the pair among all pairs of the log, as the click model counts */
	uint32 impressions;
	uint32 clicks;
	int32 dwell_ms; /* longest; -1: unknown */
	float position; /* mean */
	float score;
	float entropy;
	float disagreement;
	float attractiveness; /* NaN: no click model, or too few impressions */
	float priority;
	uint32 fired;     /* bits of the agents */
	uint32 segment;   /* number of its segment; SERM_SELECT_ALL: none */
	uint64 signature; /* of its words, where near copies are left out */
} SermMinePair;

typedef struct SermMining {
	SermHost host;
	const SermModelRow *model;
	SermScorer *scorer;
	SermMineOptions options;
	uint32 agents; /* bits of the agents that run */
	bool explore;  /* pairs that no agent may pick are wanted too */
	bool has_since;
	bool has_until;
	TimestampTz since;
	TimestampTz until;

	SermMinePair *pairs;
	uint32 pair_count;
	Size pair_capacity;
	uint32 query_count;
	Tuplestorestate *texts; /* query, doc_id, doc of each pair, in the same order */
	TupleDesc texts_desc;
	uint32 stream_count; /* distinct pairs of the log */
	uint64 impressions;
	uint32 missing; /* pairs without a document */
	uint32 judged;  /* pairs left out because they have a grade or wait for one */
	SermClickCell *cells;
	Size cell_count;
	Size cell_capacity;
	float *dwells; /* of clicked pairs */
	Size dwell_count;
	Size dwell_capacity;
	bool clicks_fitted;
	bool clicks_stored; /* the attractiveness is that of serm.click_param */
	char **segments;    /* names, in the order in which they were met */
	uint32 segment_count;
	double margins[SERM_GRADES_MAX]; /* expected margin of the annotators, by predicted grade */
	SermQuota *agent_quota;
	uint32 agent_quota_count;
	SermQuota *segment_quota;
	uint32 segment_quota_count;
	char *drifted; /* segments that drifted, for the options that were used; NULL: none */
} SermMining;

/* --- options.c */

extern void serm_mine_options_read(const Jsonb *options, SermMineOptions *result);
extern Jsonb *serm_mine_options_write(const SermMineOptions *options);
/* Fill in what depends on the model: tau_c and the seed. */
extern void serm_mine_options_resolve(const SermModelRow *model, SermMineOptions *options);

/* --- quota.c */

/* Resolve the options of quotas once the segments are known; asks serm.drift where that is wanted. */
extern void serm_mine_quotas(SermMining *mining);
/* How surely annotators agreed on earlier samples, by the grade that the model gave them. */
extern void serm_mine_read_margins(SermMining *mining);
/* The expected margin for a score, in [0, 1]. */
extern double serm_mine_margin(const SermMining *mining, double score);

/* --- log.c */

typedef struct SermLogQuery {
	bool since;
	bool until;
	bool cells;  /* counts per position are wanted */
	bool stored; /* the attractiveness of the stored click model is wanted */
	bool judged; /* mark pairs with a judgment of people or agents, or a sample */
} SermLogQuery;

/*
 * The statement that reads a model's log grouped by pair, joined with its
 * documents and ordered by query, document id and document, as bytes. $1 since,
 * $2 until, $3 name of the model. Columns: query, doc_id, doc text (NULL: no
 * document), impressions, clicks int8, dwell_ms int8, position float4,
 * last_shown timestamptz, cells int4[][3], segment text, judged bool,
 * attractiveness float8.
 * Errors: 55000 no log, no documents or a dropped one; 42809 not a relation
 * that can be read; 42703, 42804 a missing or mistyped column.
 */
extern char *serm_log_query(const SermModelRow *model, const SermLogQuery *query);

/* --- gather.c */

/* Read the log; inside serm_spi_begin(). Errors: 54000 more than serm.mine_pairs_max pairs. */
extern void serm_mine_gather(SermMining *mining);

/* --- agents.c */

/* The number of agents; their bits are 0 .. count - 1. */
extern int serm_mine_agent_count(void);
extern const char *serm_mine_agent_name(int agent);
/* The bits of `names`, separated by commas. Error 22023 for an unknown name. */
extern uint32 serm_mine_agents_parse(const char *names);
/* True when some agent that runs reads the click model. */
extern bool serm_mine_needs_clicks(const SermMining *mining);
/*
 * Whether serm.fit_click_model has left a position-based model that covers the window: its own window does,
 * up to the end of the window or, without one, up to a day ago. Inside serm_spi_begin().
 */
extern bool serm_mine_clicks_known(const SermMining *mining);
/* True when some agent that runs could pick a pair with this evidence: then it has to be scored. */
extern bool serm_mine_worth_scoring(
    const SermMining *mining, uint64 impressions, uint64 clicks, int64 dwell_ms);
/* Resolve the thresholds of the window, fit the click model, let the agents pick, set the priorities. */
extern void serm_mine_fire(SermMining *mining);
extern void serm_mine_explain(
    const SermMining *mining, const SermMinePair *pair, int agent, StringInfo reason);

#endif
