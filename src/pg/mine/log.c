/*
 * The one grouped statement that reads a model's search log with its documents,
 * with the caller's rights. The columns are checked before it is built.
 */
#include "pg/mine/mine.h"

#include "catalog/pg_collation.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

/* The collation of a text column: comparing in it lets an index on the column be used. */
static char *
column_collation(Oid relation, const char *name)
{
	Oid type, collation;
	int32 modifier;

	get_atttypetypmodcoll(relation, get_attnum(relation, name), &type, &modifier, &collation);
	return generate_collation_name(OidIsValid(collation) ? collation : DEFAULT_COLLATION_OID);
}

/*
 * The log grouped by pair and position, then by pair: both steps are the server's own and may spill to disk.
 * Blank queries are in it: to trim each row costs as much as to group it, and gather.c sees each pair.
 */
static void
append_pairs(StringInfo sql, const char *log, bool has_dwell, bool has_segment, const SermLogQuery *query)
{
	appendStringInfo(sql,
	    "SELECT c.query, c.doc_id, sum(c.shown)::int8 AS shown, sum(c.clicked)::int8 AS clicked,"
	    " max(c.dwell) AS dwell, (sum(c.places) / sum(c.shown))::float4 AS place, max(c.latest) AS latest,"
	    " %s AS cells, min(c.segment) AS segment"
	    " FROM (SELECT l.query::text COLLATE \"C\" AS query, l.doc_id::text COLLATE \"C\" AS doc_id,"
	    " %s AS place, count(*) AS shown, count(*) FILTER (WHERE l.clicked) AS clicked,"
	    " %s AS dwell, sum(l.\"position\"::float8) AS places, max(l.shown_at) AS latest,"
	    " %s AS segment FROM %s AS l WHERE l.query IS NOT NULL AND l.doc_id IS NOT NULL AND l.shown_at IS "
	    "NOT NULL"
	    " AND l.\"position\" >= 1%s%s GROUP BY 1, 2, 3) AS c"
	    " GROUP BY c.query, c.doc_id",
	    query->cells ? "array_agg(ARRAY[c.place, least(c.shown, 2147483647)::int4,"
	                   " least(c.clicked, 2147483647)::int4])"
	                 : "NULL::int4[]",
	    query->cells ? psprintf("least(l.\"position\", %d)::int4", SERM_MINE_POSITIONS) : "1",
	    has_dwell ? "max(l.dwell_ms)::int8" : "NULL::int8",
	    has_segment ? "min(l.segment::text COLLATE \"C\")" : "NULL::text", log,
	    query->since ? " AND l.shown_at >= $1" : "", query->until ? " AND l.shown_at < $2" : "");
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
	char *log = serm_source_name(model->log, SERM_SOURCE_LOG, model->name);
	char *documents = serm_source_name(model->documents, SERM_SOURCE_DOCUMENTS, model->name);
	bool has_dwell = get_attnum(model->log, "dwell_ms") != InvalidAttrNumber;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
	    "SELECT p.query, p.doc_id, d.doc::text, p.shown, p.clicked, p.dwell, p.place, p.latest, p.cells, "
	    "p.segment, %s, %s"
	    " FROM (",
	    query->judged ? "g.known IS NOT NULL OR t.known IS NOT NULL" : "false",
	    query->stored ? "a.attractiveness" : "NULL::float8");
	append_pairs(&sql, log, has_dwell, get_attnum(model->log, "segment") != InvalidAttrNumber, query);
	appendStringInfo(&sql, ") AS p LEFT JOIN %s AS d ON d.doc_id = p.doc_id COLLATE %s", documents,
	    column_collation(model->documents, "doc_id"));
	if (query->judged)
		append_judged(&sql);
	if (query->stored)
		appendStringInfoString(&sql,
		    " LEFT JOIN serm.click_param AS a ON a.model = $3 AND a.kind = 'pbm'"
		    " AND a.query = p.query COLLATE \"C\" AND a.doc_id = p.doc_id COLLATE \"C\"");
	appendStringInfoString(
	    &sql, " ORDER BY p.query COLLATE \"C\", p.doc_id COLLATE \"C\", d.doc::text COLLATE \"C\"");
	return sql.data;
}
