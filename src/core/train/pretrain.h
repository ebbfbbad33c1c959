/*
 * Embeddings without labels (S7, S8 in doc/model.md): a few words of a
 * document's title must find the rest of the same document among the others
 * of a batch. Row-wise Adagrad on the hashed table, touched rows only.
 */
#ifndef SERM_CORE_TRAIN_PRETRAIN_H
#define SERM_CORE_TRAIN_PRETRAIN_H

#include "core/model/features.h"
#include "core/train/train.h"

/* More documents than this add time but no measurable gain; the first ones are taken. */
#define SERM_PRETRAIN_DOCUMENTS_MAX 250000
#define SERM_PRETRAIN_BATCH 128

/* Fill `table` [SERM_EMBEDDING_ROWS][SERM_EMBEDDING_WIDTH]; `statistics` must cover `docs`. */
extern SermStatus serm_pretrain(const SermText *docs, size_t count, const SermStatistics *statistics,
    uint64_t seed, uint32_t epochs, const SermTrainHost *host, SermArena *arena, float *table,
    SermError *error);

/*
 * The loss of one batch. `queries` and `rests` [n][SERM_EMBEDDING_WIDTH] are sums of word vectors; both are
 * brought to unit length, each query's own rest is its right answer among all n: mean softmax cross-entropy
 * of the cosines over the temperature. Overwrites both derivatives; `similarity` [n][n] is working space, and
 * so are the unit vectors.
 */
typedef struct SermContrast {
	uint32_t n;
	SermReal *queries;
	SermReal *rests;
	SermReal *d_queries;
	SermReal *d_rests;
	SermReal *unit_queries;
	SermReal *unit_rests;
	SermReal *similarity;
} SermContrast;

extern double serm_contrast_loss(const SermContrast *contrast, SermGemm gemm);

#endif
