/*
 * The input of the interaction model: 59 lexical features (S6) and 14
 * interaction features of frozen embeddings (S9) of a query-document pair.
 */
#ifndef SERM_CORE_MODEL_FEATURES_H
#define SERM_CORE_MODEL_FEATURES_H

#include "core/model/embedding.h"

#define SERM_LEXICAL_FEATURES 59
#define SERM_INTERACTION_FEATURES 14
#define SERM_FEATURES (SERM_LEXICAL_FEATURES + SERM_INTERACTION_FEATURES)

/* Corpus statistics (S4). Word ids are sorted ascending; df[i] belongs to id[i]. */
typedef struct SermStatistics {
	double document_count;
	double title_length; /* mean words of the non-empty titles */
	double body_length;  /* mean words of the non-empty bodies */
	double joined_length;
	uint32_t word_count;
	const uint32_t *word_id;
	const uint32_t *word_df;
} SermStatistics;

/* What a pair looks like to the model: raw, before scaling (S10). */
typedef struct SermFeatures {
	float value[SERM_FEATURES];
	float bm25; /* BM25 (k1 1.2, b .75) of the joined text, raw: one part of the guard s0 (S14) */
	float dot;  /* dot(title) + dot(body) of the mean vectors: the other part */
} SermFeatures;

typedef struct SermParsedQuery SermParsedQuery;

/* idf = ln(1 + (N - df + .5) / (df + .5)) of a word id. */
extern double serm_statistics_idf(const SermStatistics *statistics, uint32_t word_id);

/* Count statistics over documents (title line feed body each); word arrays come from `arena`. */
extern SermStatus serm_statistics_count(const SermText *docs, size_t doc_count, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermStatistics *statistics, SermError *error);

/* `embedding` may be NULL while it is not trained yet: interaction features are 0 then. */
extern SermStatus serm_features_parse_query(const SermStatistics *statistics, const float *embedding,
    SermText query, SermArena *arena, SermParsedQuery **parsed, SermError *error);

/* Features of one pair; `scratch` is used and rewound. Cost is linear in the length of the document. */
extern SermStatus serm_features_compute(const SermStatistics *statistics, const float *embedding,
    const SermParsedQuery *query, SermText doc, SermArena *scratch, SermFeatures *features, SermError *error);

#endif
