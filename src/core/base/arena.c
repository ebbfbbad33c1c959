#include "core/base/arena.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_LEAST ((size_t) 64 * 1024)

struct SermArenaBlock {
	SermArenaBlock *previous;
	size_t size; /* bytes after the aligned start */
	size_t used;
	unsigned char *start;
};

void
serm_arena_init(SermArena *arena, SermAllocator allocator, size_t limit)
{
	arena->allocator = allocator;
	arena->head = NULL;
	arena->limit = limit;
	arena->total = 0;
	arena->block_least = BLOCK_LEAST;
}

static SermArenaBlock *
add_block(SermArena *arena, size_t size)
{
	const size_t overhead = sizeof(SermArenaBlock) + SERM_ARENA_ALIGN;
	/* Doubling keeps the number of blocks logarithmic in what is used. */
	size_t wanted = arena->total > arena->block_least ? arena->total : arena->block_least;
	size_t room = arena->limit - arena->total;
	SermArenaBlock *block;

	if (size > SIZE_MAX - overhead || size + overhead > room)
		return NULL;
	if (wanted < size + overhead)
		wanted = size + overhead;
	if (wanted > room)
		wanted = room;

	block = arena->allocator.allocate(arena->allocator.context, wanted);
	if (block == NULL && wanted > size + overhead) {
		wanted = size + overhead;
		block = arena->allocator.allocate(arena->allocator.context, wanted);
	}
	if (block == NULL)
		return NULL;

	block->previous = arena->head;
	block->used = 0;
	block->start =
	    (unsigned char *) (((uintptr_t) (block + 1) + SERM_ARENA_ALIGN - 1) & ~(SERM_ARENA_ALIGN - 1));
	block->size = wanted - (size_t) (block->start - (unsigned char *) block);
	arena->head = block;
	arena->total += wanted;
	return block;
}

/* `size` is a multiple of SERM_ARENA_ALIGN. */
static void *
take(SermArena *arena, size_t size)
{
	SermArenaBlock *block = arena->head;
	void *memory;

	if (block == NULL || block->size - block->used < size) {
		block = add_block(arena, size);
		if (block == NULL)
			return NULL;
	}
	memory = block->start + block->used;
	block->used += size;
	return memory;
}

void *
serm_arena_reserve(SermArena *arena, size_t size)
{
	if (size > SIZE_MAX - SERM_ARENA_ALIGN)
		return NULL;
	return take(arena, (size + SERM_ARENA_ALIGN - 1) & ~(SERM_ARENA_ALIGN - 1));
}

void *
serm_arena_alloc(SermArena *arena, size_t size)
{
	void *memory = serm_arena_reserve(arena, size);

	return memory != NULL ? memset(memory, 0, size) : NULL;
}

void *
serm_arena_array(SermArena *arena, size_t count, size_t element_size)
{
	size_t size;

	if (__builtin_mul_overflow(count, element_size, &size))
		return NULL;
	return serm_arena_alloc(arena, size);
}

char *
serm_arena_copy(SermArena *arena, const char *bytes, size_t length)
{
	char *copy = length < SIZE_MAX ? serm_arena_alloc(arena, length + 1) : NULL;

	if (copy != NULL && length > 0)
		memcpy(copy, bytes, length);
	return copy;
}

SermArenaMark
serm_arena_mark(const SermArena *arena)
{
	return (SermArenaMark){arena->head, arena->head != NULL ? arena->head->used : 0};
}

static size_t
block_total(const SermArenaBlock *block)
{
	return (size_t) (block->start - (const unsigned char *) block) + block->size;
}

void
serm_arena_rewind(SermArena *arena, SermArenaMark mark)
{
	while (arena->head != mark.block) {
		SermArenaBlock *block = arena->head;

		arena->head = block->previous;
		arena->total -= block_total(block);
		arena->allocator.release(arena->allocator.context, block);
	}
	if (arena->head != NULL)
		arena->head->used = mark.used;
}

void
serm_arena_free(SermArena *arena)
{
	serm_arena_rewind(arena, (SermArenaMark){NULL, 0});
}

static void *
heap_allocate(void *context, size_t size)
{
	(void) context;
	return malloc(size);
}

static void
heap_release(void *context, void *block)
{
	(void) context;
	free(block);
}

SermAllocator
serm_heap_allocator(void)
{
	return (SermAllocator){heap_allocate, heap_release, NULL};
}
