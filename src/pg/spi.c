#include "pg/serm.h"

#include "access/xact.h"
#include "nodes/parsenodes.h"
#include "utils/guc.h"
#include "utils/resowner.h"

/* Plans follow tables that grow from nothing without anybody analysing them: one is made anew after this,
 * and then each time after twice as long. */
#define KEPT_FIRST_MS 1000
#define KEPT_LAST_MS 64000

/*
 * The caller's search_path must not decide what our SQL means: operators and
 * functions of a hostile schema would run with the caller's rights.
 */
static int
pin_search_path(void)
{
	int level = NewGUCNestLevel();

	(void) set_config_option(
	    "search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

int
serm_spi_begin(bool nonatomic)
{
	int code = SPI_connect_ext(nonatomic ? SPI_OPT_NONATOMIC : 0);

	if (code != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed: %s", SPI_result_code_string(code));
	return pin_search_path();
}

void
serm_spi_end(int level)
{
	AtEOXact_GUC(false, level);
	SPI_finish();
}

void
serm_spi_commit(int *level)
{
	/* A saved setting does not outlive its transaction: give it back before, pin it again after. */
	AtEOXact_GUC(false, *level);
	SPI_commit();
	*level = pin_search_path();
}

/*
 * Our statements read a few rows of tables that grow from nothing: without statistics the planner would
 * rather sort or hash them whole. What it may not do it counts as dear, which is no reason to compile.
 *
 * It may still turn a join around and walk all of an index, and does where it believes a table to be empty or
 * a model to have no rows, as when it was analyzed last. Statements that run once for each batch therefore
 * look up in subqueries with OFFSET 0, which are never made joins of, or join by a range of one.
 */
int
serm_spi_prefer_indexes(void)
{
	static const char *const settings[] = {
	    "enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_hashjoin", "enable_mergejoin", "jit"};
	int level = NewGUCNestLevel();

	for (int i = 0; i < (int) lengthof(settings); i++)
		(void) set_config_option(
		    settings[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
check_result(int code, int expected, const char *sql)
{
	if (code != expected)
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR),
		    errmsg("internal query ended with %s", SPI_result_code_string(code)),
		    errcontext("SQL statement \"%s\"", sql));
}

void
serm_spi_execute(const char *sql, int expected, bool read_only, const SermParam *params, int count)
{
	Oid types[FUNC_MAX_ARGS];
	Datum values[FUNC_MAX_ARGS];
	char nulls[FUNC_MAX_ARGS] = {0};
	MemoryContext context = CurrentMemoryContext;
	int code;

	Assert(count <= FUNC_MAX_ARGS);
	for (int i = 0; i < count; i++) {
		types[i] = params[i].type;
		values[i] = params[i].value;
		nulls[i] = params[i].null ? 'n' : ' ';
	}
	code = SPI_execute_with_args(sql, count, types, values, nulls, read_only, 0);
	/* SPI leaves its own. */
	MemoryContextSwitchTo(context);
	check_result(code, expected, sql);
}

static void
keep_plan(SermKept *kept, const char *sql, const SermParam *params, int count)
{
	Oid types[FUNC_MAX_ARGS];
	SPIPlanPtr plan;

	for (int i = 0; i < count; i++)
		types[i] = params[i].type;
	plan = SPI_prepare_cursor(sql, count, types, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR),
		    errmsg("internal query ended with %s", SPI_result_code_string(SPI_result)));
	if (kept->plan != NULL)
		SPI_freeplan(kept->plan);
	kept->plan = plan;
	kept->made_ms = serm_now_ms();
	kept->lasts_ms = Min(Max(2 * kept->lasts_ms, KEPT_FIRST_MS), KEPT_LAST_MS);
}

void
serm_spi_execute_kept(SermKept *kept, const char *sql, int expected, const SermParam *params, int count)
{
	Datum values[FUNC_MAX_ARGS];
	char nulls[FUNC_MAX_ARGS] = {0};
	MemoryContext context = CurrentMemoryContext;
	int code;

	Assert(count <= FUNC_MAX_ARGS);
	/* A trigger may lead back here: a plan that runs is not replaced. */
	if (kept->plan == NULL || (kept->depth == 0 && serm_now_ms() - kept->made_ms >= kept->lasts_ms))
		keep_plan(kept, sql, params, count);
	for (int i = 0; i < count; i++) {
		values[i] = params[i].value;
		nulls[i] = params[i].null ? 'n' : ' ';
	}
	kept->depth++;
	PG_TRY();
	{
		code = SPI_execute_plan(kept->plan, values, nulls, false, 0);
	}
	PG_FINALLY();
	{
		kept->depth--;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	check_result(code, expected, sql);
}

Datum
serm_spi_value(uint64 row, int column, bool *null)
{
	Assert(row < SPI_processed);
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, null);
}

char *
serm_spi_string(uint64 row, int column)
{
	Assert(row < SPI_processed);
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

ErrorData *
serm_attempt(void (*step)(void *argument), void *argument)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		step(argument);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	return error;
}

void
serm_require_nonatomic(FunctionCallInfo fcinfo, const char *procedure)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
	    castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR, errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
		    errmsg("%s cannot run inside a transaction block", procedure),
		    errhint(
		        "It commits in steps: call it on its own, outside BEGIN ... COMMIT and outside functions."));
}
