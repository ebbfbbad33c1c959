/*
 * From the log-probabilities of tokens to a distribution over grades: what a
 * language model thinks of each grade at the place where it writes one (as in
 * RankVicuna and monoT5; OpenAI's chat completions with `logprobs`).
 *
 * Invariant: a distribution comes only out of a reply that is strict JSON, whose
 * grade stands where the question asked for it, and whose log-probabilities are
 * finite numbers of at most 0 that sum to at most 1. It has no zero and sums to 1.
 */
#ifndef SERM_CORE_AGENT_LOGPROB_H
#define SERM_CORE_AGENT_LOGPROB_H

#include "core/agent/reply.h"

#define SERM_LOGPROB_GRADES_MAX 10
/* What a grade has that is not among the tokens told, or less probable than this: 1 in 22,000. */
#define SERM_LOGPROB_FLOOR (-10.0)
/* Tokens to ask for at each place; more than common servers tell. */
#define SERM_LOGPROB_TOP 20

typedef struct SermLogprobs {
	const char *problem;                        /* a sentence; NULL: there is a distribution */
	float probability[SERM_LOGPROB_GRADES_MAX]; /* of each grade */
	double mass;                                /* of the grades among all tokens, before it became 1 */
	int32_t tokens_prompt;                      /* -1: not told */
	int32_t tokens_completion;
} SermLogprobs;

/*
 * Read the body of a chat completion. The first token that is a grade is looked at, if nothing stands before
 * it but what belongs to {"grade": (white space aside). Tokens that are the same grade with and without
 * blanks add up. The status is not OK only when memory is out; see `problem`.
 */
extern SermStatus serm_logprobs_parse(
    SermText body, uint32_t grade_count, SermArena *arena, SermLogprobs *logprobs, SermError *error);

#endif
