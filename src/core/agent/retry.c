#include "core/agent/retry.h"

#include <string.h>

#define SECONDS_PER_DAY 86400

bool
serm_retry_limited(SermOutcome outcome, int http_status)
{
	return outcome == SERM_OUTCOME_HTTP && (http_status == 429 || http_status == 503);
}

bool
serm_retry_worthwhile(SermOutcome outcome, int http_status)
{
	switch (outcome) {
		case SERM_OUTCOME_HTTP:
			return http_status == 408 || http_status == 409 || http_status == 429 ||
			       (http_status >= 500 && http_status <= 599);
		case SERM_OUTCOME_CONNECT:
		case SERM_OUTCOME_TIMEOUT:
		case SERM_OUTCOME_BROKEN:
		case SERM_OUTCOME_MALFORMED:
			return true;
		case SERM_OUTCOME_SUSPECT:
		case SERM_OUTCOME_TOO_LARGE:
		case SERM_OUTCOME_FORBIDDEN:
		case SERM_OUTCOME_CERTIFICATE:
		case SERM_OUTCOME_CONFIG:
		case SERM_OUTCOME_COUNT:
			break;
	}
	return false;
}

/* Uniform in [0, min(cap, base 2^(attempt - 1))]. */
static uint32_t
jittered_delay(uint32_t attempt, double uniform)
{
	uint32_t ceiling = SERM_RETRY_BASE_MS;

	for (uint32_t i = 1; i < attempt && ceiling < SERM_RETRY_CAP_MS; i++)
		ceiling *= 2;
	if (ceiling > SERM_RETRY_CAP_MS)
		ceiling = SERM_RETRY_CAP_MS;
	return (uint32_t) (uniform * (ceiling + 1.0));
}

SermRetryDecision
serm_retry_decide(const SermRetryInput *input)
{
	bool limited = serm_retry_limited(input->outcome, input->http_status);
	SermRetryDecision decision = {SERM_RETRY_GIVE_UP, 0, !limited};
	uint32_t attempts_max = input->attempts_max;

	SERM_ASSERT(input->attempt >= 1);
	SERM_ASSERT(input->uniform >= 0.0 && input->uniform < 1.0);
	if (input->outcome == SERM_OUTCOME_HTTP && input->http_status >= 200 && input->http_status <= 299) {
		decision.action = SERM_RETRY_DONE;
		return decision;
	}
	if (input->outcome == SERM_OUTCOME_MALFORMED && attempts_max > 1 + SERM_RETRY_REASKS_MAX)
		attempts_max = 1 + SERM_RETRY_REASKS_MAX;
	if (!limited &&
	    (!serm_retry_worthwhile(input->outcome, input->http_status) || input->attempt >= attempts_max))
		return decision;

	decision.action = SERM_RETRY_AGAIN;
	decision.delay_ms = jittered_delay(input->attempt, input->uniform);
	if (input->retry_after_ms > (int64_t) decision.delay_ms)
		decision.delay_ms = input->retry_after_ms > SERM_RETRY_AFTER_MAX_MS
		                        ? SERM_RETRY_AFTER_MAX_MS
		                        : (uint32_t) input->retry_after_ms;
	return decision;
}

typedef struct Cursor {
	const char *at;
	const char *end;
} Cursor;

/* `digits_min` to `digits_max` digits; false when there are fewer or more. */
static bool
read_number(Cursor *cursor, int digits_min, int digits_max, int64_t *value)
{
	int digits = 0;

	*value = 0;
	while (cursor->at < cursor->end && *cursor->at >= '0' && *cursor->at <= '9') {
		if (++digits > digits_max)
			return false;
		*value = *value * 10 + (*cursor->at++ - '0');
	}
	return digits >= digits_min;
}

static bool
read_text(Cursor *cursor, const char *text)
{
	const size_t length = strlen(text);

	if ((size_t) (cursor->end - cursor->at) < length || memcmp(cursor->at, text, length) != 0)
		return false;
	cursor->at += length;
	return true;
}

/* One of `count` names of a list; *index tells which. */
static bool
read_name(Cursor *cursor, const char *const *names, int count, int *index)
{
	for (*index = 0; *index < count; (*index)++)
		if (read_text(cursor, names[*index]))
			return true;
	return false;
}

/* Days from 1970-01-01 in the proleptic Gregorian calendar; month 1..12. */
static int64_t
days_from_civil(int64_t year, int64_t month, int64_t day)
{
	/* Years begin in March, so that the leap day is the last one. */
	const int64_t shifted = month <= 2 ? year - 1 : year;
	const int64_t era = shifted / 400;
	const int64_t year_of_era = shifted - era * 400;
	const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	const int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

	return era * 146097 + day_of_era - 719468;
}

static bool
read_time(Cursor *cursor, int64_t *seconds)
{
	int64_t hour, minute, second;

	if (!read_number(cursor, 2, 2, &hour) || !read_text(cursor, ":") || !read_number(cursor, 2, 2, &minute) ||
	    !read_text(cursor, ":") || !read_number(cursor, 2, 2, &second))
		return false;
	*seconds = hour * 3600 + minute * 60 + second;
	return hour <= 23 && minute <= 59 && second <= 60;
}

/* IMF-fixdate, RFC 850 and asctime; *unix_time in seconds. */
static bool
read_date(Cursor *cursor, int64_t *unix_time)
{
	static const char *const short_days[] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
	static const char *const long_days[] = {
	    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
	static const char *const months[] = {
	    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	int64_t year = 0, day = 0, seconds = 0;
	int name, month = 0;
	bool good;

	if (read_name(cursor, long_days, 7, &name)) {
		good = read_text(cursor, ", ") && read_number(cursor, 2, 2, &day) && read_text(cursor, "-") &&
		       read_name(cursor, months, 12, &month) && read_text(cursor, "-") &&
		       read_number(cursor, 2, 2, &year) && read_text(cursor, " ") && read_time(cursor, &seconds) &&
		       read_text(cursor, " GMT");
		/* No server that speaks HTTP today means the last century. */
		year += 2000;
	} else if (read_name(cursor, short_days, 7, &name)) {
		if (read_text(cursor, ", "))
			good = read_number(cursor, 2, 2, &day) && read_text(cursor, " ") &&
			       read_name(cursor, months, 12, &month) && read_text(cursor, " ") &&
			       read_number(cursor, 4, 4, &year) && read_text(cursor, " ") &&
			       read_time(cursor, &seconds) && read_text(cursor, " GMT");
		else
			good = read_text(cursor, " ") && read_name(cursor, months, 12, &month) &&
			       read_text(cursor, " ") && (read_text(cursor, " ") || true) &&
			       read_number(cursor, 1, 2, &day) && read_text(cursor, " ") && read_time(cursor, &seconds) &&
			       read_text(cursor, " ") && read_number(cursor, 4, 4, &year);
	} else
		return false;
	if (!good || cursor->at != cursor->end || day < 1 || day > 31)
		return false;
	*unix_time = days_from_civil(year, month + 1, day) * SECONDS_PER_DAY + seconds;
	return true;
}

static Cursor
trim(SermText value)
{
	Cursor cursor = {value.bytes, value.bytes + value.length};

	while (cursor.at < cursor.end && (*cursor.at == ' ' || *cursor.at == '\t'))
		cursor.at++;
	while (cursor.at < cursor.end && (cursor.end[-1] == ' ' || cursor.end[-1] == '\t'))
		cursor.end--;
	return cursor;
}

/* All of it digits: their number, saturated; else -1. */
static int64_t
read_digits(Cursor cursor)
{
	int64_t number;

	if (cursor.at == cursor.end)
		return -1;
	for (const char *digit = cursor.at; digit < cursor.end; digit++)
		if (*digit < '0' || *digit > '9')
			return -1;
	/* More than fifteen digits is for ever anyway. */
	return read_number(&cursor, 1, 15, &number) ? number : INT64_MAX / 2000;
}

int64_t
serm_retry_after_ms_parse(SermText value)
{
	return read_digits(trim(value));
}

int64_t
serm_retry_after_parse(SermText value, int64_t now)
{
	Cursor cursor = trim(value);
	int64_t seconds = read_digits(cursor);

	if (seconds >= 0)
		return seconds > INT64_MAX / 2000 - 1 ? INT64_MAX / 2 : seconds * 1000;
	if (!read_date(&cursor, &seconds))
		return -1;
	return seconds > now ? (seconds - now) * 1000 : 0;
}
