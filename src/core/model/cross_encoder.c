#include "core/model/cross_encoder.h"

#include <stdio.h>
#include <string.h>

#include "core/base/watch.h"
#include "core/model/cross_encoder_parts.h"
#include "core/model/cross_encoder_stored.h"

#define LAYOUT_NAME_MAX 64
/* Laid out between two questions to the host. */
#define QUIET_NUMBERS ((size_t) 1 << 20)

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
vector_tensor(const char *name, SermDtype dtype, size_t count)
{
	SermTensor tensor = {
	    .dtype = dtype, .rank = 1, .shape = {count}, .bytes = count * serm_dtype_size(dtype)};

	memcpy(tensor.name, name, strlen(name) + 1);
	return tensor;
}

/* The text of "encoder.layout"; returns its length. */
static size_t
layout_name(const SermModelSettings *settings, char *name)
{
	return (size_t) snprintf(name, LAYOUT_NAME_MAX, "%s %s", serm_precision_name(settings->precision),
	    settings->gemm == NULL ? serm_gemm_packed.name : settings->gemm->name);
}

SermStatus
serm_cross_encoder_plan(const SermTensorSet *stored, const SermModelSettings *settings, SermArena *arena,
    SermCrossPlan *plan, SermError *error)
{
	const uint64_t any = 0;
	const SermTensor *json, *tables;
	char name[LAYOUT_NAME_MAX];
	SermStatus status =
	    serm_tensor_require(stored, SERM_ENCODER_CONFIG_TENSOR, SERM_DTYPE_U8, 1, &any, &json, error);

	if (status == SERM_OK)
		status =
		    serm_tensor_shaped(stored, SERM_ENCODER_TOKENIZER_TENSOR, SERM_DTYPE_U8, 1, &any, &tables, error);
	if (status == SERM_OK)
		status = serm_encoder_config_read(json->data, json->bytes, arena, &plan->config, error);
	if (status == SERM_OK)
		status = serm_encoder_supported(&plan->config, error);
	if (status == SERM_OK)
		status = serm_encoder_shapes_check(&plan->config, stored, error);
	if (status != SERM_OK)
		return status;
	plan->settings = *settings;
	plan->prepared[SERM_CROSS_CONFIG] = vector_tensor(SERM_ENCODER_CONFIG_TENSOR, SERM_DTYPE_U8, json->bytes);
	plan->prepared[SERM_CROSS_TOKENIZER] =
	    vector_tensor(SERM_ENCODER_TOKENIZER_TENSOR, SERM_DTYPE_U8, tables->bytes);
	plan->prepared[SERM_CROSS_PLAIN] =
	    vector_tensor(SERM_TENSOR_ENCODER_PLAIN, REAL_DTYPE, serm_encoder_layout(&plan->config).plain_count);
	plan->prepared[SERM_CROSS_PACKED] = vector_tensor(SERM_TENSOR_ENCODER_PACKED, SERM_DTYPE_U8,
	    serm_encoder_packed_bytes(&plan->config, settings->precision, settings->gemm));
	plan->prepared[SERM_CROSS_LAYOUT] =
	    vector_tensor(SERM_TENSOR_ENCODER_LAYOUT, SERM_DTYPE_U8, layout_name(settings, name));
	return SERM_OK;
}

/* Where the caller has made room. */
static void *
room_of(const SermCrossPlan *plan, SermCrossTensor tensor)
{
	return (void *) (uintptr_t) plan->prepared[tensor].data;
}

SermStatus
serm_cross_encoder_begin(SermCrossPlan *plan, SermArena *arena, SermError *error)
{
	const SermTensor *tables = &plan->prepared[SERM_CROSS_TOKENIZER];
	const SermTokenizer *tokenizer;
	char name[LAYOUT_NAME_MAX];
	SermStatus status = serm_tokenizer_open(tables->data, tables->bytes, arena, &tokenizer, error);

	if (status == SERM_OK)
		status = serm_encoder_fits(&plan->config, tokenizer, error);
	if (status != SERM_OK)
		return status;
	memcpy(room_of(plan, SERM_CROSS_LAYOUT), name, layout_name(&plan->settings, name));
	if (!serm_encoder_fill_start(&plan->fill, &plan->config, plan->settings.precision, plan->settings.gemm,
	        room_of(plan, SERM_CROSS_PLAIN), room_of(plan, SERM_CROSS_PACKED), arena))
		return no_memory(error);
	return SERM_OK;
}

/* All numbers of all entries. */
static SermStatus
fill_all(SermCrossPlan *plan, const SermTensorSet *stored, const SermEncoderHost *host, SermError *error)
{
	const SermEncoderLayout layout = serm_encoder_layout(&plan->config);
	SermStatus status = SERM_OK;

	for (uint32_t i = 0; i < serm_encoder_entry_count(&plan->config); i++) {
		SermEncoderEntry entry;
		const SermTensor *tensor;

		serm_encoder_entry(&plan->config, &layout, i, &entry);
		tensor = serm_tensor_find(stored, entry.name);
		status = serm_tensor_require(
		    stored, entry.name, tensor->dtype, tensor->rank, tensor->shape, &tensor, error);
		for (size_t at = 0; status == SERM_OK && at < entry.count; at += QUIET_NUMBERS) {
			if (!serm_watch_ask(host))
				return serm_fail(error, SERM_ERR_CANCELED, "laying out the encoder's weights was canceled");
			status = serm_encoder_fill(&plan->fill, &entry, at, tensor->dtype,
			    (const char *) tensor->data + at * serm_dtype_size(tensor->dtype),
			    entry.count - at < QUIET_NUMBERS ? entry.count - at : QUIET_NUMBERS, error);
		}
		if (status != SERM_OK)
			break;
	}
	return status;
}

SermStatus
serm_cross_encoder_prepare(const SermTensorSet *tensors, const SermModelSettings *settings,
    const SermEncoderHost *host, SermArena *arena, SermTensorSet *prepared, SermError *error)
{
	static const char *const copied[] = {[SERM_CROSS_CONFIG] = SERM_ENCODER_CONFIG_TENSOR,
	    [SERM_CROSS_TOKENIZER] = SERM_ENCODER_TOKENIZER_TENSOR};
	SermCrossPlan *plan = serm_arena_alloc(arena, sizeof(*plan));
	SermStatus status;

	if (plan == NULL)
		return no_memory(error);
	status = serm_cross_encoder_plan(tensors, settings, arena, plan, error);
	for (int i = 0; status == SERM_OK && i < SERM_CROSS_TENSORS; i++) {
		SermTensor *tensor = &plan->prepared[i];
		void *room = serm_arena_reserve(arena, tensor->bytes);
		bool good;

		if (room == NULL)
			return no_memory(error);
		tensor->data = room;
		if (i < (int) SERM_LENGTH(copied))
			good = serm_watch_copy(host, room, serm_tensor_find(tensors, copied[i])->data, tensor->bytes);
		else
			good = serm_watch_clear(host, room, tensor->bytes);
		if (!good)
			return serm_fail(error, SERM_ERR_CANCELED, "laying out the encoder's weights was canceled");
	}
	if (status == SERM_OK)
		status = serm_cross_encoder_begin(plan, arena, error);
	if (status == SERM_OK)
		status = fill_all(plan, tensors, host, error);
	*prepared = (SermTensorSet){plan->prepared, SERM_CROSS_TENSORS};
	return status;
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

static SermWatch
watch_of(const SermCrossEncoder *opened)
{
	return (SermWatch){opened->model.keep_going, opened->model.keep_going_context};
}

static SermStatus
cross_parse_query(
    const SermModel *model, SermText query, SermArena *arena, SermQuery **parsed, SermError *error)
{
	const SermCrossEncoder *opened = (const SermCrossEncoder *) model;
	SermCrossQuery *result = serm_arena_alloc(arena, sizeof(*result));
	SermWatch watch = watch_of(opened);
	SermStatus status;

	if (result == NULL)
		return no_memory(error);
	status = serm_tokenizer_encode(
	    opened->tokenizer, query, opened->tokens_max, &watch, arena, &result->ids, &result->count, error);
	if (status == SERM_OK)
		*parsed = &result->query;
	return status;
}

static SermStatus
read_text(const SermCrossEncoder *opened, const SermQuery *query, SermText doc, SermArena *arena,
    SermCrossPair *pair, SermError *error)
{
	const SermCrossQuery *read = (const SermCrossQuery *) query;
	SermWatch watch = watch_of(opened);
	const uint32_t *ids;
	uint32_t count;
	SermStatus status = serm_tokenizer_encode(
	    opened->tokenizer, doc, serm_cross_wanted(opened, read), &watch, arena, &ids, &count, error);

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
	const SermCrossEncoder *opened = (const SermCrossEncoder *) model;
	SermWatch watch = watch_of(opened);

	return serm_token_document_parse(opened->tokenizer, text, &watch, arena, doc, error);
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
