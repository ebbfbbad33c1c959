#include "core/base/rng.h"
#include "core/stats/agreement.h"
#include "core/stats/judges.h"
#include "unit.h"

#define GRADES 4

static SermArena arena;
static SermError error;

static double
kappa(const double *counts, size_t categories, const double *value, SermKappaWeights weights)
{
	double result = -9;

	if (serm_agreement_kappa(counts, categories, value, weights, &result, &error) != SERM_OK)
		printf("# kappa: %s\n", error.message);
	return result;
}

static void
test_kappa(void)
{
	/* 50 proposals: both yes 20, first only 5, second only 10, both no 15: po .7, pe .5. */
	const double two[] = {20, 5, 10, 15};
	/* Rows 1: n = 10; agreement .5; linear cost (2*1 + 1*2 + 2*1)/10 = .6. */
	const double three[] = {2, 2, 1, 0, 1, 1, 0, 1, 2};
	const double constant[] = {0, 0, 0, 7};
	const double infinite[] = {1, INFINITY, 0, 1};
	const double spread[] = {0, 1, 3};
	double near_expected = 0, square_expected = 0, value;
	const double row[] = {5, 2, 3}, column[] = {2, 4, 4};

	CHECK_NEAR(kappa(two, 2, NULL, SERM_KAPPA_NONE), 0.4, 1e-15, "kappa .4 of the textbook table");
	CHECK_NEAR(
	    kappa(two, 2, NULL, SERM_KAPPA_QUADRATIC), 0.4, 1e-15, "weights do not matter for two categories");
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++) {
			near_expected += abs(i - j) * row[i] * column[j] / 100;
			square_expected += (i - j) * (i - j) * row[i] * column[j] / 100;
		}
	CHECK_NEAR(
	    kappa(three, 3, NULL, SERM_KAPPA_NONE), 1 - 0.5 / (1 - (10 + 8 + 12) / 100.0), 1e-15, "kappa, none");
	CHECK_NEAR(kappa(three, 3, NULL, SERM_KAPPA_LINEAR), 1 - 0.6 / near_expected, 1e-15, "kappa, linear");
	CHECK_NEAR(
	    kappa(three, 3, NULL, SERM_KAPPA_QUADRATIC), 1 - 0.8 / square_expected, 1e-15, "kappa, quadratic");
	CHECK(kappa(three, 3, spread, SERM_KAPPA_LINEAR) < kappa(three, 3, NULL, SERM_KAPPA_LINEAR),
	    "categories stand for their values");
	CHECK(isnan(kappa(constant, 2, NULL, SERM_KAPPA_NONE)), "one common category: undefined");
	CHECK(isnan(kappa((double[]){0, 0, 0, 0}, 2, NULL, SERM_KAPPA_NONE)), "no counts: undefined");
	CHECK(serm_agreement_kappa(infinite, 2, NULL, SERM_KAPPA_NONE, &value, &error) == SERM_ERR_INVALID,
	    "an infinite count is refused");
	CHECK_NEAR(serm_agreement_share(three, 3, 0), 0.5, 1e-15, "share of exact agreement");
	CHECK_NEAR(serm_agreement_share(three, 3, 1), 0.9, 1e-15, "share within one grade");
}

static void
test_count(void)
{
	const int16_t row[] = {0, 1, -1, 2, 2}, column[] = {0, 2, 1, -1, 2};
	double counts[9] = {0};

	CHECK(serm_agreement_count(row, column, 5, counts, 3, &error) == SERM_OK && counts[0] == 1 &&
	          counts[5] == 1 && counts[8] == 1 && counts[1] + counts[2] + counts[3] + counts[4] == 0,
	    "confusion counts skip holes");
	CHECK(serm_agreement_count(row, column, 5, counts, 2, &error) == SERM_ERR_INVALID,
	    "and refuse unknown labels");
}

/* Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section E: four observers, twelve units.
 */
static const int published[4][12] = {{1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0},
    {1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3}, {0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0},
    {1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0}};

static size_t
published_ratings(SermRating *ratings)
{
	size_t count = 0;

	for (int rater = 0; rater < 4; rater++)
		for (uint64_t unit = 0; unit < 12; unit++)
			if (published[rater][unit] != 0)
				ratings[count++] = (SermRating){unit * 1000003, published[rater][unit]};
	return count;
}

/* Alpha from the coincidence matrix, as the paper writes it. Values 0..9. */
static double
twin_alpha(const SermRating *ratings, size_t count, SermAlphaMetric metric)
{
	double o[10][10] = {{0}}, n[10] = {0}, total = 0, within = 0, chance = 0;

	for (size_t i = 0; i < count; i++) {
		double m = 0;

		for (size_t j = 0; j < count; j++)
			m += ratings[i].unit == ratings[j].unit;
		for (size_t j = 0; j < count; j++)
			if (i != j && ratings[i].unit == ratings[j].unit)
				o[(int) ratings[i].value][(int) ratings[j].value] += 1 / (m - 1);
	}
	for (int c = 0; c < 10; c++)
		for (int k = 0; k < 10; k++)
			n[c] += o[c][k];
	for (int c = 0; c < 10; c++)
		total += n[c];
	for (int c = 0; c < 10; c++)
		for (int k = 0; k < 10; k++) {
			double d = c != k, sum = 0;

			if (metric == SERM_ALPHA_INTERVAL)
				d = (c - k) * (c - k);
			if (metric == SERM_ALPHA_ORDINAL) {
				for (int g = c < k ? c : k; g <= (c < k ? k : c); g++)
					sum += n[g];
				d = c != k ? pow(sum - (n[c] + n[k]) / 2, 2) : 0;
			}
			within += o[c][k] * d;
			chance += n[c] * n[k] * d;
		}
	return 1 - (total - 1) * within / chance;
}

static double
alpha(SermRating *ratings, size_t count, SermAlphaMetric metric)
{
	SermAgreement agreement;

	if (serm_agreement_alpha(ratings, count, metric, &arena, &agreement, &error) != SERM_OK)
		printf("# alpha: %s\n", error.message);
	return agreement.alpha;
}

static void
test_alpha(void)
{
	SermRating ratings[400];
	size_t count = published_ratings(ratings);
	SermAgreement agreement;
	SermRng rng;
	double worst = 0;

	CHECK_NEAR(
	    alpha(ratings, count, SERM_ALPHA_NOMINAL), 0.743, 5e-4, "alpha of the published example, nominal");
	CHECK_NEAR(alpha(ratings, count, SERM_ALPHA_ORDINAL), 0.815, 5e-4, "ordinal");
	CHECK_NEAR(alpha(ratings, count, SERM_ALPHA_INTERVAL), 0.849, 5e-4, "interval");
	serm_agreement_alpha(ratings, count, SERM_ALPHA_NOMINAL, &arena, &agreement, &error);
	CHECK(agreement.pairable == 40 && agreement.units == 11, "40 pairable values in 11 units");
	CHECK_NEAR(agreement.observed, 1 - agreement.share, 1e-12, "nominal disagreement is one less agreement");
	serm_rng_seed(&rng, 5);
	for (int round = 0; round < 60; round++) {
		count = 20 + serm_rng_below(&rng, 200);
		for (size_t i = 0; i < count; i++)
			ratings[i] = (SermRating){serm_rng_below(&rng, 40), serm_rng_below(&rng, 2 + round % 6)};
		for (int metric = SERM_ALPHA_NOMINAL; metric <= SERM_ALPHA_INTERVAL; metric++) {
			SermRating lone[400];
			size_t paired = 0;

			for (size_t i = 0; i < count; i++)
				for (size_t j = 0, mates = 0; j < count; j++)
					if (ratings[i].unit == ratings[j].unit && ++mates == 2) {
						lone[paired++] = ratings[i];
						break;
					}
			worst = fmax(worst,
			    fabs(alpha(ratings, count, metric) - twin_alpha(lone, paired, (SermAlphaMetric) metric)));
		}
	}
	CHECK(worst < 1e-12, "alpha equals its coincidence matrix form on random data with holes (%.1e)", worst);
	for (size_t i = 0; i < 6; i++)
		ratings[i] = (SermRating){i / 2, 0.1};
	CHECK(isnan(alpha(ratings, 6, SERM_ALPHA_INTERVAL)), "all values equal: undefined");
	for (size_t i = 0; i < 6; i++)
		ratings[i].unit = i;
	CHECK(isnan(alpha(ratings, 6, SERM_ALPHA_NOMINAL)), "nothing to pair: undefined");
	CHECK(isnan(alpha(ratings, 0, SERM_ALPHA_NOMINAL)), "nothing at all: undefined");
	ratings[0].value = NAN;
	CHECK(
	    serm_agreement_alpha(ratings, 6, SERM_ALPHA_NOMINAL, &arena, &agreement, &error) == SERM_ERR_INVALID,
	    "NaN is refused");
}

/* A planted world: a grade prior, judges with given matrices, a model that knows something. */
typedef struct World {
	size_t count;
	uint32_t judges;
	int16_t *truth;
	int16_t *label;
	int16_t *gold;
	float *model;
} World;

static const double planted_prior[GRADES] = {0.4, 0.3, 0.2, 0.1};
/* The first judge inflates, the second is harsh, the third is good, the fourth calls everything 0 half of the
 * time. */
static const double planted[4][GRADES][GRADES] = {
    {{.5, .3, .15, .05}, {.05, .45, .35, .15}, {.03, .07, .5, .4}, {.02, .03, .1, .85}},
    {{.9, .07, .02, .01}, {.45, .45, .08, .02}, {.2, .4, .35, .05}, {.1, .15, .35, .4}},
    {{.85, .1, .03, .02}, {.1, .75, .1, .05}, {.03, .12, .75, .1}, {.02, .03, .1, .85}},
    {{.8, .1, .05, .05}, {.5, .3, .1, .1}, {.5, .1, .3, .1}, {.5, .05, .1, .35}}};

static int16_t
draw(SermRng *rng, const double *p)
{
	double u = serm_rng_uniform(rng);
	int16_t y = 0;

	while (y < GRADES - 1 && (u -= p[y]) >= 0)
		y++;
	return y;
}

static World
make_world(size_t count, uint32_t judges, double missing, double gold_share, uint64_t seed)
{
	World world = {count, judges, serm_arena_array(&arena, count, sizeof(int16_t)),
	    serm_arena_array(&arena, count * judges, sizeof(int16_t)),
	    serm_arena_array(&arena, count, sizeof(int16_t)),
	    serm_arena_array(&arena, count * GRADES, sizeof(float))};
	SermRng rng;

	serm_rng_seed(&rng, seed);
	for (size_t i = 0; i < count; i++) {
		double total = 0;
		int16_t seen;

		world.truth[i] = draw(&rng, planted_prior);
		for (uint32_t j = 0; j < judges; j++)
			world.label[i * judges + j] = serm_rng_uniform(&rng) < missing
			                                  ? SERM_LABEL_MISSING
			                                  : draw(&rng, planted[j][world.truth[i]]);
		world.gold[i] = serm_rng_uniform(&rng) < gold_share ? world.truth[i] : SERM_LABEL_MISSING;
		/* The model is a calibrated channel: it sees the truth through the third judge's matrix. */
		seen = draw(&rng, planted[2][world.truth[i]]);
		for (int y = 0; y < GRADES; y++)
			total += planted_prior[y] * planted[2][y][seen];
		for (int y = 0; y < GRADES; y++)
			world.model[i * GRADES + (size_t) y] = (float) (planted_prior[y] * planted[2][y][seen] / total);
	}
	return world;
}

static SermJudgeLabels
labels_of(const World *world, bool gold, bool model)
{
	return (SermJudgeLabels){.grade_count = GRADES,
	    .judge_count = world->judges,
	    .item_count = world->count,
	    .label = world->label,
	    .gold = gold ? world->gold : NULL,
	    .prior = model ? world->model : NULL};
}

/* Mean over rows and judges of the total variation distance to the planted matrices. */
static double
distance(const double *confusion, uint32_t judges)
{
	double sum = 0;

	for (uint32_t j = 0; j < judges; j++)
		for (int y = 0; y < GRADES; y++)
			for (int l = 0; l < GRADES; l++)
				sum +=
				    fabs(confusion[(j * GRADES + (uint32_t) y) * GRADES + (uint32_t) l] - planted[j][y][l]) /
				    2;
	return sum / (judges * GRADES);
}

static double
row_error(const double *confusion, uint32_t judges)
{
	double worst = 0;

	for (uint32_t row = 0; row < judges * GRADES; row++) {
		double sum = 0;

		for (int l = 0; l < GRADES; l++) {
			sum += confusion[row * GRADES + (uint32_t) l];
			if (confusion[row * GRADES + (uint32_t) l] <= 0)
				worst = 1;
		}
		worst = fmax(worst, fabs(sum - 1));
	}
	return worst;
}

static void
test_gold(void)
{
	World world = make_world(20000, 4, 0.2, 1.0, 1);
	SermJudgeLabels labels = labels_of(&world, true, false);
	double confusion[4 * GRADES * GRADES], prior[GRADES], assumed[GRADES * GRADES];
	double counts[GRADES * GRADES] = {0}, all[GRADES * GRADES] = {0}, expected, pooled, row = 0, pool = 0;
	SermConfusionOptions options;
	SermConfusionReport report;

	serm_confusion_defaults(&options);
	CHECK(serm_confusion_estimate(
	          &labels, &options, &arena, NULL, NULL, confusion, prior, NULL, &report, &error) == SERM_OK &&
	          report.method == SERM_CONFUSION_GOLD && report.converged && report.iterations == 0,
	    "enough gold: counts");
	CHECK(distance(confusion, 4) < 0.012, "gold counts find the planted matrices (%.4f)",
	    distance(confusion, 4));
	CHECK(row_error(confusion, 4) < 1e-12, "rows are positive and sum to 1");
	CHECK_NEAR(prior[0], 0.4, 0.01, "and the grade prior");

	/* One entry by hand: C[0][3][2] of 60 items. */
	labels.item_count = 60;
	for (size_t i = 0; i < 60; i++)
		for (uint32_t j = 0; j < 4; j++)
			if (world.label[i * 4 + j] != SERM_LABEL_MISSING) {
				size_t entry = (size_t) world.truth[i] * GRADES + (size_t) world.label[i * 4 + j];

				all[entry]++;
				if (j == 0)
					counts[entry]++;
			}
	for (int l = 0; l < GRADES; l++) {
		row += counts[3 * GRADES + l];
		pool += all[3 * GRADES + l];
	}
	serm_confusion_assumed(GRADES, options.quality, assumed);
	pooled = (10 * assumed[3 * GRADES + 2] + all[3 * GRADES + 2]) / (10 + pool);
	expected = (10 * pooled + counts[3 * GRADES + 2]) / (10 + row);
	options.gold_min = 1;
	serm_confusion_estimate(&labels, &options, &arena, NULL, NULL, confusion, prior, NULL, &report, &error);
	CHECK_NEAR(confusion[3 * GRADES + 2], expected, 1e-14, "shrinkage towards the average judge, by hand");
	options.strength = 1e9;
	serm_confusion_estimate(&labels, &options, &arena, NULL, NULL, confusion, prior, NULL, &report, &error);
	CHECK_NEAR(confusion[2 * 16 + 5], assumed[5], 1e-6, "a strong prior is the assumed judge");
	CHECK_NEAR(assumed[0], 0.25 + 0.3 * 0.75, 1e-15, "quality is the way from chance to perfect");
	CHECK_NEAR(assumed[1] / assumed[2], 2.0, 1e-12, "errors halve with each grade of distance");
}

static double
accuracy(const World *world, const double *posterior)
{
	double right = 0;

	for (size_t i = 0; i < world->count; i++) {
		int best = 0;

		for (int y = 1; y < GRADES; y++)
			if (posterior[i * GRADES + (size_t) y] > posterior[i * GRADES + (size_t) best])
				best = y;
		right += best == world->truth[i];
	}
	return right / (double) world->count;
}

static double
majority_accuracy(const World *world)
{
	double right = 0;

	for (size_t i = 0; i < world->count; i++) {
		int votes[GRADES] = {0}, best = 0;

		for (uint32_t j = 0; j < world->judges; j++)
			if (world->label[i * world->judges + j] != SERM_LABEL_MISSING)
				votes[world->label[i * world->judges + j]]++;
		for (int y = 1; y < GRADES; y++)
			if (votes[y] > votes[best])
				best = y;
		right += best == world->truth[i];
	}
	return right / (double) world->count;
}

static void
test_dawid_skene(void)
{
	World world = make_world(6000, 4, 0.1, 0.0, 2);
	SermJudgeLabels labels = labels_of(&world, false, true);
	double confusion[4 * GRADES * GRADES], again[4 * GRADES * GRADES], prior[GRADES];
	double *posterior = serm_arena_array(&arena, world.count * GRADES, sizeof(double));
	SermConfusionOptions options;
	SermConfusionReport report, shorter;

	serm_confusion_defaults(&options);
	CHECK(serm_confusion_estimate(&labels, &options, &arena, NULL, NULL, confusion, prior, posterior, &report,
	          &error) == SERM_OK &&
	          report.method == SERM_CONFUSION_EM && report.converged,
	    "no gold: EM, which converges in %u steps", report.iterations);
	CHECK(distance(confusion, 4) < 0.04, "EM against a model prior finds the matrices (%.4f)",
	    distance(confusion, 4));
	CHECK(accuracy(&world, posterior) > majority_accuracy(&world) + 0.1,
	    "belief %.3f beats the majority %.3f", accuracy(&world, posterior), majority_accuracy(&world));
	serm_confusion_estimate(&labels, &options, &arena, NULL, NULL, again, prior, NULL, &report, &error);
	CHECK(memcmp(confusion, again, sizeof(again)) == 0, "twice the same bits");
	options.iterations_max = 1;
	serm_confusion_estimate(&labels, &options, &arena, NULL, NULL, again, prior, NULL, &shorter, &error);
	CHECK(shorter.log_likelihood < report.log_likelihood && !shorter.converged && shorter.iterations == 1,
	    "the likelihood rises with the steps");

	serm_confusion_defaults(&options);
	labels = labels_of(&world, false, false);
	serm_confusion_estimate(
	    &labels, &options, &arena, NULL, NULL, confusion, prior, posterior, &report, &error);
	CHECK(distance(confusion, 4) < 0.09, "so does plain Dawid-Skene (%.4f)", distance(confusion, 4));
	CHECK(accuracy(&world, posterior) > majority_accuracy(&world), "and it beats the majority (%.3f)",
	    accuracy(&world, posterior));
	CHECK_NEAR(prior[0], 0.4, 0.05, "it learns the grade prior");

	world = make_world(6000, 4, 0.1, 0.005, 3);
	labels = labels_of(&world, true, true);
	serm_confusion_estimate(
	    &labels, &options, &arena, NULL, NULL, confusion, prior, posterior, &report, &error);
	CHECK(report.method == SERM_CONFUSION_EM && report.gold_count > 0 && report.gold_count < 40,
	    "too little gold: EM with gold held (%zu)", report.gold_count);
	for (size_t i = 0, wrong = 0; i <= world.count; i++) {
		if (i == world.count)
			CHECK(wrong == 0, "gold items are believed");
		else if (world.gold[i] != SERM_LABEL_MISSING)
			wrong += posterior[i * GRADES + (size_t) world.gold[i]] != 1.0;
	}
}

static double
mean_nll(const World *world, const float *p)
{
	double sum = 0;

	for (size_t i = 0; i < world->count; i++)
		sum -= log(fmax(p[i * GRADES + (size_t) world->truth[i]], 1e-12));
	return sum / (double) world->count;
}

static int
likeliest(const float *p)
{
	int best = 0;

	for (int y = 1; y < GRADES; y++)
		if (p[y] > p[best])
			best = y;
	return best;
}

/* 2 % gold and two biased judges, the case of the method: the soft target beats the model and the judges. */
static void
test_soft_target(void)
{
	World world = make_world(4000, 2, 0.1, 0.02, 4);
	SermJudgeLabels labels = labels_of(&world, true, true);
	float *target = serm_arena_array(&arena, world.count * GRADES, sizeof(float));
	double confusion[2 * GRADES * GRADES], prior[GRADES], right = 0, judge_right[2] = {0}, model_right = 0;
	SermConfusionOptions options;
	SermConfusionReport report;
	SermStatus status = SERM_OK;

	serm_confusion_defaults(&options);
	serm_confusion_estimate(&labels, &options, &arena, NULL, NULL, confusion, prior, NULL, &report, &error);
	CHECK(
	    report.method == SERM_CONFUSION_GOLD && report.gold_count >= 40, "2 %% gold: %zu", report.gold_count);
	for (size_t i = 0; i < world.count && status == SERM_OK; i++) {
		status = serm_soft_target(GRADES, world.model + i * GRADES, 2, confusion, world.label + i * 2, NULL,
		    target + i * GRADES, &error);
		right += likeliest(target + i * GRADES) == world.truth[i];
		model_right += likeliest(world.model + i * GRADES) == world.truth[i];
		for (int j = 0; j < 2; j++)
			judge_right[j] += world.label[i * 2 + (size_t) j] == world.truth[i];
	}
	CHECK(status == SERM_OK, "soft targets of all pairs");
	CHECK(mean_nll(&world, target) < mean_nll(&world, world.model) - 0.05,
	    "they sharpen the model: NLL %.3f < %.3f", mean_nll(&world, target), mean_nll(&world, world.model));
	CHECK(right > model_right + 80 && right > judge_right[0] && right > judge_right[1],
	    "and are right more often (%.3f) than the model (%.3f) and the judges (%.3f, %.3f)", right / 4000,
	    model_right / 4000, judge_right[0] / 3600, judge_right[1] / 3600);
}

static void
test_target_by_hand(void)
{
	const float prior[] = {0.5f, 0.3f, 0.2f};
	const double confusion[] = {.7, .2, .1, .3, .4, .3, .1, .2, .7, .6, .3, .1, .2, .6, .2, .1, .3, .6};
	const int16_t label[] = {2, 1}, none[] = {-1, -1}, bad[] = {3, 0};
	const double weight[] = {1.0, 0.5}, heavy[] = {1.5, 1.0};
	double raw[] = {.5 * .1 * .3, .3 * .3 * .6, .2 * .7 * .3}, sum = raw[0] + raw[1] + raw[2];
	float target[3];

	CHECK(serm_soft_target(3, prior, 2, confusion, label, NULL, target, &error) == SERM_OK, "a soft target");
	for (int y = 0; y < 3; y++)
		CHECK_NEAR(target[y], raw[y] / sum, 1e-7, "posterior of grade %d by hand", y);
	serm_soft_target(3, NULL, 2, confusion, label, weight, target, &error);
	CHECK_NEAR(target[2] / target[0], .7 / .1 * sqrt(.3 / .3), 1e-5,
	    "a weight tempers a judge, no prior is uniform");
	serm_soft_target(3, prior, 2, confusion, none, NULL, target, &error);
	CHECK(memcmp(target, prior, sizeof(prior)) == 0, "no answer leaves the model's distribution");
	serm_soft_target(3, (const float[]){1, 0, 0}, 2, confusion, label, NULL, target, &error);
	CHECK(target[1] > 0 && target[2] > 0 && target[0] > 0.99f, "certainty can be contradicted");
	CHECK(serm_soft_target(3, prior, 2, confusion, bad, NULL, target, &error) == SERM_ERR_INVALID,
	    "unknown label");
	CHECK(serm_soft_target(3, prior, 2, confusion, label, heavy, target, &error) == SERM_ERR_INVALID,
	    "weight above 1");
	CHECK(serm_soft_target(3, (const float[]){.5f, .5f, .5f}, 2, confusion, label, NULL, target, &error) ==
	          SERM_ERR_INVALID,
	    "a distribution that does not sum to 1");
	CHECK(serm_soft_target(3, (const float[]){NAN, .5f, .5f}, 2, confusion, label, NULL, target, &error) ==
	          SERM_ERR_INVALID,
	    "NaN");
}

static bool
stop_now(void *context)
{
	(void) context;
	return false;
}

static void
test_refusals(void)
{
	World world = make_world(50, 2, 0.0, 0.0, 9);
	SermJudgeLabels labels = labels_of(&world, true, true);
	double confusion[2 * GRADES * GRADES], prior[GRADES];
	SermConfusionOptions options;
	SermConfusionReport report;

#define ESTIMATE(stop)                                                                                       \
	serm_confusion_estimate(&labels, &options, &arena, stop, NULL, confusion, prior, NULL, &report, &error)
	serm_confusion_defaults(&options);
	options.method = SERM_CONFUSION_GOLD;
	CHECK(ESTIMATE(NULL) == SERM_ERR_NO_DATA, "counting without gold");
	options.method = SERM_CONFUSION_EM;
	CHECK(ESTIMATE(stop_now) == SERM_ERR_CANCELED, "EM can be canceled");
	options.strength = 0;
	CHECK(ESTIMATE(NULL) == SERM_ERR_INVALID, "strength 0");
	serm_confusion_defaults(&options);
	options.quality = NAN;
	CHECK(ESTIMATE(NULL) == SERM_ERR_INVALID, "quality NaN");
	serm_confusion_defaults(&options);
	world.label[3] = GRADES;
	CHECK(ESTIMATE(NULL) == SERM_ERR_INVALID, "a label that is no grade");
	memset(world.label, 0xff, sizeof(int16_t) * 100);
	CHECK(ESTIMATE(NULL) == SERM_ERR_NO_DATA, "no label at all");
}

int
main(void)
{
	arena = unit_arena();
	test_kappa();
	test_count();
	test_alpha();
	test_gold();
	test_dawid_skene();
	test_soft_target();
	test_target_by_hand();
	test_refusals();
	serm_arena_free(&arena);
	DONE();
}
