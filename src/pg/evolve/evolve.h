/*
 * The room that changes models: reads what training needs, trains, evaluates,
 * decides, and runs rounds. Everything long happens between transactions: data
 * is copied into a context that survives commits, and computing holds no
 * snapshot, transaction id or lock.
 */
#ifndef SERM_PG_EVOLVE_EVOLVE_H
#define SERM_PG_EVOLVE_EVOLVE_H

#include "core/model/model.h"
#include "core/stats/auroc.h"
#include "core/stats/significance.h"
#include "core/train/encoder_pretrain.h"
#include "core/train/train.h"
#include "lib/stringinfo.h"
#include "pg/store/store.h"
#include "utils/timestamp.h"

/* --- json.c: small JSON documents for config, metrics, counts */

extern StringInfo serm_json_begin(void);
extern void serm_json_number(StringInfo json, const char *key, double value); /* NaN and infinities: null */
extern void serm_json_text(StringInfo json, const char *key, const char *value); /* NULL: null */
extern void serm_json_bool(StringInfo json, const char *key, bool value);
extern void serm_json_jsonb(StringInfo json, const char *key, const Jsonb *value);
extern Jsonb *serm_json_end(StringInfo json);
/* The union of two objects; keys of `second` win. */
extern Jsonb *serm_json_merge(const Jsonb *first, const Jsonb *second);
/* Whether there is a value; null, which means the default, is none. */
extern bool serm_json_has(const Jsonb *object, const char *key);
extern Jsonb *serm_json_without(const Jsonb *object, const char *key);
/* The value of a key that is an object, or NULL; the key is removed from *options. Error 22023 for another
 * type. */
extern Jsonb *serm_json_take_object(Jsonb **options, const char *key, const char *what);

/* --- progress.c: what serm.progress shows, and a clock */

typedef struct SermProgress {
	char model[NAMEDATALEN];
	TimestampTz started;
	TimestampTz written; /* of the last row: not every report writes one */
	char phase[16];      /* of the last row */
} SermProgress;

extern void serm_progress_begin(SermProgress *progress, const char *model);
/* Write the row and commit, unless one of the same phase was written just now. */
extern void serm_progress_report(SermProgress *progress, int *level, const SermTrainProgress *report);
/* Remove the row in the current transaction, and those of processes that are gone. */
extern void serm_progress_end(void);
extern double serm_progress_clock(void *context);

/* --- data.c: judged pairs and documents, copied out of a transaction */

/* A text in the server's encoding, as stored versions read it, and as UTF-8, as core does: often the same
 * bytes. */
typedef struct SermCopy {
	SermText text;
	SermText utf8;
} SermCopy;

/* Where a judgment comes from: serm.judgment.source. */
typedef enum SermSource {
	SERM_SOURCE_HUMAN,
	SERM_SOURCE_AGENTS,
	SERM_SOURCE_CLICKS,
	SERM_SOURCE_IMPORT,
	SERM_SOURCE_COUNT
} SermSource;

extern const char *const serm_source_names[SERM_SOURCE_COUNT];

typedef struct SermPair {
	uint32 query; /* index into SermPairSet.queries */
	SermText doc_id;
	SermCopy doc;
	float grade;
	float target[SERM_GRADES_MAX]; /* sums to 1 */
	float weight;
	uint8 source; /* SermSource */
	uint8 origin; /* SermOrigin, by the window it was read with */
} SermPair;

/* Ordered by query, then document, as bytes. */
typedef struct SermPairSet {
	SermCopy *queries;
	size_t query_count;
	SermPair *pairs;
	size_t pair_count;
} SermPairSet;

/* Called for each row of the current SPI_tuptable. */
typedef void (*SermRowReader)(void *state, uint64 row);

/* Read a statement through a cursor; 4 parameters at most. Inside serm_spi_begin(). */
extern void serm_read_rows(
    const char *sql, const SermParam *params, int count, SermRowReader reader, void *state);

/*
 * Read the current judgments of a model into `train` and `test`, each of which may be NULL. Everything is
 * allocated in the host's arena. `agreed`: take the plain grade of agents even where a soft target is stored.
 * Inside serm_spi_begin(). Errors: 22023 a grade or target that does not fit the model, 53200 more than the
 * arena's limit.
 */
extern void serm_pairs_read(
    SermHost *host, const SermModelRow *row, bool agreed, SermPairSet *train, SermPairSet *test);
/* Judgments after `since` are new; of the queries of others only a share is read into `train`, by their hash.
 */
typedef struct SermPairWindow {
	TimestampTz since;
	double share[SERM_ORIGIN_COUNT]; /* in [0, 1] */
} SermPairWindow;

/* The same, with what is new and what is old told apart. */
extern void serm_pairs_read_window(SermHost *host, const SermModelRow *row, bool agreed,
    const SermPairWindow *window, SermPairSet *train, SermPairSet *test);
/*
 * The recent segment: of the queries of the test split that a round from `since_round` on had graded, all
 * pairs with their current grade, but those in dispute and those graded by clicks; under the rule posterior
 * pairs of agents with their mean vote, in dispute or not. In order as serm_pairs_read().
 */
extern void serm_pairs_read_recent(
    SermHost *host, const SermModelRow *row, int32 since_round, SermPairSet *test);
/* A copy of the pairs that are not new. */
extern void serm_pairs_old(SermHost *host, const SermPairSet *set, SermPairSet *old);
/*
 * The documents, as UTF-8, that statistics and embeddings are learned from, about `count_max` at most, chosen
 * by their hash: those of the model, or the judged ones.
 */
extern void serm_corpus_read(
    SermHost *host, const SermModelRow *row, int32 count_max, SermText **docs, size_t *doc_count);
/*
 * Distinct pairs of the search log with a document of the model, at most `count`, whole queries in the order
 * of their hash, so that the same log gives the same pairs. Empty without a log or without documents.
 */
extern void serm_shown_read(SermHost *host, const SermModelRow *row, int32 count, SermPairSet *shown);
/* The first `count` judged pairs of a model, the same at any later time: what serm.check_version compares. */
extern void serm_probe_read(SermHost *host, const SermModelRow *row, int32 count, SermPairSet *probe);
/* Keep the pairs that people graded, unless that leaves none; returns whether it did. */
extern bool serm_pairs_keep_gold(SermPairSet *set);
/*
 * Pairs of the search log that nobody has judged and that no test query asks for, with the text of their
 * document: queries in the order of a hash by `seed`, each with `per_query` documents at most, `count` pairs
 * in all. Empty without a log or without documents.
 */
extern void serm_unlabelled_read(SermHost *host, const SermModelRow *row, int32 seed, int32 count,
    int32 per_query, SermPairSet *unlabelled);
/* Multiply weights by those of the sources, weight [SERM_SOURCE_COUNT]; 0 leaves the pairs out. */
extern void serm_pairs_weigh_sources(SermPairSet *set, const double *weight);

/* --- predict.c: predictions for a set, from memory or from a stored version */

typedef struct SermPredictions {
	const SermPairSet *set;
	uint32 grade_count;
	float *score;        /* [pair] */
	float *probability;  /* [pair][grade_count] */
	uint8 *grade;        /* [pair] by the cut points */
	uint8 *argmax;       /* [pair] */
	float *entropy;      /* [pair] */
	float *disagreement; /* [pair] */
	bool finite;         /* every number is */
} SermPredictions;

extern void serm_predict_model(
    SermHost *host, const SermModel *model, const SermPairSet *set, SermPredictions *predictions);
extern void serm_predict_scorer(
    SermHost *host, SermScorer *scorer, const SermPairSet *set, SermPredictions *predictions);
/* CRC-32C of the pairs' bytes, and of the bits of scores and probabilities. */
extern uint32 serm_pairs_crc(const SermPairSet *set);
extern uint32 serm_predictions_crc(const SermPredictions *predictions);

/* --- evaluate.c: how good predictions are */

#define SERM_ECE_BINS 10
#define SERM_NDCG_COUNT 6 /* linear gain at 1, 4, 10, then exponential gain */
#define SERM_NDCG_AT_4 1  /* index of linear NDCG@4, which the gate looks at */
#define SERM_METRIC_COUNT (SERM_NDCG_COUNT + 6)

/* Sums per query: every metric is a function of their totals or a mean of its values over queries. */
typedef struct SermEvaluation {
	const SermPairSet *set;
	uint32 grade_count;
	double *ndcg[SERM_NDCG_COUNT]; /* [query]; NaN without a positive grade */
	double *pairs;                 /* [query] */
	double *correct;               /* [query] probability mass of the target at the likeliest grade */
	double *nll;                   /* [query] nats */
	double *nll_pair;              /* [pair] nats */
	double *confusion;             /* [query][grade][grade]: judged, predicted by the cut points */
	double *bins;                  /* [query][SERM_ECE_BINS][pairs, confidence, accuracy] */
	bool *wrong;                   /* [pair] the score is off by a grade or more */
	SermRoc by_entropy;            /* of the pairs */
	SermRoc by_disagreement;
	bool finite;
} SermEvaluation;

typedef struct SermMetric {
	const char *name;
	SermInterval interval; /* NaN where the metric is not defined */
} SermMetric;

extern void serm_evaluate(SermHost *host, const SermPredictions *predictions, SermEvaluation *evaluation);
/* Intervals over queries; without draws only the values. Fills SERM_METRIC_COUNT metrics. */
extern void serm_evaluation_metrics(
    SermHost *host, const SermEvaluation *evaluation, uint32 draws, SermMetric *metrics);
extern Jsonb *serm_evaluation_json(SermHost *host, const SermEvaluation *evaluation, bool gold);

/* --- train_options.c: what serm.train can be told */

/* What serm.distill can be told besides. */
typedef struct SermDistillSettings {
	char *teacher;            /* NULL: nobody teaches */
	int32 teacher_version;    /* 0: the active one */
	double alpha;             /* share of the teacher's losses */
	double temperature;       /* of `kl` in the default loss */
	int32 judged;             /* judged pairs that the teacher is asked for, at most */
	int32 unlabelled;         /* the same of the log */
	int32 per_query;          /* of the log, documents of one query */
	double unlabelled_weight; /* what one of them counts, a judged pair being 1 */
	double failed_share;      /* of the pairs, that may stay without an answer */
	char *search_path;        /* of the caller: the evidence function of a remote teacher runs with it */
} SermDistillSettings;

typedef struct SermTrainSettings {
	int32 seed;
	int32 heads;
	int32 epochs;
	int32 pretrain_epochs;
	int32 batch;
	double learning_rate;
	double weight_decay;
	double dropout;
	double pairwise;
	double guard;
	char *loss;           /* NULL: the default */
	char *source_weights; /* "human:1,agents:.5" or NULL */
	bool class_weights;
	bool rank_weights;
	int32 curriculum;  /* epochs */
	double margin_cap; /* 0: off */
	bool propensity;   /* of judgments from clicks */
	double propensity_clip;
	bool calibrate;
	char *continued;      /* auto, always, never */
	int32 continue_above; /* judgments */
	int32 parent;         /* version to continue; 0: the active one */
	double share[SERM_ORIGIN_COUNT];
	double anchor;
	int32 replay_max;   /* pairs of history, and of the original ones, at most */
	int32 reference;    /* version; 0: the active one where a loss needs it */
	int32 corpus;       /* documents at most */
	int32 shown;        /* pairs of the log at most, for generation 0 */
	bool promote;       /* whatever the gate would say */
	bool promote_given; /* without: only a first version is promoted */
	bool encoder;       /* of a cross-encoder, which has options of its own */
	int32 list;         /* documents of a query computed together at most */
	double warmup;
	double clip;
	int32 layers_frozen;
	int32 max_length; /* tokens; 0: what the model takes */
	double mask;      /* share of the tokens to guess in pre-training */
	int32 checkpoint; /* seconds between two states that are kept; 0: each one, -1: none */
	SermDistillSettings distill;
} SermTrainSettings;

/* By the kind of the model. */
extern void serm_train_settings_defaults(SermTrainSettings *settings, const char *kind);
extern void serm_train_settings_read(const Jsonb *options, SermTrainSettings *settings, const char *what);
extern Jsonb *serm_train_settings_write(const SermTrainSettings *settings);
/* The same for serm.pretrain, which knows fewer of them. */
extern void serm_pretrain_settings_read(const Jsonb *options, SermTrainSettings *settings);
extern Jsonb *serm_pretrain_settings_write(const SermTrainSettings *settings);
/* The same for serm.distill, which knows more of them and does not continue versions. */
extern void serm_distill_settings_read(const Jsonb *options, SermTrainSettings *settings);
extern Jsonb *serm_distill_settings_write(const SermTrainSettings *settings);
/* For core; points into `settings`. */
extern SermTrainOptions serm_train_settings_core(const SermTrainSettings *settings);
/* The same for an encoder. */
extern SermEncoderTrainOptions serm_train_settings_encoder(const SermTrainSettings *settings);
extern SermEncoderPretrainOptions serm_pretrain_settings_encoder(const SermTrainSettings *settings);
/* weight [SERM_SOURCE_COUNT] of the judgments by their source; 0 leaves them out. */
extern void serm_train_settings_sources(const SermTrainSettings *settings, double *weight);
/* Whether the version `reference` has to be scored: its number was given, or a loss cannot do without. */
extern bool serm_train_settings_need_reference(const SermTrainSettings *settings);

/* --- checkpoint.c: states of a long training, for a process that may have to take over */

typedef struct SermCheckpoint {
	SermHost *host;
	const char *model;
	int32 seconds; /* between two of them; 0: after each update */
	int *level;    /* of serm_spi_begin */
	double last;   /* when one was written, or the training began */
	uint64 run;    /* of the training; 0 before it is known */
} SermCheckpoint;

/*
 * The callbacks of a SermEncoderKeeper, whose context is a SermCheckpoint: they commit, and leave an error in
 * the host.
 */
extern bool serm_checkpoint_restore(void *checkpoint, uint64_t run, SermEncoderState *state);
extern bool serm_checkpoint_keep(void *checkpoint, uint64_t run, const SermEncoderState *state);
/* Remove what was kept of a run that has ended, and what nobody came back for. Inside SPI. */
extern void serm_checkpoint_forget(const SermCheckpoint *checkpoint);

/* --- train.c */

typedef struct SermTraining {
	SermHost host; /* first: core hands this pointer to keep_going */
	const SermModelRow *row;
	SermTrainSettings settings;
	SermProgress *progress;
	int *level; /* of serm_spi_begin */
	SermPairSet train;
	SermPairSet test;
	SermPairSet probe;
	SermPairSet shown;                 /* of the log, when it is cold */
	bool cold;                         /* generation 0: no judgment takes part */
	SermScorer *reference;             /* NULL when nothing needs one */
	SermScorer *parent;                /* NULL: trained from scratch */
	struct SermTeaching *teaching;     /* NULL: nobody teaches */
	const struct SermClickLog *clicks; /* NULL when nobody asks for propensities */
	const float *propensity;           /* of `train`, or NULL */
	Jsonb *examination;                /* by position, with propensities */
	TimestampTz read_at;               /* when the judgments were read */
	SermText *corpus;
	size_t corpus_count;
	bool test_is_gold;
	TimestampTz created; /* of the model's row: another one may get its name meanwhile */
	int begin;           /* an encoder: the version whose weights it begins with */
	SermTensorSet begin_tensors;
	MemoryContext begin_context; /* holds them */
	SermCheckpoint checkpoint;
	uint32 told; /* the epoch that was told last */
	const char *gemm_name;
	SermTensorSet tensors;
	SermTrainReport report;
	SermStatus status;
	SermError error;
	Jsonb *config;
	Jsonb *metrics;
	Jsonb *counts;
} SermTraining;

/* What core asks of the process while it trains: interrupts, progress, a clock. */
extern SermTrainHost serm_training_host(SermTraining *training);
/*
 * Train on this set, whatever it was read from: the result is in `tensors` and `report`, a failure in status
 * and error. Needs row, settings, host, progress and level; for an encoder serm_encoder_training_open() as
 * well. No transaction is needed, and those that run for progress are committed.
 */
extern void serm_training_fit(SermTraining *training, const SermTrainingSet *set);
/* The new model, still in memory, on the test split and on the probe; `config` gets checksums added. */
extern void serm_training_measure(SermTraining *training, const Jsonb *config);
/*
 * Read, end the transaction, train, evaluate on the test split; the result waits in `training`. A failure
 * of the computation itself is left in status and error for serm_training_check(), everything else is raised.
 * `context` must survive commits.
 */
extern void serm_training_run(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level);
/* The same without judgments, whatever judgments there are. */
extern void serm_training_run_cold(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level);
/* Raise what serm_training_run() left. */
extern void serm_training_check(SermTraining *training);
/* When the model was made, 0 without one; a lock on its row keeps it until the transaction ends. Inside SPI.
 */
extern TimestampTz serm_model_created(const char *model, bool lock);
/* Store what was trained as a candidate; returns its number. The caller commits. Error 42704 when the model
 * was dropped meanwhile. */
extern int serm_training_store(SermTraining *training, int parent);

/* CALL procedure(model, ...), once its options are read: run, store, promote as the settings say. */
typedef void (*SermTrainingRun)(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level);
/* Make an encoder that is not there yet; returns whether there are judgments to go on with. */
extern bool serm_training_make_first(
    FunctionCallInfo fcinfo, const char *procedure, const SermTrainSettings *settings);
/* The options that a call may have depend on the kind of its model; an unknown one is told later. */
extern const char *serm_training_kind(FunctionCallInfo fcinfo);
extern void serm_training_call(
    FunctionCallInfo fcinfo, const char *procedure, const SermTrainSettings *settings, SermTrainingRun run);

/* --- remote.c: a teacher behind an endpoint */

typedef struct SermRemote SermRemote;

/*
 * Check the server of a remote model and open what asking needs, in a child of `owner`, which must survive
 * commits. Inside SPI. Errors: 42704, 42809, 42501 of the server, 55000 it lacks endpoint or model.
 */
extern SermRemote *serm_remote_open(const SermModelRow *row, MemoryContext owner);
/*
 * Ask for the pairs that are chosen: given [pair] and probability [pair][grades]. Commits. Errors: 38000 more
 * pairs without an answer than the settings allow, 08006 the server is gone, 53400 the budget is spent.
 */
extern void serm_remote_ask(SermRemote *remote, SermTraining *training, const SermPairSet *all,
    const bool *chosen, float *probability, bool *given);
extern void serm_remote_describe(const SermRemote *remote, StringInfo json);

/* --- distill.c: a teacher and what it says */

typedef struct SermTeaching {
	const SermModelRow *row; /* of the teacher */
	int version;             /* 0: it has none */
	SermScorer *scorer;      /* or: */
	SermRemote *remote;
	SermPairSet unlabelled;
	SermPairSet all;    /* judged pairs, then the others that the teacher has graded */
	float *probability; /* [all] over the student's grades */
	float *weight;      /* [all]: 0 where the teacher was not asked or did not answer */
	uint8 *judged;      /* [all] */
	size_t asked;
	size_t failed;
} SermTeaching;

/*
 * Open the teacher that the settings name and read the pairs that it is to grade. Inside SPI, once the judged
 * ones are read. Errors: 22023 the student itself, or a version that learned from it; those of
 * serm_scorer_open().
 */
extern void serm_teaching_read(SermTraining *training);
/* Have the teacher grade them. Commits. No snapshot, transaction id or lock is held meanwhile. */
extern void serm_teaching_ask(SermTraining *training);
/* For `config` and `counts` of the version. */
extern void serm_teaching_describe(const SermTraining *training, StringInfo json);
extern void serm_teaching_count(const SermTraining *training, StringInfo json);
/* --- encoder.c: what is different about a cross-encoder */

/*
 * Find and read the version that this training begins with: the one that is named or to be continued, else
 * the newest that no judgment took part in. Inside SPI. Errors: 55000 there is none, 42704 not the one that
 * is named, 53200.
 */
extern void serm_encoder_training_open(SermTraining *training);
extern void serm_encoder_training_fit(SermTraining *training, const SermTrainingSet *set);
/* Make an encoder of the model's shape from its documents: vocabulary, weights, pre-training. */
extern void serm_encoder_training_make(SermTraining *training);
/* Is this a model whose encoder is to be made here, and has not been yet? Inside SPI. */
extern bool serm_encoder_unmade(const SermModelRow *row);
/* What the tensors are: architecture, sizes, tokenizer. */
extern Jsonb *serm_encoder_json(const SermTensorSet *tensors);

/* --- propensity.c */

/* What the log says of clicks: by query, document and position. */
typedef struct SermClickLog SermClickLog;

/* Read the model's log. Inside SPI. Errors: 55000 no log or an empty one, and those of serm_source_name. */
extern const SermClickLog *serm_propensity_read(SermHost *host, const SermModelRow *row);
/*
 * The chance in (0, 1] that each pair of `set` was examined: from the log for judgments from clicks that
 * name their document, 1 for all others. `examination` gets the chance by position. Long; reads no table.
 */
extern const float *serm_propensity_fit(
    SermHost *host, const SermClickLog *log, const SermPairSet *set, Jsonb **examination);

/* --- continue.c: beginning with an earlier version, and what is forgotten by it */

/*
 * Open the version that this training begins with, or leave NULL: by the options and the number of
 * judgments. Inside SPI. Errors: 55000 there is none, 42704 not the one that is named.
 */
extern void serm_training_open_parent(SermTraining *training);
/* When the judgments that a version learned from were read. Inside SPI. */
extern TimestampTz serm_version_read_at(const char *model, int version);
/* What is new to the version, and how much of the rest training may read. Inside SPI. */
extern SermPairWindow serm_training_window(const SermTraining *training);
/* How two versions differ on the same old judgments: likelihood, calibration, ranking. */
extern Jsonb *serm_forgetting_json(
    SermHost *host, int against, const SermEvaluation *before, const SermEvaluation *after);

#endif
