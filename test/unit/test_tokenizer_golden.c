/*
 * The tokenizers against the ids of the reference, and the Unicode tables
 * against what the reference does to every code point. The vocabularies are
 * not part of this project: the directory that holds `tokenizers` is SERM_DATA
 * or ../shared/data, and without it this test is skipped.
 */
#include "core/base/utf8.h"
#include "core/model/tokenizer_read.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"
#include "unit.h"

static const char *root;

/* An unpacked file, or {NULL, 0}. */
static SermText
read_gz(SermArena *arena, const char *folder, const char *name)
{
	char path[600], command[700];
	SermText text = {NULL, 0};
	size_t capacity = 0;
	char *bytes = NULL;
	FILE *file;

	snprintf(path, sizeof(path), "%s/tokenizers/%s%s%s.gz", root, folder, folder[0] != '\0' ? "/" : "", name);
	file = fopen(path, "rb");
	if (file == NULL)
		return text;
	fclose(file);
	snprintf(command, sizeof(command), "gzip -dc '%s'", path);
	file = popen(command, "r");
	if (file == NULL)
		return text;
	for (;;) {
		size_t got;

		if (text.length == capacity) {
			char *grown = serm_arena_array(arena, capacity == 0 ? 1 << 20 : 2 * capacity, 1);

			if (bytes != NULL)
				memcpy(grown, bytes, capacity);
			bytes = grown;
			capacity = capacity == 0 ? 1 << 20 : 2 * capacity;
		}
		got = fread(bytes + text.length, 1, capacity - text.length, file);
		if (got == 0)
			break;
		text.length += got;
	}
	pclose(file);
	text.bytes = bytes;
	return text;
}

static bool
next_line(SermText *rest, SermText *line)
{
	const char *end;

	if (rest->length == 0)
		return false;
	end = memchr(rest->bytes, '\n', rest->length);
	*line = (SermText){rest->bytes, end != NULL ? (size_t) (end - rest->bytes) : rest->length};
	rest->bytes += line->length + (end != NULL);
	rest->length -= line->length + (end != NULL);
	return true;
}

/* --- one case */

static bool
equals(const SermJson *json, uint32_t array, const uint32_t *ids, const uint8_t *types, uint32_t count)
{
	uint32_t i = 0;

	if (array == SERM_JSON_ABSENT || json->nodes[array].count != count)
		return false;
	for (uint32_t node = serm_json_first(json, array); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, array, node), i++) {
		uint64_t expected;

		if (!serm_json_integer(json, node, &expected) || expected != (ids != NULL ? ids[i] : types[i]))
			return false;
	}
	return true;
}

/* Is a special token spelled out in `text`? Only then may the reference give one for it. */
static bool
spells_special(const SermTokenizer *tokenizer, SermText text)
{
	for (uint32_t i = 0; i < tokenizer->added_count; i++) {
		SermText piece = serm_tokenizer_piece(tokenizer, tokenizer->added[i].id);

		if ((tokenizer->added[i].flags & SERM_ADDED_SPECIAL) == 0)
			continue;
		for (size_t at = 0; at + piece.length <= text.length; at++)
			if (text.bytes[at] == piece.bytes[0] && memcmp(text.bytes + at, piece.bytes, piece.length) == 0)
				return true;
	}
	return false;
}

/* Does `text` as it is yield a special token? */
static bool
yields_special(SermTokenizer *tokenizer, SermText text, SermArena *arena)
{
	const uint32_t *ids;
	uint32_t count;
	SermError error;

	tokenizer->text_yields_special = false;
	if (serm_tokenizer_encode(tokenizer, text, SERM_TOKENS_MAX, NULL, arena, &ids, &count, &error) != SERM_OK)
		return true;
	for (uint32_t i = 0; i < count; i++)
		if (serm_tokenizer_special(tokenizer, ids[i]) && ids[i] != tokenizer->unk)
			return true;
	return false;
}

static bool
check_text(SermTokenizer *tokenizer, const SermJson *json, SermArena *arena)
{
	SermText text = serm_json_string(json, serm_json_value(json, 0, "text"), arena);
	const uint32_t *ids;
	SermTokens tokens;
	uint32_t count;
	SermError error;

	tokenizer->text_yields_special = spells_special(tokenizer, text);
	if (serm_tokenizer_encode(tokenizer, text, SERM_TOKENS_MAX, NULL, arena, &ids, &count, &error) !=
	        SERM_OK ||
	    serm_tokenizer_single(tokenizer, ids, count, SERM_TOKENS_MAX, arena, &tokens, &error) != SERM_OK ||
	    !equals(json, serm_json_value(json, 0, "ids"), tokens.ids, NULL, tokens.count))
		return false;
	return !yields_special(tokenizer, text, arena);
}

static bool
check_pair(SermTokenizer *tokenizer, const SermJson *json, SermArena *arena)
{
	SermText texts[2] = {serm_json_string(json, serm_json_value(json, 0, "query"), arena),
	    serm_json_string(json, serm_json_value(json, 0, "doc"), arena)};
	bool only_second = serm_json_equals(json, serm_json_value(json, 0, "strategy"), "only_second");
	const uint32_t *ids[2];
	uint32_t counts[2];
	uint64_t tokens_max;
	SermTokens tokens;
	SermStatus status;
	SermError error;

	tokenizer->text_yields_special =
	    spells_special(tokenizer, texts[0]) || spells_special(tokenizer, texts[1]);
	(void) serm_json_integer(json, serm_json_value(json, 0, "max_length"), &tokens_max);
	for (int i = 0; i < 2; i++)
		if (serm_tokenizer_encode(tokenizer, texts[i],
		        i == 0 ? SERM_TOKENS_MAX : serm_tokenizer_wanted(counts[0], (uint32_t) tokens_max), NULL,
		        arena, &ids[i], &counts[i], &error) != SERM_OK)
			return false;
	status = serm_tokenizer_pair(tokenizer, ids[0], counts[0], ids[1], counts[1], (uint32_t) tokens_max,
	    only_second ? SERM_TRUNCATE_ONLY_SECOND : SERM_TRUNCATE_LONGEST_FIRST, arena, &tokens, &error);
	if (serm_json_value(json, 0, "error") != SERM_JSON_ABSENT)
		return status == SERM_ERR_INVALID;
	if (status != SERM_OK)
		return false;
	return (equals(json, serm_json_value(json, 0, "ids"), tokens.ids, NULL, tokens.count) &&
	           equals(json, serm_json_value(json, 0, "type_ids"), NULL, tokens.types, tokens.count)) ||
	       (equals(json, serm_json_value(json, 0, "ids_0_23"), tokens.ids, NULL, tokens.count) &&
	           equals(json, serm_json_value(json, 0, "type_ids_0_23"), NULL, tokens.types, tokens.count));
}

static void
set_step(uint32_t *steps, SermNormalize step, bool on)
{
	*steps = on ? *steps | step : *steps & ~(uint32_t) step;
}

/* The settings of a case of golden_options; what is absent keeps the default of the library. */
static uint32_t
option_steps(const SermJson *json)
{
	static const struct {
		const char *name;
		SermNormalize step;
	} flags[] = {{"clean_text", SERM_NORMALIZE_CLEAN}, {"handle_chinese_chars", SERM_NORMALIZE_CHINESE},
	    {"lowercase", SERM_NORMALIZE_LOWERCASE}};
	uint32_t config = serm_json_value(json, 0, "config"), steps = 0, node;

	for (unsigned i = 0; i < SERM_LENGTH(flags); i++) {
		node = serm_json_value(json, config, flags[i].name);
		set_step(
		    &steps, flags[i].step, node == SERM_JSON_ABSENT || serm_json_type(json, node) == SERM_JSON_TRUE);
	}
	node = serm_json_value(json, config, "strip_accents");
	set_step(&steps, SERM_NORMALIZE_STRIP_ACCENTS,
	    node == SERM_JSON_ABSENT ? (steps & SERM_NORMALIZE_LOWERCASE) != 0
	                             : serm_json_type(json, node) == SERM_JSON_TRUE);
	return steps;
}

static void
check_golden(SermTokenizer *tokenizer, SermText file, bool options, uint32_t *cases, uint32_t *wrong)
{
	SermArena arena = unit_arena();
	SermText line;

	(void) serm_arena_alloc(&arena, 1);
	while (next_line(&file, &line)) {
		SermArenaMark mark = serm_arena_mark(&arena);
		const uint32_t steps = tokenizer->normalizer.steps;
		SermError error = {0};
		SermJson json;
		bool good = serm_json_parse(line, NULL, &arena, &json, &error) == SERM_OK;

		if (good && options)
			tokenizer->normalizer.steps = option_steps(&json);
		good = good && (serm_json_value(&json, 0, "query") != SERM_JSON_ABSENT
		                       ? check_pair(tokenizer, &json, &arena)
		                       : check_text(tokenizer, &json, &arena));
		tokenizer->normalizer.steps = steps;
		(*cases)++;
		if (!good && (*wrong)++ < 10)
			printf("# %.*s\n", (int) (line.length < 300 ? line.length : 300), line.bytes);
		serm_arena_rewind(&arena, mark);
	}
	serm_arena_free(&arena);
}

/* --- one vocabulary, in each form of its files */

static void
check_files(const char *name, const char *form, const SermTokenizerFiles *files)
{
	SermArena arena = unit_arena();
	SermError error = {0};
	SermTokenizerSpec spec;
	const SermTokenizer *opened = NULL;
	const unsigned char *bytes;
	size_t length;
	uint32_t cases = 0, wrong = 0;
	bool good = serm_tokenizer_read(files, &arena, &spec, &error) == SERM_OK &&
	            serm_tokenizer_write(&spec, &arena, &bytes, &length, &error) == SERM_OK &&
	            serm_tokenizer_open(bytes, length, &arena, &opened, &error) == SERM_OK;

	CHECK(good, "%s opens from %s", name, form);
	if (!good)
		printf("# %s\n", error.message);
	else {
		check_golden((SermTokenizer *) opened, read_gz(&arena, name, "golden.jsonl"), false, &cases, &wrong);
		CHECK(cases >= 374 + 59 * 6 && wrong == 0, "%s from %s: all %u cases have the reference's ids", name,
		    form, cases);
		if (wrong > 0)
			printf("# %u of %u differ\n", wrong, cases);
		cases = wrong = 0;
		check_golden(
		    (SermTokenizer *) opened, read_gz(&arena, name, "golden_options.jsonl"), true, &cases, &wrong);
		if (cases > 0)
			CHECK(wrong == 0, "%s from %s: all %u cases with other settings", name, form, cases);
	}
	serm_arena_free(&arena);
}

static void
check_vocabulary(const char *name)
{
	SermArena arena = unit_arena();
	SermTokenizerFiles all = {.tokenizer = read_gz(&arena, name, "tokenizer.json"),
	    .tokenizer_config = read_gz(&arena, name, "tokenizer_config.json"),
	    .vocab_txt = read_gz(&arena, name, "vocab.txt"),
	    .vocab_json = read_gz(&arena, name, "vocab.json"),
	    .merges = read_gz(&arena, name, "merges.txt")};
	SermTokenizerFiles older = all;

	older.tokenizer = (SermText){NULL, 0};
	if (all.tokenizer.bytes != NULL)
		check_files(name, "tokenizer.json", &all);
	if (older.vocab_txt.bytes != NULL || older.vocab_json.bytes != NULL)
		check_files(name, older.vocab_txt.bytes != NULL ? "vocab.txt" : "vocab.json and merges.txt", &older);
	serm_arena_free(&arena);
}

/* --- the tables */

static const char *tables[] = {
    "clean_text", "chinese", "strip_accents", "lowercase", "bert_split", "byte_level_class"};

/* What we do to a code point, as the table spells it. */
static void
describe(unsigned table, uint32_t c, SermArena *arena, char *out, size_t size)
{
	uint32_t lower[2], *parts;
	size_t count, used = 0, kept = 0;

	out[0] = '\0';
	switch (table) {
		case 0:
			if (c != ' ' && serm_unicode_clean(c) != SERM_CHARACTER_OTHER)
				snprintf(out, size, serm_unicode_clean(c) == SERM_CHARACTER_SPACE ? "space" : "drop");
			break;
		case 1:
			if (serm_unicode_ideograph(c))
				snprintf(out, size, "spaces");
			break;
		case 2:
			if (!serm_unicode_decompose(&c, 1, arena, &parts, &count))
				break;
			for (size_t i = 0; i < count; i++)
				if (!serm_unicode_mark(parts[i]))
					used +=
					    (size_t) snprintf(out + used, size - used, "%s%04X", kept++ > 0 ? " " : "", parts[i]);
			if (kept == 0)
				snprintf(out, size, "-");
			else if (count == 1 && parts[0] == c)
				out[0] = '\0';
			break;
		case 3:
			if (serm_unicode_lower(c, lower) == 2)
				snprintf(out, size, "%04X %04X", lower[0], lower[1]);
			else if (lower[0] != c)
				snprintf(out, size, "%04X", lower[0]);
			break;
		case 4:
			if (serm_unicode_bert(c) != SERM_CHARACTER_OTHER)
				snprintf(out, size, serm_unicode_bert(c) == SERM_CHARACTER_SPACE ? "space" : "punct");
			break;
		default:
			snprintf(out, size, "%s", (const char *[]){"", "S", "", "", "L", "N"}[serm_unicode_class(c)]);
	}
}

static void
check_code_points(void)
{
	SermArena arena = unit_arena();
	SermText file = read_gz(&arena, "", "code_points.tsv"), line, rest;
	static char expected[0x110000][12];

	/* Of a block that rewinding leaves. */
	(void) serm_arena_alloc(&arena, 1);

	for (unsigned table = 0; table < SERM_LENGTH(tables); table++) {
		uint32_t rows = 0, wrong = 0;

		memset(expected, 0, sizeof(expected));
		rest = file;
		while (next_line(&rest, &line)) {
			char copy[200], name[40], result[100];
			unsigned first, last;

			snprintf(copy, sizeof(copy), "%.*s", (int) line.length, line.bytes);
			if (sscanf(copy, "%39[^\t]\t%x\t%x\t%99[^\n]", name, &first, &last, result) != 4 ||
			    strcmp(name, tables[table]) != 0)
				continue;
			rows++;
			for (unsigned c = first; c <= last; c++)
				snprintf(expected[c], sizeof(expected[c]), "%.11s", result);
		}
		for (uint32_t c = 1; c < 0x110000; c++) {
			SermArenaMark mark = serm_arena_mark(&arena);
			char ours[120];

			if (c >= 0xd800 && c < 0xe000)
				continue;
			describe(table, c, &arena, ours, sizeof(ours));
			if (strncmp(ours, expected[c], 11) != 0 && wrong++ < 5)
				printf("# %s U+%04X: %s, the reference has %s\n", tables[table], c, ours, expected[c]);
			serm_arena_rewind(&arena, mark);
		}
		CHECK(rows > 0 && wrong == 0, "%s is the reference's for every code point (%u ranges)", tables[table],
		    rows);
	}
	serm_arena_free(&arena);
}

int
main(void)
{
	static const char *names[] = {"bert_base_uncased", "bert_base_multilingual_cased", "bert_base_chinese",
	    "roberta_base", "modernbert", "t5_small", "xlm_roberta_rounded"};
	char probe[600];
	FILE *file;

	root = getenv("SERM_DATA") != NULL ? getenv("SERM_DATA") : "../shared/data";
	snprintf(probe, sizeof(probe), "%s/tokenizers/code_points.tsv.gz", root);
	file = fopen(probe, "rb");
	if (file == NULL || strchr(root, '\'') != NULL) {
		printf("1..0 # SKIP the reference's vocabularies are not in %s/tokenizers; set SERM_DATA\n", root);
		return EXIT_SUCCESS;
	}
	fclose(file);
	check_code_points();
	for (unsigned i = 0; i < SERM_LENGTH(names); i++)
		check_vocabulary(names[i]);
	DONE();
}
