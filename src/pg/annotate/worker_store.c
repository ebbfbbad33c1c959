/*
 * What has ended is read, stored and told to servers and queue in batches, each in
 * one transaction. Rows are locked in the order servers, tasks, spending, as when
 * tasks are claimed.
 */
#include "pg/annotate/worker.h"

#include "utils/guc.h"

/* Answers wait for company, not for long. */
#define STORE_MS 100
#define STORE_MOST 128

void
serm_worker_keep_ended(SermWorker *worker, SermJob *job)
{
	if (worker->ended == NIL)
		worker->ended_since_ms = serm_now_ms();
	serm_worker_keep(worker, &worker->ended, job);
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

static void
read_ended(SermWorker *worker)
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
	/* They took of the rates of their servers when they were claimed, and have not been sent. */
	foreach (cell, worker->unwanted) {
		const SermJob *job = lfirst(cell);

		if (!job->task.limited)
			continue;
		reports = lappend(reports, palloc(sizeof(SermServerReport)));
		*(SermServerReport *) llast(reports) =
		    (SermServerReport){job->task.server, SERM_SERVER_UNTOUCHED, -job->task.estimate, -1};
	}
	serm_limits_note(reports);
}

/*
 * All that are stored, retried and given back, if that takes several statements: whoever suspends their agent
 * takes them, too. One that stores votes takes them in order.
 */
static void
lock_tasks(const SermWorker *worker)
{
	bool several = worker->unwanted != NIL;
	int count = 0;
	const SermTask **tasks =
	    palloc(mul_size(list_length(worker->ended) + list_length(worker->unwanted), sizeof(SermTask *)));
	ListCell *cell;

	foreach (cell, worker->ended) {
		const SermJob *job = lfirst(cell);

		several = several || job->decision.action == SERM_RETRY_AGAIN;
		tasks[count++] = &job->task;
	}
	foreach (cell, worker->unwanted)
		tasks[count++] = &((SermJob *) lfirst(cell))->task;
	if (several)
		serm_queue_lock(tasks, count, NULL);
}

/* Keep the votes, put the other tasks back; what they did cost is settled with them. */
static void
store_answers(SermWorker *worker)
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
	list_sort(charged, serm_worker_by_spending);
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
give_back(SermWorker *worker)
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

void
serm_worker_store(SermWorker *worker)
{
	int level = serm_worker_begin();
	int indexes;

	read_ended(worker);
	/* A queue that has grown since it was analyzed would be read whole for each batch. */
	indexes = serm_spi_prefer_indexes();
	lock_tasks(worker);
	if (worker->ended != NIL)
		store_answers(worker);
	if (worker->unwanted != NIL)
		give_back(worker);
	AtEOXact_GUC(false, indexes);
	serm_worker_end(worker, level);
	free_jobs(&worker->ended);
	free_jobs(&worker->unwanted);
	worker->urgent = false;
}

int
serm_worker_store_wait(const SermWorker *worker)
{
	if (worker->urgent || worker->unwanted != NIL || list_length(worker->ended) >= STORE_MOST)
		return 0;
	if (worker->ended == NIL)
		return SERM_WORKER_POLL_MS;
	if (serm_http_in_flight(worker->http) == 0)
		return 0;
	return (int) Max(0, STORE_MS - (serm_now_ms() - worker->ended_since_ms));
}
