/*
 * Clicks over expected clicks (Zhang and Jones 2007): the clicks of a pair over
 * those that its positions bring on average. No model of the user: it corrects
 * for position as far as documents do not differ between positions.
 */
#include "core/click/click.h"

#include <math.h>

SermStatus
serm_click_fit_coec(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	double *rate = serm_arena_array(arena, model->position_count, sizeof(double));
	double *expected = serm_arena_array(arena, data->pair_count, sizeof(double));
	double shown[SERM_CLICK_POSITIONS_MAX] = {0}, top = 0;

	model->attractiveness = serm_arena_array(arena, data->pair_count, sizeof(double));
	if (rate == NULL || expected == NULL || model->attractiveness == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for a click model of %u pairs", data->pair_count);
	if (keep_going != NULL && !keep_going(context))
		return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	for (size_t i = 0; i < data->cell_count; i++) {
		shown[data->cells[i].position - 1] += data->cells[i].shown;
		rate[data->cells[i].position - 1] += data->cells[i].clicked;
	}
	for (uint32_t k = 0; k < model->position_count; k++) {
		rate[k] = shown[k] > 0 ? rate[k] / shown[k] : 0;
		top = fmax(top, rate[k]);
	}
	for (size_t i = 0; i < data->cell_count; i++) {
		expected[data->cells[i].pair] += data->cells[i].shown * rate[data->cells[i].position - 1];
		model->attractiveness[data->cells[i].pair] += data->cells[i].clicked;
	}
	for (uint32_t p = 0; p < data->pair_count; p++) {
		double weight = expected[p] + options->strength;

		model->attractiveness[p] = weight > 0 ? (model->attractiveness[p] + options->strength) / weight : 1.0;
	}
	/* Examination relative to the best position; the mean keeps the scale: click = examination mean ratio. */
	for (uint32_t k = 0; k < model->position_count; k++)
		rate[k] = top > 0 ? rate[k] / top : 0;
	model->examination = rate;
	model->attractiveness_mean = top;
	model->converged = true;
	return SERM_OK;
}

void
serm_click_forecast_coec(const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast)
{
	for (uint32_t i = 0; i < page->result_count; i++) {
		const SermClickResult *result = &page->results[i];
		uint32_t k =
		    (result->position < model->position_count ? result->position : model->position_count) - 1;
		double ratio = result->pair == SERM_CLICK_UNKNOWN ? 1.0 : model->attractiveness[result->pair];

		forecast->examined[i] = model->examination[k];
		forecast->conditional[i] = forecast->marginal[i] =
		    model->examination[k] * model->attractiveness_mean * ratio;
	}
}
