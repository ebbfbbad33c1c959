/*
 * One update of an encoder's parameters from an added-up gradient: clipping by
 * its norm, AdamW, and the new weights laid out for both ways.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_UPDATE_H
#define SERM_CORE_TRAIN_ENCODER_UPDATE_H

#include "core/train/encoder_back.h"
#include "core/train/encoder_fit.h"

typedef struct SermEncoderUpdate {
	const SermEncoderConfig *config;
	double weight_decay;
	double clip;     /* 0: not clipped */
	uint32_t freeze; /* as in SermEncoderOptions */
	SermEncoderBack *back;
	SermEncoderState *state;
	void *packed;
	const SermEncoderHost *host;
} SermEncoderUpdate;

/*
 * `further` is the gradient of what the state holds behind the parameters of the encoder, without decay;
 * NULL: nothing. Errors: DIVERGED, CANCELED.
 */
extern SermStatus serm_encoder_update(
    const SermEncoderUpdate *update, double rate, const SermReal *further, SermError *error);

#endif
