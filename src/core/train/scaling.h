/*
 * Constants that training fixes from its own pairs and that never look at the
 * pairs that are scored later (S10, S14, S15 in doc/model.md): the scale of
 * the features, the guard, and the cut points of the grades.
 */
#ifndef SERM_CORE_TRAIN_SCALING_H
#define SERM_CORE_TRAIN_SCALING_H

#include "core/model/interaction.h"
#include "core/train/train.h"

/* mean and inverse [SERM_FEATURES] over the pairs; inverse is 1 / (sd + .02), 0 for what hardly varies.
 * Error: CANCELED. */
extern SermStatus serm_scaling_fit(const SermFeatures *features, size_t count, const SermTrainHost *host,
    float *mean, float *inverse, SermError *error);

/*
 * The guard: slope lambda on s0 = z(lexical) + c z(dot), c = .5 min(1, documents / 5000). With lambda 0
 * the constants are still filled in, so that s0 can be computed.
 */
extern void serm_scaling_guard(
    const SermFeatures *features, size_t count, double documents, double lambda, SermGuard *guard);

/*
 * cuts [grade_count - 1] on `score` such that the weight below cut y is `prior` of the grades 0 to y
 * (sums to 1). A grade of no weight gets no interval: its cut lies outside of [0, grade_count - 1] or
 * repeats its neighbour. `order` [count] lists the scores ascending.
 */
extern void serm_scaling_cuts(const float *score, const SermReal *weight, const uint32_t *order, size_t count,
    const double *prior, uint32_t grade_count, SermReal *cuts);

#endif
