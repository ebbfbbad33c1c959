/*
 * serm.drift and serm.drift_terms: the signals of drift, each one function and
 * one line of the table, tested as a whole and by segment. What counts as drift has
 * an effect worth the name and stands among all tests of the call (Benjamini and
 * Hochberg), so neither a large log nor many segments alone raise an alarm.
 */
#include "pg/mine/drift.h"

#include <math.h>

#include "core/base/utf8.h"
#include "core/stats/shift.h"
#include "core/text/ngram.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

#define ARENA_BYTES_MAX ((Size) 512 * 1024 * 1024)
/* Pages that a segment needs in each window. */
#define SEGMENT_PAGES_MIN 30
#define SEGMENTS_MAX 100

typedef struct DriftOptions {
	double level;
	double effect; /* NaN: that of the signal */
	int32 rows;
	int32 draws;
	int32 seed;
} DriftOptions;

static const SermOption option_table[] = {
    {"level", SERM_OPTION_REAL, offsetof(DriftOptions, level), 1e-6, 0.5, NULL},
    {"effect", SERM_OPTION_REAL, offsetof(DriftOptions, effect), 0, 100, NULL},
    {"rows", SERM_OPTION_INT, offsetof(DriftOptions, rows), 100, SERM_SHIFT_ROWS_MAX, NULL},
    {"draws", SERM_OPTION_INT, offsetof(DriftOptions, draws), 99, 1000000, NULL},
    {"seed", SERM_OPTION_INT, offsetof(DriftOptions, seed), 0, PG_INT32_MAX, NULL},
};

/* Rows first to last of one page. */
typedef struct LogPage {
	const SermDriftRow *rows;
	uint32 count;
} LogPage;

typedef struct Drifting {
	SermHost host;
	SermDriftLog log;
	DriftOptions options;
	SermTextBuffer buffer;
	SermShiftSample sample;
	const LogPage *page;
} Drifting;

typedef struct Signal {
	const char *name;
	SermShiftKind kind;
	void (*add)(Drifting *drifting, SermShiftRow row); /* what `page` tells */
	double effect;                                     /* least that matters */
	bool scored;
} Signal;

static void
add_row(Drifting *drifting, const SermShiftRow *row, bool by_item)
{
	SermError error = {0};

	serm_host_check(&drifting->host, serm_shift_add(&drifting->sample, row, by_item, &error), &error);
}

static void
words_of(Drifting *drifting, SermWords *words)
{
	const char *query = drifting->page->rows[0].query;
	SermError error = {0};

	serm_host_check(&drifting->host,
	    serm_text_words(serm_text_utf8((SermText){query, strlen(query)}, &drifting->buffer),
	        SERM_QUERY_WORDS_MAX, &drifting->host.arena, words, &error),
	    &error);
}

static void
add_terms(Drifting *drifting, SermShiftRow row)
{
	SermWords words;

	words_of(drifting, &words);
	for (uint32 i = 0; i < words.count; i++) {
		row.item = words.words[i].id;
		add_row(drifting, &row, true);
	}
}

/* Trigrams of code points of each word between its marks. */
static void
add_ngrams(Drifting *drifting, SermShiftRow row)
{
	SermWords words;

	words_of(drifting, &words);
	for (uint32 i = 0; i < words.count; i++) {
		const uint32_t *points = &words.code_points[words.words[i].start];
		int length = words.words[i].length;

		for (int k = 0; k < length; k++) {
			uint32_t before = k > 0 ? points[k - 1] : SERM_WORD_BEGIN;
			uint32_t after = k + 1 < length ? points[k + 1] : SERM_WORD_END;
			uint32_t hash = serm_hash_step(serm_hash_begin(0), before);

			row.item = serm_hash_end(serm_hash_step(serm_hash_step(hash, points[k]), after));
			add_row(drifting, &row, true);
		}
	}
}

static void
add_clicks(Drifting *drifting, SermShiftRow row)
{
	row.value = 0;
	for (uint32 i = 0; i < drifting->page->count; i++)
		row.value += drifting->page->rows[i].clicked;
	row.value /= drifting->page->count;
	add_row(drifting, &row, false);
}

static void
add_scores(Drifting *drifting, SermShiftRow row)
{
	for (uint32 i = 0; i < drifting->page->count; i++) {
		row.value = drifting->page->rows[i].score;
		row.outcome = drifting->page->rows[i].clicked;
		if (!isnan(row.value))
			add_row(drifting, &row, false);
	}
}

static const Signal signals[] = {
    {"query terms", SERM_SHIFT_NOVELTY, add_terms, 0.02, false},
    {"query n-grams", SERM_SHIFT_JS, add_ngrams, 0.01, false},
    {"clicks ks", SERM_SHIFT_KS, add_clicks, 0.05, false},
    {"clicks psi", SERM_SHIFT_PSI, add_clicks, 0.05, false},
    {"score ks", SERM_SHIFT_KS, add_scores, 0.05, true},
    {"score psi", SERM_SHIFT_PSI, add_scores, 0.05, true},
    {"calibration", SERM_SHIFT_CALIBRATION, add_scores, 0.02, true},
};

typedef struct Finding {
	const Signal *signal;
	const char *segment;
	SermShift shift;
} Finding;

static bool
in_segment(const SermDriftRow *row, const char *segment)
{
	return segment == NULL || (row->segment != NULL && strcmp(row->segment, segment) == 0);
}

/* One signal in one segment; false with too few pages. */
static bool
run_test(Drifting *drifting, const Signal *signal, const char *segment, SermShift *shift)
{
	SermDriftLog *log = &drifting->log;
	SermArenaMark mark = serm_arena_mark(&drifting->host.arena);
	SermShiftOptions options = {.draws = (uint32) drifting->options.draws,
	    .seed = (uint64) drifting->options.seed,
	    .keep_going = serm_host_keep_going,
	    .context = &drifting->host};
	SermError error = {0};
	SermStatus status;

	drifting->sample = (SermShiftSample){.arena = &drifting->host.arena};
	for (uint32 i = 0; i < log->count;) {
		LogPage page = {&log->rows[i], 0};

		while (i < log->count && log->rows[i].unit == page.rows->unit &&
		       log->rows[i].recent == page.rows->recent) {
			i++;
			page.count++;
		}
		drifting->page = &page;
		if (in_segment(page.rows, segment))
			signal->add(drifting, (SermShiftRow){.unit = page.rows->unit, .recent = page.rows->recent});
	}
	status = serm_shift_test(signal->kind, &drifting->sample, &options, &drifting->host.arena, shift, &error);
	if (status != SERM_ERR_NO_DATA)
		serm_host_check(&drifting->host, status, &error);
	serm_arena_rewind(&drifting->host.arena, mark);
	return status == SERM_OK && (segment == NULL || (shift->units[0] >= SEGMENT_PAGES_MIN &&
	                                                    shift->units[1] >= SEGMENT_PAGES_MIN));
}

static int
compare_segments(const void *left, const void *right)
{
	return strcmp(*(char *const *) left, *(char *const *) right);
}

/* The segments of the sample; NULL, the whole, first. */
static const char **
list_segments(const SermDriftLog *log, int *count)
{
	const char **all = palloc(mul_size((Size) log->count + 1, sizeof(char *)));
	uint32 found = 0;

	for (uint32 i = 0; i < log->count; i++)
		if (log->rows[i].segment != NULL)
			all[1 + found++] = log->rows[i].segment;
	qsort(all + 1, found, sizeof(char *), compare_segments);
	all[0] = NULL;
	*count = 1;
	for (uint32 i = 1; i <= found; i++)
		if (*count == 1 || strcmp(all[*count - 1], all[i]) != 0) {
			if (*count > SEGMENTS_MAX)
				ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				    errmsg("the search log has more than %d segments", SEGMENTS_MAX),
				    errhint("Column segment is for languages, markets or categories, not for users."));
			all[(*count)++] = all[i];
		}
	return all;
}

static void
put_results(ReturnSetInfo *to, const Drifting *drifting, const Finding *results, uint32 count)
{
	double *p_values = palloc(mul_size(Max(count, 1), sizeof(double)));
	bool *accepted = palloc(Max(count, 1));

	for (uint32 i = 0; i < count; i++)
		p_values[i] = results[i].shift.p_value;
	serm_shift_accept(p_values, count, drifting->options.level, accepted);
	for (uint32 i = 0; i < count; i++) {
		const Finding *result = &results[i];
		double least = isnan(drifting->options.effect) ? result->signal->effect : drifting->options.effect;
		Datum values[6] = {CStringGetTextDatum(result->signal->name), (Datum) 0,
		    Float8GetDatum(result->shift.statistic), Float8GetDatum(result->shift.effect),
		    Float8GetDatum(result->shift.p_value),
		    BoolGetDatum(accepted[i] && result->shift.effect >= least)};
		bool nulls[6] = {false, result->segment == NULL};

		if (result->segment != NULL)
			values[1] = CStringGetTextDatum(result->segment);
		tuplestore_putvalues(to->setResult, to->setDesc, values, nulls);
	}
}

/* What both functions begin with; NULL arguments were refused. */
static Drifting *
begin(FunctionCallInfo fcinfo, const SermModelRow **model, const DriftOptions *options, bool score)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "serm drift", ALLOCSET_DEFAULT_SIZES);
	Drifting *drifting = MemoryContextAllocZero(context, sizeof(Drifting));
	int level;

	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("drift needs two windows of time"));
	drifting->options = *options;
	drifting->log.context = context;
	drifting->buffer.context = context;
	serm_host_init(&drifting->host, context, ARENA_BYTES_MAX);
	*model = serm_model_read(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0)));
	level = serm_spi_begin(false);
	serm_drift_read(
	    &drifting->log, *model, PG_GETARG_RANGE_P(1), PG_GETARG_RANGE_P(2), (uint32) drifting->options.rows);
	if (score && (*model)->active > 0 && OidIsValid((*model)->documents))
		serm_drift_score(&drifting->log, *model);
	serm_spi_end(level);
	return drifting;
}

static DriftOptions
default_options(void)
{
	return (DriftOptions){.level = 0.05, .effect = NAN, .rows = 20000, .draws = 1999, .seed = 1};
}

SERM_FUNCTION(serm_drift);

/* serm.drift(model text, reference tstzrange, recent tstzrange, options jsonb). */
Datum
serm_drift(PG_FUNCTION_ARGS)
{
	DriftOptions options = default_options();
	const SermModelRow *model;
	const char **segments;
	Drifting *drifting;
	Finding *results;
	uint32 count = 0;
	int segment_count;

	InitMaterializedSRF(fcinfo, 0);
	serm_options_read(PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3), option_table, lengthof(option_table),
	    &options, "serm.drift");
	drifting = begin(fcinfo, &model, &options, true);
	segments = list_segments(&drifting->log, &segment_count);
	results = palloc(mul_size(mul_size(segment_count, lengthof(signals)), sizeof(Finding)));
	for (int s = 0; s < segment_count; s++)
		for (int i = 0; i < (int) lengthof(signals); i++) {
			Finding *result = &results[count];

			*result = (Finding){.signal = &signals[i], .segment = segments[s]};
			if (run_test(drifting, &signals[i], segments[s], &result->shift))
				count++;
		}
	put_results((ReturnSetInfo *) fcinfo->resultinfo, drifting, results, count);
	MemoryContextDelete(drifting->log.context);
	return (Datum) 0;
}

/* --- terms */

typedef struct Term {
	uint32 id;
	uint32 pages[2];
	const uint32_t *points;
	uint32 length;
	double z;
} Term;

static int
compare_ids(const void *left, const void *right)
{
	const Term *a = left, *b = right;

	return (a->id > b->id) - (a->id < b->id);
}

static int
compare_z(const void *left, const void *right)
{
	const Term *a = left, *b = right;

	if (a->z != b->z)
		return a->z > b->z ? -1 : 1;
	return compare_ids(left, right);
}

/* Each word of a page once; the arena keeps the spelling. */
static Term *
collect_terms(Drifting *drifting, uint32 *count, uint32 pages[2])
{
	const SermDriftLog *log = &drifting->log;
	Term *terms = NULL;
	Size capacity = 0;
	uint32 used = 0;

	for (uint32 i = 0; i < log->count; i++) {
		LogPage page = {&log->rows[i], 1};
		uint32 first = used;
		SermWords words;

		if (i > 0 && log->rows[i].unit == log->rows[i - 1].unit &&
		    log->rows[i].recent == log->rows[i - 1].recent)
			continue;
		drifting->page = &page;
		pages[page.rows->recent]++;
		words_of(drifting, &words);
		for (uint32 w = 0; w < words.count; w++) {
			uint32 seen = first;

			while (seen < used && terms[seen].id != words.words[w].id)
				seen++;
			if (seen < used)
				continue;
			if (used == capacity) {
				capacity = Max(1024, 2 * capacity);
				terms = terms == NULL ? palloc(capacity * sizeof(Term))
				                      : repalloc_huge(terms, capacity * sizeof(Term));
			}
			terms[used] = (Term){.id = words.words[w].id,
			    .points = &words.code_points[words.words[w].start],
			    .length = words.words[w].length};
			terms[used++].pages[page.rows->recent] = 1;
		}
	}
	*count = used;
	return terms;
}

/*
 * Log-odds with an informative prior (Monroe, Colaresi and Quinn 2008): the counts of both windows together,
 * scaled to ten pages, hold rare words back.
 */
static uint32
rate_terms(Term *terms, uint32 count, const uint32 pages[2])
{
	double all = (double) pages[0] + pages[1];
	uint32 distinct = 0;

	if (count > 0)
		qsort(terms, count, sizeof(Term), compare_ids);
	for (uint32 i = 0; i < count; i++) {
		if (distinct > 0 && terms[distinct - 1].id == terms[i].id) {
			terms[distinct - 1].pages[0] += terms[i].pages[0];
			terms[distinct - 1].pages[1] += terms[i].pages[1];
		} else
			terms[distinct++] = terms[i];
	}
	for (uint32 i = 0; i < distinct; i++) {
		double prior = 10 * (terms[i].pages[0] + terms[i].pages[1]) / all;
		double before = terms[i].pages[0] + prior, after = terms[i].pages[1] + prior;

		terms[i].z = (log(after / (pages[1] + 10 - after + 1)) - log(before / (pages[0] + 10 - before + 1))) /
		             sqrt(1 / after + 1 / before);
	}
	if (distinct > 0)
		qsort(terms, distinct, sizeof(Term), compare_z);
	return distinct;
}

static Datum
term_text(const Term *term)
{
	char *bytes = palloc(4 * (Size) term->length + 1), *to = bytes;

	for (uint32 i = 0; i < term->length; i++)
		to += serm_utf8_encode(term->points[i], to);
	*to = '\0';
	return CStringGetTextDatum(pg_any_to_server(bytes, (int) (to - bytes), PG_UTF8));
}

SERM_FUNCTION(serm_drift_terms);

/* serm.drift_terms(model text, reference tstzrange, recent tstzrange, count int). */
Datum
serm_drift_terms(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *to = (ReturnSetInfo *) fcinfo->resultinfo;
	DriftOptions options = default_options();
	int32 wanted = PG_ARGISNULL(3) ? 20 : PG_GETARG_INT32(3);
	const SermModelRow *model;
	Drifting *drifting;
	uint32 count, pages[2] = {0};
	Term *terms;

	InitMaterializedSRF(fcinfo, 0);
	if (wanted < 1)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("the number of terms must be at least 1, not %d", wanted));
	options.rows = SERM_SHIFT_ROWS_MAX;
	drifting = begin(fcinfo, &model, &options, false);
	terms = collect_terms(drifting, &count, pages);
	count = rate_terms(terms, count, pages);
	for (uint32 i = 0; i < count && i < (uint32) wanted && terms[i].z > 0; i++) {
		Datum values[4] = {term_text(&terms[i]), Int64GetDatum(terms[i].pages[0]),
		    Int64GetDatum(terms[i].pages[1]), Float8GetDatum(terms[i].z)};
		bool nulls[4] = {false};

		tuplestore_putvalues(to->setResult, to->setDesc, values, nulls);
	}
	MemoryContextDelete(drifting->log.context);
	return (Datum) 0;
}
