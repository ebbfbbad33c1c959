/*
 * A document as scoring reads it: the words of its title and its body, with
 * the spelling of those that are compared by spelling and the hashes of the
 * rest. Scoring a text parses it into this; the SQL type serm.doc stores it.
 *
 * The stored form, all numbers little-endian:
 *
 *   0  uint8   format, SERM_DOCUMENT_FORMAT
 *   1  uint8   words of the title, T <= 64
 *   2  uint16  words of the body, B <= 512
 *   4  uint16  distinct trigrams of the title's first words
 *   6  uint16  of the body's
 *   8  uint16  bytes of the title's spelled words
 *  10  uint16  of the body's
 *  12  for the title, then the body: uint8 bytes - 1 of each spelled word, then
 *      one bit per spelled word: it is a number; bits left over are 0
 *      for the title, then the body: uint32 hash of each word that is not spelled
 *      for the title, then the body: the spelled words end to end, in UTF-8
 *
 * A title's first 32 words are spelled, a body's first 48. One document has one
 * stored form: equal bytes are equal documents.
 */
#ifndef SERM_CORE_TEXT_DOCUMENT_H
#define SERM_CORE_TEXT_DOCUMENT_H

#include "core/text/text.h"

#define SERM_DOCUMENT_FORMAT 1
#define SERM_DOCUMENT_TITLE_SPELLED 32
#define SERM_DOCUMENT_BODY_SPELLED 48
/* Trigrams are taken of the first words of a field, and of the first code points of a word. */
#define SERM_TRIGRAM_WORDS 32
#define SERM_TRIGRAMS_MAX 32
/* Bytes of a word in UTF-8. */
#define SERM_DOCUMENT_WORD_MAX 256
/* So many bytes behind `text` may be read. */
#define SERM_DOCUMENT_PAD 32
/* No stored form is longer. */
#define SERM_DOCUMENT_BYTES_MAX 32768

typedef struct SermDocumentField {
	uint32_t count;               /* words */
	uint32_t spelled;             /* of them */
	uint32_t trigrams;            /* distinct, of the first SERM_TRIGRAM_WORDS words */
	uint32_t text_length;         /* bytes */
	const unsigned char *lengths; /* [spelled], bytes - 1 */
	const unsigned char *numbers; /* bit i % 8 of byte i / 8: spelled word i is a number */
	const unsigned char *ids;     /* [count - spelled] little-endian uint32 */
	const unsigned char *text;    /* the spelled words end to end */
} SermDocumentField;

typedef struct SermDocument {
	SermDocumentField title;
	SermDocumentField body;
} SermDocument;

/* Split, normalise and segment a text (S1, S2); the document lies in `arena`. */
extern SermStatus serm_document_parse(SermText text, SermArena *arena, SermDocument *doc, SermError *error);

extern size_t serm_document_size(const SermDocument *doc);
/* Write the stored form, serm_document_size() bytes. */
extern void serm_document_write(const SermDocument *doc, unsigned char *bytes);

/*
 * Open a stored form. Counts and lengths are verified, so that nothing outside of `bytes` is read later;
 * the document points into `bytes` and `arena`. Error: CORRUPT.
 */
extern SermStatus serm_document_read(
    const unsigned char *bytes, size_t length, SermArena *arena, SermDocument *doc, SermError *error);

/* Besides: is it a form that serm_document_write() could have written? For bytes that come from outside. */
extern SermStatus serm_document_check(const SermDocument *doc, SermError *error);

/* Distinct trigrams of the first words of a field. */
extern uint32_t serm_document_trigrams(const SermDocumentField *field);

/* document_text.c. The readable form, NUL-terminated; `escape` keeps to ASCII. NULL when the arena refuses.
 */
extern char *serm_document_print(const SermDocument *doc, bool escape, SermArena *arena);
/* Read the readable form, in UTF-8, into `arena`. Errors: INVALID, CORRUPT. */
extern SermStatus serm_document_scan(SermText text, SermArena *arena, SermDocument *doc, SermError *error);

/* `word` as code points in `out` [SERM_DOCUMENT_WORD_MAX]; returns how many. */
extern uint32_t serm_document_spell(const unsigned char *word, uint32_t length, uint32_t *out);

static inline bool
serm_document_is_number(const SermDocumentField *field, uint32_t word)
{
	return (field->numbers[word / 8] >> word % 8 & 1) != 0;
}

/* The hash (S5) of a word that is not spelled, counted from the first of those. */
static inline uint32_t
serm_document_id(const SermDocumentField *field, uint32_t word)
{
	const unsigned char *byte = field->ids + 4 * (size_t) word;

	return (uint32_t) byte[0] | (uint32_t) byte[1] << 8 | (uint32_t) byte[2] << 16 | (uint32_t) byte[3] << 24;
}

#endif
