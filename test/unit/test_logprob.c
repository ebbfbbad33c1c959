/*
 * Log-probabilities of an untrusted reply: the distribution where there is one,
 * and a problem for everything else.
 */
#include "core/agent/logprob.h"
#include "core/agent/prompt.h"
#include "unit.h"

#define GRADES 4

static SermLogprobs
parse(const char *body)
{
	SermArena arena = unit_arena();
	SermLogprobs logprobs;
	SermError error;

	if (serm_logprobs_parse((SermText){body, strlen(body)}, GRADES, &arena, &logprobs, &error) != SERM_OK)
		logprobs.problem = "out of memory";
	serm_arena_free(&arena);
	return logprobs;
}

/* A reply whose tokens are `content`. */
static SermLogprobs
parse_content(const char *content)
{
	char body[8192];

	snprintf(body, sizeof(body),
	    "{\"choices\":[{\"message\":{\"content\":\"?\"},\"logprobs\":{\"content\":%s}}],"
	    "\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":7}}",
	    content);
	return parse(body);
}

/* The place of the grade with these top_logprobs, after {"grade": in three tokens. */
static SermLogprobs
parse_top(const char *chosen, const char *top)
{
	char content[6000];

	snprintf(content, sizeof(content),
	    "[{\"token\":\"{\\\"\",\"logprob\":0},{\"token\":\"grade\",\"logprob\":0},{\"token\":\"\\\": "
	    "\",\"logprob\":"
	    "0},{\"token\":\"%s\",\"logprob\":-0.5,\"top_logprobs\":%s},{\"token\":\"}\",\"logprob\":0}]",
	    chosen, top);
	return parse_content(content);
}

static double
sum(const SermLogprobs *logprobs)
{
	double total = 0;

	for (int y = 0; y < GRADES; y++)
		total += logprobs->probability[y];
	return total;
}

static void
test_distribution(void)
{
	SermLogprobs told =
	    parse_top("2", "[{\"token\":\"2\",\"logprob\":-0.6931472},{\"token\":\"3\",\"logprob\":-1.3862944},"
	                   "{\"token\":\" 3\",\"logprob\":-2.0794415},{\"token\":\"}\",\"logprob\":-2.0794415}]");
	double low = exp(SERM_LOGPROB_FLOOR), whole = .875 + 2 * low;

	CHECK(told.problem == NULL, "a reply with a distribution");
	CHECK_NEAR(told.mass, .875, 1e-6, "its mass is that of the grades");
	CHECK_NEAR(told.probability[2], .5 / whole, 1e-6, "renormalised");
	CHECK_NEAR(told.probability[3], .375 / whole, 1e-6, "with and without a blank it is the same grade");
	CHECK_NEAR(told.probability[0], low / whole, 1e-9, "what was not told has the floor");
	CHECK_NEAR(sum(&told), 1, 1e-6, "all of it sums to 1");
	CHECK(told.tokens_prompt == 90 && told.tokens_completion == 7, "usage is told");
	told = parse_content(
	    "[{\"token\":\"\\u2581\",\"logprob\":0},{\"token\":\"\\u01201\",\"logprob\":-1,"
	    "\"top_logprobs\":[{\"token\":\"7\",\"logprob\":-1},{\"token\":\"12\",\"logprob\":-1}]}]");
	CHECK(told.problem == NULL && told.probability[1] > .99,
	    "a bare grade; a token that was chosen and not told counts, other numbers do not");
	told = parse_top("0", "[{\"token\":\"0\",\"logprob\":-0.1},{\"token\":\"1\",\"logprob\":-9999}]");
	CHECK_NEAR(told.probability[1], exp(SERM_LOGPROB_FLOOR) / (exp(-.1) + 3 * exp(SERM_LOGPROB_FLOOR)), 1e-9,
	    "nothing lies below the floor");
	told = parse_top("0", "[{\"token\":\"0\",\"logprob\":0.0001}]");
	CHECK(told.problem == NULL && told.probability[0] > .999, "rounding above 0 is forgiven");
}

static void
test_problems(void)
{
	static const struct {
		const char *body, *problem;
	} whole[] = {
	    {"", "the reply is empty"},
	    {"{", "the reply is not JSON"},
	    {"[1,2]", "the reply has no choices[0].logprobs.content"},
	    {"{\"choices\":[{\"logprobs\":null}]}", "the reply has no choices[0].logprobs.content"},
	    {"{\"choices\":[{\"logprobs\":{\"content\":{}}}]}", "the reply has no choices[0].logprobs.content"},
	    {"{\"choices\":{},\"choices\":[]}", "the reply has no choices[0].logprobs.content"},
	    {"{\"choices\":[{\"logprobs\":{\"content\":[]}}]}", "the answer has no grade where it was asked for"},
	    {"\xff", "the reply is not valid UTF-8"},
	};
	static const struct {
		const char *top, *problem;
	} tops[] = {
	    {"null", "the reply has no top_logprobs"},
	    {"[]", "the reply has no top_logprobs"},
	    {"\"2\"", "the reply has no top_logprobs"},
	    {"[{\"token\":\"2\",\"logprob\":\"-1\"}]", "a log-probability is not a finite number"},
	    {"[{\"token\":\"2\",\"logprob\":null}]", "a log-probability is not a finite number"},
	    {"[{\"token\":\"2\"}]", "a log-probability is not a finite number"},
	    {"[{\"token\":\"2\",\"logprob\":-1,\"logprob\":-1}]", "a log-probability is not a finite number"},
	    {"[{\"token\":\"2\",\"logprob\":-1e999}]", "a log-probability is not a finite number"},
	    {"[{\"token\":\"2\",\"logprob\":1e308}]", "a log-probability is above 0"},
	    {"[{\"token\":\"2\",\"logprob\":0.5}]", "a log-probability is above 0"},
	    {"[{\"token\":\"2\",\"logprob\":-0.1},{\"token\":\"2\",\"logprob\":-0.1}]",
	        "the probabilities sum to more than 1"},
	    {"[{\"token\":2,\"logprob\":-1}]", "a token is not text"},
	    {"[{\"logprob\":-1}]", "a token is not text"},
	    {"[1]", "a token is not text"},
	    {"[{\"token\":\"2\",\"logprob\":NaN}]", "the reply is not JSON"},
	    {"[{\"token\":\"2\",\"logprob\":-Infinity}]", "the reply is not JSON"},
	};
	static const char *const answers[] = {
	    "[{\"token\":\"The\",\"logprob\":-1},{\"token\":\" 2\",\"logprob\":-1}]",
	    "[{\"token\":\"{\\\"rationale\\\": \\\"\",\"logprob\":-1},{\"token\":\"2\",\"logprob\":-1}]",
	    "[{\"token\":\"{\\\"gr\",\"logprob\":-1},{\"token\":\"2\",\"logprob\":-1}]",
	    "[{\"token\":\"9\",\"logprob\":-1}]",
	    "[{\"token\":\"-1\",\"logprob\":-1}]",
	    "[{\"token\":\"22\",\"logprob\":-1}]",
	};

	for (size_t i = 0; i < SERM_LENGTH(whole); i++) {
		SermLogprobs told = parse(whole[i].body);

		CHECK(told.problem != NULL && strcmp(told.problem, whole[i].problem) == 0, "%s", whole[i].problem);
	}
	for (size_t i = 0; i < SERM_LENGTH(tops); i++) {
		SermLogprobs told = parse_top("2", tops[i].top);

		CHECK(told.problem != NULL && strcmp(told.problem, tops[i].problem) == 0, "%s: %s", tops[i].top,
		    tops[i].problem);
	}
	for (size_t i = 0; i < SERM_LENGTH(answers); i++) {
		SermLogprobs told = parse_content(answers[i]);

		CHECK(told.problem != NULL && strstr(told.problem, "no grade") != NULL, "no grade in %s", answers[i]);
	}
	CHECK(parse_top("2", "[{\"token\":\"2\",\"logprob\":-1}]").problem == NULL, "and one that is in order");
}

/* Every prefix of a good reply is a problem. */
static void
test_prefixes(void)
{
	const char *body = "{\"choices\":[{\"logprobs\":{\"content\":[{\"token\":\" 1\",\"logprob\":-2.5,"
	                   "\"top_logprobs\":[{\"token\":\"1\",\"logprob\":-0.5}]}]}}]}";
	size_t good = 0;

	for (size_t length = 0; length <= strlen(body); length++) {
		SermArena arena = unit_arena();
		SermLogprobs told;
		SermError error;
		char *copy = malloc(length + 1);

		memcpy(copy, body, length);
		(void) serm_logprobs_parse((SermText){copy, length}, GRADES, &arena, &told, &error);
		good += told.problem == NULL;
		free(copy);
		serm_arena_free(&arena);
	}
	CHECK(good == 1, "only the whole reply is one");
}

static void
test_request(void)
{
	SermArena arena = unit_arena();
	SermPrompt prompt = {.system_json = {"\"s\"", 3}, .user = {"u", 1}};
	SermRequest request = {.model = {"m", 1}, .tokens_max = 16, .top_logprobs = SERM_LOGPROB_TOP};
	SermError error;
	SermText body;

	CHECK(serm_prompt_request(&prompt, &request, &arena, &body, &error) == SERM_OK &&
	          strstr(body.bytes, ",\"logprobs\":true,\"top_logprobs\":20}") != NULL,
	    "a request asks for them");
	request.top_logprobs = 0;
	CHECK(serm_prompt_request(&prompt, &request, &arena, &body, &error) == SERM_OK &&
	          strstr(body.bytes, "logprobs") == NULL,
	    "or does not");
	serm_arena_free(&arena);
}

int
main(void)
{
	test_distribution();
	test_problems();
	test_prefixes();
	test_request();
	DONE();
}
