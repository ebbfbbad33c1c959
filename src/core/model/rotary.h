/*
 * Rotary positions (Su et al. 2021), in the form that pairs channel c of a
 * head with channel c + size / 2: both turn by position / base^(2 c / size).
 * Angles are computed in double, whatever the number type of the rest.
 */
#ifndef SERM_CORE_MODEL_ROTARY_H
#define SERM_CORE_MODEL_ROTARY_H

#include "core/base/arena.h"
#include "core/base/real.h"

typedef struct SermRotary {
	uint32_t half;    /* pairs of a head */
	SermReal *cosine; /* [positions][half] */
	SermReal *sine;
} SermRotary;

/* Tables for heads of `size` channels, an even number. false when the arena refuses. */
extern bool serm_rotary_init(
    SermRotary *rotary, double base, uint32_t size, uint32_t positions, SermArena *arena);
/* Turn the `heads` heads in x, one behind the other, to `position`; `back` turns the other way. */
extern void serm_rotary_turn(
    const SermRotary *rotary, uint32_t position, bool back, uint32_t heads, SermReal *x);

#endif
