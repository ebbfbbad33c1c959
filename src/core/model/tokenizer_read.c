/*
 * The older form of a tokenizer, in several files: vocab.txt for WordPiece,
 * vocab.json with merges.txt for byte-level BPE, and settings in
 * tokenizer_config.json, which also names the longest input.
 */
#include "core/model/tokenizer_read.h"

#include <string.h>

#define WORD_MAX 100

typedef struct Settings {
	SermJson json;
	bool present;
} Settings;

static bool
setting(const Settings *settings, const char *key, bool fallback)
{
	uint32_t node = settings->present ? serm_json_value(&settings->json, 0, key) : SERM_JSON_ABSENT;

	return node == SERM_JSON_ABSENT ? fallback : serm_json_type(&settings->json, node) == SERM_JSON_TRUE;
}

static SermStatus
read_settings(SermText file, SermArena *arena, Settings *settings, SermError *error)
{
	SermStatus status;

	settings->present = file.bytes != NULL;
	if (!settings->present)
		return SERM_OK;
	status = serm_json_parse(file, NULL, arena, &settings->json, error);
	if (status == SERM_OK && serm_json_type(&settings->json, 0) != SERM_JSON_OBJECT)
		return serm_fail(error, SERM_ERR_CORRUPT, "tokenizer_config.json is no JSON object");
	return status;
}

/* The id of a special token whose name `key` may change: a string, or an object with "content". */
static uint32_t
special_id(const Settings *settings, const SermTokenizerSpec *spec, const char *key, const char *fallback)
{
	uint32_t node = settings->present ? serm_json_value(&settings->json, 0, key) : SERM_JSON_ABSENT;

	if (node != SERM_JSON_ABSENT && serm_json_type(&settings->json, node) == SERM_JSON_OBJECT)
		node = serm_json_value(&settings->json, node, "content");
	if (node == SERM_JSON_ABSENT)
		return serm_tokenizer_piece_id(spec, fallback);
	for (uint32_t i = 0; i < spec->piece_count; i++) {
		char name[64];

		if (spec->pieces[i].length == 0 || spec->pieces[i].length >= sizeof(name))
			continue;
		memcpy(name, spec->pieces[i].bytes, spec->pieces[i].length);
		name[spec->pieces[i].length] = '\0';
		if (serm_json_equals(&settings->json, node, name))
			return i;
	}
	return SERM_TOKEN_NONE;
}

/* Mark ids as special; texts are searched for nothing, since special tokens are not found in texts. */
static SermStatus
add_specials(SermTokenizerSpec *spec, const uint32_t *ids, uint32_t count, uint32_t mask, SermArena *arena,
    SermError *error)
{
	SermAddedToken *added = serm_arena_array(arena, count, sizeof(SermAddedToken));

	if (added == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a tokenizer");
	spec->added = added;
	for (uint32_t i = 0; i < count; i++)
		if (ids[i] != SERM_TOKEN_NONE)
			added[spec->added_count++] = (SermAddedToken){.text = spec->pieces[ids[i]],
			    .id = ids[i],
			    .special = true,
			    .lstrip = spec->kind == SERM_TOKENIZER_BPE && ids[i] == mask};
	return SERM_OK;
}

static SermStatus
read_vocab_txt(SermText file, SermArena *arena, SermTokenizerSpec *spec, SermError *error)
{
	SermText *pieces;
	uint32_t count = 0;
	size_t lines = 1;

	for (size_t i = 0; i < file.length; i++)
		lines += file.bytes[i] == '\n';
	if (lines > SERM_VOCAB_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "vocab.txt has more than %d lines", SERM_VOCAB_MAX);
	pieces = serm_arena_array(arena, lines, sizeof(SermText));
	if (pieces == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a vocabulary");
	/* At line feeds only: U+2028 is a token of bert-base-chinese. */
	for (size_t at = 0; at < file.length;) {
		const char *end = memchr(file.bytes + at, '\n', file.length - at);
		size_t length = end != NULL ? (size_t) (end - file.bytes) - at : file.length - at;

		pieces[count] = (SermText){file.bytes + at, length};
		if (length > 0 && file.bytes[at + length - 1] == '\r')
			pieces[count].length--;
		count++;
		at += length + 1;
	}
	spec->pieces = pieces;
	spec->piece_count = count;
	return SERM_OK;
}

static SermStatus
read_wordpiece(const SermTokenizerFiles *files, const Settings *settings, SermArena *arena,
    SermTokenizerSpec *spec, SermError *error)
{
	bool lowercase = setting(settings, "do_lower_case", true);
	SermStatus status = read_vocab_txt(files->vocab_txt, arena, spec, error);
	uint32_t ids[5];

	if (status != SERM_OK)
		return status;
	spec->kind = SERM_TOKENIZER_WORDPIECE;
	spec->word_max = WORD_MAX;
	spec->continuing = (SermText){"##", 2};
	spec->normalize = SERM_NORMALIZE_CLEAN;
	if (lowercase)
		spec->normalize |= SERM_NORMALIZE_LOWERCASE;
	if (setting(settings, "tokenize_chinese_chars", true))
		spec->normalize |= SERM_NORMALIZE_CHINESE;
	if (setting(settings, "strip_accents", lowercase))
		spec->normalize |= SERM_NORMALIZE_STRIP_ACCENTS;
	ids[0] = special_id(settings, spec, "pad_token", "[PAD]");
	ids[1] = special_id(settings, spec, "unk_token", "[UNK]");
	ids[2] = special_id(settings, spec, "cls_token", "[CLS]");
	ids[3] = special_id(settings, spec, "sep_token", "[SEP]");
	ids[4] = special_id(settings, spec, "mask_token", "[MASK]");
	if (ids[1] == SERM_TOKEN_NONE || ids[2] == SERM_TOKEN_NONE || ids[3] == SERM_TOKEN_NONE)
		return serm_fail(error, SERM_ERR_CORRUPT, "vocab.txt has no [UNK], [CLS] or [SEP]");
	spec->unk_id = ids[1];
	serm_tokenizer_frame(spec, ids[2], ids[3], false, 1);
	return add_specials(spec, ids, SERM_LENGTH(ids), ids[4], arena, error);
}

static SermStatus
read_merges_txt(SermText file, SermArena *arena, SermTokenizerSpec *spec, SermError *error)
{
	SermMerge *merges;
	size_t lines = 1;

	for (size_t i = 0; i < file.length; i++)
		lines += file.bytes[i] == '\n';
	if (lines > SERM_VOCAB_MAX)
		return serm_fail(error, SERM_ERR_LIMIT, "merges.txt has more than %d lines", SERM_VOCAB_MAX);
	merges = serm_arena_array(arena, lines, sizeof(SermMerge));
	if (merges == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a vocabulary");
	for (size_t at = 0, number = 1; at < file.length; number++) {
		const char *line = file.bytes + at, *end = memchr(line, '\n', file.length - at), *space;
		size_t length = end != NULL ? (size_t) (end - line) : file.length - at;

		at += length + 1;
		if (length > 0 && line[length - 1] == '\r')
			length--;
		if (length == 0 || (length >= 8 && memcmp(line, "#version", 8) == 0))
			continue;
		space = memchr(line, ' ', length);
		if (space == NULL || space == line || space == line + length - 1)
			return serm_fail(error, SERM_ERR_CORRUPT, "line %zu of merges.txt is not two tokens", number);
		merges[spec->merge_count++] =
		    (SermMerge){{line, (size_t) (space - line)}, {space + 1, length - (size_t) (space - line) - 1}};
	}
	spec->merges = merges;
	return SERM_OK;
}

static SermStatus
read_bpe(const SermTokenizerFiles *files, const Settings *settings, SermArena *arena, SermTokenizerSpec *spec,
    SermError *error)
{
	SermJson vocab;
	SermStatus status = serm_json_parse(files->vocab_json, files->watch, arena, &vocab, error);
	uint32_t ids[5];

	if (status == SERM_OK)
		status = serm_tokenizer_read_vocab(&vocab, 0, arena, spec, error);
	if (status == SERM_OK)
		status = read_merges_txt(files->merges, arena, spec, error);
	if (status != SERM_OK)
		return status;
	spec->kind = SERM_TOKENIZER_BPE;
	if (setting(settings, "add_prefix_space", false))
		return serm_fail(error, SERM_ERR_INVALID, "the tokenizer's add_prefix_space is not supported");
	ids[0] = special_id(settings, spec, "pad_token", "<pad>");
	ids[1] = special_id(settings, spec, "unk_token", "<unk>");
	ids[2] = special_id(settings, spec, "cls_token", "<s>");
	ids[3] = special_id(settings, spec, "sep_token", "</s>");
	ids[4] = special_id(settings, spec, "mask_token", "<mask>");
	if (ids[2] == SERM_TOKEN_NONE || ids[3] == SERM_TOKEN_NONE)
		return serm_fail(error, SERM_ERR_CORRUPT, "vocab.json has no <s> or no </s>");
	serm_tokenizer_frame(spec, ids[2], ids[3], true, 0);
	return add_specials(spec, ids, SERM_LENGTH(ids), ids[4], arena, error);
}

/* What tokenizer_config.json says besides: padding token, longest input, side of truncation. */
static SermStatus
read_common(const Settings *settings, SermTokenizerSpec *spec, SermError *error)
{
	uint32_t node;
	double longest;

	spec->pad_id = special_id(settings, spec, "pad_token", "[PAD]");
	if (spec->pad_id == SERM_TOKEN_NONE)
		spec->pad_id = serm_tokenizer_piece_id(spec, "<pad>");
	if (!settings->present)
		return SERM_OK;
	node = serm_json_value(&settings->json, 0, "truncation_side");
	if (node != SERM_JSON_ABSENT && !serm_json_equals(&settings->json, node, "right"))
		return serm_fail(error, SERM_ERR_INVALID, "truncation on the left is not supported");
	/* "No limit" is written as 10^30. */
	node = serm_json_value(&settings->json, 0, "model_max_length");
	if (node != SERM_JSON_ABSENT && serm_json_real(&settings->json, node, &longest) && longest >= 1 &&
	    longest <= SERM_TOKENS_MAX)
		spec->tokens_max = (uint32_t) longest;
	return SERM_OK;
}

SermStatus
serm_tokenizer_read(
    const SermTokenizerFiles *files, SermArena *arena, SermTokenizerSpec *spec, SermError *error)
{
	Settings settings;
	SermStatus status = read_settings(files->tokenizer_config, arena, &settings, error);

	*spec = (SermTokenizerSpec){.unk_id = SERM_TOKEN_NONE, .pad_id = SERM_TOKEN_NONE, .watch = files->watch};
	if (status != SERM_OK)
		return status;
	if (files->tokenizer.bytes != NULL)
		status = serm_tokenizer_read_json(files->tokenizer, arena, spec, error);
	else if (files->vocab_txt.bytes != NULL)
		status = read_wordpiece(files, &settings, arena, spec, error);
	else if (files->vocab_json.bytes != NULL && files->merges.bytes != NULL)
		status = read_bpe(files, &settings, arena, spec, error);
	else
		return serm_fail(error, SERM_ERR_INVALID,
		    "there is no tokenizer: tokenizer.json, vocab.txt, or vocab.json with merges.txt is needed");
	return status == SERM_OK ? read_common(&settings, spec, error) : status;
}
