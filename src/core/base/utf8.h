/*
 * UTF-8 decoding that never fails: each maximal invalid part becomes U+FFFD,
 * as the Unicode Standard (section 3.9, table 3-8) recommends.
 */
#ifndef SERM_CORE_BASE_UTF8_H
#define SERM_CORE_BASE_UTF8_H

#include "core/base/status.h"

#define SERM_UTF8_REPLACEMENT 0xfffdu
#define SERM_UTF8_MAX_BYTES 4

/* Decode one code point at `bytes` (length > 0); returns how many bytes it took, at least 1. */
extern size_t serm_utf8_decode(const char *bytes, size_t length, uint32_t *code_point);
/* Encode a scalar value into `out` (room for 4); returns the bytes written. Surrogates become U+FFFD. */
extern size_t serm_utf8_encode(uint32_t code_point, char *out);
extern bool serm_utf8_valid(const char *bytes, size_t length);
/* The longest prefix of at most `limit` bytes that does not cut a code point. */
extern size_t serm_utf8_clip(const char *bytes, size_t length, size_t limit);

#endif
