/*
 * The lexical features (S6) of every judged pair of a set, for learners that
 * are compared with the model on the same features.
 *
 *   build/bench_features DIRECTORY OUT
 *
 * DIRECTORY holds docs.tsv, queries.tsv and qrels.tsv. OUT gets the features,
 * float32 [pair][59]; OUT.ids the pairs in the same order, a line with the ids
 * of query and document each.
 */
#include "core/model/features.h"
#include "core/train/kin.h"
#include "test/bench/set.h"

static void
write_query(
    const Set *set, size_t q, const SermStatistics *statistics, SermArena *arena, FILE *out, FILE *ids)
{
	SermEmbedding none = {NULL, NULL, NULL};
	SermArenaMark mark = serm_arena_mark(arena);
	SermParsedQuery *query;
	SermError error;

	require(serm_features_parse_query(statistics, &none, set->queries[q], arena, &query, &error), &error);
	for (size_t i = set->query_start[q]; i < set->query_start[q + 1]; i++) {
		const Pair *pair = &set->pairs[i];
		SermFeatures features;

		require(
		    serm_features_compute(statistics, &none, query, set->docs[pair->doc], arena, &features, &error),
		    &error);
		fwrite(features.value, sizeof(float), SERM_LEXICAL_FEATURES, out);
		fprintf(ids, "%s\t%s\n", set->query_ids[q], set->doc_ids[pair->doc]);
	}
	serm_arena_rewind(arena, mark);
}

int
main(int argc, char **argv)
{
	Set set = {0};
	SermStatistics statistics;
	SermTrainHost host = {.keep_going = go_on};
	SermArena arena;
	SermError error;
	char path[4096];
	FILE *out, *ids;

	if (argc != 3)
		die("usage", "bench_features DIRECTORY OUT");
	snprintf(path, sizeof(path), "%s.ids", argv[2]);
	out = fopen(argv[2], "wb");
	ids = fopen(path, "w");
	if (out == NULL || ids == NULL)
		die("cannot write", argv[2]);
	load_set("any", argv[1], &set);
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 4 << 30);
	require(serm_statistics_count(set.docs, set.doc_count, &arena, go_on, NULL, &statistics, &error), &error);
	require(serm_kin_learn(set.docs, set.doc_count, &host, &arena, &statistics, &error), &error);
	for (size_t q = 0; q < set.query_count; q++)
		write_query(&set, q, &statistics, &arena, out, ids);
	if (fclose(out) != 0 || fclose(ids) != 0)
		die("cannot write", argv[2]);
	serm_arena_free(&arena);
	return EXIT_SUCCESS;
}
