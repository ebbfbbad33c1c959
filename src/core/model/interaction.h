/*
 * What a stored `interaction` model consists of, shared by the trainer that
 * writes it and the reader that serves it, so that both run the same code
 * from raw features to the input of the heads (S10, S14 in doc/model.md).
 */
#ifndef SERM_CORE_MODEL_INTERACTION_H
#define SERM_CORE_MODEL_INTERACTION_H

#include "core/base/real.h"
#include "core/model/features.h"
#include "core/model/heads.h"
#include "core/model/model.h"

#define SERM_KIND_INTERACTION "interaction"

/* Tensors by name; V words, K heads, G grades. */
#define SERM_TENSOR_EMBEDDING_ROWS "embedding.rows"   /* i8 [SERM_EMBEDDING_ROWS][SERM_EMBEDDING_WIDTH] */
#define SERM_TENSOR_EMBEDDING_SCALE "embedding.scale" /* f32 [SERM_EMBEDDING_ROWS] */
#define SERM_TENSOR_VOCABULARY_ID "vocabulary.id"     /* u32 [V], ascending, unique; V may be 0 */
#define SERM_TENSOR_VOCABULARY_DF "vocabulary.df"     /* u32 [V] */
#define SERM_TENSOR_VOCABULARY_SUPPORT                                                                       \
	"vocabulary.support"                 /* u8 [V], optional: SermStatistics.word_support */
#define SERM_TENSOR_KIN "vocabulary.kin" /* u32 [V], optional, with the next one: SermStatistics.word_kin */
#define SERM_TENSOR_KIN_DF "vocabulary.kin_df" /* u32 [V] */
#define SERM_TENSOR_TRIGRAM_ID "trigram.id"    /* u32 [T], as the words; optional, with the next one */
#define SERM_TENSOR_TRIGRAM_DF "trigram.df"    /* u32 [T] */
#define SERM_TENSOR_STATISTICS                                                                               \
	"statistics" /* f64 [5]: documents, title, body, joined length, spelled share; or 4 */
#define SERM_TENSOR_SCRIPTS                                                                                  \
	"statistics.script"                           /* f64 [SERM_SCRIPTS][5]: SermStatistics.scripts; optional \
	                                               */
#define SERM_TENSOR_SCALE_MEAN "scale.mean"       /* f32 [SERM_FEATURES] */
#define SERM_TENSOR_SCALE_INVERSE "scale.inverse" /* f32 [SERM_FEATURES]; 0 masks the feature */
#define SERM_TENSOR_HEADS_W1 "heads.w1"           /* f32 [K][SERM_HIDDEN1][SERM_FEATURES] */
#define SERM_TENSOR_HEADS_B1 "heads.b1"           /* f32 [K][SERM_HIDDEN1] */
#define SERM_TENSOR_HEADS_W2 "heads.w2"           /* f32 [K][SERM_HIDDEN2][SERM_HIDDEN1] */
#define SERM_TENSOR_HEADS_B2 "heads.b2"           /* f32 [K][SERM_HIDDEN2] */
#define SERM_TENSOR_HEADS_W3 "heads.w3"           /* f32 [K][G][SERM_HIDDEN2] */
#define SERM_TENSOR_HEADS_B3 "heads.b3"           /* f32 [K][G] */
#define SERM_TENSOR_CUTS "cuts"                   /* f32 [G - 1], ascending */
#define SERM_TENSOR_GUARD "guard"                 /* f32 [SERM_GUARD_COUNT], the fields of SermGuard */
#define SERM_TENSOR_TEMPERATURE "temperature"     /* f32 [1] > 0, optional: SermHeads.temperature */

#define SERM_STATISTICS_COUNT 5
/* Without the share of words that are spelled. */
#define SERM_STATISTICS_COUNT_MIN 4
#define SERM_GUARD_COUNT 6
#define SERM_INPUT_CLIP 4.0f
/* No weight may be larger: trained ones are below 100; products of three layers of these stay below 1e30. */
#define SERM_INTERACTION_NUMBER_MAX 1e6

/* In the order in which they are stored. */
typedef struct SermGuard {
	float slope;
	float lexical_mean;
	float lexical_inverse;
	float dot_mean;
	float dot_inverse;
	float dot_share;
} SermGuard;

/* What an opened model consists of: views into its tensors. */
typedef struct SermInteractionParts {
	SermStatistics statistics;
	SermEmbedding embedding;
	SermHeads heads;
	SermGuard guard;
	const float *mean;    /* [SERM_FEATURES] */
	const float *inverse; /* [SERM_FEATURES] */
} SermInteractionParts;

/* The parts of an opened model; false when it is of another kind. */
extern bool serm_interaction_parts(const SermModel *model, SermInteractionParts *parts);

/*
 * The tensors of a version with these parts, which they point into; small ones and the list are in `arena`.
 * MEMORY when it refuses.
 */
extern SermStatus serm_interaction_write(
    const SermInteractionParts *parts, SermArena *arena, SermTensorSet *tensors, SermError *error);

/* input[i] = clip((value[i] - mean[i]) * inverse[i], -4, 4), [SERM_FEATURES]; a masked feature gives 0. */
extern void serm_interaction_input(
    const float *mean, const float *inverse, const SermFeatures *features, SermReal *input);

/*
 * s0: z(lexical) + dot_share * z(dot), bent into (-SERM_INPUT_CLIP, SERM_INPUT_CLIP) without losing its
 * order: the order without any label.
 */
extern float serm_interaction_s0(const SermGuard *guard, const SermFeatures *features);

/* slope * s0: what serm_heads_predict() takes as `guard`. */
extern float serm_interaction_guard(const SermGuard *guard, const SermFeatures *features);

#endif
