/*
 * The 73 raw features of a pair (S6, S9). Order of SermFeatures.value:
 * 0-19 title, 20-39 body, 40-48 both fields joined, 49-58 global,
 * 59-64 kernels of the title (mu 1, .8, .6, .4, .2, 0), 65-70 of the body,
 * 71 dot of the title, 72 dot of the body.
 *
 * A word is identified by its stem (S3). What the literature computes on stems
 * beside words is computed with kin (S18) beside words.
 */
#include "core/model/features.h"

#include <math.h>
#include <string.h>

#include "core/model/features_parts.h"

#define TITLE 0
#define BODY SERM_FIELD_FEATURES
#define JOINED (2 * SERM_FIELD_FEATURES)
#define GLOBAL (JOINED + SERM_JOINED_FEATURES)
#define TITLE_KERNELS SERM_LEXICAL_FEATURES
#define BODY_KERNELS (TITLE_KERNELS + SERM_KERNELS)
#define TITLE_DOT (BODY_KERNELS + SERM_KERNELS)
#define BODY_DOT (TITLE_DOT + 1)

/* In one language with the judged documents queries have .66 and more, in another .43 at most. */
#define SUPPORT_ENOUGH (2.0 / 3)

/* What any document needs of the scratch arena; a multiple of SERM_ARENA_ALIGN. */
#define SCRATCH_BYTES ((size_t) SERM_DOCUMENT_BYTES_MAX)

static_assert(GLOBAL + SERM_GLOBAL_FEATURES == SERM_LEXICAL_FEATURES, "the blocks fill the lexical part");
static_assert(BODY_DOT + 1 == SERM_FEATURES, "the blocks fill the whole");
static_assert(SERM_QUERY_WORDS_MAX <= 64, "terms are bits of a mask");
static_assert(SERM_INTERACTION_TITLE_WORDS <= SERM_DOCUMENT_TITLE_SPELLED &&
                  SERM_FUZZY_WORDS_MAX <= SERM_DOCUMENT_TITLE_SPELLED,
    "what is compared by spelling is spelled");
static_assert(SERM_INTERACTION_BODY_WORDS <= SERM_DOCUMENT_BODY_SPELLED &&
                  SERM_FUZZY_WORDS_MAX <= SERM_DOCUMENT_BODY_SPELLED,
    "what is compared by spelling is spelled");

static SermStatus
out_of_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "out of memory while computing features");
}

/* Those of the script of most words, and the part of the cache that keeps idf by them. */
static void
choose_statistics(const SermStatistics *all, const SermWords *words, SermParsedQuery *query)
{
	SermScriptCount count = {0};
	SermScript script = SERM_SCRIPTS;
	uint32_t parts = 1, bits = 0;

	if (all->scripts != NULL) {
		serm_script_add(&count, words);
		script = serm_script_main(&count);
	}
	query->statistics = serm_statistics_of_script(all, script);
	query->script = SERM_SCRIPTS;
	query->idf_shift = 33 - SERM_CACHE_IDFS_BITS;
	for (int s = 0; all->scripts != NULL && s < SERM_SCRIPTS; s++) {
		if (all->scripts[s].document_count < SERM_SCRIPT_DOCUMENTS_MIN)
			continue;
		if (s == (int) script) {
			query->idf_base = parts;
			query->script = script;
		}
		parts++;
	}
	while (UINT32_C(1) << bits < parts)
		bits++;
	query->idf_shift += bits;
	query->idf_base <<= SERM_CACHE_IDFS_BITS - bits;
}

/*
 * Documents of every script have numbers and names: a word that is not of the query's script is weighed by
 * all documents, as it is counted, but not above what the script allows.
 */
static double
weigh_term(const SermStatistics *all, const SermWords *words, const SermWord *word, SermParsedQuery *query,
    uint32_t term)
{
	bool own = !word->number && serm_script_of(words->code_points[word->start]) == query->script;

	if (query->script == SERM_SCRIPTS || own)
		return serm_statistics_idf(&query->statistics, word->id);
	query->foreign |= UINT64_C(1) << term;
	return fmin(serm_statistics_idf(all, word->id), query->idf_max);
}

static void
add_form(SermParsedQuery *query, uint32_t id, uint32_t found)
{
	uint32_t at = serm_term_slot(query, id), bit = id % SERM_TERM_SLOTS;

	query->slot_id[at] = id;
	query->slots[at] = (uint8_t) found;
	query->present[bit / 64] |= UINT64_C(1) << bit % 64;
	query->form_count++;
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
			found = query->term_count++;
			add_form(query, word->id, found);
			term = &query->terms[found];
			term->id = word->id;
			term->number = word->number;
			term->idf = weigh_term(statistics, words, word, query, found);
			query->weight += term->idf;
			query->unseen_count += serm_statistics_df(statistics, word->id) == 0;
			if (word->number)
				query->numbers |= UINT64_C(1) << found;
		}
		query->tokens[i] = (uint8_t) found;
		query->pair_count += i > 0 && query->tokens[i - 1] != found;
	}
}

/* Find the kin of the terms (S18). A word that is a term itself is no other term's kin. */
static void
collect_kin(const SermStatistics *all, SermParsedQuery *query)
{
	for (uint32_t t = 0; t < query->term_count; t++) {
		SermTerm *term = &query->terms[t];
		uint32_t first = all->word_kin != NULL ? serm_statistics_find(all, term->id) : all->word_count;
		uint32_t word = first;

		term->kin_idf = term->idf;
		if (first < all->word_count && all->word_kin[first] != first) {
			const SermStatistics *own = (query->foreign >> t & 1) != 0 ? all : &query->statistics;

			term->kin_idf = fmin(term->idf, serm_statistics_kin_idf(own, first));
			for (int i = 0; i < SERM_KIN_MAX && query->form_count < SERM_FORMS_MAX; i++) {
				word = all->word_kin[word];
				if (word == first)
					break;
				if (serm_term_find(query, all->word_id[word]) == SERM_TERM_NONE)
					add_form(query, all->word_id[word], t | SERM_TERM_KIN);
			}
		}
		query->kin_weight += term->kin_idf;
	}
}

/*
 * How far judgments support what is asked (S17): the mean over the known words, of which SUPPORT_ENOUGH is as
 * good as all, squared, because what is half supported is mostly guessed.
 */
static double
support_of(const SermStatistics *statistics, const SermParsedQuery *query)
{
	double sum = 0, share;
	uint32_t known = 0;

	for (uint32_t t = 0; statistics->word_support != NULL && t < query->term_count; t++) {
		double support = serm_statistics_support(statistics, query->terms[t].id);

		if (support < 0)
			continue;
		sum += support;
		known++;
	}
	share = known > 0 ? sum / known / SUPPORT_ENOUGH : 1;
	return share < 1 ? share * share : 1;
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
	query->level = serm_vector_level();
	choose_statistics(statistics, &words, query);
	query->idf_max = log(1 + (query->statistics.document_count + 0.5) / 0.5);
	collect_terms(statistics, &words, query);
	collect_kin(statistics, query);
	query->support = support_of(statistics, query);
	fill_failure(query);
	order_by_idf(query);
	serm_compounds_of(query, &words);
	if (!serm_trigrams_of_query(query, &words, arena))
		return out_of_memory(error);
	if (embedding->rows != NULL && !serm_pooling_parse(embedding, &words, arena, query))
		return out_of_memory(error);
	serm_match_layout(query);
	if (!serm_trigrams_weigh(statistics, query, arena))
		return out_of_memory(error);
	if (embedding->cache != NULL)
		query->serial = ++embedding->cache->query_count;
	*parsed = query;
	return SERM_OK;
}

void
serm_features_limit(SermParsedQuery *query, SermVectorLevel level)
{
	query->level = level < serm_vector_level() ? level : serm_vector_level();
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
joined_features(const SermParsedQuery *query, const SermField *title, const SermField *body, float *value,
    SermFeatures *features)
{
	uint32_t tf[SERM_QUERY_WORDS_MAX], kin_tf[SERM_QUERY_WORDS_MAX];
	float missing[SERM_QUERY_WORDS_MAX];
	uint64_t matched = title->matched | body->matched;
	double average = query->statistics.joined_length, length = (double) title->count + body->count;
	double bm25, coverage, fuzzy = 0;

	for (uint32_t t = 0; t < query->term_count; t++) {
		float best = fmaxf(title->fuzzy[t], body->fuzzy[t]);

		tf[t] = title->tf[t] + body->tf[t];
		kin_tf[t] = title->kin_tf[t] + body->kin_tf[t];
		missing[t] = 1 - best;
		fuzzy += query->terms[t].idf * best;
	}
	bm25 = serm_bm25(query, tf, length, average);
	coverage = serm_terms_weight(query, matched) / query->weight;
	value[0] = (float) (bm25 / query->weight);
	value[1] = (float) (serm_kin_bm25(query, kin_tf, length, average) / query->kin_weight);
	value[2] = (float) coverage;
	value[3] = (float) (serm_kin_weight(query, title->kin_matched | body->kin_matched) / query->kin_weight);
	value[4] = (float) (fuzzy / query->weight);
	value[5] = (float) __builtin_popcountll(matched) / (float) query->term_count;
	value[6] = strongest(query, missing);
	value[7] = (float) (log(1 + bm25) / 4);
	value[8] = (float) (bm25 / 20);
	features->bm25 = (float) bm25;
	/* Words that are written otherwise count by the trigrams they share, and half by their likeness as a
	 * whole. */
	features->lexical = (float) (bm25 / query->weight + serm_trigrams_bm25(query, title, body, average) +
	                             SERM_LIKENESS_SHARE * (fuzzy / query->weight - coverage));
}

static void
global_features(const SermParsedQuery *query, const SermField *title, const SermField *body, float *value)
{
	double length = (double) title->count + body->count;

	value[6] = body->count > 0;
	value[5] = title->count > 0;
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

/* Nothing is known of a field yet; the arrays that are indexed by matches need no start. */
static void
start_field(const SermParsedQuery *query, double average_length, SermField *field)
{
	memset(field, 0, offsetof(SermField, place));
	memset(field->tf, 0, query->term_count * sizeof(field->tf[0]));
	memset(field->kin_tf, 0, query->term_count * sizeof(field->kin_tf[0]));
	memset(field->fuzzy, 0, query->term_count * sizeof(field->fuzzy[0]));
	memset(field->trigram_tf, 0, query->trigrams.count * sizeof(field->trigram_tf[0]));
	memset(field->trigrams_met, 0, query->trigram_masks * sizeof(field->trigrams_met[0]));
	memset(field->kernels, 0, sizeof(field->kernels));
	field->trigrams_common = field->trigrams_count = 0;
	field->dot = 0;
	field->average_length = average_length;
}

static void
put_interactions(const SermField *field, float *kernels, float *dot)
{
	memcpy(kernels, field->kernels, sizeof(field->kernels));
	*dot = field->dot;
}

void
serm_features_of_document(const SermStatistics *statistics, const SermEmbedding *embedding,
    const SermParsedQuery *query, const SermDocument *doc, SermFeatures *features)
{
	const SermStatistics *own = &query->statistics;
	const SermPair pair = {own, embedding, query};
	SermField title, body;
	float *value = features->value;

	SERM_ASSERT(statistics->word_id == own->word_id);
	*features = (SermFeatures){0};
	start_field(query, own->title_length, &title);
	start_field(query, own->body_length, &body);
	if (doc->title.count > 0) {
		serm_field_read(&pair, &doc->title, SERM_INTERACTION_TITLE_WORDS, &title);
		serm_field_features(query, &title, value + TITLE);
	}
	if (doc->body.count > 0) {
		serm_field_read(&pair, &doc->body, SERM_INTERACTION_BODY_WORDS, &body);
		serm_field_features(query, &body, value + BODY);
	}
	if (query->term_count > 0)
		joined_features(query, &title, &body, value + JOINED, features);
	global_features(query, &title, &body, value + GLOBAL);
	put_interactions(&title, value + TITLE_KERNELS, value + TITLE_DOT);
	put_interactions(&body, value + BODY_KERNELS, value + BODY_DOT);
	features->dot = value[TITLE_DOT] + value[BODY_DOT];
	features->support = (float) query->support;
}

SermStatus
serm_features_compute(const SermStatistics *statistics, const SermEmbedding *embedding,
    const SermParsedQuery *query, SermText doc, SermArena *scratch, SermFeatures *features, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	SermDocument parsed;
	SermStatus status;

	/* A fresh arena gets its first block before the mark, so that rewinding keeps it for the next row. */
	if (mark.block == NULL && serm_arena_alloc(scratch, SCRATCH_BYTES) != NULL) {
		mark = serm_arena_mark(scratch);
		mark.used = 0;
		serm_arena_rewind(scratch, mark);
	}
	status = serm_document_parse(doc, scratch, &parsed, error);
	if (status == SERM_OK)
		serm_features_of_document(statistics, embedding, query, &parsed, features);
	serm_arena_rewind(scratch, mark);
	return status;
}
