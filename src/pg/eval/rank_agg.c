/*
 * Aggregates over one ranked list: the transition state collects (grade, score
 * [, document id]) of a group; the final functions sort it once and ask
 * core/stats/metrics.
 *
 * The state travels between workers as bytes of this machine (it never reaches
 * a disk or another server). No result depends on the order of the rows, so a
 * parallel plan gives the same bits as a serial one.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/stats/metrics.h"

#define ROWS_MIN 8
#define IDS_MIN 128
#define THRESHOLD_DEFAULT 1.0

typedef struct RankRow {
	double grade; /* NaN: not judged */
	double score; /* NaN: no score */
} RankRow;

/* What the caller fixed for the whole group. */
typedef struct RankParams {
	uint64 cutoff;
	double threshold;
	double grade_max;
	uint32 gain;
	uint32 with_ids;
} RankParams;

typedef struct RankState {
	RankParams params;
	uint64 count;
	uint64 capacity;
	RankRow *rows;
	/* Per row its id: int32 length, -1 for NULL, then the bytes; only when params.with_ids. */
	Size ids_used;
	Size ids_capacity;
	char *ids;
} RankState;

/* Head of the serialized form; rows and ids follow. */
typedef struct RankBytes {
	RankParams params;
	uint64 count;
	uint64 ids_used;
} RankBytes;

static const RankParams params_default = {
    .cutoff = SERM_METRICS_NO_CUTOFF, .threshold = THRESHOLD_DEFAULT, .gain = SERM_GAIN_LINEAR};

static RankState *
make_state(MemoryContext context, const RankParams *params)
{
	RankState *state = MemoryContextAllocZero(context, sizeof(RankState));

	state->params = *params;
	return state;
}

static void
reserve_rows(MemoryContext context, RankState *state, uint64 added)
{
	uint64 wanted = Max(state->count + added, ROWS_MIN);

	if (wanted <= state->capacity)
		return;
	wanted = Max(wanted, 2 * state->capacity);
	state->rows = serm_array_grow(state->rows, context, wanted, sizeof(RankRow));
	state->capacity = wanted;
}

static void
reserve_ids(MemoryContext context, RankState *state, Size added)
{
	Size wanted = Max(state->ids_used + added, IDS_MIN);

	if (wanted <= state->ids_capacity)
		return;
	wanted = Max(wanted, 2 * state->ids_capacity);
	state->ids = serm_array_grow(state->ids, context, wanted, 1);
	state->ids_capacity = wanted;
}

static void
append_id(MemoryContext context, RankState *state, const text *id)
{
	int32 length = id != NULL ? (int32) VARSIZE_ANY_EXHDR(id) : -1;

	reserve_ids(context, state, sizeof(length) + Max(length, 0));
	memcpy(state->ids + state->ids_used, &length, sizeof(length));
	state->ids_used += sizeof(length);
	if (length > 0) {
		memcpy(state->ids + state->ids_used, VARDATA_ANY(id), length);
		state->ids_used += length;
	}
}

static void
check_same_params(const RankParams *first, const RankParams *other)
{
	if (first->cutoff != other->cutoff || first->threshold != other->threshold ||
	    first->grade_max != other->grade_max || first->gain != other->gain)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the parameters of a ranking metric differ between rows of a group"),
		    errhint("Pass constants, or group by what they depend on."));
}

static double
read_score(FunctionCallInfo fcinfo)
{
	double score;

	if (PG_ARGISNULL(2))
		return NAN;
	score = PG_GETARG_FLOAT8(2);
	if (isnan(score))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("score is NaN"),
		    errhint("Pass NULL for a document without a score: it ranks last."));
	return score;
}

static double
read_grade(FunctionCallInfo fcinfo)
{
	double grade;

	if (PG_ARGISNULL(1))
		return NAN;
	grade = PG_GETARG_FLOAT8(1);
	if (isnan(grade))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("grade is NaN"),
		    errhint("Pass NULL for a document that was not judged."));
	if (isinf(grade) || grade > SERM_METRICS_GRADE_MAX)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("grade %g is outside the range up to %g", grade, SERM_METRICS_GRADE_MAX),
		    errhint("Grades are small numbers such as 0, 1, 2, 3; scale larger ones down."));
	return grade;
}

static void
read_cutoff(FunctionCallInfo fcinfo, int argument, RankParams *params)
{
	if (PG_NARGS() <= argument || PG_ARGISNULL(argument))
		return;
	if (PG_GETARG_INT32(argument) < 1)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("k must be at least 1, not %d", PG_GETARG_INT32(argument)),
		    errhint("Pass NULL to count the whole list."));
	params->cutoff = (uint64) PG_GETARG_INT32(argument);
}

static void
read_gain(FunctionCallInfo fcinfo, int argument, RankParams *params)
{
	char *name;

	if (PG_NARGS() <= argument || PG_ARGISNULL(argument))
		return;
	name = text_to_cstring(PG_GETARG_TEXT_PP(argument));
	if (strcmp(name, "linear") == 0)
		params->gain = SERM_GAIN_LINEAR;
	else if (strcmp(name, "exponential") == 0)
		params->gain = SERM_GAIN_EXPONENTIAL;
	else
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown gain \"%s\"", name),
		    errhint("Valid gains are: linear, exponential."));
	pfree(name);
}

static void
read_threshold(FunctionCallInfo fcinfo, int argument, RankParams *params)
{
	if (PG_NARGS() <= argument || PG_ARGISNULL(argument))
		return;
	params->threshold = PG_GETARG_FLOAT8(argument);
	if (isnan(params->threshold))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("threshold is NaN"),
		    errhint("Pass the least grade that counts as relevant; NULL means 1."));
}

static void
read_grade_max(FunctionCallInfo fcinfo, int argument, RankParams *params)
{
	params->grade_max = PG_ARGISNULL(argument) ? 0.0 : PG_GETARG_FLOAT8(argument);
	if (!(params->grade_max > 0.0) || params->grade_max > SERM_METRICS_GRADE_MAX)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("max_grade must be above 0 and at most %g", SERM_METRICS_GRADE_MAX),
		    errhint("Pass the highest grade of the scale, 3 for grades 0 to 3."));
}

/* Add the row of this call; `id_argument` is where a document id stands when there are that many arguments.
 */
static Datum
accumulate(FunctionCallInfo fcinfo, RankParams *params, int id_argument)
{
	RankState *state = PG_ARGISNULL(0) ? NULL : (RankState *) PG_GETARG_POINTER(0);
	RankRow row = {read_grade(fcinfo), read_score(fcinfo)};
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "a ranking metric was called outside an aggregate");
	params->with_ids = PG_NARGS() > id_argument;
	if (state == NULL)
		state = make_state(context, params);
	else
		check_same_params(&state->params, params);
	/* Neither a grade nor a score: what an outer join gives for nothing. */
	if (isnan(row.grade) && isnan(row.score))
		PG_RETURN_POINTER(state);
	reserve_rows(context, state, 1);
	state->rows[state->count++] = row;
	if (params->with_ids)
		append_id(context, state, PG_ARGISNULL(id_argument) ? NULL : PG_GETARG_TEXT_PP(id_argument));
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_gain_accum);

/* (state, grade, score [, k [, gain [, doc_id]]]) */
Datum
serm_gain_accum(PG_FUNCTION_ARGS)
{
	RankParams params = params_default;

	read_cutoff(fcinfo, 3, &params);
	read_gain(fcinfo, 4, &params);
	return accumulate(fcinfo, &params, 5);
}

SERM_FUNCTION(serm_cutoff_accum);

/* (state, grade, score, k [, threshold [, doc_id]]) */
Datum
serm_cutoff_accum(PG_FUNCTION_ARGS)
{
	RankParams params = params_default;

	read_cutoff(fcinfo, 3, &params);
	read_threshold(fcinfo, 4, &params);
	return accumulate(fcinfo, &params, 5);
}

SERM_FUNCTION(serm_threshold_accum);

/* (state, grade, score [, threshold [, doc_id]]) */
Datum
serm_threshold_accum(PG_FUNCTION_ARGS)
{
	RankParams params = params_default;

	read_threshold(fcinfo, 3, &params);
	return accumulate(fcinfo, &params, 4);
}

SERM_FUNCTION(serm_cascade_accum);

/* (state, grade, score, k, max_grade [, doc_id]) */
Datum
serm_cascade_accum(PG_FUNCTION_ARGS)
{
	RankParams params = params_default;

	read_cutoff(fcinfo, 3, &params);
	read_grade_max(fcinfo, 4, &params);
	return accumulate(fcinfo, &params, 5);
}

SERM_FUNCTION(serm_rank_combine);

Datum
serm_rank_combine(PG_FUNCTION_ARGS)
{
	RankState *state = PG_ARGISNULL(0) ? NULL : (RankState *) PG_GETARG_POINTER(0);
	const RankState *other = PG_ARGISNULL(1) ? NULL : (RankState *) PG_GETARG_POINTER(1);
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "a ranking metric was called outside an aggregate");
	if (other == NULL) {
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	if (state == NULL)
		state = make_state(context, &other->params);
	check_same_params(&state->params, &other->params);
	if (other->count > 0) {
		reserve_rows(context, state, other->count);
		memcpy(state->rows + state->count, other->rows, other->count * sizeof(RankRow));
		state->count += other->count;
	}
	if (other->ids_used > 0) {
		reserve_ids(context, state, other->ids_used);
		memcpy(state->ids + state->ids_used, other->ids, other->ids_used);
		state->ids_used += other->ids_used;
	}
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_rank_serialize);

Datum
serm_rank_serialize(PG_FUNCTION_ARGS)
{
	const RankState *state = (RankState *) PG_GETARG_POINTER(0);
	RankBytes head = {state->params, state->count, state->ids_used};
	Size rows_size = state->count * sizeof(RankRow);
	Size size = VARHDRSZ + sizeof(head) + rows_size + state->ids_used;
	bytea *result;
	char *to;

	if (!AllocSizeIsValid(size))
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("a group of " UINT64_FORMAT " rows is too large for a parallel plan", state->count),
		    errhint("Group by query, or SET max_parallel_workers_per_gather = 0."));
	result = palloc(size);
	SET_VARSIZE(result, size);
	to = VARDATA(result);
	memcpy(to, &head, sizeof(head));
	if (rows_size > 0)
		memcpy(to + sizeof(head), state->rows, rows_size);
	if (state->ids_used > 0)
		memcpy(to + sizeof(head) + rows_size, state->ids, state->ids_used);
	PG_RETURN_BYTEA_P(result);
}

SERM_FUNCTION(serm_rank_deserialize);

Datum
serm_rank_deserialize(PG_FUNCTION_ARGS)
{
	bytea *bytes = PG_GETARG_BYTEA_PP(0);
	const char *from = VARDATA_ANY(bytes);
	RankState *state;
	RankBytes head;

	memcpy(&head, from, sizeof(head));
	state = make_state(CurrentMemoryContext, &head.params);
	from += sizeof(head);
	reserve_rows(CurrentMemoryContext, state, head.count);
	if (head.count > 0)
		memcpy(state->rows, from, head.count * sizeof(RankRow));
	state->count = head.count;
	if (head.ids_used > 0) {
		reserve_ids(CurrentMemoryContext, state, head.ids_used);
		memcpy(state->ids, from + head.count * sizeof(RankRow), head.ids_used);
		state->ids_used = head.ids_used;
	}
	PG_RETURN_POINTER(state);
}

/* What a final function works with; `state` is NULL when the group had no row. */
typedef struct Final {
	const RankState *state;
	SermHost host;
	SermRanking ranking;
	SermGain gain;
	size_t cutoff;
	double threshold;
} Final;

/* Sort the group; false when there is nothing to measure. */
static bool
begin_final(FunctionCallInfo fcinfo, Final *final)
{
	const RankState *state = PG_ARGISNULL(0) ? NULL : (RankState *) PG_GETARG_POINTER(0);
	SermRankedDoc *docs;
	const char *id;
	SermError error;

	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "a ranking metric was called outside an aggregate");
	if (state == NULL || state->count == 0)
		return false;
	serm_host_init(&final->host, CurrentMemoryContext, MaxAllocHugeSize);
	docs = serm_arena_array(&final->host.arena, state->count, sizeof(SermRankedDoc));
	if (docs == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY),
		    errmsg("out of memory ranking " UINT64_FORMAT " rows", state->count));
	id = state->ids;
	for (uint64 i = 0; i < state->count; i++) {
		docs[i].grade = state->rows[i].grade;
		docs[i].score = state->rows[i].score;
		docs[i].unscored = isnan(docs[i].score);
		if (state->params.with_ids) {
			int32 length;

			memcpy(&length, id, sizeof(length));
			id += sizeof(length);
			if (length >= 0) {
				docs[i].doc_id = id;
				docs[i].doc_id_length = length;
				id += length;
			}
		}
	}
	serm_host_check(&final->host,
	    serm_metrics_rank(docs, state->count, &final->host.arena, &final->ranking, &error), &error);
	final->state = state;
	final->gain = (SermGain) state->params.gain;
	final->cutoff = state->params.cutoff;
	final->threshold = state->params.threshold;
	return true;
}

/* A metric that is undefined for this group is NULL, which avg() skips. */
static Datum
end_final(FunctionCallInfo fcinfo, Final *final, double value)
{
	serm_arena_free(&final->host.arena);
	if (isnan(value))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(value);
}

SERM_FUNCTION(serm_dcg_final);

Datum
serm_dcg_final(PG_FUNCTION_ARGS)
{
	Final final;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	return end_final(fcinfo, &final, serm_metrics_dcg(&final.ranking, final.gain, final.cutoff));
}

SERM_FUNCTION(serm_ndcg_final);

Datum
serm_ndcg_final(PG_FUNCTION_ARGS)
{
	Final final;
	SermError error;
	double value;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	serm_host_check(&final.host,
	    serm_metrics_ndcg(&final.ranking, final.gain, final.cutoff, &final.host.arena, &value, &error),
	    &error);
	return end_final(fcinfo, &final, value);
}

SERM_FUNCTION(serm_precision_final);

Datum
serm_precision_final(PG_FUNCTION_ARGS)
{
	Final final;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	return end_final(fcinfo, &final, serm_metrics_precision(&final.ranking, final.threshold, final.cutoff));
}

SERM_FUNCTION(serm_recall_final);

Datum
serm_recall_final(PG_FUNCTION_ARGS)
{
	Final final;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	return end_final(fcinfo, &final, serm_metrics_recall(&final.ranking, final.threshold, final.cutoff));
}

SERM_FUNCTION(serm_average_precision_final);

Datum
serm_average_precision_final(PG_FUNCTION_ARGS)
{
	Final final;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	return end_final(fcinfo, &final, serm_metrics_average_precision(&final.ranking, final.threshold));
}

SERM_FUNCTION(serm_reciprocal_rank_final);

Datum
serm_reciprocal_rank_final(PG_FUNCTION_ARGS)
{
	Final final;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	return end_final(fcinfo, &final, serm_metrics_reciprocal_rank(&final.ranking, final.threshold));
}

SERM_FUNCTION(serm_err_final);

Datum
serm_err_final(PG_FUNCTION_ARGS)
{
	Final final;
	SermError error;
	double value;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	serm_host_check(&final.host,
	    serm_metrics_err(&final.ranking, final.state->params.grade_max, final.cutoff, &final.host.arena,
	        serm_host_keep_going, &final.host, &value, &error),
	    &error);
	return end_final(fcinfo, &final, value);
}

SERM_FUNCTION(serm_pair_accuracy_final);

Datum
serm_pair_accuracy_final(PG_FUNCTION_ARGS)
{
	Final final;
	SermError error;
	double value;

	if (!begin_final(fcinfo, &final))
		PG_RETURN_NULL();
	serm_host_check(
	    &final.host, serm_metrics_pair_accuracy(&final.ranking, &final.host.arena, &value, &error), &error);
	return end_final(fcinfo, &final, value);
}
