#include "core/base/rng.h"
#include "core/train/loss.h"
#include "unit.h"

#define N 9
#define GRADES 4

typedef struct Fixture {
	SermReal logits[N * GRADES], distributions[N * GRADES];
	SermReal scores[N], grades[N], weights[N], ones[N];
} Fixture;

static void
make_fixture(Fixture *fixture)
{
	SermRng rng;

	serm_rng_seed(&rng, 5);
	for (int i = 0; i < N; i++) {
		fixture->scores[i] = (SermReal) serm_rng_normal(&rng);
		fixture->grades[i] = (SermReal) serm_rng_below(&rng, GRADES);
		fixture->weights[i] = (SermReal) (0.25 + serm_rng_uniform(&rng));
		fixture->ones[i] = 1;
		for (int y = 0; y < GRADES; y++) {
			fixture->logits[i * GRADES + y] = (SermReal) serm_rng_normal(&rng);
			fixture->distributions[i * GRADES + y] = y == (int) fixture->grades[i] ? 0.75f : 0.25f / 3;
		}
	}
}

static SermLossList
list_of(const Fixture *fixture, const SermLoss *loss, uint32_t n, const SermReal *weights)
{
	if (loss->input == SERM_LOSS_LOGITS)
		return (SermLossList){n, GRADES, fixture->logits, fixture->distributions, weights};
	return (SermLossList){n, 1, fixture->scores, fixture->grades, weights};
}

/* What every line of the table promises. */
static void
test_table(const Fixture *fixture)
{
	const SermLoss *loss;

	for (size_t l = 0; (loss = serm_loss_at(l)) != NULL; l++) {
		SermLossList list = list_of(fixture, loss, N, NULL);
		SermReal gradient[N * GRADES], twin[N * GRADES], doubled[N], shifted[N];
		double value = loss->function(&list, &loss->defaults, gradient), sum = 0, largest = 0;

		CHECK(serm_loss_find(loss->name) == loss, "%s is found by its name", loss->name);
		CHECK(isfinite(value) && value > 0, "%s is finite and positive", loss->name);
		list.weights = fixture->ones;
		CHECK(loss->function(&list, &loss->defaults, twin) == value &&
		          memcmp(gradient, twin, N * list.width * sizeof(*twin)) == 0,
		    "%s: weights of 1 give the bits of no weights", loss->name);
		for (int i = 0; i < N; i++)
			doubled[i] = 2;
		list.weights = doubled;
		CHECK_NEAR(loss->function(&list, &loss->defaults, twin), 2 * value, 1e-9,
		    "%s: weights have degree one", loss->name);
		list = list_of(fixture, loss, 0, NULL);
		CHECK(loss->function(&list, &loss->defaults, twin) == 0, "%s of an empty list is 0", loss->name);
		if (!loss->relative)
			continue;
		for (int i = 0; i < N; i++) {
			sum += gradient[i];
			largest = fmax(largest, fabs((double) gradient[i]));
			shifted[i] = fixture->scores[i] + 2;
		}
		CHECK(fabs(sum) < 1e-5 * largest * N, "%s: gradients sum to 0", loss->name);
		list = (SermLossList){N, 1, shifted, fixture->grades, NULL};
		CHECK_NEAR(
		    loss->function(&list, &loss->defaults, twin), value, 1e-5, "%s does not see a shift", loss->name);
		list.n = 1;
		twin[0] = 7;
		CHECK(loss->function(&list, &loss->defaults, twin) == 0 && twin[0] == 0, "%s of one document is 0",
		    loss->name);
	}
	CHECK(serm_loss_find("no such loss") == NULL, "an unknown loss is not found");
}

static void
test_cross_entropy(void)
{
	const SermLoss *loss = serm_loss_find("cross_entropy");
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

int
main(void)
{
	Fixture fixture;

	make_fixture(&fixture);
	test_table(&fixture);
	test_cross_entropy();
	test_ranknet();
	DONE();
}
