/*
 * Options of serm.evolve: its own, and an object of options for each of mine,
 * train and gate. A round stores every one with the value it used.
 */
#include "pg/serm.h"

#include "core/stats/gate.h"
#include "pg/evolve/round.h"
#include "utils/json.h"

#define WHAT "serm.evolve"
#define BUDGET 1000
/* 40 are what a measurement on real judges supports; some answers fail. */
#define GOLD 50
/* A few weeks of rounds: one alone mines too few test queries to see anything. */
#define RECENT_ROUNDS 3

/* The last line only makes the hint of an unknown option name the objects too. */
static const SermOption round_table[] = {
    {"budget", SERM_OPTION_INT, offsetof(SermRoundSettings, budget), 1, 10000000, NULL},
    {"gold", SERM_OPTION_INT, offsetof(SermRoundSettings, gold), 0, 100000, NULL},
    {"since", SERM_OPTION_TEXT, offsetof(SermRoundSettings, since), 0, 0, NULL},
    {"until", SERM_OPTION_TEXT, offsetof(SermRoundSettings, until), 0, 0, NULL},
    {"explore", SERM_OPTION_REAL, offsetof(SermRoundSettings, explore), 0, 1, NULL},
    {"seed", SERM_OPTION_INT, offsetof(SermRoundSettings, seed), 0, PG_INT32_MAX, NULL},
    {"restart", SERM_OPTION_BOOL, offsetof(SermRoundSettings, restart), 0, 1, NULL},
    {"mine, train, gate", SERM_OPTION_TEXT, offsetof(SermRoundSettings, mine), 0, 0, ""},
};
/* Explore and seed are stored where they take effect, in the options of mine and train. */
#define STORED_COUNT 4

static const SermOption gate_table[] = {
    {"margin", SERM_OPTION_REAL, offsetof(SermGateSettings, margin), 0, 1, NULL},
    {"confidence", SERM_OPTION_REAL, offsetof(SermGateSettings, confidence), .5, .9999, NULL},
    {"min_queries", SERM_OPTION_INT, offsetof(SermGateSettings, min_queries), 1, 1000000, NULL},
    {"draws", SERM_OPTION_INT, offsetof(SermGateSettings, draws), 100, 1000000, NULL},
    {"recent", SERM_OPTION_TEXT, offsetof(SermGateSettings, recent), 0, 0, "lenient, strict, off"},
    {"recent_min_queries", SERM_OPTION_INT, offsetof(SermGateSettings, recent_min_queries), 1, 1000000, NULL},
    {"recent_rounds", SERM_OPTION_INT, offsetof(SermGateSettings, recent_rounds), 1, 1000000, NULL},
};

static void
defaults(SermRoundSettings *settings, const char *kind)
{
	SermGateOptions gate;

	serm_gate_defaults(&gate);
	memset(settings, 0, sizeof(*settings));
	settings->budget = BUDGET;
	settings->gold = GOLD;
	settings->seed = -1;
	settings->explore = -1;
	serm_train_settings_defaults(&settings->train, kind);
	settings->gate = (SermGateSettings){.margin = gate.margin,
	    .confidence = gate.confidence,
	    .min_queries = (int32) gate.queries_min,
	    .draws = (int32) gate.draws,
	    .recent = pstrdup(serm_recent_rule_name(gate.recent)),
	    .recent_min_queries = (int32) gate.recent_queries_min,
	    .recent_rounds = RECENT_ROUNDS};
}

/* A time as it will always be read: "yesterday" means the day before this call, also when the round is
 * resumed. */
static char *
fix_time(const char *text)
{
	Datum time;

	if (text == NULL)
		return NULL;
	time = DirectFunctionCall3(
	    timestamptz_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return JsonEncodeDateTime(NULL, time, TIMESTAMPTZOID, NULL);
}

void
serm_round_settings_read(const Jsonb *options, const char *kind, SermRoundSettings *settings)
{
	Jsonb *own = serm_json_merge(serm_json_end(serm_json_begin()), options);
	Jsonb *train, *gate;
	char *recent;

	defaults(settings, kind);
	settings->mine = serm_json_take_object(&own, "mine", WHAT);
	train = serm_json_take_object(&own, "train", WHAT);
	gate = serm_json_take_object(&own, "gate", WHAT);
	serm_options_read(own, round_table, lengthof(round_table), settings, WHAT);
	settings->since = fix_time(settings->since);
	settings->until = fix_time(settings->until);
	if (settings->seed >= 0)
		settings->train.seed = settings->seed;
	if (train != NULL && serm_json_has(train, "promote"))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"promote\" of serm.evolve train does not exist"),
		    errhint(
		        "In a round the gate decides; its options are margin, confidence, min_queries, draws, recent,"
		        " recent_min_queries, recent_rounds."));
	serm_train_settings_read(train, &settings->train, WHAT " train");
	recent = settings->gate.recent;
	serm_options_read(gate, gate_table, lengthof(gate_table), &settings->gate, WHAT " gate");
	if (settings->gate.recent == NULL)
		settings->gate.recent = recent;
}

/* The options of mining as it will use them: its own defaults, under those of the round. */
static Jsonb *
mining_options(const SermModelRow *row, const SermRoundSettings *settings)
{
	StringInfo json = serm_json_begin();
	Jsonb *options;
	bool null;
	SermParam params[2] = {SERM_TEXT(row->name)};

	if (settings->explore >= 0)
		serm_json_number(json, "explore", settings->explore);
	if (settings->seed >= 0)
		serm_json_number(json, "seed", settings->seed);
	options = serm_json_end(json);
	if (settings->mine != NULL)
		options = serm_json_merge(options, settings->mine);
	params[1] = SERM_DATUM(JSONBOID, JsonbPGetDatum(options));
	serm_spi_execute(
	    "SELECT pg_catalog.jsonb_strip_nulls(serm.mine_options($1, $2))", SPI_OK_SELECT, true, params, 2);
	return DatumGetJsonbPCopy(serm_spi_value(0, 1, &null));
}

Jsonb *
serm_round_settings_write(const SermModelRow *row, const SermRoundSettings *settings)
{
	StringInfo json = serm_json_begin();

	serm_json_jsonb(json, "mine", mining_options(row, settings));
	serm_json_jsonb(json, "train", serm_train_settings_write(&settings->train));
	serm_json_jsonb(json, "gate", serm_options_write(gate_table, lengthof(gate_table), &settings->gate));
	return serm_json_merge(serm_options_write(round_table, STORED_COUNT, settings), serm_json_end(json));
}

/* Options of a round that stand in an object of their own once they are stored. */
static const char *const parts[] = {"mine", "train", "gate"};
enum { PART_MINE, PART_TRAIN };

/* The part of `given` with the round's own option `key` under it, where that is given. */
static Jsonb *
with_option(const Jsonb *given, const char *key, Jsonb *part)
{
	StringInfo json = serm_json_begin();
	Jsonb *option;

	if (!serm_json_has(given, key))
		return part;
	serm_json_jsonb(json, key,
	    DatumGetJsonbP(
	        DirectFunctionCall2(jsonb_object_field, JsonbPGetDatum(given), CStringGetTextDatum(key))));
	option = serm_json_end(json);
	return part == NULL ? option : serm_json_merge(option, part);
}

Jsonb *
serm_round_options_lay(const Jsonb *stored, const Jsonb *given, const char *phase)
{
	static const char *const mining[] = {"budget", "gold", "since", "until", "explore", "mine"};
	bool mined = strcmp(phase, "mining") != 0, trained = strcmp(phase, "gating") == 0;
	Jsonb *old = serm_json_merge(serm_json_end(serm_json_begin()), stored);
	Jsonb *new = DatumGetJsonbP(DirectFunctionCall1(jsonb_strip_nulls, JsonbPGetDatum(given)));
	StringInfo json = serm_json_begin();

	for (int i = 0; mined && i < (int) lengthof(mining); i++)
		new = serm_json_without(new, mining[i]);
	if (trained)
		new = serm_json_without(serm_json_without(new, "train"), "seed");
	for (int i = 0; i < (int) lengthof(parts); i++) {
		Jsonb *before = serm_json_take_object(&old, parts[i], WHAT);
		Jsonb *part = serm_json_take_object(&new, parts[i], WHAT);

		if (i == PART_TRAIN || (i == PART_MINE && !mined))
			part = with_option(new, "seed", part);
		if (i == PART_MINE)
			part = with_option(new, "explore", part);
		if (before != NULL && part != NULL)
			part = serm_json_merge(before, part);
		if (before != NULL || part != NULL)
			serm_json_jsonb(json, parts[i], part != NULL ? part : before);
	}
	new = serm_json_without(serm_json_without(new, "seed"), "explore");
	return serm_json_merge(serm_json_merge(old, new), serm_json_end(json));
}
