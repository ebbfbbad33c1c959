#include "core/text/trie.h"

#include <string.h>

#include "core/base/sort.h"

/* Eight times the largest vocabulary that is published: a table is read as a whole when it is opened. */
#define NODES_MAX (UINT32_C(1) << 23)
/* Nodes, and keys, between two questions to whoever watches. */
#define QUIET_NODES 16384

typedef struct Key {
	const char *bytes;
	uint32_t length;
	uint32_t index;
} Key;

static int
compare_keys(const void *a, const void *b)
{
	const Key *x = a, *y = b;
	uint32_t shorter = x->length < y->length ? x->length : y->length;
	int order = shorter > 0 ? memcmp(x->bytes, y->bytes, shorter) : 0;

	if (order != 0)
		return order;
	if (x->length != y->length)
		return x->length < y->length ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* Distinct prefixes of sorted keys, the empty one included. */
static uint64_t
count_nodes(const Key *keys, uint32_t count)
{
	uint64_t nodes = 1;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t common = 0;

		if (i > 0)
			while (common < keys[i].length && common < keys[i - 1].length &&
			       keys[i].bytes[common] == keys[i - 1].bytes[common])
				common++;
		nodes += keys[i].length - common;
	}
	return nodes;
}

/* The keys of a node under construction, and its depth. */
typedef struct Span {
	uint32_t low;
	uint32_t high;
	uint32_t depth;
} Span;

/* false: whoever watches said stop. */
static bool
fill(const Key *keys, Span *spans, const SermWatch *watch, uint32_t *first_child, uint32_t *values,
    unsigned char *labels)
{
	uint32_t made = 1;

	labels[0] = 0;
	for (uint32_t node = 0; node < made; node++) {
		Span span = spans[node];

		if (node % QUIET_NODES == 0 && !serm_watch_ask(watch))
			return false;
		values[node] = SERM_TRIE_NONE;
		for (; span.low < span.high && keys[span.low].length == span.depth; span.low++)
			values[node] = keys[span.low].index;
		first_child[node] = made;
		while (span.low < span.high) {
			unsigned char label = (unsigned char) keys[span.low].bytes[span.depth];
			uint32_t end = span.low;

			while (end < span.high && (unsigned char) keys[end].bytes[span.depth] == label)
				end++;
			spans[made] = (Span){span.low, end, span.depth + 1};
			labels[made++] = label;
			span.low = end;
		}
	}
	first_child[made] = made;
	return true;
}

SermStatus
serm_trie_build(const SermText *keys, uint32_t count, const SermWatch *watch, SermArena *arena,
    SermTrie *trie, SermError *error)
{
	Key *sorted = serm_arena_array(arena, (size_t) count + 1, sizeof(Key));
	uint32_t used = 0, *first_child, *values;
	unsigned char *labels;
	uint64_t nodes;
	Span *spans;
	SermStatus status;

	if (sorted == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a trie of %u keys", count);
	for (uint32_t i = 0; i < count; i++) {
		if (keys[i].length > UINT32_MAX)
			return serm_fail(error, SERM_ERR_LIMIT, "a token is longer than 4 GiB");
		if (keys[i].length > 0)
			sorted[used++] = (Key){keys[i].bytes, (uint32_t) keys[i].length, i};
	}
	status = serm_sort(sorted, used, sizeof(Key), compare_keys, arena, watch, error);
	if (status != SERM_OK)
		return status;
	nodes = count_nodes(sorted, used);
	if (nodes > NODES_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "the vocabulary is too large");
	first_child = serm_arena_array(arena, (size_t) nodes + 1, sizeof(uint32_t));
	values = serm_arena_array(arena, (size_t) nodes, sizeof(uint32_t));
	labels = serm_arena_array(arena, (size_t) nodes, 1);
	spans = serm_arena_array(arena, (size_t) nodes, sizeof(Span));
	if (first_child == NULL || values == NULL || labels == NULL || spans == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a trie of %u keys", count);
	spans[0] = (Span){0, used, 0};
	if (!fill(sorted, spans, watch, first_child, values, labels))
		return serm_fail(error, SERM_ERR_CANCELED, "building a trie was canceled");
	*trie = (SermTrie){(uint32_t) nodes, first_child, values, labels};
	return SERM_OK;
}

SermStatus
serm_trie_check(const SermTrie *trie, uint32_t values_max, SermError *error)
{
	bool good = trie->count > 0 && trie->first_child[trie->count] == trie->count;

	for (uint32_t i = 0; good && i < trie->count; i++)
		good = trie->first_child[i] > i && trie->first_child[i] <= trie->first_child[i + 1] &&
		       (trie->values[i] == SERM_TRIE_NONE || trie->values[i] < values_max);
	return good ? SERM_OK : serm_fail(error, SERM_ERR_CORRUPT, "a table of the tokenizer is damaged");
}

uint32_t
serm_trie_find(const SermTrie *trie, const char *bytes, size_t length)
{
	uint32_t node = 0;

	for (size_t i = 0; i < length; i++) {
		node = serm_trie_step(trie, node, (unsigned char) bytes[i]);
		if (node == SERM_TRIE_NONE)
			return SERM_TRIE_NONE;
	}
	return trie->values[node];
}
