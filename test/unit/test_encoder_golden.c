/*
 * The encoder against a reference model with golden logits, losses and
 * gradient norms. SERM_ENCODER_GOLDEN names the file that
 * test/data/encoder_golden.py writes; without it the test says so and ends.
 */
#include "core/train/encoder_back.h"
#include "core/train/loss.h"
#include "encoder_fixture.h"

#define LOGIT_TOLERANCE 1.5e-5
#define TRAINING_TOLERANCE 1e-4
enum { PAIRS_MAX = 64, NORMS_MAX = 16, GRADIENTS_MAX = 512, TOKENS_MAX = 512 };

typedef struct Pair {
	SermEncoderInput input;
	double label, loss, logits[SERM_ENCODER_LABELS_MAX], norms[NORMS_MAX];
	uint32_t norm_count;
} Pair;

typedef struct Golden {
	SermEncoderConfig config;
	char weights[1000];
	SermReal *flat;
	uint32_t entries; /* tensors that were found */
	Pair pairs[PAIRS_MAX], training[PAIRS_MAX];
	uint32_t pair_count, training_count, gradient_count;
	double loss;
	char gradient_names[GRADIENTS_MAX][SERM_TENSOR_NAME_MAX];
	double gradients[GRADIENTS_MAX];
} Golden;

static bool
read_tensor(Golden *golden, FILE *file, SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(&golden->config);
	FILE *weights = fopen(golden->weights, "rb");
	char name[SERM_TENSOR_NAME_MAX];
	size_t offset, count;
	bool good = false;

	if (golden->flat == NULL)
		golden->flat = serm_arena_array(arena, layout.count, sizeof(SermReal));
	if (weights == NULL || fscanf(file, "%63s %zu %zu", name, &offset, &count) != 3)
		return false;
	for (uint32_t e = 0; e < serm_encoder_entry_count(&golden->config); e++) {
		SermEncoderEntry entry;
		float *values = NULL;

		serm_encoder_entry(&golden->config, &layout, e, &entry);
		if (strcmp(entry.name, name) != 0 || entry.count != count)
			continue;
		values = serm_arena_array(arena, count, sizeof(float));
		good = fseek(weights, (long) offset, SEEK_SET) == 0 &&
		       fread(values, sizeof(float), count, weights) == count;
		for (size_t i = 0; i < count; i++)
			golden->flat[entry.offset + i] = values[i];
		golden->entries++;
	}
	fclose(weights);
	return good;
}

static bool
read_pair(FILE *file, bool training, Pair *pair, SermArena *arena)
{
	uint32_t length, count, *ids = serm_arena_array(arena, TOKENS_MAX, sizeof(*ids));
	uint8_t *types = serm_arena_array(arena, TOKENS_MAX, 1);
	bool good = fscanf(file, "%u", &length) == 1 && length <= TOKENS_MAX;

	for (uint32_t t = 0; good && t < length; t++)
		good = fscanf(file, "%u", &ids[t]) == 1;
	for (uint32_t t = 0; good && t < length; t++)
		good = fscanf(file, "%hhu", &types[t]) == 1;
	pair->input = (SermEncoderInput){ids, types, length, 0};
	if (training)
		return good && fscanf(file, "%lf %lf", &pair->label, &pair->loss) == 2;
	good = good && fscanf(file, "%u", &count) == 1 && count <= SERM_ENCODER_LABELS_MAX;
	for (uint32_t i = 0; good && i < count; i++)
		good = fscanf(file, "%lf", &pair->logits[i]) == 1;
	good = good && fscanf(file, "%u", &pair->norm_count) == 1 && pair->norm_count <= NORMS_MAX;
	for (uint32_t i = 0; good && i < pair->norm_count; i++)
		good = fscanf(file, "%lf", &pair->norms[i]) == 1;
	return good;
}

static bool
read_golden(const char *path, Golden *golden, SermArena *arena)
{
	FILE *file = fopen(path, "r");
	SermEncoderConfig *c = &golden->config;
	bool good = file != NULL;
	char word[20];

	while (good && fscanf(file, "%19s", word) == 1)
		if (strcmp(word, "config") == 0)
			good = fscanf(file, "%u %u %u %u %u %u %u %u %lf", &c->layers, &c->hidden, &c->heads,
			           &c->intermediate, &c->vocab, &c->positions, &c->types, &c->labels, &c->eps) == 9;
		else if (strcmp(word, "weights") == 0)
			good = fscanf(file, "%999s", golden->weights) == 1;
		else if (strcmp(word, "tensor") == 0)
			good = read_tensor(golden, file, arena);
		else if (strcmp(word, "pair") == 0)
			good = golden->pair_count < PAIRS_MAX &&
			       read_pair(file, false, &golden->pairs[golden->pair_count++], arena);
		else if (strcmp(word, "train") == 0)
			good = golden->training_count < PAIRS_MAX &&
			       read_pair(file, true, &golden->training[golden->training_count++], arena);
		else if (strcmp(word, "loss") == 0)
			good = fscanf(file, "%lf", &golden->loss) == 1;
		else
			good = golden->gradient_count < GRADIENTS_MAX &&
			       fscanf(file, "%63s %lf", golden->gradient_names[golden->gradient_count],
			           &golden->gradients[golden->gradient_count]) == 2 &&
			       ++golden->gradient_count;
	if (file != NULL)
		fclose(file);
	return good && golden->entries == serm_encoder_entry_count(c);
}

static void
test_logits(const Golden *golden, SermArena *arena)
{
	SermEncoder *encoder = fixture_encoder(&golden->config, SERM_PRECISION_F32, golden->flat, arena);
	SermEncoderInput inputs[PAIRS_MAX];
	SermReal logits[PAIRS_MAX];
	double worst = 0;
	SermError error;

	for (uint32_t i = 0; i < golden->pair_count; i++)
		inputs[i] = golden->pairs[i].input;
	CHECK(golden->config.labels == 1 &&
	          serm_encoder_score(encoder, inputs, golden->pair_count, NULL, arena, logits, &error) == SERM_OK,
	    "the golden pairs are scored");
	for (uint32_t i = 0; i < golden->pair_count; i++)
		worst = fmax(worst, fabs(logits[i] - golden->pairs[i].logits[0]));
	CHECK(worst < LOGIT_TOLERANCE, "%u golden logits to %.1e", golden->pair_count, LOGIT_TOLERANCE);
	printf("# largest difference %.2g\n", worst);
}

static void
test_norms(const Golden *golden, SermArena *arena)
{
	const SermEncoderConfig *config = &golden->config;
	SermEncoder *encoder = fixture_encoder(config, SERM_PRECISION_F32, golden->flat, arena);
	double worst = 0;
	uint32_t checked = 0;

	for (uint32_t i = 0; i < golden->pair_count; i++) {
		const Pair *pair = &golden->pairs[i];
		const SermEncoderInput *list = &pair->input;
		SermEncoderRun run = {
		    .encoder = encoder, .inputs = &list, .count = 1, .keep = true, .all_rows = true};
		SermError error;

		if (pair->norm_count != config->layers + 2)
			continue;
		serm_encoder_prepare(&run, arena, &error);
		serm_encoder_forward(&run, &error);
		for (uint32_t n = 0; n < pair->norm_count; n++, checked++) {
			bool pooled = n == config->layers + 1;
			const SermReal *x = pooled ? run.pooled : n == 0 ? run.layers[0].input : run.layers[n - 1].output;
			size_t count = (pooled ? 1 : run.tokens) * config->hidden;
			double sum = 0;

			for (size_t c = 0; c < count; c++)
				sum += (double) x[c] * x[c];
			worst = fmax(worst, fabs(sqrt(sum) - pair->norms[n]));
		}
	}
	CHECK(checked > 0 && worst < 2e-5, "%u golden norms of layers", checked);
	printf("# largest difference %.2g\n", worst);
}

static void
test_training(const Golden *golden, SermArena *arena)
{
	const SermEncoderConfig *config = &golden->config;
	SermEncoderLayout layout = serm_encoder_layout(config);
	const SermEncoderInput *list[PAIRS_MAX];
	SermEncoderRun run = {.encoder = fixture_encoder(config, SERM_PRECISION_F32, golden->flat, arena),
	    .inputs = list,
	    .count = golden->training_count,
	    .keep = true};
	SermEncoderBack back = {.config = config, .gemm = &serm_gemm_packed};
	const SermLoss *ce = serm_loss_find("ce");
	double worst_loss = 0, worst_norm = 0, total = 0;
	SermReal d_logits[PAIRS_MAX];
	SermError error;

	for (uint32_t i = 0; i < run.count; i++)
		list[i] = &golden->training[i].input;
	serm_encoder_prepare(&run, arena, &error);
	serm_encoder_forward(&run, &error);
	for (uint32_t i = 0; i < run.count; i++) {
		/* The binary cross-entropy of a logit is the cross-entropy of the two logits 0 and it. */
		SermReal two[2] = {0, run.logits[i]}, derivative[2];
		SermReal target[2] = {
		    (SermReal) (1 - golden->training[i].label), (SermReal) golden->training[i].label};
		SermLossList one = {.n = 1, .width = 2, .scores = two, .targets = target};
		double loss = ce->function(&one, &ce->defaults, derivative);

		total += loss / run.count;
		worst_loss = fmax(worst_loss, fabs(loss - golden->training[i].loss));
		d_logits[i] = derivative[1] / (SermReal) run.count;
	}
	CHECK(
	    worst_loss < TRAINING_TOLERANCE && fabs(total - golden->loss) < TRAINING_TOLERANCE, "golden losses");
	CHECK(serm_encoder_back_init(&back, NULL, arena), "the way back is allocated");
	serm_encoder_back_pack(&back, golden->flat, NULL);
	CHECK(serm_encoder_backward(&back, &run, d_logits, arena, &error) == SERM_OK, "the way back");
	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;
		double sum = 0, expected = -1;

		serm_encoder_entry(config, &layout, e, &entry);
		for (uint32_t g = 0; g < golden->gradient_count; g++)
			if (strcmp(golden->gradient_names[g], entry.name) == 0)
				expected = golden->gradients[g];
		for (size_t i = 0; i < entry.count; i++)
			sum += (double) back.gradient[entry.offset + i] * back.gradient[entry.offset + i];
		if (fabs(sqrt(sum) - expected) > TRAINING_TOLERANCE)
			printf("# %s: %.9g, expected %.9g\n", entry.name, sqrt(sum), expected);
		worst_norm = fmax(worst_norm, fabs(sqrt(sum) - expected));
	}
	CHECK(worst_norm < TRAINING_TOLERANCE, "%u golden gradient norms", golden->gradient_count);
	printf("# largest differences: loss %.2g, norm %.2g\n", worst_loss, worst_norm);
}

int
main(void)
{
	const char *path = getenv("SERM_ENCODER_GOLDEN");
	SermArena arena = unit_arena();
	Golden *golden;

	if (path == NULL) {
		printf("1..0 # SKIP SERM_ENCODER_GOLDEN names no file: make check-encoder makes one\n");
		return EXIT_SUCCESS;
	}
	golden = serm_arena_alloc(&arena, sizeof(*golden));
	CHECK(read_golden(path, golden, &arena), "%s is read", path);
	if (golden->pair_count > 0) {
		test_logits(golden, &arena);
		test_norms(golden, &arena);
		test_training(golden, &arena);
	}
	serm_arena_free(&arena);
	DONE();
}
