#include "core/model/tensor.h"
#include "unit.h"

static void
test_types(void)
{
	static const struct {
		const char *name;
		size_t size;
	} expected[] = {{"f32", 4}, {"f64", 8}, {"f16", 2}, {"bf16", 2}, {"i8", 1}, {"u8", 1}, {"i32", 4},
	    {"u32", 4}, {"i64", 8}, {"u64", 8}};
	SermDtype dtype;

	CHECK(SERM_LENGTH(expected) == SERM_DTYPE_COUNT, "every type is tested");
	for (unsigned i = 0; i < SERM_LENGTH(expected); i++)
		CHECK(strcmp(serm_dtype_name((SermDtype) i), expected[i].name) == 0 &&
		          serm_dtype_size((SermDtype) i) == expected[i].size &&
		          serm_dtype_parse(expected[i].name, &dtype) && dtype == (SermDtype) i,
		    "type %s keeps its number, size and name", expected[i].name);
	CHECK(!serm_dtype_parse("F32", &dtype) && !serm_dtype_parse("", &dtype), "other names are refused");
	CHECK(serm_dtype_size((SermDtype) 99) == 0 && strcmp(serm_dtype_name((SermDtype) 99), "unknown") == 0,
	    "a number beyond the list has no size");
}

static void
test_bytes(void)
{
	const uint64_t shape[] = {3, 4, 5, 6}, huge[] = {UINT64_C(1) << 32, UINT64_C(1) << 32};
	size_t bytes = 0;

	CHECK(serm_tensor_bytes(SERM_DTYPE_F32, 4, shape, &bytes) && bytes == 1440, "product times size");
	CHECK(serm_tensor_bytes(SERM_DTYPE_F64, 0, shape, &bytes) && bytes == 8, "a scalar has one element");
	CHECK(serm_tensor_bytes(SERM_DTYPE_I8, 2, (const uint64_t[]){0, 7}, &bytes) && bytes == 0,
	    "empty is allowed");
	CHECK(!serm_tensor_bytes(SERM_DTYPE_I8, 2, huge, &bytes), "an overflowing product is refused");
	CHECK(!serm_tensor_bytes(SERM_DTYPE_U64, 1, (const uint64_t[]){UINT64_C(1) << 61}, &bytes),
	    "and an overflow by the element size");
	CHECK(!serm_tensor_bytes(SERM_DTYPE_F32, 5, shape, &bytes), "more than four dimensions are refused");
	CHECK(!serm_tensor_bytes((SermDtype) 10, 1, shape, &bytes), "an unknown type is refused");
}

static bool
refused(SermTensor tensor, SermDtype dtype, uint32_t rank, const uint64_t *shape, const char *fragment)
{
	SermTensorSet set = {&tensor, 1};
	const SermTensor *found = NULL;
	SermError error = {0};

	return serm_tensor_require(&set, "w", dtype, rank, shape, &found, &error) == SERM_ERR_CORRUPT &&
	       error.status == SERM_ERR_CORRUPT && found == NULL && strstr(error.message, "\"w\"") != NULL &&
	       strstr(error.message, fragment) != NULL;
}

static void
test_require(void)
{
	static _Alignas(64) const float data[12];
	const uint64_t shape[] = {3, 4}, open_shape[] = {0, 4}, wrong[] = {3, 5};
	SermTensor good = {
	    .name = "w", .dtype = SERM_DTYPE_F32, .rank = 2, .shape = {3, 4}, .data = data, .bytes = 48};
	SermTensor set_of[] = {{.name = "v"}, good};
	SermTensorSet set = {set_of, 2};
	const SermTensor *found = NULL;
	SermTensor bad;
	SermError error = {0};

	CHECK(serm_tensor_require(&set, "w", SERM_DTYPE_F32, 2, shape, &found, &error) == SERM_OK &&
	          found == &set_of[1],
	    "a tensor is found by name and shape");
	CHECK(serm_tensor_require(&set, "w", SERM_DTYPE_F32, 2, open_shape, &found, &error) == SERM_OK,
	    "0 accepts any extent");
	CHECK(serm_tensor_find(&set, "w2") == NULL && serm_tensor_find(&set, "") == NULL, "names match wholly");
	CHECK(serm_tensor_require(&set, "x", SERM_DTYPE_F32, 2, shape, &found, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "\"x\" is missing") != NULL,
	    "a missing tensor is named");
	CHECK(refused(good, SERM_DTYPE_F64, 2, shape, "f32 where f64"), "another type");
	CHECK(refused(good, SERM_DTYPE_F32, 1, shape, "2 dimensions"), "another rank");
	CHECK(refused(good, SERM_DTYPE_F32, 2, wrong, "dimension 2"), "another shape");
	bad = good;
	bad.bytes = 47;
	CHECK(refused(bad, SERM_DTYPE_F32, 2, shape, "bytes"), "too few bytes");
	bad = good;
	bad.data = NULL;
	CHECK(refused(bad, SERM_DTYPE_F32, 2, shape, "data"), "no data");
	bad = good;
	bad.data = (const char *) data + 1;
	CHECK(refused(bad, SERM_DTYPE_F32, 2, shape, "aligned"), "data out of step");
	bad = good;
	bad.shape[0] = UINT64_C(1) << 62;
	CHECK(refused(bad, SERM_DTYPE_F32, 2, open_shape, "bytes"), "a shape that overflows");
	bad = good;
	bad.rank = 9;
	CHECK(refused(bad, SERM_DTYPE_F32, 9, shape, "dimensions"), "a rank beyond the limit");
}

int
main(void)
{
	test_types();
	test_bytes();
	test_require();
	DONE();
}
