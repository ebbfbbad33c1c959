/*
 * From the bytes of an answer to a grade or places, or to the reason why there is none.
 *
 * Invariant: an answer comes only out of a reply that is valid UTF-8, at most
 * SERM_REPLY_DEPTH_MAX deep, strict JSON (RFC 8259) to its last byte, and holds
 * one object with the key of the question's form and, if at all, "rationale" (text),
 * each once: "grade" (an integer in range), "better" (0, 1 or 2) or "order" (an
 * array with each document's number once). White space and one markdown code fence
 * around the object are forgiven, nothing else. There is no default answer.
 */
#ifndef SERM_CORE_AGENT_REPLY_H
#define SERM_CORE_AGENT_REPLY_H

#include "core/agent/question.h"
#include "core/base/arena.h"
#include "core/text/text.h"

#define SERM_REPLY_BYTES_MAX ((size_t) 256 * 1024)
#define SERM_REPLY_DEPTH_MAX 32
#define SERM_REPLY_RATIONALE_MAX 2000 /* characters kept */

typedef enum SermReplyReason {
	SERM_REPLY_OK = 0,
	SERM_REPLY_EMPTY,
	SERM_REPLY_TOO_LARGE,
	SERM_REPLY_NOT_UTF8,
	SERM_REPLY_TOO_DEEP,
	SERM_REPLY_NOT_JSON,      /* the HTTP body */
	SERM_REPLY_NO_CONTENT,    /* no choices[0].message.content */
	SERM_REPLY_REFUSED,       /* the model or a filter declined */
	SERM_REPLY_TRUNCATED,     /* finish_reason "length" and no valid answer */
	SERM_REPLY_CONTENT_JSON,  /* the content is not one JSON text */
	SERM_REPLY_NOT_OBJECT,    /* it is one, but not an object */
	SERM_REPLY_UNKNOWN_KEY,   /* a key besides that of the form and rationale */
	SERM_REPLY_DUPLICATE_KEY, /* which of the two is meant is not ours to guess */
	SERM_REPLY_NO_GRADE,
	SERM_REPLY_GRADE_TYPE,
	SERM_REPLY_GRADE_FRACTION,
	SERM_REPLY_GRADE_RANGE,
	SERM_REPLY_NO_CHOICE, /* of a question that compares: neither better nor order */
	SERM_REPLY_CHOICE,    /* better is not 0, 1 or 2 */
	SERM_REPLY_ORDER,     /* order is not each number once */
	SERM_REPLY_RATIONALE_TYPE,
	SERM_REPLY_REASON_COUNT
} SermReplyReason;

typedef struct SermReply {
	SermReplyReason reason;
	int32_t grade; /* -1 unless reason is OK and the form ABSOLUTE */
	/* Of each document that was compared, in the order in which they were shown: 1 is the best, equal places
	 * are a tie; 0 unless reason is OK. */
	uint8_t place[SERM_QUESTION_DOCS_MAX];
	SermText rationale;    /* cleaned and clipped, in the arena; empty when absent */
	int32_t tokens_prompt; /* -1: not told */
	int32_t tokens_completion;
} SermReply;

/* A short name for tables and tests ("grade_range"), and a sentence for people. */
extern const char *serm_reply_reason_name(SermReplyReason reason);
extern const char *serm_reply_reason_text(SermReplyReason reason);

/* Read the body of a chat completion. The status is not OK only when memory is out; see reply->reason. */
extern SermStatus serm_reply_parse(
    SermText body, SermQuestion question, SermArena *arena, SermReply *reply, SermError *error);

/* Read the content of the message alone. */
extern SermStatus serm_reply_parse_content(
    SermText content, SermQuestion question, SermArena *arena, SermReply *reply, SermError *error);

#endif
