/*
 * Settings of annotating, and the launcher: a worker of the preloaded library
 * that looks, at start and then now and again, for databases whose queue nobody
 * works on (after a crash, a restart, or when no worker was free).
 *
 * The launcher itself is connected to no database. For each one it starts a
 * short-lived starter, which reads the queue and nothing else, and starts workers
 * as the roles that asked for the tasks. No code of users runs in either.
 */
#include "pg/annotate/annotate.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#define RANGES_MAX 64
#define QUEUE_LOCK_TIMEOUT "2s"

int serm_annotate_concurrency = 16;
bool serm_allow_http = false;
int serm_function_timeout_ms = 30000;
static int launcher_interval = 60;
static char *allow_cidr_text = NULL;

typedef struct Ranges {
	size_t count;
	SermCidr ranges[RANGES_MAX];
} Ranges;

static const Ranges no_ranges = {0};
static const Ranges *allowed = &no_ranges;

extern PGDLLEXPORT void serm_annotate_launcher_main(Datum argument);
extern PGDLLEXPORT void serm_annotate_starter_main(Datum argument);

const SermCidr *
serm_allowed_ranges(void)
{
	return allowed->ranges;
}

size_t
serm_allowed_range_count(void)
{
	return allowed->count;
}

static bool
check_allow_cidr(char **value, void **extra, GucSource source pg_attribute_unused())
{
	Ranges *ranges = serm_guc_alloc(sizeof(Ranges));
	const char *at = *value;

	if (ranges == NULL)
		return false;
	memset(ranges, 0, sizeof(Ranges));
	while (*(at += strspn(at, " ,")) != '\0') {
		size_t length = strcspn(at, " ,");

		if (ranges->count == RANGES_MAX || !serm_cidr_parse(at, length, &ranges->ranges[ranges->count])) {
			GUC_check_errdetail(
			    "It is a list of at most %d ranges such as 10.0.0.0/8 or fd00::/8.", RANGES_MAX);
			serm_guc_free(ranges);
			return false;
		}
		ranges->count++;
		at += length;
	}
	*extra = ranges;
	return true;
}

static void
assign_allow_cidr(const char *value pg_attribute_unused(), void *extra)
{
	allowed = extra != NULL ? extra : &no_ranges;
}

void
serm_annotate_define_gucs(void)
{
	DefineCustomIntVariable("serm.annotate_concurrency",
	    "Requests to agents that one worker keeps in flight.", NULL, &serm_annotate_concurrency, 16, 1, 1024,
	    PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("serm.function_timeout",
	    "How long one call of a judge or evidence function may take; 0: without limit.", NULL,
	    &serm_function_timeout_ms, 30000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("serm.allow_http", "Allows endpoints with plain http beyond this machine.", NULL,
	    &serm_allow_http, false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("serm.allow_cidr",
	    "Address ranges that endpoints may have besides the public internet.", NULL, &allow_cidr_text, "",
	    PGC_SUSET, 0, check_allow_cidr, assign_allow_cidr, NULL);
	DefineCustomIntVariable("serm.launcher_interval",
	    "How often the launcher looks for work that nobody does.", NULL, &launcher_interval, 60, 1, 86400,
	    PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

static void
name_worker(BackgroundWorker *worker, const char *name, const char *function)
{
	snprintf(worker->bgw_name, BGW_MAXLEN, "%s", name);
	snprintf(worker->bgw_type, BGW_MAXLEN, "%s", name);
	snprintf(worker->bgw_library_name, BGW_MAXLEN, "serm");
	snprintf(worker->bgw_function_name, BGW_MAXLEN, "%s", function);
}

void
serm_annotate_register_launcher(void)
{
	BackgroundWorker worker = {.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
	    .bgw_start_time = BgWorkerStart_RecoveryFinished,
	    .bgw_restart_time = 5};

	name_worker(&worker, "serm launcher", "serm_annotate_launcher_main");
	RegisterBackgroundWorker(&worker);
}

/* --- the launcher */

/* Databases that may be connected to; templates hold no queue. Palloc'd in the current context. */
static List *
list_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List *databases = NIL;
	Relation relation;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL) {
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext previous;

		if (!database->datallowconn || database->datistemplate || database_is_invalid_form(database))
			continue;
		previous = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(previous);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/* One at a time, so that looking takes one slot however many databases there are. */
static void
run_starter(Oid database)
{
	BackgroundWorker worker = {.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
	    .bgw_start_time = BgWorkerStart_RecoveryFinished,
	    .bgw_restart_time = BGW_NEVER_RESTART,
	    .bgw_main_arg = ObjectIdGetDatum(database),
	    .bgw_notify_pid = MyProcPid};
	BackgroundWorkerHandle *handle;

	name_worker(&worker, "serm starter", "serm_annotate_starter_main");
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
		(void) WaitForBackgroundWorkerShutdown(handle);
}

void
serm_annotate_launcher_main(Datum argument pg_attribute_unused())
{
	MemoryContext turn;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	serm_cache_sweep();
	turn = AllocSetContextCreate(TopMemoryContext, "serm launcher, one turn", ALLOCSET_DEFAULT_SIZES);
	for (;;) {
		ListCell *cell;

		MemoryContextSwitchTo(turn);
		foreach (cell, list_databases()) {
			CHECK_FOR_INTERRUPTS();
			run_starter(lfirst_oid(cell));
		}
		MemoryContextSwitchTo(TopMemoryContext);
		MemoryContextReset(turn);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, launcher_interval * 1000L,
		    PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending) {
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

/* --- the starter */

/*
 * Who owns serm.task; InvalidOid when it is not the extension's own table: a
 * schema of that name that somebody made must not be read.
 */
static Oid
queue_owner(void)
{
	Oid extension = get_extension_oid("serm", true);
	Oid namespace = get_namespace_oid("serm", true);
	Oid table, owner;
	HeapTuple tuple;

	if (!OidIsValid(extension) || !OidIsValid(namespace))
		return InvalidOid;
	table = get_relname_relid("task", namespace);
	if (!OidIsValid(table) || getExtensionOfObject(RelationRelationId, table) != extension)
		return InvalidOid;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relkind == RELKIND_RELATION
	            ? ((Form_pg_class) GETSTRUCT(tuple))->relowner
	            : InvalidOid;
	ReleaseSysCache(tuple);
	return owner;
}

static void
start_workers(void)
{
	int level = serm_spi_begin(false);
	bool null;

	serm_spi_execute("SELECT DISTINCT t.requested_by FROM serm.task t"
	                 " JOIN serm.agent a ON a.model = t.model AND a.name = t.agent AND a.server IS NOT NULL"
	                 " JOIN pg_catalog.pg_roles r ON r.oid = t.requested_by AND r.rolcanlogin",
	    SPI_OK_SELECT, true, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++) {
		Oid role = DatumGetObjectId(serm_spi_value(i, 1, &null));

		if (!serm_worker_active(role))
			(void) serm_worker_start(MyDatabaseId, role);
	}
	serm_spi_end(level);
}

/*
 * The queue is read as its owner, so that nothing hung on it (an index expression is
 * evaluated even by the planner) runs with more. A lock on it is waited for shortly:
 * the launcher and all other databases wait for this one.
 */
void
serm_annotate_starter_main(Datum argument)
{
	Oid owner;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), InvalidOid, 0);
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	owner = queue_owner();
	if (OidIsValid(owner)) {
		SetUserIdAndSecContext(owner, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
		SetConfigOption("lock_timeout", QUEUE_LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
		start_workers();
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	proc_exit(0);
}
