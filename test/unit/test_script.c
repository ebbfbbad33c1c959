/*
 * Statistics by script (S4): documents in Latin and in Cyrillic letters in one
 * table, each scored as if the others were not there.
 */
#include "core/base/rng.h"
#include "core/model/interaction.h"
#include "core/text/script.h"
#include "core/train/merge.h"
#include "core/train/train.h"
#include "unit.h"

enum { DOCS = 40, LONG = 3, QUERIES = 10, LIST = 4, GRADES = 3, WORDS = 60 };

static bool
keep_going(void *context)
{
	return context == NULL;
}

static SermText
text(const char *string)
{
	return (SermText){string, strlen(string)};
}

/* Word number `index` of a script: three letters of it. */
static size_t
put_word(char *out, bool cyrillic, uint32_t index)
{
	size_t length = 0;

	for (int i = 0; i < 3; i++) {
		uint32_t letter = i == 0 ? index % 20 : i == 1 ? index / 20 : (index * 7 + 3) % 20;

		if (cyrillic)
			out[length++] = (char) 0xd0;
		out[length++] = (char) (cyrillic ? 0xb0 + letter % 16 : 'a' + letter);
	}
	out[length++] = ' ';
	return length;
}

/* Cyrillic documents are LONG times as long. */
static SermText
make_document(SermRng *rng, bool cyrillic, SermArena *arena)
{
	char out[512];
	size_t length = 0;

	for (int i = 0; i < (cyrillic ? 12 * LONG : 12); i++) {
		if (i == 4)
			out[length - 1] = '\n';
		length += put_word(out + length, cyrillic, serm_rng_below(rng, WORDS));
	}
	return (SermText){serm_arena_copy(arena, out, length), length};
}

static SermText
make_query(SermRng *rng, bool cyrillic, SermArena *arena)
{
	char out[64];
	size_t length = 0;

	for (int i = 0; i < 4; i++)
		length += put_word(out + length, cyrillic, serm_rng_below(rng, WORDS));
	return (SermText){serm_arena_copy(arena, out, length), length};
}

typedef struct World {
	SermText docs[2 * DOCS]; /* Latin, then Cyrillic */
	SermText queries[2][QUERIES];
	SermExample examples[QUERIES * LIST];
	SermTrainingSet set;
	SermTrainOptions options;
	SermTrainHost host;
} World;

static void
make_world(World *world, SermArena *arena)
{
	SermRng rng;

	memset(world, 0, sizeof(*world));
	serm_rng_seed(&rng, 5);
	for (int d = 0; d < 2 * DOCS; d++)
		world->docs[d] = make_document(&rng, d >= DOCS, arena);
	for (uint32_t q = 0; q < QUERIES; q++) {
		world->queries[0][q] = make_query(&rng, false, arena);
		world->queries[1][q] = make_query(&rng, true, arena);
		for (uint32_t i = 0; i < LIST; i++) {
			SermExample *example = &world->examples[q * LIST + i];

			*example = (SermExample){.query = q, .doc = world->docs[q * LIST + i], .weight = 1};
			example->target[i % GRADES] = 1;
		}
	}
	world->set = (SermTrainingSet){
	    GRADES, world->queries[0], QUERIES, world->examples, QUERIES * LIST, world->docs, 2 * DOCS};
	world->host = (SermTrainHost){.keep_going = keep_going};
	serm_train_defaults(&world->options);
	world->options.epochs = 4;
	world->options.pretrain_epochs = 1;
	world->options.guard = 0.5;
}

/* --- which script */

static SermScript
script_of(const char *string, SermArena *arena)
{
	SermScriptCount count = {0};
	SermWords words;
	SermError error;

	if (serm_text_words(text(string), SERM_QUERY_WORDS_MAX, arena, &words, &error) != SERM_OK)
		return SERM_SCRIPTS;
	serm_script_add(&count, &words);
	return serm_script_main(&count);
}

static void
test_scripts(SermArena *arena)
{
	static const struct {
		const char *text;
		SermScript script;
	} cases[] = {
	    {"a blue lamp", SERM_SCRIPT_LATIN},
	    {"\u00c4pfel \u1ec7", SERM_SCRIPT_LATIN},
	    {"\u03bb\u03cc\u03b3\u03bf\u03c2 \u1f00\u03c1\u03c7\u03ae", SERM_SCRIPT_GREEK},
	    {"\u043b\u0430\u043c\u043f\u0430", SERM_SCRIPT_CYRILLIC},
	    {"\u05de\u05e0\u05d5\u05e8\u05d4", SERM_SCRIPT_HEBREW},
	    {"\u0645\u0635\u0628\u0627\u062d", SERM_SCRIPT_ARABIC},
	    {"\u0926\u0940\u092a\u0915", SERM_SCRIPT_DEVANAGARI},
	    {"\u0e42\u0e04\u0e21\u0e44\u0e1f", SERM_SCRIPT_THAI},
	    {"\u84dd\u8272\u7684\u706f", SERM_SCRIPT_CJK},
	    {"\u30e9\u30f3\u30d7 \u3042\u304b\u308a", SERM_SCRIPT_CJK},
	    {"\ub7a8\ud504", SERM_SCRIPT_HANGUL},
	    {"\u10da\u10d0\u10db\u10de\u10d0", SERM_SCRIPT_OTHER},
	    {"NFL \u84dd\u8272\u7684\u706f 2015", SERM_SCRIPT_CJK},
	    {"blue \u043b\u0430\u043c\u043f\u0430", SERM_SCRIPTS},
	    {"2015 3.5", SERM_SCRIPTS},
	    {"", SERM_SCRIPTS},
	};

	for (size_t i = 0; i < SERM_LENGTH(cases); i++)
		CHECK(script_of(cases[i].text, arena) == cases[i].script, "case %zu: \"%s\" (%d)", i, cases[i].text,
		    (int) script_of(cases[i].text, arena));
	CHECK(serm_script_of(UINT32_MAX) == SERM_SCRIPT_OTHER, "and nothing is out of the table");
}

/* --- statistics */

static void
count(const SermText *docs, size_t doc_count, SermArena *arena, SermStatistics *statistics)
{
	SermError error = {0};

	CHECK(serm_statistics_count(docs, doc_count, arena, NULL, NULL, statistics, &error) == SERM_OK,
	    "statistics");
}

static bool
same_means(const SermStatistics *a, const SermStatistics *b)
{
	return a->document_count == b->document_count && a->title_length == b->title_length &&
	       a->body_length == b->body_length && a->joined_length == b->joined_length &&
	       a->spelled_share == b->spelled_share;
}

static void
test_statistics(const World *world, SermArena *arena)
{
	SermText few[DOCS + SERM_SCRIPT_DOCUMENTS_MIN];
	SermStatistics both, alone[2], own;

	count(world->docs, 2 * (size_t) DOCS, arena, &both);
	for (int s = 0; s < 2; s++) {
		count(world->docs + s * (size_t) DOCS, DOCS, arena, &alone[s]);
		CHECK(alone[s].scripts == NULL, "one script is one collection");
		own = serm_statistics_of_script(&both, s == 0 ? SERM_SCRIPT_LATIN : SERM_SCRIPT_CYRILLIC);
		CHECK(same_means(&own, &alone[s]) && !same_means(&own, &both), "two have statistics of their own");
	}
	own = serm_statistics_of_script(&both, SERM_SCRIPT_GREEK);
	CHECK(same_means(&own, &both), "a script without documents has those of all");
	own = serm_statistics_of_script(&both, SERM_SCRIPTS);
	CHECK(same_means(&own, &both), "so has a query without a script");
	memcpy(few, world->docs, sizeof(few));
	count(few, DOCS + SERM_SCRIPT_DOCUMENTS_MIN - 1, arena, &both);
	CHECK(both.scripts == NULL, "a few documents are no collection");
	count(few, DOCS + SERM_SCRIPT_DOCUMENTS_MIN, arena, &both);
	CHECK(both.scripts != NULL, "%d are", SERM_SCRIPT_DOCUMENTS_MIN);
	own = serm_statistics_of_script(&both, SERM_SCRIPT_CYRILLIC);
	CHECK(own.document_count == SERM_SCRIPT_DOCUMENTS_MIN, "and are counted");
}

static SermFeatures
features_of(const SermStatistics *statistics, const SermEmbedding *embedding, SermText query, SermText doc,
    SermArena *arena)
{
	SermFeatures features = {.bm25 = NAN};
	SermParsedQuery *parsed;
	SermError error = {0};

	CHECK(serm_features_parse_query(statistics, embedding, query, arena, &parsed, &error) == SERM_OK &&
	          serm_features_compute(statistics, embedding, parsed, doc, arena, &features, &error) == SERM_OK,
	    "features");
	return features;
}

/* Scripts have no words in common, so a pair looks as it does in its own collection: to the bit. */
static void
test_features(const World *world, SermArena *arena)
{
	SermEmbedding none = {NULL, NULL, NULL}, cached = {NULL, NULL, serm_word_cache_create(arena)};
	SermStatistics both, alone[2], whole;
	uint32_t different = 0, stale = 0, same = 0;

	count(world->docs, 2 * (size_t) DOCS, arena, &both);
	whole = both;
	whole.scripts = NULL;
	for (int s = 0; s < 2; s++)
		count(world->docs + s * (size_t) DOCS, DOCS, arena, &alone[s]);
	for (int i = 0; i < 2 * QUERIES; i++) {
		SermText query = world->queries[i % 2][i / 2], doc = world->docs[i % 2 * DOCS + i];
		SermFeatures ours = features_of(&both, &none, query, doc, arena);
		SermFeatures theirs = features_of(&alone[i % 2], &none, query, doc, arena);
		SermFeatures mixed = features_of(&whole, &none, query, doc, arena);
		/* Queries of either script by turns: neither may find what the other left. */
		SermFeatures again = features_of(&both, &cached, query, doc, arena);
		SermFeatures foreign = features_of(&both, &cached, query, world->docs[(1 - i % 2) * DOCS + i], arena);
		SermFeatures fresh = features_of(&both, &none, query, world->docs[(1 - i % 2) * DOCS + i], arena);

		different += memcmp(&ours, &theirs, sizeof(ours)) != 0;
		same += ours.lexical == mixed.lexical;
		stale += memcmp(&ours, &again, sizeof(ours)) != 0 || memcmp(&foreign, &fresh, sizeof(fresh)) != 0;
	}
	CHECK(different == 0, "a pair looks as in its own collection (%u differ)", different);
	CHECK(same < QUERIES, "and seldom as by the statistics of all (%u of 20 do)", same);
	CHECK(stale == 0, "whatever the cache keeps (%u differ)", stale);
}

/* --- versions */

static SermTensorSet
train(World *world, SermArena *arena)
{
	SermTensorSet tensors = {0};
	SermTrainReport report;
	SermError error = {0};

	CHECK(serm_train_interaction(
	          &world->set, &world->options, &world->host, arena, &tensors, &report, &error) == SERM_OK,
	    "a version (%s)", error.message);
	return tensors;
}

static SermModel *
open_version(const SermTensorSet *tensors, SermArena *arena, SermInteractionParts *parts)
{
	SermModel *model = NULL;
	SermError error = {0};

	CHECK(serm_model_open("interaction", tensors, arena, &model, &error) == SERM_OK &&
	          serm_interaction_parts(model, parts),
	    "it opens (%s)", error.message);
	return model;
}

/* Text and encoded document, alone and in a batch that holds both scripts, and taken apart. */
static void
test_paths(const World *world, SermModel *model, SermArena *arena)
{
	SermBatch *batch = serm_model_batch(model, arena);
	SermPrediction alone[SERM_BATCH_ROWS], together[SERM_BATCH_ROWS], parsed;
	SermError error = {0};
	uint32_t different = 0;
	double worst = 0;

	for (int i = 0; i < SERM_BATCH_ROWS; i++) {
		SermText asked = world->queries[i % 2][i / 2], text = world->docs[i % 2 * DOCS + i];
		SermExplanation explanation = {.base = 0};
		SermQuery *query = NULL;
		SermDocument doc;
		double sum;

		CHECK(serm_model_parse_query(model, asked, arena, &query, &error) == SERM_OK &&
		          serm_document_parse(text, arena, &doc, &error) == SERM_OK &&
		          serm_model_predict(model, query, text, arena, &alone[i], &error) == SERM_OK &&
		          serm_model_predict_parsed(model, query, &doc, &parsed, &error) == SERM_OK &&
		          serm_batch_add(batch, query, &doc, &error) == SERM_OK &&
		          serm_model_explain(model, query, asked, &doc, arena, &explanation, &error) == SERM_OK,
		    "a pair on each path (%s)", error.message);
		different += memcmp(&alone[i], &parsed, sizeof(parsed)) != 0;
		different += explanation.score != parsed.score;
		sum = (double) explanation.base;
		for (uint32_t t = 0; t < explanation.count; t++)
			sum += (double) explanation.terms[t].contribution;
		worst = fmax(worst, fabs(sum - (double) explanation.score));
	}
	CHECK(serm_batch_run(batch, together, &error) == SERM_OK, "a batch");
	for (int i = 0; i < SERM_BATCH_ROWS; i++)
		different += memcmp(&alone[i], &together[i], sizeof(alone[i])) != 0;
	CHECK(different == 0, "every path gives the same bits (%u differ)", different);
	CHECK(worst < 1e-4, "contributions sum to the score (%.1e)", worst);
}

/* `tensors` with the value at `place` of the scripts' tensor set, or its first dimension cut. */
static SermStatus
open_damaged(const SermTensorSet *tensors, int place, double value, SermArena *arena, SermError *error)
{
	SermTensor *copied = serm_arena_array(arena, tensors->count, sizeof(*copied));
	SermTensorSet damaged = {copied, tensors->count};
	SermModel *model;

	for (size_t i = 0; i < tensors->count; i++) {
		copied[i] = tensors->tensors[i];
		if (strcmp(copied[i].name, "statistics.script") != 0)
			continue;
		if (place < 0) {
			copied[i].shape[0]--;
			copied[i].bytes -= 5 * sizeof(double);
			continue;
		}
		copied[i].data = serm_arena_copy(arena, tensors->tensors[i].data, copied[i].bytes);
		((double *) copied[i].data)[place] = value;
	}
	return serm_model_open("interaction", &damaged, arena, &model, error);
}

static void
test_damage(const SermTensorSet *tensors, SermArena *arena)
{
	static const struct {
		int place;
		double value;
		const char *what;
	} cases[] = {
	    {-1, 0, "a script is missing"},
	    {0, -1, "a count below 0"},
	    {0, NAN, "no number"},
	    {3, INFINITY, "an endless length"},
	    {4, 1.5, "a share above 1"},
	    {5 * SERM_SCRIPT_GREEK, 1, "more documents in scripts than there are"},
	};
	SermError error = {0};

	CHECK(open_damaged(tensors, 1, 7, arena, &error) == SERM_OK, "another length is as good");
	for (size_t i = 0; i < SERM_LENGTH(cases); i++)
		CHECK(open_damaged(tensors, cases[i].place, cases[i].value, arena, &error) == SERM_ERR_CORRUPT &&
		          strstr(error.message, "statistics.script") != NULL,
		    "%s is refused (%s)", cases[i].what, error.message);
}

static void
test_versions(World *world, SermArena *arena)
{
	SermTensorSet tensors = train(world, arena), again = train(world, arena), child;
	const SermTensor *stored = serm_tensor_find(&tensors, "statistics.script");
	const SermTensor *second = serm_tensor_find(&again, "statistics.script");
	SermInteractionParts parts, continued, merged, models[2];
	SermModel *model = open_version(&tensors, arena, &parts);
	SermError error = {0};
	double weights[2] = {0.5, 0.5};

	CHECK(stored != NULL && second != NULL && stored->bytes == SERM_SCRIPTS * sizeof(SermScriptStatistics) &&
	          memcmp(stored->data, second->data, stored->bytes) == 0,
	    "the same documents give the same tensor");
	CHECK(parts.statistics.scripts[SERM_SCRIPT_CYRILLIC].document_count == DOCS, "which is read again");
	test_paths(world, model, arena);
	test_damage(&tensors, arena);
	world->set.parent = model;
	child = train(world, arena);
	world->set.parent = NULL;
	(void) open_version(&child, arena, &continued);
	CHECK(memcmp(continued.statistics.scripts, stored->data, stored->bytes) == 0,
	    "a continued version keeps its parent's");
	models[0] = parts;
	models[1] = continued;
	CHECK(serm_merge_difference(&parts, &continued) == NULL &&
	          serm_merge(&parts, models, weights, 2, arena, &merged, &error) == SERM_OK &&
	          merged.statistics.scripts != NULL,
	    "so does a merged one");
	models[1].statistics.scripts = NULL;
	CHECK(strcmp(serm_merge_difference(&parts, &models[1]), "statistics") == 0,
	    "versions with and without are not merged");
	world->set.corpus_count = DOCS;
	tensors = train(world, arena);
	CHECK(serm_tensor_find(&tensors, "statistics.script") == NULL, "one script stores what it always did");
}

int
main(void)
{
	SermArena arena = unit_arena();
	static World world;

	make_world(&world, &arena);
	test_scripts(&arena);
	test_statistics(&world, &arena);
	test_features(&world, &arena);
	test_versions(&world, &arena);
	serm_arena_free(&arena);
	DONE();
}
