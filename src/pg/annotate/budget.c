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
	SermParam params[] = {SERM_TEXT(model), SERM_TEXT(agent)};

	serm_spi_execute("WITH gone AS (DELETE FROM serm.task t WHERE t.model = $1 AND t.agent = $2"
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

static void
write_reserved(const SermTask *task, bool reserved, double most)
{
	static SermKept kept;
	SermParam params[] = {SERM_INT8(task->id), reserved ? SERM_FLOAT8(most) : SERM_NULL(FLOAT8OID)};

	serm_spi_execute_kept(&kept, "UPDATE serm.task t SET reserved = $2::pg_catalog.numeric WHERE t.id = $1",
	    SPI_OK_UPDATE, params, lengthof(params));
}

typedef struct Sums {
	double total;
	double round;
	double day;
} Sums;

static Sums
read_sums(SermKept *kept, const SermTask *task, const char *sql)
{
	SermParam params[] = {SERM_TEXT(task->model), SERM_INT4(task->round), SERM_INT8(task->id)};
	Sums sums;
	bool null;

	serm_spi_execute_kept(kept, sql, SPI_OK_SELECT, params, lengthof(params));
	sums.total = DatumGetFloat8(serm_spi_value(0, 1, &null));
	sums.round = DatumGetFloat8(serm_spi_value(0, 2, &null));
	sums.day = DatumGetFloat8(serm_spi_value(0, 3, &null));
	return sums;
}

/* Does `budget` (NaN: none) hold `more` beyond what is spent and reserved? */
static SermBudgetAnswer
ask(double budget, double spent, double reserved, double more)
{
	if (isnan(budget) || spent + reserved + more <= budget)
		return SERM_BUDGET_RESERVED;
	return reserved > 0 ? SERM_BUDGET_WAIT : SERM_BUDGET_SPENT;
}

static SermBudgetAnswer
ask_all(const SermTask *task, const SermModelOptions *options, double most, char **problem)
{
	static SermKept kept_spent, kept_held;
	Sums spent = read_sums(&kept_spent, task,
	    "SELECT coalesce(pg_catalog.sum(s.spent), 0)::pg_catalog.float8,"
	    "  coalesce(pg_catalog.sum(s.spent) FILTER (WHERE s.round = $2), 0)::pg_catalog.float8,"
	    "  coalesce(pg_catalog.sum(s.spent) FILTER (WHERE"
	    "   s.day = (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date), 0)::pg_catalog.float8"
	    " FROM serm.spending s WHERE s.model = $1 AND $3 > 0");
	/* All that is reserved counts for today. */
	Sums held = read_sums(&kept_held, task,
	    "SELECT coalesce(pg_catalog.sum(t.reserved), 0)::pg_catalog.float8,"
	    "  coalesce(pg_catalog.sum(t.reserved) FILTER (WHERE s.round = $2), 0)::pg_catalog.float8,"
	    "  coalesce(pg_catalog.sum(t.reserved), 0)::pg_catalog.float8"
	    " FROM serm.task t JOIN serm.sample s ON s.id = t.sample"
	    " WHERE t.model = $1 AND t.reserved IS NOT NULL AND t.id <> $3");
	struct {
		const char *name;
		double budget, spent, held;
	} budgets[] = {
	    {"budget", options->budget, spent.total, held.total},
	    {"budget_round", options->budget_round, spent.round, held.round},
	    {"budget_day", options->budget_day, spent.day, held.day},
	};
	SermBudgetAnswer answer = SERM_BUDGET_RESERVED;

	for (int i = 0; i < (int) lengthof(budgets); i++) {
		SermBudgetAnswer one = ask(budgets[i].budget, budgets[i].spent, budgets[i].held, most);

		if (one == SERM_BUDGET_SPENT)
			*problem = psprintf("option %s: %.10g of %.10g are spent, and the request may cost %.10g",
			    budgets[i].name, budgets[i].spent, budgets[i].budget, most);
		answer = Max(answer, one);
	}
	return answer;
}

void
serm_budget_settle(const SermTask *task)
{
	if (!task->owes)
		return;
	settle_lost(task);
	write_reserved(task, false, 0);
}

SermBudgetAnswer
serm_budget_reserve(const SermTask *task, const SermModelOptions *options, double most, char **problem)
{
	SermBudgetAnswer answer;

	if (most <= 0) {
		serm_budget_settle(task);
		return SERM_BUDGET_RESERVED;
	}
	lock_budget(task->model);
	if (task->owes)
		settle_lost(task);
	answer = ask_all(task, options, most, problem);
	write_reserved(task, answer == SERM_BUDGET_RESERVED, most);
	return answer;
}

SermBudgetAnswer
serm_budget_spend(
    const char *model, const SermModelOptions *options, double most, int requests, char **problem)
{
	/* A task that is none: of no round, and nothing is reserved on it. */
	const SermTask none = {.id = PG_INT64_MAX, .model = unconstify(char *, model)};
	SermBudgetAnswer answer;

	if (isnan(options->budget) && isnan(options->budget_round) && isnan(options->budget_day))
		answer = SERM_BUDGET_RESERVED;
	else {
		lock_budget(model);
		answer = ask_all(&none, options, most, problem);
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
