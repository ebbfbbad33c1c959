/*
 * Judges with systematic errors: their confusion matrices, and the soft target
 * of a pair that they labelled.
 *
 * C_j[y][l] = P(judge j says l | truth y), row-stochastic and strictly
 * positive. Estimation is maximum a posteriori under a Dirichlet prior on each
 * row, centred on the average judge: the counts of all judges together, which
 * are themselves shrunk to a judge of assumed quality. A judge of whom little
 * is known is thus taken for an average one, never for a perfect one.
 *
 * Rows come from pairs with a known grade (gold); where that is too little,
 * from expectation maximisation (Dawid and Skene 1979) in which the truth of
 * an item has its own prior (the model's distribution) or a common one that is
 * learned. The posterior of EM is far too sure when judges err alike: use its
 * matrices, and temper them with weights below one for dependent judges.
 *
 * Measured on real judges (2 % gold, 2 to 4 of 7 and of 33): the likelihood of the human grade under the
 * soft target is flat in strength from 10 to 20 and in quality from .2 to .4, and best with weights
 * near one over the number of judges; serm_judges_correlate() finds them.
 */
#ifndef SERM_CORE_STATS_JUDGES_H
#define SERM_CORE_STATS_JUDGES_H

#include "core/base/arena.h"

#define SERM_JUDGES_GRADES_MAX 64
#define SERM_LABEL_MISSING ((int16_t) -1)

typedef struct SermJudgeLabels {
	uint32_t grade_count; /* 2..SERM_JUDGES_GRADES_MAX */
	uint32_t judge_count;
	size_t item_count;
	const int16_t *label; /* [item][judge]; SERM_LABEL_MISSING: the judge abstained or failed */
	const int16_t *gold;  /* [item]; SERM_LABEL_MISSING: unknown. NULL: no gold at all */
	const float *prior;   /* [item][grade] distributions, the model's; NULL: learn a common one */
} SermJudgeLabels;

typedef enum SermConfusionMethod {
	SERM_CONFUSION_AUTO, /* GOLD with at least gold_min labelled gold items, else EM */
	SERM_CONFUSION_GOLD, /* count on gold items only */
	SERM_CONFUSION_EM    /* Dawid-Skene over all items; gold items are held at their grade */
} SermConfusionMethod;

typedef struct SermConfusionOptions {
	SermConfusionMethod method; /* default AUTO */
	size_t gold_min;            /* default 40, the least that a measurement on real judges supports */
	double strength;            /* prior pseudo-counts per row, > 0; default 10 */
	double quality;             /* of the assumed judge: 0 is chance, 1 is perfect; in (0, 1), default .3 */
	uint32_t iterations_max;    /* of EM, default 200 */
	double tolerance;           /* EM stops when no matrix entry moves more; default 1e-7 */
} SermConfusionOptions;

typedef struct SermConfusionReport {
	SermConfusionMethod method; /* the one used */
	size_t gold_count;          /* gold items with at least one label */
	size_t label_count;         /* labels that entered */
	uint32_t iterations;        /* 0 for GOLD */
	bool converged;
	double log_likelihood; /* of the labels given the matrices, of EM's last step; 0 for GOLD */
} SermConfusionReport;

extern void serm_confusion_defaults(SermConfusionOptions *options);

/*
 * The matrix of the assumed judge: row y has 1/G + quality (1 - 1/G) on the diagonal, the rest falls
 * by half with each grade of distance. out: [grade][grade].
 */
extern void serm_confusion_assumed(uint32_t grade_count, double quality, double *out);

/*
 * confusion: [judge][grade][grade], out. grade_prior: [grade], out, the distribution of the grades
 * (of gold, or of EM's posterior; smoothed by one count). posterior: [item][grade], out, or NULL; EM's
 * belief on each item (for GOLD: that of the soft target rule under the estimated matrices).
 * INVALID: a label, gold grade, distribution or option out of range. NO_DATA: no label at all, or
 * method GOLD without gold.
 */
extern SermStatus serm_confusion_estimate(const SermJudgeLabels *labels, const SermConfusionOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, double *confusion, double *grade_prior,
    double *posterior, SermConfusionReport *report, SermError *error);

/*
 * As how many judges that err by themselves `count` count whose errors have this correlation: count / (1 +
 * (count - 1) correlation), never below 1.
 */
extern double serm_judges_worth(double count, double correlation);

typedef struct SermCorrelationInput {
	const double *confusion;    /* [judge][grade][grade] */
	SermConfusionMethod method; /* by which it was found: GOLD counts each gold label once */
	double strength;            /* of its prior, as in SermConfusionOptions */
	const double
	    *grade_factor; /* [grade]: what the prior of an item is multiplied by; without one, the prior */
	const double *say; /* [judge] in (0, 1]: copies share one; NULL: 1 */
	const double *gold_weight; /* [item]; NULL: 1 */
} SermCorrelationInput;

/*
 * The correlation, in [0, 1], under which soft targets make gold likeliest, each matrix taken as if it had
 * not seen the pair. Without gold it is .65, which 2 to 7 of 7 and 2 to 33 of 33 real judges have; with gold
 * the mean under a normal prior around that, cut at 0 and 1 (.62 before the first pair). CANCELED, MEMORY.
 */
extern SermStatus serm_judges_correlate(const SermJudgeLabels *labels, const SermCorrelationInput *input,
    SermArena *arena, SermKeepGoing keep_going, void *context, double *correlation, SermError *error);

/*
 * q(y) ~ prior(y) prod_j C_j[y][label_j]^weight_j over the judges that answered; q sums to 1. `prior`
 * is the model's distribution (NULL: uniform); zero entries are lifted to 1e-6, so that a judge can
 * contradict an overconfident model. `confusion` is [judge][grade][grade], `label` [judge] with
 * SERM_LABEL_MISSING for a hole; `weight` [judge] in [0, 1] tempers dependent judges, NULL means 1.
 * Without any answer q is the prior. target: [grade_count], out.
 */
extern SermStatus serm_soft_target(uint32_t grade_count, const float *prior, uint32_t judge_count,
    const double *confusion, const int16_t *label, const double *weight, float *target, SermError *error);

#endif
