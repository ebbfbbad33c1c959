/*
 * The chance that a click judgment's document was examined: clicks say nothing
 * of documents that nobody looked at, so what was shown far down counts more
 * (inverse propensity scoring, Joachims, Swaminathan and Schnabel, WSDM 2017).
 * The chance by position comes from the position-based click model of the whole
 * log: the one that serm.fit_click_model left, if it is of this log and of the last
 * day, else one that is fitted here. That of a pair is the mean over its impressions.
 */
#include "pg/serm.h"

#include "miscadmin.h"

#include "core/base/hash.h"
#include "core/click/pbm.h"
#include "pg/evolve/evolve.h"
#include "utils/hsearch.h"

/* Positions from here on count as one. */
#define POSITIONS 100
#define POSITIONS_TOLD 20

/* A pair with a click judgment, by the hash of its query and document id. */
typedef struct Judged {
	uint64 key;
	double examined; /* sum over impressions */
	double shown;
} Judged;

/* The counts of the log, or what the stored model made of them. */
struct SermClickLog {
	SermHost *host;
	bool stored;
	double theta[POSITIONS]; /* of the stored model; 0 where nothing was shown */
	double *examined;        /* [count] of the stored model: mean chance of the pair of that key */
	SermClickCell *cells;
	uint64 *keys; /* [cell] */
	size_t count;
	size_t capacity;
	uint32 pairs;
	uint64 last;
};

static uint64
key_of(SermText query, SermText doc_id)
{
	return serm_hash_bytes(doc_id.bytes, doc_id.length, serm_hash_bytes(query.bytes, query.length, 0));
}

/* An array of twice as many elements, with those that there are. */
static void *
enlarge(SermClickLog *reading, const void *from, size_t size)
{
	void *larger = serm_arena_array(&reading->host->arena, Max(reading->capacity * 2, 1024), size);

	if (larger == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY),
		    errmsg("the search log does not fit in %d MB", serm_train_memory_mb),
		    errhint("Raise serm.train_memory, or leave the option \"propensity\" out."));
	return reading->count > 0 ? memcpy(larger, from, reading->count * size) : larger;
}

static uint64
key_of_row(uint64 row)
{
	char *query = serm_spi_string(row, 1), *doc_id = serm_spi_string(row, 2);
	uint64 key = key_of((SermText){query, strlen(query)}, (SermText){doc_id, strlen(doc_id)});

	pfree(query);
	pfree(doc_id);
	return key;
}

static void
read_cell(void *state, uint64 row)
{
	SermClickLog *reading = state;
	bool null;
	uint64 key = key_of_row(row);

	if (reading->count == reading->capacity) {
		reading->cells = enlarge(reading, reading->cells, sizeof(SermClickCell));
		reading->keys = enlarge(reading, reading->keys, sizeof(uint64));
		reading->capacity = Max(reading->capacity * 2, 1024);
	}
	/* Rows come by pair. */
	reading->pairs += reading->count == 0 || key != reading->last;
	reading->last = key;
	reading->keys[reading->count] = key;
	reading->cells[reading->count++] = (SermClickCell){.pair = reading->pairs - 1,
	    .position = (uint16) DatumGetInt32(serm_spi_value(row, 3, &null)),
	    .shown = (uint32) DatumGetInt32(serm_spi_value(row, 4, &null)),
	    .clicked = (uint32) DatumGetInt32(serm_spi_value(row, 5, &null))};
}

static void
read_examined(void *state, uint64 row)
{
	SermClickLog *reading = state;
	bool null;

	if (reading->count == reading->capacity) {
		reading->examined = enlarge(reading, reading->examined, sizeof(double));
		reading->keys = enlarge(reading, reading->keys, sizeof(uint64));
		reading->capacity = Max(reading->capacity * 2, 1024);
	}
	reading->keys[reading->count] = key_of_row(row);
	reading->examined[reading->count++] = DatumGetFloat8(serm_spi_value(row, 3, &null));
}

static HTAB *
click_judgments(const SermPairSet *set)
{
	HASHCTL control = {.keysize = sizeof(uint64), .entrysize = sizeof(Judged), .hcxt = CurrentMemoryContext};
	HTAB *table = hash_create("serm propensities", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	for (size_t i = 0; i < set->pair_count; i++) {
		const SermPair *pair = &set->pairs[i];
		uint64 key = key_of(set->queries[pair->query].text, pair->doc_id);
		Judged *judged;
		bool found;

		if (pair->source != SERM_SOURCE_CLICKS || pair->doc_id.length == 0)
			continue;
		judged = hash_search(table, &key, HASH_ENTER, &found);
		if (!found)
			*judged = (Judged){.key = key};
	}
	return table;
}

/* Examination by position, for the version's config. */
static Jsonb *
describe(const double *theta, uint32 count)
{
	StringInfo json = serm_json_begin();

	for (uint32 p = 0; p < Min(count, POSITIONS_TOLD); p++)
		if (theta[p] > 0)
			serm_json_number(json, psprintf("%u", p + 1), theta[p]);
	return serm_json_end(json);
}

/* What the log says of the judged pairs; others have been examined. */
static float *
propensities(SermHost *host, const SermPairSet *set, const SermClickLog *reading, const double *theta)
{
	HTAB *table = click_judgments(set);
	float *result = serm_arena_array(&host->arena, Max(set->pair_count, 1), sizeof(float));
	SermError error = {0};

	if (result == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	for (size_t i = 0; i < reading->count; i++) {
		Judged *judged = hash_search(table, &reading->keys[i], HASH_FIND, NULL);
		double shown = reading->stored ? 1 : reading->cells[i].shown;

		CHECK_FOR_INTERRUPTS();
		if (judged == NULL)
			continue;
		judged->shown += shown;
		judged->examined +=
		    reading->stored ? reading->examined[i] : shown * theta[reading->cells[i].position - 1];
	}
	for (size_t i = 0; i < set->pair_count; i++) {
		const SermPair *pair = &set->pairs[i];
		uint64 key = key_of(set->queries[pair->query].text, pair->doc_id);
		const Judged *judged =
		    pair->source == SERM_SOURCE_CLICKS ? hash_search(table, &key, HASH_FIND, NULL) : NULL;

		result[i] = 1;
		if (judged != NULL && judged->shown > 0)
			result[i] = (float) Max(1e-6, Min(1, judged->examined / judged->shown));
	}
	hash_destroy(table);
	return result;
}

/* What serm.fit_click_model left, if that says what a fit here would: of this log, all of it, and fresh. */
static bool
read_stored(SermClickLog *reading, const SermModelRow *row)
{
	SermParam params[] = {
	    SERM_TEXT(row->name), SERM_DATUM(REGCLASSOID, ObjectIdGetDatum(row->log)), SERM_INT4(POSITIONS)};
	bool null;

	serm_spi_execute(
	    "SELECT p.\"position\", p.examination FROM serm.click_model AS c JOIN serm.click_param AS p"
	    " ON p.model = c.model AND p.kind = c.kind WHERE c.model = $1 AND c.kind = 'pbm'"
	    " AND c.log = $2 AND c.converged AND c.since IS NULL"
	    " AND coalesce(c.until, c.fitted) >= now() - interval '1 day'"
	    " AND p.query IS NULL AND p.\"position\" BETWEEN 1 AND $3",
	    SPI_OK_SELECT, true, params, lengthof(params));
	reading->stored = SPI_processed > 0;
	for (uint64 i = 0; i < SPI_processed; i++)
		reading->theta[DatumGetInt32(serm_spi_value(i, 1, &null)) - 1] =
		    DatumGetFloat8(serm_spi_value(i, 2, &null));
	if (reading->stored)
		serm_read_rows("SELECT p.query, p.doc_id, p.examination FROM serm.click_param AS p JOIN"
		               " (SELECT DISTINCT j.query, j.doc_id FROM serm.judgment AS j"
		               " WHERE j.model = $1 AND j.source = 'clicks') AS s USING (query, doc_id)"
		               " WHERE p.model = $1 AND p.kind = 'pbm'",
		    params, 1, read_examined, reading);
	return reading->stored;
}

const SermClickLog *
serm_propensity_read(SermHost *host, const SermModelRow *row)
{
	SermParam none = SERM_NULL(TEXTOID);
	char *log = serm_source_name(row->log, SERM_SOURCE_LOG, row->name);
	SermClickLog *reading = serm_arena_alloc(&host->arena, sizeof(*reading));
	SermError error = {0};

	if (reading == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	*reading = (SermClickLog){.host = host};
	if (read_stored(reading, row))
		return reading;
	serm_read_rows(psprintf("SELECT l.query::text COLLATE \"C\", l.doc_id::text COLLATE \"C\","
	                        " least(l.\"position\", %d)::int4, least(pg_catalog.count(*), 2147483647)::int4,"
	                        " least(pg_catalog.count(*) FILTER (WHERE l.clicked), 2147483647)::int4"
	                        " FROM %s AS l WHERE l.query IS NOT NULL AND l.doc_id IS NOT NULL"
	                        " AND l.shown_at IS NOT NULL AND l.\"position\" >= 1"
	                        " GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
	                   POSITIONS, log),
	    &none, 0, read_cell, reading);
	if (reading->count == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("the search log of model \"%s\" is empty: it tells no propensities", row->name),
		    errhint("Leave the option \"propensity\" out."));
	return reading;
}

const float *
serm_propensity_fit(SermHost *host, const SermClickLog *reading, const SermPairSet *set, Jsonb **examination)
{
	SermPbmOptions options;
	SermError error = {0};
	SermPbm model;

	if (reading->stored) {
		*examination = describe(reading->theta, POSITIONS);
		return propensities(host, set, reading, reading->theta);
	}
	serm_pbm_defaults(&options);
	serm_host_check(host,
	    serm_pbm_fit(reading->cells, reading->count, reading->pairs, &options, &host->arena,
	        serm_host_keep_going, host, &model, &error),
	    &error);
	*examination = describe(model.theta, model.position_count);
	return propensities(host, set, reading, model.theta);
}
