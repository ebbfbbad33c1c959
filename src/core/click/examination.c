/*
 * The kinds in which examination and attraction are independent factors: the
 * position-based and the user browsing model, both fitted by pbm.c.
 */
#include <math.h>
#include <string.h>

#include "core/click/pbm.h"

static SermStatus
fit_factors(const SermClickData *data, const SermClickOptions *options, bool by_previous, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	SermPbmOptions settings;
	SermStatus status;
	SermPbm fitted;

	serm_pbm_defaults(&settings);
	settings.alpha_strength = options->strength;
	settings.alpha_mean = isnan(options->mean) ? -1.0 : options->mean;
	settings.tolerance = options->tolerance;
	settings.iterations_max = options->iterations_max;
	settings.by_previous = by_previous;
	status = serm_pbm_fit(data->cells, data->cell_count, data->pair_count, &settings, arena, keep_going,
	    context, &fitted, error);
	if (status != SERM_OK)
		return status;
	model->attractiveness = (double *) fitted.alpha;
	model->examination = (double *) fitted.theta;
	model->position_count = fitted.position_count;
	model->attractiveness_mean = fitted.alpha_mean;
	model->log_likelihood = fitted.log_likelihood;
	model->objective = fitted.objective;
	model->iterations = fitted.iterations;
	model->converged = fitted.converged;
	return SERM_OK;
}

SermStatus
serm_click_fit_pbm(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	return fit_factors(data, options, false, arena, keep_going, context, model, error);
}

SermStatus
serm_click_fit_ubm(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	return fit_factors(data, options, true, arena, keep_going, context, model, error);
}

/* A position or a jump that the log never showed is taken for the nearest one that it did. */
static double
examination_at(const SermClickModel *model, uint32_t position, uint32_t previous)
{
	uint32_t known = position < model->position_count ? position : model->position_count;
	uint32_t above = previous < known ? previous : known - 1;
	double value = model->examination[serm_click_slot(model->kind->by_previous, known, above)];

	for (; value == 0 && above > 0; above--)
		value = model->examination[serm_click_slot(model->kind->by_previous, known, above - 1)];
	return value;
}

/*
 * The marginal sums over the last click above: chance[i] is the probability that
 * the last click so far was result i - 1, or none for i = 0.
 */
void
serm_click_forecast_examination(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast)
{
	double chance[SERM_CLICK_POSITIONS_MAX + 1] = {1.0};
	uint32_t last = 0;

	for (uint32_t i = 0; i < page->result_count; i++) {
		const SermClickResult *result = &page->results[i];
		double attraction = serm_click_attraction(model, result->pair);
		double click = 0;

		forecast->examined[i] = examination_at(model, result->position, last);
		forecast->conditional[i] = forecast->examined[i] * attraction;
		if (!model->kind->by_previous)
			click = forecast->conditional[i];
		for (uint32_t j = 0; model->kind->by_previous && j <= i; j++) {
			uint32_t above = j == 0 ? 0 : page->results[j - 1].position;
			double here = chance[j] * examination_at(model, result->position, above) * attraction;

			click += here;
			chance[j] -= here;
		}
		chance[i + 1] = click;
		forecast->marginal[i] = click;
		if (result->clicked != 0)
			last = result->position;
	}
}
