#include "core/stats/calibration.h"

#include <math.h>
#include <string.h>

double
serm_calibration_nll(const float *probability, const float *target, uint32_t grade_count)
{
	double sum = 0.0;

	for (uint32_t y = 0; y < grade_count; y++) {
		if (!isfinite(probability[y]))
			return NAN;
		if (target[y] > 0.0f)
			sum -= target[y] * log(fmax(probability[y], SERM_PROBABILITY_MIN));
	}
	return sum;
}

static uint32_t
likeliest(const float *p, uint32_t grade_count)
{
	uint32_t best = 0;

	for (uint32_t y = 1; y < grade_count; y++)
		if (p[y] > p[best])
			best = y;
	return best;
}

static bool
all_finite(const float *p, uint32_t grade_count)
{
	for (uint32_t y = 0; y < grade_count; y++)
		if (!isfinite(p[y]))
			return false;
	return true;
}

static void
add_example(
    SermCalibration *calibration, const float *p, const float *target, uint32_t grade_count, double weight)
{
	uint32_t best = likeliest(p, grade_count);
	double place = ceil((double) p[best] * calibration->bin_count) - 1.0;
	uint32_t index = (uint32_t) fmin(fmax(place, 0.0), calibration->bin_count - 1.0);
	SermReliabilityBin *bin = &calibration->bin[index];

	bin->weight += weight;
	bin->confidence += weight * p[best];
	bin->accuracy += weight * target[best];
	calibration->weight += weight;
	calibration->accuracy += weight * target[best];
	calibration->nll += weight * serm_calibration_nll(p, target, grade_count);
	for (uint32_t y = 0; y < grade_count; y++) {
		double away = (double) p[y] - (double) target[y];

		calibration->brier += weight * away * away;
	}
}

SermStatus
serm_calibration_measure(const float *probability, const float *target, const float *weight, size_t count,
    uint32_t grade_count, uint32_t bin_count, SermCalibration *calibration, SermError *error)
{
	memset(calibration, 0, sizeof(*calibration));
	if (bin_count < 1 || bin_count > SERM_CALIBRATION_BINS_MAX)
		return serm_fail(
		    error, SERM_ERR_INVALID, "bin count %u is outside 1..%d", bin_count, SERM_CALIBRATION_BINS_MAX);
	calibration->bin_count = bin_count;
	for (size_t i = 0; i < count; i++) {
		const float *p = probability + i * grade_count, *t = target + i * grade_count;
		double w = weight != NULL ? weight[i] : 1.0;

		if (!(w >= 0.0) || isinf(w) || !all_finite(p, grade_count) || !all_finite(t, grade_count))
			return serm_fail(error, SERM_ERR_INVALID, "a probability or weight is not a finite number");
		if (w > 0.0)
			add_example(calibration, p, t, grade_count, w);
	}
	if (!(calibration->weight > 0.0))
		return serm_fail(error, SERM_ERR_NO_DATA, "no example to measure calibration on");
	calibration->nll /= calibration->weight;
	calibration->brier /= calibration->weight;
	calibration->accuracy /= calibration->weight;
	for (uint32_t b = 0; b < bin_count; b++) {
		SermReliabilityBin *bin = &calibration->bin[b];

		if (bin->weight > 0.0) {
			calibration->ece += fabs(bin->confidence - bin->accuracy) / calibration->weight;
			bin->confidence /= bin->weight;
			bin->accuracy /= bin->weight;
		}
	}
	return SERM_OK;
}
