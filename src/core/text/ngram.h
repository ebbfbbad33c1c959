/*
 * The hash of S5 step by step, inline: n-grams are hashed by the hundred per
 * document, and a call for each would cost more than the hash.
 */
#ifndef SERM_CORE_TEXT_NGRAM_H
#define SERM_CORE_TEXT_NGRAM_H

#include "core/base/status.h"

#define SERM_FNV_OFFSET UINT32_C(2166136261)
#define SERM_FNV_PRIME UINT32_C(16777619)

/* Around a word when its n-grams are taken: `<word>`. Neither occurs inside a word. */
#define SERM_WORD_BEGIN ((uint32_t) '<')
#define SERM_WORD_END ((uint32_t) '>')

static inline uint32_t
serm_hash_begin(uint32_t seed)
{
	return SERM_FNV_OFFSET ^ seed;
}

/* FNV-1a over the low three bytes of `c`, lowest first. */
static inline uint32_t
serm_hash_step(uint32_t hash, uint32_t c)
{
	/* Zero bytes only multiply: fold their multiplications into one. */
	if (c < 0x100)
		return (hash ^ c) * (SERM_FNV_PRIME * SERM_FNV_PRIME * SERM_FNV_PRIME);
	hash = (hash ^ (c & 0xff)) * SERM_FNV_PRIME;
	hash = (hash ^ ((c >> 8) & 0xff)) * SERM_FNV_PRIME;
	return (hash ^ ((c >> 16) & 0xff)) * SERM_FNV_PRIME;
}

static inline uint32_t
serm_hash_end(uint32_t hash)
{
	hash ^= hash >> 15;
	hash *= UINT32_C(0x2c1b3c6d);
	return hash ^ (hash >> 12);
}

/* Three code points of 21 bits, the last one highest: the trigram that ends with `code_point`. */
static inline uint64_t
serm_trigram_next(uint64_t packed, uint32_t code_point)
{
	return packed >> 21 | (uint64_t) code_point << 42;
}

/*
 * The identity of a trigram, never 0: a multiplicative hash, because trigrams are only compared
 * with each other and far too many to spend an avalanche on each.
 */
static inline uint32_t
serm_trigram_hash(uint64_t packed)
{
	uint32_t hash = (uint32_t) ((packed * UINT64_C(0x9e3779b97f4a7c15)) >> 32);

	return hash + (hash == 0);
}

/* Copy `<word>` of the first `length` code points to `out` (room for length + 2); returns its length. */
static inline uint32_t
serm_word_frame(const uint32_t *code_points, uint32_t length, uint32_t *out)
{
	out[0] = SERM_WORD_BEGIN;
	for (uint32_t i = 0; i < length; i++)
		out[i + 1] = code_points[i];
	out[length + 1] = SERM_WORD_END;
	return length + 2;
}

#endif
