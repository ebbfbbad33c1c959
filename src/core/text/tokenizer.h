/*
 * The tokenizers of published encoders: WordPiece (BERT), byte-level BPE
 * (RoBERTa, ModernBERT) and Unigram (XLM-R, T5), with the normalisers and
 * pre-tokenizers that go with them. For the same text they give the ids that
 * the Hugging Face library gives, with one exception: text never yields a
 * special token. A query that contains "[SEP]" would otherwise forge the
 * structure of the pair; here those are five ordinary characters.
 *
 * A tokenizer is built once from a vocabulary into tables, one block of bytes
 * that is stored as a tensor and used in place, so that all backends share it.
 * Reading a block verifies it: damaged tables are refused, never followed.
 */
#ifndef SERM_CORE_TEXT_TOKENIZER_H
#define SERM_CORE_TEXT_TOKENIZER_H

#include "core/text/text.h"

#define SERM_TOKEN_NONE UINT32_MAX
#define SERM_VOCAB_MAX 1048576
#define SERM_ADDED_TOKENS_MAX 65536
/* Bytes of an added token: they are looked for at every place of a text. */
#define SERM_ADDED_BYTES_MAX 256
/* Bytes of a piece of a vocabulary. */
#define SERM_PIECE_BYTES_MAX 4096
#define SERM_TEMPLATE_MAX 8
/* Tokens of one text. */
#define SERM_TOKENS_MAX 65536

typedef enum SermTokenizerKind {
	SERM_TOKENIZER_WORDPIECE = 0,
	SERM_TOKENIZER_BPE,
	SERM_TOKENIZER_UNIGRAM,
	SERM_TOKENIZER_KIND_COUNT
} SermTokenizerKind;

/* What happens to a text before it is cut into words, in this order. */
typedef enum SermNormalize {
	SERM_NORMALIZE_CLEAN = 1 << 0,         /* BERT's clean_text */
	SERM_NORMALIZE_CHINESE = 1 << 1,       /* handle_chinese_chars */
	SERM_NORMALIZE_STRIP_ACCENTS = 1 << 2, /* strip_accents: decomposes, then drops marks */
	SERM_NORMALIZE_LOWERCASE = 1 << 3,
	SERM_NORMALIZE_NFC = 1 << 4,
	SERM_NORMALIZE_CHARSMAP = 1 << 5 /* SentencePiece's precompiled character map */
} SermNormalize;

typedef enum SermTemplateKind {
	SERM_TEMPLATE_TOKEN = 0,
	SERM_TEMPLATE_FIRST,
	SERM_TEMPLATE_SECOND
} SermTemplateKind;

/* One item of the input of an encoder: a special token, or all tokens of the first or second text. */
typedef struct SermTemplateItem {
	uint32_t kind;
	uint32_t id; /* of a special token */
	uint32_t type;
} SermTemplateItem;

typedef struct SermTemplate {
	uint32_t count;
	SermTemplateItem items[SERM_TEMPLATE_MAX];
} SermTemplate;

/* A token that is looked for in the text itself, before the text is cut into words. */
typedef struct SermAddedToken {
	SermText text;
	uint32_t id;
	bool special;    /* never found in a text */
	bool lstrip;     /* swallows the white space before it */
	bool rstrip;     /* and behind it */
	bool normalized; /* looked for after normalising */
} SermAddedToken;

typedef struct SermMerge {
	SermText left;
	SermText right;
} SermMerge;

/* What a tokenizer is made of. */
typedef struct SermTokenizerSpec {
	SermTokenizerKind kind;
	uint32_t normalize;     /* of SermNormalize */
	const SermText *pieces; /* by id; an empty one is an id that no text yields */
	uint32_t piece_count;
	const SermAddedToken *added;
	uint32_t added_count;
	SermTemplate single;
	SermTemplate pair;
	uint32_t unk_id;     /* BPE: SERM_TOKEN_NONE */
	uint32_t pad_id;     /* or SERM_TOKEN_NONE */
	uint32_t tokens_max; /* of an input; 0: not said */

	SermText continuing; /* WordPiece: before pieces inside a word, "##" */
	uint32_t word_max;   /* WordPiece: code points of a word, longer ones are unknown */

	const SermMerge *merges; /* BPE, the first one first */
	uint32_t merge_count;

	const double *scores; /* Unigram, by id */
	SermText charsmap;    /* with SERM_NORMALIZE_CHARSMAP */

	const SermWatch *watch; /* asked while the tables are built, or NULL */
} SermTokenizerSpec;

typedef struct SermTokenizer SermTokenizer;

/*
 * Build the tables in `arena`. Errors: INVALID, LIMIT for a spec that cannot be one; MEMORY; CANCELED.
 */
extern SermStatus serm_tokenizer_write(const SermTokenizerSpec *spec, SermArena *arena,
    const unsigned char **bytes, size_t *length, SermError *error);

/* Open tables in place: `bytes` is aligned to SERM_ARENA_ALIGN and outlives the tokenizer. Errors: CORRUPT,
 * MEMORY. */
extern SermStatus serm_tokenizer_open(const unsigned char *bytes, size_t length, SermArena *arena,
    const SermTokenizer **tokenizer, SermError *error);

extern SermTokenizerKind serm_tokenizer_kind(const SermTokenizer *tokenizer);
extern uint32_t serm_tokenizer_vocab(const SermTokenizer *tokenizer);
extern uint32_t serm_tokenizer_tokens_max(const SermTokenizer *tokenizer); /* 0: not said */
extern uint32_t serm_tokenizer_pad(const SermTokenizer *tokenizer);        /* or SERM_TOKEN_NONE */
/* The id of what the vocabulary cannot spell, or SERM_TOKEN_NONE */
extern uint32_t serm_tokenizer_unknown(const SermTokenizer *tokenizer);
/* The piece of an id as the vocabulary spells it; empty for an id without one. */
extern SermText serm_tokenizer_piece(const SermTokenizer *tokenizer, uint32_t id);
/*
 * What the piece of an id stands for, without marks, in `out` [SERM_PIECE_BYTES_MAX]; returns its bytes. Sets
 * whether a word begins with it. For people to read.
 */
extern size_t serm_tokenizer_spell(const SermTokenizer *tokenizer, uint32_t id, char *out, bool *begins);
/* Does a word begin with the piece of this id, as far as the piece tells? */
extern bool serm_tokenizer_begins(const SermTokenizer *tokenizer, uint32_t id);
/* Equal for tokenizers that give the same ids. */
extern uint64_t serm_tokenizer_fingerprint(const SermTokenizer *tokenizer);
extern bool serm_tokenizer_special(const SermTokenizer *tokenizer, uint32_t id);
/* How many types (segments) its templates use. */
extern uint32_t serm_tokenizer_types(const SermTokenizer *tokenizer);
/* Special tokens that a single text, or a pair, is given. */
extern uint32_t serm_tokenizer_overhead(const SermTokenizer *tokenizer, bool pair);

/*
 * The ids of a text without special tokens, the first `tokens_max` of them; *ids is in `arena`. Bytes that
 * are no UTF-8 count as U+FFFD. Memory is linear in the text, and time in the text times the longest piece:
 * a vocabulary may make that long, so whoever watches (NULL: nobody) is asked. Errors: LIMIT for a text of
 * more than 1 MiB; MEMORY; CANCELED.
 */
extern SermStatus serm_tokenizer_encode(const SermTokenizer *tokenizer, SermText text, uint32_t tokens_max,
    const SermWatch *watch, SermArena *arena, const uint32_t **ids, uint32_t *count, SermError *error);

typedef enum SermTruncation {
	SERM_TRUNCATE_LONGEST_FIRST = 0, /* the longer text gives first */
	SERM_TRUNCATE_ONLY_SECOND        /* the document gives alone */
} SermTruncation;

/* How many tokens of the second text decide how a pair is cut. */
static inline uint32_t
serm_tokenizer_wanted(uint32_t first_count, uint32_t tokens_max)
{
	return first_count < tokens_max ? tokens_max : first_count + 1;
}

typedef struct SermTokens {
	uint32_t *ids; /* what the encoder reads, special tokens included */
	uint8_t *types;
	uint32_t count;
	/* Where the two texts lie in it. */
	uint32_t first_start, first_count;
	uint32_t second_start, second_count;
} SermTokens;

/*
 * Put the ids of two texts together as the encoder expects a pair, in at most `tokens_max` tokens. Which text
 * is the longer one decides where an odd token goes: give the first one in full and of the second at least
 * serm_tokenizer_wanted(). Error: INVALID when the special tokens alone, or the first text under ONLY_SECOND,
 * leave no room.
 */
extern SermStatus serm_tokenizer_pair(const SermTokenizer *tokenizer, const uint32_t *first,
    uint32_t first_count, const uint32_t *second, uint32_t second_count, uint32_t tokens_max,
    SermTruncation truncation, SermArena *arena, SermTokens *tokens, SermError *error);
/* The same for one text. */
extern SermStatus serm_tokenizer_single(const SermTokenizer *tokenizer, const uint32_t *ids, uint32_t count,
    uint32_t tokens_max, SermArena *arena, SermTokens *tokens, SermError *error);

#endif
