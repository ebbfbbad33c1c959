/*
 * Matches that are not identity (S6): words that share trigrams (Dice of
 * distinct trigram sets, as in pg_trgm's family), and words that are written
 * together on one side only.
 *
 * Work is bounded by constants: SERM_FUZZY_WORDS_MAX words of the field and
 * SERM_FUZZY_TERMS_MAX terms, and most comparisons end at the signatures.
 */
#include "core/model/features_parts.h"
#include "core/text/ngram.h"

#define SEED_TRIGRAM 7
/* Odd, so that it has an inverse modulo 2^64 and no power of it vanishes. */
#define POLYNOMIAL_BASE UINT64_C(0x9e3779b97f4a7c15)

/* Fill `trigrams`, whose hashes have room for SERM_TRIGRAMS_MAX or as many as the word has code points. */
static void
trigrams_of(const uint32_t *code_points, uint32_t length, SermTrigrams *trigrams)
{
	uint32_t framed[SERM_TRIGRAMS_MAX + 2];
	uint32_t size =
	    serm_word_frame(code_points, length < SERM_TRIGRAMS_MAX ? length : SERM_TRIGRAMS_MAX, framed);
	uint64_t signature = 0;
	uint32_t count = 0;

	for (uint32_t i = 0; i + 3 <= size; i++) {
		uint32_t hash = serm_hash_begin(SEED_TRIGRAM);
		uint64_t bit;
		bool seen = false;

		for (uint32_t j = i; j < i + 3; j++)
			hash = serm_hash_step(hash, framed[j]);
		hash = serm_hash_end(hash);
		hash += hash == 0;
		bit = UINT64_C(1) << (hash >> 26);
		if ((signature & bit) != 0)
			for (uint32_t j = 0; j < count && !seen; j++)
				seen = trigrams->hashes[j] == hash;
		if (!seen)
			trigrams->hashes[count++] = hash;
		signature |= bit;
	}
	trigrams->count = count;
	trigrams->signature = signature;
}

bool
serm_trigrams_of_words(const SermWords *words, uint32_t count, SermArena *arena, SermTrigrams *trigrams)
{
	size_t total = 0;
	uint32_t *hashes;

	for (uint32_t i = 0; i < count; i++)
		total += words->words[i].length;
	hashes = serm_arena_array(arena, total, sizeof(uint32_t));
	if (hashes == NULL)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		const SermWord *word = &words->words[i];

		trigrams[i].hashes = hashes;
		trigrams_of(words->code_points + word->start, word->length, &trigrams[i]);
		hashes += trigrams[i].count;
	}
	return true;
}

static bool
set_init(SermTrigramSet *set, uint32_t hashes_max, SermArena *arena)
{
	set->size = 16;
	while (set->size < 2 * hashes_max)
		set->size *= 2;
	set->count = 0;
	set->slots = serm_arena_array(arena, set->size, sizeof(uint32_t));
	return set->slots != NULL;
}

static uint32_t
set_find(const SermTrigramSet *set, uint32_t hash)
{
	uint32_t at = hash & (set->size - 1);

	while (set->slots[at] != 0 && set->slots[at] != hash)
		at = (at + 1) & (set->size - 1);
	return at;
}

/* Is `hash` new to the set? */
static bool
set_insert(SermTrigramSet *set, uint32_t hash)
{
	uint32_t at = set_find(set, hash);

	if (set->slots[at] == hash)
		return false;
	set->slots[at] = hash;
	set->count++;
	return true;
}

bool
serm_trigrams_of_query(SermParsedQuery *query, const SermWords *words, SermArena *arena)
{
	SermTrigrams *trigrams = serm_arena_array(arena, words->count, sizeof(SermTrigrams));
	uint32_t total = 0;

	if (trigrams == NULL || !serm_trigrams_of_words(words, words->count, arena, trigrams))
		return false;
	for (uint32_t i = 0; i < words->count; i++)
		query->terms[query->tokens[i]].trigrams = trigrams[i];
	for (uint32_t t = 0; t < query->term_count; t++)
		total += query->terms[t].trigrams.count;
	if (!set_init(&query->trigrams, total, arena))
		return false;
	for (uint32_t t = 0; t < query->term_count; t++)
		for (uint32_t i = 0; i < query->terms[t].trigrams.count; i++)
			set_insert(&query->trigrams, query->terms[t].trigrams.hashes[i]);
	return true;
}

/* H(ab) = H(a) * base^|b| + H(b) modulo 2^64; `power` gets base^length. */
static uint64_t
polynomial(const SermWords *words, uint32_t word, uint64_t *power)
{
	const uint32_t *code_points = words->code_points + words->words[word].start;
	uint64_t hash = 0;

	*power = 1;
	for (uint32_t i = 0; i < words->words[word].length; i++) {
		hash = hash * POLYNOMIAL_BASE + code_points[i];
		*power *= POLYNOMIAL_BASE;
	}
	return hash;
}

static uint64_t
signature_bit(uint64_t hash)
{
	return UINT64_C(1) << (hash >> 58);
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
		term->hash = polynomial(words, i, &term->power);
		query->term_signature |= signature_bit(term->hash);
		if (before == NULL || before->number)
			continue;
		compound = &query->compounds[query->compound_count++];
		compound->hash = before->hash * term->power + term->hash;
		compound->terms = UINT64_C(1) << query->tokens[i - 1] | UINT64_C(1) << query->tokens[i];
		query->compound_signature |= signature_bit(compound->hash);
	}
}

/* Terms that are matched by joining two adjacent words of the query or of the field; never numbers. */
static uint64_t
compound_matches(const SermParsedQuery *query, const SermField *field, uint32_t count)
{
	uint64_t found = 0, before = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t power, hash, joined;

		if (field->words.words[i].number) {
			before = 0;
			continue;
		}
		hash = polynomial(&field->words, i, &power);
		if ((query->compound_signature & signature_bit(hash)) != 0)
			for (uint32_t c = 0; c < query->compound_count; c++)
				if (query->compounds[c].hash == hash)
					found |= query->compounds[c].terms;
		joined = before * power + hash;
		if (before != 0 && (query->term_signature & signature_bit(joined)) != 0)
			for (uint32_t t = 0; t < query->term_count; t++)
				if (!query->terms[t].number && query->terms[t].hash == joined)
					found |= UINT64_C(1) << t;
		before = hash;
	}
	return found;
}

/* Dice of two sets if it is more than `least`, else `least`. */
static float
dice_above(const SermTrigrams *a, const SermTrigrams *b, float least)
{
	/* A trigram whose bit the other set lacks is not in it. */
	uint32_t most_a = a->count - (uint32_t) __builtin_popcountll(a->signature & ~b->signature);
	uint32_t most_b = b->count - (uint32_t) __builtin_popcountll(b->signature & ~a->signature);
	uint32_t most = most_a < most_b ? most_a : most_b;
	float sum = (float) (a->count + b->count);
	uint32_t common = 0;

	if (2 * (float) most / sum <= least)
		return least;
	for (uint32_t i = 0; i < b->count; i++) {
		bool found = false;

		if ((a->signature >> (b->hashes[i] >> 26) & 1) == 0)
			continue;
		for (uint32_t j = 0; j < a->count && !found; j++)
			found = a->hashes[j] == b->hashes[i];
		common += found;
	}
	return 2 * (float) common / sum > least ? 2 * (float) common / sum : least;
}

static float
fuzzy_match(const SermTerm *term, const SermField *field, uint32_t count)
{
	/* Dice of sets this small takes no value between this and the minimum. */
	const float below = SERM_FUZZY_DICE_MIN - 1e-3f;
	float best = below;

	for (uint32_t i = 0; i < count; i++)
		if (!field->words.words[i].number)
			best = dice_above(&term->trigrams, &field->trigrams[i], best);
	return best > below ? best : 0;
}

static bool
compare_sets(const SermParsedQuery *query, SermField *field, uint32_t count, SermArena *scratch)
{
	SermTrigramSet set;
	uint32_t total = 0;

	for (uint32_t i = 0; i < count; i++)
		total += field->trigrams[i].count;
	if (!set_init(&set, total, scratch))
		return false;
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t j = 0; j < field->trigrams[i].count; j++) {
			uint32_t hash = field->trigrams[i].hashes[j];

			if (set_insert(&set, hash))
				field->trigrams_common += query->trigrams.slots[set_find(&query->trigrams, hash)] == hash;
		}
	field->trigrams_count = set.count;
	return true;
}

bool
serm_field_compare(const SermParsedQuery *query, SermField *field, SermArena *scratch)
{
	uint32_t count = field->words.count < SERM_FUZZY_WORDS_MAX ? field->words.count : SERM_FUZZY_WORDS_MAX;
	uint64_t all = query->term_count == 64 ? UINT64_MAX : (UINT64_C(1) << query->term_count) - 1;
	uint64_t sure = field->matched;
	uint32_t compared = 0;

	field->trigrams = serm_arena_array(scratch, count, sizeof(SermTrigrams));
	if (field->trigrams == NULL || !serm_trigrams_of_words(&field->words, count, scratch, field->trigrams))
		return false;
	if (!compare_sets(query, field, count, scratch))
		return false;
	if (sure != all)
		sure |= compound_matches(query, field, count);
	for (uint32_t t = 0; t < query->term_count; t++)
		field->fuzzy[t] = (float) (sure >> t & 1);
	for (uint32_t i = 0; i < query->term_count && compared < SERM_FUZZY_TERMS_MAX; i++) {
		const SermTerm *term = &query->terms[query->by_idf[i]];

		if ((sure >> query->by_idf[i] & 1) != 0 || term->number)
			continue;
		field->fuzzy[query->by_idf[i]] = fuzzy_match(term, field, count);
		compared++;
	}
	return true;
}
