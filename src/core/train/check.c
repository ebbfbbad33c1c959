#include "core/train/check.h"

#include <math.h>

#include "core/train/failure.h"

#define EPOCHS_MAX 1000
#define BATCH_MAX 4096
#define SHARE_MAX 1000
#define TARGET_TOLERANCE 1e-3
/* Less total weight than this is not a grade that occurs. */
#define GRADE_MASS_MIN 1e-6

SermStatus
serm_train_check_options(const SermTrainOptions *options, SermError *error)
{
	if (options->heads < 1 || options->heads > SERM_HEADS_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "heads must be between 1 and %d", SERM_HEADS_MAX);
	if (options->epochs > EPOCHS_MAX ||
	    (options->pretrain_epochs > EPOCHS_MAX && options->pretrain_epochs != SERM_PRETRAIN_EPOCHS_AUTO))
		return serm_fail(error, SERM_ERR_INVALID, "epochs must be at most %d", EPOCHS_MAX);
	if (options->batch > BATCH_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "batch must be at most %d", BATCH_MAX);
	if (!(options->learning_rate > 0 && options->learning_rate <= 1))
		return serm_fail(error, SERM_ERR_INVALID, "learning_rate must be above 0 and at most 1");
	if (!(options->weight_decay >= 0 && options->weight_decay <= 1))
		return serm_fail(error, SERM_ERR_INVALID, "weight_decay must be between 0 and 1");
	if (!(options->dropout >= 0 && options->dropout <= 0.9))
		return serm_fail(error, SERM_ERR_INVALID, "dropout must be between 0 and 0.9");
	if (!(options->pairwise <= 100))
		return serm_fail(error, SERM_ERR_INVALID, "pairwise must be at most 100");
	if (!(options->guard <= 100))
		return serm_fail(error, SERM_ERR_INVALID, "guard must be at most 100");
	if (!(options->margin_cap >= 0 && options->margin_cap <= 2))
		return serm_fail(error, SERM_ERR_INVALID, "margin_cap must be between 0 and 2");
	if (!(options->propensity_clip > 0 && options->propensity_clip <= 1))
		return serm_fail(error, SERM_ERR_INVALID, "propensity_clip must be above 0 and at most 1");
	for (int o = 0; o < SERM_ORIGIN_COUNT; o++)
		if (!(options->share[o] >= 0 && options->share[o] <= SHARE_MAX))
			return serm_fail(error, SERM_ERR_INVALID, "a share must be between 0 and %d", SHARE_MAX);
	if (!(options->anchor >= 0 && options->anchor <= 1000))
		return serm_fail(error, SERM_ERR_INVALID, "anchor must be between 0 and 1000");
	if (!(options->alpha > 0 && options->alpha <= 1))
		return serm_fail(error, SERM_ERR_INVALID, "alpha must be above 0 and at most 1");
	if (!(options->temperature >= 0.01 && options->temperature <= 1000))
		return serm_fail(error, SERM_ERR_INVALID, "temperature must be between 0.01 and 1000");
	if (options->loss != NULL && options->pairwise >= 0)
		return serm_fail(
		    error, SERM_ERR_INVALID, "pairwise is part of the default loss and goes with no other");
	return SERM_OK;
}

/* The optional arrays at one example. */
static SermStatus
check_extras(const SermTrainingSet *set, size_t index, SermError *error)
{
	double sum = 0;

	if (set->rank != NULL && !(set->rank[index] >= 1 && isfinite(set->rank[index])))
		return serm_fail(error, SERM_ERR_INVALID, "the rank of example %zu is not at least 1", index + 1);
	if (set->propensity != NULL && !(set->propensity[index] > 0 && set->propensity[index] <= 1))
		return serm_fail(
		    error, SERM_ERR_INVALID, "the propensity of example %zu is not in (0, 1]", index + 1);
	if (set->origin != NULL && set->origin[index] >= SERM_ORIGIN_COUNT)
		return serm_fail(error, SERM_ERR_INVALID, "the origin of example %zu is not known", index + 1);
	if (set->reference != NULL && !isfinite(set->reference[index]))
		return serm_fail(error, SERM_ERR_INVALID, "the reference of example %zu is not finite", index + 1);
	if (set->judged != NULL && set->teacher_weight != NULL &&
	    !(set->teacher_weight[index] >= 0 && isfinite(set->teacher_weight[index])))
		return serm_fail(error, SERM_ERR_INVALID,
		    "the weight of example %zu for the teacher is negative or not a number", index + 1);
	for (uint32_t y = 0; set->teacher != NULL && y < set->grade_count; y++) {
		float p = set->teacher[index * set->grade_count + y];

		if (!(p >= 0))
			return serm_fail(error, SERM_ERR_INVALID,
			    "the teacher of example %zu is negative or not a number at grade %u", index + 1, y);
		sum += p;
	}
	if (set->teacher != NULL && !(fabs(sum - 1) <= TARGET_TOLERANCE))
		return serm_fail(
		    error, SERM_ERR_INVALID, "the teacher of example %zu sums to %g instead of 1", index + 1, sum);
	return SERM_OK;
}

static SermStatus
check_example(const SermTrainingSet *set, size_t index, SermError *error)
{
	const SermExample *example = &set->examples[index];
	double sum = 0;

	if (example->query >= set->query_count)
		return serm_fail(error, SERM_ERR_INVALID, "example %zu names query %u of %zu", index + 1,
		    example->query, set->query_count);
	if (!(example->weight > 0 && isfinite(example->weight)))
		return serm_fail(
		    error, SERM_ERR_INVALID, "the weight of example %zu is not a positive number", index + 1);
	for (uint32_t y = 0; y < set->grade_count; y++) {
		if (!(example->target[y] >= 0))
			return serm_fail(error, SERM_ERR_INVALID,
			    "the target of example %zu is negative or not a number at grade %u", index + 1, y);
		sum += example->target[y];
	}
	if (!(fabs(sum - 1) <= TARGET_TOLERANCE))
		return serm_fail(
		    error, SERM_ERR_INVALID, "the target of example %zu sums to %g instead of 1", index + 1, sum);
	return SERM_OK;
}

SermStatus
serm_train_check_set(const SermTrainingSet *set, const SermTrainHost *host, SermError *error)
{
	double mass[SERM_GRADES_MAX] = {0};
	uint32_t present = 0, last = 0;

	if (set->grade_count < SERM_GRADES_MIN || set->grade_count > SERM_GRADES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "a model has between %d and %d grades, not %u",
		    SERM_GRADES_MIN, SERM_GRADES_MAX, set->grade_count);
	if (set->parent != NULL && serm_model_grade_count(set->parent) != set->grade_count)
		return serm_fail(error, SERM_ERR_INVALID, "the parent has %u grades where the examples have %u",
		    serm_model_grade_count(set->parent), set->grade_count);
	if (set->judged != NULL && set->teacher == NULL)
		return serm_fail(error, SERM_ERR_INVALID, "examples that are not judged need a teacher");
	if (set->example_count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no graded examples to train on");
	if (set->example_count >= UINT32_MAX || set->corpus_count >= UINT32_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "too many examples or documents to train on");
	for (size_t i = 0; i < set->example_count; i++) {
		SermStatus status = check_example(set, i, error);

		if (status == SERM_OK)
			status = check_extras(set, i, error);
		if (status != SERM_OK)
			return status;
		for (uint32_t y = 0; y < set->grade_count; y++)
			mass[y] += set->examples[i].target[y];
		if (i % 65536 == 0 && !host->keep_going(host->context))
			return serm_train_canceled(error);
	}
	for (uint32_t y = 0; y < set->grade_count; y++)
		if (mass[y] > GRADE_MASS_MIN) {
			present++;
			last = y;
		}
	if (present < 2)
		return serm_fail(error, SERM_ERR_NO_DATA,
		    "all %zu examples have grade %u: training needs at least two different grades",
		    set->example_count, last);
	return SERM_OK;
}
