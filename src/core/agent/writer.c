#include "core/agent/writer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CAPACITY_MIN ((size_t) 1024)
#define EACH_BYTE(value) (0x0101010101010101u * (uint64_t) (value))

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

/* Above 0 where a byte of `word` is zero. */
static uint64_t
zero_byte(uint64_t word)
{
	return (word - EACH_BYTE(0x01)) & ~word & EACH_BYTE(0x80);
}

/* Bytes from the start that stand in a JSON string as they are. */
static size_t
plain_length(const char *bytes, size_t length)
{
	size_t i = 0;

	/* Eight at a time: few have to be escaped. */
	for (; i + 8 <= length; i += 8) {
		uint64_t word, control;

		memcpy(&word, bytes + i, 8);
		control = (word - EACH_BYTE(0x20)) & ~word & EACH_BYTE(0x80);
		if ((control | zero_byte(word ^ EACH_BYTE('"')) | zero_byte(word ^ EACH_BYTE('\\')) |
		        zero_byte(word ^ EACH_BYTE(0x7f))) != 0)
			break;
	}
	for (; i < length; i++) {
		unsigned char byte = (unsigned char) bytes[i];

		if (byte < 0x20 || byte == '"' || byte == '\\' || byte == 0x7f)
			break;
	}
	return i;
}

void
serm_writer_json(SermWriter *writer, SermText text)
{
	size_t at = 0;

	serm_writer_text(writer, "\"");
	for (;;) {
		size_t length = plain_length(text.bytes + at, text.length - at);
		unsigned char byte;

		serm_writer_bytes(writer, text.bytes + at, length);
		at += length;
		if (at == text.length)
			break;
		byte = (unsigned char) text.bytes[at++];
		if (byte == '"')
			serm_writer_text(writer, "\\\"");
		else if (byte == '\\')
			serm_writer_text(writer, "\\\\");
		else if (byte == '\n')
			serm_writer_text(writer, "\\n");
		else
			serm_writer_format(writer, "\\u%04x", byte);
	}
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
