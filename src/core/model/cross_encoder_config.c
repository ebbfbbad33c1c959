#include "core/model/cross_encoder_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/model/json.h"

#define CONFIG_BYTES_MAX ((size_t) 1 << 20)
#define SUPPORTED "supported are bert, roberta, xlm-roberta and modernbert with a sequence classifier"

static const char *const architecture_names[SERM_ENCODER_ARCHITECTURE_COUNT] = {
    [SERM_ENCODER_BERT] = "bert",
    [SERM_ENCODER_ROBERTA] = "roberta",
    [SERM_ENCODER_MODERNBERT] = "modernbert",
};

static const struct {
	const char *name;
	SermEncoderActivation activation;
} activations[] = {{"gelu", SERM_ACTIVATION_GELU}, {"gelu_new", SERM_ACTIVATION_GELU_TANH},
    {"gelu_pytorch_tanh", SERM_ACTIVATION_GELU_TANH}, {"relu", SERM_ACTIVATION_RELU},
    {"silu", SERM_ACTIVATION_SILU}, {"swish", SERM_ACTIVATION_SILU}};

typedef struct Reader {
	SermJson json;
	SermEncoderConfig *config;
	SermError *error;
	SermStatus status; /* of the first thing that was wrong */
} Reader;

const char *
serm_encoder_architecture_name(SermEncoderArchitecture architecture)
{
	SERM_ASSERT((unsigned) architecture < SERM_ENCODER_ARCHITECTURE_COUNT);
	return architecture_names[architecture];
}

/* --- values; the first wrong one is kept */

static void
wrong(Reader *reader, const char *key, const char *what)
{
	if (reader->status == SERM_OK)
		reader->status =
		    serm_fail(reader->error, SERM_ERR_CORRUPT, "config.json: \"%s\" is not %s", key, what);
}

static void
unsupported(Reader *reader, const char *what)
{
	if (reader->status == SERM_OK)
		reader->status = serm_fail(reader->error, SERM_ERR_INVALID, "%s is not supported", what);
}

static void
read_count(Reader *reader, uint32_t object, const char *key, uint32_t *value)
{
	uint32_t node = serm_json_value(&reader->json, object, key);
	uint64_t number;

	if (node == SERM_JSON_ABSENT)
		return;
	if (!serm_json_integer(&reader->json, node, &number) || number > UINT32_MAX)
		wrong(reader, key, "a whole number");
	else
		*value = (uint32_t) number;
}

static void
read_real(Reader *reader, uint32_t object, const char *key, double *value)
{
	uint32_t node = serm_json_value(&reader->json, object, key);

	if (node != SERM_JSON_ABSENT && !serm_json_real(&reader->json, node, value))
		wrong(reader, key, "a number");
}

static void
read_flag(Reader *reader, const char *key, bool *value)
{
	uint32_t node = serm_json_value(&reader->json, 0, key);
	SermJsonType type = node != SERM_JSON_ABSENT ? serm_json_type(&reader->json, node) : SERM_JSON_NULL;

	if (type == SERM_JSON_TRUE || type == SERM_JSON_FALSE)
		*value = type == SERM_JSON_TRUE;
	else if (type != SERM_JSON_NULL)
		wrong(reader, key, "true or false");
}

static void
read_activation(Reader *reader, const char *key, SermEncoderActivation *value)
{
	uint32_t node = serm_json_value(&reader->json, 0, key);

	if (node == SERM_JSON_ABSENT)
		return;
	for (unsigned i = 0; i < SERM_LENGTH(activations); i++)
		if (serm_json_equals(&reader->json, node, activations[i].name)) {
			*value = activations[i].activation;
			return;
		}
	unsupported(reader, "an activation besides gelu, gelu_new, gelu_pytorch_tanh, relu and silu");
}

/* Refuse a setting unless it is absent, null or spelled so. */
static void
require_string(Reader *reader, uint32_t object, const char *key, const char *value, const char *otherwise)
{
	uint32_t node = serm_json_value(&reader->json, object, key);

	if (node != SERM_JSON_ABSENT && !serm_json_equals(&reader->json, node, value))
		unsupported(reader, otherwise);
}

/* --- parts of the config */

static void
read_architecture(Reader *reader)
{
	static const struct {
		const char *type, *class;
		SermEncoderArchitecture architecture;
	} known[] = {{"bert", "BertForSequenceClassification", SERM_ENCODER_BERT},
	    {"roberta", "RobertaForSequenceClassification", SERM_ENCODER_ROBERTA},
	    {"xlm-roberta", "XLMRobertaForSequenceClassification", SERM_ENCODER_ROBERTA},
	    {"modernbert", "ModernBertForSequenceClassification", SERM_ENCODER_MODERNBERT}};
	uint32_t type = serm_json_value(&reader->json, 0, "model_type");
	uint32_t classes = serm_json_value(&reader->json, 0, "architectures");

	for (unsigned i = 0; type != SERM_JSON_ABSENT && i < SERM_LENGTH(known); i++) {
		if (!serm_json_equals(&reader->json, type, known[i].type))
			continue;
		reader->config->architecture = known[i].architecture;
		if (classes == SERM_JSON_ABSENT)
			return;
		if (serm_json_type(&reader->json, classes) == SERM_JSON_ARRAY &&
		    reader->json.nodes[classes].count == 1 &&
		    serm_json_equals(&reader->json, serm_json_first(&reader->json, classes), known[i].class))
			return;
		break;
	}
	if (reader->status == SERM_OK)
		reader->status =
		    serm_fail(reader->error, SERM_ERR_INVALID, "this kind of model cannot be imported: " SUPPORTED);
}

static void
set_defaults(SermEncoderConfig *config)
{
	const bool modern = config->architecture == SERM_ENCODER_MODERNBERT;
	const SermEncoderArchitecture architecture = config->architecture;

	*config = (SermEncoderConfig){.architecture = architecture,
	    .layers = modern ? 22 : 12,
	    .hidden = 768,
	    .heads = 12,
	    .intermediate = modern ? 1152 : 3072,
	    .vocab = modern ? 50368 : 30522,
	    .positions = modern ? 8192 : 512,
	    .types = modern ? 0 : 2,
	    .labels = 2,
	    .pad_id = modern ? 50283 : architecture == SERM_ENCODER_ROBERTA,
	    .eps = modern ? 1e-5 : 1e-12,
	    .hidden_dropout = modern ? 0 : .1,
	    .attention_dropout = modern ? 0 : .1,
	    .initializer_range = .02};
	if (architecture == SERM_ENCODER_ROBERTA)
		config->vocab = 50265;
	config->classifier_dropout = NAN;
	if (modern) {
		config->global_every = 3;
		config->local_window = 128;
		config->global_theta = 160000;
		config->local_theta = 10000;
	}
}

static void
read_labels(Reader *reader)
{
	uint32_t names = serm_json_value(&reader->json, 0, "id2label");

	if (names != SERM_JSON_ABSENT && serm_json_type(&reader->json, names) == SERM_JSON_OBJECT)
		reader->config->labels = reader->json.nodes[names].count;
	else
		read_count(reader, 0, "num_labels", &reader->config->labels);
	if (reader->config->labels < 1 || reader->config->labels > SERM_ENCODER_LABELS_MAX) {
		if (reader->status == SERM_OK)
			reader->status = serm_fail(reader->error, SERM_ERR_INVALID,
			    "a head of %u labels is not supported: 1 label is a score, 2 to %d are grades",
			    reader->config->labels, SERM_ENCODER_LABELS_MAX);
	}
	if (reader->config->labels > 1) {
		uint32_t problem = serm_json_value(&reader->json, 0, "problem_type");

		if (problem != SERM_JSON_ABSENT &&
		    !serm_json_equals(&reader->json, problem, "single_label_classification"))
			unsupported(reader, "a head of several labels that is not a classification of one label");
	}
}

/* Does the string end in `name`, as a class does in its dotted path? */
static bool
names_class(const Reader *reader, uint32_t node, const char *name)
{
	const SermJsonNode *string = &reader->json.nodes[node];
	size_t length = strlen(name);

	return string->type == SERM_JSON_STRING && !string->escaped && string->length >= length &&
	       memcmp(reader->json.bytes + string->start + string->length - length, name, length) == 0;
}

/* How sentence-transformers turns one logit into a score; the logistic function unless it says otherwise. */
static void
read_score_activation(Reader *reader)
{
	uint32_t nested = serm_json_value(&reader->json, 0, "sentence_transformers"), node = SERM_JSON_ABSENT;

	reader->config->sigmoid = reader->config->labels == 1;
	if (nested != SERM_JSON_ABSENT)
		node = serm_json_value(&reader->json, nested, "activation_fn");
	if (node == SERM_JSON_ABSENT)
		node = serm_json_value(&reader->json, 0, "sbert_ce_default_activation_function");
	if (node == SERM_JSON_ABSENT)
		return;
	if (names_class(reader, node, "Identity"))
		reader->config->sigmoid = false;
	else if (!names_class(reader, node, "Sigmoid") || reader->config->labels != 1)
		unsupported(reader, "an activation of the score besides Sigmoid of one label and Identity");
}

static void
read_classic(Reader *reader)
{
	SermEncoderConfig *config = reader->config;
	bool decoder = false, crossed = false;

	read_count(reader, 0, "type_vocab_size", &config->types);
	read_flag(reader, "match_types", &config->match_types);
	read_real(reader, 0, "layer_norm_eps", &config->eps);
	read_activation(reader, "hidden_act", &config->activation);
	read_real(reader, 0, "hidden_dropout_prob", &config->hidden_dropout);
	read_real(reader, 0, "attention_probs_dropout_prob", &config->attention_dropout);
	read_flag(reader, "is_decoder", &decoder);
	read_flag(reader, "add_cross_attention", &crossed);
	require_string(
	    reader, 0, "position_embedding_type", "absolute", "a kind of positions besides absolute ones");
	if (decoder || crossed)
		unsupported(reader, "a decoder");
}

static void
read_rope(Reader *reader)
{
	uint32_t rope = serm_json_value(&reader->json, 0, "rope_parameters");
	uint32_t full, local;

	read_real(reader, 0, "global_rope_theta", &reader->config->global_theta);
	/* A null says: as the global ones. */
	if (serm_json_member(&reader->json, 0, "local_rope_theta") != SERM_JSON_ABSENT)
		reader->config->local_theta = reader->config->global_theta;
	read_real(reader, 0, "local_rope_theta", &reader->config->local_theta);
	if (serm_json_value(&reader->json, 0, "rope_scaling") != SERM_JSON_ABSENT)
		unsupported(reader, "a scaled form of rotary positions");
	if (rope == SERM_JSON_ABSENT)
		return;
	full = serm_json_value(&reader->json, rope, "full_attention");
	local = serm_json_value(&reader->json, rope, "sliding_attention");
	if (full == SERM_JSON_ABSENT || local == SERM_JSON_ABSENT) {
		unsupported(reader, "a form of \"rope_parameters\" without full_attention and sliding_attention");
		return;
	}
	read_real(reader, full, "rope_theta", &reader->config->global_theta);
	read_real(reader, local, "rope_theta", &reader->config->local_theta);
	require_string(reader, full, "rope_type", "default", "a scaled form of rotary positions");
	require_string(reader, local, "rope_type", "default", "a scaled form of rotary positions");
}

/* The list of layers, where there is one, must say what global_attn_every_n_layers says. */
static void
check_layer_types(Reader *reader)
{
	const SermJson *json = &reader->json;
	uint32_t list = serm_json_value(json, 0, "layer_types"), layer = 0;
	const uint32_t every = reader->config->global_every;

	if (list == SERM_JSON_ABSENT || every == 0)
		return;
	for (uint32_t node = serm_json_first(json, list); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, list, node), layer++)
		if (!serm_json_equals(json, node, layer % every == 0 ? "full_attention" : "sliding_attention")) {
			unsupported(reader, "an order of global and local layers that does not repeat");
			return;
		}
	if (layer != reader->config->layers)
		unsupported(reader, "a \"layer_types\" of another length than \"num_hidden_layers\"");
}

static void
read_modern(Reader *reader)
{
	SermEncoderConfig *config = reader->config;
	uint32_t pooling = serm_json_value(&reader->json, 0, "classifier_pooling"), head = 0;

	read_real(reader, 0, "norm_eps", &config->eps);
	read_activation(reader, "hidden_activation", &config->activation);
	read_activation(reader, "classifier_activation", &config->classifier_activation);
	read_real(reader, 0, "mlp_dropout", &config->hidden_dropout);
	read_real(reader, 0, "embedding_dropout", &config->embedding_dropout);
	read_real(reader, 0, "attention_dropout", &config->attention_dropout);
	read_count(reader, 0, "global_attn_every_n_layers", &config->global_every);
	read_count(reader, 0, "local_attention", &config->local_window);
	read_flag(reader, "attention_bias", &config->attention_bias);
	read_flag(reader, "mlp_bias", &config->mlp_bias);
	read_flag(reader, "norm_bias", &config->norm_bias);
	read_flag(reader, "classifier_bias", &config->classifier_bias);
	if (pooling != SERM_JSON_ABSENT && serm_json_equals(&reader->json, pooling, "mean"))
		config->pooling = SERM_POOLING_MEAN;
	else
		require_string(reader, 0, "classifier_pooling", "cls", "a pooling besides cls and mean");
	read_count(reader, 0, "head_dim", &head);
	if (head != 0 && (uint64_t) head * config->heads != config->hidden)
		unsupported(reader, "a \"head_dim\" besides \"hidden_size\" / \"num_attention_heads\"");
	read_rope(reader);
	check_layer_types(reader);
}

/* --- limits */

static SermStatus
outside(SermError *error, const char *what, uint32_t value, uint32_t low, uint32_t high)
{
	return serm_fail(error, SERM_ERR_INVALID,
	    "a model with %s of %u cannot be imported: %u to %u are supported", what, value, low, high);
}

static bool
is_share(double value)
{
	return value >= 0 && value < 1;
}

static bool
is_base(double value)
{
	return value >= 1 && value <= 1e9;
}

SermStatus
serm_encoder_config_check(const SermEncoderConfig *config, SermError *error)
{
	const bool modern = config->architecture == SERM_ENCODER_MODERNBERT;
	const struct {
		const char *name;
		uint32_t value, low, high;
	} limits[] = {{"num_hidden_layers", config->layers, 1, SERM_ENCODER_LAYERS_MAX},
	    {"hidden_size", config->hidden, 1, SERM_ENCODER_HIDDEN_MAX},
	    {"num_attention_heads", config->heads, 1, SERM_ENCODER_HEADS_MAX},
	    {"intermediate_size", config->intermediate, 1, SERM_ENCODER_INTERMEDIATE_MAX},
	    {"vocab_size", config->vocab, 1, SERM_ENCODER_VOCAB_MAX},
	    {"max_position_embeddings", config->positions, 8, SERM_ENCODER_POSITIONS_MAX},
	    {"type_vocab_size", config->types, modern ? 0 : 1, modern ? 0 : SERM_ENCODER_TYPES_MAX},
	    {"labels", config->labels, 1, SERM_ENCODER_LABELS_MAX},
	    {"pad_token_id", config->pad_id, 0, config->vocab - (config->vocab > 0)}};

	if ((unsigned) config->architecture >= SERM_ENCODER_ARCHITECTURE_COUNT ||
	    (unsigned) config->activation >= SERM_ACTIVATION_COUNT ||
	    (unsigned) config->classifier_activation >= SERM_ACTIVATION_COUNT ||
	    (unsigned) config->pooling > SERM_POOLING_MEAN)
		return serm_fail(error, SERM_ERR_INVALID, "this kind of model cannot be imported: " SUPPORTED);
	for (unsigned i = 0; i < SERM_LENGTH(limits); i++)
		if (limits[i].value < limits[i].low || limits[i].value > limits[i].high)
			return outside(error, limits[i].name, limits[i].value, limits[i].low, limits[i].high);
	if (config->hidden % config->heads != 0)
		return serm_fail(error, SERM_ERR_INVALID, "hidden_size %u is not a multiple of %u attention heads",
		    config->hidden, config->heads);
	if (config->architecture == SERM_ENCODER_ROBERTA && config->positions < config->pad_id + 9)
		return outside(error, "max_position_embeddings", config->positions, config->pad_id + 9,
		    SERM_ENCODER_POSITIONS_MAX);
	if (!(config->eps > 0 && config->eps <= 1) || !is_share(config->hidden_dropout) ||
	    !is_share(config->attention_dropout) || !is_share(config->classifier_dropout) ||
	    !is_share(config->embedding_dropout) ||
	    !(config->initializer_range >= 0 && config->initializer_range <= 10))
		return serm_fail(
		    error, SERM_ERR_INVALID, "an epsilon, a dropout or the initializer_range is out of range");
	if (config->match_types && (config->architecture != SERM_ENCODER_BERT || config->types != 4))
		return serm_fail(
		    error, SERM_ERR_INVALID, "\"match_types\" is supported of bert with 4 token types only");
	if (config->sigmoid && config->labels != 1)
		return serm_fail(error, SERM_ERR_INVALID, "a sigmoid of several labels is not supported");
	if (!modern)
		return SERM_OK;
	if (config->global_every < 1 || config->global_every > SERM_ENCODER_LAYERS_MAX)
		return outside(error, "global_attn_every_n_layers", config->global_every, 1, SERM_ENCODER_LAYERS_MAX);
	if (config->local_window < 2 || config->local_window > SERM_ENCODER_POSITIONS_MAX)
		return outside(error, "local_attention", config->local_window, 2, SERM_ENCODER_POSITIONS_MAX);
	if (config->hidden / config->heads % 2 != 0 || !is_base(config->global_theta) ||
	    !is_base(config->local_theta))
		return serm_fail(
		    error, SERM_ERR_INVALID, "rotary positions need heads of even size and bases between 1 and 10^9");
	return SERM_OK;
}

SermStatus
serm_encoder_config_read(
    const char *json, size_t length, SermArena *scratch, SermEncoderConfig *config, SermError *error)
{
	Reader reader = {.config = config, .error = error};
	SermStatus status;

	*config = (SermEncoderConfig){0};
	if (length > CONFIG_BYTES_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "config.json is larger than %zu bytes", CONFIG_BYTES_MAX);
	status = serm_json_parse((SermText){json, length}, NULL, scratch, &reader.json, error);
	if (status != SERM_OK)
		return status;
	if (serm_json_type(&reader.json, 0) != SERM_JSON_OBJECT)
		return serm_fail(error, SERM_ERR_CORRUPT, "config.json is no JSON object");
	read_architecture(&reader);
	set_defaults(config);
	read_labels(&reader);
	read_score_activation(&reader);
	read_count(&reader, 0, "num_hidden_layers", &config->layers);
	read_count(&reader, 0, "hidden_size", &config->hidden);
	read_count(&reader, 0, "num_attention_heads", &config->heads);
	read_count(&reader, 0, "intermediate_size", &config->intermediate);
	read_count(&reader, 0, "vocab_size", &config->vocab);
	read_count(&reader, 0, "max_position_embeddings", &config->positions);
	read_count(&reader, 0, "pad_token_id", &config->pad_id);
	read_real(&reader, 0, "classifier_dropout", &config->classifier_dropout);
	read_real(&reader, 0, "initializer_range", &config->initializer_range);
	if (config->architecture == SERM_ENCODER_MODERNBERT)
		read_modern(&reader);
	else
		read_classic(&reader);
	/* The library takes the other layers' when it is not given. */
	if (isnan(config->classifier_dropout))
		config->classifier_dropout =
		    config->architecture == SERM_ENCODER_MODERNBERT ? 0 : config->hidden_dropout;
	return reader.status == SERM_OK ? serm_encoder_config_check(config, error) : reader.status;
}

uint32_t
serm_encoder_tokens_max(const SermEncoderConfig *config)
{
	return config->architecture == SERM_ENCODER_ROBERTA ? config->positions - config->pad_id - 1
	                                                    : config->positions;
}

/* --- writing */

static const char *
activation_name(SermEncoderActivation activation)
{
	for (unsigned i = 0; i < SERM_LENGTH(activations); i++)
		if (activations[i].activation == activation)
			return activations[i].name;
	return "gelu";
}

#define WRITTEN_MAX 4096

static size_t
write_head(const SermEncoderConfig *config, char *out)
{
	static const char *const classes[] = {"Bert", "Roberta", "ModernBert"};
	size_t used = (size_t) snprintf(out, WRITTEN_MAX,
	    "{\"architectures\": [\"%sForSequenceClassification\"], \"model_type\": \"%s\", \"id2label\": {",
	    classes[config->architecture], architecture_names[config->architecture]);

	for (uint32_t i = 0; i < config->labels; i++)
		used += (size_t) snprintf(
		    out + used, WRITTEN_MAX - used, "%s\"%u\": \"LABEL_%u\"", i > 0 ? ", " : "", i, i);
	used += (size_t) snprintf(out + used, WRITTEN_MAX - used,
	    "}, \"num_hidden_layers\": %u, \"hidden_size\": %u, \"num_attention_heads\": %u, "
	    "\"intermediate_size\": %u, \"vocab_size\": %u, \"max_position_embeddings\": %u, "
	    "\"pad_token_id\": %u, \"classifier_dropout\": %.17g, \"initializer_range\": %.17g, "
	    "\"sbert_ce_default_activation_function\": \"%s\"",
	    config->layers, config->hidden, config->heads, config->intermediate, config->vocab, config->positions,
	    config->pad_id, config->classifier_dropout, config->initializer_range,
	    config->sigmoid ? "Sigmoid" : "Identity");
	return used;
}

static const char *
word(bool flag)
{
	return flag ? "true" : "false";
}

char *
serm_encoder_config_write(const SermEncoderConfig *config, SermArena *arena, size_t *length)
{
	char *out = serm_arena_array(arena, WRITTEN_MAX, 1);
	size_t used;

	if (out == NULL)
		return NULL;
	used = write_head(config, out);
	if (config->architecture == SERM_ENCODER_MODERNBERT)
		used += (size_t) snprintf(out + used, WRITTEN_MAX - used,
		    ", \"norm_eps\": %.17g, \"hidden_activation\": \"%s\", \"classifier_activation\": \"%s\", "
		    "\"mlp_dropout\": %.17g, \"embedding_dropout\": %.17g, \"attention_dropout\": %.17g, "
		    "\"global_attn_every_n_layers\": %u, "
		    "\"local_attention\": %u, \"global_rope_theta\": %.17g, \"local_rope_theta\": %.17g, "
		    "\"attention_bias\": %s, \"mlp_bias\": %s, \"norm_bias\": %s, \"classifier_bias\": %s, "
		    "\"classifier_pooling\": \"%s\"}",
		    config->eps, activation_name(config->activation), activation_name(config->classifier_activation),
		    config->hidden_dropout, config->embedding_dropout, config->attention_dropout,
		    config->global_every, config->local_window, config->global_theta, config->local_theta,
		    word(config->attention_bias), word(config->mlp_bias), word(config->norm_bias),
		    word(config->classifier_bias), config->pooling == SERM_POOLING_MEAN ? "mean" : "cls");
	else
		used += (size_t) snprintf(out + used, WRITTEN_MAX - used,
		    ", \"type_vocab_size\": %u, \"layer_norm_eps\": %.17g, \"hidden_act\": \"%s\", "
		    "\"hidden_dropout_prob\": %.17g, \"attention_probs_dropout_prob\": %.17g%s}",
		    config->types, config->eps, activation_name(config->activation), config->hidden_dropout,
		    config->attention_dropout, config->match_types ? ", \"match_types\": true" : "");
	SERM_ASSERT(used < WRITTEN_MAX);
	*length = used;
	return out;
}
