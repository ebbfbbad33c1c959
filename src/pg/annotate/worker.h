/*
 * The worker's own: the state of one process, and what its files ask of each other.
 *
 *   worker.c         the process, its lock, its loop
 *   worker_ask.c     claiming, preparing, the stock, the network
 *   worker_store.c   what has ended
 *   worker_settle.c  samples that are complete
 */
#ifndef SERM_PG_ANNOTATE_WORKER_H
#define SERM_PG_ANNOTATE_WORKER_H

#include "pg/annotate/annotate.h"

#include "pg/annotate/job.h"

#include "access/xlogdefs.h"

#define SERM_WORKER_POLL_MS 100

typedef struct SermWorkerModel {
	char *name;
	bool broken;          /* its samples could not be settled */
	SermSettler *settler; /* at work; NULL: none */
} SermWorkerModel;

typedef struct SermWorker {
	Oid role;
	MemoryContext context; /* what outlives a turn */
	MemoryContext turn;    /* what does not; a commit would leave us in the top context */
	char *search_path;
	SermHttp *http;
	int64 token; /* of its leases */
	SermQueueMark mark;
	List *stock;    /* jobs whose requests may leave */
	List *ended;    /* jobs to store */
	List *unwanted; /* jobs of the stock to give back */
	bool urgent;    /* a server must hear what became of a request */
	/* All by serm_now_ms(): the time of day may be set while requests are on their way. */
	int64 ended_since_ms;
	double pace; /* ends of requests in a millisecond */
	int paced;   /* ends since paced_since_ms */
	int64 paced_since_ms;
	List *models; /* of SermWorkerModel: their samples may be complete */
	int64 next_claim_ms;
	bool blocked; /* the last look for tasks found none to claim */
	int64 next_settle_ms;
} SermWorker;

/* A transaction with SPI; where the extension is gone, the process ends. Returns the level that the other
 * takes. */
extern int serm_worker_begin(void);
extern void serm_worker_end(const SermWorker *worker, int level);
/* The same without waiting for the disk: what was done is safe when the log is, up to where the result says.
 */
extern XLogRecPtr serm_worker_end_soon(const SermWorker *worker, int level);
/* Append to a list that outlives the turn. */
extern void serm_worker_keep(const SermWorker *worker, List **list, void *member);

/* --- worker_ask.c */

/* Fill the stock in steps that are worth a transaction. */
extern void serm_worker_claim(SermWorker *worker);
/* Send what there is room for, wait for answers for that long at most, take what has ended off the network
 * and out of the stock what must not be sent. No transaction may be open; between two of them no answer
 * waits. */
extern void serm_worker_serve(SermWorker *worker, int timeout_ms);

/* Order of jobs for list_sort(): as serm_budget_order(). */
extern int serm_worker_by_spending(const ListCell *a, const ListCell *b);

/* --- worker_store.c */
extern void serm_worker_store(SermWorker *worker);
/* Milliseconds until what has ended must be stored; 0: now. */
extern int serm_worker_store_wait(const SermWorker *worker);
/* A job that has ended. */
extern void serm_worker_keep_ended(SermWorker *worker, SermJob *job);

/* --- worker_settle.c */

/* Samples of this model may be complete once its tasks are done. */
extern void serm_worker_note_model(SermWorker *worker, const char *name);
/* While requests are on their way: a step for each model, and a twentieth of the time at most. */
extern void serm_worker_settle_meanwhile(SermWorker *worker);
/* While there is nothing to ask; true when there is more to settle. */
extern bool serm_worker_settle_slice(SermWorker *worker);

#endif
