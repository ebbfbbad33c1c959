/*
 * The way back through the encoder against central differences: in float along
 * the gradient of each tensor, in double for every single parameter. With and
 * without dropout, with the last layer cut to first tokens and whole.
 */
#include "core/train/encoder_back.h"
#include "encoder_fixture.h"

#ifdef SERM_REAL_DOUBLE
#define STEP 1e-5
#define TOLERANCE 1e-6
#else
#define STEP 1e-2
#define TOLERANCE 1e-2
#endif

enum { COUNT = 4, LABELS = 3 };

typedef struct Problem {
	SermEncoderConfig config;
	SermEncoderInput inputs[COUNT];
	double slope[COUNT * LABELS]; /* of the loss: sum of slope x logit + logit^2 / 2 */
	double dropout;
	bool all_rows;
	SermReal *flat;
	SermArena *arena;
} Problem;

/* The loss of one group; the gradient too where `back` is not NULL. */
static double
run_problem(const Problem *problem, SermEncoderBack *back)
{
	SermArenaMark mark = serm_arena_mark(problem->arena);
	const SermEncoderInput *list[COUNT];
	SermEncoderRun run = {
	    .encoder = fixture_encoder(&problem->config, SERM_PRECISION_F32, problem->flat, problem->arena),
	    .inputs = list,
	    .count = COUNT,
	    .keep = back != NULL,
	    .all_rows = problem->all_rows,
	    .drop_hidden = problem->dropout,
	    .drop_attention = problem->dropout,
	    .drop_class = problem->dropout,
	    .drop_embedding = problem->dropout,
	    .seed = 7};
	SermReal d_logits[COUNT * LABELS];
	double loss = 0;
	SermError error;

	for (int i = 0; i < COUNT; i++)
		list[i] = &problem->inputs[i];
	if (serm_encoder_prepare(&run, problem->arena, &error) != SERM_OK ||
	    serm_encoder_forward(&run, &error) != SERM_OK)
		return NAN;
	for (int i = 0; i < COUNT * LABELS; i++) {
		double z = run.logits[i];

		loss += z * problem->slope[i] + z * z / 2;
		d_logits[i] = (SermReal) (problem->slope[i] + z);
	}
	if (back != NULL) {
		(void) serm_encoder_back_clear(back, NULL);
		serm_encoder_back_pack(back, problem->flat, NULL);
		if (serm_encoder_backward(back, &run, d_logits, problem->arena, &error) != SERM_OK)
			return NAN;
	}
	serm_arena_rewind(problem->arena, mark);
	return loss;
}

static Problem
make_problem(SermEncoderConfig config, double dropout, bool all_rows, SermArena *arena)
{
	Problem problem = {.config = config, .dropout = dropout, .all_rows = all_rows, .arena = arena};
	SermRng rng;

	problem.config.layers = 2, problem.config.hidden = 12, problem.config.heads = 2;
	problem.config.intermediate = 20, problem.config.vocab = 9, problem.config.positions = 12;
	problem.config.labels = LABELS;
	problem.flat = fixture_flat(&problem.config, 61, arena);
	serm_rng_seed(&rng, 62);
	for (uint32_t i = 0; i < COUNT; i++)
		problem.inputs[i] = fixture_input(&problem.config, (const uint32_t[]){7, 1, 9, 4}[i], &rng, arena);
	for (int i = 0; i < COUNT * LABELS; i++)
		problem.slope[i] = serm_rng_normal(&rng);
	return problem;
}

/* The relative error of the derivative along the gradient of one tensor; 0 for a gradient that is 0. */
static double
entry_error(Problem *problem, const SermEncoderEntry *entry, const SermReal *gradient)
{
	double norm = 0, value[2], path = 0;
	SermReal kept[512];

	for (size_t i = 0; i < entry->count; i++)
		norm += (double) gradient[i] * gradient[i];
	norm = sqrt(norm);
	/* Softmax does not see a constant: the gradient of the keys' bias is rounding. */
	if (norm < 1e-5)
		return strstr(entry->name, "key.bias") != NULL ? 0 : 1;
	memcpy(kept, problem->flat + entry->offset, entry->count * sizeof(SermReal));
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < entry->count; i++) {
			SermReal *at = problem->flat + entry->offset + i;

			*at = kept[i] + (SermReal) ((side == 0 ? STEP : -STEP) * gradient[i] / norm);
			path += (side == 0 ? 1 : -1) * ((double) *at - kept[i]) * gradient[i];
		}
		value[side] = run_problem(problem, NULL);
	}
	memcpy(problem->flat + entry->offset, kept, entry->count * sizeof(SermReal));
	return fabs((value[0] - value[1]) / path - 1);
}

#ifdef SERM_REAL_DOUBLE
static double
parameter_error(Problem *problem, const SermReal *gradient, size_t count)
{
	double error = 0, norm = 0;

	for (size_t i = 0; i < count; i++) {
		SermReal kept = problem->flat[i];
		double above, numeric;

		problem->flat[i] = kept + STEP;
		above = run_problem(problem, NULL);
		problem->flat[i] = kept - STEP;
		numeric = (above - run_problem(problem, NULL)) / (2 * STEP);
		problem->flat[i] = kept;
		error += (numeric - gradient[i]) * (numeric - gradient[i]);
		norm += numeric * numeric;
	}
	return sqrt(error / norm);
}
#endif

static void
test_gradient(SermEncoderConfig config, double dropout, bool all_rows, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Problem problem = make_problem(config, dropout, all_rows, arena);
	SermEncoderBack back = {.config = &problem.config, .gemm = &serm_gemm_packed};
	SermEncoderLayout layout = serm_encoder_layout(&problem.config);
	double worst = 0;

	serm_encoder_back_init(&back, NULL, arena);
	run_problem(&problem, &back);
	for (uint32_t e = 0; e < serm_encoder_entry_count(&problem.config); e++) {
		SermEncoderEntry entry;
		double error;

		serm_encoder_entry(&problem.config, &layout, e, &entry);
		error = entry_error(&problem, &entry, back.gradient + entry.offset);
		if (error > TOLERANCE)
			printf("# %s: %.3g\n", entry.name, error);
		worst = fmax(worst, error);
	}
	CHECK(worst < TOLERANCE, "%s, curve %d, dropout %.1f, %s: each tensor",
	    serm_encoder_architecture_name(config.architecture), (int) config.activation, dropout,
	    config.pooling == SERM_POOLING_MEAN ? "mean"
	    : all_rows                          ? "all rows"
	                                        : "first rows");
#ifdef SERM_REAL_DOUBLE
	CHECK(parameter_error(&problem, back.gradient, layout.count) < TOLERANCE, "... each parameter");
#endif
	serm_arena_rewind(arena, mark);
}

/* Two groups give the sum of their gradients, and freezing changes nothing above what is frozen. */
static void
test_accumulation(SermEncoderArchitecture architecture, SermArena *arena)
{
	Problem problem = make_problem(fixture_config(architecture), 0, false, arena);
	SermEncoderLayout layout = serm_encoder_layout(&problem.config);
	SermLayerLayout lower = serm_encoder_layer(&problem.config, &layout, 0),
	                upper = serm_encoder_layer(&problem.config, &layout, 1);
	SermEncoderBack all = {.config = &problem.config, .gemm = &serm_gemm_packed}, frozen = all;
	bool same = true, nothing = true;

	frozen.frozen = 1;
	serm_encoder_back_init(&all, NULL, arena);
	serm_encoder_back_init(&frozen, NULL, arena);
	run_problem(&problem, &all);
	run_problem(&problem, &frozen);
	CHECK(all.gradient[lower.query_bias] != 0 && frozen.gradient[lower.query_bias] == 0 &&
	          frozen.gradient[upper.gamma1] != 0 && frozen.gradient[layout.class_bias] != 0,
	    "biases and norms are frozen with their layer");
	for (size_t i = upper.query; i < layout.pool; i++)
		same = same && all.gradient[i] == frozen.gradient[i];
	for (size_t i = lower.query; i < upper.query; i++)
		nothing = nothing && frozen.gradient[i] == 0 && (all.gradient[i] != 0 || i >= lower.up);
	for (size_t i = layout.words; i < layout.layer_plain; i++)
		nothing = nothing && frozen.gradient[i] == 0;
	CHECK(same, "above the frozen layer the gradient is the same");
	CHECK(nothing, "below it there is none");
	CHECK(all.touched_count > 0 && all.touched_count <= problem.config.vocab && frozen.touched_count == 0,
	    "the words that occurred are known");
}

static SermEncoderConfig
config_of(SermEncoderArchitecture architecture, SermEncoderActivation activation)
{
	SermEncoderConfig config = fixture_config(architecture);

	config.activation = activation;
	return config;
}

/* Both poolings, with and without biases, and every curve where there are two. */
static void
test_modern(SermArena *arena)
{
	SermEncoderConfig config = config_of(SERM_ENCODER_MODERNBERT, SERM_ACTIVATION_GELU);

	test_gradient(config, 0, false, arena);
	test_gradient(config, .3, false, arena);
	test_gradient(config, .3, true, arena);
	config.pooling = SERM_POOLING_MEAN;
	config.activation = SERM_ACTIVATION_SILU, config.classifier_activation = SERM_ACTIVATION_GELU_TANH;
	test_gradient(config, .3, false, arena);
	config.attention_bias = config.mlp_bias = config.norm_bias = config.classifier_bias = false;
	test_gradient(config, 0, false, arena);
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_gradient(config_of(SERM_ENCODER_BERT, SERM_ACTIVATION_GELU), 0, false, &arena);
	test_gradient(config_of(SERM_ENCODER_BERT, SERM_ACTIVATION_GELU), .3, false, &arena);
	test_gradient(config_of(SERM_ENCODER_BERT, SERM_ACTIVATION_GELU), .3, true, &arena);
	test_gradient(config_of(SERM_ENCODER_ROBERTA, SERM_ACTIVATION_GELU), 0, true, &arena);
	test_gradient(config_of(SERM_ENCODER_BERT, SERM_ACTIVATION_GELU_TANH), 0, false, &arena);
	test_gradient(config_of(SERM_ENCODER_BERT, SERM_ACTIVATION_SILU), 0, false, &arena);
	test_modern(&arena);
	test_accumulation(SERM_ENCODER_BERT, &arena);
	test_accumulation(SERM_ENCODER_MODERNBERT, &arena);
	serm_arena_free(&arena);
	DONE();
}
