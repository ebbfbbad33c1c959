/*
 * How good predictions are: ranking metrics per query, accuracy, quadratic
 * kappa, likelihood, calibration error, with bootstrap intervals over queries
 * (the pairs of a query are not independent), and serm.evaluate.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/base/rng.h"
#include "core/stats/agreement.h"
#include "core/stats/calibration.h"
#include "core/stats/metrics.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pg/evolve/evolve.h"

#define INTERVAL_DRAWS 1000
#define INTERVAL_CONFIDENCE .95
#define INTERVAL_SEED 1
#define BIN_FIELDS 3

static const struct {
	const char *name;
	SermGain gain;
	size_t cutoff;
} ndcgs[SERM_NDCG_COUNT] = {
    {"ndcg@1", SERM_GAIN_LINEAR, 1},
    {"ndcg@4", SERM_GAIN_LINEAR, 4},
    {"ndcg@10", SERM_GAIN_LINEAR, 10},
    {"ndcg_exp@1", SERM_GAIN_EXPONENTIAL, 1},
    {"ndcg_exp@4", SERM_GAIN_EXPONENTIAL, 4},
    {"ndcg_exp@10", SERM_GAIN_EXPONENTIAL, 10},
};

static double *
doubles(SermHost *host, size_t count)
{
	double *array = serm_arena_array(&host->arena, Max(count, 1), sizeof(double));
	SermError error = {0};

	if (array == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	return array;
}

/* --- per query */

static void
rank_query(
    SermHost *host, const SermPredictions *predictions, size_t first, size_t end, SermEvaluation *evaluation)
{
	const SermPairSet *set = predictions->set;
	uint32 query = set->pairs[first].query;
	SermArenaMark mark = serm_arena_mark(&host->arena);
	SermRankedDoc *docs = serm_arena_array(&host->arena, end - first, sizeof(SermRankedDoc));
	SermRanking ranking;
	SermError error = {0};

	if (docs == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	for (size_t i = first; i < end; i++) {
		const SermPair *pair = &set->pairs[i];

		docs[i - first] = (SermRankedDoc){predictions->score[i], pair->grade,
		    pair->doc_id.length > 0 ? pair->doc_id.bytes : NULL, pair->doc_id.length, false};
	}
	serm_check(serm_metrics_rank(docs, end - first, &host->arena, &ranking, &error), &error);
	for (int k = 0; k < SERM_NDCG_COUNT; k++)
		serm_check(serm_metrics_ndcg(&ranking, ndcgs[k].gain, ndcgs[k].cutoff, &host->arena,
		               &evaluation->ndcg[k][query], &error),
		    &error);
	serm_arena_rewind(&host->arena, mark);
}

static void
count_pair(const SermPredictions *predictions, size_t i, SermEvaluation *evaluation)
{
	const SermPair *pair = &predictions->set->pairs[i];
	uint32 grade_count = predictions->grade_count;
	const float *probability = &predictions->probability[i * grade_count];
	int judged = (int) floor(pair->grade + .5);
	double confidence = probability[predictions->argmax[i]];
	double accuracy = pair->target[predictions->argmax[i]];
	int bin = (int) ceil(confidence * SERM_ECE_BINS) - 1;
	double *field;

	judged = Min(Max(judged, 0), (int) grade_count - 1);
	bin = Min(Max(bin, 0), SERM_ECE_BINS - 1);
	field = &evaluation->bins[((size_t) pair->query * SERM_ECE_BINS + (size_t) bin) * BIN_FIELDS];
	field[0] += 1;
	field[1] += confidence;
	field[2] += accuracy;
	evaluation->wrong[i] = fabs(predictions->score[i] - pair->grade) >= 1;
	evaluation->nll_pair[i] = serm_calibration_nll(probability, pair->target, grade_count);
	evaluation->nll[pair->query] += evaluation->nll_pair[i];
	evaluation->pairs[pair->query] += 1;
	evaluation->correct[pair->query] += accuracy;
	evaluation->confusion[((size_t) pair->query * grade_count + (size_t) judged) * grade_count +
	                      predictions->grade[i]] += 1;
}

void
serm_evaluate(SermHost *host, const SermPredictions *predictions, SermEvaluation *evaluation)
{
	const SermPairSet *set = predictions->set;
	size_t queries = set->query_count;
	uint32 grade_count = predictions->grade_count;
	SermError error = {0};

	*evaluation = (SermEvaluation){.set = set, .grade_count = grade_count, .finite = predictions->finite};
	for (int k = 0; k < SERM_NDCG_COUNT; k++) {
		evaluation->ndcg[k] = doubles(host, queries);
		for (size_t q = 0; q < queries; q++)
			evaluation->ndcg[k][q] = NAN;
	}
	evaluation->pairs = doubles(host, queries);
	evaluation->correct = doubles(host, queries);
	evaluation->nll = doubles(host, queries);
	evaluation->nll_pair = doubles(host, set->pair_count);
	evaluation->confusion = doubles(host, queries * grade_count * grade_count);
	evaluation->bins = doubles(host, queries * SERM_ECE_BINS * BIN_FIELDS);
	evaluation->wrong = serm_arena_array(&host->arena, Max(set->pair_count, 1), sizeof(bool));
	if (evaluation->wrong == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	/* Numbers that are not finite have no order and no likelihood; the gate refuses them by name. */
	if (!predictions->finite)
		return;
	for (size_t first = 0, end; first < set->pair_count; first = end) {
		for (end = first; end < set->pair_count && set->pairs[end].query == set->pairs[first].query; end++)
			count_pair(predictions, end, evaluation);
		rank_query(host, predictions, first, end, evaluation);
	}
	serm_check(
	    serm_roc_sort(predictions->entropy, set->pair_count, &host->arena, &evaluation->by_entropy, &error),
	    &error);
	serm_check(serm_roc_sort(predictions->disagreement, set->pair_count, &host->arena,
	               &evaluation->by_disagreement, &error),
	    &error);
}

/* --- statistics of totals, with intervals */

/* A number from the totals of `width` sums. */
typedef double (*Statistic)(const double *totals, size_t width);

static double
kappa_of(const double *totals, size_t width)
{
	size_t grade_count = (size_t) (sqrt((double) width) + .5);
	double kappa = NAN;
	SermError error;

	(void) serm_agreement_kappa(totals, grade_count, NULL, SERM_KAPPA_QUADRATIC, &kappa, &error);
	return kappa;
}

static double
ece_of(const double *totals, size_t width)
{
	double pairs = 0, error = 0;

	for (size_t field = 0; field < width; field += BIN_FIELDS) {
		pairs += totals[field];
		error += fabs(totals[field + 1] - totals[field + 2]);
	}
	return pairs > 0 ? error / pairs : NAN;
}

static int
compare_doubles(const void *a, const void *b)
{
	double x = *(const double *) a, y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
quantile(const double *sorted, size_t count, double p)
{
	double at = p * (double) (count - 1);
	size_t low = (size_t) at;
	size_t high = Min(low + 1, count - 1);

	return sorted[low] + (at - (double) low) * (sorted[high] - sorted[low]);
}

/* The percentile interval, from the values of the draws that gave one; sorts them. */
static void
set_quantiles(double *values, size_t count, SermInterval *interval)
{
	if (count == 0 || !isfinite(interval->value))
		return;
	qsort(values, count, sizeof(double), compare_doubles);
	interval->low = quantile(values, count, (1 - INTERVAL_CONFIDENCE) / 2);
	interval->high = quantile(values, count, (1 + INTERVAL_CONFIDENCE) / 2);
}

/* The value of a statistic of sums, and its percentile interval over resampled queries. */
static SermInterval
statistic_interval(
    SermHost *host, const double *sums, size_t queries, size_t width, Statistic statistic, uint32 draws)
{
	SermArenaMark mark = serm_arena_mark(&host->arena);
	double *totals = doubles(host, width);
	double *values = doubles(host, draws);
	SermInterval interval = {NAN, NAN, NAN, queries};
	size_t count = 0;
	SermRng rng;

	serm_rng_seed(&rng, INTERVAL_SEED);
	for (size_t q = 0; q < queries; q++)
		for (size_t i = 0; i < width; i++)
			totals[i] += sums[q * width + i];
	interval.value = statistic(totals, width);
	for (uint32 draw = 0; draw < draws && queries > 0; draw++) {
		CHECK_FOR_INTERRUPTS();
		memset(totals, 0, width * sizeof(double));
		for (size_t q = 0; q < queries; q++) {
			const double *row = &sums[serm_rng_below(&rng, (uint32) queries) * width];

			for (size_t i = 0; i < width; i++)
				totals[i] += row[i];
		}
		values[count] = statistic(totals, width);
		count += isfinite(values[count]) ? 1 : 0;
	}
	set_quantiles(values, count, &interval);
	serm_arena_rewind(&host->arena, mark);
	return interval;
}

/*
 * How well a signal foretells scores that are off by a grade or more, with its percentile interval over
 * resampled queries: a pair counts as often as its query was drawn.
 */
static SermInterval
roc_interval(SermHost *host, const SermEvaluation *evaluation, const SermRoc *roc, uint32 draws)
{
	const SermPairSet *set = evaluation->set;
	SermArenaMark mark = serm_arena_mark(&host->arena);
	double *times = doubles(host, set->query_count);
	double *weight = doubles(host, set->pair_count);
	double *values = doubles(host, draws);
	SermInterval interval = {NAN, NAN, NAN, set->query_count};
	size_t count = 0;
	SermRng rng;

	serm_rng_seed(&rng, INTERVAL_SEED);
	interval.value = serm_roc_area(roc, evaluation->wrong, NULL);
	for (uint32 draw = 0; draw < draws && isfinite(interval.value); draw++) {
		CHECK_FOR_INTERRUPTS();
		memset(times, 0, set->query_count * sizeof(double));
		for (size_t q = 0; q < set->query_count; q++)
			times[serm_rng_below(&rng, (uint32) set->query_count)] += 1;
		for (size_t i = 0; i < set->pair_count; i++)
			weight[i] = times[set->pairs[i].query];
		values[count] = serm_roc_area(roc, evaluation->wrong, weight);
		count += isfinite(values[count]) ? 1 : 0;
	}
	set_quantiles(values, count, &interval);
	serm_arena_rewind(&host->arena, mark);
	return interval;
}

/* Of a mean over queries (weight NULL) or of a ratio of sums; NaN when nothing is defined. */
static SermInterval
mean_interval(SermHost *host, const double *values, const double *weight, size_t count, uint32 draws)
{
	SermInterval interval = {NAN, NAN, NAN, 0};
	SermResampling resampling;
	SermError error = {0};
	SermStatus status;

	serm_resampling_defaults(&resampling);
	resampling.draws = Max(draws, 1);
	resampling.confidence = INTERVAL_CONFIDENCE;
	resampling.seed = INTERVAL_SEED;
	resampling.keep_going = serm_host_keep_going;
	resampling.context = host;
	status = weight != NULL
	             ? serm_bootstrap_ratio(values, weight, count, &resampling, &host->arena, &interval, &error)
	             : serm_bootstrap_mean(values, count, &resampling, &host->arena, &interval, &error);
	if (status == SERM_ERR_NO_DATA)
		return (SermInterval){NAN, NAN, NAN, 0};
	serm_host_check(host, status, &error);
	return interval;
}

void
serm_evaluation_metrics(SermHost *host, const SermEvaluation *evaluation, uint32 draws, SermMetric *metrics)
{
	size_t queries = evaluation->set->query_count;
	size_t grades = evaluation->grade_count;
	SermMetric *next = metrics;

	for (int k = 0; k < SERM_NDCG_COUNT; k++)
		*next++ = (SermMetric){ndcgs[k].name, mean_interval(host, evaluation->ndcg[k], NULL, queries, draws)};
	*next++ =
	    (SermMetric){"accuracy", mean_interval(host, evaluation->correct, evaluation->pairs, queries, draws)};
	*next++ = (SermMetric){
	    "kappa", statistic_interval(host, evaluation->confusion, queries, grades * grades, kappa_of, draws)};
	*next++ = (SermMetric){"nll", mean_interval(host, evaluation->nll, evaluation->pairs, queries, draws)};
	*next++ = (SermMetric){"ece",
	    statistic_interval(host, evaluation->bins, queries, SERM_ECE_BINS * BIN_FIELDS, ece_of, draws)};
	*next++ = (SermMetric){"auroc_entropy", roc_interval(host, evaluation, &evaluation->by_entropy, draws)};
	*next++ = (SermMetric){
	    "auroc_disagreement", roc_interval(host, evaluation, &evaluation->by_disagreement, draws)};
	Assert(next - metrics == SERM_METRIC_COUNT);
}

Jsonb *
serm_evaluation_json(SermHost *host, const SermEvaluation *evaluation, bool gold)
{
	SermMetric metrics[SERM_METRIC_COUNT];
	StringInfo json = serm_json_begin();

	serm_evaluation_metrics(host, evaluation, 0, metrics);
	for (int i = 0; i < SERM_METRIC_COUNT; i++)
		serm_json_number(json, metrics[i].name, metrics[i].interval.value);
	serm_json_number(json, "pairs", (double) evaluation->set->pair_count);
	serm_json_number(json, "queries", (double) evaluation->set->query_count);
	serm_json_bool(json, "gold", gold);
	serm_json_bool(json, "finite", evaluation->finite);
	return serm_json_end(json);
}

/* --- serm.evaluate */

static void
put_metric(ReturnSetInfo *result, const SermMetric *metric)
{
	Datum values[5] = {CStringGetTextDatum(metric->name), Float8GetDatum(metric->interval.value),
	    Float8GetDatum(metric->interval.low), Float8GetDatum(metric->interval.high),
	    Int64GetDatum((int64) metric->interval.count)};
	bool nulls[5] = {false, !isfinite(metric->interval.value), !isfinite(metric->interval.low),
	    !isfinite(metric->interval.high), false};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_count(ReturnSetInfo *result, const char *name, size_t count)
{
	put_metric(result, &(SermMetric){name, {(double) count, NAN, NAN, count}});
}

static void
read_split(SermHost *host, const SermModelRow *row, const char *split, SermPairSet *set)
{
	SermPairSet *train = NULL, *test = NULL;

	if (strcmp(split, "test") == 0)
		test = set;
	else if (strcmp(split, "train") == 0)
		train = set;
	else
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown split \"%s\"", split),
		    errhint("Valid splits are: test, train."));
	serm_pairs_read(host, row, strcmp(row->options.labels, "agreed") == 0, train, test);
	(void) serm_pairs_keep_gold(set);
	if (set->pair_count == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no judgments in the %s split", row->name, split),
		    errhint(
		        "Insert graded pairs into serm.judgment; serm.split_of(query) tells the split of a query."));
}

SERM_FUNCTION(serm_evaluate_version);

/* serm.evaluate(model text, version int, split text): metrics with their intervals. */
Datum
serm_evaluate_version(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	int version = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	char *split = PG_ARGISNULL(2) ? "test" : text_to_cstring(PG_GETARG_TEXT_PP(2));
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "serm evaluate", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermHost host;
	SermScorer *scorer = serm_scorer_open(model, version, SERM_SEE_WRITES, context);
	SermPairSet set;
	SermPredictions predictions;
	SermEvaluation evaluation;
	SermMetric metrics[SERM_METRIC_COUNT];
	int level;

	serm_host_init(&host, context, (Size) serm_train_memory_mb * 1024 * 1024);
	level = serm_spi_begin(false);
	read_split(&host, serm_scorer_row(scorer), split, &set);
	serm_spi_end(level);
	MemoryContextSwitchTo(context);
	serm_predict_scorer(&host, scorer, &set, &predictions);
	serm_evaluate(&host, &predictions, &evaluation);
	serm_evaluation_metrics(&host, &evaluation, INTERVAL_DRAWS, metrics);
	MemoryContextSwitchTo(previous);
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < SERM_METRIC_COUNT; i++)
		put_metric((ReturnSetInfo *) fcinfo->resultinfo, &metrics[i]);
	put_count((ReturnSetInfo *) fcinfo->resultinfo, "pairs", set.pair_count);
	put_count((ReturnSetInfo *) fcinfo->resultinfo, "queries", set.query_count);
	serm_scorer_close(scorer);
	MemoryContextDelete(context);
	return (Datum) 0;
}
