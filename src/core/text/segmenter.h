/*
 * The segmenter of S2, as text.c and document.c share it. Words go to arrays
 * of code points (SermWords) or, when there is a writer, to it.
 */
#ifndef SERM_CORE_TEXT_SEGMENTER_H
#define SERM_CORE_TEXT_SEGMENTER_H

#include "core/base/utf8.h"
#include "core/text/text.h"

#define SERM_WORD_LENGTH_MAX 64
#define SERM_WORD_BYTES_MAX ((size_t) SERM_WORD_LENGTH_MAX * SERM_UTF8_MAX_BYTES)
/* A single line of more words than this is a text, not a title. */
#define SERM_SINGLE_LINE_TITLE_MAX 24

typedef enum SermRun { SERM_RUN_NONE = 0, SERM_RUN_WORD, SERM_RUN_NUMBER, SERM_RUN_IDEOGRAPH } SermRun;

/*
 * Takes words as UTF-8. The spelling of the first `window` is kept, with room
 * for the longest words; of the others only the hash.
 */
typedef struct SermFieldWriter {
	uint32_t window;
	uint32_t used;          /* bytes of `text` */
	uint32_t count;         /* words */
	unsigned char *text;    /* [window * SERM_WORD_BYTES_MAX + SERM_WRITER_SLACK] */
	unsigned char *lengths; /* [window], bytes - 1 */
	unsigned char *numbers; /* [window / 8], zeroed */
	unsigned char *ids;     /* little-endian uint32 of each word behind the window */
} SermFieldWriter;

/* Plain words are copied as a whole block. */
#define SERM_WRITER_SLACK 32

typedef struct SermSegmenter {
	SermArena *arena;
	SermFieldWriter *writer; /* or NULL */
	uint32_t words_max;
	uint32_t *code_points;
	size_t code_points_size;
	uint32_t used; /* code points of complete words */
	SermWord *words;
	uint32_t words_size;
	uint32_t count;
	bool out_of_memory;

	SermRun run;
	uint32_t length;   /* code points of the run so far, at `used` */
	bool compose;      /* the run has code points beyond ASCII */
	uint32_t held;     /* apostrophe or point that the next code point decides on; 0: none */
	uint32_t previous; /* of a run of ideographs: the last two code points, 0: none */
	uint32_t current;
} SermSegmenter;

/* Fill the segmenter's arrays, whose first sizes the caller has set, or its writer. */
extern void serm_segmenter_run(SermSegmenter *segmenter, SermText text);

/*
 * document.c. Add at most SERM_WRITER_SLACK ASCII letters of any case, or digits, that lie at `word`, where
 * `readable` bytes may be read.
 */
extern void serm_field_writer_add_plain(
    SermFieldWriter *writer, const unsigned char *word, uint32_t length, bool number, size_t readable);
extern void serm_field_writer_add(
    SermFieldWriter *writer, const uint32_t *code_points, uint32_t length, bool number);

#endif
