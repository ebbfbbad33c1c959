/*
 * SPI for reads: kept plans, run under the statement's own snapshot. Scoring
 * opens a version once per statement, so this is the only SQL on its path.
 */
#include "pg/serm.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "utils/snapmgr.h"

#include "pg/store/internal.h"

SermReading
serm_reading_begin(SermSight sight)
{
	/* A procedure holds no snapshot after it has committed. */
	if (!ActiveSnapshotSet())
		PushActiveSnapshot(GetTransactionSnapshot());
	else {
		PushCopiedSnapshot(GetActiveSnapshot());
		/* Nothing is written under a parallel plan, and its workers must all see the same. */
		if (sight == SERM_SEE_WRITES && !IsInParallelMode())
			UpdateActiveSnapshotCommandId();
	}
	return (SermReading){serm_spi_begin(false)};
}

void
serm_reading_end(SermReading reading)
{
	serm_spi_end(reading.level);
	PopActiveSnapshot();
}

uint64
serm_plan_select(SermPlan *plan, const Datum *values)
{
	int code;

	if (plan->plan == NULL) {
		SPIPlanPtr prepared = SPI_prepare(plan->sql, plan->count, plan->types);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR),
			    errmsg("internal query could not be prepared: %s", SPI_result_code_string(SPI_result)),
			    errcontext("SQL statement \"%s\"", plan->sql));
		plan->plan = prepared;
	}
	code = SPI_execute_plan(plan->plan, unconstify(Datum *, values), NULL, true, 0);
	if (code != SPI_OK_SELECT)
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR),
		    errmsg("internal query ended with %s", SPI_result_code_string(code)),
		    errcontext("SQL statement \"%s\"", plan->sql));
	return SPI_processed;
}
