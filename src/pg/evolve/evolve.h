/*
 * The room that changes models: reads what training needs, trains, evaluates,
 * decides, and runs rounds. Everything long happens between transactions: data
 * is copied into a context that survives commits, and computing holds no
 * snapshot, transaction id or lock.
 */
#ifndef SERM_PG_EVOLVE_EVOLVE_H
#define SERM_PG_EVOLVE_EVOLVE_H

#include "core/model/model.h"
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
/* The value of a key that is an object, or NULL; the key is removed from *options. Error 22023 for another type. */
extern Jsonb *serm_json_take_object(Jsonb **options, const char *key, const char *what);

/* --- progress.c: what serm.progress shows, and a clock */

typedef struct SermProgress {
	char model[NAMEDATALEN];
	TimestampTz started;
	TimestampTz written; /* of the last row; rows are at most one per SERM_PROGRESS_MS */
} SermProgress;

extern void serm_progress_begin(SermProgress *progress, const char *model);
/* Write and commit the row unless one was written just now; `always` writes in any case. */
extern void serm_progress_report(
    SermProgress *progress, int *level, const SermTrainProgress *report, bool always);
/* Remove the row in the current transaction, and those of processes that are gone. */
extern void serm_progress_end(void);
extern double serm_progress_clock(void *context);

/* --- data.c: judged pairs and documents, copied out of a transaction */

/* A text in the server's encoding, as stored versions read it, and as UTF-8, as core does: often the same bytes. */
typedef struct SermCopy {
	SermText text;
	SermText utf8;
} SermCopy;

typedef struct SermPair {
	uint32 query; /* index into SermPairSet.queries */
	SermText doc_id;
	SermCopy doc;
	float grade;
	float target[SERM_GRADES_MAX]; /* sums to 1 */
	float weight;
	bool gold; /* graded by people: source human or import */
} SermPair;

/* Ordered by query, then document, as bytes. */
typedef struct SermPairSet {
	SermCopy *queries;
	size_t query_count;
	SermPair *pairs;
	size_t pair_count;
} SermPairSet;

/*
 * Read the current judgments of a model into `train` and `test`, each of which may be NULL. Everything is
 * allocated in the host's arena. `agreed`: take the plain grade of agents even where a soft target is stored.
 * Inside serm_spi_begin(). Errors: 22023 a grade or target that does not fit the model, 53200 more than the
 * arena's limit.
 */
extern void serm_pairs_read(
    SermHost *host, const SermModelRow *row, bool agreed, SermPairSet *train, SermPairSet *test);
/*
 * The documents, as UTF-8, that statistics and embeddings are learned from, about `count_max` at most, chosen by
 * their hash: those of the model, or the judged ones.
 */
extern void serm_corpus_read(
    SermHost *host, const SermModelRow *row, int32 count_max, SermText **docs, size_t *doc_count);
/* The first judged pairs of a model, the same at any later time: what serm.check_version compares. */
extern void serm_probe_read(SermHost *host, const SermModelRow *row, SermPairSet *probe);
/* Keep the pairs that people graded, unless that leaves none; returns whether it did. */
extern bool serm_pairs_keep_gold(SermPairSet *set);

/* --- predict.c: predictions for a set, from memory or from a stored version */

typedef struct SermPredictions {
	const SermPairSet *set;
	uint32 grade_count;
	float *score;       /* [pair] */
	float *probability; /* [pair][grade_count] */
	uint8 *grade;       /* [pair] by the cut points */
	uint8 *argmax;      /* [pair] */
	bool finite;        /* every number is */
} SermPredictions;

extern void serm_predict_model(
    SermHost *host, const SermModel *model, const SermPairSet *set, SermPredictions *predictions);
extern void serm_predict_scorer(
    SermHost *host, SermScorer *scorer, const SermPairSet *set, SermPredictions *predictions);
/* CRC-32C over the pairs' bytes, and over the bits of scores and probabilities. */
extern uint32 serm_predictions_input_crc(const SermPairSet *set);
extern uint32 serm_predictions_crc(const SermPredictions *predictions);

/* --- train.c */

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
	int32 corpus; /* documents at most */
	bool promote;
} SermTrainSettings;

extern void serm_train_settings_defaults(SermTrainSettings *settings);
extern void serm_train_settings_read(const Jsonb *options, SermTrainSettings *settings, const char *what);
extern Jsonb *serm_train_settings_write(const SermTrainSettings *settings);

typedef struct SermTraining {
	SermHost host; /* first: core hands this pointer to keep_going */
	const SermModelRow *row;
	SermTrainSettings settings;
	SermProgress *progress;
	int *level; /* of serm_spi_begin */
	SermPairSet train;
	SermPairSet test;
	SermPairSet probe;
	SermText *corpus;
	size_t corpus_count;
	bool test_is_gold;
	SermTensorSet tensors;
	SermTrainReport report;
	const char *gemm_name;
	SermStatus status; /* of computing; not raised by serm_training_run */
	SermError error;
	Jsonb *config;
	Jsonb *metrics;
	Jsonb *counts;
} SermTraining;

/*
 * Read, end the transaction, train, evaluate on the test split. The result waits in `training`;
 * a failure of the computation itself is left in status and error, everything else is raised.
 */
extern void serm_training_run(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level);
/* Store what was trained as a candidate; returns its number. The caller commits. */
extern int serm_training_store(SermTraining *training, int parent);

#endif
