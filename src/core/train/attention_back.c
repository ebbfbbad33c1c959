#include "core/train/attention_back.h"

#include <math.h>
#include <string.h>

#include "core/math/activation.h"
#include "core/math/gemm.h"

/* Some rows of queries, and the tokens [start, start + columns) that they see; start is of a whole panel. */
typedef struct Block {
	const SermAttention *attention;
	const SermAttentionBackScratch *scratch;
	uint32_t reach;
	uint32_t first, rows;
	uint32_t start, columns;
	size_t room; /* of a row */
} Block;

/* Room of a row: softmax of a part of it may write SERM_ROW_ROOM beyond its end. */
static size_t
room_of(size_t length)
{
	return (length + SERM_ROW_ROOM - 1) / SERM_ROW_ROOM * SERM_ROW_ROOM + SERM_ROW_ROOM;
}

static uint32_t
rows_of(uint32_t longest)
{
	return longest < SERM_ATTENTION_BACK_ROWS ? longest : SERM_ATTENTION_BACK_ROWS;
}

size_t
serm_attention_back_bytes(uint32_t longest, uint32_t size)
{
	return sizeof(SermReal) *
	           (2 * rows_of(longest) * room_of(longest) + 2 * serm_panels_count(longest, size) +
	               serm_panels_count(size, longest) + serm_panels_count(size, rows_of(longest))) +
	       6 * SERM_ARENA_ALIGN;
}

bool
serm_attention_back_scratch(
    uint32_t longest, uint32_t size, SermArena *arena, SermAttentionBackScratch *scratch)
{
	const size_t held = rows_of(longest) * room_of(longest) * sizeof(SermReal);

	scratch->probability = serm_arena_reserve(arena, held);
	scratch->derivative = serm_arena_reserve(arena, held);
	scratch->keys = serm_arena_reserve(arena, serm_panels_count(longest, size) * sizeof(SermReal));
	scratch->values = serm_arena_reserve(arena, serm_panels_count(longest, size) * sizeof(SermReal));
	scratch->down = serm_arena_reserve(arena, serm_panels_count(size, longest) * sizeof(SermReal));
	scratch->right = serm_arena_reserve(arena, serm_panels_count(size, rows_of(longest)) * sizeof(SermReal));
	return scratch->probability != NULL && scratch->derivative != NULL && scratch->keys != NULL &&
	       scratch->values != NULL && scratch->down != NULL && scratch->right != NULL;
}

/* Rows of `left` [rows of this head] times packed rows of keys or values: one number for each two tokens. */
static void
compare(const Block *block, const SermReal *left, const SermReal *packed, SermReal *out)
{
	size_t size = block->attention->size, hidden = block->attention->hidden;
	SermProduct product = {block->rows, block->columns, size, left + block->first * hidden, hidden, 1,
	    packed + block->start * size, NULL, false, out, block->room};

	serm_panels_multiply(&product);
}

/* out [columns] of this head += the turned matrix [rows][columns] times rows of `right`. */
static void
gather(const Block *block, const SermReal *matrix, const SermReal *right, SermReal *out)
{
	size_t size = block->attention->size, hidden = block->attention->hidden;
	SermProduct product = {block->columns, size, block->rows, matrix, 1, block->room, block->scratch->right,
	    NULL, true, out + block->start * 2 * hidden, 2 * hidden};

	serm_panels_pack(false, size, block->rows, right + block->first * hidden, hidden, block->scratch->right);
	serm_panels_multiply(&product);
}

/* d_query of the rows = derivative times keys. A part of the rows of packed keys is one product a panel. */
static void
descend(const Block *block, SermReal *d_query)
{
	size_t size = block->attention->size, hidden = block->attention->hidden;

	for (size_t c = 0; c < size; c += SERM_PANEL) {
		SermProduct down = {block->rows, size - c < SERM_PANEL ? size - c : SERM_PANEL, block->columns,
		    block->scratch->derivative, block->room, 1,
		    block->scratch->down + c * block->attention->length + block->start * SERM_PANEL, NULL, false,
		    d_query + block->first * hidden + c, hidden};

		serm_panels_multiply(&down);
	}
}

/* What row i of the block sees, as columns of the block. */
static void
sees(const Block *block, uint32_t i, uint32_t *low, uint32_t *end)
{
	serm_attention_sees(block->first + i, block->reach, block->attention->length, low, end);
	*low -= block->start;
	*end -= block->start;
}

/* What is not seen is 0. */
static void
clear_unseen(const Block *block, uint32_t low, uint32_t end, SermReal *row)
{
	memset(row, 0, low * sizeof(SermReal));
	memset(row + end, 0, (block->columns - end) * sizeof(SermReal));
}

static void
drop(const Block *block, uint32_t i, uint32_t low, uint32_t end, SermReal *row)
{
	const SermAttention *attention = block->attention;

	if (attention->drop > 0)
		serm_drop(attention->seed + block->first + i, attention->drop, row + low, end - low);
}

/* Many keys make each step of a block some ten ms. */
static bool
block_back(const Block *block, const SermWatch *watch, const SermReal *d_context, SermReal *d_query,
    SermReal *d_key, SermReal *d_value)
{
	const SermAttention *attention = block->attention;
	SermReal *probability = block->scratch->probability, *derivative = block->scratch->derivative;
	SermReal scale = (SermReal) (1 / sqrt((double) attention->size));
	uint32_t low, end;

	if (!serm_watch_ask(watch))
		return false;
	compare(block, attention->query, block->scratch->keys, probability);
	if (!serm_watch_ask(watch))
		return false;
	for (uint32_t i = 0; i < block->rows; i++) {
		SermReal *row = probability + i * block->room;

		/* The same row of probabilities that the way there used. */
		sees(block, i, &low, &end);
		serm_scale(row + low, end - low, 1 / serm_softmax(row + low, end - low, scale));
		clear_unseen(block, low, end, row);
		/* What reached the values; the probabilities themselves are needed after it. */
		memcpy(derivative + i * block->room, row, block->columns * sizeof(SermReal));
		drop(block, i, low, end, derivative + i * block->room);
	}
	if (!serm_watch_ask(watch))
		return false;
	gather(block, derivative, d_context, d_value);
	if (!serm_watch_ask(watch))
		return false;
	compare(block, d_context, block->scratch->values, derivative);
	if (!serm_watch_ask(watch))
		return false;
	for (uint32_t i = 0; i < block->rows; i++) {
		SermReal *row = derivative + i * block->room;

		sees(block, i, &low, &end);
		drop(block, i, low, end, row);
		serm_softmax_back(probability + i * block->room + low, row + low, end - low, scale);
		clear_unseen(block, low, end, row);
	}
	if (!serm_watch_ask(watch))
		return false;
	descend(block, d_query);
	if (!serm_watch_ask(watch))
		return false;
	gather(block, derivative, attention->query, d_key);
	return true;
}

bool
serm_attention_window_back(const SermAttention *attention, uint32_t reach,
    const SermAttentionBackScratch *scratch, const SermWatch *watch, const SermReal *d_context,
    SermReal *d_query, SermReal *d_key, SermReal *d_value)
{
	size_t length = attention->length, size = attention->size, stride = 2 * (size_t) attention->hidden;

	if (!serm_watch_ask(watch))
		return false;
	serm_panels_pack(true, length, size, attention->key, stride, scratch->keys);
	serm_panels_pack(true, length, size, attention->value, stride, scratch->values);
	serm_panels_pack(false, size, length, attention->key, stride, scratch->down);
	for (size_t i = 0; i < length; i++) {
		memset(d_key + i * stride, 0, size * sizeof(SermReal));
		memset(d_value + i * stride, 0, size * sizeof(SermReal));
	}
	for (uint32_t first = 0; first < attention->rows; first += SERM_ATTENTION_BACK_ROWS) {
		Block block = {attention, scratch, reach, first, rows_of(attention->rows - first), 0, 0, 0};
		uint32_t low, stop, unused;

		serm_attention_sees(first, reach, attention->length, &low, &unused);
		serm_attention_sees(first + block.rows - 1, reach, attention->length, &unused, &stop);
		block.start = low / SERM_PANEL * SERM_PANEL;
		block.columns = stop - block.start;
		block.room = room_of(block.columns);
		if (!block_back(&block, watch, d_context, d_query, d_key, d_value))
			return false;
	}
	return true;
}
