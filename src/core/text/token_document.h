/*
 * A document as a cross-encoder reads it: the ids of its tokens. The SQL type
 * serm.doc stores it beside the documents of the default model (document.h);
 * the first byte tells which one it is.
 *
 * The stored form, all numbers little-endian:
 *
 *   0  uint8   format, SERM_TOKEN_DOCUMENT_FORMAT
 *   1  uint8   bytes of an id: 2 when all of them fit, else 3
 *   2  uint16  0
 *   4  uint64  which tokenizer gave the ids
 *  12  uint32  tokens of the title, at most as many as there are
 *  16  the ids
 *
 * One document has one stored form. The readable form is the format, the
 * tokenizer in 16 hexadecimal digits, the tokens of the title, and the ids:
 *
 *   2 00c4f2a9177d01e5 3 2630 6879 2361 1037
 */
#ifndef SERM_CORE_TEXT_TOKEN_DOCUMENT_H
#define SERM_CORE_TEXT_TOKEN_DOCUMENT_H

#include "core/text/tokenizer.h"

#define SERM_TOKEN_DOCUMENT_FORMAT 2

typedef struct SermTokenDocument {
	uint64_t tokenizer; /* serm_tokenizer_fingerprint() */
	const uint32_t *ids;
	uint32_t count; /* at most SERM_TOKENS_MAX */
	uint32_t title; /* so many of them are of the first line */
} SermTokenDocument;

/* Do these bytes say that they are one? */
extern bool serm_token_document_is(const unsigned char *bytes, size_t length);
/* The tokens of a text, in `arena`. Errors: those of the tokenizer. */
extern SermStatus serm_token_document_parse(const SermTokenizer *tokenizer, SermText text,
    const SermWatch *watch, SermArena *arena, SermTokenDocument *doc, SermError *error);
extern size_t serm_token_document_size(const SermTokenDocument *doc);
extern void serm_token_document_write(const SermTokenDocument *doc, unsigned char *bytes);
/* The first `wanted` ids of a stored form, in `arena`. CORRUPT: it is none that could have been written. */
extern SermStatus serm_token_document_read(const unsigned char *bytes, size_t length, uint32_t wanted,
    SermArena *arena, SermTokenDocument *doc, SermError *error);
/* The readable form, NUL-terminated; NULL when the arena refuses. */
extern char *serm_token_document_print(const SermTokenDocument *doc, SermArena *arena);
/* Does this text begin as a readable form does? */
extern bool serm_token_document_is_text(SermText text);
/* Errors: INVALID, MEMORY. */
extern SermStatus serm_token_document_scan(
    SermText text, SermArena *arena, SermTokenDocument *doc, SermError *error);

#endif
