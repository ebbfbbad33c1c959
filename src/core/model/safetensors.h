/*
 * The header of a safetensors file: 8 bytes little-endian length, a JSON
 * object of that length, then the data, which the header divides without gap
 * or overlap. Weights in several files come with an index that says which
 * tensor lies in which file.
 *
 * Everything is taken as hostile: lengths are bounded, products checked, names
 * unique, and not one byte of the data may belong to no tensor or to two.
 */
#ifndef SERM_CORE_MODEL_SAFETENSORS_H
#define SERM_CORE_MODEL_SAFETENSORS_H

#include "core/model/tensor.h"
#include "core/text/text.h"

#define SERM_SAFETENSORS_PREFIX 8
#define SERM_SAFETENSORS_HEADER_MAX ((uint64_t) 1 << 20)
#define SERM_SAFETENSORS_NAME_MAX 200
#define SERM_SAFETENSORS_ELEMENTS_MAX (UINT64_C(1) << 31)
#define SERM_SAFETENSORS_SHARDS_MAX 256

typedef struct SermFileTensor {
	const char *name; /* ends with a NUL; printable ASCII */
	SermDtype dtype;
	uint32_t rank;
	uint64_t shape[SERM_TENSOR_RANK_MAX];
	uint64_t offset; /* of its first byte in the file */
	size_t bytes;
	uint32_t shard; /* number of the file, as the caller counts them */
} SermFileTensor;

typedef struct SermFileTensors {
	SermFileTensor *tensors; /* by offset */
	uint32_t count;
} SermFileTensors;

/*
 * Length of the JSON behind the first 8 bytes of a file of `file_length` bytes. Error: CORRUPT, LIMIT.
 */
extern SermStatus serm_safetensors_header_length(const unsigned char prefix[SERM_SAFETENSORS_PREFIX],
    uint64_t file_length, size_t *length, SermError *error);

/*
 * Read the JSON header of a file of `file_length` bytes. Errors: CORRUPT, naming the tensor; LIMIT; MEMORY.
 */
extern SermStatus serm_safetensors_read(
    SermText header, uint64_t file_length, SermArena *arena, SermFileTensors *tensors, SermError *error);

/* The files that an index (model.safetensors.index.json) names, and which tensor lies in which. */
typedef struct SermShards {
	const char **files; /* plain file names, end with a NUL */
	uint32_t file_count;
	const char **names; /* of the tensors */
	uint32_t *file_of;
	uint32_t count;
} SermShards;

extern SermStatus serm_safetensors_index(
    SermText json, SermArena *arena, SermShards *shards, SermError *error);
/*
 * Put the tensors of all files (in the order of shards->files) together. Errors: CORRUPT when the index and
 * the files differ, or two files have the same tensor.
 */
extern SermStatus serm_safetensors_join(const SermShards *shards, const SermFileTensors *files,
    SermArena *arena, SermFileTensors *all, SermError *error);

#endif
