#include "pg/serm.h"

#include "access/xact.h"
#include "nodes/parsenodes.h"
#include "utils/guc.h"
#include "utils/resowner.h"

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
	if (code != expected)
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR),
		    errmsg("internal query ended with %s", SPI_result_code_string(code)),
		    errcontext("SQL statement \"%s\"", sql));
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
