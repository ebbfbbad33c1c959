#include "core/train/distill.h"

#include <math.h>
#include <string.h>

/* Put `mass` between the two grades that lie around `place`. */
static void
put(float *distribution, uint32_t grades, double place, double mass)
{
	uint32_t low = (uint32_t) floor(place);
	double above;

	low = low < grades - 2 ? low : grades - 2;
	above = place - low;
	distribution[low] += (float) (mass * (1 - above));
	distribution[low + 1] += (float) (mass * above);
}

void
serm_distill_grades(const float *probability, uint32_t from, float *converted, uint32_t to)
{
	double stretch = (to - 1.0) / (from - 1.0), mean = 0;

	SERM_ASSERT(from >= 2 && to >= 2);
	memset(converted, 0, to * sizeof(*converted));
	if (from == to)
		memcpy(converted, probability, to * sizeof(*converted));
	if (from > to)
		for (uint32_t y = 0; y < from; y++)
			put(converted, to, y * stretch, probability[y]);
	if (from >= to)
		return;
	for (uint32_t y = 0; y < from; y++)
		mean += y * (double) probability[y];
	put(converted, to, fmin(mean, from - 1.0) * stretch, 1);
}

static bool
is_taught(const SermLossTerm *term)
{
	return (term->loss->needs & SERM_LOSS_TEACHER) != 0;
}

SermStatus
serm_distill_mix(SermLossTerm *terms, uint32_t *term_count, double alpha, bool any_judged, SermError *error)
{
	uint32_t kept = 0, taught = 0;

	for (uint32_t t = 0; t < *term_count; t++)
		taught += is_taught(&terms[t]);
	if (taught == 0)
		return serm_fail(error, SERM_ERR_INVALID,
		    "the loss learns nothing from a teacher: it needs one of kl, margin_mse, ranknet_teacher");
	if (!any_judged || taught == *term_count)
		alpha = 1;
	for (uint32_t t = 0; t < *term_count; t++) {
		terms[kept] = terms[t];
		terms[kept].coefficient *= is_taught(&terms[t]) ? alpha : 1 - alpha;
		kept += terms[kept].coefficient > 0;
	}
	*term_count = kept;
	return SERM_OK;
}
