/*
 * Training of the interaction model: corpus statistics, label-free embeddings,
 * scaling, K heads that each leave queries out, cut points. The result is a set of tensors
 * that serm_model_open() reads.
 */
#ifndef SERM_CORE_TRAIN_TRAIN_H
#define SERM_CORE_TRAIN_TRAIN_H

#include "core/math/kernels.h"
#include "core/model/model.h"

typedef struct SermExample {
	uint32_t query; /* index into SermTrainingSet.queries */
	SermText doc;
	float target[SERM_GRADES_MAX]; /* distribution over the grades, sums to 1 */
	float weight;                  /* > 0 */
} SermExample;

/* Where an example stands in the history of a model: what continued training mixes. */
typedef enum SermOrigin {
	SERM_ORIGIN_NEW,      /* since the parent was trained */
	SERM_ORIGIN_HISTORY,  /* of an earlier round */
	SERM_ORIGIN_ORIGINAL, /* from before any round */
	SERM_ORIGIN_COUNT
} SermOrigin;

typedef struct SermTrainingSet {
	uint32_t grade_count;
	const SermText *queries;
	size_t query_count;
	const SermExample *examples; /* in any order */
	size_t example_count;
	const SermText *corpus; /* documents for statistics and embeddings; may repeat those of the examples */
	size_t corpus_count;
	/* What some losses and weights need, in the order of the examples; NULL when absent. */
	const float *rank;       /* [example_count] >= 1: place at which the document was shown */
	const float *propensity; /* [example_count] in (0, 1]: chance that it was examined */
	const float *teacher;    /* [example_count][grade_count]: a teacher's probabilities, each sums to 1 */
	const float *reference;  /* [example_count]: scores of a frozen version */
	/*
	 * Distillation: with `judged` the losses of a teacher see all examples, the others those that are judged.
	 * The target of one that is not judged is not read but where nothing is; NULL: all are judged.
	 */
	const uint8_t *judged;       /* [example_count] 0 or 1; needs `teacher` */
	const float *teacher_weight; /* [example_count] >= 0, what an example counts in losses of the teacher: 0
	                                where he said nothing; NULL: all alike; only with `judged` */
	/* Continued training: the opened version to begin with, NULL for training from scratch. `corpus` is not
	 * read then. */
	const SermModel *parent;
	const uint8_t *origin; /* [example_count] SermOrigin; NULL: all are new */
} SermTrainingSet;

/* Pre-training so long that a small corpus makes the steps of a large one: 10 to 30 epochs. */
#define SERM_PRETRAIN_EPOCHS_AUTO UINT32_MAX

typedef struct SermTrainOptions {
	uint64_t seed;
	uint32_t heads;           /* K, default 4 */
	uint32_t epochs;          /* 0: 20, or 40 under 1,000 examples; 8 when continued */
	uint32_t pretrain_epochs; /* default SERM_PRETRAIN_EPOCHS_AUTO */
	uint32_t batch;           /* pairs per step at least; 0: 256, or 64 under 1,000 examples; 128 continued */
	double learning_rate;     /* default .002 */
	double weight_decay;      /* default 1e-5 */
	double dropout;           /* default .1 */
	const char *loss;         /* a sum for serm_loss_parse(); NULL: cross-entropy + pairwise x RankNet */
	double pairwise;          /* coefficient of RankNet; < 0: as doc/losses.md has it */
	double guard;             /* slope of s0 in the logits; < 0: .5 * 50 / (50 + queries) */
	bool class_weights;       /* rare grades count more: 1 / sqrt(examples + 50) */
	bool rank_weights;        /* the head of a list counts more: 1 + 1 / log2(rank + 1) */
	uint32_t curriculum;      /* epochs until examples that s0 gets wrong count in full; 0: at once */
	double margin_cap;      /* > 0: pairs that the reference, else s0, gets wrong count up to this; 0: off */
	double propensity_clip; /* least propensity to divide by, default .1 */
	double share[SERM_ORIGIN_COUNT]; /* continued: what a batch has of each origin, default 1 : 1 : 1 */
	double anchor;  /* continued: coefficient of KL(parent, P) on what is not new, default .3 */
	bool calibrate; /* fit a temperature on held-out queries; always with a loss of scores alone */
	/* With `judged`: */
	double alpha;       /* share of the losses of a teacher, those of judgments have the rest; default .5 */
	double temperature; /* of the teacher's grades in the default loss, default 1 */
} SermTrainOptions;

typedef struct SermTrainProgress {
	const char *phase; /* "statistics", "pretraining", "features", "training" */
	uint32_t step;     /* epochs done in this phase */
	uint32_t steps;
	double loss;         /* mean of the last epoch; 0 where there is none */
	double per_second;   /* documents or pairs per second in this phase */
	double seconds_left; /* of this phase, at its mean speed; 0: not known */
} SermTrainProgress;

typedef struct SermTrainHost {
	SermKeepGoing keep_going;                                           /* required */
	void (*progress)(void *context, const SermTrainProgress *progress); /* may be NULL */
	SermGemm gemm;                  /* for large products; NULL: the built-in one */
	double (*clock)(void *context); /* seconds, monotonic; may be NULL: per_second stays 0 */
	void *context;
} SermTrainHost;

typedef struct SermTrainReport {
	double loss;    /* mean training loss of the last epoch */
	double seconds; /* 0 without a clock */
	uint64_t example_count;
	uint64_t query_count;
	uint64_t corpus_count;
	uint32_t epochs;
	double temperature;      /* 1: none was fitted, or none helped */
	double temperature_gain; /* nats by which it lowers the likelihood loss of held-out queries */
} SermTrainReport;

/* A pair that was shown to somebody: what candidates look like. */
typedef struct SermShownPair {
	uint32_t query; /* index into SermColdSet.queries */
	SermText doc;
} SermShownPair;

typedef struct SermColdSet {
	uint32_t grade_count;
	const SermText *corpus; /* in any order */
	size_t corpus_count;
	const SermText *queries;
	size_t query_count;
	const SermShownPair *pairs; /* in an order of their own; may be none */
	size_t pair_count;
} SermColdSet;

extern void serm_train_defaults(SermTrainOptions *options);

/*
 * With a parent its number of heads, embeddings, statistics, scales and guard are taken over, whatever the
 * options say of them.
 * Deterministic: the same set, options and CPU features give the same bytes.
 * Tensors and all working memory come from `arena`. Errors: NO_DATA (no
 * examples, or one grade only), INVALID (an option or a target out of range),
 * CANCELED, MEMORY, DIVERGED.
 */
extern SermStatus serm_train_interaction(const SermTrainingSet *set, const SermTrainOptions *options,
    const SermTrainHost *host, SermArena *arena, SermTensorSet *tensors, SermTrainReport *report,
    SermError *error);

/*
 * Generation 0: a model without any judgment. Statistics and embeddings are learned from the corpus; the
 * heads say nothing, so the score is an expected grade in [0, grades - 1] in the order of s0 alone. The
 * constants of s0 come from the shown pairs, or from words of documents as queries when there are too few of
 * those. Of the options it takes `seed`, `pretrain_epochs`, and `guard` as the slope (below 0: the default).
 * Deterministic, as above. Errors: NO_DATA (no documents), INVALID, CANCELED, MEMORY, DIVERGED.
 */
extern SermStatus serm_train_cold(const SermColdSet *set, const SermTrainOptions *options,
    const SermTrainHost *host, SermArena *arena, SermTensorSet *tensors, SermTrainReport *report,
    SermError *error);

#endif
