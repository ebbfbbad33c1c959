/*
 * The readable form of a document, as SQL prints and reads a serm.doc:
 *
 *   1 blue pillow | a soft blue pillow =3.5 ft ... #0c4f2a91 #77d01e5b
 *
 * the format, the words of the title, a bar, the words of the body, one blank
 * between each. `=` stands before a number, `#` before the hash of a word that
 * is not spelled. \u{3bc} is a code point, for encodings that lack it.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/document.h"

#define FIELDS 2
#define HEX_DIGITS 8
/* "\u{10ffff}" */
#define ESCAPE_MAX 10

/* --- printing */

static char *
print_word(char *out, const unsigned char *word, uint32_t length, bool escape)
{
	for (uint32_t at = 0; at < length;) {
		uint32_t code_point, taken;

		if (word[at] < 0x80 || !escape) {
			*out++ = (char) word[at++];
			continue;
		}
		taken = (uint32_t) serm_utf8_decode((const char *) word + at, length - at, &code_point);
		out += snprintf(out, ESCAPE_MAX + 1, "\\u{%x}", (unsigned) code_point);
		at += taken;
	}
	return out;
}

static char *
print_field(char *out, const SermDocumentField *field, bool escape)
{
	const unsigned char *word = field->text;

	for (uint32_t i = 0; i < field->count; i++) {
		*out++ = ' ';
		if (i >= field->spelled) {
			out += snprintf(
			    out, HEX_DIGITS + 2, "#%08x", (unsigned) serm_document_id(field, i - field->spelled));
			continue;
		}
		if (serm_document_is_number(field, i))
			*out++ = '=';
		out = print_word(out, word, field->lengths[i] + 1u, escape);
		word += field->lengths[i] + 1u;
	}
	return out;
}

char *
serm_document_print(const SermDocument *doc, bool escape, SermArena *arena)
{
	/* An escape takes at most eight times the bytes it stands for: a damaged one becomes "\u{fffd}". */
	size_t size = 16 + 8 * ((size_t) doc->title.text_length + doc->body.text_length) +
	              (HEX_DIGITS + 2) * ((size_t) doc->title.count + doc->body.count);
	char *text = serm_arena_alloc(arena, size), *out = text;

	if (text == NULL)
		return NULL;
	out += snprintf(out, 16, "%d", SERM_DOCUMENT_FORMAT);
	out = print_field(out, &doc->title, escape);
	*out++ = ' ';
	*out++ = '|';
	out = print_field(out, &doc->body, escape);
	*out = '\0';
	return text;
}

/* --- reading */

typedef struct Scanner {
	const char *at;
	const char *end;
	SermError *error;
} Scanner;

static SermStatus
refuse(const Scanner *scanner, const char *what)
{
	return serm_fail(scanner->error, SERM_ERR_INVALID, "%s", what);
}

static int
hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The next blank-separated token; false at the end. */
static bool
next_token(Scanner *scanner, SermText *token)
{
	while (scanner->at < scanner->end && *scanner->at == ' ')
		scanner->at++;
	token->bytes = scanner->at;
	while (scanner->at < scanner->end && *scanner->at != ' ')
		scanner->at++;
	token->length = (size_t) (scanner->at - token->bytes);
	return token->length > 0;
}

/* "u{hex}" behind a backslash; returns how many bytes it has, 0 for anything else. */
static size_t
read_escape(const char *bytes, size_t length, uint32_t *code_point)
{
	size_t at = 2;

	*code_point = 0;
	if (length < 4 || bytes[0] != 'u' || bytes[1] != '{')
		return 0;
	for (; at < length && at < 8 && hex_value(bytes[at]) >= 0; at++)
		*code_point = *code_point * 16 + (uint32_t) hex_value(bytes[at]);
	return at > 2 && at < length && bytes[at] == '}' ? at + 1 : 0;
}

/* Copy a word with its escapes resolved to `out`, [SERM_DOCUMENT_WORD_MAX]; returns its bytes, 0 when it is
 * none. */
static uint32_t
read_word(SermText token, unsigned char *out)
{
	uint32_t used = 0;

	for (size_t at = 0; at < token.length;) {
		uint32_t code_point;
		size_t taken;

		if (used + SERM_UTF8_MAX_BYTES > SERM_DOCUMENT_WORD_MAX)
			return 0;
		if (token.bytes[at] != '\\') {
			out[used++] = (unsigned char) token.bytes[at++];
			continue;
		}
		taken = read_escape(token.bytes + at + 1, token.length - at - 1, &code_point);
		if (taken == 0)
			return 0;
		used += (uint32_t) serm_utf8_encode(code_point, (char *) out + used);
		at += 1 + taken;
	}
	return used;
}

static bool
read_hash(SermText token, unsigned char *out)
{
	uint32_t hash = 0;

	if (token.length != 1 + HEX_DIGITS || token.bytes[0] != '#')
		return false;
	for (int i = 1; i <= HEX_DIGITS; i++) {
		if (hex_value(token.bytes[i]) < 0)
			return false;
		hash = hash * 16 + (uint32_t) hex_value(token.bytes[i]);
	}
	for (int i = 0; i < 4; i++)
		out[i] = (unsigned char) (hash >> 8 * i);
	return true;
}

/* Room for one field of any size. */
typedef struct FieldBuffers {
	unsigned char lengths[SERM_DOCUMENT_BODY_SPELLED];
	unsigned char numbers[(SERM_DOCUMENT_BODY_SPELLED + 7) / 8];
	unsigned char ids[4 * SERM_BODY_WORDS_MAX];
	unsigned char text[(SERM_DOCUMENT_BODY_SPELLED + 1) * SERM_DOCUMENT_WORD_MAX + SERM_DOCUMENT_PAD];
} FieldBuffers;

static SermStatus
add_token(const Scanner *scanner, SermText token, uint32_t spelled_max, uint32_t words_max,
    FieldBuffers *buffers, SermDocumentField *field)
{
	bool number = token.bytes[0] == '=';
	uint32_t length;

	if (field->count == words_max)
		return refuse(scanner, "it has too many words");
	if (field->spelled == spelled_max) {
		if (!read_hash(token, buffers->ids + 4 * (size_t) (field->count - spelled_max)))
			return refuse(scanner, "after the spelled words come hashes, # and eight digits");
		field->count++;
		return SERM_OK;
	}
	if (number)
		token = (SermText){token.bytes + 1, token.length - 1};
	length = read_word(token, buffers->text + field->text_length);
	if (length == 0)
		return refuse(scanner, "a word is not spelled as words are");
	if (number)
		buffers->numbers[field->count / 8] |= (unsigned char) (1 << field->count % 8);
	buffers->lengths[field->count++] = (unsigned char) (length - 1);
	field->spelled++;
	field->text_length += length;
	return SERM_OK;
}

SermStatus
serm_document_scan(SermText text, SermArena *arena, SermDocument *doc, SermError *error)
{
	static const uint32_t spelled_max[FIELDS] = {SERM_DOCUMENT_TITLE_SPELLED, SERM_DOCUMENT_BODY_SPELLED};
	static const uint32_t words_max[FIELDS] = {SERM_TITLE_WORDS_MAX, SERM_BODY_WORDS_MAX};
	SermDocumentField *fields[FIELDS] = {&doc->title, &doc->body};
	FieldBuffers *buffers = serm_arena_array(arena, FIELDS, sizeof(*buffers));
	Scanner scanner = {text.bytes, text.bytes + text.length, error};
	SermText token;
	int field = 0;

	if (buffers == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while reading a document");
	*doc = (SermDocument){0};
	if (!next_token(&scanner, &token) || token.length != 1 || token.bytes[0] != '0' + SERM_DOCUMENT_FORMAT)
		return refuse(&scanner, "its format is not known");
	while (next_token(&scanner, &token)) {
		SermStatus status = SERM_OK;

		if (token.length == 1 && token.bytes[0] == '|') {
			if (++field == FIELDS)
				return refuse(&scanner, "it has too many fields");
		} else
			status = add_token(
			    &scanner, token, spelled_max[field], words_max[field], &buffers[field], fields[field]);
		if (status != SERM_OK)
			return status;
	}
	if (field != FIELDS - 1)
		return refuse(&scanner, "a bar between title and body is missing");
	for (int i = 0; i < FIELDS; i++) {
		fields[i]->lengths = buffers[i].lengths;
		fields[i]->numbers = buffers[i].numbers;
		fields[i]->ids = buffers[i].ids;
		fields[i]->text = buffers[i].text;
		fields[i]->trigrams = serm_document_trigrams(fields[i]);
	}
	return serm_document_check(doc, error);
}
