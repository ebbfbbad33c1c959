/*
 * Named, typed, shaped views of bytes: what a model version is made of,
 * independent of whether the bytes lie in a table, a mapped file or an arena.
 */
#ifndef SERM_CORE_MODEL_TENSOR_H
#define SERM_CORE_MODEL_TENSOR_H

#include "core/base/arena.h"

#define SERM_TENSOR_RANK_MAX 4
#define SERM_TENSOR_NAME_MAX 64
#define SERM_TENSORS_MAX 4096

/* The numbers are stored in serm.tensor.dtype by name; do not reorder. */
typedef enum SermDtype {
	SERM_DTYPE_F32 = 0,
	SERM_DTYPE_F64,
	SERM_DTYPE_F16,
	SERM_DTYPE_BF16,
	SERM_DTYPE_I8,
	SERM_DTYPE_U8,
	SERM_DTYPE_I32,
	SERM_DTYPE_U32,
	SERM_DTYPE_I64,
	SERM_DTYPE_U64,
	SERM_DTYPE_COUNT
} SermDtype;

typedef struct SermTensor {
	char name[SERM_TENSOR_NAME_MAX];
	SermDtype dtype;
	uint32_t rank;
	uint64_t shape[SERM_TENSOR_RANK_MAX];
	const void *data; /* little-endian, row-major, aligned to SERM_ARENA_ALIGN */
	size_t bytes;     /* product of the shape times the element size */
} SermTensor;

typedef struct SermTensorSet {
	const SermTensor *tensors;
	size_t count;
} SermTensorSet;

extern const char *serm_dtype_name(SermDtype dtype); /* "f32", "u32", ... */
extern bool serm_dtype_parse(const char *name, SermDtype *dtype);
extern size_t serm_dtype_size(SermDtype dtype);
/* Bytes of a tensor of this type and shape; false when the product overflows. */
extern bool serm_tensor_bytes(SermDtype dtype, uint32_t rank, const uint64_t *shape, size_t *bytes);
extern const SermTensor *serm_tensor_find(const SermTensorSet *set, const char *name);
/* Find a tensor that must have this type, rank and shape (0 in `shape` accepts any extent), whatever its
 * data. */
extern SermStatus serm_tensor_shaped(const SermTensorSet *set, const char *name, SermDtype dtype,
    uint32_t rank, const uint64_t *shape, const SermTensor **tensor, SermError *error);
/* The same, and its data is there. */
extern SermStatus serm_tensor_require(const SermTensorSet *set, const char *name, SermDtype dtype,
    uint32_t rank, const uint64_t *shape, const SermTensor **tensor, SermError *error);

#endif
