/*
 * The derivative of attention (core/model/attention.h) for one head of one
 * sequence.
 */
#ifndef SERM_CORE_TRAIN_ATTENTION_BACK_H
#define SERM_CORE_TRAIN_ATTENTION_BACK_H

#include "core/model/attention_window.h"

typedef struct SermAttentionBackScratch {
	SermReal *probability; /* [longest][longest, rounded up, and SERM_ROW_ROOM] */
	SermReal *derivative;  /* the same */
	SermReal *packed;      /* one side of a product: a head of the sequence, in either direction */
} SermAttentionBackScratch;

/* false when the arena refuses. */
extern bool serm_attention_back_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionBackScratch *scratch);
/* Overwrites d_query (rows `hidden` apart), d_key and d_value (rows 2 `hidden` apart); rows as in
 * `attention`. */
extern void serm_attention_back(const SermAttention *attention, const SermAttentionBackScratch *scratch,
    const SermReal *d_context, SermReal *d_query, SermReal *d_key, SermReal *d_value);
/* The same where a token sees those that are at most `reach` away (attention_window.h). */
extern void serm_attention_window_back(const SermAttention *attention, uint32_t reach,
    const SermAttentionBackScratch *scratch, const SermReal *d_context, SermReal *d_query, SermReal *d_key,
    SermReal *d_value);

#endif
