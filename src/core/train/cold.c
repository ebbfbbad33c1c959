/*
 * Generation 0 (S14 in doc/model.md): the order of s0 as a model, before there
 * is any label. What can be learned from text alone is learned as ever; the
 * heads are one of zeros, so that the guard is the whole of the logits.
 *
 * The constants of s0 need pairs of a query and what a search finds for it. A
 * log has them. Without one, a few words of a document play the query, and the
 * best of some documents drawn at random play its results.
 */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "core/model/interaction.h"
#include "core/train/check.h"
#include "core/train/failure.h"
#include "core/train/foundation.h"
#include "core/train/scaling.h"

#define COLD_STREAM UINT64_C(0x636f6c64)
/* Fewer shown pairs say too little about the deviations. */
#define SHOWN_MIN 200
#define QUERIES 500
#define QUERY_WORDS_MAX 5
#define QUERY_BYTES_MAX (QUERY_WORDS_MAX * (SERM_DOCUMENT_WORD_MAX + 1))
/* A shorter title is no source of queries, as in pre-training. */
#define TITLE_WORDS_MIN 4
/* Documents that a query is compared with, and how many of the best of them are its results. */
#define DRAWN 64
#define RESULTS 16
/* The odds of the best grade against the worst are exp(2 s0), however many grades there are. */
#define LOG_ODDS 2.0

typedef struct Starter {
	const SermColdSet *set;
	const SermTrainOptions *options;
	const SermTrainHost *host;
	SermArena *arena;
	SermFoundation base;
	SermEmbedding embedding;
	SermFeatures *features; /* of the pairs that the constants come from */
	size_t count;
} Starter;

static SermStatus
check_set(const SermColdSet *set, SermError *error)
{
	if (set->grade_count < SERM_GRADES_MIN || set->grade_count > SERM_GRADES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "a model has between %d and %d grades, not %u",
		    SERM_GRADES_MIN, SERM_GRADES_MAX, set->grade_count);
	if (set->corpus_count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no documents to learn from");
	if (set->corpus_count >= UINT32_MAX || set->pair_count >= UINT32_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "too many documents or pairs to learn from");
	for (size_t i = 0; i < set->pair_count; i++)
		if (set->pairs[i].query >= set->query_count)
			return serm_fail(error, SERM_ERR_INVALID, "pair %zu names query %u of %zu", i + 1,
			    set->pairs[i].query, set->query_count);
	return SERM_OK;
}

static SermStatus
parse_query(Starter *starter, SermText text, SermParsedQuery **query, SermError *error)
{
	return serm_features_parse_query(
	    &starter->base.statistics, &starter->embedding, text, starter->arena, query, error);
}

static SermStatus
compute(
    Starter *starter, const SermParsedQuery *query, SermText doc, SermFeatures *features, SermError *error)
{
	return serm_features_compute(
	    &starter->base.statistics, &starter->embedding, query, doc, starter->arena, features, error);
}

/* --- pairs of the log */

static SermStatus
take_shown(Starter *starter, SermError *error)
{
	const SermColdSet *set = starter->set;
	SermStatus status = SERM_OK;

	for (size_t i = 0; i < set->pair_count;) {
		SermArenaMark mark = serm_arena_mark(starter->arena);
		uint32_t number = set->pairs[i].query;
		SermParsedQuery *query;

		status = parse_query(starter, set->queries[number], &query, error);
		for (; status == SERM_OK && i < set->pair_count && set->pairs[i].query == number; i++) {
			if (starter->count % 64 == 0 && !starter->host->keep_going(starter->host->context))
				return serm_train_canceled(error);
			status = compute(starter, query, set->pairs[i].doc, &starter->features[starter->count++], error);
		}
		if (status != SERM_OK)
			return status;
		serm_arena_rewind(starter->arena, mark);
	}
	return SERM_OK;
}

/* --- words of documents as queries */

static size_t
put_word(const SermWords *words, uint32_t index, char *out)
{
	const SermWord *word = &words->words[index];
	size_t length = 0;

	for (uint32_t i = 0; i < word->length; i++)
		length += serm_utf8_encode(words->code_points[word->start + i], out + length);
	out[length++] = ' ';
	return length;
}

/* One to five words of a document, at most half of them; one half of the time neighbours. Empty: too short.
 */
static SermStatus
draw_query(Starter *starter, SermRng *rng, SermText doc, char *out, SermText *query, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(starter->arena);
	SermText title, body;
	SermWords words;
	SermStatus status;
	uint32_t most, wanted, start;
	bool span;

	*query = (SermText){out, 0};
	serm_text_split_document(doc, &title, &body);
	status = serm_text_words(title, SERM_INTERACTION_TITLE_WORDS, starter->arena, &words, error);
	if (status == SERM_OK && words.count < TITLE_WORDS_MIN)
		status = serm_text_words(body, SERM_INTERACTION_BODY_WORDS, starter->arena, &words, error);
	if (status != SERM_OK || words.count < 2)
		return status;
	most = words.count / 2 < QUERY_WORDS_MAX ? words.count / 2 : QUERY_WORDS_MAX;
	wanted = 1 + serm_rng_below(rng, most);
	span = serm_rng_below(rng, 2) == 0;
	start = serm_rng_below(rng, words.count - wanted + 1);
	for (uint32_t i = 0; i < wanted; i++)
		query->length +=
		    put_word(&words, span ? start + i : serm_rng_below(rng, words.count), out + query->length);
	serm_arena_rewind(starter->arena, mark);
	return SERM_OK;
}

/* Keep the RESULTS best of what was drawn, in place. */
static uint32_t
keep_best(SermFeatures *drawn, uint32_t count)
{
	uint32_t kept = count < RESULTS ? count : RESULTS;

	for (uint32_t i = 0; i < kept; i++) {
		uint32_t best = i;
		SermFeatures swap = drawn[i];

		for (uint32_t j = i + 1; j < count; j++)
			if (drawn[j].lexical > drawn[best].lexical)
				best = j;
		drawn[i] = drawn[best];
		drawn[best] = swap;
	}
	return kept;
}

/* The results of one query: its own document and others. */
static SermStatus
search(Starter *starter, SermRng *rng, SermText text, uint32_t own, SermFeatures *drawn, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(starter->arena);
	size_t documents = starter->base.corpus_count;
	uint32_t count = documents < DRAWN ? (uint32_t) documents : DRAWN, kept;
	SermParsedQuery *query;
	SermStatus status = parse_query(starter, text, &query, error);

	for (uint32_t i = 0; status == SERM_OK && i < count; i++) {
		uint32_t doc = i == 0 ? own : serm_rng_below(rng, (uint32_t) documents);

		status = compute(starter, query, starter->base.corpus[doc], &drawn[i], error);
	}
	serm_arena_rewind(starter->arena, mark);
	if (status != SERM_OK)
		return status;
	kept = keep_best(drawn, count);
	memcpy(starter->features + starter->count, drawn, kept * sizeof(*drawn));
	starter->count += kept;
	return SERM_OK;
}

static SermStatus
play_searches(Starter *starter, SermError *error)
{
	SermFeatures *drawn = serm_arena_array(starter->arena, DRAWN, sizeof(*drawn));
	char *out = serm_arena_alloc(starter->arena, QUERY_BYTES_MAX);
	SermRng rng;

	if (drawn == NULL || out == NULL)
		return serm_train_out_of_memory(error);
	serm_rng_seed(&rng, serm_hash_mix(starter->options->seed ^ COLD_STREAM));
	for (uint32_t i = 0; i < QUERIES; i++) {
		uint32_t own = serm_rng_below(&rng, (uint32_t) starter->base.corpus_count);
		SermText query;
		SermStatus status;

		if (!starter->host->keep_going(starter->host->context))
			return serm_train_canceled(error);
		status = draw_query(starter, &rng, starter->base.corpus[own], out, &query, error);
		if (status == SERM_OK && query.length > 0)
			status = search(starter, &rng, query, own, drawn, error);
		if (status != SERM_OK)
			return status;
	}
	return SERM_OK;
}

/* --- the parts of the model */

static SermStatus
find_constants(Starter *starter, SermGuard *guard, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(starter->arena);
	bool shown = starter->set->pair_count >= SHOWN_MIN;
	size_t room = shown ? starter->set->pair_count : (size_t) QUERIES * RESULTS;
	double slope =
	    starter->options->guard >= 0 ? starter->options->guard : LOG_ODDS / (starter->set->grade_count - 1);
	SermStatus status;

	starter->features = serm_arena_array(starter->arena, room, sizeof(SermFeatures));
	starter->embedding = (SermEmbedding){
	    starter->base.embedding_rows, starter->base.embedding_scale, serm_word_cache_create(starter->arena)};
	if (starter->features == NULL)
		return serm_train_out_of_memory(error);
	status = shown ? take_shown(starter, error) : play_searches(starter, error);
	if (status == SERM_OK && starter->count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "no document has two words to learn from");
	if (status == SERM_OK)
		serm_scaling_guard(
		    starter->features, starter->count, starter->base.statistics.document_count, slope, guard);
	serm_arena_rewind(starter->arena, mark);
	return status;
}

/* One head of zeros over inputs that are all masked, and cut points that share the range out evenly. */
static SermStatus
write_model(Starter *starter, const SermGuard *guard, SermTensorSet *tensors, SermError *error)
{
	SermArena *arena = starter->arena;
	uint32_t grades = starter->set->grade_count;
	float *scale = serm_arena_array(arena, SERM_FEATURES, sizeof(*scale));
	SermReal *zeros = serm_arena_array(arena, SERM_HIDDEN1 * SERM_FEATURES, sizeof(*zeros));
	SermReal *cuts = serm_arena_array(arena, grades - 1, sizeof(*cuts));
	SermHeads heads = {.head_count = 1,
	    .input_count = SERM_FEATURES,
	    .grade_count = grades,
	    .w1 = zeros,
	    .b1 = zeros,
	    .w2 = zeros,
	    .b2 = zeros,
	    .w3 = zeros,
	    .b3 = zeros};
	SermInteractionParts parts;

	if (scale == NULL || zeros == NULL || cuts == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t y = 0; y + 1 < grades; y++)
		cuts[y] = (SermReal) (y + 0.5);
	heads.cuts = cuts;
	parts = (SermInteractionParts){.statistics = starter->base.statistics,
	    .embedding = {starter->base.embedding_rows, starter->base.embedding_scale, NULL},
	    .heads = heads,
	    .guard = *guard,
	    .mean = scale,
	    .inverse = scale};
	return serm_interaction_write(&parts, arena, tensors, error);
}

SermStatus
serm_train_cold(const SermColdSet *set, const SermTrainOptions *options, const SermTrainHost *host,
    SermArena *arena, SermTensorSet *tensors, SermTrainReport *report, SermError *error)
{
	Starter starter = {.set = set, .options = options, .host = host, .arena = arena};
	double started = host->clock != NULL ? host->clock(host->context) : 0;
	SermGuard *guard = serm_arena_alloc(arena, sizeof(*guard));
	SermStatus status = serm_train_check_options(options, error);

	if (status == SERM_OK && guard == NULL)
		status = serm_train_out_of_memory(error);
	if (status == SERM_OK)
		status = check_set(set, error);
	if (status == SERM_OK)
		status = serm_foundation_lay(set->corpus, set->corpus_count, options->seed, options->pretrain_epochs,
		    host, arena, &starter.base, error);
	if (status == SERM_OK)
		status = find_constants(&starter, guard, error);
	if (status == SERM_OK)
		status = write_model(&starter, guard, tensors, error);
	if (status == SERM_OK)
		*report = (SermTrainReport){.seconds = host->clock != NULL ? host->clock(host->context) - started : 0,
		    .example_count = starter.count,
		    .query_count = set->pair_count >= SHOWN_MIN ? set->query_count : 0,
		    .corpus_count = starter.base.corpus_count,
		    .temperature = 1};
	return status;
}
