/*
 * The options of the mining functions. One table: a new option is one line
 * here and one field of SermMineOptions.
 */
#include "pg/mine/mine.h"

#include <math.h>

#define FIELD(name) offsetof(SermMineOptions, name)

static const SermOption option_table[] = {
    {"tau_c", SERM_OPTION_REAL, FIELD(tau_c), 0, SERM_GRADES_MAX - 1, NULL},
    {"tau_u_ms", SERM_OPTION_REAL, FIELD(tau_u_ms), 0, 1e9, NULL},
    {"tau_cm", SERM_OPTION_REAL, FIELD(tau_cm), 0, 1, NULL},
    {"min_impressions", SERM_OPTION_INT, FIELD(min_impressions), 1, PG_INT32_MAX, NULL},
    {"disagreement", SERM_OPTION_REAL, FIELD(disagreement), 0, SERM_GRADES_MAX, NULL},
    {"disagreement_quantile", SERM_OPTION_REAL, FIELD(disagreement_quantile), 0, 1, NULL},
    {"uncertainty", SERM_OPTION_REAL, FIELD(uncertainty), 0, 10, NULL},
    {"uncertainty_quantile", SERM_OPTION_REAL, FIELD(uncertainty_quantile), 0, 1, NULL},
    {"explore", SERM_OPTION_REAL, FIELD(explore), 0, 1, NULL},
    {"temperature", SERM_OPTION_REAL, FIELD(temperature), 0, 1000, NULL},
    {"per_query", SERM_OPTION_INT, FIELD(per_query), 0, PG_INT32_MAX, NULL},
    {"seed", SERM_OPTION_INT, FIELD(seed), 0, PG_INT32_MAX, NULL},
    {"include_judged", SERM_OPTION_BOOL, FIELD(include_judged), 0, 0, NULL},
    {"agents", SERM_OPTION_TEXT, FIELD(agents), 0, 0, NULL},
    {"agent_quota", SERM_OPTION_TEXT, FIELD(agent_quota), 0, 0, NULL},
    {"segment_quota", SERM_OPTION_TEXT, FIELD(segment_quota), 0, 0, NULL},
    {"drift", SERM_OPTION_BOOL, FIELD(drift), 0, 0, NULL},
    {"drift_share", SERM_OPTION_REAL, FIELD(drift_share), 0, 1, NULL},
    {"stored_clicks", SERM_OPTION_BOOL, FIELD(stored_clicks), 0, 0, NULL},
    {"distinct", SERM_OPTION_BOOL, FIELD(distinct), 0, 0, NULL},
    {"order", SERM_OPTION_TEXT, FIELD(order), 0, 0, "rank, margin"},
};

void
serm_mine_options_read(const Jsonb *options, SermMineOptions *result)
{
	*result = (SermMineOptions){.tau_c = NAN,
	    .tau_u_ms = NAN,
	    .tau_cm = 0.5,
	    .disagreement = NAN,
	    .disagreement_quantile = 0.9,
	    .uncertainty = NAN,
	    .uncertainty_quantile = 0.9,
	    .explore = 0.5,
	    .drift_share = 0.25,
	    .stored_clicks = true,
	    .min_impressions = 20,
	    .seed = -1};
	serm_options_read(options, option_table, lengthof(option_table), result, "serm.mine");
}

Jsonb *
serm_mine_options_write(const SermMineOptions *options)
{
	return serm_options_write(option_table, lengthof(option_table), options);
}

void
serm_mine_options_resolve(const SermModelRow *model, SermMineOptions *options)
{
	if (isnan(options->tau_c))
		options->tau_c = (model->grade_count - 1) / 2.0;
	/* A version of its own draw: the next version explores other pairs. */
	if (options->seed < 0)
		options->seed = model->active;
	if (options->agents != NULL)
		(void) serm_mine_agents_parse(options->agents);
}
