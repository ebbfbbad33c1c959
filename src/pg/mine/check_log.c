/*
 * serm.check_log: what is wrong with a log, all of it at once, before a model is
 * blamed. First its shape, from the catalogue; then, if that allows reading it, one
 * statement that counts what misleads.
 */
#include "pg/serm.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#define VIEW_HINT "Make a view of this shape, see doc/search-log.md."

typedef struct Column {
	const char *name;
	const char *type;
	Oid types[3];
	bool optional;
} Column;

static const Column log_columns[] = {
    {"query", "text", {TEXTOID, VARCHAROID, TEXTOID}, false},
    {"doc_id", "text", {TEXTOID, VARCHAROID, TEXTOID}, false},
    {"shown_at", "timestamp with time zone", {TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}, false},
    {"position", "integer", {INT2OID, INT4OID, INT8OID}, false},
    {"clicked", "boolean", {BOOLOID, BOOLOID, BOOLOID}, false},
    {"dwell_ms", "integer", {INT2OID, INT4OID, INT8OID}, true},
    {"session_id", "text", {TEXTOID, VARCHAROID, TEXTOID}, true},
    {"segment", "text", {TEXTOID, VARCHAROID, TEXTOID}, true},
};

static const Column document_columns[] = {
    {"doc_id", "text", {TEXTOID, VARCHAROID, TEXTOID}, false},
    {"doc", "text", {TEXTOID, VARCHAROID, TEXTOID}, false},
};

/* What is counted in the log `l` with columns q, d, t, p, c, w, s; a problem where the count is not 0. */
typedef struct Count {
	const char *severity;
	const char *problem;
	const char *column;
	const char *expression;
	const char *remedy;
} Count;

static const Count counts[] = {
    {"warning", "rows without a query are skipped", "query",
        "count(*) FILTER (WHERE q IS NULL OR btrim(q, E' \\t\\r\\n\\f\\x0b') = '')",
        "Leave them out in the view, or find out why the query was lost."},
    {"warning", "rows without a document are skipped", "doc_id",
        "count(*) FILTER (WHERE d IS NULL OR d = '')", "Leave them out in the view."},
    {"warning", "rows without a time are skipped", "shown_at", "count(*) FILTER (WHERE t IS NULL)",
        "Leave them out in the view."},
    {"warning", "impressions of the future", "shown_at",
        "count(*) FILTER (WHERE t > now() + interval '1 day' AND t < 'infinity')",
        "Check the clock and the time zone of what writes the log: serm.mine_next waits for their time."},
    {"warning", "rows without a position are skipped", "position",
        "count(*) FILTER (WHERE p IS NULL OR p < 0)", "Leave them out in the view."},
    {"error", "positions count from 0: the first results are skipped", "position",
        "count(*) FILTER (WHERE p = 0)", "Say position + 1 in the view: 1 is the first."},
    {"warning",
        "positions past the first hundred: rows that nobody saw look like rows that everybody skipped",
        "position", "count(*) FILTER (WHERE p > 100)",
        "Log what was on the page, not what the engine returned: WHERE position <= 10."},
    {"notice", "clicked is NULL and counts as not clicked", "clicked", "count(*) FILTER (WHERE c IS NULL)",
        "Say coalesce(clicked, false) in the view."},
    {"error", "there is not one click", "clicked",
        "count(*) FILTER (WHERE c IS NOT TRUE) * (count(*) > 0 AND NOT coalesce(bool_or(c), false))::int",
        "Check how clicks are joined with impressions: on query, document and page."},
    {"error", "nearly every row is clicked: this is a log of clicks, not of impressions", "clicked",
        "count(*) FILTER (WHERE c) * (count(*) > 100 AND avg(coalesce(c, false)::int) > 0.9)::int",
        "Log each result that was shown, clicked or not."},
    {"warning", "negative dwell", "dwell_ms", "count(*) FILTER (WHERE w < 0)",
        "Say greatest(dwell_ms, 0) in the view."},
    {"warning", "dwell looks like seconds: half of it is under 600", "dwell_ms",
        "count(w) * (count(w) > 100 AND coalesce(percentile_disc(0.5) WITHIN GROUP (ORDER BY w), 1000) "
        "BETWEEN 1 AND 600)::int",
        "Say dwell * 1000 in the view: serm counts milliseconds."},
    {"notice", "dwell without a click", "dwell_ms", "count(*) FILTER (WHERE w > 0 AND c IS NOT TRUE)",
        "Dwell is the time spent with the document; time on the result page is not."},
    {"notice", "rows without a session", "session_id", "count(*) FILTER (WHERE s IS NULL)",
        "Results of two people at the same moment for the same query count as one page."},
};

typedef struct Check {
	ReturnSetInfo *to;
	bool readable;
} Check;

static void
report(Check *check, const char *severity, const char *problem, const char *column, int64 rows,
    const char *remedy)
{
	Datum values[5] = {CStringGetTextDatum(severity), CStringGetTextDatum(problem), (Datum) 0,
	    Int64GetDatum(rows), CStringGetTextDatum(remedy)};
	bool nulls[5] = {false, false, column == NULL, rows < 0, false};

	if (column != NULL)
		values[2] = CStringGetTextDatum(column);
	tuplestore_putvalues(check->to->setResult, check->to->setDesc, values, nulls);
	if (strcmp(severity, "error") == 0 && rows < 0)
		check->readable = false;
}

static void
check_column(Check *check, Oid relation, const Column *column)
{
	AttrNumber number = get_attnum(relation, column->name);
	Oid type = number == InvalidAttrNumber ? InvalidOid : get_atttype(relation, number);
	Oid base = OidIsValid(type) ? getBaseType(type) : InvalidOid;

	if (number == InvalidAttrNumber && !column->optional)
		report(check, "error", psprintf("column \"%s\" is missing", column->name), column->name, -1,
		    psprintf("A column \"%s\" of type %s is needed. " VIEW_HINT, column->name, column->type));
	else if (number == InvalidAttrNumber && strcmp(column->name, "segment") != 0)
		report(check, "notice", psprintf("there is no column \"%s\"", column->name), column->name, -1,
		    strcmp(column->name, "dwell_ms") == 0 ? "Without dwell only clicks tell what users liked."
		                                          : "Without sessions a page is a moment and a query.");
	else if (number != InvalidAttrNumber && base != column->types[0] && base != column->types[1] &&
	         base != column->types[2])
		report(check, "error",
		    psprintf("column \"%s\" has type %s, not %s", column->name, format_type_be(type), column->type),
		    column->name, -1, "Cast it in a view, where its meaning is known, see doc/search-log.md.");
}

/* What the catalogue says of a relation. */
static void
check_shape(Check *check, Oid relation, const char *what, const Column *columns, int count)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool secured;
	char kind;

	if (!HeapTupleIsValid(tuple)) {
		report(check, "error", psprintf("the %s do not exist", what), NULL, -1, "Name a table or a view.");
		return;
	}
	kind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	secured = ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity;
	ReleaseSysCache(tuple);
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW &&
	    kind != RELKIND_MATVIEW && kind != RELKIND_FOREIGN_TABLE) {
		report(check, "error", psprintf("the %s are not a table or view", what), NULL, -1, VIEW_HINT);
		return;
	}
	for (int i = 0; i < count; i++)
		check_column(check, relation, &columns[i]);
	if (pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		report(check, "error", psprintf("you may not read the %s", what), NULL, -1,
		    psprintf("GRANT SELECT ON %s TO %s;", quote_identifier(get_rel_name(relation)),
		        quote_identifier(GetUserNameFromId(GetUserId(), false))));
	if (secured)
		report(check, "notice",
		    psprintf("row security is on: you see and mine your rows of the %s only", what), NULL, -1,
		    "Mine as a role that may see what the model is for.");
}

static char *
optional_text(Oid log, const char *name, const char *type)
{
	return get_attnum(log, name) != InvalidAttrNumber ? psprintf("l.%s::%s", name, type)
	                                                  : psprintf("NULL::%s", type);
}

static char *
relation_name(Oid relation)
{
	return quote_qualified_identifier(
	    get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

/* The log as `l` with short names, for the statements below. */
static char *
log_source(Oid log)
{
	return psprintf(
	    "(SELECT l.query::text COLLATE \"C\" AS q, l.doc_id::text COLLATE \"C\" AS d, l.shown_at AS t,"
	    " l.\"position\"::int8 AS p, l.clicked AS c, %s AS w, %s AS s FROM %s AS l) AS l",
	    optional_text(log, "dwell_ms", "int8"), optional_text(log, "session_id", "text"), relation_name(log));
}

static void
check_counts(Check *check, Oid log)
{
	bool sessions = get_attnum(log, "session_id") != InvalidAttrNumber;
	StringInfoData sql;
	int64 found[lengthof(counts)], rows;
	bool null;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT count(*)");
	for (int i = 0; i < (int) lengthof(counts); i++)
		appendStringInfo(&sql, ", (%s)::int8", counts[i].expression);
	appendStringInfo(&sql, " FROM %s", log_source(log));
	serm_spi_execute(sql.data, SPI_OK_SELECT, true, NULL, 0);
	rows = DatumGetInt64(serm_spi_value(0, 1, &null));
	for (int i = 0; i < (int) lengthof(counts); i++)
		found[i] = DatumGetInt64(serm_spi_value(0, i + 2, &null));
	if (rows == 0)
		report(
		    check, "error", "the log is empty", NULL, 0, "Fill it, or look at the conditions of the view.");
	for (int i = 0; i < (int) lengthof(counts); i++)
		if (found[i] > 0 && (sessions || strcmp(counts[i].column, "session_id") != 0))
			report(
			    check, counts[i].severity, counts[i].problem, counts[i].column, found[i], counts[i].remedy);
}

/* What only grouping shows: impressions twice, documents that never move, spellings of one query. */
static void
check_groups(Check *check, Oid log)
{
	char *source = log_source(log);
	int64 rows, twice, pairs, moved, queries, spellings;
	bool null;

	serm_spi_execute(psprintf("SELECT coalesce(sum(g.n - 1), 0)::int8 FROM (SELECT count(*) AS n FROM %s"
	                          " GROUP BY q, d, t, p, s HAVING count(*) > 1) AS g",
	                     source),
	    SPI_OK_SELECT, true, NULL, 0);
	twice = DatumGetInt64(serm_spi_value(0, 1, &null));
	serm_spi_execute(
	    psprintf("SELECT count(*), count(*) FILTER (WHERE g.places > 1), coalesce(sum(g.n), 0)::int8,"
	             " count(DISTINCT g.q), count(DISTINCT lower(regexp_replace(btrim(g.q), '\\s+', ' ', 'g')))"
	             " FROM (SELECT q, d, count(*) AS n, count(DISTINCT p) AS places FROM %s WHERE q IS NOT NULL"
	             " AND d IS NOT NULL GROUP BY q, d) AS g",
	        source),
	    SPI_OK_SELECT, true, NULL, 0);
	pairs = DatumGetInt64(serm_spi_value(0, 1, &null));
	moved = DatumGetInt64(serm_spi_value(0, 2, &null));
	rows = DatumGetInt64(serm_spi_value(0, 3, &null));
	queries = DatumGetInt64(serm_spi_value(0, 4, &null));
	spellings = DatumGetInt64(serm_spi_value(0, 5, &null));
	if (twice > 0)
		report(check, "warning", "impressions that are logged twice", NULL, twice,
		    "Make (query, doc_id, shown_at, position, session_id) unique: the click model believes every "
		    "row.");
	if (pairs > 100 && moved * 100 < pairs)
		report(check, "warning",
		    "documents never change their position: examination and attraction cannot be told apart",
		    "position", pairs - moved,
		    "Shuffle the results of a few pages in a hundred, or use the kinds cascade and sdbn.");
	if (pairs > 1000 && rows < pairs + pairs / 10)
		report(check, "warning", "nearly every pair was shown once: clicks say little of a pair", NULL, pairs,
		    "Take a longer window, or normalise queries in the view.");
	if (spellings < queries)
		report(check, "notice", "queries that differ in case or spaces only", "query", queries - spellings,
		    "Say lower(btrim(query)) in the view, if they are the same to your engine.");
}

static bool
has_time_index(Oid log)
{
	SermParam params[] = {SERM_DATUM(OIDOID, ObjectIdGetDatum(log))};

	serm_spi_execute("SELECT 1 FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid"
	                 " AND a.attnum = i.indkey[0] WHERE i.indrelid = $1 AND a.attname = 'shown_at' LIMIT 1",
	    SPI_OK_SELECT, true, params, 1);
	return SPI_processed > 0;
}

static void
check_access(Check *check, Oid log)
{
	SermParam params[] = {SERM_DATUM(OIDOID, ObjectIdGetDatum(log))};
	bool null;

	serm_spi_execute("SELECT c.relkind = 'r' AND c.reltuples > 100000, c.reltuples::int8 FROM pg_class AS c "
	                 "WHERE c.oid = $1",
	    SPI_OK_SELECT, true, params, 1);
	if (SPI_processed == 1 && DatumGetBool(serm_spi_value(0, 1, &null))) {
		int64 rows = DatumGetInt64(serm_spi_value(0, 2, &null));

		if (!has_time_index(log))
			report(check, "notice", "a window reads the whole table: no index begins with shown_at",
			    "shown_at", rows, psprintf("CREATE INDEX ON %s USING brin (shown_at);", relation_name(log)));
	}
}

static void
check_documents(Check *check, Oid log, Oid documents)
{
	int64 missing, all, twice;
	bool null;

	serm_spi_execute(
	    psprintf(
	        "SELECT count(*) FILTER (WHERE k.doc_id IS NULL), count(*) FROM (SELECT DISTINCT d FROM %s"
	        " WHERE d IS NOT NULL) AS g LEFT JOIN (SELECT DISTINCT k.doc_id::text COLLATE \"C\" AS doc_id"
	        " FROM %s AS k WHERE k.doc IS NOT NULL) AS k ON k.doc_id = g.d",
	        log_source(log), relation_name(documents)),
	    SPI_OK_SELECT, true, NULL, 0);
	missing = DatumGetInt64(serm_spi_value(0, 1, &null));
	all = DatumGetInt64(serm_spi_value(0, 2, &null));
	serm_spi_execute(
	    psprintf("SELECT count(*) FROM (SELECT 1 FROM %s AS k GROUP BY k.doc_id HAVING count(*) > 1) AS g",
	        relation_name(documents)),
	    SPI_OK_SELECT, true, NULL, 0);
	twice = DatumGetInt64(serm_spi_value(0, 1, &null));
	if (missing > 0)
		report(check, missing == all ? "error" : "warning", "documents of the log have no text", "doc_id",
		    missing, "Column doc_id of the log must hold the ids that the documents have.");
	if (twice > 0)
		report(check, "warning", "ids that several documents have; the first text by bytes counts", "doc_id",
		    twice, "Make doc_id unique.");
}

SERM_FUNCTION(serm_check_log);

/* serm.check_log(log regclass, documents regclass). */
Datum
serm_check_log(PG_FUNCTION_ARGS)
{
	Check check = {.to = (ReturnSetInfo *) fcinfo->resultinfo, .readable = true};
	Oid log = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	Oid documents = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	int level;

	InitMaterializedSRF(fcinfo, 0);
	if (!OidIsValid(log))
		return (Datum) 0;
	check_shape(&check, log, "rows of the log", log_columns, lengthof(log_columns));
	if (OidIsValid(documents))
		check_shape(&check, documents, "documents", document_columns, lengthof(document_columns));
	if (!check.readable)
		return (Datum) 0;
	level = serm_spi_begin(false);
	check_counts(&check, log);
	check_groups(&check, log);
	check_access(&check, log);
	if (OidIsValid(documents))
		check_documents(&check, log, documents);
	serm_spi_end(level);
	return (Datum) 0;
}
