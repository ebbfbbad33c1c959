/*
 * Scorers: opened versions, ready to score. The weights behind them are shared
 * by all scorers of the backend, found by content (model, version, checksum) and
 * options: a name that is used again for another model cannot meet old weights.
 *
 * Every statement opens its scorers anew: rights are checked and the active
 * version is read under the statement's own snapshot. What that costs is two
 * index look-ups; weights stay mapped.
 */
#include "pg/serm.h"

#include <math.h>
#include <sys/mman.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"

#include "core/train/encoder_explain.h"
#include "pg/store/internal.h"

/* Weights that no scorer uses are kept mapped up to this number. */
#define IDLE_MAX 8
/* Large blocks of the weights' memory, and what madvise() asks addresses to be multiples of. */
#define LARGE_BYTES ((Size) 4 * 1024 * 1024)
#define PAGE_BYTES ((uintptr_t) 64 * 1024)

/* What is opened: weights, and what is read of documents. Compared by its bytes. */
typedef struct WeightsKey {
	SermImageKey image;
	int32 long_documents;
	int32 chunk_count;
	int32 chunk_overlap;
	int32 unused;
} WeightsKey;

typedef struct Weights {
	WeightsKey key;
	MemoryContext context;
	SermModel *model;
	uint32 users;
	uint64 last_used;
} Weights;

struct SermScorer {
	MemoryContext context; /* holds the scorer itself; a child of the owner */
	Weights *weights;
	SermModelRow *row;
	int version;
	uint64 generation;
	Oid user;
	TimestampTz statement;
	MemoryContextCallback release;
	/* The query that is parsed: its bytes and what became of them. */
	SermArena query_arena;
	SermArenaMark query_start;
	SermText query_text;
	SermQuery *query;
	SermArena scratch;
	SermArenaMark scratch_start;
	SermArena batch_arena;
	SermBatch *batch; /* NULL until one is started */
	SermTextBuffer query_buffer;
	SermTextBuffer doc_buffer;
};

static SermPlan version_plan = {
    "SELECT v.checksum FROM serm.version AS v WHERE v.model = $1 AND v.version = $2", 2, {TEXTOID, INT4OID},
    NULL};

static HTAB *opened = NULL; /* WeightsKey -> Weights */
static uint64 clock_ticks = 0;

/* --- invalidation: a flag only; the reading is done at the next use */

static Oid watched[3]; /* serm.model, serm.version, serm.tensor, as of the last opening */
static uint64 generation = 1;

static void
relation_changed(Datum unused pg_attribute_unused(), Oid relation)
{
	if (relation == InvalidOid || relation == watched[0] || relation == watched[1] || relation == watched[2])
		generation++;
}

static void
watch_tables(void)
{
	static const char *const names[] = {"model", "version", "tensor"};
	static bool registered = false;
	Oid schema = get_namespace_oid("serm", false);

	if (!registered) {
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		registered = true;
	}
	for (int i = 0; i < (int) lengthof(watched); i++)
		watched[i] = get_relname_relid(names[i], schema);
}

/*
 * Rights on weights are asked for at every opening, also when they are mapped
 * already. (The rows of the model and of the version are read by SQL, which
 * asks for itself.)
 */
static void
check_rights(void)
{
	const Oid tensor = watched[2];
	AclResult result = pg_class_aclcheck(tensor, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "tensor");
	if (check_enable_rls(tensor, InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		    errmsg("weights cannot be read under row-level security"),
		    errhint("Put the policy on serm.model or serm.version instead of serm.tensor."));
}

/* --- weights */

static void
close_image(void *image)
{
	serm_cache_release(image);
}

/* Take the weights that were used longest ago away when too many are kept for nobody. */
static void
evict_idle(void)
{
	HASH_SEQ_STATUS scan;
	Weights *weights, *oldest = NULL;
	int idle = 0;

	hash_seq_init(&scan, opened);
	while ((weights = hash_seq_search(&scan)) != NULL) {
		if (weights->users > 0)
			continue;
		idle++;
		if (oldest == NULL || weights->last_used < oldest->last_used)
			oldest = weights;
	}
	if (idle > IDLE_MAX) {
		MemoryContextDelete(oldest->context);
		(void) hash_search(opened, &oldest->key, HASH_REMOVE, NULL);
	}
}

/* Memory of the context; large blocks in large pages where the kernel gives them on request. */
static void *
allocate_block(void *context, size_t size)
{
	void *block = serm_context_allocator(context).allocate(context, size);
#ifdef MADV_HUGEPAGE
	uintptr_t start = TYPEALIGN64(PAGE_BYTES, (uintptr_t) block);

	if (block != NULL && size >= LARGE_BYTES)
		(void) madvise(
		    (void *) start, TYPEALIGN_DOWN(PAGE_BYTES, (uintptr_t) block + size - start), MADV_HUGEPAGE);
#endif
	return block;
}

static void
release_block(void *context, void *block)
{
	serm_context_allocator(context).release(context, block);
}

/* What an interrupt raised while a prediction ran; in the memory of the transaction. */
static ErrorData *raised = NULL;

/*
 * What long predictions ask. Interrupts are served here, because a batch that
 * were given up for each and begun anew would never end under those that come
 * by the clock (client_connection_check_interval). An error must not leave core
 * by longjmp: it is kept until core has unwound.
 */
static bool
go_on(void *unused pg_attribute_unused())
{
	MemoryContext previous = CurrentMemoryContext;
	volatile bool good = true;

	if (!(InterruptPending && INTERRUPTS_CAN_BE_PROCESSED()))
		return true;
	PG_TRY();
	{
		CHECK_FOR_INTERRUPTS();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopTransactionContext);
		raised = CopyErrorData();
		FlushErrorState();
		MemoryContextSwitchTo(previous);
		good = false;
	}
	PG_END_TRY();
	return good;
}

/* Raise what core or an interrupt while it ran has left. */
static void
check_run(SermStatus status, const SermError *error)
{
	if (status == SERM_ERR_CANCELED && raised != NULL) {
		ErrorData *kept = raised;

		raised = NULL;
		ReThrowError(kept);
	}
	if (status == SERM_ERR_MEMORY)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("%s", error->message),
		    errhint("Pass a shorter text, or import the model with a smaller max_length."));
	serm_check(status, error);
}

/* Open the weights in a context that disappears with everything if this fails. */
static Weights *
load_weights(const WeightsKey *key, const SermModelRow *row)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "serm weights", ALLOCSET_SMALL_SIZES);
	SermImage *image = MemoryContextAllocZero(context, sizeof(SermImage));
	MemoryContextCallback *callback = MemoryContextAllocZero(context, sizeof(MemoryContextCallback));
	SermModelSettings settings = {.long_documents = key->long_documents,
	    .chunk_count = (uint32) key->chunk_count,
	    .chunk_overlap = (uint32) key->chunk_overlap};
	Weights *weights;
	SermTensorSet tensors;
	SermArena arena;
	SermModel *model;
	SermError error = {SERM_OK, ""};

	serm_layout_settings(key->image.layout, &settings);
	*image = serm_cache_open(&key->image, context);
	callback->func = close_image;
	callback->arg = image;
	MemoryContextRegisterResetCallback(context, callback);

	MemoryContextSwitchTo(context);
	tensors = serm_image_tensors(image);
	serm_arena_init(&arena, (SermAllocator){allocate_block, release_block, context}, SIZE_MAX);
	serm_check(serm_model_open_with(row->kind, &tensors, &settings, &arena, &model, &error), &error);
	serm_model_set_host(model, go_on, NULL);
	if (serm_model_grade_count(model) != (uint32) row->grade_count)
		ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
		    errmsg("version %d of model \"%s\" has %u grades, the model %d", key->image.version,
		        key->image.model, serm_model_grade_count(model), row->grade_count));
	weights = hash_search(opened, key, HASH_ENTER, NULL);
	weights->context = context;
	weights->model = model;
	weights->users = 0;
	MemoryContextSetParent(context, TopMemoryContext);
	return weights;
}

static Weights *
find_weights(const WeightsKey *key, const SermModelRow *row)
{
	Weights *weights;

	if (opened == NULL) {
		HASHCTL control = {.keysize = sizeof(WeightsKey), .entrysize = sizeof(Weights)};

		opened = hash_create("serm weights", 16, &control, HASH_ELEM | HASH_BLOBS);
	}
	weights = hash_search(opened, key, HASH_FIND, NULL);
	if (weights == NULL) {
		MemoryContext previous = CurrentMemoryContext;

		weights = load_weights(key, row);
		MemoryContextSwitchTo(previous);
	}
	weights->last_used = ++clock_ticks;
	return weights;
}

static void
release_weights(void *scorer)
{
	Weights *weights = ((SermScorer *) scorer)->weights;

	Assert(weights->users > 0);
	weights->users--;
}

/* --- scorers */

/* What the options of the model ask for. */
static void
choose_settings(WeightsKey *key, const SermModelRow *row)
{
	static const char *const modes[] = {"truncate", "chunk_max", "chunk_first"};

	StaticAssertStmt(lengthof(modes) == SERM_LONG_COUNT, "a name for each");
	key->image.layout = serm_layout_of(row);
	for (int i = 0; i < (int) lengthof(modes); i++)
		if (strcmp(row->options.long_documents, modes[i]) == 0)
			key->long_documents = i;
	key->chunk_count = row->options.chunk_count;
	key->chunk_overlap = row->options.chunk_overlap;
}

/* The checksum of a version; inside serm_reading_begin(). */
static uint64
read_checksum(const SermModelRow *row, int version)
{
	Datum values[] = {CStringGetTextDatum(row->name), Int32GetDatum(version)};
	bool null;

	if (serm_plan_select(&version_plan, values) == 0)
		ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
		    errmsg("model \"%s\" has no version %d", row->name, version),
		    errhint("The versions there are: SELECT * FROM serm.versions WHERE model = %s.",
		        quote_literal_cstr(row->name)));
	return (uint64) DatumGetInt64(serm_spi_value(0, 1, &null));
}

/* Everything that reads tables; fills row and version, and takes a use of the weights. */
static void
open_version(SermScorer *scorer, const char *model, int version, SermSight sight)
{
	SermReading reading = serm_reading_begin(sight);
	WeightsKey key = {0};

	watch_tables();
	scorer->row = serm_model_find(model, scorer->context);
	if (strcmp(scorer->row->kind, SERM_KIND_REMOTE) == 0)
		ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		    errmsg("model \"%s\" is remote: it scores nothing inside of a statement", scorer->row->name),
		    errhint("Let it teach a model that does: CALL serm.distill('student', %s).",
		        quote_literal_cstr(scorer->row->name)));
	if (version == 0 && scorer->row->active == 0)
		ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		    errmsg("model \"%s\" has no active version", scorer->row->name),
		    errhint("Make one with CALL serm.pretrain(%s), or with CALL serm.train once there are judgments.",
		        quote_literal_cstr(scorer->row->name)));
	scorer->version = version != 0 ? version : scorer->row->active;
	serm_image_key(
	    &key.image, scorer->row->name, scorer->version, read_checksum(scorer->row, scorer->version));
	choose_settings(&key, scorer->row);
	check_rights();
	scorer->weights = find_weights(&key, scorer->row);
	scorer->weights->users++;
	scorer->release.func = release_weights;
	scorer->release.arg = scorer;
	MemoryContextRegisterResetCallback(scorer->context, &scorer->release);
	serm_reading_end(reading);
}

SermTensorSet
serm_version_tensors(const SermModelRow *row, int version, MemoryContext context)
{
	SermReading reading = serm_reading_begin(SERM_SEE_WRITES);
	SermTensorSet tensors;
	SermImageKey key;

	serm_image_key(&key, row->name, version, read_checksum(row, version));
	tensors = serm_weights_stored(&key, context);
	serm_reading_end(reading);
	return tensors;
}

static SermArenaMark
start_arena(SermArena *arena, MemoryContext context)
{
	serm_arena_init(arena, serm_context_allocator(context), SERM_PREDICT_BYTES_MAX);
	/* A mark behind a first allocation keeps the first block when the arena is rewound. */
	if (serm_arena_alloc(arena, 1) == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
	return serm_arena_mark(arena);
}

SermScorer *
serm_scorer_open(const char *model, int version, SermSight sight, MemoryContext owner)
{
	/* Under the caller's memory until it is complete, so that an error leaves nothing with the owner. */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "serm scorer", ALLOCSET_SMALL_SIZES);
	SermScorer *scorer = MemoryContextAllocZero(context, sizeof(SermScorer));

	scorer->context = context;
	scorer->generation = generation;
	scorer->user = GetUserId();
	scorer->statement = GetCurrentStatementStartTimestamp();
	open_version(scorer, model, version, sight);
	evict_idle();
	scorer->query_start = start_arena(&scorer->query_arena, context);
	scorer->scratch_start = start_arena(&scorer->scratch, context);
	scorer->query_buffer.context = context;
	scorer->doc_buffer.context = context;
	MemoryContextSetParent(context, owner);
	return scorer;
}

void
serm_scorer_close(SermScorer *scorer)
{
	if (scorer != NULL)
		MemoryContextDelete(scorer->context);
}

int
serm_scorer_version(const SermScorer *scorer)
{
	return scorer->version;
}

const SermModelRow *
serm_scorer_row(const SermScorer *scorer)
{
	return scorer->row;
}

bool
serm_scorer_stale(const SermScorer *scorer)
{
	return scorer->generation != generation || scorer->user != GetUserId() ||
	       scorer->statement != GetCurrentStatementStartTimestamp();
}

/* Parse `text` unless it is the query that is parsed already. */
static void
prepare_query(SermScorer *scorer, SermText text)
{
	SermStatus status;
	SermError error = {SERM_OK, ""};
	char *copy;

	text.length = Min(text.length, SERM_SERVER_BYTES_MAX);
	if (scorer->query != NULL && scorer->query_text.length == text.length &&
	    memcmp(scorer->query_text.bytes, text.bytes, text.length) == 0)
		return;
	scorer->query = NULL;
	serm_arena_rewind(&scorer->query_arena, scorer->query_start);
	copy = serm_arena_copy(&scorer->query_arena, text.bytes, text.length);
	if (copy == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
	scorer->query_text = (SermText){copy, text.length};
	status = serm_model_parse_query(scorer->weights->model,
	    serm_text_utf8(scorer->query_text, &scorer->query_buffer), &scorer->query_arena, &scorer->query,
	    &error);
	if (status != SERM_OK)
		scorer->query = NULL;
	check_run(status, &error);
	/* Counted by the tests: work that must not be done for every row. */
	elog(DEBUG3, "serm parsed a query of %zu bytes", text.length);
}

static void
check_finite(const SermScorer *scorer, const SermPrediction *prediction)
{
	if (!isfinite(prediction->score))
		ereport(ERROR, errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
		    errmsg("model \"%s\" version %d gave a score that is not finite", scorer->row->name,
		        scorer->version));
}

static void
check_stored(SermStatus status, const SermError *error)
{
	if (status == SERM_ERR_CORRUPT)
		ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED), errmsg("a serm.doc is damaged: %s", error->message));
	serm_check(status, error);
}

pg_noreturn static void
wrong_document(const SermScorer *scorer, const char *problem)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
	    errmsg("model \"%s\" cannot read this serm.doc: %s", scorer->row->name, problem),
	    serm_model_reads_text(scorer->weights->model)
	        ? errhint("Encode documents for it with serm.encode(doc, %s), or pass the text.",
	              quote_literal_cstr(scorer->row->name))
	        : errhint("Encode documents for it with serm.encode(doc), or pass the text."));
}

/* Parse or read a document into the scratch arena. */
static SermDocument
open_document(SermScorer *scorer, SermDocBytes source)
{
	const unsigned char *bytes = (const unsigned char *) source.bytes.bytes;
	SermDocument doc;
	SermError error = {SERM_OK, ""};

	if (!source.encoded)
		serm_check(serm_document_parse(
		               serm_text_utf8(source.bytes, &scorer->doc_buffer), &scorer->scratch, &doc, &error),
		    &error);
	else if (serm_token_document_is(bytes, source.bytes.length))
		wrong_document(scorer, "it holds the tokens of a cross-encoder");
	else
		check_stored(serm_document_read(bytes, source.bytes.length, &scorer->scratch, &doc, &error), &error);
	return doc;
}

/* The same for a model that reads texts. */
static SermTokenDocument
open_tokens(SermScorer *scorer, SermDocBytes source)
{
	const unsigned char *bytes = (const unsigned char *) source.bytes.bytes;
	SermTokenDocument doc;
	SermError error = {SERM_OK, ""};

	if (!source.encoded)
		check_run(serm_model_encode(scorer->weights->model, serm_text_utf8(source.bytes, &scorer->doc_buffer),
		              &scorer->scratch, &doc, &error),
		    &error);
	else if (!serm_token_document_is(bytes, source.bytes.length))
		wrong_document(scorer, "it holds words, not tokens");
	else
		check_stored(serm_token_document_read(
		                 bytes, source.bytes.length, SERM_TOKENS_MAX, &scorer->scratch, &doc, &error),
		    &error);
	return doc;
}

/* Raise what a model says of tokens that were stored. */
static void
check_tokens(const SermScorer *scorer, SermStatus status, const SermError *error)
{
	if (status == SERM_ERR_INVALID)
		wrong_document(scorer, error->message);
	check_run(status, error);
}

void
serm_scorer_predict(SermScorer *scorer, SermText query, SermText doc, SermPrediction *prediction)
{
	SermError error = {SERM_OK, ""};

	SermText text;
	SermStatus status;

	prepare_query(scorer, query);
	text = serm_text_utf8(doc, &scorer->doc_buffer);
	status =
	    serm_model_predict(scorer->weights->model, scorer->query, text, &scorer->scratch, prediction, &error);
	check_run(status, &error);
	check_finite(scorer, prediction);
}

static void
predict_tokens(SermScorer *scorer, SermDocBytes source, SermPrediction *prediction)
{
	SermTokenDocument doc = open_tokens(scorer, source);
	SermError error = {SERM_OK, ""};
	SermStatus status;

	status = serm_model_predict_tokens(
	    scorer->weights->model, scorer->query, &doc, &scorer->scratch, prediction, &error);
	check_tokens(scorer, status, &error);
	check_finite(scorer, prediction);
}

void
serm_scorer_predict_bytes(SermScorer *scorer, SermText query, SermDocBytes source, SermPrediction *prediction)
{
	SermError error = {SERM_OK, ""};
	SermDocument doc;

	if (!source.encoded) {
		serm_scorer_predict(scorer, query, source.bytes, prediction);
		return;
	}
	prepare_query(scorer, query);
	serm_arena_rewind(&scorer->scratch, scorer->scratch_start);
	if (serm_model_reads_text(scorer->weights->model)) {
		predict_tokens(scorer, source, prediction);
		return;
	}
	doc = open_document(scorer, source);
	serm_check(
	    serm_model_predict_parsed(scorer->weights->model, scorer->query, &doc, prediction, &error), &error);
	check_finite(scorer, prediction);
}

static void
explain_tokens(SermScorer *scorer, SermDocBytes source, SermExplanation *explanation)
{
	SermTokenDocument doc = open_tokens(scorer, source);
	SermError error = {SERM_OK, ""};
	SermStatus status = serm_cross_explain(
	    scorer->weights->model, scorer->query, &doc, &scorer->scratch, explanation, &error);

	check_tokens(scorer, status, &error);
}

void
serm_scorer_explain(SermScorer *scorer, SermText query, SermDocBytes source, SermExplanation *explanation)
{
	SermError error = {SERM_OK, ""};
	SermDocument doc;

	prepare_query(scorer, query);
	serm_arena_rewind(&scorer->scratch, scorer->scratch_start);
	if (serm_model_reads_text(scorer->weights->model)) {
		explain_tokens(scorer, source, explanation);
		return;
	}
	doc = open_document(scorer, source);
	serm_check(serm_model_explain(scorer->weights->model, scorer->query,
	               serm_text_utf8(scorer->query_text, &scorer->query_buffer), &doc, &scorer->scratch,
	               explanation, &error),
	    &error);
}

SermText
serm_scorer_encode(SermScorer *scorer, SermText text)
{
	SermDocBytes source = {text, false};
	unsigned char *bytes;
	size_t length;

	serm_arena_rewind(&scorer->scratch, scorer->scratch_start);
	if (serm_model_reads_text(scorer->weights->model)) {
		SermTokenDocument doc = open_tokens(scorer, source);

		length = serm_token_document_size(&doc);
		bytes = serm_arena_reserve(&scorer->scratch, length);
		if (bytes != NULL)
			serm_token_document_write(&doc, bytes);
	} else {
		SermDocument doc = open_document(scorer, source);

		length = serm_document_size(&doc);
		bytes = serm_arena_reserve(&scorer->scratch, length);
		if (bytes != NULL)
			serm_document_write(&doc, bytes);
	}
	if (bytes == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
	return (SermText){(const char *) bytes, length};
}

const SermModel *
serm_scorer_model(const SermScorer *scorer)
{
	return scorer->weights->model;
}

void
serm_scorer_batch_start(SermScorer *scorer)
{
	if (scorer->batch == NULL) {
		(void) start_arena(&scorer->batch_arena, scorer->context);
		scorer->batch = serm_model_batch(scorer->weights->model, &scorer->batch_arena);
		if (scorer->batch == NULL)
			ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
	}
	/* What an error left. */
	serm_batch_clear(scorer->batch);
}

void
serm_scorer_batch_add(SermScorer *scorer, SermText query, SermDocBytes source)
{
	SermError error = {SERM_OK, ""};
	SermDocument doc;

	prepare_query(scorer, query);
	serm_arena_rewind(&scorer->scratch, scorer->scratch_start);
	if (serm_model_reads_text(scorer->weights->model) && !source.encoded) {
		check_run(serm_batch_add_text(scorer->batch, scorer->query,
		              serm_text_utf8(source.bytes, &scorer->doc_buffer), &error),
		    &error);
		return;
	}
	if (serm_model_reads_text(scorer->weights->model)) {
		SermTokenDocument tokens = open_tokens(scorer, source);

		check_tokens(scorer, serm_batch_add_tokens(scorer->batch, scorer->query, &tokens, &error), &error);
		return;
	}
	doc = open_document(scorer, source);
	serm_check(serm_batch_add(scorer->batch, scorer->query, &doc, &error), &error);
}

int
serm_scorer_batch_count(const SermScorer *scorer)
{
	return (int) serm_batch_count(scorer->batch);
}

int
serm_scorer_batch_run(SermScorer *scorer, SermPrediction *predictions)
{
	int count = serm_scorer_batch_count(scorer);
	SermError error = {SERM_OK, ""};

	check_run(serm_batch_run(scorer->batch, predictions, &error), &error);
	for (int i = 0; i < count; i++)
		check_finite(scorer, &predictions[i]);
	return count;
}
