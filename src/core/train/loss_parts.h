/*
 * What the files of the losses share. Private to loss*.c: everything else
 * goes through the table.
 */
#ifndef SERM_CORE_TRAIN_LOSS_PARTS_H
#define SERM_CORE_TRAIN_LOSS_PARTS_H

#include <math.h>
#include <string.h>

#include "core/train/loss.h"

#define SERM_LOSS_DECLARE(name)                                                                              \
	extern double serm_loss_##name(                                                                          \
	    const SermLossList *list, const SermLossParameters *parameters, SermReal *gradient)

/* loss_point.c */
SERM_LOSS_DECLARE(ce);
SERM_LOSS_DECLARE(ordinal);
SERM_LOSS_DECLARE(kl);
SERM_LOSS_DECLARE(tcm);
/* loss_pair.c */
SERM_LOSS_DECLARE(ranknet);
SERM_LOSS_DECLARE(ranknet_skip);
SERM_LOSS_DECLARE(hinge_rank);
SERM_LOSS_DECLARE(bt_wt);
SERM_LOSS_DECLARE(lambda_ndcg);
SERM_LOSS_DECLARE(dpo);
SERM_LOSS_DECLARE(mapo);
SERM_LOSS_DECLARE(margin_mse);
SERM_LOSS_DECLARE(ranknet_teacher);
/* loss_list.c */
SERM_LOSS_DECLARE(listnet);
SERM_LOSS_DECLARE(listmle);
SERM_LOSS_DECLARE(irpo);
SERM_LOSS_DECLARE(infonce_multi);

#undef SERM_LOSS_DECLARE

static inline SermReal
serm_loss_weight(const SermLossList *list, uint32_t i)
{
	return list->weights != NULL ? list->weights[i] : 1;
}

/* ln(sum of exp(scores)), safe against overflow; `width` > 0. */
static inline double
serm_log_sum_exp(const SermReal *scores, uint32_t width)
{
	double largest = scores[0], sum = 0;

	for (uint32_t y = 1; y < width; y++)
		largest = scores[y] > largest ? scores[y] : largest;
	for (uint32_t y = 0; y < width; y++)
		sum += exp(scores[y] - largest);
	return largest + log(sum);
}

/* ln(1 + exp(x)) */
static inline double
serm_softplus(double x)
{
	return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

/* A value that moves from `first` to `last` (0: stays) in equal factors. */
static inline double
serm_loss_schedule(double first, double last, double progress)
{
	return last > 0 ? first * pow(last / first, progress) : first;
}

#endif
