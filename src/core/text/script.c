/*
 * Blocks as in Unicode's Blocks.txt. Only letters are asked for, so what else
 * lies in a block does not matter; punctuation between words is gone by then.
 */
#include "core/text/script.h"

typedef struct Block {
	uint32_t last; /* its last code point; it begins behind the one before */
	SermScript script;
} Block;

static const Block blocks[] = {
    {0x036f, SERM_SCRIPT_LATIN},
    {0x03ff, SERM_SCRIPT_GREEK},
    {0x052f, SERM_SCRIPT_CYRILLIC},
    {0x058f, SERM_SCRIPT_OTHER},
    {0x05ff, SERM_SCRIPT_HEBREW},
    {0x06ff, SERM_SCRIPT_ARABIC},
    {0x074f, SERM_SCRIPT_OTHER},
    {0x077f, SERM_SCRIPT_ARABIC},
    {0x086f, SERM_SCRIPT_OTHER},
    {0x08ff, SERM_SCRIPT_ARABIC},
    {0x097f, SERM_SCRIPT_DEVANAGARI},
    {0x0dff, SERM_SCRIPT_OTHER},
    {0x0e7f, SERM_SCRIPT_THAI},
    {0x10ff, SERM_SCRIPT_OTHER},
    {0x11ff, SERM_SCRIPT_HANGUL},
    {0x1c7f, SERM_SCRIPT_OTHER},
    {0x1c8f, SERM_SCRIPT_CYRILLIC},
    {0x1cff, SERM_SCRIPT_OTHER},
    {0x1dff, SERM_SCRIPT_LATIN},
    {0x1eff, SERM_SCRIPT_LATIN},
    {0x1fff, SERM_SCRIPT_GREEK},
    {0x20ff, SERM_SCRIPT_LATIN},
    {0x2c5f, SERM_SCRIPT_OTHER},
    {0x2c7f, SERM_SCRIPT_LATIN},
    {0x2ddf, SERM_SCRIPT_OTHER},
    {0x2dff, SERM_SCRIPT_CYRILLIC},
    {0x2e7f, SERM_SCRIPT_OTHER},
    {0x312f, SERM_SCRIPT_CJK},
    {0x318f, SERM_SCRIPT_HANGUL},
    {0x9fff, SERM_SCRIPT_CJK},
    {0xa63f, SERM_SCRIPT_OTHER},
    {0xa69f, SERM_SCRIPT_CYRILLIC},
    {0xa71f, SERM_SCRIPT_OTHER},
    {0xa7ff, SERM_SCRIPT_LATIN},
    {0xa8df, SERM_SCRIPT_OTHER},
    {0xa8ff, SERM_SCRIPT_DEVANAGARI},
    {0xa95f, SERM_SCRIPT_OTHER},
    {0xa97f, SERM_SCRIPT_HANGUL},
    {0xab2f, SERM_SCRIPT_OTHER},
    {0xab6f, SERM_SCRIPT_LATIN},
    {0xabff, SERM_SCRIPT_OTHER},
    {0xd7ff, SERM_SCRIPT_HANGUL},
    {0xf8ff, SERM_SCRIPT_OTHER},
    {0xfaff, SERM_SCRIPT_CJK},
    {0xfb0f, SERM_SCRIPT_LATIN},
    {0xfb1c, SERM_SCRIPT_OTHER},
    {0xfb4f, SERM_SCRIPT_HEBREW},
    {0xfdff, SERM_SCRIPT_ARABIC},
    {0xfe6f, SERM_SCRIPT_OTHER},
    {0xfeff, SERM_SCRIPT_ARABIC},
    {0xff65, SERM_SCRIPT_LATIN},
    {0xff9f, SERM_SCRIPT_CJK},
    {0xffdf, SERM_SCRIPT_HANGUL},
    {0x1afef, SERM_SCRIPT_OTHER},
    {0x1b16f, SERM_SCRIPT_CJK},
    {0x1ffff, SERM_SCRIPT_OTHER},
    {0x3ffff, SERM_SCRIPT_CJK},
};

SermScript
serm_script_of(uint32_t code_point)
{
	size_t low = 0, high = SERM_LENGTH(blocks);

	if (code_point <= blocks[0].last)
		return blocks[0].script;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (blocks[middle].last < code_point)
			low = middle + 1;
		else
			high = middle;
	}
	return low < SERM_LENGTH(blocks) ? blocks[low].script : SERM_SCRIPT_OTHER;
}

void
serm_script_add(SermScriptCount *count, const SermWords *words)
{
	for (uint32_t i = 0; i < words->count; i++) {
		const SermWord *word = &words->words[i];

		if (word->number || word->length == 0)
			continue;
		count->words[serm_script_of(words->code_points[word->start])]++;
		count->all++;
	}
}

SermScript
serm_script_main(const SermScriptCount *count)
{
	for (int script = 0; script < SERM_SCRIPTS; script++)
		if (2 * (uint64_t) count->words[script] > count->all)
			return (SermScript) script;
	return SERM_SCRIPTS;
}
