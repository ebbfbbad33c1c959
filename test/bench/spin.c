/*
 * spin SECONDS: GFLOP per second of multiply-adds in registers, by the clock on the wall. Two of it at once
 * against one alone tell what two processors give together to programs that share nothing.
 */
#include "spin.h"

#include <stdio.h>
#include <stdlib.h>

int
main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1, done = 0, start, now;

	(void) spin(1000);
	start = spin_clock(CLOCK_MONOTONIC);
	do {
		done += 1e-9 * spin(1000000);
		now = spin_clock(CLOCK_MONOTONIC);
	} while (now < start + seconds);
	printf("%.3f\n", done / (now - start));
	return 0;
}
