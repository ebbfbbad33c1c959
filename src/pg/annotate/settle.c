/*
 * The end of a sample: its votes become a judgment or a dispute, or a person
 * settles it. A sample changes state and gains its judgment in one transaction,
 * under a row lock: once, whoever counts.
 */
#include "pg/annotate/annotate.h"

#include "lib/stringinfo.h"

#define SETTLE_MEMORY_BYTES ((Size) 64 * 1024 * 1024)

typedef struct Sample {
	int64 id;
	char *query;
	char *doc_id;
	char *doc;
	int round;
	List *agents; /* of AgentVotes, by name */
} Sample;

typedef struct AgentVotes {
	char *name;
	double min_share;
	SermPath paths[SERM_PATHS_MAX];
	int count;
} AgentVotes;

static SermText
text_of(const char *string)
{
	return (SermText){string != NULL ? string : "", string != NULL ? strlen(string) : 0};
}

static List *
load_samples(const char *model, int limit)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model), SERM_INT4(limit)};
	List *samples = NIL;
	bool null;

	serm_spi_execute_kept(&kept,
	    "SELECT s.id, s.query, s.doc_id, s.doc, s.round FROM serm.sample s"
	    " WHERE s.model = $1 AND s.state = 'annotating'"
	    "  AND NOT EXISTS (SELECT FROM serm.task t WHERE t.sample = s.id)"
	    " ORDER BY s.id LIMIT $2 FOR UPDATE OF s SKIP LOCKED",
	    SPI_OK_SELECT, params, 2);
	for (uint64 i = 0; i < SPI_processed; i++) {
		Sample *sample = palloc0(sizeof(Sample));

		sample->id = DatumGetInt64(serm_spi_value(i, 1, &null));
		sample->query = serm_spi_string(i, 2);
		sample->doc_id = serm_spi_string(i, 3);
		sample->doc = serm_spi_string(i, 4);
		sample->round = DatumGetInt32(serm_spi_value(i, 5, &null));
		samples = lappend(samples, sample);
	}
	return samples;
}

static const SermAgent *
find_agent(const List *agents, const char *name)
{
	ListCell *cell;

	foreach (cell, agents)
		if (strcmp(((SermAgent *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	return NULL;
}

/* Votes come ordered by sample, agent and path. Those of agents that are gone or resting do not count. */
static void
add_vote(Sample *sample, const SermAgent *agent, uint64 i)
{
	AgentVotes *votes = sample->agents == NIL ? NULL : llast(sample->agents);
	SermPath *path;
	bool null;
	int grade;

	if (votes == NULL || strcmp(votes->name, agent->name) != 0) {
		votes = palloc0(sizeof(AgentVotes));
		votes->name = agent->name;
		votes->min_share = agent->min_share;
		sample->agents = lappend(sample->agents, votes);
	}
	if (votes->count == SERM_PATHS_MAX)
		return;
	path = &votes->paths[votes->count++];
	grade = DatumGetInt16(serm_spi_value(i, 3, &null));
	path->grade = null ? SERM_VOTE_NONE : grade;
	path->rationale = text_of(serm_spi_string(i, 4));
}

static void
load_votes(List *samples, const List *agents)
{
	Datum *ids = palloc(mul_size(list_length(samples), sizeof(Datum)));
	SermParam params[1];
	ListCell *cell;
	int64 id;
	bool null;

	foreach (cell, samples)
		ids[foreach_current_index(cell)] = Int64GetDatum(((Sample *) lfirst(cell))->id);
	params[0] = SERM_DATUM(INT8ARRAYOID,
	    PointerGetDatum(construct_array(ids, list_length(samples), INT8OID, 8, true, TYPALIGN_DOUBLE)));
	serm_spi_execute(
	    "SELECT v.sample, v.agent, v.grade, v.rationale FROM serm.vote v WHERE v.sample = ANY ($1)"
	    " ORDER BY v.sample, v.agent COLLATE \"C\", v.path",
	    SPI_OK_SELECT, false, params, 1);
	cell = list_head(samples);
	for (uint64 i = 0; i < SPI_processed; i++) {
		const SermAgent *agent = find_agent(agents, serm_spi_string(i, 2));

		id = DatumGetInt64(serm_spi_value(i, 1, &null));
		while (((Sample *) lfirst(cell))->id != id)
			cell = lnext(samples, cell);
		if (agent != NULL)
			add_vote(lfirst(cell), agent, i);
	}
}

static void
count_votes(const Sample *sample, int grade_count, SermVoteRule rule, double quorum, SermHost *host,
    SermVerdict *verdict)
{
	int count = list_length(sample->agents);
	SermAgentVote *agents = palloc0(mul_size(Max(count, 1), sizeof(SermAgentVote)));
	ListCell *cell;
	SermError error;

	foreach (cell, sample->agents) {
		const AgentVotes *votes = lfirst(cell);
		SermAgentVote *agent = &agents[foreach_current_index(cell)];

		agent->name = text_of(votes->name);
		agent->paths = votes->paths;
		agent->path_count = votes->count;
		serm_host_check(
		    host, serm_vote_agent(agent, grade_count, votes->min_share, &host->arena, &error), &error);
	}
	serm_host_check(host,
	    serm_vote_agree(agents, count, grade_count, rule, quorum, &host->arena, verdict, &error), &error);
}

static char *
agent_list(const Sample *sample)
{
	StringInfoData names;
	ListCell *cell;

	initStringInfo(&names);
	foreach (cell, sample->agents)
		appendStringInfo(
		    &names, "%s%s", foreach_current_index(cell) > 0 ? ", " : "", ((AgentVotes *) lfirst(cell))->name);
	return names.data;
}

static void
insert_judgment(const char *model, const Sample *sample, double grade, const char *source, const char *judge,
    const char *rationale)
{
	static SermKept kept;
	SermParam params[] = {
	    SERM_TEXT(model),
	    SERM_TEXT(sample->query),
	    SERM_TEXT(sample->doc_id),
	    SERM_TEXT(sample->doc),
	    SERM_FLOAT4((float4) grade),
	    SERM_TEXT(source),
	    judge != NULL ? SERM_TEXT(judge) : SERM_NULL(TEXTOID),
	    rationale != NULL && rationale[0] != '\0' ? SERM_TEXT(rationale) : SERM_NULL(TEXTOID),
	    sample->round > 0 ? SERM_INT4(sample->round) : SERM_NULL(INT4OID),
	};

	serm_spi_execute_kept(&kept,
	    "INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source, judge, rationale, round)"
	    " VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, current_user::pg_catalog.text), $8, $9)"
	    " RETURNING id",
	    SPI_OK_INSERT_RETURNING, params, lengthof(params));
}

static void
close_sample(int64 id, const char *state, bool graded, double grade)
{
	static SermKept kept;
	SermParam params[] = {
	    SERM_INT8(id),
	    SERM_TEXT(state),
	    graded ? SERM_FLOAT4((float4) grade) : SERM_NULL(FLOAT4OID),
	};

	serm_spi_execute_kept(&kept, "UPDATE serm.sample SET state = $2, grade = $3 WHERE id = $1", SPI_OK_UPDATE,
	    params, lengthof(params));
}

typedef struct NewJudgment {
	const char *model;
	const Sample *sample;
	int grade;
	char *judges;
	char *rationale;
} NewJudgment;

static void
judgment_step(void *argument)
{
	const NewJudgment *judgment = argument;

	insert_judgment(
	    judgment->model, judgment->sample, judgment->grade, "agents", judgment->judges, judgment->rationale);
}

/*
 * Insert the judgment of an agreed sample. One that the table refuses (an empty
 * query) must not keep the others from being settled: it counts as failed.
 */
static bool
try_judgment(const char *model, const Sample *sample, const SermVerdict *verdict)
{
	NewJudgment judgment = {model, sample, verdict->grade, agent_list(sample),
	    pnstrdup(verdict->rationale.bytes, verdict->rationale.length)};
	ErrorData *error = serm_attempt(judgment_step, &judgment);

	if (error == NULL)
		return true;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode)) {
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			/* Not the sample's fault: it may be settled the next time. */
			ReThrowError(error);
		default:
			break;
	}
	ereport(WARNING, errcode(error->sqlerrcode),
	    errmsg("sample %lld cannot become a judgment: %s", (long long) sample->id, error->message));
	return false;
}

static void
settle_sample(const char *model, const Sample *sample, const SermVerdict *verdict)
{
	if (verdict->kind == SERM_VERDICT_DISPUTED)
		close_sample(sample->id, "disputed", false, 0);
	else if (verdict->kind == SERM_VERDICT_AGREED && try_judgment(model, sample, verdict))
		close_sample(sample->id, "agreed", true, verdict->grade);
	else
		close_sample(sample->id, "failed", false, 0);
}

uint64
serm_settle_batch(const SermModelRow *model, int limit)
{
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "serm settling", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	List *agents = serm_agents_load(model->name, false);
	List *samples = load_samples(model->name, limit);
	uint64 count = list_length(samples);
	SermVoteRule rule;
	SermHost host;
	ListCell *cell;

	if (!serm_vote_rule_parse(model->options.rule, &rule))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown agreement rule"),
		    errhint("The rules are unanimous and quorum."));
	serm_host_init(&host, context, SETTLE_MEMORY_BYTES);
	if (count > 0)
		load_votes(samples, agents);
	foreach (cell, samples) {
		SermArenaMark mark = serm_arena_mark(&host.arena);
		SermVerdict verdict;

		count_votes(lfirst(cell), model->grade_count, rule, model->options.quorum, &host, &verdict);
		settle_sample(model->name, lfirst(cell), &verdict);
		serm_arena_rewind(&host.arena, mark);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
	return count;
}

static Sample *
lock_sample(int64 id, char **model, char **state)
{
	SermParam params[] = {SERM_INT8(id)};
	Sample *sample = palloc0(sizeof(Sample));
	bool null;

	serm_spi_execute("SELECT s.query, s.doc_id, s.doc, s.round, s.model, s.state FROM serm.sample s"
	                 " WHERE s.id = $1 FOR UPDATE",
	    SPI_OK_SELECT, false, params, 1);
	if (SPI_processed == 0)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
		    errmsg("sample %lld does not exist", (long long) id),
		    errhint("SELECT * FROM serm.review_queue shows the samples that wait for a grade."));
	sample->id = id;
	sample->query = serm_spi_string(0, 1);
	sample->doc_id = serm_spi_string(0, 2);
	sample->doc = serm_spi_string(0, 3);
	sample->round = DatumGetInt32(serm_spi_value(0, 4, &null));
	*model = serm_spi_string(0, 5);
	*state = serm_spi_string(0, 6);
	return sample;
}

/*
 * serm.settle(sample bigint, grade real, rationale text) returns the judgment's id
 *
 * Errors: 42704 no such sample, 22023 a grade outside the model's, 55000 agents are still at work.
 */
SERM_FUNCTION(serm_settle);
Datum
serm_settle(PG_FUNCTION_ARGS)
{
	float4 grade;
	char *rationale = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	char *model, *state;
	Sample *sample;
	SermModelRow *row;
	Datum id;
	bool null;
	int level;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("sample and grade must not be NULL"));
	grade = PG_GETARG_FLOAT4(1);
	level = serm_spi_begin(false);
	sample = lock_sample(PG_GETARG_INT64(0), &model, &state);
	row = serm_model_read(model);
	if (!(grade >= 0 && grade <= row->grade_count - 1))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("grade %g is outside the grades of model \"%s\"", grade, model),
		    errhint("Grades lie between 0 and %d.", row->grade_count - 1));
	if (strcmp(state, "annotating") == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("agents are still at work on sample %lld", (long long) sample->id),
		    errhint("Wait for CALL serm.annotate(%s) to end.", quote_literal_cstr(model)));
	insert_judgment(model, sample, grade, "human", NULL, rationale);
	id = serm_spi_value(0, 1, &null);
	close_sample(sample->id, "settled", true, grade);
	serm_spi_end(level);
	PG_RETURN_DATUM(id);
}
