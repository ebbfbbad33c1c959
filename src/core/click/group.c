/*
 * Open addressing with linear probing for queries, pairs and pages; texts in
 * chunks of their own. Arrays double, so the arena holds at most twice what they
 * need.
 *
 * A table of many pairs does not fit a cache, and each look at it would wait for
 * memory. So impressions are staged: what the next STAGE of them need is fetched
 * together, in three steps (slot, pair, cells), and then counted in their order.
 */
#include "core/click/group.h"

#include <string.h>

#include "core/base/hash.h"

#define CHUNK_BYTES ((size_t) 1 << 20)
#define NONE UINT32_MAX
#define INITIAL 1024
#define STAGE 64
#define STAGE_BYTES 8192
/* Document ids up to this length are compared without leaving the record of the pair. */
#define PREFIX 24
#define CELL_CLASSES 16

typedef struct Slot {
	uint32_t tag;   /* upper half of the hash */
	uint32_t index; /* NONE: empty */
} Slot;

typedef struct Table {
	Slot *slots;
	uint32_t capacity; /* a power of two */
	uint32_t used;
} Table;

typedef struct Cell {
	uint16_t position;
	uint16_t previous;
	uint32_t shown;
	uint32_t clicked;
} Cell;

/* One cache line. */
typedef struct Pair {
	uint64_t hash;
	const char *doc_id;
	Cell *cells;
	uint32_t length; /* of the document id */
	uint32_t query;
	uint16_t cell_count;
	uint16_t cell_class; /* room for 2 << cell_class cells */
	uint32_t unused;
	char prefix[PREFIX];
} Pair;

typedef struct Totals {
	uint64_t shown;
	uint64_t clicked;
} Totals;

/* An impression that waits to be counted. */
typedef struct Staged {
	uint64_t hash;
	SermClickText doc_id;
	uint32_t query;
	uint32_t pair; /* a guess by the tag alone, NONE: none */
	uint16_t position;
	bool clicked;
	bool page_starts;
} Staged;

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
	Pair *pairs;
	uint32_t pair_count, pair_capacity;
	Totals *totals; /* [pair_count], NULL before serm_click_grouped() */
	char *cell_chunk;
	size_t cell_chunk_left;
	void *free_cells[CELL_CLASSES]; /* arrays that were outgrown, each pointing to the next */
	size_t cell_count;
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
	Staged stage[STAGE];
	uint32_t staged;
	char stage_bytes[STAGE_BYTES];
	uint32_t stage_used;
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
	return table == &grouping->pair_table ? grouping->pairs[index].hash : grouping->pages[index].hash;
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

static bool
is_pair(const Pair *pair, uint32_t query, SermClickText doc_id)
{
	return pair->query == query && pair->length == doc_id.length &&
	       memcmp(doc_id.length <= PREFIX ? pair->prefix : pair->doc_id, doc_id.bytes, doc_id.length) == 0;
}

static uint32_t
find_pair(const SermClickGrouping *grouping, uint32_t query, SermClickText doc_id, uint64_t hash)
{
	const Table *table = &grouping->pair_table;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1);; at = (at + 1) & (table->capacity - 1)) {
		const Slot *slot = &table->slots[at];

		if (slot->index == NONE ||
		    (slot->tag == (uint32_t) (hash >> 32) && is_pair(&grouping->pairs[slot->index], query, doc_id)))
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
add_pair(SermClickGrouping *grouping, const Staged *staged, uint32_t *number, SermError *error)
{
	SermClickText kept;
	Pair *pair;

	if (grouping->pair_count >= grouping->pairs_max)
		return serm_fail(error, SERM_ERR_LIMIT,
		    "the search log has more than %u distinct pairs in this window", grouping->pairs_max);
	if (!grow_table(grouping, &grouping->pair_table) ||
	    !reserve(grouping->arena, (void **) &grouping->pairs, grouping->pair_count, &grouping->pair_capacity,
	        sizeof(Pair)) ||
	    !keep_text(grouping, staged->doc_id, &kept))
		return no_memory(error);
	pair = &grouping->pairs[grouping->pair_count];
	*pair = (Pair){.hash = staged->hash, .doc_id = kept.bytes, .length = kept.length, .query = staged->query};
	memcpy(pair->prefix, kept.bytes, kept.length < PREFIX ? kept.length : PREFIX);
	*number = grouping->pair_count++;
	put_slot(&grouping->pair_table, staged->hash, *number);
	grouping->pair_table.used++;
	return SERM_OK;
}

/* Room for twice as many cells of a pair; what it outgrows is kept for another pair. */
static bool
grow_cells(SermClickGrouping *grouping, Pair *pair)
{
	uint16_t class = pair->cell_count == 0 ? 0 : pair->cell_class + 1;
	size_t size = ((size_t) 2 << class) * sizeof(Cell);
	Cell *cells;

	if (class >= CELL_CLASSES)
		return false;
	cells = grouping->free_cells[class];
	if (cells != NULL)
		memcpy(&grouping->free_cells[class], cells, sizeof(void *));
	else {
		if (size > grouping->cell_chunk_left) {
			grouping->cell_chunk_left = size > CHUNK_BYTES ? size : CHUNK_BYTES;
			grouping->cell_chunk = serm_arena_reserve(grouping->arena, grouping->cell_chunk_left);
			if (grouping->cell_chunk == NULL) {
				grouping->cell_chunk_left = 0;
				return false;
			}
		}
		cells = (Cell *) grouping->cell_chunk;
		grouping->cell_chunk += size;
		grouping->cell_chunk_left -= size;
	}
	if (pair->cell_count > 0) {
		memcpy(cells, pair->cells, pair->cell_count * sizeof(Cell));
		memcpy(pair->cells, &grouping->free_cells[pair->cell_class], sizeof(void *));
		grouping->free_cells[pair->cell_class] = pair->cells;
	}
	pair->cells = cells;
	pair->cell_class = class;
	return true;
}

static SermStatus
add_cell(SermClickGrouping *grouping, uint32_t number, uint32_t position, uint32_t previous, bool clicked,
    SermError *error)
{
	Pair *pair = &grouping->pairs[number];
	uint32_t at = 0;
	Cell *cell;

	while (at < pair->cell_count &&
	       (pair->cells[at].position != position || pair->cells[at].previous != previous))
		at++;
	if (at == pair->cell_count) {
		bool full = at == 0 || at == (uint32_t) 2 << pair->cell_class;

		if (full && !grow_cells(grouping, pair))
			return no_memory(error);
		pair->cells[at] = (Cell){.position = (uint16_t) position, .previous = (uint16_t) previous};
		pair->cell_count++;
		grouping->cell_count++;
	}
	cell = &pair->cells[at];
	/* A cell that is full counts no more: its rate is known to nine digits. */
	if (cell->shown < UINT32_MAX) {
		cell->shown++;
		cell->clicked += clicked;
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

/* Count one impression whose memory has been fetched. */
static SermStatus
count_staged(SermClickGrouping *grouping, const Staged *staged, SermError *error)
{
	uint32_t number = staged->pair;
	SermStatus status = SERM_OK;

	if (grouping->input != SERM_CLICK_BY_POSITION && staged->page_starts)
		status = end_page(grouping, error);
	if (number == NONE || !is_pair(&grouping->pairs[number], staged->query, staged->doc_id))
		number = find_pair(grouping, staged->query, staged->doc_id, staged->hash);
	if (status == SERM_OK && number == NONE)
		status = add_pair(grouping, staged, &number, error);
	if (status != SERM_OK)
		return status;
	if (grouping->input == SERM_CLICK_BY_POSITION)
		return add_cell(grouping, number, staged->position, 0, staged->clicked, error);
	if (grouping->page_length < SERM_CLICK_POSITIONS_MAX)
		grouping->page[grouping->page_length++] =
		    (SermClickResult){number, staged->position, staged->clicked};
	return SERM_OK;
}

static SermStatus
flush_stage(SermClickGrouping *grouping, SermError *error)
{
	const Table *table = &grouping->pair_table;
	SermStatus status = SERM_OK;

	/* The slots were asked for when the impressions were staged. */
	for (uint32_t i = 0; i < grouping->staged; i++) {
		Staged *staged = &grouping->stage[i];
		uint32_t at = (uint32_t) staged->hash & (table->capacity - 1);

		while (table->slots[at].index != NONE && table->slots[at].tag != (uint32_t) (staged->hash >> 32))
			at = (at + 1) & (table->capacity - 1);
		staged->pair = table->slots[at].index;
		if (staged->pair != NONE)
			__builtin_prefetch(&grouping->pairs[staged->pair], 1);
	}
	for (uint32_t i = 0; i < grouping->staged; i++)
		if (grouping->stage[i].pair != NONE && grouping->input == SERM_CLICK_BY_POSITION) {
			const char *cells = (const char *) grouping->pairs[grouping->stage[i].pair].cells;

			__builtin_prefetch(cells, 1);
			__builtin_prefetch(cells + 64, 1);
		}
	for (uint32_t i = 0; i < grouping->staged && status == SERM_OK; i++)
		status = count_staged(grouping, &grouping->stage[i], error);
	grouping->staged = 0;
	grouping->stage_used = 0;
	return status;
}

SermStatus
serm_click_group(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id, uint32_t position,
    bool clicked, bool page_starts, SermError *error)
{
	bool fits = doc_id.length <= STAGE_BYTES;
	SermStatus status = SERM_OK;
	Staged *staged;
	uint32_t number;

	if (position < 1)
		return serm_fail(error, SERM_ERR_INVALID, "an impression has position 0");
	if (position > SERM_CLICK_POSITIONS_MAX)
		position = SERM_CLICK_POSITIONS_MAX;
	if (grouping->staged == STAGE || (fits ? grouping->stage_used + doc_id.length > STAGE_BYTES : true))
		status = flush_stage(grouping, error);
	if (status != SERM_OK)
		return status;
	if (!query_number(grouping, query, &number))
		return no_memory(error);
	if (fits) {
		char *copy = &grouping->stage_bytes[grouping->stage_used];

		if (doc_id.length > 0)
			memcpy(copy, doc_id.bytes, doc_id.length);
		grouping->stage_used += doc_id.length;
		doc_id.bytes = copy;
	}
	staged = &grouping->stage[grouping->staged++];
	*staged = (Staged){.hash = hash_of(doc_id.bytes, doc_id.length, grouping->queries[number].hash),
	    .doc_id = doc_id,
	    .query = number,
	    .position = (uint16_t) position,
	    .clicked = clicked,
	    .page_starts = page_starts};
	__builtin_prefetch(
	    &grouping->pair_table.slots[(uint32_t) staged->hash & (grouping->pair_table.capacity - 1)]);
	/* A text that is too long to be copied is gone after this call. */
	return fits ? SERM_OK : flush_stage(grouping, error);
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

static void
count_totals(SermClickGrouping *grouping)
{
	for (uint32_t p = 0; p < grouping->pair_count; p++)
		for (uint32_t i = 0; i < grouping->pairs[p].cell_count; i++) {
			grouping->totals[p].shown += grouping->pairs[p].cells[i].shown;
			grouping->totals[p].clicked += grouping->pairs[p].cells[i].clicked;
		}
	for (uint32_t g = 0; g < grouping->page_count; g++)
		for (uint32_t i = 0; i < grouping->pages[g].result_count; i++) {
			const SermClickResult *result = &grouping->results[grouping->pages[g].start + i];

			grouping->totals[result->pair].shown += grouping->pages[g].count;
			grouping->totals[result->pair].clicked += result->clicked ? grouping->pages[g].count : 0;
		}
}

SermStatus
serm_click_grouped(SermClickGrouping *grouping, SermClickData *data, SermError *error)
{
	SermStatus status = flush_stage(grouping, error);
	SermClickCell *cells;
	SermClickPage *pages;
	size_t count = 0;

	if (status == SERM_OK)
		status = end_page(grouping, error);
	if (status != SERM_OK)
		return status;
	cells = serm_arena_reserve(grouping->arena, (grouping->cell_count + 1) * sizeof(SermClickCell));
	pages = serm_arena_reserve(grouping->arena, (grouping->page_count + (size_t) 1) * sizeof(SermClickPage));
	grouping->totals = serm_arena_array(grouping->arena, grouping->pair_count, sizeof(Totals));
	if (cells == NULL || pages == NULL || grouping->totals == NULL)
		return no_memory(error);
	for (uint32_t p = 0; p < grouping->pair_count; p++)
		for (uint32_t i = 0; i < grouping->pairs[p].cell_count; i++) {
			const Cell *cell = &grouping->pairs[p].cells[i];

			cells[count++] = (SermClickCell){p, cell->position, cell->previous, cell->shown, cell->clicked};
		}
	for (uint32_t i = 0; i < grouping->page_count; i++)
		pages[i] = (SermClickPage){&grouping->results[grouping->pages[i].start],
		    grouping->pages[i].result_count, grouping->pages[i].count};
	count_totals(grouping);
	*data = (SermClickData){cells, count, pages, grouping->page_count, grouping->pair_count};
	return SERM_OK;
}

uint32_t
serm_click_pair_count(const SermClickGrouping *grouping)
{
	return grouping->pair_count;
}

SermClickPair
serm_click_pair(const SermClickGrouping *grouping, uint32_t pair)
{
	const Pair *record = &grouping->pairs[pair];
	SermClickPair result = {.doc_id = {record->doc_id, record->length}, .query = record->query};

	if (grouping->totals != NULL) {
		result.shown = grouping->totals[pair].shown;
		result.clicked = grouping->totals[pair].clicked;
	}
	return result;
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
