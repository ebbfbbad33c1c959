#include "core/train/encoder_set.h"

#include <string.h>

#include "core/base/hash.h"
#include "core/model/encoder_pair.h"
#include "core/train/failure.h"
#include "core/train/weights.h"

/* Bytes hashed between two questions to the host. */
#define QUIET_BYTES ((size_t) 1 << 20)

typedef struct Reader {
	const SermTrainingSet *given;
	const SermEncoderReading *reading;
	const SermTrainHost *host;
	SermArena *arena;
	SermExampleOrder order;
	SermEncoderExample *examples;
} Reader;

/* A copy of an array over the given examples in canonical order; NULL stays NULL. */
static bool
reorder(const Reader *reader, const float *values, uint32_t width, const float **out)
{
	const SermExampleOrder *order = &reader->order;
	float *copy;

	*out = NULL;
	if (values == NULL)
		return true;
	copy = serm_arena_array(reader->arena, order->example_count, width * sizeof(float));
	for (uint32_t i = 0; copy != NULL && i < order->example_count; i++)
		memcpy(copy + (size_t) i * width, values + (size_t) order->example[i] * width, width * sizeof(float));
	*out = copy;
	return copy != NULL;
}

/* The pair as scoring reads it; ids that were cut stay in `scratch`. */
static SermStatus
read_input(const Reader *reader, const uint32_t *query, uint32_t query_count, SermText doc,
    SermArena *scratch, SermEncoderInput *input, SermError *error)
{
	const SermTokenizer *tokenizer = reader->reading->tokenizer;
	uint32_t most = reader->reading->tokens_max, count;
	const SermWatch watch = {reader->host->keep_going, reader->host->context};
	const uint32_t *ids;
	SermTokens tokens;
	SermStatus status = serm_tokenizer_encode(
	    tokenizer, doc, serm_tokenizer_wanted(query_count, most), &watch, scratch, &ids, &count, error);

	if (status == SERM_OK)
		status = serm_encoder_pair(reader->reading->config, tokenizer, query, query_count, ids, count, most,
		    reader->arena, &tokens, error);
	if (status == SERM_OK)
		*input = (SermEncoderInput){tokens.ids, tokens.types, tokens.count, 0};
	return status;
}

static SermStatus
read_list(const Reader *reader, uint32_t list, SermArena *scratch, SermError *error)
{
	const SermTrainingSet *given = reader->given;
	const SermExampleOrder *order = &reader->order;
	const SermWatch watch = {reader->host->keep_going, reader->host->context};
	SermArenaMark mark = serm_arena_mark(scratch);
	uint32_t known = UINT32_MAX, query_count = 0;
	const uint32_t *query = NULL;
	SermStatus status = SERM_OK;

	for (uint32_t i = order->list_start[list]; status == SERM_OK && i < order->list_start[list + 1]; i++) {
		const SermExample *example = &given->examples[order->example[i]];
		SermArenaMark one;

		if (!reader->host->keep_going(reader->host->context))
			return serm_train_canceled(error);
		/* Queries of one list may differ in what only this tokenizer sees. */
		if (example->query != known)
			status = serm_tokenizer_encode(reader->reading->tokenizer, given->queries[example->query],
			    reader->reading->tokens_max, &watch, scratch, &query, &query_count, error);
		if (status != SERM_OK)
			break;
		known = example->query;
		one = serm_arena_mark(scratch);
		reader->examples[i].query = list;
		status =
		    read_input(reader, query, query_count, example->doc, scratch, &reader->examples[i].input, error);
		serm_arena_rewind(scratch, one);
	}
	serm_arena_rewind(scratch, mark);
	return status;
}

/* Which examples are judged, and what they count for a teacher, in the mean 1. */
static SermStatus
read_judged(const Reader *reader, SermError *error)
{
	const SermTrainingSet *given = reader->given;
	uint32_t n = reader->order.example_count;
	double total = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = reader->order.example[i];

		reader->examples[i].unjudged = given->judged != NULL && !given->judged[at];
		reader->examples[i].teacher_weight = given->teacher_weight != NULL ? given->teacher_weight[at] : 1;
		total += reader->examples[i].teacher_weight;
	}
	if (!(total > 0))
		return serm_fail(error, SERM_ERR_NO_DATA, "the teacher said nothing of any example");
	for (uint32_t i = 0; i < n; i++)
		reader->examples[i].teacher_weight = (float) (reader->examples[i].teacher_weight / (total / n));
	return SERM_OK;
}

/* Targets that sum to 1, and weights by all that the options ask for. */
static SermStatus
read_weights(const Reader *reader, SermError *error)
{
	const SermTrainingSet *given = reader->given;
	const SermExampleOrder *order = &reader->order;
	uint32_t n = order->example_count, grades = given->grade_count;
	SermArenaMark mark = serm_arena_mark(reader->arena);
	SermReal *target = serm_arena_array(reader->arena, (size_t) n * grades, sizeof(SermReal));
	SermReal *weight = serm_arena_array(reader->arena, n, sizeof(SermReal));
	SermReal *product = serm_arena_array(reader->arena, n, sizeof(SermReal));
	SermWeighting weighting = {given, reader->reading->options, order, target, weight};
	SermStatus status = SERM_OK;
	double total = 0;
	uint32_t counted = 0;

	if (target == NULL || weight == NULL || product == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t i = 0; i < n; i++)
		if (!reader->examples[i].unjudged) {
			total += given->examples[order->example[i]].weight;
			counted++;
		}
	for (uint32_t i = 0; i < n; i++) {
		const SermExample *example = &given->examples[order->example[i]];
		double sum = 0;

		for (uint32_t y = 0; y < grades; y++)
			sum += example->target[y];
		for (uint32_t y = 0; y < grades; y++)
			target[(size_t) i * grades + y] = (SermReal) (example->target[y] / sum);
		weight[i] = reader->examples[i].unjudged ? 0 : (SermReal) (example->weight / (total / counted));
	}
	if (serm_weights_wanted(given, reader->reading->options))
		status = serm_weights_multiply(&weighting, reader->host, reader->arena, product, error);
	else
		memcpy(product, weight, n * sizeof(SermReal));
	for (uint32_t i = 0; i < n; i++) {
		for (uint32_t y = 0; y < grades; y++)
			reader->examples[i].target[y] = (float) target[(size_t) i * grades + y];
		reader->examples[i].weight = (float) product[i];
	}
	serm_arena_rewind(reader->arena, mark);
	return status;
}

SermStatus
serm_encoder_set_read(const SermTrainingSet *given, const SermEncoderReading *reading,
    const SermTrainHost *host, SermArena *arena, SermEncoderLists *lists, SermError *error)
{
	Reader reader = {.given = given, .reading = reading, .host = host, .arena = arena};
	SermEncoderSet *set = &lists->set;
	SermArena scratch;
	SermStatus status;

	if (given->example_count == 0 || given->example_count > UINT32_MAX / 2)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no examples to train on");
	status = serm_order_examples(given, host, arena, &reader.order, error);
	if (status != SERM_OK)
		return status;
	*lists = (SermEncoderLists){.list_key = reader.order.list_key};
	*set = (SermEncoderSet){.grade_count = given->grade_count,
	    .example_count = reader.order.example_count,
	    .query_count = reader.order.list_count};
	reader.examples = serm_arena_array(arena, set->example_count, sizeof(SermEncoderExample));
	set->examples = reader.examples;
	if (reader.examples == NULL || !reorder(&reader, given->rank, 1, &set->rank) ||
	    !reorder(&reader, given->teacher, given->grade_count, &set->teacher) ||
	    !reorder(&reader, given->reference, 1, &set->reference))
		return serm_train_out_of_memory(error);
	set->distilled = given->judged != NULL;
	status = read_judged(&reader, error);
	if (status == SERM_OK)
		status = read_weights(&reader, error);
	serm_arena_init(&scratch, arena->allocator, arena->limit);
	for (uint32_t list = 0; status == SERM_OK && list < set->query_count; list++)
		status = read_list(&reader, list, &scratch, error);
	serm_arena_free(&scratch);
	return status;
}

/* --- parts */

static bool
allocate_part(const SermEncoderSet *whole, uint32_t count, SermArena *arena, SermEncoderSet *part)
{
	*part = *whole;
	part->example_count = count;
	part->examples = serm_arena_array(arena, count, sizeof(SermEncoderExample));
	if (whole->rank != NULL)
		part->rank = serm_arena_array(arena, count, sizeof(float));
	if (whole->reference != NULL)
		part->reference = serm_arena_array(arena, count, sizeof(float));
	if (whole->teacher != NULL)
		part->teacher = serm_arena_array(arena, (size_t) count * whole->grade_count, sizeof(float));
	return part->examples != NULL && (whole->rank == NULL || part->rank != NULL) &&
	       (whole->reference == NULL || part->reference != NULL) &&
	       (whole->teacher == NULL || part->teacher != NULL);
}

static void
copy_example(const SermEncoderSet *whole, uint32_t from, SermEncoderSet *part, uint32_t to)
{
	size_t grades = whole->grade_count;

	((SermEncoderExample *) part->examples)[to] = whole->examples[from];
	if (whole->rank != NULL)
		((float *) part->rank)[to] = whole->rank[from];
	if (whole->reference != NULL)
		((float *) part->reference)[to] = whole->reference[from];
	if (whole->teacher != NULL)
		memcpy((float *) part->teacher + to * grades, whole->teacher + from * grades, grades * sizeof(float));
}

SermStatus
serm_encoder_set_hold(const SermEncoderLists *lists, uint32_t parts, SermArena *arena, SermEncoderSet *rest,
    SermEncoderSet *held, SermError *error)
{
	const SermEncoderSet *whole = &lists->set;
	uint32_t count = 0, at[2] = {0, 0};

	for (uint32_t i = 0; i < whole->example_count; i++)
		count += serm_hash_mix(lists->list_key[whole->examples[i].query]) % parts == 0;
	if (!allocate_part(whole, whole->example_count - count, arena, rest) ||
	    !allocate_part(whole, count, arena, held))
		return serm_train_out_of_memory(error);
	for (uint32_t i = 0; i < whole->example_count; i++) {
		bool out = serm_hash_mix(lists->list_key[whole->examples[i].query]) % parts == 0;

		copy_example(whole, i, out ? held : rest, at[out]++);
	}
	return SERM_OK;
}

/* --- hashes */

bool
serm_encoder_hash(const void *bytes, size_t length, const SermTrainHost *host, uint64_t *hash)
{
	for (size_t at = 0; at < length; at += QUIET_BYTES) {
		size_t part = length - at < QUIET_BYTES ? length - at : QUIET_BYTES;

		if (!host->keep_going(host->context))
			return false;
		*hash = serm_hash_bytes((const char *) bytes + at, part, *hash);
	}
	*hash = serm_hash_mix(*hash + length);
	return true;
}

bool
serm_encoder_set_hash(const SermEncoderSet *set, const SermTrainHost *host, uint64_t *hash)
{
	size_t n = set->example_count, grades = set->grade_count;
	bool good = true;

	for (size_t i = 0; good && i < n; i++) {
		const SermEncoderExample *example = &set->examples[i];
		uint32_t length = example->input.length;

		good =
		    serm_encoder_hash(example->input.ids, length * sizeof(uint32_t), host, hash) &&
		    (example->input.types == NULL || serm_encoder_hash(example->input.types, length, host, hash)) &&
		    serm_encoder_hash(example->target, grades * sizeof(float), host, hash);
		*hash = serm_hash_bytes(&example->weight, sizeof(float), *hash ^ example->query);
		if (set->distilled)
			*hash = serm_hash_bytes(&example->teacher_weight, sizeof(float), *hash ^ example->unjudged);
	}
	if (good && set->rank != NULL)
		good = serm_encoder_hash(set->rank, n * sizeof(float), host, hash);
	if (good && set->teacher != NULL)
		good = serm_encoder_hash(set->teacher, n * grades * sizeof(float), host, hash);
	if (good && set->reference != NULL)
		good = serm_encoder_hash(set->reference, n * sizeof(float), host, hash);
	return good;
}
