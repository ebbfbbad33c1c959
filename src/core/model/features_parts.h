/*
 * What the parts of feature computation share: the parsed query, what one word
 * of a document means to it, and the state of one field while its features are
 * taken. Private to features*.c.
 *
 * A *term* is a distinct word of the query; sets of terms are 64-bit masks,
 * which is what SERM_QUERY_WORDS_MAX is for.
 */
#ifndef SERM_CORE_MODEL_FEATURES_PARTS_H
#define SERM_CORE_MODEL_FEATURES_PARTS_H

#include "core/model/features.h"
#include "core/model/word_cache.h"

#define SERM_BM25_K1 1.2
#define SERM_BM25_B 0.75
/* Of the likeness of words in what words and their spelling say. */
#define SERM_LIKENESS_SHARE 0.5

#define SERM_FIELD_FEATURES 20
#define SERM_JOINED_FEATURES 9
#define SERM_GLOBAL_FEATURES 10

/* Fuzzy and compound matching and trigram sets see the first words of a field only (S6). */
#define SERM_FUZZY_WORDS_MAX SERM_TRIGRAM_WORDS
/* Of the unmatched terms, so many of highest idf are compared by trigrams. */
#define SERM_FUZZY_TERMS_MAX 8
#define SERM_FUZZY_DICE_MIN 0.4f

/* A word of a document as serm_term_find() tells it: a term, perhaps with the flag, or none. */
#define SERM_TERM_NONE 0xff
#define SERM_TERM_KIN 0x80 /* no word of the query, but kin to this term */
#define SERM_TERM_SLOTS 1024
/* Of the kin of a term so many are looked for, and so many of all terms: half of the slots stay empty. */
#define SERM_KIN_MAX 16
#define SERM_FORMS_MAX (SERM_TERM_SLOTS / 2)

/* Longer words are no parts of compounds. */
#define SERM_POWERS 65
#define SERM_TRIGRAM_MASKS_MAX (SERM_QUERY_WORDS_MAX * SERM_TRIGRAMS_MAX / 64)

#define SERM_KERNELS 6
#define SERM_LANES 8
#define SERM_LANE_GROUPS_MAX (SERM_INTERACTION_QUERY_WORDS / SERM_LANES)

/* The distinct trigrams of the query, numbered; open addressing, hash 0 is an empty slot. */
typedef struct SermTrigramIndex {
	uint32_t size; /* a power of two */
	uint32_t count;
	uint32_t *hashes;
	uint16_t *numbers;
	uint64_t *terms; /* per number: the terms that have it and are no numbers */
	uint64_t *masks; /* [term_count][trigram_masks]: the trigrams of each term */
} SermTrigramIndex;

typedef struct SermTerm {
	uint32_t id;
	bool number;
	uint8_t trigram_count;
	double idf;
	double kin_idf; /* of documents with the term or its kin, at most idf */
	uint64_t hash;  /* polynomial, for compounds */
} SermTerm;

/* Two adjacent words of the query, joined. */
typedef struct SermCompound {
	uint64_t hash;
	uint64_t terms; /* the two */
} SermCompound;

struct SermParsedQuery {
	SermVectorLevel level;
	SermStatistics statistics; /* that it is scored by: of its script, or of all */
	SermScript script;         /* SERM_SCRIPTS: of all */
	uint64_t foreign;          /* the terms that are not of the script */
	/* Where the cache keeps idf by these statistics: the pair of an id is at base + (id >> shift << 1). */
	uint32_t idf_base, idf_shift;
	uint64_t serial;      /* of the queries that were parsed with this cache */
	uint32_t token_count; /* words in order, repeated ones too */
	uint8_t tokens[SERM_QUERY_WORDS_MAX];
	uint8_t failure[SERM_QUERY_WORDS_MAX]; /* Knuth-Morris-Pratt over `tokens` */
	uint32_t term_count;
	SermTerm terms[SERM_QUERY_WORDS_MAX];
	uint32_t form_count;                    /* terms, and words that are kin to them */
	uint64_t present[SERM_TERM_SLOTS / 64]; /* bit id % SERM_TERM_SLOTS of each form */
	uint32_t slot_id[SERM_TERM_SLOTS];      /* of forms: open addressing */
	uint8_t slots[SERM_TERM_SLOTS];         /* what serm_term_find() gives; SERM_TERM_NONE is empty */
	uint8_t by_idf[SERM_QUERY_WORDS_MAX];   /* terms, highest idf first */
	uint64_t numbers;                       /* the terms that are numbers */
	uint32_t pair_count;                    /* adjacent tokens that differ */
	uint32_t unseen_count;                  /* terms that no document has */
	double weight;                          /* sum of idf over the terms */
	double kin_weight;                      /* sum of kin_idf */
	double idf_max;                         /* largest idf that the corpus allows */
	uint32_t compound_count;
	SermCompound compounds[SERM_QUERY_WORDS_MAX];
	uint64_t compound_signature; /* bit hash >> 58 of each compound */
	uint64_t term_signature;     /* and of each term that is not a number */
	SermTrigramIndex trigrams;
	float *trigram_idf;    /* [trigrams.count] by number; NULL without statistics of trigrams */
	double trigram_weight; /* their sum */

	/* Embeddings: tokens lie in lanes, so that one document word meets SERM_LANES of them at once. */
	uint32_t lane_groups;             /* 0 without embeddings */
	float *lanes;                     /* [lane_groups][SERM_EMBEDDING_WIDTH][SERM_LANES] */
	float *share;                     /* of the idf, per token: [lane_groups][SERM_LANES] */
	float mean[SERM_EMBEDDING_WIDTH]; /* sum of share * unit */

	/* Where the cosines of a SermWordMatch lie, and its whole size, in bytes. */
	uint32_t match_cosines;
	uint32_t match_size;
	uint32_t trigram_masks;       /* 64 trigrams of the query each */
	uint64_t powers[SERM_POWERS]; /* of the base of compounds */
	double support;               /* in [0, 1], by judgments; here it moves nothing that loops read */
};

/*
 * What a word of a document means to a query, in one cache line for most queries. Behind it lie uint64
 * [trigram_masks], which trigrams of the query it has, and at the place that the query tells, float
 * [lane_groups][SERM_LANES], its cosines with the words of the query.
 */
typedef struct SermWordMatch {
	float idf;
	float dot;      /* with the mean of the query's units */
	uint8_t term;   /* by serm_term_find() */
	uint8_t length; /* code points; 0 for a number, which is no part of a compound */
	bool similar;   /* to terms other than itself, or equal to a compound: serm_spell_word() says how */
	bool close;     /* to a word of the query, so that the narrow kernel is more than 0 */
	uint64_t hash;  /* polynomial */
} SermWordMatch;

/* What the spelling of a word says. */
typedef struct SermSpelling {
	uint64_t trigrams[SERM_TRIGRAM_MASKS_MAX];
	uint64_t hash;
	uint64_t compounds;               /* terms that are matched because two of them joined are this word */
	uint64_t similar;                 /* terms that are no numbers and as similar as SERM_FUZZY_DICE_MIN */
	float dice[SERM_QUERY_WORDS_MAX]; /* of each of them */
} SermSpelling;

typedef struct SermField {
	uint32_t count;                      /* words */
	double average_length;               /* of this field in the corpus */
	double idf_all;                      /* sum over the words */
	double idf_matched;                  /* over those that are terms */
	uint64_t matched;                    /* terms that occur */
	uint64_t kin_matched;                /* or whose kin does */
	uint32_t match_count;                /* words that are terms, in order: */
	uint16_t place[SERM_BODY_WORDS_MAX]; /* index among all words */
	uint8_t term[SERM_BODY_WORDS_MAX];
	uint32_t tf[SERM_QUERY_WORDS_MAX];     /* per term */
	uint32_t kin_tf[SERM_QUERY_WORDS_MAX]; /* and its kin */
	float fuzzy[SERM_QUERY_WORDS_MAX];     /* strength per term */
	uint32_t trigrams_common;              /* distinct trigrams that the query has too */
	uint32_t trigrams_count;               /* distinct trigrams */
	/* Words that have each trigram of the query; a word that is not spelled counts when it is a term. */
	uint16_t trigram_tf[SERM_QUERY_WORDS_MAX * SERM_TRIGRAMS_MAX];
	uint64_t trigrams_met[SERM_TRIGRAM_MASKS_MAX]; /* those that any word has */
	float kernels[SERM_KERNELS];
	float dot;
} SermField;

/* What computing features of one pair needs everywhere. */
typedef struct SermPair {
	const SermStatistics *statistics;
	const SermEmbedding *embedding;
	const SermParsedQuery *query;
} SermPair;

/* The slot of a form, or the empty one where it would be. */
static inline uint32_t
serm_term_slot(const SermParsedQuery *query, uint32_t id)
{
	uint32_t at = id % SERM_TERM_SLOTS;

	while (query->slots[at] != SERM_TERM_NONE && query->slot_id[at] != id)
		at = (at + 1) % SERM_TERM_SLOTS;
	return at;
}

/* The term that a word is, or with SERM_TERM_KIN the term that it is kin to, or SERM_TERM_NONE. */
static inline uint32_t
serm_term_find(const SermParsedQuery *query, uint32_t id)
{
	uint32_t at = id % SERM_TERM_SLOTS;

	if ((query->present[at / 64] >> at % 64 & 1) == 0)
		return SERM_TERM_NONE;
	return query->slots[serm_term_slot(query, id)];
}

/* The term itself of what is not SERM_TERM_NONE. */
static inline uint32_t
serm_term_of(uint32_t found)
{
	return found & ~(uint32_t) SERM_TERM_KIN;
}

/* A word that serm_term_find() found. */
static inline void
serm_field_add_match(SermField *field, uint32_t place, uint32_t found, float idf)
{
	uint32_t term = serm_term_of(found);

	field->kin_tf[term]++;
	field->kin_matched |= UINT64_C(1) << term;
	if (found != term)
		return;
	field->place[field->match_count] = (uint16_t) place;
	field->term[field->match_count++] = (uint8_t) term;
	field->tf[term]++;
	field->matched |= UINT64_C(1) << term;
	field->idf_matched += idf;
}

/* Does a term have the trigram of this number? */
static inline bool
serm_term_has_trigram(const SermParsedQuery *query, uint32_t term, uint32_t number)
{
	const uint64_t *mask = query->trigrams.masks + (size_t) term * query->trigram_masks;

	return (mask[number / 64] >> number % 64 & 1) != 0;
}

static inline uint64_t
serm_compound_bit(uint64_t hash)
{
	return UINT64_C(1) << (hash >> 58);
}

static inline uint64_t *
serm_match_trigrams(const SermWordMatch *match)
{
	return (uint64_t *) (match + 1);
}

static inline float *
serm_match_cosines(const SermParsedQuery *query, const SermWordMatch *match)
{
	return (float *) ((char *) match + query->match_cosines);
}

/* features_fuzzy.c. Functions that take an arena return false when it is exhausted. */
extern bool serm_trigrams_of_query(SermParsedQuery *query, const SermWords *words, SermArena *arena);
extern void serm_compounds_of(SermParsedQuery *query, const SermWords *words);
extern void serm_spell_word(const SermParsedQuery *query, const uint32_t *code_points, uint32_t length,
    bool number, SermSpelling *spelling);
/* Fill fuzzy[] of a field: `compounds` are matched by joined words, `dice` is the best of the words per term.
 */
extern void serm_field_fuzzy(
    const SermParsedQuery *query, SermField *field, uint64_t compounds, const float *dice);

/* Look the trigrams of a query up in the statistics. */
extern bool serm_trigrams_weigh(const SermStatistics *statistics, SermParsedQuery *query, SermArena *arena);
/* BM25 over trigrams as a share of their weight. */
extern double serm_trigrams_bm25(
    const SermParsedQuery *query, const SermField *title, const SermField *body, double average_length);

/* features_lexical.c */
extern double serm_bm25(
    const SermParsedQuery *query, const uint32_t *tf, double length, double average_length);
/* The same of terms and their kin. */
extern double serm_kin_bm25(
    const SermParsedQuery *query, const uint32_t *kin_tf, double length, double average_length);
extern double serm_terms_weight(const SermParsedQuery *query, uint64_t terms);
extern double serm_kin_weight(const SermParsedQuery *query, uint64_t terms);
/* The features of one field that is not empty, [SERM_FIELD_FEATURES]. */
extern void serm_field_features(const SermParsedQuery *query, const SermField *field, float *value);

/* features_pooling.c */
extern bool serm_pooling_parse(
    const SermEmbedding *embedding, const SermWords *words, SermArena *arena, SermParsedQuery *query);
/*
 * cosines[lane_groups][SERM_LANES] of one unit vector with the query's words, and its dot with their mean.
 * Is one of them so close that the narrow kernel is more than 0?
 */
extern bool serm_pooling_word(const SermParsedQuery *query, const float *unit, float *cosines, float *dot);
/* K_k of the sums of kernels over the words of a field, [SERM_KERNELS]. */
extern void serm_pooling_finish(const SermParsedQuery *query, const float *sums, float *kernels);

/* features_words.c */
extern void serm_match_layout(SermParsedQuery *query);
/* Read a field that is not empty: matches, sums, fuzzy[], trigrams, kernels and dot of its first `window`
 * words. */
extern void serm_field_read(
    const SermPair *pair, const SermDocumentField *words, uint32_t window, SermField *field);

#endif
