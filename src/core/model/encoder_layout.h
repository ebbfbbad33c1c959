/*
 * The parameters of an encoder as one flat vector: what training updates and
 * what scoring is laid out from.
 *
 *   embeddings (words, positions, types), all biases and norms: "plain", used as they are
 *   from plain_count: the weights of the linear layers, which scoring packs
 *
 * In a layer the weights and biases of query, key and value lie one behind the
 * other, so key and value are one linear layer of 2 hidden outputs; so they are
 * one tensor where ModernBERT stores them as one.
 *
 * What an architecture or its config leaves out (positions, types and most
 * biases of ModernBERT, the norm before its first attention) has the place
 * SERM_ENCODER_NONE, or no size.
 */
#ifndef SERM_CORE_MODEL_ENCODER_LAYOUT_H
#define SERM_CORE_MODEL_ENCODER_LAYOUT_H

#include "core/base/real.h"
#include "core/model/cross_encoder_config.h"

#define SERM_ENCODER_NONE SIZE_MAX

/* Within a layer's stretch of the plain part and of the weights. */
typedef struct SermLayerLayout {
	size_t query_bias, pair_bias, out_bias, gamma1, beta1, up_bias, down_bias, gamma2, beta2;
	size_t query, pair, out, up, down;
} SermLayerLayout;

typedef struct SermEncoderLayout {
	size_t words, positions, types, gamma, beta;
	size_t head; /* where the plain part of the head begins */
	size_t final_gamma, final_beta, pool_bias, head_gamma, head_beta, class_bias;
	size_t pool, class;
	size_t plain_count;
	size_t count;
	size_t layer_plain, layer_plain_size; /* layer n begins at layer_plain + n layer_plain_size */
	size_t layer_weights, layer_weights_size;
} SermEncoderLayout;

extern SermEncoderLayout serm_encoder_layout(const SermEncoderConfig *config);
extern SermLayerLayout serm_encoder_layer(
    const SermEncoderConfig *config, const SermEncoderLayout *layout, uint32_t layer);

/* Outputs of the first linear layer of the feed-forward part: of a gated one, activation and gate. */
extern uint32_t serm_encoder_up_width(const SermEncoderConfig *config);

/* A stored tensor and its place in the flat vector. */
typedef struct SermEncoderEntry {
	char name[SERM_TENSOR_NAME_MAX];
	uint32_t rank;
	uint64_t shape[2];
	size_t offset, count;
} SermEncoderEntry;

extern uint32_t serm_encoder_entry_count(const SermEncoderConfig *config);
/* Entry `index` < count, in the order of the flat vector's tensors as they are stored. */
extern void serm_encoder_entry(const SermEncoderConfig *config, const SermEncoderLayout *layout,
    uint32_t index, SermEncoderEntry *entry);

/* Numbers of type f32, f16 or bf16 as reals; false when they are of another type. */
extern bool serm_encoder_reals(SermDtype dtype, const void *numbers, size_t count, SermReal *out);

/* Architectures that the engine computes. INVALID says what it does not. */
extern SermStatus serm_encoder_supported(const SermEncoderConfig *config, SermError *error);

/*
 * The flat vector of stored tensors (f32, f16, bf16). Errors: CORRUPT names a tensor that is missing or
 * misshapen; MEMORY, CANCELED.
 */
extern SermStatus serm_encoder_flatten(const SermEncoderConfig *config, const SermTensorSet *tensors,
    const SermWatch *watch, SermArena *arena, SermReal **flat, SermError *error);
/* The way back, in f32. Errors: MEMORY, CANCELED. */
extern SermStatus serm_encoder_unflatten(const SermEncoderConfig *config, const SermReal *flat,
    const SermWatch *watch, SermArena *arena, SermTensorSet *tensors, SermError *error);

#endif
