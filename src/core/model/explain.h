/*
 * Explaining a score of the interaction model (doc/scoring.md): integrated
 * gradients say what each feature brings, and each feature is a sum, a share
 * or a largest value over terms of the query and fields of the document, by
 * which its part is divided. Private to core/model.
 */
#ifndef SERM_CORE_MODEL_EXPLAIN_H
#define SERM_CORE_MODEL_EXPLAIN_H

#include "core/model/features_parts.h"
#include "core/model/interaction.h"

/* `text` is the text of `query`. Everything comes from `arena`. */
extern SermStatus serm_interaction_explain(const SermInteractionParts *parts, const SermParsedQuery *query,
    SermText text, const SermDocument *doc, SermArena *arena, SermExplanation *explanation, SermError *error);

/* --- explain_words.c: what the terms meet in one field */

typedef struct SermExplainField {
	const SermDocumentField *words;
	uint32_t window;                               /* words that embeddings see */
	SermField field;                               /* as scoring reads it */
	uint32_t pairs_adjacent[SERM_QUERY_WORDS_MAX]; /* of the query's adjacent pairs that the term is in */
	uint32_t pairs_near[SERM_QUERY_WORDS_MAX];     /* so many are adjacent, or near */
	uint32_t trigrams[SERM_QUERY_WORDS_MAX];       /* of the term's trigrams so many occur */
	double kernels[SERM_QUERY_WORDS_MAX]
	              [SERM_KERNELS];           /* what the term adds to K, above words without relation */
	double dot[SERM_QUERY_WORDS_MAX];       /* and to the dot product */
	SermText word[SERM_QUERY_WORDS_MAX];    /* what the term meets; length 0: nothing */
	double closeness[SERM_QUERY_WORDS_MAX]; /* by which `word` was chosen; 0 while it is empty */
} SermExplainField;

/* `terms` [term_count] are the terms as UTF-8. False when `arena` is exhausted. */
extern bool serm_explain_field(const SermPair *pair, const SermText *terms, const SermDocumentField *words,
    uint32_t window, double average_length, SermArena *arena, SermExplainField *found);

#endif
