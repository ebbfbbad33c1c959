/*
 * A kind of model is one entry of the table in model.c. Its model struct
 * begins with a SermModel, its query struct with a SermQuery and its batch
 * struct with a SermBatch, which the kind's own functions cast back.
 */
#ifndef SERM_CORE_MODEL_KIND_H
#define SERM_CORE_MODEL_KIND_H

#include "core/model/model.h"

typedef struct SermModelKind {
	const char *name;
	/* Validate and open; the caller fills in `kind`. */
	SermStatus (*open)(const SermTensorSet *tensors, const SermModelSettings *settings, SermArena *arena,
	    SermModel **model, SermError *error);
	SermStatus (*parse_query)(
	    const SermModel *model, SermText query, SermArena *arena, SermQuery **parsed, SermError *error);
	SermStatus (*predict)(const SermModel *model, const SermQuery *query, SermText doc, SermArena *scratch,
	    SermPrediction *prediction, SermError *error);
	/* NULL, with batch_add and explain: the kind reads texts or tokens, not words. */
	SermStatus (*predict_parsed)(const SermModel *model, const SermQuery *query, const SermDocument *doc,
	    SermPrediction *prediction, SermError *error);
	/* The caller fills in `model` and keeps `count`. */
	SermBatch *(*batch)(SermArena *arena);
	SermStatus (*batch_add)(
	    SermBatch *batch, const SermQuery *query, const SermDocument *doc, SermError *error);
	/* Of the document's text; NULL, with the last three: the kind reads parsed documents. */
	SermStatus (*batch_add_text)(SermBatch *batch, const SermQuery *query, SermText doc, SermError *error);
	SermStatus (*batch_run)(const SermBatch *batch, SermPrediction *predictions, SermError *error);
	SermStatus (*explain)(const SermModel *model, const SermQuery *query, SermText text,
	    const SermDocument *doc, SermArena *arena, SermExplanation *explanation, SermError *error);
	SermStatus (*encode)(
	    const SermModel *model, SermText text, SermArena *arena, SermTokenDocument *doc, SermError *error);
	SermStatus (*predict_tokens)(const SermModel *model, const SermQuery *query, const SermTokenDocument *doc,
	    SermArena *scratch, SermPrediction *prediction, SermError *error);
	SermStatus (*batch_add_tokens)(
	    SermBatch *batch, const SermQuery *query, const SermTokenDocument *doc, SermError *error);
} SermModelKind;

struct SermModel {
	const SermModelKind *kind;
	uint32_t grade_count;
	SermKeepGoing keep_going; /* NULL: never asked */
	void *keep_going_context;
};

struct SermQuery {
	const SermModel *model; /* the one that parsed it */
};

struct SermBatch {
	const SermModel *model;
	uint32_t count;
};

extern const SermModelKind serm_kind_interaction;
extern const SermModelKind serm_kind_cross_encoder;

#endif
