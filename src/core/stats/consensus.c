#include "core/stats/consensus.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/stats/consensus_parts.h"
#include "core/stats/select.h"

/*
 * Gold labels from which confusions are counted and not estimated. With three judges or more agreement tells
 * much of their errors, and counts of 42 gold pairs did worse on 33 real ones (kappa .364 against .397); of
 * two it tells little.
 */
#define GOLD_FEW_JUDGES 40
#define GOLD_MANY_JUDGES 100
/* Of a grade: far more than rounding moves a value, far less than anybody tells grades apart by. */
#define VALUE_STEPS 0x1p30

void
serm_consensus_defaults(SermConsensusOptions *options)
{
	*options = (SermConsensusOptions){.rule = SERM_CONSENSUS_WEIGHTED,
	    .copy_kappa = 0.75,
	    .copy_items_min = 30,
	    .shrink = 100.0,
	    .cut_strength = 10.0,
	    .vote_share = 0.3,
	    .keep = 1.0};
	serm_confusion_defaults(&options->confusion);
	options->confusion.gold_min = 0;
}

static SermStatus
check_options(const SermConsensusOptions *options, uint32_t judge_count, size_t item_count, SermError *error)
{
	if (!(options->copy_kappa > 0.0 && options->copy_kappa <= 1.0))
		return serm_fail(error, SERM_ERR_INVALID, "kappa %g of copies is outside 0..1", options->copy_kappa);
	if (!(options->shrink > 0.0 && options->cut_strength > 0.0) || isinf(options->shrink) ||
	    isinf(options->cut_strength))
		return serm_fail(error, SERM_ERR_INVALID, "shrinking needs finite strengths above 0");
	if (!(options->keep > 0.0 && options->keep <= 1.0))
		return serm_fail(error, SERM_ERR_INVALID, "share %g to keep is outside 0..1", options->keep);
	if (!(options->vote_share >= 0.0 && options->vote_share <= 1.0))
		return serm_fail(
		    error, SERM_ERR_INVALID, "share %g of the votes is outside 0..1", options->vote_share);
	for (uint32_t j = 0; options->say != NULL && j < judge_count; j++)
		if (!(options->say[j] > 0.0) || isinf(options->say[j]))
			return serm_fail(
			    error, SERM_ERR_INVALID, "the say %g of a judge must be above 0", options->say[j]);
	for (size_t i = 0; options->gold_weight != NULL && i < item_count; i++)
		if (!(options->gold_weight[i] > 0.0) || isinf(options->gold_weight[i]))
			return serm_fail(
			    error, SERM_ERR_INVALID, "the weight %g of a pair must be above 0", options->gold_weight[i]);
	return SERM_OK;
}

static SermStatus
allocate(SermConsensusFit *fit)
{
	SermConsensus *consensus = fit->consensus;
	size_t grades = consensus->grade_count, judges = consensus->judge_count;

	consensus->judge = serm_arena_array(fit->arena, judges, sizeof(SermJudgeQuality));
	consensus->kappa = serm_arena_array(fit->arena, judges * judges, sizeof(double));
	consensus->confusion = serm_arena_array(fit->arena, judges * grades * grades, sizeof(double));
	consensus->cut = serm_arena_array(fit->arena, grades, sizeof(double));
	consensus->judge_cut = serm_arena_array(fit->arena, judges * (grades - 1), sizeof(double));
	consensus->grade_prior = serm_arena_array(fit->arena, grades, sizeof(double));
	consensus->prior_scale = serm_arena_array(fit->arena, grades, sizeof(double));
	consensus->threshold = serm_arena_array(fit->arena, grades, sizeof(double));
	fit->met = serm_arena_array(fit->arena, judges * judges, sizeof(double));
	fit->counts = serm_arena_array(fit->arena, grades * grades, sizeof(double));
	if (consensus->judge == NULL || consensus->kappa == NULL || consensus->confusion == NULL ||
	    consensus->cut == NULL || consensus->judge_cut == NULL || consensus->grade_prior == NULL ||
	    consensus->prior_scale == NULL || consensus->threshold == NULL || fit->met == NULL ||
	    fit->counts == NULL)
		return serm_fail(
		    fit->error, SERM_ERR_MEMORY, "out of memory for the consensus of %zu judges", judges);
	return SERM_OK;
}

/* --- the posterior */

/* How far the label of each judge counts: copies share one say, and the others err alike nevertheless. */
static void
temper(const SermConsensus *consensus, const int16_t *label, double *power)
{
	double separate = 0.0, worth;

	for (uint32_t j = 0; j < consensus->judge_count; j++)
		if (label[j] != SERM_LABEL_MISSING)
			separate += 1.0 / consensus->judge[j].copies;
	worth = serm_judges_worth(separate, consensus->correlation);
	for (uint32_t j = 0; j < consensus->judge_count; j++)
		power[j] = separate > 0.0 ? fmin(1.0, worth / separate / consensus->judge[j].copies) : 1.0;
}

static SermStatus
believe(
    const SermConsensus *consensus, const int16_t *label, const float *prior, float *target, SermError *error)
{
	uint32_t grades = consensus->grade_count;
	double power[SERM_CONSENSUS_JUDGES_MAX], sum = 0.0;
	float scaled[SERM_JUDGES_GRADES_MAX];

	for (uint32_t y = 0; y < grades; y++)
		sum += scaled[y] =
		    (float) (prior != NULL ? prior[y] * consensus->prior_scale[y] : consensus->grade_prior[y]);
	for (uint32_t y = 0; y < grades && sum > 0.0; y++)
		scaled[y] = (float) (scaled[y] / sum);
	temper(consensus, label, power);
	return serm_soft_target(
	    grades, scaled, consensus->judge_count, consensus->confusion, label, power, target, error);
}

/*
 * What POSTERIOR cuts: half its mean, half the weighted mean of the labels. Its own mean knows less of the
 * order of pairs when matrices come from little gold.
 */
static double
between(double mean, const float *target, uint32_t grades)
{
	double expected = 0.0;

	for (uint32_t y = 0; y < grades; y++)
		expected += y * (double) target[y];
	return (mean + expected) / 2.0;
}

/* What gold says of the model's distributions: mean of gold over mean of the model, on the same pairs. */
static void
scale_prior(SermConsensusFit *fit)
{
	const SermJudgeLabels *labels = fit->labels;
	uint32_t grades = labels->grade_count;
	double model[SERM_JUDGES_GRADES_MAX] = {0}, gold[SERM_JUDGES_GRADES_MAX] = {0}, total = 0.0;

	for (uint32_t y = 0; y < grades; y++)
		fit->consensus->prior_scale[y] = 1.0;
	if (labels->prior == NULL)
		return;
	for (size_t i = 0; i < labels->item_count; i++) {
		int16_t truth = serm_consensus_gold_of(fit, i);

		if (truth == SERM_LABEL_MISSING)
			continue;
		gold[truth] += serm_consensus_weight(fit, i);
		total += serm_consensus_weight(fit, i);
		for (uint32_t y = 0; y < grades; y++)
			model[y] += serm_consensus_weight(fit, i) * labels->prior[i * grades + y];
	}
	/* As if so many pairs more had shown the model to be right, spread as it spreads. */
	for (uint32_t y = 0; y < grades; y++) {
		double more = fit->options->cut_strength * (total > 0.0 ? model[y] / total : 1.0) + 1.0 / grades;

		fit->consensus->prior_scale[y] = (gold[y] + more) / (model[y] + more);
	}
}

static SermStatus
correlate(SermConsensusFit *fit)
{
	const SermConsensus *consensus = fit->consensus;
	SermArenaMark mark = serm_arena_mark(fit->arena);
	double *say = serm_arena_array(fit->arena, consensus->judge_count, sizeof(double));
	SermCorrelationInput input = {.confusion = consensus->confusion,
	    .method = consensus->confusion_report.method,
	    .strength = fit->options->confusion.strength,
	    .grade_factor = fit->labels->prior != NULL ? consensus->prior_scale : consensus->grade_prior,
	    .say = say,
	    .gold_weight = fit->options->gold_weight};
	SermStatus status;

	if (say == NULL)
		return serm_fail(
		    fit->error, SERM_ERR_MEMORY, "out of memory for the say of %u judges", consensus->judge_count);
	for (uint32_t j = 0; j < consensus->judge_count; j++)
		say[j] = 1.0 / consensus->judge[j].copies;
	status = serm_judges_correlate(fit->labels, &input, fit->arena, fit->keep_going, fit->context,
	    &fit->consensus->correlation, fit->error);
	serm_arena_rewind(fit->arena, mark);
	return status;
}

/* --- cut points */

/*
 * A value as it is compared with cuts and other values: those that are equal but for the order of their terms
 * are nearly always one. Two that lie astride of the middle of a step are not.
 */
static double
on_steps(double value)
{
	return rint(value * VALUE_STEPS) / VALUE_STEPS;
}

typedef struct Valued {
	double value;
	double weight;
} Valued;

static int
compare_values(const void *left, const void *right)
{
	const Valued *a = left, *b = right;

	return (a->value > b->value) - (a->value < b->value);
}

/*
 * The values below which `share` of the weight lies, between the two that enclose it: each value stands for
 * the middle of its weight. `valued` is sorted, count > 0.
 */
static double
quantile(const Valued *valued, size_t count, double total, double share)
{
	double below = 0.0, wanted = share * total, last = valued[0].value, last_at = 0.0;

	for (size_t i = 0; i < count; i++) {
		double at = below + valued[i].weight / 2.0;

		if (at >= wanted) {
			double part = i == 0 || at <= last_at ? 1.0 : (wanted - last_at) / (at - last_at);

			return last + part * (valued[i].value - last);
		}
		last = valued[i].value;
		last_at = at;
		below += valued[i].weight;
	}
	return last;
}

/* Cuts at which the values have the shares of `mass`, [grade], smoothed by one count over all grades. */
static void
match_shares(Valued *valued, size_t count, const double *mass, uint32_t grades, double smoothing, double *cut)
{
	double total = 0.0, weight = 0.0, below = 0.0;

	qsort(valued, count, sizeof(*valued), compare_values);
	for (size_t i = 0; i < count; i++)
		weight += valued[i].weight;
	for (uint32_t y = 0; y < grades; y++)
		total += mass[y] + smoothing;
	for (uint32_t y = 0; y + 1 < grades; y++) {
		below += mass[y] + smoothing;
		cut[y] = quantile(valued, count, weight, below / total);
	}
}

/* base := the cuts of gold, shrunk towards the base; `value` [item] is NAN where nobody answered. */
static void
cut_by_gold(const SermConsensusFit *fit, const double *value, Valued *valued, double *base)
{
	uint32_t grades = fit->labels->grade_count;
	double mass[SERM_JUDGES_GRADES_MAX] = {0}, cut[SERM_JUDGES_GRADES_MAX];
	size_t count = 0;

	for (size_t i = 0; i < fit->labels->item_count; i++) {
		int16_t gold = serm_consensus_gold_of(fit, i);

		if (gold == SERM_LABEL_MISSING || isnan(value[i]))
			continue;
		valued[count++] = (Valued){value[i], serm_consensus_weight(fit, i)};
		mass[gold] += serm_consensus_weight(fit, i);
	}
	if (count == 0)
		return;
	match_shares(valued, count, mass, grades, 1.0, cut);
	for (uint32_t y = 0; y + 1 < grades; y++)
		base[y] = ((double) count * cut[y] + fit->options->cut_strength * base[y]) /
		          ((double) count + fit->options->cut_strength);
}

/* The cuts without gold: the middle between two grades, or those that give the values the mean of `mass`. */
static void
base_cuts(const SermConsensusFit *fit, const double *value, Valued *valued, const double *mass, double *cut)
{
	size_t count = 0;

	for (uint32_t y = 0; y + 1 < fit->labels->grade_count; y++)
		cut[y] = y + 0.5;
	for (size_t i = 0; mass != NULL && i < fit->labels->item_count; i++)
		if (!isnan(value[i]))
			valued[count++] = (Valued){value[i], 1.0};
	if (count > 0)
		match_shares(valued, count, mass, fit->labels->grade_count, 0.0, cut);
}

/* Values of all pairs by the rule, and in `mass` the mean distribution of what has one. */
static SermStatus
value_pairs(SermConsensusFit *fit, double *value, double *mass)
{
	const SermJudgeLabels *labels = fit->labels;
	uint32_t grades = labels->grade_count;
	bool posterior = fit->consensus->rule == SERM_CONSENSUS_POSTERIOR;

	for (size_t i = 0; i < labels->item_count; i++) {
		const int16_t *label = labels->label + i * labels->judge_count;
		const float *prior = labels->prior == NULL ? NULL : labels->prior + i * grades;
		float target[SERM_JUDGES_GRADES_MAX];
		SermStatus status;

		if (i % ITEMS_PER_CHECK == 0 && serm_consensus_stopped(fit))
			return serm_fail(fit->error, SERM_ERR_CANCELED, "canceled");
		value[i] = serm_consensus_mean(fit->consensus, label);
		if (isnan(value[i]))
			continue;
		if (posterior) {
			if ((status = believe(fit->consensus, label, prior, target, fit->error)) != SERM_OK)
				return status;
			value[i] = between(value[i], target, grades);
		}
		value[i] = on_steps(value[i]);
		for (uint32_t y = 0; y < grades; y++)
			mass[y] += posterior       ? target[y]
			           : prior != NULL ? prior[y] * fit->consensus->prior_scale[y]
			                           : 0.0;
	}
	return SERM_OK;
}

static SermStatus
fit_cuts(SermConsensusFit *fit)
{
	const SermJudgeLabels *labels = fit->labels;
	uint32_t grades = labels->grade_count;
	double *value = serm_arena_array(fit->arena, labels->item_count, sizeof(double));
	Valued *valued = serm_arena_array(fit->arena, labels->item_count, sizeof(Valued));
	double mass[SERM_JUDGES_GRADES_MAX] = {0};
	bool has_mass = fit->consensus->rule == SERM_CONSENSUS_POSTERIOR || labels->prior != NULL;
	SermStatus status;

	if (value == NULL || valued == NULL)
		return serm_fail(
		    fit->error, SERM_ERR_MEMORY, "out of memory for the values of %zu pairs", labels->item_count);
	if ((status = value_pairs(fit, value, mass)) != SERM_OK)
		return status;
	base_cuts(fit, value, valued, has_mass ? mass : NULL, fit->consensus->cut);
	cut_by_gold(fit, value, valued, fit->consensus->cut);
	for (uint32_t j = 0; j < labels->judge_count; j++) {
		double *cut = fit->consensus->judge_cut + (size_t) j * (grades - 1);

		if (serm_consensus_stopped(fit))
			return serm_fail(fit->error, SERM_ERR_CANCELED, "canceled");
		for (uint32_t y = 0; y + 1 < grades; y++)
			cut[y] = y + 0.5 + fit->consensus->judge[j].level;
		for (size_t i = 0; i < labels->item_count; i++)
			value[i] = serm_consensus_label_of(fit, i, j) == SERM_LABEL_MISSING
			               ? NAN
			               : serm_consensus_label_of(fit, i, j);
		cut_by_gold(fit, value, valued, cut);
	}
	return SERM_OK;
}

/* --- abstention */

static SermStatus
set_threshold(
    const SermConsensusFit *fit, uint32_t grade, const SermOpinion *opinions, float *values, float *scratch)
{
	size_t count = 0;

	for (size_t i = 0; i < fit->labels->item_count; i++)
		if (opinions[i].answers > 0 && opinions[i].grade == grade)
			values[count++] = (float) opinions[i].confidence;
	fit->consensus->threshold[grade] =
	    count == 0 ? 0.0 : serm_select_quantile(values, scratch, count, 1.0 - fit->options->keep);
	return SERM_OK;
}

static SermStatus
fit_thresholds(SermConsensusFit *fit)
{
	const SermJudgeLabels *labels = fit->labels;
	uint32_t grades = labels->grade_count;
	SermOpinion *opinions;
	float *values;
	SermStatus status = SERM_OK;

	if (fit->options->keep >= 1.0)
		return SERM_OK;
	opinions = serm_arena_array(fit->arena, labels->item_count, sizeof(*opinions));
	values = serm_arena_array(fit->arena, 2 * labels->item_count, sizeof(*values));
	if (opinions == NULL || values == NULL)
		return serm_fail(
		    fit->error, SERM_ERR_MEMORY, "out of memory for the opinions on %zu pairs", labels->item_count);
	for (size_t i = 0; i < labels->item_count && status == SERM_OK; i++) {
		if (i % ITEMS_PER_CHECK == 0 && serm_consensus_stopped(fit))
			return serm_fail(fit->error, SERM_ERR_CANCELED, "canceled");
		status = serm_consensus_judge(fit->consensus, labels->label + i * labels->judge_count,
		    labels->prior == NULL ? NULL : labels->prior + i * grades, &opinions[i], fit->error);
	}
	for (uint32_t y = 0; y < grades && status == SERM_OK; y++)
		status = set_threshold(fit, y, opinions, values, values + labels->item_count);
	return status;
}

/* --- the whole */

SermStatus
serm_consensus_fit(const SermJudgeLabels *labels, const SermConsensusOptions *options, SermArena *arena,
    SermKeepGoing keep_going, void *context, SermConsensus *consensus, SermError *error)
{
	SermConsensusFit fit = {labels, options, consensus, arena, keep_going, context, NULL, NULL, error};
	SermConfusionOptions confusion = options->confusion;
	SermArenaMark mark;
	SermStatus status = check_options(options, labels->judge_count, labels->item_count, error);

	memset(consensus, 0, sizeof(*consensus));
	consensus->rule = options->rule;
	consensus->grade_count = labels->grade_count;
	consensus->judge_count = labels->judge_count;
	consensus->vote_share = options->vote_share;
	if (status != SERM_OK)
		return status;
	if (labels->judge_count > SERM_CONSENSUS_JUDGES_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "more than %d judges", SERM_CONSENSUS_JUDGES_MAX);
	if (labels->grade_count < 2 || labels->grade_count > SERM_JUDGES_GRADES_MAX)
		return serm_fail(error, SERM_ERR_INVALID, "grade count %u is outside 2..%d", labels->grade_count,
		    SERM_JUDGES_GRADES_MAX);
	if ((status = allocate(&fit)) != SERM_OK)
		return status;
	mark = serm_arena_mark(arena);
	/* First, since it looks at every label before anything is counted. */
	if (confusion.gold_min == 0)
		confusion.gold_min = labels->judge_count < 3 ? GOLD_FEW_JUDGES : GOLD_MANY_JUDGES;
	status = serm_confusion_estimate(labels, &confusion, arena, keep_going, context, consensus->confusion,
	    consensus->grade_prior, NULL, &consensus->confusion_report, error);
	if (status == SERM_OK) {
		consensus->gold_count = consensus->confusion_report.gold_count;
		/* Without gold and without a model nothing tells the level: matrices would be those of the judges'
		 * own. */
		if (labels->prior == NULL && consensus->gold_count < GOLD_FEW_JUDGES)
			consensus->rule = SERM_CONSENSUS_WEIGHTED;
		status = serm_consensus_rate(&fit);
	}
	if (status == SERM_OK) {
		scale_prior(&fit);
		status = correlate(&fit);
	}
	if (status == SERM_OK)
		status = fit_cuts(&fit);
	if (status == SERM_OK)
		status = fit_thresholds(&fit);
	serm_arena_rewind(arena, mark);
	return status;
}

/* Who alone answered is cut at points of their own: the mean of one lenient judge is not that of all. */
static const double *
cuts_for(const SermConsensus *consensus, const int16_t *label, uint32_t answers, double *value)
{
	for (uint32_t j = 0; j < consensus->judge_count && answers == 1; j++)
		if (label[j] != SERM_LABEL_MISSING && consensus->rule == SERM_CONSENSUS_WEIGHTED) {
			*value = label[j];
			return consensus->judge_cut + (size_t) j * (consensus->grade_count - 1);
		}
	return consensus->cut;
}

static void
mix_votes(const SermConsensus *consensus, const int16_t *label, SermOpinion *opinion)
{
	double weight = 0.0;

	for (uint32_t j = 0; j < consensus->judge_count; j++)
		weight += label[j] != SERM_LABEL_MISSING ? consensus->judge[j].weight : 0.0;
	for (uint32_t y = 0; y < consensus->grade_count; y++)
		opinion->target[y] = y == opinion->grade ? (float) (1.0 - consensus->vote_share) : 0.0f;
	for (uint32_t j = 0; j < consensus->judge_count; j++)
		if (label[j] != SERM_LABEL_MISSING)
			opinion->target[label[j]] +=
			    (float) (consensus->vote_share * consensus->judge[j].weight / weight);
}

SermStatus
serm_consensus_judge(const SermConsensus *consensus, const int16_t *label, const float *prior,
    SermOpinion *opinion, SermError *error)
{
	uint32_t grades = consensus->grade_count;
	const double *cut;
	SermStatus status;

	memset(opinion, 0, sizeof(*opinion));
	for (uint32_t j = 0; j < consensus->judge_count; j++)
		opinion->answers += label[j] != SERM_LABEL_MISSING ? 1 : 0;
	if (opinion->answers == 0)
		return SERM_OK;
	if ((status = believe(consensus, label, prior, opinion->target, error)) != SERM_OK)
		return status;
	if (consensus->rule == SERM_CONSENSUS_WEIGHTED)
		opinion->value = serm_consensus_mean(consensus, label);
	else
		opinion->value = between(serm_consensus_mean(consensus, label), opinion->target, grades);
	opinion->value = on_steps(opinion->value);
	cut = cuts_for(consensus, label, opinion->answers, &opinion->value);
	while (opinion->grade + 1 < grades && opinion->value >= cut[opinion->grade])
		opinion->grade++;
	opinion->confidence = opinion->target[opinion->grade];
	/* The thresholds are numbers of single precision, as they were compared when they were set. */
	opinion->abstains = (float) opinion->confidence < (float) consensus->threshold[opinion->grade];
	if (consensus->rule == SERM_CONSENSUS_WEIGHTED)
		mix_votes(consensus, label, opinion);
	return SERM_OK;
}
