/*
 * What was computed for words lately, direct-mapped by word id. An entry holds
 * its whole key, so a hit is exact and a miss only costs time: no result
 * depends on what the cache holds. Private to core/model.
 */
#ifndef SERM_CORE_MODEL_WORD_CACHE_H
#define SERM_CORE_MODEL_WORD_CACHE_H

#include "core/model/embedding.h"

#define SERM_CACHE_UNITS UINT32_C(2048)
#define SERM_CACHE_IDFS UINT32_C(4096)
/* Code points; longer words are rare and are composed each time. */
#define SERM_CACHE_WORD_MAX 14

typedef struct SermCachedUnit {
	uint32_t length; /* 0: empty */
	uint32_t code_points[SERM_CACHE_WORD_MAX];
	float unit[SERM_EMBEDDING_WIDTH];
} SermCachedUnit;

typedef struct SermCachedIdf {
	uint32_t id;
	float idf; /* 0: empty; the idf of a word is positive */
} SermCachedIdf;

struct SermWordCache {
	SermCachedUnit units[SERM_CACHE_UNITS];
	SermCachedIdf idfs[SERM_CACHE_IDFS];
};

#endif
