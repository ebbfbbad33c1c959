/*
 * The derivative of attention (core/model/attention.h) for one head of one
 * sequence. Rows of queries go through in blocks, so that memory grows with the
 * length of the sequence and not with its square, and whoever waits is asked
 * between them; the blocks change no bit.
 */
#ifndef SERM_CORE_TRAIN_ATTENTION_BACK_H
#define SERM_CORE_TRAIN_ATTENTION_BACK_H

#include "core/model/attention_window.h"

/* Query rows whose scores are held at once. */
#define SERM_ATTENTION_BACK_ROWS 256

typedef struct SermAttentionBackScratch {
	SermReal *probability; /* [rows of a block][longest, rounded up, and SERM_ROW_ROOM] */
	SermReal *derivative;  /* the same */
	SermReal *keys;        /* packed, turned */
	SermReal *values;      /* packed, turned */
	SermReal *down;        /* keys, packed */
	SermReal *right;       /* rows of a block, packed */
} SermAttentionBackScratch;

/* Bytes that the scratch takes. */
extern size_t serm_attention_back_bytes(uint32_t longest, uint32_t size);
/* false when the arena refuses. */
extern bool serm_attention_back_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionBackScratch *scratch);
/*
 * Overwrites d_query (rows `hidden` apart), d_key and d_value (rows 2 `hidden` apart); rows as in
 * `attention`, where a token sees those that are at most `reach` away (attention_window.h). false: whoever
 * watches said stop.
 */
extern bool serm_attention_window_back(const SermAttention *attention, uint32_t reach,
    const SermAttentionBackScratch *scratch, const SermWatch *watch, const SermReal *d_context,
    SermReal *d_query, SermReal *d_key, SermReal *d_value);

#endif
