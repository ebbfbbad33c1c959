/*
 * A public set in memory: documents, queries and graded pairs read from
 * docs.tsv, queries.tsv and qrels.tsv of a directory, and folds by a seed.
 * For the programs of test/bench: whatever goes wrong ends them.
 */
#ifndef SERM_TEST_BENCH_SET_H
#define SERM_TEST_BENCH_SET_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/rng.h"
#include "core/text/text.h"

#define GRADES 4
#define FOLDS_MAX 5
#define SYSTEMS 3 /* model, BM25, random */

typedef struct Pair {
	uint32_t query;
	uint32_t doc;
	uint32_t grade;
	float score[SYSTEMS];
	float probability[GRADES];
	uint32_t argmax, cut;
	bool outside; /* judged, but no candidate: last for every system, and in no training */
} Pair;

typedef struct Set {
	SermText *docs, *queries;
	char **doc_ids, **query_ids;
	size_t doc_count, query_count;
	Pair *pairs; /* by query */
	size_t pair_count;
	size_t *query_start; /* [query_count + 1] in pairs */
	uint32_t *fold;      /* [query_count] */
	uint32_t folds, folds_run;
} Set;

static inline void
die(const char *what, const char *detail)
{
	fprintf(stderr, "bench: %s: %s\n", what, detail);
	exit(EXIT_FAILURE);
}

static inline void
require(SermStatus status, const SermError *error)
{
	if (status != SERM_OK)
		die("core", error->message);
}

static inline double
now(void *context)
{
	struct timespec time;

	(void) context;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return (double) time.tv_sec + 1e-9 * (double) time.tv_nsec;
}

static inline bool
go_on(void *context)
{
	(void) context;
	return true;
}

/* The whole file; lines and fields are cut in place. */
static char *
read_file(const char *directory, const char *name, size_t *line_count)
{
	char path[4096];
	FILE *file;
	long size = 0;
	char *text;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	file = fopen(path, "rb");
	if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
		die("cannot read", path);
	rewind(file);
	text = malloc((size_t) size + 1);
	if (text == NULL || fread(text, 1, (size_t) size, file) != (size_t) size)
		die("cannot read", path);
	fclose(file);
	text[size] = '\0';
	*line_count = 0;
	for (long i = 0; i < size; i++)
		*line_count += text[i] == '\n';
	return text;
}

/* Cut the next line into at most three fields; NULL at the end. */
static char *
next_line(char **rest, char *fields[3])
{
	char *line = *rest, *end = strchr(line, '\n');

	if (end == NULL)
		return NULL;
	*end = '\0';
	*rest = end + 1;
	fields[0] = line;
	for (int i = 1; i < 3; i++) {
		fields[i] = strchr(fields[i - 1], '\t');
		if (fields[i] == NULL)
			fields[i] = end;
		else
			*fields[i]++ = '\0';
	}
	return line;
}

typedef struct IdSlot {
	const char *id;
	uint32_t index;
} IdSlot;

static int
compare_ids(const void *a, const void *b)
{
	return strcmp(((const IdSlot *) a)->id, ((const IdSlot *) b)->id);
}

static IdSlot *
index_ids(char **ids, size_t count)
{
	IdSlot *slots = malloc(count * sizeof(*slots));

	for (size_t i = 0; i < count; i++)
		slots[i] = (IdSlot){ids[i], (uint32_t) i};
	qsort(slots, count, sizeof(*slots), compare_ids);
	return slots;
}

static uint32_t
find_id(const IdSlot *slots, size_t count, const char *id)
{
	IdSlot key = {id, 0};
	const IdSlot *found = bsearch(&key, slots, count, sizeof(*slots), compare_ids);

	if (found == NULL)
		die("unknown id", id);
	return found->index;
}

/* How a set's own grades become 0..3. */
static uint32_t
map_grade(const char *set, double grade)
{
	if (strcmp(set, "crowdflower") == 0)
		return (uint32_t) (grade - 1 + 0.5);
	if (strcmp(set, "homedepot") == 0)
		return grade < 1.5 ? 0 : grade < 2.17 ? 1 : grade < 2.84 ? 2 : 3;
	if (strcmp(set, "cranfield") == 0)
		return grade < 3 ? 1 : grade < 4 ? 2 : 3;
	return (uint32_t) (grade + 0.5);
}

static int
compare_pairs(const void *a, const void *b)
{
	const Pair *x = a, *y = b;

	if (x->query != y->query)
		return x->query < y->query ? -1 : 1;
	return x->doc < y->doc ? -1 : x->doc > y->doc;
}

static inline void
load_set(const char *name, const char *directory, Set *set)
{
	size_t lines;
	char *docs = read_file(directory, "docs.tsv", &set->doc_count), *fields[3];
	char *queries = read_file(directory, "queries.tsv", &set->query_count), *qrels;
	IdSlot *doc_index, *query_index;

	set->docs = calloc(set->doc_count, sizeof(*set->docs));
	set->doc_ids = calloc(set->doc_count, sizeof(*set->doc_ids));
	set->queries = calloc(set->query_count, sizeof(*set->queries));
	set->query_ids = calloc(set->query_count, sizeof(*set->query_ids));
	set->query_start = calloc(set->query_count + 1, sizeof(*set->query_start));
	for (size_t i = 0; next_line(&docs, fields) != NULL; i++) {
		/* The tab between title and text becomes the line feed that serm splits at. */
		fields[2][-1] = '\n';
		set->doc_ids[i] = fields[0];
		set->docs[i] = (SermText){fields[1], strlen(fields[1])};
	}
	for (size_t i = 0; next_line(&queries, fields) != NULL; i++) {
		set->query_ids[i] = fields[0];
		set->queries[i] = (SermText){fields[1], strlen(fields[1])};
	}
	doc_index = index_ids(set->doc_ids, set->doc_count);
	query_index = index_ids(set->query_ids, set->query_count);
	qrels = read_file(directory, "qrels.tsv", &lines);
	set->pairs = calloc(lines, sizeof(*set->pairs));
	while (next_line(&qrels, fields) != NULL)
		set->pairs[set->pair_count++] = (Pair){.query = find_id(query_index, set->query_count, fields[0]),
		    .doc = find_id(doc_index, set->doc_count, fields[1]),
		    .grade = map_grade(name, atof(fields[2]))};
	qsort(set->pairs, set->pair_count, sizeof(*set->pairs), compare_pairs);
	for (size_t i = 0; i < set->pair_count; i++)
		set->query_start[set->pairs[i].query + 1] = i + 1;
	for (size_t q = 1; q <= set->query_count; q++)
		if (set->query_start[q] == 0)
			set->query_start[q] = set->query_start[q - 1];
	free(doc_index);
	free(query_index);
}

static inline Pair *
find_pair(const Set *set, uint32_t query, uint32_t doc)
{
	Pair key = {.query = query, .doc = doc};

	return bsearch(&key, set->pairs, set->pair_count, sizeof(key), compare_pairs);
}

/*
 * The folds and candidates of `make bench-quality`, from folds.tsv as test/bench/quality_folds.py writes it.
 * Of a set with two folds one is held out, of others each in turn.
 */
static inline void
load_folds(const char *directory, Set *set)
{
	IdSlot *doc_index = index_ids(set->doc_ids, set->doc_count);
	IdSlot *query_index = index_ids(set->query_ids, set->query_count);
	size_t lines;
	char *text = read_file(directory, "folds.tsv", &lines), *fields[3];

	set->fold = calloc(set->query_count, sizeof(*set->fold));
	while (next_line(&text, fields) != NULL) {
		uint32_t query = find_id(query_index, set->query_count, fields[0]);
		uint32_t doc = find_id(doc_index, set->doc_count, fields[1]);
		Pair *pair = find_pair(set, query, doc);
		unsigned fold, candidate;

		if (pair == NULL || sscanf(fields[2], "%*u\t%u\t%u", &fold, &candidate) != 2)
			die("folds.tsv and qrels.tsv differ", fields[0]);
		pair->outside = candidate == 0;
		set->fold[query] = fold;
		if (fold >= set->folds)
			set->folds = fold + 1;
	}
	set->folds_run = set->folds == 2 ? 1 : set->folds;
	free(doc_index);
	free(query_index);
}

/* Five folds; homedepot is large enough for one test quarter. */
static inline void
split(const char *name, uint64_t seed, Set *set)
{
	uint32_t *order = calloc(set->query_count, sizeof(*order));
	SermRng rng;

	set->folds = strcmp(name, "homedepot") == 0 ? 4 : FOLDS_MAX;
	set->folds_run = strcmp(name, "homedepot") == 0 ? 1 : FOLDS_MAX;
	set->fold = calloc(set->query_count, sizeof(*set->fold));
	for (size_t i = 0; i < set->query_count; i++)
		order[i] = (uint32_t) i;
	serm_rng_seed(&rng, seed);
	serm_rng_shuffle(&rng, order, set->query_count);
	for (size_t i = 0; i < set->query_count; i++)
		set->fold[order[i]] = (uint32_t) (i % set->folds);
	free(order);
}

#endif
