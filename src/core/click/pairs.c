/*
 * Open addressing with linear probing for queries and pairs; texts and cells in
 * chunks of their own. Arrays double, so the arena holds at most twice what they
 * need.
 */
#include "core/click/pairs.h"

#include "core/base/hash.h"

#define CHUNK_BYTES ((size_t) 1 << 20)
#define INITIAL 1024

SermStatus
serm_click_no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "no memory to group the search log");
}

uint64_t
serm_click_hash_bytes(const void *bytes, size_t length, uint64_t seed)
{
	const unsigned char *at = bytes;
	uint64_t hash = seed ^ (length * UINT64_C(0x9e3779b97f4a7c15)), word = 0;

	for (; length >= 8; length -= 8, at += 8) {
		memcpy(&word, at, 8);
		hash = serm_click_mix(hash, word);
	}
	word = 0;
	for (size_t i = 0; i < length; i++)
		word |= (uint64_t) at[i] << (8 * i);
	return serm_hash_mix(hash ^ word);
}

bool
serm_click_reserve(SermArena *arena, void **array, uint32_t count, uint32_t *capacity, size_t element)
{
	uint32_t wanted = *capacity == 0 ? INITIAL : *capacity * 2;
	void *larger;

	if (count < *capacity)
		return true;
	if (wanted <= *capacity)
		return false;
	larger = serm_arena_reserve(arena, wanted * element);
	if (larger == NULL)
		return false;
	if (count > 0)
		memcpy(larger, *array, count * element);
	*array = larger;
	*capacity = wanted;
	return true;
}

void
serm_click_put_slot(SermClickTable *table, uint64_t hash, uint32_t index)
{
	uint32_t at = (uint32_t) hash & (table->capacity - 1);

	while (table->slots[at].index != SERM_CLICK_NONE)
		at = (at + 1) & (table->capacity - 1);
	table->slots[at] = (SermClickSlot){(uint32_t) (hash >> 32), index};
}

bool
serm_click_grow_table(SermArena *arena, SermClickTable *table,
    uint64_t (*hash_at)(const void *context, uint32_t index), const void *context)
{
	uint32_t old = table->capacity;
	SermClickSlot *slots = table->slots;

	if (table->used < old / 2)
		return true;
	if (old >= UINT32_C(1) << 31)
		return false;
	table->capacity = old == 0 ? INITIAL : old * 2;
	table->slots = serm_arena_reserve(arena, table->capacity * sizeof(SermClickSlot));
	if (table->slots == NULL)
		return false;
	memset(table->slots, 0xff, table->capacity * sizeof(SermClickSlot));
	for (uint32_t i = 0; i < old; i++)
		if (slots[i].index != SERM_CLICK_NONE)
			serm_click_put_slot(table, hash_at(context, slots[i].index), slots[i].index);
	return true;
}

static uint64_t
query_hash(const void *context, uint32_t index)
{
	return ((const SermClickPairs *) context)->queries[index].hash;
}

static uint64_t
pair_hash(const void *context, uint32_t index)
{
	return ((const SermClickPairs *) context)->pairs[index].hash;
}

bool
serm_click_pairs_init(SermClickPairs *pairs, SermArena *arena, uint32_t pairs_max)
{
	memset(pairs, 0, sizeof(*pairs));
	pairs->arena = arena;
	pairs->pairs_max = pairs_max;
	return serm_click_grow_table(arena, &pairs->query_table, query_hash, pairs) &&
	       serm_click_grow_table(arena, &pairs->pair_table, pair_hash, pairs);
}

static bool
keep_text(SermClickPairs *pairs, SermClickKey *key)
{
	if (key->length > pairs->chunk_left) {
		size_t size = key->length > CHUNK_BYTES ? key->length : CHUNK_BYTES;

		pairs->chunk = serm_arena_reserve(pairs->arena, size);
		if (pairs->chunk == NULL) {
			pairs->chunk_left = 0;
			return false;
		}
		pairs->chunk_left = size;
	}
	if (key->length > 0)
		memcpy(pairs->chunk, key->bytes, key->length);
	key->bytes = pairs->chunk;
	pairs->chunk += key->length;
	pairs->chunk_left -= key->length;
	return true;
}

uint32_t
serm_click_find_query(const SermClickPairs *pairs, const SermClickKey *key, uint64_t hash)
{
	const SermClickTable *table = &pairs->query_table;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1);; at = (at + 1) & (table->capacity - 1)) {
		const SermClickSlot *slot = &table->slots[at];

		if (slot->index == SERM_CLICK_NONE || (slot->tag == (uint32_t) (hash >> 32) &&
		                                          serm_click_same_key(&pairs->queries[slot->index].key, key)))
			return slot->index;
	}
}

uint32_t
serm_click_find_pair(const SermClickPairs *pairs, uint32_t query, const SermClickKey *key, uint64_t hash)
{
	const SermClickTable *table = &pairs->pair_table;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1);; at = (at + 1) & (table->capacity - 1)) {
		const SermClickSlot *slot = &table->slots[at];

		if (slot->index == SERM_CLICK_NONE ||
		    (slot->tag == (uint32_t) (hash >> 32) && pairs->pairs[slot->index].query == query &&
		        serm_click_same_key(&pairs->pairs[slot->index].key, key)))
			return slot->index;
	}
}

SermStatus
serm_click_add_query(
    SermClickPairs *pairs, const SermClickKey *key, uint64_t hash, uint32_t *number, SermError *error)
{
	SermClickKey kept = *key;

	if (!serm_click_grow_table(pairs->arena, &pairs->query_table, query_hash, pairs) ||
	    !serm_click_reserve(pairs->arena, (void **) &pairs->queries, pairs->query_count,
	        &pairs->query_capacity, sizeof(SermClickQueryRecord)) ||
	    !keep_text(pairs, &kept))
		return serm_click_no_memory(error);
	pairs->queries[pairs->query_count] = (SermClickQueryRecord){.hash = hash, .key = kept};
	*number = pairs->query_count++;
	serm_click_put_slot(&pairs->query_table, hash, *number);
	pairs->query_table.used++;
	return SERM_OK;
}

SermStatus
serm_click_add_pair(SermClickPairs *pairs, uint32_t query, const SermClickKey *key, uint64_t hash,
    uint32_t *number, SermError *error)
{
	SermClickKey kept = *key;

	if (pairs->pair_count >= pairs->pairs_max)
		return serm_fail(error, SERM_ERR_LIMIT,
		    "the search log has more than %u distinct pairs in this window", pairs->pairs_max);
	if (!serm_click_grow_table(pairs->arena, &pairs->pair_table, pair_hash, pairs) ||
	    !serm_click_reserve(pairs->arena, (void **) &pairs->pairs, pairs->pair_count, &pairs->pair_capacity,
	        sizeof(SermClickPairRecord)) ||
	    !keep_text(pairs, &kept))
		return serm_click_no_memory(error);
	pairs->pairs[pairs->pair_count] = (SermClickPairRecord){.hash = hash, .key = kept, .query = query};
	*number = pairs->pair_count++;
	serm_click_put_slot(&pairs->pair_table, hash, *number);
	pairs->pair_table.used++;
	return SERM_OK;
}

/* Room for twice as many cells of a pair; what it outgrows is kept for another pair. */
static bool
grow_cells(SermClickPairs *pairs, SermClickPairRecord *pair)
{
	uint16_t class = pair->cell_count == 0 ? 0 : pair->cell_class + 1;
	size_t size = ((size_t) 2 << class) * sizeof(SermClickCount);
	SermClickCount *cells;

	if (class >= SERM_CLICK_CELL_CLASSES)
		return false;
	cells = pairs->free_cells[class];
	if (cells != NULL)
		memcpy(&pairs->free_cells[class], cells, sizeof(void *));
	else {
		if (size > pairs->cell_chunk_left) {
			pairs->cell_chunk_left = size > CHUNK_BYTES ? size : CHUNK_BYTES;
			pairs->cell_chunk = serm_arena_reserve(pairs->arena, pairs->cell_chunk_left);
			if (pairs->cell_chunk == NULL) {
				pairs->cell_chunk_left = 0;
				return false;
			}
		}
		cells = (SermClickCount *) pairs->cell_chunk;
		pairs->cell_chunk += size;
		pairs->cell_chunk_left -= size;
	}
	if (pair->cell_count > 0) {
		memcpy(cells, pair->cells, pair->cell_count * sizeof(SermClickCount));
		memcpy(pair->cells, &pairs->free_cells[pair->cell_class], sizeof(void *));
		pairs->free_cells[pair->cell_class] = pair->cells;
	}
	pair->cells = cells;
	pair->cell_class = class;
	return true;
}

SermStatus
serm_click_add_cell(SermClickPairs *pairs, uint32_t number, uint32_t position, uint32_t previous,
    bool clicked, SermError *error)
{
	SermClickPairRecord *pair = &pairs->pairs[number];
	uint32_t at = 0;
	SermClickCount *cell;

	while (at < pair->cell_count &&
	       (pair->cells[at].position != position || pair->cells[at].previous != previous))
		at++;
	if (at == pair->cell_count) {
		bool full = at == 0 || at == (uint32_t) 2 << pair->cell_class;

		if (full && !grow_cells(pairs, pair))
			return serm_click_no_memory(error);
		pair->cells[at] = (SermClickCount){.position = (uint16_t) position, .previous = (uint16_t) previous};
		pair->cell_count++;
		pairs->cell_count++;
	}
	cell = &pair->cells[at];
	/* A cell that is full counts no more: its rate is known to nine digits. */
	if (cell->shown < UINT32_MAX) {
		cell->shown++;
		cell->clicked += clicked;
	}
	return SERM_OK;
}
