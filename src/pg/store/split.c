/*
 * The split of queries into train and test: by the hash of the normalised
 * query, so that no query is ever in both, on any machine.
 */
#include "pg/serm.h"

#include "pg/store/store.h"

#define SCRATCH_BYTES_MAX ((Size) 64 * 1024 * 1024)

bool
serm_query_is_test(SermText query, double test_share)
{
	/* Kept over calls: a split is asked for every row of a log. */
	static SermArena scratch;
	static SermArenaMark start;
	static SermTextBuffer buffer;
	SermStatus status;
	SermError error = {SERM_OK, ""};
	uint64_t key = 0;

	if (scratch.allocator.allocate == NULL) {
		MemoryContext context = AllocSetContextCreate(TopMemoryContext, "serm split", ALLOCSET_SMALL_SIZES);

		buffer.context = context;
		serm_arena_init(&scratch, serm_context_allocator(context), SCRATCH_BYTES_MAX);
		/* A mark behind a first allocation keeps the first block. */
		(void) serm_arena_alloc(&scratch, 1);
		start = serm_arena_mark(&scratch);
	}
	status = serm_text_query_key(serm_text_utf8(query, &buffer), &scratch, &key, &error);
	serm_arena_rewind(&scratch, start);
	serm_check(status, &error);
	/* The upper 53 bits as a number in [0, 1). */
	return (double) (key >> 11) * 0x1p-53 < (double) (float) test_share;
}

SERM_FUNCTION(serm_split_of);
Datum
serm_split_of(PG_FUNCTION_ARGS)
{
	void *copy;
	SermText query = serm_text_detoast(PG_GETARG_DATUM(0), &copy);
	float4 share = PG_GETARG_FLOAT4(1);
	bool test;

	if (!(share >= 0 && share <= 1))
		ereport(
		    ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("test_share must lie between 0 and 1"));
	test = serm_query_is_test(query, share);
	if (copy != NULL)
		pfree(copy);
	PG_RETURN_TEXT_P(cstring_to_text(test ? "test" : "train"));
}
