/*
 * Reading the row of a model: which one is meant, what it says, and its options.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/text/wordpiece_learn.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"

#include "core/model/cross_encoder_stored.h"
#include "pg/store/internal.h"

/* How many models a hint names. */
#define NAMES_MAX 10

#define FIELD(name) offsetof(SermModelOptions, name)

const SermOption serm_model_option_table[] = {
    {"test_share", SERM_OPTION_REAL, FIELD(test_share), 0, .5, NULL},
    {"rule", SERM_OPTION_TEXT, FIELD(rule), 0, 0, "weighted, posterior, unanimous, quorum"},
    {"quorum", SERM_OPTION_REAL, FIELD(quorum), .01, 1, NULL},
    {"keep", SERM_OPTION_REAL, FIELD(keep), .01, 1, NULL},
    {"extra_paths", SERM_OPTION_INT, FIELD(extra_paths), 0, 25, NULL},
    {"gold_rate", SERM_OPTION_REAL, FIELD(gold_rate), 0, .5, NULL},
    {"min_reliability", SERM_OPTION_REAL, FIELD(min_reliability), -1, 1, NULL},
    {"labels", SERM_OPTION_TEXT, FIELD(labels), 0, 0, "posterior, agreed"},
    {"evidence", SERM_OPTION_TEXT, FIELD(evidence), 0, 0, NULL},
    {"budget", SERM_OPTION_REAL, FIELD(budget), 0, 1e12, NULL},
    {"budget_round", SERM_OPTION_REAL, FIELD(budget_round), 0, 1e12, NULL},
    {"budget_day", SERM_OPTION_REAL, FIELD(budget_day), 0, 1e12, NULL},
    {"precision", SERM_OPTION_TEXT, FIELD(precision), 0, 0, "f32, bf16, int8"},
    {"long_documents", SERM_OPTION_TEXT, FIELD(long_documents), 0, 0, "truncate, chunk_max, chunk_first"},
    {"chunk_count", SERM_OPTION_INT, FIELD(chunk_count), 1, 1000, NULL},
    {"chunk_overlap", SERM_OPTION_INT, FIELD(chunk_overlap), 0, 1000, NULL},
};
/* At the end of the table. */
#define CROSS_ENCODER_OPTIONS 4

/* What cross-encoders that are made here have besides: their shape. */
static const SermOption encoder_rows[] = {
    {"layers", SERM_OPTION_INT, FIELD(encoder.layers), 1, SERM_ENCODER_LAYERS_MAX, NULL},
    {"hidden", SERM_OPTION_INT, FIELD(encoder.hidden), 8, SERM_ENCODER_HIDDEN_MAX, NULL},
    {"heads", SERM_OPTION_INT, FIELD(encoder.heads), 1, SERM_ENCODER_HEADS_MAX, NULL},
    {"intermediate", SERM_OPTION_INT, FIELD(encoder.intermediate), 8, SERM_ENCODER_INTERMEDIATE_MAX, NULL},
    {"vocab", SERM_OPTION_INT, FIELD(encoder.vocab), SERM_WORDPIECE_VOCAB_MIN, 200000, NULL},
    {"max_length", SERM_OPTION_INT, FIELD(encoder.max_length), 8, SERM_ENCODER_POSITIONS_MAX, NULL},
};

/* What remote models have. */
static const SermOption remote_rows[] = {
    {"server", SERM_OPTION_TEXT, FIELD(server), 0, 0, NULL},
    {"model", SERM_OPTION_TEXT, FIELD(model), 0, 0, NULL},
    {"prompt", SERM_OPTION_TEXT, FIELD(prompt), 0, 0, NULL},
};

/* All options of a kind, with the shape of an encoder or without. */
static const SermOption *
table_of(const char *kind, bool shape, int *count)
{
	bool encoder = shape && strcmp(kind, SERM_KIND_CROSS_ENCODER) == 0;
	bool remote = strcmp(kind, SERM_KIND_REMOTE) == 0;
	int more = encoder ? lengthof(encoder_rows) : remote ? lengthof(remote_rows) : 0;
	SermOption *table = palloc(sizeof(serm_model_option_table) + sizeof(encoder_rows) + sizeof(remote_rows));

	*count = serm_model_option_count(kind);
	memcpy(table, serm_model_option_table, *count * sizeof(SermOption));
	memcpy(table + *count, encoder ? encoder_rows : remote_rows, more * sizeof(SermOption));
	*count += more;
	return table;
}

static SermPlan model_plan = {"SELECT m.name, m.kind, m.grades, m.log::pg_catalog.oid, "
                              "m.documents::pg_catalog.oid, m.active, m.options "
                              "FROM serm.model AS m WHERE m.name = $1",
    1, {TEXTOID}, NULL};
static SermPlan names_plan = {
    "SELECT m.name FROM serm.model AS m ORDER BY m.name LIMIT $1", 1, {INT8OID}, NULL};

int
serm_model_option_count(const char *kind)
{
	return (int) lengthof(serm_model_option_table) -
	       (strcmp(kind, SERM_KIND_CROSS_ENCODER) == 0 ? 0 : CROSS_ENCODER_OPTIONS);
}

void
serm_model_options_keep(SermModelOptions *options, const SermModelOptions *defaults)
{
	if (options->rule == NULL)
		options->rule = defaults->rule;
	if (options->labels == NULL)
		options->labels = defaults->labels;
	if (options->precision == NULL)
		options->precision = defaults->precision;
	if (options->long_documents == NULL)
		options->long_documents = defaults->long_documents;
}

void
serm_model_options_read(const char *kind, const Jsonb *given, const char *what, SermModelOptions *options)
{
	const SermOption *table;
	int count;
	const SermModelOptions defaults = {.test_share = .2,
	    .rule = "posterior",
	    .quorum = 2.0 / 3.0,
	    .keep = .9,
	    .gold_rate = .02,
	    .min_reliability = .1,
	    .labels = "posterior",
	    .evidence = NULL,
	    .budget = NAN,
	    .budget_round = NAN,
	    .budget_day = NAN,
	    .precision = "f32",
	    .long_documents = "truncate",
	    .chunk_count = 4,
	    .chunk_overlap = 32};

	*options = defaults;
	table = table_of(kind, true, &count);
	serm_options_read(given, table, count, options, what);
	serm_model_options_keep(options, &defaults);
}

Jsonb *
serm_model_options_write(const char *kind, const SermModelOptions *options)
{
	int count;
	const SermOption *table = table_of(kind, options->encoder.layers != 0, &count);

	return serm_options_write(table, count, options);
}

/* The names of the models there are, as a list; *count is at most NAMES_MAX + 1. Inside serm_reading_begin().
 */
static char *
model_names(uint64 *count)
{
	StringInfoData names;
	Datum limit = Int64GetDatum(NAMES_MAX + 1);

	initStringInfo(&names);
	*count = serm_plan_select(&names_plan, &limit);
	for (uint64 i = 0; i < *count && i < NAMES_MAX; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", serm_spi_string(i, 1));
	if (*count > NAMES_MAX)
		appendStringInfoString(&names, ", ...");
	return names.data;
}

void
serm_model_unknown(const char *name)
{
	uint64 count;
	char *names;

	(void) serm_reading_begin(SERM_SEE_WRITES);
	names = model_names(&count);
	ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"%s\" does not exist", name),
	    count > 0 ? errhint("The models there are: %s.", names)
	              : errhint("Create it with SELECT serm.create_model(%s).", quote_literal_cstr(name)));
}

/* The only model there is. */
static char *
only_model(void)
{
	uint64 count;
	char *names = model_names(&count);

	if (count == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("there is no model"),
		    errhint("Create one with SELECT serm.create_model('name')."));
	if (count > 1)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("there are several models and none was named"),
		    errhint("Name one as an argument, or SET serm.model. The models there are: %s.", names));
	return names;
}

static void
read_grades(SermModelRow *row, Datum array)
{
	Datum *elements;

	deconstruct_array(
	    DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &row->grade_count);
	row->grades = palloc(row->grade_count * sizeof(char *));
	for (int i = 0; i < row->grade_count; i++)
		row->grades[i] = TextDatumGetCString(elements[i]);
}

static SermModelRow *
read_row(void)
{
	SermModelRow *row = palloc0(sizeof(SermModelRow));
	bool null;
	Datum value;

	strlcpy(row->name, serm_spi_string(0, 1), sizeof(row->name));
	strlcpy(row->kind, serm_spi_string(0, 2), sizeof(row->kind));
	read_grades(row, serm_spi_value(0, 3, &null));
	value = serm_spi_value(0, 4, &null);
	row->log = null ? InvalidOid : DatumGetObjectId(value);
	value = serm_spi_value(0, 5, &null);
	row->documents = null ? InvalidOid : DatumGetObjectId(value);
	value = serm_spi_value(0, 6, &null);
	row->active = null ? 0 : DatumGetInt32(value);
	serm_model_options_read(
	    row->kind, DatumGetJsonbP(serm_spi_value(0, 7, &null)), "serm.model", &row->options);
	return row;
}

SermModelRow *
serm_model_find(const char *name, MemoryContext context)
{
	MemoryContext previous;
	SermModelRow *row;
	Datum key;

	if (name == NULL)
		name =
		    serm_default_model != NULL && serm_default_model[0] != '\0' ? serm_default_model : only_model();
	key = CStringGetTextDatum(name);
	if (serm_plan_select(&model_plan, &key) == 0)
		serm_model_unknown(name);
	previous = MemoryContextSwitchTo(context);
	row = read_row();
	MemoryContextSwitchTo(previous);
	return row;
}

SermModelRow *
serm_model_read(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	SermReading reading = serm_reading_begin(SERM_SEE_WRITES);
	SermModelRow *row = serm_model_find(name, caller);

	serm_reading_end(reading);
	return row;
}

char *
serm_model_kind(const char *name)
{
	MemoryContext caller = CurrentMemoryContext, inside;
	char *kind = NULL;
	SermReading reading;
	Datum key;

	if (name == NULL)
		return serm_model_read(NULL)->kind;
	reading = serm_reading_begin(SERM_SEE_WRITES);
	key = CStringGetTextDatum(name);
	if (serm_plan_select(&model_plan, &key) > 0) {
		inside = MemoryContextSwitchTo(caller);
		kind = serm_spi_string(0, 2);
		MemoryContextSwitchTo(inside);
	}
	serm_reading_end(reading);
	return kind;
}
