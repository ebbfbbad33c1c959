/*
 * The identity of a word (S3): the hash of its stem, which lacks the endings
 * of the plural that Latin scripts share. A relative of the S stemmer (Harman
 * 1991) that needs no vowels and no list of words: the final s, then a final
 * e, goes, and a final y becomes i, so that battery and batteries, box and
 * boxes, flor and flores are one word each. Everything else of a word
 * (trigrams, embeddings) sees its spelling.
 */
#include "core/text/ngram.h"
#include "core/text/text.h"

/* Shorter words, and what endings are taken from, stay as they are. */
#define STEM_MIN 4

uint32_t
serm_text_word_id(const uint32_t *code_points, size_t length)
{
	uint32_t hash = serm_hash_begin(0);
	size_t count = length;

	/* -ss, -us and -is are hardly ever plurals: glass, bus, basis. */
	if (count >= STEM_MIN && code_points[count - 1] == 's' && code_points[count - 2] != 's' &&
	    code_points[count - 2] != 'u' && code_points[count - 2] != 'i')
		count--;
	/* boxe is box, but note is not not. */
	if (count > STEM_MIN && code_points[count - 1] == 'e')
		count--;
	else if (count == STEM_MIN && length > STEM_MIN && code_points[3] == 'e' &&
	         (code_points[2] == 'x' || code_points[2] == 's' || code_points[2] == 'z'))
		count--;
	for (size_t i = 0; i + 1 < count; i++)
		hash = serm_hash_step(hash, code_points[i]);
	if (count > 0)
		hash = serm_hash_step(
		    hash, count >= STEM_MIN && code_points[count - 1] == 'y' ? 'i' : code_points[count - 1]);
	return serm_hash_end(hash);
}
