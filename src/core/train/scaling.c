#include "core/train/scaling.h"

#include <math.h>

#include "core/train/failure.h"

#define DEVIATION_FLOOR 0.02
#define DEVIATION_MASKED 0.0015
#define DOT_SHARE 0.5
#define DOT_SHARE_DOCUMENTS 5000
/* Weights are sums of floats: two cumulated weights this close are the same. */
#define SHARE_EPSILON 1e-9
/* Reading one feature of an example costs a line of the cache: values between two calls of keep_going(). */
#define VALUES_PER_CHECK 262144

/* Mean and standard deviation of one float in every element of an array of structs. */
static void
moments(const float *first, size_t stride, size_t count, double *mean, double *deviation)
{
	double sum = 0, square = 0;

	for (size_t i = 0; i < count; i++)
		sum += *(const float *) ((const char *) first + i * stride);
	*mean = sum / (double) count;
	for (size_t i = 0; i < count; i++) {
		double x = *(const float *) ((const char *) first + i * stride) - *mean;

		square += x * x;
	}
	*deviation = sqrt(square / (double) count);
}

SermStatus
serm_scaling_fit(const SermFeatures *features, size_t count, const SermTrainHost *host, float *mean,
    float *inverse, SermError *error)
{
	size_t since_check = 0;

	for (size_t f = 0; f < SERM_FEATURES; f++) {
		double center, deviation;

		since_check += 2 * count;
		if (since_check >= VALUES_PER_CHECK) {
			since_check = 0;
			if (!host->keep_going(host->context))
				return serm_train_canceled(error);
		}
		moments(&features[0].value[f], sizeof(*features), count, &center, &deviation);
		mean[f] = (float) center;
		inverse[f] = deviation < DEVIATION_MASKED ? 0 : (float) (1 / (deviation + DEVIATION_FLOOR));
	}
	return SERM_OK;
}

static void
fit_z(const float *first, size_t count, float *mean, float *inverse)
{
	double center, deviation;

	moments(first, sizeof(SermFeatures), count, &center, &deviation);
	*mean = (float) center;
	*inverse = deviation < DEVIATION_MASKED ? 0 : (float) (1 / deviation);
}

void
serm_scaling_guard(
    const SermFeatures *features, size_t count, double documents, double lambda, SermGuard *guard)
{
	double share = documents < DOT_SHARE_DOCUMENTS ? documents / DOT_SHARE_DOCUMENTS : 1;

	fit_z(&features[0].lexical, count, &guard->lexical_mean, &guard->lexical_inverse);
	fit_z(&features[0].dot, count, &guard->dot_mean, &guard->dot_inverse);
	guard->dot_share = (float) (DOT_SHARE * share);
	guard->slope = (float) lambda;
}

void
serm_scaling_cuts(const float *score, const SermReal *weight, const uint32_t *order, size_t count,
    const double *prior, uint32_t grade_count, SermReal *cuts)
{
	double total = 0, below = 0, wanted = 0;
	size_t at = 0;

	for (size_t i = 0; i < count; i++)
		total += weight[order[i]];
	for (uint32_t y = 0; y + 1 < grade_count; y++) {
		wanted += prior[y];
		/* Pass the scores whose middle of weight lies below the wanted share. */
		while (at < count && below + weight[order[at]] / 2 < (wanted - SHARE_EPSILON) * total)
			below += weight[order[at++]];
		if (at == 0)
			cuts[y] = -1;
		else if (at == count)
			cuts[y] = (SermReal) grade_count;
		else
			cuts[y] = (score[order[at - 1]] + score[order[at]]) / 2;
	}
}
