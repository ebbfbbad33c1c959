/*
 * Grading pairs by agents: foreign servers of the wrapper serm_agent, asked over
 * HTTP by a background worker, and SQL functions, called in the session that
 * annotates. The queue is serm.task; an answer is a row of serm.vote, stored in
 * the transaction that deletes its task: nothing is lost and nothing counts twice.
 *
 * Endpoints may lead where serm.allow_cidr and serm.allow_http let them.
 */
#ifndef SERM_PG_ANNOTATE_ANNOTATE_H
#define SERM_PG_ANNOTATE_ANNOTATE_H

#include "pg/serm.h"

#include <math.h>

#include "nodes/pg_list.h"

#include "core/agent/endpoint.h"
#include "core/agent/limit.h"
#include "core/agent/question.h"
#include "core/agent/retry.h"
#include "core/agent/vote.h"
#include "pg/store/store.h"

/* The mark in serm.sample.agents of a pair that people have graded: it shows how the agents err, and never
 * becomes a judgment. */
#define SERM_GOLD_MARK "{gold}"
/* The key in serm.sample.signals of such a pair that was chosen so that every grade has its share. */
#define SERM_GOLD_BY_GRADE "gold_by_grade"

#define SERM_AGENT_WRAPPER "serm_agent"
#define SERM_PATHS_MAX 25
#define SERM_SHARE_MIN_DEFAULT 0.6
#define SERM_API_KEY_BYTES_MAX 4096

/* --- settings (launcher.c); call the first from _PG_init, the second when the library is being preloaded */
extern int serm_annotate_concurrency;
extern bool serm_allow_http;
extern int serm_function_timeout_ms; /* 0: none */
extern void serm_annotate_define_gucs(void);
extern void serm_annotate_register_launcher(void);
/* Parsed serm.allow_cidr. */
extern const SermCidr *serm_allowed_ranges(void);
extern size_t serm_allowed_range_count(void);

/* --- servers (fdw.c) */
typedef struct SermServerOptions {
	char *endpoint; /* NULL when the server has none */
	char *model;    /* NULL when the server has none */
	int paths;
	double temperature;
	int max_tokens;
	int timeout_ms;
	int connect_timeout_ms;
	double min_share;
	int max_attempts;
	bool json_mode;
	SermRates rates;
	int outage_s;            /* of failures, after which nobody waits for it */
	double price_prompt;     /* per million tokens */
	double price_completion; /* the same */
	bool cache;              /* answer a question that it has answered from its vote */
	double canary;           /* share of the requests that carry one */
} SermServerOptions;

/* The server's oid; errors: 42704 unknown, 42809 another wrapper's, 42501 without USAGE. */
extern Oid serm_server_find(const char *name);
extern void serm_server_read(Oid server, SermServerOptions *options);
/*
 * The key of `role` (or PUBLIC) for a server: palloc'd, to be wiped by the caller;
 * NULL without a mapping or a key. Errors say which option is at fault, never what it holds.
 */
extern char *serm_server_key(Oid server, Oid role);

/* --- agents of a model (agents.c) */
typedef struct SermAgent {
	char *name;
	char *server; /* NULL for a judge */
	char *judge;  /* signature; NULL for a server */
	double weight;
	int paths;
	double min_share;
	double min_reliability; /* -1: whatever it says */
	bool repeats;           /* it gives the same answer every time: more paths tell nothing */
	SermForm form;
	int docs;     /* in one question */
	int examples; /* at most so many of those of the prompt */
} SermAgent;

/* One agent, active or not, without what only its server knows (paths, min_share); NULL without it. Call
 * inside serm_spi_begin. */
extern SermAgent *serm_agent_read(const SermModelRow *model, const char *name);
/*
 * Ask it no more until serm.resume_agent(); false when it was not asked anyway. Call inside serm_spi_begin,
 * for agents in the order of their names, and serm_budget_drop_tasks() after the last.
 */
extern bool serm_agent_suspend(const char *model, const char *agent, const char *reason);
/* Suspend those that have obeyed canaries; returns how many. Call inside serm_spi_begin. */
extern int serm_agents_suspend_obedient(const SermModelRow *model);

/*
 * The active agents of a model by name, palloc'd; call inside serm_spi_begin. With
 * `asking` their servers must exist and be usable, as for serm_server_find; counting
 * what they have answered goes on without.
 */
extern List *serm_agents_load(const SermModelRow *model, bool asking);

/* --- calling functions of users (judge.c) */
typedef struct SermUserAnswer {
	char *error; /* what it raised or did wrong; NULL: it answered */
	bool null;
	int64 grade;
	char *text; /* NULL for NULL */
} SermUserAnswer;

/* The function of an agent by its signature. Error 42883 when it is gone. */
extern Oid serm_judge_find(const char *model, const char *agent, const char *judge);
/*
 * SQL that calls a judge with ($1 query, $2 doc) and gives (grade int8, rationale text).
 * Errors 42883 or 42804 with the expected signature in the hint.
 */
extern char *serm_judge_statement(Oid function);
/* The same for f(query text, doc text) returns text: (NULL, text). */
extern char *serm_evidence_statement(Oid function);
/* Evidence is asked for so long in one transaction: its snapshot holds back vacuum, and the network waits. */
#define SERM_EVIDENCE_MS 1000
/* The function that a model's option evidence names: "f" or "f(text,text)"; under the current search_path. */
extern Oid serm_evidence_find(const char *name);
/* Error 42501 when the function belongs to somebody whose rights the current user does not have. */
extern void serm_user_function_check(Oid function);
/*
 * Run such a statement in a subtransaction, with the search_path of the caller of
 * serm and, when somebody else owns the function, as its owner. An error of the
 * function is an answer, and so is taking longer than serm.function_timeout; being
 * cancelled is not.
 */
extern void serm_user_call(Oid function, const char *statement, const char *search_path, const char *query,
    const char *doc, SermUserAnswer *answer);

/* --- the queue (queue.c, queue_end.c); call inside serm_spi_begin */
typedef struct SermTask {
	int64 id;
	int64 token;
	int64 sample;
	char *model;
	char *agent;
	char *server;
	char *query;
	char *doc;
	int path;
	int64 *compared; /* NULL: its document alone */
	int compared_count;
	int attempt;
	int round;
	bool owes;       /* a worker that died had reserved money for it */
	bool limited;    /* its server has a row of state: tell it what became of the request */
	double estimate; /* of the tokens that it will take, as its bucket was told */
} SermTask;

typedef struct SermVoteRow {
	int grade; /* SERM_VOTE_NONE: `error` says why */
	const char *error;
	const char *rationale; /* or NULL */
	int tokens;            /* -1: not known */
	double cost;           /* NaN: not known */
	int latency_ms;        /* -1: not measured */
	int prompt;
	const char *reply; /* what could not be read; or NULL */
	size_t reply_length;
	bytea *key; /* SHA-256 of the question; or NULL */
	bool cached;
	const char *places; /* of the documents that were compared, as text of an array; or NULL */
	int canary;         /* -1: none was there; 1: obeyed */
} SermVoteRow;

/* A vote of which nothing is known yet. */
#define SERM_NO_VOTE                                                                                         \
	((SermVoteRow){.grade = SERM_VOTE_NONE, .tokens = -1, .cost = NAN, .latency_ms = -1, .canary = -1})

typedef struct SermAnswer {
	const SermTask *task;
	const SermVoteRow *vote;
	bool stored; /* false: the lease was lost and somebody else answers */
} SermAnswer;

/* One task per waiting sample, agent and path, in one step of at most `limit` samples; returns the samples
 * taken. */
extern uint64 serm_queue_fill(const char *model, const List *agents, int limit);
/*
 * Slip pairs that people have graded in among the samples that wait, at the model's gold_rate of at most
 * `limit` of them; returns how many.
 */
extern uint64 serm_queue_slip_gold(const SermModelRow *model, int64 limit);
/* `extra` more paths of a sample for each of the agents, once only; returns the tasks that are open then. */
extern uint64 serm_queue_extend(int64 sample, const char *model, const List *agents, int extra);
/* Where in the queue a worker is; zeroed: at its start. */
typedef struct SermQueueMark {
	TimestampTz not_before;
	int64 id;
	int64 since_ms; /* when it was last put to the start, by serm_now_ms() */
} SermQueueMark;

/* What a worker's leases are known by. */
extern int64 serm_queue_new_token(void);
/*
 * Lease due tasks of servers to the worker that has `token`: at most `limit`, and
 * `ahead` more, of servers that are not limited before others, those behind `mark`
 * (NULL: the start) first. Never those that it holds already. Returns SermTask *,
 * palloc'd.
 */
extern List *serm_queue_claim(Oid role, int64 token, int limit, int ahead, int lease_ms, SermQueueMark *mark);
/* Store votes and close their tasks; the answers are sorted by task. */
extern void serm_queue_finish(SermAnswer *answers, int count);
/*
 * Lock tasks of a worker in the order of their ids, as all do who need several: before rows of spending, and
 * before they are touched one by one. `held` (or NULL) tells which ones are still there.
 */
extern void serm_queue_lock(const SermTask **tasks, int count, bool *held);
/* Put tasks back that nobody was asked for: they have used up nothing. A reason may be NULL. */
extern void serm_queue_give_back(SermTask **tasks, const char **reasons, int count);
extern void serm_queue_retry(const SermTask *task, const SermRetryDecision *decision, const char *error);
/* Is the task gone, other than with its agent? Whoever takes that away counts what was reserved. */
extern bool serm_queue_lost(const SermTask *task);
/* End the due tasks of a server with votes without a grade; returns how many there were. */
extern uint64 serm_queue_give_up(Oid role, const char *server, const char *error);
/* Write down what was reserved for tasks. */
struct SermReservation;
extern void serm_queue_reserve(const struct SermReservation *reserved, int count);
/* Fill those votes whose question (`key`) was answered before. */
extern void serm_queue_find_votes(SermVoteRow **votes, int count);
/* Forget the leases of a worker that is gone: only its successor, under the lock of queue workers, may. */
extern void serm_queue_release(Oid role);
/* Milliseconds until the next task of a server is due (0: now); -1 without one. */
extern int64 serm_queue_next_due(Oid role);

/* --- how fast servers may be asked (limits.c); call inside serm_spi_begin */

typedef struct SermServer {
	char *name;
	SermRates rates;
	int64 outage_ms;
	bool limited; /* it has rates, or has failed or refused: `state` counts, and its row is locked */
	SermServerState state;
} SermServer;

/* What became of one request. */
typedef struct SermServerReport {
	const char *server;
	SermServerEvent event;
	double tokens_more; /* than were estimated */
	int64 retry_after_ms;
} SermServerReport;

/* The servers of all agents by name, the state of the limited ones filled and locked until the end of the
 * transaction. */
extern List *serm_limits_lock(void);
extern void serm_limits_store(const SermServer *server);
/* How many requests a limited server may be sent now. */
extern int serm_limits_allowance(const SermServer *server);
/* Note reports (a List of SermServerReport *). */
extern void serm_limits_note(List *reports);
/* Must the server be told of this? Those without rates do well without a row of state. */
extern bool serm_limits_matter(const SermTask *task, SermServerEvent event);

/* --- money (budget.c); call inside serm_spi_begin */

typedef enum SermBudgetAnswer {
	SERM_BUDGET_RESERVED,
	SERM_BUDGET_WAIT,  /* what is on its way may leave enough */
	SERM_BUDGET_SPENT, /* `problem` says which one */
	SERM_BUDGET_GONE   /* the task: nobody is to be asked */
} SermBudgetAnswer;

typedef struct SermReservation {
	const SermTask *task;
	const SermModelOptions *options; /* of its model */
	double most;                     /* what its request may cost */
	SermBudgetAnswer answer;
	char *problem; /* palloc'd */
} SermReservation;

/*
 * Reserve what the requests of tasks may cost at most, so that the budgets of their
 * models hold whatever comes back. What an earlier attempt reserved and never
 * settled (its worker died) counts as spent. In the order of serm_budget_order().
 */
extern void serm_budget_reserve(SermReservation *wanted, int count);
/* The same for a task that ends without a request. */
extern void serm_budget_settle(const SermTask *task);
/* Drop the open tasks of an agent (NULL: of all that are suspended); what is reserved for those on their way
 * counts as spent. */
extern void serm_budget_drop_tasks(const char *model, const char *agent);
/* What requests of one model and round did cost; call after their tasks were finished or put back, in the
 * order of models and rounds. */
extern void serm_budget_charge(const char *model, int round, double cost, int requests);
/* The order in which rows of spending are locked: by model and round. */
extern int serm_budget_order(const SermTask *a, const SermTask *b);

/* --- instructions and examples (prompts.c); call inside serm_spi_begin */

typedef struct SermShown {
	char *query;
	char *doc_id;
	char *doc;
	int grade;
	bool spare; /* takes the place of one that is the pair in question */
} SermShown;

typedef struct SermPromptRow {
	int version;        /* 0: the built-in one */
	char *instructions; /* NULL: the built-in ones */
	List *examples;     /* of SermShown */
} SermPromptRow;

/* The newest prompt of a model for a form. */
extern SermPromptRow *serm_prompt_read(const char *model, SermForm form);
extern const char *serm_form_name(SermForm form);

/* --- questions that compare (compare.c) */

/* The documents of a task, in the order in which they are shown; inside serm_spi_begin. */
extern char **serm_compared_docs(const SermTask *task);

/*
 * What comparisons say of the samples that wait for it, as grades of their votes. Read, predict until it says
 * false and store inside serm_spi_begin; the fit between them needs no transaction. Store writes all grades
 * in one statement, so that a settling that is cut short finds the same ones.
 */
typedef struct SermCompared SermCompared;

/* NULL: nothing to do. All lies in a child of `parent`, which must survive commits. */
extern SermCompared *serm_compared_read(const SermModelRow *row, MemoryContext parent);
extern bool serm_compared_predict(SermCompared *compared);
extern void serm_compared_fit(SermCompared *compared);
/* And free it. */
extern void serm_compared_store(SermCompared *compared);

/* --- the end of a sample (settle.c) */

/*
 * Settles samples without open tasks by the rule of the model, in steps; samples that
 * another session is settling are skipped. The rules weighted and posterior weigh
 * the agents by all they have said first, and so wait until nothing more is open;
 * with `final` they do not, and with every rule serm.reliability is worked out.
 * Where agents disagree the model's extra paths are asked for, once.
 */
typedef struct SermSettler SermSettler;

typedef enum SermSettling {
	SERM_SETTLING_MORE,    /* call serm_settler_step() again */
	SERM_SETTLING_COMPUTE, /* call serm_settler_compute() first, best outside of a transaction */
	SERM_SETTLING_DONE,
} SermSettling;

/* What it has done so far. */
typedef struct SermSettled {
	uint64 samples;
	uint64 extended; /* samples for which more paths are asked */
	int suspended;   /* agents */
} SermSettled;

/* Inside serm_spi_begin; everything lies in a child of `parent`, which must survive commits. */
extern SermSettler *serm_settler_create(const char *model, bool final, MemoryContext parent);
/* Inside serm_spi_begin; commit after each. */
extern SermSettling serm_settler_step(SermSettler *settler);
extern void serm_settler_compute(SermSettler *settler);
extern SermSettled serm_settler_free(SermSettler *settler);

/* --- annotating as a whole (annotate.c) */

/*
 * What CALL serm.annotate does. It commits: call it in a procedure outside of a
 * transaction block and outside of serm_spi_begin ... serm_spi_end.
 */
extern void serm_annotate_run(const char *model, bool wait, const Jsonb *options);

/* --- background workers (worker.c) */
struct BackgroundWorkerHandle;
/* Start the worker that asks for `role` in this database; NULL when no slot is free. */
extern struct BackgroundWorkerHandle *serm_worker_start(Oid database, Oid role);
/* Is a worker, which may be this process, asking for `role` in this database? Call in a transaction. */
extern bool serm_worker_active(Oid role);

#endif
