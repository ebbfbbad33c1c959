/*
 * From the files of a model repository to what a tokenizer is made of. What
 * the files ask for and the tokenizers of core/text do not do is refused with
 * a message that says what is supported; nothing is left out in silence.
 */
#ifndef SERM_CORE_MODEL_TOKENIZER_READ_H
#define SERM_CORE_MODEL_TOKENIZER_READ_H

#include "core/model/cross_encoder_config.h"
#include "core/model/json.h"
#include "core/text/tokenizer.h"

/* Files by their bytes; `bytes` NULL for one that is not there. */
typedef struct SermTokenizerFiles {
	SermText tokenizer;        /* tokenizer.json: the others are not needed then */
	SermText tokenizer_config; /* tokenizer_config.json */
	SermText vocab_txt;        /* WordPiece, one token a line */
	SermText vocab_json;       /* byte-level BPE, with merges */
	SermText merges;           /* merges.txt */
	const SermWatch *watch;    /* asked while they are read and, by way of the spec, written; or NULL */
} SermTokenizerFiles;

/*
 * Read the files into `spec`, whose parts lie in `arena` and in the files. Errors: CORRUPT for files that are
 * not what they should be; INVALID for a tokenizer that is not supported; LIMIT, MEMORY, CANCELED.
 */
extern SermStatus serm_tokenizer_read(
    const SermTokenizerFiles *files, SermArena *arena, SermTokenizerSpec *spec, SermError *error);

/* --- shared by tokenizer_read.c and tokenizer_json.c */

/* Read tokenizer.json alone. */
extern SermStatus serm_tokenizer_read_json(
    SermText file, SermArena *arena, SermTokenizerSpec *spec, SermError *error);
/* The id of a piece, by comparing all; SERM_TOKEN_NONE without it. */
extern uint32_t serm_tokenizer_piece_id(const SermTokenizerSpec *spec, const char *piece);
/* The vocabulary {"piece": id, ...}. */
extern SermStatus serm_tokenizer_read_vocab(
    const SermJson *json, uint32_t object, SermArena *arena, SermTokenizerSpec *spec, SermError *error);
/* Templates by which single texts and pairs are framed, with `between` two separators or one. */
extern void serm_tokenizer_frame(
    SermTokenizerSpec *spec, uint32_t begin, uint32_t separator, bool twice, uint32_t second_type);

#endif
