/*
 * Guessing masked words and telling matches, forward and back, against central
 * differences: in double for every parameter, the embeddings among them, which
 * are used twice, and for the bias of the guess.
 */
#include "core/train/encoder_masked.h"
#include "encoder_fixture.h"

#ifdef SERM_REAL_DOUBLE
#define STEP 1e-5
#define TOLERANCE 1e-6
#else
#define STEP 1e-2
#define TOLERANCE 1e-2
#endif

enum { COUNT = 3, WORD_SCALE = 2 };

typedef struct Problem {
	SermEncoderConfig config;
	SermMaskedInput inputs[COUNT];
	double dropout;
	SermReal *flat, *bias;
	SermArena *arena;
} Problem;

static double
run_problem(const Problem *problem, SermEncoderBack *back, SermReal *d_bias)
{
	SermArenaMark mark = serm_arena_mark(problem->arena);
	SermMasked masked = {
	    .encoder = fixture_encoder(&problem->config, SERM_PRECISION_F32, problem->flat, problem->arena),
	    .back = back,
	    .words = problem->flat,
	    .bias = problem->bias,
	    .drop_hidden = problem->dropout,
	    .drop_attention = problem->dropout,
	    .drop_class = problem->dropout,
	    .seed = 7};
	double loss = 0;
	SermError error;

	(void) serm_encoder_back_clear(back, NULL);
	serm_encoder_back_pack(back, problem->flat, NULL);
	serm_masked_init(&masked, problem->arena);
	(void) serm_masked_pack(&masked);
	if (serm_masked_group(&masked, problem->inputs, COUNT, WORD_SCALE, .5, problem->arena, &loss, &error) !=
	    SERM_OK)
		return NAN;
	memcpy(d_bias, masked.d_bias, problem->config.vocab * sizeof(SermReal));
	serm_arena_rewind(problem->arena, mark);
	return loss;
}

static Problem
make_problem(uint32_t labels, double dropout, SermArena *arena)
{
	static const uint32_t places[COUNT][3] = {{1, 3, 6}, {0}, {2, 8}},
	                      answers[COUNT][3] = {{4, 0, 8}, {5}, {5, 5}}, counts[COUNT] = {3, 0, 2};
	Problem problem = {.config = fixture_config(SERM_ENCODER_BERT), .dropout = dropout, .arena = arena};
	SermRng rng;

	problem.config.layers = 2, problem.config.hidden = 12, problem.config.heads = 2;
	problem.config.intermediate = 20, problem.config.vocab = 9, problem.config.positions = 12;
	problem.config.labels = labels;
	problem.flat = fixture_flat(&problem.config, 61, arena);
	problem.bias = serm_arena_array(arena, problem.config.vocab, sizeof(SermReal));
	serm_rng_seed(&rng, 62);
	for (uint32_t i = 0; i < problem.config.vocab; i++)
		problem.bias[i] = (SermReal) (.3 * serm_rng_normal(&rng));
	for (uint32_t i = 0; i < COUNT; i++)
		problem.inputs[i] =
		    (SermMaskedInput){fixture_input(&problem.config, (const uint32_t[]){7, 2, 9}[i], &rng, arena),
		        places[i], answers[i], counts[i], (const double[]){1, 0, .3}[i]};
	return problem;
}

static double
numeric(Problem *problem, SermEncoderBack *back, SermReal *at, double step)
{
	SermReal kept = *at, unused[16];
	double above;

	*at = kept + (SermReal) step;
	above = run_problem(problem, back, unused);
	*at = kept - (SermReal) step;
	above -= run_problem(problem, back, unused);
	*at = kept;
	return above / (2 * step);
}

static void
test_gradient(uint32_t labels, double dropout, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Problem problem = make_problem(labels, dropout, arena);
	SermEncoderBack back = {.config = &problem.config, .gemm = &serm_gemm_packed}, other = back;
	size_t count = serm_encoder_layout(&problem.config).count;
	size_t stride = sizeof(SermReal) == sizeof(double) ? 1 : 17;
	SermReal d_bias[16];
	double error = 0, norm = 0, loss;

	serm_encoder_back_init(&back, NULL, arena);
	serm_encoder_back_init(&other, NULL, arena);
	loss = run_problem(&problem, &back, d_bias);
	for (size_t i = 0; i < count + problem.config.vocab; i += stride) {
		SermReal *at = i < count ? problem.flat + i : problem.bias + (i - count);
		double wanted = numeric(&problem, &other, at, STEP),
		       got = i < count ? back.gradient[i] : d_bias[i - count];

		error += (wanted - got) * (wanted - got);
		norm += wanted * wanted;
	}
	CHECK(isfinite(loss) && sqrt(error / norm) < TOLERANCE, "%u labels, dropout %.1f: gradients within %.2g",
	    labels, dropout, sqrt(error / norm));
	serm_arena_rewind(arena, mark);
}

/* With a bias that says all and words that say nothing the loss is that of the bias. */
static void
test_value(SermArena *arena)
{
	Problem problem = make_problem(4, 0, arena);
	SermEncoderBack back = {.config = &problem.config, .gemm = &serm_gemm_packed};
	SermEncoderLayout layout = serm_encoder_layout(&problem.config);
	SermReal d_bias[16];
	double loss, expected = 0;

	memset(problem.flat + layout.words, 0, (layout.positions - layout.words) * sizeof(SermReal));
	memset(problem.flat + layout.class, 0, 4 * problem.config.hidden * sizeof(SermReal));
	memset(problem.flat + layout.class_bias, 0, 4 * sizeof(SermReal));
	memset(problem.bias, 0, problem.config.vocab * sizeof(SermReal));
	problem.bias[5] = 2;
	serm_encoder_back_init(&back, NULL, arena);
	loss = run_problem(&problem, &back, d_bias);
	/* Answers 4, 0, 8, then 5, 5; three heads that know nothing of four grades. */
	expected = WORD_SCALE * (5 * log(8 + exp(2)) - 2 * 2) + .5 * 3 * log(4);
	CHECK(fabs(loss - expected) < 1e-4, "the loss is %.6f, by hand %.6f", loss, expected);
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_gradient(4, 0, &arena);
	test_gradient(1, .3, &arena);
	test_value(&arena);
	serm_arena_free(&arena);
	DONE();
}
