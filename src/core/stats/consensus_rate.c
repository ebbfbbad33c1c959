#include <math.h>
#include <string.h>

#include "core/stats/agreement.h"
#include "core/stats/consensus_parts.h"
#include "core/stats/select.h"

/* Kappas of few pairs are shrunk towards 0 as if so many more had agreed by chance only. */
#define KAPPA_STRENGTH 10.0
/* Share of the agreement beyond what gold explains that makes two judges copies. */
#define COPY_UNEXPLAINED 0.5
/* Others that are asked about two judges, evenly among all, and their ratios with as much scratch. */
#define OTHERS_MAX 64
#define RATIOS_ROOM ((size_t) 2 * OTHERS_MAX * OTHERS_MAX)
/* Others who agree less among themselves tell nothing about two judges. */
#define OTHERS_KAPPA_MIN 0.05
#define LEVEL_STRENGTH 10.0
#define LEVEL_STEPS 3
/* The say of a judge without any reliability: two of them together are still nothing beside a fair one. */
#define RELIABILITY_MIN 0.02
/* Of a judge of whom nothing is known; its quality in the confusion's terms. */
#define RELIABILITY_UNKNOWN 0.3

/* --- how good each judge is */

/* Quadratic kappa of the counts, shrunk by how few they are; NAN where it is not defined. */
static SermStatus
shrunk_kappa(const SermConsensusFit *fit, double n, double strength, double *kappa)
{
	SermStatus status = serm_agreement_kappa(
	    fit->counts, fit->labels->grade_count, NULL, SERM_KAPPA_QUADRATIC, kappa, fit->error);

	if (status == SERM_OK && n > 0.0)
		*kappa *= n / (n + strength);
	return status;
}

static void
clear_counts(const SermConsensusFit *fit)
{
	memset(fit->counts, 0, sizeof(double) * fit->labels->grade_count * fit->labels->grade_count);
}

static SermStatus
compare_two(SermConsensusFit *fit, uint32_t a, uint32_t b)
{
	const SermJudgeLabels *labels = fit->labels;
	uint32_t judges = labels->judge_count;
	double n = 0.0, kappa;
	SermStatus status;

	clear_counts(fit);
	for (size_t i = 0; i < labels->item_count; i++) {
		int16_t x = serm_consensus_label_of(fit, i, a), y = serm_consensus_label_of(fit, i, b);

		if (x == SERM_LABEL_MISSING || y == SERM_LABEL_MISSING)
			continue;
		fit->counts[(size_t) x * labels->grade_count + (size_t) y] += 1.0;
		n += 1.0;
	}
	if ((status = shrunk_kappa(fit, n, KAPPA_STRENGTH, &kappa)) != SERM_OK)
		return status;
	fit->met[(size_t) a * judges + b] = fit->met[(size_t) b * judges + a] = n;
	fit->consensus->kappa[(size_t) a * judges + b] = fit->consensus->kappa[(size_t) b * judges + a] = kappa;
	return SERM_OK;
}

static SermStatus
compare_judges(SermConsensusFit *fit)
{
	uint32_t judges = fit->labels->judge_count;
	SermStatus status = SERM_OK;

	for (uint32_t a = 0; a < judges && status == SERM_OK; a++) {
		fit->consensus->kappa[(size_t) a * judges + a] = NAN;
		for (uint32_t b = a + 1; b < judges && status == SERM_OK; b++) {
			if (serm_consensus_stopped(fit))
				return serm_fail(fit->error, SERM_ERR_CANCELED, "canceled");
			status = compare_two(fit, a, b);
		}
	}
	return status;
}

/* The kappa of two judges that have met; one who always says the same agrees with nobody beyond chance. */
static bool
have_met(const SermConsensusFit *fit, uint32_t a, uint32_t b, double *kappa)
{
	size_t at = (size_t) a * fit->labels->judge_count + b;

	*kappa = isnan(fit->consensus->kappa[at]) ? 0.0 : fit->consensus->kappa[at];
	return a != b && fit->met[at] > 0.0;
}

/* Who may be a copy of one of two judges says nothing about the other. Returns how many are left in `others`.
 */
static uint32_t
find_others(const SermConsensusFit *fit, uint32_t a, uint32_t b, uint32_t *others)
{
	uint32_t judges = fit->labels->judge_count, step = 1 + (judges - 1) / OTHERS_MAX, count = 0;
	double left, right;

	for (uint32_t c = 0; c < judges; c += step)
		if (have_met(fit, a, c, &left) && have_met(fit, b, c, &right) &&
		    fmax(left, right) <= fit->options->copy_kappa)
			others[count++] = c;
	return count;
}

/*
 * What two judges would agree if nothing but the matter made them, from how they agree with the others: with
 * one common factor k(a,b) k(c,d) = k(a,c) k(b,d) for any others c and d (Spearman's tetrads, 1904). The
 * median over them, which copies among the others do not move. NAN: they tell nothing. `ratio`: room for
 * RATIOS_ROOM.
 */
static double
explained_by_others(const SermConsensusFit *fit, uint32_t a, uint32_t b, float *ratio)
{
	uint32_t others[OTHERS_MAX], other_count = find_others(fit, a, b, others);
	size_t count = 0;
	double left, right, between;

	for (uint32_t i = 0; i < other_count; i++)
		for (uint32_t j = 0; j < other_count; j++)
			if (have_met(fit, others[i], others[j], &between) && between >= OTHERS_KAPPA_MIN) {
				(void) have_met(fit, a, others[i], &left);
				(void) have_met(fit, b, others[j], &right);
				ratio[count++] = (float) (left * right / between);
			}
	if (count == 0)
		return NAN;
	return fmin(fmax(serm_select_quantile(ratio, ratio + count, count, 0.5), 0.0), 1.0);
}

/*
 * Judges that agree because both are right agree no more than their kappas against gold, multiplied, explain.
 * Without enough gold the other judges stand in for it; where they tell nothing agreement alone must do.
 */
static bool
is_copy(const SermConsensusFit *fit, uint32_t a, uint32_t b, float *ratio)
{
	const SermJudgeQuality *one = &fit->consensus->judge[a], *other = &fit->consensus->judge[b];
	size_t at = (size_t) a * fit->labels->judge_count + b;
	double kappa = fit->consensus->kappa[at], explained;

	if (!(kappa > fit->options->copy_kappa) || fit->met[at] < (double) fit->options->copy_items_min)
		return false;
	if (one->gold < fit->options->copy_items_min || other->gold < fit->options->copy_items_min ||
	    isnan(one->gold_kappa) || isnan(other->gold_kappa))
		explained = explained_by_others(fit, a, b, ratio);
	else
		explained = fmax(one->gold_kappa, 0.0) * fmax(other->gold_kappa, 0.0);
	return isnan(explained) || kappa - explained > COPY_UNEXPLAINED * (1.0 - explained);
}

/* Copies say nothing about each other: only who is none may vouch for a judge. */
static SermStatus
measure_agreement(SermConsensusFit *fit)
{
	uint32_t judges = fit->labels->judge_count;
	float *ratio = serm_arena_array(fit->arena, RATIOS_ROOM, sizeof(*ratio));

	if (ratio == NULL)
		return serm_fail(fit->error, SERM_ERR_MEMORY, "out of memory for the agreement of %u judges", judges);
	for (uint32_t a = 0; a < judges; a++) {
		SermJudgeQuality *judge = &fit->consensus->judge[a];
		double sum = 0.0, count = 0.0;

		if (serm_consensus_stopped(fit))
			return serm_fail(fit->error, SERM_ERR_CANCELED, "canceled");
		judge->copies = 1;
		for (uint32_t b = 0; b < judges; b++) {
			double kappa;

			if (!have_met(fit, a, b, &kappa))
				continue;
			if (is_copy(fit, a, b, ratio)) {
				judge->copies++;
				continue;
			}
			sum += kappa;
			count += 1.0;
		}
		judge->agreement = count > 0.0 ? sum / count : NAN;
	}
	return SERM_OK;
}

/* Against gold of one grade every judge has kappa 0, whatever it says: that would tell nothing of it. */
static SermStatus
compare_with_gold(SermConsensusFit *fit, uint32_t j)
{
	SermJudgeQuality *judge = &fit->consensus->judge[j];
	int16_t previous = SERM_LABEL_MISSING;
	bool differs = false;

	clear_counts(fit);
	for (size_t i = 0; i < fit->labels->item_count; i++) {
		int16_t label = serm_consensus_label_of(fit, i, j), gold = serm_consensus_gold_of(fit, i);

		judge->labels += label != SERM_LABEL_MISSING;
		if (label == SERM_LABEL_MISSING || gold == SERM_LABEL_MISSING)
			continue;
		judge->gold++;
		differs |= previous != SERM_LABEL_MISSING && gold != previous;
		previous = gold;
		fit->counts[(size_t) gold * fit->labels->grade_count + (size_t) label] +=
		    serm_consensus_weight(fit, i);
	}
	judge->gold_kappa = NAN;
	return differs ? shrunk_kappa(fit, (double) judge->gold, 0.0, &judge->gold_kappa) : SERM_OK;
}

/*
 * Gold and agreement together. Judges agree more with each other than with people: the agreement is moved by
 * what gold shows of that on average, before it stands in for gold that is missing.
 */
static void
rate_judges(SermConsensusFit *fit)
{
	uint32_t judges = fit->labels->judge_count;
	double apart = 0.0, gold = 0.0, counted = 0.0, shift, pooled = 0.0, known = 0.0;

	for (uint32_t j = 0; j < judges; j++) {
		const SermJudgeQuality *judge = &fit->consensus->judge[j];

		if (!isnan(judge->agreement)) {
			pooled += judge->agreement;
			known += 1.0;
		}
		if (isnan(judge->gold_kappa) || isnan(judge->agreement))
			continue;
		apart += judge->gold_kappa - judge->agreement;
		gold += (double) judge->gold;
		counted += 1.0;
	}
	pooled = known > 0.0 ? pooled / known : RELIABILITY_UNKNOWN;
	shift =
	    counted > 0.0 ? apart / counted * (gold / counted) / (gold / counted + fit->options->shrink) : 0.0;
	for (uint32_t j = 0; j < judges; j++) {
		SermJudgeQuality *judge = &fit->consensus->judge[j];
		double n = isnan(judge->gold_kappa) ? 0.0 : (double) judge->gold;
		double kappa = isnan(judge->gold_kappa) ? 0.0 : judge->gold_kappa;
		double base = (isnan(judge->agreement) ? pooled : judge->agreement) + shift;

		judge->reliability =
		    (n * kappa + fit->options->shrink * fmin(fmax(base, -1.0), 1.0)) / (n + fit->options->shrink);
	}
}

static void
share_say(SermConsensusFit *fit)
{
	uint32_t judges = fit->labels->judge_count;
	double sum = 0.0;

	for (uint32_t j = 0; j < judges; j++) {
		SermJudgeQuality *judge = &fit->consensus->judge[j];
		double reliability = fmax(judge->reliability, RELIABILITY_MIN);

		judge->weight = reliability * reliability / judge->copies;
		if (fit->options->say != NULL)
			judge->weight *= fit->options->say[j];
		sum += judge->weight;
	}
	for (uint32_t j = 0; j < judges; j++)
		fit->consensus->judge[j].weight /= sum;
}

/* --- the mean label */

double
serm_consensus_mean(const SermConsensus *consensus, const int16_t *label)
{
	double sum = 0.0, weight = 0.0;

	for (uint32_t j = 0; j < consensus->judge_count; j++)
		if (label[j] != SERM_LABEL_MISSING) {
			sum += consensus->judge[j].weight * (label[j] - consensus->judge[j].level);
			weight += consensus->judge[j].weight;
		}
	return weight > 0.0 ? sum / weight : NAN;
}

/*
 * The levels, by a few steps of backfitting: where every judge labels every pair they take nothing from the
 * mean, elsewhere they keep it from depending on who was asked.
 */
static SermStatus
fit_levels(SermConsensusFit *fit)
{
	const SermJudgeLabels *labels = fit->labels;
	double *sum = serm_arena_array(fit->arena, labels->judge_count, sizeof(double));

	if (sum == NULL)
		return serm_fail(fit->error, SERM_ERR_MEMORY, "out of memory for the levels of judges");
	for (int step = 0; step < LEVEL_STEPS; step++) {
		memset(sum, 0, sizeof(double) * labels->judge_count);
		for (size_t i = 0; i < labels->item_count; i++) {
			double mean = serm_consensus_mean(fit->consensus, labels->label + i * labels->judge_count);

			if (i % ITEMS_PER_CHECK == 0 && serm_consensus_stopped(fit))
				return serm_fail(fit->error, SERM_ERR_CANCELED, "canceled");
			for (uint32_t j = 0; j < labels->judge_count; j++)
				if (serm_consensus_label_of(fit, i, j) != SERM_LABEL_MISSING)
					sum[j] += serm_consensus_label_of(fit, i, j) - mean;
		}
		for (uint32_t j = 0; j < labels->judge_count; j++) {
			SermJudgeQuality *judge = &fit->consensus->judge[j];

			judge->level = sum[j] / ((double) judge->labels + LEVEL_STRENGTH);
		}
	}
	return SERM_OK;
}

/* --- the whole */

SermStatus
serm_consensus_rate(SermConsensusFit *fit)
{
	SermStatus status = compare_judges(fit);

	for (uint32_t j = 0; j < fit->labels->judge_count && status == SERM_OK; j++)
		status = compare_with_gold(fit, j);
	if (status == SERM_OK)
		status = measure_agreement(fit);
	if (status != SERM_OK)
		return status;
	rate_judges(fit);
	share_say(fit);
	return fit_levels(fit);
}
