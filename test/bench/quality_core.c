/*
 * Quality of the interaction model on one real set, without a server: queries
 * are split into folds by a seed, each fold is scored by a model trained on
 * the others, and ranking, grades and probabilities are compared with BM25
 * (k1 1.2, b .75) and with chance, with 95 % intervals of the paired
 * differences over queries.
 *
 *   build/quality_core SET DIRECTORY [option=value ...]
 *
 * SET is crowdflower, homedepot, epqa, dl2019 or cranfield and says how its
 * grades become 0..3, anything else leaves them; DIRECTORY holds docs.tsv, queries.tsv and qrels.tsv.
 * Options: seed, epochs, pretrain, heads, batch, rate, dropout, pairwise,
 * guard, mix (the guard afterwards: the ranking is by f / sd(f) + mix * s0 /
 * sd(s0)), repeats (other seeds of the model, same folds), quiet; loss (a text
 * as in doc/losses.md), class, rank, calibrate (1: on), curriculum, margin.
 * folds (without a value) takes the folds and candidates of bench-quality from
 * folds.tsv, which test/bench/quality_folds.py writes with mapped grades.
 * noise is the share of the training grades that become another grade, drawn evenly.
 * dump=FILE keeps the measures of each query; against=FILE compares with such
 * a file of another run over the same folds, paired by query.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/model/features.h"
#include "core/model/interaction.h"
#include "core/stats/agreement.h"
#include "core/stats/calibration.h"
#include "core/stats/metrics.h"
#include "core/stats/significance.h"
#include "core/train/train.h"
#include "test/bench/set.h"

#define CUTOFFS 3
#define MEASURES (2 * CUTOFFS + 1)
#define CALIBRATION_BINS 10
/* The score of what is no candidate. */
#define BELOW (-1e9f)

static const size_t cutoffs[CUTOFFS] = {1, 4, 10};
static const char *const measure_names[MEASURES] = {
    "lin@1", "lin@4", "lin@10", "exp@1", "exp@4", "exp@10", "pair accuracy"};

typedef struct Options {
	SermTrainOptions train;
	uint64_t split_seed;
	uint32_t repeats;
	double mix;
	double noise;
	bool quiet;
	bool folds;
	const char *dump;
	const char *against;
} Options;

static void
score_baselines(Set *set, uint64_t seed)
{
	SermEmbedding none = {NULL, NULL};
	SermStatistics statistics;
	SermArena arena;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, seed);
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 4 << 30);
	require(
	    serm_statistics_count(set->docs, set->doc_count, &arena, go_on, NULL, &statistics, &error), &error);
	for (size_t q = 0; q < set->query_count; q++) {
		SermArenaMark mark = serm_arena_mark(&arena);
		SermParsedQuery *query;

		require(
		    serm_features_parse_query(&statistics, &none, set->queries[q], &arena, &query, &error), &error);
		for (size_t i = set->query_start[q]; i < set->query_start[q + 1]; i++) {
			SermFeatures features;

			require(serm_features_compute(
			            &statistics, &none, query, set->docs[set->pairs[i].doc], &arena, &features, &error),
			    &error);
			set->pairs[i].score[1] = features.bm25;
			set->pairs[i].score[2] = (float) serm_rng_uniform(&rng);
			for (int system = 0; set->pairs[i].outside && system < SYSTEMS; system++)
				set->pairs[i].score[system] = BELOW;
		}
		serm_arena_rewind(&arena, mark);
	}
	serm_arena_free(&arena);
}

static void
show_progress(void *context, const SermTrainProgress *progress)
{
	const double *start = context;

	if (progress->step == progress->steps)
		fprintf(stderr, "  %-12s %3u  loss %.4f  %8.0f/s  at %.2f s\n", progress->phase, progress->step,
		    progress->loss, progress->per_second, now(NULL) - *start);
}

static const void *
tensor_data(const SermTensorSet *tensors, const char *name, size_t *count)
{
	const SermTensor *tensor = serm_tensor_find(tensors, name);

	if (tensor == NULL)
		die("no tensor", name);
	if (count != NULL)
		*count = tensor->shape[0];
	return tensor->data;
}

/* s0 of every pair, by the constants of a model. */
static float *
guard_scores(const Set *set, const SermTensorSet *tensors, SermArena *arena)
{
	float *s0 = calloc(set->pair_count, sizeof(*s0));
	const double *counts = tensor_data(tensors, SERM_TENSOR_STATISTICS, NULL);
	size_t words, trigrams;
	SermStatistics statistics = {counts[0], counts[1], counts[2], counts[3], 0,
	    tensor_data(tensors, SERM_TENSOR_VOCABULARY_ID, &words),
	    tensor_data(tensors, SERM_TENSOR_VOCABULARY_DF, NULL), 0,
	    tensor_data(tensors, SERM_TENSOR_TRIGRAM_ID, &trigrams),
	    tensor_data(tensors, SERM_TENSOR_TRIGRAM_DF, NULL)};
	SermEmbedding embedding = {tensor_data(tensors, SERM_TENSOR_EMBEDDING_ROWS, NULL),
	    tensor_data(tensors, SERM_TENSOR_EMBEDDING_SCALE, NULL), serm_word_cache_create(arena)};
	SermGuard guard;
	SermError error;

	statistics.word_count = (uint32_t) words;
	statistics.trigram_count = (uint32_t) trigrams;
	memcpy(&guard, tensor_data(tensors, SERM_TENSOR_GUARD, NULL), sizeof(guard));
	for (size_t q = 0; q < set->query_count; q++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermParsedQuery *query;

		require(serm_features_parse_query(&statistics, &embedding, set->queries[q], arena, &query, &error),
		    &error);
		for (size_t i = set->query_start[q]; i < set->query_start[q + 1]; i++) {
			SermFeatures features;

			require(serm_features_compute(&statistics, &embedding, query, set->docs[set->pairs[i].doc], arena,
			            &features, &error),
			    &error);
			s0[i] = serm_interaction_s0(&guard, &features);
		}
		serm_arena_rewind(arena, mark);
	}
	return s0;
}

/* Mean square deviation over the pairs whose query is not in `fold`. */
static double
deviation(const Set *set, uint32_t fold, const float *value)
{
	double n = 0, sum = 0, square = 0;

	for (size_t i = 0; i < set->pair_count; i++)
		if (set->fold[set->pairs[i].query] != fold) {
			n++;
			sum += value[i];
			square += (double) value[i] * value[i];
		}
	return sqrt(square / n - sum / n * sum / n);
}

/* What is ranked by becomes f / sd(f) + mix * s0 / sd(s0), the deviations being those of the training pairs.
 */
static void
mix_guard(Set *set, uint32_t fold, const Options *options, const SermModel *model,
    const SermTensorSet *tensors, SermArena *arena)
{
	float *f = calloc(set->pair_count, sizeof(*f)), *s0 = guard_scores(set, tensors, arena);
	double own, other;
	SermError error;

	for (size_t q = 0; q < set->query_count; q++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermQuery *query;

		require(serm_model_parse_query(model, set->queries[q], arena, &query, &error), &error);
		for (size_t i = set->query_start[q]; i < set->query_start[q + 1]; i++) {
			SermPrediction prediction;

			require(
			    serm_model_predict(model, query, set->docs[set->pairs[i].doc], arena, &prediction, &error),
			    &error);
			f[i] = prediction.score;
		}
		serm_arena_rewind(arena, mark);
	}
	own = deviation(set, fold, f);
	other = deviation(set, fold, s0);
	for (size_t i = 0; i < set->pair_count; i++)
		if (set->fold[set->pairs[i].query] == fold)
			set->pairs[i].score[0] +=
			    (float) ((f[i] / own + options->mix * s0[i] / other) / options->repeats) -
			    f[i] / (float) options->repeats;
	free(f);
	free(s0);
}

/* With probability `share` another of the grades. */
static uint32_t
planted_grade(uint32_t grade, double share, SermRng *rng)
{
	if (share > 0 && serm_rng_uniform(rng) < share)
		grade = (grade + 1 + (uint32_t) serm_rng_below(rng, GRADES - 1)) % GRADES;
	return grade;
}

static void
run_fold(Set *set, uint32_t fold, const Options *options)
{
	double start = now(NULL), trained;
	SermExample *examples = calloc(set->pair_count, sizeof(*examples));
	SermTrainingSet training = {
	    GRADES, set->queries, set->query_count, examples, 0, set->docs, set->doc_count};
	SermTrainHost host = {go_on, options->quiet ? NULL : show_progress, NULL, now, &start};
	SermTrainReport report;
	SermTensorSet tensors;
	SermArena arena;
	SermModel *model;
	SermError error;
	SermRng noise;
	size_t scored = 0;

	serm_rng_seed(&noise, options->split_seed + fold);
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 4 << 30);
	for (size_t i = 0; i < set->pair_count; i++)
		if (set->fold[set->pairs[i].query] != fold && !set->pairs[i].outside) {
			SermExample *example = &examples[training.example_count++];

			example->query = set->pairs[i].query;
			example->doc = set->docs[set->pairs[i].doc];
			example->target[planted_grade(set->pairs[i].grade, options->noise, &noise)] = 1;
			example->weight = 1;
		}
	require(
	    serm_train_interaction(&training, &options->train, &host, &arena, &tensors, &report, &error), &error);
	require(serm_model_open("interaction", &tensors, &arena, &model, &error), &error);
	trained = now(NULL);
	for (size_t q = 0; q < set->query_count; q++) {
		SermArenaMark mark = serm_arena_mark(&arena);
		SermQuery *query;

		if (set->fold[q] != fold)
			continue;
		require(serm_model_parse_query(model, set->queries[q], &arena, &query, &error), &error);
		for (size_t i = set->query_start[q]; i < set->query_start[q + 1]; i++, scored++) {
			Pair *pair = &set->pairs[i];
			SermPrediction prediction;

			if (pair->outside)
				continue;
			require(
			    serm_model_predict(model, query, set->docs[pair->doc], &arena, &prediction, &error), &error);
			pair->score[0] += prediction.score / (float) options->repeats;
			for (int y = 0; y < GRADES; y++)
				pair->probability[y] += prediction.probability[y] / (float) options->repeats;
			pair->argmax = prediction.argmax;
			pair->cut = prediction.grade;
		}
		serm_arena_rewind(&arena, mark);
	}
	if (options->mix > 0)
		mix_guard(set, fold, options, model, &tensors, &arena);
	if (options->train.calibrate)
		printf("fold %u: temperature %.3f, gain %+.4f nats\n", fold, report.temperature,
		    report.temperature_gain);
	if (!options->quiet)
		fprintf(stderr, "  fold %u: %zu pairs trained in %.2f s, %zu scored at %.1f us, %zu MB\n", fold,
		    training.example_count, report.seconds, scored, 1e6 * (now(NULL) - trained) / (double) scored,
		    arena.total >> 20);
	serm_arena_free(&arena);
	free(examples);
}

/* Every measure of one query under one system; NAN where it is undefined. */
static void
measure_query(const Set *set, size_t q, int system, SermArena *arena, double value[MEASURES])
{
	size_t start = set->query_start[q], count = set->query_start[q + 1] - start;
	SermArenaMark mark = serm_arena_mark(arena);
	SermRankedDoc *docs = serm_arena_array(arena, count, sizeof(*docs));
	SermRanking ranking;
	SermError error;

	for (size_t i = 0; i < count; i++)
		docs[i] = (SermRankedDoc){
		    .score = set->pairs[start + i].score[system], .grade = set->pairs[start + i].grade};
	require(serm_metrics_rank(docs, count, arena, &ranking, &error), &error);
	for (int m = 0; m < 2 * CUTOFFS; m++)
		require(serm_metrics_ndcg(&ranking, m < CUTOFFS ? SERM_GAIN_LINEAR : SERM_GAIN_EXPONENTIAL,
		            cutoffs[m % CUTOFFS], arena, &value[m], &error),
		    &error);
	require(serm_metrics_pair_accuracy(&ranking, arena, &value[2 * CUTOFFS], &error), &error);
	serm_arena_rewind(arena, mark);
}

static void
report_ranking(const Set *set)
{
	static const char *const names[SYSTEMS] = {"model", "BM25", "random"};
	double(*value)[SYSTEMS][MEASURES] = calloc(set->query_count, sizeof(*value));
	double *difference = calloc(set->query_count, sizeof(*difference));
	SermResampling resampling;
	SermInterval interval;
	SermArena arena;
	SermError error;
	size_t tested = 0;

	serm_resampling_defaults(&resampling);
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 1 << 30);
	for (size_t q = 0; q < set->query_count; q++)
		if (set->fold[q] < set->folds_run && set->query_start[q] < set->query_start[q + 1]) {
			for (int system = 0; system < SYSTEMS; system++)
				measure_query(set, q, system, &arena, value[tested][system]);
			tested++;
		}
	printf("%-14s", "");
	for (int system = 0; system < SYSTEMS; system++)
		printf("%9s", names[system]);
	printf("   model - BM25, points\n");
	for (int m = 0; m < MEASURES; m++) {
		printf("%-14s", measure_names[m]);
		for (int system = 0; system < SYSTEMS; system++) {
			for (size_t q = 0; q < tested; q++)
				difference[q] = value[q][system][m];
			require(serm_bootstrap_mean(difference, tested, &resampling, &arena, &interval, &error), &error);
			printf("%9.4f", interval.value);
		}
		for (size_t q = 0; q < tested; q++)
			difference[q] = 100 * (value[q][0][m] - value[q][1][m]);
		require(serm_bootstrap_mean(difference, tested, &resampling, &arena, &interval, &error), &error);
		printf(
		    "   %+.2f [%+.2f, %+.2f] of %zu\n", interval.value, interval.low, interval.high, interval.count);
	}
	serm_arena_free(&arena);
	free(value);
	free(difference);
}

/* What one query contributes to a comparison of two runs. */
typedef struct QueryRow {
	unsigned long query;
	double measure[MEASURES];
	double nll, pairs;
} QueryRow;

/* The rows of the tested queries of this run. */
static QueryRow *
collect_rows(const Set *set, size_t *count)
{
	QueryRow *rows = calloc(set->query_count, sizeof(*rows));
	SermArena arena;

	*count = 0;
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 1 << 30);
	for (size_t q = 0; q < set->query_count; q++) {
		QueryRow *row = &rows[*count];

		if (set->fold[q] >= set->folds_run || set->query_start[q] == set->query_start[q + 1])
			continue;
		row->query = q;
		measure_query(set, q, 0, &arena, row->measure);
		for (size_t i = set->query_start[q]; i < set->query_start[q + 1]; i++) {
			float target[GRADES] = {0};

			if (set->pairs[i].outside)
				continue;
			target[set->pairs[i].grade] = 1;
			row->nll += serm_calibration_nll(set->pairs[i].probability, target, GRADES);
			row->pairs++;
		}
		++*count;
	}
	serm_arena_free(&arena);
	return rows;
}

static void
dump_rows(const char *path, const QueryRow *rows, size_t count)
{
	FILE *file = fopen(path, "wb");

	if (file == NULL || fwrite(rows, sizeof(*rows), count, file) != count || fclose(file) != 0)
		die("cannot write", path);
}

static void
compare_rows(const char *path, const QueryRow *rows, size_t count)
{
	FILE *file = fopen(path, "rb");
	QueryRow *others = calloc(count, sizeof(*others));
	double *difference = calloc(count, sizeof(*difference)), *pairs = calloc(count, sizeof(*pairs));
	SermResampling resampling;
	SermInterval interval;
	SermArena arena;
	SermError error;

	if (file == NULL || fread(others, sizeof(*others), count, file) != count || fclose(file) != 0)
		die("cannot read", path);
	for (size_t i = 0; i < count; i++)
		if (others[i].query != rows[i].query || others[i].pairs != rows[i].pairs)
			die("not the same folds", path);
	serm_resampling_defaults(&resampling);
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 1 << 30);
	printf("less %s:", path);
	for (int m = 0; m < MEASURES; m++) {
		for (size_t i = 0; i < count; i++)
			difference[i] = 100 * (rows[i].measure[m] - others[i].measure[m]);
		require(serm_bootstrap_mean(difference, count, &resampling, &arena, &interval, &error), &error);
		printf("  %s %+.2f [%+.2f, %+.2f]", measure_names[m], interval.value, interval.low, interval.high);
	}
	for (size_t i = 0; i < count; i++) {
		difference[i] = rows[i].nll - others[i].nll;
		pairs[i] = rows[i].pairs;
	}
	require(serm_bootstrap_ratio(difference, pairs, count, &resampling, &arena, &interval, &error), &error);
	printf("  NLL %+.4f [%+.4f, %+.4f]\n", interval.value, interval.low, interval.high);
	serm_arena_free(&arena);
	free(others);
	free(difference);
	free(pairs);
}

static double
pearson(const Set *set)
{
	double n = 0, x = 0, y = 0, xx = 0, yy = 0, xy = 0;

	for (size_t i = 0; i < set->pair_count; i++) {
		const Pair *pair = &set->pairs[i];

		if (set->fold[pair->query] >= set->folds_run || pair->outside)
			continue;
		n++;
		x += pair->score[0];
		y += pair->grade;
		xx += (double) pair->score[0] * pair->score[0];
		yy += (double) pair->grade * pair->grade;
		xy += (double) pair->score[0] * pair->grade;
	}
	return (xy - x * y / n) / sqrt((xx - x * x / n) * (yy - y * y / n));
}

static void
report_grades(const Set *set)
{
	float *probability = calloc(set->pair_count * GRADES, sizeof(float));
	float *target = calloc(set->pair_count * GRADES, sizeof(float));
	double by_argmax[GRADES * GRADES] = {0}, by_cuts[GRADES * GRADES] = {0}, kappa[2];
	SermCalibration calibration;
	SermError error;
	size_t n = 0;

	for (size_t i = 0; i < set->pair_count; i++) {
		const Pair *pair = &set->pairs[i];

		if (set->fold[pair->query] >= set->folds_run || pair->outside)
			continue;
		memcpy(probability + n * GRADES, pair->probability, sizeof(pair->probability));
		target[n++ * GRADES + pair->grade] = 1;
		by_argmax[pair->argmax * GRADES + pair->grade]++;
		by_cuts[pair->cut * GRADES + pair->grade]++;
	}
	require(serm_calibration_measure(
	            probability, target, NULL, n, GRADES, CALIBRATION_BINS, &calibration, &error),
	    &error);
	require(serm_agreement_kappa(by_argmax, GRADES, NULL, SERM_KAPPA_QUADRATIC, &kappa[0], &error), &error);
	require(serm_agreement_kappa(by_cuts, GRADES, NULL, SERM_KAPPA_QUADRATIC, &kappa[1], &error), &error);
	printf("%zu pairs: accuracy %.4f (cuts %.4f)  kappa %.4f (cuts %.4f)  r %.4f  NLL %.4f  ECE %.4f\n", n,
	    calibration.accuracy, serm_agreement_share(by_cuts, GRADES, 0), kappa[0], kappa[1], pearson(set),
	    calibration.nll, calibration.ece);
	free(probability);
	free(target);
}

/* Texts and switches. */
static bool
parse_training_option(const char *argument, const char *equals, size_t length, double value, Options *options)
{
	const struct {
		const char *name;
		const char **text;
		bool *flag;
	} known[] = {{"loss", &options->train.loss, NULL}, {"dump", &options->dump, NULL},
	    {"against", &options->against, NULL}, {"class", NULL, &options->train.class_weights},
	    {"rank", NULL, &options->train.rank_weights}, {"calibrate", NULL, &options->train.calibrate}};

	for (size_t i = 0; equals != NULL && i < SERM_LENGTH(known); i++)
		if (length == strlen(known[i].name) && memcmp(argument, known[i].name, length) == 0) {
			if (known[i].text != NULL)
				*known[i].text = equals + 1;
			else
				*known[i].flag = value != 0;
			return true;
		}
	return false;
}

static void
parse_option(const char *argument, Options *options)
{
	const char *equals = strchr(argument, '=');
	size_t length = equals != NULL ? (size_t) (equals - argument) : 0;
	double value = equals != NULL ? atof(equals + 1) : 0;
	const struct {
		const char *name;
		double *real;
		uint32_t *count;
	} known[] = {{"epochs", NULL, &options->train.epochs},
	    {"pretrain", NULL, &options->train.pretrain_epochs}, {"heads", NULL, &options->train.heads},
	    {"batch", NULL, &options->train.batch}, {"rate", &options->train.learning_rate, NULL},
	    {"dropout", &options->train.dropout, NULL}, {"pairwise", &options->train.pairwise, NULL},
	    {"guard", &options->train.guard, NULL}, {"mix", &options->mix, NULL},
	    {"noise", &options->noise, NULL}, {"repeats", NULL, &options->repeats},
	    {"curriculum", NULL, &options->train.curriculum}, {"margin", &options->train.margin_cap, NULL}};

	if (parse_training_option(argument, equals, length, value, options))
		return;
	if (strcmp(argument, "quiet") == 0 || strcmp(argument, "folds") == 0) {
		*(argument[0] == 'q' ? &options->quiet : &options->folds) = true;
		return;
	}
	if (length == 4 && memcmp(argument, "seed", 4) == 0) {
		options->train.seed = options->split_seed = (uint64_t) value;
		return;
	}
	for (size_t i = 0; i < SERM_LENGTH(known); i++)
		if (length == strlen(known[i].name) && memcmp(argument, known[i].name, length) == 0) {
			if (known[i].real != NULL)
				*known[i].real = value;
			else
				*known[i].count = (uint32_t) value;
			return;
		}
	die("unknown option", argument);
}

int
main(int argc, char **argv)
{
	Options options = {.split_seed = 42, .repeats = 1};
	Set set = {0};
	QueryRow *rows;
	size_t row_count;

	if (argc < 3)
		die("usage", "quality_core SET DIRECTORY [option=value ...]");
	serm_train_defaults(&options.train);
	options.train.seed = 42;
	for (int i = 3; i < argc; i++)
		parse_option(argv[i], &options);
	load_set(argv[1], argv[2], &set);
	if (options.folds)
		load_folds(argv[2], &set);
	else
		split(argv[1], options.split_seed, &set);
	score_baselines(&set, options.split_seed);
	for (uint32_t repeat = 0; repeat < options.repeats; repeat++) {
		for (uint32_t fold = 0; fold < set.folds_run; fold++)
			run_fold(&set, fold, &options);
		options.train.seed++;
	}
	printf("%s: %zu queries, %zu documents, %zu pairs\n", argv[1], set.query_count, set.doc_count,
	    set.pair_count);
	report_ranking(&set);
	report_grades(&set);
	rows = collect_rows(&set, &row_count);
	if (options.dump != NULL)
		dump_rows(options.dump, rows, row_count);
	if (options.against != NULL)
		compare_rows(options.against, rows, row_count);
	free(rows);
	return EXIT_SUCCESS;
}
