/*
 * Matches that are not identity (S6): words that share trigrams (Dice of
 * distinct trigram sets, as in pg_trgm's family), and words that are written
 * together on one side only.
 */
#include "core/model/features_parts.h"
#include "core/text/ngram.h"

/* Odd, so that it has an inverse modulo 2^64 and no power of it vanishes. */
#define POLYNOMIAL_BASE UINT64_C(0x9e3779b97f4a7c15)

/* The trigrams of a word into `hashes` [SERM_TRIGRAMS_MAX]. */
static SermTrigrams
trigrams_of(const uint32_t *code_points, uint32_t length, uint32_t *hashes)
{
	SermTrigrams trigrams = {.hashes = hashes};
	uint64_t packed = serm_trigram_next(serm_trigram_next(0, SERM_WORD_BEGIN), code_points[0]);

	if (length > SERM_TRIGRAMS_MAX)
		length = SERM_TRIGRAMS_MAX;
	for (uint32_t i = 1; i <= length; i++) {
		uint32_t hash;
		uint64_t bit;
		bool seen = false;

		packed = serm_trigram_next(packed, i < length ? code_points[i] : SERM_WORD_END);
		hash = serm_trigram_hash(packed);
		bit = UINT64_C(1) << (hash >> 26);
		if ((trigrams.signature & bit) != 0)
			for (uint32_t j = 0; j < trigrams.count && !seen; j++)
				seen = hashes[j] == hash;
		if (!seen)
			hashes[trigrams.count++] = hash;
		trigrams.signature |= bit;
	}
	return trigrams;
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

bool
serm_trigrams_of_query(SermParsedQuery *query, const SermWords *words, SermArena *arena)
{
	SermTrigramIndex *index = &query->trigrams;
	uint32_t total = 0;

	for (uint32_t i = 0; i < words->count; i++) {
		SermTrigrams *trigrams = &query->terms[query->tokens[i]].trigrams;
		uint32_t *hashes;

		if (trigrams->count > 0)
			continue;
		hashes = serm_arena_array(arena, SERM_TRIGRAMS_MAX, sizeof(uint32_t));
		if (hashes == NULL)
			return false;
		*trigrams = trigrams_of(words->code_points + words->words[i].start, words->words[i].length, hashes);
		total += trigrams->count;
	}
	index->size = 128;
	while (index->size < 2 * total)
		index->size *= 2;
	index->hashes = serm_arena_array(arena, index->size, sizeof(uint32_t));
	index->numbers = serm_arena_array(arena, index->size, sizeof(uint16_t));
	if (index->hashes == NULL || index->numbers == NULL)
		return false;
	for (uint32_t t = 0; t < query->term_count; t++)
		for (uint32_t i = 0; i < query->terms[t].trigrams.count; i++) {
			uint32_t hash = query->terms[t].trigrams.hashes[i], at = index_find(index, hash);

			if (index->hashes[at] == 0) {
				index->hashes[at] = hash;
				index->numbers[at] = (uint16_t) index->count++;
			}
		}
	return true;
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

/* Dice of two sets if it is at least SERM_FUZZY_DICE_MIN, else 0. */
INLINE float
dice_of(const SermTrigrams *a, const SermTrigrams *b)
{
	/* Dice of sets this small takes no value between this and the minimum. */
	const float below = SERM_FUZZY_DICE_MIN - 1e-3f;
	/* A trigram whose bit the other set lacks is not in it. */
	uint32_t most_a = a->count - (uint32_t) __builtin_popcountll(a->signature & ~b->signature);
	uint32_t most_b = b->count - (uint32_t) __builtin_popcountll(b->signature & ~a->signature);
	uint32_t most = most_a < most_b ? most_a : most_b;
	float sum = (float) (a->count + b->count);
	uint32_t common = 0;

	if (2 * (float) most <= below * sum)
		return 0;
	for (uint32_t i = 0; i < b->count; i++) {
		bool found = false;

		if ((a->signature >> (b->hashes[i] >> 26) & 1) == 0)
			continue;
		for (uint32_t j = 0; j < a->count && !found; j++)
			found = a->hashes[j] == b->hashes[i];
		common += found;
	}
	return 2 * (float) common / sum > below ? 2 * (float) common / sum : 0;
}

INLINE void
spell_word(const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, bool number,
    SermSpelling *spelling)
{
	uint32_t hashes[SERM_TRIGRAMS_MAX];
	SermTrigrams trigrams = trigrams_of(code_points, length, hashes);

	spelling->hash = spelling->compounds = spelling->similar = 0;
	for (uint32_t m = 0; m < query->trigram_masks; m++)
		spelling->trigrams[m] = 0;
	if (query->term_count == 0)
		return;
	for (uint32_t i = 0; i < trigrams.count; i++) {
		uint32_t at = index_find(&query->trigrams, trigrams.hashes[i]);
		uint32_t place = query->trigrams.numbers[at];

		if (query->trigrams.hashes[at] != 0)
			spelling->trigrams[place / 64] |= UINT64_C(1) << place % 64;
	}
	/* Numbers match by identity only. */
	if (number)
		return;
	spelling->hash = polynomial(code_points, length);
	if ((query->compound_signature & serm_compound_bit(spelling->hash)) != 0)
		for (uint32_t c = 0; c < query->compound_count; c++)
			if (query->compounds[c].hash == spelling->hash)
				spelling->compounds |= query->compounds[c].terms;
	for (uint32_t t = 0; t < query->term_count; t++) {
		if (query->terms[t].number)
			continue;
		spelling->dice[t] = dice_of(&query->terms[t].trigrams, &trigrams);
		if (spelling->dice[t] > 0)
			spelling->similar |= UINT64_C(1) << t;
	}
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
