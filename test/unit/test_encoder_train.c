/*
 * From texts to a trained encoder: one that is made from documents alone tells
 * which words belong to which document, learns grades on top of that, goes on
 * with a kept state to the same bytes, and stays inside the memory that it says
 * it needs.
 */
#include "core/model/cross_encoder_stored.h"
#include "core/model/model.h"
#include "core/train/encoder_pretrain.h"
#include "core/train/encoder_set.h"
#include "unit.h"

enum { WORDS = 20, DOCS = WORDS * (WORDS - 1) / 2, QUERIES = 12, COUNT = QUERIES * 5 };

static const char *const words[WORDS] = {"red", "blue", "shoe", "lamp", "chair", "table", "pillow", "carpet",
    "green", "black", "glass", "wood", "steel", "wool", "large", "small", "round", "flat", "soft", "new"};

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

static bool
stop(void *context)
{
	return --*(int *) context > 0;
}

static const SermTrainHost train_host = {.keep_going = go_on};

typedef struct Task {
	SermText docs[DOCS];
	SermText queries[QUERIES];
	SermExample examples[COUNT];
	SermTrainingSet set;
} Task;

/* A document for each pair of words; a query is one word, and the grade how often a document has it. */
static Task *
make_task(SermArena *arena)
{
	Task *task = serm_arena_alloc(arena, sizeof(*task));
	size_t at = 0;

	for (int a = 0; a < WORDS; a++)
		for (int b = 0; b < a; b++) {
			char *text = serm_arena_alloc(arena, 64);

			snprintf(text, 64, "%s %s\n%s %s", words[a], words[b], words[b], words[a]);
			task->docs[at++] = (SermText){text, strlen(text)};
		}
	for (int e = 0; e < COUNT; e++) {
		SermExample *example = &task->examples[e];
		bool relevant;

		task->queries[e / 5] = (SermText){words[e / 5], strlen(words[e / 5])};
		example->query = (uint32_t) e / 5;
		example->doc = task->docs[(e * 37) % DOCS];
		relevant = strstr(example->doc.bytes, words[e / 5]) != NULL;
		example->target[relevant ? 3 : 0] = 1;
		example->weight = 1 + (float) (e % 3);
	}
	task->set = (SermTrainingSet){.grade_count = 4,
	    .queries = task->queries,
	    .query_count = QUERIES,
	    .examples = task->examples,
	    .example_count = COUNT};
	return task;
}

typedef struct Keeper {
	uint64_t run, at; /* keep the state behind this update */
	SermEncoderState kept;
	SermArena *arena;
	bool restores;
	uint32_t offers;
} Keeper;

static void
copy_state(const SermEncoderState *from, SermEncoderState *to)
{
	SermReal *flat = to->flat, *mean = to->mean, *square = to->square;
	size_t bytes = from->count * sizeof(SermReal);

	*to = *from;
	to->flat = memcpy(flat, from->flat, bytes);
	to->mean = memcpy(mean, from->mean, bytes);
	to->square = memcpy(square, from->square, bytes);
}

static bool
keep(void *context, uint64_t run, const SermEncoderState *state)
{
	Keeper *keeper = context;

	keeper->offers++;
	if (state->step != keeper->at || keeper->restores)
		return true;
	keeper->run = run;
	keeper->kept = (SermEncoderState){.flat = serm_arena_array(keeper->arena, state->count, sizeof(SermReal)),
	    .mean = serm_arena_array(keeper->arena, state->count, sizeof(SermReal)),
	    .square = serm_arena_array(keeper->arena, state->count, sizeof(SermReal))};
	copy_state(state, &keeper->kept);
	return true;
}

static bool
restore(void *context, uint64_t run, SermEncoderState *state)
{
	Keeper *keeper = context;

	if (!keeper->restores || run != keeper->run)
		return false;
	copy_state(&keeper->kept, state);
	return true;
}

static const SermEncoderMaking shape = {
    .layers = 1, .hidden = 32, .heads = 2, .intermediate = 64, .vocab = 200, .tokens_max = 16, .labels = 4};

static SermStatus
make_encoder(const Task *task, uint32_t epochs, Keeper *keeper, const SermTrainHost *host, SermArena *arena,
    SermTensorSet *tensors, SermTrainReport *report)
{
	SermEncoderKeeper functions = {restore, keep, keeper};
	SermEncoderPretrainOptions options;
	SermError error;

	serm_encoder_pretrain_defaults(&options);
	options.seed = 3, options.epochs = epochs, options.batch = 16, options.learning_rate = 4e-3;
	return serm_encoder_make(&shape, task->docs, DOCS, task->docs, DOCS, &options, host,
	    keeper != NULL ? &functions : NULL, arena, tensors, report, &error);
}

static bool
same_tensors(const SermTensorSet *a, const SermTensorSet *b)
{
	bool same = a->count == b->count;

	for (size_t i = 0; same && i < a->count; i++)
		same = strcmp(a->tensors[i].name, b->tensors[i].name) == 0 &&
		       a->tensors[i].bytes == b->tensors[i].bytes &&
		       memcmp(a->tensors[i].data, b->tensors[i].data, a->tensors[i].bytes) == 0;
	return same;
}

static double
mean_loss(const Task *task, const SermTensorSet *tensors, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermModel *model;
	SermError error;
	double loss = 0, weight = 0;

	CHECK(serm_model_open(SERM_KIND_CROSS_ENCODER, tensors, arena, &model, &error) == SERM_OK,
	    "the tensors open as a model");
	for (int e = 0; e < COUNT; e++) {
		const SermExample *example = &task->examples[e];
		SermPrediction prediction;
		SermQuery *query;

		serm_model_parse_query(model, task->queries[example->query], arena, &query, &error);
		serm_model_predict(model, query, example->doc, arena, &prediction, &error);
		loss -= example->weight * log(prediction.probability[example->target[3] > 0 ? 3 : 0]);
		weight += example->weight;
	}
	serm_arena_rewind(arena, mark);
	return loss / weight;
}

static SermEncoderTrainOptions
train_options(void)
{
	SermEncoderTrainOptions options = {.tokens_max = 0};

	serm_train_defaults(&options.weights);
	serm_encoder_options_defaults(&options.fit);
	options.fit.seed = 5, options.fit.epochs = 8, options.fit.batch = 10, options.fit.learning_rate = 2e-3;
	options.fit.loss = "ce:1, ranknet:0.3";
	return options;
}

static void
test_making(const Task *task, SermArena *arena, SermTensorSet *made)
{
	SermTensorSet again, resumed;
	SermTrainReport report, first;
	SermArena aside = unit_arena();
	Keeper keeper = {.at = 20, .arena = &aside};
	int left = 40;
	SermTrainHost stopping = {.keep_going = stop, .context = &left};
	SermArena small;

	CHECK(make_encoder(task, 1, NULL, &train_host, arena, made, &first) == SERM_OK, "one epoch");
	CHECK(make_encoder(task, 30, NULL, &train_host, arena, made, &report) == SERM_OK, "thirty epochs");
	CHECK(report.loss < first.loss - .5 && report.corpus_count == DOCS && report.epochs == 30,
	    "guessing improves from %.2f to %.2f", first.loss, report.loss);
	CHECK(make_encoder(task, 3, &keeper, &train_host, arena, &again, &report) == SERM_OK &&
	          keeper.offers == 36 && keeper.run != 0,
	    "states are offered");
	keeper.restores = true, keeper.offers = 0;
	CHECK(make_encoder(task, 3, &keeper, &train_host, arena, &resumed, &report) == SERM_OK &&
	          keeper.offers == 16 && same_tensors(&again, &resumed),
	    "a kept state goes on to the same bytes");
	CHECK(
	    make_encoder(task, 2, &keeper, &train_host, arena, &resumed, &report) == SERM_OK, "(other options)");
	CHECK(!same_tensors(&again, &resumed), "a state of another run is not taken");
	CHECK(make_encoder(task, 3, NULL, &stopping, arena, &again, &report) == SERM_ERR_CANCELED, "cancel");
	serm_arena_init(&small, serm_heap_allocator(), (size_t) 3 << 20);
	CHECK(make_encoder(task, 3, NULL, &train_host, &small, &again, &report) == SERM_ERR_MEMORY,
	    "too little memory is told");
	serm_arena_free(&small);
	serm_arena_free(&aside);
}

static void
test_training(const Task *task, const SermTensorSet *made, SermArena *arena)
{
	SermEncoderTrainOptions options = train_options();
	SermArena aside = unit_arena();
	Keeper keeper = {.at = 21, .arena = &aside};
	SermEncoderKeeper functions = {restore, keep, &keeper};
	SermTensorSet tensors, again;
	SermTrainReport report;
	SermTrainingSet turned = task->set;
	SermExample examples[COUNT];
	double before, after;
	SermError error;

	CHECK(serm_train_encoder(&task->set, made, &options, &train_host, &functions, arena, &tensors, &report,
	          &error) == SERM_OK &&
	          report.example_count == COUNT && report.query_count == QUERIES,
	    "trained");
	before = mean_loss(task, made, arena), after = mean_loss(task, &tensors, arena);
	CHECK(after < before / 2, "the loss falls from %.3f to %.3f", before, after);
	keeper.restores = true;
	CHECK(serm_train_encoder(&task->set, made, &options, &train_host, &functions, arena, &again, &report,
	          &error) == SERM_OK &&
	          same_tensors(&tensors, &again),
	    "a kept state goes on to the same bytes");
	for (int e = 0; e < COUNT; e++)
		examples[e] = task->examples[COUNT - 1 - e];
	turned.examples = examples;
	CHECK(serm_train_encoder(&turned, made, &options, &train_host, NULL, arena, &again, &report, &error) ==
	              SERM_OK &&
	          same_tensors(&tensors, &again),
	    "the order of the rows does not matter");
	options.fit.loss = "ranknet";
	CHECK(serm_train_encoder(&task->set, made, &options, &train_host, NULL, arena, &again, &report, &error) ==
	          SERM_OK,
	    "a loss of scores alone holds some queries out");
	options.fit.loss = "dpo";
	CHECK(serm_train_encoder(&task->set, made, &options, &train_host, NULL, arena, &again, &report, &error) ==
	          SERM_ERR_INVALID,
	    "a loss that needs a reference");
	turned.example_count = 0;
	CHECK(serm_train_encoder(&turned, made, &options, &train_host, NULL, arena, &again, &report, &error) ==
	          SERM_ERR_NO_DATA,
	    "no examples");
	serm_arena_free(&aside);
}

/* What is said to be needed is enough, and not far from it. */
static void
test_memory(const Task *task, const SermTensorSet *made, SermArena *arena)
{
	SermEncoderTrainOptions options = train_options();
	SermTensorSet tensors;
	SermTrainReport report;
	SermError error;
	size_t lowest = 0;

	options.fit.epochs = 1;
	for (size_t limit = (size_t) 1 << 20; lowest == 0 && limit < (size_t) 64 << 20;
	     limit += (size_t) 1 << 20) {
		SermArena small;
		SermStatus status;

		serm_arena_init(&small, serm_heap_allocator(), limit);
		status = serm_train_encoder(
		    &task->set, made, &options, &train_host, NULL, &small, &tensors, &report, &error);
		if (status == SERM_OK)
			lowest = limit;
		else if (strstr(error.message, "besides its data") == NULL && strstr(error.message, "memory") == NULL)
			CHECK(false, "%zu MB: %s", limit >> 20, error.message);
		serm_arena_free(&small);
	}
	CHECK(lowest > 0 && lowest <= (size_t) 16 << 20, "it runs in %zu MB", lowest >> 20);
	(void) arena;
}

int
main(void)
{
	SermArena arena = unit_arena();
	Task *task = make_task(&arena);
	SermTensorSet made;

	test_making(task, &arena, &made);
	test_training(task, &made, &arena);
	test_memory(task, &made, &arena);
	serm_arena_free(&arena);
	DONE();
}
