#include "core/train/weights.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/rng.h"
#include "core/train/failure.h"

/* Examples that a class is thought to have beyond its own: a rare one gains, but not without bound. */
#define CLASS_PRIOR 50
#define PAIR_GRADES_APART 0.25
#define SCALE_MIN 1e-3
#define SAMPLE_SEED UINT64_C(0x6d617267)

bool
serm_weights_wanted(const SermTrainingSet *set, const SermTrainOptions *options)
{
	return options->class_weights || options->rank_weights || set->propensity != NULL;
}

static double
grade_of(const SermWeighting *weighting, uint32_t i)
{
	uint32_t grades = weighting->set->grade_count;
	double grade = 0;

	for (uint32_t y = 0; y < grades; y++)
		grade += y * (double) weighting->target[(size_t) i * grades + y];
	return grade;
}

/* 1 / sqrt(examples of the grade + 50) */
static void
weigh_classes(const SermWeighting *weighting, SermReal *product)
{
	uint32_t grades = weighting->set->grade_count, n = weighting->order->example_count;
	double count[SERM_GRADES_MAX] = {0};

	for (uint32_t i = 0; i < n; i++)
		for (uint32_t y = 0; weighting->weight[i] > 0 && y < grades; y++)
			count[y] += weighting->target[(size_t) i * grades + y];
	for (uint32_t i = 0; i < n; i++) {
		double factor = 0;

		for (uint32_t y = 0; y < grades; y++)
			factor += weighting->target[(size_t) i * grades + y] / sqrt(count[y] + CLASS_PRIOR);
		product[i] = (SermReal) (product[i] * factor);
	}
}

static int
compare_doubles(const void *a, const void *b)
{
	double x = *(const double *) a, y = *(const double *) b;

	return (x > y) - (x < y);
}

/* How many of the ascending values lie below `bound`, or are at most that. */
static size_t
count_below(const double *sorted, size_t count, double bound, bool or_equal)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (sorted[middle] < bound || (or_equal && sorted[middle] == bound))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * 1 + 1 / log2(rank + 1) by the logged place, else by the place of the grade (FullRank, ACL 2025); documents
 * of one grade share the mean of their places. `sorted` is room for the list.
 */
static void
weigh_list_ranks(
    const SermWeighting *weighting, uint32_t first, uint32_t end, double *sorted, SermReal *product)
{
	size_t n = end - first;

	for (uint32_t i = first; i < end; i++)
		sorted[i - first] = grade_of(weighting, i);
	qsort(sorted, n, sizeof(double), compare_doubles);
	for (uint32_t i = first; i < end; i++) {
		double grade = grade_of(weighting, i), rank;

		if (weighting->set->rank != NULL)
			rank = weighting->set->rank[weighting->order->example[i]];
		else
			rank =
			    (double) n -
			    (double) (count_below(sorted, n, grade, false) + count_below(sorted, n, grade, true) - 1) / 2;
		product[i] = (SermReal) (product[i] * (1 + 1 / log2(rank + 1)));
	}
}

/* Factors become weights of mean 1 over what weighs anything; factors that are all equal leave the weights as
 * they are. */
static void
apply_factors(const SermReal *weight, uint32_t n, SermReal *product)
{
	double total = 0;
	bool differ = false;
	uint32_t counted = 0;

	for (uint32_t i = 0; i < n; i++)
		differ |= product[i] != product[0];
	for (uint32_t i = 0; i < n; i++) {
		total += product[i] = differ ? weight[i] * product[i] : weight[i];
		counted += weight[i] > 0;
	}
	if (!differ)
		return;
	for (uint32_t i = 0; i < n; i++)
		product[i] = (SermReal) (product[i] / (total / counted));
}

SermStatus
serm_weights_multiply(const SermWeighting *weighting, const SermTrainHost *host, SermArena *arena,
    SermReal *product, SermError *error)
{
	const SermExampleOrder *order = weighting->order;
	const SermTrainOptions *options = weighting->options;
	SermArenaMark mark = serm_arena_mark(arena);
	double *sorted = serm_arena_array(arena, order->example_count, sizeof(*sorted));
	uint32_t n = order->example_count;

	if (sorted == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t i = 0; i < n; i++)
		product[i] = 1;
	if (options->class_weights)
		weigh_classes(weighting, product);
	for (uint32_t list = 0; options->rank_weights && list < order->list_count; list++) {
		if (!host->keep_going(host->context))
			return serm_train_canceled(error);
		weigh_list_ranks(weighting, order->list_start[list], order->list_start[list + 1], sorted, product);
	}
	for (uint32_t i = 0; weighting->set->propensity != NULL && i < n; i++)
		product[i] = (SermReal) (product[i] / fmax(weighting->set->propensity[order->example[i]],
		                                          options->propensity_clip));
	apply_factors(weighting->weight, n, product);
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}

void
serm_weights_easiness(const SermWeighting *weighting, const float *s0, SermReal *easiness)
{
	const SermExampleOrder *order = weighting->order;
	double best = weighting->set->grade_count - 1;

	for (uint32_t list = 0; list < order->list_count; list++) {
		uint32_t first = order->list_start[list], end = order->list_start[list + 1];
		float low = INFINITY, high = -INFINITY;

		for (uint32_t i = first; i < end; i++) {
			low = s0[i] < low ? s0[i] : low;
			high = s0[i] > high ? s0[i] : high;
		}
		for (uint32_t i = first; i < end; i++) {
			double h = high > low ? (s0[i] - low) / (high - low) : 0.5;

			easiness[i] = (SermReal) (1 - fabs(h - grade_of(weighting, i) / best));
		}
	}
}

typedef struct Sample {
	double *margin; /* [SERM_WEIGHTS_PAIRS] */
	uint64_t seen;
	SermRng rng;
} Sample;

/* Reservoir sampling: every pair stays with the same chance. */
static void
take(Sample *sample, double margin)
{
	uint64_t at = sample->seen++;

	if (at >= SERM_WEIGHTS_PAIRS)
		at = (uint64_t) (serm_rng_uniform(&sample->rng) * (double) sample->seen);
	if (at < SERM_WEIGHTS_PAIRS)
		sample->margin[at] = margin;
}

static void
sample_list(
    const SermWeighting *weighting, const SermReal *score, uint32_t first, uint32_t end, Sample *sample)
{
	for (uint32_t i = first; i < end; i++) {
		double own = grade_of(weighting, i);

		for (uint32_t j = first; j < i; j++) {
			double above = own - grade_of(weighting, j);

			if (fabs(above) > PAIR_GRADES_APART)
				take(sample, above > 0 ? (double) score[i] - score[j] : (double) score[j] - score[i]);
		}
	}
}

SermStatus
serm_weights_margin(const SermWeighting *weighting, const SermReal *score, const SermTrainHost *host,
    SermArena *arena, SermLossMargin *margin, SermError *error)
{
	const SermExampleOrder *order = weighting->order;
	SermArenaMark mark = serm_arena_mark(arena);
	Sample sample = {.margin = serm_arena_array(arena, SERM_WEIGHTS_PAIRS, sizeof(double))};
	size_t count;

	if (sample.margin == NULL)
		return serm_train_out_of_memory(error);
	serm_rng_seed(&sample.rng, SAMPLE_SEED);
	for (uint32_t list = 0; list < order->list_count; list++) {
		uint32_t first = order->list_start[list], end = order->list_start[list + 1];

		/* Pairs grow with the square of a list; its first ones, in an order by hash, stand for all. */
		if (end - first > SERM_LOSS_LIST_MAX)
			end = first + SERM_LOSS_LIST_MAX;
		if (!host->keep_going(host->context))
			return serm_train_canceled(error);
		sample_list(weighting, score, first, end, &sample);
	}
	count = sample.seen < SERM_WEIGHTS_PAIRS ? (size_t) sample.seen : SERM_WEIGHTS_PAIRS;
	*margin =
	    (SermLossMargin){.score = score, .center = 0, .scale = 1, .cap = weighting->options->margin_cap};
	if (count > 0) {
		qsort(sample.margin, count, sizeof(double), compare_doubles);
		margin->center = sample.margin[count / 2];
		margin->scale = fmax(sample.margin[count * 3 / 4] - sample.margin[count / 4], SCALE_MIN);
	}
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
