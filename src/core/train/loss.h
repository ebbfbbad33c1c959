/*
 * Losses over one list: the judged documents of one query. A loss is one
 * function and one line of the table in loss.c; everything else finds it by
 * name. Losses add up with coefficients.
 *
 * Every loss is a mean over its list, so a list counts by its length when the
 * caller multiplies by n / (examples of the batch). Example weights enter
 * with degree one: twice the weights give twice the loss. Weights that are
 * all 1 give the bits of no weights at all.
 */
#ifndef SERM_CORE_TRAIN_LOSS_H
#define SERM_CORE_TRAIN_LOSS_H

#include "core/base/real.h"
#include "core/base/status.h"

typedef enum SermLossInput {
	SERM_LOSS_LOGITS, /* width = grades: one logit per grade, targets are distributions */
	SERM_LOSS_SCORES  /* width = 1: f of each document, targets are (fractional) grades */
} SermLossInput;

/* One list; all arrays are [n][width] but weights [n], which may be NULL for all ones. */
typedef struct SermLossList {
	uint32_t n;
	uint32_t width;
	const SermReal *scores;
	const SermReal *targets;
	const SermReal *weights;
} SermLossList;

typedef struct SermLossParameters {
	double slope;     /* steepness of the logistic in a difference of scores */
	double threshold; /* two documents make a pair when their grades differ by more */
} SermLossParameters;

/* Returns the loss and overwrites gradient [n][width] with its derivative by the scores. */
typedef double (*SermLossFunction)(
    const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient);

typedef struct SermLoss {
	const char *name;
	SermLossInput input;
	/* Depends on differences of scores only: shift invariant, gradients sum to 0, one document gives 0. */
	bool relative;
	SermLossFunction function;
	SermLossParameters defaults;
} SermLoss;

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

#endif
