#include "core/agent/limit.h"
#include "core/agent/retry.h"
#include "core/base/rng.h"
#include "unit.h"

#define START INT64_C(1000000)

static const SermRates no_rates = {0, 0};

static void
test_unlimited(void)
{
	SermServerState state = {0};

	serm_limit_fill(&state, &no_rates, START);
	CHECK(serm_limit_allowance(&state, &no_rates, START, 1000) == INT32_MAX, "no rates, no limit");
	CHECK(serm_limit_wait(&state, &no_rates, START) == 0, "and no wait");
	serm_limit_take(&state, &no_rates, 1000, 1e9);
	CHECK(serm_limit_allowance(&state, &no_rates, START, 0) == INT32_MAX, "however much is taken");
}

/* Ask as fast as allowed for ten minutes: every minute keeps to the rate, and the rate is used. */
static void
test_request_rate(double rate)
{
	SermRates rates = {rate, 0};
	SermServerState state = {0};
	static int32_t minute[10];
	int64_t total = 0, worst = 0;

	memset(minute, 0, sizeof(minute));
	for (int64_t ms = 0; ms < 600000; ms += 50) {
		int32_t allowed;

		serm_limit_fill(&state, &rates, START + ms);
		allowed = serm_limit_allowance(&state, &rates, START + ms, 0);
		serm_limit_take(&state, &rates, allowed, 0);
		minute[ms / 60000] += allowed;
		total += allowed;
	}
	for (int i = 0; i < 10; i++)
		if (minute[i] > worst)
			worst = minute[i];
	CHECK((double) worst <= rate + fmax(1.0, rate / 60) + 1, "%g a minute: never more than a second's beyond",
	    rate);
	CHECK((double) total >= 9.8 * rate, "%g a minute: the rate is used", rate);
}

static void
test_token_rate(void)
{
	SermRates rates = {0, 60000}; /* a thousand a second */
	SermServerState state = {0};
	int64_t now = START, spent = 0;
	SermRng rng;

	serm_rng_seed(&rng, 7);
	for (int i = 0; i < 200; i++) {
		serm_limit_fill(&state, &rates, now);
		now += serm_limit_wait(&state, &rates, now);
		serm_limit_fill(&state, &rates, now);
		CHECK(serm_limit_allowance(&state, &rates, now, 0) > 0, "after the wait there is room (%d)", i);
		/* An estimate of 800 that turns out to be anything from 200 to 1,400. */
		serm_limit_take(&state, &rates, 1, 800);
		int used = 200 + (int) serm_rng_below(&rng, 1200);

		serm_limit_note(&state, &rates, SERM_SERVER_ANSWERED, used - 800, -1, now, 0.5);
		spent += used;
	}
	CHECK_NEAR(
	    (double) (now - START), (double) spent, 4000, "tokens flow at their rate whatever was estimated");
}

static void
test_given_back(void)
{
	SermRates rates = {120, 60000};
	SermServerState state = {0};

	serm_limit_fill(&state, &rates, START);
	serm_limit_take(&state, &rates, 2, 5000);
	CHECK(serm_limit_allowance(&state, &rates, START, 0) == 0, "all is taken");
	serm_limit_note(&state, &rates, SERM_SERVER_UNTOUCHED, -2500, -1, START, 0.5);
	CHECK(state.requests == 1 && state.tokens == -1500, "one that is not sent gives back what it took");
	serm_limit_note(&state, &rates, SERM_SERVER_UNTOUCHED, -2500, -1, START, 0.5);
	CHECK(serm_limit_allowance(&state, &rates, START, 0) == 2, "and another may be");
}

static void
test_rest(void)
{
	SermServerState state = {0};
	int64_t now = START;

	serm_limit_fill(&state, &no_rates, now);
	serm_limit_note(&state, &no_rates, SERM_SERVER_LIMITED, 0, 7000, now, 0.5);
	CHECK(serm_limit_allowance(&state, &no_rates, now + 6999, 0) == 0, "nobody asks before the time named");
	CHECK(serm_limit_allowance(&state, &no_rates, now + 7000, 9) == INT32_MAX, "everybody may after it");
	CHECK(serm_limit_wait(&state, &no_rates, now + 1000) == 6000, "the wait is what is left");
	serm_limit_note(&state, &no_rates, SERM_SERVER_LIMITED, 0, INT64_MAX / 2, now, 0.5);
	CHECK(serm_limit_wait(&state, &no_rates, now) == SERM_RETRY_AFTER_MAX_MS, "120 s at most");
	CHECK(state.openings == 0 && state.failures == 0, "being limited opens no breaker");

	state = (SermServerState){0};
	int64_t before = 0;
	bool grows = true;

	for (int i = 0; i < 8; i++) {
		int64_t wait;

		now += 1000000;
		serm_limit_note(&state, &no_rates, SERM_SERVER_LIMITED, 0, -1, now, 0.999);
		wait = serm_limit_wait(&state, &no_rates, now);
		grows = grows && wait >= before && wait <= SERM_RETRY_CAP_MS;
		before = wait;
	}
	CHECK(grows && before > SERM_RETRY_CAP_MS / 2, "without a time the wait grows to its cap");
	serm_limit_note(&state, &no_rates, SERM_SERVER_ANSWERED, 0, -1, now, 0.5);
	serm_limit_note(&state, &no_rates, SERM_SERVER_LIMITED, 0, -1, now + 1000000, 0.999);
	CHECK(serm_limit_wait(&state, &no_rates, now + 1000000) <= SERM_RETRY_BASE_MS,
	    "an answer makes it short again");
}

static void
test_breaker(void)
{
	SermServerState state = {0};
	int64_t now = START, wait, before = 0;

	for (int i = 0; i < SERM_LIMIT_FAILURES - 1; i++)
		serm_limit_note(&state, &no_rates, SERM_SERVER_FAILED, 0, -1, now, 0.999);
	CHECK(serm_limit_allowance(&state, &no_rates, now, 3) == INT32_MAX, "four failures leave it closed");
	serm_limit_note(&state, &no_rates, SERM_SERVER_FAILED, 0, -1, now, 0.999);
	CHECK(serm_limit_allowance(&state, &no_rates, now, 0) == 0, "the fifth opens it");
	wait = serm_limit_wait(&state, &no_rates, now);
	CHECK(wait > 1900 && wait <= SERM_LIMIT_OPEN_FIRST_MS, "for two seconds");
	for (int i = 0; i < 16; i++)
		serm_limit_note(&state, &no_rates, SERM_SERVER_FAILED, 0, -1, now, 0.999);
	CHECK(serm_limit_wait(&state, &no_rates, now) == wait, "what was on its way changes nothing");
	for (int i = 0; i < 8; i++) {
		now += wait;
		CHECK(serm_limit_allowance(&state, &no_rates, now, 0) == 1, "then one probe");
		CHECK(serm_limit_allowance(&state, &no_rates, now, 1) == 0, "and only one at a time");
		serm_limit_note(&state, &no_rates, SERM_SERVER_FAILED, 0, -1, now, 0.999);
		before = wait;
		wait = serm_limit_wait(&state, &no_rates, now);
		CHECK(wait >= before && wait <= SERM_LIMIT_OPEN_MAX_MS, "a failed probe opens it for longer");
	}
	CHECK(state.failing_since_ms == START, "it knows since when it has failed");
	CHECK(serm_limit_lost(&state, 60000) && !serm_limit_lost(&state, 3600000), "and when that is too long");
	SermServerState forgiven = state;

	serm_limit_forgive(&forgiven);
	CHECK(serm_limit_allowance(&forgiven, &no_rates, now, 0) == 1, "who gave up probes the next time");
	serm_limit_note(&forgiven, &no_rates, SERM_SERVER_FAILED, 0, -1, now, 0.5);
	CHECK(!serm_limit_lost(&forgiven, 1000) && serm_limit_wait(&forgiven, &no_rates, now) > 0,
	    "and a new outage begins");
	now += wait;
	serm_limit_note(&state, &no_rates, SERM_SERVER_ANSWERED, 0, -1, now, 0.5);
	CHECK(serm_limit_allowance(&state, &no_rates, now, 5) == INT32_MAX, "an answer closes it");
	CHECK(state.failing_since_ms == 0 && state.failures == 0, "and forgets the failures");
}

static void
test_rare_failures(void)
{
	SermServerState state = {0};

	for (int i = 0; i < 10; i++)
		serm_limit_note(&state, &no_rates, SERM_SERVER_FAILED, 0, -1, START + i * INT64_C(3600000), 0.5);
	CHECK(!serm_limit_lost(&state, 600000), "ten failures in ten hours are no outage of ten hours");
}

static void
test_events(void)
{
	static const SermServerEvent events[SERM_OUTCOME_COUNT] = {
	    [SERM_OUTCOME_CONNECT] = SERM_SERVER_FAILED,
	    [SERM_OUTCOME_TIMEOUT] = SERM_SERVER_FAILED,
	    [SERM_OUTCOME_BROKEN] = SERM_SERVER_FAILED,
	    [SERM_OUTCOME_CERTIFICATE] = SERM_SERVER_FAILED,
	    [SERM_OUTCOME_MALFORMED] = SERM_SERVER_ANSWERED,
	    [SERM_OUTCOME_SUSPECT] = SERM_SERVER_ANSWERED,
	    [SERM_OUTCOME_TOO_LARGE] = SERM_SERVER_ANSWERED,
	    [SERM_OUTCOME_FORBIDDEN] = SERM_SERVER_UNTOUCHED,
	    [SERM_OUTCOME_CONFIG] = SERM_SERVER_UNTOUCHED,
	};

	for (int i = SERM_OUTCOME_HTTP + 1; i < SERM_OUTCOME_COUNT; i++)
		CHECK(serm_limit_event((SermOutcome) i, 0) == events[i], "outcome %d", i);
	CHECK(serm_limit_event(SERM_OUTCOME_HTTP, 200) == SERM_SERVER_ANSWERED, "200");
	CHECK(serm_limit_event(SERM_OUTCOME_HTTP, 401) == SERM_SERVER_ANSWERED, "401: it is there");
	CHECK(serm_limit_event(SERM_OUTCOME_HTTP, 429) == SERM_SERVER_LIMITED, "429");
	CHECK(serm_limit_event(SERM_OUTCOME_HTTP, 503) == SERM_SERVER_LIMITED, "503");
	CHECK(serm_limit_event(SERM_OUTCOME_HTTP, 500) == SERM_SERVER_FAILED, "500");
}

static void
test_restart_of_the_machine(void)
{
	SermRates rates = {60, 0};
	SermServerState state = {.requests = 0.5,
	    .filled_ms = START,
	    .rests_until_ms = START + 100000,
	    .failing_since_ms = START - 10,
	    .openings = 1};

	serm_limit_fill(&state, &rates, 500);
	CHECK(state.requests == 0.5 && state.filled_ms == 500, "a clock that begins anew fills nothing");
	CHECK(state.rests_until_ms <= 500 + SERM_RETRY_AFTER_MAX_MS, "and makes nobody wait for its old time");
	CHECK(state.failing_since_ms == 500, "nor takes the failures to have lasted");
}

int
main(void)
{
	test_unlimited();
	test_request_rate(6);
	test_request_rate(60);
	test_request_rate(5000);
	test_token_rate();
	test_given_back();
	test_rest();
	test_breaker();
	test_rare_failures();
	test_events();
	test_restart_of_the_machine();
	DONE();
}
