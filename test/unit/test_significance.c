#include "core/base/rng.h"
#include "core/stats/calibration.h"
#include "core/stats/gate.h"
#include "core/stats/significance.h"
#include "unit.h"

#define QUERIES 200

static SermArena arena;
static SermError error;

static bool
stop_now(void *context)
{
	(void) context;
	return false;
}

static SermInterval
bootstrap(const double *values, size_t count, uint32_t draws, double confidence, uint64_t seed)
{
	SermResampling resampling = {.draws = draws, .confidence = confidence, .seed = seed};
	SermInterval interval = {0};

	if (serm_bootstrap_mean(values, count, &resampling, &arena, &interval, &error) != SERM_OK)
		printf("# bootstrap: %s\n", error.message);
	return interval;
}

static void
test_bootstrap(void)
{
	double values[QUERIES], sum = 0, square = 0, half;
	SermInterval interval, again, other;
	SermRng rng;

	serm_rng_seed(&rng, 7);
	for (int i = 0; i < QUERIES; i++) {
		values[i] = serm_rng_normal(&rng) + 0.3;
		sum += values[i];
		square += values[i] * values[i];
	}
	half = 1.96 * sqrt((square / QUERIES - pow(sum / QUERIES, 2)) / QUERIES);
	interval = bootstrap(values, QUERIES, 4000, 0.95, 1);
	CHECK_NEAR(interval.value, sum / QUERIES, 1e-15, "the value is the mean");
	CHECK_NEAR(interval.low, sum / QUERIES - half, 0.012, "the lower limit is near the normal one");
	CHECK_NEAR(interval.high, sum / QUERIES + half, 0.012, "the upper limit too");
	again = bootstrap(values, QUERIES, 4000, 0.95, 1);
	other = bootstrap(values, QUERIES, 4000, 0.95, 2);
	CHECK(memcmp(&interval, &again, sizeof(again)) == 0, "a seed fixes the interval");
	CHECK(
	    other.low != interval.low && fabs(other.low - interval.low) < 0.02, "another seed moves it a little");
	other = bootstrap(values, QUERIES, 4000, 0.5, 1);
	CHECK(other.low > interval.low && other.high < interval.high, "less confidence, narrower interval");
	values[3] = values[77] = NAN;
	CHECK(bootstrap(values, QUERIES, 10, 0.95, 1).count == QUERIES - 2, "NaN is skipped");
	interval = bootstrap(values, 1, 100, 0.95, 1);
	CHECK(interval.low == values[0] && interval.high == values[0], "one query has no spread");
}

static void
test_coverage(void)
{
	int covered = 0, small = 0;
	SermRng rng;

	serm_rng_seed(&rng, 99);
	for (int round = 0; round < 600; round++) {
		SermResampling resampling = {.draws = 400, .confidence = 0.9, .seed = (uint64_t) round};
		SermArenaMark mark = serm_arena_mark(&arena);
		double values[50], p = 0;
		SermInterval interval;

		for (int i = 0; i < 50; i++)
			values[i] = serm_rng_uniform(&rng) - serm_rng_uniform(&rng);
		interval = bootstrap(values, 50, 400, 0.9, (uint64_t) round);
		covered += interval.low <= 0 && 0 <= interval.high;
		serm_randomisation_p(values, 50, &resampling, &arena, &p, &error);
		small += p < 0.1;
		serm_arena_rewind(&arena, mark);
	}
	CHECK(covered > 600 * 0.86 && covered < 600 * 0.94, "a 90 %% interval covers 90 %% of the time (%.3f)",
	    covered / 600.0);
	CHECK(small > 600 * 0.06 && small < 600 * 0.14, "p < .1 for 10 %% without a difference (%.3f)",
	    small / 600.0);
}

static void
test_clusters(void)
{
	double sum[QUERIES], weight[QUERIES], mean[QUERIES], spread[QUERIES * 10], ones[QUERIES * 10];
	SermResampling resampling;
	SermInterval clustered, plain, loose;
	SermRng rng;

	serm_resampling_defaults(&resampling);
	serm_rng_seed(&rng, 8);
	for (int i = 0; i < QUERIES; i++) {
		mean[i] = serm_rng_normal(&rng);
		weight[i] = 10;
		sum[i] = 10 * mean[i];
		for (int j = 0; j < 10; j++) {
			spread[i * 10 + j] = mean[i];
			ones[i * 10 + j] = 1;
		}
	}
	serm_bootstrap_ratio(sum, weight, QUERIES, &resampling, &arena, &clustered, &error);
	serm_bootstrap_mean(mean, QUERIES, &resampling, &arena, &plain, &error);
	serm_bootstrap_ratio(spread, ones, QUERIES * 10, &resampling, &arena, &loose, &error);
	CHECK_NEAR(clustered.low, plain.low, 1e-12, "equal clusters count as their means");
	CHECK(clustered.high - clustered.low > 2.5 * (loose.high - loose.low),
	    "examples of one query are not taken for independent");
	weight[0] = 0;
	sum[0] = NAN;
	weight[1] = 30;
	sum[1] = 60;
	serm_bootstrap_ratio(sum, weight, 2, &resampling, &arena, &clustered, &error);
	CHECK(clustered.count == 1 && clustered.value == 2.0, "a cluster without weight is left out");
}

static double
p_of(const double *difference, size_t count, uint32_t draws)
{
	SermResampling resampling = {.draws = draws, .confidence = 0.95, .seed = 4};
	double p = -1;

	serm_randomisation_p(difference, count, &resampling, &arena, &p, &error);
	return p;
}

static void
test_randomisation(void)
{
	const double same[] = {1, 2, 3, 4, 5}, mixed[] = {3, -1, 2, 0, NAN, -0.1, 0.1};
	double hits = 0, tossed, exact, values[12];
	SermRng rng;

	CHECK_NEAR(p_of(same, 5, 2000), 2 / 32.0, 1e-15, "five of one sign: 2 of 32 patterns");
	for (int s = 0; s < 32; s++)
		hits += fabs((s & 1 ? -3.0 : 3.0) + (s & 2 ? -1.0 : 1.0) + (s & 4 ? -2.0 : 2.0) +
		             (s & 8 ? -0.1 : 0.1) + (s & 16 ? -0.1 : 0.1)) >= 4.0 - 1e-9;
	CHECK_NEAR(
	    p_of(mixed, 7, 2000), hits / 32, 1e-15, "exact with zeros, holes and ties at the observed value");
	CHECK_NEAR(p_of((const double[]){0, 0, 0}, 3, 100), 1.0, 0.0, "no difference at all");
	serm_rng_seed(&rng, 6);
	for (int i = 0; i < 12; i++)
		values[i] = serm_rng_normal(&rng) + 0.5;
	exact = p_of(values, 12, 4096);
	tossed = p_of(values, 12, 4095);
	CHECK(exact != tossed && fabs(exact - tossed) < 0.02, "tossing agrees with all patterns (%.4f, %.4f)",
	    tossed, exact);
	CHECK(tossed == p_of(values, 12, 4095), "a seed fixes the p-value");
}

static void
test_refusals(void)
{
	SermResampling resampling;
	SermInterval interval;
	double values[3000] = {1, 2}, p;

	serm_resampling_defaults(&resampling);
	values[2] = INFINITY;
	CHECK(serm_bootstrap_mean(values, 3, &resampling, &arena, &interval, &error) == SERM_ERR_INVALID,
	    "infinity");
	CHECK(serm_randomisation_p(values, 3, &resampling, &arena, &p, &error) == SERM_ERR_INVALID,
	    "infinity again");
	values[2] = NAN;
	CHECK(serm_bootstrap_mean(values + 2, 1, &resampling, &arena, &interval, &error) == SERM_ERR_NO_DATA,
	    "nothing");
	CHECK(serm_randomisation_p(values, 0, &resampling, &arena, &p, &error) == SERM_ERR_NO_DATA,
	    "nothing again");
	values[2] = 0;
	resampling.keep_going = stop_now;
	CHECK(serm_bootstrap_mean(values, 3000, &resampling, &arena, &interval, &error) == SERM_ERR_CANCELED,
	    "cancel");
	for (int i = 0; i < 3000; i++)
		values[i] = 1;
	CHECK(serm_randomisation_p(values, 3000, &resampling, &arena, &p, &error) == SERM_ERR_CANCELED,
	    "cancel again");
	resampling.draws = 0;
	CHECK(serm_bootstrap_mean(values, 2, &resampling, &arena, &interval, &error) == SERM_ERR_INVALID,
	    "no draws");
	resampling.draws = 10;
	resampling.confidence = 1;
	CHECK(serm_bootstrap_mean(values, 2, &resampling, &arena, &interval, &error) == SERM_ERR_INVALID,
	    "certainty");
}

#define RECENT 40

/* Test pairs of 200 queries with 5 examples each; the candidate is moved by the two shifts. */
typedef struct Trial {
	double ndcg_active[QUERIES], ndcg_candidate[QUERIES];
	double nll_active[QUERIES * 5], nll_candidate[QUERIES * 5];
	uint32_t query_of[QUERIES * 5];
	double recent_active[RECENT], recent_candidate[RECENT];
	SermGateInput input;
	SermGateOptions options;
	SermGateDecision decision;
} Trial;

static void
make_trial(Trial *trial, double ndcg_shift, double nll_shift)
{
	SermRng rng;

	serm_rng_seed(&rng, 21);
	for (uint32_t i = 0; i < QUERIES; i++) {
		trial->ndcg_active[i] = 0.6 + 0.2 * serm_rng_uniform(&rng);
		trial->ndcg_candidate[i] = trial->ndcg_active[i] + ndcg_shift + 0.02 * (serm_rng_uniform(&rng) - 0.5);
		for (uint32_t j = i * 5; j < i * 5 + 5; j++) {
			trial->query_of[j] = i;
			trial->nll_active[j] = 0.8 + serm_rng_uniform(&rng);
			trial->nll_candidate[j] = trial->nll_active[j] + nll_shift + 0.1 * (serm_rng_uniform(&rng) - 0.5);
		}
	}
	trial->input = (SermGateInput){trial->ndcg_active, trial->ndcg_candidate, QUERIES, trial->nll_active,
	    trial->nll_candidate, trial->query_of, QUERIES * 5, true, true};
	serm_gate_defaults(&trial->options);
}

static SermGateDecision *
decide(Trial *trial)
{
	if (serm_gate_decide(&trial->input, &trial->options, &arena, &trial->decision, &error) != SERM_OK)
		printf("# gate: %s\n", error.message);
	return &trial->decision;
}

static void
test_gate(void)
{
	Trial *trial = calloc(1, sizeof(*trial));
	SermGateDecision first;

	make_trial(trial, 0.0, -0.02);
	CHECK(decide(trial)->promote && trial->decision.rule == SERM_GATE_PASSED,
	    "equal ranking, better likelihood: %s", trial->decision.reason);
	CHECK_NEAR(trial->decision.ndcg.candidate - trial->decision.ndcg.active,
	    trial->decision.ndcg.difference.value, 1e-12, "the difference is the difference of the means");
	CHECK(trial->decision.ndcg.difference.low < trial->decision.ndcg.difference.value &&
	          trial->decision.ndcg.difference.value < trial->decision.ndcg.difference.high,
	    "within its interval");
	CHECK_NEAR(trial->decision.nll.difference.value, -0.02, 0.004, "and so is the likelihood's");
	first = trial->decision;
	decide(trial);
	CHECK(first.ndcg.difference.low == trial->decision.ndcg.difference.low &&
	          first.nll.difference.high == trial->decision.nll.difference.high &&
	          strcmp(first.reason, trial->decision.reason) == 0,
	    "the gate is deterministic");

	make_trial(trial, -0.02, -0.02);
	CHECK(!decide(trial)->promote && trial->decision.rule == SERM_GATE_RANKING &&
	          strncmp(trial->decision.reason, "ranking: NDCG@4 ", 16) == 0,
	    "a fall of two points: %s", trial->decision.reason);
	trial->options.margin = 0.05;
	CHECK(decide(trial)->promote, "a wide margin lets it pass");
	make_trial(trial, -0.004, 0.0);
	CHECK(decide(trial)->promote, "a loss within the margin at the lower bound passes");

	make_trial(trial, 0.05, 0.03);
	CHECK(!decide(trial)->promote && trial->decision.rule == SERM_GATE_LIKELIHOOD &&
	          strstr(trial->decision.reason, "likelihood: NLL ") != NULL,
	    "a worse likelihood: %s", trial->decision.reason);
	make_trial(trial, -0.05, 0.03);
	CHECK(
	    decide(trial)->rule == SERM_GATE_RANKING && strstr(trial->decision.reason, "; likelihood: ") != NULL,
	    "both: %s", trial->decision.reason);

	make_trial(trial, 0.0, 0.0);
	trial->input.candidate_finite = false;
	CHECK(decide(trial)->rule == SERM_GATE_FINITE && !trial->decision.promote, "%s", trial->decision.reason);
	make_trial(trial, 0.0, 0.0);
	trial->nll_candidate[17] = INFINITY;
	CHECK(decide(trial)->rule == SERM_GATE_FINITE, "%s", trial->decision.reason);
	free(trial);
}

/* A trial that the test set lets pass, with `count` recent queries that differ by about `shift`, by +-.1 at
 * most. */
static void
make_recent_trial(Trial *trial, size_t count, double shift)
{
	SermRng rng;

	make_trial(trial, 0.0, -0.02);
	serm_rng_seed(&rng, 22);
	for (size_t i = 0; i < RECENT; i++) {
		trial->recent_active[i] = 0.5 + 0.2 * serm_rng_uniform(&rng);
		trial->recent_candidate[i] = trial->recent_active[i] + shift + (i % 2 == 0 ? 0.1 : -0.1);
	}
	trial->input.recent_active = trial->recent_active;
	trial->input.recent_candidate = trial->recent_candidate;
	trial->input.recent_count = count;
}

static void
test_gate_recent(void)
{
	Trial *trial = calloc(1, sizeof(*trial));
	SermGateDecision without;
	SermRecentRule rule;

	make_trial(trial, 0.0, -0.02);
	without = *decide(trial);
	CHECK(without.promote && without.verdict == SERM_RECENT_FEW &&
	          strstr(without.reason, "; recent: too few queries, 0 of 10, so the test set alone decides") !=
	              NULL,
	    "nothing recent: %s", without.reason);

	make_recent_trial(trial, RECENT, -0.1);
	CHECK(!decide(trial)->promote && trial->decision.rule == SERM_GATE_RECENT &&
	          trial->decision.verdict == SERM_RECENT_FAILS &&
	          strstr(trial->decision.reason, "upper bound below 0 (with \"recent\": \"off\"") != NULL,
	    "worse on recent queries: %s", trial->decision.reason);
	CHECK(trial->decision.ndcg.difference.low == without.ndcg.difference.low &&
	          trial->decision.nll.difference.high == without.nll.difference.high,
	    "the test set's figures know nothing of recent queries");
	CHECK(trial->decision.recent.difference.count == RECENT && trial->decision.recent.difference.high < 0 &&
	          trial->decision.recent.candidate < trial->decision.recent.active,
	    "the numbers are there");
	trial->options.recent_queries_min = RECENT + 1;
	CHECK(decide(trial)->promote && trial->decision.verdict == SERM_RECENT_FEW &&
	          strstr(trial->decision.reason, "too few queries, 40 of 41") != NULL,
	    "too few to refuse: %s", trial->decision.reason);
	trial->options.recent_queries_min = 1;
	trial->options.recent = SERM_RECENT_OFF;
	CHECK(decide(trial)->promote && trial->decision.verdict == SERM_RECENT_UNUSED &&
	          trial->decision.recent.difference.high < 0 &&
	          strstr(trial->decision.reason, "which have no say") != NULL,
	    "off: %s", trial->decision.reason);

	make_recent_trial(trial, RECENT, -0.003);
	CHECK(decide(trial)->promote && trial->decision.verdict == SERM_RECENT_HOLDS, "worse, but not shown: %s",
	    trial->decision.reason);
	trial->options.recent = SERM_RECENT_STRICT;
	CHECK(!decide(trial)->promote && strstr(trial->decision.reason, " queries, below 0 (") != NULL,
	    "worse: %s", trial->decision.reason);
	make_recent_trial(trial, RECENT, 0.0);
	trial->options.recent = SERM_RECENT_STRICT;
	CHECK(decide(trial)->promote && fabs(trial->decision.recent.difference.value) < 1e-12, "equal: %s",
	    trial->decision.reason);

	/* Whatever recent queries say, a candidate that the test set refuses is refused. */
	make_recent_trial(trial, RECENT, 0.2);
	for (int i = 0; i < QUERIES; i++)
		trial->ndcg_candidate[i] = trial->ndcg_active[i] - 0.02;
	CHECK(decide(trial)->rule == SERM_GATE_RANKING && !trial->decision.promote &&
	          trial->decision.verdict == SERM_RECENT_HOLDS,
	    "no promotion comes from recent queries: %s", trial->decision.reason);
	CHECK(serm_recent_rule_parse("strict", &rule) && rule == SERM_RECENT_STRICT &&
	          !serm_recent_rule_parse("best", &rule),
	    "rules by name");
	free(trial);
}

static void
test_gate_edges(void)
{
	Trial *trial = calloc(1, sizeof(*trial));

	make_trial(trial, 0.1, -0.1);
	for (int i = 9; i < QUERIES; i++)
		trial->ndcg_active[i] = trial->ndcg_candidate[i] = NAN;
	CHECK(decide(trial)->rule == SERM_GATE_QUERIES && !trial->decision.promote &&
	          strstr(trial->decision.reason, "9 of 10") != NULL,
	    "%s", trial->decision.reason);
	trial->options.queries_min = 9;
	CHECK(decide(trial)->promote, "nine may be enough");
	trial->input.query_count = trial->input.example_count = 0;
	trial->options.queries_min = 0;
	CHECK(!decide(trial)->promote && isnan(trial->decision.ndcg.difference.low) &&
	          strstr(trial->decision.reason, "likelihood: no test example") != NULL,
	    "nothing proves nothing: %s", trial->decision.reason);

	make_trial(trial, 0.0, 0.0);
	trial->ndcg_active[3] = NAN;
	CHECK(serm_gate_decide(&trial->input, &trial->options, &arena, &trial->decision, &error) ==
	          SERM_ERR_INVALID,
	    "an NDCG of one version only is a mistake");
	make_trial(trial, 0.0, 0.0);
	trial->query_of[0] = QUERIES;
	CHECK(serm_gate_decide(&trial->input, &trial->options, &arena, &trial->decision, &error) ==
	          SERM_ERR_INVALID,
	    "so is an unknown query");
	make_trial(trial, 0.0, 0.0);
	trial->options.margin = NAN;
	CHECK(serm_gate_decide(&trial->input, &trial->options, &arena, &trial->decision, &error) ==
	          SERM_ERR_INVALID,
	    "and a margin that is no number");
	free(trial);
}

static void
test_calibration(void)
{
	const float p[] = {.9f, .1f, .6f, .4f, .25f, .75f, .2f, .8f}, target[] = {1, 0, 0, 1, 0, 1, .5f, .5f};
	const float weight[] = {1, 1, 1, 0}, sure[] = {1, 0}, wrong[] = {0, 1};
	SermCalibration calibration;
	double draws = 20000;
	float *many = calloc(40000, sizeof(float)), *seen = calloc(40000, sizeof(float));
	SermRng rng;

	CHECK(serm_calibration_measure(p, target, weight, 4, 2, 10, &calibration, &error) == SERM_OK,
	    "calibration");
	CHECK_NEAR(calibration.nll, -(log(.9) + log(.4) + log(.75)) / 3, 1e-7, "NLL by hand");
	CHECK_NEAR(calibration.brier, (2 * .01 + 2 * .36 + 2 * .0625) / 3, 1e-7, "Brier by hand");
	CHECK_NEAR(calibration.accuracy, 2 / 3.0, 1e-7, "accuracy by hand");
	CHECK_NEAR(calibration.ece, (.1 + .6 + .25) / 3, 1e-7, "ECE by hand: three bins of one");
	CHECK(
	    calibration.bin[8].weight == 1 && calibration.bin[5].accuracy == 0 && calibration.bin[0].weight == 0,
	    "bins are open at the left");
	serm_calibration_measure(p, target, NULL, 4, 2, 1, &calibration, &error);
	CHECK_NEAR(calibration.ece, fabs((.9 + .6 + .75 + .8) / 4 - 2.5 / 4), 1e-7, "one bin: mean less mean");
	CHECK_NEAR(
	    serm_calibration_nll(sure, wrong, 2), -log(1e-12), 1e-9, "certainty in error is dear but finite");
	CHECK(isnan(serm_calibration_nll((const float[]){NAN, 1}, wrong, 2)), "NaN stays NaN");

	serm_rng_seed(&rng, 12);
	for (size_t i = 0; i < 20000; i++) {
		many[2 * i] = (float) (0.5 + 0.5 * serm_rng_uniform(&rng));
		many[2 * i + 1] = 1 - many[2 * i];
		seen[2 * i + (serm_rng_uniform(&rng) >= many[2 * i])] = 1;
	}
	serm_calibration_measure(many, seen, NULL, 20000, 2, 15, &calibration, &error);
	CHECK(calibration.ece < 0.02 && calibration.weight == draws, "a calibrated source has no error (%.4f)",
	    calibration.ece);
	CHECK(serm_calibration_measure(p, target, NULL, 4, 2, 0, &calibration, &error) == SERM_ERR_INVALID,
	    "no bins");
	CHECK(serm_calibration_measure(p, target, NULL, 0, 2, 5, &calibration, &error) == SERM_ERR_NO_DATA,
	    "no data");
	free(many);
	free(seen);
}

int
main(void)
{
	arena = unit_arena();
	test_bootstrap();
	test_coverage();
	test_clusters();
	test_randomisation();
	test_refusals();
	test_gate();
	test_gate_recent();
	test_gate_edges();
	test_calibration();
	serm_arena_free(&arena);
	DONE();
}
