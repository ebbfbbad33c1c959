/*
 * The contract of search logs and documents: any relation with the right
 * columns. It is checked when a model is created and again before a relation is
 * read, so that a wrong shape is one clear error and not a parser's message
 * about SQL that the user never wrote.
 */
#include "pg/serm.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "pg/store/store.h"

typedef enum ColumnKind { COLUMN_TEXT, COLUMN_INTEGER, COLUMN_BOOLEAN, COLUMN_TIME } ColumnKind;

typedef struct Column {
	const char *name;
	ColumnKind kind;
	bool optional;
} Column;

typedef struct Contract {
	const char *what; /* the relation is for a model, in messages */
	const char *columns;
	const char *argument; /* of serm.create_model */
	Column column[8];
} Contract;

static const Contract contracts[] = {
    [SERM_SOURCE_LOG] = {"search log",
        "query text, doc_id text, shown_at timestamptz, position integer, clicked boolean, and optionally "
        "dwell_ms integer, session_id text, segment text",
        "log",
        {{"query", COLUMN_TEXT, false}, {"doc_id", COLUMN_TEXT, false}, {"shown_at", COLUMN_TIME, false},
            {"position", COLUMN_INTEGER, false}, {"clicked", COLUMN_BOOLEAN, false},
            {"dwell_ms", COLUMN_INTEGER, true}, {"session_id", COLUMN_TEXT, true},
            {"segment", COLUMN_TEXT, true}}},
    [SERM_SOURCE_DOCUMENTS] = {"documents", "doc_id text, doc text", "documents",
        {{"doc_id", COLUMN_TEXT, false}, {"doc", COLUMN_TEXT, false}}},
};

static bool
type_fits(Oid type, ColumnKind kind)
{
	switch (kind) {
		case COLUMN_TEXT:
			return type == TEXTOID || type == VARCHAROID;
		case COLUMN_INTEGER:
			return type == INT4OID || type == INT8OID || type == INT2OID;
		case COLUMN_BOOLEAN:
			return type == BOOLOID;
		case COLUMN_TIME:
			return type == TIMESTAMPTZOID;
	}
	return false;
}

static const char *
kind_name(ColumnKind kind)
{
	static const char *const names[] = {"text", "integer", "boolean", "timestamp with time zone"};

	return names[kind];
}

static void
check_column(
    const Contract *contract, const Column *column, Oid relation, const char *name, const char *model)
{
	AttrNumber number = get_attnum(relation, column->name);
	Oid type = number != InvalidAttrNumber ? get_atttype(relation, number) : InvalidOid;

	if (number == InvalidAttrNumber && !column->optional)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_COLUMN),
		    errmsg("%s %s of model \"%s\" has no column \"%s\"", contract->what, name, model, column->name),
		    errhint("The columns must be %s. A view gives any table this shape, see doc/search-log.md.",
		        contract->columns));
	if (number != InvalidAttrNumber && !type_fits(getBaseType(type), column->kind))
		ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
		    errmsg("column \"%s\" of %s %s of model \"%s\" has type %s, not %s", column->name, contract->what,
		        name, model, format_type_be(type), kind_name(column->kind)),
		    errhint("The columns must be %s. A view gives any table this shape, see doc/search-log.md.",
		        contract->columns));
}

char *
serm_source_name(Oid relation, SermSourceKind kind, const char *model)
{
	const Contract *contract = &contracts[kind];
	HeapTuple tuple;
	char relkind;
	char *name;

	if (!OidIsValid(relation))
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no %s", model, contract->what),
		    errhint("Name one: SELECT serm.alter_model(%s, %s => 'table').", quote_literal_cstr(model),
		        kind == SERM_SOURCE_LOG ? "log" : "documents"));
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
		    errmsg("the %s of model \"%s\" does not exist any more", contract->what, model),
		    errhint("Point the model at others: SELECT serm.alter_model(%s, %s => 'table').",
		        quote_literal_cstr(model), contract->argument));
	relkind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	name = quote_qualified_identifier(get_namespace_name(((Form_pg_class) GETSTRUCT(tuple))->relnamespace),
	    NameStr(((Form_pg_class) GETSTRUCT(tuple))->relname));
	ReleaseSysCache(tuple);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE && relkind != RELKIND_VIEW &&
	    relkind != RELKIND_MATVIEW && relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
		    errmsg("%s %s of model \"%s\" is not a table or view", contract->what, name, model));
	for (int i = 0; i < (int) lengthof(contract->column) && contract->column[i].name != NULL; i++)
		check_column(contract, &contract->column[i], relation, name, model);
	return name;
}
