/*
 * Hashes that are part of stored formats: changing one of them invalidates
 * every stored model, so they are fixed here and pinned by unit tests.
 */
#ifndef SERM_CORE_BASE_HASH_H
#define SERM_CORE_BASE_HASH_H

#include "core/base/status.h"

/* CRC-32C (Castagnoli), as in RFC 3720 appendix B.4; `crc` 0 starts, the result continues. */
extern uint32_t serm_crc32c(uint32_t crc, const void *bytes, size_t length);
/* 64-bit FNV-1a of bytes with a final avalanche; for hash tables, seeds and query splits. */
extern uint64_t serm_hash_bytes(const void *bytes, size_t length, uint64_t seed);
/* The splitmix64 finaliser: a bijection of 64-bit integers with full avalanche. */
extern uint64_t serm_hash_mix(uint64_t value);

#endif
