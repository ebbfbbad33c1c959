/*
 * The four agents of SERM (section "Multi-agent Sample Miner"; doc/mining.md).
 * Each is one function and one line in the table: it looks at what was
 * gathered about a pair and says whether it fires, how strongly, and why.
 */
#include "pg/mine/mine.h"

#include <math.h>

#include "miscadmin.h"

/*
 * Returns whether the agent picks the pair. `strength` orders its picks; only
 * the order counts. With `reason` it writes why, for people.
 */
typedef bool (*FireFunction)(
    const SermMining *mining, const SermMinePair *pair, float *strength, StringInfo reason);

/* True when a pair with this evidence may be picked; asked before it is scored. */
typedef bool (*WorthFunction)(const SermMining *mining, uint64 impressions, uint64 clicks, int64 dwell_ms);

typedef struct Agent {
	const char *name;
	FireFunction fire;
	WorthFunction worth; /* NULL: always */
	bool needs_clicks;   /* reads the click model */
} Agent;

/* Users liked it and the model does not: (click or dwell > tau_u) and f < tau_c. */
static bool
fire_feedback(const SermMining *mining, const SermMinePair *pair, float *strength, StringInfo reason)
{
	const SermMineOptions *options = &mining->options;
	bool dwelt = pair->dwell_ms > options->tau_u_ms;

	if (!(pair->clicks > 0 || dwelt) || !(pair->score < options->tau_c))
		return false;
	*strength = (float) (options->tau_c - pair->score);
	if (reason != NULL) {
		appendStringInfo(reason, "feedback: clicked %u of %u times", pair->clicks, pair->impressions);
		if (dwelt)
			appendStringInfo(reason, ", read for %.1f s", pair->dwell_ms / 1000.0);
		appendStringInfo(reason, ", but scored %.2f < %.2f", pair->score, options->tau_c);
	}
	return true;
}

static bool
worth_feedback(
    const SermMining *mining, uint64 impressions pg_attribute_unused(), uint64 clicks, int64 dwell_ms)
{
	/* Where tau_u is left to the window it is not known yet, but never under the floor. */
	return clicks > 0 ||
	       dwell_ms > (isnan(mining->options.tau_u_ms) ? SERM_MINE_DWELL_FLOOR_MS : mining->options.tau_u_ms);
}

/* Users would like it if they saw it: attractiveness > tau_cm and f < tau_c. */
static bool
fire_clicks(const SermMining *mining, const SermMinePair *pair, float *strength, StringInfo reason)
{
	const SermMineOptions *options = &mining->options;

	if (isnan(pair->attractiveness) || !(pair->attractiveness > options->tau_cm) ||
	    !(pair->score < options->tau_c))
		return false;
	*strength = (float) (pair->attractiveness * (options->tau_c - pair->score));
	if (reason != NULL)
		appendStringInfo(reason,
		    "clicks: attractiveness %.2f > %.2f after %u impressions at mean position %.1f, but scored %.2f "
		    "< "
		    "%.2f",
		    pair->attractiveness, options->tau_cm, pair->impressions, pair->position, pair->score,
		    options->tau_c);
	return true;
}

static bool
worth_clicks(const SermMining *mining, uint64 impressions, uint64 clicks pg_attribute_unused(),
    int64 dwell_ms pg_attribute_unused())
{
	return impressions >= (uint64) mining->options.min_impressions;
}

/* The model's heads contradict each other: MD = max |f_i - f_j|. */
static bool
fire_disagreement(const SermMining *mining, const SermMinePair *pair, float *strength, StringInfo reason)
{
	if (!(pair->disagreement > mining->options.disagreement))
		return false;
	*strength = pair->disagreement;
	if (reason != NULL)
		appendStringInfo(reason, "disagreement: the heads differ by %.3f > %.3f", pair->disagreement,
		    mining->options.disagreement);
	return true;
}

/* The model cannot tell the grades apart: entropy of P(y), in nats. */
static bool
fire_uncertainty(const SermMining *mining, const SermMinePair *pair, float *strength, StringInfo reason)
{
	if (!(pair->entropy > mining->options.uncertainty))
		return false;
	*strength = pair->entropy;
	if (reason != NULL)
		appendStringInfo(
		    reason, "uncertainty: entropy %.3f > %.3f nats", pair->entropy, mining->options.uncertainty);
	return true;
}

static const Agent agents[] = {
    {"feedback", fire_feedback, worth_feedback, false},
    {"clicks", fire_clicks, worth_clicks, true},
    {"disagreement", fire_disagreement, NULL, false},
    {"uncertainty", fire_uncertainty, NULL, false},
};

StaticAssertDecl(lengthof(agents) <= 32, "agents are bits of an uint32");

int
serm_mine_agent_count(void)
{
	return lengthof(agents);
}

const char *
serm_mine_agent_name(int agent)
{
	return agents[agent].name;
}

static int
find_agent(const char *name)
{
	StringInfoData names;

	for (int i = 0; i < (int) lengthof(agents); i++)
		if (strcmp(agents[i].name, name) == 0)
			return i;
	initStringInfo(&names);
	for (int i = 0; i < (int) lengthof(agents); i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", agents[i].name);
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown mining agent \"%s\"", name),
	    errhint("The agents are %s; several are separated by commas.", names.data));
}

uint32
serm_mine_agents_parse(const char *names)
{
	char *copy = pstrdup(names);
	char *rest = copy;
	uint32 bits = 0;

	for (char *name = strsep(&rest, ","); name != NULL; name = strsep(&rest, ",")) {
		size_t length;

		name += strspn(name, " ");
		length = strcspn(name, " ");
		if (name[length + strspn(name + length, " ")] == '\0')
			name[length] = '\0';
		bits |= UINT32_C(1) << find_agent(name);
	}
	pfree(copy);
	return bits;
}

bool
serm_mine_needs_clicks(const SermMining *mining)
{
	for (int i = 0; i < (int) lengthof(agents); i++)
		if ((mining->agents & (UINT32_C(1) << i)) != 0 && agents[i].needs_clicks)
			return true;
	return false;
}

bool
serm_mine_clicks_known(const SermMining *mining)
{
	SermParam params[] = {SERM_TEXT(mining->model->name),
	    SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(mining->has_since ? mining->since : DT_NOBEGIN)),
	    mining->has_until ? SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(mining->until))
	                      : SERM_NULL(TIMESTAMPTZOID),
	    SERM_DATUM(REGCLASSOID, ObjectIdGetDatum(mining->model->log))};

	if (!mining->options.stored_clicks || !serm_mine_needs_clicks(mining))
		return false;
	serm_spi_execute("SELECT FROM serm.click_model AS c WHERE c.model = $1 AND c.kind = 'pbm' AND c.converged"
	                 " AND c.log = $4"
	                 " AND (c.since IS NULL OR c.since <= $2)"
	                 " AND coalesce(c.until, c.fitted) >= coalesce($3, now() - interval '1 day')",
	    SPI_OK_SELECT, true, params, lengthof(params));
	return SPI_processed > 0;
}

bool
serm_mine_worth_scoring(const SermMining *mining, uint64 impressions, uint64 clicks, int64 dwell_ms)
{
	for (int i = 0; i < (int) lengthof(agents); i++)
		if ((mining->agents & (UINT32_C(1) << i)) != 0 &&
		    (agents[i].worth == NULL || agents[i].worth(mining, impressions, clicks, dwell_ms)))
			return true;
	return false;
}

void
serm_mine_explain(const SermMining *mining, const SermMinePair *pair, int agent, StringInfo reason)
{
	float strength;

	if (reason->len > 0)
		appendStringInfoString(reason, "; ");
	(void) agents[agent].fire(mining, pair, &strength, reason);
}

static float *
floats(const SermMining *mining, Size count)
{
	return MemoryContextAllocHuge(mining->host.context, mul_size(count, sizeof(float)));
}

/* Thresholds that are quantiles of the window. Without pairs nothing can fire, so any number does. */
static void
resolve_thresholds(SermMining *mining)
{
	SermMineOptions *options = &mining->options;
	Size room = Max(Max(mining->pair_count, mining->dwell_count), 1);
	float *values = floats(mining, room);
	float *scratch = floats(mining, room);

	if (isnan(options->tau_u_ms)) {
		options->tau_u_ms = SERM_MINE_DWELL_FLOOR_MS;
		if (mining->dwell_count > 0)
			options->tau_u_ms = Max(options->tau_u_ms,
			    serm_select_quantile(mining->dwells, scratch, mining->dwell_count, SERM_MINE_DWELL_QUANTILE));
	}
	if (isnan(options->disagreement)) {
		for (uint32 i = 0; i < mining->pair_count; i++)
			values[i] = mining->pairs[i].disagreement;
		options->disagreement =
		    mining->pair_count == 0
		        ? 0
		        : serm_select_quantile(values, scratch, mining->pair_count, options->disagreement_quantile);
	}
	if (isnan(options->uncertainty)) {
		for (uint32 i = 0; i < mining->pair_count; i++)
			values[i] = mining->pairs[i].entropy;
		options->uncertainty =
		    mining->pair_count == 0
		        ? 0
		        : serm_select_quantile(values, scratch, mining->pair_count, options->uncertainty_quantile);
	}
	pfree(values);
	pfree(scratch);
}

static void
fit_clicks(SermMining *mining)
{
	SermPbmOptions options;
	SermPbm fitted;
	SermError error = {0};
	SermArenaMark mark = serm_arena_mark(&mining->host.arena);

	mining->clicks_fitted = serm_mine_needs_clicks(mining) && !mining->clicks_stored &&
	                        mining->impressions >= SERM_MINE_EVENTS_MIN;
	if (!mining->clicks_fitted)
		return;
	serm_pbm_defaults(&options);
	serm_host_check(&mining->host,
	    serm_pbm_fit(mining->cells, mining->cell_count, mining->stream_count, &options, &mining->host.arena,
	        serm_host_keep_going, &mining->host, &fitted, &error),
	    &error);
	for (uint32 i = 0; i < mining->pair_count; i++)
		if (mining->pairs[i].impressions >= (uint32) mining->options.min_impressions)
			mining->pairs[i].attractiveness = (float) fitted.alpha[mining->pairs[i].stream];
	serm_arena_rewind(&mining->host.arena, mark);
}

/* One agent over all pairs: its bit, and its rank among its own picks added to the priority. */
static void
fire_agent(SermMining *mining, int agent, float *strengths, float *scratch, float *ranks)
{
	uint32 picks = 0;

	for (uint32 i = 0; i < mining->pair_count; i++) {
		if (i % 65536 == 0)
			CHECK_FOR_INTERRUPTS();
		if (agents[agent].fire(mining, &mining->pairs[i], &strengths[picks], NULL)) {
			mining->pairs[i].fired |= UINT32_C(1) << agent;
			picks++;
		}
	}
	if (picks == 0)
		return;
	serm_select_ranks(strengths, picks, scratch, ranks);
	picks = 0;
	for (uint32 i = 0; i < mining->pair_count; i++)
		if ((mining->pairs[i].fired & (UINT32_C(1) << agent)) != 0)
			mining->pairs[i].priority += ranks[picks++];
}

void
serm_mine_fire(SermMining *mining)
{
	float *strengths, *scratch, *ranks;
	Size room = Max(mining->pair_count, 1);

	resolve_thresholds(mining);
	fit_clicks(mining);
	strengths = floats(mining, room);
	scratch = floats(mining, mul_size(room, 2));
	ranks = floats(mining, room);
	for (int i = 0; i < (int) lengthof(agents); i++)
		if ((mining->agents & (UINT32_C(1) << i)) != 0)
			fire_agent(mining, i, strengths, scratch, ranks);
	pfree(strengths);
	pfree(scratch);
	pfree(ranks);
	/* Clean and informative: annotators are likely to agree, and the model does not know. */
	if (mining->options.order != NULL && strcmp(mining->options.order, "margin") == 0)
		for (uint32 i = 0; i < mining->pair_count; i++) {
			SermMinePair *pair = &mining->pairs[i];

			if (pair->fired != 0)
				pair->priority = (float) (serm_mine_margin(mining, pair->score) * pair->entropy /
				                          log(mining->model->grade_count));
		}
}
