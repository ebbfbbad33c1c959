/*
 * Rows per second that the heads alone predict from inputs that are computed already: 73 inputs, 4 heads, 4
 * grades, one row at a time and in batches. Prints two numbers, the best of several passes; CPU time of one
 * thread. Part of `make bench-speed`.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/base/arena.h"
#include "core/base/rng.h"
#include "core/model/heads.h"

enum { HEADS = 4, INPUTS = 73, GRADES = 4, ROWS = 16384, PASSES = 15, WEIGHTS = 40000 };

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

/* Seconds for all rows; the sum of scores keeps the work from being left out. */
static double
pass(const SermHeads *heads, const SermReal *inputs, const SermReal *guards, uint32_t together, double *sum)
{
	SermPrediction predictions[SERM_HEADS_ROWS];
	double start = seconds();

	for (size_t row = 0; row < ROWS; row += together) {
		serm_heads_predict_rows(heads, together, inputs + row * INPUTS, guards + row, NULL, predictions);
		*sum += predictions[0].score;
	}
	return seconds() - start;
}

int
main(void)
{
	SermArena arena;
	SermReal *weights, *inputs, *guards;
	double best[2] = {1e9, 1e9}, sum = 0;
	SermHeads heads;
	SermRng rng;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 1 << 30);
	serm_rng_seed(&rng, 1);
	weights = serm_arena_array(&arena, WEIGHTS, sizeof(*weights));
	inputs = serm_arena_array(&arena, (size_t) ROWS * INPUTS, sizeof(*inputs));
	guards = serm_arena_array(&arena, ROWS, sizeof(*guards));
	for (size_t i = 0; i < WEIGHTS; i++)
		weights[i] = (SermReal) (0.1 * serm_rng_normal(&rng));
	for (size_t i = 0; i < (size_t) ROWS * INPUTS; i++)
		inputs[i] = (SermReal) serm_rng_normal(&rng);
	heads = (SermHeads){.head_count = HEADS, .input_count = INPUTS, .grade_count = GRADES};
	heads.w1 = weights;
	heads.b1 = heads.w1 + HEADS * SERM_HIDDEN1 * INPUTS;
	heads.w2 = heads.b1 + HEADS * SERM_HIDDEN1;
	heads.b2 = heads.w2 + HEADS * SERM_HIDDEN2 * SERM_HIDDEN1;
	heads.w3 = heads.b2 + HEADS * SERM_HIDDEN2;
	heads.b3 = heads.w3 + HEADS * GRADES * SERM_HIDDEN2;
	if (!serm_heads_pack(&heads, &arena))
		return EXIT_FAILURE;
	for (int i = 0; i < PASSES; i++) {
		double one = pass(&heads, inputs, guards, 1, &sum),
		       many = pass(&heads, inputs, guards, SERM_HEADS_ROWS, &sum);

		best[0] = one < best[0] ? one : best[0];
		best[1] = many < best[1] ? many : best[1];
	}
	printf("%.0f %.0f\n", ROWS / best[0], ROWS / best[1]);
	serm_arena_free(&arena);
	return sum == 0;
}
