/*
 * Parsing into, writing and reading of documents. A document has the same
 * content whether it was parsed from a text or read from its stored form, so
 * that both score alike, bit for bit.
 */
#include "core/text/document.h"

#include <string.h>

#include "core/base/utf8.h"
#include "core/text/ngram.h"
#include "core/text/segmenter.h"
#include "core/text/stem.h"

#define HEADER 12
#define FIELDS 2
#define NUMBER_BYTES(words) (((words) + 7) / 8)
#define SPELLED_MAX SERM_DOCUMENT_BODY_SPELLED
/* Distinct trigrams are counted in a table of at most four times as many slots as there can be. */
#define TRIGRAM_SLOTS (4 * SERM_TRIGRAM_WORDS * SERM_TRIGRAMS_MAX)
/* serm_text_split_document() looks no further for the words of a title. */
#define SPLIT_BYTES ((size_t) (SERM_SINGLE_LINE_TITLE_MAX + 1) * SERM_WORD_BYTES_MAX)

static_assert(SERM_WORD_BYTES_MAX == SERM_DOCUMENT_WORD_MAX, "a word's bytes - 1 fill a byte");
static_assert(HEADER + SERM_TITLE_WORDS_MAX * 5 + SERM_BODY_WORDS_MAX * 5 +
                      (SERM_DOCUMENT_TITLE_SPELLED + SERM_DOCUMENT_BODY_SPELLED) * SERM_DOCUMENT_WORD_MAX <=
                  SERM_DOCUMENT_BYTES_MAX,
    "the longest document fits");

static const uint32_t words_max[FIELDS] = {SERM_TITLE_WORDS_MAX, SERM_BODY_WORDS_MAX};
static const uint32_t spelled_max[FIELDS] = {SERM_DOCUMENT_TITLE_SPELLED, SERM_DOCUMENT_BODY_SPELLED};

/* Where a field is written while it is parsed: the largest that it can become. */
typedef struct FieldRoom {
	SermFieldWriter writer;
	unsigned char numbers[NUMBER_BYTES(SPELLED_MAX)];
	unsigned char lengths[SPELLED_MAX];
	unsigned char ids[SERM_BODY_WORDS_MAX * 4];
	unsigned char text[SPELLED_MAX * SERM_DOCUMENT_WORD_MAX + SERM_WRITER_SLACK];
} FieldRoom;

static void
put32(unsigned char *bytes, uint32_t value)
{
	bytes[0] = (unsigned char) value;
	bytes[1] = (unsigned char) (value >> 8);
	bytes[2] = (unsigned char) (value >> 16);
	bytes[3] = (unsigned char) (value >> 24);
}

static void
put16(unsigned char *bytes, uint32_t value)
{
	bytes[0] = (unsigned char) value;
	bytes[1] = (unsigned char) (value >> 8);
}

static uint32_t
get16(const unsigned char *bytes)
{
	return (uint32_t) bytes[0] | (uint32_t) bytes[1] << 8;
}

/* --- words into a field */

static void
put_id(SermFieldWriter *writer, uint32_t id)
{
	put32(writer->ids + 4 * (size_t) (writer->count++ - writer->window), id);
}

static void
put_length(SermFieldWriter *writer, uint32_t bytes)
{
	writer->lengths[writer->count++] = (unsigned char) (bytes - 1);
	writer->used += bytes;
}

void
serm_field_writer_add(SermFieldWriter *writer, const uint32_t *code_points, uint32_t length, bool number)
{
	uint32_t bytes = 0;

	if (writer->count >= writer->window) {
		put_id(writer, serm_text_word_id(code_points, length));
		return;
	}
	for (uint32_t i = 0; i < length; i++)
		bytes += (uint32_t) serm_utf8_encode(code_points[i], (char *) writer->text + writer->used + bytes);
	if (number)
		writer->numbers[writer->count / 8] |= (unsigned char) (1 << writer->count % 8);
	put_length(writer, bytes);
}

/*
 * The id of a word of letters of any case. Lengths cannot be predicted, so eight steps are always made, of
 * which those behind the end neither add nor multiply; the last letter of the stem comes after them.
 */
static uint32_t
plain_id(const unsigned char *word, uint32_t length)
{
	const uint32_t prime = SERM_FNV_PRIME * SERM_FNV_PRIME * SERM_FNV_PRIME;
	uint32_t hash = serm_hash_begin(0), count = length;

	if (length >= SERM_STEM_MIN)
		count = serm_stem_length(
		    length, word[length - 3] | 0x20u, word[length - 2] | 0x20u, word[length - 1] | 0x20u);
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t inside = (uint32_t) ((int32_t) (i + 1 - count) >> 31);

		hash = (hash ^ ((word[i] | 0x20u) & inside)) * (((prime - 1) & inside) + 1);
	}
	for (uint32_t i = 8; i + 1 < count; i++)
		hash = serm_hash_step(hash, word[i] | 0x20);
	return serm_hash_end(serm_hash_step(hash, serm_stem_last(count, word[count - 1] | 0x20u)));
}

void
serm_field_writer_add_plain(
    SermFieldWriter *writer, const unsigned char *word, uint32_t length, bool number, size_t readable)
{
	uint64_t part[4] = {0};
	static_assert(sizeof(part) == SERM_WRITER_SLACK, "a block is what may be written");

	if (writer->count >= writer->window && readable >= 8) {
		put_id(writer, plain_id(word, length));
		return;
	}
	memcpy(part, word, readable < sizeof(part) ? readable : sizeof(part));
	if (writer->count >= writer->window) {
		put_id(writer, plain_id((const unsigned char *) part, length));
		return;
	}
	/* Digits have this bit already. */
	for (uint32_t i = 0; i < SERM_LENGTH(part); i++)
		part[i] |= UINT64_C(0x2020202020202020);
	memcpy(writer->text + writer->used, part, sizeof(part));
	if (number)
		writer->numbers[writer->count / 8] |= (unsigned char) (1 << writer->count % 8);
	put_length(writer, length);
}

uint32_t
serm_document_spell(const unsigned char *word, uint32_t length, uint32_t *out)
{
	uint32_t count = 0;

	for (uint32_t at = 0; at < length;) {
		if (word[at] < 0x80)
			out[count++] = word[at++];
		else
			at += (uint32_t) serm_utf8_decode((const char *) word + at, length - at, &out[count++]);
	}
	return count;
}

static bool
is_ascii(const unsigned char *bytes, uint32_t length)
{
	uint64_t all = 0, eight;
	uint32_t i = 0;

	for (; i + 8 <= length; i += 8) {
		memcpy(&eight, bytes + i, sizeof(eight));
		all |= eight;
	}
	for (; i < length; i++)
		all |= bytes[i];
	return (all & UINT64_C(0x8080808080808080)) == 0;
}

/* The trigrams of ASCII words: the words framed and laid end to end, and any three bytes around a letter. */
static uint32_t
trigrams_of_ascii(const unsigned char *text, const unsigned char *lengths, uint32_t words, uint32_t *trigrams)
{
	unsigned char framed[SERM_TRIGRAM_WORDS * (SERM_TRIGRAMS_MAX + 2) + SERM_TRIGRAMS_MAX];
	uint32_t end = 0, count = 0;

	for (uint32_t i = 0; i < words; i++) {
		uint32_t length = lengths[i] + 1u, taken = length < SERM_TRIGRAMS_MAX ? length : SERM_TRIGRAMS_MAX;

		framed[end] = SERM_WORD_BEGIN;
		/* What is behind a short word is overwritten by the next. */
		memcpy(framed + end + 1, text, SERM_TRIGRAMS_MAX);
		framed[end + 1 + taken] = SERM_WORD_END;
		end += taken + 2;
		text += length;
	}
	for (uint32_t i = 0; i + 2 < end; i++) {
		uint32_t middle = framed[i + 1];

		trigrams[count] = (uint32_t) framed[i] << 16 | middle << 8 | framed[i + 2];
		count += middle != SERM_WORD_BEGIN && middle != SERM_WORD_END;
	}
	return count;
}

static uint32_t
trigrams_of_unicode(
    const unsigned char *text, const unsigned char *lengths, uint32_t words, uint32_t *trigrams)
{
	uint32_t spelling[SERM_DOCUMENT_WORD_MAX], count = 0;

	for (uint32_t i = 0; i < words; text += lengths[i++] + 1u) {
		uint32_t length = serm_document_spell(text, lengths[i] + 1u, spelling);
		uint64_t packed = serm_trigram_next(serm_trigram_next(0, SERM_WORD_BEGIN), spelling[0]);

		if (length > SERM_TRIGRAMS_MAX)
			length = SERM_TRIGRAMS_MAX;
		for (uint32_t c = 1; c < length; c++) {
			packed = serm_trigram_next(packed, spelling[c]);
			trigrams[count++] = serm_trigram_hash(packed);
		}
		trigrams[count++] = serm_trigram_hash(serm_trigram_next(packed, SERM_WORD_END));
	}
	return count;
}

/* How many different ones trigrams[1] to trigrams[count] are; none is 0. */
static uint32_t
count_distinct(uint32_t *trigrams, uint32_t count)
{
	uint16_t slots[TRIGRAM_SLOTS]; /* the place of the first one; 0: none */
	uint32_t distinct = 0;
	int shift = 32 - 9;

	while (UINT64_C(1) << (32 - shift) < TRIGRAM_SLOTS && UINT64_C(1) << (32 - shift) < 8 * (uint64_t) count)
		shift--;
	memset(slots, 0, sizeof(slots[0]) << (32 - shift));
	trigrams[0] = 0;
	for (uint32_t i = 1; i <= count; i++) {
		uint32_t at = (trigrams[i] * UINT32_C(0x9e3779b1)) >> shift, first = slots[at];

		/* Two different ones in one slot are rare; whether there is one cannot be predicted. */
		while (((first != 0) & (trigrams[first] != trigrams[i])) != 0) {
			at = (at + 1) & ((UINT32_C(1) << (32 - shift)) - 1);
			first = slots[at];
		}
		slots[at] = (uint16_t) (first | (i & (0u - (uint32_t) (first == 0))));
		distinct += first == 0;
	}
	return distinct;
}

/* How many distinct trigrams the first words of a field have; behind `text` lies SERM_DOCUMENT_PAD. */
static uint32_t
count_trigrams(const unsigned char *text, const unsigned char *lengths, uint32_t spelled)
{
	uint32_t trigrams[1 + SERM_TRIGRAM_WORDS * SERM_TRIGRAMS_MAX];
	uint32_t words = spelled < SERM_TRIGRAM_WORDS ? spelled : SERM_TRIGRAM_WORDS;
	uint32_t bytes = 0, count;

	for (uint32_t i = 0; i < words; i++)
		bytes += lengths[i] + 1u;
	count = is_ascii(text, bytes) ? trigrams_of_ascii(text, lengths, words, trigrams + 1)
	                              : trigrams_of_unicode(text, lengths, words, trigrams + 1);
	return count_distinct(trigrams, count);
}

uint32_t
serm_document_trigrams(const SermDocumentField *field)
{
	return field->spelled > 0 ? count_trigrams(field->text, field->lengths, field->spelled) : 0;
}

/* --- parsing */

static void
parse_field(SermText text, int field, FieldRoom *room)
{
	uint32_t run[SERM_WORD_LENGTH_MAX];
	SermSegmenter segmenter = {.writer = &room->writer,
	    .words_max = words_max[field],
	    .code_points = run,
	    .code_points_size = SERM_LENGTH(run)};

	memset(room->numbers, 0, sizeof(room->numbers));
	room->writer = (SermFieldWriter){.window = spelled_max[field],
	    .text = room->text,
	    .lengths = room->lengths,
	    .numbers = room->numbers,
	    .ids = room->ids};
	if (text.length > 0)
		serm_segmenter_run(&segmenter, text);
}

/* The body of a single line turned out to be a title: the same words, all of them spelled in either. */
static bool
is_title(const FieldRoom *body)
{
	return body->writer.count <= SERM_SINGLE_LINE_TITLE_MAX;
}

/* Title and body into room[0] and room[1]; both written. */
static void
parse_fields(SermText text, FieldRoom *room)
{
	SermText title, body;

	if (text.length > SPLIT_BYTES || (text.length > 0 && memchr(text.bytes, '\n', text.length) != NULL)) {
		serm_text_split_document(text, &title, &body);
		parse_field(title, 0, &room[0]);
		parse_field(body, 1, &room[1]);
		return;
	}
	/* A short single line is read once, whatever it turns out to be. */
	parse_field(text, 1, &room[1]);
	parse_field((SermText){NULL, 0}, 0, &room[0]);
	if (is_title(&room[1])) {
		SermFieldWriter *from = &room[1].writer;

		memcpy(room[0].text, room[1].text, from->used);
		memcpy(room[0].lengths, room[1].lengths, from->count);
		memcpy(room[0].numbers, room[1].numbers, sizeof(room[0].numbers));
		room[0].writer.count = from->count;
		room[0].writer.used = from->used;
		from->count = from->used = 0;
	}
}

/* Copy a field out of its room to `bytes`; returns where the next one may begin. */
static unsigned char *
settle(const FieldRoom *room, unsigned char *bytes, SermDocumentField *field)
{
	const SermFieldWriter *writer = &room->writer;
	uint32_t spelled = writer->count < writer->window ? writer->count : writer->window;

	*field = (SermDocumentField){
	    .count = writer->count, .spelled = spelled, .text_length = writer->used, .text = bytes};
	if (spelled > 0)
		field->trigrams = count_trigrams(writer->text, writer->lengths, spelled);
	memcpy(bytes, writer->text, writer->used);
	bytes += writer->used + SERM_DOCUMENT_PAD;
	field->lengths = bytes;
	memcpy(bytes, writer->lengths, spelled);
	bytes += spelled;
	field->numbers = bytes;
	memcpy(bytes, writer->numbers, NUMBER_BYTES(spelled));
	bytes += NUMBER_BYTES(spelled);
	field->ids = bytes;
	memcpy(bytes, writer->ids, 4 * (size_t) (writer->count - spelled));
	return bytes + 4 * (size_t) (writer->count - spelled);
}

SermStatus
serm_document_parse(SermText text, SermArena *arena, SermDocument *doc, SermError *error)
{
	FieldRoom room[FIELDS];
	unsigned char *bytes;
	size_t size = 0;

	parse_fields(text, room);
	for (int i = 0; i < FIELDS; i++)
		size += room[i].writer.used + SERM_DOCUMENT_PAD + 6 * (size_t) room[i].writer.count + 1;
	bytes = serm_arena_alloc(arena, size);
	if (bytes == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while parsing a document");
	bytes = settle(&room[0], bytes, &doc->title);
	(void) settle(&room[1], bytes, &doc->body);
	return SERM_OK;
}

/* --- the stored form */

static size_t
field_size(const SermDocumentField *field)
{
	return field->spelled + NUMBER_BYTES(field->spelled) + 4 * (size_t) (field->count - field->spelled) +
	       field->text_length;
}

size_t
serm_document_size(const SermDocument *doc)
{
	return HEADER + field_size(&doc->title) + field_size(&doc->body);
}

static unsigned char *
put_bytes(unsigned char *to, const unsigned char *from, size_t length)
{
	if (length > 0)
		memcpy(to, from, length);
	return to + length;
}

void
serm_document_write(const SermDocument *doc, unsigned char *bytes)
{
	const SermDocumentField *fields[FIELDS] = {&doc->title, &doc->body};

	bytes[0] = SERM_DOCUMENT_FORMAT;
	bytes[1] = (unsigned char) doc->title.count;
	put16(bytes + 2, doc->body.count);
	for (int i = 0; i < FIELDS; i++) {
		put16(bytes + 4 + 2 * i, fields[i]->trigrams);
		put16(bytes + 8 + 2 * i, fields[i]->text_length);
	}
	bytes += HEADER;
	for (int i = 0; i < FIELDS; i++) {
		bytes = put_bytes(bytes, fields[i]->lengths, fields[i]->spelled);
		bytes = put_bytes(bytes, fields[i]->numbers, NUMBER_BYTES(fields[i]->spelled));
	}
	for (int i = 0; i < FIELDS; i++)
		bytes = put_bytes(bytes, fields[i]->ids, 4 * (size_t) (fields[i]->count - fields[i]->spelled));
	for (int i = 0; i < FIELDS; i++)
		bytes = put_bytes(bytes, fields[i]->text, fields[i]->text_length);
}

static SermStatus
damaged(SermError *error, const char *what)
{
	return serm_fail(error, SERM_ERR_CORRUPT, "%s", what);
}

static bool
lengths_add_up(const SermDocumentField *field)
{
	uint32_t sum = field->spelled;

	for (uint32_t i = 0; i < field->spelled; i++)
		sum += field->lengths[i];
	return sum == field->text_length;
}

SermStatus
serm_document_read(
    const unsigned char *bytes, size_t length, SermArena *arena, SermDocument *doc, SermError *error)
{
	SermDocumentField *fields[FIELDS] = {&doc->title, &doc->body};
	unsigned char *text;

	if (length < HEADER || bytes[0] != SERM_DOCUMENT_FORMAT)
		return damaged(error,
		    length < 1 || bytes[0] == SERM_DOCUMENT_FORMAT ? "it is cut short" : "its format is not known");
	*doc = (SermDocument){{.count = bytes[1]}, {.count = get16(bytes + 2)}};
	for (int i = 0; i < FIELDS; i++) {
		if (fields[i]->count > words_max[i])
			return damaged(error, "it has too many words");
		fields[i]->spelled = fields[i]->count < spelled_max[i] ? fields[i]->count : spelled_max[i];
		fields[i]->trigrams = get16(bytes + 4 + 2 * i);
		fields[i]->text_length = get16(bytes + 8 + 2 * i);
	}
	if (serm_document_size(doc) != length)
		return damaged(error, "its length is wrong");
	bytes += HEADER;
	for (int i = 0; i < FIELDS; i++) {
		fields[i]->lengths = bytes;
		fields[i]->numbers = bytes + fields[i]->spelled;
		bytes = fields[i]->numbers + NUMBER_BYTES(fields[i]->spelled);
		if (!lengths_add_up(fields[i]))
			return damaged(error, "the lengths of its words do not add up");
	}
	for (int i = 0; i < FIELDS; i++) {
		fields[i]->ids = bytes;
		bytes += 4 * (size_t) (fields[i]->count - fields[i]->spelled);
	}
	text = serm_arena_alloc(arena, doc->title.text_length + doc->body.text_length + SERM_DOCUMENT_PAD);
	if (text == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while reading a document");
	(void) put_bytes(text, bytes, doc->title.text_length + doc->body.text_length);
	doc->title.text = text;
	doc->body.text = text + doc->title.text_length;
	return SERM_OK;
}

/* A word as the segmenter makes them, as far as that can be said for every version of Unicode. */
static bool
is_word(const unsigned char *word, uint32_t length, bool number)
{
	uint32_t spelling[SERM_DOCUMENT_WORD_MAX];

	if (!serm_utf8_valid((const char *) word, length) ||
	    serm_document_spell(word, length, spelling) > SERM_WORD_LENGTH_MAX)
		return false;
	for (uint32_t i = 0; i < length; i++) {
		bool letter = word[i] >= 'a' && word[i] <= 'z';
		bool digit = (word[i] >= '0' && word[i] <= '9') || word[i] == '.' || word[i] == ',';

		if (word[i] < 0x80 && !(number ? digit : letter))
			return false;
	}
	return true;
}

SermStatus
serm_document_check(const SermDocument *doc, SermError *error)
{
	const SermDocumentField *fields[FIELDS] = {&doc->title, &doc->body};

	for (int f = 0; f < FIELDS; f++) {
		const SermDocumentField *field = fields[f];
		const unsigned char *word = field->text;

		for (uint32_t i = 0; i < field->spelled; i++) {
			if (!is_word(word, field->lengths[i] + 1u, serm_document_is_number(field, i)))
				return damaged(error, "a word is not spelled as words are");
			word += field->lengths[i] + 1u;
		}
		if (field->spelled % 8 != 0 && field->numbers[field->spelled / 8] >> field->spelled % 8 != 0)
			return damaged(error, "unused bits are set");
		if (field->trigrams != serm_document_trigrams(field))
			return damaged(error, "its trigrams are miscounted");
	}
	return SERM_OK;
}
