/* Shifts of streams: formulas, false alarms on shuffled streams, power on shifted ones, and merging. */
#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/stats/shift.h"
#include "unit.h"

static const char *const names[] = {"ks", "psi", "js", "novelty", "calibration"};

static bool
by_item(int kind)
{
	return kind == SERM_SHIFT_JS || kind == SERM_SHIFT_NOVELTY;
}

/* Pages of up to ten rows that have much in common; `shift` moves the recent ones. */
static void
stream(SermShiftSample *sample, int kind, uint32_t pages, double shift, SermRng *rng)
{
	for (uint32_t page = 0; page < pages; page++) {
		uint64_t unit = serm_rng_next(rng);
		uint32_t rows = 1 + serm_rng_below(rng, 10), recent = page % 2;
		double common = serm_rng_normal(rng), taste = serm_rng_uniform(rng);
		uint32_t topic = serm_rng_below(rng, 40);

		if (recent && serm_rng_uniform(rng) < shift)
			topic += 1000;
		for (uint32_t i = 0; i < rows; i++) {
			SermShiftRow row = {.unit = unit, .recent = recent};
			SermError error;

			if (by_item(kind))
				row.item = topic * 100 + serm_rng_below(rng, 4);
			else
				row.value = common + 0.3 * serm_rng_normal(rng) +
				            (kind == SERM_SHIFT_CALIBRATION ? 0 : recent * shift);
			row.outcome = serm_rng_uniform(rng) < 0.6 * taste + (recent ? shift / 4 : 0);
			serm_shift_add(sample, &row, by_item(kind), &error);
		}
	}
}

static SermShift
test_of(int kind, uint32_t pages, double shift, SermRng *rng, uint32_t draws)
{
	SermArena arena = unit_arena();
	SermShiftSample sample = {.arena = &arena};
	SermShiftOptions options;
	SermShift result;
	SermError error;

	serm_shift_defaults(&options);
	options.draws = draws;
	options.seed = serm_rng_next(rng);
	stream(&sample, kind, pages, shift, rng);
	if (serm_shift_test(kind, &sample, &options, &arena, &result, &error) != SERM_OK)
		result.p_value = NAN;
	serm_arena_free(&arena);
	return result;
}

static void
test_levels(int kind)
{
	enum { STREAMS = 400 };
	SermRng rng;
	int alarms[3] = {0}, found = 0;
	static const double levels[] = {0.01, 0.05, 0.2};
	double effect = 0, null_effect = 0;

	serm_rng_seed(&rng, 31 + kind);
	for (int n = 0; n < STREAMS; n++) {
		SermShift shift = test_of(kind, 80, 0, &rng, 499);

		for (int l = 0; l < 3; l++)
			alarms[l] += shift.p_value <= levels[l];
		null_effect += shift.effect / STREAMS;
	}
	printf("# %s: of %d shuffled streams %d, %d, %d alarms at .01, .05, .2\n", names[kind], STREAMS,
	    alarms[0], alarms[1], alarms[2]);
	for (int l = 0; l < 3; l++) {
		double expected = STREAMS * levels[l], spread = sqrt(expected * (1 - levels[l]));

		CHECK(alarms[l] < expected + 3.1 * spread, "%s: false alarms are held at %g (%d of %d)", names[kind],
		    levels[l], alarms[l], STREAMS);
		CHECK(l < 1 || alarms[l] > expected - 3.1 * spread, "%s: and the level is used (%d)", names[kind],
		    alarms[l]);
	}
	for (int n = 0; n < 20; n++) {
		SermShift shift = test_of(kind, 400, 0.9, &rng, 499);

		found += shift.p_value <= 0.01;
		effect += shift.effect / 20;
	}
	CHECK(found >= 19, "%s: a shift is found (%d of 20)", names[kind], found);
	CHECK(effect > 10 * fabs(null_effect) && effect > 0.02, "%s: with an effect (%.3f, shuffled %.4f)",
	    names[kind], effect, null_effect);
}

/* Rows taken as units, as a naive test does: the alarm that permuting pages avoids. */
static void
test_rows_are_no_units(void)
{
	SermRng rng;
	int alarms = 0;

	serm_rng_seed(&rng, 77);
	for (int n = 0; n < 100; n++) {
		SermArena arena = unit_arena();
		SermShiftSample sample = {.arena = &arena}, split = {.arena = &arena};
		SermShiftOptions options;
		SermShift shift;
		SermError error;

		serm_shift_defaults(&options);
		options.draws = 199;
		stream(&sample, SERM_SHIFT_KS, 80, 0, &rng);
		for (int part = 0; part < 2; part++)
			for (uint32_t i = 0; i < sample.count[part]; i++) {
				SermShiftRow row = sample.rows[part][i];

				row.unit = serm_rng_next(&rng);
				serm_shift_add(&split, &row, false, &error);
			}
		serm_shift_test(SERM_SHIFT_KS, &split, &options, &arena, &shift, &error);
		alarms += shift.p_value <= 0.05;
		serm_arena_free(&arena);
	}
	CHECK(alarms > 20, "rows of a page taken for independent raise false alarms (%d of 100)", alarms);
}

static double
statistic_of(int kind, const SermShiftRow *rows, int count)
{
	SermArena arena = unit_arena();
	SermShiftSample sample = {.arena = &arena};
	SermShiftOptions options;
	SermShift shift = {.statistic = NAN};
	SermError error;

	serm_shift_defaults(&options);
	options.draws = 5;
	for (int i = 0; i < count; i++)
		serm_shift_add(&sample, &rows[i], by_item(kind), &error);
	serm_shift_test(kind, &sample, &options, &arena, &shift, &error);
	serm_arena_free(&arena);
	return shift.statistic;
}

static void
test_formulas(void)
{
	SermShiftRow rows[20];
	double p, q;

	for (int i = 0; i < 8; i++)
		rows[i] = (SermShiftRow){.unit = 100 + i, .value = i / 2, .recent = i >= 4};
	CHECK_NEAR(statistic_of(SERM_SHIFT_KS, rows, 8), 1.0, 1e-12, "ks of parts that do not overlap is 1");
	rows[0].value = 3;
	CHECK_NEAR(statistic_of(SERM_SHIFT_KS, rows, 8), 0.75, 1e-12, "and counts ties once");
	for (int i = 0; i < 20; i++)
		rows[i] = (SermShiftRow){.unit = i, .value = i % 2, .recent = i >= 10};
	rows[0].value = 1;
	/* Pooled: nine 0 in the first tenth, eleven 1 in the fifth: reference 4 and 6, recent 5 and 5. */
	p = 4.5 / 15, q = 5.5 / 15;
	CHECK_NEAR(statistic_of(SERM_SHIFT_PSI, rows, 20),
	    (q - p) * log(q / p) + (5.5 / 15 - 6.5 / 15) * log(5.5 / 6.5), 1e-12, "psi over tenths");
	for (int i = 0; i < 8; i++)
		rows[i] = (SermShiftRow){.unit = i, .item = i < 6 ? 1 : 2 + i, .recent = i >= 4};
	CHECK_NEAR(statistic_of(SERM_SHIFT_NOVELTY, rows, 8), 0.5, 1e-12, "novelty is the share of unseen items");
	/* Reference all of item 1; recent half of it, a quarter each of two others. */
	CHECK_NEAR(statistic_of(SERM_SHIFT_JS, rows, 8),
	    0.5 * log2(1 / 0.75) + 0.25 * log2(0.5 / 0.75) + 2 * 0.125 * log2(0.25 / 0.125), 1e-12, "js in bits");
	for (int i = 0; i < 20; i++)
		rows[i] =
		    (SermShiftRow){.unit = i, .value = 1, .outcome = i < 10 ? i < 3 : i < 18, .recent = i >= 10};
	CHECK_NEAR(statistic_of(SERM_SHIFT_CALIBRATION, rows, 20), 0.5, 1e-6, "calibration: .3 before, .8 after");
}

static void
test_merging(void)
{
	SermArena arena = unit_arena();
	SermShiftSample whole = {.arena = &arena}, parts[4], merged = {.arena = &arena};
	SermShiftOptions options;
	SermShift a, b;
	SermError error;
	SermRng rng;

	for (int i = 0; i < 4; i++)
		parts[i] = (SermShiftSample){.arena = &arena};
	serm_rng_seed(&rng, 4);
	for (int page = 0; page < 60000; page++) {
		uint64_t unit = serm_rng_next(&rng);

		for (int i = 0; i < 3; i++) {
			SermShiftRow row = {.unit = unit, .value = serm_rng_normal(&rng), .recent = page % 3 == 0};

			serm_shift_add(&whole, &row, false, &error);
			serm_shift_add(&parts[serm_rng_below(&rng, 4)], &row, false, &error);
		}
	}
	CHECK(whole.count[0] <= SERM_SHIFT_ROWS_MAX && whole.count[0] > SERM_SHIFT_ROWS_MAX / 3 &&
	          whole.level[0] == 2 && whole.level[1] == 1,
	    "a long stream keeps %u and %u rows", whole.count[0], whole.count[1]);
	for (int i = 3; i >= 0; i--)
		serm_shift_merge(&merged, &parts[i], &error);
	serm_shift_defaults(&options);
	options.draws = 50;
	CHECK(merged.count[0] == whole.count[0] && merged.count[1] == whole.count[1] &&
	          serm_shift_test(SERM_SHIFT_KS, &whole, &options, &arena, &a, &error) == SERM_OK &&
	          serm_shift_test(SERM_SHIFT_KS, &merged, &options, &arena, &b, &error) == SERM_OK &&
	          memcmp(&a, &b, sizeof(a)) == 0,
	    "samples of parts merge to that of the whole, bit for bit");
	CHECK(a.units[0] * 3 == whole.count[0], "units are kept whole");
	serm_arena_free(&arena);
}

static bool
stop(void *context)
{
	return --*(int *) context > 0;
}

static void
test_edges(void)
{
	SermArena arena = unit_arena();
	SermShiftSample sample = {.arena = &arena};
	SermShiftOptions options;
	SermShift shift;
	SermError error;
	SermRng rng;
	double p[] = {0.001, 0.02, 0.04, 0.03, 0.9, 0.045, 0.5};
	bool accepted[7];
	int calls = 2;

	serm_shift_defaults(&options);
	CHECK(serm_shift_test(SERM_SHIFT_KS, &sample, &options, &arena, &shift, &error) == SERM_ERR_NO_DATA,
	    "an empty stream is no data");
	CHECK(serm_shift_add(&sample, &(SermShiftRow){.value = NAN}, false, &error) == SERM_ERR_INVALID,
	    "a value that is no number is refused");
	for (uint64_t i = 0; i < 4; i++)
		serm_shift_add(&sample, &(SermShiftRow){.unit = i / 2, .value = 1, .recent = i % 2}, false, &error);
	CHECK(serm_shift_test(SERM_SHIFT_KS, &sample, &options, &arena, &shift, &error) == SERM_OK &&
	          shift.p_value == 1 && shift.statistic == 0 && shift.units[0] == 2 && shift.units[1] == 2,
	    "a stream of one value has not shifted; a unit in both parts is two");
	serm_rng_seed(&rng, 1);
	stream(&sample, SERM_SHIFT_KS, 100, 5, &rng);
	options.keep_going = stop;
	options.context = &calls;
	CHECK(serm_shift_test(SERM_SHIFT_KS, &sample, &options, &arena, &shift, &error) == SERM_ERR_CANCELED,
	    "a test can be canceled");
	serm_shift_accept(p, 7, 0.05, accepted);
	CHECK(accepted[0] && !accepted[1] && !accepted[2] && !accepted[4],
	    "few small p-values among many: only the smallest");
	serm_shift_accept(p, 4, 0.05, accepted);
	CHECK(accepted[0] && accepted[1] && accepted[2] && accepted[3], "among few all of them");
	serm_arena_free(&arena);
}

int
main(void)
{
	for (int kind = 0; kind < SERM_SHIFT_KINDS; kind++)
		test_levels(kind);
	test_rows_are_no_units();
	test_formulas();
	test_merging();
	test_edges();
	DONE();
}
