/*
 * The first byte chooses what the rest is: a safetensors file, its index, or a config.json. What is accepted
 * must be consistent: tensors inside the file without overlap; a config that is written and read back.
 */
#include <stdint.h>
#include <string.h>

#include "core/model/cross_encoder_config.h"
#include "core/model/safetensors.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void
read_file(const uint8_t *bytes, size_t length, SermArena *arena)
{
	SermFileTensors tensors;
	size_t header, sum = 0;
	SermError error;

	if (serm_safetensors_header_length(bytes, length, &header, &error) != SERM_OK ||
		serm_safetensors_read((SermText){(const char *) bytes + 8, header}, length, arena, &tensors, &error) != SERM_OK)
		return;
	for (uint32_t i = 0; i < tensors.count; i++) {
		if (tensors.tensors[i].offset > length || tensors.tensors[i].bytes > length - tensors.tensors[i].offset)
			__builtin_trap();
		sum += tensors.tensors[i].bytes;
	}
	if (sum != length - 8 - header)
		__builtin_trap();
}

static void
read_config(SermText text, SermArena *arena)
{
	SermEncoderConfig config, again;
	SermEncoderTensor tensor;
	SermError error;
	size_t length;
	char *json;

	if (serm_encoder_config_read(text.bytes, text.length, arena, &config, &error) != SERM_OK)
		return;
	json = serm_encoder_config_write(&config, arena, &length);
	if (json == NULL || serm_encoder_config_read(json, length, arena, &again, &error) != SERM_OK ||
		config.hidden != again.hidden || config.eps != again.eps || config.labels != again.labels)
		__builtin_trap();
	serm_encoder_tensor(&config, serm_encoder_tensor_count(&config) - 1, &tensor);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	SermShards shards;
	SermError error;
	SermArena arena;
	SermText text = {(const char *) bytes + 1, length - 1};

	if (length < 9)
		return 0;
	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 256 << 20);
	if (bytes[0] % 3 == 0)
		read_file(bytes + 1, length - 1, &arena);
	else if (bytes[0] % 3 == 1)
		(void) serm_safetensors_index(text, &arena, &shards, &error);
	else
		read_config(text, &arena);
	serm_arena_free(&arena);
	return 0;
}
