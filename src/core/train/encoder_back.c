#include "core/train/encoder_back.h"

#include <math.h>
#include <string.h>

#include "core/train/attention_back.h"
#include "core/train/failure.h"

/* Multiplications between two questions to the host. */
#define QUIET_PRODUCTS 1e8

/* Derivatives on their way down one group; what is not a row of the batch is scratch. */
typedef struct Descent {
	SermEncoderBack *back;
	const SermEncoderRun *run;
	SermReal *d_output; /* [tokens][hidden] */
	SermReal *d_inner;  /* [tokens][hidden] */
	SermReal *d_branch; /* [tokens][hidden] */
	SermReal *d_query;  /* [tokens][hidden] */
	SermReal *d_pair;   /* [tokens][2 hidden] */
	SermReal *d_wide;   /* [tokens][intermediate] */
	SermReal *wide;     /* [tokens][intermediate] */
	SermReal *packed;   /* left sides of the gradients of weights */
	SermAttentionBackScratch attention;
} Descent;

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
		*out = config->intermediate;
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
serm_encoder_back_init(SermEncoderBack *back, SermArena *arena)
{
	const SermEncoderConfig *config = back->config;
	uint32_t linears = config->layers * SERM_LINEARS + 2;

	back->turned = serm_arena_reserve(arena, turned_at(back, linears) * sizeof(SermReal));
	back->gradient = serm_arena_array(arena, serm_encoder_layout(config).count, sizeof(SermReal));
	back->touched = serm_arena_array(arena, config->vocab, sizeof(uint32_t));
	back->touched_set = serm_arena_array(arena, config->vocab, 1);
	back->touched_count = 0;
	return back->turned != NULL && back->gradient != NULL && back->touched != NULL &&
	       back->touched_set != NULL;
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

void
serm_encoder_back_clear(SermEncoderBack *back)
{
	const SermEncoderConfig *config = back->config;
	SermEncoderLayout layout = serm_encoder_layout(config);
	size_t hidden = config->hidden;

	for (uint32_t i = 0; i < back->touched_count; i++) {
		memset(back->gradient + layout.words + back->touched[i] * hidden, 0, hidden * sizeof(SermReal));
		back->touched_set[back->touched[i]] = 0;
	}
	back->touched_count = 0;
	memset(back->gradient + layout.positions, 0, (layout.count - layout.positions) * sizeof(SermReal));
}

/*
 * From d_y [rows][out] of linear `index`: its weights' and bias's derivatives from its inputs x, and d_x
 * where that is not NULL.
 */
static bool
linear_back(Descent *descent, uint32_t index, size_t bias, size_t rows, const SermReal *x,
    const SermReal *d_y, SermReal *d_x)
{
	SermEncoderBack *back = descent->back;
	const SermEncoderHost *host = descent->run->host;
	const SermReal *turned = back->turned + turned_at(back, index);
	SermReal *gradient = back->gradient + weights_of(back->config, index);
	uint32_t in, out;
	size_t stretch;

	shape_of(back->config, index, &in, &out);
	for (size_t i = 0; i < rows; i++)
		serm_add(d_y + i * out, back->gradient + bias, out);
	if (!serm_encoder_go_on(host))
		return false;
	back->gemm->pack(false, in, rows, x, in, descent->packed);
	stretch = (size_t) (QUIET_PRODUCTS / ((double) in * (double) rows)) / 14 * 14 + 14;
	for (size_t i = 0; i < out; i += stretch) {
		SermProduct product = {out - i < stretch ? out - i : stretch, in, rows, d_y + i, 1, out,
		    descent->packed, NULL, true, gradient + i * in, in};

		if (!serm_encoder_go_on(host))
			return false;
		back->gemm->multiply(&product);
	}
	stretch = (size_t) (QUIET_PRODUCTS / ((double) in * out)) / 14 * 14 + 14;
	for (size_t i = 0; d_x != NULL && i < rows; i += stretch) {
		SermProduct product = {rows - i < stretch ? rows - i : stretch, in, out, d_y + i * out, out, 1,
		    turned, NULL, false, d_x + i * in, in};

		if (!serm_encoder_go_on(host))
			return false;
		back->gemm->multiply(&product);
	}
	return true;
}

static void
norm_back(Descent *descent, size_t gamma, size_t beta, size_t rows, const SermReal *hat,
    const SermReal *factor, SermReal *d)
{
	SermNorm norm = serm_encoder_norm(descent->run->encoder, gamma, beta);
	SermReal *gradient = descent->back->gradient;

	for (size_t i = 0; i < rows; i++)
		serm_layer_norm_back(&norm, hat + i * norm.n, factor[i], d + i * norm.n, d + i * norm.n,
		    gradient + gamma, gradient + beta);
}

static bool
attend_back(Descent *descent, uint32_t layer, const SermReal *d_context)
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

			if (!serm_encoder_go_on(run->host))
				return false;
			serm_attention_back(&attention, &descent->attention, d_context + at, descent->d_query + at,
			    descent->d_pair + pair, descent->d_pair + pair + hidden);
		}
	}
	return true;
}

/* d_output of this layer becomes d_output of the one below; `below` false: nobody asks for it. */
static bool
layer_back(Descent *descent, uint32_t layer, bool below)
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

	norm_back(descent, at.gamma2, at.beta2, rows, state->hat2, state->factor2, descent->d_output);
	memcpy(descent->d_branch, descent->d_output, bytes);
	serm_encoder_drop(run, layer, SERM_SITE_DOWN, first_only, descent->d_branch);
	serm_curve((SermCurve) config->activation, state->up, descent->wide, wide);
	if (!linear_back(descent, linear + SERM_LINEAR_DOWN, at.down_bias, rows, descent->wide, descent->d_branch,
	        descent->d_wide))
		return false;
	serm_curve_back((SermCurve) config->activation, state->up, descent->d_wide, wide);
	if (!linear_back(descent, linear + SERM_LINEAR_UP, at.up_bias, rows, state->middle, descent->d_wide,
	        descent->d_inner))
		return false;
	serm_add(descent->d_output, descent->d_inner, rows * hidden);

	norm_back(descent, at.gamma1, at.beta1, rows, state->hat1, state->factor1, descent->d_inner);
	memcpy(descent->d_branch, descent->d_inner, bytes);
	serm_encoder_drop(run, layer, SERM_SITE_OUT, first_only, descent->d_branch);
	if (!linear_back(descent, linear + SERM_LINEAR_OUT, at.out_bias, rows, state->context, descent->d_branch,
	        descent->d_output) ||
	    !attend_back(descent, layer, descent->d_output) ||
	    !linear_back(descent, linear + SERM_LINEAR_QUERY, at.query_bias, rows, state->query_input,
	        descent->d_query, below ? descent->d_branch : NULL) ||
	    !linear_back(descent, linear + SERM_LINEAR_PAIR, at.pair_bias, run->tokens, state->input,
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

static void
embed_back(Descent *descent)
{
	SermEncoderBack *back = descent->back;
	const SermEncoderRun *run = descent->run;
	const SermEncoderLayout *layout = &run->encoder->layout;
	size_t hidden = run->encoder->config.hidden, row = 0;
	uint32_t first = serm_encoder_first_position(&run->encoder->config);
	SermReal *d = descent->d_output, *gradient = back->gradient;

	serm_encoder_drop(run, 0, SERM_SITE_EMBEDDING, false, d);
	norm_back(descent, layout->gamma, layout->beta, run->tokens, run->hat0, run->factor0, d);
	for (uint32_t s = 0; s < run->count; s++) {
		const SermEncoderInput *input = run->inputs[s];

		for (uint32_t t = 0; t < input->length; t++, row++) {
			uint32_t id = input->ids[t], type = input->types == NULL ? 0 : input->types[t];

			if (!back->touched_set[id]) {
				back->touched_set[id] = 1;
				back->touched[back->touched_count++] = id;
			}
			serm_add(d + row * hidden, gradient + layout->words + id * hidden, hidden);
			serm_add(d + row * hidden, gradient + layout->positions + (first + t) * hidden, hidden);
			serm_add(d + row * hidden, gradient + layout->types + type * hidden, hidden);
		}
	}
}

/* From the logits to the last layer's output. */
static bool
head_back(Descent *descent, const SermReal *d_logits)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoder *encoder = run->encoder;
	size_t hidden = encoder->config.hidden, count = run->count;
	uint32_t layers = encoder->config.layers, pool = layers * SERM_LINEARS;
	SermReal *d_pooled = descent->d_branch, *d_top = descent->d_inner;

	if (!linear_back(descent, pool + 1, encoder->layout.class_bias, count, run->dropped, d_logits, d_pooled))
		return false;
	serm_encoder_drop(run, layers, SERM_SITE_POOLED, true, d_pooled);
	for (size_t i = 0; i < count * hidden; i++)
		d_pooled[i] *= 1 - run->pooled[i] * run->pooled[i];
	if (!linear_back(descent, pool, encoder->layout.pool_bias, count, run->top, d_pooled, d_top))
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

static bool
allocate(Descent *descent, SermArena *arena)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	size_t tokens = run->tokens, hidden = config->hidden, wide = config->intermediate,
	       size = sizeof(SermReal);
	size_t widest = hidden > wide ? hidden : wide;

	descent->d_output = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_inner = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_branch = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_query = serm_arena_reserve(arena, tokens * hidden * size);
	descent->d_pair = serm_arena_reserve(arena, tokens * 2 * hidden * size);
	descent->d_wide = serm_arena_reserve(arena, tokens * wide * size);
	descent->wide = serm_arena_reserve(arena, tokens * wide * size);
	descent->packed = serm_arena_reserve(arena, descent->back->gemm->packed_count(widest, tokens) * size);
	return descent->d_output != NULL && descent->d_inner != NULL && descent->d_branch != NULL &&
	       descent->d_query != NULL && descent->d_pair != NULL && descent->d_wide != NULL &&
	       descent->wide != NULL && descent->packed != NULL &&
	       serm_attention_back_scratch(
	           run->longest, config->hidden / config->heads, arena, &descent->attention);
}

SermStatus
serm_encoder_backward(SermEncoderBack *back, const SermEncoderRun *run, const SermReal *d_logits,
    SermArena *scratch, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	Descent descent = {.back = back, .run = run};
	uint32_t layers = back->config->layers, lowest = back->frozen < layers ? back->frozen : layers;
	bool good;

	SERM_ASSERT(run->keep);
	if (!allocate(&descent, scratch)) {
		serm_arena_rewind(scratch, mark);
		return serm_train_out_of_memory(error);
	}
	good = head_back(&descent, d_logits);
	for (uint32_t layer = layers; good && layer > lowest; layer--)
		good = layer_back(&descent, layer - 1, layer - 1 > lowest || back->frozen == 0);
	if (good && back->frozen == 0)
		embed_back(&descent);
	serm_arena_rewind(scratch, mark);
	return good ? SERM_OK : serm_train_canceled(error);
}
