/*
 * serm.schedule: pg_cron is the clock, serm.evolve does the work. pg_cron is
 * used through its SQL functions where it is installed; nothing depends on it.
 */
#include "pg/serm.h"

#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pg/evolve/round.h"

static void
require_cron(void)
{
	if (OidIsValid(get_extension_oid("pg_cron", true)))
		return;
	ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
	    errmsg("schedules need the extension pg_cron in this database"),
	    errhint("Install the package postgresql-%d-cron, set shared_preload_libraries = 'serm,pg_cron' and"
	            " cron.database_name = '%s', restart the server, and run CREATE EXTENSION pg_cron; or let any"
	            " other scheduler run CALL serm.evolve('model').",
	        PG_VERSION_NUM / 10000, get_database_name(MyDatabaseId)));
}

static char *
job_name(const char *model)
{
	return psprintf("serm:%s", model);
}

SERM_FUNCTION(serm_schedule);

/* serm.schedule(model text, cron text, options jsonb). */
Datum
serm_schedule(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *cron = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	Jsonb *options = PG_ARGISNULL(2) ? serm_json_end(serm_json_begin()) : PG_GETARG_JSONB_P(2);
	SermRoundSettings checked;
	SermModelRow *row;
	StringInfoData command;
	int64 job;
	int level;
	bool null;

	if (cron == NULL)
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a schedule needs a cron expression"),
		    errhint("For example '0 3 * * 0': every Sunday at 3."));
	require_cron();
	row = serm_model_read(model);
	model = row->name;
	serm_round_settings_read(options, row->kind, &checked);
	initStringInfo(&command);
	appendStringInfo(&command, "CALL serm.evolve(%s", quote_literal_cstr(model));
	if (JB_ROOT_COUNT(options) > 0)
		appendStringInfo(
		    &command, ", %s", quote_literal_cstr(JsonbToCString(NULL, &options->root, VARSIZE(options))));
	appendStringInfoChar(&command, ')');
	{
		SermParam params[] = {SERM_TEXT(job_name(model)), SERM_TEXT(cron), SERM_TEXT(command.data)};

		level = serm_spi_begin(false);
		serm_spi_execute("SELECT cron.schedule($1, $2, $3)", SPI_OK_SELECT, false, params, lengthof(params));
		job = DatumGetInt64(serm_spi_value(0, 1, &null));
		serm_spi_end(level);
	}
	PG_RETURN_INT64(job);
}

SERM_FUNCTION(serm_unschedule);

/* serm.unschedule(model text); a model that was dropped may still have a schedule. */
Datum
serm_unschedule(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SermParam params[] = {SERM_TEXT(job_name(model))};
	bool found;
	int level;

	require_cron();
	level = serm_spi_begin(false);
	serm_spi_execute("SELECT cron.unschedule(j.jobid) FROM cron.job j"
	                 " WHERE j.jobname = $1 AND j.username = current_user",
	    SPI_OK_SELECT, false, params, lengthof(params));
	found = SPI_processed > 0;
	serm_spi_end(level);
	PG_RETURN_BOOL(found);
}
