/*
 * Losses, weights and the temperature on their way through training: what is
 * switched off or weighs 1 changes no bit, every loss trains, what is lacking
 * is refused by name, and a temperature is found where there is one.
 */
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/model/interaction.h"
#include "core/train/temperature.h"
#include "core/train/weights.h"
#include "unit.h"

#define QUERIES 24
#define DOCS 6
#define PAIRS (QUERIES * DOCS)
#define GRADES 4

typedef struct World {
	SermText queries[QUERIES];
	SermExample examples[PAIRS];
	float rank[PAIRS], propensity[PAIRS], teacher[PAIRS * GRADES], reference[PAIRS];
	char texts[PAIRS + QUERIES][80];
	SermTrainingSet set;
	SermTrainOptions options;
} World;

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

static const SermTrainHost host = {.keep_going = go_on};

static SermText
text_of(char *bytes)
{
	return (SermText){bytes, strlen(bytes)};
}

/* Documents share more words with the query the higher their grade; grades are balanced but for two pairs. */
static void
make_world(World *world)
{
	SermRng rng;

	memset(world, 0, sizeof(*world));
	serm_rng_seed(&rng, 3);
	for (uint32_t q = 0; q < QUERIES; q++) {
		snprintf(world->texts[PAIRS + q], sizeof(world->texts[0]), "alpha%u beta%u gamma%u", q, q, q);
		world->queries[q] = text_of(world->texts[PAIRS + q]);
		for (uint32_t d = 0; d < DOCS; d++) {
			uint32_t i = q * DOCS + d, grade = i % GRADES;
			SermExample *example = &world->examples[i];

			snprintf(world->texts[i], sizeof(world->texts[0]), "%s%u %s%u %s%u\nof no. %u",
			    grade > 0 ? "alpha" : "one", q, grade > 1 ? "beta" : "two", q, grade > 2 ? "gamma" : "three",
			    q, i);
			example->query = q;
			example->doc = text_of(world->texts[i]);
			example->target[grade] = 1;
			example->weight = (float) (0.5 + serm_rng_uniform(&rng));
			world->rank[i] = (float) (d + 1);
			world->propensity[i] = 1;
			world->reference[i] = (float) (3 * serm_rng_uniform(&rng));
			for (int y = 0; y < GRADES; y++)
				world->teacher[i * GRADES + (uint32_t) y] = y == (int) grade ? .7f : .1f;
		}
	}
	world->set = (SermTrainingSet){GRADES, world->queries, QUERIES, world->examples, PAIRS};
	serm_train_defaults(&world->options);
	world->options.seed = 7;
	world->options.heads = 2;
	world->options.epochs = 3;
	world->options.pretrain_epochs = 0;
}

/* The checksum of all tensors; 0 when training failed, whose message is in `error`. */
static uint32_t
train(const World *world, SermTrainReport *report, SermError *error)
{
	SermArena arena = unit_arena();
	SermTensorSet tensors;
	uint32_t crc = 0;

	if (serm_train_interaction(&world->set, &world->options, &host, &arena, &tensors, report, error) ==
	    SERM_OK)
		for (size_t i = 0; i < tensors.count; i++)
			crc = serm_crc32c(crc, tensors.tensors[i].data, tensors.tensors[i].bytes);
	serm_arena_free(&arena);
	return crc;
}

static uint32_t
train_quietly(const World *world)
{
	SermTrainReport report;
	SermError error = {0};
	uint32_t crc = train(world, &report, &error);

	if (crc == 0)
		printf("# %s\n", error.message);
	return crc;
}

/* --- bits */

static void
test_neutral(void)
{
	World plain, world;
	uint32_t bits;

	make_world(&plain);
	bits = train_quietly(&plain);
	CHECK(bits != 0, "the plain run trains");
	world = plain;
	world.options.loss = "ce:1, ranknet:1";
	CHECK(train_quietly(&world) == bits, "the default loss, spelled out, gives its bits");
	/* Each of these would change bits by itself. */
	world = plain;
	world.set.examples = world.examples;
	world.set.propensity = world.propensity, world.set.rank = world.rank,
	world.set.reference = world.reference;
	memset(world.reference, 0, sizeof(world.reference));
	for (int i = 0; i < PAIRS; i++) {
		world.propensity[i] = .5f;
		world.examples[i].weight *= 4;
	}
	world.options.class_weights = true;
	world.options.margin_cap = 1.5;
	CHECK(train_quietly(&world) == bits,
	    "equal propensities, balanced grades, margins of 0, weights times 4: all "
	    "weigh 1, bit for bit");
}

/* Where nearly all documents have the lowest grade, the head of the lists counts, too. */
static void
test_rare_grades(void)
{
	World plain, world;
	uint32_t bits, ranknet;

	make_world(&plain);
	for (int i = 0; i < PAIRS; i++)
		if (i % GRADES == 1 || i % GRADES == 2) {
			memset(plain.examples[i].target, 0, sizeof(plain.examples[i].target));
			plain.examples[i].target[0] = 1;
		}
	bits = train_quietly(&plain);
	world = plain;
	world.options.loss = "ce:1, ranknet:1";
	ranknet = train_quietly(&world);
	CHECK(bits != 0 && bits != ranknet, "rare grades bring a loss of the head of the list");
	world = plain;
	world.options.pairwise = 1;
	CHECK(train_quietly(&world) == ranknet, "which is left out when pairwise is given");
}

static void
test_factors_count(void)
{
	World plain, world;
	uint32_t bits, other;

	make_world(&plain);
	bits = train_quietly(&plain);
	world = plain;
	world.set.propensity = world.propensity;
	world.propensity[3] = .2f;
	other = train_quietly(&world);
	CHECK(other != 0 && other != bits, "a propensity counts");
	world = plain;
	world.options.rank_weights = true;
	other = train_quietly(&world);
	CHECK(other != 0 && other != bits, "rank weights count");
	world = plain;
	world.options.curriculum = 2;
	other = train_quietly(&world);
	CHECK(other != 0 && other != bits, "a curriculum counts");
	world = plain;
	world.options.margin_cap = 1.5;
	other = train_quietly(&world);
	CHECK(other != 0 && other != bits, "margins of s0 count");
	world.set.reference = world.reference;
	CHECK(train_quietly(&world) != other, "those of a reference are others");
}

/* Rows in any order, with all their arrays. */
static void
test_order(void)
{
	World world, turned;
	uint32_t bits;

	make_world(&world);
	for (int i = 0; i < PAIRS; i++)
		world.propensity[i] = .2f + .8f * (float) (i % 5) / 5;
	world.set.rank = world.rank, world.set.propensity = world.propensity;
	world.set.reference = world.reference, world.set.teacher = world.teacher;
	world.options.loss = "ce, irpo, kl:.5, dpo:.1";
	world.options.rank_weights = true;
	/* Two that differ in nothing but what others say of them: (11 + 37 i) brings the second before the first.
	 */
	world.examples[1] = world.examples[0];
	world.rank[1] = world.rank[0], world.propensity[1] = world.propensity[0];
	turned = world;
	for (int i = 0; i < PAIRS; i++) {
		int j = (i * 37 + 11) % PAIRS;

		turned.examples[i] = world.examples[j];
		turned.rank[i] = world.rank[j], turned.propensity[i] = world.propensity[j];
		turned.reference[i] = world.reference[j];
		memcpy(turned.teacher + i * GRADES, world.teacher + j * GRADES, GRADES * sizeof(float));
	}
	turned.set.examples = turned.examples;
	turned.set.rank = turned.rank, turned.set.propensity = turned.propensity;
	turned.set.reference = turned.reference, turned.set.teacher = turned.teacher;
	bits = train_quietly(&world);
	CHECK(bits != 0 && bits == train_quietly(&turned), "the order of the rows changes no bit");
}

/* --- every loss, and what is refused */

#define INPUTS 5

/* Inputs that tell grades apart, in lists of DOCS. */
static SermFitProblem
make_problem(const World *world, SermReal *input, SermReal *target, SermReal *teacher, SermReal *rest)
{
	static uint32_t start[QUERIES + 1];
	static uint64_t key[QUERIES];
	SermRng rng;

	serm_rng_seed(&rng, 9);
	for (uint32_t i = 0; i < PAIRS; i++) {
		for (uint32_t k = 0; k < INPUTS; k++)
			input[i * INPUTS + k] = (SermReal) (serm_rng_normal(&rng) + (k == 0 ? i % GRADES : 0));
		for (uint32_t y = 0; y < GRADES; y++) {
			target[i * GRADES + y] = world->examples[i].target[y];
			teacher[i * GRADES + y] = world->teacher[i * GRADES + y];
		}
		rest[i] = 0, rest[PAIRS + i] = 1, rest[2 * PAIRS + i] = world->reference[i];
	}
	for (uint32_t q = 0; q < QUERIES; q++)
		start[q + 1] = (q + 1) * DOCS, key[q] = q;
	return (SermFitProblem){.input_count = INPUTS,
	    .grade_count = GRADES,
	    .example_count = PAIRS,
	    .list_count = QUERIES,
	    .input = input,
	    .guard = rest,
	    .target = target,
	    .weight = rest + PAIRS,
	    .teacher = teacher,
	    .reference = rest + 2 * PAIRS,
	    .list_start = start,
	    .list_key = key};
}

/* The loss of the last epoch after so many; negative when it failed. */
static double
fit_loss(SermFitProblem *problem, const World *world, const SermLoss *loss, uint32_t epochs)
{
	SermLossTerm term = {loss, 1, serm_loss_parameters(loss, GRADES)};
	SermTrainOptions options = world->options;
	SermArena arena = unit_arena();
	SermError error;
	SermFit fit;
	double last = -1;

	problem->terms = &term;
	problem->term_count = 1;
	options.epochs = epochs;
	options.batch = 64;
	options.dropout = 0;
	if (serm_fit_heads(problem, &options, &host, &arena, &fit, &error) == SERM_OK)
		last = fit.loss;
	serm_arena_free(&arena);
	return last;
}

static void
test_every_loss(void)
{
	static SermReal input[PAIRS * INPUTS], target[PAIRS * GRADES], teacher[PAIRS * GRADES], rest[3 * PAIRS];
	const SermLoss *loss;
	World world;
	SermFitProblem problem;

	make_world(&world);
	problem = make_problem(&world, input, target, teacher, rest);
	for (size_t l = 0; (loss = serm_loss_at(l)) != NULL; l++) {
		double early = fit_loss(&problem, &world, loss, 1), late = fit_loss(&problem, &world, loss, 40);

		CHECK(isfinite(late) && late >= 0 && late < .9 * early,
		    "%s learns: %.4f after one epoch, %.4f after 40", loss->name, early, late);
	}
}

static void
test_missing(void)
{
	static const char *const needy[] = {"kl", "dpo", "margin_mse", "ranknet_teacher"};
	World world;

	make_world(&world);
	for (size_t i = 0; i < SERM_LENGTH(needy); i++) {
		SermTrainReport report;
		SermError error = {0};

		world.options.loss = needy[i];
		CHECK(train(&world, &report, &error) == 0 && error.status == SERM_ERR_INVALID &&
		          strstr(error.message, needy[i]) != NULL,
		    "%s misses what it needs", needy[i]);
	}
}

static void
refuse(const World *world, const char *problem)
{
	SermTrainReport report;
	SermError error = {0};

	CHECK(train(world, &report, &error) == 0 && error.status == SERM_ERR_INVALID &&
	          strstr(error.message, problem) != NULL,
	    "refused: %s", problem);
}

static void
test_refusals(void)
{
	World plain, world;

	make_world(&plain);
	world = plain, world.options.loss = "ce:1,softmax";
	refuse(&world, "unknown loss \"softmax\"");
	world.options.loss = "ce", world.options.pairwise = 1;
	refuse(&world, "pairwise is part of the default loss");
	world = plain, world.options.margin_cap = 3;
	refuse(&world, "margin_cap");
	world = plain, world.options.propensity_clip = 0;
	refuse(&world, "propensity_clip");
	world = plain, world.set.rank = world.rank, world.rank[5] = 0;
	refuse(&world, "the rank of example 6");
	world = plain, world.set.propensity = world.propensity, world.propensity[0] = NAN;
	refuse(&world, "the propensity of example 1");
	world = plain, world.set.reference = world.reference, world.reference[PAIRS - 1] = INFINITY;
	refuse(&world, "the reference of example 144");
	world = plain, world.set.teacher = world.teacher, world.teacher[1] = -1;
	refuse(&world, "the teacher of example 1 is negative");
	world = plain, world.set.teacher = world.teacher, world.teacher[1] = .5f;
	refuse(&world, "the teacher of example 1 sums");
}

/* --- weights by hand */

typedef struct Three {
	SermExample examples[4];
	uint32_t example[4], list_start[3];
	uint64_t list_key[2];
	SermReal target[16], weight[4];
	SermTrainingSet set;
	SermTrainOptions options;
	SermExampleOrder order;
} Three;

static SermWeighting
make_three(Three *three)
{
	static const uint32_t grade[4] = {3, 0, 0, 1};

	memset(three, 0, sizeof(*three));
	for (uint32_t i = 0; i < 4; i++) {
		three->example[i] = 3 - i;
		three->weight[i] = 1;
		three->target[i * GRADES + grade[i]] = 1;
	}
	three->list_start[1] = 3, three->list_start[2] = 4;
	serm_train_defaults(&three->options);
	three->set = (SermTrainingSet){.grade_count = GRADES, .examples = three->examples, .example_count = 4};
	three->order = (SermExampleOrder){three->example, three->list_start, three->list_key, 4, 2};
	return (SermWeighting){&three->set, &three->options, &three->order, three->target, three->weight};
}

static void
multiply(const SermWeighting *weighting, SermReal *product)
{
	SermArena arena = unit_arena();
	SermError error;

	CHECK(serm_weights_multiply(weighting, &host, &arena, product, &error) == SERM_OK,
	    "weights are multiplied");
	serm_arena_free(&arena);
}

static void
test_weights(void)
{
	Three three;
	SermWeighting weighting = make_three(&three);
	SermReal product[4], easiness[4];
	float propensity[4] = {1, .5f, .01f, .25f}, rank[4] = {1, 3, 7, 1}, s0[4] = {2, 1, 0, -5};
	double rare = 1 / sqrt(51), common = 1 / sqrt(52);

	three.options.class_weights = true;
	multiply(&weighting, product);
	CHECK_NEAR(product[0] / product[1], rare / common, 1e-6, "a grade seen once weighs 1/sqrt(51)");
	CHECK_NEAR(product[0] + product[1] + product[2] + product[3], 4, 1e-6, "weights have mean 1");
	three.options.class_weights = false;
	three.options.rank_weights = true;
	multiply(&weighting, product);
	CHECK_NEAR(
	    product[0] / product[1], 2 / (1 + 1 / log2(3.5)), 1e-6, "ranks by grade: ties share their places");
	CHECK_NEAR(product[0], product[3], 1e-6, "and each list has its own first");
	three.set.rank = rank;
	multiply(&weighting, product);
	CHECK_NEAR(product[0] / product[1], 2 / (1 + 1 / log2(8)), 1e-6, "logged places come before");
	three.options.rank_weights = false;
	three.set.propensity = propensity;
	multiply(&weighting, product);
	CHECK_NEAR(product[0] / product[3], 4, 1e-6, "the inverse of the propensity");
	CHECK_NEAR(product[1] / product[3], 10, 1e-5, "clipped at a tenth");
	serm_weights_easiness(&weighting, s0, easiness);
	CHECK_NEAR(easiness[0], 1, 1e-6, "easy: the first stage has the best document first");
	CHECK_NEAR(easiness[1], .5, 1e-6, "half easy: a bad one in the middle");
	CHECK_NEAR(easiness[2], 1, 1e-6, "easy: a bad one last");
	CHECK_NEAR(easiness[3], 1 - fabs(.5 - 1.0 / 3), 1e-6, "a list of one is neither");
}

static void
test_margin_scale(void)
{
	Three three;
	SermWeighting weighting = make_three(&three);
	SermArena arena = unit_arena();
	SermReal score[4] = {2, 1, -1, 0};
	SermLossMargin margin;
	SermError error;

	three.options.margin_cap = 1.25;
	CHECK(serm_weights_margin(&weighting, score, &host, &arena, &margin, &error) == SERM_OK,
	    "margins are measured");
	CHECK(margin.center == 3 && margin.scale == 2 && margin.cap == 1.25 && margin.score == score,
	    "median and spread of the two pairs with different grades");
	three.order.list_count = 0;
	CHECK(serm_weights_margin(&weighting, score, &host, &arena, &margin, &error) == SERM_OK &&
	          margin.center == 0 && margin.scale == 1,
	    "without a pair nothing is known");
	serm_arena_free(&arena);
}

/* --- temperature */

#define HELD 400
#define LIST 10

/* Heads whose logits are `sharpness` times the true ones; each was blind to every list. */
static SermTemperature
fit_temperature(double sharpness, uint8_t seen)
{
	static SermReal w1[SERM_HIDDEN1 * 2], b1[SERM_HIDDEN1], w2[SERM_HIDDEN2 * SERM_HIDDEN1], b2[SERM_HIDDEN2],
	    w3[3 * SERM_HIDDEN2], b3[3], input[HELD * 2], guard[HELD], target[HELD * 3], weight[HELD];
	static uint32_t start[HELD / LIST + 1];
	static uint64_t key[HELD / LIST];
	static uint8_t bootstrap[HELD / LIST];
	SermFitProblem problem = {.input_count = 2,
	    .grade_count = 3,
	    .example_count = HELD,
	    .list_count = HELD / LIST,
	    .input = input,
	    .guard = guard,
	    .target = target,
	    .weight = weight,
	    .list_start = start,
	    .list_key = key};
	SermFit fit = {.heads = {1, 2, 3, w1, b1, w2, b2, w3, b3}, .seen = bootstrap};
	SermArena arena = unit_arena();
	SermTemperature temperature = {0};
	SermError error;

	/* P = .5, .3, .2 for all, and exactly so in every list of ten. */
	for (uint32_t y = 0; y < 3; y++)
		b3[y] = (SermReal) (sharpness * log(y == 0 ? .5 : y == 1 ? .3 : .2));
	memset(target, 0, sizeof(target));
	for (uint32_t i = 0; i < HELD; i++) {
		weight[i] = 1;
		target[i * 3 + (i % 10 < 5 ? 0u : i % 10 < 8 ? 1u : 2u)] = 1;
	}
	for (uint32_t list = 0; list < HELD / LIST; list++) {
		start[list + 1] = LIST * (list + 1);
		key[list] = list;
		bootstrap[list] = seen;
	}
	CHECK(serm_temperature_fit(&problem, weight, &fit, &host, &arena, &temperature, &error) == SERM_OK,
	    "a temperature is looked for");
	serm_arena_free(&arena);
	return temperature;
}

static void
test_temperature(void)
{
	SermTemperature found = fit_temperature(2, 0);

	CHECK_NEAR(found.value, 2, .02, "heads that are twice too sure get temperature 2");
	CHECK(found.gain > .02 && found.query_count == HELD / LIST, "which held-out queries confirm");
	found = fit_temperature(.5, 0);
	CHECK_NEAR(found.value, .5, .01, "heads that are too careful get .5");
	found = fit_temperature(1, 0);
	CHECK(fabs(found.value - 1) < .01 && fabs(found.gain) < 1e-3, "sound ones are left as they are");
	found = fit_temperature(2, 1);
	CHECK(
	    found.value == 1 && found.query_count == 0, "nothing is fitted on queries that the heads have seen");
}

static void
predict(const SermTensorSet *tensors, SermArena *arena, const World *world, SermPrediction *prediction)
{
	SermModel *model;
	SermQuery *query;
	SermError error;

	*prediction = (SermPrediction){0};
	CHECK(serm_model_open(SERM_KIND_INTERACTION, tensors, arena, &model, &error) == SERM_OK &&
	          serm_model_parse_query(model, world->queries[0], arena, &query, &error) == SERM_OK &&
	          serm_model_predict(model, query, world->examples[0].doc, arena, prediction, &error) == SERM_OK,
	    "the model opens and predicts");
}

static void
test_stored_temperature(void)
{
	World world;
	SermArena arena = unit_arena();
	SermTensorSet tensors, with;
	SermTensor copies[32];
	SermTrainReport report;
	SermError error;
	SermPrediction plain, warm;
	SermModel *model;
	_Alignas(64) float temperature = 1;

	make_world(&world);
	CHECK(serm_train_interaction(&world.set, &world.options, &host, &arena, &tensors, &report, &error) ==
	          SERM_OK,
	    "a model is trained");
	CHECK(serm_tensor_find(&tensors, SERM_TENSOR_TEMPERATURE) == NULL && report.temperature == 1,
	    "without a temperature unless asked for");
	memcpy(copies, tensors.tensors, tensors.count * sizeof(copies[0]));
	copies[tensors.count] =
	    (SermTensor){SERM_TENSOR_TEMPERATURE, SERM_DTYPE_F32, 1, {1}, &temperature, sizeof(temperature)};
	with = (SermTensorSet){copies, tensors.count + 1};
	predict(&tensors, &arena, &world, &plain);
	predict(&with, &arena, &world, &warm);
	CHECK(memcmp(&plain, &warm, sizeof(plain)) == 0, "a temperature of 1 changes no bit");
	temperature = 50;
	predict(&with, &arena, &world, &warm);
	CHECK(warm.entropy > plain.entropy && warm.entropy > 1.38f, "a high one makes all grades alike");
	temperature = .01f;
	predict(&with, &arena, &world, &warm);
	CHECK(warm.entropy < plain.entropy && isfinite(warm.score), "a low one makes sure");
	for (int i = 0; i < 3; i++) {
		temperature = i == 0 ? 0 : i == 1 ? -1 : NAN;
		CHECK(serm_model_open(SERM_KIND_INTERACTION, &with, &arena, &model, &error) == SERM_ERR_CORRUPT &&
		          strstr(error.message, "temperature") != NULL,
		    "a temperature of %g is refused", temperature);
	}
	serm_arena_free(&arena);
}

/* What training computed with the temperature is what the stored model serves. */
static void
test_calibrated(void)
{
	World world;
	SermTrainReport report;
	SermError error = {0};
	SermArena arena = unit_arena();
	SermTensorSet tensors;
	const SermTensor *stored;

	make_world(&world);
	/* Ranking alone leaves the logits without a scale. */
	world.options.loss = "ranknet";
	world.options.heads = 4;
	world.options.epochs = 20;
	world.options.calibrate = true;
	for (int i = 0; i < PAIRS; i++)
		world.examples[i].weight = 1;
	world.set.examples = world.examples;
	CHECK(serm_train_interaction(&world.set, &world.options, &host, &arena, &tensors, &report, &error) ==
	          SERM_OK,
	    "a calibrated model is trained");
	stored = serm_tensor_find(&tensors, SERM_TENSOR_TEMPERATURE);
	CHECK((stored != NULL) == (report.temperature != 1) &&
	          (report.temperature == 1) == !(report.temperature_gain > 0),
	    "the temperature is stored when it helps (%.3f, gain %.4f)", report.temperature,
	    report.temperature_gain);
	CHECK(
	    stored == NULL || (double) *(const float *) stored->data == report.temperature, "as it is reported");
	serm_arena_free(&arena);
}

int
main(void)
{
	test_neutral();
	test_rare_grades();
	test_factors_count();
	test_order();
	test_every_loss();
	test_missing();
	test_refusals();
	test_weights();
	test_margin_scale();
	test_temperature();
	test_stored_temperature();
	test_calibrated();
	DONE();
}
