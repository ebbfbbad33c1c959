/*
 * Analytic gradients against central differences: of every loss by each of
 * its scores, and of the whole network by each of its layers. Built twice, in
 * float (relative error below 1e-3) and in double (below 1e-6).
 */
#include "core/train/loss.h"
#include "core/train/network.h"
#include "core/train/pretrain.h"
#include "unit.h"

#ifdef SERM_REAL_DOUBLE
#define STEP 1e-5
#define TOLERANCE 1e-6
#else
#define STEP 4e-3
#define TOLERANCE 1e-3
#endif

#define N 12
#define GRADES 4
#define INPUTS 7

static double
difference_of_norms(const double *actual, const double *expected, size_t count)
{
	double error = 0, norm = 0;

	for (size_t i = 0; i < count; i++) {
		error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
		norm += expected[i] * expected[i];
	}
	return sqrt(error / norm);
}

typedef struct Example {
	SermReal scores[N * GRADES], targets[N * GRADES], teacher[N * GRADES];
	SermReal weights[N], rank[N], reference[N], margin[N];
} Example;

/* A row of numbers; as a distribution where there is one per grade. */
static void
fill_row(SermRng *rng, uint32_t width, SermReal *row)
{
	double sum = 0;

	for (uint32_t y = 0; y < width; y++)
		sum += row[y] = (SermReal) (width > 1 ? serm_rng_uniform(rng) : serm_rng_below(rng, GRADES));
	for (uint32_t y = 0; width > 1 && y < width; y++)
		row[y] /= (SermReal) sum;
}

/* Everything that a loss may read, so that a new line of the table is tested without a word here. */
static SermLossList
make_example(Example *example, const SermLoss *loss, bool weighted, bool by_margin, SermRng *rng)
{
	uint32_t width = loss->input == SERM_LOSS_LOGITS ? GRADES : 1;
	SermLossList list = {.n = N,
	    .width = width,
	    .scores = example->scores,
	    .targets = example->targets,
	    .weights = weighted ? example->weights : NULL,
	    .rank = weighted ? example->rank : NULL,
	    .teacher = example->teacher,
	    .reference = example->reference,
	    .margin = {by_margin ? example->margin : NULL, .2, .8, 1.2},
	    .progress = weighted ? .5 : 0};

	for (uint32_t i = 0; i < N; i++) {
		example->weights[i] = (SermReal) (0.5 + serm_rng_uniform(rng));
		example->rank[i] = (SermReal) (1 + serm_rng_below(rng, 20));
		example->reference[i] = (SermReal) (3 * serm_rng_uniform(rng));
		example->margin[i] = (SermReal) serm_rng_normal(rng);
		fill_row(rng, width, example->targets + i * width);
		fill_row(rng, width, example->teacher + i * width);
		/* Scores lie where f lies and apart from each other: no step changes a place. */
		for (uint32_t y = 0; y < width; y++)
			example->scores[i * width + y] =
			    (SermReal) (width > 1 ? serm_rng_normal(rng)
			                          : .25 * ((5 * i) % N) + .1 * serm_rng_uniform(rng));
	}
	return list;
}

static void
test_losses(bool weighted, bool by_margin)
{
	const SermLoss *loss;
	SermRng rng;

	serm_rng_seed(&rng, 21);
	for (size_t l = 0; (loss = serm_loss_at(l)) != NULL; l++) {
		SermLossParameters parameters = serm_loss_parameters(loss, GRADES);
		Example example;
		SermLossList list = make_example(&example, loss, weighted, by_margin, &rng);
		SermReal gradient[N * GRADES], ignored[N * GRADES];
		double analytic[N * GRADES], numeric[N * GRADES];

		loss->function(&list, &parameters, gradient);
		for (uint32_t i = 0; i < N * list.width; i++) {
			SermReal kept = example.scores[i], up = kept + (SermReal) STEP, down = kept - (SermReal) STEP;
			double above;

			example.scores[i] = up;
			above = loss->function(&list, &parameters, ignored);
			example.scores[i] = down;
			numeric[i] = (above - loss->function(&list, &parameters, ignored)) / ((double) up - down);
			example.scores[i] = kept;
			analytic[i] = gradient[i];
		}
		CHECK(difference_of_norms(analytic, numeric, N * list.width) < TOLERANCE, "%s%s%s: gradient",
		    loss->name, weighted ? ", weighted" : "", by_margin ? ", by margin" : "");
	}
}

/* A loss on scores, seen from the logits. */
static void
test_expectation(void)
{
	const SermLoss *loss = serm_loss_find("ranknet");
	SermReal logits[N * GRADES], probability[N * GRADES], score[N], grade[N], d_score[N];
	SermReal d_logits[N * GRADES] = {0};
	double analytic[N * GRADES], numeric[N * GRADES];
	SermLossList list = {.n = N, .width = 1, .scores = score, .targets = grade};
	SermRng rng;

	serm_rng_seed(&rng, 25);
	for (uint32_t i = 0; i < N; i++)
		grade[i] = (SermReal) serm_rng_below(&rng, GRADES);
	for (uint32_t i = 0; i < N * GRADES; i++)
		logits[i] = (SermReal) serm_rng_normal(&rng);
	serm_loss_expect(N, GRADES, logits, probability, score);
	loss->function(&list, &loss->defaults, d_score);
	serm_loss_expect_back(N, GRADES, probability, score, 2, d_score, d_logits);
	for (uint32_t i = 0; i < N * GRADES; i++) {
		SermReal kept = logits[i], up = kept + (SermReal) STEP, down = kept - (SermReal) STEP;
		double above;

		logits[i] = up;
		serm_loss_expect(N, GRADES, logits, probability, score);
		above = loss->function(&list, &loss->defaults, d_score);
		logits[i] = down;
		serm_loss_expect(N, GRADES, logits, probability, score);
		numeric[i] = 2 * (above - loss->function(&list, &loss->defaults, d_score)) / ((double) up - down);
		logits[i] = kept;
		analytic[i] = d_logits[i];
	}
	CHECK(difference_of_norms(analytic, numeric, N * GRADES) < TOLERANCE,
	    "a loss on f: gradient by the logits");
}

typedef struct Problem {
	SermNetwork network;
	SermNetworkBatch batch;
	SermReal targets[N * GRADES];
	SermRng dropout; /* copied for each pass, so that each drops the same */
} Problem;

static double
problem_loss(Problem *problem, const SermReal *parameters)
{
	const SermLoss *loss = serm_loss_find("ce");
	SermLossList list = {
	    .n = N, .width = GRADES, .scores = problem->batch.logits, .targets = problem->targets};
	SermRng rng = problem->dropout;

	serm_network_forward(
	    &problem->network, parameters, N, problem->network.dropout > 0 ? &rng : NULL, &problem->batch);
	return loss->function(&list, &loss->defaults, problem->batch.d_logits);
}

/* Along the gradient of one layer the derivative is the norm of that gradient. */
static double
layer_error(Problem *problem, SermReal *parameters, const SermReal *gradient, size_t start, size_t end,
    SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermReal *moved = serm_arena_array(arena, serm_network_layout(&problem->network).count, sizeof(*moved));
	double norm = 0, value[2], path = 0;

	for (size_t i = start; i < end; i++)
		norm += (double) gradient[i] * gradient[i];
	norm = sqrt(norm);
	for (int side = 0; side < 2; side++) {
		memcpy(moved, parameters, serm_network_layout(&problem->network).count * sizeof(*moved));
		for (size_t i = start; i < end; i++)
			moved[i] += (SermReal) ((side == 0 ? STEP : -STEP) * gradient[i] / norm);
		for (size_t i = start; i < end; i++)
			path += (side == 0 ? 1 : -1) * ((double) moved[i] - parameters[i]) * gradient[i];
		value[side] = problem_loss(problem, moved);
	}
	serm_arena_rewind(arena, mark);
	return fabs((value[0] - value[1]) / path - 1);
}

static void
test_network(double dropout, SermArena *arena)
{
	static const char *const names[] = {"w1", "b1", "w2", "b2", "w3", "b3"};
	Problem problem = {.network = {INPUTS, GRADES, dropout, serm_gemm_builtin}};
	SermNetworkLayout at = serm_network_layout(&problem.network);
	size_t starts[] = {at.w1, at.b1, at.w2, at.b2, at.w3, at.b3, at.count};
	SermReal *parameters = serm_arena_array(arena, at.count, sizeof(SermReal));
	SermReal *gradient = serm_arena_array(arena, at.count, sizeof(SermReal));
	SermRng rng;

	serm_rng_seed(&rng, 22);
	serm_rng_seed(&problem.dropout, 23);
	CHECK(serm_network_batch(&problem.network, N, arena, &problem.batch), "the batch is allocated");
	serm_network_init(&problem.network, &rng, parameters);
	/* Weights of the last layer and biases as large as after training, so that every gradient counts. */
	for (size_t i = 0; i < at.count; i++)
		if (i >= at.w3 || (i >= at.b1 && i < at.w2) || (i >= at.b2 && i < at.w3))
			parameters[i] = (SermReal) (0.5 * serm_rng_normal(&rng));
	for (size_t i = 0; i < N * INPUTS; i++)
		problem.batch.input[i] = (SermReal) serm_rng_normal(&rng);
	for (size_t i = 0; i < N; i++)
		problem.targets[i * GRADES + serm_rng_below(&rng, GRADES)] = 1;
	problem_loss(&problem, parameters);
	serm_network_backward(&problem.network, parameters, N, dropout > 0, &problem.batch, gradient);
	for (int layer = 0; layer < 6; layer++)
		CHECK(
		    layer_error(&problem, parameters, gradient, starts[layer], starts[layer + 1], arena) < TOLERANCE,
		    "network, dropout %.1f: gradient of %s", dropout, names[layer]);
#ifdef SERM_REAL_DOUBLE
	/* Rounding hides small single derivatives in float; in double each one is compared. */
	double *analytic = serm_arena_array(arena, at.count, sizeof(double));
	double *numeric = serm_arena_array(arena, at.count, sizeof(double));

	for (size_t i = 0; i < at.count; i++) {
		SermReal kept = parameters[i];
		double above;

		parameters[i] = kept + STEP;
		above = problem_loss(&problem, parameters);
		parameters[i] = kept - STEP;
		numeric[i] = (above - problem_loss(&problem, parameters)) / (2 * STEP);
		parameters[i] = kept;
		analytic[i] = gradient[i];
	}
	CHECK(difference_of_norms(analytic, numeric, at.count) < TOLERANCE,
	    "network, dropout %.1f: every parameter", dropout);
#endif
}

/* The in-batch softmax of pre-training, through both normalisations. */
static void
test_contrast(void)
{
	enum { ROWS = 6, SIZE = ROWS * SERM_EMBEDDING_WIDTH };
	SermReal queries[SIZE], rests[SIZE], d_queries[SIZE], d_rests[SIZE], unit_queries[SIZE], unit_rests[SIZE];
	SermReal similarity[ROWS * ROWS], kept_gradient[2 * SIZE];
	SermContrast contrast = {ROWS, queries, rests, d_queries, d_rests, unit_queries, unit_rests, similarity};
	double analytic[2 * SIZE], numeric[2 * SIZE], step = 10 * STEP;
	SermRng rng;

	serm_rng_seed(&rng, 24);
	for (int i = 0; i < SIZE; i++) {
		queries[i] = (SermReal) (2 * serm_rng_normal(&rng));
		rests[i] = (SermReal) (0.5 * queries[i] + 2 * serm_rng_normal(&rng));
	}
	serm_contrast_loss(&contrast, serm_gemm_builtin);
	memcpy(kept_gradient, d_queries, sizeof(d_queries));
	memcpy(kept_gradient + SIZE, d_rests, sizeof(d_rests));
	for (int i = 0; i < 2 * SIZE; i++) {
		SermReal *at = i < SIZE ? &queries[i] : &rests[i - SIZE], kept = *at;
		SermReal up = kept + (SermReal) step, down = kept - (SermReal) step;
		double above;

		*at = up;
		above = serm_contrast_loss(&contrast, serm_gemm_builtin);
		*at = down;
		numeric[i] = (above - serm_contrast_loss(&contrast, serm_gemm_builtin)) / ((double) up - down);
		*at = kept;
		analytic[i] = kept_gradient[i];
	}
	CHECK(
	    difference_of_norms(analytic, numeric, 2 * SIZE) < TOLERANCE, "pre-training: gradient of the batch");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_losses(false, false);
	test_losses(true, false);
	test_losses(true, true);
	test_expectation();
	test_contrast();
	test_network(0, &arena);
	test_network(0.2, &arena);
	serm_arena_free(&arena);
	DONE();
}
