/*
 * The normalisers in front of the tokenizers. A step is done for the whole
 * text before the next one begins, as the reference does it: what a step makes
 * is what the next one sees.
 */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tokenizer_parts.h"
#include "core/text/unicode.h"

/* The reference takes a cluster of at most this many bytes as a whole. */
#define CLUSTER_BYTES_MAX 5
/* The longest string of the map of T5 and XLM-R has 33 bytes (U+FDFA). */
#define MAPPED_BYTES_MAX 255

#define BERT_STEPS                                                                                           \
	(SERM_NORMALIZE_CLEAN | SERM_NORMALIZE_CHINESE | SERM_NORMALIZE_STRIP_ACCENTS | SERM_NORMALIZE_LOWERCASE)

static bool
is_ascii(SermText text)
{
	for (size_t i = 0; i < text.length; i++)
		if ((unsigned char) text.bytes[i] >= 0x80)
			return false;
	return true;
}

static bool
bert_ascii(uint32_t steps, SermText text, SermArena *arena, SermText *out)
{
	char *bytes = serm_arena_array(arena, text.length + 1, 1);
	size_t used = 0;

	if (bytes == NULL)
		return false;
	for (size_t i = 0; i < text.length; i++) {
		char c = text.bytes[i];

		if (steps & SERM_NORMALIZE_CLEAN) {
			SermCharacter kind = serm_unicode_clean((unsigned char) c);

			if (kind == SERM_CHARACTER_CONTROL)
				continue;
			if (kind == SERM_CHARACTER_SPACE)
				c = ' ';
		}
		if ((steps & SERM_NORMALIZE_LOWERCASE) && c >= 'A' && c <= 'Z')
			c = (char) (c + 32);
		bytes[used++] = c;
	}
	*out = (SermText){bytes, used};
	return true;
}

/* Decode, with the steps that work code point by code point before decomposing. */
static uint32_t *
decode(uint32_t steps, SermText text, SermArena *arena, size_t *count)
{
	/* At most a space to either side of each code point. */
	const size_t each = steps & SERM_NORMALIZE_CHINESE ? 3 : 1;
	uint32_t *points = text.length < SIZE_MAX / 16
	                       ? serm_arena_array(arena, each * text.length + 1, sizeof(uint32_t))
	                       : NULL;
	size_t used = 0;

	if (points == NULL)
		return NULL;
	for (size_t at = 0; at < text.length;) {
		SermCharacter kind;
		uint32_t c;

		at += serm_utf8_decode(text.bytes + at, text.length - at, &c);
		kind = steps & SERM_NORMALIZE_CLEAN ? serm_unicode_clean(c) : SERM_CHARACTER_OTHER;
		if (kind == SERM_CHARACTER_CONTROL)
			continue;
		if (kind == SERM_CHARACTER_SPACE)
			c = ' ';
		if ((steps & SERM_NORMALIZE_CHINESE) && serm_unicode_ideograph(c)) {
			points[used++] = ' ';
			points[used++] = c;
			points[used++] = ' ';
		} else
			points[used++] = c;
	}
	*count = used;
	return points;
}

static bool
encode(const uint32_t *points, size_t count, bool lower, SermArena *arena, SermText *out)
{
	char *bytes =
	    count < SIZE_MAX / 16 ? serm_arena_array(arena, 2 * SERM_UTF8_MAX_BYTES * count + 1, 1) : NULL;
	size_t used = 0;

	if (bytes == NULL)
		return false;
	for (size_t i = 0; i < count; i++) {
		uint32_t parts[2] = {points[i]};
		uint32_t length = lower ? serm_unicode_lower(points[i], parts) : 1;

		for (uint32_t j = 0; j < length; j++)
			used += serm_utf8_encode(parts[j], bytes + used);
	}
	*out = (SermText){bytes, used};
	return true;
}

static bool
normalize_bert(uint32_t steps, SermText text, SermArena *arena, SermText *out)
{
	uint32_t *points;
	size_t count, kept = 0;

	if (is_ascii(text))
		return bert_ascii(steps, text, arena, out);
	points = decode(steps, text, arena, &count);
	if (points == NULL)
		return false;
	if (steps & SERM_NORMALIZE_STRIP_ACCENTS) {
		if (!serm_unicode_decompose(points, count, arena, &points, &count))
			return false;
		for (size_t i = 0; i < count; i++)
			if (!serm_unicode_mark(points[i]))
				points[kept++] = points[i];
		count = kept;
	}
	return encode(points, count, steps & SERM_NORMALIZE_LOWERCASE, arena, out);
}

static bool
normalize_nfc(SermText text, SermArena *arena, SermText *out)
{
	uint32_t *points;
	size_t count;

	if (is_ascii(text)) {
		*out = text;
		return true;
	}
	points = decode(0, text, arena, &count);
	if (points == NULL || !serm_unicode_decompose(points, count, arena, &points, &count))
		return false;
	count = serm_unicode_compose(points, count);
	return encode(points, count, false, arena, out);
}

/* --- SentencePiece's map: the double array of Yata's darts-clone */

static bool
unit_has_leaf(uint32_t unit)
{
	return unit >> 8 & 1;
}

static uint32_t
unit_offset(uint32_t unit)
{
	return (unit >> 10) << ((unit & UINT32_C(1) << 9) >> 6);
}

bool
serm_charsmap_check(const SermCharsmap *map)
{
	uint32_t run = 0;

	/* Walks are bounds-checked step by step. Strings need an end, and none may make a text explode. */
	if (map->unit_count == 0 || map->strings_length == 0 || map->strings[map->strings_length - 1] != '\0')
		return false;
	for (uint32_t i = 0; i < map->strings_length; i++) {
		run = map->strings[i] != '\0' ? run + 1 : 0;
		if (run > MAPPED_BYTES_MAX)
			return false;
	}
	return true;
}

/*
 * What the shortest mapped prefix of `bytes` becomes; false when none is mapped. That the shortest counts,
 * and that the rest of the cluster goes with it, is how the reference reads the map.
 */
static bool
map_lookup(const SermCharsmap *map, const char *bytes, size_t length, SermText *out)
{
	uint32_t at = unit_offset(map->units[0]);

	for (size_t i = 0; i < length; i++) {
		unsigned char byte = (unsigned char) bytes[i];
		uint32_t unit, value;

		if (byte == 0)
			return false;
		at ^= byte;
		if (at >= map->unit_count)
			return false;
		unit = map->units[at];
		if ((unit & (UINT32_C(1) << 31 | 0xff)) != byte)
			return false;
		at ^= unit_offset(unit);
		if (!unit_has_leaf(unit))
			continue;
		if (at >= map->unit_count)
			return false;
		value = map->units[at] & (UINT32_MAX >> 1);
		if (value >= map->strings_length)
			return false;
		*out = (SermText){map->strings + value, strlen(map->strings + value)};
		return true;
	}
	return false;
}

typedef struct Bytes {
	char *bytes;
	size_t length;
	size_t capacity;
	SermArena *arena;
} Bytes;

static bool
append(Bytes *bytes, SermText text)
{
	if (text.length > bytes->capacity - bytes->length) {
		size_t capacity = 2 * (bytes->capacity + text.length);
		char *grown = serm_arena_array(bytes->arena, capacity, 1);

		if (grown == NULL)
			return false;
		memcpy(grown, bytes->bytes, bytes->length);
		bytes->bytes = grown;
		bytes->capacity = capacity;
	}
	memcpy(bytes->bytes + bytes->length, text.bytes, text.length);
	bytes->length += text.length;
	return true;
}

static bool
map_cluster(const SermCharsmap *map, SermText cluster, Bytes *out)
{
	SermText mapped;

	if (cluster.length <= CLUSTER_BYTES_MAX && map_lookup(map, cluster.bytes, cluster.length, &mapped))
		return append(out, mapped);
	for (size_t at = 0; at < cluster.length;) {
		SermText part = {cluster.bytes + at, 0};
		uint32_t c;

		part.length = serm_utf8_decode(part.bytes, cluster.length - at, &c);
		at += part.length;
		if (!append(out, map_lookup(map, part.bytes, part.length, &mapped) ? mapped : part))
			return false;
	}
	return true;
}

static bool
normalize_map(const SermCharsmap *map, SermText text, SermArena *arena, SermText *out)
{
	Bytes bytes = {NULL, 0, text.length + text.length / 4 + 16, arena};
	uint32_t previous = 0;
	int32_t state = 0;
	size_t start = 0;

	bytes.bytes = serm_arena_array(arena, bytes.capacity, 1);
	if (bytes.bytes == NULL)
		return false;
	for (size_t at = 0; at < text.length;) {
		uint32_t c;
		size_t length = serm_utf8_decode(text.bytes + at, text.length - at, &c);

		if (at > start && serm_unicode_grapheme_break(previous, c, &state)) {
			if (!map_cluster(map, (SermText){text.bytes + start, at - start}, &bytes))
				return false;
			start = at;
		}
		previous = c;
		at += length;
	}
	if (text.length > start && !map_cluster(map, (SermText){text.bytes + start, text.length - start}, &bytes))
		return false;
	*out = (SermText){bytes.bytes, bytes.length};
	return true;
}

bool
serm_normalize(const SermNormalizer *normalizer, SermText text, SermArena *arena, SermText *out)
{
	*out = text;
	if ((normalizer->steps & BERT_STEPS) && !normalize_bert(normalizer->steps, *out, arena, out))
		return false;
	if ((normalizer->steps & SERM_NORMALIZE_NFC) && !normalize_nfc(*out, arena, out))
		return false;
	return !(normalizer->steps & SERM_NORMALIZE_CHARSMAP) ||
	       normalize_map(&normalizer->map, *out, arena, out);
}
