/*
 * One attempt at one task, after the network: the verdict on its reply, what it did
 * cost, and whether it is tried again. An endpoint that repeats the key it was asked
 * with does not get it stored.
 */
#include "pg/annotate/job.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"

#include "core/agent/reply.h"

#define REPLY_KEPT_BYTES 2000
/* Backslashes before one character: JSON in JSON in JSON. */
#define ESCAPES_MAX 8

/* UTF-8 as text of the database; characters that it does not have become question marks. */
static char *
from_utf8(SermText text)
{
	int encoding = GetDatabaseEncoding();
	char *source = pnstrdup(text.bytes, text.length);
	StringInfoData result;
	Oid conversion;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return source;
	conversion = FindDefaultConversionProc(PG_UTF8, encoding);
	initStringInfo(&result);
	for (const char *at = source; *at != '\0';) {
		unsigned char converted[MAX_CONVERSION_GROWTH * 4 + 1];
		int length = Min(pg_utf_mblen((const unsigned char *) at), (int) strlen(at));

		if (OidIsValid(conversion) && pg_do_encoding_conversion_buf(conversion, PG_UTF8, encoding,
		                                  (unsigned char *) unconstify(char *, at), length, converted,
		                                  sizeof(converted), true) == length)
			appendStringInfoString(&result, (char *) converted);
		else
			appendStringInfoChar(&result, '?');
		at += length;
	}
	return result.data;
}

void
serm_job_decide(SermJob *job)
{
	SermRetryInput input = {.outcome = job->outcome,
	    .http_status = job->http_status,
	    .retry_after_ms = job->retry_after_ms,
	    .attempt = (uint32) job->task.attempt,
	    .attempts_max = (uint32) Max(job->attempts_max, 1),
	    .uniform = serm_random_fraction()};
	MemoryContext previous = MemoryContextSwitchTo(job->context);

	job->decision = serm_retry_decide(&input);
	if (job->decision.action == SERM_RETRY_GIVE_UP)
		job->vote.error = job->task.attempt > 1 ? psprintf("%s (attempt %d)", job->failure, job->task.attempt)
		                                        : job->failure;
	MemoryContextSwitchTo(previous);
}

static int
hex_value(const char *digits)
{
	int value = 0;

	for (int i = 0; i < 2; i++) {
		unsigned char digit = pg_ascii_tolower((unsigned char) digits[i]);

		if (digit >= '0' && digit <= '9')
			value = 16 * value + digit - '0';
		else if (digit >= 'a' && digit <= 'f')
			value = 16 * value + digit - 'a' + 10;
		else
			return -1;
	}
	return value;
}

/*
 * The length of the key at `at`; 0: it is not there. JSON, and JSON within JSON, may
 * put backslashes before any character, or write it as \u0041.
 */
static size_t
match_key(const char *at, const char *end, const char *key)
{
	const char *start = at;

	for (; *key != '\0'; key++) {
		bool escaped = false;

		for (int i = 0; i < ESCAPES_MAX && at < end && *at == '\\'; i++, at++)
			escaped = true;
		if (*key == '\\')
			continue;
		if (escaped && end - at >= 5 && memcmp(at, "u00", 3) == 0 && hex_value(at + 3) == *key)
			at += 5;
		else if (at < end && *at == *key)
			at++;
		else
			return 0;
	}
	return at - start;
}

/* A reply may repeat the key it was asked with; nothing that we keep does. */
static SermText
redacted_copy(const SermJob *job, const SermHttpResult *result)
{
	char *copy = palloc(result->body_length + 1);
	char *end = copy + result->body_length;

	if (result->body_length > 0)
		memcpy(copy, result->body, result->body_length);
	*end = '\0';
	for (char *at = copy; job->key != NULL && at < end;) {
		size_t length = match_key(at, end, job->key);

		memset(at, '*', length);
		at += Max(length, 1);
	}
	return (SermText){copy, result->body_length};
}

/* As text of an array. */
static char *
places_text(const SermReply *reply, uint32_t count)
{
	StringInfoData text;

	initStringInfo(&text);
	for (uint32_t i = 0; i < count; i++)
		appendStringInfo(&text, "%c%u", i == 0 ? '{' : ',', reply->place[i]);
	appendStringInfoChar(&text, '}');
	return text.data;
}

static void
read_reply(SermJob *job, SermText body, SermReply *reply)
{
	SermError error;

	serm_host_check(
	    &job->host, serm_reply_parse(body, job->question, &job->host.arena, reply, &error), &error);
	if (reply->tokens_prompt >= 0 || reply->tokens_completion >= 0)
		job->vote.tokens = Max(reply->tokens_prompt, 0) + Max(reply->tokens_completion, 0);
	if (reply->reason == SERM_REPLY_OK) {
		if (job->canary[0] != '\0')
			job->vote.canary = serm_prompt_canary_obeyed(reply->rationale, job->canary) ? 1 : 0;
		if (job->vote.canary == 1) {
			job->outcome = SERM_OUTCOME_SUSPECT;
			job->failure = pstrdup("the judge obeyed an instruction that stood in the data");
			return;
		}
		job->vote.grade = reply->grade;
		if (job->question.form != SERM_FORM_ABSOLUTE)
			job->vote.places = places_text(reply, job->question.count);
		job->vote.rationale = reply->rationale.length > 0 ? from_utf8(reply->rationale) : NULL;
		return;
	}
	job->outcome = SERM_OUTCOME_MALFORMED;
	job->failure = pstrdup(serm_reply_reason_text(reply->reason));
}

/* What a request did cost: what the reply says, or, where it may have been billed unseen, the most. */
static double
cost_of(const SermJob *job, const SermReply *reply)
{
	switch (job->outcome) {
		case SERM_OUTCOME_HTTP:
		case SERM_OUTCOME_MALFORMED:
		case SERM_OUTCOME_SUSPECT:
			if (job->http_status < 200 || job->http_status > 299)
				return 0;
			if (reply->tokens_prompt < 0 || reply->tokens_completion < 0)
				return job->cost_most;
			return (reply->tokens_prompt * job->server.price_prompt +
			           reply->tokens_completion * job->server.price_completion) /
			       SERM_TOKENS_PRICED;
		case SERM_OUTCOME_TIMEOUT:
		case SERM_OUTCOME_BROKEN:
		case SERM_OUTCOME_TOO_LARGE:
			return job->cost_most;
		default:
			return 0;
	}
}

void
serm_job_finish(SermJob *job, const SermHttpResult *result)
{
	MemoryContext previous = MemoryContextSwitchTo(job->context);
	SermText body = redacted_copy(job, result);
	SermReply reply = {.tokens_prompt = -1, .tokens_completion = -1};

	job->outcome = result->outcome;
	job->http_status = result->http_status;
	job->retry_after_ms = result->retry_after_ms;
	job->vote.prompt = job->prompt_version;
	job->vote.latency_ms = result->latency_ms;
	job->failure = pstrdup(result->detail);
	if (result->outcome == SERM_OUTCOME_HTTP && result->http_status >= 200 && result->http_status <= 299)
		read_reply(job, body, &reply);
	if (job->vote.grade < 0 && job->vote.places == NULL && body.length > 0) {
		job->vote.reply = body.bytes;
		job->vote.reply_length = Min(body.length, REPLY_KEPT_BYTES);
	}
	job->vote.cost = cost_of(job, &reply);
	MemoryContextSwitchTo(previous);
	serm_job_decide(job);
}
