/*
 * A stored cross-encoder: the tensors "config" and "tokenizer" beside its
 * weights (cross_encoder_config.h), and that they fit each other.
 */
#ifndef SERM_CORE_MODEL_CROSS_ENCODER_STORED_H
#define SERM_CORE_MODEL_CROSS_ENCODER_STORED_H

#include "core/model/cross_encoder_config.h"
#include "core/text/tokenizer.h"

/* The kind of its model (serm.model.kind). */
#define SERM_KIND_CROSS_ENCODER "cross_encoder"

/*
 * Open what is stored; the tokenizer points into the tensors. Every weight is verified: shape, type, finite.
 * Errors: CORRUPT, naming the tensor; INVALID for a config beyond what is supported; MEMORY;
 * CANCELED by whoever watches.
 */
extern SermStatus serm_encoder_stored_open(const SermTensorSet *tensors, const SermWatch *watch,
    SermArena *arena, SermEncoderConfig *config, const SermTokenizer **tokenizer, SermError *error);

/* The tokens that an input may have: the least that the tokenizer and the encoder say. */
extern uint32_t serm_encoder_stored_tokens_max(
    const SermEncoderConfig *config, const SermTokenizer *tokenizer);

/* Does the tokenizer give only ids and types that the encoder has? Error: CORRUPT. */
extern SermStatus serm_encoder_fits(
    const SermEncoderConfig *config, const SermTokenizer *tokenizer, SermError *error);

#endif
