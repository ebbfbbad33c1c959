#include "core/model/encoder_pair.h"

#include "core/base/hash.h"

/* Which of the texts a beginning of a word occurs in. */
enum { IN_FIRST = 1, IN_SECOND = 2 };

/* Open addressing with at least twice as many slots as tokens; a slot without texts is free. */
typedef struct Prefixes {
	uint64_t *keys;
	uint8_t *texts;
	size_t mask;
} Prefixes;

static uint8_t *
slot_of(const Prefixes *prefixes, uint64_t key)
{
	size_t at = key & prefixes->mask;

	while (prefixes->texts[at] != 0 && prefixes->keys[at] != key)
		at = (at + 1) & prefixes->mask;
	prefixes->keys[at] = key;
	return &prefixes->texts[at];
}

/* The hash of a word's pieces as far as it was read; 0 for what is special or unknown, after which a word
 * begins. */
static uint64_t
next_key(const SermTokenizer *tokenizer, uint64_t key, uint32_t id)
{
	if (serm_tokenizer_special(tokenizer, id) || id == serm_tokenizer_unknown(tokenizer))
		return 0;
	return serm_hash_mix((serm_tokenizer_begins(tokenizer, id) ? 0 : key) + id + 1);
}

/* Enter the tokens of one text. */
static void
enter(const Prefixes *prefixes, const SermTokenizer *tokenizer, const uint32_t *ids, uint32_t count,
    uint8_t text)
{
	uint64_t key = 0;

	for (uint32_t t = 0; t < count; t++)
		if ((key = next_key(tokenizer, key, ids[t])) != 0)
			*slot_of(prefixes, key) |= text;
}

/* Mark those that the other text has. */
static void
mark(const Prefixes *prefixes, const SermTokenizer *tokenizer, const uint32_t *ids, uint8_t *types,
    uint32_t count, uint8_t other)
{
	uint64_t key = 0;

	for (uint32_t t = 0; t < count; t++) {
		bool match = (key = next_key(tokenizer, key, ids[t])) != 0 && (*slot_of(prefixes, key) & other) != 0;

		types[t] = (uint8_t) (types[t] % SERM_MATCH_TYPE + (match ? SERM_MATCH_TYPE : 0));
	}
}

SermStatus
serm_encoder_mark(const SermEncoderConfig *config, const SermTokenizer *tokenizer, SermArena *arena,
    SermTokens *tokens, SermError *error)
{
	SermArenaMark start = serm_arena_mark(arena);
	uint32_t *first = tokens->ids + tokens->first_start, *second = tokens->ids + tokens->second_start;
	Prefixes prefixes;
	size_t slots = 16;

	if (!config->match_types)
		return SERM_OK;
	while (slots < 2 * (size_t) tokens->count)
		slots *= 2;
	prefixes = (Prefixes){
	    serm_arena_array(arena, slots, sizeof(uint64_t)), serm_arena_array(arena, slots, 1), slots - 1};
	if (prefixes.keys == NULL || prefixes.texts == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory for the tokens of a pair");
	enter(&prefixes, tokenizer, first, tokens->first_count, IN_FIRST);
	enter(&prefixes, tokenizer, second, tokens->second_count, IN_SECOND);
	mark(&prefixes, tokenizer, first, tokens->types + tokens->first_start, tokens->first_count, IN_SECOND);
	mark(&prefixes, tokenizer, second, tokens->types + tokens->second_start, tokens->second_count, IN_FIRST);
	serm_arena_rewind(arena, start);
	return SERM_OK;
}

SermStatus
serm_encoder_pair(const SermEncoderConfig *config, const SermTokenizer *tokenizer, const uint32_t *first,
    uint32_t first_count, const uint32_t *second, uint32_t second_count, uint32_t tokens_max,
    SermArena *arena, SermTokens *tokens, SermError *error)
{
	SermStatus status = serm_tokenizer_pair(tokenizer, first, first_count, second, second_count, tokens_max,
	    SERM_TRUNCATE_LONGEST_FIRST, arena, tokens, error);

	return status == SERM_OK ? serm_encoder_mark(config, tokenizer, arena, tokens, error) : status;
}
