/*
 * Samples whose votes are in are settled by the worker too, a step at a time, so
 * that a model with many of them keeps nobody else waiting.
 */
#include "pg/annotate/worker.h"

#include "miscadmin.h"

#define SETTLE_MS 5000
/* However long a step took: it may have waited for a lock. */
#define SETTLE_MOST_MS (10 * 60 * 1000)
/* Between two looks at the queue when nothing is on its way. */
#define SLICE_MS 100

void
serm_worker_note_model(SermWorker *worker, const char *name)
{
	ListCell *cell;
	SermWorkerModel *model;

	foreach (cell, worker->models)
		if (strcmp(((SermWorkerModel *) lfirst(cell))->name, name) == 0)
			return;
	model = MemoryContextAllocZero(worker->context, sizeof(SermWorkerModel));
	model->name = MemoryContextStrdup(worker->context, name);
	serm_worker_keep(worker, &worker->models, model);
}

typedef struct Settling {
	SermWorkerModel *model;
	MemoryContext context;
	SermSettling state;
} Settling;

static void
settle_step(void *argument)
{
	Settling *settling = argument;
	SermWorkerModel *model = settling->model;
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
settle_some(SermWorker *worker, SermWorkerModel *model)
{
	Settling settling = {model, worker->context, SERM_SETTLING_DONE};
	ErrorData *error;
	int level;

	if (model->broken)
		return false;
	level = serm_worker_begin();
	error = serm_attempt(settle_step, &settling);
	if (error != NULL) {
		model->broken = true;
		ereport(LOG, errcode(error->sqlerrcode),
		    errmsg("samples of model \"%s\" cannot be settled: %s", model->name, error->message));
	}
	serm_worker_end(worker, level);
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

bool
serm_worker_settle_slice(SermWorker *worker)
{
	int64 start = serm_now_ms();
	ListCell *cell;

	foreach (cell, worker->models) {
		SermWorkerModel *model = lfirst(cell);
		bool resumed;

		/* A settling that began before this slice has gone past samples that were asked about again and are
		 * complete by now. */
		do {
			resumed = model->settler != NULL;
			while (settle_some(worker, model))
				if (serm_now_ms() - start >= SLICE_MS)
					return true;
		} while (resumed);
	}
	return false;
}

void
serm_worker_settle_meanwhile(SermWorker *worker)
{
	int64 start = serm_now_ms();
	int64 now;
	ListCell *cell;
	bool more = false;

	if (start < worker->next_settle_ms)
		return;
	foreach (cell, worker->models)
		more |= settle_some(worker, lfirst(cell));
	now = serm_now_ms();
	worker->next_settle_ms = now + Min(SETTLE_MOST_MS, Max(more ? 0 : SETTLE_MS, 20 * (now - start + 1)));
}
