#include "core/base/rng.h"
#include "core/stats/metrics.h"
#include "unit.h"

#define LIST_MAX 8

static SermArena arena;
static SermError error;

static SermRankedDoc
doc(const char *id, double score, double grade)
{
	return (SermRankedDoc){
	    .score = score, .grade = grade, .doc_id = id, .doc_id_length = id != NULL ? strlen(id) : 0};
}

static SermRanking
rank(const SermRankedDoc *docs, size_t count)
{
	SermRanking ranking = {0};

	if (serm_metrics_rank(docs, count, &arena, &ranking, &error) != SERM_OK)
		printf("# rank: %s\n", error.message);
	return ranking;
}

/* Grades in rank order, as a list without ties. */
static SermRanking
rank_grades(const double *grades, size_t count)
{
	SermRankedDoc docs[64];

	for (size_t i = 0; i < count; i++)
		docs[i] = doc(NULL, -(double) i, grades[i]);
	return rank(docs, count);
}

static double
ndcg(const SermRanking *ranking, SermGain gain, size_t cutoff)
{
	double value = -1.0;

	serm_metrics_ndcg(ranking, gain, cutoff, &arena, &value, &error);
	return value;
}

static double
err(const SermRanking *ranking, double grade_max, size_t cutoff)
{
	double value = -1.0;

	serm_metrics_err(ranking, grade_max, cutoff, &arena, NULL, NULL, &value, &error);
	return value;
}

static double
pairs(const SermRanking *ranking)
{
	double value = -1.0;

	serm_metrics_pair_accuracy(ranking, &arena, &value, &error);
	return value;
}

static void
test_by_hand(void)
{
	const double grades[] = {3, 2, 3, 0, 1, 2};
	SermRanking list = rank_grades(grades, 6);
	double dcg = 3 + 2 / log2(3) + 3 / 2.0 + 1 / log2(6) + 2 / log2(7);
	double ideal = 3 + 3 / log2(3) + 2 / 2.0 + 2 / log2(5) + 1 / log2(6);

	CHECK_NEAR(serm_metrics_dcg(&list, SERM_GAIN_LINEAR, 6), 6.861126688, 1e-9, "linear DCG@6");
	CHECK_NEAR(dcg, 6.861126688, 1e-9, "which is the sum written out");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 6), dcg / ideal, 1e-15, "linear NDCG@6");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 1), 1.0, 0.0, "NDCG@1 of the best first");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_EXPONENTIAL, 3),
	    (7 + 3 / log2(3) + 7 / 2.0) / (7 + 7 / log2(3) + 3 / 2.0), 1e-15, "exponential NDCG@3");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, SERM_METRICS_NO_CUTOFF), ndcg(&list, SERM_GAIN_LINEAR, 99), 0.0,
	    "no cutoff is a large one");
	CHECK_NEAR(serm_metrics_precision(&list, 1, 4), 0.75, 0.0, "P@4");
	CHECK_NEAR(serm_metrics_precision(&list, 1, 10), 0.5, 0.0, "P@10 of a short list divides by 10");
	CHECK_NEAR(serm_metrics_precision(&list, 1, SERM_METRICS_NO_CUTOFF), 5.0 / 6, 1e-15, "P of all");
	CHECK_NEAR(serm_metrics_recall(&list, 2, 2), 0.5, 0.0, "recall@2 at threshold 2");
	CHECK_NEAR(
	    serm_metrics_average_precision(&list, 2), (1 + 1 + 1 + 4 / 6.0) / 4, 1e-15, "AP at threshold 2");
	CHECK_NEAR(serm_metrics_reciprocal_rank(&list, 1), 1.0, 0.0, "RR");
	CHECK_NEAR(serm_metrics_reciprocal_rank(&(SermRanking){3, grades + 3, list.tie_end, list.score_end}, 1),
	    0.5, 0.0, "RR of the second");
	/* Chapelle's user: R = 7/16, 3/16, 0. */
	CHECK_NEAR(err(&(SermRanking){2, grades, list.tie_end, list.score_end}, 4, 10),
	    7 / 16.0 + 9 / 16.0 * 3 / 16.0 / 2, 1e-15, "ERR of grades 3, 2 with maximum 4");
	CHECK_NEAR(err(&list, 3, 1), 7 / 8.0, 1e-15, "ERR@1");
	/* 15 pairs, (3,3) and (2,2) equal; wrong: 2<3, 0<1, 0<2, 1<2. */
	CHECK_NEAR(pairs(&list), 9 / 13.0, 1e-15, "pair accuracy");
}

/* Values printed by trec_eval 10.0 for this list; d9 is not judged, d8 is judged -1. */
static void
test_against_trec_eval(void)
{
	const SermRankedDoc docs[] = {doc("d2", 2.5, 0), doc("d1", 2.5, 3), doc("d9", 2.5, NAN),
	    doc("d4", 2.0, 1), doc("d10", 1.5, NAN), doc("d3", 1.5, 2), doc("d5", 1.5, 0), doc("d8", 1.0, -1),
	    doc("d6", 0.5, 3), doc("d7", 0.25, 2)};
	SermRanking list = rank(docs, SERM_LENGTH(docs));

	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 1), 0.0, 0.0, "trec_eval ndcg_cut_1");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 3), 0.254548386789, 5e-13, "trec_eval ndcg_cut_3");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 4), 0.285850734312, 5e-13, "trec_eval ndcg_cut_4");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 5), 0.270365195368, 5e-13, "trec_eval ndcg_cut_5");
	CHECK_NEAR(ndcg(&list, SERM_GAIN_LINEAR, 8), 0.370129213667, 5e-13, "trec_eval ndcg_cut_8");
	CHECK_NEAR(
	    ndcg(&list, SERM_GAIN_LINEAR, SERM_METRICS_NO_CUTOFF), 0.577554033519, 5e-13, "trec_eval ndcg");
	CHECK_NEAR(serm_metrics_average_precision(&list, 1), 0.455555555556, 5e-13, "trec_eval map");
	CHECK_NEAR(serm_metrics_average_precision(&list, 2), 0.35, 5e-13, "trec_eval map at level 2");
	CHECK_NEAR(serm_metrics_reciprocal_rank(&list, 1), 1 / 3.0, 5e-13, "trec_eval recip_rank");
	CHECK_NEAR(serm_metrics_precision(&list, 1, 5), 0.4, 5e-13, "trec_eval P_5");
	CHECK_NEAR(serm_metrics_precision(&list, 1, 20), 0.25, 5e-13, "trec_eval P_20");
	CHECK_NEAR(serm_metrics_recall(&list, 1, 3), 0.2, 5e-13, "trec_eval recall_3");
	CHECK_NEAR(serm_metrics_recall(&list, 1, 20), 1.0, 5e-13, "trec_eval recall_20");
}

/* The metrics again, straight from their definitions, of grades in a fixed order. */
enum { TWIN_DCG, TWIN_NDCG, TWIN_PRECISION, TWIN_RECALL, TWIN_AP, TWIN_RR, TWIN_ERR, TWIN_COUNT };

static double
twin_ideal(const double *grade, size_t count, size_t k)
{
	double left[LIST_MAX], sum = 0;

	memcpy(left, grade, count * sizeof(double));
	for (size_t i = 0; i < count && i < k; i++) {
		size_t best = 0;

		for (size_t j = 1; j < count; j++)
			if (left[j] > left[best])
				best = j;
		sum += (pow(2, left[best]) - 1) / log2((double) i + 2);
		left[best] = 0;
	}
	return sum;
}

static void
twin_metrics(const double *grade, size_t count, size_t k, double *out)
{
	double relevant = 0, stay = 1;

	memset(out, 0, TWIN_COUNT * sizeof(double));
	for (size_t i = 0; i < count; i++) {
		double stop = (pow(2, grade[i]) - 1) / 16;

		if (i < k) {
			out[TWIN_DCG] += (pow(2, grade[i]) - 1) / log2((double) i + 2);
			out[TWIN_ERR] += stay * stop / ((double) i + 1);
			stay *= 1 - stop;
		}
		if (grade[i] >= 1) {
			relevant++;
			out[TWIN_AP] += relevant / ((double) i + 1);
			if (relevant == 1)
				out[TWIN_RR] = 1 / ((double) i + 1);
			if (i < k)
				out[TWIN_RECALL]++;
		}
	}
	out[TWIN_NDCG] = out[TWIN_DCG] / twin_ideal(grade, count, k);
	out[TWIN_PRECISION] = out[TWIN_RECALL] / (double) k;
	out[TWIN_RECALL] /= relevant;
	out[TWIN_AP] /= relevant;
}

/* Mean over all orders that the scores allow. */
static void
twin_expect(const double *score, double *grade, bool *used, const double *sorted, size_t at, size_t count,
    size_t k, double *placed, double *sum, double *orders)
{
	if (at == count) {
		double value[TWIN_COUNT];

		twin_metrics(placed, count, k, value);
		for (int m = 0; m < TWIN_COUNT; m++)
			sum[m] += value[m];
		(*orders)++;
		return;
	}
	for (size_t i = 0; i < count; i++)
		if (!used[i] && score[i] == sorted[at]) {
			used[i] = true;
			placed[at] = grade[i];
			twin_expect(score, grade, used, sorted, at + 1, count, k, placed, sum, orders);
			used[i] = false;
		}
}

static void
test_ties(void)
{
	double worst[TWIN_COUNT] = {0}, worst_pairs = 0;
	SermRng rng;

	serm_rng_seed(&rng, 11);
	for (int round = 0; round < 300; round++) {
		size_t count = 2 + serm_rng_below(&rng, LIST_MAX - 2), k = 1 + serm_rng_below(&rng, LIST_MAX);
		double score[LIST_MAX], grade[LIST_MAX], sorted[LIST_MAX], placed[LIST_MAX];
		double sum[TWIN_COUNT] = {0}, orders = 0, value[TWIN_COUNT], good = 0, all = 0;
		bool used[LIST_MAX] = {0};
		SermRankedDoc docs[LIST_MAX];
		SermRanking list;

		for (size_t i = 0; i < count; i++) {
			score[i] = serm_rng_below(&rng, 3);
			grade[i] = i == 0 ? 2 : serm_rng_below(&rng, 4);
			docs[i] = doc(NULL, score[i], grade[i]);
		}
		for (size_t i = 0, n = 0; i < 3; i++)
			for (size_t j = 0; j < count; j++)
				if (score[j] == 2.0 - (double) i)
					sorted[n++] = score[j];
		twin_expect(score, grade, used, sorted, 0, count, k, placed, sum, &orders);
		for (size_t i = 0; i < count; i++)
			for (size_t j = 0; j < count; j++)
				if (grade[i] > grade[j]) {
					all++;
					good += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
				}
		list = rank(docs, count);
		value[TWIN_DCG] = serm_metrics_dcg(&list, SERM_GAIN_EXPONENTIAL, k);
		value[TWIN_NDCG] = ndcg(&list, SERM_GAIN_EXPONENTIAL, k);
		value[TWIN_PRECISION] = serm_metrics_precision(&list, 1, k);
		value[TWIN_RECALL] = serm_metrics_recall(&list, 1, k);
		value[TWIN_AP] = serm_metrics_average_precision(&list, 1);
		value[TWIN_RR] = serm_metrics_reciprocal_rank(&list, 1);
		value[TWIN_ERR] = err(&list, 4, k);
		for (int m = 0; m < TWIN_COUNT; m++)
			worst[m] = fmax(worst[m], fabs(value[m] - sum[m] / orders));
		worst_pairs = fmax(worst_pairs, all > 0               ? fabs(pairs(&list) - good / all)
		                                : isnan(pairs(&list)) ? 0
		                                                      : 1);
	}
	for (int m = 0; m < TWIN_COUNT; m++)
		CHECK(
		    worst[m] < 1e-12, "metric %d is its mean over all orders of tied documents (%.1e)", m, worst[m]);
	CHECK(worst_pairs < 1e-12, "pair accuracy equals the count of all pairs");
}

static void
test_order(void)
{
	SermRankedDoc docs[] = {
	    doc("a", 1, 3), doc("b", 1, 0), doc("ab", 1, 1), doc(NULL, 1, 2), doc("z", 0, 0.5)};
	SermRanking list;
	double forward, backward;

	docs[4].unscored = true;
	docs[4].score = NAN;
	list = rank(docs, 5);
	CHECK(list.grade[0] == 0 && list.grade[1] == 1 && list.grade[2] == 3 && list.grade[3] == 2 &&
	          list.grade[4] == 0.5,
	    "ties by id descending, no id after any, no score last");
	docs[3] = doc(NULL, -INFINITY, 2);
	list = rank(docs, 5);
	CHECK(list.grade[3] == 2 && list.grade[4] == 0.5, "no score is less than minus infinity");

	docs[1] = doc("x", 0.3, 0.1);
	docs[2] = doc("x", 0.3, 0.2);
	docs[3] = doc("x", 0.3, 0.7);
	list = rank(docs, 4);
	forward = ndcg(&list, SERM_GAIN_EXPONENTIAL, 3);
	docs[3] = doc("x", 0.3, 0.1);
	docs[1] = doc("x", 0.3, 0.7);
	list = rank(docs, 4);
	backward = ndcg(&list, SERM_GAIN_EXPONENTIAL, 3);
	CHECK(forward == backward, "the order of arrival does not change a bit");
}

static void
test_edges(void)
{
	const double none[] = {0, 0, NAN};
	SermRankedDoc bad = doc(NULL, NAN, 1);
	SermRanking list = rank_grades(none, 3), empty = rank(NULL, 0);
	double value;

	CHECK(isnan(ndcg(&list, SERM_GAIN_LINEAR, 3)), "NDCG without a positive grade is undefined");
	CHECK(isnan(serm_metrics_average_precision(&list, 1)) && isnan(serm_metrics_reciprocal_rank(&list, 1)) &&
	          isnan(serm_metrics_recall(&list, 1, 3)) && isnan(pairs(&list)),
	    "so are AP, RR, recall and pair accuracy");
	CHECK(serm_metrics_dcg(&list, SERM_GAIN_LINEAR, 3) == 0 && serm_metrics_precision(&list, 1, 3) == 0 &&
	          err(&list, 3, 3) == 0,
	    "DCG, precision and ERR are 0");
	CHECK(isnan(ndcg(&empty, SERM_GAIN_LINEAR, 3)) && isnan(pairs(&empty)) && err(&empty, 3, 5) == 0,
	    "an empty list is no accident");
	CHECK(serm_metrics_rank(&bad, 1, &arena, &list, &error) == SERM_ERR_INVALID, "a NaN score is refused");
	bad = doc(NULL, 0, INFINITY);
	CHECK(serm_metrics_rank(&bad, 1, &arena, &list, &error) == SERM_ERR_INVALID,
	    "an infinite grade is refused");
	bad.grade = 501;
	CHECK(serm_metrics_rank(&bad, 1, &arena, &list, &error) == SERM_ERR_INVALID, "a huge grade is refused");
	list = rank_grades((const double[]){4}, 1);
	CHECK(serm_metrics_err(&list, 3, 1, &arena, NULL, NULL, &value, &error) == SERM_ERR_INVALID,
	    "ERR refuses a grade above its maximum");
	CHECK(serm_metrics_err(&list, 0, 1, &arena, NULL, NULL, &value, &error) == SERM_ERR_INVALID,
	    "ERR refuses a maximum of 0");
}

static bool
stop_now(void *context)
{
	(void) context;
	return false;
}

static void
test_bounds(void)
{
	SermRankedDoc *docs = calloc(3000, sizeof(*docs));
	double highest = 0, value;
	SermArenaMark mark;
	SermRanking list;
	SermRng rng;

	serm_rng_seed(&rng, 3);
	for (int round = 0; round < 200; round++) {
		size_t count = 1 + serm_rng_below(&rng, 40);

		mark = serm_arena_mark(&arena);
		for (size_t i = 0; i < count; i++) {
			double grade = serm_rng_uniform(&rng) * 3;

			docs[i] = doc(NULL, round % 2 == 0 ? grade : 1.0, round % 2 == 0 ? grade : 0.1 * 3);
		}
		list = rank(docs, count);
		highest = fmax(highest, ndcg(&list, SERM_GAIN_EXPONENTIAL, 10));
		highest = fmax(highest, ndcg(&list, SERM_GAIN_LINEAR, SERM_METRICS_NO_CUTOFF));
		serm_arena_rewind(&arena, mark);
	}
	CHECK(highest <= 1.0, "NDCG is never above 1");
	for (size_t i = 0; i < 3000; i++)
		docs[i] = doc(NULL, 1.0, i % 4);
	list = rank(docs, 3000);
	CHECK(serm_metrics_err(&list, 3, SERM_METRICS_NO_CUTOFF, &arena, stop_now, NULL, &value, &error) ==
	          SERM_ERR_CANCELED,
	    "ERR over a long tie can be canceled");
	value = err(&list, 3, SERM_METRICS_NO_CUTOFF);
	CHECK(value > 0.5 && value < 0.6, "ERR of 3000 tied documents is finite (%.6f)", value);
	free(docs);
}

int
main(void)
{
	arena = unit_arena();
	test_by_hand();
	test_against_trec_eval();
	test_ties();
	test_order();
	test_edges();
	test_bounds();
	serm_arena_free(&arena);
	DONE();
}
