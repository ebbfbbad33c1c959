/*
 * The last stage of every model kind: K separate small networks over one
 * scaled input vector, each giving a distribution over the grades; plus the
 * guard, a fixed slope on s0 that the networks learn the residual of.
 *
 * Per head: inputs -> 64 -> 32 -> grades, ReLU. Weights are row-major
 * [head][out][in], as they are stored.
 */
#ifndef SERM_CORE_MODEL_HEADS_H
#define SERM_CORE_MODEL_HEADS_H

#include "core/base/real.h"
#include "core/model/model.h"

#define SERM_HIDDEN1 64
#define SERM_HIDDEN2 32

typedef struct SermHeads {
	uint32_t head_count;
	uint32_t input_count;
	uint32_t grade_count;
	const SermReal *w1;     /* [head][SERM_HIDDEN1][input] */
	const SermReal *b1;     /* [head][SERM_HIDDEN1] */
	const SermReal *w2;     /* [head][SERM_HIDDEN2][SERM_HIDDEN1] */
	const SermReal *b2;     /* [head][SERM_HIDDEN2] */
	const SermReal *w3;     /* [head][grade][SERM_HIDDEN2] */
	const SermReal *b3;     /* [head][grade] */
	const SermReal *cuts;   /* [grade_count - 1] ascending thresholds on f, or NULL */
	float temperature;      /* every logit is divided by it; 0: there is none */
	const SermReal *packed; /* of serm_heads_pack(), or NULL: the same bits, slower */
} SermHeads;

/* So many inputs may be predicted together. */
#define SERM_HEADS_ROWS 16

/* Lay the weights out for speed, a second time; they must not change afterwards. False without memory. */
extern bool serm_heads_pack(SermHeads *heads, SermArena *arena);

/*
 * `input` is scaled, [input_count]; `guard` is added to the logit of grade y as guard * y
 * (0 switches it off). Fills the whole prediction.
 */
extern void serm_heads_predict(
    const SermHeads *heads, const SermReal *input, SermReal guard, SermPrediction *prediction);

/* The same for `count` inputs at most SERM_HEADS_ROWS, [count][input_count], as matrix products; the same
 * bits. Logits are multiplied by `shares` [count] before the guard is added; NULL: by 1. */
extern void serm_heads_predict_rows(const SermHeads *heads, uint32_t count, const SermReal *inputs,
    const SermReal *guards, const SermReal *shares, SermPrediction *predictions);

/* The logits [grade_count] of one head, before the guard and the temperature. */
extern void serm_heads_logits(const SermHeads *heads, uint32_t head, const SermReal *input, SermReal *logits);

#endif
