#include "core/train/continue.h"

#include "core/train/merge.h"
#include "unit.h"

enum { WORDS = 60, GRADES = 4, LIST = 8, OLD = 60, NEW = 20, QUERIES = OLD + NEW, PAIRS = QUERIES * LIST };

/* Old queries by one rule of grading, new ones by another. */
typedef struct Toy {
	SermText queries[QUERIES];
	SermExample examples[PAIRS];
	uint8_t origin[PAIRS];
	SermTrainOptions options;
	SermTrainHost host;
} Toy;

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

static SermText
text_of(const uint32_t *words, uint32_t count, const char *end, SermArena *arena)
{
	char text[256];
	size_t length = 0;

	for (uint32_t i = 0; i < count; i++)
		length += (size_t) snprintf(text + length, sizeof(text) - length, "%s%c%c%c", i > 0 ? " " : "",
		    'b' + (int) words[i] % 20, "aeiou"[words[i] / 20], 'c' + (int) (words[i] * 7) % 19);
	length += (size_t) snprintf(text + length, sizeof(text) - length, "%s", end);
	return (SermText){serm_arena_copy(arena, text, length), length};
}

/* A document has 0 to 3 of the query's words: the grade of old queries; of new ones one less, or 0. */
static Toy *
make_toy(SermArena *arena)
{
	Toy *toy = serm_arena_alloc(arena, sizeof(*toy));
	/* Behind every title, so that it tells nothing: words that have kin. */
	static const char kin[] = "\nmeasured measuring compared comparing selected selecting reported reporting";
	uint32_t bag[WORDS], doc[8];
	SermRng rng;

	serm_rng_seed(&rng, 17);
	for (uint32_t i = 0; i < WORDS; i++)
		bag[i] = i;
	for (uint32_t q = 0; q < QUERIES; q++) {
		serm_rng_shuffle(&rng, bag, WORDS);
		toy->queries[q] = text_of(bag, 3, "", arena);
		for (uint32_t i = 0; i < LIST; i++) {
			uint32_t at = q * LIST + i, common = i % 4, grade = q < OLD || common == 0 ? common : common - 1;

			for (uint32_t w = 0; w < 8; w++)
				doc[w] = w < common ? bag[w] : bag[3 + serm_rng_below(&rng, WORDS - 3)];
			serm_rng_shuffle(&rng, doc, 8);
			toy->examples[at] = (SermExample){.query = q, .doc = text_of(doc, 8, kin, arena), .weight = 1};
			toy->examples[at].target[grade] = 1;
			toy->origin[at] = q >= OLD     ? SERM_ORIGIN_NEW
			                  : q % 2 == 0 ? SERM_ORIGIN_HISTORY
			                               : SERM_ORIGIN_ORIGINAL;
		}
	}
	toy->host = (SermTrainHost){.keep_going = go_on};
	serm_train_defaults(&toy->options);
	toy->options.pretrain_epochs = 2;
	toy->options.heads = 2;
	return toy;
}

static SermTrainingSet
set_of(Toy *toy, uint32_t first, uint32_t end, const SermModel *parent)
{
	return (SermTrainingSet){.grade_count = GRADES,
	    .queries = toy->queries,
	    .query_count = QUERIES,
	    .examples = toy->examples + (size_t) first * LIST,
	    .example_count = (size_t) (end - first) * LIST,
	    .parent = parent,
	    .origin = parent != NULL ? toy->origin + (size_t) first * LIST : NULL};
}

static SermStatus
run(const Toy *toy, const SermTrainingSet *set, SermArena *arena, SermTensorSet *tensors, SermError *error)
{
	SermTrainReport report;

	return serm_train_interaction(set, &toy->options, &toy->host, arena, tensors, &report, error);
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

/* Train and open; NULL when that fails. */
static SermModel *
train(const Toy *toy, SermTrainingSet set, SermArena *arena)
{
	SermTensorSet tensors;
	SermError error;

	if (run(toy, &set, arena, &tensors, &error) == SERM_OK)
		return open_model(&tensors, arena);
	printf("# %s\n", error.message);
	return NULL;
}

static SermInteractionParts
parts_of(const SermModel *model, SermArena *arena)
{
	SermInteractionParts parts = {.mean = NULL};
	SermError error;

	if (serm_continue_open(model, arena, &parts, &error) != SERM_OK)
		printf("# %s\n", error.message);
	return parts;
}

static SermPrediction
predict(const SermModel *model, const Toy *toy, uint32_t pair, SermArena *arena)
{
	SermArenaMark mark = serm_arena_mark(arena);
	SermPrediction prediction = {0};
	SermQuery *query;
	SermError error;

	if (serm_model_parse_query(model, toy->queries[toy->examples[pair].query], arena, &query, &error) !=
	        SERM_OK ||
	    serm_model_predict(model, query, toy->examples[pair].doc, arena, &prediction, &error) != SERM_OK)
		printf("# %s\n", error.message);
	serm_arena_rewind(arena, mark);
	return prediction;
}

/* Mean -ln P(grade) over the queries from `first` to `end`. */
static double
nll(const SermModel *model, const Toy *toy, uint32_t first, uint32_t end, SermArena *arena)
{
	double sum = 0;

	for (uint32_t i = first * LIST; i < end * LIST; i++) {
		SermPrediction prediction = predict(model, toy, i, arena);

		for (int y = 0; y < GRADES; y++)
			if (toy->examples[i].target[y] > 0)
				sum -= log((double) prediction.probability[y]);
	}
	return sum / ((end - first) * LIST);
}

/* Mean KL(a, b) over the old queries: how far b has drifted. */
static double
drift(const SermModel *a, const SermModel *b, const Toy *toy, SermArena *arena)
{
	double sum = 0;

	for (uint32_t i = 0; i < OLD * LIST; i++) {
		SermPrediction p = predict(a, toy, i, arena), q = predict(b, toy, i, arena);

		for (int y = 0; y < GRADES; y++)
			sum += (double) p.probability[y] * log((double) p.probability[y] / (double) q.probability[y]);
	}
	return sum / (OLD * LIST);
}

static double
farthest(const SermModel *a, const SermModel *b, const Toy *toy, SermArena *arena)
{
	double most = 0;

	for (uint32_t i = 0; i < PAIRS; i += 3)
		most = fmax(
		    most, fabs((double) predict(a, toy, i, arena).score - (double) predict(b, toy, i, arena).score));
	return most;
}

/* --- continued training */

static void
test_beginning(Toy *toy, const SermModel *parent, SermArena *arena)
{
	SermTrainOptions saved = toy->options;
	SermInteractionParts before = parts_of(parent, arena), after;
	SermModel *child;

	toy->options.learning_rate = 1e-9;
	toy->options.weight_decay = 0;
	toy->options.epochs = 1;
	toy->options.heads = 7;
	toy->options.guard = 5;
	child = train(toy, set_of(toy, 0, QUERIES, parent), arena);
	after = parts_of(child, arena);
	CHECK(before.statistics.word_kin != NULL && after.statistics.word_kin != before.statistics.word_kin,
	    "kin is copied");
	CHECK(farthest(parent, child, toy, arena) < 1e-4, "without a step to speak of it is the parent");
	CHECK(
	    serm_merge_difference(&before, &after) == NULL, "embeddings, statistics and scales are the parent's");
	CHECK(after.guard.slope == before.guard.slope && after.heads.head_count == before.heads.head_count,
	    "and so are guard and heads, whatever the options say");
	toy->options = saved;
}

static void
test_temperature(Toy *toy, SermArena *arena)
{
	SermTrainOptions saved = toy->options;
	SermTensorSet tensors;
	SermTensor *copy;
	SermTrainingSet set = set_of(toy, 0, OLD, NULL);
	SermModel *parent, *child;
	SermInteractionParts parts;
	SermError error;
	float temperature = 1.6f;

	CHECK(run(toy, &set, arena, &tensors, &error) == SERM_OK, "a parent trains");
	copy = serm_arena_array(arena, tensors.count + 1, sizeof(*copy));
	memcpy(copy, tensors.tensors, tensors.count * sizeof(*copy));
	copy[tensors.count] = (SermTensor){
	    .dtype = SERM_DTYPE_F32, .rank = 1, .shape = {1}, .data = &temperature, .bytes = sizeof(temperature)};
	snprintf(copy[tensors.count].name, sizeof(copy->name), "%s", SERM_TENSOR_TEMPERATURE);
	parent = open_model(&(SermTensorSet){copy, tensors.count + 1}, arena);
	toy->options.learning_rate = 1e-9;
	toy->options.weight_decay = 0;
	toy->options.epochs = 1;
	child = train(toy, set_of(toy, 0, QUERIES, parent), arena);
	parts = parts_of(parent, arena);
	CHECK(parts.heads.temperature == 0 && farthest(parent, child, toy, arena) < 1e-4,
	    "the temperature of a parent is folded into the weights");
	toy->options = saved;
}

static void
test_learning(Toy *toy, const SermModel *parent, SermArena *arena)
{
	SermTrainOptions saved = toy->options;
	double before = nll(parent, toy, OLD, QUERIES, arena), old = nll(parent, toy, 0, OLD, arena);
	SermModel *held, *loose, *fresh;

	toy->options.epochs = 30;
	toy->options.anchor = 1;
	held = train(toy, set_of(toy, 0, QUERIES, parent), arena);
	toy->options.anchor = 0;
	loose = train(toy, set_of(toy, 0, QUERIES, parent), arena);
	toy->options.share[SERM_ORIGIN_HISTORY] = toy->options.share[SERM_ORIGIN_ORIGINAL] = 0;
	fresh = train(toy, set_of(toy, 0, QUERIES, parent), arena);
	CHECK(nll(held, toy, OLD, QUERIES, arena) < before - 0.2, "it learns what is new (NLL %.3f from %.3f)",
	    nll(held, toy, OLD, QUERIES, arena), before);
	CHECK(drift(parent, held, toy, arena) < 0.8 * drift(parent, loose, toy, arena) &&
	          drift(parent, loose, toy, arena) < 0.8 * drift(parent, fresh, toy, arena),
	    "the anchor and the replay hold it (%.3f, %.3f, %.3f)", drift(parent, held, toy, arena),
	    drift(parent, loose, toy, arena), drift(parent, fresh, toy, arena));
	CHECK(nll(fresh, toy, 0, OLD, arena) > old + 0.3 &&
	          nll(held, toy, 0, OLD, arena) < nll(fresh, toy, 0, OLD, arena) - 0.2,
	    "without replay it forgets (NLL %.3f from %.3f; held %.3f)", nll(fresh, toy, 0, OLD, arena), old,
	    nll(held, toy, 0, OLD, arena));
	toy->options = saved;
}

static bool
same_tensors(const SermTensorSet *a, const SermTensorSet *b)
{
	bool same = a->count == b->count;

	for (size_t i = 0; same && i < a->count; i++)
		same = a->tensors[i].bytes == b->tensors[i].bytes &&
		       (a->tensors[i].bytes == 0 ||
		           memcmp(a->tensors[i].data, b->tensors[i].data, a->tensors[i].bytes) == 0);
	return same;
}

static void
test_invariances(Toy *toy, const SermModel *parent, SermArena *arena)
{
	static Toy turned;
	SermTrainingSet set = set_of(toy, 0, QUERIES, parent);
	SermTensorSet first, second;
	SermError error;

	toy->options.epochs = 3;
	CHECK(run(toy, &set, arena, &first, &error) == SERM_OK &&
	          run(toy, &set, arena, &second, &error) == SERM_OK && same_tensors(&first, &second),
	    "the same bytes again");
	turned = *toy;
	for (uint32_t i = 0; i < PAIRS; i++) {
		turned.examples[i] = toy->examples[PAIRS - 1 - i];
		turned.origin[i] = toy->origin[PAIRS - 1 - i];
	}
	set = set_of(&turned, 0, QUERIES, parent);
	CHECK(run(&turned, &set, arena, &second, &error) == SERM_OK && same_tensors(&first, &second),
	    "in any order of the examples");
	turned = *toy;
	set = set_of(&turned, 0, QUERIES, parent);
	set.origin = NULL;
	CHECK(run(&turned, &set, arena, &first, &error) == SERM_OK, "without origins all is new");
	turned.options.anchor = 50;
	CHECK(run(&turned, &set, arena, &second, &error) == SERM_OK && same_tensors(&first, &second),
	    "and the anchor touches nothing");
	toy->options.epochs = 0;
}

static void
test_refusals(Toy *toy, const SermModel *parent, SermArena *arena)
{
	SermTrainOptions saved = toy->options;
	SermTrainingSet set = set_of(toy, 0, QUERIES, parent);
	SermTensorSet tensors;
	SermError error;

	toy->options.anchor = -1;
	CHECK(run(toy, &set, arena, &tensors, &error) == SERM_ERR_INVALID, "a negative anchor");
	toy->options = saved;
	toy->options.share[1] = NAN;
	CHECK(run(toy, &set, arena, &tensors, &error) == SERM_ERR_INVALID, "a share that is no number");
	toy->options = saved;
	toy->origin[3] = SERM_ORIGIN_COUNT;
	CHECK(run(toy, &set, arena, &tensors, &error) == SERM_ERR_INVALID, "an unknown origin");
	toy->origin[3] = SERM_ORIGIN_ORIGINAL;
	set.grade_count = 3;
	CHECK(run(toy, &set, arena, &tensors, &error) == SERM_ERR_INVALID, "a parent of other grades");
}

/* --- mixture */

enum { PIECES = 900 };

static void
test_mixture(SermArena *arena)
{
	static uint8_t origin[PIECES];
	static uint32_t length[PIECES], order[PIECES * 5];
	const double shares[] = {1, 1, 1}, uneven[] = {1, 0, 3}, nothing[] = {0, 0, 0};
	uint32_t count, seen[PIECES] = {0}, taken[SERM_ORIGIN_COUNT] = {0}, total = 0;
	bool once = true, even = true;
	SermMixture mixture;
	SermRng rng;

	serm_rng_seed(&rng, 2);
	for (uint32_t i = 0; i < PIECES; i++) {
		origin[i] = i < 100 ? SERM_ORIGIN_NEW : i < 400 ? SERM_ORIGIN_HISTORY : SERM_ORIGIN_ORIGINAL;
		length[i] = 1 + i % 5;
	}
	CHECK(serm_mixture_init(&mixture, origin, length, PIECES, shares, arena), "a mixture");
	count = serm_mixture_draw(&mixture, &rng, order);
	for (uint32_t i = 0; i < count; i++) {
		taken[origin[order[i]]] += length[order[i]];
		total += length[order[i]];
		seen[order[i]]++;
		for (int o = 0; o < SERM_ORIGIN_COUNT; o++)
			even = even && fabs(taken[o] - total / 3.0) <= 5;
	}
	for (uint32_t i = 0; i < PIECES; i++)
		once = once && (i < 100 ? seen[i] >= 1 : true) && seen[i] <= 2;
	CHECK(once && total >= 900 && total <= 905 && count <= mixture.piece_max,
	    "an epoch takes what is new once");
	CHECK(even, "every run of it has the shares");
	CHECK(serm_mixture_init(&mixture, origin, length, PIECES, uneven, arena) && mixture.share[1] == 0 &&
	          mixture.share[2] == 0.75 && mixture.examples == 1200,
	    "shares of other kinds");
	CHECK(serm_mixture_init(&mixture, origin, length, 100, shares, arena) && mixture.share[0] == 1 &&
	          mixture.examples == 300,
	    "what is not there has no share");
	CHECK(serm_mixture_init(&mixture, origin + 100, length, 800, shares, arena) && mixture.share[0] == 0 &&
	          mixture.examples == 2400,
	    "without anything new an epoch is as long as all");
	CHECK(serm_mixture_init(&mixture, origin, length, PIECES, nothing, arena) &&
	          serm_mixture_draw(&mixture, &rng, order) <= mixture.piece_max,
	    "no shares at all are equal ones");
	CHECK(serm_mixture_init(&mixture, origin, length, 350, shares, arena) && mixture.examples == 600 &&
	          serm_mixture_draw(&mixture, &rng, order) <= mixture.piece_max,
	    "two kinds share alike");
}

/* --- merging */

static SermModel *
merge(const SermInteractionParts *ancestor, const SermInteractionParts *models, const double *weights,
    size_t count, SermArena *arena)
{
	SermInteractionParts merged;
	SermTensorSet tensors;
	SermError error;

	if (serm_merge(ancestor, models, weights, count, arena, &merged, &error) == SERM_OK &&
	    serm_interaction_write(&merged, arena, &tensors, &error) == SERM_OK)
		return open_model(&tensors, arena);
	printf("# %s\n", error.message);
	return NULL;
}

static void
test_merge(Toy *toy, const SermModel *parent, SermArena *arena)
{
	SermInteractionParts ancestor = parts_of(parent, arena), models[2], other;
	const double halves[] = {.5, .5}, one[] = {1, 0}, none[] = {0, 0}, steep[] = {3, -4}, huge[] = {1e9, 0};
	SermModel *child, *sibling, *merged;
	SermInteractionParts out;
	SermError error;
	bool middle = true;

	toy->options.epochs = 18;
	child = train(toy, set_of(toy, OLD, QUERIES, parent), arena);
	toy->options.epochs = 6;
	toy->options.seed++;
	sibling = train(toy, set_of(toy, 0, OLD, parent), arena);
	models[0] = parts_of(child, arena);
	models[1] = parts_of(sibling, arena);
	CHECK(serm_merge_difference(&ancestor, &models[0]) == NULL &&
	          serm_merge_difference(&ancestor, &models[1]) == NULL,
	    "children of one parent can be merged");
	CHECK(farthest(merge(&ancestor, models, none, 2, arena), parent, toy, arena) < 1e-5,
	    "without weight they are the ancestor");
	CHECK(farthest(merge(&ancestor, models, one, 2, arena), child, toy, arena) < 1e-4,
	    "a weight of 1 is the version itself");
	merged = merge(&ancestor, models, halves, 2, arena);
	out = parts_of(merged, arena);
	for (size_t i = 0; i < 100; i++)
		middle = middle && fabs((double) out.heads.w1[i] -
		                        ((double) models[0].heads.w1[i] + (double) models[1].heads.w1[i]) / 2) < 1e-6;
	CHECK(middle, "halves are the mean");
	CHECK(nll(merged, toy, OLD, QUERIES, arena) < nll(parent, toy, OLD, QUERIES, arena) &&
	          nll(merged, toy, 0, OLD, arena) < nll(child, toy, 0, OLD, arena),
	    "and know something of both (NLL new %.3f of %.3f, old %.3f of %.3f)",
	    nll(merged, toy, OLD, QUERIES, arena), nll(parent, toy, OLD, QUERIES, arena),
	    nll(merged, toy, 0, OLD, arena), nll(child, toy, 0, OLD, arena));
	CHECK(
	    merge(&ancestor, models, steep, 2, arena) != NULL, "cut points stay ascending whatever the weights");
	CHECK(serm_merge(&ancestor, models, huge, 2, arena, &out, &error) == SERM_ERR_DIVERGED,
	    "weights beyond all bounds");
	toy->options.epochs = 1;
	other = parts_of(train(toy, set_of(toy, 0, OLD, NULL), arena), arena);
	CHECK(strcmp(serm_merge_difference(&ancestor, &other), "embeddings") == 0,
	    "a version of its own has other embeddings");
	other = ancestor;
	other.statistics.document_count++;
	CHECK(strcmp(serm_merge_difference(&ancestor, &other), "statistics") == 0, "or other statistics");
	other = ancestor;
	other.statistics.word_kin = other.statistics.kin_df = other.statistics.word_df;
	CHECK(strcmp(serm_merge_difference(&ancestor, &other), "statistics") == 0, "or other kin");
	CHECK(serm_merge_difference(&other, &other) == NULL, "the same kin is none");
	other = ancestor;
	other.guard.dot_mean++;
	CHECK(strcmp(serm_merge_difference(&ancestor, &other), "scales") == 0, "or scales");
	other = ancestor;
	other.heads.head_count++;
	CHECK(strcmp(serm_merge_difference(&ancestor, &other), "number of heads") == 0, "or heads");
}

int
main(void)
{
	SermArena arena = unit_arena();
	Toy *toy = make_toy(&arena);
	SermModel *parent = train(toy, set_of(toy, 0, OLD, NULL), &arena);

	test_mixture(&arena);
	test_beginning(toy, parent, &arena);
	test_temperature(toy, &arena);
	test_learning(toy, parent, &arena);
	test_invariances(toy, parent, &arena);
	test_refusals(toy, parent, &arena);
	test_merge(toy, parent, &arena);
	serm_arena_free(&arena);
	DONE();
}
