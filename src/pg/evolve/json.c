/*
 * JSON documents that are written once and read by people and SQL: config,
 * metrics and counts of versions and rounds.
 */
#include "pg/serm.h"

#include <math.h>

#include "pg/evolve/evolve.h"
#include "utils/json.h"

static void
begin_key(StringInfo json, const char *key)
{
	if (json->len > 1)
		appendStringInfoString(json, ", ");
	escape_json(json, key);
	appendStringInfoString(json, ": ");
}

StringInfo
serm_json_begin(void)
{
	StringInfo json = makeStringInfo();

	appendStringInfoChar(json, '{');
	return json;
}

void
serm_json_number(StringInfo json, const char *key, double value)
{
	begin_key(json, key);
	if (!isfinite(value))
		appendStringInfoString(json, "null");
	else if (value == floor(value) && fabs(value) < 1e15)
		appendStringInfo(json, "%.0f", value);
	else
		appendStringInfo(json, "%.9g", value);
}

void
serm_json_text(StringInfo json, const char *key, const char *value)
{
	begin_key(json, key);
	if (value == NULL)
		appendStringInfoString(json, "null");
	else
		escape_json(json, value);
}

void
serm_json_bool(StringInfo json, const char *key, bool value)
{
	begin_key(json, key);
	appendStringInfoString(json, value ? "true" : "false");
}

void
serm_json_jsonb(StringInfo json, const char *key, const Jsonb *value)
{
	begin_key(json, key);
	(void) JsonbToCString(json, unconstify(JsonbContainer *, &value->root), VARSIZE(value));
}

Jsonb *
serm_json_end(StringInfo json)
{
	appendStringInfoChar(json, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json->data)));
}

Jsonb *
serm_json_merge(const Jsonb *first, const Jsonb *second)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(first), JsonbPGetDatum(second)));
}

static JsonbValue *
find_value(const Jsonb *object, const char *key)
{
	JsonbValue name = {.type = jbvString};

	name.val.string.val = unconstify(char *, key);
	name.val.string.len = strlen(key);
	return findJsonbValueFromContainer(unconstify(JsonbContainer *, &object->root), JB_FOBJECT, &name);
}

bool
serm_json_has(const Jsonb *object, const char *key)
{
	JsonbValue *value = JB_ROOT_IS_OBJECT(object) ? find_value(object, key) : NULL;

	return value != NULL && value->type != jbvNull;
}

Jsonb *
serm_json_without(const Jsonb *object, const char *key)
{
	return DatumGetJsonbP(
	    DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(object), CStringGetTextDatum(key)));
}

Jsonb *
serm_json_take_object(Jsonb **options, const char *key, const char *what)
{
	JsonbValue *value;
	Jsonb *object = NULL;

	if (!JB_ROOT_IS_OBJECT(*options))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("options of %s must be a JSON object", what));
	value = find_value(*options, key);
	if (value == NULL)
		return NULL;
	if (value->type != jbvNull)
		object = JsonbValueToJsonb(value);
	if (object != NULL && !JB_ROOT_IS_OBJECT(object))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"%s\" of %s must be a JSON object", key, what));
	*options = serm_json_without(*options, key);
	return object;
}
