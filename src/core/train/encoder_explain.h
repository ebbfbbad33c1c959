/*
 * Taking the score of a cross-encoder apart: gradient times input (Simonyan,
 * Vedaldi and Zisserman 2014; Shrikumar et al. 2016). What a token brings is
 * the inner product of its word embedding with the derivative of the score by
 * it: by how much the score would change, to first order, if the embedding grew
 * by its own length. ModernBERT takes the norm of a word's embedding at once, to which that length is
 * nothing: its input is the embedding behind the norm. Computed at inference: nothing is dropped.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_EXPLAIN_H
#define SERM_CORE_TRAIN_ENCODER_EXPLAIN_H

#include "core/model/encoder.h"
#include "core/model/model.h"

/*
 * contribution [input->length] of the tokens to the expected grade, and the grade itself. `scratch` is used
 * and rewound. Errors: INVALID, MEMORY, CANCELED.
 */
extern SermStatus serm_encoder_attribute(const SermEncoder *encoder, const SermEncoderInput *input,
    const SermEncoderHost *host, SermArena *scratch, SermPrediction *prediction, SermReal *contribution,
    SermError *error);

/*
 * Explain a score of a model that serm_model_reads_text(): a term for each word of the query, and one for
 * each word of the title and of the body that was read, of the best chunk where there are several; the pieces
 * of a word are added up, and so are words that occur again. `base` is the rest of the score. Special tokens
 * belong to it. The result is in `arena`. Errors: as above; INVALID for another tokenizer's tokens.
 */
extern SermStatus serm_cross_explain(const SermModel *model, const SermQuery *query,
    const SermTokenDocument *doc, SermArena *arena, SermExplanation *explanation, SermError *error);

#endif
