#include "core/train/attention_back.h"

#include <math.h>
#include <string.h>

#include "core/math/activation.h"
#include "core/math/gemm.h"

static size_t
room_of(size_t length)
{
	return (length + SERM_ROW_ROOM - 1) / SERM_ROW_ROOM * SERM_ROW_ROOM;
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

static void
drop(const SermAttention *attention, uint32_t row, SermReal *values)
{
	if (attention->drop > 0)
		serm_drop(attention->seed + row, attention->drop, values, attention->length);
}

void
serm_attention_back(const SermAttention *attention, const SermAttentionBackScratch *scratch,
    const SermReal *d_context, SermReal *d_query, SermReal *d_key, SermReal *d_value)
{
	size_t length = attention->length, size = attention->size, hidden = attention->hidden;
	size_t room = room_of(length);
	SermReal scale = (SermReal) (1 / sqrt((double) size));
	SermReal *probability = scratch->probability, *derivative = scratch->derivative;
	SermProduct down = {
	    attention->rows, size, length, derivative, room, 1, scratch->packed, NULL, false, d_query, hidden};

	compare(attention, scratch, attention->query, attention->key, probability);
	for (uint32_t i = 0; i < attention->rows; i++) {
		SermReal *row = probability + i * room;

		serm_scale(row, length, 1 / serm_softmax(row, length, scale));
		/* What reached the values; the probabilities themselves are needed after it. */
		memcpy(derivative + i * room, row, length * sizeof(SermReal));
		drop(attention, i, derivative + i * room);
	}
	gather(attention, scratch, derivative, d_context, d_value);
	compare(attention, scratch, d_context, attention->value, derivative);
	for (uint32_t i = 0; i < attention->rows; i++) {
		drop(attention, i, derivative + i * room);
		serm_softmax_back(probability + i * room, derivative + i * room, length, scale);
	}
	serm_panels_pack(false, size, length, attention->key, 2 * hidden, scratch->packed);
	serm_panels_multiply(&down);
	gather(attention, scratch, derivative, attention->query, d_key);
}
