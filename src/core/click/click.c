/*
 * The table of click models, and what holds for each of them: the checks of
 * the data, and the measures by which models are compared.
 */
#include "core/click/click.h"

#include <math.h>
#include <string.h>

/* Cells or pages between two calls of keep_going: under 20 ms where pages are long. */
#define COUNTS_PER_CHECK 4096

static const SermClickKind kinds[] = {
    {"pbm", SERM_CLICK_BY_POSITION, 0.1, false, false, serm_click_fit_pbm, serm_click_forecast_examination},
    {"ubm", SERM_CLICK_BY_PREVIOUS, 0.1, false, true, serm_click_fit_ubm, serm_click_forecast_examination},
    {"cascade", SERM_CLICK_BY_PREVIOUS, 1.0, false, false, serm_click_fit_cascade,
        serm_click_forecast_cascade},
    {"dbn", SERM_CLICK_BY_PAGE, 1.0, false, false, serm_click_fit_dbn, serm_click_forecast_dbn},
    {"sdbn", SERM_CLICK_BY_PAGE, 1.0, false, false, serm_click_fit_sdbn, serm_click_forecast_dbn},
    {"coec", SERM_CLICK_BY_POSITION, 1.0, true, false, serm_click_fit_coec, serm_click_forecast_coec},
};

int
serm_click_kind_count(void)
{
	return (int) SERM_LENGTH(kinds);
}

const SermClickKind *
serm_click_kind_at(int index)
{
	return &kinds[index];
}

const SermClickKind *
serm_click_kind(const char *name)
{
	for (size_t i = 0; i < SERM_LENGTH(kinds); i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	return NULL;
}

void
serm_click_defaults(SermClickOptions *options)
{
	*options = (SermClickOptions){
	    .strength = NAN, .mean = NAN, .tolerance = 1e-8, .iterations_max = 500, .clip = 0.05};
}

static SermStatus
check_options(const SermClickOptions *options, SermError *error)
{
	if (!isnan(options->strength) && (!(options->strength >= 0) || !isfinite(options->strength)))
		return serm_fail(error, SERM_ERR_INVALID, "the strength of a prior must be finite and not negative");
	if (!isnan(options->mean) && !(options->mean > 0 && options->mean < 1))
		return serm_fail(
		    error, SERM_ERR_INVALID, "the mean of the prior of attractiveness must be within (0, 1)");
	if (!(options->tolerance >= 0) || options->iterations_max == 0)
		return serm_fail(
		    error, SERM_ERR_INVALID, "the tolerance must not be negative and one iteration is the least");
	return SERM_OK;
}

static SermStatus
check_page(const SermClickPage *page, uint32_t pair_count, SermError *error)
{
	if (page->result_count < 1 || page->result_count > SERM_CLICK_POSITIONS_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "a page has %u results, not 1 to %d", page->result_count,
		    SERM_CLICK_POSITIONS_MAX);
	for (uint32_t i = 0; i < page->result_count; i++) {
		const SermClickResult *result = &page->results[i];

		if (result->pair >= pair_count || result->position < 1 ||
		    result->position > SERM_CLICK_POSITIONS_MAX || result->clicked > 1)
			return serm_fail(error, SERM_ERR_INVALID,
			    "a result is out of range: pair %u of %u, position %u, clicked %u", result->pair, pair_count,
			    result->position, result->clicked);
	}
	return SERM_OK;
}

static SermStatus
check_cell(const SermClickCell *cell, uint32_t pair_count, SermError *error)
{
	if (cell->pair >= pair_count || cell->position < 1 || cell->position > SERM_CLICK_POSITIONS_MAX ||
	    (cell->previous > 0 && cell->previous >= cell->position) || cell->clicked > cell->shown)
		return serm_fail(error, SERM_ERR_INVALID,
		    "a count is out of range: pair %u of %u, position %u after %u, shown %u, clicked %u", cell->pair,
		    pair_count, cell->position, cell->previous, cell->shown, cell->clicked);
	return SERM_OK;
}

/* Check all data once, so that the kinds need not; count impressions and positions. */
static SermStatus
scan(const SermClickData *data, bool by_page, SermClickModel *model, SermError *error)
{
	SermStatus status = SERM_OK;

	for (size_t i = 0; !by_page && i < data->cell_count && status == SERM_OK; i++) {
		const SermClickCell *cell = &data->cells[i];

		status = check_cell(cell, data->pair_count, error);
		model->impressions += cell->shown;
		if (cell->position > model->position_count)
			model->position_count = cell->position;
	}
	for (size_t i = 0; by_page && i < data->page_count && status == SERM_OK; i++) {
		const SermClickPage *page = &data->pages[i];

		status = check_page(page, data->pair_count, error);
		model->impressions += (uint64_t) page->result_count * page->count;
		for (uint32_t k = 0; status == SERM_OK && k < page->result_count; k++)
			if (page->results[k].position > model->position_count)
				model->position_count = page->results[k].position;
	}
	if (status == SERM_OK && model->impressions == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no impressions to fit a click model to");
	return status;
}

static double
bounded(double probability)
{
	return fmin(fmax(probability, SERM_CLICK_PROBABILITY_MIN), 1.0 - SERM_CLICK_PROBABILITY_MIN);
}

/* The forecast of a cell: that of a page of the click above, where there is one, and the result. */
static void
forecast_cell(const SermClickModel *model, const SermClickCell *cell, double *examined, double *conditional)
{
	SermClickResult results[] = {{SERM_CLICK_UNKNOWN, cell->previous, 1}, {cell->pair, cell->position, 0}};
	uint32_t first = cell->previous > 0 ? 0 : 1;
	SermClickPage page = {&results[first], 2 - first, 1};
	SermClickForecast forecast;

	serm_click_forecast(model, &page, &forecast);
	*examined = forecast.examined[1 - first];
	*conditional = forecast.conditional[1 - first];
}

/* Likelihood of a model that is counted, not climbed to; false: canceled. */
static bool
measure(SermClickModel *model, const SermClickData *data, SermKeepGoing keep_going, void *context)
{
	bool by_page = model->kind->input == SERM_CLICK_BY_PAGE;
	size_t count = by_page ? data->page_count : data->cell_count;
	SermClickQuality quality = {0};
	double total = 0;

	for (size_t i = 0; i < count; i++) {
		const SermClickCell *cell;
		double examined, conditional;

		if (i % COUNTS_PER_CHECK == 0 && keep_going != NULL && !keep_going(context))
			return false;
		if (by_page) {
			serm_click_judge(model, &data->pages[i], &quality);
			continue;
		}
		cell = &data->cells[i];
		forecast_cell(model, cell, &examined, &conditional);
		total += cell->clicked * log(conditional) +
		         (double) (cell->shown - cell->clicked) * log(1.0 - conditional);
	}
	for (uint32_t k = 0; k < SERM_CLICK_POSITIONS_MAX; k++)
		total += quality.log_likelihood[k];
	model->objective = model->log_likelihood = total;
	return true;
}

SermStatus
serm_click_fit(const SermClickKind *kind, const SermClickData *data, const SermClickOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermClickModel *model, SermError *error)
{
	SermClickOptions resolved = *options;
	SermStatus status = check_options(options, error);

	*model = (SermClickModel){.kind = kind, .continuation = 1.0};
	if (isnan(resolved.strength))
		resolved.strength = kind->strength;
	if (status == SERM_OK)
		status = scan(data, kind->input == SERM_CLICK_BY_PAGE, model, error);
	if (status == SERM_OK)
		status = kind->fit(data, &resolved, arena, keep_going, context, model, error);
	if (status == SERM_OK && model->iterations == 0 && model->log_likelihood == 0 &&
	    !measure(model, data, keep_going, context))
		status = serm_fail(error, SERM_ERR_CANCELED, "fitting the click model was canceled");
	return status;
}

void
serm_click_forecast(const SermClickModel *model, const SermClickPage *page, SermClickForecast *forecast)
{
	model->kind->forecast(model, page, forecast);
	for (uint32_t i = 0; i < page->result_count; i++) {
		forecast->conditional[i] = bounded(forecast->conditional[i]);
		forecast->marginal[i] = bounded(forecast->marginal[i]);
	}
}

void
serm_click_judge(const SermClickModel *model, const SermClickPage *page, SermClickQuality *quality)
{
	SermClickForecast forecast;
	double count = page->count;

	serm_click_forecast(model, page, &forecast);
	quality->pages += page->count;
	for (uint32_t i = 0; i < page->result_count; i++) {
		const SermClickResult *result = &page->results[i];
		uint32_t k = result->position - 1;
		bool clicked = result->clicked != 0;
		double conditional = forecast.conditional[i], marginal = forecast.marginal[i];

		quality->log_likelihood[k] += count * log(clicked ? conditional : 1.0 - conditional);
		quality->log2_marginal[k] += count * log2(clicked ? marginal : 1.0 - marginal);
		quality->examined[k] += count * forecast.examined[i];
		quality->shown[k] += page->count;
		quality->clicked[k] += clicked ? page->count : 0;
	}
}

static void
add_evidence(SermClickEvidence *evidence, uint32_t pair, uint32_t position, double examined, double clip,
    uint32_t shown, uint32_t clicked)
{
	evidence->examined[pair] += shown * examined;
	evidence->inverse[pair] += clicked / fmax(examined, clip);
	evidence->examined_at[position - 1] += shown * examined;
	evidence->shown_at[position - 1] += shown;
	evidence->clicked_at[position - 1] += clicked;
}

/* Where cells say it all examination is by position and click above: it is asked for once for each. */
static bool
evidence_of_cells(const SermClickModel *model, const SermClickData *data, double clip, SermArena *arena,
    SermClickEvidence *evidence)
{
	SermArenaMark mark = serm_arena_mark(arena);
	double *known =
	    serm_arena_array(arena, serm_click_slot(true, SERM_CLICK_POSITIONS_MAX + 1, 0), sizeof(double));

	if (known == NULL)
		return false;
	for (size_t i = 0; i < data->cell_count; i++) {
		const SermClickCell *cell = &data->cells[i];
		double *examined = &known[serm_click_slot(true, cell->position, cell->previous)], conditional;

		if (*examined == 0)
			forecast_cell(model, cell, examined, &conditional);
		add_evidence(evidence, cell->pair, cell->position, *examined, clip, cell->shown, cell->clicked);
	}
	serm_arena_rewind(arena, mark);
	return true;
}

SermStatus
serm_click_evidence(const SermClickModel *model, const SermClickData *data, double clip, SermArena *arena,
    SermClickEvidence *evidence, SermError *error)
{
	bool by_page = model->kind->input == SERM_CLICK_BY_PAGE;

	*evidence = (SermClickEvidence){.examined = serm_arena_array(arena, data->pair_count, sizeof(double)),
	    .inverse = serm_arena_array(arena, data->pair_count, sizeof(double))};
	if (!(clip > 0 && clip <= 1))
		return serm_fail(error, SERM_ERR_INVALID, "the least examination must be within (0, 1]");
	if (evidence->examined == NULL || evidence->inverse == NULL ||
	    (!by_page && !evidence_of_cells(model, data, clip, arena, evidence)))
		return serm_fail(error, SERM_ERR_MEMORY, "no memory for the evidence of %u pairs", data->pair_count);
	for (size_t i = 0; by_page && i < data->page_count; i++) {
		const SermClickPage *page = &data->pages[i];
		SermClickForecast forecast;

		serm_click_forecast(model, page, &forecast);
		for (uint32_t k = 0; k < page->result_count; k++)
			add_evidence(evidence, page->results[k].pair, page->results[k].position, forecast.examined[k],
			    clip, page->count, page->results[k].clicked ? page->count : 0);
	}
	return SERM_OK;
}
