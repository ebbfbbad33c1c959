/*
 * What training refuses before it begins: options and examples out of range.
 */
#ifndef SERM_CORE_TRAIN_CHECK_H
#define SERM_CORE_TRAIN_CHECK_H

#include "core/train/train.h"

extern SermStatus serm_train_check_options(const SermTrainOptions *options, SermError *error);
/* INVALID: an example or one of the optional arrays; NO_DATA: nothing to learn from. */
extern SermStatus serm_train_check_set(
    const SermTrainingSet *set, const SermTrainHost *host, SermError *error);

#endif
