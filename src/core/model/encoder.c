#include "core/model/encoder.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/model/encoder_modern.h"

#define BLOCK_ROWS SERM_ENCODER_BLOCK
#define TILE_ROWS ((size_t) 14)
/* Multiplications between two questions to the host: milliseconds even for plain C. */
#define QUIET_PRODUCTS 1e8

#ifdef SERM_REAL_DOUBLE
#define REAL_TANH tanh
#else
#define REAL_TANH tanhf
#endif

uint32_t
serm_encoder_linear_count(const SermEncoderConfig *config)
{
	return config->layers * SERM_LINEARS + 2;
}

SermLinear
serm_encoder_linear_at(const SermEncoderConfig *config, const SermEncoderLayout *layout,
    SermPrecision precision, const SermGemmProvider *gemm, uint32_t index, size_t *bias, size_t *weights)
{
	uint32_t h = config->hidden;
	SermLinear linear = {h, h, precision, gemm == NULL ? &serm_gemm_packed : gemm, NULL, NULL};

	if (index < config->layers * SERM_LINEARS) {
		SermLayerLayout at = serm_encoder_layer(config, layout, index / SERM_LINEARS);
		const size_t biases[] = {at.query_bias, at.pair_bias, at.out_bias, at.up_bias, at.down_bias};
		const size_t starts[] = {at.query, at.pair, at.out, at.up, at.down};
		const uint32_t outs[] = {h, 2 * h, h, serm_encoder_up_width(config), h};

		*bias = biases[index % SERM_LINEARS];
		*weights = starts[index % SERM_LINEARS];
		linear.out = outs[index % SERM_LINEARS];
		if (index % SERM_LINEARS == SERM_LINEAR_DOWN)
			linear.in = config->intermediate;
		return linear;
	}
	linear.precision = SERM_PRECISION_F32;
	index -= config->layers * SERM_LINEARS;
	*bias = index == 0 ? layout->pool_bias : layout->class_bias;
	*weights = index == 0 ? layout->pool : layout->class;
	if (index == 1)
		linear.out = config->labels;
	return linear;
}

size_t
serm_encoder_packed_bytes(
    const SermEncoderConfig *config, SermPrecision precision, const SermGemmProvider *gemm)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	size_t bytes = 0, bias, weights;

	for (uint32_t i = 0; i < serm_encoder_linear_count(config); i++) {
		SermLinear linear = serm_encoder_linear_at(config, &layout, precision, gemm, i, &bias, &weights);

		bytes += serm_linear_bytes(&linear);
	}
	return bytes;
}

bool
serm_encoder_go_on(const SermEncoderHost *host)
{
	return serm_watch_ask(host);
}

bool
serm_encoder_pack(const SermEncoderConfig *config, SermPrecision precision, const SermGemmProvider *gemm,
    const SermReal *flat, void *packed, const SermEncoderHost *host)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	size_t bias, weights;
	char *at = packed;

	for (uint32_t i = 0; i < serm_encoder_linear_count(config); i++) {
		SermLinear linear = serm_encoder_linear_at(config, &layout, precision, gemm, i, &bias, &weights);

		if (!serm_encoder_go_on(host))
			return false;
		serm_linear_pack(&linear, flat + weights, at);
		at += serm_linear_bytes(&linear);
	}
	return true;
}

SermStatus
serm_encoder_open(const SermEncoderConfig *config, SermPrecision precision, const SermGemmProvider *gemm,
    const SermReal *plain, const void *packed, SermArena *arena, SermEncoder **encoder, SermError *error)
{
	SermStatus status = serm_encoder_supported(config, error);
	const char *at = packed;
	SermEncoder *opened;

	if (status != SERM_OK)
		return status;
	opened = serm_arena_alloc(arena, sizeof(*opened));
	if (opened == NULL || (opened->linears = serm_arena_array(
	                           arena, serm_encoder_linear_count(config), sizeof(SermLinear))) == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "the encoder does not fit into its memory limit");
	opened->config = *config;
	opened->layout = serm_encoder_layout(config);
	opened->plain = plain;
	for (uint32_t i = 0; i < serm_encoder_linear_count(config); i++) {
		size_t bias, weights;
		SermLinear linear =
		    serm_encoder_linear_at(config, &opened->layout, precision, gemm, i, &bias, &weights);

		linear.bias = bias == SERM_ENCODER_NONE ? NULL : plain + bias;
		linear.packed = at;
		at += serm_linear_bytes(&linear);
		opened->linears[i] = linear;
	}
	*encoder = opened;
	return SERM_OK;
}

uint32_t
serm_encoder_first_position(const SermEncoderConfig *config)
{
	return config->architecture == SERM_ENCODER_ROBERTA ? config->pad_id + 1 : 0;
}

SermStatus
serm_encoder_check(
    const SermEncoder *encoder, const SermEncoderInput *inputs, uint32_t count, SermError *error)
{
	const SermEncoderConfig *config = &encoder->config;
	uint32_t first = serm_encoder_first_position(config), types = config->types > 0 ? config->types : 1;

	for (uint32_t i = 0; i < count; i++) {
		const SermEncoderInput *input = &inputs[i];

		if (input->length == 0 || input->length > config->positions - first)
			return serm_fail(error, SERM_ERR_INVALID, "an input of %u tokens is not between 1 and %u",
			    input->length, config->positions - first);
		for (uint32_t t = 0; t < input->length; t++)
			if (input->ids[t] >= config->vocab || (input->types != NULL && input->types[t] >= types))
				return serm_fail(error, SERM_ERR_INVALID, "token %u is not in the vocabulary of the encoder",
				    input->ids[t]);
	}
	return SERM_OK;
}

uint32_t
serm_encoder_rows(const SermEncoderRun *run, uint32_t layer)
{
	const SermEncoderConfig *config = &run->encoder->config;

	if (run->all_rows || layer + 1 < config->layers || config->pooling == SERM_POOLING_MEAN)
		return run->tokens;
	return run->count;
}

SermNorm
serm_encoder_norm(const SermEncoder *encoder, size_t gamma, size_t beta)
{
	return (SermNorm){encoder->config.hidden, (SermReal) encoder->config.eps, encoder->plain + gamma,
	    beta == SERM_ENCODER_NONE ? NULL : encoder->plain + beta};
}

uint64_t
serm_encoder_site(const SermEncoderRun *run, uint32_t layer, uint32_t site, uint64_t key, uint64_t position)
{
	uint64_t place = serm_hash_mix(run->seed + ((uint64_t) layer << 8 | site));

	return serm_hash_mix(serm_hash_mix(place ^ key) + position);
}

void
serm_encoder_drop_rows(const SermEncoderRun *run, uint32_t layer, uint32_t site, double rate, bool first_only,
    size_t width, SermReal *values)
{
	if (rate <= 0)
		return;
	for (uint32_t s = 0; s < run->count; s++) {
		uint32_t length = first_only ? 1 : run->inputs[s]->length;

		for (uint32_t t = 0; t < length; t++, values += width)
			serm_drop(serm_encoder_site(run, layer, site, run->inputs[s]->key, t), rate, values, width);
	}
}

void
serm_encoder_drop(const SermEncoderRun *run, uint32_t layer, uint32_t site, bool first_only, SermReal *values)
{
	size_t hidden = run->encoder->config.hidden;
	double rate = site == SERM_SITE_POOLED ? run->drop_class : run->drop_hidden;

	serm_encoder_drop_rows(run, layer, site, rate, first_only, hidden, values);
}

bool
serm_encoder_linear(
    const SermEncoderRun *run, const SermLinear *linear, size_t rows, const SermReal *x, SermReal *y)
{
	size_t stretch = (size_t) (QUIET_PRODUCTS / ((double) linear->in * linear->out)) / TILE_ROWS * TILE_ROWS;

	stretch = stretch < TILE_ROWS ? TILE_ROWS : stretch;
	for (size_t i = 0; i < rows; i += stretch) {
		size_t part = rows - i < stretch ? rows - i : stretch;

		if (!serm_encoder_go_on(run->host))
			return false;
		serm_linear_run(linear, part, x + i * linear->in, y + i * linear->out, run->scratch);
	}
	return true;
}

static bool
allocate_layers(SermEncoderRun *run, SermArena *arena)
{
	const SermEncoderConfig *config = &run->encoder->config;
	size_t size = sizeof(SermReal), hidden = config->hidden, tokens = run->tokens;
	SermReal *output = serm_arena_reserve(arena, tokens * hidden * size);

	run->layers = serm_arena_array(arena, config->layers, sizeof(*run->layers));
	if (run->layers == NULL || output == NULL ||
	    !serm_attention_scratch(run->longest, config->hidden / config->heads, arena, &run->attention))
		return false;
	for (uint32_t layer = 0; layer < config->layers; layer++) {
		SermLayerState *state = &run->layers[layer];
		size_t rows = serm_encoder_rows(run, layer);
		bool last = layer + 1 == config->layers, fresh = layer == 0 || run->keep;

		if (!fresh)
			*state = run->layers[0];
		state->input = output;
		if (fresh) {
			state->query = serm_arena_reserve(arena, tokens * hidden * size);
			state->pair = serm_arena_reserve(arena, tokens * 2 * hidden * size);
			state->context = serm_arena_reserve(arena, tokens * hidden * size);
			state->middle = serm_arena_reserve(arena, tokens * hidden * size);
			state->up =
			    serm_arena_reserve(arena, (run->keep ? rows : BLOCK_ROWS) * config->intermediate * size);
			if (state->query == NULL || state->pair == NULL || state->context == NULL ||
			    state->middle == NULL || state->up == NULL)
				return false;
		}
		if (run->keep) {
			state->hat1 = serm_arena_reserve(arena, rows * hidden * size);
			state->hat2 = serm_arena_reserve(arena, rows * hidden * size);
			state->factor1 = serm_arena_reserve(arena, rows * size);
			state->factor2 = serm_arena_reserve(arena, rows * size);
			output = serm_arena_reserve(arena, rows * hidden * size);
			if (state->hat1 == NULL || state->hat2 == NULL || state->factor1 == NULL ||
			    state->factor2 == NULL || output == NULL)
				return false;
		}
		state->query_input = rows < tokens && last ? run->first : state->input;
		state->output = output;
	}
	return true;
}

SermStatus
serm_encoder_prepare(SermEncoderRun *run, SermArena *arena, SermError *error)
{
	const SermEncoder *encoder = run->encoder;
	const SermEncoderConfig *config = &encoder->config;
	size_t size = sizeof(SermReal), hidden = config->hidden, scratch = 0;
	bool good;

	run->start = serm_arena_array(arena, (size_t) run->count + 1, sizeof(uint32_t));
	good = run->start != NULL;
	run->tokens = run->longest = 0;
	for (uint32_t s = 0; good && s < run->count; s++) {
		uint32_t length = run->inputs[s]->length;

		run->start[s] = run->tokens;
		run->tokens += length;
		run->longest = length > run->longest ? length : run->longest;
		run->start[s + 1] = run->tokens;
	}
	for (uint32_t i = 0; i < serm_encoder_linear_count(config); i++) {
		size_t needed = serm_linear_scratch(&encoder->linears[i], run->tokens);

		scratch = needed > scratch ? needed : scratch;
	}
	run->first = serm_arena_reserve(arena, run->count * hidden * size);
	run->top = serm_arena_reserve(arena, run->count * hidden * size);
	run->pooled = serm_arena_reserve(arena, run->count * hidden * size);
	run->dropped = serm_arena_reserve(arena, run->count * hidden * size);
	run->logits = serm_arena_array(arena, (size_t) run->count * config->labels, size);
	run->curve = serm_arena_reserve(arena, BLOCK_ROWS * config->intermediate * size);
	run->scratch = serm_arena_reserve(arena, scratch + 1);
	if (run->keep) {
		run->hat0 = serm_arena_reserve(arena, run->tokens * hidden * size);
		run->factor0 = serm_arena_reserve(arena, run->tokens * size);
		good = good && run->hat0 != NULL && run->factor0 != NULL;
	}
	good = good && run->first != NULL && run->top != NULL && run->pooled != NULL && run->dropped != NULL &&
	       run->logits != NULL && run->curve != NULL && run->scratch != NULL &&
	       (config->architecture == SERM_ENCODER_MODERNBERT ? serm_encoder_modern_allocate(run, arena)
	                                                        : allocate_layers(run, arena));
	if (!good)
		return serm_fail(
		    error, SERM_ERR_MEMORY, "%u tokens do not fit into the memory limit of the encoder", run->tokens);
	return SERM_OK;
}

static void
embed(SermEncoderRun *run)
{
	const SermEncoder *encoder = run->encoder;
	const SermEncoderLayout *layout = &encoder->layout;
	const SermReal *plain = encoder->plain;
	size_t hidden = encoder->config.hidden, row = 0;
	SermNorm norm = serm_encoder_norm(encoder, layout->gamma, layout->beta);
	SermReal *x = run->layers[0].input;

	for (uint32_t s = 0; s < run->count; s++) {
		const SermEncoderInput *input = run->inputs[s];

		for (uint32_t t = 0; t < input->length; t++, row++) {
			uint32_t position = serm_encoder_first_position(&encoder->config) + t;
			SermReal *y = x + row * hidden, factor;

			memcpy(y, plain + layout->words + input->ids[t] * hidden, hidden * sizeof(SermReal));
			serm_add(
			    plain + layout->types + (input->types == NULL ? 0 : input->types[t]) * hidden, y, hidden);
			factor = serm_layer_norm(&norm, y, plain + layout->positions + position * hidden, y,
			    run->keep ? run->hat0 + row * hidden : NULL);
			if (run->keep)
				run->factor0[row] = factor;
		}
	}
	serm_encoder_drop(run, 0, SERM_SITE_EMBEDDING, false, x);
}

static bool
attend(SermEncoderRun *run, uint32_t layer)
{
	const SermEncoderConfig *config = &run->encoder->config;
	SermLayerState *state = &run->layers[layer];
	uint32_t hidden = config->hidden, size = hidden / config->heads;
	bool first_only = serm_encoder_rows(run, layer) < run->tokens;

	for (uint32_t s = 0; s < run->count; s++) {
		size_t token = run->start[s], row = first_only ? s : token;
		SermAttention attention = {first_only ? 1 : run->inputs[s]->length, run->inputs[s]->length, size,
		    hidden, NULL, NULL, NULL, run->drop_attention, 0};

		for (uint32_t head = 0; head < config->heads; head++) {
			attention.query = state->query + row * hidden + head * size;
			attention.key = state->pair + token * 2 * hidden + head * size;
			attention.value = attention.key + hidden;
			attention.seed = serm_encoder_site(run, layer, SERM_SITE_ATTENTION, run->inputs[s]->key, head);
			if (!serm_attention(
			        &attention, &run->attention, run->host, state->context + row * hidden + head * size))
				return false;
		}
	}
	return true;
}

/* x = norm(x + residual), row by row. */
static void
norm_rows(const SermEncoderRun *run, const SermNorm *norm, size_t rows, SermReal *x, const SermReal *residual,
    SermReal *hat, SermReal *factor)
{
	for (size_t i = 0; i < rows; i++) {
		SermReal f = serm_layer_norm(norm, x + i * norm->n, residual + i * norm->n, x + i * norm->n,
		    run->keep ? hat + i * norm->n : NULL);

		if (run->keep)
			factor[i] = f;
	}
}

size_t
serm_encoder_block(size_t rows)
{
	size_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;

	return blocks <= 1 ? BLOCK_ROWS : ((rows + blocks - 1) / blocks + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
}

static bool
feed_forward(SermEncoderRun *run, uint32_t layer, size_t rows)
{
	const SermEncoderConfig *config = &run->encoder->config;
	const SermLinear *linears = run->encoder->linears + layer * SERM_LINEARS;
	SermLayerState *state = &run->layers[layer];
	size_t hidden = config->hidden, wide = config->intermediate, block = serm_encoder_block(rows);

	for (size_t i = 0; i < rows; i += block) {
		size_t part = rows - i < block ? rows - i : block;
		SermReal *up = run->keep ? state->up + i * wide : state->up;
		SermReal *curve = run->keep ? run->curve : up;

		if (!serm_encoder_linear(run, &linears[SERM_LINEAR_UP], part, state->middle + i * hidden, up))
			return false;
		serm_curve((SermCurve) config->activation, up, curve, part * wide);
		if (!serm_encoder_linear(run, &linears[SERM_LINEAR_DOWN], part, curve, state->output + i * hidden))
			return false;
	}
	return true;
}

static bool
layer_forward(SermEncoderRun *run, uint32_t layer)
{
	const SermEncoder *encoder = run->encoder;
	const SermLinear *linears = encoder->linears + layer * SERM_LINEARS;
	SermLayerLayout at = serm_encoder_layer(&encoder->config, &encoder->layout, layer);
	SermNorm norm1 = serm_encoder_norm(encoder, at.gamma1, at.beta1);
	SermNorm norm2 = serm_encoder_norm(encoder, at.gamma2, at.beta2);
	SermLayerState *state = &run->layers[layer];
	size_t rows = serm_encoder_rows(run, layer), hidden = encoder->config.hidden;
	bool first_only = rows < run->tokens;

	if (first_only)
		for (uint32_t s = 0; s < run->count; s++)
			memcpy(run->first + s * hidden, state->input + run->start[s] * hidden, hidden * sizeof(SermReal));
	if (!serm_encoder_linear(run, &linears[SERM_LINEAR_QUERY], rows, state->query_input, state->query) ||
	    !serm_encoder_linear(run, &linears[SERM_LINEAR_PAIR], run->tokens, state->input, state->pair) ||
	    !attend(run, layer) ||
	    !serm_encoder_linear(run, &linears[SERM_LINEAR_OUT], rows, state->context, state->middle))
		return false;
	serm_encoder_drop(run, layer, SERM_SITE_OUT, first_only, state->middle);
	norm_rows(run, &norm1, rows, state->middle, state->query_input, state->hat1, state->factor1);
	if (!feed_forward(run, layer, rows))
		return false;
	serm_encoder_drop(run, layer, SERM_SITE_DOWN, first_only, state->output);
	norm_rows(run, &norm2, rows, state->output, state->middle, state->hat2, state->factor2);
	return true;
}

static bool
classic_forward(SermEncoderRun *run)
{
	const SermEncoder *encoder = run->encoder;
	uint32_t layers = encoder->config.layers;
	const SermLinear *head = encoder->linears + layers * SERM_LINEARS;
	size_t hidden = encoder->config.hidden;
	bool first_only = !run->all_rows && run->count < run->tokens, good = true;
	SermReal *last = run->layers[layers - 1].output;

	embed(run);
	for (uint32_t layer = 0; good && layer < layers; layer++)
		good = layer_forward(run, layer);
	for (uint32_t s = 0; good && s < run->count; s++)
		memcpy(run->top + s * hidden, last + (first_only ? s : run->start[s]) * hidden,
		    hidden * sizeof(SermReal));
	good = good && serm_encoder_linear(run, &head[0], run->count, run->top, run->pooled);
	if (good) {
		for (size_t i = 0; i < run->count * hidden; i++)
			run->pooled[i] = REAL_TANH(run->pooled[i]);
		memcpy(run->dropped, run->pooled, run->count * hidden * sizeof(SermReal));
		serm_encoder_drop(run, layers, SERM_SITE_POOLED, true, run->dropped);
		good = serm_encoder_linear(run, &head[1], run->count, run->dropped, run->logits);
	}
	return good;
}

SermStatus
serm_encoder_forward(SermEncoderRun *run, SermError *error)
{
	bool modern = run->encoder->config.architecture == SERM_ENCODER_MODERNBERT;

	if (!(modern ? serm_encoder_modern_forward(run) : classic_forward(run)))
		return serm_fail(error, SERM_ERR_CANCELED, "the encoder was canceled");
	return SERM_OK;
}

/* Inputs by length, longest first, by counting: equal ones stay in order. */
static bool
order_by_length(const SermEncoderInput *inputs, uint32_t count, SermArena *arena, uint32_t *order)
{
	uint32_t longest = 0, *place;

	for (uint32_t i = 0; i < count; i++)
		longest = inputs[i].length > longest ? inputs[i].length : longest;
	place = serm_arena_array(arena, (size_t) longest + 2, sizeof(*place));
	if (place == NULL)
		return false;
	for (uint32_t i = 0; i < count; i++)
		place[longest - inputs[i].length + 1]++;
	for (uint32_t l = 1; l <= longest; l++)
		place[l] += place[l - 1];
	for (uint32_t i = 0; i < count; i++)
		order[place[longest - inputs[i].length]++] = i;
	return true;
}

static SermStatus
score_group(const SermEncoder *encoder, const SermEncoderInput *inputs, const uint32_t *order, uint32_t count,
    const SermEncoderHost *host, SermArena *scratch, SermReal *logits, SermError *error)
{
	const SermEncoderInput **list = serm_arena_array(scratch, count, sizeof(*list));
	SermEncoderRun run = {.encoder = encoder, .host = host, .inputs = list, .count = count};
	uint32_t labels = encoder->config.labels;
	SermStatus status;

	if (list == NULL)
		return serm_fail(
		    error, SERM_ERR_MEMORY, "the inputs do not fit into the memory limit of the encoder");
	for (uint32_t i = 0; i < count; i++)
		list[i] = &inputs[order[i]];
	status = serm_encoder_prepare(&run, scratch, error);
	if (status == SERM_OK)
		status = serm_encoder_forward(&run, error);
	for (uint32_t i = 0; status == SERM_OK && i < count; i++)
		memcpy(
		    logits + (size_t) order[i] * labels, run.logits + (size_t) i * labels, labels * sizeof(SermReal));
	return status;
}

SermStatus
serm_encoder_score(const SermEncoder *encoder, const SermEncoderInput *inputs, uint32_t count,
    const SermEncoderHost *host, SermArena *scratch, SermReal *logits, SermError *error)
{
	SermArenaMark start = serm_arena_mark(scratch);
	uint32_t *order = serm_arena_array(scratch, count, sizeof(*order));
	SermStatus status = serm_encoder_check(encoder, inputs, count, error);

	if (status == SERM_OK && (order == NULL || !order_by_length(inputs, count, scratch, order)))
		status =
		    serm_fail(error, SERM_ERR_MEMORY, "the inputs do not fit into the memory limit of the encoder");
	for (uint32_t first = 0; status == SERM_OK && first < count;) {
		SermArenaMark mark = serm_arena_mark(scratch);
		uint32_t tokens = 0, end = first;

		while (end < count && (end == first || tokens + inputs[order[end]].length <= SERM_ENCODER_GROUP))
			tokens += inputs[order[end++]].length;
		status = score_group(encoder, inputs, order + first, end - first, host, scratch, logits, error);
		serm_arena_rewind(scratch, mark);
		first = end;
	}
	serm_arena_rewind(scratch, start);
	return status;
}
