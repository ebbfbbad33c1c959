/*
 * Sorting of what others made: a merge sort, because no input makes it slow, and
 * because whoever waits can be asked while it runs. Equal elements keep their order.
 */
#ifndef SERM_CORE_BASE_SORT_H
#define SERM_CORE_BASE_SORT_H

#include "core/base/arena.h"

typedef int (*SermCompare)(const void *a, const void *b);

/* `scratch` holds as much again meanwhile. Errors: MEMORY, CANCELED. */
extern SermStatus serm_sort(void *items, size_t count, size_t size, SermCompare compare, SermArena *scratch,
    const SermWatch *watch, SermError *error);

#endif
