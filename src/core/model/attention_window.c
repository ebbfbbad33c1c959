#include "core/model/attention_window.h"

#include <math.h>
#include <string.h>

#include "core/math/activation.h"
#include "core/math/gemm.h"

void
serm_attention_sees(uint32_t row, uint32_t reach, uint32_t length, uint32_t *low, uint32_t *end)
{
	*low = row > reach ? row - reach : 0;
	*end = reach < length - row - 1 ? row + reach + 1 : length;
}

/* Room of a row of scores: softmax of a part of it may write SERM_ROW_ROOM beyond its end. */
static size_t
room_of(size_t length)
{
	return (length + SERM_ROW_ROOM - 1) / SERM_ROW_ROOM * SERM_ROW_ROOM + SERM_ROW_ROOM;
}

bool
serm_attention_window_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionScratch *scratch)
{
	scratch->keys = serm_arena_array(arena, serm_panels_count(longest, size), sizeof(SermReal));
	scratch->values = serm_arena_array(arena, serm_panels_count(size, longest), sizeof(SermReal));
	scratch->scores = serm_arena_array(arena, SERM_ATTENTION_ROWS * room_of(longest), sizeof(SermReal));
	return scratch->keys != NULL && scratch->values != NULL && scratch->scores != NULL;
}

void
serm_attention_window_pack(const SermAttention *attention, const SermAttentionScratch *scratch)
{
	size_t length = attention->length, size = attention->size;

	serm_panels_pack(true, length, size, attention->key, 2 * (size_t) attention->hidden, scratch->keys);
	serm_panels_pack(false, size, length, attention->value, 2 * (size_t) attention->hidden, scratch->values);
}

/* Scores of one row, of the keys from `start` on, become weights; what it does not see weighs nothing. */
static SermReal
weigh(const SermAttention *attention, uint32_t reach, uint32_t row, uint32_t start, uint32_t columns,
    SermReal scale, SermReal *scores)
{
	uint32_t low, end;
	SermReal factor;

	serm_attention_sees(row, reach, attention->length, &low, &end);
	low -= start, end -= start;
	factor = 1 / serm_softmax(scores + low, end - low, scale);
	if (attention->drop > 0)
		serm_drop(attention->seed + row, attention->drop, scores + low, end - low);
	memset(scores, 0, low * sizeof(SermReal));
	memset(scores + end, 0, (columns - end) * sizeof(SermReal));
	return factor;
}

/* At most SERM_ATTENTION_ROWS rows against the keys [start, start + columns); start is of a whole panel. */
static void
attend_rows(const SermAttention *attention, uint32_t reach, const SermAttentionScratch *scratch,
    uint32_t first, uint32_t rows, uint32_t start, uint32_t columns, SermReal *context)
{
	size_t size = attention->size, hidden = attention->hidden, room = room_of(columns);
	SermReal scale = (SermReal) (1 / sqrt((double) size)), factor[SERM_ATTENTION_ROWS];
	SermProduct scores = {rows, columns, size, attention->query + first * hidden, hidden, 1,
	    scratch->keys + start * size, NULL, false, scratch->scores, room};

	serm_panels_multiply(&scores);
	for (uint32_t i = 0; i < rows; i++)
		factor[i] = weigh(attention, reach, first + i, start, columns, scale, scratch->scores + i * room);
	/* A part of the rows of packed values is one product for each panel. */
	for (size_t c = 0; c < size; c += SERM_PANEL) {
		SermProduct mix = {rows, size - c < SERM_PANEL ? size - c : SERM_PANEL, columns, scratch->scores,
		    room, 1, scratch->values + c * attention->length + start * SERM_PANEL, NULL, false,
		    context + first * hidden + c, hidden};

		serm_panels_multiply(&mix);
	}
	for (uint32_t i = 0; i < rows; i++)
		serm_scale(context + (first + i) * hidden, size, factor[i]);
}

void
serm_attention_window_rows(const SermAttention *attention, uint32_t reach,
    const SermAttentionScratch *scratch, uint32_t first, uint32_t end, SermReal *context)
{
	for (; first < end; first += SERM_ATTENTION_ROWS) {
		uint32_t rows = end - first < SERM_ATTENTION_ROWS ? end - first : SERM_ATTENTION_ROWS;
		uint32_t low, stop, unused;

		serm_attention_sees(first, reach, attention->length, &low, &unused);
		serm_attention_sees(first + rows - 1, reach, attention->length, &unused, &stop);
		low = low / SERM_PANEL * SERM_PANEL;
		attend_rows(attention, reach, scratch, first, rows, low, stop - low, context);
	}
}
