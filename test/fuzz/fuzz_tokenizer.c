/*
 * The first byte chooses. Even: the rest is a tokenizer.json, and what opens encodes it. Odd: the rest is a
 * text for small vocabularies of each kind, which must give ids of the vocabulary and never a special one.
 */
#include <stdint.h>
#include <string.h>

#include "core/model/tokenizer_read.h"

extern int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static const char wordpiece[] =
	"{\"added_tokens\":[{\"id\":0,\"content\":\"[UNK]\",\"special\":true},{\"id\":1,\"content\":\"[SEP]\",\"special\":true}],"
	"\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
	"\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",1],\"cls\":[\"[SEP]\",1]},"
	"\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"vocab\":{\"[UNK]\":0,\"[SEP]\":1,\"a\":2,\"##b\":3,"
	"\"ab\":4,\"[\":5,\"]\":6,\"sep\":7}}}";
static const char unigram[] =
	"{\"added_tokens\":[{\"id\":0,\"content\":\"<u>\",\"special\":true},{\"id\":1,\"content\":\"</s>\",\"special\":true}],"
	"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\"}]},"
	"\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",1],\"cls\":[\"</s>\",1]},"
	"\"model\":{\"unk_id\":0,\"vocab\":[[\"<u>\",0],[\"</s>\",0],[\"\\u2581\",-1],[\"a\",-2],[\"\\u2581a\",-2.5],[\"ab\",-3],"
	"[\"</\",-1],[\"s>\",-1]]}}";

static void
encode(SermText json, SermText text, bool must_open)
{
	SermTokenizerFiles files = {.tokenizer = json};
	const SermTokenizer *tokenizer;
	SermTokenizerSpec spec;
	const unsigned char *bytes;
	const uint32_t *ids;
	uint32_t count;
	SermTokens tokens;
	size_t length;
	SermError error;
	SermArena arena;

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 256 << 20);
	if (serm_tokenizer_read(&files, &arena, &spec, &error) != SERM_OK ||
		serm_tokenizer_write(&spec, &arena, &bytes, &length, &error) != SERM_OK) {
		if (must_open)
			__builtin_trap();
	} else {
		/* What was written opens. */
		if (serm_tokenizer_open(bytes, length, &arena, &tokenizer, &error) != SERM_OK ||
			serm_tokenizer_encode(tokenizer, text, 100000, NULL, &arena, &ids, &count, &error) != SERM_OK)
			__builtin_trap();
		for (uint32_t i = 0; i < count; i++)
			if (ids[i] >= spec.piece_count || (ids[i] != spec.unk_id && serm_tokenizer_special(tokenizer, ids[i])))
				__builtin_trap();
		if (serm_tokenizer_pair(tokenizer, ids, count, ids, count, 64, SERM_TRUNCATE_LONGEST_FIRST, &arena, &tokens,
								&error) == SERM_OK &&
			tokens.count > 64)
			__builtin_trap();
	}
	serm_arena_free(&arena);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	SermText text = {(const char *) bytes + 1, length - 1};

	if (length == 0)
		return 0;
	if (bytes[0] % 2 == 0)
		encode(text, text, false);
	else {
		encode((SermText){wordpiece, sizeof(wordpiece) - 1}, text, true);
		encode((SermText){unigram, sizeof(unigram) - 1}, text, true);
	}
	return 0;
}
