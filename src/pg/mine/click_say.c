/*
 * What fitted click models say: how well they foretell a window of the log, and
 * the small functions under serm.click_relevance.
 */
#include "pg/mine/click.h"

#include <math.h>

#include "core/stats/isotonic.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

#define ARENA_BYTES_MIN ((Size) 64 * 1024 * 1024)
#define ARENA_BYTES_PER_PAIR 1024

/* Raised when the asked kind was never fitted. */
static void
read_model_row(SermClickModel *model, const SermModelRow *row, const SermClickKind *kind)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_TEXT(kind->name)};
	bool null;

	serm_spi_execute("SELECT c.attractiveness, coalesce(c.satisfaction, 'NaN'), coalesce(c.continuation, 1)"
	                 " FROM serm.click_model c WHERE c.model = $1 AND c.kind = $2",
	    SPI_OK_SELECT, true, params, lengthof(params));
	if (SPI_processed == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no click model of kind \"%s\"", row->name, kind->name),
		    errhint("Fit it with CALL serm.fit_click_model('%s', '%s').", row->name, kind->name));
	*model = (SermClickModel){.kind = kind};
	model->attractiveness_mean = DatumGetFloat8(serm_spi_value(0, 1, &null));
	model->satisfaction_mean = DatumGetFloat8(serm_spi_value(0, 2, &null));
	model->continuation = DatumGetFloat8(serm_spi_value(0, 3, &null));
}

static void
read_positions(SermClickModel *model, const SermModelRow *row, MemoryContext context)
{
	SermParam params[] = {
	    SERM_TEXT(row->name), SERM_TEXT(model->kind->name), SERM_BOOL(model->kind->by_previous)};
	double top = 0;
	bool null;

	model->examination = MemoryContextAllocZero(
	    context, sizeof(double) * serm_click_slot(true, SERM_CLICK_POSITIONS_MAX + 1, 0));
	serm_spi_execute(
	    "SELECT p.\"position\", coalesce(p.previous, 0), p.examination, p.clicks::float8 / p.impressions"
	    " FROM serm.click_param p WHERE p.model = $1 AND p.kind = $2 AND p.query IS NULL"
	    " AND (p.previous IS NOT NULL) = $3 AND p.\"position\" BETWEEN 1 AND 100",
	    SPI_OK_SELECT, true, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++) {
		uint32 position = (uint32) DatumGetInt32(serm_spi_value(i, 1, &null));
		uint32 previous = (uint32) DatumGetInt32(serm_spi_value(i, 2, &null));

		if (position > model->position_count)
			model->position_count = position;
		if (previous < position)
			model->examination[serm_click_slot(model->kind->by_previous, position, previous)] =
			    DatumGetFloat8(serm_spi_value(i, 3, &null));
		top = fmax(top, DatumGetFloat8(serm_spi_value(i, 4, &null)));
	}
	/* Of coec the scale is the click rate of the best position. */
	if (model->kind->ratio)
		model->attractiveness_mean = top;
	if (model->position_count == 0)
		ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
		    errmsg("click model \"%s\" of model \"%s\" has no positions", model->kind->name, row->name));
}

/* Parameters for the pairs of the window; the rest of the table is passed over. */
static void
read_pairs(SermHost *host, SermClickModel *model, const SermModelRow *row, SermClickGrouping *grouping)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_TEXT(model->kind->name)};
	Oid types[] = {TEXTOID, TEXTOID};
	Datum values[] = {params[0].value, params[1].value};
	uint32 count = serm_click_pair_count(grouping);
	Portal portal;

	model->attractiveness = MemoryContextAllocHuge(host->context, mul_size(Max(count, 1), sizeof(double)));
	model->satisfaction = MemoryContextAllocHuge(host->context, mul_size(Max(count, 1), sizeof(double)));
	for (uint32 i = 0; i < count; i++) {
		model->attractiveness[i] = model->kind->ratio ? 1.0 : model->attractiveness_mean;
		model->satisfaction[i] = model->satisfaction_mean;
	}
	portal = SPI_cursor_open_with_args(NULL,
	    "SELECT p.query, p.doc_id, p.attractiveness, p.satisfaction FROM serm.click_param p"
	    " WHERE p.model = $1 AND p.kind = $2 AND p.query IS NOT NULL",
	    2, types, values, NULL, true, 0);
	for (SPI_cursor_fetch(portal, true, 10000); SPI_processed > 0; SPI_cursor_fetch(portal, true, 10000)) {
		for (uint64 i = 0; i < SPI_processed; i++) {
			bool null;
			text *query = DatumGetTextPP(serm_spi_value(i, 1, &null));
			text *doc_id = DatumGetTextPP(serm_spi_value(i, 2, &null));
			uint32 pair = serm_click_find(grouping,
			    (SermClickText){VARDATA_ANY(query), (uint32) VARSIZE_ANY_EXHDR(query)},
			    (SermClickText){VARDATA_ANY(doc_id), (uint32) VARSIZE_ANY_EXHDR(doc_id)});
			Datum satisfaction = serm_spi_value(i, 4, &null);

			if (pair == SERM_CLICK_UNKNOWN)
				continue;
			if (!null)
				model->satisfaction[pair] = DatumGetFloat8(satisfaction);
			model->attractiveness[pair] = DatumGetFloat8(serm_spi_value(i, 3, &null));
		}
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(portal);
}

static void
put_quality(ReturnSetInfo *result, const SermClickQuality *quality)
{
	double likelihood = 0, perplexity = 0, examined = 0;
	uint64 shown = 0, clicked = 0;
	int positions = 0;

	for (int k = 0; k < SERM_CLICK_POSITIONS_MAX; k++) {
		double n = (double) quality->shown[k];
		Datum values[6];
		bool nulls[6] = {false};

		if (quality->shown[k] == 0)
			continue;
		positions++;
		likelihood += quality->log_likelihood[k];
		perplexity += exp2(-quality->log2_marginal[k] / n);
		examined += quality->examined[k];
		shown += quality->shown[k];
		clicked += quality->clicked[k];
		values[0] = Int32GetDatum(k + 1);
		values[1] = Float8GetDatum(quality->log_likelihood[k] / n);
		values[2] = Float8GetDatum(exp2(-quality->log2_marginal[k] / n));
		values[3] = Float8GetDatum(quality->examined[k] / n);
		values[4] = Int64GetDatum((int64) quality->shown[k]);
		values[5] = Int64GetDatum((int64) quality->clicked[k]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	if (positions > 0) {
		Datum values[6] = {(Datum) 0, Float8GetDatum(likelihood / (double) shown),
		    Float8GetDatum(perplexity / positions), Float8GetDatum(examined / (double) shown),
		    Int64GetDatum((int64) shown), Int64GetDatum((int64) clicked)};
		bool nulls[6] = {true};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

SERM_FUNCTION(serm_evaluate_click_model);

/* serm.evaluate_click_model(model text, kind text, since timestamptz, until timestamptz). */
Datum
serm_evaluate_click_model(PG_FUNCTION_ARGS)
{
	char *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	const SermClickKind *kind =
	    serm_click_kind_named(PG_ARGISNULL(1) ? "pbm" : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	SermClickWindow window = {!PG_ARGISNULL(2), !PG_ARGISNULL(3),
	    PG_ARGISNULL(2) ? 0 : PG_GETARG_TIMESTAMPTZ(2), PG_ARGISNULL(3) ? 0 : PG_GETARG_TIMESTAMPTZ(3)};
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "serm click quality", ALLOCSET_DEFAULT_SIZES);
	const SermModelRow *row;
	SermClickGrouping *grouping;
	SermClickQuality quality = {0};
	SermClickModel model;
	SermClickData data;
	SermError error = {0};
	SermHost host;
	int level;

	InitMaterializedSRF(fcinfo, 0);
	serm_host_init(
	    &host, context, ARENA_BYTES_MIN + mul_size(ARENA_BYTES_PER_PAIR, (Size) serm_mine_pairs_max));
	row = serm_model_read(name);
	level = serm_spi_begin(false);
	read_model_row(&model, row, kind);
	read_positions(&model, row, context);
	grouping = serm_click_log_read(&host, row, &window, SERM_CLICK_BY_PAGE);
	serm_host_check(&host, serm_click_grouped(grouping, &data, &error), &error);
	read_pairs(&host, &model, row, grouping);
	serm_spi_end(level);
	for (Size i = 0; i < data.page_count; i++) {
		if (i % 16384 == 0)
			CHECK_FOR_INTERRUPTS();
		serm_click_judge(&model, &data.pages[i], &quality);
	}
	put_quality((ReturnSetInfo *) fcinfo->resultinfo, &quality);
	MemoryContextDelete(context);
	return (Datum) 0;
}

static double *
float_values(ArrayType *array, int *count)
{
	if (ARR_NDIM(array) > 1 || ARR_HASNULL(array) || ARR_ELEMTYPE(array) != FLOAT8OID)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the knots of a curve are one array of numbers without NULL"));
	*count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	return (double *) ARR_DATA_PTR(array);
}

SERM_FUNCTION(serm_isotonic);

/* serm._isotonic(at float8[], level float8[], x float8); NULL for a curve without knots, and where x is NaN.
 */
Datum
serm_isotonic(PG_FUNCTION_ARGS)
{
	int count, levels;
	const double *at = float_values(PG_GETARG_ARRAYTYPE_P(0), &count);
	const double *level = float_values(PG_GETARG_ARRAYTYPE_P(1), &levels);

	if (count != levels)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("a curve has %d places and %d levels", count, levels));
	if (count == 0 || isnan(PG_GETARG_FLOAT8(2)))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(serm_isotonic_value(at, level, (uint32) count, PG_GETARG_FLOAT8(2)));
}

SERM_FUNCTION(serm_model_name);

/* serm._model_name(model text). */
Datum
serm_model_name(PG_FUNCTION_ARGS)
{
	const SermModelRow *row = serm_model_read(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_TEXT_P(cstring_to_text(row->name));
}
