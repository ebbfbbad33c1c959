/*
 * What was computed for words lately. An entry holds its whole key, so a hit
 * is exact and a miss only costs time: no result depends on what the cache
 * holds. Private to core/model.
 *
 * A spelled word is found by its bytes: up to SERM_CACHED_WORD_MAX of them,
 * padded with zeros, and how many they are: a word of a stored document that
 * was damaged may contain a zero. Longer words are rare and are computed each
 * time. Tables have sets of two entries, of which the one used
 * last stays.
 */
#ifndef SERM_CORE_MODEL_WORD_CACHE_H
#define SERM_CORE_MODEL_WORD_CACHE_H

#include "core/model/embedding.h"

#define SERM_CACHED_WORD_MAX 23
#define SERM_CACHE_IDFS_BITS 16
/* Entries, as powers of two. */
#define SERM_CACHE_UNITS_BITS 13
#define SERM_CACHE_MATCHES_BITS 14
/* What every word of every document touches lies in one stretch of this size and alignment: one large page.
 */
#define SERM_CACHE_PAGE ((size_t) 2 * 1024 * 1024)
/* For the matches of one query; a query with large matches keeps fewer. */
#define SERM_CACHE_MATCH_BYTES ((size_t) 1024 * 1024)

/* The bytes of a word; the last of them is its length times 2, plus 1 for a number. */
typedef struct SermWordKey {
	uint64_t part[3];
	uint32_t epoch; /* of the table when the entry was made; 0 is an empty entry */
	uint32_t used;  /* the time when it was used last; not a part of the key */
} SermWordKey;

typedef struct SermWordTable {
	uint32_t bits;     /* sets, as a power of two */
	uint32_t epoch;    /* entries of earlier ones are empty; from 1 */
	uint32_t now;      /* counts whatever the owner calls a time */
	SermWordKey *keys; /* [sets][2] */
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
	SermCachedIdf *idfs;  /* [1 << SERM_CACHE_IDFS_BITS] */
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

/* 0 when the keys are the same. */
static inline uint64_t
serm_word_key_differs(const SermWordKey *a, const SermWordKey *b)
{
	return (a->part[0] ^ b->part[0]) | (a->part[1] ^ b->part[1]) | (a->part[2] ^ b->part[2]) |
	       (a->epoch ^ b->epoch);
}

#define SERM_WORD_ABSENT UINT32_MAX

/* The entry of `key` in its set, marked as used; or SERM_WORD_ABSENT. Which of the two cannot be predicted.
 */
static inline uint32_t
serm_word_table_find(SermWordTable *table, uint32_t set, const SermWordKey *key)
{
	SermWordKey *keys = &table->keys[2 * (size_t) set];
	uint64_t first = serm_word_key_differs(&keys[0], key), second = serm_word_key_differs(&keys[1], key);
	uint32_t way = first != 0;

	if (((first != 0) & (second != 0)) != 0)
		return SERM_WORD_ABSENT;
	keys[way].used = table->now;
	return 2 * set + way;
}

/* Give the older entry of the set to `key`, which is absent; SERM_WORD_ABSENT when both are in use now. */
static inline uint32_t
serm_word_table_add(SermWordTable *table, uint32_t set, const SermWordKey *key)
{
	SermWordKey *keys = &table->keys[2 * (size_t) set];
	uint32_t age0 = keys[0].epoch != table->epoch ? UINT32_MAX : table->now - keys[0].used;
	uint32_t age1 = keys[1].epoch != table->epoch ? UINT32_MAX : table->now - keys[1].used;
	uint32_t way = age1 > age0;

	if ((way == 0 ? age0 : age1) == 0)
		return SERM_WORD_ABSENT;
	keys[way] = *key;
	keys[way].used = table->now;
	return 2 * set + way;
}

#endif
