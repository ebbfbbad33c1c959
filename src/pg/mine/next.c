/*
 * serm.mine_next: the watermark. A window is mined once: its samples and the row
 * of serm.mined that says so are stored by one transaction, so after a crash either
 * both are there or neither. Windows end `lateness` before the newest impression;
 * what comes later than that shows as a count above all before, and its window is mined
 * again, with its share of the budget: pairs that were sampled before are left out by
 * serm.mine itself.
 */
#include "pg/mine/mine.h"

#include <math.h>

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

/* So many of the latest windows are looked at for late impressions. */
#define WINDOWS_WATCHED "10"
/* Of a call that names none, as of serm.mine. */
#define BUDGET 1000

typedef struct Window {
	TimestampTz since, until;
	int64 events, late;
} Window;

typedef struct Next {
	const SermModelRow *model;
	char *log;
	int32 budget;
	SermParam options;
	ReturnSetInfo *to;
} Next;

static SermParam
moment(TimestampTz time)
{
	return SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(time));
}

static int64
count_events(const Next *next, TimestampTz since, TimestampTz until)
{
	SermParam params[] = {moment(since), moment(until)};
	bool null;

	serm_spi_execute(
	    psprintf("SELECT count(*) FROM %s AS l WHERE l.shown_at >= $1 AND l.shown_at < $2", next->log),
	    SPI_OK_SELECT, false, params, lengthof(params));
	return DatumGetInt64(serm_spi_value(0, 1, &null));
}

/* Mine one window, store its samples, and hand out its row. */
static void
mine_window(const Next *next, const Window *window, int32 budget)
{
	SermParam params[] = {SERM_TEXT(next->model->name), moment(window->since), moment(window->until),
	    SERM_INT4(budget), next->options};
	Datum values[5];
	bool nulls[5] = {false};
	int64 samples;

	serm_spi_execute("INSERT INTO serm.sample (model, query, doc_id, doc, agents, signals, priority, reason)"
	                 " SELECT $1, m.query, m.doc_id, m.doc, m.agents, m.signals, m.priority, m.reason"
	                 " FROM serm.mine($1, $2, $3, $4, $5) AS m ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, false, params, lengthof(params));
	samples = (int64) SPI_processed;
	{
		SermParam row[] = {SERM_TEXT(next->model->name), moment(window->since), moment(window->until),
		    SERM_INT8(window->events), SERM_INT8(window->late), SERM_INT8(samples)};

		serm_spi_execute("INSERT INTO serm.mined AS w (model, since, until, events, late, samples)"
		                 " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (model, until) DO UPDATE"
		                 " SET events = excluded.events, late = w.late + excluded.late,"
		                 " samples = w.samples + excluded.samples, at = now()",
		    SPI_OK_INSERT, false, row, lengthof(row));
	}
	values[0] = TimestampTzGetDatum(window->since);
	values[1] = TimestampTzGetDatum(window->until);
	values[2] = Int64GetDatum(window->events);
	values[3] = Int64GetDatum(window->late);
	values[4] = Int64GetDatum(samples);
	tuplestore_putvalues(next->to->setResult, next->to->setDesc, values, nulls);
}

/*
 * Windows that hold more impressions than ever when they were mined: what came late has its share of the
 * budget, so that a few in each window do not cost the budget of all of them. What is missing now is not
 * noted, or a partition that comes back, a table that is loaded anew and a role that sees more again would
 * make all of it late.
 */
static void
mine_late(const Next *next)
{
	SermParam params[] = {SERM_TEXT(next->model->name)};
	Window *windows;
	uint64 count;
	bool null;

	serm_spi_execute("SELECT w.since, w.until, w.events FROM serm.mined AS w WHERE w.model = $1"
	                 " ORDER BY w.until DESC LIMIT " WINDOWS_WATCHED,
	    SPI_OK_SELECT, false, params, 1);
	count = SPI_processed;
	windows = palloc(mul_size(count + 1, sizeof(Window)));
	for (uint64 i = 0; i < count; i++)
		windows[i] = (Window){.since = DatumGetTimestampTz(serm_spi_value(i, 1, &null)),
		    .until = DatumGetTimestampTz(serm_spi_value(i, 2, &null)),
		    .events = DatumGetInt64(serm_spi_value(i, 3, &null))};
	for (uint64 i = count; i > 0; i--) {
		Window *window = &windows[i - 1];
		int64 events = count_events(next, window->since, window->until);

		if (events <= window->events)
			continue;
		window->late = events - window->events;
		window->events = events;
		mine_window(next, window,
		    (int32) ceil((double) next->budget * (double) window->late / (double) window->events));
	}
}

/* What lies between the watermark and the newest impression less the lateness. */
static void
mine_new(const Next *next, Datum lateness)
{
	SermParam params[] = {SERM_TEXT(next->model->name), SERM_DATUM(INTERVALOID, lateness)};
	Window window = {0};
	bool null, empty;

	/*
	 * An impression at the very moment belongs to the window: its end is open, so it ends just after. One of
	 * the future waits for its time: the watermark must not pass what is still to come.
	 */
	serm_spi_execute(
	    psprintf(
	        "SELECT coalesce((SELECT max(w.until) FROM serm.mined AS w WHERE w.model = $1), '-infinity'),"
	        " (SELECT max(l.shown_at) - $2 + interval '1 microsecond' FROM %s AS l"
	        " WHERE l.shown_at >= coalesce((SELECT max(w.until) FROM serm.mined AS w WHERE w.model = $1),"
	        " '-infinity') AND l.shown_at <= now())",
	        next->log),
	    SPI_OK_SELECT, false, params, lengthof(params));
	window.since = DatumGetTimestampTz(serm_spi_value(0, 1, &null));
	window.until = DatumGetTimestampTz(serm_spi_value(0, 2, &empty));
	if (empty || window.until <= window.since)
		return;
	window.events = count_events(next, window.since, window.until);
	if (window.events > 0)
		mine_window(next, &window, next->budget);
}

/* The end of the last window as the active snapshot sees it (fresh), or a statement of this transaction. */
static TimestampTz
read_watermark(const Next *next, bool fresh)
{
	SermParam params[] = {SERM_TEXT(next->model->name)};
	bool null;

	serm_spi_execute("SELECT coalesce(max(w.until), '-infinity') FROM serm.mined AS w WHERE w.model = $1",
	    SPI_OK_SELECT, fresh, params, lengthof(params));
	return DatumGetTimestampTz(serm_spi_value(0, 1, &null));
}

/*
 * Under a transaction snapshot the watermark may be an old one, and a window from there would end elsewhere
 * than the one that was mined meanwhile: nothing else would tell that they overlap.
 */
static void
check_watermark(const Next *next)
{
	TimestampTz latest;

	if (!IsolationUsesXactSnapshot())
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	latest = read_watermark(next, true);
	PopActiveSnapshot();
	if (latest != read_watermark(next, false))
		ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
		    errmsg("the log of model \"%s\" was mined since this transaction took its snapshot",
		        next->model->name),
		    errhint("Roll back and call serm.mine_next again."));
}

SERM_FUNCTION(serm_mine_next);

/* serm.mine_next(model text, budget int, lateness interval, options jsonb). */
Datum
serm_mine_next(PG_FUNCTION_ARGS)
{
	Next next = {.to = (ReturnSetInfo *) fcinfo->resultinfo};
	char *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum lateness;
	SermParam params[1];
	int level;

	InitMaterializedSRF(fcinfo, 0);
	lateness = PG_ARGISNULL(2) ? DirectFunctionCall3(interval_in, CStringGetDatum("1 hour"), InvalidOid, -1)
	                           : PG_GETARG_DATUM(2);
	next.budget = PG_ARGISNULL(1) ? BUDGET : PG_GETARG_INT32(1);
	next.options = PG_ARGISNULL(3) ? SERM_NULL(JSONBOID) : SERM_DATUM(JSONBOID, PG_GETARG_DATUM(3));
	next.model = serm_model_read(name);
	next.log = serm_source_name(next.model->log, SERM_SOURCE_LOG, next.model->name);
	level = serm_spi_begin(false);
	/* Two miners would both see the old watermark; the second waits here, and its next statement sees the
	 * new. */
	params[0] = SERM_TEXT(psprintf("serm mining of %s", next.model->name));
	serm_spi_execute(
	    "SELECT pg_advisory_xact_lock(hashtextextended($1, 83))", SPI_OK_SELECT, false, params, 1);
	check_watermark(&next);
	mine_late(&next);
	mine_new(&next, lateness);
	serm_spi_end(level);
	return (Datum) 0;
}
