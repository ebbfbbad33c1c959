#include "core/base/utf8.h"

/* Ranges of the second byte follow table 3-7 of the Unicode Standard: no overlong forms, no surrogates. */
static size_t
sequence_shape(unsigned char lead, unsigned char *low, unsigned char *high)
{
	*low = 0x80;
	*high = 0xbf;
	if (lead >= 0xc2 && lead <= 0xdf)
		return 2;
	if (lead >= 0xe0 && lead <= 0xef) {
		if (lead == 0xe0)
			*low = 0xa0;
		if (lead == 0xed)
			*high = 0x9f;
		return 3;
	}
	if (lead >= 0xf0 && lead <= 0xf4) {
		if (lead == 0xf0)
			*low = 0x90;
		if (lead == 0xf4)
			*high = 0x8f;
		return 4;
	}
	return 0;
}

size_t
serm_utf8_decode(const char *bytes, size_t length, uint32_t *code_point)
{
	const unsigned char *byte = (const unsigned char *) bytes;
	unsigned char low, high;
	size_t expected;
	uint32_t value;

	SERM_ASSERT(length > 0);
	if (byte[0] < 0x80) {
		*code_point = byte[0];
		return 1;
	}
	*code_point = SERM_UTF8_REPLACEMENT;
	expected = sequence_shape(byte[0], &low, &high);
	if (expected == 0 || length < 2 || byte[1] < low || byte[1] > high)
		return 1;
	value = ((uint32_t) (byte[0] & (0xff >> (expected + 1))) << 6) | (byte[1] & 0x3f);
	for (size_t i = 2; i < expected; i++) {
		if (i >= length || (byte[i] & 0xc0) != 0x80)
			return i;
		value = (value << 6) | (byte[i] & 0x3f);
	}
	*code_point = value;
	return expected;
}

size_t
serm_utf8_encode(uint32_t code_point, char *out)
{
	unsigned char *byte = (unsigned char *) out;

	if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point <= 0xdfff))
		code_point = SERM_UTF8_REPLACEMENT;
	if (code_point < 0x80) {
		byte[0] = (unsigned char) code_point;
		return 1;
	}
	if (code_point < 0x800) {
		byte[0] = (unsigned char) (0xc0 | (code_point >> 6));
		byte[1] = (unsigned char) (0x80 | (code_point & 0x3f));
		return 2;
	}
	if (code_point < 0x10000) {
		byte[0] = (unsigned char) (0xe0 | (code_point >> 12));
		byte[1] = (unsigned char) (0x80 | ((code_point >> 6) & 0x3f));
		byte[2] = (unsigned char) (0x80 | (code_point & 0x3f));
		return 3;
	}
	byte[0] = (unsigned char) (0xf0 | (code_point >> 18));
	byte[1] = (unsigned char) (0x80 | ((code_point >> 12) & 0x3f));
	byte[2] = (unsigned char) (0x80 | ((code_point >> 6) & 0x3f));
	byte[3] = (unsigned char) (0x80 | (code_point & 0x3f));
	return 4;
}

bool
serm_utf8_valid(const char *bytes, size_t length)
{
	for (size_t at = 0; at < length;) {
		uint32_t code_point;
		size_t taken;

		if ((unsigned char) bytes[at] < 0x80) {
			at++;
			continue;
		}
		taken = serm_utf8_decode(bytes + at, length - at, &code_point);
		/* A genuine U+FFFD takes three bytes and decodes to itself; an invalid part starts otherwise. */
		if (code_point == SERM_UTF8_REPLACEMENT &&
		    !(taken == 3 && (unsigned char) bytes[at] == 0xef && (unsigned char) bytes[at + 1] == 0xbf &&
		        (unsigned char) bytes[at + 2] == 0xbd))
			return false;
		at += taken;
	}
	return true;
}

size_t
serm_utf8_clip(const char *bytes, size_t length, size_t limit)
{
	if (length <= limit)
		return length;
	for (size_t back = 0; back < SERM_UTF8_MAX_BYTES && back <= limit; back++)
		if (((unsigned char) bytes[limit - back] & 0xc0) != 0x80)
			return limit - back;
	return limit;
}
