#include "core/train/loss.h"

#include <math.h>
#include <string.h>

#ifdef SERM_REAL_DOUBLE
#define REAL_EXP exp
#else
#define REAL_EXP expf
#endif

static SermReal
weight_of(const SermLossList *list, uint32_t i)
{
	return list->weights != NULL ? list->weights[i] : 1;
}

/* ln(sum of exp(scores)), safe against overflow. */
static double
log_sum_exp(const SermReal *scores, uint32_t width)
{
	double largest = scores[0], sum = 0;

	for (uint32_t y = 1; y < width; y++)
		largest = scores[y] > largest ? scores[y] : largest;
	for (uint32_t y = 0; y < width; y++)
		sum += exp(scores[y] - largest);
	return largest + log(sum);
}

/* mean of w_i * sum over grades of -t_y ln P(y); targets are distributions. */
static double
cross_entropy(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double loss = 0;

	(void) parameters;
	for (uint32_t i = 0; i < list->n; i++) {
		const SermReal *scores = list->scores + (size_t) i * list->width;
		const SermReal *targets = list->targets + (size_t) i * list->width;
		double normaliser = log_sum_exp(scores, list->width), weight = weight_of(list, i);

		for (uint32_t y = 0; y < list->width; y++) {
			double log_p = scores[y] - normaliser;

			loss -= weight * targets[y] * log_p;
			gradient[(size_t) i * list->width + y] =
			    (SermReal) (weight * (exp(log_p) - targets[y]) / list->n);
		}
	}
	return list->n > 0 ? loss / list->n : 0;
}

/*
 * RankNet (Burges et al. 2005): mean over the pairs of the list of
 * sqrt(w_i w_j) ln(1 + exp(-slope (s_i - s_j))), where i has the higher grade.
 */
static double
ranknet(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	const SermReal *s = list->scores, *t = list->targets;
	double loss = 0;
	uint64_t pairs = 0;

	memset(gradient, 0, list->n * sizeof(*gradient));
	for (uint32_t i = 0; i < list->n; i++)
		for (uint32_t j = i + 1; j < list->n; j++) {
			double above = t[i] - t[j], x, step;
			double weight = list->weights != NULL ? sqrt((double) list->weights[i] * list->weights[j]) : 1;

			if (fabs(above) <= parameters->threshold)
				continue;
			x = parameters->slope * (above > 0 ? s[i] - s[j] : s[j] - s[i]);
			loss += weight * (x > 0 ? log1p(exp(-x)) : log1p(exp(x)) - x);
			step = weight * parameters->slope / (1 + exp(x)) * (above > 0 ? 1 : -1);
			gradient[i] -= (SermReal) step;
			gradient[j] += (SermReal) step;
			pairs++;
		}
	if (pairs == 0)
		return 0;
	for (uint32_t i = 0; i < list->n; i++)
		gradient[i] /= (SermReal) pairs;
	return loss / (double) pairs;
}

static const SermLoss losses[] = {
    {"cross_entropy", SERM_LOSS_LOGITS, false, cross_entropy, {0, 0}},
    {"ranknet", SERM_LOSS_SCORES, true, ranknet, {.slope = 3, .threshold = 0.25}},
};

void
serm_loss_expect(uint32_t n, uint32_t grades, const SermReal *logits, SermReal *probability, SermReal *score)
{
	for (uint32_t i = 0; i < n; i++, logits += grades) {
		SermReal *p = probability + (size_t) i * grades, largest = logits[0], sum = 0, f = 0;

		for (uint32_t y = 1; y < grades; y++)
			largest = logits[y] > largest ? logits[y] : largest;
		for (uint32_t y = 0; y < grades; y++)
			sum += p[y] = REAL_EXP(logits[y] - largest);
		for (uint32_t y = 0; y < grades; y++) {
			p[y] /= sum;
			f += (SermReal) y * p[y];
		}
		score[i] = f;
	}
}

void
serm_loss_expect_back(uint32_t n, uint32_t grades, const SermReal *probability, const SermReal *score,
    SermReal factor, const SermReal *d_score, SermReal *d_logits)
{
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t y = 0; y < grades; y++)
			d_logits[(size_t) i * grades + y] +=
			    factor * d_score[i] * probability[(size_t) i * grades + y] * ((SermReal) y - score[i]);
}

const SermLoss *
serm_loss_at(size_t index)
{
	return index < SERM_LENGTH(losses) ? &losses[index] : NULL;
}

const SermLoss *
serm_loss_find(const char *name)
{
	for (size_t i = 0; i < SERM_LENGTH(losses); i++)
		if (strcmp(losses[i].name, name) == 0)
			return &losses[i];
	return NULL;
}
