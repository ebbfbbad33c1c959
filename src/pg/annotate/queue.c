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
#include "utils/array.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

/* Longer than every lease (10 minutes and a margin) and every wait (2 minutes). */
#define HORIZON "interval '1 hour'"

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

		serm_spi_execute(
		    "WITH chosen AS (SELECT s.id FROM serm.sample s WHERE s.model = $1 AND s.state = 'waiting'"
		    "  ORDER BY s.priority DESC, s.id LIMIT $4 FOR UPDATE SKIP LOCKED),"
		    " taken AS (UPDATE serm.sample s SET state = 'annotating' FROM chosen c WHERE s.id = c.id "
		    "RETURNING s.id),"
		    " added AS (INSERT INTO serm.task (model, sample, agent, path, requested_by, compared)"
		    "  SELECT $1, t.id, a.name, p.path, $5, CASE WHEN a.docs > 1 THEN serm._compared(t.id, p.path, "
		    "a.docs) END"
		    "   FROM taken t, ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), "
		    "pg_catalog.unnest($6)) AS a(name, paths, docs),"
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
	}
	return SPI_processed;
}

static int64 *
read_compared(uint64 row, int *count)
{
	bool null;
	Datum array = serm_spi_value(row, 12, &null);
	Datum *elements;
	int64 *ids;

	*count = 0;
	if (null)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), INT8OID, 8, true, TYPALIGN_DOUBLE, &elements, NULL, count);
	ids = palloc(mul_size((Size) *count, sizeof(int64)));
	for (int i = 0; i < *count; i++)
		ids[i] = DatumGetInt64(elements[i]);
	return ids;
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
	task->owes = DatumGetBool(serm_spi_value(i, 13, &null));
	task->limited = limited;
	task->compared = read_compared(i, &task->compared_count);
	return task;
}

/* Lease due tasks of some servers, as many as `tokens` (their estimates, but for the last one) allow. */
static List *
claim_from(Oid role, Datum servers, int limit, double tokens, int lease_ms, bool limited)
{
	static SermKept kept;
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

		serm_spi_execute_kept(&kept,
		    "WITH due AS (SELECT t.id, t.not_before, t.sample, a.server FROM serm.task t"
		    "  JOIN serm.agent a ON a.model = t.model AND a.name = t.agent"
		    "   AND a.server::pg_catalog.text = ANY ($5)"
		    "  WHERE t.requested_by = $1 AND" DUE
		    "  ORDER BY t.not_before, t.id LIMIT $2 FOR UPDATE OF t SKIP LOCKED),"
		    " sized AS (SELECT d.id, d.server, s.query, s.doc, s.round, " ESTIMATE " AS estimate,"
		    "   pg_catalog.sum(" ESTIMATE ") OVER (ORDER BY d.not_before, d.id"
		    "    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before"
		    "  FROM due d JOIN serm.sample s ON s.id = d.sample)"
		    " UPDATE serm.task t SET attempt = t.attempt + 1, token = $4,"
		    "  lease_until = pg_catalog.now() + $3 * interval '1 millisecond'"
		    " FROM sized z WHERE t.id = z.id AND (z.before IS NULL OR z.before < $6)"
		    " RETURNING t.id, t.sample, t.model, t.agent, t.path, t.attempt, z.server, z.query, "
		    "z.doc, z.round,"
		    "  z.estimate, t.compared, t.reserved IS NOT NULL",
		    SPI_OK_UPDATE_RETURNING, params, lengthof(params));
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

/* Without statistics the planner would rather sort all that is due than read the first ones off the index;
 * what it may not do it counts as dear, which is no reason to compile. */
static int
force_index_order(void)
{
	int level = NewGUCNestLevel();

	(void) set_config_option(
	    "enable_bitmapscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option(
	    "enable_sort", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

List *
serm_queue_claim(Oid role, int limit, int ahead, int lease_ms)
{
	List *servers = serm_limits_lock();
	int level = force_index_order();
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
	limit += ahead - list_length(tasks);
	if (free_count > 0 && limit > 0)
		tasks = list_concat(tasks,
		    claim_from(role, array_of(free, free_count), limit, get_float8_infinity(), lease_ms, false));
	AtEOXact_GUC(false, level);
	return tasks;
}

/* --- the ends of tasks: one statement for many, with an array for each column */

typedef struct Column {
	Oid type; /* of the elements */
	Datum *values;
	bool *nulls;
} Column;

static Column
make_column(Oid type, int count)
{
	return (Column){type, palloc(mul_size(count, sizeof(Datum))), palloc0(mul_size(count, sizeof(bool)))};
}

static SermParam
column_param(const Column *column, int count)
{
	int dimensions[] = {count}, first[] = {1};
	int16 length;
	bool by_value;
	char align;

	get_typlenbyvalalign(column->type, &length, &by_value, &align);
	return SERM_DATUM(
	    get_array_type(column->type), PointerGetDatum(construct_md_array(column->values, column->nulls, 1,
	                                      dimensions, first, column->type, length, by_value, align)));
}

static void
set_text(Column *column, int i, const char *text)
{
	column->nulls[i] = text == NULL;
	column->values[i] = text != NULL ? CStringGetTextDatum(text) : (Datum) 0;
}

/* Negative: not known. */
static void
set_number(Column *column, int i, int number)
{
	column->nulls[i] = number < 0;
	column->values[i] = Int32GetDatum(number);
}

enum {
	ID,
	TOKEN,
	GRADE,
	ERROR_TEXT,
	RATIONALE,
	TOKENS,
	LATENCY,
	PROMPT,
	REPLY,
	COST,
	KEY,
	CACHED,
	PLACES,
	CANARY,
	COLUMNS
};

/* A task without a token is one that the session holds under a row lock: a judge's. */
static void
set_vote(Column *columns, int i, const SermAnswer *answer)
{
	const SermVoteRow *vote = answer->vote;

	columns[ID].values[i] = Int64GetDatum(answer->task->id);
	columns[TOKEN].values[i] = Int64GetDatum(answer->task->token);
	columns[TOKEN].nulls[i] = answer->task->token == 0;
	set_number(&columns[GRADE], i, vote->grade);
	set_text(&columns[ERROR_TEXT], i, vote->grade < 0 && vote->places == NULL ? vote->error : NULL);
	set_text(&columns[RATIONALE], i, vote->rationale);
	set_number(&columns[TOKENS], i, vote->tokens);
	set_number(&columns[LATENCY], i, vote->latency_ms);
	columns[PROMPT].values[i] = Int32GetDatum(vote->prompt);
	columns[REPLY].nulls[i] = vote->reply == NULL;
	if (vote->reply != NULL)
		columns[REPLY].values[i] =
		    PointerGetDatum(cstring_to_text_with_len(vote->reply, (int) vote->reply_length));
	columns[COST].nulls[i] = isnan(vote->cost);
	columns[COST].values[i] = Float8GetDatum(vote->cost);
	columns[KEY].nulls[i] = vote->key == NULL;
	columns[KEY].values[i] = PointerGetDatum(vote->key);
	columns[CACHED].values[i] = BoolGetDatum(vote->cached);
	set_text(&columns[PLACES], i, vote->places);
	columns[CANARY].nulls[i] = vote->canary < 0;
	columns[CANARY].values[i] = BoolGetDatum(vote->canary > 0);
}

static int
by_task(const void *a, const void *b)
{
	const int64 one = ((const SermAnswer *) a)->task->id, other = ((const SermAnswer *) b)->task->id;

	return one < other ? -1 : one > other;
}

void
serm_queue_finish(SermAnswer *answers, int count)
{
	static const Oid types[COLUMNS] = {INT8OID, INT8OID, INT4OID, TEXTOID, TEXTOID, INT4OID, INT4OID, INT4OID,
	    BYTEAOID, FLOAT8OID, BYTEAOID, BOOLOID, TEXTOID, BOOLOID};
	static SermKept kept;
	Column columns[COLUMNS];
	SermParam params[COLUMNS];
	bool null;

	qsort(answers, count, sizeof(SermAnswer), by_task);
	for (int i = 0; i < COLUMNS; i++)
		columns[i] = make_column(types[i], count);
	for (int i = 0; i < count; i++)
		set_vote(columns, i, &answers[i]);
	for (int i = 0; i < COLUMNS; i++)
		params[i] = column_param(&columns[i], count);
	serm_spi_execute_kept(&kept,
	    "WITH given AS (SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"
	    "   pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6),"
	    "   pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10),"
	    "   pg_catalog.unnest($11), pg_catalog.unnest($12), pg_catalog.unnest($13), pg_catalog.unnest($14))"
	    "   AS g(id, token, grade, error, rationale, tokens,"
	    "   latency_ms, prompt, reply, cost, key, cached, places, canary)),"
	    " gone AS (DELETE FROM serm.task t USING given g"
	    "  WHERE t.id = g.id AND t.token IS NOT DISTINCT FROM g.token"
	    "  RETURNING t.sample, t.agent, t.path, t.extra, t.compared, g.*),"
	    " stored AS (INSERT INTO serm.vote"
	    "  (sample, agent, path, grade, error, rationale, tokens, latency_ms, prompt, reply, cost, key, "
	    "cached, extra, compared, places, canary)"
	    "  SELECT g.sample, g.agent, g.path, g.grade::pg_catalog.int2, g.error, g.rationale, g.tokens,"
	    "   g.latency_ms, g.prompt, g.reply, g.cost::pg_catalog.numeric, g.key, g.cached, g.extra,"
	    "   g.compared, g.places::pg_catalog.int2[], g.canary FROM gone g"
	    "  ON CONFLICT DO NOTHING)"
	    " SELECT g.id FROM gone g",
	    SPI_OK_SELECT, params, COLUMNS);
	for (uint64 i = 0; i < SPI_processed; i++) {
		SermTask task = {.id = DatumGetInt64(serm_spi_value(i, 1, &null))};
		SermAnswer wanted = {.task = &task};
		SermAnswer *answer = bsearch(&wanted, answers, count, sizeof(SermAnswer), by_task);

		answer->stored = true;
	}
}

void
serm_queue_give_back(SermTask **tasks, const char **reasons, int count)
{
	static SermKept kept;
	Column ids = make_column(INT8OID, count), tokens = make_column(INT8OID, count);
	Column texts = make_column(TEXTOID, count);

	for (int i = 0; i < count; i++) {
		ids.values[i] = Int64GetDatum(tasks[i]->id);
		tokens.values[i] = Int64GetDatum(tasks[i]->token);
		set_text(&texts, i, reasons[i]);
	}
	{
		SermParam params[] = {
		    column_param(&ids, count), column_param(&tokens, count), column_param(&texts, count)};

		serm_spi_execute_kept(&kept,
		    "UPDATE serm.task t SET lease_until = NULL, token = NULL, reserved = NULL,"
		    "  attempt = t.attempt - 1, last_error = coalesce(g.reason, t.last_error)"
		    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
		    "  AS g(id, token, reason)"
		    " WHERE t.id = g.id AND t.token = g.token",
		    SPI_OK_UPDATE, params, lengthof(params));
	}
}

void
serm_queue_retry(const SermTask *task, const SermRetryDecision *decision, const char *error)
{
	static SermKept kept;
	SermParam params[] = {
	    SERM_INT8(task->id),
	    SERM_INT8(task->token),
	    SERM_INT4((int32) decision->delay_ms),
	    SERM_TEXT(error),
	    SERM_INT4(decision->counted ? 0 : 1),
	};

	serm_spi_execute_kept(&kept,
	    "UPDATE serm.task t SET lease_until = NULL, token = NULL, last_error = $4, reserved = NULL,"
	    "  attempt = t.attempt - $5, not_before = pg_catalog.now() + $3 * interval '1 millisecond'"
	    " WHERE t.id = $1 AND t.token = $2",
	    SPI_OK_UPDATE, params, lengthof(params));
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
	    "   ORDER BY g.model COLLATE \"C\", s.round"
	    "  ON CONFLICT (model, round, day) DO UPDATE SET spent = p.spent + EXCLUDED.spent,"
	    "   requests = p.requests + EXCLUDED.requests)"
	    " INSERT INTO serm.vote (sample, agent, path, error)"
	    " SELECT g.sample, g.agent, g.path,"
	    "  $3 || coalesce(': ' || coalesce(g.last_error, pg_catalog.max(g.last_error) OVER ()), '') FROM "
	    "gone g"
	    " ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, false, params, lengthof(params));
	return SPI_processed;
}

static void
copy_known(SermVoteRow *vote, uint64 row)
{
	bool null;

	vote->places = serm_spi_string(row, 5);
	vote->grade = vote->places != NULL ? SERM_VOTE_NONE : DatumGetInt16(serm_spi_value(row, 2, &null));
	vote->rationale = serm_spi_string(row, 3);
	vote->prompt = DatumGetInt32(serm_spi_value(row, 4, &null));
	vote->tokens = 0;
	vote->cost = 0;
	vote->cached = true;
}

void
serm_queue_find_votes(SermVoteRow **votes, int count)
{
	static SermKept kept;
	Column keys = make_column(BYTEAOID, count);
	SermParam params[1];
	bool null;

	for (int i = 0; i < count; i++)
		keys.values[i] = PointerGetDatum(votes[i]->key);
	params[0] = column_param(&keys, count);
	serm_spi_execute_kept(&kept,
	    "SELECT k.n, o.grade, o.rationale, o.prompt, o.places::pg_catalog.text"
	    " FROM pg_catalog.unnest($1) WITH ORDINALITY AS k(key, n),"
	    " LATERAL (SELECT v.grade, v.rationale, v.prompt, v.places FROM serm.vote v"
	    "  WHERE v.key = k.key AND v.error IS NULL ORDER BY v.at LIMIT 1) AS o",
	    SPI_OK_SELECT, params, 1);
	for (uint64 i = 0; i < SPI_processed; i++)
		copy_known(votes[DatumGetInt64(serm_spi_value(i, 1, &null)) - 1], i);
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
	tasks = serm_queue_claim(GetUserId(), PG_GETARG_INT32(0), 0, PG_GETARG_INT32(1));
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
	SermVoteRow vote = SERM_NO_VOTE;
	SermAnswer answer = {&task, &vote, false};
	int level = serm_spi_begin(false);

	vote.grade = PG_ARGISNULL(2) ? SERM_VOTE_NONE : PG_GETARG_INT32(2);
	vote.error = PG_ARGISNULL(3) ? "no answer" : text_to_cstring(PG_GETARG_TEXT_PP(3));
	serm_queue_finish(&answer, 1);
	serm_spi_end(level);
	PG_RETURN_BOOL(answer.stored);
}
