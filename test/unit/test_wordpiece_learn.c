/*
 * Learning a WordPiece vocabulary: against a plain version of the rule on the
 * same words, through the tokenizer and back, and with texts that nobody meant.
 */
#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "core/model/tokenizer_read.h"
#include "core/text/wordpiece_learn.h"
#include "unit.h"

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

static bool
stop(void *context)
{
	return --*(int *) context > 0;
}

static SermStatus
learn(const char *const *lines, size_t count, uint32_t vocab, SermArena *arena, SermText *vocab_txt)
{
	SermText texts[16];
	SermError error;

	for (size_t i = 0; i < count; i++)
		texts[i] = (SermText){lines[i], strlen(lines[i])};
	return serm_wordpiece_learn(
	    &(SermWordpieceLearner){texts, count, vocab, 2, go_on, NULL}, arena, vocab_txt, &error);
}

static bool
has_line(SermText text, const char *line)
{
	size_t length = strlen(line);

	for (size_t at = 0; at + length < text.length; at++)
		if ((at == 0 || text.bytes[at - 1] == '\n') && memcmp(text.bytes + at, line, length) == 0 &&
		    text.bytes[at + length] == '\n')
			return true;
	return false;
}

static uint32_t
count_lines(SermText text)
{
	uint32_t lines = 0;

	for (size_t i = 0; i < text.length; i++)
		lines += text.bytes[i] == '\n';
	return lines;
}

/* By hand: h-u-g is the most frequent pair first as "##u ##g" (20), then "h ##ug" (15), ... */
static void
test_rule(SermArena *arena)
{
	char line[512] = "";
	const struct {
		const char *word;
		int count;
	} words[] = {{"hug", 10}, {"pug", 5}, {"pun", 12}, {"bun", 4}, {"hugs", 5}};
	const char *lines[] = {line};
	SermText vocabulary;
	const char *expected =
	    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nb\ng\nh\nn\np\ns\nu\n##b\n##g\n##h\n##n\n##p\n##s\n"
	    "##u\n##ug\n##un\nhug\npun\npug\nhugs\nbun\n";

	for (size_t i = 0; i < SERM_LENGTH(words); i++)
		for (int n = 0; n < words[i].count; n++)
			strcat(strcat(line, words[i].word), " ");
	CHECK(learn(lines, 1, 64, arena, &vocabulary) == SERM_OK && vocabulary.length == strlen(expected) &&
	          memcmp(vocabulary.bytes, expected, vocabulary.length) == 0,
	    "the order of joining");
}

/* The same rule, written down without a heap: after each step all pairs are counted again. */
enum { PLAIN_WORDS = 300, PLAIN_LENGTH = 12 };

typedef struct Plain {
	char pieces[PLAIN_WORDS][PLAIN_LENGTH][PLAIN_LENGTH + 3];
	int length[PLAIN_WORDS];
	int count[PLAIN_WORDS];
	int words;
} Plain;

static int
plain_count(const Plain *plain, const char *left, const char *right)
{
	int count = 0;

	for (int w = 0; w < plain->words; w++)
		for (int i = 0; i + 1 < plain->length[w]; i++)
			if (strcmp(plain->pieces[w][i], left) == 0 && strcmp(plain->pieces[w][i + 1], right) == 0)
				count += plain->count[w];
	return count;
}

static int
plain_best(const Plain *plain)
{
	int best = 0;

	for (int w = 0; w < plain->words; w++)
		for (int i = 0; i + 1 < plain->length[w]; i++) {
			int count = plain_count(plain, plain->pieces[w][i], plain->pieces[w][i + 1]);

			best = count > best ? count : best;
		}
	return best;
}

static void
plain_join(Plain *plain, const char *left, const char *right)
{
	char joined[2 * PLAIN_LENGTH + 6], l[PLAIN_LENGTH + 3], r[PLAIN_LENGTH + 3];

	strcpy(l, left), strcpy(r, right);
	snprintf(joined, sizeof(joined), "%s%s", l, r + 2);
	for (int w = 0; w < plain->words; w++)
		for (int i = 0; i + 1 < plain->length[w]; i++)
			if (strcmp(plain->pieces[w][i], l) == 0 && strcmp(plain->pieces[w][i + 1], r) == 0) {
				memcpy(plain->pieces[w][i], joined, PLAIN_LENGTH + 2);
				memmove(plain->pieces[w][i + 1], plain->pieces[w][i + 2],
				    (size_t) (plain->length[w] - i - 2) * sizeof(plain->pieces[w][0]));
				plain->length[w]--;
			}
}

/* Every piece that was joined must have been a most frequent pair of the plain version when its turn came. */
static void
test_against_plain(SermArena *arena)
{
	static Plain plain;
	static char text[1 << 16];
	const char *lines[] = {text};
	SermText vocabulary;
	SermRng rng;
	int checked = 0, wrong = 0;

	serm_rng_seed(&rng, 4);
	text[0] = '\0';
	for (plain.words = 0; plain.words < 120; plain.words++) {
		int length = 2 + (int) serm_rng_below(&rng, 6), times = 1 + (int) serm_rng_below(&rng, 9);
		char word[16];

		for (int i = 0; i < length; i++)
			word[i] = (char) ('a' + serm_rng_below(&rng, 5));
		word[length] = '\0';
		plain.length[plain.words] = length, plain.count[plain.words] = times;
		for (int i = 0; i < length; i++)
			snprintf(
			    plain.pieces[plain.words][i], sizeof(plain.pieces[0][0]), "%s%c", i > 0 ? "##" : "", word[i]);
		for (int n = 0; n < times; n++)
			strcat(strcat(text, word), " ");
	}
	CHECK(learn(lines, 1, 100, arena, &vocabulary) == SERM_OK, "learned");
	for (const char *at = strstr(vocabulary.bytes, "\n##e\n") + 5, *end;
	     at < vocabulary.bytes + vocabulary.length && (end = strchr(at, '\n')) != NULL; at = end + 1) {
		char piece[PLAIN_LENGTH + 3], left[PLAIN_LENGTH + 3], right[PLAIN_LENGTH + 3];
		size_t length = (size_t) (end - at);
		int best = plain_best(&plain), found = 0;

		memcpy(piece, at, length), piece[length] = '\0';
		for (int w = 0; !found && w < plain.words; w++)
			for (int i = 0; !found && i + 1 < plain.length[w]; i++) {
				char joined[2 * PLAIN_LENGTH + 6];

				strcpy(left, plain.pieces[w][i]), strcpy(right, plain.pieces[w][i + 1]);
				snprintf(joined, sizeof(joined), "%s%s", left, right + 2);
				found = strcmp(joined, piece) == 0 && plain_count(&plain, left, right) == best;
			}
		checked++;
		/* A pair that spells a piece there is already is joined without making one: catch up with it. */
		if (!found) {
			wrong++;
			break;
		}
		plain_join(&plain, left, right);
	}
	CHECK(checked > 40 && wrong == 0, "%d joined pairs were the most frequent ones, %d not", checked, wrong);
}

static const SermTokenizer *
open_tokenizer(SermText vocabulary, SermArena *arena)
{
	SermTokenizerFiles files = {.vocab_txt = vocabulary};
	SermTokenizerSpec spec;
	const SermTokenizer *tokenizer = NULL;
	const unsigned char *bytes;
	size_t length;
	SermError error;

	CHECK(serm_tokenizer_read(&files, arena, &spec, &error) == SERM_OK &&
	          serm_tokenizer_write(&spec, arena, &bytes, &length, &error) == SERM_OK &&
	          serm_tokenizer_open(bytes, length, arena, &tokenizer, &error) == SERM_OK,
	    "the tokenizer reads the vocabulary");
	return tokenizer;
}

/* Every text it was learned from is spelled in known pieces, which put together give the text. */
static void
test_round_trip(SermArena *arena)
{
	const char *lines[] = {"Blue Pillow, soft & washable (50 x 80 cm)", "blue pillows for the blue sofa",
	    "Gr\xc3\xbcne Kissen \xe6\x9e\x95\xe5\xad\x90 \xe6\x9e\x95\xe5\xad\x90",
	    "the pillow case of blue cotton"};
	SermText vocabulary;
	const SermTokenizer *tokenizer;
	const uint32_t *ids;
	uint32_t count, unknown = 0;
	char out[256] = "";
	SermError error;

	CHECK(learn(lines, 4, 300, arena, &vocabulary) == SERM_OK, "learned");
	tokenizer = open_tokenizer(vocabulary, arena);
	CHECK(serm_tokenizer_vocab(tokenizer) == count_lines(vocabulary) && serm_tokenizer_pad(tokenizer) == 0,
	    "%u pieces", serm_tokenizer_vocab(tokenizer));
	CHECK(has_line(vocabulary, "blue") && has_line(vocabulary, "pillow") && has_line(vocabulary, "&") &&
	          has_line(vocabulary, "\xe6\x9e\x95") && has_line(vocabulary, "g") && !has_line(vocabulary, "G"),
	    "words that come twice, punctuation, ideographs and lower case");
	for (int i = 0; i < 4; i++) {
		serm_tokenizer_encode(
		    tokenizer, (SermText){lines[i], strlen(lines[i])}, 1000, NULL, arena, &ids, &count, &error);
		for (uint32_t t = 0; t < count; t++)
			unknown += ids[t] == SERM_WORDPIECE_UNK;
	}
	CHECK(unknown == 0, "%u unknown words", unknown);
	serm_tokenizer_encode(
	    tokenizer, (SermText){"BLUE  pillowcases", 17}, 1000, NULL, arena, &ids, &count, &error);
	for (uint32_t t = 0; t < count; t++) {
		SermText piece = serm_tokenizer_piece(tokenizer, ids[t]);
		bool inner = piece.length > 2 && memcmp(piece.bytes, "##", 2) == 0;

		if (t > 0 && !inner)
			strcat(out, " ");
		strncat(out, piece.bytes + (inner ? 2 : 0), piece.length - (inner ? 2 : 0));
	}
	CHECK(strcmp(out, "blue pillowcases") == 0, "a text comes back: %s", out);
	serm_tokenizer_encode(tokenizer, (SermText){"[MASK] [SEP]", 12}, 1000, NULL, arena, &ids, &count, &error);
	for (uint32_t t = 0; t < count; t++)
		CHECK(
		    ids[t] != SERM_WORDPIECE_MASK && ids[t] != SERM_WORDPIECE_SEP, "no text yields a special token");
}

static void
test_hostile(SermArena *arena)
{
	static char noise[20000];
	SermText texts[4] = {{noise, sizeof(noise)}, {"", 0}, {"\xff\xfe\xed\xa0\x80\xf8", 6}, {"a\0b", 3}};
	SermText vocabulary, again;
	SermError error;
	SermRng rng;
	int left = 3;
	SermArena small;

	serm_rng_seed(&rng, 9);
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char) serm_rng_below(&rng, 256);
	SermWordpieceLearner learner = {texts, 4, 500, 2, go_on, NULL};
	CHECK(serm_wordpiece_learn(&learner, arena, &vocabulary, &error) == SERM_OK &&
	          serm_utf8_valid(vocabulary.bytes, vocabulary.length) && count_lines(vocabulary) <= 500,
	    "noise gives a vocabulary of UTF-8");
	(void) open_tokenizer(vocabulary, arena);
	CHECK(serm_wordpiece_learn(&learner, arena, &again, &error) == SERM_OK &&
	          again.length == vocabulary.length && memcmp(again.bytes, vocabulary.bytes, again.length) == 0,
	    "the same one each time");
	learner = (SermWordpieceLearner){texts, 4, 63, 2, go_on, NULL};
	CHECK(serm_wordpiece_learn(&learner, arena, &again, &error) == SERM_ERR_INVALID, "too small");
	learner = (SermWordpieceLearner){texts + 1, 1, 500, 2, go_on, NULL};
	CHECK(serm_wordpiece_learn(&learner, arena, &again, &error) == SERM_ERR_NO_DATA, "no word");
	learner = (SermWordpieceLearner){texts, 4, 500, 2, stop, &left};
	CHECK(serm_wordpiece_learn(&learner, arena, &again, &error) == SERM_ERR_CANCELED, "cancel");
	serm_arena_init(&small, serm_heap_allocator(), 100000);
	learner = (SermWordpieceLearner){texts, 4, 500, 2, go_on, NULL};
	CHECK(serm_wordpiece_learn(&learner, &small, &again, &error) == SERM_ERR_MEMORY, "too little memory");
	serm_arena_free(&small);
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_rule(&arena);
	test_against_plain(&arena);
	test_round_trip(&arena);
	test_hostile(&arena);
	serm_arena_free(&arena);
	DONE();
}
