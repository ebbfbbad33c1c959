#include "core/base/rng.h"
#include "core/train/loss.h"
#include "unit.h"

#define N 9
#define GRADES 4

typedef struct Fixture {
	SermReal logits[N * GRADES], distributions[N * GRADES], teacher[N * GRADES];
	SermReal scores[N], grades[N], teacher_scores[N], reference[N], rank[N], weights[N], ones[N];
} Fixture;

static void
make_fixture(Fixture *fixture)
{
	SermRng rng;

	serm_rng_seed(&rng, 5);
	for (int i = 0; i < N; i++) {
		fixture->scores[i] = (SermReal) serm_rng_normal(&rng);
		fixture->grades[i] = (SermReal) serm_rng_below(&rng, GRADES);
		fixture->teacher_scores[i] = (SermReal) serm_rng_normal(&rng);
		fixture->reference[i] = (SermReal) serm_rng_normal(&rng);
		fixture->rank[i] = (SermReal) (N - i);
		fixture->weights[i] = (SermReal) (0.25 + serm_rng_uniform(&rng));
		fixture->ones[i] = 1;
		for (int y = 0; y < GRADES; y++) {
			fixture->logits[i * GRADES + y] = (SermReal) serm_rng_normal(&rng);
			fixture->distributions[i * GRADES + y] = y == (int) fixture->grades[i] ? 0.75f : 0.25f / 3;
			fixture->teacher[i * GRADES + y] = y == (i + 1) % GRADES ? 0.625f : 0.125f;
		}
	}
}

static SermLossList
list_of(const Fixture *fixture, const SermLoss *loss, uint32_t n, const SermReal *weights)
{
	bool wide = loss->input == SERM_LOSS_LOGITS;

	return (SermLossList){.n = n,
	    .width = wide ? GRADES : 1,
	    .scores = wide ? fixture->logits : fixture->scores,
	    .targets = wide ? fixture->distributions : fixture->grades,
	    .weights = weights,
	    .rank = fixture->rank,
	    .teacher = wide ? fixture->teacher : fixture->teacher_scores,
	    .reference = fixture->reference};
}

/* The loss by its name and with its defaults; `gradient` may be NULL. */
static double
value_of(const char *name, const SermLossList *list, SermReal *gradient)
{
	const SermLoss *loss = serm_loss_find(name);
	SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
	SermReal ignored[64];

	return loss->function(list, &parameters, gradient != NULL ? gradient : ignored);
}

/* A list of scores and grades. */
static SermLossList
scored(uint32_t n, const SermReal *scores, const SermReal *grades)
{
	return (SermLossList){.n = n, .width = 1, .scores = scores, .targets = grades};
}

static double
softplus(double x)
{
	return log1p(exp(-fabs(x))) + fmax(x, 0);
}

/* --- what every line of the table promises */

static void
test_weights_of(const Fixture *fixture, const SermLoss *loss)
{
	SermLossList list = list_of(fixture, loss, N, NULL);
	SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
	SermReal gradient[N * GRADES], twin[N * GRADES], doubled[N];
	double value = loss->function(&list, &parameters, gradient);

	CHECK(serm_loss_find(loss->name) == loss, "%s is found by its name", loss->name);
	CHECK(isfinite(value) && value > 0, "%s is finite and positive", loss->name);
	list.weights = fixture->ones;
	CHECK(loss->function(&list, &parameters, twin) == value &&
	          memcmp(gradient, twin, N * list.width * sizeof(*twin)) == 0,
	    "%s: weights of 1 give the bits of no weights", loss->name);
	for (int i = 0; i < N; i++)
		doubled[i] = 2;
	list.weights = doubled;
	CHECK_NEAR(
	    loss->function(&list, &parameters, twin), 2 * value, 1e-9, "%s: weights have degree one", loss->name);
	list.weights = fixture->weights;
	CHECK(loss->function(&list, &parameters, twin) != value, "%s: weights count", loss->name);
	list = list_of(fixture, loss, 0, NULL);
	CHECK(loss->function(&list, &parameters, twin) == 0, "%s of an empty list is 0", loss->name);
}

/* Reverse a list in place of a copy; the loss is the same, the gradient reversed. */
static void
test_order_of(const Fixture *fixture, const SermLoss *loss)
{
	SermLossList list = list_of(fixture, loss, N, fixture->weights);
	SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
	Fixture turned = *fixture;
	SermReal gradient[N * GRADES], twin[N * GRADES];
	double value = loss->function(&list, &parameters, gradient), difference = 0, size = 0;

	for (int i = 0; i < N; i++) {
		int j = N - 1 - i;

		turned.scores[i] = fixture->scores[j], turned.grades[i] = fixture->grades[j];
		turned.teacher_scores[i] = fixture->teacher_scores[j], turned.rank[i] = fixture->rank[j];
		turned.reference[i] = fixture->reference[j], turned.weights[i] = fixture->weights[j];
		for (int y = 0; y < GRADES; y++) {
			turned.logits[i * GRADES + y] = fixture->logits[j * GRADES + y];
			turned.distributions[i * GRADES + y] = fixture->distributions[j * GRADES + y];
			turned.teacher[i * GRADES + y] = fixture->teacher[j * GRADES + y];
		}
	}
	list = list_of(&turned, loss, N, turned.weights);
	CHECK_NEAR(loss->function(&list, &parameters, twin), value, 1e-6 * (1 + value),
	    "%s does not see the order of the list", loss->name);
	for (uint32_t i = 0; i < N; i++)
		for (uint32_t y = 0; y < list.width; y++) {
			double here = gradient[i * list.width + y];

			difference = fmax(difference, fabs(here - twin[(N - 1 - i) * list.width + y]));
			size = fmax(size, fabs(here));
		}
	CHECK(difference <= 1e-5 * size, "%s: nor does its gradient", loss->name);
}

static bool
finite_at(const SermLoss *loss, const SermLossList *list)
{
	SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
	SermReal gradient[N * GRADES];
	double value;

	for (uint32_t i = 0; i < list->n * list->width; i++)
		gradient[i] = NAN;
	value = loss->function(list, &parameters, gradient);
	for (uint32_t i = 0; i < list->n * list->width; i++)
		if (!isfinite(gradient[i]))
			return false;
	return isfinite(value) && value >= 0;
}

static void
test_extremes_of(const Fixture *fixture, const SermLoss *loss)
{
	Fixture odd = *fixture;
	SermLossList list = list_of(&odd, loss, N, NULL);

	for (int i = 0; i < N; i++)
		odd.scores[i] = i % 2 == 0 ? 80 : -80;
	for (int i = 0; i < N * GRADES; i++)
		odd.logits[i] = i % 3 == 0 ? 80 : -80;
	CHECK(finite_at(loss, &list), "%s is finite at scores of 80 and -80", loss->name);
	for (int i = 0; i < N; i++)
		odd.scores[i] = -odd.scores[i];
	for (int i = 0; i < N * GRADES; i++)
		odd.logits[i] = -odd.logits[i];
	CHECK(finite_at(loss, &list), "%s is finite at -80 and 80", loss->name);
	for (int i = 0; i < N; i++)
		odd.scores[i] = 1;
	memset(odd.logits, 0, sizeof(odd.logits));
	CHECK(finite_at(loss, &list), "%s is finite where all scores tie", loss->name);
	odd = *fixture;
	for (int grade = 0; grade < GRADES; grade += GRADES - 1) {
		for (int i = 0; i < N; i++) {
			odd.grades[i] = (SermReal) grade;
			for (int y = 0; y < GRADES; y++)
				odd.distributions[i * GRADES + y] = y == grade;
		}
		CHECK(finite_at(loss, &list), "%s is finite where all grades are %d", loss->name, grade);
	}
	list.n = 1;
	CHECK(finite_at(loss, &list), "%s is finite for one document", loss->name);
}

static void
test_shift_of(const Fixture *fixture, const SermLoss *loss)
{
	SermLossList list = list_of(fixture, loss, N, fixture->weights);
	SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
	SermReal gradient[N], twin[N], shifted[N];
	double value = loss->function(&list, &parameters, gradient), sum = 0, largest = 0;

	for (int i = 0; i < N; i++) {
		sum += gradient[i];
		largest = fmax(largest, fabs((double) gradient[i]));
		shifted[i] = fixture->scores[i] + 2;
	}
	list.scores = shifted;
	if (!loss->relative) {
		CHECK(fabs(sum) > 1e-3 * largest, "%s: gradients do not sum to 0", loss->name);
		CHECK(fabs(loss->function(&list, &parameters, twin) - value) > 1e-3, "%s sees a shift", loss->name);
		return;
	}
	CHECK(fabs(sum) < 1e-5 * largest * N, "%s: gradients sum to 0", loss->name);
	CHECK_NEAR(loss->function(&list, &parameters, twin), value, 1e-5, "%s does not see a shift", loss->name);
	list.n = 1;
	twin[0] = 7;
	CHECK(
	    loss->function(&list, &parameters, twin) == 0 && twin[0] == 0, "%s of one document is 0", loss->name);
}

/* The longest list there may be: a buffer that is too small shows under the sanitizers. */
static void
test_length_of(const SermLoss *loss)
{
	static SermReal scores[SERM_LOSS_LIST_MAX * GRADES], targets[SERM_LOSS_LIST_MAX * GRADES],
	    gradient[SERM_LOSS_LIST_MAX * GRADES], other[SERM_LOSS_LIST_MAX * GRADES];
	bool wide = loss->input == SERM_LOSS_LOGITS;
	SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
	SermLossList list = {.n = SERM_LOSS_LIST_MAX,
	    .width = wide ? GRADES : 1,
	    .scores = scores,
	    .targets = targets,
	    .teacher = wide ? targets : other,
	    .reference = other};

	for (uint32_t i = 0; i < list.n * list.width; i++) {
		scores[i] = (SermReal) (i * 37 % 101) / 30;
		targets[i] = (SermReal) (wide ? i / GRADES % GRADES == i % GRADES : i * 7 % 30 / 10.0);
	}
	CHECK(isfinite(loss->function(&list, &parameters, gradient)), "%s of %d documents", loss->name,
	    SERM_LOSS_LIST_MAX);
}

static void
test_table(const Fixture *fixture)
{
	const SermLoss *loss;

	for (size_t l = 0; (loss = serm_loss_at(l)) != NULL; l++) {
		test_weights_of(fixture, loss);
		test_order_of(fixture, loss);
		test_extremes_of(fixture, loss);
		if (loss->input == SERM_LOSS_SCORES)
			test_shift_of(fixture, loss);
		test_length_of(loss);
	}
	CHECK(serm_loss_find("no such loss") == NULL, "an unknown loss is not found");
}

/* --- one loss at a time */

static void
test_ce(void)
{
	const SermLoss *loss = serm_loss_find("ce");
	SermReal logits[6] = {0, 0, 0, 0, (SermReal) log(2), 0}, targets[6] = {1, 0, 0, 0.5, 0.5, 0}, gradient[6];
	SermReal weights[2] = {1, 3}, huge[3] = {1000, 0, -1000}, far_target[3] = {0, 0, 1};
	SermLossList list = {2, 3, logits, targets, NULL};
	double second = -(0.5 * log(0.25) + 0.5 * log(0.5));

	CHECK_NEAR(loss->function(&list, &loss->defaults, gradient), (log(3) + second) / 2, 1e-6,
	    "cross-entropy: hand-worked mean with a soft target");
	CHECK_NEAR(gradient[0], (1.0 / 3 - 1) / 2, 1e-6, "cross-entropy: P - t over n, hard target");
	CHECK_NEAR(gradient[4], (0.5 - 0.5) / 2, 1e-6, "cross-entropy: P - t over n, soft target");
	list.weights = weights;
	CHECK_NEAR(loss->function(&list, &loss->defaults, gradient), (log(3) + 3 * second) / 2, 1e-6,
	    "cross-entropy: weights multiply");
	list = (SermLossList){1, 3, huge, far_target, NULL};
	CHECK_NEAR(
	    loss->function(&list, &loss->defaults, gradient), 2000, 1e-3, "cross-entropy does not overflow");
	CHECK(isfinite(gradient[0]) && isfinite(gradient[2]), "nor does its gradient");
}

static void
test_ranknet(void)
{
	const SermLoss *loss = serm_loss_find("ranknet");
	SermReal scores[3] = {0.5, 0.5, 0}, grades[3] = {2, 1, 1}, gradient[3];
	SermReal close[2] = {1, (SermReal) 1.2}, weights[3] = {4, 1, 9};
	SermLossList list = {3, 1, scores, grades, NULL};
	double apart = log1p(exp(-1.5));

	CHECK_NEAR(loss->function(&list, &loss->defaults, gradient), (log(2) + apart) / 2, 1e-6,
	    "RankNet: hand-worked mean over two pairs, one with tied scores");
	CHECK_NEAR(gradient[1], 3 * 0.5 / 2, 1e-6, "RankNet: a tied pair pulls with half the slope");
	CHECK_NEAR(gradient[2], 3 / (1 + exp(1.5)) / 2, 1e-6, "RankNet: an ordered pair pulls less");
	list.weights = weights;
	CHECK_NEAR(loss->function(&list, &loss->defaults, gradient), (2 * log(2) + 6 * apart) / 2, 1e-6,
	    "RankNet: a pair weighs the geometric mean");
	list = (SermLossList){2, 1, scores, close, NULL};
	gradient[0] = 7;
	CHECK(loss->function(&list, &loss->defaults, gradient) == 0 && gradient[0] == 0,
	    "RankNet: grades within the threshold make no pair");
	scores[0] = -3000, scores[1] = 3000;
	list = (SermLossList){2, 1, scores, grades, NULL};
	CHECK_NEAR(loss->function(&list, &loss->defaults, gradient), 18000, 1e-2, "RankNet does not overflow");
}

static void
test_ordinal(void)
{
	SermReal logits[3] = {0, 0, 0}, one[3] = {0, 1, 0}, two[3] = {0, 0, 1}, soft[3] = {.5, .5, 0};
	SermLossList list = {.n = 1, .width = 3, .scores = logits, .targets = one};
	double near;

	CHECK_NEAR(value_of("ordinal", &list, NULL), -log(2.0 / 3), 1e-6, "ordinal: both thresholds at 2/3");
	list.targets = soft;
	CHECK_NEAR(value_of("ordinal", &list, NULL), (-.5 * log(2.0 / 3) - .5 * log(1.0 / 3) - log(2.0 / 3)) / 2,
	    1e-6, "ordinal: a soft grade lies on both sides of a threshold");
	logits[0] = 2;
	list.targets = one;
	near = value_of("ordinal", &list, NULL);
	list.targets = two;
	CHECK(value_of("ordinal", &list, NULL) > near + .5, "ordinal: a miss by two costs more than one by one");
	CHECK_NEAR(
	    value_of("ce", &list, NULL), log(2 + exp(2)), 1e-6, "which the cross-entropy does not tell apart");
}

static void
test_kl(void)
{
	SermReal logits[3] = {0, (SermReal) log(2), 0}, teacher[3] = {.25, .5, .25}, sure[3] = {1, 0, 0},
	         gradient[3];
	SermLossList list = {.n = 1, .width = 3, .scores = logits, .targets = sure, .teacher = teacher};
	const SermLoss *kl = serm_loss_find("kl");
	SermLossParameters parameters;

	CHECK_NEAR(value_of("kl", &list, gradient), 0, 1e-6, "kl of the teacher's own distribution is 0");
	CHECK(fabs(gradient[0]) < 1e-6 && fabs(gradient[1]) < 1e-6, "and so is its gradient");
	list.teacher = sure;
	CHECK_NEAR(value_of("kl", &list, NULL), log(4), 1e-6, "kl of a sure teacher is the cross-entropy");
	parameters = kl->defaults;
	parameters.temperature = 2;
	CHECK_NEAR(kl->function(&list, &parameters, gradient), 4 * log(2 + sqrt(2)), 1e-5,
	    "a temperature flattens the student, and its square makes up for that");
	list.teacher = teacher;
	CHECK_NEAR(kl->function(&list, &parameters, gradient), 0, 1e-6, "and the teacher alike");
	CHECK(fabs(gradient[0]) < 1e-6, "with its gradient");
}

static void
test_ranknet_teacher(void)
{
	SermReal scores[3] = {1, 2, 0}, teacher[3] = {3, 1, 1}, grades[3] = {0, 3, 1}, gradient[3], twin[3];
	SermLossList list = scored(3, scores, grades), order = scored(3, scores, teacher);

	list.teacher = teacher;
	CHECK(value_of("ranknet_teacher", &list, gradient) == value_of("ranknet", &order, twin) &&
	          memcmp(gradient, twin, sizeof(twin)) == 0,
	    "ranknet_teacher is ranknet on the teacher's scores");
	CHECK(gradient[0] < 0 && gradient[1] > 0, "which lift what he puts first");
}

static void
test_tcm(void)
{
	SermReal scores[4] = {1.5, 2.5, (SermReal) 1.4, .5}, grades[4] = {3, 2, 0, 0}, gradient[4];
	SermLossList list = scored(4, scores, grades);

	CHECK_NEAR(value_of("tcm", &list, gradient), .25 + .2, 1e-6, "tcm: mean shortfall plus mean excess");
	CHECK(gradient[0] == -.5 && gradient[1] == 0 && gradient[2] == .5 && gradient[3] == 0,
	    "tcm pulls what lies on the wrong side only");
	scores[0] = 2, scores[2] = 1;
	CHECK(value_of("tcm", &list, NULL) == 0, "tcm is 0 once every score keeps its side");
}

static void
test_ranknet_skip(void)
{
	SermReal scores[4] = {1, (SermReal) .5, 2, 0}, grades[4] = {3, 2, 1, 1}, gradient[4], twin[4];
	SermLossList list = scored(4, scores, grades);
	const SermLoss *skip = serm_loss_find("ranknet_skip");
	SermLossParameters parameters = serm_loss_parameters(skip, GRADES);
	double near = (softplus(-1.5) + softplus(4.5) + softplus(-1.5)) / 3, value;

	value = value_of("ranknet_adjacent", &list, gradient);
	CHECK_NEAR(value, near, 1e-6, "ranknet_adjacent: neighbouring grades only");
	parameters.skip = 1;
	CHECK(skip->function(&list, &parameters, twin) == value && memcmp(twin, gradient, sizeof(twin)) == 0,
	    "ranknet_skip over one level is the same, bit for bit");
	parameters.skip = 2;
	CHECK(skip->function(&list, &parameters, twin) == value_of("ranknet", &list, gradient) &&
	          memcmp(twin, gradient, sizeof(twin)) == 0,
	    "over all levels it is RankNet");
	parameters.skip = 1, parameters.last = 2;
	CHECK_NEAR(skip->function(&list, &parameters, twin), near, 1e-6, "its reach begins at skip");
	list.progress = 1;
	CHECK(skip->function(&list, &parameters, twin) == value_of("ranknet", &list, NULL), "and ends at last");
	for (int i = 0; i < 2; i++) {
		double before = value_of("ranknet_skip", &list, NULL);

		scores[i] += (SermReal) .25, scores[2] -= (SermReal) .25, scores[3] -= (SermReal) .25;
		CHECK(value_of("ranknet_skip", &list, NULL) < before, "it falls when grade %d gains", 3 - i);
	}
}

static void
test_hinge_rank(void)
{
	SermReal scores[3] = {1, (SermReal) .8, 0}, grades[3] = {3, 2, 0}, gradient[3];
	SermLossList list = scored(3, scores, grades);

	CHECK_NEAR(value_of("hinge_rank", &list, gradient), .1 / 3, 1e-6, "hinge_rank: one pair lacks .1");
	CHECK_NEAR(gradient[0], -1.0 / 3, 1e-6, "and pulls with all its share");
	CHECK(gradient[2] == 0, "while the others rest");
	scores[0] = (SermReal) 1.2;
	CHECK(value_of("hinge_rank", &list, NULL) == 0, "hinge_rank is 0 where each pair is apart by its grades");
}

static void
test_bt_wt(void)
{
	SermReal scores[2] = {1, 1}, grades[2] = {3, 3}, gradient[2];
	SermLossList list = scored(2, scores, grades);
	double least = value_of("bt_wt", &list, gradient);

	CHECK_NEAR(least, log(2), 1e-6, "bt_wt: relevant documents that tie cost ln 2 at equal scores");
	CHECK(gradient[0] == 0 && gradient[1] == 0, "and rest there");
	for (int side = -1; side <= 1; side += 2) {
		scores[0] = (SermReal) (1 + side * .5);
		CHECK(value_of("bt_wt", &list, gradient) > least, "bt_wt: a tie is dearer on side %d", side);
		scores[0] = (SermReal) (1 + side * 50);
		(void) value_of("bt_wt", &list, gradient);
		CHECK_NEAR(fabs(gradient[0]), 1.5, 1e-5, "bt_wt: a tie pulls with half the slope at most");
	}
	grades[0] = grades[1] = 1;
	CHECK(value_of("bt_wt", &list, NULL) == 0, "bt_wt: ties below relevance say nothing");
	grades[0] = 2;
	CHECK(value_of("bt_wt", &list, NULL) == value_of("ranknet", &list, NULL), "bt_wt: a win is RankNet's");
}

static void
test_lambda_ndcg(void)
{
	SermReal scores[3] = {0, 1, (SermReal) .5}, grades[3] = {1, 0, 0}, gradient[3], tied[2] = {1, 1},
	         two[2] = {2, 0};
	SermLossList list = scored(2, scores, grades);
	double worth = 2 * (1 - 1 / log2(3));

	CHECK_NEAR(value_of("lambda_ndcg", &list, gradient), worth * softplus(3), 1e-5,
	    "lambda_ndcg: one pair, worth what its exchange gains in NDCG");
	list.n = 3;
	(void) value_of("lambda_ndcg", &list, gradient);
	CHECK(gradient[1] > gradient[2], "the document at the top is pushed most");
	list = scored(2, tied, two);
	CHECK(value_of("lambda_ndcg", &list, gradient) > 0 && gradient[0] < 0,
	    "equal scores are not taken for good");
	grades[0] = 0;
	list = scored(3, scores, grades);
	CHECK(value_of("lambda_ndcg", &list, NULL) == 0, "without a relevant document there is no NDCG");
}

static void
test_dpo(void)
{
	SermReal scores[2] = {(SermReal) .25, (SermReal) .75}, grades[2] = {2, 0}, reference[2] = {0, 0},
	         gradient[2], twin[2];
	SermLossList list = scored(2, scores, grades);
	double wrong = 0;

	list.reference = reference;
	CHECK(value_of("dpo", &list, gradient) == value_of("ranknet", &list, twin) &&
	          memcmp(gradient, twin, sizeof(twin)) == 0,
	    "dpo with a reference that says nothing is RankNet");
	list.reference = scores;
	CHECK_NEAR(value_of("dpo", &list, NULL), log(2), 1e-6, "dpo starts at ln 2 from the reference");
	/* Theorem 4.1 of Chen et al. (NeurIPS 2024). */
	list.reference = reference;
	for (int c = -4; c <= 4; c++)
		for (int d = -8; d <= 8; d++) {
			double bound = softplus(-3 * c / 2.0);

			reference[1] = (SermReal) (c / 2.0);
			scores[0] = (SermReal) (d / 4.0), scores[1] = (SermReal) .125;
			wrong += (scores[0] > scores[1]) != (value_of("dpo", &list, NULL) < bound);
		}
	CHECK(wrong == 0, "dpo: a pair is right exactly when its loss is below that of undoing the reference");
}

static double
phi(double x)
{
	return x / (exp(x) - 1);
}

static void
test_mapo(void)
{
	SermReal logits[4] = {0, 1, (SermReal) .5, 0}, targets[4] = {0, 1, 1, 0}, gradient[4];
	SermLossList list = {.n = 2, .width = 2, .scores = logits, .targets = targets};
	const SermLoss *mapo = serm_loss_find("mapo");
	SermLossParameters parameters = mapo->defaults;
	/* Both against the grade of the better one, which is document 0. */
	double winner = log1p(exp(-1)), loser = log1p(exp(.5));
	double x = 5 * (phi(.5 * winner) - phi(.5 * loser));

	CHECK_NEAR(value_of("mapo", &list, gradient), (winner + log1p(exp(-.5))) / 2 + .1 * softplus(-x), 1e-6,
	    "mapo: likelihood of both, preference of the better one");
	parameters.preference = 0;
	CHECK(mapo->function(&list, &parameters, gradient) == value_of("ce", &list, NULL),
	    "mapo without a preference is the cross-entropy");
	parameters.preference = 1000;
	(void) mapo->function(&list, &parameters, gradient);
	CHECK(gradient[1] < 0 && gradient[3] > 0, "the preference raises the better document, lowers the worse");
	logits[0] = logits[2] = 40, logits[1] = logits[3] = -40;
	CHECK(isfinite(mapo->function(&list, &parameters, gradient)) && isfinite(gradient[1]),
	    "phi does not overflow");
}

static void
test_margin_mse(void)
{
	SermReal scores[3] = {1, 0, 0}, teacher[3] = {3, 1, 1}, grades[3] = {0, 0, 0}, gradient[3], twin[3];
	SermLossList list = scored(3, scores, grades);
	double value;

	list.teacher = teacher;
	value = value_of("margin_mse", &list, gradient);
	CHECK_NEAR(value, 2.0 / 3, 1e-6, "margin_mse: two pairs of three are wrong by one");
	CHECK_NEAR(gradient[0], -4.0 / 3, 1e-6, "by twice the error");
	CHECK_NEAR(gradient[1], 2.0 / 3, 1e-6, "shared by the others");
	for (int i = 0; i < 3; i++)
		teacher[i] += 10;
	CHECK_NEAR(
	    value_of("margin_mse", &list, twin), value, 1e-5, "margin_mse does not see the teacher's level");
	for (int i = 0; i < 3; i++)
		teacher[i] *= 2;
	CHECK(value_of("margin_mse", &list, NULL) > value, "but his scale");
}

static void
test_listnet(void)
{
	SermReal scores[3] = {0, 0, 0}, grades[3] = {2, 1, 0}, gradient[3];
	SermLossList list = scored(3, scores, grades);

	CHECK_NEAR(value_of("listnet", &list, gradient), log(3), 1e-6, "listnet of flat scores is ln n");
	CHECK_NEAR(
	    gradient[0], 1.0 / 3 - exp(2) / (exp(2) + exp(1) + 1), 1e-6, "with the difference of the shares");
	list.scores = grades;
	(void) value_of("listnet", &list, gradient);
	CHECK(fabs(gradient[0]) < 1e-6 && fabs(gradient[2]) < 1e-6, "scores that are the grades are its optimum");
}

static void
test_listmle(void)
{
	SermReal flat[3] = {0, 0, 0}, right[3] = {1, (SermReal) .5, 0}, wrong[3] = {0, (SermReal) .5, 1},
	         grades[3] = {2, 1, 0}, ties[3] = {2, 2, 0}, gradient[3];
	const SermLoss *loss = serm_loss_find("listmle");
	SermLossParameters parameters = loss->defaults;
	SermLossList list = scored(3, flat, grades), other = scored(3, wrong, grades);
	double gap = 0;

	CHECK_NEAR(
	    value_of("listmle", &list, NULL), (log(3) + log(2)) / 3, 1e-6, "listmle: the likelihood of an order");
	list.targets = ties;
	CHECK_NEAR(value_of("listmle", &list, NULL), 2 * log(2) / 3, 1e-6, "listmle: a tie is not an order");
	flat[0] = 1;
	(void) value_of("listmle", &list, gradient);
	CHECK(gradient[0] < 0 && gradient[1] < 0 && gradient[0] > gradient[1],
	    "which of the two leads does not matter");
	list = scored(3, right, grades);
	for (double temperature = 2; temperature > .1; temperature /= 2) {
		double before = gap;

		parameters.temperature = temperature;
		gap = loss->function(&other, &parameters, gradient) - loss->function(&list, &parameters, gradient);
		CHECK(gap > before, "listmle: right beats wrong, more so at temperature %g", temperature);
	}
	parameters.temperature = 2, parameters.last = .5;
	list.progress = 1;
	gap = loss->function(&list, &parameters, gradient);
	parameters.temperature = .5, parameters.last = 0;
	CHECK_NEAR(
	    gap, loss->function(&list, &parameters, gradient), 1e-9, "listmle: the temperature ends at last");
}

static void
test_irpo(void)
{
	SermReal scores[3] = {(SermReal) .5, 1, 0}, grades[3] = {1, 0, 0}, rank[3] = {3, 1, 2}, gradient[3];
	SermLossList list = scored(3, scores, grades);
	double level = log((exp(1.5) + exp(-1.5)) / 2);

	CHECK_NEAR(
	    value_of("irpo", &list, gradient), softplus(level) / 3, 1e-6, "irpo: one relevant document of three");
	list.rank = rank;
	CHECK_NEAR(value_of("irpo", &list, NULL), softplus(level) / 6, 1e-6, "irpo: place three halves it");
	grades[0] = 2, grades[1] = 1;
	(void) value_of("irpo", &list, gradient);
	list.rank = NULL;
	(void) value_of("irpo", &list, gradient);
	CHECK(gradient[0] < gradient[1] && gradient[0] < gradient[2], "irpo: the best document is pulled most");
	list.reference = scores;
	CHECK_NEAR(value_of("irpo", &list, NULL), (3 + 1 / log2(3)) / 3 * log(2), 1e-5,
	    "irpo: where the scores are the reference's, each level is 0");
}

static void
test_infonce_multi(void)
{
	SermReal scores[3] = {1, (SermReal) .5, 0}, grades[3] = {2, 1, 0}, gradient[3];
	SermLossList list = scored(3, scores, grades);
	double t = .33, all = exp(1 / t) + exp(.5 / t) + 1;

	CHECK_NEAR(value_of("infonce_multi", &list, gradient), -log(exp(1 / t) / all), 1e-6,
	    "infonce_multi with one relevant document is InfoNCE");
	CHECK_NEAR(gradient[0], (exp(1 / t) / all - 1) / t, 1e-5, "and so is its gradient");
	grades[1] = 2;
	CHECK_NEAR(
	    value_of("infonce_multi", &list, NULL), -log((exp(1 / t) + exp(.5 / t)) / all), 1e-6, "two share");
	grades[2] = 3;
	CHECK(value_of("infonce_multi", &list, NULL) == 0, "where all are relevant there is nothing to tell");
	grades[0] = grades[1] = grades[2] = 1;
	CHECK(value_of("infonce_multi", &list, NULL) == 0, "nor where none is");
}

/* MADPO: bounded, decreasing, capped. */
static void
test_margin(void)
{
	SermReal scores[2] = {0, 0}, grades[2] = {1, 0}, margin[2] = {0, 0};
	SermLossList list = scored(2, scores, grades);
	double plain = value_of("ranknet", &list, NULL), before = INFINITY;

	list.margin = (SermLossMargin){margin, .5, 2, 1.5};
	for (int h = -10; h <= 10; h++) {
		double weight;

		margin[0] = (SermReal) h;
		weight = value_of("ranknet", &list, NULL) / plain;
		CHECK(weight > 0 && weight <= 1.5 && weight <= before, "a margin of %d weighs %.3f", h, weight);
		before = weight;
	}
	margin[0] = (SermReal) .5;
	CHECK_NEAR(value_of("ranknet", &list, NULL), plain, 1e-9, "the median margin weighs 1");
	margin[0] = -100;
	CHECK_NEAR(
	    value_of("ranknet", &list, NULL), 1.5 * plain, 1e-9, "what looks flipped weighs the cap, no more");
}

/* --- a sum as text */

static void
test_parse(void)
{
	static const struct {
		const char *text, *problem;
	} bad[] = {
	    {"", "name of a loss expected"},
	    {"ce:1,", "name of a loss expected"},
	    {"ce;ranknet", "comma expected"},
	    {"softmax:1", "unknown loss \"softmax\""},
	    {"ce:0", "coefficient of loss \"ce\""},
	    {"ce:-1", "coefficient of loss \"ce\""},
	    {"ce:1e9", "coefficient of loss \"ce\""},
	    {"ce:", "number expected"},
	    {"ce:nan", "number expected"},
	    {"ce:1e", "number expected"},
	    {"ce:1e99", "number expected"},
	    {"ce,ranknet,ce", "loss \"ce\" is named twice"},
	    {"ranknet(slope=3", "parameters of loss \"ranknet\" are not closed"},
	    {"ranknet(slope)", "parameter \"slope\" has no value"},
	    {"ranknet(temperature=1)", "loss \"ranknet\" has no parameter \"temperature\""},
	    {"ce(slope=1)", "loss \"ce\" has no parameter \"slope\""},
	    {"ranknet(slope=0)", "parameter \"slope\" of loss \"ranknet\" must be between"},
	    {"ce,ordinal,ranknet,ranknet_adjacent,ranknet_skip,hinge_rank,bt_wt,listnet,irpo",
	        "more than 8 losses"},
	};
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	SermError error;
	uint32_t count;

	CHECK(serm_loss_parse("ce", 4, terms, &count, &error) == SERM_OK && count == 1 &&
	          terms[0].coefficient == 1 && terms[0].loss == serm_loss_find("ce"),
	    "a name alone");
	CHECK(serm_loss_parse(" ce : 1 , listmle ( temperature = .5, last=1e-1 ) :\n0.3 ", 4, terms, &count,
	          &error) == SERM_OK &&
	          count == 2 && terms[1].coefficient == .3 && terms[1].parameters.temperature == .5 &&
	          terms[1].parameters.last == .1,
	    "a sum with parameters and blanks");
	CHECK(serm_loss_parse("tcm:12.5e-1", 5, terms, &count, &error) == SERM_OK &&
	          terms[0].coefficient == 1.25 && terms[0].parameters.relevant == 3 &&
	          terms[0].parameters.high == 3 && terms[0].parameters.low == 2,
	    "what is not given follows from the number of grades");
	CHECK(serm_loss_parse("tcm(relevant=2,low=0)", 5, terms, &count, &error) == SERM_OK &&
	          terms[0].parameters.high == 2 && terms[0].parameters.low == 0,
	    "what is given stays");
	for (size_t i = 0; i < SERM_LENGTH(bad); i++) {
		SermStatus status = serm_loss_parse(bad[i].text, 4, terms, &count, &error);

		CHECK(status == SERM_ERR_INVALID && strstr(error.message, bad[i].problem) != NULL, "\"%s\": %s",
		    bad[i].text, bad[i].problem);
	}
}

static void
test_require(void)
{
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	SermError error;
	uint32_t count;

	(void) serm_loss_parse("ce,kl,dpo", 4, terms, &count, &error);
	CHECK(serm_loss_require(terms, count, SERM_LOSS_TEACHER | SERM_LOSS_REFERENCE, &error) == SERM_OK,
	    "all is there");
	CHECK(serm_loss_require(terms, count, SERM_LOSS_REFERENCE, &error) == SERM_ERR_INVALID &&
	          strstr(error.message, "\"kl\" needs the scores of a teacher") != NULL,
	    "a teacher is missed by name");
	CHECK(serm_loss_require(terms, count, SERM_LOSS_TEACHER, &error) == SERM_ERR_INVALID &&
	          strstr(error.message, "\"dpo\" needs the scores of a reference") != NULL,
	    "and a reference");
}

int
main(void)
{
	Fixture fixture;

	make_fixture(&fixture);
	test_table(&fixture);
	test_ce();
	test_ranknet();
	test_ordinal();
	test_kl();
	test_tcm();
	test_ranknet_skip();
	test_hinge_rank();
	test_bt_wt();
	test_lambda_ndcg();
	test_dpo();
	test_mapo();
	test_margin_mse();
	test_ranknet_teacher();
	test_listnet();
	test_listmle();
	test_irpo();
	test_infonce_multi();
	test_margin();
	test_parse();
	test_require();
	DONE();
}
