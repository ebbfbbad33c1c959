#include "core/model/rotary.h"

#include <math.h>

bool
serm_rotary_init(SermRotary *rotary, double base, uint32_t size, uint32_t positions, SermArena *arena)
{
	size_t half = size / 2;

	rotary->half = (uint32_t) half;
	rotary->cosine = serm_arena_reserve(arena, positions * half * sizeof(SermReal));
	rotary->sine = serm_arena_reserve(arena, positions * half * sizeof(SermReal));
	if (rotary->cosine == NULL || rotary->sine == NULL)
		return false;
	for (size_t c = 0; c < half; c++) {
		double frequency = pow(base, -2.0 * (double) c / size);

		for (size_t p = 0; p < positions; p++) {
			rotary->cosine[p * half + c] = (SermReal) cos((double) p * frequency);
			rotary->sine[p * half + c] = (SermReal) sin((double) p * frequency);
		}
	}
	return true;
}

void
serm_rotary_turn(const SermRotary *rotary, uint32_t position, bool back, uint32_t heads, SermReal *x)
{
	size_t half = rotary->half;
	const SermReal *cosine = rotary->cosine + position * half, *sine = rotary->sine + position * half;
	SermReal sign = back ? -1 : 1;

	for (uint32_t head = 0; head < heads; head++, x += 2 * half)
		for (size_t c = 0; c < half; c++) {
			SermReal low = x[c], high = x[half + c], s = sign * sine[c];

			x[c] = low * cosine[c] - high * s;
			x[half + c] = high * cosine[c] + low * s;
		}
}
