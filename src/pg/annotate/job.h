/*
 * One attempt of the worker at one task: what it asks (job.c), and what it makes of
 * the answer (job_reply.c).
 */
#ifndef SERM_PG_ANNOTATE_JOB_H
#define SERM_PG_ANNOTATE_JOB_H

#include "pg/annotate/annotate.h"
#include "pg/annotate/http.h"

#include "core/agent/prompt.h"

/* For the parsing and writing of one, and what most need. */
#define SERM_JOB_MEMORY_BYTES ((Size) 8 * 1024 * 1024)
#define SERM_JOB_BLOCK_BYTES ((Size) 16 * 1024)
/* Prices are per million. */
#define SERM_TOKENS_PRICED 1e6

typedef struct SermJob {
	MemoryContext context;
	SermHost host; /* for its parsing and writing */
	SermTask task;
	Oid role;
	const char *search_path; /* for evidence functions */
	int grade_count;
	int attempts_max;
	int prompt_version;
	SermQuestion question;
	char canary[SERM_PROMPT_CANARY_BYTES]; /* empty: its request carries none */
	char *key;
	SermText body; /* of the request */
	SermServerOptions server;
	SermModelOptions budgets;
	char *failure; /* why it could not be prepared, or what came back instead of a grade */
	SermOutcome outcome;
	int http_status; /* with SERM_OUTCOME_HTTP */
	int64 retry_after_ms;
	double cost_most; /* of the request */
	bool admitted;
	bool postponed;        /* not prepared, because the evidence of others took so long: to be given back */
	int64 ready_ms;        /* since when it waits for its turn, by serm_now_ms() */
	SermHttpResult result; /* of a request that has ended */
	SermRetryDecision decision;
	bool kept; /* its end was stored; false: somebody else has taken the task over */
	SermVoteRow vote;
} SermJob;

/* A copy of `task` in a context of its own under `parent`. */
extern SermJob *serm_job_create(
    MemoryContext parent, const SermTask *task, Oid role, const char *search_path);
/*
 * Read servers, keys, evidence and instructions, look for answers that are known,
 * and write the requests. Call inside serm_spi_begin. What goes wrong with a job is
 * its answer (`failure`), not the worker's end.
 */
extern void serm_jobs_prepare(List *jobs);
/* Read a reply and decide. Call in a transaction: encodings may need the catalog. */
extern void serm_job_finish(SermJob *job, const SermHttpResult *result);
/* What `outcome` and `failure` lead to: done, again, or a vote without a grade. */
extern void serm_job_decide(SermJob *job);
/*
 * Which requests may be sent (`admitted`)? The others are decided already, from an earlier vote or for want
 * of money. In the order of serm_budget_order(); inside serm_spi_begin.
 */
extern void serm_jobs_admit(List *jobs);
/* Wipe the key and free everything. */
extern void serm_job_free(SermJob *job);

#endif
