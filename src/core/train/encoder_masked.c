#include "core/train/encoder_masked.h"

#include <math.h>
#include <string.h>

#include "core/train/failure.h"

/* Reals of the logits that are held at once. */
#define LOGITS_MAX ((size_t) 2 << 20)

typedef struct Guess {
	size_t rows;
	SermReal *hidden; /* [rows][hidden] what is guessed from */
	SermReal *d_hidden;
	SermReal *logits; /* [block][vocab] */
	SermReal *packed; /* a block of `hidden`, laid out */
	uint32_t *answers;
	size_t *row; /* [rows] of the group's tokens */
	size_t block;
} Guess;

bool
serm_masked_init(SermMasked *masked, SermArena *arena)
{
	const SermEncoderConfig *config = &masked->encoder->config;
	const SermGemmProvider *gemm = masked->back->gemm;

	masked->packed_in =
	    serm_arena_reserve(arena, gemm->packed_count(config->vocab, config->hidden) * sizeof(SermReal));
	masked->packed_out =
	    serm_arena_reserve(arena, gemm->packed_count(config->hidden, config->vocab) * sizeof(SermReal));
	masked->d_bias = serm_arena_array(arena, config->vocab, sizeof(SermReal));
	return masked->packed_in != NULL && masked->packed_out != NULL && masked->d_bias != NULL;
}

bool
serm_masked_pack(SermMasked *masked)
{
	const SermEncoderConfig *config = &masked->encoder->config;
	const SermGemmProvider *gemm = masked->back->gemm;

	if (!serm_encoder_go_on(masked->host))
		return false;
	gemm->pack(true, config->vocab, config->hidden, masked->words, config->hidden, masked->packed_in);
	if (!serm_encoder_go_on(masked->host))
		return false;
	gemm->pack(false, config->hidden, config->vocab, masked->words, config->hidden, masked->packed_out);
	return serm_encoder_go_on(masked->host);
}

static bool
allocate_guess(const SermMasked *masked, size_t rows, SermArena *arena, Guess *guess)
{
	size_t hidden = masked->encoder->config.hidden, vocab = masked->encoder->config.vocab;

	guess->rows = rows;
	guess->block = LOGITS_MAX / vocab > 14 ? LOGITS_MAX / vocab : 14;
	guess->block = guess->block < rows ? guess->block : rows;
	guess->hidden = serm_arena_array(arena, rows * hidden, sizeof(SermReal));
	guess->d_hidden = serm_arena_array(arena, rows * hidden, sizeof(SermReal));
	guess->logits = serm_arena_reserve(arena, guess->block * vocab * sizeof(SermReal));
	guess->packed =
	    serm_arena_reserve(arena, masked->back->gemm->packed_count(hidden, guess->block) * sizeof(SermReal));
	guess->answers = serm_arena_array(arena, rows, sizeof(uint32_t));
	guess->row = serm_arena_array(arena, rows, sizeof(size_t));
	return guess->hidden != NULL && guess->d_hidden != NULL && guess->logits != NULL &&
	       guess->packed != NULL && guess->answers != NULL && guess->row != NULL;
}

/* The masked rows of the last output. */
static void
gather(const SermEncoderRun *run, const SermMaskedInput *inputs, Guess *guess)
{
	size_t hidden = run->encoder->config.hidden, at = 0;
	const SermReal *output = run->layers[run->encoder->config.layers - 1].output;

	for (uint32_t s = 0; s < run->count; s++)
		for (uint32_t m = 0; m < inputs[s].count; m++, at++) {
			guess->row[at] = run->start[s] + inputs[s].places[m];
			guess->answers[at] = inputs[s].answers[m];
			memcpy(guess->hidden + at * hidden, output + guess->row[at] * hidden, hidden * sizeof(SermReal));
		}
}

/* Logits become their derivatives; returns the cross-entropy. */
static double
softmax(SermReal *logits, size_t n, uint32_t answer, double scale)
{
	double top = logits[0], total = 0, loss;

	for (size_t i = 1; i < n; i++)
		top = logits[i] > top ? logits[i] : top;
	loss = top - logits[answer];
	for (size_t i = 0; i < n; i++) {
#ifdef SERM_REAL_DOUBLE
		logits[i] = exp(logits[i] - top);
#else
		logits[i] = expf(logits[i] - (float) top);
#endif
		total += logits[i];
	}
	for (size_t i = 0; i < n; i++)
		logits[i] = (SermReal) (logits[i] * (scale / total));
	logits[answer] -= (SermReal) scale;
	return (loss + log(total)) * scale;
}

/* Guess the words of some rows and go back to their derivatives, those of the embeddings, and those of the
 * bias. false: the host said stop. */
static bool
guess_block(SermMasked *masked, Guess *guess, size_t first, size_t rows, double scale, double *loss)
{
	const SermGemmProvider *gemm = masked->back->gemm;
	const SermEncoder *encoder = masked->encoder;
	size_t hidden = encoder->config.hidden, vocab = encoder->config.vocab;
	const SermReal *x = guess->hidden + first * hidden;
	SermProduct in = {
	    rows, vocab, hidden, x, hidden, 1, masked->packed_in, masked->bias, false, guess->logits, vocab};
	SermProduct out = {rows, hidden, vocab, guess->logits, vocab, 1, masked->packed_out, NULL, false,
	    guess->d_hidden + first * hidden, hidden};
	SermProduct words = {vocab, hidden, rows, guess->logits, 1, vocab, guess->packed, NULL, true,
	    masked->back->gradient + encoder->layout.words, hidden};

	if (!serm_encoder_go_on(masked->host))
		return false;
	gemm->multiply(&in);
	if (!serm_encoder_go_on(masked->host))
		return false;
	for (size_t i = 0; i < rows; i++) {
		*loss += softmax(guess->logits + i * vocab, vocab, guess->answers[first + i], scale);
		serm_add(guess->logits + i * vocab, masked->d_bias, vocab);
	}
	if (!serm_encoder_go_on(masked->host))
		return false;
	gemm->multiply(&out);
	if (!serm_encoder_go_on(masked->host))
		return false;
	gemm->pack(false, hidden, rows, x, hidden, guess->packed);
	gemm->multiply(&words);
	return true;
}

static void
touch_all(SermEncoderBack *back)
{
	uint32_t vocab = back->config->vocab;

	back->touched_count = vocab;
	memset(back->touched_set, 1, vocab);
	for (uint32_t id = 0; id < vocab; id++)
		back->touched[id] = id;
}

/* Derivatives by the last output of all tokens; NULL without memory or when the host said stop. */
static SermReal *
guess_words(SermMasked *masked, const SermEncoderRun *run, const SermMaskedInput *inputs, double scale,
    SermArena *scratch, double *loss)
{
	size_t hidden = run->encoder->config.hidden, rows = 0;
	SermReal *d_rows = serm_arena_array(scratch, run->tokens * hidden, sizeof(SermReal));
	Guess guess;

	for (uint32_t s = 0; s < run->count; s++)
		rows += inputs[s].count;
	if (d_rows == NULL || !allocate_guess(masked, rows, scratch, &guess))
		return NULL;
	gather(run, inputs, &guess);
	for (size_t at = 0; at < rows; at += guess.block)
		if (!guess_block(masked, &guess, at, rows - at < guess.block ? rows - at : guess.block, scale, loss))
			return NULL;
	for (size_t i = 0; i < rows; i++)
		memcpy(d_rows + guess.row[i] * hidden, guess.d_hidden + i * hidden, hidden * sizeof(SermReal));
	return d_rows;
}

/*
 * Cross-entropy of the head: one label is the logit of the better of two grades. A match between two grades
 * is shared by both, so the order of all grades is known before judgments move their frequencies.
 */
static void
tell_matches(
    const SermEncoderRun *run, const SermMaskedInput *inputs, double scale, SermReal *d_logits, double *loss)
{
	uint32_t labels = run->encoder->config.labels;

	for (uint32_t s = 0; s < run->count; s++) {
		SermReal *d = d_logits + (size_t) s * labels, pair[SERM_ENCODER_LABELS_MAX + 1] = {0};
		const SermReal *logits = run->logits + (size_t) s * labels;
		uint32_t top = labels > 1 ? labels - 1 : 1;
		double grade = inputs[s].match * top;
		uint32_t low = grade < top ? (uint32_t) grade : top - 1;
		double share = (grade - low) * scale;

		if (labels > 1)
			memcpy(pair, logits, labels * sizeof(SermReal));
		else
			pair[1] = logits[0];
		*loss -= share * ((double) pair[low + 1] - pair[low]);
		*loss += softmax(pair, top + 1, low, scale);
		pair[low] += (SermReal) share;
		pair[low + 1] -= (SermReal) share;
		memcpy(d, labels > 1 ? pair : pair + 1, labels * sizeof(SermReal));
	}
}

SermStatus
serm_masked_group(SermMasked *masked, const SermMaskedInput *inputs, uint32_t count, double word_scale,
    double match_scale, SermArena *scratch, double *loss, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	const SermEncoderInput **list = serm_arena_array(scratch, count, sizeof(*list));
	SermReal *d_logits =
	    serm_arena_array(scratch, (size_t) count * masked->encoder->config.labels, sizeof(SermReal));
	SermEncoderRun run = {.encoder = masked->encoder,
	    .host = masked->host,
	    .inputs = list,
	    .count = count,
	    .keep = true,
	    .all_rows = true,
	    .drop_hidden = masked->drop_hidden,
	    .drop_attention = masked->drop_attention,
	    .drop_class = masked->drop_class,
	    .seed = masked->seed};
	SermStatus status = SERM_OK;

	if (list == NULL || d_logits == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t s = 0; s < count; s++)
		list[s] = &inputs[s].input;
	status = serm_encoder_prepare(&run, scratch, error);
	if (status == SERM_OK)
		status = serm_encoder_forward(&run, error);
	if (status == SERM_OK) {
		masked->back->d_rows = guess_words(masked, &run, inputs, word_scale, scratch, loss);
		if (masked->back->d_rows == NULL)
			status = serm_encoder_go_on(masked->host) ? serm_train_out_of_memory(error)
			                                          : serm_train_canceled(error);
	}
	if (status == SERM_OK) {
		tell_matches(&run, inputs, match_scale, d_logits, loss);
		status = serm_encoder_backward(masked->back, &run, d_logits, scratch, error);
		touch_all(masked->back);
	}
	masked->back->d_rows = NULL;
	serm_arena_rewind(scratch, mark);
	return status;
}
