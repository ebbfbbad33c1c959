#include <string.h>

#include "core/model/encoder_modern.h"
#include "core/train/encoder_back_parts.h"

/* --- head */

/* From d [count][hidden] by what was pooled to d_output. */
static void
pool_back(SermDescent *descent, const SermReal *d)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoder *encoder = run->encoder;
	const SermEncoderLayout *layout = &encoder->layout;
	size_t hidden = encoder->config.hidden;
	bool first_only = serm_encoder_rows(run, encoder->config.layers - 1) < run->tokens;
	SermReal *d_output = descent->d_output;

	memset(d_output, 0, (size_t) run->tokens * hidden * sizeof(SermReal));
	if (encoder->config.pooling == SERM_POOLING_CLS) {
		for (uint32_t s = 0; s < run->count; s++) {
			SermReal *row = d_output + (first_only ? s : run->start[s]) * hidden;

			memcpy(row, d + s * hidden, hidden * sizeof(SermReal));
			serm_encoder_back_norm(descent, layout->final_gamma, layout->final_beta, 1,
			    run->final_hat + s * hidden, run->final_factor + s, row);
		}
		return;
	}
	for (uint32_t s = 0; s < run->count; s++)
		for (uint32_t t = run->start[s]; t < run->start[s + 1]; t++) {
			memcpy(d_output + t * hidden, d + s * hidden, hidden * sizeof(SermReal));
			serm_scale(d_output + t * hidden, hidden, 1 / (SermReal) run->inputs[s]->length);
		}
	serm_encoder_back_norm(descent, layout->final_gamma, layout->final_beta, run->tokens, run->final_hat,
	    run->final_factor, d_output);
}

static bool
head_back(SermDescent *descent, const SermReal *d_logits)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoder *encoder = run->encoder;
	const SermEncoderLayout *layout = &encoder->layout;
	size_t hidden = encoder->config.hidden, count = run->count;
	uint32_t layers = encoder->config.layers, pool = layers * SERM_LINEARS;
	SermReal *d_pooled = descent->d_branch, *d_top = descent->d_inner;

	if (!serm_encoder_back_linear(
	        descent, pool + 1, layout->class_bias, count, run->dropped, d_logits, d_pooled))
		return false;
	serm_encoder_drop(run, layers, SERM_SITE_POOLED, true, d_pooled);
	serm_encoder_back_norm(
	    descent, layout->head_gamma, layout->head_beta, count, run->head_hat, run->head_factor, d_pooled);
	serm_curve_back((SermCurve) encoder->config.classifier_activation, run->dense, d_pooled, count * hidden);
	if (!serm_encoder_back_linear(descent, pool, layout->pool_bias, count, run->top, d_pooled, d_top))
		return false;
	pool_back(descent, d_top);
	return true;
}

/* --- layers */

/* d_up [rows][2 intermediate] from d, the derivative by curve(a) b, and up, a before b. */
static void
gate_back(const SermEncoderConfig *config, size_t rows, const SermReal *up, const SermReal *d, SermReal *d_up)
{
	size_t wide = config->intermediate;

	for (size_t i = 0; i < rows; i++, up += 2 * wide, d_up += 2 * wide, d += wide) {
		serm_curve((SermCurve) config->activation, up, d_up + wide, wide);
		for (size_t c = 0; c < wide; c++) {
			d_up[c] = d[c] * up[wide + c];
			d_up[wide + c] *= d[c];
		}
		serm_curve_back((SermCurve) config->activation, up, d_up, wide);
	}
}

/* d_inner = d_output + what comes back through the feed-forward part. */
static bool
feed_forward_back(SermDescent *descent, uint32_t layer, size_t rows)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	SermLayerLayout at = serm_encoder_layer(config, &run->encoder->layout, layer);
	const SermLayerState *state = &run->layers[layer];
	uint32_t linear = layer * SERM_LINEARS;
	bool first_only = rows < run->tokens;
	size_t wide = config->intermediate;
	SermReal *gated = descent->wide, *d_gated = descent->wide + rows * wide;

	serm_encoder_modern_gate(config, rows, state->up, gated);
	serm_encoder_drop_rows(run, layer, SERM_SITE_GATE, run->drop_hidden, first_only, wide, gated);
	if (!serm_encoder_back_linear(
	        descent, linear + SERM_LINEAR_DOWN, at.down_bias, rows, gated, descent->d_output, d_gated))
		return false;
	serm_encoder_drop_rows(run, layer, SERM_SITE_GATE, run->drop_hidden, first_only, wide, d_gated);
	gate_back(config, rows, state->up, d_gated, descent->d_wide);
	if (!serm_encoder_back_linear(descent, linear + SERM_LINEAR_UP, at.up_bias, rows, state->normed2,
	        descent->d_wide, descent->d_inner))
		return false;
	serm_encoder_back_norm(descent, at.gamma2, at.beta2, rows, state->hat2, state->factor2, descent->d_inner);
	serm_add(descent->d_output, descent->d_inner, rows * config->hidden);
	return true;
}

/* From d_context to d_query and d_pair, of queries and keys before they turned. */
static bool
attend_back(SermDescent *descent, uint32_t layer, bool first_only, const SermReal *d_context)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	const SermLayerState *state = &run->layers[layer];
	uint32_t hidden = config->hidden, size = hidden / config->heads;
	uint32_t reach = serm_encoder_modern_reach(config, layer);

	for (uint32_t s = 0; s < run->count; s++) {
		size_t token = run->start[s], row = first_only ? s : token;
		uint32_t length = run->inputs[s]->length;

		for (uint32_t head = 0; head < config->heads; head++) {
			size_t at = row * hidden + head * size, pair = token * 2 * hidden + head * size;
			SermAttention attention = {.rows = first_only ? 1 : length,
			    .length = length,
			    .size = size,
			    .hidden = hidden,
			    .query = state->query + at,
			    .key = state->pair + pair,
			    .value = state->pair + pair + hidden,
			    .drop = run->drop_attention,
			    .seed = serm_encoder_site(run, layer, SERM_SITE_ATTENTION, run->inputs[s]->key, head)};

			if (!serm_attention_window_back(&attention, reach, &descent->attention, run->host, d_context + at,
			        descent->d_query + at, descent->d_pair + pair, descent->d_pair + pair + hidden))
				return false;
		}
	}
	serm_encoder_modern_turn(run, layer, first_only, true, hidden, descent->d_query);
	serm_encoder_modern_turn(run, layer, false, true, 2 * hidden, descent->d_pair);
	return true;
}

/* Rows of all tokens += rows of all tokens or of first ones. */
static void
add_rows(const SermEncoderRun *run, bool first_only, const SermReal *rows, SermReal *all)
{
	size_t hidden = run->encoder->config.hidden;

	for (uint32_t s = 0; first_only && s < run->count; s++)
		serm_add(rows + s * hidden, all + run->start[s] * hidden, hidden);
	if (!first_only)
		serm_add(rows, all, run->tokens * hidden);
}

static bool
layer_back(SermDescent *descent, uint32_t layer, bool below)
{
	const SermEncoderRun *run = descent->run;
	const SermEncoderConfig *config = &run->encoder->config;
	SermLayerLayout at = serm_encoder_layer(config, &run->encoder->layout, layer);
	const SermLayerState *state = &run->layers[layer];
	uint32_t linear = layer * SERM_LINEARS;
	size_t rows = serm_encoder_rows(run, layer), hidden = config->hidden;
	bool first_only = rows < run->tokens;
	/* The norm above the lowest layer that is trained has weights of its own. */
	bool needed = below || layer > 0;

	if (!feed_forward_back(descent, layer, rows))
		return false;
	memcpy(descent->d_branch, descent->d_inner, rows * hidden * sizeof(SermReal));
	serm_encoder_drop_rows(
	    run, layer, SERM_SITE_OUT, run->drop_attention, first_only, hidden, descent->d_branch);
	if (!serm_encoder_back_linear(descent, linear + SERM_LINEAR_OUT, at.out_bias, rows, state->context,
	        descent->d_branch, descent->d_output) ||
	    !attend_back(descent, layer, first_only, descent->d_output) ||
	    !serm_encoder_back_linear(descent, linear + SERM_LINEAR_QUERY, at.query_bias, rows,
	        state->query_input, descent->d_query, needed ? descent->d_branch : NULL) ||
	    !serm_encoder_back_linear(descent, linear + SERM_LINEAR_PAIR, at.pair_bias, run->tokens,
	        state->normed1, descent->d_pair, needed ? descent->d_output : NULL))
		return false;
	if (!needed)
		return true;
	add_rows(run, first_only, descent->d_branch, descent->d_output);
	if (layer > 0)
		serm_encoder_back_norm(
		    descent, at.gamma1, at.beta1, run->tokens, state->hat1, state->factor1, descent->d_output);
	add_rows(run, first_only, descent->d_inner, descent->d_output);
	return true;
}

static void
embed_back(SermDescent *descent)
{
	SermEncoderBack *back = descent->back;
	const SermEncoderRun *run = descent->run;
	const SermEncoderLayout *layout = &run->encoder->layout;
	size_t hidden = run->encoder->config.hidden;
	SermReal *d = descent->d_output;

	serm_encoder_drop_rows(run, 0, SERM_SITE_EMBEDDING, run->drop_embedding, false, hidden, d);
	serm_encoder_back_norm(descent, layout->gamma, layout->beta, run->tokens, run->hat0, run->factor0, d);
	for (uint32_t s = 0; s < run->count; s++)
		for (uint32_t t = 0; t < run->inputs[s]->length; t++, d += hidden) {
			uint32_t id = run->inputs[s]->ids[t];

			serm_encoder_back_touch(back, id);
			serm_add(d, back->gradient + layout->words + id * hidden, hidden);
		}
}

const SermDescentSteps serm_descent_modern = {head_back, layer_back, embed_back};
