/*
 * Generation 0: a model from documents alone.
 */
#include "core/base/rng.h"
#include "core/model/interaction.h"
#include "core/train/train.h"
#include "unit.h"

#define DOCS 120
#define WORDS 40
#define GRADES 4

typedef struct Watch {
	uint32_t calls, stop_after;
} Watch;

typedef struct Shop {
	SermText docs[DOCS];
	SermText queries[8];
	SermShownPair pairs[400];
	SermColdSet set;
	SermTrainOptions options;
	Watch watch;
	SermTrainHost host;
} Shop;

static bool
keep_going(void *context)
{
	Watch *watch = context;

	return ++watch->calls < watch->stop_after || watch->stop_after == 0;
}

static void
make_shop(Shop *shop, SermArena *arena)
{
	SermRng rng;

	memset(shop, 0, sizeof(*shop));
	serm_rng_seed(&rng, 7);
	for (uint32_t d = 0; d < DOCS; d++) {
		char text[256];
		size_t length = 0;

		for (int w = 0; w < 9; w++) {
			uint32_t index = serm_rng_below(&rng, WORDS);

			length += (size_t) snprintf(text + length, sizeof(text) - length, "%c%c%cen%c", 'b' + index % 20,
			    "aeiou"[index / 20], 'c' + (index * 7) % 19, w == 4 ? '\n' : ' ');
		}
		shop->docs[d] = (SermText){serm_arena_copy(arena, text, length), length};
	}
	shop->set = (SermColdSet){.grade_count = GRADES, .corpus = shop->docs, .corpus_count = DOCS};
	serm_train_defaults(&shop->options);
	shop->options.seed = 3;
	shop->options.pretrain_epochs = 2;
	shop->host = (SermTrainHost){keep_going, NULL, NULL, NULL, NULL};
}

static SermStatus
start(Shop *shop, SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	SermTrainReport report;

	shop->host.context = &shop->watch;
	return serm_train_cold(&shop->set, &shop->options, &shop->host, arena, tensors, &report, error);
}

static bool
same_tensors(const SermTensorSet *a, const SermTensorSet *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->tensors[i].name, b->tensors[i].name) != 0 ||
		    a->tensors[i].bytes != b->tensors[i].bytes ||
		    memcmp(a->tensors[i].data, b->tensors[i].data, a->tensors[i].bytes) != 0)
			return false;
	return true;
}

static void
test_bytes(Shop *shop, SermArena *arena)
{
	SermTensorSet once, again, shuffled, other;
	SermText first = shop->docs[0];
	SermError error = {0};

	CHECK(start(shop, arena, &once, &error) == SERM_OK, "documents alone make a model");
	CHECK(start(shop, arena, &again, &error) == SERM_OK && same_tensors(&once, &again),
	    "the same documents give the same bytes");
	shop->docs[0] = shop->docs[DOCS - 1];
	shop->docs[DOCS - 1] = first;
	CHECK(start(shop, arena, &shuffled, &error) == SERM_OK && same_tensors(&once, &shuffled), "in any order");
	shop->options.seed = 4;
	CHECK(start(shop, arena, &other, &error) == SERM_OK && !same_tensors(&once, &other),
	    "another seed gives others");
	shop->options.seed = 3;
}

/* Every document for every query: the score must follow s0, whatever the heads see. */
static void
test_order(Shop *shop, SermArena *arena)
{
	SermTensorSet tensors;
	SermError error = {0};
	SermModel *model = NULL;
	SermQuery *query = NULL;
	SermParsedQuery *parsed = NULL;
	SermStatistics statistics = {0};
	SermGuard guard;
	const double *counts;
	float s0[DOCS], score[DOCS];
	uint32_t wrong = 0, outside = 0, certain = 0;

	CHECK(start(shop, arena, &tensors, &error) == SERM_OK, "a model");
	CHECK(serm_model_open("interaction", &tensors, arena, &model, &error) == SERM_OK, "it opens");
	counts = serm_tensor_find(&tensors, "statistics")->data;
	statistics = (SermStatistics){counts[0], counts[1], counts[2], counts[3],
	    (uint32_t) serm_tensor_find(&tensors, "vocabulary.id")->shape[0],
	    serm_tensor_find(&tensors, "vocabulary.id")->data, serm_tensor_find(&tensors, "vocabulary.df")->data,
	    (uint32_t) serm_tensor_find(&tensors, "trigram.id")->shape[0],
	    serm_tensor_find(&tensors, "trigram.id")->data, serm_tensor_find(&tensors, "trigram.df")->data};
	SermEmbedding embedding = {serm_tensor_find(&tensors, "embedding.rows")->data,
	    serm_tensor_find(&tensors, "embedding.scale")->data, NULL};
	memcpy(&guard, serm_tensor_find(&tensors, "guard")->data, sizeof(guard));
	CHECK(serm_model_parse_query(model, shop->docs[5], arena, &query, &error) == SERM_OK, "a query");
	CHECK(
	    serm_features_parse_query(&statistics, &embedding, shop->docs[5], arena, &parsed, &error) == SERM_OK,
	    "the same for s0");
	for (uint32_t d = 0; d < DOCS; d++) {
		SermPrediction prediction = {0};
		SermFeatures features;

		CHECK(serm_model_predict(model, query, shop->docs[d], arena, &prediction, &error) == SERM_OK,
		    "a score");
		serm_features_compute(&statistics, &embedding, parsed, shop->docs[d], arena, &features, &error);
		s0[d] = serm_interaction_s0(&guard, &features);
		score[d] = prediction.score;
		outside += !(prediction.score >= 0 && prediction.score <= GRADES - 1);
		certain += prediction.disagreement != 0 || prediction.head_count != 1;
	}
	for (uint32_t a = 0; a < DOCS; a++)
		for (uint32_t b = 0; b < DOCS; b++)
			wrong += s0[a] > s0[b] + 1e-5 && !(score[a] > score[b]);
	CHECK(wrong == 0, "scores have the order of s0");
	CHECK(outside == 0, "and lie within the grades");
	CHECK(certain == 0, "one head disagrees with nobody");
	for (uint32_t d = 0; d < DOCS; d++)
		wrong += d != 5 && score[d] >= score[5];
	CHECK(wrong == 0, "a document is the best answer to itself");
	CHECK(score[5] > (GRADES - 1) / 2.0, "and lies in the upper half");
}

static void
test_shown(Shop *shop, SermArena *arena)
{
	SermTensorSet without, with, few;
	SermError error = {0};

	for (uint32_t q = 0; q < 8; q++)
		shop->queries[q] = shop->docs[q];
	for (uint32_t i = 0; i < 400; i++)
		shop->pairs[i] = (SermShownPair){i / 50, shop->docs[(i * 7) % DOCS]};
	shop->set.queries = shop->queries;
	shop->set.query_count = 8;
	CHECK(start(shop, arena, &without, &error) == SERM_OK, "without pairs");
	shop->set.pairs = shop->pairs;
	shop->set.pair_count = 20;
	CHECK(
	    start(shop, arena, &few, &error) == SERM_OK && same_tensors(&without, &few), "a few change nothing");
	shop->set.pair_count = 400;
	CHECK(start(shop, arena, &with, &error) == SERM_OK, "many");
	CHECK(memcmp(serm_tensor_find(&with, "guard")->data, serm_tensor_find(&without, "guard")->data,
	          sizeof(SermGuard)) != 0,
	    "give the constants of s0");
	CHECK(memcmp(serm_tensor_find(&with, "embedding.rows")->data,
	          serm_tensor_find(&without, "embedding.rows")->data, SERM_EMBEDDING_ROWS) == 0,
	    "and nothing else");
	shop->pairs[0].query = 8;
	CHECK(start(shop, arena, &with, &error) == SERM_ERR_INVALID, "a pair without its query is refused");
	shop->set.pair_count = 0;
}

static void
test_refused(Shop *shop, SermArena *arena)
{
	SermText blank[] = {{"", 0}, {"one", 3}};
	SermTensorSet tensors;
	SermError error = {0};
	uint32_t calls;

	shop->set.corpus_count = 0;
	CHECK(start(shop, arena, &tensors, &error) == SERM_ERR_NO_DATA, "no documents, no model");
	shop->set.corpus = blank;
	shop->set.corpus_count = 2;
	CHECK(start(shop, arena, &tensors, &error) == SERM_ERR_NO_DATA, "nor of documents without words to draw");
	shop->set.corpus = shop->docs;
	shop->set.corpus_count = DOCS;
	shop->set.grade_count = 1;
	CHECK(start(shop, arena, &tensors, &error) == SERM_ERR_INVALID, "one grade is none");
	shop->set.grade_count = GRADES;
	shop->watch.calls = 0;
	CHECK(start(shop, arena, &tensors, &error) == SERM_OK, "the whole");
	calls = shop->watch.calls;
	for (uint32_t stop = 1; stop < calls; stop += calls / 5) {
		shop->watch = (Watch){0, stop};
		CHECK(start(shop, arena, &tensors, &error) == SERM_ERR_CANCELED, "it stops when it is told");
	}
	shop->watch = (Watch){0, 0};
}

int
main(void)
{
	SermArena arena = unit_arena();
	Shop *shop = serm_arena_alloc(&arena, sizeof(*shop));

	make_shop(shop, &arena);
	test_bytes(shop, &arena);
	test_order(shop, &arena);
	test_shown(shop, &arena);
	test_refused(shop, &arena);
	serm_arena_free(&arena);
	DONE();
}
