/*
 * The prelude of everything on the Postgres side: the server's headers, the
 * function macro, and the boundary between core (status codes, arenas) and the
 * server (ereport, memory contexts).
 */
#ifndef SERM_PG_SERM_H
#define SERM_PG_SERM_H

#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "core/base/arena.h"
#include "pg/compat.h"

/* The library hides its symbols; this exports one SQL-callable function. */
#define SERM_FUNCTION(name)                                                                                  \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                                         \
	PG_FUNCTION_INFO_V1(name)

/* --- error.c: core status to SQLSTATE, core memory from a context, core loops under interrupts */

/*
 * What a core call needs of the server. Core must not be left by longjmp, so an
 * error raised inside a callback is kept in `pending` and rethrown by
 * serm_host_check() after core has unwound.
 */
typedef struct SermHost {
	MemoryContext context;
	SermArena arena; /* over `context`; reset or delete the context to free it */
	ErrorData *pending;
} SermHost;

/* `memory_bytes_max` is the arena's limit. The context must survive commits if the caller commits. */
extern void serm_host_init(SermHost *host, MemoryContext context, Size memory_bytes_max);
/* A SermKeepGoing: processes interrupts; false when one raised (cancel, terminate). `host` is a SermHost *.
 */
extern bool serm_host_keep_going(void *host);
/* Keep the current error (call it in PG_CATCH of a callback), so that keep_going says stop. */
extern void serm_host_keep_error(SermHost *host);
/* Raise what a core call or one of its callbacks left; does nothing for SERM_OK without a pending error. */
extern void serm_host_check(SermHost *host, SermStatus status, const SermError *error);
/* Raise `error` as its SQLSTATE; for core calls without a host. Does nothing for SERM_OK. */
extern void serm_check(SermStatus status, const SermError *error);
extern SermAllocator serm_context_allocator(MemoryContext context);
/* The elements to make room for, of arrays that have `capacity` and need `wanted`: twice as many as before at
 * least, and never none. */
extern size_t serm_capacity_for(size_t wanted, size_t capacity);
/* An array (NULL: none yet) with room for `count` > 0 elements; in `context`, may be huge. */
extern void *serm_array_grow(void *array, MemoryContext context, size_t count, Size size);

/* --- clock.c */

/* The machine's monotonic clock, which nobody sets, in milliseconds: for waits and ages. Never 0, which may
 * say "never"; callable anywhere, callbacks of curl included. */
extern int64 serm_now_ms(void);

/* --- spi.c: SQL with a pinned search_path, and transactions in procedures */

typedef struct SermParam {
	Oid type;
	Datum value;
	bool null;
} SermParam;

#define SERM_TEXT(string) ((SermParam){TEXTOID, CStringGetTextDatum(string), false})
#define SERM_INT4(number) ((SermParam){INT4OID, Int32GetDatum(number), false})
#define SERM_INT8(number) ((SermParam){INT8OID, Int64GetDatum(number), false})
#define SERM_FLOAT4(number) ((SermParam){FLOAT4OID, Float4GetDatum(number), false})
#define SERM_FLOAT8(number) ((SermParam){FLOAT8OID, Float8GetDatum(number), false})
#define SERM_BOOL(flag) ((SermParam){BOOLOID, BoolGetDatum(flag), false})
#define SERM_DATUM(oid, datum) ((SermParam){(oid), (datum), false})
#define SERM_NULL(oid) ((SermParam){(oid), (Datum) 0, true})

/*
 * SPI_connect with search_path set to pg_catalog, pg_temp until serm_spi_end().
 * `nonatomic` is for procedures that will call serm_spi_commit(). On error the
 * server's own clean-up restores everything.
 */
extern int serm_spi_begin(bool nonatomic); /* returns the level that serm_spi_end() takes */
extern void serm_spi_end(int level);
/* Commit, start the next transaction, pin the search_path again; the level is updated. No snapshot is held
 * after. */
extern void serm_spi_commit(int *level);
/* Until AtEOXact_GUC(false, the returned level): plans read what they need off indexes, in their order. */
extern int serm_spi_prefer_indexes(void);
/* Execute with parameters; `expected` is the SPI_OK_ code. Raises XX000 on anything else. Result in
 * SPI_tuptable, SPI_processed; the memory context stays the caller's. */
extern void serm_spi_execute(
    const char *sql, int expected, bool read_only, const SermParam *params, int count);

/*
 * The plan of one statement, kept by the process that runs it often: a static of
 * the caller, zeroed. The server replans it when tables, roles or rights change,
 * and we after a second and ever later, because tables also grow.
 */
typedef struct SermKept {
	SPIPlanPtr plan;
	int64 made_ms; /* by serm_now_ms() */
	int lasts_ms;
	int depth;
} SermKept;

/* serm_spi_execute() of a statement that writes or reads what this transaction has written; `sql` and the
 * types of `params` are the same in each call for one `kept`. */
extern void serm_spi_execute_kept(
    SermKept *kept, const char *sql, int expected, const SermParam *params, int count);
/* One value of the current result; text in the caller's context at the time of SPI_connect is the caller's
 * affair. */
extern Datum serm_spi_value(uint64 row, int column, bool *null);
extern char *serm_spi_string(uint64 row, int column); /* NULL for NULL; palloc'd in the current context */

/*
 * Run `step` in a subtransaction: NULL, or the error that undid what it did, palloc'd.
 * Being cancelled is raised as ever.
 */
extern ErrorData *serm_attempt(void (*step)(void *argument), void *argument);

/* For a procedure: error 2D000 with a hint unless it was called outside a transaction block. */
extern void serm_require_nonatomic(FunctionCallInfo fcinfo, const char *procedure);

/* --- options.c: validated jsonb options */

typedef enum SermOptionType {
	SERM_OPTION_INT,  /* int32 */
	SERM_OPTION_REAL, /* double */
	SERM_OPTION_BOOL, /* bool */
	SERM_OPTION_TEXT  /* char *, palloc'd; `choices` may limit it */
} SermOptionType;

typedef struct SermOption {
	const char *name;
	SermOptionType type;
	size_t offset; /* of the field in the struct that is filled */
	double minimum;
	double maximum;
	const char *choices; /* "unanimous, quorum": what a text may be; NULL for anything */
} SermOption;

/*
 * Read `options` (NULL: nothing) into `target`, leaving fields without a key as they are.
 * Errors 22023: not an object, unknown key (hint: the valid ones), wrong type, outside its range.
 * A JSON null leaves the default. `what` names the options in messages: "serm.train".
 */
extern void serm_options_read(
    const Jsonb *options, const SermOption *table, int count, void *target, const char *what);
/* The fields of `target` as jsonb: what was used, for storing. A real that is NaN is not set: null. */
extern Jsonb *serm_options_write(const SermOption *table, int count, const void *target);

/* --- guc.c */
extern char *serm_default_model; /* serm.model */
extern int serm_train_memory_mb; /* serm.train_memory: arena limit of training */
extern int serm_mine_pairs_max;  /* serm.mine_pairs_max: distinct pairs that mining may read */
extern void serm_define_gucs(void);

#endif
