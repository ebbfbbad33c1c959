/*
 * How fast a server may be asked, and whether at all: token buckets for requests
 * and tokens per minute, a rest that the server itself asked for (429, 503,
 * Retry-After), and a circuit breaker (Nygard, "Release It!", 2018) with one probe
 * at a time. A pure state machine over a monotonic clock in milliseconds; the
 * state belongs to one server and is shared by all who ask it.
 *
 * Being limited is not a failure: it opens no breaker and costs no attempt.
 */
#ifndef SERM_CORE_AGENT_LIMIT_H
#define SERM_CORE_AGENT_LIMIT_H

#include "core/agent/retry.h"

/* Failures in a row, by anybody, that open the breaker. */
#define SERM_LIMIT_FAILURES 5
/* It stays open 2 s, twice as long each time, 60 s at most. */
#define SERM_LIMIT_OPEN_FIRST_MS 2000
#define SERM_LIMIT_OPEN_MAX_MS 60000

typedef struct SermRates {
	double requests_per_minute; /* 0: no limit */
	double tokens_per_minute;   /* 0: no limit */
} SermRates;

typedef struct SermServerState {
	double requests; /* what the buckets hold; tokens may be owed */
	double tokens;
	int64_t filled_ms;        /* when they were last filled; 0: never, they are full */
	int64_t rests_until_ms;   /* nobody asks before */
	int64_t failing_since_ms; /* the first failure since the last answer; 0: none */
	int64_t failed_ms;        /* the last one */
	int32_t failures;         /* in a row */
	int32_t openings;         /* of the breaker, since the last answer; > 0: a probe decides */
	int32_t refusals;         /* 429 and 503 in a row */
} SermServerState;

typedef enum SermServerEvent {
	SERM_SERVER_UNTOUCHED, /* nobody asked it: what was taken for it goes back */
	SERM_SERVER_ANSWERED,  /* it is well, whatever it said */
	SERM_SERVER_LIMITED,   /* 429 or 503 */
	SERM_SERVER_FAILED     /* unreachable, silent, broken, or another 5xx */
} SermServerEvent;

/* What the end of a request says about the server. */
extern SermServerEvent serm_limit_event(SermOutcome outcome, int http_status);

/*
 * Fill the buckets up to now. They hold what a second gives, but at least one
 * request, so that no minute sees much more than its allowance.
 * A clock that went back (a restart of the machine) fills nothing.
 */
extern void serm_limit_fill(SermServerState *state, const SermRates *rates, int64_t now_ms);

/* How many requests may start now, `in_flight` being on their way; the buckets must be filled. */
extern int32_t serm_limit_allowance(
    const SermServerState *state, const SermRates *rates, int64_t now_ms, int32_t in_flight);

/* Milliseconds until something may start (0: now), for a server that allows nothing. */
extern int64_t serm_limit_wait(const SermServerState *state, const SermRates *rates, int64_t now_ms);

/* Take `requests` and an estimate of `tokens` out of the buckets. */
extern void serm_limit_take(SermServerState *state, const SermRates *rates, int32_t requests, double tokens);

/*
 * What became of a request. `tokens_more` is what it used beyond the estimate
 * (negative: less), retry_after_ms < 0 says that the server named no time, `uniform`
 * is a draw from [0, 1) for the jitter.
 */
extern void serm_limit_note(SermServerState *state, const SermRates *rates, SermServerEvent event,
    double tokens_more, int64_t retry_after_ms, int64_t now_ms, double uniform);

/* Has it failed for `outage_ms`, with somebody asking all the while, so that nobody should wait for it? */
extern bool serm_limit_lost(const SermServerState *state, int64_t outage_ms);
/* Nobody waits any more: the next request is a probe, and a new outage begins with it. */
extern void serm_limit_forgive(SermServerState *state);

#endif
