/*
 * Fitting the K heads (S11 to S13 in doc/model.md): each is a network of its
 * own with its own part of the queries left out, its own start and its own
 * order of batches. The guard is part of the logits while training, so the
 * heads learn what s0 lacks.
 */
#ifndef SERM_CORE_TRAIN_FIT_H
#define SERM_CORE_TRAIN_FIT_H

#include "core/model/heads.h"
#include "core/train/loss.h"
#include "core/train/train.h"

/*
 * Scaled examples in canonical order; a list is the examples of one query. One longer than SERM_LOSS_LIST_MAX
 * is cut at random into lists of at most that many documents, anew in each epoch. What may be NULL is absent.
 */
typedef struct SermFitProblem {
	uint32_t input_count;
	uint32_t grade_count;
	uint32_t example_count;
	uint32_t list_count;
	const SermReal *input;          /* [example_count][input_count] */
	const SermReal *guard;          /* [example_count] */
	const SermReal *target;         /* [example_count][grade_count], each sums to 1 */
	const SermReal *weight;         /* [example_count], mean 1 over those that are judged */
	const SermReal *easiness;       /* [example_count] in [0, 1] for the curriculum, or NULL */
	const SermReal *rank;           /* [example_count] place at which it was shown, or NULL */
	const SermReal *teacher;        /* [example_count][grade_count], each sums to 1, or NULL */
	const SermReal *reference;      /* [example_count] score by a frozen version, or NULL */
	const uint8_t *judged;          /* [example_count]: losses without a teacher see these only; NULL: all */
	const SermReal *teacher_weight; /* [example_count] for losses of the teacher, mean 1; with `judged` */
	uint32_t judged_count;
	SermLossMargin margin;      /* score [example_count] */
	const uint32_t *list_start; /* [list_count + 1] */
	const uint64_t *list_key;   /* [list_count] says who sees the list */
	const SermLossTerm *terms;  /* the objective: a sum of losses */
	uint32_t term_count;
	const SermHeads *parent; /* continued training: where the heads begin, without a temperature; or NULL */
	const uint8_t *origin;   /* [example_count] SermOrigin, with a parent */
} SermFitProblem;

typedef struct SermFit {
	SermHeads heads; /* without cut points */
	uint8_t *seen;   /* [head][list]: how often the head saw the list; 0: it was left out */
	double loss;     /* mean over the heads in the last epoch */
} SermFit;

/* `options` are resolved: no field asks for a default. The result lies in `arena`. */
extern SermStatus serm_fit_heads(const SermFitProblem *problem, const SermTrainOptions *options,
    const SermTrainHost *host, SermArena *arena, SermFit *fit, SermError *error);

#endif
