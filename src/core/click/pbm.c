/*
 * EM for the position-based model (Richardson et al. 2007; Chuklin, Markov and
 * de Rijke 2015, section 4.1) with Beta priors, so what EM climbs is the
 * log-likelihood plus the log of the priors. A prior of strength s and mean m
 * is Beta(1 + s m, 1 + s (1 - m)): s pseudo-impressions and no pull at s = 0.
 *
 * In the logarithms of alpha and theta this objective is concave: a click adds their
 * sum, a skip log(1 - exp(sum)). So EM has one end, wherever it begins.
 *
 * EM alone creeps when clicks are rare: whether an unclicked result was examined is
 * then nearly all missing. So for given thetas each alpha is brought to its end at
 * once, by Newton's method on one number. For the thetas the sums of the E step are
 * the gradient; where to go from it is told by the curvature of each and by the last
 * steps (ascent.h).
 */
#include "core/click/pbm.h"

#include <math.h>
#include <string.h>

#include "core/click/ascent.h"

/* Of Newton's method for one alpha; from the alpha before one or two do. */
#define ROUNDS_MAX 100
#define ALPHA_TOLERANCE 1e-9
/* From nearer to 1 a theta could hardly come back. */
#define THETA_BEGIN_MAX 0.9
/* No theta changes by more than this factor, e squared, in one step. */
#define STEP_MAX 2.0
/* Nor comes nearer to 1 than by this share of the way, in logarithms. */
#define NEARER_MAX 0.75
/* Of a position by impression: where everything is clicked there is none. */
#define CURVATURE_MIN 1e-6
/* Gains per impression below this are rounding. */
#define GAIN_MIN 1e-16
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
	double *examined;   /* [slot_count] expected examined impressions */
	double *curvature;  /* [slot_count] of the likelihood in the logarithm of theta, negated */
	double *theta_mean; /* [slot_count] of the prior */
	uint64_t *shown;    /* [slot_count] */
	/* Of the climb, in logarithms of theta; [slot_count]. */
	double *theta_from, *gradient, *gradient_from, *scale, *direction, *step;
	SermAscent ascent;
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

/* Check every cell and find the number of positions and of impressions; whether pairs lie together. */
static SermStatus
scan_cells(Fit *fit, uint64_t *impressions, bool *together, SermError *error)
{
	uint32_t last = 0;

	*together = true;
	*impressions = 0;
	fit->first_position = UINT32_MAX;
	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];

		if (cell->pair >= fit->pair_count || cell->position < 1 || cell->position > SERM_PBM_POSITIONS_MAX ||
		    cell->clicked > cell->shown || (cell->previous > 0 && cell->previous >= cell->position))
			return serm_fail(error, SERM_ERR_INVALID,
			    "impression count %zu is out of range: pair %u of %u, position %u, shown %u, clicked %u", i,
			    cell->pair, fit->pair_count, cell->position, cell->shown, cell->clicked);
		*together &= cell->pair >= last;
		last = cell->pair;
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
	double **arrays[] = {&fit->examined, &fit->curvature, &fit->theta_mean, &fit->theta_from, &fit->gradient,
	    &fit->gradient_from, &fit->scale, &fit->direction, &fit->step};
	bool good = serm_ascent_init(&fit->ascent, arena, fit->slot_count);

	for (size_t i = 0; i < SERM_LENGTH(arrays); i++) {
		*arrays[i] = serm_arena_array(arena, fit->slot_count, sizeof(double));
		good &= *arrays[i] != NULL;
	}
	return good ? SERM_OK
	            : serm_fail(
	                  error, SERM_ERR_MEMORY, "no memory for a click model of %u pairs", fit->pair_count);
}

/* A copy of the cells in which those of a pair lie together. */
static SermStatus
sort_cells(Fit *fit, SermArena *arena, SermError *error)
{
	size_t *next = serm_arena_array(arena, (size_t) fit->pair_count + 1, sizeof(size_t));
	SermClickCell *sorted = serm_arena_reserve(arena, fit->cell_count * sizeof(SermClickCell));

	if (next == NULL || sorted == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for %zu counts of impressions", fit->cell_count);
	for (size_t i = 0; i < fit->cell_count; i++)
		next[fit->cells[i].pair + 1]++;
	for (uint32_t p = 0; p < fit->pair_count; p++)
		next[p + 1] += next[p];
	for (size_t i = 0; i < fit->cell_count; i++)
		sorted[next[fit->cells[i].pair]++] = fit->cells[i];
	fit->cells = sorted;
	return SERM_OK;
}

/* Totals per position, the mean of the prior where none is given, and where to begin. */
static void
begin(Fit *fit)
{
	double first_clicked = 0;

	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];
		uint32_t slot = slot_of(fit, cell);

		fit->shown[slot] += cell->shown;
		if (slot == fit->first)
			first_clicked += cell->clicked;
	}
	if (fit->alpha_mean < 0)
		fit->alpha_mean = (first_clicked + 1.0) / ((double) fit->shown[fit->first] + 2.0);
	fill_theta_means(fit);
	for (uint32_t k = 0; k < fit->slot_count; k++)
		fit->theta[k] = fit->shown[k] > 0 ? clamp(fmin(fit->theta_mean[k], THETA_BEGIN_MAX)) : 0;
	fit->theta[fit->first] = 1.0;
	for (uint32_t p = 0; p < fit->pair_count; p++)
		fit->alpha[p] = fit->alpha_mean;
}

/* Where clicks are rare they are Poisson with mean shown * theta * alpha, and this is the end already. */
static double
first_alpha(const Fit *fit, const SermClickCell *cells, size_t count, double clicks)
{
	double expected = fit->alpha_strength;

	for (size_t i = 0; i < count; i++)
		expected += cells[i].shown * fit->theta[slot_of(fit, &cells[i])];
	return clamp(clicks / expected);
}

/*
 * The alpha of one pair at which the objective is highest for the present thetas: the root of clicks less
 * sum of skipped * theta alpha / (1 - theta alpha), the prior counted in. That falls ever faster in alpha,
 * so Newton's method comes from the right after at most one step and never passes it.
 */
static double
best_alpha(const Fit *fit, const SermClickCell *cells, size_t count, double alpha, bool begins)
{
	double clicks = fit->alpha_strength * fit->alpha_mean;
	double prior = fit->alpha_strength * (1.0 - fit->alpha_mean);
	bool shown = false;

	for (size_t i = 0; i < count; i++) {
		clicks += cells[i].clicked;
		shown |= cells[i].shown > 0;
	}
	if (!shown)
		return fit->alpha_mean;
	if (!(clicks > 0))
		return PROBABILITY_MIN;
	if (begins)
		alpha = first_alpha(fit, cells, count, clicks);
	for (int round = 0; round < ROUNDS_MAX; round++) {
		double odds = alpha / (1.0 - alpha), found = prior * odds, slope = found / (1.0 - alpha), next;

		for (size_t i = 0; i < count; i++) {
			double click = fit->theta[slot_of(fit, &cells[i])] * alpha;
			double inverse = 1.0 / (1.0 - click);
			double skips = (double) (cells[i].shown - cells[i].clicked) * click * inverse;

			found += skips;
			slope += skips * inverse;
		}
		if (!(slope > 0))
			return PROBABILITY_MAX;
		next = alpha + alpha * (clicks - found) / slope;
		if (next >= 1.0)
			next = 0.5 * (alpha + 1.0);
		next = clamp(next);
		if (fabs(next - alpha) <= ALPHA_TOLERANCE * alpha)
			return next;
		alpha = next;
	}
	return alpha;
}

/* One pass over all cells: the alphas for the present thetas, and what they make of the positions. */
static bool
expect(Fit *fit, bool begins)
{
	size_t check_at = 0;

	memset(fit->examined, 0, fit->slot_count * sizeof(double));
	memset(fit->curvature, 0, fit->slot_count * sizeof(double));
	for (size_t from = 0, to; from < fit->cell_count; from = to) {
		uint32_t pair = fit->cells[from].pair;
		double alpha;

		if (from >= check_at) {
			check_at = from + CELLS_PER_CHECK;
			if (fit->keep_going != NULL && !fit->keep_going(fit->context))
				return false;
		}

		for (to = from + 1; to < fit->cell_count && fit->cells[to].pair == pair; to++)
			;
		alpha = fit->alpha[pair] = best_alpha(fit, &fit->cells[from], to - from, fit->alpha[pair], begins);
		for (size_t i = from; i < to; i++) {
			const SermClickCell *cell = &fit->cells[i];
			uint32_t k = slot_of(fit, cell);
			double theta = fit->theta[k], inverse = 1.0 / (1.0 - theta * alpha);
			double skips = (double) (cell->shown - cell->clicked) * theta * inverse;

			/* A click was examined; a skip was with the posterior probability. */
			fit->examined[k] += cell->clicked + skips * (1.0 - alpha);
			fit->curvature[k] += skips * alpha * inverse;
		}
	}
	return true;
}

/* log of Beta(1 + s m, 1 + s (1 - m)) without its constant. */
static double
log_prior(double probability, double mean, double strength)
{
	return strength > 0 ? strength * (mean * log(probability) + (1.0 - mean) * log1p(-probability)) : 0;
}

/* The likelihood of the present parameters, and the objective. */
static bool
measure(const Fit *fit, SermPbm *model)
{
	double total = 0;

	for (size_t i = 0; i < fit->cell_count; i++) {
		const SermClickCell *cell = &fit->cells[i];
		double click = fit->alpha[cell->pair] * fit->theta[slot_of(fit, cell)];

		if (cell->clicked > 0)
			total += cell->clicked * log(click);
		if (cell->shown > cell->clicked)
			total += (double) (cell->shown - cell->clicked) * log1p(-click);
		if (!may_go_on(fit, i))
			return false;
	}
	model->log_likelihood = total;
	for (uint32_t p = 0; p < fit->pair_count; p++)
		total += log_prior(fit->alpha[p], fit->alpha_mean, fit->alpha_strength);
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (is_free(fit, k))
			total += log_prior(fit->theta[k], fit->theta_mean[k], fit->theta_strength);
	model->objective = total;
	return true;
}

/*
 * What the pass says of the thetas, in their logarithms: the gradient, which is the step of EM in a scale,
 * and the scale in which it is the step of Newton for each theta alone.
 */
static void
differentiate(Fit *fit)
{
	for (uint32_t k = 0; k < fit->slot_count; k++) {
		double theta = fit->theta[k], mean = fit->theta_mean[k];
		double weight = (double) fit->shown[k] + fit->theta_strength, curvature;

		fit->gradient[k] = fit->scale[k] = 0;
		if (!is_free(fit, k))
			continue;
		fit->gradient[k] = (fit->examined[k] + fit->theta_strength * mean - weight * theta) / (1.0 - theta);
		curvature =
		    fit->curvature[k] + fit->theta_strength * (1.0 - mean) * theta / ((1.0 - theta) * (1.0 - theta));
		fit->scale[k] = 1.0 / fmax(curvature, CURVATURE_MIN * weight);
	}
}

/* The direction to climb in, kept where thetas are probabilities. Returns the gain that it promises at most.
 */
static double
aim(Fit *fit)
{
	double gain;

	for (int attempt = 0;; attempt++) {
		serm_ascent_direction(&fit->ascent, fit->gradient, fit->scale, fit->direction);
		for (uint32_t k = 0; k < fit->slot_count; k++)
			if (is_free(fit, k))
				fit->direction[k] = fmax(
				    fmin(fmin(fit->direction[k], STEP_MAX), -NEARER_MAX * log(fit->theta[k])), -STEP_MAX);
		gain = serm_ascent_product(fit->gradient, fit->direction, fit->slot_count);
		if (gain > 0 || attempt > 0)
			return gain;
		serm_ascent_forget(&fit->ascent);
	}
}

/* Go a part of the direction from where the thetas were. */
static void
go(Fit *fit, double part)
{
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (is_free(fit, k)) {
			fit->step[k] = part * fit->direction[k];
			fit->theta[k] = clamp(fit->theta_from[k] * exp(fit->step[k]));
		}
}

/* Remember where the step led from, take it, and look again; `rises` where it may stay. */
static SermStatus
advance(Fit *fit, double gain, double part, bool *rises, SermError *error)
{
	double after;

	go(fit, part);
	if (!expect(fit, false))
		return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	differentiate(fit);
	after = serm_ascent_product(fit->gradient, fit->direction, fit->slot_count);
	/* Along a line the slope of a concave function falls: while it ends less steep than it began, the step
	 * went past the top no further than it came from below, as near as a parabola tells. */
	*rises = after >= -gain;
	return SERM_OK;
}

static void
remember(Fit *fit)
{
	for (uint32_t k = 0; k < fit->slot_count; k++)
		fit->gradient_from[k] -= fit->gradient[k];
	serm_ascent_learn(&fit->ascent, fit->step, fit->gradient_from);
}

/* Cut short: the step of EM from the last place that is sure, which never falls. */
static SermStatus
finish(Fit *fit, bool sure, SermError *error)
{
	if (!sure) {
		memcpy(fit->theta, fit->theta_from, fit->slot_count * sizeof(double));
		if (!expect(fit, false))
			return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	}
	for (uint32_t k = 0; k < fit->slot_count; k++)
		if (is_free(fit, k))
			fit->theta[k] = clamp((fit->examined[k] + fit->theta_strength * fit->theta_mean[k]) /
			                      ((double) fit->shown[k] + fit->theta_strength));
	return SERM_OK;
}

static SermStatus
climb(Fit *fit, const SermPbmOptions *options, SermPbm *model, SermError *error)
{
	double rounding = GAIN_MIN * (double) model->impressions;
	double least = fmax(options->tolerance * (double) model->impressions, rounding);
	SermStatus status = SERM_OK;
	bool rises = true;

	if (!expect(fit, true))
		return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	differentiate(fit);
	for (model->iterations = 1; status == SERM_OK && rises;) {
		double gain = aim(fit), part = 1.0;

		/* A first step may promise little because EM creeps; the next ones know how far it would go. */
		model->converged = gain <= (fit->ascent.stored > 0 ? least : rounding);
		if (model->converged || model->iterations >= options->iterations_max)
			break;
		memcpy(fit->theta_from, fit->theta, fit->slot_count * sizeof(double));
		memcpy(fit->gradient_from, fit->gradient, fit->slot_count * sizeof(double));
		rises = false;
		for (; status == SERM_OK && !rises && model->iterations < options->iterations_max; part *= 0.5) {
			status = advance(fit, gain, part, &rises, error);
			model->iterations++;
		}
		if (rises)
			remember(fit);
	}
	return status == SERM_OK && !model->converged ? finish(fit, rises, error) : status;
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
	bool together;

	memset(model, 0, sizeof(*model));
	if (status == SERM_OK)
		status = scan_cells(&fit, &model->impressions, &together, error);
	if (status == SERM_OK)
		status = allocate(&fit, arena, error);
	if (status != SERM_OK)
		return status;

	mark = serm_arena_mark(arena);
	status = allocate_scratch(&fit, arena, error);
	if (status == SERM_OK && !together)
		status = sort_cells(&fit, arena, error);
	if (status == SERM_OK) {
		begin(&fit);
		status = climb(&fit, options, model, error);
	}
	if (status == SERM_OK && !measure(&fit, model))
		status = serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	serm_arena_rewind(arena, mark);

	model->alpha = fit.alpha;
	model->theta = fit.theta;
	model->shown = fit.shown;
	model->slot_count = fit.slot_count;
	model->position_count = fit.position_count;
	model->alpha_mean = fit.alpha_mean;
	return status;
}
