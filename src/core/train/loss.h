/*
 * Losses over one list: the judged documents of one query. A loss is one
 * function and one line of the table in loss.c; everything else finds it by
 * name. Losses add up with coefficients: serm_loss_parse() reads such a sum.
 *
 * Every loss is scaled so that a list counts by its length when the caller
 * multiplies by n / (examples of the batch). Example weights enter with
 * degree one: twice the weights give twice the loss. Weights that are all 1
 * give the bits of no weights at all. No loss depends on the order of the
 * documents in its list, and equal scores or grades are no special case.
 */
#ifndef SERM_CORE_TRAIN_LOSS_H
#define SERM_CORE_TRAIN_LOSS_H

#include "core/base/real.h"
#include "core/base/status.h"

/* Documents of one list at most; longer ones are cut by the caller. */
#define SERM_LOSS_LIST_MAX 512
#define SERM_LOSS_TERMS_MAX 8
/* Classes that a loss of logits sees at most. */
#define SERM_LOSS_WIDTH_MAX 16

typedef enum SermLossInput {
	SERM_LOSS_LOGITS, /* width = grades: one logit per grade, targets are distributions */
	SERM_LOSS_SCORES  /* width = 1: f of each document, targets are (fractional) grades */
} SermLossInput;

/* Bits of SermLoss.needs and serm_loss_require(). */
#define SERM_LOSS_TEACHER 1u
#define SERM_LOSS_REFERENCE 2u

/*
 * How pairs are weighted by what another scorer says of them: 2 sigma(-(h - center) / scale), at most `cap`,
 * h being the score of the better document minus that of the worse one (MADPO, arXiv 2510.05342).
 */
typedef struct SermLossMargin {
	const SermReal *score; /* [n]; NULL: pairs are not weighted */
	double center;
	double scale; /* > 0 */
	double cap;   /* > 0 */
} SermLossMargin;

/* One list. Arrays that may be NULL are absent then. */
typedef struct SermLossList {
	uint32_t n; /* at most SERM_LOSS_LIST_MAX */
	uint32_t width;
	const SermReal *scores;    /* [n][width] */
	const SermReal *targets;   /* [n][width] */
	const SermReal *weights;   /* [n] or NULL for all ones */
	const SermReal *rank;      /* [n] or NULL: places from 1 at which the documents were shown */
	const SermReal *teacher;   /* [n][width] or NULL: scores or distributions of a teacher */
	const SermReal *reference; /* [n] or NULL: scores of a frozen version */
	SermLossMargin margin;
	double progress; /* of training, in [0, 1] */
} SermLossList;

typedef struct SermLossParameters {
	double slope;       /* steepness of the logistic in a difference of scores */
	double threshold;   /* two documents make a pair when their grades differ by more */
	double margin;      /* wanted difference of scores per grade of difference */
	double skip;        /* levels of grade that a pair may span */
	double temperature; /* of a softmax over the list, or over the grades */
	double last;        /* what skip or temperature has become at the end of training; 0: the same */
	double relevant;    /* the least grade that counts as relevant; by default the upper half of the grades */
	double high;        /* relevant documents should score at least this; by default `relevant` */
	double low;         /* those of grade 0 at most this; by default `relevant` - 1 */
	double focus;       /* share of the term of adjacent ranks in LambdaLoss */
	double preference;  /* coefficient of the preference beside the likelihood */
	double likelihood;  /* scale of a negative log likelihood inside phi */
} SermLossParameters;

/* Returns the loss and overwrites gradient [n][width] with its derivative by the scores. */
typedef double (*SermLossFunction)(
    const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient);

typedef struct SermLoss {
	const char *name;
	SermLossInput input;
	/* Depends on differences of scores only: shift invariant, gradients sum to 0, one document gives 0. */
	bool relative;
	uint32_t needs; /* SERM_LOSS_ bits: what it cannot do without */
	SermLossFunction function;
	SermLossParameters defaults; /* NAN where serm_loss_parameters() fills in */
	const char *const *uses;     /* names of the parameters it reads, ended by NULL; NULL: none */
} SermLoss;

/* One summand of an objective. */
typedef struct SermLossTerm {
	const SermLoss *loss;
	double coefficient;
	SermLossParameters parameters;
} SermLossTerm;

/* P(y) = softmax of the logits and f = sum of y P(y) of n documents: what a loss on scores sees of a model.
 */
extern void serm_loss_expect(
    uint32_t n, uint32_t grades, const SermReal *logits, SermReal *probability, SermReal *score);
/* d_logits += factor * d_score through serm_loss_expect(): df/dlogit_y = P(y) (y - f). */
extern void serm_loss_expect_back(uint32_t n, uint32_t grades, const SermReal *probability,
    const SermReal *score, SermReal factor, const SermReal *d_score, SermReal *d_logits);

/* NULL for an unknown name. */
extern const SermLoss *serm_loss_find(const char *name);
/* The losses in order of the table; NULL past the end. */
extern const SermLoss *serm_loss_at(size_t index);

/* The defaults of a loss with what depends on the number of grades filled in. */
extern SermLossParameters serm_loss_parameters(const SermLoss *loss, uint32_t grade_count);

/*
 * Read "ce:1, listmle(temperature=0.5):0.3" into `terms`, at most SERM_LOSS_TERMS_MAX of them: a name,
 * its parameters in parentheses, a colon and a coefficient above 0 (1 when left out). Points, no locale.
 * INVALID says what cannot be read.
 */
extern SermStatus serm_loss_parse(
    const char *text, uint32_t grade_count, SermLossTerm *terms, uint32_t *term_count, SermError *error);

/* INVALID names the loss and what it needs when that is not among `given` (SERM_LOSS_ bits). */
extern SermStatus serm_loss_require(
    const SermLossTerm *terms, uint32_t term_count, uint32_t given, SermError *error);

#endif
