#include "pg/annotate/panel.h"

#include <math.h>

#include "utils/guc.h"
#include "utils/array.h"

/* Samples read in one step: their votes, of up to 64 agents, stay within some megabytes. */
#define READ_SAMPLES 500
/* Newest samples that are looked at: how agents were long ago says little about today. */
#define SAMPLES_MAX 50000
#define FIT_MEMORY_BYTES ((Size) 512 * 1024 * 1024)
/* Fewer labels of gold do not suspend anybody. */
#define SUSPEND_GOLD_MIN 20

/* With OFFSET 0 looked up for each sample, else joined as the planner likes. */
#define HAS_VOTE(alone)                                                                                      \
	" EXISTS (SELECT FROM serm.vote v WHERE v.sample = s.id AND v.grade IS NOT NULL" alone ")"

static const SermAgent *
find_agent(const List *agents, const char *name)
{
	ListCell *cell;

	foreach (cell, agents)
		if (strcmp(((SermAgent *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	return NULL;
}

int
serm_panel_find(const SermPanel *panel, const SermAgent *agent, int prompt)
{
	for (uint32 j = 0; j < panel->judge_count; j++)
		if (panel->judges[j].agent == agent && panel->judges[j].prompt == prompt)
			return (int) j;
	return -1;
}

/* --- reading */

static void
find_first(SermPanel *panel)
{
	SermParam params[] = {SERM_TEXT(panel->row->name), SERM_INT4(SAMPLES_MAX)};
	bool null;

	serm_spi_execute("SELECT coalesce(pg_catalog.min(n.id), 0) FROM (SELECT s.id FROM serm.sample s"
	                 " WHERE s.model = $1 AND" HAS_VOTE("") " ORDER BY s.id DESC LIMIT $2) n",
	    SPI_OK_SELECT, false, params, lengthof(params));
	panel->first = DatumGetInt64(serm_spi_value(0, 1, &null));
}

static void
find_judges(SermPanel *panel)
{
	SermParam params[] = {SERM_TEXT(panel->row->name), SERM_INT8(panel->first)};
	bool null;

	serm_spi_execute("SELECT DISTINCT v.agent COLLATE \"C\", v.prompt FROM serm.sample s"
	                 " JOIN serm.vote v ON v.sample = s.id AND v.grade IS NOT NULL"
	                 " WHERE s.model = $1 AND s.id >= $2 ORDER BY 1, 2",
	    SPI_OK_SELECT, false, params, lengthof(params));
	MemoryContextSwitchTo(panel->context);
	panel->judges = palloc(Max(SPI_processed, 1) * sizeof(SermPanelJudge));
	for (uint64 i = 0; i < SPI_processed; i++) {
		const SermAgent *agent = find_agent(panel->agents, serm_spi_string(i, 1));

		if (agent == NULL)
			continue;
		if (panel->judge_count == SERM_CONSENSUS_JUDGES_MAX)
			ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			    errmsg("more than %d agents and versions of their prompts have voted for model \"%s\"",
			        SERM_CONSENSUS_JUDGES_MAX, panel->row->name),
			    errhint("Remove agents with serm.remove_agent()."));
		panel->judges[panel->judge_count++] =
		    (SermPanelJudge){agent, DatumGetInt32(serm_spi_value(i, 2, &null))};
	}
}

SermPanel *
serm_panel_create(const SermModelRow *row, SermVoteRule rule, MemoryContext context)
{
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermPanel *panel = palloc0(sizeof(SermPanel));

	panel->row = row;
	panel->rule = rule;
	panel->context = context;
	serm_host_init(&panel->host, context, FIT_MEMORY_BYTES);
	panel->agents = serm_agents_load(row, false);
	MemoryContextSwitchTo(previous);
	find_first(panel);
	find_judges(panel);
	MemoryContextSwitchTo(previous);
	return panel;
}

static void
make_room(SermPanel *panel, size_t more)
{
	size_t capacity = serm_capacity_for(panel->count + more, panel->capacity);

	if (capacity == panel->capacity)
		return;
	panel->ids = serm_array_grow(panel->ids, panel->context, capacity, sizeof(int64));
	panel->gold = serm_array_grow(panel->gold, panel->context, capacity, sizeof(int16));
	panel->drawn = serm_array_grow(panel->drawn, panel->context, capacity, sizeof(bool));
	panel->label = serm_array_grow(
	    panel->label, panel->context, capacity, mul_size(Max(panel->judge_count, 1), sizeof(int16)));
	panel->capacity = capacity;
}

/* Ids and gold of the next samples; returns how many, their rows behind `count`. */
static int
read_samples(SermPanel *panel)
{
	int64 after = panel->count > 0 ? panel->ids[panel->count - 1] : panel->first - 1;
	SermParam params[] = {SERM_TEXT(panel->row->name), SERM_INT8(after),
	    SERM_FLOAT4((float4) panel->row->options.test_share), SERM_INT4(READ_SAMPLES)};
	int samples;
	bool null;

	serm_spi_execute("SELECT s.id, s.signals ? '" SERM_GOLD_BY_GRADE "', (SELECT j.grade FROM serm.judgment j"
	                 " WHERE j.model = $1 AND j.source IN ('human', 'import')"
	                 " AND pg_catalog.md5(j.query) = pg_catalog.md5(s.query)"
	                 " AND pg_catalog.md5(coalesce(j.doc_id, j.doc)) = pg_catalog.md5(s.doc_id)"
	                 " AND serm.split_of(s.query, $3) = 'train'"
	                 " ORDER BY j.source = 'human' DESC, j.at DESC, j.id DESC LIMIT 1)"
	                 " FROM serm.sample s WHERE s.model = $1 AND s.id > $2 AND" HAS_VOTE(
	                     " OFFSET 0") " ORDER BY s.id LIMIT $4",
	    SPI_OK_SELECT, false, params, lengthof(params));
	samples = (int) SPI_processed;
	make_room(panel, SPI_processed);
	for (uint64 i = 0; i < SPI_processed; i++) {
		size_t at = panel->count + i;
		Datum gold = serm_spi_value(i, 3, &null);

		panel->gold[at] = null ? SERM_LABEL_MISSING
		                       : (int16) Min(floor(DatumGetFloat4(gold) + .5), panel->row->grade_count - 1);
		panel->gold_count += null ? 0 : 1;
		panel->drawn[at] = DatumGetBool(serm_spi_value(i, 2, &null));
		panel->ids[at] = DatumGetInt64(serm_spi_value(i, 1, &null));
		for (uint32 j = 0; j < panel->judge_count; j++)
			panel->label[at * panel->judge_count + j] = SERM_LABEL_MISSING;
	}
	SPI_freetuptable(SPI_tuptable);
	return samples;
}

/* What the paths of one agent about one sample come to. */
typedef struct Ballot {
	int64 sample;
	const SermAgent *agent;
	int prompt;
	int count;
	SermPath paths[SERM_PATHS_KEPT];
} Ballot;

static void
close_ballot(SermPanel *panel, Ballot *ballot, int samples)
{
	SermArenaMark mark = serm_arena_mark(&panel->host.arena);
	SermAgentVote vote = {.paths = ballot->paths, .path_count = (uint32) ballot->count};
	int judge = ballot->agent == NULL ? -1 : serm_panel_find(panel, ballot->agent, ballot->prompt);
	SermError error;

	if (judge < 0)
		return;
	serm_host_check(&panel->host,
	    serm_vote_agent(&vote, panel->row->grade_count, ballot->agent->min_share, &panel->host.arena, &error),
	    &error);
	serm_arena_rewind(&panel->host.arena, mark);
	for (size_t at = panel->count; at < panel->count + (size_t) samples && vote.grade != SERM_VOTE_NONE; at++)
		if (panel->ids[at] == ballot->sample)
			panel->label[at * panel->judge_count + (size_t) judge] = (int16) vote.grade;
}

static void
read_votes(SermPanel *panel, int samples)
{
	Datum *ids = palloc(mul_size((Size) samples, sizeof(Datum)));
	Ballot *ballot = palloc0(sizeof(Ballot));
	MemoryContext page = CurrentMemoryContext;
	SermParam params[1];
	char *name = NULL;
	bool null;

	for (int i = 0; i < samples; i++)
		ids[i] = Int64GetDatum(panel->ids[panel->count + (size_t) i]);
	params[0] = SERM_DATUM(
	    INT8ARRAYOID, PointerGetDatum(construct_array(ids, samples, INT8OID, 8, true, TYPALIGN_DOUBLE)));
	serm_spi_execute("SELECT n.id, v.agent, v.grade, v.prompt FROM pg_catalog.unnest($1) AS n(id),"
	                 "  LATERAL (SELECT * FROM serm.vote v WHERE v.sample = n.id OFFSET 0) v"
	                 " ORDER BY n.id, v.agent COLLATE \"C\", v.path",
	    SPI_OK_SELECT, false, params, 1);
	/* SPI leaves us in a context of its own, which lives as long as the call. */
	MemoryContextSwitchTo(page);
	for (uint64 i = 0; i < SPI_processed; i++) {
		int64 sample = DatumGetInt64(serm_spi_value(i, 1, &null));
		char *agent = serm_spi_string(i, 2);
		Datum grade = serm_spi_value(i, 3, &null);

		if (name == NULL || sample != ballot->sample || strcmp(agent, name) != 0) {
			if (name != NULL)
				close_ballot(panel, ballot, samples);
			*ballot = (Ballot){.sample = sample,
			    .agent = find_agent(panel->agents, agent),
			    .prompt = DatumGetInt32(serm_spi_value(i, 4, &(bool){false}))};
			name = agent;
		}
		if (ballot->count < SERM_PATHS_KEPT)
			ballot->paths[ballot->count++] =
			    (SermPath){null ? SERM_VOTE_NONE : DatumGetInt16(grade), {"", 0}};
	}
	if (name != NULL)
		close_ballot(panel, ballot, samples);
	SPI_freetuptable(SPI_tuptable);
}

/* Each drawn pair by the share of its grade among what people graded. */
static void
weigh_gold(SermPanel *panel)
{
	SermParam params[] = {SERM_TEXT(panel->row->name), SERM_FLOAT4((float4) panel->row->options.test_share)};
	double share[SERM_GRADES_MAX] = {0}, drawn[SERM_GRADES_MAX] = {0}, there = 0, total = 0;
	bool null;

	panel->gold_weight =
	    MemoryContextAllocHuge(panel->context, mul_size(Max(panel->count, 1), sizeof(double)));
	for (size_t i = 0; i < panel->count; i++) {
		panel->gold_weight[i] = 1;
		if (panel->drawn[i] && panel->gold[i] != SERM_LABEL_MISSING) {
			drawn[panel->gold[i]]++;
			total++;
		}
	}
	if (total == 0)
		return;
	serm_spi_execute("SELECT pg_catalog.floor(j.grade + .5)::pg_catalog.int4, pg_catalog.count(*)"
	                 " FROM serm.current_judgment j WHERE j.model = $1 AND j.source IN ('human', 'import')"
	                 " AND serm.split_of(j.query, $2) = 'train' GROUP BY 1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++) {
		int32 grade = DatumGetInt32(serm_spi_value(i, 1, &null));

		if (grade >= 0 && grade < panel->row->grade_count && drawn[grade] > 0)
			there += share[grade] = (double) DatumGetInt64(serm_spi_value(i, 2, &null));
	}
	for (size_t i = 0; i < panel->count; i++)
		if (panel->drawn[i] && panel->gold[i] != SERM_LABEL_MISSING && share[panel->gold[i]] > 0)
			panel->gold_weight[i] = share[panel->gold[i]] / there * total / drawn[panel->gold[i]];
}

bool
serm_panel_read(SermPanel *panel)
{
	MemoryContext page =
	    AllocSetContextCreate(panel->context, "serm panel, one step", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(page);
	int level = serm_spi_prefer_indexes();
	int samples = panel->judge_count == 0 ? 0 : read_samples(panel);

	MemoryContextSwitchTo(page);
	if (samples > 0)
		read_votes(panel, samples);
	AtEOXact_GUC(false, level);
	if (samples == 0)
		weigh_gold(panel);
	panel->count += (size_t) samples;
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(page);
	return samples > 0;
}

/* --- the model's distributions */

static bool
needs_model(const SermPanel *panel)
{
	return panel->row->active > 0 && panel->count > 0 &&
	       (panel->rule == SERM_VOTE_POSTERIOR ||
	           (panel->rule == SERM_VOTE_WEIGHTED && panel->gold_count == 0));
}

bool
serm_panel_predict(SermPanel *panel)
{
	uint32 grades = (uint32) panel->row->grade_count;
	size_t count = Min(READ_SAMPLES, panel->count - panel->predicted);

	if (!needs_model(panel) || count == 0)
		return false;
	if (panel->scorer == NULL) {
		panel->scorer = serm_scorer_open(panel->row->name, 0, SERM_SEE_WRITES, panel->context);
		panel->prior =
		    MemoryContextAllocHuge(panel->context, mul_size(panel->count, mul_size(grades, sizeof(float))));
	}
	serm_samples_predict(panel->scorer, &panel->ids[panel->predicted], count, grades,
	    &panel->prior[panel->predicted * grades]);
	panel->predicted += count;
	return true;
}

/* --- fitting */

void
serm_panel_fit(SermPanel *panel)
{
	SermJudgeLabels labels = {.grade_count = (uint32) panel->row->grade_count,
	    .judge_count = panel->judge_count,
	    .item_count = panel->count,
	    .label = panel->label,
	    .gold = panel->gold,
	    .prior = panel->prior};
	double say[SERM_CONSENSUS_JUDGES_MAX];
	SermConsensusOptions options;

	serm_consensus_defaults(&options);
	options.rule = panel->rule == SERM_VOTE_POSTERIOR ? SERM_CONSENSUS_POSTERIOR : SERM_CONSENSUS_WEIGHTED;
	options.keep = panel->row->options.keep;
	options.gold_weight = panel->gold_weight;
	options.say = say;
	for (uint32 j = 0; j < panel->judge_count; j++)
		say[j] = panel->judges[j].agent->weight;
	panel->status = panel->judge_count == 0
	                    ? SERM_ERR_NO_DATA
	                    : serm_consensus_fit(&labels, &options, &panel->host.arena, serm_host_keep_going,
	                          &panel->host, &panel->consensus, &panel->error);
	panel->fitted = panel->status == SERM_OK;
}

static SermParam
reals_param(const double *values, int rows, int columns)
{
	Datum *elements = palloc(mul_size((Size) rows * (Size) columns, sizeof(Datum)));
	int dimensions[] = {rows, columns}, bounds[] = {1, 1};
	bool flat = rows == 1;

	for (int i = 0; i < rows * columns; i++)
		elements[i] = Float4GetDatum((float4) values[i]);
	return SERM_DATUM(FLOAT4ARRAYOID,
	    PointerGetDatum(construct_md_array(elements, NULL, flat ? 1 : 2, flat ? dimensions + 1 : dimensions,
	        bounds, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT)));
}

static SermParam
real_or_null(double value)
{
	return isfinite(value) ? SERM_FLOAT4((float4) value) : SERM_NULL(FLOAT4OID);
}

static void
store_judge(const SermPanel *panel, uint32 j)
{
	const SermConsensus *consensus = &panel->consensus;
	const SermJudgeQuality *quality = &consensus->judge[j];
	int grades = panel->row->grade_count;
	SermParam params[] = {
	    SERM_TEXT(panel->row->name),
	    SERM_TEXT(panel->judges[j].agent->name),
	    SERM_INT4(panel->judges[j].prompt),
	    SERM_INT8((int64) quality->labels),
	    SERM_INT8((int64) quality->gold),
	    real_or_null(quality->agreement),
	    real_or_null(quality->gold_kappa),
	    SERM_FLOAT4((float4) quality->reliability),
	    SERM_INT4((int32) quality->copies),
	    SERM_FLOAT4((float4) quality->weight),
	    SERM_FLOAT4((float4) quality->level),
	    reals_param(consensus->judge_cut + (size_t) j * (size_t) (grades - 1), 1, grades - 1),
	    reals_param(consensus->confusion + (size_t) j * (size_t) (grades * grades), grades, grades),
	};

	/* An agent that was removed meanwhile has no row to refer to. */
	serm_spi_execute(
	    "INSERT INTO serm.reliability (model, agent, prompt, labels, gold, agreement, gold_kappa, "
	    "reliability,"
	    " copies, weight, level, cuts, confusion)"
	    " SELECT a.model, a.name, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 FROM serm.agent a"
	    " WHERE a.model = $1 AND a.name = $2"
	    " ON CONFLICT (model, agent, prompt) DO UPDATE SET labels = $4, gold = $5, agreement = $6,"
	    " gold_kappa = $7, reliability = $8, copies = $9, weight = $10, level = $11, cuts = $12,"
	    " confusion = $13, at = pg_catalog.now()",
	    SPI_OK_INSERT, false, params, lengthof(params));
}

/* Its votes count no more, and nothing more is asked of it, until serm.resume_agent(). */
static bool
suspend(const SermPanel *panel, uint32 j)
{
	const SermAgent *agent = panel->judges[j].agent;
	const SermJudgeQuality *quality = &panel->consensus.judge[j];
	char *reason = psprintf("reliability %.3f on %zu pairs that people graded, at least %.3f are asked for",
	    quality->reliability, quality->gold, agent->min_reliability);

	return serm_agent_suspend(panel->row->name, agent->name, reason);
}

/* The newest prompt under which the agent has voted decides about it. */
static bool
is_newest(const SermPanel *panel, uint32 j)
{
	return j + 1 == panel->judge_count || panel->judges[j + 1].agent != panel->judges[j].agent;
}

int
serm_panel_store(SermPanel *panel)
{
	int suspended = 0;

	if (panel->status != SERM_ERR_NO_DATA)
		serm_host_check(&panel->host, panel->status, &panel->error);
	for (uint32 j = 0; j < panel->judge_count && panel->fitted; j++) {
		const SermJudgeQuality *quality = &panel->consensus.judge[j];

		store_judge(panel, j);
		if (is_newest(panel, j) && quality->gold >= SUSPEND_GOLD_MIN && !isnan(quality->gold_kappa) &&
		    quality->reliability < panel->judges[j].agent->min_reliability && suspend(panel, j))
			suspended++;
	}
	if (suspended > 0)
		serm_budget_drop_tasks(panel->row->name, NULL);
	return suspended;
}

/* --- judging */

void
serm_panel_judge(SermPanel *panel, const int16 *label, SermText query, SermText doc, SermOpinion *opinion)
{
	SermPrediction prediction;
	SermError error;

	memset(opinion, 0, sizeof(*opinion));
	if (!panel->fitted)
		return;
	if (panel->scorer != NULL)
		serm_scorer_predict(panel->scorer, query, doc, &prediction);
	serm_check(serm_consensus_judge(&panel->consensus, label,
	               panel->scorer != NULL ? prediction.probability : NULL, opinion, &error),
	    &error);
}
