/*
 * A read-only trie over byte strings in three flat arrays, so that it can be
 * stored and used in place from a mapped file.
 *
 * Nodes are in breadth-first order: the children of node i are
 * first_child[i] .. first_child[i + 1] - 1, ordered by label; first_child has
 * one entry more than there are nodes. Node 0 is the root. values[i] is
 * SERM_TRIE_NONE where no key ends.
 */
#ifndef SERM_CORE_TEXT_TRIE_H
#define SERM_CORE_TEXT_TRIE_H

#include "core/text/text.h"

#define SERM_TRIE_NONE UINT32_MAX

typedef struct SermTrie {
	uint32_t count; /* nodes, at least 1 */
	const uint32_t *first_child;
	const uint32_t *values;
	const unsigned char *labels;
} SermTrie;

/*
 * Build over keys[i] -> i for the keys that are not empty; of equal keys the last one counts.
 * Errors: MEMORY, LIMIT for more than 2^23 nodes, CANCELED.
 */
extern SermStatus serm_trie_build(const SermText *keys, uint32_t count, const SermWatch *watch,
    SermArena *arena, SermTrie *trie, SermError *error);
/* Can every walk stay inside the arrays, and is every value below `values_max`? Error: CORRUPT. */
extern SermStatus serm_trie_check(const SermTrie *trie, uint32_t values_max, SermError *error);
/* The value of a whole key, or SERM_TRIE_NONE. */
extern uint32_t serm_trie_find(const SermTrie *trie, const char *bytes, size_t length);

/* The child of `node` by `byte`; SERM_TRIE_NONE when there is none. */
static inline uint32_t
serm_trie_step(const SermTrie *trie, uint32_t node, unsigned char byte)
{
	uint32_t low = trie->first_child[node], end = trie->first_child[node + 1], high = end;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (trie->labels[middle] < byte)
			low = middle + 1;
		else
			high = middle;
	}
	return low < end && trie->labels[low] == byte ? low : SERM_TRIE_NONE;
}

#endif
