#include "core/stats/judges.h"

#include <math.h>
#include <string.h>

/* A model that is certain must still be open to contradiction. */
#define PRIOR_FLOOR 1e-6
#define SUM_TOLERANCE 1e-3
/* Items between two questions whether to go on: some 100 microseconds of work each. */
#define ITEMS_PER_CHECK 256

void
serm_confusion_defaults(SermConfusionOptions *options)
{
	*options = (SermConfusionOptions){.method = SERM_CONFUSION_AUTO,
	    .gold_min = 40,
	    .strength = 10.0,
	    .quality = 0.3,
	    .iterations_max = 200,
	    .tolerance = 1e-7};
}

void
serm_confusion_assumed(uint32_t grade_count, double quality, double *out)
{
	double diagonal = 1.0 / grade_count + quality * (1.0 - 1.0 / grade_count);

	for (uint32_t y = 0; y < grade_count; y++) {
		double sum = 0.0;

		for (uint32_t l = 0; l < grade_count; l++)
			if (l != y)
				sum += exp2(-(double) (l > y ? l - y : y - l));
		for (uint32_t l = 0; l < grade_count; l++)
			out[y * grade_count + l] =
			    l == y ? diagonal : (1.0 - diagonal) * exp2(-(double) (l > y ? l - y : y - l)) / sum;
	}
}

static SermStatus
check_distribution(const float *p, uint32_t grade_count, SermError *error)
{
	double sum = 0.0;

	for (uint32_t y = 0; y < grade_count; y++) {
		if (!(p[y] >= 0.0f) || isinf(p[y]))
			return serm_fail(error, SERM_ERR_INVALID, "probability %g of grade %u is outside 0..1", p[y], y);
		sum += p[y];
	}
	if (fabs(sum - 1.0) > SUM_TOLERANCE)
		return serm_fail(error, SERM_ERR_INVALID, "the probabilities of the grades sum to %g, not to 1", sum);
	return SERM_OK;
}

static SermStatus
check_label(int16_t label, uint32_t grade_count, const char *what, SermError *error)
{
	if (label != SERM_LABEL_MISSING && (label < 0 || (uint32_t) label >= grade_count))
		return serm_fail(error, SERM_ERR_INVALID, "%s %d is outside 0..%u", what, label, grade_count - 1);
	return SERM_OK;
}

static bool
has_label(const SermJudgeLabels *labels, size_t item)
{
	for (uint32_t j = 0; j < labels->judge_count; j++)
		if (labels->label[item * labels->judge_count + j] != SERM_LABEL_MISSING)
			return true;
	return false;
}

static SermStatus
check_input(const SermJudgeLabels *labels, const SermConfusionOptions *options, SermConfusionReport *report,
    SermError *error)
{
	SermStatus status = SERM_OK;

	memset(report, 0, sizeof(*report));
	if (labels->grade_count < 2 || labels->grade_count > SERM_JUDGES_GRADES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "grade count %u is outside 2..%d", labels->grade_count,
		    SERM_JUDGES_GRADES_MAX);
	if (!(options->strength > 0.0) || isinf(options->strength))
		return serm_fail(error, SERM_ERR_INVALID, "strength %g must be above 0", options->strength);
	if (!(options->quality > 0.0 && options->quality < 1.0))
		return serm_fail(error, SERM_ERR_INVALID, "quality %g must be between 0 and 1", options->quality);
	for (size_t i = 0; i < labels->item_count && status == SERM_OK; i++) {
		for (uint32_t j = 0; j < labels->judge_count && status == SERM_OK; j++) {
			int16_t label = labels->label[i * labels->judge_count + j];

			status = check_label(label, labels->grade_count, "label", error);
			report->label_count += label != SERM_LABEL_MISSING;
		}
		if (status == SERM_OK && labels->prior != NULL)
			status = check_distribution(labels->prior + i * labels->grade_count, labels->grade_count, error);
		if (status == SERM_OK && labels->gold != NULL) {
			status = check_label(labels->gold[i], labels->grade_count, "gold grade", error);
			report->gold_count += labels->gold[i] != SERM_LABEL_MISSING && has_label(labels, i);
		}
	}
	if (status == SERM_OK && report->label_count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "no judge gave any label");
	return status;
}

/* What an estimation works on; matrices [judge][grade][grade] but for `pooled`, [grade][grade]. */
typedef struct Estimation {
	const SermJudgeLabels *labels;
	const SermConfusionOptions *options;
	SermKeepGoing keep_going;
	void *context;
	double *counts;    /* expected labels per truth */
	double *logarithm; /* of the matrices */
	double *assumed;   /* the matrix of the assumed judge */
	double *pooled;    /* the average judge */
	double *belief;    /* [grade] of one item */
} Estimation;

static SermStatus
start_estimation(Estimation *work, SermArena *arena, SermError *error)
{
	size_t square = (size_t) work->labels->grade_count * work->labels->grade_count;

	work->counts = serm_arena_array(arena, square * work->labels->judge_count, sizeof(double));
	work->logarithm = serm_arena_array(arena, square * work->labels->judge_count, sizeof(double));
	work->assumed = serm_arena_array(arena, square, sizeof(double));
	work->pooled = serm_arena_array(arena, square, sizeof(double));
	work->belief = serm_arena_array(arena, work->labels->grade_count, sizeof(double));
	if (work->counts == NULL || work->logarithm == NULL || work->assumed == NULL || work->pooled == NULL ||
	    work->belief == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the confusion of %u judges",
		    work->labels->judge_count);
	serm_confusion_assumed(work->labels->grade_count, work->options->quality, work->assumed);
	return SERM_OK;
}

/*
 * belief[y] := log of its unnormalised posterior -> the posterior itself; returns the log of the norm.
 */
static double
normalise_logs(double *belief, uint32_t grade_count)
{
	double top = belief[0], sum = 0.0;

	for (uint32_t y = 1; y < grade_count; y++)
		top = fmax(top, belief[y]);
	for (uint32_t y = 0; y < grade_count; y++)
		sum += belief[y] = exp(belief[y] - top);
	for (uint32_t y = 0; y < grade_count; y++)
		belief[y] /= sum;
	return top + log(sum);
}

/* The belief on one item under the matrices in `logarithm`; returns the log-likelihood of its labels. */
static double
believe(Estimation *work, size_t item, const double *grade_prior)
{
	const SermJudgeLabels *labels = work->labels;
	const int16_t *label = labels->label + item * labels->judge_count;
	uint32_t grades = labels->grade_count;
	int16_t gold = labels->gold != NULL ? labels->gold[item] : SERM_LABEL_MISSING;
	double likelihood;

	for (uint32_t y = 0; y < grades; y++) {
		double prior = labels->prior != NULL ? labels->prior[item * grades + y] : grade_prior[y];

		work->belief[y] = log(fmax(prior, PRIOR_FLOOR));
		for (uint32_t j = 0; j < labels->judge_count; j++)
			if (label[j] != SERM_LABEL_MISSING)
				work->belief[y] += work->logarithm[((size_t) j * grades + y) * grades + (size_t) label[j]];
	}
	if (gold == SERM_LABEL_MISSING)
		return normalise_logs(work->belief, grades);
	likelihood = work->belief[gold];
	for (uint32_t y = 0; y < grades; y++)
		work->belief[y] = y == (uint32_t) gold ? 1.0 : 0.0;
	return likelihood;
}

static void
count_labels(Estimation *work, size_t item)
{
	const SermJudgeLabels *labels = work->labels;
	uint32_t grades = labels->grade_count;

	for (uint32_t j = 0; j < labels->judge_count; j++) {
		int16_t label = labels->label[item * labels->judge_count + j];

		if (label != SERM_LABEL_MISSING)
			for (uint32_t y = 0; y < grades; y++)
				work->counts[((size_t) j * grades + y) * grades + (size_t) label] += work->belief[y];
	}
}

/* out[y] := (strength center[y] + counts[y]) / norm for the rows of one matrix; returns the largest change.
 */
static double
shrink_matrix(const double *counts, const double *center, double strength, uint32_t grades, double *out)
{
	double moved = 0.0;

	for (uint32_t y = 0; y < grades; y++) {
		double total = strength;

		for (uint32_t l = 0; l < grades; l++)
			total += counts[y * grades + l];
		for (uint32_t l = 0; l < grades; l++) {
			double next = (strength * center[y * grades + l] + counts[y * grades + l]) / total;

			moved = fmax(moved, fabs(next - out[y * grades + l]));
			out[y * grades + l] = next;
		}
	}
	return moved;
}

/* From expected counts to matrices: first the average judge, then each judge towards it. */
static double
update_matrices(Estimation *work, double *confusion)
{
	uint32_t grades = work->labels->grade_count;
	size_t square = (size_t) grades * grades;
	double *all = work->logarithm; /* its first matrix is free until the logarithms are taken again */
	double moved = 0.0;

	memset(all, 0, square * sizeof(double));
	for (uint32_t j = 0; j < work->labels->judge_count; j++)
		for (size_t i = 0; i < square; i++)
			all[i] += work->counts[j * square + i];
	shrink_matrix(all, work->assumed, work->options->strength, grades, work->pooled);
	for (uint32_t j = 0; j < work->labels->judge_count; j++)
		moved = fmax(moved, shrink_matrix(work->counts + j * square, work->pooled, work->options->strength,
		                        grades, confusion + j * square));
	return moved;
}

static void
take_logarithms(Estimation *work, const double *confusion)
{
	size_t size = (size_t) work->labels->grade_count * work->labels->grade_count * work->labels->judge_count;

	for (size_t i = 0; i < size; i++)
		work->logarithm[i] = log(confusion[i]);
}

static void
set_grade_prior(const double *sum, uint32_t grades, double *grade_prior)
{
	double total = 1.0;

	for (uint32_t y = 0; y < grades; y++)
		total += sum[y];
	for (uint32_t y = 0; y < grades; y++)
		grade_prior[y] = (sum[y] + 1.0 / grades) / total;
}

/*
 * One pass over the items: beliefs under the current matrices, their counts (of all items, or of gold
 * ones only), the sum of the beliefs of what was counted, and the log-likelihood.
 */
static SermStatus
pass_items(Estimation *work, const double *grade_prior, bool gold_only, double *sum, double *posterior,
    double *log_likelihood, SermError *error)
{
	const SermJudgeLabels *labels = work->labels;
	uint32_t grades = labels->grade_count;

	memset(work->counts, 0, sizeof(double) * grades * grades * labels->judge_count);
	memset(sum, 0, sizeof(double) * grades);
	*log_likelihood = 0.0;
	for (size_t i = 0; i < labels->item_count; i++) {
		bool gold = labels->gold != NULL && labels->gold[i] != SERM_LABEL_MISSING;

		if (i % ITEMS_PER_CHECK == 0 && work->keep_going != NULL && !work->keep_going(work->context))
			return serm_fail(error, SERM_ERR_CANCELED, "canceled");
		*log_likelihood += believe(work, i, grade_prior);
		if (posterior != NULL)
			memcpy(posterior + i * grades, work->belief, sizeof(double) * grades);
		if ((gold || !gold_only) && has_label(labels, i)) {
			count_labels(work, i);
			for (uint32_t y = 0; y < grades; y++)
				sum[y] += work->belief[y];
		}
	}
	return SERM_OK;
}

SermStatus
serm_confusion_estimate(const SermJudgeLabels *labels, const SermConfusionOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, double *confusion, double *grade_prior, double *posterior,
    SermConfusionReport *report, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Estimation work = {.labels = labels, .options = options, .keep_going = keep_going, .context = context};
	uint32_t grades = labels->grade_count;
	double sum[SERM_JUDGES_GRADES_MAX];
	SermStatus status = check_input(labels, options, report, error);

	if (status != SERM_OK || (status = start_estimation(&work, arena, error)) != SERM_OK)
		return status;
	report->method = options->method;
	if (options->method == SERM_CONFUSION_AUTO)
		report->method = report->gold_count > 0 && report->gold_count >= options->gold_min
		                     ? SERM_CONFUSION_GOLD
		                     : SERM_CONFUSION_EM;
	if (report->method == SERM_CONFUSION_GOLD && report->gold_count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "no judge labelled a pair with a known grade");

	/* The diagonal of the assumed judge decides which hidden class is which grade. */
	for (uint32_t j = 0; j < labels->judge_count; j++)
		memcpy(confusion + (size_t) j * grades * grades, work.assumed, sizeof(double) * grades * grades);
	memset(sum, 0, sizeof(sum));
	set_grade_prior(sum, grades, grade_prior);
	for (;;) {
		bool counting_gold = report->method == SERM_CONFUSION_GOLD;
		double moved;

		take_logarithms(&work, confusion);
		status =
		    pass_items(&work, grade_prior, counting_gold, sum, posterior, &report->log_likelihood, error);
		if (status != SERM_OK)
			break;
		if (report->converged || (!counting_gold && report->iterations >= options->iterations_max))
			break;
		moved = update_matrices(&work, confusion);
		set_grade_prior(sum, grades, grade_prior);
		/* Counts of gold do not depend on the matrices: one step is all, and one more pass for beliefs. */
		if (counting_gold)
			report->converged = true;
		else {
			report->iterations++;
			report->converged = moved <= options->tolerance;
		}
	}
	if (report->method == SERM_CONFUSION_GOLD)
		report->log_likelihood = 0.0;
	serm_arena_rewind(arena, mark);
	return status;
}

SermStatus
serm_soft_target(uint32_t grade_count, const float *prior, uint32_t judge_count, const double *confusion,
    const int16_t *label, const double *weight, float *target, SermError *error)
{
	double belief[SERM_JUDGES_GRADES_MAX];
	bool answered = false;
	SermStatus status = SERM_OK;

	if (grade_count < 2 || grade_count > SERM_JUDGES_GRADES_MAX)
		return serm_fail(
		    error, SERM_ERR_INVALID, "grade count %u is outside 2..%d", grade_count, SERM_JUDGES_GRADES_MAX);
	if (prior != NULL && (status = check_distribution(prior, grade_count, error)) != SERM_OK)
		return status;
	for (uint32_t y = 0; y < grade_count; y++)
		belief[y] = prior == NULL ? 0.0 : log(fmax(prior[y], PRIOR_FLOOR));
	for (uint32_t j = 0; j < judge_count; j++) {
		double power = weight != NULL ? weight[j] : 1.0;

		if ((status = check_label(label[j], grade_count, "label", error)) != SERM_OK)
			return status;
		if (!(power >= 0.0 && power <= 1.0))
			return serm_fail(error, SERM_ERR_INVALID, "weight %g of a judge is outside 0..1", power);
		if (label[j] == SERM_LABEL_MISSING)
			continue;
		answered = true;
		for (uint32_t y = 0; y < grade_count; y++) {
			double chance = confusion[((size_t) j * grade_count + y) * grade_count + (size_t) label[j]];

			if (!(chance > 0.0 && chance <= 1.0))
				return serm_fail(error, SERM_ERR_INVALID,
				    "confusion entry %g is outside the range above 0 up to 1", chance);
			belief[y] += power * log(chance);
		}
	}
	if (answered || prior == NULL)
		normalise_logs(belief, grade_count);
	for (uint32_t y = 0; y < grade_count; y++)
		target[y] = answered || prior == NULL ? (float) belief[y] : prior[y];
	return SERM_OK;
}
