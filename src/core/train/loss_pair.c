/*
 * Losses over the pairs of a list. visit_pairs() walks them; a loss is what
 * it makes of one pair. A pair weighs the geometric mean of its documents,
 * times the weight of its margin where one is asked for.
 */
#include "core/train/loss_parts.h"

typedef struct Pair {
	uint32_t winner; /* the higher grade, or the first of a tie */
	uint32_t loser;
	double above; /* by how many grades; 0: a tie */
	double delta; /* score of the winner minus that of the loser */
	double weight;
	double value; /* result, times weight */
	double force; /* result: -d value / d delta */
} Pair;

typedef struct Walk {
	const SermLossList *list;
	const SermLossParameters *parameters;
	bool ties;               /* visit pairs whose grades do not differ, too */
	bool total;              /* a sum instead of a mean */
	double reach;            /* levels that a pair may span */
	const uint16_t *level;   /* [n] from visit_levels(), or NULL */
	const double *gain;      /* [n] */
	const double *discounts; /* [n] of the place by score */
	const double *place;     /* [n] */
} Walk;

/* Fills value and force; false leaves the pair out. */
typedef bool (*PairFunction)(const Walk *walk, Pair *pair);

static double
margin_weight(const SermLossMargin *margin, uint32_t winner, uint32_t loser)
{
	double h = (double) margin->score[winner] - margin->score[loser];
	double weight = 2 / (1 + exp((h - margin->center) / margin->scale));

	return weight < margin->cap ? weight : margin->cap;
}

static double
visit_pairs(const Walk *walk, PairFunction function, SermReal *gradient)
{
	const SermLossList *list = walk->list;
	const SermReal *s = list->scores, *t = list->targets;
	double loss = 0;
	uint64_t pairs = 0;

	memset(gradient, 0, list->n * sizeof(*gradient));
	for (uint32_t i = 0; i < list->n; i++)
		for (uint32_t j = i + 1; j < list->n; j++) {
			double above = t[i] - t[j];
			bool tie = fabs(above) <= walk->parameters->threshold, first = tie || above > 0;
			Pair pair = {.winner = first ? i : j, .loser = first ? j : i, .above = tie ? 0 : fabs(above)};

			if (tie && !walk->ties)
				continue;
			pair.weight = list->weights != NULL ? sqrt((double) list->weights[i] * list->weights[j]) : 1;
			if (list->margin.score != NULL && !tie)
				pair.weight *= margin_weight(&list->margin, pair.winner, pair.loser);
			pair.delta = s[pair.winner] - s[pair.loser];
			if (!function(walk, &pair))
				continue;
			loss += pair.value;
			gradient[pair.winner] -= (SermReal) pair.force;
			gradient[pair.loser] += (SermReal) pair.force;
			pairs++;
		}
	if (pairs == 0 || walk->total)
		return loss;
	for (uint32_t i = 0; i < list->n; i++)
		gradient[i] /= (SermReal) pairs;
	return loss / (double) pairs;
}

/* ln(1 + exp(-slope delta)) */
static void
logistic(double slope, double delta, Pair *pair)
{
	double x = slope * delta;

	pair->value = pair->weight * (x > 0 ? log1p(exp(-x)) : log1p(exp(x)) - x);
	pair->force = pair->weight * slope / (1 + exp(x));
}

static bool
ranknet_pair(const Walk *walk, Pair *pair)
{
	logistic(walk->parameters->slope, pair->delta, pair);
	return true;
}

/*
 * RankNet (Burges et al. 2005): mean over the pairs of the list of
 * sqrt(w_i w_j) ln(1 + exp(-slope (s_i - s_j))), where i has the higher grade.
 */
double
serm_loss_ranknet(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	Walk walk = {.list = list, .parameters = parameters};

	return visit_pairs(&walk, ranknet_pair, gradient);
}

/* level[i]: how many different grades of the list lie above that of i. */
static void
find_levels(const SermLossList *list, double threshold, uint16_t *level)
{
	const SermReal *t = list->targets;
	double bound = INFINITY;

	for (uint32_t i = 0; i < list->n; i++)
		level[i] = 0;
	for (uint16_t next = 0;; next++) {
		double highest = -INFINITY;

		for (uint32_t i = 0; i < list->n; i++)
			if (t[i] < bound && t[i] > highest)
				highest = t[i];
		if (highest == -INFINITY)
			return;
		bound = highest - threshold;
		for (uint32_t i = 0; i < list->n; i++)
			if (t[i] < bound)
				level[i] = (uint16_t) (next + 1);
	}
}

static bool
skip_pair(const Walk *walk, Pair *pair)
{
	if (walk->level[pair->loser] - walk->level[pair->winner] > walk->reach)
		return false;
	logistic(walk->parameters->slope, pair->delta, pair);
	return true;
}

/*
 * RankNet over the pairs that are at most `skip` levels of grade apart (RankList 2025, local and skip
 * constraints). Skip 1 compares neighbours only; `last` raises it in the course of training.
 */
double
serm_loss_ranknet_skip(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	uint16_t level[SERM_LOSS_LIST_MAX];
	Walk walk = {.list = list, .parameters = parameters, .level = level};

	SERM_ASSERT(list->n <= SERM_LOSS_LIST_MAX);
	find_levels(list, parameters->threshold, level);
	walk.reach = floor(serm_loss_schedule(parameters->skip, parameters->last, list->progress) + 1e-9);
	return visit_pairs(&walk, skip_pair, gradient);
}

static bool
hinge_pair(const Walk *walk, Pair *pair)
{
	double lacking = walk->parameters->margin * pair->above - pair->delta;

	pair->value = lacking > 0 ? pair->weight * lacking : 0;
	pair->force = lacking > 0 ? pair->weight : 0;
	return true;
}

/* BRIO (Liu et al., ACL 2022): max(0, s_j - s_i + margin (y_i - y_j)); 0 once every pair is that far apart.
 */
double
serm_loss_hinge_rank(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	Walk walk = {.list = list, .parameters = parameters};

	return visit_pairs(&walk, hinge_pair, gradient);
}

static bool
bt_pair(const Walk *walk, Pair *pair)
{
	const SermReal *t = walk->list->targets;
	double slope = walk->parameters->slope, x = slope * pair->delta, against;

	if (pair->above > 0) {
		logistic(slope, pair->delta, pair);
		return true;
	}
	if (t[pair->winner] < walk->parameters->relevant || t[pair->loser] < walk->parameters->relevant)
		return false;
	against = 1 / (1 + exp(-x));
	pair->value = pair->weight * (serm_softplus(-x) + serm_softplus(x)) / 2;
	pair->force = pair->weight * slope * (0.5 - against);
	return true;
}

/*
 * Bradley-Terry with ties (SoliReward, CVPR 2026): -mu ln sigma(x) - (1 - mu) ln sigma(-x), mu 1 for a win
 * and .5 for two relevant documents of one grade, which pulls their scores together.
 */
double
serm_loss_bt_wt(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	Walk walk = {.list = list, .parameters = parameters, .ties = true};

	return visit_pairs(&walk, bt_pair, gradient);
}

static bool
lambda_pair(const Walk *walk, Pair *pair)
{
	uint32_t i = pair->winner, j = pair->loser;
	double apart = fabs(walk->place[i] - walk->place[j]);
	double near = 1 / log2(1 + apart) - 1 / log2(2 + apart);
	double change = (walk->gain[i] - walk->gain[j]) *
	                (fabs(walk->discounts[i] - walk->discounts[j]) + walk->parameters->focus * near);

	logistic(walk->parameters->slope, pair->delta, pair);
	pair->value *= change;
	pair->force *= change;
	return true;
}

/*
 * Places by score, from 1. Among equal scores the lower grades come first: the worst order, so that a model
 * which cannot tell documents apart yet is not told that all is well.
 */
static void
find_places(const SermLossList *list, double *place)
{
	const SermReal *s = list->scores, *t = list->targets;

	for (uint32_t i = 0; i < list->n; i++) {
		uint32_t before = 0, same = 0;

		for (uint32_t j = 0; j < list->n; j++) {
			before += s[j] > s[i] || (s[j] == s[i] && t[j] < t[i]);
			same += s[j] == s[i] && t[j] == t[i];
		}
		place[i] = before + (same + 1) / 2.0;
	}
}

/* DCG of the best order of `gain` [n]. */
static double
ideal_dcg(const double *gain, uint32_t n)
{
	double sorted[SERM_LOSS_LIST_MAX], sum = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = i;

		for (; at > 0 && gain[i] > sorted[at - 1]; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = gain[i];
	}
	for (uint32_t i = 0; i < n; i++)
		sum += sorted[i] / log2(2 + i);
	return sum;
}

/*
 * LambdaLoss (Wang et al., CIKM 2018; NDCG-Loss2++): the sum over the pairs of the logistic loss times what
 * the pair is worth in NDCG at the current places: |G_i - G_j| (|1/D_i - 1/D_j| + focus delta_ij), gains
 * 2^y - 1 over the ideal DCG. Places are constants of the derivative.
 */
double
serm_loss_lambda_ndcg(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double gain[SERM_LOSS_LIST_MAX], place[SERM_LOSS_LIST_MAX], discounts[SERM_LOSS_LIST_MAX], ideal;
	Walk walk = {.list = list,
	    .parameters = parameters,
	    .total = true,
	    .gain = gain,
	    .place = place,
	    .discounts = discounts};

	SERM_ASSERT(list->n <= SERM_LOSS_LIST_MAX);
	find_places(list, place);
	for (uint32_t i = 0; i < list->n; i++) {
		gain[i] = exp2(list->targets[i]) - 1;
		discounts[i] = 1 / log2(1 + place[i]);
	}
	ideal = ideal_dcg(gain, list->n);
	for (uint32_t i = 0; i < list->n; i++)
		gain[i] = ideal > 0 ? gain[i] / ideal : 0;
	return visit_pairs(&walk, lambda_pair, gradient);
}

static bool
dpo_pair(const Walk *walk, Pair *pair)
{
	const SermReal *reference = walk->list->reference;
	double before = (double) reference[pair->winner] - reference[pair->loser];

	logistic(walk->parameters->slope, pair->delta - before, pair);
	return true;
}

/*
 * DPO (Rafailov et al., NeurIPS 2023) with scores as log-likelihoods: RankNet on how much better than the
 * reference a pair is told apart. It stays near the reference, its errors included.
 */
double
serm_loss_dpo(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	Walk walk = {.list = list, .parameters = parameters};

	return visit_pairs(&walk, dpo_pair, gradient);
}

/* mean over all pairs of the squared error of their difference: scale matters, level does not. */
static bool
margin_pair(const Walk *walk, Pair *pair)
{
	const SermReal *teacher = walk->list->teacher;
	double error = pair->delta - ((double) teacher[pair->winner] - teacher[pair->loser]);

	pair->value = pair->weight * error * error;
	pair->force = -2 * pair->weight * error;
	return true;
}

/* Margin-MSE (Hofstätter et al. 2020): differences of scores follow those of a teacher, whatever the grades.
 */
double
serm_loss_margin_mse(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	Walk walk = {.list = list, .parameters = parameters, .ties = true};

	return visit_pairs(&walk, margin_pair, gradient);
}

/* RankNet on the order of a teacher: the grades are his scores, so that documents nobody judged have an
 * order, too. */
double
serm_loss_ranknet_teacher(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	SermLossList taught = *list;

	taught.targets = list->teacher;
	return serm_loss_ranknet(&taught, parameters, gradient);
}

/* --- MaPO, on logits */

/* x / (e^x - 1) for x >= 0, and its derivative. */
static double
phi(double x, double *derivative)
{
	double u = exp(-x), v = -expm1(-x);

	if (x < 1e-4) {
		*derivative = -0.5 + x / 6;
		return 1 - x / 2;
	}
	*derivative = u * (v - x) / (v * v);
	return x * u / v;
}

/* -sum of t_y ln P(y) of document i for the target of document `of`. */
static double
likelihood_of(const SermLossList *list, const double *normaliser, uint32_t i, uint32_t of)
{
	double sum = 0;

	for (uint32_t y = 0; y < list->width; y++)
		sum -= list->targets[(size_t) of * list->width + y] *
		       (list->scores[(size_t) i * list->width + y] - normaliser[i]);
	return sum;
}

/* Add factor * d likelihood_of(i, of) / d logits. */
static void
push_likelihood(const SermLossList *list, const double *normaliser, uint32_t i, uint32_t of, double factor,
    SermReal *gradient)
{
	for (uint32_t y = 0; y < list->width; y++) {
		size_t at = (size_t) i * list->width + y;
		double p = exp(list->scores[at] - normaliser[i]);

		gradient[at] += (SermReal) (factor * (p - list->targets[(size_t) of * list->width + y]));
	}
}

typedef struct Preference {
	const SermLossList *list;
	const SermLossParameters *parameters;
	const double *normaliser;
	const double *grade;
	double share; /* of one pair in the loss */
} Preference;

static double
prefer(const Preference *preference, uint32_t winner, uint32_t loser, SermReal *gradient)
{
	const SermLossList *list = preference->list;
	const SermLossParameters *parameters = preference->parameters;
	double scale = parameters->likelihood, slope = parameters->slope, d_winner, d_loser, x, force, weight;

	weight = list->weights != NULL ? sqrt((double) list->weights[winner] * list->weights[loser]) : 1;
	if (list->margin.score != NULL)
		weight *= margin_weight(&list->margin, winner, loser);
	weight *= preference->share;
	x = slope * (phi(scale * likelihood_of(list, preference->normaliser, winner, winner), &d_winner) -
	                phi(scale * likelihood_of(list, preference->normaliser, loser, winner), &d_loser));
	force = weight * slope * scale / (1 + exp(x));
	push_likelihood(list, preference->normaliser, winner, winner, -force * d_winner, gradient);
	push_likelihood(list, preference->normaliser, loser, winner, force * d_loser, gradient);
	return weight * serm_softplus(-x);
}

/*
 * MaPO (Hong et al. 2024): likelihood and preference without a reference. Mean cross-entropy, plus
 * `preference` times the mean over the pairs of -ln sigma(slope (phi(c l_w) - phi(c l_l))), where l is the
 * cross-entropy of each document with the target of the better one: the worse one shall not look like that.
 */
double
serm_loss_mapo(const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)
{
	double normaliser[SERM_LOSS_LIST_MAX], grade[SERM_LOSS_LIST_MAX];
	Preference preference = {list, parameters, normaliser, grade, 0};
	double loss = serm_loss_ce(list, parameters, gradient);
	uint64_t pairs = 0;

	SERM_ASSERT(list->n <= SERM_LOSS_LIST_MAX);
	for (uint32_t i = 0; i < list->n; i++) {
		normaliser[i] = serm_log_sum_exp(list->scores + (size_t) i * list->width, list->width);
		grade[i] = 0;
		for (uint32_t y = 0; y < list->width; y++)
			grade[i] += y * (double) list->targets[(size_t) i * list->width + y];
	}
	for (uint32_t i = 0; i < list->n; i++)
		for (uint32_t j = i + 1; j < list->n; j++)
			pairs += fabs(grade[i] - grade[j]) > parameters->threshold;
	if (pairs == 0)
		return loss;
	preference.share = parameters->preference / (double) pairs;
	for (uint32_t i = 0; i < list->n; i++)
		for (uint32_t j = 0; j < list->n; j++)
			if (grade[i] - grade[j] > parameters->threshold)
				loss += prefer(&preference, i, j, gradient);
	return loss;
}
