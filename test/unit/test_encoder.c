/*
 * The encoder against plain loops in double, its bits alone and in a batch,
 * and what it refuses.
 */
#include "encoder_fixture.h"

#ifdef SERM_REAL_DOUBLE
#define TOLERANCE 1e-10
#else
#define TOLERANCE 1e-5
#endif

enum { COUNT = 64 };

static void
test_against_plain(SermEncoderArchitecture architecture, SermArena *arena)
{
	SermEncoderConfig config = fixture_config(architecture);
	SermReal *flat = fixture_flat(&config, 51, arena),
	         *logits = serm_arena_array(arena, COUNT * 4, sizeof(*logits));
	SermEncoder *encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
	SermEncoderInput inputs[COUNT];
	double worst = 0;
	bool same = true;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 52);
	for (int i = 0; i < COUNT; i++)
		inputs[i] = fixture_input(&config, 1 + serm_rng_below(&rng, 68), &rng, arena);
	CHECK(serm_encoder_score(encoder, inputs, COUNT, NULL, arena, logits, &error) == SERM_OK,
	    "a batch is scored");
	for (int i = 0; i < COUNT; i++) {
		double expected[4];
		SermReal alone[4];

		plain_forward(&config, flat, &inputs[i], expected, NULL, arena);
		for (int y = 0; y < 4; y++)
			worst = fmax(worst, fabs(logits[4 * i + y] - expected[y]));
		serm_encoder_score(encoder, &inputs[i], 1, NULL, arena, alone, &error);
		same = same && memcmp(alone, logits + 4 * i, sizeof(alone)) == 0;
	}
	CHECK(worst < TOLERANCE, "architecture %d: logits of the plain encoder", (int) architecture);
	printf("# largest difference %.2g\n", worst);
	CHECK(same, "architecture %d: the same bits alone and in a batch of 64", (int) architecture);
}

/* What every row of every layer is, kept for the way back, agrees too; and keeping changes no bit. */
static void
test_kept(SermArena *arena)
{
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermReal *flat = fixture_flat(&config, 53, arena);
	SermEncoder *encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
	double worst = 0, expected[4], norms[5] = {0};
	bool same = true;
	SermEncoderInput input;
	SermReal logits[4];
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 54);
	input = fixture_input(&config, 37, &rng, arena);
	serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error);
	plain_forward(&config, flat, &input, expected, norms, arena);
	for (int all = 0; all < 2; all++) {
		const SermEncoderInput *list = &input;
		SermEncoderRun run = {.encoder = encoder, .inputs = &list, .count = 1, .keep = true, .all_rows = all};

		CHECK(serm_encoder_prepare(&run, arena, &error) == SERM_OK &&
		          serm_encoder_forward(&run, &error) == SERM_OK,
		    "activations are kept");
		same = same && memcmp(run.logits, logits, sizeof(logits)) == 0;
		for (uint32_t layer = 0; all && layer <= config.layers; layer++) {
			SermReal *x = layer == 0 ? run.layers[0].input : run.layers[layer - 1].output;
			double sum = 0;

			for (size_t i = 0; i < 37 * 48; i++)
				sum += (double) x[i] * x[i];
			worst = fmax(worst, fabs(sqrt(sum) / norms[layer] - 1));
		}
	}
	CHECK(worst < 1e-6, "the norm of every layer's output");
	CHECK(same, "the logits have the same bits with and without what is kept");
}

/* Another library behind the table of functions: row-major [k][n], added up in double. */
static size_t
other_count(size_t n, size_t k)
{
	return n * k;
}

static void
other_pack(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	for (size_t p = 0; p < k; p++)
		for (size_t j = 0; j < n; j++)
			packed[p * n + j] = transpose ? b[j * b_row + p] : b[p * b_row + j];
}

static void
other_unpack(size_t n, size_t k, const SermReal *packed, SermReal *b)
{
	for (size_t p = 0; p < k; p++)
		for (size_t j = 0; j < n; j++)
			b[j * k + p] = packed[p * n + j];
}

static void
other_multiply(const SermProduct *product)
{
	const SermReal *b = product->b;

	for (size_t i = 0; i < product->m; i++)
		for (size_t j = 0; j < product->n; j++) {
			SermReal *c = product->c + i * product->c_row + j;
			double sum = product->add ? *c : product->bias != NULL ? product->bias[j] : 0;

			for (size_t p = 0; p < product->k; p++)
				sum += (double) product->a[i * product->a_row + p * product->a_step] * b[p * product->n + j];
			*c = (SermReal) sum;
		}
}

static void
test_provider(SermArena *arena)
{
	static const SermGemmProvider other = {"other", other_count, other_pack, other_unpack, other_multiply};
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermReal *flat = fixture_flat(&config, 58, arena), logits[8 * 4];
	void *packed = serm_arena_alloc(arena, serm_encoder_packed_bytes(&config, SERM_PRECISION_F32, &other));
	SermEncoder *encoder = NULL;
	SermEncoderInput inputs[8];
	double worst = 0;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 59);
	for (int i = 0; i < 8; i++)
		inputs[i] = fixture_input(&config, 3 + serm_rng_below(&rng, 40), &rng, arena);
	serm_encoder_pack(&config, SERM_PRECISION_F32, &other, flat, packed, NULL);
	CHECK(serm_encoder_open(&config, SERM_PRECISION_F32, &other, flat, packed, arena, &encoder, &error) ==
	              SERM_OK &&
	          serm_encoder_score(encoder, inputs, 8, NULL, arena, logits, &error) == SERM_OK,
	    "an encoder over another library");
	for (int i = 0; i < 8; i++) {
		double expected[4];

		plain_forward(&config, flat, &inputs[i], expected, NULL, arena);
		for (int y = 0; y < 4; y++)
			worst = fmax(worst, fabs(logits[4 * i + y] - expected[y]));
	}
	CHECK(worst < TOLERANCE, "gives the logits of the plain encoder");
}

/* Narrow weights cost little, and no more when a pair stands in a batch. */
static void
test_precision(SermPrecision precision, double tolerance, SermArena *arena)
{
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermReal *flat = fixture_flat(&config, 56, arena),
	         *logits = serm_arena_array(arena, COUNT * 4, sizeof(*logits));
	SermEncoder *encoder = fixture_encoder(&config, precision, flat, arena);
	SermEncoderInput inputs[COUNT];
	double error2 = 0, norm2 = 0;
	bool same = true;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 57);
	for (int i = 0; i < COUNT; i++)
		inputs[i] = fixture_input(&config, 1 + serm_rng_below(&rng, 68), &rng, arena);
	serm_encoder_score(encoder, inputs, COUNT, NULL, arena, logits, &error);
	for (int i = 0; i < COUNT; i++) {
		double expected[4];
		SermReal alone[4];

		plain_forward(&config, flat, &inputs[i], expected, NULL, arena);
		for (int y = 0; y < 4; y++) {
			error2 += (logits[4 * i + y] - expected[y]) * (logits[4 * i + y] - expected[y]);
			norm2 += expected[y] * expected[y];
		}
		serm_encoder_score(encoder, &inputs[i], 1, NULL, arena, alone, &error);
		same = same && memcmp(alone, logits + 4 * i, sizeof(alone)) == 0;
	}
	CHECK(sqrt(error2 / norm2) < tolerance, "%s: logits move by %.2g of themselves",
	    serm_precision_name(precision), sqrt(error2 / norm2));
	CHECK(same, "%s: the same bits alone and in a batch of 64", serm_precision_name(precision));
	CHECK(serm_encoder_packed_bytes(&config, precision, NULL) <
	          .6 * serm_encoder_packed_bytes(&config, SERM_PRECISION_F32, NULL),
	    "%s: the weights are smaller", serm_precision_name(precision));
}

static bool
stop_at_third(void *context)
{
	return ++*(int *) context < 3;
}

static void
test_refusals(SermArena *arena)
{
	SermEncoderConfig config = fixture_config(SERM_ENCODER_ROBERTA), other = config;
	SermReal *flat = fixture_flat(&config, 55, arena), logits[4];
	SermEncoder *encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena), *opened;
	uint32_t ids[80] = {0};
	uint8_t types[80] = {0};
	SermEncoderInput input = {ids, types, 68, 0};
	SermEncoderHost host = {stop_at_third, &(int){0}};
	size_t before = arena->total;
	SermTensorSet tensors;
	SermReal *read;
	SermError error;

	CHECK(
	    serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error) == SERM_OK, "the longest input");
	input.length = 69;
	CHECK(serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error) == SERM_ERR_INVALID,
	    "one token more");
	input.length = 0;
	CHECK(
	    serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error) == SERM_ERR_INVALID, "no token");
	input.length = 5, ids[3] = config.vocab;
	CHECK(serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error) == SERM_ERR_INVALID,
	    "an unknown id");
	ids[3] = 0, types[4] = 1;
	CHECK(serm_encoder_score(encoder, &input, 1, NULL, arena, logits, &error) == SERM_ERR_INVALID,
	    "an unknown type");
	types[4] = 0;
	CHECK(
	    serm_encoder_score(encoder, &input, 1, &host, arena, logits, &error) == SERM_ERR_CANCELED, "cancel");
	CHECK(arena->total == before, "the scratch is given back");
	other.architecture = SERM_ENCODER_ARCHITECTURE_COUNT;
	CHECK(serm_encoder_open(&other, SERM_PRECISION_F32, NULL, flat, flat, arena, &opened, &error) ==
	          SERM_ERR_INVALID,
	    "an architecture that is not computed");
	CHECK(serm_encoder_unflatten(&config, flat, NULL, arena, &tensors, &error) == SERM_OK &&
	          serm_encoder_flatten(&config, &tensors, NULL, arena, &read, &error) == SERM_OK,
	    "tensors and the flat vector");
	CHECK(memcmp(flat, read, serm_encoder_layout(&config).plain_count * sizeof(*flat)) == 0 ||
	          sizeof(*flat) > 4,
	    "tensors and back give the same vector");
	tensors.count--;
	CHECK(serm_encoder_flatten(&config, &tensors, NULL, arena, &read, &error) == SERM_ERR_CORRUPT,
	    "a missing tensor");
	tensors.count++;
	((SermTensor *) tensors.tensors)[4].shape[0]++;
	CHECK(serm_encoder_flatten(&config, &tensors, NULL, arena, &read, &error) == SERM_ERR_CORRUPT,
	    "a misshapen tensor");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_against_plain(SERM_ENCODER_BERT, &arena);
	test_against_plain(SERM_ENCODER_ROBERTA, &arena);
	test_kept(&arena);
	test_provider(&arena);
	test_precision(SERM_PRECISION_BF16, .02, &arena);
	test_precision(SERM_PRECISION_INT8, .06, &arena);
	test_refusals(&arena);
	serm_arena_free(&arena);
	DONE();
}
