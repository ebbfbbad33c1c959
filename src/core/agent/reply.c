#include "core/agent/reply.h"

#include <math.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "core/agent/prompt.h"
#include "core/agent/reply_parts.h"
#include "core/base/utf8.h"

#define TOKENS_MAX 1e9

static const struct {
	const char *name;
	const char *text;
} reasons[SERM_REPLY_REASON_COUNT] = {
    [SERM_REPLY_OK] = {"ok", "the reply is a grade"},
    [SERM_REPLY_EMPTY] = {"empty", "the reply is empty"},
    [SERM_REPLY_TOO_LARGE] = {"too_large", "the reply is larger than 256 KiB"},
    [SERM_REPLY_NOT_UTF8] = {"not_utf8", "the reply is not valid UTF-8"},
    [SERM_REPLY_TOO_DEEP] = {"too_deep", "the reply is nested deeper than 32 levels"},
    [SERM_REPLY_NOT_JSON] = {"not_json", "the reply is not JSON"},
    [SERM_REPLY_NO_CONTENT] = {"no_content", "the reply has no choices[0].message.content"},
    [SERM_REPLY_REFUSED] = {"refused", "the model or a content filter declined to answer"},
    [SERM_REPLY_TRUNCATED] = {"truncated", "the answer was cut at max_tokens"},
    [SERM_REPLY_CONTENT_JSON] = {"content_json", "the answer is not one JSON object"},
    [SERM_REPLY_NOT_OBJECT] = {"not_object", "the answer is JSON, but not an object"},
    [SERM_REPLY_UNKNOWN_KEY] = {"unknown_key", "the answer has a key that it should not have"},
    [SERM_REPLY_DUPLICATE_KEY] = {"duplicate_key", "the answer has a key twice"},
    [SERM_REPLY_NO_GRADE] = {"no_grade", "the answer has no grade"},
    [SERM_REPLY_GRADE_TYPE] = {"grade_type", "the grade is not a number"},
    [SERM_REPLY_GRADE_FRACTION] = {"grade_fraction", "the grade is not an integer"},
    [SERM_REPLY_GRADE_RANGE] = {"grade_range", "the grade is outside the model's grades"},
    [SERM_REPLY_NO_CHOICE] = {"no_choice", "the answer does not say which document is better"},
    [SERM_REPLY_CHOICE] = {"choice", "the better document is not 0, 1 or 2"},
    [SERM_REPLY_ORDER] = {"order", "the order does not hold each document once"},
    [SERM_REPLY_RATIONALE_TYPE] = {"rationale_type", "the rationale is not text"},
};

const char *
serm_reply_reason_name(SermReplyReason reason)
{
	SERM_ASSERT((unsigned) reason < SERM_REPLY_REASON_COUNT);
	return reasons[reason].name;
}

const char *
serm_reply_reason_text(SermReplyReason reason)
{
	SERM_ASSERT((unsigned) reason < SERM_REPLY_REASON_COUNT);
	return reasons[reason].text;
}

static bool
is_space(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static bool
is_digit(char byte)
{
	return byte >= '0' && byte <= '9';
}

/* One string from its opening quote; returns the offset after the closing one, or 0. */
static size_t
scan_string(SermText text, size_t at)
{
	for (at++; at < text.length; at++) {
		unsigned char byte = (unsigned char) text.bytes[at];

		if (byte == '"')
			return at + 1;
		if (byte < 0x20)
			return 0;
		if (byte != '\\')
			continue;
		if (++at >= text.length)
			return 0;
		/* cJSON would silently end the string at an escaped U+0000. */
		if (text.bytes[at] == 'u' && text.length - at > 4 && memcmp(text.bytes + at + 1, "0000", 4) == 0)
			return 0;
	}
	return 0;
}

/* One number by the grammar of RFC 8259 section 6; returns the offset after it, or 0. */
static size_t
scan_number(SermText text, size_t at)
{
#define PEEK() (at < text.length ? text.bytes[at] : '\0')
	if (PEEK() == '-')
		at++;
	if (PEEK() == '0')
		at++;
	else if (is_digit(PEEK()))
		while (is_digit(PEEK()))
			at++;
	else
		return 0;
	if (PEEK() == '.') {
		at++;
		if (!is_digit(PEEK()))
			return 0;
		while (is_digit(PEEK()))
			at++;
	}
	if (PEEK() == 'e' || PEEK() == 'E') {
		at++;
		if (PEEK() == '+' || PEEK() == '-')
			at++;
		if (!is_digit(PEEK()))
			return 0;
		while (is_digit(PEEK()))
			at++;
	}
	return is_digit(PEEK()) ? 0 : at;
#undef PEEK
}

/*
 * What cJSON does not check: depth before it recurses, control characters,
 * the grammar of numbers, escaped U+0000. cJSON checks the structure after it.
 */
static SermReplyReason
scan_json(SermText text)
{
	uint32_t depth = 0;

	for (size_t at = 0; at < text.length;) {
		char byte = text.bytes[at];

		if (byte == '"')
			at = scan_string(text, at);
		else if (byte == '-' || is_digit(byte))
			at = scan_number(text, at);
		else if (is_space(byte) || byte == ',' || byte == ':' || (byte >= 'a' && byte <= 'z'))
			at++;
		else if (byte == '{' || byte == '[') {
			if (++depth > SERM_REPLY_DEPTH_MAX)
				return SERM_REPLY_TOO_DEEP;
			at++;
		} else if (byte == '}' || byte == ']') {
			if (depth-- == 0)
				return SERM_REPLY_NOT_JSON;
			at++;
		} else
			return SERM_REPLY_NOT_JSON;
		if (at == 0)
			return SERM_REPLY_NOT_JSON;
	}
	return SERM_REPLY_OK;
}

static SermText
trim(SermText text)
{
	while (text.length > 0 && is_space(text.bytes[0])) {
		text.bytes++;
		text.length--;
	}
	while (text.length > 0 && is_space(text.bytes[text.length - 1]))
		text.length--;
	return text;
}

/* Parse all of `text`: *json is NULL with a reason. cJSON wants a NUL that we do not have: the copy carries
 * it. */
static SermStatus
parse_json(SermText text, SermArena *arena, cJSON **json, SermReplyReason *reason, SermError *error)
{
	const char *end = NULL;
	char *copy;

	*json = NULL;
	text = trim(text);
	*reason = text.length == 0 ? SERM_REPLY_EMPTY : scan_json(text);
	if (*reason != SERM_REPLY_OK)
		return SERM_OK;
	copy = serm_arena_copy(arena, text.bytes, text.length);
	if (copy == NULL)
		return serm_fail(error, SERM_ERR_MEMORY, "out of memory while reading the reply of an agent");
	*json = cJSON_ParseWithLengthOpts(copy, text.length + 1, &end, 1);
	if (*json != NULL && end != copy + text.length) {
		cJSON_Delete(*json);
		*json = NULL;
	}
	if (*json == NULL)
		*reason = SERM_REPLY_NOT_JSON;
	return SERM_OK;
}

/* The only member of that name; NULL when there is none or more than one. */
static const cJSON *
only_member(const cJSON *object, const char *name)
{
	const cJSON *found = NULL;
	const cJSON *member;

	if (!cJSON_IsObject(object))
		return NULL;
	cJSON_ArrayForEach(member, object)
	{
		if (strcmp(member->string, name) != 0)
			continue;
		if (found != NULL)
			return NULL;
		found = member;
	}
	return found;
}

/*
 * Exactly one fence: ```, an optional word such as json, a line end, the text,
 * ``` at the end. Anything else is left for the JSON parser to refuse.
 */
static SermText
strip_fence(SermText content)
{
	SermText inner = trim(content);
	size_t at = 3;

	if (inner.length < 7 || memcmp(inner.bytes, "```", 3) != 0 ||
	    memcmp(inner.bytes + inner.length - 3, "```", 3) != 0)
		return content;
	while (at < inner.length && at < 20 &&
	       ((inner.bytes[at] >= 'a' && inner.bytes[at] <= 'z') ||
	           (inner.bytes[at] >= 'A' && inner.bytes[at] <= 'Z')))
		at++;
	while (at < inner.length && (inner.bytes[at] == ' ' || inner.bytes[at] == '\r'))
		at++;
	if (at >= inner.length - 3 || inner.bytes[at] != '\n')
		return content;
	inner.bytes += at;
	inner.length -= at + 3;
	return inner;
}

static SermReplyReason
read_grade(const cJSON *grade, uint32_t grade_count, int32_t *value)
{
	const double number = cJSON_GetNumberValue(grade);

	if (!cJSON_IsNumber(grade))
		return SERM_REPLY_GRADE_TYPE;
	if (!isfinite(number))
		return SERM_REPLY_GRADE_RANGE;
	if (number != floor(number))
		return SERM_REPLY_GRADE_FRACTION;
	if (number < 0.0 || number > (double) (grade_count - 1))
		return SERM_REPLY_GRADE_RANGE;
	*value = (int32_t) number;
	return SERM_REPLY_OK;
}

/* A number that is a whole one from `least` to `most`; -1: it is not. */
static int32_t
whole_number(const cJSON *value, double least, double most)
{
	const double number = cJSON_GetNumberValue(value);

	return cJSON_IsNumber(value) && number >= least && number <= most && number == floor(number)
	           ? (int32_t) number
	           : -1;
}

static SermReplyReason
read_better(const cJSON *better, SermReply *reply)
{
	const int32_t choice = whole_number(better, 0, 2);

	if (choice < 0)
		return SERM_REPLY_CHOICE;
	reply->place[0] = choice == 2 ? 2 : 1;
	reply->place[1] = choice == 1 ? 2 : 1;
	return SERM_REPLY_OK;
}

static SermReplyReason
read_order(const cJSON *order, uint32_t count, SermReply *reply)
{
	const cJSON *member;
	uint32_t place = 0;
	SermReplyReason reason = cJSON_IsArray(order) ? SERM_REPLY_OK : SERM_REPLY_ORDER;

	cJSON_ArrayForEach(member, order)
	{
		const int32_t shown = whole_number(member, 1, count);

		if (reason != SERM_REPLY_OK || shown < 1 || reply->place[shown - 1] != 0) {
			reason = SERM_REPLY_ORDER;
			break;
		}
		reply->place[shown - 1] = (uint8_t) ++place;
	}
	if (place != count)
		reason = SERM_REPLY_ORDER;
	if (reason != SERM_REPLY_OK)
		memset(reply->place, 0, sizeof(reply->place));
	return reason;
}

static SermReplyReason
read_answer(const cJSON *answer, SermQuestion question, SermReply *reply, const char **rationale)
{
	static const char *const keys[] = {
	    [SERM_FORM_ABSOLUTE] = "grade", [SERM_FORM_PAIR] = "better", [SERM_FORM_LIST] = "order"};
	const cJSON *value = NULL;
	const cJSON *member;

	*rationale = NULL;
	if (!cJSON_IsObject(answer))
		return SERM_REPLY_NOT_OBJECT;
	cJSON_ArrayForEach(member, answer)
	{
		if (strcmp(member->string, keys[question.form]) == 0) {
			if (value != NULL)
				return SERM_REPLY_DUPLICATE_KEY;
			value = member;
		} else if (strcmp(member->string, "rationale") == 0) {
			if (*rationale != NULL)
				return SERM_REPLY_DUPLICATE_KEY;
			if (!cJSON_IsString(member))
				return SERM_REPLY_RATIONALE_TYPE;
			*rationale = member->valuestring;
		} else
			return SERM_REPLY_UNKNOWN_KEY;
	}
	if (value == NULL)
		return question.form == SERM_FORM_ABSOLUTE ? SERM_REPLY_NO_GRADE : SERM_REPLY_NO_CHOICE;
	if (question.form == SERM_FORM_PAIR)
		return read_better(value, reply);
	if (question.form == SERM_FORM_LIST)
		return read_order(value, question.count, reply);
	return read_grade(value, question.count, &reply->grade);
}

static void
reply_init(SermReply *reply)
{
	memset(reply, 0, sizeof(*reply));
	reply->grade = reply->tokens_prompt = reply->tokens_completion = -1;
	reply->rationale.bytes = "";
}

/* What is kept of a rationale: clean, and at most SERM_REPLY_RATIONALE_MAX characters. */
static SermStatus
keep_rationale(const char *rationale, SermArena *arena, SermText *kept, SermError *error)
{
	SermText text = {rationale, strlen(rationale)};
	SermStatus status;
	uint32_t code_point, count = 0;
	size_t at = 0;
	bool cut;

	status =
	    serm_prompt_clean(text, SERM_REPLY_RATIONALE_MAX * SERM_UTF8_MAX_BYTES, arena, kept, &cut, error);
	if (status != SERM_OK)
		return status;
	while (at < kept->length && count++ < SERM_REPLY_RATIONALE_MAX)
		at += serm_utf8_decode(kept->bytes + at, kept->length - at, &code_point);
	kept->length = at;
	return SERM_OK;
}

SermStatus
serm_reply_parse_content(
    SermText content, SermQuestion question, SermArena *arena, SermReply *reply, SermError *error)
{
	SermStatus status;
	const char *rationale;
	cJSON *answer;

	reply_init(reply);
	if (content.length > SERM_REPLY_BYTES_MAX)
		reply->reason = SERM_REPLY_TOO_LARGE;
	else if (!serm_utf8_valid(content.bytes, content.length))
		reply->reason = SERM_REPLY_NOT_UTF8;
	if (reply->reason != SERM_REPLY_OK)
		return SERM_OK;

	status = parse_json(strip_fence(content), arena, &answer, &reply->reason, error);
	if (answer == NULL) {
		if (reply->reason == SERM_REPLY_NOT_JSON)
			reply->reason = SERM_REPLY_CONTENT_JSON;
		return status;
	}
	reply->reason = read_answer(answer, question, reply, &rationale);
	if (reply->reason == SERM_REPLY_OK && rationale != NULL)
		status = keep_rationale(rationale, arena, &reply->rationale, error);
	cJSON_Delete(answer);
	return status;
}

static int32_t
token_count(const cJSON *usage, const char *name)
{
	const cJSON *count = only_member(usage, name);
	double number;

	if (!cJSON_IsNumber(count))
		return -1;
	number = cJSON_GetNumberValue(count);
	return number >= 0.0 && number <= TOKENS_MAX && number == floor(number) ? (int32_t) number : -1;
}

static bool
is_text(const cJSON *value, const char *text)
{
	return cJSON_IsString(value) && strcmp(value->valuestring, text) == 0;
}

/* The envelope: its unknown keys are the servers' business; what we read of it must be there once. */
static SermStatus
read_envelope(const cJSON *body, SermQuestion question, SermArena *arena, SermReply *reply, SermError *error)
{
	const cJSON *choice = cJSON_GetArrayItem(only_member(body, "choices"), 0);
	const cJSON *message = only_member(choice, "message");
	const cJSON *content = only_member(message, "content");
	const cJSON *finish = only_member(choice, "finish_reason");
	const cJSON *usage = only_member(body, "usage");
	const int32_t tokens_prompt = token_count(usage, "prompt_tokens");
	const int32_t tokens_completion = token_count(usage, "completion_tokens");
	SermStatus status = SERM_OK;

	if (cJSON_IsString(content)) {
		SermText text = {content->valuestring, strlen(content->valuestring)};

		status = serm_reply_parse_content(text, question, arena, reply, error);
	} else
		reply->reason = SERM_REPLY_NO_CONTENT;
	reply->tokens_prompt = tokens_prompt;
	reply->tokens_completion = tokens_completion;
	if (reply->reason == SERM_REPLY_OK)
		return status;
	if (is_text(finish, "content_filter") || cJSON_IsString(only_member(message, "refusal")))
		reply->reason = SERM_REPLY_REFUSED;
	else if (is_text(finish, "length"))
		reply->reason = SERM_REPLY_TRUNCATED;
	return status;
}

SermStatus
serm_reply_parse(SermText body, SermQuestion question, SermArena *arena, SermReply *reply, SermError *error)
{
	SermStatus status;
	cJSON *json;

	reply_init(reply);
	if (body.length > SERM_REPLY_BYTES_MAX)
		reply->reason = SERM_REPLY_TOO_LARGE;
	else if (!serm_utf8_valid(body.bytes, body.length))
		reply->reason = SERM_REPLY_NOT_UTF8;
	if (reply->reason != SERM_REPLY_OK)
		return SERM_OK;
	status = parse_json(body, arena, &json, &reply->reason, error);
	if (json == NULL)
		return status;
	status = read_envelope(json, question, arena, reply, error);
	cJSON_Delete(json);
	return status;
}

/* --- for other readers of this room */

SermStatus
serm_reply_json(SermText body, SermArena *arena, cJSON **json, SermReplyReason *reason, SermError *error)
{
	*json = NULL;
	*reason = SERM_REPLY_OK;
	if (body.length > SERM_REPLY_BYTES_MAX)
		*reason = SERM_REPLY_TOO_LARGE;
	else if (!serm_utf8_valid(body.bytes, body.length))
		*reason = SERM_REPLY_NOT_UTF8;
	return *reason == SERM_REPLY_OK ? parse_json(body, arena, json, reason, error) : SERM_OK;
}

const cJSON *
serm_reply_member(const cJSON *object, const char *name)
{
	return only_member(object, name);
}

int32_t
serm_reply_tokens(const cJSON *body, const char *name)
{
	return token_count(only_member(body, "usage"), name);
}
