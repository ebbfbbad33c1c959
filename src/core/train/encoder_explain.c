#include "core/train/encoder_explain.h"

#include <string.h>

#include "core/base/utf8.h"
#include "core/model/cross_encoder_parts.h"
#include "core/train/encoder_back.h"

/* Bytes of a word that are shown. */
#define SPELLING_MAX 256

typedef struct Collector {
	const SermCrossEncoder *opened;
	SermArena *arena;
	SermExplainedTerm *terms;
	uint32_t count;
} Collector;

static SermStatus
no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "an explanation does not fit into its memory limit");
}

/* One forward pass that keeps what the way back needs. */
static SermStatus
run_forward(SermEncoderRun *run, SermArena *scratch, SermError *error)
{
	SermStatus status = serm_encoder_check(run->encoder, run->inputs[0], 1, error);

	if (status == SERM_OK)
		status = serm_encoder_prepare(run, scratch, error);
	return status == SERM_OK ? serm_encoder_forward(run, error) : status;
}

SermStatus
serm_encoder_attribute(const SermEncoder *encoder, const SermEncoderInput *input, const SermEncoderHost *host,
    SermArena *scratch, SermPrediction *prediction, SermReal *contribution, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(scratch);
	SermEncoderRun run = {.encoder = encoder, .host = host, .inputs = &input, .count = 1, .keep = true};
	SermEncoderBack back = {.config = &encoder->config, .gemm = &serm_gemm_packed};
	bool modern = encoder->config.architecture == SERM_ENCODER_MODERNBERT;
	SermReal d_logits[SERM_ENCODER_LABELS_MAX];
	double d_score[SERM_ENCODER_LABELS_MAX];
	size_t hidden = encoder->config.hidden;
	SermStatus status = run_forward(&run, scratch, error);

	if (status == SERM_OK) {
		(void) serm_cross_read_logits(encoder->config.labels, run.logits, prediction, d_score);
		for (uint32_t y = 0; y < encoder->config.labels; y++)
			d_logits[y] = (SermReal) d_score[y];
		back.d_words = serm_arena_reserve(scratch, input->length * hidden * sizeof(SermReal));
		status = back.d_words == NULL ? no_memory(error)
		                              : serm_encoder_backward(&back, &run, d_logits, scratch, error);
	}
	for (uint32_t t = 0; status == SERM_OK && t < input->length; t++) {
		const SermReal *word = modern ? run.layers[0].input + t * hidden
		                              : encoder->plain + encoder->layout.words + input->ids[t] * hidden;
		double sum = 0;

		for (size_t c = 0; c < hidden; c++)
			sum += (double) word[c] * back.d_words[t * hidden + c];
		contribution[t] = (SermReal) sum;
	}
	serm_arena_rewind(scratch, mark);
	return status;
}

/* Add what a word brings to its term; words are told apart by their spelling and where they stand. */
static bool
add_word(Collector *collector, SermText word, bool query, bool body, double contribution)
{
	SermExplainedTerm *term = collector->terms, *end = term + collector->count;
	char *copy;

	for (; term < end; term++) {
		SermText other = query ? term->query_term : term->doc_term;

		if (term->query == query && term->body == body && other.length == word.length &&
		    memcmp(other.bytes, word.bytes, word.length) == 0)
			break;
	}
	if (term == end) {
		copy = serm_arena_copy(collector->arena, word.bytes, word.length);
		if (copy == NULL)
			return false;
		*term = (SermExplainedTerm){.query = query, .body = body};
		*(query ? &term->query_term : &term->doc_term) = (SermText){copy, word.length};
		collector->count++;
	}
	term->contribution += (float) contribution;
	return true;
}

/* The spelling of a word so far, clipped. */
typedef struct Spelling {
	char bytes[SPELLING_MAX];
	size_t length;
} Spelling;

static void
append_piece(Spelling *spelling, const char *piece, size_t bytes)
{
	size_t room = sizeof(spelling->bytes) - spelling->length;

	bytes = bytes < room ? bytes : room;
	memcpy(spelling->bytes + spelling->length, piece, bytes);
	spelling->length += bytes;
}

/* Pieces of bytes may end within a character: what is no UTF-8 is shown as U+FFFD. */
static SermText
valid_text(const Spelling *spelling, char *out)
{
	size_t length = 0;

	for (size_t at = 0; at < spelling->length;) {
		uint32_t code_point;

		at += serm_utf8_decode(spelling->bytes + at, spelling->length - at, &code_point);
		length += serm_utf8_encode(code_point, out + length);
	}
	return (SermText){out, length};
}

/* The words of tokens [from, end) of an input; the first `title` of a document's belong to the title. */
static bool
collect(Collector *collector, const SermEncoderInput *input, const SermReal *contribution, uint32_t from,
    uint32_t end, bool query, uint32_t title)
{
	char piece[SERM_PIECE_BYTES_MAX], text[3 * SPELLING_MAX + 4];
	Spelling spelling = {.length = 0};
	double sum = 0;
	bool body = false;

	for (uint32_t t = from; t <= end; t++) {
		bool begins = true, in_body = !query && t - from >= title;
		size_t bytes = 0;

		if (t < end)
			bytes = serm_tokenizer_spell(collector->opened->tokenizer, input->ids[t], piece, &begins);
		if (t > from && (begins || in_body != body) &&
		    !add_word(collector, valid_text(&spelling, text), query, body, sum))
			return false;
		if (begins || in_body != body || t == from)
			spelling.length = 0, sum = 0, body = in_body;
		if (t < end) {
			append_piece(&spelling, piece, bytes);
			sum += contribution[t];
		}
	}
	return true;
}

/* Which of the inputs gives the score. */
static SermStatus
choose_input(const SermCrossEncoder *opened, const SermCrossPair *pair, SermArena *arena, uint32_t *best,
    SermError *error)
{
	float top = 0;

	*best = 0;
	for (uint32_t i = 0; pair->count > 1 && i < pair->count; i++) {
		SermCrossPair one = {&pair->inputs[i], 1};
		SermPrediction prediction;
		SermStatus status = serm_cross_score(opened, &one, 1, arena, &prediction, error);

		if (status != SERM_OK)
			return status;
		if (i == 0 || prediction.score > top)
			top = prediction.score, *best = i;
	}
	return SERM_OK;
}

static SermStatus
explain_input(Collector *collector, const SermEncoderInput *input, const SermCrossPlace *place,
    uint32_t title, SermExplanation *explanation, SermError *error)
{
	const SermModel *model = &collector->opened->model;
	SermEncoderHost host = {model->keep_going, model->keep_going_context};
	SermReal *contribution = serm_arena_array(collector->arena, input->length, sizeof(*contribution));
	uint32_t left = title > place->doc_first ? title - place->doc_first : 0;
	SermPrediction prediction;
	double rest;
	SermStatus status;

	collector->terms = serm_arena_array(collector->arena, input->length, sizeof(*collector->terms));
	if (contribution == NULL || collector->terms == NULL)
		return no_memory(error);
	status = serm_encoder_attribute(
	    collector->opened->encoder, input, &host, collector->arena, &prediction, contribution, error);
	if (status != SERM_OK)
		return status;
	if (!collect(collector, input, contribution, place->query_start, place->query_start + place->query_count,
	        true, 0) ||
	    !collect(collector, input, contribution, place->doc_start, place->doc_start + place->doc_count, false,
	        left < place->doc_count ? left : place->doc_count))
		return no_memory(error);
	rest = prediction.score;
	for (uint32_t i = 0; i < collector->count; i++)
		rest -= collector->terms[i].contribution;
	*explanation = (SermExplanation){prediction.score, (float) rest, collector->count, collector->terms};
	return SERM_OK;
}

SermStatus
serm_cross_explain(const SermModel *model, const SermQuery *query, const SermTokenDocument *doc,
    SermArena *arena, SermExplanation *explanation, SermError *error)
{
	const SermCrossEncoder *opened = (const SermCrossEncoder *) model;
	Collector collector = {opened, arena, NULL, 0};
	SermCrossPlace *places;
	SermCrossPair pair;
	uint32_t best;
	SermStatus status = serm_cross_check(opened, doc, error);

	SERM_ASSERT(serm_model_reads_text(model) && query->model == model);
	if (status == SERM_OK)
		status = serm_cross_read(
		    opened, (const SermCrossQuery *) query, doc->ids, doc->count, arena, &pair, &places, error);
	if (status == SERM_OK)
		status = choose_input(opened, &pair, arena, &best, error);
	if (status == SERM_OK)
		status = explain_input(&collector, &pair.inputs[best], &places[best], doc->title, explanation, error);
	return status;
}
