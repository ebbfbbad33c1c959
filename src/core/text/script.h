/*
 * The script of a text, by blocks of code points: enough to tell collections
 * apart that have no words in common. The numbers are part of the stored model
 * format.
 */
#ifndef SERM_CORE_TEXT_SCRIPT_H
#define SERM_CORE_TEXT_SCRIPT_H

#include "core/text/text.h"

typedef enum SermScript {
	SERM_SCRIPT_LATIN = 0,
	SERM_SCRIPT_GREEK,
	SERM_SCRIPT_CYRILLIC,
	SERM_SCRIPT_HEBREW,
	SERM_SCRIPT_ARABIC,
	SERM_SCRIPT_DEVANAGARI,
	SERM_SCRIPT_THAI,
	SERM_SCRIPT_CJK, /* ideographs and kana */
	SERM_SCRIPT_HANGUL,
	SERM_SCRIPT_OTHER, /* all others together */
	SERM_SCRIPTS
} SermScript;

/* Words of each script; numbers have none. */
typedef struct SermScriptCount {
	uint32_t words[SERM_SCRIPTS];
	uint32_t all;
} SermScriptCount;

/* Of a letter. */
extern SermScript serm_script_of(uint32_t code_point);

/* Add the words of a text; a word is of the script of its first letter. */
extern void serm_script_add(SermScriptCount *count, const SermWords *words);

/* The script that more than half of the words have; SERM_SCRIPTS when there is none. */
extern SermScript serm_script_main(const SermScriptCount *count);

#endif
