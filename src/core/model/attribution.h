/*
 * How much of a score each input of the heads brings: integrated gradients
 * (Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, ICML
 * 2017) along the straight line between two inputs.
 */
#ifndef SERM_CORE_MODEL_ATTRIBUTION_H
#define SERM_CORE_MODEL_ATTRIBUTION_H

#include "core/model/heads.h"

#define SERM_ATTRIBUTION_INPUTS_MAX 128

/* Where the line begins or ends: an input as serm_heads_predict() takes it. */
typedef struct SermHeadsPoint {
	const SermReal *input; /* [input_count], at most SERM_ATTRIBUTION_INPUTS_MAX */
	SermReal guard;
} SermHeadsPoint;

/*
 * Derivatives of the score f, averaged over the line: times the distance of the ends they sum to the
 * difference of the two scores, but for the error of the quadrature (a few thousandths at most).
 */
typedef struct SermAttribution {
	double input[SERM_ATTRIBUTION_INPUTS_MAX];
	double guard;
} SermAttribution;

/* Logits count by `share`, as in serm_heads_predict_rows(). */
extern void serm_attribute(const SermHeads *heads, SermHeadsPoint from, SermHeadsPoint to, SermReal share,
    SermAttribution *attribution);

#endif
