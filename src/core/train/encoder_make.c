/*
 * From documents to the tensors of an encoder that nobody had before:
 * vocabulary, config, initial weights, pre-training.
 */
#include <string.h>

#include "core/model/cross_encoder_stored.h"
#include "core/model/encoder_pair.h"
#include "core/model/tokenizer_read.h"
#include "core/text/wordpiece_learn.h"
#include "core/train/encoder_pretrain.h"
#include "core/train/failure.h"

#define COUNT_MIN 2
/* As BERT has them. */
#define DROPOUT .1
#define EPSILON 1e-12
#define RANGE .02

static SermTensor
byte_tensor(const char *name, const void *data, size_t bytes)
{
	SermTensor tensor = {.dtype = SERM_DTYPE_U8, .rank = 1, .shape = {bytes}, .data = data, .bytes = bytes};

	memcpy(tensor.name, name, strlen(name) + 1);
	return tensor;
}

/* Learn the vocabulary, and the tables of a tokenizer from it. */
static SermStatus
make_tokenizer(const SermEncoderMaking *making, const SermText *words, size_t word_count,
    const SermTrainHost *host, SermArena *arena, SermTensor *tables, const SermTokenizer **tokenizer,
    SermError *error)
{
	const SermWordpieceLearner learner = {
	    words, word_count, making->vocab, COUNT_MIN, host->keep_going, host->context};
	const unsigned char *bytes;
	const SermWatch watch = {host->keep_going, host->context};
	SermTokenizerFiles files = {.watch = &watch};
	SermTokenizerSpec spec;
	size_t length;
	SermStatus status = serm_wordpiece_learn(&learner, arena, &files.vocab_txt, error);

	if (status == SERM_OK)
		status = serm_tokenizer_read(&files, arena, &spec, error);
	if (status != SERM_OK)
		return status;
	spec.tokens_max = making->tokens_max;
	status = serm_tokenizer_write(&spec, arena, &bytes, &length, error);
	if (status == SERM_OK)
		status = serm_tokenizer_open(bytes, length, arena, tokenizer, error);
	if (status == SERM_OK)
		*tables = byte_tensor(SERM_ENCODER_TOKENIZER_TENSOR, bytes, length);
	return status;
}

static SermEncoderConfig
make_config(const SermEncoderMaking *making, uint32_t vocab)
{
	return (SermEncoderConfig){.architecture = SERM_ENCODER_BERT,
	    .layers = making->layers,
	    .hidden = making->hidden,
	    .heads = making->heads,
	    .intermediate = making->intermediate,
	    .vocab = vocab,
	    .positions = making->tokens_max,
	    .types = 2 * SERM_MATCH_TYPE,
	    .match_types = true,
	    .labels = making->labels,
	    .pad_id = SERM_WORDPIECE_PAD,
	    .activation = SERM_ACTIVATION_GELU,
	    .eps = EPSILON,
	    .hidden_dropout = DROPOUT,
	    .attention_dropout = DROPOUT,
	    .classifier_dropout = DROPOUT,
	    .initializer_range = RANGE};
}

static void
report_phase(const SermTrainHost *host, const char *phase)
{
	if (host->progress != NULL)
		host->progress(host->context, &(SermTrainProgress){.phase = phase});
}

SermStatus
serm_encoder_make(const SermEncoderMaking *making, const SermText *words, size_t word_count,
    const SermText *docs, size_t doc_count, const SermEncoderPretrainOptions *options,
    const SermTrainHost *host, const SermEncoderKeeper *keeper, SermArena *arena, SermTensorSet *tensors,
    SermTrainReport *report, SermError *error)
{
	const SermEncoderHost watch = {host->keep_going, host->context};
	SermTensor tables, json;
	const SermTokenizer *tokenizer;
	SermEncoderConfig config;
	SermEncoderState state;
	SermArenaMark mark;
	size_t length;
	char *text;
	SermStatus status;

	report_phase(host, "vocabulary");
	status = make_tokenizer(making, words, word_count, host, arena, &tables, &tokenizer, error);
	if (status != SERM_OK)
		return status;
	config = make_config(making, serm_tokenizer_vocab(tokenizer));
	status = serm_encoder_config_check(&config, error);
	if (status != SERM_OK)
		return status;
	/* Besides: the words laid out twice, and a block of guesses. */
	status = serm_encoder_check_room(arena,
	    serm_encoder_training_bytes(&config, SERM_ENCODER_GROUP + config.positions, config.positions) +
	        sizeof(SermReal) * (2 * (size_t) config.vocab * (config.hidden + 64) + ((size_t) 4 << 20)),
	    error);
	if (status != SERM_OK)
		return status;
	text = serm_encoder_config_write(&config, arena, &length);
	if (text == NULL || !serm_encoder_pretrain_state(&config, &watch, arena, &state))
		return serm_train_not_made(&watch, error);
	json = byte_tensor(SERM_ENCODER_CONFIG_TENSOR, text, length);
	if (!serm_encoder_begin(&config, options->seed, &watch, state.flat))
		return serm_train_canceled(error);
	mark = serm_arena_mark(arena);
	status = serm_encoder_pretrain(&config, tokenizer, SERM_WORDPIECE_MASK, docs, doc_count, options, host,
	    keeper, arena, &state, report, error);
	serm_arena_rewind(arena, mark);
	if (status == SERM_OK)
		status =
		    serm_encoder_tensors_write(&config, &json, &tables, state.flat, &watch, arena, tensors, error);
	return status;
}
