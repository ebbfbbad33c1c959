#include "core/base/rng.h"
#include "core/model/features.h"
#include "core/text/document.h"
#include "unit.h"

static SermText
text_of(const char *string)
{
	return (SermText){string, strlen(string)};
}

static SermDocument
parse(SermText text, SermArena *arena)
{
	SermDocument doc = {{0}, {0}};
	SermError error;

	if (serm_document_parse(text, arena, &doc, &error) != SERM_OK)
		abort();
	return doc;
}

/* The words of a field as serm_text_words() makes them, against what the document has. */
static size_t
field_differs(SermText text, uint32_t words_max, const SermDocumentField *field, SermArena *arena)
{
	const unsigned char *bytes = field->text;
	SermWords words;
	SermError error;
	size_t bad = 0;

	if (serm_text_words(text, words_max, arena, &words, &error) != SERM_OK || words.count != field->count)
		return 1;
	for (uint32_t i = 0; i < words.count; i++) {
		uint32_t spelling[SERM_DOCUMENT_WORD_MAX], length;

		if (i >= field->spelled) {
			bad += serm_document_id(field, i - field->spelled) != words.words[i].id;
			continue;
		}
		length = serm_document_spell(bytes, field->lengths[i] + 1u, spelling);
		bad += length != words.words[i].length ||
		       memcmp(spelling, words.code_points + words.words[i].start, length * sizeof(uint32_t)) != 0 ||
		       serm_document_is_number(field, i) != words.words[i].number;
		bytes += field->lengths[i] + 1u;
	}
	return bad + (bytes != field->text + field->text_length);
}

static size_t
differs(SermText text, const SermDocument *doc, SermArena *arena)
{
	SermText title, body;

	serm_text_split_document(text, &title, &body);
	return field_differs(title, SERM_TITLE_WORDS_MAX, &doc->title, arena) +
	       field_differs(body, SERM_BODY_WORDS_MAX, &doc->body, arena);
}

/* Write, read, print and scan: the same bytes each time. */
static size_t
loses(const SermDocument *doc, SermArena *arena)
{
	size_t size = serm_document_size(doc);
	unsigned char *bytes = serm_arena_alloc(arena, size), *again = serm_arena_alloc(arena, size);
	SermDocument other;
	SermError error;

	serm_document_write(doc, bytes);
	if (serm_document_read(bytes, size, arena, &other, &error) != SERM_OK ||
	    serm_document_check(&other, &error) != SERM_OK || serm_document_size(&other) != size)
		return 1;
	serm_document_write(&other, again);
	if (memcmp(bytes, again, size) != 0)
		return 1;
	for (int escape = 0; escape < 2; escape++) {
		char *text = serm_document_print(doc, escape, arena);

		if (serm_document_scan(text_of(text), arena, &other, &error) != SERM_OK ||
		    serm_document_size(&other) != size)
			return 1;
		for (const char *c = text; escape && *c != '\0'; c++)
			if ((unsigned char) *c >= 0x80)
				return 1;
		serm_document_write(&other, again);
		if (memcmp(bytes, again, size) != 0)
			return 1;
	}
	return 0;
}

static void
test_form(SermArena *arena)
{
	static const unsigned char expected[] = {1, 2, 1, 0, 10, 0, 3, 0, 10, 0, 3, 0, 3, 5, 0, 2, 1, 'b', 'l',
	    'u', 'e', 'p', 'i', 'l', 'l', 'o', 'w', '3', '.', '5'};
	SermDocument doc = parse(text_of("Blue pillow\n3.5"), arena);
	unsigned char bytes[64];

	CHECK(serm_document_size(&doc) == sizeof(expected), "size of the stored form");
	serm_document_write(&doc, bytes);
	/* <bl blu lue ue> and <pi pil ill llo low ow>; <3. 3.5 .5> */
	CHECK(memcmp(bytes, expected, sizeof(expected)) == 0, "the stored form, byte by byte");
	CHECK(strcmp(serm_document_print(&doc, true, arena), "1 blue pillow | =3.5") == 0, "the readable form");
}

/* Texts made of pieces that are hard to read, alone and after each other. */
static SermText
random_text(SermRng *rng, char *text, uint32_t pieces_max)
{
	static const char *const pieces[] = {"a", "Blue", "PILLOW", "internationalisation", "3.5", "1,000", "7",
	    ".", ",", "'", "\xe2\x80\x99", " ", "  ", "\n", "\t", "-", "\xc3\xa9", "e\xcc\x81", "\xcc\x81",
	    "\xef\xac\x81", "\xe6\x9d\xb1\xe4\xba\xac", "\xe3\x82\xab\xe3\x82\x99", "\xd8\xa7\xd9\x8e",
	    "\xe0\xb8\x81", "\xce\xa3", "\xf0\x9f\x98\x80", "\xff", "\xc3", "\xd9\xa3", "\xef\xbc\xa1",
	    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxy", "x", "of the"};
	uint32_t count = serm_rng_below(rng, pieces_max);
	size_t length = 0;

	for (uint32_t i = 0; i < count; i++) {
		const char *piece = pieces[serm_rng_below(rng, SERM_LENGTH(pieces))];

		memcpy(text + length, piece, strlen(piece));
		length += strlen(piece);
		if (serm_rng_below(rng, 3) == 0)
			text[length++] = ' ';
	}
	return (SermText){text, length};
}

static void
test_texts(SermArena *arena)
{
	static char text[40000];
	size_t different = 0, lost = 0, longest = 0;
	SermRng rng;

	serm_rng_seed(&rng, 41);
	for (int round = 0; round < 4000; round++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermText doc = random_text(&rng, text, round % 40 == 0 ? 700 : 60);
		SermDocument parsed = parse(doc, arena);

		different += differs(doc, &parsed, arena) > 0;
		lost += loses(&parsed, arena);
		longest = serm_document_size(&parsed) > longest ? serm_document_size(&parsed) : longest;
		serm_arena_rewind(arena, mark);
	}
	CHECK(different == 0, "a document has the words of its text");
	CHECK(lost == 0 && longest > 1500, "writing, reading, printing and scanning lose nothing");
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 7 == 0 ? ' ' : 'q';
	different = 0;
	for (size_t length = 0; length < sizeof(text); length += 1 + length / 8) {
		SermDocument parsed = parse((SermText){text, length}, arena);

		different += differs((SermText){text, length}, &parsed, arena) + loses(&parsed, arena);
	}
	CHECK(different == 0, "at any length");
}

/* The features of a pair from text, and from the stored form of the document. */
static void
test_features(SermArena *arena)
{
	static const SermStatistics statistics = {
	    .document_count = 100, .title_length = 5, .body_length = 20, .joined_length = 25};
	static char text[40000], question[2000];
	SermEmbedding embedding = {serm_arena_alloc(arena, (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH),
	    serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float)), serm_word_cache_create(arena)};
	size_t different = 0;
	SermRng rng;

	serm_rng_seed(&rng, 43);
	for (size_t i = 0; i < (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH; i++)
		((int8_t *) embedding.rows)[i] = (int8_t) ((int) serm_rng_below(&rng, 255) - 127);
	for (size_t i = 0; i < SERM_EMBEDDING_ROWS; i++)
		((float *) embedding.scale)[i] = 0.01f;
	for (int round = 0; round < 1000; round++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermText query = random_text(&rng, question, 30);
		SermParsedQuery *parsed;
		SermError error;

		if (serm_features_parse_query(&statistics, &embedding, query, arena, &parsed, &error) != SERM_OK)
			abort();
		for (int row = 0; row < 8; row++) {
			SermText doc = random_text(&rng, text, round % 20 == 0 ? 400 : 40);
			SermDocument whole = parse(doc, arena), stored;
			size_t size = serm_document_size(&whole);
			unsigned char *bytes = serm_arena_alloc(arena, size);
			SermFeatures raw, read;

			serm_document_write(&whole, bytes);
			if (serm_document_read(bytes, size, arena, &stored, &error) != SERM_OK ||
			    serm_features_compute(&statistics, &embedding, parsed, doc, arena, &raw, &error) != SERM_OK)
				abort();
			serm_features_of_document(&statistics, &embedding, parsed, &stored, &read);
			different += memcmp(&raw, &read, sizeof(raw)) != 0;
		}
		serm_arena_rewind(arena, mark);
	}
	CHECK(different == 0, "features of a stored document are those of its text, bit for bit");
}

/* A stored document that was damaged may have a word with a NUL in it; what is kept of it must not be taken
 * for another word. */
static void
test_damaged_word(SermArena *arena)
{
	static const SermStatistics statistics = {
	    .document_count = 100, .title_length = 5, .body_length = 20, .joined_length = 25};
	static const unsigned char bytes[] = {
	    SERM_DOCUMENT_FORMAT, 0, 1, 0, 0, 0, 3, 0, 0, 0, 3, 0, 2, 0, 'a', 'b', '\0'};
	SermEmbedding embedding = {serm_arena_alloc(arena, (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH),
	    serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float)), NULL};
	SermFeatures alone, after;
	SermParsedQuery *parsed;
	SermDocument damaged;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 59);
	for (size_t i = 0; i < (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH; i++)
		((int8_t *) embedding.rows)[i] = (int8_t) ((int) serm_rng_below(&rng, 255) - 127);
	for (size_t i = 0; i < SERM_EMBEDDING_ROWS; i++)
		((float *) embedding.scale)[i] = 0.01f;
	for (int pass = 0; pass < 2; pass++) {
		SermText query = {"ab lamp", 7}, doc = {"\nab", 3};

		if (serm_features_parse_query(&statistics, &embedding, query, arena, &parsed, &error) != SERM_OK ||
		    serm_document_read(bytes, sizeof(bytes), arena, &damaged, &error) != SERM_OK)
			abort();
		if (pass > 0)
			serm_features_of_document(&statistics, &embedding, parsed, &damaged, &after);
		if (serm_features_compute(
		        &statistics, &embedding, parsed, doc, arena, pass > 0 ? &after : &alone, &error) != SERM_OK)
			abort();
		embedding.cache = serm_word_cache_create(arena);
	}
	CHECK(alone.value[20] > 0 && memcmp(&alone, &after, sizeof(alone)) == 0,
	    "a damaged word in the cache is no other word");
}

/* Features by each level that the processor has, without and with a cache of its own. */
static void
test_levels(SermArena *arena)
{
	static const SermStatistics statistics = {
	    .document_count = 100, .title_length = 5, .body_length = 20, .joined_length = 25};
	static char text[40000], question[4000];
	SermEmbedding embedding = {serm_arena_alloc(arena, (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH),
	    serm_arena_array(arena, SERM_EMBEDDING_ROWS, sizeof(float)), NULL};
	SermWordCache *caches[SERM_VECTOR_AVX512 + 1];
	size_t different = 0, close = 0;
	SermRng rng;

	serm_rng_seed(&rng, 53);
	for (size_t i = 0; i < (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH; i++)
		((int8_t *) embedding.rows)[i] = (int8_t) ((int) serm_rng_below(&rng, 255) - 127);
	for (size_t i = 0; i < SERM_EMBEDDING_ROWS; i++)
		((float *) embedding.scale)[i] = 0.01f;
	for (int level = 0; level <= SERM_VECTOR_AVX512; level++)
		caches[level] = serm_word_cache_create(arena);
	for (int round = 0; round < 600; round++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermText query = random_text(&rng, question, round % 3 == 0 ? 90 : 12);
		SermText doc = random_text(&rng, text, round % 7 == 0 ? 300 : 40);
		SermFeatures plain, other;
		SermError error;

		for (int level = 0; level <= 2 * SERM_VECTOR_AVX512 + 1; level++) {
			SermFeatures *features = level == 0 ? &plain : &other;
			SermParsedQuery *parsed;

			embedding.cache = level % 2 == 1 ? caches[level / 2] : NULL;
			if (serm_features_parse_query(&statistics, &embedding, query, arena, &parsed, &error) != SERM_OK)
				abort();
			serm_features_limit(parsed, (SermVectorLevel) (level / 2));
			if (serm_features_compute(&statistics, &embedding, parsed, doc, arena, features, &error) !=
			    SERM_OK)
				abort();
			different += memcmp(&plain, features, sizeof(plain)) != 0;
		}
		close += plain.value[SERM_LEXICAL_FEATURES] > 0 && plain.value[SERM_LEXICAL_FEATURES + 6] > 0;
		serm_arena_rewind(arena, mark);
	}
	CHECK(different == 0 && close > 100, "levels up to %d have the same bits, with and without a cache",
	    (int) serm_vector_level());
}

/* Whatever the bytes, reading stays inside them, and what is accepted can be used and written again. */
static void
test_hostile(SermArena *arena)
{
	static const SermStatistics statistics = {
	    .document_count = 10, .title_length = 5, .body_length = 5, .joined_length = 9};
	static const SermEmbedding none;
	static char text[40000];
	size_t opened = 0, refused = 0, bad = 0;
	SermParsedQuery *query;
	SermError error;
	SermRng rng;

	serm_rng_seed(&rng, 47);
	if (serm_features_parse_query(&statistics, &none, text_of("blue pillow 3.5"), arena, &query, &error) !=
	    SERM_OK)
		abort();
	for (int round = 0; round < 30000; round++) {
		SermArenaMark mark = serm_arena_mark(arena);
		SermText source = random_text(&rng, text, 40);
		SermDocument doc = parse(source, arena);
		size_t size = serm_document_size(&doc), length = size;
		unsigned char *bytes = malloc(size), *shorter;

		serm_document_write(&doc, bytes);
		for (uint32_t change = serm_rng_below(&rng, 4); change > 0; change--)
			bytes[serm_rng_below(&rng, (uint32_t) (round % 2 == 0 && size > 14 ? 14 : size))] =
			    (unsigned char) serm_rng_below(&rng, 256);
		if (round % 5 == 0)
			length = serm_rng_below(&rng, (uint32_t) size + 1);
		/* Of the exact size, so that the sanitizer sees a byte too far. */
		shorter = malloc(length + (length == 0));
		memcpy(shorter, bytes, length);
		if (serm_document_read(shorter, length, arena, &doc, &error) == SERM_OK) {
			SermFeatures features;

			serm_features_of_document(&statistics, &none, query, &doc, &features);
			for (int i = 0; i < SERM_FEATURES; i++)
				bad += !isfinite(features.value[i]);
			bad += serm_document_check(&doc, &error) == SERM_OK && loses(&doc, arena) > 0;
			opened++;
		} else
			refused++;
		free(shorter);
		free(bytes);
		serm_arena_rewind(arena, mark);
	}
	CHECK(opened > 5000 && refused > 5000, "of 30,000 damaged documents %zu open", opened);
	CHECK(bad == 0, "and these can be scored");
	bad = 0;
	for (int round = 0; round < 30000; round++) {
		static const char *const tokens[] = {"1", "2", "|", "a", "blue", "=3.5", "=", "#0a1b2c3d", "#0",
		    "\\u{e9}", "\\u{", "\\u{110000}x", "\xc3\xa9", "\xff", " ", "\n", "A", "-"};
		SermArenaMark mark = serm_arena_mark(arena);
		char given[400] = "1";
		SermDocument doc;

		for (uint32_t i = serm_rng_below(&rng, 12); i > 0; i--) {
			strcat(given, " ");
			strcat(given, tokens[serm_rng_below(&rng, round % 2 == 0 ? 6 : SERM_LENGTH(tokens))]);
		}
		if (serm_document_scan(text_of(given), arena, &doc, &error) == SERM_OK) {
			bad += loses(&doc, arena);
			opened++;
		}
		serm_arena_rewind(arena, mark);
	}
	CHECK(bad == 0 && opened > 100, "a readable form that is accepted is kept");
}

/* Bytes that are no UTF-8 take most room when they are escaped: a replacement character each. */
static void
test_damaged_print(SermArena *arena)
{
	enum { WORDS = 48, LENGTH = 256, BITS = 6, HEAD = 12, SIZE = HEAD + WORDS + BITS + WORDS * LENGTH };
	unsigned char *bytes = calloc(1, SIZE);
	SermArena own;
	SermDocument doc;
	SermError error;
	char *text;

	bytes[0] = SERM_DOCUMENT_FORMAT;
	bytes[2] = WORDS;
	bytes[10] = WORDS * LENGTH % 256;
	bytes[11] = WORDS * LENGTH / 256;
	memset(bytes + HEAD, LENGTH - 1, WORDS);
	memset(bytes + HEAD + WORDS + BITS, 0xff, WORDS * LENGTH);
	CHECK(serm_document_read(bytes, SIZE, arena, &doc, &error) == SERM_OK, "damage within words opens");
	/* Its only block is what printing asks for, so that the sanitizer sees a byte too far. */
	serm_arena_init(&own, serm_heap_allocator(), (size_t) 1 << 20);
	text = serm_document_print(&doc, true, &own);
	CHECK(text != NULL && strlen(text) == 3 + WORDS * (1 + LENGTH * strlen("\\u{fffd}")),
	    "and is printed within its room");
	serm_arena_free(&own);
	free(bytes);
}

static void
test_memory(SermArena *arena)
{
	SermArena small;
	SermDocument doc;
	SermError error;
	char *text;

	serm_arena_init(&small, serm_heap_allocator(), 16);
	CHECK(serm_document_parse(text_of("blue"), &small, &doc, &error) == SERM_ERR_MEMORY &&
	          serm_document_scan(text_of("1 |"), &small, &doc, &error) == SERM_ERR_MEMORY,
	    "a full arena is an error");
	doc = parse(text_of("blue"), arena);
	CHECK(serm_document_print(&doc, false, &small) == NULL, "when printing too");
	text = serm_document_print(&doc, false, arena);
	CHECK(strcmp(text, "1 blue |") == 0, "not with memory");
	serm_arena_free(&small);
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_form(&arena);
	test_texts(&arena);
	test_features(&arena);
	test_damaged_word(&arena);
	test_levels(&arena);
	test_hostile(&arena);
	test_damaged_print(&arena);
	test_memory(&arena);
	serm_arena_free(&arena);
	DONE();
}
