/*
 * Attention of one head within one sequence (attention.h), where a token sees
 * the tokens that are at most `reach` away: of each stretch of queries only
 * the keys near it are compared. Rows are computed in parts, so that whoever
 * waits can be asked between them; the parts change no bit.
 */
#ifndef SERM_CORE_MODEL_ATTENTION_WINDOW_H
#define SERM_CORE_MODEL_ATTENTION_WINDOW_H

#include "core/model/attention.h"

/* A reach that no sequence exceeds: every token sees every other. */
#define SERM_REACH_ALL UINT32_MAX

/* The tokens [low, end) that token `row` of `length` sees. */
extern void serm_attention_sees(uint32_t row, uint32_t reach, uint32_t length, uint32_t *low, uint32_t *end);

/* false when the arena refuses. The same for every reach. */
extern bool serm_attention_window_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionScratch *scratch);
/* Lay out keys and values, before the rows. */
extern void serm_attention_window_pack(const SermAttention *attention, const SermAttentionScratch *scratch);
/*
 * Rows [first, end) of the context, whose row 0 is at `context`. `first` is a multiple of
 * SERM_ATTENTION_ROWS.
 */
extern void serm_attention_window_rows(const SermAttention *attention, uint32_t reach,
    const SermAttentionScratch *scratch, uint32_t first, uint32_t end, SermReal *context);

#endif
