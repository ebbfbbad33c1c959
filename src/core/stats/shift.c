/*
 * The sample and the permutation test. Each statistic is one function and one
 * line of the table: it prepares codes once that do not depend on the labels, then
 * evaluates in one pass over the rows for each labelling.
 */
#include "core/stats/shift.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/rng.h"

#define TENTHS 10
#define JS_BUCKETS 1024
/* Permutations at least as extreme after which the p-value is precise enough. */
#define EXTREME_ENOUGH 20
#define DRAWS_PER_CHECK 4

void
serm_shift_defaults(SermShiftOptions *options)
{
	*options = (SermShiftOptions){.draws = 1999, .seed = 1};
}

/* --- the sample */

bool
serm_shift_wants(const SermShiftSample *sample, bool recent, uint64_t unit)
{
	uint32_t level = sample->level[recent];

	return level == 0 || serm_hash_mix(unit) >> (64 - level) == 0;
}

/* Halve the share of units until at most `most` rows are left. */
static void
thin(SermShiftSample *sample, int part, uint32_t most)
{
	while (sample->count[part] > most && sample->level[part] < 63) {
		uint32_t kept = 0;

		sample->level[part]++;
		for (uint32_t i = 0; i < sample->count[part]; i++)
			if (serm_shift_wants(sample, part != 0, sample->rows[part][i].unit))
				sample->rows[part][kept++] = sample->rows[part][i];
		sample->count[part] = kept;
	}
}

SermStatus
serm_shift_add(SermShiftSample *sample, const SermShiftRow *row, bool by_item, SermError *error)
{
	int part = row->recent != 0;

	if ((!by_item && !isfinite(row->value)) || !isfinite(row->outcome))
		return serm_fail(error, SERM_ERR_INVALID, "a value of a stream is not finite");
	if (!serm_shift_wants(sample, part != 0, row->unit))
		return SERM_OK;
	if (sample->count[part] == sample->capacity[part]) {
		uint32_t capacity = sample->capacity[part] == 0 ? 256 : 2 * sample->capacity[part];
		SermShiftRow *rows = serm_arena_reserve(sample->arena, (size_t) capacity * sizeof(SermShiftRow));

		if (rows == NULL)
			return serm_fail(error, SERM_ERR_MEMORY, "no memory for a sample of a stream");
		if (sample->count[part] > 0)
			memcpy(rows, sample->rows[part], sample->count[part] * sizeof(SermShiftRow));
		sample->rows[part] = rows;
		sample->capacity[part] = capacity;
	}
	sample->rows[part][sample->count[part]++] = *row;
	thin(sample, part, SERM_SHIFT_ROWS_MAX);
	return SERM_OK;
}

SermStatus
serm_shift_merge(SermShiftSample *sample, const SermShiftSample *other, SermError *error)
{
	for (int part = 0; part < 2; part++) {
		if (other->level[part] > sample->level[part]) {
			uint32_t kept = 0;

			sample->level[part] = other->level[part];
			for (uint32_t i = 0; i < sample->count[part]; i++)
				if (serm_shift_wants(sample, part != 0, sample->rows[part][i].unit))
					sample->rows[part][kept++] = sample->rows[part][i];
			sample->count[part] = kept;
		}
		for (uint32_t i = 0; i < other->count[part]; i++) {
			SermStatus status = serm_shift_add(sample, &other->rows[part][i], true, error);

			if (status != SERM_OK)
				return status;
		}
	}
	return SERM_OK;
}

/* --- the test */

/* Rows of both parts with what permuting needs; arrays are [row_count] unless said otherwise. */
typedef struct Design {
	uint32_t row_count, unit_count, code_count;
	SermShiftRow *rows;
	uint32_t *unit; /* 0 .. unit_count - 1 */
	uint32_t *code; /* bin, bucket, item, or for KS the number of the distinct value */
	uint8_t *label; /* [unit_count] 1: recent */
	double *counts; /* [2 code_count] scratch */
	double *sums;   /* [2 code_count] scratch */
} Design;

typedef struct Statistic {
	void (*prepare)(Design *design);
	double (*evaluate)(const Design *design);
} Statistic;

static void
count_codes(const Design *design)
{
	memset(design->counts, 0, 2 * (size_t) design->code_count * sizeof(double));
	for (uint32_t i = 0; i < design->row_count; i++)
		design->counts[2 * design->code[i] + design->label[design->unit[i]]]++;
}

static void
count_parts(const Design *design, double *parts)
{
	parts[0] = parts[1] = 0;
	for (uint32_t c = 0; c < design->code_count; c++) {
		parts[0] += design->counts[2 * c];
		parts[1] += design->counts[2 * c + 1];
	}
}

/* Rows come sorted by value: a code for each distinct one. */
static void
code_values(Design *design)
{
	for (uint32_t i = 0; i < design->row_count; i++) {
		if (i > 0 && design->rows[i].value != design->rows[i - 1].value)
			design->code_count++;
		design->code[i] = design->code_count;
	}
	design->code_count++;
}

/* Tenths of all rows; equal values are in one bin. */
static void
code_tenths(Design *design)
{
	uint32_t bin = 0;

	for (uint32_t i = 0; i < design->row_count; i++) {
		if (i > 0 && design->rows[i].value != design->rows[i - 1].value)
			bin = (uint32_t) ((uint64_t) i * TENTHS / design->row_count);
		design->code[i] = bin;
	}
	design->code_count = TENTHS;
}

static void
code_buckets(Design *design)
{
	for (uint32_t i = 0; i < design->row_count; i++)
		design->code[i] = (uint32_t) (serm_hash_mix(design->rows[i].item) % JS_BUCKETS);
	design->code_count = JS_BUCKETS;
}

static void
code_items(Design *design)
{
	for (uint32_t i = 0; i < design->row_count; i++) {
		if (i > 0 && design->rows[i].item != design->rows[i - 1].item)
			design->code_count++;
		design->code[i] = design->code_count;
	}
	design->code_count++;
}

static double
ks(const Design *design)
{
	double parts[2], below[2] = {0}, largest = 0;

	count_codes(design);
	count_parts(design, parts);
	for (uint32_t c = 0; c < design->code_count; c++) {
		below[0] += design->counts[2 * c];
		below[1] += design->counts[2 * c + 1];
		largest = fmax(largest, fabs(below[1] / parts[1] - below[0] / parts[0]));
	}
	return largest;
}

static double
psi(const Design *design)
{
	double parts[2], total = 0;

	count_codes(design);
	count_parts(design, parts);
	for (uint32_t c = 0; c < design->code_count; c++) {
		/* Half a row more in each bin, so that an empty one is not infinitely strange. */
		double p = (design->counts[2 * c] + 0.5) / (parts[0] + 0.5 * design->code_count);
		double q = (design->counts[2 * c + 1] + 0.5) / (parts[1] + 0.5 * design->code_count);

		total += (q - p) * log(q / p);
	}
	return total;
}

static double
js(const Design *design)
{
	double parts[2], total = 0;

	count_codes(design);
	count_parts(design, parts);
	for (uint32_t c = 0; c < design->code_count; c++) {
		double p = design->counts[2 * c] / parts[0], q = design->counts[2 * c + 1] / parts[1];
		double middle = (p + q) / 2;

		if (p > 0)
			total += p / 2 * log2(p / middle);
		if (q > 0)
			total += q / 2 * log2(q / middle);
	}
	return total;
}

static double
novelty(const Design *design)
{
	double parts[2], fresh = 0;

	count_codes(design);
	count_parts(design, parts);
	for (uint32_t c = 0; c < design->code_count; c++)
		if (design->counts[2 * c] == 0)
			fresh += design->counts[2 * c + 1];
	return fresh / parts[1];
}

static double
calibration(const Design *design)
{
	double change = 0, weight = 0;

	memset(design->counts, 0, 2 * (size_t) design->code_count * sizeof(double));
	memset(design->sums, 0, 2 * (size_t) design->code_count * sizeof(double));
	for (uint32_t i = 0; i < design->row_count; i++) {
		uint32_t at = 2 * design->code[i] + design->label[design->unit[i]];

		design->counts[at]++;
		design->sums[at] += design->rows[i].outcome;
	}
	for (uint32_t c = 0; c < design->code_count; c++) {
		double before = design->counts[2 * c], after = design->counts[2 * c + 1];

		if (before == 0 || after == 0)
			continue;
		change += (before + after) * fabs(design->sums[2 * c + 1] / after - design->sums[2 * c] / before);
		weight += before + after;
	}
	return weight > 0 ? change / weight : 0;
}

static const Statistic statistics[SERM_SHIFT_KINDS] = {
    [SERM_SHIFT_KS] = {code_values, ks},
    [SERM_SHIFT_PSI] = {code_tenths, psi},
    [SERM_SHIFT_JS] = {code_buckets, js},
    [SERM_SHIFT_NOVELTY] = {code_items, novelty},
    [SERM_SHIFT_CALIBRATION] = {code_tenths, calibration},
};

static bool
is_by_item(SermShiftKind kind)
{
	return kind == SERM_SHIFT_JS || kind == SERM_SHIFT_NOVELTY;
}

/* A unit is one of its part: a session that spans both is two. */
static uint64_t
unit_key(const SermShiftRow *row)
{
	return serm_hash_mix(row->unit) << 1 | row->recent;
}

static int
compare_units(const void *left, const void *right)
{
	uint64_t a = unit_key(left), b = unit_key(right);

	return (a > b) - (a < b);
}

typedef struct Sorted {
	SermShiftRow row;
	uint32_t unit;
} Sorted;

static int
compare_values(const void *left, const void *right)
{
	const Sorted *a = left, *b = right;

	if (a->row.value != b->row.value)
		return a->row.value < b->row.value ? -1 : 1;
	return (a->unit > b->unit) - (a->unit < b->unit);
}

static int
compare_items(const void *left, const void *right)
{
	const Sorted *a = left, *b = right;

	if (a->row.item != b->row.item)
		return a->row.item < b->row.item ? -1 : 1;
	return (a->unit > b->unit) - (a->unit < b->unit);
}

static SermStatus
no_memory(SermError *error)
{
	return serm_fail(error, SERM_ERR_MEMORY, "no memory to compare two parts of a stream");
}

/* Number the units and sort the rows as the statistic wants them; the order of the sample does not matter. */
static SermStatus
make_design(
    SermShiftKind kind, const SermShiftSample *sample, SermArena *arena, Design *design, SermError *error)
{
	uint32_t count = sample->count[0] + sample->count[1];
	Sorted *sorted = serm_arena_array(arena, count, sizeof(Sorted));

	design->row_count = count;
	design->rows = serm_arena_array(arena, count, sizeof(SermShiftRow));
	design->unit = serm_arena_array(arena, count, sizeof(uint32_t));
	design->code = serm_arena_array(arena, count, sizeof(uint32_t));
	design->label = serm_arena_array(arena, count, 1);
	if (sorted == NULL || design->rows == NULL || design->unit == NULL || design->code == NULL ||
	    design->label == NULL)
		return no_memory(error);
	for (int part = 0; part < 2; part++)
		if (sample->count[part] > 0)
			memcpy(&design->rows[part == 0 ? 0 : sample->count[0]], sample->rows[part],
			    sample->count[part] * sizeof(SermShiftRow));
	qsort(design->rows, count, sizeof(SermShiftRow), compare_units);
	for (uint32_t i = 0; i < count; i++) {
		if (i > 0 && unit_key(&design->rows[i]) != unit_key(&design->rows[i - 1]))
			design->unit_count++;
		design->label[design->unit_count] = design->rows[i].recent != 0;
		sorted[i] = (Sorted){design->rows[i], design->unit_count};
	}
	design->unit_count += count > 0;
	qsort(sorted, count, sizeof(Sorted), is_by_item(kind) ? compare_items : compare_values);
	for (uint32_t i = 0; i < count; i++) {
		design->rows[i] = sorted[i].row;
		design->unit[i] = sorted[i].unit;
	}
	return SERM_OK;
}

/* Deal the labels anew: every choice of units for the recent part is as likely. */
static void
shuffle_labels(Design *design, SermRng *rng)
{
	for (uint32_t i = design->unit_count - 1; i > 0; i--) {
		uint32_t other = serm_rng_below(rng, i + 1);
		uint8_t label = design->label[i];

		design->label[i] = design->label[other];
		design->label[other] = label;
	}
}

static SermStatus
permute(Design *design, const Statistic *statistic, const SermShiftOptions *options, SermShift *shift,
    SermError *error)
{
	uint32_t extreme = 0;
	double total = 0;
	SermRng rng;

	serm_rng_seed(&rng, options->seed);
	shift->statistic = statistic->evaluate(design);
	while (shift->draws < options->draws && extreme < EXTREME_ENOUGH) {
		double value;

		if (shift->draws % DRAWS_PER_CHECK == 0 && options->keep_going != NULL &&
		    !options->keep_going(options->context))
			return serm_fail(error, SERM_ERR_CANCELED, "comparing two parts of a stream was canceled");
		shuffle_labels(design, &rng);
		value = statistic->evaluate(design);
		total += value;
		/* Sums in another order may differ in the last bits; equal counts as extreme. */
		extreme += value >= shift->statistic * (1 - 1e-12);
		shift->draws++;
	}
	shift->effect = shift->statistic - total / shift->draws;
	shift->p_value =
	    extreme == EXTREME_ENOUGH ? (double) extreme / shift->draws : (extreme + 1.0) / (shift->draws + 1.0);
	return SERM_OK;
}

SermStatus
serm_shift_test(SermShiftKind kind, const SermShiftSample *sample, const SermShiftOptions *options,
    SermArena *arena, SermShift *shift, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(arena);
	Design design = {0};
	SermStatus status = make_design(kind, sample, arena, &design, error);

	*shift = (SermShift){0};
	for (uint32_t u = 0; status == SERM_OK && u < design.unit_count; u++)
		shift->units[design.label[u]]++;
	if (status == SERM_OK && (shift->units[0] < 2 || shift->units[1] < 2 || options->draws == 0))
		status = serm_fail(error, SERM_ERR_NO_DATA,
		    "a shift needs two units before and two after, not %u and %u", shift->units[0], shift->units[1]);
	if (status == SERM_OK) {
		statistics[kind].prepare(&design);
		design.counts = serm_arena_array(arena, 2 * (size_t) design.code_count, sizeof(double));
		design.sums = serm_arena_array(arena, 2 * (size_t) design.code_count, sizeof(double));
		if (design.counts == NULL || design.sums == NULL)
			status = no_memory(error);
	}
	if (status == SERM_OK)
		status = permute(&design, &statistics[kind], options, shift, error);
	serm_arena_rewind(arena, mark);
	return status;
}

void
serm_shift_accept(const double *p_values, uint32_t count, double level, bool *accepted)
{
	double limit = -1;

	/* The largest p that is at most level times its rank over count; all up to it stand. */
	for (uint32_t i = 0; i < count; i++) {
		uint32_t rank = 0;

		for (uint32_t j = 0; j < count; j++)
			rank += p_values[j] <= p_values[i];
		if (p_values[i] <= level * rank / count && p_values[i] > limit)
			limit = p_values[i];
	}
	for (uint32_t i = 0; i < count; i++)
		accepted[i] = p_values[i] <= limit;
}
