#include "core/model/attribution.h"

#include <math.h>
#include <string.h>

#include "core/math/kernels.h"

#define HIDDEN1 SERM_HIDDEN1
#define HIDDEN2 SERM_HIDDEN2

/* Midpoints of so many equal parts of the line. */
#define STEPS 32

/* One head, and its first layer before ReLU at the begin of the line and over its whole length. */
typedef struct Head {
	const SermReal *w2, *b2, *w3, *b3;
	uint32_t grades;
	SermReal temperature; /* 0: none */
	SermReal share;       /* of the logits */
	SermReal start[HIDDEN1];
	SermReal change[HIDDEN1];
} Head;

static Head
open_head(
    const SermHeads *heads, uint32_t head, const SermReal *from, const SermReal *difference, SermReal share)
{
	uint32_t inputs = heads->input_count, grades = heads->grade_count;
	const SermReal *w1 = heads->w1 + (size_t) head * HIDDEN1 * inputs;
	Head opened = {.w2 = heads->w2 + (size_t) head * HIDDEN2 * HIDDEN1,
	    .b2 = heads->b2 + (size_t) head * HIDDEN2,
	    .w3 = heads->w3 + (size_t) head * grades * HIDDEN2,
	    .b3 = heads->b3 + (size_t) head * grades,
	    .grades = grades,
	    .temperature = heads->temperature,
	    .share = share};

	for (uint32_t o = 0; o < HIDDEN1; o++) {
		opened.start[o] =
		    heads->b1[(size_t) head * HIDDEN1 + o] + serm_dot(w1 + (size_t) o * inputs, from, inputs);
		opened.change[o] = serm_dot(w1 + (size_t) o * inputs, difference, inputs);
	}
	return opened;
}

/* df / dlogit of each grade, guard and share included, before the temperature: P(y) (y - f) / T. */
static void
score_gradient(const Head *head, SermReal guard, SermReal *logits)
{
	uint32_t grades = head->grades;
	double scale = head->temperature > 0 ? 1 / (double) head->temperature : 1;
	double largest = -INFINITY, sum = 0, f = 0, p[SERM_GRADES_MAX];

	for (uint32_t y = 0; y < grades; y++) {
		p[y] = ((double) head->share * (double) logits[y] + (double) guard * y) * scale;
		largest = fmax(largest, p[y]);
	}
	for (uint32_t y = 0; y < grades; y++)
		sum += p[y] = exp(p[y] - largest);
	for (uint32_t y = 0; y < grades; y++)
		f += y * (p[y] /= sum);
	for (uint32_t y = 0; y < grades; y++)
		logits[y] = (SermReal) (p[y] * (y - f) * scale);
}

/* Add df / d(first layer before ReLU) at one point of the line to `sum` [HIDDEN1]; returns df / dguard. */
static double
add_gradient(const Head *head, SermReal at, SermReal guard, SermReal *sum)
{
	SermReal hidden1[HIDDEN1], hidden2[HIDDEN2], logits[SERM_GRADES_MAX];
	SermReal d_hidden1[HIDDEN1] = {0}, d_hidden2[HIDDEN2] = {0};
	double d_guard = 0;

	for (uint32_t o = 0; o < HIDDEN1; o++) {
		hidden1[o] = head->start[o] + at * head->change[o];
		hidden1[o] = hidden1[o] > 0 ? hidden1[o] : 0;
	}
	for (uint32_t o = 0; o < HIDDEN2; o++) {
		hidden2[o] = head->b2[o] + serm_dot(head->w2 + (size_t) o * HIDDEN1, hidden1, HIDDEN1);
		hidden2[o] = hidden2[o] > 0 ? hidden2[o] : 0;
	}
	for (uint32_t y = 0; y < head->grades; y++)
		logits[y] = head->b3[y] + serm_dot(head->w3 + (size_t) y * HIDDEN2, hidden2, HIDDEN2);
	score_gradient(head, guard, logits);
	for (uint32_t y = 0; y < head->grades; y++) {
		d_guard += (double) logits[y] * y;
		serm_axpy(head->share * logits[y], head->w3 + (size_t) y * HIDDEN2, d_hidden2, HIDDEN2);
	}
	for (uint32_t o = 0; o < HIDDEN2; o++)
		if (hidden2[o] > 0)
			serm_axpy(d_hidden2[o], head->w2 + (size_t) o * HIDDEN1, d_hidden1, HIDDEN1);
	for (uint32_t o = 0; o < HIDDEN1; o++)
		sum[o] += hidden1[o] > 0 ? d_hidden1[o] : 0;
	return d_guard;
}

/*
 * The first layer is linear along the line, so only the other two are computed at each step, and its
 * transpose is applied once, to the sum.
 */
void
serm_attribute(const SermHeads *heads, SermHeadsPoint from, SermHeadsPoint to, SermReal share,
    SermAttribution *attribution)
{
	uint32_t inputs = heads->input_count;
	SermReal difference[SERM_ATTRIBUTION_INPUTS_MAX], total[SERM_ATTRIBUTION_INPUTS_MAX] = {0};
	double weight = 1 / ((double) STEPS * heads->head_count);

	SERM_ASSERT(inputs <= SERM_ATTRIBUTION_INPUTS_MAX);
	memset(attribution, 0, sizeof(*attribution));
	for (uint32_t i = 0; i < inputs; i++)
		difference[i] = to.input[i] - from.input[i];
	for (uint32_t h = 0; h < heads->head_count; h++) {
		Head head = open_head(heads, h, from.input, difference, share);
		SermReal sum[HIDDEN1] = {0};

		for (uint32_t step = 0; step < STEPS; step++) {
			SermReal at = ((SermReal) step + (SermReal) 0.5) / STEPS;

			attribution->guard +=
			    weight * add_gradient(&head, at, from.guard + at * (to.guard - from.guard), sum);
		}
		for (uint32_t o = 0; o < HIDDEN1; o++)
			serm_axpy(sum[o], heads->w1 + ((size_t) h * HIDDEN1 + o) * inputs, total, inputs);
	}
	for (uint32_t i = 0; i < inputs; i++)
		attribution->input[i] = weight * total[i];
}
