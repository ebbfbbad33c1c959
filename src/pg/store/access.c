/*
 * serm.grant_access: three levels of rights instead of forty GRANTs.
 *
 *   score    score pairs: read the models' weights, call the scoring functions
 *   analyse  + read everything, mine, evaluate, add judgments, settle disputes
 *   operate  + train, annotate, evolve, promote, roll back, create and drop models
 *
 * The extension creates no roles; each level contains the one before.
 */
#include "pg/serm.h"

#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"

typedef struct Level {
	const char *name;
	const char *tables;    /* GRANT ... ON this; NULL: nothing */
	const char *functions; /* condition on pg_proc.proname */
} Level;

static const Level levels[] = {
    {"score", "SELECT ON serm.model, serm.version, serm.tensor, serm.versions",
        "proname IN ('score', 'score_version', 'score_batch', 'predict', 'rank', 'explain', 'encode', "
        "'split_of')"},
    {"analyse", "SELECT ON ALL TABLES IN SCHEMA serm",
        "proname LIKE 'mine%' OR proname LIKE 'drift%' OR proname LIKE 'click\\_%' OR proname LIKE "
        "'%\\_shift'"
        " OR proname IN ('evaluate', 'check_version', 'settle', 'mining_overlap', 'check_log',"
        " 'evaluate_click_model', '_model_name', '_isotonic', '_monotonic_ms')"},
    {"operate", "INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA serm",
        "proname NOT LIKE '\\_%' OR proname IN ('_agent_terms', '_compared')"},
};

static int
find_level(const char *name)
{
	for (int i = 0; i < (int) lengthof(levels); i++)
		if (strcmp(levels[i].name, name) == 0)
			return i;
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown access level \"%s\"", name),
	    errhint("The levels are score, analyse and operate; each contains the one before."));
}

static void
require_owner(void)
{
	if (!serm_owns_schema(get_namespace_oid("serm", false), GetUserId()))
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		    errmsg("must be owner of schema serm to grant access to it"));
}

static void
run_utility(const char *sql)
{
	serm_spi_execute(sql, SPI_OK_UTILITY, false, NULL, 0);
}

/* GRANT EXECUTE on every routine of the extension that `condition` names. */
static void
grant_functions(const char *condition, const char *role)
{
	char **signatures;
	uint64 count;

	serm_spi_execute(psprintf("SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p"
	                          " WHERE p.pronamespace = 'serm'::pg_catalog.regnamespace AND (%s)",
	                     condition),
	    SPI_OK_SELECT, true, NULL, 0);
	count = SPI_processed;
	signatures = palloc(mul_size(count + 1, sizeof(char *)));
	for (uint64 i = 0; i < count; i++)
		signatures[i] = serm_spi_string(i, 1);
	for (uint64 i = 0; i < count; i++)
		run_utility(psprintf("GRANT EXECUTE ON ROUTINE %s TO %s", signatures[i], role));
}

/*
 * serm.grant_access(role regrole, level text)
 *
 * Errors: 22023 for an unknown level, 42501 unless the caller owns the schema.
 */
SERM_FUNCTION(serm_grant_access);
Datum
serm_grant_access(PG_FUNCTION_ARGS)
{
	const char *role = quote_identifier(GetUserNameFromId(PG_GETARG_OID(0), false));
	int level = find_level(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	int spi;

	require_owner();
	spi = serm_spi_begin(false);
	run_utility(psprintf("GRANT USAGE ON SCHEMA serm TO %s", role));
	for (int i = 0; i <= level; i++) {
		run_utility(psprintf("GRANT %s TO %s", levels[i].tables, role));
		grant_functions(levels[i].functions, role);
	}
	if (level >= 1) {
		run_utility(psprintf("GRANT INSERT ON serm.judgment TO %s", role));
		run_utility(psprintf("GRANT UPDATE (state, grade) ON serm.sample TO %s", role));
		run_utility(psprintf("GRANT USAGE ON ALL SEQUENCES IN SCHEMA serm TO %s", role));
	}
	serm_spi_end(spi);
	PG_RETURN_VOID();
}
