/*
 * Unicode as the published tokenizers see it. Their vocabularies were trained
 * with libraries of different ages, and a model is fed with what those make:
 * marks, punctuation and controls of Unicode 8, normal forms of Unicode 10,
 * lower case of Unicode 17, letters and numbers of Unicode 16. Built from
 * utf8proc's tables and the differences to them; the unit test pins every
 * code point, so that another utf8proc cannot change a tokenizer unseen.
 */
#ifndef SERM_CORE_TEXT_UNICODE_H
#define SERM_CORE_TEXT_UNICODE_H

#include "core/base/arena.h"

typedef enum SermCharacter {
	SERM_CHARACTER_OTHER = 0,
	SERM_CHARACTER_SPACE,
	SERM_CHARACTER_CONTROL, /* dropped by the cleaning of BERT */
	SERM_CHARACTER_PUNCTUATION,
	SERM_CHARACTER_LETTER,
	SERM_CHARACTER_NUMBER
} SermCharacter;

/* White_Space. */
extern bool serm_unicode_space(uint32_t c);
/* What BERT's cleaning does: SPACE becomes U+0020, CONTROL goes, the rest stays (OTHER). */
extern SermCharacter serm_unicode_clean(uint32_t c);
/* Where BERT cuts: at SPACE, around PUNCTUATION. */
extern SermCharacter serm_unicode_bert(uint32_t c);
/* The blocks of ideographs that BERT takes one by one. */
extern bool serm_unicode_ideograph(uint32_t c);
/* A nonspacing mark (Mn). */
extern bool serm_unicode_mark(uint32_t c);
/* SPACE, LETTER, NUMBER or OTHER, as GPT-2's pattern of words sees them. */
extern SermCharacter serm_unicode_class(uint32_t c);
/* Lower case of one code point, 1 or 2 code points. */
extern uint32_t serm_unicode_lower(uint32_t c, uint32_t lower[2]);

/*
 * Canonical decomposition (NFD) of `count` code points; *out is in `arena`. Time is linear but for sorting
 * runs of marks. False when the arena refuses.
 */
extern bool serm_unicode_decompose(
    const uint32_t *code_points, size_t count, SermArena *arena, uint32_t **out, size_t *out_count);
/* Canonical composition in place of decomposed code points; returns the new count: NFC. */
extern size_t serm_unicode_compose(uint32_t *code_points, size_t count);

/* Grapheme clusters: is there a boundary between `previous` and `c`? `state` starts as 0 for each text. */
extern bool serm_unicode_grapheme_break(uint32_t previous, uint32_t c, int32_t *state);

#endif
