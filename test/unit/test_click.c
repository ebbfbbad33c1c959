#include "core/base/rng.h"
#include "core/click/pbm.h"
#include "unit.h"

#define PAIRS 600
#define POSITIONS 10
#define CELLS (PAIRS * POSITIONS)

static SermClickCell cells[CELLS];
static double planted_alpha[PAIRS];
static double planted_theta[POSITIONS];

/* A log in which good pairs are shown higher, so that the raw click rate misleads. */
static size_t
simulate(uint32_t per_pair, double power, double level)
{
	SermRng rng;
	size_t count = 0;

	serm_rng_seed(&rng, 7);
	for (int k = 0; k < POSITIONS; k++)
		planted_theta[k] = pow(1.0 / (k + 1), power);
	for (uint32_t p = 0; p < PAIRS; p++) {
		uint32_t shown[POSITIONS] = {0}, clicked[POSITIONS] = {0};

		planted_alpha[p] = level * (0.02 + 0.9 * serm_rng_uniform(&rng));
		for (uint32_t i = 0; i < per_pair; i++) {
			uint32_t k = serm_rng_below(&rng, POSITIONS);

			/* Most impressions of the worse half are near the top: bias against the better half. */
			if (p % 2 == 0 && serm_rng_uniform(&rng) < 0.6)
				k /= 3;
			shown[k]++;
			clicked[k] += serm_rng_uniform(&rng) < planted_theta[k] * planted_alpha[p];
		}
		for (uint32_t k = 0; k < POSITIONS; k++)
			if (shown[k] > 0)
				cells[count++] = (SermClickCell){p, k + 1, 0, shown[k], clicked[k]};
	}
	return count;
}

static SermStatus
fit(size_t count, uint32_t pairs, const SermPbmOptions *options, SermArena *arena, SermPbm *model)
{
	SermError error = {0};

	return serm_pbm_fit(cells, count, pairs, options, arena, NULL, NULL, model, &error);
}

static double
correlation(const double *x, const double *y, int n)
{
	double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;

	for (int i = 0; i < n; i++) {
		mx += x[i] / n;
		my += y[i] / n;
	}
	for (int i = 0; i < n; i++) {
		xx += (x[i] - mx) * (x[i] - mx);
		yy += (y[i] - my) * (y[i] - my);
		xy += (x[i] - mx) * (y[i] - my);
	}
	return xy / sqrt(xx * yy);
}

static void
test_recovery(void)
{
	SermArena arena = unit_arena();
	SermPbmOptions options;
	SermPbm model, again;
	double rate[PAIRS], shown[PAIRS] = {0}, clicked[PAIRS] = {0}, worst = 0, square = 0;
	size_t count = simulate(400, 0.7, 1.0);
	double fitted, crude;

	serm_pbm_defaults(&options);
	CHECK(fit(count, PAIRS, &options, &arena, &model) == SERM_OK && model.converged,
	    "a simulated log is fitted");
	printf("# %u iterations, log-likelihood %.3f\n", model.iterations, model.log_likelihood);
	CHECK(model.position_count == POSITIONS && model.theta[0] == 1.0, "the first position has theta 1");
	for (int k = 0; k < POSITIONS; k++)
		worst = fmax(worst, fabs(model.theta[k] - planted_theta[k]));
	CHECK(worst < 0.03, "planted examination is recovered (worst error %.4f)", worst);
	for (size_t i = 0; i < count; i++) {
		shown[cells[i].pair] += cells[i].shown;
		clicked[cells[i].pair] += cells[i].clicked;
	}
	for (int p = 0; p < PAIRS; p++) {
		rate[p] = clicked[p] / shown[p];
		square += pow(model.alpha[p] - planted_alpha[p], 2) / PAIRS;
	}
	CHECK(sqrt(square) < 0.045, "planted attractiveness is recovered (rms error %.4f)", sqrt(square));
	fitted = correlation(model.alpha, planted_alpha, PAIRS);
	crude = correlation(rate, planted_alpha, PAIRS);
	CHECK(fitted > 0.97 && fitted > crude + 0.02, "and beats the raw click rate (%.3f against %.3f)", fitted,
	    crude);

	CHECK(fit(count, PAIRS, &options, &arena, &again) == SERM_OK &&
	          memcmp(model.alpha, again.alpha, sizeof(double) * PAIRS) == 0 &&
	          model.log_likelihood == again.log_likelihood,
	    "the same counts give the same bits");
	serm_arena_free(&arena);
}

static void
test_rare_clicks(void)
{
	SermArena arena = unit_arena();
	SermPbmOptions options;
	SermPbm model;
	double worst = 0;
	size_t count = simulate(20000, 1.0, 0.03);

	serm_pbm_defaults(&options);
	CHECK(fit(count, PAIRS, &options, &arena, &model) == SERM_OK && model.converged,
	    "a log with 1 %% clicks converges (%u iterations)", model.iterations);
	for (int k = 0; k < POSITIONS; k++)
		worst = fmax(worst, fabs(model.theta[k] - planted_theta[k]));
	CHECK(worst < 0.02, "and its examination is recovered (worst error %.4f)", worst);
	serm_arena_free(&arena);
}

static void
test_monotone(void)
{
	SermArena arena = unit_arena();
	SermPbmOptions options;
	SermPbm model;
	size_t count = simulate(60, 0.7, 0.5);
	double previous = -INFINITY, previous_plain = -INFINITY;
	bool climbs = true, climbs_plain = true;

	serm_pbm_defaults(&options);
	options.tolerance = 0;
	for (uint32_t n = 1; n <= 60; n++) {
		SermArenaMark mark = serm_arena_mark(&arena);

		options.iterations_max = n;
		options.alpha_strength = options.theta_strength = 2;
		climbs &= fit(count, PAIRS, &options, &arena, &model) == SERM_OK;
		climbs &= model.objective >= previous - 1e-9 * fabs(previous);
		previous = model.objective;
		options.alpha_strength = options.theta_strength = 0;
		climbs_plain &= fit(count, PAIRS, &options, &arena, &model) == SERM_OK;
		climbs_plain &= model.log_likelihood >= previous_plain - 1e-9 * fabs(previous_plain);
		previous_plain = model.log_likelihood;
		serm_arena_rewind(&arena, mark);
	}
	CHECK(climbs, "each iteration climbs the objective");
	CHECK(climbs_plain, "without priors each iteration climbs the log-likelihood");
	CHECK(model.objective == model.log_likelihood, "and without priors the two are one");
	serm_arena_free(&arena);
}

/* The textbook, one event at a time over a dense table, from another start, run until it stands. */
static double
naive_fit(size_t count, uint32_t pairs, double mean, double strength, double *alpha, double *theta)
{
	double likelihood = 0;

	for (uint32_t p = 0; p < pairs; p++)
		alpha[p] = 0.5;
	for (int k = 0; k < POSITIONS; k++)
		theta[k] = k == 0 ? 1.0 : 0.5;
	for (int iteration = 0; iteration < 5000; iteration++) {
		double attracted[PAIRS] = {0}, weight[PAIRS] = {0}, examined[POSITIONS] = {0}, shown[POSITIONS] = {0};

		likelihood = 0;
		for (size_t i = 0; i < count; i++) {
			uint32_t p = cells[i].pair, k = cells[i].position - 1;

			for (uint32_t event = 0; event < cells[i].shown; event++) {
				bool click = event < cells[i].clicked;
				double a = alpha[p], t = theta[k];

				attracted[p] += click ? 1.0 : a * (1 - t) / (1 - a * t);
				examined[k] += click ? 1.0 : t * (1 - a) / (1 - a * t);
				likelihood += log(click ? a * t : 1 - a * t);
				weight[p]++;
				shown[k]++;
			}
		}
		for (uint32_t p = 0; p < pairs; p++)
			alpha[p] = (attracted[p] + strength * mean) / (weight[p] + strength);
		for (int k = 1; k < POSITIONS; k++)
			theta[k] = (examined[k] + strength / (k + 1)) / (shown[k] + strength);
	}
	return likelihood;
}

static void
test_twin(void)
{
	SermArena arena = unit_arena();
	SermPbmOptions options;
	SermPbm model;
	double alpha[PAIRS], theta[POSITIONS], worst = 0, likelihood;
	size_t count = simulate(30, 0.7, 0.8);

	while (count > 0 && cells[count - 1].pair >= 40)
		count--;
	serm_pbm_defaults(&options);
	options.alpha_mean = 0.3;
	options.alpha_strength = 2;
	options.tolerance = 0;
	options.iterations_max = 5000;
	CHECK(fit(count, 40, &options, &arena, &model) == SERM_OK, "a small log is fitted to the end");
	likelihood = naive_fit(count, 40, 0.3, 2.0, alpha, theta);
	for (int p = 0; p < 40; p++)
		worst = fmax(worst, fabs(model.alpha[p] - alpha[p]));
	for (int k = 0; k < POSITIONS; k++)
		worst = fmax(worst, fabs(model.theta[k] - theta[k]));
	CHECK(worst < 1e-5, "a naive twin from another start ends at the same parameters (%.2e)", worst);
	CHECK_NEAR(model.log_likelihood, likelihood, 1e-4, "and at the same log-likelihood");
	serm_arena_free(&arena);
}

/* What ends early is at the end, takes few passes, and does not depend on the order of the counts. */
static void
test_speed(void)
{
	SermArena arena = unit_arena();
	SermPbmOptions options;
	SermPbm model, exact, turned;
	double gap, worst = 0;
	size_t count = simulate(20000, 0.6, 0.03);

	serm_pbm_defaults(&options);
	CHECK(fit(count, PAIRS, &options, &arena, &model) == SERM_OK && model.converged && model.iterations <= 20,
	    "rare clicks are fitted in few passes (%u)", model.iterations);
	options.tolerance = 0;
	CHECK(fit(count, PAIRS, &options, &arena, &exact) == SERM_OK, "and again to the last digit");
	gap = (exact.objective - model.objective) / (double) model.impressions;
	CHECK(gap < 1e-8, "with no more to gain than the tolerance (%.1e nats per impression)", gap);
	serm_pbm_defaults(&options);
	for (size_t i = 0; i < count / 2; i++) {
		SermClickCell cell = cells[i];

		cells[i] = cells[count - 1 - i];
		cells[count - 1 - i] = cell;
	}
	CHECK(fit(count, PAIRS, &options, &arena, &turned) == SERM_OK, "counts in another order are fitted");
	for (int p = 0; p < PAIRS; p++)
		worst = fmax(worst, fabs(model.alpha[p] - turned.alpha[p]));
	CHECK(worst < 1e-9, "to the same parameters (%.1e apart)", worst);
	serm_arena_free(&arena);
}

static void
test_prior(void)
{
	SermArena arena = unit_arena();
	SermPbmOptions options;
	SermPbm model, free_model;

	cells[0] = (SermClickCell){0, 1, 0, 1000, 200};
	cells[1] = (SermClickCell){1, 1, 0, 1, 1};
	cells[2] = (SermClickCell){2, 1, 0, 10000, 9000};
	serm_pbm_defaults(&options);
	options.alpha_mean = 0.2;
	options.alpha_strength = 4;
	CHECK(fit(3, 4, &options, &arena, &model) == SERM_OK, "a log of one position is fitted");
	CHECK_NEAR(model.alpha[1], (1 + 4 * 0.2) / 5, 1e-9, "a pair shown once is shrunk to the prior");
	CHECK_NEAR(model.alpha[2], 0.9, 1e-3, "a pair shown often is not");
	CHECK_NEAR(model.alpha[3], 0.2, 1e-12, "a pair never shown has the mean of the prior");
	options.alpha_strength = 0;
	CHECK(fit(3, 4, &options, &arena, &free_model) == SERM_OK && free_model.alpha[1] > 0.999 &&
	          free_model.alpha[1] < 1.0,
	    "without a prior one click of one is near certain and stays below 1");
	options.alpha_mean = -1;
	CHECK(fit(3, 4, &options, &arena, &model) == SERM_OK, "the mean of the prior may be left to the log");
	CHECK_NEAR(
	    model.alpha_mean, 9202.0 / 11003.0, 1e-12, "it is the smoothed click rate at the first position");
	serm_arena_free(&arena);
}

static bool
stop(void *context)
{
	return --*(int *) context > 0;
}

static void
test_edges(void)
{
	SermArena arena = unit_arena();
	SermArena small;
	SermPbmOptions options;
	SermPbm model;
	SermError error = {0};
	int calls = 3;
	size_t count;

	serm_pbm_defaults(&options);
	CHECK(fit(0, 5, &options, &arena, &model) == SERM_ERR_NO_DATA, "an empty log is no data");
	CHECK(fit(0, 0, &options, &arena, &model) == SERM_ERR_NO_DATA, "so is no log and no pair");
	cells[0] = (SermClickCell){0, 9, 0, 0, 0};
	CHECK(fit(1, 1, &options, &arena, &model) == SERM_ERR_NO_DATA, "and counts of nothing");
	cells[0] = (SermClickCell){0, 4, 0, 1, 1};
	CHECK(fit(1, 1, &options, &arena, &model) == SERM_OK && model.theta[3] == 1.0 && model.theta[0] == 0.0,
	    "one impression: its position is the first one seen");
	CHECK_NEAR(
	    model.alpha[0], (1 + 0.1 * (2.0 / 3)) / 1.1, 1e-9, "and its click is weighed against the prior");
	CHECK(model.impressions == 1 && model.shown[3] == 1, "impressions are counted");
	cells[0] = (SermClickCell){0, 1, 0, 50, 0};
	cells[1] = (SermClickCell){0, 3, 0, 50, 0};
	cells[2] = (SermClickCell){0, 7, 0, 0, 0};
	CHECK(fit(3, 1, &options, &arena, &model) == SERM_OK && isfinite(model.log_likelihood) &&
	          model.alpha[0] < 0.02 && model.theta[1] == 0.0 && model.theta[6] == 0.0,
	    "a log without clicks gives finite numbers");
	options.alpha_strength = options.theta_strength = 0;
	CHECK(fit(3, 1, &options, &arena, &model) == SERM_OK && isfinite(model.objective), "without priors too");
	cells[1] = (SermClickCell){0, 3, 0, 50, 50};
	cells[0] = (SermClickCell){0, 1, 0, 50, 50};
	CHECK(fit(3, 1, &options, &arena, &model) == SERM_OK && isfinite(model.objective) && model.alpha[0] < 1.0,
	    "a log of clicks only gives finite numbers");

	cells[1].clicked = 51;
	CHECK(
	    fit(3, 1, &options, &arena, &model) == SERM_ERR_INVALID, "more clicks than impressions are refused");
	cells[1] = (SermClickCell){1, 3, 0, 50, 50};
	CHECK(fit(3, 1, &options, &arena, &model) == SERM_ERR_INVALID, "so is a pair out of range");
	cells[1] = (SermClickCell){0, 0, 0, 50, 50};
	CHECK(fit(3, 1, &options, &arena, &model) == SERM_ERR_INVALID, "and position 0");
	cells[1].position = SERM_PBM_POSITIONS_MAX + 1;
	CHECK(fit(3, 1, &options, &arena, &model) == SERM_ERR_INVALID, "and a position past the limit");
	options.alpha_strength = -1;
	CHECK(fit(1, 1, &options, &arena, &model) == SERM_ERR_INVALID, "and a negative strength");
	options.alpha_strength = 1;
	options.alpha_mean = NAN;
	CHECK(fit(1, 1, &options, &arena, &model) == SERM_ERR_INVALID, "and a mean that is no number");

	serm_pbm_defaults(&options);
	count = simulate(50, 0.7, 0.5);
	CHECK(serm_pbm_fit(cells, count, PAIRS, &options, &arena, stop, &calls, &model, &error) ==
	          SERM_ERR_CANCELED,
	    "a fit can be canceled");
	serm_arena_init(&small, serm_heap_allocator(), 1000);
	CHECK(serm_pbm_fit(cells, count, PAIRS, &options, &small, NULL, NULL, &model, &error) == SERM_ERR_MEMORY,
	    "and refuses when memory is short");
	serm_arena_free(&small);
	serm_arena_free(&arena);
}

int
main(void)
{
	test_recovery();
	test_rare_clicks();
	test_monotone();
	test_twin();
	test_speed();
	test_prior();
	test_edges();
	DONE();
}
