/*
 * What agents may cost. Before a request leaves, the most that it can cost is
 * reserved on its task; when its end is known the reservation becomes what it did
 * cost. So spent + reserved never passes a budget, whatever comes back and
 * whoever dies: a reservation that nobody settled counts as spent.
 */
#include "pg/annotate/ask.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"

#define LOCK_KEY 0x7365726d

/* Two workers must not both find the last coin: one at a time reserves for a model. */
static void
lock_budget(const char *model)
{
	uint32 hash = hash_bytes((const unsigned char *) model, (int) strlen(model));
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, LOCK_KEY, hash, 4);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

void
serm_budget_charge(const char *model, int round, double cost, int requests)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model), SERM_INT4(round), SERM_FLOAT8(cost), SERM_INT8((int64) requests)};

	/* A model that was dropped meanwhile owes nothing. */
	serm_spi_execute_kept(&kept,
	    "INSERT INTO serm.spending AS s (model, round, day, spent, requests)"
	    " SELECT m.name, $2, (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date, $3::pg_catalog.numeric, "
	    "$4"
	    "  FROM serm.model m WHERE m.name = $1 FOR KEY SHARE"
	    " ON CONFLICT (model, round, day) DO UPDATE SET spent = s.spent + EXCLUDED.spent,"
	    "  requests = s.requests + EXCLUDED.requests",
	    SPI_OK_INSERT, params, lengthof(params));
}

void
serm_budget_drop_tasks(const char *model, const char *agent)
{
	SermParam params[] = {SERM_TEXT(model), agent != NULL ? SERM_TEXT(agent) : SERM_NULL(TEXTOID)};

	serm_spi_execute(
	    "WITH theirs AS (SELECT t.id FROM serm.task t WHERE t.model = $1 AND CASE"
	    "  WHEN $2 IS NOT NULL THEN t.agent = $2 ELSE t.agent IN (SELECT a.name FROM serm.agent a"
	    "   WHERE a.model = $1 AND a.suspended IS NOT NULL) END ORDER BY t.id FOR UPDATE),"
	    " gone AS (DELETE FROM serm.task t USING theirs h WHERE t.id = h.id"
	    "  RETURNING t.model, t.sample, t.reserved)"
	    " INSERT INTO serm.spending AS p (model, round, day, spent, requests)"
	    "  SELECT g.model, s.round, (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date,"
	    "    pg_catalog.sum(g.reserved), pg_catalog.count(*)"
	    "   FROM gone g JOIN serm.sample s ON s.id = g.sample WHERE g.reserved IS NOT NULL"
	    "   GROUP BY g.model, s.round ORDER BY s.round"
	    " ON CONFLICT (model, round, day) DO UPDATE SET spent = p.spent + EXCLUDED.spent,"
	    "  requests = p.requests + EXCLUDED.requests",
	    SPI_OK_INSERT, false, params, lengthof(params));
}

int
serm_budget_order(const SermTask *a, const SermTask *b)
{
	int order = strcmp(a->model, b->model);

	return order != 0 ? order : (a->round > b->round) - (a->round < b->round);
}

/* What a dead worker reserved for this task may have been spent. */
static void
settle_lost(const SermTask *task)
{
	static SermKept kept;
	SermParam params[] = {SERM_INT8(task->id)};
	double lost;
	bool null;

	serm_spi_execute_kept(&kept, "SELECT t.reserved::pg_catalog.float8 FROM serm.task t WHERE t.id = $1",
	    SPI_OK_SELECT, params, 1);
	if (SPI_processed == 0)
		return;
	lost = DatumGetFloat8(serm_spi_value(0, 1, &null));
	if (!null)
		serm_budget_charge(task->model, task->round, lost, 1);
}

void
serm_budget_settle(const SermTask *task)
{
	static SermKept kept;
	SermParam params[] = {SERM_INT8(task->id)};

	if (!task->owes)
		return;
	settle_lost(task);
	serm_spi_execute_kept(
	    &kept, "UPDATE serm.task t SET reserved = NULL WHERE t.id = $1", SPI_OK_UPDATE, params, 1);
}

typedef struct Account {
	int round;
	double spent, held;
} Account;

/* What is spent and reserved for a model; all that is reserved counts for today. */
typedef struct Purse {
	double spent, held, today;
	Account *accounts; /* of its rounds */
	int count;
} Purse;

static Account *
account_of(Purse *purse, int round)
{
	for (int i = 0; i < purse->count; i++)
		if (purse->accounts[i].round == round)
			return &purse->accounts[i];
	/* There is room for one round of each request. */
	purse->accounts[purse->count] = (Account){.round = round};
	return &purse->accounts[purse->count++];
}

/*
 * One statement, and so one snapshot: what another worker turns from reserved to spent between two would be
 * in neither.
 */
static Purse
read_purse(const char *model, int requests)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model)};
	Purse purse = {0};
	bool null;

	serm_spi_execute_kept(&kept,
	    "SELECT x.round, pg_catalog.sum(x.spent)::pg_catalog.float8, "
	    "pg_catalog.sum(x.held)::pg_catalog.float8,"
	    "  pg_catalog.sum(x.today)::pg_catalog.float8 FROM"
	    " (SELECT s.round, s.spent, 0::pg_catalog.numeric AS held, CASE WHEN"
	    "   s.day = (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date THEN s.spent ELSE 0 END AS today"
	    "   FROM serm.spending s WHERE s.model = $1"
	    "  UNION ALL SELECT s.round, 0, t.reserved, 0 FROM serm.task t JOIN serm.sample s ON s.id = t.sample"
	    "   WHERE t.model = $1 AND t.reserved IS NOT NULL) AS x GROUP BY x.round",
	    SPI_OK_SELECT, params, lengthof(params));
	purse.accounts = palloc0(mul_size(SPI_processed + requests, sizeof(Account)));
	for (; purse.count < (int) SPI_processed; purse.count++) {
		Account *account = &purse.accounts[purse.count];

		account->round = DatumGetInt32(serm_spi_value(purse.count, 1, &null));
		account->spent = DatumGetFloat8(serm_spi_value(purse.count, 2, &null));
		account->held = DatumGetFloat8(serm_spi_value(purse.count, 3, &null));
		purse.spent += account->spent;
		purse.held += account->held;
		purse.today += DatumGetFloat8(serm_spi_value(purse.count, 4, &null));
	}
	return purse;
}

static bool
has_budget(const SermModelOptions *options)
{
	return !isnan(options->budget) || !isnan(options->budget_round) || !isnan(options->budget_day);
}

/* Does `budget` (NaN: none) hold `more` beyond what is spent and reserved? */
static SermBudgetAnswer
ask(double budget, double spent, double reserved, double more)
{
	if (isnan(budget) || spent + reserved + more <= budget)
		return SERM_BUDGET_RESERVED;
	return reserved > 0 ? SERM_BUDGET_WAIT : SERM_BUDGET_SPENT;
}

/* Take `most` out of a purse if all budgets hold it; `problem` says which one does not. */
static SermBudgetAnswer
take(Purse *purse, const SermModelOptions *options, int round, double most, char **problem)
{
	Account *account = account_of(purse, round);
	struct {
		const char *name;
		double budget, spent, held;
	} budgets[] = {
	    {"budget", options->budget, purse->spent, purse->held},
	    {"budget_round", options->budget_round, account->spent, account->held},
	    {"budget_day", options->budget_day, purse->today, purse->held},
	};
	SermBudgetAnswer answer = SERM_BUDGET_RESERVED;

	for (int i = 0; i < (int) lengthof(budgets); i++) {
		SermBudgetAnswer one = ask(budgets[i].budget, budgets[i].spent, budgets[i].held, most);

		if (one == SERM_BUDGET_SPENT)
			*problem = psprintf("option %s: %.10g of %.10g are spent, and the request may cost %.10g",
			    budgets[i].name, budgets[i].spent, budgets[i].budget, most);
		answer = Max(answer, one);
	}
	if (answer == SERM_BUDGET_RESERVED) {
		purse->held += most;
		account->held += most;
	}
	return answer;
}

/* Those that were taken away since they were claimed have nothing to reserve on. */
static void
lock_tasks(SermReservation *wanted, int count)
{
	const SermTask **tasks = palloc(mul_size(count, sizeof(SermTask *)));
	bool *held = palloc0(mul_size(count, sizeof(bool)));

	for (int i = 0; i < count; i++)
		tasks[i] = wanted[i].task;
	serm_queue_lock(tasks, count, held);
	for (int i = 0; i < count; i++)
		if (!held[i])
			wanted[i].answer = SERM_BUDGET_GONE;
}

/* Requests of one model, whose tasks are locked. */
static void
reserve(SermReservation *wanted, int count)
{
	Purse purse = {0};
	bool limited = false, priced = false;

	for (int i = 0; i < count; i++) {
		priced = priced || wanted[i].most > 0;
		limited = limited || (wanted[i].most > 0 && has_budget(wanted[i].options));
		if (wanted[i].answer != SERM_BUDGET_GONE)
			serm_budget_settle(wanted[i].task);
	}
	if (limited) {
		purse = read_purse(wanted[0].task->model, count);
		for (int i = 0; i < count; i++)
			if (wanted[i].most > 0 && wanted[i].answer != SERM_BUDGET_GONE)
				wanted[i].answer = take(
				    &purse, wanted[i].options, wanted[i].task->round, wanted[i].most, &wanted[i].problem);
	}
	if (priced)
		serm_queue_reserve(wanted, count);
}

/* The budgets, then all tasks, and what is spent last: never the tasks of one model after what another spent.
 */
static void
lock_all(SermReservation *wanted, int count)
{
	const char *locked = NULL;
	bool owing = false;

	for (int i = 0; i < count; i++) {
		const SermTask *task = wanted[i].task;

		wanted[i].answer = SERM_BUDGET_RESERVED;
		owing = owing || task->owes;
		if (wanted[i].most > 0 && (locked == NULL || strcmp(locked, task->model) != 0)) {
			locked = task->model;
			lock_budget(locked);
		}
	}
	if (locked != NULL || owing)
		lock_tasks(wanted, count);
}

void
serm_budget_reserve(SermReservation *wanted, int count)
{
	lock_all(wanted, count);
	for (int i = 0; i < count;) {
		int first = i;

		while (i < count && strcmp(wanted[i].task->model, wanted[first].task->model) == 0)
			i++;
		reserve(wanted + first, i - first);
	}
}

SermBudgetAnswer
serm_budget_spend(
    const char *model, const SermModelOptions *options, double most, int requests, char **problem)
{
	SermBudgetAnswer answer = SERM_BUDGET_RESERVED;

	if (has_budget(options)) {
		Purse purse;

		lock_budget(model);
		purse = read_purse(model, 1);
		answer = take(&purse, options, 0, most, problem);
	}
	if (answer == SERM_BUDGET_RESERVED && (most > 0 || requests > 0))
		serm_budget_charge(model, 0, most, requests);
	return answer;
}

void
serm_budget_refund(const char *model, double cost)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model), SERM_FLOAT8(cost)};

	/* Of the newest day: midnight may have passed since. */
	serm_spi_execute_kept(&kept,
	    "UPDATE serm.spending s SET spent = greatest(s.spent - $2::pg_catalog.numeric, 0)"
	    " WHERE s.model = $1 AND s.round = 0 AND s.day ="
	    "  (SELECT pg_catalog.max(d.day) FROM serm.spending d WHERE d.model = $1 AND d.round = 0)",
	    SPI_OK_UPDATE, params, lengthof(params));
}
