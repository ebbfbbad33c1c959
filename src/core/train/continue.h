/*
 * Continued training: the heads begin where those of an earlier version, the
 * parent, ended; its embeddings, statistics, scales and guard stay as they are.
 * A batch has new, history and original pairs in given shares (SERM, arXiv
 * 2601.09515, trains on all three), and on the replayed ones, history and
 * original, the heads are held to what the parent says of them (as in Dark
 * Experience Replay, Buzzega et al., NeurIPS 2020): new pairs may correct it.
 */
#ifndef SERM_CORE_TRAIN_CONTINUE_H
#define SERM_CORE_TRAIN_CONTINUE_H

#include "core/base/rng.h"
#include "core/model/interaction.h"
#include "core/train/train.h"

/*
 * The parts of a version with its temperature folded into the last layer and the slope of the guard, so that
 * it has none: the same probabilities but for rounding. INVALID: a version of another kind.
 */
extern SermStatus serm_continue_open(
    const SermModel *model, SermArena *arena, SermInteractionParts *parts, SermError *error);

/* What an epoch takes: pieces (whole lists, mostly) of each origin, in the order of their decks. */
typedef struct SermMixture {
	uint32_t *deck;                        /* [count] pieces by origin */
	uint32_t start[SERM_ORIGIN_COUNT + 1]; /* of each origin in `deck` */
	double share[SERM_ORIGIN_COUNT];       /* sum to 1; 0 where there is nothing */
	const uint32_t *length;                /* [count] examples of each piece */
	uint32_t examples;                     /* of an epoch, about */
	uint32_t piece_max;                    /* pieces of an epoch at most */
} SermMixture;

/*
 * An epoch takes each new example about once, and never more examples than there are; without new ones as
 * many as there are. `origin` and `length` [count] are those of the pieces. False when `arena` refuses.
 */
extern bool serm_mixture_init(SermMixture *mixture, const uint8_t *origin, const uint32_t *length,
    uint32_t count, const double *share, SermArena *arena);
/* Draw the pieces of an epoch into `order` [piece_max]; returns how many. Any run of them has the shares. */
extern uint32_t serm_mixture_draw(SermMixture *mixture, SermRng *rng, uint32_t *order);

#endif
