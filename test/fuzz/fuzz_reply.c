/* Arbitrary bytes as the body of a judge's answer: no crash, and a grade only with reason OK and in range. */
#include <stdint.h>

#include "core/agent/reply.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	SermText text = {(const char *) bytes, length};
	SermReply reply;
	SermError error;
	SermArena arena;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 64 << 20);
	for (int whole = 0; whole < 2; whole++) {
		SermStatus status = whole ? serm_reply_parse(text, 4, &arena, &reply, &error)
								  : serm_reply_parse_content(text, 4, &arena, &reply, &error);

		if (status != SERM_OK || (reply.reason == SERM_REPLY_OK) != (reply.grade >= 0 && reply.grade < 4))
			__builtin_trap();
	}
	serm_arena_free(&arena);
	return 0;
}
