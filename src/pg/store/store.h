/*
 * Models, versions and weights: the rows that hold them, and the backend-local
 * cache of opened versions that scoring reads.
 *
 * A version's bytes come from a read-only mapping of a cache file under the
 * data directory, made from serm.tensor by the first backend that needs it and
 * rebuilt whenever it is missing or damaged. The tables are the truth.
 */
#ifndef SERM_PG_STORE_STORE_H
#define SERM_PG_STORE_STORE_H

#include "pg/serm.h"

#include "core/model/model.h"

/* The shape of an encoder that is to be made here. */
typedef struct SermEncoderShape {
	int32 layers; /* 0: it is not made here */
	int32 hidden;
	int32 heads;
	int32 intermediate;
	int32 vocab;      /* pieces at most */
	int32 max_length; /* tokens of an input */
} SermEncoderShape;

/* Options of a model (serm.model.options), each with its default. One table in store/model_row.c. */
typedef struct SermModelOptions {
	double test_share; /* share of queries kept for testing, 0 to .5, default .2 */
	char *rule;        /* across agents: posterior (default), weighted, unanimous, quorum */
	double quorum;     /* share of agents for quorum, default 2/3 */
	double keep;       /* share kept of each predicted grade by weighted and posterior, default .9 */
	int32 extra_paths; /* asked of every agent where they disagree, default 0 */
	double gold_rate;  /* share of pairs that people have graded among those that agents are asked for, .02 */
	double min_reliability; /* below it an agent is suspended, default .1 */
	char *labels;           /* what training takes from agents: posterior (default), agreed */
	char *evidence;         /* function f(query text, doc text) returns text, or NULL */
	double budget;          /* what agents may cost in all, in a round, in a UTC day; NaN: no limit */
	double budget_round;
	double budget_day;
	/* Of cross-encoders only. */
	char *precision;          /* of their weights: f32 (default), bf16, int8 */
	char *long_documents;     /* truncate (default), chunk_max, chunk_first */
	int32 chunk_count;        /* of chunk_first, default 4 */
	int32 chunk_overlap;      /* tokens that neighbouring chunks share, default 32 */
	SermEncoderShape encoder; /* of a cross-encoder */
	/* Of kind remote: */
	char *server; /* a foreign server of the wrapper serm_agent */
	char *model;  /* the model's name in requests; NULL: that of the server's options */
	char *prompt; /* instructions in place of the built-in ones, or NULL */
} SermModelOptions;

/* A model behind an endpoint: it has no versions and scores in no statement; it teaches. */
#define SERM_KIND_REMOTE "remote"

typedef struct SermModelRow {
	char name[NAMEDATALEN];
	char kind[NAMEDATALEN];
	int grade_count;
	char **grades; /* names */
	Oid log;       /* InvalidOid without one */
	Oid documents; /* InvalidOid without one */
	int active;    /* 0 without one */
	SermModelOptions options;
} SermModelRow;

/*
 * The row of a model; NULL names the default (setting serm.model, else the only
 * model there is). Palloc'd in the current context; reads with the caller's
 * rights. Errors: 42704 unknown model (hint lists the models there are), 55000 none or several and none
 * named.
 */
extern SermModelRow *serm_model_read(const char *name);
/*
 * Until the end of the transaction: work on the queue of annotating (together with others), or delete what
 * tasks and samples hang on (alone). A delete cascades in an order of its own, so that each would wait for
 * rows of the other.
 */
extern void serm_queue_gate(bool alone);

/* The kind of a model, palloc'd; NULL for an unknown one. */
extern char *serm_model_kind(const char *name);

/* Remove what crashes have left of files of weights; needs no transaction. */
extern void serm_cache_sweep(void);

/* --- versions (writers; call inside serm_spi_begin) */

/* Store tensors as a new candidate; returns its number. Takes a row lock on the model; parent 0 is none.
 * Tensors that scoring could not open are refused: XX001, 22023. */
extern int serm_version_store(const char *model, int parent, int64 seed, const SermTensorSet *tensors,
    const Jsonb *config, const Jsonb *metrics, const Jsonb *counts);
/* Make `version` the active one; `action` is "promote" or "rollback". Errors: 42704 no such version, 55000
 * rejected version. */
extern void serm_version_activate(const char *model, int version, const char *action, const char *reason);
/* Errors: 42704 no such version, 55000 the active version cannot become anything else. */
extern void serm_version_set_status(const char *model, int version, const char *status);

/* --- scoring */

typedef struct SermScorer SermScorer;

/* What a reading of models and versions sees beyond the snapshot of the running statement. */
typedef enum SermSight {
	SERM_SEE_STATEMENT, /* nothing, as STABLE functions must: an open cursor goes on with its version */
	SERM_SEE_WRITES     /* what this transaction has written since: a procedure finds what it has stored */
} SermSight;

/*
 * Open a version for scoring (0: the active one), from the backend's cache when
 * it is there. Valid until `owner` is reset or deleted, even if another session
 * promotes meanwhile. Needs SELECT on serm.model, serm.version, serm.tensor.
 * Errors: as serm_model_read; 55000 without an active version (hint: CALL serm.train); 42704 no such version;
 * XX001 damaged weights.
 */
extern SermScorer *serm_scorer_open(const char *model, int version, SermSight sight, MemoryContext owner);
extern int serm_scorer_version(const SermScorer *scorer);
extern const SermModelRow *serm_scorer_row(const SermScorer *scorer);
/*
 * True when serm_scorer_open() may now answer differently: another active
 * version, another user, another statement. Open again then.
 */
extern bool serm_scorer_stale(const SermScorer *scorer);
/* Give it back before its owner goes; NULL is fine. */
extern void serm_scorer_close(SermScorer *scorer);
/*
 * Score one pair of texts in the server's encoding; only their first
 * SERM_TEXT_BYTES_MAX bytes count. A query equal to the previous one is not
 * parsed again. Never allocates in the caller's context.
 */
extern void serm_scorer_predict(SermScorer *scorer, SermText query, SermText doc, SermPrediction *prediction);

/* A document: a text in the server's encoding, or the content of a serm.doc. */
typedef struct SermDocBytes {
	SermText bytes;
	bool encoded;
} SermDocBytes;

/* The same for a document of either kind. Error XX001: damaged serm.doc. */
extern void serm_scorer_predict_bytes(
    SermScorer *scorer, SermText query, SermDocBytes doc, SermPrediction *prediction);
/*
 * Take the score of a pair apart. The result lies in the scorer until its next use; its texts are UTF-8.
 * Error XX001: damaged serm.doc.
 */
extern void serm_scorer_explain(
    SermScorer *scorer, SermText query, SermDocBytes doc, SermExplanation *explanation);

/*
 * What a serm.doc holds of a text for this model: its bytes, in the scorer until its next use.
 */
extern SermText serm_scorer_encode(SermScorer *scorer, SermText doc);

/*
 * The tensors of a version as they were stored, in `context`: what training of a cross-encoder begins with.
 * Sees what this transaction has written. Errors: 42704 no such version; XX001 damaged weights.
 */
extern SermTensorSet serm_version_tensors(const SermModelRow *row, int version, MemoryContext context);

/* The opened version itself, as long as the scorer is open: for training and merging. */
extern const SermModel *serm_scorer_model(const SermScorer *scorer);

/*
 * Pairs whose scores are computed together, with the bits of serm_scorer_predict(): start, add at most
 * SERM_BATCH_ROWS, run (which empties the batch and returns how many there were), add again.
 */
extern void serm_scorer_batch_start(SermScorer *scorer);
extern void serm_scorer_batch_add(SermScorer *scorer, SermText query, SermDocBytes doc);
extern int serm_scorer_batch_count(const SermScorer *scorer);
extern int serm_scorer_batch_run(SermScorer *scorer, SermPrediction *predictions);

/* --- samples */

/*
 * The version's distributions, prior [sample][grade], for samples of its model whose `ids` ascend; an even
 * one for each that is there no more. Only the texts of some of them are in memory at a time. Inside
 * serm_spi_begin.
 */
extern void serm_samples_predict(
    SermScorer *scorer, const int64 *ids, size_t count, uint32 grades, float *prior);

/* --- texts as models read them: the same in scoring and in training, so that both see the same bytes */

/* A model reads this much of a query or a document, counted in UTF-8. */
#define SERM_TEXT_BYTES_MAX 65536

/* The prefix of a text datum that can matter, in the server's encoding. Free *copy (NULL: nothing) after use.
 */
extern SermText serm_text_detoast(Datum datum, void **copy);
/* All bytes of a serm.doc, which may be longer than what is read of a text; the same otherwise. */
extern SermText serm_doc_detoast(Datum datum, void **copy);

/* Room for conversions that is used again; start with {context}. */
typedef struct SermTextBuffer {
	MemoryContext context;
	char *bytes;
	Size capacity;
} SermTextBuffer;

/*
 * A text in the server's encoding as UTF-8, cut to SERM_TEXT_BYTES_MAX between
 * characters. Points into `text` where nothing has to be converted, else into
 * `buffer` until its next use. What has no UTF-8 form becomes U+FFFD.
 */
extern SermText serm_text_utf8(SermText text, SermTextBuffer *buffer);

/* UTF-8 in the server's encoding, palloc'd; a character that it lacks becomes a question mark. */
extern text *serm_text_from_utf8(SermText text);

/* --- the split of queries (serm.split_of) */

/*
 * True when a query (in the server's encoding) belongs to the test split: a
 * hash of the normalised query, the same on every machine. The share counts in
 * float precision, as SQL passes it.
 */
extern bool serm_query_is_test(SermText query, double test_share);

/* --- what a model reads: its search log and its documents */

typedef enum SermSourceKind { SERM_SOURCE_LOG, SERM_SOURCE_DOCUMENTS } SermSourceKind;

/*
 * The qualified and quoted name of a relation that has the columns of its kind: texts may be varchar,
 * integers of any size, either under a domain. Errors: 55000 InvalidOid, 42P01 dropped, 42809 neither table
 * nor view, 42703 and 42804 a missing or mistyped column.
 */
extern char *serm_source_name(Oid relation, SermSourceKind kind, const char *model);

/* --- what training reads */

/*
 * The text "FROM (...) AS j WHERE j.doc IS NOT NULL", to which callers add a
 * select list before and "AND ..." or ORDER BY behind: the current judgments of
 * the model named by $1, with columns j.id bigint, j.query, j.doc_id, j.doc
 * text, j.grade real, j.target real[], j.source text, j.weight real, j.at
 * timestamptz, j.round integer. A judgment without text takes it from the model's documents.
 */
extern char *serm_judgment_query(const SermModelRow *row);

#endif
