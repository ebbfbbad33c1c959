/*
 * The type serm.doc: a document that is parsed already, into words
 * (core/text/document.h has the bytes) or into the tokens of a cross-encoder
 * (core/text/token_document.h). What comes from outside is checked in full; what lies in a
 * table is checked where it is read, so far that damage cannot lead out of it.
 */
#include "pg/serm.h"

#include "access/detoast.h"
#include "common/hashfn.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"

#include "pg/score/call.h"

/* No document takes more: a few copies of the longest one. */
#define ARENA_BYTES_MAX ((Size) 4 * 1024 * 1024)
/* The readable form of the most tokens: a blank and eight digits each, behind a short head. */
#define TOKENS_TEXT_MAX ((Size) 64 + 9 * SERM_TOKENS_MAX)

/* Either kind. */
typedef struct Stored {
	bool tokens;
	SermDocument words;
	SermTokenDocument ids;
} Stored;

static struct varlena *
to_datum(const Stored *doc)
{
	Size size =
	    VARHDRSZ + (doc->tokens ? serm_token_document_size(&doc->ids) : serm_document_size(&doc->words));
	struct varlena *value = palloc(size);

	SET_VARSIZE(value, size);
	if (doc->tokens)
		serm_token_document_write(&doc->ids, (unsigned char *) VARDATA(value));
	else
		serm_document_write(&doc->words, (unsigned char *) VARDATA(value));
	return value;
}

static SermArena
start_arena(void)
{
	SermArena arena;

	serm_arena_init(&arena, serm_context_allocator(CurrentMemoryContext), ARENA_BYTES_MAX);
	return arena;
}

/* Read the readable form of either kind. Nothing is cut off: what is too long to be one is refused. */
static SermStatus
scan(SermText text, SermArena *arena, Stored *doc, SermError *error)
{
	SermTextBuffer buffer = {.context = CurrentMemoryContext};

	doc->tokens = serm_token_document_is_text(text);
	if (text.length > (doc->tokens ? TOKENS_TEXT_MAX : (Size) SERM_TEXT_BYTES_MAX))
		return serm_fail(error, SERM_ERR_INVALID, "it is longer than any document");
	/* Tokens are written in ASCII. */
	return doc->tokens ? serm_token_document_scan(text, arena, &doc->ids, error)
	                   : serm_document_scan(serm_text_utf8(text, &buffer), arena, &doc->words, error);
}

SERM_FUNCTION(serm_doc_in);
Datum
serm_doc_in(PG_FUNCTION_ARGS)
{
	char *given = PG_GETARG_CSTRING(0);
	SermArena arena = start_arena();
	Stored doc = {.tokens = false};
	SermError error = {SERM_OK, ""};
	SermStatus status = scan((SermText){given, strlen(given)}, &arena, &doc, &error);
	struct varlena *value;

	if (status == SERM_ERR_INVALID || status == SERM_ERR_CORRUPT)
		ereport(ERROR, errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
		    errmsg("invalid input syntax for type serm.doc"),
		    errdetail("It is refused because %s.", error.message),
		    errhint("Make one of a text: serm.encode(text)."));
	serm_check(status, &error);
	value = to_datum(&doc);
	serm_arena_free(&arena);
	PG_RETURN_POINTER(value);
}

/* Open a stored value; errors name `sqlstate`. */
static Stored
read_bytes(const char *bytes, Size length, SermArena *arena, int sqlstate)
{
	const unsigned char *given = (const unsigned char *) bytes;
	Stored doc = {.tokens = serm_token_document_is(given, length)};
	SermError error = {SERM_OK, ""};
	SermStatus status =
	    doc.tokens ? serm_token_document_read(given, length, SERM_TOKENS_MAX, arena, &doc.ids, &error)
	               : serm_document_read(given, length, arena, &doc.words, &error);

	if (status == SERM_OK && !doc.tokens && sqlstate == ERRCODE_INVALID_BINARY_REPRESENTATION)
		status = serm_document_check(&doc.words, &error);
	if (status == SERM_ERR_CORRUPT)
		ereport(ERROR, errcode(sqlstate), errmsg("these bytes are not a serm.doc: %s", error.message));
	serm_check(status, &error);
	return doc;
}

SERM_FUNCTION(serm_doc_out);
Datum
serm_doc_out(PG_FUNCTION_ARGS)
{
	struct varlena *value = PG_GETARG_VARLENA_PP(0);
	SermArena arena = start_arena();
	Stored doc = read_bytes(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &arena, ERRCODE_DATA_CORRUPTED);
	char *text = doc.tokens ? serm_token_document_print(&doc.ids, &arena)
	                        : serm_document_print(&doc.words, GetDatabaseEncoding() != PG_UTF8, &arena);

	if (text == NULL)
		ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
	text = pstrdup(text);
	serm_arena_free(&arena);
	PG_RETURN_CSTRING(text);
}

SERM_FUNCTION(serm_doc_recv);
Datum
serm_doc_recv(PG_FUNCTION_ARGS)
{
	StringInfo message = (StringInfo) PG_GETARG_POINTER(0);
	int length = message->len - message->cursor;
	const char *bytes = pq_getmsgbytes(message, length);
	SermArena arena = start_arena();
	Stored doc = read_bytes(bytes, (Size) length, &arena, ERRCODE_INVALID_BINARY_REPRESENTATION);
	struct varlena *value = to_datum(&doc);

	serm_arena_free(&arena);
	PG_RETURN_POINTER(value);
}

SERM_FUNCTION(serm_doc_send);
Datum
serm_doc_send(PG_FUNCTION_ARGS)
{
	struct varlena *value = PG_GETARG_VARLENA_PP(0);
	StringInfoData message;

	pq_begintypsend(&message);
	pq_sendbytes(&message, VARDATA_ANY(value), (int) VARSIZE_ANY_EXHDR(value));
	PG_RETURN_BYTEA_P(pq_endtypsend(&message));
}

/* One document has one stored form; the order of the bytes is no order of documents, but sorts them. */
static int
compare(FunctionCallInfo fcinfo)
{
	struct varlena *a = PG_GETARG_VARLENA_PP(0), *b = PG_GETARG_VARLENA_PP(1);
	Size a_size = VARSIZE_ANY_EXHDR(a), b_size = VARSIZE_ANY_EXHDR(b);
	int result = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(a_size, b_size));

	if (result == 0)
		result = (a_size > b_size) - (a_size < b_size);
	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return result;
}

/* The size tells most of them apart before anything is detoasted. */
static bool
same(FunctionCallInfo fcinfo)
{
	return toast_raw_datum_size(PG_GETARG_DATUM(0)) == toast_raw_datum_size(PG_GETARG_DATUM(1)) &&
	       compare(fcinfo) == 0;
}

SERM_FUNCTION(serm_doc_eq);
Datum
serm_doc_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(same(fcinfo));
}

SERM_FUNCTION(serm_doc_ne);
Datum
serm_doc_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!same(fcinfo));
}

SERM_FUNCTION(serm_doc_lt);
Datum
serm_doc_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) < 0);
}

SERM_FUNCTION(serm_doc_le);
Datum
serm_doc_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) <= 0);
}

SERM_FUNCTION(serm_doc_ge);
Datum
serm_doc_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) >= 0);
}

SERM_FUNCTION(serm_doc_gt);
Datum
serm_doc_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare(fcinfo) > 0);
}

SERM_FUNCTION(serm_doc_cmp);
Datum
serm_doc_cmp(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(compare(fcinfo));
}

SERM_FUNCTION(serm_doc_hash);
Datum
serm_doc_hash(PG_FUNCTION_ARGS)
{
	struct varlena *value = PG_GETARG_VARLENA_PP(0);
	Datum hash = hash_any((unsigned char *) VARDATA_ANY(value), (int) VARSIZE_ANY_EXHDR(value));

	PG_FREE_IF_COPY(value, 0);
	return hash;
}

SERM_FUNCTION(serm_doc_hash_extended);
Datum
serm_doc_hash_extended(PG_FUNCTION_ARGS)
{
	struct varlena *value = PG_GETARG_VARLENA_PP(0);
	Datum hash = hash_any_extended(
	    (unsigned char *) VARDATA_ANY(value), (int) VARSIZE_ANY_EXHDR(value), (uint64) PG_GETARG_INT64(1));

	PG_FREE_IF_COPY(value, 0);
	return hash;
}

/* Kept with the call site, so that encoding a table takes one arena. */
typedef struct Encoder {
	SermArena arena;
	SermTextBuffer buffer;
} Encoder;

SERM_FUNCTION(serm_encode);
Datum
serm_encode(PG_FUNCTION_ARGS)
{
	Encoder *encoder = fcinfo->flinfo->fn_extra;
	void *copy;
	SermText text = serm_text_detoast(PG_GETARG_DATUM(0), &copy);
	SermArenaMark mark;
	Stored doc = {.tokens = false};
	SermError error = {SERM_OK, ""};
	struct varlena *value;

	if (encoder == NULL) {
		encoder = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Encoder));
		serm_arena_init(&encoder->arena, serm_context_allocator(fcinfo->flinfo->fn_mcxt), ARENA_BYTES_MAX);
		encoder->buffer.context = fcinfo->flinfo->fn_mcxt;
		/* A first block that is not given back between calls. */
		if (serm_arena_alloc(&encoder->arena, 1) == NULL)
			ereport(ERROR, errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"));
		fcinfo->flinfo->fn_extra = encoder;
	}
	mark = serm_arena_mark(&encoder->arena);
	serm_check(
	    serm_document_parse(serm_text_utf8(text, &encoder->buffer), &encoder->arena, &doc.words, &error),
	    &error);
	value = to_datum(&doc);
	serm_arena_rewind(&encoder->arena, mark);
	if (copy != NULL)
		pfree(copy);
	PG_RETURN_POINTER(value);
}

/* (doc, model) */
SERM_FUNCTION(serm_encode_for);
Datum
serm_encode_for(PG_FUNCTION_ARGS)
{
	SermScorer *scorer = serm_call_scorer(fcinfo, 1, 0);
	void *copy;
	SermText bytes = serm_scorer_encode(scorer, serm_text_detoast(PG_GETARG_DATUM(0), &copy));
	struct varlena *value = palloc(VARHDRSZ + bytes.length);

	SET_VARSIZE(value, VARHDRSZ + bytes.length);
	memcpy(VARDATA(value), bytes.bytes, bytes.length);
	if (copy != NULL)
		pfree(copy);
	PG_RETURN_POINTER(value);
}
