/*
 * Continued training: which version it begins with, what is new to that
 * version, and how much of what the version knew is forgotten. Retraining from
 * scratch stays the default; this is for more judgments than it is worth.
 */
#include "pg/serm.h"

#include <math.h>

#include "pg/evolve/evolve.h"

/* Whether the model has more judgments than that. */
static bool
has_more_judgments(const SermModelRow *row, int32 bound)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_INT4(bound)};
	bool null;

	serm_spi_execute("SELECT pg_catalog.count(*) > $2 FROM (SELECT FROM serm.judgment j WHERE j.model = $1"
	                 " LIMIT $2::bigint + 1) j",
	    SPI_OK_SELECT, true, params, lengthof(params));
	return DatumGetBool(serm_spi_value(0, 1, &null));
}

/* Whether the version was made without judgments: its heads are zeros, which no gradient moves. */
static bool
is_untrained(const char *model, int version)
{
	SermParam params[] = {SERM_TEXT(model), SERM_INT4(version)};

	serm_spi_execute("SELECT FROM serm.version v WHERE v.model = $1 AND v.version = $2"
	                 " AND v.config ->> 'generation' = '0'",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed > 0;
}

void
serm_training_open_parent(SermTraining *training)
{
	const SermTrainSettings *settings = &training->settings;
	const SermModelRow *row = training->row;
	int parent = settings->parent != 0 ? settings->parent : row->active;

	if (strcmp(settings->continued, "never") == 0)
		return;
	if (settings->parent == 0 && strcmp(settings->continued, "always") != 0 &&
	    (parent == 0 || is_untrained(row->name, parent) ||
	        !has_more_judgments(row, settings->continue_above)))
		return;
	if (parent == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no active version to continue", row->name),
		    errhint("CALL serm.train('%s') without the option \"continue\" first.", row->name));
	if (is_untrained(row->name, parent))
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("version %d of model \"%s\" cannot be continued: it has learned from no judgments", parent,
		        row->name),
		    errhint(
		        "CALL serm.train('%s') without the options \"continue\" and \"parent\" first.", row->name));
	training->parent = serm_scorer_open(row->name, settings->parent, SERM_SEE_WRITES, training->host.context);
}

TimestampTz
serm_version_read_at(const char *model, int version)
{
	SermParam params[] = {SERM_TEXT(model), SERM_INT4(version)};
	bool null;

	/* Versions from before this was noted: judgments that came while they were trained count as known. */
	serm_spi_execute("SELECT coalesce((v.config ->> 'read_at')::timestamptz, v.created) FROM serm.version v"
	                 " WHERE v.model = $1 AND v.version = $2",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed == 0 ? DT_NOEND : DatumGetTimestampTz(serm_spi_value(0, 1, &null));
}

SermPairWindow
serm_training_window(const SermTraining *training)
{
	const SermModelRow *row = training->row;
	SermPairWindow window = {DT_NOEND, {1, 1, 1}};
	SermParam params[2] = {SERM_TEXT(row->name)};
	double most = training->settings.replay_max;
	bool null;

	if (training->parent == NULL)
		return window;
	window.since = serm_version_read_at(row->name, serm_scorer_version(training->parent));
	params[1] = SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(window.since));
	serm_spi_execute(psprintf("SELECT pg_catalog.count(*) FILTER (WHERE j.round IS NOT NULL),"
	                          " pg_catalog.count(*) FILTER (WHERE j.round IS NULL) %s AND j.at <= $2",
	                     serm_judgment_query(row)),
	    SPI_OK_SELECT, true, params, lengthof(params));
	for (int origin = SERM_ORIGIN_HISTORY; origin < SERM_ORIGIN_COUNT; origin++) {
		double count = (double) DatumGetInt64(serm_spi_value(0, origin, &null));

		window.share[origin] = count > most ? most / count : 1;
	}
	return window;
}

/* --- forgetting */

static void
write_change(StringInfo json, const char *name, double before, double after, const SermInterval *difference)
{
	StringInfo object = serm_json_begin();

	serm_json_number(object, "before", before);
	serm_json_number(object, "after", after);
	serm_json_number(object, "difference", after - before);
	if (difference != NULL) {
		serm_json_number(object, "low", difference->low);
		serm_json_number(object, "high", difference->high);
	}
	serm_json_jsonb(json, name, serm_json_end(object));
}

/* The difference in likelihood, paired by query. */
static SermInterval
compare_nll(SermHost *host, const SermEvaluation *before, const SermEvaluation *after)
{
	size_t queries = before->set->query_count;
	double *difference = serm_arena_array(&host->arena, Max(queries, 1), sizeof(double));
	SermInterval interval = {NAN, NAN, NAN, 0};
	SermResampling resampling;
	SermError error = {0};
	SermStatus status;

	if (difference == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	for (size_t q = 0; q < queries; q++)
		difference[q] = after->nll[q] - before->nll[q];
	serm_resampling_defaults(&resampling);
	resampling.keep_going = serm_host_keep_going;
	resampling.context = host;
	status = serm_bootstrap_ratio(
	    difference, before->pairs, queries, &resampling, &host->arena, &interval, &error);
	if (status != SERM_ERR_NO_DATA)
		serm_host_check(host, status, &error);
	return interval;
}

Jsonb *
serm_forgetting_json(SermHost *host, int against, const SermEvaluation *before, const SermEvaluation *after)
{
	static const char *const shown[] = {"nll", "ece", "accuracy", "ndcg@4"};
	SermMetric old[SERM_METRIC_COUNT], new[SERM_METRIC_COUNT];
	SermInterval nll = compare_nll(host, before, after);
	StringInfo json = serm_json_begin();

	serm_evaluation_metrics(host, before, 0, old);
	serm_evaluation_metrics(host, after, 0, new);
	serm_json_number(json, "against", against);
	serm_json_number(json, "pairs", (double) before->set->pair_count);
	serm_json_number(json, "queries", (double) before->set->query_count);
	for (int s = 0; s < (int) lengthof(shown); s++)
		for (int i = 0; i < SERM_METRIC_COUNT; i++)
			if (strcmp(old[i].name, shown[s]) == 0)
				write_change(
				    json, shown[s], old[i].interval.value, new[i].interval.value, s == 0 ? &nll : NULL);
	return serm_json_end(json);
}
