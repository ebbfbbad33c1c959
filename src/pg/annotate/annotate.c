/*
 * CALL serm.annotate: fill the queue, call the judges that are SQL functions,
 * have a worker ask the servers, wait, count the votes. Every step commits and
 * may be repeated: what an interrupted call left is finished by the next.
 */
#include "pg/annotate/annotate.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "core/agent/reply.h"

#define FILL_SAMPLES 1000
/* A batch of judges commits after so many answers or so much time, whichever comes first. */
#define JUDGE_ANSWERS 100
#define JUDGE_MS 1000
#define TICK_FIRST_MS 20
#define TICK_MS 250
/* However long looking took: it may have waited for a lock. */
#define TICK_MOST_MS 60000
#define NOTICE_MS 5000
/* A worker that ends this often without any progress will not make any. */
#define WORKER_STARTS_MAX 5
#define WORKER_REFUSED_MS 10000

typedef struct AnnotateOptions {
	int limit; /* samples; 0: all that wait */
	bool retry_failed;
} AnnotateOptions;

static const SermOption annotate_options[] = {
    {"limit", SERM_OPTION_INT, offsetof(AnnotateOptions, limit), 1, INT_MAX, NULL},
    {"retry_failed", SERM_OPTION_BOOL, offsetof(AnnotateOptions, retry_failed), 0, 0, NULL},
};

/* The worker of one role, as far as this call started it. */
typedef struct Worker {
	Oid role;
	BackgroundWorkerHandle *handle;
	int starts;       /* since the last answer */
	int64 refused_ms; /* when the server first had no slot for it, by serm_now_ms(); 0: it has */
} Worker;

typedef struct Run {
	SermModelRow *model;
	AnnotateOptions options;
	char *search_path;     /* of the caller: user functions run with it */
	MemoryContext context; /* lives as long as the call */
	MemoryContext step;    /* reset after each transaction */
	int level;
	List *workers;
	int64 open;
	int64 agreed; /* samples of the model in each state when the call began */
	int64 disputed;
	int64 failed;
} Run;

static void
commit(Run *run)
{
	MemoryContextSwitchTo(run->context);
	serm_spi_commit(&run->level);
	MemoryContextReset(run->step);
	MemoryContextSwitchTo(run->step);
}

/* --- filling */

/* Before PostgreSQL 17 a background worker may only be somebody who may log in. */
static void
check_login(Oid role)
{
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool login = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (!login)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("role %s may not log in, so no background worker can ask agents for it",
		        GetUserNameFromId(role, false)),
		    errhint("Annotate as a role with LOGIN."));
}

/* Judges are resolved before anything is promised to them. */
static void
check_agents(const Run *run, const List *agents)
{
	ListCell *cell;

	if (agents == NIL)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no active agent", run->model->name),
		    errhint(
		        "SELECT serm.add_agent(%s, 'server'), or serm.add_agent(%s, 'f(text,text)'::regprocedure).",
		        quote_literal_cstr(run->model->name), quote_literal_cstr(run->model->name)));
	foreach (cell, agents) {
		const SermAgent *agent = lfirst(cell);
		Oid function;

		if (agent->judge == NULL) {
			check_login(GetUserId());
			continue;
		}
		function = serm_judge_find(run->model->name, agent->name, agent->judge);
		(void) serm_judge_statement(function);
		serm_user_function_check(function);
	}
}

#define LEFT_BEHIND                                                                                          \
	" serm.task t WHERE t.model = $1 AND NOT EXISTS"                                                         \
	" (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = t.requested_by AND r.rolcanlogin)"

/* Of the roles that have left tasks behind under a lease, those whose worker is gone, too. */
static Datum
dead_roles(const Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name)};
	Datum *roles;
	int count = 0;
	bool null;

	serm_spi_execute("SELECT DISTINCT t.requested_by FROM" LEFT_BEHIND " AND t.lease_until IS NOT NULL",
	    SPI_OK_SELECT, false, params, lengthof(params));
	roles = palloc(mul_size(SPI_processed + 1, sizeof(Datum)));
	for (uint64 i = 0; i < SPI_processed; i++) {
		Datum role = serm_spi_value(i, 1, &null);

		if (!serm_worker_active(DatumGetObjectId(role)))
			roles[count++] = role;
	}
	return PointerGetDatum(construct_array(roles, count, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/*
 * Tasks of roles that are gone, or may not log in any more, have nobody to ask for them: they become the
 * caller's, and free of the leases of their workers, for which the caller's would seem to hold them.
 */
static void
adopt_tasks(const Run *run)
{
	SermParam params[] = {
	    SERM_TEXT(run->model->name),
	    SERM_DATUM(OIDOID, ObjectIdGetDatum(GetUserId())),
	    SERM_DATUM(OIDARRAYOID, dead_roles(run)),
	};

	serm_spi_execute(
	    "WITH left_behind AS (SELECT t.id, t.requested_by = ANY ($3) AS dead FROM" LEFT_BEHIND
	    "  ORDER BY t.id FOR UPDATE OF t)"
	    " UPDATE serm.task t SET requested_by = $2, token = CASE WHEN NOT l.dead THEN t.token END,"
	    "  lease_until = CASE WHEN NOT l.dead THEN t.lease_until END FROM left_behind l WHERE t.id = l.id",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}

/* Samples that no agent could grade get another chance, with new votes. */
static void
revive_failed(Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name)};

	serm_spi_execute("WITH failed AS (UPDATE serm.sample s SET state = 'waiting'"
	                 "  WHERE s.model = $1 AND s.state = 'failed' RETURNING s.id)"
	                 " DELETE FROM serm.vote v USING failed f WHERE v.sample = f.id AND v.error IS NOT NULL",
	    SPI_OK_DELETE, false, params, 1);
}

static void
fill_queue(Run *run)
{
	int64 left = run->options.limit > 0 ? run->options.limit : PG_INT64_MAX;

	serm_queue_gate(false);
	adopt_tasks(run);
	if (run->options.retry_failed)
		revive_failed(run);
	(void) serm_queue_slip_gold(run->model, left);
	while (left > 0) {
		List *agents = serm_agents_load(run->model, true);
		uint64 taken;

		check_agents(run, agents);
		serm_queue_gate(false);
		taken = serm_queue_fill(run->model->name, agents, (int) Min(left, FILL_SAMPLES));
		commit(run);
		if (taken == 0)
			break;
		left -= taken;
	}
}

/* --- judges that are SQL functions */

/* Lock some open tasks of judges for this transaction; the signature stands in `server`. */
static List *
lock_judge_tasks(const Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name), SERM_INT4(JUDGE_ANSWERS)};
	List *tasks = NIL;
	int level = serm_spi_prefer_indexes();
	bool null;

	serm_spi_execute("SELECT t.id, t.agent, a.judge, s.query, s.doc, t.token FROM serm.task t"
	                 " JOIN serm.agent a ON a.model = t.model AND a.name = t.agent AND a.judge IS NOT NULL"
	                 " JOIN serm.sample s ON s.id = t.sample"
	                 " WHERE t.model = $1 ORDER BY t.id LIMIT $2 FOR UPDATE OF t SKIP LOCKED",
	    SPI_OK_SELECT, false, params, 2);
	AtEOXact_GUC(false, level);
	for (uint64 i = 0; i < SPI_processed; i++) {
		SermTask *task = palloc0(sizeof(SermTask));

		task->id = DatumGetInt64(serm_spi_value(i, 1, &null));
		task->agent = serm_spi_string(i, 2);
		task->server = serm_spi_string(i, 3);
		task->query = serm_spi_string(i, 4);
		task->doc = serm_spi_string(i, 5);
		/* It has one when a worker claimed it before its agent became a judge. */
		task->token = DatumGetInt64(serm_spi_value(i, 6, &null));
		tasks = lappend(tasks, task);
	}
	return tasks;
}

static char *
clip_text(char *text, int characters)
{
	text[pg_mbcharcliplen(text, strlen(text), characters)] = '\0';
	return text;
}

static void
ask_judge(const Run *run, const SermTask *task)
{
	Oid function = serm_judge_find(run->model->name, task->agent, task->server);
	char *statement = serm_judge_statement(function);
	SermVoteRow vote = SERM_NO_VOTE;
	SermUserAnswer answer;
	int64 start = serm_now_ms();

	vote.cost = 0;
	serm_user_call(function, statement, run->search_path, task->query, task->doc, &answer);
	vote.latency_ms = (int) (serm_now_ms() - start);
	if (answer.error != NULL)
		vote.error = clip_text(answer.error, SERM_REPLY_RATIONALE_MAX);
	else if (answer.null)
		vote.error = "the judge returned no grade";
	else if (answer.grade < 0 || answer.grade >= run->model->grade_count)
		vote.error =
		    psprintf("grade %lld is outside 0 to %d", (long long) answer.grade, run->model->grade_count - 1);
	else
		vote.grade = (int) answer.grade;
	if (answer.text != NULL)
		vote.rationale = clip_text(answer.text, SERM_REPLY_RATIONALE_MAX);
	serm_queue_finish(&(SermAnswer){task, &vote, false}, 1);
}

static void
ask_judges(Run *run)
{
	bool found;

	do {
		int64 start = serm_now_ms();
		List *tasks;
		ListCell *cell;

		serm_queue_gate(false);
		tasks = lock_judge_tasks(run);
		found = tasks != NIL;
		foreach (cell, tasks) {
			CHECK_FOR_INTERRUPTS();
			ask_judge(run, lfirst(cell));
			if (serm_now_ms() - start >= JUDGE_MS)
				break;
		}
		commit(run);
	} while (found);
}

/* --- servers */

typedef struct Owner {
	Oid role;
	int64 servers; /* open tasks of servers */
	int64 judges;  /* of SQL functions */
	bool login;
} Owner;

/* Who asked for the open tasks of the model, and how many there are. */
static List *
open_tasks(Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name)};
	List *owners = NIL;
	bool null;

	serm_spi_execute("SELECT t.requested_by, pg_catalog.count(a.server), pg_catalog.count(a.judge),"
	                 "  pg_catalog.bool_or(r.rolcanlogin) FROM serm.task t"
	                 " JOIN serm.agent a ON a.model = t.model AND a.name = t.agent"
	                 " LEFT JOIN pg_catalog.pg_roles r ON r.oid = t.requested_by"
	                 " WHERE t.model = $1 GROUP BY 1",
	    SPI_OK_SELECT, false, params, 1);
	for (uint64 i = 0; i < SPI_processed; i++) {
		Owner *owner = palloc(sizeof(Owner));

		owner->role = DatumGetObjectId(serm_spi_value(i, 1, &null));
		owner->servers = DatumGetInt64(serm_spi_value(i, 2, &null));
		owner->judges = DatumGetInt64(serm_spi_value(i, 3, &null));
		owner->login = DatumGetBool(serm_spi_value(i, 4, &null)) && !null;
		owners = lappend(owners, owner);
	}
	return owners;
}

static Worker *
find_worker(Run *run, Oid role)
{
	MemoryContext previous;
	ListCell *cell;
	Worker *worker;

	foreach (cell, run->workers)
		if (((Worker *) lfirst(cell))->role == role)
			return lfirst(cell);
	previous = MemoryContextSwitchTo(run->context);
	worker = palloc0(sizeof(Worker));
	worker->role = role;
	run->workers = lappend(run->workers, worker);
	MemoryContextSwitchTo(previous);
	return worker;
}

static void
keep_worker(Run *run, Oid role)
{
	Worker *worker = find_worker(run, role);
	MemoryContext previous;
	pid_t pid;

	if (worker->handle != NULL && GetBackgroundWorkerPid(worker->handle, &pid) != BGWH_STOPPED)
		return;
	if (serm_worker_active(role))
		return;
	if (worker->starts >= WORKER_STARTS_MAX)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("the annotating worker ends without answering"),
		    errhint("The server's log says why. The tasks are kept: CALL serm.annotate again."));
	previous = MemoryContextSwitchTo(run->context);
	worker->handle = serm_worker_start(MyDatabaseId, role);
	MemoryContextSwitchTo(previous);
	if (worker->handle != NULL) {
		worker->starts++;
		worker->refused_ms = 0;
	} else if (worker->refused_ms == 0)
		worker->refused_ms = serm_now_ms();
	else if (serm_now_ms() - worker->refused_ms >= WORKER_REFUSED_MS)
		ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
		    errmsg("no background worker is free to ask the agents"),
		    errhint("Raise max_worker_processes. The tasks are kept: CALL serm.annotate again."));
}

/*
 * Start what is missing; returns the open tasks that somebody of ours works on.
 * Those of roles whose rights the caller does not have are left to the launcher.
 */
static int64
keep_workers(Run *run, int64 *foreign_tasks)
{
	int64 ours = 0;
	List *owners = open_tasks(run);
	ListCell *cell;

	*foreign_tasks = 0;
	foreach (cell, owners) {
		const Owner *owner = lfirst(cell);

		ours += owner->judges;
		if (owner->servers == 0)
			continue;
		if (!owner->login || !has_privs_of_role(GetUserId(), owner->role)) {
			*foreign_tasks += owner->servers;
			continue;
		}
		ours += owner->servers;
		keep_worker(run, owner->role);
	}
	return ours;
}

/* Nobody waits who could try again. */
static void
warn_if_refused(const Run *run)
{
	ListCell *cell;

	foreach (cell, run->workers)
		if (((Worker *) lfirst(cell))->refused_ms != 0)
			ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			    errmsg("no background worker is free to ask the agents"),
			    errhint(
			        "Raise max_worker_processes. The tasks are kept for the next CALL serm.annotate, or the "
			        "launcher of a preloaded library."));
}

/* Servers of the model that nobody may ask at the moment; NULL: there are none. */
static char *
resting_servers(const Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name)};

	serm_spi_execute("SELECT pg_catalog.string_agg(pg_catalog.format('%s is %s%s', s.server, s.state,"
	                 "  coalesce(': ' || s.last_error, '')), '; ' ORDER BY s.server)"
	                 " FROM serm.stat_server s WHERE s.state <> 'asking'"
	                 "  AND s.server IN (SELECT a.server FROM serm.agent a WHERE a.model = $1)",
	    SPI_OK_SELECT, false, params, 1);
	return serm_spi_string(0, 1);
}

static void
note_progress(Run *run, int64 open, int64 *last)
{
	ListCell *cell;
	char *resting;

	if (open < run->open)
		foreach (cell, run->workers)
			((Worker *) lfirst(cell))->starts = 0;
	run->open = open;
	if (serm_now_ms() - *last < NOTICE_MS)
		return;
	resting = resting_servers(run);
	ereport(NOTICE, errmsg("annotating \"%s\": %lld answers are open", run->model->name, (long long) open),
	    resting != NULL ? errdetail("%s.", resting) : 0);
	*last = serm_now_ms();
}

static void
wait_for_answers(Run *run)
{
	int64 last = serm_now_ms();
	int64 foreign_tasks, open;
	long tick = TICK_FIRST_MS;

	run->open = PG_INT64_MAX;
	for (;;) {
		int64 start = serm_now_ms();

		open = keep_workers(run, &foreign_tasks);
		if (open == 0)
			break;
		note_progress(run, open, &last);
		commit(run);
		/* Looking takes a tenth of the time at most, however long the queue. */
		tick = (long) Min(Max(tick, 10 * (serm_now_ms() - start)), TICK_MOST_MS);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, tick, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		tick = Min(tick * 2, TICK_MS);
		/* Those that another session had locked may have come free. */
		ask_judges(run);
	}
	if (foreign_tasks > 0)
		ereport(WARNING, errmsg("%lld open answers were requested by other roles", (long long) foreign_tasks),
		    errhint("Their own CALL serm.annotate, or the launcher of a preloaded library, finishes them."));
	commit(run);
}

/* --- the whole */

/* Samples by state; the worker settles, too, so a call tells what it brought about by the difference. */
static void
count_states(Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name)};
	bool null;

	serm_spi_execute(
	    "SELECT pg_catalog.count(*) FILTER (WHERE s.state = 'agreed'),"
	    " pg_catalog.count(*) FILTER (WHERE s.state = 'disputed'),"
	    " pg_catalog.count(*) FILTER (WHERE s.state = 'failed') FROM serm.sample s WHERE s.model = $1",
	    SPI_OK_SELECT, false, params, 1);
	run->agreed = DatumGetInt64(serm_spi_value(0, 1, &null)) - run->agreed;
	run->disputed = DatumGetInt64(serm_spi_value(0, 2, &null)) - run->disputed;
	run->failed = DatumGetInt64(serm_spi_value(0, 3, &null)) - run->failed;
}

/* Whether samples without open tasks are left: a worker has locked them and is counting their votes. */
static bool
settled_elsewhere(const Run *run)
{
	SermParam params[] = {SERM_TEXT(run->model->name)};
	bool null;

	serm_spi_execute("SELECT EXISTS (SELECT FROM serm.sample s WHERE s.model = $1 AND s.state = 'annotating'"
	                 " AND NOT EXISTS (SELECT FROM serm.task t WHERE t.sample = s.id))",
	    SPI_OK_SELECT, false, params, 1);
	return DatumGetBool(serm_spi_value(0, 1, &null));
}

static SermSettled
settle_once(Run *run, bool wait)
{
	SermSettler *settler = serm_settler_create(run->model->name, wait, run->context);
	SermSettling state;

	do {
		serm_queue_gate(false);
		state = serm_settler_step(settler);
		commit(run);
		CHECK_FOR_INTERRUPTS();
		if (state == SERM_SETTLING_COMPUTE)
			serm_settler_compute(settler);
	} while (state != SERM_SETTLING_DONE);
	return serm_settler_free(settler);
}

/* Returns whether more paths are asked for, which somebody has to answer. */
static bool
settle_all(Run *run, bool wait)
{
	bool extended = false;

	for (;;) {
		SermSettled settled = settle_once(run, wait);

		extended = extended || settled.extended > 0;
		if (settled.samples > 0)
			continue;
		if (!wait || !settled_elsewhere(run))
			return extended;
		commit(run);
		(void) WaitLatch(
		    MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, TICK_FIRST_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
serm_annotate_run(const char *model, bool wait, const Jsonb *options)
{
	MemoryContext caller = CurrentMemoryContext;
	Run run = {0};
	int64 foreign_tasks;

	run.context = AllocSetContextCreate(PortalContext, "serm annotating", ALLOCSET_DEFAULT_SIZES);
	run.step = AllocSetContextCreate(run.context, "serm annotating, one step", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(run.context);
	serm_options_read(options, annotate_options, lengthof(annotate_options), &run.options, "serm.annotate");
	run.search_path = pstrdup(namespace_search_path);
	run.model = serm_model_read(model);
	run.level = serm_spi_begin(true);
	MemoryContextSwitchTo(run.step);

	fill_queue(&run);
	if (wait)
		count_states(&run);
	else {
		(void) keep_workers(&run, &foreign_tasks);
		warn_if_refused(&run);
	}
	do {
		ask_judges(&run);
		if (wait)
			wait_for_answers(&run);
	} while (settle_all(&run, wait));
	if (wait) {
		count_states(&run);
		ereport(NOTICE, errmsg("annotated \"%s\": %lld agreed, %lld disputed, %lld failed", run.model->name,
		                    (long long) run.agreed, (long long) run.disputed, (long long) run.failed));
	}
	MemoryContextSwitchTo(run.context);
	serm_spi_end(run.level);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(run.context);
}

/*
 * CALL serm.annotate(model text, wait boolean, options jsonb)
 *
 * Errors: 2D000 in a transaction block, 42704 unknown model, 55000 no agent, a worker that
 * fails or a role that may not log in, 53400 no worker free, 22023 options.
 */
SERM_FUNCTION(serm_annotate);
Datum
serm_annotate(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool wait = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);
	Jsonb *options = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P_COPY(2);

	serm_require_nonatomic(fcinfo, "serm.annotate");
	serm_annotate_run(model, wait, options);
	PG_RETURN_VOID();
}
