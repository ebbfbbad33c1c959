#include "core/stats/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NEWTON_STEPS_MAX 100
#define GRADIENT_SMALL 1e-9
#define HALVINGS_MAX 40
/* Comparisons between two questions whether to go on: less than a millisecond. */
#define COMPARISONS_PER_CHECK 10000
/* Anchors that weigh as much as the prior of an offset. */
#define OFFSET_PRIOR 1.0

void
serm_compare_defaults(SermCompareOptions *options)
{
	*options = (SermCompareOptions){.spread = 2.0, .tie = -1.0, .tie_width = 1.0};
}

/* --- strengths: unknowns [items] and log nu behind them */

typedef struct Fit {
	const SermComparison *comparisons;
	size_t count;
	size_t items;
	const SermCompareOptions *options;
	double *at;        /* [items + 1] */
	double *trial;     /* [items + 1] */
	double *gradient;  /* [items + 1] of the negative log posterior */
	double *step;      /* [items + 1] */
	double *residual;  /* [items + 1] of conjugate gradients, and the other two */
	double *direction; /* [items + 1] */
	double *image;     /* [items + 1] */
	double *curvature; /* [count][3]: by difference twice, by difference and log nu, by log nu twice */
	SermKeepGoing keep_going;
	void *context;
} Fit;

static bool
stopped(const Fit *fit, size_t i)
{
	return i % COMPARISONS_PER_CHECK == 0 && fit->keep_going != NULL && !fit->keep_going(fit->context);
}

static double
dot(const double *a, const double *b, size_t count)
{
	double sum = 0.0;

	for (size_t i = 0; i < count; i++)
		sum += a[i] * b[i];
	return sum;
}

/* The negative log posterior at `at`; with derivatives, the gradient and curvatures, too. NAN: stopped. */
static double
evaluate(Fit *fit, const double *at, bool derivatives)
{
	const size_t n = fit->items;
	const double precision = 1.0 / (fit->options->spread * fit->options->spread);
	const double tie_precision = 1.0 / (fit->options->tie_width * fit->options->tie_width);
	double loss = 0.5 * (precision * dot(at, at, n) +
	                        tie_precision * (at[n] - fit->options->tie) * (at[n] - fit->options->tie));

	if (derivatives) {
		for (size_t i = 0; i < n; i++)
			fit->gradient[i] = precision * at[i];
		fit->gradient[n] = tie_precision * (at[n] - fit->options->tie);
	}
	for (size_t i = 0; i < fit->count; i++) {
		const SermComparison *one = &fit->comparisons[i];
		const double half = (at[one->first] - at[one->second]) / 2.0;
		const double most = fmax(fabs(half), at[n]);
		const double win = exp(half - most), lose = exp(-half - most), tie = exp(at[n] - most);
		const double total = win + lose + tie, pull = (win - lose) / total / 2.0, tied = tie / total;
		const bool is_tie = one->score == 0.5f;
		const double said = is_tie ? 0.0 : one->score - 0.5;

		if (stopped(fit, i))
			return NAN;
		loss -= one->weight * ((is_tie ? at[n] : 2.0 * said * half) - most - log(total));
		if (!derivatives)
			continue;
		fit->gradient[one->first] += one->weight * (pull - said);
		fit->gradient[one->second] -= one->weight * (pull - said);
		fit->gradient[n] += one->weight * (tied - (is_tie ? 1.0 : 0.0));
		fit->curvature[3 * i] = one->weight * ((1.0 - tied) / 4.0 - pull * pull);
		fit->curvature[3 * i + 1] = -one->weight * pull * tied;
		fit->curvature[3 * i + 2] = one->weight * tied * (1.0 - tied);
	}
	return loss;
}

/* image := the Hessian times `vector`. */
static bool
apply_hessian(Fit *fit, const double *vector, double *image)
{
	const size_t n = fit->items;
	const double precision = 1.0 / (fit->options->spread * fit->options->spread);

	for (size_t i = 0; i < n; i++)
		image[i] = precision * vector[i];
	image[n] = vector[n] / (fit->options->tie_width * fit->options->tie_width);
	for (size_t i = 0; i < fit->count; i++) {
		const SermComparison *one = &fit->comparisons[i];
		const double *curvature = &fit->curvature[3 * i];
		const double difference = vector[one->first] - vector[one->second];
		const double pull = curvature[0] * difference + curvature[1] * vector[n];

		if (stopped(fit, i))
			return false;
		image[one->first] += pull;
		image[one->second] -= pull;
		image[n] += curvature[1] * difference + curvature[2] * vector[n];
	}
	return true;
}

/* step := minus the inverse of the Hessian times the gradient, nearly. */
static bool
solve(Fit *fit)
{
	const size_t n = fit->items + 1;
	double left, first;

	memset(fit->step, 0, n * sizeof(double));
	for (size_t i = 0; i < n; i++)
		fit->direction[i] = fit->residual[i] = -fit->gradient[i];
	first = left = dot(fit->residual, fit->residual, n);
	for (size_t k = 0; k < 2 * n && left > 1e-20 * first; k++) {
		double length, after;

		if (!apply_hessian(fit, fit->direction, fit->image))
			return false;
		length = left / dot(fit->direction, fit->image, n);
		for (size_t i = 0; i < n; i++) {
			fit->step[i] += length * fit->direction[i];
			fit->residual[i] -= length * fit->image[i];
		}
		after = dot(fit->residual, fit->residual, n);
		for (size_t i = 0; i < n; i++)
			fit->direction[i] = fit->residual[i] + after / left * fit->direction[i];
		left = after;
	}
	return true;
}

static SermStatus
find_mode(Fit *fit, SermError *error)
{
	const size_t n = fit->items + 1;
	double loss = evaluate(fit, fit->at, true);

	for (int k = 0; k < NEWTON_STEPS_MAX && !isnan(loss); k++) {
		double largest = 0.0, slope, length = 1.0, after = NAN;
		int halvings = 0;

		for (size_t i = 0; i < n; i++)
			largest = fmax(largest, fabs(fit->gradient[i]));
		if (largest < GRADIENT_SMALL)
			return SERM_OK;
		if (!solve(fit))
			break;
		slope = dot(fit->gradient, fit->step, n);
		for (; halvings < HALVINGS_MAX; halvings++, length /= 2.0) {
			for (size_t i = 0; i < n; i++)
				fit->trial[i] = fit->at[i] + length * fit->step[i];
			after = evaluate(fit, fit->trial, false);
			if (isnan(after) || after <= loss + 1e-4 * length * slope)
				break;
		}
		if (isnan(after))
			break;
		/* Nothing lies lower that arithmetic could tell from this. */
		if (halvings == HALVINGS_MAX)
			return SERM_OK;
		memcpy(fit->at, fit->trial, n * sizeof(double));
		loss = evaluate(fit, fit->at, true);
		if (!isnan(loss) && k + 1 == NEWTON_STEPS_MAX)
			return SERM_OK;
	}
	return serm_fail(error, SERM_ERR_CANCELED, "fitting comparisons was canceled");
}

static SermStatus
check_comparisons(const SermComparison *comparisons, size_t count, size_t items,
    const SermCompareOptions *options, SermError *error)
{
	if (!(options->spread > 0.0 && options->tie_width > 0.0 && isfinite(options->tie)))
		return serm_fail(error, SERM_ERR_INVALID, "options of comparisons are out of range");
	for (size_t i = 0; i < count; i++) {
		const SermComparison *one = &comparisons[i];

		if (one->first >= items || one->second >= items || one->first == one->second)
			return serm_fail(error, SERM_ERR_INVALID, "comparison %zu is of items %u and %u of %zu", i,
			    one->first, one->second, items);
		if (!(one->score == 0.0f || one->score == 0.5f || one->score == 1.0f) || !(one->weight > 0.0f) ||
		    isinf(one->weight))
			return serm_fail(error, SERM_ERR_INVALID, "comparison %zu has an unknown end", i);
	}
	return SERM_OK;
}

SermStatus
serm_compare_fit(const SermComparison *comparisons, size_t count, size_t items,
    const SermCompareOptions *options, SermArena *arena, SermKeepGoing keep_going, void *context,
    double *strength, double *tie, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Fit fit = {.comparisons = comparisons,
	    .count = count,
	    .items = items,
	    .options = options,
	    .keep_going = keep_going,
	    .context = context};
	double **vectors[] = {
	    &fit.at, &fit.trial, &fit.gradient, &fit.step, &fit.residual, &fit.direction, &fit.image};
	SermStatus status = check_comparisons(comparisons, count, items, options, error);

	for (size_t i = 0; i < SERM_LENGTH(vectors) && status == SERM_OK; i++) {
		*vectors[i] = serm_arena_array(arena, items + 1, sizeof(double));
		if (*vectors[i] == NULL)
			status = serm_fail(error, SERM_ERR_MEMORY, "out of memory while fitting comparisons");
	}
	if (status == SERM_OK) {
		fit.curvature = serm_arena_array(arena, 3 * count + 1, sizeof(double));
		if (fit.curvature == NULL)
			status = serm_fail(error, SERM_ERR_MEMORY, "out of memory while fitting comparisons");
	}
	if (status == SERM_OK) {
		fit.at[items] = options->tie;
		status = find_mode(&fit, error);
	}
	if (status == SERM_OK) {
		memcpy(strength, fit.at, items * sizeof(double));
		if (tie != NULL)
			*tie = fit.at[items];
	}
	serm_arena_rewind(arena, mark);
	return status;
}

/* --- grades */

static SermStatus
check_scale(const SermCompareScale *scale, SermError *error)
{
	if (scale->grade_count < 2 || scale->grade_count > SERM_COMPARE_GRADES_MAX ||
	    !(scale->strength_of_prior > 0.0))
		return serm_fail(
		    error, SERM_ERR_INVALID, "cannot grade comparisons by %u grades", scale->grade_count);
	for (size_t i = 0; i < scale->items; i++) {
		const uint32_t before = i == 0 ? 0 : scale->group[i - 1];

		if (!isfinite(scale->strength[i]) || scale->group[i] < before || scale->group[i] > before + 1 ||
		    (i == 0 && scale->group[i] != 0) ||
		    (!isnan(scale->known[i]) &&
		        !(scale->known[i] >= 0.0 && scale->known[i] <= scale->grade_count - 1.0)))
			return serm_fail(error, SERM_ERR_INVALID, "item %zu of what was compared is out of range", i);
	}
	return SERM_OK;
}

static double
prior_of(const SermCompareScale *scale, uint32_t grade)
{
	return scale->grade_prior != NULL ? scale->grade_prior[grade] : 1.0 / scale->grade_count;
}

/* Sums over the items of one group, and over its anchors. */
typedef struct Group {
	size_t items, anchors;
	double strength, anchor_strength, anchor_grade;
} Group;

static size_t
sum_group(const SermCompareScale *scale, size_t first, Group *group)
{
	size_t i = first;

	memset(group, 0, sizeof(*group));
	for (; i < scale->items && scale->group[i] == scale->group[first]; i++) {
		group->items++;
		group->strength += scale->strength[i];
		if (isnan(scale->known[i]))
			continue;
		group->anchors++;
		group->anchor_strength += scale->strength[i];
		group->anchor_grade += scale->known[i];
	}
	return i;
}

/* Grades per unit of strength: what spreads the items as the prior is spread, corrected by anchors of one
 * group. */
static double
find_slope(const SermCompareScale *scale)
{
	double mean = 0.0, variance = 0.0, within = 0.0, known_xx = 0.0, known_xy = 0.0, expected, ridge;
	size_t freedom = 0, end;
	Group group;

	for (uint32_t y = 0; y < scale->grade_count; y++)
		mean += y * prior_of(scale, y);
	for (uint32_t y = 0; y < scale->grade_count; y++)
		variance += (y - mean) * (y - mean) * prior_of(scale, y);
	for (size_t first = 0; first < scale->items; first = end) {
		end = sum_group(scale, first, &group);
		freedom += group.items - 1;
		for (size_t i = first; i < end; i++) {
			const double away = scale->strength[i] - group.strength / (double) group.items;

			within += away * away;
			if (!isnan(scale->known[i])) {
				const double x = scale->strength[i] - group.anchor_strength / (double) group.anchors;

				known_xx += x * x;
				known_xy += x * (scale->known[i] - group.anchor_grade / (double) group.anchors);
			}
		}
	}
	if (freedom == 0 || within <= 0.0)
		return 0.0;
	within /= (double) freedom;
	expected = sqrt(variance / within);
	ridge = scale->strength_of_prior * within;
	return fmax((known_xy + ridge * expected) / (known_xx + ridge), 0.0);
}

static void
place_items(const SermCompareScale *scale, SermCompareResult *result)
{
	double mean = 0.0;
	size_t end;
	Group group;

	for (uint32_t y = 0; y < scale->grade_count; y++)
		mean += y * prior_of(scale, y);
	for (size_t first = 0; first < scale->items; first = end) {
		double expected, offset;

		end = sum_group(scale, first, &group);
		expected = scale->group_mean != NULL ? scale->group_mean[scale->group[first]] : mean;
		offset = group.anchor_grade - result->slope * group.anchor_strength +
		         OFFSET_PRIOR * (expected - result->slope * group.strength / (double) group.items);
		offset /= (double) group.anchors + OFFSET_PRIOR;
		for (size_t i = first; i < end; i++)
			result->value[i] = offset + result->slope * scale->strength[i];
		result->anchors += group.anchors;
	}
}

static int
by_value(const void *left, const void *right)
{
	const double a = *(const double *) left, b = *(const double *) right;

	return (a > b) - (a < b);
}

/* Cuts of `count` values that give each grade its share of `mass`: halfway between two values. */
static void
match_shares(double *values, size_t count, const double *mass, uint32_t grades, double *cut)
{
	double total = 0.0, below = 0.0;

	qsort(values, count, sizeof(*values), by_value);
	for (uint32_t y = 0; y < grades; y++)
		total += mass[y];
	for (uint32_t y = 0; y + 1 < grades; y++) {
		size_t at;

		below += mass[y];
		at = (size_t) floor(below / total * (double) count + 0.5);
		if (at == 0)
			cut[y] = values[0] - 0.5;
		else if (at >= count)
			cut[y] = values[count - 1] + 0.5;
		else
			cut[y] = (values[at - 1] + values[at]) / 2.0;
	}
}

/* Values of the anchors, or of the others, end to end; their number. */
static size_t
collect(const SermCompareScale *scale, const SermCompareResult *result, bool anchors, double *values)
{
	size_t count = 0;

	for (size_t i = 0; i < scale->items; i++)
		if (isnan(scale->known[i]) != anchors)
			values[count++] = result->value[i];
	return count;
}

static void
find_cuts(const SermCompareScale *scale, SermCompareResult *result, double *values)
{
	double mass[SERM_COMPARE_GRADES_MAX] = {0}, cut[SERM_COMPARE_GRADES_MAX];
	size_t count = collect(scale, result, false, values);

	for (uint32_t y = 0; y + 1 < scale->grade_count; y++)
		result->cut[y] = y + 0.5;
	if (scale->grade_prior != NULL && count > 0)
		match_shares(values, count, scale->grade_prior, scale->grade_count, result->cut);
	if (result->anchors == 0)
		return;
	for (size_t i = 0; i < scale->items; i++)
		if (!isnan(scale->known[i]))
			mass[(uint32_t) floor(scale->known[i] + 0.5)] += 1.0;
	count = collect(scale, result, true, values);
	match_shares(values, count, mass, scale->grade_count, cut);
	for (uint32_t y = 0; y + 1 < scale->grade_count; y++)
		result->cut[y] = ((double) count * cut[y] + scale->strength_of_prior * result->cut[y]) /
		                 ((double) count + scale->strength_of_prior);
}

SermStatus
serm_compare_grade(
    const SermCompareScale *scale, SermArena *arena, SermCompareResult *result, SermError *error)
{
	SermStatus status = check_scale(scale, error);
	SermArenaMark mark;
	double *values;

	memset(result, 0, sizeof(*result));
	if (status != SERM_OK)
		return status;
	result->value = serm_arena_array(arena, scale->items + 1, sizeof(double));
	result->grade = serm_arena_array(arena, scale->items + 1, sizeof(uint8_t));
	mark = serm_arena_mark(arena);
	values = serm_arena_array(arena, scale->items + 1, sizeof(double));
	if (result->value == NULL || result->grade == NULL || values == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while grading comparisons");
	result->slope = find_slope(scale);
	place_items(scale, result);
	find_cuts(scale, result, values);
	for (size_t i = 0; i < scale->items; i++)
		while (
		    result->grade[i] + 1u < scale->grade_count && result->value[i] >= result->cut[result->grade[i]])
			result->grade[i]++;
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
