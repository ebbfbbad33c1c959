#include "core/click/ascent.h"

#include <string.h>

bool
serm_ascent_init(SermAscent *ascent, SermArena *arena, uint32_t size)
{
	memset(ascent, 0, sizeof(*ascent));
	ascent->size = size;
	for (int i = 0; i < SERM_ASCENT_MEMORY; i++) {
		ascent->steps[i] = serm_arena_array(arena, size, sizeof(double));
		ascent->changes[i] = serm_arena_array(arena, size, sizeof(double));
		if (ascent->steps[i] == NULL || ascent->changes[i] == NULL)
			return false;
	}
	return true;
}

void
serm_ascent_forget(SermAscent *ascent)
{
	ascent->stored = 0;
}

double
serm_ascent_product(const double *a, const double *b, uint32_t size)
{
	double sum = 0;

	for (uint32_t k = 0; k < size; k++)
		sum += a[k] * b[k];
	return sum;
}

void
serm_ascent_learn(SermAscent *ascent, const double *step, const double *change)
{
	uint32_t at = (ascent->newest + 1) % SERM_ASCENT_MEMORY;
	double inner = serm_ascent_product(step, change, ascent->size);

	if (!(inner > 0))
		return;
	memcpy(ascent->steps[at], step, ascent->size * sizeof(double));
	memcpy(ascent->changes[at], change, ascent->size * sizeof(double));
	ascent->inner[at] = inner;
	ascent->newest = at;
	if (ascent->stored < SERM_ASCENT_MEMORY)
		ascent->stored++;
}

void
serm_ascent_direction(
    const SermAscent *ascent, const double *gradient, const double *scale, double *direction)
{
	double weights[SERM_ASCENT_MEMORY], stretch = 1.0;

	memcpy(direction, gradient, ascent->size * sizeof(double));
	for (uint32_t i = 0; i < ascent->stored; i++) {
		uint32_t at = (ascent->newest + SERM_ASCENT_MEMORY - i) % SERM_ASCENT_MEMORY;

		weights[at] = serm_ascent_product(ascent->steps[at], direction, ascent->size) / ascent->inner[at];
		for (uint32_t k = 0; k < ascent->size; k++)
			direction[k] -= weights[at] * ascent->changes[at][k];
	}
	/* What the newest step says of the length that the scale is for. */
	if (ascent->stored > 0) {
		const double *change = ascent->changes[ascent->newest];
		double scaled = 0;

		for (uint32_t k = 0; k < ascent->size; k++)
			scaled += scale[k] * change[k] * change[k];
		if (scaled > 0)
			stretch = ascent->inner[ascent->newest] / scaled;
	}
	for (uint32_t k = 0; k < ascent->size; k++)
		direction[k] *= stretch * scale[k];
	for (uint32_t i = ascent->stored; i-- > 0;) {
		uint32_t at = (ascent->newest + SERM_ASCENT_MEMORY - i) % SERM_ASCENT_MEMORY;
		double weight = weights[at] -
		                serm_ascent_product(ascent->changes[at], direction, ascent->size) / ascent->inner[at];

		for (uint32_t k = 0; k < ascent->size; k++)
			direction[k] += weight * ascent->steps[at][k];
	}
}
