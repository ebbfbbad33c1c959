/*
 * Training as a whole, on a toy set whose grade is how many of the query's
 * words the document holds.
 */
#include "core/base/rng.h"
#include "core/model/interaction.h"
#include "core/train/fit.h"
#include "core/train/order.h"
#include "core/train/scaling.h"
#include "core/train/train.h"
#include "unit.h"

#define QUERIES 48
#define TRAINED 36 /* the rest is for testing */
#define LIST 12
#define EXAMPLES (QUERIES * LIST)
#define WORDS 60
#define GRADES 4

typedef struct Watch {
	uint32_t calls, stop_after;
	uint32_t epochs[2]; /* reports of pre-training and of training */
	bool statistics, features;
	double loss;
} Watch;

typedef struct Toy {
	SermText queries[QUERIES];
	SermExample examples[EXAMPLES];
	SermTrainingSet set;
	Watch watch;
	SermTrainHost host;
	SermTrainOptions options;
} Toy;

static bool
keep_going(void *context)
{
	Watch *watch = context;

	return ++watch->calls < watch->stop_after || watch->stop_after == 0;
}

static void
progress(void *context, const SermTrainProgress *report)
{
	Watch *watch = context;

	if (strcmp(report->phase, "pretraining") == 0)
		watch->epochs[0]++;
	if (strcmp(report->phase, "training") == 0) {
		watch->epochs[1]++;
		watch->loss = report->loss;
	}
	watch->statistics = watch->statistics || strcmp(report->phase, "statistics") == 0;
	watch->features = watch->features || strcmp(report->phase, "features") == 0;
}

/* Words that look alike in no n-gram: two consonant-vowel pairs and a number-free tail of their own. */
static void
word(uint32_t index, char out[8])
{
	snprintf(out, 8, "%c%c%c%c%c", 'b' + index % 20, "aeiou"[index / 20], 'c' + (index * 7) % 19,
	    "uoiea"[index % 5], 'd' + (index * 11) % 17);
}

static SermText
text_of(const uint32_t *words, uint32_t count, const char *end, SermArena *arena)
{
	char text[512], one[8];
	size_t length = 0;

	for (uint32_t i = 0; i < count; i++) {
		word(words[i], one);
		length += (size_t) snprintf(text + length, sizeof(text) - length, "%s%s", i > 0 ? " " : "", one);
	}
	length += (size_t) snprintf(text + length, sizeof(text) - length, "%s", end);
	return (SermText){serm_arena_copy(arena, text, length), length};
}

/* Three different words make a query; a document of grade g holds g of them among random others. */
static void
make_toy(Toy *toy, SermArena *arena)
{
	SermRng rng;
	uint32_t bag[WORDS], doc[8];

	memset(toy, 0, sizeof(*toy));
	serm_rng_seed(&rng, 41);
	for (uint32_t i = 0; i < WORDS; i++)
		bag[i] = i;
	for (uint32_t q = 0; q < QUERIES; q++) {
		serm_rng_shuffle(&rng, bag, WORDS);
		toy->queries[q] = text_of(bag, 3, "", arena);
		for (uint32_t i = 0; i < LIST; i++) {
			SermExample *example = &toy->examples[q * LIST + i];
			uint32_t grade = i % GRADES;

			for (uint32_t w = 0; w < 8; w++)
				doc[w] = w < grade ? bag[w] : bag[3 + serm_rng_below(&rng, WORDS - 3)];
			serm_rng_shuffle(&rng, doc, 8);
			*example = (SermExample){.query = q, .doc = text_of(doc, 8, "\n", arena), .weight = 1};
			example->target[grade] = 1;
		}
	}
	toy->set = (SermTrainingSet){GRADES, toy->queries, QUERIES, toy->examples, TRAINED * LIST, NULL, 0};
	toy->host = (SermTrainHost){keep_going, progress, NULL, NULL, NULL};
	serm_train_defaults(&toy->options);
	toy->options.seed = 5;
	toy->options.pretrain_epochs = 2;
}

static SermStatus
train(Toy *toy, SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	SermTrainReport report;

	toy->host.context = &toy->watch;
	return serm_train_interaction(&toy->set, &toy->options, &toy->host, arena, tensors, &report, error);
}

static bool
same_tensors(const SermTensorSet *a, const SermTensorSet *b)
{
	bool same = a->count == b->count;

	for (size_t i = 0; same && i < a->count; i++)
		same = strcmp(a->tensors[i].name, b->tensors[i].name) == 0 &&
		       a->tensors[i].bytes == b->tensors[i].bytes &&
		       (a->tensors[i].bytes == 0 ||
		           memcmp(a->tensors[i].data, b->tensors[i].data, a->tensors[i].bytes) == 0);
	return same;
}

static SermPrediction
predict(const SermModel *model, const Toy *toy, const SermExample *example, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermPrediction prediction = {0};
	SermQuery *query;
	SermError error;

	if (serm_model_parse_query(model, toy->queries[example->query], arena, &query, &error) != SERM_OK ||
	    serm_model_predict(model, query, example->doc, arena, &prediction, &error) != SERM_OK)
		printf("# %s\n", error.message);
	serm_arena_rewind(arena, mark);
	return prediction;
}

static void
test_learns(Toy *toy, const SermTensorSet *tensors, SermArena *arena)
{
	SermModel *model;
	SermError error;
	int right = 0, cut_right = 0, total = 0;
	bool finite = true;

	CHECK(serm_model_open("interaction", tensors, arena, &model, &error) == SERM_OK, "the model opens");
	for (uint32_t i = TRAINED * LIST; i < EXAMPLES; i++, total++) {
		const SermExample *example = &toy->examples[i];
		SermPrediction prediction = predict(model, toy, example, arena);

		right += example->target[prediction.argmax] == 1;
		cut_right += example->target[prediction.grade] == 1;
		finite = finite && isfinite(prediction.score) && prediction.disagreement >= 0;
	}
	CHECK(finite, "predictions are finite");
	CHECK(right >= 0.85 * total, "unseen queries are graded rightly (%d of %d)", right, total);
	CHECK(cut_right >= 0.85 * total, "by the cut points too (%d of %d)", cut_right, total);
}

/* A model that is copied elsewhere and opened again gives the same bits. */
static void
test_round_trip(Toy *toy, const SermTensorSet *tensors, SermArena *arena)
{
	SermTensor copies[32];
	SermTensorSet stored = {copies, tensors->count};
	SermModel *first, *second;
	SermError error;
	bool same = true;

	for (size_t i = 0; i < tensors->count; i++) {
		void *data = serm_arena_alloc(arena, tensors->tensors[i].bytes);

		memcpy(data, tensors->tensors[i].data, tensors->tensors[i].bytes);
		copies[tensors->count - 1 - i] = tensors->tensors[i];
		copies[tensors->count - 1 - i].data = data;
	}
	CHECK(serm_model_open("interaction", tensors, arena, &first, &error) == SERM_OK &&
	          serm_model_open("interaction", &stored, arena, &second, &error) == SERM_OK,
	    "both copies open");
	for (uint32_t i = 0; i < EXAMPLES; i++) {
		SermPrediction a = predict(first, toy, &toy->examples[i], arena);
		SermPrediction b = predict(second, toy, &toy->examples[i], arena);

		same = same && memcmp(&a, &b, sizeof(a)) == 0;
	}
	CHECK(same, "stored and opened again, every prediction has the same bits");
}

static void
test_order(Toy *toy, const SermTensorSet *expected, SermArena *arena)
{
	static SermExample shuffled[EXAMPLES];
	static SermText queries[QUERIES];
	Toy *other = serm_arena_alloc(arena, sizeof(*other));
	uint32_t order[EXAMPLES], query_order[QUERIES], place[QUERIES];
	SermTensorSet tensors;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 42);
	for (uint32_t i = 0; i < EXAMPLES; i++)
		order[i] = i;
	for (uint32_t q = 0; q < QUERIES; q++)
		query_order[q] = q;
	serm_rng_shuffle(&rng, order, TRAINED * LIST);
	serm_rng_shuffle(&rng, query_order, QUERIES);
	for (uint32_t q = 0; q < QUERIES; q++) {
		queries[q] = toy->queries[query_order[q]];
		place[query_order[q]] = q;
	}
	for (uint32_t i = 0; i < TRAINED * LIST; i++) {
		shuffled[i] = toy->examples[order[i]];
		shuffled[i].query = place[shuffled[i].query];
	}
	*other = *toy;
	other->set.queries = queries;
	other->set.examples = shuffled;
	CHECK(train(other, arena, &tensors, &error) == SERM_OK && same_tensors(expected, &tensors),
	    "the order of queries and examples does not reach the weights");
}

static void
test_weights(Toy *toy, const SermTensorSet *expected, SermArena *arena)
{
	SermTensorSet tensors;
	SermError error;

	for (uint32_t i = 0; i < EXAMPLES; i++)
		toy->examples[i].weight = 4;
	CHECK(train(toy, arena, &tensors, &error) == SERM_OK && same_tensors(expected, &tensors),
	    "weights count by their ratios: all 4 is bit for bit all 1");
	for (uint32_t i = 0; i < EXAMPLES; i++)
		toy->examples[i].weight = i % 2 == 0 ? 1 : 0.5f;
	CHECK(train(toy, arena, &tensors, &error) == SERM_OK && !same_tensors(expected, &tensors),
	    "unequal weights make another model");
	for (uint32_t i = 0; i < EXAMPLES; i++)
		toy->examples[i].weight = 1;
}

static void
test_cancel(Toy *toy, SermArena *arena)
{
	static const uint32_t moments[] = {1, 2, 20, 60, 200, 400};
	SermTensorSet tensors;
	SermError error;

	for (size_t i = 0; i < SERM_LENGTH(moments); i++) {
		SermArenaMark mark = serm_arena_mark(arena);

		toy->watch = (Watch){.stop_after = moments[i]};
		CHECK(train(toy, arena, &tensors, &error) == SERM_ERR_CANCELED && toy->watch.calls == moments[i],
		    "canceled at call %u, training asks no second time", moments[i]);
		serm_arena_rewind(arena, mark);
	}
	toy->watch = (Watch){0};
}

static void
check_refused(Toy *toy, SermStatus status, const char *mentions, const char *what, SermArena *arena)
{
	SermTensorSet tensors;
	SermError error = {0};
	SermStatus actual = train(toy, arena, &tensors, &error);

	CHECK(actual == status && strstr(error.message, mentions) != NULL, "%s", what);
	if (actual != status || strstr(error.message, mentions) == NULL)
		printf("# status %d: %s\n", (int) actual, error.message);
}

static void
test_bad_data(Toy *toy, SermArena *arena)
{
	SermExample kept = toy->examples[7];
	Toy *one = serm_arena_alloc(arena, sizeof(*one));

	toy->examples[7].target[0] = NAN;
	check_refused(toy, SERM_ERR_INVALID, "example 8", "NaN in a target", arena);
	toy->examples[7] = kept;
	toy->examples[7].target[3] += 0.1f;
	check_refused(toy, SERM_ERR_INVALID, "sums to", "a target that does not sum to 1", arena);
	toy->examples[7] = kept;
	toy->examples[7].target[0] = -0.5f;
	toy->examples[7].target[1] = 0.5f;
	check_refused(toy, SERM_ERR_INVALID, "negative", "a negative target", arena);
	toy->examples[7] = kept;
	toy->examples[7].weight = 0;
	check_refused(toy, SERM_ERR_INVALID, "weight", "a weight of 0", arena);
	toy->examples[7].weight = INFINITY;
	check_refused(toy, SERM_ERR_INVALID, "weight", "an infinite weight", arena);
	toy->examples[7] = kept;
	toy->examples[7].query = QUERIES;
	check_refused(toy, SERM_ERR_INVALID, "query", "a query that is not there", arena);
	toy->examples[7] = kept;
	*one = *toy;
	one->set.example_count = 0;
	check_refused(one, SERM_ERR_NO_DATA, "no graded examples", "no examples", arena);
	one->set.example_count = 1;
	check_refused(one, SERM_ERR_NO_DATA, "at least two", "one grade only", arena);
	one->set = toy->set;
	one->set.grade_count = 1;
	check_refused(one, SERM_ERR_INVALID, "grades", "too few grades", arena);
}

static void
test_bad_options(Toy *toy, SermArena *arena)
{
	SermTrainOptions kept = toy->options;
	SermArena tight;
	SermTensorSet tensors;
	SermError error;

	toy->options.heads = 0;
	check_refused(toy, SERM_ERR_INVALID, "heads", "no heads", arena);
	toy->options = kept;
	toy->options.learning_rate = NAN;
	check_refused(toy, SERM_ERR_INVALID, "learning_rate", "a rate that is not a number", arena);
	toy->options = kept;
	toy->options.dropout = 1;
	check_refused(toy, SERM_ERR_INVALID, "dropout", "dropping everything", arena);
	toy->options = kept;
	toy->options.batch = 1000000;
	check_refused(toy, SERM_ERR_INVALID, "batch", "an endless batch", arena);
	toy->options = kept;
	toy->options.guard = INFINITY;
	check_refused(toy, SERM_ERR_INVALID, "guard", "an infinite guard", arena);
	toy->options = kept;
	serm_arena_init(&tight, serm_heap_allocator(), 2 << 20);
	CHECK(train(toy, &tight, &tensors, &error) == SERM_ERR_MEMORY, "too little memory is an error");
	serm_arena_free(&tight);
}

/* Two examples, soft targets, repeated pairs, empty texts: nothing of it may break training. */
static void
test_small(Toy *toy, SermArena *arena)
{
	SermTensorSet tensors;
	SermError error;
	SermModel *model;
	SermExample examples[6] = {toy->examples[0], toy->examples[3], toy->examples[3], toy->examples[1]};
	Toy *small = serm_arena_alloc(arena, sizeof(*small));

	*small = *toy;
	small->set.examples = examples;
	small->set.example_count = 2;
	CHECK(train(small, arena, &tensors, &error) == SERM_OK, "two examples of one query train");
	examples[2].target[3] = 0.25f;
	examples[2].target[2] = 0.75f;
	examples[3].doc = (SermText){"", 0};
	examples[4] = examples[3];
	examples[4].doc = (SermText){"\n\xff\xfe \n", 5};
	examples[5] = examples[4];
	small->queries[1] = (SermText){"", 0};
	examples[5].query = 1;
	small->set.example_count = 6;
	small->set.queries = small->queries;
	small->set.corpus = &examples[0].doc;
	small->set.corpus_count = 1;
	CHECK(train(small, arena, &tensors, &error) == SERM_OK &&
	          serm_model_open("interaction", &tensors, arena, &model, &error) == SERM_OK,
	    "soft targets, repeated pairs, empty and broken texts train");
}

static void
test_diverges(Toy *toy, SermArena *arena)
{
	SermTrainOptions kept = toy->options;
	SermTensorSet tensors;
	SermError error;
	SermStatus status;

	toy->examples[0].weight = 1e30f;
	toy->options.weight_decay = 0;
	status = train(toy, arena, &tensors, &error);
	CHECK(status == SERM_OK || status == SERM_ERR_DIVERGED, "an absurd weight gives a model or says so");
	toy->examples[0].weight = 1;
	toy->options = kept;
}

/* Cut points on six scores with weights. */
static void
test_cuts(void)
{
	float score[] = {0.9f, 0.1f, 2.5f, 1.1f, 0.3f, 2.9f};
	SermReal weight[] = {1, 1, 1, 1, 1, 1}, cuts[3];
	uint32_t order[] = {1, 4, 0, 3, 2, 5};
	double half[] = {0, 0.5, 0, 0.5}, even[] = {1.0 / 3, 1.0 / 3, 1.0 / 3, 0};

	serm_scaling_cuts(score, weight, order, 6, even, 4, cuts);
	CHECK_NEAR(cuts[0], 0.6, 1e-6, "a third lies below the first cut");
	CHECK_NEAR(cuts[1], 1.8, 1e-6, "two thirds below the second");
	CHECK(cuts[2] == 4, "a grade that never occurs is never given");
	serm_scaling_cuts(score, weight, order, 6, half, 4, cuts);
	CHECK(cuts[0] == -1, "nothing lies below the cut of an empty lowest grade");
	CHECK_NEAR(cuts[1], 1.0, 1e-6, "half lies below the next");
	CHECK(cuts[2] == cuts[1], "an empty grade between gets no interval");
	serm_scaling_cuts(score, weight, order, 3, half, 4, cuts);
	CHECK_NEAR(cuts[1], 0.2, 1e-6, "a score that straddles the share is above the cut");
	weight[2] = 3;
	serm_scaling_cuts(score, weight, order, 6, half, 4, cuts);
	CHECK_NEAR(cuts[1], 1.8, 1e-6, "weights count");
}

static void
test_scaling(SermArena *arena)
{
	SermFeatures *features = serm_arena_array(arena, 4, sizeof(*features));
	float mean[SERM_FEATURES], inverse[SERM_FEATURES];
	SermReal input[SERM_FEATURES];
	Watch watch = {0};
	SermTrainHost host = {keep_going, NULL, NULL, NULL, &watch};
	SermError error;
	SermGuard guard;
	double s0;

	for (int i = 0; i < 4; i++) {
		features[i].value[0] = (float) i;
		features[i].value[1] = 7;
		features[i].value[2] = 0.001f * (float) (i % 2);
		features[i].lexical = 10 * (float) i;
		features[i].dot = (float) (i % 2);
	}
	CHECK(serm_scaling_fit(features, 4, &host, mean, inverse, &error) == SERM_OK, "features are scaled");
	CHECK_NEAR(mean[0], 1.5, 1e-6, "the mean of a feature");
	CHECK_NEAR(inverse[0], 1 / (sqrt(1.25) + 0.02), 1e-6, "one over its deviation and the floor");
	CHECK(inverse[1] == 0 && inverse[2] == 0, "what hardly varies is masked");
	features[0].value[0] = 1000;
	features[0].value[1] = -1000;
	serm_interaction_input(mean, inverse, &features[0], input);
	CHECK(input[0] == 4 && input[1] == 0, "outliers are clipped, masked features stay 0");
	serm_scaling_guard(features, 4, 2500, 0.5, &guard);
	CHECK_NEAR(guard.lexical_inverse, 1 / sqrt(125), 1e-6, "the lexical part is standardised");
	CHECK_NEAR(guard.dot_share, 0.25, 1e-6, "the dot product counts by the size of the corpus");
	s0 = 15 / sqrt(125) + 0.25;
	CHECK_NEAR(serm_interaction_guard(&guard, &features[3]), 0.5 * s0 / sqrt(1 + s0 * s0 / 16), 1e-5,
	    "the guard is its slope times s0");
	features = serm_arena_array(arena, 20000, sizeof(*features));
	watch.stop_after = 10;
	CHECK(serm_scaling_fit(features, 20000, &host, mean, inverse, &error) == SERM_ERR_CANCELED,
	    "scaling many examples asks whether to go on");
}

/* Long lists are cut for the pairwise loss; an example beyond the first cut must still count. */
static void
test_long_list(SermArena *arena)
{
	enum { N = 3 * SERM_LOSS_LIST_MAX / 2, INPUTS = 2 };
	SermReal *input = serm_arena_array(arena, N * INPUTS, sizeof(SermReal));
	SermReal *target = serm_arena_array(arena, N * 2, sizeof(SermReal));
	SermReal *guard = serm_arena_array(arena, N, sizeof(SermReal));
	SermReal *weight = serm_arena_array(arena, N, sizeof(SermReal));
	uint32_t start[2] = {0, N}, right = 0;
	uint64_t key = 99;
	SermLossTerm terms[] = {{serm_loss_find("ce"), 1, {0}}, {serm_loss_find("ranknet"), .3, {0}}};
	SermFitProblem problem = {.input_count = INPUTS,
	    .grade_count = 2,
	    .example_count = N,
	    .list_count = 1,
	    .input = input,
	    .guard = guard,
	    .target = target,
	    .weight = weight,
	    .list_start = start,
	    .list_key = &key,
	    .terms = terms,
	    .term_count = 2};
	Watch watch = {0};
	SermTrainHost host = {keep_going, progress, NULL, NULL, &watch};
	SermTrainOptions options;
	SermPrediction prediction;
	SermError error;
	SermFit fit;
	SermRng rng;

	serm_rng_seed(&rng, 43);
	for (int i = 0; i < N; i++) {
		input[2 * i] = (SermReal) serm_rng_normal(&rng);
		input[2 * i + 1] = (SermReal) serm_rng_normal(&rng);
		target[2 * i + (input[2 * i] * input[2 * i + 1] > 0)] = 1;
		weight[i] = 1;
	}
	serm_train_defaults(&options);
	options.epochs = 40;
	options.batch = 64;
	terms[1].parameters = terms[1].loss->defaults;
	CHECK(serm_fit_heads(&problem, &options, &host, arena, &fit, &error) == SERM_OK, "one long list trains");
	for (int i = 0; i < N; i++) {
		serm_heads_predict(&fit.heads, input + 2 * i, 0, &prediction);
		right += target[2 * i + prediction.argmax] == 1;
	}
	CHECK(right > 0.93 * N, "and learns an exclusive or (%u of %d)", right, N);
	CHECK(watch.epochs[1] == 40, "with a report per epoch");
}

/* Targets that the guard explains wholly, and inputs that say nothing: the heads have nothing to add. */
static void
test_residual(SermArena *arena)
{
	enum { LISTS = 20, N = LISTS * 10, INPUTS = 2 };
	SermReal *input = serm_arena_array(arena, N * INPUTS, sizeof(SermReal));
	SermReal target[N * 2], guard[N], weight[N];
	uint32_t start[LISTS + 1];
	uint64_t key[LISTS];
	SermLossTerm likelihood = {serm_loss_find("ce"), 1, {0}};
	SermFitProblem problem = {.input_count = INPUTS,
	    .grade_count = 2,
	    .example_count = N,
	    .list_count = LISTS,
	    .input = input,
	    .guard = guard,
	    .target = target,
	    .weight = weight,
	    .list_start = start,
	    .list_key = key,
	    .terms = &likelihood,
	    .term_count = 1};
	Watch watch = {0};
	SermTrainHost host = {keep_going, progress, NULL, NULL, &watch};
	SermTrainOptions options;
	SermPrediction prediction;
	SermError error;
	SermFit fit, half;
	bool same = true, once = true;
	uint32_t repeated = 0;

	for (int i = 0; i < N; i++) {
		guard[i] = (SermReal) (1 + i % 2);
		target[2 * i + 1] = (SermReal) (1 / (1 + exp(-guard[i])));
		target[2 * i] = 1 - target[2 * i + 1];
		weight[i] = 1;
	}
	for (uint32_t list = 0; list <= LISTS; list++)
		start[list] = 10 * list;
	for (uint32_t list = 0; list < LISTS; list++)
		key[list] = 1000 + 7 * list;
	serm_train_defaults(&options);
	options.epochs = 20;
	options.batch = 32;
	CHECK(serm_fit_heads(&problem, &options, &host, arena, &fit, &error) == SERM_OK, "a residual trains");
	serm_heads_predict(&fit.heads, input, 0, &prediction);
	CHECK_NEAR(prediction.score, 0.5, 0.03, "the heads leave to the guard what the guard explains");

	for (uint32_t list = 0; list < LISTS; list++) {
		uint32_t unseen = 0;

		for (uint32_t h = 0; h < options.heads; h++)
			unseen += fit.seen[h * LISTS + list] == 0;
		once = once && unseen == 1;
	}
	CHECK(once, "each query is left out by one head of four");

	/* The second half of the lists alone: each query is drawn as often as before. */
	problem.list_count = LISTS / 2;
	problem.example_count = N / 2;
	problem.list_key = key + LISTS / 2;
	options.epochs = 1;
	serm_fit_heads(&problem, &options, &host, arena, &half, &error);
	for (uint32_t h = 0; h < options.heads; h++)
		same = same && memcmp(fit.seen + h * LISTS + LISTS / 2, half.seen + h * (LISTS / 2), LISTS / 2) == 0;
	CHECK(same, "how often a head sees a query does not depend on the other queries");

	options.calibrate = true;
	serm_fit_heads(&problem, &options, &host, arena, &half, &error);
	for (uint32_t i = 0; i < options.heads * LISTS / 2; i++)
		repeated += half.seen[i] > 1;
	CHECK(repeated > LISTS / 4, "a temperature is measured with heads that see a bootstrap");
}

static int
compare_values(const void *items, uint32_t a, uint32_t b)
{
	const int *values = items;

	return values[a] - values[b];
}

static void
test_sort(SermArena *arena)
{
	int values[1000];
	uint32_t indices[1000], scratch[1000];
	Watch watch = {0};
	SermTrainHost host = {keep_going, NULL, NULL, NULL, &watch};
	SermText docs[] = {{"b", 1}, {"a", 1}, {"b", 1}, {"", 0}, {"a", 1}, {"", 0}}, *distinct;
	size_t distinct_count;
	SermError error;
	SermRng rng;
	bool sorted = true;

	serm_rng_seed(&rng, 44);
	for (uint32_t i = 0; i < 1000; i++) {
		values[i] = (int) serm_rng_below(&rng, 50);
		indices[i] = i;
	}
	serm_order_sort(indices, scratch, 1000, compare_values, values, &host, &error);
	for (uint32_t i = 1; i < 1000; i++)
		sorted = sorted && (values[indices[i - 1]] < values[indices[i]] ||
		                       (values[indices[i - 1]] == values[indices[i]] && indices[i - 1] < indices[i]));
	CHECK(sorted, "the sort is right and stable");
	CHECK(serm_order_documents(docs, 6, &host, arena, &distinct, &distinct_count, &error) == SERM_OK &&
	          distinct_count == 3,
	    "equal documents count once");
}

int
main(void)
{
	SermArena arena = unit_arena();
	Toy *toy = serm_arena_alloc(&arena, sizeof(*toy));
	SermTensorSet tensors, again;
	SermError error;
	SermStatus status;

	make_toy(toy, &arena);
	status = train(toy, &arena, &tensors, &error);
	CHECK(status == SERM_OK, "the toy set trains");
	if (status != SERM_OK) {
		printf("# %s\n", error.message);
		DONE();
	}
	CHECK(toy->watch.epochs[0] == 2 && toy->watch.epochs[1] == 40, "progress is reported once per epoch");
	CHECK(toy->watch.statistics && toy->watch.features, "and once for each other phase");
	CHECK(train(toy, &arena, &again, &error) == SERM_OK && same_tensors(&tensors, &again),
	    "the same set gives the same bytes");
	test_learns(toy, &tensors, &arena);
	test_round_trip(toy, &tensors, &arena);
	test_order(toy, &tensors, &arena);
	test_weights(toy, &tensors, &arena);
	test_cancel(toy, &arena);
	test_bad_data(toy, &arena);
	test_bad_options(toy, &arena);
	test_small(toy, &arena);
	test_diverges(toy, &arena);
	test_cuts();
	test_scaling(&arena);
	test_long_list(&arena);
	test_residual(&arena);
	test_sort(&arena);
	serm_arena_free(&arena);
	DONE();
}
