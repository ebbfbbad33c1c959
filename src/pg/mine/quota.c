/*
 * What the selection is told beside the picks: quotas of agents and segments, of
 * drifted segments by themselves, and how surely annotators agree.
 */
#include "pg/mine/mine.h"

#include <math.h>

#include "access/xact.h"
#include "common/int.h"

/* Samples of one grade that weigh as much as the mean of all. */
#define MARGIN_STRENGTH 10.0

/* "name=share, name=share" one by one; false at the end. */
static bool
next_quota(char **rest, const char *option, char **name, double *share)
{
	char *item = strsep(rest, ","), *equals, *end;

	if (item == NULL)
		return false;
	item += strspn(item, " ");
	equals = strrchr(item, '=');
	*share = equals != NULL ? strtod(equals + 1, &end) : NAN;
	if (equals == NULL || equals == item || end == equals + 1 || end[strspn(end, " ")] != '\0' ||
	    !(*share >= 0 && *share <= 1))
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"%s\" of serm.mine has an invalid part \"%s\"", option, item),
		    errhint("Write names and shares of the budget from 0 to 1, as in \"feedback=0.2, clicks=0.1\"."));
	while (equals > item && equals[-1] == ' ')
		equals--;
	*equals = '\0';
	*name = item;
	return true;
}

static SermQuota *
add_quota(SermMining *mining, SermQuota *quotas, uint32 *count, uint32 of, double share)
{
	if (quotas == NULL)
		quotas =
		    MemoryContextAlloc(mining->host.context, sizeof(SermQuota) * (SERM_MINE_SEGMENTS_MAX + 32) * 2);
	if (*count >= (SERM_MINE_SEGMENTS_MAX + 32) * 2)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("too many quotas"));
	quotas[(*count)++] = (SermQuota){of, share};
	return quotas;
}

/* A segment that the window does not have needs no quota. */
static void
add_segment_quota(SermMining *mining, const char *name, double share)
{
	for (uint32 i = 0; i < mining->segment_count; i++)
		if (strcmp(mining->segments[i], name) == 0)
			mining->segment_quota =
			    add_quota(mining, mining->segment_quota, &mining->segment_quota_count, i, share);
}

/*
 * The window before this one, of the same length; as far back as there is time. False where there is none:
 * this one begins with time itself, or is empty.
 */
static bool
window_before(const SermMining *mining, TimestampTz *from, TimestampTz *until)
{
	int64 length;

	*until = mining->has_until && !TIMESTAMP_NOT_FINITE(mining->until)
	             ? mining->until
	             : GetCurrentTransactionStartTimestamp();
	if (TIMESTAMP_NOT_FINITE(mining->since) || (mining->has_until && TIMESTAMP_IS_NOBEGIN(mining->until)) ||
	    *until <= mining->since)
		return false;
	if (pg_sub_s64_overflow(*until, mining->since, &length) ||
	    pg_sub_s64_overflow(mining->since, length, from) || !IS_VALID_TIMESTAMP(*from))
		*from = DT_NOBEGIN;
	return true;
}

/*
 * The segments that drifted between the window before this one and this one; each gets the same part of
 * drift_share.
 */
static void
add_drifted(SermMining *mining)
{
	TimestampTz from = 0, until = 0;
	SermParam params[4] = {SERM_TEXT(mining->model->name)};
	StringInfoData names;

	if (!mining->has_since)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("option \"drift\" of serm.mine needs a window that begins"),
		    errhint("Name it: serm.mine(..., since => now() - interval '7 days')."));
	if (!window_before(mining, &from, &until))
		return;
	params[1] = SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(from));
	params[2] = SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(mining->since));
	params[3] = SERM_DATUM(TIMESTAMPTZOID, TimestampTzGetDatum(until));
	serm_spi_execute(
	    "SELECT d.segment FROM serm.drift($1, tstzrange($2, $3), tstzrange($3, $4)) AS d"
	    " WHERE d.drifted AND d.segment IS NOT NULL GROUP BY d.segment ORDER BY d.segment COLLATE \"C\"",
	    SPI_OK_SELECT, true, params, lengthof(params));
	if (SPI_processed == 0)
		return;
	initStringInfo(&names);
	for (uint64 i = 0; i < SPI_processed; i++) {
		char *name = serm_spi_string(i, 1);

		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", name);
		add_segment_quota(mining, name, mining->options.drift_share / (double) SPI_processed);
	}
	mining->drifted = MemoryContextStrdup(mining->host.context, names.data);
}

void
serm_mine_quotas(SermMining *mining)
{
	const SermMineOptions *options = &mining->options;
	char *rest, *name;
	double share;

	for (rest = options->agent_quota == NULL ? NULL : pstrdup(options->agent_quota);
	     next_quota(&rest, "agent_quota", &name, &share);) {
		uint32 bits = serm_mine_agents_parse(name);
		uint32 agent = (uint32) __builtin_ctz(bits);

		mining->agent_quota =
		    add_quota(mining, mining->agent_quota, &mining->agent_quota_count, agent, share);
	}
	for (rest = options->segment_quota == NULL ? NULL : pstrdup(options->segment_quota);
	     next_quota(&rest, "segment_quota", &name, &share);)
		add_segment_quota(mining, name, share);
	if (options->drift)
		add_drifted(mining);
}

void
serm_mine_read_margins(SermMining *mining)
{
	double sums[SERM_GRADES_MAX] = {0}, counts[SERM_GRADES_MAX] = {0}, sum = 0, count = 0;
	SermParam params[] = {SERM_TEXT(mining->model->name), SERM_INT4(mining->model->grade_count - 1)};

	serm_spi_execute(
	    "SELECT least($2, greatest(0, round((s.signals ->> 'score')::float8)))::int4, sum(m.margin)::float8,"
	    " count(*)::float8 FROM serm.sample AS s JOIN (SELECT g.sample, (max(g.n) FILTER (WHERE g.place = 1)"
	    " - coalesce(max(g.n) FILTER (WHERE g.place = 2), 0)) / sum(g.n) AS margin FROM (SELECT v.sample, "
	    "count(*) AS n,"
	    " row_number() OVER (PARTITION BY v.sample ORDER BY count(*) DESC) AS place FROM serm.vote AS v"
	    " WHERE v.grade IS NOT NULL GROUP BY v.sample, v.grade) AS g GROUP BY g.sample HAVING sum(g.n) > 1) "
	    "AS m"
	    " ON m.sample = s.id WHERE s.model = $1 AND jsonb_typeof(s.signals -> 'score') = 'number' GROUP BY 1",
	    SPI_OK_SELECT, true, params, lengthof(params));
	for (uint64 i = 0; i < SPI_processed; i++) {
		bool null;
		int32 grade = DatumGetInt32(serm_spi_value(i, 1, &null));

		sums[grade] = DatumGetFloat8(serm_spi_value(i, 2, &null));
		counts[grade] = DatumGetFloat8(serm_spi_value(i, 3, &null));
		sum += sums[grade];
		count += counts[grade];
	}
	for (int grade = 0; grade < mining->model->grade_count; grade++)
		mining->margins[grade] = (sums[grade] + MARGIN_STRENGTH * (count > 0 ? sum / count : 1.0)) /
		                         (counts[grade] + MARGIN_STRENGTH);
}

double
serm_mine_margin(const SermMining *mining, double score)
{
	int last = mining->model->grade_count - 1;
	int below = (int) Min(Max(floor(score), 0), last - 1);
	double part = Min(Max(score - below, 0), 1);

	return mining->margins[below] * (1 - part) + mining->margins[below + 1] * part;
}
