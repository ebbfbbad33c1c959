/*
 * From texts to the inputs of an encoder, and from its logits to predictions.
 *
 * What is cut is what SERM_TRUNCATE_LONGEST_FIRST cuts. In chunks a document is
 * read through windows of the size that it would have been cut to, so the first
 * chunk is the input of a document that is cut.
 */
#include <math.h>

#include "core/model/cross_encoder_parts.h"
#include "core/model/encoder_pair.h"

static SermStatus
no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "a pair does not fit into the memory limit of the encoder");
}

/* How many windows of `size` tokens cover `count`, `step` apart. */
static uint32_t
windows_of(uint32_t count, uint32_t size, uint32_t step)
{
	return count <= size ? 1 : 1 + (count - size + step - 1) / step;
}

/* Which tokens of a pair are read: so many of the query, and windows of `size` on the document. */
typedef struct Windows {
	uint32_t query_count;
	const uint32_t *doc;
	uint32_t doc_count, size, step, count;
} Windows;

static SermStatus
choose_windows(const SermCrossEncoder *opened, const SermCrossQuery *query, SermArena *arena,
    Windows *windows, SermError *error)
{
	const SermModelSettings *settings = &opened->settings;
	SermArenaMark mark = serm_arena_mark(arena);
	uint32_t overlap;
	SermTokens cut;
	SermStatus status;

	windows->query_count = query->count;
	windows->size = windows->step = windows->doc_count;
	windows->count = 1;
	if (settings->long_documents == SERM_LONG_TRUNCATE)
		return SERM_OK;
	status = serm_tokenizer_pair(opened->tokenizer, query->ids, query->count, windows->doc,
	    windows->doc_count, opened->tokens_max, SERM_TRUNCATE_LONGEST_FIRST, arena, &cut, error);
	serm_arena_rewind(arena, mark);
	if (status != SERM_OK || cut.second_count == 0 || cut.second_count == windows->doc_count)
		return status;
	overlap = settings->chunk_overlap < cut.second_count / 2 ? settings->chunk_overlap : cut.second_count / 2;
	windows->query_count = cut.first_count;
	windows->size = cut.second_count;
	windows->step = windows->size - overlap;
	windows->count = windows_of(windows->doc_count, windows->size, windows->step);
	if (settings->long_documents == SERM_LONG_CHUNK_FIRST && windows->count > settings->chunk_count)
		windows->count = settings->chunk_count;
	return SERM_OK;
}

/* The inputs of a document of these tokens. */
static SermStatus
add_windows(const SermCrossEncoder *opened, const SermCrossQuery *query, Windows *windows, SermArena *arena,
    SermCrossPair *pair, SermCrossPlace **places, SermError *error)
{
	SermStatus status = choose_windows(opened, query, arena, windows, error);

	if (status != SERM_OK)
		return status;
	pair->count = windows->count;
	pair->inputs = serm_arena_array(arena, windows->count, sizeof(*pair->inputs));
	if (places != NULL)
		*places = serm_arena_array(arena, windows->count, sizeof(**places));
	if (pair->inputs == NULL || (places != NULL && *places == NULL))
		return no_memory(error);
	for (uint32_t i = 0; status == SERM_OK && i < windows->count; i++) {
		/* The last one is moved back to the document's end: it is as long as the others. */
		uint32_t last = windows->doc_count - windows->size,
		         first = i * windows->step < last ? i * windows->step : last;
		SermTokens tokens;

		status =
		    serm_encoder_pair(&opened->encoder->config, opened->tokenizer, query->ids, windows->query_count,
		        windows->doc + first, windows->size, opened->tokens_max, arena, &tokens, error);
		if (status != SERM_OK)
			return status;
		pair->inputs[i] = (SermEncoderInput){tokens.ids, tokens.types, tokens.count, 0};
		if (places != NULL)
			(*places)[i] = (SermCrossPlace){
			    tokens.first_start, tokens.first_count, tokens.second_start, tokens.second_count, first};
	}
	return SERM_OK;
}

uint32_t
serm_cross_wanted(const SermCrossEncoder *opened, const SermCrossQuery *query)
{
	return opened->settings.long_documents != SERM_LONG_TRUNCATE
	           ? SERM_TOKENS_MAX
	           : serm_tokenizer_wanted(query->count, opened->tokens_max);
}

SermStatus
serm_cross_read(const SermCrossEncoder *opened, const SermCrossQuery *query, const uint32_t *doc,
    uint32_t count, SermArena *arena, SermCrossPair *pair, SermCrossPlace **places, SermError *error)
{
	Windows windows = {.doc = doc, .doc_count = count};

	return add_windows(opened, query, &windows, arena, pair, places, error);
}

SermStatus
serm_cross_check(const SermCrossEncoder *opened, const SermTokenDocument *doc, SermError *error)
{
	uint32_t vocab = serm_tokenizer_vocab(opened->tokenizer);

	if (doc->tokenizer != serm_tokenizer_fingerprint(opened->tokenizer))
		return serm_fail(error, SERM_ERR_INVALID, "the document was encoded for another tokenizer");
	for (uint32_t i = 0; i < doc->count; i++) {
		uint32_t id = doc->ids[i];

		if (id >= vocab)
			return serm_fail(
			    error, SERM_ERR_INVALID, "token %u of the document is not in the vocabulary", (unsigned) id);
		/* Only somebody who wrote the ids himself has those: they would forge the structure of the pair. */
		if (serm_tokenizer_special(opened->tokenizer, id) && id != serm_tokenizer_unknown(opened->tokenizer))
			return serm_fail(error, SERM_ERR_INVALID,
			    "token %u of the document is a special one, which no text gives", (unsigned) id);
	}
	return SERM_OK;
}

/* One label is the logit of the better of two grades. */
double
serm_cross_read_logits(uint32_t labels, const SermReal *logits, SermPrediction *prediction, double *d_score)
{
	uint32_t grades = labels == 1 ? 2 : labels;
	double logit[SERM_GRADES_MAX] = {0}, top, total = 0, score = 0, entropy = 0;

	for (uint32_t y = 0; y < labels; y++)
		logit[y + (labels == 1)] = logits[y];
	top = logit[0];
	for (uint32_t y = 1; y < grades; y++)
		top = fmax(top, logit[y]);
	for (uint32_t y = 0; y < grades; y++)
		total += logit[y] = exp(logit[y] - top);
	*prediction = (SermPrediction){.grade_count = grades, .head_count = 1};
	for (uint32_t y = 0; y < grades; y++) {
		double p = logit[y] / total;

		prediction->probability[y] = (float) p;
		score += y * p;
		entropy -= p > 0 ? p * log(p) : 0;
		if (logit[y] > logit[prediction->argmax])
			prediction->argmax = y;
	}
	for (uint32_t y = 0; d_score != NULL && y < labels; y++) {
		uint32_t grade = y + (labels == 1);

		d_score[y] = logit[grade] / total * (grade - score);
	}
	prediction->score = prediction->head_score[0] = (float) score;
	prediction->entropy = (float) entropy;
	prediction->grade = prediction->argmax;
	return score;
}

SermStatus
serm_cross_score(const SermCrossEncoder *opened, const SermCrossPair *pairs, uint32_t count,
    SermArena *scratch, SermPrediction *predictions, SermError *error)
{
	SermEncoderHost host = {opened->model.keep_going, opened->model.keep_going_context};
	uint32_t labels = opened->encoder->config.labels, total = 0, at = 0;
	SermArenaMark mark = serm_arena_mark(scratch);
	SermEncoderInput *inputs;
	SermReal *logits;
	SermStatus status;

	for (uint32_t i = 0; i < count; i++)
		total += pairs[i].count;
	inputs = serm_arena_array(scratch, total, sizeof(*inputs));
	logits = serm_arena_array(scratch, (size_t) total * labels, sizeof(*logits));
	if (inputs == NULL || logits == NULL)
		return no_memory(error);
	for (uint32_t i = 0; i < count; i++)
		for (uint32_t c = 0; c < pairs[i].count; c++)
			inputs[at++] = pairs[i].inputs[c];
	status = serm_encoder_score(opened->encoder, inputs, total, &host, scratch, logits, error);
	at = 0;
	for (uint32_t i = 0; status == SERM_OK && i < count; i++)
		for (uint32_t c = 0; c < pairs[i].count; c++, at++) {
			SermPrediction one;

			(void) serm_cross_read_logits(labels, logits + (size_t) at * labels, &one, NULL);
			if (c == 0 || one.score > predictions[i].score)
				predictions[i] = one;
		}
	serm_arena_rewind(scratch, mark);
	return status;
}
