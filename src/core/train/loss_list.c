/*
 * Losses over a list as a whole: softmaxes of scores and likelihoods of an
 * order.
 */
#include "core/train/loss_parts.h"

/* shares[i] = softmax(values / temperature); returns ln of the normaliser. */
static double
softmax(const SermReal *values, uint32_t n, double temperature, double *shares)
{
	double largest = -INFINITY, sum = 0;

	for (uint32_t i = 0; i < n; i++)
		largest = values[i] / temperature > largest ? values[i] / temperature : largest;
	for (uint32_t i = 0; i < n; i++)
		sum += shares[i] = exp(values[i] / temperature - largest);
	for (uint32_t i = 0; i < n; i++)
		shares[i] /= sum;
	return largest + log(sum);
}

/*
 * ListNet (Cao et al. 2007): cross-entropy of the top-one probabilities of grades and scores, both at the
 * same temperature, so that scores which equal the grades are the optimum.
 */
double
serm_loss_listnet(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double wanted[SERM_LOSS_LIST_MAX], given[SERM_LOSS_LIST_MAX], loss = 0, mass = 0, normaliser;
	double temperature = parameters->temperature;

	SERM_ASSERT(list->n <= SERM_LOSS_LIST_MAX);
	if (list->n < 2) {
		memset(gradient, 0, list->n * sizeof(*gradient));
		return 0;
	}
	(void) softmax(list->targets, list->n, temperature, wanted);
	normaliser = softmax(list->scores, list->n, temperature, given);
	for (uint32_t i = 0; i < list->n; i++) {
		wanted[i] *= serm_loss_weight(list, i);
		mass += wanted[i];
		loss -= wanted[i] * (list->scores[i] / temperature - normaliser);
	}
	for (uint32_t i = 0; i < list->n; i++)
		gradient[i] = (SermReal) ((given[i] * mass - wanted[i]) / temperature);
	return loss;
}

/*
 * ListMLE (Xia et al. 2008): mean over the documents of w_i times -ln of the chance that i is drawn first
 * among itself and all documents of lower grades. Without ties that is the likelihood of the order; documents
 * of one grade say nothing about each other. `last` anneals the temperature (PaperEval, AAAI 2026).
 */
double
serm_loss_listmle(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	const SermReal *s = list->scores, *t = list->targets;
	double temperature = serm_loss_schedule(parameters->temperature, parameters->last, list->progress);
	double loss = 0;

	memset(gradient, 0, list->n * sizeof(*gradient));
	for (uint32_t i = 0; i < list->n; i++) {
		double weight = serm_loss_weight(list, i) / list->n, largest = s[i], sum = 0, force;

		for (uint32_t j = 0; j < list->n; j++)
			if (t[j] < t[i] - parameters->threshold && s[j] > largest)
				largest = s[j];
		sum = exp((s[i] - largest) / temperature);
		for (uint32_t j = 0; j < list->n; j++)
			if (t[j] < t[i] - parameters->threshold)
				sum += exp((s[j] - largest) / temperature);
		loss += weight * (log(sum) + (largest - s[i]) / temperature);
		force = weight / (temperature * sum);
		gradient[i] += (SermReal) (force * exp((s[i] - largest) / temperature) - weight / temperature);
		for (uint32_t j = 0; j < list->n; j++)
			if (t[j] < t[i] - parameters->threshold)
				gradient[j] += (SermReal) (force * exp((s[j] - largest) / temperature));
	}
	return loss;
}

/* Places by target, from 1; documents of one grade share the mean of theirs. */
static double
target_place(const SermLossList *list, uint32_t i)
{
	uint32_t before = 0, same = 0;

	for (uint32_t j = 0; j < list->n; j++) {
		before += list->targets[j] > list->targets[i];
		same += list->targets[j] == list->targets[i];
	}
	return before + (same + 1) / 2.0;
}

/*
 * IRPO (arXiv 2504.15477): mean of w_i (2^y - 1) / log2(1 + rank) softplus(ln of the mean over the others of
 * exp(slope (r_j - r_i))), r being the score minus that of the reference where there is one. rank is the
 * place where the document was shown, else its place by grade.
 */
double
serm_loss_irpo(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double r[SERM_LOSS_LIST_MAX], slope = parameters->slope, loss = 0;
	uint32_t n = list->n;

	SERM_ASSERT(n <= SERM_LOSS_LIST_MAX);
	memset(gradient, 0, n * sizeof(*gradient));
	for (uint32_t i = 0; i < n; i++)
		r[i] = slope * ((double) list->scores[i] - (list->reference != NULL ? list->reference[i] : 0));
	for (uint32_t i = 0; n > 1 && i < n; i++) {
		double rank = list->rank != NULL ? list->rank[i] : target_place(list, i), largest = -INFINITY;
		double weight = serm_loss_weight(list, i) * (exp2(list->targets[i]) - 1) / log2(1 + rank) / n;
		double sum = 0, level, force;

		for (uint32_t j = 0; j < n; j++)
			if (j != i && r[j] > largest)
				largest = r[j];
		for (uint32_t j = 0; j < n; j++)
			sum += j != i ? exp(r[j] - largest) : 0;
		level = largest + log(sum) - r[i] - log(n - 1);
		loss += weight * serm_softplus(level);
		force = weight * slope / (1 + exp(-level));
		gradient[i] -= (SermReal) force;
		for (uint32_t j = 0; j < n; j++)
			if (j != i)
				gradient[j] += (SermReal) (force * exp(r[j] - largest) / sum);
	}
	return loss;
}

/*
 * InfoNCE with several positives (BlockRank, arXiv 2510.05396): -ln of the share of the relevant documents in
 * the softmax over the list, times the mean weight of the relevant ones; 0 when all or none are relevant.
 */
double
serm_loss_infonce_multi(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double shares[SERM_LOSS_LIST_MAX], all, among = 0, weight = 0, largest = -INFINITY;
	double temperature = parameters->temperature;
	uint32_t relevant = 0;

	SERM_ASSERT(list->n <= SERM_LOSS_LIST_MAX);
	for (uint32_t i = 0; i < list->n; i++)
		if (list->targets[i] >= parameters->relevant) {
			relevant++;
			weight += serm_loss_weight(list, i);
			largest = list->scores[i] > largest ? list->scores[i] : largest;
		}
	memset(gradient, 0, list->n * sizeof(*gradient));
	if (relevant == 0 || relevant == list->n)
		return 0;
	weight /= relevant;
	all = softmax(list->scores, list->n, temperature, shares);
	for (uint32_t i = 0; i < list->n; i++)
		if (list->targets[i] >= parameters->relevant)
			among += exp((list->scores[i] - largest) / temperature);
	for (uint32_t i = 0; i < list->n; i++) {
		double own = list->targets[i] >= parameters->relevant
		                 ? exp((list->scores[i] - largest) / temperature) / among
		                 : 0;

		gradient[i] = (SermReal) (weight * (shares[i] - own) / temperature);
	}
	return weight * (all - largest / temperature - log(among));
}
