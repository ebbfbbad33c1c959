/*
 * What an agent is asked. Queries, documents and evidence are data of unknown
 * authors: they stand between lines that carry a random 128-bit number, after a
 * system text that says so, with everything removed that could hide text from a
 * reader or forge such a line.
 */
#ifndef SERM_CORE_AGENT_PROMPT_H
#define SERM_CORE_AGENT_PROMPT_H

#include "core/agent/question.h"
#include "core/agent/writer.h"

#define SERM_PROMPT_NONCE_BYTES 16
#define SERM_PROMPT_QUERY_BYTES_MAX ((size_t) 2000)
#define SERM_PROMPT_DOC_BYTES_MAX ((size_t) 16000)
#define SERM_PROMPT_LIST_BYTES_MAX ((size_t) 40000) /* all documents of a list together */
#define SERM_PROMPT_EVIDENCE_BYTES_MAX ((size_t) 8000)
#define SERM_PROMPT_INSTRUCTIONS_BYTES_MAX ((size_t) 16000)
#define SERM_PROMPT_GRADES_MAX 10
#define SERM_PROMPT_EXAMPLES_MAX 20
#define SERM_PROMPT_EXAMPLE_QUERY_BYTES_MAX ((size_t) 400)
#define SERM_PROMPT_EXAMPLE_DOC_BYTES_MAX ((size_t) 1200)
#define SERM_PROMPT_CANARY_BYTES 16
#define SERM_PROMPT_GRADE_NAME_BYTES_MAX ((size_t) 64)

/* A pair that people have graded, to be shown as it is done. */
typedef struct SermPromptExample {
	SermText query;
	SermText doc;
	uint32_t grade;
} SermPromptExample;

typedef struct SermPromptInput {
	SermForm form;
	SermText query;
	const SermText *docs; /* one, or those to be compared in the order in which they are shown */
	uint32_t doc_count;
	SermText evidence;                 /* bytes NULL or empty: none */
	const SermPromptExample *examples; /* of ABSOLUTE */
	uint32_t example_count;
	bool canary; /* put an instruction among the data that no judge should obey */
	const SermText *grade_names;
	uint32_t grade_count;
	SermText instructions; /* replaces the first paragraph of the system text; bytes NULL: the built-in one */
	uint8_t nonce[SERM_PROMPT_NONCE_BYTES];
	/* NULL, or a prompt of the same form, number of documents, grades and instructions, which is still there:
	 * its system text need not be written again. */
	const struct SermPrompt *like;
} SermPromptInput;

typedef struct SermPrompt {
	SermText system;
	SermText system_json; /* the same as a JSON string */
	SermText user;
	/* What a judge says first that obeys the canary; empty without one. It follows from the nonce alone, so
	 * that no author knows it. */
	char canary[SERM_PROMPT_CANARY_BYTES];
} SermPrompt;

typedef struct SermRequest {
	SermText model;
	double temperature;
	uint64_t seed; /* sent as a non-negative 31-bit number: some servers read 32-bit signed */
	uint32_t tokens_max;
	bool json_mode;        /* ask for response_format json_object */
	uint32_t top_logprobs; /* ask for the log-probabilities of so many tokens at each place; 0: of none */
} SermRequest;

/*
 * Text fit for a prompt: valid UTF-8 without control, bidirectional, tag and
 * other invisible characters; line feeds and tabs stay; at most `bytes_max`
 * bytes, and *cut tells whether more was there.
 */
extern SermStatus serm_prompt_clean(
    SermText text, size_t bytes_max, SermArena *arena, SermText *clean, bool *cut, SermError *error);

/* Errors: INVALID for a bad grade list, a number of documents that does not fit the form, or a text that
 * contains the nonce (draw another). */
extern SermStatus serm_prompt_build(
    const SermPromptInput *input, SermArena *arena, SermPrompt *prompt, SermError *error);

/* Does a rationale begin with the canary, in whatever letters and after whatever marks? Quoting it later is
 * not obeying. */
extern bool serm_prompt_canary_obeyed(SermText rationale, const char *canary);

/* The body of an OpenAI-compatible chat completion request. */
extern SermStatus serm_prompt_request(
    const SermPrompt *prompt, const SermRequest *request, SermArena *arena, SermText *body, SermError *error);

#endif
