/*
 * serm.rank: the elements of an array in the order of their scores.
 */
#include "pg/serm.h"

#include "access/tupmacs.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"

#include "pg/score/call.h"

typedef struct Ranked {
	int32 ordinal;
	float4 score;
} Ranked;

static int
compare_ranked(const void *left, const void *right)
{
	const Ranked *a = left, *b = right;

	if (a->score != b->score)
		return a->score < b->score ? 1 : -1;
	return a->ordinal < b->ordinal ? -1 : 1;
}

/* Score the batch: the last elements of `ranked`. */
static void
run_batch(SermScorer *scorer, Ranked *ranked, int count)
{
	SermPrediction predictions[SERM_BATCH_ROWS];
	int rows = serm_scorer_batch_run(scorer, predictions);

	for (int i = 0; i < rows; i++)
		ranked[count - rows + i].score = predictions[i].score;
}

/* Score every element that is not NULL; an ordinal is its place in the array, from 1, as unnest() counts. */
static int
score_elements(SermScorer *scorer, SermText query, ArrayType *docs, Ranked *ranked)
{
	ArrayIterator iterator = array_create_iterator(docs, 0, NULL);
	int count = 0;
	bool null;
	Datum element;

	serm_scorer_batch_start(scorer);
	for (int32 ordinal = 1; array_iterate(iterator, &element, &null); ordinal++) {
		SermText doc;
		void *copy;

		CHECK_FOR_INTERRUPTS();
		if (null)
			continue;
		doc = serm_text_detoast(element, &copy);
		serm_scorer_batch_add(scorer, query, (SermDocBytes){doc, false});
		if (copy != NULL)
			pfree(copy);
		ranked[count++].ordinal = ordinal;
		if (serm_scorer_batch_count(scorer) == SERM_BATCH_ROWS)
			run_batch(scorer, ranked, count);
	}
	run_batch(scorer, ranked, count);
	array_free_iterator(iterator);
	return count;
}

static void
rank(FunctionCallInfo fcinfo, int model_argument, int top_k)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	ArrayType *docs = PG_GETARG_ARRAYTYPE_P(1);
	void *copy;
	SermText query = serm_text_detoast(PG_GETARG_DATUM(0), &copy);
	SermScorer *scorer;
	Ranked *ranked;
	int count;

	if (top_k < 1)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("top_k must be at least 1, not %d", top_k));
	InitMaterializedSRF(fcinfo, 0);
	scorer = serm_call_scorer(fcinfo, model_argument, 0);
	ranked = MemoryContextAllocHuge(
	    CurrentMemoryContext, mul_size(ArrayGetNItems(ARR_NDIM(docs), ARR_DIMS(docs)) + 1, sizeof(Ranked)));
	count = score_elements(scorer, query, docs, ranked);
	qsort(ranked, count, sizeof(Ranked), compare_ranked);
	for (int i = 0; i < count && i < top_k; i++) {
		Datum values[] = {Int32GetDatum(ranked[i].ordinal), Float4GetDatum(ranked[i].score)};
		bool nulls[] = {false, false};

		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	pfree(ranked);
	if (copy != NULL)
		pfree(copy);
}

/* (query, docs) and (query, docs, model) */
SERM_FUNCTION(serm_rank);
Datum
serm_rank(PG_FUNCTION_ARGS)
{
	rank(fcinfo, PG_NARGS() > 2 ? 2 : -1, INT_MAX);
	return (Datum) 0;
}

/* (query, docs, top_k) and (query, docs, model, top_k) */
SERM_FUNCTION(serm_rank_top);
Datum
serm_rank_top(PG_FUNCTION_ARGS)
{
	rank(fcinfo, PG_NARGS() > 3 ? 2 : -1, PG_GETARG_INT32(PG_NARGS() - 1));
	return (Datum) 0;
}
