/*
 * Kin (S18 in doc/model.md): words of one beginning whose endings the corpus
 * itself shows to go together, as in vibrate, vibrating and vibration. What
 * stemmers of single languages know by rule is read off the words.
 */
#ifndef SERM_CORE_TRAIN_KIN_H
#define SERM_CORE_TRAIN_KIN_H

#include "core/model/features.h"
#include "core/train/train.h"

/*
 * Learn the kin of the words of `statistics`, which were counted over these documents, in canonical order:
 * sets word_kin and kin_df, in `arena`; they stay NULL where no word has kin. Errors: CANCELED, MEMORY.
 */
extern SermStatus serm_kin_learn(const SermText *docs, size_t count, const SermTrainHost *host,
    SermArena *arena, SermStatistics *statistics, SermError *error);

#endif
