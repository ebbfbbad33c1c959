/*
 * The gate: candidate and active version on the same held-out judgments, paired
 * by query. What people graded decides; judgments of agents count only where
 * there is nothing else.
 */
#include "pg/serm.h"

#include "core/stats/gate.h"
#include "pg/evolve/round.h"

static void
evaluate_version(SermRound *round, SermScorer *scorer, const SermPairSet *set, SermEvaluation *evaluation)
{
	SermPredictions predictions;

	serm_predict_scorer(&round->host, scorer, set, &predictions);
	serm_evaluate(&round->host, &predictions, evaluation);
}

static void
decide(SermRound *round, const SermEvaluation *active, const SermEvaluation *candidate,
    SermGateDecision *decision)
{
	const SermPairSet *set = active->set;
	const SermGateSettings *settings = &round->settings.gate;
	uint32 *query_of = serm_arena_array(&round->host.arena, Max(set->pair_count, 1), sizeof(uint32));
	SermGateInput input = {.ndcg_active = active->ndcg[SERM_NDCG_AT_4],
	    .ndcg_candidate = candidate->ndcg[SERM_NDCG_AT_4],
	    .query_count = set->query_count,
	    .nll_active = active->nll_pair,
	    .nll_candidate = candidate->nll_pair,
	    .query_of = query_of,
	    .example_count = set->pair_count,
	    .active_finite = active->finite,
	    .candidate_finite = candidate->finite};
	SermGateOptions options;
	SermError error = {0};

	if (query_of == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	for (size_t i = 0; i < set->pair_count; i++)
		query_of[i] = set->pairs[i].query;
	/* Numbers that are not finite have no ranking: a query may be defined for both versions or for none. */
	if (!active->finite || !candidate->finite)
		input.ndcg_active = input.ndcg_candidate =
		    (active->finite ? candidate : active)->ndcg[SERM_NDCG_AT_4];
	serm_gate_defaults(&options);
	options.margin = settings->margin;
	options.confidence = settings->confidence;
	options.queries_min = (uint32) settings->min_queries;
	options.draws = (uint32) settings->draws;
	options.keep_going = serm_host_keep_going;
	options.context = &round->host;
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
	SermEvaluation before, after;
	SermPairSet old;

	serm_pairs_old(&round->host, test, &old);
	evaluate_version(round, active, &old, &before);
	evaluate_version(round, candidate, &old, &after);
	return serm_forgetting_json(&round->host, against, &before, &after);
}

static Jsonb *
write_gate(SermRound *round, const SermGateDecision *decision, int against, bool gold,
    const SermEvaluation *active, const SermEvaluation *candidate, const Jsonb *forgetting)
{
	StringInfo gate = serm_json_begin();
	StringInfo json = serm_json_begin();

	serm_json_text(gate, "rule", serm_gate_rule_name(decision->rule));
	serm_json_number(gate, "against", against);
	write_metric(gate, "ndcg@4", &decision->ndcg);
	write_metric(gate, "nll", &decision->nll);
	serm_json_jsonb(json, "gate", serm_json_end(gate));
	serm_json_jsonb(json, "forgetting", forgetting);
	serm_json_jsonb(json, "active", serm_evaluation_json(&round->host, active, gold));
	serm_json_jsonb(json, "candidate", serm_evaluation_json(&round->host, candidate, gold));
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

/* Somebody promoted the candidate while the round ran, and perhaps took it back: there is nothing left to
 * decide. */
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
	serm_round_finish(round, "rejected", "promoted and taken back by hand before the gate", NULL, NULL);
	return true;
}

static void
apply(SermRound *round, const SermGateDecision *decision, int against, const Jsonb *metrics)
{
	/* With the row locked, nobody promotes between this look and the decision. */
	int active = active_version(round, true);

	if (decided_by_hand(round, active))
		return;
	if (active != against)
		ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
		    errmsg("another version of model \"%s\" became active while the gate compared", round->row->name),
		    errhint("CALL serm.evolve('%s') again: it compares with the new one.", round->row->name));
	if (decision->promote)
		serm_version_activate(round->row->name, round->candidate, "promote",
		    psprintf("round %d: %s", round->number, decision->reason));
	else
		serm_version_set_status(round->row->name, round->candidate, "rejected");
	serm_round_finish(round, decision->promote ? "promoted" : "rejected", decision->reason, NULL, metrics);
}

void
serm_round_gate(SermRound *round)
{
	SermScorer *active_scorer, *candidate_scorer;
	SermEvaluation active, candidate;
	SermGateDecision decision;
	SermPairSet test;
	SermPairWindow window = {.share = {1, 1, 1}};
	Jsonb *metrics, *forgetting;
	bool gold;
	int against = active_version(round, false);

	if (decided_by_hand(round, against)) {
		serm_spi_commit(&round->level);
		return;
	}
	window.since = serm_version_read_at(round->row->name, against);
	serm_pairs_read_window(
	    &round->host, round->row, strcmp(round->row->options.labels, "agreed") == 0, &window, NULL, &test);
	gold = serm_pairs_keep_gold(&test);
	active_scorer = serm_scorer_open(round->row->name, against, SERM_SEE_WRITES, round->context);
	candidate_scorer = serm_scorer_open(round->row->name, round->candidate, SERM_SEE_WRITES, round->context);
	serm_spi_commit(&round->level);
	evaluate_version(round, active_scorer, &test, &active);
	evaluate_version(round, candidate_scorer, &test, &candidate);
	forgetting = measure_forgetting(round, against, active_scorer, candidate_scorer, &test);
	serm_scorer_close(active_scorer);
	serm_scorer_close(candidate_scorer);
	decide(round, &active, &candidate, &decision);
	metrics = write_gate(round, &decision, against, gold, &active, &candidate, forgetting);
	apply(round, &decision, against, metrics);
	serm_spi_commit(&round->level);
}
