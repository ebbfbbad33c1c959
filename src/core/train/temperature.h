/*
 * Temperature scaling (Guo et al., ICML 2017): one number by which all logits
 * are divided, fitted on predictions of the heads for queries that they did
 * not see, so that neither the test split nor a second training is needed.
 */
#ifndef SERM_CORE_TRAIN_TEMPERATURE_H
#define SERM_CORE_TRAIN_TEMPERATURE_H

#include "core/train/fit.h"

typedef struct SermTemperature {
	float value;          /* 1 when a fitted one did not help, or there was too little to fit it on */
	double gain;          /* nats per example by which it lowers the loss of queries it was not fitted on */
	uint32_t query_count; /* held-out queries looked at */
} SermTemperature;

/*
 * Fit on the queries that at least half of the heads did not see. Cross-fitted over two halves of the
 * queries: only a temperature that lowers the likelihood loss of the other half is kept.
 */
extern SermStatus serm_temperature_fit(const SermFitProblem *problem, const SermReal *weight,
    const SermFit *fit, const SermTrainHost *host, SermArena *arena, SermTemperature *temperature,
    SermError *error);

/*
 * The same on logits [count][grade_count] of one network for examples of queries that it did not see.
 * half [count]: 0 or 1, the same for all examples of a query.
 */
typedef struct SermTemperatureSet {
	uint32_t grade_count;
	uint32_t query_count;
	size_t count;
	const double *logits;
	const SermReal *target;
	const SermReal *weight;
	const uint8_t *half;
} SermTemperatureSet;

extern SermStatus serm_temperature_fit_logits(const SermTemperatureSet *set, const SermTrainHost *host,
    SermArena *arena, SermTemperature *temperature, SermError *error);

#endif
