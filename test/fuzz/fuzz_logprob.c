/* Arbitrary bytes as the body of a completion with log-probabilities: no crash, and a distribution or a problem. */
#include <math.h>
#include <stdint.h>

#include "core/agent/logprob.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	SermText text = {(const char *) bytes, length};

	for (uint32_t grades = 2; grades <= SERM_LOGPROB_GRADES_MAX; grades += 4) {
		SermLogprobs logprobs;
		SermError error;
		SermArena arena;
		double sum = 0;

		serm_arena_init(&arena, serm_heap_allocator(), (size_t) 64 << 20);
		if (serm_logprobs_parse(text, grades, &arena, &logprobs, &error) != SERM_OK)
			__builtin_trap();
		for (uint32_t y = 0; y < grades; y++) {
			if (logprobs.problem == NULL && !(logprobs.probability[y] > 0))
				__builtin_trap();
			sum += logprobs.probability[y];
		}
		if (logprobs.problem == NULL && !(fabs(sum - 1) < 1e-4))
			__builtin_trap();
		serm_arena_free(&arena);
	}
	return 0;
}
