/*
 * How alike judges err, from gold: the correlation under which the soft targets
 * make the grades of people likeliest.
 */
#include <math.h>
#include <string.h>

#include "core/stats/judges.h"

/* What real judges of two sets have, and how far others may be from it before gold has said anything. */
#define CORRELATION_MEAN 0.65
#define CORRELATION_DEVIATION 0.25
#define STEPS 21
#define PROBABILITY_MIN 1e-6
#define ITEMS_PER_CHECK 256

double
serm_judges_worth(double count, double correlation)
{
	return count > 1.0 ? count / (1.0 + (count - 1.0) * correlation) : 1.0;
}

typedef struct Alike {
	const SermJudgeLabels *labels;
	const SermCorrelationInput *input;
	double *row;          /* [judge][grade]: gold labels that the matrices were counted on; zeros: on none */
	double belief[STEPS]; /* log-likelihood of gold by correlation */
	double said[SERM_JUDGES_GRADES_MAX];
	double prior[SERM_JUDGES_GRADES_MAX];
} Alike;

/*
 * The chance of a label of gold under a matrix that has not seen it: of N pseudo-counts and counts in its
 * row, one was the label itself.
 */
static double
unseen(const Alike *work, uint32_t judge, uint32_t truth, double chance)
{
	double count = work->row[(size_t) judge * work->labels->grade_count + truth];
	double all = work->input->strength + count;

	return count < 1.0 ? chance : fmax((chance * all - 1.0) / (all - 1.0), PROBABILITY_MIN);
}

/* said[y]: what the labels of an item say of grade y, each judge by its say; returns the sum of the says. */
static double
listen(Alike *work, size_t item, uint32_t truth)
{
	uint32_t grades = work->labels->grade_count, judges = work->labels->judge_count;
	double total = 0.0;

	memset(work->said, 0, sizeof(work->said));
	for (uint32_t j = 0; j < judges; j++) {
		int16_t label = work->labels->label[item * judges + j];
		double say = work->input->say == NULL ? 1.0 : work->input->say[j];

		if (label == SERM_LABEL_MISSING)
			continue;
		total += say;
		for (uint32_t y = 0; y < grades; y++) {
			double chance = work->input->confusion[((size_t) j * grades + y) * grades + (size_t) label];

			work->said[y] += say * log(y == truth ? unseen(work, j, truth, chance) : chance);
		}
	}
	return total;
}

static void
weigh_item(Alike *work, size_t item, uint32_t truth, double weight)
{
	uint32_t grades = work->labels->grade_count;
	double total = listen(work, item, truth);

	/* One judge is worth one, however alike they are. */
	if (total <= 1.0)
		return;
	for (uint32_t y = 0; y < grades; y++) {
		double p = work->input->grade_factor[y];

		if (work->labels->prior != NULL)
			p *= work->labels->prior[item * grades + y];
		work->prior[y] = log(fmax(p, PROBABILITY_MIN));
	}
	for (int s = 0; s < STEPS; s++) {
		double power = serm_judges_worth(total, s / (double) (STEPS - 1)) / total;
		double top = -INFINITY, sum = 0.0;

		for (uint32_t y = 0; y < grades; y++)
			top = fmax(top, work->prior[y] + power * work->said[y]);
		for (uint32_t y = 0; y < grades; y++)
			sum += exp(work->prior[y] + power * work->said[y] - top);
		work->belief[s] += weight * (work->prior[truth] + power * work->said[truth] - top - log(sum));
	}
}

static void
count_rows(Alike *work)
{
	const SermJudgeLabels *labels = work->labels;

	for (size_t i = 0; i < labels->item_count; i++)
		for (uint32_t j = 0; j < labels->judge_count && labels->gold[i] != SERM_LABEL_MISSING; j++)
			if (labels->label[i * labels->judge_count + j] != SERM_LABEL_MISSING)
				work->row[(size_t) j * labels->grade_count + (size_t) labels->gold[i]] += 1.0;
}

/* The mean over the steps, each as likely as gold and what is known of judges make it. */
static double
mean_step(const double *belief)
{
	double weight[STEPS], top = -INFINITY, sum = 0.0, mean = 0.0;

	for (int s = 0; s < STEPS; s++) {
		double away = (s / (double) (STEPS - 1) - CORRELATION_MEAN) / CORRELATION_DEVIATION;

		weight[s] = belief[s] - away * away / 2.0;
		top = fmax(top, weight[s]);
	}
	for (int s = 0; s < STEPS; s++) {
		double likely = exp(weight[s] - top);

		sum += likely;
		mean += likely * s / (double) (STEPS - 1);
	}
	return mean / sum;
}

SermStatus
serm_judges_correlate(const SermJudgeLabels *labels, const SermCorrelationInput *input, SermArena *arena,
    SermKeepGoing keep_going, void *context, double *correlation, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Alike work = {.labels = labels, .input = input};
	size_t cells = (size_t) labels->judge_count * labels->grade_count;
	bool any = false;

	*correlation = CORRELATION_MEAN;
	if (labels->gold == NULL)
		return SERM_OK;
	work.row = serm_arena_array(arena, cells, sizeof(double));
	if (work.row == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for %u judges", labels->judge_count);
	memset(work.row, 0, cells * sizeof(double));
	if (input->method == SERM_CONFUSION_GOLD)
		count_rows(&work);
	for (size_t i = 0; i < labels->item_count; i++) {
		if (i % ITEMS_PER_CHECK == 0 && keep_going != NULL && !keep_going(context)) {
			serm_arena_rewind(arena, mark);
			return serm_fail(error, SERM_ERR_CANCELED, "canceled");
		}
		if (labels->gold[i] == SERM_LABEL_MISSING)
			continue;
		any = true;
		weigh_item(
		    &work, i, (uint32_t) labels->gold[i], input->gold_weight == NULL ? 1.0 : input->gold_weight[i]);
	}
	if (any)
		*correlation = mean_step(work.belief);
	serm_arena_rewind(arena, mark);
	return SERM_OK;
}
