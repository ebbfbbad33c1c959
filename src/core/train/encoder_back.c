#include "core/train/encoder_back.h"

#include <math.h>
#include <string.h>

#include "core/base/watch.h"
#include "core/train/encoder_back_parts.h"
#include "core/train/failure.h"

/* Multiplications between two questions to the host. */
#define QUIET_PRODUCTS 1e8
/* Rows of words between two of them. */
#define QUIET_WORDS 4096

/* Where the weights of linear `index` lie in the flat vector. */
static size_t
weights_of(const SermEncoderConfig *config, uint32_t index)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermLayerLayout at;

	if (index == config->layers * SERM_LINEARS)
		return layout.pool;
	if (index > config->layers * SERM_LINEARS)
		return layout.class;
	at = serm_encoder_layer(config, &layout, index / SERM_LINEARS);
	return (const size_t[]){at.query, at.pair, at.out, at.up, at.down}[index % SERM_LINEARS];
}

static void
shape_of(const SermEncoderConfig *config, uint32_t index, uint32_t *in, uint32_t *out)
{
	uint32_t kind = index % SERM_LINEARS, h = config->hidden;
	bool layer = index < config->layers * SERM_LINEARS;

	*in = layer && kind == SERM_LINEAR_DOWN ? config->intermediate : h;
	*out = h;
	if (layer && kind == SERM_LINEAR_PAIR)
		*out = 2 * h;
	else if (layer && kind == SERM_LINEAR_UP)
		*out = serm_encoder_up_width(config);
	else if (index == config->layers * SERM_LINEARS + 1)
		*out = config->labels;
}

/* Where linear `index` begins in `turned`; index = their number gives the whole. */
static size_t
turned_at(const SermEncoderBack *back, uint32_t index)
{
	size_t at = 0;

	for (uint32_t i = 0; i < index; i++) {
		uint32_t in, out;

		shape_of(back->config, i, &in, &out);
		at += back->gemm->packed_count(in, out);
	}
	return at;
}

bool
serm_encoder_back_init(SermEncoderBack *back, const SermEncoderHost *host, SermArena *arena)
{
	const SermEncoderConfig *config = back->config;
	uint32_t linears = config->layers * SERM_LINEARS + 2;
	size_t bytes = serm_encoder_layout(config).count * sizeof(SermReal);

	back->turned = serm_arena_reserve(arena, turned_at(back, linears) * sizeof(SermReal));
	back->gradient = serm_arena_reserve(arena, bytes);
	back->touched = serm_arena_array(arena, config->vocab, sizeof(uint32_t));
	back->touched_set = serm_arena_array(arena, config->vocab, 1);
	back->touched_count = 0;
	return back->turned != NULL && back->gradient != NULL && back->touched != NULL &&
	       back->touched_set != NULL && serm_watch_clear(host, back->gradient, bytes);
}

bool
serm_encoder_back_pack(SermEncoderBack *back, const SermReal *flat, const SermEncoderHost *host)
{
	uint32_t linears = back->config->layers * SERM_LINEARS + 2;
	SermReal *at = back->turned;

	for (uint32_t i = 0; i < linears; i++) {
		uint32_t in, out;

		if (!serm_encoder_go_on(host))
			return false;
		shape_of(back->config, i, &in, &out);
		/* Below the frozen layers no derivative goes. */
		if (i / SERM_LINEARS >= back->frozen || back->frozen == 0)
			back->gemm->pack(false, in, out, flat + weights_of(back->config, i), in, at);
		at += back->gemm->packed_count(in, out);
	}
	return true;
}

bool
serm_encoder_back_clear(SermEncoderBack *back, const SermEncoderHost *host)
{
	const SermEncoderConfig *config = back->config;
	SermEncoderLayout layout = serm_encoder_layout(config);
	size_t hidden = config->hidden;

	for (uint32_t i = 0; i < back->touched_count; i++) {
		if (i % QUIET_WORDS == 0 && !serm_encoder_go_on(host))
			return false;
		memset(back->gradient + layout.words + back->touched[i] * hidden, 0, hidden * sizeof(SermReal));
		back->touched_set[back->touched[i]] = 0;
	}
	back->touched_count = 0;
	return serm_watch_clear(
	    host, back->gradient + layout.positions, (layout.count - layout.positions) * sizeof(SermReal));
}

/* The derivatives of the weights and of the bias of a linear layer. */
static bool
weights_back(
    SermDescent *descent, uint32_t index, size_t bias, size_t rows, const SermReal *x, const SermReal *d_y)
{
	SermEncoderBack *back = descent->back;
	SermReal *gradient = back->gradient + weights_of(back->config, index);
	uint32_t in, out;
	size_t stretch;

	shape_of(back->config, index, &in, &out);
	for (size_t i = 0; bias != SERM_ENCODER_NONE && i < rows; i++)
		serm_add(d_y + i * out, back->gradient + bias, out);
	back->gemm->pack(false, in, rows, x, in, descent->packed);
	stretch = (size_t) (QUIET_PRODUCTS / ((double) in * (double) rows)) / 14 * 14 + 14;
	for (size_t i = 0; i < out; i += stretch) {
		SermProduct product = {out - i < stretch ? out - i : stretch, in, rows, d_y + i, 1, out,
		    descent->packed, NULL, true, gradient + i * in, in};

		if (!serm_encoder_go_on(descent->run->host))
			return false;
		back->gemm->multiply(&product);
	}
	return true;
}

/* The weights of a linear layer as the way back reads them. */
static const SermReal *
turned_of(SermDescent *descent, uint32_t index)
{
	const SermLinear *linear = &descent->run->encoder->linears[index];
	SermEncoderBack *back = descent->back;

	if (descent->turned == NULL)
		return back->turned + turned_at(back, index);
	serm_linear_unpack(linear, descent->weights);
	back->gemm->pack(false, linear->in, linear->out, descent->weights, linear->in, descent->turned);
	return descent->turned;
}

bool
serm_encoder_back_linear(SermDescent *descent, uint32_t index, size_t bias, size_t rows, const SermReal *x,
    const SermReal *d_y, SermReal *d_x)
{
	const SermEncoderHost *host = descent->run->host;
	const SermReal *turned;
	uint32_t in, out;
	size_t stretch;

	if (!serm_encoder_go_on(host) ||
	    (descent->back->d_words == NULL && !weights_back(descent, index, bias, rows, x, d_y)))
		return false;
	if (d_x == NULL)
		return true;
	shape_of(descent->back->config, index, &in, &out);
	turned = turned_of(descent, index);
	stretch = (size_t) (QUIET_PRODUCTS / ((double) in * out)) / 14 * 14 + 14;
	for (size_t i = 0; i < rows; i += stretch) {
		SermProduct product = {rows - i < stretch ? rows - i : stretch, in, out, d_y + i * out, out, 1,
		    turned, NULL, false, d_x + i * in, in};

		if (!serm_encoder_go_on(host))
			return false;
		descent->back->gemm->multiply(&product);
	}
	return true;
}

void
serm_encoder_back_norm(SermDescent *descent, size_t gamma, size_t beta, size_t rows, const SermReal *hat,
    const SermReal *factor, SermReal *d)
{
	SermNorm norm = serm_encoder_norm(descent->run->encoder, gamma, beta);
	SermReal *gradient = descent->back->gradient;
	bool wanted = descent->back->d_words == NULL;

	for (size_t i = 0; i < rows; i++)
		serm_layer_norm_back(&norm, hat + i * norm.n, factor[i], d + i * norm.n, d + i * norm.n,
		    wanted ? gradient + gamma : NULL, wanted && beta != SERM_ENCODER_NONE ? gradient + beta : NULL);
}

static bool
attend_back(SermDescent *descent, uint32_t layer, const SermReal *d_context)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	const SermLayerState *state = &run->layers[layer];
	uint32_t hidden = config->hidden, size = hidden / config->heads;
	bool first_only = serm_encoder_rows(run, layer) < run->tokens;

	for (uint32_t s = 0; s < run->count; s++) {
		size_t token = run->start[s], row = first_only ? s : token;
		uint32_t length = run->inputs[s]->length;

		for (uint32_t head = 0; head < config->heads; head++) {
			size_t at = row * hidden + head * size, pair = token * 2 * hidden + head * size;
			SermAttention attention = {first_only ? 1 : length, length, size, hidden, state->query + at,
			    state->pair + pair, state->pair + pair + hidden, run->drop_attention,
			    serm_encoder_site(run, layer, SERM_SITE_ATTENTION, run->inputs[s]->key, head)};

			if (!serm_attention_window_back(&attention, SERM_REACH_ALL, &descent->attention, run->host,
			        d_context + at, descent->d_query + at, descent->d_pair + pair,
			        descent->d_pair + pair + hidden))
				return false;
		}
	}
	return true;
}

/* d_output of this layer becomes d_output of the one below; `below` false: nobody asks for it. */
static bool
layer_back(SermDescent *descent, uint32_t layer, bool below)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	SermLayerLayout at = serm_encoder_layer(config, &run->encoder->layout, layer);
	const SermLayerState *state = &run->layers[layer];
	uint32_t linear = layer * SERM_LINEARS;
	size_t rows = serm_encoder_rows(run, layer), hidden = config->hidden,
	       bytes = rows * hidden * sizeof(SermReal);
	size_t wide = rows * config->intermediate;
	bool first_only = rows < run->tokens;

	serm_encoder_back_norm(
	    descent, at.gamma2, at.beta2, rows, state->hat2, state->factor2, descent->d_output);
	memcpy(descent->d_branch, descent->d_output, bytes);
	serm_encoder_drop(run, layer, SERM_SITE_DOWN, first_only, descent->d_branch);
	serm_curve((SermCurve) config->activation, state->up, descent->wide, wide);
	if (!serm_encoder_back_linear(descent, linear + SERM_LINEAR_DOWN, at.down_bias, rows, descent->wide,
	        descent->d_branch, descent->d_wide))
		return false;
	serm_curve_back((SermCurve) config->activation, state->up, descent->d_wide, wide);
	if (!serm_encoder_back_linear(descent, linear + SERM_LINEAR_UP, at.up_bias, rows, state->middle,
	        descent->d_wide, descent->d_inner))
		return false;
	serm_add(descent->d_output, descent->d_inner, rows * hidden);

	serm_encoder_back_norm(descent, at.gamma1, at.beta1, rows, state->hat1, state->factor1, descent->d_inner);
	memcpy(descent->d_branch, descent->d_inner, bytes);
	serm_encoder_drop(run, layer, SERM_SITE_OUT, first_only, descent->d_branch);
	if (!serm_encoder_back_linear(descent, linear + SERM_LINEAR_OUT, at.out_bias, rows, state->context,
	        descent->d_branch, descent->d_output) ||
	    !attend_back(descent, layer, descent->d_output) ||
	    !serm_encoder_back_linear(descent, linear + SERM_LINEAR_QUERY, at.query_bias, rows,
	        state->query_input, descent->d_query, below ? descent->d_branch : NULL) ||
	    !serm_encoder_back_linear(descent, linear + SERM_LINEAR_PAIR, at.pair_bias, run->tokens, state->input,
	        descent->d_pair, below ? descent->d_output : NULL))
		return false;
	if (!below)
		return true;
	serm_add(descent->d_inner, descent->d_branch, rows * hidden);
	for (uint32_t s = 0; first_only && s < run->count; s++)
		serm_add(descent->d_branch + s * hidden, descent->d_output + run->start[s] * hidden, hidden);
	if (!first_only)
		serm_add(descent->d_branch, descent->d_output, rows * hidden);
	return true;
}

void
serm_encoder_back_touch(SermEncoderBack *back, uint32_t id)
{
	if (!back->touched_set[id]) {
		back->touched_set[id] = 1;
		back->touched[back->touched_count++] = id;
	}
}

static void
embed_back(SermDescent *descent)
{
	SermEncoderBack *back = descent->back;
	const SermEncoderRun *run = descent->run;
	const SermEncoderLayout *layout = &run->encoder->layout;
	size_t hidden = run->encoder->config.hidden, row = 0;
	uint32_t first = serm_encoder_first_position(&run->encoder->config);
	SermReal *d = descent->d_output, *gradient = back->gradient;

	serm_encoder_drop(run, 0, SERM_SITE_EMBEDDING, false, d);
	serm_encoder_back_norm(descent, layout->gamma, layout->beta, run->tokens, run->hat0, run->factor0, d);
	for (uint32_t s = 0; s < run->count; s++) {
		const SermEncoderInput *input = run->inputs[s];

		for (uint32_t t = 0; t < input->length; t++, row++) {
			uint32_t id = input->ids[t], type = input->types == NULL ? 0 : input->types[t];

			serm_encoder_back_touch(back, id);
			serm_add(d + row * hidden, gradient + layout->words + id * hidden, hidden);
			serm_add(d + row * hidden, gradient + layout->positions + (first + t) * hidden, hidden);
			serm_add(d + row * hidden, gradient + layout->types + type * hidden, hidden);
		}
	}
}

/* From the logits to the last layer's output. */
static bool
head_back(SermDescent *descent, const SermReal *d_logits)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoder *encoder = run->encoder;
	size_t hidden = encoder->config.hidden, count = run->count;
	uint32_t layers = encoder->config.layers, pool = layers * SERM_LINEARS;
	SermReal *d_pooled = descent->d_branch, *d_top = descent->d_inner;

	if (!serm_encoder_back_linear(
	        descent, pool + 1, encoder->layout.class_bias, count, run->dropped, d_logits, d_pooled))
		return false;
	serm_encoder_drop(run, layers, SERM_SITE_POOLED, true, d_pooled);
	for (size_t i = 0; i < count * hidden; i++)
		d_pooled[i] *= 1 - run->pooled[i] * run->pooled[i];
	if (!serm_encoder_back_linear(descent, pool, encoder->layout.pool_bias, count, run->top, d_pooled, d_top))
		return false;
	memset(descent->d_output, 0, (size_t) run->tokens * hidden * sizeof(SermReal));
	for (size_t s = 0; s < count; s++)
		memcpy(descent->d_output +
		           (serm_encoder_rows(run, layers - 1) < run->tokens ? s : run->start[s]) * hidden,
		    d_top + s * hidden, hidden * sizeof(SermReal));
	if (descent->back->d_rows != NULL)
		serm_add(descent->back->d_rows, descent->d_output, (size_t) run->tokens * hidden);
	return true;
}

static const SermDescentSteps classic = {head_back, layer_back, embed_back};

/* To what the embeddings of a token are before the norm, or behind it where that reads words alone. */
static void
words_back(SermDescent *descent)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderLayout *layout = &run->encoder->layout;

	if (run->encoder->config.architecture != SERM_ENCODER_MODERNBERT)
		serm_encoder_back_norm(
		    descent, layout->gamma, layout->beta, run->tokens, run->hat0, run->factor0, descent->d_output);
	memcpy(descent->back->d_words, descent->d_output,
	    (size_t) run->tokens * run->encoder->config.hidden * sizeof(SermReal));
}

/* What weights take on their way: sides of their gradients, or one layer that is turned. */
static bool
allocate_weights(SermDescent *descent, size_t widest, SermArena *arena)
{
	const SermEncoderBack *back = descent->back;
	size_t plain = 0, turned = 0;

	if (back->d_words == NULL) {
		descent->packed = serm_arena_reserve(
		    arena, back->gemm->packed_count(widest, descent->run->tokens) * sizeof(SermReal));
		return descent->packed != NULL;
	}
	for (uint32_t i = 0; i < back->config->layers * SERM_LINEARS + 2; i++) {
		const SermLinear *linear = &descent->run->encoder->linears[i];
		size_t packed = back->gemm->packed_count(linear->in, linear->out);

		plain = (size_t) linear->in * linear->out > plain ? (size_t) linear->in * linear->out : plain;
		turned = packed > turned ? packed : turned;
	}
	descent->weights = serm_arena_reserve(arena, plain * sizeof(SermReal));
	descent->turned = serm_arena_reserve(arena, turned * sizeof(SermReal));
	return descent->weights != NULL && descent->turned != NULL;
}

static bool
allocate(SermDescent *descent, SermArena *arena)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	size_t tokens = run->tokens, hidden = config->hidden, wide = serm_encoder_up_width(config),
	       size = sizeof(SermReal);
	size_t widest = hidden > wide ? hidden : wide;

	descent->d_output = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_inner = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_branch = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_query = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_pair = serm_arena_reserve(arena, tokens * 2 * hidden * size);
	descent->d_wide = serm_arena_reserve(arena, tokens * wide * size);
	descent->wide = serm_arena_reserve(arena, tokens * wide * size);
	return descent->d_output != NULL && descent->d_inner != NULL && descent->d_branch != NULL &&
	       descent->d_query != NULL && descent->d_pair != NULL && descent->d_wide != NULL &&
	       descent->wide != NULL && allocate_weights(descent, widest, arena) &&
	       serm_attention_back_scratch(
	           run->longest, config->hidden / config->heads, arena, &descent->attention);
}

SermStatus
serm_encoder_backward(SermEncoderBack *back, const SermEncoderRun *run, const SermReal *d_logits,
    SermArena *scratch, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	SermDescent descent = {.back = back, .run = run};
	uint32_t layers = back->config->layers, lowest = back->frozen < layers ? back->frozen : layers;
	const SermDescentSteps *steps =
	    back->config->architecture == SERM_ENCODER_MODERNBERT ? &serm_descent_modern : &classic;
	bool good;

	SERM_ASSERT(run->keep);
	if (!allocate(&descent, scratch)) {
		serm_arena_rewind(scratch, mark);
		return serm_train_out_of_memory(error);
	}
	good = steps->head(&descent, d_logits);
	for (uint32_t layer = layers; good && layer > lowest; layer--)
		good = steps->layer(&descent, layer - 1, layer - 1 > lowest || back->frozen == 0);
	if (good && back->d_words != NULL)
		words_back(&descent);
	else if (good && back->frozen == 0)
		steps->embeddings(&descent);
	serm_arena_rewind(scratch, mark);
	return good ? SERM_OK : serm_train_canceled(error);
}
