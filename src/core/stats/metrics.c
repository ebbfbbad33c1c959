#include "core/stats/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Byte order, the shorter of two equal beginnings first, no id before any. */
static int
compare_ids(const SermRankedDoc *a, const SermRankedDoc *b)
{
	size_t shorter = a->doc_id_length < b->doc_id_length ? a->doc_id_length : b->doc_id_length;
	int order;

	if (a->doc_id == NULL || b->doc_id == NULL)
		return (a->doc_id != NULL) - (b->doc_id != NULL);
	order = shorter > 0 ? memcmp(a->doc_id, b->doc_id, shorter) : 0;
	if (order != 0)
		return order;
	return (a->doc_id_length > b->doc_id_length) - (a->doc_id_length < b->doc_id_length);
}

static int
compare_scores(const SermRankedDoc *a, const SermRankedDoc *b)
{
	if (a->unscored || b->unscored)
		return (int) a->unscored - (int) b->unscored;
	return (a->score < b->score) - (a->score > b->score);
}

/* Within a tie group by grade, so that sums do not depend on the order of arrival. */
static int
compare_docs(const void *left, const void *right)
{
	const SermRankedDoc *a = *(const SermRankedDoc *const *) left;
	const SermRankedDoc *b = *(const SermRankedDoc *const *) right;
	int order = compare_scores(a, b);

	if (order == 0)
		order = compare_ids(b, a);
	if (order != 0)
		return order;
	if (isnan(a->grade) || isnan(b->grade))
		return (int) (isnan(a->grade) != 0) - (int) (isnan(b->grade) != 0);
	return (a->grade < b->grade) - (a->grade > b->grade);
}

SermStatus
serm_metrics_rank(
    const SermRankedDoc *docs, size_t count, SermArena *arena, SermRanking *ranking, SermError *error)
{
	double *grade = serm_arena_array(arena, count, sizeof(double));
	size_t *tie_end = serm_arena_array(arena, count, sizeof(size_t));
	size_t *score_end = serm_arena_array(arena, count, sizeof(size_t));
	SermArenaMark mark = serm_arena_mark(arena);
	const SermRankedDoc **order = serm_arena_array(arena, count, sizeof(*order));

	if (grade == NULL || tie_end == NULL || score_end == NULL || order == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory ranking %zu documents", count);
	for (size_t i = 0; i < count; i++) {
		if (!docs[i].unscored && isnan(docs[i].score))
			return serm_fail(error, SERM_ERR_INVALID, "score is NaN");
		if (isinf(docs[i].grade) || docs[i].grade > SERM_METRICS_GRADE_MAX)
			return serm_fail(error, SERM_ERR_INVALID, "grade %g is outside the range up to %g", docs[i].grade,
			    SERM_METRICS_GRADE_MAX);
		order[i] = &docs[i];
	}
	qsort(order, count, sizeof(*order), compare_docs);
	for (size_t i = count; i-- > 0;) {
		bool last = i + 1 == count;

		grade[i] = order[i]->grade;
		score_end[i] = !last && compare_scores(order[i], order[i + 1]) == 0 ? score_end[i + 1] : i + 1;
		tie_end[i] =
		    score_end[i] > i + 1 && compare_ids(order[i], order[i + 1]) == 0 ? tie_end[i + 1] : i + 1;
	}
	serm_arena_rewind(arena, mark);
	*ranking = (SermRanking){count, grade, tie_end, score_end};
	return SERM_OK;
}

/* 0 for unjudged and negative grades. */
static double
gain_of(SermGain gain, double grade)
{
	if (!(grade > 0.0))
		return 0.0;
	return gain == SERM_GAIN_LINEAR ? grade : exp2(grade) - 1.0;
}

/* Unjudged grades are NAN, which no threshold accepts. */
static bool
is_relevant(double grade, double threshold)
{
	return grade >= threshold;
}

static size_t
count_relevant(const SermRanking *ranking, size_t from, size_t to, double threshold)
{
	size_t relevant = 0;

	for (size_t i = from; i < to; i++)
		relevant += is_relevant(ranking->grade[i], threshold);
	return relevant;
}

double
serm_metrics_dcg(const SermRanking *ranking, SermGain gain, size_t cutoff)
{
	double sum = 0.0;
	size_t limit = cutoff < ranking->count ? cutoff : ranking->count;

	for (size_t start = 0; start < limit; start = ranking->tie_end[start]) {
		size_t end = ranking->tie_end[start];
		double mean = 0.0;

		for (size_t i = start; i < end; i++)
			mean += gain_of(gain, ranking->grade[i]);
		mean /= (double) (end - start);
		for (size_t i = start; i < end && i < limit && mean > 0.0; i++)
			sum += mean / log2((double) (i + 2));
	}
	return sum;
}

static int
compare_descending(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;

	return (a < b) - (a > b);
}

SermStatus
serm_metrics_ndcg(const SermRanking *ranking, SermGain gain, size_t cutoff, SermArena *arena, double *value,
    SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	double *gains = serm_arena_array(arena, ranking->count, sizeof(double));
	double ideal = 0.0;

	if (gains == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory sorting %zu grades", ranking->count);
	for (size_t i = 0; i < ranking->count; i++)
		gains[i] = gain_of(gain, ranking->grade[i]);
	qsort(gains, ranking->count, sizeof(double), compare_descending);
	for (size_t i = 0; i < ranking->count && i < cutoff && gains[i] > 0.0; i++)
		ideal += gains[i] / log2((double) (i + 2));
	serm_arena_rewind(arena, mark);
	*value = NAN;
	if (ideal > 0.0) {
		/* Means of tie groups round: a perfect tied list may sum to one unit more than its ideal. */
		*value = fmin(serm_metrics_dcg(ranking, gain, cutoff) / ideal, 1.0);
	}
	return SERM_OK;
}

/* The expected number of relevant documents among the first `cutoff`. */
static double
expected_relevant(const SermRanking *ranking, double threshold, size_t cutoff)
{
	double sum = 0.0;

	for (size_t start = 0; start < ranking->count && start < cutoff; start = ranking->tie_end[start]) {
		size_t end = ranking->tie_end[start];
		size_t relevant = count_relevant(ranking, start, end, threshold);

		if (end <= cutoff)
			sum += (double) relevant;
		else
			sum += (double) relevant * (double) (cutoff - start) / (double) (end - start);
	}
	return sum;
}

double
serm_metrics_precision(const SermRanking *ranking, double threshold, size_t cutoff)
{
	if (cutoff == SERM_METRICS_NO_CUTOFF)
		cutoff = ranking->count;
	if (cutoff == 0)
		return NAN;
	return expected_relevant(ranking, threshold, cutoff) / (double) cutoff;
}

double
serm_metrics_recall(const SermRanking *ranking, double threshold, size_t cutoff)
{
	size_t all = count_relevant(ranking, 0, ranking->count, threshold);

	return all == 0 ? NAN : expected_relevant(ranking, threshold, cutoff) / (double) all;
}

/*
 * A relevant document at place i (from 1) of a group of n with r relevant ones has, in expectation, (i - 1)
 * (r - 1) / (n - 1) relevant ones of its group before it.
 */
double
serm_metrics_average_precision(const SermRanking *ranking, double threshold)
{
	double sum = 0.0;
	size_t before = 0;

	for (size_t start = 0; start < ranking->count; start = ranking->tie_end[start]) {
		size_t end = ranking->tie_end[start];
		size_t relevant = count_relevant(ranking, start, end, threshold);
		double size = (double) (end - start);

		for (size_t i = start; i < end && relevant > 0; i++) {
			double peers =
			    end - start > 1 ? (double) (i - start) * (double) (relevant - 1) / (size - 1.0) : 0.0;

			sum += (double) relevant / size * ((double) (before + 1) + peers) / (double) (i + 1);
		}
		before += relevant;
	}
	return before == 0 ? NAN : sum / (double) before;
}

double
serm_metrics_reciprocal_rank(const SermRanking *ranking, double threshold)
{
	for (size_t start = 0; start < ranking->count; start = ranking->tie_end[start]) {
		size_t end = ranking->tie_end[start];
		size_t relevant = count_relevant(ranking, start, end, threshold);
		double none = 1.0; /* probability that no relevant one came before place i of the group */
		double sum = 0.0;

		for (size_t i = start; i < end && relevant > 0 && none > 0.0; i++) {
			double left = (double) (end - i);
			double here = (double) relevant / left;

			if (here >= 1.0)
				here = 1.0;
			sum += none * here / (double) (i + 1);
			none *= 1.0 - here;
		}
		if (relevant > 0)
			return sum;
	}
	return NAN;
}

/*
 * The means over all subsets of j of the group's `pass` values of their product, j = 0..depth, one
 * value at a time: mean_j(m) = (m - j)/m mean_j(m - 1) + j/m pass_m mean_{j-1}(m - 1). Only convex
 * combinations: nothing overflows or cancels.
 */
static bool
subset_means(
    const double *pass, size_t size, size_t depth, double *mean, SermKeepGoing keep_going, void *context)
{
	size_t work = 0;

	memset(mean, 0, (depth + 1) * sizeof(double));
	mean[0] = 1.0;
	for (size_t m = 1; m <= size; m++) {
		size_t top = m < depth ? m : depth;

		for (size_t j = top; j >= 1; j--) {
			double share = (double) j / (double) m;

			mean[j] = (1.0 - share) * mean[j] + share * pass[m - 1] * mean[j - 1];
		}
		work += top;
		if (work > 1000000 && keep_going != NULL) {
			work = 0;
			if (!keep_going(context))
				return false;
		}
	}
	return true;
}

SermStatus
serm_metrics_err(const SermRanking *ranking, double grade_max, size_t cutoff, SermArena *arena,
    SermKeepGoing keep_going, void *context, double *value, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	size_t limit = cutoff < ranking->count ? cutoff : ranking->count;
	double *pass = serm_arena_array(arena, ranking->count, sizeof(double));
	double *mean = serm_arena_array(arena, limit + 1, sizeof(double));
	double reached = 1.0; /* probability that the user comes to the group */
	double sum = 0.0;

	if (pass == NULL || mean == NULL)
		return serm_fail(
		    error, SERM_ERR_MEMORY, "out of memory for the ERR of %zu documents", ranking->count);
	if (!(grade_max > 0.0) || grade_max > SERM_METRICS_GRADE_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "max_grade %g is outside the range above 0 up to %g",
		    grade_max, SERM_METRICS_GRADE_MAX);
	for (size_t i = 0; i < ranking->count; i++) {
		if (ranking->grade[i] > grade_max)
			return serm_fail(
			    error, SERM_ERR_INVALID, "grade %g is above max_grade %g", ranking->grade[i], grade_max);
		pass[i] = 1.0 - gain_of(SERM_GAIN_EXPONENTIAL, ranking->grade[i]) / exp2(grade_max);
	}
	for (size_t start = 0; start < limit; start = ranking->tie_end[start]) {
		size_t end = ranking->tie_end[start];
		size_t depth = end < limit ? end - start : limit - start;

		if (!subset_means(pass + start, end - start, depth, mean, keep_going, context)) {
			serm_arena_rewind(arena, mark);
			return serm_fail(error, SERM_ERR_CANCELED, "canceled");
		}
		for (size_t j = 1; j <= depth; j++)
			sum += reached * (mean[j - 1] - mean[j]) / (double) (start + j);
		reached *= mean[depth];
	}
	serm_arena_rewind(arena, mark);
	*value = sum;
	return SERM_OK;
}

static size_t
distinct_index(const double *sorted, size_t count, double wanted)
{
	size_t low = 0;

	for (size_t high = count; low < high;) {
		size_t middle = low + (high - low) / 2;

		if (sorted[middle] > wanted)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* tree[] is a Fenwick tree over the distinct grades, best first: how many seen so far have each. */
static uint64_t
count_up_to(const uint64_t *tree, size_t index)
{
	uint64_t sum = 0;

	for (; index > 0; index -= index & -index)
		sum += tree[index - 1];
	return sum;
}

static void
count_one(uint64_t *tree, size_t size, size_t index)
{
	for (index++; index <= size; index += index & -index)
		tree[index - 1]++;
}

SermStatus
serm_metrics_pair_accuracy(const SermRanking *ranking, SermArena *arena, double *value, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	double *sorted = serm_arena_array(arena, ranking->count, sizeof(double));
	uint64_t *tree = serm_arena_array(arena, ranking->count, sizeof(uint64_t));
	size_t judged = 0, distinct = 0;
	uint64_t right = 0, wrong = 0, pairs = 0, same = 1, seen = 0;

	if (sorted == NULL || tree == NULL)
		return serm_fail(
		    error, SERM_ERR_MEMORY, "out of memory for the pairs of %zu documents", ranking->count);
	for (size_t i = 0; i < ranking->count; i++)
		if (!isnan(ranking->grade[i]))
			sorted[judged++] = ranking->grade[i];
	qsort(sorted, judged, sizeof(double), compare_descending);
	/* All pairs less those of equal grade. */
	pairs = judged > 0 ? (uint64_t) judged * (judged - 1) / 2 : 0;
	for (size_t i = 1; i <= judged; i++, same++)
		if (i == judged || sorted[i] != sorted[i - 1]) {
			pairs -= same * (same - 1) / 2;
			sorted[distinct++] = sorted[i - 1];
			same = 0;
		}
	for (size_t start = 0; start < ranking->count; start = ranking->score_end[start]) {
		size_t end = ranking->score_end[start];

		for (size_t i = start; i < end; i++)
			if (!isnan(ranking->grade[i])) {
				size_t index = distinct_index(sorted, distinct, ranking->grade[i]);

				right += count_up_to(tree, index);
				wrong += seen - count_up_to(tree, index + 1);
			}
		for (size_t i = start; i < end; i++)
			if (!isnan(ranking->grade[i])) {
				count_one(tree, distinct, distinct_index(sorted, distinct, ranking->grade[i]));
				seen++;
			}
	}
	serm_arena_rewind(arena, mark);
	*value = pairs == 0 ? NAN : ((double) right + 0.5 * (double) (pairs - right - wrong)) / (double) pairs;
	return SERM_OK;
}
