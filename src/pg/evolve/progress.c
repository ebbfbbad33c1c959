/*
 * The row of a running procedure in serm._progress. It is written in a
 * transaction of its own, so that other sessions see it; a procedure that dies
 * leaves it behind, and the view serm.progress knows a row of the living by the
 * start of the statement that its process runs.
 */
#include "pg/serm.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pg/evolve/evolve.h"
#include "portability/instr_time.h"

#define SERM_PROGRESS_MS 250

void
serm_progress_begin(SermProgress *progress, const char *model)
{
	strlcpy(progress->model, model, sizeof(progress->model));
	progress->started = GetCurrentTimestamp();
	progress->written = 0;
	progress->phase[0] = '\0';
}

void
serm_progress_report(SermProgress *progress, int *level, const SermTrainProgress *report)
{
	TimestampTz now = GetCurrentTimestamp();
	SermParam params[] = {SERM_INT4(MyProcPid), SERM_TEXT(progress->model), SERM_TEXT(report->phase),
	    SERM_INT4((int32) report->step), SERM_INT4((int32) report->steps), SERM_FLOAT8(report->loss),
	    SERM_FLOAT8(report->per_second), SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(progress->started)),
	    SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(now)), SERM_FLOAT8(report->seconds_left)};

	if (strcmp(progress->phase, report->phase) == 0 &&
	    !TimestampDifferenceExceeds(progress->written, now, SERM_PROGRESS_MS))
		return;
	serm_spi_execute(
	    "INSERT INTO serm._progress AS p"
	    " (pid, model, phase, step, steps, loss, per_second, started, updated, seconds_left)"
	    " VALUES ($1, $2, $3, $4, $5, nullif($6, 0), nullif($7, 0), $8, $9, nullif($10, 0))"
	    " ON CONFLICT (pid) DO UPDATE SET model = excluded.model, phase = excluded.phase,"
	    " step = excluded.step, steps = excluded.steps, loss = excluded.loss,"
	    " per_second = excluded.per_second, started = excluded.started, updated = excluded.updated,"
	    " seconds_left = excluded.seconds_left",
	    SPI_OK_INSERT, false, params, lengthof(params));
	serm_spi_commit(level);
	progress->written = now;
	strlcpy(progress->phase, report->phase, sizeof(progress->phase));
}

void
serm_progress_end(void)
{
	SermParam params[] = {SERM_INT4(MyProcPid)};

	serm_spi_execute(
	    "DELETE FROM serm._progress WHERE pid = $1", SPI_OK_DELETE, false, params, lengthof(params));
	/* Two processes may sweep at once; under a transaction snapshot the second one would fail. */
	if (!IsolationUsesXactSnapshot())
		serm_spi_execute("DELETE FROM serm._progress WHERE pid NOT IN (SELECT a.pid FROM"
		                 " pg_catalog.pg_stat_get_activity(NULL) a WHERE a.pid IS NOT NULL)",
		    SPI_OK_DELETE, false, NULL, 0);
}

double
serm_progress_clock(void *context pg_attribute_unused())
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_DOUBLE(now);
}
