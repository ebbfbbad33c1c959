#include "core/model/encoder_layout.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/watch.h"

/* Plain parts are followed by weights on a cache line. */
#define LINE_REALS ((size_t) 16)
/* Copied between two questions to whoever watches. */
#define QUIET_REALS ((size_t) 4 << 20)

static bool
is_modern(const SermEncoderConfig *config)
{
	return config->architecture == SERM_ENCODER_MODERNBERT;
}

uint32_t
serm_encoder_up_width(const SermEncoderConfig *config)
{
	return is_modern(config) ? 2 * config->intermediate : config->intermediate;
}

/* The next `count` places, if there is such a thing. */
static size_t
take(bool there, size_t *next, size_t count)
{
	size_t at = *next;

	if (!there)
		return SERM_ENCODER_NONE;
	*next += count;
	return at;
}

static SermLayerLayout
modern_layer(const SermEncoderConfig *config, size_t plain, size_t weights, bool first)
{
	size_t h = config->hidden, i = config->intermediate;
	SermLayerLayout at;

	/* The first layer leaves its place for a norm empty, so that all have one size. */
	at.gamma1 = take(true, &plain, h);
	at.beta1 = take(config->norm_bias, &plain, h);
	if (first)
		at.gamma1 = at.beta1 = SERM_ENCODER_NONE;
	at.query_bias = take(config->attention_bias, &plain, h);
	at.pair_bias = take(config->attention_bias, &plain, 2 * h);
	at.out_bias = take(config->attention_bias, &plain, h);
	at.gamma2 = take(true, &plain, h);
	at.beta2 = take(config->norm_bias, &plain, h);
	at.up_bias = take(config->mlp_bias, &plain, 2 * i);
	at.down_bias = take(config->mlp_bias, &plain, h);
	at.query = weights;
	at.pair = at.query + h * h;
	at.out = at.pair + 2 * h * h;
	at.up = at.out + h * h;
	at.down = at.up + 2 * i * h;
	return at;
}

SermLayerLayout
serm_encoder_layer(const SermEncoderConfig *config, const SermEncoderLayout *layout, uint32_t layer)
{
	size_t h = config->hidden, i = config->intermediate;
	size_t plain = layout->layer_plain + layer * layout->layer_plain_size;
	size_t weights = layout->layer_weights + layer * layout->layer_weights_size;
	SermLayerLayout at;

	if (is_modern(config))
		return modern_layer(config, plain, weights, layer == 0);
	at.query_bias = plain;
	at.pair_bias = at.query_bias + h;
	at.out_bias = at.pair_bias + 2 * h;
	at.gamma1 = at.out_bias + h;
	at.beta1 = at.gamma1 + h;
	at.up_bias = at.beta1 + h;
	at.down_bias = at.up_bias + i;
	at.gamma2 = at.down_bias + h;
	at.beta2 = at.gamma2 + h;
	at.query = weights;
	at.pair = at.query + h * h;
	at.out = at.pair + 2 * h * h;
	at.up = at.out + h * h;
	at.down = at.up + h * i;
	return at;
}

static size_t
round_to_line(size_t count)
{
	return (count + LINE_REALS - 1) / LINE_REALS * LINE_REALS;
}

static SermEncoderLayout
modern_layout(const SermEncoderConfig *config)
{
	size_t h = config->hidden, i = config->intermediate, bias = config->norm_bias, next = config->vocab * h;
	SermEncoderLayout at = {.positions = next, .types = next};

	at.gamma = take(true, &next, h);
	at.beta = take(config->norm_bias, &next, h);
	at.layer_plain = next;
	at.layer_plain_size =
	    2 * (1 + bias) * h + (config->attention_bias ? 4 * h : 0) + (config->mlp_bias ? 2 * i + h : 0);
	next += config->layers * at.layer_plain_size;
	at.head = next;
	at.final_gamma = take(true, &next, h);
	at.final_beta = take(config->norm_bias, &next, h);
	at.pool_bias = take(config->classifier_bias, &next, h);
	at.head_gamma = take(true, &next, h);
	at.head_beta = take(config->norm_bias, &next, h);
	at.class_bias = take(true, &next, config->labels);
	at.plain_count = round_to_line(next);
	at.layer_weights = at.plain_count;
	at.layer_weights_size = 4 * h * h + 3 * h * i;
	at.pool = at.layer_weights + config->layers * at.layer_weights_size;
	at.class = at.pool + h * h;
	at.count = at.class + config->labels * h;
	return at;
}

SermEncoderLayout
serm_encoder_layout(const SermEncoderConfig *config)
{
	size_t h = config->hidden, i = config->intermediate;
	SermEncoderLayout at;

	if (is_modern(config))
		return modern_layout(config);
	at.final_gamma = at.final_beta = at.head_gamma = at.head_beta = SERM_ENCODER_NONE;
	at.words = 0;
	at.positions = at.words + config->vocab * h;
	at.types = at.positions + config->positions * h;
	at.gamma = at.types + config->types * h;
	at.beta = at.gamma + h;
	at.layer_plain = at.beta + h;
	at.layer_plain_size = 9 * h + i;
	at.head = at.pool_bias = at.layer_plain + config->layers * at.layer_plain_size;
	at.class_bias = at.pool_bias + h;
	at.plain_count = round_to_line(at.class_bias + config->labels);
	at.layer_weights = at.plain_count;
	at.layer_weights_size = 4 * h * h + 2 * h * i;
	at.pool = at.layer_weights + config->layers * at.layer_weights_size;
	at.class = at.pool + h * h;
	at.count = at.class + config->labels * h;
	return at;
}

#define EMBEDDING_ENTRIES 5
#define LAYER_ENTRIES 16
#define HEAD_ENTRIES 4

uint32_t
serm_encoder_entry_count(const SermEncoderConfig *config)
{
	if (is_modern(config))
		return serm_encoder_tensor_count(config);
	return EMBEDDING_ENTRIES + config->layers * LAYER_ENTRIES + HEAD_ENTRIES;
}

static void
set_entry(SermEncoderEntry *entry, const char *name, size_t offset, size_t rows, size_t columns)
{
	(void) snprintf(entry->name, sizeof(entry->name), "%s", name);
	entry->rank = columns == 0 ? 1 : 2;
	entry->shape[0] = rows;
	entry->shape[1] = columns;
	entry->offset = offset;
	entry->count = rows * (columns == 0 ? 1 : columns);
}

static void
embedding_entry(
    const SermEncoderConfig *config, const SermEncoderLayout *at, uint32_t index, SermEncoderEntry *entry)
{
	size_t h = config->hidden;
	const struct {
		const char *name;
		size_t offset, rows, columns;
	} entries[EMBEDDING_ENTRIES] = {
	    {"embeddings.word_embeddings.weight", at->words, config->vocab, h},
	    {"embeddings.position_embeddings.weight", at->positions, config->positions, h},
	    {"embeddings.token_type_embeddings.weight", at->types, config->types, h},
	    {"embeddings.LayerNorm.weight", at->gamma, h, 0},
	    {"embeddings.LayerNorm.bias", at->beta, h, 0},
	};

	set_entry(entry, entries[index].name, entries[index].offset, entries[index].rows, entries[index].columns);
}

static void
layer_entry(const SermEncoderConfig *config, const SermEncoderLayout *layout, uint32_t layer, uint32_t index,
    SermEncoderEntry *entry)
{
	SermLayerLayout at = serm_encoder_layer(config, layout, layer);
	size_t h = config->hidden, i = config->intermediate;
	char name[SERM_TENSOR_NAME_MAX];
	const struct {
		const char *name;
		size_t offset, rows, columns;
	} entries[LAYER_ENTRIES] = {
	    {"attention.self.query.weight", at.query, h, h},
	    {"attention.self.query.bias", at.query_bias, h, 0},
	    {"attention.self.key.weight", at.pair, h, h},
	    {"attention.self.key.bias", at.pair_bias, h, 0},
	    {"attention.self.value.weight", at.pair + h * h, h, h},
	    {"attention.self.value.bias", at.pair_bias + h, h, 0},
	    {"attention.output.dense.weight", at.out, h, h},
	    {"attention.output.dense.bias", at.out_bias, h, 0},
	    {"attention.output.LayerNorm.weight", at.gamma1, h, 0},
	    {"attention.output.LayerNorm.bias", at.beta1, h, 0},
	    {"intermediate.dense.weight", at.up, i, h},
	    {"intermediate.dense.bias", at.up_bias, i, 0},
	    {"output.dense.weight", at.down, h, i},
	    {"output.dense.bias", at.down_bias, h, 0},
	    {"output.LayerNorm.weight", at.gamma2, h, 0},
	    {"output.LayerNorm.bias", at.beta2, h, 0},
	};

	(void) snprintf(name, sizeof(name), "encoder.layer.%u.%s", layer, entries[index].name);
	set_entry(entry, name, entries[index].offset, entries[index].rows, entries[index].columns);
}

typedef struct Place {
	const char *name;
	size_t offset;
} Place;

static size_t
place_of(const Place *places, unsigned count, const char *name)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(name, places[i].name) == 0)
			return places[i].offset;
	return SERM_ENCODER_NONE;
}

/* `name` is what follows "layers.N". */
static size_t
modern_layer_place(
    const SermEncoderConfig *config, const SermEncoderLayout *layout, uint32_t layer, const char *name)
{
	SermLayerLayout at = serm_encoder_layer(config, layout, layer);
	const Place places[] = {{".attn_norm.weight", at.gamma1}, {".attn_norm.bias", at.beta1},
	    {".attn.Wqkv.weight", at.query}, {".attn.Wqkv.bias", at.query_bias}, {".attn.Wo.weight", at.out},
	    {".attn.Wo.bias", at.out_bias}, {".mlp_norm.weight", at.gamma2}, {".mlp_norm.bias", at.beta2},
	    {".mlp.Wi.weight", at.up}, {".mlp.Wi.bias", at.up_bias}, {".mlp.Wo.weight", at.down},
	    {".mlp.Wo.bias", at.down_bias}};

	return place_of(places, SERM_LENGTH(places), name);
}

/* Where a tensor of ModernBERT lies. Query, key and value are one behind the other, as they are stored. */
static size_t
modern_place(const SermEncoderConfig *config, const SermEncoderLayout *layout, const char *name)
{
	const Place places[] = {{"embeddings.tok_embeddings.weight", layout->words},
	    {"embeddings.norm.weight", layout->gamma}, {"embeddings.norm.bias", layout->beta},
	    {"final_norm.weight", layout->final_gamma}, {"final_norm.bias", layout->final_beta},
	    {"head.dense.weight", layout->pool}, {"head.dense.bias", layout->pool_bias},
	    {"head.norm.weight", layout->head_gamma}, {"head.norm.bias", layout->head_beta},
	    {"classifier.weight", layout->class}, {"classifier.bias", layout->class_bias}};
	uint32_t layer = 0;

	if (strncmp(name, "layers.", 7) != 0)
		return place_of(places, SERM_LENGTH(places), name);
	for (name += 7; *name >= '0' && *name <= '9'; name++)
		layer = 10 * layer + (uint32_t) (*name - '0');
	return modern_layer_place(config, layout, layer, name);
}

static void
modern_entry(
    const SermEncoderConfig *config, const SermEncoderLayout *layout, uint32_t index, SermEncoderEntry *entry)
{
	SermEncoderTensor tensor;

	serm_encoder_tensor(config, index, &tensor);
	set_entry(entry, tensor.name, modern_place(config, layout, tensor.name), tensor.shape[0],
	    tensor.rank == 2 ? tensor.shape[1] : 0);
	SERM_ASSERT(entry->offset != SERM_ENCODER_NONE);
}

void
serm_encoder_entry(
    const SermEncoderConfig *config, const SermEncoderLayout *layout, uint32_t index, SermEncoderEntry *entry)
{
	size_t h = config->hidden, labels = config->labels;
	bool bert = config->architecture == SERM_ENCODER_BERT;

	if (is_modern(config)) {
		modern_entry(config, layout, index, entry);
		return;
	}
	if (index < EMBEDDING_ENTRIES) {
		embedding_entry(config, layout, index, entry);
		return;
	}
	index -= EMBEDDING_ENTRIES;
	if (index < config->layers * LAYER_ENTRIES)
		layer_entry(config, layout, index / LAYER_ENTRIES, index % LAYER_ENTRIES, entry);
	else if (index == config->layers * LAYER_ENTRIES)
		set_entry(entry, bert ? "pooler.dense.weight" : "classifier.dense.weight", layout->pool, h, h);
	else if (index == config->layers * LAYER_ENTRIES + 1)
		set_entry(entry, bert ? "pooler.dense.bias" : "classifier.dense.bias", layout->pool_bias, h, 0);
	else if (index == config->layers * LAYER_ENTRIES + 2)
		set_entry(entry, bert ? "classifier.weight" : "classifier.out_proj.weight", layout->class, labels, h);
	else
		set_entry(
		    entry, bert ? "classifier.bias" : "classifier.out_proj.bias", layout->class_bias, labels, 0);
}

SermStatus
serm_encoder_supported(const SermEncoderConfig *config, SermError *error)
{
	if ((unsigned) config->architecture >= SERM_ENCODER_ARCHITECTURE_COUNT)
		return serm_fail(error, SERM_ERR_INVALID,
		    "encoders of this architecture are not computed: BERT, RoBERTa, XLM-R and ModernBERT are");
	if (config->hidden == 0 || config->heads == 0 || config->hidden % config->heads != 0 ||
	    config->layers == 0 || config->intermediate == 0 || config->labels == 0 || config->vocab == 0 ||
	    config->positions == 0 || (config->types == 0) != is_modern(config) ||
	    (is_modern(config) && (config->global_every == 0 || config->hidden / config->heads % 2 != 0)))
		return serm_fail(error, SERM_ERR_INVALID, "the sizes of the encoder do not fit together");
	return SERM_OK;
}

static float
half_to_float(uint16_t half)
{
	int exponent = half >> 10 & 31, fraction = half & 1023;
	float value;

	if (exponent == 31)
		value = fraction == 0 ? INFINITY : NAN;
	else if (exponent == 0)
		value = ldexpf((float) fraction, -24);
	else
		value = ldexpf((float) (fraction + 1024), exponent - 25);
	return half & 0x8000 ? -value : value;
}

static float
brain_to_float(uint16_t brain)
{
	uint32_t bits = (uint32_t) brain << 16;
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

bool
serm_encoder_reals(SermDtype dtype, const void *numbers, size_t count, SermReal *out)
{
	switch (dtype) {
		case SERM_DTYPE_F32:
			for (size_t i = 0; i < count; i++)
				out[i] = (SermReal) ((const float *) numbers)[i];
			return true;
		case SERM_DTYPE_F16:
			for (size_t i = 0; i < count; i++)
				out[i] = (SermReal) half_to_float(((const uint16_t *) numbers)[i]);
			return true;
		case SERM_DTYPE_BF16:
			for (size_t i = 0; i < count; i++)
				out[i] = (SermReal) brain_to_float(((const uint16_t *) numbers)[i]);
			return true;
		default:
			return false;
	}
}

static SermStatus
canceled(SermError *error)
{
	return serm_fail(error, SERM_ERR_CANCELED, "copying the encoder's weights was canceled");
}

static SermStatus
no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "the encoder does not fit into its memory limit");
}

static SermStatus
read_entry(const SermEncoderEntry *entry, const SermTensorSet *tensors, const SermWatch *watch, SermReal *out,
    SermError *error)
{
	const SermTensor *tensor = serm_tensor_find(tensors, entry->name);

	if (tensor == NULL)
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" is missing", entry->name);
	if (tensor->rank != entry->rank || tensor->shape[0] != entry->shape[0] ||
	    (entry->rank == 2 && tensor->shape[1] != entry->shape[1]) ||
	    tensor->bytes != entry->count * serm_dtype_size(tensor->dtype))
		return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" has another shape", entry->name);
	for (size_t at = 0; at < entry->count; at += QUIET_REALS) {
		if (!serm_watch_ask(watch))
			return canceled(error);
		if (!serm_encoder_reals(tensor->dtype,
		        (const char *) tensor->data + at * serm_dtype_size(tensor->dtype),
		        entry->count - at < QUIET_REALS ? entry->count - at : QUIET_REALS, out + at))
			return serm_fail(error, SERM_ERR_CORRUPT, "tensor \"%s\" is of type %s, not f32, f16 or bf16",
			    entry->name, serm_dtype_name(tensor->dtype));
	}
	return SERM_OK;
}

SermStatus
serm_encoder_flatten(const SermEncoderConfig *config, const SermTensorSet *tensors, const SermWatch *watch,
    SermArena *arena, SermReal **flat, SermError *error)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	uint32_t count = serm_encoder_entry_count(config);
	SermStatus status = serm_encoder_supported(config, error);

	if (status != SERM_OK)
		return status;
	*flat = serm_arena_reserve(arena, layout.count * sizeof(SermReal));
	if (*flat == NULL)
		return no_memory(error);
	/* Between the parts are places that nothing is read to. */
	if (!serm_watch_clear(watch, *flat, layout.count * sizeof(SermReal)))
		return canceled(error);
	for (uint32_t index = 0; status == SERM_OK && index < count; index++) {
		SermEncoderEntry entry;

		serm_encoder_entry(config, &layout, index, &entry);
		status = read_entry(&entry, tensors, watch, *flat + entry.offset, error);
	}
	return status;
}

SermStatus
serm_encoder_unflatten(const SermEncoderConfig *config, const SermReal *flat, const SermWatch *watch,
    SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	uint32_t count = serm_encoder_entry_count(config);
	SermTensor *list = serm_arena_array(arena, count, sizeof(*list));

	if (list == NULL)
		return no_memory(error);
	for (uint32_t index = 0; index < count; index++) {
		SermEncoderEntry entry;
		float *data;

		serm_encoder_entry(config, &layout, index, &entry);
		data = serm_arena_reserve(arena, entry.count * sizeof(*data));
		if (data == NULL)
			return no_memory(error);
		for (size_t i = 0; i < entry.count; i++) {
			if (i % QUIET_REALS == 0 && !serm_watch_ask(watch))
				return canceled(error);
			data[i] = (float) flat[entry.offset + i];
		}
		list[index] = (SermTensor){.dtype = SERM_DTYPE_F32,
		    .rank = entry.rank,
		    .shape = {entry.shape[0], entry.shape[1]},
		    .data = data,
		    .bytes = entry.count * sizeof(float)};
		memcpy(list[index].name, entry.name, sizeof(entry.name));
	}
	*tensors = (SermTensorSet){list, count};
	return SERM_OK;
}
