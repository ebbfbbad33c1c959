/*
 * Distillation in the core: grades of a teacher as grades of a student, the mix
 * of losses, and that examples nobody judged count for the teacher only.
 */
#include "core/base/hash.h"
#include "core/model/model.h"
#include "core/train/distill.h"
#include "core/train/encoder_loss.h"
#include "core/train/train.h"
#include "unit.h"

#define QUERIES 30
#define DOCS 6
#define PAIRS (QUERIES * DOCS)
#define GRADES 4

typedef struct World {
	SermText queries[QUERIES];
	SermExample examples[PAIRS];
	uint8_t judged[PAIRS];
	float teacher[PAIRS * GRADES], weight[PAIRS];
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

/* The teacher knows the grade of every pair; judgments say the opposite of a third of the queries. */
static void
make_world(World *world)
{
	memset(world, 0, sizeof(*world));
	for (uint32_t q = 0; q < QUERIES; q++) {
		snprintf(world->texts[PAIRS + q], sizeof(world->texts[0]), "alpha%u beta%u gamma%u", q, q, q);
		world->queries[q] = (SermText){world->texts[PAIRS + q], strlen(world->texts[PAIRS + q])};
		for (uint32_t d = 0; d < DOCS; d++) {
			uint32_t i = q * DOCS + d, grade = i % GRADES;

			snprintf(world->texts[i], sizeof(world->texts[0]), "%s%u %s%u %s%u\nof no. %u",
			    grade > 0 ? "alpha" : "one", q, grade > 1 ? "beta" : "two", q, grade > 2 ? "gamma" : "three",
			    q, i);
			world->examples[i] =
			    (SermExample){.query = q, .doc = {world->texts[i], strlen(world->texts[i])}, .weight = 1};
			world->examples[i].target[GRADES - 1 - grade] = 1;
			world->judged[i] = q % 3 == 0;
			world->weight[i] = 1;
			for (uint32_t y = 0; y < GRADES; y++)
				world->teacher[i * GRADES + y] = y == grade ? .85f : .05f;
		}
	}
	world->set = (SermTrainingSet){.grade_count = GRADES,
	    .queries = world->queries,
	    .query_count = QUERIES,
	    .examples = world->examples,
	    .example_count = PAIRS,
	    .teacher = world->teacher,
	    .judged = world->judged,
	    .teacher_weight = world->weight};
	serm_train_defaults(&world->options);
	world->options.epochs = 12;
	world->options.heads = 2;
	world->options.pretrain_epochs = 1;
	world->options.guard = 0;
}

static SermStatus
train(const World *world, SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	SermTrainReport report;

	return serm_train_interaction(&world->set, &world->options, &host, arena, tensors, &report, error);
}

/* CRC of all tensors; 0 and a message when training fails. */
static uint32_t
digest(const World *world)
{
	SermArena arena = unit_arena();
	SermTensorSet tensors;
	SermError error;
	uint32_t crc = 0;

	if (train(world, &arena, &tensors, &error) == SERM_OK)
		for (size_t i = 0; i < tensors.count; i++)
			crc = serm_crc32c(crc, tensors.tensors[i].data, tensors.tensors[i].bytes);
	else
		fprintf(stderr, "# %s\n", error.message);
	serm_arena_free(&arena);
	return crc;
}

/* Mean squared distance of the scores from the teacher's, or from the judgments, over the pairs of a kind. */
static double
distance(const World *world, bool from_teacher, bool judged)
{
	SermArena arena = unit_arena();
	SermTensorSet tensors;
	SermError error;
	SermModel *model;
	double sum = 0;
	uint32_t count = 0;

	CHECK(train(world, &arena, &tensors, &error) == SERM_OK, "it trains");
	CHECK(serm_model_open("interaction", &tensors, &arena, &model, &error) == SERM_OK, "and opens");
	for (uint32_t i = 0; i < PAIRS; i++) {
		const SermExample *example = &world->examples[i];
		SermPrediction prediction;
		SermQuery *query;
		double wanted = 0;

		if (world->judged[i] != judged)
			continue;
		for (uint32_t y = 0; y < GRADES; y++)
			wanted += y * (double) (from_teacher ? world->teacher[i * GRADES + y] : example->target[y]);
		(void) serm_model_parse_query(model, world->queries[example->query], &arena, &query, &error);
		(void) serm_model_predict(model, query, example->doc, &arena, &prediction, &error);
		sum += (prediction.score - wanted) * (prediction.score - wanted);
		count++;
	}
	serm_arena_free(&arena);
	return sum / count;
}

static void
test_grades(void)
{
	const float four[4] = {.1f, .2f, .3f, .4f}, two[2] = {.25f, .75f};
	float out[SERM_GRADES_MAX];

	serm_distill_grades(four, 4, out, 4);
	CHECK(memcmp(out, four, sizeof(four)) == 0, "equal grades are a copy");
	serm_distill_grades(four, 4, out, 2);
	CHECK_NEAR(out[1], (.2 + 2 * .3 + 3 * .4) / 3, 1e-6, "four grades as two keep their expectation");
	CHECK_NEAR(out[0] + out[1], 1, 1e-6, "and their mass");
	serm_distill_grades(four, 4, out, 3);
	CHECK_NEAR(out[0], .1 + .2 / 3, 1e-6, "a grade between two gives the nearer one more");
	CHECK_NEAR(out[1], .2 * 2 / 3 + .3 * 2 / 3, 1e-6, "from both sides");
	CHECK_NEAR(out[2], .4 + .3 / 3, 1e-6, "the best one stays the best");
	serm_distill_grades(two, 2, out, 4);
	CHECK_NEAR(out[2], .75, 1e-6, "two grades as four: the expected grade between its neighbours");
	CHECK_NEAR(out[3], .25, 1e-6, "of which the nearer one has more");
	CHECK(out[0] == 0 && out[1] == 0, "and nothing elsewhere");
	serm_distill_grades((const float[]){0, 1}, 2, out, 10);
	CHECK(out[9] == 1, "a sure teacher stays sure");
	serm_distill_grades((const float[]){0, 1.0005f}, 2, out, 10);
	CHECK(out[9] == 1, "whatever the last bits of his mass are");
}

static void
test_mix(void)
{
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	SermError error;
	uint32_t count;

	(void) serm_loss_parse("ce:1, kl:2, ranknet:.5", GRADES, terms, &count, &error);
	CHECK(serm_distill_mix(terms, &count, .75, true, &error) == SERM_OK && count == 3, "mixed");
	CHECK_NEAR(terms[0].coefficient, .25, 1e-12, "judgments have the rest");
	CHECK_NEAR(terms[1].coefficient, 1.5, 1e-12, "the teacher has alpha");
	(void) serm_loss_parse("ce:1, kl:2, ranknet:.5", GRADES, terms, &count, &error);
	CHECK(serm_distill_mix(terms, &count, .75, false, &error) == SERM_OK && count == 1 &&
	          terms[0].coefficient == 2,
	    "without judgments he has all");
	(void) serm_loss_parse("margin_mse, kl:2", GRADES, terms, &count, &error);
	CHECK(serm_distill_mix(terms, &count, .5, true, &error) == SERM_OK && count == 2 &&
	          terms[1].coefficient == 2,
	    "and where nothing else is asked for");
	(void) serm_loss_parse("ce, listnet", GRADES, terms, &count, &error);
	CHECK(serm_distill_mix(terms, &count, .5, true, &error) == SERM_ERR_INVALID, "somebody must learn");
}

static void
test_alpha(void)
{
	static World world;
	double followed;

	make_world(&world);
	world.options.alpha = .9;
	followed = distance(&world, true, false);
	world.options.alpha = .02;
	CHECK(
	    followed < distance(&world, true, false) / 2, "what nobody judged follows the teacher: %g", followed);
	CHECK(distance(&world, false, true) < distance(&world, true, true),
	    "a small alpha follows the judgments where there are some");
	world.options.alpha = 1;
	CHECK(distance(&world, true, true) < distance(&world, false, true), "alpha 1 does not");
}

static void
test_unjudged_targets(void)
{
	static World world;
	uint32_t before;

	make_world(&world);
	world.options.class_weights = true;
	world.options.calibrate = true;
	before = digest(&world);
	CHECK(before != 0 && digest(&world) == before, "the same bytes again");
	for (uint32_t i = 0; i < PAIRS; i++)
		if (!world.judged[i]) {
			memset(world.examples[i].target, 0, sizeof(world.examples[i].target));
			world.examples[i].target[1] = 1;
			world.examples[i].weight = 7;
		}
	CHECK(digest(&world) == before, "target and weight of what nobody judged are not read");
	world.teacher[0] -= .01f;
	world.teacher[1] += .01f;
	CHECK(digest(&world) != before, "what the teacher says is");
	make_world(&world);
	before = digest(&world);
	for (uint32_t i = 0; i < PAIRS; i++)
		world.weight[i] = 3;
	CHECK(digest(&world) == before, "weights for the teacher count by their ratios");
	for (uint32_t i = 0; i < PAIRS; i++)
		world.weight[i] = world.judged[i] ? 1 : 0;
	world.teacher[DOCS * GRADES] -= .01f;
	world.teacher[DOCS * GRADES + 1] += .01f;
	CHECK(!world.judged[DOCS], "the second query is not judged");
	before = digest(&world);
	world.teacher[DOCS * GRADES] -= .01f;
	world.teacher[DOCS * GRADES + 1] += .01f;
	CHECK(digest(&world) == before, "where he has no weight he says nothing");
}

/* One list of more documents than a loss sees together is cut, its judged ones wherever they are. */
static void
test_long_list(void)
{
	enum { LONG = 1300 };
	static SermExample examples[LONG];
	static uint8_t judged[LONG];
	static float teacher[LONG * GRADES];
	static char texts[LONG][40];
	static World world;

	make_world(&world);
	for (uint32_t i = 0; i < LONG; i++) {
		snprintf(texts[i], sizeof(texts[0]), "%s no%u", i % 2 == 0 ? "alpha0" : "other", i);
		examples[i] = (SermExample){.doc = {texts[i], strlen(texts[i])}, .weight = 1};
		examples[i].target[i % 2 == 0 ? 3 : 0] = 1;
		judged[i] = i % 7 == 0;
		for (uint32_t y = 0; y < GRADES; y++)
			teacher[i * GRADES + y] = y == (i % 2 == 0 ? 3u : 0u) ? 1 : 0;
	}
	world.set.examples = examples;
	world.set.example_count = LONG;
	world.set.judged = judged;
	world.set.teacher = teacher;
	world.set.teacher_weight = NULL;
	world.options.epochs = 2;
	CHECK(digest(&world) != 0 && digest(&world) == digest(&world), "a list of %d documents", LONG);
}

static void
test_refusals(void)
{
	static World world;
	SermArena arena = unit_arena();
	SermTensorSet tensors;
	SermError error;

	make_world(&world);
	world.set.teacher = NULL;
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_INVALID, "nobody teaches");
	make_world(&world);
	world.options.alpha = 0;
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_INVALID, "alpha 0");
	make_world(&world);
	world.options.temperature = 0;
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_INVALID, "temperature 0");
	make_world(&world);
	world.weight[3] = -1;
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_INVALID, "a negative weight");
	make_world(&world);
	memset(world.weight, 0, sizeof(world.weight));
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_NO_DATA, "a teacher who says nothing");
	make_world(&world);
	world.options.loss = "ce";
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_INVALID, "a loss that does not listen");
	make_world(&world);
	world.teacher[5] = NAN;
	CHECK(train(&world, &arena, &tensors, &error) == SERM_ERR_INVALID, "a teacher who is no number");
	make_world(&world);
	memset(world.judged, 0, sizeof(world.judged));
	CHECK(train(&world, &arena, &tensors, &error) == SERM_OK, "no judgment at all is fine");
	serm_arena_free(&arena);
}

/* --- the same of an encoder's head */

enum { MEMBERS = 5 };

typedef struct Head {
	SermEncoderExample examples[MEMBERS];
	float teacher[MEMBERS * GRADES];
	SermEncoderSet set;
	SermEncoderOptions options;
	uint32_t labels, members[MEMBERS];
	SermReal logits[MEMBERS * GRADES], d_logits[MEMBERS * GRADES];
} Head;

static void
make_head(Head *head, uint32_t labels)
{
	*head = (Head){.labels = labels};
	serm_encoder_options_defaults(&head->options);
	head->options.loss = "ce:1, ranknet:.5, kl(temperature=2):1, margin_mse:.3";
	head->options.alpha = .3;
	head->set = (SermEncoderSet){.grade_count = GRADES,
	    .examples = head->examples,
	    .example_count = MEMBERS,
	    .query_count = 1,
	    .teacher = head->teacher,
	    .distilled = true};
	for (uint32_t i = 0; i < MEMBERS; i++) {
		head->members[i] = i;
		head->examples[i] = (SermEncoderExample){
		    .weight = 1.5f - .2f * (float) i, .teacher_weight = .8f, .unjudged = i % 2 == 0};
		head->examples[i].target[i % GRADES] = 1;
		for (uint32_t y = 0; y < GRADES; y++)
			head->teacher[i * GRADES + y] = y == (i + 1) % GRADES ? .7f : .1f;
		for (uint32_t y = 0; y < labels; y++)
			head->logits[i * labels + y] = (SermReal) sin(3 * i + y);
	}
}

static double
head_loss(Head *head)
{
	SermArena arena = unit_arena();
	SermEncoderLoss loss;
	SermError error;
	double value = NAN;

	if (serm_encoder_loss_init(&loss, &head->set, head->labels, &head->options, &arena, &error) == SERM_OK)
		value = serm_encoder_loss_list(&loss, head->members, MEMBERS, head->logits, 1, head->d_logits);
	serm_arena_free(&arena);
	return value;
}

static void
test_encoder_head(uint32_t labels)
{
	Head head, other;
	double value, hard, soft, worst = 0;

	make_head(&head, labels);
	value = head_loss(&head);
	for (uint32_t i = 0; i < MEMBERS * labels; i++) {
		double above, below;

		other = head;
		other.logits[i] += (SermReal) 1e-2;
		above = head_loss(&other);
		other.logits[i] -= (SermReal) 2e-2;
		below = head_loss(&other);
		worst = fmax(worst, fabs((above - below) / 2e-2 - head.d_logits[i]));
	}
	CHECK(worst < 2e-3, "the derivative of a mixed loss of %u labels: off by %g", labels, worst);
	other = head;
	other.examples[0].target[0] = 0, other.examples[0].target[3] = 1, other.examples[0].weight = 9;
	CHECK(head_loss(&other) == value, "what is not judged has no target");
	make_head(&other, labels);
	other.options.loss = "kl(temperature=2):1, margin_mse:.3";
	soft = head_loss(&other);
	other.options.loss = "ce:1, ranknet:.5";
	other.set.distilled = false;
	/* The two judged members alone. */
	other.examples[0] = head.examples[1], other.examples[1] = head.examples[3];
	memcpy(other.logits, head.logits + labels, labels * sizeof(SermReal));
	memcpy(other.logits + labels, head.logits + 3 * labels, labels * sizeof(SermReal));
	{
		SermArena arena = unit_arena();
		SermEncoderLoss loss;
		SermError error;

		(void) serm_encoder_loss_init(&loss, &other.set, labels, &other.options, &arena, &error);
		hard = serm_encoder_loss_list(&loss, other.members, 2, other.logits, 1, other.d_logits);
		serm_arena_free(&arena);
	}
	CHECK_NEAR(value, .3 * soft + .7 * hard, 1e-5, "it is alpha of one and the rest of the other");
	other = head;
	other.options.loss = "ce";
	CHECK(isnan(head_loss(&other)), "a loss that does not listen is refused");
}

int
main(void)
{
	test_grades();
	test_mix();
	test_alpha();
	test_unjudged_targets();
	test_long_list();
	test_refusals();
	test_encoder_head(1);
	test_encoder_head(GRADES);
	DONE();
}
