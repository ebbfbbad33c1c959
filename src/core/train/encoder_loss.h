/*
 * From the logits of one list to its loss and back: what the losses of loss.h
 * see of an encoder's head.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_LOSS_H
#define SERM_CORE_TRAIN_ENCODER_LOSS_H

#include "core/train/encoder_fit.h"
#include "core/train/loss.h"

typedef struct SermEncoderLoss {
	const SermEncoderSet *set;
	uint32_t labels; /* of the head */
	uint32_t width;  /* logits that a loss of logits sees: labels, or 2 for a head of one */
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	uint32_t term_count;
	uint32_t judged_count; /* of a distilled set, examples */
	double progress;
	/* One list, [list_max][...]. */
	SermReal *target, *grade, *weight, *rank, *teacher, *teacher_score, *reference;
	SermReal *logits, *probability, *score, *d_score, *d_logits;
	/* Of a distilled set, its judged members: their places in the list, logits and derivative. */
	uint32_t *judged, *judged_place;
	SermReal *judged_logits, *judged_d_logits;
} SermEncoderLoss;

/* For lists of options->list_max documents at most. INVALID: the loss cannot be read or needs what the set
 * lacks; MEMORY. */
extern SermStatus serm_encoder_loss_init(SermEncoderLoss *loss, const SermEncoderSet *set, uint32_t labels,
    const SermEncoderOptions *options, SermArena *arena, SermError *error);
/*
 * The loss of the examples `members` [n] with these logits [n][labels], times `scale`; d_logits gets its
 * derivative. In a distilled set losses without a teacher are those of the judged ones among them, which make
 * up for the others, so that both kinds are means over what they see.
 */
extern double serm_encoder_loss_list(SermEncoderLoss *loss, const uint32_t *members, uint32_t n,
    const SermReal *logits, double scale, SermReal *d_logits);

#endif
