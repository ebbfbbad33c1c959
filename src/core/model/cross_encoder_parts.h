/*
 * What the files of the cross-encoder share among themselves, and with the
 * one that takes its scores apart (core/train/encoder_explain.c).
 */
#ifndef SERM_CORE_MODEL_CROSS_ENCODER_PARTS_H
#define SERM_CORE_MODEL_CROSS_ENCODER_PARTS_H

#include "core/model/encoder.h"
#include "core/model/kind.h"
#include "core/text/token_document.h"

typedef struct SermCrossEncoder {
	SermModel model;
	const SermTokenizer *tokenizer;
	SermEncoder *encoder;
	uint32_t tokens_max;
	SermModelSettings settings;
} SermCrossEncoder;

typedef struct SermCrossQuery {
	SermQuery query;
	const uint32_t *ids;
	uint32_t count;
} SermCrossQuery;

/* A pair as the encoder reads it: one input, or one for each chunk of the document. */
typedef struct SermCrossPair {
	SermEncoderInput *inputs;
	uint32_t count;
} SermCrossPair;

/* Where an input got its tokens from: so many of the query from `query_start` on, and of the document. */
typedef struct SermCrossPlace {
	uint32_t query_start, query_count;
	uint32_t doc_start, doc_count;
	uint32_t doc_first; /* which token of the document stands at doc_start */
} SermCrossPlace;

/* How many tokens of a document can matter for this query. */
extern uint32_t serm_cross_wanted(const SermCrossEncoder *opened, const SermCrossQuery *query);
/*
 * The inputs of a pair, in `arena`, from the ids of the document, of which at least as many are given as are
 * wanted; places (NULL: not wanted) gets an array of as many. Errors: those of the tokenizer; MEMORY.
 */
extern SermStatus serm_cross_read(const SermCrossEncoder *opened, const SermCrossQuery *query,
    const uint32_t *doc, uint32_t count, SermArena *arena, SermCrossPair *pair, SermCrossPlace **places,
    SermError *error);
/* Are these the tokens of this model's tokenizer? INVALID, saying what to do. */
extern SermStatus serm_cross_check(
    const SermCrossEncoder *opened, const SermTokenDocument *doc, SermError *error);

/* What a head says. d_score (NULL: not wanted) [labels] gets the derivatives of the score by the logits. */
extern double serm_cross_read_logits(
    uint32_t labels, const SermReal *logits, SermPrediction *prediction, double *d_score);

/* predictions [count]: of each pair that of its best input, the first one among equals. */
extern SermStatus serm_cross_score(const SermCrossEncoder *opened, const SermCrossPair *pairs, uint32_t count,
    SermArena *scratch, SermPrediction *predictions, SermError *error);

#endif
