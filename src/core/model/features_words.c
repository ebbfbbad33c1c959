/*
 * Reading the words of a field (S6, S9): for each word what it means to the
 * query, summed up over the field. A query is met by many documents and most
 * of their words by each of them, so the meanings are kept in the word cache
 * (as Ji et al. 2019 precompute term interactions of K-NRM): a word met before
 * costs a look-up and its kernels.
 *
 * The loop exists twice, for AVX2 and for any processor, with the same
 * operations in the same order: the bits are the same.
 */
#include <string.h>

#include "core/model/features_lanes.h"

#define TRIGRAM_MASKS_MAX (SERM_QUERY_WORDS_MAX * SERM_TRIGRAMS_MAX / 64)
#define SUMS_MAX (SERM_LANE_GROUPS_MAX * SERM_KERNELS * SERM_LANES)
#define MATCH_SIZE_MAX                                                                                       \
	(sizeof(SermWordMatch) + TRIGRAM_MASKS_MAX * 8 + SERM_QUERY_WORDS_MAX * 4 + SUMS_MAX * 4 + 128)
#define NARROWEST 32 /* bytes of one vector */

/* What is summed over the spelled words of a field. */
typedef struct Sums {
	uint64_t trigrams[TRIGRAM_MASKS_MAX];
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

	query->trigram_masks = (query->trigrams.count + 63) / 64;
	place += query->trigram_masks * (uint32_t) sizeof(uint64_t);
	query->match_dice = place;
	place += query->term_count * (uint32_t) sizeof(float);
	query->match_cosines = (place + NARROWEST - 1) / NARROWEST * NARROWEST;
	place = query->match_cosines + query->lane_groups * SERM_LANES * (uint32_t) sizeof(float);
	query->match_size = (place + 63) / 64 * 64;
	SERM_ASSERT(query->match_size <= MATCH_SIZE_MAX);
}

/* --- the cache */

static inline const SermCachedIdf *
idf_entry(const SermWordCache *cache, uint32_t id)
{
	return &cache->idfs[id >> (32 - SERM_CACHE_IDFS_BITS)];
}

static inline float
word_idf(const SermPair *pair, uint32_t id)
{
	SermWordCache *cache = pair->embedding->cache;
	SermCachedIdf *entry;

	if (cache == NULL)
		return (float) serm_statistics_idf(pair->statistics, id);
	entry = &cache->idfs[id >> (32 - SERM_CACHE_IDFS_BITS)];
	if (entry->id != id || entry->idf == 0)
		*entry = (SermCachedIdf){id, (float) serm_statistics_idf(pair->statistics, id)};
	return entry->idf;
}

/* `word` has SERM_DOCUMENT_PAD readable bytes behind it, and at most SERM_CACHED_WORD_MAX of its own. */
static inline __attribute__((always_inline)) void
make_key(const unsigned char *word, uint32_t length, bool number, uint64_t epoch, SermWordKey *key)
{
	static const unsigned char ones[48] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
	    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
	uint64_t mask[3];

	memcpy(key->part, word, sizeof(key->part));
	memcpy(mask, ones + sizeof(mask) - length, sizeof(mask));
	for (int i = 0; i < 3; i++)
		key->part[i] &= mask[i];
	((unsigned char *) key->part)[SERM_CACHED_WORD_MAX] = number;
	key->epoch = epoch;
}

/* The unit vector of a word, from the cache or through it; `own` is used when it cannot be cached. */
static const float *
word_unit(const SermEmbedding *embedding, const SermWordKey *match_key, const uint32_t *spelling,
    uint32_t length, float *own)
{
	SermWordCache *cache = embedding->cache;
	bool hit = false;

	if (match_key != NULL) {
		SermWordKey key = *match_key;
		uint32_t set = serm_word_table_set(&cache->units, &key);

		key.epoch = 1;
		own = cache->unit +
		      (size_t) serm_word_table_find(&cache->units, set, &key, &hit) * SERM_EMBEDDING_WIDTH;
	}
	if (!hit)
		serm_embedding_word(embedding, spelling, length, own);
	return own;
}

/* `key` is NULL for a word that is not cached. */
static __attribute__((noinline)) void
fill_match(const SermPair *pair, const SermWordKey *key, const unsigned char *word, uint32_t length,
    bool number, SermWordMatch *match)
{
	const SermParsedQuery *query = pair->query;
	uint32_t spelling[SERM_DOCUMENT_WORD_MAX];
	uint32_t count = serm_document_spell(word, length, spelling);
	float unit[SERM_EMBEDDING_WIDTH];

	match->id = serm_text_hash(spelling, count, 0);
	match->term = (uint8_t) serm_term_find(query, match->id);
	match->number = number;
	match->idf = word_idf(pair, match->id);
	match->dot = 0;
	serm_match_spelling(query, spelling, count, match);
	if (query->lane_groups > 0)
		serm_pooling_word(query, word_unit(pair->embedding, key, spelling, count, unit),
		    serm_match_floats(match, query->match_cosines), &match->dot);
}

/* The cached matches are of another query: theirs no more. False when there is no cache to use. */
static bool
claim_matches(const SermPair *pair)
{
	SermWordCache *cache = pair->embedding->cache;
	const SermParsedQuery *query = pair->query;

	if (cache == NULL || query->serial == 0)
		return false;
	if (query->serial != cache->query) {
		cache->query = query->serial;
		cache->epoch++;
		cache->matches.bits = SERM_CACHE_MATCHES_BITS - 1;
		while (((size_t) query->match_size << (cache->matches.bits + 1)) > SERM_CACHE_MATCH_BYTES)
			cache->matches.bits--;
	}
	return true;
}

/* Keys and sets of the spelled words, whose entries are fetched meanwhile. Length 0: not cached. */
typedef struct Keys {
	SermWordKey key[SERM_DOCUMENT_BODY_SPELLED];
	uint32_t set[SERM_DOCUMENT_BODY_SPELLED];
} Keys;

static inline __attribute__((always_inline)) void
make_keys(const SermWordCache *cache, const SermDocumentField *words, Keys *keys)
{
	const unsigned char *word = words->text;

	for (uint32_t i = 0; i < words->spelled; i++) {
		uint32_t length = words->lengths[i] + 1u;

		if (length <= SERM_CACHED_WORD_MAX) {
			make_key(word, length, serm_document_is_number(words, i), cache->epoch, &keys->key[i]);
			keys->set[i] = serm_word_table_set(&cache->matches, &keys->key[i]);
			__builtin_prefetch(&cache->matches.keys[2 * (size_t) keys->set[i]]);
		}
		word += length;
	}
}

/* Fetch the matches that are there, before the first is needed. */
static inline __attribute__((always_inline)) void
fetch_matches(const SermPair *pair, const SermDocumentField *words, const Keys *keys)
{
	const SermWordCache *cache = pair->embedding->cache;
	uint32_t size = pair->query->match_size;

	for (uint32_t i = 0; i < words->spelled; i++)
		if (words->lengths[i] < SERM_CACHED_WORD_MAX) {
			const SermWordKey *way = &cache->matches.keys[2 * (size_t) keys->set[i]];
			bool second = way[1].part[0] == keys->key[i].part[0];
			const unsigned char *match = cache->match + (2 * (size_t) keys->set[i] + second) * size;

			for (uint32_t line = 0; line < size; line += 64)
				__builtin_prefetch(match + line);
		}
}

/* What spelled word `i` means to the query; valid until the next call. */
static inline __attribute__((always_inline)) const SermWordMatch *
find_match(const SermPair *pair, const SermDocumentField *words, uint32_t i, const unsigned char *word,
    const Keys *keys, bool cached)
{
	uint32_t length = words->lengths[i] + 1u;
	SermWordMatch *match = pair->spare;
	const SermWordKey *key = NULL;

	if (cached && length <= SERM_CACHED_WORD_MAX) {
		SermWordCache *cache = pair->embedding->cache;
		bool hit;

		key = &keys->key[i];
		match =
		    (SermWordMatch *) (cache->match + serm_word_table_find(&cache->matches, keys->set[i], key, &hit) *
		                                          (size_t) pair->query->match_size);
		if (hit)
			return match;
	}
	fill_match(pair, key, word, length, serm_document_is_number(words, i), match);
	return match;
}

/* --- the loop */

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

/* One of the first SERM_FUZZY_WORDS_MAX words; `before` is the polynomial of the word before it, or 0. */
static inline __attribute__((always_inline)) void
compare_word(const SermParsedQuery *query, const SermWordMatch *match, uint64_t *before, Sums *sums)
{
	const uint64_t *trigrams = serm_match_trigrams(match);
	uint64_t joined = *before * match->power + match->hash;

	for (uint32_t m = 0; m < query->trigram_masks; m++)
		sums->trigrams[m] |= trigrams[m];
	sums->compounds |= match->compounds;
	if (*before != 0 && match->hash != 0 && (query->term_signature & serm_compound_bit(joined)) != 0)
		sums->compounds |= joined_terms(query, joined);
	*before = match->hash;
	for (uint64_t left = match->fuzzy; left != 0; left &= left - 1) {
		int term = __builtin_ctzll(left);
		float dice = serm_match_floats(match, query->match_dice)[term];

		sums->dice[term] = dice > sums->dice[term] ? dice : sums->dice[term];
	}
}

static inline __attribute__((always_inline)) void
read_spelled(const SermPair *pair, const SermDocumentField *words, uint32_t window, uint32_t groups,
    SermField *field, Sums *sums)
{
	bool cached = claim_matches(pair);
	Keys keys;
	const SermParsedQuery *query = pair->query;
	const unsigned char *word = words->text;
	uint64_t before = 0;
	double idf = 0;

	if (cached) {
		make_keys(pair->embedding->cache, words, &keys);
		fetch_matches(pair, words, &keys);
	}
	for (uint32_t i = 0; i < words->spelled; i++) {
		const SermWordMatch *match = find_match(pair, words, i, word, &keys, cached);

		word += words->lengths[i] + 1u;
		idf += match->idf;
		if (match->term != SERM_TERM_NONE)
			serm_field_add_match(field, i, match->term, match->idf);
		if (i < SERM_FUZZY_WORDS_MAX)
			compare_word(query, match, &before, sums);
		if (i < window) {
			const SermLanes *cosines = (const SermLanes *) serm_match_floats(match, query->match_cosines);

			sums->weight += match->idf;
			sums->dot += match->idf * match->dot;
			for (uint32_t g = 0; g < groups; g++)
				serm_lanes_add_kernels(&cosines[g], (SermLanes *) sums->kernels + g * SERM_KERNELS);
		}
	}
	field->idf_all = idf;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void
read_spelled_avx2(
    const SermPair *pair, const SermDocumentField *words, uint32_t window, SermField *field, Sums *sums)
{
	if (pair->query->lane_groups == 1)
		read_spelled(pair, words, window, 1, field, sums);
	else
		read_spelled(pair, words, window, pair->query->lane_groups, field, sums);
}
#endif

static void
read_spelled_portable(
    const SermPair *pair, const SermDocumentField *words, uint32_t window, SermField *field, Sums *sums)
{
	read_spelled(pair, words, window, pair->query->lane_groups, field, sums);
}

/* The words behind the spelled ones count by identity only. */
static void
read_ids(const SermPair *pair, const SermDocumentField *words, SermField *field)
{
	const SermWordCache *cache = pair->embedding->cache;
	double idf = 0;

	for (uint32_t i = words->spelled; cache != NULL && i < words->count; i++)
		__builtin_prefetch(idf_entry(cache, serm_document_id(words, i - words->spelled)));
	for (uint32_t i = words->spelled; i < words->count; i++) {
		uint32_t id = serm_document_id(words, i - words->spelled);
		uint32_t term = serm_term_find(pair->query, id);
		float word = word_idf(pair, id);

		idf += word;
		if (term != SERM_TERM_NONE)
			serm_field_add_match(field, i, term, word);
	}
	field->idf_all += idf;
}

void
serm_field_read(const SermPair *pair, const SermDocumentField *words, uint32_t window, SermField *field)
{
	const SermParsedQuery *query = pair->query;
	_Alignas(64) unsigned char spare[MATCH_SIZE_MAX];
	SermPair with_spare = *pair;
	Sums sums;

	memset(sums.trigrams, 0, query->trigram_masks * sizeof(sums.trigrams[0]));
	memset(sums.dice, 0, query->term_count * sizeof(sums.dice[0]));
	memset(sums.kernels, 0, query->lane_groups * SERM_KERNELS * SERM_LANES * sizeof(sums.kernels[0]));
	sums.compounds = 0;
	sums.weight = sums.dot = 0;
	with_spare.spare = (SermWordMatch *) spare;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx2"))
		read_spelled_avx2(&with_spare, words, window, field, &sums);
	else
#endif
		read_spelled_portable(&with_spare, words, window, field, &sums);
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
