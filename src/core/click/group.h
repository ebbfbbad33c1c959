/*
 * A search log reduced to counts while it streams by: queries and pairs become
 * numbers, impressions become cells or distinct pages. Memory grows with the
 * groups, never with the impressions. Pairs are told apart by their bytes, the
 * hash only finds them.
 */
#ifndef SERM_CORE_CLICK_GROUP_H
#define SERM_CORE_CLICK_GROUP_H

#include "core/click/click.h"

typedef struct SermClickText {
	const char *bytes;
	uint32_t length;
} SermClickText;

typedef struct SermClickPair {
	SermClickText doc_id;
	uint32_t query; /* number of its query */
	/* Over all of its impressions; known once serm_click_grouped() was called. */
	uint64_t shown;
	uint64_t clicked;
} SermClickPair;

typedef struct SermClickGrouping SermClickGrouping;

/* `pairs_max` is the limit of distinct pairs. NULL: no memory. */
extern SermClickGrouping *serm_click_grouping(SermArena *arena, SermClickInput input, uint32_t pairs_max);

/*
 * One impression. A batch of them is looked up together, so an error may tell of an earlier one.
 * `page_starts` where it is the first of a page; with SERM_CLICK_BY_POSITION it does not matter. Within a
 * page, rows come from the top. Positions from SERM_CLICK_POSITIONS_MAX on count as one, and of a page that
 * is longer only so many results. Errors: LIMIT more than pairs_max pairs, INVALID position 0, MEMORY.
 */
extern SermStatus serm_click_group(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id,
    uint32_t position, bool clicked, bool page_starts, SermError *error);

/* Number of a pair that was seen, else SERM_CLICK_UNKNOWN; after serm_click_grouped(). */
extern uint32_t serm_click_find(SermClickGrouping *grouping, SermClickText query, SermClickText doc_id);

/* The counts; nothing may be added after. */
extern SermStatus serm_click_grouped(SermClickGrouping *grouping, SermClickData *data, SermError *error);
extern uint32_t serm_click_pair_count(const SermClickGrouping *grouping);
extern SermClickPair serm_click_pair(const SermClickGrouping *grouping, uint32_t pair);
extern SermClickText serm_click_query(const SermClickGrouping *grouping, uint32_t query);
extern uint64_t serm_click_pages_seen(const SermClickGrouping *grouping);

#endif
