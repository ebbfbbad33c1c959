#include "pg/serm.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "utils/numeric.h"

pg_noreturn static void
bad_option(const char *what, const char *name, const char *problem, const char *hint)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
	    errmsg("option \"%s\" of %s %s", name, what, problem), hint != NULL ? errhint("%s", hint) : 0);
}

static char *
valid_names(const SermOption *table, int count)
{
	StringInfoData names;

	initStringInfo(&names);
	appendStringInfoString(&names, count > 0 ? "Valid options are: " : "There are no options here.");
	for (int i = 0; i < count; i++)
		appendStringInfo(&names, "%s%s", table[i].name, i + 1 < count ? ", " : ".");
	return names.data;
}

static double
read_number(const JsonbValue *value, const SermOption *option, const char *what)
{
	double number = 0;

	if (value->type != jbvNumeric)
		bad_option(what, option->name, "must be a number", NULL);
	number =
	    DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
	if (!(number >= option->minimum && number <= option->maximum))
		bad_option(what, option->name, "is out of range",
		    psprintf("It must lie between %.10g and %.10g.", option->minimum, option->maximum));
	if (option->type == SERM_OPTION_INT && number != floor(number))
		bad_option(what, option->name, "must be a whole number", NULL);
	return number;
}

static bool
is_choice(const char *choices, const char *text)
{
	size_t length = strlen(text);

	for (const char *at = choices; *at != '\0'; at += strspn(at, ", ")) {
		size_t choice = strcspn(at, ",");

		if (choice == length && memcmp(at, text, length) == 0)
			return true;
		at += choice;
	}
	return false;
}

static char *
read_text(const JsonbValue *value, const SermOption *option, const char *what)
{
	char *text;

	if (value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		bad_option(what, option->name, "must be a string", NULL);
	text = pnstrdup(value->val.string.val, value->val.string.len);
	if (option->choices != NULL && !is_choice(option->choices, text))
		bad_option(
		    what, option->name, "has an unknown value", psprintf("Valid values are: %s.", option->choices));
	return text;
}

static void
read_option(const JsonbValue *value, const SermOption *option, void *target, const char *what)
{
	char *field = (char *) target + option->offset;

	/* null means the default, as everywhere; a text has no other way to be unset. */
	if (value->type == jbvNull && option->type != SERM_OPTION_TEXT)
		return;
	switch (option->type) {
		case SERM_OPTION_INT:
			*(int32 *) field = (int32) read_number(value, option, what);
			break;
		case SERM_OPTION_REAL:
			*(double *) field = read_number(value, option, what);
			break;
		case SERM_OPTION_BOOL:
			if (value->type != jbvBool)
				bad_option(what, option->name, "must be true or false", NULL);
			*(bool *) field = value->val.boolean;
			break;
		case SERM_OPTION_TEXT:
			*(char **) field = read_text(value, option, what);
			break;
	}
}

void
serm_options_read(const Jsonb *options, const SermOption *table, int count, void *target, const char *what)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue key, value;

	if (options == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("options of %s must be a JSON object", what), errhint("%s", valid_names(table, count)));
	iterator = JsonbIteratorInit(unconstify(JsonbContainer *, &options->root));
	while ((token = JsonbIteratorNext(&iterator, &key, true)) != WJB_DONE) {
		int i = 0;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		while (i < count && ((int) strlen(table[i].name) != key.val.string.len ||
		                        strncmp(table[i].name, key.val.string.val, key.val.string.len) != 0))
			i++;
		if (i == count)
			bad_option(what, pnstrdup(key.val.string.val, key.val.string.len), "does not exist",
			    valid_names(table, count));
		read_option(&value, &table[i], target, what);
	}
}

static JsonbValue
number_value(double number)
{
	JsonbValue value = {.type = jbvNumeric};

	value.val.numeric = DatumGetNumeric(DirectFunctionCall1(float8_numeric, Float8GetDatum(number)));
	return value;
}

Jsonb *
serm_options_write(const SermOption *table, int count, const void *target)
{
	JsonbParseState *state = NULL;
	JsonbValue *result;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < count; i++) {
		const char *field = (const char *) target + table[i].offset;
		JsonbValue key = {.type = jbvString};
		JsonbValue value = {.type = jbvNull};

		key.val.string.val = unconstify(char *, table[i].name);
		key.val.string.len = strlen(table[i].name);
		if (table[i].type == SERM_OPTION_INT)
			value = number_value(*(const int32 *) field);
		else if (table[i].type == SERM_OPTION_REAL) {
			if (!isnan(*(const double *) field))
				value = number_value(*(const double *) field);
		} else if (table[i].type == SERM_OPTION_BOOL) {
			value.type = jbvBool;
			value.val.boolean = *(const bool *) field;
		} else if (*(char *const *) field != NULL) {
			value.type = jbvString;
			value.val.string.val = *(char *const *) field;
			value.val.string.len = strlen(value.val.string.val);
		}
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(result);
}
