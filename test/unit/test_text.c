/* Words are a stored format: what is pinned here may only change together with the model format. */
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/utf8.h"
#include "core/text/reader.h"
#include "core/text/text.h"
#include "unit.h"

/* Computed by an independent program. */
#define PIN_BLUE_101 0x0aeb3c71u
#define PIN_BLUE 0x132dd66fu
#define PIN_WIDE 0xcc472b97u
#define PIN_EMPTY 0x1ab1854eu
#define PIN_KEY UINT64_C(0x57dee2e1bd0021cf)

static SermText
text_of(const char *string)
{
	return (SermText){string, strlen(string)};
}

static SermWords
words_of(SermText text, uint32_t words_max, SermArena *arena)
{
	SermWords words;
	SermError error;

	if (serm_text_words(text, words_max, arena, &words, &error) != SERM_OK)
		words = (SermWords){NULL, NULL, 0};
	return words;
}

/* The words separated by "|", numbers with "#" before them. */
static const char *
joined(SermText text, uint32_t words_max, SermArena *arena)
{
	SermWords words = words_of(text, words_max, arena);
	char *out = serm_arena_alloc(arena, (size_t) words.count * 300 + 1);
	size_t length = 0;

	for (uint32_t i = 0; i < words.count; i++) {
		if (i > 0)
			out[length++] = '|';
		if (words.words[i].number)
			out[length++] = '#';
		for (uint32_t j = 0; j < words.words[i].length; j++)
			length += serm_utf8_encode(words.code_points[words.words[i].start + j], out + length);
	}
	return out;
}

static const struct {
	const char *text;
	const char *words;
	const char *what;
} table[] = {
    {"", "", "nothing"},
    {" \t\r\n.,;!?--", "", "separators only"},
    {"Blue PILLOW", "blue|pillow", "lower case"},
    {"4ft", "#4|ft", "letters and digits split"},
    {"ab12cd", "ab|#12|cd", "and split again"},
    {"3.5 in", "#3.5|in", "a point inside a number"},
    {"1,000,000", "#1,000,000", "commas inside a number"},
    {"3. 5, 7", "#3|#5|#7", "points at the end of a number"},
    {"3..4 5.,6", "#3|#4|#5|#6", "two points separate"},
    {".5", "#5", "a leading point is dropped"},
    {"a.b 3.x", "a|b|#3|x", "points separate letters"},
    {"don't", "dont", "an apostrophe is dropped"},
    {"don\xe2\x80\x99t rock'n'roll", "dont|rocknroll", "a typographic one too"},
    {"'quoted' dogs' a''b", "quoted|dogs|a|b", "apostrophes at edges separate"},
    {"5'8\" 1'000", "#58|#1000", "an apostrophe between digits is dropped"},
    {"3.'5 3'.5", "#3|#5|#3|#5", "an apostrophe beside a point separates"},
    {"foo_bar foo-bar", "foo|bar|foo|bar", "underscore and hyphen separate"},
    {"a\xcc\x81\xcc\x82z", "az", "combining marks are dropped inside a word"},
    {"\xc3\x89lan na\xc3\xafve \xc5\x81\xc3\xb3\xc4\x91\xc5\xba", "elan|naive|\xc5\x82o\xc4\x91z",
        "accents are dropped, strokes stay"},
    {"e\xcc\x81lan", "elan", "a decomposed accent as well"},
    {"\xef\xbc\xa1\xef\xbd\x82\xef\xbd\x83 \xef\xbc\x91\xef\xbc\x92", "abc|#12", "full-width forms"},
    {"\xef\xac\x81ne x\xc2\xb2 \xc2\xbd \xe3\x8e\x8f", "fine|x|#2|#1|#2|kg", "compatibility forms"},
    {"\xc4\xb0stanbul", "istanbul", "dotted capital i"},
    {"Stra\xc3\x9f"
     "e",
        "stra\xc3\x9f"
        "e",
        "sharp s stays"},
    {"\xce\x9f\xce\x94\xce\x9f\xce\xa3 \xce\xbf\xce\xb4\xce\xbf\xcf\x82",
        "\xce\xbf\xce\xb4\xce\xbf\xcf\x83|\xce\xbf\xce\xb4\xce\xbf\xcf\x83", "final sigma"},
    {"\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xd0\x81\xd0\xb6",
        "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82|\xd0\xb5\xd0\xb6", "Cyrillic"},
    {"\xd8\xa7\xd9\x84\xd8\xb9\xd9\x8e\xd8\xb1\xd9\x8e\xd8\xa8\xd9\x90\xd9\x8a\xd9\x91\xd8\xa9",
        "\xd8\xa7\xd9\x84\xd8\xb9\xd8\xb1\xd8\xa8\xd9\x8a\xd8\xa9", "Arabic vowel signs are dropped"},
    {"\xd8\xa3\xd8\xad\xd9\x85\xd9\x80\xd9\x80\xd8\xaf", "\xd8\xa7\xd8\xad\xd9\x85\xd8\xaf",
        "hamza above and tatweel are dropped"},
    {"\xd7\xa9\xd6\xb8\xd7\x9c\xd7\x95\xd6\xb9\xd7\x9d", "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d", "Hebrew points"},
    {"\xe6\x9d\xb1\xe4\xba\xac\xe9\x83\xbd", "\xe6\x9d\xb1\xe4\xba\xac|\xe4\xba\xac\xe9\x83\xbd",
        "Han becomes overlapping bigrams"},
    {"\xe6\x9d\xb1 \xe4\xba\xac", "\xe6\x9d\xb1|\xe4\xba\xac", "a lone ideograph stays"},
    {"iPhone\xe3\x82\xb1\xe3\x83\xbc\xe3\x82\xb9"
     "15",
        "iphone|\xe3\x82\xb1\xe3\x83\xbc|\xe3\x83\xbc\xe3\x82\xb9|#15", "Katakana between Latin and digits"},
    {"\xe3\x81\x8c\xe3\x81\x8b\xe3\x82\x99", "\xe3\x81\x8c\xe3\x81\x8c", "voicing marks compose"},
    {"\xef\xbd\xb6\xef\xbe\x9e\xef\xbd\xb7", "\xe3\x82\xac\xe3\x82\xad", "half-width Katakana"},
    {"\xe3\x82\xa2\xe3\x83\xbb\xe3\x82\xa4", "\xe3\x82\xa2|\xe3\x82\xa4", "the middle dot separates"},
    {"\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4", "\xed\x95\x9c\xea\xb5\xad\xec\x96\xb4", "Hangul composes again"},
    {"\xe0\xb8\xa0\xe0\xb8\xb2\xe0\xb8\xa9\xe0\xb8\xb2\xe0\xb9\x84\xe0\xb8\x97\xe0\xb8\xa2",
        "\xe0\xb8\xa0\xe0\xb8\xb2\xe0\xb8\xa9\xe0\xb8\xb2\xe0\xb9\x84\xe0\xb8\x97\xe0\xb8\xa2",
        "Thai is a run"},
    {"\xe0\xa4\xb9\xe0\xa4\xbf\xe0\xa4\xa8\xe0\xa5\x8d\xe0\xa4\xa6\xe0\xa5\x80",
        "\xe0\xa4\xb9\xe0\xa4\xbf\xe0\xa4\xa8\xe0\xa5\x8d\xe0\xa4\xa6\xe0\xa5\x80",
        "Devanagari keeps its signs"},
    {"\xd8\xb1\xd8\xad\xd9\x85\xd9\xb0\xd9\x86", "\xd8\xb1\xd8\xad\xd9\x85\xd9\x86",
        "superscript alef is dropped"},
    {"\xe0\xa4\x95\xe0\xa5\x8d\xe0\xa4\xbc", "\xe0\xa4\x95\xe0\xa4\xbc\xe0\xa5\x8d",
        "marks take canonical order"},
    {"\xd9\xa3\xd9\xa4", "#\xd9\xa3\xd9\xa4", "Arabic digits are digits"},
    {"1\xef\xb8\x8f\xe2\x83\xa3 \xe2\x9d\xa4\xef\xb8\x8f \xf0\x9f\x98\x80", "#1", "emoji separate"},
    {"ab\xff"
     "cd\xc3",
        "ab|cd", "invalid bytes separate"},
    {"ab\xef\xbf\xbd"
     "cd",
        "ab|cd", "so does U+FFFD"},
};

static void
test_table(SermArena *arena)
{
	for (size_t i = 0; i < SERM_LENGTH(table); i++) {
		const char *got = joined(text_of(table[i].text), 64, arena);

		CHECK(strcmp(got, table[i].words) == 0, "%s", table[i].what);
		if (strcmp(got, table[i].words) != 0)
			printf("# got      %s\n# expected %s\n", got, table[i].words);
	}
	CHECK(strcmp(joined((SermText){"a\0b", 3}, 64, arena), "a|b") == 0, "NUL separates");
}

static void
test_hashes(SermArena *arena)
{
	const uint32_t blue[] = {'b', 'l', 'u', 'e'};
	const uint32_t wide[] = {0x6771, 0x4eac, 0x1f600};
	uint32_t naive = 2166136261u ^ 9;

	for (int i = 0; i < 3; i++)
		for (int shift = 0; shift < 24; shift += 8)
			naive = (naive ^ ((wide[i] >> shift) & 0xff)) * 16777619u;
	naive ^= naive >> 15;
	naive *= 0x2c1b3c6du;
	naive ^= naive >> 12;
	CHECK(serm_text_hash(wide, 3, 9) == naive, "the hash is FNV-1a over three bytes per code point");
	CHECK(serm_text_hash(blue, 4, 0) == PIN_BLUE, "hash of blue, seed 0");
	CHECK(serm_text_hash(blue, 4, 101) == PIN_BLUE_101, "hash of blue, seed 101");
	CHECK(serm_text_hash(wide, 3, 0) == PIN_WIDE, "hash beyond one byte");
	CHECK(serm_text_hash(blue, 0, 0) == PIN_EMPTY, "hash of nothing");
	CHECK(words_of(text_of("Blue"), 64, arena).words[0].id == PIN_BLUE, "a word's id has seed 0");
}

/* The id of one ASCII word, and the hash of what its stem should be. */
static uint32_t
ascii_hash(const char *word, bool stemmed)
{
	uint32_t code_points[64];
	uint32_t length = (uint32_t) strlen(word);

	for (uint32_t i = 0; i < length; i++)
		code_points[i] = (unsigned char) word[i];
	return stemmed ? serm_text_word_id(code_points, length) : serm_text_hash(code_points, length, 0);
}

static void
test_stems(void)
{
	static const char *const same[][2] = {{"lights", "light"}, {"box", "boxes"}, {"battery", "batteries"},
	    {"tapes", "tape"}, {"glasses", "glass"}, {"flor", "flores"}, {"keys", "key"}, {"toys", "toy"},
	    {"dishes", "dish"}, {"trays", "tray"}};
	static const char *const apart[][2] = {{"note", "not"}, {"bus", "bu"}, {"glass", "glas"},
	    {"basis", "basi"}, {"gas", "ga"}, {"pine", "pin"}, {"cactus", "cactu"}};
	static const char *const stems[][2] = {{"", ""}, {"s", "s"}, {"y", "y"}, {"es", "es"}, {"abs", "abs"},
	    {"lights", "light"}, {"boxes", "box"}, {"battery", "batteri"}, {"12", "12"}};

	for (size_t i = 0; i < SERM_LENGTH(same); i++)
		CHECK(ascii_hash(same[i][0], true) == ascii_hash(same[i][1], true), same[i][0]);
	for (size_t i = 0; i < SERM_LENGTH(apart); i++)
		CHECK(ascii_hash(apart[i][0], true) != ascii_hash(apart[i][1], true), apart[i][0]);
	for (size_t i = 0; i < SERM_LENGTH(stems); i++)
		CHECK(ascii_hash(stems[i][0], true) == ascii_hash(stems[i][1], false), "the stem is hashed");
}

static uint64_t
key_of(const char *query, SermArena *arena)
{
	uint64_t key = 0;
	SermError error;

	if (serm_text_query_key(text_of(query), arena, &key, &error) != SERM_OK)
		return 0;
	return key;
}

static void
test_query_key(SermArena *arena)
{
	CHECK(key_of("blue pillow", arena) == PIN_KEY, "the key of a query is pinned");
	CHECK(key_of("blue pillow", arena) == serm_hash_bytes("blue pillow", 11, UINT64_C(0x7365726d2d717279)),
	    "it hashes the words joined by a space");
	CHECK(key_of("  BLUE,\tp\xc3\xadllow! ", arena) == PIN_KEY, "case, accents and spacing do not matter");
	CHECK(key_of("pillow blue", arena) != PIN_KEY, "order does");
	CHECK(key_of("bluepillow", arena) != PIN_KEY, "and so do word boundaries");
	CHECK(key_of("", arena) == key_of("?!", arena), "queries without words are one");
}

static void
test_split(SermArena *arena)
{
	SermText title, body;
	char line[200] = "";

	(void) arena;
	serm_text_split_document(text_of("Pillow\nblue\nsoft"), &title, &body);
	CHECK(title.length == 6 && body.length == 9 && memcmp(body.bytes, "blue", 4) == 0, "first line and rest");
	serm_text_split_document(text_of("\nblue"), &title, &body);
	CHECK(title.length == 0 && body.length == 4, "an empty first line: no title");
	serm_text_split_document(text_of("pillow\n"), &title, &body);
	CHECK(title.length == 6 && body.length == 0, "an empty rest: no body");
	serm_text_split_document((SermText){NULL, 0}, &title, &body);
	CHECK(title.length == 0 && body.length == 0, "an empty document has neither");
	for (int i = 0; i < 24; i++)
		strcat(line, "word ");
	serm_text_split_document(text_of(line), &title, &body);
	CHECK(title.length == strlen(line) && body.length == 0, "a single line of 24 words is a title");
	strcat(line, "more");
	serm_text_split_document(text_of(line), &title, &body);
	CHECK(title.length == 0 && body.length == strlen(line), "one of 25 words is a body");
	strcat(line, "\n");
	serm_text_split_document(text_of(line), &title, &body);
	CHECK(title.length == strlen(line) - 1 && body.length == 0, "unless a line feed ends it");
}

static void
test_limits(SermArena *arena)
{
	size_t size = 1 << 20;
	char *large = serm_arena_alloc(arena, size);
	SermWords words;
	SermArena small;
	SermError error;

	memset(large, 'a', size);
	words = words_of((SermText){large, size}, 256, arena);
	CHECK(words.count == 1 && words.words[0].length == 64, "an endless word is cut at 64 code points");
	memset(large, '7', size);
	words = words_of((SermText){large, size}, 64, arena);
	CHECK(words.count == 1 && words.words[0].length == 64 && words.words[0].number, "an endless number too");
	for (size_t i = 0; i < size; i++)
		large[i] = i % 2 == 0 ? 'a' : ' ';
	words = words_of((SermText){large, size}, 256, arena);
	CHECK(words.count == 256, "words beyond the limit are not read");
	memset(large, ' ', size);
	memcpy(large + 256 * 256 - 8, "in out", 6);
	memcpy(large + 256 * 256, "beyond", 6);
	CHECK(strcmp(joined((SermText){large, size}, 256, arena), "in|out") == 0, "256 bytes per word are read");
	for (size_t i = 0; i + 3 <= 3000; i += 3)
		memcpy(large + i, "\xef\xb7\xba", 3);
	words = words_of((SermText){large, 3000}, 4096, arena);
	CHECK(words.count == 3001, "U+FDFA decomposes to four words, the first and last joined between copies");
	for (size_t i = 0; i + 3 <= 3000; i += 3)
		memcpy(large + i, "\xe3\x8c\x96", 3);
	CHECK(words_of((SermText){large, 3000}, 100000, arena).count == 5999, "U+3316 to six Katakana");
	CHECK(words_of(text_of("a b c"), 0, arena).count == 0, "no words wanted, none given");
	CHECK(strcmp(joined(text_of("a b c"), 2, arena), "a|b") == 0, "the first words are kept");
	CHECK(strcmp(joined(text_of("\xe6\x9d\xb1\xe4\xba\xac\xe9\x83\xbd x"), 1, arena),
	          "\xe6\x9d\xb1\xe4\xba\xac") == 0,
	    "the limit holds inside a run of ideographs");
	serm_arena_init(&small, serm_heap_allocator(), 4096);
	CHECK(serm_text_words(text_of(table[2].text), 64, &small, &words, &error) == SERM_OK, "4 kB are enough");
	CHECK(serm_text_words((SermText){large, 3000}, 4096, &small, &words, &error) == SERM_ERR_MEMORY,
	    "a full arena is an error");
	serm_arena_free(&small);
}

/* Whatever the bytes, words are well-formed, and reading is a function of the bytes alone. */
static void
test_fuzz(void)
{
	static const char *const pieces[] = {"a", "Z", "7", ".", ",", "'", " ", "\n", "\xc3\xa9", "\xcc\x81",
	    "\xe6\x9d\xb1", "\xe3\x82\x99", "\xe3\x81\x8b", "\xef\xb7\xba", "\xe3\x8c\x96", "\xed\x95\x9c",
	    "\xd9\x8e", "\xe0\xb8\xb2", "\xf0\x9f\x98\x80", "\xe2\x80\x99", "\xff", "\xed\xa0\x80"};
	SermArena arena = unit_arena();
	SermRng rng;
	size_t bad = 0;

	serm_rng_seed(&rng, 7);
	for (int round = 0; round < 20000; round++) {
		char bytes[256];
		size_t length = 0, target = serm_rng_below(&rng, 240);
		uint32_t words_max = 1 + serm_rng_below(&rng, 40), used = 0;
		SermWords words, again;

		while (length < target)
			if (round % 2 == 0)
				bytes[length++] = (char) serm_rng_below(&rng, 256);
			else {
				const char *piece = pieces[serm_rng_below(&rng, SERM_LENGTH(pieces))];

				memcpy(bytes + length, piece, strlen(piece));
				length += strlen(piece);
			}
		words = words_of((SermText){bytes, length}, words_max, &arena);
		again = words_of((SermText){bytes, length}, 2 * words_max, &arena);
		bad += words.count > words_max || again.count < words.count;
		for (uint32_t i = 0; i < words.count && i < again.count; i++) {
			const SermWord *word = &words.words[i];

			bad += word->length == 0 || word->length > 64 || word->start != used;
			bad += word->id != again.words[i].id ||
			       word->id != serm_text_word_id(words.code_points + used, word->length);
			used += word->length;
		}
		serm_arena_free(&arena);
	}
	CHECK(bad == 0, "20,000 random texts give well-formed words, and a larger limit only adds some");
}

/* What a byte is, by both ways of looking at a block of them. */
static void
test_masks(void)
{
	unsigned char bytes[SERM_READER_BLOCK];
	size_t bad = 0;
	SermRng rng;

	serm_rng_seed(&rng, 7);
	for (int round = 0; round < 2000; round++) {
		SermReaderMasks masks, portable;

		/* Each byte at each place once, then any. */
		for (int i = 0; i < SERM_READER_BLOCK; i++)
			bytes[i] = round < 256 ? (unsigned char) (round + i) : (unsigned char) serm_rng_below(&rng, 256);
		serm_reader_masks(bytes, &masks);
		serm_reader_masks_portable(bytes, &portable);
		bad += memcmp(&masks, &portable, sizeof(masks)) != 0;
		for (int i = 0; i < SERM_READER_BLOCK; i++) {
			unsigned char byte = bytes[i];
			bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');

			bad += (masks.letters >> i & 1) != letter;
			bad += (masks.digits >> i & 1) != (byte >= '0' && byte <= '9');
			bad += (masks.joins >> i & 1) != (byte == '.' || byte == ',');
			bad += (masks.apostrophes >> i & 1) != (byte == '\'');
			bad += (masks.others >> i & 1) != (byte >= 0x80);
		}
	}
	CHECK(bad == 0, "what the bytes of a block are");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_table(&arena);
	test_stems();
	test_hashes(&arena);
	test_query_key(&arena);
	test_split(&arena);
	test_limits(&arena);
	test_masks();
	test_fuzz();
	serm_arena_free(&arena);
	DONE();
}
