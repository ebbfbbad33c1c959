/*
 * S2 and S5: words and their hashes. The segmenter is one pass over the
 * normalised code points; a run of letters or digits is written straight into
 * the result and composed when it ends.
 *
 * Bounds: a word keeps its first SERM_WORD_LENGTH_MAX code points and skips the rest
 * of its run; no more than SERM_WORD_BYTES_MAX bytes per wanted word are read. So an
 * endless word, or a megabyte of blanks, costs no more than ordinary text.
 */
#include "core/text/text.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/text/ngram.h"
#include "core/text/reader.h"
#include "core/text/segmenter.h"
#include "core/text/stem.h"

#define QUERY_KEY_SEED UINT64_C(0x7365726d2d717279)

uint32_t
serm_text_hash(const uint32_t *code_points, size_t length, uint32_t seed)
{
	uint32_t hash = serm_hash_begin(seed);

	for (size_t i = 0; i < length; i++)
		hash = serm_hash_step(hash, code_points[i]);
	return serm_hash_end(hash);
}

uint32_t
serm_text_word_id(const uint32_t *code_points, uint32_t length)
{
	uint32_t hash = serm_hash_begin(0), count = length;

	if (length >= SERM_STEM_MIN)
		count = serm_stem_length(
		    length, code_points[length - 3], code_points[length - 2], code_points[length - 1]);
	for (uint32_t i = 0; i + 1 < count; i++)
		hash = serm_hash_step(hash, code_points[i]);
	if (count > 0)
		hash = serm_hash_step(hash, serm_stem_last(count, code_points[count - 1]));
	return serm_hash_end(hash);
}

/* Make room for one word of the longest size; the arrays move only while they are smaller than the limit. */
static bool
reserve(SermSegmenter *segmenter)
{
	if (segmenter->used + SERM_WORD_LENGTH_MAX > segmenter->code_points_size) {
		size_t size = 2 * segmenter->code_points_size + SERM_WORD_LENGTH_MAX;
		uint32_t *grown = serm_arena_array(segmenter->arena, size, sizeof(uint32_t));

		if (grown == NULL)
			return false;
		memcpy(grown, segmenter->code_points, segmenter->used * sizeof(uint32_t));
		segmenter->code_points = grown;
		segmenter->code_points_size = size;
	}
	if (segmenter->count == segmenter->words_size) {
		uint32_t size = 2 * segmenter->words_size + 8;
		SermWord *grown = serm_arena_array(segmenter->arena, size, sizeof(SermWord));

		if (grown == NULL)
			return false;
		memcpy(grown, segmenter->words, segmenter->count * sizeof(SermWord));
		segmenter->words = grown;
		segmenter->words_size = size;
	}
	return true;
}

/* The `length` code points at `used` become a word. */
static void
emit(SermSegmenter *segmenter, uint32_t length, bool number)
{
	SermWord *word;

	if (segmenter->count == segmenter->words_max || segmenter->out_of_memory)
		return;
	if (segmenter->writer != NULL) {
		serm_field_writer_add(segmenter->writer, segmenter->code_points, length, number);
		segmenter->count++;
		return;
	}
	word = &segmenter->words[segmenter->count++];
	word->id = serm_text_word_id(segmenter->code_points + segmenter->used, length);
	word->start = segmenter->used;
	word->length = (uint16_t) length;
	word->number = number;
	segmenter->used += length;
	if (segmenter->count < segmenter->words_max && !reserve(segmenter))
		segmenter->out_of_memory = true;
}

/* The last two ideographs of a run, or its only one. */
static void
emit_ideographs(SermSegmenter *segmenter)
{
	uint32_t *out = segmenter->code_points + segmenter->used;
	uint32_t length = 0;

	if (segmenter->count == segmenter->words_max || segmenter->out_of_memory)
		return;
	if (segmenter->previous != 0)
		out[length++] = segmenter->previous;
	out[length++] = segmenter->current;
	emit(segmenter, length, false);
}

static void
finish_run(SermSegmenter *segmenter)
{
	switch (segmenter->run) {
		case SERM_RUN_NONE:
			break;
		case SERM_RUN_WORD:
		case SERM_RUN_NUMBER:
			if (segmenter->compose)
				segmenter->length =
				    serm_reader_compose(segmenter->code_points + segmenter->used, segmenter->length);
			emit(segmenter, segmenter->length, segmenter->run == SERM_RUN_NUMBER);
			break;
		case SERM_RUN_IDEOGRAPH:
			emit_ideographs(segmenter);
			break;
	}
	segmenter->run = SERM_RUN_NONE;
	segmenter->held = 0;
}

static void
append(SermSegmenter *segmenter, uint32_t c)
{
	/* The second bound is met only by the run that begins after the last wanted word. */
	if (segmenter->length == SERM_WORD_LENGTH_MAX ||
	    segmenter->used + segmenter->length == segmenter->code_points_size)
		return;
	segmenter->code_points[segmenter->used + segmenter->length++] = c;
	segmenter->compose |= c >= 128;
}

static void
begin_run(SermSegmenter *segmenter, SermRun run)
{
	if (segmenter->run == run)
		return;
	finish_run(segmenter);
	segmenter->run = run;
	segmenter->length = 0;
	segmenter->compose = false;
	segmenter->previous = 0;
	segmenter->current = 0;
}

static void
push_ideograph(SermSegmenter *segmenter, uint32_t c)
{
	begin_run(segmenter, SERM_RUN_IDEOGRAPH);
	segmenter->held = 0;
	if ((c == 0x3099 || c == 0x309a) && segmenter->current != 0) {
		uint32_t pair[2] = {segmenter->current, c};

		if (serm_reader_compose(pair, 2) == 1) {
			segmenter->current = pair[0];
			return;
		}
	}
	if (segmenter->previous != 0)
		emit_ideographs(segmenter);
	segmenter->previous = segmenter->current;
	segmenter->current = c;
}

static void
push(SermSegmenter *segmenter, SermTextClass class, uint32_t c)
{
	/* A held point joins digits only; a held apostrophe is dropped between any two word characters. */
	bool point_held = segmenter->held == '.' || segmenter->held == ',';

	switch (class) {
		case SERM_TEXT_LETTER:
			begin_run(segmenter, SERM_RUN_WORD);
			segmenter->held = 0;
			append(segmenter, c);
			break;
		case SERM_TEXT_DIGIT:
			begin_run(segmenter, SERM_RUN_NUMBER);
			if (point_held && segmenter->held != 0)
				append(segmenter, segmenter->held);
			segmenter->held = 0;
			append(segmenter, c);
			break;
		case SERM_TEXT_IDEOGRAPH:
			push_ideograph(segmenter, c);
			break;
		case SERM_TEXT_MARK:
			if (segmenter->run == SERM_RUN_WORD && segmenter->held == 0)
				append(segmenter, c);
			else
				finish_run(segmenter);
			break;
		case SERM_TEXT_APOSTROPHE:
		case SERM_TEXT_POINT:
			if (segmenter->held == 0 && segmenter->run != SERM_RUN_NONE &&
			    (class == SERM_TEXT_APOSTROPHE || segmenter->run == SERM_RUN_NUMBER))
				segmenter->held = c;
			else
				finish_run(segmenter);
			break;
		case SERM_TEXT_OTHER:
		case SERM_TEXT_END:
			finish_run(segmenter);
			break;
	}
}

/*
 * Words of ASCII letters and numbers of ASCII digits, which are most of most texts, go to the writer as
 * they are. Stops before anything else, with no run begun.
 */
static void
take_plain_words(SermSegmenter *segmenter, SermReader *reader)
{
	while (segmenter->count < segmenter->words_max) {
		bool number;
		uint32_t length = serm_reader_plain_word(reader, &number);

		if (length == 0)
			return;
		serm_field_writer_add_plain(
		    segmenter->writer, reader->bytes + reader->at, length, number, reader->length - reader->at);
		segmenter->count++;
		reader->at += length;
	}
}

void
serm_segmenter_run(SermSegmenter *segmenter, SermText text)
{
	SermReader reader;
	SermTextClass class;

	text.length = serm_utf8_clip(text.bytes, text.length, segmenter->words_max * SERM_WORD_BYTES_MAX);
	serm_reader_init(&reader, text);
	do {
		uint32_t c = 0;

		/* Most text is ASCII letters: a run that begins with them is taken whole. */
		if (segmenter->run == SERM_RUN_NONE) {
			uint32_t letters;

			if (segmenter->writer != NULL) {
				take_plain_words(segmenter, &reader);
				if (segmenter->count == segmenter->words_max)
					return;
			}
			letters =
			    serm_reader_letters(&reader, segmenter->code_points + segmenter->used, SERM_WORD_LENGTH_MAX);

			if (letters > 0) {
				begin_run(segmenter, SERM_RUN_WORD);
				segmenter->length = letters;
			}
		}
		class = serm_reader_next(&reader, &c);
		push(segmenter, class, c);
	} while (class != SERM_TEXT_END && segmenter->count < segmenter->words_max && !segmenter->out_of_memory);
}

SermStatus
serm_text_words(SermText text, uint32_t words_max, SermArena *arena, SermWords *words, SermError *error)
{
	SermSegmenter segmenter = {.arena = arena, .words_max = words_max};

	*words = (SermWords){NULL, NULL, 0};
	if (text.length == 0 || words_max == 0)
		return SERM_OK;
	/* Ordinary text has no more code points than bytes, and a separator after each word. */
	segmenter.code_points_size = text.length < (size_t) words_max * 8 ? text.length : (size_t) words_max * 8;
	segmenter.code_points_size += SERM_WORD_LENGTH_MAX;
	segmenter.words_size = text.length / 2 + 1 < words_max ? (uint32_t) (text.length / 2 + 1) : words_max;
	segmenter.code_points = serm_arena_array(arena, segmenter.code_points_size, sizeof(uint32_t));
	segmenter.words = serm_arena_array(arena, segmenter.words_size, sizeof(SermWord));
	if (segmenter.code_points == NULL || segmenter.words == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while segmenting a text");
	serm_segmenter_run(&segmenter, text);
	if (segmenter.out_of_memory)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while segmenting a text");
	*words = (SermWords){segmenter.code_points, segmenter.words, segmenter.count};
	return SERM_OK;
}

/* Does `text` have more words than a title window shows? Reads no further than that. */
static bool
longer_than_title(SermText text)
{
	uint32_t code_points[(SERM_SINGLE_LINE_TITLE_MAX + 1) * SERM_WORD_LENGTH_MAX];
	SermWord words[SERM_SINGLE_LINE_TITLE_MAX + 1];
	SermSegmenter segmenter = {.words_max = SERM_SINGLE_LINE_TITLE_MAX + 1,
	    .code_points = code_points,
	    .code_points_size = SERM_LENGTH(code_points),
	    .words = words,
	    .words_size = SERM_LENGTH(words)};

	serm_segmenter_run(&segmenter, text);
	return segmenter.count > SERM_SINGLE_LINE_TITLE_MAX;
}

void
serm_text_split_document(SermText doc, SermText *title, SermText *body)
{
	const char *feed = doc.length > 0 ? memchr(doc.bytes, '\n', doc.length) : NULL;

	*title = *body = (SermText){doc.bytes, 0};
	if (feed != NULL) {
		title->length = (size_t) (feed - doc.bytes);
		body->bytes = feed + 1;
		body->length = doc.length - title->length - 1;
	} else if (longer_than_title(doc))
		*body = doc;
	else
		*title = doc;
}

SermStatus
serm_text_query_key(SermText query, SermArena *arena, uint64_t *key, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermWords words;
	SermStatus status = serm_text_words(query, SERM_QUERY_WORDS_MAX, arena, &words, error);
	size_t room = 0, length = 0;
	char *joined;

	if (status != SERM_OK)
		return status;
	for (uint32_t i = 0; i < words.count; i++)
		room += (size_t) words.words[i].length * SERM_UTF8_MAX_BYTES + 1;
	joined = serm_arena_alloc(arena, room);
	if (joined == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while hashing a query");
	for (uint32_t i = 0; i < words.count; i++) {
		const uint32_t *code_points = words.code_points + words.words[i].start;

		if (i > 0)
			joined[length++] = ' ';
		for (uint32_t j = 0; j < words.words[i].length; j++)
			length += serm_utf8_encode(code_points[j], joined + length);
	}
	*key = serm_hash_bytes(joined, length, QUERY_KEY_SEED);
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
