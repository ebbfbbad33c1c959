#include "core/stats/gate.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A mean of differences that cancel out may be this far from 0. */
#define ROUNDING 1e-9

void
serm_gate_defaults(SermGateOptions *options)
{
	*options = (SermGateOptions){.margin = 0.005,
	    .confidence = 0.95,
	    .draws = 2000,
	    .seed = 1,
	    .queries_min = 10,
	    .recent = SERM_RECENT_LENIENT,
	    .recent_queries_min = 10};
}

const char *
serm_gate_rule_name(SermGateRule rule)
{
	static const char *const name[] = {"passed", "finite", "queries", "ranking", "likelihood", "recent"};

	return name[rule];
}

const char *
serm_recent_verdict_name(SermRecentVerdict verdict)
{
	static const char *const name[] = {"unused", "few", "holds", "fails"};

	return name[verdict];
}

static const char *const recent_rules[] = {"off", "lenient", "strict"};

const char *
serm_recent_rule_name(SermRecentRule rule)
{
	return recent_rules[rule];
}

bool
serm_recent_rule_parse(const char *name, SermRecentRule *rule)
{
	for (int i = SERM_RECENT_OFF; i <= SERM_RECENT_STRICT; i++)
		if (strcmp(name, recent_rules[i]) == 0) {
			*rule = i;
			return true;
		}
	return false;
}

/* Append a clause to the reason; a sentence that is too long is cut, never overrun. */
__attribute__((format(printf, 2, 0))) static void
say_list(SermGateDecision *decision, const char *format, va_list arguments)
{
	size_t used = strlen(decision->reason);

	if (used > 0 && used + 2 < sizeof(decision->reason)) {
		memcpy(decision->reason + used, "; ", 3);
		used += 2;
	}
	vsnprintf(decision->reason + used, sizeof(decision->reason) - used, format, arguments);
}

__attribute__((format(printf, 2, 3))) static void
say(SermGateDecision *decision, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_list(decision, format, arguments);
	va_end(arguments);
}

/* The same for a rule that does not hold. */
__attribute__((format(printf, 3, 4))) static void
object(SermGateDecision *decision, SermGateRule rule, const char *format, ...)
{
	va_list arguments;

	if (decision->rule == SERM_GATE_PASSED)
		decision->rule = rule;
	va_start(arguments, format);
	say_list(decision, format, arguments);
	va_end(arguments);
}

static SermStatus
compare_ndcg(const double *ndcg_active, const double *ndcg_candidate, size_t query_count,
    const SermResampling *resampling, SermArena *arena, SermGateMetric *metric, SermError *error)
{
	double *difference = serm_arena_array(arena, query_count, sizeof(double));
	double active = 0.0, candidate = 0.0;
	size_t used = 0;

	if (difference == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %zu queries", query_count);
	for (size_t i = 0; i < query_count; i++) {
		double a = ndcg_active[i], c = ndcg_candidate[i];

		if (isnan(a) != isnan(c))
			return serm_fail(error, SERM_ERR_INVALID, "a query has an NDCG for one of the versions only");
		if (isnan(a))
			continue;
		if (!(a >= 0.0 && a <= 1.0 && c >= 0.0 && c <= 1.0))
			return serm_fail(error, SERM_ERR_INVALID, "an NDCG is outside 0..1");
		difference[used++] = c - a;
		active += a;
		candidate += c;
	}
	metric->difference.count = used;
	if (used == 0)
		return SERM_OK;
	metric->active = active / (double) used;
	metric->candidate = candidate / (double) used;
	return serm_bootstrap_mean(difference, used, resampling, arena, &metric->difference, error);
}

static SermStatus
compare_nll(const SermGateInput *input, const SermResampling *resampling, SermArena *arena,
    SermGateMetric *metric, bool *finite, SermError *error)
{
	double *sum = serm_arena_array(arena, input->query_count, sizeof(double));
	double *weight = serm_arena_array(arena, input->query_count, sizeof(double));
	double active = 0.0, candidate = 0.0;

	if (sum == NULL || weight == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %zu queries", input->query_count);
	*finite = true;
	for (size_t i = 0; i < input->example_count; i++) {
		if (input->query_of[i] >= input->query_count)
			return serm_fail(error, SERM_ERR_INVALID, "an example belongs to query %u of %zu",
			    input->query_of[i], input->query_count);
		*finite = *finite && isfinite(input->nll_active[i]) && isfinite(input->nll_candidate[i]);
		sum[input->query_of[i]] += input->nll_candidate[i] - input->nll_active[i];
		weight[input->query_of[i]] += 1.0;
		active += input->nll_active[i];
		candidate += input->nll_candidate[i];
	}
	if (!*finite || input->example_count == 0)
		return SERM_OK;
	metric->active = active / (double) input->example_count;
	metric->candidate = candidate / (double) input->example_count;
	return serm_bootstrap_ratio(
	    sum, weight, input->query_count, resampling, arena, &metric->difference, error);
}

static uint32_t
at_least_one(uint32_t count)
{
	return count > 0 ? count : 1;
}

static SermRecentVerdict
judge_recent(const SermInterval *recent, const SermGateOptions *options)
{
	double bound = options->recent == SERM_RECENT_STRICT ? recent->value : recent->high;

	if (options->recent == SERM_RECENT_OFF)
		return SERM_RECENT_UNUSED;
	if (recent->count < at_least_one(options->recent_queries_min))
		return SERM_RECENT_FEW;
	return bound >= -ROUNDING ? SERM_RECENT_HOLDS : SERM_RECENT_FAILS;
}

static void
apply_recent(const SermGateOptions *options, SermGateDecision *decision)
{
	const SermInterval *recent = &decision->recent.difference;

	decision->verdict = judge_recent(recent, options);
	if (decision->verdict == SERM_RECENT_FAILS)
		object(decision, SERM_GATE_RECENT,
		    "recent: NDCG@4 %.4f against %.4f, difference %+.4f [%+.4f, %+.4f] at %g %% over %zu recent "
		    "queries, %s 0 (with \"recent\": \"off\" in the options of the gate they have no say)",
		    decision->recent.candidate, decision->recent.active, recent->value, recent->low, recent->high,
		    100.0 * options->confidence, recent->count,
		    options->recent == SERM_RECENT_STRICT ? "below" : "upper bound below");
}

/* What a candidate that is promoted did on the recent segment. */
static void
say_recent(const SermGateOptions *options, SermGateDecision *decision)
{
	const SermInterval *recent = &decision->recent.difference;

	if (decision->verdict == SERM_RECENT_FEW)
		say(decision, "recent: too few queries, %zu of %u, so the test set alone decides", recent->count,
		    at_least_one(options->recent_queries_min));
	else if (recent->count > 0)
		say(decision, "recent: NDCG@4 %+.4f [%+.4f, %+.4f] over %zu queries%s", recent->value, recent->low,
		    recent->high, recent->count,
		    decision->verdict == SERM_RECENT_UNUSED ? ", which have no say" : "");
}

static void
apply_rules(
    const SermGateInput *input, const SermGateOptions *options, bool nll_finite, SermGateDecision *decision)
{
	const SermInterval *ndcg = &decision->ndcg.difference;
	const SermInterval *nll = &decision->nll.difference;
	double percent = 100.0 * options->confidence;

	if (!input->candidate_finite || !input->active_finite || !nll_finite)
		object(decision, SERM_GATE_FINITE, "finite: %s",
		    !input->candidate_finite ? "a score of the candidate is not a finite number"
		    : !input->active_finite  ? "a score of the active version is not a finite number"
		                             : "a likelihood is not a finite number");
	if (ndcg->count < options->queries_min || ndcg->count == 0)
		object(decision, SERM_GATE_QUERIES,
		    "queries: not enough test queries with a positive grade, %zu of %u", ndcg->count,
		    at_least_one(options->queries_min));
	if (ndcg->count > 0 && !(ndcg->low >= -options->margin))
		object(decision, SERM_GATE_RANKING,
		    "ranking: NDCG@4 %.4f against %.4f, difference %+.4f [%+.4f, %+.4f] at %g %%, lower bound under "
		    "%+.4f",
		    decision->ndcg.candidate, decision->ndcg.active, ndcg->value, ndcg->low, ndcg->high, percent,
		    -options->margin);
	if (nll_finite && nll->count == 0)
		object(decision, SERM_GATE_LIKELIHOOD, "likelihood: no test example");
	if (nll_finite && nll->low > 0.0)
		object(decision, SERM_GATE_LIKELIHOOD,
		    "likelihood: NLL %.4f against %.4f, difference %+.4f [%+.4f, %+.4f] at %g %%, lower bound above "
		    "0",
		    decision->nll.candidate, decision->nll.active, nll->value, nll->low, nll->high, percent);
	apply_recent(options, decision);
	decision->promote = decision->rule == SERM_GATE_PASSED;
	if (!decision->promote)
		return;
	say(decision, "passed: NDCG@4 %+.4f [%+.4f, %+.4f], NLL %+.4f [%+.4f, %+.4f] at %g %% over %zu queries",
	    ndcg->value, ndcg->low, ndcg->high, nll->value, nll->low, nll->high, percent, ndcg->count);
	say_recent(options, decision);
}

SermStatus
serm_gate_decide(const SermGateInput *input, const SermGateOptions *options, SermArena *arena,
    SermGateDecision *decision, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermResampling resampling = {.draws = options->draws,
	    .confidence = options->confidence,
	    .seed = options->seed,
	    .keep_going = options->keep_going,
	    .context = options->context};
	const SermGateMetric unknown = {NAN, NAN, {NAN, NAN, NAN, 0}};
	bool nll_finite = true;
	SermStatus status;

	*decision = (SermGateDecision){.ndcg = unknown, .nll = unknown, .recent = unknown};
	if (!(options->margin >= 0.0) || isinf(options->margin))
		return serm_fail(error, SERM_ERR_INVALID, "margin %g is not a finite number from 0", options->margin);
	status = compare_ndcg(input->ndcg_active, input->ndcg_candidate, input->query_count, &resampling, arena,
	    &decision->ndcg, error);
	if (status == SERM_OK)
		status = compare_ndcg(input->recent_active, input->recent_candidate, input->recent_count, &resampling,
		    arena, &decision->recent, error);
	if (status == SERM_OK)
		status = compare_nll(input, &resampling, arena, &decision->nll, &nll_finite, error);
	serm_arena_rewind(arena, mark);
	if (status == SERM_OK)
		apply_rules(input, options, nll_finite, decision);
	return status;
}
