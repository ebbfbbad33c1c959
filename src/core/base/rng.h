/*
 * xoshiro256** (Blackman and Vigna 2018) with explicit state: the same seed
 * gives the same stream on every machine, and no stream is shared by accident.
 */
#ifndef SERM_CORE_BASE_RNG_H
#define SERM_CORE_BASE_RNG_H

#include "core/base/status.h"

typedef struct SermRng {
	uint64_t state[4];
} SermRng;

extern void serm_rng_seed(SermRng *rng, uint64_t seed);
extern uint64_t serm_rng_next(SermRng *rng);
/* Uniform in [0, 1). */
extern double serm_rng_uniform(SermRng *rng);
/* Uniform in [0, bound), without modulo bias; bound > 0. */
extern uint32_t serm_rng_below(SermRng *rng, uint32_t bound);
/* Standard normal, by the polar method. */
extern double serm_rng_normal(SermRng *rng);
/* Poisson with a small mean (< 30), by inversion. */
extern uint32_t serm_rng_poisson(SermRng *rng, double mean);
/* Fisher-Yates. */
extern void serm_rng_shuffle(SermRng *rng, uint32_t *values, size_t count);

#endif
