#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "unit.h"

static void
test_arena(void)
{
	SermArena arena;
	SermArenaMark mark;
	unsigned char *bytes;
	size_t before;

	serm_arena_init(&arena, serm_heap_allocator(), 1 << 20);
	bytes = serm_arena_alloc(&arena, 100);
	CHECK(bytes != NULL && (uintptr_t) bytes % SERM_ARENA_ALIGN == 0, "allocations are aligned");
	memset(bytes, 0xff, 100);
	mark = serm_arena_mark(&arena);
	before = arena.total;
	CHECK(serm_arena_alloc(&arena, 500 * 1024) != NULL, "a block larger than the first is made");
	serm_arena_rewind(&arena, mark);
	CHECK(arena.total == before, "rewinding returns the blocks made since");
	bytes = serm_arena_alloc(&arena, 100);
	CHECK(bytes[0] == 0 && bytes[99] == 0, "reused memory is zeroed");
	CHECK(serm_arena_alloc(&arena, 2 << 20) == NULL, "the limit refuses");
	CHECK(serm_arena_alloc(&arena, 1000) != NULL, "and the arena stays usable");
	CHECK(serm_arena_array(&arena, SIZE_MAX / 2, 3) == NULL, "an overflowing product is refused");
	CHECK(serm_arena_alloc(&arena, SIZE_MAX) == NULL, "a size that cannot be rounded up is refused");
	CHECK(strcmp(serm_arena_copy(&arena, "abcdef", 3), "abc") == 0, "copies end in NUL");
	serm_arena_free(&arena);
	CHECK(arena.total == 0, "nothing is left after free");
}

static void
test_hash(void)
{
	unsigned char zeros[32] = {0};

	CHECK(serm_crc32c(0, "123456789", 9) == 0xe3069283u, "CRC-32C check value");
	CHECK(serm_crc32c(0, zeros, 32) == 0x8a9136aau, "CRC-32C of 32 zeros, RFC 3720 B.4");
	CHECK(serm_crc32c(serm_crc32c(0, "1234", 4), "56789", 5) == 0xe3069283u, "CRC-32C continues");
	CHECK(serm_hash_bytes("abc", 3, 1) != serm_hash_bytes("abc", 3, 2), "seeds separate hashes");
	CHECK(serm_hash_bytes("", 0, 0) == serm_hash_mix(UINT64_C(0xcbf29ce484222325) ^ serm_hash_mix(0)),
	    "the empty string hashes its seed");
}

static void
test_rng(void)
{
	SermRng rng, twin;
	double sum = 0, square = 0, count = 0;
	uint32_t histogram[7] = {0};
	uint32_t order[100];
	uint64_t seen = 0;

	serm_rng_seed(&rng, 42);
	serm_rng_seed(&twin, 42);
	CHECK(serm_rng_next(&rng) == serm_rng_next(&twin), "a seed fixes the stream");
	for (int i = 0; i < 100000; i++) {
		double x = serm_rng_normal(&rng);

		sum += x;
		square += x * x;
		count += serm_rng_poisson(&rng, 1.0);
		histogram[serm_rng_below(&rng, 7)]++;
	}
	CHECK_NEAR(sum / 1e5, 0.0, 0.015, "normal: mean 0");
	CHECK_NEAR(square / 1e5, 1.0, 0.02, "normal: variance 1");
	CHECK_NEAR(count / 1e5, 1.0, 0.015, "Poisson(1): mean 1");
	for (int i = 0; i < 7; i++)
		CHECK(abs((int) histogram[i] - 14286) < 500, "below(7) is uniform at %d", i);
	for (uint32_t i = 0; i < 100; i++)
		order[i] = i;
	serm_rng_shuffle(&rng, order, 100);
	for (uint32_t i = 0; i < 100; i++)
		seen += order[i];
	CHECK(seen == 4950 && !(order[0] == 0 && order[1] == 1 && order[2] == 2), "shuffle permutes");
}

static void
test_utf8(void)
{
	uint32_t code_point;
	char out[4];
	size_t bad = 0;

	for (uint32_t c = 1; c <= 0x10ffff; c++) {
		size_t length;

		if (c >= 0xd800 && c <= 0xdfff)
			continue;
		length = serm_utf8_encode(c, out);
		bad += serm_utf8_decode(out, length, &code_point) != length || code_point != c;
	}
	CHECK(bad == 0, "every scalar value round-trips");
	CHECK(serm_utf8_decode("\xc0\xaf", 2, &code_point) == 1 && code_point == 0xfffd, "overlong is invalid");
	CHECK(serm_utf8_decode("\xed\xa0\x80", 3, &code_point) == 1 && code_point == 0xfffd,
	    "surrogates are invalid");
	CHECK(serm_utf8_decode("\xf0\x9f\x98", 3, &code_point) == 3 && code_point == 0xfffd,
	    "a truncated sequence is one maximal part");
	CHECK(!serm_utf8_valid("a\xff", 2) && serm_utf8_valid("\xef\xbf\xbd", 3), "U+FFFD itself is valid");
	CHECK(serm_utf8_clip("a\xc3\xa4", 3, 2) == 1, "clipping does not cut a code point");
	CHECK(serm_utf8_clip("a\xc3\xa4", 3, 3) == 3, "clipping at the end keeps all");
}

int
main(void)
{
	test_arena();
	test_hash();
	test_rng();
	test_utf8();
	DONE();
}
