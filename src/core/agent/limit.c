#include "core/agent/limit.h"

#include <math.h>

#define MINUTE_MS 60000.0
/* Failures further apart belong to two outages: more than the longest request and the longest rest. */
#define OUTAGE_GAP_MS 900000
/* The share of a minute that a bucket holds: a second's. */
#define BURST (1.0 / 60.0)

SermServerEvent
serm_limit_event(SermOutcome outcome, int http_status)
{
	switch (outcome) {
		case SERM_OUTCOME_HTTP:
			if (serm_retry_limited(outcome, http_status))
				return SERM_SERVER_LIMITED;
			return http_status == 408 || http_status >= 500 ? SERM_SERVER_FAILED : SERM_SERVER_ANSWERED;
		case SERM_OUTCOME_MALFORMED:
		case SERM_OUTCOME_SUSPECT:
		case SERM_OUTCOME_TOO_LARGE:
			return SERM_SERVER_ANSWERED;
		case SERM_OUTCOME_CONNECT:
		case SERM_OUTCOME_TIMEOUT:
		case SERM_OUTCOME_BROKEN:
		case SERM_OUTCOME_CERTIFICATE:
			return SERM_SERVER_FAILED;
		case SERM_OUTCOME_FORBIDDEN:
		case SERM_OUTCOME_CONFIG:
		case SERM_OUTCOME_COUNT:
			break;
	}
	return SERM_SERVER_UNTOUCHED;
}

static double
capacity(double per_minute)
{
	return fmax(1.0, per_minute * BURST);
}

static void
fill_bucket(double *level, double per_minute, double elapsed_ms, bool first)
{
	if (per_minute <= 0)
		*level = 0;
	else
		*level = first ? capacity(per_minute)
		               : fmin(capacity(per_minute), *level + per_minute * elapsed_ms / MINUTE_MS);
}

void
serm_limit_fill(SermServerState *state, const SermRates *rates, int64_t now_ms)
{
	double elapsed = now_ms > state->filled_ms ? (double) (now_ms - state->filled_ms) : 0.0;
	bool first = state->filled_ms == 0;

	/* A rest that is longer than any that is set comes from before a restart. */
	if (state->rests_until_ms > now_ms + SERM_RETRY_AFTER_MAX_MS)
		state->rests_until_ms = now_ms;
	if (state->failing_since_ms > now_ms)
		state->failing_since_ms = state->failed_ms = now_ms;
	fill_bucket(&state->requests, rates->requests_per_minute, elapsed, first);
	fill_bucket(&state->tokens, rates->tokens_per_minute, elapsed, first);
	state->filled_ms = now_ms;
}

int32_t
serm_limit_allowance(const SermServerState *state, const SermRates *rates, int64_t now_ms, int32_t in_flight)
{
	double allowed = INT32_MAX;

	if (now_ms < state->rests_until_ms)
		return 0;
	if (state->openings > 0)
		return in_flight > 0 ? 0 : 1;
	if (rates->requests_per_minute > 0)
		allowed = floor(state->requests + 1e-9);
	if (rates->tokens_per_minute > 0 && state->tokens <= 0)
		allowed = 0;
	return (int32_t) fmax(0.0, allowed);
}

static double
time_to(double level, double wanted, double per_minute)
{
	return per_minute > 0 && level < wanted ? (wanted - level) * MINUTE_MS / per_minute : 0.0;
}

int64_t
serm_limit_wait(const SermServerState *state, const SermRates *rates, int64_t now_ms)
{
	double rest = state->rests_until_ms > now_ms ? (double) (state->rests_until_ms - now_ms) : 0.0;

	rest = fmax(rest, time_to(state->requests, 1.0, rates->requests_per_minute));
	rest = fmax(rest, time_to(state->tokens, 1.0, rates->tokens_per_minute));
	return (int64_t) ceil(rest);
}

void
serm_limit_take(SermServerState *state, const SermRates *rates, int32_t requests, double tokens)
{
	if (rates->requests_per_minute > 0)
		state->requests -= requests;
	if (rates->tokens_per_minute > 0)
		state->tokens -= tokens;
}

/* base, doubled for each earlier time, at most `most`. */
static double
doubled(double base, int32_t times, double most)
{
	return fmin(most, base * pow(2.0, fmin(times, 30)));
}

static void
rest(SermServerState *state, int64_t now_ms, double wait_ms)
{
	int64_t until = now_ms + (int64_t) wait_ms;

	if (until > state->rests_until_ms)
		state->rests_until_ms = until;
}

static void
note_limited(SermServerState *state, int64_t retry_after_ms, int64_t now_ms, double uniform)
{
	double backoff = uniform * doubled(SERM_RETRY_BASE_MS, state->refusals, SERM_RETRY_CAP_MS);

	state->refusals++;
	rest(state, now_ms, fmin(SERM_RETRY_AFTER_MAX_MS, fmax((double) retry_after_ms, backoff)));
}

static void
note_failure(SermServerState *state, int64_t now_ms, double uniform)
{
	if (state->failing_since_ms == 0 || now_ms - state->failed_ms > OUTAGE_GAP_MS)
		state->failing_since_ms = now_ms;
	state->failed_ms = now_ms;
	state->failures++;
	/* Requests that were on their way when it opened change nothing. */
	if (state->failures < SERM_LIMIT_FAILURES || now_ms < state->rests_until_ms)
		return;
	/* Half of it is jitter, so that many askers do not probe in step. */
	rest(state, now_ms,
	    doubled(SERM_LIMIT_OPEN_FIRST_MS, state->openings, SERM_LIMIT_OPEN_MAX_MS) * (0.5 + 0.5 * uniform));
	state->openings++;
}

void
serm_limit_note(SermServerState *state, const SermRates *rates, SermServerEvent event, double tokens_more,
    int64_t retry_after_ms, int64_t now_ms, double uniform)
{
	SERM_ASSERT(uniform >= 0.0 && uniform < 1.0);
	if (rates->tokens_per_minute > 0)
		state->tokens -= tokens_more;
	switch (event) {
		case SERM_SERVER_UNTOUCHED:
			if (rates->requests_per_minute > 0)
				state->requests += 1;
			break;
		case SERM_SERVER_ANSWERED:
			state->failures = state->openings = state->refusals = 0;
			state->failing_since_ms = 0;
			break;
		case SERM_SERVER_LIMITED:
			/* Whoever can refuse is there. */
			state->failures = state->openings = 0;
			state->failing_since_ms = 0;
			note_limited(state, retry_after_ms, now_ms, uniform);
			break;
		case SERM_SERVER_FAILED:
			note_failure(state, now_ms, uniform);
			break;
	}
}

bool
serm_limit_lost(const SermServerState *state, int64_t outage_ms)
{
	return state->openings > 0 && state->failed_ms - state->failing_since_ms >= outage_ms;
}

void
serm_limit_forgive(SermServerState *state)
{
	state->failing_since_ms = state->failed_ms = state->rests_until_ms = 0;
	state->failures = SERM_LIMIT_FAILURES;
	state->openings = 1;
}
