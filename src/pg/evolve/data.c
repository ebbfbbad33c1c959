/*
 * What training and evaluating read: judged pairs of the two splits, the corpus,
 * and the probe pairs of serm.check_version. Rows are fetched through a cursor
 * and copied into the host's arena, whose limit is serm.train_memory.
 *
 * Everything is ordered by its bytes, so that the same rows give the same
 * training set however the tables lie on disk.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/stats/metrics.h"
#include "pg/evolve/evolve.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/snapmgr.h"

#define FETCH_ROWS 256
/* Hash buckets of the corpus sample: the share kept is a multiple of 1/2^20. */
#define CORPUS_BUCKETS (1 << 20)
/* The same of the queries that are replayed; exact in a real. */
#define REPLAY_BUCKETS (1 << 20)

void
serm_read_rows(const char *sql, const SermParam *params, int count, SermRowReader reader, void *state)
{
	Oid types[4];
	Datum values[4];
	char nulls[4];
	Portal portal;

	Assert(count <= lengthof(types));
	for (int i = 0; i < count; i++) {
		types[i] = params[i].type;
		values[i] = params[i].value;
		nulls[i] = params[i].null ? 'n' : ' ';
	}
	/* After a commit inside a procedure there is no snapshot to share: the cursor takes one of its own. */
	portal = SPI_cursor_open_with_args(NULL, sql, count, types, values, nulls, ActiveSnapshotSet(), 0);
	for (;;) {
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 row = 0; row < SPI_processed; row++)
			reader(state, row);
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_freetuptable(SPI_tuptable);
	SPI_cursor_close(portal);
}

pg_noreturn static void
out_of_memory(void)
{
	ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY),
	    errmsg("training data does not fit in %d MB", serm_train_memory_mb),
	    errhint("Raise serm.train_memory, or lower the options \"corpus\" and \"unlabelled\"."));
}

static void *
arena_array(SermHost *host, size_t count, size_t size)
{
	void *array = serm_arena_array(&host->arena, Max(count, 1), size);

	if (array == NULL)
		out_of_memory();
	return array;
}

/* A text column as bytes in the arena; length 0 for NULL. */
static SermText
copy_text(SermHost *host, uint64 row, int column)
{
	SermText copy = {"", 0};
	bool null;
	Datum value = serm_spi_value(row, column, &null);
	struct varlena *bytes;

	if (null)
		return copy;
	bytes = PG_DETOAST_DATUM_PACKED(value);
	copy.length = VARSIZE_ANY_EXHDR(bytes);
	copy.bytes = serm_arena_copy(&host->arena, VARDATA_ANY(bytes), copy.length);
	if (copy.bytes == NULL)
		out_of_memory();
	if ((Pointer) bytes != DatumGetPointer(value))
		pfree(bytes);
	return copy;
}

/* The part of a text that models read, in both encodings. */
static SermCopy
copy_model_text(SermHost *host, SermTextBuffer *buffer, uint64 row, int column)
{
	SermCopy copy;
	SermText source, utf8;
	bool null;
	void *detoasted;
	Datum value = serm_spi_value(row, column, &null);

	Assert(!null);
	source = serm_text_detoast(value, &detoasted);
	utf8 = serm_text_utf8(source, buffer);
	/* Nobody reads further: a text that lies there in full must not cost more than one that is cut on TOAST.
	 */
	if (utf8.bytes == source.bytes)
		source.length = utf8.length;
	copy.text.length = source.length;
	copy.text.bytes = serm_arena_copy(&host->arena, source.bytes, source.length);
	copy.utf8 = (SermText){copy.text.bytes, utf8.length};
	if (utf8.bytes != source.bytes)
		copy.utf8.bytes = serm_arena_copy(&host->arena, utf8.bytes, utf8.length);
	if (copy.text.bytes == NULL || copy.utf8.bytes == NULL)
		out_of_memory();
	if (detoasted != NULL)
		pfree(detoasted);
	return copy;
}

static bool
equal_text(SermText a, SermText b)
{
	return a.length == b.length && memcmp(a.bytes, b.bytes, a.length) == 0;
}

/* --- a list that grows: chunks in the arena, joined at the end */

typedef struct Growing {
	SermHost *host;
	size_t size; /* of an element */
	void *elements;
	size_t count;
	size_t capacity;
} Growing;

static void *
grow(Growing *list)
{
	if (list->count == list->capacity) {
		size_t capacity = Max(list->capacity * 2, 256);
		void *elements = arena_array(list->host, capacity, list->size);

		if (list->count > 0)
			memcpy(elements, list->elements, list->count * list->size);
		list->elements = elements;
		list->capacity = capacity;
	}
	return (char *) list->elements + list->count++ * list->size;
}

/* --- judged pairs */

typedef struct PairReader {
	SermHost *host;
	const SermModelRow *row;
	bool agreed;
	bool all;     /* no split: everything goes to `train` */
	bool is_test; /* of the query read last */
	SermText query;
	SermTextBuffer buffer;
	Growing queries[2]; /* train, test */
	Growing pairs[2];
	SermPairSet *sets[2];
} PairReader;

enum {
	COLUMN_QUERY = 1,
	COLUMN_DOC_ID,
	COLUMN_DOC,
	COLUMN_GRADE,
	COLUMN_TARGET,
	COLUMN_SOURCE,
	COLUMN_WEIGHT,
	COLUMN_ORIGIN
};

pg_noreturn static void
bad_judgment(const SermText *query, const char *problem, const char *hint)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
	    errmsg("judgment of query \"%.*s\" %s", (int) pg_mbcliplen(query->bytes, (int) query->length, 100),
	        query->bytes, problem),
	    errhint("%s", hint));
}

/* A fractional grade is a soft label between its two neighbours. */
static void
target_of_grade(const SermText *query, double grade, int grade_count, float *target)
{
	int low = (int) floor(grade);

	if (!(grade >= 0 && grade <= grade_count - 1))
		bad_judgment(query, "has a grade that the model does not know",
		    psprintf("Grades of this model lie between 0 and %d.", grade_count - 1));
	low = Min(low, grade_count - 2);
	target[low] = (float) (1 - (grade - low));
	target[low + 1] = (float) (grade - low);
}

static void
target_of_array(const SermText *query, ArrayType *array, int grade_count, float *target)
{
	const char *hint = "A target has one finite, non-negative number per grade, not all of them 0.";
	const float4 *values = (const float4 *) ARR_DATA_PTR(array);
	double sum = 0;

	if (ARR_NDIM(array) != 1 || ARR_DIMS(array)[0] != grade_count || ARR_HASNULL(array))
		bad_judgment(query, "has a target of the wrong shape", hint);
	for (int y = 0; y < grade_count; y++) {
		if (!(isfinite(values[y]) && values[y] >= 0))
			bad_judgment(query, "has a target that is no distribution", hint);
		sum += values[y];
	}
	if (!(sum > 0))
		bad_judgment(query, "has a target that is no distribution", hint);
	for (int y = 0; y < grade_count; y++)
		target[y] = (float) (values[y] / sum);
}

static void
read_target(const PairReader *reader, uint64 row, const char *source, SermPair *pair)
{
	bool null;
	Datum value = serm_spi_value(row, COLUMN_TARGET, &null);

	if (null || (reader->agreed && strcmp(source, "agents") == 0))
		target_of_grade(&reader->query, pair->grade, reader->row->grade_count, pair->target);
	else
		target_of_array(&reader->query, DatumGetArrayTypeP(value), reader->row->grade_count, pair->target);
}

static void
read_query(PairReader *reader, uint64 row)
{
	SermArenaMark mark = serm_arena_mark(&reader->host->arena);
	SermCopy query = copy_model_text(reader->host, &reader->buffer, row, COLUMN_QUERY);
	int side;

	if (reader->query.bytes != NULL && equal_text(query.text, reader->query)) {
		serm_arena_rewind(&reader->host->arena, mark);
		return;
	}
	reader->query = query.text;
	reader->is_test = !reader->all && serm_query_is_test(query.text, reader->row->options.test_share);
	side = reader->is_test ? 1 : 0;
	if (reader->sets[side] != NULL)
		*(SermCopy *) grow(&reader->queries[side]) = query;
}

/* A fractional grade of agents is the mean of a soft target: they disagreed. */
static bool
is_agreed(const char *source, float4 grade)
{
	return strcmp(source, "agents") != 0 || grade == floorf(grade);
}

const char *const serm_source_names[SERM_SOURCE_COUNT] = {
    [SERM_SOURCE_HUMAN] = "human",
    [SERM_SOURCE_AGENTS] = "agents",
    [SERM_SOURCE_CLICKS] = "clicks",
    [SERM_SOURCE_IMPORT] = "import",
};

static SermSource
source_of(const char *name)
{
	for (int source = 0; source < SERM_SOURCE_COUNT; source++)
		if (strcmp(serm_source_names[source], name) == 0)
			return source;
	ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED), errmsg("a judgment has the unknown source \"%s\"", name));
}

static void
read_pair(void *state, uint64 row)
{
	PairReader *reader = state;
	char *source = serm_spi_string(row, COLUMN_SOURCE);
	SermPair *pair;
	int side;
	bool null;

	if (reader->agreed && !is_agreed(source, DatumGetFloat4(serm_spi_value(row, COLUMN_GRADE, &null))))
		return;
	read_query(reader, row);
	side = reader->is_test ? 1 : 0;
	if (reader->sets[side] == NULL)
		return;
	pair = grow(&reader->pairs[side]);
	pair->query = (uint32) reader->queries[side].count - 1;
	pair->doc_id = copy_text(reader->host, row, COLUMN_DOC_ID);
	pair->doc = copy_model_text(reader->host, &reader->buffer, row, COLUMN_DOC);
	pair->grade = DatumGetFloat4(serm_spi_value(row, COLUMN_GRADE, &null));
	pair->weight = DatumGetFloat4(serm_spi_value(row, COLUMN_WEIGHT, &null));
	pair->source = source_of(source);
	pair->origin = (uint8) DatumGetInt32(serm_spi_value(row, COLUMN_ORIGIN, &null));
	read_target(reader, row, source, pair);
	pfree(source);
}

static void
start_reader(
    PairReader *reader, SermHost *host, const SermModelRow *row, SermPairSet *train, SermPairSet *test)
{
	memset(reader, 0, sizeof(*reader));
	reader->host = host;
	reader->row = row;
	reader->sets[0] = train;
	reader->sets[1] = test;
	reader->buffer.context = host->context;
	for (int side = 0; side < 2; side++) {
		reader->queries[side] = (Growing){.host = host, .size = sizeof(SermCopy)};
		reader->pairs[side] = (Growing){.host = host, .size = sizeof(SermPair)};
	}
}

static void
finish_reader(PairReader *reader)
{
	for (int side = 0; side < 2; side++)
		if (reader->sets[side] != NULL)
			*reader->sets[side] = (SermPairSet){reader->queries[side].elements, reader->queries[side].count,
			    reader->pairs[side].elements, reader->pairs[side].count};
}

#define ORDER_OF_PAIRS                                                                                       \
	" ORDER BY j.query COLLATE \"C\", j.doc COLLATE \"C\", j.doc_id COLLATE \"C\", j.grade, j.id"

void
serm_pairs_read_window(SermHost *host, const SermModelRow *row, bool agreed, const SermPairWindow *window,
    SermPairSet *train, SermPairSet *test)
{
	SermParam params[] = {SERM_TEXT(row->name),
	    SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(window->since)),
	    SERM_DATUM(FLOAT4ARRAYOID, (Datum) 0)};
	Datum numbers[] = {Float4GetDatum((float4) row->options.test_share),
	    Float4GetDatum((float4) (window->share[SERM_ORIGIN_HISTORY] * REPLAY_BUCKETS)),
	    Float4GetDatum((float4) (window->share[SERM_ORIGIN_ORIGINAL] * REPLAY_BUCKETS))};
	PairReader reader;
	StringInfoData sql;

	params[2].value = PointerGetDatum(
	    construct_array(numbers, lengthof(numbers), FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
	start_reader(&reader, host, row, train, test);
	reader.agreed = agreed;
	initStringInfo(&sql);
	appendStringInfo(&sql,
	    "SELECT j.query, j.doc_id, j.doc, j.grade, j.target, j.source, j.weight,"
	    " CASE WHEN j.at > $2 THEN %d WHEN j.round IS NOT NULL THEN %d ELSE %d END %s",
	    SERM_ORIGIN_NEW, SERM_ORIGIN_HISTORY, SERM_ORIGIN_ORIGINAL, serm_judgment_query(row));
	if (window->share[SERM_ORIGIN_HISTORY] < 1 || window->share[SERM_ORIGIN_ORIGINAL] < 1)
		appendStringInfo(&sql,
		    " AND (j.at > $2 OR serm.split_of(j.query, ($3)[1]) = 'test' OR"
		    " (pg_catalog.hashtextextended(j.query COLLATE \"C\", 0) & %d) <"
		    " CASE WHEN j.round IS NOT NULL THEN ($3)[2] ELSE ($3)[3] END)",
		    REPLAY_BUCKETS - 1);
	/* Every parameter is used, so that each has a type. */
	appendStringInfoString(&sql, " AND $3 IS NOT NULL" ORDER_OF_PAIRS);
	serm_read_rows(sql.data, params, lengthof(params), read_pair, &reader);
	finish_reader(&reader);
}

void
serm_pairs_read(SermHost *host, const SermModelRow *row, bool agreed, SermPairSet *train, SermPairSet *test)
{
	const SermPairWindow all = {DT_NOEND, {1, 1, 1}};

	serm_pairs_read_window(host, row, agreed, &all, train, test);
}

/*
 * What its agents say of a pair without the model: a grade by the rule posterior is in part the active
 * version's own opinion, and the active version is one side of the comparison. In numeric: no order of rows
 * changes a sum.
 */
#define GRADE_OF_VOTES                                                                                       \
	"(SELECT least(greatest(pg_catalog.sum(o.weight * o.grade) / pg_catalog.sum(o.weight), 0), %d)::real"    \
	"  FROM (SELECT r.weight::numeric AS weight, pg_catalog.avg(v.grade) - r.level::numeric AS grade"        \
	"   FROM serm.sample s JOIN serm.vote v ON v.sample = s.id AND v.grade IS NOT NULL"                      \
	"   JOIN serm.agent a ON a.model = s.model AND a.name = v.agent AND a.active"                            \
	"   JOIN serm.reliability r ON r.model = s.model AND r.agent = v.agent AND r.prompt = v.prompt"          \
	"   WHERE s.model = $1 AND s.round = coalesce(c.round, 0)"                                               \
	"    AND pg_catalog.md5(s.query) = pg_catalog.md5(c.query)"                                              \
	"    AND pg_catalog.md5(s.doc_id) = pg_catalog.md5(c.doc_id)"                                            \
	"   GROUP BY r.model, r.agent, r.prompt HAVING r.weight > 0) o)"

void
serm_pairs_read_recent(SermHost *host, const SermModelRow *row, int32 since_round, SermPairSet *test)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_INT4(since_round)};
	PairReader reader;
	char *votes = strcmp(row->options.rule, "posterior") == 0 ? psprintf(GRADE_OF_VOTES, row->grade_count - 1)
	                                                          : "NULL::real";

	start_reader(&reader, host, row, NULL, test);
	/*
	 * The round of any judgment of the query: a grade that people insert themselves has none. Nor has one of
	 * agents outside of rounds, as of what serm.mine_next sampled: it counts by its time. A fractional grade
	 * without votes is the mean of a soft target.
	 */
	serm_read_rows(
	    psprintf(
	        "SELECT j.query, j.doc_id, j.doc, j.grade, j.target, j.source, j.weight, %d FROM"
	        " (SELECT c.id, c.query, c.doc_id, c.doc, c.source, c.weight, CASE c.source WHEN 'agents' THEN"
	        "   coalesce(%s, CASE WHEN c.grade = pg_catalog.floor(c.grade) THEN c.grade END)"
	        "   ELSE c.grade END AS grade, CASE WHEN c.source <> 'agents' THEN c.target END AS target"
	        "  FROM (SELECT j.* %s AND j.source <> 'clicks' AND j.query IN (SELECT r.query FROM "
	        "serm.judgment r"
	        "   WHERE r.model = $1 AND (r.round >= $2 AND r.source <> 'clicks'"
	        "    OR r.round IS NULL AND r.source = 'agents' AND r.at >= (SELECT min(s.started)"
	        "     FROM serm.round s WHERE s.model = $1 AND s.round >= $2)))) c) j"
	        " WHERE j.grade IS NOT NULL" ORDER_OF_PAIRS,
	        SERM_ORIGIN_NEW, votes, serm_judgment_query(row)),
	    params, lengthof(params), read_pair, &reader);
	finish_reader(&reader);
}

void
serm_probe_read(SermHost *host, const SermModelRow *row, int32 count, SermPairSet *probe)
{
	SermParam params[] = {SERM_TEXT(row->name), SERM_INT4(count)};
	PairReader reader;
	StringInfoData sql;

	start_reader(&reader, host, row, probe, NULL);
	reader.all = true;
	initStringInfo(&sql);
	/* By id: rows are only ever appended, so later judgments do not change which pairs come first. */
	appendStringInfoString(&sql, "WITH p AS MATERIALIZED (SELECT j.id, j.query, j.doc_id, j.doc, j.source"
	                             " FROM serm.judgment j WHERE j.model = $1 ORDER BY j.id LIMIT $2)"
	                             " SELECT p.query, NULL::text, ");
	/* An id that occurs twice gives its first text, as in training, wherever that lies in the table. */
	if (OidIsValid(row->documents))
		appendStringInfo(&sql,
		    "coalesce(p.doc, d.doc, ''), 0::real, NULL::real[], p.source, 1::real, 0 FROM p LEFT JOIN"
		    " (SELECT s.doc_id, min(s.doc::text COLLATE \"C\") AS doc FROM %s s WHERE s.doc_id IN"
		    " (SELECT n.doc_id FROM p AS n WHERE n.doc IS NULL) GROUP BY s.doc_id) d"
		    " ON p.doc IS NULL AND d.doc_id = p.doc_id",
		    serm_source_name(row->documents, SERM_SOURCE_DOCUMENTS, row->name));
	else
		appendStringInfoString(
		    &sql, "coalesce(p.doc, ''), 0::real, NULL::real[], p.source, 1::real, 0 FROM p");
	appendStringInfoString(&sql, " ORDER BY p.id");
	serm_read_rows(sql.data, params, lengthof(params), read_pair, &reader);
	finish_reader(&reader);
}

void
serm_shown_read(SermHost *host, const SermModelRow *row, int32 count, SermPairSet *shown)
{
	SermParam params[] = {SERM_INT4(count)};
	PairReader reader;
	char *sql;

	start_reader(&reader, host, row, shown, NULL);
	reader.all = true;
	if (OidIsValid(row->log) && OidIsValid(row->documents) && count > 0) {
		sql = psprintf(
		    "SELECT p.query, NULL::text, d.doc::text, 0::real, NULL::real[], 'human', 1::real, 0 FROM"
		    " (SELECT DISTINCT l.query::text COLLATE \"C\" AS query, l.doc_id::text COLLATE \"C\" AS doc_id,"
		    " pg_catalog.hashtextextended(l.query::text COLLATE \"C\", 0) AS place FROM %s l"
		    " WHERE l.query IS NOT NULL AND l.doc_id IS NOT NULL"
		    " ORDER BY place, query, doc_id LIMIT $1) p"
		    " JOIN %s d ON d.doc_id::text COLLATE \"C\" = p.doc_id WHERE d.doc IS NOT NULL"
		    " ORDER BY p.query, d.doc::text COLLATE \"C\"",
		    serm_source_name(row->log, SERM_SOURCE_LOG, row->name),
		    serm_source_name(row->documents, SERM_SOURCE_DOCUMENTS, row->name));
		serm_read_rows(sql, params, lengthof(params), read_pair, &reader);
	}
	finish_reader(&reader);
}

/* Distinct pairs of the log, of train queries, without those that were judged: by document or by its text. */
static char *
unlabelled_query(const SermModelRow *row, int32 seed, int32 per_query)
{
	return psprintf(
	    "SELECT p.query, p.doc_id, d.doc::text, 0::real, NULL::real[], 'human', 1::real, 0 FROM"
	    " (SELECT r.query, r.doc_id FROM (SELECT q.query, q.doc_id,"
	    " pg_catalog.hashtextextended(q.query, %d) AS place,"
	    " pg_catalog.row_number() OVER (PARTITION BY q.query"
	    "  ORDER BY pg_catalog.hashtextextended(q.doc_id, %d), q.doc_id) AS number"
	    " FROM (SELECT DISTINCT l.query::text COLLATE \"C\" AS query, l.doc_id::text COLLATE \"C\" AS doc_id"
	    "  FROM %s l WHERE l.query IS NOT NULL AND l.doc_id IS NOT NULL) q"
	    " WHERE serm.split_of(q.query, $3) = 'train' AND NOT EXISTS (SELECT FROM serm.judgment j"
	    "  WHERE j.model = $2 AND pg_catalog.md5(j.query) = pg_catalog.md5(q.query) AND j.query = q.query"
	    "  AND j.doc_id = q.doc_id)) r"
	    " WHERE r.number <= %d ORDER BY r.place, r.query, r.number LIMIT $1) p"
	    " JOIN %s d ON d.doc_id::text COLLATE \"C\" = p.doc_id WHERE d.doc IS NOT NULL"
	    " AND NOT EXISTS (SELECT FROM serm.judgment j WHERE j.model = $2"
	    "  AND pg_catalog.md5(j.query) = pg_catalog.md5(p.query) AND j.query = p.query"
	    "  AND j.doc_id IS NULL AND j.doc = d.doc::text)"
	    " ORDER BY p.query, d.doc::text COLLATE \"C\", p.doc_id",
	    seed, seed, serm_source_name(row->log, SERM_SOURCE_LOG, row->name), per_query,
	    serm_source_name(row->documents, SERM_SOURCE_DOCUMENTS, row->name));
}

void
serm_unlabelled_read(SermHost *host, const SermModelRow *row, int32 seed, int32 count, int32 per_query,
    SermPairSet *unlabelled)
{
	SermParam params[] = {
	    SERM_INT4(count), SERM_TEXT(row->name), SERM_FLOAT4((float4) row->options.test_share)};
	PairReader reader;

	start_reader(&reader, host, row, unlabelled, NULL);
	reader.all = true;
	if (OidIsValid(row->log) && OidIsValid(row->documents) && count > 0)
		serm_read_rows(unlabelled_query(row, seed, per_query), params, lengthof(params), read_pair, &reader);
	finish_reader(&reader);
}

/* Keep the pairs of some sources, and the queries that are left with one. */
static void
keep_sources(SermPairSet *set, const bool *keep)
{
	size_t pairs = 0, queries = 0;
	uint32 last = 0;

	for (size_t i = 0; i < set->pair_count; i++) {
		SermPair pair = set->pairs[i];

		if (!keep[pair.source])
			continue;
		if (queries == 0 || pair.query != last)
			set->queries[queries++] = set->queries[pair.query];
		last = pair.query;
		pair.query = (uint32) queries - 1;
		set->pairs[pairs++] = pair;
	}
	set->pair_count = pairs;
	set->query_count = queries;
}

bool
serm_pairs_keep_gold(SermPairSet *set)
{
	static const bool gold[SERM_SOURCE_COUNT] = {[SERM_SOURCE_HUMAN] = true, [SERM_SOURCE_IMPORT] = true};
	bool any = false;

	for (size_t i = 0; i < set->pair_count; i++)
		any |= gold[set->pairs[i].source];
	if (any)
		keep_sources(set, gold);
	return any;
}

void
serm_pairs_old(SermHost *host, const SermPairSet *set, SermPairSet *old)
{
	uint32 last = 0;

	*old = (SermPairSet){arena_array(host, set->query_count, sizeof(SermCopy)), 0,
	    arena_array(host, set->pair_count, sizeof(SermPair)), 0};
	for (size_t i = 0; i < set->pair_count; i++) {
		SermPair pair = set->pairs[i];

		if (pair.origin == SERM_ORIGIN_NEW)
			continue;
		if (old->query_count == 0 || pair.query != last)
			old->queries[old->query_count++] = set->queries[pair.query];
		last = pair.query;
		pair.query = (uint32) old->query_count - 1;
		old->pairs[old->pair_count++] = pair;
	}
}

void
serm_pairs_weigh_sources(SermPairSet *set, const double *weight)
{
	bool keep[SERM_SOURCE_COUNT];

	for (int source = 0; source < SERM_SOURCE_COUNT; source++)
		keep[source] = weight[source] > 0;
	keep_sources(set, keep);
	for (size_t i = 0; i < set->pair_count; i++)
		set->pairs[i].weight *= (float) weight[set->pairs[i].source];
}

/* --- the corpus */

typedef struct CorpusReader {
	Growing docs;
	SermTextBuffer buffer;
} CorpusReader;

static void
read_doc(void *state, uint64 row)
{
	CorpusReader *reader = state;
	SermCopy doc = copy_model_text(reader->docs.host, &reader->buffer, row, 1);

	*(SermText *) grow(&reader->docs) = doc.utf8;
}

/* The FROM text that gives a column `doc`. */
static char *
corpus_source(const SermModelRow *row, int *param_count)
{
	*param_count = OidIsValid(row->documents) ? 0 : 1;
	if (OidIsValid(row->documents))
		return psprintf("%s c", serm_source_name(row->documents, SERM_SOURCE_DOCUMENTS, row->name));
	return psprintf("(SELECT DISTINCT j.doc COLLATE \"C\" AS doc %s) c", serm_judgment_query(row));
}

void
serm_corpus_read(SermHost *host, const SermModelRow *row, int32 count_max, SermText **docs, size_t *doc_count)
{
	SermParam params[] = {SERM_TEXT(row->name)};
	int param_count;
	char *source = corpus_source(row, &param_count);
	CorpusReader reader = {{.host = host, .size = sizeof(SermText)}, {.context = host->context}};
	int64 total;
	bool null;
	char *sql = psprintf("SELECT pg_catalog.count(*) FROM %s WHERE c.doc IS NOT NULL", source);

	serm_spi_execute(sql, SPI_OK_SELECT, true, params, param_count);
	total = DatumGetInt64(serm_spi_value(0, 1, &null));
	if (total == 0 && OidIsValid(row->documents)) {
		SermModelRow without = *row;

		without.documents = InvalidOid;
		source = corpus_source(&without, &param_count);
		total = 1;
	}
	sql = psprintf("SELECT c.doc FROM %s WHERE c.doc IS NOT NULL", source);
	if (total > count_max)
		sql = psprintf("%s AND (pg_catalog.hashtextextended(c.doc COLLATE \"C\", 0) & %d) < %d", sql,
		    CORPUS_BUCKETS - 1, (int) ((double) count_max / (double) total * CORPUS_BUCKETS));
	sql = psprintf("%s ORDER BY c.doc COLLATE \"C\"", sql);
	serm_read_rows(sql, params, param_count, read_doc, &reader);
	*docs = reader.docs.elements;
	*doc_count = reader.docs.count;
}
