/*
 * The model kind "cross_encoder": from stored tensors and from prepared ones,
 * one pair and a batch, one label and grades.
 */
#include "core/model/cross_encoder.h"
#include "core/model/cross_encoder_stored.h"
#include "core/model/model.h"
#include "encoder_fixture.h"

enum { DOCS = 5 };

static SermText
text_of(const char *text)
{
	return (SermText){text, strlen(text)};
}

static const char *const docs[DOCS] = {
    "blue pillow\nsoft and blue", "pill", "", "pillow pillow pillow blue", "a [SEP] b"};

/* A tokenizer of words: [CLS] query [SEP] document [SEP]. */
static void
write_tokenizer(SermArena *arena, SermTensor *tensor)
{
	static const char *const names[] = {
	    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "blue", "pill", "##ow", "soft", "and"};
	static SermText pieces[SERM_LENGTH(names)];
	SermTokenizerSpec spec = {
	    .kind = SERM_TOKENIZER_WORDPIECE, .normalize = SERM_NORMALIZE_CLEAN | SERM_NORMALIZE_LOWERCASE};
	const SermTemplateItem first = {SERM_TEMPLATE_TOKEN, 2, 0}, end = {SERM_TEMPLATE_TOKEN, 3, 0};
	const unsigned char *bytes;
	size_t length = 0;
	SermError error;

	for (size_t i = 0; i < SERM_LENGTH(names); i++)
		pieces[i] = text_of(names[i]);
	spec.pieces = pieces, spec.piece_count = SERM_LENGTH(names), spec.unk_id = 1, spec.pad_id = 0;
	spec.continuing = text_of("##"), spec.word_max = 100;
	spec.single = (SermTemplate){3, {first, {SERM_TEMPLATE_FIRST, 0, 0}, end}};
	spec.pair = (SermTemplate){5,
	    {first, {SERM_TEMPLATE_FIRST, 0, 0}, end, {SERM_TEMPLATE_SECOND, 0, 1}, {SERM_TEMPLATE_TOKEN, 3, 1}}};
	CHECK(serm_tokenizer_write(&spec, arena, &bytes, &length, &error) == SERM_OK, "a tokenizer");
	*tensor = (SermTensor){.name = SERM_ENCODER_TOKENIZER_TENSOR,
	    .dtype = SERM_DTYPE_U8,
	    .rank = 1,
	    .shape = {length},
	    .data = bytes,
	    .bytes = length};
}

static SermTensorSet
stored_tensors(const SermEncoderConfig *config, const SermReal *flat, SermArena *arena)
{
	SermTensorSet weights;
	SermTensor *list;
	size_t length = 0;
	const char *json = serm_encoder_config_write(config, arena, &length);

	serm_encoder_unflatten(config, flat, arena, &weights);
	list = serm_arena_array(arena, weights.count + 2, sizeof(*list));
	memcpy(list, weights.tensors, weights.count * sizeof(*list));
	list[weights.count] = (SermTensor){.name = SERM_ENCODER_CONFIG_TENSOR,
	    .dtype = SERM_DTYPE_U8,
	    .rank = 1,
	    .shape = {length},
	    .data = json,
	    .bytes = length};
	write_tokenizer(arena, &list[weights.count + 1]);
	return (SermTensorSet){list, weights.count + 2};
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
	CHECK(serm_cross_encoder_prepare(&tensors, arena, &prepared, &error) == SERM_OK &&
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
	CHECK(serm_model_predict_parsed(ready, query, &(SermDocument){0}, &other, &error) == SERM_ERR_INVALID &&
	          serm_batch_add(batch, query, &(SermDocument){0}, &error) == SERM_ERR_INVALID,
	    "encoded documents are refused");
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
	test_refusals(&arena);
	serm_arena_free(&arena);
	DONE();
}
