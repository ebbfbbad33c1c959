/*
 * Open addressing with linear probing for queries, and for the documents of each of
 * them. Arrays double; what a query or a pair outgrows serves another one.
 */
#include "core/click/pairs.h"

#include "core/base/hash.h"

#define CHUNK_BYTES ((size_t) 1 << 20)
#define INITIAL 1024
#define ARRAY_BYTES_MIN ((size_t) 32)
/* Arrays of at least a cache line begin with one. */
#define LINE ((size_t) 64)
#define DOCUMENTS_MIN 4

SermStatus
serm_click_no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "no memory to group the search log");
}

static uint64_t
mix_word(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
	return hash ^ hash >> 32;
}

uint64_t
serm_click_hash_bytes(const void *bytes, size_t length, uint64_t seed)
{
	const unsigned char *at = bytes;
	uint64_t hash = seed ^ (length * UINT64_C(0x9e3779b97f4a7c15)), word = 0;

	for (; length >= 8; length -= 8, at += 8) {
		memcpy(&word, at, 8);
		hash = mix_word(hash, word);
	}
	word = 0;
	for (size_t i = 0; i < length; i++)
		word |= (uint64_t) at[i] << (8 * i);
	return serm_hash_mix(hash ^ word);
}

uint64_t
serm_click_hash(const SermClickKey *key)
{
	uint64_t hash = key->length * UINT64_C(0x9e3779b97f4a7c15);

	hash = mix_word(hash, key->prefix[0]);
	if (key->length > 8)
		hash = mix_word(hash, key->prefix[1]);
	if (key->length > 16)
		hash = mix_word(hash, key->prefix[2]);
	if (key->length > SERM_CLICK_PREFIX)
		return serm_click_hash_bytes(key->bytes + SERM_CLICK_PREFIX, key->length - SERM_CLICK_PREFIX, hash);
	return serm_hash_mix(hash);
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
	return serm_click_query_at(context, index)->hash;
}

bool
serm_click_pairs_init(SermClickPairs *pairs, SermArena *arena, uint32_t pairs_max)
{
	memset(pairs, 0, sizeof(*pairs));
	pairs->arena = arena;
	pairs->pairs_max = pairs_max;
	return serm_click_grow_table(arena, &pairs->query_table, query_hash, pairs);
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

static uint32_t
array_class(size_t size)
{
	uint32_t class = 0;

	while (ARRAY_BYTES_MIN << class < size)
		class ++;
	return class;
}

/* `size` is ARRAY_BYTES_MIN times a power of two. NULL: no memory. */
static void *
take_array(SermClickPairs *pairs, size_t size)
{
	uint32_t class = array_class(size);
	void *array = pairs->free_arrays[class];
	size_t skip;

	if (array != NULL) {
		memcpy(&pairs->free_arrays[class], array, sizeof(void *));
		return array;
	}
	skip = size >= LINE ? pairs->array_chunk_left % LINE : 0;
	if (size + skip > pairs->array_chunk_left) {
		size_t wanted = size > CHUNK_BYTES ? size : CHUNK_BYTES;

		skip = 0;
		pairs->array_chunk = serm_arena_reserve(pairs->arena, wanted);
		pairs->array_chunk_left = pairs->array_chunk != NULL ? wanted : 0;
		if (pairs->array_chunk == NULL)
			return NULL;
	}
	array = pairs->array_chunk + skip;
	pairs->array_chunk += size + skip;
	pairs->array_chunk_left -= size + skip;
	return array;
}

static void
give_array(SermClickPairs *pairs, void *array, size_t size)
{
	uint32_t class = array_class(size);

	memcpy(array, &pairs->free_arrays[class], sizeof(void *));
	pairs->free_arrays[class] = array;
}

/* Room for one more record; a chunk once made stays where it is. */
static bool
reserve_record(SermClickPairs *pairs, void ***chunks, uint32_t count, uint32_t *chunk_capacity, size_t record)
{
	uint32_t chunk = count >> SERM_CLICK_CHUNK_BITS;

	if ((count & (SERM_CLICK_CHUNK - 1)) != 0)
		return true;
	if (!serm_click_reserve(pairs->arena, (void **) chunks, chunk, chunk_capacity, sizeof(void *)))
		return false;
	(*chunks)[chunk] = serm_arena_reserve(pairs->arena, SERM_CLICK_CHUNK * record);
	return (*chunks)[chunk] != NULL;
}

uint32_t
serm_click_find_query(const SermClickPairs *pairs, const SermClickKey *key, uint64_t hash)
{
	const SermClickTable *table = &pairs->query_table;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1);; at = (at + 1) & (table->capacity - 1)) {
		const SermClickSlot *slot = &table->slots[at];

		if (slot->index == SERM_CLICK_NONE ||
		    (slot->tag == (uint32_t) (hash >> 32) &&
		        serm_click_same_key(&serm_click_query_at(pairs, slot->index)->key, key)))
			return slot->index;
	}
}

uint32_t
serm_click_find_pair(const SermClickPairs *pairs, uint32_t query, const SermClickKey *key, uint32_t hash)
{
	const SermClickQueryRecord *record = serm_click_query_at(pairs, query);

	for (uint32_t at = hash & record->document_mask;; at = (at + 1) & record->document_mask) {
		const SermClickSlot *slot = &record->documents[at];

		if (slot->index == SERM_CLICK_NONE ||
		    (slot->tag == hash && serm_click_same_key(&serm_click_pair_at(pairs, slot->index)->key, key)))
			return slot->index;
	}
}

static void
put_document(SermClickQueryRecord *query, uint32_t hash, uint32_t pair)
{
	uint32_t at = hash & query->document_mask;

	while (query->documents[at].index != SERM_CLICK_NONE)
		at = (at + 1) & query->document_mask;
	query->documents[at] = (SermClickSlot){hash, pair};
}

/* Keep the documents of a query at most three quarters full. */
static bool
grow_documents(SermClickPairs *pairs, SermClickQueryRecord *query)
{
	uint32_t old = query->document_mask + 1, wanted = query->documents == NULL ? DOCUMENTS_MIN : old * 2;
	SermClickSlot *slots = query->documents, *larger;

	if (slots != NULL && query->document_count < old / 4 * 3)
		return true;
	if (wanted == 0)
		return false;
	larger = take_array(pairs, wanted * sizeof(SermClickSlot));
	if (larger == NULL)
		return false;
	memset(larger, 0xff, wanted * sizeof(SermClickSlot));
	query->documents = larger;
	query->document_mask = wanted - 1;
	if (slots == NULL)
		return true;
	for (uint32_t i = 0; i < old; i++)
		if (slots[i].index != SERM_CLICK_NONE)
			put_document(query, slots[i].tag, slots[i].index);
	give_array(pairs, slots, old * sizeof(SermClickSlot));
	return true;
}

SermStatus
serm_click_add_query(
    SermClickPairs *pairs, const SermClickKey *key, uint64_t hash, uint32_t *number, SermError *error)
{
	SermClickQueryRecord record = {.key = *key, .hash = hash};

	if (!serm_click_grow_table(pairs->arena, &pairs->query_table, query_hash, pairs) ||
	    !reserve_record(pairs, (void ***) &pairs->queries, pairs->query_count, &pairs->query_chunk_capacity,
	        sizeof(SermClickQueryRecord)) ||
	    !keep_text(pairs, &record.key) || !grow_documents(pairs, &record))
		return serm_click_no_memory(error);
	*number = pairs->query_count++;
	*serm_click_query_at(pairs, *number) = record;
	serm_click_put_slot(&pairs->query_table, hash, *number);
	pairs->query_table.used++;
	return SERM_OK;
}

SermStatus
serm_click_add_pair(SermClickPairs *pairs, uint32_t query, const SermClickKey *key, uint32_t hash,
    uint32_t *number, SermError *error)
{
	SermClickQueryRecord *owner = serm_click_query_at(pairs, query);
	SermClickKey kept = *key;
	SermClickPairRecord *record;

	if (pairs->pair_count >= pairs->pairs_max)
		return serm_fail(error, SERM_ERR_LIMIT,
		    "the search log has more than %u distinct pairs in this window", pairs->pairs_max);
	if (!reserve_record(pairs, (void ***) &pairs->pairs, pairs->pair_count, &pairs->pair_chunk_capacity,
	        sizeof(SermClickPairRecord)) ||
	    !grow_documents(pairs, owner) || !keep_text(pairs, &kept))
		return serm_click_no_memory(error);
	*number = pairs->pair_count++;
	record = serm_click_pair_at(pairs, *number);
	record->key = kept;
	record->query = query;
	record->cell_count = 0;
	record->cell_room = SERM_CLICK_CELLS_NEAR;
	record->cells = record->near;
	put_document(owner, hash, *number);
	owner->document_count++;
	return SERM_OK;
}

/* Bytes of the array that has room for so many cells; of the cells in the record half of the first array. */
static size_t
array_bytes(uint32_t room)
{
	return ARRAY_BYTES_MIN << array_class((room - 1) * sizeof(SermClickCount));
}

/* Room for more cells of a pair, in an array of their own. */
static bool
grow_cells(SermClickPairs *pairs, SermClickPairRecord *pair)
{
	size_t size = array_bytes(pair->cell_room) * 2;
	SermClickCount *cells;

	if (size / sizeof(SermClickCount) > UINT16_MAX)
		return false;
	cells = take_array(pairs, size);
	if (cells == NULL)
		return false;
	memcpy(cells, pair->cells, pair->cell_count * sizeof(SermClickCount));
	if (pair->cells != pair->near)
		give_array(pairs, pair->cells, size / 2);
	pair->cells = cells;
	pair->cell_room = (uint16_t) (size / sizeof(SermClickCount));
	return true;
}

SermStatus
serm_click_add_cell(SermClickPairs *pairs, SermClickPairRecord *pair, uint32_t position, uint32_t previous,
    bool clicked, SermError *error)
{
	uint32_t at = 0;
	SermClickCount *cell;

	while (at < pair->cell_count &&
	       (pair->cells[at].position != position || pair->cells[at].previous != previous))
		at++;
	if (at == pair->cell_count) {
		if (at == pair->cell_room && !grow_cells(pairs, pair))
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
