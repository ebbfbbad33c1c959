#include "core/model/model.h"

#include <string.h>

#include "core/model/kind.h"

static const SermModelKind *const kinds[] = {
    &serm_kind_interaction,
    &serm_kind_cross_encoder,
};

static const SermModelKind *
find_kind(const char *name)
{
	for (size_t i = 0; i < SERM_LENGTH(kinds); i++)
		if (strcmp(kinds[i]->name, name) == 0)
			return kinds[i];
	return NULL;
}

bool
serm_model_kind_known(const char *kind)
{
	return find_kind(kind) != NULL;
}

SermStatus
serm_model_open(
    const char *kind, const SermTensorSet *tensors, SermArena *arena, SermModel **model, SermError *error)
{
	return serm_model_open_with(kind, tensors, NULL, arena, model, error);
}

SermStatus
serm_model_open_with(const char *kind, const SermTensorSet *tensors, const SermModelSettings *settings,
    SermArena *arena, SermModel **model, SermError *error)
{
	const SermModelSettings defaults = {.chunk_count = 1};
	const SermModelKind *found = find_kind(kind);
	SermStatus status;

	if (found == NULL)
		return serm_fail(error, SERM_ERR_INVALID, "model kind \"%s\" is not known", kind);
	status = found->open(tensors, settings != NULL ? settings : &defaults, arena, model, error);
	if (status == SERM_OK)
		(*model)->kind = found;
	return status;
}

void
serm_model_set_host(SermModel *model, SermKeepGoing keep_going, void *context)
{
	model->keep_going = keep_going;
	model->keep_going_context = context;
}

bool
serm_model_reads_text(const SermModel *model)
{
	return model->kind->batch_add_text != NULL;
}

uint32_t
serm_model_grade_count(const SermModel *model)
{
	return model->grade_count;
}

SermStatus
serm_model_parse_query(
    const SermModel *model, SermText query, SermArena *arena, SermQuery **parsed, SermError *error)
{
	SermStatus status = model->kind->parse_query(model, query, arena, parsed, error);

	if (status == SERM_OK)
		(*parsed)->model = model;
	return status;
}

static SermStatus
check_query(const SermModel *model, const SermQuery *query, SermError *error)
{
	if (query->model != model)
		return serm_fail(error, SERM_ERR_INVALID, "the query was parsed for another model");
	return SERM_OK;
}

static SermStatus
not_words(SermError *error)
{
	return serm_fail(error, SERM_ERR_INVALID,
	    "this kind of model reads the text of a document or its tokens: the document holds its words");
}

SermStatus
serm_model_predict(const SermModel *model, const SermQuery *query, SermText doc, SermArena *scratch,
    SermPrediction *prediction, SermError *error)
{
	SermStatus status = check_query(model, query, error);

	if (status != SERM_OK)
		return status;
	return model->kind->predict(model, query, doc, scratch, prediction, error);
}

SermStatus
serm_model_predict_parsed(const SermModel *model, const SermQuery *query, const SermDocument *doc,
    SermPrediction *prediction, SermError *error)
{
	SermStatus status = check_query(model, query, error);

	if (status == SERM_OK && model->kind->predict_parsed == NULL)
		status = not_words(error);
	if (status != SERM_OK)
		return status;
	return model->kind->predict_parsed(model, query, doc, prediction, error);
}

SermStatus
serm_model_explain(const SermModel *model, const SermQuery *query, SermText text, const SermDocument *doc,
    SermArena *arena, SermExplanation *explanation, SermError *error)
{
	SermStatus status = check_query(model, query, error);

	if (status == SERM_OK && model->kind->explain == NULL)
		status = not_words(error);
	if (status != SERM_OK)
		return status;
	return model->kind->explain(model, query, text, doc, arena, explanation, error);
}

SermStatus
serm_model_encode(
    const SermModel *model, SermText text, SermArena *arena, SermTokenDocument *doc, SermError *error)
{
	SERM_ASSERT(serm_model_reads_text(model));
	return model->kind->encode(model, text, arena, doc, error);
}

SermStatus
serm_model_predict_tokens(const SermModel *model, const SermQuery *query, const SermTokenDocument *doc,
    SermArena *scratch, SermPrediction *prediction, SermError *error)
{
	SermStatus status = check_query(model, query, error);

	SERM_ASSERT(serm_model_reads_text(model));
	if (status != SERM_OK)
		return status;
	return model->kind->predict_tokens(model, query, doc, scratch, prediction, error);
}

SermBatch *
serm_model_batch(const SermModel *model, SermArena *arena)
{
	SermBatch *batch = model->kind->batch(arena);

	if (batch != NULL)
		*batch = (SermBatch){model, 0};
	return batch;
}

SermStatus
serm_batch_add(SermBatch *batch, const SermQuery *query, const SermDocument *doc, SermError *error)
{
	SermStatus status = check_query(batch->model, query, error);

	SERM_ASSERT(batch->count < SERM_BATCH_ROWS);
	if (status == SERM_OK && batch->model->kind->batch_add == NULL)
		status = not_words(error);
	if (status == SERM_OK)
		status = batch->model->kind->batch_add(batch, query, doc, error);
	batch->count += status == SERM_OK;
	return status;
}

SermStatus
serm_batch_add_text(SermBatch *batch, const SermQuery *query, SermText doc, SermError *error)
{
	SermStatus status = check_query(batch->model, query, error);

	SERM_ASSERT(batch->count < SERM_BATCH_ROWS && serm_model_reads_text(batch->model));
	if (status == SERM_OK)
		status = batch->model->kind->batch_add_text(batch, query, doc, error);
	batch->count += status == SERM_OK;
	return status;
}

SermStatus
serm_batch_add_tokens(
    SermBatch *batch, const SermQuery *query, const SermTokenDocument *doc, SermError *error)
{
	SermStatus status = check_query(batch->model, query, error);

	SERM_ASSERT(batch->count < SERM_BATCH_ROWS && serm_model_reads_text(batch->model));
	if (status == SERM_OK)
		status = batch->model->kind->batch_add_tokens(batch, query, doc, error);
	batch->count += status == SERM_OK;
	return status;
}

void
serm_batch_clear(SermBatch *batch)
{
	batch->count = 0;
}

uint32_t
serm_batch_count(const SermBatch *batch)
{
	return batch->count;
}

SermStatus
serm_batch_run(SermBatch *batch, SermPrediction *predictions, SermError *error)
{
	SermStatus status = SERM_OK;

	if (batch->count > 0)
		status = batch->model->kind->batch_run(batch, predictions, error);
	if (status == SERM_OK)
		batch->count = 0;
	return status;
}
