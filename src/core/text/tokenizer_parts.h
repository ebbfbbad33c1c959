/*
 * What the files of the tokenizers share: the opened tables, the list of ids
 * that an encoding fills, and one function per model. Nobody else includes it
 * but the unit tests.
 */
#ifndef SERM_CORE_TEXT_TOKENIZER_PARTS_H
#define SERM_CORE_TEXT_TOKENIZER_PARTS_H

#include "core/text/tokenizer.h"
#include "core/text/trie.h"

/* SentencePiece's map: a double-array trie over UTF-8 whose values are places in `strings`. */
typedef struct SermCharsmap {
	const uint32_t *units;
	uint32_t unit_count;
	const char *strings; /* each ends with a NUL */
	uint32_t strings_length;
} SermCharsmap;

typedef struct SermNormalizer {
	uint32_t steps; /* of SermNormalize */
	SermCharsmap map;
} SermNormalizer;

#define SERM_ADDED_SPECIAL 1u
#define SERM_ADDED_LSTRIP 2u
#define SERM_ADDED_RSTRIP 4u

typedef struct SermAddedEntry {
	uint32_t id;
	uint32_t flags;
} SermAddedEntry;

/* A slot of the table of merges: open addressing, `rank` SERM_TOKEN_NONE in an empty slot. */
typedef struct SermMergeSlot {
	uint32_t left;
	uint32_t right;
	uint32_t rank;
	uint32_t id;
} SermMergeSlot;

struct SermTokenizer {
	SermTokenizerKind kind;
	SermNormalizer normalizer;
	uint32_t vocab;
	uint32_t unk;
	uint32_t pad;
	uint32_t tokens_max;
	uint64_t fingerprint;
	const uint32_t *piece_offsets; /* [vocab + 1] */
	const char *piece_bytes;
	const unsigned char *special; /* bit id % 8 of byte id / 8 */
	SermTrie pieces;              /* WordPiece, Unigram */
	SermTrie added_raw;           /* added tokens looked for before normalising */
	SermTrie added_normal;        /* and after */
	const SermAddedEntry *added;
	uint32_t added_count;
	SermTemplate single;
	SermTemplate pair;
	uint32_t word_max;
	uint32_t continuing;      /* node of `pieces` behind "##", or SERM_TRIE_NONE */
	const uint32_t *byte_ids; /* BPE: [256] */
	const SermMergeSlot *merges;
	uint32_t merge_mask; /* slots - 1 */
	const double *scores;
	double unk_score;

	/*
	 * Unit tests compare with a library that turns "[SEP]" in a text into the token; nothing else
	 * sets this.
	 */
	bool text_yields_special;
};

typedef struct SermTokenSink {
	SermArena *arena; /* of the ids; grows by copying */
	SermArena *scratch;
	uint32_t *ids;
	uint32_t count;
	uint32_t capacity;
	uint32_t wanted; /* more ids than these are not needed */
	uint32_t steps;  /* since the last question */
	const SermWatch *watch;
	bool out_of_memory;
	bool canceled;
} SermTokenSink;

extern void serm_token_push(SermTokenSink *sink, uint32_t id);

/* Of a walk through a vocabulary between two questions: milliseconds. */
#define SERM_TOKEN_QUIET_STEPS ((uint32_t) 1 << 18)

/* After so many steps; a sink that was canceled is full. */
static inline void
serm_token_spend(SermTokenSink *sink, size_t steps)
{
	sink->steps += (uint32_t) steps;
	if (sink->steps < SERM_TOKEN_QUIET_STEPS)
		return;
	sink->steps = 0;
	sink->canceled |= !serm_watch_ask(sink->watch);
}

static inline bool
serm_token_stopped(const SermTokenSink *sink)
{
	return sink->out_of_memory || sink->canceled;
}

/* True when no more ids are wanted or can be kept. */
static inline bool
serm_token_full(const SermTokenSink *sink)
{
	return sink->count >= sink->wanted || serm_token_stopped(sink);
}

/* May a text yield this id by its spelling? */
static inline bool
serm_token_allowed(const SermTokenizer *tokenizer, uint32_t id)
{
	return tokenizer->text_yields_special || (tokenizer->special[id / 8] >> id % 8 & 1) == 0;
}

/* tokenizer.c. A copy with U+FFFD for what is no UTF-8; false when the arena refuses. */
extern bool serm_tokenizer_sanitize(SermText *text, SermArena *arena);

/* normalizer.c. Normalise valid UTF-8; *out points into `text` or `arena`. False when the arena refuses. */
extern bool serm_normalize(const SermNormalizer *normalizer, SermText text, SermArena *arena, SermText *out);
/* Can every walk through the map stay inside it? */
extern bool serm_charsmap_check(const SermCharsmap *map);

/* One function for each kind: append the ids of normalised text. */
extern void serm_wordpiece_encode(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink);
extern void serm_bpe_encode(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink);
extern void serm_unigram_encode(const SermTokenizer *tokenizer, SermText text, SermTokenSink *sink);

/* bpe.c. The character (UTF-8) that stands for a byte in a byte-level vocabulary; returns its bytes. */
extern size_t serm_bpe_byte_piece(unsigned char byte, char out[4]);
extern uint32_t serm_bpe_slot(uint32_t left, uint32_t right, uint32_t mask);

#endif
