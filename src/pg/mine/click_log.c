/*
 * The search log as a stream of impressions into core/click/group.h: a receiver
 * takes each row from the executor, nothing is buffered, and memory grows with
 * the groups only. The plan is the server's: partitions are pruned, foreign
 * tables fetched in batches, row security and views applied. A plain table of
 * which every row is wanted needs no plan: it is scanned as COPY scans it, which
 * spares the copy of each row that the executor makes of the columns.
 */
#include "pg/mine/click.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/tupdesc.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/params.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

enum { QUERY, DOC_ID, POSITION, CLICKED, SHOWN_AT, SESSION, COLUMNS };

/* Rows between two looks at interrupts; the executor looks too, but not in every plan. */
#define ROWS_PER_CHECK 16384

typedef struct Receiver {
	DestReceiver destination; /* first: the executor knows nothing else */
	SermHost *host;
	SermClickGrouping *grouping;
	bool by_page;
	int columns[COLUMNS]; /* where each is in the row */
	Oid position_type;
	MemoryContext row;
	uint64 rows;
	TimestampTz shown_at; /* of the previous row */
	StringInfoData page;  /* query and session of the previous row, each with its length */
	StringInfoData key;
	SermError error; /* not of each row: to clear it costs more than most rows */
} Receiver;

static SermClickText
text_of(Datum datum, bool *copied)
{
	text *value = (text *) DatumGetPointer(datum);

	if (VARATT_IS_COMPRESSED(value) || VARATT_IS_EXTERNAL(value)) {
		value = DatumGetTextPP(datum);
		*copied = true;
	}
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
	TimestampTz shown_at = DatumGetTimestampTz(slot->tts_values[receiver->columns[SHOWN_AT]]);
	bool same = receiver->rows > 0 && shown_at == receiver->shown_at;
	SermClickText session = {NULL, 0};
	StringInfoData swap;

	if (!slot->tts_isnull[receiver->columns[SESSION]])
		session = text_of(slot->tts_values[receiver->columns[SESSION]], copied);
	resetStringInfo(&receiver->key);
	appendBinaryStringInfo(&receiver->key, (char *) &query.length, sizeof(query.length));
	appendBinaryStringInfo(&receiver->key, query.bytes, query.length);
	appendStringInfoChar(&receiver->key, slot->tts_isnull[receiver->columns[SESSION]] ? 'n' : 's');
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
	const int *columns = receiver->columns;
	SermClickText query = text_of(slot->tts_values[columns[QUERY]], copied);
	SermClickText doc_id = text_of(slot->tts_values[columns[DOC_ID]], copied);
	int64 position = position_of(receiver, slot->tts_values[columns[POSITION]]);
	bool clicked = !slot->tts_isnull[columns[CLICKED]] && DatumGetBool(slot->tts_values[columns[CLICKED]]);
	SermStatus status;
	bool starts;

	if (position < 1 || is_blank(query))
		return;
	starts = receiver->by_page && starts_page(receiver, slot, query, copied);
	status = serm_click_group(receiver->grouping, query, doc_id,
	    (uint32) Min(position, SERM_CLICK_POSITIONS_MAX), clicked, starts, &receiver->error);
	if (status == SERM_ERR_LIMIT)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("%s", receiver->error.message),
		    errhint("Narrow the window with since and until, or raise serm.mine_pairs_max."));
	serm_check(status, &receiver->error);
	receiver->rows++;
}

/* A row whose columns are there; the current context is that of the row. */
static void
take_row(Receiver *receiver, const TupleTableSlot *slot)
{
	const int *columns = receiver->columns;
	bool copied = false;

	if (!slot->tts_isnull[columns[QUERY]] && !slot->tts_isnull[columns[DOC_ID]] &&
	    !slot->tts_isnull[columns[POSITION]] && !slot->tts_isnull[columns[SHOWN_AT]])
		group_row(receiver, slot, &copied);
	if (receiver->rows % ROWS_PER_CHECK == 0)
		CHECK_FOR_INTERRUPTS();
	/* Only a value that had to be detoasted left anything behind. */
	if (copied)
		MemoryContextReset(receiver->row);
}

static bool
receive(TupleTableSlot *slot, DestReceiver *destination)
{
	Receiver *receiver = (Receiver *) destination;
	MemoryContext previous = MemoryContextSwitchTo(receiver->row);

	slot_getallattrs(slot);
	take_row(receiver, slot);
	MemoryContextSwitchTo(previous);
	return true;
}

static void
start(DestReceiver *destination, int operation pg_attribute_unused(), TupleDesc description)
{
	Receiver *receiver = (Receiver *) destination;

	for (int i = 0; i < COLUMNS; i++)
		receiver->columns[i] = i;
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

/*
 * A plain table that the caller may read as a whole, all of it wanted, in any order. Others are the
 * executor's: it knows children, policies, privileges on columns, who audits, and indexes for a window.
 */
static bool
is_plain(Relation log, const SermClickWindow *window, bool by_page)
{
	Oid id = RelationGetRelid(log);

	return !by_page && !window->has_since && !window->has_until && log->rd_rel->relkind == RELKIND_RELATION &&
	       !log->rd_rel->relhassubclass && pg_class_aclcheck(id, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
	       check_enable_rls(id, InvalidOid, true) == RLS_NONE && ExecutorCheckPerms_hook == NULL;
}

static void
scan_log(Receiver *receiver, Relation log)
{
	static const char *const names[] = {"query", "doc_id", "position", "clicked", "shown_at"};
	TupleTableSlot *slot = table_slot_create(log, NULL);
	bool push = !ActiveSnapshotSet();
	MemoryContext previous;
	TableScanDesc scan;
	int last = 0;

	for (int i = 0; i < (int) lengthof(names); i++) {
		AttrNumber number = get_attnum(RelationGetRelid(log), names[i]);

		receiver->columns[i] = number - 1;
		last = Max(last, number);
	}
	receiver->position_type =
	    getBaseType(TupleDescAttr(RelationGetDescr(log), receiver->columns[POSITION])->atttypid);
	if (push)
		PushActiveSnapshot(GetTransactionSnapshot());
	scan = table_beginscan(log, GetActiveSnapshot(), 0, NULL);
	previous = MemoryContextSwitchTo(receiver->row);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
		slot_getsomeattrs(slot, last);
		take_row(receiver, slot);
	}
	MemoryContextSwitchTo(previous);
	table_endscan(scan);
	if (push)
		PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(slot);
}

static void
query_log(Receiver *receiver, const SermModelRow *model, const SermClickWindow *window)
{
	SPIExecuteOptions options = {
	    .params = window_params(window), .read_only = true, .dest = &receiver->destination};
	int code = SPI_execute_extended(log_statement(model, window, receiver->by_page), &options);

	if (code < 0)
		elog(ERROR, "reading the search log failed: %s", SPI_result_code_string(code));
}

SermClickGrouping *
serm_click_log_read(
    SermHost *host, const SermModelRow *model, const SermClickWindow *window, SermClickInput input)
{
	Receiver receiver = {.destination = {receive, start, finish, finish, DestNone},
	    .host = host,
	    .by_page = input != SERM_CLICK_BY_POSITION};
	MemoryContext previous = MemoryContextSwitchTo(host->context);
	Relation log;

	/* From here on the shape stays what it is; one that is missing or another is reported. */
	if (OidIsValid(model->log))
		LockRelationOid(model->log, AccessShareLock);
	(void) serm_source_name(model->log, SERM_SOURCE_LOG, model->name);
	receiver.grouping = serm_click_grouping(&host->arena, input, (uint32) serm_mine_pairs_max);
	if (receiver.grouping == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("no memory to group the search log"));
	receiver.row = AllocSetContextCreate(host->context, "serm click row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&receiver.page);
	initStringInfo(&receiver.key);
	log = table_open(model->log, NoLock);
	if (is_plain(log, window, receiver.by_page))
		scan_log(&receiver, log);
	else
		query_log(&receiver, model, window);
	table_close(log, NoLock);
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
