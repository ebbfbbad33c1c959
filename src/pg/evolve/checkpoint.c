/*
 * States of a training in serm._checkpoint: weights and both moments, in parts
 * of a few MiB with a checksum each. A state is written in a transaction of its
 * own, which takes the place of the one before; a later process that trains the
 * same (the run is a hash of begin, examples and options) goes on from it.
 *
 * The callbacks run inside core, so no error may leave them: it is kept in the
 * host, and raised when core has unwound.
 */
#include "pg/serm.h"

#include "core/base/hash.h"
#include "miscadmin.h"
#include "pg/evolve/evolve.h"
#include "storage/lock.h"

/* Between two parts somebody may interrupt. */
#define PART_BYTES ((Size) 4 << 20)
/* Users' advisory locks have 1 or 2 here, rounds 83. */
#define LOCK_CLASS 84
/* States of other runs that nobody came back for. */
#define FORGET_AFTER "7 days"

typedef struct Part {
	char *at;
	Size bytes;
} Part;

/* Part `index` of the state's three arrays; bytes 0 behind the last one. */
static Part
part_at(const SermEncoderState *state, int32 index)
{
	Size whole = state->count * sizeof(SermReal), each = (whole + PART_BYTES - 1) / PART_BYTES;
	char *const arrays[] = {(char *) state->flat, (char *) state->mean, (char *) state->square};
	Size array = (Size) index / each, start = (Size) index % each * PART_BYTES;

	if (array >= lengthof(arrays))
		return (Part){NULL, 0};
	return (Part){arrays[array] + start, Min(PART_BYTES, whole - start)};
}

/* Two processes that train the same must not write at once; false: another one does. Until the transaction
 * ends. */
static bool
lock_run(uint64 run)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (run >> 32), (uint32) run, LOCK_CLASS);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* --- reading */

/* Verify part `index`, and copy it when told to; its numbers go to *numbers. */
static bool
read_part(const SermCheckpoint *checkpoint, uint64 run, int32 index, Part part, bool copy,
    SermEncoderState *numbers)
{
	SermParam params[] = {SERM_TEXT(checkpoint->model), SERM_INT8((int64) run), SERM_INT4(index)};
	bool null, good;
	Datum stored;
	bytea *data;

	serm_spi_execute("SELECT c.epoch, c.example, c.step, c.loss, c.crc32c, c.data FROM serm._checkpoint AS c"
	                 " WHERE c.model = $1 AND c.run = $2 AND c.part = $3",
	    SPI_OK_SELECT, true, params, lengthof(params));
	if (SPI_processed == 0)
		return false;
	numbers->epoch = (uint32) DatumGetInt32(serm_spi_value(0, 1, &null));
	numbers->example = (uint32) DatumGetInt32(serm_spi_value(0, 2, &null));
	numbers->step = (uint64) DatumGetInt64(serm_spi_value(0, 3, &null));
	numbers->loss = DatumGetFloat8(serm_spi_value(0, 4, &null));
	stored = serm_spi_value(0, 6, &null);
	data = DatumGetByteaPP(stored);
	good = VARSIZE_ANY_EXHDR(data) == part.bytes && serm_crc32c(0, VARDATA_ANY(data), part.bytes) ==
	                                                    (uint32) DatumGetInt64(serm_spi_value(0, 5, &null));
	if (good && copy)
		memcpy(part.at, VARDATA_ANY(data), part.bytes);
	if ((Pointer) data != DatumGetPointer(stored))
		pfree(data);
	SPI_freetuptable(SPI_tuptable);
	return good;
}

/* All parts, which must be of one update; returns how many were good, *whole whether that is all of them. */
static int32
read_parts(const SermCheckpoint *checkpoint, uint64 run, bool copy, SermEncoderState *state, bool *whole)
{
	SermEncoderState numbers = *state, first = *state;
	int32 index = 0;
	Part part;

	for (part = part_at(state, 0); part.bytes > 0; part = part_at(state, ++index)) {
		CHECK_FOR_INTERRUPTS();
		if (!read_part(checkpoint, run, index, part, copy, &numbers))
			break;
		if (index == 0)
			first = numbers;
		if (numbers.epoch != first.epoch || numbers.example != first.example || numbers.step != first.step)
			break;
	}
	*whole = part.bytes == 0;
	if (copy && *whole)
		*state = numbers;
	return index;
}

static bool
restore(const SermCheckpoint *checkpoint, uint64 run, SermEncoderState *state)
{
	bool whole;

	/* Read twice, because a damaged state must not leave half of itself behind, and there is no memory for
	 * two.
	 */
	if (read_parts(checkpoint, run, false, state, &whole) > 0 && !whole)
		ereport(WARNING, errmsg("what was kept of the training of model \"%s\" is damaged, and not used",
		                     checkpoint->model));
	if (!whole)
		return false;
	(void) read_parts(checkpoint, run, true, state, &whole);
	if (!whole)
		ereport(ERROR, errcode(ERRCODE_OBJECT_IN_USE),
		    errmsg(
		        "what was kept of the training of model \"%s\" changed while it was read", checkpoint->model),
		    errhint("Somebody else trains the same; see serm.progress, and call it again."));
	return true;
}

bool
serm_checkpoint_restore(void *context, uint64_t run, SermEncoderState *state)
{
	SermCheckpoint *checkpoint = context;
	MemoryContext previous = CurrentMemoryContext;
	volatile bool found = false;

	checkpoint->run = run;
	checkpoint->last = serm_progress_clock(NULL);
	if (checkpoint->host->pending != NULL)
		return false;
	PG_TRY();
	{
		found = restore(checkpoint, run, state);
		serm_spi_commit(checkpoint->level);
		if (found)
			ereport(NOTICE, errmsg("%s: training goes on behind update " UINT64_FORMAT ", in epoch %u",
			                    checkpoint->model, state->step, state->epoch + 1));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(previous);
		serm_host_keep_error(checkpoint->host);
	}
	PG_END_TRY();
	return found;
}

/* --- writing */

static void
write_parts(const SermCheckpoint *checkpoint, uint64 run, const SermEncoderState *state)
{
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "serm checkpoint", ALLOCSET_SMALL_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	bytea *chunk = palloc(VARHDRSZ + PART_BYTES);
	SermParam params[] = {SERM_TEXT(checkpoint->model), SERM_INT8((int64) run), SERM_INT4(0),
	    SERM_INT4((int32) state->epoch), SERM_INT4((int32) state->example), SERM_INT8((int64) state->step),
	    SERM_FLOAT8(state->loss), SERM_INT8(0), SERM_DATUM(BYTEAOID, PointerGetDatum(chunk))};
	Part part = part_at(state, 0);

	serm_spi_execute("DELETE FROM serm._checkpoint AS c WHERE c.model = $1 AND c.run = $2", SPI_OK_DELETE,
	    false, params, 2);
	for (int32 index = 0; part.bytes > 0; part = part_at(state, ++index)) {
		CHECK_FOR_INTERRUPTS();
		SET_VARSIZE(chunk, VARHDRSZ + part.bytes);
		memcpy(VARDATA(chunk), part.at, part.bytes);
		params[2].value = Int32GetDatum(index);
		params[7].value = Int64GetDatum((int64) serm_crc32c(0, part.at, part.bytes));
		serm_spi_execute("INSERT INTO serm._checkpoint (model, run, part, epoch, example, step, loss, crc32c,"
		                 " data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
		    SPI_OK_INSERT, false, params, lengthof(params));
	}
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(context);
}

bool
serm_checkpoint_keep(void *context, uint64_t run, const SermEncoderState *state)
{
	SermCheckpoint *checkpoint = context;
	MemoryContext previous = CurrentMemoryContext;

	if (checkpoint->host->pending != NULL)
		return false;
	if (serm_progress_clock(NULL) - checkpoint->last < checkpoint->seconds)
		return true;
	PG_TRY();
	{
		if (lock_run(run)) {
			write_parts(checkpoint, run, state);
			serm_spi_commit(checkpoint->level);
		}
		checkpoint->last = serm_progress_clock(NULL);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(previous);
		serm_host_keep_error(checkpoint->host);
	}
	PG_END_TRY();
	return checkpoint->host->pending == NULL;
}

void
serm_checkpoint_forget(const SermCheckpoint *checkpoint)
{
	SermParam params[] = {SERM_TEXT(checkpoint->model), SERM_INT8((int64) checkpoint->run)};

	serm_spi_execute("DELETE FROM serm._checkpoint AS c WHERE c.model = $1 AND"
	                 " (c.run = $2 OR c.at < pg_catalog.now() - '" FORGET_AFTER "'::interval)",
	    SPI_OK_DELETE, false, params, lengthof(params));
}
