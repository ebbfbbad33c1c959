/*
 * Small ModernBERTs whose weights come from a formula, so that another
 * implementation can make the same ones; and ModernBERT written down once
 * more in plain loops of double.
 */
#ifndef SERM_TEST_ENCODER_MODERN_FIXTURE_H
#define SERM_TEST_ENCODER_MODERN_FIXTURE_H

#include "core/base/hash.h"
#include "core/train/encoder_back.h"
#include "core/train/loss.h"
#include "encoder_fixture.h"

/* FNV-1a of the name; element i of the tensor comes from splitmix64 of the sum of it and i. */
static inline uint64_t
formula_seed(const char *name)
{
	uint64_t hash = 0xcbf29ce484222325;

	for (; *name != 0; name++)
		hash = (hash ^ (uint8_t) *name) * 0x100000001b3;
	return hash;
}

static inline uint64_t
formula_hash(uint64_t value)
{
	value += 0x9e3779b97f4a7c15;
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
	value = (value ^ value >> 27) * 0x94d049bb133111eb;
	return value ^ value >> 31;
}

/* Every weight is a multiple of 2^-18 below 2: floats hold it exactly. */
static inline SermReal *
formula_flat(const SermEncoderConfig *config, SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermReal *flat = serm_arena_array(arena, layout.count, sizeof(*flat));

	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;
		size_t length;
		bool norm;
		double spread;

		serm_encoder_entry(config, &layout, e, &entry);
		length = strlen(entry.name);
		norm = length > 10 && strcmp(entry.name + length - 10, "orm.weight") == 0;
		spread = entry.rank == 1 ? .25 : strstr(entry.name, "tok_embeddings") != NULL ? .5 : .375;
		for (size_t i = 0; i < entry.count; i++) {
			uint64_t bits = formula_hash(formula_seed(entry.name) + i) >> 48;
			double value = ((double) bits - 32768) / 32768;

			flat[entry.offset + i] = (SermReal) (norm ? 1 + value / 2 : spread * value);
		}
	}
	return flat;
}

/* Tokens of the first 61. Token 1 first; token 2 at the end and after a third, as a pair has its separators.
 */
static inline SermEncoderInput
formula_input(const SermEncoderConfig *config, uint64_t number, uint32_t length, SermArena *arena)
{
	uint32_t *ids = serm_arena_array(arena, length, sizeof(*ids));

	for (uint32_t t = 0; t < length; t++)
		ids[t] = 3 + (uint32_t) (formula_hash(1000 * number + t) %
		                         ((config->vocab < 61 ? config->vocab : 61) - 3));
	ids[0] = 1;
	if (length > 3)
		ids[length / 3] = ids[length - 1] = 2;
	return (SermEncoderInput){.ids = ids, .length = length};
}

enum { FORMULA_INPUTS = 6 };

/* Tokens of input number n, what its one label should be, and its grade of four. */
static const uint32_t formula_lengths[FORMULA_INPUTS] = {1, 4, 9, 17, 40, 64};
static const double formula_targets[FORMULA_INPUTS] = {1, 0, .25, .75, 1, .5};
static const uint32_t formula_grades[FORMULA_INPUTS] = {3, 0, 1, 2, 3, 1};

static inline double
formula_norm(const SermReal *x, size_t count)
{
	double sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += (double) x[i] * x[i];
	return sqrt(sum);
}

/* Losses and, from them, the derivatives by the logits of the mean loss. */
static inline double
formula_losses(const SermEncoderConfig *config, const double *golden, const SermReal *logits,
    SermReal *d_logits, double *worst)
{
	const SermLoss *ce = serm_loss_find("ce");
	uint32_t labels = config->labels, width = labels == 1 ? 2 : labels;
	double total = 0;

	for (uint32_t i = 0; i < FORMULA_INPUTS; i++) {
		SermReal scores[4] = {0}, target[4] = {0}, derivative[4];
		SermLossList one = {.n = 1, .width = width, .scores = scores, .targets = target};
		double loss;

		/* The binary cross-entropy of a logit is the cross-entropy of the two logits 0 and it. */
		memcpy(scores + width - labels, logits + i * labels, labels * sizeof(SermReal));
		target[labels == 1 ? 0 : formula_grades[i]] = labels == 1 ? (SermReal) (1 - formula_targets[i]) : 1;
		if (labels == 1)
			target[1] = (SermReal) formula_targets[i];
		loss = ce->function(&one, &ce->defaults, derivative);
		*worst = fmax(*worst, fabs(loss - golden[i]));
		total += loss / FORMULA_INPUTS;
		for (uint32_t y = 0; y < labels; y++)
			d_logits[i * labels + y] = derivative[y + width - labels] / FORMULA_INPUTS;
	}
	return total;
}

/* Adds how far a tensor's gradient is from its golden norm to the worst; how many tensors have this name. */
static inline uint32_t
formula_gradient(
    const SermEncoderConfig *config, const SermReal *gradient, const char *name, double golden, double *worst)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	uint32_t found = 0;

	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;
		double norm;

		serm_encoder_entry(config, &layout, e, &entry);
		if (strcmp(entry.name, name) != 0)
			continue;
		found++;
		norm = formula_norm(gradient + entry.offset, entry.count);
		/* Softmax does not see the bias of keys: what is left there is rounding. */
		*worst = fmax(*worst, golden < 1e-12 ? fabs(norm) : fabs(norm / golden - 1));
	}
	return found;
}

/* Golden norms of the derivatives of the mean loss; the list ends with a name of NULL. */
typedef struct FormulaGradient {
	const char *name;
	double norm;
} FormulaGradient;

/* Losses and gradients of the inputs against golden ones. */
static inline void
formula_check_back(const SermEncoderConfig *config, const SermReal *flat, const SermEncoderInput *inputs,
    double golden_loss, const double *golden_losses, const FormulaGradient *golden, double loss_tolerance,
    double gradient_tolerance, SermArena *arena)
{
	const SermEncoderInput *list[FORMULA_INPUTS];
	SermReal d_logits[FORMULA_INPUTS * 4];
	SermEncoderRun run = {.encoder = fixture_encoder(config, SERM_PRECISION_F32, flat, arena),
	    .inputs = list,
	    .count = FORMULA_INPUTS,
	    .keep = true};
	SermEncoderBack back = {.config = config, .gemm = &serm_gemm_packed};
	double worst = 0, loss, gradient = 0;
	uint32_t found = 0;
	SermError error;

	for (int i = 0; i < FORMULA_INPUTS; i++)
		list[i] = &inputs[i];
	CHECK(serm_encoder_prepare(&run, arena, &error) == SERM_OK &&
	          serm_encoder_forward(&run, &error) == SERM_OK && serm_encoder_back_init(&back, NULL, arena),
	    "forward");
	loss = formula_losses(config, golden_losses, run.logits, d_logits, &worst);
	CHECK(worst < loss_tolerance && fabs(loss - golden_loss) < loss_tolerance, "golden losses");
	serm_encoder_back_pack(&back, flat, NULL);
	CHECK(serm_encoder_backward(&back, &run, d_logits, arena, &error) == SERM_OK, "the way back");
	for (uint32_t g = 0; golden[g].name != NULL; g++)
		found += formula_gradient(config, back.gradient, golden[g].name, golden[g].norm, &gradient);
	CHECK(found == serm_encoder_entry_count(config) && gradient < gradient_tolerance,
	    "%u golden gradient norms", found);
	printf("# largest differences: losses %.2g, norms %.2g\n", worst, gradient);
}

static inline const SermReal *
plain_at(const SermReal *flat, size_t offset)
{
	return offset == SERM_ENCODER_NONE ? NULL : flat + offset;
}

static inline void
plain_modern_linear(
    const double *x, size_t in, size_t out, const SermReal *weights, const SermReal *bias, double *y)
{
	for (size_t o = 0; o < out; o++) {
		y[o] = bias == NULL ? 0 : bias[o];
		for (size_t i = 0; i < in; i++)
			y[o] += x[i] * weights[o * in + i];
	}
}

static inline void
plain_modern_norm(
    const SermEncoderConfig *config, const SermReal *gamma, const SermReal *beta, const double *x, double *y)
{
	size_t n = config->hidden;
	double mean = 0, variance = 0;

	for (size_t i = 0; i < n; i++)
		mean += x[i] / (double) n;
	for (size_t i = 0; i < n; i++)
		variance += (x[i] - mean) * (x[i] - mean) / (double) n;
	for (size_t i = 0; i < n; i++)
		y[i] = gamma[i] * (x[i] - mean) / sqrt(variance + config->eps) + (beta == NULL ? 0 : beta[i]);
}

static inline double
plain_curve(SermEncoderActivation curve, double x)
{
	switch (curve) {
		case SERM_ACTIVATION_GELU:
			return .5 * x * (1 + erf(x / sqrt(2)));
		case SERM_ACTIVATION_GELU_TANH:
			return .5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + .044715 * x * x * x)));
		case SERM_ACTIVATION_RELU:
			return x > 0 ? x : 0;
		default:
			return x / (1 + exp(-x));
	}
}

/* The scalar product of a query at position i and a key at j, seen as numbers of the complex plane. */
static inline double
plain_rotary_score(size_t size, double base, uint32_t i, uint32_t j, const double *q, const double *k)
{
	double sum = 0;

	for (size_t c = 0; c < size / 2; c++) {
		double angle = ((double) i - j) * pow(base, -2.0 * (double) c / (double) size);

		sum += cos(angle) * (q[c] * k[c] + q[c + size / 2] * k[c + size / 2]);
		sum += sin(angle) * (q[c] * k[c + size / 2] - q[c + size / 2] * k[c]);
	}
	return sum / sqrt((double) size);
}

/* qkv [length][3 hidden]. */
static inline void
plain_modern_attention(
    const SermEncoderConfig *config, uint32_t layer, uint32_t length, const double *qkv, double *context)
{
	size_t h = config->hidden, size = h / config->heads;
	bool global = layer % config->global_every == 0;
	double base = global ? config->global_theta : config->local_theta;

	for (size_t head = 0; head < h; head += size)
		for (uint32_t i = 0; i < length; i++) {
			double weight[512], total = 0, *out = context + i * h + head;

			for (size_t c = 0; c < size; c++)
				out[c] = 0;
			for (uint32_t j = 0; j < length; j++) {
				bool seen = global || (i > j ? i - j : j - i) <= config->local_window / 2;

				weight[j] = !seen ? 0
				                  : exp(plain_rotary_score(size, base, i, j, qkv + i * 3 * h + head,
				                        qkv + j * 3 * h + h + head));
				total += weight[j];
			}
			for (uint32_t j = 0; j < length; j++)
				for (size_t c = 0; c < size; c++)
					out[c] += weight[j] / total * qkv[j * 3 * h + 2 * h + head + c];
		}
}

static inline void
plain_modern_layer(const SermEncoderConfig *config, const SermReal *flat, uint32_t layer, uint32_t length,
    double *x, SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermLayerLayout at = serm_encoder_layer(config, &layout, layer);
	size_t h = config->hidden, wide = config->intermediate;
	double *qkv = plain_array(arena, length * 3 * h), *context = plain_array(arena, length * h);
	double *y = plain_array(arena, h), *up = plain_array(arena, 2 * wide);

	for (uint32_t t = 0; t < length; t++) {
		memcpy(y, x + t * h, h * sizeof(double));
		if (layer > 0)
			plain_modern_norm(config, flat + at.gamma1, plain_at(flat, at.beta1), x + t * h, y);
		plain_modern_linear(y, h, 3 * h, flat + at.query, plain_at(flat, at.query_bias), qkv + t * 3 * h);
	}
	plain_modern_attention(config, layer, length, qkv, context);
	for (uint32_t t = 0; t < length; t++) {
		double *row = x + t * h;

		plain_modern_linear(context + t * h, h, h, flat + at.out, plain_at(flat, at.out_bias), y);
		for (size_t c = 0; c < h; c++)
			row[c] += y[c];
		plain_modern_norm(config, flat + at.gamma2, plain_at(flat, at.beta2), row, y);
		plain_modern_linear(y, h, 2 * wide, flat + at.up, plain_at(flat, at.up_bias), up);
		for (size_t c = 0; c < wide; c++)
			up[c] = plain_curve(config->activation, up[c]) * up[wide + c];
		plain_modern_linear(up, wide, h, flat + at.down, plain_at(flat, at.down_bias), y);
		for (size_t c = 0; c < h; c++)
			row[c] += y[c];
	}
}

static inline void
plain_modern_forward(const SermEncoderConfig *config, const SermReal *flat, const SermEncoderInput *input,
    double *logits, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermEncoderLayout at = serm_encoder_layout(config);
	size_t h = config->hidden, length = input->length;
	size_t pooled_rows = config->pooling == SERM_POOLING_MEAN ? length : 1;
	double *x = plain_array(arena, length * h), *y = plain_array(arena, h);
	double *top = plain_array(arena, h), *dense = plain_array(arena, h);

	for (size_t t = 0; t < length; t++) {
		for (size_t c = 0; c < h; c++)
			x[t * h + c] = flat[at.words + input->ids[t] * h + c];
		plain_modern_norm(config, flat + at.gamma, plain_at(flat, at.beta), x + t * h, x + t * h);
	}
	for (uint32_t layer = 0; layer < config->layers; layer++)
		plain_modern_layer(config, flat, layer, input->length, x, arena);
	for (size_t t = 0; t < pooled_rows; t++) {
		plain_modern_norm(config, flat + at.final_gamma, plain_at(flat, at.final_beta), x + t * h, y);
		for (size_t c = 0; c < h; c++)
			top[c] += y[c] / (double) pooled_rows;
	}
	plain_modern_linear(top, h, h, flat + at.pool, plain_at(flat, at.pool_bias), dense);
	for (size_t c = 0; c < h; c++)
		dense[c] = plain_curve(config->classifier_activation, dense[c]);
	plain_modern_norm(config, flat + at.head_gamma, plain_at(flat, at.head_beta), dense, y);
	plain_modern_linear(y, h, config->labels, flat + at.class, flat + at.class_bias, logits);
	serm_arena_rewind(arena, mark);
}

#endif
