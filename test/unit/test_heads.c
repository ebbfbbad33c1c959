#include "core/base/rng.h"
#include "core/model/heads.h"
#include "unit.h"

#define HEADS 3
#define INPUTS 73
#define GRADES 4
#define W1 (HEADS * SERM_HIDDEN1 * INPUTS)
#define W2 (HEADS * SERM_HIDDEN2 * SERM_HIDDEN1)
#define W3 (HEADS * GRADES * SERM_HIDDEN2)

typedef struct Weights {
	SermReal w1[W1], b1[HEADS * SERM_HIDDEN1], w2[W2], b2[HEADS * SERM_HIDDEN2], w3[W3], b3[HEADS * GRADES];
	SermReal cuts[GRADES - 1];
} Weights;

static SermHeads
random_heads(Weights *w, uint64_t seed)
{
	SermReal *all = w->w1;
	SermRng rng;

	serm_rng_seed(&rng, seed);
	for (size_t i = 0; i < offsetof(Weights, cuts) / sizeof(SermReal); i++)
		all[i] = (SermReal) (0.3 * serm_rng_normal(&rng));
	return (SermHeads){HEADS, INPUTS, GRADES, w->w1, w->b1, w->w2, w->b2, w->w3, w->b3, NULL};
}

/* The definition, in double and without any kernel. */
static void
naive_head(const SermHeads *heads, int head, const SermReal *x, double guard, double *p)
{
	double h1[SERM_HIDDEN1], h2[SERM_HIDDEN2], sum = 0;

	for (int o = 0; o < SERM_HIDDEN1; o++) {
		h1[o] = heads->b1[head * SERM_HIDDEN1 + o];
		for (int i = 0; i < INPUTS; i++)
			h1[o] += (double) heads->w1[(head * SERM_HIDDEN1 + o) * INPUTS + i] * x[i];
		h1[o] = fmax(h1[o], 0);
	}
	for (int o = 0; o < SERM_HIDDEN2; o++) {
		h2[o] = heads->b2[head * SERM_HIDDEN2 + o];
		for (int i = 0; i < SERM_HIDDEN1; i++)
			h2[o] += (double) heads->w2[(head * SERM_HIDDEN2 + o) * SERM_HIDDEN1 + i] * h1[i];
		h2[o] = fmax(h2[o], 0);
	}
	for (int y = 0; y < GRADES; y++) {
		p[y] = heads->b3[head * GRADES + y] + guard * y;
		for (int i = 0; i < SERM_HIDDEN2; i++)
			p[y] += (double) heads->w3[(head * GRADES + y) * SERM_HIDDEN2 + i] * h2[i];
	}
	for (int y = 0; y < GRADES; y++)
		sum += p[y] = exp(p[y]);
	for (int y = 0; y < GRADES; y++)
		p[y] /= sum;
}

static void
test_definition(Weights *weights)
{
	SermHeads heads = random_heads(weights, 11);
	SermPrediction prediction;
	SermReal x[INPUTS];
	double p[HEADS][GRADES], f[HEADS] = {0}, mean[GRADES] = {0}, score = 0, entropy = 0;
	SermRng rng;
	bool close = true;

	serm_rng_seed(&rng, 12);
	for (int i = 0; i < INPUTS; i++)
		x[i] = (SermReal) serm_rng_normal(&rng) / 4;
	serm_heads_predict(&heads, x, (SermReal) 0.3, &prediction);
	for (int h = 0; h < HEADS; h++) {
		naive_head(&heads, h, x, 0.3, p[h]);
		for (int y = 0; y < GRADES; y++) {
			mean[y] += p[h][y] / HEADS;
			f[h] += y * p[h][y];
		}
		close = close && fabs(prediction.head_score[h] - f[h]) < 1e-4;
	}
	CHECK(close, "the score of each head is its expected grade");
	for (int y = 0; y < GRADES; y++) {
		score += y * mean[y];
		entropy -= mean[y] * log(mean[y]);
		CHECK_NEAR(prediction.probability[y], mean[y], 1e-4, "P(%d) is the mean over the heads", y);
	}
	CHECK_NEAR(prediction.score, score, 1e-4, "f is the expected grade");
	CHECK_NEAR(prediction.entropy, entropy, 1e-4, "entropy in nats");
	CHECK_NEAR(prediction.disagreement, fmax(fmax(f[0], f[1]), f[2]) - fmin(fmin(f[0], f[1]), f[2]), 1e-4,
	    "disagreement is the widest difference of two heads");
	CHECK(prediction.grade_count == GRADES && prediction.head_count == HEADS, "the counts are filled in");
	CHECK(prediction.grade == prediction.argmax, "without cut points the grade is the argmax");
}

static void
test_guard(Weights *weights)
{
	SermHeads heads = random_heads(weights, 13);
	SermPrediction low, middle, high;
	SermReal x[INPUTS] = {0};

	memset(weights->w3, 0, sizeof(weights->w3));
	memset(weights->b3, 0, sizeof(weights->b3));
	serm_heads_predict(&heads, x, 0, &middle);
	CHECK_NEAR(middle.score, 1.5, 1e-6, "no evidence gives the middle");
	CHECK_NEAR(middle.entropy, log(4), 1e-6, "and the largest entropy");
	CHECK(middle.disagreement == 0, "equal heads agree");
	serm_heads_predict(&heads, x, -1000, &low);
	serm_heads_predict(&heads, x, (SermReal) log(2), &high);
	CHECK_NEAR(low.score, 0, 1e-6, "an enormous guard does not overflow");
	CHECK(low.entropy == 0, "certainty has no entropy");
	CHECK_NEAR(high.probability[3], 8.0 / 15, 1e-6, "the guard adds itself once per grade");
	CHECK_NEAR(high.probability[0], 1.0 / 15, 1e-6, "and nothing to grade 0");
	CHECK(high.argmax == 3, "argmax follows");
}

static void
test_cuts(Weights *weights)
{
	SermHeads heads = random_heads(weights, 14);
	static const SermReal cuts[][GRADES - 1] = {
	    {1.6f, 1.7f, 1.8f}, {1.5f, 1.7f, 1.8f}, {0.1f, 0.2f, 1.8f}, {-1, -1, -1}, {4, 4, 4}};
	static const uint32_t expected[] = {0, 1, 2, 3, 0};
	SermPrediction prediction;
	SermReal x[INPUTS] = {0};

	memset(weights->w3, 0, sizeof(weights->w3));
	memset(weights->b3, 0, sizeof(weights->b3));
	for (size_t i = 0; i < SERM_LENGTH(cuts); i++) {
		memcpy(weights->cuts, cuts[i], sizeof(cuts[i]));
		heads.cuts = weights->cuts;
		serm_heads_predict(&heads, x, 0, &prediction);
		CHECK(prediction.grade == expected[i], "f = 1.5 falls into interval %u", expected[i]);
	}
}

/* Packed or not, alone or among others, with inputs that are 0 or without: the same bits. */
static void
test_rows(Weights *weights, SermArena *arena)
{
	SermHeads heads = random_heads(weights, 15), packed = heads;
	SermReal x[SERM_HEADS_ROWS][INPUTS], guards[SERM_HEADS_ROWS];
	SermPrediction alone, rows[SERM_HEADS_ROWS];
	size_t different = 0;
	SermRng rng;

	serm_rng_seed(&rng, 16);
	CHECK(serm_heads_pack(&packed, arena), "weights are packed");
	for (uint32_t count = 1; count <= SERM_HEADS_ROWS; count++) {
		for (uint32_t r = 0; r < count; r++) {
			guards[r] = (SermReal) serm_rng_normal(&rng);
			for (int i = 0; i < INPUTS; i++)
				x[r][i] = i % 4 == 1 || (i + r) % 7 == 0 ? 0 : (SermReal) serm_rng_normal(&rng) / 4;
		}
		serm_heads_predict_rows(&packed, count, x[0], guards, NULL, rows);
		for (uint32_t r = 0; r < count; r++) {
			serm_heads_predict(&packed, x[r], guards[r], &alone);
			different += memcmp(&alone, &rows[r], sizeof(alone)) != 0;
			serm_heads_predict(&heads, x[r], guards[r], &alone);
			different += memcmp(&alone, &rows[r], sizeof(alone)) != 0;
		}
	}
	CHECK(different == 0, "rows have the same bits alone and together, packed and not");
}

int
main(void)
{
	SermArena arena = unit_arena();
	Weights *weights = serm_arena_alloc(&arena, sizeof(*weights));

	test_definition(weights);
	test_guard(weights);
	test_cuts(weights);
	test_rows(weights, &arena);
	serm_arena_free(&arena);
	DONE();
}
