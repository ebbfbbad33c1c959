#include "core/train/kin.h"

#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "unit.h"

enum { STEMS = 6, ENDINGS = 4, DOCS = STEMS * ENDINGS };

static const char *const stems[STEMS] = {"vibrat", "oscillat", "rotat", "circulat", "separat", "radiat"};
static const char *const endings[ENDINGS] = {"ed", "ing", "ion", "or"};

/* One document per word, the third with another word of its stem. */
typedef struct Corpus {
	char text[DOCS + 3][200];
	SermText docs[DOCS + 3];
	size_t count;
	SermStatistics statistics;
} Corpus;

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

static bool
stop(void *context)
{
	int *left = context;

	return --*left > 0;
}

static const SermTrainHost host = {.keep_going = go_on};

static void
add(Corpus *corpus, const char *text)
{
	char *to = corpus->text[corpus->count];

	(void) snprintf(to, sizeof(corpus->text[0]), "%s\n", text);
	corpus->docs[corpus->count++] = (SermText){to, strlen(to)};
}

static void
fill(Corpus *corpus, int stem_count)
{
	corpus->count = 0;
	for (int s = 0; s < stem_count; s++)
		for (int e = 0; e < ENDINGS; e++) {
			char text[64];

			(void) snprintf(
			    text, sizeof(text), "the %s%s %s", stems[s], endings[e], e == 2 ? stems[s] : "of");
			if (e == 2)
				strcat(text, endings[0]);
			add(corpus, text);
		}
}

static SermStatus
learn(Corpus *corpus, const SermTrainHost *by, SermArena *arena, SermError *error)
{
	SermStatus status =
	    serm_statistics_count(corpus->docs, corpus->count, arena, NULL, NULL, &corpus->statistics, error);

	return status == SERM_OK
	           ? serm_kin_learn(corpus->docs, corpus->count, by, arena, &corpus->statistics, error)
	           : status;
}

static uint32_t
index_of(const SermStatistics *statistics, const char *word)
{
	uint32_t code_points[64], count = 0;

	for (size_t at = 0, length = strlen(word); at < length;)
		at += (size_t) serm_utf8_decode(word + at, length - at, &code_points[count++]);
	return serm_statistics_find(statistics, serm_text_word_id(code_points, count));
}

/* Words in the ring of a word, itself among them; 0 when it has no ring. */
static uint32_t
ring_of(const SermStatistics *statistics, const char *word)
{
	uint32_t first = index_of(statistics, word), at = first, count = 0;

	if (statistics->word_kin == NULL || first == statistics->word_count)
		return 0;
	do {
		at = statistics->word_kin[at];
		count++;
	} while (at != first && count <= statistics->word_count);
	return count;
}

static bool
are_kin(const SermStatistics *statistics, const char *a, const char *b)
{
	uint32_t first = index_of(statistics, a), other = index_of(statistics, b), at = first;

	if (statistics->word_kin == NULL || first == statistics->word_count || other == statistics->word_count)
		return false;
	for (uint32_t steps = 0; steps <= statistics->word_count && at != other; steps++)
		at = statistics->word_kin[at];
	return at == other;
}

static void
test_families(SermArena *arena)
{
	Corpus *corpus = serm_arena_alloc(arena, sizeof(*corpus));
	const SermStatistics *statistics = &corpus->statistics;
	SermError error;
	bool all = true;

	fill(corpus, STEMS);
	add(corpus, "contrast 12345 12346 radiant");
	add(corpus, "\xe6\x9d\xb1\xe4\xba\xac\xe3\x82\xbf\xe3\x83\xaf\xe3\x83\xbc vibrated separation");
	CHECK(learn(corpus, &host, arena, &error) == SERM_OK && statistics->word_kin != NULL, "kin is learned");
	for (int s = 0; s < STEMS; s++)
		for (int e = 1; e < ENDINGS; e++) {
			char first[32], other[32];

			(void) snprintf(first, sizeof(first), "%s%s", stems[s], endings[0]);
			(void) snprintf(other, sizeof(other), "%s%s", stems[s], endings[e]);
			all &= are_kin(statistics, first, other) && ring_of(statistics, first) == ENDINGS;
		}
	CHECK(all, "words of one stem with endings that go together are kin, and no others");
	CHECK(ring_of(statistics, "contrast") == 1 && ring_of(statistics, "radiant") == 1 &&
	          ring_of(statistics, "the") == 1,
	    "a word whose ending goes with no other has none");
	CHECK(ring_of(statistics, "12345") == 1, "nor have numbers");
	/* Four documents of the stem, and one more with both stems. */
	CHECK(statistics->kin_df[index_of(statistics, "vibrated")] == ENDINGS + 1 &&
	          statistics->kin_df[index_of(statistics, "vibration")] == ENDINGS + 1 &&
	          statistics->kin_df[index_of(statistics, "rotation")] == ENDINGS,
	    "documents with any of the kin are counted once each, for each of them");
	CHECK(statistics->kin_df[index_of(statistics, "contrast")] == 1,
	    "documents with the word where it is alone");
}

static void
test_witnesses(SermArena *arena)
{
	Corpus *corpus = serm_arena_alloc(arena, sizeof(*corpus));
	SermError error;

	fill(corpus, 3);
	CHECK(learn(corpus, &host, arena, &error) == SERM_OK && corpus->statistics.word_kin == NULL &&
	          corpus->statistics.kin_df == NULL,
	    "three pairs of words are no rule");
	fill(corpus, 4);
	CHECK(learn(corpus, &host, arena, &error) == SERM_OK && ring_of(&corpus->statistics, "rotor") == 0 &&
	          ring_of(&corpus->statistics, "rotating") == ENDINGS,
	    "four are");
	corpus->count = 0;
	CHECK(learn(corpus, &host, arena, &error) == SERM_OK && corpus->statistics.word_kin == NULL,
	    "without documents there is no kin");
}

/* More words with one beginning than are looked at together, and many with no pair of endings. */
static void
test_large_group(SermArena *arena)
{
	enum { WORDS = 3000 };
	SermText *docs = serm_arena_array(arena, WORDS, sizeof(*docs));
	char(*text)[40] = serm_arena_array(arena, WORDS, sizeof(*text));
	SermStatistics first, again;
	SermError error;

	for (int i = 0; i < WORDS; i++) {
		(void) snprintf(text[i], sizeof(text[i]), "inter%c%c%c%s\n", 'a' + i % 13, 'b' + i / 13 % 17,
		    'a' + i % 7, i % 3 == 0 ? "ed" : "ing");
		docs[i] = (SermText){text[i], strlen(text[i])};
	}
	CHECK(serm_statistics_count(docs, WORDS, arena, NULL, NULL, &first, &error) == SERM_OK &&
	          serm_kin_learn(docs, WORDS, &host, arena, &first, &error) == SERM_OK,
	    "a large group is learned");
	again = first;
	CHECK(serm_kin_learn(docs, WORDS, &host, arena, &again, &error) == SERM_OK && first.word_kin != NULL &&
	          memcmp(first.word_kin, again.word_kin, first.word_count * sizeof(uint32_t)) == 0 &&
	          memcmp(first.kin_df, again.kin_df, first.word_count * sizeof(uint32_t)) == 0,
	    "the same way each time");
}

/* Words without any order in their endings, as codes have: what is kept of them has an end. */
static void
test_hostile(void)
{
	enum { WORDS = 24000, LETTERS = 7 };
	SermArena small;
	Corpus *corpus;
	SermText *docs;
	char(*text)[32];
	SermRng rng;
	SermError error;
	size_t count = 0;
	SermStatus status;

	serm_arena_init(&small, serm_heap_allocator(), (size_t) 220 << 20);
	corpus = serm_arena_alloc(&small, sizeof(*corpus));
	docs = serm_arena_array(&small, WORDS + DOCS, sizeof(*docs));
	text = serm_arena_array(&small, WORDS, sizeof(*text));
	fill(corpus, STEMS);
	for (; count < DOCS; count++)
		docs[count] = corpus->docs[count];
	serm_rng_seed(&rng, 5);
	for (int i = 0; i < WORDS; i++, count++) {
		(void) snprintf(text[i], sizeof(text[i]), "zzzzz.......\n");
		for (int k = 0; k < LETTERS; k++)
			text[i][5 + k] = (char) ('a' + serm_rng_below(&rng, 26));
		docs[count] = (SermText){text[i], strlen(text[i])};
	}
	status = serm_statistics_count(docs, count, &small, NULL, NULL, &corpus->statistics, &error);
	if (status == SERM_OK)
		status = serm_kin_learn(docs, count, &host, &small, &corpus->statistics, &error);
	CHECK(status == SERM_OK, "three million pairs of endings fit into little memory (%s)",
	    status == SERM_OK ? "" : error.message);
	CHECK(
	    status == SERM_OK && are_kin(&corpus->statistics, "vibrated", "vibration"), "next to words with kin");
	serm_arena_free(&small);
}

static void
test_failures(SermArena *arena)
{
	Corpus *corpus = serm_arena_alloc(arena, sizeof(*corpus));
	int left, canceled = 0;
	SermError error;

	fill(corpus, STEMS);
	for (left = 1; left < 12; left++) {
		int calls = left;
		SermTrainHost stopping = {.keep_going = stop, .context = &calls};

		canceled += learn(corpus, &stopping, arena, &error) == SERM_ERR_CANCELED;
	}
	CHECK(canceled >= 10, "learning can be canceled in every part of it");
	{
		SermArena small;

		serm_arena_init(&small, serm_heap_allocator(), (size_t) 300 << 10);
		CHECK(serm_kin_learn(corpus->docs, corpus->count, &host, &small, &corpus->statistics, &error) ==
		              SERM_ERR_MEMORY &&
		          corpus->statistics.word_kin == NULL,
		    "too little memory is an error");
		serm_arena_free(&small);
	}
}

static SermFeatures
features_of(const SermStatistics *statistics, const char *query, const char *doc, SermArena *arena)
{
	const SermEmbedding none = {NULL, NULL, NULL};
	SermParsedQuery *parsed;
	SermFeatures features = {{0}};
	SermError error;

	if (serm_features_parse_query(
	        statistics, &none, (SermText){query, strlen(query)}, arena, &parsed, &error) == SERM_OK)
		(void) serm_features_compute(
		    statistics, &none, parsed, (SermText){doc, strlen(doc)}, arena, &features, &error);
	return features;
}

static void
test_features(SermArena *arena)
{
	Corpus *corpus = serm_arena_alloc(arena, sizeof(*corpus));
	SermStatistics *statistics = &corpus->statistics, alone;
	SermFeatures kin, word, without, far;
	char text[1200] = "\n";
	SermError error;

	fill(corpus, STEMS);
	CHECK(learn(corpus, &host, arena, &error) == SERM_OK, "kin for features");
	kin = features_of(statistics, "vibration", "vibrating of\n", arena);
	word = features_of(statistics, "vibration", "vibration of\n", arena);
	CHECK(kin.value[0] == 0 && kin.value[2] == 0 && kin.value[40] == 0 && kin.value[42] == 0 && kin.bm25 == 0,
	    "kin is not the word");
	CHECK(kin.value[1] == word.value[1] && kin.value[1] > 0 && kin.value[3] == 1 && kin.value[41] > 0 &&
	          kin.value[43] == 1,
	    "where words count with their kin it is");
	CHECK(kin.value[7] == 0 && kin.value[11] == 0 && kin.value[4] < 1 && word.value[4] == 1,
	    "it has no place in the order of words, and the strength of its spelling");
	CHECK(
	    word.value[1] < word.value[0] * 1.5f && word.value[1] > 0, "BM25 of one word is its own share of it");
	for (int i = 0; i < 100; i++)
		strcat(text, "of ");
	strcat(text, "vibrating");
	far = features_of(statistics, "vibration", text, arena);
	CHECK(far.value[21] > 0 && far.value[20] == 0, "behind the spelled words too");
	without = features_of(statistics, "vibration vibrating", "vibrating of\n", arena);
	CHECK_NEAR(without.value[5], .5, 1e-6, "a word of the query is nobody else's kin");
	alone = *statistics;
	alone.word_kin = alone.kin_df = NULL;
	without = features_of(&alone, "vibration", "vibrating vibration\n", arena);
	kin = features_of(statistics, "vibration", "vibrating\nof vibrating oscillation", arena);
	word = features_of(&alone, "vibration", "vibrating\nof vibrating oscillation", arena);
	CHECK(kin.lexical == word.lexical && kin.value[41] > word.value[41], "the guard does not know of kin");
	CHECK(without.value[1] == without.value[0] && without.value[3] == without.value[2] &&
	          without.value[41] == without.value[40] && without.value[43] == without.value[42],
	    "without kin the places repeat each other, bit for bit");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_families(&arena);
	test_witnesses(&arena);
	test_large_group(&arena);
	test_hostile();
	test_failures(&arena);
	test_features(&arena);
	serm_arena_free(&arena);
	DONE();
}
