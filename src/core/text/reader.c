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
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

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

/* --- blocks of bytes at once */

static uint64_t
low_bits(uint64_t high_bits)
{
	return (high_bits >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

void
serm_reader_masks_portable(const unsigned char *bytes, SermReaderMasks *masks)
{
	const uint64_t ones = UINT64_C(0x0101010101010101), high = 0x80 * ones;

	*masks = (SermReaderMasks){0};
	for (int i = 0; i < SERM_READER_BLOCK; i += 8) {
		uint64_t word, seven, lower, ascii;

		memcpy(&word, bytes + i, sizeof(word));
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
		word = __builtin_bswap64(word);
#endif
		ascii = ~word & high;
		seven = word & ~high;
		lower = seven | 0x20 * ones;
		/* The high bit of each byte: at least the first, not above the last, not beyond ASCII. */
#define WITHIN(value, first, last)                                                                           \
	(((value) + (0x80 - (first)) * ones) & ~((value) + (0x7f - (last)) * ones) & ascii)
		masks->letters |= low_bits(WITHIN(lower, 'a', 'z')) << i;
		masks->digits |= low_bits(WITHIN(seven, '0', '9')) << i;
		masks->joins |= low_bits(WITHIN(seven, ',', ',') | WITHIN(seven, '.', '.')) << i;
		masks->apostrophes |= low_bits(WITHIN(seven, '\'', '\'')) << i;
		masks->others |= low_bits(~ascii & high) << i;
#undef WITHIN
	}
}

#if defined(__x86_64__)
/* SSE2, which every x86-64 has. */
void
serm_reader_masks(const unsigned char *bytes, SermReaderMasks *masks)
{
	*masks = (SermReaderMasks){0};
	for (int i = 0; i < SERM_READER_BLOCK; i += 16) {
		__m128i word = _mm_loadu_si128((const __m128i *) (bytes + i));
		__m128i lower = _mm_or_si128(word, _mm_set1_epi8(0x20));
		/* Bytes beyond ASCII are negative: less than every first one. */
#define MASK(vector) ((uint64_t) (uint32_t) _mm_movemask_epi8(vector) << i)
#define WITHIN(value, first, last)                                                                           \
	_mm_and_si128(                                                                                           \
	    _mm_cmpgt_epi8(value, _mm_set1_epi8((first) -1)), _mm_cmplt_epi8(value, _mm_set1_epi8((last) + 1)))
		masks->letters |= MASK(WITHIN(lower, 'a', 'z'));
		masks->digits |= MASK(WITHIN(word, '0', '9'));
		masks->joins |= MASK(
		    _mm_or_si128(_mm_cmpeq_epi8(word, _mm_set1_epi8(',')), _mm_cmpeq_epi8(word, _mm_set1_epi8('.'))));
		masks->apostrophes |= MASK(_mm_cmpeq_epi8(word, _mm_set1_epi8('\'')));
		masks->others |= MASK(word);
#undef WITHIN
#undef MASK
	}
}
#else
void
serm_reader_masks(const unsigned char *bytes, SermReaderMasks *masks)
{
	serm_reader_masks_portable(bytes, masks);
}
#endif

/* Let the masks be those of the bytes from `at` on; behind the end are separators. */
static void
read_block(SermReader *reader, size_t at)
{
	unsigned char rest[SERM_READER_BLOCK] = {0};

	reader->block = at;
	if (reader->length - at >= SERM_READER_BLOCK) {
		serm_reader_masks(reader->bytes + at, &reader->masks);
		return;
	}
	memcpy(rest, reader->bytes + at, reader->length - at);
	serm_reader_masks(rest, &reader->masks);
}

void
serm_reader_init(SermReader *reader, SermText text)
{
	reader->bytes = (const unsigned char *) text.bytes;
	reader->length = text.length;
	reader->at = 0;
	reader->pending_count = 0;
	reader->pending_next = 0;
	reader->block = 0;
	reader->masks = (SermReaderMasks){0};
	if (text.length > 0)
		read_block(reader, 0);
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

/* Where the run of ones of `mask` that begins at bit `from` ends. */
static inline uint32_t
run_end(uint64_t mask, uint32_t from)
{
	uint64_t rest = ~(mask >> from);

	return from + (rest == 0 ? SERM_READER_BLOCK - from : (uint32_t) __builtin_ctzll(rest));
}

/* Is `masks->joins` or `apostrophes` at `end`, behind a number, without a meaning for it? */
static bool
number_ends(const SermReaderMasks *masks, uint32_t end)
{
	uint64_t here = masks->joins >> end, next = (masks->digits | masks->others) >> end >> 1;

	return ((masks->apostrophes | masks->others) >> end & 1) == 0 && ((here & next) & 1) == 0;
}

uint32_t
serm_reader_plain_word(SermReader *reader, bool *number)
{
	size_t at = reader->at;

	if (reader->pending_next < reader->pending_count)
		return 0;
	for (;;) {
		const SermReaderMasks *masks = &reader->masks;
		uint64_t words = masks->letters | masks->digits | masks->others;
		uint32_t start, end;

		while (at - reader->block >= SERM_READER_BLOCK || words >> (at - reader->block) == 0) {
			at = at - reader->block < SERM_READER_BLOCK ? reader->block + SERM_READER_BLOCK : at;
			reader->at = at < reader->length ? at : reader->length;
			if (at >= reader->length)
				return 0;
			read_block(reader, at);
			words = masks->letters | masks->digits | masks->others;
		}
		start = (uint32_t) (at - reader->block);
		start += (uint32_t) __builtin_ctzll(words >> start);
		reader->at = at = reader->block + start;
		*number = (masks->digits >> start & 1) != 0;
		if ((masks->others >> start & 1) != 0)
			return 0;
		end = run_end(*number ? masks->digits : masks->letters, start);
		/* What is behind it counts, too: two bytes of it behind a number. */
		if (end + 2 > SERM_READER_BLOCK && start > 0) {
			read_block(reader, at);
			continue;
		}
		if (end - start > SERM_PLAIN_WORD_MAX)
			return 0;
		if (*number ? !number_ends(masks, end) : ((masks->apostrophes | masks->others) >> end & 1) != 0)
			return 0;
		return end - start;
	}
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
