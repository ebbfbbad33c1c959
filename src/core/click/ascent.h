/*
 * Directions of ascent from what an E step says: limited-memory BFGS (Liu and Nocedal
 * 1989) over the few parameters that all pairs share, as in the quasi-Newton
 * acceleration of EM (Jamshidian and Jennrich 1997); private to core/click. EM alone
 * creeps where much is missing, this takes some tens of steps.
 */
#ifndef SERM_CORE_CLICK_ASCENT_H
#define SERM_CORE_CLICK_ASCENT_H

#include "core/base/arena.h"

#define SERM_ASCENT_MEMORY 10

typedef struct SermAscent {
	uint32_t size;
	uint32_t stored; /* pairs of step and change that are remembered */
	uint32_t newest;
	double *steps[SERM_ASCENT_MEMORY];   /* [size] */
	double *changes[SERM_ASCENT_MEMORY]; /* [size] gradient before less gradient after */
	double inner[SERM_ASCENT_MEMORY];    /* products of the two */
} SermAscent;

/* False: no memory. */
extern bool serm_ascent_init(SermAscent *ascent, SermArena *arena, uint32_t size);
extern void serm_ascent_forget(SermAscent *ascent);
/* Remember a step; one along which the gradient did not fall says nothing and is passed over. */
extern void serm_ascent_learn(SermAscent *ascent, const double *step, const double *change);
/* `scale` [size]: the inverse of the curvature of each parameter alone, or what is near to it. */
extern void serm_ascent_direction(
    const SermAscent *ascent, const double *gradient, const double *scale, double *direction);
extern double serm_ascent_product(const double *a, const double *b, uint32_t size);

#endif
