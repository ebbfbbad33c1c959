/* Arbitrary bytes as query and document (split at the first byte 0xff): no crash, every feature finite. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/model/features.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	const uint8_t *cut = length > 0 ? memchr(bytes, 0xff, length) : NULL;
	size_t query_length = cut != NULL ? (size_t) (cut - bytes) : length / 2;
	SermText query = {(const char *) bytes, query_length};
	SermText doc = {(const char *) bytes + query_length, length - query_length};
	SermStatistics statistics = {.document_count = 10, .title_length = 5, .body_length = 20, .joined_length = 25};
	SermEmbedding embedding = {NULL, NULL};
	SermParsedQuery *parsed;
	SermFeatures features;
	SermError error;
	SermArena arena;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 64 << 20);
	if (serm_features_parse_query(&statistics, &embedding, query, &arena, &parsed, &error) != SERM_OK ||
		serm_features_compute(&statistics, &embedding, parsed, doc, &arena, &features, &error) != SERM_OK)
		__builtin_trap();
	for (int i = 0; i < SERM_FEATURES; i++)
		if (!isfinite(features.value[i]))
			__builtin_trap();
	serm_arena_free(&arena);
	return 0;
}
