/*
 * What scoring computes with, made of stored tensors of which only a piece need
 * be in memory at a time: plain parameters go to their places, the weights of a
 * linear layer are collected until it is complete and laid out.
 */
#ifndef SERM_CORE_MODEL_ENCODER_FILL_H
#define SERM_CORE_MODEL_ENCODER_FILL_H

#include "core/model/encoder.h"

typedef struct SermEncoderFill {
	SermEncoderConfig config;
	SermEncoderLayout layout;
	SermPrecision precision;
	const SermGemmProvider *gemm;
	SermReal *plain;     /* [layout.plain_count] */
	char *packed;        /* where the next linear goes */
	SermReal *collected; /* [numbers of the largest linear] */
	size_t filled;       /* of them */
	uint32_t linear;     /* the one that is collected */
} SermEncoderFill;

/*
 * Begin to fill `plain` and `packed` (serm_encoder_packed_bytes(), aligned to 64), which are zeroed. false:
 * the arena refuses.
 */
extern bool serm_encoder_fill_start(SermEncoderFill *fill, const SermEncoderConfig *config,
    SermPrecision precision, const SermGemmProvider *gemm, SermReal *plain, void *packed, SermArena *arena);
/*
 * Numbers [from, from + count) of an entry. Entries come in the order of serm_encoder_entry(), the numbers of
 * each in theirs; all is done when the last one has come. Error: CORRUPT for a number that is not finite.
 */
extern SermStatus serm_encoder_fill(SermEncoderFill *fill, const SermEncoderEntry *entry, size_t from,
    SermDtype dtype, const void *numbers, size_t count, SermError *error);

#endif
