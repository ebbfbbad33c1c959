/*
 * Asking: tasks are claimed (one short transaction) and their requests prepared
 * (another) in batches, and the network is talked to with no transaction open. A
 * request that ends makes room for the next one of the stock at once: the database
 * is not in the way. The stock is what a seventh of a second takes, and only of servers
 * that are well; what waits in it when its server fails or refuses goes back to the
 * queue as if it had never been claimed.
 */
#include "pg/annotate/worker.h"

#include <math.h>

#include "access/xlog.h"

/* More than the longest timeout of a server and the wait before it. */
#define LEASE_MS (11 * 60 * 1000)
#define CLAIM_MS 250
#define CLAIM_MOST 128
/* What is kept ready, in time, and how long it stays so: settings and keys may change. */
#define STOCK_MS 150
#define STOCK_OLD_MS 2000
#define PACE_MS 50

/* `safe`: where the log must be on disk before a request may leave. */
static List *
claim(SermWorker *worker, int limit, int ahead, XLogRecPtr *safe)
{
	List *jobs = NIL;
	List *tasks;
	ListCell *cell;
	int level = serm_worker_begin();

	tasks = serm_queue_claim(worker->role, worker->token, limit, ahead, LEASE_MS, &worker->mark);
	foreach (cell, tasks) {
		SermJob *job = serm_job_create(worker->context, lfirst(cell), worker->role, worker->search_path);

		serm_worker_keep(worker, &jobs, job);
	}
	*safe = serm_worker_end_soon(worker, level);
	return jobs;
}

int
serm_worker_by_spending(const ListCell *a, const ListCell *b)
{
	return serm_budget_order(&((const SermJob *) lfirst(a))->task, &((const SermJob *) lfirst(b))->task);
}

static void
prepare(SermWorker *worker, List *jobs, XLogRecPtr claimed)
{
	int64 now = serm_now_ms();
	List *ordered = list_copy(jobs);
	ListCell *cell;
	int level = serm_worker_begin();

	serm_jobs_prepare(jobs);
	/* Two workers that reserve must not wait for each other. */
	list_sort(ordered, serm_worker_by_spending);
	serm_jobs_admit(ordered);
	serm_worker_end(worker, level);
	/* What takes the worker down must be found to have been tried; money that was reserved is safe already.
	 */
	XLogFlush(claimed);
	foreach (cell, jobs) {
		SermJob *job = lfirst(cell);

		serm_worker_note_model(worker, job->task.model);
		job->ready_ms = now;
		if (job->postponed)
			serm_worker_keep(worker, &worker->unwanted, job);
		else if (!job->admitted)
			serm_worker_keep_ended(worker, job);
		else
			serm_worker_keep(worker, &worker->stock, job);
	}
}

/* --- the network: no transaction is open here */

static bool
may_send(const SermWorker *worker)
{
	return worker->stock != NIL && serm_http_in_flight(worker->http) < serm_annotate_concurrency;
}

static void
send_stock(SermWorker *worker)
{
	while (may_send(worker)) {
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
drop_stock(SermWorker *worker, const char *server, const char *reason)
{
	int64 now = serm_now_ms();
	ListCell *cell;

	foreach (cell, worker->stock) {
		SermJob *job = lfirst(cell);

		if (server != NULL ? strcmp(job->task.server, server) == 0 : now - job->ready_ms >= STOCK_OLD_MS) {
			if (reason != NULL)
				job->failure = MemoryContextStrdup(job->context, reason);
			serm_worker_keep(worker, &worker->unwanted, job);
			worker->stock = foreach_delete_current(worker->stock, cell);
		}
	}
}

static void
note_pace(SermWorker *worker)
{
	int64 now = serm_now_ms();
	int64 elapsed = now - worker->paced_since_ms;

	if (elapsed < PACE_MS)
		return;
	worker->pace = worker->pace / 2 + worker->paced / (double) elapsed / 2;
	worker->paced = 0;
	worker->paced_since_ms = now;
}

static void
take_ended(SermWorker *worker)
{
	SermHttpResult result;

	while (serm_http_next(worker->http, &result)) {
		SermServerEvent event = serm_limit_event(result.outcome, result.http_status);
		SermJob *job = result.job;

		job->result = result;
		serm_worker_keep_ended(worker, job);
		worker->paced++;
		if (event == SERM_SERVER_FAILED || event == SERM_SERVER_LIMITED) {
			worker->urgent = true;
			drop_stock(worker, job->task.server, result.detail);
		}
	}
	note_pace(worker);
	/* The first one has waited longest. */
	if (worker->stock != NIL &&
	    serm_now_ms() - ((SermJob *) linitial(worker->stock))->ready_ms >= STOCK_OLD_MS)
		drop_stock(worker, NULL, NULL);
}

/* A request that is started leaves when the network is looked at, so that is what comes last. */
void
serm_worker_serve(SermWorker *worker, int timeout_ms)
{
	do {
		send_stock(worker);
		if (serm_http_in_flight(worker->http) > 0)
			serm_http_poll(worker->http, timeout_ms);
		take_ended(worker);
		timeout_ms = 0;
	} while (may_send(worker));
}

void
serm_worker_claim(SermWorker *worker)
{
	int concurrency = serm_annotate_concurrency;
	int ahead = (int) Min(ceil(worker->pace * STOCK_MS), 3 * concurrency);
	int have = serm_http_in_flight(worker->http) + list_length(worker->stock);
	int wanted = Max(concurrency - have, 0);
	int more = Max(concurrency + ahead - have, 0) - wanted;
	int64 now = serm_now_ms();
	XLogRecPtr claimed;
	List *jobs;

	if (now < worker->next_claim_ms || (wanted == 0 && more < Min(CLAIM_MOST, (2 * ahead + 2) / 3)) ||
	    wanted + more == 0)
		return;
	wanted = Min(wanted, CLAIM_MOST);
	more = Min(more, CLAIM_MOST - wanted);
	jobs = claim(worker, wanted, more, &claimed);
	worker->blocked = jobs == NIL;
	worker->next_claim_ms = list_length(jobs) < wanted + more ? now + CLAIM_MS : now;
	serm_worker_serve(worker, 0);
	if (jobs != NIL)
		prepare(worker, jobs, claimed);
	list_free(jobs);
}
