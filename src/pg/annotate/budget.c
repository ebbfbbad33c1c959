/*
 * What agents may cost. Before a request leaves, the most that it can cost is
 * reserved on its task; when its end is known the reservation becomes what it did
 * cost. So spent + reserved never passes a budget, whatever comes back and
 * whoever dies: a reservation that nobody settled counts as spent.
 */
#include "pg/annotate/annotate.h"

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

/* Add to what a model has spent. */
static void
add_spending(const SermTask *task, double cost)
{
	SermParam params[] = {SERM_TEXT(task->model), SERM_INT4(task->round), SERM_FLOAT8(cost)};

	serm_spi_execute(
	    "INSERT INTO serm.spending AS s (model, round, day, spent, requests)"
	    " VALUES ($1, $2, (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date, $3::pg_catalog.numeric, 1)"
	    " ON CONFLICT (model, round, day) DO UPDATE SET spent = s.spent + EXCLUDED.spent,"
	    "  requests = s.requests + 1",
	    SPI_OK_INSERT, false, params, lengthof(params));
}

/* What a dead worker reserved for this task may have been spent. */
static void
settle_lost(const SermTask *task)
{
	SermParam params[] = {SERM_INT8(task->id)};
	double lost;
	bool null;

	serm_spi_execute("SELECT t.reserved::pg_catalog.float8 FROM serm.task t WHERE t.id = $1", SPI_OK_SELECT,
	    false, params, 1);
	if (SPI_processed == 0)
		return;
	lost = DatumGetFloat8(serm_spi_value(0, 1, &null));
	if (!null)
		add_spending(task, lost);
}

static void
write_reserved(const SermTask *task, bool reserved, double most)
{
	SermParam params[] = {SERM_INT8(task->id), reserved ? SERM_FLOAT8(most) : SERM_NULL(FLOAT8OID)};

	serm_spi_execute("UPDATE serm.task t SET reserved = $2::pg_catalog.numeric WHERE t.id = $1",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}

typedef struct Sums {
	double total;
	double round;
	double day;
} Sums;

static Sums
read_sums(const SermTask *task, const char *sql)
{
	SermParam params[] = {SERM_TEXT(task->model), SERM_INT4(task->round), SERM_INT8(task->id)};
	Sums sums;
	bool null;

	serm_spi_execute(sql, SPI_OK_SELECT, false, params, lengthof(params));
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
	Sums spent = read_sums(task,
	    "SELECT coalesce(pg_catalog.sum(s.spent), 0)::pg_catalog.float8,"
	    "  coalesce(pg_catalog.sum(s.spent) FILTER (WHERE s.round = $2), 0)::pg_catalog.float8,"
	    "  coalesce(pg_catalog.sum(s.spent) FILTER (WHERE"
	    "   s.day = (pg_catalog.now() AT TIME ZONE 'UTC')::pg_catalog.date), 0)::pg_catalog.float8"
	    " FROM serm.spending s WHERE s.model = $1 AND $3 > 0");
	/* All that is reserved counts for today. */
	Sums held = read_sums(task,
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

SermBudgetAnswer
serm_budget_reserve(const SermTask *task, const SermModelOptions *options, double most, char **problem)
{
	SermBudgetAnswer answer;

	if (most <= 0)
		return SERM_BUDGET_RESERVED;
	lock_budget(task->model);
	settle_lost(task);
	answer = ask_all(task, options, most, problem);
	write_reserved(task, answer == SERM_BUDGET_RESERVED, most);
	return answer;
}

void
serm_budget_charge(const SermTask *task, double cost)
{
	if (cost > 0)
		add_spending(task, cost);
}
