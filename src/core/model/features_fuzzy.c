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
	uint32_t first = SERM_WORD_BEGIN, second = code_points[0];

	if (length > SERM_TRIGRAMS_MAX)
		length = SERM_TRIGRAMS_MAX;
	for (uint32_t i = 1; i <= length; i++) {
		uint32_t third = i < length ? code_points[i] : SERM_WORD_END;
		uint32_t hash = serm_trigram(first, second, third);
		uint64_t bit = UINT64_C(1) << (hash >> 26);
		bool seen = false;

		if ((trigrams.signature & bit) != 0)
			for (uint32_t j = 0; j < trigrams.count && !seen; j++)
				seen = hashes[j] == hash;
		if (!seen)
			hashes[trigrams.count++] = hash;
		trigrams.signature |= bit;
		first = second;
		second = third;
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

bool
serm_trigrams_weigh(const SermStatistics *statistics, SermParsedQuery *query, SermArena *arena)
{
	const SermTrigramIndex *index = &query->trigrams;

	if (statistics->trigram_count == 0 || index->count == 0)
		return true;
	query->trigram_idf = serm_arena_array(arena, index->count, sizeof(*query->trigram_idf));
	query->term_masks = serm_arena_array(
	    arena, (size_t) query->term_count * query->trigram_masks, sizeof(*query->term_masks));
	if (query->trigram_idf == NULL || query->term_masks == NULL)
		return false;
	for (uint32_t at = 0; at < index->size; at++)
		if (index->hashes[at] != 0) {
			double idf = serm_statistics_trigram_idf(statistics, index->hashes[at]);

			query->trigram_idf[index->numbers[at]] = (float) idf;
			query->trigram_weight += idf;
		}
	for (uint32_t t = 0; t < query->term_count; t++) {
		const SermTrigrams *trigrams = &query->terms[t].trigrams;
		uint64_t *masks = query->term_masks + (size_t) t * query->trigram_masks;

		for (uint32_t i = 0; i < trigrams->count; i++) {
			uint32_t number = index->numbers[index_find(index, trigrams->hashes[i])];

			masks[number / 64] |= UINT64_C(1) << number % 64;
		}
	}
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
	for (uint32_t g = 0; g < query->trigrams.count; g++) {
		float tf = (float) (title->trigram_tf[g] + body->trigram_tf[g]);

		sum += query->trigram_idf[g] * tf / (tf + norm);
	}
	return (SERM_BM25_K1 + 1) * sum / query->trigram_weight;
}

/* H(ab) = H(a) * base^|b| + H(b) modulo 2^64; `power` gets base^length. */
static uint64_t
polynomial(const uint32_t *code_points, uint32_t length, uint64_t *power)
{
	uint64_t hash = 0;

	*power = 1;
	for (uint32_t i = 0; i < length; i++) {
		hash = hash * POLYNOMIAL_BASE + code_points[i];
		*power *= POLYNOMIAL_BASE;
	}
	return hash;
}

void
serm_compounds_of(SermParsedQuery *query, const SermWords *words)
{
	for (uint32_t i = 0; i < query->token_count; i++) {
		SermTerm *term = &query->terms[query->tokens[i]];
		const SermTerm *before = i > 0 ? &query->terms[query->tokens[i - 1]] : NULL;
		SermCompound *compound;

		if (term->number)
			continue;
		term->hash =
		    polynomial(words->code_points + words->words[i].start, words->words[i].length, &term->power);
		query->term_signature |= serm_compound_bit(term->hash);
		if (before == NULL || before->number)
			continue;
		compound = &query->compounds[query->compound_count++];
		compound->hash = before->hash * term->power + term->hash;
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
match_spelling(
    const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, SermWordMatch *match)
{
	uint32_t hashes[SERM_TRIGRAMS_MAX];
	SermTrigrams trigrams = trigrams_of(code_points, length, hashes);
	uint64_t *masks = serm_match_trigrams(match);
	float *dice = serm_match_floats(match, query->match_dice);

	match->hash = match->power = match->compounds = match->fuzzy = 0;
	for (uint32_t m = 0; m < query->trigram_masks; m++)
		masks[m] = 0;
	if (query->term_count == 0)
		return;
	for (uint32_t i = 0; i < trigrams.count; i++) {
		uint32_t at = index_find(&query->trigrams, trigrams.hashes[i]);
		uint32_t number = query->trigrams.numbers[at];

		if (query->trigrams.hashes[at] != 0)
			masks[number / 64] |= UINT64_C(1) << number % 64;
	}
	/* Numbers match by identity only. */
	if (match->number)
		return;
	match->hash = polynomial(code_points, length, &match->power);
	if ((query->compound_signature & serm_compound_bit(match->hash)) != 0)
		for (uint32_t c = 0; c < query->compound_count; c++)
			if (query->compounds[c].hash == match->hash)
				match->compounds |= query->compounds[c].terms;
	for (uint32_t t = 0; t < query->term_count; t++) {
		if (query->terms[t].number)
			continue;
		dice[t] = dice_of(&query->terms[t].trigrams, &trigrams);
		if (dice[t] > 0)
			match->fuzzy |= UINT64_C(1) << t;
	}
}

#if defined(__x86_64__)
__attribute__((target("popcnt"))) static void
match_spelling_popcnt(
    const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, SermWordMatch *match)
{
	match_spelling(query, code_points, length, match);
}
#endif

void
serm_match_spelling(
    const SermParsedQuery *query, const uint32_t *code_points, uint32_t length, SermWordMatch *match)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("popcnt")) {
		match_spelling_popcnt(query, code_points, length, match);
		return;
	}
#endif
	match_spelling(query, code_points, length, match);
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
