/*
 * serm.score, serm.score_version and serm.predict: one pair at a time.
 *
 * What a call site needs (scorers, parsed queries) is kept with its FmgrInfo
 * and opened once per statement; a call allocates nothing that outlives it.
 */
#include "pg/serm.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/array.h"

#include "pg/score/call.h"

/* A call site that names a different model per row keeps this many open. */
#define SLOTS 4

typedef struct Slot {
	char model[NAMEDATALEN]; /* as named; empty: the only model there is */
	int version;             /* as named; 0: the active one */
	SermScorer *scorer;
} Slot;

typedef struct CallSite {
	Slot slots[SLOTS];
	int next;
	TupleDesc prediction; /* of serm.predict */
} CallSite;

static CallSite *
call_site(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CallSite));
	return fcinfo->flinfo->fn_extra;
}

static bool
slot_is(const Slot *slot, const char *model, size_t length, int version)
{
	return slot->scorer != NULL && slot->version == version && strlen(slot->model) == length &&
	       memcmp(slot->model, model, length) == 0;
}

/* `model` of `length` bytes; length 0: the only one there is. */
static SermScorer *
find_scorer(FunctionCallInfo fcinfo, const char *model, size_t length, int version)
{
	CallSite *site = call_site(fcinfo);
	Slot *slot = NULL;
	SermScorer *scorer;
	char *name;

	for (int i = 0; slot == NULL && i < SLOTS; i++)
		if (slot_is(&site->slots[i], model, length, version))
			slot = &site->slots[i];
	if (slot != NULL && !serm_scorer_stale(slot->scorer))
		return slot->scorer;
	if (slot == NULL) {
		slot = &site->slots[site->next];
		site->next = (site->next + 1) % SLOTS;
	}
	scorer = slot->scorer;
	slot->scorer = NULL;
	name = pnstrdup(model, length);
	/* Opened before the old one goes, so that shared weights stay. */
	slot->scorer =
	    serm_scorer_open(length > 0 ? name : NULL, version, SERM_SEE_STATEMENT, fcinfo->flinfo->fn_mcxt);
	serm_scorer_close(scorer);
	strlcpy(slot->model, name, sizeof(slot->model));
	slot->version = version;
	pfree(name);
	return slot->scorer;
}

SermScorer *
serm_call_scorer_named(FunctionCallInfo fcinfo, const text *model, int version)
{
	if (model == NULL) {
		const char *name = serm_default_model != NULL ? serm_default_model : "";

		return find_scorer(fcinfo, name, strlen(name), version);
	}
	if (VARSIZE_ANY_EXHDR(model) == 0)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"\" does not exist"),
		    errhint("Leave the argument out for the default model."));
	return find_scorer(fcinfo, VARDATA_ANY(model), VARSIZE_ANY_EXHDR(model), version);
}

SermScorer *
serm_call_scorer(FunctionCallInfo fcinfo, int model_argument, int version)
{
	SermScorer *scorer;
	text *model;

	if (model_argument < 0)
		return serm_call_scorer_named(fcinfo, NULL, version);
	model = PG_GETARG_TEXT_PP(model_argument);
	scorer = serm_call_scorer_named(fcinfo, model, version);
	PG_FREE_IF_COPY(model, model_argument);
	return scorer;
}

/* Score the query of argument 0 and the text or serm.doc of argument 1. */
static void
predict_arguments(FunctionCallInfo fcinfo, SermScorer *scorer, bool encoded, SermPrediction *prediction)
{
	void *query_copy, *doc_copy;
	SermText query = serm_text_detoast(PG_GETARG_DATUM(0), &query_copy);
	SermText doc = encoded ? serm_doc_detoast(PG_GETARG_DATUM(1), &doc_copy)
	                       : serm_text_detoast(PG_GETARG_DATUM(1), &doc_copy);

	serm_scorer_predict_bytes(scorer, query, (SermDocBytes){doc, encoded}, prediction);
	if (query_copy != NULL)
		pfree(query_copy);
	if (doc_copy != NULL)
		pfree(doc_copy);
}

static Datum
score(FunctionCallInfo fcinfo, bool encoded)
{
	SermScorer *scorer = serm_call_scorer(fcinfo, PG_NARGS() > 2 ? 2 : -1, 0);
	SermPrediction prediction;

	predict_arguments(fcinfo, scorer, encoded, &prediction);
	return Float4GetDatum(prediction.score);
}

SERM_FUNCTION(serm_score);
Datum
serm_score(PG_FUNCTION_ARGS)
{
	return score(fcinfo, false);
}

SERM_FUNCTION(serm_score_doc);
Datum
serm_score_doc(PG_FUNCTION_ARGS)
{
	return score(fcinfo, true);
}

static Datum
score_version(FunctionCallInfo fcinfo, bool encoded)
{
	int version = PG_GETARG_INT32(3);
	SermPrediction prediction;

	if (version < 1)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
		    errmsg("there is no version %d: versions count from 1", version));
	predict_arguments(fcinfo, serm_call_scorer(fcinfo, 2, version), encoded, &prediction);
	return Float4GetDatum(prediction.score);
}

SERM_FUNCTION(serm_score_version);
Datum
serm_score_version(PG_FUNCTION_ARGS)
{
	return score_version(fcinfo, false);
}

SERM_FUNCTION(serm_score_version_doc);
Datum
serm_score_version_doc(PG_FUNCTION_ARGS)
{
	return score_version(fcinfo, true);
}

static Datum
probabilities(const SermPrediction *prediction)
{
	Datum values[SERM_GRADES_MAX];

	for (uint32 i = 0; i < prediction->grade_count; i++)
		values[i] = Float4GetDatum(prediction->probability[i]);
	return PointerGetDatum(construct_array(
	    values, (int) prediction->grade_count, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
}

static Datum
predict(FunctionCallInfo fcinfo, bool encoded)
{
	CallSite *site = call_site(fcinfo);
	SermScorer *scorer = serm_call_scorer(fcinfo, PG_NARGS() > 2 ? 2 : -1, 0);
	SermPrediction prediction;
	Datum values[6];
	bool nulls[6] = {false};

	if (site->prediction == NULL) {
		MemoryContext previous = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		TupleDesc description;

		if (get_call_result_type(fcinfo, NULL, &description) != TYPEFUNC_COMPOSITE ||
		    description->natts != lengthof(values))
			ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
			    errmsg("type serm.prediction does not fit this library"),
			    errhint("Bring the extension up to date: ALTER EXTENSION serm UPDATE."));
		site->prediction = BlessTupleDesc(description);
		MemoryContextSwitchTo(previous);
	}
	predict_arguments(fcinfo, scorer, encoded, &prediction);
	values[0] = Float4GetDatum(prediction.score);
	values[1] = CStringGetTextDatum(serm_scorer_row(scorer)->grades[prediction.grade]);
	values[2] = probabilities(&prediction);
	values[3] = Float4GetDatum(prediction.entropy);
	values[4] = Float4GetDatum(prediction.disagreement);
	values[5] = Int32GetDatum(serm_scorer_version(scorer));
	return HeapTupleGetDatum(heap_form_tuple(site->prediction, values, nulls));
}

SERM_FUNCTION(serm_predict);
Datum
serm_predict(PG_FUNCTION_ARGS)
{
	return predict(fcinfo, false);
}

SERM_FUNCTION(serm_predict_doc);
Datum
serm_predict_doc(PG_FUNCTION_ARGS)
{
	return predict(fcinfo, true);
}
