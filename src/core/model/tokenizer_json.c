/*
 * tokenizer.json, the one-file form of the Hugging Face library. Read are the
 * three models with the normalisers, pre-tokenizers and post-processors of
 * BERT, RoBERTa, ModernBERT, XLM-R and T5; any other setting is refused.
 * Truncation and padding are not read: they are the caller's.
 */
#include <string.h>

#include "core/model/tokenizer_read.h"

#define WORD_MAX_DEFAULT 100

typedef struct Reader {
	SermJson json;
	uint32_t model;
	SermArena *arena;
	SermTokenizerSpec *spec;
	SermError *error;
} Reader;

static SermStatus
unsupported(Reader *reader, const char *what)
{
	return serm_fail(reader->error, SERM_ERR_INVALID, "the tokenizer's %s is not supported", what);
}

static SermStatus
no_memory(Reader *reader)
{
	return serm_fail(reader->error, SERM_ERR_MEMORY, "out of memory for a tokenizer");
}

static SermStatus
canceled(Reader *reader)
{
	return serm_fail(reader->error, SERM_ERR_CANCELED, "reading a tokenizer was canceled");
}

static SermStatus
broken(Reader *reader, const char *what)
{
	return serm_fail(reader->error, SERM_ERR_CORRUPT, "tokenizer.json: %s", what);
}

/* A boolean member; `fallback` when it is absent or null. */
static bool
flag(const Reader *reader, uint32_t object, const char *key, bool fallback)
{
	uint32_t node = serm_json_value(&reader->json, object, key);

	return node == SERM_JSON_ABSENT ? fallback : serm_json_type(&reader->json, node) == SERM_JSON_TRUE;
}

static bool
has_type(const Reader *reader, uint32_t object, const char *type)
{
	uint32_t node = serm_json_value(&reader->json, object, "type");

	return node != SERM_JSON_ABSENT && serm_json_equals(&reader->json, node, type);
}

static bool
integer(const Reader *reader, uint32_t object, const char *key, uint32_t *value)
{
	uint32_t node = serm_json_value(&reader->json, object, key);
	uint64_t number;

	if (node == SERM_JSON_ABSENT || !serm_json_integer(&reader->json, node, &number) || number >= UINT32_MAX)
		return false;
	*value = (uint32_t) number;
	return true;
}

/* --- vocabulary */

uint32_t
serm_tokenizer_piece_id(const SermTokenizerSpec *spec, const char *piece)
{
	size_t length = strlen(piece);

	for (uint32_t i = 0; i < spec->piece_count; i++)
		if (spec->pieces[i].length == length && memcmp(spec->pieces[i].bytes, piece, length) == 0)
			return i;
	return SERM_TOKEN_NONE;
}

SermStatus
serm_tokenizer_read_vocab(
    const SermJson *json, uint32_t object, SermArena *arena, SermTokenizerSpec *spec, SermError *error)
{
	SermText *pieces;
	uint64_t id, highest = 0;

	if (serm_json_type(json, object) != SERM_JSON_OBJECT || json->nodes[object].count == 0)
		return serm_fail(error, SERM_ERR_CORRUPT, "the vocabulary is no JSON object of tokens");
	for (uint32_t key = serm_json_first(json, object); key != SERM_JSON_ABSENT;
	     key = serm_json_next(json, object, key + 1)) {
		if (!serm_json_integer(json, key + 1, &id) || id >= SERM_VOCAB_MAX)
			return serm_fail(error, SERM_ERR_CORRUPT, "the vocabulary has an id that is no integer below %d",
			    SERM_VOCAB_MAX);
		highest = id > highest ? id : highest;
	}
	pieces = serm_arena_array(arena, (size_t) highest + 1, sizeof(SermText));
	if (pieces == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a vocabulary");
	for (uint32_t key = serm_json_first(json, object); key != SERM_JSON_ABSENT;
	     key = serm_json_next(json, object, key + 1)) {
		(void) serm_json_integer(json, key + 1, &id);
		if (pieces[id].bytes != NULL)
			return serm_fail(
			    error, SERM_ERR_CORRUPT, "the vocabulary has id %llu twice", (unsigned long long) id);
		pieces[id] = serm_json_string(json, key, arena);
		if (pieces[id].bytes == NULL)
			return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a vocabulary");
	}
	/* Ids without a piece stay empty, which no text matches. */
	for (uint64_t i = 0; i <= highest; i++)
		if (pieces[i].bytes == NULL)
			pieces[i].bytes = "";
	spec->pieces = pieces;
	spec->piece_count = (uint32_t) highest + 1;
	return SERM_OK;
}

/* Unigram's [[piece, score], ...]. */
static SermStatus
read_scored_vocab(Reader *reader, uint32_t array)
{
	const SermJson *json = &reader->json;
	const uint32_t count = json->nodes[array].count;
	SermText *pieces = serm_arena_array(reader->arena, (size_t) count + 1, sizeof(SermText));
	double *scores = serm_arena_array(reader->arena, (size_t) count + 1, sizeof(double));
	uint32_t id = 0;

	if (pieces == NULL || scores == NULL)
		return no_memory(reader);
	for (uint32_t node = serm_json_first(json, array); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, array, node), id++) {
		uint32_t piece = serm_json_first(json, node);

		if (serm_json_type(json, node) != SERM_JSON_ARRAY || json->nodes[node].count != 2 ||
		    serm_json_type(json, piece) != SERM_JSON_STRING ||
		    !serm_json_real(json, serm_json_next(json, node, piece), &scores[id]))
			return broken(reader, "the vocabulary has an entry that is not [piece, score]");
		pieces[id] = serm_json_string(json, piece, reader->arena);
		if (pieces[id].bytes == NULL)
			return no_memory(reader);
	}
	reader->spec->pieces = pieces;
	reader->spec->scores = scores;
	reader->spec->piece_count = count;
	return SERM_OK;
}

/* Make room for the ids up to `highest`: added tokens may lie behind the vocabulary. */
static SermStatus
extend_vocab(Reader *reader, uint32_t highest)
{
	SermTokenizerSpec *spec = reader->spec;
	SermText *pieces;
	double *scores;

	if (highest < spec->piece_count)
		return SERM_OK;
	if (highest >= SERM_VOCAB_MAX)
		return broken(reader, "an added token has an id beyond every vocabulary");
	pieces = serm_arena_array(reader->arena, (size_t) highest + 1, sizeof(SermText));
	scores = serm_arena_array(reader->arena, (size_t) highest + 1, sizeof(double));
	if (pieces == NULL || scores == NULL)
		return no_memory(reader);
	for (uint32_t i = 0; i <= highest; i++) {
		bool old = i < spec->piece_count;

		pieces[i] = old ? spec->pieces[i] : (SermText){"", 0};
		scores[i] = old && spec->scores != NULL ? spec->scores[i] : 0;
	}
	spec->pieces = pieces;
	if (spec->scores != NULL)
		spec->scores = scores;
	spec->piece_count = highest + 1;
	return SERM_OK;
}

static SermStatus
read_added(Reader *reader)
{
	const SermJson *json = &reader->json;
	uint32_t array = serm_json_value(json, 0, "added_tokens"), count, highest = 0, i = 0;
	SermAddedToken *added;
	SermStatus status;

	if (array == SERM_JSON_ABSENT)
		return SERM_OK;
	if (serm_json_type(json, array) != SERM_JSON_ARRAY)
		return broken(reader, "\"added_tokens\" is no array");
	count = json->nodes[array].count;
	if (count > SERM_ADDED_TOKENS_MAX)
		return serm_fail(reader->error, SERM_ERR_LIMIT, "more than %d added tokens", SERM_ADDED_TOKENS_MAX);
	added = serm_arena_array(reader->arena, (size_t) count + 1, sizeof(SermAddedToken));
	if (added == NULL)
		return no_memory(reader);
	for (uint32_t node = serm_json_first(json, array); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, array, node), i++) {
		uint32_t content = serm_json_value(json, node, "content");

		if (content == SERM_JSON_ABSENT || !integer(reader, node, "id", &added[i].id))
			return broken(reader, "an added token has no content or no id");
		if (flag(reader, node, "single_word", false))
			return unsupported(reader, "added token that matches whole words (single_word)");
		added[i].text = serm_json_string(json, content, reader->arena);
		if (added[i].text.bytes == NULL)
			return no_memory(reader);
		added[i].special = flag(reader, node, "special", false);
		added[i].lstrip = flag(reader, node, "lstrip", false);
		added[i].rstrip = flag(reader, node, "rstrip", false);
		added[i].normalized = flag(reader, node, "normalized", !added[i].special);
		highest = added[i].id > highest ? added[i].id : highest;
	}
	status = extend_vocab(reader, highest);
	if (status != SERM_OK)
		return status;
	for (i = 0; i < count; i++)
		if (reader->spec->pieces[added[i].id].length == 0)
			((SermText *) reader->spec->pieces)[added[i].id] = added[i].text;
	reader->spec->added = added;
	reader->spec->added_count = count;
	return SERM_OK;
}

/* --- models */

static SermStatus
read_wordpiece(Reader *reader)
{
	const SermJson *json = &reader->json;
	uint32_t prefix = serm_json_value(json, reader->model, "continuing_subword_prefix");
	uint32_t unknown = serm_json_value(json, reader->model, "unk_token");
	SermText name;

	reader->spec->word_max = WORD_MAX_DEFAULT;
	(void) integer(reader, reader->model, "max_input_chars_per_word", &reader->spec->word_max);
	reader->spec->continuing =
	    prefix != SERM_JSON_ABSENT ? serm_json_string(json, prefix, reader->arena) : (SermText){"##", 2};
	name =
	    unknown != SERM_JSON_ABSENT ? serm_json_string(json, unknown, reader->arena) : (SermText){"[UNK]", 5};
	if (name.bytes == NULL || reader->spec->continuing.bytes == NULL)
		return no_memory(reader);
	for (uint32_t i = 0; i < reader->spec->piece_count; i++)
		if (reader->spec->pieces[i].length == name.length &&
		    memcmp(reader->spec->pieces[i].bytes, name.bytes, name.length) == 0)
			reader->spec->unk_id = i;
	return reader->spec->unk_id != SERM_TOKEN_NONE
	           ? SERM_OK
	           : broken(reader, "the unknown token is not in the vocabulary");
}

/* One merge: "a b" or ["a", "b"]. */
static bool
read_merge(Reader *reader, uint32_t node, SermMerge *merge)
{
	const SermJson *json = &reader->json;
	SermText pair;
	const char *space;

	if (serm_json_type(json, node) == SERM_JSON_ARRAY && json->nodes[node].count == 2) {
		uint32_t left = serm_json_first(json, node);

		merge->left = serm_json_string(json, left, reader->arena);
		merge->right = serm_json_string(json, serm_json_next(json, node, left), reader->arena);
		return merge->left.length > 0 && merge->right.length > 0;
	}
	pair = serm_json_string(json, node, reader->arena);
	space = pair.length > 0 ? memchr(pair.bytes, ' ', pair.length) : NULL;
	if (space == NULL)
		return false;
	merge->left = (SermText){pair.bytes, (size_t) (space - pair.bytes)};
	merge->right = (SermText){space + 1, pair.length - merge->left.length - 1};
	return merge->left.length > 0 && merge->right.length > 0 &&
	       memchr(merge->right.bytes, ' ', merge->right.length) == NULL;
}

static bool
empty_or_absent(const Reader *reader, const char *key)
{
	uint32_t node = serm_json_value(&reader->json, reader->model, key);

	return node == SERM_JSON_ABSENT || serm_json_equals(&reader->json, node, "");
}

static SermStatus
read_bpe(Reader *reader)
{
	const SermJson *json = &reader->json;
	uint32_t array = serm_json_value(json, reader->model, "merges"), i = 0;
	double dropout = 0;
	SermMerge *merges;

	(void) serm_json_real(json, serm_json_value(json, reader->model, "dropout"), &dropout);
	if (dropout != 0 || !empty_or_absent(reader, "continuing_subword_prefix") ||
	    !empty_or_absent(reader, "end_of_word_suffix") || !empty_or_absent(reader, "unk_token") ||
	    flag(reader, reader->model, "byte_fallback", false) ||
	    flag(reader, reader->model, "ignore_merges", false))
		return unsupported(reader, "form of BPE (dropout, prefix, suffix, unknown token, byte_fallback or "
		                           "ignore_merges); byte-level BPE as in RoBERTa and ModernBERT is, which");
	if (array == SERM_JSON_ABSENT || serm_json_type(json, array) != SERM_JSON_ARRAY)
		return broken(reader, "\"merges\" is no array");
	merges = serm_arena_array(reader->arena, (size_t) json->nodes[array].count + 1, sizeof(SermMerge));
	if (merges == NULL)
		return no_memory(reader);
	for (uint32_t node = serm_json_first(json, array); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, array, node))
		if (!read_merge(reader, node, &merges[i++]))
			return broken(reader, "a merge is not two tokens");
	reader->spec->merges = merges;
	reader->spec->merge_count = i;
	return SERM_OK;
}

static SermStatus
read_unigram(Reader *reader)
{
	if (!integer(reader, reader->model, "unk_id", &reader->spec->unk_id) ||
	    reader->spec->unk_id >= reader->spec->piece_count)
		return broken(reader, "\"unk_id\" is not in the vocabulary");
	if (flag(reader, reader->model, "byte_fallback", false))
		return unsupported(reader, "byte_fallback");
	return SERM_OK;
}

static SermStatus
read_model(Reader *reader)
{
	const SermJson *json = &reader->json;
	uint32_t vocab = serm_json_value(json, reader->model, "vocab");
	bool typed = serm_json_value(json, reader->model, "type") != SERM_JSON_ABSENT;
	bool merges = serm_json_value(json, reader->model, "merges") != SERM_JSON_ABSENT;
	bool scored = vocab != SERM_JSON_ABSENT && serm_json_type(json, vocab) == SERM_JSON_ARRAY;
	SermStatus status;

	if (vocab == SERM_JSON_ABSENT)
		return broken(reader, "there is no model with a vocabulary");
	if (typed ? has_type(reader, reader->model, "Unigram") : scored)
		reader->spec->kind = SERM_TOKENIZER_UNIGRAM;
	else if (typed ? has_type(reader, reader->model, "BPE") : merges)
		reader->spec->kind = SERM_TOKENIZER_BPE;
	else if (!typed || has_type(reader, reader->model, "WordPiece"))
		reader->spec->kind = SERM_TOKENIZER_WORDPIECE;
	else
		return unsupported(reader, "model; WordPiece, byte-level BPE and Unigram are, which");
	if (scored != (reader->spec->kind == SERM_TOKENIZER_UNIGRAM))
		return broken(reader, "the vocabulary is not of the kind that the model needs");
	if (!serm_watch_ask(reader->spec->watch))
		return canceled(reader);
	status = scored ? read_scored_vocab(reader, vocab)
	                : serm_tokenizer_read_vocab(json, vocab, reader->arena, reader->spec, reader->error);
	if (status == SERM_OK)
		status = read_added(reader);
	if (status == SERM_OK && !serm_watch_ask(reader->spec->watch))
		status = canceled(reader);
	if (status != SERM_OK)
		return status;
	switch (reader->spec->kind) {
		case SERM_TOKENIZER_UNIGRAM:
			return read_unigram(reader);
		case SERM_TOKENIZER_BPE:
			return read_bpe(reader);
		default:
			return read_wordpiece(reader);
	}
}

/* --- normaliser */

static int
base64_digit(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *found = c != '\0' ? strchr(digits, c) : NULL;

	return found != NULL ? (int) (found - digits) : -1;
}

static bool
read_base64(Reader *reader, SermText text, SermText *out)
{
	unsigned char *bytes = serm_arena_array(reader->arena, text.length / 4 * 3 + 3, 1);
	uint32_t bits = 0;
	size_t used = 0, i = 0;

	while (text.length > 0 && text.bytes[text.length - 1] == '=')
		text.length--;
	for (; bytes != NULL && i < text.length; i++) {
		int digit = base64_digit(text.bytes[i]);

		if (digit < 0)
			return false;
		bits = bits << 6 | (uint32_t) digit;
		if (i % 4 != 0)
			bytes[used++] = (unsigned char) (bits >> (6 - 2 * (i % 4)));
	}
	*out = (SermText){(const char *) bytes, used};
	return bytes != NULL;
}

static SermStatus
read_bert_normalizer(Reader *reader, uint32_t node)
{
	bool lowercase = flag(reader, node, "lowercase", true);

	if (flag(reader, node, "clean_text", true))
		reader->spec->normalize |= SERM_NORMALIZE_CLEAN;
	if (flag(reader, node, "handle_chinese_chars", true))
		reader->spec->normalize |= SERM_NORMALIZE_CHINESE;
	if (flag(reader, node, "strip_accents", lowercase))
		reader->spec->normalize |= SERM_NORMALIZE_STRIP_ACCENTS;
	if (lowercase)
		reader->spec->normalize |= SERM_NORMALIZE_LOWERCASE;
	return SERM_OK;
}

/* {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}: nothing to words between white space.
 */
static bool
collapses_spaces(Reader *reader, uint32_t node)
{
	uint32_t pattern = serm_json_value(&reader->json, node, "pattern");
	uint32_t content = serm_json_value(&reader->json, node, "content"), regex;

	if (pattern == SERM_JSON_ABSENT || content == SERM_JSON_ABSENT ||
	    reader->spec->kind != SERM_TOKENIZER_UNIGRAM)
		return false;
	regex = serm_json_value(&reader->json, pattern, "Regex");
	return regex != SERM_JSON_ABSENT && serm_json_equals(&reader->json, regex, " {2,}") &&
	       serm_json_equals(&reader->json, content, " ");
}

static SermStatus
read_normalizer(Reader *reader, uint32_t node, bool inside)
{
	const SermJson *json = &reader->json;
	uint32_t map, list;

	if (node == SERM_JSON_ABSENT)
		return SERM_OK;
	if (!inside && has_type(reader, node, "Sequence")) {
		list = serm_json_value(json, node, "normalizers");
		if (list == SERM_JSON_ABSENT || serm_json_type(json, list) != SERM_JSON_ARRAY)
			return broken(reader, "a sequence of normalizers is no array");
		for (uint32_t item = serm_json_first(json, list); item != SERM_JSON_ABSENT;
		     item = serm_json_next(json, list, item)) {
			SermStatus status = read_normalizer(reader, item, true);

			if (status != SERM_OK)
				return status;
		}
		return SERM_OK;
	}
	/* One normaliser, so that there is no order to get wrong. */
	if (reader->spec->normalize != 0)
		return collapses_spaces(reader, node) ? SERM_OK : unsupported(reader, "sequence of normalizers");
	if (has_type(reader, node, "BertNormalizer"))
		return read_bert_normalizer(reader, node);
	if (has_type(reader, node, "NFC")) {
		reader->spec->normalize = SERM_NORMALIZE_NFC;
		return SERM_OK;
	}
	map = serm_json_value(json, node, "precompiled_charsmap");
	if (has_type(reader, node, "Precompiled") && map != SERM_JSON_ABSENT) {
		reader->spec->normalize = SERM_NORMALIZE_CHARSMAP;
		return read_base64(reader, serm_json_string(json, map, reader->arena), &reader->spec->charsmap)
		           ? SERM_OK
		           : broken(reader, "the character map is no base64");
	}
	return unsupported(reader, "normalizer; BertNormalizer, NFC and Precompiled are, which");
}

/* --- pre-tokenizer */

static bool
is_metaspace(Reader *reader, uint32_t node)
{
	uint32_t mark = serm_json_value(&reader->json, node, "replacement");
	uint32_t scheme = serm_json_value(&reader->json, node, "prepend_scheme");

	return has_type(reader, node, "Metaspace") &&
	       (mark == SERM_JSON_ABSENT || serm_json_equals(&reader->json, mark, "\xe2\x96\x81")) &&
	       (scheme == SERM_JSON_ABSENT || serm_json_equals(&reader->json, scheme, "always")) &&
	       flag(reader, node, "add_prefix_space", true) && flag(reader, node, "split", true);
}

/* White space splits, then every word gets the mark. */
static bool
splits_words(Reader *reader, uint32_t node)
{
	const SermJson *json = &reader->json;
	uint32_t list = serm_json_value(json, node, "pretokenizers"), first;

	if (!has_type(reader, node, "Sequence") || list == SERM_JSON_ABSENT || json->nodes[list].count != 2)
		return false;
	first = serm_json_first(json, list);
	return has_type(reader, first, "WhitespaceSplit") &&
	       is_metaspace(reader, serm_json_next(json, list, first));
}

static SermStatus
read_pre_tokenizer(Reader *reader)
{
	uint32_t node = serm_json_value(&reader->json, 0, "pre_tokenizer");

	switch (reader->spec->kind) {
		case SERM_TOKENIZER_WORDPIECE:
			if (node != SERM_JSON_ABSENT && has_type(reader, node, "BertPreTokenizer"))
				return SERM_OK;
			return unsupported(reader, "pre-tokenizer; with WordPiece BertPreTokenizer is, which");
		case SERM_TOKENIZER_BPE:
			if (node != SERM_JSON_ABSENT && has_type(reader, node, "ByteLevel") &&
			    !flag(reader, node, "add_prefix_space", true) && flag(reader, node, "use_regex", true))
				return SERM_OK;
			return unsupported(reader, "pre-tokenizer; with BPE ByteLevel without a prefix space is, which");
		default:
			if (node != SERM_JSON_ABSENT && splits_words(reader, node))
				return SERM_OK;
			return unsupported(
			    reader, "pre-tokenizer; with Unigram WhitespaceSplit and Metaspace are, which");
	}
}

/* --- post-processor */

void
serm_tokenizer_frame(
    SermTokenizerSpec *spec, uint32_t begin, uint32_t separator, bool twice, uint32_t second_type)
{
	const SermTemplateItem start = {SERM_TEMPLATE_TOKEN, begin, 0}, end = {SERM_TEMPLATE_TOKEN, separator, 0};
	SermTemplate *pair = &spec->pair;

	spec->single = (SermTemplate){3, {start, {SERM_TEMPLATE_FIRST, 0, 0}, end}};
	*pair = spec->single;
	if (twice)
		pair->items[pair->count++] = end;
	pair->items[pair->count++] = (SermTemplateItem){SERM_TEMPLATE_SECOND, 0, second_type};
	pair->items[pair->count++] = (SermTemplateItem){SERM_TEMPLATE_TOKEN, separator, second_type};
}

/* The id of a special token of a template, from its table {"[CLS]": {"ids": [101]}}. */
static bool
template_id(Reader *reader, uint32_t table, uint32_t name, uint32_t *id)
{
	const SermJson *json = &reader->json;
	uint64_t number;

	if (table == SERM_JSON_ABSENT || name == SERM_JSON_ABSENT)
		return false;
	for (uint32_t key = serm_json_first(json, table); key != SERM_JSON_ABSENT;
	     key = serm_json_next(json, table, key + 1)) {
		SermText a = serm_json_string(json, key, reader->arena),
		         b = serm_json_string(json, name, reader->arena);
		uint32_t ids = serm_json_value(json, key + 1, "ids");

		if (a.bytes == NULL || b.bytes == NULL || a.length != b.length ||
		    memcmp(a.bytes, b.bytes, a.length) != 0)
			continue;
		if (ids == SERM_JSON_ABSENT || serm_json_type(json, ids) != SERM_JSON_ARRAY ||
		    json->nodes[ids].count != 1 || !serm_json_integer(json, serm_json_first(json, ids), &number) ||
		    number >= reader->spec->piece_count)
			return false;
		*id = (uint32_t) number;
		return true;
	}
	return false;
}

static SermStatus
read_template(Reader *reader, uint32_t array, uint32_t table, SermTemplate *template)
{
	const SermJson *json = &reader->json;

	template->count = 0;
	if (array == SERM_JSON_ABSENT || serm_json_type(json, array) != SERM_JSON_ARRAY ||
	    json->nodes[array].count > SERM_TEMPLATE_MAX)
		return broken(reader, "a template is no array of a few items");
	for (uint32_t node = serm_json_first(json, array); node != SERM_JSON_ABSENT;
	     node = serm_json_next(json, array, node)) {
		SermTemplateItem *item = &template->items[template->count++];
		uint32_t token = serm_json_value(json, node, "SpecialToken");
		uint32_t sequence = serm_json_value(json, node, "Sequence");
		uint32_t name;

		if (!serm_watch_ask(reader->spec->watch))
			return canceled(reader);
		if ((token == SERM_JSON_ABSENT) == (sequence == SERM_JSON_ABSENT))
			return broken(reader, "an item of a template is neither a token nor a sequence");
		*item = (SermTemplateItem){SERM_TEMPLATE_TOKEN, 0, 0};
		name = serm_json_value(json, token != SERM_JSON_ABSENT ? token : sequence, "id");
		if (token != SERM_JSON_ABSENT && !template_id(reader, table, name, &item->id))
			return broken(reader, "a template names a token without an id");
		if (sequence != SERM_JSON_ABSENT)
			item->kind = name != SERM_JSON_ABSENT && serm_json_equals(json, name, "B") ? SERM_TEMPLATE_SECOND
			                                                                           : SERM_TEMPLATE_FIRST;
		if (!integer(reader, token != SERM_JSON_ABSENT ? token : sequence, "type_id", &item->type))
			return broken(reader, "an item of a template has no type");
	}
	return SERM_OK;
}

/* ["[SEP]", 102] */
static bool
named_id(Reader *reader, uint32_t object, const char *key, uint32_t *id)
{
	const SermJson *json = &reader->json;
	uint32_t pair = serm_json_value(json, object, key), first;
	uint64_t number;

	if (pair == SERM_JSON_ABSENT || serm_json_type(json, pair) != SERM_JSON_ARRAY ||
	    json->nodes[pair].count != 2)
		return false;
	first = serm_json_first(json, pair);
	if (!serm_json_integer(json, serm_json_next(json, pair, first), &number) || number >= SERM_VOCAB_MAX)
		return false;
	*id = (uint32_t) number;
	return true;
}

static SermStatus
read_post_processor(Reader *reader, uint32_t node)
{
	const SermJson *json = &reader->json;
	uint32_t separator, begin, list;
	SermStatus status;

	if (node != SERM_JSON_ABSENT && has_type(reader, node, "Sequence")) {
		/* ByteLevel in a sequence trims offsets only. */
		list = serm_json_value(json, node, "processors");
		for (uint32_t item = list != SERM_JSON_ABSENT ? serm_json_first(json, list) : SERM_JSON_ABSENT;
		     item != SERM_JSON_ABSENT; item = serm_json_next(json, list, item))
			if (has_type(reader, item, "TemplateProcessing"))
				node = item;
			else if (!has_type(reader, item, "ByteLevel"))
				return unsupported(reader, "sequence of post-processors");
	}
	if (node != SERM_JSON_ABSENT && has_type(reader, node, "TemplateProcessing")) {
		uint32_t table = serm_json_value(json, node, "special_tokens");

		status = read_template(reader, serm_json_value(json, node, "single"), table, &reader->spec->single);
		return status != SERM_OK
		           ? status
		           : read_template(reader, serm_json_value(json, node, "pair"), table, &reader->spec->pair);
	}
	if (node != SERM_JSON_ABSENT &&
	    (has_type(reader, node, "RobertaProcessing") || has_type(reader, node, "BertProcessing"))) {
		bool roberta = has_type(reader, node, "RobertaProcessing");

		if (!named_id(reader, node, "sep", &separator) || !named_id(reader, node, "cls", &begin))
			return broken(reader, "the post-processor names no tokens");
		serm_tokenizer_frame(reader->spec, begin, separator, roberta, roberta ? 0 : 1);
		return SERM_OK;
	}
	return unsupported(
	    reader, "post-processor; TemplateProcessing, BertProcessing and RobertaProcessing are, which");
}

SermStatus
serm_tokenizer_read_json(SermText file, SermArena *arena, SermTokenizerSpec *spec, SermError *error)
{
	Reader reader = {.arena = arena, .spec = spec, .error = error};
	SermStatus status = serm_json_parse(file, spec->watch, arena, &reader.json, error);

	if (status != SERM_OK)
		return status;
	reader.model = serm_json_value(&reader.json, 0, "model");
	if (reader.model == SERM_JSON_ABSENT)
		return broken(&reader, "there is no model");
	status = read_model(&reader);
	if (status == SERM_OK)
		status = read_normalizer(&reader, serm_json_value(&reader.json, 0, "normalizer"), false);
	if (status == SERM_OK)
		status = read_pre_tokenizer(&reader);
	return status == SERM_OK
	           ? read_post_processor(&reader, serm_json_value(&reader.json, 0, "post_processor"))
	           : status;
}
