#include "core/base/rng.h"
#include "core/model/heads.h"
#include "core/model/interaction.h"
#include "unit.h"

enum { HEADS = 3, GRADES = 4, VOCABULARY = 5, TENSORS = 15 };

/* A whole stored model that each test may damage. */
typedef struct Stored {
	SermTensor tensors[TENSORS + 2]; /* those of kin are added by their test */
	SermTensorSet set;
} Stored;

static void
add(Stored *stored, SermArena *arena, const char *name, SermDtype dtype, uint32_t rank, const uint64_t *shape)
{
	SermTensor *tensor = &stored->tensors[stored->set.count++];

	*tensor = (SermTensor){.dtype = dtype, .rank = rank};
	snprintf(tensor->name, sizeof(tensor->name), "%s", name);
	memcpy(tensor->shape, shape, rank * sizeof(uint64_t));
	if (serm_tensor_bytes(dtype, rank, shape, &tensor->bytes))
		tensor->data = serm_arena_alloc(arena, tensor->bytes + 1);
}

static SermTensor *
tensor_of(Stored *stored, const char *name)
{
	for (size_t i = 0; i < stored->set.count; i++)
		if (strcmp(stored->tensors[i].name, name) == 0)
			return &stored->tensors[i];
	abort();
}

static float *
floats_of(Stored *stored, const char *name)
{
	return (float *) tensor_of(stored, name)->data;
}

static uint32_t *
counts_of(Stored *stored, const char *name)
{
	return (uint32_t *) tensor_of(stored, name)->data;
}

static void
fill_random(Stored *stored, const char *name, SermRng *rng, double sd)
{
	SermTensor *tensor = tensor_of(stored, name);

	for (size_t i = 0; i < tensor->bytes / sizeof(float); i++)
		((float *) tensor->data)[i] = (float) (sd * serm_rng_normal(rng));
}

static Stored *
make_model(SermArena *arena)
{
#define SHAPE(...)                                                                                           \
	(const uint64_t[])                                                                                       \
	{                                                                                                        \
		__VA_ARGS__                                                                                          \
	}
	static const float guard[] = {0.4f, 3, 0.5f, 0.1f, 4, 0.5f};
	static const double statistics[] = {100, 5, 20, 22};
	static const uint32_t id[] = {10, 20, 30, 40, 50}, df[] = {1, 2, 3, 100, 0};
	Stored *stored = serm_arena_alloc(arena, sizeof(Stored));
	SermRng rng;
	int8_t *rows;

	stored->set.tensors = stored->tensors;
	serm_rng_seed(&rng, 29);
	add(stored, arena, "embedding.rows", SERM_DTYPE_I8, 2, SHAPE(131072, 32));
	add(stored, arena, "embedding.scale", SERM_DTYPE_F32, 1, SHAPE(131072));
	add(stored, arena, "vocabulary.id", SERM_DTYPE_U32, 1, SHAPE(VOCABULARY));
	add(stored, arena, "vocabulary.df", SERM_DTYPE_U32, 1, SHAPE(VOCABULARY));
	add(stored, arena, "statistics", SERM_DTYPE_F64, 1, SHAPE(4));
	add(stored, arena, "scale.mean", SERM_DTYPE_F32, 1, SHAPE(73));
	add(stored, arena, "scale.inverse", SERM_DTYPE_F32, 1, SHAPE(73));
	add(stored, arena, "heads.w1", SERM_DTYPE_F32, 3, SHAPE(HEADS, 64, 73));
	add(stored, arena, "heads.b1", SERM_DTYPE_F32, 2, SHAPE(HEADS, 64));
	add(stored, arena, "heads.w2", SERM_DTYPE_F32, 3, SHAPE(HEADS, 32, 64));
	add(stored, arena, "heads.b2", SERM_DTYPE_F32, 2, SHAPE(HEADS, 32));
	add(stored, arena, "heads.w3", SERM_DTYPE_F32, 3, SHAPE(HEADS, GRADES, 32));
	add(stored, arena, "heads.b3", SERM_DTYPE_F32, 2, SHAPE(HEADS, GRADES));
	add(stored, arena, "cuts", SERM_DTYPE_F32, 1, SHAPE(GRADES - 1));
	add(stored, arena, "guard", SERM_DTYPE_F32, 1, SHAPE(6));
	rows = (int8_t *) tensor_of(stored, "embedding.rows")->data;
	for (size_t i = 0; i < tensor_of(stored, "embedding.rows")->bytes; i++)
		rows[i] = (int8_t) ((int) serm_rng_below(&rng, 255) - 127);
	for (size_t i = 0; i < 131072; i++)
		floats_of(stored, "embedding.scale")[i] = (float) serm_rng_uniform(&rng);
	memcpy(counts_of(stored, "vocabulary.id"), id, sizeof(id));
	memcpy(counts_of(stored, "vocabulary.df"), df, sizeof(df));
	memcpy(floats_of(stored, "statistics"), statistics, sizeof(statistics));
	memcpy(floats_of(stored, "guard"), guard, sizeof(guard));
	fill_random(stored, "scale.mean", &rng, 0.3);
	for (int i = 0; i < SERM_FEATURES; i++)
		floats_of(stored, "scale.inverse")[i] = i % 7 == 3 ? 0 : 3;
	fill_random(stored, "heads.w1", &rng, 0.2);
	fill_random(stored, "heads.b1", &rng, 0.1);
	fill_random(stored, "heads.w2", &rng, 0.2);
	fill_random(stored, "heads.b2", &rng, 0.1);
	fill_random(stored, "heads.w3", &rng, 0.2);
	fill_random(stored, "heads.b3", &rng, 0.1);
	for (int i = 0; i < GRADES - 1; i++)
		floats_of(stored, "cuts")[i] = (float) i + 0.5f;
	return stored;
}

static SermText
text_of(const char *string)
{
	return (SermText){string, strlen(string)};
}

static void
test_open(SermArena *arena)
{
	Stored *stored = make_model(arena);
	SermModel *model = NULL;
	SermError error = {0};

	CHECK(serm_model_kind_known("interaction") && !serm_model_kind_known("Interaction"), "kinds by name");
	CHECK(serm_model_open("interaction", &stored->set, arena, &model, &error) == SERM_OK,
	    "a whole model opens");
	CHECK(serm_model_grade_count(model) == GRADES, "and knows its grades");
	CHECK(serm_model_open("oracle", &stored->set, arena, &model, &error) == SERM_ERR_INVALID &&
	          strstr(error.message, "\"oracle\"") != NULL,
	    "an unknown kind is refused");
	tensor_of(stored, "vocabulary.id")->shape[0] = tensor_of(stored, "vocabulary.id")->bytes = 0;
	tensor_of(stored, "vocabulary.df")->shape[0] = tensor_of(stored, "vocabulary.df")->bytes = 0;
	CHECK(serm_model_open("interaction", &stored->set, arena, &model, &error) == SERM_OK,
	    "an empty vocabulary is one");
}

/* Open a damaged model: it must be refused with the tensor's name. */
static void
check_refused(Stored *stored, SermArena *arena, const char *name, const char *what)
{
	SermModel *model = NULL;
	SermError error = {0};
	SermStatus status = serm_model_open("interaction", &stored->set, arena, &model, &error);

	CHECK(status == SERM_ERR_CORRUPT && model == NULL && strstr(error.message, name) != NULL, "%s: %s", name,
	    what);
	if (status == SERM_OK || strstr(error.message, name) == NULL)
		printf("# status %d, message %s\n", status, error.message);
}

/* Each tensor in turn: missing, of another type, of another shape, cut short. */
static void
test_damaged_tensors(SermArena *arena)
{
	Stored *stored = make_model(arena);

	for (size_t i = 0; i < TENSORS; i++) {
		SermTensor *tensor = &stored->tensors[i], kept = *tensor;

		tensor->name[0] = 'X';
		check_refused(stored, arena, kept.name, "missing");
		*tensor = kept;
		tensor->dtype = SERM_DTYPE_U64;
		check_refused(stored, arena, kept.name, "another type");
		*tensor = kept;
		tensor->rank++;
		check_refused(stored, arena, kept.name, "another rank");
		*tensor = kept;
		tensor->bytes--;
		check_refused(stored, arena, kept.name, "cut short");
		*tensor = kept;
		tensor->data = (const char *) tensor->data + 1;
		if (tensor->dtype != SERM_DTYPE_I8)
			check_refused(stored, arena, kept.name, "out of step");
		*tensor = kept;
	}
}

static void
test_damaged_shapes(SermArena *arena)
{
	static const struct {
		const char *name;
		uint32_t dimension;
		uint64_t extent;
		const char *blamed;
	} cases[] = {
	    {"embedding.rows", 0, 131071, "embedding.rows"},
	    {"embedding.rows", 1, 16, "embedding.rows"},
	    {"vocabulary.df", 0, VOCABULARY - 1, "vocabulary.df"},
	    {"scale.mean", 0, 72, "scale.mean"},
	    {"heads.w1", 0, HEADS - 1, "heads.w1"},
	    {"heads.w2", 1, 31, "heads.w2"},
	    {"heads.w3", 0, 0, "heads.w3"},
	    {"heads.w3", 0, 17, "heads.w3"},
	    {"heads.w3", 1, 1, "heads.w3"},
	    {"heads.w3", 1, 11, "heads.w3"},
	    {"heads.w3", 1, GRADES - 1, "heads.b3"},
	    {"cuts", 0, GRADES, "cuts"},
	    {"guard", 0, 5, "guard"},
	};
	Stored *stored = make_model(arena);

	for (size_t i = 0; i < SERM_LENGTH(cases); i++) {
		SermTensor *tensor = tensor_of(stored, cases[i].name), kept = *tensor;

		tensor->shape[cases[i].dimension] = cases[i].extent;
		if (serm_tensor_bytes(tensor->dtype, tensor->rank, tensor->shape, &tensor->bytes) &&
		    tensor->bytes > kept.bytes)
			tensor->data = serm_arena_alloc(arena, tensor->bytes);
		check_refused(stored, arena, cases[i].blamed, "another extent");
		*tensor = kept;
	}
}

static void
test_damaged_numbers(SermArena *arena)
{
	static const char *const names[] = {"embedding.scale", "scale.mean", "scale.inverse", "heads.w1",
	    "heads.b1", "heads.w2", "heads.b2", "heads.w3", "heads.b3", "cuts", "guard"};
	static const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f};
	Stored *stored = make_model(arena);
	uint32_t *id = counts_of(stored, "vocabulary.id"), *df = counts_of(stored, "vocabulary.df");
	float *cuts = floats_of(stored, "cuts");
	double *statistics = (double *) tensor_of(stored, "statistics")->data;

	for (size_t i = 0; i < SERM_LENGTH(names); i++)
		for (size_t j = 0; j < SERM_LENGTH(bad); j++) {
			SermTensor *tensor = tensor_of(stored, names[i]);
			float *last = (float *) tensor->data + tensor->bytes / sizeof(float) - 1, kept = *last;

			*last = bad[j];
			check_refused(stored, arena, names[i], "a value that is no number of a model");
			*last = kept;
		}
	floats_of(stored, "scale.inverse")[0] = -1;
	check_refused(stored, arena, "scale.inverse", "a negative scale");
	floats_of(stored, "scale.inverse")[0] = 3;
	floats_of(stored, "embedding.scale")[9] = -1;
	check_refused(stored, arena, "embedding.scale", "a negative scale");
	floats_of(stored, "embedding.scale")[9] = 1;
	for (int i = 0; i < 4; i++) {
		double kept = statistics[i];

		statistics[i] = NAN;
		check_refused(stored, arena, "statistics", "NaN");
		statistics[i] = -1;
		check_refused(stored, arena, "statistics", "negative");
		statistics[i] = kept;
	}
	id[3] = id[2];
	check_refused(stored, arena, "vocabulary.id", "a word twice");
	id[3] = 5;
	check_refused(stored, arena, "vocabulary.id", "out of order");
	id[3] = 40;
	df[0] = 101;
	check_refused(stored, arena, "vocabulary.df", "more documents than there are");
	df[0] = 1;
	cuts[1] = cuts[0] - 0.1f;
	check_refused(stored, arena, "cuts", "out of order");
}

/* Kin is optional, its ring stays inside the vocabulary, and it comes with its counts. */
static void
test_kin(SermArena *arena)
{
	static const uint32_t ring[VOCABULARY] = {2, 1, 0, 4, 3}, counts[VOCABULARY] = {5, 2, 5, 100, 100};
	Stored *stored = make_model(arena);
	SermInteractionParts parts;
	SermModel *model;
	SermError error;
	uint32_t *kin, *df;

	add(stored, arena, "vocabulary.kin", SERM_DTYPE_U32, 1, SHAPE(VOCABULARY));
	memcpy(counts_of(stored, "vocabulary.kin"), ring, sizeof(ring));
	check_refused(stored, arena, "vocabulary.kin_df", "missing beside vocabulary.kin");
	add(stored, arena, "vocabulary.kin_df", SERM_DTYPE_U32, 1, SHAPE(VOCABULARY));
	kin = counts_of(stored, "vocabulary.kin");
	df = counts_of(stored, "vocabulary.kin_df");
	memcpy(df, counts, sizeof(counts));
	CHECK(serm_model_open("interaction", &stored->set, arena, &model, &error) == SERM_OK &&
	          serm_interaction_parts(model, &parts) && parts.statistics.word_kin == kin &&
	          parts.statistics.kin_df == df,
	    "a model with kin opens");
	CHECK_NEAR(serm_statistics_kin_idf(&parts.statistics, 2), log(1 + 95.5 / 5.5), 1e-12,
	    "idf of a word and its kin");
	kin[1] = VOCABULARY;
	check_refused(stored, arena, "vocabulary.kin", "a word that there is not");
	kin[1] = 1;
	df[4] = 101;
	check_refused(stored, arena, "vocabulary.kin_df", "more documents than there are");
	df[4] = 100;
	tensor_of(stored, "vocabulary.kin")->shape[0]--;
	tensor_of(stored, "vocabulary.kin")->bytes -= sizeof(uint32_t);
	check_refused(stored, arena, "vocabulary.kin", "another extent");
}

static double
bent(double s)
{
	return s / sqrt(1 + s * s / 16);
}

static void
test_scaling(void)
{
	SermFeatures features = {.lexical = 5, .dot = 0.3f};
	SermGuard guard = {.slope = 0.4f,
	    .lexical_mean = 3,
	    .lexical_inverse = 0.5f,
	    .dot_mean = 0.1f,
	    .dot_inverse = 4,
	    .dot_share = 0.5f};
	float mean[SERM_FEATURES] = {0}, inverse[SERM_FEATURES] = {0};
	SermReal input[SERM_FEATURES];
	int rises = 0;

	for (int i = 0; i < 5; i++) {
		features.value[i] = 2;
		mean[i] = 1;
	}
	inverse[0] = 3;
	inverse[1] = 5;
	mean[2] = 3;
	inverse[2] = 7;
	serm_interaction_input(mean, inverse, &features, input);
	CHECK(input[0] == 3 && input[3] == 0, "inputs are scaled, masked ones are 0");
	CHECK(input[1] == 4 && input[2] == -4, "and clipped on both sides");
	CHECK_NEAR(serm_interaction_s0(&guard, &features), bent(1 + 0.5 * 0.8), 1e-6,
	    "s0 is z(lexical) + c z(dot), bent");
	CHECK_NEAR(
	    serm_interaction_guard(&guard, &features), 0.4 * bent(1.4), 1e-6, "the guard is slope times s0");
	for (int i = 0; i < 64; i++) {
		float before = serm_interaction_s0(&guard, &features);

		features.lexical += 0.25f;
		rises += serm_interaction_s0(&guard, &features) > before;
	}
	CHECK(rises == 64, "s0 goes on rising where an input is clipped");
	features.lexical = 1000;
	CHECK(serm_interaction_s0(&guard, &features) <= 4, "but not above the clip");
	features.lexical = -1000;
	CHECK(serm_interaction_s0(&guard, &features) >= -4, "on both sides");
}

static bool
plausible(const SermPrediction *prediction)
{
	double sum = 0;

	for (uint32_t y = 0; y < prediction->grade_count; y++) {
		sum += prediction->probability[y];
		if (!(prediction->probability[y] >= 0 && prediction->probability[y] <= 1))
			return false;
	}
	return fabs(sum - 1) < 1e-5 && prediction->score >= 0 && prediction->score <= GRADES - 1 &&
	       prediction->entropy >= 0 && prediction->disagreement >= 0 && isfinite(prediction->disagreement) &&
	       prediction->grade < GRADES;
}

/* The prediction is the heads on the scaled features: nothing is added on the way. */
static void
test_predict(SermArena *arena)
{
	static const char *const docs[] = {
	    "Blue pillow\nsoft and blue", "", "\xff\xfe", "red bed", "pillow\npillow pillow"};
	Stored *stored = make_model(arena);
	SermArena scratch = unit_arena();
	SermStatistics statistics = {100, 5, 20, 22, VOCABULARY, counts_of(stored, "vocabulary.id"),
	    counts_of(stored, "vocabulary.df"), 0, NULL, NULL};
	SermEmbedding embedding = {
	    .rows = tensor_of(stored, "embedding.rows")->data, .scale = floats_of(stored, "embedding.scale")};
	SermHeads heads = {HEADS, SERM_FEATURES, GRADES, (const SermReal *) floats_of(stored, "heads.w1"),
	    (const SermReal *) floats_of(stored, "heads.b1"), (const SermReal *) floats_of(stored, "heads.w2"),
	    (const SermReal *) floats_of(stored, "heads.b2"), (const SermReal *) floats_of(stored, "heads.w3"),
	    (const SermReal *) floats_of(stored, "heads.b3"), (const SermReal *) floats_of(stored, "cuts")};
	SermModel *model = NULL, *other = NULL;
	SermQuery *query = NULL;
	SermParsedQuery *parsed = NULL;
	SermError error = {0};
	SermPrediction prediction, again, by_hand;
	size_t bad = 0, moved = 0;

	bad += serm_model_open("interaction", &stored->set, arena, &model, &error) != SERM_OK;
	bad += serm_model_parse_query(model, text_of("blue pillow"), arena, &query, &error) != SERM_OK;
	bad += serm_features_parse_query(
	           &statistics, &embedding, text_of("blue pillow"), arena, &parsed, &error) != SERM_OK;
	for (size_t i = 0; i < SERM_LENGTH(docs); i++) {
		SermFeatures features;
		SermReal input[SERM_FEATURES];
		SermGuard guard;

		memcpy(&guard, floats_of(stored, "guard"), sizeof(guard));
		bad += serm_model_predict(model, query, text_of(docs[i]), &scratch, &prediction, &error) != SERM_OK;
		bad += !plausible(&prediction) || prediction.grade_count != GRADES || prediction.head_count != HEADS;
		bad += serm_features_compute(
		           &statistics, &embedding, parsed, text_of(docs[i]), &scratch, &features, &error) != SERM_OK;
		serm_interaction_input(
		    floats_of(stored, "scale.mean"), floats_of(stored, "scale.inverse"), &features, input);
		serm_heads_predict(&heads, input, serm_interaction_guard(&guard, &features), &by_hand);
		bad += memcmp(&prediction, &by_hand, sizeof(prediction)) != 0;
		serm_heads_predict(&heads, input, 0, &by_hand);
		moved += prediction.score != by_hand.score;
		bad += serm_model_predict(model, query, text_of(docs[0]), &scratch, &again, &error) != SERM_OK;
		bad += serm_model_predict(model, query, text_of(docs[i]), &scratch, &again, &error) != SERM_OK;
		bad += memcmp(&prediction, &again, sizeof(prediction)) != 0;
	}
	CHECK(bad == 0, "predictions are the heads on the scaled features, bit for bit, in any order");
	CHECK(moved == SERM_LENGTH(docs), "the guard takes part");
	bad = serm_model_open("interaction", &stored->set, arena, &other, &error) != SERM_OK;
	CHECK(bad == 0 &&
	          serm_model_predict(other, query, text_of("a"), &scratch, &again, &error) == SERM_ERR_INVALID,
	    "a query of another model is refused");
	serm_arena_free(&scratch);
}

/* Pairs of several queries in batches of any size: what predicting each alone gives. */
static void
test_batch(SermArena *arena)
{
	static const char *const texts[] = {"blue pillow", "Soft blue pillow\nfor a bed", "", "3.5 ft",
	    "bed\nblue pillows, blue", "pillowcase for pillow", "no such thing"};
	enum { TEXTS = sizeof(texts) / sizeof(texts[0]) };
	Stored *stored = make_model(arena);
	SermModel *model = NULL;
	SermQuery *queries[TEXTS];
	SermPrediction rows[SERM_BATCH_ROWS], alone[SERM_BATCH_ROWS], parsed;
	SermArena scratch = unit_arena();
	SermError error = {0};
	SermBatch *batch;
	size_t bad = 0, next = 0;

	bad += serm_model_open("interaction", &stored->set, arena, &model, &error) != SERM_OK;
	for (int i = 0; i < TEXTS; i++)
		bad += serm_model_parse_query(model, text_of(texts[i]), arena, &queries[i], &error) != SERM_OK;
	batch = serm_model_batch(model, arena);
	for (uint32_t size = 0; size <= SERM_BATCH_ROWS && batch != NULL; size++) {
		for (uint32_t r = 0; r < size; r++, next++) {
			const SermQuery *query = queries[next % TEXTS];
			SermText text = text_of(texts[next / TEXTS % TEXTS]);
			SermDocument doc;

			bad += serm_document_parse(text, arena, &doc, &error) != SERM_OK;
			bad += serm_model_predict(model, query, text, &scratch, &alone[r], &error) != SERM_OK;
			bad += serm_model_predict_parsed(model, query, &doc, &parsed, &error) != SERM_OK;
			bad += memcmp(&alone[r], &parsed, sizeof(parsed)) != 0;
			bad += serm_batch_add(batch, query, &doc, &error) != SERM_OK;
		}
		bad += serm_batch_count(batch) != size;
		bad += serm_batch_run(batch, rows, &error) != SERM_OK;
		bad += serm_batch_count(batch) != 0;
		for (uint32_t r = 0; r < size; r++)
			bad += memcmp(&alone[r], &rows[r], sizeof(rows[r])) != 0;
	}
	CHECK(bad == 0 && batch != NULL, "a batch gives each pair the bits it has alone");
	serm_arena_free(&scratch);
}

/* The largest numbers that opening accepts still give finite predictions. */
static void
test_extremes(SermArena *arena)
{
	static const char *const names[] = {"embedding.scale", "scale.mean", "scale.inverse", "heads.w1",
	    "heads.b1", "heads.w2", "heads.b2", "heads.w3", "heads.b3", "guard"};
	Stored *stored = make_model(arena);
	SermArena scratch = unit_arena();
	SermModel *model = NULL;
	SermQuery *query = NULL;
	SermPrediction prediction;
	SermError error = {0};
	SermRng rng;
	size_t bad = 0;

	serm_rng_seed(&rng, 31);
	for (size_t i = 0; i < SERM_LENGTH(names); i++) {
		SermTensor *tensor = tensor_of(stored, names[i]);
		bool positive = i == 0 || i == 2;

		for (size_t j = 0; j < tensor->bytes / sizeof(float); j++)
			((float *) tensor->data)[j] = !positive && serm_rng_below(&rng, 2) == 0 ? -1e6f : 1e6f;
	}
	bad += serm_model_open("interaction", &stored->set, arena, &model, &error) != SERM_OK;
	bad +=
	    bad == 0 && serm_model_parse_query(model, text_of("blue pillow 3"), arena, &query, &error) != SERM_OK;
	for (int i = 0; i < 50 && bad == 0; i++) {
		char doc[64];

		for (size_t j = 0; j < sizeof(doc); j++)
			doc[j] = "blue pilow3\n"[serm_rng_below(&rng, 12)];
		bad += serm_model_predict(
		           model, query, (SermText){doc, sizeof(doc)}, &scratch, &prediction, &error) != SERM_OK;
		bad += !plausible(&prediction);
	}
	CHECK(bad == 0, "the largest accepted numbers give finite predictions");
	serm_arena_free(&scratch);
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_open(&arena);
	test_damaged_tensors(&arena);
	test_damaged_shapes(&arena);
	test_damaged_numbers(&arena);
	test_kin(&arena);
	test_scaling();
	test_predict(&arena);
	test_batch(&arena);
	test_extremes(&arena);
	serm_arena_free(&arena);
	DONE();
}
