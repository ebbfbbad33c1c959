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

/* Options of a model (serm.model.options), each with its default. One table in store/model_row.c. */
typedef struct SermModelOptions {
	double test_share; /* share of queries kept for testing, 0 to .5, default .2 */
	char *rule;        /* agreement across agents: unanimous (default), quorum */
	double quorum;     /* share of agents for quorum, default 2/3 */
	char *labels;      /* what training takes from agents: posterior (default), agreed */
	char *evidence;    /* function f(query text, doc text) returns text, or NULL */
} SermModelOptions;

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

/* --- versions (writers; call inside serm_spi_begin) */

/* Store tensors as a new candidate; returns its number. Takes a row lock on the model. */
extern int serm_version_store(const char *model, int parent, int64 seed, const SermTensorSet *tensors,
    const Jsonb *config, const Jsonb *metrics, const Jsonb *counts);
/* Make `version` the active one; `action` is "promote" or "rollback". Errors: 42704 no such version, 55000
 * rejected version. */
extern void serm_version_activate(const char *model, int version, const char *action, const char *reason);
extern void serm_version_set_status(const char *model, int version, const char *status);

/* --- scoring */

typedef struct SermScorer SermScorer;

/*
 * Open a version for scoring (0: the active one), from the backend's cache when
 * it is there. Valid until `owner` is reset or deleted, even if another session
 * promotes meanwhile. Needs SELECT on serm.model, serm.version, serm.tensor.
 * Errors: as serm_model_read; 55000 without an active version (hint: CALL serm.train); 42704 no such version;
 * XX001 damaged weights.
 */
extern SermScorer *serm_scorer_open(const char *model, int version, MemoryContext owner);
extern int serm_scorer_version(const SermScorer *scorer);
extern const SermModelRow *serm_scorer_row(const SermScorer *scorer);
/* True when the active version may have changed since serm_scorer_open(..., 0, ...): open again. */
extern bool serm_scorer_stale(const SermScorer *scorer);
/* Score one pair; a query equal to the previous one is not parsed again. Never allocates in the caller's
 * context. */
extern void serm_scorer_predict(SermScorer *scorer, SermText query, SermText doc, SermPrediction *prediction);

/* --- the split of queries (serm.split_of) */

/* True when a query belongs to the test split: a hash of the normalised query, the same on every machine. */
extern bool serm_query_is_test(SermText query, double test_share);

/* --- what training reads */

/*
 * The FROM/WHERE text that joins serm.current_judgment with the documents of a
 * model, giving columns (query text, doc_id text, doc text, grade real, target real[], source text, weight
 * real, at timestamptz): a judgment without text takes it from the documents. `$1` is the model's name.
 */
extern char *serm_judgment_query(const SermModelRow *row);

#endif
