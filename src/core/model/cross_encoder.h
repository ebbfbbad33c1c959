/*
 * The model kind "cross_encoder": a query and a document are read together by
 * an encoder (encoder.h), whose head gives the grades.
 *
 * It opens from the tensors that an import stores (cross_encoder_config.h), or
 * from the ones that serm_cross_encoder_prepare() makes of them: those are used
 * where they lie, so that processes that map them share all of the weights.
 *
 *   "config", "tokenizer"   as stored
 *   "encoder.layout"        u8 [n]: precision and provider of the packed weights, "f32 built-in"
 *   "encoder.plain"         f32 [n]: embeddings, biases and norms (encoder_layout.h)
 *   "encoder.packed"        u8 [bytes]: the weights of the linear layers, laid out
 */
#ifndef SERM_CORE_MODEL_CROSS_ENCODER_H
#define SERM_CORE_MODEL_CROSS_ENCODER_H

#include "core/model/encoder_fill.h"
#include "core/model/settings.h"
#include "core/model/tensor.h"

#define SERM_TENSOR_ENCODER_LAYOUT "encoder.layout"
#define SERM_TENSOR_ENCODER_PLAIN "encoder.plain"
#define SERM_TENSOR_ENCODER_PACKED "encoder.packed"

/* Are these the tensors of a stored cross-encoder that is not prepared yet? */
extern bool serm_cross_encoder_stored(const SermTensorSet *tensors);

typedef enum SermCrossTensor {
	SERM_CROSS_CONFIG = 0,
	SERM_CROSS_TOKENIZER,
	SERM_CROSS_PLAIN,
	SERM_CROSS_PACKED,
	SERM_CROSS_LAYOUT,
	SERM_CROSS_TENSORS
} SermCrossTensor;

/*
 * Preparing a model whose weights need not be in memory together: plan; make room for the prepared tensors,
 * zeroed and aligned to SERM_ARENA_ALIGN, and copy what is stored as config and tokenizer there; begin; hand
 * every entry (encoder_layout.h) to `fill`. Then they are complete.
 */
typedef struct SermCrossPlan {
	SermTensor prepared[SERM_CROSS_TENSORS]; /* `data` is the caller's to set, before it begins */
	SermEncoderConfig config;
	SermModelSettings settings;
	SermEncoderFill fill;
} SermCrossPlan;

/* From stored tensors, of which only the config's data is read. Errors: CORRUPT, INVALID, MEMORY. */
extern SermStatus serm_cross_encoder_plan(const SermTensorSet *stored, const SermModelSettings *settings,
    SermArena *arena, SermCrossPlan *plan, SermError *error);
/* Errors: CORRUPT for a tokenizer that is damaged or does not fit to the encoder; MEMORY. */
extern SermStatus serm_cross_encoder_begin(SermCrossPlan *plan, SermArena *arena, SermError *error);
/* All of that in `arena`, for the precision and the provider of `settings`. `host` may be NULL.
 * Errors: those of opening a stored model; MEMORY; CANCELED. */
extern SermStatus serm_cross_encoder_prepare(const SermTensorSet *tensors, const SermModelSettings *settings,
    const SermEncoderHost *host, SermArena *arena, SermTensorSet *prepared, SermError *error);

#endif
