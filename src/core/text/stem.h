/*
 * The stem of a word (S3) lacks the endings of the plural that Latin scripts
 * share. A relative of the S stemmer (Harman 1991) that needs no vowels and no
 * list of words: a final s, then a final e, goes, and a final y becomes i, so
 * that battery and batteries, box and boxes, flor and flores are one word
 * each. Only the id of a word is that of its stem; trigrams and embeddings see
 * its spelling.
 */
#ifndef SERM_CORE_TEXT_STEM_H
#define SERM_CORE_TEXT_STEM_H

#include <stdint.h>

/* Shorter words, and what endings are taken from, stay as they are. */
#define SERM_STEM_MIN 4

/* How many letters of a word of at least SERM_STEM_MIN stay, of which the last three are given. */
static inline uint32_t
serm_stem_length(uint32_t length, uint32_t third_last, uint32_t second_last, uint32_t last)
{
	uint32_t count = length;

	/* -ss, -us and -is are hardly ever plurals: glass, bus, basis. */
	if (last == 's' && second_last != 's' && second_last != 'u' && second_last != 'i') {
		count--;
		last = second_last;
		second_last = third_last;
	}
	/* boxe is box, but note is not not. */
	if (last == 'e' &&
	    (count > SERM_STEM_MIN || (count == SERM_STEM_MIN && length > SERM_STEM_MIN &&
	                                  (second_last == 'x' || second_last == 's' || second_last == 'z'))))
		count--;
	return count;
}

/* The last letter of a stem of `count` letters. */
static inline uint32_t
serm_stem_last(uint32_t count, uint32_t last)
{
	return last == 'y' && count >= SERM_STEM_MIN ? 'i' : last;
}

#endif
