/*
 * Weights of examples and pairs: what a judgment counts in the losses. An
 * example's weight is the product of its judgment's weight and of every
 * factor that the options ask for, brought to mean 1. Cut points, prior and
 * temperature follow the judgments' weights alone: a factor steers what is
 * learned, not what the grades mean.
 */
#ifndef SERM_CORE_TRAIN_WEIGHTS_H
#define SERM_CORE_TRAIN_WEIGHTS_H

#include "core/train/loss.h"
#include "core/train/order.h"

/* What an example looks like in canonical order. */
typedef struct SermWeighting {
	const SermTrainingSet *set;
	const SermTrainOptions *options;
	const SermExampleOrder *order;
	const SermReal *target; /* [example_count][grade_count] */
	const SermReal *weight; /* [example_count] judgments' weights, mean 1 */
} SermWeighting;

/* true when some option multiplies weights. */
extern bool serm_weights_wanted(const SermTrainingSet *set, const SermTrainOptions *options);

/*
 * product [example_count], mean 1: weight x class weight x rank weight / propensity, as far as asked for.
 * Factors that are all equal change no bit.
 */
extern SermStatus serm_weights_multiply(const SermWeighting *weighting, const SermTrainHost *host,
    SermArena *arena, SermReal *product, SermError *error);

/*
 * How far the first stage already agrees with the grade, [example_count] in [0, 1]: 1 - |h - grade share|,
 * h being s0 brought to [0, 1] within its list (a list without spread: one half).
 */
extern void serm_weights_easiness(const SermWeighting *weighting, const float *s0, SermReal *easiness);

/*
 * Center and scale of the margins of `score` [example_count] over the pairs of different grades: median and
 * distance of the quartiles, from a sample of at most SERM_WEIGHTS_PAIRS pairs. Without a pair 0 and 1.
 */
#define SERM_WEIGHTS_PAIRS 65536
extern SermStatus serm_weights_margin(const SermWeighting *weighting, const SermReal *score,
    const SermTrainHost *host, SermArena *arena, SermLossMargin *margin, SermError *error);

#endif
