/*
 * Arithmetic on vectors of SERM_LANES words of the query, SermLanes, or on two of them side by side,
 * SermWide; inline: what calls it is compiled once per instruction set. Vectors pass by pointer, so that no
 * calling convention depends on the set. Lanes do not see each other, and nothing is fused (the Makefile says
 * so to the compiler), so a lane has the same bits in both and in each set. Private to features*.c.
 *
 * The five kernels of one width are evenly spaced, so two exponentials and a
 * recurrence give them all.
 */
#ifndef SERM_CORE_MODEL_FEATURES_LANES_H
#define SERM_CORE_MODEL_FEATURES_LANES_H

#include "core/model/features_parts.h"

/* mu is 1, .8, .6, .4, .2, 0; sigma is .03 for mu = 1, where only equal words count, and .15 else. */
#define SERM_KERNEL_STEP 0.2f
#define SERM_KERNEL_NARROW (1 / (2 * 0.03f * 0.03f))
#define SERM_KERNEL_WIDE (1 / (2 * 0.15f * 0.15f))
#define SERM_KERNEL_EXPONENT_MIN -80.0f

#define LANES SERM_LANES
#define NAMED(name) serm_lanes_##name
#define FLOATS SermLanes
#define BITS SermBits
#include "core/model/features_lanes_template.h"

#define LANES (2 * SERM_LANES)
#define NAMED(name) serm_wide_##name
#define FLOATS SermWide
#define BITS SermWideBits
#include "core/model/features_lanes_template.h"

#endif
