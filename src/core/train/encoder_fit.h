/*
 * Fine-tuning an encoder on judged pairs: AdamW with warm-up and linear decay
 * (Loshchilov and Hutter 2019; Devlin et al. 2019), clipping of the gradient's
 * norm, dropout, gradients added up over groups that fit the caches, lower
 * layers frozen on demand, and updates of only those word embeddings that
 * occurred.
 *
 * Everything random follows from the seed, the epoch and the update, so a
 * state that was kept continues with the same bits.
 */
#ifndef SERM_CORE_TRAIN_ENCODER_FIT_H
#define SERM_CORE_TRAIN_ENCODER_FIT_H

#include "core/model/encoder.h"
#include "core/train/train.h"

typedef struct SermEncoderExample {
	SermEncoderInput input;        /* its key is not read */
	uint32_t query;                /* < query_count; examples of one query make a list */
	float target[SERM_GRADES_MAX]; /* distribution over the grades, sums to 1 */
	float weight;                  /* > 0 where it is judged */
	float teacher_weight;          /* in a distilled set: what it counts in losses of a teacher */
	bool unjudged;                 /* there: seen by losses of a teacher only */
} SermEncoderExample;

typedef struct SermEncoderSet {
	uint32_t grade_count; /* the encoder's labels, or any number when it has one label */
	const SermEncoderExample *examples;
	uint32_t example_count;
	uint32_t query_count;
	const float *rank;      /* as in SermTrainingSet; NULL: absent */
	const float *teacher;   /* [example_count][grade_count] */
	const float *reference; /* [example_count] */
	bool distilled;         /* losses of the teacher and of judgments are mixed: core/train/distill.h */
} SermEncoderSet;

typedef struct SermEncoderOptions {
	uint64_t seed;
	uint32_t epochs;      /* default 3 */
	uint32_t batch;       /* pairs per update at least, default 32 */
	uint32_t list_max;    /* documents of one list computed together at most, default 16 */
	double learning_rate; /* default 2e-5 */
	double weight_decay;  /* of weights and embeddings, not of biases and norms; default .01 */
	double warmup;        /* share of the training in which the rate rises, default .1 */
	double clip;          /* largest norm of the gradient, default 1; 0: not clipped */
	double dropout;       /* everywhere; < 0: what the model's config says */
	uint32_t freeze;  /* the embeddings and the lowest layers up to this number stay as they are; 0: none */
	const char *loss; /* for serm_loss_parse(); NULL: "ce" */
	double alpha;     /* of a distilled set: share of the teacher's losses, default .5 */
	uint32_t checkpoint; /* updates between two calls of `checkpoint`; 0: never called */
} SermEncoderOptions;

/* Where training stands: all of it that a later process needs to go on. */
typedef struct SermEncoderState {
	uint32_t epoch;
	uint32_t example; /* of this epoch done */
	uint64_t step;    /* updates done */
	double loss;      /* summed over what of this epoch is done */
	size_t count;     /* parameters */
	SermReal *flat;   /* [count]: core/model/encoder_layout.h */
	SermReal *mean;   /* [count] first moments */
	SermReal *square; /* [count] second moments */
} SermEncoderState;

typedef struct SermEncoderFitHost {
	const SermTrainHost *train;   /* keep_going, progress, clock */
	const SermGemmProvider *gemm; /* NULL: the built-in one */
	/* Called between updates with a state that may be stored; false stops with CANCELED. May be NULL. */
	bool (*checkpoint)(void *context, const SermEncoderState *state);
	void *context;
} SermEncoderFitHost;

extern void serm_encoder_options_defaults(SermEncoderOptions *options);
/* Zero moments around `flat`, which is then updated in place. false: the arena refuses, or the host said
 * stop.
 */
extern bool serm_encoder_state_init(const SermEncoderConfig *config, SermReal *flat,
    const SermEncoderHost *host, SermArena *arena, SermEncoderState *state);
/* The rate's factor when the share `done` of the training is behind, in [0, 1], before the next update. */
extern double serm_encoder_rate(double done, double warmup);

/*
 * Train until all epochs are done, from where `state` stands. Deterministic for the same state, set, options
 * and CPU features. A head of one label learns the logistic of its logit: cross-entropy on the target's mean
 * as a share of the highest grade, and losses of scores on (grades - 1) times it. Errors: NO_DATA, INVALID,
 * CANCELED, MEMORY, DIVERGED.
 */
extern SermStatus serm_encoder_fit(const SermEncoderConfig *config, const SermEncoderSet *set,
    const SermEncoderOptions *options, const SermEncoderFitHost *host, SermArena *arena,
    SermEncoderState *state, SermTrainReport *report, SermError *error);

#endif
