/*
 * How texts of SQL reach a model: a prefix of bounded size, in UTF-8. Scoring
 * and training both come through here, so that they read the same bytes.
 */
#include "pg/serm.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"

#include "core/base/utf8.h"
#include "pg/store/internal.h"

#define REPLACEMENT "\xef\xbf\xbd"

SermText
serm_text_detoast(Datum datum, void **copy)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(datum);

	*copy = NULL;
	if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value)) {
		value = pg_detoast_datum_slice(value, 0, SERM_SERVER_BYTES_MAX);
		*copy = value;
	}
	return (SermText){VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)};
}

SermText
serm_doc_detoast(Datum datum, void **copy)
{
	struct varlena *value = pg_detoast_datum_packed((struct varlena *) DatumGetPointer(datum));

	*copy = value != (struct varlena *) DatumGetPointer(datum) ? value : NULL;
	return (SermText){VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)};
}

static bool
is_ascii(const char *bytes, Size length)
{
	Size i = 0;

	for (; i + sizeof(uint64) <= length; i += sizeof(uint64)) {
		uint64 word;

		memcpy(&word, bytes + i, sizeof(word));
		if ((word & UINT64CONST(0x8080808080808080)) != 0)
			return false;
	}
	for (; i < length; i++)
		if (IS_HIGHBIT_SET(bytes[i]))
			return false;
	return true;
}

/* The conversion is looked up once: predictions may run where no catalog can be read. */
static FmgrInfo *
conversion_to_utf8(void)
{
	static FmgrInfo conversion;

	if (!OidIsValid(conversion.fn_oid)) {
		Oid function = FindDefaultConversionProc(GetDatabaseEncoding(), PG_UTF8);

		if (!OidIsValid(function))
			return NULL;
		fmgr_info_cxt(function, &conversion, TopMemoryContext);
	}
	return &conversion;
}

static void
reserve(SermTextBuffer *buffer, Size size)
{
	if (buffer->capacity >= size)
		return;
	if (buffer->bytes != NULL)
		pfree(buffer->bytes);
	buffer->bytes = NULL;
	buffer->capacity = 0;
	buffer->bytes = MemoryContextAlloc(buffer->context, size);
	buffer->capacity = size;
}

/* Convert all of `text`; a character without a counterpart, or a broken one, becomes U+FFFD. */
static SermText
convert(FmgrInfo *conversion, SermText text, SermTextBuffer *buffer)
{
	const int encoding = GetDatabaseEncoding();
	unsigned char *from = (unsigned char *) unconstify(char *, text.bytes);
	unsigned char *end = from + text.length;
	char *to;

	reserve(buffer, text.length * MAX_CONVERSION_GROWTH + 1);
	to = buffer->bytes;
	while (from < end) {
		int taken = DatumGetInt32(FunctionCall6(conversion, Int32GetDatum(encoding), Int32GetDatum(PG_UTF8),
		    CStringGetDatum((char *) from), CStringGetDatum(to), Int32GetDatum((int) (end - from)),
		    BoolGetDatum(true)));

		to += strlen(to);
		from += taken;
		if (from < end) {
			memcpy(to, REPLACEMENT, strlen(REPLACEMENT));
			to += strlen(REPLACEMENT);
			from += Min(pg_encoding_mblen(encoding, (const char *) from), end - from);
		}
	}
	return (SermText){buffer->bytes, (Size) (to - buffer->bytes)};
}

SermText
serm_text_utf8(SermText text, SermTextBuffer *buffer)
{
	const int encoding = GetDatabaseEncoding();

	if (encoding != PG_UTF8 && encoding != PG_SQL_ASCII) {
		FmgrInfo *conversion;

		/* A prefix of this length may end in half a character; a longer text is cut the same way. */
		if (text.length >= SERM_SERVER_BYTES_MAX)
			text.length = (size_t) pg_encoding_mbcliplen(
			    encoding, text.bytes, SERM_SERVER_BYTES_MAX, SERM_SERVER_BYTES_MAX);
		if (!is_ascii(text.bytes, text.length) && (conversion = conversion_to_utf8()) != NULL)
			text = convert(conversion, text, buffer);
	}
	text.length = serm_utf8_clip(text.bytes, text.length, SERM_TEXT_BYTES_MAX);
	return text;
}

text *
serm_text_from_utf8(SermText source)
{
	const int encoding = GetDatabaseEncoding();
	StringInfoData result;
	Oid function = InvalidOid;

	if (encoding != PG_UTF8 && encoding != PG_SQL_ASCII && !is_ascii(source.bytes, source.length))
		function = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(function))
		return cstring_to_text_with_len(source.bytes, (int) source.length);
	initStringInfo(&result);
	/* One character at a time: the texts are words. */
	for (size_t at = 0, length; at < source.length; at += length) {
		unsigned char one[SERM_UTF8_MAX_BYTES * MAX_CONVERSION_GROWTH + 1];

		length = (size_t) pg_utf_mblen((const unsigned char *) source.bytes + at);
		if (pg_do_encoding_conversion_buf(function, PG_UTF8, encoding,
		        (unsigned char *) unconstify(char *, source.bytes) + at, (int) length, one, sizeof(one),
		        true) == (int) length)
			appendStringInfoString(&result, (const char *) one);
		else
			appendStringInfoChar(&result, '?');
	}
	return cstring_to_text_with_len(result.data, result.len);
}
