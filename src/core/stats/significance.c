#include "core/stats/significance.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/rng.h"

/* Additions between two questions whether to go on: about a millisecond. */
#define WORK_PER_CHECK 500000

void
serm_resampling_defaults(SermResampling *resampling)
{
	*resampling = (SermResampling){.draws = 2000, .confidence = 0.95, .seed = 1};
}

static SermStatus
check_resampling(const SermResampling *resampling, SermError *error)
{
	if (resampling->draws < 1 || resampling->draws > SERM_DRAWS_MAX)
		return serm_fail(
		    error, SERM_ERR_INVALID, "draws %u is outside 1..%d", resampling->draws, SERM_DRAWS_MAX);
	if (!(resampling->confidence > 0.0 && resampling->confidence < 1.0))
		return serm_fail(
		    error, SERM_ERR_INVALID, "confidence %g is not between 0 and 1", resampling->confidence);
	return SERM_OK;
}

static bool
patient(const SermResampling *resampling, size_t *work, size_t added)
{
	*work += added;
	if (*work < WORK_PER_CHECK || resampling->keep_going == NULL)
		return true;
	*work = 0;
	return resampling->keep_going(resampling->context);
}

static int
compare_doubles(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;

	return (a > b) - (a < b);
}

static double
quantile(const double *sorted, size_t count, double share)
{
	double place = share * (double) (count - 1);
	size_t below = (size_t) place;

	if (below + 1 >= count)
		return sorted[count - 1];
	return sorted[below] + (place - (double) below) * (sorted[below + 1] - sorted[below]);
}

/* Clusters as (sum, weight) pairs, so that one resampled cluster is one cache line. */
typedef struct Cluster {
	double sum;
	double weight;
} Cluster;

static SermStatus
resample(const Cluster *clusters, size_t count, const SermResampling *resampling, SermArena *arena,
    SermInterval *interval, SermError *error)
{
	double *means = serm_arena_array(arena, resampling->draws, sizeof(double));
	double tail = 0.5 * (1.0 - resampling->confidence);
	double sum = 0.0, weight = 0.0;
	size_t work = 0;
	SermRng rng;

	if (means == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %u draws", resampling->draws);
	if (count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "no query to resample");
	if (count > UINT32_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "%zu queries are too many to resample", count);
	for (size_t i = 0; i < count; i++) {
		sum += clusters[i].sum;
		weight += clusters[i].weight;
	}
	serm_rng_seed(&rng, resampling->seed);
	for (uint32_t draw = 0; draw < resampling->draws; draw++) {
		double drawn_sum = 0.0, drawn_weight = 0.0;

		for (size_t i = 0; i < count; i++) {
			const Cluster *cluster = &clusters[serm_rng_below(&rng, (uint32_t) count)];

			drawn_sum += cluster->sum;
			drawn_weight += cluster->weight;
			if (!patient(resampling, &work, 1))
				return serm_fail(error, SERM_ERR_CANCELED, "canceled");
		}
		means[draw] = drawn_sum / drawn_weight;
	}
	qsort(means, resampling->draws, sizeof(double), compare_doubles);
	*interval = (SermInterval){.value = sum / weight,
	    .low = quantile(means, resampling->draws, tail),
	    .high = quantile(means, resampling->draws, 1.0 - tail),
	    .count = count};
	return SERM_OK;
}

SermStatus
serm_bootstrap_ratio(const double *sum, const double *weight, size_t count, const SermResampling *resampling,
    SermArena *arena, SermInterval *interval, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Cluster *clusters = serm_arena_array(arena, count, sizeof(Cluster));
	SermStatus status = check_resampling(resampling, error);
	size_t used = 0;

	if (status != SERM_OK)
		return status;
	if (clusters == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %zu queries", count);
	for (size_t i = 0; i < count; i++) {
		double w = weight != NULL ? weight[i] : isnan(sum[i]) ? 0.0 : 1.0;

		if (!(w >= 0.0) || isinf(w))
			return serm_fail(
			    error, SERM_ERR_INVALID, "the weight %g of a query is not a finite number from 0", w);
		if (w > 0.0 && !isfinite(sum[i]))
			return serm_fail(error, SERM_ERR_INVALID, "the value of a query is not finite");
		if (w > 0.0)
			clusters[used++] = (Cluster){sum[i], w};
	}
	status = resample(clusters, used, resampling, arena, interval, error);
	serm_arena_rewind(arena, mark);
	return status;
}

SermStatus
serm_bootstrap_mean(const double *values, size_t count, const SermResampling *resampling, SermArena *arena,
    SermInterval *interval, SermError *error)
{
	return serm_bootstrap_ratio(values, NULL, count, resampling, arena, interval, error);
}

/* Every sign pattern once, in Gray code order: each differs from the last in one sign. */
static bool
enumerate_signs(
    const double *size, size_t count, double limit, const SermResampling *resampling, double *p_value)
{
	uint64_t patterns = UINT64_C(1) << count;
	uint64_t hits = 0, gray = 0;
	size_t work = 0;

	for (uint64_t pattern = 0; pattern < patterns; pattern++) {
		double sum = 0.0;

		gray = pattern ^ (pattern >> 1);
		/* Summed anew each time: running sums would drift and break ties at the observed value. */
		for (size_t i = 0; i < count; i++)
			sum += (gray >> i & 1) != 0 ? -size[i] : size[i];
		hits += fabs(sum) >= limit;
		if (!patient(resampling, &work, count))
			return false;
	}
	*p_value = (double) hits / (double) patterns;
	return true;
}

static bool
toss_signs(const double *size, size_t count, double limit, const SermResampling *resampling, double *p_value)
{
	uint64_t hits = 0, bits = 0;
	size_t work = 0;
	SermRng rng;

	serm_rng_seed(&rng, resampling->seed);
	for (uint32_t draw = 0; draw < resampling->draws; draw++) {
		double sum = 0.0;

		for (size_t i = 0; i < count; i++) {
			if (i % 64 == 0)
				bits = serm_rng_next(&rng);
			sum += (bits >> (i % 64) & 1) != 0 ? -size[i] : size[i];
			if (!patient(resampling, &work, 1))
				return false;
		}
		hits += fabs(sum) >= limit;
	}
	*p_value = (1.0 + (double) hits) / (1.0 + (double) resampling->draws);
	return true;
}

SermStatus
serm_randomisation_p(const double *difference, size_t count, const SermResampling *resampling,
    SermArena *arena, double *p_value, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	double *size = serm_arena_array(arena, count, sizeof(double));
	SermStatus status = check_resampling(resampling, error);
	double sum = 0.0, absolute = 0.0, limit;
	size_t used = 0, all = 0;
	bool done;

	if (status != SERM_OK)
		return status;
	if (size == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %zu queries", count);
	for (size_t i = 0; i < count; i++) {
		if (isnan(difference[i]))
			continue;
		if (isinf(difference[i]))
			return serm_fail(error, SERM_ERR_INVALID, "the difference of a query is not finite");
		all++;
		sum += difference[i];
		absolute += fabs(difference[i]);
		/* A difference of 0 has no sign to toss. */
		if (difference[i] != 0.0)
			size[used++] = fabs(difference[i]);
	}
	if (all == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "no query to compare");
	/* Patterns that tie with the observed one must count in spite of rounding. */
	limit = fabs(sum) - 1e-12 * absolute;
	if (used < 20 && (UINT64_C(1) << used) <= resampling->draws)
		done = enumerate_signs(size, used, limit, resampling, p_value);
	else
		done = toss_signs(size, used, limit, resampling, p_value);
	serm_arena_rewind(arena, mark);
	return done ? SERM_OK : serm_fail(error, SERM_ERR_CANCELED, "canceled");
}
