/*
 * What the parts of feature computation share: the parsed query, and the state
 * of one field of one document while its features are taken. Private to
 * features*.c.
 *
 * A *term* is a distinct word of the query; sets of terms are 64-bit masks,
 * which is what SERM_QUERY_WORDS_MAX is for.
 */
#ifndef SERM_CORE_MODEL_FEATURES_PARTS_H
#define SERM_CORE_MODEL_FEATURES_PARTS_H

#include "core/model/features.h"

#define SERM_BM25_K1 1.2
#define SERM_BM25_B 0.75

#define SERM_FIELD_FEATURES 20
#define SERM_JOINED_FEATURES 9
#define SERM_GLOBAL_FEATURES 10

/* Fuzzy and compound matching and trigram sets see the first words of a field only (S6). */
#define SERM_FUZZY_WORDS_MAX 32
/* Of the unmatched terms, so many of highest idf are compared by trigrams. */
#define SERM_FUZZY_TERMS_MAX 8
#define SERM_FUZZY_DICE_MIN 0.4f
/* A word is read to this many code points when trigrams are taken; it has as many trigrams at most. */
#define SERM_TRIGRAMS_MAX 32

#define SERM_TERM_NONE 0xff
#define SERM_TERM_SLOTS 256

#define SERM_KERNELS 6
#define SERM_LANES 8

/* Distinct trigram hashes of `<word>`, none of them 0. */
typedef struct SermTrigrams {
	uint32_t *hashes;
	uint32_t count;
	uint64_t signature; /* bit h >> 26 of each */
} SermTrigrams;

/* Trigrams of many words as an open-addressing table; 0 is an empty slot. */
typedef struct SermTrigramSet {
	uint32_t *slots;
	uint32_t size; /* a power of two */
	uint32_t count;
} SermTrigramSet;

typedef struct SermTerm {
	uint32_t id;
	bool number;
	double idf;
	uint64_t hash;  /* polynomial, for compounds */
	uint64_t next;  /* terms that follow this one in the query */
	uint64_t power; /* of the base, to the length of the word */
	SermTrigrams trigrams;
} SermTerm;

/* Two adjacent words of the query, joined. */
typedef struct SermCompound {
	uint64_t hash;
	uint64_t terms; /* the two */
} SermCompound;

struct SermParsedQuery {
	uint32_t token_count; /* words in order, repeated ones too */
	uint8_t tokens[SERM_QUERY_WORDS_MAX];
	uint8_t failure[SERM_QUERY_WORDS_MAX]; /* Knuth-Morris-Pratt over `tokens` */
	uint32_t term_count;
	SermTerm terms[SERM_QUERY_WORDS_MAX];
	uint8_t slots[SERM_TERM_SLOTS];       /* id to term: open addressing, SERM_TERM_NONE is empty */
	uint8_t by_idf[SERM_QUERY_WORDS_MAX]; /* terms, highest idf first */
	uint64_t numbers;                     /* the terms that are numbers */
	uint32_t pair_count;                  /* adjacent tokens that differ */
	uint32_t unseen_count;                /* terms that no document has */
	double weight;                        /* sum of idf over the terms */
	double idf_max;                       /* largest idf that the corpus allows */
	uint32_t compound_count;
	SermCompound compounds[SERM_QUERY_WORDS_MAX];
	uint64_t compound_signature; /* bit hash >> 58 of each compound */
	uint64_t term_signature;     /* and of each term that is not a number */
	SermTrigramSet trigrams;

	/* Embeddings: tokens lie in lanes, so that one document word meets SERM_LANES of them at once. */
	uint32_t lane_groups;                      /* 0 without embeddings */
	float *lanes;                              /* [lane_groups][SERM_EMBEDDING_WIDTH][SERM_LANES] */
	float share[SERM_INTERACTION_QUERY_WORDS]; /* of the idf, per token */
	float mean[SERM_EMBEDDING_WIDTH];          /* sum of share * unit */
};

typedef struct SermField {
	SermWords words;
	double average_length;             /* of this field in the corpus */
	float *idf;                        /* per word */
	uint8_t *term;                     /* per word: the term it is, or SERM_TERM_NONE */
	SermTrigrams *trigrams;            /* of the first SERM_FUZZY_WORDS_MAX words */
	uint64_t matched;                  /* terms that occur */
	uint32_t tf[SERM_QUERY_WORDS_MAX]; /* per term */
	float fuzzy[SERM_QUERY_WORDS_MAX]; /* fz per term */
	uint32_t trigrams_common;          /* distinct trigrams that the query has too */
	uint32_t trigrams_count;           /* distinct trigrams */
} SermField;

static inline uint32_t
serm_term_find(const SermParsedQuery *query, uint32_t id)
{
	uint32_t at = id % SERM_TERM_SLOTS;

	while (query->slots[at] != SERM_TERM_NONE && query->terms[query->slots[at]].id != id)
		at = (at + 1) % SERM_TERM_SLOTS;
	return query->slots[at];
}

/* features_fuzzy.c. Functions that take an arena return false when it is exhausted. */
extern bool serm_trigrams_of_words(
    const SermWords *words, uint32_t count, SermArena *arena, SermTrigrams *trigrams);
extern bool serm_trigrams_of_query(SermParsedQuery *query, const SermWords *words, SermArena *arena);
extern void serm_compounds_of(SermParsedQuery *query, const SermWords *words);
/* Fill fuzzy[], trigrams_common and trigrams_count of a field whose matches are known. */
extern bool serm_field_compare(const SermParsedQuery *query, SermField *field, SermArena *scratch);

/* features_lexical.c */
extern double serm_bm25(
    const SermParsedQuery *query, const uint32_t *tf, double length, double average_length);
extern double serm_terms_weight(const SermParsedQuery *query, uint64_t terms);
/* Find the terms in the words of a field: term[], tf[] and matched. */
extern void serm_field_match(const SermParsedQuery *query, SermField *field);
/* The features of one field that is not empty, [SERM_FIELD_FEATURES]. */
extern void serm_field_features(const SermParsedQuery *query, const SermField *field, float *value);

/* features_pooling.c */
extern bool serm_pooling_parse(
    const SermEmbedding *embedding, const SermWords *words, SermArena *arena, SermParsedQuery *query);
/* K_k of the first `window` words of a field, [SERM_KERNELS], and the dot product of the means. */
extern bool serm_pooling_field(const SermEmbedding *embedding, const SermParsedQuery *query,
    const SermField *field, uint32_t window, SermArena *scratch, float *kernels, float *dot);

#endif
