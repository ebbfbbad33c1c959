#include "core/stats/auroc.h"

#include <math.h>
#include <stdlib.h>

typedef struct Entry {
	float value;
	uint32_t index;
} Entry;

static int
compare_entries(const void *a, const void *b)
{
	const Entry *x = a, *y = b;

	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

SermStatus
serm_roc_sort(const float *value, size_t count, SermArena *arena, SermRoc *roc, SermError *error)
{
	uint32_t *order;
	SermArenaMark mark;
	Entry *entries;

	if (count >= UINT32_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "too many values for an ROC curve");
	order = serm_arena_array(arena, count, sizeof(*order));
	mark = serm_arena_mark(arena);
	entries = serm_arena_array(arena, count, sizeof(*entries));
	if (order == NULL || entries == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory sorting %zu values", count);
	for (size_t i = 0; i < count; i++) {
		if (isnan(value[i]))
			return serm_fail(error, SERM_ERR_INVALID, "value %zu of an ROC curve is not a number", i + 1);
		entries[i] = (Entry){value[i], (uint32_t) i};
	}
	qsort(entries, count, sizeof(*entries), compare_entries);
	for (size_t i = 0; i < count; i++)
		order[i] = entries[i].index;
	serm_arena_rewind(arena, mark);
	*roc = (SermRoc){count, order, value};
	return SERM_OK;
}

double
serm_roc_area(const SermRoc *roc, const bool *positive, const double *weight)
{
	double area = 0, negatives = 0, positives = 0;

	for (size_t i = 0, end; i < roc->count; i = end) {
		double here[2] = {0, 0};

		for (end = i; end < roc->count && roc->value[roc->order[end]] == roc->value[roc->order[i]]; end++) {
			uint32_t at = roc->order[end];

			here[positive[at] ? 1 : 0] += weight != NULL ? weight[at] : 1;
		}
		area += here[1] * (negatives + here[0] / 2);
		negatives += here[0];
		positives += here[1];
	}
	return negatives > 0 && positives > 0 ? area / (negatives * positives) : NAN;
}
