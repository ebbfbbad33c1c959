#include "core/train/encoder_train.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/model/cross_encoder_stored.h"
#include "core/train/attention_back.h"
#include "core/train/encoder_set.h"
#include "core/train/failure.h"
#include "core/train/loss.h"
#include "core/train/temperature.h"

/* One in so many queries is held out for the temperature. */
#define HELD_PARTS 10
/* Inputs that are scored together. */
#define SCORE_ROWS 64
/* Hashes of runs change with what a kept state means. */
#define RUN_VERSION UINT64_C(0x7365726d0001)

typedef struct Training {
	const SermEncoderTrainOptions *options;
	const SermTrainHost *host;
	const SermEncoderKeeper *keeper;
	SermArena *arena;
	SermEncoderConfig config;
	const SermTokenizer *tokenizer;
	SermTensor json, tables; /* config and tokenizer as stored */
	SermEncoderOptions fit;
	SermEncoderSet set, held;
	const uint64_t *list_key;
	SermEncoderState state;
	uint64_t run;
	SermTemperature temperature;
} Training;

static SermEncoderHost
watch_of(const Training *training)
{
	return (SermEncoderHost){training->host->keep_going, training->host->context};
}

/* --- what it begins with */

static bool
copy_tensor(const SermTensorSet *begin, const char *name, SermArena *arena, SermTensor *copy)
{
	void *data;

	*copy = *serm_tensor_find(begin, name);
	data = serm_arena_reserve(arena, copy->bytes);
	if (data != NULL)
		memcpy(data, copy->data, copy->bytes);
	copy->data = data;
	return data != NULL;
}

static SermStatus
open_begin(Training *training, const SermTensorSet *begin, SermReal **flat, SermError *error)
{
	const SermEncoderHost host = watch_of(training);
	SermStatus status = serm_encoder_stored_open(
	    begin, &host, training->arena, &training->config, &training->tokenizer, error);

	if (status == SERM_OK)
		status = serm_encoder_flatten(&training->config, begin, &host, training->arena, flat, error);
	if (status != SERM_OK)
		return status;
	if (!copy_tensor(begin, SERM_ENCODER_CONFIG_TENSOR, training->arena, &training->json) ||
	    !copy_tensor(begin, SERM_ENCODER_TOKENIZER_TENSOR, training->arena, &training->tables))
		return serm_train_out_of_memory(error);
	return serm_tokenizer_open(
	    training->tables.data, training->tables.bytes, training->arena, &training->tokenizer, error);
}

/* Losses of scores leave the scale of the logits open. */
static SermStatus
decide_calibration(const Training *training, uint32_t grades, bool *calibrate, SermError *error)
{
	const char *text = training->fit.loss;
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	uint32_t count;
	bool likely = text == NULL;
	SermStatus status = SERM_OK;

	if (text != NULL)
		status = serm_loss_parse(text, grades, terms, &count, error);
	for (uint32_t i = 0; status == SERM_OK && text != NULL && i < count; i++)
		likely |= terms[i].loss->input == SERM_LOSS_LOGITS;
	*calibrate = training->options->weights.calibrate || !likely;
	return status;
}

static SermStatus
read_examples(Training *training, const SermTrainingSet *given, SermError *error)
{
	uint32_t most = serm_encoder_stored_tokens_max(&training->config, training->tokenizer);
	SermEncoderReading reading = {&training->config, training->tokenizer,
	    training->options->tokens_max != 0 && training->options->tokens_max < most
	        ? training->options->tokens_max
	        : most,
	    &training->options->weights};
	SermEncoderLists lists;
	bool calibrate;
	SermStatus status = decide_calibration(training, given->grade_count, &calibrate, error);

	if (status == SERM_OK)
		status = serm_encoder_set_read(given, &reading, training->host, training->arena, &lists, error);
	if (status != SERM_OK)
		return status;
	training->list_key = lists.list_key;
	training->set = lists.set;
	if (calibrate)
		status = serm_encoder_set_hold(
		    &lists, HELD_PARTS, training->arena, &training->set, &training->held, error);
	if (status == SERM_OK && training->set.example_count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are too few queries to hold some of them out");
	return status;
}

/* Everything that decides the bytes of the result. */
static bool
hash_run(Training *training)
{
	const SermEncoderOptions *fit = &training->fit;
	const char *loss = fit->loss != NULL ? fit->loss : "";
	const double numbers[] = {(double) fit->seed, fit->epochs, fit->batch, fit->list_max, fit->learning_rate,
	    fit->weight_decay, fit->warmup, fit->clip, fit->dropout, fit->freeze, training->config.labels,
	    training->set.grade_count, training->set.query_count, training->set.distilled ? fit->alpha : 0};
	uint64_t hash = RUN_VERSION;
	bool good = serm_encoder_hash(numbers, sizeof(numbers), training->host, &hash) &&
	            serm_encoder_hash(loss, strlen(loss), training->host, &hash) &&
	            serm_encoder_hash(training->json.data, training->json.bytes, training->host, &hash) &&
	            serm_encoder_hash(
	                training->state.flat, training->state.count * sizeof(SermReal), training->host, &hash) &&
	            serm_encoder_set_hash(&training->set, training->host, &hash);

	training->run = hash;
	return good;
}

/* --- memory */

/* Tokens of the largest group: a list is never cut between groups, and its longest documents may meet. */
static size_t
largest_group(const SermEncoderSet *set, uint32_t list_max)
{
	size_t longest = 0, tokens = 0, total = 0, group = SERM_ENCODER_GROUP;
	uint32_t length = 0, query = UINT32_MAX;

	for (uint32_t i = 0; i < set->example_count; i++) {
		const SermEncoderExample *example = &set->examples[i];

		if (example->query != query)
			tokens = longest = length = 0;
		query = example->query;
		longest = example->input.length > longest ? example->input.length : longest;
		total += example->input.length;
		tokens += example->input.length;
		length++;
		if (length > list_max && tokens > longest * list_max)
			tokens = longest * list_max;
		group = tokens > group ? tokens : group;
	}
	return group < total ? group : total;
}

size_t
serm_encoder_training_bytes(const SermEncoderConfig *config, size_t tokens, size_t longest)
{
	bool modern = config->architecture == SERM_ENCODER_MODERNBERT;
	size_t hidden = config->hidden, wide = serm_encoder_up_width(config), size = hidden / config->heads;
	size_t count = serm_encoder_layout(config).count;
	size_t packed = serm_encoder_packed_bytes(config, SERM_PRECISION_F32, NULL);
	/* Of a layer: its input, queries, keys and values, context, both norms, the middle and the wide part. */
	size_t kept = config->layers * ((modern ? 11 : 9) * hidden + wide + 2), back = 6 * hidden + 3 * wide;
	/* Keys, values, scores of some rows, and where tokens are turned by their positions the angles. */
	size_t attention =
	    (longest + 64) * (2 * (size + SERM_PANEL) + SERM_ATTENTION_ROWS + (modern ? 2 * size : 0));

	size_t during = sizeof(SermReal) * (4 * count + (tokens + 64) * (kept + back + 4 * hidden) + attention) +
	                serm_attention_back_bytes((uint32_t) longest, (uint32_t) size) + 2 * packed + packed / 8 +
	                config->vocab * (sizeof(uint32_t) + 1);
	/* The state, the tensors made of it, and those opened again, so that they can be measured. */
	size_t after = sizeof(SermReal) * 5 * count + packed;

	return (during > after ? during : after) + ((size_t) 1 << 20);
}

size_t
serm_encoder_fit_bytes(
    const SermEncoderConfig *config, const SermEncoderSet *set, const SermEncoderOptions *options)
{
	size_t longest = 0;

	for (uint32_t i = 0; i < set->example_count; i++)
		longest = set->examples[i].input.length > longest ? set->examples[i].input.length : longest;
	return serm_encoder_training_bytes(config, largest_group(set, options->list_max), longest) +
	       set->example_count * 6 * sizeof(uint32_t);
}

SermStatus
serm_encoder_check_room(const SermArena *arena, size_t needed, SermError *error)
{
	size_t room = arena->limit - arena->total;

	if (needed <= room)
		return SERM_OK;
	return serm_fail(error, SERM_ERR_MEMORY,
	    "training this encoder takes about %zu MB besides its data, and %zu MB of its memory limit are left",
	    (needed >> 20) + 1, room >> 20);
}

/* --- fitting */

static bool
keep_state(void *context, const SermEncoderState *state)
{
	const Training *training = context;

	return training->keeper->keep(training->keeper->context, training->run, state);
}

static SermStatus
fit(Training *training, SermTrainReport *report, SermError *error)
{
	const SermEncoderKeeper *keeper = training->keeper;
	bool keeps = keeper != NULL && keeper->keep != NULL;
	SermEncoderFitHost host = {
	    .train = training->host, .checkpoint = keeps ? keep_state : NULL, .context = training};
	SermArenaMark mark;
	SermStatus status;

	if (!hash_run(training))
		return serm_train_canceled(error);
	if (keeper != NULL && keeper->restore != NULL)
		(void) keeper->restore(keeper->context, training->run, &training->state);
	/* What was kept may have come by an error of the host. */
	if (!training->host->keep_going(training->host->context))
		return serm_train_canceled(error);
	training->fit.checkpoint = keeps ? 1 : 0;
	mark = serm_arena_mark(training->arena);
	status = serm_encoder_fit(&training->config, &training->set, &training->fit, &host, training->arena,
	    &training->state, report, error);
	serm_arena_rewind(training->arena, mark);
	return status;
}

/* --- temperature */

/* One label is the logit of the better of two grades; its target the mean grade as a share of the highest. */
static void
load_held(const Training *training, const SermReal *logits, double *wide, SermReal *target, SermReal *weight,
    uint8_t *half)
{
	uint32_t labels = training->config.labels, grades = training->held.grade_count;

	for (uint32_t i = 0; i < training->held.example_count; i++) {
		const SermEncoderExample *example = &training->held.examples[i];
		double mean = 0;

		weight[i] = example->weight;
		half[i] = (uint8_t) (serm_hash_mix(training->list_key[example->query] + 1) & 1);
		for (uint32_t y = 0; y < grades; y++)
			mean += (double) y * example->target[y] / (grades - 1);
		if (labels == 1) {
			wide[2 * i + 1] = logits[i];
			target[2 * i] = (SermReal) (1 - mean);
			target[2 * i + 1] = (SermReal) mean;
		}
		for (uint32_t y = 0; labels > 1 && y < grades; y++) {
			wide[(size_t) i * grades + y] = logits[(size_t) i * grades + y];
			target[(size_t) i * grades + y] = example->target[y];
		}
	}
}

static SermStatus
score_held(Training *training, SermReal *logits, SermError *error)
{
	const SermEncoderConfig *config = &training->config;
	const SermEncoderSet *held = &training->held;
	SermEncoderHost host = watch_of(training);
	void *packed =
	    serm_arena_reserve(training->arena, serm_encoder_packed_bytes(config, SERM_PRECISION_F32, NULL));
	SermEncoder *encoder;
	SermStatus status;

	if (packed == NULL)
		return serm_train_out_of_memory(error);
	status = serm_encoder_open(
	    config, SERM_PRECISION_F32, NULL, training->state.flat, packed, training->arena, &encoder, error);
	if (status == SERM_OK &&
	    !serm_encoder_pack(config, SERM_PRECISION_F32, NULL, training->state.flat, packed, &host))
		status = serm_train_canceled(error);
	for (uint32_t at = 0; status == SERM_OK && at < held->example_count; at += SCORE_ROWS) {
		uint32_t count = held->example_count - at < SCORE_ROWS ? held->example_count - at : SCORE_ROWS;
		SermEncoderInput inputs[SCORE_ROWS];

		for (uint32_t i = 0; i < count; i++)
			inputs[i] = held->examples[at + i].input;
		status = serm_encoder_score(
		    encoder, inputs, count, &host, training->arena, logits + (size_t) at * config->labels, error);
	}
	return status;
}

static uint32_t
count_queries(const SermEncoderSet *set)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < set->example_count; i++)
		count += i == 0 || set->examples[i].query != set->examples[i - 1].query;
	return count;
}

/* Fit the temperature on what was held out, and divide the head by it. */
static SermStatus
calibrate(Training *training, SermError *error)
{
	SermArena *arena = training->arena;
	SermArenaMark mark = serm_arena_mark(arena);
	SermEncoderLayout layout = serm_encoder_layout(&training->config);
	size_t n = training->held.example_count;
	uint32_t labels = training->config.labels, width = labels == 1 ? 2 : labels;
	SermReal *logits = serm_arena_array(arena, n * labels, sizeof(*logits));
	SermReal *target = serm_arena_array(arena, n * width, sizeof(*target));
	SermReal *weight = serm_arena_array(arena, n, sizeof(*weight));
	double *wide = serm_arena_array(arena, n * width, sizeof(*wide));
	uint8_t *half = serm_arena_array(arena, n, 1);
	SermStatus status;

	if (logits == NULL || target == NULL || weight == NULL || wide == NULL || half == NULL)
		return serm_train_out_of_memory(error);
	status = score_held(training, logits, error);
	if (status == SERM_OK) {
		load_held(training, logits, wide, target, weight, half);
		status = serm_temperature_fit_logits(
		    &(SermTemperatureSet){width, count_queries(&training->held), n, wide, target, weight, half},
		    training->host, arena, &training->temperature, error);
	}
	for (size_t i = 0; status == SERM_OK && i < (size_t) labels * training->config.hidden; i++)
		training->state.flat[layout.class + i] /= training->temperature.value;
	for (size_t i = 0; status == SERM_OK && i < labels; i++)
		training->state.flat[layout.class_bias + i] /= training->temperature.value;
	serm_arena_rewind(arena, mark);
	return status;
}

/* --- the whole */

SermStatus
serm_encoder_tensors_write(const SermEncoderConfig *config, const SermTensor *json,
    const SermTensor *tokenizer, const SermReal *flat, const SermEncoderHost *host, SermArena *arena,
    SermTensorSet *tensors, SermError *error)
{
	SermTensorSet weights;
	SermTensor *list;
	SermStatus status = serm_encoder_unflatten(config, flat, host, arena, &weights, error);

	if (status != SERM_OK)
		return status;
	list = serm_arena_array(arena, weights.count + 2, sizeof(*list));
	if (list == NULL)
		return serm_train_out_of_memory(error);
	list[0] = *json;
	list[1] = *tokenizer;
	memcpy(list + 2, weights.tensors, weights.count * sizeof(*list));
	*tensors = (SermTensorSet){list, weights.count + 2};
	return SERM_OK;
}

SermStatus
serm_train_encoder(const SermTrainingSet *set, const SermTensorSet *begin,
    const SermEncoderTrainOptions *options, const SermTrainHost *host, const SermEncoderKeeper *keeper,
    SermArena *arena, SermTensorSet *tensors, SermTrainReport *report, SermError *error)
{
	Training training = {.options = options,
	    .host = host,
	    .keeper = keeper,
	    .arena = arena,
	    .fit = options->fit,
	    .temperature = {.value = 1}};
	const SermEncoderHost watch = watch_of(&training);
	SermReal *flat;
	SermStatus status = open_begin(&training, begin, &flat, error);

	if (status == SERM_OK)
		status = read_examples(&training, set, error);
	if (status == SERM_OK)
		status = serm_encoder_check_room(
		    arena, serm_encoder_fit_bytes(&training.config, &training.set, &training.fit), error);
	if (status == SERM_OK && !serm_encoder_state_init(&training.config, flat, &watch, arena, &training.state))
		status = serm_train_not_made(&watch, error);
	if (status == SERM_OK)
		status = fit(&training, report, error);
	if (status == SERM_OK && training.held.example_count > 0)
		status = calibrate(&training, error);
	if (status == SERM_OK)
		status = serm_encoder_tensors_write(&training.config, &training.json, &training.tables,
		    training.state.flat, &watch, arena, tensors, error);
	if (status != SERM_OK)
		return status;
	report->temperature = training.temperature.value;
	report->temperature_gain = training.temperature.gain;
	report->example_count = set->example_count;
	return SERM_OK;
}
