/*
 * A unit test is a program that prints TAP. CHECK counts one assertion; DONE
 * prints the plan. No framework: prove runs the programs.
 */
#ifndef SERM_TEST_UNIT_H
#define SERM_TEST_UNIT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"

static int unit_count;
static int unit_failed;

#define CHECK(condition, ...)                                                                                \
	do {                                                                                                     \
		bool unit_good = (condition);                                                                        \
		printf("%s %d - ", unit_good ? "ok" : "not ok", ++unit_count);                                       \
		printf(__VA_ARGS__);                                                                                 \
		printf("\n");                                                                                        \
		if (!unit_good) {                                                                                    \
			unit_failed++;                                                                                   \
			printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition);                                         \
		}                                                                                                    \
	} while (0)

#define CHECK_NEAR(actual, expected, tolerance, ...)                                                         \
	do {                                                                                                     \
		double unit_actual = (actual), unit_expected = (expected);                                           \
		CHECK(fabs(unit_actual - unit_expected) <= (tolerance), __VA_ARGS__);                                \
		if (!(fabs(unit_actual - unit_expected) <= (tolerance)))                                             \
			printf("# got %.9g, expected %.9g\n", unit_actual, unit_expected);                               \
	} while (0)

#define DONE()                                                                                               \
	do {                                                                                                     \
		printf("1..%d\n", unit_count);                                                                       \
		return unit_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;                                               \
	} while (0)

static inline SermArena
unit_arena(void)
{
	SermArena arena;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 2 << 30);
	return arena;
}

#endif
