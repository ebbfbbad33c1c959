/*
 * Attention of one head within one sequence: nothing of it reaches another
 * sequence, so sequences of any lengths lie end to end without padding.
 */
#ifndef SERM_CORE_MODEL_ATTENTION_H
#define SERM_CORE_MODEL_ATTENTION_H

#include "core/base/arena.h"
#include "core/base/real.h"

/* Query rows whose scores are held at once. */
#define SERM_ATTENTION_ROWS 28

typedef struct SermAttentionScratch {
	SermReal *keys;   /* packed, turned */
	SermReal *values; /* packed */
	SermReal *scores; /* [SERM_ATTENTION_ROWS][longest, rounded up] */
} SermAttentionScratch;

typedef struct SermAttention {
	uint32_t rows;         /* query rows, the first tokens of the sequence */
	uint32_t length;       /* tokens of the sequence */
	uint32_t size;         /* channels of the head */
	uint32_t hidden;       /* channels of all heads */
	const SermReal *query; /* [rows] of this head, each `hidden` behind the other */
	const SermReal *key;   /* [length] of this head, each 2 `hidden` behind the other */
	const SermReal *value; /* the same */
	double drop;           /* of the probabilities */
	uint64_t seed;         /* of what is dropped; row i uses seed + i */
} SermAttention;

/* false when the arena refuses. */
extern bool serm_attention_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionScratch *scratch);
/*
 * context [rows], each `hidden` behind the other, = softmax(query key^T / sqrt(size)) value. false: whoever
 * watches said stop.
 */
extern bool serm_attention(const SermAttention *attention, const SermAttentionScratch *scratch,
    const SermWatch *watch, SermReal *context);

#endif
