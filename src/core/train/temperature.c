#include "core/train/temperature.h"

#include <math.h>

#include "core/base/hash.h"
#include "core/train/failure.h"

#define LOG_RANGE 1.1 /* temperatures from 1/3 to 3 */
#define STEPS 24      /* of the golden section: log temperature to 1e-4 */
#define GOLDEN 0.6180339887498949
#define QUERIES_MIN 20
#define EXAMPLES_MIN 200
/* More examples than this tell nothing new about one number. */
#define EXAMPLES_MAX 50000
#define PROBABILITY_MIN 1e-12

typedef struct Held {
	double logits[SERM_HEADS_MAX][SERM_GRADES_MAX]; /* of the heads that did not see the query */
	uint32_t heads;
	uint32_t example;
	uint32_t half;
} Held;

typedef struct Fitting {
	const SermFitProblem *problem;
	const SermReal *weight;
	const SermTrainHost *host;
	const Held *held;
	size_t count;
} Fitting;

/* -sum of target ln P, P being the mean over the heads at this temperature. */
static double
example_loss(const Fitting *fitting, const Held *held, double temperature)
{
	uint32_t grades = fitting->problem->grade_count;
	const SermReal *target = fitting->problem->target + (size_t) held->example * grades;
	double mean[SERM_GRADES_MAX] = {0}, loss = 0;

	for (uint32_t h = 0; h < held->heads; h++) {
		double p[SERM_GRADES_MAX], sum = 0, largest = held->logits[h][0];

		for (uint32_t y = 1; y < grades; y++)
			largest = fmax(largest, held->logits[h][y]);
		for (uint32_t y = 0; y < grades; y++)
			sum += p[y] = exp((held->logits[h][y] - largest) / temperature);
		for (uint32_t y = 0; y < grades; y++)
			mean[y] += p[y] / sum / held->heads;
	}
	for (uint32_t y = 0; y < grades; y++)
		loss -= target[y] * log(fmax(mean[y], PROBABILITY_MIN));
	return loss;
}

/* Mean loss over the examples of the halves in `halves` (bits). */
static SermStatus
mean_loss(const Fitting *fitting, uint32_t halves, double temperature, double *loss, SermError *error)
{
	double sum = 0, mass = 0;

	for (size_t i = 0; i < fitting->count; i++) {
		const Held *held = &fitting->held[i];

		if (i % 1024 == 0 && !fitting->host->keep_going(fitting->host->context))
			return serm_train_canceled(error);
		if ((halves >> held->half & 1) == 0)
			continue;
		sum += fitting->weight[held->example] * example_loss(fitting, held, temperature);
		mass += fitting->weight[held->example];
	}
	*loss = mass > 0 ? sum / mass : 0;
	return SERM_OK;
}

/* Golden section over ln temperature. */
static SermStatus
minimise(const Fitting *fitting, uint32_t halves, double *temperature, SermError *error)
{
	double low = -LOG_RANGE, high = LOG_RANGE, at[2], loss[2];
	SermStatus status = SERM_OK;

	at[0] = high - GOLDEN * (high - low);
	at[1] = low + GOLDEN * (high - low);
	for (int side = 0; status == SERM_OK && side < 2; side++)
		status = mean_loss(fitting, halves, exp(at[side]), &loss[side], error);
	for (int step = 0; status == SERM_OK && step < STEPS; step++) {
		int side = loss[0] < loss[1] ? 0 : 1;

		if (side == 0) {
			high = at[1];
			at[1] = at[0], loss[1] = loss[0];
			at[0] = high - GOLDEN * (high - low);
		} else {
			low = at[0];
			at[0] = at[1], loss[0] = loss[1];
			at[1] = low + GOLDEN * (high - low);
		}
		status = mean_loss(fitting, halves, exp(at[side]), &loss[side], error);
	}
	*temperature = exp((low + high) / 2);
	return status;
}

/* The logits of the heads that left the query of `list` out. */
static void
hold(const SermFitProblem *problem, const SermFit *fit, uint32_t list, uint32_t example, Held *held)
{
	uint32_t grades = problem->grade_count;
	const SermReal *input = problem->input + (size_t) example * problem->input_count;
	SermReal logits[SERM_GRADES_MAX];

	*held = (Held){.example = example, .half = (uint32_t) (serm_hash_mix(problem->list_key[list]) & 1)};
	for (uint32_t h = 0; h < fit->heads.head_count; h++) {
		if (fit->seen[(size_t) h * problem->list_count + list] > 0)
			continue;
		serm_heads_logits(&fit->heads, h, input, logits);
		for (uint32_t y = 0; y < grades; y++)
			held->logits[held->heads][y] = logits[y] + (double) y * problem->guard[example];
		held->heads++;
	}
}

static uint32_t
heads_without(const SermFitProblem *problem, const SermFit *fit, uint32_t list)
{
	uint32_t count = 0;

	for (uint32_t h = 0; h < fit->heads.head_count; h++)
		count += fit->seen[(size_t) h * problem->list_count + list] == 0;
	return count;
}

/* Fills `held` with at most EXAMPLES_MAX examples. */
static SermStatus
hold_examples(const SermFitProblem *problem, const SermFit *fit, const SermTrainHost *host, Held *held,
    size_t *count, uint32_t *queries, SermError *error)
{
	*count = 0;
	*queries = 0;
	for (uint32_t list = 0; list < problem->list_count; list++) {
		uint32_t first = problem->list_start[list], end = problem->list_start[list + 1];

		if (!host->keep_going(host->context))
			return serm_train_canceled(error);
		if (2 * heads_without(problem, fit, list) < fit->heads.head_count)
			continue;
		for (uint32_t i = first; i < end && *count < EXAMPLES_MAX; i++) {
			if (i % 256 == 0 && !host->keep_going(host->context))
				return serm_train_canceled(error);
			hold(problem, fit, list, i, &held[(*count)++]);
		}
		++*queries;
	}
	return SERM_OK;
}

/* Each half at the temperature of the other, against 1. */
static SermStatus
cross_fit(const Fitting *fitting, double *gain, SermError *error)
{
	double before, after = 0, mass[2] = {0};
	SermStatus status = mean_loss(fitting, 3, 1, &before, error);

	for (size_t i = 0; i < fitting->count; i++)
		mass[fitting->held[i].half] += fitting->weight[fitting->held[i].example];
	for (uint32_t half = 0; status == SERM_OK && half < 2; half++) {
		double other, loss;

		status = minimise(fitting, 2u >> half, &other, error);
		if (status == SERM_OK)
			status = mean_loss(fitting, 1u << half, other, &loss, error);
		if (status == SERM_OK)
			after += loss * mass[half] / (mass[0] + mass[1]);
	}
	*gain = before - after;
	return status;
}

/* The best temperature, kept only if it helps across the halves, and only where there is enough to see that.
 */
static SermStatus
choose(const Fitting *fitting, SermTemperature *temperature, SermError *error)
{
	double best = 1;
	SermStatus status;

	if (temperature->query_count < QUERIES_MIN || fitting->count < EXAMPLES_MIN)
		return SERM_OK;
	status = cross_fit(fitting, &temperature->gain, error);
	if (status == SERM_OK)
		status = minimise(fitting, 3, &best, error);
	if (temperature->gain > 0)
		temperature->value = (float) best;
	return status;
}

SermStatus
serm_temperature_fit(const SermFitProblem *problem, const SermReal *weight, const SermFit *fit,
    const SermTrainHost *host, SermArena *arena, SermTemperature *temperature, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	size_t room = problem->example_count < EXAMPLES_MAX ? problem->example_count : EXAMPLES_MAX;
	Held *held = serm_arena_array(arena, room, sizeof(*held));
	Fitting fitting = {problem, weight, host, held, 0};
	SermStatus status;

	if (held == NULL)
		return serm_train_out_of_memory(error);
	*temperature = (SermTemperature){.value = 1};
	status = hold_examples(problem, fit, host, held, &fitting.count, &temperature->query_count, error);
	if (status == SERM_OK)
		status = choose(&fitting, temperature, error);
	serm_arena_rewind(arena, mark);
	return status;
}

SermStatus
serm_temperature_fit_logits(const SermTemperatureSet *set, const SermTrainHost *host, SermArena *arena,
    SermTemperature *temperature, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	size_t count = set->count < EXAMPLES_MAX ? set->count : EXAMPLES_MAX;
	Held *held = serm_arena_array(arena, count, sizeof(*held));
	const SermFitProblem problem = {.grade_count = set->grade_count, .target = set->target};
	const Fitting fitting = {&problem, set->weight, host, held, count};
	SermStatus status;

	if (held == NULL)
		return serm_train_out_of_memory(error);
	for (size_t i = 0; i < count; i++) {
		held[i] = (Held){.heads = 1, .example = (uint32_t) i, .half = set->half[i]};
		for (uint32_t y = 0; y < set->grade_count; y++)
			held[i].logits[0][y] = set->logits[i * set->grade_count + y];
	}
	*temperature = (SermTemperature){.value = 1, .query_count = set->query_count};
	status = choose(&fitting, temperature, error);
	serm_arena_rewind(arena, mark);
	return status;
}
