/*
 * The forward pass of the heads for one input. This function is the only one
 * that turns weights into reported predictions: serving, cut points and the
 * checks of training all call it, so they agree bit for bit.
 */
#include "core/model/heads.h"

#include <math.h>

#include "core/math/vector.h"

#ifdef SERM_REAL_DOUBLE
#define REAL_EXP exp
#else
#define REAL_EXP expf
#endif

#define HIDDEN1 SERM_HIDDEN1
#define HIDDEN2 SERM_HIDDEN2

static void
rectify(SermReal *values, size_t count)
{
	for (size_t i = 0; i < count; i++)
		values[i] = values[i] > 0 ? values[i] : 0;
}

/* Softmax of (logits[grade] + guard * grade) / temperature, in place. */
static void
to_probabilities(SermReal *logits, uint32_t grades, SermReal guard, SermReal temperature)
{
	SermReal largest = -INFINITY, sum = 0;

	for (uint32_t y = 0; y < grades; y++) {
		logits[y] += guard * (SermReal) y;
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

void
serm_heads_logits(const SermHeads *heads, uint32_t head, const SermReal *input, SermReal *logits)
{
	uint32_t inputs = heads->input_count, grades = heads->grade_count;
	SermReal hidden1[HIDDEN1], hidden2[HIDDEN2];

	serm_affine(heads->w1 + (size_t) head * HIDDEN1 * inputs, heads->b1 + (size_t) head * HIDDEN1, input,
	    HIDDEN1, inputs, hidden1);
	rectify(hidden1, HIDDEN1);
	serm_affine(heads->w2 + (size_t) head * HIDDEN2 * HIDDEN1, heads->b2 + (size_t) head * HIDDEN2, hidden1,
	    HIDDEN2, HIDDEN1, hidden2);
	rectify(hidden2, HIDDEN2);
	serm_affine(heads->w3 + (size_t) head * grades * HIDDEN2, heads->b3 + (size_t) head * grades, hidden2,
	    grades, HIDDEN2, logits);
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

void
serm_heads_predict(const SermHeads *heads, const SermReal *input, SermReal guard, SermPrediction *prediction)
{
	uint32_t grades = heads->grade_count;
	SermReal mean[SERM_GRADES_MAX] = {0}, probability[SERM_GRADES_MAX];
	SermReal score = 0, entropy = 0, lowest = INFINITY, highest = -INFINITY;

	SERM_ASSERT(heads->head_count > 0 && heads->head_count <= SERM_HEADS_MAX);
	SERM_ASSERT(grades >= SERM_GRADES_MIN && grades <= SERM_GRADES_MAX);
	*prediction = (SermPrediction){.grade_count = grades, .head_count = heads->head_count};
	for (uint32_t head = 0; head < heads->head_count; head++) {
		SermReal f = 0;

		serm_heads_logits(heads, head, input, probability);
		to_probabilities(probability, grades, guard, heads->temperature);
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
