/* Each rule of the reader has a file that breaks it, and only it. */
#include "core/model/safetensors.h"
#include "unit.h"

static SermArena arena;

/* Read `header` as a file with `data` bytes behind it. */
static SermStatus
read_file(const char *header, uint64_t data, SermFileTensors *tensors, SermError *error)
{
	*error = (SermError){0};
	return serm_safetensors_read(
	    (SermText){header, strlen(header)}, 8 + strlen(header) + data, &arena, tensors, error);
}

static void
refused(const char *header, uint64_t data, SermStatus expected, const char *fragment)
{
	SermFileTensors tensors;
	SermError error;
	SermStatus status = read_file(header, data, &tensors, &error);

	CHECK(status == expected && strstr(error.message, fragment) != NULL, "refused: %s", fragment);
	if (status != expected || strstr(error.message, fragment) == NULL)
		printf("# %d %s\n", status, error.message);
}

#define TENSOR(name, dtype, shape, begin, end)                                                               \
	"\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"
#define GOOD TENSOR("a", "F32", "[2,3]", 0, 24)

static void
test_good(void)
{
	SermFileTensors tensors;
	SermError error;
	const SermFileTensor *t;

	CHECK(read_file("{\"__metadata__\":{\"format\":\"pt\"}," TENSOR(
	                    "b.weight", "BF16", "[4]", 24, 32) "," GOOD "," TENSOR("empty", "F16", "[0,9]", 24,
	                    24) "," TENSOR("s", "I64", "[]", 32, 40) "}   ",
	          40, &tensors, &error) == SERM_OK,
	    "a file of four tensors");
	t = tensors.tensors;
	CHECK(tensors.count == 4 && strcmp(t[0].name, "a") == 0 && strcmp(t[1].name, "empty") == 0 &&
	          strcmp(t[2].name, "b.weight") == 0 && strcmp(t[3].name, "s") == 0,
	    "in the order of their bytes");
	CHECK(t[0].dtype == SERM_DTYPE_F32 && t[0].rank == 2 && t[0].shape[0] == 2 && t[0].shape[1] == 3 &&
	          t[0].bytes == 24 && t[2].offset - t[0].offset == 24 && t[3].rank == 0 && t[3].bytes == 8,
	    "with type, shape and place");
	CHECK(read_file("{}", 0, &tensors, &error) == SERM_OK && tensors.count == 0, "a file may have none");
}

static void
test_header_length(void)
{
	unsigned char prefix[8] = {16};
	size_t length = 0;
	SermError error;

	CHECK(serm_safetensors_header_length(prefix, 24, &length, &error) == SERM_OK && length == 16,
	    "a header of 16 bytes");
	CHECK(serm_safetensors_header_length(prefix, 23, &length, &error) == SERM_ERR_CORRUPT,
	    "cut off by one byte");
	CHECK(serm_safetensors_header_length(prefix, 7, &length, &error) == SERM_ERR_CORRUPT,
	    "no room for the length");
	prefix[3] = 1;
	CHECK(serm_safetensors_header_length(prefix, UINT64_MAX, &length, &error) == SERM_ERR_LIMIT,
	    "one larger than the limit");
	memset(prefix, 0xff, 8);
	CHECK(serm_safetensors_header_length(prefix, UINT64_MAX, &length, &error) == SERM_ERR_LIMIT,
	    "and one of 2^64 - 1");
}

static void
test_broken(void)
{
	char *many = malloc(1 << 20), name[300], header[600];
	size_t used = 1;

	refused("", 0, SERM_ERR_CORRUPT, "no JSON object");
	refused(" {}", 0, SERM_ERR_CORRUPT, "no JSON object");
	refused("{" GOOD, 24, SERM_ERR_CORRUPT, "not acceptable as JSON");
	refused("{" GOOD "," GOOD "}", 24, SERM_ERR_CORRUPT, "occurs twice");
	refused("{" GOOD "," TENSOR("\\u0061", "F32", "[2,3]", 24, 48) "}", 48, SERM_ERR_CORRUPT, "occurs twice");
	refused("{\"a\":1}", 0, SERM_ERR_CORRUPT, "is not dtype, shape and data_offsets");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, SERM_ERR_CORRUPT,
	    "is not dtype, shape and data_offsets");
	refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, SERM_ERR_CORRUPT,
	    "is not dtype, shape and data_offsets");
	refused("{" TENSOR("a", "F8_E4M3", "[4]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "unknown dtype");
	refused("{" TENSOR("a", "f32", "[1]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "unknown dtype");
	refused("{" TENSOR("a", "F32", "[1,1,1,1,1]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[-1]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[1.0]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[9223372036854775808,2]", 0, 0) "}", 0, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[18446744073709551615,0]", 0, 0) "}", 0, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[2147483649]", 0, 0) "}", 0, SERM_ERR_CORRUPT, "no shape");
	refused("{" TENSOR("a", "F32", "[2,3]", 0, 24) "}", 23, SERM_ERR_CORRUPT, "does not lie inside");
	refused("{" TENSOR("a", "F32", "[2,3]", 24, 0) "}", 24, SERM_ERR_CORRUPT, "does not lie inside");
	refused("{" TENSOR("a", "F32", "[2,3]", 0, 18446744073709551616) "}", 24, SERM_ERR_CORRUPT,
	    "does not lie inside");
	refused("{" TENSOR("a", "F32", "[2,3]", 18446744073709551600, 18446744073709551615) "}", 24,
	    SERM_ERR_CORRUPT, "does not lie inside");
	refused("{" TENSOR("a", "F32", "[2,3]", 0, 20) "}", 24, SERM_ERR_CORRUPT, "bytes that its shape needs");
	refused("{" GOOD "," TENSOR("b", "F32", "[2]", 20, 28) "}", 28, SERM_ERR_CORRUPT, "overlaps");
	refused("{" GOOD "," TENSOR("b", "F32", "[6]", 0, 24) "}", 24, SERM_ERR_CORRUPT, "overlaps");
	refused("{" GOOD "," TENSOR("b", "F32", "[1]", 28, 32) "}", 32, SERM_ERR_CORRUPT, "belong to no tensor");
	refused("{" TENSOR("b", "F32", "[1]", 4, 8) "}", 8, SERM_ERR_CORRUPT, "belong to no tensor");
	refused("{" GOOD "}", 25, SERM_ERR_CORRUPT, "1 bytes behind the last tensor");
	refused("{}", 1, SERM_ERR_CORRUPT, "1 bytes behind the last tensor");
	refused("{\"__metadata__\":{\"a\":1}}", 0, SERM_ERR_CORRUPT, "metadata");
	refused("{\"__metadata__\":[]}", 0, SERM_ERR_CORRUPT, "metadata");
	refused("{" TENSOR("", "F32", "[1]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "name is empty");
	refused("{" TENSOR("a\\nb", "F32", "[1]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "name is empty");
	refused("{" TENSOR("a\\u0000", "F32", "[1]", 0, 4) "}", 4, SERM_ERR_CORRUPT, "name is empty");
	memset(name, 'n', 201);
	name[201] = '\0';
	snprintf(
	    header, sizeof(header), "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
	refused(header, 4, SERM_ERR_CORRUPT, "longer than 200 bytes");
	many[0] = '{';
	for (int i = 0; i < SERM_TENSORS_MAX + 2; i++)
		used += (size_t) snprintf(many + used, (1 << 20) - used,
		    "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i > 0 ? "," : "", i);
	snprintf(many + used, (1 << 20) - used, "}");
	refused(many, 0, SERM_ERR_LIMIT, "more than 4096 tensors");
	free(many);
}

/* --- several files */

static SermStatus
join(const char *index, SermFileTensors *all, SermError *error)
{
	SermFileTensors files[2];
	SermShards shards;
	SermStatus status;
	SermError other;

	*error = (SermError){0};
	(void) read_file("{" GOOD "," TENSOR("b", "F32", "[1]", 24, 28) "}", 28, &files[0], &other);
	(void) read_file("{" TENSOR("c", "F16", "[1]", 0, 2) "}", 2, &files[1], &other);
	status = serm_safetensors_index((SermText){index, strlen(index)}, &arena, &shards, error);
	if (status != SERM_OK)
		return status;
	if (shards.file_count != 2)
		return SERM_ERR_NO_DATA;
	return serm_safetensors_join(&shards, files, &arena, all, error);
}

static void
index_refused(const char *index, const char *fragment)
{
	SermFileTensors all;
	SermError error;
	SermStatus status = join(index, &all, &error);

	CHECK(
	    status == SERM_ERR_CORRUPT && strstr(error.message, fragment) != NULL, "index refused: %s", fragment);
	if (status != SERM_ERR_CORRUPT || strstr(error.message, fragment) == NULL)
		printf("# %d %s\n", status, error.message);
}

static void
test_index(void)
{
	SermFileTensors all, twice[2];
	SermShards shards;
	SermError error;

	CHECK(join("{\"metadata\":{\"total_size\":30},\"weight_map\":{\"b\":\"m-1.safetensors\",\"c\":\"m-2."
	           "safetensors\","
	           "\"a\":\"m-1.safetensors\"}}",
	          &all, &error) == SERM_OK &&
	          all.count == 3 && all.tensors[2].shard == 1 && strcmp(all.tensors[2].name, "c") == 0,
	    "two files are put together");
	index_refused("{\"weight_map\":{}}", "no weight_map");
	index_refused("{}", "no weight_map");
	index_refused("[]", "no weight_map");
	index_refused("{\"weight_map\":{\"a\":\"../m\"}}", "a tensor or a file that cannot be one");
	index_refused("{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "a tensor or a file that cannot be one");
	index_refused("{\"weight_map\":{\"a\":\"x/m\"}}", "a tensor or a file that cannot be one");
	index_refused("{\"weight_map\":{\"a\":\".m\"}}", "a tensor or a file that cannot be one");
	index_refused("{\"weight_map\":{\"a\":\"\"}}", "a tensor or a file that cannot be one");
	index_refused("{\"weight_map\":{\"a\":7}}", "a tensor or a file that cannot be one");
	index_refused("{\"weight_map\":{\"a\":\"m\",\"a\":\"m\"}}", "occurs twice");
	index_refused("{\"weight_map\":{\"a\":\"m1\",\"b\":\"m2\",\"c\":\"m2\"}}", "not where it should be");
	index_refused("{\"weight_map\":{\"a\":\"m1\",\"c\":\"m2\"}}", "differ");
	index_refused("{\"weight_map\":{\"a\":\"m1\",\"b\":\"m1\",\"c\":\"m2\",\"d\":\"m2\"}}", "differ");
	(void) read_file("{" GOOD "}", 24, &twice[0], &error);
	twice[1] = twice[0];
	CHECK(serm_safetensors_index((SermText){"{\"weight_map\":{\"a\":\"m1\",\"b\":\"m2\"}}", 34}, &arena,
	          &shards, &error) == SERM_OK &&
	          serm_safetensors_join(&shards, twice, &arena, &all, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "two files") != NULL,
	    "a tensor in two files is refused");
}

int
main(void)
{
	arena = unit_arena();
	test_good();
	test_header_length();
	test_broken();
	test_index();
	serm_arena_free(&arena);
	DONE();
}
