/*
 * serm.task, the queue: tasks are claimed under a lease in one short transaction,
 * answered outside of any, and closed together with their vote in another.
 *
 * The clock of the machine may jump: a lease or a wait that lies further ahead
 * than any that is ever set counts as over.
 */
#include "pg/annotate/annotate.h"

#include <math.h>

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/float.h"

/* Longer than every lease (10 minutes and a margin) and every wait (2 minutes). */
#define HORIZON "interval '1 hour'"

#define FINISH_PARAMS 12
/* Tokens of a request before it is written: a quarter of its bytes, and the frame around them. */
#define ESTIMATE                                                                                             \
	"((pg_catalog.octet_length(s.query) + CASE WHEN pg_catalog.octet_length(s.doc) < 16000"                  \
	" THEN pg_catalog.octet_length(s.doc) ELSE 16000 END) / 4 + 500)::pg_catalog.float8"

#define DUE                                                                                                  \
	" NOT (t.not_before > pg_catalog.now() AND t.not_before < pg_catalog.now() + " HORIZON ")"               \
	" AND (t.lease_until IS NULL OR NOT (t.lease_until > pg_catalog.now() AND t.lease_until < "              \
	"pg_catalog.now() + " HORIZON "))"

uint64
serm_queue_fill(const char *model, const List *agents, int limit)
{
	ArrayType *names, *paths;
	Datum *name_values = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	Datum *path_values = palloc(mul_size(list_length(agents) + 1, sizeof(Datum)));
	ListCell *cell;
	bool null;

	foreach (cell, agents) {
		const SermAgent *agent = lfirst(cell);

		name_values[foreach_current_index(cell)] = CStringGetTextDatum(agent->name);
		path_values[foreach_current_index(cell)] = Int32GetDatum(agent->paths);
	}
	names = construct_array(name_values, list_length(agents), TEXTOID, -1, false, TYPALIGN_INT);
	paths = construct_array(path_values, list_length(agents), INT4OID, 4, true, TYPALIGN_INT);
	{
		SermParam params[] = {
		    SERM_TEXT(model),
		    SERM_DATUM(TEXTARRAYOID, PointerGetDatum(names)),
		    SERM_DATUM(INT4ARRAYOID, PointerGetDatum(paths)),
		    SERM_INT4(limit),
		    SERM_DATUM(OIDOID, ObjectIdGetDatum(GetUserId())),
		};

		serm_spi_execute(
		    "WITH chosen AS (SELECT s.id FROM serm.sample s WHERE s.model = $1 AND s.state = 'waiting'"
		    "  ORDER BY s.priority DESC, s.id LIMIT $4 FOR UPDATE SKIP LOCKED),"
		    " taken AS (UPDATE serm.sample s SET state = 'annotating' FROM chosen c WHERE s.id = c.id "
		    "RETURNING s.id),"
		    " added AS (INSERT INTO serm.task (model, sample, agent, path, requested_by)"
		    "  SELECT $1, t.id, a.name, p.path, $5 FROM taken t, ROWS FROM (pg_catalog.unnest($2), "
		    "pg_catalog.unnest($3)) AS a(name, paths),"
		    "   pg_catalog.generate_series(1, a.paths) AS p(path)"
		    "  WHERE NOT EXISTS (SELECT FROM serm.vote v WHERE v.sample = t.id AND v.agent = a.name AND "
		    "v.path = p.path)"
		    "  ORDER BY t.id, p.path, a.name ON CONFLICT DO NOTHING)"
		    " SELECT pg_catalog.count(*) FROM taken",
		    SPI_OK_SELECT, false, params, lengthof(params));
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
	ListCell *cell;

	foreach (cell, agents)
		names[foreach_current_index(cell)] = CStringGetTextDatum(((const SermAgent *) lfirst(cell))->name);
	{
		SermParam params[] = {
		    SERM_INT8(sample),
		    SERM_TEXT(model),
		    SERM_DATUM(TEXTARRAYOID, PointerGetDatum(construct_array(
		                                 names, list_length(agents), TEXTOID, -1, false, TYPALIGN_INT))),
		    SERM_INT4(extra),
		    SERM_DATUM(OIDOID, ObjectIdGetDatum(GetUserId())),
		};

		serm_spi_execute(
		    "INSERT INTO serm.task (model, sample, agent, path, requested_by, extra)"
		    " SELECT $2, $1, a.name, l.last + p.path, $5, true FROM pg_catalog.unnest($3) AS a(name),"
		    "  LATERAL (SELECT pg_catalog.max(v.path) AS last FROM serm.vote v"
		    "   WHERE v.sample = $1 AND v.agent = a.name) AS l,"
		    "  pg_catalog.generate_series(1, $4) AS p(path)"
		    " WHERE l.last IS NOT NULL AND NOT EXISTS (SELECT FROM serm.vote v WHERE v.sample = $1 AND "
		    "v.extra)"
		    " ORDER BY p.path, a.name ON CONFLICT DO NOTHING",
		    SPI_OK_INSERT, false, params, lengthof(params));
	}
	return SPI_processed;
}

static SermTask *
read_task(uint64 i, int64 token, bool limited)
{
	SermTask *task = palloc0(sizeof(SermTask));
	bool null;

	task->id = DatumGetInt64(serm_spi_value(i, 1, &null));
	task->token = token;
	task->sample = DatumGetInt64(serm_spi_value(i, 2, &null));
	task->model = serm_spi_string(i, 3);
	task->agent = serm_spi_string(i, 4);
	task->path = DatumGetInt32(serm_spi_value(i, 5, &null));
	task->attempt = DatumGetInt32(serm_spi_value(i, 6, &null));
	task->server = serm_spi_string(i, 7);
	task->query = serm_spi_string(i, 8);
	task->doc = serm_spi_string(i, 9);
	task->round = DatumGetInt32(serm_spi_value(i, 10, &null));
	task->estimate = DatumGetFloat8(serm_spi_value(i, 11, &null));
	task->limited = limited;
	return task;
}

/* Lease due tasks of some servers, as many as `tokens` (their estimates, but for the last one) allow. */
static List *
claim_from(Oid role, Datum servers, int limit, double tokens, int lease_ms, bool limited)
{
	List *tasks = NIL;
	int64 token;

	if (!pg_strong_random(&token, sizeof(token)))
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not draw a random number"));
	{
		SermParam params[] = {
		    SERM_DATUM(OIDOID, ObjectIdGetDatum(role)),
		    SERM_INT4(limit),
		    SERM_INT4(lease_ms),
		    SERM_INT8(token),
		    SERM_DATUM(TEXTARRAYOID, servers),
		    SERM_FLOAT8(tokens),
		};

		serm_spi_execute("WITH due AS (SELECT t.id, t.not_before, t.sample, a.server FROM serm.task t"
		                 "  JOIN serm.agent a ON a.model = t.model AND a.name = t.agent"
		                 "   AND a.server::pg_catalog.text = ANY ($5)"
		                 "  WHERE t.requested_by = $1 AND" DUE
		                 "  ORDER BY t.not_before, t.id LIMIT $2 FOR UPDATE OF t SKIP LOCKED),"
		                 " sized AS (SELECT d.id, d.server, s.query, s.doc, s.round, " ESTIMATE
		                 " AS estimate,"
		                 "   pg_catalog.sum(" ESTIMATE ") OVER (ORDER BY d.not_before, d.id"
		                 "    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before"
		                 "  FROM due d JOIN serm.sample s ON s.id = d.sample)"
		                 " UPDATE serm.task t SET attempt = t.attempt + 1, token = $4,"
		                 "  lease_until = pg_catalog.now() + $3 * interval '1 millisecond'"
		                 " FROM sized z WHERE t.id = z.id AND (z.before IS NULL OR z.before < $6)"
		                 " RETURNING t.id, t.sample, t.model, t.agent, t.path, t.attempt, z.server, z.query, "
		                 "z.doc, z.round,"
		                 "  z.estimate",
		    SPI_OK_UPDATE_RETURNING, false, params, lengthof(params));
	}
	for (uint64 i = 0; i < SPI_processed; i++)
		tasks = lappend(tasks, read_task(i, token, limited));
	return tasks;
}

static Datum
array_of(Datum *names, int count)
{
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* What a limited server may be sent now; its state is told. */
static List *
claim_limited(Oid role, SermServer *server, int limit, int lease_ms)
{
	Datum name = CStringGetTextDatum(server->name);
	int allowed = Min(limit, serm_limits_allowance(server));
	double tokens = server->rates.tokens_per_minute > 0 ? server->state.tokens : get_float8_infinity();
	List *tasks = allowed > 0 ? claim_from(role, array_of(&name, 1), allowed, tokens, lease_ms, true) : NIL;
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
serm_queue_claim(Oid role, int limit, int lease_ms)
{
	List *servers = serm_limits_lock();
	Datum *free = palloc(mul_size(list_length(servers) + 1, sizeof(Datum)));
	List *tasks = NIL;
	ListCell *cell;
	int free_count = 0;

	foreach (cell, servers) {
		SermServer *server = lfirst(cell);

		if (server->limited)
			tasks = list_concat(tasks, claim_limited(role, server, limit - list_length(tasks), lease_ms));
		else
			free[free_count++] = CStringGetTextDatum(server->name);
	}
	if (free_count > 0 && list_length(tasks) < limit)
		tasks = list_concat(tasks, claim_from(role, array_of(free, free_count), limit - list_length(tasks),
		                               get_float8_infinity(), lease_ms, false));
	return tasks;
}

static SermParam
text_or_null(const char *text)
{
	return text != NULL ? SERM_TEXT(text) : SERM_NULL(TEXTOID);
}

static SermParam
number_or_null(int number)
{
	return number >= 0 ? SERM_INT4(number) : SERM_NULL(INT4OID);
}

/*
 * The one statement that runs for every answer is prepared once per process. The
 * server replans it when tables, roles or the search_path change.
 */
static SPIPlanPtr
finish_plan(const SermParam *params, int count)
{
	static SPIPlanPtr saved = NULL;
	Oid types[FINISH_PARAMS];
	SPIPlanPtr plan;

	if (saved != NULL)
		return saved;
	Assert(count == FINISH_PARAMS);
	for (int i = 0; i < count; i++)
		types[i] = params[i].type;
	plan = SPI_prepare(
	    "WITH gone AS (DELETE FROM serm.task t WHERE t.id = $1 AND t.token IS NOT DISTINCT FROM $2"
	    "  RETURNING t.sample, t.agent, t.path, t.extra),"
	    " stored AS (INSERT INTO serm.vote"
	    "  (sample, agent, path, grade, error, rationale, tokens, latency_ms, prompt, reply, cost, key, "
	    "cached, extra)"
	    "  SELECT g.sample, g.agent, g.path, $3::pg_catalog.int2, $4, $5, $6, $7, $8, $9,"
	    "   $10::pg_catalog.numeric, $11, $12, g.extra FROM gone g"
	    "  ON CONFLICT DO NOTHING)"
	    " SELECT pg_catalog.count(*) FROM gone",
	    count, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR),
		    errmsg("internal query ended with %s", SPI_result_code_string(SPI_result)));
	saved = plan;
	return saved;
}

/* A task without a token is one that the session holds under a row lock: a judge's. */
bool
serm_queue_finish(const SermTask *task, const SermVoteRow *vote)
{
	SermParam params[FINISH_PARAMS] = {
	    SERM_INT8(task->id),
	    task->token != 0 ? SERM_INT8(task->token) : SERM_NULL(INT8OID),
	    number_or_null(vote->grade),
	    text_or_null(vote->grade < 0 ? vote->error : NULL),
	    text_or_null(vote->rationale),
	    number_or_null(vote->tokens),
	    number_or_null(vote->latency_ms),
	    SERM_INT4(vote->prompt),
	    vote->reply != NULL
	        ? SERM_DATUM(BYTEAOID, PointerGetDatum(cstring_to_text_with_len(vote->reply, vote->reply_length)))
	        : SERM_NULL(BYTEAOID),
	    isnan(vote->cost) ? SERM_NULL(FLOAT8OID) : SERM_FLOAT8(vote->cost),
	    vote->key != NULL ? SERM_DATUM(BYTEAOID, PointerGetDatum(vote->key)) : SERM_NULL(BYTEAOID),
	    SERM_BOOL(vote->cached),
	};
	Datum values[FINISH_PARAMS];
	char nulls[FINISH_PARAMS];
	bool null;

	for (int i = 0; i < FINISH_PARAMS; i++) {
		values[i] = params[i].value;
		nulls[i] = params[i].null ? 'n' : ' ';
	}
	if (SPI_execute_plan(finish_plan(params, FINISH_PARAMS), values, nulls, false, 0) != SPI_OK_SELECT)
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not store a vote"));
	return DatumGetInt64(serm_spi_value(0, 1, &null)) > 0;
}

void
serm_queue_retry(const SermTask *task, const SermRetryDecision *decision, const char *error)
{
	SermParam params[] = {
	    SERM_INT8(task->id),
	    SERM_INT8(task->token),
	    SERM_INT4((int32) decision->delay_ms),
	    SERM_TEXT(error),
	    SERM_INT4(decision->counted ? 0 : 1),
	};

	serm_spi_execute(
	    "UPDATE serm.task t SET lease_until = NULL, token = NULL, last_error = $4, reserved = NULL,"
	    "  attempt = t.attempt - $5, not_before = pg_catalog.now() + $3 * interval '1 millisecond'"
	    " WHERE t.id = $1 AND t.token = $2",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}

bool
serm_queue_has(int64 task)
{
	SermParam params[] = {SERM_INT8(task)};

	serm_spi_execute("SELECT FROM serm.task t WHERE t.id = $1", SPI_OK_SELECT, false, params, 1);
	return SPI_processed > 0;
}

uint64
serm_queue_give_up(Oid role, const char *server, const char *error)
{
	SermParam params[] = {SERM_DATUM(OIDOID, ObjectIdGetDatum(role)), SERM_TEXT(server), SERM_TEXT(error)};

	/* What a dead worker had reserved for them may have been spent. */
	serm_spi_execute(
	    "WITH due AS (SELECT t.id FROM serm.task t"
	    "  JOIN serm.agent a ON a.model = t.model AND a.name = t.agent AND a.server = $2::pg_catalog.name"
	    "  WHERE t.requested_by = $1 AND t.lease_until IS NULL FOR UPDATE OF t SKIP LOCKED),"
	    " gone AS (DELETE FROM serm.task t USING due d WHERE t.id = d.id"
	    "  RETURNING t.model, t.sample, t.agent, t.path, t.last_error, t.reserved),"
	    " spent AS (INSERT INTO serm.spending AS p (model, round, day, spent, requests)"
	    "  SELECT g.model, s.round, (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date,"
	    "    pg_catalog.sum(g.reserved), pg_catalog.count(*)"
	    "   FROM gone g JOIN serm.sample s ON s.id = g.sample WHERE g.reserved IS NOT NULL GROUP BY 1, 2, 3"
	    "  ON CONFLICT (model, round, day) DO UPDATE SET spent = p.spent + EXCLUDED.spent,"
	    "   requests = p.requests + EXCLUDED.requests)"
	    " INSERT INTO serm.vote (sample, agent, path, error)"
	    " SELECT g.sample, g.agent, g.path, $3 || coalesce(': ' || g.last_error, '') FROM gone g"
	    " ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, false, params, lengthof(params));
	return SPI_processed;
}

bool
serm_queue_find_vote(bytea *key, SermVoteRow *vote)
{
	SermParam params[] = {SERM_DATUM(BYTEAOID, PointerGetDatum(key))};
	bool null;

	serm_spi_execute("SELECT v.grade::pg_catalog.int4, v.rationale, v.prompt FROM serm.vote v"
	                 " WHERE v.key = $1 AND v.grade IS NOT NULL ORDER BY v.at LIMIT 1",
	    SPI_OK_SELECT, false, params, 1);
	if (SPI_processed == 0)
		return false;
	vote->grade = DatumGetInt32(serm_spi_value(0, 1, &null));
	vote->rationale = serm_spi_string(0, 2);
	vote->prompt = DatumGetInt32(serm_spi_value(0, 3, &null));
	vote->tokens = 0;
	vote->cost = 0;
	vote->cached = true;
	return true;
}

void
serm_queue_release(Oid role)
{
	SermParam params[] = {SERM_DATUM(OIDOID, ObjectIdGetDatum(role))};

	/* What has taken down more than one worker may do so again: let the others go first. */
	serm_spi_execute("UPDATE serm.task t SET lease_until = NULL, token = NULL,"
	                 "  not_before = CASE WHEN t.attempt > 1 THEN pg_catalog.now() + interval '1 second' *"
	                 "   (1 << CASE WHEN t.attempt < 7 THEN t.attempt - 1 ELSE 6 END) ELSE t.not_before END"
	                 " WHERE t.requested_by = $1 AND t.lease_until IS NOT NULL",
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
	tasks = serm_queue_claim(GetUserId(), PG_GETARG_INT32(0), PG_GETARG_INT32(1));
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

/* serm._finish(task bigint, token bigint, grade integer, error text) returns boolean: as a worker stores a
 * vote. */
SERM_FUNCTION(serm_finish);
Datum
serm_finish(PG_FUNCTION_ARGS)
{
	SermTask task = {
	    .id = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0), .token = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1)};
	SermVoteRow vote = {.grade = PG_ARGISNULL(2) ? SERM_VOTE_NONE : PG_GETARG_INT32(2),
	    .error = PG_ARGISNULL(3) ? "no answer" : text_to_cstring(PG_GETARG_TEXT_PP(3)),
	    .tokens = -1,
	    .cost = NAN,
	    .latency_ms = -1};
	int level = serm_spi_begin(false);
	bool stored = serm_queue_finish(&task, &vote);

	serm_spi_end(level);
	PG_RETURN_BOOL(stored);
}
