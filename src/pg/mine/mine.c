/*
 * The SQL functions of mining: arguments in, rows out. All of them read only;
 * with a fixed seed the same log and model give the same rows.
 */
#include "pg/mine/mine.h"

#include <math.h>

#include "access/tupdesc.h"
#include "catalog/pg_collation.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#define BUDGET_DEFAULT 1000
/* Bytes of core working memory per pair, with room for the arena's doubling: click model and selection. */
#define ARENA_BYTES_PER_PAIR 256
#define ARENA_BYTES_MIN ((Size) 64 * 1024 * 1024)
#define EXPLORE_NAME "explore"
#define SEGMENT_NAME "segment"

typedef struct Output {
	SermMining *mining;
	SermSelection selection;
	TupleDesc description;
	bool single; /* of one agent: a score instead of the array of agents */
	char *thresholds;
	MemoryContext row;
} Output;

static SermMining *
begin_mining(FunctionCallInfo fcinfo, const Jsonb *options)
{
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "serm mining", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermMining *mining = palloc0(sizeof(SermMining));
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));

	serm_host_init(
	    &mining->host, context, ARENA_BYTES_MIN + mul_size(ARENA_BYTES_PER_PAIR, (Size) serm_mine_pairs_max));
	serm_mine_options_read(options, &mining->options);
	mining->model = serm_model_read(model);
	serm_mine_options_resolve(mining->model, &mining->options);
	mining->has_since = !PG_ARGISNULL(1);
	mining->has_until = !PG_ARGISNULL(2);
	mining->since = mining->has_since ? PG_GETARG_TIMESTAMPTZ(1) : 0;
	mining->until = mining->has_until ? PG_GETARG_TIMESTAMPTZ(2) : 0;
	MemoryContextSwitchTo(previous);
	return mining;
}

static void
gather(SermMining *mining)
{
	int level = serm_spi_begin(false);

	serm_mine_gather(mining);
	serm_mine_read_margins(mining);
	serm_mine_quotas(mining);
	serm_spi_end(level);
	serm_mine_fire(mining);
}

static void
select_pairs(SermMining *mining, uint32 budget, SermSelection *selection)
{
	SermSelectOptions options = {.budget = budget,
	    .per_query = (uint32) mining->options.per_query,
	    .explore = mining->explore ? mining->options.explore : 0,
	    .temperature = mining->options.temperature,
	    .seed = (uint64) mining->options.seed,
	    .agent_quota = mining->agent_quota,
	    .agent_quota_count = mining->agent_quota_count,
	    .segment_quota = mining->segment_quota,
	    .segment_quota_count = mining->segment_quota_count,
	    .distinct = mining->options.distinct};
	SermCandidate *candidates = MemoryContextAllocHuge(
	    mining->host.context, mul_size(Max(mining->pair_count, 1), sizeof(SermCandidate)));
	SermError error = {0};

	for (uint32 i = 0; i < mining->pair_count; i++) {
		const SermMinePair *pair = &mining->pairs[i];

		candidates[i] = (SermCandidate){pair->key, pair->query, pair->fired != 0, pair->priority, pair->fired,
		    pair->segment, pair->signature};
	}
	serm_host_check(&mining->host,
	    serm_select_pairs(candidates, mining->pair_count, mining->query_count, &options, &mining->host.arena,
	        serm_host_keep_going, &mining->host, selection, &error),
	    &error);
	pfree(candidates);
}

static char *
thresholds_json(const SermMining *mining, const SermSelection *selection, bool single)
{
	const SermMineOptions *options = &mining->options;
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json,
	    "{\"tau_c\": %.9g, \"tau_u_ms\": %.9g, \"tau_cm\": %.9g, \"min_impressions\": %d, \"disagreement\": "
	    "%.9g, \"uncertainty\": %.9g",
	    options->tau_c, options->tau_u_ms, options->tau_cm, options->min_impressions, options->disagreement,
	    options->uncertainty);
	if (!single)
		appendStringInfo(&json, ", \"explore\": %.9g, \"per_query\": %u, \"temperature\": %.9g, \"seed\": %d",
		    options->explore, selection->per_query, options->temperature, options->seed);
	if (!single && options->distinct)
		appendStringInfo(&json, ", \"copies\": %u", selection->copies);
	if (mining->clicks_stored)
		appendStringInfoString(&json, ", \"stored_clicks\": true");
	if (mining->drifted != NULL) {
		appendStringInfoString(&json, ", \"drifted\": ");
		escape_json(&json, mining->drifted);
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

static Datum
signals_datum(const Output *output, const SermMinePair *pair)
{
	char shown[MAXDATELEN + 1];
	StringInfoData json;

	initStringInfo(&json);
	JsonEncodeDateTime(shown, TimestampTzGetDatum(pair->last_shown), TIMESTAMPTZOID, NULL);
	appendStringInfo(&json,
	    "{\"score\": %.7g, \"entropy\": %.7g, \"disagreement\": %.7g, \"impressions\": %u, \"clicks\": %u, "
	    "\"position\": %.7g, \"last_shown\": \"%s\", \"version\": %d",
	    pair->score, pair->entropy, pair->disagreement, pair->impressions, pair->clicks, pair->position,
	    shown, serm_scorer_version(output->mining->scorer));
	if (pair->dwell_ms >= 0)
		appendStringInfo(&json, ", \"dwell_ms\": %d", pair->dwell_ms);
	if (!isnan(pair->attractiveness))
		appendStringInfo(&json, ", \"attractiveness\": %.7g", pair->attractiveness);
	if (pair->segment != SERM_SELECT_ALL) {
		appendStringInfoString(&json, ", \"segment\": ");
		escape_json(&json, output->mining->segments[pair->segment]);
	}
	appendStringInfo(&json, ", \"margin\": %.7g", serm_mine_margin(output->mining, pair->score));
	appendStringInfo(&json, ", \"thresholds\": %s}", output->thresholds);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* The names of the agents that fired, and why. */
static Datum
agents_datum(const Output *output, const SermMinePair *pair, uint8 choice, StringInfo reason)
{
	Datum names[32 + 1];
	int count = 0;

	if (choice == SERM_CHOICE_SEGMENT) {
		names[count++] = CStringGetTextDatum(SEGMENT_NAME);
		appendStringInfo(reason, SEGMENT_NAME ": drawn at random for the quota of segment %s",
		    output->mining->segments[pair->segment]);
	}
	if (choice == SERM_CHOICE_EXPLORED) {
		names[count++] = CStringGetTextDatum(EXPLORE_NAME);
		appendStringInfoString(reason, EXPLORE_NAME ": drawn at random from the stream");
	}
	for (int i = 0; i < serm_mine_agent_count(); i++)
		if ((pair->fired & (UINT32_C(1) << i)) != 0) {
			names[count++] = CStringGetTextDatum(serm_mine_agent_name(i));
			serm_mine_explain(output->mining, pair, i, reason);
		}
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
fill_row(const Output *output, uint32 index, TupleTableSlot *texts, TupleTableSlot *row)
{
	const SermMinePair *pair = &output->mining->pairs[index];
	StringInfoData reason;
	Datum agents;

	initStringInfo(&reason);
	agents = agents_datum(output, pair, output->selection.choice[index], &reason);
	ExecClearTuple(row);
	slot_getallattrs(texts);
	for (int i = 0; i < 3; i++)
		row->tts_values[i] = texts->tts_values[i];
	row->tts_values[3] = output->single ? Float4GetDatum(pair->score) : agents;
	row->tts_values[4] = signals_datum(output, pair);
	row->tts_values[5] = Float4GetDatum(pair->priority);
	row->tts_values[6] = CStringGetTextDatum(reason.data);
	memset(row->tts_isnull, 0, 7 * sizeof(bool));
	ExecStoreVirtualTuple(row);
}

/* Highest priority first; ties by query and document id, so that the order is the same everywhere. */
static Tuplesortstate *
begin_sort(TupleDesc description)
{
	TypeCacheEntry *number = lookup_type_cache(FLOAT4OID, TYPECACHE_GT_OPR);
	TypeCacheEntry *words = lookup_type_cache(TEXTOID, TYPECACHE_LT_OPR);
	AttrNumber columns[] = {6, 1, 2};
	Oid operators[] = {number->gt_opr, words->lt_opr, words->lt_opr};
	Oid collations[] = {InvalidOid, C_COLLATION_OID, C_COLLATION_OID};
	bool nulls_first[] = {false, false, false};

	return tuplesort_begin_heap(description, lengthof(columns), columns, operators, collations, nulls_first,
	    work_mem, NULL, TUPLESORT_NONE);
}

static void
put_rows(Output *output, ReturnSetInfo *result)
{
	const SermMining *mining = output->mining;
	TupleTableSlot *texts = MakeSingleTupleTableSlot(mining->texts_desc, &TTSOpsMinimalTuple);
	TupleTableSlot *row = MakeSingleTupleTableSlot(output->description, &TTSOpsVirtual);
	TupleTableSlot *sorted = MakeSingleTupleTableSlot(output->description, &TTSOpsMinimalTuple);
	Tuplesortstate *sort = begin_sort(output->description);

	for (uint32 i = 0; i < mining->pair_count; i++) {
		CHECK_FOR_INTERRUPTS();
		if (!tuplestore_gettupleslot(mining->texts, true, false, texts))
			elog(ERROR, "a mined pair has lost its texts");
		if (output->selection.choice[i] != SERM_CHOICE_NONE) {
			MemoryContext previous = MemoryContextSwitchTo(output->row);

			fill_row(output, i, texts, row);
			tuplesort_puttupleslot(sort, row);
			MemoryContextSwitchTo(previous);
			MemoryContextReset(output->row);
		}
	}
	tuplesort_performsort(sort);
	while (tuplesort_gettupleslot(sort, true, false, sorted, NULL))
		tuplestore_puttupleslot(result->setResult, sorted);
	tuplesort_end(sort);
	ExecDropSingleTupleTableSlot(texts);
	ExecDropSingleTupleTableSlot(row);
	ExecDropSingleTupleTableSlot(sorted);
}

static void
finish_mining(SermMining *mining, FunctionCallInfo fcinfo, uint32 budget, bool single)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext previous = MemoryContextSwitchTo(mining->host.context);
	Output output = {.mining = mining, .description = result->setDesc, .single = single};

	select_pairs(mining, budget, &output.selection);
	output.thresholds = thresholds_json(mining, &output.selection, single);
	output.row = AllocSetContextCreate(mining->host.context, "serm mining output", ALLOCSET_DEFAULT_SIZES);
	put_rows(&output, result);
	MemoryContextSwitchTo(previous);

	serm_scorer_close(mining->scorer);
	tuplestore_end(mining->texts);
	MemoryContextDelete(mining->host.context);
}

/* All picks of one agent: (model text, since timestamptz, until timestamptz, options jsonb). */
static Datum
mine_agent(FunctionCallInfo fcinfo, const char *agent)
{
	SermMining *mining;

	InitMaterializedSRF(fcinfo, 0);
	mining = begin_mining(fcinfo, PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3));
	if (mining->options.agents != NULL)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"agents\" is for serm.mine, not for a function of one agent"),
		    errhint("Remove the option, or call serm.mine."));
	mining->agents = serm_mine_agents_parse(agent);
	gather(mining);
	finish_mining(mining, fcinfo, SERM_SELECT_ALL, true);
	return (Datum) 0;
}

SERM_FUNCTION(serm_mine_feedback);
Datum
serm_mine_feedback(PG_FUNCTION_ARGS)
{
	return mine_agent(fcinfo, "feedback");
}

SERM_FUNCTION(serm_mine_clicks);
Datum
serm_mine_clicks(PG_FUNCTION_ARGS)
{
	return mine_agent(fcinfo, "clicks");
}

SERM_FUNCTION(serm_mine_disagreement);
Datum
serm_mine_disagreement(PG_FUNCTION_ARGS)
{
	return mine_agent(fcinfo, "disagreement");
}

SERM_FUNCTION(serm_mine_uncertainty);
Datum
serm_mine_uncertainty(PG_FUNCTION_ARGS)
{
	return mine_agent(fcinfo, "uncertainty");
}

/* The union under a budget: (model text, since timestamptz, until timestamptz, budget int, options jsonb). */
SERM_FUNCTION(serm_mine);
Datum
serm_mine(PG_FUNCTION_ARGS)
{
	int32 budget = PG_ARGISNULL(3) ? BUDGET_DEFAULT : PG_GETARG_INT32(3);
	SermMining *mining;

	if (budget < 1)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the budget must be at least 1, not %d", budget),
		    errhint("The budget is the number of pairs to return."));
	InitMaterializedSRF(fcinfo, 0);
	mining = begin_mining(fcinfo, PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4));
	mining->agents = mining->options.agents != NULL ? serm_mine_agents_parse(mining->options.agents)
	                                                : (UINT32_C(1) << serm_mine_agent_count()) - 1;
	mining->explore = mining->options.explore > 0;
	gather(mining);
	finish_mining(mining, fcinfo, (uint32) budget, false);
	return (Datum) 0;
}

/* serm.mine_options(model text, options jsonb): the options with the defaults of the model filled in. */
SERM_FUNCTION(serm_mine_options);
Datum
serm_mine_options(PG_FUNCTION_ARGS)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	SermMineOptions options;

	serm_mine_options_read(PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1), &options);
	serm_mine_options_resolve(serm_model_read(model), &options);
	PG_RETURN_JSONB_P(serm_mine_options_write(&options));
}
