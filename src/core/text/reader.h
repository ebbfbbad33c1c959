/*
 * The normaliser of S1 as a stream: bytes in, decomposed lower-case code
 * points with their class out. Composition (NFC) is left to the segmenter,
 * which knows where a word ends.
 */
#ifndef SERM_CORE_TEXT_READER_H
#define SERM_CORE_TEXT_READER_H

#include "core/text/text.h"

/* The longest compatibility decomposition of Unicode is 18 code points (U+FDFA). */
#define SERM_DECOMPOSITION_MAX 32

/* Longer words are left to serm_reader_next(). */
#define SERM_PLAIN_WORD_MAX 24

typedef enum SermTextClass {
	SERM_TEXT_OTHER = 0, /* separates words */
	SERM_TEXT_LETTER,
	SERM_TEXT_DIGIT,
	SERM_TEXT_MARK,      /* continues a word of letters, separates elsewhere */
	SERM_TEXT_IDEOGRAPH, /* Han, Hiragana, Katakana and their voicing marks */
	SERM_TEXT_APOSTROPHE,
	SERM_TEXT_POINT, /* full stop and comma: inside a number */
	SERM_TEXT_END
} SermTextClass;

#define SERM_READER_BLOCK 64

/* Bit i tells what byte i of a block is. */
typedef struct SermReaderMasks {
	uint64_t letters; /* of ASCII */
	uint64_t digits;
	uint64_t joins; /* points and commas */
	uint64_t apostrophes;
	uint64_t others; /* beyond ASCII */
} SermReaderMasks;

typedef struct SermReader {
	const unsigned char *bytes;
	size_t length;
	size_t at;
	uint32_t pending_count; /* rest of a decomposition that was begun */
	uint32_t pending_next;
	uint32_t pending[SERM_DECOMPOSITION_MAX];
	/* For plain words: what the bytes from `block` on are. */
	size_t block;
	SermReaderMasks masks;
} SermReader;

extern void serm_reader_init(SermReader *reader, SermText text);
/* The next code point that is not dropped, and its class; SERM_TEXT_END when there is none. */
extern SermTextClass serm_reader_next(SermReader *reader, uint32_t *code_point);
/* Copy the ASCII letters that come next, lower-case, at most `room`; returns how many there were. */
extern uint32_t serm_reader_letters(SermReader *reader, uint32_t *out, uint32_t room);
/*
 * Skip ASCII separators; when a run of ASCII letters or of ASCII digits follows that what is behind it
 * neither continues nor changes, return its length and whether it is a number. Else 0: the next code point is
 * for serm_reader_next(). For the gap between words.
 */
extern uint32_t serm_reader_plain_word(SermReader *reader, bool *number);
/* The masks of SERM_READER_BLOCK bytes, and the same by the code that every processor can run, for tests. */
extern void serm_reader_masks(const unsigned char *bytes, SermReaderMasks *masks);
extern void serm_reader_masks_portable(const unsigned char *bytes, SermReaderMasks *masks);
/* Canonical order and composition (NFC) of decomposed code points in place; returns the new length. */
extern uint32_t serm_reader_compose(uint32_t *code_points, uint32_t length);

#endif
