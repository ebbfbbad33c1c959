/*
 * What servers may be asked: the rows of serm._server around the state machine of
 * core/agent/limit.h. Only servers with rates, and those that have failed or
 * refused, have one; it is locked while tasks are claimed and while the ends of
 * requests are noted, always in the order of names, so that all workers of the
 * database share one allowance.
 */
#include "pg/annotate/ask.h"

#include "foreign/foreign.h"

static void
read_state(SermServer *server)
{
	bool null;
	SermServerState *state = &server->state;

	state->requests = DatumGetFloat8(serm_spi_value(0, 1, &null));
	state->tokens = DatumGetFloat8(serm_spi_value(0, 2, &null));
	state->filled_ms = DatumGetInt64(serm_spi_value(0, 3, &null));
	state->rests_until_ms = DatumGetInt64(serm_spi_value(0, 4, &null));
	state->failing_since_ms = DatumGetInt64(serm_spi_value(0, 5, &null));
	state->failed_ms = DatumGetInt64(serm_spi_value(0, 6, &null));
	state->failures = DatumGetInt32(serm_spi_value(0, 7, &null));
	state->openings = DatumGetInt32(serm_spi_value(0, 8, &null));
	state->refusals = DatumGetInt32(serm_spi_value(0, 9, &null));
}

static void
lock_state(SermServer *server)
{
	static SermKept kept_insert, kept_lock;
	SermParam params[] = {SERM_TEXT(server->name)};

	serm_spi_execute_kept(&kept_insert,
	    "INSERT INTO serm._server (server) VALUES ($1::pg_catalog.name) ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, params, 1);
	serm_spi_execute_kept(&kept_lock,
	    "SELECT s.requests, s.tokens, s.filled_ms, s.rests_until_ms, s.failing_since_ms,"
	    "  s.failed_ms, s.failures, s.openings, s.refusals FROM serm._server s"
	    " WHERE s.server = $1::pg_catalog.name FOR NO KEY UPDATE",
	    SPI_OK_SELECT, params, 1);
	read_state(server);
	server->limited = true;
	serm_limit_fill(&server->state, &server->rates, serm_now_ms());
}

/* A server that is gone has no limits: its tasks find out. */
static void
read_rates(SermServer *server)
{
	ForeignServer *foreign = GetForeignServerByName(server->name, true);
	SermServerOptions options = {.outage_s = 1};

	if (foreign != NULL)
		serm_server_read(foreign->serverid, &options);
	server->rates = options.rates;
	server->outage_ms = (int64) options.outage_s * 1000;
}

static bool
has_rates(const SermServer *server)
{
	return server->rates.requests_per_minute > 0 || server->rates.tokens_per_minute > 0;
}

List *
serm_limits_lock(void)
{
	static SermKept kept;
	List *servers = NIL;
	ListCell *cell;
	bool null;

	serm_spi_execute_kept(&kept,
	    "SELECT a.server, s.server IS NOT NULL FROM"
	    " (SELECT DISTINCT a.server FROM serm.agent a WHERE a.server IS NOT NULL) AS a"
	    " LEFT JOIN serm._server s ON s.server = a.server ORDER BY a.server",
	    SPI_OK_SELECT, NULL, 0);
	for (uint64 i = 0; i < SPI_processed; i++) {
		SermServer *server = palloc0(sizeof(SermServer));

		server->name = serm_spi_string(i, 1);
		server->limited = DatumGetBool(serm_spi_value(i, 2, &null));
		servers = lappend(servers, server);
	}
	foreach (cell, servers) {
		SermServer *server = lfirst(cell);

		read_rates(server);
		if (server->limited || has_rates(server))
			lock_state(server);
	}
	return servers;
}

void
serm_limits_store(const SermServer *server)
{
	static SermKept kept_delete, kept_update;
	const SermServerState *state = &server->state;
	SermParam params[] = {
	    SERM_TEXT(server->name),
	    SERM_FLOAT8(state->requests),
	    SERM_FLOAT8(state->tokens),
	    SERM_INT8(state->filled_ms),
	    SERM_INT8(state->rests_until_ms),
	    SERM_INT8(state->failing_since_ms),
	    SERM_INT8(state->failed_ms),
	    SERM_INT4(state->failures),
	    SERM_INT4(state->openings),
	    SERM_INT4(state->refusals),
	};

	/* Without rates and with nothing to remember it needs no row, and costs no lock. */
	if (!has_rates(server) && state->failures == 0 && state->refusals == 0)
		serm_spi_execute_kept(&kept_delete, "DELETE FROM serm._server WHERE server = $1::pg_catalog.name",
		    SPI_OK_DELETE, params, 1);
	else
		serm_spi_execute_kept(&kept_update,
		    "UPDATE serm._server SET requests = $2, tokens = $3, filled_ms = $4,"
		    "  rests_until_ms = $5, failing_since_ms = $6, failed_ms = $7, failures = $8,"
		    "  openings = $9, refusals = $10 WHERE server = $1::pg_catalog.name",
		    SPI_OK_UPDATE, params, lengthof(params));
}

/*
 * Requests that are on their way to a server, whoever sent them. A lease is one while the worker of its role
 * lives, and no longer, whatever the time of day is said to be.
 */
static int32
in_flight(const char *server)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(server)};
	int32 count = 0;
	bool null;

	serm_spi_execute_kept(&kept,
	    "SELECT t.requested_by, pg_catalog.count(*)::pg_catalog.int4 FROM serm.task t"
	    " JOIN serm.agent a ON a.model = t.model AND a.name = t.agent"
	    " WHERE a.server = $1::pg_catalog.name AND t.lease_until IS NOT NULL GROUP BY 1",
	    SPI_OK_SELECT, params, 1);
	for (uint64 i = 0; i < SPI_processed; i++)
		if (serm_worker_active(DatumGetObjectId(serm_spi_value(i, 1, &null))))
			count += DatumGetInt32(serm_spi_value(i, 2, &null));
	return count;
}

int
serm_limits_allowance(const SermServer *server)
{
	return serm_limit_allowance(&server->state, &server->rates, serm_now_ms(),
	    server->state.openings > 0 ? in_flight(server->name) : 0);
}

bool
serm_limits_matter(const SermTask *task, SermServerEvent event)
{
	return event != SERM_SERVER_UNTOUCHED && (task->limited || event != SERM_SERVER_ANSWERED);
}

static int
by_server(const ListCell *a, const ListCell *b)
{
	return strcmp(((SermServerReport *) lfirst(a))->server, ((SermServerReport *) lfirst(b))->server);
}

void
serm_limits_note(List *reports)
{
	SermServer server = {.name = NULL};
	ListCell *cell;

	list_sort(reports, by_server);
	foreach (cell, reports) {
		const SermServerReport *report = lfirst(cell);

		if (server.name == NULL || strcmp(server.name, report->server) != 0) {
			if (server.name != NULL)
				serm_limits_store(&server);
			server = (SermServer){.name = pstrdup(report->server)};
			read_rates(&server);
			lock_state(&server);
		}
		serm_limit_note(&server.state, &server.rates, report->event, report->tokens_more,
		    report->retry_after_ms, serm_now_ms(), serm_random_fraction());
	}
	if (server.name != NULL)
		serm_limits_store(&server);
}

static bool
has_state(const char *server)
{
	SermParam params[] = {SERM_TEXT(server)};

	serm_spi_execute("SELECT FROM serm._server s WHERE s.server = $1::pg_catalog.name", SPI_OK_SELECT, false,
	    params, lengthof(params));
	return SPI_processed > 0;
}

SermAdmission
serm_limits_admit(const char *name, int wanted, double tokens)
{
	SermServer server = {.name = pstrdup(name)};
	SermAdmission admission = {.count = wanted};

	read_rates(&server);
	if (!has_rates(&server) && !has_state(name))
		return admission;
	lock_state(&server);
	admission.limited = true;
	admission.lost = serm_limit_lost(&server.state, server.outage_ms);
	/* The next one who asks it begins a new outage. */
	if (admission.lost)
		serm_limit_forgive(&server.state);
	admission.count = Min(wanted, serm_limits_allowance(&server));
	if (admission.count > 0)
		serm_limit_take(&server.state, &server.rates, admission.count, tokens * admission.count);
	else
		admission.wait_ms = serm_limit_wait(&server.state, &server.rates, serm_now_ms());
	serm_limits_store(&server);
	return admission;
}

/* serm._monotonic_ms() returns bigint: the clock of serm._server. */
SERM_FUNCTION(serm_monotonic_ms);
Datum
serm_monotonic_ms(PG_FUNCTION_ARGS pg_attribute_unused())
{
	PG_RETURN_INT64(serm_now_ms());
}
