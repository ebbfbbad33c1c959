/*
 * What judgments support (S17): documents in two made-up languages that share
 * names, of which one is judged. A language is a few common words and many rare
 * ones.
 */
#include "core/base/rng.h"
#include "core/model/interaction.h"
#include "core/train/merge.h"
#include "core/train/support.h"
#include "unit.h"

enum { DOCS = 80, COMMON = 12, RARE = 300, NAMES = 10, QUERIES = 20, LIST = 4, GRADES = 3 };

static const char *const languages[] = {"ka", "wo"};

typedef struct World {
	SermText docs[2 * DOCS]; /* DOCS of each language */
	SermText queries[QUERIES];
	SermExample examples[QUERIES * LIST];
	SermTrainingSet set;
	SermTrainOptions options;
	SermTrainHost host;
	uint32_t patience; /* calls of keep_going() until it says no */
} World;

static bool
keep_going(void *context)
{
	World *world = context;

	return world->patience == UINT32_MAX || world->patience-- > 0;
}

static SermText
text(const char *string)
{
	return (SermText){string, strlen(string)};
}

/* A word of a language: `kind` tells common from rare. Letters only, so that it is one word. */
static int
put_word(char *out, int language, char kind, uint32_t index)
{
	return snprintf(out, 16, "%s%c%c%c ", languages[language], kind, 'a' + index / 26, 'a' + index % 26);
}

/* Eight common words, four rare ones, and a name. */
static SermText
make_document(SermRng *rng, int language, SermArena *arena)
{
	char out[256];
	int length = snprintf(out, sizeof(out), "\n");

	for (int i = 0; i < 8; i++)
		length += put_word(out + length, language, 'c', serm_rng_below(rng, COMMON));
	for (int i = 0; i < 4; i++)
		length += put_word(out + length, language, 'r', serm_rng_below(rng, RARE));
	length += snprintf(
	    out + length, sizeof(out) - (size_t) length, "name%c", 'a' + (int) serm_rng_below(rng, NAMES));
	return (SermText){serm_arena_copy(arena, out, (size_t) length), (size_t) length};
}

static void
make_world(World *world, SermArena *arena)
{
	SermRng rng;

	memset(world, 0, sizeof(*world));
	serm_rng_seed(&rng, 12);
	for (int d = 0; d < 2 * DOCS; d++)
		world->docs[d] = make_document(&rng, d / DOCS, arena);
	for (uint32_t q = 0; q < QUERIES; q++) {
		const SermText *own = &world->docs[q * LIST];

		/* The end of a document is its query. */
		world->queries[q] = (SermText){own->bytes + own->length - 30, 30};
		for (uint32_t i = 0; i < LIST; i++) {
			SermExample *example = &world->examples[q * LIST + i];

			*example = (SermExample){.query = q, .doc = own[i], .weight = 1};
			example->target[i == 0 ? GRADES - 1 : i % 2] = 1;
		}
	}
	world->set = (SermTrainingSet){
	    GRADES, world->queries, QUERIES, world->examples, QUERIES * LIST, world->docs, 2 * DOCS};
	world->patience = UINT32_MAX;
	world->host = (SermTrainHost){.keep_going = keep_going, .context = world};
	serm_train_defaults(&world->options);
	world->options.seed = 2;
	world->options.epochs = 4;
	world->options.pretrain_epochs = 1;
	/* So that a score without its heads still tells one document from another. */
	world->options.guard = 0.5;
}

static double
support_of(const SermStatistics *statistics, int language, char kind, uint32_t index)
{
	char word[16];
	uint32_t code_points[16], length = (uint32_t) put_word(word, language, kind, index) - 1;

	for (uint32_t i = 0; i < length; i++)
		code_points[i] = (unsigned char) word[i];
	return serm_statistics_support(statistics, serm_text_word_id(code_points, length));
}

/* The least and the largest support of the words of a kind that occur. */
static void
range_of(
    const SermStatistics *statistics, int language, char kind, uint32_t count, double *least, double *most)
{
	*least = 2;
	*most = -1;
	for (uint32_t i = 0; i < count; i++) {
		double support = support_of(statistics, language, kind, i);

		if (support < 0)
			continue;
		*least = fmin(*least, support);
		*most = fmax(*most, support);
	}
}

static void
test_words(World *world, SermArena *arena)
{
	SermStatistics statistics;
	SermError error = {0};
	uint8_t *support, *again;
	double least, most;

	CHECK(serm_statistics_count(world->docs, 2 * DOCS, arena, keep_going, world, &statistics, &error) ==
	          SERM_OK,
	    "statistics");
	support = serm_arena_array(arena, statistics.word_count, 1);
	again = serm_arena_array(arena, statistics.word_count, 1);
	CHECK(serm_support_learn(&statistics, world->docs, DOCS, world->docs, 2 * DOCS, &world->host, arena,
	          support, &error) == SERM_OK,
	    "support of words");
	statistics.word_support = support;
	for (int k = 0; k < 2; k++) {
		range_of(&statistics, 0, "cr"[k], k == 0 ? COMMON : RARE, &least, &most);
		CHECK(least > 0.85 && most <= 1, "words of the judged language have it (%.2f to %.2f)", least, most);
		range_of(&statistics, 1, "cr"[k], k == 0 ? COMMON : RARE, &least, &most);
		CHECK(least >= 0 && most < 0.3, "those of another have not (%.2f to %.2f)", least, most);
	}
	CHECK(support_of(&statistics, 0, 'x', 1) < 0, "and of a word that nobody wrote nothing is known");
	/* Half of the language says as much: rare words are known by their company. */
	CHECK(serm_support_learn(&statistics, world->docs, DOCS / 2, world->docs, 2 * DOCS, &world->host, arena,
	          again, &error) == SERM_OK,
	    "of half of the documents");
	statistics.word_support = again;
	range_of(&statistics, 0, 'r', RARE, &least, &most);
	CHECK(least > 0.6, "documents that were not judged are supported too (%.2f)", least);
	world->patience = 1;
	CHECK(serm_support_learn(&statistics, world->docs, DOCS, world->docs, 2 * DOCS, &world->host, arena,
	          again, &error) == SERM_ERR_CANCELED,
	    "it can be stopped");
	world->patience = UINT32_MAX;
}

/* --- what a version does with it */

static SermTensorSet
train(World *world, SermArena *arena)
{
	SermTensorSet tensors = {0};
	SermTrainReport report;
	SermError error = {0};

	CHECK(serm_train_interaction(
	          &world->set, &world->options, &world->host, arena, &tensors, &report, &error) == SERM_OK,
	    "a version");
	return tensors;
}

typedef struct Opened {
	SermModel *model;
	SermInteractionParts parts;
} Opened;

static Opened
open_version(const SermTensorSet *tensors, SermArena *arena)
{
	Opened opened = {NULL, {.mean = NULL}};
	SermError error = {0};

	CHECK(serm_model_open("interaction", tensors, arena, &opened.model, &error) == SERM_OK &&
	          serm_interaction_parts(opened.model, &opened.parts),
	    "it opens (%s)", error.message);
	return opened;
}

/* Predict a pair by the model and by hand: with the features, their support, and the heads. */
static SermFeatures
predict(const Opened *opened, SermText query_text, SermText doc, SermArena *arena, SermPrediction *served,
    SermPrediction *by_hand)
{
	const SermInteractionParts *parts = &opened->parts;
	SermReal input[SERM_FEATURES], guard, share;
	SermFeatures features = {.support = -1};
	SermParsedQuery *parsed = NULL;
	SermQuery *query = NULL;
	SermError error = {0};
	bool good = serm_model_parse_query(opened->model, query_text, arena, &query, &error) == SERM_OK &&
	            serm_model_predict(opened->model, query, doc, arena, served, &error) == SERM_OK &&
	            serm_features_parse_query(
	                &parts->statistics, &parts->embedding, query_text, arena, &parsed, &error) == SERM_OK &&
	            serm_features_compute(
	                &parts->statistics, &parts->embedding, parsed, doc, arena, &features, &error) == SERM_OK;

	CHECK(good, "a score");
	serm_interaction_input(parts->mean, parts->inverse, &features, input);
	guard = serm_interaction_guard(&parts->guard, &features);
	share = features.support;
	serm_heads_predict_rows(&parts->heads, 1, input, &guard, &share, by_hand);
	return features;
}

/* With no heads at all: the guard alone. */
static float
guard_alone(const Opened *opened, const SermFeatures *features)
{
	const SermInteractionParts *parts = &opened->parts;
	SermReal input[SERM_FEATURES], guard = serm_interaction_guard(&parts->guard, features), none = 0;
	SermPrediction prediction;

	serm_interaction_input(parts->mean, parts->inverse, features, input);
	serm_heads_predict_rows(&parts->heads, 1, input, &guard, &none, &prediction);
	return prediction.score;
}

static void
test_scores(World *world, SermArena *arena)
{
	SermTensorSet tensors = train(world, arena), again = train(world, arena);
	Opened opened = open_version(&tensors, arena);
	const SermTensor *stored = serm_tensor_find(&tensors, "vocabulary.support");
	const SermTensor *second = serm_tensor_find(&again, "vocabulary.support");
	SermPrediction served, by_hand, free;
	SermFeatures features;
	SermReal input[SERM_FEATURES], guard;

	CHECK(stored != NULL && second != NULL && stored->bytes == opened.parts.statistics.word_count &&
	          memcmp(stored->data, second->data, stored->bytes) == 0,
	    "the same judgments give the same support");
	features = predict(&opened, world->queries[0], world->docs[0], arena, &served, &by_hand);
	CHECK(features.support == 1 && memcmp(&served, &by_hand, sizeof(served)) == 0,
	    "a query of the judged language is supported in full");
	serm_interaction_input(opened.parts.mean, opened.parts.inverse, &features, input);
	guard = serm_interaction_guard(&opened.parts.guard, &features);
	serm_heads_predict(&opened.parts.heads, input, guard, &free);
	CHECK(memcmp(&served, &free, sizeof(served)) == 0, "and its bits are those without support");
	features =
	    predict(&opened, text("wocaa wocab woraa worab worac"), world->docs[DOCS], arena, &served, &by_hand);
	CHECK(features.support < 0.1f && memcmp(&served, &by_hand, sizeof(served)) == 0,
	    "one of another language is not (%.3f)", (double) features.support);
	CHECK(fabsf(served.score - guard_alone(&opened, &features)) < 0.05f, "so the guard ranks it (%.4f, %.4f)",
	    (double) served.score, (double) guard_alone(&opened, &features));
	features = predict(&opened, text("zzyzx qwrtp"), world->docs[0], arena, &served, &by_hand);
	CHECK(features.support == 1, "words that are nowhere say nothing of the language");
	features = predict(&opened, text(""), world->docs[0], arena, &served, &by_hand);
	CHECK(features.support == 1, "nor does a query without words");
}

/* A batch may hold queries of either language, and documents as they are encoded. */
static void
test_batch(World *world, SermArena *arena)
{
	SermTensorSet tensors = train(world, arena);
	Opened opened = open_version(&tensors, arena);
	SermBatch *batch = serm_model_batch(opened.model, arena);
	const SermText asked[2] = {text("kacaa karab kacac"), text("wocaa woraa wocab")};
	SermPrediction together[8], alone;
	uint32_t different = 0;
	SermError error = {0};
	bool good = batch != NULL;

	for (uint32_t i = 0; good && i < 8; i++) {
		SermQuery *query = NULL;
		SermDocument doc;

		good = serm_model_parse_query(opened.model, asked[i % 2], arena, &query, &error) == SERM_OK &&
		       serm_document_parse(world->docs[10 * i], arena, &doc, &error) == SERM_OK &&
		       serm_batch_add(batch, query, &doc, &error) == SERM_OK;
	}
	CHECK(good && serm_batch_run(batch, together, &error) == SERM_OK, "a batch");
	for (uint32_t i = 0; good && i < 8; i++) {
		SermQuery *query = NULL;

		good = serm_model_parse_query(opened.model, asked[i % 2], arena, &query, &error) == SERM_OK &&
		       serm_model_predict(opened.model, query, world->docs[10 * i], arena, &alone, &error) == SERM_OK;
		different += memcmp(&together[i], &alone, sizeof(alone)) != 0;
	}
	CHECK(good && different == 0, "gives each pair its own support, bit for bit (%u differ)", different);
}

/* Contributions sum to the score of a query that has part of the support. */
static void
test_explanation(World *world, SermArena *arena)
{
	SermTensorSet tensors = train(world, arena);
	Opened opened = open_version(&tensors, arena);
	SermText asked = text("wocaa kacab woraa karab kacac worac");
	SermExplanation explanation = {.base = 0};
	SermDocument doc;
	SermPrediction served, by_hand;
	SermQuery *query = NULL;
	SermError error = {0};
	double worst = 0;

	for (int d = 0; d < 2 * DOCS; d += 7) {
		SermFeatures features = predict(&opened, asked, world->docs[d], arena, &served, &by_hand);
		double sum;

		CHECK(features.support > 0.05f && features.support < 0.95f, "partly supported (%.3f)",
		    (double) features.support);
		CHECK(serm_model_parse_query(opened.model, asked, arena, &query, &error) == SERM_OK &&
		          serm_document_parse(world->docs[d], arena, &doc, &error) == SERM_OK &&
		          serm_model_explain(opened.model, query, asked, &doc, arena, &explanation, &error) ==
		              SERM_OK &&
		          explanation.score == served.score,
		    "an explanation");
		sum = (double) explanation.base;
		for (uint32_t i = 0; i < explanation.count; i++)
			sum += (double) explanation.terms[i].contribution;
		worst = fmax(worst, fabs(sum - (double) served.score));
	}
	CHECK(worst < 1e-4, "contributions sum to the score (%.1e)", worst);
}

/* --- versions of other kinds, and of before */

static void
test_versions(World *world, SermArena *arena)
{
	SermTensorSet tensors = train(world, arena), child, cold = {0};
	Opened opened = open_version(&tensors, arena), continued;
	SermColdSet nothing = {GRADES, world->docs, 2 * DOCS, NULL, 0, NULL, 0};
	SermInteractionParts merged, models[2];
	SermTrainReport report;
	SermError error = {0};
	double weights[2] = {0.5, 0.5};
	SermTensor *copied;
	uint32_t lost = 0;

	world->set.parent = opened.model;
	world->set.example_count = LIST;
	child = train(world, arena);
	world->set.parent = NULL;
	world->set.example_count = QUERIES * LIST;
	continued = open_version(&child, arena);
	for (uint32_t w = 0; w < opened.parts.statistics.word_count; w++)
		lost += continued.parts.statistics.word_support[w] < opened.parts.statistics.word_support[w];
	CHECK(lost == 0, "a continued version keeps what its parent was taught");
	models[0] = opened.parts;
	models[1] = continued.parts;
	CHECK(serm_merge(&opened.parts, models, weights, 2, arena, &merged, &error) == SERM_OK &&
	          merged.statistics.word_support != NULL,
	    "so does a merged one");
	models[1].statistics.word_support = NULL;
	CHECK(serm_merge(&opened.parts, models, weights, 2, arena, &merged, &error) == SERM_OK &&
	          merged.statistics.word_support == NULL,
	    "but with one that says nothing of it");
	CHECK(
	    serm_train_cold(&nothing, &world->options, &world->host, arena, &cold, &report, &error) == SERM_OK &&
	        serm_tensor_find(&cold, "vocabulary.support") == NULL,
	    "generation 0 has no heads to doubt");
	copied = serm_arena_array(arena, tensors.count, sizeof(*copied));
	for (size_t i = 0; i < tensors.count; i++) {
		copied[i] = tensors.tensors[i];
		if (strcmp(copied[i].name, "vocabulary.support") == 0)
			copied[i].shape[0] = --copied[i].bytes;
	}
	tensors.tensors = copied;
	CHECK(serm_model_open("interaction", &tensors, arena, &opened.model, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "vocabulary.support") != NULL,
	    "one value per word or none (%s)", error.message);
}

/* Trigrams that are seen of a part of the words weigh less; versions of before weigh them in full. */
static void
test_spelled_share(SermArena *arena)
{
	static char long_text[8192];
	SermText docs[2] = {text("red lamp\nof glass"), {long_text, 0}};
	SermStatistics whole, part, before;
	SermEmbedding none = {NULL, NULL, NULL};
	SermParsedQuery *query;
	SermFeatures features[3];
	SermError error = {0};
	bool good;

	for (int i = 0; i < 200; i++)
		docs[1].length +=
		    (size_t) snprintf(long_text + docs[1].length, 16, "%sword%c", i == 0 ? "\n" : " ", 'a' + i % 26);
	good = serm_statistics_count(docs, 1, arena, NULL, NULL, &whole, &error) == SERM_OK &&
	       serm_statistics_count(docs, 2, arena, NULL, NULL, &part, &error) == SERM_OK;
	CHECK(good && whole.spelled_share == 1 && fabs(part.spelled_share - 52.0 / 204) < 1e-12,
	    "the share of words that are spelled (%g)", part.spelled_share);
	before = part;
	before.spelled_share = 0;
	whole = part;
	whole.spelled_share = 1;
	for (int i = 0; i < 3; i++) {
		const SermStatistics *statistics = i == 0 ? &part : i == 1 ? &before : &whole;

		good &=
		    serm_features_parse_query(statistics, &none, text("lamps"), arena, &query, &error) == SERM_OK &&
		    serm_features_compute(statistics, &none, query, docs[0], arena, &features[i], &error) == SERM_OK;
	}
	CHECK(good && features[0].lexical < features[1].lexical, "what is seen in part counts in part");
	CHECK(features[1].lexical == features[2].lexical, "and in full where nobody counted");
}

int
main(void)
{
	SermArena arena = unit_arena();
	static World world;

	make_world(&world, &arena);
	test_words(&world, &arena);
	test_scores(&world, &arena);
	test_batch(&world, &arena);
	test_explanation(&world, &arena);
	test_versions(&world, &arena);
	test_spelled_share(&arena);
	serm_arena_free(&arena);
	DONE();
}
