/*
 * The model kind "cross_encoder": from stored tensors and from prepared ones,
 * one pair and a batch, one label and grades.
 */
#include "cross_fixture.h"

enum { DOCS = 5 };

static const SermModelSettings plain_settings = {.chunk_count = 1};

static const char *const docs[DOCS] = {
    "blue pillow\nsoft and blue", "pill", "", "pillow pillow pillow blue", "a [SEP] b"};

/* Documents by their tokens: stored, printed, read back, with the bits of their texts. */
static void
test_tokens(SermModel *model, const SermQuery *query, const SermPrediction *expected, SermArena *arena)
{
	SermBatch *batch = serm_model_batch(model, arena);
	SermPrediction one, together[DOCS];
	bool same = true, back = true;
	SermTokenDocument doc, other;
	SermError error;

	for (int d = 0; d < DOCS; d++) {
		unsigned char bytes[256], again[256];
		size_t size = 0;
		char *text;

		same = same && serm_model_encode(model, text_of(docs[d]), arena, &doc, &error) == SERM_OK &&
		       (size = serm_token_document_size(&doc)) <= sizeof(bytes);
		serm_token_document_write(&doc, bytes);
		same = same &&
		       serm_token_document_read(bytes, size, SERM_TOKENS_MAX, arena, &doc, &error) == SERM_OK &&
		       serm_model_predict_tokens(model, query, &doc, arena, &one, &error) == SERM_OK &&
		       memcmp(&one, &expected[d], sizeof(one)) == 0 &&
		       serm_batch_add_tokens(batch, query, &doc, &error) == SERM_OK;
		text = serm_token_document_print(&doc, arena);
		back = back && serm_token_document_scan(text_of(text), arena, &other, &error) == SERM_OK;
		serm_token_document_write(&other, again);
		back = back && serm_token_document_size(&other) == size && memcmp(bytes, again, size) == 0;
		for (size_t length = 0; length < 16; length++)
			back = back && serm_token_document_read(bytes, length, SERM_TOKENS_MAX, arena, &other, &error) ==
			                   SERM_ERR_CORRUPT;
	}
	CHECK(same && serm_batch_run(batch, together, &error) == SERM_OK &&
	          memcmp(together, expected, sizeof(together)) == 0,
	    "tokens have the bits of their text, alone and in a batch");
	CHECK(back, "they can be printed and read back, and not when they are cut");
	doc.tokenizer ^= 1;
	CHECK(serm_model_predict_tokens(model, query, &doc, arena, &one, &error) == SERM_ERR_INVALID &&
	          serm_batch_add_tokens(batch, query, &doc, &error) == SERM_ERR_INVALID,
	    "those of another tokenizer are refused");
}

/* What could not have been written is refused. */
static void
test_token_bytes(SermArena *arena)
{
	static const char *const texts[] = {"2 0123456789abcdef 0", "2 0123456789abcdef 1 0",
	    "2 0123456789abcdef 2 5 65536 7", "2 0123456789abcdef 0 16777215"};
	static const char *const wrong[] = {"2 ", "2 0123456789abcdeg 0", "2 0123456789abcdef",
	    "2 0123456789abcdef 1", "2 0123456789abcdef 0 01", "2 0123456789abcdef 0 1 ",
	    "2 0123456789abcdef 0  1", "2 0123456789abcdef 0 -1", "2 0123456789abcdef 0 16777216",
	    "2 0123456789abcdef 00 1", "2 0123456789abcdef 0 1x", "1 0123456789abcdef 0 1"};
	unsigned char bytes[64];
	SermTokenDocument doc;
	SermError error;
	uint32_t good = 0;

	for (size_t i = 0; i < SERM_LENGTH(texts); i++)
		good += serm_token_document_scan(text_of(texts[i]), arena, &doc, &error) == SERM_OK &&
		        strcmp(serm_token_document_print(&doc, arena), texts[i]) == 0;
	CHECK(good == SERM_LENGTH(texts), "readable forms");
	for (size_t i = 0; i < SERM_LENGTH(wrong); i++)
		good += serm_token_document_scan(text_of(wrong[i]), arena, &doc, &error) == SERM_ERR_INVALID;
	CHECK(good == SERM_LENGTH(texts) + SERM_LENGTH(wrong), "and what is none");
	serm_token_document_scan(text_of(texts[2]), arena, &doc, &error);
	serm_token_document_write(&doc, bytes);
	CHECK(serm_token_document_size(&doc) == 16 + 9 &&
	          serm_token_document_read(bytes, 25, 2, arena, &doc, &error) == SERM_OK && doc.count == 2 &&
	          doc.ids[1] == 65536,
	    "as many ids as are wanted, in three bytes where they need them");
	CHECK(serm_token_document_read(bytes, 24, 9, arena, &doc, &error) == SERM_ERR_CORRUPT, "half an id");
	bytes[12] = 4;
	CHECK(
	    serm_token_document_read(bytes, 25, 9, arena, &doc, &error) == SERM_ERR_CORRUPT, "too long a title");
	bytes[12] = 2, bytes[16 + 5] = 0;
	CHECK(serm_token_document_read(bytes, 25, 9, arena, &doc, &error) == SERM_ERR_CORRUPT, "too wide");
	bytes[3] = 1;
	CHECK(serm_token_document_read(bytes, 25, 9, arena, &doc, &error) == SERM_ERR_CORRUPT,
	    "bits that are not used");
}

static void
test_scores(uint32_t labels, SermArena *arena)
{
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	uint32_t grades = labels == 1 ? 2 : labels, ids[] = {2, 4, 5, 6, 3, 5, 3};
	uint8_t types[] = {0, 0, 0, 0, 0, 1, 1};
	SermEncoderInput input = {ids, types, 7, 0};
	SermPrediction alone[DOCS], together[DOCS], other;
	double logits[4], total = 0, score = 0, sum = 0;
	SermModel *stored, *ready;
	SermTensorSet tensors, prepared;
	SermQuery *query, *same_query;
	SermBatch *batch;
	SermError error;
	SermReal *flat;
	bool same = true;

	config.labels = labels, config.pad_id = 0, config.sigmoid = labels == 1;
	config.global_every = 0;
	flat = fixture_flat(&config, 81, arena);
	tensors = stored_tensors(&config, flat, arena);
	CHECK(serm_cross_encoder_stored(&tensors), "stored tensors are known as such");
	CHECK(serm_model_open(SERM_KIND_CROSS_ENCODER, &tensors, arena, &stored, &error) == SERM_OK,
	    "opened as stored");
	CHECK(serm_cross_encoder_prepare(&tensors, &plain_settings, NULL, arena, &prepared, &error) == SERM_OK &&
	          !serm_cross_encoder_stored(&prepared) &&
	          serm_model_open(SERM_KIND_CROSS_ENCODER, &prepared, arena, &ready, &error) == SERM_OK,
	    "opened as prepared");
	CHECK(serm_model_grade_count(ready) == grades && serm_model_reads_text(ready), "%u labels, %u grades",
	    labels, grades);
	serm_model_parse_query(stored, text_of("blue pillow"), arena, &same_query, &error);
	serm_model_parse_query(ready, text_of("blue pillow"), arena, &query, &error);
	batch = serm_model_batch(ready, arena);
	for (int d = 0; d < DOCS; d++) {
		same =
		    same && serm_model_predict(ready, query, text_of(docs[d]), arena, &alone[d], &error) == SERM_OK;
		same = same &&
		       serm_model_predict(stored, same_query, text_of(docs[d]), arena, &other, &error) == SERM_OK;
		same = same && memcmp(&alone[d], &other, sizeof(other)) == 0;
		same = same && serm_batch_add_text(batch, query, text_of(docs[d]), &error) == SERM_OK;
	}
	same = same && serm_batch_run(batch, together, &error) == SERM_OK && serm_batch_count(batch) == 0;
	CHECK(same && memcmp(alone, together, sizeof(alone)) == 0,
	    "stored, prepared, alone and in a batch: the same bits");
	plain_forward(&config, flat, &input, logits, NULL, arena);
	if (labels == 1)
		score = 1 / (1 + exp(-logits[0]));
	for (uint32_t y = 0; labels > 1 && y < labels; y++)
		total += exp(logits[y]), sum += y * exp(logits[y]);
	if (labels > 1)
		score = sum / total;
	CHECK_NEAR(alone[1].score, score, 1e-5, "the score of [CLS] blue pill ##ow [SEP] pill [SEP]");
	test_tokens(ready, query, alone, arena);
	CHECK(serm_model_predict_parsed(ready, query, &(SermDocument){0}, &other, &error) == SERM_ERR_INVALID &&
	          serm_batch_add(batch, query, &(SermDocument){0}, &error) == SERM_ERR_INVALID,
	    "encoded documents are refused");
}

/* Scores of `docs` by a model that was prepared and opened with these settings. */
static bool
scores_with(const SermTensorSet *tensors, const SermModelSettings *settings, const char *const *texts,
    uint32_t count, SermPrediction *predictions, SermArena *arena)
{
	SermTensorSet prepared;
	SermModel *model;
	SermQuery *query;
	SermError error;
	bool good = serm_cross_encoder_prepare(tensors, settings, NULL, arena, &prepared, &error) == SERM_OK &&
	            serm_model_open_with(SERM_KIND_CROSS_ENCODER, &prepared, settings, arena, &model, &error) ==
	                SERM_OK &&
	            serm_model_parse_query(model, text_of("blue pillow"), arena, &query, &error) == SERM_OK;

	for (uint32_t i = 0; good && i < count; i++)
		good = serm_model_predict(model, query, text_of(texts[i]), arena, &predictions[i], &error) == SERM_OK;
	return good;
}

static void
test_precisions(SermArena *arena)
{
	static const double tolerance[] = {0, 2e-2, 6e-2};
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermPrediction exact[DOCS], other[DOCS];
	SermTensorSet tensors, prepared;
	SermModel *model;
	SermError error;

	config.pad_id = 0;
	tensors = stored_tensors(&config, fixture_flat(&config, 83, arena), arena);
	CHECK(scores_with(&tensors, &plain_settings, docs, DOCS, exact, arena), "f32");
	for (int p = SERM_PRECISION_BF16; p < SERM_PRECISION_COUNT; p++) {
		SermModelSettings settings = {.precision = (SermPrecision) p, .chunk_count = 1};
		const char *name = serm_precision_name(settings.precision);
		SermPrecision parsed;
		double worst = 0;

		CHECK(serm_precision_parse(name, &parsed) && parsed == settings.precision, "%s is a name", name);
		CHECK(scores_with(&tensors, &settings, docs, DOCS, other, arena), "%s", name);
		for (int d = 0; d < DOCS; d++)
			worst = fmax(worst, fabs((double) exact[d].score - other[d].score));
		CHECK(worst > 0 && worst < tolerance[p], "%s moves scores by little: %.2g", name, worst);
		CHECK(serm_cross_encoder_prepare(&tensors, &settings, NULL, arena, &prepared, &error) == SERM_OK &&
		          serm_model_open(SERM_KIND_CROSS_ENCODER, &prepared, arena, &model, &error) ==
		              SERM_ERR_CORRUPT,
		    "weights laid out in %s are not read as f32", name);
	}
	CHECK(!serm_precision_parse("f64", &(SermPrecision){0}), "f64 is none");
	CHECK(serm_precision_here(SERM_PRECISION_BF16) == SERM_PRECISION_BF16, "bf16 is computed everywhere");
}

/* A long document in each mode: the windows, and short ones that no mode changes. */
static void
test_long_documents(SermArena *arena)
{
	enum { LONG = 200, OVERLAP = 7 };
	static const char *const vocabulary[] = {"blue", "pill", "soft", "and"};
	/* The query and the special tokens take 6 of 70. */
	const uint32_t room = 70 - 6, step = room - OVERLAP;
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermModelSettings settings = {.chunk_count = 1, .chunk_overlap = OVERLAP};
	char text[LONG * 5 + 1] = "", part[4][LONG * 5 + 1] = {""};
	const uint32_t starts[] = {0, step, 2 * step, LONG - room};
	const char *texts[] = {text, "pill", part[0], part[1], part[2], part[3]};
	SermPrediction cut[6], first[6], most[6], best;
	SermTensorSet tensors;
	SermRng rng;

	config.pad_id = 0;
	serm_rng_seed(&rng, 86);
	for (uint32_t w = 0; w < LONG; w++) {
		const char *word = vocabulary[serm_rng_below(&rng, 4)];

		strcat(strcat(text, word), " ");
		for (int i = 0; i < 4; i++)
			if (w >= starts[i] && w < starts[i] + room)
				strcat(strcat(part[i], word), " ");
	}
	tensors = stored_tensors(&config, fixture_flat(&config, 84, arena), arena);
	CHECK(scores_with(&tensors, &settings, texts, 6, cut, arena), "cut");
	settings.long_documents = SERM_LONG_CHUNK_FIRST;
	CHECK(scores_with(&tensors, &settings, texts, 6, first, arena) && memcmp(cut, first, sizeof(cut)) == 0,
	    "the first chunk has the bits of a document that is cut");
	settings.long_documents = SERM_LONG_CHUNK_MAX;
	CHECK(scores_with(&tensors, &settings, texts, 6, most, arena) &&
	          memcmp(cut + 1, most + 1, sizeof(cut) - sizeof(*cut)) == 0,
	    "documents that fit have the same bits in chunks");
	best = cut[2];
	for (int i = 3; i < 6; i++)
		if (cut[i].score > best.score)
			best = cut[i];
	CHECK(memcmp(&cut[0], &cut[2], sizeof(best)) == 0 && memcmp(&most[0], &best, sizeof(best)) == 0 &&
	          best.score > cut[0].score,
	    "the best of four windows that overlap counts: %.4f, the first %.4f", best.score, cut[0].score);
	settings.long_documents = SERM_LONG_CHUNK_FIRST, settings.chunk_count = 2;
	CHECK(scores_with(&tensors, &settings, texts, 1, first, arena) &&
	          memcmp(&first[0], cut[2].score >= cut[3].score ? &cut[2] : &cut[3], sizeof(best)) == 0,
	    "or that of the first two");
}

static bool
never(void *context)
{
	(void) context;
	return false;
}

static void
test_refusals(SermArena *arena)
{
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermTensorSet tensors;
	SermPrediction prediction;
	SermModel *model;
	SermQuery *query;
	SermBatch *batch;
	SermError error;

	config.pad_id = 0;
	tensors = stored_tensors(&config, fixture_flat(&config, 82, arena), arena);
	serm_model_open(SERM_KIND_CROSS_ENCODER, &tensors, arena, &model, &error);
	serm_model_set_host(model, never, NULL);
	serm_model_parse_query(model, text_of("blue"), arena, &query, &error);
	CHECK(serm_model_predict(model, query, text_of("pill"), arena, &prediction, &error) == SERM_ERR_CANCELED,
	    "cancel");
	batch = serm_model_batch(model, arena);
	serm_batch_add_text(batch, query, text_of("pill"), &error);
	CHECK(serm_batch_run(batch, &prediction, &error) == SERM_ERR_CANCELED && serm_batch_count(batch) == 1,
	    "a batch that is canceled keeps its pairs");
	serm_model_set_host(model, NULL, NULL);
	CHECK(serm_batch_run(batch, &prediction, &error) == SERM_OK && serm_batch_count(batch) == 0,
	    "and may be run again");
	((SermTensor *) tensors.tensors)[3].shape[0]++;
	CHECK(serm_model_open(SERM_KIND_CROSS_ENCODER, &tensors, arena, &model, &error) == SERM_ERR_CORRUPT,
	    "a misshapen tensor");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_scores(1, &arena);
	test_scores(4, &arena);
	test_token_bytes(&arena);
	test_precisions(&arena);
	test_long_documents(&arena);
	test_refusals(&arena);
	serm_arena_free(&arena);
	DONE();
}
