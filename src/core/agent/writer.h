/*
 * Text that grows in an arena. A failed allocation is remembered, not raised:
 * callers write everything and look at `failed` once.
 */
#ifndef SERM_CORE_AGENT_WRITER_H
#define SERM_CORE_AGENT_WRITER_H

#include "core/base/arena.h"
#include "core/text/text.h"

typedef struct SermWriter {
	SermArena *arena;
	char *bytes;
	size_t length;
	size_t capacity;
	bool failed;
} SermWriter;

extern void serm_writer_init(SermWriter *writer, SermArena *arena);
extern void serm_writer_bytes(SermWriter *writer, const char *bytes, size_t length);
extern void serm_writer_text(SermWriter *writer, const char *text);
extern void serm_writer_format(SermWriter *writer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes; `text` must be valid UTF-8 and may hold any character but U+0000. */
extern void serm_writer_json(SermWriter *writer, SermText text);
/* The NUL-terminated result, or MEMORY. */
extern SermStatus serm_writer_finish(SermWriter *writer, SermText *text, SermError *error);

#endif
