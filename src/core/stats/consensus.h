/*
 * One grade and one soft target from the labels of several judges who err in
 * level and err alike.
 *
 * A judge is one agent under one version of its prompt. Its reliability is its
 * quadratic kappa against gold, shrunk towards its agreement with the judges that
 * are not its copies, so that it is the agreement alone without gold. Judges whose
 * mutual kappa is above copy_kappa, and more than gold or the other judges explain, are near copies and share
 * one say.
 *
 * WEIGHTED: the mean label, weighted by the square of the reliability, less each
 * judge's level (so that a judge that is missing does not shift it), cut at points
 * that give the gold pairs the grades people gave them as often as people did.
 * Cuts from gold depend on gold pairs alone: they hold on pairs that are harder
 * than gold. They are shrunk towards the middle between two grades or, with a
 * model's distributions, towards the cuts that reproduce its mean distribution.
 * POSTERIOR: the model's distribution, corrected on gold, times the confusion
 * matrices of the judges; halfway between its mean and the weighted one is cut in the same way. With less
 * than 40 gold pairs and no model it is WEIGHTED.
 *
 * Confidence is what the posterior gives to the grade. A consensus keeps the most
 * confident share of each predicted grade: one threshold for all grades would keep
 * almost nothing but the commonest one.
 *
 * Measured on real judges: doc/benchmarks.md, "Judges".
 */
#ifndef SERM_CORE_STATS_CONSENSUS_H
#define SERM_CORE_STATS_CONSENSUS_H

#include "core/stats/judges.h"

#define SERM_CONSENSUS_JUDGES_MAX 256

typedef enum SermConsensusRule {
	SERM_CONSENSUS_WEIGHTED,
	SERM_CONSENSUS_POSTERIOR,
} SermConsensusRule;

typedef struct SermConsensusOptions {
	SermConsensusRule rule;
	double copy_kappa;         /* in (0, 1]; default .75 */
	size_t copy_items_min;     /* labelled by both, before two judges may be copies; default 30 */
	double shrink;             /* gold labels that weigh as much as the agreement; > 0, default 100 */
	double cut_strength;       /* gold pairs that weigh as much as the cuts without gold; > 0, default 10 */
	double vote_share;         /* of the votes in the soft target of WEIGHTED; in [0, 1], default .3 */
	double keep;               /* share kept of each predicted grade; in (0, 1], default 1 */
	const double *say;         /* [judge] factors > 0 that a person gave; NULL: 1 */
	const double *gold_weight; /* [item] > 0 of pairs with gold that was not drawn at random; NULL: 1 */
	SermConfusionOptions confusion; /* gold_min 0, the default: 40 with fewer than three judges, else 100 */
} SermConsensusOptions;

typedef struct SermJudgeQuality {
	size_t labels;
	size_t gold;        /* labels of pairs with a known grade */
	double agreement;   /* mean quadratic kappa with judges that are no copies of it; NAN: never met one */
	double gold_kappa;  /* quadratic, against gold; NAN: no gold, or gold of one grade alone */
	double reliability; /* the two together, in [-1, 1] */
	uint32_t copies;    /* judges that say what it says, itself included */
	double weight;      /* share of the say, sums to 1 over the judges */
	double level;       /* mean label less the consensus on the same pairs: above 0 is lenient */
} SermJudgeQuality;

typedef struct SermConsensus {
	SermConsensusRule rule;
	uint32_t grade_count;
	uint32_t judge_count;
	size_t gold_count; /* pairs with a known grade and a label */
	double vote_share;
	double correlation;      /* of the errors of two judges that are no copies */
	SermJudgeQuality *judge; /* [judge] */
	double *kappa;           /* [judge][judge] quadratic; NAN: not defined */
	double *confusion;       /* [judge][grade][grade] */
	double *cut;             /* [grade - 1]: a value at or above cut[y] is a grade above y */
	double *judge_cut;       /* [judge][grade - 1]: the same for its labels alone */
	double *grade_prior;     /* [grade] */
	double *prior_scale;     /* [grade]: what gold says that a model's probability must be multiplied by */
	double *threshold;       /* [grade]: less confidence than this in a grade is none */
	SermConfusionReport confusion_report;
} SermConsensus;

typedef struct SermOpinion {
	uint32_t answers; /* judges that gave a label; 0: nothing else is set */
	double value;     /* what is cut, in grades */
	uint32_t grade;
	double confidence; /* of the posterior in the grade */
	bool abstains;     /* less than is kept of that grade */
	float target[SERM_JUDGES_GRADES_MAX];
} SermOpinion;

extern void serm_consensus_defaults(SermConsensusOptions *options);
/*
 * Fit to all labels there are; the result lies in the arena. Pairs without gold, judges without labels and a
 * single judge are fine. INVALID, NO_DATA as serm_confusion_estimate; CANCELED, MEMORY.
 */
extern SermStatus serm_consensus_fit(const SermJudgeLabels *labels, const SermConsensusOptions *options,
    SermArena *arena, SermKeepGoing keep_going, void *context, SermConsensus *consensus, SermError *error);
/*
 * The opinion on one pair: label [judge], prior [grade] of the model (NULL: the common one). The labels of
 * the pairs that were fitted give what the fit has seen. INVALID: a label or distribution out of range.
 */
extern SermStatus serm_consensus_judge(const SermConsensus *consensus, const int16_t *label,
    const float *prior, SermOpinion *opinion, SermError *error);

#endif
