/*
 * Matches by identity within one field (S6): BM25 (Robertson and Zaragoza
 * 2009), coverage, order, proximity, phrases and the smallest window. Every
 * loop over the matches of the field runs once; terms are bits of a mask.
 */
#include <math.h>

#include "core/model/features_parts.h"

#define NEAR_WORDS 8

static double
length_norm(double length, double average_length)
{
	double ratio = average_length > 0 ? length / average_length : 1;

	return SERM_BM25_K1 * (1 - SERM_BM25_B + SERM_BM25_B * ratio);
}

static inline double
bm25(const SermParsedQuery *query, bool kin, const uint32_t *tf, double length, double average_length)
{
	double norm = length_norm(length, average_length), sum = 0;

	for (uint32_t t = 0; t < query->term_count; t++)
		if (tf[t] > 0)
			sum += (kin ? query->terms[t].kin_idf : query->terms[t].idf) * tf[t] * (SERM_BM25_K1 + 1) /
			       (tf[t] + norm);
	return sum;
}

double
serm_bm25(const SermParsedQuery *query, const uint32_t *tf, double length, double average_length)
{
	return bm25(query, false, tf, length, average_length);
}

double
serm_kin_bm25(const SermParsedQuery *query, const uint32_t *kin_tf, double length, double average_length)
{
	return bm25(query, true, kin_tf, length, average_length);
}

double
serm_terms_weight(const SermParsedQuery *query, uint64_t terms)
{
	double sum = 0;

	for (; terms != 0; terms &= terms - 1)
		sum += query->terms[__builtin_ctzll(terms)].idf;
	return sum;
}

double
serm_kin_weight(const SermParsedQuery *query, uint64_t terms)
{
	double sum = 0;

	for (; terms != 0; terms &= terms - 1)
		sum += query->terms[__builtin_ctzll(terms)].kin_idf;
	return sum;
}

/* Shares of the query's pairs of adjacent words that are adjacent in order, or near in any order. */
static void
pair_shares(const SermParsedQuery *query, const SermField *field, double *adjacent, double *near)
{
	uint64_t after[SERM_QUERY_WORDS_MAX];  /* terms seen right after each term */
	uint64_t around[SERM_QUERY_WORDS_MAX]; /* terms seen shortly before each term */
	uint32_t adjacent_count = 0, near_count = 0, first = 0;

	for (uint32_t t = 0; t < query->term_count; t++)
		after[t] = around[t] = 0;
	for (uint32_t i = 0; i < field->match_count; i++) {
		uint32_t term = field->term[i], place = field->place[i];

		if (i > 0 && field->place[i - 1] + 1u == place)
			after[field->term[i - 1]] |= UINT64_C(1) << term;
		while (field->place[first] + (uint32_t) NEAR_WORDS < place)
			first++;
		for (uint32_t j = first; j < i; j++)
			around[term] |= UINT64_C(1) << field->term[j];
	}
	for (uint32_t i = 1; i < query->token_count; i++) {
		uint32_t left = query->tokens[i - 1], right = query->tokens[i];

		if (left == right)
			continue;
		adjacent_count += (after[left] >> right) & 1;
		near_count += ((around[left] >> right) | (around[right] >> left)) & 1;
	}
	*adjacent = (double) adjacent_count / query->pair_count;
	*near = (double) near_count / query->pair_count;
}

static bool
contains_phrase(const SermParsedQuery *query, const SermField *field)
{
	uint32_t state = 0;

	for (uint32_t i = 0; i < field->match_count; i++) {
		if (i > 0 && field->place[i - 1] + 1u != field->place[i])
			state = 0;
		while (state > 0 && query->tokens[state] != field->term[i])
			state = query->failure[state - 1];
		state += query->tokens[state] == field->term[i];
		if (state == query->token_count)
			return true;
	}
	return false;
}

/* Words in the smallest window that holds every matched term; needs a match. */
static uint32_t
smallest_window(const SermParsedQuery *query, const SermField *field)
{
	uint32_t seen[SERM_QUERY_WORDS_MAX];
	uint32_t wanted = (uint32_t) __builtin_popcountll(field->matched);
	uint32_t held = 0, left = 0, smallest = field->count;

	for (uint32_t t = 0; t < query->term_count; t++)
		seen[t] = 0;
	for (uint32_t right = 0; right < field->match_count; right++) {
		held += seen[field->term[right]]++ == 0;
		for (; held == wanted; left++) {
			uint32_t width = field->place[right] - field->place[left] + 1u;

			smallest = width < smallest ? width : smallest;
			held -= --seen[field->term[left]] == 0;
		}
	}
	return smallest;
}

static double
density(const SermParsedQuery *query, const SermField *field)
{
	uint32_t matched = (uint32_t) __builtin_popcountll(field->matched);

	if (matched >= 2)
		return (double) matched / smallest_window(query, field);
	return matched == 1 && query->term_count == 1 ? 1 : 0;
}

/* 1 when the field begins with a term, falling slowly with the place of the first match. */
static double
earliness(const SermField *field)
{
	return field->match_count > 0 ? 1 / (1 + log2(1 + (double) field->place[0])) : 0;
}

static double
number_share(const SermParsedQuery *query, const SermField *field)
{
	if (query->numbers == 0)
		return 0.5;
	return (double) __builtin_popcountll(query->numbers & field->matched) /
	       __builtin_popcountll(query->numbers);
}

/* The features that need a query with words. */
static void
match_features(const SermParsedQuery *query, const SermField *field, float *value)
{
	double bm25 = serm_bm25(query, field->tf, field->count, field->average_length);
	double coverage = serm_terms_weight(query, field->matched) / query->weight;
	uint32_t matched = (uint32_t) __builtin_popcountll(field->matched);
	bool all = matched == query->term_count;
	double fuzzy = 0, missing = 0, adjacent = coverage, near = coverage;

	for (uint32_t t = 0; t < query->term_count; t++) {
		double idf = query->terms[t].idf;

		fuzzy += idf * field->fuzzy[t];
		missing = fmax(missing, idf * (1 - field->fuzzy[t]));
	}
	if (query->term_count > 1)
		pair_shares(query, field, &adjacent, &near);
	value[0] = (float) (bm25 / query->weight);
	value[1] = (float) (serm_kin_bm25(query, field->kin_tf, field->count, field->average_length) /
	                    query->kin_weight);
	value[2] = (float) coverage;
	value[3] = (float) (serm_kin_weight(query, field->kin_matched) / query->kin_weight);
	value[4] = (float) (fuzzy / query->weight);
	value[5] = (float) matched / (float) query->term_count;
	value[6] = all;
	value[7] = (float) adjacent;
	value[8] = (float) near;
	value[9] = all && (query->term_count == 1 || contains_phrase(query, field));
	value[10] = (float) density(query, field);
	value[12] = field->fuzzy[query->tokens[query->token_count - 1]];
	value[13] = field->fuzzy[query->tokens[0]];
	value[14] = (float) (missing / query->idf_max);
	value[16] = (float) field->trigrams_common / (float) query->trigrams.count;
	value[17] = 2 * (float) field->trigrams_common / (float) (query->trigrams.count + field->trigrams_count);
}

void
serm_field_features(const SermParsedQuery *query, const SermField *field, float *value)
{
	if (query->term_count > 0)
		match_features(query, field, value);
	value[11] = (float) earliness(field);
	value[15] = field->idf_all > 0 ? (float) (field->idf_matched / field->idf_all) : 0;
	value[18] = (float) number_share(query, field);
	value[19] = (float) (log(1 + (double) field->count) / 6);
}
