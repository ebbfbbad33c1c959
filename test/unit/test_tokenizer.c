#include "core/base/hash.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"
#include "unit.h"

#define TEXT(literal) ((SermText){literal, strlen(literal)})

static SermArena arena;

/* --- fixtures */

static const SermTemplateItem begin = {SERM_TEMPLATE_TOKEN, 1, 0}, end = {SERM_TEMPLATE_TOKEN, 2, 0};

static SermTokenizerSpec
framed(SermTokenizerKind kind, const SermText *pieces, uint32_t count, const SermAddedToken *added,
    uint32_t added_count)
{
	return (SermTokenizerSpec){.kind = kind,
	    .pieces = pieces,
	    .piece_count = count,
	    .added = added,
	    .added_count = added_count,
	    .unk_id = kind == SERM_TOKENIZER_BPE ? SERM_TOKEN_NONE : 0,
	    .pad_id = SERM_TOKEN_NONE,
	    .single = {3, {begin, {SERM_TEMPLATE_FIRST, 0, 0}, end}},
	    .pair = {5, {begin, {SERM_TEMPLATE_FIRST, 0, 0}, end, {SERM_TEMPLATE_SECOND, 0, 1},
	                    {SERM_TEMPLATE_TOKEN, 2, 1}}}};
}

/* 0 [UNK], 1 [CLS], 2 [SEP] and words; cleaned, Chinese apart, accents and capitals gone. */
static SermTokenizerSpec
wordpiece_spec(void)
{
	static const char *names[] = {"[UNK]", "[CLS]", "[SEP]", "blue", "pill", "##ow", "##s", ",", "中", "a",
	    "##a", "[", "]", "se", "##p", "cls", "i", "pillow", "##\xe2\x82\xac"};
	static SermText pieces[SERM_LENGTH(names)];
	static const SermAddedToken added[] = {{{"[UNK]", 5}, 0, true, false, false, false},
	    {{"[CLS]", 5}, 1, true, false, false, false}, {{"[SEP]", 5}, 2, true, false, false, false}};
	SermTokenizerSpec spec;

	for (unsigned i = 0; i < SERM_LENGTH(names); i++)
		pieces[i] = TEXT(names[i]);
	spec = framed(SERM_TOKENIZER_WORDPIECE, pieces, SERM_LENGTH(names), added, SERM_LENGTH(added));
	spec.normalize = SERM_NORMALIZE_CLEAN | SERM_NORMALIZE_CHINESE | SERM_NORMALIZE_STRIP_ACCENTS |
	                 SERM_NORMALIZE_LOWERCASE;
	spec.continuing = TEXT("##");
	spec.word_max = 100;
	return spec;
}

/* The 256 bytes from id 3 on, then three merges; 0 to 2 are special, behind them a run of two spaces. */
static SermTokenizerSpec
bpe_spec(void)
{
	static char bytes[256][4];
	static SermText pieces[266];
	static const char *merged[] = {"\xc4\xa0t", "\xc4\xa0th", "\xc4\xa0the", "he", "aa", "<x>"};
	static const SermMerge merges[] = {{{"\xc4\xa0", 2}, {"t", 1}}, {{"\xc4\xa0t", 3}, {"h", 1}},
	    {{"\xc4\xa0th", 4}, {"e", 1}}, {{"h", 1}, {"e", 1}}, {{"a", 1}, {"a", 1}}};
	static const SermAddedToken added[] = {{{"<s>", 3}, 1, true, false, false, false},
	    {{"</s>", 4}, 2, true, false, false, false}, {{"<m>", 3}, 0, true, true, false, false},
	    {{"  ", 2}, 265, false, false, false, true}, {{"<x>", 3}, 264, false, true, true, false}};
	SermTokenizerSpec spec;

	pieces[0] = TEXT("<m>");
	pieces[1] = TEXT("<s>");
	pieces[2] = TEXT("</s>");
	for (int i = 0; i < 256; i++)
		pieces[3 + i] = (SermText){bytes[i], serm_bpe_byte_piece((unsigned char) i, bytes[i])};
	for (unsigned i = 0; i < SERM_LENGTH(merged); i++)
		pieces[259 + i] = TEXT(merged[i]);
	pieces[265] = TEXT("  ");
	spec = framed(SERM_TOKENIZER_BPE, pieces, SERM_LENGTH(pieces), added, SERM_LENGTH(added));
	spec.normalize = SERM_NORMALIZE_NFC;
	spec.merges = merges;
	spec.merge_count = SERM_LENGTH(merges);
	return spec;
}

/* A map of one entry, A to "bc": a double array whose root steps by 'A' to unit 65, and its leaf. */
static SermText
small_charsmap(void)
{
	static unsigned char map[4 + 4 * 128 + 3];
	uint32_t units[128] = {0}, bytes = sizeof(units);

	units[0] = 0;                             /* offset 0 */
	units[0x41] = 0x41u | 1u << 8 | 1u << 10; /* label 'A', has a leaf, offset 1: leaf at 0x41 ^ 1 */
	units[0x40] = 0u;                         /* value 0 */
	memcpy(map, &bytes, 4);
	memcpy(map + 4, units, sizeof(units));
	memcpy(map + 4 + sizeof(units), "bc", 3);
	return (SermText){(const char *) map, sizeof(map)};
}

static SermTokenizerSpec
unigram_spec(void)
{
	static const char *names[] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81",
	    "\xe2\x96\x81"
	    "a",
	    "b", "ab",
	    "\xe2\x96\x81"
	    "ab",
	    "c", "bc"};
	static const double scores[] = {0, 0, 0, -2, -3, -3, -5, -9, -4, -5};
	static SermText pieces[SERM_LENGTH(names)];
	static const SermAddedToken added[] = {{{"<s>", 3}, 1, true, false, false, false},
	    {{"</s>", 4}, 2, true, false, false, false}, {{"<unk>", 5}, 0, true, false, false, false}};
	SermTokenizerSpec spec;

	for (unsigned i = 0; i < SERM_LENGTH(names); i++)
		pieces[i] = TEXT(names[i]);
	spec = framed(SERM_TOKENIZER_UNIGRAM, pieces, SERM_LENGTH(names), added, SERM_LENGTH(added));
	spec.scores = scores;
	spec.normalize = SERM_NORMALIZE_CHARSMAP;
	spec.charsmap = small_charsmap();
	return spec;
}

static const SermTokenizer *
make(SermTokenizerSpec spec)
{
	const SermTokenizer *tokenizer = NULL;
	const unsigned char *bytes;
	SermError error = {0};
	size_t length;

	if (serm_tokenizer_write(&spec, &arena, &bytes, &length, &error) != SERM_OK ||
	    serm_tokenizer_open(bytes, length, &arena, &tokenizer, &error) != SERM_OK)
		printf("# %s\n", error.message);
	return tokenizer;
}

/* The ids of a text, spelled "3 4 5". */
static const char *
ids_of(const SermTokenizer *tokenizer, SermText text, uint32_t tokens_max)
{
	static char out[512];
	const uint32_t *ids;
	uint32_t count;
	SermError error;
	size_t used = 0;

	out[0] = '\0';
	if (tokenizer == NULL ||
	    serm_tokenizer_encode(tokenizer, text, tokens_max, NULL, &arena, &ids, &count, &error) != SERM_OK)
		return "error";
	for (uint32_t i = 0; i < count && used < sizeof(out) - 16; i++)
		used += (size_t) snprintf(out + used, sizeof(out) - used, "%s%u", i > 0 ? " " : "", ids[i]);
	return out;
}

static void
expect(const SermTokenizer *tokenizer, const char *text, const char *ids, const char *what)
{
	const char *got = ids_of(tokenizer, TEXT(text), SERM_TOKENS_MAX);

	CHECK(strcmp(got, ids) == 0, "%s", what);
	if (strcmp(got, ids) != 0)
		printf("# got %s, expected %s\n", got, ids);
}

/* --- Unicode, pinned: CRC-32C over every code point, first verified against the reference */

static void
test_unicode(void)
{
	uint32_t sums[5] = {0}, lower[2], *parts, composed[4];
	size_t count;

	for (uint32_t c = 0; c < 0x110000; c++) {
		SermArenaMark mark = serm_arena_mark(&arena);
		unsigned char clean = (unsigned char) serm_unicode_clean(c),
		              bert = (unsigned char) serm_unicode_bert(c);
		unsigned char class = (unsigned char) serm_unicode_class(c);
		uint32_t length = serm_unicode_lower(c, lower);

		if (c >= 0xd800 && c < 0xe000)
			continue;
		sums[0] = serm_crc32c(sums[0], &clean, 1);
		sums[1] = serm_crc32c(sums[1], &bert, 1);
		sums[2] = serm_crc32c(sums[2], &class, 1);
		sums[3] = serm_crc32c(sums[3], lower, length * sizeof(uint32_t));
		(void) serm_unicode_decompose(&c, 1, &arena, &parts, &count);
		for (size_t i = 0; i < count; i++) {
			unsigned char mark_byte = serm_unicode_mark(parts[i]);

			sums[4] = serm_crc32c(serm_crc32c(sums[4], &parts[i], sizeof(uint32_t)), &mark_byte, 1);
		}
		serm_arena_rewind(&arena, mark);
	}
	for (unsigned i = 0; i < 5; i++) {
		static const uint32_t expected[] = {0xb1323f57, 0xc93dce58, 0x90960e48, 0xeb947498, 0xda0d8c0a};
		static const char *names[] = {
		    "cleaning", "BERT's cuts", "classes", "lower case", "decompositions and marks"};

		CHECK(sums[i] == expected[i], "%s of every code point are as pinned", names[i]);
		if (sums[i] != expected[i])
			printf("# got 0x%08x\n", sums[i]);
	}

	/* e + acute; a + cedilla (202) + acute (230) whichever comes first; jamo; blocked by a mark of its class
	 */
	memcpy(composed, (uint32_t[]){'e', 0x301}, 8);
	CHECK(serm_unicode_compose(composed, 2) == 1 && composed[0] == 0xe9, "e and acute compose");
	(void) serm_unicode_decompose((uint32_t[]){'c', 0x301, 0x327}, 3, &arena, &parts, &count);
	CHECK(count == 3 && parts[1] == 0x327 && parts[2] == 0x301, "marks are put in order");
	CHECK(serm_unicode_compose(parts, count) == 1 && parts[0] == 0x1e09, "and compose one after the other");
	memcpy(composed, (uint32_t[]){0x1112, 0x1161, 0x11ab}, 12);
	CHECK(serm_unicode_compose(composed, 3) == 1 && composed[0] == 0xd55c, "jamo compose to a syllable");
	memcpy(composed, (uint32_t[]){'a', 0x305, 0x301}, 12);
	CHECK(serm_unicode_compose(composed, 3) == 3, "a mark behind one of its class is blocked");
	memcpy(composed, (uint32_t[]){0x11935, 0x11930}, 8);
	CHECK(serm_unicode_compose(composed, 2) == 2, "what a later Unicode composes stays apart");
}

/* --- models */

static void
test_wordpiece(void)
{
	const SermTokenizer *tokenizer = make(wordpiece_spec());
	SermTokenizerSpec plain = wordpiece_spec();
	char word[206];

	expect(tokenizer, "Blue pillows, blue", "3 17 6 7 3", "words, the longest piece first, and punctuation");
	expect(tokenizer, "  \t\n\xe3\x80\x80", "", "white space alone has no token");
	expect(tokenizer, "", "", "nor has nothing");
	expect(tokenizer,
	    "b\xcc\x81l\xc3\xba"
	    "e",
	    "3", "accents go, composed or not");
	expect(tokenizer,
	    "blue\xe4\xb8\xad"
	    "blue",
	    "3 8 3", "an ideograph stands alone");
	expect(tokenizer,
	    "bl\x01ue\xef\xbf\xbd bl\xc2\xad"
	    "ue",
	    "3 3", "controls, U+FFFD and soft hyphens go");
	expect(tokenizer, "\xc4\xb0", "16", "I with a dot becomes i and a mark that goes");
	expect(tokenizer, "bluex pill", "0 4", "a word with an unknown part is unknown as a whole");
	expect(tokenizer, "pill\xe2\x82\xac", "4 18", "pieces of several bytes match whole");
	memset(word, 'a', sizeof(word));
	word[100] = '\0';
	CHECK(strncmp(ids_of(tokenizer, TEXT(word), 3), "9 10 10", 7) == 0, "a word of 100 code points is cut");
	word[100] = 'a';
	word[101] = '\0';
	expect(tokenizer, word, "0", "one of 101 is unknown");
	expect(tokenizer, "blue \xff\xc3 blue", "3 3", "what is no UTF-8 counts as U+FFFD");
	CHECK(strcmp(ids_of(tokenizer, TEXT("blue blue bluex"), 2), "3 3") == 0, "no more ids than are wanted");
	CHECK(strcmp(ids_of(tokenizer, TEXT("pillowsx"), 1), "0") == 0, "a word is judged whole even then");

	plain.normalize = SERM_NORMALIZE_CLEAN;
	expect(make(plain), "Blue blue", "0 3", "capitals stay when asked to");
	expect(make(plain),
	    "bl\xc3\xbc"
	    "e a\xe4\xb8\xad",
	    "0 0", "and accents, and ideographs inside words");
}

static void
test_special(void)
{
	SermTokenizer *tokenizer = (SermTokenizer *) make(wordpiece_spec());

	expect(tokenizer, "[SEP]", "11 13 14 12", "a special token in a text is ordinary characters");
	expect(tokenizer, "blue[CLS][SEP] blue", "3 11 15 12 11 13 14 12 3", "also inside of it");
	tokenizer->text_yields_special = true;
	expect(tokenizer, "blue[SEP]", "3 2", "but for the tests that compare with the reference");

	tokenizer = (SermTokenizer *) make(unigram_spec());
	expect(tokenizer, "</s>", "3 0", "Unigram's pieces of special tokens are not used either");
	expect(tokenizer, "a<s>b<unk>", "4 0 5 0", "nor next to others");
	tokenizer->text_yields_special = true;
	expect(tokenizer, "</s>", "2", "but for the tests");

	tokenizer = (SermTokenizer *) make(bpe_spec());
	expect(tokenizer, "</s>", "63 50 118 65", "nor those of BPE");
	tokenizer->text_yields_special = true;
	expect(tokenizer, "a \t<m></s>a", "100 0 2 100", "lstrip takes the white space before it");
}

static void
test_bpe(void)
{
	const SermTokenizer *tokenizer = make(bpe_spec());

	expect(tokenizer, "the the", "119 262 261", "merges by rank; the space belongs to the word behind it");
	expect(tokenizer, "aaaaa", "263 263 100", "equal ranks merge from the left");
	expect(tokenizer, "he's 7\xc2\xbd!", "262 42 118 35 58 197 192 36",
	    "contractions, numbers and the rest are words");
	expect(tokenizer, "he\n\n he", "262 13 13 35 262", "a run of white space leaves its last character");
	expect(tokenizer, "he\n", "262 13", "but not at the end");
	expect(tokenizer, "a  a", "100 265 100", "an added token is found in the text");
	expect(
	    tokenizer, "a <x> \xe3\x80\x80 a", "100 264 100", "lstrip and rstrip take white space on both sides");
	expect(tokenizer, "e\xcc\x81", "198 172", "NFC composes first");
	expect(tokenizer, "a\xff", "100 242 194 192", "what is no UTF-8 counts as U+FFFD");
}

static void
test_unigram(void)
{
	const SermTokenizer *tokenizer = make(unigram_spec());

	expect(tokenizer, "ab ab", "4 5 4 5", "the best sum wins, not the longest piece");
	expect(tokenizer, "xyz b", "3 0 3 5", "neighbouring unknown characters are one token");
	expect(tokenizer, "xbx", "3 0 5 0", "but not around a known one");
	expect(tokenizer, "A", "3 9", "the character map comes first, the best cut behind it");
	expect(tokenizer,
	    "A\xcc\x81"
	    "b",
	    "3 9 5", "a small cluster is mapped by its first part, as in the reference");
	expect(tokenizer,
	    "a\xe2\x96\x81"
	    "ab",
	    "4 4 5", "a mark inside a word begins a word");
	expect(tokenizer, " \xe2\x96\x81 b ", "3 3 5", "and one alone stays");
}

/* --- pairs */

static void
test_pairs(void)
{
	static const struct {
		uint32_t first, second, room;
		SermTruncation truncation;
		int first_kept, second_kept; /* -1: refused */
	} cases[] = {
	    {3, 4, 10, SERM_TRUNCATE_LONGEST_FIRST, 3, 4},
	    {3, 4, 9, SERM_TRUNCATE_LONGEST_FIRST, 3, 3},
	    {2, 90, 13, SERM_TRUNCATE_LONGEST_FIRST, 2, 8},
	    {90, 2, 13, SERM_TRUNCATE_LONGEST_FIRST, 8, 2},
	    {50, 50, 12, SERM_TRUNCATE_LONGEST_FIRST, 4, 5},
	    {51, 50, 12, SERM_TRUNCATE_LONGEST_FIRST, 5, 4},
	    {50, 50, 3, SERM_TRUNCATE_LONGEST_FIRST, 0, 0},
	    {50, 50, 4, SERM_TRUNCATE_LONGEST_FIRST, 0, 1},
	    {50, 50, 2, SERM_TRUNCATE_LONGEST_FIRST, -1, -1},
	    {4, 50, 12, SERM_TRUNCATE_ONLY_SECOND, 4, 5},
	    {8, 50, 12, SERM_TRUNCATE_ONLY_SECOND, 8, 1},
	    {9, 50, 12, SERM_TRUNCATE_ONLY_SECOND, -1, -1},
	    {9, 0, 12, SERM_TRUNCATE_ONLY_SECOND, 9, 0},
	};
	const SermTokenizer *tokenizer = make(wordpiece_spec());
	uint32_t first[90], second[90];
	SermTokens tokens;
	SermError error;

	for (uint32_t i = 0; i < 90; i++) {
		first[i] = 3;
		second[i] = 4;
	}
	for (unsigned i = 0; i < SERM_LENGTH(cases); i++) {
		SermStatus status = serm_tokenizer_pair(tokenizer, first, cases[i].first, second, cases[i].second,
		    cases[i].room, cases[i].truncation, &arena, &tokens, &error);

		CHECK(cases[i].first_kept < 0
		          ? status == SERM_ERR_INVALID
		          : status == SERM_OK && tokens.first_count == (uint32_t) cases[i].first_kept &&
		                tokens.second_count == (uint32_t) cases[i].second_kept &&
		                tokens.count == tokens.first_count + tokens.second_count + 3,
		    "%u and %u tokens in %u, %s", cases[i].first, cases[i].second, cases[i].room,
		    cases[i].truncation == SERM_TRUNCATE_ONLY_SECOND ? "the second cut" : "the longer cut first");
	}
	CHECK(serm_tokenizer_pair(tokenizer, first, 2, second, 1, 10, SERM_TRUNCATE_LONGEST_FIRST, &arena,
	          &tokens, &error) == SERM_OK &&
	          memcmp(tokens.ids, (uint32_t[]){1, 3, 3, 2, 4, 2}, 24) == 0 &&
	          memcmp(tokens.types, (uint8_t[]){0, 0, 0, 0, 1, 1}, 6) == 0 && tokens.first_start == 1 &&
	          tokens.second_start == 4,
	    "special tokens and types stand where the template says");
	CHECK(serm_tokenizer_single(tokenizer, first, 90, 10, &arena, &tokens, &error) == SERM_OK &&
	          tokens.count == 10 && tokens.ids[0] == 1 && tokens.ids[9] == 2 && tokens.first_count == 8,
	    "a single text is cut at its end");
	CHECK(serm_tokenizer_single(tokenizer, first, 5, 1, &arena, &tokens, &error) == SERM_ERR_INVALID,
	    "and refused where special tokens have no room");
	CHECK(serm_tokenizer_wanted(3, 12) == 12 && serm_tokenizer_wanted(50, 12) == 51,
	    "how much of the second text decides");
}

/* --- specs and tables that are wrong */

static void
refused(SermTokenizerSpec spec, SermStatus status, const char *fragment)
{
	const unsigned char *bytes;
	SermError error = {0};
	size_t length;

	CHECK(serm_tokenizer_write(&spec, &arena, &bytes, &length, &error) == status &&
	          strstr(error.message, fragment) != NULL,
	    "refused: %s", fragment);
	if (strstr(error.message, fragment) == NULL)
		printf("# %s\n", error.message);
}

static void
test_specs(void)
{
	SermTokenizerSpec spec = wordpiece_spec();
	static SermText pieces[300];
	static SermAddedToken added[4];
	static double scores[10];
	static SermMerge merge = {{"q", 1}, {"q", 1}};
	static const SermText invalid[] = {{"[UNK]", 5}, {"\xc3", 1}, {"b", 1}};

	spec.piece_count = 0;
	refused(spec, SERM_ERR_LIMIT, "a vocabulary of 0 tokens");
	spec = wordpiece_spec();
	spec.unk_id = 99;
	refused(spec, SERM_ERR_INVALID, "the unknown or the padding token");
	spec = wordpiece_spec();
	spec.pad_id = 99;
	refused(spec, SERM_ERR_INVALID, "the unknown or the padding token");
	spec = wordpiece_spec();
	spec.pair.items[1].kind = SERM_TEMPLATE_SECOND;
	refused(spec, SERM_ERR_INVALID, "the template");
	spec = wordpiece_spec();
	spec.single.items[0].id = 99;
	refused(spec, SERM_ERR_INVALID, "the template");
	spec = wordpiece_spec();
	spec.pair.count = SERM_TEMPLATE_MAX + 1;
	refused(spec, SERM_ERR_INVALID, "the template");
	spec = framed(SERM_TOKENIZER_WORDPIECE, invalid, 3, NULL, 0);
	refused(spec, SERM_ERR_INVALID, "token 1 is longer");
	spec = wordpiece_spec();
	memcpy(added, spec.added, 3 * sizeof(added[0]));
	added[2].id = 99;
	spec.added = added;
	refused(spec, SERM_ERR_INVALID, "added token 2 has no id");
	spec = bpe_spec();
	memcpy(pieces, spec.pieces, spec.piece_count * sizeof(SermText));
	pieces[3 + 'x'] = (SermText){"", 0};
	spec.pieces = pieces;
	refused(spec, SERM_ERR_INVALID, "no token for byte 120");
	spec = bpe_spec();
	spec.merges = &merge;
	spec.merge_count = 1;
	refused(spec, SERM_ERR_INVALID, "merge 0 names a token");
	spec = unigram_spec();
	memcpy(scores, spec.scores, sizeof(scores));
	scores[5] = NAN;
	spec.scores = scores;
	refused(spec, SERM_ERR_INVALID, "the score of token 5");
	spec = unigram_spec();
	spec.charsmap.length = 3;
	refused(spec, SERM_ERR_INVALID, "the character map is cut off");
	spec = unigram_spec();
	spec.charsmap.length = 100;
	refused(spec, SERM_ERR_INVALID, "the character map is cut off");
	spec = unigram_spec();
	spec.charsmap.length--;
	refused(spec, SERM_ERR_INVALID, "the character map is damaged");
}

/* Every word of the tables set to extremes: either refused, or encoding stays inside (ASan watches). */
static void
test_damage(void)
{
	SermTokenizerSpec specs[] = {wordpiece_spec(), bpe_spec(), unigram_spec()};
	static const uint32_t values[] = {0, 1, 0x7fffffff, 0xffffffff};
	unsigned refusals = 0, opened = 0;

	for (unsigned kind = 0; kind < SERM_LENGTH(specs); kind++) {
		SermArena own = unit_arena();
		const unsigned char *good;
		unsigned char *bytes;
		SermError error;
		size_t length;

		(void) serm_tokenizer_write(&specs[kind], &own, &good, &length, &error);
		bytes = serm_arena_array(&own, length, 1);
		for (size_t at = 0; at + 4 <= length; at += 4)
			for (unsigned i = 0; i < SERM_LENGTH(values); i++) {
				SermArenaMark mark = serm_arena_mark(&own);
				const SermTokenizer *tokenizer;
				const uint32_t *ids;
				uint32_t count;

				memcpy(bytes, good, length);
				memcpy(bytes + at, &values[i], 4);
				if (serm_tokenizer_open(bytes, length, &own, &tokenizer, &error) != SERM_OK)
					refusals++;
				else if (serm_tokenizer_encode(tokenizer, TEXT("Blue pillows the ab A  <x> \xe4\xb8\xad"), 50,
				             NULL, &own, &ids, &count, &error) == SERM_OK)
					opened++;
				serm_arena_rewind(&own, mark);
			}
		CHECK(serm_tokenizer_open(bytes, length - 1, &own, &(const SermTokenizer *){NULL}, &error) ==
		              SERM_ERR_CORRUPT &&
		          serm_tokenizer_open(bytes, 8, &own, &(const SermTokenizer *){NULL}, &error) ==
		              SERM_ERR_CORRUPT,
		    "cut off tables are refused");
		serm_arena_free(&own);
	}
	CHECK(
	    refusals > 500 && opened > 500, "damaged tables are refused or harmless (%u, %u)", refusals, opened);
}

/* Long words, runs of marks and of spaces: linear, so a megabyte takes well under a second. */
static void
test_long(void)
{
	const SermTokenizer *tokenizers[] = {make(wordpiece_spec()), make(bpe_spec()), make(unigram_spec())};
	static const char *units[] = {"a", " ", "\xcc\x81\xcc\xa7", "A", "x", "\xe4\xb8\xad", "</s>", "\xff"};
	const size_t length = 1 << 18;
	char *text = malloc(length);

	for (unsigned i = 0; i < SERM_LENGTH(units); i++) {
		bool good = true;

		for (size_t at = 0; at < length; at++)
			text[at] = units[i][at % strlen(units[i])];
		for (unsigned j = 0; j < 3; j++) {
			SermArena own = unit_arena();
			const uint32_t *ids;
			uint32_t count;
			SermError error;

			good = good && serm_tokenizer_encode(tokenizers[j], (SermText){text, length}, UINT32_MAX, NULL,
			                   &own, &ids, &count, &error) == SERM_OK;
			serm_arena_free(&own);
		}
		CHECK(good, "a quarter of a megabyte of one unit (%u)", i);
	}
	free(text);
}

static void
test_pieces(void)
{
	const SermTokenizer *tokenizer = make(wordpiece_spec());
	SermText piece = serm_tokenizer_piece(tokenizer, 17);

	CHECK(piece.length == 6 && memcmp(piece.bytes, "pillow", 6) == 0, "ids have their spelling");
	CHECK(serm_tokenizer_piece(tokenizer, 99).length == 0, "others have none");
	CHECK(serm_tokenizer_special(tokenizer, 2) && !serm_tokenizer_special(tokenizer, 3) &&
	          !serm_tokenizer_special(tokenizer, 99),
	    "special ids are known");
	CHECK(serm_tokenizer_overhead(tokenizer, true) == 3 && serm_tokenizer_overhead(tokenizer, false) == 2 &&
	          serm_tokenizer_types(tokenizer) == 2,
	    "so is their number");
	CHECK(serm_tokenizer_kind(tokenizer) == SERM_TOKENIZER_WORDPIECE &&
	          serm_tokenizer_vocab(tokenizer) == 19 && serm_tokenizer_tokens_max(tokenizer) == 0 &&
	          serm_tokenizer_pad(tokenizer) == SERM_TOKEN_NONE,
	    "and the rest");
}

int
main(void)
{
	arena = unit_arena();
	test_unicode();
	test_wordpiece();
	test_special();
	test_bpe();
	test_unigram();
	test_pairs();
	test_pieces();
	test_specs();
	test_damage();
	test_long();
	serm_arena_free(&arena);
	DONE();
}
