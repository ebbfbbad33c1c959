#include "core/model/encoder_modern.h"

#include <string.h>

#include "core/model/attention_window.h"

/* Products of one head between two questions to the host: milliseconds even for plain C. */
#define QUIET_PRODUCTS 1e8

uint32_t
serm_encoder_modern_reach(const SermEncoderConfig *config, uint32_t layer)
{
	return layer % config->global_every == 0 ? SERM_REACH_ALL : config->local_window / 2;
}

const SermRotary *
serm_encoder_modern_rotary(const SermEncoderRun *run, uint32_t layer)
{
	return layer % run->encoder->config.global_every == 0 ? &run->global : &run->local;
}

/* --- memory */

static SermReal *
reserve(SermArena *arena, size_t rows, size_t width, bool *good)
{
	SermReal *array = serm_arena_reserve(arena, rows * width * sizeof(SermReal));

	*good = *good && array != NULL;
	return array;
}

static bool
allocate_layer(SermEncoderRun *run, uint32_t layer, SermReal *input, SermReal *output, SermArena *arena)
{
	const SermEncoderConfig *config = &run->encoder->config;
	SermLayerState *state = &run->layers[layer];
	size_t rows = serm_encoder_rows(run, layer), hidden = config->hidden, tokens = run->tokens;
	bool good = true;

	if (layer > 0 && !run->keep)
		*state = run->layers[0];
	else {
		state->query = reserve(arena, tokens, hidden, &good);
		state->pair = reserve(arena, tokens, 2 * hidden, &good);
		state->context = reserve(arena, tokens, hidden, &good);
		state->middle = reserve(arena, tokens, hidden, &good);
		state->normed2 = reserve(arena, tokens, hidden, &good);
		state->up =
		    reserve(arena, run->keep ? rows : SERM_ENCODER_BLOCK, serm_encoder_up_width(config), &good);
	}
	state->input = input;
	state->output = output;
	if (layer == 0)
		state->normed1 = input;
	else if (layer == 1 || run->keep)
		state->normed1 = reserve(arena, tokens, hidden, &good);
	else
		state->normed1 = run->layers[1].normed1;
	if (run->keep && layer > 0) {
		state->hat1 = reserve(arena, tokens, hidden, &good);
		state->factor1 = reserve(arena, tokens, 1, &good);
	}
	if (run->keep) {
		state->hat2 = reserve(arena, rows, hidden, &good);
		state->factor2 = reserve(arena, rows, 1, &good);
	}
	state->query_input = rows < tokens ? run->first : state->normed1;
	return good;
}

bool
serm_encoder_modern_allocate(SermEncoderRun *run, SermArena *arena)
{
	const SermEncoderConfig *config = &run->encoder->config;
	size_t hidden = config->hidden, count = run->count;
	size_t finals = config->pooling == SERM_POOLING_MEAN ? run->tokens : count;
	uint32_t size = config->hidden / config->heads;
	bool good = true;
	SermReal *x = reserve(arena, run->tokens, hidden, &good);

	run->layers = serm_arena_array(arena, config->layers, sizeof(*run->layers));
	if (run->layers == NULL || !good)
		return false;
	for (uint32_t layer = 0; good && layer < config->layers; layer++) {
		SermReal *output = run->keep ? reserve(arena, run->tokens, hidden, &good) : x;

		good = good && allocate_layer(run, layer, x, output, arena);
		x = output;
	}
	run->final = reserve(arena, finals, hidden, &good);
	run->dense = reserve(arena, count, hidden, &good);
	if (run->keep) {
		run->final_hat = reserve(arena, finals, hidden, &good);
		run->final_factor = reserve(arena, finals, 1, &good);
		run->head_hat = reserve(arena, count, hidden, &good);
		run->head_factor = reserve(arena, count, 1, &good);
	}
	return good && serm_attention_window_scratch(run->longest, size, arena, &run->attention) &&
	       serm_rotary_init(&run->global, config->global_theta, size, run->longest, arena) &&
	       serm_rotary_init(&run->local, config->local_theta, size, run->longest, arena);
}

/* --- layers */

/* y = norm(x + residual) row by row, where x keeps the sum; residual NULL: none. */
static void
norm_rows(const SermEncoderRun *run, const SermNorm *norm, size_t rows, SermReal *x, const SermReal *residual,
    SermReal *y, SermReal *hat, SermReal *factor)
{
	size_t n = norm->n;

	for (size_t i = 0; i < rows; i++) {
		SermReal f = serm_layer_norm(norm, x + i * n, residual == NULL ? NULL : residual + i * n, y + i * n,
		    run->keep ? hat + i * n : NULL);

		if (run->keep)
			factor[i] = f;
	}
}

/* The first token of each sequence. */
static void
first_rows(const SermEncoderRun *run, const SermReal *x, SermReal *first)
{
	size_t hidden = run->encoder->config.hidden;

	for (uint32_t s = 0; s < run->count; s++)
		memcpy(first + s * hidden, x + run->start[s] * hidden, hidden * sizeof(SermReal));
}

static void
embed(SermEncoderRun *run)
{
	const SermEncoder *encoder = run->encoder;
	const SermReal *words = encoder->plain + encoder->layout.words;
	SermNorm norm = serm_encoder_norm(encoder, encoder->layout.gamma, encoder->layout.beta);
	size_t hidden = encoder->config.hidden;
	SermReal *x = run->layers[0].input, *at = x;

	for (uint32_t s = 0; s < run->count; s++)
		for (uint32_t t = 0; t < run->inputs[s]->length; t++, at += hidden)
			memcpy(at, words + run->inputs[s]->ids[t] * hidden, hidden * sizeof(SermReal));
	norm_rows(run, &norm, run->tokens, x, NULL, x, run->hat0, run->factor0);
	serm_encoder_drop_rows(run, 0, SERM_SITE_EMBEDDING, run->drop_embedding, false, hidden, x);
}

void
serm_encoder_modern_turn(
    const SermEncoderRun *run, uint32_t layer, bool first_only, bool back, size_t stride, SermReal *x)
{
	const SermRotary *rotary = serm_encoder_modern_rotary(run, layer);

	for (uint32_t s = 0; s < run->count; s++)
		for (uint32_t t = 0; t < (first_only ? 1 : run->inputs[s]->length); t++, x += stride)
			serm_rotary_turn(rotary, t, back, run->encoder->config.heads, x);
}

static bool
attend_head(SermEncoderRun *run, const SermAttention *attention, uint32_t reach, SermReal *context)
{
	double products = 2.0 * attention->length * attention->size;
	uint32_t part = (uint32_t) (QUIET_PRODUCTS / products / SERM_ATTENTION_ROWS + 1) * SERM_ATTENTION_ROWS;

	serm_attention_window_pack(attention, &run->attention);
	for (uint32_t first = 0; first < attention->rows; first += part) {
		uint32_t end = attention->rows - first < part ? attention->rows : first + part;

		if (!serm_encoder_go_on(run->host))
			return false;
		serm_attention_window_rows(attention, reach, &run->attention, first, end, context);
	}
	return true;
}

static bool
attend(SermEncoderRun *run, uint32_t layer, bool first_only)
{
	const SermEncoderConfig *config = &run->encoder->config;
	uint32_t hidden = config->hidden, size = hidden / config->heads;
	uint32_t reach = serm_encoder_modern_reach(config, layer);
	SermLayerState *state = &run->layers[layer];

	for (uint32_t s = 0; s < run->count; s++) {
		size_t token = run->start[s], row = first_only ? s : token;
		uint32_t length = run->inputs[s]->length;

		for (uint32_t head = 0; head < config->heads; head++) {
			size_t at = row * hidden + head * size;
			const SermReal *key = state->pair + token * 2 * hidden + head * size;
			SermAttention attention = {.rows = first_only ? 1 : length,
			    .length = length,
			    .size = size,
			    .hidden = hidden,
			    .query = state->query + at,
			    .key = key,
			    .value = key + hidden,
			    .drop = run->drop_attention,
			    .seed = serm_encoder_site(run, layer, SERM_SITE_ATTENTION, run->inputs[s]->key, head)};

			if (!attend_head(run, &attention, reach, state->context + at))
				return false;
		}
	}
	return true;
}

void
serm_encoder_modern_gate(const SermEncoderConfig *config, size_t rows, const SermReal *up, SermReal *out)
{
	size_t wide = config->intermediate;

	for (size_t i = 0; i < rows; i++, up += 2 * wide, out += wide) {
		serm_curve((SermCurve) config->activation, up, out, wide);
		for (size_t c = 0; c < wide; c++)
			out[c] *= up[wide + c];
	}
}

/* Dropout of rows [first, first + rows) of the layer, as serm_encoder_drop_rows() would of all. */
static void
drop_gated(const SermEncoderRun *run, uint32_t layer, bool first_only, size_t first, size_t rows, SermReal *x)
{
	size_t wide = run->encoder->config.intermediate;
	uint32_t s = 0;

	if (run->drop_hidden <= 0)
		return;
	for (size_t row = first; row < first + rows; row++, x += wide) {
		while (!first_only && run->start[s + 1] <= row)
			s++;
		if (first_only)
			s = (uint32_t) row;
		serm_drop(serm_encoder_site(
		              run, layer, SERM_SITE_GATE, run->inputs[s]->key, first_only ? 0 : row - run->start[s]),
		    run->drop_hidden, x, wide);
	}
}

static bool
feed_forward(SermEncoderRun *run, uint32_t layer, size_t rows)
{
	const SermEncoderConfig *config = &run->encoder->config;
	const SermLinear *linears = run->encoder->linears + layer * SERM_LINEARS;
	SermLayerState *state = &run->layers[layer];
	size_t hidden = config->hidden, width = serm_encoder_up_width(config), block = serm_encoder_block(rows);

	for (size_t i = 0; i < rows; i += block) {
		size_t part = rows - i < block ? rows - i : block;
		SermReal *up = run->keep ? state->up + i * width : state->up;

		if (!serm_encoder_linear(run, &linears[SERM_LINEAR_UP], part, state->normed2 + i * hidden, up))
			return false;
		serm_encoder_modern_gate(config, part, up, run->curve);
		drop_gated(run, layer, rows < run->tokens, i, part, run->curve);
		if (!serm_encoder_linear(
		        run, &linears[SERM_LINEAR_DOWN], part, run->curve, state->output + i * hidden))
			return false;
	}
	serm_add(state->middle, state->output, rows * hidden);
	return true;
}

/* middle = x + Wo attention(norm(x)), of all rows or of first tokens. */
static bool
mix_tokens(SermEncoderRun *run, uint32_t layer, size_t rows)
{
	const SermEncoder *encoder = run->encoder;
	const SermLinear *linears = encoder->linears + layer * SERM_LINEARS;
	SermLayerState *state = &run->layers[layer];
	size_t hidden = encoder->config.hidden;
	bool first_only = rows < run->tokens;

	if (first_only)
		first_rows(run, state->normed1, run->first);
	if (!serm_encoder_linear(run, &linears[SERM_LINEAR_QUERY], rows, state->query_input, state->query) ||
	    !serm_encoder_linear(run, &linears[SERM_LINEAR_PAIR], run->tokens, state->normed1, state->pair))
		return false;
	serm_encoder_modern_turn(run, layer, first_only, false, hidden, state->query);
	serm_encoder_modern_turn(run, layer, false, false, 2 * hidden, state->pair);
	if (!attend(run, layer, first_only) ||
	    !serm_encoder_linear(run, &linears[SERM_LINEAR_OUT], rows, state->context, state->middle))
		return false;
	serm_encoder_drop_rows(run, layer, SERM_SITE_OUT, run->drop_attention, first_only, hidden, state->middle);
	return true;
}

static bool
layer_forward(SermEncoderRun *run, uint32_t layer)
{
	const SermEncoder *encoder = run->encoder;
	SermLayerLayout at = serm_encoder_layer(&encoder->config, &encoder->layout, layer);
	SermNorm norm2 = serm_encoder_norm(encoder, at.gamma2, at.beta2);
	SermLayerState *state = &run->layers[layer];
	size_t rows = serm_encoder_rows(run, layer), hidden = encoder->config.hidden;
	const SermReal *residual = state->input;

	if (layer > 0) {
		SermNorm norm1 = serm_encoder_norm(encoder, at.gamma1, at.beta1);

		norm_rows(run, &norm1, run->tokens, state->input, NULL, state->normed1, state->hat1, state->factor1);
	}
	if (!mix_tokens(run, layer, rows))
		return false;
	if (rows < run->tokens) {
		for (uint32_t s = 0; s < run->count; s++)
			serm_add(state->input + run->start[s] * hidden, state->middle + s * hidden, hidden);
		residual = NULL;
	}
	norm_rows(run, &norm2, rows, state->middle, residual, state->normed2, state->hat2, state->factor2);
	return feed_forward(run, layer, rows);
}

/* --- head */

/* What the classifier reads: of the last layer's output, the first tokens or the mean. */
static void
pool(SermEncoderRun *run)
{
	const SermEncoder *encoder = run->encoder;
	uint32_t last = encoder->config.layers - 1;
	SermNorm norm = serm_encoder_norm(encoder, encoder->layout.final_gamma, encoder->layout.final_beta);
	SermReal *x = run->layers[last].output;
	size_t hidden = encoder->config.hidden;

	if (encoder->config.pooling == SERM_POOLING_CLS) {
		if (serm_encoder_rows(run, last) == run->tokens)
			first_rows(run, x, run->final);
		else
			memcpy(run->final, x, run->count * hidden * sizeof(SermReal));
		norm_rows(run, &norm, run->count, run->final, NULL, run->top, run->final_hat, run->final_factor);
		return;
	}
	norm_rows(run, &norm, run->tokens, x, NULL, run->final, run->final_hat, run->final_factor);
	memset(run->top, 0, run->count * hidden * sizeof(SermReal));
	for (uint32_t s = 0; s < run->count; s++) {
		for (uint32_t t = run->start[s]; t < run->start[s + 1]; t++)
			serm_add(run->final + t * hidden, run->top + s * hidden, hidden);
		serm_scale(run->top + s * hidden, hidden, 1 / (SermReal) run->inputs[s]->length);
	}
}

bool
serm_encoder_modern_forward(SermEncoderRun *run)
{
	const SermEncoder *encoder = run->encoder;
	const SermEncoderConfig *config = &encoder->config;
	const SermLinear *head = encoder->linears + config->layers * SERM_LINEARS;
	SermNorm norm = serm_encoder_norm(encoder, encoder->layout.head_gamma, encoder->layout.head_beta);
	size_t count = run->count, hidden = config->hidden;

	embed(run);
	for (uint32_t layer = 0; layer < config->layers; layer++)
		if (!layer_forward(run, layer))
			return false;
	pool(run);
	if (!serm_encoder_linear(run, &head[0], count, run->top, run->dense))
		return false;
	serm_curve((SermCurve) config->classifier_activation, run->dense, run->pooled, count * hidden);
	norm_rows(run, &norm, count, run->pooled, NULL, run->pooled, run->head_hat, run->head_factor);
	memcpy(run->dropped, run->pooled, count * hidden * sizeof(SermReal));
	serm_encoder_drop(run, config->layers, SERM_SITE_POOLED, true, run->dropped);
	return serm_encoder_linear(run, &head[1], count, run->dropped, run->logits);
}
