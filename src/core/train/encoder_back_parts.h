/*
 * What the ways back of the architectures share: the derivatives of one group
 * on their way down, and the steps that differ. Only for encoder_back.c and
 * encoder_modern_back.c.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_BACK_PARTS_H
#define SERM_CORE_TRAIN_ENCODER_BACK_PARTS_H

#include "core/train/attention_back.h"
#include "core/train/encoder_back.h"

/* What is not a row of the batch is scratch. */
typedef struct SermDescent {
	SermEncoderBack *back;
	const SermEncoderRun *run;
	SermReal *d_output; /* [tokens][hidden] */
	SermReal *d_inner;  /* [tokens][hidden] */
	SermReal *d_branch; /* [tokens][hidden] */
	SermReal *d_query;  /* [tokens][hidden] */
	SermReal *d_pair;   /* [tokens][2 hidden] */
	SermReal *d_wide;   /* [tokens][serm_encoder_up_width()] */
	SermReal *wide;     /* the same */
	SermReal *packed;   /* left sides of the gradients of weights; NULL when none are wanted */
	SermReal *weights;  /* of one linear layer, [out][in], and: */
	SermReal *turned;   /* packed for the way back; both NULL when back->turned holds them all */
	SermAttentionBackScratch attention;
} SermDescent;

/* false: the host said stop. */
typedef struct SermDescentSteps {
	/* From the derivatives by the logits to d_output of the last layer. */
	bool (*head)(SermDescent *descent, const SermReal *d_logits);
	/* d_output of this layer becomes d_output of the one below; `below` false: nobody asks for it. */
	bool (*layer)(SermDescent *descent, uint32_t layer, bool below);
	void (*embeddings)(SermDescent *descent);
} SermDescentSteps;

extern const SermDescentSteps serm_descent_modern;

/*
 * From d_y [rows][out] of linear `index`: its weights' and bias's derivatives from its inputs x, and d_x
 * where that is not NULL.
 */
extern bool serm_encoder_back_linear(SermDescent *descent, uint32_t index, size_t bias, size_t rows,
    const SermReal *x, const SermReal *d_y, SermReal *d_x);
/* d [rows][hidden] behind a norm becomes d before it. */
extern void serm_encoder_back_norm(SermDescent *descent, size_t gamma, size_t beta, size_t rows,
    const SermReal *hat, const SermReal *factor, SermReal *d);
/* The row of this word in the gradient is not 0 any more. */
extern void serm_encoder_back_touch(SermEncoderBack *back, uint32_t id);

#endif
