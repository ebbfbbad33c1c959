/*
 * Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019):
 * words as GPT-2's pattern finds them, with the space before them, each a
 * sequence of bytes that are merged in the order of the table of merges.
 */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"

#define SHORT_WORD 64
/* What taking a candidate from a large heap costs, as steps. */
#define MERGE_STEPS 16

/* --- the alphabet: printable bytes stand for themselves, the others for U+0100 and on, in order */

static bool
printable(uint32_t byte)
{
	return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

size_t
serm_bpe_byte_piece(unsigned char byte, char out[4])
{
	uint32_t c = byte;

	if (!printable(byte)) {
		c = 0x100;
		for (uint32_t other = 0; other < byte; other++)
			c += !printable(other);
	}
	return serm_utf8_encode(c, out);
}

/* --- merging */

uint32_t
serm_bpe_slot(uint32_t left, uint32_t right, uint32_t mask)
{
	return (uint32_t) serm_hash_mix((uint64_t) left << 32 | right) & mask;
}

static const SermMergeSlot *
find_merge(const SermTokenizer *tokenizer, uint32_t left, uint32_t right)
{
	uint32_t at = serm_bpe_slot(left, right, tokenizer->merge_mask);

	/* Opening has seen to it that a slot is empty. */
	for (; tokenizer->merges[at].rank != SERM_TOKEN_NONE; at = (at + 1) & tokenizer->merge_mask)
		if (tokenizer->merges[at].left == left && tokenizer->merges[at].right == right)
			return serm_token_allowed(tokenizer, tokenizer->merges[at].id) ? &tokenizer->merges[at] : NULL;
	return NULL;
}

typedef struct Symbol {
	uint32_t id; /* SERM_TOKEN_NONE when merged into the one before */
	uint32_t previous;
	uint32_t next; /* `count` behind the last */
} Symbol;

/* A possible merge of the symbol at `at` with the next one; lowest rank first, then from the left. */
typedef struct Candidate {
	uint32_t rank;
	uint32_t at;
	uint32_t id;
} Candidate;

typedef struct Heap {
	Candidate *items;
	uint32_t count;
} Heap;

static bool
before(Candidate a, Candidate b)
{
	return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void
heap_push(Heap *heap, Candidate item)
{
	uint32_t at = heap->count++;

	while (at > 0 && before(item, heap->items[(at - 1) / 2])) {
		heap->items[at] = heap->items[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	heap->items[at] = item;
}

static Candidate
heap_pop(Heap *heap)
{
	Candidate top = heap->items[0], item = heap->items[--heap->count];
	uint32_t at = 0;

	for (uint32_t child = 1; child < heap->count; child = 2 * at + 1) {
		if (child + 1 < heap->count && before(heap->items[child + 1], heap->items[child]))
			child++;
		if (!before(heap->items[child], item))
			break;
		heap->items[at] = heap->items[child];
		at = child;
	}
	heap->items[at] = item;
	return top;
}

static void
consider(const SermTokenizer *tokenizer, const Symbol *symbols, uint32_t at, uint32_t count, Heap *heap)
{
	const SermMergeSlot *merge;

	if (symbols[at].next >= count)
		return;
	merge = find_merge(tokenizer, symbols[at].id, symbols[symbols[at].next].id);
	if (merge != NULL)
		heap_push(heap, (Candidate){merge->rank, at, merge->id});
}

/* `items` has room for 3 candidates per symbol: each merge takes one away and adds at most two. */
static void
merge_all(
    const SermTokenizer *tokenizer, Symbol *symbols, uint32_t count, Candidate *items, SermTokenSink *sink)
{
	Heap heap = {items, 0};

	for (uint32_t i = 0; i + 1 < count; i++)
		consider(tokenizer, symbols, i, count, &heap);
	serm_token_spend(sink, count);
	while (heap.count > 0 && !serm_token_stopped(sink)) {
		Candidate top = heap_pop(&heap);
		Symbol *symbol = &symbols[top.at];
		const SermMergeSlot *merge;
		uint32_t next = symbol->next;

		serm_token_spend(sink, MERGE_STEPS);
		if (symbol->id == SERM_TOKEN_NONE || next >= count)
			continue;
		/* The pair may have changed since; as in the reference it counts when it makes the same piece. */
		merge = find_merge(tokenizer, symbol->id, symbols[next].id);
		if (merge == NULL || merge->id != top.id)
			continue;
		symbol->id = top.id;
		symbol->next = symbols[next].next;
		symbols[next].id = SERM_TOKEN_NONE;
		if (symbol->next < count)
			symbols[symbol->next].previous = top.at;
		if (symbol->previous != SERM_TOKEN_NONE)
			consider(tokenizer, symbols, symbol->previous, count, &heap);
		consider(tokenizer, symbols, top.at, count, &heap);
	}
}

static void
encode_word(const SermTokenizer *tokenizer, SermText word, SermTokenSink *sink)
{
	Symbol short_symbols[SHORT_WORD], *symbols = short_symbols;
	Candidate short_items[3 * SHORT_WORD], *items = short_items;
	SermArenaMark mark = serm_arena_mark(sink->scratch);
	uint32_t count = 0;

	if (word.length > SHORT_WORD) {
		symbols = serm_arena_array(sink->scratch, word.length, sizeof(Symbol));
		items = serm_arena_array(sink->scratch, 3 * word.length, sizeof(Candidate));
		if (symbols == NULL || items == NULL) {
			sink->out_of_memory = true;
			return;
		}
	}
	for (size_t i = 0; i < word.length; i++) {
		uint32_t id = tokenizer->byte_ids[(unsigned char) word.bytes[i]];

		/* ModernBERT's vocabulary leaves out bytes that no UTF-8 has. */
		if (id == SERM_TOKEN_NONE)
			continue;
		symbols[count] = (Symbol){id, count > 0 ? count - 1 : SERM_TOKEN_NONE, count + 1};
		count++;
	}
	merge_all(tokenizer, symbols, count, items, sink);
	for (uint32_t i = 0; i < count && !serm_token_full(sink); i = symbols[i].next)
		serm_token_push(sink, symbols[i].id);
	serm_arena_rewind(sink->scratch, mark);
}

/* --- words: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */

/* Bytes of the contraction behind an apostrophe at the start of `text`; 0 without one. */
static size_t
contraction(SermText text)
{
	char first = text.length > 1 ? text.bytes[1] : '\0', second = text.length > 2 ? text.bytes[2] : '\0';

	if (text.bytes[0] != '\'')
		return 0;
	if (first == 's' || first == 't' || first == 'm' || first == 'd')
		return 2;
	return (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
	               (first == 'l' && second == 'l')
	           ? 3
	           : 0;
}

typedef struct Step {
	size_t bytes;
	SermCharacter kind;
} Step;

static Step
look(SermText text, size_t at)
{
	uint32_t c;
	size_t bytes = serm_utf8_decode(text.bytes + at, text.length - at, &c);

	return (Step){bytes, serm_unicode_class(c)};
}

/* The end of the run of `kind` that goes on at `at`. */
static size_t
run_end(SermText text, size_t at, SermCharacter kind)
{
	while (at < text.length) {
		Step step = look(text, at);

		if (step.kind != kind)
			break;
		at += step.bytes;
	}
	return at;
}

/* The end of a run of white space: all of it at the end of the text, else all but its last character. */
static size_t
space_end(SermText text, size_t at)
{
	size_t last = at, end = at;

	while (end < text.length) {
		Step step = look(text, end);

		if (step.kind != SERM_CHARACTER_SPACE)
			return last > at ? last : end;
		last = end;
		end += step.bytes;
	}
	return end;
}

static size_t
word_end(SermText text, size_t at)
{
	Step step = look(text, at);
	size_t begin = at;

	if (text.bytes[at] == '\'') {
		size_t bytes = contraction((SermText){text.bytes + at, text.length - at});

		if (bytes > 0)
			return at + bytes;
	}
	if (text.bytes[at] == ' ' && at + 1 < text.length) {
		begin = at + 1;
		step = look(text, begin);
	}
	if (step.kind == SERM_CHARACTER_SPACE)
		return space_end(text, at);
	return run_end(text, begin, step.kind);
}

void
serm_bpe_encode(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink)
{
	for (size_t at = 0; at < text.length && !serm_token_full(sink);) {
		size_t end = word_end(text, at);

		encode_word(tokenizer, (SermText){text.bytes + at, end - at}, sink);
		at = end;
	}
}
