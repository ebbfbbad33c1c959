/*
 * A new version of a cross-encoder: from judged pairs of texts and the tensors
 * of the version that it begins with to tensors that can be stored
 * (cross_encoder_config.h). The counterpart of serm_train_interaction().
 */
#ifndef SERM_CORE_TRAIN_ENCODER_TRAIN_H
#define SERM_CORE_TRAIN_ENCODER_TRAIN_H

#include "core/train/encoder_fit.h"

typedef struct SermEncoderTrainOptions {
	SermEncoderOptions fit;
	SermTrainOptions
	    weights;         /* of these class_weights, rank_weights, propensity_clip and calibrate are read */
	uint32_t tokens_max; /* of an input while training; 0: as many as the model takes */
} SermEncoderTrainOptions;

/*
 * Where states of a training are kept for a process that may have to take over. `run` is a hash of everything
 * that decides the result: the begin, the examples, the options. All may be NULL.
 */
typedef struct SermEncoderKeeper {
	/* Fill in numbers and arrays of `state` with what was kept last of this run; false: nothing was. */
	bool (*restore)(void *context, uint64_t run, SermEncoderState *state);
	/* Called after each update; false: stop. */
	bool (*keep)(void *context, uint64_t run, const SermEncoderState *state);
	void *context;
} SermEncoderKeeper;

/*
 * Bytes of parameters, their gradient and moments, their layouts for both ways, and one group of so many
 * tokens; or, where that is more, of what is left afterwards and measured.
 */
extern size_t serm_encoder_training_bytes(const SermEncoderConfig *config, size_t tokens, size_t longest);
/* MEMORY, with both numbers, when the arena has not so many bytes left. */
extern SermStatus serm_encoder_check_room(const SermArena *arena, size_t needed, SermError *error);
/* Bytes that serm_encoder_fit() takes from its arena at most, with the state, for inputs of this set. */
extern size_t serm_encoder_fit_bytes(
    const SermEncoderConfig *config, const SermEncoderSet *set, const SermEncoderOptions *options);

/*
 * `begin` holds the stored tensors of the version to begin with, of which nothing is needed afterwards. Of
 * the set `corpus`, `parent` and `origin` are not read. With calibrate, or a loss of scores alone, about a
 * tenth of the queries is held out and a temperature fitted on them, which is folded into the head.
 * Deterministic, also when it goes on with a kept state: the same set, options and CPU features give the same
 * bytes. Errors: NO_DATA, INVALID, CORRUPT, CANCELED, MEMORY (told before the first update where the limit is
 * too low), DIVERGED.
 */
extern SermStatus serm_train_encoder(const SermTrainingSet *set, const SermTensorSet *begin,
    const SermEncoderTrainOptions *options, const SermTrainHost *host, const SermEncoderKeeper *keeper,
    SermArena *arena, SermTensorSet *tensors, SermTrainReport *report, SermError *error);

/*
 * The tensors of a version: those of the flat vector, with copies of config and tokenizer. Errors: MEMORY,
 * CANCELED.
 */
extern SermStatus serm_encoder_tensors_write(const SermEncoderConfig *config, const SermTensor *json,
    const SermTensor *tokenizer, const SermReal *flat, const SermEncoderHost *host, SermArena *arena,
    SermTensorSet *tensors, SermError *error);

#endif
