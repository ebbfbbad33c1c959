#include "core/agent/retry.h"
#include "core/agent/vote.h"
#include "core/base/rng.h"
#include "unit.h"

#define NOW INT64_C(1700000000) /* Tue, 14 Nov 2023 22:13:20 GMT */

static SermRetryDecision
decide(SermOutcome outcome, int http_status, int64_t retry_after_ms, uint32_t attempt, double uniform)
{
	SermRetryInput input = {outcome, http_status, retry_after_ms, attempt, 4, uniform};

	return serm_retry_decide(&input);
}

static void
test_classes(void)
{
	static const struct {
		int status;
		SermRetryAction action;
	} statuses[] = {
	    {200, SERM_RETRY_DONE},
	    {204, SERM_RETRY_DONE},
	    {301, SERM_RETRY_GIVE_UP},
	    {302, SERM_RETRY_GIVE_UP},
	    {307, SERM_RETRY_GIVE_UP},
	    {400, SERM_RETRY_GIVE_UP},
	    {401, SERM_RETRY_GIVE_UP},
	    {403, SERM_RETRY_GIVE_UP},
	    {404, SERM_RETRY_GIVE_UP},
	    {408, SERM_RETRY_AGAIN},
	    {409, SERM_RETRY_AGAIN},
	    {413, SERM_RETRY_GIVE_UP},
	    {422, SERM_RETRY_GIVE_UP},
	    {429, SERM_RETRY_AGAIN},
	    {500, SERM_RETRY_AGAIN},
	    {502, SERM_RETRY_AGAIN},
	    {503, SERM_RETRY_AGAIN},
	    {529, SERM_RETRY_AGAIN},
	    {599, SERM_RETRY_AGAIN},
	    {600, SERM_RETRY_GIVE_UP},
	    {0, SERM_RETRY_GIVE_UP},
	    {100, SERM_RETRY_GIVE_UP},
	};
	static const SermRetryAction outcomes[SERM_OUTCOME_COUNT] = {
	    [SERM_OUTCOME_HTTP] = SERM_RETRY_DONE,
	    [SERM_OUTCOME_CONNECT] = SERM_RETRY_AGAIN,
	    [SERM_OUTCOME_TIMEOUT] = SERM_RETRY_AGAIN,
	    [SERM_OUTCOME_BROKEN] = SERM_RETRY_AGAIN,
	    [SERM_OUTCOME_MALFORMED] = SERM_RETRY_AGAIN,
	    [SERM_OUTCOME_SUSPECT] = SERM_RETRY_GIVE_UP,
	    [SERM_OUTCOME_TOO_LARGE] = SERM_RETRY_GIVE_UP,
	    [SERM_OUTCOME_FORBIDDEN] = SERM_RETRY_GIVE_UP,
	    [SERM_OUTCOME_CERTIFICATE] = SERM_RETRY_GIVE_UP,
	    [SERM_OUTCOME_CONFIG] = SERM_RETRY_GIVE_UP,
	};

	for (size_t i = 0; i < SERM_LENGTH(statuses); i++)
		CHECK(decide(SERM_OUTCOME_HTTP, statuses[i].status, -1, 1, 0.5).action == statuses[i].action,
		    "HTTP %d", statuses[i].status);
	for (int i = 0; i < SERM_OUTCOME_COUNT; i++)
		CHECK(decide((SermOutcome) i, 200, -1, 1, 0.5).action == outcomes[i], "outcome %d", i);
	CHECK(decide(SERM_OUTCOME_CONNECT, 0, -1, 3, 0.5).action == SERM_RETRY_AGAIN &&
	          decide(SERM_OUTCOME_CONNECT, 0, -1, 4, 0.5).action == SERM_RETRY_GIVE_UP &&
	          decide(SERM_OUTCOME_CONNECT, 0, -1, 40, 0.5).action == SERM_RETRY_GIVE_UP,
	    "attempts are counted");
	CHECK(decide(SERM_OUTCOME_MALFORMED, 200, -1, 2, 0.5).action == SERM_RETRY_AGAIN &&
	          decide(SERM_OUTCOME_MALFORMED, 200, -1, 3, 0.5).action == SERM_RETRY_GIVE_UP,
	    "nonsense is asked for twice more");
	for (int status = 429; status <= 503; status += 503 - 429) {
		SermRetryDecision decision = decide(SERM_OUTCOME_HTTP, status, -1, 400, 0.5);

		CHECK(
		    decision.action == SERM_RETRY_AGAIN && !decision.counted, "%d is never the last attempt", status);
	}
	CHECK(decide(SERM_OUTCOME_HTTP, 500, -1, 1, 0.5).counted &&
	          decide(SERM_OUTCOME_CONNECT, 0, -1, 1, 0.5).counted,
	    "everything else counts");
}

static void
test_delays(void)
{
	static const uint32_t ceilings[] = {500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000};
	SermRng rng;
	double sum = 0;

	serm_rng_seed(&rng, 7);
	for (uint32_t attempt = 1; attempt <= SERM_LENGTH(ceilings); attempt++) {
		SermRetryInput input = {SERM_OUTCOME_TIMEOUT, 0, -1, attempt, 100, 0.0};
		uint32_t largest = 0;

		CHECK(serm_retry_decide(&input).delay_ms == 0, "attempt %u: the jitter is full", attempt);
		for (int i = 0; i < 2000; i++) {
			uint32_t delay;

			input.uniform = serm_rng_uniform(&rng);
			delay = serm_retry_decide(&input).delay_ms;
			largest = delay > largest ? delay : largest;
			sum += attempt == 1 ? delay : 0;
		}
		CHECK(largest <= ceilings[attempt - 1] && largest > ceilings[attempt - 1] * 0.98,
		    "attempt %u waits up to %u ms", attempt, ceilings[attempt - 1]);
	}
	CHECK_NEAR(sum / 2000, 250, 10, "the first wait is 250 ms on average");
	CHECK(decide(SERM_OUTCOME_HTTP, 429, 0, 1, 0.5).delay_ms == 250, "Retry-After 0 does not shorten");
	CHECK(decide(SERM_OUTCOME_HTTP, 429, 2000, 1, 0.5).delay_ms == 2000, "Retry-After is honoured");
	CHECK(decide(SERM_OUTCOME_HTTP, 503, 120000, 1, 0.5).delay_ms == 120000, "up to 120 s");
	CHECK(decide(SERM_OUTCOME_HTTP, 503, 121000, 1, 0.5).delay_ms == 120000, "121 s counts as 120 s");
	CHECK(
	    decide(SERM_OUTCOME_HTTP, 503, INT64_MAX / 2, 1, 0.5).delay_ms == 120000, "for ever counts as 120 s");
}

static void
check_after(const char *value, int64_t expected_ms)
{
	SermText text = {value, strlen(value)};
	int64_t actual = serm_retry_after_parse(text, NOW);

	CHECK(actual == expected_ms, "Retry-After: %s", value);
	if (actual != expected_ms)
		printf("# got %lld\n", (long long) actual);
}

static void
test_retry_after(void)
{
	check_after("0", 0);
	check_after("1", 1000);
	check_after("120", 120000);
	check_after(" 7\t", 7000);
	check_after("000000000005", 5000);
	check_after("1000000000", INT64_C(1000000000000));
	check_after("99999999999999999999999999", INT64_MAX / 2);
	check_after("", -1);
	check_after("   ", -1);
	check_after("-5", -1);
	check_after("1.5", -1);
	check_after("5s", -1);
	check_after("soon", -1);
	check_after("Tue, 14 Nov 2023 22:13:30 GMT", 10000);
	check_after("Tue, 14 Nov 2023 22:13:20 GMT", 0);
	check_after("Tue, 14 Nov 2023 22:13:00 GMT", 0);
	check_after("Thu, 01 Jan 1970 00:00:00 GMT", 0);
	check_after("Wed, 15 Nov 2023 22:13:20 GMT", 86400000);
	check_after("Thu, 29 Feb 2024 22:13:20 GMT", INT64_C(107) * 86400000);
	check_after("Tuesday, 14-Nov-23 22:14:20 GMT", 60000);
	check_after("Tue Nov 14 22:14:20 2023", 60000);
	check_after("Wed Nov  1 00:00:00 2023", 0);
	check_after("Fri Dec  1 00:00:00 2023", INT64_C(1388800) * 1000);
	check_after("Tue, 14 Nov 2023 22:13:30", -1);
	check_after("Tue, 14 Nov 2023 22:13:30 CET", -1);
	check_after("Tue, 14 Nov 2023 22:13:30 GMT x", -1);
	check_after("Tue, 14 Foo 2023 22:13:30 GMT", -1);
	check_after("Tue, 00 Nov 2023 22:13:30 GMT", -1);
	check_after("Tue, 32 Nov 2023 22:13:30 GMT", -1);
	check_after("Tue, 14 Nov 2023 24:13:30 GMT", -1);
	check_after("Tue, 14 Nov 23 22:13:30 GMT", -1);
	check_after("14 Nov 2023 22:13:30 GMT", -1);
	check_after("Tue", -1);
	CHECK(serm_retry_after_ms_parse((SermText){" 250 ", 5}) == 250, "retry-after-ms: 250");
	CHECK(serm_retry_after_ms_parse((SermText){"", 0}) == -1, "retry-after-ms: nothing");
	CHECK(serm_retry_after_ms_parse((SermText){"1.5", 3}) == -1, "retry-after-ms: 1.5");
	CHECK(serm_retry_after_ms_parse((SermText){"99999999999999999999", 20}) > SERM_RETRY_AFTER_MAX_MS,
	    "retry-after-ms: for ever");
}

static SermAgentVote
agent_of(const char *name, const SermPath *paths, uint32_t count, double share_min, SermArena *arena)
{
	SermAgentVote agent = {.name = {name, strlen(name)}, .paths = paths, .path_count = count};
	SermError error;

	if (serm_vote_agent(&agent, 4, share_min, arena, &error) != SERM_OK)
		abort();
	return agent;
}

static void
check_agent(const char *grades, double share_min, int32_t expected, double share)
{
	SermArena arena = unit_arena();
	SermPath paths[25] = {0};
	uint32_t count = (uint32_t) strlen(grades);
	SermAgentVote agent;

	for (uint32_t i = 0; i < count; i++)
		paths[i].grade = grades[i] == '-' ? SERM_VOTE_NONE : grades[i] - '0';
	agent = agent_of("a", paths, count, share_min, &arena);
	CHECK(agent.grade == expected && fabs(agent.share - share) < 1e-12, "paths %s, share %.2f: %d", grades,
	    share_min, expected);
	serm_arena_free(&arena);
}

static void
test_paths(void)
{
	check_agent("33333", 0.6, 3, 1.0);
	check_agent("33321", 0.6, 3, 0.6);
	check_agent("33221", 0.6, -1, 0.4);
	check_agent("3322", 0.5, -1, 0.5);
	check_agent("33-22", 0.4, -1, 0.4);
	check_agent("333--", 0.6, 3, 0.6);
	check_agent("33---", 0.6, -1, 0.4);
	check_agent("0----", 0.1, 0, 0.2);
	check_agent("-----", 0.1, -1, 0.0);
	check_agent("2", 0.6, 2, 1.0);
	check_agent("", 0.6, -1, 0.0);
	check_agent("3333333333333331111111110", 0.6, 3, 0.6);
	check_agent("001122", 0.3, -1, 2.0 / 6);
}

static void
test_agreement(void)
{
	static const struct {
		const char *grades; /* of each agent; '-' abstains, 'x' failed */
		SermVoteRule rule;
		double quorum;
		SermVerdictKind kind;
		int32_t grade;
	} cases[] = {
	    {"33", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_AGREED, 3},
	    {"3", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_AGREED, 3},
	    {"32", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_DISPUTED, -1},
	    {"3-", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_DISPUTED, -1},
	    {"3x", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_DISPUTED, -1},
	    {"xx", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_FAILED, -1},
	    {"--", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_DISPUTED, -1},
	    {"", SERM_VOTE_UNANIMOUS, 1.0, SERM_VERDICT_FAILED, -1},
	    {"331", SERM_VOTE_QUORUM, 2.0 / 3, SERM_VERDICT_AGREED, 3},
	    {"33x", SERM_VOTE_QUORUM, 2.0 / 3, SERM_VERDICT_AGREED, 3},
	    {"321", SERM_VOTE_QUORUM, 2.0 / 3, SERM_VERDICT_DISPUTED, -1},
	    {"3311", SERM_VOTE_QUORUM, 0.5, SERM_VERDICT_DISPUTED, -1},
	    {"3310", SERM_VOTE_QUORUM, 0.5, SERM_VERDICT_AGREED, 3},
	    {"3xxx", SERM_VOTE_QUORUM, 0.5, SERM_VERDICT_DISPUTED, -1},
	    {"xxx", SERM_VOTE_QUORUM, 0.1, SERM_VERDICT_FAILED, -1},
	    {"---", SERM_VOTE_QUORUM, 0.1, SERM_VERDICT_DISPUTED, -1},
	};

	for (size_t i = 0; i < SERM_LENGTH(cases); i++) {
		SermArena arena = unit_arena();
		SermPath paths[4][2];
		SermAgentVote agents[4];
		SermVerdict verdict;
		SermError error;
		uint32_t count = (uint32_t) strlen(cases[i].grades);

		for (uint32_t j = 0; j < count; j++) {
			char grade = cases[i].grades[j];

			paths[j][0] = paths[j][1] = (SermPath){grade >= '0' ? grade - '0' : SERM_VOTE_NONE, {"why", 3}};
			if (grade == '-') {
				paths[j][0].grade = 0;
				paths[j][1].grade = 3;
			} else if (grade == 'x')
				paths[j][0].grade = paths[j][1].grade = SERM_VOTE_NONE;
			agents[j] = agent_of("judge", paths[j], 2, 0.6, &arena);
		}
		if (serm_vote_agree(agents, count, 4, cases[i].rule, cases[i].quorum, &arena, &verdict, &error) !=
		    SERM_OK)
			abort();
		CHECK(verdict.kind == cases[i].kind && verdict.grade == cases[i].grade, "agents %s", cases[i].grades);
		CHECK((verdict.kind == SERM_VERDICT_AGREED) == (verdict.reason.length == 0) &&
		          (verdict.kind == SERM_VERDICT_AGREED) == (verdict.rationale.length > 0),
		    "agents %s: a reason or a rationale", cases[i].grades);
		serm_arena_free(&arena);
	}
}

static void
test_texts(void)
{
	SermArena arena = unit_arena();
	SermPath a[] = {
	    {2, {"nothing in common", 17}},
	    {1, {"off", 3}},
	    {2, {"same words here", 15}},
	    {2, {"same words there", 16}},
	};
	SermPath b[] = {{2, {"second opinion", 14}}, {SERM_VOTE_NONE, {"", 0}}};
	SermPath c[] = {{3, {"x", 1}}};
	SermPath d[] = {{SERM_VOTE_NONE, {"", 0}}};
	SermAgentVote agents[4] = {
	    agent_of("judge_a", a, 4, 0.6, &arena),
	    agent_of("judge_b", b, 2, 0.5, &arena),
	    agent_of("judge_c", c, 1, 0.6, &arena),
	    agent_of("judge_d", d, 1, 0.6, &arena),
	};
	SermPath bad[] = {{4, {"", 0}}};
	SermAgentVote wrong = {.paths = bad, .path_count = 1};
	SermVerdict verdict;
	SermText rationale;
	SermVoteRule rule;
	SermError error;

	CHECK(agents[0].supporter == 2, "the medoid speaks for an agent");
	CHECK(serm_vote_agree(agents, 2, 4, SERM_VOTE_UNANIMOUS, 1, &arena, &verdict, &error) == SERM_OK &&
	          strcmp(verdict.rationale.bytes, "judge_a: same words here\njudge_b: second opinion") == 0,
	    "rationales are fused under the names of their agents");
	CHECK(serm_vote_agree(agents, 4, 4, SERM_VOTE_UNANIMOUS, 1, &arena, &verdict, &error) == SERM_OK &&
	          strcmp(verdict.reason.bytes,
	              "judge_a says 2, judge_b says 2, judge_c says 3, judge_d failed") == 0,
	    "a dispute says who says what");
	CHECK(serm_vote_rationale(agents, 4, 3, &arena, &rationale, &error) == SERM_OK &&
	          strcmp(rationale.bytes, "judge_c: x") == 0,
	    "who says the grade speaks for it");
	CHECK(serm_vote_rationale(agents, 4, 0, &arena, &rationale, &error) == SERM_OK &&
	          strcmp(rationale.bytes, "judge_a: same words here\njudge_b: second opinion") == 0,
	    "or who comes nearest to it");
	CHECK(
	    serm_vote_rationale(agents + 3, 1, 0, &arena, &rationale, &error) == SERM_OK && rationale.length == 0,
	    "or nobody");
	CHECK(serm_vote_agent(&wrong, 4, 0.6, &arena, &error) == SERM_ERR_INVALID, "no grade out of range");
	CHECK(serm_vote_agree(agents, 4, 4, SERM_VOTE_QUORUM, 0, &arena, &verdict, &error) == SERM_ERR_INVALID,
	    "no quorum of nothing");
	CHECK(serm_vote_rule_parse("weighted", &rule) && rule == SERM_VOTE_WEIGHTED &&
	          serm_vote_rule_parse("posterior", &rule) && rule == SERM_VOTE_POSTERIOR,
	    "rules that weigh are known by name");
	CHECK(serm_vote_rule_parse("quorum", &rule) && rule == SERM_VOTE_QUORUM &&
	          serm_vote_rule_parse("unanimous", &rule) && rule == SERM_VOTE_UNANIMOUS &&
	          !serm_vote_rule_parse("majority", &rule),
	    "rules by name");
	serm_arena_free(&arena);
}

int
main(void)
{
	test_classes();
	test_delays();
	test_retry_after();
	test_paths();
	test_agreement();
	test_texts();
	DONE();
}
