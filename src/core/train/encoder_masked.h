/*
 * Pre-training an encoder on documents (Devlin et al., NAACL 2019): words that
 * were masked are guessed by a softmax over the vocabulary whose weights are the
 * word embeddings themselves, and the head tells whether a few words and a
 * document belong together. One group, forward and back.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_MASKED_H
#define SERM_CORE_TRAIN_ENCODER_MASKED_H

#include "core/train/encoder_back.h"

typedef struct SermMaskedInput {
	SermEncoderInput input;
	const uint32_t *places; /* [count] of masked tokens in the input */
	const uint32_t *answers;
	uint32_t count;
	double match; /* 0..1, how far the two texts belong together: a share of the highest grade */
} SermMaskedInput;

typedef struct SermMasked {
	const SermEncoder *encoder;
	SermEncoderBack *back;
	const SermEncoderHost *host;
	const SermReal *words;            /* [vocab][hidden] embeddings */
	const SermReal *bias;             /* [vocab] of the softmax */
	SermReal *d_bias;                 /* [vocab]; added to */
	SermReal *packed_in, *packed_out; /* the words, laid out for both ways */
	double drop_hidden, drop_attention, drop_class;
	uint64_t seed; /* of dropout */
} SermMasked;

/* Allocate what `encoder`, `back` and the sizes ask for. false when the arena refuses. */
extern bool serm_masked_init(SermMasked *masked, SermArena *arena);
/* Lay out the words: once after each update. false: the host said stop. */
extern bool serm_masked_pack(SermMasked *masked);
/*
 * Add the gradient of a group: mean cross-entropy of the masked words, each by word_scale, plus that of the
 * head, each by match_scale, which are added to *loss. All rows of the words count as touched. `scratch` is
 * used and rewound. Errors: MEMORY, CANCELED.
 */
extern SermStatus serm_masked_group(SermMasked *masked, const SermMaskedInput *inputs, uint32_t count,
    double word_scale, double match_scale, SermArena *scratch, double *loss, SermError *error);

#endif
