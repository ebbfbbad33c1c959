/*
 * From judged pairs of texts to what an encoder is trained on: tokens as
 * scoring would read them, targets, and weights of mean 1. Examples come in
 * canonical order (order.h), so the order of the host's rows does not matter.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_SET_H
#define SERM_CORE_TRAIN_ENCODER_SET_H

#include "core/text/tokenizer.h"
#include "core/train/encoder_fit.h"

/* What a set is read with. */
typedef struct SermEncoderReading {
	const SermEncoderConfig *config;
	const SermTokenizer *tokenizer;
	uint32_t tokens_max;             /* of an input, at most what the encoder takes */
	const SermTrainOptions *options; /* class_weights, rank_weights, propensity_clip */
} SermEncoderReading;

/* The examples of `given` with their queries' keys, to tell queries apart: list_key [query_count]. */
typedef struct SermEncoderLists {
	SermEncoderSet set;
	const uint64_t *list_key; /* [set.query_count] */
} SermEncoderLists;

/* Everything lies in `arena`. Errors: NO_DATA, INVALID, CANCELED, MEMORY. */
extern SermStatus serm_encoder_set_read(const SermTrainingSet *given, const SermEncoderReading *reading,
    const SermTrainHost *host, SermArena *arena, SermEncoderLists *lists, SermError *error);

/*
 * Split off the queries whose key says so, about one in `parts`: `held` gets them, `rest` the others. Both
 * keep the numbers of the queries.
 */
extern SermStatus serm_encoder_set_hold(const SermEncoderLists *lists, uint32_t parts, SermArena *arena,
    SermEncoderSet *rest, SermEncoderSet *held, SermError *error);

/* A hash of all that is in the set. false: the host said stop. */
extern bool serm_encoder_set_hash(const SermEncoderSet *set, const SermTrainHost *host, uint64_t *hash);
/* A hash of bytes, continued from *hash, between questions to the host. */
extern bool serm_encoder_hash(const void *bytes, size_t length, const SermTrainHost *host, uint64_t *hash);

#endif
