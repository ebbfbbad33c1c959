/*
 * Corpus statistics (S4): how many documents contain a word, and how long
 * documents are. Lengths count the words that scoring reads, so long documents
 * weigh what they weigh there.
 */
#include <math.h>
#include <string.h>

#include "core/model/features.h"

/* Found within a few probes when ids are uniform, as hashes are; hostile ids fall back to bisection. */
#define INTERPOLATION_PROBES 4
/* A document costs at most some 50 us: well under 20 ms between two calls. */
#define DOCS_PER_CHECK 64
#define TABLE_SIZE_MIN ((size_t) 1 << 12)
#define WORDS_PER_DOC_MAX (SERM_TITLE_WORDS_MAX + SERM_BODY_WORDS_MAX)

/* Index of `word_id`, or word_count when it is not there. */
static uint32_t
find_word(const SermStatistics *statistics, uint32_t word_id)
{
	const uint32_t *ids = statistics->word_id;
	uint32_t low = 0, high = statistics->word_count; /* the id is in [low, high) if anywhere */

	for (int probe = 0; low < high; probe++) {
		uint32_t first = ids[low], last = ids[high - 1];
		uint32_t at;

		if (word_id < first || word_id > last)
			break;
		if (probe < INTERPOLATION_PROBES && last > first)
			at = low + (uint32_t) ((uint64_t) (word_id - first) * (high - 1 - low) / (last - first));
		else
			at = low + (high - low) / 2;
		if (ids[at] == word_id)
			return at;
		if (ids[at] < word_id)
			low = at + 1;
		else
			high = at;
	}
	return statistics->word_count;
}

uint32_t
serm_statistics_df(const SermStatistics *statistics, uint32_t word_id)
{
	uint32_t at = find_word(statistics, word_id);

	return at < statistics->word_count ? statistics->word_df[at] : 0;
}

double
serm_statistics_idf(const SermStatistics *statistics, uint32_t word_id)
{
	double df = serm_statistics_df(statistics, word_id);
	double rest = statistics->document_count - df;

	return log(1 + ((rest > 0 ? rest : 0) + 0.5) / (df + 0.5));
}

/* A word in the open-addressing table; `last` is the number of the last document that has it, from 1. */
typedef struct Slot {
	uint32_t id;
	uint32_t df; /* 0: empty */
	uint64_t last;
} Slot;

typedef struct Counter {
	SermArena *arena;
	Slot *slots;
	size_t size; /* power of two, at least twice `count` */
	size_t count;
	uint64_t docs;
	uint64_t titles, bodies, joined; /* not empty */
	uint64_t title_words, body_words;
} Counter;

static Slot *
find_slot(const Counter *counter, uint32_t id)
{
	size_t at = id & (counter->size - 1);

	while (counter->slots[at].df > 0 && counter->slots[at].id != id)
		at = (at + 1) & (counter->size - 1);
	return &counter->slots[at];
}

/* Make room for the words of one more document. */
static bool
reserve(Counter *counter)
{
	Slot *old = counter->slots;
	size_t old_size = counter->size;

	if (2 * (counter->count + WORDS_PER_DOC_MAX) <= counter->size)
		return true;
	counter->size = counter->size == 0 ? TABLE_SIZE_MIN : 2 * counter->size;
	counter->slots = serm_arena_array(counter->arena, counter->size, sizeof(Slot));
	if (counter->slots == NULL)
		return false;
	for (size_t i = 0; i < old_size; i++)
		if (old[i].df > 0)
			*find_slot(counter, old[i].id) = old[i];
	return true;
}

static void
count_words(Counter *counter, const SermWords *words)
{
	for (uint32_t i = 0; i < words->count; i++) {
		Slot *slot = find_slot(counter, words->words[i].id);

		if (slot->df == 0) {
			slot->id = words->words[i].id;
			counter->count++;
		}
		if (slot->last != counter->docs && slot->df < UINT32_MAX)
			slot->df++;
		slot->last = counter->docs;
	}
}

static SermStatus
count_doc(Counter *counter, SermText doc, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(counter->arena);
	SermText title, body;
	SermWords words;
	uint32_t title_count;
	SermStatus status;

	counter->docs++;
	serm_text_split_document(doc, &title, &body);
	status = serm_text_words(title, SERM_TITLE_WORDS_MAX, counter->arena, &words, error);
	if (status != SERM_OK)
		return status;
	title_count = words.count;
	count_words(counter, &words);
	status = serm_text_words(body, SERM_BODY_WORDS_MAX, counter->arena, &words, error);
	if (status != SERM_OK)
		return status;
	count_words(counter, &words);
	counter->titles += title_count > 0;
	counter->bodies += words.count > 0;
	counter->joined += title_count + words.count > 0;
	counter->title_words += title_count;
	counter->body_words += words.count;
	serm_arena_rewind(counter->arena, mark);
	return SERM_OK;
}

/* Sort id << 32 | df by id: least significant digit first, one byte at a time; four passes end in `keys`. */
static void
sort_by_id(uint64_t *keys, uint64_t *other, size_t count)
{
	for (int shift = 32; shift < 64; shift += 8) {
		size_t start[257] = {0};
		uint64_t *swap = keys;

		for (size_t i = 0; i < count; i++)
			start[((keys[i] >> shift) & 0xff) + 1]++;
		for (int digit = 0; digit < 256; digit++)
			start[digit + 1] += start[digit];
		for (size_t i = 0; i < count; i++)
			other[start[(keys[i] >> shift) & 0xff]++] = keys[i];
		keys = other;
		other = swap;
	}
}

static double
mean(uint64_t sum, uint64_t count)
{
	return count > 0 ? (double) sum / (double) count : 0;
}

static SermStatus
finish(const Counter *counter, SermStatistics *statistics, SermError *error)
{
	uint32_t *id = serm_arena_array(counter->arena, counter->count, sizeof(uint32_t));
	uint32_t *df = serm_arena_array(counter->arena, counter->count, sizeof(uint32_t));
	SermArenaMark mark = serm_arena_mark(counter->arena);
	uint64_t *keys = serm_arena_array(counter->arena, counter->count, sizeof(uint64_t));
	uint64_t *other = serm_arena_array(counter->arena, counter->count, sizeof(uint64_t));
	size_t count = 0;

	if (id == NULL || df == NULL || keys == NULL || other == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while counting words");
	for (size_t i = 0; i < counter->size; i++)
		if (counter->slots[i].df > 0)
			keys[count++] = (uint64_t) counter->slots[i].id << 32 | counter->slots[i].df;
	sort_by_id(keys, other, count);
	for (size_t i = 0; i < count; i++) {
		id[i] = (uint32_t) (keys[i] >> 32);
		df[i] = (uint32_t) keys[i];
	}
	serm_arena_rewind(counter->arena, mark);
	*statistics = (SermStatistics){
	    .document_count = (double) counter->docs,
	    .title_length = mean(counter->title_words, counter->titles),
	    .body_length = mean(counter->body_words, counter->bodies),
	    .joined_length = mean(counter->title_words + counter->body_words, counter->joined),
	    .word_count = (uint32_t) count,
	    .word_id = id,
	    .word_df = df,
	};
	return SERM_OK;
}

SermStatus
serm_statistics_count(const SermText *docs, size_t doc_count, SermArena *arena, SermKeepGoing keep_going,
    void *context, SermStatistics *statistics, SermError *error)
{
	Counter counter = {.arena = arena};

	for (size_t i = 0; i < doc_count; i++) {
		SermStatus status;

		if (i % DOCS_PER_CHECK == 0 && keep_going != NULL && !keep_going(context))
			return serm_fail(error, SERM_ERR_CANCELED, "canceled while counting words");
		if (!reserve(&counter))
			return serm_fail(error, SERM_ERR_MEMORY, "out of memory while counting words");
		status = count_doc(&counter, docs[i], error);
		if (status != SERM_OK)
			return status;
	}
	return finish(&counter, statistics, error);
}
