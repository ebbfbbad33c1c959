#include "core/model/attention.h"

#include <math.h>

#include "core/math/activation.h"
#include "core/math/gemm.h"

static size_t
room_of(size_t length)
{
	return (length + SERM_ROW_ROOM - 1) / SERM_ROW_ROOM * SERM_ROW_ROOM;
}

bool
serm_attention_scratch(uint32_t longest, uint32_t size, SermArena *arena, SermAttentionScratch *scratch)
{
	scratch->keys = serm_arena_array(arena, serm_panels_count(longest, size), sizeof(SermReal));
	scratch->values = serm_arena_array(arena, serm_panels_count(size, longest), sizeof(SermReal));
	scratch->scores = serm_arena_array(arena, SERM_ATTENTION_ROWS * room_of(longest), sizeof(SermReal));
	return scratch->keys != NULL && scratch->values != NULL && scratch->scores != NULL;
}

bool
serm_attention(const SermAttention *attention, const SermAttentionScratch *scratch, const SermWatch *watch,
    SermReal *context)
{
	size_t length = attention->length, size = attention->size, hidden = attention->hidden;
	size_t room = room_of(length);
	SermReal scale = (SermReal) (1 / sqrt((double) size));

	if (!serm_watch_ask(watch))
		return false;
	serm_panels_pack(true, length, size, attention->key, 2 * hidden, scratch->keys);
	serm_panels_pack(false, size, length, attention->value, 2 * hidden, scratch->values);
	for (uint32_t first = 0; first < attention->rows; first += SERM_ATTENTION_ROWS) {
		uint32_t left = attention->rows - first,
		         rows = left < SERM_ATTENTION_ROWS ? left : SERM_ATTENTION_ROWS;
		SermReal factor[SERM_ATTENTION_ROWS];
		SermProduct scores = {rows, length, size, attention->query + first * hidden, hidden, 1, scratch->keys,
		    NULL, false, scratch->scores, room};
		SermProduct mix = {rows, size, length, scratch->scores, room, 1, scratch->values, NULL, false,
		    context + first * hidden, hidden};

		if (!serm_watch_ask(watch))
			return false;
		serm_panels_multiply(&scores);
		for (uint32_t i = 0; i < rows; i++) {
			factor[i] = 1 / serm_softmax(scratch->scores + i * room, length, scale);
			if (attention->drop > 0)
				serm_drop(attention->seed + first + i, attention->drop, scratch->scores + i * room, length);
		}
		serm_panels_multiply(&mix);
		for (uint32_t i = 0; i < rows; i++)
			serm_scale(context + (first + i) * hidden, size, factor[i]);
	}
	return true;
}
