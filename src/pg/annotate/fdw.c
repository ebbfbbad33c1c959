/*
 * The options of servers and user mappings of the wrapper serm_agent: checked
 * when they are written, read when they are used. Keys live in user mappings
 * only, or in a file or variable that a superuser names there.
 */
#include "pg/annotate/annotate.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/syscache.h"

typedef enum OptionType {
	OPTION_TEXT,
	OPTION_ENDPOINT,
	OPTION_INT,
	OPTION_REAL,
	OPTION_BOOL,
	OPTION_KEY
} OptionType;

typedef struct Option {
	const char *name;
	OptionType type;
	size_t offset; /* in SermServerOptions */
	double minimum;
	double maximum;
	bool superuser_only;
} Option;

#define FIELD(field) offsetof(SermServerOptions, field)

static const Option server_options[] = {
    {"endpoint", OPTION_ENDPOINT, FIELD(endpoint), 0, 0, false},
    {"model", OPTION_TEXT, FIELD(model), 1, 200, false},
    {"paths", OPTION_INT, FIELD(paths), 1, SERM_PATHS_MAX, false},
    {"temperature", OPTION_REAL, FIELD(temperature), 0, 2, false},
    {"max_tokens", OPTION_INT, FIELD(max_tokens), 1, 100000, false},
    {"timeout_ms", OPTION_INT, FIELD(timeout_ms), 100, 600000, false},
    {"connect_timeout_ms", OPTION_INT, FIELD(connect_timeout_ms), 100, 60000, false},
    {"min_share", OPTION_REAL, FIELD(min_share), 0.01, 1, false},
    {"max_attempts", OPTION_INT, FIELD(max_attempts), 1, 20, false},
    {"json_mode", OPTION_BOOL, FIELD(json_mode), 0, 0, false},
    {"requests_per_minute", OPTION_REAL, FIELD(rates.requests_per_minute), 0.1, 1e6, false},
    {"tokens_per_minute", OPTION_REAL, FIELD(rates.tokens_per_minute), 1, 1e9, false},
    {"outage_s", OPTION_INT, FIELD(outage_s), 1, 86400, false},
    {"price_prompt", OPTION_REAL, FIELD(price_prompt), 0, 1e6, false},
    {"price_completion", OPTION_REAL, FIELD(price_completion), 0, 1e6, false},
    {"cache", OPTION_BOOL, FIELD(cache), 0, 0, false},
    {"canary", OPTION_REAL, FIELD(canary), 0, 1, false},
};

static const Option mapping_options[] = {
    {"api_key", OPTION_KEY, 0, 0, 0, false},
    {"api_key_file", OPTION_TEXT, 0, 1, MAXPGPATH - 1, true},
    {"api_key_env", OPTION_TEXT, 0, 1, 200, true},
};

static char *
option_names(const Option *options, int count)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < count; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", options[i].name);
	return names.data;
}

/* The statement is kept out of the log: for a user mapping it holds a key. */
pg_noreturn static void
bad_value(const char *name, const char *problem)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errhidestmt(true),
	    errmsg("invalid value for option \"%s\"", name), errhint("%s", problem));
}

static void
check_number(const Option *option, const char *value)
{
	char *end;
	double number;

	errno = 0;
	number = strtod(value, &end);
	if (end == value || *end != '\0' || errno != 0 || !isfinite(number) ||
	    strspn(value, "0123456789.+-eE") != strlen(value) ||
	    (option->type == OPTION_INT && number != floor(number)) || number < option->minimum ||
	    number > option->maximum)
		bad_value(option->name, psprintf("It must be %s between %g and %g.",
		                            option->type == OPTION_INT ? "a whole number" : "a number",
		                            option->minimum, option->maximum));
}

static void
check_endpoint(const char *value)
{
	SermEndpoint endpoint;
	SermError error;

	if (serm_endpoint_parse(value, &endpoint, &error) != SERM_OK)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", error.message),
		    errhint("An endpoint looks like https://host/v1 or, on this machine, http://127.0.0.1:8080/v1."));
	if (!endpoint.https && !endpoint.loopback && !serm_allow_http)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("plain http is only for endpoints on localhost, 127.0.0.1 or [::1]"),
		    errhint("Use https, or let a superuser set serm.allow_http."));
}

/* Printable ASCII: anything else could end the header that carries it. */
static void
check_key(const char *name, const char *value)
{
	size_t length = strlen(value);

	if (length == 0 || length > SERM_API_KEY_BYTES_MAX)
		bad_value(name, "A key has 1 to 4096 characters.");
	for (size_t i = 0; i < length; i++)
		if (value[i] <= ' ' || value[i] > '~')
			bad_value(name, "A key may hold visible ASCII characters only.");
}

static void
check_value(const Option *option, DefElem *element)
{
	const char *value = defGetString(element);

	if (option->superuser_only && !superuser())
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errhidestmt(true),
		    errmsg("only a superuser may set option \"%s\"", option->name),
		    errhint("Use the option api_key."));
	switch (option->type) {
		case OPTION_ENDPOINT:
			check_endpoint(value);
			break;
		case OPTION_INT:
		case OPTION_REAL:
			check_number(option, value);
			break;
		case OPTION_BOOL:
			(void) defGetBoolean(element);
			break;
		case OPTION_KEY:
			check_key(option->name, value);
			break;
		case OPTION_TEXT:
			if (strlen(value) < option->minimum || strlen(value) > option->maximum)
				bad_value(option->name,
				    psprintf("It must have %g to %g characters.", option->minimum, option->maximum));
			break;
	}
}

static void
check_options(List *list, const Option *options, int count)
{
	ListCell *cell;

	foreach (cell, list) {
		DefElem *element = lfirst_node(DefElem, cell);
		int i = 0;

		while (i < count && strcmp(options[i].name, element->defname) != 0)
			i++;
		if (i == count)
			ereport(ERROR, errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errhidestmt(true),
			    errmsg("invalid option \"%s\"", element->defname),
			    count > 0 ? errhint("Valid options in this context are: %s", option_names(options, count))
			              : errhint("There are no valid options in this context."));
		check_value(&options[i], element);
	}
}

/*
 * serm._agent_validator(options text[], catalog oid)
 *
 * Errors: HV00D unknown option, 22023 bad value, 42501 an option for superusers.
 */
SERM_FUNCTION(serm_agent_validator);
Datum
serm_agent_validator(PG_FUNCTION_ARGS)
{
	List *list = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog = PG_GETARG_OID(1);

	if (catalog == ForeignServerRelationId)
		check_options(list, server_options, lengthof(server_options));
	else if (catalog == UserMappingRelationId) {
		check_options(list, mapping_options, lengthof(mapping_options));
		if (list_length(list) > 1)
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errhidestmt(true),
			    errmsg("a user mapping has one of api_key, api_key_file and api_key_env"),
			    errhint("Drop the other with ALTER USER MAPPING ... OPTIONS (DROP ...)."));
	} else
		check_options(list, NULL, 0);
	PG_RETURN_VOID();
}

/* --- reading */

Oid
serm_server_find(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	AclResult allowed;

	if (server == NULL)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("server \"%s\" does not exist", name),
		    errhint("CREATE SERVER %s FOREIGN DATA WRAPPER " SERM_AGENT_WRAPPER
		            " OPTIONS (endpoint '...', model '...')",
		        quote_identifier(name)));
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, SERM_AGENT_WRAPPER) != 0)
		ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
		    errmsg("server \"%s\" is not one of foreign-data wrapper " SERM_AGENT_WRAPPER, name),
		    errhint("Create one with FOREIGN DATA WRAPPER " SERM_AGENT_WRAPPER "."));
	allowed = serm_server_aclcheck(server->serverid, GetUserId());
	if (allowed != ACLCHECK_OK)
		aclcheck_error(allowed, OBJECT_FOREIGN_SERVER, name);
	return server->serverid;
}

static void
read_option(const Option *option, DefElem *element, SermServerOptions *options)
{
	char *field = (char *) options + option->offset;
	char *value = defGetString(element);

	switch (option->type) {
		case OPTION_INT:
			*(int *) field = (int) strtod(value, NULL);
			break;
		case OPTION_REAL:
			*(double *) field = strtod(value, NULL);
			break;
		case OPTION_BOOL:
			*(bool *) field = defGetBoolean(element);
			break;
		default:
			*(char **) field = value;
			break;
	}
}

void
serm_server_read(Oid server, SermServerOptions *options)
{
	ListCell *cell;

	*options = (SermServerOptions){.paths = 5,
	    .temperature = 0.7,
	    .max_tokens = 512,
	    .timeout_ms = 60000,
	    .connect_timeout_ms = 5000,
	    .min_share = SERM_SHARE_MIN_DEFAULT,
	    .max_attempts = 4,
	    .outage_s = 300,
	    .cache = true,
	    .canary = .05};
	foreach (cell, GetForeignServer(server)->options) {
		DefElem *element = lfirst_node(DefElem, cell);

		for (int i = 0; i < (int) lengthof(server_options); i++)
			if (strcmp(server_options[i].name, element->defname) == 0)
				read_option(&server_options[i], element, options);
	}
}

pg_noreturn static void
key_error(const char *option, const char *problem)
{
	ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
	    errmsg("the key named by option \"%s\" %s", option, problem));
}

/* Files of keys are for the server's user alone, as the server demands it of its own key file. */
static char *
read_key_file(const char *path)
{
	char *key = palloc(SERM_API_KEY_BYTES_MAX + 2);
	struct stat status;
	ssize_t length;
	int file = OpenTransientFile(path, O_RDONLY | PG_BINARY);

	if (file < 0)
		key_error("api_key_file", "cannot be opened");
	if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || (status.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		key_error("api_key_file", "must be a regular file that only the server's user may access (0600)");
	length = read(file, key, SERM_API_KEY_BYTES_MAX + 1);
	CloseTransientFile(file);
	if (length <= 0 || length > SERM_API_KEY_BYTES_MAX)
		key_error("api_key_file", "is empty or longer than 4096 bytes");
	key[length] = '\0';
	while (length > 0 && strchr(" \t\r\n", key[length - 1]) != NULL)
		key[--length] = '\0';
	check_key("api_key_file", key);
	return key;
}

static char *
read_key(DefElem *element)
{
	const char *value = defGetString(element);

	if (strcmp(element->defname, "api_key") == 0)
		return pstrdup(value);
	if (strcmp(element->defname, "api_key_file") == 0)
		return read_key_file(value);
	value = getenv(value);
	if (value == NULL)
		key_error("api_key_env", "is not in the environment of the server");
	check_key("api_key_env", value);
	return pstrdup(value);
}

char *
serm_server_key(Oid server, Oid role)
{
	HeapTuple tuple;
	char *key = NULL;
	Datum packed;
	bool null;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role), ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		tuple =
		    SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid), ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	packed = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &null);
	if (!null) {
		List *list = untransformRelOptions(packed);

		if (list != NIL)
			key = read_key(linitial_node(DefElem, list));
	}
	ReleaseSysCache(tuple);
	return key;
}
