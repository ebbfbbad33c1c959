#include "core/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "core/model/json.h"

static const struct {
	const char *name;
	SermDtype dtype;
} dtypes[] = {{"F32", SERM_DTYPE_F32}, {"F64", SERM_DTYPE_F64}, {"F16", SERM_DTYPE_F16},
    {"BF16", SERM_DTYPE_BF16}, {"I8", SERM_DTYPE_I8}, {"U8", SERM_DTYPE_U8}, {"BOOL", SERM_DTYPE_U8},
    {"I32", SERM_DTYPE_I32}, {"U32", SERM_DTYPE_U32}, {"I64", SERM_DTYPE_I64}, {"U64", SERM_DTYPE_U64}};

SermStatus
serm_safetensors_header_length(const unsigned char prefix[SERM_SAFETENSORS_PREFIX], uint64_t file_length,
    size_t *length, SermError *error)
{
	uint64_t value = 0;

	if (file_length < SERM_SAFETENSORS_PREFIX)
		return serm_fail(error, SERM_ERR_CORRUPT, "a safetensors file has no header");
	for (int i = SERM_SAFETENSORS_PREFIX - 1; i >= 0; i--)
		value = value << 8 | prefix[i];
	if (value > SERM_SAFETENSORS_HEADER_MAX)
		return serm_fail(error, SERM_ERR_LIMIT,
		    "the header of a safetensors file has %llu bytes: there may be %llu", (unsigned long long) value,
		    (unsigned long long) SERM_SAFETENSORS_HEADER_MAX);
	if (value > file_length - SERM_SAFETENSORS_PREFIX)
		return serm_fail(error, SERM_ERR_CORRUPT, "the header of a safetensors file is cut off");
	*length = (size_t) value;
	return SERM_OK;
}

/* A copy of a name that is printable ASCII without quotes, or NULL. */
static const char *
copy_name(const SermJson *json, uint32_t node, SermArena *arena)
{
	SermText name = serm_json_string(json, node, arena);

	if (name.length == 0 || name.length > SERM_SAFETENSORS_NAME_MAX)
		return NULL;
	for (size_t i = 0; i < name.length; i++)
		if (name.bytes[i] <= ' ' || name.bytes[i] > '~' || name.bytes[i] == '"')
			return NULL;
	return serm_arena_copy(arena, name.bytes, name.length);
}

static bool
read_dtype(const SermJson *json, uint32_t object, SermDtype *dtype)
{
	uint32_t node = serm_json_member(json, object, "dtype");

	for (unsigned i = 0; node != SERM_JSON_ABSENT && i < SERM_LENGTH(dtypes); i++)
		if (serm_json_equals(json, node, dtypes[i].name)) {
			*dtype = dtypes[i].dtype;
			return true;
		}
	return false;
}

/* At most SERM_TENSOR_RANK_MAX extents whose product stays below the limit of elements. */
static bool
read_shape(const SermJson *json, uint32_t object, SermFileTensor *tensor)
{
	uint32_t node = serm_json_member(json, object, "shape");
	uint64_t elements = 1;

	if (node == SERM_JSON_ABSENT || serm_json_type(json, node) != SERM_JSON_ARRAY ||
	    json->nodes[node].count > SERM_TENSOR_RANK_MAX)
		return false;
	tensor->rank = 0;
	for (uint32_t item = serm_json_first(json, node); item != SERM_JSON_ABSENT;
	     item = serm_json_next(json, node, item)) {
		uint64_t *size = &tensor->shape[tensor->rank++];

		if (!serm_json_integer(json, item, size) || __builtin_mul_overflow(elements, *size, &elements) ||
		    elements > SERM_SAFETENSORS_ELEMENTS_MAX || *size > SERM_SAFETENSORS_ELEMENTS_MAX)
			return false;
	}
	return serm_tensor_bytes(tensor->dtype, tensor->rank, tensor->shape, &tensor->bytes);
}

static bool
read_offsets(const SermJson *json, uint32_t object, uint64_t *begin, uint64_t *end)
{
	uint32_t node = serm_json_member(json, object, "data_offsets"), first;

	if (node == SERM_JSON_ABSENT || serm_json_type(json, node) != SERM_JSON_ARRAY ||
	    json->nodes[node].count != 2)
		return false;
	first = serm_json_first(json, node);
	return serm_json_integer(json, first, begin) &&
	       serm_json_integer(json, serm_json_next(json, node, first), end);
}

static SermStatus
read_tensor(const SermJson *json, uint32_t key, uint64_t data_start, uint64_t data_length, SermArena *arena,
    SermFileTensor *tensor, SermError *error)
{
	const uint32_t object = key + 1;
	uint64_t begin, end;

	tensor->name = copy_name(json, key, arena);
	if (tensor->name == NULL)
		return serm_fail(error, SERM_ERR_CORRUPT,
		    "a tensor's name is empty, longer than %d bytes or has characters that no name has",
		    SERM_SAFETENSORS_NAME_MAX);
	if (serm_json_type(json, object) != SERM_JSON_OBJECT || json->nodes[object].count != 3)
		return serm_fail(
		    error, SERM_ERR_CORRUPT, "tensor \"%s\" is not dtype, shape and data_offsets", tensor->name);
	if (!read_dtype(json, object, &tensor->dtype))
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has an unknown dtype", tensor->name);
	if (!read_shape(json, object, tensor))
		return serm_fail(error, SERM_ERR_CORRUPT,
		    "tensor \"%s\" has no shape of at most %d dimensions and 2^31 elements", tensor->name,
		    SERM_TENSOR_RANK_MAX);
	if (!read_offsets(json, object, &begin, &end) || begin > end || end > data_length)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" does not lie inside the file", tensor->name);
	if (end - begin != tensor->bytes)
		return serm_fail(error, SERM_ERR_CORRUPT,
		    "tensor \"%s\" does not have the bytes that its shape needs", tensor->name);
	tensor->offset = data_start + begin;
	return SERM_OK;
}

static int
compare_offsets(const void *a, const void *b)
{
	const SermFileTensor *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	/* Empty ones before the one that begins at the same byte. */
	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Without gap or overlap from the first byte of the data to the last of the file. */
static SermStatus
check_cover(const SermFileTensors *tensors, uint64_t data_start, uint64_t file_length, SermError *error)
{
	uint64_t at = data_start;

	for (uint32_t i = 0; i < tensors->count; i++) {
		if (tensors->tensors[i].offset < at)
			return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" overlaps the one before it",
			    tensors->tensors[i].name);
		if (tensors->tensors[i].offset > at)
			return serm_fail(error, SERM_ERR_CORRUPT,
			    "there are bytes that belong to no tensor before \"%s\"", tensors->tensors[i].name);
		at += tensors->tensors[i].bytes;
	}
	return at == file_length
	           ? SERM_OK
	           : serm_fail(error, SERM_ERR_CORRUPT, "there are %llu bytes behind the last tensor",
	                 (unsigned long long) (file_length - at));
}

/* {"format": "pt"}: an object of strings. */
static bool
check_metadata(const SermJson *json, uint32_t object)
{
	if (serm_json_type(json, object) != SERM_JSON_OBJECT)
		return false;
	for (uint32_t key = serm_json_first(json, object); key != SERM_JSON_ABSENT;
	     key = serm_json_next(json, object, key + 1))
		if (serm_json_type(json, key + 1) != SERM_JSON_STRING)
			return false;
	return true;
}

SermStatus
serm_safetensors_read(
    SermText header, uint64_t file_length, SermArena *arena, SermFileTensors *tensors, SermError *error)
{
	uint64_t data_start;
	SermStatus status;
	SermJson json;

	if (header.length > SERM_SAFETENSORS_HEADER_MAX || file_length < SERM_SAFETENSORS_PREFIX + header.length)
		return serm_fail(error, SERM_ERR_CORRUPT, "the header of a safetensors file is cut off");
	data_start = SERM_SAFETENSORS_PREFIX + header.length;
	if (header.length == 0 || header.bytes[0] != '{')
		return serm_fail(error, SERM_ERR_CORRUPT, "the header of a safetensors file is no JSON object");
	status = serm_json_parse(header, NULL, arena, &json, error);
	if (status != SERM_OK)
		return status;
	if (json.nodes[0].count > SERM_TENSORS_MAX + 1)
		return serm_fail(
		    error, SERM_ERR_LIMIT, "a safetensors file has more than %d tensors", SERM_TENSORS_MAX);
	tensors->count = 0;
	tensors->tensors = serm_arena_array(arena, (size_t) json.nodes[0].count + 1, sizeof(SermFileTensor));
	if (tensors->tensors == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the header of a safetensors file");
	for (uint32_t key = serm_json_first(&json, 0); key != SERM_JSON_ABSENT;
	     key = serm_json_next(&json, 0, key + 1)) {
		if (serm_json_equals(&json, key, "__metadata__")) {
			if (!check_metadata(&json, key + 1))
				return serm_fail(
				    error, SERM_ERR_CORRUPT, "the metadata of a safetensors file is no object of strings");
			continue;
		}
		status = read_tensor(&json, key, data_start, file_length - data_start, arena,
		    &tensors->tensors[tensors->count++], error);
		if (status != SERM_OK)
			return status;
	}
	qsort(tensors->tensors, tensors->count, sizeof(SermFileTensor), compare_offsets);
	return check_cover(tensors, data_start, file_length, error);
}

/* --- several files */

/* A name without a directory, so that an index cannot name any other file of the server. */
static const char *
copy_file_name(const SermJson *json, uint32_t node, SermArena *arena)
{
	const char *name = copy_name(json, node, arena);

	if (name == NULL || name[0] == '.' || strchr(name, '/') != NULL || strchr(name, '\\') != NULL)
		return NULL;
	return name;
}

SermStatus
serm_safetensors_index(SermText text, SermArena *arena, SermShards *shards, SermError *error)
{
	SermStatus status;
	uint32_t map, count;
	SermJson json;

	if (text.length > SERM_SAFETENSORS_HEADER_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "the index of the weights is larger than %llu bytes",
		    (unsigned long long) SERM_SAFETENSORS_HEADER_MAX);
	status = serm_json_parse(text, NULL, arena, &json, error);
	if (status != SERM_OK)
		return status;
	map = serm_json_value(&json, 0, "weight_map");
	if (map == SERM_JSON_ABSENT || serm_json_type(&json, map) != SERM_JSON_OBJECT ||
	    json.nodes[map].count == 0)
		return serm_fail(error, SERM_ERR_CORRUPT, "the index of the weights has no weight_map");
	count = json.nodes[map].count;
	if (count > SERM_TENSORS_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "the index names more than %d tensors", SERM_TENSORS_MAX);
	*shards = (SermShards){serm_arena_array(arena, SERM_SAFETENSORS_SHARDS_MAX, sizeof(char *)), 0,
	    serm_arena_array(arena, count, sizeof(char *)), serm_arena_array(arena, count, sizeof(uint32_t)), 0};
	if (shards->files == NULL || shards->names == NULL || shards->file_of == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the index of the weights");
	for (uint32_t key = serm_json_first(&json, map); key != SERM_JSON_ABSENT;
	     key = serm_json_next(&json, map, key + 1)) {
		const char *name = copy_name(&json, key, arena), *file = copy_file_name(&json, key + 1, arena);
		uint32_t at = 0;

		if (name == NULL || file == NULL)
			return serm_fail(
			    error, SERM_ERR_CORRUPT, "the index names a tensor or a file that cannot be one");
		while (at < shards->file_count && strcmp(shards->files[at], file) != 0)
			at++;
		if (at == SERM_SAFETENSORS_SHARDS_MAX)
			return serm_fail(
			    error, SERM_ERR_LIMIT, "the index names more than %d files", SERM_SAFETENSORS_SHARDS_MAX);
		shards->files[at] = file;
		shards->file_count += at == shards->file_count;
		shards->names[shards->count] = name;
		shards->file_of[shards->count++] = at;
	}
	return SERM_OK;
}

typedef struct Placed {
	const char *name;
	uint32_t file;
} Placed;

static int
compare_placed(const void *a, const void *b)
{
	return strcmp(((const Placed *) a)->name, ((const Placed *) b)->name);
}

SermStatus
serm_safetensors_join(const SermShards *shards, const SermFileTensors *files, SermArena *arena,
    SermFileTensors *all, SermError *error)
{
	Placed *expected = serm_arena_array(arena, (size_t) shards->count + 1, sizeof(Placed));
	Placed *found;
	size_t count = 0;

	for (uint32_t i = 0; i < shards->file_count; i++)
		count += files[i].count;
	found = serm_arena_array(arena, count + 1, sizeof(Placed));
	all->tensors = serm_arena_array(arena, count + 1, sizeof(SermFileTensor));
	all->count = 0;
	if (expected == NULL || found == NULL || all->tensors == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the index of the weights");
	for (uint32_t i = 0; i < shards->count; i++)
		expected[i] = (Placed){shards->names[i], shards->file_of[i]};
	for (uint32_t file = 0; file < shards->file_count; file++)
		for (uint32_t i = 0; i < files[file].count; i++) {
			found[all->count] = (Placed){files[file].tensors[i].name, file};
			all->tensors[all->count] = files[file].tensors[i];
			all->tensors[all->count++].shard = file;
		}
	qsort(expected, shards->count, sizeof(Placed), compare_placed);
	qsort(found, count, sizeof(Placed), compare_placed);
	for (size_t i = 1; i < count; i++)
		if (strcmp(found[i].name, found[i - 1].name) == 0)
			return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" lies in two files", found[i].name);
	for (size_t i = 0; i < count && i < shards->count; i++)
		if (strcmp(found[i].name, expected[i].name) != 0 || found[i].file != expected[i].file)
			return serm_fail(error, SERM_ERR_CORRUPT,
			    "the index of the weights and the files differ: tensor \"%s\" is not where it should be",
			    expected[i].name);
	return count == shards->count ? SERM_OK
	                              : serm_fail(error, SERM_ERR_CORRUPT,
	                                    "the index of the weights and the files differ: %u tensors and %zu",
	                                    shards->count, count);
}
