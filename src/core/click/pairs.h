/*
 * Queries and pairs of a search log as numbers, and the cells of each pair; private
 * to core/click. Texts are told apart by their bytes, the hash only finds them.
 *
 * Queries are in one table; each has a small table of its own for its documents. So
 * what a page of results needs lies together, and a page waits for memory a few times
 * instead of some times for each of its rows. Records never move: they are in chunks
 * of 2 MB, and a pair has its key and its first cells in two neighbouring cache lines.
 */
#ifndef SERM_CORE_CLICK_PAIRS_H
#define SERM_CORE_CLICK_PAIRS_H

#include <string.h>

#include "core/click/group.h"

#define SERM_CLICK_NONE UINT32_MAX
/* Texts up to this length are compared without leaving their record. */
#define SERM_CLICK_PREFIX 24

typedef struct SermClickSlot {
	uint32_t tag;   /* of the hash */
	uint32_t index; /* SERM_CLICK_NONE: empty */
} SermClickSlot;

typedef struct SermClickTable {
	SermClickSlot *slots;
	uint32_t capacity; /* a power of two */
	uint32_t used;
} SermClickTable;

/* A text with its first bytes as words, zeros behind its end. */
typedef struct SermClickKey {
	uint64_t prefix[SERM_CLICK_PREFIX / 8];
	const char *bytes;
	uint32_t length;
} SermClickKey;

typedef struct SermClickCount {
	uint16_t position;
	uint16_t previous;
	uint32_t shown;
	uint32_t clicked;
} SermClickCount;

typedef struct SermClickQueryRecord {
	SermClickKey key;
	uint64_t hash;
	SermClickSlot *documents; /* tag: the hash of the document id; index: the pair */
	uint32_t document_mask;   /* places less one */
	uint32_t document_count;
} SermClickQueryRecord;

/* Cells beyond these are in an array of their own. */
#define SERM_CLICK_CELLS_NEAR 6

typedef struct SermClickPairRecord {
	SermClickKey key; /* the document id */
	uint32_t query;
	uint16_t cell_count;
	uint16_t cell_room;
	SermClickCount *cells; /* `near`, or the array */
	SermClickCount near[SERM_CLICK_CELLS_NEAR];
} SermClickPairRecord;

_Static_assert(sizeof(SermClickQueryRecord) == 64, "one cache line");
_Static_assert(sizeof(SermClickPairRecord) == 128, "two cache lines");

/* Records of a chunk: 2 MB of pairs, 1 MB of queries. */
#define SERM_CLICK_CHUNK_BITS 14
#define SERM_CLICK_CHUNK ((uint32_t) 1 << SERM_CLICK_CHUNK_BITS)
/* Arrays of 32 bytes, 64, and so on. */
#define SERM_CLICK_ARRAY_CLASSES 36

typedef struct SermClickPairs {
	SermArena *arena;
	uint32_t pairs_max;
	SermClickTable query_table;
	SermClickQueryRecord **queries; /* chunks */
	uint32_t query_count, query_chunk_capacity;
	SermClickPairRecord **pairs; /* chunks */
	uint32_t pair_count, pair_chunk_capacity;
	size_t cell_count;
	char *chunk; /* of texts */
	size_t chunk_left;
	char *array_chunk;
	size_t array_chunk_left;
	void *free_arrays[SERM_CLICK_ARRAY_CLASSES]; /* that were outgrown, each pointing to the next */
} SermClickPairs;

static inline SermClickQueryRecord *
serm_click_query_at(const SermClickPairs *pairs, uint32_t number)
{
	return &pairs->queries[number >> SERM_CLICK_CHUNK_BITS][number & (SERM_CLICK_CHUNK - 1)];
}

static inline SermClickPairRecord *
serm_click_pair_at(const SermClickPairs *pairs, uint32_t number)
{
	return &pairs->pairs[number >> SERM_CLICK_CHUNK_BITS][number & (SERM_CLICK_CHUNK - 1)];
}

static inline uint64_t
serm_click_word(const char *bytes)
{
	uint64_t word;

	memcpy(&word, bytes, 8);
	return word;
}

/*
 * Up to eight bytes as a word, zeros behind. Two loads that overlap instead of a loop over bytes: a word that
 * was stored byte by byte would be waited for.
 */
static inline uint64_t
serm_click_short_word(const char *bytes, uint32_t length)
{
	uint64_t word = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	uint32_t first, last;

	if (length >= 8)
		return serm_click_word(bytes);
	if (length >= 4) {
		memcpy(&first, bytes, 4);
		memcpy(&last, bytes + length - 4, 4);
		return first | (uint64_t) last << (8 * (length - 4));
	}
	for (uint32_t i = 0; i < length; i++)
		word |= (uint64_t) (unsigned char) bytes[i] << (8 * i);
#else
	memcpy(&word, bytes, length < 8 ? length : 8);
#endif
	return word;
}

/* Texts of one length; a call of memcmp costs more than most of them. */
static inline bool
serm_click_same_bytes(const char *a, const char *b, uint32_t length)
{
	uint32_t i = 0;

	if (length > 64)
		return memcmp(a, b, length) == 0;
	if (length < 8)
		return serm_click_short_word(a, length) == serm_click_short_word(b, length);
	for (; i + 8 <= length; i += 8)
		if (serm_click_word(a + i) != serm_click_word(b + i))
			return false;
	return serm_click_word(a + length - 8) == serm_click_word(b + length - 8);
}

/* `bytes` is not copied. */
static inline SermClickKey
serm_click_key(const char *bytes, uint32_t length)
{
	SermClickKey key = {.bytes = bytes, .length = length};

	for (uint32_t i = 0; i < SERM_CLICK_PREFIX / 8 && length > 8 * i; i++)
		key.prefix[i] = serm_click_short_word(bytes + (size_t) 8 * i, length - 8 * i);
	return key;
}

static inline bool
serm_click_same_key(const SermClickKey *a, const SermClickKey *b)
{
	return a->length == b->length && a->prefix[0] == b->prefix[0] && a->prefix[1] == b->prefix[1] &&
	       a->prefix[2] == b->prefix[2] &&
	       (a->length <= SERM_CLICK_PREFIX ||
	           memcmp(a->bytes + SERM_CLICK_PREFIX, b->bytes + SERM_CLICK_PREFIX,
	               a->length - SERM_CLICK_PREFIX) == 0);
}

/* Not stored, so free to change. */
extern uint64_t serm_click_hash(const SermClickKey *key);
extern uint64_t serm_click_hash_bytes(const void *bytes, size_t length, uint64_t seed);

static inline void
serm_click_fetch_slot(const SermClickTable *table, uint64_t hash)
{
	__builtin_prefetch(&table->slots[(uint32_t) hash & (table->capacity - 1)]);
}

/* What the tag alone tells: the number, or SERM_CLICK_NONE. */
static inline uint32_t
serm_click_guess_query(const SermClickPairs *pairs, uint64_t hash)
{
	const SermClickTable *table = &pairs->query_table;
	uint32_t at = (uint32_t) hash & (table->capacity - 1);

	while (table->slots[at].index != SERM_CLICK_NONE && table->slots[at].tag != (uint32_t) (hash >> 32))
		at = (at + 1) & (table->capacity - 1);
	return table->slots[at].index;
}

static inline void
serm_click_fetch_document(const SermClickQueryRecord *query, uint32_t hash)
{
	__builtin_prefetch(&query->documents[hash & query->document_mask]);
}

static inline uint32_t
serm_click_guess_pair(const SermClickQueryRecord *query, uint32_t hash)
{
	uint32_t at = hash & query->document_mask;

	while (query->documents[at].index != SERM_CLICK_NONE && query->documents[at].tag != hash)
		at = (at + 1) & query->document_mask;
	return query->documents[at].index;
}

/* False: no memory. */
extern bool serm_click_pairs_init(SermClickPairs *pairs, SermArena *arena, uint32_t pairs_max);
extern uint32_t serm_click_find_query(const SermClickPairs *pairs, const SermClickKey *key, uint64_t hash);
extern uint32_t serm_click_find_pair(
    const SermClickPairs *pairs, uint32_t query, const SermClickKey *key, uint32_t hash);
/* Errors: MEMORY. */
extern SermStatus serm_click_add_query(
    SermClickPairs *pairs, const SermClickKey *key, uint64_t hash, uint32_t *number, SermError *error);
/* Errors: LIMIT, MEMORY. */
extern SermStatus serm_click_add_pair(SermClickPairs *pairs, uint32_t query, const SermClickKey *key,
    uint32_t hash, uint32_t *number, SermError *error);
/* Count one impression. Errors: MEMORY. */
extern SermStatus serm_click_add_cell(SermClickPairs *pairs, SermClickPairRecord *pair, uint32_t position,
    uint32_t previous, bool clicked, SermError *error);

/* --- for tables of other things */

/* Keep a table at most half full; `hash_at` tells the hash of what is in it. False: no memory. */
extern bool serm_click_grow_table(SermArena *arena, SermClickTable *table,
    uint64_t (*hash_at)(const void *context, uint32_t index), const void *context);
extern void serm_click_put_slot(SermClickTable *table, uint64_t hash, uint32_t index);
/* Room for one more element. False: no memory. */
extern bool serm_click_reserve(
    SermArena *arena, void **array, uint32_t count, uint32_t *capacity, size_t element);
extern SermStatus serm_click_no_memory(SermError *error);

#endif
