#include "core/base/rng.h"
#include "core/model/embedding.h"
#include "unit.h"

/* Computed by an independent program. */
#define PIN_BATH 85668u
#define PIN_BA 119225u
#define PIN_ATH 77129u

#define WIDTH SERM_EMBEDDING_WIDTH

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
		scale[i] = (float) serm_rng_uniform(&rng) / 127;
	return (SermEmbedding){rows, scale, NULL};
}

static uint32_t
spell(const char *word, uint32_t *code_points)
{
	uint32_t length = 0;

	for (; word[length] != '\0'; length++)
		code_points[length] = (uint32_t) (unsigned char) word[length];
	return length;
}

static void
test_rows(void)
{
	uint32_t word[64], framed[8], rows[SERM_WORD_ROWS_MAX + 1], count, length = spell("bath", word);
	uint32_t expected[SERM_WORD_ROWS_MAX], n = 0;

	spell("<bath>", framed);
	expected[n++] = serm_text_hash(word, 4, 101) % SERM_EMBEDDING_ROWS;
	for (uint32_t size = 3; size <= 5; size++)
		for (uint32_t at = 0; at + size <= 6; at++)
			expected[n++] = serm_text_hash(framed + at, size, 300 + size) % SERM_EMBEDDING_ROWS;
	count = serm_embedding_rows(word, length, rows);
	CHECK(count == n && count == 10 && memcmp(rows, expected, n * sizeof(uint32_t)) == 0,
	    "bath: its own row, 4 trigrams, 3 4-grams, 2 5-grams");
	CHECK(rows[0] == PIN_BATH && rows[1] == PIN_BA && rows[9] == PIN_ATH, "rows are a stored format");
	CHECK(serm_embedding_rows(word, 1, rows) == 1, "of one letter the only n-gram is the whole");
	CHECK(serm_embedding_rows(word, 2, rows) == 3, "two letters: two trigrams");
	CHECK(serm_embedding_rows(word, 3, rows) == 6, "three: 3 trigrams, 2 4-grams");
	for (uint32_t i = 0; i < 64; i++)
		word[i] = 'a' + i;
	rows[SERM_WORD_ROWS_MAX] = 77;
	CHECK(serm_embedding_rows(word, 64, rows) == 1 + 32 + 31 + 30 && rows[SERM_WORD_ROWS_MAX] == 77,
	    "n-grams are taken of the first 32 code points");
	count = rows[0];
	serm_embedding_rows(word, 63, rows);
	CHECK(rows[0] != count, "the word's own row is of the whole word");
}

static void
test_quantise(void)
{
	float row[WIDTH], scale = 0, worst = 0;
	int8_t quantised[WIDTH];

	for (int i = 0; i < WIDTH; i++)
		row[i] = 0.37f * sinf((float) i + 1);
	serm_embedding_quantise(row, quantised, &scale);
	for (int i = 0; i < WIDTH; i++)
		worst = fmaxf(worst, fabsf((float) quantised[i] * scale - row[i]));
	CHECK(worst <= 0.5001f * scale && scale > 0.0028f && scale < 0.003f, "error of half a step at most");
	row[5] = -2.54f;
	serm_embedding_quantise(row, quantised, &scale);
	CHECK_NEAR(scale, 0.02, 1e-7, "the scale follows the largest value");
	CHECK(quantised[5] == -127, "which becomes 127");
	memset(row, 0, sizeof(row));
	serm_embedding_quantise(row, quantised, &scale);
	CHECK(scale == 0 && quantised[0] == 0, "zeros stay zeros");
	row[0] = 1e-40f;
	serm_embedding_quantise(row, quantised, &scale);
	CHECK(scale == 0 && quantised[0] == 0, "denormals become zeros");
}

static void
test_sum(const SermEmbedding *embedding, SermArena *arena)
{
	uint32_t word[64], rows[SERM_WORD_ROWS_MAX], count;
	float *table = serm_arena_array(arena, (size_t) SERM_EMBEDDING_ROWS * WIDTH, sizeof(float));
	float sum[WIDTH], unit[WIDTH];
	double naive[WIDTH], norm = 0, worst = 0, worst_sum = 0;

	for (size_t i = 0; i < (size_t) SERM_EMBEDDING_ROWS * WIDTH; i++)
		table[i] = embedding->scale[i / WIDTH] * (float) embedding->rows[i];
	count = serm_embedding_rows(word, spell("pillow", word), rows);
	serm_embedding_sum(table, rows, count, sum);
	serm_embedding_word(embedding, word, 6, unit);
	for (int d = 0; d < WIDTH; d++) {
		double others = 0;

		for (uint32_t r = 1; r < count; r++)
			others += table[(size_t) rows[r] * WIDTH + (size_t) d];
		naive[d] = table[(size_t) rows[0] * WIDTH + (size_t) d] + others / sqrt(count - 1.0);
		norm += naive[d] * naive[d];
	}
	for (int d = 0; d < WIDTH; d++) {
		worst = fmax(worst, fabs(naive[d] / sqrt(norm) - unit[d]));
		worst_sum = fmax(worst_sum, fabs(naive[d] - sum[d]));
	}
	CHECK(worst < 1e-6, "n(word) is the normalised sum");
	CHECK(worst_sum < 1e-5, "the sum over the float table before normalising");
	serm_embedding_sum(table, rows, 1, sum);
	CHECK(
	    memcmp(sum, table + (size_t) rows[0] * WIDTH, sizeof(sum)) == 0, "a word without n-grams is its row");
}

static void
test_zero(SermArena *arena)
{
	SermEmbedding zero = {serm_arena_alloc(arena, (size_t) SERM_EMBEDDING_ROWS * WIDTH),
	    serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float)), NULL};
	uint32_t word[8];
	float unit[WIDTH], sum = 0;

	serm_embedding_word(&zero, word, spell("zero", word), unit);
	for (int d = 0; d < WIDTH; d++)
		sum += fabsf(unit[d]);
	CHECK(sum == 0, "a zero vector stays zero");
}

/* Words through the cache, in any order and after any others, have the bits of words alone. */
static void
test_cache(SermEmbedding embedding, SermArena *arena)
{
	char text[4096] = "";
	float *units = serm_arena_array(arena, 300 * WIDTH, sizeof(float));
	SermWords words;
	SermError error;
	SermRng rng;
	size_t bad = 0, wanted = 0;

	serm_rng_seed(&rng, 11);
	embedding.cache = serm_word_cache_create(arena);
	for (int round = 0; round < 200; round++) {
		size_t length = 0;

		for (int i = 0; i < 200; i++) {
			uint32_t letters = 1 + serm_rng_below(&rng, i % 10 == 0 ? 20 : 3);

			for (uint32_t j = 0; j < letters; j++)
				text[length++] = (char) ('a' + serm_rng_below(&rng, 20));
			text[length++] = ' ';
		}
		if (serm_text_words((SermText){text, length}, 200, arena, &words, &error) != SERM_OK ||
		    !serm_embedding_words(&embedding, &words, words.count, arena, units))
			bad++;
		for (uint32_t i = 0; i < words.count; i++) {
			float unit[WIDTH];

			serm_embedding_word(
			    &embedding, words.code_points + words.words[i].start, words.words[i].length, unit);
			bad += memcmp(unit, units + (size_t) i * WIDTH, sizeof(unit)) != 0;
			wanted++;
		}
	}
	CHECK(bad == 0 && wanted == 40000, "the cache changes no bit of 40,000 words");
}

int
main(void)
{
	SermArena arena = unit_arena();
	SermEmbedding embedding = random_embedding(&arena);

	test_rows();
	test_quantise();
	test_sum(&embedding, &arena);
	test_zero(&arena);
	test_cache(embedding, &arena);
	serm_arena_free(&arena);
	DONE();
}
