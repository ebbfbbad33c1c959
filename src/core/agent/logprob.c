#include "core/agent/logprob.h"

#include <math.h>
#include <string.h>

#include "core/agent/reply_parts.h"

/* Rounding lifts a certain token above 0, and a sure distribution above 1. */
#define ABOVE_ZERO 1e-3
#define ABOVE_ONE 1e-2
/* What may stand before the grade, and how much of an answer is looked at. */
#define OPENING "{\"grade\":"
#define TOKENS_MAX 64

/* How tokenizers write a blank, besides the blank: U+2581 and U+0120. */
static const char *const blanks[] = {" ", "\t", "\n", "\r", "\xe2\x96\x81", "\xc4\xa0"};

/* Bytes of the blank that `text` begins with; 0: none. */
static size_t
blank_length(const char *text)
{
	for (size_t i = 0; i < SERM_LENGTH(blanks); i++)
		if (strncmp(text, blanks[i], strlen(blanks[i])) == 0)
			return strlen(blanks[i]);
	return 0;
}

/* The grade that a token is, blanks around it aside; -1: none. */
static int
grade_of(const char *token, uint32_t grade_count)
{
	size_t skip;
	int grade;

	while ((skip = blank_length(token)) > 0)
		token += skip;
	if (*token < '0' || *token > '9')
		return -1;
	grade = *token++ - '0';
	while ((skip = blank_length(token)) > 0)
		token += skip;
	return *token == '\0' && (uint32_t) grade < grade_count ? grade : -1;
}

/* Go on in OPENING by what a token holds besides blanks: false when that is not what it says. */
static bool
pass_opening(const char *token, size_t *at)
{
	while (*token != '\0') {
		size_t skip = blank_length(token);

		if (skip == 0 && (OPENING[*at] == '\0' || *token != OPENING[(*at)++]))
			return false;
		token += skip > 0 ? skip : 1;
	}
	return true;
}

static const char *
token_of(const cJSON *entry)
{
	const cJSON *token = serm_reply_member(entry, "token");

	return cJSON_IsString(token) ? token->valuestring : NULL;
}

/* The place of the grade in the answer; NULL with a problem. */
static const cJSON *
find_grade(const cJSON *content, uint32_t grade_count, const char **problem)
{
	const cJSON *entry;
	size_t at = 0;
	int seen = 0;

	*problem = "the answer has no grade where it was asked for";
	cJSON_ArrayForEach(entry, content)
	{
		const char *token = token_of(entry);

		if (token == NULL)
			*problem = "a token is not text";
		if (token == NULL || seen++ == TOKENS_MAX)
			return NULL;
		if ((at == 0 || OPENING[at] == '\0') && grade_of(token, grade_count) >= 0) {
			*problem = NULL;
			return entry;
		}
		if (!pass_opening(token, &at))
			return NULL;
	}
	return NULL;
}

/* The probability of a token, at least that of the floor; false with a problem. */
static bool
read_probability(const cJSON *entry, double *probability, const char **problem)
{
	const cJSON *logprob = serm_reply_member(entry, "logprob");
	double value = cJSON_IsNumber(logprob) ? cJSON_GetNumberValue(logprob) : NAN;

	*problem = NULL;
	if (!isfinite(value))
		*problem = "a log-probability is not a finite number";
	else if (value > ABOVE_ZERO)
		*problem = "a log-probability is above 0";
	if (*problem == NULL)
		*probability = exp(fmax(fmin(value, 0), SERM_LOGPROB_FLOOR));
	return *problem == NULL;
}

/* Sum the tokens of each grade at the place of the grade. */
static const char *
sum_grades(const cJSON *place, uint32_t grade_count, double *mass, double *total)
{
	const cJSON *top = serm_reply_member(place, "top_logprobs"), *entry;
	const char *chosen = token_of(place), *problem;
	bool told = false;
	double p;

	if (!cJSON_IsArray(top) || cJSON_GetArraySize(top) == 0)
		return "the reply has no top_logprobs";
	cJSON_ArrayForEach(entry, top)
	{
		const char *token = token_of(entry);
		int grade;

		if (token == NULL)
			return "a token is not text";
		if (!read_probability(entry, &p, &problem))
			return problem;
		told |= strcmp(token, chosen) == 0;
		grade = grade_of(token, grade_count);
		if (grade >= 0)
			mass[grade] += p;
	}
	if (!told) {
		if (!read_probability(place, &p, &problem))
			return problem;
		mass[grade_of(chosen, grade_count)] += p;
	}
	for (uint32_t y = 0; y < grade_count; y++)
		*total += mass[y];
	return *total > 1 + ABOVE_ONE ? "the probabilities sum to more than 1" : NULL;
}

static const char *
read_distribution(const cJSON *body, uint32_t grade_count, SermLogprobs *logprobs)
{
	const cJSON *choice = cJSON_GetArrayItem(serm_reply_member(body, "choices"), 0);
	const cJSON *content = serm_reply_member(serm_reply_member(choice, "logprobs"), "content");
	double mass[SERM_LOGPROB_GRADES_MAX] = {0}, whole = 0;
	const cJSON *place;
	const char *problem;

	if (!cJSON_IsArray(content))
		return "the reply has no choices[0].logprobs.content";
	place = find_grade(content, grade_count, &problem);
	if (place != NULL)
		problem = sum_grades(place, grade_count, mass, &logprobs->mass);
	if (problem != NULL)
		return problem;
	for (uint32_t y = 0; y < grade_count; y++) {
		mass[y] = fmax(mass[y], exp(SERM_LOGPROB_FLOOR));
		whole += mass[y];
	}
	for (uint32_t y = 0; y < grade_count; y++)
		logprobs->probability[y] = (float) (mass[y] / whole);
	return NULL;
}

SermStatus
serm_logprobs_parse(
    SermText body, uint32_t grade_count, SermArena *arena, SermLogprobs *logprobs, SermError *error)
{
	SermReplyReason reason;
	SermStatus status;
	cJSON *json;

	SERM_ASSERT(grade_count >= 2 && grade_count <= SERM_LOGPROB_GRADES_MAX);
	*logprobs = (SermLogprobs){.tokens_prompt = -1, .tokens_completion = -1};
	status = serm_reply_json(body, arena, &json, &reason, error);
	if (json == NULL) {
		logprobs->problem = serm_reply_reason_text(reason);
		return status;
	}
	logprobs->problem = read_distribution(json, grade_count, logprobs);
	logprobs->tokens_prompt = serm_reply_tokens(json, "prompt_tokens");
	logprobs->tokens_completion = serm_reply_tokens(json, "completion_tokens");
	cJSON_Delete(json);
	return SERM_OK;
}
