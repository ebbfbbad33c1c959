/*
 * Memory for curl: requests carry keys, so what it frees is wiped. What it takes for each request, some
 * ninety blocks, is kept by size for the next; its threads, which look names up, have the heap.
 *
 * These are callbacks of curl: they touch no server API and never raise.
 */
#include "pg/annotate/http_parts.h"

#include <malloc.h>
#include <pthread.h>

#define KEPT_STEP 16
#define KEPT_BYTES_MAX 1024

typedef struct Kept {
	struct Kept *next;
} Kept;

/* By size in steps, all zeros but for `next`. */
static Kept *kept[KEPT_BYTES_MAX / KEPT_STEP + 1];
static pthread_t keeper;

void
serm_http_keep_memory(void)
{
	keeper = pthread_self();
}

void
serm_http_drop_memory(void)
{
	for (size_t i = 0; i < lengthof(kept); i++)
		while (kept[i] != NULL) {
			Kept *block = kept[i];

			kept[i] = block->next;
			free(block);
		}
}

void *
serm_http_take_zeros(size_t count, size_t each)
{
	size_t size, steps;
	Kept *block;

	if (__builtin_mul_overflow(count, each, &size))
		return NULL;
	steps = size / KEPT_STEP + (size % KEPT_STEP != 0);
	if (steps >= lengthof(kept))
		return calloc(1, size);
	if (!pthread_equal(pthread_self(), keeper) || (block = kept[steps]) == NULL)
		return calloc(1, steps * KEPT_STEP);
	kept[steps] = block->next;
	block->next = NULL;
	return block;
}

void *
serm_http_take(size_t size)
{
	return size <= KEPT_BYTES_MAX ? serm_http_take_zeros(1, size) : malloc(size);
}

char *
serm_http_copy(const char *text)
{
	const size_t size = strlen(text) + 1;
	char *copy = serm_http_take(size);

	return copy != NULL ? memcpy(copy, text, size) : NULL;
}

void
serm_http_wipe_and_free(void *block)
{
	const size_t held = block == NULL ? 0 : malloc_usable_size(block);
	const size_t steps = held / KEPT_STEP;

	if (block == NULL)
		return;
	explicit_bzero(block, held);
	/* Not the last list: a block too large for any may hold as much as those of the last one. */
	if (steps < lengthof(kept) - 1 && pthread_equal(pthread_self(), keeper)) {
		((Kept *) block)->next = kept[steps];
		kept[steps] = block;
	} else
		free(block);
}

void *
serm_http_grow_and_wipe(void *block, size_t size)
{
	const size_t held = block == NULL ? 0 : malloc_usable_size(block);
	void *grown;

	if (block != NULL && size <= held)
		return block;
	grown = serm_http_take(size);
	if (grown == NULL || block == NULL)
		return grown;
	memcpy(grown, block, held);
	serm_http_wipe_and_free(block);
	return grown;
}
