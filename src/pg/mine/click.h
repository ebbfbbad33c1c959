/*
 * Click models of a search log: the log as groups (click_log.c), the fit and
 * its tables (click.c), and what they say (click_say.c).
 */
#ifndef SERM_PG_MINE_CLICK_H
#define SERM_PG_MINE_CLICK_H

#include "pg/serm.h"

#include "core/click/group.h"
#include "pg/store/store.h"
#include "utils/timestamp.h"

typedef struct SermClickWindow {
	bool has_since, has_until;
	TimestampTz since, until;
} SermClickWindow;

/*
 * Read the log of a model, inside serm_spi_begin(), with the caller's rights. For a kind that needs pages it
 * is ordered by shown_at, session_id and query, and rows that agree in all three are one page.
 * Rows as in mining: without query, document id, time or position they are skipped.
 * Errors: as serm_source_name(); 54000 more than serm.mine_pairs_max pairs; 53200.
 */
extern SermClickGrouping *serm_click_log_read(
    SermHost *host, const SermModelRow *model, const SermClickWindow *window, SermClickInput input);

/* The kind of that name. Error 22023: unknown. */
extern const SermClickKind *serm_click_kind_named(const char *name);

#endif
