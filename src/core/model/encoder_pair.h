/*
 * The input of an encoder for a pair of texts, for scoring and for training
 * alike.
 *
 * An encoder whose config has `match_types` is shown which tokens occur in both
 * texts: their type is SERM_MATCH_TYPE more than that of their text. Attention
 * between word embeddings that nobody has trained on much text does not find
 * that out from a few thousand pairs (marks of exact matches: MarkedBERT,
 * Boualili, Moreno and Boughanem, SIGIR 2020).
 *
 * A token is marked when the other text, as far as it is read, has a word that
 * begins with the same pieces up to and including this one: "pillow" and the
 * "pillow" of "pillow ##s" mark each other, "##s" and the "##s" of "lamp ##s"
 * do not. Special and unknown tokens are never
 * marked.
 */
#ifndef SERM_CORE_MODEL_ENCODER_PAIR_H
#define SERM_CORE_MODEL_ENCODER_PAIR_H

#include "core/model/cross_encoder_config.h"
#include "core/text/tokenizer.h"

/* What a match adds to a token's type. */
#define SERM_MATCH_TYPE 2

/*
 * serm_tokenizer_pair() that cuts the longer text first, and the marks. Time and memory are linear in the
 * tokens. Errors: its own.
 */
extern SermStatus serm_encoder_pair(const SermEncoderConfig *config, const SermTokenizer *tokenizer,
    const uint32_t *first, uint32_t first_count, const uint32_t *second, uint32_t second_count,
    uint32_t tokens_max, SermArena *arena, SermTokens *tokens, SermError *error);

/* Mark a pair anew whose ids were changed. Nothing is done where the config has no match_types. Error:
 * MEMORY. */
extern SermStatus serm_encoder_mark(const SermEncoderConfig *config, const SermTokenizer *tokenizer,
    SermArena *arena, SermTokens *tokens, SermError *error);

#endif
