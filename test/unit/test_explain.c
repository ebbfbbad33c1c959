#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "core/model/attribution.h"
#include "core/model/interaction.h"
#include "core/train/train.h"
#include "unit.h"

enum { COLOURS = 5, THINGS = 6, PRODUCTS = COLOURS * THINGS, GRADES = 4, TENSORS_MAX = 32 };

static const char *const colours[COLOURS] = {"red", "blue", "green", "yellow", "white"};
static const char *const things[THINGS] = {"shoe", "lamp", "chair", "pillow", "bathroom mirror", "carpet"};

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

static SermText
text(const char *string)
{
	return (SermText){string, strlen(string)};
}

/* Products graded by colour and thing. */
static SermTensorSet
train(SermArena *arena)
{
	static char names[PRODUCTS][32], docs[PRODUCTS][160];
	static SermText queries[PRODUCTS];
	static SermExample examples[PRODUCTS * PRODUCTS];
	SermTrainingSet set = {GRADES, queries, PRODUCTS, examples, PRODUCTS * PRODUCTS, NULL, 0};
	SermTrainHost host = {.keep_going = go_on};
	SermTrainOptions options;
	SermTrainReport report;
	SermTensorSet tensors;
	SermError error;

	serm_train_defaults(&options);
	options.seed = 3;
	options.epochs = 15;
	options.pretrain_epochs = 10;
	for (int i = 0; i < PRODUCTS; i++) {
		snprintf(names[i], sizeof(names[i]), "%s %s", colours[i / THINGS], things[i % THINGS]);
		snprintf(docs[i], sizeof(docs[i]), "%.30s\nA %.30s for your home, made to last %d years.", names[i],
		    names[i], i);
		queries[i] = text(names[i]);
	}
	for (int q = 0; q < PRODUCTS; q++)
		for (int d = 0; d < PRODUCTS; d++) {
			SermExample *example = &examples[q * PRODUCTS + d];

			*example = (SermExample){.query = (uint32_t) q, .doc = text(docs[d]), .weight = 1};
			example->target[q == d ? 3 : q % THINGS == d % THINGS ? 2 : q / THINGS == d / THINGS] = 1;
		}
	if (serm_train_interaction(&set, &options, &host, arena, &tensors, &report, &error) != SERM_OK)
		printf("# %s\n", error.message);
	return tensors;
}

static SermModel *
open_model(const SermTensorSet *tensors, SermArena *arena)
{
	SermModel *model = NULL;
	SermError error;

	if (serm_model_open("interaction", tensors, arena, &model, &error) != SERM_OK)
		printf("# %s\n", error.message);
	return model;
}

typedef struct Explained {
	SermExplanation explanation;
	float score; /* by serm_model_predict */
	bool good;
} Explained;

static Explained
explain(const SermModel *model, SermText query_text, SermText doc_text, SermArena *arena)
{
	Explained explained = {.good = true};
	SermPrediction prediction;
	SermDocument doc;
	SermQuery *query;
	SermError error = {SERM_OK, ""};

	if (serm_model_parse_query(model, query_text, arena, &query, &error) != SERM_OK ||
	    serm_document_parse(doc_text, arena, &doc, &error) != SERM_OK ||
	    serm_model_predict_parsed(model, query, &doc, &prediction, &error) != SERM_OK ||
	    serm_model_explain(model, query, query_text, &doc, arena, &explained.explanation, &error) !=
	        SERM_OK) {
		printf("# %s\n", error.message);
		explained.good = false;
	}
	explained.score = prediction.score;
	return explained;
}

/* How far the sum is from the score; infinite when something is not finite or the bits differ. */
static double
gap(const Explained *explained)
{
	const SermExplanation *explanation = &explained->explanation;
	double sum = explanation->base;

	if (!explained->good || explanation->score != explained->score)
		return INFINITY;
	for (uint32_t i = 0; i < explanation->count; i++)
		sum += explanation->terms[i].contribution;
	return isfinite(sum) ? fabs(sum - explained->score) : INFINITY;
}

static const SermExplainedTerm *
find(const Explained *explained, const char *term, bool body)
{
	static const SermExplainedTerm none = {.contribution = NAN};

	for (uint32_t i = 0; i < explained->explanation.count; i++) {
		const SermExplainedTerm *row = &explained->explanation.terms[i];

		if (row->body == body && row->query_term.length == strlen(term) &&
		    memcmp(row->query_term.bytes, term, strlen(term)) == 0)
			return row;
	}
	return &none;
}

static bool
meets(const SermExplainedTerm *row, const char *word)
{
	return row->doc_term.length == strlen(word) && memcmp(row->doc_term.bytes, word, strlen(word)) == 0;
}

static double
through(const Explained *explained, const char *term)
{
	return (double) find(explained, term, false)->contribution +
	       (double) find(explained, term, true)->contribution;
}

/* --- what the rows say */

static void
test_terms(const SermModel *model, SermArena *arena)
{
	Explained both = explain(model, text("red shoe"), text("red shoe\nA red shoe for your home."), arena);
	Explained thing =
	    explain(model, text("red shoe"), text("white shoe\nA white shoe for your home."), arena);
	Explained none = explain(model, text("red shoe"), text("white lamp\nA white lamp for your home."), arena);
	Explained same =
	    explain(model, text("red shoe"), text("blue carpet\nA blue carpet for your home."), arena);

	CHECK(both.explanation.count == 4 && both.score > 2.5f, "two terms, two fields, a good score");
	CHECK(through(&both, "red") > 0.2 && through(&both, "shoe") > 0.4, "both terms raise it (%g, %g)",
	    through(&both, "red"), through(&both, "shoe"));
	CHECK(through(&thing, "shoe") > 0.4 && through(&thing, "red") < through(&thing, "shoe") / 2,
	    "what is missing raises it less (%g, %g)", through(&thing, "shoe"), through(&thing, "red"));
	CHECK(fabs(through(&none, "red") + through(&none, "shoe")) < 0.5, "without a match little is raised (%g)",
	    through(&none, "red") + through(&none, "shoe"));
	CHECK_NEAR(none.explanation.base, same.explanation.base, 1e-3,
	    "documents of the same lengths have the same base");
	CHECK(meets(find(&both, "red", false), "red") && meets(find(&both, "shoe", true), "shoe"),
	    "words are met by identity");
	CHECK(find(&thing, "red", false)->doc_term.length > 0, "without a match by whatever is closest");
	CHECK(meets(find(&thing, "shoe", false), "shoe"), "each field by itself");
}

static void
test_words(const SermModel *model, SermArena *arena)
{
	char long_body[2048] = "pillow\n";
	Explained misspelled = explain(model, text("blue pilow"), text("blue pillow"), arena);
	Explained joined = explain(model, text("bath room mirror"), text("white bathroom mirror"), arena);
	Explained split = explain(model, text("white bathroom"), text("white bath room"), arena);
	Explained accents = explain(model,
	    text("R\xc3\xa9"
	         "D SHOE"),
	    text("red shoes"), arena);
	Explained far, bodiless = explain(model, text("red shoe"), text("red shoe"), arena);
	Explained titleless = explain(model, text("red shoe"), text("\nred shoe"), arena);

	CHECK(meets(find(&misspelled, "pilow", false), "pillow"), "a misspelled word meets the right one");
	CHECK(meets(find(&joined, "bath", false), "bathroom") && meets(find(&joined, "room", false), "bathroom"),
	    "two words meet the one that they are");
	CHECK(meets(find(&split, "bathroom", false), "bath room"), "one word meets the two that it is");
	CHECK(meets(find(&accents, "red", false), "red") && meets(find(&accents, "shoe", false), "shoes"),
	    "terms are normalised");
	for (int i = 0; i < 100; i++)
		strcat(long_body, "filler ");
	strcat(long_body, "carpet");
	far = explain(model, text("carpet"), text(long_body), arena);
	CHECK(meets(find(&far, "carpet", true), "carpet") && gap(&far) < 1e-5,
	    "words behind the spelled ones are found");
	CHECK(bodiless.explanation.count == 2 && titleless.explanation.count == 2 && gap(&bodiless) < 1e-5 &&
	          gap(&titleless) < 1e-5 && find(&titleless, "red", true)->doc_term.length == 3,
	    "an empty field has no rows");
}

static void
test_nothing(const SermModel *model, SermArena *arena)
{
	const char *const blanks[] = {"", " ", "\n", "...", "\xff\xfe"};
	bool fine = true;

	for (size_t q = 0; q < SERM_LENGTH(blanks); q++)
		for (size_t d = 0; d < SERM_LENGTH(blanks); d++) {
			Explained explained = explain(model, text(blanks[q]), text(blanks[d]), arena);

			fine = fine && explained.explanation.count == 0 && explained.explanation.base == explained.score;
		}
	CHECK(fine, "where there are no words the base is all");
	for (size_t i = 0; i < SERM_LENGTH(blanks); i++) {
		Explained query = explain(model, text(blanks[i]), text("red shoe\nred shoe"), arena);
		Explained doc = explain(model, text("red shoe"), text(blanks[i]), arena);

		fine = fine && query.explanation.count == 0 && query.explanation.base == query.score;
		fine = fine && doc.explanation.count == 0 && doc.explanation.base == doc.score;
	}
	CHECK(fine, "nor on one side");
}

/* --- sums, over texts and weights of any kind */

static size_t
random_text(SermRng *rng, char *out, size_t words)
{
	static const char *const known[] = {
	    "red", "shoe", "lamp", "bath", "room", "bathroom", "mirror", "pillo", "3", "1,000"};
	size_t length = 0;

	for (size_t w = 0; w < words; w++) {
		uint32_t letters = 1 + serm_rng_below(rng, 9);

		if (serm_rng_below(rng, 3) > 0) {
			const char *word = known[serm_rng_below(rng, SERM_LENGTH(known))];

			memcpy(out + length, word, strlen(word));
			length += strlen(word);
		} else
			for (uint32_t i = 0; i < letters; i++) {
				static const uint32_t first[] = {
				    'a', 0x3b1, 0x430, 0x5d0, 0x627, 0x4e00, 0x3042, 0x1f600, '0', 0xfdfa};

				length += serm_utf8_encode(
				    first[serm_rng_below(rng, SERM_LENGTH(first))] + serm_rng_below(rng, 20), out + length);
			}
		out[length++] = serm_rng_below(rng, 12) == 0   ? '\n'
		                : serm_rng_below(rng, 20) == 0 ? (char) 0xc3
		                                               : ' ';
	}
	return length;
}

static double
worst_gap(const SermModel *model, uint64_t seed, int pairs, size_t words_max)
{
	static char query[8192], doc[65536];
	double worst = 0;
	SermRng rng;

	serm_rng_seed(&rng, seed);
	for (int i = 0; i < pairs; i++) {
		SermArena arena = unit_arena();
		SermText query_text = {
		    query, random_text(&rng, query, serm_rng_below(&rng, (uint32_t) words_max / 2))};
		SermText doc_text = {doc, random_text(&rng, doc, serm_rng_below(&rng, (uint32_t) words_max))};
		Explained explained = explain(model, query_text, doc_text, &arena);

		worst = fmax(worst, gap(&explained));
		serm_arena_free(&arena);
	}
	return worst;
}

/* The trained tensors with others in the place of some. */
static SermTensorSet
with(const SermTensorSet *tensors, double weight, float temperature, float slope, SermArena *arena)
{
	SermTensor *copy = serm_arena_array(arena, TENSORS_MAX, sizeof(*copy));
	SermTensorSet set = {copy, tensors->count};
	SermRng rng;

	serm_rng_seed(&rng, 8);
	memcpy(copy, tensors->tensors, tensors->count * sizeof(*copy));
	for (size_t i = 0; i < set.count; i++) {
		float *values = serm_arena_alloc(arena, copy[i].bytes + 1);

		memcpy(values, copy[i].data, copy[i].bytes);
		if (weight > 0 && strncmp(copy[i].name, "heads.", 6) == 0)
			for (size_t v = 0; v < copy[i].bytes / sizeof(float); v++)
				values[v] = (float) (weight * serm_rng_normal(&rng));
		if (strcmp(copy[i].name, SERM_TENSOR_GUARD) == 0)
			values[0] = slope;
		copy[i].data = values;
	}
	if (temperature > 0) {
		float *value = serm_arena_alloc(arena, sizeof(*value));

		*value = temperature;
		copy[set.count] = (SermTensor){
		    .dtype = SERM_DTYPE_F32, .rank = 1, .shape = {1}, .data = value, .bytes = sizeof(float)};
		snprintf(copy[set.count++].name, sizeof(copy[0].name), "%s", SERM_TENSOR_TEMPERATURE);
	}
	return set;
}

static void
test_sums(const SermTensorSet *tensors, SermArena *arena)
{
	const struct {
		const char *name;
		double weight;
		float temperature, slope;
	} cases[] = {{"as trained", 0, 0, 0.2f}, {"without a guard", 0, 0, 0},
	    {"with a temperature", 0, 1.7f, 0.2f}, {"with a steep guard", 0, 0.5f, 3},
	    {"with a guard that is turned round", 0, 0, -1}, {"with small random weights", 0.1, 0, 0.4f},
	    {"with large random weights", 1, 2, 0.4f}};

	for (size_t i = 0; i < SERM_LENGTH(cases); i++) {
		SermTensorSet set = with(tensors, cases[i].weight, cases[i].temperature, cases[i].slope, arena);
		double worst = worst_gap(open_model(&set, arena), 20 + i, 150, 40);

		CHECK(worst < 1e-5, "contributions sum to the score %s (%.1e)", cases[i].name, worst);
	}
	CHECK(worst_gap(open_model(tensors, arena), 5, 20, 400) < 1e-5, "and of long texts");
}

/* With no heads to speak of, the guard alone decides: its parts are known. */
static void
test_guard(const SermTensorSet *tensors, SermArena *arena)
{
	SermTensorSet set = with(tensors, 1e-9, 0, 0.3f, arena);
	Explained explained = explain(open_model(&set, arena), text("red lamp"), text("red shoe"), arena);

	CHECK(gap(&explained) < 1e-5 && find(&explained, "red", false)->contribution > 0.05,
	    "a guard without heads is explained by the match (%g)",
	    (double) find(&explained, "red", false)->contribution);
	explained = explain(open_model(&set, arena), text("lamp pilow"), text("red pillow"), arena);
	CHECK(gap(&explained) < 1e-5 && find(&explained, "pilow", false)->contribution > 0.02 &&
	          fabs((double) find(&explained, "lamp", false)->contribution) <
	              (double) find(&explained, "pilow", false)->contribution / 2,
	    "and by the spelling (%g, %g)", (double) find(&explained, "pilow", false)->contribution,
	    (double) find(&explained, "lamp", false)->contribution);
}

/* --- integrated gradients */

static void
test_attribution(const SermTensorSet *tensors, SermArena *arena)
{
	SermInteractionParts parts;
	SermReal from[SERM_FEATURES], to[SERM_FEATURES];
	SermAttribution slope;
	SermPrediction begin, end;
	double worst = 0, moved = 0;
	SermRng rng;

	CHECK(serm_interaction_parts(open_model(tensors, arena), &parts), "the parts of an opened model");
	serm_rng_seed(&rng, 4);
	for (int round = 0; round < 50; round++) {
		double sum;
		SermReal guard = (SermReal) serm_rng_normal(&rng);

		for (int i = 0; i < SERM_FEATURES; i++) {
			from[i] = (SermReal) serm_rng_normal(&rng);
			to[i] = (SermReal) serm_rng_normal(&rng);
		}
		serm_attribute(&parts.heads, (SermHeadsPoint){from, 0}, (SermHeadsPoint){to, guard}, 1, &slope);
		serm_heads_predict(&parts.heads, from, 0, &begin);
		serm_heads_predict(&parts.heads, to, guard, &end);
		sum = slope.guard * (double) guard;
		for (int i = 0; i < SERM_FEATURES; i++)
			sum += slope.input[i] * (double) (to[i] - from[i]);
		worst = fmax(worst, fabs(sum - (double) (end.score - begin.score)));
		moved = fmax(moved, fabs((double) (end.score - begin.score)));
	}
	CHECK(worst < 0.01 && moved > 1, "the quadrature alone comes within %.4f of differences of up to %.2f",
	    worst, moved);
}

int
main(void)
{
	SermArena arena = unit_arena();
	SermTensorSet tensors = train(&arena);
	SermModel *model = open_model(&tensors, &arena);

	test_terms(model, &arena);
	test_words(model, &arena);
	test_nothing(model, &arena);
	test_sums(&tensors, &arena);
	test_guard(&tensors, &arena);
	test_attribution(&tensors, &arena);
	serm_arena_free(&arena);
	DONE();
}
