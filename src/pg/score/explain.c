/*
 * serm.explain: what each term of the query brings to the score through each
 * field of the document.
 */
#include "pg/serm.h"

#include "funcapi.h"

#include "pg/score/call.h"

enum { COLUMN_QUERY_TERM, COLUMN_DOC_TERM, COLUMN_FIELD, COLUMN_CONTRIBUTION, COLUMNS };

static void
put_row(ReturnSetInfo *result, const SermExplainedTerm *term, float4 contribution)
{
	Datum values[COLUMNS] = {0};
	bool nulls[COLUMNS] = {true, true, true, false};

	values[COLUMN_CONTRIBUTION] = Float4GetDatum(contribution);
	if (term != NULL && (term->query || term->query_term.length > 0)) {
		values[COLUMN_QUERY_TERM] = PointerGetDatum(serm_text_from_utf8(term->query_term));
		nulls[COLUMN_QUERY_TERM] = false;
	}
	if (term != NULL) {
		values[COLUMN_FIELD] = CStringGetTextDatum(term->query ? "query" : term->body ? "body" : "title");
		nulls[COLUMN_FIELD] = false;
	}
	if (term != NULL && term->doc_term.length > 0) {
		values[COLUMN_DOC_TERM] = PointerGetDatum(serm_text_from_utf8(term->doc_term));
		nulls[COLUMN_DOC_TERM] = false;
	}
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static Datum
explain(FunctionCallInfo fcinfo, bool encoded)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	void *query_copy, *doc_copy;
	SermText query = serm_text_detoast(PG_GETARG_DATUM(0), &query_copy);
	SermText doc = encoded ? serm_doc_detoast(PG_GETARG_DATUM(1), &doc_copy)
	                       : serm_text_detoast(PG_GETARG_DATUM(1), &doc_copy);
	SermExplanation explanation;

	InitMaterializedSRF(fcinfo, 0);
	serm_scorer_explain(serm_call_scorer(fcinfo, PG_NARGS() > 2 ? 2 : -1, 0), query,
	    (SermDocBytes){doc, encoded}, &explanation);
	put_row(result, NULL, explanation.base);
	for (uint32 i = 0; i < explanation.count; i++)
		put_row(result, &explanation.terms[i], explanation.terms[i].contribution);
	if (query_copy != NULL)
		pfree(query_copy);
	if (doc_copy != NULL)
		pfree(doc_copy);
	return (Datum) 0;
}

SERM_FUNCTION(serm_explain);
Datum
serm_explain(PG_FUNCTION_ARGS)
{
	return explain(fcinfo, false);
}

SERM_FUNCTION(serm_explain_doc);
Datum
serm_explain_doc(PG_FUNCTION_ARGS)
{
	return explain(fcinfo, true);
}
