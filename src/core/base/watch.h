/*
 * Filling and copying so many bytes that somebody may get tired of waiting.
 */
#ifndef SERM_CORE_BASE_WATCH_H
#define SERM_CORE_BASE_WATCH_H

#include "core/base/status.h"

/* false: whoever watches said stop; the rest is not written. */
extern bool serm_watch_clear(const SermWatch *watch, void *bytes, size_t length);
extern bool serm_watch_copy(const SermWatch *watch, void *to, const void *from, size_t length);

#endif
