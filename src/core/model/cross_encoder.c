#include "core/model/cross_encoder.h"

#include <stdio.h>
#include <string.h>

#include "core/base/watch.h"
#include "core/model/cross_encoder_parts.h"
#include "core/model/cross_encoder_stored.h"

#define LAYOUT_NAME_MAX 64

typedef struct CrossBatch {
	SermBatch batch;
	SermArena *arena;
	SermArenaMark start; /* of the first pair */
	SermCrossPair pairs[SERM_BATCH_ROWS];
} CrossBatch;

static SermStatus
no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "the cross-encoder does not fit into its memory limit");
}

/* --- opening */

bool
serm_cross_encoder_stored(const SermTensorSet *tensors)
{
	return serm_tensor_find(tensors, SERM_ENCODER_CONFIG_TENSOR) != NULL &&
	       serm_tensor_find(tensors, SERM_ENCODER_TOKENIZER_TENSOR) != NULL &&
	       serm_tensor_find(tensors, SERM_TENSOR_ENCODER_PLAIN) == NULL;
}

#ifdef SERM_REAL_DOUBLE
#define REAL_DTYPE SERM_DTYPE_F64
#else
#define REAL_DTYPE SERM_DTYPE_F32
#endif

static SermTensor
vector_tensor(const char *name, SermDtype dtype, size_t count, const void *data)
{
	SermTensor tensor = {
	    .dtype = dtype, .rank = 1, .shape = {count}, .data = data, .bytes = count * serm_dtype_size(dtype)};

	memcpy(tensor.name, name, strlen(name) + 1);
	return tensor;
}

static bool
copy_tensor(const SermTensorSet *tensors, const char *name, SermArena *arena, SermTensor *copy)
{
	const SermTensor *tensor = serm_tensor_find(tensors, name);
	void *data = serm_arena_reserve(arena, tensor->bytes);

	if (data == NULL)
		return false;
	memcpy(data, tensor->data, tensor->bytes);
	*copy = *tensor;
	copy->data = data;
	return true;
}

/* The text of "encoder.layout"; returns its length. */
static size_t
layout_name(const SermModelSettings *settings, char *name)
{
	return (size_t) snprintf(name, LAYOUT_NAME_MAX, "%s %s", serm_precision_name(settings->precision),
	    settings->gemm == NULL ? serm_gemm_packed.name : settings->gemm->name);
}

SermStatus
serm_cross_encoder_prepare(const SermTensorSet *tensors, const SermModelSettings *settings,
    const SermEncoderHost *host, SermArena *arena, SermTensorSet *prepared, SermError *error)
{
	const SermTokenizer *tokenizer;
	SermEncoderConfig config;
	SermReal *flat;
	SermTensor *list;
	size_t bytes;
	void *packed;
	char *name;
	SermStatus status = serm_encoder_stored_open(tensors, host, arena, &config, &tokenizer, error);

	if (status == SERM_OK)
		status = serm_encoder_flatten(&config, tensors, host, arena, &flat, error);
	if (status != SERM_OK)
		return status;
	bytes = serm_encoder_packed_bytes(&config, settings->precision, settings->gemm);
	packed = serm_arena_reserve(arena, bytes);
	list = serm_arena_array(arena, 5, sizeof(*list));
	name = serm_arena_alloc(arena, LAYOUT_NAME_MAX);
	if (packed == NULL || list == NULL || name == NULL)
		return no_memory(error);
	/* Also what lies between two linears is written to a file. */
	if (!serm_watch_clear(host, packed, bytes) ||
	    !serm_encoder_pack(&config, settings->precision, settings->gemm, flat, packed, host))
		return serm_fail(error, SERM_ERR_CANCELED, "laying out the encoder's weights was canceled");
	if (!copy_tensor(tensors, SERM_ENCODER_CONFIG_TENSOR, arena, &list[0]) ||
	    !copy_tensor(tensors, SERM_ENCODER_TOKENIZER_TENSOR, arena, &list[1]))
		return no_memory(error);
	list[2] =
	    vector_tensor(SERM_TENSOR_ENCODER_PLAIN, REAL_DTYPE, serm_encoder_layout(&config).plain_count, flat);
	list[3] = vector_tensor(SERM_TENSOR_ENCODER_PACKED, SERM_DTYPE_U8, bytes, packed);
	list[4] = vector_tensor(SERM_TENSOR_ENCODER_LAYOUT, SERM_DTYPE_U8, layout_name(settings, name), name);
	*prepared = (SermTensorSet){list, 5};
	return SERM_OK;
}

/* Config and tokenizer of prepared tensors, whose weights were verified when they were prepared. */
static SermStatus
open_described(const SermTensorSet *tensors, SermArena *arena, SermEncoderConfig *config,
    const SermTokenizer **tokenizer, SermError *error)
{
	const SermTensor *json = serm_tensor_find(tensors, SERM_ENCODER_CONFIG_TENSOR);
	const SermTensor *tables = serm_tensor_find(tensors, SERM_ENCODER_TOKENIZER_TENSOR);
	SermStatus status;

	if (json == NULL || tables == NULL)
		return serm_fail(error, SERM_ERR_CORRUPT, "a cross-encoder lacks its config or its tokenizer");
	status = serm_encoder_config_read(json->data, json->bytes, arena, config, error);
	if (status == SERM_OK)
		status = serm_tokenizer_open(tables->data, tables->bytes, arena, tokenizer, error);
	return status == SERM_OK ? serm_encoder_fits(config, *tokenizer, error) : status;
}

/* Are these weights laid out as the settings say? */
static SermStatus
check_layout(const SermTensorSet *tensors, const SermModelSettings *settings, SermError *error)
{
	char wanted[LAYOUT_NAME_MAX];
	size_t length = layout_name(settings, wanted);
	const SermTensor *name;
	SermStatus status = serm_tensor_require(
	    tensors, SERM_TENSOR_ENCODER_LAYOUT, SERM_DTYPE_U8, 1, &(uint64_t){0}, &name, error);

	if (status == SERM_OK && (name->bytes != length || memcmp(name->data, wanted, length) != 0))
		return serm_fail(error, SERM_ERR_CORRUPT, "the weights are not laid out for %s", wanted);
	return status;
}

static SermStatus
open_encoder(const SermTensorSet *prepared, SermCrossEncoder *opened, SermArena *arena, SermError *error)
{
	const SermModelSettings *settings = &opened->settings;
	const SermTensor *plain, *packed;
	SermEncoderConfig config;
	SermStatus status = open_described(prepared, arena, &config, &opened->tokenizer, error);

	if (status == SERM_OK)
		status = serm_encoder_supported(&config, error);
	if (status == SERM_OK)
		status = check_layout(prepared, settings, error);
	if (status == SERM_OK)
		status = serm_tensor_require(prepared, SERM_TENSOR_ENCODER_PLAIN, REAL_DTYPE, 1,
		    &(uint64_t){serm_encoder_layout(&config).plain_count}, &plain, error);
	if (status == SERM_OK)
		status = serm_tensor_require(prepared, SERM_TENSOR_ENCODER_PACKED, SERM_DTYPE_U8, 1,
		    &(uint64_t){serm_encoder_packed_bytes(&config, settings->precision, settings->gemm)}, &packed,
		    error);
	if (status == SERM_OK)
		status = serm_encoder_open(&config, settings->precision, settings->gemm, plain->data, packed->data,
		    arena, &opened->encoder, error);
	if (status == SERM_OK)
		opened->tokens_max = serm_encoder_stored_tokens_max(&config, opened->tokenizer);
	return status;
}

static SermStatus
cross_open(const SermTensorSet *tensors, const SermModelSettings *settings, SermArena *arena,
    SermModel **model, SermError *error)
{
	SermCrossEncoder *opened = serm_arena_alloc(arena, sizeof(*opened));
	SermTensorSet prepared = *tensors;
	SermStatus status = SERM_OK;
	uint32_t labels;

	if (opened == NULL)
		return no_memory(error);
	opened->settings = *settings;
	opened->settings.watch = NULL;
	if (serm_cross_encoder_stored(tensors))
		status = serm_cross_encoder_prepare(tensors, settings, settings->watch, arena, &prepared, error);
	if (status == SERM_OK)
		status = open_encoder(&prepared, opened, arena, error);
	if (status != SERM_OK)
		return status;
	labels = opened->encoder->config.labels;
	opened->model.grade_count = labels == 1 ? 2 : labels;
	*model = &opened->model;
	return SERM_OK;
}

/* --- scoring */

static SermStatus
cross_parse_query(
    const SermModel *model, SermText query, SermArena *arena, SermQuery **parsed, SermError *error)
{
	const SermCrossEncoder *opened = (const SermCrossEncoder *) model;
	SermCrossQuery *result = serm_arena_alloc(arena, sizeof(*result));
	SermStatus status;

	if (result == NULL)
		return no_memory(error);
	status = serm_tokenizer_encode(
	    opened->tokenizer, query, opened->tokens_max, arena, &result->ids, &result->count, error);
	if (status == SERM_OK)
		*parsed = &result->query;
	return status;
}

static SermStatus
read_text(const SermCrossEncoder *opened, const SermQuery *query, SermText doc, SermArena *arena,
    SermCrossPair *pair, SermError *error)
{
	const SermCrossQuery *read = (const SermCrossQuery *) query;
	const uint32_t *ids;
	uint32_t count;
	SermStatus status = serm_tokenizer_encode(
	    opened->tokenizer, doc, serm_cross_wanted(opened, read), arena, &ids, &count, error);

	return status == SERM_OK ? serm_cross_read(opened, read, ids, count, arena, pair, NULL, error) : status;
}

static SermStatus
read_tokens(const SermCrossEncoder *opened, const SermQuery *query, const SermTokenDocument *doc,
    SermArena *arena, SermCrossPair *pair, SermError *error)
{
	SermStatus status = serm_cross_check(opened, doc, error);

	return status == SERM_OK ? serm_cross_read(opened, (const SermCrossQuery *) query, doc->ids, doc->count,
	                               arena, pair, NULL, error)
	                         : status;
}

static SermStatus
cross_predict(const SermModel *model, const SermQuery *query, SermText doc, SermArena *scratch,
    SermPrediction *prediction, SermError *error)
{
	const SermCrossEncoder *opened = (const SermCrossEncoder *) model;
	SermArenaMark mark = serm_arena_mark(scratch);
	SermCrossPair pair;
	SermStatus status = read_text(opened, query, doc, scratch, &pair, error);

	if (status == SERM_OK)
		status = serm_cross_score(opened, &pair, 1, scratch, prediction, error);
	serm_arena_rewind(scratch, mark);
	return status;
}

static SermStatus
cross_predict_tokens(const SermModel *model, const SermQuery *query, const SermTokenDocument *doc,
    SermArena *scratch, SermPrediction *prediction, SermError *error)
{
	const SermCrossEncoder *opened = (const SermCrossEncoder *) model;
	SermArenaMark mark = serm_arena_mark(scratch);
	SermCrossPair pair;
	SermStatus status = read_tokens(opened, query, doc, scratch, &pair, error);

	if (status == SERM_OK)
		status = serm_cross_score(opened, &pair, 1, scratch, prediction, error);
	serm_arena_rewind(scratch, mark);
	return status;
}

static SermStatus
cross_encode(
    const SermModel *model, SermText text, SermArena *arena, SermTokenDocument *doc, SermError *error)
{
	return serm_token_document_parse(((const SermCrossEncoder *) model)->tokenizer, text, arena, doc, error);
}

static SermBatch *
cross_batch(SermArena *arena)
{
	CrossBatch *batch = serm_arena_alloc(arena, sizeof(*batch));

	if (batch == NULL)
		return NULL;
	batch->arena = arena;
	batch->start = serm_arena_mark(arena);
	return &batch->batch;
}

/* Where the inputs of the pair that is added next begin. */
static SermCrossPair *
next_pair(SermBatch *batch)
{
	CrossBatch *pairs = (CrossBatch *) batch;

	if (batch->count == 0)
		serm_arena_rewind(pairs->arena, pairs->start);
	return &pairs->pairs[batch->count];
}

static SermStatus
cross_batch_add_text(SermBatch *batch, const SermQuery *query, SermText doc, SermError *error)
{
	SermCrossPair *pair = next_pair(batch);

	return read_text(
	    (const SermCrossEncoder *) batch->model, query, doc, ((CrossBatch *) batch)->arena, pair, error);
}

static SermStatus
cross_batch_add_tokens(
    SermBatch *batch, const SermQuery *query, const SermTokenDocument *doc, SermError *error)
{
	SermCrossPair *pair = next_pair(batch);

	return read_tokens(
	    (const SermCrossEncoder *) batch->model, query, doc, ((CrossBatch *) batch)->arena, pair, error);
}

static SermStatus
cross_batch_run(const SermBatch *batch, SermPrediction *predictions, SermError *error)
{
	const CrossBatch *pairs = (const CrossBatch *) batch;

	return serm_cross_score((const SermCrossEncoder *) batch->model, pairs->pairs, batch->count, pairs->arena,
	    predictions, error);
}

const SermModelKind serm_kind_cross_encoder = {
    .name = SERM_KIND_CROSS_ENCODER,
    .open = cross_open,
    .parse_query = cross_parse_query,
    .predict = cross_predict,
    .batch = cross_batch,
    .batch_add_text = cross_batch_add_text,
    .batch_run = cross_batch_run,
    .encode = cross_encode,
    .predict_tokens = cross_predict_tokens,
    .batch_add_tokens = cross_batch_add_tokens,
};
