/*
 * What continued training forgets, without a server: a parent is trained on two
 * sets (the original one and the history), a third one is new, and each way to
 * learn it is measured on held-out queries of the old sets and of the new one.
 *
 *   build/forgetting ORIGINAL=DIRECTORY HISTORY=DIRECTORY NEW=DIRECTORY [seeds=N] [pairs=N]
 *
 * A set is crowdflower, homedepot or epqa, its directory holds docs.tsv,
 * queries.tsv and qrels.tsv; `pairs` bounds the pairs of each set (5,000). A
 * fifth of the queries of each set is held out; figures are means over seeds,
 * intervals are over queries.
 */
#include "core/stats/calibration.h"
#include "core/stats/metrics.h"
#include "core/stats/significance.h"
#include "core/train/continue.h"
#include "core/train/merge.h"
#include "test/bench/set.h"

/* Fold 0 of TEST_SHARE is held out. */
enum { SETS = 3, TEST_SHARE = 5, BINS = 10, ARMS_MAX = 16 };

/* Means over one side, and the sums per query for an interval. */
typedef struct Side {
	double nll, ece, accuracy, ndcg;
	double *sum, *weight; /* per query */
	size_t queries;
} Side;

typedef struct Arm {
	const char *name;
	Side old, fresh;
} Arm;

/* Hold out a fifth of the queries, and keep random ones until there are `most` pairs. */
static void
hold_out(Set *set, uint64_t seed, size_t most)
{
	uint32_t *order = calloc(set->query_count, sizeof(*order)),
	         *place = calloc(set->query_count, sizeof(*place));
	size_t *size = calloc(set->query_count, sizeof(*size)), kept = 0, last = set->query_count, pairs = 0;
	SermRng rng;

	set->fold = calloc(set->query_count, sizeof(*set->fold));
	serm_rng_seed(&rng, seed);
	for (size_t q = 0; q < set->query_count; q++)
		order[q] = (uint32_t) q;
	serm_rng_shuffle(&rng, order, set->query_count);
	for (size_t i = 0; i < set->pair_count; i++)
		size[set->pairs[i].query]++;
	for (size_t q = 0; q < set->query_count; q++) {
		set->fold[order[q]] = (uint32_t) (q % TEST_SHARE);
		place[order[q]] = (uint32_t) q;
		if (kept < most)
			last = q;
		kept += size[order[q]];
	}
	for (size_t i = 0; i < set->pair_count; i++)
		if (place[set->pairs[i].query] <= last)
			set->pairs[pairs++] = set->pairs[i];
	set->pair_count = pairs;
	free(order);
	free(place);
	free(size);
}

/* --- training */

typedef struct Trial {
	const Set *sets; /* [SETS]: original, history, new */
	SermArena *arena;
	uint64_t seed;
} Trial;

/* A model from the training queries of the sets `first` to SETS - 1, or up to `end`. */
static SermModel *
train(const Trial *trial, int first, int end, const SermModel *parent, const double share[SERM_ORIGIN_COUNT],
    double anchor)
{
	static const uint8_t origins[SETS] = {SERM_ORIGIN_ORIGINAL, SERM_ORIGIN_HISTORY, SERM_ORIGIN_NEW};
	size_t pairs = 0, queries = 0, docs = 0;
	SermTrainHost host = {.keep_going = go_on};
	SermTrainingSet set = {.grade_count = GRADES, .parent = parent};
	SermTrainOptions options;
	SermTrainReport report;
	SermTensorSet tensors;
	SermModel *model;
	SermError error;
	SermExample *examples;
	SermText *query, *doc;
	uint8_t *origin;

	for (int s = first; s < end; s++) {
		pairs += trial->sets[s].pair_count;
		queries += trial->sets[s].query_count;
		docs += trial->sets[s].doc_count;
	}
	set.examples = examples = calloc(pairs, sizeof(*examples));
	set.queries = query = calloc(queries, sizeof(*query));
	set.corpus = doc = calloc(docs, sizeof(*doc));
	set.origin = origin = calloc(pairs, 1);
	for (int s = first; s < end; s++) {
		const Set *from = &trial->sets[s];

		for (size_t i = 0; i < from->pair_count; i++) {
			const Pair *pair = &from->pairs[i];

			if (from->fold[pair->query] == 0)
				continue;
			origin[set.example_count] = origins[s];
			examples[set.example_count] = (SermExample){
			    .query = (uint32_t) set.query_count + pair->query, .doc = from->docs[pair->doc], .weight = 1};
			examples[set.example_count++].target[pair->grade] = 1;
		}
		memcpy(query + set.query_count, from->queries, from->query_count * sizeof(*query));
		set.query_count += from->query_count;
		memcpy(doc + set.corpus_count, from->docs, from->doc_count * sizeof(*doc));
		set.corpus_count += from->doc_count;
	}
	serm_train_defaults(&options);
	options.seed = trial->seed;
	options.anchor = anchor;
	if (share != NULL)
		memcpy(options.share, share, sizeof(options.share));
	require(serm_train_interaction(&set, &options, &host, trial->arena, &tensors, &report, &error), &error);
	require(serm_model_open("interaction", &tensors, trial->arena, &model, &error), &error);
	free(examples);
	free(query);
	free(doc);
	free(origin);
	return model;
}

static SermModel *
merge(const Trial *trial, const SermModel *ancestor, SermModel *const *models, const double *weights,
    size_t count)
{
	SermInteractionParts parts[4], base, merged;
	SermTensorSet tensors;
	SermModel *model;
	SermError error;

	require(serm_continue_open(ancestor, trial->arena, &base, &error), &error);
	for (size_t i = 0; i < count; i++)
		require(serm_continue_open(models[i], trial->arena, &parts[i], &error), &error);
	require(serm_merge(&base, parts, weights, count, trial->arena, &merged, &error), &error);
	require(serm_interaction_write(&merged, trial->arena, &tensors, &error), &error);
	require(serm_model_open("interaction", &tensors, trial->arena, &model, &error), &error);
	return model;
}

/* --- measuring */

typedef struct Measured {
	float *probability, *target;
	size_t pairs;
	double ndcg;
	size_t ranked;
} Measured;

static void
measure_query(const Trial *trial, const SermModel *model, const Set *set, size_t first, size_t end,
    Measured *all, Side *side, double weight)
{
	SermArenaMark mark = serm_arena_mark(trial->arena);
	SermRankedDoc *docs = serm_arena_array(trial->arena, end - first, sizeof(*docs));
	SermRanking ranking;
	SermQuery *query;
	SermError error;
	double ndcg, nll = 0;

	require(
	    serm_model_parse_query(model, set->queries[set->pairs[first].query], trial->arena, &query, &error),
	    &error);
	for (size_t i = first; i < end; i++, all->pairs++) {
		const Pair *pair = &set->pairs[i];
		SermPrediction prediction;

		require(serm_model_predict(model, query, set->docs[pair->doc], trial->arena, &prediction, &error),
		    &error);
		memcpy(all->probability + all->pairs * GRADES, prediction.probability, GRADES * sizeof(float));
		all->target[all->pairs * GRADES + pair->grade] = 1;
		nll += serm_calibration_nll(prediction.probability, all->target + all->pairs * GRADES, GRADES);
		docs[i - first] = (SermRankedDoc){.score = prediction.score, .grade = pair->grade};
	}
	require(serm_metrics_rank(docs, end - first, trial->arena, &ranking, &error), &error);
	require(serm_metrics_ndcg(&ranking, SERM_GAIN_LINEAR, 4, trial->arena, &ndcg, &error), &error);
	if (ndcg == ndcg) {
		all->ndcg += ndcg;
		all->ranked++;
	}
	side->sum[side->queries] += weight * nll;
	side->weight[side->queries++] = (double) (end - first);
	serm_arena_rewind(trial->arena, mark);
}

/* Add the figures of this seed over the held-out queries of some sets, each figure by `weight`. */
static void
measure(const Trial *trial, const SermModel *model, int first_set, int end_set, double weight, Side *side)
{
	size_t pairs = 0, queries = 0;
	Measured all = {0};
	SermCalibration calibration;
	SermError error;

	for (int s = first_set; s < end_set; s++) {
		pairs += trial->sets[s].pair_count;
		queries += trial->sets[s].query_count;
	}
	all.probability = calloc(pairs * GRADES, sizeof(float));
	all.target = calloc(pairs * GRADES, sizeof(float));
	side->queries = 0;
	if (side->sum == NULL) {
		side->sum = calloc(queries, sizeof(double));
		side->weight = calloc(queries, sizeof(double));
	}
	for (int s = first_set; s < end_set; s++) {
		const Set *set = &trial->sets[s];

		for (size_t first = 0, end; first < set->pair_count; first = end) {
			for (end = first; end < set->pair_count && set->pairs[end].query == set->pairs[first].query;)
				end++;
			if (set->fold[set->pairs[first].query] == 0)
				measure_query(trial, model, set, first, end, &all, side, weight);
		}
	}
	require(serm_calibration_measure(
	            all.probability, all.target, NULL, all.pairs, GRADES, BINS, &calibration, &error),
	    &error);
	side->nll += weight * calibration.nll;
	side->ece += weight * calibration.ece;
	side->accuracy += weight * calibration.accuracy;
	side->ndcg += weight * all.ndcg / (double) all.ranked;
	free(all.probability);
	free(all.target);
}

static void
run_arms(const Trial *trial, double weight, Arm *arms, int *count)
{
	static const double even[] = {1, 1, 1}, fresh[] = {1, 0, 0}, half[] = {.5}, both[] = {.5, .5};
	SermModel *models[ARMS_MAX], *parent = train(trial, 0, 2, NULL, NULL, 0), *pair[2];
	static const char *const names[] = {"parent", "from scratch", "continued 1:1:1, anchor 0",
	    "continued 1:1:1, anchor 0.3", "continued 1:1:1, anchor 1", "continued 1:1:1, anchor 3",
	    "continued 1:0:0", "1:0:0 merged with the parent", "1:0:0 and 1:1:1 merged"};
	int n = 0;

	models[n++] = parent;
	models[n++] = train(trial, 0, SETS, NULL, NULL, 0);
	models[n++] = train(trial, 0, SETS, parent, even, 0);
	models[n++] = train(trial, 0, SETS, parent, even, 0.3);
	models[n++] = train(trial, 0, SETS, parent, even, 1);
	models[n++] = train(trial, 0, SETS, parent, even, 3);
	models[n++] = train(trial, 2, SETS, parent, fresh, 0);
	models[n] = merge(trial, parent, &models[n - 1], half, 1);
	n++;
	pair[0] = models[n - 2];
	pair[1] = models[4];
	models[n++] = merge(trial, parent, pair, both, 2);
	*count = n;
	for (int i = 0; i < n; i++) {
		arms[i].name = names[i];
		measure(trial, models[i], 0, 2, weight, &arms[i].old);
		measure(trial, models[i], 2, SETS, weight, &arms[i].fresh);
	}
}

static void
print_side(const Side *side, const Side *parent)
{
	size_t n = side->queries;
	double *difference = calloc(n, sizeof(double));
	SermArena arena;
	SermResampling resampling;
	SermInterval interval;
	SermError error;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 1 << 30);
	serm_resampling_defaults(&resampling);
	for (size_t q = 0; q < n; q++)
		difference[q] = side->sum[q] - parent->sum[q];
	require(
	    serm_bootstrap_ratio(difference, parent->weight, n, &resampling, &arena, &interval, &error), &error);
	printf(" %.4f, %+.4f [%+.4f, %+.4f] | %.4f | %.4f | %.4f |", side->nll, side->nll - parent->nll,
	    interval.low, interval.high, side->ece, side->accuracy, side->ndcg);
	serm_arena_free(&arena);
	free(difference);
}

int
main(int argc, char **argv)
{
	Set sets[SETS] = {0};
	const char *names[SETS];
	Arm arms[ARMS_MAX] = {0};
	size_t most = 5000;
	int seeds = 3, count = 0, loaded = 0;

	for (int i = 1; i < argc; i++) {
		char *equals = strchr(argv[i], '=');

		if (equals == NULL)
			die("usage", "forgetting ORIGINAL=DIRECTORY HISTORY=DIRECTORY NEW=DIRECTORY [seeds=N] [pairs=N]");
		*equals++ = '\0';
		if (strcmp(argv[i], "seeds") == 0)
			seeds = atoi(equals);
		else if (strcmp(argv[i], "pairs") == 0)
			most = (size_t) atol(equals);
		else if (loaded < SETS) {
			names[loaded] = argv[i];
			load_set(argv[i], equals, &sets[loaded++]);
		}
	}
	if (loaded < SETS || seeds < 1)
		die("usage", "three sets, and at least one seed");
	for (int s = 0; s < SETS; s++)
		hold_out(&sets[s], 7, most);
	for (int seed = 0; seed < seeds; seed++) {
		SermArena arena;

		serm_arena_init(&arena, serm_heap_allocator(), (size_t) 8 << 30);
		run_arms(&(Trial){sets, &arena, (uint64_t) (seed + 1)}, 1.0 / seeds, arms, &count);
		serm_arena_free(&arena);
	}
	printf("%s (%zu pairs) and %s (%zu), then %s (%zu); %d seeds\n", names[0], sets[0].pair_count, names[1],
	    sets[1].pair_count, names[2], sets[2].pair_count, seeds);
	printf("| | old: NLL | ECE | accuracy | lin@4 | new: NLL | ECE | accuracy | lin@4 |\n");
	printf("|---|---|---|---|---|---|---|---|---|\n");
	for (int i = 0; i < count; i++) {
		printf("| %s |", arms[i].name);
		print_side(&arms[i].old, &arms[0].old);
		print_side(&arms[i].fresh, &arms[0].fresh);
		printf("\n");
	}
	return EXIT_SUCCESS;
}
