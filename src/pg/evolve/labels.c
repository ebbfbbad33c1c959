/*
 * From the votes of agents to what training takes from them.
 *
 * The agreed grade of a pair says too much: agents err in level and err alike.
 * With the model option labels = "posterior" the round appends, for every pair
 * that got a vote, a judgment of the judge "posterior" with the soft target
 * q(y) ~ p(y) prod_j C_j[y][vote_j]: p is the active version's distribution, C_j
 * the confusion matrix of agent j, from the pairs that both people and agents
 * graded; the round asks the agents for some of those. Disputed pairs take part:
 * leaving them out would skew what training sees towards what judges find easy.
 * Their grade is the mean of the target, a fraction; that of an agreed pair stays
 * the agreed one. Only pairs of train queries count as gold: the test split must
 * not leak into labels.
 */
#include "pg/serm.h"

#include <math.h>

#include "core/stats/agreement.h"
#include "core/stats/judges.h"
#include "miscadmin.h"
#include "pg/annotate/annotate.h"
#include "pg/evolve/round.h"
#include "utils/array.h"
#include "utils/guc.h"

#define JUDGES_MAX 64
/* Samples read in one step. */
#define READ_SAMPLES 100

typedef struct Sample {
	int64 id;
	bool wanted; /* of this round, voted on and not settled by people */
} Sample;

typedef struct Votes {
	const SermModelRow *row;
	int32 round;
	uint32 grade_count;
	uint32 judge_count;
	char *judges[JUDGES_MAX];
	size_t count, capacity;
	Sample *samples;
	int16 *label; /* [sample][judge] */
	int16 *gold;  /* [sample] */
	bool *this_round;
	float *prior; /* [sample][grade]: the active version's distribution */
} Votes;

/* --- counting */

void
serm_round_count_labels(SermRound *round, SermRoundLabels *labels)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number)};
	int64 *fields[] = {&labels->voted, &labels->agreed, &labels->disputed, &labels->settled, &labels->failed,
	    &labels->open, &labels->judgments, &labels->suspended, &labels->extra_votes};
	bool null;

	memset(labels, 0, sizeof(*labels));
	serm_spi_execute(
	    "SELECT pg_catalog.count(*) FILTER (WHERE EXISTS (SELECT FROM serm.vote v WHERE v.sample = s.id"
	    " AND v.grade IS NOT NULL)),"
	    " pg_catalog.count(*) FILTER (WHERE s.state = 'agreed'),"
	    " pg_catalog.count(*) FILTER (WHERE s.state = 'disputed'),"
	    " pg_catalog.count(*) FILTER (WHERE s.state = 'settled'),"
	    " pg_catalog.count(*) FILTER (WHERE s.state = 'failed'),"
	    " pg_catalog.count(*) FILTER (WHERE s.state IN ('waiting', 'annotating')),"
	    " (SELECT pg_catalog.count(DISTINCT (pg_catalog.md5(j.query), pg_catalog.md5(coalesce(j.doc_id, "
	    "j.doc))))"
	    " FROM serm.judgment j WHERE j.model = $1 AND j.round = $2 AND NOT EXISTS (SELECT FROM serm.judgment "
	    "h"
	    " WHERE h.model = $1 AND h.round IS NULL AND h.source IN ('human', 'import')"
	    " AND pg_catalog.md5(h.query) = pg_catalog.md5(j.query)"
	    " AND pg_catalog.md5(coalesce(h.doc_id, h.doc)) = pg_catalog.md5(coalesce(j.doc_id, j.doc)))),"
	    " (SELECT pg_catalog.count(*) FROM serm.agent a JOIN serm.round n ON n.model = a.model AND n.round = "
	    "$2"
	    " WHERE a.model = $1 AND a.suspended >= n.started),"
	    " (SELECT pg_catalog.count(*) FROM serm.vote v JOIN serm.sample x ON x.id = v.sample"
	    " WHERE x.model = $1 AND x.round = $2 AND v.extra)"
	    " FROM serm.sample s WHERE s.model = $1 AND s.round = $2 AND s.agents <> '" SERM_GOLD_MARK "'",
	    SPI_OK_SELECT, false, params, lengthof(params));
	for (int i = 0; i < (int) lengthof(fields); i++)
		*fields[i] = DatumGetInt64(serm_spi_value(0, i + 1, &null));
}

/* --- reading votes */

static SermText
text_value(uint64 row, int column)
{
	char *string = serm_spi_string(row, column);

	return string == NULL ? (SermText){"", 0} : (SermText){string, strlen(string)};
}

static void
read_judges(Votes *votes)
{
	SermParam params[] = {SERM_TEXT(votes->row->name)};

	serm_spi_execute(
	    "SELECT DISTINCT v.agent COLLATE \"C\" FROM serm.vote v JOIN serm.sample s ON s.id = v.sample"
	    " WHERE s.model = $1 AND v.grade IS NOT NULL ORDER BY 1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	if (SPI_processed > JUDGES_MAX)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("more than %d agents have voted for model \"%s\"", JUDGES_MAX, votes->row->name));
	votes->judge_count = (uint32) SPI_processed;
	for (uint32 j = 0; j < votes->judge_count; j++)
		votes->judges[j] = serm_spi_string(j, 1);
}

/*
 * One row per sample: its query, and for each agent (sorted by name) the grade that most of its paths gave,
 * NULL for a tie or none. Gold is the newest grade by people.
 */
static const char samples_sql[] =
    "SELECT s.query, s.id, s.round = $2,"
    " s.round = $2 AND s.state IN ('agreed', 'disputed') AND s.agents <> '" SERM_GOLD_MARK
    "' AND EXISTS (SELECT FROM serm.vote v"
    " WHERE v.sample = s.id AND v.grade IS NOT NULL),"
    " (SELECT j.grade FROM serm.judgment j WHERE j.model = $1 AND j.source IN ('human', 'import')"
    " AND pg_catalog.md5(j.query) = pg_catalog.md5(s.query)"
    " AND pg_catalog.md5(coalesce(j.doc_id, j.doc)) = pg_catalog.md5(s.doc_id)"
    " ORDER BY j.source = 'human' DESC, j.at DESC, j.id DESC LIMIT 1),"
    " ARRAY(SELECT (SELECT CASE WHEN pg_catalog.count(*) = 1 THEN pg_catalog.min(g.grade) END FROM"
    " (SELECT v.grade, pg_catalog.rank() OVER (ORDER BY pg_catalog.count(*) DESC) AS place FROM serm.vote v"
    " WHERE v.sample = s.id AND v.agent = a.name AND v.grade IS NOT NULL GROUP BY v.grade) g WHERE g.place = "
    "1)"
    " FROM pg_catalog.unnest($3::text[]) WITH ORDINALITY a(name, i) ORDER BY a.i)"
    " FROM serm.sample s WHERE s.model = $1 AND s.id > $4"
    " AND EXISTS (SELECT FROM serm.vote v WHERE v.sample = s.id) ORDER BY s.id LIMIT $5";

static void
read_sample(Votes *votes, uint64 row, size_t at)
{
	Sample *sample = &votes->samples[at];
	int16 *label = &votes->label[at * votes->judge_count];
	Datum *elements, value;
	bool *nulls, null;
	int count;

	sample->id = DatumGetInt64(serm_spi_value(row, 2, &null));
	votes->this_round[at] = DatumGetBool(serm_spi_value(row, 3, &null));
	sample->wanted = DatumGetBool(serm_spi_value(row, 4, &null));
	value = serm_spi_value(row, 5, &null);
	votes->gold[at] = SERM_LABEL_MISSING;
	if (!null && !serm_query_is_test(text_value(row, 1), votes->row->options.test_share))
		votes->gold[at] = (int16) Min(floor(DatumGetFloat4(value) + .5), votes->grade_count - 1);
	deconstruct_array(DatumGetArrayTypeP(serm_spi_value(row, 6, &null)), INT2OID, 2, true, TYPALIGN_SHORT,
	    &elements, &nulls, &count);
	for (int j = 0; j < count; j++)
		label[j] = nulls[j] || DatumGetInt16(elements[j]) >= (int16) votes->grade_count
		               ? SERM_LABEL_MISSING
		               : DatumGetInt16(elements[j]);
}

static void
make_room(Votes *votes, MemoryContext context, size_t more)
{
	size_t capacity = serm_capacity_for(votes->count + more, votes->capacity);

	if (capacity == votes->capacity)
		return;
	votes->samples = serm_array_grow(votes->samples, context, capacity, sizeof(Sample));
	votes->label =
	    serm_array_grow(votes->label, context, capacity, mul_size(Max(votes->judge_count, 1), sizeof(int16)));
	votes->gold = serm_array_grow(votes->gold, context, capacity, sizeof(int16));
	votes->this_round = serm_array_grow(votes->this_round, context, capacity, sizeof(bool));
	votes->capacity = capacity;
}

/* The next samples; false when there are no more. */
static bool
read_page(SermRound *round, Votes *votes, SermParam *params, int count)
{
	MemoryContext page =
	    AllocSetContextCreate(round->context, "serm labels, one step", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(page);
	uint64 rows;

	params[3] = SERM_INT8(votes->count > 0 ? votes->samples[votes->count - 1].id : PG_INT64_MIN);
	serm_spi_execute(samples_sql, SPI_OK_SELECT, false, params, count);
	rows = SPI_processed;
	make_room(votes, round->context, rows);
	for (uint64 row = 0; row < rows; row++)
		read_sample(votes, row, votes->count + row);
	votes->count += rows;
	SPI_freetuptable(SPI_tuptable);
	MemoryContextSwitchTo(previous);
	MemoryContextDelete(page);
	return rows > 0;
}

static void
read_votes(SermRound *round, Votes *votes)
{
	Datum names[JUDGES_MAX];
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number), SERM_NULL(TEXTARRAYOID),
	    SERM_INT8(0), SERM_INT4(READ_SAMPLES)};
	int level;

	*votes =
	    (Votes){.row = round->row, .round = round->number, .grade_count = (uint32) round->row->grade_count};
	read_judges(votes);
	for (uint32 j = 0; j < votes->judge_count; j++)
		names[j] = CStringGetTextDatum(votes->judges[j]);
	params[2] = SERM_DATUM(TEXTARRAYOID,
	    PointerGetDatum(construct_array(names, (int) votes->judge_count, TEXTOID, -1, false, TYPALIGN_INT)));
	level = serm_spi_prefer_indexes();
	while (read_page(round, votes, params, lengthof(params)))
		CHECK_FOR_INTERRUPTS();
	AtEOXact_GUC(false, level);
}

/* --- agreement between the agents, on the samples of this round */

static void
write_kappas(const Votes *votes, StringInfo json)
{
	uint32 grades = votes->grade_count;
	double *counts = palloc(grades * grades * sizeof(double));
	StringInfo pairs = serm_json_begin();
	double sum = 0;
	int defined = 0;
	SermError error = {0};

	for (uint32 a = 0; a < votes->judge_count; a++)
		for (uint32 b = a + 1; b < votes->judge_count; b++) {
			double kappa;

			memset(counts, 0, grades * grades * sizeof(double));
			for (size_t i = 0; i < votes->count; i++) {
				int16 x = votes->label[i * votes->judge_count + a],
				      y = votes->label[i * votes->judge_count + b];

				if (votes->this_round[i] && x >= 0 && y >= 0)
					counts[(uint32) x * grades + (uint32) y] += 1;
			}
			serm_check(
			    serm_agreement_kappa(counts, grades, NULL, SERM_KAPPA_QUADRATIC, &kappa, &error), &error);
			serm_json_number(pairs, psprintf("%s ~ %s", votes->judges[a], votes->judges[b]), kappa);
			sum += isfinite(kappa) ? kappa : 0;
			defined += isfinite(kappa) ? 1 : 0;
		}
	serm_json_number(json, "kappa", defined > 0 ? sum / defined : NAN);
	serm_json_jsonb(json, "kappas", serm_json_end(pairs));
}

static Jsonb *
measure_agreement(SermRound *round, const Votes *votes)
{
	StringInfo json = serm_json_begin(), outer = serm_json_begin();
	SermRating *ratings = MemoryContextAllocHuge(
	    round->context, Max(votes->count * votes->judge_count, 1) * sizeof(SermRating));
	SermAgreement agreement = {.alpha = NAN, .share = NAN};
	SermError error = {0};
	size_t count = 0;

	for (size_t i = 0; i < votes->count; i++)
		for (uint32 j = 0; j < votes->judge_count && votes->this_round[i]; j++) {
			int16 label = votes->label[i * votes->judge_count + j];

			if (label != SERM_LABEL_MISSING)
				ratings[count++] = (SermRating){i, label};
		}
	if (count > 0)
		serm_check(
		    serm_agreement_alpha(ratings, count, SERM_ALPHA_ORDINAL, &round->host.arena, &agreement, &error),
		    &error);
	serm_json_number(json, "alpha", agreement.alpha);
	serm_json_number(json, "share", agreement.share);
	write_kappas(votes, json);
	serm_json_jsonb(outer, "agreement", serm_json_end(json));
	return serm_json_end(outer);
}

/* --- soft targets */

static void
predict_samples(SermRound *round, SermScorer *scorer, Votes *votes)
{
	uint32 grades = votes->grade_count;

	votes->prior = MemoryContextAllocHuge(
	    round->context, mul_size(Max(votes->count, 1), mul_size(grades, sizeof(float))));
	for (size_t first = 0; first < votes->count; first += READ_SAMPLES) {
		size_t count = Min(READ_SAMPLES, votes->count - first);
		int64 ids[READ_SAMPLES];

		for (size_t i = 0; i < count; i++)
			ids[i] = votes->samples[first + i].id;
		serm_samples_predict(scorer, ids, count, grades, &votes->prior[first * grades]);
		serm_spi_commit(&round->level);
	}
}

typedef struct Confusion {
	double *matrix; /* [judge][grade][grade] */
	SermConfusionReport report;
	double correlation; /* of the errors of two agents */
} Confusion;

static void
estimate_confusion(SermRound *round, const Votes *votes, Confusion *confusion)
{
	uint32 grades = votes->grade_count;
	SermJudgeLabels labels = {.grade_count = grades,
	    .judge_count = votes->judge_count,
	    .item_count = votes->count,
	    .label = votes->label,
	    .gold = votes->gold,
	    .prior = votes->prior};
	SermConfusionOptions options;
	double *grade_prior = palloc(grades * sizeof(double));
	SermError error = {0};

	confusion->matrix = palloc(votes->judge_count * grades * grades * sizeof(double));
	serm_confusion_defaults(&options);
	serm_host_check(&round->host,
	    serm_confusion_estimate(&labels, &options, &round->host.arena, serm_host_keep_going, &round->host,
	        confusion->matrix, grade_prior, NULL, &confusion->report, &error),
	    &error);
	for (uint32 y = 0; y < grades; y++)
		grade_prior[y] = 1;
	serm_host_check(&round->host,
	    serm_judges_correlate(&labels,
	        &(SermCorrelationInput){.confusion = confusion->matrix,
	            .method = confusion->report.method,
	            .strength = options.strength,
	            .grade_factor = grade_prior},
	        &round->host.arena, serm_host_keep_going, &round->host, &confusion->correlation, &error),
	    &error);
}

static SermParam
target_param(const float *target, uint32 grades)
{
	Datum values[SERM_GRADES_MAX];

	for (uint32 y = 0; y < grades; y++)
		values[y] = Float4GetDatum(target[y]);
	return SERM_DATUM(FLOAT4ARRAYOID, PointerGetDatum(construct_array(values, (int) grades, FLOAT4OID,
	                                      sizeof(float4), true, TYPALIGN_INT)));
}

/* Append the judgment; the phase ends in the same transaction, so a repeated phase does not append it twice.
 */
static void
write_target(const Votes *votes, const Sample *sample, const float *target)
{
	double mean = 0;
	SermParam params[3] = {SERM_INT8(sample->id), target_param(target, votes->grade_count)};

	for (uint32 y = 0; y < votes->grade_count; y++)
		mean += y * target[y];
	params[2] = SERM_FLOAT4((float) mean);
	serm_spi_execute(
	    "INSERT INTO serm.judgment (model, query, doc_id, doc, grade, target, source, judge, rationale, "
	    "round)"
	    " SELECT s.model, s.query, s.doc_id, s.doc, CASE WHEN s.state = 'agreed' THEN s.grade ELSE $3 END, "
	    "$2,"
	    " 'agents', 'posterior', (SELECT j.rationale FROM serm.judgment j WHERE j.model = s.model"
	    " AND j.round = s.round AND j.source = 'agents' AND pg_catalog.md5(j.query) = pg_catalog.md5(s.query)"
	    " AND pg_catalog.md5(coalesce(j.doc_id, j.doc)) = pg_catalog.md5(s.doc_id) ORDER BY j.id LIMIT 1), "
	    "s.round"
	    " FROM serm.sample s WHERE s.id = $1",
	    SPI_OK_INSERT, false, params, lengthof(params));
}

/* By how many answered for the sample: an agent that voted in an earlier round only says nothing here. */
static void
weigh_judges(const Votes *votes, double correlation, size_t sample, double *weight)
{
	uint32 answers = 0;

	for (uint32 j = 0; j < votes->judge_count; j++)
		answers += votes->label[sample * votes->judge_count + j] != SERM_LABEL_MISSING ? 1 : 0;
	for (uint32 j = 0; j < votes->judge_count; j++)
		weight[j] = answers > 0 ? serm_judges_worth(answers, correlation) / answers : 1;
}

static void
write_targets(const Votes *votes, const Confusion *confusion)
{
	uint32 grades = votes->grade_count;
	double weight[JUDGES_MAX];

	for (size_t i = 0; i < votes->count; i++) {
		float target[SERM_GRADES_MAX];
		SermError error = {0};

		if (!votes->samples[i].wanted)
			continue;
		weigh_judges(votes, confusion->correlation, i, weight);
		serm_check(serm_soft_target(grades, &votes->prior[i * grades], votes->judge_count, confusion->matrix,
		               &votes->label[i * votes->judge_count], weight, target, &error),
		    &error);
		write_target(votes, &votes->samples[i], target);
	}
}

static Jsonb *
describe_confusion(const Votes *votes, const Confusion *confusion)
{
	StringInfo json = serm_json_begin(), outer = serm_json_begin(), matrices = serm_json_begin();
	uint32 grades = votes->grade_count;

	serm_json_text(json, "method", confusion->report.method == SERM_CONFUSION_GOLD ? "gold" : "em");
	serm_json_number(json, "gold", (double) confusion->report.gold_count);
	serm_json_number(json, "correlation", confusion->correlation);
	for (uint32 j = 0; j < votes->judge_count; j++) {
		StringInfo rows = makeStringInfo();

		for (uint32 y = 0; y < grades * grades; y++)
			appendStringInfo(rows, "%s%.3f%s",
			    y == 0            ? "[["
			    : y % grades == 0 ? ", ["
			                      : ", ",
			    confusion->matrix[j * grades * grades + y],
			    y == grades * grades - 1   ? "]]"
			    : y % grades == grades - 1 ? "]"
			                               : "");
		serm_json_jsonb(matrices, votes->judges[j],
		    DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(rows->data))));
	}
	serm_json_jsonb(json, "confusion", serm_json_end(matrices));
	serm_json_jsonb(outer, "labels", serm_json_end(json));
	return serm_json_end(outer);
}

bool
serm_round_weighs(const SermRound *round)
{
	return strcmp(round->row->options.rule, "weighted") == 0 ||
	       strcmp(round->row->options.rule, "posterior") == 0;
}

/* How the rule saw the agents when it settled the samples, and whom it suspended on the way. */
static Jsonb *
describe_weighing(const SermRound *round)
{
	SermParam params[] = {SERM_TEXT(round->row->name), SERM_INT4(round->number)};
	StringInfo json = serm_json_begin(), outer = serm_json_begin();
	bool null;

	serm_spi_execute(
	    "SELECT coalesce(pg_catalog.max(r.gold), 0), coalesce(pg_catalog.jsonb_object_agg("
	    " r.agent || CASE WHEN r.prompt > 0 THEN ' prompt ' || r.prompt ELSE '' END,"
	    " pg_catalog.jsonb_build_object('reliability', r.reliability, 'weight', r.weight, 'copies', r.copies,"
	    " 'level', r.level, 'confusion', pg_catalog.to_jsonb(r.confusion))), '{}'),"
	    " (SELECT coalesce(pg_catalog.jsonb_object_agg(a.name, a.reason), '{}') FROM serm.agent a"
	    "  JOIN serm.round n ON n.model = a.model AND n.round = $2"
	    "  WHERE a.model = $1 AND a.suspended >= n.started),"
	    " (SELECT pg_catalog.count(*) FROM serm.vote v JOIN serm.sample s ON s.id = v.sample"
	    "  WHERE s.model = $1 AND s.round = $2 AND v.extra)"
	    " FROM serm.reliability r WHERE r.model = $1",
	    SPI_OK_SELECT, false, params, lengthof(params));
	serm_json_text(json, "method", serm_round_weighs(round) ? round->row->options.rule : "votes");
	serm_json_number(json, "gold", (double) DatumGetInt64(serm_spi_value(0, 1, &null)));
	serm_json_jsonb(json, "agents", DatumGetJsonbPCopy(serm_spi_value(0, 2, &null)));
	serm_json_jsonb(json, "suspended", DatumGetJsonbPCopy(serm_spi_value(0, 3, &null)));
	serm_json_number(json, "extra_votes", (double) DatumGetInt64(serm_spi_value(0, 4, &null)));
	serm_json_jsonb(outer, "labels", serm_json_end(json));
	return serm_json_end(outer);
}

Jsonb *
serm_round_settle_labels(SermRound *round)
{
	bool posterior = strcmp(round->row->options.labels, "posterior") == 0 && !serm_round_weighs(round);
	SermScorer *scorer = NULL;
	Confusion confusion;
	Votes votes;
	Jsonb *agreement, *weighing;

	read_votes(round, &votes);
	weighing = describe_weighing(round);
	if (posterior && votes.judge_count > 0)
		scorer = serm_scorer_open(round->row->name, 0, SERM_SEE_WRITES, round->context);
	serm_spi_commit(&round->level);
	agreement = serm_json_merge(weighing, measure_agreement(round, &votes));
	if (scorer == NULL)
		return agreement;
	predict_samples(round, scorer, &votes);
	serm_scorer_close(scorer);
	estimate_confusion(round, &votes, &confusion);
	write_targets(&votes, &confusion);
	return serm_json_merge(agreement, describe_confusion(&votes, &confusion));
}
