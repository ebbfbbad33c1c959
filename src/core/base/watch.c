#include "core/base/watch.h"

#include <string.h>

/* Between two questions: some ms, also where each page is touched for the first time. */
#define QUIET_BYTES ((size_t) 16 << 20)

bool
serm_watch_clear(const SermWatch *watch, void *bytes, size_t length)
{
	for (size_t at = 0; at < length; at += QUIET_BYTES) {
		if (!serm_watch_ask(watch))
			return false;
		memset((char *) bytes + at, 0, length - at < QUIET_BYTES ? length - at : QUIET_BYTES);
	}
	return true;
}

bool
serm_watch_copy(const SermWatch *watch, void *to, const void *from, size_t length)
{
	for (size_t at = 0; at < length; at += QUIET_BYTES) {
		if (!serm_watch_ask(watch))
			return false;
		memcpy((char *) to + at, (const char *) from + at,
		    length - at < QUIET_BYTES ? length - at : QUIET_BYTES);
	}
	return true;
}
