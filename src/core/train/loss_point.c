/*
 * Losses that look at one document at a time, and the way from logits to the
 * scores that the other losses look at.
 */
#include "core/train/loss_parts.h"

#ifdef SERM_REAL_DOUBLE
#define REAL_EXP exp
#else
#define REAL_EXP expf
#endif

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

/* mean of w_i * sum over grades of -t_y ln P(y); targets are distributions. */
double
serm_loss_ce(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double loss = 0;

	(void) parameters;
	for (uint32_t i = 0; i < list->n; i++) {
		const SermReal *scores = list->scores + (size_t) i * list->width;
		const SermReal *targets = list->targets + (size_t) i * list->width;
		double normaliser = serm_log_sum_exp(scores, list->width), weight = serm_loss_weight(list, i);

		for (uint32_t y = 0; y < list->width; y++) {
			double log_p = scores[y] - normaliser;

			loss -= weight * targets[y] * log_p;
			gradient[(size_t) i * list->width + y] =
			    (SermReal) (weight * (exp(log_p) - targets[y]) / list->n);
		}
	}
	return list->n > 0 ? loss / list->n : 0;
}

/* One document's share of the ordinal loss; adds to `gradient` [width]. */
static double
ordinal_document(
    const SermReal *scores, const SermReal *targets, uint32_t width, double scale, SermReal *gradient)
{
	double all = serm_log_sum_exp(scores, width), loss = 0, above = 0;

	for (uint32_t y = width - 1; y > 0; y--) {
		double log_above = serm_log_sum_exp(scores + y, width - y);
		double log_below = serm_log_sum_exp(scores, y);

		above += targets[y];
		loss += scale * (above * (all - log_above) + (1 - above) * (all - log_below));
		for (uint32_t k = 0; k < width; k++) {
			double share =
			    k >= y ? above * exp(scores[k] - log_above) : (1 - above) * exp(scores[k] - log_below);

			gradient[k] += (SermReal) (scale * (exp(scores[k] - all) - share));
		}
	}
	return loss;
}

/*
 * Ordinal regression by its thresholds (Frank and Hall 2001): mean of w_i times the mean over y > 0 of the
 * binary cross-entropy of P(grade >= y), so that a miss by two grades costs more than one by one.
 */
double
serm_loss_ordinal(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	uint32_t width = list->width;
	double loss = 0;

	(void) parameters;
	memset(gradient, 0, (size_t) list->n * width * sizeof(*gradient));
	for (uint32_t i = 0; i < list->n; i++)
		loss += ordinal_document(list->scores + (size_t) i * width, list->targets + (size_t) i * width, width,
		    serm_loss_weight(list, i) / ((double) list->n * (width - 1)), gradient + (size_t) i * width);
	return loss;
}

/* softened[y] = softmax of ln(p) / temperature; p has no negative value and sums to 1. */
static void
soften(const SermReal *p, uint32_t width, double temperature, double *softened)
{
	double sum = 0;

	for (uint32_t y = 0; y < width; y++)
		sum += softened[y] = temperature == 1 ? p[y] : pow(p[y], 1 / temperature);
	for (uint32_t y = 0; temperature != 1 && y < width; y++)
		softened[y] /= sum;
}

/* KL of one document at a temperature, times its square; `gradient` [width] gets `share` of the derivative.
 */
static double
kl_document(const SermReal *scores, const SermReal *teacher, uint32_t width, double temperature, double share,
    SermReal *gradient)
{
	SermReal cooled[SERM_LOSS_WIDTH_MAX];
	double wanted[SERM_LOSS_WIDTH_MAX], normaliser, loss = 0;

	SERM_ASSERT(width <= SERM_LOSS_WIDTH_MAX);
	soften(teacher, width, temperature, wanted);
	for (uint32_t y = 0; y < width; y++)
		cooled[y] = (SermReal) (scores[y] / temperature);
	normaliser = serm_log_sum_exp(cooled, width);
	for (uint32_t y = 0; y < width; y++) {
		double log_p = cooled[y] - normaliser;

		if (wanted[y] > 0)
			loss += wanted[y] * (log(wanted[y]) - log_p);
		gradient[y] = (SermReal) (share * temperature * (exp(log_p) - wanted[y]));
	}
	return temperature * temperature * loss;
}

/*
 * mean of w_i T^2 KL(teacher || P), both softened by the temperature T (Hinton et al. 2015): distillation,
 * and the anchor to an earlier version. The factor keeps the size of the gradient whatever T is.
 */
double
serm_loss_kl(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double loss = 0;

	for (uint32_t i = 0; i < list->n; i++) {
		size_t at = (size_t) i * list->width;
		double weight = serm_loss_weight(list, i);

		loss += weight * kl_document(list->scores + at, list->teacher + at, list->width,
		                     parameters->temperature, weight / list->n, gradient + at);
	}
	return list->n > 0 ? loss / list->n : 0;
}

/*
 * Threshold-consistent margin (Zhang et al., ICLR 2024; form reconstructed): relevant documents shall score
 * at least `high`, those of grade 0 at most `low`, for every query alike. Mean shortfall of the relevant ones
 * plus mean excess of the others.
 */
double
serm_loss_tcm(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	const SermReal *s = list->scores, *t = list->targets;
	double loss = 0;
	uint32_t relevant = 0, bad = 0;

	for (uint32_t i = 0; i < list->n; i++) {
		relevant += t[i] >= parameters->relevant;
		bad += t[i] <= parameters->threshold;
	}
	for (uint32_t i = 0; i < list->n; i++) {
		double weight = serm_loss_weight(list, i);

		gradient[i] = 0;
		if (t[i] >= parameters->relevant && s[i] < parameters->high) {
			loss += weight * (parameters->high - s[i]) / relevant;
			gradient[i] = (SermReal) (-weight / relevant);
		} else if (t[i] <= parameters->threshold && s[i] > parameters->low) {
			loss += weight * (s[i] - parameters->low) / bad;
			gradient[i] = (SermReal) (weight / bad);
		}
	}
	return loss;
}
