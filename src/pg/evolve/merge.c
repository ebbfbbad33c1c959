/*
 * serm.merge_versions: one candidate out of several versions that continue a
 * common ancestor, by their parameter deltas (core/train/merge.h). Like
 * training: read in one transaction, compute without one, store in another.
 */
#include "pg/serm.h"

#include <math.h>

#include "access/xact.h"
#include "core/train/continue.h"
#include "core/train/merge.h"
#include "pg/evolve/evolve.h"
#include "utils/array.h"

#define VERSIONS_MAX 16
#define WEIGHT_MAX 100
#define PROBE_PAIRS 1000

typedef struct Merge {
	SermTraining training; /* first: what is measured and stored; its parent is the ancestor */
	int count;
	int versions[VERSIONS_MAX];
	double weights[VERSIONS_MAX];
	SermScorer *scorers[VERSIONS_MAX];
} Merge;

static void
read_arguments(FunctionCallInfo fcinfo, Merge *merge)
{
	ArrayType *versions = PG_ARGISNULL(1) ? NULL : PG_GETARG_ARRAYTYPE_P(1);
	ArrayType *weights = PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2);

	if (versions == NULL || ARR_NDIM(versions) != 1 || ARR_HASNULL(versions) || ARR_DIMS(versions)[0] < 2 ||
	    ARR_DIMS(versions)[0] > VERSIONS_MAX)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("serm.merge_versions takes 2 to %d versions", VERSIONS_MAX),
		    errhint("CALL serm.merge_versions('model', ARRAY[2, 3])."));
	merge->count = ARR_DIMS(versions)[0];
	if (weights != NULL &&
	    (ARR_NDIM(weights) != 1 || ARR_HASNULL(weights) || ARR_DIMS(weights)[0] != merge->count))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("serm.merge_versions takes one weight for each version"),
		    errhint("Leave the weights out for the mean."));
	for (int i = 0; i < merge->count; i++) {
		merge->versions[i] = ((const int32 *) ARR_DATA_PTR(versions))[i];
		merge->weights[i] =
		    weights != NULL ? (double) ((const float4 *) ARR_DATA_PTR(weights))[i] : 1.0 / merge->count;
		if (!(fabs(merge->weights[i]) <= WEIGHT_MAX))
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			    errmsg("weight %g of version %d is outside of -%d to %d", merge->weights[i],
			        merge->versions[i], WEIGHT_MAX, WEIGHT_MAX));
		if (merge->versions[i] < 1)
			ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
			    errmsg("there is no version %d: versions count from 1", merge->versions[i]));
		for (int j = 0; j < i; j++)
			if (merge->versions[j] == merge->versions[i])
				ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				    errmsg("version %d is named twice", merge->versions[i]),
				    errhint("Give it a larger weight instead."));
	}
}

/* The newest version that all of them continue, or are; 0 without one. Only continued versions lead back. */
static int
common_ancestor(const Merge *merge, const char *model)
{
	Datum versions[VERSIONS_MAX];
	SermParam params[] = {SERM_TEXT(model), SERM_DATUM(INT4ARRAYOID, (Datum) 0)};
	bool null;

	for (int i = 0; i < merge->count; i++)
		versions[i] = Int32GetDatum(merge->versions[i]);
	params[1].value =
	    PointerGetDatum(construct_array(versions, merge->count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	serm_spi_execute(
	    "WITH RECURSIVE line AS (SELECT u.version AS tip, u.version FROM pg_catalog.unnest($2) AS u(version)"
	    " UNION SELECT l.tip, (v.config ->> 'continued_from')::integer FROM line AS l JOIN serm.version AS v"
	    " ON v.model = $1 AND v.version = l.version WHERE v.config ->> 'continued_from' IS NOT NULL)"
	    " SELECT coalesce(pg_catalog.max(a.version), 0) FROM (SELECT l.version FROM line AS l"
	    " GROUP BY l.version HAVING pg_catalog.count(*) = pg_catalog.cardinality($2)) AS a",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return DatumGetInt32(serm_spi_value(0, 1, &null));
}

pg_noreturn static void
cannot_merge(const Merge *merge, const char *why)
{
	const char *model = merge->training.row->name;

	ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
	    errmsg("these versions of model \"%s\" cannot be merged: %s", model, why),
	    errhint("Only versions that continue the same one can:"
	            " CALL serm.train('%s', '{\"continue\": \"always\", \"parent\": N}').",
	        model));
}

static void
read_versions(Merge *merge)
{
	SermTraining *training = &merge->training;
	const char *model = training->row->name;
	bool agreed = strcmp(training->row->options.labels, "agreed") == 0;
	SermPairWindow window;
	int ancestor;

	for (int i = 0; i < merge->count; i++)
		merge->scorers[i] =
		    serm_scorer_open(model, merge->versions[i], SERM_SEE_WRITES, training->host.context);
	ancestor = common_ancestor(merge, model);
	if (ancestor == 0)
		cannot_merge(merge, "they do not continue a common version");
	training->parent = serm_scorer_open(model, ancestor, SERM_SEE_WRITES, training->host.context);
	training->created = serm_model_created(model, false);
	training->read_at = GetCurrentTransactionStartTimestamp();
	for (int i = 0; i < merge->count; i++) {
		TimestampTz read_at = serm_version_read_at(model, merge->versions[i]);

		/* What one of them has not seen is new to the merged version. */
		training->read_at = Min(training->read_at, read_at);
	}
	window = serm_training_window(training);
	serm_pairs_read_window(&training->host, training->row, agreed, &window, NULL, &training->test);
	training->test_is_gold = serm_pairs_keep_gold(&training->test);
	serm_probe_read(&training->host, training->row, PROBE_PAIRS, &training->probe);
}

static void
compute(Merge *merge)
{
	SermTraining *training = &merge->training;
	SermArena *arena = &training->host.arena;
	SermInteractionParts ancestor, parts[VERSIONS_MAX], merged;
	SermError error = {0};

	serm_check(serm_continue_open(serm_scorer_model(training->parent), arena, &ancestor, &error), &error);
	for (int i = 0; i < merge->count; i++) {
		const char *difference;

		serm_check(
		    serm_continue_open(serm_scorer_model(merge->scorers[i]), arena, &parts[i], &error), &error);
		difference = serm_merge_difference(&ancestor, &parts[i]);
		if (difference != NULL)
			cannot_merge(merge, psprintf("version %d differs from version %d in its %s", merge->versions[i],
			                        serm_scorer_version(training->parent), difference));
	}
	serm_check(
	    serm_merge(&ancestor, parts, merge->weights, (size_t) merge->count, arena, &merged, &error), &error);
	serm_check(serm_interaction_write(&merged, arena, &training->tensors, &error), &error);
}

static Jsonb *
describe(const Merge *merge)
{
	StringInfo json = serm_json_begin(), weights = serm_json_begin();

	serm_json_text(json, "kind", merge->training.row->kind);
	serm_json_number(json, "continued_from", serm_scorer_version(merge->training.parent));
	for (int i = 0; i < merge->count; i++)
		serm_json_number(weights, psprintf("%d", merge->versions[i]), merge->weights[i]);
	serm_json_jsonb(json, "merged", serm_json_end(weights));
	return serm_json_end(json);
}

static void
store(Merge *merge, int *level)
{
	SermTraining *training = &merge->training;
	int version = serm_training_store(training, 0);

	serm_spi_commit(level);
	ereport(NOTICE,
	    errmsg("version %d of model \"%s\" is a candidate: merged with version %d as the ancestor", version,
	        training->row->name, serm_scorer_version(training->parent)),
	    errhint("Promote it with SELECT serm.promote('%s', %d).", training->row->name, version));
}

SERM_FUNCTION(serm_merge_versions);

/* CALL serm.merge_versions(model text, versions integer[], weights real[]). */
Datum
serm_merge_versions(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext context, previous;
	Merge *merge;
	int level;

	/* The portal outlives the transactions that this commits. */
	context = AllocSetContextCreate(PortalContext, "serm merge", ALLOCSET_DEFAULT_SIZES);
	merge = MemoryContextAllocZero(context, sizeof(Merge));
	read_arguments(fcinfo, merge);
	serm_require_nonatomic(fcinfo, "serm.merge_versions");
	level = serm_spi_begin(true);
	previous = MemoryContextSwitchTo(context);
	merge->training.row = serm_model_read(model);
	if (strcmp(merge->training.row->kind, "interaction") != 0)
		ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		    errmsg("versions of kind \"%s\" cannot be merged", merge->training.row->kind),
		    strcmp(merge->training.row->kind, SERM_KIND_REMOTE) == 0
		        ? errhint("A remote model has no versions: what it says cannot be changed here.")
		        : errhint("Continue one of them on all judgments: CALL serm.train('%s', '{\"parent\": %d}').",
		              merge->training.row->name, merge->versions[0]));
	serm_train_settings_defaults(&merge->training.settings, merge->training.row->kind);
	serm_host_init(&merge->training.host, context, (Size) serm_train_memory_mb * 1024 * 1024);
	read_versions(merge);
	serm_spi_commit(&level);
	compute(merge);
	serm_training_measure(&merge->training, describe(merge));
	store(merge, &level);
	MemoryContextSwitchTo(previous);
	serm_spi_end(level);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
