/*
 * serm.train: judged pairs become a candidate version; serm.pretrain: a version without any.
 *
 * Three steps: read everything in one transaction; compute with no transaction
 * to speak of (no snapshot, no transaction id, no lock), where only the
 * progress row is written and committed now and then; store in one transaction.
 * A process killed before the last commit leaves nothing but its progress row.
 */
#include "pg/serm.h"

#include <math.h>

#include "access/xact.h"
#include "core/model/cross_encoder_stored.h"
#include "pg/evolve/evolve.h"
#include "pg/store/blas.h"
#include "utils/json.h"

/* How many pairs prove that training and serving agree; an encoder takes milliseconds for each. */
#define PROBE_PAIRS 1000
#define ENCODER_PROBE_PAIRS 100

/* --- callbacks of core: nothing may leave them by longjmp */

static void
tell(SermTraining *training, const SermTrainProgress *report)
{
	if (report->step == 0 || report->steps <= 1 || report->step == training->told)
		return;
	training->told = report->step;
	ereport(NOTICE, errmsg("%s: %s, epoch %u of %u, loss %.4f", training->row->name, report->phase,
	                    report->step, report->steps, report->loss));
}

static void
report_progress(void *context, const SermTrainProgress *report)
{
	SermTraining *training = context;
	MemoryContext previous = CurrentMemoryContext;

	if (training->host.pending != NULL)
		return;
	PG_TRY();
	{
		tell(training, report);
		serm_progress_report(training->progress, training->level, report);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(previous);
		serm_host_keep_error(&training->host);
	}
	PG_END_TRY();
}

/* --- computing */

static SermTrainingSet
training_set(SermTraining *training)
{
	const SermPairSet *pairs = training->teaching != NULL ? &training->teaching->all : &training->train;
	SermText *queries = serm_arena_array(&training->host.arena, Max(pairs->query_count, 1), sizeof(SermText));
	SermExample *examples =
	    serm_arena_array(&training->host.arena, Max(pairs->pair_count, 1), sizeof(SermExample));
	SermTrainingSet set = {.grade_count = (uint32) training->row->grade_count,
	    .queries = queries,
	    .query_count = pairs->query_count,
	    .examples = examples,
	    .example_count = pairs->pair_count,
	    .corpus = training->corpus,
	    .corpus_count = training->corpus_count};
	SermError error = {0};

	if (queries == NULL || examples == NULL)
		serm_check(SERM_ERR_MEMORY, &error);
	for (size_t q = 0; q < pairs->query_count; q++)
		queries[q] = pairs->queries[q].utf8;
	for (size_t i = 0; i < pairs->pair_count; i++) {
		const SermPair *pair = &pairs->pairs[i];

		examples[i] = (SermExample){.query = pair->query, .doc = pair->doc.utf8, .weight = pair->weight};
		memcpy(examples[i].target, pair->target, sizeof(pair->target));
	}
	set.propensity = training->propensity;
	if (training->teaching != NULL) {
		set.teacher = training->teaching->probability;
		set.teacher_weight = training->teaching->weight;
		set.judged = training->teaching->judged;
	}
	if (training->parent != NULL) {
		uint8 *origin = serm_arena_alloc(&training->host.arena, Max(pairs->pair_count, 1));

		if (origin == NULL)
			serm_check(SERM_ERR_MEMORY, &error);
		for (size_t i = 0; i < pairs->pair_count; i++)
			origin[i] = pairs->pairs[i].origin;
		set.origin = origin;
		set.parent = serm_scorer_model(training->parent);
	}
	if (training->reference != NULL) {
		SermPredictions predictions;

		serm_predict_scorer(&training->host, training->reference, pairs, &predictions);
		set.reference = predictions.score;
		set.teacher = predictions.probability;
	}
	return set;
}

/* What there is without judgments. */
static SermColdSet
cold_set(SermTraining *training)
{
	const SermPairSet *pairs = &training->shown;
	SermArena *arena = &training->host.arena;
	SermText *queries = serm_arena_array(arena, Max(pairs->query_count, 1), sizeof(SermText));
	SermShownPair *shown = serm_arena_array(arena, Max(pairs->pair_count, 1), sizeof(SermShownPair));
	SermError error = {0};

	if (queries == NULL || shown == NULL)
		serm_check(serm_fail(&error, SERM_ERR_MEMORY, "training does not fit into its memory limit"), &error);
	for (size_t q = 0; q < pairs->query_count; q++)
		queries[q] = pairs->queries[q].utf8;
	for (size_t i = 0; i < pairs->pair_count; i++)
		shown[i] = (SermShownPair){pairs->pairs[i].query, pairs->pairs[i].doc.utf8};
	return (SermColdSet){.grade_count = (uint32) training->row->grade_count,
	    .corpus = training->corpus,
	    .corpus_count = training->corpus_count,
	    .queries = queries,
	    .query_count = pairs->query_count,
	    .pairs = shown,
	    .pair_count = pairs->pair_count};
}

/* The version that losses compare with; it is scored once the transaction has ended. */
static void
open_reference(SermTraining *training)
{
	const SermModelRow *row = training->row;

	if (!serm_train_settings_need_reference(&training->settings))
		return;
	if (training->settings.reference == 0 && row->active == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("loss \"%s\" needs a reference, and model \"%s\" has no active version",
		        training->settings.loss, row->name),
		    errhint("CALL serm.train('%s') without it first, or name a version in the option \"reference\".",
		        row->name));
	training->reference =
	    serm_scorer_open(row->name, training->settings.reference, SERM_SEE_WRITES, training->host.context);
}

/* The options as they were used. */
static Jsonb *
write_settings(const SermTraining *training)
{
	Jsonb *written = training->cold               ? serm_pretrain_settings_write(&training->settings)
	                 : training->teaching != NULL ? serm_distill_settings_write(&training->settings)
	                                              : serm_train_settings_write(&training->settings);

	return training->settings.encoder ? serm_json_merge(serm_encoder_json(&training->tensors), written)
	                                  : written;
}

/* What a version says about its making. */
static Jsonb *
describe(const SermTraining *training)
{
	StringInfo json = serm_json_begin();

	serm_json_text(json, "kind", training->row->kind);
	serm_json_text(json, "labels", training->row->options.labels);
	serm_json_number(json, "epochs", training->report.epochs);
	serm_json_text(json, "gemm", training->gemm_name);
	if (training->begin != 0)
		serm_json_number(json, "begun_with", training->begin);
	serm_json_number(json, "seconds", training->report.seconds);
	serm_json_number(json, "final_loss", training->report.loss);
	serm_json_number(json, "temperature", training->report.temperature);
	serm_json_number(json, "temperature_gain", training->report.temperature_gain);
	serm_json_number(
	    json, "reference", training->reference != NULL ? serm_scorer_version(training->reference) : NAN);
	if (training->examination != NULL)
		serm_json_jsonb(json, "examination", training->examination);
	serm_json_number(
	    json, "continued_from", training->parent != NULL ? serm_scorer_version(training->parent) : NAN);
	if (training->cold)
		serm_json_number(json, "generation", 0);
	if (training->teaching != NULL)
		serm_teaching_describe(training, json);
	return serm_json_merge(write_settings(training), serm_json_end(json));
}

static Jsonb *
count_data(const SermTraining *training)
{
	static const char *const names[SERM_ORIGIN_COUNT] = {"new", "history", "original"};
	StringInfo json = serm_json_begin();
	int64 origins[SERM_ORIGIN_COUNT] = {0};

	serm_json_number(json, "judgments", (double) training->train.pair_count);
	serm_json_number(json, "queries", (double) training->train.query_count);
	serm_json_number(json, "documents", (double) training->corpus_count);
	if (training->teaching != NULL)
		serm_teaching_count(training, json);
	if (training->cold)
		serm_json_number(json, "shown_pairs", (double) training->shown.pair_count);
	serm_json_number(json, "test_judgments", (double) training->test.pair_count);
	serm_json_number(json, "test_queries", (double) training->test.query_count);
	for (size_t i = 0; i < training->train.pair_count; i++)
		origins[training->train.pairs[i].origin]++;
	for (int origin = 0; training->parent != NULL && origin < SERM_ORIGIN_COUNT; origin++)
		serm_json_number(json, names[origin], (double) origins[origin]);
	return serm_json_end(json);
}

/* What the version forgets of what its parent knew: on the old judgments of the test split. */
static Jsonb *
measure_forgetting(SermTraining *training, const SermModel *model)
{
	SermHost *host = &training->host;
	SermPairSet old;
	SermPredictions predictions;
	SermEvaluation before, after;
	StringInfo json = serm_json_begin();

	serm_pairs_old(host, &training->test, &old);
	serm_predict_scorer(host, training->parent, &old, &predictions);
	serm_evaluate(host, &predictions, &before);
	serm_predict_model(host, model, &old, &predictions);
	serm_evaluate(host, &predictions, &after);
	serm_json_jsonb(json, "forgetting",
	    serm_forgetting_json(host, serm_scorer_version(training->parent), &before, &after));
	return serm_json_end(json);
}

/* The checksums let serm.check_version compare; the time tells what is new to a version that continues. */
static Jsonb *
describe_data(const SermTraining *training, const SermPredictions *probe)
{
	StringInfo json = serm_json_begin();

	serm_json_text(json, "read_at",
	    JsonEncodeDateTime(NULL, TimestampTzGetDatum(training->read_at), TIMESTAMPTZOID, NULL));
	serm_json_number(json, "probe_pairs", (double) probe->set->pair_count);
	serm_json_number(json, "probe_crc32c", serm_pairs_crc(probe->set));
	serm_json_number(json, "score_crc32c", serm_predictions_crc(probe));
	return serm_json_end(json);
}

void
serm_training_measure(SermTraining *training, const Jsonb *config)
{
	SermHost *host = &training->host;
	const SermWatch watch = {serm_host_keep_going, host};
	const SermModelSettings settings = {.chunk_count = 1, .watch = &watch};
	SermModel *model;
	SermPredictions test, probe;
	SermEvaluation evaluation;
	SermError error = {0};

	serm_host_check(host,
	    serm_model_open_with(
	        training->row->kind, &training->tensors, &settings, &host->arena, &model, &error),
	    &error);
	serm_model_set_host(model, serm_host_keep_going, host);
	serm_predict_model(host, model, &training->test, &test);
	serm_evaluate(host, &test, &evaluation);
	training->metrics = serm_evaluation_json(host, &evaluation, training->test_is_gold);
	if (training->parent != NULL)
		training->metrics = serm_json_merge(training->metrics, measure_forgetting(training, model));
	serm_predict_model(host, model, &training->probe, &probe);
	training->config = serm_json_merge(config, describe_data(training, &probe));
	training->counts = count_data(training);
}

TimestampTz
serm_model_created(const char *model, bool lock)
{
	SermParam params[] = {SERM_TEXT(model)};
	bool null;

	serm_spi_execute(lock ? "SELECT m.created FROM serm.model m WHERE m.name = $1 FOR UPDATE"
	                      : "SELECT m.created FROM serm.model m WHERE m.name = $1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed == 0 ? 0 : DatumGetTimestampTz(serm_spi_value(0, 1, &null));
}

/* What takes part in every kind of training. */
static void
read_corpus(SermTraining *training)
{
	SermHost *host = &training->host;

	bool encoder = training->settings.encoder;

	training->test_is_gold = serm_pairs_keep_gold(&training->test);
	serm_probe_read(host, training->row, encoder ? ENCODER_PROBE_PAIRS : PROBE_PAIRS, &training->probe);
	/* A version that continues has the words and embeddings of its parent, an encoder those it begins with.
	 */
	if (training->parent == NULL && (!encoder || training->cold))
		serm_corpus_read(
		    host, training->row, training->settings.corpus, &training->corpus, &training->corpus_count);
}

static void
read_data(SermTraining *training)
{
	SermHost *host = &training->host;
	const SermModelRow *row = training->row;
	bool agreed = strcmp(row->options.labels, "agreed") == 0;
	double weight[SERM_SOURCE_COUNT];
	SermPairWindow window;
	size_t judged;

	training->created = serm_model_created(row->name, false);
	training->read_at = GetCurrentTransactionStartTimestamp();
	if (training->settings.encoder)
		serm_encoder_training_open(training);
	else
		serm_training_open_parent(training);
	window = serm_training_window(training);
	serm_pairs_read_window(host, row, agreed, &window, &training->train, &training->test);
	judged = training->train.pair_count;
	serm_train_settings_sources(&training->settings, weight);
	serm_pairs_weigh_sources(&training->train, weight);
	if (training->train.pair_count == 0 && judged > 0 && training->settings.distill.teacher == NULL)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"source_weights\" leaves no judgment to train on"),
		    errhint("Give the source of some judgments a weight above 0."));
	read_corpus(training);
	open_reference(training);
	if (training->settings.distill.teacher != NULL)
		serm_teaching_read(training);
	training->cold = judged == 0 && training->test.pair_count == 0 && training->parent == NULL &&
	                 training->teaching == NULL && !training->settings.encoder;
	if (training->cold)
		serm_shown_read(host, row, training->settings.shown, &training->shown);
	else if (training->settings.propensity)
		training->clicks = serm_propensity_read(host, row);
}

static void
read_cold_data(SermTraining *training)
{
	const SermModelRow *row = training->row;

	training->cold = true;
	training->created = serm_model_created(row->name, false);
	training->read_at = GetCurrentTransactionStartTimestamp();
	serm_pairs_read(&training->host, row, strcmp(row->options.labels, "agreed") == 0, NULL, &training->test);
	read_corpus(training);
	serm_shown_read(&training->host, row, training->settings.shown, &training->shown);
}

static void
begin(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level)
{
	if (strcmp(row->kind, "interaction") != 0 && strcmp(row->kind, SERM_KIND_CROSS_ENCODER) != 0)
		ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		    errmsg("models of kind \"%s\" cannot be trained here", row->kind));
	*training = (SermTraining){.row = row, .settings = *settings, .progress = progress, .level = level};
	serm_host_init(&training->host, context, (Size) serm_train_memory_mb * 1024 * 1024);
}

SermTrainHost
serm_training_host(SermTraining *training)
{
	return (SermTrainHost){.keep_going = serm_host_keep_going,
	    .progress = report_progress,
	    .clock = serm_progress_clock,
	    .context = training};
}

void
serm_training_fit(SermTraining *training, const SermTrainingSet *set)
{
	SermTrainHost host = serm_training_host(training);
	SermTrainOptions options = serm_train_settings_core(&training->settings);

	if (training->settings.encoder)
		serm_encoder_training_fit(training, set);
	else {
		host.gemm = serm_blas_gemm(&training->gemm_name);
		training->status = serm_train_interaction(set, &options, &host, &training->host.arena,
		    &training->tensors, &training->report, &training->error);
	}
	if (training->host.pending != NULL)
		serm_host_check(&training->host, training->status, &training->error);
}

static void
fit_cold(SermTraining *training)
{
	SermTrainHost host = serm_training_host(training);
	SermTrainOptions options = serm_train_settings_core(&training->settings);

	if (training->settings.encoder)
		serm_encoder_training_make(training);
	else {
		SermColdSet set = cold_set(training);

		host.gemm = serm_blas_gemm(&training->gemm_name);
		training->status = serm_train_cold(&set, &options, &host, &training->host.arena, &training->tensors,
		    &training->report, &training->error);
	}
	if (training->host.pending != NULL)
		serm_host_check(&training->host, training->status, &training->error);
}

/* Everything is read, and the transaction has ended. */
static void
compute(SermTraining *training)
{
	SermTrainingSet set;

	if (training->teaching != NULL)
		serm_teaching_ask(training);
	if (training->clicks != NULL)
		training->propensity = serm_propensity_fit(&training->host, training->clicks,
		    training->teaching != NULL ? &training->teaching->all : &training->train, &training->examination);
	if (training->cold)
		fit_cold(training);
	else {
		set = training_set(training);
		serm_training_fit(training, &set);
	}
	if (training->status == SERM_OK)
		serm_training_measure(training, describe(training));
}

void
serm_training_run(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level)
{
	begin(training, context, row, settings, progress, level);
	read_data(training);
	serm_spi_commit(level);
	if (training->train.pair_count == 0 && !training->cold && training->teaching == NULL) {
		training->status = serm_fail(&training->error, SERM_ERR_NO_DATA,
		    training->test.pair_count == 0 ? "model \"%s\" has no judgments to train on"
		                                   : "all judged queries of model \"%s\" are in the test split",
		    row->name);
		return;
	}
	compute(training);
}

void
serm_training_run_cold(SermTraining *training, MemoryContext context, const SermModelRow *row,
    const SermTrainSettings *settings, SermProgress *progress, int *level)
{
	begin(training, context, row, settings, progress, level);
	read_cold_data(training);
	serm_spi_commit(level);
	compute(training);
}

void
serm_training_check(SermTraining *training)
{
	const char *name = training->row->name;

	if (training->status == SERM_ERR_NO_DATA && training->cold)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has nothing to learn from: %s", name, training->error.message),
		    OidIsValid(training->row->documents)
		        ? errhint("Fill the table of its documents, or insert graded pairs into serm.judgment.")
		        : errhint("Give it documents: SELECT serm.alter_model(%s, documents => 'table');"
		                  " or graded pairs: INSERT INTO serm.judgment (model, query, doc, grade) VALUES "
		                  "(%s, ...).",
		              quote_literal_cstr(name), quote_literal_cstr(name)));
	if (training->status == SERM_ERR_NO_DATA)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("%s", training->error.message),
		    errhint("Insert graded pairs of several queries: INSERT INTO serm.judgment"
		            " (model, query, doc, grade) VALUES ('%s', ...).",
		        name));
	serm_host_check(&training->host, training->status, &training->error);
}

int
serm_training_store(SermTraining *training, int parent)
{
	if (serm_model_created(training->row->name, true) != training->created)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
		    errmsg("model \"%s\" was dropped while it was trained", training->row->name));
	if (training->parent != NULL)
		parent = serm_scorer_version(training->parent);
	if (training->begin != 0)
		parent = training->begin;
	if (training->checkpoint.run != 0)
		serm_checkpoint_forget(&training->checkpoint);
	return serm_version_store(training->row->name, parent, training->settings.seed, &training->tensors,
	    training->config, training->metrics, training->counts);
}

/* --- CALL serm.train */

/*
 * The first version is promoted, and the first one with judgments over one without; later ones are left to
 * the gate. Unless the caller said otherwise.
 */
static bool
shall_promote(const SermTraining *training)
{
	SermParam params[] = {SERM_TEXT(training->row->name), SERM_BOOL(training->cold)};
	bool null;

	if (training->settings.promote_given)
		return training->settings.promote;
	serm_spi_execute("SELECT m.active IS NULL OR NOT $2 AND EXISTS (SELECT FROM serm.version v"
	                 " WHERE v.model = m.name AND v.version = m.active AND v.config ->> 'generation' = '0')"
	                 " FROM serm.model m WHERE m.name = $1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	return SPI_processed > 0 && DatumGetBool(serm_spi_value(0, 1, &null));
}

static double
metric_value(const Jsonb *metrics, const char *name)
{
	JsonbValue key = {.type = jbvString};
	JsonbValue *value;

	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	value = findJsonbValueFromContainer(unconstify(JsonbContainer *, &metrics->root), JB_FOBJECT, &key);
	if (value == NULL || value->type != jbvNumeric)
		return NAN;
	return DatumGetFloat8(
	    DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
}

static void
store_and_tell(SermTraining *training, const char *procedure, int *level)
{
	const char *name = training->row->name;
	bool first = training->row->active == 0;
	int version = serm_training_store(training, training->row->active);
	bool promote = shall_promote(training);
	const char *status = promote ? "active" : "a candidate";
	char *learned = training->cold
	                    ? psprintf("learned from %zu documents, without judgments", training->corpus_count)
	                    : psprintf("ndcg@4 %.4f, accuracy %.3f on %zu test pairs",
	                          metric_value(training->metrics, "ndcg@4"),
	                          metric_value(training->metrics, "accuracy"), training->test.pair_count);

	if (promote)
		serm_version_activate(name, version, "promote",
		    training->settings.promote_given ? psprintf("asked for by %s", procedure)
		    : first                          ? "first version"
		                                     : "first version with judgments");
	serm_progress_end();
	serm_spi_commit(level);
	ereport(NOTICE, errmsg("version %d of model \"%s\" is %s: %s", version, name, status, learned),
	    promote ? 0 : errhint("Promote it with SELECT serm.promote('%s', %d).", name, version));
}

void
serm_training_call(
    FunctionCallInfo fcinfo, const char *procedure, const SermTrainSettings *settings, SermTrainingRun run)
{
	char *model = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext context, previous;
	SermTraining *training;
	SermProgress progress;
	SermModelRow *row;
	int level;

	serm_require_nonatomic(fcinfo, procedure);
	/* SPI's own context ends with SPI, that of a transaction with its commit; the portal outlives both. */
	context = AllocSetContextCreate(PortalContext, "serm training", ALLOCSET_DEFAULT_SIZES);
	level = serm_spi_begin(true);
	previous = MemoryContextSwitchTo(context);
	training = palloc0(sizeof(SermTraining));
	row = serm_model_read(model);
	serm_progress_begin(&progress, row->name);
	run(training, context, row, settings, &progress, &level);
	serm_training_check(training);
	store_and_tell(training, procedure, &level);
	MemoryContextSwitchTo(previous);
	serm_spi_end(level);
	MemoryContextDelete(context);
}

const char *
serm_training_kind(FunctionCallInfo fcinfo)
{
	const char *kind = serm_model_kind(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)));

	return kind != NULL ? kind : "interaction";
}

bool
serm_training_make_first(FunctionCallInfo fcinfo, const char *procedure, const SermTrainSettings *settings)
{
	SermTrainSettings first;
	SermModelRow *row;
	SermParam params[1];
	int level;
	bool unmade, judged;

	serm_require_nonatomic(fcinfo, procedure);
	level = serm_spi_begin(true);
	row = serm_model_read(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)));
	unmade = serm_encoder_unmade(row);
	params[0] = SERM_TEXT(row->name);
	serm_spi_execute(
	    "SELECT FROM serm.judgment AS j WHERE j.model = $1 LIMIT 1", SPI_OK_SELECT, false, params, 1);
	judged = SPI_processed > 0;
	serm_spi_end(level);
	if (!unmade)
		return true;
	serm_train_settings_defaults(&first, SERM_KIND_CROSS_ENCODER);
	first.seed = settings->seed;
	first.checkpoint = settings->checkpoint;
	serm_training_call(fcinfo, procedure, &first, serm_training_run_cold);
	return judged;
}

SERM_FUNCTION(serm_train);

/* CALL serm.train(model text, options jsonb). */
Datum
serm_train(PG_FUNCTION_ARGS)
{
	Jsonb *options = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P_COPY(1);
	SermTrainSettings settings;

	serm_train_settings_defaults(&settings, serm_training_kind(fcinfo));
	serm_train_settings_read(options, &settings, "serm.train");
	if (settings.encoder && !serm_training_make_first(fcinfo, "serm.train", &settings))
		PG_RETURN_VOID();
	serm_training_call(fcinfo, "serm.train", &settings, serm_training_run);
	PG_RETURN_VOID();
}

SERM_FUNCTION(serm_pretrain_model);

/* CALL serm.pretrain(model text, options jsonb). */
Datum
serm_pretrain_model(PG_FUNCTION_ARGS)
{
	Jsonb *options = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P_COPY(1);
	SermTrainSettings settings;

	serm_train_settings_defaults(&settings, serm_training_kind(fcinfo));
	serm_pretrain_settings_read(options, &settings);
	serm_training_call(fcinfo, "serm.pretrain", &settings, serm_training_run_cold);
	PG_RETURN_VOID();
}

/* --- serm.check_version */

static bool
config_number(const char *model, int version, const char *key, double *value)
{
	SermParam params[] = {SERM_TEXT(model), SERM_INT4(version), SERM_TEXT(key)};
	bool null;

	serm_spi_execute(
	    "SELECT (v.config ->> $3)::float8 FROM serm.version v WHERE v.model = $1 AND v.version = $2",
	    SPI_OK_SELECT, true, params, lengthof(params));
	if (SPI_processed == 0)
		return false;
	*value = DatumGetFloat8(serm_spi_value(0, 1, &null));
	return !null;
}

SERM_FUNCTION(serm_check_version);

/*
 * serm.check_version(model text, version int): do the stored weights give, bit for bit, the scores that
 * the model gave when it was trained? NULL when the version has no checksum or the texts have changed since.
 */
Datum
serm_check_version(PG_FUNCTION_ARGS)
{
	char *model = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int version = PG_GETARG_INT32(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "serm check", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermModelRow *row = serm_model_read(model);
	SermTensorSet tensors = serm_version_tensors(row, version, context);
	SermHost host;
	const SermWatch watch = {serm_host_keep_going, &host};
	const SermModelSettings settings = {.chunk_count = 1, .watch = &watch};
	SermModel *opened;
	SermError error = {0};
	SermPairSet probe;
	SermPredictions predictions;
	double count, texts, scores;
	bool known, equal;
	int level;

	serm_host_init(&host, context, (Size) serm_train_memory_mb * 1024 * 1024);
	level = serm_spi_begin(false);
	known = config_number(model, version, "probe_pairs", &count) && count > 0 &&
	        config_number(model, version, "probe_crc32c", &texts) &&
	        config_number(model, version, "score_crc32c", &scores);
	if (known)
		serm_probe_read(&host, row, (int32) count, &probe);
	serm_spi_end(level);
	if (known && (uint32) texts != serm_pairs_crc(&probe))
		known = false;
	if (known) {
		/* As it was measured: whatever precision, chunks or library the model and the session ask for now. */
		serm_host_check(&host,
		    serm_model_open_with(row->kind, &tensors, &settings, &host.arena, &opened, &error), &error);
		serm_model_set_host(opened, serm_host_keep_going, &host);
		serm_predict_model(&host, opened, &probe, &predictions);
		equal = (uint32) scores == serm_predictions_crc(&predictions);
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
	if (!known)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(equal);
}
