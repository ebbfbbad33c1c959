/*
 * What an imported encoder is: its architecture and sizes, and the tensors
 * that make it up. Read from the config.json of a model repository; stored
 * again as JSON in the tensor SERM_ENCODER_CONFIG_TENSOR, in the same keys, so
 * that one reader serves both.
 *
 * A stored cross-encoder has, besides its weights, two tensors of u8:
 *
 *   "config"     the JSON that serm_encoder_config_write() makes
 *   "tokenizer"  the tables that serm_tokenizer_write() makes (core/text/tokenizer.h)
 *
 * Weights keep the names and the row-major [out, in] shapes of the repository,
 * without the prefix of the base model ("bert.", "roberta.", "model."), and
 * their type (f32, f16, bf16):
 *
 * BERT (also MiniLM and TinyBERT; H hidden, I intermediate, V vocab, L labels)
 *   embeddings.word_embeddings.weight [V, H]
 *   embeddings.position_embeddings.weight [positions, H]
 *   embeddings.token_type_embeddings.weight [types, H]
 *   embeddings.LayerNorm.{weight,bias} [H]
 *   encoder.layer.N.attention.self.{query,key,value}.{weight [H, H],bias [H]}
 *   encoder.layer.N.attention.output.dense.{weight [H, H],bias [H]}
 *   encoder.layer.N.attention.output.LayerNorm.{weight,bias} [H]
 *   encoder.layer.N.intermediate.dense.{weight [I, H],bias [I]}
 *   encoder.layer.N.output.dense.{weight [H, I],bias [H]}
 *   encoder.layer.N.output.LayerNorm.{weight,bias} [H]
 *   pooler.dense.{weight [H, H],bias [H]}            tanh of the first token
 *   classifier.{weight [L, H],bias [L]}
 *
 * RoBERTa and XLM-R: the same but for the head; positions count from pad_id + 1
 *   classifier.dense.{weight [H, H],bias [H]}        tanh of the first token
 *   classifier.out_proj.{weight [L, H],bias [L]}
 *
 * ModernBERT: pre-norm, no bias unless the config says so (attention_bias,
 * mlp_bias, norm_bias; classifier_bias is that of head.dense)
 *   embeddings.tok_embeddings.weight [V, H]
 *   embeddings.norm.weight [H]
 *   layers.N.attn_norm.weight [H]                    not in layer 0
 *   layers.N.attn.Wqkv.weight [3 H, H]               rows: query, key, value; each heads x head size
 *   layers.N.attn.Wo.weight [H, H]
 *   layers.N.mlp_norm.weight [H]
 *   layers.N.mlp.Wi.weight [2 I, H]                  rows: input of the activation, gate
 *   layers.N.mlp.Wo.weight [H, I]
 *   final_norm.weight [H]
 *   head.dense.weight [H, H], head.norm.weight [H]   norm(act(dense(pooled)))
 *   classifier.{weight [L, H],bias [L]}
 */
#ifndef SERM_CORE_MODEL_CROSS_ENCODER_CONFIG_H
#define SERM_CORE_MODEL_CROSS_ENCODER_CONFIG_H

#include "core/model/tensor.h"

#define SERM_ENCODER_CONFIG_TENSOR "config"
#define SERM_ENCODER_TOKENIZER_TENSOR "tokenizer"

/* Larger ones are refused: no published encoder comes near, and products of these stay far from overflow. */
#define SERM_ENCODER_LAYERS_MAX 96
#define SERM_ENCODER_HIDDEN_MAX 8192
#define SERM_ENCODER_HEADS_MAX 128
#define SERM_ENCODER_INTERMEDIATE_MAX 32768
#define SERM_ENCODER_VOCAB_MAX 1048576
#define SERM_ENCODER_POSITIONS_MAX 65536
#define SERM_ENCODER_TYPES_MAX 16
#define SERM_ENCODER_LABELS_MAX 10

typedef enum SermEncoderArchitecture {
	SERM_ENCODER_BERT = 0,
	SERM_ENCODER_ROBERTA, /* RoBERTa and XLM-R */
	SERM_ENCODER_MODERNBERT,
	SERM_ENCODER_ARCHITECTURE_COUNT
} SermEncoderArchitecture;

typedef enum SermEncoderActivation {
	SERM_ACTIVATION_GELU = 0,  /* x Phi(x), by erf: "gelu" */
	SERM_ACTIVATION_GELU_TANH, /* "gelu_new", "gelu_pytorch_tanh" */
	SERM_ACTIVATION_RELU,      /* "relu" */
	SERM_ACTIVATION_SILU,      /* "silu", "swish" */
	SERM_ACTIVATION_COUNT
} SermEncoderActivation;

typedef enum SermEncoderPooling { SERM_POOLING_CLS = 0, SERM_POOLING_MEAN } SermEncoderPooling;

typedef struct SermEncoderConfig {
	SermEncoderArchitecture architecture;
	uint32_t layers;       /* num_hidden_layers */
	uint32_t hidden;       /* hidden_size, a multiple of heads */
	uint32_t heads;        /* num_attention_heads */
	uint32_t intermediate; /* intermediate_size */
	uint32_t vocab;        /* vocab_size: rows of the word embeddings, at least the tokenizer's */
	uint32_t positions;    /* max_position_embeddings: rows of the position table, for RoBERTa pad_id + 1 more
	                          than there are usable positions; ModernBERT has no table */
	uint32_t types;        /* type_vocab_size; 0 for ModernBERT */
	uint32_t labels;       /* outputs of the classifier: 1 is a score, 2..10 are grades */
	uint32_t pad_id;       /* pad_token_id */
	SermEncoderActivation activation;            /* of the feed-forward layers */
	SermEncoderActivation classifier_activation; /* of ModernBERT's head; the others use tanh */
	SermEncoderPooling pooling;                  /* ModernBERT's classifier_pooling; the others CLS */
	double eps;                                  /* of every layer normalisation */
	double hidden_dropout;                       /* training only; ModernBERT's mlp_dropout */
	double attention_dropout;
	double classifier_dropout;
	double initializer_range;

	/* ModernBERT only. Layer i attends globally when i % global_every == 0, else within the window. */
	uint32_t global_every;
	uint32_t local_window; /* local_attention: a token sees local_window / 2 tokens to either side */
	double embedding_dropout;
	double global_theta; /* bases of the rotary positions of global and local layers */
	double local_theta;
	bool attention_bias;
	bool mlp_bias;
	bool norm_bias;
	bool classifier_bias; /* of head.dense */

	/*
	 * The token types tell which tokens of a pair occur in the other text too (encoder_pair.h). Only of the
	 * encoders that were made from nothing: no published one has been trained so.
	 */
	bool match_types;

	/* A score of one label is read through the logistic function (sentence-transformers' Sigmoid). */
	bool sigmoid;
} SermEncoderConfig;

/* The name in model_type ("bert", "roberta", "xlm-roberta" reads as roberta, "modernbert"). */
extern const char *serm_encoder_architecture_name(SermEncoderArchitecture architecture);

/*
 * Read config.json. What is not said takes the architecture's own default. Errors: CORRUPT for bytes that
 * are no JSON object or a value of the wrong type; INVALID, saying what is supported, for an architecture, a
 * head or a setting that the encoder does not implement, and for sizes outside their limits.
 */
extern SermStatus serm_encoder_config_read(
    const char *json, size_t length, SermArena *scratch, SermEncoderConfig *config, SermError *error);
/* The same checks for a config that was made by hand. */
extern SermStatus serm_encoder_config_check(const SermEncoderConfig *config, SermError *error);
/* The JSON that serm_encoder_config_read() reads back as the same config; NULL when the arena refuses. */
extern char *serm_encoder_config_write(const SermEncoderConfig *config, SermArena *arena, size_t *length);

/* Tokens of the longest input, special ones included. */
extern uint32_t serm_encoder_tokens_max(const SermEncoderConfig *config);

/* One tensor that the architecture needs; `rank` is 1 or 2. */
typedef struct SermEncoderTensor {
	char name[SERM_TENSOR_NAME_MAX];
	uint32_t rank;
	uint64_t shape[2];
} SermEncoderTensor;

/* How many tensors the model has, without "config" and "tokenizer". */
extern uint32_t serm_encoder_tensor_count(const SermEncoderConfig *config);
/* Tensor `index` < count, in the order of the computation; the same index always names the same tensor. */
extern void serm_encoder_tensor(const SermEncoderConfig *config, uint32_t index, SermEncoderTensor *tensor);

typedef enum SermTensorUse {
	SERM_TENSOR_USED = 0, /* `canonical` is its stored name */
	SERM_TENSOR_IGNORED,  /* known and not needed: buffers of positions, heads of pre-training */
	SERM_TENSOR_UNKNOWN
} SermTensorUse;

/* What a tensor of a repository is called when stored: `canonical` has SERM_TENSOR_NAME_MAX bytes. */
extern SermTensorUse serm_encoder_tensor_name(
    const SermEncoderConfig *config, const char *name, char *canonical);

/* Does `tensors` hold every tensor of the model in its shape and as f32, f16 or bf16? Data is not looked at.
 * Error: CORRUPT, naming the tensor. */
extern SermStatus serm_encoder_shapes_check(
    const SermEncoderConfig *config, const SermTensorSet *tensors, SermError *error);
/* Are these numbers of tensor `name` (f32, f16, bf16) finite? Error: CORRUPT. */
extern SermStatus serm_encoder_numbers_check(
    const char *name, SermDtype dtype, const void *numbers, size_t count, SermError *error);
/* Both, for tensors whose data is there. */
extern SermStatus serm_encoder_tensors_check(
    const SermEncoderConfig *config, const SermTensorSet *tensors, const SermWatch *watch, SermError *error);

#endif
