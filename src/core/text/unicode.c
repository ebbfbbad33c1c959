#include "core/text/unicode.h"

#include <string.h>

#include <utf8proc.h>

typedef struct Range {
	uint32_t first;
	uint32_t last;
} Range;

/*
 * Where a later Unicode than 8 has marks, punctuation or controls, and Unicode 8
 * has none of the three; wide enough to skip what lies between.
 */
static const Range later_than_8[] = {{0x61d, 0x61d}, {0x7fd, 0x7fd}, {0x890, 0x8e2}, {0x9fd, 0x9fe},
    {0xa76, 0xa76}, {0xafa, 0xaff}, {0xb55, 0xb55}, {0xc04, 0xc3c}, {0xc77, 0xc77}, {0xc84, 0xc84},
    {0xd00, 0xd00}, {0xd3b, 0xd3c}, {0xd81, 0xd81}, {0xeba, 0xeba}, {0xece, 0xece}, {0x180f, 0x1886},
    {0x1abf, 0x1ace}, {0x1b7d, 0x1b7e}, {0x1df6, 0x1dfb}, {0x2e43, 0x2e5d}, {0xa82c, 0xa82c},
    {0xa8c5, 0xa8c5}, {0xa8ff, 0xa8ff}, {0xa9bd, 0xa9bd}, {0x10d24, 0x10f89}, {0x11070, 0x11074},
    {0x110c2, 0x110cd}, {0x111c9, 0x111c9}, {0x111cf, 0x111cf}, {0x1123e, 0x11241}, {0x1133b, 0x1133b},
    {0x11438, 0x1145e}, {0x11660, 0x1166c}, {0x116b9, 0x116b9}, {0x1182f, 0x11fff}, {0x12ff1, 0x13455},
    {0x16e97, 0x16f4f}, {0x16fe2, 0x16fe4}, {0x1cf00, 0x1cf46}, {0x1e000, 0x1e4ef}, {0x1e944, 0x1e95f}};

/* Marks with a combining class that came after Unicode 10: to the normal forms they are letters. */
static const Range marks_after_10[] = {{0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe},
    {0xc3c, 0xc3c}, {0xeba, 0xeba}, {0xece, 0xece}, {0x1715, 0x1715}, {0x1abf, 0x1ace}, {0x1dfa, 0x1dfa},
    {0xa82c, 0xa82c}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}};

/* Letters and numbers that Unicode 16 added to those of 15. */
static const Range new_letters[] = {{0x1c89, 0x1c8a}, {0xa7cb, 0xa7cd}, {0xa7da, 0xa7dc}, {0x105c0, 0x105f3},
    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x11380, 0x11389}, {0x1138b, 0x1138b},
    {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3},
    {0x11bc0, 0x11be0}, {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff},
    {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0}, {0x2ebf0, 0x2ee5d}};
static const Range new_numbers[] = {{0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9},
    {0x16130, 0x16139}, {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1e5f1, 0x1e5fa}};

/* Capitals that Unicode 16 and 17 added, with their small letters. */
static const struct {
	uint32_t first, last, lower;
} new_capitals[] = {{0x1c89, 0x1c89, 0x1c8a}, {0xa7cb, 0xa7cb, 0x264}, {0xa7cc, 0xa7cc, 0xa7cd},
    {0xa7ce, 0xa7ce, 0xa7cf}, {0xa7d2, 0xa7d2, 0xa7d3}, {0xa7d4, 0xa7d4, 0xa7d5}, {0xa7da, 0xa7da, 0xa7db},
    {0xa7dc, 0xa7dc, 0x19b}, {0x10d50, 0x10d65, 0x10d70}, {0x16ea0, 0x16eb8, 0x16ebb}};

/* Dives Akuru of Unicode 13: the only composition after Unicode 10 that utf8proc knows. */
#define AKURU_COMPOSED 0x11938u
#define AKURU_MARK 0x11930u

static bool
in_ranges(const Range *ranges, size_t count, uint32_t c)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (c > ranges[middle].last)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && c >= ranges[low].first;
}

static utf8proc_category_t
category(uint32_t c)
{
	return (utf8proc_category_t) utf8proc_get_property((utf8proc_int32_t) c)->category;
}

/* The category of Unicode 8, as far as marks, punctuation, controls and spaces go. */
static utf8proc_category_t
category_8(uint32_t c)
{
	if (c == 0x166d || c == 0x111c9)
		return UTF8PROC_CATEGORY_PO;
	if (c == 0x1734)
		return UTF8PROC_CATEGORY_MN;
	if (in_ranges(later_than_8, SERM_LENGTH(later_than_8), c))
		return UTF8PROC_CATEGORY_CN;
	return category(c);
}

bool
serm_unicode_space(uint32_t c)
{
	if (c < 0x80)
		return (c >= 9 && c <= 13) || c == ' ';
	return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
	       c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

SermCharacter
serm_unicode_clean(uint32_t c)
{
	if (c >= 0x20 && c < 0x7f)
		return SERM_CHARACTER_OTHER;
	if (c == '\t' || c == '\n' || c == '\r')
		return SERM_CHARACTER_SPACE;
	if (c == 0xfffd)
		return SERM_CHARACTER_CONTROL;
	switch (category_8(c)) {
		case UTF8PROC_CATEGORY_CC:
		case UTF8PROC_CATEGORY_CF:
		case UTF8PROC_CATEGORY_CO:
			return SERM_CHARACTER_CONTROL;
		default:
			return serm_unicode_space(c) ? SERM_CHARACTER_SPACE : SERM_CHARACTER_OTHER;
	}
}

SermCharacter
serm_unicode_bert(uint32_t c)
{
	utf8proc_category_t category;

	if (serm_unicode_space(c))
		return SERM_CHARACTER_SPACE;
	if (c < 0x80)
		return c < '!' || c > '~' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
		               (c >= 'a' && c <= 'z')
		           ? SERM_CHARACTER_OTHER
		           : SERM_CHARACTER_PUNCTUATION;
	category = category_8(c);
	return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO ? SERM_CHARACTER_PUNCTUATION
	                                                                            : SERM_CHARACTER_OTHER;
}

bool
serm_unicode_ideograph(uint32_t c)
{
	if (c < 0x3400)
		return false;
	/* The reference begins extension E at 2b920 instead of 2b820. */
	return c <= 0x4dbf || (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xf900 && c <= 0xfaff) ||
	       (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b81f) ||
	       (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0x2f800 && c <= 0x2fa1f);
}

bool
serm_unicode_mark(uint32_t c)
{
	return c >= 0x300 && category_8(c) == UTF8PROC_CATEGORY_MN;
}

SermCharacter
serm_unicode_class(uint32_t c)
{
	if (serm_unicode_space(c))
		return SERM_CHARACTER_SPACE;
	switch (category(c)) {
		case UTF8PROC_CATEGORY_LU:
		case UTF8PROC_CATEGORY_LL:
		case UTF8PROC_CATEGORY_LT:
		case UTF8PROC_CATEGORY_LM:
		case UTF8PROC_CATEGORY_LO:
			return SERM_CHARACTER_LETTER;
		case UTF8PROC_CATEGORY_ND:
		case UTF8PROC_CATEGORY_NL:
		case UTF8PROC_CATEGORY_NO:
			return SERM_CHARACTER_NUMBER;
		default:
			if (in_ranges(new_letters, SERM_LENGTH(new_letters), c))
				return SERM_CHARACTER_LETTER;
			return in_ranges(new_numbers, SERM_LENGTH(new_numbers), c) ? SERM_CHARACTER_NUMBER
			                                                           : SERM_CHARACTER_OTHER;
	}
}

uint32_t
serm_unicode_lower(uint32_t c, uint32_t lower[2])
{
	lower[0] = c;
	if (c < 0x80) {
		if (c >= 'A' && c <= 'Z')
			lower[0] = c + 32;
		return 1;
	}
	if (c == 0x130) {
		lower[0] = 'i';
		lower[1] = 0x307;
		return 2;
	}
	for (size_t i = 0; i < SERM_LENGTH(new_capitals); i++)
		if (c >= new_capitals[i].first && c <= new_capitals[i].last) {
			lower[0] = new_capitals[i].lower + (c - new_capitals[i].first);
			return 1;
		}
	lower[0] = (uint32_t) utf8proc_tolower((utf8proc_int32_t) c);
	return 1;
}

/* --- normal forms */

static uint32_t
combining_class(uint32_t c)
{
	uint32_t class;

	if (c < 0x300)
		return 0;
	class = (uint32_t) utf8proc_get_property((utf8proc_int32_t) c)->combining_class;
	return class == 0 || in_ranges(marks_after_10, SERM_LENGTH(marks_after_10), c) ? 0 : class;
}

/* Stable by combining class; a counting sort, because a text may be one run of marks. */
static bool
sort_marks(uint32_t *marks, size_t count, SermArena *arena)
{
	size_t places[256] = {0}, at = 0;
	uint32_t *sorted;

	if (count <= 16) {
		for (size_t i = 1; i < count; i++) {
			uint32_t mark = marks[i], class = combining_class(mark);
			size_t j = i;

			for (; j > 0 && combining_class(marks[j - 1]) > class; j--)
				marks[j] = marks[j - 1];
			marks[j] = mark;
		}
		return true;
	}
	sorted = serm_arena_array(arena, count, sizeof(uint32_t));
	if (sorted == NULL)
		return false;
	for (size_t i = 0; i < count; i++)
		places[combining_class(marks[i]) & 255]++;
	for (size_t i = 0; i < 256; i++) {
		size_t here = places[i];

		places[i] = at;
		at += here;
	}
	for (size_t i = 0; i < count; i++)
		sorted[places[combining_class(marks[i]) & 255]++] = marks[i];
	memcpy(marks, sorted, count * sizeof(uint32_t));
	return true;
}

bool
serm_unicode_decompose(
    const uint32_t *code_points, size_t count, SermArena *arena, uint32_t **out, size_t *out_count)
{
	/* A canonical decomposition has at most four code points. */
	uint32_t *result =
	    count <= SIZE_MAX / 4 ? serm_arena_array(arena, 4 * count + 4, sizeof(uint32_t)) : NULL;
	size_t used = 0, run = 0;

	if (result == NULL)
		return false;
	for (size_t i = 0; i < count; i++) {
		utf8proc_int32_t parts[4];
		utf8proc_ssize_t length = 1;
		int boundary = 0;

		parts[0] = (utf8proc_int32_t) code_points[i];
		if (code_points[i] >= 0xc0 && code_points[i] != AKURU_COMPOSED)
			length = utf8proc_decompose_char(parts[0], parts, 4, UTF8PROC_DECOMPOSE, &boundary);
		if (length < 1 || length > 4) {
			parts[0] = (utf8proc_int32_t) code_points[i];
			length = 1;
		}
		for (utf8proc_ssize_t j = 0; j < length; j++) {
			uint32_t part = (uint32_t) parts[j];

			result[used++] = part;
			if (combining_class(part) != 0)
				continue;
			/* `run` is where the marks before this starter began. */
			if (used - 1 - run > 1 && !sort_marks(result + run, used - 1 - run, arena))
				return false;
			run = used;
		}
	}
	if (used - run > 1 && !sort_marks(result + run, used - run, arena))
		return false;
	*out = result;
	*out_count = used;
	return true;
}

/* The composition of two code points, 0 without one. utf8proc offers it for whole texts only. */
static uint32_t
compose_pair(uint32_t first, uint32_t second)
{
	utf8proc_int32_t pair[2] = {(utf8proc_int32_t) first, (utf8proc_int32_t) second};

	if (second < 0x300 || second == AKURU_MARK)
		return 0;
	if (utf8proc_get_property(pair[1])->comb_index == UINT16_MAX && !(second >= 0x1161 && second <= 0x11c2))
		return 0;
	return utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1 ? (uint32_t) pair[0]
	                                                                                  : 0;
}

size_t
serm_unicode_compose(uint32_t *code_points, size_t count)
{
	size_t used = 0, starter = SIZE_MAX;
	uint32_t last = 0; /* class of the last code point kept behind the starter */

	for (size_t i = 0; i < count; i++) {
		uint32_t c = code_points[i], class = combining_class(c);
		uint32_t composed = 0;

		/* A mark behind one of its own or a higher class is blocked, a starter behind any mark. */
		if (starter != SIZE_MAX && (used == starter + 1 || (last != 0 && last < class)))
			composed = compose_pair(code_points[starter], c);
		if (composed != 0) {
			code_points[starter] = composed;
			continue;
		}
		if (class == 0)
			starter = used;
		last = class;
		code_points[used++] = c;
	}
	return used;
}

bool
serm_unicode_grapheme_break(uint32_t previous, uint32_t c, int32_t *state)
{
	return utf8proc_grapheme_break_stateful((utf8proc_int32_t) previous, (utf8proc_int32_t) c, state);
}
