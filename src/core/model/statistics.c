/*
 * Corpus statistics (S4): how many documents contain a word, how many a
 * trigram, and how long documents are. Lengths count the words that scoring reads, so long documents
 * weigh what they weigh there.
 */
#include <math.h>
#include <string.h>

#include "core/model/features.h"
#include "core/text/ngram.h"

/* Found within a few probes when ids are uniform, as hashes are; hostile ids fall back to bisection. */
#define INTERPOLATION_PROBES 4
/* A document costs at most some 50 us: well under 20 ms between two calls. */
#define DOCS_PER_CHECK 64
#define TABLE_SIZE_MIN ((size_t) 1 << 12)
#define WORDS_PER_DOC_MAX (SERM_TITLE_WORDS_MAX + SERM_BODY_WORDS_MAX)
#define TRIGRAMS_PER_DOC_MAX                                                                                 \
	((SERM_DOCUMENT_TITLE_SPELLED + SERM_DOCUMENT_BODY_SPELLED) * (size_t) SERM_TRIGRAMS_MAX)

/* Index of `id` in ascending `ids`, or `count` when it is not there. */
static uint32_t
find_id(const uint32_t *ids, uint32_t count, uint32_t id)
{
	uint32_t low = 0, high = count; /* the id is in [low, high) if anywhere */

	for (int probe = 0; low < high; probe++) {
		uint32_t first = ids[low], last = ids[high - 1];
		uint32_t at;

		if (id < first || id > last)
			break;
		if (probe < INTERPOLATION_PROBES && last > first)
			at = low + (uint32_t) ((uint64_t) (id - first) * (high - 1 - low) / (last - first));
		else
			at = low + (high - low) / 2;
		if (ids[at] == id)
			return at;
		if (ids[at] < id)
			low = at + 1;
		else
			high = at;
	}
	return count;
}

static double
idf_of(double documents, double df)
{
	double rest = documents - df;

	return log(1 + ((rest > 0 ? rest : 0) + 0.5) / (df + 0.5));
}

uint32_t
serm_statistics_find(const SermStatistics *statistics, uint32_t word_id)
{
	return find_id(statistics->word_id, statistics->word_count, word_id);
}

uint32_t
serm_statistics_df(const SermStatistics *statistics, uint32_t word_id)
{
	uint32_t at = serm_statistics_find(statistics, word_id);

	return at < statistics->word_count ? statistics->word_df[at] : 0;
}

double
serm_statistics_idf(const SermStatistics *statistics, uint32_t word_id)
{
	return idf_of(statistics->document_count, serm_statistics_df(statistics, word_id));
}

double
serm_statistics_trigram_idf(const SermStatistics *statistics, uint32_t trigram)
{
	uint32_t at = find_id(statistics->trigram_id, statistics->trigram_count, trigram);

	return idf_of(
	    statistics->document_count, at < statistics->trigram_count ? statistics->trigram_df[at] : 0);
}

double
serm_statistics_support(const SermStatistics *statistics, uint32_t word_id)
{
	uint32_t at = serm_statistics_find(statistics, word_id);

	return at < statistics->word_count ? (double) statistics->word_support[at] / SERM_SUPPORT_FULL : -1;
}

SermStatistics
serm_statistics_of_script(const SermStatistics *statistics, SermScript script)
{
	SermStatistics own = *statistics;
	const SermScriptStatistics *found;

	if (statistics->scripts == NULL || script >= SERM_SCRIPTS)
		return own;
	found = &statistics->scripts[script];
	if (found->document_count < SERM_SCRIPT_DOCUMENTS_MIN)
		return own;
	own.document_count = found->document_count;
	own.title_length = found->title_length;
	own.body_length = found->body_length;
	own.joined_length = found->joined_length;
	own.spelled_share = found->spelled_share;
	return own;
}

/* An id in an open-addressing table; `last` is the number of the last document that has it, from 1. */
typedef struct Slot {
	uint32_t id;
	uint32_t df; /* 0: empty */
	uint64_t last;
} Slot;

typedef struct Table {
	Slot *slots;
	size_t size; /* power of two, at least twice `count` */
	size_t count;
} Table;

typedef struct Sums {
	uint64_t docs;
	uint64_t titles, bodies, joined; /* not empty */
	uint64_t title_words, body_words;
	uint64_t spelled; /* of both */
} Sums;

typedef struct Counter {
	SermArena *arena;
	Table words;
	Table trigrams;
	Sums all;
	Sums scripts[SERM_SCRIPTS];
} Counter;

static Slot *
find_slot(const Table *table, uint32_t id)
{
	size_t at = id & (table->size - 1);

	while (table->slots[at].df > 0 && table->slots[at].id != id)
		at = (at + 1) & (table->size - 1);
	return &table->slots[at];
}

/* Make room for so many ids more. */
static bool
reserve(Table *table, size_t more, SermArena *arena)
{
	Slot *old = table->slots;
	size_t old_size = table->size;

	if (2 * (table->count + more) <= table->size)
		return true;
	table->size = table->size == 0 ? TABLE_SIZE_MIN : 2 * table->size;
	while (2 * (table->count + more) > table->size)
		table->size *= 2;
	table->slots = serm_arena_array(arena, table->size, sizeof(Slot));
	if (table->slots == NULL)
		return false;
	for (size_t i = 0; i < old_size; i++)
		if (old[i].df > 0)
			*find_slot(table, old[i].id) = old[i];
	return true;
}

static void
count_id(Table *table, uint32_t id, uint64_t doc)
{
	Slot *slot = find_slot(table, id);

	if (slot->df == 0) {
		slot->id = id;
		table->count++;
	}
	if (slot->last != doc && slot->df < UINT32_MAX)
		slot->df++;
	slot->last = doc;
}

/* The words of a field, and the trigrams of the first `spelled` of them: those that a document keeps. */
static void
count_words(Counter *counter, const SermWords *words, uint32_t spelled)
{
	for (uint32_t i = 0; i < words->count; i++) {
		const SermWord *word = &words->words[i];
		const uint32_t *code_points = words->code_points + word->start;
		uint32_t length = word->length < SERM_TRIGRAMS_MAX ? word->length : SERM_TRIGRAMS_MAX;
		uint64_t packed = serm_trigram_next(serm_trigram_next(0, SERM_WORD_BEGIN), code_points[0]);

		count_id(&counter->words, word->id, counter->all.docs);
		for (uint32_t c = 1; i < spelled && c <= length; c++) {
			packed = serm_trigram_next(packed, c < length ? code_points[c] : SERM_WORD_END);
			count_id(&counter->trigrams, serm_trigram_hash(packed), counter->all.docs);
		}
	}
}

static uint32_t
at_most(uint32_t count, uint32_t limit)
{
	return count < limit ? count : limit;
}

static void
add_lengths(Sums *sums, uint32_t title, uint32_t body)
{
	sums->titles += title > 0;
	sums->bodies += body > 0;
	sums->joined += title + body > 0;
	sums->title_words += title;
	sums->body_words += body;
	sums->spelled += at_most(title, SERM_DOCUMENT_TITLE_SPELLED);
	sums->spelled += at_most(body, SERM_DOCUMENT_BODY_SPELLED);
}

static SermStatus
count_doc(Counter *counter, SermText doc, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(counter->arena);
	SermText title, body;
	SermWords words;
	uint32_t title_count;
	SermScriptCount scripts = {0};
	SermScript script;
	SermStatus status;

	counter->all.docs++;
	serm_text_split_document(doc, &title, &body);
	status = serm_text_words(title, SERM_TITLE_WORDS_MAX, counter->arena, &words, error);
	if (status != SERM_OK)
		return status;
	title_count = words.count;
	count_words(counter, &words, SERM_DOCUMENT_TITLE_SPELLED);
	serm_script_add(&scripts, &words);
	status = serm_text_words(body, SERM_BODY_WORDS_MAX, counter->arena, &words, error);
	if (status != SERM_OK)
		return status;
	count_words(counter, &words, SERM_DOCUMENT_BODY_SPELLED);
	serm_script_add(&scripts, &words);
	add_lengths(&counter->all, title_count, words.count);
	script = serm_script_main(&scripts);
	if (script < SERM_SCRIPTS) {
		counter->scripts[script].docs++;
		add_lengths(&counter->scripts[script], title_count, words.count);
	}
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

/* The ids of a table, ascending, and their counts; false when the arena refuses. */
static bool
sort_table(const Table *table, SermArena *arena, const uint32_t **ids, const uint32_t **dfs)
{
	uint32_t *id = serm_arena_array(arena, table->count, sizeof(uint32_t));
	uint32_t *df = serm_arena_array(arena, table->count, sizeof(uint32_t));
	SermArenaMark mark = serm_arena_mark(arena);
	uint64_t *keys = serm_arena_array(arena, table->count, sizeof(uint64_t));
	uint64_t *other = serm_arena_array(arena, table->count, sizeof(uint64_t));
	size_t count = 0;

	if (id == NULL || df == NULL || keys == NULL || other == NULL)
		return false;
	for (size_t i = 0; i < table->size; i++)
		if (table->slots[i].df > 0)
			keys[count++] = (uint64_t) table->slots[i].id << 32 | table->slots[i].df;
	sort_by_id(keys, other, count);
	for (size_t i = 0; i < count; i++) {
		id[i] = (uint32_t) (keys[i] >> 32);
		df[i] = (uint32_t) keys[i];
	}
	serm_arena_rewind(arena, mark);
	*ids = id;
	*dfs = df;
	return true;
}

static SermScriptStatistics
means_of(const Sums *sums)
{
	return (SermScriptStatistics){
	    .document_count = (double) sums->docs,
	    .title_length = mean(sums->title_words, sums->titles),
	    .body_length = mean(sums->body_words, sums->bodies),
	    .joined_length = mean(sums->title_words + sums->body_words, sums->joined),
	    .spelled_share = mean(sums->spelled, sums->title_words + sums->body_words),
	};
}

/* Sets *scripts to NULL where there are no two collections. */
static bool
finish_scripts(const Counter *counter, const SermScriptStatistics **scripts)
{
	SermScriptStatistics *found;
	uint32_t collections = 0;

	*scripts = NULL;
	for (int script = 0; script < SERM_SCRIPTS; script++)
		collections += counter->scripts[script].docs >= SERM_SCRIPT_DOCUMENTS_MIN;
	if (collections < 2)
		return true;
	found = serm_arena_array(counter->arena, SERM_SCRIPTS, sizeof(*found));
	if (found == NULL)
		return false;
	for (int script = 0; script < SERM_SCRIPTS; script++)
		found[script] = means_of(&counter->scripts[script]);
	*scripts = found;
	return true;
}

static SermStatus
finish(const Counter *counter, SermStatistics *statistics, SermError *error)
{
	const uint32_t *word_id, *word_df, *trigram_id, *trigram_df;
	const SermScriptStatistics *scripts, all = means_of(&counter->all);

	if (!finish_scripts(counter, &scripts) ||
	    !sort_table(&counter->words, counter->arena, &word_id, &word_df) ||
	    !sort_table(&counter->trigrams, counter->arena, &trigram_id, &trigram_df))
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while counting words");
	*statistics = (SermStatistics){
	    .document_count = all.document_count,
	    .title_length = all.title_length,
	    .body_length = all.body_length,
	    .joined_length = all.joined_length,
	    .word_count = (uint32_t) counter->words.count,
	    .word_id = word_id,
	    .word_df = word_df,
	    .trigram_count = (uint32_t) counter->trigrams.count,
	    .trigram_id = trigram_id,
	    .trigram_df = trigram_df,
	    .spelled_share = all.spelled_share,
	    .scripts = scripts,
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
		if (!reserve(&counter.words, WORDS_PER_DOC_MAX, arena) ||
		    !reserve(&counter.trigrams, TRIGRAMS_PER_DOC_MAX, arena))
			return serm_fail(error, SERM_ERR_MEMORY, "out of memory while counting words");
		status = count_doc(&counter, docs[i], error);
		if (status != SERM_OK)
			return status;
	}
	return finish(&counter, statistics, error);
}
