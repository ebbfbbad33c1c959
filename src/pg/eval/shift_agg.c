/*
 * The shift aggregates: one state (a sample of units of both parts), five
 * statistics. States merge exactly, so they run in parallel plans, over partitions
 * and per shard; what they keep does not grow with the rows.
 */
#include "pg/serm.h"

#include <math.h>

#include "access/htup_details.h"
#include "core/base/hash.h"
#include "core/stats/shift.h"
#include "funcapi.h"

/* Room for both parts, doubled once, and for one test. */
#define STATE_BYTES_MAX ((Size) 64 * 1024 * 1024)

typedef struct State {
	SermArena arena;
	SermShiftSample sample;
} State;

/* Serialised: this, then the rows of the reference, then the recent ones. */
typedef struct StateHead {
	uint32 count[2];
	uint32 level[2];
} StateHead;

static State *
make_state(MemoryContext context)
{
	State *state = MemoryContextAllocZero(context, sizeof(State));

	serm_arena_init(&state->arena, serm_context_allocator(context), STATE_BYTES_MAX);
	state->sample.arena = &state->arena;
	return state;
}

/* The state of this call, made where there is none; its place may have moved with the node's memory. */
static State *
state_of(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "a shift was asked for outside an aggregate");
	return PG_ARGISNULL(0) ? make_state(context) : (State *) PG_GETARG_POINTER(0);
}

static uint64
hash_text(const text *value)
{
	return serm_hash_bytes(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), 0);
}

static void
add_row(State *state, SermShiftRow *row, bool by_item)
{
	SermError error = {0};

	serm_check(serm_shift_add(&state->sample, row, by_item, &error), &error);
}

SERM_FUNCTION(serm_shift_accum_value);

/* (state, value float8, recent boolean, unit text); a row with a NULL is skipped. */
Datum
serm_shift_accum_value(PG_FUNCTION_ARGS)
{
	State *state = state_of(fcinfo);
	SermShiftRow row;

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2) && !PG_ARGISNULL(3)) {
		row = (SermShiftRow){.unit = hash_text(PG_GETARG_TEXT_PP(3)),
		    .value = PG_GETARG_FLOAT8(1),
		    .recent = PG_GETARG_BOOL(2)};
		add_row(state, &row, false);
	}
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_shift_accum_item);

/* (state, item text, recent boolean, unit text). */
Datum
serm_shift_accum_item(PG_FUNCTION_ARGS)
{
	State *state = state_of(fcinfo);
	SermShiftRow row;

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2) && !PG_ARGISNULL(3)) {
		row = (SermShiftRow){.unit = hash_text(PG_GETARG_TEXT_PP(3)),
		    .item = hash_text(PG_GETARG_TEXT_PP(1)),
		    .recent = PG_GETARG_BOOL(2)};
		add_row(state, &row, true);
	}
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_shift_accum_outcome);

/* (state, value float8, outcome float8, recent boolean, unit text). */
Datum
serm_shift_accum_outcome(PG_FUNCTION_ARGS)
{
	State *state = state_of(fcinfo);
	SermShiftRow row;

	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2) && !PG_ARGISNULL(3) && !PG_ARGISNULL(4)) {
		row = (SermShiftRow){.unit = hash_text(PG_GETARG_TEXT_PP(4)),
		    .value = PG_GETARG_FLOAT8(1),
		    .outcome = (float) PG_GETARG_FLOAT8(2),
		    .recent = PG_GETARG_BOOL(3)};
		add_row(state, &row, false);
	}
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_shift_combine);

Datum
serm_shift_combine(PG_FUNCTION_ARGS)
{
	State *state = state_of(fcinfo);
	SermError error = {0};

	if (!PG_ARGISNULL(1))
		serm_check(
		    serm_shift_merge(&state->sample, &((State *) PG_GETARG_POINTER(1))->sample, &error), &error);
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_shift_serialize);

Datum
serm_shift_serialize(PG_FUNCTION_ARGS)
{
	const SermShiftSample *sample = &((State *) PG_GETARG_POINTER(0))->sample;
	StateHead head = {{sample->count[0], sample->count[1]}, {sample->level[0], sample->level[1]}};
	Size size = VARHDRSZ + sizeof(head) + ((Size) head.count[0] + head.count[1]) * sizeof(SermShiftRow);
	bytea *result = palloc(size);
	char *to = VARDATA(result);

	SET_VARSIZE(result, size);
	memcpy(to, &head, sizeof(head));
	to += sizeof(head);
	for (int part = 0; part < 2; part++)
		if (head.count[part] > 0) {
			memcpy(to, sample->rows[part], head.count[part] * sizeof(SermShiftRow));
			to += head.count[part] * sizeof(SermShiftRow);
		}
	PG_RETURN_BYTEA_P(result);
}

SERM_FUNCTION(serm_shift_deserialize);

Datum
serm_shift_deserialize(PG_FUNCTION_ARGS)
{
	bytea *bytes = PG_GETARG_BYTEA_PP(0);
	const char *from = VARDATA_ANY(bytes);
	State *state = make_state(CurrentMemoryContext);
	SermError error = {0};
	StateHead head;

	memcpy(&head, from, sizeof(head));
	from += sizeof(head);
	memcpy(state->sample.level, head.level, sizeof(head.level));
	for (uint32 i = 0; i < head.count[0] + head.count[1]; i++) {
		SermShiftRow row;

		memcpy(&row, from, sizeof(row));
		from += sizeof(row);
		serm_check(serm_shift_add(&state->sample, &row, true, &error), &error);
	}
	PG_RETURN_POINTER(state);
}

/* The row (statistic, effect, p_value, reference_units, recent_units); NULL with fewer than two units in a
 * part. */
static Datum
finish(FunctionCallInfo fcinfo, SermShiftKind kind)
{
	State *state = PG_ARGISNULL(0) ? NULL : (State *) PG_GETARG_POINTER(0);
	SermShiftOptions options;
	TupleDesc description;
	SermError error = {0};
	SermStatus status;
	SermShift shift;
	SermHost host;
	Datum values[5];
	bool nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &description) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "a shift is a row");
	if (state == NULL)
		PG_RETURN_NULL();
	/* The state is not to be changed: the same one may be finished for several aggregates. */
	serm_host_init(&host, CurrentMemoryContext, STATE_BYTES_MAX);
	serm_shift_defaults(&options);
	options.keep_going = serm_host_keep_going;
	options.context = &host;
	status = serm_shift_test(kind, &state->sample, &options, &host.arena, &shift, &error);
	if (status == SERM_ERR_NO_DATA)
		PG_RETURN_NULL();
	serm_host_check(&host, status, &error);
	serm_arena_free(&host.arena);
	values[0] = Float8GetDatum(shift.statistic);
	values[1] = Float8GetDatum(shift.effect);
	values[2] = Float8GetDatum(shift.p_value);
	values[3] = Int32GetDatum((int32) shift.units[0]);
	values[4] = Int32GetDatum((int32) shift.units[1]);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(description), values, nulls)));
}

SERM_FUNCTION(serm_shift_final_ks);
Datum
serm_shift_final_ks(PG_FUNCTION_ARGS)
{
	return finish(fcinfo, SERM_SHIFT_KS);
}

SERM_FUNCTION(serm_shift_final_psi);
Datum
serm_shift_final_psi(PG_FUNCTION_ARGS)
{
	return finish(fcinfo, SERM_SHIFT_PSI);
}

SERM_FUNCTION(serm_shift_final_js);
Datum
serm_shift_final_js(PG_FUNCTION_ARGS)
{
	return finish(fcinfo, SERM_SHIFT_JS);
}

SERM_FUNCTION(serm_shift_final_novelty);
Datum
serm_shift_final_novelty(PG_FUNCTION_ARGS)
{
	return finish(fcinfo, SERM_SHIFT_NOVELTY);
}

SERM_FUNCTION(serm_shift_final_calibration);
Datum
serm_shift_final_calibration(PG_FUNCTION_ARGS)
{
	return finish(fcinfo, SERM_SHIFT_CALIBRATION);
}
