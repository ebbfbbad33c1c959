/*
 * Judgments: what may be stored (a trigger checks each row against its model),
 * and how training reads them. Also the triggers that keep stored facts as they
 * were and tell every session of a promotion.
 */
#include "pg/serm.h"

#include <math.h>

#include "commands/trigger.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "pg/store/internal.h"

/* How far the sum of a target may be from 1. */
#define TARGET_TOLERANCE 1e-3

static void
require_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
		    errmsg("this function can be called by a trigger only"));
}

/* A column of the new row by name, so that the order of columns does not matter. */
static Datum
new_value(const TriggerData *trigger, const char *column, Oid type, bool *null)
{
	TupleDesc description = RelationGetDescr(trigger->tg_relation);
	int number = SPI_fnumber(description, column);

	if (number <= 0 || SPI_gettypeid(description, number) != type)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_COLUMN),
		    errmsg("table \"%s\" has no column \"%s\" of type %s",
		        RelationGetRelationName(trigger->tg_relation), column, format_type_be(type)));
	return SPI_getbinval(trigger->tg_trigtuple, description, number, null);
}

/* How many grades the model has; read once per statement and model. */
static int
grade_count(FunctionCallInfo fcinfo, Datum model)
{
	typedef struct Known {
		char name[NAMEDATALEN];
		int grades;
	} Known;
	Known *known = fcinfo->flinfo->fn_extra;
	char *name = TextDatumGetCString(model);

	if (known == NULL)
		known = fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Known));
	if (known->grades == 0 || strcmp(known->name, name) != 0) {
		SermModelRow *row = serm_model_read(name);

		strlcpy(known->name, name, sizeof(known->name));
		known->grades = row->grade_count;
	}
	pfree(name);
	return known->grades;
}

static void
check_query(Datum query)
{
	void *copy;
	SermText text = serm_text_detoast(query, &copy);
	bool blank = true;

	for (size_t i = 0; blank && i < text.length; i++)
		blank = strchr(" \t\r\n\f\v", text.bytes[i]) != NULL;
	if (blank)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the query of a judgment must not be empty"));
	if (copy != NULL)
		pfree(copy);
}

static void
check_target(Datum value, int grades)
{
	ArrayType *target = DatumGetArrayTypeP(value);
	const float4 *shares = (const float4 *) ARR_DATA_PTR(target);
	double sum = 0;

	if (ARR_NDIM(target) != 1 || ARR_HASNULL(target) || ARR_DIMS(target)[0] != grades)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the target of a judgment must have %d numbers, one for each grade", grades));
	for (int i = 0; i < grades; i++) {
		if (!(shares[i] >= 0 && shares[i] <= 1 + TARGET_TOLERANCE))
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			    errmsg("the numbers of a target must lie between 0 and 1"));
		sum += shares[i];
	}
	if (fabs(sum - 1) > TARGET_TOLERANCE)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the numbers of a target must sum to 1, not %g", sum));
}

SERM_FUNCTION(serm_check_judgment);
Datum
serm_check_judgment(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (TriggerData *) fcinfo->context;
	Datum model, query, grade, target;
	bool null;
	int grades;

	require_trigger(fcinfo);
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
	    !TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
		    errmsg("this function must be fired before the insertion of a row"));
	model = new_value(trigger, "model", TEXTOID, &null);
	/* NOT NULL constraints speak for themselves, after this trigger. */
	if (null)
		return PointerGetDatum(trigger->tg_trigtuple);
	grades = grade_count(fcinfo, model);
	query = new_value(trigger, "query", TEXTOID, &null);
	if (!null)
		check_query(query);
	grade = new_value(trigger, "grade", FLOAT4OID, &null);
	if (!null && !(DatumGetFloat4(grade) >= 0 && DatumGetFloat4(grade) <= grades - 1))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("grade %g is outside of 0 to %d", DatumGetFloat4(grade), grades - 1),
		    errhint("Grades count from 0, the worst; SELECT grades FROM serm.model shows their names."));
	target = new_value(trigger, "target", FLOAT4ARRAYOID, &null);
	if (!null)
		check_target(target, grades);
	return PointerGetDatum(trigger->tg_trigtuple);
}

SERM_FUNCTION(serm_refuse_update);
Datum
serm_refuse_update(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (TriggerData *) fcinfo->context;

	require_trigger(fcinfo);
	ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
	    errmsg("rows of serm.%s do not change", RelationGetRelationName(trigger->tg_relation)),
	    errhint("Insert a new row; the newest one counts."));
}

/* Every session, on standbys too, learns at its next statement that a model may have another active version.
 */
SERM_FUNCTION(serm_model_changed);
Datum
serm_model_changed(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (TriggerData *) fcinfo->context;

	require_trigger(fcinfo);
	CacheInvalidateRelcache(trigger->tg_relation);
	return PointerGetDatum(NULL);
}

char *
serm_judgment_query(const SermModelRow *row)
{
	if (!OidIsValid(row->documents))
		return pstrdup(
		    "FROM (SELECT c.id, c.query, c.doc_id, c.doc, c.grade, c.target, c.source, c.weight, c.at, "
		    "c.round FROM serm.current_judgment AS c WHERE c.model = $1) AS j WHERE j.doc IS NOT NULL");
	return psprintf(
	    "FROM (SELECT c.id, c.query, c.doc_id, coalesce(c.doc, d.doc) AS doc, c.grade, c.target, "
	    "c.source, c.weight, c.at, c.round FROM serm.current_judgment AS c LEFT JOIN "
	    /* An id that occurs twice gives its first text, as in mining: never the judgment twice. */
	    "(SELECT s.doc_id, min(s.doc::text COLLATE \"C\") AS doc FROM %s AS s WHERE s.doc_id IN "
	    "(SELECT n.doc_id FROM serm.judgment AS n WHERE n.model = $1 AND n.doc IS NULL) GROUP BY s.doc_id) "
	    "AS d "
	    "ON c.doc IS NULL AND d.doc_id = c.doc_id WHERE c.model = $1) AS j WHERE j.doc IS NOT NULL",
	    serm_source_name(row->documents, SERM_SOURCE_DOCUMENTS, row->name));
}
