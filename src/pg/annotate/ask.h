/*
 * Asking servers without a queue: rates, rests, circuit breakers and budgets are
 * those that agents have, and are shared with them. Call inside serm_spi_begin, in
 * transactions that end before the network is talked to.
 */
#ifndef SERM_PG_ANNOTATE_ASK_H
#define SERM_PG_ANNOTATE_ASK_H

#include "pg/annotate/annotate.h"

typedef struct SermAdmission {
	int count;     /* requests that may leave now */
	int64 wait_ms; /* without any: until it is worth asking again */
	bool limited;  /* it has rates, or has failed or refused: it wants to know how each request ended */
	bool lost;     /* it has failed for its `outage_s`: nobody should wait */
} SermAdmission;

/*
 * Take `wanted` requests of about `tokens` tokens each out of a server's allowance, none of one's own being
 * on its way; serm_limits_note() tells what became of them.
 */
extern SermAdmission serm_limits_admit(const char *server, int wanted, double tokens);

/*
 * Spend the most that requests of a model may cost, outside of any round; `problem` says which budget does
 * not hold it. When their ends are known serm_budget_refund() gives back what they did not cost.
 */
extern SermBudgetAnswer serm_budget_spend(
    const char *model, const SermModelOptions *options, double most, int requests, char **problem);
extern void serm_budget_refund(const char *model, double cost);

#endif
