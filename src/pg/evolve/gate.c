/*
 * The gate: candidate and active version on the same held-out judgments, paired
 * by query. What people graded decides; judgments of agents count only where
 * there is nothing else, and in the segment of recent queries, which is measured
 * by itself and can only refuse: no agent can bring about a promotion there.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/stats/gate.h"
#include "pg/evolve/round.h"

/* Both versions on the same pairs. */
typedef struct Comparison {
	SermPairSet set;
	SermEvaluation active;
	SermEvaluation candidate;
} Comparison;

static void
evaluate_version(SermRound *round, SermScorer *scorer, const SermPairSet *set, SermEvaluation *evaluation)
{
	SermPredictions predictions;

	serm_predict_scorer(&round->host, scorer, set, &predictions);
	serm_evaluate(&round->host, &predictions, evaluation);
}

static void
compare(SermRound *round, SermScorer *active, SermScorer *candidate, Comparison *comparison)
{
	evaluate_version(round, active, &comparison->set, &comparison->active);
	evaluate_version(round, candidate, &comparison->set, &comparison->candidate);
}

/* NDCG@4 by query. Numbers that are not finite have no ranking: a query is defined for both versions or none.
 */
static void
take_ndcg(const Comparison *comparison, const double **active, const double **candidate)
{
	const SermEvaluation *a = &comparison->active, *c = &comparison->candidate;

	*active = (a->finite ? a : c)->ndcg[SERM_NDCG_AT_4];
	*candidate = (c->finite ? c : a)->ndcg[SERM_NDCG_AT_4];
}

/* Agents grade few documents of a query: where all have one grade, any order is right and shows nothing. */
static void
leave_out_even(Comparison *comparison)
{
	const SermPairSet *set = &comparison->set;

	for (size_t first = 0, end; first < set->pair_count; first = end) {
		bool even = true;

		for (end = first; end < set->pair_count && set->pairs[end].query == set->pairs[first].query; end++)
			even = even && set->pairs[end].grade == set->pairs[first].grade;
		if (even)
			comparison->active.ndcg[SERM_NDCG_AT_4][set->pairs[first].query] =
			    comparison->candidate.ndcg[SERM_NDCG_AT_4][set->pairs[first].query] = NAN;
	}
}

static void
take_options(SermRound *round, SermGateOptions *options)
{
	const SermGateSettings *settings = &round->settings.gate;

	serm_gate_defaults(options);
	options->margin = settings->margin;
	options->confidence = settings->confidence;
	options->queries_min = (uint32) settings->min_queries;
	options->draws = (uint32) settings->draws;
	(void) serm_recent_rule_parse(settings->recent, &options->recent);
	options->recent_queries_min = (uint32) settings->recent_min_queries;
	options->keep_going = serm_host_keep_going;
	options->context = &round->host;
}

static void
decide(SermRound *round, const Comparison *base, const Comparison *recent, SermGateDecision *decision)
{
	const SermPairSet *set = &base->set;
	uint32 *query_of = serm_arena_array(&round->host.arena, Max(set->pair_count, 1), sizeof(uint32));
	SermGateInput input = {.query_count = set->query_count,
	    .nll_active = base->active.nll_pair,
	    .nll_candidate = base->candidate.nll_pair,
	    .query_of = query_of,
	    .example_count = set->pair_count,
	    .active_finite = base->active.finite && recent->active.finite,
	    .candidate_finite = base->candidate.finite && recent->candidate.finite,
	    .recent_count = recent->set.query_count};
	SermGateOptions options;
	SermError error = {0};

	if (query_of == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	for (size_t i = 0; i < set->pair_count; i++)
		query_of[i] = set->pairs[i].query;
	take_ndcg(base, &input.ndcg_active, &input.ndcg_candidate);
	take_ndcg(recent, &input.recent_active, &input.recent_candidate);
	take_options(round, &options);
	serm_host_check(
	    &round->host, serm_gate_decide(&input, &options, &round->host.arena, decision, &error), &error);
}

static void
write_metric(StringInfo json, const char *name, const SermGateMetric *metric)
{
	StringInfo object = serm_json_begin();

	serm_json_number(object, "active", metric->active);
	serm_json_number(object, "candidate", metric->candidate);
	serm_json_number(object, "difference", metric->difference.value);
	serm_json_number(object, "low", metric->difference.low);
	serm_json_number(object, "high", metric->difference.high);
	serm_json_number(object, "n", (double) metric->difference.count);
	serm_json_jsonb(json, name, serm_json_end(object));
}

/* Both versions on the judgments that the active one was made from and those before. */
static Jsonb *
measure_forgetting(
    SermRound *round, int against, SermScorer *active, SermScorer *candidate, const SermPairSet *test)
{
	Comparison old;

	serm_pairs_old(&round->host, test, &old.set);
	compare(round, active, candidate, &old);
	return serm_forgetting_json(&round->host, against, &old.active, &old.candidate);
}

/* The first round whose queries are recent. */
static int32
first_recent(const SermRound *round)
{
	return Max(round->number - round->settings.gate.recent_rounds + 1, 1);
}

static void
write_recent(
    const SermRound *round, const SermGateDecision *decision, const Comparison *recent, StringInfo gate)
{
	const SermPairSet *set = &recent->set;
	StringInfo json = serm_json_begin();
	size_t agents = 0;

	for (size_t i = 0; i < set->pair_count; i++)
		agents += set->pairs[i].source == SERM_SOURCE_AGENTS ? 1 : 0;
	serm_json_text(json, "rule", round->settings.gate.recent);
	serm_json_text(json, "verdict", serm_recent_verdict_name(decision->verdict));
	serm_json_number(json, "since_round", first_recent(round));
	serm_json_number(json, "queries", (double) set->query_count);
	serm_json_number(json, "pairs", (double) set->pair_count);
	serm_json_number(json, "by_agents", (double) agents);
	write_metric(json, "ndcg@4", &decision->recent);
	serm_json_jsonb(gate, "recent", serm_json_end(json));
}

static Jsonb *
write_gate(SermRound *round, const SermGateDecision *decision, int against, bool gold, const Comparison *base,
    const Comparison *recent, const Jsonb *forgetting)
{
	StringInfo gate = serm_json_begin();
	StringInfo json = serm_json_begin();

	serm_json_text(gate, "rule", serm_gate_rule_name(decision->rule));
	serm_json_number(gate, "against", against);
	write_metric(gate, "ndcg@4", &decision->ndcg);
	write_metric(gate, "nll", &decision->nll);
	write_recent(round, decision, recent, gate);
	serm_json_jsonb(json, "gate", serm_json_end(gate));
	serm_json_jsonb(json, "forgetting", forgetting);
	serm_json_jsonb(json, "active", serm_evaluation_json(&round->host, &base->active, gold));
	serm_json_jsonb(json, "candidate", serm_evaluation_json(&round->host, &base->candidate, gold));
	return serm_json_end(json);
}

/* The active version now, not when the round began: it is the one that would be replaced. 0 without one. */
static int
active_version(const SermRound *round, bool lock)
{
	SermParam params[] = {SERM_TEXT(round->row->name)};
	bool null;
	Datum active;

	serm_spi_execute(lock ? "SELECT m.active FROM serm.model m WHERE m.name = $1 FOR UPDATE"
	                      : "SELECT m.active FROM serm.model m WHERE m.name = $1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	if (SPI_processed == 0)
		return 0;
	active = serm_spi_value(0, 1, &null);
	return null ? 0 : DatumGetInt32(active);
}

/* Somebody promoted the candidate while the round ran, and perhaps another one since: there is nothing left
 * to decide. */
static bool
decided_by_hand(SermRound *round, int active)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->candidate)};

	if (active == round->candidate) {
		serm_round_finish(round, "promoted", "promoted by hand before the gate", NULL, NULL);
		return true;
	}
	serm_spi_execute(
	    "SELECT FROM serm.version v WHERE v.model = $1 AND v.version = $2 AND v.status = 'retired'",
	    SPI_OK_SELECT, false, params, lengthof(params));
	if (SPI_processed == 0)
		return false;
	serm_round_finish(
	    round, "rejected", "promoted by hand before the gate, and no longer active", NULL, NULL);
	return true;
}

static void
apply(SermRound *round, const SermGateDecision *decision, bool gold, int against, const Jsonb *metrics)
{
	const char *reason =
	    gold ? decision->reason : psprintf("%s; people graded no test query", decision->reason);

	/* With the row locked, nobody promotes between this look and the decision. */
	int active = active_version(round, true);

	if (decided_by_hand(round, active))
		return;
	if (active != against)
		ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
		    errmsg("another version of model \"%s\" became active while the gate compared", round->row->name),
		    errhint("CALL serm.evolve('%s') again: it compares with the new one.", round->row->name));
	if (decision->promote)
		serm_version_activate(
		    round->row->name, round->candidate, "promote", psprintf("round %d: %s", round->number, reason));
	else
		serm_version_set_status(round->row->name, round->candidate, "rejected");
	serm_round_finish(round, decision->promote ? "promoted" : "rejected", reason, NULL, metrics);
}

/* Reads the pairs of the base set and of the recent segment; true: people graded the base set. */
static bool
read_pairs(SermRound *round, int against, SermPairSet *base, SermPairSet *recent)
{
	SermPairWindow window = {.share = {1, 1, 1}};

	window.since = serm_version_read_at(round->row->name, against);
	serm_pairs_read_window(
	    &round->host, round->row, strcmp(round->row->options.labels, "agreed") == 0, &window, NULL, base);
	serm_pairs_read_recent(&round->host, round->row, first_recent(round), recent);
	return serm_pairs_keep_gold(base);
}

void
serm_round_gate(SermRound *round)
{
	SermScorer *active, *candidate;
	Comparison base, recent;
	SermGateDecision decision;
	Jsonb *metrics, *forgetting;
	bool gold;
	int against = active_version(round, false);

	if (decided_by_hand(round, against)) {
		serm_spi_commit(&round->level);
		return;
	}
	gold = read_pairs(round, against, &base.set, &recent.set);
	active = serm_scorer_open(round->row->name, against, SERM_SEE_WRITES, round->context);
	candidate = serm_scorer_open(round->row->name, round->candidate, SERM_SEE_WRITES, round->context);
	serm_spi_commit(&round->level);
	compare(round, active, candidate, &base);
	compare(round, active, candidate, &recent);
	leave_out_even(&recent);
	forgetting = measure_forgetting(round, against, active, candidate, &base.set);
	serm_scorer_close(active);
	serm_scorer_close(candidate);
	decide(round, &base, &recent, &decision);
	metrics = write_gate(round, &decision, against, gold, &base, &recent, forgetting);
	apply(round, &decision, gold, against, metrics);
	serm_spi_commit(&round->level);
}
