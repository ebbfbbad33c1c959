/*
 * Training of the encoder: it learns, the same seed gives the same bits, a kept
 * state goes on with the same bits, what is frozen or did not occur stays, and
 * what is out of range is refused.
 */
#include "core/train/encoder_update.h"
#include "encoder_fixture.h"

enum { QUERIES = 60, DOCS = 6, COUNT = QUERIES * DOCS, WORDS = 24, LENGTH = 9 };

typedef struct Task {
	SermEncoderConfig config;
	SermEncoderExample examples[COUNT];
	SermEncoderSet set;
} Task;

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

static SermTrainHost train_host = {.keep_going = go_on};

/* A document is relevant when it holds the query's word: [first] word [sep] six words [sep]. */
static Task *
make_task(SermEncoderArchitecture architecture, uint32_t labels, SermArena *arena)
{
	Task *task = serm_arena_alloc(arena, sizeof(*task));
	SermRng rng;

	task->config = fixture_config(architecture);
	task->config.layers = 2, task->config.hidden = 32, task->config.heads = 2, task->config.intermediate = 64;
	task->config.labels = labels;
	serm_rng_seed(&rng, 71);
	for (int e = 0; e < COUNT; e++) {
		uint32_t *ids = serm_arena_array(arena, LENGTH, sizeof(*ids)), word = 3 + (uint32_t) e / DOCS % WORDS;
		uint8_t *types = serm_arena_array(arena, LENGTH, 1);
		SermEncoderExample *example = &task->examples[e];
		bool relevant = e % 2;

		ids[0] = 1, ids[1] = word, ids[2] = ids[LENGTH - 1] = 2;
		for (int t = 3; t < LENGTH - 1; t++) {
			do
				ids[t] = 3 + serm_rng_below(&rng, WORDS);
			while (ids[t] == word);
			types[t] = task->config.types > 1;
		}
		if (relevant)
			ids[3 + serm_rng_below(&rng, LENGTH - 4)] = word;
		types[LENGTH - 1] = task->config.types > 1;
		example->input = (SermEncoderInput){ids, types, LENGTH, 0};
		example->query = (uint32_t) e / DOCS;
		example->target[relevant] = 1;
		example->weight = 1;
	}
	task->set = (SermEncoderSet){
	    .grade_count = 2, .examples = task->examples, .example_count = COUNT, .query_count = QUERIES};
	return task;
}

/* Small random weights, as a model is begun with. */
static SermReal *
begin(const SermEncoderConfig *config, SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermReal *flat = serm_arena_array(arena, layout.count, sizeof(*flat));
	SermRng rng;

	serm_rng_seed(&rng, 72);
	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;

		serm_encoder_entry(config, &layout, e, &entry);
		for (size_t i = 0; i < entry.count; i++)
			flat[entry.offset + i] = (SermReal) (entry.rank == 2 ? .1 * serm_rng_normal(&rng)
			                                                     : strstr(entry.name, "orm.weight") != NULL);
	}
	return flat;
}

static SermEncoderOptions
make_options(void)
{
	SermEncoderOptions options;

	serm_encoder_options_defaults(&options);
	options.seed = 5, options.epochs = 16, options.batch = 12, options.learning_rate = 3e-3;
	return options;
}

static SermStatus
fit(const Task *task, const SermEncoderOptions *options, const SermEncoderFitHost *given, SermArena *arena,
    SermEncoderState *state, SermTrainReport *report)
{
	SermEncoderFitHost host = {.train = &train_host};
	SermError error;
	SermStatus status = serm_encoder_fit(
	    &task->config, &task->set, options, given != NULL ? given : &host, arena, state, report, &error);

	if (status != SERM_OK)
		printf("# %s\n", error.message);
	return status;
}

static void
test_learning(
    SermEncoderArchitecture architecture, uint32_t labels, const char *loss, double share, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Task *task = make_task(architecture, labels, arena);
	SermEncoderOptions options = make_options();
	SermReal *flat = begin(&task->config, arena),
	         *logits = serm_arena_array(arena, COUNT * 2, sizeof(*logits));
	SermEncoderInput inputs[COUNT];
	SermEncoderState state;
	SermTrainReport report;
	uint32_t right = 0, pairs = 0;
	SermError error;

	options.loss = loss;
	serm_encoder_state_init(&task->config, flat, NULL, arena, &state);
	CHECK(fit(task, &options, NULL, arena, &state, &report) == SERM_OK, "%s with %u labels", loss, labels);
	for (int i = 0; i < COUNT; i++)
		inputs[i] = task->examples[i].input;
	serm_encoder_score(fixture_encoder(&task->config, SERM_PRECISION_F32, flat, arena), inputs, COUNT, NULL,
	    arena, logits, &error);
	/* Within a query every relevant document should stand above every other one. */
	for (int a = 1; a < COUNT; a += 2)
		for (int b = a / DOCS * DOCS; b < a / DOCS * DOCS + DOCS; b += 2) {
			double above = labels == 1
			                   ? logits[a] - logits[b]
			                   : (logits[2 * a + 1] - logits[2 * a]) - (logits[2 * b + 1] - logits[2 * b]);

			right += above > 0, pairs++;
		}
	CHECK(right > share * pairs, "%s with %u labels: %u of %u pairs in order", loss, labels, right, pairs);
	CHECK(report.example_count == COUNT && report.epochs == 16 && isfinite(report.loss), "the report");
	serm_arena_rewind(arena, mark);
}

typedef struct Keeper {
	SermEncoderState kept;
	uint64_t at; /* the update after which the state is copied */
	int calls;
} Keeper;

static bool
keep(void *context, const SermEncoderState *state)
{
	Keeper *keeper = context;

	keeper->calls++;
	if (state->step == keeper->at) {
		SermReal *flat = keeper->kept.flat, *mean = keeper->kept.mean, *square = keeper->kept.square;
		size_t bytes = state->count * sizeof(SermReal);

		keeper->kept = *state;
		keeper->kept.flat = memcpy(flat, state->flat, bytes);
		keeper->kept.mean = memcpy(mean, state->mean, bytes);
		keeper->kept.square = memcpy(square, state->square, bytes);
	}
	return true;
}

static void
test_going_on(SermEncoderArchitecture architecture, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Task *task = make_task(architecture, 1, arena);
	SermEncoderOptions options = make_options();
	Keeper keeper = {.at = 40};
	SermEncoderFitHost host = {.train = &train_host, .checkpoint = keep, .context = &keeper};
	SermEncoderState first, second;
	SermTrainReport report, again;

	options.epochs = 2, options.checkpoint = 10, options.dropout = .1;
	serm_encoder_state_init(&task->config, begin(&task->config, arena), NULL, arena, &first);
	serm_encoder_state_init(&task->config, begin(&task->config, arena), NULL, arena, &second);
	serm_encoder_state_init(&task->config, begin(&task->config, arena), NULL, arena, &keeper.kept);
	fit(task, &options, &host, arena, &first, &report);
	fit(task, &options, NULL, arena, &second, &again);
	CHECK(memcmp(first.flat, second.flat, first.count * sizeof(SermReal)) == 0 && report.loss == again.loss,
	    "the same seed gives the same bits");
	CHECK(keeper.calls == 6 && keeper.kept.step == 40 && keeper.kept.epoch == 1, "states were offered");
	fit(task, &options, NULL, arena, &keeper.kept, &again);
	CHECK(memcmp(first.flat, keeper.kept.flat, first.count * sizeof(SermReal)) == 0 &&
	          report.loss == again.loss,
	    "a kept state goes on with the same bits");
	serm_arena_rewind(arena, mark);
}

static void
test_frozen(SermEncoderArchitecture architecture, SermArena *arena)
{
	Task *task = make_task(architecture, 1, arena);
	SermEncoderLayout layout = serm_encoder_layout(&task->config);
	SermLayerLayout lower = serm_encoder_layer(&task->config, &layout, 0),
	                upper = serm_encoder_layer(&task->config, &layout, 1);
	SermEncoderOptions options = make_options();
	SermReal *before = begin(&task->config, arena), *flat = begin(&task->config, arena);
	size_t hidden = task->config.hidden, size = sizeof(SermReal);
	SermEncoderState state;
	SermTrainReport report;
	bool rows = true, moved = false;

	options.epochs = 1, options.freeze = 1;
	serm_encoder_state_init(&task->config, flat, NULL, arena, &state);
	fit(task, &options, NULL, arena, &state, &report);
	CHECK(memcmp(flat, before, (layout.layer_plain + layout.layer_plain_size) * size) == 0 &&
	          memcmp(flat + lower.query, before + lower.query, (upper.query - lower.query) * size) == 0,
	    "frozen: embeddings and the lowest layer stay");
	CHECK(memcmp(flat + upper.query, before + upper.query, hidden * size) != 0 &&
	          memcmp(flat + layout.head, before + layout.head, hidden * size) != 0,
	    "frozen: what is above learns");
	options.freeze = 0;
	flat = begin(&task->config, arena);
	serm_encoder_state_init(&task->config, flat, NULL, arena, &state);
	fit(task, &options, NULL, arena, &state, &report);
	for (uint32_t word = 0; word < task->config.vocab; word++) {
		bool same = memcmp(flat + layout.words + word * hidden, before + layout.words + word * hidden,
		                hidden * size) == 0;

		rows = rows && (same || (word >= 1 && word < 3 + WORDS));
		moved = moved || !same;
	}
	CHECK(rows && moved, "only rows of words that occurred are updated");
}

/* One parameter after a step of AdamW (Loshchilov and Hutter 2019), written down once more. */
static double
plain_adamw(double x, double gradient, double decay, double rate, int t, double *mean, double *square)
{
	*mean = .9 * *mean + .1 * gradient;
	*square = .999 * *square + .001 * gradient * gradient;
	return x * (1 - rate * decay) -
	       rate * (*mean / (1 - pow(.9, t))) / (sqrt(*square / (1 - pow(.999, t))) + 1e-8);
}

/* Two updates: the gradient is clipped by its norm, weights and embeddings decay, words that did not occur
 * rest. */
static void
test_update(SermEncoderArchitecture architecture, SermArena *arena)
{
	enum { WORD = 5 };
	Task *task = make_task(architecture, 1, arena);
	const SermEncoderConfig *config = &task->config;
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermEncoderBack back = {.config = config, .gemm = &serm_gemm_packed};
	SermReal *flat = begin(config, arena);
	double *expected = serm_arena_array(arena, layout.count, sizeof(double)), worst = 0, norm = 0;
	double *mean = serm_arena_array(arena, layout.count, sizeof(double));
	double *square = serm_arena_array(arena, layout.count, sizeof(double));
	SermEncoderState state;
	SermEncoderUpdate update = {
	    .config = config, .weight_decay = .1, .clip = .5, .back = &back, .state = &state};
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 9);
	update.packed = serm_arena_alloc(arena, serm_encoder_packed_bytes(config, SERM_PRECISION_F32, NULL));
	CHECK(serm_encoder_back_init(&back, NULL, arena) &&
	          serm_encoder_state_init(config, flat, NULL, arena, &state),
	    "room for an update");
	for (size_t i = 0; i < layout.count; i++)
		expected[i] = state.flat[i];
	back.touched[back.touched_count++] = WORD;
	for (int t = 1; t <= 2; t++) {
		norm = 0;
		for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
			SermEncoderEntry entry;

			serm_encoder_entry(config, &layout, e, &entry);
			for (size_t i = entry.offset; i < entry.offset + entry.count; i++) {
				bool rests = i < config->vocab * (size_t) config->hidden && i / config->hidden != WORD;

				back.gradient[i] = rests ? 0 : (SermReal) (2 * serm_rng_uniform(&rng) - 1);
				norm += (double) back.gradient[i] * back.gradient[i];
			}
		}
		CHECK(serm_encoder_update(&update, .01, NULL, &error) == SERM_OK, "an update");
		for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
			SermEncoderEntry entry;

			serm_encoder_entry(config, &layout, e, &entry);
			for (size_t i = entry.offset; i < entry.offset + entry.count; i++) {
				bool rests = i < config->vocab * (size_t) config->hidden && i / config->hidden != WORD;

				if (!rests)
					expected[i] = plain_adamw(expected[i], back.gradient[i] * .5 / sqrt(norm),
					    entry.rank == 2 ? .1 : 0, .01, t, &mean[i], &square[i]);
				worst = fmax(worst, fabs(state.flat[i] - expected[i]));
			}
		}
	}
	CHECK(worst < 1e-5, "updates are those of AdamW: apart by %.2g", worst);
}

static void
test_refusals(SermArena *arena)
{
	Task *task = make_task(SERM_ENCODER_BERT, 1, arena), other;
	SermEncoderOptions options = make_options();
	int left = 25;
	SermTrainHost stopping = {.keep_going = stop, .context = &left};
	SermEncoderFitHost host = {.train = &stopping};
	SermEncoderState state;
	SermTrainReport report;

	serm_encoder_state_init(&task->config, begin(&task->config, arena), NULL, arena, &state);
	CHECK(fit(task, &options, &host, arena, &state, &report) == SERM_ERR_CANCELED, "cancel");
	other = *task, other.set.example_count = 0;
	CHECK(fit(&other, &options, NULL, arena, &state, &report) == SERM_ERR_NO_DATA, "no examples");
	other = *task, other.config.labels = 4;
	CHECK(fit(&other, &options, NULL, arena, &state, &report) == SERM_ERR_INVALID,
	    "grades that the head lacks");
	options.loss = "nonsense";
	CHECK(fit(task, &options, NULL, arena, &state, &report) == SERM_ERR_INVALID, "an unknown loss");
	options.loss = "kl";
	CHECK(
	    fit(task, &options, NULL, arena, &state, &report) == SERM_ERR_INVALID, "a loss without its teacher");
	options = make_options(), options.freeze = 3;
	CHECK(fit(task, &options, NULL, arena, &state, &report) == SERM_ERR_INVALID,
	    "more frozen layers than there are");
	CHECK(serm_encoder_rate(0, .1) == 0 && serm_encoder_rate(.05, .1) == .5 &&
	          serm_encoder_rate(.1, .1) == 1 && fabs(serm_encoder_rate(.55, .1) - .5) < 1e-12 &&
	          serm_encoder_rate(1, .1) == 0 && serm_encoder_rate(0, 0) == 1,
	    "the rate rises and falls");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_learning(SERM_ENCODER_BERT, 1, "ce", .85, &arena);
	test_learning(SERM_ENCODER_BERT, 1, "ranknet", .75, &arena);
	test_learning(SERM_ENCODER_BERT, 2, "ce:1, ranknet:0.3", .85, &arena);
	test_learning(SERM_ENCODER_MODERNBERT, 1, "ce", .85, &arena);
	test_going_on(SERM_ENCODER_BERT, &arena);
	test_going_on(SERM_ENCODER_MODERNBERT, &arena);
	test_frozen(SERM_ENCODER_BERT, &arena);
	test_frozen(SERM_ENCODER_MODERNBERT, &arena);
	test_update(SERM_ENCODER_BERT, &arena);
	test_update(SERM_ENCODER_MODERNBERT, &arena);
	test_refusals(&arena);
	serm_arena_free(&arena);
	DONE();
}
