/*
 * Small encoders with random weights, and the encoder written down once more
 * in plain loops of double: what the engine is compared with.
 */
#ifndef SERM_TEST_ENCODER_FIXTURE_H
#define SERM_TEST_ENCODER_FIXTURE_H

#include "core/base/rng.h"
#include "core/model/encoder.h"
#include "unit.h"

/* ModernBERT with every bias and a window shorter than its inputs. */
static inline SermEncoderConfig
fixture_config(SermEncoderArchitecture architecture)
{
	bool modern = architecture == SERM_ENCODER_MODERNBERT;

	return (SermEncoderConfig){.architecture = architecture,
	    .global_every = modern ? 2 : 0,
	    .local_window = modern ? 4 : 0,
	    .global_theta = modern ? 1000 : 0,
	    .local_theta = modern ? 30 : 0,
	    .attention_bias = modern,
	    .mlp_bias = modern,
	    .norm_bias = modern,
	    .classifier_bias = modern,
	    .layers = 3,
	    .hidden = 48,
	    .heads = 3,
	    .intermediate = 80,
	    .vocab = 97,
	    .positions = 70,
	    .types = modern                              ? 0
	             : architecture == SERM_ENCODER_BERT ? 2
	                                                 : 1,
	    .labels = 4,
	    .pad_id = 1,
	    .eps = 1e-5};
}

/* Weights that make every part count: norms away from 1, biases away from 0. */
static inline SermReal *
fixture_flat(const SermEncoderConfig *config, uint64_t seed, SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermReal *flat = serm_arena_array(arena, layout.count, sizeof(*flat));
	SermRng rng;

	serm_rng_seed(&rng, seed);
	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;
		double spread;

		serm_encoder_entry(config, &layout, e, &entry);
		spread = entry.rank == 2 ? 1 / sqrt((double) entry.shape[1]) : .3;
		for (size_t i = 0; i < entry.count; i++)
			flat[entry.offset + i] = (SermReal) (spread * serm_rng_normal(&rng) +
			                                     (strstr(entry.name, "orm.weight") != NULL ? 1 : 0));
	}
	return flat;
}

static inline SermEncoder *
fixture_encoder(
    const SermEncoderConfig *config, SermPrecision precision, const SermReal *flat, SermArena *arena)
{
	void *packed = serm_arena_alloc(arena, serm_encoder_packed_bytes(config, precision, NULL));
	SermEncoder *encoder = NULL;
	SermError error;

	serm_encoder_pack(config, precision, NULL, flat, packed, NULL);
	if (serm_encoder_open(config, precision, NULL, flat, packed, arena, &encoder, &error) != SERM_OK)
		printf("# %s\n", error.message);
	return encoder;
}

/* Random tokens; the second half is of type 1 where there are two. */
static inline SermEncoderInput
fixture_input(const SermEncoderConfig *config, uint32_t length, SermRng *rng, SermArena *arena)
{
	uint32_t *ids = serm_arena_array(arena, length, sizeof(*ids));
	uint8_t *types = serm_arena_array(arena, length, sizeof(*types));

	for (uint32_t i = 0; i < length; i++) {
		ids[i] = serm_rng_below(rng, config->vocab);
		types[i] = config->types > 1 && i >= length / 2;
	}
	return (SermEncoderInput){ids, types, length, serm_rng_next(rng)};
}

static inline void
plain_linear(const double *x, size_t in, size_t out, const SermReal *weights, const SermReal *bias, double *y)
{
	for (size_t o = 0; o < out; o++) {
		y[o] = bias[o];
		for (size_t i = 0; i < in; i++)
			y[o] += x[i] * weights[o * in + i];
	}
}

static inline void
plain_norm(double *x, size_t n, double eps, const SermReal *gamma, const SermReal *beta)
{
	double mean = 0, variance = 0;

	for (size_t i = 0; i < n; i++)
		mean += x[i] / (double) n;
	for (size_t i = 0; i < n; i++)
		variance += (x[i] - mean) * (x[i] - mean) / (double) n;
	for (size_t i = 0; i < n; i++)
		x[i] = gamma[i] * (x[i] - mean) / sqrt(variance + eps) + beta[i];
}

static inline void
plain_attention(const SermEncoderConfig *config, uint32_t length, const double *q, const double *k,
    const double *v, double *context)
{
	size_t hidden = config->hidden, size = hidden / config->heads;

	for (uint32_t head = 0; head < config->heads; head++)
		for (uint32_t i = 0; i < length; i++) {
			double weight[512], total = 0, top = -1e300, *out = context + i * hidden + head * size;

			for (uint32_t j = 0; j < length; j++) {
				weight[j] = 0;
				for (size_t c = 0; c < size; c++)
					weight[j] += q[i * hidden + head * size + c] * k[j * hidden + head * size + c];
				weight[j] /= sqrt((double) size);
				top = fmax(top, weight[j]);
			}
			for (uint32_t j = 0; j < length; j++)
				total += weight[j] = exp(weight[j] - top);
			for (size_t c = 0; c < size; c++) {
				out[c] = 0;
				for (uint32_t j = 0; j < length; j++)
					out[c] += weight[j] / total * v[j * hidden + head * size + c];
			}
		}
}

static inline double *
plain_array(SermArena *arena, size_t count)
{
	return serm_arena_array(arena, count, sizeof(double));
}

/* One layer of x [length][hidden] in place. */
static inline void
plain_layer(const SermEncoderConfig *config, const SermReal *flat, uint32_t layer, uint32_t length, double *x,
    SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermLayerLayout at = serm_encoder_layer(config, &layout, layer);
	size_t h = config->hidden, wide = config->intermediate;
	double *q = plain_array(arena, length * h), *k = plain_array(arena, length * h);
	double *v = plain_array(arena, length * h), *context = plain_array(arena, length * h);
	double *y = plain_array(arena, h), *up = plain_array(arena, wide);

	for (uint32_t t = 0; t < length; t++) {
		plain_linear(x + t * h, h, h, flat + at.query, flat + at.query_bias, q + t * h);
		plain_linear(x + t * h, h, h, flat + at.pair, flat + at.pair_bias, k + t * h);
		plain_linear(x + t * h, h, h, flat + at.pair + h * h, flat + at.pair_bias + h, v + t * h);
	}
	plain_attention(config, length, q, k, v, context);
	for (uint32_t t = 0; t < length; t++) {
		double *row = x + t * h;

		plain_linear(context + t * h, h, h, flat + at.out, flat + at.out_bias, y);
		for (size_t c = 0; c < h; c++)
			row[c] += y[c];
		plain_norm(row, h, config->eps, flat + at.gamma1, flat + at.beta1);
		plain_linear(row, h, wide, flat + at.up, flat + at.up_bias, up);
		for (size_t c = 0; c < wide; c++)
			up[c] = .5 * up[c] * (1 + erf(up[c] / sqrt(2)));
		plain_linear(up, wide, h, flat + at.down, flat + at.down_bias, y);
		for (size_t c = 0; c < h; c++)
			row[c] += y[c];
		plain_norm(row, h, config->eps, flat + at.gamma2, flat + at.beta2);
	}
}

/* logits [labels]; norms (NULL: not wanted) [layers + 2]: of the embeddings, of each layer, of the pooled
 * vector. */
static inline void
plain_forward(const SermEncoderConfig *config, const SermReal *flat, const SermEncoderInput *input,
    double *logits, double *norms, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermEncoderLayout at = serm_encoder_layout(config);
	size_t h = config->hidden, length = input->length;
	double *x = plain_array(arena, length * h), *pooled = plain_array(arena, h);
	uint32_t first = config->architecture == SERM_ENCODER_ROBERTA ? config->pad_id + 1 : 0;

	for (size_t t = 0; t < length; t++) {
		for (size_t c = 0; c < h; c++)
			x[t * h + c] = (double) flat[at.words + input->ids[t] * h + c] +
			               flat[at.positions + (first + t) * h + c] +
			               flat[at.types + (input->types == NULL ? 0 : input->types[t]) * h + c];
		plain_norm(x + t * h, h, config->eps, flat + at.gamma, flat + at.beta);
	}
	for (uint32_t layer = 0; layer <= config->layers; layer++) {
		if (norms != NULL)
			for (size_t i = 0; i < length * h; i++)
				norms[layer] += x[i] * x[i];
		if (layer < config->layers)
			plain_layer(config, flat, layer, input->length, x, arena);
	}
	plain_linear(x, h, h, flat + at.pool, flat + at.pool_bias, pooled);
	for (size_t c = 0; c < h; c++) {
		pooled[c] = tanh(pooled[c]);
		if (norms != NULL)
			norms[config->layers + 1] += pooled[c] * pooled[c];
	}
	plain_linear(pooled, h, config->labels, flat + at.class, flat + at.class_bias, logits);
	for (uint32_t i = 0; norms != NULL && i < config->layers + 2; i++)
		norms[i] = sqrt(norms[i]);
	serm_arena_rewind(arena, mark);
}

#endif
