/*
 * From a text to ids: added tokens are cut out first, what lies between them
 * is normalised and goes through the model; then the ids of one or two texts
 * are put together as the encoder expects them.
 */
#include "core/text/tokenizer.h"

#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"

/* Normalising one of these takes too little time to ask anybody. */
#define TEXT_BYTES_MAX ((size_t) 1 << 20)

SermTokenizerKind
serm_tokenizer_kind(const SermTokenizer *tokenizer)
{
	return tokenizer->kind;
}

uint32_t
serm_tokenizer_vocab(const SermTokenizer *tokenizer)
{
	return tokenizer->vocab;
}

uint32_t
serm_tokenizer_tokens_max(const SermTokenizer *tokenizer)
{
	return tokenizer->tokens_max;
}

uint32_t
serm_tokenizer_pad(const SermTokenizer *tokenizer)
{
	return tokenizer->pad;
}

SermText
serm_tokenizer_piece(const SermTokenizer *tokenizer, uint32_t id)
{
	const uint32_t *offset = tokenizer->piece_offsets + id;

	if (id >= tokenizer->vocab)
		return (SermText){"", 0};
	return (SermText){tokenizer->piece_bytes + offset[0], offset[1] - offset[0]};
}

bool
serm_tokenizer_special(const SermTokenizer *tokenizer, uint32_t id)
{
	return id < tokenizer->vocab && (tokenizer->special[id / 8] >> id % 8 & 1) != 0;
}

uint32_t
serm_tokenizer_unknown(const SermTokenizer *tokenizer)
{
	return tokenizer->unk;
}

void
serm_token_push(SermTokenSink *sink, uint32_t id)
{
	if (sink->out_of_memory)
		return;
	if (sink->count == sink->capacity) {
		uint32_t capacity = sink->capacity == 0 ? 64 : 2 * sink->capacity;
		uint32_t *grown = serm_arena_array(sink->arena, capacity, sizeof(uint32_t));

		if (grown == NULL) {
			sink->out_of_memory = true;
			return;
		}
		if (sink->count > 0)
			memcpy(grown, sink->ids, sink->count * sizeof(uint32_t));
		sink->ids = grown;
		sink->capacity = capacity;
	}
	sink->ids[sink->count++] = id;
}

/* --- added tokens */

static size_t
spaces_before(SermText text, size_t from, size_t at)
{
	while (at > from) {
		size_t start = at - 1;
		uint32_t c;

		while (start > from && ((unsigned char) text.bytes[start] & 0xc0) == 0x80)
			start--;
		(void) serm_utf8_decode(text.bytes + start, at - start, &c);
		if (!serm_unicode_space(c))
			break;
		at = start;
	}
	return at;
}

static size_t
spaces_behind(SermText text, size_t at)
{
	while (at < text.length) {
		uint32_t c;
		size_t bytes = serm_utf8_decode(text.bytes + at, text.length - at, &c);

		if (!serm_unicode_space(c))
			break;
		at += bytes;
	}
	return at;
}

/* The longest added token that begins at `at`; SERM_TOKEN_NONE without one, else *bytes long. */
static uint32_t
added_at(const SermTokenizer *tokenizer, const SermTrie *trie, SermText text, size_t at, size_t *bytes,
    SermTokenSink *sink)
{
	uint32_t node = 0, found = SERM_TOKEN_NONE;
	size_t i = at;

	for (; i < text.length; i++) {
		uint32_t value;

		node = serm_trie_step(trie, node, (unsigned char) text.bytes[i]);
		if (node == SERM_TRIE_NONE)
			break;
		value = trie->values[node];
		if (value != SERM_TRIE_NONE && serm_token_allowed(tokenizer, tokenizer->added[value].id)) {
			found = value;
			*bytes = i + 1 - at;
		}
	}
	serm_token_spend(sink, 1 + i - at);
	return found;
}

typedef void (*Between)(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink);

/* Push the added tokens of `trie` in the text, and hand what lies between them to `between`. */
static void
split_added(
    const SermTokenizer *tokenizer, const SermTrie *trie, SermText text, SermTokenSink *sink, Between between)
{
	size_t start = 0;

	for (size_t at = 0; trie->count > 1 && at < text.length && !serm_token_full(sink);) {
		size_t bytes = 0, left = at, right;
		uint32_t found = added_at(tokenizer, trie, text, at, &bytes, sink);

		if (found == SERM_TOKEN_NONE) {
			at++;
			continue;
		}
		right = at + bytes;
		if (tokenizer->added[found].flags & SERM_ADDED_LSTRIP)
			left = spaces_before(text, start, at);
		if (tokenizer->added[found].flags & SERM_ADDED_RSTRIP)
			right = spaces_behind(text, right);
		if (left > start)
			between(tokenizer, (SermText){text.bytes + start, left - start}, sink);
		if (!serm_token_full(sink))
			serm_token_push(sink, tokenizer->added[found].id);
		start = right;
		at = right;
	}
	if (text.length > start && !serm_token_full(sink))
		between(tokenizer, (SermText){text.bytes + start, text.length - start}, sink);
}

/* --- encoding */

static void
encode_normalized(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink)
{
	static void (*const kinds[SERM_TOKENIZER_KIND_COUNT])(
	    const SermTokenizer *, SermText, SermTokenSink *) = {
	    [SERM_TOKENIZER_WORDPIECE] = serm_wordpiece_encode,
	    [SERM_TOKENIZER_BPE] = serm_bpe_encode,
	    [SERM_TOKENIZER_UNIGRAM] = serm_unigram_encode,
	};

	kinds[tokenizer->kind](tokenizer, text, sink);
}

static void
encode_raw(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink)
{
	SermArenaMark mark = serm_arena_mark(sink->scratch);
	SermText normalized;

	if (!serm_normalize(&tokenizer->normalizer, text, sink->scratch, &normalized))
		sink->out_of_memory = true;
	else
		split_added(tokenizer, &tokenizer->added_normal, normalized, sink, encode_normalized);
	serm_arena_rewind(sink->scratch, mark);
}

bool
serm_tokenizer_sanitize(SermText *text, SermArena *arena)
{
	char *bytes;
	size_t used = 0;

	if (serm_utf8_valid(text->bytes, text->length))
		return true;
	bytes = serm_arena_array(arena, text->length, SERM_UTF8_MAX_BYTES);
	if (bytes == NULL)
		return false;
	for (size_t at = 0; at < text->length;) {
		uint32_t c;

		at += serm_utf8_decode(text->bytes + at, text->length - at, &c);
		used += serm_utf8_encode(c, bytes + used);
	}
	*text = (SermText){bytes, used};
	return true;
}

SermStatus
serm_tokenizer_encode(const SermTokenizer *tokenizer, SermText text, uint32_t tokens_max,
    const SermWatch *watch, SermArena *arena, const uint32_t **ids, uint32_t *count, SermError *error)
{
	SermArena scratch;
	SermTokenSink sink = {.arena = arena, .scratch = &scratch, .wanted = tokens_max, .watch = watch};

	if (text.length > TEXT_BYTES_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "a text of %zu bytes is too long", text.length);
	/* Of its own, so that words can rewind it while ids stay. */
	serm_arena_init(&scratch, arena->allocator, arena->limit);
	if (!serm_tokenizer_sanitize(&text, &scratch))
		sink.out_of_memory = true;
	else
		split_added(tokenizer, &tokenizer->added_raw, text, &sink, encode_raw);
	serm_arena_free(&scratch);
	if (sink.canceled)
		return serm_fail(error, SERM_ERR_CANCELED, "reading a text was canceled");
	if (sink.out_of_memory)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the tokens of a text");
	*ids = sink.ids;
	*count = sink.count < tokens_max ? sink.count : tokens_max;
	return SERM_OK;
}

/* --- the input of an encoder */

static const SermTemplate *
template_of(const SermTokenizer *tokenizer, bool pair)
{
	return pair ? &tokenizer->pair : &tokenizer->single;
}

uint32_t
serm_tokenizer_overhead(const SermTokenizer *tokenizer, bool pair)
{
	const SermTemplate *template = template_of(tokenizer, pair);
	uint32_t count = 0;

	for (uint32_t i = 0; i < template->count; i++)
		count += template->items[i].kind == SERM_TEMPLATE_TOKEN;
	return count;
}

uint32_t
serm_tokenizer_types(const SermTokenizer *tokenizer)
{
	uint32_t types = 1;

	for (int pair = 0; pair < 2; pair++)
		for (uint32_t i = 0; i < template_of(tokenizer, pair)->count; i++)
			if (template_of(tokenizer, pair)->items[i].type >= types)
				types = template_of(tokenizer, pair)->items[i].type + 1;
	return types;
}

static uint32_t
smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Cut two counts to `budget` together. */
static void
cut_longest(uint32_t *first, uint32_t *second, uint32_t budget)
{
	uint32_t half = budget / 2;
	bool first_shorter = *first <= *second;
	uint32_t *shorter = first_shorter ? first : second, *longer = first_shorter ? second : first;

	if ((uint64_t) *first + *second <= budget)
		return;
	*shorter = smaller(*shorter, half);
	*longer = budget - *shorter;
}

/* Fill in a template; `first_count` and `second_count` are cut already. */
static SermStatus
assemble(const SermTemplate *template, const uint32_t *first, uint32_t first_count, const uint32_t *second,
    uint32_t second_count, SermArena *arena, SermTokens *tokens, SermError *error)
{
	const size_t capacity = (size_t) first_count + second_count + SERM_TEMPLATE_MAX;

	*tokens = (SermTokens){.ids = serm_arena_array(arena, capacity, sizeof(uint32_t)),
	    .types = serm_arena_array(arena, capacity, 1)};
	if (tokens->ids == NULL || tokens->types == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the tokens of a pair");
	for (uint32_t i = 0; i < template->count; i++) {
		const SermTemplateItem *item = &template->items[i];
		uint32_t length = item->kind == SERM_TEMPLATE_TOKEN   ? 1
		                  : item->kind == SERM_TEMPLATE_FIRST ? first_count
		                                                      : second_count;
		const uint32_t *source = item->kind == SERM_TEMPLATE_TOKEN   ? &item->id
		                         : item->kind == SERM_TEMPLATE_FIRST ? first
		                                                             : second;

		if (item->kind == SERM_TEMPLATE_FIRST) {
			tokens->first_start = tokens->count;
			tokens->first_count = length;
		} else if (item->kind == SERM_TEMPLATE_SECOND) {
			tokens->second_start = tokens->count;
			tokens->second_count = length;
		}
		if (length > 0)
			memcpy(tokens->ids + tokens->count, source, length * sizeof(uint32_t));
		memset(tokens->types + tokens->count, (int) item->type, length);
		tokens->count += length;
	}
	return SERM_OK;
}

SermStatus
serm_tokenizer_pair(const SermTokenizer *tokenizer, const uint32_t *first, uint32_t first_count,
    const uint32_t *second, uint32_t second_count, uint32_t tokens_max, SermTruncation truncation,
    SermArena *arena, SermTokens *tokens, SermError *error)
{
	const uint32_t overhead = serm_tokenizer_overhead(tokenizer, true);

	if (tokens_max < overhead || tokens_max > SERM_TOKENS_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "a pair needs room for %u to %d tokens, not %u", overhead,
		    SERM_TOKENS_MAX, tokens_max);
	if (truncation == SERM_TRUNCATE_LONGEST_FIRST)
		cut_longest(&first_count, &second_count, tokens_max - overhead);
	else if ((uint64_t) first_count + second_count > tokens_max - overhead) {
		if (first_count >= tokens_max - overhead)
			return serm_fail(error, SERM_ERR_INVALID,
			    "the first text leaves no room for the second in %u tokens", tokens_max);
		second_count = tokens_max - overhead - first_count;
	}
	return assemble(
	    template_of(tokenizer, true), first, first_count, second, second_count, arena, tokens, error);
}

SermStatus
serm_tokenizer_single(const SermTokenizer *tokenizer, const uint32_t *ids, uint32_t count,
    uint32_t tokens_max, SermArena *arena, SermTokens *tokens, SermError *error)
{
	const uint32_t overhead = serm_tokenizer_overhead(tokenizer, false);

	if (tokens_max < overhead || tokens_max > SERM_TOKENS_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "a text needs room for %u to %d tokens, not %u", overhead,
		    SERM_TOKENS_MAX, tokens_max);
	return assemble(template_of(tokenizer, false), ids, smaller(count, tokens_max - overhead), NULL, 0, arena,
	    tokens, error);
}
