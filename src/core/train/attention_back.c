#include "core/train/attention_back.h"

#include <math.h>
#include <string.h>

#include "core/math/activation.h"
#include "core/math/gemm.h"

/* Room of a row: softmax of a part of it may write SERM_ROW_ROOM beyond its end. */
static size_t
room_of(size_t length)
{
	return (length + SERM_ROW_ROOM - 1) / SERM_ROW_ROOM * SERM_ROW_ROOM + SERM_ROW_ROOM;
}

bool
serm_attention_back_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionBackScratch *scratch)
{
	size_t along = serm_panels_count(longest, size), across = serm_panels_count(size, longest);

	scratch->probability = serm_arena_reserve(arena, longest * room_of(longest) * sizeof(SermReal));
	scratch->derivative = serm_arena_reserve(arena, longest * room_of(longest) * sizeof(SermReal));
	scratch->packed = serm_arena_reserve(arena, (along > across ? along : across) * sizeof(SermReal));
	return scratch->probability != NULL && scratch->derivative != NULL && scratch->packed != NULL;
}

/* left [rows] of this head times the turned rows of `right`: one number for each pair of tokens. */
static void
compare(const SermAttention *attention, const SermAttentionBackScratch *scratch, const SermReal *left,
    const SermReal *right, SermReal *out)
{
	size_t length = attention->length, size = attention->size, hidden = attention->hidden;
	SermProduct product = {
	    attention->rows, length, size, left, hidden, 1, scratch->packed, NULL, false, out, room_of(length)};

	serm_panels_pack(true, length, size, right, 2 * hidden, scratch->packed);
	serm_panels_multiply(&product);
}

/* out [length] of this head = the turned matrix [rows][length] times right [rows]. */
static void
gather(const SermAttention *attention, const SermAttentionBackScratch *scratch, const SermReal *matrix,
    const SermReal *right, SermReal *out)
{
	size_t length = attention->length, size = attention->size, hidden = attention->hidden;
	SermProduct product = {length, size, attention->rows, matrix, 1, room_of(length), scratch->packed, NULL,
	    false, out, 2 * hidden};

	serm_panels_pack(false, size, attention->rows, right, hidden, scratch->packed);
	serm_panels_multiply(&product);
}

/* The same row of probabilities that the way there used; what is not seen is 0. */
static void
probabilities(const SermAttention *attention, uint32_t low, uint32_t end, SermReal *p)
{
	SermReal scale = (SermReal) (1 / sqrt((double) attention->size));

	serm_scale(p + low, end - low, 1 / serm_softmax(p + low, end - low, scale));
	memset(p, 0, low * sizeof(SermReal));
	memset(p + end, 0, (attention->length - end) * sizeof(SermReal));
}

static void
drop(const SermAttention *attention, uint32_t row, uint32_t low, uint32_t end, SermReal *values)
{
	if (attention->drop > 0)
		serm_drop(attention->seed + row, attention->drop, values + low, end - low);
}

void
serm_attention_window_back(const SermAttention *attention, uint32_t reach,
    const SermAttentionBackScratch *scratch, const SermReal *d_context, SermReal *d_query, SermReal *d_key,
    SermReal *d_value)
{
	uint32_t length = attention->length, low, end;
	size_t size = attention->size, hidden = attention->hidden, room = room_of(length);
	SermReal scale = (SermReal) (1 / sqrt((double) size));
	SermReal *probability = scratch->probability, *derivative = scratch->derivative;
	SermProduct down = {
	    attention->rows, size, length, derivative, room, 1, scratch->packed, NULL, false, d_query, hidden};

	compare(attention, scratch, attention->query, attention->key, probability);
	for (uint32_t i = 0; i < attention->rows; i++) {
		SermReal *row = probability + i * room;

		serm_attention_sees(i, reach, length, &low, &end);
		probabilities(attention, low, end, row);
		/* What reached the values; the probabilities themselves are needed after it. */
		memcpy(derivative + i * room, row, length * sizeof(SermReal));
		drop(attention, i, low, end, derivative + i * room);
	}
	gather(attention, scratch, derivative, d_context, d_value);
	compare(attention, scratch, d_context, attention->value, derivative);
	for (uint32_t i = 0; i < attention->rows; i++) {
		SermReal *row = derivative + i * room;

		serm_attention_sees(i, reach, length, &low, &end);
		drop(attention, i, low, end, row);
		serm_softmax_back(probability + i * room + low, row + low, end - low, scale);
		memset(row, 0, low * sizeof(SermReal));
		memset(row + end, 0, (length - end) * sizeof(SermReal));
	}
	serm_panels_pack(false, size, length, attention->key, 2 * hidden, scratch->packed);
	serm_panels_multiply(&down);
	gather(attention, scratch, derivative, attention->query, d_key);
}

void
serm_attention_back(const SermAttention *attention, const SermAttentionBackScratch *scratch,
    const SermReal *d_context, SermReal *d_query, SermReal *d_key, SermReal *d_value)
{
	serm_attention_window_back(attention, SERM_REACH_ALL, scratch, d_context, d_query, d_key, d_value);
}
