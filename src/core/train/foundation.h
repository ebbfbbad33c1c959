/*
 * What every version stands on and no label is needed for: statistics of the
 * corpus (S4) and embeddings learned from it (S8), in the form that serves.
 */
#ifndef SERM_CORE_TRAIN_FOUNDATION_H
#define SERM_CORE_TRAIN_FOUNDATION_H

#include "core/model/features.h"
#include "core/train/train.h"

typedef struct SermFoundation {
	SermText *corpus; /* distinct, in canonical order */
	size_t corpus_count;
	SermStatistics statistics;
	int8_t *embedding_rows; /* [SERM_EMBEDDING_ROWS][SERM_EMBEDDING_WIDTH] */
	float *embedding_scale; /* [SERM_EMBEDDING_ROWS] */
} SermFoundation;

/* Room for the embeddings; false when `arena` refuses. */
extern bool serm_foundation_allocate(SermFoundation *base, SermArena *arena);

/* From documents in any order. Everything lies in `arena`. Errors: CANCELED, MEMORY, DIVERGED. */
extern SermStatus serm_foundation_lay(const SermText *docs, size_t count, uint64_t seed,
    uint32_t pretrain_epochs, const SermTrainHost *host, SermArena *arena, SermFoundation *base,
    SermError *error);

#endif
