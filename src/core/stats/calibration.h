/*
 * Are the probabilities right? Likelihood of the observed grades, and the
 * reliability of the confidence in the predicted grade.
 */
#ifndef SERM_CORE_STATS_CALIBRATION_H
#define SERM_CORE_STATS_CALIBRATION_H

#include "core/base/status.h"

#define SERM_CALIBRATION_BINS_MAX 100
/* A grade that was given no chance costs this much, not infinity: -ln of it is 27.6 nats. */
#define SERM_PROBABILITY_MIN 1e-12

/* Predictions whose highest probability falls in one bin; bin b of n is ]b/n, (b+1)/n]. */
typedef struct SermReliabilityBin {
	double weight;     /* sum of the weights; 0: empty, and the other two are 0 */
	double confidence; /* mean highest probability */
	double accuracy;   /* mean probability that the target gives to the predicted grade */
} SermReliabilityBin;

typedef struct SermCalibration {
	double nll;      /* mean cross-entropy of target and prediction, in nats */
	double brier;    /* mean squared distance of the two distributions, in [0, 2] */
	double accuracy; /* mean probability that the target gives to the predicted grade */
	double ece;      /* expected calibration error: mean over bins of |confidence - accuracy| */
	double weight;   /* sum of the weights */
	uint32_t bin_count;
	SermReliabilityBin bin[SERM_CALIBRATION_BINS_MAX];
} SermCalibration;

/*
 * Cross-entropy of one example in nats: -sum of target ln p, p floored at SERM_PROBABILITY_MIN. A p
 * that is not finite gives NAN.
 */
extern double serm_calibration_nll(const float *probability, const float *target, uint32_t grade_count);

/*
 * probability, target: [count][grade_count] distributions; a known grade is a one-hot target. weight:
 * [count], >= 0, or NULL for 1. Ties for the predicted grade go to the lower one. Guo et al. (ICML
 * 2017) with equal bins. NO_DATA: no weight. INVALID: a non-finite number, or a bin count outside its range.
 */
extern SermStatus serm_calibration_measure(const float *probability, const float *target, const float *weight,
    size_t count, uint32_t grade_count, uint32_t bin_count, SermCalibration *calibration, SermError *error);

#endif
