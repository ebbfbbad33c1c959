/*
 * The search log as a stream of impressions into core/click/group.h: a receiver
 * takes each row from the executor, nothing is buffered, and memory grows with
 * the groups only. The plan is the server's: partitions are pruned, foreign
 * tables fetched in batches, row security and views applied.
 */
#include "pg/mine/click.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "tcop/dest.h"
#include "utils/lsyscache.h"

enum { QUERY, DOC_ID, POSITION, CLICKED, SHOWN_AT, SESSION };

/* Rows between two looks at interrupts; the executor looks too, but not in every plan. */
#define ROWS_PER_CHECK 16384

typedef struct Receiver {
	DestReceiver destination; /* first: the executor knows nothing else */
	SermHost *host;
	SermClickGrouping *grouping;
	bool by_page;
	Oid position_type;
	MemoryContext row;
	uint64 rows;
	TimestampTz shown_at; /* of the previous row */
	StringInfoData page;  /* query and session of the previous row, each with its length */
	StringInfoData key;
} Receiver;

static SermClickText
text_of(Datum datum, bool *copied)
{
	text *value = DatumGetTextPP(datum);

	*copied |= (Pointer) value != DatumGetPointer(datum);
	return (SermClickText){VARDATA_ANY(value), (uint32) VARSIZE_ANY_EXHDR(value)};
}

/* A blank query is nobody's; the first byte settles nearly all of them. */
static bool
is_blank(SermClickText text)
{
	uint32 i = 0;

	while (i < text.length && (text.bytes[i] == ' ' || (text.bytes[i] >= '\t' && text.bytes[i] <= '\r')))
		i++;
	return i == text.length;
}

static int64
position_of(const Receiver *receiver, Datum datum)
{
	if (receiver->position_type == INT4OID)
		return DatumGetInt32(datum);
	return receiver->position_type == INT8OID ? DatumGetInt64(datum) : DatumGetInt16(datum);
}

/* True when this row does not belong to the page of the previous one. */
static bool
starts_page(Receiver *receiver, const TupleTableSlot *slot, SermClickText query, bool *copied)
{
	TimestampTz shown_at = DatumGetTimestampTz(slot->tts_values[SHOWN_AT]);
	bool same = receiver->rows > 0 && shown_at == receiver->shown_at;
	SermClickText session = {NULL, 0};
	StringInfoData swap;

	if (!slot->tts_isnull[SESSION])
		session = text_of(slot->tts_values[SESSION], copied);
	resetStringInfo(&receiver->key);
	appendBinaryStringInfo(&receiver->key, (char *) &query.length, sizeof(query.length));
	appendBinaryStringInfo(&receiver->key, query.bytes, query.length);
	appendStringInfoChar(&receiver->key, slot->tts_isnull[SESSION] ? 'n' : 's');
	if (session.length > 0)
		appendBinaryStringInfo(&receiver->key, session.bytes, session.length);
	same = same && receiver->key.len == receiver->page.len &&
	       memcmp(receiver->key.data, receiver->page.data, receiver->key.len) == 0;
	receiver->shown_at = shown_at;
	swap = receiver->page;
	receiver->page = receiver->key;
	receiver->key = swap;
	return !same;
}

static void
group_row(Receiver *receiver, const TupleTableSlot *slot, bool *copied)
{
	SermClickText query = text_of(slot->tts_values[QUERY], copied);
	SermClickText doc_id = text_of(slot->tts_values[DOC_ID], copied);
	int64 position = position_of(receiver, slot->tts_values[POSITION]);
	bool clicked = !slot->tts_isnull[CLICKED] && DatumGetBool(slot->tts_values[CLICKED]);
	SermError error = {0};
	SermStatus status;
	bool starts;

	if (position < 1 || is_blank(query))
		return;
	starts = receiver->by_page && starts_page(receiver, slot, query, copied);
	status = serm_click_group(receiver->grouping, query, doc_id,
	    (uint32) Min(position, SERM_CLICK_POSITIONS_MAX), clicked, starts, &error);
	if (status == SERM_ERR_LIMIT)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("%s", error.message),
		    errhint("Narrow the window with since and until, or raise serm.mine_pairs_max."));
	serm_check(status, &error);
	receiver->rows++;
}

static bool
receive(TupleTableSlot *slot, DestReceiver *destination)
{
	Receiver *receiver = (Receiver *) destination;
	MemoryContext previous = MemoryContextSwitchTo(receiver->row);
	bool copied = false;

	slot_getallattrs(slot);
	if (!slot->tts_isnull[QUERY] && !slot->tts_isnull[DOC_ID] && !slot->tts_isnull[POSITION] &&
	    !slot->tts_isnull[SHOWN_AT])
		group_row(receiver, slot, &copied);
	if (receiver->rows % ROWS_PER_CHECK == 0)
		CHECK_FOR_INTERRUPTS();
	MemoryContextSwitchTo(previous);
	/* Only a value that had to be detoasted left anything behind. */
	if (copied)
		MemoryContextReset(receiver->row);
	return true;
}

static void
start(DestReceiver *destination, int operation pg_attribute_unused(), TupleDesc description)
{
	Receiver *receiver = (Receiver *) destination;

	receiver->position_type = getBaseType(TupleDescAttr(description, POSITION)->atttypid);
}

static void
finish(DestReceiver *destination pg_attribute_unused())
{
}

static char *
log_statement(const SermModelRow *model, const SermClickWindow *window, bool by_page)
{
	char *log = serm_source_name(model->log, SERM_SOURCE_LOG, model->name);
	bool has_session = get_attnum(model->log, "session_id") != InvalidAttrNumber;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT l.query, l.doc_id, l.\"position\", l.clicked, l.shown_at");
	if (by_page)
		appendStringInfoString(&sql, has_session ? ", l.session_id" : ", NULL::text");
	appendStringInfo(&sql, " FROM %s AS l", log);
	if (window->has_since)
		appendStringInfoString(&sql, " WHERE l.shown_at >= $1");
	if (window->has_until)
		appendStringInfo(&sql, " %s l.shown_at < $2", window->has_since ? "AND" : "WHERE");
	if (by_page)
		appendStringInfo(&sql, " ORDER BY l.shown_at%s, l.query::text COLLATE \"C\", l.\"position\"",
		    has_session ? ", l.session_id::text COLLATE \"C\"" : "");
	return sql.data;
}

static ParamListInfo
window_params(const SermClickWindow *window)
{
	ParamListInfo params = makeParamList(2);

	params->params[0] = (ParamExternData){.value = TimestampTzGetDatum(window->since),
	    .isnull = !window->has_since,
	    .pflags = PARAM_FLAG_CONST,
	    .ptype = TIMESTAMPTZOID};
	params->params[1] = (ParamExternData){.value = TimestampTzGetDatum(window->until),
	    .isnull = !window->has_until,
	    .pflags = PARAM_FLAG_CONST,
	    .ptype = TIMESTAMPTZOID};
	return params;
}

SermClickGrouping *
serm_click_log_read(
    SermHost *host, const SermModelRow *model, const SermClickWindow *window, SermClickInput input)
{
	Receiver receiver = {.destination = {receive, start, finish, finish, DestNone},
	    .host = host,
	    .by_page = input != SERM_CLICK_BY_POSITION};
	SPIExecuteOptions options = {.read_only = true, .dest = &receiver.destination};
	MemoryContext previous = MemoryContextSwitchTo(host->context);
	int code;

	receiver.grouping = serm_click_grouping(&host->arena, input, (uint32) serm_mine_pairs_max);
	if (receiver.grouping == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("no memory to group the search log"));
	receiver.row = AllocSetContextCreate(host->context, "serm click row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&receiver.page);
	initStringInfo(&receiver.key);
	options.params = window_params(window);
	code = SPI_execute_extended(log_statement(model, window, receiver.by_page), &options);
	if (code < 0)
		elog(ERROR, "reading the search log failed: %s", SPI_result_code_string(code));
	MemoryContextDelete(receiver.row);
	MemoryContextSwitchTo(previous);
	return receiver.grouping;
}

const SermClickKind *
serm_click_kind_named(const char *name)
{
	const SermClickKind *kind = serm_click_kind(name);
	StringInfoData names;

	if (kind != NULL)
		return kind;
	initStringInfo(&names);
	for (int i = 0; i < serm_click_kind_count(); i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", serm_click_kind_at(i)->name);
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
	    errmsg("unknown kind of click model \"%s\"", name), errhint("The kinds are %s.", names.data));
}
