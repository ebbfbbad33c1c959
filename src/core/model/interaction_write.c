/*
 * The tensors of an interaction model, as interaction.c opens them.
 */
#include <string.h>

#include "core/model/interaction.h"

#define TENSORS_MAX 23

/* Heads and cut points are stored as they are computed: the double build tests them so. */
#ifdef SERM_REAL_DOUBLE
#define DTYPE_REAL SERM_DTYPE_F64
#else
#define DTYPE_REAL SERM_DTYPE_F32
#endif

static_assert(sizeof(SermScriptStatistics) == SERM_STATISTICS_COUNT * sizeof(double),
    "SermScriptStatistics are stored as they lie");
static_assert(sizeof(SermGuard) == SERM_GUARD_COUNT * sizeof(float), "SermGuard is stored as it lies");

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
serm_interaction_write(
    const SermInteractionParts *parts, SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	const SermStatistics *statistics = &parts->statistics;
	const SermHeads *heads = &parts->heads;
	uint64_t k = heads->head_count, grades = heads->grade_count, words = statistics->word_count;
	uint64_t trigrams = statistics->trigram_count;
	TensorList list = {.tensors = serm_arena_array(arena, TENSORS_MAX, sizeof(SermTensor))};
	double *counts = serm_arena_array(arena, SERM_STATISTICS_COUNT, sizeof(*counts));
	float *temperature = serm_arena_alloc(arena, sizeof(*temperature));
	SermGuard *guard = serm_arena_alloc(arena, sizeof(*guard));

	if (list.tensors == NULL || counts == NULL || temperature == NULL || guard == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while writing a model");
	counts[0] = statistics->document_count;
	counts[1] = statistics->title_length;
	counts[2] = statistics->body_length;
	counts[3] = statistics->joined_length;
	counts[4] = statistics->spelled_share;
	*temperature = heads->temperature;
	*guard = parts->guard;
	add_tensor(&list, SERM_TENSOR_EMBEDDING_ROWS, SERM_DTYPE_I8, parts->embedding.rows, 2,
	    SERM_EMBEDDING_ROWS, SERM_EMBEDDING_WIDTH, 0);
	add_tensor(&list, SERM_TENSOR_EMBEDDING_SCALE, SERM_DTYPE_F32, parts->embedding.scale, 1,
	    SERM_EMBEDDING_ROWS, 0, 0);
	add_tensor(&list, SERM_TENSOR_VOCABULARY_ID, SERM_DTYPE_U32, statistics->word_id, 1, words, 0, 0);
	add_tensor(&list, SERM_TENSOR_VOCABULARY_DF, SERM_DTYPE_U32, statistics->word_df, 1, words, 0, 0);
	if (statistics->word_support != NULL)
		add_tensor(
		    &list, SERM_TENSOR_VOCABULARY_SUPPORT, SERM_DTYPE_U8, statistics->word_support, 1, words, 0, 0);
	if (statistics->word_kin != NULL) {
		add_tensor(&list, SERM_TENSOR_KIN, SERM_DTYPE_U32, statistics->word_kin, 1, words, 0, 0);
		add_tensor(&list, SERM_TENSOR_KIN_DF, SERM_DTYPE_U32, statistics->kin_df, 1, words, 0, 0);
	}
	add_tensor(&list, SERM_TENSOR_TRIGRAM_ID, SERM_DTYPE_U32, statistics->trigram_id, 1, trigrams, 0, 0);
	add_tensor(&list, SERM_TENSOR_TRIGRAM_DF, SERM_DTYPE_U32, statistics->trigram_df, 1, trigrams, 0, 0);
	add_tensor(&list, SERM_TENSOR_STATISTICS, SERM_DTYPE_F64, counts, 1,
	    statistics->spelled_share > 0 ? SERM_STATISTICS_COUNT : SERM_STATISTICS_COUNT_MIN, 0, 0);
	if (statistics->scripts != NULL)
		add_tensor(&list, SERM_TENSOR_SCRIPTS, SERM_DTYPE_F64, statistics->scripts, 2, SERM_SCRIPTS,
		    SERM_STATISTICS_COUNT, 0);
	add_tensor(&list, SERM_TENSOR_SCALE_MEAN, SERM_DTYPE_F32, parts->mean, 1, SERM_FEATURES, 0, 0);
	add_tensor(&list, SERM_TENSOR_SCALE_INVERSE, SERM_DTYPE_F32, parts->inverse, 1, SERM_FEATURES, 0, 0);
	add_tensor(&list, SERM_TENSOR_HEADS_W1, DTYPE_REAL, heads->w1, 3, k, SERM_HIDDEN1, SERM_FEATURES);
	add_tensor(&list, SERM_TENSOR_HEADS_B1, DTYPE_REAL, heads->b1, 2, k, SERM_HIDDEN1, 1);
	add_tensor(&list, SERM_TENSOR_HEADS_W2, DTYPE_REAL, heads->w2, 3, k, SERM_HIDDEN2, SERM_HIDDEN1);
	add_tensor(&list, SERM_TENSOR_HEADS_B2, DTYPE_REAL, heads->b2, 2, k, SERM_HIDDEN2, 1);
	add_tensor(&list, SERM_TENSOR_HEADS_W3, DTYPE_REAL, heads->w3, 3, k, grades, SERM_HIDDEN2);
	add_tensor(&list, SERM_TENSOR_HEADS_B3, DTYPE_REAL, heads->b3, 2, k, grades, 1);
	add_tensor(&list, SERM_TENSOR_CUTS, DTYPE_REAL, heads->cuts, 1, grades - 1, 0, 0);
	add_tensor(&list, SERM_TENSOR_GUARD, SERM_DTYPE_F32, guard, 1, SERM_GUARD_COUNT, 0, 0);
	if (*temperature > 0)
		add_tensor(&list, SERM_TENSOR_TEMPERATURE, SERM_DTYPE_F32, temperature, 1, 1, 0, 0);
	if (list.failed)
		return serm_fail(error, SERM_ERR_LIMIT, "a model of so many words cannot be written");
	*tensors = (SermTensorSet){list.tensors, list.count};
	return SERM_OK;
}
