/*
 * serm.task, the queue: tasks are claimed under a lease in one short transaction,
 * answered outside of any, and closed together with their vote in another.
 *
 * The clock of the machine may be set: a lease or a wait that lies further ahead
 * than any that is ever set counts as over, so a clock that is set back holds a task
 * up no longer than the longest wait. A worker never claims what it holds itself,
 * whatever the time: all its leases have its token, and it knows how they end.
 */
#include "pg/annotate/annotate.h"

#include <math.h>

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* Longer than every wait (2 minutes) and lease (11 minutes). Those of a dead worker are freed by whoever
 * follows it. */
#define WAIT_HORIZON "interval '3 minutes'"
#define LEASE_HORIZON "interval '12 hours'"
/* A task that was given back waits behind the mark of its worker at most so long, if the queue never ends. */
#define MARK_MS 5000

/* Tokens of a request before it is written: a quarter of its bytes, and the frame around them. */
#define ESTIMATE(task)                                                                                       \
	"((pg_catalog.octet_length(s.query) + coalesce(pg_catalog.cardinality(" task                             \
	".compared), 1) * CASE WHEN pg_catalog.octet_length(s.doc) < 16000"                                      \
	" THEN pg_catalog.octet_length(s.doc) ELSE 16000 END) / 4 + 500)::pg_catalog.float8"

#define DUE                                                                                                  \
	" NOT (t.not_before > pg_catalog.now() AND t.not_before < pg_catalog.now() + " WAIT_HORIZON ")"          \
	" AND (t.lease_until IS NULL OR NOT (t.lease_until > pg_catalog.now() AND t.lease_until < "              \
	"pg_catalog.now() + " LEASE_HORIZON "))"

uint64
serm_queue_fill(const char *model, const List *agents, int limit)
{
	ArrayType *names, *paths, *docs;
	Datum *name_values = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	Datum *doc_values = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	Datum *path_values = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	ListCell *cell;
	bool null;

	foreach (cell, agents) {
		const SermAgent *agent = lfirst(cell);

		name_values[foreach_current_index(cell)] = CStringGetTextDatum(agent->name);
		path_values[foreach_current_index(cell)] = Int32GetDatum(agent->paths);
		doc_values[foreach_current_index(cell)] = Int32GetDatum(agent->docs);
	}
	names = construct_array(name_values, list_length(agents), TEXTOID, -1, false, TYPALIGN_INT);
	paths = construct_array(path_values, list_length(agents), INT4OID, 4, true, TYPALIGN_INT);
	docs = construct_array(doc_values, list_length(agents), INT4OID, 4, true, TYPALIGN_INT);
	{
		SermParam params[] = {
		    SERM_TEXT(model),
		    SERM_DATUM(TEXTARRAYOID, PointerGetDatum(names)),
		    SERM_DATUM(INT4ARRAYOID, PointerGetDatum(paths)),
		    SERM_INT4(limit),
		    SERM_DATUM(OIDOID, ObjectIdGetDatum(GetUserId())),
		    SERM_DATUM(INT4ARRAYOID, PointerGetDatum(docs)),
		};
		/* Whether there is a vote already is looked up for each task, not found by sorting all votes. */
		int level = serm_spi_prefer_indexes();

		serm_spi_execute(
		    "WITH chosen AS (SELECT s.id FROM serm.sample s WHERE s.model = $1 AND s.state = 'waiting'"
		    "  ORDER BY s.priority DESC, s.id LIMIT $4 FOR UPDATE SKIP LOCKED),"
		    " taken AS (UPDATE serm.sample s SET state = 'annotating'"
		    "  WHERE s.id = ANY (ARRAY(SELECT c.id FROM chosen c)) RETURNING s.id),"
		    " added AS (INSERT INTO serm.task (model, sample, agent, path, requested_by, compared)"
		    "  SELECT $1, t.id, a.name, p.path, $5, CASE WHEN a.docs > 1 THEN serm._compared(t.id, p.path, "
		    "a.docs) END"
		    "   FROM taken t, ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), "
		    "pg_catalog.unnest($6)) AS a(name, paths, docs),"
		    "   pg_catalog.generate_series(1, a.paths) AS p(path)"
		    "  WHERE NOT EXISTS (SELECT FROM serm.vote v WHERE v.sample = t.id AND v.agent = a.name AND "
		    "v.path = p.path OFFSET 0)"
		    "  ORDER BY t.id, p.path, a.name ON CONFLICT DO NOTHING)"
		    " SELECT pg_catalog.count(*) FROM taken",
		    SPI_OK_SELECT, false, params, lengthof(params));
		AtEOXact_GUC(false, level);
	}
	return (uint64) DatumGetInt64(serm_spi_value(0, 1, &null));
}

/*
 * Nothing in a task or a prompt tells such a pair from another. The newest ones come first: how agents err,
 * and how often each grade is right, changes with what people look for.
 */
uint64
serm_queue_slip_gold(const SermModelRow *model, int64 limit)
{
	SermParam params[] = {SERM_TEXT(model->name), SERM_FLOAT4((float4) model->options.test_share),
	    SERM_INT8(0), SERM_INT4(0), SERM_FLOAT4(0)};
	double wanted;
	bool null;

	if (model->options.gold_rate == 0)
		return 0;
	serm_spi_execute(
	    "SELECT pg_catalog.count(*) FILTER (WHERE s.agents <> '" SERM_GOLD_MARK "'),"
	    " pg_catalog.count(*) FILTER (WHERE s.agents = '" SERM_GOLD_MARK "'),"
	    " coalesce(pg_catalog.max(s.round), 0), coalesce(pg_catalog.avg(s.priority), 0)::pg_catalog.float4"
	    " FROM serm.sample s WHERE s.model = $1 AND s.state = 'waiting'",
	    SPI_OK_SELECT, false, params, 1);
	wanted = ceil(model->options.gold_rate * (double) Min(limit, DatumGetInt64(serm_spi_value(0, 1, &null))));
	wanted -= (double) DatumGetInt64(serm_spi_value(0, 2, &null));
	if (wanted <= 0)
		return 0;
	params[2] = SERM_INT8((int64) wanted);
	params[3] = SERM_INT4(DatumGetInt32(serm_spi_value(0, 3, &null)));
	params[4] = SERM_FLOAT4(DatumGetFloat4(serm_spi_value(0, 4, &null)));
	serm_spi_execute(
	    psprintf(
	        "INSERT INTO serm.sample (model, round, query, doc_id, doc, agents, priority, reason)"
	        " SELECT $1, $4, j.query, j.doc_id, j.doc, '" SERM_GOLD_MARK "', $5,"
	        " 'graded by people: shows how the agents err' %s AND j.source IN ('human', 'import')"
	        " AND j.doc_id IS NOT NULL AND serm.split_of(j.query, $2) = 'train'"
	        " AND NOT EXISTS (SELECT FROM serm.sample s WHERE s.model = $1"
	        "  AND pg_catalog.md5(s.query) = pg_catalog.md5(j.query)"
	        "  AND pg_catalog.md5(s.doc_id) = pg_catalog.md5(j.doc_id))"
	        " ORDER BY j.at DESC, pg_catalog.md5(j.doc_id || ' ' || j.query) COLLATE \"C\", j.id LIMIT $3"
	        " ON CONFLICT DO NOTHING",
	        serm_judgment_query(model)),
	    SPI_OK_INSERT, false, params, lengthof(params));
	return SPI_processed;
}

uint64
serm_queue_extend(int64 sample, const char *model, const List *agents, int extra)
{
	Datum *names = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	Datum *docs = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	ListCell *cell;

	foreach (cell, agents) {
		names[foreach_current_index(cell)] = CStringGetTextDatum(((const SermAgent *) lfirst(cell))->name);
		docs[foreach_current_index(cell)] = Int32GetDatum(((const SermAgent *) lfirst(cell))->docs);
	}
	{
		SermParam params[] = {
		    SERM_INT8(sample),
		    SERM_TEXT(model),
		    SERM_DATUM(TEXTARRAYOID, PointerGetDatum(construct_array(
		                                 names, list_length(agents), TEXTOID, -1, false, TYPALIGN_INT))),
		    SERM_INT4(extra),
		    SERM_DATUM(OIDOID, ObjectIdGetDatum(GetUserId())),
		    SERM_DATUM(INT4ARRAYOID,
		        PointerGetDatum(construct_array(docs, list_length(agents), INT4OID, 4, true, TYPALIGN_INT))),
		};

		serm_spi_execute(
		    "INSERT INTO serm.task (model, sample, agent, path, requested_by, extra, compared)"
		    " SELECT $2, $1, a.name, l.last + p.path, $5, true,"
		    "  CASE WHEN a.docs > 1 THEN serm._compared($1, l.last + p.path, a.docs) END"
		    " FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($6)) AS a(name, docs),"
		    "  LATERAL (SELECT pg_catalog.max(v.path) AS last FROM serm.vote v"
		    "   WHERE v.sample = $1 AND v.agent = a.name) AS l,"
		    "  pg_catalog.generate_series(1, $4) AS p(path)"
		    " WHERE l.last IS NOT NULL AND NOT EXISTS (SELECT FROM serm.vote v WHERE v.sample = $1 AND "
		    "v.extra)"
		    " ORDER BY p.path, a.name ON CONFLICT DO NOTHING",
		    SPI_OK_INSERT, false, params, lengthof(params));
		/* Whoever settled the sample at the same time may have asked for them a moment ago. */
		if (SPI_processed == 0)
			serm_spi_execute("SELECT FROM serm.task t WHERE t.sample = $1", SPI_OK_SELECT, false, params, 1);
	}
	return SPI_processed;
}

static int64 *
read_compared(Datum array, int *count)
{
	Datum *elements;
	int64 *ids;

	deconstruct_array(DatumGetArrayTypeP(array), INT8OID, 8, true, TYPALIGN_DOUBLE, &elements, NULL, count);
	ids = palloc(mul_size((Size) *count, sizeof(int64)));
	for (int i = 0; i < *count; i++)
		ids[i] = DatumGetInt64(elements[i]);
	return ids;
}

#define TASK_COLUMN_COUNT 14

/* Of columns in the order of TASK_COLUMNS, all at once. */
static SermTask *
read_task(uint64 i, int64 token, bool limited)
{
	SermTask *task = palloc0(sizeof(SermTask));
	Datum values[TASK_COLUMN_COUNT];
	bool nulls[TASK_COLUMN_COUNT];

	heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
	task->id = DatumGetInt64(values[0]);
	task->token = token;
	task->sample = DatumGetInt64(values[1]);
	task->model = TextDatumGetCString(values[2]);
	task->agent = TextDatumGetCString(values[3]);
	task->path = DatumGetInt32(values[4]);
	task->attempt = DatumGetInt32(values[5]);
	task->server = pstrdup(NameStr(*DatumGetName(values[6])));
	task->query = TextDatumGetCString(values[7]);
	task->doc = TextDatumGetCString(values[8]);
	task->round = DatumGetInt32(values[9]);
	task->estimate = DatumGetFloat8(values[10]);
	task->owes = DatumGetBool(values[13]);
	task->limited = limited;
	if (!nulls[11])
		task->compared = read_compared(values[11], &task->compared_count);
	return task;
}

#define CLAIMED                                                                                              \
	" UPDATE serm.task t SET attempt = t.attempt + 1, token = $4,"                                           \
	"  lease_until = pg_catalog.now() + $3 * interval '1 millisecond'"

/*
 * A range of one: were it an equality, the planner could as well walk all samples by their index, and does
 * where it believes that there are none.
 */
#define SAMPLE_OF(task) " s.id >= " task ".sample AND s.id <= " task ".sample"

/* A row that is locked stays where it is; one that has changed since the statement began is left to the next
 * look. */
#define DUE_TASKS                                                                                            \
	"WITH due AS (SELECT t.id, t.ctid AS place, t.not_before, t.sample, t.compared, a.server FROM "          \
	"serm.task t"                                                                                            \
	"  JOIN serm.agent a ON a.model = t.model AND a.name = t.agent"                                          \
	"   AND a.server::pg_catalog.text = ANY ($5)"                                                            \
	"  WHERE t.requested_by = $1 AND t.token IS DISTINCT FROM $4 AND" DUE

#define TASK_COLUMNS                                                                                         \
	" t.id, t.sample, t.model, t.agent, t.path, t.attempt, z.server, s.query, s.doc, s.round, " ESTIMATE(    \
	    "t") ", t.compared, z.not_before, t.reserved IS NOT NULL"

static Datum
array_of(Datum *names, int count)
{
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

int64
serm_queue_new_token(void)
{
	int64 token;

	if (!pg_strong_random(&token, sizeof(token)))
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not draw a random number"));
	return token;
}

static List *
read_tasks(int64 token, bool limited)
{
	List *tasks = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
		tasks = lappend(tasks, read_task(i, token, limited));
	return tasks;
}

/* Lease due tasks of one limited server, as many as `tokens` (their estimates, but for the last one) allow.
 */
static List *
claim_within(Oid role, int64 token, Datum servers, int limit, double tokens, int lease_ms)
{
	static SermKept kept;
	SermParam params[] = {
	    SERM_DATUM(OIDOID, ObjectIdGetDatum(role)),
	    SERM_INT4(limit),
	    SERM_INT4(lease_ms),
	    SERM_INT8(token),
	    SERM_DATUM(TEXTARRAYOID, servers),
	    SERM_FLOAT8(tokens),
	};

	serm_spi_execute_kept(&kept,
	    DUE_TASKS
	    "  ORDER BY t.not_before, t.id + 0 LIMIT $2 FOR UPDATE OF t SKIP LOCKED),"
	    " sized AS (SELECT d.id, d.place, d.server, d.not_before,"
	    "   pg_catalog.sum(" ESTIMATE(
	        "d") ") OVER (ORDER BY d.not_before, d.id"
	             "    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before"
	             "  FROM due d JOIN serm.sample s ON" SAMPLE_OF(
	                 "d") ")" CLAIMED
	                      " FROM sized z, serm.sample s WHERE t.ctid = z.place AND" SAMPLE_OF(
	                          "t") "  AND (z.before IS NULL OR z.before < $6) RETURNING" TASK_COLUMNS,
	    SPI_OK_UPDATE_RETURNING, params, lengthof(params));
	return read_tasks(token, true);
}

/* Lease due tasks of servers without limits that come after `mark`, and move it. */
static List *
claim_after(Oid role, int64 token, Datum servers, int limit, int lease_ms, SermQueueMark *mark)
{
	static SermKept kept;
	SermParam params[] = {
	    SERM_DATUM(OIDOID, ObjectIdGetDatum(role)),
	    SERM_INT4(limit),
	    SERM_INT4(lease_ms),
	    SERM_INT8(token),
	    SERM_DATUM(TEXTARRAYOID, servers),
	    SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(mark->not_before)),
	    SERM_INT8(mark->id),
	};
	bool null;

	serm_spi_execute_kept(&kept,
	    DUE_TASKS
	    "   AND (t.not_before, t.id + 0) > ($6, $7)"
	    "  ORDER BY t.not_before, t.id + 0 LIMIT $2 FOR UPDATE OF t SKIP LOCKED)" CLAIMED
	    " FROM due z, serm.sample s WHERE t.ctid = z.place AND" SAMPLE_OF("z") " RETURNING" TASK_COLUMNS,
	    SPI_OK_UPDATE_RETURNING, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++) {
		int64 id = DatumGetInt64(serm_spi_value(i, 1, &null));
		TimestampTz not_before = DatumGetTimestampTz(serm_spi_value(i, 13, &null));

		if (not_before > mark->not_before || (not_before == mark->not_before && id > mark->id)) {
			mark->not_before = not_before;
			mark->id = id;
		}
	}
	return read_tasks(token, false);
}

static void
reset_mark(SermQueueMark *mark)
{
	*mark = (SermQueueMark){DT_NOBEGIN, 0, serm_now_ms()};
}

/*
 * What this worker has leased, and what is gone and not yet vacuumed, lies at the head of the index: begin
 * behind it. What has come back there is found when the end is reached, or after MARK_MS.
 */
static List *
claim_free(Oid role, int64 token, Datum servers, int limit, int lease_ms, SermQueueMark *mark)
{
	SermQueueMark start;
	List *tasks;
	bool from_start;

	reset_mark(&start);
	if (mark == NULL)
		mark = &start;
	else if (mark->since_ms == 0 || start.since_ms - mark->since_ms >= MARK_MS)
		*mark = start;
	from_start = mark->not_before == DT_NOBEGIN;
	tasks = claim_after(role, token, servers, limit, lease_ms, mark);
	if (list_length(tasks) < limit && !from_start) {
		*mark = start;
		tasks =
		    list_concat(tasks, claim_after(role, token, servers, limit - list_length(tasks), lease_ms, mark));
	}
	return tasks;
}

/* What a limited server may be sent now; its state is told. */
static List *
claim_limited(Oid role, int64 token, SermServer *server, int limit, int lease_ms)
{
	Datum name = CStringGetTextDatum(server->name);
	int allowed = Min(limit, serm_limits_allowance(server));
	double tokens = server->rates.tokens_per_minute > 0 ? server->state.tokens : get_float8_infinity();
	List *tasks =
	    allowed > 0 ? claim_within(role, token, array_of(&name, 1), allowed, tokens, lease_ms) : NIL;
	double estimate = 0;
	ListCell *cell;

	foreach (cell, tasks)
		estimate += ((SermTask *) lfirst(cell))->estimate;
	serm_limit_take(&server->state, &server->rates, list_length(tasks), estimate);
	if (serm_limit_lost(&server->state, server->outage_ms)) {
		(void) serm_queue_give_up(role, server->name,
		    psprintf("the server has failed for %lld s", (long long) (server->outage_ms / 1000)));
		serm_limit_forgive(&server->state);
	}
	serm_limits_store(server);
	return tasks;
}

List *
serm_queue_claim(Oid role, int64 token, int limit, int ahead, int lease_ms, SermQueueMark *mark)
{
	List *servers = serm_limits_lock();
	int level = serm_spi_prefer_indexes();
	Datum *free = palloc(mul_size(list_length(servers) + 1, sizeof(Datum)));
	List *tasks = NIL;
	ListCell *cell;
	int free_count = 0, limited_count;

	foreach (cell, servers) {
		SermServer *server = lfirst(cell);

		if (server->limited)
			tasks =
			    list_concat(tasks, claim_limited(role, token, server, limit - list_length(tasks), lease_ms));
		else
			free[free_count++] = CStringGetTextDatum(server->name);
	}
	limited_count = list_length(tasks);
	limit += ahead - limited_count;
	if (free_count > 0 && limit > 0)
		tasks =
		    list_concat(tasks, claim_free(role, token, array_of(free, free_count), limit, lease_ms, mark));
	/* Where the others have nothing more, limited ones with rates to spare are asked ahead, too. */
	foreach (cell, servers) {
		SermServer *server = lfirst(cell);
		int room = limit - (list_length(tasks) - limited_count);

		if (server->limited && room > 0 && serm_limits_allowance(server) > 0)
			tasks = list_concat(tasks, claim_limited(role, token, server, room, lease_ms));
	}
	AtEOXact_GUC(false, level);
	return tasks;
}

bool
serm_queue_lost(const SermTask *task)
{
	SermParam params[] = {SERM_INT8(task->id), SERM_TEXT(task->model), SERM_TEXT(task->agent)};

	serm_spi_execute("SELECT FROM serm.agent a WHERE a.model = $2 AND a.name = $3 AND a.active"
	                 " AND NOT EXISTS (SELECT FROM serm.task t WHERE t.id = $1)",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed > 0;
}

void
serm_queue_release(Oid role)
{
	SermParam params[] = {SERM_DATUM(OIDOID, ObjectIdGetDatum(role))};

	/* What has taken down more than one worker may do so again: let the others go first. */
	serm_spi_execute("WITH leased AS (SELECT t.id FROM serm.task t"
	                 "  WHERE t.requested_by = $1 AND t.lease_until IS NOT NULL ORDER BY t.id FOR UPDATE)"
	                 " UPDATE serm.task t SET lease_until = NULL, token = NULL,"
	                 "  not_before = CASE WHEN t.attempt > 1 THEN pg_catalog.now() + interval '1 second' *"
	                 "   (1 << CASE WHEN t.attempt < 7 THEN t.attempt - 1 ELSE 6 END) ELSE t.not_before END"
	                 " FROM leased l WHERE t.id = l.id",
	    SPI_OK_UPDATE, false, params, 1);
}

int64
serm_queue_next_due(Oid role)
{
	SermParam params[] = {SERM_DATUM(OIDOID, ObjectIdGetDatum(role))};
	double due;
	bool null;

	serm_spi_execute("SELECT pg_catalog.min(CASE WHEN" DUE " THEN 0 ELSE 1000 * extract(epoch FROM"
	                 "  (CASE WHEN t.lease_until > t.not_before THEN t.lease_until ELSE t.not_before END) - "
	                 "pg_catalog.now())"
	                 "  END)::pg_catalog.float8 FROM serm.task t"
	                 " JOIN serm.agent a ON a.model = t.model AND a.name = t.agent AND a.server IS NOT NULL"
	                 " WHERE t.requested_by = $1",
	    SPI_OK_SELECT, false, params, 1);
	due = DatumGetFloat8(serm_spi_value(0, 1, &null));
	if (null)
		return -1;
	return due <= 0 ? 0 : (int64) due + 1;
}

/* serm._claim(task_limit integer, lease_ms integer): what a worker of the current role would lease. */
SERM_FUNCTION(serm_claim);
Datum
serm_claim(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List *tasks;
	ListCell *cell;
	int level;

	InitMaterializedSRF(fcinfo, 0);
	level = serm_spi_begin(false);
	tasks = serm_queue_claim(
	    GetUserId(), serm_queue_new_token(), PG_GETARG_INT32(0), 0, PG_GETARG_INT32(1), NULL);
	foreach (cell, tasks) {
		const SermTask *task = lfirst(cell);
		Datum values[] = {
		    Int64GetDatum(task->id),
		    Int64GetDatum(task->sample),
		    CStringGetTextDatum(task->agent),
		    Int32GetDatum(task->path),
		    Int32GetDatum(task->attempt),
		    Int64GetDatum(task->token),
		};
		bool nulls[lengthof(values)] = {0};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	serm_spi_end(level);
	return (Datum) 0;
}
