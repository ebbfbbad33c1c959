/*
 * Reading the words of a field (S6, S9): for each word what it means to the
 * query, summed up over the field. A query is met by many documents and most
 * of their words by each of them, so the meanings are kept in the word cache
 * (as Ji et al. 2019 precompute term interactions of K-NRM): a word met before
 * costs a look-up and its kernels.
 *
 * The loop exists once per instruction set, with the same operations in the
 * same order: the bits are the same.
 */
#include <string.h>

#include "core/model/features_lanes.h"

#define SUMS_MAX (SERM_LANE_GROUPS_MAX * SERM_KERNELS * SERM_LANES)
#define LANE_BYTES (SERM_LANES * sizeof(float))
#define MATCH_SIZE_MAX                                                                                       \
	((sizeof(SermWordMatch) + SERM_TRIGRAM_MASKS_MAX * sizeof(uint64_t) + LANE_BYTES +                       \
	     SERM_LANE_GROUPS_MAX * LANE_BYTES + 63) /                                                           \
	    64 * 64)
#define WORDS_MAX SERM_DOCUMENT_BODY_SPELLED
/* Room for the rows of some 60 ordinary words; those of more are found when they are needed. */
#define ROWS_AHEAD_MAX 1536

static_assert(SERM_DOCUMENT_TITLE_SPELLED <= WORDS_MAX, "every field fits");

/* A spelled word, and what is known of it. */
typedef struct Word {
	const unsigned char *bytes;
	uint32_t length;
	bool number;
	bool keyed; /* short enough to be cached */
	uint32_t match_set;
	uint32_t unit_set;
	uint32_t unit; /* its entry, once that is looked for */
	uint16_t row_start;
	uint16_t row_count; /* 0: not found yet */
	SermWordKey key;
} Word;

/* The spelled words of a field while it is read. */
typedef struct Reading {
	const SermPair *pair;
	SermWordCache *cache; /* NULL: not to be used */
	uint32_t count;
	Word word[WORDS_MAX];
	const SermWordMatch *match[WORDS_MAX];
	uint32_t missing_count;
	uint8_t missing[WORDS_MAX];
	uint32_t rows_used;
	uint32_t rows[ROWS_AHEAD_MAX];
	unsigned char spare[WORDS_MAX][MATCH_SIZE_MAX] __attribute__((aligned(64))); /* for what is not cached */
} Reading;

/* What is summed over the spelled words of a field. */
typedef struct Sums {
	uint64_t trigrams[SERM_TRIGRAM_MASKS_MAX];
	uint64_t compounds;
	float dice[SERM_QUERY_WORDS_MAX]; /* best so far, per term */
	float kernels[SUMS_MAX];
	float weight; /* idf of the words of the window */
	float dot;    /* idf times dot of them */
} Sums;

void
serm_match_layout(SermParsedQuery *query)
{
	uint32_t place = sizeof(SermWordMatch);

	place += query->trigram_masks * (uint32_t) sizeof(uint64_t);
	query->match_cosines = (place + LANE_BYTES - 1) / LANE_BYTES * LANE_BYTES;
	place = query->match_cosines + query->lane_groups * LANE_BYTES;
	query->match_size = (place + 63) / 64 * 64;
	SERM_ASSERT(query->match_size <= MATCH_SIZE_MAX);
}

/* --- the cache */

static inline SermCachedIdf *
idf_pair(SermWordCache *cache, const SermParsedQuery *query, uint32_t id)
{
	return &cache->idfs[query->idf_base + (id >> query->idf_shift << 1)];
}

/* Sets of two: an idf that is looked for and found second is put first. */
static inline float
word_idf(const SermPair *pair, uint32_t id)
{
	SermWordCache *cache = pair->embedding->cache;
	SermCachedIdf *entry, first;

	if (cache == NULL)
		return (float) serm_statistics_idf(pair->statistics, id);
	entry = idf_pair(cache, pair->query, id);
	first = entry[0];
	if (first.id == id && first.idf != 0)
		return first.idf;
	if (entry[1].id == id && entry[1].idf != 0)
		entry[0] = entry[1];
	else
		entry[0] = (SermCachedIdf){id, (float) serm_statistics_idf(pair->statistics, id)};
	entry[1] = first;
	return entry[0].idf;
}

/* The cache, with its matches given to this query; NULL when there is none to use. */
static SermWordCache *
claim_cache(const SermPair *pair)
{
	SermWordCache *cache = pair->embedding->cache;
	const SermParsedQuery *query = pair->query;

	if (cache == NULL || query->serial == 0)
		return NULL;
	if (query->serial != cache->query) {
		cache->query = query->serial;
		cache->matches.bits = SERM_CACHE_MATCHES_BITS - 1;
		while (((size_t) query->match_size << (cache->matches.bits + 1)) > SERM_CACHE_MATCH_BYTES)
			cache->matches.bits--;
		/* After four thousand million queries an old entry might look new. */
		if (++cache->matches.epoch == 0) {
			memset(cache->matches.keys, 0, sizeof(SermWordKey) << SERM_CACHE_MATCHES_BITS);
			cache->matches.epoch = 1;
		}
	}
	cache->matches.now++;
	return cache;
}

/* `word` has SERM_DOCUMENT_PAD readable bytes behind it, and at most SERM_CACHED_WORD_MAX of its own. */
static inline __attribute__((always_inline)) void
make_key(const unsigned char *word, uint32_t length, bool number, uint32_t epoch, SermWordKey *key)
{
	static const unsigned char ones[48] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	const int last_byte = 0;
#else
	const int last_byte = 56;
#endif
	uint64_t mask[3];

	memcpy(key->part, word, sizeof(key->part));
	memcpy(mask, ones + sizeof(mask) - length, sizeof(mask));
	key->part[0] &= mask[0];
	key->part[1] &= mask[1];
	key->part[2] = (key->part[2] & mask[2]) | (uint64_t) (length << 1 | (uint32_t) number) << last_byte;
	key->epoch = epoch;
	key->used = 0;
}

static SermWordMatch *
match_at(const Reading *reading, uint32_t entry)
{
	return (SermWordMatch *) (reading->cache->match + entry * (size_t) reading->pair->query->match_size);
}

/* --- first pass: the words, and their keys */

static inline __attribute__((always_inline)) void
make_words(const SermDocumentField *field, Reading *reading)
{
	const unsigned char *bytes = field->text;
	SermWordCache *cache = reading->cache;

	for (uint32_t i = 0; i < field->spelled; i++) {
		Word *word = &reading->word[i];

		word->bytes = bytes;
		word->length = field->lengths[i] + 1u;
		word->number = serm_document_is_number(field, i);
		word->row_count = 0;
		word->keyed = cache != NULL && word->length <= SERM_CACHED_WORD_MAX;
		if (word->keyed) {
			make_key(bytes, word->length, word->number, cache->matches.epoch, &word->key);
			word->match_set = serm_word_table_set(&cache->matches, &word->key);
			__builtin_prefetch(&cache->matches.keys[2 * (size_t) word->match_set]);
		}
		bytes += word->length;
	}
	reading->count = field->spelled;
}

/* --- second pass: which are known */

static inline __attribute__((always_inline)) void
find_words(Reading *reading)
{
	uint32_t size = reading->pair->query->match_size;

	reading->missing_count = 0;
	for (uint32_t i = 0; i < reading->count; i++) {
		Word *word = &reading->word[i];
		uint32_t entry = SERM_WORD_ABSENT;

		if (word->keyed)
			entry = serm_word_table_find(&reading->cache->matches, word->match_set, &word->key);
		if (entry == SERM_WORD_ABSENT) {
			reading->missing[reading->missing_count++] = (uint8_t) i;
			continue;
		}
		reading->match[i] = match_at(reading, entry);
		for (uint32_t line = 0; line < size; line += 64)
			__builtin_prefetch((const char *) reading->match[i] + line);
	}
}

/* --- third pass: the others */

/* Ask for the rows of a word whose unit vector is not cached: the table is larger than the near caches. */
static void
fetch_rows(Reading *reading, Word *word)
{
	const SermEmbedding *embedding = reading->pair->embedding;
	uint32_t spelling[SERM_CACHED_WORD_MAX], *row = reading->rows + reading->rows_used;
	uint32_t count;

	if (reading->rows_used + SERM_WORD_ROWS_MAX > ROWS_AHEAD_MAX)
		return;
	count = serm_embedding_rows(spelling, serm_document_spell(word->bytes, word->length, spelling), row);
	for (uint32_t r = 0; r < count; r++) {
		__builtin_prefetch(embedding->rows + (size_t) row[r] * SERM_EMBEDDING_WIDTH);
		__builtin_prefetch(embedding->scale + row[r]);
	}
	word->row_start = (uint16_t) reading->rows_used;
	word->row_count = (uint16_t) count;
	reading->rows_used += count;
}

/* Find the unit vectors of the missing words, and ask for what the others are made of. */
static void
fetch_missing(Reading *reading)
{
	SermWordTable *units = &reading->cache->units;

	reading->rows_used = 0;
	units->now++;
	for (uint32_t m = 0; m < reading->missing_count; m++) {
		Word *word = &reading->word[reading->missing[m]];

		if (!word->keyed)
			continue;
		word->unit_set = serm_word_table_set(units, &word->key);
		__builtin_prefetch(&units->keys[2 * (size_t) word->unit_set]);
	}
	for (uint32_t m = 0; m < reading->missing_count; m++) {
		Word *word = &reading->word[reading->missing[m]];
		SermWordKey key = word->key;

		if (!word->keyed)
			continue;
		key.epoch = units->epoch;
		word->unit = serm_word_table_find(units, word->unit_set, &key);
		if (word->unit == SERM_WORD_ABSENT)
			fetch_rows(reading, word);
		else
			for (int i = 0; i < SERM_EMBEDDING_WIDTH; i += 16)
				__builtin_prefetch(reading->cache->unit + (size_t) word->unit * SERM_EMBEDDING_WIDTH + i);
	}
}

/* The unit vector of a word, from the cache or through it; `own` is used when it cannot be cached. */
static const float *
word_unit(const Reading *reading, Word *word, const uint32_t *spelling, uint32_t length, float *own)
{
	const SermEmbedding *embedding = reading->pair->embedding;

	if (word->keyed) {
		SermWordTable *units = &reading->cache->units;
		SermWordKey key = word->key;

		/* What this field has used stays, so an entry that was found is still there. */
		key.epoch = units->epoch;
		if (word->unit == SERM_WORD_ABSENT)
			word->unit = serm_word_table_add(units, word->unit_set, &key);
		else
			return reading->cache->unit + (size_t) word->unit * SERM_EMBEDDING_WIDTH;
		if (word->unit != SERM_WORD_ABSENT)
			own = reading->cache->unit + (size_t) word->unit * SERM_EMBEDDING_WIDTH;
	}
	if (word->row_count > 0)
		serm_embedding_unit(embedding, reading->rows + word->row_start, word->row_count, own);
	else
		serm_embedding_word(embedding, spelling, length, own);
	return own;
}

static void
fill_match(const Reading *reading, Word *word, SermWordMatch *match)
{
	const SermParsedQuery *query = reading->pair->query;
	uint32_t code_points[SERM_DOCUMENT_WORD_MAX];
	uint32_t count = serm_document_spell(word->bytes, word->length, code_points);
	uint32_t id = serm_text_word_id(code_points, count);
	float unit[SERM_EMBEDDING_WIDTH];
	SermSpelling spelling;
	uint64_t others;

	serm_spell_word(query, code_points, count, word->number, &spelling);
	match->idf = word_idf(reading->pair, id);
	match->dot = 0;
	match->close = false;
	match->term = (uint8_t) serm_term_find(query, id);
	match->length = word->number || count >= SERM_POWERS ? 0 : (uint8_t) count;
	match->hash = spelling.hash;
	/* A term that occurs is matched however similar it is; kin is as similar as it is spelled. */
	others = match->term < SERM_TERM_KIN ? ~(UINT64_C(1) << match->term) : UINT64_MAX;
	match->similar = spelling.compounds != 0 || (spelling.similar & others) != 0;
	memcpy(serm_match_trigrams(match), spelling.trigrams, query->trigram_masks * sizeof(uint64_t));
	if (query->lane_groups > 0)
		match->close = serm_pooling_word(query, word_unit(reading, word, code_points, count, unit),
		    serm_match_cosines(query, match), &match->dot);
}

/* Fill in the missing matches; entries that this field uses already are not taken from it. */
static __attribute__((noinline)) void
fill_missing(Reading *reading)
{
	if (reading->cache != NULL && reading->pair->query->lane_groups > 0)
		fetch_missing(reading);
	for (uint32_t m = 0; m < reading->missing_count; m++) {
		uint32_t i = reading->missing[m], entry = SERM_WORD_ABSENT;
		Word *word = &reading->word[i];
		SermWordMatch *match = (SermWordMatch *) reading->spare[i];

		if (word->keyed) {
			SermWordTable *table = &reading->cache->matches;

			/* The word may have come before in this field. */
			entry = serm_word_table_find(table, word->match_set, &word->key);
			if (entry != SERM_WORD_ABSENT) {
				reading->match[i] = match_at(reading, entry);
				continue;
			}
			entry = serm_word_table_add(table, word->match_set, &word->key);
			if (entry != SERM_WORD_ABSENT)
				match = match_at(reading, entry);
		}
		fill_match(reading, word, match);
		reading->match[i] = match;
	}
}

/* --- last pass: sums over the words */

/* Terms that this word and the one before it are, written as one. */
static uint64_t
joined_terms(const SermParsedQuery *query, uint64_t hash)
{
	uint64_t found = 0;

	for (uint32_t t = 0; t < query->term_count; t++)
		if (!query->terms[t].number && query->terms[t].hash == hash)
			found |= UINT64_C(1) << t;
	return found;
}

/* A word that is similar to terms: few are, so what it is similar to is not kept. */
static __attribute__((noinline)) void
compare_similar(const SermParsedQuery *query, const Word *word, Sums *sums)
{
	uint32_t code_points[SERM_DOCUMENT_WORD_MAX];
	SermSpelling spelling;

	serm_spell_word(query, code_points, serm_document_spell(word->bytes, word->length, code_points),
	    word->number, &spelling);
	sums->compounds |= spelling.compounds;
	for (uint64_t left = spelling.similar; left != 0; left &= left - 1) {
		int term = __builtin_ctzll(left);

		if (spelling.dice[term] > sums->dice[term])
			sums->dice[term] = spelling.dice[term];
	}
}

/* The first SERM_FUZZY_WORDS_MAX words: trigrams, similarity, compounds. */
static inline __attribute__((always_inline)) void
compare_words(const SermParsedQuery *query, const Reading *reading, Sums *sums)
{
	uint32_t count = reading->count < SERM_FUZZY_WORDS_MAX ? reading->count : SERM_FUZZY_WORDS_MAX;
	uint64_t before = 0;

	for (uint32_t i = 0; i < count; i++) {
		const SermWordMatch *match = reading->match[i];
		const uint64_t *trigrams = serm_match_trigrams(match);
		uint64_t joined = before * query->powers[match->length] + match->hash;

		for (uint32_t m = 0; m < query->trigram_masks; m++)
			sums->trigrams[m] |= trigrams[m];
		if ((query->term_signature & serm_compound_bit(joined)) != 0 && before != 0 && match->length != 0)
			sums->compounds |= joined_terms(query, joined);
		before = match->length != 0 ? match->hash : 0;
		if (match->similar)
			compare_similar(query, &reading->word[i], sums);
	}
}

static inline __attribute__((always_inline)) const SermLanes *
cosines_of(const Reading *reading, uint32_t word, uint32_t group)
{
	return (const SermLanes *) serm_match_cosines(reading->pair->query, reading->match[word]) + group;
}

/*
 * The wide kernels of the words of the window: sums of the words at even places, then of those at odd ones,
 * added. That is two words at a time where vectors are so wide.
 */
static inline __attribute__((always_inline)) void
pool_by_halves(const Reading *reading, uint32_t window, uint32_t group, SermLanes *sum)
{
	SermLanes odd[SERM_KERNELS] = {{0}};

	for (uint32_t i = 0; i < window; i += 2)
		serm_lanes_add_wide(cosines_of(reading, i, group), sum);
	for (uint32_t i = 1; i < window; i += 2)
		serm_lanes_add_wide(cosines_of(reading, i, group), odd);
	for (int k = 1; k < SERM_KERNELS; k++)
		sum[k] += odd[k];
}

static inline __attribute__((always_inline)) void
pool_by_pairs(const Reading *reading, uint32_t window, uint32_t group, SermLanes *sum)
{
	SermWide both[SERM_KERNELS] = {{0}};
	SermLanes odd[SERM_KERNELS];

	for (uint32_t i = 0; i + 1 < window; i += 2) {
		SermWide cosines = __builtin_shufflevector(*cosines_of(reading, i, group),
		    *cosines_of(reading, i + 1, group), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

		serm_wide_add_wide(&cosines, both);
	}
	for (int k = 1; k < SERM_KERNELS; k++) {
		sum[k] = __builtin_shufflevector(both[k], both[k], 0, 1, 2, 3, 4, 5, 6, 7);
		odd[k] = __builtin_shufflevector(both[k], both[k], 8, 9, 10, 11, 12, 13, 14, 15);
	}
	if (window % 2 != 0)
		serm_lanes_add_wide(cosines_of(reading, window - 1, group), sum);
	for (int k = 1; k < SERM_KERNELS; k++)
		sum[k] += odd[k];
}

/* How many of the words have each trigram of the query. */
static inline __attribute__((always_inline)) void
count_trigrams(const SermParsedQuery *query, const uint64_t *masks, SermField *field)
{
	for (uint32_t m = 0; m < query->trigram_masks; m++) {
		field->trigrams_met[m] |= masks[m];
		for (uint64_t left = masks[m]; left != 0; left &= left - 1)
			field->trigram_tf[64 * m + (uint32_t) __builtin_ctzll(left)]++;
	}
}

/* Kernels and dot of the words of the window. */
static inline __attribute__((always_inline)) void
pool_words(const SermParsedQuery *query, const Reading *reading, uint32_t window, bool pairs, Sums *sums)
{
	uint8_t close[WORDS_MAX];
	uint32_t close_count = 0;
	float weight = 0, dot = 0;

	if (window > reading->count)
		window = reading->count;
	for (uint32_t i = 0; i < window; i++) {
		const SermWordMatch *match = reading->match[i];

		weight += match->idf;
		dot += match->idf * match->dot;
		close[close_count] = (uint8_t) i;
		close_count += match->close;
	}
	for (uint32_t g = 0; g < query->lane_groups; g++) {
		SermLanes sum[SERM_KERNELS] = {{0}};

		if (pairs)
			pool_by_pairs(reading, window, g, sum);
		else
			pool_by_halves(reading, window, g, sum);
		for (uint32_t i = 0; i < close_count; i++)
			serm_lanes_add_narrow(cosines_of(reading, close[i], g), sum);
		memcpy(sums->kernels + g * SERM_KERNELS * SERM_LANES, sum, sizeof(sum));
	}
	sums->weight = weight;
	sums->dot = dot;
}

static inline __attribute__((always_inline)) void
read_spelled(const SermDocumentField *words, uint32_t window, bool pairs, Reading *reading, SermField *field,
    Sums *sums)
{
	const SermParsedQuery *query = reading->pair->query;
	double idf = 0;

	make_words(words, reading);
	find_words(reading);
	if (reading->missing_count > 0)
		fill_missing(reading);
	for (uint32_t i = 0; i < reading->count; i++) {
		const SermWordMatch *match = reading->match[i];

		idf += match->idf;
		if (match->term != SERM_TERM_NONE)
			serm_field_add_match(field, i, match->term, match->idf);
		if (query->trigram_idf != NULL)
			count_trigrams(query, serm_match_trigrams(match), field);
	}
	field->idf_all = idf;
	compare_words(query, reading, sums);
	pool_words(query, reading, window, pairs, sums);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void
read_spelled_avx2(
    const SermDocumentField *words, uint32_t window, Reading *reading, SermField *field, Sums *sums)
{
	read_spelled(words, window, false, reading, field, sums);
}

__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw"))) static void
read_spelled_avx512(
    const SermDocumentField *words, uint32_t window, Reading *reading, SermField *field, Sums *sums)
{
	read_spelled(words, window, true, reading, field, sums);
}
#endif

static void
read_spelled_plain(
    const SermDocumentField *words, uint32_t window, Reading *reading, SermField *field, Sums *sums)
{
	read_spelled(words, window, false, reading, field, sums);
}

/* The words behind the spelled ones count by identity only. */
static void
read_ids(const SermPair *pair, const SermDocumentField *words, SermField *field)
{
	SermWordCache *cache = pair->embedding->cache;
	const SermParsedQuery *query = pair->query;
	double idf = 0;

	for (uint32_t i = words->spelled; cache != NULL && i < words->count; i++)
		__builtin_prefetch(idf_pair(cache, query, serm_document_id(words, i - words->spelled)));
	for (uint32_t i = words->spelled; i < words->count; i++) {
		uint32_t id = serm_document_id(words, i - words->spelled);
		uint32_t term = serm_term_find(query, id);
		float word = word_idf(pair, id);

		idf += word;
		if (term != SERM_TERM_NONE) {
			serm_field_add_match(field, i, term, word);
			/* The trigrams of kin are not known here. */
			if (query->trigram_idf != NULL && term == serm_term_of(term))
				count_trigrams(query, query->trigrams.masks + (size_t) term * query->trigram_masks, field);
		}
	}
	field->idf_all += idf;
}

void
serm_field_read(const SermPair *pair, const SermDocumentField *words, uint32_t window, SermField *field)
{
	const SermParsedQuery *query = pair->query;
	Reading reading;
	Sums sums;

	memset(sums.trigrams, 0, query->trigram_masks * sizeof(sums.trigrams[0]));
	memset(sums.dice, 0, query->term_count * sizeof(sums.dice[0]));
	sums.compounds = 0;
	reading.pair = pair;
	reading.cache = claim_cache(pair);
#if defined(__x86_64__)
	if (query->level >= SERM_VECTOR_AVX512)
		read_spelled_avx512(words, window, &reading, field, &sums);
	else if (query->level >= SERM_VECTOR_AVX2)
		read_spelled_avx2(words, window, &reading, field, &sums);
	else
#endif
		read_spelled_plain(words, window, &reading, field, &sums);
	read_ids(pair, words, field);
	field->count = words->count;
	field->trigrams_count = words->trigrams;
	for (uint32_t m = 0; m < query->trigram_masks; m++)
		field->trigrams_common += (uint32_t) __builtin_popcountll(sums.trigrams[m]);
	serm_field_fuzzy(query, field, sums.compounds, sums.dice);
	if (query->lane_groups > 0) {
		serm_pooling_finish(query, sums.kernels, field->kernels);
		field->dot = sums.weight > 0 ? sums.dot / sums.weight : 0;
	}
}
