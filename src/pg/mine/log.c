/*
 * The contract of search logs and documents: any relation with the right
 * columns, read with the caller's rights by one grouped statement. The columns
 * are checked before it is built, so that a wrong shape is one clear error and
 * not a parser's message about SQL that the user never wrote.
 */
#include "pg/mine/mine.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#define LOG_COLUMNS                                                                                          \
	"query text, doc_id text, shown_at timestamptz, position integer, clicked boolean, and optionally "      \
	"dwell_ms integer, session_id text"
#define DOCUMENT_COLUMNS "doc_id text, doc text"

typedef enum ColumnKind { COLUMN_TEXT, COLUMN_INTEGER, COLUMN_BOOLEAN, COLUMN_TIME } ColumnKind;

typedef struct Column {
	const char *name;
	ColumnKind kind;
	bool optional;
} Column;

/* What a relation is for a model, in messages. */
typedef struct Source {
	const SermModelRow *model;
	Oid relation;
	const char *what; /* "search log" */
	const char *columns;
	const char *name; /* qualified and quoted */
} Source;

static const Column log_columns[] = {
    {"query", COLUMN_TEXT, false},
    {"doc_id", COLUMN_TEXT, false},
    {"shown_at", COLUMN_TIME, false},
    {"position", COLUMN_INTEGER, false},
    {"clicked", COLUMN_BOOLEAN, false},
    {"dwell_ms", COLUMN_INTEGER, true},
};

static const Column document_columns[] = {
    {"doc_id", COLUMN_TEXT, false},
    {"doc", COLUMN_TEXT, false},
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

/* True when the relation has the column, with a type that fits. */
static bool
check_column(const Source *source, const Column *column)
{
	HeapTuple tuple = SearchSysCacheAttName(source->relation, column->name);
	Oid type;

	if (!HeapTupleIsValid(tuple)) {
		if (column->optional)
			return false;
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_COLUMN),
		    errmsg("%s %s of model \"%s\" has no column \"%s\"", source->what, source->name,
		        source->model->name, column->name),
		    errhint("The columns must be %s. A view gives any table this shape, see doc/search-log.md.",
		        source->columns));
	}
	type = ((Form_pg_attribute) GETSTRUCT(tuple))->atttypid;
	ReleaseSysCache(tuple);
	if (!type_fits(getBaseType(type), column->kind))
		ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
		    errmsg("column \"%s\" of %s %s of model \"%s\" has type %s, not %s", column->name, source->what,
		        source->name, source->model->name, format_type_be(type), kind_name(column->kind)),
		    errhint("The columns must be %s. A view gives any table this shape, see doc/search-log.md.",
		        source->columns));
	return true;
}

static void
open_source(Source *source)
{
	HeapTuple tuple;
	char kind;

	if (!OidIsValid(source->relation))
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no %s", source->model->name, source->what),
		    errhint("Name them when the model is created: serm.create_model(..., log => 'table', documents "
		            "=> 'table')."));
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(source->relation));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
		    errmsg("the %s of model \"%s\" does not exist any more", source->what, source->model->name));
	kind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	source->name =
	    quote_qualified_identifier(get_namespace_name(((Form_pg_class) GETSTRUCT(tuple))->relnamespace),
	        NameStr(((Form_pg_class) GETSTRUCT(tuple))->relname));
	ReleaseSysCache(tuple);
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW &&
	    kind != RELKIND_MATVIEW && kind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
		    errmsg("%s %s of model \"%s\" is not a table or view", source->what, source->name,
		        source->model->name));
}

/* The collation of a text column: comparing in it lets an index on the column be used. */
static char *
column_collation(Oid relation, const char *name)
{
	HeapTuple tuple = SearchSysCacheAttName(relation, name);
	Oid collation = ((Form_pg_attribute) GETSTRUCT(tuple))->attcollation;

	ReleaseSysCache(tuple);
	return generate_collation_name(OidIsValid(collation) ? collation : DEFAULT_COLLATION_OID);
}

/* The log grouped by pair and position, then by pair: both steps are the server's own and may spill to disk.
 */
static void
append_pairs(StringInfo sql, const char *log, bool has_dwell, const SermLogQuery *query)
{
	appendStringInfo(sql,
	    "SELECT c.query, c.doc_id, sum(c.shown)::int8 AS shown, sum(c.clicked)::int8 AS clicked,"
	    " max(c.dwell) AS dwell, (sum(c.places) / sum(c.shown))::float4 AS place, max(c.latest) AS latest,"
	    " %s AS cells"
	    " FROM (SELECT l.query::text COLLATE \"C\" AS query, l.doc_id::text COLLATE \"C\" AS doc_id,"
	    " %s AS place, count(*) AS shown, count(*) FILTER (WHERE l.clicked) AS clicked,"
	    " %s AS dwell, sum(l.\"position\"::float8) AS places, max(l.shown_at) AS latest"
	    " FROM %s AS l WHERE l.query IS NOT NULL AND l.doc_id IS NOT NULL AND l.shown_at IS NOT NULL"
	    " AND l.\"position\" >= 1%s%s GROUP BY 1, 2, 3) AS c GROUP BY c.query, c.doc_id",
	    query->cells ? "array_agg(ARRAY[c.place, least(c.shown, 2147483647)::int4,"
	                   " least(c.clicked, 2147483647)::int4])"
	                 : "NULL::int4[]",
	    query->cells ? psprintf("least(l.\"position\", %d)::int4", SERM_MINE_POSITIONS) : "1",
	    has_dwell ? "max(l.dwell_ms)::int8" : "NULL::int8", log, query->since ? " AND l.shown_at >= $1" : "",
	    query->until ? " AND l.shown_at < $2" : "");
}

/*
 * A judgment names its document by id or by text. Texts are compared by an
 * operator that cannot be hashed, so only those of a query that has such
 * judgments are read.
 */
static void
append_judged(StringInfo sql)
{
	appendStringInfoString(sql,
	    " LEFT JOIN (SELECT DISTINCT k.query, k.doc_id, true AS known FROM"
	    " (SELECT j.query, j.doc_id FROM serm.judgment AS j"
	    " WHERE j.model = $3 AND j.source <> 'clicks' AND j.doc_id IS NOT NULL"
	    " UNION ALL SELECT s.query, s.doc_id FROM serm.sample AS s WHERE s.model = $3) AS k) AS g"
	    " ON g.query = p.query COLLATE \"C\" AND g.doc_id = p.doc_id COLLATE \"C\""
	    " LEFT JOIN (SELECT DISTINCT j.query, j.doc, true AS known FROM serm.judgment AS j"
	    " WHERE j.model = $3 AND j.source <> 'clicks' AND j.doc_id IS NULL) AS t"
	    " ON t.query = p.query COLLATE \"C\" AND NOT (t.doc IS DISTINCT FROM d.doc::text COLLATE \"C\")");
}

char *
serm_log_query(const SermModelRow *model, const SermLogQuery *query)
{
	Source log = {model, model->log, "search log", LOG_COLUMNS, NULL};
	Source documents = {model, model->documents, "documents", DOCUMENT_COLUMNS, NULL};
	StringInfoData sql;
	bool has_dwell = false;

	open_source(&log);
	for (int i = 0; i < lengthof(log_columns); i++)
		has_dwell = check_column(&log, &log_columns[i]);
	open_source(&documents);
	for (int i = 0; i < lengthof(document_columns); i++)
		(void) check_column(&documents, &document_columns[i]);

	initStringInfo(&sql);
	appendStringInfo(&sql,
	    "SELECT p.query, p.doc_id, d.doc::text, p.shown, p.clicked, p.dwell, p.place, p.latest, p.cells, %s"
	    " FROM (",
	    query->judged ? "g.known IS NOT NULL OR t.known IS NOT NULL" : "false");
	append_pairs(&sql, log.name, has_dwell, query);
	appendStringInfo(&sql, ") AS p LEFT JOIN %s AS d ON d.doc_id = p.doc_id COLLATE %s", documents.name,
	    column_collation(model->documents, "doc_id"));
	if (query->judged)
		append_judged(&sql);
	appendStringInfoString(
	    &sql, " ORDER BY p.query COLLATE \"C\", p.doc_id COLLATE \"C\", d.doc::text COLLATE \"C\"");
	return sql.data;
}
