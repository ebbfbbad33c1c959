/*
 * What every version stands on and no label is needed for: statistics of the
 * corpus (S4) and embeddings learned from it (S8), in the form that serves; and
 * the tensors of a version, in the form that is stored.
 */
#ifndef SERM_CORE_TRAIN_FOUNDATION_H
#define SERM_CORE_TRAIN_FOUNDATION_H

#include "core/model/heads.h"
#include "core/model/interaction.h"
#include "core/train/train.h"

typedef struct SermFoundation {
	SermText *corpus; /* distinct, in canonical order */
	size_t corpus_count;
	SermStatistics statistics;
	int8_t *embedding_rows; /* [SERM_EMBEDDING_ROWS][SERM_EMBEDDING_WIDTH] */
	float *embedding_scale; /* [SERM_EMBEDDING_ROWS] */
} SermFoundation;

/* From documents in any order. Everything lies in `arena`. Errors: CANCELED, MEMORY, DIVERGED. */
extern SermStatus serm_foundation_lay(const SermText *docs, size_t count, uint64_t seed,
    uint32_t pretrain_epochs, const SermTrainHost *host, SermArena *arena, SermFoundation *base,
    SermError *error);

/* The parts of an interaction model. */
typedef struct SermTrained {
	const SermFoundation *base;
	const float *scale_mean;    /* [SERM_FEATURES] */
	const float *scale_inverse; /* [SERM_FEATURES] */
	const SermGuard *guard;
	const SermHeads *heads;
	const SermReal *cuts; /* [grade_count - 1] */
} SermTrained;

/* Name the parts as tensors, which point into them; `tensors` lies in `arena`. */
extern SermStatus serm_tensors_write(
    const SermTrained *trained, SermArena *arena, SermTensorSet *tensors, SermError *error);

#endif
