/*
 * serm.evolve: one round of mining, annotating, training and gating (SERM, arXiv
 * 2601.09515, section on iterative evolution), as a state machine that any
 * session can take up where another one left it. At most one session works on
 * the rounds of a model: it holds an advisory lock of its own kind.
 */
#include "pg/serm.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pg/annotate/annotate.h"
#include "pg/evolve/round.h"
#include "storage/lock.h"

/* Users' advisory locks have 1 or 2 here: ours never collide with theirs. */
#define LOCK_CLASS 83

static bool
lock_rounds(const SermModelRow *row, LOCKTAG *tag)
{
	uint64 key =
	    DatumGetUInt64(hash_any_extended((const unsigned char *) row->name, (int) strlen(row->name), 0));

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key, LOCK_CLASS);
	return LockAcquire(tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
report_phase(SermRound *round, uint32 step, uint32 steps)
{
	SermTrainProgress report = {.phase = round->phase, .step = step, .steps = steps};

	serm_progress_report(&round->progress, &round->level, &report);
}

/* --- mining */

static Jsonb *
mining_counts(const SermRound *round, int64 *mined)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number)};
	StringInfo json = serm_json_begin();
	bool null;

	serm_spi_execute("SELECT pg_catalog.count(*) FILTER (WHERE s.agents <> '" SERM_GOLD_MARK "'),"
	                 " pg_catalog.count(*) FILTER (WHERE s.agents = '" SERM_GOLD_MARK "')"
	                 " FROM serm.sample s WHERE s.model = $1 AND s.round = $2",
	    SPI_OK_SELECT, false, params, lengthof(params));
	*mined = DatumGetInt64(serm_spi_value(0, 1, &null));
	serm_json_number(json, "mined", (double) *mined);
	serm_json_number(json, "gold", (double) DatumGetInt64(serm_spi_value(0, 2, &null)));
	serm_spi_execute("SELECT coalesce(pg_catalog.jsonb_object_agg(c.agent, c.n), '{}') FROM"
	                 " (SELECT a AS agent, pg_catalog.count(*) AS n FROM serm.sample s,"
	                 " pg_catalog.unnest(s.agents) a WHERE s.model = $1 AND s.round = $2"
	                 " AND s.agents <> '" SERM_GOLD_MARK "' GROUP BY a) c",
	    SPI_OK_SELECT, false, params, lengthof(params));
	serm_json_jsonb(json, "mined_by", DatumGetJsonbP(serm_spi_value(0, 1, &null)));
	return serm_json_end(json);
}

/*
 * Pairs that people graded, for the agents to grade too: as many as are missing, of train queries only, the
 * newest first, and chosen by a hash, so that the same judgments give the same pairs. Where confusions are
 * all that is wanted of them every grade gets its share, because the errors on a rare grade are otherwise
 * never seen; a rule that weighs agents needs the grades as they are.
 */
static void
add_gold(SermRound *round)
{
	bool weighs = serm_round_weighs(round);
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number),
	    SERM_INT4(round->settings.gold), SERM_FLOAT4((float4) round->row->options.test_share),
	    SERM_BOOL(!weighs)};

	if (strcmp(round->row->options.labels, "agreed") == 0 && !weighs)
		return;
	serm_spi_execute(
	    psprintf(
	        "INSERT INTO serm.sample (model, round, query, doc_id, doc, agents, signals, reason)"
	        " SELECT $1, $2, j.query, j.doc_id, j.doc, '" SERM_GOLD_MARK "',"
	        " CASE WHEN $5 THEN '{\"" SERM_GOLD_BY_GRADE "\": true}' ELSE '{}' END::jsonb,"
	        " 'graded by people: shows how the agents err' %s AND j.source IN ('human', 'import')"
	        " AND j.doc_id IS NOT NULL AND serm.split_of(j.query, $4) = 'train'"
	        " AND NOT EXISTS (SELECT FROM serm.sample s WHERE s.model = $1 AND s.query = j.query"
	        " AND s.doc_id = j.doc_id)"
	        " ORDER BY CASE WHEN $5 THEN pg_catalog.row_number() OVER (PARTITION BY pg_catalog.round(j.grade)"
	        " ORDER BY j.at DESC, pg_catalog.md5(j.query || ' ' || j.doc_id) COLLATE \"C\", j.id) END,"
	        " CASE WHEN $5 THEN j.grade END, j.at DESC,"
	        " pg_catalog.md5(j.query || ' ' || j.doc_id) COLLATE \"C\", j.id"
	        " LIMIT greatest(0, $3 - (SELECT pg_catalog.count(*) FROM serm.sample s WHERE s.model = $1"
	        " AND s.agents = '" SERM_GOLD_MARK "' AND s.state <> 'failed'))"
	        " ON CONFLICT DO NOTHING",
	        serm_judgment_query(round->row)),
	    SPI_OK_INSERT, false, params, lengthof(params));
}

static void
mine(SermRound *round)
{
	const SermRoundSettings *settings = &round->settings;
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number),
	    settings->since != NULL ? SERM_TEXT(settings->since) : SERM_NULL(TEXTOID),
	    settings->until != NULL ? SERM_TEXT(settings->until) : SERM_NULL(TEXTOID),
	    SERM_INT4(settings->budget), SERM_DATUM(JSONBOID, JsonbPGetDatum(settings->mine))};
	int64 mined;
	Jsonb *counts;

	serm_spi_execute("INSERT INTO serm.sample"
	                 " (model, round, query, doc_id, doc, agents, signals, priority, reason)"
	                 " SELECT $1, $2, m.query, m.doc_id, m.doc, m.agents, m.signals, m.priority, m.reason"
	                 " FROM serm.mine($1, $3::timestamptz, $4::timestamptz, $5, $6) m"
	                 " ON CONFLICT DO NOTHING",
	    SPI_OK_INSERT, false, params, lengthof(params));
	if (SPI_processed > 0)
		add_gold(round);
	counts = mining_counts(round, &mined);
	if (mined == 0)
		serm_round_finish(round, "rejected",
		    "nothing was mined: no pair of the search log is new to the model", counts, NULL);
	else
		serm_round_advance(round, "annotating", counts, NULL);
	serm_spi_commit(&round->level);
	ereport(NOTICE, errmsg("round %d of model \"%s\": " INT64_FORMAT " pairs mined", round->number,
	                    round->row->name, mined));
}

/* --- annotating */

static Jsonb *
label_counts(const SermRoundLabels *labels)
{
	StringInfo json = serm_json_begin();

	serm_json_number(json, "voted", (double) labels->voted);
	serm_json_number(json, "agreed", (double) labels->agreed);
	serm_json_number(json, "disputed", (double) labels->disputed);
	serm_json_number(json, "settled", (double) labels->settled);
	serm_json_number(json, "failed", (double) labels->failed);
	serm_json_number(json, "judgments", (double) labels->judgments);
	serm_json_number(json, "suspended", (double) labels->suspended);
	serm_json_number(json, "extra_votes", (double) labels->extra_votes);
	return serm_json_end(json);
}

/* Answers are owed by another role's worker: the round stays in this phase. */
pg_noreturn static void
not_annotated(const SermRound *round, const SermRoundLabels *labels)
{
	ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
	    errmsg("round %d of model \"%s\" waits for the answers of agents to " INT64_FORMAT " pairs",
	        round->number, round->row->name, labels->open),
	    errhint("Look at serm.annotation_progress and serm.stat_agent, then CALL serm.evolve('%s') again:"
	            " it goes on where it stopped.",
	        round->row->name));
}

static void
annotate(SermRound *round)
{
	SermRoundLabels labels;
	Jsonb *agreement;

	serm_spi_end(round->level);
	serm_annotate_run(round->row->name, true, NULL);
	MemoryContextSwitchTo(round->context);
	round->level = serm_spi_begin(true);
	MemoryContextSwitchTo(round->context);
	serm_round_count_labels(round, &labels);
	if (labels.open > 0)
		not_annotated(round, &labels);
	agreement = serm_round_settle_labels(round);
	serm_round_count_labels(round, &labels);
	if (labels.judgments == 0)
		serm_round_finish(round, "rejected",
		    psprintf("no new judgment: of " INT64_FORMAT " pairs " INT64_FORMAT
		             " are disputed and " INT64_FORMAT " could not be graded",
		        labels.disputed + labels.failed, labels.disputed, labels.failed),
		    label_counts(&labels), agreement);
	else
		serm_round_advance(round, "training", label_counts(&labels), agreement);
	serm_spi_commit(&round->level);
	ereport(NOTICE, errmsg("round %d of model \"%s\": " INT64_FORMAT " agreed, " INT64_FORMAT
	                       " disputed, " INT64_FORMAT " failed",
	                    round->number, round->row->name, labels.agreed, labels.disputed, labels.failed));
}

/* --- training */

static Jsonb *
training_counts(const SermTraining *training)
{
	StringInfo json = serm_json_begin();

	serm_json_jsonb(json, "training", training->counts);
	return serm_json_end(json);
}

static void
train(SermRound *round)
{
	SermTraining *training = palloc0(sizeof(SermTraining));
	int parent;

	serm_training_run(
	    training, round->context, round->row, &round->settings.train, &round->progress, &round->level);
	if (training->status != SERM_OK && training->status != SERM_ERR_MEMORY) {
		/* The same data would fail again: the round ends here, and the next one starts anew. */
		serm_round_finish(round, "failed", training->error.message, NULL, NULL);
		serm_progress_end();
		serm_spi_commit(&round->level);
	}
	serm_training_check(training);
	parent = serm_model_read(round->row->name)->active;
	round->candidate = serm_training_store(training, parent);
	serm_round_advance(round, "gating", training_counts(training), NULL);
	serm_spi_commit(&round->level);
	ereport(NOTICE, errmsg("round %d of model \"%s\": version %d trained", round->number, round->row->name,
	                    round->candidate));
}

/* --- the whole */

static bool
is_phase(const SermRound *round, const char *phase)
{
	return strcmp(round->phase, phase) == 0;
}

/* One phase in memory of its own; false when the round is over. */
static bool
run_phase(SermRound *round)
{
	MemoryContext outside = MemoryContextSwitchTo(round->context);
	bool more = true;

	serm_host_init(&round->host, round->context, (Size) serm_train_memory_mb * 1024 * 1024);
	report_phase(round, 0, 0);
	if (is_phase(round, "mining"))
		mine(round);
	else if (is_phase(round, "annotating"))
		annotate(round);
	else if (is_phase(round, "training"))
		train(round);
	else if (is_phase(round, "gating"))
		serm_round_gate(round);
	else
		more = false;
	MemoryContextSwitchTo(outside);
	MemoryContextReset(round->context);
	return more;
}

/* What a new round needs; each is an error of its own with the way out. */
static void
check_ready(const SermModelRow *row)
{
	SermParam params[] = {SERM_TEXT(row->name)};

	if (row->active == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no active version to evolve from", row->name),
		    errhint("Make a first one with CALL serm.pretrain('%s'), or with CALL serm.train.", row->name));
	if (!OidIsValid(row->log))
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no search log to mine", row->name),
		    errhint("Create the model with one: SELECT serm.create_model('name', log => 'my_log',"
		            " documents => 'my_documents')."));
	if (row->options.test_share == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" keeps no queries to test a candidate with: its option test_share is 0",
		        row->name),
		    errhint("Create a model with a test_share above 0 and copy the judgments, or CALL serm.train with"
		            " the option promote."));
	serm_spi_execute("SELECT 1 FROM serm.agent a WHERE a.model = $1 AND a.active LIMIT 1", SPI_OK_SELECT,
	    false, params, lengthof(params));
	if (SPI_processed == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no agents to grade what is mined", row->name),
		    errhint("Add a server or a function: SELECT serm.add_agent('%s', ...).", row->name));
}

static void
say_result(const SermRound *round)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number)};

	serm_spi_execute("SELECT r.reason FROM serm.round r WHERE r.model = $1 AND r.round = $2", SPI_OK_SELECT,
	    true, params, lengthof(params));
	if (SPI_processed == 1)
		ereport(NOTICE, errmsg("round %d of model \"%s\" is %s: %s", round->number, round->row->name,
		                    round->phase, serm_spi_string(0, 1)));
}

static void
run_round(SermRound *round, const Jsonb *given)
{
	if (serm_round_resume(round, given)) {
		if (round->settings.restart)
			serm_round_finish(round, "failed", "given up: serm.evolve was called with restart", NULL, NULL);
		else
			ereport(NOTICE, errmsg("round %d of model \"%s\" goes on with %s", round->number,
			                    round->row->name, round->phase));
	}
	if (round->number == 0 || is_phase(round, "failed")) {
		check_ready(round->row);
		serm_round_start(round, given);
	}
	serm_spi_commit(&round->level);
	while (run_phase(round))
		;
	serm_progress_end();
	say_result(round);
	serm_spi_commit(&round->level);
}

SERM_FUNCTION(serm_evolve);

/* CALL serm.evolve(model text, options jsonb). */
Datum
serm_evolve(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb *given = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P_COPY(1);
	MemoryContext context, previous;
	SermRoundSettings checked;
	SermRound *round;
	LOCKTAG tag;

	serm_require_nonatomic(fcinfo, "serm.evolve");
	context = AllocSetContextCreate(PortalContext, "serm round", ALLOCSET_DEFAULT_SIZES);
	previous = MemoryContextSwitchTo(context);
	if (given == NULL)
		given = serm_json_end(serm_json_begin());
	/* A bad option is told before anything is locked or changed. */
	round = palloc0(sizeof(SermRound));
	round->row = serm_model_read(model);
	serm_round_settings_read(given, round->row->kind, &checked);
	round->context = AllocSetContextCreate(context, "serm round phase", ALLOCSET_DEFAULT_SIZES);
	round->level = serm_spi_begin(true);
	MemoryContextSwitchTo(context);
	round->row = serm_model_read(model);
	if (!lock_rounds(round->row, &tag))
		ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE),
		    errmsg("another session runs a round of model \"%s\"", round->row->name),
		    errhint("SELECT * FROM serm.progress shows it."));
	PG_TRY();
	{
		/* Again under the lock, with a snapshot taken under it: a round that just ended may have promoted. */
		serm_spi_commit(&round->level);
		round->row = serm_model_read(round->row->name);
		serm_progress_begin(&round->progress, round->row->name);
		run_round(round, given);
	}
	PG_FINALLY();
	{
		/* A lock of the session: the end of the transaction does not release it. */
		LockRelease(&tag, ExclusiveLock, true);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(previous);
	serm_spi_end(round->level);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}
