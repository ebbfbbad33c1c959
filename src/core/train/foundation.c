#include "core/train/foundation.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/train/failure.h"
#include "core/train/order.h"
#include "core/train/pretrain.h"

#define PRETRAIN_STREAM UINT64_C(0x70726574)
#define TENSORS_MAX 20

/* Heads and cut points are stored as they are computed: the double build tests them so. */
#ifdef SERM_REAL_DOUBLE
#define DTYPE_REAL SERM_DTYPE_F64
#else
#define DTYPE_REAL SERM_DTYPE_F32
#endif

static_assert(sizeof(SermGuard) == SERM_GUARD_COUNT * sizeof(float), "SermGuard is stored as it lies");

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

SermStatus
serm_foundation_lay(const SermText *docs, size_t count, uint64_t seed, uint32_t pretrain_epochs,
    const SermTrainHost *host, SermArena *arena, SermFoundation *base, SermError *error)
{
	SermStatus status;

	base->embedding_rows = serm_arena_array(arena, SERM_EMBEDDING_ROWS, SERM_EMBEDDING_WIDTH);
	base->embedding_scale = serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float));
	if (base->embedding_rows == NULL || base->embedding_scale == NULL)
		return serm_train_out_of_memory(error);
	status = serm_order_documents(docs, count, host, arena, &base->corpus, &base->corpus_count, error);
	if (status == SERM_OK)
		status = serm_statistics_count(base->corpus, base->corpus_count, arena, host->keep_going,
		    host->context, &base->statistics, error);
	if (status != SERM_OK)
		return status;
	if (host->progress != NULL)
		host->progress(host->context, &(SermTrainProgress){.phase = "statistics", .step = 1, .steps = 1});
	return learn_embeddings(base, seed, pretrain_epochs, host, arena, error);
}

typedef struct TensorList {
	SermTensor *tensors;
	size_t count;
	bool failed;
} TensorList;

static void
add_tensor(TensorList *list, const char *name, SermDtype dtype, const void *data, uint32_t rank,
    uint64_t first, uint64_t second, uint64_t third)
{
	SermTensor *tensor = &list->tensors[list->count++];

	SERM_ASSERT(list->count <= TENSORS_MAX && strlen(name) < sizeof(tensor->name));
	memcpy(tensor->name, name, strlen(name) + 1);
	tensor->dtype = dtype;
	tensor->rank = rank;
	tensor->shape[0] = first;
	tensor->shape[1] = rank > 1 ? second : 0;
	tensor->shape[2] = rank > 2 ? third : 0;
	tensor->data = data;
	if (!serm_tensor_bytes(dtype, rank, tensor->shape, &tensor->bytes))
		list->failed = true;
}

SermStatus
serm_tensors_write(const SermTrained *trained, SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	const SermFoundation *base = trained->base;
	const SermStatistics *statistics = &base->statistics;
	const SermHeads *heads = trained->heads;
	uint64_t k = heads->head_count, grades = heads->grade_count, words = statistics->word_count;
	uint64_t trigrams = statistics->trigram_count;
	TensorList list = {0};
	double *counts = serm_arena_array(arena, SERM_STATISTICS_COUNT, sizeof(*counts));
	float *temperature = serm_arena_alloc(arena, sizeof(*temperature));

	list.tensors = serm_arena_array(arena, TENSORS_MAX, sizeof(*list.tensors));
	if (counts == NULL || temperature == NULL || list.tensors == NULL)
		return serm_train_out_of_memory(error);
	counts[0] = statistics->document_count;
	counts[1] = statistics->title_length;
	counts[2] = statistics->body_length;
	counts[3] = statistics->joined_length;
	add_tensor(&list, SERM_TENSOR_EMBEDDING_ROWS, SERM_DTYPE_I8, base->embedding_rows, 2, SERM_EMBEDDING_ROWS,
	    SERM_EMBEDDING_WIDTH, 0);
	add_tensor(&list, SERM_TENSOR_EMBEDDING_SCALE, SERM_DTYPE_F32, base->embedding_scale, 1,
	    SERM_EMBEDDING_ROWS, 0, 0);
	add_tensor(&list, SERM_TENSOR_VOCABULARY_ID, SERM_DTYPE_U32, statistics->word_id, 1, words, 0, 0);
	add_tensor(&list, SERM_TENSOR_VOCABULARY_DF, SERM_DTYPE_U32, statistics->word_df, 1, words, 0, 0);
	add_tensor(&list, SERM_TENSOR_TRIGRAM_ID, SERM_DTYPE_U32, statistics->trigram_id, 1, trigrams, 0, 0);
	add_tensor(&list, SERM_TENSOR_TRIGRAM_DF, SERM_DTYPE_U32, statistics->trigram_df, 1, trigrams, 0, 0);
	add_tensor(&list, SERM_TENSOR_STATISTICS, SERM_DTYPE_F64, counts, 1, SERM_STATISTICS_COUNT, 0, 0);
	add_tensor(&list, SERM_TENSOR_SCALE_MEAN, SERM_DTYPE_F32, trained->scale_mean, 1, SERM_FEATURES, 0, 0);
	add_tensor(
	    &list, SERM_TENSOR_SCALE_INVERSE, SERM_DTYPE_F32, trained->scale_inverse, 1, SERM_FEATURES, 0, 0);
	add_tensor(&list, SERM_TENSOR_HEADS_W1, DTYPE_REAL, heads->w1, 3, k, SERM_HIDDEN1, SERM_FEATURES);
	add_tensor(&list, SERM_TENSOR_HEADS_B1, DTYPE_REAL, heads->b1, 2, k, SERM_HIDDEN1, 1);
	add_tensor(&list, SERM_TENSOR_HEADS_W2, DTYPE_REAL, heads->w2, 3, k, SERM_HIDDEN2, SERM_HIDDEN1);
	add_tensor(&list, SERM_TENSOR_HEADS_B2, DTYPE_REAL, heads->b2, 2, k, SERM_HIDDEN2, 1);
	add_tensor(&list, SERM_TENSOR_HEADS_W3, DTYPE_REAL, heads->w3, 3, k, grades, SERM_HIDDEN2);
	add_tensor(&list, SERM_TENSOR_HEADS_B3, DTYPE_REAL, heads->b3, 2, k, grades, 1);
	add_tensor(&list, SERM_TENSOR_CUTS, DTYPE_REAL, trained->cuts, 1, grades - 1, 0, 0);
	add_tensor(&list, SERM_TENSOR_GUARD, SERM_DTYPE_F32, trained->guard, 1, SERM_GUARD_COUNT, 0, 0);
	*temperature = heads->temperature;
	if (*temperature > 0)
		add_tensor(&list, SERM_TENSOR_TEMPERATURE, SERM_DTYPE_F32, temperature, 1, 1, 0, 0);
	if (list.failed)
		return serm_train_out_of_memory(error);
	*tensors = (SermTensorSet){list.tensors, list.count};
	return SERM_OK;
}
