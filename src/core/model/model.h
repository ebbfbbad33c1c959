/*
 * The model interface: what scoring needs to know of any kind of model. An
 * opened model is a read-only view over its tensors and may be shared.
 */
#ifndef SERM_CORE_MODEL_MODEL_H
#define SERM_CORE_MODEL_MODEL_H

#include "core/model/settings.h"
#include "core/model/tensor.h"
#include "core/text/document.h"
#include "core/text/token_document.h"

#define SERM_GRADES_MIN 2
#define SERM_GRADES_MAX 10
#define SERM_HEADS_MAX 16

typedef struct SermPrediction {
	float score;                        /* f = sum over grades of y P(y), in [0, grades - 1] */
	float probability[SERM_GRADES_MAX]; /* P(y): the mean over the heads */
	float head_score[SERM_HEADS_MAX];   /* f of each head */
	float entropy;                      /* of P, in nats */
	float disagreement;                 /* max - min of head_score: MD(q,d) of SERM */
	uint32_t grade;                     /* by the model's cut points on f; argmax when it has none */
	uint32_t argmax;
	uint32_t grade_count;
	uint32_t head_count;
} SermPrediction;

/* Scratch of one prediction at most: three times what an encoder of 1,024 columns needs for 8,192 tokens. */
#define SERM_PREDICT_BYTES_MAX ((size_t) 1024 * 1024 * 1024)

typedef struct SermModel SermModel;
typedef struct SermQuery SermQuery;

/*
 * Validate `tensors` and open them as a model of `kind` ("interaction", "cross_encoder").
 * The model keeps pointers into the tensors' data: they must outlive it.
 * Errors: INVALID for an unknown kind, CORRUPT for missing, misshapen or non-finite tensors.
 */
extern SermStatus serm_model_open(
    const char *kind, const SermTensorSet *tensors, SermArena *arena, SermModel **model, SermError *error);
/* The same with settings; NULL: f32 by the built-in kernels, long documents are cut. */
extern SermStatus serm_model_open_with(const char *kind, const SermTensorSet *tensors,
    const SermModelSettings *settings, SermArena *arena, SermModel **model, SermError *error);
extern bool serm_model_kind_known(const char *kind);
extern uint32_t serm_model_grade_count(const SermModel *model);
/* Whom long predictions ask whether to go on; when it says no they end with CANCELED. */
extern void serm_model_set_host(SermModel *model, SermKeepGoing keep_going, void *context);
/* Documents are given as texts or as tokens, not parsed into words: serm_model_predict(), ..._tokens(). */
extern bool serm_model_reads_text(const SermModel *model);

/* Parse a query once; it may then be scored against any number of documents. */
extern SermStatus serm_model_parse_query(
    const SermModel *model, SermText query, SermArena *arena, SermQuery **parsed, SermError *error);

/*
 * Score one document. `scratch` is used and rewound: pass the same arena for
 * every row and nothing is allocated after the first ones. The same bytes give
 * the same bits alone, in a batch and while training.
 */
extern SermStatus serm_model_predict(const SermModel *model, const SermQuery *query, SermText doc,
    SermArena *scratch, SermPrediction *prediction, SermError *error);

/* The same for a document that was parsed or read before (core/text/document.h). */
extern SermStatus serm_model_predict_parsed(const SermModel *model, const SermQuery *query,
    const SermDocument *doc, SermPrediction *prediction, SermError *error);

/* For a model that serm_model_reads_text(): the tokens of a text, as long as any setting may read, ... */
extern SermStatus serm_model_encode(
    const SermModel *model, SermText text, SermArena *arena, SermTokenDocument *doc, SermError *error);
/* ... whose score has the bits of the text's. INVALID: they were made by another tokenizer. */
extern SermStatus serm_model_predict_tokens(const SermModel *model, const SermQuery *query,
    const SermTokenDocument *doc, SermArena *scratch, SermPrediction *prediction, SermError *error);

/* What one term of the query brings through one field of the document. */
typedef struct SermExplainedTerm {
	SermText query_term; /* normalised, UTF-8; length 0: a term of the document by itself (cross-encoders) */
	SermText doc_term;   /* the word that it meets there, or two that are one in the query; length 0: none */
	bool query;          /* a term of the query by itself: no field of the document */
	bool body;           /* else the title */
	float contribution;
} SermExplainedTerm;

/*
 * A score taken apart: `base` and the contributions sum to it. `base` is the score of a document of the same
 * lengths whose words have nothing to do with the query.
 */
typedef struct SermExplanation {
	float score; /* the bits of serm_model_predict_parsed() */
	float base;
	uint32_t count;
	const SermExplainedTerm
	    *terms; /* by place in the query, title before body; fields without words have none */
} SermExplanation;

/* Explain the score of a parsed query, whose text is given again, and a document; the result is in `arena`.
 */
extern SermStatus serm_model_explain(const SermModel *model, const SermQuery *query, SermText text,
    const SermDocument *doc, SermArena *arena, SermExplanation *explanation, SermError *error);

/*
 * Pairs that are scored together: what can be is computed as matrix products. The bits are those of
 * serm_model_predict().
 */
#define SERM_BATCH_ROWS 16
typedef struct SermBatch SermBatch;

/* An empty batch in `arena`; NULL when the arena refuses. */
extern SermBatch *serm_model_batch(const SermModel *model, SermArena *arena);
/* Add a pair to a batch of fewer than SERM_BATCH_ROWS; query and document are not needed afterwards. */
extern SermStatus serm_batch_add(
    SermBatch *batch, const SermQuery *query, const SermDocument *doc, SermError *error);
/* The same with the document's text, for a model that serm_model_reads_text(). */
extern SermStatus serm_batch_add_text(
    SermBatch *batch, const SermQuery *query, SermText doc, SermError *error);
/* The same with its tokens. */
extern SermStatus serm_batch_add_tokens(
    SermBatch *batch, const SermQuery *query, const SermTokenDocument *doc, SermError *error);
extern void serm_batch_clear(SermBatch *batch);
extern uint32_t serm_batch_count(const SermBatch *batch);
/*
 * Score the pairs in the order in which they came, predictions[serm_batch_count()], and empty the batch; a
 * batch that fails (MEMORY, CANCELED) keeps its pairs and may be run again.
 */
extern SermStatus serm_batch_run(SermBatch *batch, SermPrediction *predictions, SermError *error);

#endif
