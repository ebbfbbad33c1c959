/*
 * The cascade model (Craswell et al. 2008): users look from the top and stop at
 * the first click. Everything down to it was examined, so the estimate is a
 * count; what was clicked after it the model cannot explain and does not read.
 */
#include "core/click/click.h"

#include <math.h>

SermStatus
serm_click_fit_cascade(const SermClickData *data, const SermClickOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	double *examined = serm_arena_array(arena, data->pair_count, sizeof(double));
	double all_examined = 0, all_clicked = 0;

	model->attractiveness = serm_arena_array(arena, data->pair_count, sizeof(double));
	if (examined == NULL || model->attractiveness == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for a click model of %u pairs", data->pair_count);
	if (keep_going != NULL && !keep_going(context))
		return serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	for (size_t i = 0; i < data->cell_count; i++) {
		const SermClickCell *cell = &data->cells[i];

		if (cell->previous > 0)
			continue;
		examined[cell->pair] += cell->shown;
		model->attractiveness[cell->pair] += cell->clicked;
		all_examined += cell->shown;
		all_clicked += cell->clicked;
	}
	model->attractiveness_mean =
	    isnan(options->mean) ? (all_clicked + 1.0) / (all_examined + 2.0) : options->mean;
	for (uint32_t p = 0; p < data->pair_count; p++) {
		double weight = examined[p] + options->strength;

		model->attractiveness[p] =
		    weight > 0 ? (model->attractiveness[p] + options->strength * model->attractiveness_mean) / weight
		               : model->attractiveness_mean;
	}
	model->converged = true;
	return SERM_OK;
}

void
serm_click_forecast_cascade(
    const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast)
{
	double reached = 1.0;
	bool clicked = false;

	for (uint32_t i = 0; i < page->result_count; i++) {
		double attraction = serm_click_attraction(model, page->results[i].pair);

		forecast->examined[i] = clicked ? 0.0 : 1.0;
		forecast->conditional[i] = clicked ? 0.0 : attraction;
		forecast->marginal[i] = reached * attraction;
		reached *= 1.0 - attraction;
		clicked |= page->results[i].clicked != 0;
	}
}
