/*
 * Two windows of a search log, sampled by page in one pass (drift_log.c), and
 * what the tests of core/stats/shift.h say of them (drift.c).
 */
#ifndef SERM_PG_MINE_DRIFT_H
#define SERM_PG_MINE_DRIFT_H

#include "pg/serm.h"

#include "pg/store/store.h"
#include "utils/rangetypes.h"

/* An impression of a sampled page. */
typedef struct SermDriftRow {
	uint64 unit; /* hash of the key of its page */
	char *query;
	char *doc_id;
	char *segment; /* NULL: none */
	float score;   /* NaN: not scored */
	bool recent;
	bool clicked;
} SermDriftRow;

typedef struct SermDriftLog {
	MemoryContext context;
	SermDriftRow *rows; /* those of a page together */
	uint32 count;
} SermDriftLog;

/*
 * Read both windows, inside serm_spi_begin(), keeping whole pages: at most `rows_max` impressions of each.
 * Errors: 22023 windows that are empty or overlap; those of serm_source_name().
 */
extern void serm_drift_read(
    SermDriftLog *log, const SermModelRow *model, RangeType *reference, RangeType *recent, uint32 rows_max);

/* Score the pairs of the sample whose documents are there; needs an active version. Inside serm_spi_begin().
 */
extern void serm_drift_score(SermDriftLog *log, const SermModelRow *model);

#endif
