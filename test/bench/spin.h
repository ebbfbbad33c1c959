/*
 * Multiply-adds in registers: the most that a processor computes, as fast as it happens to be at that
 * moment. Nothing is read or written, so caches stay as they are.
 */
#ifndef SERM_BENCH_SPIN_H
#define SERM_BENCH_SPIN_H

#include <time.h>

/* Ten sums, more than two units need to hide a latency of four; all tend to 2, none is denormal. */
#define SPIN_SUMS 10
#define SPIN_STEP(v)                                                                                         \
	v = v * half + one;                                                                                      \
	__asm__ volatile("" : "+v"(v))
#define SPIN_WITH(name, bytes, features)                                                                     \
	typedef float name##_vector __attribute__((vector_size(bytes)));                                         \
	__attribute__((target(features), noinline)) static void name(long steps)                                 \
	{                                                                                                        \
		name##_vector none = {0}, one = none + 1, half = none + .5f;                                         \
		name##_vector a = one, b = one, c = one, d = one, e = one, f = one, g = one, h = one, i = one,       \
		              j = one;                                                                               \
                                                                                                             \
		while (steps-- > 0) {                                                                                \
			SPIN_STEP(a);                                                                                    \
			SPIN_STEP(b);                                                                                    \
			SPIN_STEP(c);                                                                                    \
			SPIN_STEP(d);                                                                                    \
			SPIN_STEP(e);                                                                                    \
			SPIN_STEP(f);                                                                                    \
			SPIN_STEP(g);                                                                                    \
			SPIN_STEP(h);                                                                                    \
			SPIN_STEP(i);                                                                                    \
			SPIN_STEP(j);                                                                                    \
		}                                                                                                    \
	}

static inline double
spin_clock(clockid_t id)
{
	struct timespec now;

	clock_gettime(id, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

#if defined(__x86_64__)
SPIN_WITH(spin_64, 64, "avx512f")
SPIN_WITH(spin_32, 32, "avx2,fma")

/* Some steps; returns their floating-point operations, 0 on a processor that has no multiply-add. */
static inline double
spin(long steps)
{
	static int bytes = 0;

	if (bytes == 0 && __builtin_cpu_supports("avx512f")) {
		/* Where 512 bits take two passes, 256 may be a little faster. */
		double best_64 = 1e9, best_32 = 1e9;

		for (int i = 0; i < 5; i++) {
			double start = spin_clock(CLOCK_PROCESS_CPUTIME_ID), middle, end;

			spin_64(100000);
			middle = spin_clock(CLOCK_PROCESS_CPUTIME_ID);
			spin_32(200000);
			end = spin_clock(CLOCK_PROCESS_CPUTIME_ID);
			best_64 = middle - start < best_64 ? middle - start : best_64;
			best_32 = end - middle < best_32 ? end - middle : best_32;
		}
		bytes = best_32 < .97 * best_64 ? 32 : 64;
	}
	if (bytes == 0)
		bytes = __builtin_cpu_supports("fma") ? 32 : -1;
	if (bytes == 64)
		spin_64(steps);
	else if (bytes == 32)
		spin_32(steps);
	return bytes < 0 ? 0 : (double) steps * SPIN_SUMS * 2 * bytes / 4;
}

/*
 * Instructions that do nothing, a hundred a step; returns their number. Two threads of a core share what it
 * takes in, so their rate tells whether the other thread, which may be another guest's, is at work.
 * Multiply-adds in registers hardly do: they leave two thirds of it unused.
 */
static inline double
spin_idly(long steps)
{
	for (long i = 0; i < steps; i++)
		__asm__ volatile(".rept 100\n\tnop\n\t.endr");
	return (double) steps * 100;
}
#else
static inline double
spin(long steps)
{
	(void) steps;
	return 0;
}

static inline double
spin_idly(long steps)
{
	(void) steps;
	return 0;
}
#endif

#endif
