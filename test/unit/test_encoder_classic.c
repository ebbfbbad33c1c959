/*
 * BERT and RoBERTa against the layers of PyTorch (encoder_classic_golden.h): logits, losses and the norms of
 * all gradients.
 */
#include "core/train/encoder_back.h"
#include "encoder_classic_golden.h"
#include "encoder_modern_fixture.h"

#ifdef SERM_REAL_DOUBLE
#define LOGIT_TOLERANCE 1e-12
#define GRADIENT_TOLERANCE 1e-11
#else
#define LOGIT_TOLERANCE 1e-5
#define GRADIENT_TOLERANCE 2e-5
#endif

/* The configs of the golden numbers, in their order. */
static SermEncoderConfig
variant_config(int variant)
{
	bool roberta = variant >= 2;

	return (SermEncoderConfig){.architecture = roberta ? SERM_ENCODER_ROBERTA : SERM_ENCODER_BERT,
	    .layers = 3,
	    .hidden = 32,
	    .heads = 4,
	    .intermediate = 48,
	    .vocab = roberta ? 300 : 61,
	    .positions = roberta ? 66 : 64,
	    .types = roberta ? 1 : 2,
	    .labels = variant % 2 == 1 ? 4 : 1,
	    .pad_id = roberta ? 1 : 0,
	    .activation = variant == 1 ? SERM_ACTIVATION_RELU : SERM_ACTIVATION_GELU,
	    .eps = (const double[]){1e-12, 1e-3, 1e-5, 1e-5}[variant]};
}

/* RoBERTa begins with token 0, has two separators between texts, and one type; of BERT's what follows the
 * first third is the second text. */
static SermEncoderInput
classic_input(const SermEncoderConfig *config, uint32_t number, SermArena *arena)
{
	SermEncoderInput input = formula_input(config, number, formula_lengths[number], arena);
	uint8_t *types = serm_arena_array(arena, input.length, 1);
	uint32_t *ids = (uint32_t *) (uintptr_t) input.ids;

	if (config->architecture == SERM_ENCODER_ROBERTA) {
		ids[0] = 0;
		if (input.length > 8)
			ids[input.length / 3 + 1] = 2;
	} else
		for (uint32_t t = 0; t < input.length; t++)
			types[t] = t > input.length / 3;
	input.types = types;
	return input;
}

static void
test_variant(int variant, SermArena *arena)
{
	const ClassicGolden *golden = &classic_golden[variant];
	SermEncoderConfig config = variant_config(variant);
	SermReal *flat = formula_flat(&config, arena), logits[CLASSIC_INPUTS * 4];
	const SermEncoder *encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
	SermEncoderInput inputs[CLASSIC_INPUTS];
	double worst = 0;
	SermError error;

	for (uint32_t i = 0; i < CLASSIC_INPUTS; i++)
		inputs[i] = classic_input(&config, i, arena);
	CHECK(serm_encoder_score(encoder, inputs, CLASSIC_INPUTS, NULL, arena, logits, &error) == SERM_OK,
	    "variant %d is scored", variant);
	for (uint32_t i = 0; i < CLASSIC_INPUTS; i++)
		for (uint32_t y = 0; y < config.labels; y++)
			worst = fmax(worst, fabs(logits[i * config.labels + y] - golden->logits[i][y]));
	CHECK(worst < LOGIT_TOLERANCE, "golden logits");
	printf("# largest difference of the logits: %.2g\n", worst);
	formula_check_back(&config, flat, inputs, golden->loss, golden->losses, golden->gradients,
	    LOGIT_TOLERANCE, GRADIENT_TOLERANCE, arena);
}

int
main(void)
{
	SermArena arena = unit_arena();

	for (int variant = 0; variant < (int) SERM_LENGTH(classic_golden); variant++)
		test_variant(variant, &arena);
	serm_arena_free(&arena);
	DONE();
}
