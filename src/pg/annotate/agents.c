/*
 * The annotators of a model: serm.add_agent, serm.remove_agent and how the rest
 * of annotating reads them.
 */
#include "pg/annotate/annotate.h"

#include <math.h>

#include "catalog/pg_proc.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "core/agent/prompt.h"

/* Of a list, when nobody says how many. */
#define LIST_DOCS 5
/* Canaries that an agent may obey before it is suspended, of its newest ones, and the share of these. */
#define CANARIES_LOOKED_AT 200
/* Those of agents of the same name of other models lie between them. */
#define CANARIES_LOOKED_THROUGH 4000
#define CANARIES_OBEYED_MIN 3
#define CANARIES_OBEYED_SHARE 0.2

typedef struct AgentOptions {
	char *name;
	double weight;
	int paths;              /* 0: the server's; 1 for a judge */
	double min_share;       /* 0: the server's; the default for a judge */
	double min_reliability; /* NaN: the model's */
	char *form;
	int documents; /* 0: two of a pair, five of a list */
	int examples;
} AgentOptions;

static const SermOption agent_options[] = {
    {"name", SERM_OPTION_TEXT, offsetof(AgentOptions, name), 0, 0, NULL},
    {"weight", SERM_OPTION_REAL, offsetof(AgentOptions, weight), 0.001, 1000, NULL},
    {"paths", SERM_OPTION_INT, offsetof(AgentOptions, paths), 1, SERM_PATHS_MAX, NULL},
    {"min_share", SERM_OPTION_REAL, offsetof(AgentOptions, min_share), 0.01, 1, NULL},
    {"min_reliability", SERM_OPTION_REAL, offsetof(AgentOptions, min_reliability), -1, 1, NULL},
    {"form", SERM_OPTION_TEXT, offsetof(AgentOptions, form), 0, 0, "absolute, pair, list"},
    {"documents", SERM_OPTION_INT, offsetof(AgentOptions, documents), 2, SERM_QUESTION_DOCS_MAX, NULL},
    {"examples", SERM_OPTION_INT, offsetof(AgentOptions, examples), 0, SERM_PROMPT_EXAMPLES_MAX, NULL},
};

static SermForm
form_of(const AgentOptions *options)
{
	if (options->form == NULL || strcmp(options->form, "absolute") == 0)
		return SERM_FORM_ABSOLUTE;
	return strcmp(options->form, "pair") == 0 ? SERM_FORM_PAIR : SERM_FORM_LIST;
}

static AgentOptions
read_options(const Jsonb *json)
{
	AgentOptions options = {.weight = 1, .min_reliability = NAN, .examples = SERM_PROMPT_EXAMPLES_MAX};

	serm_options_read(json, agent_options, lengthof(agent_options), &options, "serm.add_agent");
	if (options.documents > 0 && form_of(&options) != SERM_FORM_LIST)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("only questions of the form list have a number of documents"),
		    errhint("Set the option form to list, or leave documents out."));
	return options;
}

static void
insert_agent(
    const char *model, const char *name, const char *server, const char *judge, double weight, Jsonb *options)
{
	SermParam params[] = {
	    SERM_TEXT(model),
	    SERM_TEXT(name),
	    server != NULL ? SERM_TEXT(server) : SERM_NULL(TEXTOID),
	    judge != NULL ? SERM_TEXT(judge) : SERM_NULL(TEXTOID),
	    SERM_FLOAT4((float4) weight),
	    SERM_DATUM(JSONBOID, JsonbPGetDatum(options)),
	};

	serm_spi_execute("INSERT INTO serm.agent (model, name, server, judge, weight, options)"
	                 " VALUES ($1, $2, $3::pg_catalog.name, $4, $5, $6) ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, false, params, lengthof(params));
	if (SPI_processed == 0)
		ereport(ERROR, errcode(ERRCODE_DUPLICATE_OBJECT),
		    errmsg("model \"%s\" already has an agent \"%s\"", model, name),
		    errhint("Give it another name with the option name, or remove the other: "
		            "SELECT serm.remove_agent(%s, %s)",
		        quote_literal_cstr(model), quote_literal_cstr(name)));
}

/*
 * serm.add_agent(model text, server name, options jsonb)
 *
 * Errors: 42704 model or server, 42809 not a server of ours, 42501 no right to use it,
 * 42710 a second agent of that name, 22023 options.
 */
SERM_FUNCTION(serm_add_agent_server);
Datum
serm_add_agent_server(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *server = NameStr(*PG_GETARG_NAME(1));
	Jsonb *json = PG_GETARG_JSONB_P(2);
	AgentOptions options = read_options(json);
	SermModelRow *row = serm_model_read(model);
	int level;

	(void) serm_server_find(server);
	level = serm_spi_begin(false);
	insert_agent(row->name, options.name != NULL ? options.name : server, server, NULL, options.weight, json);
	serm_spi_end(level);
	PG_RETURN_VOID();
}

/* What finds the function again, in this database or in a restored one: judges take (text, text). */
static char *
signature_of(Oid judge)
{
	return psprintf("%s(text,text)",
	    quote_qualified_identifier(get_namespace_name(get_func_namespace(judge)), get_func_name(judge)));
}

/*
 * serm.add_agent(model text, judge regprocedure, options jsonb)
 *
 * Errors: 42883, 42804 and 42809 for functions that are no judges; the rest as above.
 */
SERM_FUNCTION(serm_add_agent_judge);
Datum
serm_add_agent_judge(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid judge = PG_GETARG_OID(1);
	Jsonb *json = PG_GETARG_JSONB_P(2);
	AgentOptions options = read_options(json);
	SermModelRow *row = serm_model_read(model);
	int level;

	(void) serm_judge_statement(judge);
	if (form_of(&options) != SERM_FORM_ABSOLUTE)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("a judge that is an SQL function grades one document at a time"),
		    errhint("Leave the option form out."));
	if (options.paths > 1 && func_volatile(judge) != PROVOLATILE_VOLATILE)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("function %s gives the same answer every time", format_procedure(judge)),
		    errhint("Several paths need a VOLATILE judge."));
	level = serm_spi_begin(false);
	insert_agent(row->name, options.name != NULL ? options.name : get_func_name(judge), NULL,
	    signature_of(judge), options.weight, json);
	serm_spi_end(level);
	PG_RETURN_VOID();
}

static char *
agent_names(const char *model)
{
	SermParam params[] = {SERM_TEXT(model)};

	serm_spi_execute(
	    "SELECT pg_catalog.string_agg(a.name, ', ' ORDER BY a.name) FROM serm.agent a WHERE a.model = $1",
	    SPI_OK_SELECT, true, params, 1);
	return serm_spi_string(0, 1);
}

pg_noreturn static void
unknown_agent(const char *model, const char *agent)
{
	char *names = agent_names(model);

	ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
	    errmsg("model \"%s\" has no agent \"%s\"", model, agent),
	    names != NULL ? errhint("Its agents are: %s.", names) : errhint("It has none."));
}

/*
 * serm.resume_agent(model text, agent text, min_reliability real): ask an agent again that was suspended or
 * is not active, and suspend it from now on below that limit only. Errors: 42704, 22023.
 */
SERM_FUNCTION(serm_resume_agent);
Datum
serm_resume_agent(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *agent = text_to_cstring(PG_GETARG_TEXT_PP(1));
	float4 limit = PG_GETARG_FLOAT4(2);
	SermModelRow *row = serm_model_read(model);
	SermParam params[] = {SERM_TEXT(row->name), SERM_TEXT(agent), SERM_FLOAT4(limit)};
	int level;

	if (!(limit >= -1 && limit <= 1))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("a reliability of %g is outside -1 to 1", limit),
		    errhint("-1 means that the agent is never suspended."));
	level = serm_spi_begin(false);
	serm_spi_execute("UPDATE serm.agent SET active = true, suspended = NULL, reason = NULL,"
	                 " options = options || pg_catalog.jsonb_build_object('min_reliability', $3::numeric)"
	                 " WHERE model = $1 AND name = $2",
	    SPI_OK_UPDATE, false, params, lengthof(params));
	if (SPI_processed == 0)
		unknown_agent(row->name, agent);
	serm_spi_end(level);
	PG_RETURN_VOID();
}

/*
 * serm.remove_agent(model text, agent text): its votes stay as they are, its open
 * tasks go. Errors: 42704.
 */
SERM_FUNCTION(serm_remove_agent);
Datum
serm_remove_agent(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *agent = text_to_cstring(PG_GETARG_TEXT_PP(1));
	SermModelRow *row = serm_model_read(model);
	SermParam params[] = {SERM_TEXT(row->name), SERM_TEXT(agent)};
	int level = serm_spi_begin(false);

	serm_queue_gate(true);
	serm_budget_drop_tasks(row->name, agent);
	serm_spi_execute(
	    "DELETE FROM serm.agent WHERE model = $1 AND name = $2", SPI_OK_DELETE, false, params, 2);
	if (SPI_processed == 0)
		unknown_agent(row->name, agent);
	serm_spi_end(level);
	PG_RETURN_VOID();
}

static SermAgent *
read_agent(uint64 i, double limit)
{
	SermAgent *agent = palloc0(sizeof(SermAgent));
	AgentOptions options;
	bool null;

	agent->name = serm_spi_string(i, 1);
	agent->server = serm_spi_string(i, 2);
	agent->judge = serm_spi_string(i, 3);
	agent->weight = DatumGetFloat4(serm_spi_value(i, 4, &null));
	options = read_options(DatumGetJsonbP(serm_spi_value(i, 5, &null)));
	agent->paths = options.paths;
	agent->min_share = options.min_share;
	agent->min_reliability = isnan(options.min_reliability) ? limit : options.min_reliability;
	agent->repeats = DatumGetBool(serm_spi_value(i, 6, &null));
	agent->form = form_of(&options);
	agent->docs = agent->form == SERM_FORM_ABSOLUTE ? 1
	              : agent->form == SERM_FORM_PAIR   ? 2
	              : options.documents > 0           ? options.documents
	                                                : LIST_DOCS;
	agent->examples = options.examples;
	return agent;
}

#define AGENT_COLUMNS                                                                                        \
	"SELECT a.name, a.server, a.judge, a.weight, a.options,"                                                 \
	" a.judge IS NOT NULL AND coalesce((SELECT p.provolatile <> 'v' FROM pg_catalog.pg_proc p"               \
	"  WHERE p.oid = pg_catalog.to_regprocedure(a.judge)), true) FROM serm.agent a"

SermAgent *
serm_agent_read(const SermModelRow *model, const char *name)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model->name), SERM_TEXT(name)};

	serm_spi_execute_kept(
	    &kept, AGENT_COLUMNS " WHERE a.model = $1 AND a.name = $2", SPI_OK_SELECT, params, lengthof(params));
	return SPI_processed == 0 ? NULL : read_agent(0, model->options.min_reliability);
}

static void
read_server(const char *name, bool asking, SermServerOptions *options)
{
	ForeignServer *server = GetForeignServerByName(name, true);

	if (asking)
		serm_server_read(serm_server_find(name), options);
	else if (server != NULL)
		serm_server_read(server->serverid, options);
}

List *
serm_agents_load(const SermModelRow *model, bool asking)
{
	SermParam params[] = {SERM_TEXT(model->name)};
	MemoryContext context = CurrentMemoryContext;
	List *agents = NIL;
	ListCell *cell;

	/* A judge that is not VOLATILE, or has gone, repeats itself. */
	serm_spi_execute(AGENT_COLUMNS " WHERE a.model = $1 AND a.active ORDER BY a.name COLLATE \"C\"",
	    SPI_OK_SELECT, true, params, 1);
	/* SPI leaves us in a context of its own, which ends with the transaction. */
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		agents = lappend(agents, read_agent(i, model->options.min_reliability));
	foreach (cell, agents) {
		SermAgent *agent = lfirst(cell);
		SermServerOptions server = {.paths = 1, .min_share = SERM_SHARE_MIN_DEFAULT};

		if (agent->server != NULL)
			read_server(agent->server, asking, &server);
		if (agent->paths == 0)
			agent->paths = server.paths;
		if (agent->min_share == 0)
			agent->min_share = server.min_share;
	}
	return agents;
}

bool
serm_agent_suspend(const char *model, const char *agent, const char *reason)
{
	SermParam params[] = {SERM_TEXT(model), SERM_TEXT(agent), SERM_TEXT(reason)};

	serm_spi_execute("UPDATE serm.agent a SET active = false, suspended = pg_catalog.now(), reason = $3"
	                 " WHERE a.model = $1 AND a.name = $2 AND a.active",
	    SPI_OK_UPDATE, false, params, lengthof(params));
	if (SPI_processed == 0)
		return false;
	ereport(WARNING, errmsg("agent \"%s\" of model \"%s\" is suspended: %s", agent, model, reason),
	    errhint("SELECT serm.resume_agent(%s, %s) asks it again.", quote_literal_cstr(model),
	        quote_literal_cstr(agent)));
	return true;
}

/*
 * Looked at before each batch that is settled, so the statement is one that reads no more than the newest
 * canaries, whatever the planner believes of tables that have grown since they were analyzed: from a join of
 * votes and samples it would take all samples of the model.
 */
int
serm_agents_suspend_obedient(const SermModelRow *model)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model->name), SERM_INT4(CANARIES_LOOKED_AT),
	    SERM_INT4(CANARIES_OBEYED_MIN), SERM_FLOAT8(CANARIES_OBEYED_SHARE),
	    SERM_FLOAT8(model->options.min_reliability), SERM_INT4(CANARIES_LOOKED_THROUGH)};
	List *names = NIL, *reasons = NIL;
	ListCell *name, *reason;
	int level = serm_spi_prefer_indexes();
	int suspended = 0;

	serm_spi_execute_kept(&kept,
	    "SELECT a.name, pg_catalog.format('it obeyed %s of %s canaries: instructions that stood in the data',"
	    "  c.obeyed, c.shown) FROM serm.agent a, LATERAL (SELECT pg_catalog.count(*) AS shown,"
	    "   pg_catalog.count(*) FILTER (WHERE n.canary) AS obeyed FROM (SELECT o.canary FROM"
	    "    (SELECT v.sample, v.canary, v.at FROM serm.vote v WHERE v.agent = a.name AND v.canary IS NOT "
	    "NULL"
	    "      ORDER BY v.at DESC LIMIT $6) o"
	    "    WHERE (SELECT s.model FROM serm.sample s WHERE s.id = o.sample) = $1"
	    "    ORDER BY o.at DESC LIMIT $2) n) c"
	    " WHERE a.model = $1 AND a.active AND c.obeyed >= $3 AND c.obeyed >= $4 * c.shown"
	    "  AND coalesce((a.options ->> 'min_reliability')::pg_catalog.float8, $5) > -1"
	    " ORDER BY a.name COLLATE \"C\"",
	    SPI_OK_SELECT, params, lengthof(params));
	AtEOXact_GUC(false, level);
	for (uint64 i = 0; i < SPI_processed; i++) {
		names = lappend(names, serm_spi_string(i, 1));
		reasons = lappend(reasons, serm_spi_string(i, 2));
	}
	forboth(name, names, reason, reasons) suspended +=
	    serm_agent_suspend(model->name, lfirst(name), lfirst(reason)) ? 1 : 0;
	if (suspended > 0)
		serm_budget_drop_tasks(model->name, NULL);
	return suspended;
}

/* What the examples add to each question of an agent. */
static int64
example_bytes(const SermModelRow *model, const SermAgent *agent)
{
	SermPromptRow *prompt;
	int64 bytes = 0;
	int count = 0;
	ListCell *cell;

	if (agent->server == NULL || agent->form != SERM_FORM_ABSOLUTE)
		return 0;
	prompt = serm_prompt_read(model->name, agent->form);
	foreach (cell, prompt->examples) {
		const SermShown *shown = lfirst(cell);

		if (shown->spare || ++count > agent->examples)
			continue;
		bytes += (int64) (Min(strlen(shown->query), SERM_PROMPT_EXAMPLE_QUERY_BYTES_MAX) +
		                  Min(strlen(shown->doc), SERM_PROMPT_EXAMPLE_DOC_BYTES_MAX));
	}
	return bytes;
}

/*
 * serm._agent_terms(model text): the active agents with the limits and prices of
 * their servers. Errors: 42704, 55000 as for serm_model_read.
 */
SERM_FUNCTION(serm_agent_terms);
Datum
serm_agent_terms(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	SermModelRow *row = serm_model_read(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)));
	List *agents;
	ListCell *cell;
	int level;

	InitMaterializedSRF(fcinfo, 0);
	level = serm_spi_begin(false);
	agents = serm_agents_load(row, false);
	foreach (cell, agents) {
		const SermAgent *agent = lfirst(cell);
		SermServerOptions server = {.paths = 1};
		Datum values[15];
		bool nulls[15] = {0};

		if (agent->server != NULL)
			read_server(agent->server, false, &server);
		values[0] = CStringGetTextDatum(row->name);
		values[1] = CStringGetTextDatum(agent->name);
		nulls[2] = agent->server == NULL;
		if (agent->server != NULL)
			values[2] = DirectFunctionCall1(namein, CStringGetDatum(agent->server));
		values[3] = Int32GetDatum(agent->paths);
		values[4] = Int32GetDatum(server.max_tokens);
		values[5] = Float8GetDatum(server.rates.requests_per_minute);
		values[6] = Float8GetDatum(server.rates.tokens_per_minute);
		values[7] = Float8GetDatum(server.price_prompt);
		values[8] = Float8GetDatum(server.price_completion);
		values[9] = Int32GetDatum(agent->docs);
		values[10] = Int64GetDatum(example_bytes(row, agent));
		values[11] = BoolGetDatum(agent->repeats);
		values[12] = Int32GetDatum(row->options.extra_paths);
		values[13] = Float8GetDatum(row->options.gold_rate);
		values[14] = Float4GetDatum((float4) row->options.test_share);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	serm_spi_end(level);
	return (Datum) 0;
}
