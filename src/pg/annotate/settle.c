/*
 * The end of a sample: its votes become a judgment or a dispute.
 *
 * What the agents say of all pairs is weighed before the first sample is settled
 * (panel.c), and the same votes always weigh the same: a settling that was cut
 * short is taken up by the next one as if nothing had happened.
 */
#include "pg/annotate/settle.h"

#include "utils/array.h"
#include "utils/guc.h"

#define SETTLE_MEMORY_BYTES ((Size) 64 * 1024 * 1024)
/* A step is short: the worker that takes it leaves requests waiting. */
#define SETTLE_SAMPLES 50

typedef enum Step {
	STEP_LOOK,
	STEP_COMPARE,
	STEP_EXPECT,
	STEP_PLACE,
	STEP_PANEL,
	STEP_READ,
	STEP_PREDICT,
	STEP_STORE,
	STEP_SETTLE,
} Step;

struct SermSettler {
	MemoryContext context;
	MemoryContext panel_context; /* child of `context`, reset when the agents change */
	SermModelRow *row;
	SermVoteRule rule;
	bool final;
	Step step;
	SermCompared *compared; /* NULL: nobody has compared */
	SermPanel *panel;       /* NULL: the rule counts votes, and nobody asked for more */
	List *agents;
	int64 last; /* sample that was looked at */
	SermSettled settled;
};

static SermText
text_of(const char *string)
{
	return (SermText){string != NULL ? string : "", string != NULL ? strlen(string) : 0};
}

static List *
load_samples(const char *model, int64 after)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(model), SERM_INT4(SETTLE_SAMPLES), SERM_INT8(after)};
	List *samples = NIL;
	bool null;

	serm_spi_execute_kept(&kept,
	    "SELECT s.id, s.query, s.doc_id, s.doc, s.round, s.agents = '" SERM_GOLD_MARK "'"
	    " FROM serm.sample s WHERE s.model = $1 AND s.state = 'annotating' AND s.id > $3"
	    "  AND NOT EXISTS (SELECT FROM serm.task t WHERE t.sample = s.id OFFSET 0)"
	    " ORDER BY s.id LIMIT $2 FOR UPDATE OF s SKIP LOCKED",
	    SPI_OK_SELECT, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++) {
		SermSettleSample *sample = palloc0(sizeof(SermSettleSample));

		sample->id = DatumGetInt64(serm_spi_value(i, 1, &null));
		sample->query = serm_spi_string(i, 2);
		sample->doc_id = serm_spi_string(i, 3);
		sample->doc = serm_spi_string(i, 4);
		sample->round = DatumGetInt32(serm_spi_value(i, 5, &null));
		sample->gold = DatumGetBool(serm_spi_value(i, 6, &null));
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
add_vote(SermSettleSample *sample, const SermAgent *agent, uint64 i)
{
	SermSettleVotes *votes = sample->agents == NIL ? NULL : llast(sample->agents);
	SermPath *path;
	bool null;
	int grade;

	if (votes == NULL || votes->agent != agent) {
		votes = palloc0(sizeof(SermSettleVotes));
		votes->agent = agent;
		votes->prompt = DatumGetInt32(serm_spi_value(i, 5, &null));
		sample->agents = lappend(sample->agents, votes);
	}
	if (votes->count == SERM_PATHS_KEPT)
		return;
	path = &votes->paths[votes->count++];
	grade = DatumGetInt16(serm_spi_value(i, 3, &null));
	path->grade = null ? SERM_VOTE_NONE : grade;
	path->rationale = text_of(serm_spi_string(i, 4));
}

static void
load_votes(List *samples, const List *agents)
{
	static SermKept kept;
	Datum *ids = palloc(mul_size(list_length(samples), sizeof(Datum)));
	MemoryContext context = CurrentMemoryContext;
	SermParam params[1];
	ListCell *cell;
	int64 id;
	bool null;

	foreach (cell, samples)
		ids[foreach_current_index(cell)] = Int64GetDatum(((SermSettleSample *) lfirst(cell))->id);
	params[0] = SERM_DATUM(INT8ARRAYOID,
	    PointerGetDatum(construct_array(ids, list_length(samples), INT8OID, 8, true, TYPALIGN_DOUBLE)));
	serm_spi_execute_kept(&kept,
	    "SELECT n.id, v.agent, v.grade, v.rationale, v.prompt FROM pg_catalog.unnest($1) AS n(id),"
	    "  LATERAL (SELECT * FROM serm.vote v WHERE v.sample = n.id OFFSET 0) v"
	    " ORDER BY n.id, v.agent COLLATE \"C\", v.path",
	    SPI_OK_SELECT, params, lengthof(params));
	MemoryContextSwitchTo(context);
	cell = list_head(samples);
	for (uint64 i = 0; i < SPI_processed; i++) {
		const SermAgent *agent = find_agent(agents, serm_spi_string(i, 2));

		id = DatumGetInt64(serm_spi_value(i, 1, &null));
		while (((SermSettleSample *) lfirst(cell))->id != id)
			cell = lnext(samples, cell);
		if (agent != NULL)
			add_vote(lfirst(cell), agent, i);
	}
}

/* Level 1: what each agent says. */
static SermAgentVote *
count_paths(const SermSettleSample *sample, int grade_count, SermHost *host)
{
	SermAgentVote *agents = palloc0(mul_size(Max(list_length(sample->agents), 1), sizeof(SermAgentVote)));
	ListCell *cell;
	SermError error;

	foreach (cell, sample->agents) {
		const SermSettleVotes *votes = lfirst(cell);
		SermAgentVote *agent = &agents[foreach_current_index(cell)];

		agent->name = text_of(votes->agent->name);
		agent->paths = votes->paths;
		agent->path_count = votes->count;
		serm_host_check(
		    host, serm_vote_agent(agent, grade_count, votes->agent->min_share, &host->arena, &error), &error);
	}
	return agents;
}

/* Level 2 by votes. */
static void
count_agents(const SermSettler *settler, const SermAgentVote *agents, int count, SermHost *host,
    SermSettleOutcome *outcome)
{
	SermError error;

	serm_host_check(host,
	    serm_vote_agree(agents, count, settler->row->grade_count, settler->rule, settler->row->options.quorum,
	        &host->arena, &outcome->verdict, &error),
	    &error);
	outcome->grade = outcome->verdict.grade;
}

/* Level 2 by what is known about the agents. */
static void
weigh_agents(const SermSettler *settler, const SermSettleSample *sample, const SermAgentVote *agents,
    SermHost *host, SermSettleOutcome *outcome)
{
	int16 label[SERM_CONSENSUS_JUDGES_MAX];
	SermOpinion *opinion = palloc(sizeof(SermOpinion));
	bool soft = strcmp(settler->row->options.labels, "agreed") != 0, valid = false;
	ListCell *cell;
	SermError error;

	for (int j = 0; j < SERM_CONSENSUS_JUDGES_MAX; j++)
		label[j] = SERM_LABEL_MISSING;
	foreach (cell, sample->agents) {
		const SermSettleVotes *votes = lfirst(cell);
		const SermAgentVote *agent = &agents[foreach_current_index(cell)];
		int judge = serm_panel_find(settler->panel, votes->agent, votes->prompt);

		valid = valid || agent->valid > 0;
		if (judge >= 0 && agent->grade != SERM_VOTE_NONE)
			label[judge] = (int16) agent->grade;
	}
	serm_panel_judge(settler->panel, label, text_of(sample->query), text_of(sample->doc), opinion);
	outcome->verdict.kind = !valid                                       ? SERM_VERDICT_FAILED
	                        : opinion->answers == 0 || opinion->abstains ? SERM_VERDICT_DISPUTED
	                                                                     : SERM_VERDICT_AGREED;
	if (opinion->answers == 0)
		return;
	outcome->grade = opinion->grade;
	outcome->target = soft ? opinion->target : NULL;
	serm_host_check(host,
	    serm_vote_rationale(agents, list_length(sample->agents), opinion->grade, &host->arena,
	        &outcome->verdict.rationale, &error),
	    &error);
}

/* Every agent was asked for another opinion where they differ; once that is done, `extra` paths are there. */
static bool
agents_differ(const SermAgentVote *agents, int count)
{
	bool graded = false;

	for (int i = 0; i < count; i++)
		graded = graded || agents[i].valid > 0;
	for (int i = 1; i < count; i++)
		if (graded && agents[i].grade != agents[0].grade)
			return true;
	return false;
}

static bool
ask_more(SermSettler *settler, const SermSettleSample *sample, const SermAgentVote *agents)
{
	List *asked = NIL;
	ListCell *cell;

	if (settler->row->options.extra_paths == 0 || sample->gold ||
	    !agents_differ(agents, list_length(sample->agents)))
		return false;
	foreach (cell, settler->agents)
		if (!((SermAgent *) lfirst(cell))->repeats)
			asked = lappend(asked, lfirst(cell));
	return asked != NIL &&
	       serm_queue_extend(sample->id, settler->row->name, asked, settler->row->options.extra_paths) > 0;
}

static void
settle_one(SermSettler *settler, const SermSettleSample *sample, SermHost *host, bool careful)
{
	SermAgentVote *agents = count_paths(sample, settler->row->grade_count, host);
	SermSettleOutcome outcome = {
	    .verdict = {.grade = SERM_VOTE_NONE, .rationale = {"", 0}}, .grade = 0, .target = NULL};

	if (ask_more(settler, sample, agents)) {
		settler->settled.extended++;
		return;
	}
	if (settler->rule == SERM_VOTE_WEIGHTED || settler->rule == SERM_VOTE_POSTERIOR)
		weigh_agents(settler, sample, agents, host, &outcome);
	else
		count_agents(settler, agents, list_length(sample->agents), host, &outcome);
	serm_settle_sample(settler->row, sample, &outcome, careful);
	settler->settled.samples++;
}

typedef struct Batch {
	SermSettler *settler;
	MemoryContext context;
	List *samples;
	SermHost host;
	bool careful;
} Batch;

static void
batch_step(void *argument)
{
	Batch *batch = argument;
	ListCell *cell;

	foreach (cell, batch->samples) {
		SermArenaMark mark = serm_arena_mark(&batch->host.arena);

		settle_one(batch->settler, lfirst(cell), &batch->host, batch->careful);
		MemoryContextSwitchTo(batch->context);
		serm_arena_rewind(&batch->host.arena, mark);
	}
}

/* One sample whose judgment is refused must not keep the others from being settled: then one by one. */
static bool
settle_batch(SermSettler *settler)
{
	Batch batch = {.settler = settler,
	    .context =
	        AllocSetContextCreate(CurrentMemoryContext, "serm settling, one step", ALLOCSET_DEFAULT_SIZES)};
	MemoryContext previous = MemoryContextSwitchTo(batch.context);
	SermSettled before = settler->settled;
	int level = serm_spi_prefer_indexes();
	bool more;

	batch.samples = load_samples(settler->row->name, settler->last);
	more = batch.samples != NIL;
	serm_host_init(&batch.host, batch.context, SETTLE_MEMORY_BYTES);
	if (more) {
		load_votes(batch.samples, settler->agents);
		settler->last = ((SermSettleSample *) llast(batch.samples))->id;
		if (serm_attempt(batch_step, &batch) != NULL) {
			settler->settled = before;
			batch.careful = true;
			batch_step(&batch);
		}
	}
	AtEOXact_GUC(false, level);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(batch.context);
	return more;
}

/* --- the steps */

SermSettler *
serm_settler_create(const char *model, bool final, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "serm settling", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermSettler *settler = palloc0(sizeof(SermSettler));

	settler->context = context;
	settler->panel_context = AllocSetContextCreate(context, "serm panel", ALLOCSET_DEFAULT_SIZES);
	settler->row = serm_model_read(model);
	settler->final = final;
	if (!serm_vote_rule_parse(settler->row->options.rule, &settler->rule))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown agreement rule"),
		    errhint("The rules are weighted, posterior, unanimous and quorum."));
	MemoryContextSwitchTo(previous);
	return settler;
}

/* Whether samples must wait for all open tasks of the model: rules that weigh look at all votes at once. */
static bool
waits_for_tasks(const SermSettler *settler)
{
	SermParam params[] = {SERM_TEXT(settler->row->name)};
	bool open, compares, null;

	if (settler->final)
		return false;
	serm_spi_execute("SELECT EXISTS (SELECT FROM serm.task t WHERE t.model = $1),"
	                 " EXISTS (SELECT FROM serm.agent a WHERE a.model = $1 AND a.active"
	                 "  AND a.options ->> 'form' IN ('pair', 'list'))",
	    SPI_OK_SELECT, false, params, lengthof(params));
	open = DatumGetBool(serm_spi_value(0, 1, &null));
	compares = DatumGetBool(serm_spi_value(0, 2, &null));
	return open && (compares || (settler->rule != SERM_VOTE_UNANIMOUS && settler->rule != SERM_VOTE_QUORUM));
}

/* Whether there is something to settle now. */
static bool
is_due(const SermSettler *settler)
{
	static SermKept kept;
	SermParam params[] = {SERM_TEXT(settler->row->name)};
	bool due, null;
	int level;

	if (waits_for_tasks(settler))
		return false;
	level = serm_spi_prefer_indexes();
	serm_spi_execute_kept(&kept,
	    "SELECT EXISTS (SELECT FROM serm.sample s WHERE s.model = $1 AND s.state = 'annotating'"
	    " AND NOT EXISTS (SELECT FROM serm.task t WHERE t.sample = s.id OFFSET 0))",
	    SPI_OK_SELECT, params, lengthof(params));
	due = DatumGetBool(serm_spi_value(0, 1, &null));
	AtEOXact_GUC(false, level);
	return due;
}

static bool
needs_panel(const SermSettler *settler)
{
	return settler->final || settler->rule == SERM_VOTE_WEIGHTED || settler->rule == SERM_VOTE_POSTERIOR;
}

static void
start_panel(SermSettler *settler)
{
	MemoryContext previous;

	MemoryContextReset(settler->panel_context);
	previous = MemoryContextSwitchTo(settler->panel_context);
	if (needs_panel(settler)) {
		settler->panel = serm_panel_create(settler->row, settler->rule, settler->panel_context);
		settler->agents = settler->panel->agents;
	} else
		settler->agents = serm_agents_load(settler->row, false);
	MemoryContextSwitchTo(previous);
	settler->step = settler->panel != NULL ? STEP_READ : STEP_SETTLE;
}

static bool
suspend_obedient(SermSettler *settler)
{
	int suspended = serm_agents_suspend_obedient(settler->row);

	settler->settled.suspended += suspended;
	return suspended > 0;
}

/*
 * Whether the agents that settle are still the active ones: another settling may have suspended some, and
 * found them out before this one did. They stay as they are until the batch is stored.
 */
static bool
agents_hold(const SermSettler *settler)
{
	SermParam params[] = {SERM_TEXT(settler->row->name)};

	serm_spi_execute("SELECT FROM serm.agent a WHERE a.model = $1 AND a.active"
	                 " ORDER BY a.name COLLATE \"C\" FOR SHARE",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed == (uint64) list_length(settler->agents);
}

SermSettling
serm_settler_step(SermSettler *settler)
{
	int suspended;

	switch (settler->step) {
		case STEP_LOOK:
			settler->step = STEP_COMPARE;
			return is_due(settler) ? SERM_SETTLING_MORE : SERM_SETTLING_DONE;
		case STEP_COMPARE:
			settler->compared = serm_compared_read(settler->row, settler->context);
			settler->step = settler->compared != NULL ? STEP_EXPECT : STEP_PANEL;
			return SERM_SETTLING_MORE;
		case STEP_EXPECT:
			if (serm_compared_predict(settler->compared))
				return SERM_SETTLING_MORE;
			settler->step = STEP_PLACE;
			return SERM_SETTLING_COMPUTE;
		case STEP_PLACE:
			serm_compared_store(settler->compared);
			settler->compared = NULL;
			settler->step = STEP_PANEL;
			return SERM_SETTLING_MORE;
		case STEP_PANEL:
			/* Agents are loaded in a transaction that sees who was suspended. */
			if (!suspend_obedient(settler))
				start_panel(settler);
			return SERM_SETTLING_MORE;
		case STEP_READ:
			settler->step = serm_panel_read(settler->panel) ? STEP_READ : STEP_PREDICT;
			return SERM_SETTLING_MORE;
		case STEP_PREDICT:
			if (serm_panel_predict(settler->panel))
				return SERM_SETTLING_MORE;
			settler->step = STEP_STORE;
			return SERM_SETTLING_COMPUTE;
		case STEP_STORE:
			suspended = serm_panel_store(settler->panel);
			settler->settled.suspended += suspended;
			/* Without the suspended ones the others weigh differently. */
			settler->step = suspended > 0 ? STEP_PANEL : STEP_SETTLE;
			return SERM_SETTLING_MORE;
		case STEP_SETTLE:
			/* Whoever is found to obey its documents while others still answer settles nothing more. */
			if (suspend_obedient(settler) || !agents_hold(settler)) {
				settler->step = STEP_PANEL;
				return SERM_SETTLING_MORE;
			}
			return settle_batch(settler) ? SERM_SETTLING_MORE : SERM_SETTLING_DONE;
	}
	return SERM_SETTLING_DONE;
}

void
serm_settler_compute(SermSettler *settler)
{
	if (settler->step == STEP_PLACE)
		serm_compared_fit(settler->compared);
	else
		serm_panel_fit(settler->panel);
}

SermSettled
serm_settler_free(SermSettler *settler)
{
	SermSettled settled = settler->settled;

	MemoryContextDelete(settler->context);
	return settled;
}
