/*
 * An encoder from nothing: initial weights, and pre-training on documents
 * without labels. Each document gives one example an epoch: a few of its words
 * as the query, often with words of another document among them, beside it the
 * document itself, or half of the time another one, a neighbour in the alphabet
 * as often as any. Of the document's tokens 15 % are
 * to be guessed: 80 % of those are masked, 10 % replaced, 10 % left as they are
 * (Devlin et al., NAACL 2019). The head learns what share of the
 * query's words came from the document, so the encoder ranks before it has seen a
 * judgment; tokens that both texts have are marked (core/model/encoder_pair.h).
 *
 * Everything random follows from the seed, the epoch and the document's place.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_PRETRAIN_H
#define SERM_CORE_TRAIN_ENCODER_PRETRAIN_H

#include "core/text/tokenizer.h"
#include "core/train/encoder_train.h"

typedef struct SermEncoderPretrainOptions {
	uint64_t seed;
	uint32_t epochs;      /* 0: about SERM_PRETRAIN_UPDATES updates, at most 200 epochs */
	uint32_t batch;       /* documents per update, default 32 */
	double learning_rate; /* default 1e-3 */
	double weight_decay;
	double warmup;
	double clip;
	double dropout; /* < 0: what the config says */
	double mask;    /* share of tokens to guess, default .15 */
} SermEncoderPretrainOptions;

#define SERM_PRETRAIN_UPDATES 400

extern void serm_encoder_pretrain_defaults(SermEncoderPretrainOptions *options);
/* Weights and embeddings normal with the config's range, norms 1, biases 0; flat
 * [serm_encoder_layout().count]. false: the host said stop. */
extern bool serm_encoder_begin(
    const SermEncoderConfig *config, uint64_t seed, const SermEncoderHost *host, SermReal *flat);

/*
 * A state with room for the bias of the guess behind the encoder's parameters. false: the arena refuses, or
 * the host said stop.
 */
extern bool serm_encoder_pretrain_state(
    const SermEncoderConfig *config, const SermEncoderHost *host, SermArena *arena, SermEncoderState *state);

/*
 * Pre-train `state`, whose flat vector was begun, until all epochs are done. `mask_id` is the id of [MASK],
 * and ids up to it are special. Errors: NO_DATA (no document of two words), INVALID, CANCELED, MEMORY,
 * DIVERGED.
 */
extern SermStatus serm_encoder_pretrain(const SermEncoderConfig *config, const SermTokenizer *tokenizer,
    uint32_t mask_id, const SermText *docs, size_t doc_count, const SermEncoderPretrainOptions *options,
    const SermTrainHost *host, const SermEncoderKeeper *keeper, SermArena *arena, SermEncoderState *state,
    SermTrainReport *report, SermError *error);

/* What an encoder from nothing is made of, besides documents. */
typedef struct SermEncoderMaking {
	uint32_t layers, hidden, heads, intermediate;
	uint32_t vocab;      /* pieces at most */
	uint32_t tokens_max; /* of an input */
	uint32_t labels;
} SermEncoderMaking;

/*
 * All of it: a vocabulary from `words` (documents and queries), initial weights, pre-training on `docs`, and
 * the tensors of a version. Errors: those of serm_wordpiece_learn() and serm_encoder_pretrain().
 */
extern SermStatus serm_encoder_make(const SermEncoderMaking *making, const SermText *words, size_t word_count,
    const SermText *docs, size_t doc_count, const SermEncoderPretrainOptions *options,
    const SermTrainHost *host, const SermEncoderKeeper *keeper, SermArena *arena, SermTensorSet *tensors,
    SermTrainReport *report, SermError *error);

#endif
