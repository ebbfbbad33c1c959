/*
 * The stored form of a tokenizer: a header and sections, each at a multiple of
 * SERM_ARENA_ALIGN, all numbers little-endian.
 *
 *   0  Header: magic, sizes, settings, templates, and offset and bytes of each section
 *   .. sections in the order of `Section`
 *
 * Opening verifies the sizes of the sections against each other, and every
 * number that is used as an index; encoding then needs no checks of its own.
 */
#include <math.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/base/hash.h"
#include "core/text/tokenizer_parts.h"

#define MAGIC UINT64_C(0x31304b4f544d5253) /* "SRMTOK01" */
#define UNK_PENALTY 10.0
#define STEPS_ALL ((1u << 6) - 1)
/* A table that is at most half full needs some tens by chance; more only if somebody chose its keys. */
#define PROBES_MAX 256
/* Added tokens, and merges, between two questions to whoever watches. */
#define QUIET_ADDED 256
#define QUIET_MERGES 4096

typedef enum Section {
	SECTION_PIECE_OFFSETS = 0, /* uint32 [vocab + 1] */
	SECTION_PIECES,            /* bytes */
	SECTION_SPECIAL,           /* bits [vocab] */
	SECTION_TRIE,              /* first_child, values, labels: three sections, thrice */
	SECTION_ADDED_RAW = SECTION_TRIE + 3,
	SECTION_ADDED_NORMAL = SECTION_ADDED_RAW + 3,
	SECTION_ADDED = SECTION_ADDED_NORMAL + 3, /* SermAddedEntry [] */
	SECTION_BYTES,                            /* uint32 [256] */
	SECTION_MERGES,                           /* SermMergeSlot [a power of two] */
	SECTION_SCORES,                           /* double [vocab] */
	SECTION_MAP,                              /* uint32 [] */
	SECTION_MAP_STRINGS,                      /* bytes */
	SECTION_COUNT
} Section;

typedef struct Header {
	uint64_t magic;
	uint64_t length; /* of everything */
	uint32_t kind;
	uint32_t normalize;
	uint32_t vocab;
	uint32_t unk;
	uint32_t pad;
	uint32_t tokens_max;
	uint32_t word_max;
	uint32_t continuing;
	double unk_score;
	SermTemplate single;
	SermTemplate pair;
	struct {
		uint64_t offset;
		uint64_t bytes;
	} sections[SECTION_COUNT];
} Header;

typedef struct Blob {
	const void *data;
	size_t bytes;
} Blob;

static size_t
align_up(size_t size)
{
	return (size + SERM_ARENA_ALIGN - 1) & ~(SERM_ARENA_ALIGN - 1);
}

/* --- writing */

typedef struct Writer {
	const SermTokenizerSpec *spec;
	SermArena *arena;
	SermError *error;
	Header header;
	Blob sections[SECTION_COUNT];
	SermTrie pieces; /* all of them, also where the stored form needs no trie */
} Writer;

static SermStatus
no_memory(Writer *writer)
{
	return serm_fail(writer->error, SERM_ERR_MEMORY, "out of memory for a tokenizer");
}

static SermStatus
canceled(Writer *writer)
{
	return serm_fail(writer->error, SERM_ERR_CANCELED, "building a tokenizer was canceled");
}

static bool
template_fits(const SermTemplate *template, uint32_t vocab, bool pair)
{
	uint32_t first = 0, second = 0;

	if (template->count > SERM_TEMPLATE_MAX)
		return false;
	for (uint32_t i = 0; i < template->count; i++) {
		const SermTemplateItem *item = &template->items[i];

		if (item->kind > SERM_TEMPLATE_SECOND || item->type > UINT8_MAX ||
		    (item->kind == SERM_TEMPLATE_TOKEN && item->id >= vocab))
			return false;
		first += item->kind == SERM_TEMPLATE_FIRST;
		second += item->kind == SERM_TEMPLATE_SECOND;
	}
	return first == 1 && second == pair;
}

static SermStatus
check_spec(Writer *writer)
{
	const SermTokenizerSpec *spec = writer->spec;
	const uint32_t vocab = spec->piece_count;

	if (spec->kind >= SERM_TOKENIZER_KIND_COUNT || spec->normalize > STEPS_ALL)
		return serm_fail(writer->error, SERM_ERR_INVALID, "unknown kind of tokenizer");
	if (vocab == 0 || vocab > SERM_VOCAB_MAX)
		return serm_fail(writer->error, SERM_ERR_LIMIT, "a vocabulary of %u tokens: there may be 1 to %d",
		    vocab, SERM_VOCAB_MAX);
	for (uint32_t i = 0; i < vocab; i++)
		if (spec->pieces[i].length > SERM_PIECE_BYTES_MAX ||
		    !serm_utf8_valid(spec->pieces[i].bytes, spec->pieces[i].length))
			return serm_fail(writer->error, SERM_ERR_INVALID, "token %u is longer than %d bytes or no UTF-8",
			    i, SERM_PIECE_BYTES_MAX);
	if (spec->added_count > SERM_ADDED_TOKENS_MAX)
		return serm_fail(writer->error, SERM_ERR_LIMIT, "more than %d added tokens", SERM_ADDED_TOKENS_MAX);
	for (uint32_t i = 0; i < spec->added_count; i++)
		if (spec->added[i].id >= vocab || spec->added[i].text.length == 0 ||
		    spec->added[i].text.length > SERM_ADDED_BYTES_MAX ||
		    !serm_utf8_valid(spec->added[i].text.bytes, spec->added[i].text.length))
			return serm_fail(writer->error, SERM_ERR_INVALID,
			    "added token %u has no id in the vocabulary, is empty, longer than %d bytes or no UTF-8", i,
			    SERM_ADDED_BYTES_MAX);
	if (!template_fits(&spec->single, vocab, false) || !template_fits(&spec->pair, vocab, true))
		return serm_fail(writer->error, SERM_ERR_INVALID, "the template of special tokens cannot be used");
	if ((spec->kind == SERM_TOKENIZER_BPE) != (spec->unk_id == SERM_TOKEN_NONE) ||
	    (spec->unk_id != SERM_TOKEN_NONE && spec->unk_id >= vocab) ||
	    (spec->pad_id != SERM_TOKEN_NONE && spec->pad_id >= vocab))
		return serm_fail(
		    writer->error, SERM_ERR_INVALID, "the unknown or the padding token is not in the vocabulary");
	return SERM_OK;
}

static SermStatus
write_pieces(Writer *writer)
{
	const SermTokenizerSpec *spec = writer->spec;
	uint32_t *offsets = serm_arena_array(writer->arena, (size_t) spec->piece_count + 1, sizeof(uint32_t));
	unsigned char *special = serm_arena_array(writer->arena, ((size_t) spec->piece_count + 7) / 8, 1);
	size_t length = 0;
	char *bytes;

	/* No overflow: a million pieces of four thousand bytes, but an offset has 32 bits. */
	for (uint32_t i = 0; i < spec->piece_count; i++)
		length += spec->pieces[i].length;
	if (length > UINT32_MAX / 2)
		return serm_fail(writer->error, SERM_ERR_LIMIT, "the vocabulary is too large");
	bytes = serm_arena_array(writer->arena, length + 1, 1);
	if (offsets == NULL || special == NULL || bytes == NULL)
		return no_memory(writer);
	length = 0;
	for (uint32_t i = 0; i < spec->piece_count; i++) {
		offsets[i] = (uint32_t) length;
		if (spec->pieces[i].length > 0)
			memcpy(bytes + length, spec->pieces[i].bytes, spec->pieces[i].length);
		length += spec->pieces[i].length;
	}
	offsets[spec->piece_count] = (uint32_t) length;
	for (uint32_t i = 0; i < spec->added_count; i++)
		if (spec->added[i].special)
			special[spec->added[i].id / 8] |= (unsigned char) (1 << spec->added[i].id % 8);
	writer->sections[SECTION_PIECE_OFFSETS] =
	    (Blob){offsets, ((size_t) spec->piece_count + 1) * sizeof(uint32_t)};
	writer->sections[SECTION_PIECES] = (Blob){bytes, length};
	writer->sections[SECTION_SPECIAL] = (Blob){special, ((size_t) spec->piece_count + 7) / 8};
	return SERM_OK;
}

static void
put_trie(Writer *writer, Section section, const SermTrie *trie)
{
	writer->sections[section] = (Blob){trie->first_child, ((size_t) trie->count + 1) * sizeof(uint32_t)};
	writer->sections[section + 1] = (Blob){trie->values, (size_t) trie->count * sizeof(uint32_t)};
	writer->sections[section + 2] = (Blob){trie->labels, trie->count};
}

/* The added tokens, in one trie those that are looked for before normalising, in one the others. */
static SermStatus
write_added(Writer *writer)
{
	const SermTokenizerSpec *spec = writer->spec;
	const SermCharsmap map = {writer->sections[SECTION_MAP].data,
	    (uint32_t) (writer->sections[SECTION_MAP].bytes / sizeof(uint32_t)),
	    writer->sections[SECTION_MAP_STRINGS].data, (uint32_t) writer->sections[SECTION_MAP_STRINGS].bytes};
	const SermNormalizer normalizer = {spec->normalize, map};
	SermAddedEntry *entries =
	    serm_arena_array(writer->arena, (size_t) spec->added_count + 1, sizeof(SermAddedEntry));
	SermText *keys = serm_arena_array(writer->arena, 2 * ((size_t) spec->added_count + 1), sizeof(SermText));
	SermText *normal = keys + spec->added_count + 1;
	SermTrie trie;
	SermStatus status;

	if (entries == NULL || keys == NULL)
		return no_memory(writer);
	for (uint32_t i = 0; i < spec->added_count; i++) {
		const SermAddedToken *token = &spec->added[i];

		if (i % QUIET_ADDED == 0 && !serm_watch_ask(spec->watch))
			return canceled(writer);
		entries[i] = (SermAddedEntry){token->id, (token->special ? SERM_ADDED_SPECIAL : 0) |
		                                             (token->lstrip ? SERM_ADDED_LSTRIP : 0) |
		                                             (token->rstrip ? SERM_ADDED_RSTRIP : 0)};
		if (!token->normalized)
			keys[i] = token->text;
		else if (!serm_normalize(&normalizer, token->text, writer->arena, &normal[i]))
			return no_memory(writer);
	}
	writer->sections[SECTION_ADDED] = (Blob){entries, spec->added_count * sizeof(SermAddedEntry)};
	status = serm_trie_build(keys, spec->added_count, spec->watch, writer->arena, &trie, writer->error);
	if (status != SERM_OK)
		return status;
	put_trie(writer, SECTION_ADDED_RAW, &trie);
	status = serm_trie_build(normal, spec->added_count, spec->watch, writer->arena, &trie, writer->error);
	if (status == SERM_OK)
		put_trie(writer, SECTION_ADDED_NORMAL, &trie);
	return status;
}

/* The two parts of SentencePiece's map: bytes of the array, the array, the strings. */
static SermStatus
write_charsmap(Writer *writer)
{
	SermText map = writer->spec->charsmap;
	SermCharsmap view;
	uint32_t bytes;
	uint32_t *units;

	if (!(writer->spec->normalize & SERM_NORMALIZE_CHARSMAP))
		return SERM_OK;
	if (map.length < sizeof(bytes) || map.length > UINT32_MAX / 2)
		return serm_fail(writer->error, SERM_ERR_INVALID, "the character map is cut off");
	memcpy(&bytes, map.bytes, sizeof(bytes));
	if (bytes % sizeof(uint32_t) != 0 || bytes > map.length - sizeof(bytes))
		return serm_fail(writer->error, SERM_ERR_INVALID, "the character map is cut off");
	/* Aligned, which the bytes of a file need not be. */
	units = serm_arena_array(writer->arena, (size_t) bytes + 1, 1);
	if (units == NULL)
		return no_memory(writer);
	memcpy(units, map.bytes + sizeof(bytes), bytes);
	view = (SermCharsmap){units, bytes / (uint32_t) sizeof(uint32_t), map.bytes + sizeof(bytes) + bytes,
	    (uint32_t) (map.length - sizeof(bytes) - bytes)};
	if (!serm_charsmap_check(&view))
		return serm_fail(writer->error, SERM_ERR_INVALID, "the character map is damaged");
	writer->sections[SECTION_MAP] = (Blob){units, bytes};
	writer->sections[SECTION_MAP_STRINGS] = (Blob){view.strings, view.strings_length};
	return SERM_OK;
}

static SermStatus
write_wordpiece(Writer *writer)
{
	SermText prefix = writer->spec->continuing;
	uint32_t node = 0;

	if (writer->spec->word_max == 0 || prefix.length == 0)
		return serm_fail(
		    writer->error, SERM_ERR_INVALID, "WordPiece needs a prefix and a limit of word length");
	for (size_t i = 0; i < prefix.length && node != SERM_TRIE_NONE; i++)
		node = serm_trie_step(&writer->pieces, node, (unsigned char) prefix.bytes[i]);
	writer->header.continuing = node;
	writer->header.word_max = writer->spec->word_max;
	put_trie(writer, SECTION_TRIE, &writer->pieces);
	return SERM_OK;
}

static SermStatus
write_unigram(Writer *writer)
{
	const SermTokenizerSpec *spec = writer->spec;
	double *scores = serm_arena_array(writer->arena, spec->piece_count, sizeof(double));
	double lowest = INFINITY;

	if (scores == NULL)
		return no_memory(writer);
	for (uint32_t i = 0; i < spec->piece_count; i++) {
		scores[i] = spec->scores[i];
		/* Sums over a text stay finite. */
		if (!(fabs(scores[i]) <= 1e12))
			return serm_fail(
			    writer->error, SERM_ERR_INVALID, "the score of token %u is no number of reason", i);
		if (spec->pieces[i].length > 0 && scores[i] < lowest)
			lowest = scores[i];
	}
	writer->header.unk_score = (isfinite(lowest) ? lowest : 0) - UNK_PENALTY;
	writer->sections[SECTION_SCORES] = (Blob){scores, spec->piece_count * sizeof(double)};
	put_trie(writer, SECTION_TRIE, &writer->pieces);
	return SERM_OK;
}

static SermStatus
put_merge(Writer *writer, uint32_t rank, SermMergeSlot *slots, uint32_t mask)
{
	const SermMerge *merge = &writer->spec->merges[rank];
	char joined[2 * SERM_PIECE_BYTES_MAX];
	uint32_t left, right, id, at;

	if (merge->left.length > SERM_PIECE_BYTES_MAX || merge->right.length > SERM_PIECE_BYTES_MAX)
		return serm_fail(writer->error, SERM_ERR_INVALID, "merge %u is too long", rank);
	memcpy(joined, merge->left.bytes, merge->left.length);
	memcpy(joined + merge->left.length, merge->right.bytes, merge->right.length);
	left = serm_trie_find(&writer->pieces, merge->left.bytes, merge->left.length);
	right = serm_trie_find(&writer->pieces, merge->right.bytes, merge->right.length);
	id = serm_trie_find(&writer->pieces, joined, merge->left.length + merge->right.length);
	if (left == SERM_TRIE_NONE || right == SERM_TRIE_NONE || id == SERM_TRIE_NONE)
		return serm_fail(
		    writer->error, SERM_ERR_INVALID, "merge %u names a token that is not in the vocabulary", rank);
	at = serm_bpe_slot(left, right, mask);
	for (uint32_t probes = 0; slots[at].rank != SERM_TOKEN_NONE; at = (at + 1) & mask) {
		if (slots[at].left == left && slots[at].right == right)
			break;
		if (++probes == PROBES_MAX)
			return serm_fail(writer->error, SERM_ERR_INVALID,
			    "merges from number %u on were chosen to fall on one place of a table", rank);
	}
	slots[at] = (SermMergeSlot){left, right, rank, id};
	return SERM_OK;
}

static bool
never_in_utf8(uint32_t byte)
{
	return byte == 0xc0 || byte == 0xc1 || byte > 0xf4;
}

static SermStatus
write_bpe(Writer *writer)
{
	const SermTokenizerSpec *spec = writer->spec;
	uint32_t *ids = serm_arena_array(writer->arena, 256, sizeof(uint32_t));
	uint32_t count = 16;
	SermMergeSlot *slots;

	if (spec->merge_count > SERM_VOCAB_MAX)
		return serm_fail(writer->error, SERM_ERR_LIMIT, "more than %d merges", SERM_VOCAB_MAX);
	while (count / 2 < spec->merge_count + 1)
		count *= 2;
	slots = serm_arena_array(writer->arena, count, sizeof(SermMergeSlot));
	if (ids == NULL || slots == NULL)
		return no_memory(writer);
	for (uint32_t byte = 0; byte < 256; byte++) {
		char piece[SERM_UTF8_MAX_BYTES];

		ids[byte] = serm_trie_find(&writer->pieces, piece, serm_bpe_byte_piece((unsigned char) byte, piece));
		if (ids[byte] == SERM_TRIE_NONE && !never_in_utf8(byte))
			return serm_fail(
			    writer->error, SERM_ERR_INVALID, "the vocabulary has no token for byte %u", byte);
	}
	for (uint32_t i = 0; i < count; i++)
		slots[i].rank = SERM_TOKEN_NONE;
	for (uint32_t i = 0; i < spec->merge_count; i++) {
		SermStatus status = put_merge(writer, i, slots, count - 1);

		if (i % QUIET_MERGES == 0 && !serm_watch_ask(spec->watch))
			return canceled(writer);
		if (status != SERM_OK)
			return status;
	}
	writer->sections[SECTION_BYTES] = (Blob){ids, 256 * sizeof(uint32_t)};
	writer->sections[SECTION_MERGES] = (Blob){slots, count * sizeof(SermMergeSlot)};
	return SERM_OK;
}

static SermStatus
join_sections(Writer *writer, const unsigned char **bytes, size_t *length)
{
	Header *header = &writer->header;
	size_t end = align_up(sizeof(Header));
	unsigned char *out;

	for (int i = 0; i < SECTION_COUNT; i++) {
		header->sections[i].offset = end;
		header->sections[i].bytes = writer->sections[i].bytes;
		end = align_up(end + writer->sections[i].bytes);
	}
	header->length = end;
	out = serm_arena_array(writer->arena, end, 1);
	if (out == NULL)
		return no_memory(writer);
	memcpy(out, header, sizeof(Header));
	for (int i = 0; i < SECTION_COUNT; i++)
		if (writer->sections[i].bytes > 0)
			memcpy(out + header->sections[i].offset, writer->sections[i].data, writer->sections[i].bytes);
	*bytes = out;
	*length = end;
	return SERM_OK;
}

SermStatus
serm_tokenizer_write(const SermTokenizerSpec *spec, SermArena *arena, const unsigned char **bytes,
    size_t *length, SermError *error)
{
	static SermStatus (*const kinds[SERM_TOKENIZER_KIND_COUNT])(Writer *) = {
	    [SERM_TOKENIZER_WORDPIECE] = write_wordpiece,
	    [SERM_TOKENIZER_BPE] = write_bpe,
	    [SERM_TOKENIZER_UNIGRAM] = write_unigram,
	};
	Writer writer = {.spec = spec, .arena = arena, .error = error};
	SermStatus status = check_spec(&writer);

	if (status != SERM_OK)
		return status;
	writer.header = (Header){.magic = MAGIC,
	    .kind = spec->kind,
	    .normalize = spec->normalize,
	    .vocab = spec->piece_count,
	    .unk = spec->unk_id,
	    .pad = spec->pad_id,
	    .tokens_max = spec->tokens_max,
	    .continuing = SERM_TRIE_NONE,
	    .single = spec->single,
	    .pair = spec->pair};
	status = serm_trie_build(spec->pieces, spec->piece_count, spec->watch, arena, &writer.pieces, error);
	if (status == SERM_OK)
		status = write_pieces(&writer);
	if (status == SERM_OK)
		status = write_charsmap(&writer);
	if (status == SERM_OK)
		status = write_added(&writer);
	if (status == SERM_OK)
		status = kinds[spec->kind](&writer);
	return status == SERM_OK ? join_sections(&writer, bytes, length) : status;
}

/* --- opening */

typedef struct Opening {
	const unsigned char *bytes;
	const Header *header;
	SermTokenizer *tokenizer;
} Opening;

static const void *
section(const Opening *opening, Section index, size_t size, uint64_t *count)
{
	*count = opening->header->sections[index].bytes / size;
	return opening->bytes + opening->header->sections[index].offset;
}

static bool
sections_lie_inside(const Header *header, size_t length)
{
	for (int i = 0; i < SECTION_COUNT; i++)
		if (header->sections[i].offset % SERM_ARENA_ALIGN != 0 || header->sections[i].offset > length ||
		    header->sections[i].bytes > length - header->sections[i].offset)
			return false;
	return true;
}

static bool
open_trie(const Opening *opening, Section index, uint32_t values_max, SermTrie *trie)
{
	uint64_t children, values, labels;
	SermError error;

	trie->first_child = section(opening, index, sizeof(uint32_t), &children);
	trie->values = section(opening, index + 1, sizeof(uint32_t), &values);
	trie->labels = section(opening, index + 2, 1, &labels);
	trie->count = (uint32_t) labels;
	return labels > 0 && labels < UINT32_MAX && values == labels && children == labels + 1 &&
	       serm_trie_check(trie, values_max, &error) == SERM_OK;
}

static bool
open_pieces(const Opening *opening)
{
	SermTokenizer *tokenizer = opening->tokenizer;
	uint64_t offsets, bytes, special;

	tokenizer->piece_offsets = section(opening, SECTION_PIECE_OFFSETS, sizeof(uint32_t), &offsets);
	tokenizer->piece_bytes = section(opening, SECTION_PIECES, 1, &bytes);
	tokenizer->special = section(opening, SECTION_SPECIAL, 1, &special);
	if (offsets != (uint64_t) tokenizer->vocab + 1 || special != ((uint64_t) tokenizer->vocab + 7) / 8 ||
	    tokenizer->piece_offsets[tokenizer->vocab] > bytes)
		return false;
	for (uint32_t i = 0; i < tokenizer->vocab; i++)
		if (tokenizer->piece_offsets[i] > tokenizer->piece_offsets[i + 1])
			return false;
	return true;
}

static bool
open_added(const Opening *opening)
{
	SermTokenizer *tokenizer = opening->tokenizer;
	uint64_t count;

	tokenizer->added = section(opening, SECTION_ADDED, sizeof(SermAddedEntry), &count);
	if (count > SERM_ADDED_TOKENS_MAX)
		return false;
	tokenizer->added_count = (uint32_t) count;
	for (uint32_t i = 0; i < count; i++)
		if (tokenizer->added[i].id >= tokenizer->vocab)
			return false;
	return open_trie(opening, SECTION_ADDED_RAW, tokenizer->added_count, &tokenizer->added_raw) &&
	       open_trie(opening, SECTION_ADDED_NORMAL, tokenizer->added_count, &tokenizer->added_normal);
}

static bool
open_charsmap(const Opening *opening)
{
	SermCharsmap *map = &opening->tokenizer->normalizer.map;
	uint64_t units, strings;

	map->units = section(opening, SECTION_MAP, sizeof(uint32_t), &units);
	map->strings = section(opening, SECTION_MAP_STRINGS, 1, &strings);
	if (units > UINT32_MAX || strings > UINT32_MAX)
		return false;
	map->unit_count = (uint32_t) units;
	map->strings_length = (uint32_t) strings;
	return !(opening->header->normalize & SERM_NORMALIZE_CHARSMAP) || serm_charsmap_check(map);
}

static bool
open_wordpiece(const Opening *opening)
{
	SermTokenizer *tokenizer = opening->tokenizer;

	tokenizer->word_max = opening->header->word_max;
	tokenizer->continuing = opening->header->continuing;
	return open_trie(opening, SECTION_TRIE, tokenizer->vocab, &tokenizer->pieces) &&
	       (tokenizer->continuing == SERM_TRIE_NONE || tokenizer->continuing < tokenizer->pieces.count) &&
	       tokenizer->unk < tokenizer->vocab;
}

static bool
open_unigram(const Opening *opening)
{
	SermTokenizer *tokenizer = opening->tokenizer;
	uint64_t count;

	tokenizer->scores = section(opening, SECTION_SCORES, sizeof(double), &count);
	tokenizer->unk_score = opening->header->unk_score;
	if (count != tokenizer->vocab || !isfinite(tokenizer->unk_score) || tokenizer->unk >= tokenizer->vocab)
		return false;
	for (uint32_t i = 0; i < tokenizer->vocab; i++)
		if (!isfinite(tokenizer->scores[i]))
			return false;
	return open_trie(opening, SECTION_TRIE, tokenizer->vocab, &tokenizer->pieces);
}

static bool
open_bpe(const Opening *opening)
{
	SermTokenizer *tokenizer = opening->tokenizer;
	uint64_t bytes, slots, used = 0;

	tokenizer->byte_ids = section(opening, SECTION_BYTES, sizeof(uint32_t), &bytes);
	tokenizer->merges = section(opening, SECTION_MERGES, sizeof(SermMergeSlot), &slots);
	if (bytes != 256 || slots == 0 || slots > (uint64_t) 4 * SERM_VOCAB_MAX || (slots & (slots - 1)) != 0)
		return false;
	tokenizer->merge_mask = (uint32_t) slots - 1;
	for (int i = 0; i < 256; i++)
		if (tokenizer->byte_ids[i] != SERM_TOKEN_NONE && tokenizer->byte_ids[i] >= tokenizer->vocab)
			return false;
	for (uint64_t i = 0; i < slots; i++) {
		const SermMergeSlot *slot = &tokenizer->merges[i];

		if (slot->rank == SERM_TOKEN_NONE)
			continue;
		if (slot->id >= tokenizer->vocab)
			return false;
		used++;
	}
	/* A search ends at an empty slot. */
	return used < slots;
}

/* Of all that decides the ids: how long an input may be does not. */
static uint64_t
fingerprint_of(const unsigned char *bytes, size_t length)
{
	Header header;

	memcpy(&header, bytes, sizeof(header));
	header.tokens_max = 0;
	return serm_hash_bytes(bytes + sizeof(header), length - sizeof(header),
	    serm_hash_bytes(&header, sizeof(header), SERM_TOKENS_MAX));
}

SermStatus
serm_tokenizer_open(const unsigned char *bytes, size_t length, SermArena *arena,
    const SermTokenizer **tokenizer, SermError *error)
{
	static bool (*const kinds[SERM_TOKENIZER_KIND_COUNT])(const Opening *) = {
	    [SERM_TOKENIZER_WORDPIECE] = open_wordpiece,
	    [SERM_TOKENIZER_BPE] = open_bpe,
	    [SERM_TOKENIZER_UNIGRAM] = open_unigram,
	};
	const Header *header = (const Header *) bytes;
	Opening opening = {bytes, header, serm_arena_alloc(arena, sizeof(SermTokenizer))};

	if (opening.tokenizer == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for a tokenizer");
	if (length < sizeof(Header) || (uintptr_t) bytes % SERM_ARENA_ALIGN != 0 || header->magic != MAGIC ||
	    header->length != length)
		return serm_fail(error, SERM_ERR_CORRUPT, "the tokenizer is cut off or none");
	*opening.tokenizer = (SermTokenizer){.kind = header->kind,
	    .normalizer.steps = header->normalize,
	    .vocab = header->vocab,
	    .unk = header->unk,
	    .pad = header->pad,
	    .tokens_max = header->tokens_max,
	    .single = header->single,
	    .pair = header->pair};
	if (header->kind >= SERM_TOKENIZER_KIND_COUNT || header->normalize > STEPS_ALL || header->vocab == 0 ||
	    header->vocab > SERM_VOCAB_MAX || (header->pad != SERM_TOKEN_NONE && header->pad >= header->vocab) ||
	    !sections_lie_inside(header, length) || !template_fits(&header->single, header->vocab, false) ||
	    !template_fits(&header->pair, header->vocab, true) || !open_pieces(&opening) ||
	    !open_added(&opening) || !open_charsmap(&opening) || !kinds[header->kind](&opening))
		return serm_fail(error, SERM_ERR_CORRUPT, "a table of the tokenizer is damaged");
	opening.tokenizer->fingerprint = fingerprint_of(bytes, length);
	*tokenizer = opening.tokenizer;
	return SERM_OK;
}
