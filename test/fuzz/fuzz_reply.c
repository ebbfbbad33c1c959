/* Arbitrary bytes as the body of a judge's answer: no crash, and an answer only with reason OK and in range. */
#include <stdint.h>

#include "core/agent/reply.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* A grade, or each document's place, exactly when the reason is OK. */
static bool
is_whole(const SermReply *reply, SermQuestion question)
{
	bool good = reply->reason == SERM_REPLY_OK;

	if (question.form == SERM_FORM_ABSOLUTE)
		return good == (reply->grade >= 0 && reply->grade < (int32_t) question.count);
	if (reply->grade != -1)
		return false;
	for (uint32_t i = 0; i < question.count; i++)
		if (good != (reply->place[i] >= 1 && reply->place[i] <= question.count))
			return false;
	return true;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static const SermQuestion questions[] = {{SERM_FORM_ABSOLUTE, 4}, {SERM_FORM_PAIR, 2}, {SERM_FORM_LIST, 4}};
	SermText text = {(const char *) bytes, length};
	SermReply reply;
	SermError error;
	SermArena arena;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 64 << 20);
	for (int i = 0; i < 6; i++) {
		SermQuestion question = questions[i / 2];
		SermStatus status = i % 2 ? serm_reply_parse(text, question, &arena, &reply, &error)
								  : serm_reply_parse_content(text, question, &arena, &reply, &error);

		if (status != SERM_OK || !is_whole(&reply, question))
			__builtin_trap();
	}
	serm_arena_free(&arena);
	return 0;
}
