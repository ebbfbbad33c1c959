#include "core/model/cross_encoder_parts.h"
#include "core/model/encoder_pair.h"
#include "core/train/encoder_explain.h"
#include "core/train/encoder_set.h"
#include "cross_fixture.h"
#include "unit.h"

#define LONG_WORDS 150

static const SermTokenizer *
open_tokenizer(SermArena *arena)
{
	const SermTokenizer *tokenizer = NULL;
	SermTensor tables;
	SermError error;

	write_tokenizer(arena, &tables);
	CHECK(serm_tokenizer_open(tables.data, tables.bytes, arena, &tokenizer, &error) == SERM_OK, "opened");
	return tokenizer;
}

/* The types of a pair, one digit for each token. */
static const char *
types_of(bool match_types, const char *query, const char *doc, uint32_t tokens_max, SermArena *arena)
{
	const SermEncoderConfig config = {.match_types = match_types};
	const SermTokenizer *tokenizer = open_tokenizer(arena);
	const uint32_t *first, *second;
	uint32_t first_count, second_count;
	SermTokens tokens;
	SermError error;
	char *digits;

	serm_tokenizer_encode(tokenizer, text_of(query), 64, NULL, arena, &first, &first_count, &error);
	serm_tokenizer_encode(tokenizer, text_of(doc), 64, NULL, arena, &second, &second_count, &error);
	CHECK(serm_encoder_pair(&config, tokenizer, first, first_count, second, second_count, tokens_max, arena,
	          &tokens, &error) == SERM_OK,
	    "a pair");
	digits = serm_arena_array(arena, tokens.count + 1, 1);
	for (uint32_t t = 0; t < tokens.count; t++)
		digits[t] = (char) ('0' + tokens.types[t]);
	return digits;
}

static void
check_types(const char *query, const char *doc, uint32_t tokens_max, const char *expected, const char *what)
{
	SermArena arena = unit_arena();
	const char *types = types_of(true, query, doc, tokens_max, &arena);

	CHECK(strcmp(types, expected) == 0, "%s: %s, not %s", what, types, expected);
	serm_arena_free(&arena);
}

static void
test_types(SermArena *arena)
{
	check_types("blue and", "soft blue", 64,
	    "02001"
	    "31",
	    "a word of both texts");
	check_types("blue", "blue soft blue", 64,
	    "020"
	    "3131",
	    "as often as it occurs");
	check_types("soft", "blue and", 64,
	    "000"
	    "111",
	    "no word of both");
	check_types("pillow", "pillow", 64,
	    "0220"
	    "331",
	    "a word of two pieces");
	check_types("pill", "blue pillow", 64,
	    "020"
	    "1311",
	    "the beginning of a longer word");
	check_types("blueow", "pillow", 64,
	    "0000"
	    "111",
	    "the end of another word is no match");
	check_types("pillow pillow", "pill and pillow", 64,
	    "022220"
	    "31331",
	    "nor does the word before matter");
	check_types("", "blue", 64,
	    "00"
	    "11",
	    "an empty query");
	check_types("blue", "", 64,
	    "000"
	    "1",
	    "an empty document");
	check_types("zzz", "zzz", 64,
	    "000"
	    "11",
	    "what nobody knows is no word");
	check_types("blue", "soft and blue", 6,
	    "000"
	    "111",
	    "what was cut is not there");
	check_types("[SEP] [CLS]", "[SEP] [CLS]", 64,
	    "00000000"
	    "1111111",
	    "text that looks special");
	CHECK(strcmp(types_of(false, "blue", "blue", 64, arena), "0001"
	                                                         "1") == 0,
	    "without match_types: segments");
}

/* Marks follow the ids that stand there, also when they change. */
static void
test_again(SermArena *arena)
{
	const SermEncoderConfig config = {.match_types = true};
	const SermTokenizer *tokenizer = open_tokenizer(arena);
	const uint32_t blue = 4, both[] = {4, 7};
	SermTokens tokens;
	SermError error;
	size_t total;

	serm_encoder_pair(&config, tokenizer, &blue, 1, both, 2, 64, arena, &tokens, &error);
	total = arena->total;
	CHECK(memcmp(tokens.types, (uint8_t[]){0, 2, 0, 3, 1, 1}, 6) == 0, "blue is marked");
	tokens.ids[3] = 8;
	CHECK(serm_encoder_mark(&config, tokenizer, arena, &tokens, &error) == SERM_OK &&
	          memcmp(tokens.types, (uint8_t[]){0, 0, 0, 1, 1, 1}, 6) == 0,
	    "and no longer when it was hidden");
	CHECK(arena->total == total, "marks take no memory for long");
}

/* --- the same bits by all ways */

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

/* The input that training makes of a pair, by its score. */
static double
trained_score(const SermEncoderConfig *config, const SermReal *flat, const char *query, const char *doc,
    SermArena *arena, SermEncoderInput *input)
{
	const SermTrainOptions weights = {.alpha = .5};
	const SermEncoderReading reading = {config, open_tokenizer(arena), config->positions, &weights};
	const SermText queries[] = {text_of(query)};
	const SermExample example = {.query = 0, .doc = text_of(doc), .target = {1}, .weight = 1};
	const SermTrainingSet set = {.queries = queries,
	    .query_count = 1,
	    .examples = &example,
	    .example_count = 1,
	    .grade_count = config->labels};
	const SermTrainHost host = {.keep_going = go_on};
	SermEncoderLists lists;
	SermPrediction prediction;
	SermReal logits[SERM_ENCODER_LABELS_MAX];
	SermEncoder *encoder;
	SermError error;
	void *packed = serm_arena_reserve(arena, serm_encoder_packed_bytes(config, SERM_PRECISION_F32, NULL));

	if (serm_encoder_set_read(&set, &reading, &host, arena, &lists, &error) != SERM_OK)
		return -1;
	*input = lists.set.examples[0].input;
	serm_encoder_pack(config, SERM_PRECISION_F32, NULL, flat, packed, NULL);
	serm_encoder_open(config, SERM_PRECISION_F32, NULL, flat, packed, arena, &encoder, &error);
	serm_encoder_score(encoder, input, 1, NULL, arena, logits, &error);
	(void) serm_cross_read_logits(config->labels, logits, &prediction, NULL);
	return prediction.score;
}

static void
test_ways(const char *query_text, const char *doc_text, SermLongDocuments mode, SermArena *arena)
{
	const SermModelSettings settings = {.long_documents = mode, .chunk_count = 1, .chunk_overlap = 4};
	SermEncoderConfig config = fixture_config(SERM_ENCODER_BERT);
	SermPrediction text, stored, batch[2], unmarked;
	SermExplanation explanation;
	SermTensorSet tensors;
	SermTokenDocument doc;
	SermEncoderInput input;
	SermModel *model;
	SermQuery *query;
	SermBatch *pairs;
	SermError error;
	SermReal *flat;

	config.pad_id = 0, config.types = 4, config.match_types = true;
	flat = fixture_flat(&config, 91, arena);
	tensors = stored_tensors(&config, flat, arena);
	CHECK(
	    serm_model_open_with(SERM_KIND_CROSS_ENCODER, &tensors, &settings, arena, &model, &error) == SERM_OK,
	    "opened");
	serm_model_parse_query(model, text_of(query_text), arena, &query, &error);
	CHECK(serm_model_encode(model, text_of(doc_text), arena, &doc, &error) == SERM_OK, "stored tokens");
	pairs = serm_model_batch(model, arena);
	serm_batch_add_text(pairs, query, text_of("soft pill"), &error);
	serm_batch_add_tokens(pairs, query, &doc, &error);
	CHECK(serm_model_predict(model, query, text_of(doc_text), arena, &text, &error) == SERM_OK &&
	          serm_model_predict_tokens(model, query, &doc, arena, &stored, &error) == SERM_OK &&
	          serm_batch_run(pairs, batch, &error) == SERM_OK &&
	          serm_cross_explain(model, query, &doc, arena, &explanation, &error) == SERM_OK,
	    "scored and explained");
	CHECK(memcmp(&text, &stored, sizeof(text)) == 0 && memcmp(&text, &batch[1], sizeof(text)) == 0 &&
	          explanation.score == text.score,
	    "texts, stored tokens, batches and explanations have the same bits");
	CHECK((float) trained_score(&config, flat, query_text, doc_text, arena, &input) == text.score,
	    "training reads the same");
	CHECK(memchr(input.types, 2, input.length) != NULL && memchr(input.types, 3, input.length) != NULL,
	    "with marks in both texts");
	config.match_types = false;
	tensors = stored_tensors(&config, flat, arena);
	serm_model_open(SERM_KIND_CROSS_ENCODER, &tensors, arena, &model, &error);
	serm_model_parse_query(model, text_of(query_text), arena, &query, &error);
	CHECK(serm_model_predict(model, query, text_of(doc_text), arena, &unmarked, &error) == SERM_OK &&
	          unmarked.score != text.score,
	    "which matter");
}

int
main(void)
{
	SermArena arena = unit_arena();
	char text[LONG_WORDS * 5 + 1] = "";

	for (int w = 0; w < LONG_WORDS; w++)
		strcat(text, w % 7 == 3 ? "pill " : w % 2 == 0 ? "soft " : "and ");
	test_types(&arena);
	test_again(&arena);
	test_ways("blue pillow", "a soft blue pill", SERM_LONG_TRUNCATE, &arena);
	test_ways("blue pillow", text, SERM_LONG_TRUNCATE, &arena);
	test_ways("blue pillow", text, SERM_LONG_CHUNK_FIRST, &arena);
	serm_arena_free(&arena);
	DONE();
}
