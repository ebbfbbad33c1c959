/*
 * The process that asks agents: one per database and role, started when there is
 * work and gone when there is none. It runs as the role that asked for the work.
 *
 * A turn claims tasks (one short transaction), prepares their prompts (another),
 * talks to the network with no transaction open, and stores what came back (a
 * third). Whoever holds the worker's lock owns all leases of its role: a worker
 * that takes it over from a dead one frees them at once.
 */
#include "pg/annotate/annotate.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/pmsignal.h"
#include "tcop/tcopprot.h"
#include "utils/snapmgr.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "pg/annotate/job.h"

/* More than the longest timeout of a server: while a worker lives nobody else claims its tasks. */
#define LEASE_MS (11 * 60 * 1000)
#define POLL_MS 100
#define CLAIM_MS 250
#define IDLE_MS 1000
#define SETTLE_MS 5000
#define LOCK_KEY 0x7365726d
#define LOCK_TRIES 20

typedef struct Model {
	char *name;
	bool broken; /* its samples could not be settled */
} Model;

typedef struct Worker {
	Oid role;
	MemoryContext context;
	char *search_path;
	SermHttp *http;
	List *done;   /* jobs to store */
	List *models; /* of Model: their samples may be complete */
	TimestampTz next_claim;
	bool blocked; /* the last look for tasks found none to claim */
	TimestampTz next_settle;
} Worker;

extern PGDLLEXPORT void serm_annotate_worker_main(Datum argument);

/* Where everything between two turns is allocated; a commit would leave us in the top context. */
static MemoryContext turn_context = NULL;

/* --- transactions */

static int
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!OidIsValid(get_extension_oid("serm", true))) {
		PopActiveSnapshot();
		CommitTransactionCommand();
		proc_exit(0);
	}
	return serm_spi_begin(false);
}

static void
end(int level)
{
	serm_spi_end(level);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn_context);
	pgstat_report_stat(false);
}

/* --- the lock */

static LOCKTAG
lock_tag(Oid role)
{
	LOCKTAG tag;

	/* A fourth field that no SQL function sets: sessions cannot take this lock by hand. */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, LOCK_KEY, role, 3);
	return tag;
}

bool
serm_worker_active(Oid role)
{
	LOCKTAG tag = lock_tag(role);

	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ExclusiveLock, false);
	return false;
}

/* Sessions hold it for a moment when they look: try again before believing in another worker. */
static bool
take_lock(Oid role)
{
	LOCKTAG tag = lock_tag(role);

	for (int i = 0; i < LOCK_TRIES; i++) {
		if (LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL)
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(5000);
	}
	return false;
}

static void
release_lock(Oid role)
{
	LOCKTAG tag = lock_tag(role);

	LockRelease(&tag, ExclusiveLock, true);
}

/* --- claiming, preparing, storing */

static List *
claim(Worker *worker, int limit)
{
	List *jobs = NIL;
	List *tasks;
	ListCell *cell;
	int level = begin();

	tasks = serm_queue_claim(worker->role, limit, LEASE_MS);
	foreach (cell, tasks) {
		SermJob *job = serm_job_create(worker->context, lfirst(cell), worker->role, worker->search_path);
		MemoryContext previous = MemoryContextSwitchTo(worker->context);

		jobs = lappend(jobs, job);
		MemoryContextSwitchTo(previous);
	}
	end(level);
	return jobs;
}

static void
note_model(Worker *worker, const char *name)
{
	MemoryContext previous;
	ListCell *cell;
	Model *model;

	foreach (cell, worker->models)
		if (strcmp(((Model *) lfirst(cell))->name, name) == 0)
			return;
	previous = MemoryContextSwitchTo(worker->context);
	model = palloc0(sizeof(Model));
	model->name = pstrdup(name);
	worker->models = lappend(worker->models, model);
	MemoryContextSwitchTo(previous);
}

static void
keep_done(Worker *worker, SermJob *job)
{
	MemoryContext previous = MemoryContextSwitchTo(worker->context);

	worker->done = lappend(worker->done, job);
	MemoryContextSwitchTo(previous);
}

static void
start_jobs(Worker *worker, List *jobs)
{
	List *admitted = NIL;
	ListCell *cell;
	int level = begin();

	foreach (cell, jobs) {
		SermJob *job = lfirst(cell);

		note_model(worker, job->task.model);
		serm_job_prepare(job);
		if (serm_job_admit(job))
			admitted = lappend(admitted, job);
		else
			keep_done(worker, job);
	}
	end(level);
	foreach (cell, admitted) {
		SermJob *job = lfirst(cell);
		SermHttpRequest request = {job->server.endpoint, job->key, job->body.bytes, job->body.length,
		    job->server.timeout_ms, job->server.connect_timeout_ms};

		serm_http_start(worker->http, &request, job);
	}
}

/* Keep the vote or put the task back; what it did cost is settled with it. */
static void
store_job(const SermJob *job)
{
	bool kept = true;

	if (job->decision.action == SERM_RETRY_AGAIN)
		serm_queue_retry(&job->task, &job->decision, job->failure);
	else
		kept = serm_queue_finish(&job->task, &job->vote);
	if (!kept)
		ereport(DEBUG1, errmsg("serm: a late answer to task %lld is dropped", (long long) job->task.id));
	/* Whoever took the task over has counted what was reserved for it. */
	if (!isnan(job->vote.cost) && (kept || !serm_queue_has(job->task.id)))
		serm_budget_charge(&job->task, job->vote.cost);
}

/* What the end of a request tells about its server; NULL: nothing that matters. */
static SermServerReport *
report_of(const SermJob *job)
{
	SermServerEvent event = serm_limit_event(job->outcome, job->http_status);
	SermServerReport *report;

	if (job->vote.cached || !serm_limits_matter(&job->task, event))
		return NULL;
	report = palloc(sizeof(SermServerReport));
	*report = (SermServerReport){job->task.server, event,
	    job->vote.tokens >= 0 ? job->vote.tokens - job->task.estimate : 0, job->retry_after_ms};
	return report;
}

/* Read what has ended and store it, all in one transaction. */
static void
store_done(Worker *worker)
{
	SermHttpResult result;
	ListCell *cell;
	List *reports = NIL;
	int level;
	bool some = serm_http_next(worker->http, &result);

	if (!some && worker->done == NIL)
		return;
	level = begin();
	while (some) {
		serm_job_finish(result.job, &result);
		keep_done(worker, result.job);
		serm_http_release(worker->http, &result);
		some = serm_http_next(worker->http, &result);
	}
	foreach (cell, worker->done) {
		SermServerReport *report = report_of(lfirst(cell));

		store_job(lfirst(cell));
		if (report != NULL)
			reports = lappend(reports, report);
	}
	serm_limits_note(reports);
	end(level);
	foreach (cell, worker->done)
		serm_job_free(lfirst(cell));
	list_free(worker->done);
	worker->done = NIL;
}

/* --- the loop */

typedef struct Settling {
	const char *model;
	MemoryContext context;
	SermSettler *settler;
	SermSettling state;
} Settling;

static void
settle_step(void *argument)
{
	Settling *settling = argument;
	SermParam params[] = {SERM_TEXT(settling->model)};

	settling->state = SERM_SETTLING_DONE;
	if (settling->settler == NULL) {
		serm_spi_execute("SELECT FROM serm.model m WHERE m.name = $1", SPI_OK_SELECT, false, params, 1);
		if (SPI_processed == 0)
			return;
		settling->settler = serm_settler_create(settling->model, false, settling->context);
	}
	settling->state = serm_settler_step(settling->settler);
}

/* What is wrong with one model must not keep the worker from asking for others: who annotates it next is
 * told. */
static void
settle_model(Model *model)
{
	Settling settling = {model->name, turn_context, NULL, SERM_SETTLING_DONE};

	do {
		int level = begin();
		ErrorData *error = serm_attempt(settle_step, &settling);

		if (error != NULL) {
			model->broken = true;
			ereport(LOG, errcode(error->sqlerrcode),
			    errmsg("samples of model \"%s\" cannot be settled: %s", model->name, error->message));
		}
		end(level);
		CHECK_FOR_INTERRUPTS();
		if (settling.state == SERM_SETTLING_COMPUTE && !model->broken)
			serm_settler_compute(settling.settler);
	} while (settling.state != SERM_SETTLING_DONE && !model->broken);
	if (settling.settler != NULL)
		(void) serm_settler_free(settling.settler);
}

static void
settle_models(Worker *worker)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz now;
	ListCell *cell;

	foreach (cell, worker->models)
		if (!((Model *) lfirst(cell))->broken)
			settle_model(lfirst(cell));
	/* Looking for complete samples takes a twentieth of the time at most, however many there are. */
	now = GetCurrentTimestamp();
	worker->next_settle =
	    TimestampTzPlusMilliseconds(now, Max(SETTLE_MS, 20 * TimestampDifferenceMilliseconds(start, now)));
}

static void
claim_more(Worker *worker)
{
	int wanted = serm_annotate_concurrency - serm_http_in_flight(worker->http);
	TimestampTz now = GetCurrentTimestamp();
	List *jobs;

	if (wanted <= 0 || now < worker->next_claim)
		return;
	jobs = claim(worker, wanted);
	worker->blocked = jobs == NIL;
	worker->next_claim = list_length(jobs) < wanted ? TimestampTzPlusMilliseconds(now, CLAIM_MS) : now;
	if (jobs != NIL)
		start_jobs(worker, jobs);
	list_free(jobs);
}

static int64
next_due(const Worker *worker)
{
	int level = begin();
	int64 due = serm_queue_next_due(worker->role);

	end(level);
	return due;
}

/*
 * Nothing is in flight: wait for what is due later, or leave. Whoever adds tasks
 * now may find the lock taken and rely on this worker, so look again without it.
 */
static bool
rest(Worker *worker)
{
	int64 due = next_due(worker);

	if (due != 0)
		settle_models(worker);
	if (due < 0) {
		release_lock(worker->role);
		due = next_due(worker);
		if (due < 0 || !take_lock(worker->role))
			return false;
	}
	/* What is due and cannot be claimed is locked by somebody. */
	if (due == 0 && worker->blocked)
		due = CLAIM_MS;
	if (due > 0) {
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) Min(due, IDLE_MS),
		    PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	worker->next_claim = 0;
	return true;
}

static void
run_worker(Worker *worker)
{
	for (;;) {
		CHECK_FOR_INTERRUPTS();
		/* Waiting for the network, unlike waiting for the latch, does not notice. */
		if (!PostmasterIsAlive())
			proc_exit(1);
		if (ConfigReloadPending) {
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		claim_more(worker);
		if (serm_http_in_flight(worker->http) > 0)
			serm_http_poll(worker->http, POLL_MS);
		store_done(worker);
		if (serm_http_in_flight(worker->http) == 0 && worker->done == NIL && !rest(worker))
			return;
		if (GetCurrentTimestamp() > worker->next_settle)
			settle_models(worker);
		MemoryContextReset(turn_context);
	}
}

static void
free_leases(const Worker *worker)
{
	int level = begin();

	serm_queue_release(worker->role);
	end(level);
}

void
serm_annotate_worker_main(Datum argument)
{
	Worker worker = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&worker.role, MyBgworkerEntry->bgw_extra, sizeof(worker.role));
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), worker.role, 0);
	if (!take_lock(worker.role))
		proc_exit(0);
	pgstat_report_activity(STATE_RUNNING, "asking agents");
	worker.context =
	    AllocSetContextCreate(TopMemoryContext, "serm annotating worker", ALLOCSET_DEFAULT_SIZES);
	turn_context = AllocSetContextCreate(worker.context, "serm annotating, one turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(turn_context);
	worker.search_path = MemoryContextStrdup(worker.context, namespace_search_path);
	worker.http = serm_http_open();
	free_leases(&worker);
	run_worker(&worker);
	serm_http_close(worker.http);
	proc_exit(0);
}

BackgroundWorkerHandle *
serm_worker_start(Oid database, Oid role)
{
	BackgroundWorker worker = {.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
	    .bgw_start_time = BgWorkerStart_RecoveryFinished,
	    .bgw_restart_time = BGW_NEVER_RESTART,
	    .bgw_main_arg = ObjectIdGetDatum(database),
	    .bgw_notify_pid = MyProcPid};
	BackgroundWorkerHandle *handle;

	/* An own process of a role that may be gone tomorrow is not restarted for ever: sessions and the launcher
	 * do it. */
	snprintf(worker.bgw_name, BGW_MAXLEN, "serm annotator");
	snprintf(worker.bgw_type, BGW_MAXLEN, "serm annotator");
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "serm");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "serm_annotate_worker_main");
	memcpy(worker.bgw_extra, &role, sizeof(role));
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}
