/*
 * The tensors of each architecture, as cross_encoder_config.h lists them: one
 * table for each, in the order of the computation.
 */
#include <stdio.h>
#include <string.h>

#include "core/model/cross_encoder_config.h"

/* Numbers of a tensor between two questions to whoever watches. */
#define QUIET_NUMBERS ((size_t) 4 << 20)

typedef enum Extent {
	NONE = 0,
	HIDDEN,
	HIDDEN_3,
	INTERMEDIATE,
	INTERMEDIATE_2,
	VOCAB,
	POSITIONS,
	TYPES,
	LABELS
} Extent;

typedef enum Condition {
	ALWAYS = 0,
	NOT_FIRST, /* in every layer but the first */
	ATTENTION_BIAS,
	MLP_BIAS,
	NORM_BIAS,
	NORM_BIAS_NOT_FIRST,
	CLASSIFIER_BIAS
} Condition;

/* A `%u` in the name is the number of the layer. */
typedef struct Row {
	const char *name;
	Extent rows, columns;
	Condition condition;
} Row;

#define WEIGHT_BIAS(name, rows, columns)                                                                     \
	{name ".weight", rows, columns, ALWAYS},                                                                 \
	{                                                                                                        \
		name ".bias", rows, NONE, ALWAYS                                                                     \
	}
#define NORM(name)                                                                                           \
	{name ".weight", HIDDEN, NONE, ALWAYS},                                                                  \
	{                                                                                                        \
		name ".bias", HIDDEN, NONE, ALWAYS                                                                   \
	}

static const Row classic_embeddings[] = {
    {"embeddings.word_embeddings.weight", VOCAB, HIDDEN, ALWAYS},
    {"embeddings.position_embeddings.weight", POSITIONS, HIDDEN, ALWAYS},
    {"embeddings.token_type_embeddings.weight", TYPES, HIDDEN, ALWAYS},
    NORM("embeddings.LayerNorm"),
};
static const Row classic_layer[] = {
    WEIGHT_BIAS("encoder.layer.%u.attention.self.query", HIDDEN, HIDDEN),
    WEIGHT_BIAS("encoder.layer.%u.attention.self.key", HIDDEN, HIDDEN),
    WEIGHT_BIAS("encoder.layer.%u.attention.self.value", HIDDEN, HIDDEN),
    WEIGHT_BIAS("encoder.layer.%u.attention.output.dense", HIDDEN, HIDDEN),
    NORM("encoder.layer.%u.attention.output.LayerNorm"),
    WEIGHT_BIAS("encoder.layer.%u.intermediate.dense", INTERMEDIATE, HIDDEN),
    WEIGHT_BIAS("encoder.layer.%u.output.dense", HIDDEN, INTERMEDIATE),
    NORM("encoder.layer.%u.output.LayerNorm"),
};
static const Row bert_head[] = {
    WEIGHT_BIAS("pooler.dense", HIDDEN, HIDDEN),
    WEIGHT_BIAS("classifier", LABELS, HIDDEN),
};
static const Row roberta_head[] = {
    WEIGHT_BIAS("classifier.dense", HIDDEN, HIDDEN),
    WEIGHT_BIAS("classifier.out_proj", LABELS, HIDDEN),
};
static const Row modern_embeddings[] = {
    {"embeddings.tok_embeddings.weight", VOCAB, HIDDEN, ALWAYS},
    {"embeddings.norm.weight", HIDDEN, NONE, ALWAYS},
    {"embeddings.norm.bias", HIDDEN, NONE, NORM_BIAS},
};
static const Row modern_layer[] = {
    {"layers.%u.attn_norm.weight", HIDDEN, NONE, NOT_FIRST},
    {"layers.%u.attn_norm.bias", HIDDEN, NONE, NORM_BIAS_NOT_FIRST},
    {"layers.%u.attn.Wqkv.weight", HIDDEN_3, HIDDEN, ALWAYS},
    {"layers.%u.attn.Wqkv.bias", HIDDEN_3, NONE, ATTENTION_BIAS},
    {"layers.%u.attn.Wo.weight", HIDDEN, HIDDEN, ALWAYS},
    {"layers.%u.attn.Wo.bias", HIDDEN, NONE, ATTENTION_BIAS},
    {"layers.%u.mlp_norm.weight", HIDDEN, NONE, ALWAYS},
    {"layers.%u.mlp_norm.bias", HIDDEN, NONE, NORM_BIAS},
    {"layers.%u.mlp.Wi.weight", INTERMEDIATE_2, HIDDEN, ALWAYS},
    {"layers.%u.mlp.Wi.bias", INTERMEDIATE_2, NONE, MLP_BIAS},
    {"layers.%u.mlp.Wo.weight", HIDDEN, INTERMEDIATE, ALWAYS},
    {"layers.%u.mlp.Wo.bias", HIDDEN, NONE, MLP_BIAS},
};
static const Row modern_head[] = {
    {"final_norm.weight", HIDDEN, NONE, ALWAYS},
    {"final_norm.bias", HIDDEN, NONE, NORM_BIAS},
    {"head.dense.weight", HIDDEN, HIDDEN, ALWAYS},
    {"head.dense.bias", HIDDEN, NONE, CLASSIFIER_BIAS},
    {"head.norm.weight", HIDDEN, NONE, ALWAYS},
    {"head.norm.bias", HIDDEN, NONE, NORM_BIAS},
    WEIGHT_BIAS("classifier", LABELS, HIDDEN),
};

typedef struct Rows {
	const Row *rows;
	uint32_t count;
} Rows;

static const struct {
	Rows embeddings, layer, head;
} architectures[SERM_ENCODER_ARCHITECTURE_COUNT] = {
    [SERM_ENCODER_BERT] = {{classic_embeddings, SERM_LENGTH(classic_embeddings)},
        {classic_layer, SERM_LENGTH(classic_layer)}, {bert_head, SERM_LENGTH(bert_head)}},
    [SERM_ENCODER_ROBERTA] = {{classic_embeddings, SERM_LENGTH(classic_embeddings)},
        {classic_layer, SERM_LENGTH(classic_layer)}, {roberta_head, SERM_LENGTH(roberta_head)}},
    [SERM_ENCODER_MODERNBERT] = {{modern_embeddings, SERM_LENGTH(modern_embeddings)},
        {modern_layer, SERM_LENGTH(modern_layer)}, {modern_head, SERM_LENGTH(modern_head)}},
};

static bool
applies(const SermEncoderConfig *config, const Row *row, uint32_t layer)
{
	switch (row->condition) {
		case NOT_FIRST:
			return layer > 0;
		case NORM_BIAS_NOT_FIRST:
			return config->norm_bias && layer > 0;
		case NORM_BIAS:
			return config->norm_bias;
		case ATTENTION_BIAS:
			return config->attention_bias;
		case MLP_BIAS:
			return config->mlp_bias;
		case CLASSIFIER_BIAS:
			return config->classifier_bias;
		default:
			return true;
	}
}

static uint32_t
count_rows(const SermEncoderConfig *config, Rows rows, uint32_t layer)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < rows.count; i++)
		count += applies(config, &rows.rows[i], layer);
	return count;
}

uint32_t
serm_encoder_tensor_count(const SermEncoderConfig *config)
{
	Rows layer = architectures[config->architecture].layer;

	return count_rows(config, architectures[config->architecture].embeddings, 0) +
	       count_rows(config, layer, 0) + (config->layers - 1) * count_rows(config, layer, 1) +
	       count_rows(config, architectures[config->architecture].head, 0);
}

static uint64_t
extent(const SermEncoderConfig *config, Extent which)
{
	const uint64_t values[] = {[NONE] = 0,
	    [HIDDEN] = config->hidden,
	    [HIDDEN_3] = 3 * (uint64_t) config->hidden,
	    [INTERMEDIATE] = config->intermediate,
	    [INTERMEDIATE_2] = 2 * (uint64_t) config->intermediate,
	    [VOCAB] = config->vocab,
	    [POSITIONS] = config->positions,
	    [TYPES] = config->types,
	    [LABELS] = config->labels};

	return values[which];
}

/* Tensor number `index` of those rows that apply. */
static void
fill(const SermEncoderConfig *config, Rows rows, uint32_t layer, uint32_t index, SermEncoderTensor *tensor)
{
	for (uint32_t i = 0; i < rows.count; i++) {
		const Row *row = &rows.rows[i];

		if (!applies(config, row, layer) || index-- > 0)
			continue;
		*tensor = (SermEncoderTensor){.rank = row->columns == NONE ? 1 : 2,
		    .shape = {extent(config, row->rows), extent(config, row->columns)}};
		if (strstr(row->name, "%u") != NULL) {
			const char *rest = strstr(row->name, "%u");

			snprintf(tensor->name, sizeof(tensor->name), "%.*s%u%s", (int) (rest - row->name), row->name,
			    layer, rest + 2);
		} else
			snprintf(tensor->name, sizeof(tensor->name), "%s", row->name);
		return;
	}
}

void
serm_encoder_tensor(const SermEncoderConfig *config, uint32_t index, SermEncoderTensor *tensor)
{
	const Rows embeddings = architectures[config->architecture].embeddings;
	const Rows layer = architectures[config->architecture].layer;
	uint32_t before = count_rows(config, embeddings, 0);

	SERM_ASSERT(index < serm_encoder_tensor_count(config));
	if (index < before) {
		fill(config, embeddings, 0, index, tensor);
		return;
	}
	index -= before;
	for (uint32_t i = 0; i < config->layers; i++) {
		uint32_t count = count_rows(config, layer, i);

		if (index < count) {
			fill(config, layer, i, index, tensor);
			return;
		}
		index -= count;
	}
	fill(config, architectures[config->architecture].head, 0, index, tensor);
}

/* --- names in a repository */

static bool
starts_with(const char *name, const char *prefix)
{
	return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool
ends_with(const char *name, const char *suffix)
{
	size_t length = strlen(name), tail = strlen(suffix);

	return length >= tail && strcmp(name + length - tail, suffix) == 0;
}

/* Old checkpoints call the weight and bias of a layer norm gamma and beta. */
static void
modernise(char *name)
{
	size_t length = strlen(name);

	if (ends_with(name, ".LayerNorm.gamma") && length + 2 < SERM_TENSOR_NAME_MAX)
		memcpy(name + length - 5, "weight", 7);
	else if (ends_with(name, ".LayerNorm.beta"))
		memcpy(name + length - 4, "bias", 5);
}

static bool
ignorable(const SermEncoderConfig *config, const char *name)
{
	static const char *const buffers[] = {"position_ids", "token_type_ids", "rotary_emb.inv_freq"};

	for (unsigned i = 0; i < SERM_LENGTH(buffers); i++)
		if (ends_with(name, buffers[i]))
			return true;
	switch (config->architecture) {
		case SERM_ENCODER_BERT:
			return starts_with(name, "cls.");
		case SERM_ENCODER_ROBERTA:
			return starts_with(name, "lm_head.") || starts_with(name, "pooler.dense.");
		default:
			return starts_with(name, "decoder.");
	}
}

SermTensorUse
serm_encoder_tensor_name(const SermEncoderConfig *config, const char *name, char *canonical)
{
	static const char *const prefixes[SERM_ENCODER_ARCHITECTURE_COUNT] = {
	    [SERM_ENCODER_BERT] = "bert.",
	    [SERM_ENCODER_ROBERTA] = "roberta.",
	    [SERM_ENCODER_MODERNBERT] = "model.",
	};
	const uint32_t count = serm_encoder_tensor_count(config);
	SermEncoderTensor tensor;

	if (starts_with(name, prefixes[config->architecture]))
		name += strlen(prefixes[config->architecture]);
	if (ignorable(config, name))
		return SERM_TENSOR_IGNORED;
	if (strlen(name) >= SERM_TENSOR_NAME_MAX)
		return SERM_TENSOR_UNKNOWN;
	memcpy(canonical, name, strlen(name) + 1);
	modernise(canonical);
	for (uint32_t i = 0; i < count; i++) {
		serm_encoder_tensor(config, i, &tensor);
		if (strcmp(tensor.name, canonical) == 0)
			return SERM_TENSOR_USED;
	}
	return SERM_TENSOR_UNKNOWN;
}

/* --- weights */

/* An exponent of all ones is an infinity or none. */
SermStatus
serm_encoder_numbers_check(
    const char *name, SermDtype dtype, const void *numbers, size_t count, SermError *error)
{
	const uint16_t half = dtype == SERM_DTYPE_F16 ? 0x7c00 : 0x7f80;
	bool good = true;

	for (size_t i = 0; i < count; i++)
		if (dtype == SERM_DTYPE_F32)
			good &= (((const uint32_t *) numbers)[i] & 0x7f800000) != 0x7f800000;
		else
			good &= (((const uint16_t *) numbers)[i] & half) != half;
	return good ? SERM_OK
	            : serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has a number that is not finite", name);
}

static SermStatus
check_numbers(const SermTensor *tensor, const SermWatch *watch, SermError *error)
{
	const size_t size = serm_dtype_size(tensor->dtype), count = tensor->bytes / size;
	SermStatus status = SERM_OK;

	for (size_t at = 0; status == SERM_OK && at < count; at += QUIET_NUMBERS) {
		if (!serm_watch_ask(watch))
			return serm_fail(error, SERM_ERR_CANCELED, "reading weights was canceled");
		status =
		    serm_encoder_numbers_check(tensor->name, tensor->dtype, (const char *) tensor->data + at * size,
		        count - at < QUIET_NUMBERS ? count - at : QUIET_NUMBERS, error);
	}
	return status;
}

/* Find tensor `index` of the model in its shape and type. */
static SermStatus
find_tensor(const SermEncoderConfig *config, uint32_t index, const SermTensorSet *tensors,
    const SermTensor **found, SermError *error)
{
	SermEncoderTensor needed;

	serm_encoder_tensor(config, index, &needed);
	*found = serm_tensor_find(tensors, needed.name);
	if (*found != NULL && (*found)->dtype != SERM_DTYPE_F32 && (*found)->dtype != SERM_DTYPE_F16 &&
	    (*found)->dtype != SERM_DTYPE_BF16)
		return serm_fail(error, SERM_ERR_CORRUPT,
		    "tensor \"%s\" has type %s where f32, f16 or bf16 is needed", needed.name,
		    serm_dtype_name((*found)->dtype));
	return serm_tensor_shaped(tensors, needed.name, *found != NULL ? (*found)->dtype : SERM_DTYPE_F32,
	    needed.rank, needed.shape, found, error);
}

SermStatus
serm_encoder_shapes_check(const SermEncoderConfig *config, const SermTensorSet *tensors, SermError *error)
{
	const uint32_t count = serm_encoder_tensor_count(config);
	SermStatus status = SERM_OK;
	const SermTensor *found;

	for (uint32_t i = 0; status == SERM_OK && i < count; i++)
		status = find_tensor(config, i, tensors, &found, error);
	return status;
}

SermStatus
serm_encoder_tensors_check(
    const SermEncoderConfig *config, const SermTensorSet *tensors, const SermWatch *watch, SermError *error)
{
	const uint32_t count = serm_encoder_tensor_count(config);
	SermStatus status = SERM_OK;

	for (uint32_t i = 0; status == SERM_OK && i < count; i++) {
		const SermTensor *found;

		status = find_tensor(config, i, tensors, &found, error);
		if (status == SERM_OK)
			status = serm_tensor_require(
			    tensors, found->name, found->dtype, found->rank, found->shape, &found, error);
		if (status == SERM_OK)
			status = check_numbers(found, watch, error);
	}
	return status;
}
