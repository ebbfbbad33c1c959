/*
 * serm.create_model and serm.drop_model: everything about a model is checked
 * here once, so that what reads the row later can rely on it.
 */
#include "pg/serm.h"

#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/varlena.h"

#include "core/model/cross_encoder_stored.h"
#include "pg/store/internal.h"

#define NAME_BYTES_MAX 48
#define GRADE_BYTES_MAX 63
#define GATE_KEY 0x7365726d
#define GATE_CLASS 6

static void
check_name(const char *name)
{
	Size length = strlen(name);

	if (length == 0 || length > NAME_BYTES_MAX ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != length)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("\"%s\" cannot be the name of a model", name),
		    errhint("A name has 1 to %d lower-case letters, digits and underscores.", NAME_BYTES_MAX));
}

static void
check_grades(ArrayType *grades)
{
	Datum *elements;
	bool *nulls;
	char **names;
	int count;

	if (ARR_NDIM(grades) > 1)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("grades must be a one-dimensional array"));
	deconstruct_array(grades, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (count < SERM_GRADES_MIN || count > SERM_GRADES_MAX)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("a model has %d to %d grades, not %d", SERM_GRADES_MIN, SERM_GRADES_MAX, count),
		    errhint("Name them from worst to best, for example '{bad,fair,good,excellent}'."));
	names = palloc(count * sizeof(char *));
	for (int i = 0; i < count; i++) {
		if (nulls[i])
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			    errmsg("the name of a grade must not be NULL"));
		names[i] = TextDatumGetCString(elements[i]);
		if (strspn(names[i], " \t\r\n") == strlen(names[i]) || strlen(names[i]) > GRADE_BYTES_MAX)
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			    errmsg("the name of grade %d is empty or longer than %d bytes", i, GRADE_BYTES_MAX));
		for (int j = 0; j < i; j++)
			if (strcmp(names[i], names[j]) == 0)
				ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				    errmsg("grade \"%s\" is named twice", names[i]));
	}
}

/* The function that `evidence` names, as a qualified name; it is f(query text, doc text) returns text. */
static char *
resolve_evidence(const char *evidence)
{
	Oid types[] = {TEXTOID, TEXTOID};
	Oid function = LookupFuncName(textToQualifiedNameList(cstring_to_text(evidence)), 2, types, true);

	if (!OidIsValid(function) || get_func_rettype(function) != TEXTOID || get_func_retset(function) ||
	    get_func_prokind(function) != PROKIND_FUNCTION)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
		    errmsg("evidence function %s(query text, doc text) returning text does not exist", evidence),
		    errhint("Create it, or leave the option \"evidence\" out."));
	return quote_qualified_identifier(
	    get_namespace_name(get_func_namespace(function)), get_func_name(function));
}

/* A remote model needs its server; others have none, which the table of options sees to. */
static void
check_server(const char *kind, const SermModelOptions *options)
{
	if (strcmp(kind, SERM_KIND_REMOTE) != 0)
		return;
	if (options->server == NULL)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("a model of kind \"remote\" needs the option \"server\""),
		    errhint("Name a server of the wrapper serm_agent: options => '{\"server\": \"judge_a\"}'."));
	if (GetForeignServerByName(options->server, true) == NULL)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
		    errmsg("server \"%s\" does not exist", options->server),
		    errhint("CREATE SERVER %s FOREIGN DATA WRAPPER serm_agent OPTIONS (endpoint '...', model '...')",
		        quote_identifier(options->server)));
}

static SermParam
regclass_param(Oid relation)
{
	return OidIsValid(relation) ? SERM_DATUM(REGCLASSOID, ObjectIdGetDatum(relation))
	                            : SERM_NULL(REGCLASSOID);
}

void
serm_model_create(const SermNewModel *new)
{
	SermModelOptions options = new->options;
	Jsonb *written;
	uint64 inserted;
	int level;

	check_name(new->name);
	check_grades(DatumGetArrayTypeP(new->grades));
	if (options.evidence != NULL)
		options.evidence = resolve_evidence(options.evidence);
	check_server(new->kind, &options);
	if (OidIsValid(new->log))
		(void) serm_source_name(new->log, SERM_SOURCE_LOG, new->name);
	if (OidIsValid(new->documents))
		(void) serm_source_name(new->documents, SERM_SOURCE_DOCUMENTS, new->name);
	/* With their defaults written out: a later change of a default must not move the test split. */
	written = serm_model_options_write(new->kind, &options);

	level = serm_spi_begin(false);
	serm_spi_execute("INSERT INTO serm.model (name, kind, grades, log, documents, options) "
	                 "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING",
	    SPI_OK_INSERT, false,
	    (SermParam[]){SERM_TEXT(new->name), SERM_TEXT(new->kind), SERM_DATUM(TEXTARRAYOID, new->grades),
	        regclass_param(new->log), regclass_param(new->documents),
	        SERM_DATUM(JSONBOID, JsonbPGetDatum(written))},
	    6);
	inserted = SPI_processed;
	serm_spi_end(level);
	if (inserted == 0)
		ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("model \"%s\" already exists", new->name),
		    errhint("Choose another name, or remove it with SELECT serm.drop_model(%s).",
		        quote_literal_cstr(new->name)));
}

/* What was not given of an encoder's shape: small enough to be trained by one processor in minutes. */
static void
complete_shape(SermEncoderShape *shape)
{
	const SermEncoderShape small = {.layers = 2, .hidden = 128, .heads = 2, .vocab = 8000, .max_length = 128};

	shape->layers = shape->layers != 0 ? shape->layers : small.layers;
	shape->hidden = shape->hidden != 0 ? shape->hidden : small.hidden;
	shape->heads = shape->heads != 0 ? shape->heads : small.heads;
	shape->intermediate = shape->intermediate != 0 ? shape->intermediate : 4 * shape->hidden;
	shape->vocab = shape->vocab != 0 ? shape->vocab : small.vocab;
	shape->max_length = shape->max_length != 0 ? shape->max_length : small.max_length;
	if (shape->hidden % shape->heads != 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"hidden\" of serm.create_model is no multiple of \"heads\""),
		    errhint("For example \"hidden\": %d with \"heads\": %d.", 64 * shape->heads, shape->heads));
}

SERM_FUNCTION(serm_create_model);
Datum
serm_create_model(PG_FUNCTION_ARGS)
{
	SermNewModel new = {.name = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0)),
	    .kind = PG_ARGISNULL(1) ? "interaction" : text_to_cstring(PG_GETARG_TEXT_PP(1)),
	    .grades = PG_ARGISNULL(2) ? OidInputFunctionCall(F_ARRAY_IN, "{bad,fair,good,excellent}", TEXTOID, -1)
	                              : PG_GETARG_DATUM(2),
	    .log = PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3),
	    .documents = PG_ARGISNULL(4) ? InvalidOid : PG_GETARG_OID(4)};

	check_name(new.name);
	if (!serm_model_kind_known(new.kind) && strcmp(new.kind, SERM_KIND_REMOTE) != 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("unknown kind of model \"%s\"", new.kind),
		    errhint("Valid kinds are: interaction, cross_encoder, remote."));
	serm_model_options_read(
	    new.kind, PG_ARGISNULL(5) ? NULL : PG_GETARG_JSONB_P(5), "serm.create_model", &new.options);
	if (strcmp(new.kind, SERM_KIND_CROSS_ENCODER) == 0)
		complete_shape(&new.options.encoder);
	serm_model_create(&new);
	PG_RETURN_VOID();
}

/* The test split of a model that has judgments stays where it is: a moved one would test what was trained on.
 */
static void
check_split(const char *name, double before, double after)
{
	SermParam params[] = {SERM_TEXT(name)};

	if (before == after)
		return;
	serm_spi_execute(
	    "SELECT FROM serm.judgment AS j WHERE j.model = $1 LIMIT 1", SPI_OK_SELECT, false, params, 1);
	if (SPI_processed > 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("option \"test_share\" of model \"%s\" cannot change: it has judgments", name),
		    errhint("Create another model with the test_share that you want, and copy the judgments."));
}

/* Anything else would be appended instead of merged. */
static void
check_object(const Jsonb *options)
{
	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("options of serm.alter_model must be a JSON object"));
}

/* The rows of the model's versions, for serm_cache_forget_at_commit(); inside serm_spi_begin(). */
static void
forget_files(const char *name, int kept)
{
	serm_spi_execute("SELECT v.version, v.checksum FROM serm.version AS v WHERE v.model = $1", SPI_OK_SELECT,
	    false, (SermParam[]){SERM_TEXT(name)}, 1);
	for (uint64 i = 0; i < SPI_processed; i++) {
		SermImageKey key;
		bool null;

		serm_image_key(&key, name, DatumGetInt32(serm_spi_value(i, 1, &null)),
		    (uint64) DatumGetInt64(serm_spi_value(i, 2, &null)));
		serm_cache_forget_at_commit(&key, kept);
	}
}

/*
 * serm.alter_model(name text, options jsonb, log regclass, documents regclass) returns jsonb
 *
 * Errors: 42704 unknown model, 22023 options, 55000 another test split, 42804 a log
 * or documents without their columns.
 */
SERM_FUNCTION(serm_alter_model);
Datum
serm_alter_model(PG_FUNCTION_ARGS)
{
	char *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid log = PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2);
	Oid documents = PG_ARGISNULL(3) ? InvalidOid : PG_GETARG_OID(3);
	SermModelRow *row = serm_model_read(name);
	SermModelOptions options;
	Jsonb *written = serm_model_options_write(row->kind, &row->options);
	SermLayout layout = serm_layout_of(row);
	int level;

	if (OidIsValid(log))
		(void) serm_source_name(log, SERM_SOURCE_LOG, row->name);
	if (OidIsValid(documents))
		(void) serm_source_name(documents, SERM_SOURCE_DOCUMENTS, row->name);
	if (!PG_ARGISNULL(1)) {
		check_object(PG_GETARG_JSONB_P(1));
		written =
		    DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(written), PG_GETARG_DATUM(1)));
	}
	serm_model_options_read(row->kind, written, "serm.alter_model", &options);
	check_server(row->kind, &options);
	if (memcmp(&options.encoder, &row->options.encoder, sizeof(options.encoder)) != 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the shape of the encoder of model \"%s\" cannot change", row->name),
		    errhint("Create another model with the shape that you want, and copy the judgments."));
	if (options.evidence != NULL &&
	    (row->options.evidence == NULL || strcmp(options.evidence, row->options.evidence) != 0))
		options.evidence = resolve_evidence(options.evidence);
	written = serm_model_options_write(row->kind, &options);

	level = serm_spi_begin(false);
	check_split(row->name, row->options.test_share, options.test_share);
	serm_spi_execute("UPDATE serm.model AS m SET options = $2, log = coalesce($3, m.log),"
	                 "  documents = coalesce($4, m.documents) WHERE m.name = $1",
	    SPI_OK_UPDATE, false,
	    (SermParam[]){SERM_TEXT(row->name), SERM_DATUM(JSONBOID, JsonbPGetDatum(written)),
	        regclass_param(log), regclass_param(documents)},
	    4);
	row->options = options;
	if (serm_layout_of(row) != layout)
		forget_files(row->name, serm_layout_of(row));
	serm_spi_end(level);
	PG_RETURN_JSONB_P(written);
}

void
serm_queue_gate(bool alone)
{
	const Oid extension = get_extension_oid("serm", true);
	LOCKTAG tag;

	/* As DROP EXTENSION begins: it then waits at the door, with no table in its hands that we may want. */
	if (OidIsValid(extension))
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, GATE_KEY, 0, GATE_CLASS);
	(void) LockAcquire(&tag, alone ? ExclusiveLock : ShareLock, false, false);
}

SERM_FUNCTION(serm_drop_model);
Datum
serm_drop_model(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int level = serm_spi_begin(false);

	serm_queue_gate(true);
	forget_files(name, -1);
	/* Versions, weights, judgments and rounds go with it. */
	serm_spi_execute("DELETE FROM serm.model AS m WHERE m.name = $1", SPI_OK_DELETE, false,
	    (SermParam[]){SERM_TEXT(name)}, 1);
	if (SPI_processed == 0)
		serm_model_unknown(name);
	serm_spi_end(level);
	PG_RETURN_VOID();
}
