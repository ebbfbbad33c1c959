/*
 * A word is taught as far as it occurs among the judged documents as often as
 * in the corpus; a document is supported by the mean of its words, each weighed
 * by the root of the documents that have it, and a word by the mean of the documents that have it. The second
 * mean is what makes this say something of rare words: what they stand with is common, and a language is
 * known by its common words. So a new topic in a judged language is supported, another language is not,
 * whatever names and numbers they share.
 */
#include "core/train/support.h"

#include <math.h>
#include <string.h>

#include "core/train/failure.h"
#include "core/train/pretrain.h"

#define WORDS_MAX (SERM_TITLE_WORDS_MAX + SERM_BODY_WORDS_MAX)
#define DOCUMENTS_PER_CHECK 64

typedef struct Support {
	const SermStatistics *statistics;
	const SermTrainHost *host;
	SermArena *arena;
	uint32_t *last;    /* [word_count] number of the last document that has the word */
	uint32_t document; /* that is read */
	float *taught;     /* [word_count] share of what the corpus has of the word */
	double *sum;       /* [word_count] over the documents with the word */
	uint32_t *having;  /* [word_count] those documents */
} Support;

static SermStatus
add_words(
    Support *support, SermText text, uint32_t words_max, uint32_t *found, uint32_t *count, SermError *error)
{
	SermWords words;
	SermStatus status = serm_text_words(text, words_max, support->arena, &words, error);

	for (uint32_t i = 0; status == SERM_OK && i < words.count; i++) {
		uint32_t index = serm_statistics_find(support->statistics, words.words[i].id);

		if (index == support->statistics->word_count || support->last[index] == support->document)
			continue;
		support->last[index] = support->document;
		found[(*count)++] = index;
	}
	return status;
}

/* The distinct words of the next document, as indices [WORDS_MAX]. */
static SermStatus
read_document(Support *support, SermText doc, uint32_t *found, uint32_t *count, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(support->arena);
	SermText title, body;
	SermStatus status;

	if (support->document % DOCUMENTS_PER_CHECK == 0 && !support->host->keep_going(support->host->context))
		return serm_train_canceled(error);
	support->document++;
	*count = 0;
	serm_text_split_document(doc, &title, &body);
	status = add_words(support, title, SERM_TITLE_WORDS_MAX, found, count, error);
	if (status == SERM_OK)
		status = add_words(support, body, SERM_BODY_WORDS_MAX, found, count, error);
	serm_arena_rewind(support->arena, mark);
	return status;
}

/* taught = min(1, share of the judged documents that have the word / share of the corpus that has it) */
static SermStatus
learn_taught(Support *support, const SermText *judged, size_t judged_count, SermError *error)
{
	const SermStatistics *statistics = support->statistics;
	uint32_t found[WORDS_MAX], count;

	for (size_t d = 0; d < judged_count; d++) {
		SermStatus status = read_document(support, judged[d], found, &count, error);

		if (status != SERM_OK)
			return status;
		for (uint32_t i = 0; i < count; i++)
			support->having[found[i]]++;
	}
	for (uint32_t w = 0; w < statistics->word_count; w++) {
		double judged_share = support->having[w] / (double) judged_count;
		double share = statistics->word_df[w] / statistics->document_count;

		support->taught[w] = (float) (judged_share < share ? judged_share / share : 1);
		support->having[w] = 0;
	}
	return SERM_OK;
}

/* Mean over the distinct words of a document, the common ones foremost; it is added to each of them when
 * `keep` says so. */
static SermStatus
support_document(Support *support, SermText doc, bool keep, double *mean, SermError *error)
{
	const uint32_t *df = support->statistics->word_df;
	uint32_t found[WORDS_MAX], count;
	SermStatus status = read_document(support, doc, found, &count, error);
	double sum = 0, weight = 0;

	*mean = 1;
	if (status != SERM_OK || count == 0)
		return status;
	for (uint32_t i = 0; i < count; i++) {
		/* Few judged documents have few of the rare words, whatever their language. */
		double one = sqrt(df[found[i]]);

		sum += one * (double) support->taught[found[i]];
		weight += one;
	}
	*mean = sum / weight;
	for (uint32_t i = 0; keep && i < count; i++) {
		support->sum[found[i]] += *mean;
		support->having[found[i]]++;
	}
	return SERM_OK;
}

/* Mean over documents. */
static SermStatus
support_documents(
    Support *support, const SermText *docs, size_t count, bool keep, double *mean, SermError *error)
{
	*mean = 0;
	for (size_t d = 0; d < count; d++) {
		double one;
		SermStatus status = support_document(support, docs[d], keep, &one, error);

		if (status != SERM_OK)
			return status;
		*mean += one / (double) count;
	}
	return SERM_OK;
}

SermStatus
serm_support_learn(const SermStatistics *statistics, const SermText *judged, size_t judged_count,
    const SermText *corpus, size_t corpus_count, const SermTrainHost *host, SermArena *arena,
    uint8_t *support, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	size_t words = statistics->word_count;
	Support own = {.statistics = statistics,
	    .host = host,
	    .arena = arena,
	    .last = serm_arena_array(arena, words, sizeof(uint32_t)),
	    .taught = serm_arena_array(arena, words, sizeof(float)),
	    .sum = serm_arena_array(arena, words, sizeof(double)),
	    .having = serm_arena_array(arena, words, sizeof(uint32_t))};
	double of_judged = 1, of_corpus = 1;
	SermStatus status;

	if (own.last == NULL || own.taught == NULL || own.sum == NULL || own.having == NULL)
		return serm_train_out_of_memory(error);
	corpus_count = corpus_count < SERM_PRETRAIN_DOCUMENTS_MAX ? corpus_count : SERM_PRETRAIN_DOCUMENTS_MAX;
	status = learn_taught(&own, judged, judged_count, error);
	if (status == SERM_OK)
		status = support_documents(&own, judged, judged_count, false, &of_judged, error);
	if (status == SERM_OK)
		status = support_documents(&own, corpus, corpus_count, true, &of_corpus, error);
	if (status != SERM_OK)
		return status;
	for (size_t w = 0; w < words; w++) {
		/* Words of documents that were not read are supported as the corpus is. */
		double mean = own.having[w] > 0 ? own.sum[w] / own.having[w] : of_corpus;

		/* What is judged is supported in full. */
		mean = of_judged > 0 ? mean / of_judged : 1;
		support[w] = (uint8_t) lrint(SERM_SUPPORT_FULL * (mean < 1 ? mean : 1));
	}
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
