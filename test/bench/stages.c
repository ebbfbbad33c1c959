/*
 * Where the time of a pair goes, and that it grows with the length of the input and no faster. Part of
 * `make bench-speed`.
 *
 *   build/bench_stages DOCUMENTS QUERY LONG_QUERY            one document per line
 *   build/bench_stages DOCUMENTS QUERY LONG_QUERY growth     by length of body and query instead
 *
 * Embeddings are random, which changes no amount of work; statistics are those of the documents. Each line of
 * output is a name and microseconds of CPU time per row, the best of several passes; where a third word
 * follows, it is a hash of the features of all pairs, for changes that are to keep every bit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/arena.h"
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/model/features.h"

enum { PASSES = 7, DOCUMENTS_MAX = 100000, CHANGING = 4000, GROWTH_ROWS = 400 };

typedef struct Bench {
	SermArena arena;
	SermArena scratch;
	SermText *docs;
	size_t count;
	SermText *stored;
	SermStatistics statistics;
	SermEmbedding embedding;
	bool hashing;
	uint64_t hash;
} Bench;

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static void *
need(void *memory)
{
	if (memory == NULL)
		exit(EXIT_FAILURE);
	return memory;
}

static void
load(Bench *bench, const char *path)
{
	FILE *file = need(fopen(path, "r"));
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	bench->docs = need(serm_arena_array(&bench->arena, DOCUMENTS_MAX, sizeof(SermText)));
	while (bench->count < DOCUMENTS_MAX && (length = getline(&line, &size, file)) > 0)
		bench->docs[bench->count++] =
		    (SermText){need(serm_arena_copy(&bench->arena, line, (size_t) length)), (size_t) length - 1};
	free(line);
	(void) fclose(file);
}

static void
embed(Bench *bench)
{
	int8_t *rows =
	    need(serm_arena_array(&bench->arena, SERM_EMBEDDING_ROWS, SERM_EMBEDDING_WIDTH * sizeof(int8_t)));
	float *scale = need(serm_arena_array(&bench->arena, SERM_EMBEDDING_ROWS, sizeof(float)));
	SermRng rng;

	serm_rng_seed(&rng, 1);
	for (size_t i = 0; i < (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH; i++)
		rows[i] = (int8_t) ((int) serm_rng_below(&rng, 255) - 127);
	for (size_t i = 0; i < SERM_EMBEDDING_ROWS; i++)
		scale[i] = 0.01f;
	bench->embedding = (SermEmbedding){rows, scale, need(serm_word_cache_create(&bench->arena))};
}

static SermDocument
parse(Bench *bench, SermText text)
{
	SermDocument doc;
	SermError error;

	if (serm_document_parse(text, &bench->scratch, &doc, &error) != SERM_OK)
		exit(EXIT_FAILURE);
	return doc;
}

static SermText
store(Bench *bench, SermText text)
{
	SermArenaMark mark = serm_arena_mark(&bench->scratch);
	SermDocument doc = parse(bench, text);
	size_t size = serm_document_size(&doc);
	char *bytes = need(serm_arena_alloc(&bench->arena, size));

	serm_document_write(&doc, (unsigned char *) bytes);
	serm_arena_rewind(&bench->scratch, mark);
	return (SermText){bytes, size};
}

static SermParsedQuery *
parse_query(Bench *bench, const char *query, SermArena *arena)
{
	SermParsedQuery *parsed;
	SermError error;

	if (serm_features_parse_query(&bench->statistics, &bench->embedding, (SermText){query, strlen(query)},
	        arena, &parsed, &error) != SERM_OK)
		exit(EXIT_FAILURE);
	return parsed;
}

static void
score_stored(Bench *bench, const SermParsedQuery *query, SermText stored)
{
	SermArenaMark mark = serm_arena_mark(&bench->scratch);
	SermFeatures features;
	SermDocument doc;
	SermError error;

	if (serm_document_read(
	        (const unsigned char *) stored.bytes, stored.length, &bench->scratch, &doc, &error) != SERM_OK)
		exit(EXIT_FAILURE);
	serm_features_of_document(&bench->statistics, &bench->embedding, query, &doc, &features);
	if (bench->hashing)
		bench->hash = serm_hash_bytes(&features, sizeof(features), bench->hash);
	serm_arena_rewind(&bench->scratch, mark);
}

static void
pass_parse(Bench *bench, const char *query)
{
	(void) query;
	for (size_t i = 0; i < bench->count; i++) {
		SermArenaMark mark = serm_arena_mark(&bench->scratch);

		(void) parse(bench, bench->docs[i]);
		serm_arena_rewind(&bench->scratch, mark);
	}
}

static void
pass_stored(Bench *bench, const char *query)
{
	SermArenaMark mark = serm_arena_mark(&bench->arena);
	const SermParsedQuery *parsed = parse_query(bench, query, &bench->arena);

	for (size_t i = 0; i < bench->count; i++)
		score_stored(bench, parsed, bench->stored[i]);
	serm_arena_rewind(&bench->arena, mark);
}

/* Every row another query, as the server's cache sees it. */
static void
pass_changing(Bench *bench, const char *query)
{
	for (size_t i = 0; i < CHANGING; i++) {
		SermArenaMark mark = serm_arena_mark(&bench->scratch);

		score_stored(bench, parse_query(bench, query, &bench->scratch), bench->stored[i % bench->count]);
		serm_arena_rewind(&bench->scratch, mark);
	}
}

static double
best_of(Bench *bench, void (*pass)(Bench *, const char *), const char *query, size_t rows)
{
	double best = 1e9;

	for (int i = 0; i < PASSES; i++) {
		double start = seconds(), took;

		pass(bench, query);
		took = seconds() - start;
		best = took < best ? took : best;
	}
	return 1e6 * best / (double) rows;
}

static void
time_stored(Bench *bench, const char *name, const char *query)
{
	double best = best_of(bench, pass_stored, query, bench->count);

	bench->hashing = true;
	bench->hash = 0;
	pass_stored(bench, query);
	bench->hashing = false;
	printf("%s %.3f %016llx\n", name, best, (unsigned long long) bench->hash);
}

/* The first `count` blank-separated words of the documents, end to end. */
static char *
words_of(Bench *bench, size_t count)
{
	char *text = need(serm_arena_alloc(&bench->arena, count * 64)), *to = text;

	for (size_t doc = 0, words = 0; words < count; doc = (doc + 1) % bench->count)
		for (const char *from = bench->docs[doc].bytes; words < count && *from != '\0'; words++) {
			size_t length = strcspn(from, " ");

			if (length < 60) {
				memcpy(to, from, length);
				to += length;
				*to++ = ' ';
			}
			from += length + (from[length] == ' ');
		}
	return text;
}

/* Cost by length: bodies of one query, queries of one body, texts of which only the beginning is read. */
static void
growth(Bench *bench, const char *query)
{
	static const size_t bodies[] = {32, 64, 128, 256, 1024, 160000}, queries[] = {5, 10, 20, 40};
	SermText *docs = bench->stored, one;
	size_t count = bench->count;
	char name[64];

	bench->stored = need(serm_arena_array(&bench->arena, GROWTH_ROWS, sizeof(SermText)));
	bench->count = count < GROWTH_ROWS ? count : GROWTH_ROWS;
	for (size_t b = 0; b < SERM_LENGTH(bodies); b++) {
		SermText *texts = bench->docs;
		char *words = words_of(bench, bodies[b]);

		one = (SermText){words, strlen(words)};
		bench->docs = need(serm_arena_array(&bench->arena, GROWTH_ROWS, sizeof(SermText)));
		for (size_t i = 0; i < bench->count; i++) {
			bench->docs[i] = one;
			bench->stored[i] = store(bench, one);
		}
		(void) snprintf(name, sizeof(name), "body_%zu_%zu", bodies[b], one.length);
		printf("%s %.3f %.3f\n", name, best_of(bench, pass_parse, query, bench->count),
		    best_of(bench, pass_stored, query, bench->count));
		bench->docs = texts;
	}
	for (size_t i = 0; i < bench->count; i++)
		bench->stored[i] = docs[i];
	for (size_t q = 0; q < SERM_LENGTH(queries); q++)
		printf("query_%zu %.3f\n", queries[q],
		    best_of(bench, pass_stored, words_of(bench, queries[q]), bench->count));
	bench->stored = docs;
	bench->count = count;
}

int
main(int argc, char **argv)
{
	Bench bench = {.count = 0};
	SermError error;

	if (argc < 4 || argc > 5)
		return EXIT_FAILURE;
	serm_arena_init(&bench.arena, serm_heap_allocator(), (size_t) 1 << 32);
	serm_arena_init(&bench.scratch, serm_heap_allocator(), (size_t) 1 << 26);
	load(&bench, argv[1]);
	embed(&bench);
	if (serm_statistics_count(bench.docs, bench.count, &bench.arena, NULL, NULL, &bench.statistics, &error) !=
	    SERM_OK)
		return EXIT_FAILURE;
	bench.stored = need(serm_arena_array(&bench.arena, bench.count, sizeof(SermText)));
	(void) need(serm_arena_alloc(&bench.scratch, SERM_DOCUMENT_BYTES_MAX));
	for (size_t i = 0; i < bench.count; i++)
		bench.stored[i] = store(&bench, bench.docs[i]);
	if (argc == 5)
		growth(&bench, argv[2]);
	else {
		printf("parse %.3f\n", best_of(&bench, pass_parse, argv[2], bench.count));
		time_stored(&bench, "short", argv[2]);
		time_stored(&bench, "long", argv[3]);
		printf("changing %.3f\n", best_of(&bench, pass_changing, argv[2], CHANGING));
	}
	serm_arena_free(&bench.scratch);
	serm_arena_free(&bench.arena);
	return EXIT_SUCCESS;
}
