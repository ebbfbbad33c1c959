/*
 * A growing bump allocator over blocks that the host provides. Everything a
 * core call needs is taken from one arena and released together: there is no
 * per-object free, so an unwinding caller cannot leak.
 *
 * Invariants: every allocation is aligned to SERM_ARENA_ALIGN and, unless only reserved, zeroed; the
 * sum of block sizes never exceeds `limit`; a failed allocation returns NULL
 * and leaves the arena usable.
 */
#ifndef SERM_CORE_BASE_ARENA_H
#define SERM_CORE_BASE_ARENA_H

#include "core/base/status.h"

#define SERM_ARENA_ALIGN ((size_t) 64)

/* Where blocks come from. `allocate` returns NULL on failure and must not raise. */
typedef struct SermAllocator {
	void *(*allocate)(void *context, size_t size);
	void (*release)(void *context, void *block);
	void *context;
} SermAllocator;

typedef struct SermArenaBlock SermArenaBlock;

typedef struct SermArena {
	SermAllocator allocator;
	SermArenaBlock *head;
	size_t limit;       /* bytes that all blocks together may take */
	size_t total;       /* bytes that all blocks together take now */
	size_t block_least; /* a block takes; may be set before the first one */
} SermArena;

typedef struct SermArenaMark {
	SermArenaBlock *block;
	size_t used;
} SermArenaMark;

extern void serm_arena_init(SermArena *arena, SermAllocator allocator, size_t limit);
/* `size` zeroed bytes, or NULL when the host or the limit refuses. */
extern void *serm_arena_alloc(SermArena *arena, size_t size);
/* `size` bytes that hold anything: for large tables of which little may ever be used. */
extern void *serm_arena_reserve(SermArena *arena, size_t size);
/* `count` zeroed elements; NULL also when the product overflows. */
extern void *serm_arena_array(SermArena *arena, size_t count, size_t element_size);
/* A NUL-terminated copy of `length` bytes. */
extern char *serm_arena_copy(SermArena *arena, const char *bytes, size_t length);
extern SermArenaMark serm_arena_mark(const SermArena *arena);
/* Release everything allocated since the mark; blocks made since go back to the host. */
extern void serm_arena_rewind(SermArena *arena, SermArenaMark mark);
extern void serm_arena_free(SermArena *arena);

/* An allocator over the C library's heap, for programs that have no host. */
extern SermAllocator serm_heap_allocator(void);

#endif
