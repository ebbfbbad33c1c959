#include "core/train/encoder_pretrain.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/watch.h"
#include "core/model/encoder_pair.h"
#include "core/train/encoder_masked.h"
#include "core/train/encoder_set.h"
#include "core/train/encoder_update.h"
#include "core/train/failure.h"

/* Streams of one seed. */
#define WEIGHT_STREAM UINT64_C(0x776569676874)
#define ORDER_STREAM UINT64_C(0x6f72646572)
#define EXAMPLE_STREAM UINT64_C(0x6578616d70)
#define DROPOUT_STREAM UINT64_C(0x64726f70)

/* Random numbers between two questions to the host. */
#define QUIET_DRAWS ((size_t) 1 << 18)
#define EPOCHS_MAX 200
#define MATCH_SCALE 3
#define QUERY_WORDS_MAX 6
/* A query comes from the title this often, if there is one. */
#define TITLE_SHARE .6
/* Words of another document are mixed into it this often; else its words are taken out of the document so
 * often. */
#define MIXED_SHARE .4
#define TAKEN_OUT_SHARE .1
#define NEIGHBOUR_SHARE .5
#define NEIGHBOURS 4
/* Of the tokens to guess. */
#define MASKED_SHARE .8
#define REPLACED_SHARE .1
#define RUN_VERSION UINT64_C(0x7365726d1002)

typedef struct Doc {
	const uint32_t *ids;
	uint32_t count;
	uint32_t title; /* tokens of the first line */
} Doc;

typedef struct Pretraining {
	const SermEncoderConfig *config;
	const SermTokenizer *tokenizer;
	const SermEncoderPretrainOptions *options;
	const SermTrainHost *host;
	SermEncoderHost go_on;
	SermArena *arena;
	uint32_t mask_id;
	uint32_t tokens_max;
	uint32_t epochs;
	uint8_t *inner; /* [vocab]: the piece continues a word */
	Doc *docs;
	uint32_t doc_count;
	uint32_t *order; /* [doc_count] of this epoch */
	SermEncoderState *state;
	SermEncoder *encoder;
	void *packed;
	SermEncoderBack back;
	SermMasked masked;
	SermMaskedInput *inputs; /* [batch] */
	uint32_t *room;          /* of one query of two documents, and what is left of a document */
} Pretraining;

void
serm_encoder_pretrain_defaults(SermEncoderPretrainOptions *options)
{
	*options = (SermEncoderPretrainOptions){.batch = 32,
	    .learning_rate = 1e-3,
	    .weight_decay = .01,
	    .warmup = .1,
	    .clip = 1,
	    .dropout = -1,
	    .mask = .15};
}

bool
serm_encoder_begin(
    const SermEncoderConfig *config, uint64_t seed, const SermEncoderHost *host, SermReal *flat)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermRng rng;

	serm_rng_seed(&rng, serm_hash_mix(seed ^ WEIGHT_STREAM));
	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;
		bool norm;

		serm_encoder_entry(config, &layout, e, &entry);
		norm = strstr(entry.name, "LayerNorm.weight") != NULL;
		for (size_t i = 0; i < entry.count; i++) {
			if (i % QUIET_DRAWS == 0 && !serm_encoder_go_on(host))
				return false;
			flat[entry.offset + i] =
			    (SermReal) (entry.rank == 2 ? config->initializer_range * serm_rng_normal(&rng) : norm);
		}
	}
	/* Marks of matches must not drown in the words. */
	for (size_t i = 0; config->match_types && i < (size_t) SERM_MATCH_TYPE * config->hidden; i++)
		flat[layout.types + (size_t) SERM_MATCH_TYPE * config->hidden + i] *= MATCH_SCALE;
	return true;
}

bool
serm_encoder_pretrain_state(
    const SermEncoderConfig *config, const SermEncoderHost *host, SermArena *arena, SermEncoderState *state)
{
	size_t count = serm_encoder_layout(config).count + config->vocab, bytes = count * sizeof(SermReal);

	*state = (SermEncoderState){.count = count,
	    .flat = serm_arena_reserve(arena, bytes),
	    .mean = serm_arena_reserve(arena, bytes),
	    .square = serm_arena_reserve(arena, bytes)};
	return state->flat != NULL && state->mean != NULL && state->square != NULL &&
	       serm_watch_clear(host, state->flat, bytes) && serm_watch_clear(host, state->mean, bytes) &&
	       serm_watch_clear(host, state->square, bytes);
}

/* --- documents */

static size_t
first_line(SermText text)
{
	const char *end = memchr(text.bytes, '\n', text.length);

	return end != NULL ? (size_t) (end - text.bytes) : 0;
}

static SermStatus
read_doc(Pretraining *training, SermText text, SermError *error)
{
	Doc *doc = &training->docs[training->doc_count];
	const uint32_t *title;
	SermArenaMark mark = serm_arena_mark(training->arena);
	SermStatus status = serm_tokenizer_encode(training->tokenizer, (SermText){text.bytes, first_line(text)},
	    training->tokens_max, &training->go_on, training->arena, &title, &doc->title, error);

	serm_arena_rewind(training->arena, mark);
	if (status == SERM_OK)
		status = serm_tokenizer_encode(training->tokenizer, text, training->tokens_max, &training->go_on,
		    training->arena, &doc->ids, &doc->count, error);
	if (status == SERM_OK && doc->title > doc->count)
		doc->title = doc->count;
	training->doc_count += status == SERM_OK && doc->count >= 2;
	return status;
}

static SermStatus
read_docs(Pretraining *training, const SermText *docs, size_t count, SermError *error)
{
	SermStatus status = SERM_OK;

	training->docs = serm_arena_array(training->arena, count, sizeof(Doc));
	training->order = serm_arena_array(training->arena, count, sizeof(uint32_t));
	if (training->docs == NULL || training->order == NULL)
		return serm_train_out_of_memory(error);
	for (size_t i = 0; status == SERM_OK && i < count && i < UINT32_MAX; i++) {
		if (!serm_encoder_go_on(&training->go_on))
			return serm_train_canceled(error);
		status = read_doc(training, docs[i], error);
	}
	if (status == SERM_OK && training->doc_count == 0)
		status = serm_fail(error, SERM_ERR_NO_DATA, "no document has two words to learn from");
	return status;
}

/* --- examples */

/* Words of a document: tokens from `start` to `end`. */
typedef struct Choice {
	uint32_t start, end, words;
} Choice;

/* A few words of a stretch of the document, whole ones; returns where they begin and end. */
static void
choose_words(const Pretraining *training, const Doc *doc, SermRng *rng, uint32_t *start, uint32_t *end)
{
	bool title = doc->title > 0 && serm_rng_uniform(rng) < TITLE_SHARE;
	uint32_t stretch = title ? doc->title : doc->count, words = 1 + serm_rng_below(rng, QUERY_WORDS_MAX);
	uint32_t at = serm_rng_below(rng, stretch);

	while (at > 0 && training->inner[doc->ids[at]])
		at--;
	*start = at;
	for (at++; at < stretch; at++)
		if (!training->inner[doc->ids[at]] && --words == 0)
			break;
	*end = at;
}

static uint32_t
choose_other(const Pretraining *training, uint32_t doc, SermRng *rng)
{
	uint32_t other, n = training->doc_count;

	if (serm_rng_uniform(rng) < NEIGHBOUR_SHARE) {
		uint32_t away = 1 + serm_rng_below(rng, NEIGHBOURS);

		other = serm_rng_uniform(rng) < .5 ? (doc + away) % n : (doc + n - away % n) % n;
	} else
		other = serm_rng_below(rng, n);
	return other;
}

/* Hide some tokens of the document; their places and what stood there are to be guessed. */
static bool
hide(const Pretraining *training, SermTokens *tokens, SermRng *rng, SermMaskedInput *input)
{
	uint32_t *places = serm_arena_array(training->arena, tokens->second_count, sizeof(uint32_t));
	uint32_t *answers = serm_arena_array(training->arena, tokens->second_count, sizeof(uint32_t));
	uint32_t special = training->mask_id + 1;

	if (places == NULL || answers == NULL)
		return false;
	for (uint32_t i = 0; i < tokens->second_count; i++) {
		uint32_t at = tokens->second_start + i;
		double how;

		if (serm_rng_uniform(rng) >= training->options->mask)
			continue;
		places[input->count] = at;
		answers[input->count++] = tokens->ids[at];
		how = serm_rng_uniform(rng);
		if (how < MASKED_SHARE)
			tokens->ids[at] = training->mask_id;
		else if (how < MASKED_SHARE + REPLACED_SHARE)
			tokens->ids[at] = special + serm_rng_below(rng, training->config->vocab - special);
	}
	input->places = places;
	input->answers = answers;
	return true;
}

/* Copy a few words of a document to `query`; returns its tokens. */
static uint32_t
add_words(const Pretraining *training, const Doc *doc, SermRng *rng, uint32_t *query, Choice *choice)
{
	choose_words(training, doc, rng, &choice->start, &choice->end);
	choice->words = 1;
	for (uint32_t i = choice->start + 1; i < choice->end; i++)
		choice->words += !training->inner[doc->ids[i]];
	memcpy(query, doc->ids + choice->start, (choice->end - choice->start) * sizeof(uint32_t));
	return choice->end - choice->start;
}

static SermStatus
make_example(Pretraining *training, uint32_t index, SermMaskedInput *input, SermError *error)
{
	const Doc *doc = &training->docs[index], *shown = doc, *mixed = NULL;
	Choice own, other = {0};
	uint32_t query, count;
	const uint32_t *ids;
	SermTokens tokens;
	SermStatus status;
	SermRng rng;

	serm_rng_seed(&rng, serm_hash_mix(training->options->seed ^ EXAMPLE_STREAM) +
	                        serm_hash_mix(training->state->epoch) + index);
	if (training->doc_count > 1 && serm_rng_uniform(&rng) < MIXED_SHARE)
		mixed = &training->docs[choose_other(training, index, &rng)];
	/* Half of the time the other words come first. */
	if (mixed != NULL && serm_rng_uniform(&rng) < .5) {
		query = add_words(training, mixed, &rng, training->room, &other);
		query += add_words(training, doc, &rng, training->room + query, &own);
	} else {
		query = add_words(training, doc, &rng, training->room, &own);
		if (mixed != NULL)
			query += add_words(training, mixed, &rng, training->room + query, &other);
	}
	if (training->doc_count > 1 && serm_rng_uniform(&rng) < .5)
		shown = &training->docs[choose_other(training, index, &rng)];
	*input = (SermMaskedInput){
	    .match = (double) ((shown == doc ? own.words : 0) + (shown == mixed ? other.words : 0)) /
	             (own.words + other.words)};
	ids = shown->ids;
	count = shown->count;
	if (shown == doc && mixed == NULL && query < count && serm_rng_uniform(&rng) < TAKEN_OUT_SHARE) {
		uint32_t *rest = training->room + query;

		memcpy(rest, ids, own.start * sizeof(uint32_t));
		memcpy(rest + own.start, ids + own.end, (count - own.end) * sizeof(uint32_t));
		ids = rest;
		count -= query;
	}
	status = serm_tokenizer_pair(training->tokenizer, training->room, query, ids, count, training->tokens_max,
	    SERM_TRUNCATE_LONGEST_FIRST, training->arena, &tokens, error);
	if (status != SERM_OK)
		return status;
	if (!hide(training, &tokens, &rng, input))
		return serm_train_out_of_memory(error);
	/* By what is left to read: a mark must not tell what was hidden. */
	status = serm_encoder_mark(training->config, training->tokenizer, training->arena, &tokens, error);
	input->input = (SermEncoderInput){tokens.ids, tokens.types, tokens.count, index};
	return status;
}

/* --- updates */

static SermStatus
run_groups(Pretraining *training, uint32_t count, double *loss, SermError *error)
{
	uint64_t words = 0;
	SermStatus status = SERM_OK;

	for (uint32_t i = 0; i < count; i++)
		words += training->inputs[i].count;
	for (uint32_t first = 0, end; status == SERM_OK && first < count; first = end) {
		uint32_t tokens = training->inputs[first].input.length;

		for (end = first + 1; end < count; end++) {
			tokens += training->inputs[end].input.length;
			if (tokens > SERM_ENCODER_GROUP)
				break;
		}
		status = serm_masked_group(&training->masked, training->inputs + first, end - first,
		    1.0 / (double) (words > 0 ? words : 1), 1.0 / count, training->arena, loss, error);
	}
	return status;
}

static SermStatus
run_batch(Pretraining *training, const uint32_t *docs, uint32_t count, double rate, SermError *error)
{
	const SermEncoderPretrainOptions *options = training->options;
	SermEncoderState *state = training->state;
	SermArenaMark mark = serm_arena_mark(training->arena);
	SermStatus status = SERM_OK;
	double loss = 0;

	if (!serm_encoder_back_clear(&training->back, &training->go_on))
		return serm_train_canceled(error);
	memset(training->masked.d_bias, 0, training->config->vocab * sizeof(SermReal));
	training->masked.seed = serm_hash_mix(options->seed ^ DROPOUT_STREAM) + state->step;
	for (uint32_t i = 0; status == SERM_OK && i < count; i++)
		status = make_example(training, docs[i], &training->inputs[i], error);
	if (status == SERM_OK)
		status = run_groups(training, count, &loss, error);
	serm_arena_rewind(training->arena, mark);
	if (status == SERM_OK && !isfinite(loss))
		status = serm_fail(error, SERM_ERR_DIVERGED, "pre-training diverged: the loss is not finite");
	if (status == SERM_OK)
		status =
		    serm_encoder_update(&(SermEncoderUpdate){training->config, options->weight_decay, options->clip,
		                            0, &training->back, state, training->packed, &training->go_on},
		        rate, training->masked.d_bias, error);
	if (status == SERM_OK && !serm_masked_pack(&training->masked))
		status = serm_train_canceled(error);
	state->loss += loss * count;
	return status;
}

static void
report_progress(const Pretraining *training, double started, uint64_t since)
{
	const SermTrainHost *host = training->host;
	const SermEncoderState *state = training->state;
	uint64_t total = training->doc_count, done = state->epoch * total + state->example;
	double seconds = host->clock != NULL ? host->clock(host->context) - started : 0;
	double speed = seconds > 0 ? (double) (done - since) / seconds : 0;

	if (host->progress != NULL)
		host->progress(
		    host->context, &(SermTrainProgress){"pretraining", state->epoch + (state->example == total),
		                       training->epochs, state->example > 0 ? state->loss / state->example : 0, speed,
		                       speed > 0 ? (double) (total * training->epochs - done) / speed : 0});
}

static SermStatus
run_epoch(Pretraining *training, const SermEncoderKeeper *keeper, uint64_t run, double started,
    uint64_t since, SermError *error)
{
	const SermEncoderPretrainOptions *options = training->options;
	SermEncoderState *state = training->state;
	uint32_t total = training->doc_count;
	double all = (double) total * training->epochs;
	SermStatus status = SERM_OK;
	SermRng rng;

	serm_rng_seed(&rng, serm_hash_mix(options->seed ^ ORDER_STREAM) + state->epoch);
	for (uint32_t i = 0; i < total; i++)
		training->order[i] = i;
	serm_rng_shuffle(&rng, training->order, total);
	while (status == SERM_OK && state->example < total) {
		uint32_t count = total - state->example < options->batch ? total - state->example : options->batch;
		double before = ((double) state->epoch * total + state->example) / all, after = before + count / all;

		/* While it rises the rate counts this update, while it falls it does not: neither end is 0. */
		status = run_batch(training, training->order + state->example, count,
		    options->learning_rate *
		        fmin(serm_encoder_rate(after < options->warmup ? after : before, options->warmup), 1),
		    error);
		if (status != SERM_OK)
			break;
		state->example += count;
		report_progress(training, started, since);
		if (keeper != NULL && keeper->keep != NULL && !keeper->keep(keeper->context, run, state))
			status = serm_train_canceled(error);
	}
	return status;
}

/* --- the whole */

static SermStatus
allocate(Pretraining *training, SermError *error)
{
	const SermEncoderConfig *config = training->config;
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermArena *arena = training->arena;
	double dropout = training->options->dropout;
	SermStatus status;

	training->packed =
	    serm_arena_reserve(arena, serm_encoder_packed_bytes(config, SERM_PRECISION_F32, training->back.gemm));
	training->inputs = serm_arena_array(arena, training->options->batch, sizeof(SermMaskedInput));
	training->room = serm_arena_array(arena, 3 * (size_t) training->tokens_max, sizeof(uint32_t));
	training->inner = serm_arena_array(arena, config->vocab, 1);
	if (training->packed == NULL || training->inputs == NULL || training->room == NULL ||
	    training->inner == NULL || !serm_encoder_back_init(&training->back, &training->go_on, arena))
		return serm_train_not_made(&training->go_on, error);
	for (uint32_t id = 0; id < serm_tokenizer_vocab(training->tokenizer); id++) {
		SermText piece = serm_tokenizer_piece(training->tokenizer, id);

		training->inner[id] = piece.length > 2 && memcmp(piece.bytes, "##", 2) == 0;
	}
	status = serm_encoder_open(config, SERM_PRECISION_F32, training->back.gemm, training->state->flat,
	    training->packed, arena, &training->encoder, error);
	if (status != SERM_OK)
		return status;
	training->masked = (SermMasked){.encoder = training->encoder,
	    .back = &training->back,
	    .host = &training->go_on,
	    .words = training->state->flat + layout.words,
	    .bias = training->state->flat + layout.count,
	    .drop_hidden = dropout >= 0 ? dropout : config->hidden_dropout,
	    .drop_attention = dropout >= 0 ? dropout : config->attention_dropout,
	    .drop_class = dropout >= 0 ? dropout : config->classifier_dropout};
	return serm_masked_init(&training->masked, arena) ? SERM_OK : serm_train_out_of_memory(error);
}

/* Everything that decides the bytes of the result. */
static bool
hash_run(const Pretraining *training, uint64_t *run)
{
	const SermEncoderPretrainOptions *options = training->options;
	const double numbers[] = {(double) options->seed, training->epochs, options->batch,
	    options->learning_rate, options->weight_decay, options->warmup, options->clip, options->dropout,
	    options->mask, training->config->labels, training->config->heads, training->config->match_types,
	    training->tokens_max};
	bool good;

	*run = RUN_VERSION;
	good = serm_encoder_hash(numbers, sizeof(numbers), training->host, run) &&
	       serm_encoder_hash(
	           training->state->flat, training->state->count * sizeof(SermReal), training->host, run);
	for (uint32_t i = 0; good && i < training->doc_count; i++)
		good = serm_encoder_hash(
		    training->docs[i].ids, training->docs[i].count * sizeof(uint32_t), training->host, run);
	return good;
}

SermStatus
serm_encoder_pretrain(const SermEncoderConfig *config, const SermTokenizer *tokenizer, uint32_t mask_id,
    const SermText *docs, size_t doc_count, const SermEncoderPretrainOptions *options,
    const SermTrainHost *host, const SermEncoderKeeper *keeper, SermArena *arena, SermEncoderState *state,
    SermTrainReport *report, SermError *error)
{
	Pretraining training = {.config = config,
	    .tokenizer = tokenizer,
	    .options = options,
	    .host = host,
	    .go_on = {host->keep_going, host->context},
	    .arena = arena,
	    .mask_id = mask_id,
	    .tokens_max = serm_encoder_tokens_max(config),
	    .back = {.config = config, .gemm = &serm_gemm_packed},
	    .state = state};
	double started = host->clock != NULL ? host->clock(host->context) : 0;
	uint64_t run = 0, since;
	SermStatus status;

	if (options->batch == 0 || !(options->learning_rate > 0) || !(options->mask >= 0 && options->mask <= 1) ||
	    !(options->dropout < 1) || config->vocab <= mask_id + 1 || config->labels == 0)
		return serm_fail(error, SERM_ERR_INVALID, "an option of the pre-training is out of its range");
	status = read_docs(&training, docs, doc_count, error);
	if (status == SERM_OK)
		status = allocate(&training, error);
	if (status != SERM_OK)
		return status;
	training.epochs = options->epochs;
	if (training.epochs == 0) {
		uint64_t wanted = (uint64_t) SERM_PRETRAIN_UPDATES * options->batch / training.doc_count + 1;

		training.epochs = wanted < EPOCHS_MAX ? (uint32_t) wanted : EPOCHS_MAX;
	}
	if (!hash_run(&training, &run))
		return serm_train_canceled(error);
	if (keeper != NULL && keeper->restore != NULL)
		(void) keeper->restore(keeper->context, run, state);
	if (!serm_encoder_pack(
	        config, SERM_PRECISION_F32, training.back.gemm, state->flat, training.packed, &training.go_on) ||
	    !serm_encoder_back_pack(&training.back, state->flat, &training.go_on) ||
	    !serm_masked_pack(&training.masked))
		return serm_train_canceled(error);
	*report =
	    (SermTrainReport){.corpus_count = training.doc_count, .epochs = training.epochs, .temperature = 1};
	since = (uint64_t) state->epoch * training.doc_count + state->example;
	while (status == SERM_OK && state->epoch < training.epochs) {
		status = run_epoch(&training, keeper, run, started, since, error);
		if (status != SERM_OK)
			return status;
		report->loss = state->loss / training.doc_count;
		state->epoch++;
		state->example = 0;
		state->loss = 0;
	}
	report->seconds = host->clock != NULL ? host->clock(host->context) - started : 0;
	return status;
}
