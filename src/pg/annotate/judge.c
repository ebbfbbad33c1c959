/*
 * Functions of users: judges f(query text, doc text) and evidence. They are named
 * by one role and may be called by another, so a function that somebody else
 * owns runs as its owner and in a restricted operation, as for expressions of
 * indexes; when the caller has no rights of the owner it does not run at all.
 */
#include "pg/annotate/annotate.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#define JUDGE_HINT                                                                                           \
	"A judge is a function f(query text, doc text) that returns an integer, or one row with the columns "    \
	"grade integer and rationale text."
#define EVIDENCE_HINT "Evidence comes from a function f(query text, doc text) that returns text."

pg_noreturn static void
bad_signature(int code, Oid function, const char *problem, const char *hint)
{
	ereport(ERROR, errcode(code), errmsg("function %s %s", format_procedure(function), problem),
	    errhint("%s", hint));
}

/* The function's qualified name, after a look at its kind and arguments. */
static char *
check_arguments(Oid function, const char *hint)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	char *name;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
		    errmsg("function with OID %u does not exist", function), errhint("%s", hint));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	/*
	 * Whoever names the function of a model and writes its samples need not be trusted by whoever calls it:
	 * what an extension lets its callers do with two texts, such as dblink_exec(), is not theirs to lend.
	 */
	if (function < FirstNormalObjectId || OidIsValid(getExtensionOfObject(ProcedureRelationId, function)))
		ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
		    errmsg("function %s belongs to the system or to an extension", format_procedure(function)),
		    errhint("Call it from a function of your own. %s", hint));
	if (form->prokind != PROKIND_FUNCTION)
		bad_signature(ERRCODE_WRONG_OBJECT_TYPE, function, "is not a plain function", hint);
	if (form->pronargs != 2 || form->proargtypes.values[0] != TEXTOID ||
	    form->proargtypes.values[1] != TEXTOID || OidIsValid(form->provariadic))
		bad_signature(ERRCODE_UNDEFINED_FUNCTION, function, "does not take (query text, doc text)", hint);
	name = quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname));
	ReleaseSysCache(tuple);
	return name;
}

static bool
is_integer(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

/* Where a row's column of that name is; 0 without one. */
static int
find_column(TupleDesc row, const char *name)
{
	for (int i = 0; i < row->natts; i++)
		if (!TupleDescAttr(row, i)->attisdropped &&
		    strcmp(NameStr(TupleDescAttr(row, i)->attname), name) == 0)
			return i + 1;
	return 0;
}

Oid
serm_judge_find(const char *model, const char *agent, const char *judge)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum function;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = CStringGetTextDatum(judge);
	fcinfo->args[0].isnull = false;
	function = to_regprocedure(fcinfo);
	if (fcinfo->isnull)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
		    errmsg(
		        "function %s of agent \"%s\" of model \"%s\" does not exist any more", judge, agent, model),
		    errhint("Create it again, or take the agent away: SELECT serm.remove_agent(%s, %s).",
		        quote_literal_cstr(model), quote_literal_cstr(agent)));
	return DatumGetObjectId(function);
}

char *
serm_judge_statement(Oid function)
{
	char *name = check_arguments(function, JUDGE_HINT);
	TupleDesc row;
	Oid type;
	int grade, rationale;

	switch (get_func_result_type(function, &type, &row)) {
		case TYPEFUNC_SCALAR:
			if (!is_integer(type))
				bad_signature(
				    ERRCODE_DATATYPE_MISMATCH, function, "does not return an integer or a row", JUDGE_HINT);
			return psprintf(
			    "SELECT j.grade::pg_catalog.int8, NULL::pg_catalog.text FROM %s($1, $2) AS j(grade)", name);
		case TYPEFUNC_RECORD:
			return psprintf("SELECT j.grade::pg_catalog.int8, j.rationale FROM %s($1, $2)"
			                " AS j(grade pg_catalog.int4, rationale pg_catalog.text)",
			    name);
		case TYPEFUNC_COMPOSITE:
		case TYPEFUNC_COMPOSITE_DOMAIN:
			break;
		default:
			bad_signature(
			    ERRCODE_DATATYPE_MISMATCH, function, "does not return an integer or a row", JUDGE_HINT);
	}
	grade = find_column(row, "grade");
	rationale = find_column(row, "rationale");
	if (grade == 0 || !is_integer(TupleDescAttr(row, grade - 1)->atttypid))
		bad_signature(
		    ERRCODE_DATATYPE_MISMATCH, function, "returns rows without a column grade integer", JUDGE_HINT);
	if (rationale != 0 && TupleDescAttr(row, rationale - 1)->atttypid != TEXTOID)
		bad_signature(
		    ERRCODE_DATATYPE_MISMATCH, function, "returns a rationale that is not text", JUDGE_HINT);
	return psprintf("SELECT j.grade::pg_catalog.int8, %s FROM %s($1, $2) AS j",
	    rationale != 0 ? "j.rationale" : "NULL::pg_catalog.text", name);
}

char *
serm_evidence_statement(Oid function)
{
	char *name = check_arguments(function, EVIDENCE_HINT);

	if (get_func_rettype(function) != TEXTOID || get_func_retset(function))
		bad_signature(ERRCODE_DATATYPE_MISMATCH, function, "does not return text", EVIDENCE_HINT);
	return psprintf("SELECT NULL::pg_catalog.int8, %s($1, $2)", name);
}

Oid
serm_evidence_find(const char *name)
{
	static const Oid arguments[] = {TEXTOID, TEXTOID};

	if (strchr(name, '(') != NULL)
		return DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(name)));
	return LookupFuncName(serm_qualified_name(name), 2, arguments, false);
}

/* The role that a user's function runs as when the current user calls it. */
static Oid
role_to_run_as(Oid function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid caller = GetUserId();
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_FUNCTION),
		    errmsg("function with OID %u does not exist", function));
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	if (owner == caller || superuser_arg(owner))
		return caller;
	if (!has_privs_of_role(caller, owner))
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		    errmsg("function %s belongs to a role whose rights %s does not have", format_procedure(function),
		        GetUserNameFromId(caller, false)),
		    errhint("GRANT %s TO %s, or give the function another owner.",
		        quote_identifier(GetUserNameFromId(owner, false)),
		        quote_identifier(GetUserNameFromId(caller, false))));
	return owner;
}

void
serm_user_function_check(Oid function)
{
	(void) role_to_run_as(function);
}

static void
run_statement(
    const char *statement, const char *query, const char *doc, MemoryContext result, SermUserAnswer *answer)
{
	SermParam params[] = {SERM_TEXT(query), SERM_TEXT(doc)};
	bool null;

	serm_spi_execute(statement, SPI_OK_SELECT, false, params, 2);
	if (SPI_processed != 1)
		ereport(ERROR, errcode(ERRCODE_CARDINALITY_VIOLATION),
		    errmsg("the function returned %s row", SPI_processed == 0 ? "no" : "more than one"));
	answer->grade = DatumGetInt64(serm_spi_value(0, 1, &answer->null));
	(void) serm_spi_value(0, 2, &null);
	if (!null) {
		MemoryContext previous = MemoryContextSwitchTo(result);

		answer->text = serm_spi_string(0, 2);
		MemoryContextSwitchTo(previous);
	}
	SPI_freetuptable(SPI_tuptable);
}

typedef struct UserCall {
	Oid function;
	const char *statement;
	const char *search_path;
	const char *query;
	const char *doc;
	MemoryContext result;
	SermUserAnswer *answer;
} UserCall;

/*
 * The limit of the call that runs now. The server's statement_timeout is no help: workers have none, and that
 * of a session spans the whole call. All that ends a statement comes as the same kind of cancel, so who sent
 * it is noted when it is raised: a function may catch the clock, and what cancels it next may be somebody
 * else.
 */
static struct {
	TimeoutId timeout;
	int limit_ms;
	bool statement;                /* statement_timeout was running when the call began */
	bool raised;                   /* the cancel that was raised last came from the clock */
	volatile sig_atomic_t pending; /* the clock wants a cancel that is not raised yet */
	volatile sig_atomic_t others;  /* somebody wanted it before */
} watch;

/* Once more each time: the function may have caught the last one. */
static void
on_timeout(void)
{
	if (!watch.pending)
		watch.others = QueryCancelPending;
	watch.pending = true;
	InterruptPending = true;
	QueryCancelPending = true;
	enable_timeout_after(watch.timeout, watch.limit_ms);
}

/* Has the statement_timeout passed meanwhile? It does so once: caught or not, the statement is to end. */
static bool
statement_is_over(void)
{
	return watch.statement && !get_timeout_active(STATEMENT_TIMEOUT);
}

/* A callback of every message that is raised under it. */
static void
note_cancel(void *argument pg_attribute_unused())
{
	if (geterrcode() != ERRCODE_QUERY_CANCELED)
		return;
	watch.raised = watch.pending && !watch.others;
	watch.pending = watch.others = false;
}

static void
start_clock(int limit_ms)
{
	static bool registered = false;

	if (!registered)
		watch.timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
	registered = true;
	watch.limit_ms = limit_ms;
	watch.statement = get_timeout_active(STATEMENT_TIMEOUT);
	watch.raised = false;
	watch.pending = watch.others = false;
	if (limit_ms > 0)
		enable_timeout_after(watch.timeout, limit_ms);
}

/* A cancel of its own that came too late to end the function is none. */
static void
stop_clock(void)
{
	disable_timeout(watch.timeout, false);
	if (watch.pending && !watch.others && !statement_is_over())
		QueryCancelPending = false;
	watch.pending = false;
}

/* The function has caught the end of its statement. */
static void
cancel_again(void)
{
	if (statement_is_over())
		InterruptPending = QueryCancelPending = true;
}

static void
run_in_time(const UserCall *call)
{
	start_clock(serm_function_timeout_ms);
	PG_TRY();
	{
		ErrorContextCallback callback = {.previous = error_context_stack, .callback = note_cancel};

		error_context_stack = &callback;
		run_statement(call->statement, call->query, call->doc, call->result, call->answer);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		stop_clock();
		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			cancel_again();
		else if (watch.raised && !statement_is_over()) {
			MemoryContextSwitchTo(call->result);
			FlushErrorState();
			ereport(ERROR, errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			    errmsg("it ran longer than serm.function_timeout (%d ms)", watch.limit_ms));
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	stop_clock();
	cancel_again();
}

/* The end of its subtransaction undoes the change of user and search_path, should the function fail. */
static void
call_step(void *argument)
{
	UserCall *call = argument;
	Oid runner = role_to_run_as(call->function);
	Oid caller;
	int security, level;

	GetUserIdAndSecContext(&caller, &security);
	level = NewGUCNestLevel();
	if (runner != caller)
		SetUserIdAndSecContext(
		    runner, security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option(
	    "search_path", call->search_path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	run_in_time(call);
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(caller, security);
}

void
serm_user_call(Oid function, const char *statement, const char *search_path, const char *query,
    const char *doc, SermUserAnswer *answer)
{
	UserCall call = {function, statement, search_path, query, doc, CurrentMemoryContext, answer};
	ErrorData *error;

	*answer = (SermUserAnswer){.null = true};
	error = serm_attempt(call_step, &call);
	if (error != NULL)
		*answer = (SermUserAnswer){
		    .null = true, .error = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode), error->message)};
}
