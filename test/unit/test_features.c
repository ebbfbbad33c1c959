#include "core/base/rng.h"
#include "core/model/features.h"
#include "unit.h"

#define WIDTH SERM_EMBEDDING_WIDTH
#define TITLE 0
#define BODY 20
#define JOINED 40
#define GLOBAL 49
#define TITLE_KERNELS 59
#define BODY_KERNELS 65
#define DOTS 71

static const SermEmbedding untrained;
/* Nothing was ever seen: every word has the largest idf, so weights cancel in hand-worked values. */
static const SermStatistics flat = {
    .document_count = 100, .title_length = 5, .body_length = 10, .joined_length = 8};

static SermText
text_of(const char *string)
{
	return (SermText){string, strlen(string)};
}

static SermFeatures
features_of_text(
    const SermStatistics *statistics, const SermEmbedding *embedding, SermText query, SermText doc)
{
	SermArena arena = unit_arena(), scratch = unit_arena();
	SermParsedQuery *parsed;
	SermFeatures features;
	SermError error;

	if (serm_features_parse_query(statistics, embedding, query, &arena, &parsed, &error) != SERM_OK ||
	    serm_features_compute(statistics, embedding, parsed, doc, &scratch, &features, &error) != SERM_OK)
		for (int i = 0; i < SERM_FEATURES; i++)
			features.value[i] = NAN;
	serm_arena_free(&arena);
	serm_arena_free(&scratch);
	return features;
}

static SermFeatures
features_of(const char *query, const char *doc)
{
	return features_of_text(&flat, &untrained, text_of(query), text_of(doc));
}

static void
check_values(const SermFeatures *features, int first, const double *expected, int count, const char *what)
{
	for (int i = 0; i < count; i++)
		CHECK_NEAR(features->value[first + i], expected[i], 1e-6, "%s feature %d", what, i + 1);
}

static void
test_hand_worked(void)
{
	double idf = log(1 + 100.5 / 0.5), joined = (2 * 2.2 / 3.425 + 2 * 2.2 / 2.425) / 3;
	SermFeatures f = features_of("Blue pillow cover", "Blue pillow for a bed\nA cover, soft and blue");
	/* blue pillow for a bed: two of three words, 10 of 15 trigrams, 17 of its own */
	const double title[] = {2 / 3., 2 / 3., 2 / 3., 2 / 3., 2 / 3., 2 / 3., 0, .5, .5, 0, 1, 1, 0, 1, 1, .4,
	    10 / 15., 20 / 32., .5, log(6) / 6};
	/* a cover soft and blue, half the usual length: window of 4 words, first match at 1 */
	const double body[] = {2 / 3. * 2.2 / 1.75, 2 / 3. * 2.2 / 1.75, 2 / 3., 2 / 3., 2 / 3., 2 / 3., 0, 0, 0,
	    0, .5, .5, 1, 1, 1, .4, 9 / 15., 18 / 32., .5, log(6) / 6};
	const double both[] = {
	    joined, joined, 1, 1, 1, 1, 0, log(1 + 3 * idf * joined) / 4, 3 * idf * joined / 20};
	const double global[] = {log(4) / 4, 1, 1, 1, 0, 1, 1, log(11) / 6, 1, log(1 + 3 * idf) / 4};

	check_values(&f, TITLE, title, 20, "title");
	check_values(&f, BODY, body, 20, "body");
	check_values(&f, JOINED, both, 9, "joined");
	check_values(&f, GLOBAL, global, 10, "global");
	CHECK_NEAR(f.bm25, 3 * idf * joined, 1e-4, "the raw BM25 is of the joined text");
	CHECK(f.dot == 0 && f.value[TITLE_KERNELS] == 0 && f.value[DOTS + 1] == 0,
	    "no embeddings: no interactions");
}

static void
test_one_word(void)
{
	SermFeatures hit = features_of("pillow", "soft pillow"), miss = features_of("pillow", "soft bed");

	for (int i = 2; i <= 10; i++)
		CHECK(hit.value[i] == 1 && miss.value[i] == 0, "one word: feature %d is the match", i + 1);
	CHECK(hit.value[11] == 0.5f && miss.value[11] == 0, "place of the first match");
	CHECK(hit.value[14] == 0 && miss.value[14] == 1, "strongest missing word");
}

static float
fuzzy_of(const char *query, const char *doc)
{
	return features_of(query, doc).value[4];
}

static void
test_fuzzy(void)
{
	SermFeatures f;

	/* <pi pil ill llo low owy wy> and <pi pil ill llo low ow> share 5 */
	CHECK_NEAR(fuzzy_of("pillowy", "soft pillow"), 10 / 13., 1e-6, "Dice of trigram sets");
	CHECK(features_of("pillowy", "soft pillow").value[2] == 0, "a fuzzy match is no match of the word");
	f = features_of("soft pillows", "the soft pillow");
	CHECK(f.value[2] == 1 && f.value[4] == 1 && f.value[9] == 1, "the plural is the word, in phrases too");
	/* The second spelling of a term adds nothing. */
	CHECK_NEAR(fuzzy_of("light lights", "lig"), fuzzy_of("light", "lig"), 1e-6, "a term has one spelling");
	CHECK(fuzzy_of("light lights", "lig") > 0, "which is similar to others");
	/* <ab abc bc> and <ab abd bd>: 1 of 3 is 1/3; <abc d.. below */
	CHECK(fuzzy_of("abc", "abd") == 0, "Dice below .4 counts as nothing");
	/* <bl blu lue ue> and <bl blu lur ur>: 2 of 4 */
	CHECK_NEAR(fuzzy_of("blue", "blur"), 0.5, 1e-6, "Dice above .4 counts");
	/* 4 + 6 trigrams, 2 shared: exactly .4 */
	CHECK_NEAR(fuzzy_of("blue", "bluish"), 0.4, 1e-6, "and exactly .4 too");
	CHECK_NEAR(fuzzy_of("blue", "blur bluen"), 2 * 3 / 9., 1e-6, "the best word of the field counts");
	f = features_of("pillow case", "a pillowcase");
	CHECK(f.value[4] == 1 && f.value[12] == 1 && f.value[13] == 1 && f.value[2] == 0,
	    "two query words joined equal a field word");
	CHECK(fuzzy_of("pillowcase", "one pillow case") == 1, "two field words joined equal a query word");
	CHECK(fuzzy_of("pillowcase", "pillow 1 case") < 1, "not across another word");
	CHECK(fuzzy_of("1234", "12345") == 0 && fuzzy_of("1 2", "12") == 0 && fuzzy_of("12", "1 2") == 0,
	    "numbers match by identity only");
	CHECK(features_of("4 ft 6", "4 ft").value[18] == 0.5f, "share of the query's numbers");
	CHECK(features_of("4 ft 6", "4 feet").value[GLOBAL + 4] == 1, "the query has a number");
}

/* Of more than eight unmatched words, those of highest idf are compared. */
static void
test_fuzzy_limit(void)
{
	char query[256] = "";
	SermFeatures f;

	for (int i = 0; i < 12; i++)
		snprintf(query + strlen(query), sizeof(query) - strlen(query), "w%crdlike ", 'a' + i);
	f = features_of(query, "wzrdlike");
	/* wardlike and wzrdlike share rdl dli lik ike ke>: 5 of 8 */
	CHECK_NEAR(f.value[4], 8 * (5 / 8.) / 12, 1e-6, "eight words are compared by trigrams");
	CHECK(f.value[13] > 0 && f.value[12] == 0, "the first ones when all idf are equal");
	f = features_of("7 wardlike wbrdlike wcrdlike wdrdlike werdlike wfrdlike wgrdlike whrdlike", "wzrdlike");
	CHECK_NEAR(f.value[4], 8 * (5 / 8.) / 9, 1e-6, "numbers do not count among them");
}

static void
test_window_of_words(void)
{
	char doc[1200] = "";

	for (int i = 0; i < 32; i++)
		strcat(doc, "filler ");
	strcat(doc, "pillow");
	CHECK(fuzzy_of("pillows", doc) == 0, "fuzzy matching sees the first 32 words");
	CHECK(features_of("pillow", doc).value[2] == 0 && features_of("pillow", doc).value[BODY + 2] == 1,
	    "a single long line is a body");
	strcat(doc, "\n");
	CHECK(features_of("pillow", doc).value[2] == 1, "exact matching sees the 33rd");
	for (int count = SERM_BODY_WORDS_MAX - 1; count <= SERM_BODY_WORDS_MAX; count++) {
		char text[8 * SERM_BODY_WORDS_MAX] = "\n";

		for (int i = 0; i < count; i++)
			strcat(text, "filler ");
		strcat(text, "pillow");
		CHECK(features_of("pillow", text).value[BODY + 2] == (count < SERM_BODY_WORDS_MAX),
		    "the 512th word of a body is read, the next one is not");
	}
	static_assert(SERM_BODY_WORDS_MAX == 512, "as doc/model.md has it");
}

static void
test_empty(void)
{
	SermFeatures f = features_of("", "Blue pillow\nsoft");
	float sum = 0;

	for (int i = 0; i < SERM_FEATURES; i++)
		sum += fabsf(f.value[i]);
	CHECK_NEAR(
	    sum, log(3) / 6 + .5 + log(2) / 6 + .5 + 2 + log(4) / 6, 1e-5, "an empty query leaves lengths");
	f = features_of("pillow", "");
	CHECK(f.value[GLOBAL + 5] == 0 && f.value[GLOBAL + 6] == 0 && f.value[GLOBAL + 7] == 0,
	    "an empty document");
	sum = 0;
	for (int i = 0; i < JOINED; i++)
		sum += fabsf(f.value[i]);
	CHECK(sum == 0, "has no field features");
	f = features_of("pillow", "\npillow");
	CHECK(f.value[2] == 0 && f.value[BODY + 2] == 1, "an empty title has none either");
}

/* Random words of one letter, so that words and terms are single characters. */
static uint32_t
random_letters(SermRng *rng, char *letters, char *text, uint32_t most, uint32_t alphabet)
{
	uint32_t count = 1 + serm_rng_below(rng, most);

	for (uint32_t i = 0; i < count; i++) {
		letters[i] = (char) ('a' + serm_rng_below(rng, alphabet));
		text[2 * i] = letters[i];
		text[2 * i + 1] = ' ';
	}
	text[2 * count] = '\0';
	return count;
}

static double
naive_idf(const SermStatistics *statistics, char letter)
{
	uint32_t code_point = (uint32_t) letter, id = serm_text_hash(&code_point, 1, 0);
	double df = 0;

	for (uint32_t i = 0; i < statistics->word_count; i++)
		if (statistics->word_id[i] == id)
			df = statistics->word_df[i];
	return log(1 + (statistics->document_count - df + .5) / (df + .5));
}

/* The features of order and proximity by their definitions, with loops over everything. */
static void
naive_field(
    const SermStatistics *statistics, const char *q, uint32_t m, const char *d, uint32_t n, double *out)
{
	double weight = 0, bm25 = 0, matched_weight = 0, pairs = 0, adjacent = 0, near = 0;
	uint32_t terms = 0, matched = 0, window = n + 1;
	char distinct[64];
	bool phrase = false;

	for (uint32_t i = 0; i < m; i++) {
		double idf = naive_idf(statistics, q[i]), tf = 0;

		if (memchr(distinct, q[i], terms) != NULL)
			continue;
		distinct[terms++] = q[i];
		for (uint32_t j = 0; j < n; j++)
			tf += d[j] == q[i];
		weight += idf;
		matched += tf > 0;
		matched_weight += tf > 0 ? idf : 0;
		bm25 += idf * tf * 2.2 / (tf + 1.2 * (.25 + .75 * n / statistics->title_length));
	}
	for (uint32_t i = 1; i < m; i++) {
		bool next = false, close = false;

		if (q[i - 1] == q[i])
			continue;
		pairs++;
		for (uint32_t a = 0; a < n; a++)
			for (uint32_t b = 0; b < n; b++)
				if (d[a] == q[i - 1] && d[b] == q[i]) {
					next |= b == a + 1;
					close |= abs((int) a - (int) b) <= 8;
				}
		adjacent += next;
		near += close;
	}
	for (uint32_t at = 0; at + m <= n; at++)
		phrase |= memcmp(d + at, q, m) == 0;
	for (uint32_t a = 0; a < n; a++)
		for (uint32_t b = a; b < n; b++) {
			uint32_t held = 0;

			for (uint32_t t = 0; t < terms; t++)
				held += memchr(d + a, distinct[t], b - a + 1) != NULL;
			if (held == matched && b - a + 1 < window)
				window = b - a + 1;
		}
	out[0] = bm25 / weight;
	out[1] = matched_weight / weight;
	out[2] = matched == terms;
	out[3] = terms == 1 ? out[1] : adjacent / pairs;
	out[4] = terms == 1 ? out[1] : near / pairs;
	out[5] = terms == 1 ? matched : phrase;
	out[6] = matched >= 2 ? (double) matched / window : terms == 1 && matched == 1;
}

static void
test_naive_twin(void)
{
	static const int places[] = {0, 2, 6, 7, 8, 9, 10};
	uint32_t id[10], df[10];
	SermStatistics statistics = {.document_count = 50,
	    .title_length = 9.5,
	    .joined_length = 9.5,
	    .word_count = 10,
	    .word_id = id,
	    .word_df = df};
	double worst[7] = {0};
	uint32_t phrases = 0;
	SermRng rng;

	for (uint32_t i = 0; i < 10; i++) {
		uint32_t code_point = 'a' + i;

		id[i] = serm_text_hash(&code_point, 1, 0);
	}
	for (uint32_t i = 0; i < 10; i++)
		for (uint32_t j = i + 1; j < 10; j++)
			if (id[j] < id[i]) {
				uint32_t swap = id[i];

				id[i] = id[j];
				id[j] = swap;
			}
	for (uint32_t i = 0; i < 10; i++)
		df[i] = 5 * i;
	serm_rng_seed(&rng, 5);
	for (int round = 0; round < 3000; round++) {
		char query[16], query_text[40], doc[60], doc_text[140];
		uint32_t alphabet = 2 + serm_rng_below(&rng, 9);
		uint32_t m = random_letters(&rng, query, query_text, round % 3 == 0 ? 3 : 8, alphabet);
		uint32_t n = random_letters(&rng, doc, doc_text, 50, alphabet + 3);
		double expected[7];
		SermFeatures f;

		strcat(doc_text, "\n");
		f = features_of_text(&statistics, &untrained, text_of(query_text), text_of(doc_text));
		naive_field(&statistics, query, m, doc, n, expected);
		phrases += expected[5] > 0 && m > 2;
		for (int i = 0; i < 7; i++)
			worst[i] = fmax(worst[i], fabs(f.value[places[i]] - expected[i]));
		worst[0] = fmax(worst[0], fabs(f.value[JOINED] - expected[0]));
	}
	CHECK(worst[0] < 1e-6, "BM25 equals its naive twin, in the title and joined");
	CHECK(worst[1] < 1e-6 && worst[2] == 0, "so does coverage");
	CHECK(worst[3] < 1e-6 && worst[4] < 1e-6, "so do adjacency and proximity");
	CHECK(worst[5] == 0 && phrases > 50, "so does the phrase, found %u times", phrases);
	CHECK(worst[6] < 1e-6, "so does the smallest window");
}

static SermEmbedding
random_embedding(SermArena *arena)
{
	size_t count = (size_t) SERM_EMBEDDING_ROWS * WIDTH;
	int8_t *rows = serm_arena_alloc(arena, count);
	float *scale = serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float));
	SermRng rng;

	serm_rng_seed(&rng, 3);
	for (size_t i = 0; i < count; i++)
		rows[i] = (int8_t) ((int) serm_rng_below(&rng, 255) - 127);
	for (size_t i = 0; i < SERM_EMBEDDING_ROWS; i++)
		scale[i] = 0.01f;
	return (SermEmbedding){rows, scale, NULL};
}

/* S9 by its formula in double, over the first `window` words. */
static void
naive_pooling(const SermStatistics *statistics, const SermEmbedding *embedding, SermText query,
    SermText field, uint32_t window, double *kernels, double *dot)
{
	static const double mu[] = {1, .8, .6, .4, .2, 0};
	SermArena arena = unit_arena();
	SermWords q, d;
	SermError error;
	double query_weight = 0, field_weight = 0, query_mean[WIDTH] = {0}, field_mean[WIDTH] = {0};

	if (serm_text_words(query, 32, &arena, &q, &error) != SERM_OK ||
	    serm_text_words(field, window, &arena, &d, &error) != SERM_OK)
		return;
	memset(kernels, 0, 6 * sizeof(double));
	*dot = 0;
	for (uint32_t i = 0; i < q.count; i++)
		query_weight += serm_statistics_idf(statistics, q.words[i].id);
	for (uint32_t j = 0; j < d.count; j++)
		field_weight += serm_statistics_idf(statistics, d.words[j].id);
	for (uint32_t i = 0; i < q.count; i++) {
		double share = serm_statistics_idf(statistics, q.words[i].id) / query_weight, sum[6] = {0};
		float x[WIDTH], y[WIDTH];

		serm_embedding_word(embedding, q.code_points + q.words[i].start, q.words[i].length, x);
		for (int c = 0; c < WIDTH; c++)
			query_mean[c] += share * x[c];
		for (uint32_t j = 0; j < d.count; j++) {
			double cosine = 0;

			serm_embedding_word(embedding, d.code_points + d.words[j].start, d.words[j].length, y);
			for (int c = 0; c < WIDTH; c++) {
				cosine += (double) x[c] * y[c];
				if (i == 0)
					field_mean[c] += serm_statistics_idf(statistics, d.words[j].id) / field_weight * y[c];
			}
			for (int k = 0; k < 6; k++) {
				double sigma = k == 0 ? .03 : .15;

				sum[k] += exp(-(cosine - mu[k]) * (cosine - mu[k]) / (2 * sigma * sigma));
			}
		}
		for (int k = 0; k < 6; k++)
			kernels[k] += share * log(1 + sum[k]);
	}
	for (int c = 0; c < WIDTH; c++)
		*dot += query_mean[c] * field_mean[c];
	serm_arena_free(&arena);
}

static void
random_text(SermRng *rng, char *text, uint32_t words)
{
	size_t length = 0;

	for (uint32_t i = 0; i < words; i++) {
		for (uint32_t j = 1 + serm_rng_below(rng, 7); j > 0; j--)
			text[length++] = (char) ('a' + serm_rng_below(rng, 6));
		text[length++] = ' ';
	}
	text[length] = '\0';
}

static void
test_pooling(const SermEmbedding *embedding)
{
	SermRng rng;
	double worst = 0, worst_dot = 0, largest = 0;

	serm_rng_seed(&rng, 13);
	for (int round = 0; round < 100; round++) {
		static char query[1000], doc[3000];
		double kernels[12], dot[2];
		SermText title, body;
		SermFeatures f;

		random_text(&rng, query, 1 + serm_rng_below(&rng, 40));
		random_text(&rng, doc, 1 + serm_rng_below(&rng, 40));
		strcat(doc, "\n");
		if (round % 4 != 0)
			random_text(&rng, doc + strlen(doc), 1 + serm_rng_below(&rng, 100));
		serm_text_split_document(text_of(doc), &title, &body);
		f = features_of_text(&flat, embedding, text_of(query), text_of(doc));
		naive_pooling(&flat, embedding, text_of(query), title, 24, kernels, &dot[0]);
		naive_pooling(&flat, embedding, text_of(query), body, 48, kernels + 6, &dot[1]);
		for (int k = 0; k < 12; k++) {
			worst = fmax(worst, fabs(f.value[TITLE_KERNELS + k] - kernels[k]));
			largest = fmax(largest, kernels[k]);
		}
		for (int i = 0; i < 2; i++)
			worst_dot = fmax(worst_dot, fabs(f.value[DOTS + i] - dot[i]));
		worst_dot = fmax(worst_dot, fabs(f.dot - (dot[0] + dot[1])));
	}
	CHECK(worst < 2e-5 && largest > 2, "kernels equal their naive twin (largest error %.1e)", worst);
	CHECK(worst_dot < 1e-5, "so do the dot products (largest error %.1e)", worst_dot);
}

static void
test_statistics(SermArena *arena)
{
	static const char *const docs[] = {"Blue pillow\nblue, soft", "\npillow pillow", "red bed\n", "", "\n!"};
	SermText texts[5];
	SermStatistics statistics;
	SermError error;
	uint32_t pillow[] = {'p', 'i', 'l', 'l', 'o', 'w'};
	uint32_t id = serm_text_hash(pillow, 6, 0);
	bool ascending = true;

	for (int i = 0; i < 5; i++)
		texts[i] = text_of(docs[i]);
	CHECK(serm_statistics_count(texts, 5, arena, NULL, NULL, &statistics, &error) == SERM_OK,
	    "counting succeeds");
	CHECK(statistics.document_count == 5 && statistics.word_count == 5, "five documents, five words");
	CHECK(statistics.title_length == 2 && statistics.body_length == 2, "lengths are of non-empty fields");
	CHECK_NEAR(statistics.joined_length, 8 / 3., 1e-12, "joined lengths are of non-empty documents");
	CHECK(serm_statistics_df(&statistics, id) == 2, "a word counts once per document");
	CHECK(serm_statistics_df(&statistics, id + 1) == 0, "an unknown word in none");
	CHECK_NEAR(serm_statistics_idf(&statistics, id), log(1 + 3.5 / 2.5), 1e-12, "idf of a known word");
	CHECK_NEAR(serm_statistics_idf(&statistics, id + 1), log(1 + 5.5 / .5), 1e-12, "idf of an unknown word");
	for (uint32_t i = 1; i < statistics.word_count; i++)
		ascending &= statistics.word_id[i - 1] < statistics.word_id[i];
	CHECK(ascending, "ids ascend");
	CHECK(serm_statistics_count(NULL, 0, arena, NULL, NULL, &statistics, &error) == SERM_OK &&
	          statistics.word_count == 0 && statistics.title_length == 0,
	    "no documents: empty statistics");
}

static bool
stop_at_once(void *context)
{
	return ++*(int *) context < 2;
}

static void
test_large_statistics(SermArena *arena)
{
	enum { DOCS = 20000, WORDS = 12 };
	SermText *texts = serm_arena_array(arena, DOCS, sizeof(SermText));
	SermStatistics statistics;
	SermError error = {0};
	SermRng rng;
	uint64_t total = 0;
	size_t bad = 0;
	int calls = 0;

	serm_rng_seed(&rng, 17);
	for (int i = 0; i < DOCS; i++) {
		char text[200] = "";

		random_text(&rng, text, WORDS);
		texts[i] = (SermText){serm_arena_copy(arena, text, strlen(text)), strlen(text)};
	}
	if (serm_statistics_count(texts, DOCS, arena, NULL, NULL, &statistics, &error) != SERM_OK)
		statistics.word_count = 0;
	for (uint32_t i = 0; i < statistics.word_count; i++) {
		total += statistics.word_df[i];
		bad += serm_statistics_df(&statistics, statistics.word_id[i]) != statistics.word_df[i];
		bad += statistics.word_df[i] == 0 || statistics.word_df[i] > DOCS;
		bad += i > 0 && statistics.word_id[i - 1] >= statistics.word_id[i];
	}
	CHECK(
	    bad == 0 && statistics.word_count > 50000, "each of %u words is found again", statistics.word_count);
	CHECK(total > 200000 && total <= DOCS * WORDS, "document frequencies add up");
	CHECK(statistics.title_length == WORDS, "every line is a title");
	CHECK(serm_statistics_count(texts, DOCS, arena, stop_at_once, &calls, &statistics, &error) ==
	              SERM_ERR_CANCELED &&
	          calls == 2,
	    "counting stops when told to");
}

/* Ids that defeat interpolation are still found. */
static void
test_hostile_ids(void)
{
	uint32_t id[64], df[64];
	SermStatistics statistics = {.document_count = 1000, .word_count = 64, .word_id = id, .word_df = df};
	size_t bad = 0;

	for (uint32_t i = 0; i < 64; i++) {
		id[i] = i < 32 ? i : UINT32_MAX - (64 - i);
		df[i] = i + 1;
	}
	for (uint32_t i = 0; i < 64; i++)
		bad += serm_statistics_df(&statistics, id[i]) != df[i];
	bad += serm_statistics_df(&statistics, 32) != 0 || serm_statistics_df(&statistics, UINT32_MAX) != 0;
	CHECK(bad == 0, "clustered ids are found");
	df[5] = 5000;
	CHECK(
	    serm_statistics_idf(&statistics, id[5]) > 0, "a df above the number of documents keeps idf positive");
}

static bool
same(const SermFeatures *a, const SermFeatures *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static void
test_invariance(const SermEmbedding *embedding)
{
	SermFeatures plain = features_of_text(
	    &flat, embedding, text_of("blue pillow 3.5 ft"), text_of("Soft blue pillow\nfor a bed of 3.5 ft"));
	SermFeatures other = features_of_text(&flat, embedding, text_of("  BLUE--Pillow;3.5ft!!"),
	    text_of("\tSOFT, bl\xc3\xbc"
	            "e  PILLOW.\r\n(for) a \xef\xbb\xbf"
	            "bed -- of 3.5FT"));

	CHECK(same(&plain, &other), "case, accents, spacing and punctuation change no bit");
}

typedef struct Counting {
	SermAllocator heap;
	size_t calls;
} Counting;

static void *
counting_allocate(void *context, size_t size)
{
	Counting *counting = context;

	counting->calls++;
	return counting->heap.allocate(counting->heap.context, size);
}

static void
counting_release(void *context, void *block)
{
	Counting *counting = context;

	counting->heap.release(counting->heap.context, block);
}

/* Alone or after other rows, with the cache or without: the same bits. */
static void
test_reuse(SermEmbedding embedding, SermArena *arena)
{
	enum { CORPUS = 500, ROWS = 2000 };
	Counting counting = {serm_heap_allocator(), 0};
	SermText corpus[CORPUS];
	SermStatistics statistics;
	SermArena scratch;
	SermParsedQuery *parsed;
	SermEmbedding cached = embedding;
	SermText query = text_of("abc de fabc aa");
	SermError error;
	SermRng rng;
	size_t bad = 0;

	cached.cache = serm_word_cache_create(arena);
	serm_arena_init(&scratch, (SermAllocator){counting_allocate, counting_release, &counting}, 1 << 22);
	serm_rng_seed(&rng, 19);
	for (int i = 0; i < CORPUS; i++) {
		char doc[1000];

		random_text(&rng, doc, 1 + serm_rng_below(&rng, 100));
		corpus[i] = (SermText){serm_arena_copy(arena, doc, strlen(doc)), strlen(doc)};
	}
	bad += serm_statistics_count(corpus, CORPUS, arena, NULL, NULL, &statistics, &error) != SERM_OK;
	bad += serm_features_parse_query(&statistics, &cached, query, arena, &parsed, &error) != SERM_OK;
	for (int round = 0; round < ROWS; round++) {
		static char doc[6000];
		SermFeatures batch, alone;

		random_text(&rng, doc, 1 + serm_rng_below(&rng, 10));
		strcat(doc, "\n");
		random_text(&rng, doc + strlen(doc), 1 + serm_rng_below(&rng, round % 50 == 0 ? 600 : 60));
		bad += serm_features_compute(&statistics, &cached, parsed, text_of(doc), &scratch, &batch, &error) !=
		       SERM_OK;
		alone = features_of_text(&statistics, &embedding, query, text_of(doc));
		bad += !same(&batch, &alone);
	}
	CHECK(bad == 0, "2,000 rows have the same bits alone and in a batch");
	CHECK(counting.calls == 1, "and the scratch arena takes one block for all of them");
	serm_arena_free(&scratch);
}

static void
test_memory(const SermEmbedding *embedding, SermArena *arena)
{
	const char *doc = "Soft blue pillow\nfor the beds of people who sleep on their side";
	SermParsedQuery *parsed;
	SermError error;
	SermFeatures features;
	size_t refused = 0, bad = 0;

	bad += serm_features_parse_query(&flat, embedding, text_of("blue pillows"), arena, &parsed, &error) !=
	       SERM_OK;
	for (size_t limit = 0; limit < 64 * 1024; limit += 128) {
		SermArena small;
		SermParsedQuery *other;
		SermStatus status;

		serm_arena_init(&small, serm_heap_allocator(), limit);
		status = serm_features_compute(&flat, embedding, parsed, text_of(doc), &small, &features, &error);
		refused += status == SERM_ERR_MEMORY;
		bad += status != SERM_OK && status != SERM_ERR_MEMORY;
		serm_arena_free(&small);
		status = serm_features_parse_query(&flat, embedding, text_of("blue pillows"), &small, &other, &error);
		refused += status == SERM_ERR_MEMORY;
		bad += status != SERM_OK && status != SERM_ERR_MEMORY;
		serm_arena_free(&small);
	}
	CHECK(bad == 0 && refused > 20, "a full arena is an error, at every size");
}

static bool
all_finite(const SermFeatures *features)
{
	for (int i = 0; i < SERM_FEATURES; i++)
		if (!isfinite(features->value[i]) || fabsf(features->value[i]) > 100)
			return false;
	return isfinite(features->bm25) && isfinite(features->dot);
}

static void
test_large(const SermEmbedding *embedding, SermArena *arena)
{
	static const char *const patterns[] = {"a", "7", " ", "\n", "'", "a ", "7.", "\xf0\x9f\x98\x80",
	    "\xe6\x9d\xb1", "\xe3\x82\xab\xe3\x82\x99", "\xd8\xa7\xd9\x8e", "\xe0\xb8\x81", "\xff", "ab\ncd ",
	    "\xef\xb7\xba", "a\xcc\x81"};
	size_t size = 1 << 20;
	char *large = serm_arena_alloc(arena, size);
	SermArena scratch = unit_arena();
	size_t bad = 0, most = 0;

	for (size_t p = 0; p < SERM_LENGTH(patterns); p++) {
		SermParsedQuery *parsed;
		SermFeatures features;
		SermError error;

		for (size_t i = 0; i < size; i++)
			large[i] = patterns[p][i % strlen(patterns[p])];
		bad += serm_features_parse_query(&flat, embedding, (SermText){large, size}, arena, &parsed, &error) !=
		       SERM_OK;
		bad += serm_features_compute(
		           &flat, embedding, parsed, (SermText){large, size}, &scratch, &features, &error) != SERM_OK;
		bad += !all_finite(&features);
		most = scratch.total > most ? scratch.total : most;
	}
	CHECK(bad == 0, "a megabyte of anything gives finite features");
	CHECK(most < 1 << 20, "and takes %zu bytes of scratch", most);
	serm_arena_free(&scratch);
}

static void
test_fuzz(SermEmbedding embedding, SermArena *arena)
{
	SermArena scratch = unit_arena(), query_arena = unit_arena();
	SermRng rng;
	size_t bad = 0;

	embedding.cache = serm_word_cache_create(arena);
	serm_rng_seed(&rng, 23);
	for (int round = 0; round < 10000; round++) {
		char query[40];
		uint32_t query_length = serm_rng_below(&rng, sizeof(query));
		SermParsedQuery *parsed;
		SermError error;

		for (uint32_t i = 0; i < query_length; i++)
			query[i] = (char) serm_rng_below(&rng, round % 2 == 0 ? 256 : 128);
		bad += serm_features_parse_query(&flat, &embedding, (SermText){query, query_length}, &query_arena,
		           &parsed, &error) != SERM_OK;
		for (int row = 0; row < 10; row++) {
			char doc[160];
			uint32_t length = serm_rng_below(&rng, sizeof(doc));
			SermFeatures features;

			for (uint32_t i = 0; i < length; i++)
				doc[i] = row % 3 == 0 && query_length > 0 ? query[serm_rng_below(&rng, query_length)]
				                                          : (char) serm_rng_below(&rng, 256);
			bad += serm_features_compute(&flat, &embedding, parsed, (SermText){doc, length}, &scratch,
			           &features, &error) != SERM_OK;
			bad += !all_finite(&features);
		}
		serm_arena_rewind(&query_arena, (SermArenaMark){NULL, 0});
	}
	CHECK(bad == 0, "100,000 random byte strings give finite features");
	serm_arena_free(&scratch);
	serm_arena_free(&query_arena);
}

int
main(void)
{
	SermArena arena = unit_arena();
	SermEmbedding embedding = random_embedding(&arena);

	test_hand_worked();
	test_one_word();
	test_fuzzy();
	test_fuzzy_limit();
	test_window_of_words();
	test_empty();
	test_naive_twin();
	test_pooling(&embedding);
	test_statistics(&arena);
	test_large_statistics(&arena);
	test_hostile_ids();
	test_invariance(&embedding);
	test_reuse(embedding, &arena);
	test_memory(&embedding, &arena);
	test_large(&embedding, &arena);
	test_fuzz(embedding, &arena);
	serm_arena_free(&arena);
	DONE();
}
