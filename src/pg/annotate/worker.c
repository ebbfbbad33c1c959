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

#include "access/xact.h"
#include "commands/extension.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog/namespace.h"
#include "core/agent/prompt.h"
#include "core/agent/reply.h"
#include "core/base/hash.h"
#include "pg/annotate/http.h"

/* More than the longest timeout of a server: while a worker lives nobody else claims its tasks. */
#define LEASE_MS (11 * 60 * 1000)
#define POLL_MS 100
#define CLAIM_MS 250
#define IDLE_MS 1000
#define SETTLE_MS 5000
#define SETTLE_SAMPLES 200
#define REPLY_KEPT_BYTES 2000
/* A task that was claimed so much oftener than its attempts allow takes its worker down: stop asking. */
#define CRASHES_MAX 5
#define JOB_MEMORY_BYTES ((Size) 8 * 1024 * 1024)
#define LOCK_KEY 0x7365726d
#define LOCK_TRIES 20

/* One attempt at one task, from claim to storing. */
typedef struct Job {
	MemoryContext context;
	SermTask task;
	int grade_count;
	int attempts_max;
	int prompt_version;
	char *key;
	SermText body; /* of the request, in the context */
	SermServerOptions server;
	char *failure; /* why it could not be prepared, or what came back instead of a grade */
	SermOutcome outcome;
	SermRetryDecision decision;
	SermVoteRow vote;
} Job;

typedef struct Worker {
	Oid role;
	MemoryContext context;
	char *search_path;
	SermHttp *http;
	List *done;   /* jobs to store */
	List *models; /* names whose samples may be complete */
	TimestampTz next_claim;
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

/* --- encodings */

/* What goes into a prompt: UTF-8, or bytes that the prompt's cleaning makes UTF-8. */
static SermText
to_utf8(const char *string)
{
	const char *converted = string;

	if (GetDatabaseEncoding() != PG_UTF8 && GetDatabaseEncoding() != PG_SQL_ASCII)
		converted = (const char *) pg_do_encoding_conversion((unsigned char *) unconstify(char *, string),
		    (int) strlen(string), GetDatabaseEncoding(), PG_UTF8);
	return (SermText){converted, strlen(converted)};
}

/* UTF-8 as text of the database; characters that it does not have become question marks. */
static char *
from_utf8(SermText text)
{
	int encoding = GetDatabaseEncoding();
	char *source = pnstrdup(text.bytes, text.length);
	StringInfoData result;
	Oid conversion;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return source;
	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	initStringInfo(&result);
	for (const char *at = source; *at != '\0';) {
		unsigned char converted[MAX_CONVERSION_GROWTH * 4 + 1];
		int length = Min(pg_utf_mblen((const unsigned char *) at), (int) strlen(at));

		if (OidIsValid(conversion) && pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding,
		                                  (unsigned char *) unconstify(char *, at), length, converted,
		                                  sizeof(converted), true) == length)
			appendStringInfoString(&result, (char *) converted);
		else
			appendStringInfoChar(&result, '?');
		at += length;
	}
	return result.data;
}

/* --- claiming and preparing */

static void
copy_task(Job *job, const SermTask *task)
{
	job->task = *task;
	job->task.model = pstrdup(task->model);
	job->task.agent = pstrdup(task->agent);
	job->task.server = pstrdup(task->server);
	job->task.query = pstrdup(task->query);
	job->task.doc = pstrdup(task->doc);
}

static List *
claim(Worker *worker, int limit)
{
	List *jobs = NIL;
	List *tasks;
	ListCell *cell;
	int level = begin();

	tasks = serm_queue_claim(worker->role, limit, LEASE_MS);
	foreach (cell, tasks) {
		MemoryContext context =
		    AllocSetContextCreate(worker->context, "serm annotating job", ALLOCSET_DEFAULT_SIZES);
		MemoryContext previous = MemoryContextSwitchTo(context);
		Job *job = palloc0(sizeof(Job));

		job->context = context;
		job->outcome = SERM_OUTCOME_CONFIG;
		copy_task(job, lfirst(cell));
		MemoryContextSwitchTo(worker->context);
		jobs = lappend(jobs, job);
		MemoryContextSwitchTo(previous);
	}
	end(level);
	return jobs;
}

static void
read_instructions(Job *job, SermPromptInput *input)
{
	SermParam params[] = {SERM_TEXT(job->task.model)};
	bool null;

	serm_spi_execute("SELECT p.version, p.instructions FROM serm.prompt p WHERE p.model = $1"
	                 " ORDER BY p.version DESC LIMIT 1",
	    SPI_OK_SELECT, false, params, 1);
	if (SPI_processed == 0)
		return;
	job->prompt_version = DatumGetInt32(serm_spi_value(0, 1, &null));
	input->instructions = to_utf8(serm_spi_string(0, 2));
}

static void
read_evidence(const Worker *worker, const Job *job, const char *function_name, SermPromptInput *input)
{
	SermUserAnswer answer;
	Oid function;
	int level = NewGUCNestLevel();

	(void) set_config_option(
	    "search_path", worker->search_path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	function = serm_evidence_find(function_name);
	AtEOXact_GUC(false, level);
	serm_user_call(function, serm_evidence_statement(function), worker->search_path, job->task.query,
	    job->task.doc, &answer);
	if (answer.error != NULL)
		ereport(ERROR, errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
		    errmsg("the evidence function failed: %s", answer.error));
	if (answer.text != NULL)
		input->evidence = to_utf8(answer.text);
}

static void
build_request(const Worker *worker, Job *job, const SermModelRow *model)
{
	SermText *names = palloc(mul_size(model->grade_count, sizeof(SermText)));
	SermPromptInput input = {.query = to_utf8(job->task.query), .doc = to_utf8(job->task.doc)};
	SermRequest request = {.model = to_utf8(job->server.model),
	    .temperature = job->server.temperature,
	    .tokens_max = (uint32) job->server.max_tokens,
	    .json_mode = job->server.json_mode};
	SermPrompt prompt;
	SermError error;
	SermHost host;

	for (int i = 0; i < model->grade_count; i++)
		names[i] = to_utf8(model->grades[i]);
	input.grade_names = names;
	input.grade_count = (uint32) model->grade_count;
	read_instructions(job, &input);
	if (model->options.evidence != NULL && model->options.evidence[0] != '\0')
		read_evidence(worker, job, model->options.evidence, &input);
	if (!pg_strong_random(input.nonce, sizeof(input.nonce)))
		ereport(ERROR, errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not draw a random number"));
	request.seed =
	    serm_hash_mix(serm_hash_bytes(job->task.agent, strlen(job->task.agent), (uint64) job->task.sample) +
	                  ((uint64) job->task.path << 32) + (uint64) job->task.attempt);

	serm_host_init(&host, job->context, JOB_MEMORY_BYTES);
	serm_host_check(&host, serm_prompt_build(&input, &host.arena, &prompt, &error), &error);
	serm_host_check(&host, serm_prompt_request(&prompt, &request, &host.arena, &job->body, &error), &error);
}

static void
prepare_job(const Worker *worker, Job *job)
{
	SermModelRow *model = serm_model_read(job->task.model);
	Oid server = serm_server_find(job->task.server);

	job->grade_count = model->grade_count;
	serm_server_read(server, &job->server);
	job->attempts_max = job->server.max_attempts;
	if (job->task.attempt > job->attempts_max + CRASHES_MAX)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("given up after %d attempts that ended with their worker", job->task.attempt - 1));
	if (job->server.endpoint == NULL || job->server.model == NULL)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("server \"%s\" lacks the option %s", job->task.server,
		        job->server.endpoint == NULL ? "endpoint" : "model"));
	job->key = serm_server_key(server, worker->role);
	build_request(worker, job, model);
}

/* Whatever is wrong with a model, a server, a key or evidence is the answer of this job, not the worker's
 * end. */
static void
prepare_in_subtransaction(const Worker *worker, Job *job)
{
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(job->context);
	PG_TRY();
	{
		prepare_job(worker, job);
		ReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(job->context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
		MemoryContextSwitchTo(job->context);
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		job->failure = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
}

static void
note_model(Worker *worker, const char *model)
{
	MemoryContext previous;
	ListCell *cell;

	foreach (cell, worker->models)
		if (strcmp(lfirst(cell), model) == 0)
			return;
	previous = MemoryContextSwitchTo(worker->context);
	worker->models = lappend(worker->models, pstrdup(model));
	MemoryContextSwitchTo(previous);
}

static void
keep_done(Worker *worker, Job *job)
{
	MemoryContext previous = MemoryContextSwitchTo(worker->context);

	worker->done = lappend(worker->done, job);
	MemoryContextSwitchTo(previous);
}

/* What one attempt came to, and what follows from it. */
static void
decide(Worker *worker, Job *job, int http_status, int64 retry_after_ms)
{
	SermRetryInput input = {.outcome = job->outcome,
	    .http_status = http_status,
	    .retry_after_ms = retry_after_ms,
	    .attempt = (uint32) job->task.attempt,
	    .attempts_max = (uint32) Max(job->attempts_max, 1),
	    .uniform = pg_prng_double(&pg_global_prng_state)};

	job->decision = serm_retry_decide(&input);
	if (job->decision.action == SERM_RETRY_GIVE_UP)
		job->vote.error = job->task.attempt > 1
		                      ? MemoryContextStrdup(job->context,
		                            psprintf("%s (attempt %d)", job->failure, job->task.attempt))
		                      : job->failure;
	keep_done(worker, job);
}

static void
start_jobs(Worker *worker, List *jobs)
{
	ListCell *cell;
	int level = begin();

	foreach (cell, jobs) {
		note_model(worker, ((Job *) lfirst(cell))->task.model);
		prepare_in_subtransaction(worker, lfirst(cell));
	}
	end(level);
	foreach (cell, jobs) {
		Job *job = lfirst(cell);
		SermHttpRequest request = {job->server.endpoint, job->key, job->body.bytes, job->body.length,
		    job->server.timeout_ms, job->server.connect_timeout_ms};

		job->vote.grade = SERM_VOTE_NONE;
		job->vote.tokens = job->vote.latency_ms = -1;
		job->vote.prompt = job->prompt_version;
		if (job->failure != NULL)
			decide(worker, job, 0, -1);
		else
			serm_http_start(worker->http, &request, job);
	}
}

/* --- reading what came back */

/* A reply may repeat the key it was asked with; nothing that we keep does. */
static SermText
redacted_copy(const Job *job, const SermHttpResult *result)
{
	char *copy = palloc(result->body_length + 1);
	size_t key_length = job->key != NULL ? strlen(job->key) : 0;

	if (result->body_length > 0)
		memcpy(copy, result->body, result->body_length);
	copy[result->body_length] = '\0';
	if (key_length > 0)
		for (char *at = copy;
		     (at = memmem(at, result->body_length - (at - copy), job->key, key_length)) != NULL;)
			memset(at, '*', key_length);
	return (SermText){copy, result->body_length};
}

static void
read_reply(Job *job, SermText body)
{
	SermReply reply;
	SermError error;
	SermHost host;

	serm_host_init(&host, job->context, JOB_MEMORY_BYTES);
	serm_host_check(
	    &host, serm_reply_parse(body, (uint32) job->grade_count, &host.arena, &reply, &error), &error);
	if (reply.tokens_prompt >= 0 || reply.tokens_completion >= 0)
		job->vote.tokens = Max(reply.tokens_prompt, 0) + Max(reply.tokens_completion, 0);
	if (reply.reason == SERM_REPLY_OK) {
		job->vote.grade = reply.grade;
		job->vote.rationale = reply.rationale.length > 0 ? from_utf8(reply.rationale) : NULL;
		return;
	}
	job->outcome = SERM_OUTCOME_MALFORMED;
	job->failure = pstrdup(serm_reply_reason_text(reply.reason));
}

/* Runs in a transaction: encodings may need the catalog. */
static void
finish_job(Worker *worker, Job *job, SermHttpResult *result)
{
	MemoryContext previous = MemoryContextSwitchTo(job->context);
	SermText body = redacted_copy(job, result);

	job->outcome = result->outcome;
	job->vote.latency_ms = result->latency_ms;
	job->failure = pstrdup(result->detail);
	if (result->outcome == SERM_OUTCOME_HTTP && result->http_status >= 200 && result->http_status <= 299)
		read_reply(job, body);
	if (job->vote.grade < 0 && body.length > 0) {
		job->vote.reply = body.bytes;
		job->vote.reply_length = Min(body.length, REPLY_KEPT_BYTES);
	}
	MemoryContextSwitchTo(previous);
	decide(worker, job, result->http_status, result->retry_after_ms);
	serm_http_release(worker->http, result);
}

static void
free_job(Job *job)
{
	if (job->key != NULL)
		explicit_bzero(job->key, strlen(job->key));
	MemoryContextDelete(job->context);
}

/* Read what has ended and store it, all in one transaction. */
static void
store_done(Worker *worker)
{
	SermHttpResult result;
	ListCell *cell;
	int level;
	bool some = serm_http_next(worker->http, &result);

	if (!some && worker->done == NIL)
		return;
	level = begin();
	while (some) {
		finish_job(worker, result.job, &result);
		some = serm_http_next(worker->http, &result);
	}
	foreach (cell, worker->done) {
		const Job *job = lfirst(cell);

		if (job->decision.action == SERM_RETRY_AGAIN)
			serm_queue_retry(&job->task, job->decision.delay_ms, job->failure);
		else if (!serm_queue_finish(&job->task, &job->vote))
			ereport(DEBUG1, errmsg("serm: a late answer to task %lld is dropped", (long long) job->task.id));
	}
	end(level);
	foreach (cell, worker->done)
		free_job(lfirst(cell));
	list_free(worker->done);
	worker->done = NIL;
}

/* --- the loop */

static void
settle_model(const char *name)
{
	uint64 count = 0;

	do {
		int level = begin();
		SermParam params[] = {SERM_TEXT(name)};

		serm_spi_execute("SELECT FROM serm.model m WHERE m.name = $1", SPI_OK_SELECT, false, params, 1);
		count = SPI_processed == 0 ? 0 : serm_settle_batch(serm_model_read(name), SETTLE_SAMPLES);
		end(level);
		CHECK_FOR_INTERRUPTS();
	} while (count > 0);
}

static void
settle_models(Worker *worker)
{
	ListCell *cell;

	foreach (cell, worker->models)
		settle_model(lfirst(cell));
	worker->next_settle = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SETTLE_MS);
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
