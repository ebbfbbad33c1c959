/*
 * How tasks leave serm.task, or return to it: one statement for many, with an
 * array for each column. A task goes in the statement that stores its vote, and
 * only under the token of the lease, so nothing is lost and nothing counts twice.
 *
 * Who locks rows of several tables does it in one order, and within each of them, too: agents by name,
 * servers by name, tasks by id (or skips those that are locked), spending by model and round.
 */
#include "pg/annotate/annotate.h"

#include <math.h>

#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

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

/* Most cost nothing: the way over digits is a long one. */
static Datum
numeric_of(double amount)
{
	return amount == 0 ? NumericGetDatum(int64_to_numeric(0))
	                   : DirectFunctionCall1(float8_numeric, Float8GetDatum(amount));
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
	columns[COST].values[i] = numeric_of(vote->cost);
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

/*
 * The task of a row of arrays, by a range of one: were it an equality, the planner could as well walk the
 * whole index and look up its rows in the arrays, and does where it believes the queue to be empty, as it was
 * when it was analyzed last.
 */
#define THAT_TASK " t.id >= g.id AND t.id <= g.id"

/* Close tasks and store their votes; tells which ones. */
#define FINISH(on_conflict)                                                                                  \
	"WITH given AS (SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2),"                  \
	"   pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6),"         \
	"   pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10),"        \
	"   pg_catalog.unnest($11), pg_catalog.unnest($12), pg_catalog.unnest($13), pg_catalog.unnest($14))"     \
	"   AS g(id, token, grade, error, rationale, tokens,"                                                    \
	"   latency_ms, prompt, reply, cost, key, cached, places, canary)),"                                     \
	" gone AS (DELETE FROM serm.task t USING given g"                                                        \
	"  WHERE" THAT_TASK " AND t.token IS NOT DISTINCT FROM g.token"                                          \
	"  RETURNING t.sample, t.agent, t.path, t.extra, t.compared, g.*),"                                      \
	" stored AS (INSERT INTO serm.vote"                                                                      \
	"  (sample, agent, path, grade, error, rationale, tokens, latency_ms, prompt, reply, cost, key, "        \
	"cached, extra, compared, places, canary)"                                                               \
	"  SELECT g.sample, g.agent, g.path, g.grade::pg_catalog.int2, g.error, g.rationale, g.tokens,"          \
	"   g.latency_ms, g.prompt, g.reply, g.cost, g.key, g.cached, g.extra,"                                  \
	"   g.compared, g.places::pg_catalog.int2[], g.canary FROM gone g" on_conflict                           \
	") SELECT g.id FROM gone g"

static void
finish_step(void *params)
{
	static SermKept kept;

	serm_spi_execute_kept(&kept, FINISH(""), SPI_OK_SELECT, params, COLUMNS);
}

static void
finish_careful(const SermParam *params)
{
	static SermKept kept;

	serm_spi_execute_kept(&kept, FINISH(" ON CONFLICT DO NOTHING"), SPI_OK_SELECT, params, COLUMNS);
}

/*
 * That a vote is there already is seen by its key, and looked for only then. Not for a single vote, as a
 * judge gives them: its subtransaction would take an xid, and more than 64 of those in one transaction make
 * the snapshots of all other sessions overflow.
 */
static void
finish_all(SermParam *params, int count)
{
	ErrorData *error;

	if (count == 1) {
		finish_careful(params);
		return;
	}
	error = serm_attempt(finish_step, params);
	if (error != NULL && error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
		ReThrowError(error);
	if (error != NULL)
		finish_careful(params);
}

void
serm_queue_finish(SermAnswer *answers, int count)
{
	static const Oid types[COLUMNS] = {INT8OID, INT8OID, INT4OID, TEXTOID, TEXTOID, INT4OID, INT4OID, INT4OID,
	    BYTEAOID, NUMERICOID, BYTEAOID, BOOLOID, TEXTOID, BOOLOID};
	Column columns[COLUMNS];
	SermParam params[COLUMNS];
	bool null;
	int level;

	qsort(answers, count, sizeof(SermAnswer), by_task);
	for (int i = 0; i < COLUMNS; i++)
		columns[i] = make_column(types[i], count);
	for (int i = 0; i < count; i++)
		set_vote(columns, i, &answers[i]);
	for (int i = 0; i < COLUMNS; i++)
		params[i] = column_param(&columns[i], count);
	/* A queue that has grown since it was analyzed would be read whole for each answer. */
	level = serm_spi_prefer_indexes();
	finish_all(params, count);
	AtEOXact_GUC(false, level);
	for (uint64 i = 0; i < SPI_processed; i++) {
		SermTask task = {.id = DatumGetInt64(serm_spi_value(i, 1, &null))};
		SermAnswer wanted = {.task = &task};
		SermAnswer *answer = bsearch(&wanted, answers, count, sizeof(SermAnswer), by_task);

		answer->stored = true;
	}
}

void
serm_queue_reserve(const SermReservation *reserved, int count)
{
	static SermKept kept;
	Column ids = make_column(INT8OID, count), amounts = make_column(FLOAT8OID, count);
	int granted = 0;

	for (int i = 0; i < count; i++)
		if (reserved[i].answer == SERM_BUDGET_RESERVED && reserved[i].most > 0) {
			ids.values[granted] = Int64GetDatum(reserved[i].task->id);
			amounts.values[granted++] = Float8GetDatum(reserved[i].most);
		}
	if (granted > 0) {
		SermParam params[] = {column_param(&ids, granted), column_param(&amounts, granted)};
		int level = serm_spi_prefer_indexes();

		serm_spi_execute_kept(&kept,
		    "UPDATE serm.task t SET reserved = g.most::pg_catalog.numeric"
		    " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS g(id, most) WHERE" THAT_TASK,
		    SPI_OK_UPDATE, params, lengthof(params));
		AtEOXact_GUC(false, level);
	}
}

void
serm_queue_lock(const SermTask **tasks, int count, bool *held)
{
	static SermKept kept;
	Column ids = make_column(INT8OID, count);
	bool null;

	for (int i = 0; i < count; i++)
		ids.values[i] = Int64GetDatum(tasks[i]->id);
	{
		SermParam params[] = {column_param(&ids, count), SERM_INT8(tasks[0]->token)};
		int level = serm_spi_prefer_indexes();

		serm_spi_execute_kept(&kept,
		    "SELECT t.id FROM serm.task t WHERE t.id = ANY ($1) AND t.token = $2 ORDER BY t.id FOR UPDATE",
		    SPI_OK_SELECT, params, lengthof(params));
		AtEOXact_GUC(false, level);
	}
	for (uint64 row = 0; held != NULL && row < SPI_processed; row++) {
		int64 id = DatumGetInt64(serm_spi_value(row, 1, &null));

		for (int i = 0; i < count; i++)
			held[i] = held[i] || tasks[i]->id == id;
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
		    " WHERE" THAT_TASK " AND t.token = g.token",
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
	int level = serm_spi_prefer_indexes();
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
	AtEOXact_GUC(false, level);
	for (uint64 i = 0; i < SPI_processed; i++)
		copy_known(votes[DatumGetInt64(serm_spi_value(i, 1, &null)) - 1], i);
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
