/*
 * Versions: storing one, making one active, and the way back.
 *
 * Every change of a model's versions holds the lock on the model's row, so at
 * most one version is active at any time (a partial unique index says so too),
 * and a concurrent promotion waits for this one and then sees its result.
 */
#include "pg/serm.h"

#include "core/model/cross_encoder_stored.h"
#include "core/model/encoder_layout.h"
#include "pg/store/internal.h"

/* Lock the model's row for this transaction; returns its active version, 0 without one. Inside SPI. */
static int
lock_model(const char *model, char **kind)
{
	bool null;
	Datum active;

	serm_spi_execute("SELECT m.active, m.kind FROM serm.model AS m WHERE m.name = $1 FOR UPDATE",
	    SPI_OK_SELECT, false, (SermParam[]){SERM_TEXT(model)}, 1);
	if (SPI_processed == 0)
		serm_model_unknown(model);
	active = serm_spi_value(0, 1, &null);
	if (kind != NULL)
		*kind = serm_spi_string(0, 2);
	return null ? 0 : DatumGetInt32(active);
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const SermTensor *) a)->name, ((const SermTensor *) b)->name);
}

static SermTensorSet
sort_tensors(const SermTensorSet *tensors)
{
	SermTensor *sorted = palloc(tensors->count * sizeof(SermTensor));

	memcpy(sorted, tensors->tensors, tensors->count * sizeof(SermTensor));
	qsort(sorted, tensors->count, sizeof(SermTensor), compare_names);
	return (SermTensorSet){sorted, tensors->count};
}

/* What cannot be opened must not be stored: shapes, and every weight finite. */
static void
check_tensors(const char *kind, const SermTensorSet *tensors)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "serm check", ALLOCSET_SMALL_SIZES);
	const SermTokenizer *tokenizer;
	SermEncoderConfig config;
	SermHost host;
	const SermWatch watch = {serm_host_keep_going, &host};
	SermModel *model;
	SermError error = {SERM_OK, ""};

	serm_host_init(&host, context, SIZE_MAX);
	/* Laying the weights out would prove nothing more. */
	if (strcmp(kind, SERM_KIND_CROSS_ENCODER) == 0) {
		serm_host_check(&host,
		    serm_encoder_stored_open(tensors, &watch, &host.arena, &config, &tokenizer, &error), &error);
		serm_check(serm_encoder_supported(&config, &error), &error);
	} else
		serm_check(serm_model_open(kind, tensors, &host.arena, &model, &error), &error);
	MemoryContextDelete(context);
}

static SermParam
jsonb_param(const Jsonb *value)
{
	return SERM_DATUM(JSONBOID,
	    value != NULL ? JsonbPGetDatum(value) : DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}

int
serm_version_store(const char *model, int parent, int64 seed, const SermTensorSet *tensors,
    const Jsonb *config, const Jsonb *metrics, const Jsonb *counts)
{
	SermTensorSet sorted;
	char *kind;
	int version;
	bool null;

	(void) lock_model(model, &kind);
	check_tensors(kind, tensors);
	sorted = sort_tensors(tensors);
	serm_spi_execute(
	    "INSERT INTO serm.version (model, version, parent, seed, checksum, config, metrics, counts) "
	    "SELECT $1, coalesce(max(v.version), 0) + 1, $2, $3, $4, $5, $6, $7 "
	    "FROM serm.version AS v WHERE v.model = $1 RETURNING version",
	    SPI_OK_INSERT_RETURNING, false,
	    (SermParam[]){SERM_TEXT(model), parent > 0 ? SERM_INT4(parent) : SERM_NULL(INT4OID), SERM_INT8(seed),
	        SERM_INT8((int64) serm_weights_checksum(&sorted)), jsonb_param(config), jsonb_param(metrics),
	        jsonb_param(counts)},
	    7);
	version = DatumGetInt32(serm_spi_value(0, 1, &null));
	serm_weights_insert(model, version, &sorted);
	return version;
}

/* The status of a version; inside SPI. */
static char *
version_status(const char *model, int version)
{
	serm_spi_execute("SELECT v.status FROM serm.version AS v WHERE v.model = $1 AND v.version = $2",
	    SPI_OK_SELECT, false, (SermParam[]){SERM_TEXT(model), SERM_INT4(version)}, 2);
	if (SPI_processed == 0)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
		    errmsg("model \"%s\" has no version %d", model, version),
		    errhint("The versions there are: SELECT * FROM serm.versions WHERE model = %s.",
		        quote_literal_cstr(model)));
	return serm_spi_string(0, 1);
}

static void
update_status(const char *model, int version, const char *status)
{
	serm_spi_execute("UPDATE serm.version AS v SET status = $3 WHERE v.model = $1 AND v.version = $2",
	    SPI_OK_UPDATE, false, (SermParam[]){SERM_TEXT(model), SERM_INT4(version), SERM_TEXT(status)}, 3);
}

void
serm_version_activate(const char *model, int version, const char *action, const char *reason)
{
	int active = lock_model(model, NULL);
	char *status = version_status(model, version);

	if (strcmp(status, "rejected") == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("version %d of model \"%s\" was rejected", version, model),
		    errhint("See its reason in serm.round, and train another one with CALL serm.train(%s).",
		        quote_literal_cstr(model)));
	if (version == active) {
		ereport(NOTICE, errmsg("version %d of model \"%s\" is active already", version, model));
		return;
	}
	/* In this order: two active versions are never there, not even for a moment. */
	if (active != 0)
		update_status(model, active, "retired");
	update_status(model, version, "active");
	serm_spi_execute("UPDATE serm.model AS m SET active = $2 WHERE m.name = $1", SPI_OK_UPDATE, false,
	    (SermParam[]){SERM_TEXT(model), SERM_INT4(version)}, 2);
	serm_spi_execute("INSERT INTO serm.deployment (model, action, from_version, to_version, reason) "
	                 "VALUES ($1, $2, $3, $4, $5)",
	    SPI_OK_INSERT, false,
	    (SermParam[]){SERM_TEXT(model), SERM_TEXT(action),
	        active != 0 ? SERM_INT4(active) : SERM_NULL(INT4OID), SERM_INT4(version),
	        reason != NULL ? SERM_TEXT(reason) : SERM_NULL(TEXTOID)},
	    5);
}

void
serm_version_set_status(const char *model, int version, const char *status)
{
	int active = lock_model(model, NULL);

	(void) version_status(model, version);
	if (version == active && strcmp(status, "active") != 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("version %d of model \"%s\" is active and cannot become %s", version, model, status),
		    errhint("Promote another version first, or roll back with SELECT serm.rollback(%s).",
		        quote_literal_cstr(model)));
	if (version != active && strcmp(status, "active") == 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("a version becomes active by promotion only"));
	update_status(model, version, status);
}

/*
 * The version that was active before `active`, by the history: a promotion goes
 * on top of a stack, a rollback takes off what lies above its target. So a
 * second rollback goes further back instead of returning to the version that
 * the first one left. 0 when there is none; versions that are gone or rejected
 * are passed over.
 */
static int
previous_version(const char *model, int active)
{
	int *stack;
	int depth = 0;
	bool null;

	serm_spi_execute("SELECT d.action = 'rollback', d.to_version, "
	                 "coalesce(v.status, 'rejected') <> 'rejected' "
	                 "FROM serm.deployment AS d LEFT JOIN serm.version AS v "
	                 "ON v.model = d.model AND v.version = d.to_version WHERE d.model = $1 ORDER BY d.id",
	    SPI_OK_SELECT, false, (SermParam[]){SERM_TEXT(model)}, 1);
	stack = palloc((SPI_processed + 1) * sizeof(int));
	for (uint64 i = 0; i < SPI_processed; i++) {
		bool rollback = DatumGetBool(serm_spi_value(i, 1, &null));
		int version = DatumGetInt32(serm_spi_value(i, 2, &null));
		int at = depth - 1;

		while (rollback && at >= 0 && stack[at] != version)
			at--;
		if (rollback && at >= 0)
			depth = at + 1;
		else if (DatumGetBool(serm_spi_value(i, 3, &null)))
			stack[depth++] = version;
	}
	while (depth > 0 && stack[depth - 1] == active)
		depth--;
	return depth > 0 ? stack[depth - 1] : 0;
}

/* The model that a caller of promote or rollback means. */
static char *
argument_model(FunctionCallInfo fcinfo)
{
	return pstrdup(serm_model_read(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)))->name);
}

SERM_FUNCTION(serm_promote);
Datum
serm_promote(PG_FUNCTION_ARGS)
{
	char *model = argument_model(fcinfo);
	char *reason = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	int version = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	int level;

	if (PG_ARGISNULL(1))
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
		    errmsg("the version to promote must not be NULL"));
	level = serm_spi_begin(false);
	serm_version_activate(model, version, "promote", reason);
	serm_spi_end(level);
	PG_RETURN_INT32(version);
}

SERM_FUNCTION(serm_rollback);
Datum
serm_rollback(PG_FUNCTION_ARGS)
{
	char *model = argument_model(fcinfo);
	char *reason = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	int level = serm_spi_begin(false);
	int active = lock_model(model, NULL);
	int version = PG_ARGISNULL(1) ? previous_version(model, active) : PG_GETARG_INT32(1);

	if (version == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no earlier version to roll back to", model),
		    errhint(
		        "Its history: SELECT * FROM serm.deployment WHERE model = %s.", quote_literal_cstr(model)));
	serm_version_activate(model, version, "rollback", reason);
	serm_spi_end(level);
	PG_RETURN_INT32(version);
}
