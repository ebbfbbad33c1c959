/*
 * Reading the log: a receiver takes the rows of the grouped statement as the
 * executor makes them, so that nothing is buffered and the server may run the
 * grouping in parallel. Each pair leaves a fixed-size record in memory and its
 * texts in a tuplestore that spills to disk.
 */
#include "pg/mine/mine.h"

#include <math.h>

#include "access/tupdesc.h"
#include "catalog/pg_collation.h"
#include "core/base/hash.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "tcop/dest.h"
#include "utils/array.h"

/* Columns of serm_log_query(). */
enum {
	QUERY,
	DOC_ID,
	DOC,
	IMPRESSIONS,
	CLICKS,
	DWELL,
	PLACE,
	LATEST,
	CELLS,
	SEGMENT,
	JUDGED,
	ATTRACTIVENESS,
	COLUMNS
};

typedef struct Receiver {
	DestReceiver destination; /* first: the executor knows nothing else */
	SermMining *mining;
	MemoryContext row;
	StringInfoData query;  /* of the previous row */
	StringInfoData doc_id; /* of the previous row */
	SermTextBuffer buffer;
	uint32 queries;      /* distinct queries seen */
	uint32 scored_query; /* number of the query, in that count, of the last pair kept */
} Receiver;

/* Make room for one more element; sizes double, past 1 GB if need be. */
static void *
grow(const SermMining *mining, void *array, Size count, Size *capacity, Size element)
{
	if (count < *capacity)
		return array;
	*capacity = *capacity == 0 ? 1024 : mul_size(*capacity, 2);
	if (array == NULL)
		return MemoryContextAllocHuge(mining->host.context, mul_size(*capacity, element));
	return repalloc_huge(array, mul_size(*capacity, element));
}

static SermText
text_of(Datum datum)
{
	text *value = DatumGetTextPP(datum);

	return (SermText){VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)};
}

static bool
same_text(StringInfo kept, SermText text)
{
	bool same = (size_t) kept->len == text.length && memcmp(kept->data, text.bytes, text.length) == 0;

	if (!same) {
		resetStringInfo(kept);
		appendBinaryStringInfo(kept, text.bytes, text.length);
	}
	return same;
}

/* Append the counts of one pair by position, ordered so that sums do not depend on the plan. */
static void
add_cells(SermMining *mining, Datum datum)
{
	ArrayType *array = DatumGetArrayTypeP(datum);
	const int32 *numbers = (const int32 *) ARR_DATA_PTR(array);
	int count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) / 3;
	size_t first = mining->cell_count;

	if (ARR_HASNULL(array) || ARR_ELEMTYPE(array) != INT4OID)
		elog(ERROR, "unexpected array of impression counts");
	for (int i = 0; i < count; i++, numbers += 3) {
		SermClickCell cell = {mining->stream_count, (uint16) numbers[0], 0, numbers[1], numbers[2]};
		size_t at = mining->cell_count;

		mining->cells = grow(mining, mining->cells, at, &mining->cell_capacity, sizeof(SermClickCell));
		for (; at > first && mining->cells[at - 1].position > cell.position; at--)
			mining->cells[at] = mining->cells[at - 1];
		mining->cells[at] = cell;
		mining->cell_count++;
	}
}

/* What the whole stream tells, also by pairs that are not candidates. */
static void
count_row(SermMining *mining, const TupleTableSlot *slot)
{
	mining->impressions += DatumGetInt64(slot->tts_values[IMPRESSIONS]);
	if (!slot->tts_isnull[CELLS])
		add_cells(mining, slot->tts_values[CELLS]);
	if (!slot->tts_isnull[DWELL] && DatumGetInt64(slot->tts_values[CLICKS]) > 0) {
		mining->dwells =
		    grow(mining, mining->dwells, mining->dwell_count, &mining->dwell_capacity, sizeof(float));
		mining->dwells[mining->dwell_count++] = (float) DatumGetInt64(slot->tts_values[DWELL]);
	}
	mining->stream_count++;
}

/* The number of a segment; there are few, and neighbours mostly share theirs. */
static uint32
segment_number(SermMining *mining, SermText name)
{
	MemoryContext previous;

	for (uint32 i = 0; i < mining->segment_count; i++)
		if (strlen(mining->segments[i]) == name.length &&
		    memcmp(mining->segments[i], name.bytes, name.length) == 0)
			return i;
	if (mining->segment_count >= SERM_MINE_SEGMENTS_MAX)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("the search log has more than %d segments", SERM_MINE_SEGMENTS_MAX),
		    errhint("Column segment is for languages, markets or categories, not for users."));
	previous = MemoryContextSwitchTo(mining->host.context);
	if (mining->segments == NULL)
		mining->segments = palloc(SERM_MINE_SEGMENTS_MAX * sizeof(char *));
	mining->segments[mining->segment_count] = pnstrdup(name.bytes, name.length);
	MemoryContextSwitchTo(previous);
	return mining->segment_count++;
}

/* Words of the query count for several: a document is another pair under another query. */
static uint64
signature_of(Receiver *receiver, SermText query, SermText doc)
{
	SermHost *host = &receiver->mining->host;
	SermArenaMark mark = serm_arena_mark(&host->arena);
	SermSimilarity similarity = {0};
	SermText texts[] = {query, doc};

	for (int i = 0; i < 2; i++) {
		SermWords words;
		SermError error = {0};

		serm_host_check(host,
		    serm_text_words(serm_text_utf8(texts[i], &receiver->buffer),
		        i == 0 ? SERM_QUERY_WORDS_MAX : SERM_BODY_WORDS_MAX, &host->arena, &words, &error),
		    &error);
		for (uint32 w = 0; w < words.count; w++)
			serm_similarity_add(&similarity, words.words[w].id + ((uint64) i << 32), i == 0 ? 4 : 1);
	}
	serm_arena_rewind(&host->arena, mark);
	return serm_similarity_signature(&similarity);
}

static void
add_pair(Receiver *receiver, TupleTableSlot *slot, SermText query, SermText doc_id)
{
	SermMining *mining = receiver->mining;
	SermPrediction prediction;
	SermMinePair *pair;
	void *copy;
	SermText doc = serm_text_detoast(slot->tts_values[DOC], &copy);

	serm_scorer_predict(mining->scorer, query, doc, &prediction);
	if (receiver->scored_query != receiver->queries) {
		receiver->scored_query = receiver->queries;
		mining->query_count++;
	}
	mining->pairs =
	    grow(mining, mining->pairs, mining->pair_count, &mining->pair_capacity, sizeof(SermMinePair));
	pair = &mining->pairs[mining->pair_count++];
	*pair = (SermMinePair){
	    .key = serm_hash_bytes(doc_id.bytes, doc_id.length, serm_hash_bytes(query.bytes, query.length, 0)),
	    .last_shown = DatumGetTimestampTz(slot->tts_values[LATEST]),
	    .query = mining->query_count - 1,
	    .stream = mining->stream_count - 1,
	    .impressions = (uint32) Min(DatumGetInt64(slot->tts_values[IMPRESSIONS]), PG_UINT32_MAX),
	    .clicks = (uint32) Min(DatumGetInt64(slot->tts_values[CLICKS]), PG_UINT32_MAX),
	    .dwell_ms = slot->tts_isnull[DWELL]
	                    ? -1
	                    : (int32) Max(0, Min(DatumGetInt64(slot->tts_values[DWELL]), PG_INT32_MAX)),
	    .position = DatumGetFloat4(slot->tts_values[PLACE]),
	    .score = prediction.score,
	    .entropy = prediction.entropy,
	    .disagreement = prediction.disagreement,
	    .attractiveness = NAN,
	    .segment = slot->tts_isnull[SEGMENT] ? SERM_SELECT_ALL
	                                         : segment_number(mining, text_of(slot->tts_values[SEGMENT])),
	    .signature = mining->options.distinct ? signature_of(receiver, query, doc) : 0};
	if (!slot->tts_isnull[ATTRACTIVENESS] && pair->impressions >= (uint32) mining->options.min_impressions)
		pair->attractiveness = (float) DatumGetFloat8(slot->tts_values[ATTRACTIVENESS]);
	tuplestore_putvalues(mining->texts, mining->texts_desc, slot->tts_values, slot->tts_isnull);
}

/* serm.judgment refuses such a query, so a round could never finish with one. */
static bool
is_blank(SermText text)
{
	size_t i = 0;

	while (i < text.length && (text.bytes[i] == ' ' || (text.bytes[i] >= '\t' && text.bytes[i] <= '\r')))
		i++;
	return i == text.length;
}

static bool
receive(TupleTableSlot *slot, DestReceiver *destination)
{
	Receiver *receiver = (Receiver *) destination;
	SermMining *mining = receiver->mining;
	MemoryContext previous = MemoryContextSwitchTo(receiver->row);
	SermText query, doc_id;
	bool same_query, duplicate;

	MemoryContextReset(receiver->row);
	slot_getallattrs(slot);
	query = text_of(slot->tts_values[QUERY]);
	doc_id = text_of(slot->tts_values[DOC_ID]);
	if (is_blank(query)) {
		MemoryContextSwitchTo(previous);
		return true;
	}
	same_query = same_text(&receiver->query, query) && mining->stream_count > 0;
	duplicate = same_text(&receiver->doc_id, doc_id) && same_query;
	if (!same_query)
		receiver->queries++;

	/* A document id that occurs twice in the documents: the first text stands. */
	if (!duplicate) {
		if (mining->stream_count >= (uint32) serm_mine_pairs_max)
			ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			    errmsg("the search log has more than %d distinct pairs in this window", serm_mine_pairs_max),
			    errhint("Narrow the window with since and until, or raise serm.mine_pairs_max."));
		count_row(mining, slot);
		if (DatumGetBool(slot->tts_values[JUDGED]))
			mining->judged++;
		else if (slot->tts_isnull[DOC])
			mining->missing++;
		else if (mining->explore ||
		         serm_mine_worth_scoring(mining, DatumGetInt64(slot->tts_values[IMPRESSIONS]),
		             DatumGetInt64(slot->tts_values[CLICKS]),
		             slot->tts_isnull[DWELL] ? -1 : DatumGetInt64(slot->tts_values[DWELL])))
			add_pair(receiver, slot, query, doc_id);
	}
	MemoryContextSwitchTo(previous);
	return true;
}

static void
check_columns(DestReceiver *destination pg_attribute_unused(), int operation pg_attribute_unused(),
    TupleDesc description)
{
	static const Oid types[COLUMNS] = {TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, FLOAT4OID,
	    TIMESTAMPTZOID, INT4ARRAYOID, TEXTOID, BOOLOID, FLOAT8OID};

	if (description->natts != COLUMNS)
		elog(ERROR, "the grouped log has %d columns", description->natts);
	for (int i = 0; i < COLUMNS; i++)
		if (TupleDescAttr(description, i)->atttypid != types[i])
			elog(ERROR, "column %d of the grouped log has an unexpected type", i + 1);
}

static void
finish(DestReceiver *destination pg_attribute_unused())
{
}

static void
set_param(ParamListInfo params, int index, Oid type, Datum value, bool null)
{
	params->params[index] =
	    (ParamExternData){.value = value, .isnull = null, .pflags = PARAM_FLAG_CONST, .ptype = type};
}

static ParamListInfo
log_params(const SermMining *mining)
{
	ParamListInfo params = makeParamList(3);

	set_param(params, 0, TIMESTAMPTZOID, TimestampTzGetDatum(mining->since), !mining->has_since);
	set_param(params, 1, TIMESTAMPTZOID, TimestampTzGetDatum(mining->until), !mining->has_until);
	set_param(params, 2, TEXTOID, CStringGetTextDatum(mining->model->name), false);
	return params;
}

static void
report_left_out(const SermMining *mining)
{
	ereport(DEBUG1,
	    errmsg_internal("mining read %u pairs of " UINT64_FORMAT " impressions: %u kept, %u "
	                    "without a document, %u judged or sampled",
	        mining->stream_count, mining->impressions, mining->pair_count, mining->missing, mining->judged));
	if (mining->missing > 0 && mining->missing == mining->stream_count - mining->judged)
		ereport(WARNING,
		    errmsg("none of the %u pairs in the search log of model \"%s\" has a document", mining->missing,
		        mining->model->name),
		    errhint("Column doc_id of the log must hold the ids that the documents have."));
}

void
serm_mine_gather(SermMining *mining)
{
	SermLogQuery wanted = {
	    .since = mining->has_since, .until = mining->has_until, .judged = !mining->options.include_judged};
	Receiver receiver = {.destination = {receive, check_columns, finish, finish, DestNone}, .mining = mining};
	SPIExecuteOptions options = {.read_only = true, .dest = &receiver.destination};
	MemoryContext previous = MemoryContextSwitchTo(mining->host.context);
	char *sql;
	int code;

	mining->clicks_stored = serm_mine_clicks_known(mining);
	wanted.stored = mining->clicks_stored;
	wanted.cells = serm_mine_needs_clicks(mining) && !mining->clicks_stored;
	sql = serm_log_query(mining->model, &wanted);
	mining->texts_desc = CreateTemplateTupleDesc(3);
	TupleDescInitEntry(mining->texts_desc, 1, "query", TEXTOID, -1, 0);
	TupleDescInitEntry(mining->texts_desc, 2, "doc_id", TEXTOID, -1, 0);
	TupleDescInitEntry(mining->texts_desc, 3, "doc", TEXTOID, -1, 0);
	mining->texts = tuplestore_begin_heap(false, false, work_mem);

	/* After the check of the log: its shape is reported even while the model has no version. */
	mining->scorer = serm_scorer_open(mining->model->name, 0, SERM_SEE_WRITES, mining->host.context);
	receiver.row = AllocSetContextCreate(mining->host.context, "serm mining row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&receiver.query);
	initStringInfo(&receiver.doc_id);
	receiver.buffer.context = mining->host.context;
	options.params = log_params(mining);
	code = SPI_execute_extended(sql, &options);
	if (code < 0)
		elog(ERROR, "reading the search log failed: %s", SPI_result_code_string(code));
	report_left_out(mining);
	MemoryContextSwitchTo(previous);
}
