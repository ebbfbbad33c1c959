/*
 * When to ask an agent again: a pure state machine over what one attempt gave.
 * This is the only retry loop there is. Waits are full-jitter exponential
 * (Brooker, "Exponential backoff and jitter", 2015), 0.5 s doubling to 30 s;
 * a Retry-After of at most 120 s is honoured, a longer one counts as 120 s.
 */
#ifndef SERM_CORE_AGENT_RETRY_H
#define SERM_CORE_AGENT_RETRY_H

#include "core/base/status.h"
#include "core/text/text.h"

#define SERM_RETRY_BASE_MS 500
#define SERM_RETRY_CAP_MS 30000
#define SERM_RETRY_AFTER_MAX_MS 120000
/* A judge that answers nonsense is asked twice more, however many attempts are allowed for weather. */
#define SERM_RETRY_REASKS_MAX 2

typedef enum SermOutcome {
	SERM_OUTCOME_HTTP = 0, /* a complete reply with an HTTP status */
	SERM_OUTCOME_CONNECT,  /* refused, unreachable, no such name, TLS handshake broken off */
	SERM_OUTCOME_TIMEOUT,
	SERM_OUTCOME_BROKEN,      /* the connection ended before the reply did */
	SERM_OUTCOME_MALFORMED,   /* 200, but no grade in it */
	SERM_OUTCOME_SUSPECT,     /* 200, from a judge that obeys what stands in the data */
	SERM_OUTCOME_TOO_LARGE,   /* stopped at the cap */
	SERM_OUTCOME_FORBIDDEN,   /* an address or protocol that the rules refuse */
	SERM_OUTCOME_CERTIFICATE, /* the peer is not who it claims */
	SERM_OUTCOME_CONFIG,      /* this side is set up wrong: no key, no endpoint */
	SERM_OUTCOME_COUNT
} SermOutcome;

typedef enum SermRetryAction {
	SERM_RETRY_DONE,    /* the reply can be read */
	SERM_RETRY_AGAIN,   /* after delay_ms */
	SERM_RETRY_GIVE_UP, /* store an error vote */
} SermRetryAction;

typedef struct SermRetryInput {
	SermOutcome outcome;
	int http_status;        /* for OUTCOME_HTTP */
	int64_t retry_after_ms; /* < 0: none */
	uint32_t attempt;       /* this one, from 1 */
	uint32_t attempts_max;
	double uniform; /* a draw from [0, 1) */
} SermRetryInput;

typedef struct SermRetryDecision {
	SermRetryAction action;
	uint32_t delay_ms;
	bool counted; /* this attempt is one of attempts_max; being limited (429, 503) is none */
} SermRetryDecision;

/* 429 and 503: the server is well and asks for patience (RFC 9110 section 15.6.4, RFC 6585 section 4). */
extern bool serm_retry_limited(SermOutcome outcome, int http_status);
/* Could asking again help? 408, 409, 429 and 5xx say so; other statuses do not. */
extern bool serm_retry_worthwhile(SermOutcome outcome, int http_status);
extern SermRetryDecision serm_retry_decide(const SermRetryInput *input);

/*
 * The value of a Retry-After header in milliseconds: seconds, or one of the three
 * HTTP date forms of RFC 9110 section 5.6.7 against `now` (Unix seconds; a date in
 * the past is 0). -1: not understood. Saturates at INT64_MAX / 2.
 */
extern int64_t serm_retry_after_parse(SermText value, int64_t now);
/* The value of retry-after-ms, which some endpoints send as well: a whole number of milliseconds; else -1. */
extern int64_t serm_retry_after_ms_parse(SermText value);

#endif
