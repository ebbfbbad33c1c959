/*
 * Text to words. Normalising, segmenting and hashing are part of the stored
 * model format (guide S1, S2, S5 in doc/model.md): the same text gives the
 * same ids on every machine and in every version that reads the format.
 */
#ifndef SERM_CORE_TEXT_TEXT_H
#define SERM_CORE_TEXT_TEXT_H

#include "core/base/arena.h"

#define SERM_QUERY_WORDS_MAX 64
#define SERM_TITLE_WORDS_MAX 64
#define SERM_BODY_WORDS_MAX 512

typedef struct SermWord {
	uint32_t id;     /* serm_text_word_id() of the word: its identity everywhere */
	uint32_t start;  /* index of its first code point in SermWords.code_points */
	uint16_t length; /* code points */
	bool number;
} SermWord;

typedef struct SermWords {
	const uint32_t *code_points; /* the normalised words end to end */
	const SermWord *words;
	uint32_t count;
} SermWords;

typedef struct SermText {
	const char *bytes;
	size_t length;
} SermText;

/* The hash of S5 over code points: FNV-1a 32 over their low three bytes, seeded, with an avalanche. */
extern uint32_t serm_text_hash(const uint32_t *code_points, size_t length, uint32_t seed);

/* The id of a normalised word: the hash of its stem (S3) with seed 0. */
extern uint32_t serm_text_word_id(const uint32_t *code_points, uint32_t length);

/*
 * Normalise (S1) and segment (S2) `text`, keeping the first `words_max` words.
 * Invalid UTF-8 counts as U+FFFD, which separates words. Time is linear in what
 * is read, and reading stops once `words_max` words are complete.
 */
extern SermStatus serm_text_words(
    SermText text, uint32_t words_max, SermArena *arena, SermWords *words, SermError *error);

/*
 * Split a document at its first line feed: the first line is the title, the rest the body. Without
 * any line feed a text of at most 24 words is a title, a longer one a body (a passage).
 */
extern void serm_text_split_document(SermText doc, SermText *title, SermText *body);

/*
 * 64-bit key of a query: the hash of its normalised words joined by one space.
 * Queries that differ in case, accents or spacing only have the same key.
 */
extern SermStatus serm_text_query_key(SermText query, SermArena *arena, uint64_t *key, SermError *error);

#endif
