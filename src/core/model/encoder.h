/*
 * The encoder of a cross-encoder (Vaswani et al. 2017; Devlin et al. 2019; Liu
 * et al. 2019), post-norm: what BERT, MiniLM, TinyBERT, RoBERTa and XLM-R are;
 * and ModernBERT (Warner et al. 2024), whose layers are in encoder_modern.c.
 *
 * Sequences lie end to end without padding. All linear layers see all tokens
 * of a group at once; attention sees one sequence. Only the first token of the
 * last layer is read by the classifier, so the last layer computes queries and
 * all that follows for first tokens alone, unless asked for every row or unless
 * the classifier reads the mean of all tokens.
 *
 * The logits of a sequence have the same bits alone and in any batch.
 */
#ifndef SERM_CORE_MODEL_ENCODER_H
#define SERM_CORE_MODEL_ENCODER_H

#include "core/math/activation.h"
#include "core/math/linear.h"
#include "core/model/attention.h"
#include "core/model/encoder_layout.h"
#include "core/model/rotary.h"

/* Linear layers of a transformer layer, in the order of SermEncoder.linears; then pool and class. */
enum { SERM_LINEAR_QUERY, SERM_LINEAR_PAIR, SERM_LINEAR_OUT, SERM_LINEAR_UP, SERM_LINEAR_DOWN, SERM_LINEARS };

typedef struct SermEncoder {
	SermEncoderConfig config;
	SermEncoderLayout layout;
	const SermReal *plain; /* the first layout.plain_count of the flat vector */
	SermLinear *linears;   /* [layers x SERM_LINEARS + 2] */
} SermEncoder;

typedef struct SermEncoderInput {
	const uint32_t *ids;
	const uint8_t *types; /* NULL: all 0 */
	uint32_t length;
	uint64_t key; /* names the sequence to dropout */
} SermEncoderInput;

extern uint32_t serm_encoder_linear_count(const SermEncoderConfig *config);
/*
 * Shape of linear `index`, and the places of its bias (or SERM_ENCODER_NONE) and its weights in the flat
 * vector. The weights of all lie one behind the other. The small ones at the end are f32 in any precision.
 */
extern SermLinear serm_encoder_linear_at(const SermEncoderConfig *config, const SermEncoderLayout *layout,
    SermPrecision precision, const SermGemmProvider *gemm, uint32_t index, size_t *bias, size_t *weights);

/* Bytes of all packed weights in this precision. `gemm` NULL: the built-in one. */
extern size_t serm_encoder_packed_bytes(
    const SermEncoderConfig *config, SermPrecision precision, const SermGemmProvider *gemm);
/*
 * An encoder over plain parameters and packed weights, which it points to: they may lie in a mapped file that
 * many processes share. Errors: INVALID (architecture), MEMORY.
 */
extern SermStatus serm_encoder_open(const SermEncoderConfig *config, SermPrecision precision,
    const SermGemmProvider *gemm, const SermReal *plain, const void *packed, SermArena *arena,
    SermEncoder **encoder, SermError *error);

/* INVALID: an input is empty, too long or has an id or a type that the model does not know. */
extern SermStatus serm_encoder_check(
    const SermEncoder *encoder, const SermEncoderInput *inputs, uint32_t count, SermError *error);

/* The position of a sequence's first token: RoBERTa's table begins with rows that no token uses. */
extern uint32_t serm_encoder_first_position(const SermEncoderConfig *config);

typedef SermWatch SermEncoderHost;

/* Lay out the weights of a flat vector in `packed`, aligned to 64. false: the host (NULL: none) said stop. */
extern bool serm_encoder_pack(const SermEncoderConfig *config, SermPrecision precision,
    const SermGemmProvider *gemm, const SermReal *flat, void *packed, const SermEncoderHost *host);

/* Rows at most that pass the feed-forward layers together: what lies between them stays in the second cache.
 */
#define SERM_ENCODER_BLOCK 168
/* Equal blocks of whole tiles, so that no small one waits for weights. */
extern size_t serm_encoder_block(size_t rows);
/* Tokens computed together, at least one sequence: what stays in the second and third cache. */
#define SERM_ENCODER_GROUP 1024

/*
 * logits [count][labels], in the order of the inputs. Groups are made of the inputs by length. `scratch` is
 * used and rewound. Errors: INVALID, MEMORY, CANCELED.
 */
extern SermStatus serm_encoder_score(const SermEncoder *encoder, const SermEncoderInput *inputs,
    uint32_t count, const SermEncoderHost *host, SermArena *scratch, SermReal *logits, SermError *error);

/* --- for training and tests: one group, whose activations may be kept */

/* Arrays of one layer; those marked * are NULL where nothing is kept. */
typedef struct SermLayerState {
	SermReal *input;       /* [tokens][hidden] */
	SermReal *query_input; /* [rows][hidden]: input, or its first tokens */
	SermReal *query;       /* [rows][hidden] */
	SermReal *pair;        /* [tokens][2 hidden]: keys, values */
	SermReal *context;     /* [rows][hidden] */
	SermReal *hat1;        /* * [rows][hidden] */
	SermReal *factor1;     /* * [rows] */
	SermReal *middle;      /* [rows][hidden] behind the first norm */
	SermReal *up;          /* [rows or a block][serm_encoder_up_width()] before the curve */
	SermReal *hat2;        /* * */
	SermReal *factor2;     /* * */
	SermReal *output;      /* [rows][hidden]: the input of the next layer */

	/* ModernBERT's norms come first: factor1 and hat1 are of [tokens], and `middle` is not normed. */
	SermReal *normed1; /* [tokens][hidden]: what queries, keys and values are made of */
	SermReal *normed2; /* [rows][hidden] */
} SermLayerState;

typedef struct SermEncoderRun {
	const SermEncoder *encoder;
	const SermEncoderHost *host;
	const SermEncoderInput *const *inputs; /* [count] */
	uint32_t count, tokens, longest;
	uint32_t *start; /* [count + 1] */
	bool keep;       /* what the way back needs is kept */
	bool all_rows;   /* the last layer computes every token too */
	double drop_hidden, drop_attention, drop_class;
	double drop_embedding; /* ModernBERT's own; the others use drop_hidden */
	uint64_t seed;
	SermReal *hat0, *factor0; /* of the embeddings, when kept */
	SermLayerState *layers;   /* [layers]; when nothing is kept they share their arrays */
	SermReal *curve;          /* [block][intermediate] */
	SermReal *first;          /* [count][hidden]: query_input of the last layer */
	SermReal *top;            /* [count][hidden]: first tokens of the last output */
	SermReal *pooled;         /* [count][hidden] behind the head's curve and norm, before dropout */
	SermReal *dropped;        /* [count][hidden] */
	SermReal *logits;         /* [count][labels] */
	SermAttentionScratch attention;
	void *scratch; /* of the linear layers */

	/* ModernBERT only */
	SermRotary global, local;
	SermReal *final;                    /* [count or tokens][hidden] behind the last norm */
	SermReal *final_hat, *final_factor; /* * */
	SermReal *dense;                    /* [count][hidden]: the head before its curve */
	SermReal *head_hat, *head_factor;   /* * */
} SermEncoderRun;

/* Rows of layer `layer` that are computed from its queries on. */
extern uint32_t serm_encoder_rows(const SermEncoderRun *run, uint32_t layer);
/* Count and place the inputs, and allocate; the caller has set what stands above `start`, and keep ... seed.
 */
extern SermStatus serm_encoder_prepare(SermEncoderRun *run, SermArena *arena, SermError *error);
extern SermStatus serm_encoder_forward(SermEncoderRun *run, SermError *error);

/* Where dropout is, as a seed for serm_drop(): sites are numbered per layer. */
enum {
	SERM_SITE_EMBEDDING,
	SERM_SITE_ATTENTION,
	SERM_SITE_OUT,
	SERM_SITE_DOWN,
	SERM_SITE_POOLED,
	SERM_SITE_GATE
};
extern uint64_t serm_encoder_site(
    const SermEncoderRun *run, uint32_t layer, uint32_t site, uint64_t key, uint64_t position);
/* Drop in values [rows][hidden] of all tokens, or of first tokens when rows = count < tokens. */
extern void serm_encoder_drop(
    const SermEncoderRun *run, uint32_t layer, uint32_t site, bool first_only, SermReal *values);
/* The same for rows of `width` numbers at a rate of their own. */
extern void serm_encoder_drop_rows(const SermEncoderRun *run, uint32_t layer, uint32_t site, double rate,
    bool first_only, size_t width, SermReal *values);
/* serm_linear_run() in stretches between which the host is asked. false: it said stop. */
extern bool serm_encoder_linear(
    const SermEncoderRun *run, const SermLinear *linear, size_t rows, const SermReal *x, SermReal *y);
extern bool serm_encoder_go_on(const SermEncoderHost *host);
extern SermNorm serm_encoder_norm(const SermEncoder *encoder, size_t gamma, size_t beta);

#endif
