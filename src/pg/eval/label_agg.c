/*
 * Aggregates over labels: accuracy, Cohen's kappa of two raters, Krippendorff's
 * alpha of any number. States hold integer counts or the ratings themselves,
 * so a parallel plan gives the same bits as a serial one.
 */
#include "pg/serm.h"

#include <math.h>

#include "common/hashfn.h"
#include "mb/pg_wchar.h"

#include "core/stats/agreement.h"

#define CATEGORIES_MAX 256

/* Labels of two raters, counted per pair of labels. */
typedef struct LabelPair {
	int32 a;
	int32 b;
} LabelPair;

typedef struct LabelCount {
	LabelPair pair;
	uint32 status; /* of simplehash */
	int64 count;
} LabelCount;

#define SH_PREFIX counts
#define SH_ELEMENT_TYPE LabelCount
#define SH_KEY_TYPE LabelPair
#define SH_KEY pair
#define SH_HASH_KEY(table, key) hash_combine(murmurhash32((uint32) (key).a), murmurhash32((uint32) (key).b))
#define SH_EQUAL(table, x, y) ((x).a == (y).a && (x).b == (y).b)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct CountState {
	counts_hash *counts;
	SermKappaWeights weights;
} CountState;

static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "an agreement metric was called outside an aggregate");
	return context;
}

static SermKappaWeights
read_weights(FunctionCallInfo fcinfo)
{
	SermKappaWeights weights = SERM_KAPPA_NONE;
	char *name;

	if (PG_NARGS() <= 3 || PG_ARGISNULL(3))
		return weights;
	name = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (strcmp(name, "linear") == 0)
		weights = SERM_KAPPA_LINEAR;
	else if (strcmp(name, "quadratic") == 0)
		weights = SERM_KAPPA_QUADRATIC;
	else if (strcmp(name, "none") != 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown weights \"%s\"", name),
		    errhint("Valid weights are: none, linear, quadratic."));
	pfree(name);
	return weights;
}

static CountState *
make_counts(MemoryContext context, SermKappaWeights weights)
{
	CountState *state = MemoryContextAllocZero(context, sizeof(CountState));

	state->counts = counts_create(context, 16, NULL);
	state->weights = weights;
	return state;
}

static void
add_count(CountState *state, LabelPair pair, int64 count)
{
	bool found;
	LabelCount *entry = counts_insert(state->counts, pair, &found);

	entry->count = found ? entry->count + count : count;
}

static void
check_same_option(int first, int other, const char *what)
{
	if (first != other)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		    errmsg("%s differ between rows of a group", what), errhint("Pass a constant."));
}

SERM_FUNCTION(serm_label_accum);

/* (state, a, b [, weights]); a row with a NULL label is skipped. */
Datum
serm_label_accum(PG_FUNCTION_ARGS)
{
	CountState *state = PG_ARGISNULL(0) ? NULL : (CountState *) PG_GETARG_POINTER(0);
	MemoryContext context = aggregate_context(fcinfo);
	SermKappaWeights weights = read_weights(fcinfo);

	if (state == NULL)
		state = make_counts(context, weights);
	check_same_option(state->weights, weights, "the weights");
	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2))
		add_count(state, (LabelPair){PG_GETARG_INT32(1), PG_GETARG_INT32(2)}, 1);
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_label_combine);

Datum
serm_label_combine(PG_FUNCTION_ARGS)
{
	CountState *state = PG_ARGISNULL(0) ? NULL : (CountState *) PG_GETARG_POINTER(0);
	CountState *other = PG_ARGISNULL(1) ? NULL : (CountState *) PG_GETARG_POINTER(1);
	MemoryContext context = aggregate_context(fcinfo);
	counts_iterator iterator;
	LabelCount *entry;

	if (other == NULL) {
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	if (state == NULL)
		state = make_counts(context, other->weights);
	check_same_option(state->weights, other->weights, "the weights");
	counts_start_iterate(other->counts, &iterator);
	while ((entry = counts_iterate(other->counts, &iterator)) != NULL)
		add_count(state, entry->pair, entry->count);
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_label_serialize);

Datum
serm_label_serialize(PG_FUNCTION_ARGS)
{
	CountState *state = (CountState *) PG_GETARG_POINTER(0);
	Size size = VARHDRSZ + sizeof(LabelCount) * ((Size) state->counts->members + 1);
	/* The first element carries the weights. */
	LabelCount head = {.count = state->weights};
	counts_iterator iterator;
	LabelCount *entry;
	bytea *result;
	char *to;

	if (!AllocSizeIsValid(size))
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("too many different labels"),
		    errhint("Agreement is measured on grades or classes, not on free numbers."));
	result = palloc(size);
	SET_VARSIZE(result, size);
	to = VARDATA(result);
	memcpy(to, &head, sizeof(head));
	counts_start_iterate(state->counts, &iterator);
	while ((entry = counts_iterate(state->counts, &iterator)) != NULL)
		memcpy(to += sizeof(head), entry, sizeof(head));
	PG_RETURN_BYTEA_P(result);
}

SERM_FUNCTION(serm_label_deserialize);

Datum
serm_label_deserialize(PG_FUNCTION_ARGS)
{
	bytea *bytes = PG_GETARG_BYTEA_PP(0);
	const char *from = VARDATA_ANY(bytes);
	const char *end = from + VARSIZE_ANY_EXHDR(bytes);
	LabelCount entry;
	CountState *state;

	memcpy(&entry, from, sizeof(entry));
	state = make_counts(CurrentMemoryContext, (SermKappaWeights) entry.count);
	for (from += sizeof(entry); from < end; from += sizeof(entry)) {
		memcpy(&entry, from, sizeof(entry));
		add_count(state, entry.pair, entry.count);
	}
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_accuracy_final);

Datum
serm_accuracy_final(PG_FUNCTION_ARGS)
{
	CountState *state = PG_ARGISNULL(0) ? NULL : (CountState *) PG_GETARG_POINTER(0);
	int64 right = 0, all = 0;
	counts_iterator iterator;
	LabelCount *entry;

	(void) aggregate_context(fcinfo);
	if (state == NULL || state->counts->members == 0)
		PG_RETURN_NULL();
	counts_start_iterate(state->counts, &iterator);
	while ((entry = counts_iterate(state->counts, &iterator)) != NULL) {
		all += entry->count;
		if (entry->pair.a == entry->pair.b)
			right += entry->count;
	}
	PG_RETURN_FLOAT8((double) right / (double) all);
}

static int
compare_values(const void *left, const void *right)
{
	double a = *(const double *) left, b = *(const double *) right;

	return (a > b) - (a < b);
}

static int
category_of(const double *values, int count, double wanted)
{
	const double *found = bsearch(&wanted, values, count, sizeof(double), compare_values);

	return (int) (found - values);
}

/* The distinct labels of both raters, ascending. */
static int
collect_categories(CountState *state, double **values)
{
	counts_iterator iterator;
	LabelCount *entry;
	Size used = 0;
	int distinct = 0;

	*values =
	    MemoryContextAllocHuge(CurrentMemoryContext, 2 * sizeof(double) * (Size) state->counts->members);
	counts_start_iterate(state->counts, &iterator);
	while ((entry = counts_iterate(state->counts, &iterator)) != NULL) {
		(*values)[used++] = entry->pair.a;
		(*values)[used++] = entry->pair.b;
	}
	qsort(*values, used, sizeof(double), compare_values);
	for (Size i = 0; i < used; i++)
		if (i == 0 || (*values)[i] != (*values)[i - 1]) {
			if (distinct >= CATEGORIES_MAX)
				ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				    errmsg("more than %d different labels", CATEGORIES_MAX),
				    errhint("Agreement is measured on grades or classes, not on free numbers."));
			(*values)[distinct++] = (*values)[i];
		}
	return distinct;
}

SERM_FUNCTION(serm_kappa_final);

Datum
serm_kappa_final(PG_FUNCTION_ARGS)
{
	CountState *state = PG_ARGISNULL(0) ? NULL : (CountState *) PG_GETARG_POINTER(0);
	double *values, *matrix, kappa;
	counts_iterator iterator;
	LabelCount *entry;
	SermError error;
	int categories;

	(void) aggregate_context(fcinfo);
	if (state == NULL || state->counts->members == 0)
		PG_RETURN_NULL();
	categories = collect_categories(state, &values);
	matrix = palloc0(sizeof(double) * categories * categories);
	counts_start_iterate(state->counts, &iterator);
	while ((entry = counts_iterate(state->counts, &iterator)) != NULL)
		matrix[category_of(values, categories, entry->pair.a) * categories +
		       category_of(values, categories, entry->pair.b)] = (double) entry->count;
	serm_check(serm_agreement_kappa(matrix, categories, values, state->weights, &kappa, &error), &error);
	pfree(matrix);
	pfree(values);
	if (isnan(kappa))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(kappa);
}

/* One rating in a RatingState: this, then the bytes of unit and rater. */
typedef struct RatingHead {
	int32 value;
	uint32 unit_length;
	uint32 rater_length;
} RatingHead;

typedef struct RatingState {
	SermAlphaMetric metric;
	uint64 count;
	Size used;
	Size capacity;
	char *bytes;
} RatingState;

typedef struct RatingBytes {
	int64 metric;
	uint64 count;
} RatingBytes;

static SermAlphaMetric
read_metric(FunctionCallInfo fcinfo)
{
	SermAlphaMetric metric = SERM_ALPHA_ORDINAL;
	char *name;

	if (PG_NARGS() <= 4 || PG_ARGISNULL(4))
		return metric;
	name = text_to_cstring(PG_GETARG_TEXT_PP(4));
	if (strcmp(name, "nominal") == 0)
		metric = SERM_ALPHA_NOMINAL;
	else if (strcmp(name, "interval") == 0)
		metric = SERM_ALPHA_INTERVAL;
	else if (strcmp(name, "ordinal") != 0)
		ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown metric \"%s\"", name),
		    errhint("Valid metrics are: nominal, ordinal, interval."));
	pfree(name);
	return metric;
}

static RatingState *
make_ratings(MemoryContext context, SermAlphaMetric metric)
{
	RatingState *state = MemoryContextAllocZero(context, sizeof(RatingState));

	state->metric = metric;
	state->capacity = 512;
	state->bytes = MemoryContextAlloc(context, state->capacity);
	return state;
}

static void
append_bytes(RatingState *state, const void *bytes, Size length)
{
	if (length > state->capacity - state->used) {
		state->capacity = Max(2 * state->capacity, state->used + length);
		state->bytes = repalloc_huge(state->bytes, state->capacity);
	}
	memcpy(state->bytes + state->used, bytes, length);
	state->used += length;
}

SERM_FUNCTION(serm_rating_accum);

/* (state, unit, rater, value [, metric]); a row with a NULL among the first three is skipped. */
Datum
serm_rating_accum(PG_FUNCTION_ARGS)
{
	RatingState *state = PG_ARGISNULL(0) ? NULL : (RatingState *) PG_GETARG_POINTER(0);
	MemoryContext context = aggregate_context(fcinfo);
	SermAlphaMetric metric = read_metric(fcinfo);

	if (state == NULL)
		state = make_ratings(context, metric);
	check_same_option(state->metric, metric, "the metrics");
	if (!PG_ARGISNULL(1) && !PG_ARGISNULL(2) && !PG_ARGISNULL(3)) {
		text *unit = PG_GETARG_TEXT_PP(1), *rater = PG_GETARG_TEXT_PP(2);
		RatingHead head = {
		    PG_GETARG_INT32(3), (uint32) VARSIZE_ANY_EXHDR(unit), (uint32) VARSIZE_ANY_EXHDR(rater)};

		append_bytes(state, &head, sizeof(head));
		append_bytes(state, VARDATA_ANY(unit), head.unit_length);
		append_bytes(state, VARDATA_ANY(rater), head.rater_length);
		state->count++;
	}
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_rating_combine);

Datum
serm_rating_combine(PG_FUNCTION_ARGS)
{
	RatingState *state = PG_ARGISNULL(0) ? NULL : (RatingState *) PG_GETARG_POINTER(0);
	RatingState *other = PG_ARGISNULL(1) ? NULL : (RatingState *) PG_GETARG_POINTER(1);
	MemoryContext context = aggregate_context(fcinfo);

	if (other == NULL) {
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	if (state == NULL)
		state = make_ratings(context, other->metric);
	check_same_option(state->metric, other->metric, "the metrics");
	append_bytes(state, other->bytes, other->used);
	state->count += other->count;
	PG_RETURN_POINTER(state);
}

SERM_FUNCTION(serm_rating_serialize);

Datum
serm_rating_serialize(PG_FUNCTION_ARGS)
{
	const RatingState *state = (RatingState *) PG_GETARG_POINTER(0);
	RatingBytes head = {state->metric, state->count};
	Size size = VARHDRSZ + sizeof(head) + state->used;
	bytea *result;

	if (!AllocSizeIsValid(size))
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg(UINT64_FORMAT " ratings are too many for a parallel plan", state->count),
		    errhint("SET max_parallel_workers_per_gather = 0, or measure a sample of the units."));
	result = palloc(size);
	SET_VARSIZE(result, size);
	memcpy(VARDATA(result), &head, sizeof(head));
	memcpy(VARDATA(result) + sizeof(head), state->bytes, state->used);
	PG_RETURN_BYTEA_P(result);
}

SERM_FUNCTION(serm_rating_deserialize);

Datum
serm_rating_deserialize(PG_FUNCTION_ARGS)
{
	bytea *bytes = PG_GETARG_BYTEA_PP(0);
	RatingState *state;
	RatingBytes head;

	memcpy(&head, VARDATA_ANY(bytes), sizeof(head));
	state = make_ratings(CurrentMemoryContext, (SermAlphaMetric) head.metric);
	append_bytes(state, VARDATA_ANY(bytes) + sizeof(head), VARSIZE_ANY_EXHDR(bytes) - sizeof(head));
	state->count = head.count;
	PG_RETURN_POINTER(state);
}

typedef struct Rating {
	RatingHead head;
	const char *unit;
	const char *rater;
} Rating;

static int
compare_strings(const char *a, uint32 a_length, const char *b, uint32 b_length)
{
	int order = memcmp(a, b, Min(a_length, b_length));

	return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

static int
compare_units(const Rating *a, const Rating *b)
{
	return compare_strings(a->unit, a->head.unit_length, b->unit, b->head.unit_length);
}

static int
compare_ratings(const void *left, const void *right)
{
	const Rating *a = left, *b = right;
	int order = compare_units(a, b);

	return order != 0 ? order
	                  : compare_strings(a->rater, a->head.rater_length, b->rater, b->head.rater_length);
}

/* Sorted by unit and rater, so that a second rating of one rater is next to the first. */
static Rating *
sort_ratings(const RatingState *state)
{
	Rating *ratings = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Rating) * state->count);
	const char *from = state->bytes;

	for (uint64 i = 0; i < state->count; i++) {
		memcpy(&ratings[i].head, from, sizeof(RatingHead));
		ratings[i].unit = from + sizeof(RatingHead);
		ratings[i].rater = ratings[i].unit + ratings[i].head.unit_length;
		from = ratings[i].rater + ratings[i].head.rater_length;
	}
	qsort(ratings, state->count, sizeof(Rating), compare_ratings);
	for (uint64 i = 1; i < state->count; i++)
		if (compare_ratings(&ratings[i - 1], &ratings[i]) == 0)
			ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			    errmsg("rater \"%s\" rated unit \"%s\" more than once",
			        pnstrdup(
			            ratings[i].rater, pg_mbcliplen(ratings[i].rater, ratings[i].head.rater_length, 60)),
			        pnstrdup(
			            ratings[i].unit, pg_mbcliplen(ratings[i].unit, ratings[i].head.unit_length, 60))),
			    errhint(
			        "Reduce the votes of one rater to one value first, or make the path part of the rater."));
	return ratings;
}

SERM_FUNCTION(serm_alpha_final);

Datum
serm_alpha_final(PG_FUNCTION_ARGS)
{
	const RatingState *state = PG_ARGISNULL(0) ? NULL : (RatingState *) PG_GETARG_POINTER(0);
	SermAgreement agreement;
	SermRating *values;
	Rating *ratings;
	SermError error;
	SermHost host;
	uint64 unit = 0;

	(void) aggregate_context(fcinfo);
	if (state == NULL || state->count == 0)
		PG_RETURN_NULL();
	ratings = sort_ratings(state);
	values = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SermRating) * state->count);
	for (uint64 i = 0; i < state->count; i++) {
		if (i > 0 && compare_units(&ratings[i - 1], &ratings[i]) != 0)
			unit++;
		values[i] = (SermRating){unit, ratings[i].head.value};
	}
	pfree(ratings);
	serm_host_init(&host, CurrentMemoryContext, MaxAllocHugeSize);
	serm_host_check(&host,
	    serm_agreement_alpha(values, state->count, state->metric, &host.arena, &agreement, &error), &error);
	serm_arena_free(&host.arena);
	pfree(values);
	if (isnan(agreement.alpha))
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(agreement.alpha);
}
