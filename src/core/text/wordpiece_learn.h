/*
 * A WordPiece vocabulary from texts (Schuster and Nakajima 2012), for an
 * uncased BERT tokenizer. Words are normalised and cut as the tokenizer will
 * do it, broken into characters, and then the most frequent pair of adjacent
 * pieces is joined, again and again, until the vocabulary is full. Joining by
 * frequency is byte-pair encoding (Sennrich, Haddow and Birch, ACL 2016), and
 * what the trainer for WordPiece of Hugging Face's tokenizers does; the original
 * joins by gain in likelihood, which on little text prefers rare pairs.
 *
 * The texts alone decide the result: ties go to the pair that was made first.
 */
#ifndef SERM_CORE_TEXT_WORDPIECE_LEARN_H
#define SERM_CORE_TEXT_WORDPIECE_LEARN_H

#include "core/text/text.h"

#define SERM_WORDPIECE_VOCAB_MIN 64
/* Distinct words that are counted; further ones that are new are not. */
#define SERM_WORDPIECE_WORDS_MAX 1000000

/* The ids of the special tokens, which come first. */
enum { SERM_WORDPIECE_PAD, SERM_WORDPIECE_UNK, SERM_WORDPIECE_CLS, SERM_WORDPIECE_SEP, SERM_WORDPIECE_MASK };

typedef struct SermWordpieceLearner {
	const SermText *texts; /* UTF-8; what is none counts as U+FFFD */
	size_t text_count;
	uint32_t vocab;           /* pieces at most, special tokens included */
	uint32_t count_min;       /* a pair that occurs less often is not joined; default 2 */
	SermKeepGoing keep_going; /* required */
	void *context;
} SermWordpieceLearner;

/*
 * The vocabulary in the form of vocab.txt, one piece a line: [PAD], [UNK], [CLS], [SEP], [MASK], the
 * characters, what was joined. Errors: INVALID (vocab out of range), NO_DATA (no word), CANCELED, MEMORY.
 */
extern SermStatus serm_wordpiece_learn(
    const SermWordpieceLearner *learner, SermArena *arena, SermText *vocab_txt, SermError *error);

#endif
