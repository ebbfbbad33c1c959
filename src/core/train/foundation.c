#include "core/train/foundation.h"

#include <math.h>

#include "core/base/hash.h"
#include "core/train/failure.h"
#include "core/train/kin.h"
#include "core/train/order.h"
#include "core/train/pretrain.h"

#define PRETRAIN_STREAM UINT64_C(0x70726574)
/* Batches that pre-training takes at least, within these bounds of epochs (doc/training.md). */
#define PRETRAIN_STEPS 640
#define PRETRAIN_EPOCHS_MIN 10
#define PRETRAIN_EPOCHS_MAX 30

static uint32_t
choose_epochs(size_t documents)
{
	size_t batches = (documents + SERM_PRETRAIN_BATCH - 1) / SERM_PRETRAIN_BATCH;
	size_t epochs = batches > 0 ? (PRETRAIN_STEPS + batches - 1) / batches : 0;

	return epochs < PRETRAIN_EPOCHS_MIN   ? PRETRAIN_EPOCHS_MIN
	       : epochs > PRETRAIN_EPOCHS_MAX ? PRETRAIN_EPOCHS_MAX
	                                      : (uint32_t) epochs;
}

/* Pre-train in float, keep int8: features are computed from what will be served. */
static SermStatus
learn_embeddings(SermFoundation *base, uint64_t seed, uint32_t epochs, const SermTrainHost *host,
    SermArena *arena, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	size_t values = (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH;
	float *table = serm_arena_array(arena, values, sizeof(*table));
	SermStatus status;

	if (table == NULL)
		return serm_train_out_of_memory(error);
	if (epochs == SERM_PRETRAIN_EPOCHS_AUTO)
		epochs = choose_epochs(base->corpus_count);
	status = serm_pretrain(base->corpus, base->corpus_count, &base->statistics,
	    serm_hash_mix(seed ^ PRETRAIN_STREAM), epochs, host, arena, table, error);
	if (status != SERM_OK)
		return status;
	for (size_t i = 0; i < values; i++)
		if (!isfinite(table[i]))
			return serm_fail(error, SERM_ERR_DIVERGED, "pre-training diverged: a weight is not finite");
	for (size_t row = 0; row < SERM_EMBEDDING_ROWS; row++)
		serm_embedding_quantise(table + row * SERM_EMBEDDING_WIDTH,
		    base->embedding_rows + row * SERM_EMBEDDING_WIDTH, &base->embedding_scale[row]);
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}

bool
serm_foundation_allocate(SermFoundation *base, SermArena *arena)
{
	base->embedding_rows = serm_arena_array(arena, SERM_EMBEDDING_ROWS, SERM_EMBEDDING_WIDTH);
	base->embedding_scale = serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float));
	return base->embedding_rows != NULL && base->embedding_scale != NULL;
}

SermStatus
serm_foundation_lay(const SermText *docs, size_t count, uint64_t seed, uint32_t pretrain_epochs,
    const SermTrainHost *host, SermArena *arena, SermFoundation *base, SermError *error)
{
	SermStatus status;

	if (!serm_foundation_allocate(base, arena))
		return serm_train_out_of_memory(error);
	status = serm_order_documents(docs, count, host, arena, &base->corpus, &base->corpus_count, error);
	if (status == SERM_OK)
		status = serm_statistics_count(base->corpus, base->corpus_count, arena, host->keep_going,
		    host->context, &base->statistics, error);
	if (status == SERM_OK)
		status = serm_kin_learn(base->corpus, base->corpus_count, host, arena, &base->statistics, error);
	if (status != SERM_OK)
		return status;
	if (host->progress != NULL)
		host->progress(host->context, &(SermTrainProgress){.phase = "statistics", .step = 1, .steps = 1});
	return learn_embeddings(base, seed, pretrain_epochs, host, arena, error);
}
