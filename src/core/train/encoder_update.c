#include "core/train/encoder_update.h"

#include <math.h>

#include "core/train/failure.h"

#define BETA1 0.9
#define BETA2 0.999
#define EPSILON 1e-8

/* Parameters, and words, updated between two questions to the host. */
#define QUIET_PARAMETERS ((size_t) 1 << 20)
#define QUIET_WORDS 1024

/* Stretches of the flat vector that one update treats alike. */
typedef struct Stretch {
	size_t start, end;
	bool decay;
} Stretch;

enum { STRETCHES = 6 };

/* All that is trained but the words. */
static void
list_stretches(const SermEncoderUpdate *update, Stretch *list)
{
	const SermEncoderLayout layout = serm_encoder_layout(update->config), *at = &layout;
	uint32_t freeze = update->freeze;
	bool embeddings = freeze == 0;

	list[0] = (Stretch){at->positions, embeddings ? at->gamma : at->positions, true};
	list[1] = (Stretch){at->gamma, embeddings ? at->layer_plain : at->gamma, false};
	list[2] = (Stretch){at->layer_plain + freeze * at->layer_plain_size, at->head, false};
	list[3] = (Stretch){at->head, at->plain_count, false};
	list[4] = (Stretch){at->layer_weights + freeze * at->layer_weights_size, at->pool, true};
	list[5] = (Stretch){at->pool, at->count, true};
}

/* false: the host said stop. */
static bool
gradient_norm(const SermEncoderUpdate *update, double *norm)
{
	const SermReal *gradient = update->back->gradient;
	size_t hidden = update->config->hidden, words = serm_encoder_layout(update->config).words;
	Stretch list[STRETCHES];
	double sum = 0;

	list_stretches(update, list);
	for (int i = 0; i < STRETCHES; i++)
		for (size_t at = list[i].start; at < list[i].end; at += QUIET_PARAMETERS) {
			size_t n = list[i].end - at < QUIET_PARAMETERS ? list[i].end - at : QUIET_PARAMETERS;

			if (!serm_encoder_go_on(update->host))
				return false;
			sum += serm_square_norm(gradient + at, n);
		}
	for (uint32_t i = 0; i < update->back->touched_count; i++) {
		if (i % QUIET_WORDS == 0 && !serm_encoder_go_on(update->host))
			return false;
		sum += serm_square_norm(gradient + words + update->back->touched[i] * hidden, hidden);
	}
	*norm = sqrt(sum);
	return true;
}

static bool
update_stretch(const SermEncoderUpdate *update, const SermAdamStep *step, size_t start, size_t end,
    const SermReal *gradient)
{
	SermEncoderState *state = update->state;

	for (size_t at = start; at < end; at += QUIET_PARAMETERS) {
		size_t n = end - at < QUIET_PARAMETERS ? end - at : QUIET_PARAMETERS;

		if (!serm_encoder_go_on(update->host))
			return false;
		serm_adam_update(
		    step, n, gradient + at - start, state->mean + at, state->square + at, state->flat + at);
	}
	return true;
}

static bool
update_words(const SermEncoderUpdate *update, const SermAdamStep *step)
{
	const SermEncoderBack *back = update->back;
	size_t hidden = update->config->hidden, words = serm_encoder_layout(update->config).words;

	for (uint32_t i = 0; i < back->touched_count; i++) {
		size_t at = words + back->touched[i] * hidden;

		if (i % QUIET_WORDS == 0 && !serm_encoder_go_on(update->host))
			return false;
		serm_adam_update(step, hidden, back->gradient + at, update->state->mean + at,
		    update->state->square + at, update->state->flat + at);
	}
	return true;
}

SermStatus
serm_encoder_update(const SermEncoderUpdate *update, double rate, const SermReal *further, SermError *error)
{
	SermEncoderState *state = update->state;
	SermEncoderBack *back = update->back;
	double norm, t = (double) ++state->step, root = sqrt(1 - pow(BETA2, t)), scale;
	SermAdamStep plain, decayed;
	Stretch list[STRETCHES];
	bool good = true;

	if (!gradient_norm(update, &norm))
		return serm_train_canceled(error);
	if (!isfinite(norm))
		return serm_fail(error, SERM_ERR_DIVERGED, "training diverged: the gradient is not finite");
	scale = update->clip > 0 && norm > update->clip ? update->clip / norm : 1;
	plain = decayed = (SermAdamStep){(SermReal) BETA1, (SermReal) BETA2, (SermReal) scale,
	    (SermReal) (rate * root / (1 - pow(BETA1, t))), (SermReal) (EPSILON * root), 1};
	decayed.keep = (SermReal) (1 - rate * update->weight_decay);
	list_stretches(update, list);
	for (int i = 0; good && i < STRETCHES; i++)
		good = update_stretch(update, list[i].decay ? &decayed : &plain, list[i].start, list[i].end,
		    back->gradient + list[i].start);
	good = good && update_words(update, &decayed);
	if (good && further != NULL)
		good =
		    update_stretch(update, &plain, serm_encoder_layout(update->config).count, state->count, further);
	good = good && serm_encoder_pack(update->config, SERM_PRECISION_F32, back->gemm, state->flat,
	                   update->packed, update->host);
	good = good && serm_encoder_back_pack(back, state->flat, update->host);
	return good ? SERM_OK : serm_train_canceled(error);
}
