/*
 * The input of the interaction model: 59 lexical features (S6) and 14
 * interaction features of frozen embeddings (S9) of a query-document pair.
 */
#ifndef SERM_CORE_MODEL_FEATURES_H
#define SERM_CORE_MODEL_FEATURES_H

#include "core/math/vector.h"
#include "core/model/embedding.h"
#include "core/text/document.h"
#include "core/text/script.h"

#define SERM_LEXICAL_FEATURES 59
#define SERM_INTERACTION_FEATURES 14
/* Embeddings see the first words of a field only; pre-training samples from the same words. */
#define SERM_INTERACTION_QUERY_WORDS 32
#define SERM_INTERACTION_TITLE_WORDS 24
#define SERM_INTERACTION_BODY_WORDS 48
#define SERM_FEATURES (SERM_LEXICAL_FEATURES + SERM_INTERACTION_FEATURES)

#define SERM_SUPPORT_FULL 255

/* Fewer documents of a script than this are no collection of their own. */
#define SERM_SCRIPT_DOCUMENTS_MIN 20

/* Of the documents that are written in one script, as SermStatistics has them of all. */
typedef struct SermScriptStatistics {
	double document_count;
	double title_length;
	double body_length;
	double joined_length;
	double spelled_share;
} SermScriptStatistics;

/* Corpus statistics (S4). Word ids are sorted ascending; df[i] belongs to id[i]. */
typedef struct SermStatistics {
	double document_count;
	double title_length; /* mean words of the non-empty titles */
	double body_length;  /* mean words of the non-empty bodies */
	double joined_length;
	uint32_t word_count;
	const uint32_t *word_id;
	const uint32_t *word_df;
	/* The same of the trigrams of the words that documents spell; none in versions that have no guard by
	 * them. */
	uint32_t trigram_count;
	const uint32_t *trigram_id;
	const uint32_t *trigram_df;
	/* Share of the words of documents that are spelled, so that their trigrams are seen; 0: all, as in
	 * versions that did not count it. */
	double spelled_share;
	/* [word_count] How much of what documents with this word say was judged too, of SERM_SUPPORT_FULL (S17);
	 * NULL: of every word as much as there is. */
	const uint8_t *word_support;
	/* [SERM_SCRIPTS] NULL: fewer than two of them have SERM_SCRIPT_DOCUMENTS_MIN documents. */
	const SermScriptStatistics *scripts;
} SermStatistics;

/* What a pair looks like to the model: raw, before scaling (S10). */
typedef struct SermFeatures {
	float value[SERM_FEATURES];
	float bm25;    /* BM25 (k1 1.2, b .75) of the joined text, raw */
	float lexical; /* what words and their spelling say, without a label: one part of s0 (S14) */
	float support; /* of the query by judgments: what the heads say counts by it (S17) */
	float dot;     /* dot(title) + dot(body) of the mean vectors: the other part */
} SermFeatures;

typedef struct SermParsedQuery SermParsedQuery;

/* Index of a word id in word_id, or word_count when it was never seen. */
extern uint32_t serm_statistics_find(const SermStatistics *statistics, uint32_t word_id);

/* In how many documents a word occurs; 0 when it was never seen. */
extern uint32_t serm_statistics_df(const SermStatistics *statistics, uint32_t word_id);

/* idf = ln(1 + (N - df + .5) / (df + .5)) of a word id. */
extern double serm_statistics_idf(const SermStatistics *statistics, uint32_t word_id);

/* The same of a trigram. */
extern double serm_statistics_trigram_idf(const SermStatistics *statistics, uint32_t trigram);

/* The support of a word in [0, 1]; below 0 when it was never seen. Needs word_support. */
extern double serm_statistics_support(const SermStatistics *statistics, uint32_t word_id);

/*
 * The statistics that a query of `script` is scored by: those of the documents of that script, where they are
 * a collection; otherwise, and for SERM_SCRIPTS, those of all. Words, trigrams and support stay those of all:
 * hardly any document of another script has them.
 */
extern SermStatistics serm_statistics_of_script(const SermStatistics *statistics, SermScript script);

/* Count statistics over documents (title line feed body each); word arrays come from `arena`. */
extern SermStatus serm_statistics_count(const SermText *docs, size_t doc_count, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermStatistics *statistics, SermError *error);

/*
 * Parse a query once for any number of documents. With embedding->rows NULL the interaction
 * features and `dot` are 0. `statistics` and `embedding` must be those of the later calls.
 */
extern SermStatus serm_features_parse_query(const SermStatistics *statistics, const SermEmbedding *embedding,
    SermText query, SermArena *arena, SermParsedQuery **parsed, SermError *error);

/* Compute with what a processor of `level` has, at most; the features keep their bits. For tests. */
extern void serm_features_limit(SermParsedQuery *query, SermVectorLevel level);

/* Features of one pair. Cost is linear in the length of the document. */
extern void serm_features_of_document(const SermStatistics *statistics, const SermEmbedding *embedding,
    const SermParsedQuery *query, const SermDocument *doc, SermFeatures *features);

/* The same from text; `scratch` is used and rewound. */
extern SermStatus serm_features_compute(const SermStatistics *statistics, const SermEmbedding *embedding,
    const SermParsedQuery *query, SermText doc, SermArena *scratch, SermFeatures *features, SermError *error);

#endif
