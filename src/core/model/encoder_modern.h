/*
 * The layers and the head of ModernBERT (Warner et al. 2024), for encoder.c:
 *
 *   x = norm(words)
 *   x += Wo attention(norm(x)), but in the first layer there is no norm
 *   x += Wo (curve(a) b), where a, b = Wi norm(x)
 *   logits = classifier(norm(curve(dense(pool(norm(x))))))
 *
 * Queries and keys turn with their positions (rotary.h). In layer i a token
 * sees all others when i is a multiple of global_every, else those within half
 * of local_window. The classifier reads the first token or the mean of all.
 */
#ifndef SERM_CORE_MODEL_ENCODER_MODERN_H
#define SERM_CORE_MODEL_ENCODER_MODERN_H

#include "core/model/encoder.h"

/* The arrays of all layers and of the head; the run is prepared but for these. */
extern bool serm_encoder_modern_allocate(SermEncoderRun *run, SermArena *arena);
/* false: the host said stop. */
extern bool serm_encoder_modern_forward(SermEncoderRun *run);

/* How far tokens of a layer see, and how its positions turn. */
extern uint32_t serm_encoder_modern_reach(const SermEncoderConfig *config, uint32_t layer);
extern const SermRotary *serm_encoder_modern_rotary(const SermEncoderRun *run, uint32_t layer);
/* Turn the heads of `rows` rows, `stride` numbers apart, to the positions of their tokens. */
extern void serm_encoder_modern_turn(
    const SermEncoderRun *run, uint32_t layer, bool first_only, bool back, size_t stride, SermReal *x);
/* out [rows][intermediate] = curve(a) b from the rows of up, a before b. */
extern void serm_encoder_modern_gate(
    const SermEncoderConfig *config, size_t rows, const SermReal *up, SermReal *out);

#endif
