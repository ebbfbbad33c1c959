/*
 * serm.distill: a version of one model that learns from what another one says.
 *
 * A distillation is a training (train.c) with a teacher: what it is to grade is
 * read in the transaction that reads the judgments, and graded after that has
 * ended, in batches between which interrupts are served and progress is
 * committed. The student's fit, its evaluation, storing and promotion are those
 * of serm.train. Queries of the test split are neither read nor graded.
 */
#include "pg/serm.h"

#include <math.h>

#include "catalog/namespace.h"
#include "core/base/hash.h"
#include "core/train/distill.h"
#include "miscadmin.h"
#include "pg/evolve/evolve.h"

/* --- reading */

/*
 * Has the version learned from the model, directly or through other teachers, versions that it continues or
 * was merged from? Each would find its own errors confirmed by the other.
 */
static void
check_circle(const char *student, const char *teacher, int version)
{
	SermParam params[] = {SERM_TEXT(teacher), SERM_INT4(version), SERM_TEXT(student)};

	serm_spi_execute(
	    "WITH RECURSIVE learned (model, version) AS (SELECT $1, $2 UNION"
	    " SELECT s.model, s.version FROM learned l JOIN serm.version v ON v.model = l.model AND v.version = "
	    "l.version CROSS JOIN LATERAL (SELECT v.config ->> 'teacher', (v.config ->> 'teacher_version')::int"
	    " UNION ALL SELECT v.model, (v.config ->> 'continued_from')::int"
	    " UNION ALL SELECT v.model, (v.config ->> 'begun_with')::int"
	    " UNION ALL SELECT v.model, k::int FROM pg_catalog.jsonb_object_keys(v.config -> 'merged') k)"
	    " AS s (model, version) WHERE s.model IS NOT NULL AND s.version IS NOT NULL)"
	    " SELECT FROM learned l WHERE l.model = $3",
	    SPI_OK_SELECT, false, params, lengthof(params));
	if (SPI_processed > 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg(
		        "version %d of model \"%s\" has learned from model \"%s\" itself", version, teacher, student),
		    errhint("Name another one in the option \"teacher_version\", or train the teacher on judgments"
		            " first: CALL serm.train(%s).",
		        quote_literal_cstr(teacher)));
}

static void
open_teacher(SermTraining *training, SermTeaching *teaching)
{
	const SermDistillSettings *settings = &training->settings.distill;

	if (strcmp(settings->teacher, training->row->name) == 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("model \"%s\" cannot be its own teacher", training->row->name),
		    errhint("To stay near an earlier version: CALL serm.train(%s, '{\"loss\": \"ce:1, kl:0.5\","
		            " \"reference\": %d}').",
		        quote_literal_cstr(training->row->name), Max(training->row->active, 1)));
	teaching->row = serm_model_read(settings->teacher);
	if (strcmp(teaching->row->kind, SERM_KIND_REMOTE) == 0) {
		if (settings->teacher_version != 0)
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			    errmsg("model \"%s\" is remote: it has no versions", teaching->row->name),
			    errhint("Leave the option \"teacher_version\" out."));
		teaching->remote = serm_remote_open(teaching->row, training->host.context);
		return;
	}
	teaching->scorer = serm_scorer_open(
	    settings->teacher, settings->teacher_version, SERM_SEE_WRITES, training->host.context);
	teaching->row = serm_scorer_row(teaching->scorer);
	teaching->version = serm_scorer_version(teaching->scorer);
	check_circle(training->row->name, teaching->row->name, teaching->version);
}

void
serm_teaching_read(SermTraining *training)
{
	const SermTrainSettings *settings = &training->settings;
	SermTeaching *teaching = palloc0(sizeof(SermTeaching));

	open_teacher(training, teaching);
	serm_unlabelled_read(&training->host, training->row, settings->seed, settings->distill.unlabelled,
	    settings->distill.per_query, &teaching->unlabelled);
	if (training->train.pair_count + teaching->unlabelled.pair_count == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no pairs that a teacher could grade", training->row->name),
		    errhint("Give it a log and documents: SELECT serm.alter_model(%s, log => 'table',"
		            " documents => 'table'); or insert graded pairs into serm.judgment.",
		        quote_literal_cstr(training->row->name)));
	training->teaching = teaching;
}

/* --- which pairs the teacher is asked for */

static void *
make_array(SermTraining *training, size_t count, size_t size)
{
	void *array = serm_arena_array(&training->host.arena, Max(count, 1), size);
	SermError error = {0};

	if (array == NULL)
		serm_check(serm_fail(&error, SERM_ERR_MEMORY, "training does not fit into its memory limit"), &error);
	return array;
}

typedef struct Place {
	uint64 hash;
	uint32 query;
} Place;

static int
by_hash(const void *a, const void *b)
{
	const Place *x = a, *y = b;

	return x->hash != y->hash ? (x->hash > y->hash) - (x->hash < y->hash)
	                          : (x->query > y->query) - (x->query < y->query);
}

/* Mark the judged pairs [train] that the teacher is asked for: whole queries in the order of a hash. */
static void
choose_judged(SermTraining *training, bool *chosen)
{
	const SermPairSet *train = &training->train;
	size_t left = training->settings.distill.judged;
	Place *places = make_array(training, train->query_count, sizeof(Place));
	size_t *first = make_array(training, train->query_count + 1, sizeof(size_t));

	for (size_t q = 0; q < train->query_count; q++) {
		SermText query = train->queries[q].text;

		places[q] =
		    (Place){serm_hash_bytes(query.bytes, query.length, (uint64) training->settings.seed), (uint32) q};
	}
	for (size_t i = train->pair_count; i > 0; i--)
		first[train->pairs[i - 1].query] = i - 1;
	first[train->query_count] = train->pair_count;
	qsort(places, train->query_count, sizeof(Place), by_hash);
	for (size_t q = 0; q < train->query_count && left > 0; q++)
		for (size_t i = first[places[q].query]; i < first[places[q].query + 1] && left > 0; i++, left--)
			chosen[i] = true;
}

/* --- asking */

/* What the teacher says of the pairs, [pair][teacher's grades]; false: it does not say. */
typedef struct Answers {
	float *probability;
	bool *given;
} Answers;

/* Pairs of one set in the order in which they are scored, 16 together. */
typedef struct Asking {
	SermTraining *training;
	Answers *answers;
	size_t waiting[SERM_BATCH_ROWS]; /* pairs in the scorer's batch */
	size_t done;
	size_t total;
	double started;
} Asking;

static void
tell(Asking *asking)
{
	double seconds = serm_progress_clock(NULL) - asking->started;

	serm_progress_report(asking->training->progress, asking->training->level,
	    &(SermTrainProgress){.phase = "teaching",
	        .step = (uint32) asking->done,
	        .steps = (uint32) asking->total,
	        .per_second = seconds > 0 ? (double) asking->done / seconds : 0});
}

static void
run_batch(Asking *asking)
{
	const SermTeaching *teaching = asking->training->teaching;
	size_t grades = (size_t) teaching->row->grade_count;
	SermPrediction predictions[SERM_BATCH_ROWS];
	int count;

	CHECK_FOR_INTERRUPTS();
	count = serm_scorer_batch_run(teaching->scorer, predictions);
	for (int i = 0; i < count; i++) {
		size_t pair = asking->waiting[i];

		memcpy(
		    asking->answers->probability + pair * grades, predictions[i].probability, grades * sizeof(float));
		asking->answers->given[pair] = true;
	}
	asking->done += (size_t) count;
	tell(asking);
}

/* The pairs from `from` on of `all` that are chosen. */
static void
ask_scorer(SermTraining *training, const SermPairSet *all, const bool *chosen, Answers *answers)
{
	SermScorer *scorer = training->teaching->scorer;
	Asking asking = {.training = training, .answers = answers, .started = serm_progress_clock(NULL)};

	for (size_t i = 0; i < all->pair_count; i++)
		asking.total += chosen[i];
	tell(&asking);
	serm_scorer_batch_start(scorer);
	for (size_t i = 0; i < all->pair_count; i++) {
		if (!chosen[i])
			continue;
		asking.waiting[serm_scorer_batch_count(scorer)] = i;
		serm_scorer_batch_add(
		    scorer, all->queries[all->pairs[i].query].text, (SermDocBytes){all->pairs[i].doc.text, false});
		if (serm_scorer_batch_count(scorer) == SERM_BATCH_ROWS)
			run_batch(&asking);
	}
	if (serm_scorer_batch_count(scorer) > 0)
		run_batch(&asking);
}

/* Judged pairs, then those of the log. */
static void
join_sets(SermTraining *training, SermPairSet *all)
{
	const SermPairSet *parts[] = {&training->train, &training->teaching->unlabelled};

	*all = (SermPairSet){
	    .queries = make_array(training, parts[0]->query_count + parts[1]->query_count, sizeof(SermCopy)),
	    .pairs = make_array(training, parts[0]->pair_count + parts[1]->pair_count, sizeof(SermPair))};
	for (int p = 0; p < 2; p++) {
		for (size_t i = 0; i < parts[p]->pair_count; i++) {
			SermPair *pair = &all->pairs[all->pair_count++];

			*pair = parts[p]->pairs[i];
			pair->query += (uint32) all->query_count;
		}
		for (size_t q = 0; q < parts[p]->query_count; q++)
			all->queries[all->query_count++] = parts[p]->queries[q];
	}
}

/*
 * Bring the answers into what training reads. Pairs of the log without an answer are left out, judged ones
 * keep their judgment.
 */
static void
keep_answers(SermTraining *training, const Answers *answers)
{
	SermTeaching *teaching = training->teaching;
	SermPairSet *all = &teaching->all;
	size_t judged = training->train.pair_count, kept = 0, to = (size_t) training->row->grade_count;
	size_t from = (size_t) teaching->row->grade_count;

	teaching->probability = make_array(training, all->pair_count * to, sizeof(float));
	teaching->weight = make_array(training, all->pair_count, sizeof(float));
	teaching->judged = make_array(training, all->pair_count, 1);
	for (size_t i = 0; i < all->pair_count; i++) {
		bool given = answers->given[i];
		float *converted = teaching->probability + kept * to;

		if (!given && i >= judged)
			continue;
		all->pairs[kept] = all->pairs[i];
		if (given)
			serm_distill_grades(answers->probability + i * from, (uint32) from, converted, (uint32) to);
		else
			memcpy(converted, all->pairs[i].target, to * sizeof(float));
		if (i >= judged)
			memcpy(all->pairs[kept].target, converted, to * sizeof(float));
		teaching->judged[kept] = i < judged;
		teaching->weight[kept] = !given       ? 0
		                         : i < judged ? 1
		                                      : (float) training->settings.distill.unlabelled_weight;
		kept++;
	}
	all->pair_count = kept;
}

static void
check_answers(const SermTraining *training)
{
	const SermTeaching *teaching = training->teaching;

	if (teaching->asked > 0 && teaching->asked == teaching->failed)
		ereport(ERROR, errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
		    errmsg("teacher \"%s\" gave no answer", teaching->row->name));
	if (teaching->asked == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("the options of serm.distill leave no pair that the teacher could grade"),
		    errhint("Raise \"judged\" or \"unlabelled\"."));
	ereport(NOTICE, errmsg("%s: teacher \"%s\" graded %zu pairs, %zu of them without a judgment",
	                    training->row->name, teaching->row->name, teaching->asked - teaching->failed,
	                    teaching->all.pair_count - training->train.pair_count));
}

void
serm_teaching_ask(SermTraining *training)
{
	SermTeaching *teaching = training->teaching;
	SermPairSet *all = &teaching->all;
	Answers answers;
	bool *chosen;

	join_sets(training, all);
	chosen = make_array(training, all->pair_count, sizeof(bool));
	answers.given = make_array(training, all->pair_count, sizeof(bool));
	answers.probability =
	    make_array(training, all->pair_count * (size_t) teaching->row->grade_count, sizeof(float));
	memset(chosen, 0, all->pair_count * sizeof(bool));
	memset(answers.given, 0, all->pair_count * sizeof(bool));
	choose_judged(training, chosen);
	for (size_t i = training->train.pair_count; i < all->pair_count; i++)
		chosen[i] = true;
	for (size_t i = 0; i < all->pair_count; i++)
		teaching->asked += chosen[i];
	if (teaching->remote != NULL)
		serm_remote_ask(teaching->remote, training, all, chosen, answers.probability, answers.given);
	else
		ask_scorer(training, all, chosen, &answers);
	for (size_t i = 0; i < all->pair_count; i++)
		teaching->failed += chosen[i] && !answers.given[i];
	keep_answers(training, &answers);
	check_answers(training);
}

/* --- what the version says of it */

void
serm_teaching_describe(const SermTraining *training, StringInfo json)
{
	const SermTeaching *teaching = training->teaching;

	serm_json_text(json, "teacher", teaching->row->name);
	serm_json_number(json, "teacher_version", teaching->remote != NULL ? NAN : teaching->version);
	serm_json_text(json, "teacher_kind", teaching->row->kind);
	serm_json_number(json, "teacher_grades", teaching->row->grade_count);
	if (teaching->remote != NULL)
		serm_remote_describe(teaching->remote, json);
}

void
serm_teaching_count(const SermTraining *training, StringInfo json)
{
	const SermTeaching *teaching = training->teaching;
	const SermPairSet *unlabelled = &teaching->unlabelled;

	serm_json_number(json, "taught", (double) (teaching->asked - teaching->failed));
	serm_json_number(json, "taught_failed", (double) teaching->failed);
	serm_json_number(json, "unlabelled", (double) unlabelled->pair_count);
	serm_json_number(json, "unlabelled_queries", (double) unlabelled->query_count);
}

/* --- CALL serm.distill */

static char *
name_argument(FunctionCallInfo fcinfo, int argument, const char *what)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("serm.distill needs a %s", what),
		    errhint("CALL serm.distill('student', 'teacher')."));
	return text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

SERM_FUNCTION(serm_distill);

/* CALL serm.distill(student text, teacher text, options jsonb). */
Datum
serm_distill(PG_FUNCTION_ARGS)
{
	Jsonb *options = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P_COPY(2);
	SermTrainSettings settings;

	(void) name_argument(fcinfo, 0, "student");
	serm_train_settings_defaults(&settings, serm_training_kind(fcinfo));
	serm_distill_settings_read(options, &settings);
	settings.distill.teacher = name_argument(fcinfo, 1, "teacher");
	settings.distill.search_path = pstrdup(namespace_search_path);
	if (settings.encoder)
		(void) serm_training_make_first(fcinfo, "serm.distill", &settings);
	serm_training_call(fcinfo, "serm.distill", &settings, serm_training_run);
	PG_RETURN_VOID();
}
