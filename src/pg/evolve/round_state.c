/*
 * The state machine's memory: rows of serm.round. A round is unfinished while
 * its phase is one of mining, annotating, training and gating; every phase ends
 * with one transaction that stores its result and names the next phase, so a
 * process that dies repeats at most the phase it was in.
 */
#include "pg/serm.h"

#include <math.h>

#include "pg/evolve/round.h"

#define SELECT_UNFINISHED                                                                                    \
	"SELECT r.round, r.phase, r.candidate, r.options FROM serm.round r WHERE r.model = $1"                   \
	" AND r.phase IN ('mining', 'annotating', 'training', 'gating') ORDER BY r.round DESC LIMIT 1"

static SermParam
jsonb_param(const Jsonb *value)
{
	return value == NULL ? SERM_NULL(JSONBOID) : SERM_DATUM(JSONBOID, JsonbPGetDatum(value));
}

static void
set_phase(SermRound *round, const char *phase)
{
	strlcpy(round->phase, phase, sizeof(round->phase));
	round->phase_started = serm_progress_clock(NULL);
}

/* Read into memory that lasts as long as the round: SPI leaves its own behind, which annotating frees. */
static void
read_settings(SermRound *round, const Jsonb *options)
{
	MemoryContext previous = MemoryContextSwitchTo(MemoryContextGetParent(round->context));

	serm_round_settings_read(options, round->row->kind, &round->settings);
	MemoryContextSwitchTo(previous);
}

bool
serm_round_resume(SermRound *round, const Jsonb *given)
{
	SermParam find[] = {SERM_TEXT(round->row->name)};
	Jsonb *options;
	Datum value;
	bool null, restart;

	serm_spi_execute(SELECT_UNFINISHED, SPI_OK_SELECT, false, find, lengthof(find));
	if (SPI_processed == 0)
		return false;
	round->number = DatumGetInt32(serm_spi_value(0, 1, &null));
	set_phase(round, serm_spi_string(0, 2));
	value = serm_spi_value(0, 3, &null);
	round->candidate = null ? 0 : DatumGetInt32(value);
	options = DatumGetJsonbP(serm_spi_value(0, 4, &null));
	read_settings(round, given);
	restart = round->settings.restart;
	/* The options of a restart are those of the next round. */
	if (!restart)
		options = serm_round_options_lay(options, given, round->phase);
	read_settings(round, options);
	round->settings.restart = restart;
	if (JB_ROOT_COUNT(given) > 0 && !restart) {
		SermParam store[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number),
		    jsonb_param(serm_round_settings_write(round->row, &round->settings))};

		serm_spi_execute(
		    "UPDATE serm.round SET options = $3 WHERE model = $1 AND round = $2 RETURNING options",
		    SPI_OK_UPDATE_RETURNING, false, store, lengthof(store));
		read_settings(round, DatumGetJsonbPCopy(serm_spi_value(0, 1, &null)));
	}
	return true;
}

void
serm_round_start(SermRound *round, const Jsonb *given)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_NULL(JSONBOID), SERM_INT4(round->row->active)};
	bool null;

	read_settings(round, given);
	params[1] = jsonb_param(serm_round_settings_write(round->row, &round->settings));
	/* A round ends where it began: what is logged meanwhile is the next one's. */
	serm_spi_execute("INSERT INTO serm.round (model, round, phase, options, parent)"
	                 " SELECT $1, coalesce(pg_catalog.max(r.round), 0) + 1, 'mining',"
	                 " $2 || pg_catalog.jsonb_build_object('until', coalesce(nullif($2 -> 'until', 'null'),"
	                 " pg_catalog.to_jsonb(pg_catalog.now()))), $3 FROM serm.round r WHERE r.model = $1"
	                 " RETURNING round, options",
	    SPI_OK_INSERT_RETURNING, false, params, lengthof(params));
	round->number = DatumGetInt32(serm_spi_value(0, 1, &null));
	round->candidate = 0;
	read_settings(round, DatumGetJsonbPCopy(serm_spi_value(0, 2, &null)));
	set_phase(round, "mining");
}

static Jsonb *
phase_seconds(const SermRound *round)
{
	StringInfo json = serm_json_begin();

	serm_json_number(
	    json, round->phase, rint((serm_progress_clock(NULL) - round->phase_started) * 1e3) / 1e3);
	return serm_json_end(json);
}

void
serm_round_advance(SermRound *round, const char *phase, const Jsonb *counts, const Jsonb *metrics)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number), SERM_TEXT(phase),
	    jsonb_param(counts), jsonb_param(metrics), jsonb_param(phase_seconds(round)),
	    round->candidate > 0 ? SERM_INT4(round->candidate) : SERM_NULL(INT4OID)};

	serm_spi_execute("UPDATE serm.round SET phase = $3, counts = counts || coalesce($4, '{}'),"
	                 " metrics = metrics || coalesce($5, '{}'), timings = timings || $6,"
	                 " candidate = coalesce($7, candidate) WHERE model = $1 AND round = $2",
	    SPI_OK_UPDATE, false, params, lengthof(params));
	if (SPI_processed != 1)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("round %d of model \"%s\" has gone", round->number, round->row->name));
	set_phase(round, phase);
}

void
serm_round_finish(
    SermRound *round, const char *phase, const char *reason, const Jsonb *counts, const Jsonb *metrics)
{
	SermParam params[] = {
	    SERM_TEXT(round->row->name), SERM_INT4(round->number), SERM_TEXT(phase), SERM_TEXT(reason)};

	serm_round_advance(round, phase, counts, metrics);
	serm_spi_execute(
	    "UPDATE serm.round SET decision = $3, reason = $4, finished = pg_catalog.clock_timestamp()"
	    " WHERE model = $1 AND round = $2",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}
