/*
 * One pass over both windows of the log. A page stays in the sample while a hash
 * of its key lies under a threshold that halves whenever the sample is full: which
 * pages are kept depends on their keys alone, and pages are kept whole.
 */
#include "pg/mine/drift.h"

#include <math.h>

#include "core/base/hash.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

enum { QUERY, DOC_ID, SHOWN_AT, CLICKED, SESSION, SEGMENT, RECENT };

typedef struct Part {
	SermDriftRow *rows;
	uint32 count;
	uint32 capacity;
	int level;
} Part;

typedef struct Receiver {
	DestReceiver destination; /* first: the executor knows nothing else */
	MemoryContext context;
	MemoryContext row;
	Part parts[2];
	uint32 rows_max;
	uint64 seen;
} Receiver;

static uint64
hash_datum(Datum datum, uint64 seed)
{
	text *value = DatumGetTextPP(datum);

	return serm_hash_bytes(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), seed);
}

static bool
is_kept(const Part *part, uint64 unit)
{
	return part->level == 0 || serm_hash_mix(unit) >> (64 - part->level) == 0;
}

static void
forget(SermDriftRow *row)
{
	pfree(row->query);
	pfree(row->doc_id);
	if (row->segment != NULL)
		pfree(row->segment);
}

static void
thin(Part *part, uint32 most)
{
	while (part->count > most && part->level < 63) {
		uint32 kept = 0;

		part->level++;
		for (uint32 i = 0; i < part->count; i++)
			if (is_kept(part, part->rows[i].unit))
				part->rows[kept++] = part->rows[i];
			else
				forget(&part->rows[i]);
		part->count = kept;
	}
}

static void
keep_row(Receiver *receiver, const TupleTableSlot *slot, uint64 unit)
{
	Part *part = &receiver->parts[DatumGetBool(slot->tts_values[RECENT]) ? 1 : 0];
	MemoryContext previous = MemoryContextSwitchTo(receiver->context);

	if (part->count == part->capacity) {
		part->capacity = part->capacity == 0 ? 1024 : part->capacity * 2;
		part->rows =
		    part->rows == NULL
		        ? MemoryContextAllocHuge(receiver->context, mul_size(part->capacity, sizeof(SermDriftRow)))
		        : repalloc_huge(part->rows, mul_size(part->capacity, sizeof(SermDriftRow)));
	}
	part->rows[part->count++] = (SermDriftRow){.unit = unit,
	    .query = TextDatumGetCString(slot->tts_values[QUERY]),
	    .doc_id = TextDatumGetCString(slot->tts_values[DOC_ID]),
	    .segment = slot->tts_isnull[SEGMENT] ? NULL : TextDatumGetCString(slot->tts_values[SEGMENT]),
	    .score = NAN,
	    .recent = DatumGetBool(slot->tts_values[RECENT]),
	    .clicked = !slot->tts_isnull[CLICKED] && DatumGetBool(slot->tts_values[CLICKED])};
	MemoryContextSwitchTo(previous);
	thin(part, receiver->rows_max);
}

static bool
receive(TupleTableSlot *slot, DestReceiver *destination)
{
	Receiver *receiver = (Receiver *) destination;
	MemoryContext previous = MemoryContextSwitchTo(receiver->row);
	uint64 unit;

	slot_getallattrs(slot);
	if (!slot->tts_isnull[QUERY] && !slot->tts_isnull[DOC_ID] && !slot->tts_isnull[RECENT]) {
		unit = hash_datum(
		    slot->tts_values[QUERY], serm_hash_mix((uint64) DatumGetTimestampTz(slot->tts_values[SHOWN_AT])));
		if (!slot->tts_isnull[SESSION])
			unit = hash_datum(slot->tts_values[SESSION], unit);
		if (is_kept(&receiver->parts[DatumGetBool(slot->tts_values[RECENT]) ? 1 : 0], unit))
			keep_row(receiver, slot, unit);
	}
	if (receiver->seen++ % 4096 == 0)
		CHECK_FOR_INTERRUPTS();
	MemoryContextSwitchTo(previous);
	MemoryContextReset(receiver->row);
	return true;
}

static void
nothing(DestReceiver *destination pg_attribute_unused())
{
}

static void
start(DestReceiver *destination pg_attribute_unused(), int operation pg_attribute_unused(),
    TupleDesc description pg_attribute_unused())
{
}

/* Bounds that let an index or partitions on shown_at be used; the ranges themselves decide. */
static void
outer_bounds(RangeType *reference, RangeType *recent, TimestampTz *from, TimestampTz *to)
{
	TypeCacheEntry *type = lookup_type_cache(RangeTypeGetOid(reference), TYPECACHE_RANGE_INFO);
	RangeType *ranges[] = {reference, recent};

	if (RangeIsEmpty(reference) || RangeIsEmpty(recent))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a window of drift is empty"),
		    errhint("Give two ranges of time, as in tstzrange(now() - interval '14 days', now() - interval "
		            "'7 days')."));
	if (range_overlaps_internal(type, reference, recent))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the two windows of drift overlap"),
		    errhint("An impression must belong to the reference or to what is recent, not to both."));
	*from = DT_NOEND;
	*to = DT_NOBEGIN;
	for (int i = 0; i < 2; i++) {
		RangeBound lower, upper;
		bool empty;

		range_deserialize(type, ranges[i], &lower, &upper, &empty);
		*from = Min(*from, lower.infinite ? DT_NOBEGIN : DatumGetTimestampTz(lower.val));
		*to = Max(*to, upper.infinite ? DT_NOEND : DatumGetTimestampTz(upper.val));
	}
}

static ParamListInfo
range_params(RangeType *reference, RangeType *recent)
{
	ParamListInfo params = makeParamList(4);
	TimestampTz from, to;
	Datum values[4];
	Oid types[4] = {TSTZRANGEOID, TSTZRANGEOID, TIMESTAMPTZOID, TIMESTAMPTZOID};

	outer_bounds(reference, recent, &from, &to);
	values[0] = RangeTypePGetDatum(reference);
	values[1] = RangeTypePGetDatum(recent);
	values[2] = TimestampTzGetDatum(from);
	values[3] = TimestampTzGetDatum(to);
	for (int i = 0; i < 4; i++)
		params->params[i] = (ParamExternData){
		    .value = values[i], .isnull = false, .pflags = PARAM_FLAG_CONST, .ptype = types[i]};
	return params;
}

static char *
optional_column(Oid log, const char *name)
{
	return get_attnum(log, name) != InvalidAttrNumber ? psprintf("l.%s::text", name) : pstrdup("NULL::text");
}

static int
compare_rows(const void *left, const void *right)
{
	const SermDriftRow *a = left, *b = right;

	if (a->recent != b->recent)
		return a->recent ? 1 : -1;
	if (a->unit != b->unit)
		return a->unit < b->unit ? -1 : 1;
	return strcmp(a->doc_id, b->doc_id);
}

void
serm_drift_read(
    SermDriftLog *log, const SermModelRow *model, RangeType *reference, RangeType *recent, uint32 rows_max)
{
	Receiver receiver = {.destination = {receive, start, nothing, nothing, DestNone},
	    .context = log->context,
	    .rows_max = rows_max};
	SPIExecuteOptions options = {.read_only = true, .dest = &receiver.destination};
	MemoryContext previous = MemoryContextSwitchTo(log->context);
	char *name = serm_source_name(model->log, SERM_SOURCE_LOG, model->name);
	char *sql =
	    psprintf("SELECT l.query::text, l.doc_id::text, l.shown_at, l.clicked, %s, %s, l.shown_at <@ $2"
	             " FROM %s AS l WHERE l.shown_at >= $3 AND l.shown_at <= $4"
	             " AND (l.shown_at <@ $1 OR l.shown_at <@ $2)",
	        optional_column(model->log, "session_id"), optional_column(model->log, "segment"), name);
	int code;

	options.params = range_params(reference, recent);
	receiver.row = AllocSetContextCreate(log->context, "serm drift row", ALLOCSET_DEFAULT_SIZES);
	code = SPI_execute_extended(sql, &options);
	if (code < 0)
		elog(ERROR, "reading the search log failed: %s", SPI_result_code_string(code));
	log->count = receiver.parts[0].count + receiver.parts[1].count;
	log->rows = MemoryContextAllocHuge(log->context, mul_size(Max(log->count, 1), sizeof(SermDriftRow)));
	for (int part = 0; part < 2; part++)
		if (receiver.parts[part].count > 0)
			memcpy(&log->rows[part == 0 ? 0 : receiver.parts[0].count], receiver.parts[part].rows,
			    receiver.parts[part].count * sizeof(SermDriftRow));
	/* The order of the plan must not show. */
	qsort(log->rows, log->count, sizeof(SermDriftRow), compare_rows);
	MemoryContextSwitchTo(previous);
}

/* --- scores */

static int
compare_pairs(const void *left, const void *right)
{
	const SermDriftRow *a = *(SermDriftRow *const *) left, *b = *(SermDriftRow *const *) right;
	int order = strcmp(a->query, b->query);

	return order != 0 ? order : strcmp(a->doc_id, b->doc_id);
}

static int
compare_strings(const void *left, const void *right)
{
	return strcmp(*(char *const *) left, *(char *const *) right);
}

static Datum
distinct_ids(const SermDriftLog *log)
{
	char **ids = palloc(mul_size(Max(log->count, 1), sizeof(char *)));
	Datum *datums = palloc(mul_size(Max(log->count, 1), sizeof(Datum)));
	int count = 0;

	for (uint32 i = 0; i < log->count; i++)
		ids[i] = log->rows[i].doc_id;
	qsort(ids, log->count, sizeof(char *), compare_strings);
	for (uint32 i = 0; i < log->count; i++)
		if (i == 0 || strcmp(ids[i], ids[i - 1]) != 0)
			datums[count++] = CStringGetTextDatum(ids[i]);
	return PointerGetDatum(construct_array(datums, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Row of the current result, sorted by id, that holds a document; -1: none. */
static int64
find_document(const char *doc_id)
{
	int64 low = 0, high = (int64) SPI_processed - 1;

	while (low <= high) {
		int64 middle = low + (high - low) / 2;
		bool null;
		text *id = DatumGetTextPP(serm_spi_value((uint64) middle, 1, &null));
		int length = (int) VARSIZE_ANY_EXHDR(id);
		int order = strncmp(doc_id, VARDATA_ANY(id), length);

		if (order == 0 && doc_id[length] == '\0')
			return middle;
		if (order < 0)
			high = middle - 1;
		else
			low = middle + 1;
	}
	return -1;
}

void
serm_drift_score(SermDriftLog *log, const SermModelRow *model)
{
	MemoryContext previous = MemoryContextSwitchTo(log->context);
	char *documents = serm_source_name(model->documents, SERM_SOURCE_DOCUMENTS, model->name);
	SermDriftRow **order = palloc(mul_size(Max(log->count, 1), sizeof(SermDriftRow *)));
	SermParam params[] = {SERM_DATUM(TEXTARRAYOID, distinct_ids(log))};
	SermScorer *scorer = serm_scorer_open(model->name, 0, SERM_SEE_STATEMENT, log->context);
	MemoryContext detoasted =
	    AllocSetContextCreate(log->context, "serm drift document", ALLOCSET_DEFAULT_SIZES);

	serm_spi_execute(
	    psprintf("SELECT DISTINCT ON (1) d.doc_id::text COLLATE \"C\", d.doc::text FROM %s AS d"
	             " WHERE d.doc_id = ANY ($1) AND d.doc IS NOT NULL ORDER BY 1, d.doc::text COLLATE \"C\"",
	        documents),
	    SPI_OK_SELECT, true, params, 1);
	for (uint32 i = 0; i < log->count; i++)
		order[i] = &log->rows[i];
	qsort(order, log->count, sizeof(SermDriftRow *), compare_pairs);
	MemoryContextSwitchTo(detoasted);
	for (uint32 i = 0; i < log->count; i++) {
		SermPrediction prediction;
		int64 found;
		void *copy;
		bool null;

		CHECK_FOR_INTERRUPTS();
		if (i > 0 && compare_pairs(&order[i], &order[i - 1]) == 0) {
			order[i]->score = order[i - 1]->score;
			continue;
		}
		found = find_document(order[i]->doc_id);
		if (found < 0)
			continue;
		serm_scorer_predict(scorer, (SermText){order[i]->query, strlen(order[i]->query)},
		    serm_text_detoast(serm_spi_value((uint64) found, 2, &null), &copy), &prediction);
		order[i]->score = prediction.score;
		MemoryContextReset(detoasted);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(detoasted);
	serm_scorer_close(scorer);
}
