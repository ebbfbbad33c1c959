/*
 * The forward pass of the heads. It is the only one that turns weights into
 * reported predictions: serving, cut points and the checks of training all call
 * it, one row or many at a time, so they agree bit for bit.
 */
#include "core/model/heads.h"

#include <math.h>
#include <string.h>

#include "core/math/vector.h"

#ifdef SERM_REAL_DOUBLE
#define REAL_EXP exp
#else
#define REAL_EXP expf
#endif

#define HIDDEN1 SERM_HIDDEN1
#define HIDDEN2 SERM_HIDDEN2

/* One head as it is packed: weights by input, so that outputs lie side by side; logits padded. */
typedef struct PackedHead {
	const SermReal *b1, *w1, *b2, *w2, *b3, *w3;
} PackedHead;

#define LOGITS SERM_AFFINE_OUTPUTS
#define INPUTS_MAX 128
#define PACKED_SIZE(inputs)                                                                                  \
	((size_t) HIDDEN1 * (1 + (inputs)) + (size_t) HIDDEN2 * (1 + HIDDEN1) + (size_t) LOGITS * (1 + HIDDEN2))

static_assert(SERM_GRADES_MAX <= LOGITS, "the logits of a head are one row");

static PackedHead
packed_at(const SermReal *packed, uint32_t inputs)
{
	PackedHead head = {.b1 = packed};

	head.w1 = head.b1 + HIDDEN1;
	head.b2 = head.w1 + (size_t) inputs * HIDDEN1;
	head.w2 = head.b2 + HIDDEN2;
	head.b3 = head.w2 + (size_t) HIDDEN1 * HIDDEN2;
	head.w3 = head.b3 + LOGITS;
	return head;
}

/* A bias and a transposed matrix, with zeros where there is no output; returns where the next begin. */
static SermReal *
pack_layer(
    const SermReal *w, const SermReal *b, uint32_t outputs, uint32_t inputs, uint32_t padded, SermReal *to)
{
	for (uint32_t o = 0; o < padded; o++)
		*to++ = o < outputs ? b[o] : 0;
	for (uint32_t i = 0; i < inputs; i++)
		for (uint32_t o = 0; o < padded; o++)
			*to++ = o < outputs ? w[(size_t) o * inputs + i] : 0;
	return to;
}

static void
pack_head(const SermHeads *heads, uint32_t head, SermReal *to)
{
	uint32_t inputs = heads->input_count, grades = heads->grade_count;

	to = pack_layer(heads->w1 + (size_t) head * HIDDEN1 * inputs, heads->b1 + (size_t) head * HIDDEN1,
	    HIDDEN1, inputs, HIDDEN1, to);
	to = pack_layer(heads->w2 + (size_t) head * HIDDEN2 * HIDDEN1, heads->b2 + (size_t) head * HIDDEN2,
	    HIDDEN2, HIDDEN1, HIDDEN2, to);
	(void) pack_layer(heads->w3 + (size_t) head * grades * HIDDEN2, heads->b3 + (size_t) head * grades,
	    grades, HIDDEN2, LOGITS, to);
}

bool
serm_heads_pack(SermHeads *heads, SermArena *arena)
{
	size_t size = PACKED_SIZE(heads->input_count);
	SermReal *packed = serm_arena_array(arena, heads->head_count, size * sizeof(SermReal));

	for (uint32_t head = 0; packed != NULL && head < heads->head_count; head++)
		pack_head(heads, head, packed + head * size);
	heads->packed = packed;
	return packed != NULL;
}

/* Softmax of (share * logits[grade] + guard * grade) / temperature, in place. */
static void
to_probabilities(SermReal *logits, uint32_t grades, SermReal guard, SermReal share, SermReal temperature)
{
	SermReal largest = -INFINITY, sum = 0;

	for (uint32_t y = 0; y < grades; y++) {
		logits[y] = share * logits[y] + guard * (SermReal) y;
		if (temperature > 0)
			logits[y] /= temperature;
		largest = logits[y] > largest ? logits[y] : largest;
	}
	for (uint32_t y = 0; y < grades; y++) {
		logits[y] = REAL_EXP(logits[y] - largest);
		sum += logits[y];
	}
	for (uint32_t y = 0; y < grades; y++)
		logits[y] /= sum;
}

/* The layers of up to four pairs of a head and an input. */
static void
run_four(const PackedHead *const head[4], const SermReal *const x[4], uint32_t jobs, const uint16_t *used,
    uint32_t used_count, SermReal *const logits[4])
{
	static const uint16_t all[HIDDEN1] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
	    19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
	    44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
	SermReal hidden1[4][HIDDEN1], hidden2[4][HIDDEN2];
	SermAffine layer1[4], layer2[4], layer3[4];

	for (uint32_t j = 0; j < jobs; j++) {
		layer1[j] = (SermAffine){head[j]->w1, head[j]->b1, x[j], hidden1[j]};
		layer2[j] = (SermAffine){head[j]->w2, head[j]->b2, hidden1[j], hidden2[j]};
		layer3[j] = (SermAffine){head[j]->w3, head[j]->b3, hidden2[j], logits[j]};
	}
	serm_affine(layer1, jobs, used, used_count, HIDDEN1, true);
	serm_affine(layer2, jobs, all, HIDDEN1, HIDDEN2, true);
	serm_affine(layer3, jobs, all, HIDDEN2, LOGITS, false);
}

/* logits[rows][LOGITS] at a distance of `step` rows of one or more heads, packed one behind the other. */
static void
run_heads(const SermReal *packed, uint32_t head_count, uint32_t inputs, uint32_t rows, const SermReal *input,
    SermReal *logits, size_t step)
{
	uint16_t used[INPUTS_MAX];
	uint32_t used_count = 0, jobs = head_count * rows;

	/* Masked features are 0 in every row. */
	for (uint32_t i = 0; i < inputs; i++) {
		uint32_t r = 0;

		while (r < rows && input[(size_t) r * inputs + i] == 0)
			r++;
		used[used_count] = (uint16_t) i;
		used_count += r < rows;
	}
	/* Rows of one head come together, so that four share its weights; a single row takes four heads. */
	for (uint32_t first = 0; first < jobs; first += 4) {
		uint32_t count = jobs - first < 4 ? jobs - first : 4;
		PackedHead head[4];
		const PackedHead *heads[4];
		const SermReal *x[4];
		SermReal *y[4];

		for (uint32_t j = 0; j < count; j++) {
			uint32_t h = (first + j) / rows, r = (first + j) % rows;

			head[j] = packed_at(packed + h * PACKED_SIZE(inputs), inputs);
			heads[j] = &head[j];
			x[j] = input + (size_t) r * inputs;
			y[j] = logits + r * step + (size_t) h * LOGITS;
		}
		run_four(heads, x, count, used, used_count, y);
	}
}

/* The grade whose interval of f, between two cut points, holds the score. */
static uint32_t
cut_grade(const SermReal *cuts, uint32_t grades, float score)
{
	uint32_t grade = 0;

	while (grade + 1 < grades && score >= cuts[grade])
		grade++;
	return grade;
}

/* What the logits of all heads, [head_count][LOGITS], say together. */
static void
conclude(const SermHeads *heads, SermReal *logits, SermReal guard, SermReal share, SermPrediction *prediction)
{
	uint32_t grades = heads->grade_count;
	SermReal mean[SERM_GRADES_MAX] = {0};
	SermReal score = 0, entropy = 0, lowest = INFINITY, highest = -INFINITY;

	*prediction = (SermPrediction){.grade_count = grades, .head_count = heads->head_count};
	for (uint32_t head = 0; head < heads->head_count; head++) {
		SermReal *probability = logits + (size_t) head * LOGITS, f = 0;

		to_probabilities(probability, grades, guard, share, heads->temperature);
		for (uint32_t y = 0; y < grades; y++) {
			mean[y] += probability[y];
			f += (SermReal) y * probability[y];
		}
		prediction->head_score[head] = (float) f;
		lowest = f < lowest ? f : lowest;
		highest = f > highest ? f : highest;
	}
	for (uint32_t y = 0; y < grades; y++) {
		SermReal p = mean[y] / (SermReal) heads->head_count;

		prediction->probability[y] = (float) p;
		score += (SermReal) y * p;
		if (p > 0)
			entropy -= p * (SermReal) log(p);
		if (prediction->probability[y] > prediction->probability[prediction->argmax])
			prediction->argmax = y;
	}
	prediction->score = (float) score;
	prediction->entropy = (float) entropy;
	prediction->disagreement = (float) (highest - lowest);
	prediction->grade =
	    heads->cuts != NULL ? cut_grade(heads->cuts, grades, prediction->score) : prediction->argmax;
}

/* logits[rows][step] of one head, or of all when `head_count` says so. */
static void
run(const SermHeads *heads, uint32_t first, uint32_t head_count, uint32_t rows, const SermReal *input,
    SermReal *logits, size_t step)
{
	SERM_ASSERT(heads->input_count <= INPUTS_MAX && rows <= SERM_HEADS_ROWS);
	if (heads->packed != NULL) {
		run_heads(heads->packed + first * PACKED_SIZE(heads->input_count), head_count, heads->input_count,
		    rows, input, logits, step);
		return;
	}
	for (uint32_t head = 0; head < head_count; head++) {
		SermReal packed[PACKED_SIZE(INPUTS_MAX)];

		pack_head(heads, first + head, packed);
		run_heads(packed, 1, heads->input_count, rows, input, logits + (size_t) head * LOGITS, step);
	}
}

void
serm_heads_logits(const SermHeads *heads, uint32_t head, const SermReal *input, SermReal *logits)
{
	SermReal padded[LOGITS];

	run(heads, head, 1, 1, input, padded, LOGITS);
	memcpy(logits, padded, heads->grade_count * sizeof(SermReal));
}

void
serm_heads_predict_rows(const SermHeads *heads, uint32_t count, const SermReal *inputs,
    const SermReal *guards, const SermReal *shares, SermPrediction *predictions)
{
	SermReal logits[SERM_HEADS_ROWS][SERM_HEADS_MAX * LOGITS];

	SERM_ASSERT(heads->head_count > 0 && heads->head_count <= SERM_HEADS_MAX);
	SERM_ASSERT(heads->grade_count >= SERM_GRADES_MIN && heads->grade_count <= SERM_GRADES_MAX);
	run(heads, 0, heads->head_count, count, inputs, logits[0], SERM_LENGTH(logits[0]));
	for (uint32_t row = 0; row < count; row++)
		conclude(heads, logits[row], guards[row], shares != NULL ? shares[row] : 1, &predictions[row]);
}

void
serm_heads_predict(const SermHeads *heads, const SermReal *input, SermReal guard, SermPrediction *prediction)
{
	serm_heads_predict_rows(heads, 1, input, &guard, NULL, prediction);
}
