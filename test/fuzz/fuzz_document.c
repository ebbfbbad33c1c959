/*
 * A query and a document, either as text or as stored bytes: what is parsed, stored, read, printed and scanned is the same
 * document, its features are the same with and without the cache of words and nearly so without vectors, and damaged bytes
 * lead to an error or to finite features, never out of them.
 *
 * The first byte is the length of the query; the lowest bit of the second chooses text (0) or stored bytes (1).
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/embedding.h"
#include "core/model/features.h"
#include "core/text/document.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#define MUST(condition)        \
	do {                       \
		if (!(condition))      \
			__builtin_trap();  \
	} while (0)

static const SermStatistics statistics = {
	.document_count = 10, .title_length = 5, .body_length = 20, .joined_length = 25};
static SermEmbedding cached, plain;

/* The cache lives from input to input, as it does in a backend. */
static void
set_up(void)
{
	static SermArena arena;
	size_t size = (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH;
	int8_t *rows = malloc(size);
	float *scale = malloc(SERM_EMBEDDING_ROWS * sizeof(float));
	uint32_t state = 1;

	for (size_t i = 0; i < size; i++) {
		state = state * 1664525u + 1013904223u;
		rows[i] = (int8_t) (state >> 24);
	}
	for (size_t i = 0; i < SERM_EMBEDDING_ROWS; i++)
		scale[i] = 0.01f;
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 64 << 20);
	cached = (SermEmbedding){rows, scale, serm_word_cache_create(&arena)};
	plain = (SermEmbedding){rows, scale, NULL};
}

/* What is printed is scanned to the same bytes. */
static void
check_printing(const SermDocument *doc, const unsigned char *stored, size_t size, SermArena *arena)
{
	unsigned char *again = malloc(size > 0 ? size : 1);

	for (int escaped = 0; escaped < 2; escaped++) {
		char *text = serm_document_print(doc, escaped, arena);
		SermDocument scanned;
		SermError error;

		MUST(text != NULL);
		MUST(serm_document_scan((SermText){text, strlen(text)}, arena, &scanned, &error) == SERM_OK);
		MUST(serm_document_size(&scanned) == size);
		serm_document_write(&scanned, again);
		MUST(memcmp(stored, again, size) == 0);
	}
	free(again);
}

static void
check_text(SermText text, const SermParsedQuery *query, SermParsedQuery *bare, SermArena *arena)
{
	SermDocument parsed, read;
	SermFeatures features, other;
	SermError error;
	unsigned char *stored;
	size_t size;

	MUST(serm_document_parse(text, arena, &parsed, &error) == SERM_OK);
	size = serm_document_size(&parsed);
	stored = malloc(size);
	serm_document_write(&parsed, stored);
	MUST(serm_document_read(stored, size, arena, &read, &error) == SERM_OK);
	MUST(serm_document_check(&read, &error) == SERM_OK);
	check_printing(&parsed, stored, size, arena);
	serm_features_of_document(&statistics, &cached, query, &parsed, &features);
	serm_features_of_document(&statistics, &cached, query, &read, &other);
	MUST(memcmp(&features, &other, sizeof(features)) == 0);
	serm_features_of_document(&statistics, &plain, bare, &read, &other);
	MUST(memcmp(&features, &other, sizeof(features)) == 0);
	serm_features_limit(bare, SERM_VECTOR_PLAIN);
	serm_features_of_document(&statistics, &plain, bare, &read, &other);
	for (int i = 0; i < SERM_FEATURES; i++)
		MUST(fabsf(features.value[i] - other.value[i]) <= 1e-5f);
	free(stored);
}

static void
check_stored(const uint8_t *bytes, size_t length, const SermParsedQuery *query, const SermParsedQuery *bare,
			 SermArena *arena)
{
	/* A copy of its exact size, so that reading past it is noticed. */
	unsigned char *stored = malloc(length > 0 ? length : 1);
	SermDocument read;
	SermFeatures features, other;
	SermError error;

	memcpy(stored, bytes, length);
	if (serm_document_read(stored, length, arena, &read, &error) == SERM_OK) {
		serm_features_of_document(&statistics, &cached, query, &read, &features);
		for (int i = 0; i < SERM_FEATURES; i++)
			MUST(isfinite(features.value[i]));
		if (serm_document_check(&read, &error) == SERM_OK) {
			serm_features_of_document(&statistics, &plain, bare, &read, &other);
			MUST(memcmp(&features, &other, sizeof(features)) == 0);
			check_printing(&read, stored, length, arena);
		}
	}
	free(stored);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	SermParsedQuery *query, *bare;
	SermArena arena;
	SermError error;
	size_t query_length;

	if (length < 2)
		return 0;
	if (cached.rows == NULL)
		set_up();
	query_length = bytes[0] < length - 1 ? bytes[0] : (length - 1) / 2;
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 64 << 20);
	{
		SermText text = {(const char *) bytes + 1, query_length};
		const uint8_t *rest = bytes + 1 + query_length;
		size_t left = length - 1 - query_length;

		MUST(serm_features_parse_query(&statistics, &cached, text, &arena, &query, &error) == SERM_OK);
		MUST(serm_features_parse_query(&statistics, &plain, text, &arena, &bare, &error) == SERM_OK);
		if ((bytes[1] & 1) == 0)
			check_text((SermText){(const char *) rest, left}, query, bare, &arena);
		else
			check_stored(rest, left, query, bare, &arena);
	}
	serm_arena_free(&arena);
	return 0;
}
