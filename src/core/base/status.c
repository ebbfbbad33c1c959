#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>

SermStatus
serm_fail(SermError *error, SermStatus status, const char *format, ...)
{
	SERM_ASSERT(status != SERM_OK);
	if (error != NULL) {
		va_list arguments;

		error->status = status;
		va_start(arguments, format);
		vsnprintf(error->message, sizeof(error->message), format, arguments);
		va_end(arguments);
	}
	return status;
}
