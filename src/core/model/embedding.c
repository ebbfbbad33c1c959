/*
 * Hashed embeddings of words and character n-grams, after Bojanowski et al.
 * 2017 (fastText) and Tito Svenstrup et al. 2017 (hash embeddings).
 *
 * The sum over int8 rows exists twice, for AVX2 and for any processor. Both
 * do the same operations on each component in the same order and none of them
 * fuses, so a word has the same bits on every x86-64.
 */
#include "core/model/embedding.h"

#include <math.h>
#include <string.h>

#include "core/model/word_cache.h"
#include "core/text/ngram.h"

#define WIDTH SERM_EMBEDDING_WIDTH
#define LANES 8
#define ROW_MASK (SERM_EMBEDDING_ROWS - 1)
#define SEED_WORD 101
#define SEED_NGRAM 300
#define NGRAM_MIN 3
#define NGRAM_MAX 5

static_assert(NGRAM_MIN == 3 && NGRAM_MAX == 5, "hash_ngrams() knows these");

/* Rows of the n-grams of a framed word; the constant n's are unrolled. */
static inline __attribute__((always_inline)) uint32_t
hash_ngrams_of(const uint32_t *framed, uint32_t size, uint32_t n, uint32_t *rows)
{
	for (uint32_t start = 0; start + n <= size; start++) {
		uint32_t hash = serm_hash_begin(SEED_NGRAM + n);

		hash = serm_hash_step(hash, framed[start]);
		hash = serm_hash_step(hash, framed[start + 1]);
		hash = serm_hash_step(hash, framed[start + 2]);
		if (n > 3)
			hash = serm_hash_step(hash, framed[start + 3]);
		if (n > 4)
			hash = serm_hash_step(hash, framed[start + 4]);
		rows[start] = serm_hash_end(hash) & ROW_MASK;
	}
	return size - n + 1;
}

static uint32_t
hash_ngrams(const uint32_t *framed, uint32_t size, uint32_t n, uint32_t *rows)
{
	return n == 3   ? hash_ngrams_of(framed, size, 3, rows)
	       : n == 4 ? hash_ngrams_of(framed, size, 4, rows)
	                : hash_ngrams_of(framed, size, 5, rows);
}

uint32_t
serm_embedding_rows(const uint32_t *code_points, uint32_t length, uint32_t *rows)
{
	uint32_t framed[SERM_EMBEDDING_WORD_MAX + 2];
	uint32_t count = 0, size;

	rows[count++] = serm_text_hash(code_points, length, SEED_WORD) & ROW_MASK;
	size = serm_word_frame(
	    code_points, length < SERM_EMBEDDING_WORD_MAX ? length : SERM_EMBEDDING_WORD_MAX, framed);
	for (uint32_t n = NGRAM_MIN; n <= NGRAM_MAX && n < size; n++)
		count += hash_ngrams(framed, size, n, rows + count);
	SERM_ASSERT(count <= SERM_WORD_ROWS_MAX);
	return count;
}

void
serm_embedding_quantise(const float *row, int8_t *quantised, float *scale)
{
	float largest = 0, inverse;

	for (int i = 0; i < WIDTH; i++)
		largest = fabsf(row[i]) > largest ? fabsf(row[i]) : largest;
	*scale = largest / 127;
	/* A row of denormals has no inverse: it is as good as zero. */
	if (!(largest > 1e-30f))
		*scale = 0;
	inverse = *scale > 0 ? 127 / largest : 0;
	for (int i = 0; i < WIDTH; i++) {
		float value = rintf(row[i] * inverse);

		quantised[i] = (int8_t) (value > 127 ? 127 : value < -127 ? -127 : value);
	}
}

void
serm_embedding_sum(const float *table, const uint32_t *rows, uint32_t count, float *vector)
{
	float sum[WIDTH] = {0};
	const float *own = table + (size_t) rows[0] * WIDTH;
	float share = count > 1 ? 1 / sqrtf((float) (count - 1)) : 0;

	for (uint32_t r = 1; r < count; r++) {
		const float *row = table + (size_t) rows[r] * WIDTH;

		for (int i = 0; i < WIDTH; i++)
			sum[i] += row[i];
	}
	for (int i = 0; i < WIDTH; i++)
		vector[i] = own[i] + share * sum[i];
}

static inline __attribute__((always_inline)) void
sum_rows(const SermEmbedding *embedding, const uint32_t *rows, uint32_t count, float *restrict vector)
{
	float sum[WIDTH] = {0};
	const int8_t *own = embedding->rows + (size_t) rows[0] * WIDTH;
	float own_scale = embedding->scale[rows[0]];
	float share = count > 1 ? 1 / sqrtf((float) (count - 1)) : 0;

	for (uint32_t r = 1; r < count; r++) {
		const int8_t *row = embedding->rows + (size_t) rows[r] * WIDTH;
		float scale = embedding->scale[rows[r]];

		for (int i = 0; i < WIDTH; i++)
			sum[i] += scale * (float) row[i];
	}
	for (int i = 0; i < WIDTH; i++)
		vector[i] = own_scale * (float) own[i] + share * sum[i];
}

#if defined(__x86_64__)
/* Without fma in the target nothing is fused, so the bits are those of the portable twin. */
__attribute__((target("avx2"))) static void
sum_rows_avx2(const SermEmbedding *embedding, const uint32_t *rows, uint32_t count, float *vector)
{
	sum_rows(embedding, rows, count, vector);
}
#endif

static void
sum_rows_portable(const SermEmbedding *embedding, const uint32_t *rows, uint32_t count, float *vector)
{
	sum_rows(embedding, rows, count, vector);
}

void
serm_embedding_unit(const SermEmbedding *embedding, const uint32_t *rows, uint32_t count, float *unit)
{
	float square[LANES] = {0}, norm;

#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		sum_rows_avx2(embedding, rows, count, unit);
	else
#endif
		sum_rows_portable(embedding, rows, count, unit);
	for (int i = 0; i < WIDTH; i += LANES)
		for (int lane = 0; lane < LANES; lane++)
			square[lane] += unit[i + lane] * unit[i + lane];
	norm = sqrtf(((square[0] + square[4]) + (square[2] + square[6])) +
	             ((square[1] + square[5]) + (square[3] + square[7])));
	norm = norm > 0 ? 1 / norm : 0;
	for (int i = 0; i < WIDTH; i++)
		unit[i] *= norm;
}

void
serm_embedding_word(const SermEmbedding *embedding, const uint32_t *code_points, uint32_t length, float *unit)
{
	uint32_t rows[SERM_WORD_ROWS_MAX];
	uint32_t count = serm_embedding_rows(code_points, length, rows);

	serm_embedding_unit(embedding, rows, count, unit);
}

static void
table_init(SermWordTable *table, uint32_t entry_bits, SermWordKey *keys)
{
	table->bits = entry_bits - 1;
	table->epoch = 1;
	table->keys = keys;
	memset(keys, 0, sizeof(SermWordKey) << entry_bits);
}

SermWordCache *
serm_word_cache_create(SermArena *arena)
{
	const size_t keys_bytes = sizeof(SermWordKey) << SERM_CACHE_MATCHES_BITS;
	const size_t idfs_bytes = sizeof(SermCachedIdf) << SERM_CACHE_IDFS_BITS;
	SermWordCache *cache = serm_arena_alloc(arena, sizeof(SermWordCache));
	SermWordKey *unit_keys = serm_arena_reserve(arena, sizeof(SermWordKey) << SERM_CACHE_UNITS_BITS);
	float *unit = serm_arena_reserve(arena, (sizeof(float) * WIDTH) << SERM_CACHE_UNITS_BITS);
	/* Memory that is never touched is never taken: the slack for the alignment costs addresses only. */
	unsigned char *page = serm_arena_reserve(arena, 2 * SERM_CACHE_PAGE);

	static_assert((sizeof(SermWordKey) << SERM_CACHE_MATCHES_BITS) +
	                      (sizeof(SermCachedIdf) << SERM_CACHE_IDFS_BITS) + SERM_CACHE_MATCH_BYTES <=
	                  SERM_CACHE_PAGE,
	    "the tables fit");
	if (cache == NULL || unit_keys == NULL || unit == NULL || page == NULL)
		return NULL;
	page += -(uintptr_t) page % SERM_CACHE_PAGE;
	table_init(&cache->matches, SERM_CACHE_MATCHES_BITS, (SermWordKey *) page);
	cache->idfs = memset(page + keys_bytes, 0, idfs_bytes);
	cache->match = page + keys_bytes + idfs_bytes;
	table_init(&cache->units, SERM_CACHE_UNITS_BITS, unit_keys);
	cache->unit = unit;
	return cache;
}

bool
serm_embedding_words(
    const SermEmbedding *embedding, const SermWords *words, uint32_t count, SermArena *scratch, float *units)
{
	uint32_t *rows = serm_arena_array(scratch, (size_t) count * SERM_WORD_ROWS_MAX, sizeof(uint32_t));
	uint32_t *row_counts = serm_arena_array(scratch, count, sizeof(uint32_t));
	uint32_t used = 0;

	if (rows == NULL || row_counts == NULL)
		return false;
	/* All rows are asked for before the first is added: the table is larger than the near caches. */
	for (uint32_t i = 0; i < count; i++) {
		const SermWord *word = &words->words[i];

		row_counts[i] = serm_embedding_rows(words->code_points + word->start, word->length, rows + used);
		for (uint32_t r = 0; r < row_counts[i]; r++) {
			__builtin_prefetch(embedding->rows + (size_t) rows[used + r] * WIDTH);
			__builtin_prefetch(embedding->scale + rows[used + r]);
		}
		used += row_counts[i];
	}
	for (uint32_t i = 0; i < count; i++) {
		serm_embedding_unit(embedding, rows, row_counts[i], units + (size_t) i * WIDTH);
		rows += row_counts[i];
	}
	return true;
}
