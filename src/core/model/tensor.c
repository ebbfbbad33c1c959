#include "core/model/tensor.h"

#include <string.h>

static const struct {
	const char *name;
	size_t size;
} dtypes[SERM_DTYPE_COUNT] = {
    [SERM_DTYPE_F32] = {"f32", 4},
    [SERM_DTYPE_F64] = {"f64", 8},
    [SERM_DTYPE_F16] = {"f16", 2},
    [SERM_DTYPE_BF16] = {"bf16", 2},
    [SERM_DTYPE_I8] = {"i8", 1},
    [SERM_DTYPE_U8] = {"u8", 1},
    [SERM_DTYPE_I32] = {"i32", 4},
    [SERM_DTYPE_U32] = {"u32", 4},
    [SERM_DTYPE_I64] = {"i64", 8},
    [SERM_DTYPE_U64] = {"u64", 8},
};

static bool
known(SermDtype dtype)
{
	return (unsigned) dtype < SERM_DTYPE_COUNT;
}

const char *
serm_dtype_name(SermDtype dtype)
{
	return known(dtype) ? dtypes[dtype].name : "unknown";
}

bool
serm_dtype_parse(const char *name, SermDtype *dtype)
{
	for (unsigned i = 0; i < SERM_DTYPE_COUNT; i++)
		if (strcmp(dtypes[i].name, name) == 0) {
			*dtype = (SermDtype) i;
			return true;
		}
	return false;
}

size_t
serm_dtype_size(SermDtype dtype)
{
	return known(dtype) ? dtypes[dtype].size : 0;
}

bool
serm_tensor_bytes(SermDtype dtype, uint32_t rank, const uint64_t *shape, size_t *bytes)
{
	size_t product;

	if (!known(dtype) || rank > SERM_TENSOR_RANK_MAX)
		return false;
	product = dtypes[dtype].size;
	for (uint32_t i = 0; i < rank; i++)
		if (__builtin_mul_overflow(product, shape[i], &product))
			return false;
	*bytes = product;
	return true;
}

const SermTensor *
serm_tensor_find(const SermTensorSet *set, const char *name)
{
	for (size_t i = 0; i < set->count; i++)
		if (strncmp(set->tensors[i].name, name, SERM_TENSOR_NAME_MAX) == 0)
			return &set->tensors[i];
	return NULL;
}

SermStatus
serm_tensor_shaped(const SermTensorSet *set, const char *name, SermDtype dtype, uint32_t rank,
    const uint64_t *shape, const SermTensor **tensor, SermError *error)
{
	const SermTensor *found = serm_tensor_find(set, name);
	size_t bytes;

	if (found == NULL)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" is missing", name);
	if (found->dtype != dtype)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has type %s where %s is needed", name,
		    serm_dtype_name(found->dtype), serm_dtype_name(dtype));
	if (found->rank != rank || rank > SERM_TENSOR_RANK_MAX)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has %u dimensions where %u are needed", name,
		    (unsigned) found->rank, (unsigned) rank);
	for (uint32_t i = 0; i < rank; i++)
		if (shape[i] != 0 && found->shape[i] != shape[i])
			return serm_fail(error, SERM_ERR_CORRUPT,
			    "dimension %u of tensor \"%s\" is %llu where %llu is needed", (unsigned) i + 1, name,
			    (unsigned long long) found->shape[i], (unsigned long long) shape[i]);
	if (!serm_tensor_bytes(dtype, rank, found->shape, &bytes) || found->bytes != bytes)
		return serm_fail(
		    error, SERM_ERR_CORRUPT, "tensor \"%s\" does not have the bytes that its shape needs", name);
	*tensor = found;
	return SERM_OK;
}

SermStatus
serm_tensor_require(const SermTensorSet *set, const char *name, SermDtype dtype, uint32_t rank,
    const uint64_t *shape, const SermTensor **tensor, SermError *error)
{
	const SermTensor *found;
	SermStatus status = serm_tensor_shaped(set, name, dtype, rank, shape, &found, error);

	if (status != SERM_OK)
		return status;
	if (found->bytes > 0 && (found->data == NULL || (uintptr_t) found->data % serm_dtype_size(dtype) != 0))
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has no aligned data", name);
	*tensor = found;
	return SERM_OK;
}
