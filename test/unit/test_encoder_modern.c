/*
 * ModernBERT against the numbers of the published implementation, against
 * plain loops in double, and its bits alone and in a batch.
 */
#include "core/model/model.h"
#include "core/train/encoder_back.h"
#include "encoder_modern_fixture.h"
#include "encoder_modern_golden.h"

#ifdef SERM_REAL_DOUBLE
#define LOGIT_TOLERANCE 1e-12
#define NORM_TOLERANCE 1e-13
#define GRADIENT_TOLERANCE 1e-12
#else
#define LOGIT_TOLERANCE 1e-5
#define NORM_TOLERANCE 1e-6
#define GRADIENT_TOLERANCE 1e-5
#endif

enum { VARIANTS = 4, COUNT = 6 };

/* The configs of the golden numbers, in their order. */
static SermEncoderConfig
variant_config(int variant)
{
	SermEncoderConfig config = {.architecture = SERM_ENCODER_MODERNBERT,
	    .layers = 4,
	    .hidden = 32,
	    .heads = 4,
	    .intermediate = 48,
	    .vocab = 61,
	    .positions = 64,
	    .labels = variant == 1 || variant == 2 ? 4 : 1,
	    .pooling = variant % 2 == 1 ? SERM_POOLING_MEAN : SERM_POOLING_CLS,
	    .eps = variant == 2 ? 1e-3 : 1e-5,
	    .global_every = variant == 2 ? 2 : 3,
	    .local_window = (const uint32_t[]){8, 8, 7, 12}[variant],
	    .global_theta = variant == 3 ? 500 : 160000,
	    .local_theta = variant == 3 ? 50 : 10000};

	config.norm_bias = config.attention_bias = config.mlp_bias = config.classifier_bias = variant >= 2;
	if (variant == 2)
		config.classifier_activation = SERM_ACTIVATION_SILU;
	if (variant == 3)
		config.activation = SERM_ACTIVATION_GELU_TANH;
	return config;
}

static void
make_inputs(const SermEncoderConfig *config, SermEncoderInput *inputs, SermArena *arena)
{
	for (uint32_t i = 0; i < MODERN_INPUTS; i++)
		inputs[i] = formula_input(config, i, formula_lengths[i], arena);
}

static void
test_logits(int variant, SermArena *arena)
{
	SermEncoderConfig config = variant_config(variant);
	SermReal *flat = formula_flat(&config, arena), logits[MODERN_INPUTS * 4];
	SermEncoder *encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
	SermEncoderInput inputs[MODERN_INPUTS];
	double worst = 0, plain = 0;
	bool same = true;
	SermError error;

	make_inputs(&config, inputs, arena);
	CHECK(serm_encoder_score(encoder, inputs, MODERN_INPUTS, NULL, arena, logits, &error) == SERM_OK,
	    "variant %d is scored", variant);
	for (uint32_t i = 0; i < MODERN_INPUTS; i++) {
		const SermReal *at = logits + i * config.labels;
		double expected[4];
		SermReal alone[4];

		plain_modern_forward(&config, flat, &inputs[i], expected, arena);
		serm_encoder_score(encoder, &inputs[i], 1, NULL, arena, alone, &error);
		same = same && memcmp(alone, at, config.labels * sizeof(SermReal)) == 0;
		for (uint32_t y = 0; y < config.labels; y++) {
			worst = fmax(worst, fabs(at[y] - modern_golden[variant].logits[i][y]));
			plain = fmax(plain, fabs(expected[y] - modern_golden[variant].logits[i][y]));
		}
	}
	CHECK(worst < LOGIT_TOLERANCE, "its logits are those of the published implementation");
	CHECK(plain < 1e-12, "and so are those of the plain loops");
	printf("# largest differences %.2g, %.2g\n", worst, plain);
	CHECK(same, "the same bits alone and in a batch");
}

/* Norms of layers, over every row; and keeping what the way back needs changes no bit. */
static void
test_norms(int variant, SermArena *arena)
{
	SermEncoderConfig config = variant_config(variant);
	SermReal *flat = formula_flat(&config, arena), logits[4];
	SermEncoder *encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
	double worst = 0;
	bool same = true;
	SermError error;

	for (int i = 0; i < 2; i++) {
		const double *golden = modern_golden[variant].norms[i];
		SermEncoderInput input = formula_input(&config, i == 0 ? 2 : 4, i == 0 ? 9 : 40, arena);
		const SermEncoderInput *list = &input;
		size_t hidden = config.hidden, all = input.length * hidden;

		serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error);
		for (int rows = 0; rows < 2; rows++) {
			SermEncoderRun run = {
			    .encoder = encoder, .inputs = &list, .count = 1, .keep = true, .all_rows = rows == 1};

			same = same && serm_encoder_prepare(&run, arena, &error) == SERM_OK &&
			       serm_encoder_forward(&run, &error) == SERM_OK &&
			       memcmp(run.logits, logits, config.labels * sizeof(SermReal)) == 0;
			worst = fmax(worst, fabs(formula_norm(run.pooled, hidden) / golden[6] - 1));
			if (config.pooling == SERM_POOLING_MEAN)
				worst = fmax(worst, fabs(formula_norm(run.final, all) / golden[5] - 1));
			for (uint32_t layer = 0; rows == 1 && layer <= config.layers; layer++) {
				const SermReal *x = layer == 0 ? run.layers[0].input : run.layers[layer - 1].output;

				worst = fmax(worst, fabs(formula_norm(x, all) / golden[layer] - 1));
			}
		}
	}
	CHECK(worst < NORM_TOLERANCE, "variant %d: golden norms of layers", variant);
	printf("# largest difference %.2g\n", worst);
	CHECK(same, "the logits have the same bits with and without what is kept");
}

static void
test_gradients(int variant, SermArena *arena)
{
	const ModernGolden *golden = &modern_golden[variant];
	SermEncoderConfig config = variant_config(variant);
	SermReal *flat = formula_flat(&config, arena);
	SermEncoderInput inputs[MODERN_INPUTS];

	make_inputs(&config, inputs, arena);
	formula_check_back(&config, flat, inputs, golden->loss, golden->losses, golden->gradients,
	    LOGIT_TOLERANCE, GRADIENT_TOLERANCE, arena);
}

/* Sizes at which panels, blocks of queries and windows end in the middle; windows beyond every text. */
static void
test_against_plain(SermArena *arena)
{
	static const struct {
		uint32_t hidden, heads, window, every;
		SermEncoderPooling pooling;
	} shapes[] = {{48, 3, 6, 2, SERM_POOLING_CLS}, {80, 2, 64, 3, SERM_POOLING_MEAN},
	    {96, 1, 33, 2, SERM_POOLING_MEAN}, {24, 4, 1000, 4, SERM_POOLING_CLS},
	    {40, 2, 2, 1, SERM_POOLING_MEAN}, {40, 2, 2, 5, SERM_POOLING_CLS}};
	SermReal *logits = serm_arena_array(arena, COUNT * 4, sizeof(*logits));
	SermRng rng;

	serm_rng_seed(&rng, 71);
	for (unsigned n = 0; n < SERM_LENGTH(shapes); n++) {
		SermEncoderConfig config = variant_config(n % 2 == 0 ? 1 : 2);
		SermEncoderInput inputs[COUNT];
		SermEncoder *encoder;
		double worst = 0;
		bool same = true;
		SermError error;
		SermReal *flat;

		config.hidden = shapes[n].hidden, config.heads = shapes[n].heads, config.positions = 150;
		config.local_window = shapes[n].window, config.global_every = shapes[n].every;
		config.pooling = shapes[n].pooling, config.labels = 4;
		flat = fixture_flat(&config, 70 + n, arena);
		encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
		for (uint32_t i = 0; i < COUNT; i++)
			inputs[i] = fixture_input(&config, i == 0 ? 130 : 1 + serm_rng_below(&rng, 60), &rng, arena);
		same = serm_encoder_score(encoder, inputs, COUNT, NULL, arena, logits, &error) == SERM_OK;
		for (uint32_t i = 0; i < COUNT; i++) {
			double expected[4];
			SermReal alone[4];

			plain_modern_forward(&config, flat, &inputs[i], expected, arena);
			for (int y = 0; y < 4; y++)
				worst = fmax(worst, fabs(logits[4 * i + y] - expected[y]));
			serm_encoder_score(encoder, &inputs[i], 1, NULL, arena, alone, &error);
			same = same && memcmp(alone, logits + 4 * i, sizeof(alone)) == 0;
		}
		CHECK(worst < LOGIT_TOLERANCE, "shape %u: logits of the plain loops", n);
		printf("# largest difference %.2g\n", worst);
		CHECK(same, "shape %u: the same bits alone and in a batch of %d", n, COUNT);
	}
}

static void
test_precision(SermPrecision precision, double tolerance, SermArena *arena)
{
	SermEncoderConfig config = variant_config(1);
	SermReal *flat = formula_flat(&config, arena), logits[MODERN_INPUTS * 4];
	SermEncoder *encoder = fixture_encoder(&config, precision, flat, arena);
	SermEncoderInput inputs[MODERN_INPUTS];
	double error2 = 0, norm2 = 0;
	bool same = true;
	SermError error;

	make_inputs(&config, inputs, arena);
	serm_encoder_score(encoder, inputs, MODERN_INPUTS, NULL, arena, logits, &error);
	for (uint32_t i = 0; i < MODERN_INPUTS; i++) {
		SermReal alone[4];

		serm_encoder_score(encoder, &inputs[i], 1, NULL, arena, alone, &error);
		same = same && memcmp(alone, logits + 4 * i, sizeof(alone)) == 0;
		for (int y = 0; y < 4; y++) {
			double expected = modern_golden[1].logits[i][y];

			error2 += (logits[4 * i + y] - expected) * (logits[4 * i + y] - expected);
			norm2 += expected * expected;
		}
	}
	CHECK(sqrt(error2 / norm2) < tolerance, "%s: logits move by %.2g of themselves",
	    serm_precision_name(precision), sqrt(error2 / norm2));
	CHECK(same, "%s: the same bits alone and in a batch", serm_precision_name(precision));
}

/* The longest input of the largest published encoder of this kind must fit into what a prediction may take.
 */
static void
test_room(void)
{
	static uint32_t ids[8192];
	SermEncoderConfig config = variant_config(1);
	SermEncoderInput input = {ids, NULL, SERM_LENGTH(ids), 0};
	SermEncoderRun run = {.inputs = (const SermEncoderInput *const[]){&input}, .count = 1};
	SermEncoder *encoder;
	SermArena arena;
	SermError error = {SERM_OK, ""};

	config.layers = 28;
	config.hidden = 1024;
	config.heads = 16;
	config.intermediate = 2624;
	config.local_window = 128;
	config.positions = SERM_LENGTH(ids);
	serm_arena_init(&arena, serm_heap_allocator(), SERM_PREDICT_BYTES_MAX / sizeof(float) * sizeof(SermReal));
	CHECK(
	    serm_encoder_open(&config, SERM_PRECISION_F32, NULL, NULL, NULL, &arena, &encoder, &error) == SERM_OK,
	    "an encoder of 1,024 columns opens");
	run.encoder = encoder;
	CHECK(serm_encoder_prepare(&run, &arena, &error) == SERM_OK, "8,192 tokens fit: %s", error.message);
	serm_arena_free(&arena);
}

int
main(void)
{
	SermArena arena = unit_arena();

	for (int variant = 0; variant < VARIANTS; variant++) {
		test_logits(variant, &arena);
		test_norms(variant, &arena);
		test_gradients(variant, &arena);
	}
	test_against_plain(&arena);
	test_room();
	test_precision(SERM_PRECISION_BF16, .02, &arena);
	test_precision(SERM_PRECISION_INT8, .06, &arena);
	serm_arena_free(&arena);
	DONE();
}
