#include "core/text/token_document.h"

#include <stdio.h>
#include <string.h>

#define HEADER 16
#define NARROW_MAX 0xffffu
#define ID_MAX 0xffffffu
/* " 16777215" */
#define ID_TEXT_MAX 10
#define HEAD_TEXT_MAX 64

static uint32_t
width_of(const SermTokenDocument *doc)
{
	for (uint32_t i = 0; i < doc->count; i++)
		if (doc->ids[i] > NARROW_MAX)
			return 3;
	return 2;
}

static void
put(unsigned char *bytes, uint64_t value, uint32_t width)
{
	for (uint32_t i = 0; i < width; i++)
		bytes[i] = (unsigned char) (value >> 8 * i);
}

static uint64_t
get(const unsigned char *bytes, uint32_t width)
{
	uint64_t value = 0;

	for (uint32_t i = 0; i < width; i++)
		value |= (uint64_t) bytes[i] << 8 * i;
	return value;
}

bool
serm_token_document_is(const unsigned char *bytes, size_t length)
{
	return length > 0 && bytes[0] == SERM_TOKEN_DOCUMENT_FORMAT;
}

SermStatus
serm_token_document_parse(const SermTokenizer *tokenizer, SermText text, const SermWatch *watch,
    SermArena *arena, SermTokenDocument *doc, SermError *error)
{
	SermText title, body;
	const uint32_t *ids;
	SermStatus status;

	serm_text_split_document(text, &title, &body);
	doc->tokenizer = serm_tokenizer_fingerprint(tokenizer);
	/* Words do not reach over the end of a line, so the title's tokens are the first ones of the whole. */
	status = serm_tokenizer_encode(tokenizer, title, SERM_TOKENS_MAX, watch, arena, &ids, &doc->title, error);
	if (status == SERM_OK)
		status = serm_tokenizer_encode(
		    tokenizer, text, SERM_TOKENS_MAX, watch, arena, &doc->ids, &doc->count, error);
	if (status == SERM_OK && doc->title > doc->count)
		doc->title = doc->count;
	return status;
}

size_t
serm_token_document_size(const SermTokenDocument *doc)
{
	return HEADER + (size_t) doc->count * width_of(doc);
}

void
serm_token_document_write(const SermTokenDocument *doc, unsigned char *bytes)
{
	uint32_t width = width_of(doc);

	bytes[0] = SERM_TOKEN_DOCUMENT_FORMAT;
	bytes[1] = (unsigned char) width;
	put(bytes + 2, 0, 2);
	put(bytes + 4, doc->tokenizer, 8);
	put(bytes + 12, doc->title, 4);
	for (uint32_t i = 0; i < doc->count; i++)
		put(bytes + HEADER + (size_t) i * width, doc->ids[i], width);
}

static SermStatus
damaged(SermError *error, const char *what)
{
	return serm_fail(error, SERM_ERR_CORRUPT, "%s", what);
}

SermStatus
serm_token_document_read(const unsigned char *bytes, size_t length, uint32_t wanted, SermArena *arena,
    SermTokenDocument *doc, SermError *error)
{
	uint32_t width, *ids;
	size_t count;

	if (length < HEADER || bytes[0] != SERM_TOKEN_DOCUMENT_FORMAT)
		return damaged(error, "its header is cut or of another format");
	width = bytes[1];
	if ((width != 2 && width != 3) || get(bytes + 2, 2) != 0 || (length - HEADER) % width != 0)
		return damaged(error, "its header makes no sense");
	count = (length - HEADER) / width;
	doc->tokenizer = get(bytes + 4, 8);
	doc->title = (uint32_t) get(bytes + 12, 4);
	if (count > SERM_TOKENS_MAX || doc->title > count)
		return damaged(error, "its title is longer than it, or it has too many tokens");
	doc->count = count < wanted ? (uint32_t) count : wanted;
	doc->ids = ids = serm_arena_reserve(arena, ((size_t) doc->count + 1) * sizeof(*ids));
	if (ids == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while reading a document");
	for (uint32_t i = 0; i < doc->count; i++)
		ids[i] = (uint32_t) get(bytes + HEADER + (size_t) i * width, width);
	if (doc->count == count && width != width_of(doc))
		return damaged(error, "its ids are wider than they need be");
	return SERM_OK;
}

char *
serm_token_document_print(const SermTokenDocument *doc, SermArena *arena)
{
	char *text = serm_arena_alloc(arena, HEAD_TEXT_MAX + (size_t) doc->count * ID_TEXT_MAX), *at = text;

	if (text == NULL)
		return NULL;
	at += snprintf(at, HEAD_TEXT_MAX, "%d %016llx %u", SERM_TOKEN_DOCUMENT_FORMAT,
	    (unsigned long long) doc->tokenizer, (unsigned) doc->title);
	for (uint32_t i = 0; i < doc->count; i++)
		at += snprintf(at, ID_TEXT_MAX + 1, " %u", (unsigned) doc->ids[i]);
	return text;
}

bool
serm_token_document_is_text(SermText text)
{
	return text.length > 1 && text.bytes[0] == '0' + SERM_TOKEN_DOCUMENT_FORMAT && text.bytes[1] == ' ';
}

/* A number without sign or leading zeros, and the blank before it; false when there is none. */
static bool
scan_number(SermText *text, uint32_t most, uint32_t *number)
{
	size_t digits = 0;
	uint64_t value = 0;

	if (text->length < 2 || text->bytes[0] != ' ' ||
	    (text->bytes[1] == '0' && text->length > 2 && text->bytes[2] != ' '))
		return false;
	while (digits + 1 < text->length && text->bytes[digits + 1] >= '0' && text->bytes[digits + 1] <= '9') {
		value = value * 10 + (uint64_t) (text->bytes[++digits] - '0');
		if (value > most)
			return false;
	}
	*number = (uint32_t) value;
	*text = (SermText){text->bytes + digits + 1, text->length - digits - 1};
	return digits > 0;
}

SermStatus
serm_token_document_scan(SermText text, SermArena *arena, SermTokenDocument *doc, SermError *error)
{
	static const char digits[] = "0123456789abcdef";
	uint32_t *ids, count = 0;

	if (!serm_token_document_is_text(text) || text.length < 18)
		return serm_fail(error, SERM_ERR_INVALID, "it does not begin with a format and a tokenizer");
	doc->tokenizer = 0;
	for (size_t i = 2; i < 18; i++) {
		const char *digit = memchr(digits, text.bytes[i], 16);

		if (digit == NULL)
			return serm_fail(error, SERM_ERR_INVALID, "its tokenizer is not 16 hexadecimal digits");
		doc->tokenizer = doc->tokenizer << 4 | (uint64_t) (digit - digits);
	}
	text = (SermText){text.bytes + 18, text.length - 18};
	if (!scan_number(&text, SERM_TOKENS_MAX, &doc->title))
		return serm_fail(error, SERM_ERR_INVALID, "it does not say how long its title is");
	/* An id takes two bytes of the text at least. */
	ids = serm_arena_reserve(arena, (text.length / 2 + 1) * sizeof(*ids));
	if (ids == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while reading a document");
	while (text.length > 0 && count < SERM_TOKENS_MAX && scan_number(&text, ID_MAX, &ids[count]))
		count++;
	if (text.length > 0 || doc->title > count)
		return serm_fail(error, SERM_ERR_INVALID, "it has what is no id, too many ids, or too long a title");
	doc->ids = ids;
	doc->count = count;
	return SERM_OK;
}
