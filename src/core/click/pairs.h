/*
 * Queries and pairs of a search log as numbers, and the cells of each pair; private
 * to core/click. Texts are told apart by their bytes, the hash only finds them.
 *
 * Records are one cache line each, and what is looked at first is in them: whoever
 * looks up many may fetch the slot, then the record, then the cells ahead of time.
 */
#ifndef SERM_CORE_CLICK_PAIRS_H
#define SERM_CORE_CLICK_PAIRS_H

#include <string.h>

#include "core/click/group.h"

#define SERM_CLICK_NONE UINT32_MAX
/* Texts up to this length are compared without leaving their record. */
#define SERM_CLICK_PREFIX 24

typedef struct SermClickSlot {
	uint32_t tag;   /* upper half of the hash */
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
	uint64_t hash;
	SermClickKey key;
	uint64_t unused[2];
} SermClickQueryRecord;

typedef struct SermClickPairRecord {
	uint64_t hash;
	SermClickKey key; /* the document id */
	uint32_t query;
	uint16_t cell_count;
	uint16_t cell_class; /* room for 2 << cell_class cells */
	SermClickCount *cells;
} SermClickPairRecord;

#define SERM_CLICK_CELL_CLASSES 16

typedef struct SermClickPairs {
	SermArena *arena;
	uint32_t pairs_max;
	SermClickTable query_table, pair_table;
	SermClickQueryRecord *queries;
	uint32_t query_count, query_capacity;
	SermClickPairRecord *pairs;
	uint32_t pair_count, pair_capacity;
	size_t cell_count;
	char *cell_chunk;
	size_t cell_chunk_left;
	void *free_cells[SERM_CLICK_CELL_CLASSES]; /* arrays that were outgrown, each pointing to the next */
	char *chunk;                               /* of texts */
	size_t chunk_left;
} SermClickPairs;

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
	if (length < 8)
		return serm_click_short_word(a, length) == serm_click_short_word(b, length);
	if (length > 64)
		return memcmp(a, b, length) == 0;
	for (uint32_t i = 0; i + 8 < length; i += 8)
		if (serm_click_word(a + i) != serm_click_word(b + i))
			return false;
	return serm_click_word(a + length - 8) == serm_click_word(b + length - 8);
}

/*
 * `bytes` is not copied. Word by word into its place: a key that is made elsewhere and copied is waited for.
 */
static inline void
serm_click_set_key(SermClickKey *key, const char *bytes, uint32_t length)
{
	uint64_t first, second = 0, third = 0;

	if (length > 16) {
		first = serm_click_word(bytes);
		second = serm_click_word(bytes + 8);
		third = serm_click_short_word(bytes + 16, length - 16);
	} else if (length > 8) {
		first = serm_click_word(bytes);
		second = serm_click_short_word(bytes + 8, length - 8);
	} else
		first = serm_click_short_word(bytes, length);
	key->prefix[0] = first;
	key->prefix[1] = second;
	key->prefix[2] = third;
	key->bytes = bytes;
	key->length = length;
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
extern uint64_t serm_click_hash_bytes(const void *bytes, size_t length, uint64_t seed);

static inline uint64_t
serm_click_mix(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
	return hash ^ hash >> 32;
}

static inline uint64_t
serm_click_hash(const SermClickKey *key, uint64_t seed)
{
	uint64_t hash = seed ^ (key->length * UINT64_C(0x9e3779b97f4a7c15));

	if (key->length > SERM_CLICK_PREFIX)
		hash = serm_click_hash_bytes(key->bytes + SERM_CLICK_PREFIX, key->length - SERM_CLICK_PREFIX, hash);
	hash = serm_click_mix(hash, key->prefix[0]);
	hash = serm_click_mix(hash, key->prefix[1]);
	hash = serm_click_mix(hash, key->prefix[2]);
	return serm_click_mix(hash, hash >> 32);
}

static inline void
serm_click_fetch_slot(const SermClickTable *table, uint64_t hash)
{
	__builtin_prefetch(&table->slots[(uint32_t) hash & (table->capacity - 1)]);
}

/* What the tag alone tells: the number, or SERM_CLICK_NONE. */
static inline uint32_t
serm_click_guess(const SermClickTable *table, uint64_t hash)
{
	uint32_t at = (uint32_t) hash & (table->capacity - 1);

	while (table->slots[at].index != SERM_CLICK_NONE && table->slots[at].tag != (uint32_t) (hash >> 32))
		at = (at + 1) & (table->capacity - 1);
	return table->slots[at].index;
}

/* False: no memory. */
extern bool serm_click_pairs_init(SermClickPairs *pairs, SermArena *arena, uint32_t pairs_max);
extern uint32_t serm_click_find_query(const SermClickPairs *pairs, const SermClickKey *key, uint64_t hash);
extern uint32_t serm_click_find_pair(
    const SermClickPairs *pairs, uint32_t query, const SermClickKey *key, uint64_t hash);
/* Errors: MEMORY. */
extern SermStatus serm_click_add_query(
    SermClickPairs *pairs, const SermClickKey *key, uint64_t hash, uint32_t *number, SermError *error);
/* Errors: LIMIT, MEMORY. */
extern SermStatus serm_click_add_pair(SermClickPairs *pairs, uint32_t query, const SermClickKey *key,
    uint64_t hash, uint32_t *number, SermError *error);
/* Count one impression. Errors: MEMORY. */
extern SermStatus serm_click_add_cell(SermClickPairs *pairs, uint32_t number, uint32_t position,
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
