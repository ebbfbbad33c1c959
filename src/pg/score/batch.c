/*
 * serm.score_batch: a window function that scores the rows of a partition
 * together. The first call for a partition scores all of it; the others hand
 * out what was computed.
 */
#include "pg/serm.h"

#include "miscadmin.h"
#include "windowapi.h"

#include "pg/score/call.h"

/* What one allocation holds. */
#define ROWS_MAX 100000000

typedef struct Scored {
	float4 score;
	bool null;
} Scored;

/* In the partition's memory. */
typedef struct Partition {
	bool scored;
	Scored rows[FLEXIBLE_ARRAY_MEMBER];
} Partition;

/* Rows that wait in the batch, and the scorer they wait for. Nobody closes it but the next look for one. */
typedef struct Waiting {
	int argument_count;
	MemoryContext row; /* what the arguments of one row take */
	SermScorer *scorer;
	char model[NAMEDATALEN]; /* as named; not used without a model argument */
	char *query;             /* of the row that is added */
	Size query_size;
	int64 rows[SERM_BATCH_ROWS];
} Waiting;

static void
run_waiting(Waiting *waiting, Partition *partition)
{
	SermPrediction predictions[SERM_BATCH_ROWS];
	int count = waiting->scorer != NULL ? serm_scorer_batch_run(waiting->scorer, predictions) : 0;

	for (int i = 0; i < count; i++)
		partition->rows[waiting->rows[i]].score = predictions[i].score;
}

static Datum
argument(WindowObject window, int number, int64 row, bool *null)
{
	bool outside;

	return WinGetFuncArgInPartition(window, number, (int) row, WINDOW_SEEK_HEAD, false, null, &outside);
}

/* See to it that waiting->scorer is that of `model` (NULL: the default one); what waits for another is run.
 */
static void
choose_scorer(FunctionCallInfo fcinfo, const text *model, Waiting *waiting, Partition *partition)
{
	Size length = model != NULL ? VARSIZE_ANY_EXHDR(model) : 0;

	if (waiting->scorer != NULL &&
	    (model == NULL ||
	        (strlen(waiting->model) == length && memcmp(waiting->model, VARDATA_ANY(model), length) == 0)))
		return;
	run_waiting(waiting, partition);
	waiting->scorer = NULL;
	waiting->scorer = serm_call_scorer_named(fcinfo, model, 0);
	if (model != NULL)
		strlcpy(waiting->model, serm_scorer_row(waiting->scorer)->name, sizeof(waiting->model));
	serm_scorer_batch_start(waiting->scorer);
}

/* The query of a row, copied: the next argument that is fetched takes the place of the tuple it lies in. */
static SermText
copy_query(Waiting *waiting, Datum query)
{
	void *copy;
	SermText text = serm_text_detoast(query, &copy);

	if (text.length > waiting->query_size) {
		if (waiting->query != NULL)
			pfree(waiting->query);
		waiting->query_size = text.length * 2;
		waiting->query = MemoryContextAlloc(MemoryContextGetParent(waiting->row), waiting->query_size);
	}
	if (text.length > 0)
		memcpy(waiting->query, text.bytes, text.length);
	return (SermText){waiting->query, text.length};
}

/* Add one row to the batch. False for a row with a NULL. */
static bool
add_row(FunctionCallInfo fcinfo, WindowObject window, int64 row, bool encoded, Waiting *waiting,
    Partition *partition)
{
	const text *model = NULL;
	void *copy;
	bool null;
	Datum value;
	SermText query, doc;

	if (waiting->argument_count > 2) {
		value = argument(window, 2, row, &null);
		if (null)
			return false;
		model = DatumGetTextPP(value);
	}
	choose_scorer(fcinfo, model, waiting, partition);
	value = argument(window, 0, row, &null);
	if (null)
		return false;
	query = copy_query(waiting, value);
	value = argument(window, 1, row, &null);
	if (null)
		return false;
	waiting->rows[serm_scorer_batch_count(waiting->scorer)] = row;
	doc = encoded ? serm_doc_detoast(value, &copy) : serm_text_detoast(value, &copy);
	serm_scorer_batch_add(waiting->scorer, query, (SermDocBytes){doc, encoded});
	return true;
}

static void
score_partition(FunctionCallInfo fcinfo, WindowObject window, int64 count, bool encoded, Partition *partition)
{
	/* The caller's memory lasts for an output row, and the whole partition is read for the first one. */
	Waiting waiting = {.argument_count = PG_NARGS(),
	    .row = AllocSetContextCreate(CurrentMemoryContext, "serm batch row", ALLOCSET_SMALL_SIZES)};
	MemoryContext previous = MemoryContextSwitchTo(waiting.row);

	for (int64 row = 0; row < count; row++) {
		CHECK_FOR_INTERRUPTS();
		partition->rows[row].null = !add_row(fcinfo, window, row, encoded, &waiting, partition);
		if (waiting.scorer != NULL && serm_scorer_batch_count(waiting.scorer) == SERM_BATCH_ROWS)
			run_waiting(&waiting, partition);
		MemoryContextReset(waiting.row);
	}
	run_waiting(&waiting, partition);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(waiting.row);
	if (waiting.query != NULL)
		pfree(waiting.query);
	partition->scored = true;
}

static Datum
score_batch(FunctionCallInfo fcinfo, bool encoded)
{
	WindowObject window = PG_WINDOW_OBJECT();
	int64 count = WinGetPartitionRowCount(window);
	Partition *partition;
	const Scored *row;

	if (count > ROWS_MAX)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("a partition of serm.score_batch has more than %d rows", ROWS_MAX),
		    errhint("Use serm.score for so many, or partition by the query."));
	partition = WinGetPartitionLocalMemory(window, offsetof(Partition, rows) + (Size) count * sizeof(Scored));
	if (!partition->scored)
		score_partition(fcinfo, window, count, encoded, partition);
	row = &partition->rows[WinGetCurrentPosition(window)];
	if (row->null)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT4(row->score);
}

/* (query, doc) and (query, doc, model) */
SERM_FUNCTION(serm_score_batch);
Datum
serm_score_batch(PG_FUNCTION_ARGS)
{
	return score_batch(fcinfo, false);
}

SERM_FUNCTION(serm_score_batch_doc);
Datum
serm_score_batch_doc(PG_FUNCTION_ARGS)
{
	return score_batch(fcinfo, true);
}
