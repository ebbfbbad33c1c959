/*
 * What was computed for words lately. An entry holds its whole key, so a hit
 * is exact and a miss only costs time: no result depends on what the cache
 * holds. Private to core/model.
 *
 * A spelled word is found by its bytes: up to SERM_CACHED_WORD_MAX of them,
 * padded with zeros, which no word contains. Longer words are rare and are
 * computed each time. Tables have sets of two entries, of which the one used
 * last stays.
 */
#ifndef SERM_CORE_MODEL_WORD_CACHE_H
#define SERM_CORE_MODEL_WORD_CACHE_H

#include "core/model/embedding.h"

#define SERM_CACHED_WORD_MAX 23
#define SERM_CACHE_IDFS_BITS 15
/* Entries, as powers of two. */
#define SERM_CACHE_UNITS_BITS 13
#define SERM_CACHE_MATCHES_BITS 13
/* For the matches of one query; a query with large matches keeps fewer. */
#define SERM_CACHE_MATCH_BYTES ((size_t) 1024 * 1024)

/* The bytes of a word; the last of them is 0, or 1 for a number. An epoch of 0 is an empty entry. */
typedef struct SermWordKey {
	uint64_t part[3];
	uint64_t epoch;
} SermWordKey;

typedef struct SermWordTable {
	uint32_t bits;     /* sets, as a power of two */
	SermWordKey *keys; /* [sets][2] */
	uint8_t *last;     /* [sets], which of the two was used last */
} SermWordTable;

typedef struct SermCachedIdf {
	uint32_t id;
	float idf; /* 0: empty; the idf of a word is positive */
} SermCachedIdf;

struct SermWordCache {
	SermWordTable units;
	float *unit; /* per entry, [SERM_EMBEDDING_WIDTH] */
	/* The matches belong to one query at a time. */
	SermWordTable matches;
	unsigned char *match; /* SERM_CACHE_MATCH_BYTES */
	uint64_t query_count; /* queries parsed */
	uint64_t query;       /* serial of the one that the matches belong to */
	uint64_t epoch;       /* grows when they change hands */
	SermCachedIdf idfs[1 << SERM_CACHE_IDFS_BITS];
};

/* The set of a word. */
static inline uint32_t
serm_word_table_set(const SermWordTable *table, const SermWordKey *key)
{
	uint64_t hash = (key->part[0] ^ key->part[1] * UINT64_C(0x9e3779b97f4a7c15) ^
	                    (key->part[2] << 17 | key->part[2] >> 47)) *
	                UINT64_C(0xd6e8feb86659fd93);

	return (uint32_t) (((hash ^ hash >> 32) * UINT64_C(0x9fb21c651e98df25)) >> (64 - table->bits));
}

static inline bool
serm_word_key_same(const SermWordKey *a, const SermWordKey *b)
{
	return ((a->part[0] ^ b->part[0]) | (a->part[1] ^ b->part[1]) | (a->part[2] ^ b->part[2]) |
	           (a->epoch ^ b->epoch)) == 0;
}

/*
 * The entry of `key` in its set. On a miss the entry is given to the key: the caller fills in what
 * belongs to it.
 */
static inline uint32_t
serm_word_table_find(SermWordTable *table, uint32_t set, const SermWordKey *key, bool *hit)
{
	SermWordKey *keys = &table->keys[2 * (size_t) set];
	uint32_t way = table->last[set];

	*hit = true;
	if (serm_word_key_same(&keys[way], key))
		return 2 * set + way;
	way ^= 1;
	table->last[set] = (uint8_t) way;
	*hit = serm_word_key_same(&keys[way], key);
	keys[way] = *key;
	return 2 * set + way;
}

#endif
