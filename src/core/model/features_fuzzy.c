/*
 * Matches that are not identity (S6): words that share trigrams (Dice of
 * distinct trigram sets, as in pg_trgm's family), and words that are written
 * together on one side only.
 */
#include <math.h>

#include "core/model/features_parts.h"
#include "core/text/ngram.h"

/* Odd, so that it has an inverse modulo 2^64 and no power of it vanishes. */
#define POLYNOMIAL_BASE UINT64_C(0x9e3779b97f4a7c15)

/* The trigrams of `<word>`, in order and some of them perhaps twice, into `hashes` [SERM_TRIGRAMS_MAX]. */
static inline uint32_t
trigrams_of(const uint32_t *code_points, uint32_t length, uint32_t *hashes)
{
	uint64_t packed = serm_trigram_next(serm_trigram_next(0, SERM_WORD_BEGIN), code_points[0]);

	if (length > SERM_TRIGRAMS_MAX)
		length = SERM_TRIGRAMS_MAX;
	for (uint32_t i = 1; i < length; i++) {
		packed = serm_trigram_next(packed, code_points[i]);
		hashes[i - 1] = serm_trigram_hash(packed);
	}
	hashes[length - 1] = serm_trigram_hash(serm_trigram_next(packed, SERM_WORD_END));
	return length;
}

/* How many different ones there are. */
static uint32_t
count_distinct(const uint32_t *hashes, uint32_t count)
{
	uint64_t bits = 0;
	uint32_t distinct = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t bit = UINT64_C(1) << (hashes[i] >> 26);
		bool seen = false;

		if ((bits & bit) != 0)
			for (uint32_t j = 0; j < i && !seen; j++)
				seen = hashes[j] == hashes[i];
		distinct += !seen;
		bits |= bit;
	}
	return distinct;
}

/* Where `hash` is or would be. */
static uint32_t
index_find(const SermTrigramIndex *index, uint32_t hash)
{
	uint32_t at = hash & (index->size - 1);

	while (index->hashes[at] != 0 && index->hashes[at] != hash)
		at = (at + 1) & (index->size - 1);
	return at;
}

/* Fill in which term has which trigram; a term that was written in two ways has those of the first. */
static bool
index_terms(SermParsedQuery *query, const SermWords *words, SermArena *arena)
{
	SermTrigramIndex *index = &query->trigrams;
	uint32_t hashes[SERM_TRIGRAMS_MAX];
	uint64_t seen = 0;

	index->terms = serm_arena_array(arena, index->count, sizeof(uint64_t));
	index->masks =
	    serm_arena_array(arena, (size_t) query->term_count * query->trigram_masks, sizeof(uint64_t));
	if (index->terms == NULL || index->masks == NULL)
		return false;
	for (uint32_t i = 0; i < words->count; i++) {
		uint32_t term = query->tokens[i], count;

		if ((seen >> term & 1) != 0)
			continue;
		seen |= UINT64_C(1) << term;
		count = trigrams_of(words->code_points + words->words[i].start, words->words[i].length, hashes);
		for (uint32_t h = 0; h < count; h++) {
			uint32_t number = index->numbers[index_find(index, hashes[h])];

			index->masks[term * query->trigram_masks + number / 64] |= UINT64_C(1) << number % 64;
			if (!query->terms[term].number)
				index->terms[number] |= UINT64_C(1) << term;
		}
	}
	return true;
}

bool
serm_trigrams_of_query(SermParsedQuery *query, const SermWords *words, SermArena *arena)
{
	SermTrigramIndex *index = &query->trigrams;
	uint32_t hashes[SERM_TRIGRAMS_MAX], total = 0;

	for (uint32_t i = 0; i < words->count; i++)
		total += words->words[i].length;
	/* So large that most trigrams of documents meet an empty slot. */
	index->size = 256;
	while (index->size < 8 * total && index->size < 8 * SERM_QUERY_WORDS_MAX * SERM_TRIGRAMS_MAX)
		index->size *= 2;
	index->hashes = serm_arena_array(arena, index->size, sizeof(uint32_t));
	index->numbers = serm_arena_array(arena, index->size, sizeof(uint16_t));
	if (index->hashes == NULL || index->numbers == NULL)
		return false;
	for (uint32_t i = 0; i < words->count; i++) {
		SermTerm *term = &query->terms[query->tokens[i]];
		uint32_t count;

		if (term->trigram_count > 0)
			continue;
		count = trigrams_of(words->code_points + words->words[i].start, words->words[i].length, hashes);
		term->trigram_count = (uint8_t) count_distinct(hashes, count);
		for (uint32_t h = 0; h < count; h++) {
			uint32_t at = index_find(index, hashes[h]);

			if (index->hashes[at] == 0) {
				index->hashes[at] = hashes[h];
				index->numbers[at] = (uint16_t) index->count++;
			}
		}
	}
	query->trigram_masks = (index->count + 63) / 64;
	return index_terms(query, words, arena);
}

bool
serm_trigrams_weigh(const SermStatistics *statistics, SermParsedQuery *query, SermArena *arena)
{
	const SermTrigramIndex *index = &query->trigrams;

	if (statistics->trigram_count == 0 || index->count == 0)
		return true;
	query->trigram_idf = serm_arena_array(arena, index->count, sizeof(*query->trigram_idf));
	if (query->trigram_idf == NULL)
		return false;
	for (uint32_t at = 0; at < index->size; at++)
		if (index->hashes[at] != 0) {
			uint32_t number = index->numbers[at];
			bool foreign = (index->terms[number] & ~query->foreign) == 0;
			double idf =
			    serm_statistics_trigram_idf(foreign ? statistics : &query->statistics, index->hashes[at]);

			query->trigram_idf[number] = (float) idf;
			query->trigram_weight += idf;
		}
	/* A part of the words is a sample of what all of them would say: it counts by the root of its size. */
	if (query->statistics.spelled_share > 0)
		query->trigram_weight /= sqrt(query->statistics.spelled_share);
	return true;
}

double
serm_trigrams_bm25(
    const SermParsedQuery *query, const SermField *title, const SermField *body, double average_length)
{
	double length = (double) title->count + body->count;
	double ratio = average_length > 0 ? length / average_length : 1;
	float norm = (float) (SERM_BM25_K1 * (1 - SERM_BM25_B + SERM_BM25_B * ratio)), sum = 0;

	if (query->trigram_idf == NULL)
		return 0;
	for (uint32_t m = 0; m < query->trigram_masks; m++)
		for (uint64_t left = title->trigrams_met[m] | body->trigrams_met[m]; left != 0; left &= left - 1) {
			uint32_t g = 64 * m + (uint32_t) __builtin_ctzll(left);
			float tf = (float) (title->trigram_tf[g] + body->trigram_tf[g]);

			sum += query->trigram_idf[g] * tf / (tf + norm);
		}
	return (SERM_BM25_K1 + 1) * sum / query->trigram_weight;
}

/* H(ab) = H(a) * base^|b| + H(b) modulo 2^64. */
static uint64_t
polynomial(const uint32_t *code_points, uint32_t length)
{
	uint64_t hash = 0;

	for (uint32_t i = 0; i < length; i++)
		hash = hash * POLYNOMIAL_BASE + code_points[i];
	return hash;
}

void
serm_compounds_of(SermParsedQuery *query, const SermWords *words)
{
	query->powers[0] = 1;
	for (uint32_t i = 1; i < SERM_POWERS; i++)
		query->powers[i] = query->powers[i - 1] * POLYNOMIAL_BASE;
	for (uint32_t i = 0; i < query->token_count; i++) {
		SermTerm *term = &query->terms[query->tokens[i]];
		const SermTerm *before = i > 0 ? &query->terms[query->tokens[i - 1]] : NULL;
		uint32_t length = words->words[i].length;
		SermCompound *compound;

		if (term->number)
			continue;
		term->hash = polynomial(words->code_points + words->words[i].start, length);
		query->term_signature |= serm_compound_bit(term->hash);
		if (before == NULL || before->number)
			continue;
		compound = &query->compounds[query->compound_count++];
		compound->hash = before->hash * query->powers[length] + term->hash;
		compound->terms = UINT64_C(1) << query->tokens[i - 1] | UINT64_C(1) << query->tokens[i];
		query->compound_signature |= serm_compound_bit(compound->hash);
	}
}

/* Inlined into code with a population count of its own where the processor has one. */
#define INLINE static inline __attribute__((always_inline))

/* Dice of each term with a word of `count` distinct trigrams where it is at least SERM_FUZZY_DICE_MIN. */
INLINE void
compare_terms(const SermParsedQuery *query, uint64_t terms, uint32_t count, SermSpelling *spelling)
{
	/* Dice of sets this small takes no value between this and the minimum. */
	const float below = SERM_FUZZY_DICE_MIN - 1e-3f;

	for (; terms != 0; terms &= terms - 1) {
		uint32_t term = (uint32_t) __builtin_ctzll(terms), common = 0;
		const uint64_t *mask = query->trigrams.masks + (size_t) term * query->trigram_masks;
		float dice;

		for (uint32_t m = 0; m < query->trigram_masks; m++)
			common += (uint32_t) __builtin_popcountll(mask[m] & spelling->trigrams[m]);
		dice = 2 * (float) common / (float) (query->terms[term].trigram_count + count);
		if (dice > below) {
			spelling->dice[term] = dice;
			spelling->similar |= UINT64_C(1) << term;
		}
	}
}

INLINE void
spell_word(const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, bool number,
    SermSpelling *spelling)
{
	const SermTrigramIndex *index = &query->trigrams;
	uint32_t hashes[SERM_TRIGRAMS_MAX];
	uint32_t count = trigrams_of(code_points, length, hashes);
	uint64_t terms = 0;

	spelling->hash = spelling->compounds = spelling->similar = 0;
	for (uint32_t m = 0; m < query->trigram_masks; m++)
		spelling->trigrams[m] = 0;
	if (query->term_count == 0)
		return;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = index_find(index, hashes[i]), place;

		if (index->hashes[at] == 0)
			continue;
		place = index->numbers[at];
		spelling->trigrams[place / 64] |= UINT64_C(1) << place % 64;
		terms |= index->terms[place];
	}
	/* Numbers match by identity only. */
	if (number)
		return;
	spelling->hash = polynomial(code_points, length);
	if ((query->compound_signature & serm_compound_bit(spelling->hash)) != 0)
		for (uint32_t c = 0; c < query->compound_count; c++)
			if (query->compounds[c].hash == spelling->hash)
				spelling->compounds |= query->compounds[c].terms;
	if (terms != 0)
		compare_terms(query, terms, count_distinct(hashes, count), spelling);
}

#if defined(__x86_64__)
__attribute__((target("popcnt"))) static void
spell_word_popcnt(const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, bool number,
    SermSpelling *spelling)
{
	spell_word(query, code_points, length, number, spelling);
}
#endif

void
serm_spell_word(const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, bool number,
    SermSpelling *spelling)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("popcnt")) {
		spell_word_popcnt(query, code_points, length, number, spelling);
		return;
	}
#endif
	spell_word(query, code_points, length, number, spelling);
}

void
serm_field_fuzzy(const SermParsedQuery *query, SermField *field, uint64_t compounds, const float *dice)
{
	uint64_t sure = field->matched | compounds;
	uint32_t compared = 0;

	for (uint32_t t = 0; t < query->term_count; t++)
		field->fuzzy[t] = (float) (sure >> t & 1);
	for (uint32_t i = 0; i < query->term_count && compared < SERM_FUZZY_TERMS_MAX; i++) {
		uint32_t term = query->by_idf[i];

		if ((sure >> term & 1) != 0 || query->terms[term].number)
			continue;
		field->fuzzy[term] = dice[term];
		compared++;
	}
}
