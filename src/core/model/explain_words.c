/*
 * The second reading of a field, for explaining: which word each term of the
 * query meets, and what the term adds to the sums over words. Scoring keeps
 * only the sums; here they are taken apart.
 */
#include <math.h>
#include <string.h>

#include "core/model/explain.h"

#define NEAR_WORDS 8
#define NARROW 0.03
#define WIDE 0.15

/* Better than any similarity, the better the surer. */
#define CLOSE_EXACT 6
#define CLOSE_COMPOUND 5
#define CLOSE_KIN 4.9
/* Before a Dice coefficient, which is before any cosine: a cosine lies in [-1, 1]. */
#define CLOSE_FUZZY 4
#define CLOSE_COSINE 2

static const double centers[SERM_KERNELS] = {1, .8, .6, .4, .2, 0};

/* exp(-(cosine - mu)^2 / (2 sigma^2)) of kernel k. */
static double
kernel_of(int k, double cosine)
{
	double sigma = k == 0 ? NARROW : WIDE, distance = cosine - centers[k];

	return exp(-distance * distance / (2 * sigma * sigma));
}

/* --- pairs of adjacent words of the query */

static void
count_pairs(const SermParsedQuery *query, SermExplainField *found)
{
	const SermField *field = &found->field;
	uint64_t after[SERM_QUERY_WORDS_MAX] = {0}, around[SERM_QUERY_WORDS_MAX] = {0};

	for (uint32_t i = 0; i < field->match_count; i++)
		for (uint32_t j = i; j-- > 0 && field->place[j] + (uint32_t) NEAR_WORDS >= field->place[i];) {
			around[field->term[i]] |= UINT64_C(1) << field->term[j];
			around[field->term[j]] |= UINT64_C(1) << field->term[i];
			if (field->place[j] + 1u == field->place[i])
				after[field->term[j]] |= UINT64_C(1) << field->term[i];
		}
	for (uint32_t i = 1; i < query->token_count; i++) {
		uint32_t left = query->tokens[i - 1], right = query->tokens[i];
		uint32_t adjacent = after[left] >> right & 1, near = around[left] >> right & 1;

		if (left == right)
			continue;
		found->pairs_adjacent[left] += adjacent;
		found->pairs_adjacent[right] += adjacent;
		found->pairs_near[left] += near;
		found->pairs_near[right] += near;
	}
}

/* --- trigrams */

static void
count_trigrams(const SermParsedQuery *query, const uint64_t *present, SermExplainField *found)
{
	for (uint32_t t = 0; t < query->term_count; t++)
		for (uint32_t m = 0; m < query->trigram_masks; m++)
			found->trigrams[t] += (uint32_t) __builtin_popcountll(
			    query->trigrams.masks[(size_t) t * query->trigram_masks + m] & present[m]);
}

/* --- words */

/* One word of the field on its way, and the one before it. */
typedef struct Reading {
	const SermPair *pair;
	SermArena *arena;
	SermExplainField *found;
	SermWordMatch *match; /* of the word */
	SermSpelling spelling;
	uint32_t length; /* code points; 0: no part of a compound */
	SermText word;
	SermText before;
	uint64_t before_hash; /* 0: a number, or none */
	uint64_t *trigrams;   /* [trigram_masks] of all words so far */
	double *kernels;      /* [token][SERM_KERNELS] sums over the words so far */
	double *dots;         /* [token] sums of idf times cosine */
	double weight;        /* sum of idf */
} Reading;

static void
offer(SermExplainField *found, uint32_t term, double closeness, SermText word)
{
	if (closeness <= found->closeness[term])
		return;
	found->closeness[term] = closeness;
	found->word[term] = word;
}

/* Words that are written together on one side only. */
static bool
offer_compounds(Reading *reading)
{
	const SermParsedQuery *query = reading->pair->query;
	const SermSpelling *spelling = &reading->spelling;
	uint64_t joined = reading->before_hash * query->powers[reading->length] + spelling->hash;

	for (uint64_t left = spelling->compounds; left != 0; left &= left - 1)
		offer(reading->found, (uint32_t) __builtin_ctzll(left), CLOSE_COMPOUND, reading->word);
	if (reading->before_hash == 0 || reading->length == 0)
		return true;
	for (uint32_t t = 0; t < query->term_count; t++) {
		SermText both;
		char *bytes;

		if (query->terms[t].number || query->terms[t].hash != joined)
			continue;
		both.length = reading->before.length + 1 + reading->word.length;
		bytes = serm_arena_alloc(reading->arena, both.length);
		if (bytes == NULL)
			return false;
		memcpy(bytes, reading->before.bytes, reading->before.length);
		bytes[reading->before.length] = ' ';
		memcpy(bytes + reading->before.length + 1, reading->word.bytes, reading->word.length);
		both.bytes = bytes;
		offer(reading->found, t, CLOSE_COMPOUND, both);
	}
	return true;
}

/* What is compared by spelling: the first words of the field only. */
static bool
compare(Reading *reading)
{
	const SermParsedQuery *query = reading->pair->query;
	const SermSpelling *spelling = &reading->spelling;

	for (uint32_t m = 0; m < query->trigram_masks; m++)
		reading->trigrams[m] |= spelling->trigrams[m];
	for (uint64_t left = spelling->similar; left != 0; left &= left - 1) {
		uint32_t term = (uint32_t) __builtin_ctzll(left);

		offer(reading->found, term, CLOSE_FUZZY + (double) spelling->dice[term] / 2, reading->word);
	}
	return offer_compounds(reading);
}

/* What is compared by embedding. */
static void
pool(Reading *reading)
{
	const SermParsedQuery *query = reading->pair->query;
	const SermWordMatch *match = reading->match;
	const float *cosines = serm_match_cosines(query, match);

	reading->weight += match->idf;
	for (uint32_t i = 0; i < query->token_count && i < SERM_INTERACTION_QUERY_WORDS; i++) {
		double cosine = cosines[i / SERM_LANES * SERM_LANES + i % SERM_LANES];

		for (int k = 0; k < SERM_KERNELS; k++)
			reading->kernels[(size_t) i * SERM_KERNELS + k] += kernel_of(k, cosine);
		reading->dots[i] += match->idf * cosine;
		offer(reading->found, query->tokens[i], CLOSE_COSINE + cosine, reading->word);
	}
}

static bool
read_word(Reading *reading, uint32_t place, bool number)
{
	const SermPair *pair = reading->pair;
	const SermParsedQuery *query = pair->query;
	SermWordMatch *match = reading->match;
	uint32_t spelling[SERM_DOCUMENT_WORD_MAX];
	uint32_t length = serm_document_spell(
	    (const unsigned char *) reading->word.bytes, (uint32_t) reading->word.length, spelling);
	uint32_t id = serm_text_word_id(spelling, length), term = serm_term_find(query, id);
	float unit[SERM_EMBEDDING_WIDTH];

	match->idf = (float) serm_statistics_idf(pair->statistics, id);
	/* A plural is met as it is written in the document. */
	if (term != SERM_TERM_NONE)
		offer(reading->found, serm_term_of(term), term == serm_term_of(term) ? CLOSE_EXACT : CLOSE_KIN,
		    reading->word);
	serm_spell_word(query, spelling, length, number, &reading->spelling);
	reading->length = number || length >= SERM_POWERS ? 0 : length;
	if (place < SERM_FUZZY_WORDS_MAX && !compare(reading))
		return false;
	if (query->lane_groups > 0 && place < reading->found->window) {
		serm_embedding_word(pair->embedding, spelling, length, unit);
		serm_pooling_word(query, unit, serm_match_cosines(query, match), &match->dot);
		pool(reading);
	}
	reading->before = reading->word;
	reading->before_hash = reading->length != 0 ? reading->spelling.hash : 0;
	return true;
}

/* Sums over words become what each term adds to the features. */
static void
finish(const Reading *reading, uint32_t pooled)
{
	const SermParsedQuery *query = reading->pair->query;
	SermExplainField *found = reading->found;

	count_pairs(query, found);
	count_trigrams(query, reading->trigrams, found);
	if (pooled == 0)
		return;
	for (uint32_t i = 0; i < query->token_count && i < SERM_INTERACTION_QUERY_WORDS; i++) {
		uint32_t term = query->tokens[i];
		double share = query->share[i];

		for (int k = 0; k < SERM_KERNELS; k++)
			found->kernels[term][k] += share * (log1p(reading->kernels[(size_t) i * SERM_KERNELS + k]) -
			                                       log1p(pooled * kernel_of(k, 0)));
		if (reading->weight > 0)
			found->dot[term] += share * reading->dots[i] / reading->weight;
	}
}

bool
serm_explain_field(const SermPair *pair, const SermText *terms, const SermDocumentField *words,
    uint32_t window, double average_length, SermArena *arena, SermExplainField *found)
{
	const SermParsedQuery *query = pair->query;
	const unsigned char *bytes = words->text;
	Reading reading = {.pair = pair, .arena = arena, .found = found};

	found->words = words;
	found->window = window < words->spelled ? window : words->spelled;
	found->field.average_length = average_length;
	if (words->count == 0 || query->term_count == 0)
		return true;
	serm_field_read(pair, words, window, &found->field);
	reading.match = serm_arena_alloc(arena, query->match_size);
	reading.trigrams = serm_arena_array(arena, query->trigram_masks, sizeof(uint64_t));
	reading.kernels = serm_arena_array(arena, query->token_count, SERM_KERNELS * sizeof(double));
	reading.dots = serm_arena_array(arena, query->token_count, sizeof(double));
	if (reading.match == NULL || reading.trigrams == NULL || reading.kernels == NULL || reading.dots == NULL)
		return false;
	for (uint32_t i = 0; i < words->spelled; i++) {
		reading.word = (SermText){(const char *) bytes, words->lengths[i] + 1u};
		if (!read_word(&reading, i, serm_document_is_number(words, i)))
			return false;
		bytes += reading.word.length;
	}
	/* Words that are not spelled are found by identity: their spelling is the term's own. */
	for (uint32_t t = 0; t < query->term_count; t++)
		if ((found->field.matched >> t & 1) != 0)
			offer(found, t, CLOSE_EXACT, terms[t]);
	finish(&reading, query->lane_groups > 0 ? found->window : 0);
	return true;
}
