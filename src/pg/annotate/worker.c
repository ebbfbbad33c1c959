/*
 * The process that asks agents: one per database and role, started when there is
 * work and gone when there is none. It runs as the role that asked for the work.
 *
 * Tasks are claimed (one short transaction) and their requests prepared (another) in
 * batches, the network is talked to with no transaction open, and what came back is
 * stored in batches (a third). A request that ends makes room for the next one of
 * the stock at once: the database is not in the way. The stock is what a tenth of a
 * second takes, and only of servers that are well; what waits in it when its server
 * fails or refuses goes back to the queue as if it had never been claimed.
 *
 * Whoever holds the worker's lock owns all leases of its role: a worker that takes
 * it over from a dead one frees them at once.
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

/* More than the longest timeout of a server and the wait before it: while a worker lives nobody else claims
 * its tasks. */
#define LEASE_MS (11 * 60 * 1000)
#define POLL_MS 100
#define CLAIM_MS 250
#define CLAIM_MOST 64
#define IDLE_MS 1000
/* What is kept ready, in time, and how long it stays so: settings and keys may change. */
#define STOCK_MS 100
#define STOCK_OLD_MS 2000
#define PACE_MS 50
/* Answers wait for company, not for long. */
#define STORE_MS 20
#define STORE_MOST 64
#define SETTLE_MS 5000
#define LOCK_KEY 0x7365726d
#define LOCK_TRIES 20

typedef struct Model {
	char *name;
	bool broken;          /* its samples could not be settled */
	SermSettler *settler; /* at work; NULL: none */
} Model;

typedef struct Worker {
	Oid role;
	MemoryContext context;
	char *search_path;
	SermHttp *http;
	List *stock;    /* jobs whose requests may leave */
	List *ended;    /* jobs to store */
	List *unwanted; /* jobs of the stock to give back */
	bool urgent;    /* a server must hear what became of a request */
	TimestampTz ended_since;
	double pace; /* ends of requests in a millisecond */
	int paced;   /* ends since paced_since */
	TimestampTz paced_since;
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
	serm_queue_gate(false);
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

/* Lists that outlive a turn. */
static void
keep(Worker *worker, List **list, void *member)
{
	MemoryContext previous = MemoryContextSwitchTo(worker->context);

	*list = lappend(*list, member);
	MemoryContextSwitchTo(previous);
}

static void
note_model(Worker *worker, const char *name)
{
	ListCell *cell;
	Model *model;

	foreach (cell, worker->models)
		if (strcmp(((Model *) lfirst(cell))->name, name) == 0)
			return;
	model = MemoryContextAllocZero(worker->context, sizeof(Model));
	model->name = MemoryContextStrdup(worker->context, name);
	keep(worker, &worker->models, model);
}

static void
keep_ended(Worker *worker, SermJob *job)
{
	if (worker->ended == NIL)
		worker->ended_since = GetCurrentTimestamp();
	keep(worker, &worker->ended, job);
}

static List *
claim(Worker *worker, int limit, int ahead)
{
	List *jobs = NIL;
	List *tasks;
	ListCell *cell;
	int level = begin();

	tasks = serm_queue_claim(worker->role, limit, ahead, LEASE_MS);
	foreach (cell, tasks) {
		SermJob *job = serm_job_create(worker->context, lfirst(cell), worker->role, worker->search_path);

		keep(worker, &jobs, job);
	}
	end(level);
	return jobs;
}

static int
by_spending(const ListCell *a, const ListCell *b)
{
	return serm_budget_order(&((const SermJob *) lfirst(a))->task, &((const SermJob *) lfirst(b))->task);
}

static void
prepare(Worker *worker, List *jobs)
{
	TimestampTz now = GetCurrentTimestamp();
	List *ordered = list_copy(jobs);
	ListCell *cell;
	int level = begin();

	serm_jobs_prepare(jobs);
	/* Two workers that reserve must not wait for each other. */
	list_sort(ordered, by_spending);
	foreach (cell, ordered) {
		SermJob *job = lfirst(cell);

		note_model(worker, job->task.model);
		job->ready = serm_job_admit(job) ? now : 0;
	}
	end(level);
	foreach (cell, jobs) {
		SermJob *job = lfirst(cell);

		if (job->ready == 0)
			keep_ended(worker, job);
		else
			keep(worker, &worker->stock, job);
	}
}

/* --- the network: no transaction is open here */

static void
send_stock(Worker *worker)
{
	while (worker->stock != NIL && serm_http_in_flight(worker->http) < serm_annotate_concurrency) {
		SermJob *job = linitial(worker->stock);
		SermHttpRequest request = {job->server.endpoint, job->key, job->body.bytes, job->body.length,
		    job->server.timeout_ms, job->server.connect_timeout_ms};

		worker->stock = list_delete_first(worker->stock);
		serm_http_start(worker->http, &request, job);
	}
}

/* Jobs of the stock that are not to be sent: of one server, for a reason, or (NULL) those that have waited
 * too long. */
static void
drop_stock(Worker *worker, const char *server, const char *reason)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell *cell;

	foreach (cell, worker->stock) {
		SermJob *job = lfirst(cell);

		if (server != NULL ? strcmp(job->task.server, server) == 0
		                   : TimestampDifferenceExceeds(job->ready, now, STOCK_OLD_MS)) {
			if (reason != NULL)
				job->failure = MemoryContextStrdup(job->context, reason);
			keep(worker, &worker->unwanted, job);
			worker->stock = foreach_delete_current(worker->stock, cell);
		}
	}
}

static void
note_pace(Worker *worker)
{
	TimestampTz now = GetCurrentTimestamp();
	double elapsed = (double) (now - worker->paced_since) / 1000;

	if (elapsed < PACE_MS)
		return;
	worker->pace = worker->pace / 2 + worker->paced / elapsed / 2;
	worker->paced = 0;
	worker->paced_since = now;
}

static void
take_ended(Worker *worker)
{
	SermHttpResult result;

	while (serm_http_next(worker->http, &result)) {
		SermServerEvent event = serm_limit_event(result.outcome, result.http_status);
		SermJob *job = result.job;

		job->result = result;
		keep_ended(worker, job);
		worker->paced++;
		if (event == SERM_SERVER_FAILED || event == SERM_SERVER_LIMITED) {
			worker->urgent = true;
			drop_stock(worker, job->task.server, result.detail);
		}
	}
	note_pace(worker);
	drop_stock(worker, NULL, NULL);
}

/* --- storing */

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

static void
read_ended(Worker *worker)
{
	List *reports = NIL;
	ListCell *cell;

	foreach (cell, worker->ended) {
		SermJob *job = lfirst(cell);
		SermServerReport *report;

		if (job->result.transfer != NULL) {
			serm_job_finish(job, &job->result);
			serm_http_release(worker->http, &job->result);
		}
		report = report_of(job);
		if (report != NULL)
			reports = lappend(reports, report);
	}
	serm_limits_note(reports);
}

/* Keep the votes, put the other tasks back; what they did cost is settled with them. */
static void
store_answers(Worker *worker)
{
	SermAnswer *answers = palloc(mul_size(list_length(worker->ended) + 1, sizeof(SermAnswer)));
	List *charged = NIL;
	ListCell *cell;
	int count = 0;

	foreach (cell, worker->ended) {
		SermJob *job = lfirst(cell);

		job->kept = true;
		if (job->decision.action == SERM_RETRY_AGAIN)
			serm_queue_retry(&job->task, &job->decision, job->failure);
		else
			answers[count++] = (SermAnswer){&job->task, &job->vote, false};
	}
	if (count > 0)
		serm_queue_finish(answers, count);
	for (int i = 0; i < count; i++)
		if (!answers[i].stored) {
			SermJob *job = (SermJob *) ((char *) answers[i].task - offsetof(SermJob, task));

			ereport(DEBUG1, errmsg("serm: a late answer to task %lld is dropped", (long long) job->task.id));
			job->kept = false;
		}
	/* Whoever took a task over, or its agent away, has counted what was reserved for it. */
	foreach (cell, worker->ended) {
		SermJob *job = lfirst(cell);

		if (job->vote.cost > 0 && (job->kept || serm_queue_lost(&job->task)))
			charged = lappend(charged, job);
	}
	list_sort(charged, by_spending);
	for (int i = 0; i < list_length(charged);) {
		const SermTask *task = &((SermJob *) list_nth(charged, i))->task;
		double cost = 0;
		int first = i;

		for (; i < list_length(charged) &&
		       serm_budget_order(task, &((SermJob *) list_nth(charged, i))->task) == 0;
		     i++)
			cost += ((SermJob *) list_nth(charged, i))->vote.cost;
		serm_budget_charge(task->model, task->round, cost, i - first);
	}
}

static void
give_back(Worker *worker)
{
	int count = list_length(worker->unwanted);
	SermTask **tasks = palloc(mul_size(count, sizeof(SermTask *)));
	const char **reasons = palloc(mul_size(count, sizeof(char *)));
	ListCell *cell;

	foreach (cell, worker->unwanted) {
		SermJob *job = lfirst(cell);

		tasks[foreach_current_index(cell)] = &job->task;
		reasons[foreach_current_index(cell)] = job->failure;
	}
	serm_queue_give_back(tasks, reasons, count);
}

static void
free_jobs(List **jobs)
{
	ListCell *cell;

	foreach (cell, *jobs)
		serm_job_free(lfirst(cell));
	list_free(*jobs);
	*jobs = NIL;
}

/*
 * Read what has ended and store it, and tell servers and queue, all in one
 * transaction. Rows are locked in the order servers, tasks, spending, as when
 * tasks are claimed.
 */
static void
store(Worker *worker)
{
	int level = begin();

	read_ended(worker);
	if (worker->ended != NIL)
		store_answers(worker);
	if (worker->unwanted != NIL)
		give_back(worker);
	end(level);
	free_jobs(&worker->ended);
	free_jobs(&worker->unwanted);
	worker->urgent = false;
}

/* Milliseconds until what has ended must be stored; 0: now. */
static int
store_wait(const Worker *worker)
{
	if (worker->urgent || worker->unwanted != NIL || list_length(worker->ended) >= STORE_MOST)
		return 0;
	if (worker->ended == NIL)
		return POLL_MS;
	if (serm_http_in_flight(worker->http) == 0)
		return 0;
	return Max(
	    0, STORE_MS - (int) TimestampDifferenceMilliseconds(worker->ended_since, GetCurrentTimestamp()));
}

/* --- the loop */

typedef struct Settling {
	Model *model;
	MemoryContext context;
	SermSettling state;
} Settling;

static void
settle_step(void *argument)
{
	Settling *settling = argument;
	Model *model = settling->model;
	SermParam params[] = {SERM_TEXT(model->name)};

	settling->state = SERM_SETTLING_DONE;
	if (model->settler == NULL) {
		serm_spi_execute("SELECT FROM serm.model m WHERE m.name = $1", SPI_OK_SELECT, false, params, 1);
		if (SPI_processed == 0)
			return;
		model->settler = serm_settler_create(model->name, false, settling->context);
	}
	settling->state = serm_settler_step(model->settler);
}

/*
 * One step; true when there are more. What is wrong with one model must not keep
 * the worker from asking for others: who annotates it next is told.
 */
static bool
settle_some(Worker *worker, Model *model)
{
	Settling settling = {model, worker->context, SERM_SETTLING_DONE};
	ErrorData *error;
	int level;

	if (model->broken)
		return false;
	level = begin();
	error = serm_attempt(settle_step, &settling);
	if (error != NULL) {
		model->broken = true;
		ereport(LOG, errcode(error->sqlerrcode),
		    errmsg("samples of model \"%s\" cannot be settled: %s", model->name, error->message));
	}
	end(level);
	CHECK_FOR_INTERRUPTS();
	if (settling.state == SERM_SETTLING_COMPUTE && !model->broken)
		serm_settler_compute(model->settler);
	if (settling.state != SERM_SETTLING_DONE && !model->broken)
		return true;
	if (model->settler != NULL)
		(void) serm_settler_free(model->settler);
	model->settler = NULL;
	return false;
}

static void
settle_models(Worker *worker)
{
	ListCell *cell;

	foreach (cell, worker->models)
		while (settle_some(worker, lfirst(cell)))
			continue;
}

/* While others wait: a step for each model, and a twentieth of the time at most. */
static void
settle_meanwhile(Worker *worker)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz now;
	ListCell *cell;
	bool more = false;

	if (start < worker->next_settle)
		return;
	foreach (cell, worker->models)
		more |= settle_some(worker, lfirst(cell));
	now = GetCurrentTimestamp();
	worker->next_settle = TimestampTzPlusMilliseconds(
	    now, Max(more ? 0 : SETTLE_MS, 20 * TimestampDifferenceMilliseconds(start, now)));
}

/* Fill the stock in steps that are worth a transaction. */
static void
claim_more(Worker *worker)
{
	int concurrency = serm_annotate_concurrency;
	int ahead = (int) Min(ceil(worker->pace * STOCK_MS), concurrency);
	int have = serm_http_in_flight(worker->http) + list_length(worker->stock);
	int wanted = Max(concurrency - have, 0);
	int more = Max(concurrency + ahead - have, 0) - wanted;
	TimestampTz now = GetCurrentTimestamp();
	List *jobs;

	if (now < worker->next_claim || (wanted == 0 && more < Min(CLAIM_MOST, (ahead + 1) / 2)) ||
	    wanted + more == 0)
		return;
	wanted = Min(wanted, CLAIM_MOST);
	more = Min(more, CLAIM_MOST - wanted);
	jobs = claim(worker, wanted, more);
	worker->blocked = jobs == NIL;
	worker->next_claim = list_length(jobs) < wanted + more ? TimestampTzPlusMilliseconds(now, CLAIM_MS) : now;
	if (jobs != NIL)
		prepare(worker, jobs);
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
		send_stock(worker);
		if (serm_http_in_flight(worker->http) > 0)
			serm_http_poll(worker->http, Min(POLL_MS, store_wait(worker)));
		take_ended(worker);
		send_stock(worker);
		if (store_wait(worker) == 0)
			store(worker);
		if (serm_http_in_flight(worker->http) == 0 && worker->ended == NIL && !rest(worker))
			return;
		settle_meanwhile(worker);
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

/*
 * What roles and databases set for their sessions must not end a worker, which loses what is on its way, nor
 * let a crash forget what it had reserved.
 */
static void
override_settings(void)
{
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
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
	override_settings();
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
