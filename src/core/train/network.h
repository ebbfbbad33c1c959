/*
 * One head while it is trained: inputs -> 64 -> 32 -> grades with ReLU, its
 * parameters in one flat vector, forward and backward over a batch through
 * gemm. Serving runs the same weights through serm_heads_predict().
 *
 * Parameters lie as w1 b1 w2 b2 w3 b3, weights [out][in] as in heads.h.
 */
#ifndef SERM_CORE_TRAIN_NETWORK_H
#define SERM_CORE_TRAIN_NETWORK_H

#include "core/base/arena.h"
#include "core/base/rng.h"
#include "core/math/kernels.h"
#include "core/model/heads.h"

typedef struct SermNetwork {
	uint32_t input_count;
	uint32_t grade_count;
	double dropout; /* of both hidden layers, while training */
	SermGemm gemm;
} SermNetwork;

/* Where each tensor starts in the flat vector, and how many parameters there are. */
typedef struct SermNetworkLayout {
	size_t w1, b1, w2, b2, w3, b3, count;
} SermNetworkLayout;

/* Activations and their gradients, [capacity][...]. */
typedef struct SermNetworkBatch {
	uint32_t capacity;
	SermReal *input;    /* [capacity][input_count], filled by the caller */
	SermReal *hidden1;  /* [capacity][SERM_HIDDEN1] */
	SermReal *hidden2;  /* [capacity][SERM_HIDDEN2] */
	SermReal *logits;   /* [capacity][grade_count] */
	SermReal *d_logits; /* filled by the caller before backward */
	SermReal *d_hidden1;
	SermReal *d_hidden2;
} SermNetworkBatch;

extern SermNetworkLayout serm_network_layout(const SermNetwork *network);
/* false when the arena refuses. */
extern bool serm_network_batch(
    const SermNetwork *network, uint32_t capacity, SermArena *arena, SermNetworkBatch *batch);
/* He initialisation; the last layer N(0, .01^2), biases 0. */
extern void serm_network_init(const SermNetwork *network, SermRng *rng, SermReal *parameters);
/* `dropout_rng` NULL switches dropout off. */
extern void serm_network_forward(const SermNetwork *network, const SermReal *parameters, uint32_t rows,
    SermRng *dropout_rng, SermNetworkBatch *batch);
/* Overwrites `gradient`; belongs to the forward pass before it. */
extern void serm_network_backward(const SermNetwork *network, const SermReal *parameters, uint32_t rows,
    bool dropped, SermNetworkBatch *batch, SermReal *gradient);

#endif
