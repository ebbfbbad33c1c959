/*
 * Questions that compare: their documents before they are asked, and grades from
 * what was answered.
 *
 * A vote that compares has places instead of a grade. When samples are settled, the comparisons of an agent
 * are fitted query by query (core/stats/compare.h), and every such vote of a
 * waiting sample becomes the grade of its document. Anchors are documents that people have graded and that
 * are no samples: the grade of a gold pair must not help an agent that is measured by it.
 */
#include "pg/annotate/annotate.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/array.h"
#include "utils/guc.h"

#include "core/stats/compare.h"

/* Documents that are predicted in one step. */
#define PREDICT_DOCS 500
#define FIT_MEMORY_BYTES ((Size) 256 * 1024 * 1024)
/* Anchors that weigh as much as the prior of slope and cuts. */
#define ANCHORS_OF_PRIOR 10.0

typedef struct CompareItem {
	int64 id;        /* of a sample, or below 0 of a judgment */
	double known;    /* NAN: nobody has graded it */
	double expected; /* the active version's score; NAN: there is none */
} CompareItem;

/* What one agent has compared: items and comparisons of each query end to end. */
typedef struct Part {
	char *agent;
	CompareItem *items;
	uint32 *group; /* [item] */
	size_t item_count, item_capacity;
	SermComparison *comparisons; /* of items counted from the first of their query */
	uint32 *asked;               /* [comparison] its query */
	size_t count, capacity;
	uint32 group_count;
	uint8 *grade; /* [item] */
} Part;

struct SermCompared {
	MemoryContext context;
	const SermModelRow *row;
	List *parts;
	SermScorer *scorer; /* NULL: no active version */
	int part;           /* where predicting stands */
	size_t item;
	double prior[SERM_GRADES_MAX]; /* sums over what was predicted, or people's grades */
	SermStatus status;
	SermError error;
	SermHost host;
};

/* --- before the question */

char **
serm_compared_docs(const SermTask *task)
{
	static SermKept kept;
	Datum *ids = palloc(mul_size((Size) task->compared_count, sizeof(Datum)));
	char **docs = palloc(mul_size((Size) task->compared_count, sizeof(char *)));
	SermParam params[1];

	for (int i = 0; i < task->compared_count; i++)
		ids[i] = Int64GetDatum(task->compared[i]);
	params[0] = SERM_DATUM(INT8ARRAYOID,
	    PointerGetDatum(construct_array(ids, task->compared_count, INT8OID, 8, true, TYPALIGN_DOUBLE)));
	serm_spi_execute_kept(&kept,
	    "SELECT coalesce(s.doc, j.doc) FROM pg_catalog.unnest($1) WITH ORDINALITY AS c(id, n)"
	    " LEFT JOIN serm.sample s ON s.id = c.id LEFT JOIN serm.judgment j ON j.id = -c.id ORDER BY c.n",
	    SPI_OK_SELECT, params, 1);
	for (int i = 0; i < task->compared_count; i++) {
		docs[i] = serm_spi_string((uint64) i, 1);
		if (docs[i] == NULL)
			ereport(ERROR, errcode(ERRCODE_NO_DATA_FOUND), errmsg("a document of the comparison is gone"));
	}
	return docs;
}

/* --- reading what was answered */

/* The item of a document in the query that is being read, counted from its first. */
static uint32
find_item(Part *part, MemoryContext context, size_t first, int64 id)
{
	for (size_t i = first; i < part->item_count; i++)
		if (part->items[i].id == id)
			return (uint32) (i - first);
	if (part->item_count == part->item_capacity) {
		part->item_capacity = Max(64, 2 * part->item_capacity);
		part->items = serm_array_grow(part->items, context, part->item_capacity, sizeof(CompareItem));
		part->group = serm_array_grow(part->group, context, part->item_capacity, sizeof(uint32));
	}
	part->items[part->item_count] = (CompareItem){id, NAN, NAN};
	part->group[part->item_count] = part->group_count - 1;
	return (uint32) (part->item_count++ - first);
}

static void
add_comparison(Part *part, MemoryContext context, SermComparison comparison)
{
	if (part->count == part->capacity) {
		part->capacity = Max(64, 2 * part->capacity);
		part->comparisons =
		    serm_array_grow(part->comparisons, context, part->capacity, sizeof(SermComparison));
		part->asked = serm_array_grow(part->asked, context, part->capacity, sizeof(uint32));
	}
	part->comparisons[part->count] = comparison;
	part->asked[part->count++] = part->group_count - 1;
}

/* All pairs of one answer; a list of k documents tells as much as k - 1 comparisons. */
static void
add_answer(Part *part, MemoryContext context, size_t first, Datum compared, Datum places)
{
	Datum *ids, *place;
	uint32 items[SERM_QUESTION_DOCS_MAX];
	int count, place_count;

	deconstruct_array(DatumGetArrayTypeP(compared), INT8OID, 8, true, TYPALIGN_DOUBLE, &ids, NULL, &count);
	deconstruct_array(
	    DatumGetArrayTypeP(places), INT2OID, 2, true, TYPALIGN_SHORT, &place, NULL, &place_count);
	if (count != place_count || count > SERM_QUESTION_DOCS_MAX)
		return;
	for (int i = 0; i < count; i++)
		items[i] = find_item(part, context, first, DatumGetInt64(ids[i]));
	for (int i = 0; i < count; i++)
		for (int j = i + 1; j < count; j++) {
			int16 a = DatumGetInt16(place[i]), b = DatumGetInt16(place[j]);

			if (items[i] != items[j])
				add_comparison(part, context,
				    (SermComparison){items[i], items[j],
				        a == b  ? 0.5f
				        : a < b ? 1.0f
				                : 0.0f,
				        2.0f / (float) count});
		}
}

/* Most models have no such votes: that is found without a look at all votes of all models. */
static bool
has_answers(const SermModelRow *row)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(row->name)};
	int level = serm_spi_prefer_indexes();
	bool found, null;

	serm_spi_execute_kept(&kept,
	    "SELECT EXISTS (SELECT FROM serm.sample s WHERE s.model = $1 AND s.state = 'annotating' AND EXISTS"
	    "  (SELECT FROM serm.vote v WHERE v.sample = s.id AND v.places IS NOT NULL AND v.grade IS NULL"
	    "   OFFSET 0))",
	    SPI_OK_SELECT, params, lengthof(params));
	found = DatumGetBool(serm_spi_value(0, 1, &null));
	AtEOXact_GUC(false, level);
	return found;
}

/*
 * Only queries with a sample that waits for its grade are looked at, but of these all answers: what was
 * compared in an earlier round tells about the strength of what is compared now.
 */
static void
read_answers(SermCompared *compared)
{
	SermParam params[] = {SERM_TEXT(compared->row->name)};
	char *query = NULL;
	Part *part = NULL;
	size_t first = 0;
	bool null;

	serm_spi_execute(
	    "WITH due AS (SELECT DISTINCT v.agent, pg_catalog.md5(s.query) AS query FROM serm.sample s"
	    "  JOIN serm.vote v ON v.sample = s.id WHERE s.model = $1 AND s.state = 'annotating'"
	    "   AND v.places IS NOT NULL AND v.grade IS NULL)"
	    " SELECT d.agent, d.query, v.compared, v.places FROM due d"
	    " JOIN serm.sample s ON s.model = $1 AND pg_catalog.md5(s.query) = d.query"
	    " JOIN serm.vote v ON v.sample = s.id AND v.agent = d.agent AND v.places IS NOT NULL"
	    " ORDER BY d.agent COLLATE \"C\", d.query COLLATE \"C\", v.sample, v.path",
	    SPI_OK_SELECT, false, params, 1);
	MemoryContextSwitchTo(compared->context);
	for (uint64 i = 0; i < SPI_processed; i++) {
		char *agent = serm_spi_string(i, 1), *next = serm_spi_string(i, 2);

		if (part == NULL || strcmp(part->agent, agent) != 0) {
			part = palloc0(sizeof(Part));
			part->agent = pstrdup(agent);
			compared->parts = lappend(compared->parts, part);
			query = NULL;
		}
		if (query == NULL || strcmp(query, next) != 0) {
			query = next;
			part->group_count++;
			first = part->item_count;
		}
		add_answer(part, compared->context, first, serm_spi_value(i, 3, &null), serm_spi_value(i, 4, &null));
	}
}

static SermParam
ids_param(const Part *part, size_t from, size_t count)
{
	Datum *ids = palloc(mul_size(Max(count, 1), sizeof(Datum)));

	for (size_t i = 0; i < count; i++)
		ids[i] = Int64GetDatum(part->items[from + i].id);
	return SERM_DATUM(
	    INT8ARRAYOID, PointerGetDatum(construct_array(ids, (int) count, INT8OID, 8, true, TYPALIGN_DOUBLE)));
}

static void
read_anchors(const SermCompared *compared, Part *part)
{
	SermParam params[] = {ids_param(part, 0, part->item_count), SERM_TEXT(compared->row->name)};
	bool null;

	serm_spi_execute("SELECT c.n, j.grade FROM pg_catalog.unnest($1) WITH ORDINALITY AS c(id, n)"
	                 " JOIN serm.judgment j ON j.id = -c.id AND j.model = $2",
	    SPI_OK_SELECT, false, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++)
		part->items[DatumGetInt64(serm_spi_value(i, 1, &null)) - 1].known =
		    Min(DatumGetFloat4(serm_spi_value(i, 2, &null)), compared->row->grade_count - 1);
}

/* Without a model the grades that people give tell how often each one is right. */
static void
read_prior(SermCompared *compared)
{
	SermParam params[] = {
	    SERM_TEXT(compared->row->name), SERM_FLOAT4((float4) compared->row->options.test_share)};
	bool null;

	serm_spi_execute("SELECT pg_catalog.floor(j.grade + .5)::pg_catalog.int4, pg_catalog.count(*)"
	                 " FROM serm.current_judgment j WHERE j.model = $1 AND j.source IN ('human', 'import')"
	                 " AND serm.split_of(j.query, $2) = 'train' GROUP BY 1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++) {
		int32 grade = DatumGetInt32(serm_spi_value(i, 1, &null));

		if (grade >= 0 && grade < compared->row->grade_count)
			compared->prior[grade] += (double) DatumGetInt64(serm_spi_value(i, 2, &null));
	}
}

SermCompared *
serm_compared_read(const SermModelRow *row, MemoryContext parent)
{
	MemoryContext context, previous;
	SermCompared *compared;
	ListCell *cell;

	if (!has_answers(row))
		return NULL;
	context = AllocSetContextCreate(parent, "serm comparisons", ALLOCSET_DEFAULT_SIZES);
	previous = MemoryContextSwitchTo(context);
	compared = palloc0(sizeof(SermCompared));
	compared->context = context;
	compared->row = row;
	read_answers(compared);
	if (compared->parts == NIL) {
		MemoryContextSwitchTo(previous);
		MemoryContextDelete(context);
		return NULL;
	}
	serm_host_init(&compared->host, context, FIT_MEMORY_BYTES);
	foreach (cell, compared->parts)
		read_anchors(compared, lfirst(cell));
	if (row->active > 0)
		compared->scorer = serm_scorer_open(row->name, 0, SERM_SEE_WRITES, context);
	else
		read_prior(compared);
	MemoryContextSwitchTo(previous);
	return compared;
}

/* --- what the model expects of them */

static void
predict_some(SermCompared *compared, Part *part)
{
	size_t count = Min(PREDICT_DOCS, part->item_count - compared->item);
	SermParam params[] = {ids_param(part, compared->item, count)};
	SermPrediction prediction;
	bool null;

	serm_spi_execute("SELECT c.n, s.query, s.doc FROM pg_catalog.unnest($1) WITH ORDINALITY AS c(id, n)"
	                 " JOIN serm.sample s ON s.id = c.id ORDER BY c.n",
	    SPI_OK_SELECT, false, params, 1);
	for (uint64 i = 0; i < SPI_processed; i++) {
		size_t at = compared->item + (size_t) DatumGetInt64(serm_spi_value(i, 1, &null)) - 1;
		char *query = serm_spi_string(i, 2), *doc = serm_spi_string(i, 3);

		CHECK_FOR_INTERRUPTS();
		serm_scorer_predict(
		    compared->scorer, (SermText){query, strlen(query)}, (SermText){doc, strlen(doc)}, &prediction);
		part->items[at].expected = prediction.score;
		for (int y = 0; y < compared->row->grade_count; y++)
			compared->prior[y] += prediction.probability[y];
		pfree(query);
		pfree(doc);
	}
	compared->item += count;
}

bool
serm_compared_predict(SermCompared *compared)
{
	MemoryContext page, previous;
	Part *part;

	if (compared->scorer == NULL || compared->part == list_length(compared->parts))
		return false;
	part = list_nth(compared->parts, compared->part);
	page = AllocSetContextCreate(compared->context, "serm comparisons, one step", ALLOCSET_DEFAULT_SIZES);
	previous = MemoryContextSwitchTo(page);
	predict_some(compared, part);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(page);
	if (compared->item == part->item_count) {
		compared->part++;
		compared->item = 0;
	}
	return true;
}

/* --- fitting */

/* Strengths of the documents of each query. */
static SermStatus
fit_strengths(SermCompared *compared, const Part *part, double *strength)
{
	SermCompareOptions options;
	SermStatus status = SERM_OK;
	size_t item = 0, comparison = 0;

	serm_compare_defaults(&options);
	for (uint32 group = 0; group < part->group_count && status == SERM_OK; group++) {
		size_t items = 0, count = 0;

		while (item + items < part->item_count && part->group[item + items] == group)
			items++;
		while (comparison + count < part->count && part->asked[comparison + count] == group)
			count++;
		status =
		    serm_compare_fit(part->comparisons + comparison, count, items, &options, &compared->host.arena,
		        serm_host_keep_going, &compared->host, strength + item, NULL, &compared->error);
		item += items;
		comparison += count;
	}
	return status;
}

/* Means of what is expected in each query; NULL without a model. */
static double *
expected_means(const SermCompared *compared, const Part *part)
{
	double *mean, *count;

	if (compared->scorer == NULL)
		return NULL;
	mean = palloc0(mul_size(part->group_count, sizeof(double)));
	count = palloc0(mul_size(part->group_count, sizeof(double)));
	for (size_t i = 0; i < part->item_count; i++)
		if (!isnan(part->items[i].expected)) {
			mean[part->group[i]] += part->items[i].expected;
			count[part->group[i]]++;
		}
	for (uint32 g = 0; g < part->group_count; g++)
		mean[g] = count[g] > 0 ? mean[g] / count[g] : (compared->row->grade_count - 1) / 2.0;
	return mean;
}

static SermStatus
fit_part(SermCompared *compared, Part *part, const double *prior)
{
	double *strength = palloc0(mul_size(part->item_count, sizeof(double)));
	double *known = palloc(mul_size(part->item_count, sizeof(double)));
	SermCompareResult result;
	SermCompareScale scale = {.grade_count = (uint32_t) compared->row->grade_count,
	    .items = part->item_count,
	    .group = part->group,
	    .strength = strength,
	    .known = known,
	    .group_mean = expected_means(compared, part),
	    .grade_prior = prior,
	    .strength_of_prior = ANCHORS_OF_PRIOR};
	SermStatus status = fit_strengths(compared, part, strength);

	for (size_t i = 0; i < part->item_count; i++)
		known[i] = part->items[i].known;
	if (status == SERM_OK)
		status = serm_compare_grade(&scale, &compared->host.arena, &result, &compared->error);
	part->grade = palloc0(part->item_count);
	if (status == SERM_OK)
		memcpy(part->grade, result.grade, part->item_count);
	return status;
}

void
serm_compared_fit(SermCompared *compared)
{
	MemoryContext previous = MemoryContextSwitchTo(compared->context);
	double total = 0;
	ListCell *cell;

	for (int y = 0; y < compared->row->grade_count; y++)
		total += compared->prior[y];
	for (int y = 0; y < compared->row->grade_count && total > 0; y++)
		compared->prior[y] /= total;
	foreach (cell, compared->parts) {
		compared->status = fit_part(compared, lfirst(cell), total > 0 ? compared->prior : NULL);
		if (compared->status != SERM_OK)
			break;
	}
	MemoryContextSwitchTo(previous);
}

/* --- the grades */

static void
store_part(const Part *part)
{
	Datum *grades = palloc(mul_size(part->item_count, sizeof(Datum)));
	SermParam params[3] = {ids_param(part, 0, part->item_count)};

	for (size_t i = 0; i < part->item_count; i++)
		grades[i] = Int32GetDatum(part->grade[i]);
	params[1] = SERM_DATUM(INT4ARRAYOID,
	    PointerGetDatum(construct_array(grades, (int) part->item_count, INT4OID, 4, true, TYPALIGN_INT)));
	params[2] = SERM_TEXT(part->agent);
	serm_spi_execute("UPDATE serm.vote v SET grade = g.grade::pg_catalog.int2"
	                 " FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS g(sample, grade),"
	                 "  serm.sample s"
	                 " WHERE s.id = g.sample AND s.state = 'annotating' AND v.sample = g.sample"
	                 "  AND v.agent = $3 AND v.places IS NOT NULL",
	    SPI_OK_UPDATE, false, params, lengthof(params));
}

void
serm_compared_store(SermCompared *compared)
{
	ListCell *cell;

	serm_host_check(&compared->host, compared->status, &compared->error);
	foreach (cell, compared->parts)
		store_part(lfirst(cell));
	serm_scorer_close(compared->scorer);
	MemoryContextDelete(compared->context);
}
