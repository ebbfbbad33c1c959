/*
 * Merging versions by their parameter deltas (task arithmetic, Ilharco et al.,
 * ICLR 2023; with a version and its own ancestor the interpolation of Wortsman
 * et al., CVPR 2022): theta = theta_0 + sum of w_k (theta_k - theta_0). It means
 * something only between versions that continue one ancestor, whose inputs
 * and hidden units are the same.
 */
#ifndef SERM_CORE_TRAIN_MERGE_H
#define SERM_CORE_TRAIN_MERGE_H

#include "core/model/interaction.h"

/*
 * NULL when `a` and `b`, opened by serm_continue_open(), have all in common that merging leaves as it is, and
 * heads of one shape; else what differs, for a message.
 */
extern const char *serm_merge_difference(const SermInteractionParts *a, const SermInteractionParts *b);

/*
 * `models` [count] with `weights`, all like `ancestor` by serm_merge_difference(). Cut points are moved like
 * parameters and kept ascending. The result shares the parts of the ancestor. MEMORY; DIVERGED: a parameter
 * beyond what a model may hold.
 */
extern SermStatus serm_merge(const SermInteractionParts *ancestor, const SermInteractionParts *models,
    const double *weights, size_t count, SermArena *arena, SermInteractionParts *merged, SermError *error);

#endif
