/*
 * Explanations of cross-encoders: contributions of tokens against central
 * differences, in every architecture and precision, and the words that they
 * are shown as.
 */
#include "core/model/cross_encoder_parts.h"
#include "core/train/encoder_explain.h"
#include "cross_fixture.h"

#ifdef SERM_REAL_DOUBLE
#define STEP 1e-4
#define TOLERANCE 1e-6
#else
#define STEP 2e-2
#define TOLERANCE 1e-2
#endif

static double
score_of(const SermEncoder *encoder, const SermEncoderInput *input, SermArena *arena)
{
	SermReal logits[SERM_ENCODER_LABELS_MAX];
	SermPrediction prediction;
	SermError error;

	if (serm_encoder_score(encoder, input, 1, NULL, arena, logits, &error) != SERM_OK)
		return NAN;
	return serm_cross_read_logits(encoder->config.labels, logits, &prediction, NULL);
}

/* The difference that the first norm makes when all that it gives grows by STEP of itself, both ways. */
static double
norm_difference(const SermEncoder *encoder, const SermEncoderInput *input, SermReal *flat, SermArena *arena)
{
	size_t hidden = encoder->config.hidden;
	SermReal *gamma = flat + encoder->layout.gamma, *beta = flat + encoder->layout.beta, kept[2][64];
	double score[2];

	memcpy(kept[0], gamma, hidden * sizeof(*gamma)), memcpy(kept[1], beta, hidden * sizeof(*beta));
	for (int side = 0; side < 2; side++) {
		for (size_t c = 0; c < hidden; c++) {
			gamma[c] = kept[0][c] * (SermReal) (side == 0 ? 1 + STEP : 1 - STEP);
			beta[c] = kept[1][c] * (SermReal) (side == 0 ? 1 + STEP : 1 - STEP);
		}
		score[side] = score_of(encoder, input, arena);
	}
	memcpy(gamma, kept[0], hidden * sizeof(*gamma)), memcpy(beta, kept[1], hidden * sizeof(*beta));
	return (score[0] - score[1]) / (2 * STEP);
}

/* The difference that the embedding of word `id` makes when it grows by STEP of itself, both ways. */
static double
difference(
    const SermEncoder *encoder, const SermEncoderInput *input, uint32_t id, SermReal *flat, SermArena *arena)
{
	size_t hidden = encoder->config.hidden;
	SermReal *row = flat + encoder->layout.words + id * hidden, kept[64];
	double score[2];

	memcpy(kept, row, hidden * sizeof(*row));
	for (int side = 0; side < 2; side++) {
		for (size_t c = 0; c < hidden; c++)
			row[c] = kept[c] * (SermReal) (side == 0 ? 1 + STEP : 1 - STEP);
		score[side] = score_of(encoder, input, arena);
	}
	memcpy(row, kept, hidden * sizeof(*row));
	return (score[0] - score[1]) / (2 * STEP);
}

static void
test_contributions(SermEncoderArchitecture architecture, uint32_t labels, SermArena *arena)
{
	enum { LENGTH = 23 };
	SermEncoderConfig config = fixture_config(architecture);
	SermReal *flat, contribution[LENGTH];
	double worst = 0, largest = 0;
	SermPrediction prediction;
	SermEncoderInput input;
	SermEncoder *encoder;
	SermError error;
	SermRng rng;

	config.labels = labels;
	flat = fixture_flat(&config, 91, arena);
	encoder = fixture_encoder(&config, SERM_PRECISION_F32, flat, arena);
	serm_rng_seed(&rng, 92);
	input = fixture_input(&config, LENGTH, &rng, arena);
	((uint32_t *) input.ids)[5] = input.ids[11];
	CHECK(serm_encoder_attribute(encoder, &input, NULL, arena, &prediction, contribution, &error) == SERM_OK,
	    "%s, %u labels", serm_encoder_architecture_name(architecture), labels);
	CHECK_NEAR(prediction.score, score_of(encoder, &input, arena), 1e-6, "the score itself");
	for (int t = 0; t < LENGTH && architecture == SERM_ENCODER_MODERNBERT; t++) {
		largest = fmax(largest, fabs((double) contribution[t]));
		worst += contribution[t];
	}
	if (architecture == SERM_ENCODER_MODERNBERT)
		worst = fabs(worst - norm_difference(encoder, &input, flat, arena));
	for (int t = 0; t < LENGTH && architecture != SERM_ENCODER_MODERNBERT; t++) {
		double sum = 0;

		for (int other = 0; other < LENGTH; other++)
			sum += input.ids[other] == input.ids[t] ? contribution[other] : 0;
		worst = fmax(worst, fabs(sum - difference(encoder, &input, input.ids[t], flat, arena)));
		largest = fmax(largest, fabs(sum));
	}
	CHECK(largest > .005 && worst < TOLERANCE * largest, "contributions are differences: off by %.2g of %.2g",
	    worst, largest);
}

/* Narrow weights: the derivative of what the narrow weights compute. */
static void
test_precisions(SermArena *arena)
{
	enum { LENGTH = 17 };
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermReal *flat = fixture_flat(&config, 93, arena), exact[LENGTH], narrow[LENGTH];
	SermPrediction prediction;
	SermEncoderInput input;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 94);
	input = fixture_input(&config, LENGTH, &rng, arena);
	for (int p = 0; p < SERM_PRECISION_COUNT; p++) {
		SermEncoder *encoder = fixture_encoder(&config, (SermPrecision) p, flat, arena);
		double worst = 0, norm = 0;

		CHECK(serm_encoder_attribute(
		          encoder, &input, NULL, arena, &prediction, p == 0 ? exact : narrow, &error) == SERM_OK,
		    "%s", serm_precision_name((SermPrecision) p));
		for (int t = 0; t < LENGTH && p > 0; t++) {
			worst = fmax(worst, fabs((double) narrow[t] - exact[t]));
			norm = fmax(norm, fabs((double) exact[t]));
		}
		CHECK(p == 0 || (worst > 0 && worst < .3 * norm), "%s: near those of f32, %.2g of %.2g",
		    serm_precision_name((SermPrecision) p), worst, norm);
	}
}

static bool
never(void *context)
{
	(void) context;
	return false;
}

static const SermExplainedTerm *
find_term(const SermExplanation *explanation, const char *word, bool query, bool body)
{
	for (uint32_t i = 0; i < explanation->count; i++) {
		const SermExplainedTerm *term = &explanation->terms[i];
		SermText text = query ? term->query_term : term->doc_term;

		if (term->query == query && term->body == body && text.length == strlen(word) &&
		    memcmp(text.bytes, word, text.length) == 0)
			return term;
	}
	return NULL;
}

static void
test_words(SermArena *arena)
{
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermModelSettings settings = {.chunk_count = 1};
	SermText text = text_of("blue pillow soft\nsoft pillow and soft");
	SermExplanation explanation = {0};
	SermTokenDocument doc;
	SermPrediction prediction;
	SermTensorSet tensors;
	SermModel *model;
	SermQuery *query;
	SermError error;
	double sum;

	config.pad_id = 0;
	tensors = stored_tensors(&config, fixture_flat(&config, 95, arena), arena);
	CHECK(serm_model_open_with(SERM_KIND_CROSS_ENCODER, &tensors, &settings, arena, &model, &error) ==
	              SERM_OK &&
	          serm_model_parse_query(model, text_of("blue pill"), arena, &query, &error) == SERM_OK &&
	          serm_model_encode(model, text, arena, &doc, &error) == SERM_OK,
	    "a model, a query and a document");
	CHECK(doc.title == 4 && doc.count == 9, "tokens of the title and of all");
	CHECK(serm_cross_explain(model, query, &doc, arena, &explanation, &error) == SERM_OK, "explained");
	CHECK(explanation.count == 2 + 3 + 3, "%u terms: of the query, of the title, of the body",
	    explanation.count);
	CHECK(find_term(&explanation, "blue", true, false) != NULL &&
	          find_term(&explanation, "pill", true, false) != NULL &&
	          find_term(&explanation, "pillow", false, false) != NULL &&
	          find_term(&explanation, "pillow", false, true) != NULL &&
	          find_term(&explanation, "soft", false, true) != NULL &&
	          find_term(&explanation, "and", false, true) != NULL,
	    "pieces make words");
	sum = explanation.base;
	for (uint32_t i = 0; i < explanation.count; i++)
		sum += explanation.terms[i].contribution;
	CHECK(serm_model_predict(model, query, text, arena, &prediction, &error) == SERM_OK &&
	          prediction.score == explanation.score,
	    "of the score of the text");
	CHECK_NEAR(sum, prediction.score, 1e-6, "to which base and contributions sum");
	serm_model_set_host(model, never, NULL);
	CHECK(
	    serm_cross_explain(model, query, &doc, arena, &explanation, &error) == SERM_ERR_CANCELED, "canceled");
	doc.tokenizer++;
	CHECK(serm_cross_explain(model, query, &doc, arena, &explanation, &error) == SERM_ERR_INVALID,
	    "not of another tokenizer's tokens");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_contributions(SERM_ENCODER_BERT, 4, &arena);
	test_contributions(SERM_ENCODER_BERT, 1, &arena);
	test_contributions(SERM_ENCODER_ROBERTA, 3, &arena);
	test_contributions(SERM_ENCODER_MODERNBERT, 4, &arena);
	test_precisions(&arena);
	test_words(&arena);
	serm_arena_free(&arena);
	DONE();
}
