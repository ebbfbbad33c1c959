/*
 * The way back through the encoder: from derivatives by the logits of a group
 * to derivatives by every parameter, over the activations that the forward
 * pass kept. Attention's probabilities are computed again, not kept.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_BACK_H
#define SERM_CORE_TRAIN_ENCODER_BACK_H

#include "core/model/encoder.h"

typedef struct SermEncoderBack {
	const SermEncoderConfig *config;
	const SermGemmProvider *gemm;
	uint32_t frozen;  /* the embeddings and the lowest layers up to this number get no gradient; 0: all do */
	SermReal *turned; /* weights packed for the way back, one linear behind the other */
	SermReal *gradient;     /* as the flat vector; added to */
	const SermReal *d_rows; /* [tokens][hidden] more derivatives by the last output, with all_rows; or NULL */
	uint32_t *touched;      /* ids of words whose rows of the gradient may not be 0 */
	uint32_t touched_count;
	uint8_t *touched_set; /* [vocab] */
	/*
	 * [tokens][hidden] or NULL. Where it is given, the derivatives by the sum of each token's embeddings are
	 * all that is wanted (ModernBERT: by their norm, which forgets the length of what it reads). They land
	 * here, there is no gradient, and the encoder's own packed weights are used, so nothing has to be
	 * initialised or packed. `frozen` is 0 then.
	 */
	SermReal *d_words;
} SermEncoderBack;

/* Everything but `config`, `gemm` and `frozen`, which are given. false: the arena refuses, or the host said
 * stop. */
extern bool serm_encoder_back_init(SermEncoderBack *back, const SermEncoderHost *host, SermArena *arena);
/* Lay out the weights of a flat vector: once after each update. false: the host said stop. */
extern bool serm_encoder_back_pack(SermEncoderBack *back, const SermReal *flat, const SermEncoderHost *host);
/* Set the gradient to 0. false: the host said stop, and it must not be added to. */
extern bool serm_encoder_back_clear(SermEncoderBack *back, const SermEncoderHost *host);
/*
 * Add the derivatives of a group that serm_encoder_forward() computed with `keep`. d_logits is
 * [count][labels]. `scratch` is used and rewound. Errors: MEMORY, CANCELED.
 */
extern SermStatus serm_encoder_backward(SermEncoderBack *back, const SermEncoderRun *run,
    const SermReal *d_logits, SermArena *scratch, SermError *error);

#endif
