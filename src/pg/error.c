#include "pg/serm.h"

#include <sys/mman.h>

#include "miscadmin.h"
#include "storage/shmem.h"

#define HUGE_PAGE ((uintptr_t) 2 * 1024 * 1024)

/* One status, one SQLSTATE. */
static const int sqlstates[SERM_STATUS_COUNT] = {
    [SERM_OK] = ERRCODE_SUCCESSFUL_COMPLETION,
    [SERM_ERR_MEMORY] = ERRCODE_OUT_OF_MEMORY,
    [SERM_ERR_CANCELED] = ERRCODE_QUERY_CANCELED,
    [SERM_ERR_INVALID] = ERRCODE_INVALID_PARAMETER_VALUE,
    [SERM_ERR_LIMIT] = ERRCODE_PROGRAM_LIMIT_EXCEEDED,
    [SERM_ERR_CORRUPT] = ERRCODE_DATA_CORRUPTED,
    [SERM_ERR_NO_DATA] = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
    [SERM_ERR_DIVERGED] = ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
};

void
serm_check(SermStatus status, const SermError *error)
{
	if (status == SERM_OK)
		return;
	ereport(ERROR, errcode(sqlstates[status]),
	    errmsg("%s", error->message[0] != '\0' ? error->message : "out of memory"),
	    status == SERM_ERR_MEMORY ? errhint("Raise serm.train_memory, or give it less data.") : 0);
}

/*
 * Large tables are looked into everywhere, and with small pages half of the waiting is for the page tables.
 * Only the pages that lie wholly in the block are asked for; a kernel that has none goes on with small ones.
 */
static void
advise_huge_pages(void *block pg_attribute_unused(), size_t size pg_attribute_unused())
{
#ifdef MADV_HUGEPAGE
	uintptr_t from = ((uintptr_t) block + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	uintptr_t until = ((uintptr_t) block + size) & ~(HUGE_PAGE - 1);

	if (until > from)
		(void) madvise((void *) from, until - from, MADV_HUGEPAGE);
#endif
}

static void *
context_allocate(void *context, size_t size)
{
	void *block = MemoryContextAllocExtended(context, size, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);

	if (block != NULL && size >= 2 * HUGE_PAGE)
		advise_huge_pages(block, size);
	return block;
}

static void
context_release(void *context pg_attribute_unused(), void *block)
{
	pfree(block);
}

SermAllocator
serm_context_allocator(MemoryContext context)
{
	return (SermAllocator){context_allocate, context_release, context};
}

size_t
serm_capacity_for(size_t wanted, size_t capacity)
{
	if (wanted <= capacity && capacity > 0)
		return capacity;
	return Max(Max(wanted, 1), 2 * capacity);
}

void *
serm_array_grow(void *array, MemoryContext context, size_t count, Size size)
{
	Size bytes = mul_size(count, size);

	return array == NULL ? MemoryContextAllocHuge(context, bytes) : repalloc_huge(array, bytes);
}

void
serm_host_init(SermHost *host, MemoryContext context, Size memory_bytes_max)
{
	host->context = context;
	host->pending = NULL;
	serm_arena_init(&host->arena, serm_context_allocator(context), memory_bytes_max);
}

void
serm_host_keep_error(SermHost *host)
{
	MemoryContext previous = MemoryContextSwitchTo(host->context);

	host->pending = CopyErrorData();
	FlushErrorState();
	MemoryContextSwitchTo(previous);
}

bool
serm_host_keep_going(void *context)
{
	SermHost *host = context;
	MemoryContext previous = CurrentMemoryContext;

	if (host->pending != NULL)
		return false;
	if (!InterruptPending)
		return true;
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		/* An error leaves us in ErrorContext, and core goes on to unwind. */
		MemoryContextSwitchTo(previous);
		serm_host_keep_error(host);
	}
	PG_END_TRY();
	return host->pending == NULL;
}

void
serm_host_check(SermHost *host, SermStatus status, const SermError *error)
{
	if (host->pending != NULL)
		ReThrowError(host->pending);
	serm_check(status, error);
}
