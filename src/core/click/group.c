/*
 * Open addressing with linear probing for queries, pairs and pages; texts in
 * chunks of their own; the cells of a pair in a chain, which is short because a
 * pair is shown at few positions. Arrays double, so the arena holds at most twice
 * what they need.
 */
#include "core/click/group.h"

#include <string.h>

#include "core/base/hash.h"

#define CHUNK_BYTES ((size_t) 1 << 20)
#define NONE UINT32_MAX
#define INITIAL 1024

typedef struct Slot {
	uint32_t tag;   /* upper half of the hash */
	uint32_t index; /* NONE: empty */
} Slot;

typedef struct Table {
	Slot *slots;
	uint32_t capacity; /* a power of two */
	uint32_t used;
} Table;

typedef struct ChainedCell {
	SermClickCell cell;
	uint32_t next;
} ChainedCell;

typedef struct Query {
	SermClickText text;
	uint64_t hash;
} Query;

typedef struct PageGroup {
	uint64_t hash;
	size_t start; /* in `results` */
	uint32_t result_count;
	uint32_t count;
} PageGroup;

struct SermClickGrouping {
	SermArena *arena;
	SermClickInput input;
	uint32_t pairs_max;
	Table query_table, pair_table, page_table;
	Query *queries;
	uint32_t query_count, query_capacity;
	SermClickPair *pairs;
	uint64_t *pair_hash;
	uint32_t pair_count, pair_capacity, hash_capacity;
	ChainedCell *cells;
	uint32_t cell_count, cell_capacity;
	PageGroup *pages;
	uint32_t page_count, page_capacity;
	SermClickResult *results;
	uint32_t result_count, result_capacity;
	char *chunk;
	size_t chunk_left;
	uint32_t last_query;                            /* of the previous row */
	SermClickResult page[SERM_CLICK_POSITIONS_MAX]; /* the page that is being read */
	uint32_t page_length;
	uint64_t pages_seen;
};

/* Eight bytes a step: long ids and queries are hashed once per row. Not stored, so free to change. */
static uint64_t
hash_of(const void *bytes, size_t length, uint64_t seed)
{
	const unsigned char *at = bytes;
	uint64_t hash = seed ^ (length * UINT64_C(0x9e3779b97f4a7c15)), word = 0;

	for (; length >= 8; length -= 8, at += 8) {
		memcpy(&word, at, 8);
		hash = (hash ^ word) * UINT64_C(0xbf58476d1ce4e5b9);
		hash ^= hash >> 32;
	}
	word = 0;
	for (size_t i = 0; i < length; i++)
		word |= (uint64_t) at[i] << (8 * i);
	return serm_hash_mix(hash ^ word);
}

static SermStatus
no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "no memory to group the search log");
}

/* Room for one more element. */
static bool
reserve(SermArena *arena, void **array, uint32_t count, uint32_t *capacity, size_t element)
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

static void
put_slot(Table *table, uint64_t hash, uint32_t index)
{
	uint32_t at = (uint32_t) hash & (table->capacity - 1);

	while (table->slots[at].index != NONE)
		at = (at + 1) & (table->capacity - 1);
	table->slots[at] = (Slot){(uint32_t) (hash >> 32), index};
}

static uint64_t
hash_at(const SermClickGrouping *grouping, const Table *table, uint32_t index)
{
	if (table == &grouping->query_table)
		return grouping->queries[index].hash;
	return table == &grouping->pair_table ? grouping->pair_hash[index] : grouping->pages[index].hash;
}

/* Keep the table at most half full. */
static bool
grow_table(SermClickGrouping *grouping, Table *table)
{
	uint32_t old = table->capacity;
	Slot *slots = table->slots;

	if (table->used < old / 2)
		return true;
	if (old >= UINT32_C(1) << 31)
		return false;
	table->capacity = old == 0 ? INITIAL : old * 2;
	table->slots = serm_arena_reserve(grouping->arena, table->capacity * sizeof(Slot));
	if (table->slots == NULL)
		return false;
	memset(table->slots, 0xff, table->capacity * sizeof(Slot));
	for (uint32_t i = 0; i < old; i++)
		if (slots[i].index != NONE)
			put_slot(table, hash_at(grouping, table, slots[i].index), slots[i].index);
	return true;
}

static bool
keep_text(SermClickGrouping *grouping, SermClickText text, SermClickText *kept)
{
	if (text.length > grouping->chunk_left) {
		size_t size = text.length > CHUNK_BYTES ? text.length : CHUNK_BYTES;

		grouping->chunk = serm_arena_reserve(grouping->arena, size);
		if (grouping->chunk == NULL) {
			grouping->chunk_left = 0;
			return false;
		}
		grouping->chunk_left = size;
	}
	if (text.length > 0)
		memcpy(grouping->chunk, text.bytes, text.length);
	*kept = (SermClickText){grouping->chunk, text.length};
	grouping->chunk += text.length;
	grouping->chunk_left -= text.length;
	return true;
}

static bool
same_text(SermClickText a, SermClickText b)
{
	return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

SermClickGrouping *
serm_click_grouping(SermArena *arena, SermClickInput input, uint32_t pairs_max)
{
	SermClickGrouping *grouping = serm_arena_alloc(arena, sizeof(SermClickGrouping));

	if (grouping == NULL)
		return NULL;
	grouping->arena = arena;
	grouping->input = input;
	grouping->pairs_max = pairs_max;
	grouping->last_query = NONE;
	if (!grow_table(grouping, &grouping->query_table) || !grow_table(grouping, &grouping->pair_table) ||
	    !grow_table(grouping, &grouping->page_table))
		return NULL;
	return grouping;
}

static uint32_t
find_query(const SermClickGrouping *grouping, SermClickText text, uint64_t hash)
{
	const Table *table = &grouping->query_table;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1);; at = (at + 1) & (table->capacity - 1)) {
		const Slot *slot = &table->slots[at];

		if (slot->index == NONE ||
		    (slot->tag == (uint32_t) (hash >> 32) && same_text(grouping->queries[slot->index].text, text)))
			return slot->index;
	}
}

static uint32_t
find_pair(const SermClickGrouping *grouping, uint32_t query, SermClickText doc_id, uint64_t hash)
{
	const Table *table = &grouping->pair_table;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1);; at = (at + 1) & (table->capacity - 1)) {
		const Slot *slot = &table->slots[at];
		const SermClickPair *pair;

		if (slot->index == NONE)
			return NONE;
		pair = &grouping->pairs[slot->index];
		if (slot->tag == (uint32_t) (hash >> 32) && pair->query == query && same_text(pair->doc_id, doc_id))
			return slot->index;
	}
}

/* Rows of a page follow each other: the query is mostly that of the row before. */
static bool
query_number(SermClickGrouping *grouping, SermClickText text, uint32_t *number)
{
	uint64_t hash;
	Query *query;

	if (grouping->last_query != NONE && same_text(grouping->queries[grouping->last_query].text, text)) {
		*number = grouping->last_query;
		return true;
	}
	hash = hash_of(text.bytes, text.length, 0);
	*number = find_query(grouping, text, hash);
	if (*number == NONE) {
		if (!grow_table(grouping, &grouping->query_table) ||
		    !reserve(grouping->arena, (void **) &grouping->queries, grouping->query_count,
		        &grouping->query_capacity, sizeof(Query)))
			return false;
		query = &grouping->queries[grouping->query_count];
		query->hash = hash;
		if (!keep_text(grouping, text, &query->text))
			return false;
		*number = grouping->query_count++;
		put_slot(&grouping->query_table, hash, *number);
		grouping->query_table.used++;
	}
	grouping->last_query = *number;
	return true;
}

static SermStatus
pair_number(
    SermClickGrouping *grouping, uint32_t query, SermClickText doc_id, uint32_t *number, SermError *error)
{
	uint64_t hash = hash_of(doc_id.bytes, doc_id.length, grouping->queries[query].hash);
	SermClickPair *pair;

	*number = find_pair(grouping, query, doc_id, hash);
	if (*number != NONE)
		return SERM_OK;
	if (grouping->pair_count >= grouping->pairs_max)
		return serm_fail(error, SERM_ERR_LIMIT,
		    "the search log has more than %u distinct pairs in this window", grouping->pairs_max);
	if (!grow_table(grouping, &grouping->pair_table) ||
	    !reserve(grouping->arena, (void **) &grouping->pairs, grouping->pair_count, &grouping->pair_capacity,
	        sizeof(SermClickPair)) ||
	    !reserve(grouping->arena, (void **) &grouping->pair_hash, grouping->pair_count,
	        &grouping->hash_capacity, sizeof(uint64_t)))
		return no_memory(error);
	pair = &grouping->pairs[grouping->pair_count];
	*pair = (SermClickPair){.query = query, .first_cell = NONE};
	if (!keep_text(grouping, doc_id, &pair->doc_id))
		return no_memory(error);
	grouping->pair_hash[grouping->pair_count] = hash;
	*number = grouping->pair_count++;
	put_slot(&grouping->pair_table, hash, *number);
	grouping->pair_table.used++;
	return SERM_OK;
}

static SermStatus
add_cell(SermClickGrouping *grouping, uint32_t pair, uint32_t position, uint32_t previous, bool clicked,
    SermError *error)
{
	uint32_t at = grouping->pairs[pair].first_cell;
	ChainedCell *chained;

	for (; at != NONE; at = grouping->cells[at].next)
		if (grouping->cells[at].cell.position == position && grouping->cells[at].cell.previous == previous)
			break;
	if (at == NONE) {
		if (!reserve(grouping->arena, (void **) &grouping->cells, grouping->cell_count,
		        &grouping->cell_capacity, sizeof(ChainedCell)))
			return no_memory(error);
		at = grouping->cell_count++;
		grouping->cells[at] = (ChainedCell){
		    .cell = {.pair = pair, .position = (uint16_t) position, .previous = (uint16_t) previous},
		    .next = grouping->pairs[pair].first_cell};
		grouping->pairs[pair].first_cell = at;
	}
	chained = &grouping->cells[at];
	/* A cell that is full counts no more: its rate is known to nine digits. */
	if (chained->cell.shown < UINT32_MAX) {
		chained->cell.shown++;
		chained->cell.clicked += clicked;
	}
	return SERM_OK;
}

static SermStatus
add_page(SermClickGrouping *grouping, SermError *error)
{
	size_t size = grouping->page_length * sizeof(SermClickResult);
	uint64_t hash = hash_of(grouping->page, size, 0);
	Table *table = &grouping->page_table;
	PageGroup *page;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1); table->slots[at].index != NONE;
	     at = (at + 1) & (table->capacity - 1)) {
		page = &grouping->pages[table->slots[at].index];
		if (page->hash == hash && page->result_count == grouping->page_length &&
		    memcmp(&grouping->results[page->start], grouping->page, size) == 0) {
			page->count += page->count < UINT32_MAX;
			return SERM_OK;
		}
	}
	if (!grow_table(grouping, table) ||
	    !reserve(grouping->arena, (void **) &grouping->pages, grouping->page_count, &grouping->page_capacity,
	        sizeof(PageGroup)))
		return no_memory(error);
	for (uint32_t i = 0; i < grouping->page_length; i++) {
		if (!reserve(grouping->arena, (void **) &grouping->results, grouping->result_count,
		        &grouping->result_capacity, sizeof(SermClickResult)))
			return no_memory(error);
		grouping->results[grouping->result_count++] = grouping->page[i];
	}
	grouping->pages[grouping->page_count] =
	    (PageGroup){hash, grouping->result_count - grouping->page_length, grouping->page_length, 1};
	put_slot(table, hash, grouping->page_count++);
	table->used++;
	return SERM_OK;
}

/* The page that was being read is whole. */
static SermStatus
end_page(SermClickGrouping *grouping, SermError *error)
{
	SermStatus status = SERM_OK;
	uint32_t previous = 0;

	if (grouping->page_length == 0)
		return SERM_OK;
	grouping->pages_seen++;
	if (grouping->input == SERM_CLICK_BY_PAGE)
		status = add_page(grouping, error);
	for (uint32_t i = 0;
	     grouping->input == SERM_CLICK_BY_PREVIOUS && i < grouping->page_length && status == SERM_OK; i++) {
		const SermClickResult *result = &grouping->page[i];

		status = add_cell(grouping, result->pair, result->position,
		    previous < result->position ? previous : 0, result->clicked != 0, error);
		if (result->clicked != 0)
			previous = result->position;
	}
	grouping->page_length = 0;
	return status;
}

SermStatus
serm_click_group(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id, uint32_t position,
    bool clicked, bool page_starts, SermError *error)
{
	SermStatus status = SERM_OK;
	uint32_t number, pair;

	if (position < 1)
		return serm_fail(error, SERM_ERR_INVALID, "an impression has position 0");
	if (position > SERM_CLICK_POSITIONS_MAX)
		position = SERM_CLICK_POSITIONS_MAX;
	if (!query_number(grouping, query, &number))
		return no_memory(error);
	if (grouping->input != SERM_CLICK_BY_POSITION && page_starts)
		status = end_page(grouping, error);
	if (status == SERM_OK)
		status = pair_number(grouping, number, doc_id, &pair, error);
	if (status != SERM_OK)
		return status;
	if (grouping->input != SERM_CLICK_BY_POSITION && grouping->page_length == SERM_CLICK_POSITIONS_MAX)
		return SERM_OK;
	grouping->pairs[pair].shown++;
	grouping->pairs[pair].clicked += clicked;
	if (grouping->input == SERM_CLICK_BY_POSITION)
		return add_cell(grouping, pair, position, 0, clicked, error);
	grouping->page[grouping->page_length++] = (SermClickResult){pair, (uint16_t) position, clicked};
	return SERM_OK;
}

uint32_t
serm_click_find(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id)
{
	uint32_t number = grouping->last_query;

	if (number == NONE || !same_text(grouping->queries[number].text, query))
		number = find_query(grouping, query, hash_of(query.bytes, query.length, 0));
	if (number == NONE)
		return SERM_CLICK_UNKNOWN;
	grouping->last_query = number;
	return find_pair(
	    grouping, number, doc_id, hash_of(doc_id.bytes, doc_id.length, grouping->queries[number].hash));
}

SermStatus
serm_click_grouped(SermClickGrouping *grouping, SermClickData *data, SermError *error)
{
	SermStatus status = end_page(grouping, error);
	SermClickCell *cells =
	    serm_arena_reserve(grouping->arena, (grouping->cell_count + (size_t) 1) * sizeof(SermClickCell));
	SermClickPage *pages =
	    serm_arena_reserve(grouping->arena, (grouping->page_count + (size_t) 1) * sizeof(SermClickPage));
	size_t count = 0;

	if (status != SERM_OK)
		return status;
	if (cells == NULL || pages == NULL)
		return no_memory(error);
	for (uint32_t p = 0; p < grouping->pair_count; p++)
		for (uint32_t at = grouping->pairs[p].first_cell; at != NONE; at = grouping->cells[at].next)
			cells[count++] = grouping->cells[at].cell;
	for (uint32_t i = 0; i < grouping->page_count; i++)
		pages[i] = (SermClickPage){&grouping->results[grouping->pages[i].start],
		    grouping->pages[i].result_count, grouping->pages[i].count};
	*data = (SermClickData){cells, count, pages, grouping->page_count, grouping->pair_count};
	return SERM_OK;
}

const SermClickPair *
serm_click_pairs(const SermClickGrouping *grouping, uint32_t *count)
{
	*count = grouping->pair_count;
	return grouping->pairs;
}

SermClickText
serm_click_query(const SermClickGrouping *grouping, uint32_t query)
{
	return grouping->queries[query].text;
}

uint64_t
serm_click_pages_seen(const SermClickGrouping *grouping)
{
	return grouping->pages_seen;
}
