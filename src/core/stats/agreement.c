#include "core/stats/agreement.h"

#include <math.h>
#include <stdlib.h>

static double
disagreement(SermKappaWeights weights, double a, double b)
{
	double distance = fabs(a - b);

	if (weights == SERM_KAPPA_NONE)
		return distance > 0.0 ? 1.0 : 0.0;
	return weights == SERM_KAPPA_LINEAR ? distance : distance * distance;
}

static double
row_sum(const double *counts, size_t categories, size_t row)
{
	double sum = 0.0;

	for (size_t i = 0; i < categories; i++)
		sum += counts[row * categories + i];
	return sum;
}

static double
column_sum(const double *counts, size_t categories, size_t column)
{
	double sum = 0.0;

	for (size_t i = 0; i < categories; i++)
		sum += counts[i * categories + column];
	return sum;
}

SermStatus
serm_agreement_kappa(const double *counts, size_t categories, const double *value, SermKappaWeights weights,
    double *kappa, SermError *error)
{
	double observed = 0.0, expected = 0.0, total = 0.0;

	for (size_t i = 0; i < categories * categories; i++) {
		if (!(counts[i] >= 0.0) || isinf(counts[i]))
			return serm_fail(
			    error, SERM_ERR_INVALID, "confusion count %g is not a finite number from 0", counts[i]);
		total += counts[i];
	}
	for (size_t i = 0; i < categories; i++) {
		double row = row_sum(counts, categories, i);

		for (size_t j = 0; row > 0.0 && j < categories; j++) {
			double cost = disagreement(
			    weights, value != NULL ? value[i] : (double) i, value != NULL ? value[j] : (double) j);

			if (cost > 0.0) {
				observed += cost * counts[i * categories + j];
				expected += cost * row * column_sum(counts, categories, j);
			}
		}
	}
	*kappa = expected > 0.0 ? 1.0 - observed * total / expected : NAN;
	return SERM_OK;
}

double
serm_agreement_share(const double *counts, size_t categories, size_t distance)
{
	double near = 0.0, total = 0.0;

	for (size_t i = 0; i < categories; i++)
		for (size_t j = 0; j < categories; j++) {
			double count = counts[i * categories + j];

			total += count;
			if ((i > j ? i - j : j - i) <= distance)
				near += count;
		}
	return total > 0.0 ? near / total : NAN;
}

SermStatus
serm_agreement_count(const int16_t *row, const int16_t *column, size_t count, double *counts,
    size_t categories, SermError *error)
{
	for (size_t i = 0; i < count; i++) {
		if (row[i] < 0 || column[i] < 0)
			continue;
		if ((size_t) row[i] >= categories || (size_t) column[i] >= categories)
			return serm_fail(error, SERM_ERR_INVALID, "label %d is outside 0..%zu",
			    row[i] > column[i] ? row[i] : column[i], categories - 1);
		counts[(size_t) row[i] * categories + (size_t) column[i]] += 1.0;
	}
	return SERM_OK;
}

static int
compare_numbers(double a, double b)
{
	return (a > b) - (a < b);
}

static int
compare_ratings(const void *left, const void *right)
{
	const SermRating *a = left, *b = right;

	if (a->unit != b->unit)
		return a->unit < b->unit ? -1 : 1;
	return compare_numbers(a->value, b->value);
}

static int
compare_doubles(const void *left, const void *right)
{
	return compare_numbers(*(const double *) left, *(const double *) right);
}

static size_t
unit_end(const SermRating *ratings, size_t count, size_t start)
{
	size_t end = start + 1;

	while (end < count && ratings[end].unit == ratings[start].unit)
		end++;
	return end;
}

/* The pairable values, sorted, with the place of each on the scale of the metric. */
typedef struct Scale {
	double *value; /* [distinct] ascending */
	double *place; /* [distinct] differences of places, squared, are the metric's distances */
	double *count; /* [distinct] */
	size_t distinct;
} Scale;

/*
 * Ordinal distance is (sum of n_g for g from c to k, less half of n_c and n_k)^2: the squared
 * difference of the middle ranks of c and k, which makes it an interval metric on those.
 */
static void
build_scale(Scale *scale, const double *sorted, size_t count, SermAlphaMetric metric)
{
	size_t before = 0;

	for (size_t i = 0; i < count;) {
		size_t end = i + 1;

		while (end < count && sorted[end] == sorted[i])
			end++;
		scale->value[scale->distinct] = sorted[i];
		scale->count[scale->distinct] = (double) (end - i);
		scale->place[scale->distinct] =
		    metric == SERM_ALPHA_ORDINAL ? (double) before + 0.5 * (double) (end - i) : sorted[i];
		scale->distinct++;
		before += end - i;
		i = end;
	}
}

static double
place_of(const Scale *scale, double value)
{
	size_t low = 0;

	for (size_t high = scale->distinct - 1; low < high;) {
		size_t middle = low + (high - low) / 2;

		if (scale->value[middle] < value)
			low = middle + 1;
		else
			high = middle;
	}
	return scale->place[low];
}

/* Sum of the distances of all ordered pairs of distinct ratings of one unit, which are sorted by value. */
static double
unit_disagreement(const SermRating *ratings, size_t count, SermAlphaMetric metric, const Scale *scale)
{
	double mean = 0.0, sum = 0.0;

	if (metric == SERM_ALPHA_NOMINAL) {
		size_t same = 0;

		for (size_t i = 0, start = 0; i < count; i++) {
			if (ratings[i].value != ratings[start].value)
				start = i;
			same += i - start;
		}
		return (double) count * (double) (count - 1) - 2.0 * (double) same;
	}
	if (ratings[0].value == ratings[count - 1].value)
		return 0.0;
	for (size_t i = 0; i < count; i++)
		mean += place_of(scale, ratings[i].value) / (double) count;
	for (size_t i = 0; i < count; i++) {
		double away = place_of(scale, ratings[i].value) - mean;

		sum += away * away;
	}
	return 2.0 * (double) count * sum;
}

/* The same over all pairable ratings. */
static double
total_disagreement(const Scale *scale, SermAlphaMetric metric, double count)
{
	double mean = 0.0, sum = 0.0;

	if (scale->distinct <= 1)
		return 0.0;
	if (metric == SERM_ALPHA_NOMINAL) {
		for (size_t i = 0; i < scale->distinct; i++)
			sum += scale->count[i] * (count - scale->count[i]);
		return sum;
	}
	for (size_t i = 0; i < scale->distinct; i++)
		mean += scale->count[i] * scale->place[i] / count;
	for (size_t i = 0; i < scale->distinct; i++) {
		double away = scale->place[i] - mean;

		sum += scale->count[i] * away * away;
	}
	return 2.0 * count * sum;
}

/* Collect the ratings of units that have at least two; 0 when there is none. */
static size_t
collect_pairable(const SermRating *ratings, size_t count, double *values, size_t *units)
{
	size_t pairable = 0;

	*units = 0;
	for (size_t start = 0, end; start < count; start = end) {
		end = unit_end(ratings, count, start);
		if (end - start < 2)
			continue;
		(*units)++;
		for (size_t i = start; i < end; i++)
			values[pairable++] = ratings[i].value;
	}
	return pairable;
}

SermStatus
serm_agreement_alpha(SermRating *ratings, size_t count, SermAlphaMetric metric, SermArena *arena,
    SermAgreement *agreement, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	double *values = serm_arena_array(arena, count, sizeof(double));
	Scale scale = {.value = serm_arena_array(arena, count, sizeof(double)),
	    .place = serm_arena_array(arena, count, sizeof(double)),
	    .count = serm_arena_array(arena, count, sizeof(double))};
	double within = 0.0, agreeing = 0.0, n;

	if (values == NULL || scale.value == NULL || scale.place == NULL || scale.count == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %zu ratings", count);
	for (size_t i = 0; i < count; i++)
		if (!isfinite(ratings[i].value))
			return serm_fail(error, SERM_ERR_INVALID, "a rating is not a finite number");
	qsort(ratings, count, sizeof(SermRating), compare_ratings);
	*agreement = (SermAgreement){NAN, NAN, NAN, NAN, 0, 0};
	agreement->pairable = collect_pairable(ratings, count, values, &agreement->units);
	n = (double) agreement->pairable;
	if (agreement->pairable > 0) {
		qsort(values, agreement->pairable, sizeof(double), compare_doubles);
		build_scale(&scale, values, agreement->pairable, metric);
		for (size_t start = 0, end; start < count; start = end) {
			double size;

			end = unit_end(ratings, count, start);
			size = (double) (end - start);
			if (end - start < 2)
				continue;
			within += unit_disagreement(ratings + start, end - start, metric, &scale) / (size - 1.0);
			agreeing += size - unit_disagreement(ratings + start, end - start, SERM_ALPHA_NOMINAL, NULL) /
			                       (size - 1.0);
		}
		agreement->observed = within / n;
		agreement->expected = total_disagreement(&scale, metric, n) / (n * (n - 1.0));
		agreement->share = agreeing / n;
		if (agreement->expected > 0.0)
			agreement->alpha = 1.0 - agreement->observed / agreement->expected;
	}
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
