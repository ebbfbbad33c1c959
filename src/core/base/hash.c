#include "core/base/hash.h"

#define CASTAGNOLI_REVERSED 0x82f63b78u

/* Four bits at a time: a table small enough to be built on the stack of every call. */
static uint32_t
nibble_step(uint32_t crc)
{
	for (int bit = 0; bit < 4; bit++)
		crc = (crc >> 1) ^ ((crc & 1) != 0 ? CASTAGNOLI_REVERSED : 0);
	return crc;
}

static uint32_t
crc32c_portable(uint32_t crc, const unsigned char *bytes, size_t length)
{
	uint32_t table[16];

	for (uint32_t i = 0; i < 16; i++)
		table[i] = nibble_step(i);
	for (size_t i = 0; i < length; i++) {
		crc ^= bytes[i];
		crc = (crc >> 4) ^ table[crc & 15];
		crc = (crc >> 4) ^ table[crc & 15];
	}
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t
crc32c_sse42(uint32_t crc, const unsigned char *bytes, size_t length)
{
	uint64_t state = crc;

	for (; length >= 8; bytes += 8, length -= 8) {
		uint64_t word;

		__builtin_memcpy(&word, bytes, sizeof(word));
		state = __builtin_ia32_crc32di(state, word);
	}
	for (; length > 0; bytes++, length--)
		state = __builtin_ia32_crc32qi((uint32_t) state, *bytes);
	return (uint32_t) state;
}
#endif

uint32_t
serm_crc32c(uint32_t crc, const void *bytes, size_t length)
{
	crc = ~crc;
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc32c_sse42(crc, bytes, length);
#endif
	return ~crc32c_portable(crc, bytes, length);
}

uint64_t
serm_hash_mix(uint64_t value)
{
	value ^= value >> 30;
	value *= UINT64_C(0xbf58476d1ce4e5b9);
	value ^= value >> 27;
	value *= UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

uint64_t
serm_hash_bytes(const void *bytes, size_t length, uint64_t seed)
{
	const unsigned char *byte = bytes;
	uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ serm_hash_mix(seed);

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
	return serm_hash_mix(hash);
}
