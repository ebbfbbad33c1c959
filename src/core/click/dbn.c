/*
 * The dynamic Bayesian network model (Chapelle and Zhang 2009): users look from
 * the top; an examined result attracts with probability a, a clicked one
 * satisfies with probability s and ends the search, and without satisfaction the
 * user goes on with probability g.
 *
 * Down to the last click everything was examined, so EM has to weigh only what
 * is below it. With T(j) the probability that nothing is clicked from an examined
 * result j on,
 *   T(j) = (1 - a_j) ((1 - g) + g T(j + 1)),
 * the page ends after its last click with weight s + (1 - s)(1 - g) and goes on
 * unseen with (1 - s) g T. Priors are Beta, as in pbm.c.
 *
 * sdbn is the simplification of the same paper: g = 1, and results below the last
 * click are not counted.
 */
#include "core/click/click.h"

#include <math.h>
#include <string.h>

#define CONTINUATION_START 0.9
/* Pseudo-transitions of the prior of g, with the start as mean. */
#define CONTINUATION_STRENGTH 2.0
#define PROBABILITY_MAX (1.0 - 1e-9)
#define PROBABILITY_MIN 1e-12
/* Pages between two calls of keep_going: about 2 ms. */
#define PAGES_PER_CHECK 16384

typedef struct Fit {
	const SermClickData *data;
	double strength;
	double *attraction; /* [pair_count] */
	double *satisfied;  /* [pair_count] */
	double continuation;
	double attraction_mean;
	double satisfied_mean;
	/* What the part of the pages down to the last click says once and for all: [pair_count]. */
	double *clicked;
	double *examined;
	double *unsatisfied; /* clicks that were not the last */
	double went_on;
	/* Sums of an iteration. */
	double *below;        /* [pair_count] expected examinations below the last click */
	double *ended;        /* [pair_count] expected satisfied clicks */
	double *ended_weight; /* [pair_count] clicks that say something about satisfaction */
	double below_on, below_ways;
	SermKeepGoing keep_going;
	void *context;
} Fit;

static double
clamp(double probability)
{
	return fmin(fmax(probability, PROBABILITY_MIN), PROBABILITY_MAX);
}

/* Index of the last click, -1 without one. */
static int
last_click(const SermClickPage *page)
{
	for (int i = (int) page->result_count - 1; i >= 0; i--)
		if (page->results[i].clicked != 0)
			return i;
	return -1;
}

static SermStatus
allocate(Fit *fit, SermArena *arena, SermError *error)
{
	double **arrays[] = {&fit->attraction, &fit->satisfied, &fit->clicked, &fit->examined, &fit->unsatisfied,
	    &fit->below, &fit->ended, &fit->ended_weight};

	for (size_t i = 0; i < SERM_LENGTH(arrays); i++) {
		*arrays[i] = serm_arena_array(arena, fit->data->pair_count, sizeof(double));
		if (*arrays[i] == NULL)
			return serm_fail(
			    error, SERM_ERR_MEMORY, "no memory for a click model of %u pairs", fit->data->pair_count);
	}
	return SERM_OK;
}

/* Counts of what needs no EM. `all`: a page without a click was read to its end, as sdbn has it. */
static bool
count_heads(Fit *fit, bool all, double *last_clicks)
{
	*last_clicks = 0;
	for (size_t i = 0; i < fit->data->page_count; i++) {
		const SermClickPage *page = &fit->data->pages[i];
		int last = last_click(page);
		int end = last < 0 && all ? (int) page->result_count - 1 : last;

		for (int k = 0; k <= end; k++) {
			const SermClickResult *result = &page->results[k];

			fit->examined[result->pair] += page->count;
			if (result->clicked != 0)
				fit->clicked[result->pair] += page->count;
			if (result->clicked != 0 && k < last)
				fit->unsatisfied[result->pair] += page->count;
		}
		if (last >= 0)
			*last_clicks += page->count;
		if (last > 0)
			fit->went_on += (double) last * page->count;
		if (i % PAGES_PER_CHECK == 0 && fit->keep_going != NULL && !fit->keep_going(fit->context))
			return false;
	}
	return true;
}

/* The estimates of sdbn, which also start EM. */
static bool
start(Fit *fit, const SermClickOptions *options)
{
	double clicks = 0, examined = 0, last_clicks;

	if (!count_heads(fit, true, &last_clicks))
		return false;
	for (uint32_t p = 0; p < fit->data->pair_count; p++) {
		clicks += fit->clicked[p];
		examined += fit->examined[p];
	}
	fit->attraction_mean = isnan(options->mean) ? (clicks + 1.0) / (examined + 2.0) : options->mean;
	fit->satisfied_mean = (last_clicks + 1.0) / (clicks + 2.0);
	for (uint32_t p = 0; p < fit->data->pair_count; p++) {
		double shown = fit->examined[p] + fit->strength, clicked = fit->clicked[p] + fit->strength;

		fit->attraction[p] = shown > 0
		                         ? clamp((fit->clicked[p] + fit->strength * fit->attraction_mean) / shown)
		                         : fit->attraction_mean;
		fit->satisfied[p] =
		    clicked > 0
		        ? clamp(
		              (fit->clicked[p] - fit->unsatisfied[p] + fit->strength * fit->satisfied_mean) / clicked)
		        : fit->satisfied_mean;
	}
	return true;
}

/* What is below the last click: expectations, and the log of its probability. */
static double
expect_tail(Fit *fit, const SermClickPage *page, int last)
{
	const SermClickResult *results = page->results;
	int n = (int) page->result_count;
	double silent[SERM_CLICK_POSITIONS_MAX + 1]; /* T(j) */
	double g = fit->continuation, count = page->count, reached = 1.0, total;

	if (last == n - 1)
		return 0;
	silent[n] = 0;
	for (int j = n - 1; j > last; j--)
		silent[j] =
		    (1.0 - fit->attraction[results[j].pair]) * (j == n - 1 ? 1.0 : (1.0 - g) + g * silent[j + 1]);
	total = silent[last + 1];
	if (last >= 0) {
		uint32_t pair = results[last].pair;
		double s = fit->satisfied[pair], stay = (1.0 - s) * ((1.0 - g) + g * silent[last + 1]);

		total = s + stay;
		reached = (1.0 - s) * g * silent[last + 1] / total;
		fit->ended[pair] += count * s / total;
		fit->ended_weight[pair] += count;
		fit->below_ways += count * stay / total;
		fit->below_on += count * reached;
	}
	for (int j = last + 1; j < n; j++) {
		fit->below[results[j].pair] += count * reached;
		if (j < n - 1) {
			double on = g * silent[j + 1] / ((1.0 - g) + g * silent[j + 1]);

			fit->below_ways += count * reached;
			reached *= on;
			fit->below_on += count * reached;
		}
	}
	return count * log(total);
}

/* The log of what the part down to the last click says. */
static double
head_likelihood(const Fit *fit)
{
	double total = 0;

	for (uint32_t p = 0; p < fit->data->pair_count; p++) {
		double skipped = fit->examined[p] - fit->clicked[p];

		if (fit->clicked[p] > 0)
			total += fit->clicked[p] * log(fit->attraction[p]);
		if (skipped > 0)
			total += skipped * log1p(-fit->attraction[p]);
		if (fit->unsatisfied[p] > 0)
			total += fit->unsatisfied[p] * log1p(-fit->satisfied[p]);
	}
	return total + fit->went_on * log(fit->continuation);
}

static double
log_prior(double probability, double mean, double strength)
{
	return strength > 0 ? strength * (mean * log(probability) + (1.0 - mean) * log1p(-probability)) : 0;
}

static double
log_priors(const Fit *fit)
{
	double total = log_prior(fit->continuation, CONTINUATION_START, CONTINUATION_STRENGTH);

	for (uint32_t p = 0; p < fit->data->pair_count; p++)
		total += log_prior(fit->attraction[p], fit->attraction_mean, fit->strength) +
		         log_prior(fit->satisfied[p], fit->satisfied_mean, fit->strength);
	return total;
}

static bool
expect(Fit *fit, double *log_likelihood)
{
	size_t size = fit->data->pair_count * sizeof(double);
	double total = head_likelihood(fit);

	memset(fit->below, 0, size);
	memset(fit->ended, 0, size);
	memset(fit->ended_weight, 0, size);
	fit->below_on = fit->below_ways = 0;
	for (size_t i = 0; i < fit->data->page_count; i++) {
		total += expect_tail(fit, &fit->data->pages[i], last_click(&fit->data->pages[i]));
		if (i % PAGES_PER_CHECK == 0 && fit->keep_going != NULL && !fit->keep_going(fit->context))
			return false;
	}
	*log_likelihood = total;
	return true;
}

static void
maximise(Fit *fit)
{
	for (uint32_t p = 0; p < fit->data->pair_count; p++) {
		double shown = fit->examined[p] + fit->below[p] + fit->strength;
		double ends = fit->unsatisfied[p] + fit->ended_weight[p] + fit->strength;

		if (shown > 0)
			fit->attraction[p] = clamp((fit->clicked[p] + fit->strength * fit->attraction_mean) / shown);
		if (ends > 0)
			fit->satisfied[p] = clamp((fit->ended[p] + fit->strength * fit->satisfied_mean) / ends);
	}
	fit->continuation = clamp((fit->went_on + fit->below_on + CONTINUATION_STRENGTH * CONTINUATION_START) /
	                          (fit->went_on + fit->below_ways + CONTINUATION_STRENGTH));
}

static SermStatus
climb(Fit *fit, const SermClickOptions *options, SermClickModel *model, SermError *error)
{
	double previous = -INFINITY;

	for (;;) {
		if (!expect(fit, &model->log_likelihood))
			return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
		model->objective = model->log_likelihood + log_priors(fit);
		model->converged = model->objective - previous <= options->tolerance * (double) model->impressions;
		if (model->converged || model->iterations == options->iterations_max)
			return SERM_OK;
		previous = model->objective;
		maximise(fit);
		model->iterations++;
	}
}

static SermStatus
fit_network(const SermClickData *data, const SermClickOptions *options, bool simplified, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	Fit fit = {.data = data,
	    .strength = options->strength,
	    .continuation = simplified ? 1.0 : CONTINUATION_START,
	    .keep_going = keep_going,
	    .context = context};
	SermStatus status = allocate(&fit, arena, error);
	size_t size = data->pair_count * sizeof(double);
	double last_clicks;

	if (status == SERM_OK && !start(&fit, options))
		status = serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	if (status == SERM_OK && !simplified) {
		/* Now a page without a click is one whose reading has to be weighed. */
		memset(fit.clicked, 0, size);
		memset(fit.examined, 0, size);
		memset(fit.unsatisfied, 0, size);
		fit.went_on = 0;
		if (count_heads(&fit, false, &last_clicks))
			status = climb(&fit, options, model, error);
		else
			status = serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	}
	model->converged |= simplified;
	model->attractiveness = fit.attraction;
	model->satisfaction = fit.satisfied;
	model->continuation = fit.continuation;
	model->attractiveness_mean = fit.attraction_mean;
	model->satisfaction_mean = fit.satisfied_mean;
	return status;
}

SermStatus
serm_click_fit_dbn(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	return fit_network(data, options, false, arena, keep_going, context, model, error);
}

SermStatus
serm_click_fit_sdbn(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	return fit_network(data, options, true, arena, keep_going, context, model, error);
}

void
serm_click_forecast_dbn(const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast)
{
	double g = model->continuation, reached = 1.0, known = 1.0;

	for (uint32_t i = 0; i < page->result_count; i++) {
		uint32_t pair = page->results[i].pair;
		double a = serm_click_attraction(model, pair);
		double s = pair == SERM_CLICK_UNKNOWN ? model->satisfaction_mean : model->satisfaction[pair];

		forecast->examined[i] = known;
		forecast->conditional[i] = known * a;
		forecast->marginal[i] = reached * a;
		reached *= g * (1.0 - a * s);
		known = page->results[i].clicked != 0 ? g * (1.0 - s) : g * known * (1.0 - a) / (1.0 - known * a);
	}
}
