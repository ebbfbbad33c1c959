/*
 * AdamW (Loshchilov and Hutter 2019): Adam with decoupled weight decay, over
 * one flat vector of parameters; and the schedule of its learning rate.
 */
#ifndef SERM_CORE_TRAIN_ADAMW_H
#define SERM_CORE_TRAIN_ADAMW_H

#include "core/base/arena.h"
#include "core/base/real.h"

typedef struct SermAdamW {
	double beta1;        /* .9 */
	double beta2;        /* .999 */
	double epsilon;      /* 1e-8 */
	double weight_decay; /* per unit of learning rate */
	size_t count;
	uint64_t step;
	SermReal *mean;   /* [count] */
	SermReal *square; /* [count] */
} SermAdamW;

/* false when the arena refuses. */
extern bool serm_adamw_init(SermAdamW *adamw, size_t count, double weight_decay, SermArena *arena);
extern void serm_adamw_step(
    SermAdamW *adamw, double learning_rate, const SermReal *gradient, SermReal *parameters);

#define SERM_WARMUP_STEPS 20
#define SERM_FINAL_RATE 0.05

/* Factor of the base rate before update `step` (from 0) at `progress` in [0, 1]: warm-up, then linear decay.
 */
extern double serm_adamw_schedule(uint64_t step, double progress);

#endif
