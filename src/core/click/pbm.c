/*
 * EM for the position-based model (Richardson et al. 2007; Chuklin, Markov and
 * de Rijke 2015, section 4.1) with Beta priors, so what EM climbs is the
 * log-likelihood plus the log of the priors. A prior of strength s and mean m
 * is Beta(1 + s m, 1 + s (1 - m)): s pseudo-impressions and no pull at s = 0.
 *
 * EM alone creeps when clicks are rare: whether an unclicked result was
 * examined is then nearly all missing. It starts from the fixed point of the
 * rare-click limit instead, where clicks are Poisson with mean shown * theta *
 * alpha and alternating the two ratios converges in a few rounds.
 */
#include "core/click/pbm.h"

#include <math.h>
#include <string.h>

#define WARM_ROUNDS 8
/* Iterations between two looks at the objective: its logarithms cost more than the iteration. */
#define LOOK_EVERY 10
/* Keeps log(1 - theta alpha) finite; far under what counts can resolve. */
#define PROBABILITY_MAX (1.0 - 1e-9)
#define PROBABILITY_MIN 1e-12
/* Cells between two calls of keep_going: about 2 ms. */
#define CELLS_PER_CHECK 65536

typedef struct Fit {
	const SermClickCell *cells;
	size_t cell_count;
	uint32_t pair_count;
	bool by_previous;
	uint32_t position_count;
	uint32_t slot_count;
	uint32_t first_position; /* the first one seen without a click above */
	uint32_t first;          /* its slot: theta is 1 there */
	double alpha_mean;
	double alpha_strength;
	double theta_strength;
	double *alpha;
	double *theta;
	double *attracted;  /* [pair_count] sums of an iteration: expected attractive impressions */
	double *examined;   /* [slot_count] expected examined impressions */
	double *theta_mean; /* [slot_count] of the prior */
	uint64_t *pair_shown;
	uint64_t *shown; /* [slot_count] */
	SermKeepGoing keep_going;
	void *context;
} Fit;

/*
 * The prior of alpha is weak on purpose. Where pages are ranked well, the mean at
 * the first position is not that of the pairs below, and a pull of one impression
 * or more moves theta by .03 to .1 (simulated logs, doc/mining.md); none at all
 * lets pairs shown once or twice distort theta.
 */
void
serm_pbm_defaults(SermPbmOptions *options)
{
	*options = (SermPbmOptions){.alpha_strength = 0.1,
	    .alpha_mean = -1.0,
	    .theta_strength = 2.0,
	    .tolerance = 1e-8,
	    .iterations_max = 500};
}

static bool
may_go_on(const Fit *fit, size_t cell)
{
	return cell % CELLS_PER_CHECK != 0 || fit->keep_going == NULL || fit->keep_going(fit->context);
}

static double
clamp(double probability)
{
	return fmin(fmax(probability, PROBABILITY_MIN), PROBABILITY_MAX);
}

static uint32_t
slot_of(const Fit *fit, const SermClickCell *cell)
{
	return serm_click_slot(fit->by_previous, cell->position, cell->previous);
}

/* The prior of a slot: examination falls with the inverse of the distance from the click above or the top. */
static void
fill_theta_means(Fit *fit)
{
	for (uint32_t position = fit->first_position; position <= fit->position_count; position++) {
		fit->theta_mean[serm_click_slot(fit->by_previous, position, 0)] =
		    1.0 / (1.0 + position - fit->first_position);
		for (uint32_t previous = 1; fit->by_previous && previous < position; previous++)
			fit->theta_mean[serm_click_slot(true, position, previous)] = 1.0 / (position - previous);
	}
	/* Below a click that was above the first position seen without one. */
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (fit->theta_mean[k] == 0)
			fit->theta_mean[k] = 0.5;
}

/* A slot whose theta is estimated. */
static bool
is_free(const Fit *fit, uint32_t slot)
{
	return slot != fit->first && fit->shown[slot] > 0;
}

static SermStatus
check_options(const SermPbmOptions *options, SermError *error)
{
	if (!(options->alpha_strength >= 0) || !isfinite(options->alpha_strength) ||
	    !(options->theta_strength >= 0) || !isfinite(options->theta_strength))
		return serm_fail(error, SERM_ERR_INVALID, "the strength of a prior must be finite and not negative");
	if (!(options->alpha_mean < 1.0) || options->alpha_mean == 0.0)
		return serm_fail(
		    error, SERM_ERR_INVALID, "the mean of the prior of attractiveness must be within (0, 1)");
	if (!(options->tolerance >= 0) || options->iterations_max == 0)
		return serm_fail(
		    error, SERM_ERR_INVALID, "the tolerance must not be negative and one iteration is the least");
	return SERM_OK;
}

/* Check every cell and find the number of positions and of impressions. */
static SermStatus
scan_cells(Fit *fit, uint64_t *impressions, SermError *error)
{
	*impressions = 0;
	fit->first_position = UINT32_MAX;
	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];

		if (cell->pair >= fit->pair_count || cell->position < 1 || cell->position > SERM_PBM_POSITIONS_MAX ||
		    cell->clicked > cell->shown || (cell->previous > 0 && cell->previous >= cell->position))
			return serm_fail(error, SERM_ERR_INVALID,
			    "impression count %zu is out of range: pair %u of %u, position %u, shown %u, clicked %u", i,
			    cell->pair, fit->pair_count, cell->position, cell->shown, cell->clicked);
		*impressions += cell->shown;
		if (cell->position > fit->position_count)
			fit->position_count = cell->position;
		if (cell->shown > 0 && cell->position < fit->first_position &&
		    (!fit->by_previous || cell->previous == 0))
			fit->first_position = cell->position;
		if (!may_go_on(fit, i))
			return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	}
	if (*impressions == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no impressions to fit a click model to");
	if (fit->first_position == UINT32_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "no page begins without a click above");
	fit->first = serm_click_slot(fit->by_previous, fit->first_position, 0);
	fit->slot_count = serm_click_slot(fit->by_previous, fit->position_count + 1, 0);
	return SERM_OK;
}

static SermStatus
allocate(Fit *fit, SermArena *arena, SermError *error)
{
	fit->alpha = serm_arena_array(arena, fit->pair_count, sizeof(double));
	fit->theta = serm_arena_array(arena, fit->slot_count, sizeof(double));
	fit->shown = serm_arena_array(arena, fit->slot_count, sizeof(uint64_t));
	if (fit->alpha == NULL || fit->theta == NULL || fit->shown == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for a click model of %u pairs", fit->pair_count);
	return SERM_OK;
}

static SermStatus
allocate_scratch(Fit *fit, SermArena *arena, SermError *error)
{
	fit->attracted = serm_arena_array(arena, fit->pair_count, sizeof(double));
	fit->examined = serm_arena_array(arena, fit->slot_count, sizeof(double));
	fit->theta_mean = serm_arena_array(arena, fit->slot_count, sizeof(double));
	fit->pair_shown = serm_arena_array(arena, fit->pair_count, sizeof(uint64_t));
	if (fit->attracted == NULL || fit->examined == NULL || fit->theta_mean == NULL || fit->pair_shown == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for a click model of %u pairs", fit->pair_count);
	return SERM_OK;
}

/* Totals per pair and position, and the mean of the prior where none is given. */
static void
count_totals(Fit *fit)
{
	double first_clicked = 0;

	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];

		fit->pair_shown[cell->pair] += cell->shown;
		fit->shown[slot_of(fit, cell)] += cell->shown;
		if (slot_of(fit, cell) == fit->first)
			first_clicked += cell->clicked;
	}
	if (fit->alpha_mean < 0)
		fit->alpha_mean = (first_clicked + 1.0) / ((double) fit->shown[fit->first] + 2.0);
}

/* alpha = clicks / expected clicks at alpha 1, pulled to the prior. */
static bool
warm_alpha(Fit *fit)
{
	double *expected = fit->attracted;

	memset(expected, 0, fit->pair_count * sizeof(double));
	memset(fit->alpha, 0, fit->pair_count * sizeof(double));
	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];

		expected[cell->pair] += cell->shown * fit->theta[slot_of(fit, cell)];
		fit->alpha[cell->pair] += cell->clicked;
		if (!may_go_on(fit, i))
			return false;
	}
	for (uint32_t p = 0; p < fit->pair_count; p++) {
		double weight = expected[p] + fit->alpha_strength;

		fit->alpha[p] = weight > 0 ? clamp((fit->alpha[p] + fit->alpha_strength * fit->alpha_mean) / weight)
		                           : fit->alpha_mean;
	}
	return true;
}

/* theta = clicks / expected clicks at theta 1, kept inside (0, 1): at an end EM could not move it again. */
static bool
warm_theta(Fit *fit)
{
	double *expected = fit->examined;

	memset(expected, 0, fit->slot_count * sizeof(double));
	memset(fit->theta, 0, fit->slot_count * sizeof(double));
	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];

		expected[slot_of(fit, cell)] += cell->shown * fit->alpha[cell->pair];
		fit->theta[slot_of(fit, cell)] += cell->clicked;
		if (!may_go_on(fit, i))
			return false;
	}
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (is_free(fit, k))
			fit->theta[k] = fmin(fmax(fit->theta[k] / expected[k], 1e-3), 0.999);
	fit->theta[fit->first] = 1.0;
	return true;
}

static bool
warm_start(Fit *fit)
{
	count_totals(fit);
	fill_theta_means(fit);
	memcpy(fit->theta, fit->theta_mean, fit->slot_count * sizeof(double));
	for (int round = 0; round < WARM_ROUNDS; round++)
		if (!warm_alpha(fit) || !warm_theta(fit))
			return false;
	return true;
}

/* log of Beta(1 + s m, 1 + s (1 - m)) without its constant. */
static double
log_prior(double probability, double mean, double strength)
{
	return strength > 0 ? strength * (mean * log(probability) + (1.0 - mean) * log1p(-probability)) : 0;
}

/* One E step over all cells: fills the sums; the log-likelihood only where it is wanted. */
static bool
expect(Fit *fit, double *log_likelihood)
{
	double total = 0;

	memset(fit->attracted, 0, fit->pair_count * sizeof(double));
	memset(fit->examined, 0, fit->slot_count * sizeof(double));
	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];
		uint32_t k = slot_of(fit, cell);
		double alpha = fit->alpha[cell->pair];
		double theta = fit->theta[k];
		double click = theta * alpha;
		double skipped = (double) (cell->shown - cell->clicked);
		double per_skip = skipped / (1.0 - click);

		if (log_likelihood != NULL && cell->clicked > 0)
			total += cell->clicked * log(click);
		if (log_likelihood != NULL && skipped > 0)
			total += skipped * log1p(-click);
		/* A click was examined and attractive; a skip was either with the posterior probability. */
		fit->attracted[cell->pair] += cell->clicked + per_skip * alpha * (1.0 - theta);
		fit->examined[k] += cell->clicked + per_skip * theta * (1.0 - alpha);
		if (!may_go_on(fit, i))
			return false;
	}
	if (log_likelihood != NULL)
		*log_likelihood = total;
	return true;
}

static double
log_priors(const Fit *fit)
{
	double total = 0;

	for (uint32_t p = 0; p < fit->pair_count; p++)
		total += log_prior(fit->alpha[p], fit->alpha_mean, fit->alpha_strength);
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (is_free(fit, k))
			total += log_prior(fit->theta[k], fit->theta_mean[k], fit->theta_strength);
	return total;
}

/* The M step: ratios of the sums and the pseudo-counts. */
static void
maximise(Fit *fit)
{
	for (uint32_t p = 0; p < fit->pair_count; p++) {
		double weight = (double) fit->pair_shown[p] + fit->alpha_strength;

		if (weight > 0)
			fit->alpha[p] = clamp((fit->attracted[p] + fit->alpha_strength * fit->alpha_mean) / weight);
	}
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (is_free(fit, k))
			fit->theta[k] = clamp((fit->examined[k] + fit->theta_strength * fit->theta_mean[k]) /
			                      ((double) fit->shown[k] + fit->theta_strength));
}

static SermStatus
climb(Fit *fit, const SermPbmOptions *options, SermPbm *model, SermError *error)
{
	double previous = -INFINITY;

	for (;;) {
		bool look = model->iterations % LOOK_EVERY == 0 || model->iterations == options->iterations_max;

		if (!expect(fit, look ? &model->log_likelihood : NULL))
			return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
		if (look) {
			model->objective = model->log_likelihood + log_priors(fit);
			model->converged =
			    model->objective - previous <= options->tolerance * LOOK_EVERY * (double) model->impressions;
			if (model->converged || model->iterations == options->iterations_max)
				return SERM_OK;
			previous = model->objective;
		}
		maximise(fit);
		model->iterations++;
	}
}

SermStatus
serm_pbm_fit(const SermClickCell *cells, size_t cell_count, uint32_t pair_count,
    const SermPbmOptions *options, SermArena *arena, SermKeepGoing keep_going, void *context, SermPbm *model,
    SermError *error)
{
	Fit fit = {.cells = cells,
	    .cell_count = cell_count,
	    .pair_count = pair_count,
	    .by_previous = options->by_previous,
	    .alpha_mean = options->alpha_mean,
	    .alpha_strength = options->alpha_strength,
	    .theta_strength = options->theta_strength,
	    .keep_going = keep_going,
	    .context = context};
	SermArenaMark mark;
	SermStatus status = check_options(options, error);

	memset(model, 0, sizeof(*model));
	if (status == SERM_OK)
		status = scan_cells(&fit, &model->impressions, error);
	if (status == SERM_OK)
		status = allocate(&fit, arena, error);
	if (status != SERM_OK)
		return status;

	mark = serm_arena_mark(arena);
	status = allocate_scratch(&fit, arena, error);
	if (status == SERM_OK && !warm_start(&fit))
		status = serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	if (status == SERM_OK)
		status = climb(&fit, options, model, error);
	serm_arena_rewind(arena, mark);

	model->alpha = fit.alpha;
	model->theta = fit.theta;
	model->shown = fit.shown;
	model->slot_count = fit.slot_count;
	model->position_count = fit.position_count;
	model->alpha_mean = fit.alpha_mean;
	return status;
}
