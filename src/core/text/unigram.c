/*
 * Unigram (Kudo 2018) as T5 and XLM-R use it: words between white space, each
 * with U+2581 before it, cut where the sum of the pieces' scores is highest
 * (Viterbi). A character that no piece covers costs the lowest score minus 10;
 * neighbouring unknown characters become one token.
 */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"

#define SHORT_WORD 96
#define SPACE_MARK "\xe2\x96\x81"
#define SPACE_MARK_BYTES 3

/* The best way to the place behind a piece. */
typedef struct Node {
	double score;
	uint32_t start; /* of its last piece; SERM_TOKEN_NONE: not reached yet */
	uint32_t id;
	uint32_t next; /* end of the piece that begins here, once the best way is known */
} Node;

static void
offer(Node *node, double score, uint32_t start, uint32_t id)
{
	/* Of equal ways the first one found stays, as in the reference. */
	if (node->start == SERM_TOKEN_NONE || score > node->score)
		*node = (Node){score, start, id, 0};
}

/* The best way to every place; false when the sink was stopped meanwhile. */
static bool
forward(const SermTokenizer *tokenizer, SermText word, Node *nodes, SermTokenSink *sink)
{
	const SermTrie *trie = &tokenizer->pieces;

	nodes[0] = (Node){0, 0, SERM_TOKEN_NONE, 0};
	for (size_t i = 1; i <= word.length; i++)
		nodes[i].start = SERM_TOKEN_NONE;
	for (size_t at = 0; at < word.length && !serm_token_stopped(sink);) {
		uint32_t c, node = 0;
		size_t bytes = serm_utf8_decode(word.bytes + at, word.length - at, &c);
		bool single = false;
		size_t i = at;

		for (; i < word.length; i++) {
			uint32_t id;

			node = serm_trie_step(trie, node, (unsigned char) word.bytes[i]);
			if (node == SERM_TRIE_NONE)
				break;
			id = trie->values[node];
			if (id == SERM_TRIE_NONE || !serm_token_allowed(tokenizer, id))
				continue;
			offer(&nodes[i + 1], nodes[at].score + tokenizer->scores[id], (uint32_t) at, id);
			single |= i + 1 == at + bytes;
		}
		if (!single)
			offer(&nodes[at + bytes], nodes[at].score + tokenizer->unk_score, (uint32_t) at, tokenizer->unk);
		serm_token_spend(sink, 1 + i - at);
		at += bytes;
	}
	return !serm_token_stopped(sink);
}

/* Append the pieces of one stretch that begins with U+2581 or has none. */
static void
encode_piece(const SermTokenizer *tokenizer, SermText word, SermTokenSink *sink)
{
	Node short_nodes[SHORT_WORD + 1], *nodes = short_nodes;
	SermArenaMark mark = serm_arena_mark(sink->scratch);
	uint32_t last = SERM_TOKEN_NONE;

	if (word.length > SHORT_WORD) {
		nodes = serm_arena_array(sink->scratch, word.length + 1, sizeof(Node));
		if (nodes == NULL) {
			sink->out_of_memory = true;
			return;
		}
	}
	if (!forward(tokenizer, word, nodes, sink))
		return;
	for (uint32_t end = (uint32_t) word.length; end > 0; end = nodes[end].start)
		nodes[nodes[end].start].next = end;
	for (uint32_t at = 0; at < word.length && !serm_token_full(sink); at = nodes[at].next) {
		uint32_t id = nodes[nodes[at].next].id;

		if (id != tokenizer->unk || last != id)
			serm_token_push(sink, id);
		last = id;
	}
	serm_arena_rewind(sink->scratch, mark);
}

static bool
starts_with_mark(const char *bytes, size_t length)
{
	return length >= SPACE_MARK_BYTES && memcmp(bytes, SPACE_MARK, SPACE_MARK_BYTES) == 0;
}

static void
encode_word(const SermTokenizer *tokenizer, SermText word, SermTokenSink *sink)
{
	SermArenaMark mark = serm_arena_mark(sink->scratch);
	char *marked = serm_arena_array(sink->scratch, word.length + SPACE_MARK_BYTES, 1);
	size_t length = 0, start = 0;

	if (marked == NULL) {
		sink->out_of_memory = true;
		return;
	}
	if (!starts_with_mark(word.bytes, word.length)) {
		memcpy(marked, SPACE_MARK, SPACE_MARK_BYTES);
		length = SPACE_MARK_BYTES;
	}
	memcpy(marked + length, word.bytes, word.length);
	length += word.length;
	for (size_t at = 1; at <= length; at++)
		if (at == length || starts_with_mark(marked + at, length - at)) {
			encode_piece(tokenizer, (SermText){marked + start, at - start}, sink);
			start = at;
		}
	serm_arena_rewind(sink->scratch, mark);
}

void
serm_unigram_encode(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink)
{
	size_t start = 0;

	for (size_t at = 0; at < text.length && !serm_token_full(sink);) {
		uint32_t c;
		size_t bytes = serm_utf8_decode(text.bytes + at, text.length - at, &c);

		if (serm_unicode_space(c)) {
			if (at > start)
				encode_word(tokenizer, (SermText){text.bytes + start, at - start}, sink);
			start = at + bytes;
		}
		at += bytes;
	}
	if (text.length > start && !serm_token_full(sink))
		encode_word(tokenizer, (SermText){text.bytes + start, text.length - start}, sink);
}
