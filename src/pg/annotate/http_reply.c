/*
 * What comes back: callbacks that touch no server API and never raise, but set a flag in
 * their transfer. Caps on body and headers are counted here, as curl's own limit does not
 * see chunked replies.
 */
#include "pg/annotate/http_parts.h"

#include "core/agent/reply.h"

#define BODY_FIRST_CAPACITY 8192

size_t
serm_http_on_body(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;
	size_t needed;

	if (transfer->first_byte_ms == 0)
		transfer->first_byte_ms = serm_now_ms();
	if (length > SERM_REPLY_BYTES_MAX || transfer->body_length + length > SERM_REPLY_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	needed = transfer->body_length + length;
	if (needed > transfer->body_capacity) {
		size_t capacity = Max(needed, Max(transfer->body_capacity * 2, BODY_FIRST_CAPACITY));
		char *grown = realloc(transfer->body, capacity);

		if (grown == NULL) {
			transfer->no_memory = true;
			return 0;
		}
		transfer->body = grown;
		transfer->body_capacity = capacity;
	}
	memcpy(transfer->body + transfer->body_length, bytes, length);
	transfer->body_length = needed;
	return length;
}

/* The value of a header line that begins with `name`, trimmed, if it fits. */
static void
keep_header(const char *line, size_t length, const char *name, char *value, size_t size)
{
	const size_t skip = strlen(name);

	if (length <= skip || pg_strncasecmp(line, name, skip) != 0)
		return;
	while (length > skip && strchr("\r\n", line[length - 1]) != NULL)
		length--;
	if (length - skip < size) {
		memcpy(value, line + skip, length - skip);
		value[length - skip] = '\0';
	}
}

size_t
serm_http_on_header(char *bytes, size_t size, size_t count, void *context)
{
	SermTransfer *transfer = context;
	const size_t length = size * count;

	transfer->header_length += length;
	if (transfer->header_length > SERM_HTTP_HEADER_BYTES_MAX) {
		transfer->too_large = true;
		return 0;
	}
	keep_header(bytes, length, "retry-after:", transfer->retry_after, sizeof(transfer->retry_after));
	keep_header(bytes, length, "retry-after-ms:", transfer->retry_after_ms, sizeof(transfer->retry_after_ms));
	return length;
}
