#include "core/agent/writer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MIN ((size_t) 1024)

void
serm_writer_init(SermWriter *writer, SermArena *arena)
{
	memset(writer, 0, sizeof(*writer));
	writer->arena = arena;
}

/* Room for `extra` bytes and a NUL. The old copy stays in the arena: doubling bounds the waste to the result.
 */
static bool
reserve(SermWriter *writer, size_t extra)
{
	size_t needed, capacity = writer->capacity;
	char *bytes;

	if (writer->failed || __builtin_add_overflow(writer->length, extra, &needed) || needed > SIZE_MAX / 4) {
		writer->failed = true;
		return false;
	}
	needed++;
	if (needed <= capacity)
		return true;
	if (capacity < CAPACITY_MIN)
		capacity = CAPACITY_MIN;
	while (capacity < needed)
		capacity *= 2;
	bytes = serm_arena_alloc(writer->arena, capacity);
	if (bytes == NULL) {
		writer->failed = true;
		return false;
	}
	if (writer->length > 0)
		memcpy(bytes, writer->bytes, writer->length);
	writer->bytes = bytes;
	writer->capacity = capacity;
	return true;
}

void
serm_writer_bytes(SermWriter *writer, const char *bytes, size_t length)
{
	if (length == 0 || !reserve(writer, length))
		return;
	memcpy(writer->bytes + writer->length, bytes, length);
	writer->length += length;
}

void
serm_writer_text(SermWriter *writer, const char *text)
{
	serm_writer_bytes(writer, text, strlen(text));
}

void
serm_writer_format(SermWriter *writer, const char *format, ...)
{
	char line[512];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	SERM_ASSERT(length >= 0 && (size_t) length < sizeof(line));
	serm_writer_bytes(writer, line, (size_t) length);
}

void
serm_writer_json(SermWriter *writer, SermText text)
{
	size_t start = 0;

	serm_writer_text(writer, "\"");
	for (size_t i = 0; i < text.length; i++) {
		unsigned char byte = (unsigned char) text.bytes[i];

		if (byte >= 0x20 && byte != '"' && byte != '\\' && byte != 0x7f)
			continue;
		serm_writer_bytes(writer, text.bytes + start, i - start);
		start = i + 1;
		if (byte == '"' || byte == '\\')
			serm_writer_format(writer, "\\%c", byte);
		else if (byte == '\n')
			serm_writer_text(writer, "\\n");
		else
			serm_writer_format(writer, "\\u%04x", byte);
	}
	serm_writer_bytes(writer, text.bytes + start, text.length - start);
	serm_writer_text(writer, "\"");
}

SermStatus
serm_writer_finish(SermWriter *writer, SermText *text, SermError *error)
{
	if (!reserve(writer, 0))
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while writing text for an agent");
	writer->bytes[writer->length] = '\0';
	text->bytes = writer->bytes;
	text->length = writer->length;
	return SERM_OK;
}
