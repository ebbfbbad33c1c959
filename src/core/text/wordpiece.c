/*
 * WordPiece (Schuster and Nakajima 2012) as BERT uses it: words between white
 * space and punctuation, each cut greedily into the longest pieces that the
 * vocabulary has. A word of which any part is unknown is unknown as a whole.
 */
#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"

/* The longest piece at the start of `text`, continuing from `node`; its bytes, 0 when there is none. */
static size_t
longest_piece(const SermTokenizer *tokenizer, uint32_t node, SermText text, uint32_t *id, SermTokenSink *sink)
{
	const SermTrie *trie = &tokenizer->pieces;
	size_t found = 0, i = 0;

	for (; i < text.length; i++) {
		node = serm_trie_step(trie, node, (unsigned char) text.bytes[i]);
		if (node == SERM_TRIE_NONE)
			break;
		if (trie->values[node] != SERM_TRIE_NONE && serm_token_allowed(tokenizer, trie->values[node])) {
			*id = trie->values[node];
			found = i + 1;
		}
	}
	serm_token_spend(sink, 1 + i);
	return found;
}

static void
encode_word(const SermTokenizer *tokenizer, SermText word, uint32_t length, SermTokenSink *sink)
{
	const uint32_t before = sink->count;
	const uint32_t wanted = sink->wanted;
	uint32_t node = 0;

	if (length > tokenizer->word_max) {
		serm_token_push(sink, tokenizer->unk);
		return;
	}
	/* A word is known or unknown as a whole, also where only its first pieces are wanted. */
	sink->wanted = UINT32_MAX;
	while (word.length > 0 && !serm_token_stopped(sink)) {
		uint32_t id = SERM_TOKEN_NONE;
		size_t bytes = node != SERM_TRIE_NONE ? longest_piece(tokenizer, node, word, &id, sink) : 0;

		if (bytes == 0) {
			sink->count = before;
			serm_token_push(sink, tokenizer->unk);
			break;
		}
		serm_token_push(sink, id);
		word = (SermText){word.bytes + bytes, word.length - bytes};
		node = tokenizer->continuing;
	}
	sink->wanted = wanted;
}

void
serm_wordpiece_encode(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink)
{
	size_t start = 0;
	uint32_t length = 0; /* code points of the word that begins at `start` */

	for (size_t at = 0; at < text.length && !serm_token_full(sink);) {
		uint32_t c;
		size_t bytes = serm_utf8_decode(text.bytes + at, text.length - at, &c);
		SermCharacter kind = serm_unicode_bert(c);

		if (kind == SERM_CHARACTER_OTHER) {
			length++;
			at += bytes;
			continue;
		}
		if (at > start)
			encode_word(tokenizer, (SermText){text.bytes + start, at - start}, length, sink);
		if (kind == SERM_CHARACTER_PUNCTUATION && !serm_token_full(sink))
			encode_word(tokenizer, (SermText){text.bytes + at, bytes}, 1, sink);
		at += bytes;
		start = at;
		length = 0;
	}
	if (text.length > start && !serm_token_full(sink))
		encode_word(tokenizer, (SermText){text.bytes + start, text.length - start}, length, sink);
}
