/*
 * serm.fit_click_model: read the log in one transaction, fit without any, write
 * the parameters in a second. A fit replaces the one before of the same kind.
 */
#include "pg/mine/click.h"

#include <math.h>
#include <sys/resource.h>

#include "core/stats/isotonic.h"
#include "miscadmin.h"
#include "utils/array.h"

/* Rows of serm.click_param that one statement writes. */
#define ROWS_PER_INSERT 10000
/* Judged pairs that a curve from relevance to grade needs. */
#define CALIBRATION_PAIRS_MIN 20
#define ARENA_BYTES_MIN ((Size) 64 * 1024 * 1024)
/* Bytes per pair: records, tables that doubled, cells of several positions, parameters. */
#define ARENA_BYTES_PER_PAIR 1024

typedef struct Fitting {
	SermHost host;
	const SermModelRow *model;
	const SermClickKind *kind;
	SermClickWindow window;
	SermClickOptions options;
	int32 iterations_max;
	SermClickGrouping *grouping;
	SermClickData data;
	SermClickModel fitted;
	SermClickEvidence evidence;
	double cpu_start, cpu_read, cpu_fitted; /* seconds of processor of this process */
	int level;
} Fitting;

static const SermOption option_table[] = {
    {"strength", SERM_OPTION_REAL, offsetof(Fitting, options) + offsetof(SermClickOptions, strength), 0, 1e9,
        NULL},
    {"mean", SERM_OPTION_REAL, offsetof(Fitting, options) + offsetof(SermClickOptions, mean), 1e-6, 1 - 1e-6,
        NULL},
    {"tolerance", SERM_OPTION_REAL, offsetof(Fitting, options) + offsetof(SermClickOptions, tolerance), 0, 1,
        NULL},
    {"iterations", SERM_OPTION_INT, offsetof(Fitting, iterations_max), 1, 100000, NULL},
    {"clip", SERM_OPTION_REAL, offsetof(Fitting, options) + offsetof(SermClickOptions, clip), 1e-6, 1, NULL},
};

static double
cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       1e-6 * (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void
read_options(Fitting *fitting, const Jsonb *options)
{
	serm_click_defaults(&fitting->options);
	fitting->iterations_max = (int32) fitting->options.iterations_max;
	serm_options_read(options, option_table, lengthof(option_table), fitting, "serm.fit_click_model");
	fitting->options.iterations_max = (uint32) fitting->iterations_max;
}

static void
fit(Fitting *fitting)
{
	SermHost *host = &fitting->host;
	SermError error = {0};

	serm_host_check(host, serm_click_grouped(fitting->grouping, &fitting->data, &error), &error);
	serm_host_check(host,
	    serm_click_fit(fitting->kind, &fitting->data, &fitting->options, &host->arena, serm_host_keep_going,
	        host, &fitting->fitted, &error),
	    &error);
	serm_host_check(host,
	    serm_click_evidence(&fitting->fitted, &fitting->data, fitting->options.clip, &host->arena,
	        &fitting->evidence, &error),
	    &error);
}

/* --- writing */

static SermParam
optional_time(bool present, TimestampTz time)
{
	return present ? SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(time)) : SERM_NULL(TIMESTAMPTZOID);
}

static void
store_model(const Fitting *fitting)
{
	const SermClickModel *fitted = &fitting->fitted;
	bool pages = fitting->kind->input != SERM_CLICK_BY_POSITION;
	bool satisfies = fitted->satisfaction != NULL;
	uint64 clicks = 0;

	for (int k = 0; k < SERM_CLICK_POSITIONS_MAX; k++)
		clicks += fitting->evidence.clicked_at[k];
	{
		SermParam params[] = {SERM_TEXT(fitting->model->name), SERM_TEXT(fitting->kind->name),
		    optional_time(fitting->window.has_since, fitting->window.since),
		    optional_time(fitting->window.has_until, fitting->window.until),
		    SERM_INT8((int64) fitted->impressions), SERM_INT8((int64) clicks),
		    pages ? SERM_INT8((int64) serm_click_pages_seen(fitting->grouping)) : SERM_NULL(INT8OID),
		    SERM_INT8((int64) serm_click_pair_count(fitting->grouping)),
		    SERM_FLOAT8(fitted->log_likelihood / (double) fitted->impressions),
		    SERM_INT4((int32) fitted->iterations), SERM_BOOL(fitted->converged),
		    SERM_FLOAT8(fitted->kind->ratio ? 1.0 : fitted->attractiveness_mean),
		    satisfies ? SERM_FLOAT8(fitted->satisfaction_mean) : SERM_NULL(FLOAT8OID),
		    satisfies ? SERM_FLOAT8(fitted->continuation) : SERM_NULL(FLOAT8OID),
		    SERM_DATUM(
		        JSONBOID, JsonbPGetDatum(serm_options_write(option_table, lengthof(option_table), fitting))),
		    SERM_DATUM(REGCLASSOID, ObjectIdGetDatum(fitting->model->log))};

		/* Two fits of one kind: the later one stands, whole. */
		serm_spi_execute(
		    "LOCK TABLE serm.click_model IN SHARE ROW EXCLUSIVE MODE", SPI_OK_UTILITY, false, NULL, 0);
		serm_spi_execute("DELETE FROM serm.click_model c WHERE c.model = $1 AND c.kind = $2", SPI_OK_DELETE,
		    false, params, 2);
		serm_spi_execute(
		    "INSERT INTO serm.click_model (model, kind, since, until, impressions, clicks, pages,"
		    " pairs, log_likelihood, iterations, converged, attractiveness, satisfaction,"
		    " continuation, options, log)"
		    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
		    SPI_OK_INSERT, false, params, lengthof(params));
	}
}

static Datum
text_datum(SermClickText text)
{
	return PointerGetDatum(cstring_to_text_with_len(text.bytes, (int) text.length));
}

static Datum
float_array(const double *values, uint32 count)
{
	Datum *elements = palloc(mul_size(Max(count, 1), sizeof(Datum)));

	for (uint32 i = 0; i < count; i++)
		elements[i] = Float8GetDatum(values[i]);
	return PointerGetDatum(
	    construct_array(elements, (int) count, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Pairs `first` to `first + count - 1` in one statement. */
static void
store_pairs_from(const Fitting *fitting, uint32 first, uint32 count)
{
	Datum *queries = palloc(count * sizeof(Datum)), *ids = palloc(count * sizeof(Datum));
	double *values[6];

	for (int column = 0; column < 6; column++)
		values[column] = palloc(count * sizeof(double));
	for (uint32 i = 0; i < count; i++) {
		uint32 p = first + i;
		SermClickPair pair = serm_click_pair(fitting->grouping, p);
		double shown = (double) Max(pair.shown, 1);

		queries[i] = text_datum(serm_click_query(fitting->grouping, pair.query));
		ids[i] = text_datum(pair.doc_id);
		values[0][i] = fitting->fitted.attractiveness[p];
		values[1][i] = fitting->fitted.satisfaction != NULL ? fitting->fitted.satisfaction[p] : 0;
		values[2][i] = fitting->evidence.examined[p] / shown;
		values[3][i] = fitting->evidence.inverse[p] / shown;
		values[4][i] = (double) pair.shown;
		values[5][i] = (double) pair.clicked;
	}
	{
		SermParam params[10] = {SERM_TEXT(fitting->model->name), SERM_TEXT(fitting->kind->name),
		    SERM_DATUM(TEXTARRAYOID,
		        PointerGetDatum(construct_array(queries, (int) count, TEXTOID, -1, false, TYPALIGN_INT))),
		    SERM_DATUM(TEXTARRAYOID,
		        PointerGetDatum(construct_array(ids, (int) count, TEXTOID, -1, false, TYPALIGN_INT)))};

		for (int column = 0; column < 6; column++)
			params[4 + column] = SERM_DATUM(FLOAT8ARRAYOID, float_array(values[column], count));
		serm_spi_execute(
		    psprintf(
		        "INSERT INTO serm.click_param (model, kind, query, doc_id, attractiveness, satisfaction,"
		        " examination, ips, impressions, clicks) SELECT $1, $2, u.q, u.d, u.a, %s, u.e, u.w, u.n, u.c"
		        " FROM unnest($3, $4, $5, $6, $7, $8, $9, $10) AS u (q, d, a, s, e, w, n, c)",
		        fitting->fitted.satisfaction != NULL ? "u.s" : "NULL"),
		    SPI_OK_INSERT, false, params, lengthof(params));
	}
}

static void
store_pairs(const Fitting *fitting)
{
	uint32 count = serm_click_pair_count(fitting->grouping);
	MemoryContext batch =
	    AllocSetContextCreate(CurrentMemoryContext, "serm click parameters", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(batch);

	for (uint32 first = 0; first < count; first += ROWS_PER_INSERT) {
		CHECK_FOR_INTERRUPTS();
		store_pairs_from(fitting, first, Min(count - first, ROWS_PER_INSERT));
		MemoryContextReset(batch);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(batch);
}

static void
store_position(const Fitting *fitting, int position, SermParam previous, double examination, SermParam shown,
    SermParam clicked)
{
	SermParam params[] = {SERM_TEXT(fitting->model->name), SERM_TEXT(fitting->kind->name),
	    SERM_INT4(position), previous, SERM_FLOAT8(examination), shown, clicked};

	serm_spi_execute(
	    "INSERT INTO serm.click_param (model, kind, \"position\", previous, examination, impressions,"
	    " clicks) VALUES ($1, $2, $3, $4, $5, $6, $7)",
	    SPI_OK_INSERT, false, params, lengthof(params));
}

/* One row for each position, and for ubm one for each position below a click. */
static void
store_positions(const Fitting *fitting)
{
	const SermClickEvidence *evidence = &fitting->evidence;
	uint32 slots = serm_click_slot(true, SERM_CLICK_POSITIONS_MAX + 1, 0);
	int64 *shown = palloc0(mul_size(slots, sizeof(int64))),
	      *clicked = palloc0(mul_size(slots, sizeof(int64)));

	for (int k = 0; k < SERM_CLICK_POSITIONS_MAX; k++)
		if (evidence->shown_at[k] > 0)
			store_position(fitting, k + 1, SERM_NULL(INT4OID),
			    evidence->examined_at[k] / (double) evidence->shown_at[k],
			    SERM_INT8((int64) evidence->shown_at[k]), SERM_INT8((int64) evidence->clicked_at[k]));
	if (!fitting->kind->by_previous)
		return;
	for (Size i = 0; i < fitting->data.cell_count; i++) {
		const SermClickCell *cell = &fitting->data.cells[i];
		uint32 slot = serm_click_slot(true, cell->position, cell->previous);

		shown[slot] += cell->shown;
		clicked[slot] += cell->clicked;
	}
	for (uint32 position = 1; position <= fitting->fitted.position_count; position++)
		for (uint32 previous = 0; previous < position; previous++) {
			uint32 slot = serm_click_slot(true, position, previous);

			if (shown[slot] > 0)
				store_position(fitting, (int) position, SERM_INT4((int32) previous),
				    fitting->fitted.examination[slot], SERM_INT8(shown[slot]), SERM_INT8(clicked[slot]));
		}
}

/*
 * The curve from relevance to grade: monotone, on pairs of train queries that people or agents graded. Pairs
 * count by their impressions, to a point: a grade is one opinion however often its pair was shown.
 */
static void
calibrate(Fitting *fitting)
{
	SermParam params[] = {SERM_TEXT(fitting->model->name), SERM_TEXT(fitting->kind->name),
	    SERM_FLOAT4((float4) fitting->model->options.test_share), SERM_NULL(FLOAT8ARRAYOID),
	    SERM_NULL(FLOAT8ARRAYOID), SERM_NULL(INT4OID)};
	SermIsotonicPoint *points;
	SermIsotonicCurve curve;
	SermError error = {0};
	uint32 count;

	serm_spi_execute("SELECT (p.attractiveness * coalesce(p.satisfaction, 1))::float8, j.grade::float8,"
	                 " least(p.impressions, 100)::float8 FROM serm.click_param p JOIN serm.current_judgment j"
	                 " ON j.model = $1 AND j.query = p.query AND j.doc_id = p.doc_id AND j.source <> 'clicks'"
	                 " WHERE p.model = $1 AND p.kind = $2 AND p.query IS NOT NULL AND serm.split_of(p.query, "
	                 "$3) = 'train'",
	    SPI_OK_SELECT, false, params, 3);
	count = (uint32) Min(SPI_processed, PG_UINT32_MAX);
	if (count < CALIBRATION_PAIRS_MIN)
		return;
	points = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(count, sizeof(SermIsotonicPoint)));
	for (uint32 i = 0; i < count; i++) {
		bool null;

		points[i] = (SermIsotonicPoint){DatumGetFloat8(serm_spi_value(i, 1, &null)),
		    DatumGetFloat8(serm_spi_value(i, 2, &null)), DatumGetFloat8(serm_spi_value(i, 3, &null))};
	}
	serm_check(serm_isotonic_fit(points, count, &fitting->host.arena, &curve, &error), &error);
	params[3] = SERM_DATUM(FLOAT8ARRAYOID, float_array(curve.at, curve.knot_count));
	params[4] = SERM_DATUM(FLOAT8ARRAYOID, float_array(curve.level, curve.knot_count));
	params[5] = SERM_INT4((int32) count);
	serm_spi_execute("UPDATE serm.click_model AS c SET calibration_at = $4, calibration_grade = $5,"
	                 " calibration_pairs = $6 WHERE c.model = $1 AND c.kind = $2 AND $3 IS NOT NULL",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}

/* What the fit cost, in seconds of processor: a neighbour's work is not in it. */
static void
store_cost(const Fitting *fitting)
{
	double written = cpu_seconds();
	SermParam params[] = {SERM_TEXT(fitting->model->name), SERM_TEXT(fitting->kind->name),
	    SERM_FLOAT8(fitting->cpu_read - fitting->cpu_start),
	    SERM_FLOAT8(fitting->cpu_fitted - fitting->cpu_read), SERM_FLOAT8(written - fitting->cpu_fitted)};

	serm_spi_execute(
	    "UPDATE serm.click_model AS c SET cost = pg_catalog.jsonb_build_object('read', $3, 'fit', $4,"
	    " 'write', $5) WHERE c.model = $1 AND c.kind = $2",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}

static void
tell(const Fitting *fitting)
{
	ereport(NOTICE,
	    errmsg("click model \"%s\" of model \"%s\": " UINT64_FORMAT
	           " impressions of %u pairs, log-likelihood "
	           "%.4f per impression after %u iterations",
	        fitting->kind->name, fitting->model->name, fitting->fitted.impressions, fitting->data.pair_count,
	        fitting->fitted.log_likelihood / (double) fitting->fitted.impressions,
	        fitting->fitted.iterations),
	    fitting->fitted.converged
	        ? 0
	        : errhint("It did not converge: raise the option \"iterations\" or \"tolerance\"."));
}

SERM_FUNCTION(serm_fit_click_model);

/* CALL serm.fit_click_model(model text, kind text, since timestamptz, until timestamptz, options jsonb). */
Datum
serm_fit_click_model(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *kind = PG_ARGISNULL(1) ? pstrdup("pbm") : text_to_cstring(PG_GETARG_TEXT_PP(1));
	Jsonb *options = PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4);
	MemoryContext context, previous;
	Fitting *fitting;

	context = AllocSetContextCreate(PortalContext, "serm click model", ALLOCSET_DEFAULT_SIZES);
	previous = MemoryContextSwitchTo(context);
	fitting = palloc0(sizeof(Fitting));
	fitting->kind = serm_click_kind_named(kind);
	read_options(fitting, options);
	serm_require_nonatomic(fcinfo, "serm.fit_click_model");
	fitting->window = (SermClickWindow){!PG_ARGISNULL(2), !PG_ARGISNULL(3),
	    PG_ARGISNULL(2) ? 0 : PG_GETARG_TIMESTAMPTZ(2), PG_ARGISNULL(3) ? 0 : PG_GETARG_TIMESTAMPTZ(3)};
	serm_host_init(&fitting->host, context,
	    ARENA_BYTES_MIN + mul_size(ARENA_BYTES_PER_PAIR, (Size) serm_mine_pairs_max));

	fitting->cpu_start = cpu_seconds();
	fitting->level = serm_spi_begin(true);
	MemoryContextSwitchTo(context);
	fitting->model = serm_model_read(model);
	fitting->grouping =
	    serm_click_log_read(&fitting->host, fitting->model, &fitting->window, fitting->kind->input);
	/* No snapshot is held while EM runs. */
	serm_spi_commit(&fitting->level);
	fitting->cpu_read = cpu_seconds();
	fit(fitting);
	fitting->cpu_fitted = cpu_seconds();
	store_model(fitting);
	store_pairs(fitting);
	store_positions(fitting);
	calibrate(fitting);
	store_cost(fitting);
	serm_spi_commit(&fitting->level);
	tell(fitting);
	MemoryContextSwitchTo(previous);
	serm_spi_end(fitting->level);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
