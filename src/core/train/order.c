#include "core/train/order.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/train/failure.h"

/* Comparisons between two calls of keep_going(); each is some tens of nanoseconds. */
#define COMPARISONS_PER_CHECK 65536
/* Bytes hashed between two calls; the hash runs at about 1 GB/s. */
#define BYTES_PER_CHECK ((size_t) 4 << 20)

SermStatus
serm_order_sort(uint32_t *indices, uint32_t *scratch, size_t count, SermCompare compare, const void *items,
    const SermTrainHost *host, SermError *error)
{
	uint32_t *from = indices, *to = scratch;
	size_t since_check = 0;

	for (size_t width = 1; width < count; width *= 2) {
		for (size_t start = 0; start < count; start += 2 * width) {
			size_t middle = start + width < count ? start + width : count;
			size_t end = start + 2 * width < count ? start + 2 * width : count;
			size_t left = start, right = middle;

			for (size_t out = start; out < end; out++) {
				bool take_left =
				    right == end || (left < middle && compare(items, from[left], from[right]) <= 0);

				to[out] = take_left ? from[left++] : from[right++];
				if (++since_check == COMPARISONS_PER_CHECK) {
					since_check = 0;
					if (!host->keep_going(host->context))
						return serm_train_canceled(error);
				}
			}
		}
		to = from;
		from = from == indices ? scratch : indices;
	}
	if (from != indices)
		memcpy(indices, from, count * sizeof(*indices));
	return SERM_OK;
}

static int
compare_numbers(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int
compare_texts(const SermText *a, const SermText *b)
{
	if (a->length != b->length)
		return a->length < b->length ? -1 : 1;
	return a->length > 0 ? memcmp(a->bytes, b->bytes, a->length) : 0;
}

/* hash[i] of text(i) for all i. */
static SermStatus
hash_texts(const SermText *texts, size_t stride, size_t count, const SermTrainHost *host, uint64_t *hash,
    SermError *error)
{
	size_t since_check = 0;

	for (size_t i = 0; i < count; i++) {
		const SermText *text = (const SermText *) ((const char *) texts + i * stride);

		hash[i] = serm_hash_bytes(text->bytes, text->length, 0);
		since_check += text->length + 64;
		if (since_check > BYTES_PER_CHECK) {
			since_check = 0;
			if (!host->keep_going(host->context))
				return serm_train_canceled(error);
		}
	}
	return SERM_OK;
}

typedef struct Documents {
	const SermText *text;
	uint64_t *hash;
} Documents;

static int
compare_documents(const void *items, uint32_t a, uint32_t b)
{
	const Documents *documents = items;
	int order = compare_numbers(documents->hash[a], documents->hash[b]);

	return order != 0 ? order : compare_texts(&documents->text[a], &documents->text[b]);
}

SermStatus
serm_order_documents(const SermText *docs, size_t count, const SermTrainHost *host, SermArena *arena,
    SermText **distinct, size_t *distinct_count, SermError *error)
{
	SermText *kept = serm_arena_array(arena, count, sizeof(*kept));
	SermArenaMark mark = serm_arena_mark(arena);
	Documents documents = {docs, serm_arena_array(arena, count, sizeof(uint64_t))};
	uint32_t *indices = serm_arena_array(arena, count, sizeof(*indices));
	uint32_t *scratch = serm_arena_array(arena, count, sizeof(*scratch));
	SermStatus status;

	if (kept == NULL || documents.hash == NULL || indices == NULL || scratch == NULL)
		return serm_train_out_of_memory(error);
	status = hash_texts(docs, sizeof(*docs), count, host, documents.hash, error);
	for (size_t i = 0; i < count; i++)
		indices[i] = (uint32_t) i;
	if (status == SERM_OK)
		status = serm_order_sort(indices, scratch, count, compare_documents, &documents, host, error);
	if (status != SERM_OK)
		return status;
	*distinct_count = 0;
	for (size_t i = 0; i < count; i++)
		if (i == 0 || compare_documents(&documents, indices[i - 1], indices[i]) != 0)
			kept[(*distinct_count)++] = docs[indices[i]];
	*distinct = kept;
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}

typedef struct Examples {
	const SermTrainingSet *set;
	uint64_t *query_key; /* [query_count] */
	uint64_t *doc_hash;  /* [example_count] */
} Examples;

/* `width` numbers of each of two examples; `values` may be NULL. */
static int
compare_floats(const float *values, uint32_t width, uint32_t a, uint32_t b)
{
	for (uint32_t i = 0; values != NULL && i < width; i++) {
		float x = values[(size_t) a * width + i], y = values[(size_t) b * width + i];

		if (x != y)
			return x < y ? -1 : 1;
	}
	return 0;
}

static int
compare_flags(const uint8_t *values, uint32_t a, uint32_t b)
{
	return values != NULL ? compare_numbers(values[a], values[b]) : 0;
}

/* By what comes with the examples: queries of one key may be written in two ways, which a teacher tells
 * apart.
 */
static int
compare_extras(const SermTrainingSet *set, uint32_t a, uint32_t b)
{
	int order = compare_floats(set->rank, 1, a, b);

	if (order == 0)
		order = compare_floats(set->propensity, 1, a, b);
	if (order == 0)
		order = compare_floats(set->teacher, set->grade_count, a, b);
	if (order == 0)
		order = compare_floats(set->reference, 1, a, b);
	if (order == 0)
		order = compare_floats(set->teacher_weight, 1, a, b);
	if (order == 0)
		order = compare_flags(set->judged, a, b);
	return order == 0 ? compare_flags(set->origin, a, b) : order;
}

/* Down to all that is read of an example: those that still tie are interchangeable. */
static int
compare_examples(const void *items, uint32_t a, uint32_t b)
{
	const Examples *examples = items;
	const SermTrainingSet *set = examples->set;
	const SermExample *x = &set->examples[a], *y = &set->examples[b];
	int order = compare_numbers(examples->query_key[x->query], examples->query_key[y->query]);

	if (order == 0)
		order = compare_numbers(examples->doc_hash[a], examples->doc_hash[b]);
	if (order == 0)
		order = compare_texts(&x->doc, &y->doc);
	for (uint32_t g = 0; order == 0 && g < set->grade_count; g++)
		if (x->target[g] != y->target[g])
			order = x->target[g] < y->target[g] ? -1 : 1;
	if (order == 0 && x->weight != y->weight)
		order = x->weight < y->weight ? -1 : 1;
	return order == 0 ? compare_extras(set, a, b) : order;
}

static SermStatus
key_queries(
    const SermTrainingSet *set, const SermTrainHost *host, SermArena *arena, uint64_t *key, SermError *error)
{
	for (size_t i = 0; i < set->query_count; i++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermStatus status = serm_text_query_key(set->queries[i], arena, &key[i], error);

		serm_arena_rewind(arena, mark);
		if (status != SERM_OK)
			return status;
		if (i % 256 == 0 && !host->keep_going(host->context))
			return serm_train_canceled(error);
	}
	return SERM_OK;
}

/* Cut the sorted examples into lists of equal query keys. */
static void
find_lists(const Examples *examples, const uint32_t *indices, size_t count, uint32_t *start, uint64_t *key,
    SermExampleOrder *order)
{
	uint32_t lists = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t here = examples->query_key[examples->set->examples[indices[i]].query];

		if (lists == 0 || key[lists - 1] != here) {
			start[lists] = (uint32_t) i;
			key[lists++] = here;
		}
	}
	start[lists] = (uint32_t) count;
	*order = (SermExampleOrder){indices, start, key, (uint32_t) count, lists};
}

SermStatus
serm_order_examples(const SermTrainingSet *set, const SermTrainHost *host, SermArena *arena,
    SermExampleOrder *order, SermError *error)
{
	size_t count = set->example_count;
	uint32_t *indices = serm_arena_array(arena, count, sizeof(*indices));
	uint32_t *start = serm_arena_array(arena, count + 1, sizeof(*start));
	uint64_t *key = serm_arena_array(arena, count, sizeof(*key));
	SermArenaMark mark = serm_arena_mark(arena);
	uint32_t *scratch = serm_arena_array(arena, count, sizeof(*scratch));
	Examples examples = {set, serm_arena_array(arena, set->query_count, sizeof(uint64_t)),
	    serm_arena_array(arena, count, sizeof(uint64_t))};
	SermStatus status;

	if (indices == NULL || start == NULL || key == NULL || scratch == NULL || examples.query_key == NULL ||
	    examples.doc_hash == NULL)
		return serm_train_out_of_memory(error);
	status = key_queries(set, host, arena, examples.query_key, error);
	if (status == SERM_OK)
		status = hash_texts(
		    &set->examples[0].doc, sizeof(set->examples[0]), count, host, examples.doc_hash, error);
	for (size_t i = 0; i < count; i++)
		indices[i] = (uint32_t) i;
	if (status == SERM_OK)
		status = serm_order_sort(indices, scratch, count, compare_examples, &examples, host, error);
	if (status != SERM_OK)
		return status;
	find_lists(&examples, indices, count, start, key, order);
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
