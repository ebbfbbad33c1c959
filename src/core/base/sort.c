#include "core/base/sort.h"

#include <string.h>

/* Comparisons between two questions; each may read some kB. */
#define QUIET_COMPARISONS 1024

typedef struct Sorting {
	size_t size;
	SermCompare compare;
	const SermWatch *watch;
	uint32_t compared;
} Sorting;

/* Merge [low, middle) and [middle, high) of `from` into `to`; false: stopped. */
static bool
merge(Sorting *sorting, const char *from, size_t low, size_t middle, size_t high, char *to)
{
	const size_t size = sorting->size;
	size_t left = low, right = middle, out = low;

	while (left < middle && right < high) {
		bool first = sorting->compare(from + left * size, from + right * size) <= 0;

		memcpy(to + out++ * size, from + (first ? left++ : right++) * size, size);
		if (++sorting->compared % QUIET_COMPARISONS == 0 && !serm_watch_ask(sorting->watch))
			return false;
	}
	memcpy(to + out * size, from + left * size, (middle - left) * size);
	memcpy(to + (out + middle - left) * size, from + right * size, (high - right) * size);
	return true;
}

SermStatus
serm_sort(void *items, size_t count, size_t size, SermCompare compare, SermArena *scratch,
    const SermWatch *watch, SermError *error)
{
	const SermArenaMark mark = serm_arena_mark(scratch);
	Sorting sorting = {size, compare, watch, 0};
	char *from = items, *to;

	if (count < 2)
		return SERM_OK;
	to = count > SIZE_MAX / size ? NULL : serm_arena_reserve(scratch, count * size);
	if (to == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for sorting %zu elements", count);
	for (size_t width = 1; width < count; width *= 2) {
		char *swap = from;

		for (size_t low = 0; low < count; low += 2 * width) {
			size_t middle = count - low < width ? count : low + width;
			size_t high = count - low < 2 * width ? count : low + 2 * width;

			if (!merge(&sorting, from, low, middle, high, to))
				return serm_fail(error, SERM_ERR_CANCELED, "sorting was canceled");
		}
		from = to;
		to = swap;
	}
	if (from != (char *) items)
		memcpy(items, from, count * size);
	serm_arena_rewind(scratch, mark);
	return SERM_OK;
}
