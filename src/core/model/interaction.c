/*
 * The interaction model as stored: opening trusts nothing, because tensors
 * come from tables that users may restore, replicate or write. After opening,
 * every score is finite: each number is bounded by NUMBER_MAX, each input is
 * clipped, and sums of that many products stay far inside float.
 */
#include "core/model/interaction.h"

#include <math.h>
#include <string.h>

#include "core/model/explain.h"
#include "core/model/kind.h"

#define NUMBER_MAX SERM_INTERACTION_NUMBER_MAX
/* Logits divided by this are still far from overflow. */
#define TEMPERATURE_MIN 1e-3
/* Document counts and lengths beyond this are not exact in a double. */
#define COUNT_MAX 9007199254740992.0

#ifdef SERM_REAL_DOUBLE
#define DTYPE_REAL SERM_DTYPE_F64
#else
#define DTYPE_REAL SERM_DTYPE_F32
#endif

typedef struct InteractionModel {
	SermModel model;
	SermStatistics statistics;
	SermEmbedding embedding;
	SermHeads heads;
	SermGuard guard;
	const float *mean;
	const float *inverse;
} InteractionModel;

typedef struct InteractionQuery {
	SermQuery query;
	SermParsedQuery *parsed;
} InteractionQuery;

typedef struct InteractionBatch {
	SermBatch batch;
	SermReal input[SERM_BATCH_ROWS][SERM_FEATURES];
	SermReal guard[SERM_BATCH_ROWS];
	SermReal share[SERM_BATCH_ROWS];
} InteractionBatch;

static_assert(SERM_BATCH_ROWS <= SERM_HEADS_ROWS, "the heads take a whole batch");

static float
clip(float z)
{
	return z > SERM_INPUT_CLIP ? SERM_INPUT_CLIP : z < -SERM_INPUT_CLIP ? -SERM_INPUT_CLIP : z;
}

void
serm_interaction_input(const float *mean, const float *inverse, const SermFeatures *features, SermReal *input)
{
	for (int i = 0; i < SERM_FEATURES; i++)
		input[i] = clip((features->value[i] - mean[i]) * inverse[i]);
}

float
serm_interaction_s0(const SermGuard *guard, const SermFeatures *features)
{
	float lexical = (features->lexical - guard->lexical_mean) * guard->lexical_inverse;
	float dot = (features->dot - guard->dot_mean) * guard->dot_inverse;
	float s = lexical + guard->dot_share * dot, share = s / SERM_INPUT_CLIP;

	/* Cut off at the clip, all documents that match well would tie. */
	return s / sqrtf(1 + share * share);
}

float
serm_interaction_guard(const SermGuard *guard, const SermFeatures *features)
{
	return guard->slope * serm_interaction_s0(guard, features);
}

/* NaN fails each comparison, so it is refused with the infinities. */
static SermStatus
check_floats(const SermTensor *tensor, double least, SermError *error)
{
	size_t count = tensor->bytes / sizeof(float);
	const float *values = tensor->data;

	for (size_t i = 0; i < count; i++)
		if (!(values[i] >= least && values[i] <= NUMBER_MAX))
			return serm_fail(error, SERM_ERR_CORRUPT, "value %llu of tensor \"%s\" is out of range",
			    (unsigned long long) i, tensor->name);
	return SERM_OK;
}

static SermStatus
check_reals(const SermTensor *tensor, SermError *error)
{
	size_t count = tensor->bytes / sizeof(SermReal);
	const SermReal *values = tensor->data;

	for (size_t i = 0; i < count; i++)
		if (!(values[i] >= -NUMBER_MAX && values[i] <= NUMBER_MAX))
			return serm_fail(error, SERM_ERR_CORRUPT, "value %llu of tensor \"%s\" is out of range",
			    (unsigned long long) i, tensor->name);
	return SERM_OK;
}

static SermStatus
open_floats(const SermTensorSet *tensors, const char *name, uint64_t count, double least,
    const float **values, SermError *error)
{
	const SermTensor *tensor;
	SermStatus status = serm_tensor_require(tensors, name, SERM_DTYPE_F32, 1, &count, &tensor, error);

	if (status != SERM_OK)
		return status;
	*values = tensor->data;
	return check_floats(tensor, least, error);
}

static SermStatus
open_reals(const SermTensorSet *tensors, const char *name, uint32_t rank, const uint64_t *shape,
    const SermReal **values, SermError *error)
{
	const SermTensor *tensor;
	SermStatus status = serm_tensor_require(tensors, name, DTYPE_REAL, rank, shape, &tensor, error);

	if (status != SERM_OK)
		return status;
	*values = tensor->data;
	return check_reals(tensor, error);
}

static SermStatus
open_embedding(const SermTensorSet *tensors, SermEmbedding *embedding, SermError *error)
{
	const uint64_t shape[] = {SERM_EMBEDDING_ROWS, SERM_EMBEDDING_WIDTH};
	const SermTensor *rows;
	SermStatus status =
	    serm_tensor_require(tensors, SERM_TENSOR_EMBEDDING_ROWS, SERM_DTYPE_I8, 2, shape, &rows, error);

	if (status != SERM_OK)
		return status;
	embedding->rows = rows->data;
	return open_floats(
	    tensors, SERM_TENSOR_EMBEDDING_SCALE, SERM_EMBEDDING_ROWS, 0, &embedding->scale, error);
}

/* A table of ids, ascending, and of the number of documents that have each. */
typedef struct DocumentCounts {
	uint32_t count;
	const uint32_t *id;
	const uint32_t *df;
} DocumentCounts;

static SermStatus
open_counts(const SermTensorSet *tensors, const char *id_name, const char *df_name, double documents,
    DocumentCounts *counts, SermError *error)
{
	uint64_t any = 0, count;
	const SermTensor *id, *df;
	SermStatus status = serm_tensor_require(tensors, id_name, SERM_DTYPE_U32, 1, &any, &id, error);

	if (status != SERM_OK)
		return status;
	count = id->shape[0];
	if (count > UINT32_MAX)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has too many values", id->name);
	status = serm_tensor_require(tensors, df_name, SERM_DTYPE_U32, 1, &any, &df, error);
	if (status != SERM_OK)
		return status;
	if (df->shape[0] != count)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has %llu values where %llu are needed",
		    df->name, (unsigned long long) df->shape[0], (unsigned long long) count);
	*counts = (DocumentCounts){(uint32_t) count, id->data, df->data};
	for (uint64_t i = 1; i < count; i++)
		if (counts->id[i - 1] >= counts->id[i])
			return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" is not ascending at %llu", id->name,
			    (unsigned long long) i);
	for (uint64_t i = 0; i < count; i++)
		if (counts->df[i] > documents)
			return serm_fail(error, SERM_ERR_CORRUPT,
			    "value %llu of tensor \"%s\" is larger than the number of documents", (unsigned long long) i,
			    df->name);
	return SERM_OK;
}

/* Versions without it were trained before support was counted, or without judgments. */
static SermStatus
open_support(const SermTensorSet *tensors, uint64_t words, const uint8_t **support, SermError *error)
{
	const SermTensor *tensor;
	SermStatus status;

	*support = NULL;
	if (serm_tensor_find(tensors, SERM_TENSOR_VOCABULARY_SUPPORT) == NULL)
		return SERM_OK;
	status = serm_tensor_require(
	    tensors, SERM_TENSOR_VOCABULARY_SUPPORT, SERM_DTYPE_U8, 1, &words, &tensor, error);
	if (status == SERM_OK)
		*support = tensor->data;
	return status;
}

/* Versions without it were trained before kin was known, or no word has any. */
static SermStatus
open_kin(const SermTensorSet *tensors, uint64_t words, SermStatistics *statistics, SermError *error)
{
	const SermTensor *kin, *df;
	const uint32_t *next, *counts;
	SermStatus status;

	if (serm_tensor_find(tensors, SERM_TENSOR_KIN) == NULL)
		return SERM_OK;
	status = serm_tensor_require(tensors, SERM_TENSOR_KIN, SERM_DTYPE_U32, 1, &words, &kin, error);
	if (status == SERM_OK)
		status = serm_tensor_require(tensors, SERM_TENSOR_KIN_DF, SERM_DTYPE_U32, 1, &words, &df, error);
	if (status != SERM_OK)
		return status;
	next = kin->data;
	counts = df->data;
	for (uint64_t i = 0; i < words; i++)
		if (next[i] >= words || counts[i] > statistics->document_count)
			return serm_fail(error, SERM_ERR_CORRUPT, "value %llu of tensor \"%s\" is out of range",
			    (unsigned long long) i, next[i] >= words ? kin->name : df->name);
	statistics->word_kin = next;
	statistics->kin_df = counts;
	return SERM_OK;
}

static SermStatus
open_vocabulary(const SermTensorSet *tensors, SermStatistics *statistics, SermError *error)
{
	DocumentCounts words, trigrams = {0, NULL, NULL};
	SermStatus status = open_counts(tensors, SERM_TENSOR_VOCABULARY_ID, SERM_TENSOR_VOCABULARY_DF,
	    statistics->document_count, &words, error);

	if (status == SERM_OK && serm_tensor_find(tensors, SERM_TENSOR_TRIGRAM_ID) != NULL)
		status = open_counts(tensors, SERM_TENSOR_TRIGRAM_ID, SERM_TENSOR_TRIGRAM_DF,
		    statistics->document_count, &trigrams, error);
	if (status != SERM_OK)
		return status;
	status = open_support(tensors, words.count, &statistics->word_support, error);
	if (status == SERM_OK)
		status = open_kin(tensors, words.count, statistics, error);
	if (status != SERM_OK)
		return status;
	statistics->word_count = words.count;
	statistics->word_id = words.id;
	statistics->word_df = words.df;
	statistics->trigram_count = trigrams.count;
	statistics->trigram_id = trigrams.id;
	statistics->trigram_df = trigrams.df;
	return SERM_OK;
}

/* Versions without it have one collection, or were trained before scripts were told apart. */
static SermStatus
open_scripts(
    const SermTensorSet *tensors, double documents, const SermScriptStatistics **scripts, SermError *error)
{
	const uint64_t shape[2] = {SERM_SCRIPTS, SERM_STATISTICS_COUNT};
	const SermTensor *tensor;
	const double *values;
	SermStatus status;

	*scripts = NULL;
	if (serm_tensor_find(tensors, SERM_TENSOR_SCRIPTS) == NULL)
		return SERM_OK;
	status = serm_tensor_require(tensors, SERM_TENSOR_SCRIPTS, SERM_DTYPE_F64, 2, shape, &tensor, error);
	if (status != SERM_OK)
		return status;
	values = tensor->data;
	for (int i = 0; i < SERM_SCRIPTS * SERM_STATISTICS_COUNT; i++) {
		int column = i % SERM_STATISTICS_COUNT;
		double most = column == 0 ? documents : column == SERM_STATISTICS_COUNT - 1 ? 1 : COUNT_MAX;

		if (!(values[i] >= 0 && values[i] <= most))
			return serm_fail(
			    error, SERM_ERR_CORRUPT, "value %d of tensor \"%s\" is out of range", i, tensor->name);
		if (column == 0)
			documents -= values[i];
	}
	*scripts = tensor->data;
	return SERM_OK;
}

static SermStatus
open_statistics(const SermTensorSet *tensors, SermStatistics *statistics, SermError *error)
{
	const SermTensor *tensor = serm_tensor_find(tensors, SERM_TENSOR_STATISTICS);
	bool older = tensor != NULL && tensor->rank == 1 && tensor->shape[0] == SERM_STATISTICS_COUNT_MIN;
	const uint64_t count = older ? SERM_STATISTICS_COUNT_MIN : SERM_STATISTICS_COUNT;
	const double *values;
	SermStatus status =
	    serm_tensor_require(tensors, SERM_TENSOR_STATISTICS, SERM_DTYPE_F64, 1, &count, &tensor, error);

	if (status != SERM_OK)
		return status;
	values = tensor->data;
	for (uint64_t i = 0; i < count; i++)
		if (!(values[i] >= 0 && values[i] <= COUNT_MAX))
			return serm_fail(
			    error, SERM_ERR_CORRUPT, "value %d of tensor \"%s\" is out of range", (int) i, tensor->name);
	statistics->document_count = values[0];
	statistics->title_length = values[1];
	statistics->body_length = values[2];
	statistics->joined_length = values[3];
	statistics->spelled_share = older ? 0 : values[4];
	if (statistics->spelled_share > 1)
		return serm_fail(error, SERM_ERR_CORRUPT, "value 4 of tensor \"%s\" is out of range", tensor->name);
	status = open_scripts(tensors, statistics->document_count, &statistics->scripts, error);
	return status == SERM_OK ? open_vocabulary(tensors, statistics, error) : status;
}

/* K and G are read from the last layer; every other shape must agree with them. */
static SermStatus
open_heads(const SermTensorSet *tensors, SermHeads *heads, SermError *error)
{
	const uint64_t any[3] = {0, 0, SERM_HIDDEN2};
	const SermTensor *last;
	SermStatus status = serm_tensor_require(tensors, SERM_TENSOR_HEADS_W3, DTYPE_REAL, 3, any, &last, error);
	uint64_t k, g;

	if (status != SERM_OK)
		return status;
	k = last->shape[0];
	g = last->shape[1];
	if (k < 1 || k > SERM_HEADS_MAX)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has %llu heads, not 1 to %d", last->name,
		    (unsigned long long) k, SERM_HEADS_MAX);
	if (g < SERM_GRADES_MIN || g > SERM_GRADES_MAX)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has %llu grades, not %d to %d", last->name,
		    (unsigned long long) g, SERM_GRADES_MIN, SERM_GRADES_MAX);
	heads->head_count = (uint32_t) k;
	heads->grade_count = (uint32_t) g;
	heads->input_count = SERM_FEATURES;
	const struct {
		const char *name;
		uint32_t rank;
		uint64_t shape[3];
		const SermReal **values;
	} layers[] = {
	    {SERM_TENSOR_HEADS_W1, 3, {k, SERM_HIDDEN1, SERM_FEATURES}, &heads->w1},
	    {SERM_TENSOR_HEADS_B1, 2, {k, SERM_HIDDEN1}, &heads->b1},
	    {SERM_TENSOR_HEADS_W2, 3, {k, SERM_HIDDEN2, SERM_HIDDEN1}, &heads->w2},
	    {SERM_TENSOR_HEADS_B2, 2, {k, SERM_HIDDEN2}, &heads->b2},
	    {SERM_TENSOR_HEADS_W3, 3, {k, g, SERM_HIDDEN2}, &heads->w3},
	    {SERM_TENSOR_HEADS_B3, 2, {k, g}, &heads->b3},
	    {SERM_TENSOR_CUTS, 1, {g - 1}, &heads->cuts},
	};
	for (size_t i = 0; i < SERM_LENGTH(layers); i++) {
		status =
		    open_reals(tensors, layers[i].name, layers[i].rank, layers[i].shape, layers[i].values, error);
		if (status != SERM_OK)
			return status;
	}
	for (uint32_t i = 1; i + 1 < heads->grade_count; i++)
		if (heads->cuts[i - 1] > heads->cuts[i])
			return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" is not ascending", SERM_TENSOR_CUTS);
	return SERM_OK;
}

static SermStatus
open_guard(const SermTensorSet *tensors, SermGuard *guard, SermError *error)
{
	const float *values;
	SermStatus status =
	    open_floats(tensors, SERM_TENSOR_GUARD, SERM_GUARD_COUNT, -NUMBER_MAX, &values, error);

	if (status != SERM_OK)
		return status;
	*guard = (SermGuard){
	    .slope = values[0],
	    .lexical_mean = values[1],
	    .lexical_inverse = values[2],
	    .dot_mean = values[3],
	    .dot_inverse = values[4],
	    .dot_share = values[5],
	};
	return SERM_OK;
}

/* Versions without one were not calibrated. */
static SermStatus
open_temperature(const SermTensorSet *tensors, float *temperature, SermError *error)
{
	const float *value;
	SermStatus status;

	*temperature = 0;
	if (serm_tensor_find(tensors, SERM_TENSOR_TEMPERATURE) == NULL)
		return SERM_OK;
	status = open_floats(tensors, SERM_TENSOR_TEMPERATURE, 1, TEMPERATURE_MIN, &value, error);
	if (status == SERM_OK)
		*temperature = *value;
	return status;
}

static SermStatus
interaction_open(const SermTensorSet *tensors, const SermModelSettings *settings, SermArena *arena,
    SermModel **model, SermError *error)
{
	InteractionModel *opened = serm_arena_alloc(arena, sizeof(InteractionModel));
	SermStatus status;

	(void) settings;
	if (opened == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while opening a model");
	status = open_heads(tensors, &opened->heads, error);
	if (status == SERM_OK)
		status = open_temperature(tensors, &opened->heads.temperature, error);
	if (status == SERM_OK)
		status = open_statistics(tensors, &opened->statistics, error);
	if (status == SERM_OK)
		status =
		    open_floats(tensors, SERM_TENSOR_SCALE_MEAN, SERM_FEATURES, -NUMBER_MAX, &opened->mean, error);
	if (status == SERM_OK)
		status = open_floats(tensors, SERM_TENSOR_SCALE_INVERSE, SERM_FEATURES, 0, &opened->inverse, error);
	if (status == SERM_OK)
		status = open_guard(tensors, &opened->guard, error);
	if (status == SERM_OK)
		status = open_embedding(tensors, &opened->embedding, error);
	if (status != SERM_OK)
		return status;
	/* Without memory for these the model is slower, not different. */
	(void) serm_heads_pack(&opened->heads, arena);
	opened->embedding.cache = serm_word_cache_create(arena);
	opened->model.grade_count = opened->heads.grade_count;
	*model = &opened->model;
	return SERM_OK;
}

static SermStatus
interaction_parse_query(
    const SermModel *model, SermText text, SermArena *arena, SermQuery **parsed, SermError *error)
{
	const InteractionModel *opened = (const InteractionModel *) model;
	InteractionQuery *query = serm_arena_alloc(arena, sizeof(InteractionQuery));

	if (query == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while parsing a query");
	*parsed = &query->query;
	return serm_features_parse_query(
	    &opened->statistics, &opened->embedding, text, arena, &query->parsed, error);
}

/* What the heads take of a pair. */
static void
to_input(const InteractionModel *opened, const SermFeatures *features, SermReal *input, SermReal *guard,
    SermReal *share)
{
	serm_interaction_input(opened->mean, opened->inverse, features, input);
	*guard = serm_interaction_guard(&opened->guard, features);
	*share = features->support;
}

static SermStatus
interaction_predict(const SermModel *model, const SermQuery *query, SermText doc, SermArena *scratch,
    SermPrediction *prediction, SermError *error)
{
	const InteractionModel *opened = (const InteractionModel *) model;
	const InteractionQuery *parsed = (const InteractionQuery *) query;
	SermFeatures features;
	SermReal input[SERM_FEATURES], guard, share;
	SermStatus status = serm_features_compute(
	    &opened->statistics, &opened->embedding, parsed->parsed, doc, scratch, &features, error);

	if (status != SERM_OK)
		return status;
	to_input(opened, &features, input, &guard, &share);
	serm_heads_predict_rows(&opened->heads, 1, input, &guard, &share, prediction);
	return SERM_OK;
}

static SermStatus
interaction_predict_parsed(const SermModel *model, const SermQuery *query, const SermDocument *doc,
    SermPrediction *prediction, SermError *error)
{
	const InteractionModel *opened = (const InteractionModel *) model;
	SermFeatures features;
	SermReal input[SERM_FEATURES], guard, share;

	(void) error;
	serm_features_of_document(
	    &opened->statistics, &opened->embedding, ((const InteractionQuery *) query)->parsed, doc, &features);
	to_input(opened, &features, input, &guard, &share);
	serm_heads_predict_rows(&opened->heads, 1, input, &guard, &share, prediction);
	return SERM_OK;
}

static SermBatch *
interaction_batch(SermArena *arena)
{
	return serm_arena_alloc(arena, sizeof(InteractionBatch));
}

static SermStatus
interaction_batch_add(SermBatch *batch, const SermQuery *query, const SermDocument *doc, SermError *error)
{
	const InteractionModel *opened = (const InteractionModel *) batch->model;
	InteractionBatch *rows = (InteractionBatch *) batch;
	SermFeatures features;

	(void) error;
	serm_features_of_document(
	    &opened->statistics, &opened->embedding, ((const InteractionQuery *) query)->parsed, doc, &features);
	to_input(
	    opened, &features, rows->input[batch->count], &rows->guard[batch->count], &rows->share[batch->count]);
	return SERM_OK;
}

static SermStatus
interaction_batch_run(const SermBatch *batch, SermPrediction *predictions, SermError *error)
{
	const InteractionBatch *rows = (const InteractionBatch *) batch;

	(void) error;
	serm_heads_predict_rows(&((const InteractionModel *) batch->model)->heads, batch->count, rows->input[0],
	    rows->guard, rows->share, predictions);
	return SERM_OK;
}

bool
serm_interaction_parts(const SermModel *model, SermInteractionParts *parts)
{
	const InteractionModel *opened = (const InteractionModel *) model;

	if (model->kind != &serm_kind_interaction)
		return false;
	*parts = (SermInteractionParts){
	    opened->statistics, opened->embedding, opened->heads, opened->guard, opened->mean, opened->inverse};
	return true;
}

static SermStatus
interaction_explain(const SermModel *model, const SermQuery *query, SermText text, const SermDocument *doc,
    SermArena *arena, SermExplanation *explanation, SermError *error)
{
	SermInteractionParts parts;

	(void) serm_interaction_parts(model, &parts);
	return serm_interaction_explain(
	    &parts, ((const InteractionQuery *) query)->parsed, text, doc, arena, explanation, error);
}

const SermModelKind serm_kind_interaction = {
    .name = SERM_KIND_INTERACTION,
    .open = interaction_open,
    .parse_query = interaction_parse_query,
    .predict = interaction_predict,
    .predict_parsed = interaction_predict_parsed,
    .batch = interaction_batch,
    .batch_add = interaction_batch_add,
    .batch_run = interaction_batch_run,
    .explain = interaction_explain,
};
