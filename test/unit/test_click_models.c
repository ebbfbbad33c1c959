/* The kinds of click models against simulated sessions of known truth, brute force, and each other. */
#include "core/base/rng.h"
#include "core/click/group.h"
#include "core/stats/isotonic.h"
#include "unit.h"

#define QUERIES 30
#define DOCUMENTS 20
#define PAIRS (QUERIES * DOCUMENTS)
#define RESULTS 10

typedef struct Truth {
	double attraction[PAIRS];
	double satisfied[PAIRS];
	double engine[PAIRS];                   /* what the pages are ordered by, of which users know nothing */
	double theta[RESULTS + 1][RESULTS + 1]; /* [position][previous] */
	double continuation;
	const char *kind;
} Truth;

static Truth truth;

static void
plant(const char *kind)
{
	SermRng rng;

	serm_rng_seed(&rng, 11);
	truth.kind = kind;
	truth.continuation = strcmp(kind, "sdbn") == 0 ? 1.0 : 0.85;
	for (int p = 0; p < PAIRS; p++) {
		truth.attraction[p] = 0.03 + 0.6 * serm_rng_uniform(&rng);
		truth.engine[p] = serm_rng_uniform(&rng);
		truth.satisfied[p] = 0.1 + 0.8 * serm_rng_uniform(&rng);
	}
	for (int k = 1; k <= RESULTS; k++)
		for (int above = 0; above < k; above++)
			truth.theta[k][above] =
			    strcmp(kind, "ubm") == 0 ? pow(k - above, -0.6) * (above > 0 ? 0.8 : 1.0) : pow(k, -0.7);
}

/* Clicks of one page, from the top. */
static void
click_page(SermRng *rng, const uint32_t *pairs, bool *clicked)
{
	bool examined = true;
	int last = 0;

	for (int i = 0; i < RESULTS; i++) {
		bool attracts = serm_rng_uniform(rng) < truth.attraction[pairs[i]];

		if (strcmp(truth.kind, "cascade") != 0 && strstr(truth.kind, "dbn") == NULL)
			examined = serm_rng_uniform(rng) < truth.theta[i + 1][last];
		clicked[i] = examined && attracts;
		if (clicked[i])
			last = i + 1;
		if (strcmp(truth.kind, "cascade") == 0)
			examined = examined && !clicked[i];
		else if (strstr(truth.kind, "dbn") != NULL) {
			if (clicked[i] && serm_rng_uniform(rng) < truth.satisfied[pairs[i]])
				examined = false;
			if (serm_rng_uniform(rng) >= truth.continuation)
				examined = false;
		}
	}
}

/* Some documents tend to stand higher than others that are as good, so that the raw rate misleads. */
static void
lay_out(SermRng *rng, uint32_t query, uint32_t *pairs)
{
	double key[DOCUMENTS];

	for (uint32_t d = 0; d < DOCUMENTS; d++)
		key[d] = truth.engine[query * DOCUMENTS + d] + 0.3 * serm_rng_normal(rng);
	for (int i = 0; i < RESULTS; i++) {
		int best = 0;

		for (int d = 1; d < DOCUMENTS; d++)
			if (key[d] > key[best])
				best = d;
		pairs[i] = query * DOCUMENTS + (uint32_t) best;
		key[best] = -INFINITY;
	}
}

static char names[PAIRS][24];

static SermClickText
text_of(const char *string)
{
	return (SermClickText){string, (uint32_t) strlen(string)};
}

static SermClickGrouping *
simulate(SermArena *arena, SermClickInput input, uint32_t pages, uint64_t seed)
{
	SermClickGrouping *grouping = serm_click_grouping(arena, input, 100000);
	char query[24];
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, seed);
	for (uint32_t page = 0; page < pages; page++) {
		uint32_t number = serm_rng_below(&rng, QUERIES), pairs[RESULTS];
		bool clicked[RESULTS];

		lay_out(&rng, number, pairs);
		click_page(&rng, pairs, clicked);
		snprintf(query, sizeof(query), "query %u", number);
		for (int i = 0; i < RESULTS; i++) {
			snprintf(names[pairs[i]], sizeof(names[0]), "doc-%u", pairs[i]);
			if (serm_click_group(grouping, text_of(query), text_of(names[pairs[i]]), (uint32_t) i + 1,
			        clicked[i], i == 0, &error) != SERM_OK)
				return NULL;
		}
	}
	return grouping;
}

/* Number of a grouped pair in the truth. */
static uint32_t
planted_pair(const SermClickPair *pair)
{
	char id[24] = {0};

	memcpy(id, pair->doc_id.bytes, pair->doc_id.length);
	return (uint32_t) strtoul(id + 4, NULL, 10);
}

static double
spearman(const double *x, const double *y, uint32_t count)
{
	double mean = (count - 1) / 2.0, xy = 0, xx = 0, yy = 0;

	for (uint32_t i = 0; i < count; i++) {
		double rx = 0, ry = 0;

		for (uint32_t j = 0; j < count; j++) {
			rx += (x[j] < x[i]) + 0.5 * (x[j] == x[i] && j != i);
			ry += (y[j] < y[i]) + 0.5 * (y[j] == y[i] && j != i);
		}
		xy += (rx - mean) * (ry - mean);
		xx += (rx - mean) * (rx - mean);
		yy += (ry - mean) * (ry - mean);
	}
	return xy / sqrt(xx * yy);
}

/* Fit a kind to sessions of its own; returns the model. */
static SermClickModel
fit_own(const char *kind, SermArena *arena, SermClickData *data, SermClickGrouping **grouping)
{
	SermClickOptions options;
	SermClickModel model = {0};
	SermError error = {0};

	plant(kind);
	serm_click_defaults(&options);
	*grouping = simulate(arena, serm_click_kind(kind)->input, 40000, 5);
	CHECK(*grouping != NULL && serm_click_grouped(*grouping, data, &error) == SERM_OK &&
	          serm_click_fit(serm_click_kind(kind), data, &options, arena, NULL, NULL, &model, &error) ==
	              SERM_OK &&
	          model.converged,
	    "%s: simulated sessions are fitted", kind);
	return model;
}

static void
test_recovery(const char *kind)
{
	SermArena arena = unit_arena();
	SermClickGrouping *grouping;
	SermClickData data;
	SermClickModel model = fit_own(kind, &arena, &data, &grouping);
	uint32_t count = serm_click_pair_count(grouping), kept = 0;
	double planted[PAIRS], fitted[PAIRS], rate[PAIRS], square = 0, satisfied = 0, clicks = 0;

	for (uint32_t p = 0; p < count; p++) {
		SermClickPair pair = serm_click_pair(grouping, p);
		uint32_t n = planted_pair(&pair);

		if (pair.shown < 100)
			continue;
		planted[kept] = truth.attraction[n];
		fitted[kept] = model.attractiveness[p];
		rate[kept] = (double) pair.clicked / (double) pair.shown;
		square += pow(fitted[kept] - planted[kept], 2);
		if (model.satisfaction != NULL) {
			satisfied += (double) pair.clicked * pow(model.satisfaction[p] - truth.satisfied[n], 2);
			clicks += (double) pair.clicked;
		}
		kept++;
	}
	printf("# %s: %u pairs, %u iterations, spearman %.3f, raw rate %.3f, rms error %.4f\n", kind, kept,
	    model.iterations, spearman(fitted, planted, kept), spearman(rate, planted, kept),
	    sqrt(square / kept));
	if (model.kind->ratio) {
		CHECK(spearman(fitted, planted, kept) > spearman(rate, planted, kept) + 0.03,
		    "%s: its order is nearer to the planted one than that of the click rate", kind);
		serm_arena_free(&arena);
		return;
	}
	CHECK(sqrt(square / kept) < 0.07, "%s: planted attractiveness is recovered (rms %.4f)", kind,
	    sqrt(square / kept));
	CHECK(spearman(fitted, planted, kept) > spearman(rate, planted, kept) &&
	          spearman(fitted, planted, kept) > 0.93,
	    "%s: in better order than the click rate", kind);
	if (model.satisfaction != NULL) {
		CHECK(sqrt(satisfied / clicks) < (truth.continuation < 1 ? 0.08 : 0.15),
		    "%s: so is satisfaction (rms %.4f)", kind, sqrt(satisfied / clicks));
		CHECK_NEAR(model.continuation, truth.continuation, 0.01, "%s: and continuation", kind);
	}
	for (int k = 1; model.examination != NULL && k <= RESULTS; k += 3)
		for (int above = 0; above < (model.kind->by_previous ? k : 1); above += 2)
			CHECK_NEAR(model.examination[serm_click_slot(model.kind->by_previous, k, above)],
			    truth.theta[k][above], 0.06, "%s: examination of %d after %d is recovered", kind, k, above);
	serm_arena_free(&arena);
}

/* Every kind on the same sessions of the richest one: the truth's own kind must foretell best. */
static void
test_comparison(void)
{
	SermArena arena = unit_arena();
	double likelihood[8] = {0}, perplexity[8] = {0};
	int own = -1;

	plant("dbn");
	for (int i = 0; i < serm_click_kind_count(); i++) {
		const SermClickKind *kind = serm_click_kind_at(i);
		SermArenaMark mark = serm_arena_mark(&arena);
		SermClickGrouping *fitted = simulate(&arena, kind->input, 20000, 5);
		SermClickGrouping *fresh = simulate(&arena, SERM_CLICK_BY_PAGE, 5000, 6);
		SermClickQuality quality = {0};
		SermClickOptions options;
		SermClickModel model;
		SermClickData data, other;
		SermError error = {0};
		uint32_t *known = calloc(PAIRS, sizeof(uint32_t));

		serm_click_defaults(&options);
		CHECK(serm_click_grouped(fitted, &data, &error) == SERM_OK &&
		          serm_click_fit(kind, &data, &options, &arena, NULL, NULL, &model, &error) == SERM_OK &&
		          serm_click_grouped(fresh, &other, &error) == SERM_OK,
		    "%s: fits sessions of another kind", kind->name);
		for (uint32_t p = 0; p < serm_click_pair_count(fresh); p++) {
			SermClickPair pair = serm_click_pair(fresh, p);

			known[p] = serm_click_find(fitted, serm_click_query(fresh, pair.query), pair.doc_id);
		}
		for (size_t g = 0; g < other.page_count; g++) {
			SermClickResult results[RESULTS];
			SermClickPage page = {results, RESULTS, other.pages[g].count};

			for (int k = 0; k < RESULTS; k++) {
				results[k] = other.pages[g].results[k];
				results[k].pair = known[results[k].pair];
			}
			serm_click_judge(&model, &page, &quality);
		}
		free(known);
		for (int k = 0; k < RESULTS; k++) {
			likelihood[i] += quality.log_likelihood[k] / (5000.0 * RESULTS);
			perplexity[i] += exp2(-quality.log2_marginal[k] / (double) quality.shown[k]) / RESULTS;
		}
		CHECK(quality.pages == 5000 && quality.shown[0] == 5000, "%s: judges every page", kind->name);
		printf("# %-8s unseen pages: log-likelihood %.4f, perplexity %.4f\n", kind->name, likelihood[i],
		    perplexity[i]);
		if (strcmp(kind->name, "dbn") == 0)
			own = i;
		serm_arena_rewind(&arena, mark);
	}
	for (int i = 0; i < serm_click_kind_count(); i++)
		if (i != own)
			CHECK(likelihood[own] > likelihood[i] && perplexity[own] <= perplexity[i] + 1e-4,
			    "dbn foretells unseen sessions of its own better than %s", serm_click_kind_at(i)->name);
	serm_arena_free(&arena);
}

/* Sum of the likelihood over all click patterns of a page is 1, and marginals are sums of it. */
static void
test_brute_force(const char *kind)
{
	SermArena arena = unit_arena();
	SermClickGrouping *grouping;
	SermClickData data;
	SermClickModel model = fit_own(kind, &arena, &data, &grouping);
	SermClickResult results[6];
	SermClickPage page = {results, 6, 1};
	double marginal[6] = {0}, total = 0, worst = 0;
	SermClickForecast forecast;

	for (uint32_t pattern = 0; pattern < 64; pattern++) {
		double chance = 1;

		for (uint32_t i = 0; i < 6; i++)
			results[i] = (SermClickResult){i * 7, (uint16_t) (i + 1), (pattern >> i) & 1};
		serm_click_forecast(&model, &page, &forecast);
		for (int i = 0; i < 6; i++)
			chance *= results[i].clicked ? forecast.conditional[i] : 1 - forecast.conditional[i];
		total += chance;
		for (int i = 0; i < 6; i++)
			marginal[i] += results[i].clicked ? chance : 0;
	}
	for (int i = 0; i < 6; i++)
		worst = fmax(worst, fabs(marginal[i] - forecast.marginal[i]));
	CHECK_NEAR(total, 1.0, 1e-9, "%s: the chances of all patterns add up to one", kind);
	CHECK(worst < 1e-5, "%s: marginals are sums over the patterns (%.1e)", kind, worst);
	results[2].pair = SERM_CLICK_UNKNOWN;
	serm_click_forecast(&model, &page, &forecast);
	CHECK(forecast.marginal[2] > 0 && forecast.marginal[2] < 1, "%s: a pair it never saw is like the mean",
	    kind);
	serm_arena_free(&arena);
}

/* The likelihood that EM reports is that of the forecast, and no iteration lowers what it climbs. */
static void
test_climb(void)
{
	SermArena arena = unit_arena();
	SermClickOptions options;
	SermClickGrouping *grouping;
	SermClickQuality quality = {0};
	SermClickModel model;
	SermClickData data;
	SermError error;
	double previous = -INFINITY, total = 0;
	bool climbs = true;

	plant("dbn");
	grouping = simulate(&arena, SERM_CLICK_BY_PAGE, 3000, 9);
	serm_click_defaults(&options);
	options.tolerance = 0;
	climbs &= serm_click_grouped(grouping, &data, &error) == SERM_OK;
	for (uint32_t n = 1; n <= 40; n++) {
		SermArenaMark mark = serm_arena_mark(&arena);

		options.iterations_max = n;
		climbs &= serm_click_fit(
		              serm_click_kind("dbn"), &data, &options, &arena, NULL, NULL, &model, &error) == SERM_OK;
		climbs &= model.objective >= previous - 1e-9 * fabs(previous);
		previous = model.objective;
		if (n < 40)
			serm_arena_rewind(&arena, mark);
	}
	CHECK(climbs, "dbn: each iteration climbs the objective");
	for (size_t i = 0; i < data.page_count; i++)
		serm_click_judge(&model, &data.pages[i], &quality);
	for (int k = 0; k < RESULTS; k++)
		total += quality.log_likelihood[k];
	CHECK_NEAR(
	    model.log_likelihood, total, 1e-6 * fabs(total), "dbn: its likelihood is that of its forecasts");
	serm_arena_free(&arena);
}

static void
test_sparse(void)
{
	static const char *const counted[] = {"cascade", "sdbn", "dbn", "coec"};
	SermArena arena = unit_arena();

	for (size_t i = 0; i < SERM_LENGTH(counted); i++) {
		const SermClickKind *kind = serm_click_kind(counted[i]);
		SermClickGrouping *grouping = serm_click_grouping(&arena, kind->input, 100);
		SermClickOptions options;
		SermClickModel model;
		SermClickData data;
		SermError error;

		for (int n = 0; n < 1000; n++)
			serm_click_group(grouping, text_of("q"), text_of("often"), 1, n % 4 == 0, true, &error);
		serm_click_group(grouping, text_of("q"), text_of("once"), 1, true, true, &error);
		serm_click_defaults(&options);
		options.strength = 4;
		CHECK(serm_click_grouped(grouping, &data, &error) == SERM_OK &&
		          serm_click_fit(kind, &data, &options, &arena, NULL, NULL, &model, &error) == SERM_OK,
		    "%s: a log of one position is fitted", kind->name);
		CHECK(kind->ratio ? model.attractiveness[1] < 1.4 && model.attractiveness[1] > 1.0
		                  : model.attractiveness[1] < 0.5 && model.attractiveness[1] > 0.3,
		    "%s: a pair shown once is shrunk to the prior (%.3f)", kind->name, model.attractiveness[1]);
		CHECK_NEAR(model.attractiveness[0], kind->ratio ? 1.0 : 0.25, 0.02, "%s: one shown often is not",
		    kind->name);
		CHECK(isfinite(model.log_likelihood) && model.log_likelihood < 0, "%s: has a likelihood", kind->name);
	}
	serm_arena_free(&arena);
}

static void
test_grouping(void)
{
	SermArena arena = unit_arena(), small;
	SermClickGrouping *grouping = serm_click_grouping(&arena, SERM_CLICK_BY_PREVIOUS, 20000);
	static uint32_t shown[50][40], clicked[50][40];
	SermClickData data;
	SermError error;
	SermRng rng;
	uint64_t impressions = 0, found = 0;
	bool good = true, counts = true;
	char query[300], id[300];

	serm_rng_seed(&rng, 3);
	for (int page = 0; page < 20000; page++) {
		uint32_t q = serm_rng_below(&rng, 50);

		/* Long and short texts, some with the same bytes in another place. */
		snprintf(query, sizeof(query), "%0*u", 1 + (int) (q * 5), q);
		for (uint32_t k = 1; k <= 5; k++) {
			uint32_t d = serm_rng_below(&rng, 40);
			bool click = serm_rng_uniform(&rng) < 0.2;

			snprintf(id, sizeof(id), "%0*u", 1 + (int) (d * 7), d);
			good &=
			    serm_click_group(grouping, text_of(query), text_of(id), k, click, k == 1, &error) == SERM_OK;
			shown[q][d]++;
			clicked[q][d] += click;
		}
	}
	CHECK(good && serm_click_grouped(grouping, &data, &error) == SERM_OK, "a log is grouped");
	for (uint32_t q = 0; q < 50; q++)
		for (uint32_t d = 0; d < 40; d++) {
			uint32_t pair;

			snprintf(query, sizeof(query), "%0*u", 1 + (int) (q * 5), q);
			snprintf(id, sizeof(id), "%0*u", 1 + (int) (d * 7), d);
			pair = serm_click_find(grouping, text_of(query), text_of(id));
			counts &= (pair == SERM_CLICK_UNKNOWN) == (shown[q][d] == 0);
			if (pair != SERM_CLICK_UNKNOWN) {
				counts &= serm_click_pair(grouping, pair).shown == shown[q][d] &&
				          serm_click_pair(grouping, pair).clicked == clicked[q][d];
				found++;
			}
		}
	CHECK(counts && found == serm_click_pair_count(grouping), "with the counts of each pair");
	for (size_t i = 0; i < data.cell_count; i++)
		impressions += data.cells[i].shown;
	CHECK(impressions == 100000 && serm_click_pages_seen(grouping) == 20000, "none lost, none twice");
	CHECK(serm_click_find(grouping, text_of("nowhere"), text_of("0")) == SERM_CLICK_UNKNOWN,
	    "what was not seen is unknown");

	grouping = serm_click_grouping(&arena, SERM_CLICK_BY_POSITION, 2);
	serm_click_group(grouping, text_of("a"), text_of("1"), 1, false, true, &error);
	serm_click_group(grouping, text_of("a"), text_of("2"), 100000, false, true, &error);
	CHECK(serm_click_group(grouping, text_of("b"), text_of("1"), 0, false, true, &error) == SERM_ERR_INVALID,
	    "position 0 is refused");
	CHECK(serm_click_grouped(grouping, &data, &error) == SERM_OK && data.cell_count == 2 &&
	          data.cells[1].position == 100,
	    "positions far down are one");
	serm_click_group(grouping, text_of("b"), text_of("1"), 1, false, true, &error);
	CHECK(
	    serm_click_grouped(grouping, &data, &error) == SERM_ERR_LIMIT, "more pairs than allowed are refused");
	serm_arena_init(&small, serm_heap_allocator(), 60000);
	grouping = serm_click_grouping(&small, SERM_CLICK_BY_POSITION, 100000);
	good = grouping != NULL;
	for (uint32_t i = 0; good && i < 5000; i++) {
		snprintf(id, sizeof(id), "%u", i);
		good = serm_click_group(grouping, text_of("q"), text_of(id), 1, false, true, &error) == SERM_OK;
	}
	CHECK(!good && (grouping == NULL || error.status == SERM_ERR_MEMORY), "and refuses when memory is short");
	serm_arena_free(&small);
	serm_arena_free(&arena);
}

static bool
stop(void *context)
{
	int *left = context;

	return --*left > 0;
}

static void
test_errors(void)
{
	SermArena arena = unit_arena();
	SermClickResult results[] = {{0, 1, 0}, {1, 2, 2}};
	SermClickPage page = {results, 2, 1};
	SermClickData data = {.pages = &page, .page_count = 1, .pair_count = 2};
	SermClickCell cell = {0, 3, 3, 1, 0};
	SermClickOptions options;
	SermClickModel model;
	SermError error;

	serm_click_defaults(&options);
	CHECK(serm_click_kind("oracle") == NULL && serm_click_kind("pbm") != NULL, "kinds have names");
	CHECK(serm_click_fit(serm_click_kind("dbn"), &data, &options, &arena, NULL, NULL, &model, &error) ==
	          SERM_ERR_INVALID,
	    "a click that is no bool is refused");
	results[1] = (SermClickResult){2, 2, 0};
	CHECK(serm_click_fit(serm_click_kind("sdbn"), &data, &options, &arena, NULL, NULL, &model, &error) ==
	          SERM_ERR_INVALID,
	    "so is a pair out of range");
	data = (SermClickData){.cells = &cell, .cell_count = 1, .pair_count = 1};
	CHECK(serm_click_fit(serm_click_kind("ubm"), &data, &options, &arena, NULL, NULL, &model, &error) ==
	          SERM_ERR_INVALID,
	    "and a click above that is not above");
	cell = (SermClickCell){0, 1, 0, 0, 0};
	for (int i = 0; i < serm_click_kind_count(); i++)
		CHECK(serm_click_fit(serm_click_kind_at(i), &data, &options, &arena, NULL, NULL, &model, &error) ==
		          SERM_ERR_NO_DATA,
		    "%s: no impressions are no data", serm_click_kind_at(i)->name);
	cell.shown = 1;
	options.strength = -1;
	CHECK(serm_click_fit(serm_click_kind("coec"), &data, &options, &arena, NULL, NULL, &model, &error) ==
	          SERM_ERR_INVALID,
	    "a negative strength is refused");
	options.strength = 1;
	options.mean = 1;
	CHECK(serm_click_fit(serm_click_kind("coec"), &data, &options, &arena, NULL, NULL, &model, &error) ==
	          SERM_ERR_INVALID,
	    "and a mean of one");
	serm_click_defaults(&options);
	results[1] = (SermClickResult){1, 2, 1};
	data = (SermClickData){.cells = &cell, .cell_count = 1, .pages = &page, .page_count = 1, .pair_count = 2};
	for (int i = 0; i < serm_click_kind_count(); i++) {
		int left = 2;

		CHECK(serm_click_fit(serm_click_kind_at(i), &data, &options, &arena, stop, &left, &model, &error) ==
		          SERM_ERR_CANCELED,
		    "%s: a fit can be canceled when it has begun", serm_click_kind_at(i)->name);
	}
	serm_arena_free(&arena);
}

/* Least squares under monotony, against the max-min formula of the same estimate. */
static void
test_isotonic(void)
{
	SermArena arena = unit_arena();
	SermIsotonicPoint points[60], sorted[60];
	SermIsotonicCurve curve;
	SermError error;
	SermRng rng;
	double worst = 0;
	bool rises = true;

	serm_rng_seed(&rng, 2);
	for (int i = 0; i < 60; i++)
		points[i] = (SermIsotonicPoint){i, 0.02 * i + serm_rng_normal(&rng), 0.5 + serm_rng_uniform(&rng)};
	memcpy(sorted, points, sizeof(points));
	for (int i = 0; i < 60; i++) {
		SermIsotonicPoint swapped = points[i];
		uint32_t other = serm_rng_below(&rng, 60);

		points[i] = points[other];
		points[other] = swapped;
	}
	CHECK(serm_isotonic_fit(points, 60, &arena, &curve, &error) == SERM_OK && curve.knot_count > 1,
	    "a monotone curve of %u knots", curve.knot_count);
	for (uint32_t k = 1; k < curve.knot_count; k++)
		rises &= curve.level[k] > curve.level[k - 1] && curve.at[k] > curve.at[k - 1];
	CHECK(rises, "rises");
	for (int i = 0; i < 60; i++) {
		double best = -INFINITY, nearest = INFINITY;

		for (int a = 0; a <= i; a++) {
			double least = INFINITY, sum = 0, weight = 0;

			for (int b = a; b < 60; b++) {
				sum += sorted[b].weight * sorted[b].y;
				weight += sorted[b].weight;
				if (b >= i)
					least = fmin(least, sum / weight);
			}
			best = fmax(best, least);
		}
		for (uint32_t k = 0; k < curve.knot_count; k++)
			nearest = fmin(nearest, fabs(curve.level[k] - best));
		worst = fmax(worst, nearest);
	}
	CHECK(worst < 1e-12, "its levels are those of the max-min formula (%.1e)", worst);
	CHECK(serm_isotonic_value(curve.at, curve.level, curve.knot_count, -5) == curve.level[0] &&
	          serm_isotonic_value(curve.at, curve.level, curve.knot_count, 500) ==
	              curve.level[curve.knot_count - 1],
	    "it is flat beyond its ends");
	CHECK(
	    isnan(serm_isotonic_value(curve.at, curve.level, curve.knot_count, NAN)), "nowhere it has no level");
	CHECK_NEAR(serm_isotonic_value(curve.at, curve.level, curve.knot_count, (curve.at[0] + curve.at[1]) / 2),
	    (curve.level[0] + curve.level[1]) / 2, 1e-12, "and straight between knots");
	points[0].weight = 0;
	CHECK(serm_isotonic_fit(points, 60, &arena, &curve, &error) == SERM_ERR_INVALID,
	    "a weight of 0 is refused");
	CHECK(serm_isotonic_fit(points, 0, &arena, &curve, &error) == SERM_ERR_NO_DATA, "no points are no data");
	serm_arena_free(&arena);
}

/* Lengths around those where texts leave their record, and the stage. */
static const uint32_t text_lengths[] = {0, 1, 7, 8, 9, 16, 23, 24, 25, 31, 32, 100, 9000, 20000};
#define LENGTHS (sizeof(text_lengths) / sizeof(text_lengths[0]))

/* Runs of rows that go on as others did, or not, of texts that agree but for their last byte or their length.
 */
static void
test_any_text(void)
{
	enum { TEXTS = 2 * LENGTHS, ROWS = 20000 };
	static char bytes[TEXTS][20001];
	static uint32_t shown[TEXTS][TEXTS], clicks[TEXTS][TEXTS], places[TEXTS][TEXTS][31];
	SermClickText texts[TEXTS];
	SermArena arena;
	SermClickGrouping *grouping;
	SermClickData data;
	SermError error;
	SermRng rng;
	uint32_t expected = 0, query = 0, document = 0;
	bool good = true;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 256 << 20);
	grouping = serm_click_grouping(&arena, SERM_CLICK_BY_POSITION, TEXTS * TEXTS);
	for (uint32_t i = 0; i < TEXTS; i++) {
		uint32_t length = text_lengths[i / 2];

		memset(bytes[i], 'x', length);
		if (length > 0)
			bytes[i][length - 1] = (char) ('a' + i % 2);
		texts[i] = (SermClickText){bytes[i], length};
	}
	serm_rng_seed(&rng, 3);
	for (int row = 0; row < ROWS && good; row++) {
		uint32_t place = 1 + serm_rng_below(&rng, 30), q, d;
		bool clicked = serm_rng_below(&rng, 3) == 0;

		query = serm_rng_below(&rng, 4) == 0 ? serm_rng_below(&rng, TEXTS) : query;
		document = serm_rng_below(&rng, 4) == 0 ? serm_rng_below(&rng, TEXTS) : (document + 1) % TEXTS;
		/* The two texts of length 0 are one. */
		q = query == 1 ? 0 : query;
		d = document == 1 ? 0 : document;
		expected += shown[q][d] == 0;
		shown[q][d]++;
		clicks[q][d] += clicked;
		places[q][d][place]++;
		good = serm_click_group(grouping, texts[query], texts[document], place, clicked, false, &error) ==
		       SERM_OK;
	}
	good = good && serm_click_grouped(grouping, &data, &error) == SERM_OK;
	CHECK(good && serm_click_pair_count(grouping) == expected, "texts are told apart by all of their bytes");
	for (uint32_t q = 0; q < TEXTS && good; q++)
		for (uint32_t d = 0; d < TEXTS; d++) {
			uint32_t number = serm_click_find(grouping, texts[q], texts[d]);
			SermClickPair pair;

			if (q == 1 || d == 1)
				continue;
			if (number == SERM_CLICK_UNKNOWN) {
				good &= shown[q][d] == 0;
				continue;
			}
			pair = serm_click_pair(grouping, number);
			good &= pair.shown == shown[q][d] && pair.clicked == clicks[q][d] &&
			        pair.doc_id.length == texts[d].length &&
			        memcmp(pair.doc_id.bytes, texts[d].bytes, texts[d].length) == 0 &&
			        serm_click_query(grouping, pair.query).length == texts[q].length;
			for (size_t i = 0; i < data.cell_count; i++)
				if (data.cells[i].pair == number)
					good &= data.cells[i].shown == places[q][d][data.cells[i].position];
		}
	CHECK(good, "and counted as they were shown, whatever the order");
	serm_arena_free(&arena);
}

int
main(void)
{
	for (int i = 0; i < serm_click_kind_count(); i++)
		test_recovery(serm_click_kind_at(i)->name);
	test_comparison();
	test_brute_force("pbm");
	test_brute_force("ubm");
	test_brute_force("cascade");
	test_brute_force("dbn");
	test_climb();
	test_sparse();
	test_grouping();
	test_any_text();
	test_errors();
	test_isotonic();
	DONE();
}
