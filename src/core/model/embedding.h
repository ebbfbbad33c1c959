/*
 * Hashed word embeddings (doc/model.md, S5 and S7): a word is the sum of its
 * own row and the rows of its 3-, 4- and 5-grams, brought to unit length. No
 * vocabulary, so no word is unknown.
 */
#ifndef SERM_CORE_MODEL_EMBEDDING_H
#define SERM_CORE_MODEL_EMBEDDING_H

#include "core/text/text.h"

#define SERM_EMBEDDING_WIDTH 32
#define SERM_EMBEDDING_ROWS (UINT32_C(1) << 17)
/* Words are read to this many code points when n-grams are taken: bounds the work per word. */
#define SERM_EMBEDDING_WORD_MAX 32
#define SERM_WORD_ROWS_MAX (1 + 3 * SERM_EMBEDDING_WORD_MAX)

/* Rows of a word: its own first, then its n-grams; returns how many, at most SERM_WORD_ROWS_MAX. */
extern uint32_t serm_embedding_rows(const uint32_t *code_points, uint32_t length, uint32_t *rows);

/*
 * Unit vectors and idf of the words met lately. It saves time and never changes a bit of a result; it is
 * written while it is read, so it belongs to one thread, one table and one set of statistics.
 */
typedef struct SermWordCache SermWordCache;

/*
 * A frozen table as it is stored and served: row r is rows[r][SERM_EMBEDDING_WIDTH] * scale[r].
 * `rows` is NULL while nothing has been trained; `cache` may be NULL.
 */
typedef struct SermEmbedding {
	const int8_t *rows;
	const float *scale;
	SermWordCache *cache;
} SermEmbedding;

/* About half a megabyte; NULL when the arena refuses. */
extern SermWordCache *serm_word_cache_create(SermArena *arena);

/* Quantise one row of the float table: scale = max |x| / 127, values rounded to nearest, ties to even. */
extern void serm_embedding_quantise(const float *row, int8_t *quantised, float *scale);

/*
 * e(word) = row[own] + (1/sqrt(m)) * sum of the m others. While pre-training the table is float32
 * [SERM_EMBEDDING_ROWS][SERM_EMBEDDING_WIDTH]; `vector` gets the sum before normalising.
 */
extern void serm_embedding_sum(const float *table, const uint32_t *rows, uint32_t count, float *vector);

/* n(word) = e/|e| of a word's rows over the frozen table; a zero vector stays zero. */
extern void serm_embedding_unit(
    const SermEmbedding *embedding, const uint32_t *rows, uint32_t count, float *unit);

/* n(word) over the frozen table; a zero vector stays zero. */
extern void serm_embedding_word(
    const SermEmbedding *embedding, const uint32_t *code_points, uint32_t length, float *unit);

/* n(word) of the first `count` words, [count][SERM_EMBEDDING_WIDTH]; false when `scratch` is exhausted. */
extern bool serm_embedding_words(
    const SermEmbedding *embedding, const SermWords *words, uint32_t count, SermArena *scratch, float *units);

#endif
