/*
 * How far judgments support each word of the vocabulary (S17 in doc/model.md),
 * so that scoring knows where the heads only guess.
 */
#ifndef SERM_CORE_TRAIN_SUPPORT_H
#define SERM_CORE_TRAIN_SUPPORT_H

#include "core/model/features.h"
#include "core/train/train.h"

/*
 * Fill `support` [statistics->word_count] from the documents that were judged and those of the corpus, which
 * `statistics` was counted over: both distinct. Of the corpus SERM_PRETRAIN_DOCUMENTS_MAX are read.
 * Working memory of `arena` is given back. Errors: CANCELED, MEMORY.
 */
extern SermStatus serm_support_learn(const SermStatistics *statistics, const SermText *judged,
    size_t judged_count, const SermText *corpus, size_t corpus_count, const SermTrainHost *host,
    SermArena *arena, uint8_t *support, SermError *error);

#endif
