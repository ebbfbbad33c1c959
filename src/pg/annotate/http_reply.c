/*
 * What comes back: callbacks that touch no server API and never raise, but set a flag in
 * their transfer. Caps on body and headers are counted here, as curl's own limit does not
 * see chunked replies.
 */
#include "pg/annotate/http_parts.h"

#include <malloc.h>
#include <pthread.h>

#include "core/agent/reply.h"

#define BODY_FIRST_CAPACITY 8192

size_t
serm_http_on_body(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;
	size_t needed;

	if (transfer->first_byte_ms == 0)
		transfer->first_byte_ms = serm_now_ms();
	if (length > SERM_REPLY_BYTES_MAX || transfer->body_length + length > SERM_REPLY_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	needed = transfer->body_length + length;
	if (needed > transfer->body_capacity) {
		size_t capacity = Max(needed, Max(transfer->body_capacity * 2, BODY_FIRST_CAPACITY));
		char *grown = realloc(transfer->body, capacity);

		if (grown == NULL) {
			transfer->no_memory = true;
			return 0;
		}
		transfer->body = grown;
		transfer->body_capacity = capacity;
	}
	memcpy(transfer->body + transfer->body_length, bytes, length);
	transfer->body_length = needed;
	return length;
}

/* The value of a header line that begins with `name`, trimmed, if it fits. */
static void
keep_header(const char *line, size_t length, const char *name, char *value, size_t size)
{
	const size_t skip = strlen(name);

	if (length <= skip || pg_strncasecmp(line, name, skip) != 0)
		return;
	while (length > skip && strchr("\r\n", line[length - 1]) != NULL)
		length--;
	if (length - skip < size) {
		memcpy(value, line + skip, length - skip);
		value[length - skip] = '\0';
	}
}

size_t
serm_http_on_header(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;

	transfer->header_length += length;
	if (transfer->header_length > SERM_HTTP_HEADER_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	keep_header(bytes, length, "retry-after:", transfer->retry_after, sizeof(transfer->retry_after));
	keep_header(bytes, length, "retry-after-ms:", transfer->retry_after_ms, sizeof(transfer->retry_after_ms));
	return length;
}

/*
 * Memory for curl: requests carry keys, so what it frees is wiped. What it takes for each request, some
 * ninety blocks, is kept by size; its threads, which look names up, have the heap.
 */

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
