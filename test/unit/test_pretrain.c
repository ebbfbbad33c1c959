#include "core/base/rng.h"
#include "core/model/features.h"
#include "core/train/order.h"
#include "core/train/pretrain.h"
#include "unit.h"

#define DOCUMENTS 240
#define TOPICS 2
#define TOPIC_WORDS 12

/* Nothing in common but the company they keep: no word shares an n-gram with another of its topic. */
static const char *const topic_words[TOPICS][TOPIC_WORDS] = {
    {"kettle", "spoon", "bread", "oven", "fork", "mug", "juice", "apron", "lid", "yeast", "whisk", "bowl"},
    {"piston", "clutch", "axle", "tyre", "gear", "valve", "brake", "hub", "fuse", "cam", "shaft", "rotor"}};

typedef struct Watch {
	uint32_t calls, stop_after; /* keep_going() says no from then on; 0: never */
	uint32_t reports;
	double first_loss, last_loss;
} Watch;

static bool
keep_going(void *context)
{
	Watch *watch = context;

	watch->calls++;
	return watch->stop_after == 0 || watch->calls < watch->stop_after;
}

static void
progress(void *context, const SermTrainProgress *report)
{
	Watch *watch = context;

	if (watch->reports++ == 0)
		watch->first_loss = report->loss;
	watch->last_loss = report->loss;
}

static void
make_documents(SermText *docs, SermArena *arena)
{
	SermRng rng;

	serm_rng_seed(&rng, 31);
	for (int d = 0; d < DOCUMENTS; d++) {
		char text[256];
		size_t length = 0;

		for (int i = 0; i < 8; i++)
			length += (size_t) snprintf(text + length, sizeof(text) - length, "%s%s", i > 0 ? " " : "",
			    topic_words[d % TOPICS][serm_rng_below(&rng, TOPIC_WORDS)]);
		snprintf(text + length, sizeof(text) - length, "\n");
		docs[d] = (SermText){serm_arena_copy(arena, text, length + 1), length + 1};
	}
}

static void
embed(const float *table, const char *word, float *unit)
{
	uint32_t code_points[32], rows[SERM_WORD_ROWS_MAX], length = 0;
	double square = 0;

	for (; word[length] != '\0'; length++)
		code_points[length] = (unsigned char) word[length];
	serm_embedding_sum(table, rows, serm_embedding_rows(code_points, length, rows), unit);
	for (int k = 0; k < SERM_EMBEDDING_WIDTH; k++)
		square += unit[k] * unit[k];
	for (int k = 0; k < SERM_EMBEDDING_WIDTH; k++)
		unit[k] /= (float) sqrt(square);
}

/* Mean cosine of two different words of one topic (`apart` 0) or of two topics (1). */
static double
mean_cosine(const float *table, int apart)
{
	double sum = 0;
	int count = 0;

	for (int i = 0; i < TOPIC_WORDS; i++)
		for (int j = 0; j < TOPIC_WORDS; j++) {
			float a[SERM_EMBEDDING_WIDTH], b[SERM_EMBEDDING_WIDTH];

			if (i == j)
				continue;
			embed(table, topic_words[0][i], a);
			embed(table, topic_words[apart][j], b);
			for (int k = 0; k < SERM_EMBEDDING_WIDTH; k++)
				sum += a[k] * b[k];
			count++;
		}
	return sum / count;
}

int
main(void)
{
	SermArena arena = unit_arena();
	SermText docs[DOCUMENTS + 2];
	SermStatistics statistics;
	Watch watch = {0}, again = {0}, stopped = {.stop_after = 40};
	SermTrainHost host = {keep_going, progress, NULL, NULL, &watch};
	size_t values = (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH, total;
	float *table = serm_arena_array(&arena, values, sizeof(float));
	float *twin = serm_arena_array(&arena, values, sizeof(float));
	SermError error;
	SermArena tight;

	make_documents(docs, &arena);
	docs[DOCUMENTS] = (SermText){"", 0};
	docs[DOCUMENTS + 1] = (SermText){"kettle\n", 7};
	serm_statistics_count(docs, DOCUMENTS + 2, &arena, keep_going, &watch, &statistics, &error);
	total = arena.total;
	CHECK(serm_pretrain(docs, DOCUMENTS + 2, &statistics, 7, 12, &host, &arena, table, &error) == SERM_OK,
	    "pre-training runs; documents without two words do not disturb it");
	CHECK(arena.total == total, "its working memory is given back");
	CHECK(watch.reports == 12, "progress is reported once per epoch");
	CHECK(watch.last_loss < watch.first_loss - 0.3, "the loss falls");
	CHECK(mean_cosine(table, 0) > mean_cosine(table, 1) + 0.3, "words of one topic come together");

	host.context = &again;
	serm_pretrain(docs, DOCUMENTS + 2, &statistics, 7, 12, &host, &arena, twin, &error);
	CHECK(memcmp(table, twin, values * sizeof(float)) == 0, "a seed fixes every byte of the table");

	host.context = &stopped;
	CHECK(serm_pretrain(docs, DOCUMENTS + 2, &statistics, 7, 12, &host, &arena, twin, &error) ==
	          SERM_ERR_CANCELED,
	    "a cancel is obeyed");
	CHECK(stopped.calls == 40, "at once");

	host.context = &again;
	serm_arena_init(&tight, serm_heap_allocator(), 1 << 20);
	CHECK(serm_pretrain(docs, DOCUMENTS + 2, &statistics, 7, 12, &host, &tight, twin, &error) ==
	          SERM_ERR_MEMORY,
	    "too little memory is an error");
	serm_arena_free(&tight);
	CHECK(serm_pretrain(NULL, 0, &statistics, 7, 2, &host, &arena, twin, &error) == SERM_OK,
	    "no documents leave the table at its start");
	serm_arena_free(&arena);
	DONE();
}
