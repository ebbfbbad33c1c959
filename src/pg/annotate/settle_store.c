/*
 * What became of a sample is written down, or a person settles it. A sample
 * changes state and gains its judgment in one transaction, under a row lock: once,
 * whoever counts.
 */
#include "pg/annotate/settle.h"

#include "lib/stringinfo.h"
#include "utils/array.h"

static char *
agent_list(const SermSettleSample *sample)
{
	StringInfoData names;
	ListCell *cell;

	initStringInfo(&names);
	foreach (cell, sample->agents)
		appendStringInfo(&names, "%s%s", foreach_current_index(cell) > 0 ? ", " : "",
		    ((SermSettleVotes *) lfirst(cell))->agent->name);
	return names.data;
}

static SermParam
target_param(const float *target, int grade_count)
{
	Datum values[SERM_GRADES_MAX];

	if (target == NULL)
		return SERM_NULL(FLOAT4ARRAYOID);
	for (int y = 0; y < grade_count; y++)
		values[y] = Float4GetDatum(target[y]);
	return SERM_DATUM(FLOAT4ARRAYOID,
	    PointerGetDatum(construct_array(values, grade_count, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT)));
}

static void
insert_judgment(const char *model, const SermSettleSample *sample, double grade, SermParam target,
    const char *source, const char *judge, const char *rationale)
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
	    target,
	};

	serm_spi_execute_kept(&kept,
	    "INSERT INTO serm.judgment (model, query, doc_id, doc, grade, source, judge, rationale, round, "
	    "target)"
	    " VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, current_user::pg_catalog.text), $8, $9, $10)"
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
	const SermModelRow *model;
	const SermSettleSample *sample;
	double grade;
	const float *target;
	char *judges;
	char *rationale;
} NewJudgment;

static void
judgment_step(void *argument)
{
	const NewJudgment *judgment = argument;

	insert_judgment(judgment->model->name, judgment->sample, judgment->grade,
	    target_param(judgment->target, judgment->model->grade_count), "agents", judgment->judges,
	    judgment->rationale);
}

/*
 * Insert the judgment of a sample. One that the table refuses (an empty
 * query) must not keep the others from being settled: it counts as failed.
 */
static bool
try_judgment(
    const SermModelRow *model, const SermSettleSample *sample, const SermSettleOutcome *outcome, bool careful)
{
	NewJudgment judgment = {model, sample, outcome->grade, outcome->target, agent_list(sample),
	    pnstrdup(outcome->verdict.rationale.bytes, outcome->verdict.rationale.length)};
	ErrorData *error;

	/* Training with labels "agreed" knows a grade in dispute by its fraction. */
	if (outcome->verdict.kind == SERM_VERDICT_DISPUTED) {
		judgment.grade = 0;
		for (int y = 0; y < model->grade_count; y++)
			judgment.grade += y * outcome->target[y];
	}
	if (!careful) {
		judgment_step(&judgment);
		return true;
	}
	error = serm_attempt(judgment_step, &judgment);
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

/* The grade that people gave to a pair, if there is still one. */
static bool
gold_grade(const char *model, const SermSettleSample *sample, double *grade)
{
	SermParam params[] = {SERM_TEXT(model), SERM_TEXT(sample->query), SERM_TEXT(sample->doc_id)};
	bool null;

	serm_spi_execute(
	    "SELECT j.grade FROM serm.judgment j WHERE j.model = $1 AND j.source IN ('human', 'import')"
	    " AND pg_catalog.md5(j.query) = pg_catalog.md5($2)"
	    " AND pg_catalog.md5(coalesce(j.doc_id, j.doc)) = pg_catalog.md5($3)"
	    " ORDER BY j.source = 'human' DESC, j.at DESC, j.id DESC LIMIT 1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	if (SPI_processed == 0)
		return false;
	*grade = DatumGetFloat4(serm_spi_value(0, 1, &null));
	return true;
}

void
serm_settle_sample(
    const SermModelRow *model, const SermSettleSample *sample, const SermSettleOutcome *outcome, bool careful)
{
	double grade = 0;
	bool stored = outcome->target == NULL && outcome->verdict.kind == SERM_VERDICT_DISPUTED;

	if (sample->gold && outcome->verdict.kind != SERM_VERDICT_FAILED) {
		bool graded = gold_grade(model->name, sample, &grade);

		close_sample(sample->id, "settled", graded, grade);
		return;
	}
	if (outcome->verdict.kind != SERM_VERDICT_FAILED && !stored)
		stored = try_judgment(model, sample, outcome, careful);
	if (!stored)
		close_sample(sample->id, "failed", false, 0);
	else if (outcome->verdict.kind == SERM_VERDICT_DISPUTED)
		close_sample(sample->id, "disputed", false, 0);
	else
		close_sample(sample->id, "agreed", true, outcome->grade);
}

static SermSettleSample *
lock_sample(int64 id, char **model, char **state)
{
	SermParam params[] = {SERM_INT8(id)};
	SermSettleSample *sample = palloc0(sizeof(SermSettleSample));
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
	SermSettleSample *sample;
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
	insert_judgment(model, sample, grade, SERM_NULL(FLOAT4ARRAYOID), "human", NULL, rationale);
	id = serm_spi_value(0, 1, &null);
	close_sample(sample->id, "settled", true, grade);
	serm_spi_end(level);
	PG_RETURN_DATUM(id);
}
