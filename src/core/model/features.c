/*
 * The 73 raw features of a pair (S6, S9). Order of SermFeatures.value:
 * 0-19 title, 20-39 body, 40-48 both fields joined, 49-58 global,
 * 59-64 kernels of the title (mu 1, .8, .6, .4, .2, 0), 65-70 of the body,
 * 71 dot of the title, 72 dot of the body.
 *
 * Stems are the words themselves, so each stem feature repeats its word
 * feature; the places are kept for models that are trained with stems.
 */
#include "core/model/features.h"

#include <math.h>
#include <string.h>

#include "core/model/features_parts.h"
#include "core/model/word_cache.h"

#define TITLE 0
#define BODY SERM_FIELD_FEATURES
#define JOINED (2 * SERM_FIELD_FEATURES)
#define GLOBAL (JOINED + SERM_JOINED_FEATURES)
#define TITLE_KERNELS SERM_LEXICAL_FEATURES
#define BODY_KERNELS (TITLE_KERNELS + SERM_KERNELS)
#define TITLE_DOT (BODY_KERNELS + SERM_KERNELS)
#define BODY_DOT (TITLE_DOT + 1)

/* What ordinary pairs need of the scratch arena; a multiple of SERM_ARENA_ALIGN. */
#define SCRATCH_BYTES ((size_t) 192 * 1024)

static_assert(GLOBAL + SERM_GLOBAL_FEATURES == SERM_LEXICAL_FEATURES, "the blocks fill the lexical part");
static_assert(BODY_DOT + 1 == SERM_FEATURES, "the blocks fill the whole");
static_assert(SERM_QUERY_WORDS_MAX <= 64, "terms are bits of a mask");

static SermStatus
out_of_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "out of memory while computing features");
}

/* Number the distinct words in the order of their first occurrence. */
static void
collect_terms(const SermStatistics *statistics, const SermWords *words, SermParsedQuery *query)
{
	memset(query->slots, SERM_TERM_NONE, sizeof(query->slots));
	query->token_count = words->count;
	for (uint32_t i = 0; i < words->count; i++) {
		const SermWord *word = &words->words[i];
		uint32_t found = serm_term_find(query, word->id);
		SermTerm *term;

		if (found == SERM_TERM_NONE) {
			uint32_t at = word->id % SERM_TERM_SLOTS;

			while (query->slots[at] != SERM_TERM_NONE)
				at = (at + 1) % SERM_TERM_SLOTS;
			found = query->slots[at] = (uint8_t) query->term_count++;
			term = &query->terms[found];
			term->id = word->id;
			term->number = word->number;
			term->idf = serm_statistics_idf(statistics, word->id);
			query->weight += term->idf;
			query->unseen_count += serm_statistics_df(statistics, word->id) == 0;
			if (word->number)
				query->numbers |= UINT64_C(1) << found;
		}
		query->tokens[i] = (uint8_t) found;
		query->pair_count += i > 0 && query->tokens[i - 1] != found;
	}
}

/* For each prefix of the query, its longest proper border. */
static void
fill_failure(SermParsedQuery *query)
{
	uint32_t border = 0;

	for (uint32_t i = 1; i < query->token_count; i++) {
		while (border > 0 && query->tokens[border] != query->tokens[i])
			border = query->failure[border - 1];
		border += query->tokens[border] == query->tokens[i];
		query->failure[i] = (uint8_t) border;
	}
}

/* Insertion sort: stable, so equal idf keeps the order of the query. */
static void
order_by_idf(SermParsedQuery *query)
{
	for (uint32_t t = 0; t < query->term_count; t++) {
		uint32_t at = t;

		for (; at > 0 && query->terms[query->by_idf[at - 1]].idf < query->terms[t].idf; at--)
			query->by_idf[at] = query->by_idf[at - 1];
		query->by_idf[at] = (uint8_t) t;
	}
}

SermStatus
serm_features_parse_query(const SermStatistics *statistics, const SermEmbedding *embedding, SermText text,
    SermArena *arena, SermParsedQuery **parsed, SermError *error)
{
	SermParsedQuery *query = serm_arena_alloc(arena, sizeof(SermParsedQuery));
	SermWords words;
	SermStatus status;

	if (query == NULL)
		return out_of_memory(error);
	status = serm_text_words(text, SERM_QUERY_WORDS_MAX, arena, &words, error);
	if (status != SERM_OK)
		return status;
	query->idf_max = log(1 + (statistics->document_count + 0.5) / 0.5);
	collect_terms(statistics, &words, query);
	fill_failure(query);
	order_by_idf(query);
	serm_compounds_of(query, &words);
	if (!serm_trigrams_of_query(query, &words, arena))
		return out_of_memory(error);
	if (embedding->rows != NULL && !serm_pooling_parse(embedding, &words, arena, query))
		return out_of_memory(error);
	*parsed = query;
	return SERM_OK;
}

static float
word_idf(const SermStatistics *statistics, SermWordCache *cache, uint32_t id)
{
	SermCachedIdf *entry = cache != NULL ? &cache->idfs[id % SERM_CACHE_IDFS] : NULL;
	float idf;

	if (entry != NULL && entry->id == id && entry->idf > 0)
		return entry->idf;
	idf = (float) serm_statistics_idf(statistics, id);
	if (entry != NULL)
		*entry = (SermCachedIdf){id, idf};
	return idf;
}

/* Segment a field and find the query's terms in it. */
static SermStatus
read_field(const SermStatistics *statistics, SermWordCache *cache, const SermParsedQuery *query,
    SermText text, uint32_t words_max, SermArena *scratch, SermField *field, SermError *error)
{
	SermStatus status = serm_text_words(text, words_max, scratch, &field->words, error);

	if (status != SERM_OK || field->words.count == 0)
		return status;
	field->idf = serm_arena_array(scratch, field->words.count, sizeof(float));
	field->term = serm_arena_alloc(scratch, field->words.count);
	if (field->idf == NULL || field->term == NULL)
		return out_of_memory(error);
	serm_field_match(query, field);
	for (uint32_t i = 0; i < field->words.count; i++)
		field->idf[i] = word_idf(statistics, cache, field->words.words[i].id);
	if (query->term_count > 0 && !serm_field_compare(query, field, scratch))
		return out_of_memory(error);
	return SERM_OK;
}

/* Largest of idf * strength over the terms, as a share of the largest idf there can be. */
static float
strongest(const SermParsedQuery *query, const float *strength)
{
	double largest = 0;

	for (uint32_t t = 0; t < query->term_count; t++)
		largest = fmax(largest, query->terms[t].idf * strength[t]);
	return (float) (largest / query->idf_max);
}

static void
joined_features(const SermStatistics *statistics, const SermParsedQuery *query, const SermField *title,
    const SermField *body, float *value, float *bm25_raw)
{
	uint32_t tf[SERM_QUERY_WORDS_MAX];
	float missing[SERM_QUERY_WORDS_MAX];
	uint64_t matched = title->matched | body->matched;
	double bm25, coverage, fuzzy = 0;

	for (uint32_t t = 0; t < query->term_count; t++) {
		float best = fmaxf(title->fuzzy[t], body->fuzzy[t]);

		tf[t] = title->tf[t] + body->tf[t];
		missing[t] = 1 - best;
		fuzzy += query->terms[t].idf * best;
	}
	bm25 = serm_bm25(query, tf, title->words.count + body->words.count, statistics->joined_length);
	coverage = serm_terms_weight(query, matched) / query->weight;
	value[0] = value[1] = (float) (bm25 / query->weight);
	value[2] = value[3] = (float) coverage;
	value[4] = (float) (fuzzy / query->weight);
	value[5] = (float) __builtin_popcountll(matched) / (float) query->term_count;
	value[6] = strongest(query, missing);
	value[7] = (float) (log(1 + bm25) / 4);
	value[8] = (float) (bm25 / 20);
	*bm25_raw = (float) bm25;
}

static void
global_features(const SermParsedQuery *query, const SermField *title, const SermField *body, float *value)
{
	double length = (double) title->words.count + body->words.count;

	value[6] = body->words.count > 0;
	value[5] = title->words.count > 0;
	value[7] = (float) (log(1 + length) / 6);
	if (query->term_count == 0)
		return;
	value[0] = (float) (log(1 + (double) query->term_count) / 4);
	value[1] = (float) (query->weight / query->term_count / query->idf_max);
	value[2] = (float) (query->terms[query->by_idf[0]].idf / query->idf_max);
	value[3] = (float) query->unseen_count / (float) query->term_count;
	value[4] = query->numbers != 0;
	value[8] = fmaxf(strongest(query, title->fuzzy), strongest(query, body->fuzzy));
	value[9] = (float) (log(1 + query->weight) / 4);
}

static SermStatus
compute(const SermStatistics *statistics, const SermEmbedding *embedding, const SermParsedQuery *query,
    SermText doc, SermArena *scratch, SermFeatures *features, SermError *error)
{
	SermField title = {.average_length = statistics->title_length};
	SermField body = {.average_length = statistics->body_length};
	SermText title_text, body_text;
	SermStatus status;
	float *value = features->value;

	serm_text_split_document(doc, &title_text, &body_text);
	status = read_field(
	    statistics, embedding->cache, query, title_text, SERM_TITLE_WORDS_MAX, scratch, &title, error);
	if (status == SERM_OK)
		status = read_field(
		    statistics, embedding->cache, query, body_text, SERM_BODY_WORDS_MAX, scratch, &body, error);
	if (status != SERM_OK)
		return status;
	if (title.words.count > 0)
		serm_field_features(query, &title, value + TITLE);
	if (body.words.count > 0)
		serm_field_features(query, &body, value + BODY);
	if (query->term_count > 0)
		joined_features(statistics, query, &title, &body, value + JOINED, &features->bm25);
	global_features(query, &title, &body, value + GLOBAL);
	if (query->lane_groups > 0) {
		if (!serm_pooling_field(embedding, query, &title, SERM_INTERACTION_TITLE_WORDS, scratch,
		        value + TITLE_KERNELS, value + TITLE_DOT) ||
		    !serm_pooling_field(embedding, query, &body, SERM_INTERACTION_BODY_WORDS, scratch,
		        value + BODY_KERNELS, value + BODY_DOT))
			return out_of_memory(error);
		features->dot = value[TITLE_DOT] + value[BODY_DOT];
	}
	return SERM_OK;
}

SermStatus
serm_features_compute(const SermStatistics *statistics, const SermEmbedding *embedding,
    const SermParsedQuery *query, SermText doc, SermArena *scratch, SermFeatures *features, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	SermStatus status;

	/* A fresh arena gets its first block before the mark, so that rewinding keeps it for the next row. */
	if (mark.block == NULL && serm_arena_alloc(scratch, SCRATCH_BYTES) != NULL) {
		mark = serm_arena_mark(scratch);
		mark.used = 0;
		serm_arena_rewind(scratch, mark);
	}
	*features = (SermFeatures){0};
	status = compute(statistics, embedding, query, doc, scratch, features, error);
	serm_arena_rewind(scratch, mark);
	return status;
}
