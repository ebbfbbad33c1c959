/*
 * The process that asks agents: one per database and role, started when there is
 * work and gone when there is none. It runs as the role that asked for the work.
 *
 * Whoever holds the worker's lock owns all leases of its role: a worker that takes
 * it over from a dead one frees them at once.
 */
#include "pg/annotate/worker.h"

#include <malloc.h>

#include "access/xact.h"
#include "access/xlog.h"
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

#define IDLE_MS 1000
#define TRIM_BYTES (64 * 1024 * 1024)
/* More than the largest reply takes. Without it blocks of 128 kB and more come from the system each time: to
 * set the other limit ends what raises this one by itself. */
#define MAP_BYTES (1024 * 1024)
/* What is due and locked by somebody is looked for again after this. */
#define BLOCKED_MS 250
#define LOCK_KEY 0x7365726d
#define LOCK_TRIES 20

extern PGDLLEXPORT void serm_annotate_worker_main(Datum argument);

/* --- transactions */

int
serm_worker_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	serm_queue_gate(false);
	if (!OidIsValid(get_extension_oid("serm", true))) {
		PopActiveSnapshot();
		CommitTransactionCommand();
		proc_exit(0);
	}
	return serm_spi_begin(false);
}

static void
end_transaction(const SermWorker *worker)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker->turn);
	pgstat_report_stat(false);
}

void
serm_worker_end(const SermWorker *worker, int level)
{
	serm_spi_end(level);
	end_transaction(worker);
}

XLogRecPtr
serm_worker_end_soon(const SermWorker *worker, int level)
{
	serm_spi_end(level);
	(void) set_config_option(
	    "synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	end_transaction(worker);
	return XactLastCommitEnd;
}

void
serm_worker_keep(const SermWorker *worker, List **list, void *member)
{
	MemoryContext previous = MemoryContextSwitchTo(worker->context);

	*list = lappend(*list, member);
	MemoryContextSwitchTo(previous);
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

	/* Shared: two that look at once must not take each other for the worker. */
	if (serm_lock_held(&tag, ExclusiveLock) ||
	    LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ShareLock, false);
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

/* --- the loop */

static int64
next_due(const SermWorker *worker)
{
	int level = serm_worker_begin();
	int64 due = serm_queue_next_due(worker->role);

	serm_worker_end(worker, level);
	return due;
}

/*
 * Nothing is in flight: wait for what is due later, or leave. Whoever adds tasks
 * now may find the lock taken and rely on this worker, so look again without it.
 */
static bool
rest(SermWorker *worker)
{
	int64 due = next_due(worker);

	/* Tasks that come meanwhile must not wait until all samples are settled. */
	if (due != 0 && serm_worker_settle_slice(worker)) {
		worker->next_claim_ms = 0;
		return true;
	}
	if (due < 0) {
		release_lock(worker->role);
		due = next_due(worker);
		if (due < 0 || !take_lock(worker->role))
			return false;
	}
	if (due == 0 && worker->blocked)
		due = BLOCKED_MS;
	if (due > 0) {
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) Min(due, IDLE_MS),
		    PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	worker->next_claim_ms = 0;
	return true;
}

static void
run_worker(SermWorker *worker)
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
		serm_worker_claim(worker);
		serm_worker_serve(worker, Min(SERM_WORKER_POLL_MS, serm_worker_store_wait(worker)));
		if (serm_worker_store_wait(worker) == 0)
			serm_worker_store(worker);
		serm_worker_serve(worker, 0);
		if (serm_http_in_flight(worker->http) == 0 && worker->ended == NIL && !rest(worker))
			return;
		serm_worker_settle_meanwhile(worker);
		MemoryContextReset(worker->turn);
	}
}

static void
free_leases(const SermWorker *worker)
{
	int level = serm_worker_begin();

	serm_queue_release(worker->role);
	serm_worker_end(worker, level);
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
	SermWorker worker = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	memcpy(&worker.role, MyBgworkerEntry->bgw_extra, sizeof(worker.role));
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), worker.role, 0);
	override_settings();
	if (!take_lock(worker.role))
		proc_exit(0);
	/* What a batch took, the next one takes again. */
	(void) mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
	(void) mallopt(M_MMAP_THRESHOLD, MAP_BYTES);
	pgstat_report_activity(STATE_RUNNING, "asking agents");
	worker.context =
	    AllocSetContextCreate(TopMemoryContext, "serm annotating worker", ALLOCSET_DEFAULT_SIZES);
	worker.turn = AllocSetContextCreate(worker.context, "serm annotating, one turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(worker.turn);
	worker.search_path = MemoryContextStrdup(worker.context, namespace_search_path);
	worker.http = serm_http_open();
	worker.token = serm_queue_new_token();
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
