#include "core/base/rng.h"

#include <math.h>

#include "core/base/hash.h"

void
serm_rng_seed(SermRng *rng, uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		seed += UINT64_C(0x9e3779b97f4a7c15);
		rng->state[i] = serm_hash_mix(seed);
	}
}

static uint64_t
rotate_left(uint64_t value, int bits)
{
	return (value << bits) | (value >> (64 - bits));
}

uint64_t
serm_rng_next(SermRng *rng)
{
	uint64_t *s = rng->state;
	uint64_t result = rotate_left(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate_left(s[3], 45);
	return result;
}

double
serm_rng_uniform(SermRng *rng)
{
	return (double) (serm_rng_next(rng) >> 11) * 0x1.0p-53;
}

uint32_t
serm_rng_below(SermRng *rng, uint32_t bound)
{
	uint32_t threshold;

	SERM_ASSERT(bound > 0);
	threshold = -bound % bound;
	for (;;) {
		uint64_t product = (serm_rng_next(rng) >> 32) * bound;

		if ((uint32_t) product >= threshold)
			return (uint32_t) (product >> 32);
	}
}

double
serm_rng_normal(SermRng *rng)
{
	double u, v, square;

	do {
		u = 2.0 * serm_rng_uniform(rng) - 1.0;
		v = 2.0 * serm_rng_uniform(rng) - 1.0;
		square = u * u + v * v;
	} while (square >= 1.0 || square == 0.0);
	return u * sqrt(-2.0 * log(square) / square);
}

uint32_t
serm_rng_poisson(SermRng *rng, double mean)
{
	double limit = exp(-mean);
	double product = serm_rng_uniform(rng);
	uint32_t count = 0;

	while (product > limit) {
		product *= serm_rng_uniform(rng);
		count++;
	}
	return count;
}

void
serm_rng_shuffle(SermRng *rng, uint32_t *values, size_t count)
{
	SERM_ASSERT(count <= UINT32_MAX);
	for (size_t i = count; i > 1; i--) {
		uint32_t j = serm_rng_below(rng, (uint32_t) i);
		uint32_t kept = values[i - 1];

		values[i - 1] = values[j];
		values[j] = kept;
	}
}
