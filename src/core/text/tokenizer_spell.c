/*
 * From ids back to what was written, as far as it can be told: for showing
 * tokens to people, and for telling where words begin.
 */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"

/* U+2581, which Unigram writes for a blank. */
#define UNIGRAM_BLANK "\xe2\x96\x81"

/* The byte that byte-level BPE writes as this code point; -1: none. */
static int
byte_of(uint32_t code_point)
{
	uint32_t next = 256;

	if ((code_point >= 33 && code_point <= 126) || (code_point >= 161 && code_point <= 172) ||
	    (code_point >= 174 && code_point <= 255))
		return (int) code_point;
	/* The others were given the code points from 256 on, in their order. */
	for (int byte = 0; byte < 256; byte++) {
		if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)
			continue;
		if (next++ == code_point)
			return byte;
	}
	return -1;
}

static size_t
spell_bytes(SermText piece, char *out)
{
	size_t length = 0;

	for (size_t at = 0; at < piece.length;) {
		uint32_t code_point;
		int byte;

		at += serm_utf8_decode(piece.bytes + at, piece.length - at, &code_point);
		byte = byte_of(code_point);
		if (byte >= 0)
			out[length++] = (char) byte;
	}
	return length;
}

/* Bytes of the mark of a piece inside a word, 0 when it has none. */
static size_t
continuing_length(const SermTokenizer *tokenizer, SermText piece)
{
	uint32_t node = 0;

	if (tokenizer->continuing == SERM_TRIE_NONE)
		return 0;
	for (size_t i = 0; i < piece.length && node != SERM_TRIE_NONE; i++) {
		node = serm_trie_step(&tokenizer->pieces, node, (unsigned char) piece.bytes[i]);
		if (node == tokenizer->continuing)
			return i + 1;
	}
	return 0;
}

size_t
serm_tokenizer_spell(const SermTokenizer *tokenizer, uint32_t id, char *out, bool *begins)
{
	SermText piece = serm_tokenizer_piece(tokenizer, id);
	size_t length = piece.length, skipped = 0;

	*begins = true;
	if (tokenizer->kind == SERM_TOKENIZER_BPE) {
		length = spell_bytes(piece, out);
		while (skipped < length && memchr(" \t\r\n", out[skipped], 4) != NULL)
			skipped++;
		*begins = skipped > 0;
		memmove(out, out + skipped, length - skipped);
		return length - skipped;
	}
	if (tokenizer->kind == SERM_TOKENIZER_WORDPIECE) {
		skipped = continuing_length(tokenizer, piece);
		*begins = skipped == 0;
	} else {
		*begins = length >= 3 && memcmp(piece.bytes, UNIGRAM_BLANK, 3) == 0;
		skipped = *begins ? 3 : 0;
	}
	memcpy(out, piece.bytes + skipped, length - skipped);
	return length - skipped;
}

bool
serm_tokenizer_begins(const SermTokenizer *tokenizer, uint32_t id)
{
	char piece[SERM_PIECE_BYTES_MAX];
	bool begins;

	if (tokenizer->kind == SERM_TOKENIZER_WORDPIECE)
		return continuing_length(tokenizer, serm_tokenizer_piece(tokenizer, id)) == 0;
	(void) serm_tokenizer_spell(tokenizer, id, piece, &begins);
	return begins;
}

uint64_t
serm_tokenizer_fingerprint(const SermTokenizer *tokenizer)
{
	return tokenizer->fingerprint;
}
