#include "core/model/cross_encoder.h"

#include <math.h>
#include <string.h>

#include "core/model/cross_encoder_stored.h"
#include "core/model/encoder.h"
#include "core/model/kind.h"

typedef struct CrossEncoder {
	SermModel model;
	const SermTokenizer *tokenizer;
	SermEncoder *encoder;
	uint32_t tokens_max;
} CrossEncoder;

typedef struct CrossQuery {
	SermQuery query;
	const uint32_t *ids;
	uint32_t count;
} CrossQuery;

typedef struct CrossBatch {
	SermBatch batch;
	SermArena *arena;
	SermArenaMark start; /* of the first pair */
	SermEncoderInput inputs[SERM_BATCH_ROWS];
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

SermStatus
serm_cross_encoder_prepare(
    const SermTensorSet *tensors, SermArena *arena, SermTensorSet *prepared, SermError *error)
{
	const SermTokenizer *tokenizer;
	SermEncoderConfig config;
	SermReal *flat;
	SermTensor *list;
	size_t bytes;
	void *packed;
	SermStatus status = serm_encoder_stored_open(tensors, arena, &config, &tokenizer, error);

	if (status == SERM_OK)
		status = serm_encoder_flatten(&config, tensors, arena, &flat, error);
	if (status != SERM_OK)
		return status;
	bytes = serm_encoder_packed_bytes(&config, SERM_PRECISION_F32, NULL);
	packed = serm_arena_reserve(arena, bytes);
	list = serm_arena_array(arena, 4, sizeof(*list));
	if (packed == NULL || list == NULL)
		return no_memory(error);
	(void) serm_encoder_pack(&config, SERM_PRECISION_F32, NULL, flat, packed, NULL);
	list[0] = *serm_tensor_find(tensors, SERM_ENCODER_CONFIG_TENSOR);
	list[1] = *serm_tensor_find(tensors, SERM_ENCODER_TOKENIZER_TENSOR);
	list[2] =
	    vector_tensor(SERM_TENSOR_ENCODER_PLAIN, REAL_DTYPE, serm_encoder_layout(&config).plain_count, flat);
	list[3] = vector_tensor(SERM_TENSOR_ENCODER_PACKED, SERM_DTYPE_U8, bytes, packed);
	*prepared = (SermTensorSet){list, 4};
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

static SermStatus
cross_open(const SermTensorSet *tensors, SermArena *arena, SermModel **model, SermError *error)
{
	CrossEncoder *opened = serm_arena_alloc(arena, sizeof(*opened));
	const SermTensor *plain, *packed;
	SermTensorSet prepared = *tensors;
	SermEncoderConfig config;
	SermStatus status = SERM_OK;

	if (opened == NULL)
		return no_memory(error);
	if (serm_cross_encoder_stored(tensors))
		status = serm_cross_encoder_prepare(tensors, arena, &prepared, error);
	if (status == SERM_OK)
		status = open_described(&prepared, arena, &config, &opened->tokenizer, error);
	if (status == SERM_OK)
		status = serm_encoder_supported(&config, error);
	if (status == SERM_OK)
		status = serm_tensor_require(&prepared, SERM_TENSOR_ENCODER_PLAIN, REAL_DTYPE, 1,
		    &(uint64_t){serm_encoder_layout(&config).plain_count}, &plain, error);
	if (status == SERM_OK)
		status = serm_tensor_require(&prepared, SERM_TENSOR_ENCODER_PACKED, SERM_DTYPE_U8, 1,
		    &(uint64_t){serm_encoder_packed_bytes(&config, SERM_PRECISION_F32, NULL)}, &packed, error);
	if (status == SERM_OK)
		status = serm_encoder_open(
		    &config, SERM_PRECISION_F32, NULL, plain->data, packed->data, arena, &opened->encoder, error);
	if (status != SERM_OK)
		return status;
	opened->tokens_max = serm_encoder_stored_tokens_max(&config, opened->tokenizer);
	opened->model.grade_count = config.labels == 1 ? 2 : config.labels;
	*model = &opened->model;
	return SERM_OK;
}

/* --- scoring */

static SermStatus
cross_parse_query(
    const SermModel *model, SermText query, SermArena *arena, SermQuery **parsed, SermError *error)
{
	const CrossEncoder *opened = (const CrossEncoder *) model;
	CrossQuery *result = serm_arena_alloc(arena, sizeof(*result));
	SermStatus status;

	if (result == NULL)
		return no_memory(error);
	status = serm_tokenizer_encode(
	    opened->tokenizer, query, opened->tokens_max, arena, &result->ids, &result->count, error);
	if (status == SERM_OK)
		*parsed = &result->query;
	return status;
}

/* The pair as the encoder reads it, in `arena`: the longer text is cut first. */
static SermStatus
make_input(const CrossEncoder *opened, const CrossQuery *query, SermText doc, SermArena *arena,
    SermEncoderInput *input, SermError *error)
{
	const uint32_t *ids;
	uint32_t count;
	SermTokens tokens;
	SermStatus status = serm_tokenizer_encode(opened->tokenizer, doc,
	    serm_tokenizer_wanted(query->count, opened->tokens_max), arena, &ids, &count, error);

	if (status == SERM_OK)
		status = serm_tokenizer_pair(opened->tokenizer, query->ids, query->count, ids, count,
		    opened->tokens_max, SERM_TRUNCATE_LONGEST_FIRST, arena, &tokens, error);
	if (status == SERM_OK)
		*input = (SermEncoderInput){tokens.ids, tokens.types, tokens.count, 0};
	return status;
}

/* One label is the logit of the better of two grades. */
static void
read_logits(uint32_t labels, const SermReal *logits, SermPrediction *prediction)
{
	uint32_t grades = labels == 1 ? 2 : labels;
	double logit[SERM_GRADES_MAX] = {0}, top = 0, total = 0, score = 0, entropy = 0;

	for (uint32_t y = 0; y < labels; y++)
		logit[y + (labels == 1)] = logits[y];
	top = logit[0];
	for (uint32_t y = 1; y < grades; y++)
		top = fmax(top, logit[y]);
	for (uint32_t y = 0; y < grades; y++)
		total += logit[y] = exp(logit[y] - top);
	*prediction = (SermPrediction){.grade_count = grades, .head_count = 1};
	for (uint32_t y = 0; y < grades; y++) {
		double p = logit[y] / total;

		prediction->probability[y] = (float) p;
		score += y * p;
		entropy -= p > 0 ? p * log(p) : 0;
		if (logit[y] > logit[prediction->argmax])
			prediction->argmax = y;
	}
	prediction->score = prediction->head_score[0] = (float) score;
	prediction->entropy = (float) entropy;
	prediction->grade = prediction->argmax;
}

static SermStatus
score_inputs(const CrossEncoder *opened, const SermEncoderInput *inputs, uint32_t count, SermArena *scratch,
    SermPrediction *predictions, SermError *error)
{
	SermReal logits[SERM_BATCH_ROWS * SERM_ENCODER_LABELS_MAX];
	SermEncoderHost host = {opened->model.keep_going, opened->model.keep_going_context};
	uint32_t labels = opened->encoder->config.labels;
	SermStatus status = serm_encoder_score(opened->encoder, inputs, count, &host, scratch, logits, error);

	for (uint32_t i = 0; status == SERM_OK && i < count; i++)
		read_logits(labels, logits + (size_t) i * labels, &predictions[i]);
	return status;
}

static SermStatus
cross_predict(const SermModel *model, const SermQuery *query, SermText doc, SermArena *scratch,
    SermPrediction *prediction, SermError *error)
{
	const CrossEncoder *opened = (const CrossEncoder *) model;
	SermArenaMark mark = serm_arena_mark(scratch);
	SermEncoderInput input;
	SermStatus status = make_input(opened, (const CrossQuery *) query, doc, scratch, &input, error);

	if (status == SERM_OK)
		status = score_inputs(opened, &input, 1, scratch, prediction, error);
	serm_arena_rewind(scratch, mark);
	return status;
}

static SermStatus
no_document(SermError *error)
{
	return serm_fail(error, SERM_ERR_INVALID,
	    "a cross-encoder reads the text of a document: an encoded one does not hold it");
}

static SermStatus
cross_predict_parsed(const SermModel *model, const SermQuery *query, const SermDocument *doc,
    SermPrediction *prediction, SermError *error)
{
	(void) model, (void) query, (void) doc, (void) prediction;
	return no_document(error);
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

static SermStatus
cross_batch_add(SermBatch *batch, const SermQuery *query, const SermDocument *doc, SermError *error)
{
	(void) batch, (void) query, (void) doc;
	return no_document(error);
}

static SermStatus
cross_batch_add_text(SermBatch *batch, const SermQuery *query, SermText doc, SermError *error)
{
	CrossBatch *pairs = (CrossBatch *) batch;

	if (batch->count == 0)
		serm_arena_rewind(pairs->arena, pairs->start);
	return make_input((const CrossEncoder *) batch->model, (const CrossQuery *) query, doc, pairs->arena,
	    &pairs->inputs[batch->count], error);
}

static SermStatus
cross_batch_run(const SermBatch *batch, SermPrediction *predictions, SermError *error)
{
	const CrossBatch *pairs = (const CrossBatch *) batch;

	return score_inputs(
	    (const CrossEncoder *) batch->model, pairs->inputs, batch->count, pairs->arena, predictions, error);
}

static SermStatus
cross_explain(const SermModel *model, const SermQuery *query, SermText text, const SermDocument *doc,
    SermArena *arena, SermExplanation *explanation, SermError *error)
{
	(void) model, (void) query, (void) text, (void) doc, (void) arena, (void) explanation;
	return serm_fail(error, SERM_ERR_INVALID, "the scores of a cross-encoder are not explained");
}

const SermModelKind serm_kind_cross_encoder = {
    .name = SERM_KIND_CROSS_ENCODER,
    .open = cross_open,
    .parse_query = cross_parse_query,
    .predict = cross_predict,
    .predict_parsed = cross_predict_parsed,
    .batch = cross_batch,
    .batch_add = cross_batch_add,
    .batch_add_text = cross_batch_add_text,
    .batch_run = cross_batch_run,
    .explain = cross_explain,
};
