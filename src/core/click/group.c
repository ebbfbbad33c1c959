/*
 * A table of many pairs does not fit a cache, and each look at it would wait for
 * memory. So impressions are staged: what the next STAGE of them need is fetched
 * together, step by step (slot and record of the query, slot and record of the pair,
 * cells), and then counted in their order. Where rows of a page follow each other
 * the query is looked up once.
 */
#include "core/click/group.h"

#include <string.h>

#include "core/click/pairs.h"

#define STAGE 64
#define STAGE_BYTES 16384
/* Cells that mostly lie in one cache line. */
#define CELLS_NEAR 4

typedef struct Totals {
	uint64_t shown;
	uint64_t clicked;
} Totals;

/* An impression that waits to be counted. */
typedef struct Staged {
	uint64_t hash; /* of query and document id */
	uint64_t query_hash;
	SermClickKey query; /* only where it is another than that of the row before */
	SermClickKey doc_id;
	uint32_t query_number;
	uint32_t pair; /* a guess by the tag alone */
	uint16_t position;
	bool clicked;
	bool page_starts;
	bool query_starts;
} Staged;

typedef struct PageGroup {
	uint64_t hash;
	size_t start; /* in `results` */
	uint32_t result_count;
	uint32_t count;
} PageGroup;

struct SermClickGrouping {
	SermArena *arena;
	SermClickInput input;
	SermClickPairs known;
	SermClickTable page_table;
	Totals *totals; /* [pair_count], NULL before serm_click_grouped() */
	PageGroup *pages;
	uint32_t page_count, page_capacity;
	SermClickResult *results;
	uint32_t result_count, result_capacity;
	SermClickResult page[SERM_CLICK_POSITIONS_MAX]; /* the page that is being read */
	uint32_t page_length;
	uint64_t pages_seen;
	/* Query of the last row that was staged, of the last that was counted. */
	SermClickText last_text;
	uint64_t last_hash;
	uint32_t last_query;
	Staged stage[STAGE];
	uint32_t staged;
	char stage_bytes[STAGE_BYTES];
	uint32_t stage_used;
};

static bool
same_text(SermClickText a, SermClickText b)
{
	return a.length == b.length && serm_click_same_bytes(a.bytes, b.bytes, a.length);
}

static uint64_t
page_hash(const void *context, uint32_t index)
{
	return ((const SermClickGrouping *) context)->pages[index].hash;
}

SermClickGrouping *
serm_click_grouping(SermArena *arena, SermClickInput input, uint32_t pairs_max)
{
	SermClickGrouping *grouping = serm_arena_alloc(arena, sizeof(SermClickGrouping));

	if (grouping == NULL)
		return NULL;
	grouping->arena = arena;
	grouping->input = input;
	grouping->last_query = SERM_CLICK_NONE;
	if (!serm_click_pairs_init(&grouping->known, arena, pairs_max) ||
	    !serm_click_grow_table(arena, &grouping->page_table, page_hash, grouping))
		return NULL;
	return grouping;
}

static SermStatus
add_page(SermClickGrouping *grouping, SermError *error)
{
	size_t size = grouping->page_length * sizeof(SermClickResult);
	uint64_t hash = serm_click_hash_bytes(grouping->page, size, 0);
	SermClickTable *table = &grouping->page_table;
	PageGroup *page;

	for (uint32_t at = (uint32_t) hash & (table->capacity - 1); table->slots[at].index != SERM_CLICK_NONE;
	     at = (at + 1) & (table->capacity - 1)) {
		page = &grouping->pages[table->slots[at].index];
		if (page->hash == hash && page->result_count == grouping->page_length &&
		    memcmp(&grouping->results[page->start], grouping->page, size) == 0) {
			page->count += page->count < UINT32_MAX;
			return SERM_OK;
		}
	}
	if (!serm_click_grow_table(grouping->arena, table, page_hash, grouping) ||
	    !serm_click_reserve(grouping->arena, (void **) &grouping->pages, grouping->page_count,
	        &grouping->page_capacity, sizeof(PageGroup)))
		return serm_click_no_memory(error);
	for (uint32_t i = 0; i < grouping->page_length; i++) {
		if (!serm_click_reserve(grouping->arena, (void **) &grouping->results, grouping->result_count,
		        &grouping->result_capacity, sizeof(SermClickResult)))
			return serm_click_no_memory(error);
		grouping->results[grouping->result_count++] = grouping->page[i];
	}
	grouping->pages[grouping->page_count] =
	    (PageGroup){hash, grouping->result_count - grouping->page_length, grouping->page_length, 1};
	serm_click_put_slot(table, hash, grouping->page_count++);
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

		status = serm_click_add_cell(&grouping->known, result->pair, result->position,
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
	SermClickPairs *known = &grouping->known;
	uint32_t number = staged->pair;
	SermStatus status = SERM_OK;

	if (grouping->input != SERM_CLICK_BY_POSITION && staged->page_starts)
		status = end_page(grouping, error);
	if (number == SERM_CLICK_NONE || known->pairs[number].query != staged->query_number ||
	    !serm_click_same_key(&known->pairs[number].key, &staged->doc_id))
		number = serm_click_find_pair(known, staged->query_number, &staged->doc_id, staged->hash);
	if (status == SERM_OK && number == SERM_CLICK_NONE)
		status =
		    serm_click_add_pair(known, staged->query_number, &staged->doc_id, staged->hash, &number, error);
	if (status != SERM_OK)
		return status;
	if (grouping->input == SERM_CLICK_BY_POSITION)
		return serm_click_add_cell(known, number, staged->position, 0, staged->clicked, error);
	if (grouping->page_length < SERM_CLICK_POSITIONS_MAX)
		grouping->page[grouping->page_length++] =
		    (SermClickResult){number, staged->position, staged->clicked};
	return SERM_OK;
}

/* The numbers of the queries; their slots were asked for when the impressions were staged. */
static SermStatus
number_queries(SermClickGrouping *grouping, SermError *error)
{
	SermClickPairs *known = &grouping->known;
	SermStatus status = SERM_OK;

	for (uint32_t i = 0; i < grouping->staged; i++) {
		Staged *staged = &grouping->stage[i];

		if (!staged->query_starts)
			continue;
		staged->query_number = serm_click_guess(&known->query_table, staged->query_hash);
		if (staged->query_number != SERM_CLICK_NONE)
			__builtin_prefetch(&known->queries[staged->query_number]);
	}
	for (uint32_t i = 0; i < grouping->staged && status == SERM_OK; i++) {
		Staged *staged = &grouping->stage[i];
		uint32_t number = staged->query_number;

		if (staged->query_starts) {
			if (number == SERM_CLICK_NONE ||
			    !serm_click_same_key(&known->queries[number].key, &staged->query))
				number = serm_click_find_query(known, &staged->query, staged->query_hash);
			if (number == SERM_CLICK_NONE)
				status = serm_click_add_query(known, &staged->query, staged->query_hash, &number, error);
			grouping->last_query = number;
		}
		staged->query_number = grouping->last_query;
	}
	return status;
}

static SermStatus
flush_stage(SermClickGrouping *grouping, SermError *error)
{
	const SermClickPairs *known = &grouping->known;
	SermStatus status = number_queries(grouping, error);

	for (uint32_t i = 0; i < grouping->staged; i++) {
		Staged *staged = &grouping->stage[i];

		staged->pair = serm_click_guess(&known->pair_table, staged->hash);
		if (staged->pair != SERM_CLICK_NONE)
			__builtin_prefetch(&known->pairs[staged->pair], 1);
	}
	for (uint32_t i = 0; i < grouping->staged; i++)
		if (grouping->stage[i].pair != SERM_CLICK_NONE && grouping->input == SERM_CLICK_BY_POSITION) {
			const SermClickPairRecord *record = &known->pairs[grouping->stage[i].pair];

			__builtin_prefetch(record->cells, 1);
			if (record->cell_count > CELLS_NEAR)
				__builtin_prefetch((const char *) record->cells + 64, 1);
		}
	for (uint32_t i = 0; i < grouping->staged && status == SERM_OK; i++)
		status = count_staged(grouping, &grouping->stage[i], error);
	grouping->staged = 0;
	grouping->stage_used = 0;
	/* What was staged is gone. */
	if (status == SERM_OK && grouping->last_query != SERM_CLICK_NONE)
		grouping->last_text = serm_click_query(grouping, grouping->last_query);
	return status;
}

/* Stage a text: a short one is in its key, another is copied where there is room. */
static void
stage_text(SermClickGrouping *grouping, SermClickText text, bool fits, SermClickKey *key)
{
	char *copy = &grouping->stage_bytes[grouping->stage_used];

	serm_click_set_key(key, text.bytes, text.length);
	if (text.length <= SERM_CLICK_PREFIX)
		key->bytes = (const char *) key->prefix;
	else if (fits) {
		memcpy(copy, text.bytes, text.length);
		grouping->stage_used += text.length;
		key->bytes = copy;
	}
}

SermStatus
serm_click_group(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id, uint32_t position,
    bool clicked, bool page_starts, SermError *error)
{
	size_t size = (size_t) doc_id.length + query.length;
	bool fits = size <= STAGE_BYTES;
	SermStatus status = SERM_OK;
	Staged *staged;

	if (position < 1)
		return serm_fail(error, SERM_ERR_INVALID, "an impression has position 0");
	if (position > SERM_CLICK_POSITIONS_MAX)
		position = SERM_CLICK_POSITIONS_MAX;
	if (grouping->staged == STAGE || !fits || grouping->stage_used + size > STAGE_BYTES)
		status = flush_stage(grouping, error);
	if (status != SERM_OK)
		return status;
	staged = &grouping->stage[grouping->staged];
	staged->query_starts = (grouping->staged == 0 && grouping->last_query == SERM_CLICK_NONE) ||
	                       !same_text(grouping->last_text, query);
	if (staged->query_starts) {
		stage_text(grouping, query, fits, &staged->query);
		grouping->last_text = (SermClickText){staged->query.bytes, query.length};
		staged->query_hash = grouping->last_hash = serm_click_hash(&staged->query, 0);
		serm_click_fetch_slot(&grouping->known.query_table, staged->query_hash);
	}
	stage_text(grouping, doc_id, fits, &staged->doc_id);
	staged->hash = serm_click_hash(&staged->doc_id, grouping->last_hash);
	staged->position = (uint16_t) position;
	staged->clicked = clicked;
	staged->page_starts = page_starts;
	grouping->staged++;
	serm_click_fetch_slot(&grouping->known.pair_table, staged->hash);
	/* A text that is too long to be copied is gone after this call. */
	return fits ? SERM_OK : flush_stage(grouping, error);
}

uint32_t
serm_click_find(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id)
{
	SermClickPairs *known = &grouping->known;
	SermClickKey key;

	serm_click_set_key(&key, doc_id.bytes, doc_id.length);
	if (grouping->last_query == SERM_CLICK_NONE || !same_text(grouping->last_text, query)) {
		SermClickKey text;
		uint64_t hash;
		uint32_t number;

		serm_click_set_key(&text, query.bytes, query.length);
		hash = serm_click_hash(&text, 0);
		number = serm_click_find_query(known, &text, hash);
		if (number == SERM_CLICK_NONE)
			return SERM_CLICK_UNKNOWN;
		grouping->last_query = number;
		grouping->last_hash = hash;
		grouping->last_text = serm_click_query(grouping, number);
	}
	return serm_click_find_pair(
	    known, grouping->last_query, &key, serm_click_hash(&key, grouping->last_hash));
}

static void
count_totals(SermClickGrouping *grouping)
{
	for (uint32_t p = 0; p < grouping->known.pair_count; p++)
		for (uint32_t i = 0; i < grouping->known.pairs[p].cell_count; i++) {
			grouping->totals[p].shown += grouping->known.pairs[p].cells[i].shown;
			grouping->totals[p].clicked += grouping->known.pairs[p].cells[i].clicked;
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
	cells = serm_arena_reserve(grouping->arena, (grouping->known.cell_count + 1) * sizeof(SermClickCell));
	pages = serm_arena_reserve(grouping->arena, (grouping->page_count + (size_t) 1) * sizeof(SermClickPage));
	grouping->totals = serm_arena_array(grouping->arena, grouping->known.pair_count, sizeof(Totals));
	if (cells == NULL || pages == NULL || grouping->totals == NULL)
		return serm_click_no_memory(error);
	for (uint32_t p = 0; p < grouping->known.pair_count; p++)
		for (uint32_t i = 0; i < grouping->known.pairs[p].cell_count; i++) {
			const SermClickCount *cell = &grouping->known.pairs[p].cells[i];

			cells[count++] = (SermClickCell){p, cell->position, cell->previous, cell->shown, cell->clicked};
		}
	for (uint32_t i = 0; i < grouping->page_count; i++)
		pages[i] = (SermClickPage){&grouping->results[grouping->pages[i].start],
		    grouping->pages[i].result_count, grouping->pages[i].count};
	count_totals(grouping);
	*data = (SermClickData){cells, count, pages, grouping->page_count, grouping->known.pair_count};
	return SERM_OK;
}

uint32_t
serm_click_pair_count(const SermClickGrouping *grouping)
{
	return grouping->known.pair_count;
}

SermClickPair
serm_click_pair(const SermClickGrouping *grouping, uint32_t pair)
{
	const SermClickPairRecord *record = &grouping->known.pairs[pair];
	SermClickPair result = {.doc_id = {record->key.bytes, record->key.length}, .query = record->query};

	if (grouping->totals != NULL) {
		result.shown = grouping->totals[pair].shown;
		result.clicked = grouping->totals[pair].clicked;
	}
	return result;
}

SermClickText
serm_click_query(const SermClickGrouping *grouping, uint32_t query)
{
	const SermClickKey *key = &grouping->known.queries[query].key;

	return (SermClickText){key->bytes, key->length};
}

uint64_t
serm_click_pages_seen(const SermClickGrouping *grouping)
{
	return grouping->pages_seen;
}
