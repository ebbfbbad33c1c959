/*
 * S1: NFKD, lower case, marks of the Latin, Greek, Cyrillic, Hebrew and Arabic
 * scripts dropped. The final sigma is folded to the common one, because lower
 * case by code point cannot know where a word ends.
 *
 * utf8proc's tables fix the Unicode version; code points assigned later count
 * as separators until the library knows them.
 */
#include "core/text/reader.h"

#include <string.h>

#include <utf8proc.h>

#include "core/base/utf8.h"

#define FINAL_SIGMA 0x3c2u
#define SIGMA 0x3c3u
#define HANGUL_FIRST 0xac00u
#define HANGUL_LAST 0xd7a3u

#define S SERM_TEXT_OTHER
#define L SERM_TEXT_LETTER
#define D SERM_TEXT_DIGIT
#define A SERM_TEXT_APOSTROPHE
#define P SERM_TEXT_POINT
/* clang-format off */
static const unsigned char ascii_class[128] = {
	S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S, S,
	S, S, S, S, S, S, S, A, S, S, S, S, P, S, P, S, D, D, D, D, D, D, D, D, D, D, S, S, S, S, S, S,
	S, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, S, S, S, S, S,
	S, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, S, S, S, S, S,
};
/* clang-format on */
#undef S
#undef L
#undef D
#undef A
#undef P

void
serm_reader_init(SermReader *reader, SermText text)
{
	reader->bytes = (const unsigned char *) text.bytes;
	reader->length = text.length;
	reader->at = 0;
	reader->pending_count = 0;
	reader->pending_next = 0;
}

static bool
dropped(uint32_t c)
{
	if (c < 0x300)
		return false;
	return c <= 0x36f || (c >= 0x591 && c <= 0x5c7) || c == 0x640 || (c >= 0x64b && c <= 0x65f) || c == 0x670;
}

static bool
in_ideograph_range(uint32_t c)
{
	return (c >= 0x3040 && c <= 0x30ff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x4e00 && c <= 0x9fff) ||
	       (c >= 0xf900 && c <= 0xfaff);
}

/* Lower-case one decomposed code point in place and classify it. */
static SermTextClass
classify(uint32_t *code_point, const utf8proc_property_t *property)
{
	uint32_t c = *code_point;

	if (c < 128) {
		SermTextClass class = ascii_class[c];

		if (class == SERM_TEXT_LETTER)
			*code_point = c | 0x20;
		return class;
	}
	if (c == 0x2019)
		return SERM_TEXT_APOSTROPHE;
	switch (property->category) {
		case UTF8PROC_CATEGORY_LU:
		case UTF8PROC_CATEGORY_LL:
		case UTF8PROC_CATEGORY_LT:
		case UTF8PROC_CATEGORY_LM:
		case UTF8PROC_CATEGORY_LO:
			if (in_ideograph_range(c))
				return SERM_TEXT_IDEOGRAPH;
			if (property->lowercase_seqindex != UINT16_MAX)
				c = (uint32_t) utf8proc_tolower((utf8proc_int32_t) c);
			*code_point = c == FINAL_SIGMA ? SIGMA : c;
			return SERM_TEXT_LETTER;
		case UTF8PROC_CATEGORY_ND:
			return SERM_TEXT_DIGIT;
		case UTF8PROC_CATEGORY_MN:
		case UTF8PROC_CATEGORY_MC:
		case UTF8PROC_CATEGORY_ME:
			return in_ideograph_range(c) ? SERM_TEXT_IDEOGRAPH : SERM_TEXT_MARK;
		default:
			return SERM_TEXT_OTHER;
	}
}

static SermTextClass
next_pending(SermReader *reader, uint32_t *code_point)
{
	*code_point = reader->pending[reader->pending_next++];
	return classify(code_point, utf8proc_get_property((utf8proc_int32_t) *code_point));
}

/* Decompose `c` into the pending queue. */
static void
decompose(SermReader *reader, uint32_t c)
{
	utf8proc_int32_t out[SERM_DECOMPOSITION_MAX];
	int boundary = 0;
	utf8proc_ssize_t count = utf8proc_decompose_char(
	    (utf8proc_int32_t) c, out, SERM_DECOMPOSITION_MAX, UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE, &boundary);

	if (count < 0 || count > SERM_DECOMPOSITION_MAX) {
		out[0] = SERM_UTF8_REPLACEMENT;
		count = 1;
	}
	for (utf8proc_ssize_t i = 0; i < count; i++)
		reader->pending[i] = (uint32_t) out[i];
	reader->pending_count = (uint32_t) count;
	reader->pending_next = 0;
}

SermTextClass
serm_reader_next(SermReader *reader, uint32_t *code_point)
{
	for (;;) {
		SermTextClass class;

		if (reader->pending_next < reader->pending_count)
			class = next_pending(reader, code_point);
		else if (reader->at == reader->length)
			return SERM_TEXT_END;
		else if (reader->bytes[reader->at] < 128) {
			*code_point = reader->bytes[reader->at++];
			return classify(code_point, NULL);
		} else {
			const utf8proc_property_t *property;

			reader->at += serm_utf8_decode(
			    (const char *) reader->bytes + reader->at, reader->length - reader->at, code_point);
			property = utf8proc_get_property((utf8proc_int32_t) *code_point);
			if (property->decomp_seqindex != UINT16_MAX ||
			    (*code_point >= HANGUL_FIRST && *code_point <= HANGUL_LAST)) {
				decompose(reader, *code_point);
				continue;
			}
			class = classify(code_point, property);
		}
		if (!dropped(*code_point))
			return class;
	}
}

uint32_t
serm_reader_letters(SermReader *reader, uint32_t *out, uint32_t room)
{
	size_t left = reader->length - reader->at;
	const unsigned char *bytes = reader->bytes + reader->at;
	uint32_t count = 0;

	if (reader->pending_next < reader->pending_count)
		return 0;
	if (left < room)
		room = (uint32_t) left;
	for (; count < room && (unsigned) (bytes[count] | 0x20) - 'a' < 26; count++)
		out[count] = bytes[count] | 0x20;
	reader->at += count;
	return count;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
/* How many of the eight bytes at `bytes`, from the first, are ASCII letters. */
static uint32_t
letters_of_eight(const unsigned char *bytes)
{
	const uint64_t ones = UINT64_C(0x0101010101010101);
	uint64_t word, low, letters;

	memcpy(&word, bytes, sizeof(word));
	low = (word | 0x20 * ones) & 0x7f * ones;
	/* The high bit of each byte: at least 'a', not above 'z', not beyond ASCII. */
	letters = (low + (0x80 - 'a') * ones) & ~(low + (0x7f - 'z') * ones) & ~word & 0x80 * ones;
	return letters == 0x80 * ones ? 8 : (uint32_t) __builtin_ctzll(~letters & 0x80 * ones) / 8;
}
#else
static uint32_t
letters_of_eight(const unsigned char *bytes)
{
	uint32_t count = 0;

	while (count < 8 && (unsigned) (bytes[count] | 0x20) - 'a' < 26)
		count++;
	return count;
}
#endif

/* Classes that do nothing where no run has begun. */
#define BETWEEN_WORDS (1u << SERM_TEXT_OTHER | 1u << SERM_TEXT_APOSTROPHE | 1u << SERM_TEXT_POINT)

uint32_t
serm_reader_plain_word(SermReader *reader)
{
	const unsigned char *bytes = reader->bytes;
	size_t at = reader->at, length = reader->length, start;

	if (reader->pending_next < reader->pending_count)
		return 0;
	while (at < length && bytes[at] < 128 && (1u << ascii_class[bytes[at]] & BETWEEN_WORDS) != 0)
		at++;
	reader->at = start = at;
	for (;;) {
		uint32_t letters = 0;

		if (at + 8 <= length)
			letters = letters_of_eight(bytes + at);
		else
			while (at + letters < length && (unsigned) (bytes[at + letters] | 0x20) - 'a' < 26)
				letters++;
		at += letters;
		if (letters < 8 || at - start > SERM_PLAIN_WORD_MAX)
			break;
	}
	if (at - start > SERM_PLAIN_WORD_MAX || (at < length && (bytes[at] >= 128 || bytes[at] == '\'')))
		return 0;
	return (uint32_t) (at - start);
}

/* Marks in canonical order: a stable insertion sort of each run of non-zero combining classes. */
static void
order_marks(uint32_t *code_points, uint32_t length)
{
	for (uint32_t i = 1; i < length; i++) {
		uint32_t c = code_points[i];
		int class = utf8proc_get_property((utf8proc_int32_t) c)->combining_class;
		uint32_t at = i;

		while (class != 0 && at > 0 &&
		       utf8proc_get_property((utf8proc_int32_t) code_points[at - 1])->combining_class > class) {
			code_points[at] = code_points[at - 1];
			at--;
		}
		code_points[at] = c;
	}
}

uint32_t
serm_reader_compose(uint32_t *code_points, uint32_t length)
{
	utf8proc_ssize_t composed;

	order_marks(code_points, length);
	composed = utf8proc_normalize_utf32(
	    (utf8proc_int32_t *) code_points, (utf8proc_ssize_t) length, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	return composed >= 0 && composed <= (utf8proc_ssize_t) length ? (uint32_t) composed : length;
}
