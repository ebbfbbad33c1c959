#include "core/base/rng.h"
#include "core/stats/agreement.h"
#include "core/stats/consensus.h"
#include "unit.h"

#define GRADES 4
#define JUDGES 7
#define ITEMS 4000

static SermArena arena;
static SermError error;

/* What is planted: by what a judge moves the truth, and how often it is right but for that. */
enum { GOOD, FAIR, LENIENT, HARSH, ORIGINAL, COPY, CONSTANT };
static const double planted_right[JUDGES] = {.65, .45, .55, .55, .5, 0, 0};
static const int planted_level[JUDGES] = {0, 0, 1, -1, 0, 0, 0};

typedef struct World {
	int16_t truth[ITEMS];
	int16_t gold[ITEMS];
	int16_t label[ITEMS * JUDGES];
	float prior[ITEMS * GRADES];
} World;

static World world;

static int16_t
clamp(int grade)
{
	return (int16_t) (grade < 0 ? 0 : grade >= GRADES ? GRADES - 1 : grade);
}

static int16_t
say(SermRng *rng, int judge, int16_t truth)
{
	int grade = truth;

	if (serm_rng_uniform(rng) >= planted_right[judge])
		grade = (int) serm_rng_below(rng, GRADES);
	/* Lenient and harsh ones move half of the pairs. */
	if (planted_level[judge] != 0 && serm_rng_uniform(rng) < .5)
		grade += planted_level[judge];
	return clamp(grade);
}

static void
make_world(double gold_share, uint64_t seed)
{
	static const double shares[GRADES] = {.5, .25, .15, .1};
	SermRng rng;

	serm_rng_seed(&rng, seed);
	for (size_t i = 0; i < ITEMS; i++) {
		double draw = serm_rng_uniform(&rng);
		int16_t *label = &world.label[i * JUDGES];
		int truth = 0;

		while (truth < GRADES - 1 && draw >= shares[truth])
			draw -= shares[truth++];
		world.truth[i] = (int16_t) truth;
		world.gold[i] = serm_rng_uniform(&rng) < gold_share ? (int16_t) truth : SERM_LABEL_MISSING;
		for (int j = 0; j <= ORIGINAL; j++)
			label[j] = say(&rng, j, (int16_t) truth);
		label[COPY] = serm_rng_uniform(&rng) < .95 ? label[ORIGINAL] : say(&rng, GOOD, (int16_t) truth);
		label[CONSTANT] = 1;
	}
}

static SermJudgeLabels
labels_of(const World *w)
{
	return (SermJudgeLabels){GRADES, JUDGES, ITEMS, w->label, w->gold, NULL};
}

static SermConsensus
fit(const SermJudgeLabels *labels, const SermConsensusOptions *options)
{
	SermConsensus consensus;
	SermStatus status = serm_consensus_fit(labels, options, &arena, NULL, NULL, &consensus, &error);

	if (status != SERM_OK)
		printf("# fit: %s\n", error.message);
	return consensus;
}

static SermOpinion
opinion_on(const SermConsensus *consensus, const SermJudgeLabels *labels, size_t item)
{
	SermOpinion opinion;

	if (serm_consensus_judge(consensus, labels->label + item * labels->judge_count,
	        labels->prior == NULL ? NULL : labels->prior + item * labels->grade_count, &opinion,
	        &error) != SERM_OK)
		printf("# judge: %s\n", error.message);
	return opinion;
}

static double
kappa_of(const int16_t *a, const int16_t *b, size_t count)
{
	double counts[GRADES * GRADES] = {0}, kappa = -9;

	serm_agreement_count(a, b, count, counts, GRADES, &error);
	serm_agreement_kappa(counts, GRADES, NULL, SERM_KAPPA_QUADRATIC, &kappa, &error);
	return kappa;
}

static double
consensus_kappa(const SermConsensus *consensus, const SermJudgeLabels *labels)
{
	static int16_t grade[ITEMS];

	for (size_t i = 0; i < ITEMS; i++)
		grade[i] = (int16_t) opinion_on(consensus, labels, i).grade;
	return kappa_of(world.truth, grade, ITEMS);
}

static double
judge_kappa(int judge)
{
	static int16_t grade[ITEMS];

	for (size_t i = 0; i < ITEMS; i++)
		grade[i] = world.label[i * JUDGES + (size_t) judge];
	return kappa_of(world.truth, grade, ITEMS);
}

static void
test_planted(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus with, without;
	double best = 0, shares[GRADES] = {0}, sum = 0, kappa;

	make_world(.02, 7);
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	with = fit(&labels, &options);
	labels.gold = NULL;
	without = fit(&labels, &options);
	for (int j = 0; j < JUDGES; j++) {
		best = fmax(best, judge_kappa(j));
		sum += with.judge[j].weight;
	}
	kappa = consensus_kappa(&with, &labels);
	CHECK(kappa > best + .03, "weighted with gold: %.3f against %.3f of the best judge", kappa, best);
	kappa = consensus_kappa(&without, &labels);
	CHECK(kappa > best, "weighted without gold: %.3f", kappa);
	CHECK_NEAR(sum, 1, 1e-12, "the say is shared out");
	for (int j = 0; j < JUDGES; j++)
		CHECK(with.judge[j].copies == (j == ORIGINAL || j == COPY ? 2 : 1), "judge %d: %u copies", j,
		    with.judge[j].copies);
	CHECK(with.judge[GOOD].weight > with.judge[FAIR].weight &&
	          with.judge[FAIR].weight > 3 * with.judge[CONSTANT].weight,
	    "a better judge has more say (%.3f, %.3f), one that never looks next to none (%.4f)",
	    with.judge[GOOD].weight, with.judge[FAIR].weight, with.judge[CONSTANT].weight);
	CHECK(with.judge[LENIENT].level > .15 && with.judge[HARSH].level < -.1,
	    "levels are seen: lenient %+.2f, harsh %+.2f", with.judge[LENIENT].level, with.judge[HARSH].level);
	CHECK(fabs(without.judge[GOOD].reliability - without.judge[GOOD].agreement) < 1e-12 &&
	          isnan(without.judge[GOOD].gold_kappa) && without.gold_count == 0,
	    "without gold reliability is agreement");
	CHECK(isnan(with.judge[CONSTANT].gold_kappa) || with.judge[CONSTANT].gold_kappa == 0,
	    "a constant judge has no kappa");
	labels.gold = world.gold;
	CHECK(with.judge[GOOD].reliability > without.judge[GOOD].reliability, "gold raises who deserves it");
	for (size_t i = 0; i < ITEMS; i++)
		shares[opinion_on(&with, &labels, i).grade] += 1.0 / ITEMS;
	CHECK(fabs(shares[0] - .5) < .1 && fabs(shares[3] - .1) < .06,
	    "grades as often as in gold: %.2f %.2f %.2f %.2f", shares[0], shares[1], shares[2], shares[3]);
}

/* Judges of one level each, all kind: only gold can tell, and its cuts undo it. */
static void
test_level(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus with, without;
	double gold, agreement;

	make_world(.03, 11);
	for (size_t i = 0; i < ITEMS * JUDGES; i++)
		world.label[i] = clamp(world.label[i] + (i % JUDGES == CONSTANT ? 0 : 1));
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	with = fit(&labels, &options);
	gold = consensus_kappa(&with, &labels);
	labels.gold = NULL;
	without = fit(&labels, &options);
	agreement = consensus_kappa(&without, &labels);
	CHECK(gold > agreement + .1, "cuts from gold undo a common level: %.3f against %.3f", gold, agreement);
	labels.gold = world.truth;
	without = fit(&labels, &options);
	CHECK_NEAR(without.judge[GOOD].reliability, judge_kappa(GOOD), .03,
	    "much gold: reliability is kappa against it");
	labels.gold = NULL;
	without = fit(&labels, &options);
	CHECK(with.cut[0] > without.cut[0] + .3, "by higher cuts (%.2f, %.2f)", with.cut[0], without.cut[0]);
	CHECK(with.judge_cut[GOOD * 3] > .8, "and the judge's own cut says so too (%.2f)",
	    with.judge_cut[GOOD * 3]);
}

/* Gold that people gave one grade says how often it is right, not who can tell it from others. */
static void
test_one_grade(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus with, without;
	bool same = true;
	int missing = 0;

	make_world(1, 7);
	for (size_t i = 0; i < ITEMS; i++)
		if (world.gold[i] != 3)
			world.gold[i] = SERM_LABEL_MISSING;
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	with = fit(&labels, &options);
	labels.gold = NULL;
	without = fit(&labels, &options);
	for (int j = 0; j < JUDGES; j++) {
		missing += isnan(with.judge[j].gold_kappa) && with.judge[j].gold > 300;
		same &= with.judge[j].reliability == without.judge[j].reliability &&
		        with.judge[j].copies == without.judge[j].copies &&
		        with.judge[j].weight == without.judge[j].weight;
	}
	CHECK(missing == JUDGES, "%d of %d judges have no kappa against gold of one grade", missing, JUDGES);
	CHECK(same, "and are as reliable as without it (%.3f, %.3f)", with.judge[GOOD].reliability,
	    without.judge[GOOD].reliability);
}

static void
test_invariance(void)
{
	static World other;
	static int16_t wide[ITEMS * (JUDGES + 4)];
	SermJudgeLabels labels, turned;
	SermConsensusOptions options;
	SermConsensus first, second;
	double apart = 0, together = 0;
	bool same = true;

	make_world(.02, 13);
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	first = fit(&labels, &options);

	for (size_t i = 0; i < ITEMS; i++) {
		other.gold[ITEMS - 1 - i] = world.gold[i];
		for (size_t j = 0; j < JUDGES; j++)
			other.label[(ITEMS - 1 - i) * JUDGES + (JUDGES - 1 - j)] = world.label[i * JUDGES + j];
	}
	turned = labels_of(&other);
	second = fit(&turned, &options);
	for (size_t i = 0; i < ITEMS; i++) {
		SermOpinion a = opinion_on(&first, &labels, i), b = opinion_on(&second, &turned, ITEMS - 1 - i);

		apart = fmax(apart, fabs(a.value - b.value));
		same = same && a.grade == b.grade;
	}
	CHECK(same && apart < 1e-9, "the order of pairs and judges does not matter (%.1e)", apart);

	/* Four more copies of one judge: its group keeps about the say that it had. */
	for (size_t i = 0; i < ITEMS; i++)
		for (size_t j = 0; j < JUDGES + 4; j++)
			wide[i * (JUDGES + 4) + j] = world.label[i * JUDGES + (j < JUDGES ? j : FAIR)];
	turned = (SermJudgeLabels){GRADES, JUDGES + 4, ITEMS, wide, world.gold, NULL};
	second = fit(&turned, &options);
	for (int j = JUDGES; j < JUDGES + 4; j++)
		together += second.judge[j].weight;
	together += second.judge[FAIR].weight;
	CHECK(second.judge[FAIR].copies == 5, "five copies are seen");
	CHECK_NEAR(together, first.judge[FAIR].weight, .02, "and have one say: %.3f", together);
	options.say = (double[]){1, 1, 1, 1, 1, 1, 1e9};
	second = fit(&labels, &options);
	CHECK(second.judge[CONSTANT].weight > .99, "a person's factor rules");
}

/* Judges who agree have means that are grades, but for rounding, and cuts lie upon them. */
static void
test_ties(void)
{
	enum { SMALL = 200, FEW = 7, WORLDS = 20 };
	static int16_t label[SMALL * FEW];
	static float prior[SMALL * GRADES];
	SermJudgeLabels labels = {GRADES, FEW, SMALL, label, NULL, prior};
	SermConsensusOptions options;
	SermRng rng;
	int differ = 0;

	serm_rng_seed(&rng, 3);
	serm_consensus_defaults(&options);
	options.say = (double[]){1.1, .7, 2.3, 3.7, .9, 1.3, 4.1};
	for (int w = 0; w < WORLDS; w++) {
		SermArenaMark mark = serm_arena_mark(&arena);
		int grade_of[GRADES] = {-1, -1, -1, -1};
		SermConsensus consensus;

		for (size_t i = 0; i < SMALL; i++) {
			int16_t grade = (int16_t) (i % GRADES);

			for (size_t y = 0; y < GRADES; y++)
				prior[i * GRADES + y] = .2f;
			prior[i * GRADES + serm_rng_below(&rng, GRADES)] += .2f;
			for (size_t j = 0; j < FEW; j++)
				label[i * FEW + j] = serm_rng_uniform(&rng) < .5 ? grade : SERM_LABEL_MISSING;
		}
		consensus = fit(&labels, &options);
		for (size_t i = 0; i < SMALL; i++) {
			SermOpinion opinion = opinion_on(&consensus, &labels, i);

			if (opinion.answers < 2)
				continue;
			if (grade_of[i % GRADES] < 0)
				grade_of[i % GRADES] = (int) opinion.grade;
			differ += grade_of[i % GRADES] != (int) opinion.grade;
		}
		serm_arena_rewind(&arena, mark);
	}
	CHECK(differ == 0, "%d of %d pairs of the same labels have another grade", differ, SMALL * WORLDS);
}

/* Pairs that differ only in which of several alike judges said what have equal values, but for rounding, and
 * cuts lie among them. */
static void
test_turned(SermConsensusRule rule, bool gold)
{
	enum { PATTERNS = 40, FEW = 5, WORLDS = 40, TURNED = PATTERNS * FEW };
	static int16_t label[TURNED * FEW], truth[TURNED];
	static float prior[TURNED * GRADES];
	SermJudgeLabels labels = {GRADES, FEW, TURNED, label, gold ? truth : NULL, prior};
	SermConsensusOptions options;
	SermRng rng;
	int differ = 0, near = 0, on = 0;

	serm_rng_seed(&rng, 41);
	serm_consensus_defaults(&options);
	options.rule = rule;
	for (int w = 0; w < WORLDS; w++) {
		SermArenaMark mark = serm_arena_mark(&arena);
		SermConsensus consensus;

		for (size_t p = 0; p < PATTERNS; p++) {
			int16_t pattern[FEW], grade = (int16_t) serm_rng_below(&rng, GRADES);

			for (size_t j = 0; j < FEW; j++)
				pattern[j] = serm_rng_uniform(&rng) < .3   ? SERM_LABEL_MISSING
				             : serm_rng_uniform(&rng) < .5 ? grade
				                                           : (int16_t) serm_rng_below(&rng, GRADES);
			pattern[0] = pattern[1] = grade;
			for (size_t i = p * FEW; i < (p + 1) * FEW; i++) {
				truth[i] = grade;
				for (size_t y = 0; y < GRADES; y++)
					prior[i * GRADES + y] = y == (size_t) grade ? .4f : .2f;
				for (size_t j = 0; j < FEW; j++)
					label[i * FEW + (i + j) % FEW] = pattern[j];
			}
		}
		consensus = fit(&labels, &options);
		for (size_t i = 0; i < TURNED; i++) {
			SermOpinion opinion = opinion_on(&consensus, &labels, i);

			differ += opinion.grade != opinion_on(&consensus, &labels, i / FEW * FEW).grade;
			for (size_t y = 0; y + 1 < GRADES; y++) {
				near += opinion.value != consensus.cut[y] && fabs(opinion.value - consensus.cut[y]) < 1e-10;
				on += opinion.value == consensus.cut[y];
			}
		}
		serm_arena_rewind(&arena, mark);
	}
	CHECK(differ == 0, "rule %d, %s gold: %d of %d pairs that differ by who said what have another grade",
	    rule, gold ? "with" : "without", differ, TURNED * WORLDS);
	CHECK(on > 0 && near == 0, "%d values are cuts, %d are cuts but for rounding", on, near);
}

/* Half of the labels are missing: the grade of a pair must not depend on who was asked. */
static void
test_missing(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus consensus;
	SermOpinion opinion;
	SermRng rng;
	int16_t alone[JUDGES];
	double value[2] = {0}, plain[2] = {0}, count[2] = {0};

	make_world(.05, 17);
	serm_rng_seed(&rng, 18);
	for (size_t i = 0; i < ITEMS; i++) {
		/* Either the lenient or the harsh one, never both. */
		bool kind = serm_rng_uniform(&rng) < .5;

		world.label[i * JUDGES + (kind ? HARSH : LENIENT)] = SERM_LABEL_MISSING;
		world.label[i * JUDGES + CONSTANT] = SERM_LABEL_MISSING;
		world.label[i * JUDGES + COPY] = SERM_LABEL_MISSING;
		world.label[i * JUDGES + FAIR] = SERM_LABEL_MISSING;
	}
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	consensus = fit(&labels, &options);
	for (size_t i = 0; i < ITEMS; i++) {
		int kind = world.label[i * JUDGES + HARSH] == SERM_LABEL_MISSING;
		double sum = 0, weight = 0;

		for (int j = 0; j < JUDGES; j++)
			if (world.label[i * JUDGES + (size_t) j] >= 0) {
				sum += consensus.judge[j].weight * world.label[i * JUDGES + (size_t) j];
				weight += consensus.judge[j].weight;
			}
		plain[kind] += sum / weight;
		value[kind] += opinion_on(&consensus, &labels, i).value;
		count[kind]++;
	}
	CHECK(fabs(value[1] / count[1] - value[0] / count[0]) < .5 * (plain[1] / count[1] - plain[0] / count[0]),
	    "levels take the judge's kindness out of the mean: %.3f of %.3f is left",
	    value[1] / count[1] - value[0] / count[0], plain[1] / count[1] - plain[0] / count[0]);
	for (int j = 0; j < JUDGES; j++)
		alone[j] = SERM_LABEL_MISSING;
	serm_consensus_judge(&consensus, alone, NULL, &opinion, &error);
	CHECK(opinion.answers == 0, "nobody answered");
	alone[FAIR] = 3;
	CHECK(serm_consensus_judge(&consensus, alone, NULL, &opinion, &error) == SERM_OK &&
	          opinion.answers == 1 && opinion.value == 3,
	    "one that never answered before");
	alone[FAIR] = 4;
	CHECK(serm_consensus_judge(&consensus, alone, NULL, &opinion, &error) == SERM_ERR_INVALID,
	    "a label that is no grade");
}

static void
test_targets(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus consensus;
	bool sums = true, mixed = true;

	make_world(.02, 19);
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	consensus = fit(&labels, &options);
	for (size_t i = 0; i < ITEMS; i++) {
		SermOpinion opinion = opinion_on(&consensus, &labels, i);
		double sum = 0, share = 0;

		for (int y = 0; y < GRADES; y++)
			sum += opinion.target[y];
		for (int j = 0; j < JUDGES; j++)
			share += world.label[i * JUDGES + (size_t) j] == (int16_t) opinion.grade
			             ? consensus.judge[j].weight
			             : 0;
		sums = sums && fabs(sum - 1) < 1e-5;
		mixed = mixed && fabs(opinion.target[opinion.grade] - (.7 + .3 * share)) < 1e-5;
	}
	CHECK(sums, "targets sum to 1");
	CHECK(mixed, ".7 of the grade and .3 of the votes, as weighed");
}

/* The labels of some judges, in a world of their own. */
static SermJudgeLabels
some_of(const int *judges, uint32_t count)
{
	static int16_t label[ITEMS * JUDGES];

	for (size_t i = 0; i < ITEMS; i++)
		for (size_t j = 0; j < count; j++)
			label[i * count + j] = world.label[i * JUDGES + (size_t) judges[j]];
	return (SermJudgeLabels){GRADES, count, ITEMS, label, NULL, NULL};
}

/* Two that are nearly always right say the same as well: gold or two other judges tell them from copies. */
static void
test_excellent(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus consensus;
	SermRng rng;

	make_world(.05, 21);
	serm_rng_seed(&rng, 22);
	for (size_t i = 0; i < ITEMS; i++)
		for (size_t j = GOOD; j <= FAIR; j++)
			world.label[i * JUDGES + j] =
			    serm_rng_uniform(&rng) < .95 ? world.truth[i] : (int16_t) serm_rng_below(&rng, GRADES);
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[GOOD].copies == 1 && consensus.judge[FAIR].copies == 1 &&
	          consensus.judge[ORIGINAL].copies == 2,
	    "with gold they are not taken for copies, and copies still are");
	labels.gold = NULL;
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[GOOD].copies == 1 && consensus.judge[FAIR].copies == 1 &&
	          consensus.judge[ORIGINAL].copies == 2,
	    "without gold the others tell them from copies");
	for (size_t i = 0; i < ITEMS; i++)
		world.label[i * JUDGES + (i % 2 ? GOOD : LENIENT)] = SERM_LABEL_MISSING;
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[GOOD].copies == 1 && consensus.judge[FAIR].copies == 1 &&
	          consensus.judge[ORIGINAL].copies == 2,
	    "also where some have never met");
	labels = some_of((const int[]){FAIR, ORIGINAL, COPY, HARSH}, 4);
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[0].copies == 1 && consensus.judge[1].copies == 2 && consensus.judge[2].copies == 2,
	    "two others are enough to see a copy");
	labels = some_of((const int[]){ORIGINAL, COPY, CONSTANT, CONSTANT}, 4);
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[0].copies == 2, "others that agree with nobody tell nothing");
}

/* One other judge explains nothing: who agrees with whom does not tell who is right. */
static void
test_three(void)
{
	SermConsensusOptions options;
	SermConsensus consensus;
	SermJudgeLabels labels;
	SermRng rng;

	make_world(0, 23);
	serm_rng_seed(&rng, 24);
	for (size_t i = 0; i < ITEMS; i++)
		for (size_t j = GOOD; j <= FAIR; j++)
			world.label[i * JUDGES + j] =
			    serm_rng_uniform(&rng) < .95 ? world.truth[i] : (int16_t) serm_rng_below(&rng, GRADES);
	labels = some_of((const int[]){GOOD, FAIR, HARSH}, 3);
	serm_consensus_defaults(&options);
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[0].copies == 2 && consensus.judge[2].copies == 1, "of three two share a say");
	labels = some_of((const int[]){GOOD, FAIR, HARSH, LENIENT}, 4);
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[0].copies == 1, "of four they do not");
	labels = some_of((const int[]){GOOD, GOOD, GOOD, FAIR, HARSH}, 5);
	consensus = fit(&labels, &options);
	CHECK(consensus.judge[0].copies == 4, "one and the same do not vouch for each other");
}

/* Judges that say half of the time what each other says, right or wrong: more of them must not be surer than
 * right. */
static void
test_alike(void)
{
	static const uint32_t counts[] = {2, 4, 7};
	SermConsensusOptions options;
	SermRng rng;

	serm_consensus_defaults(&options);
	options.rule = SERM_CONSENSUS_POSTERIOR;
	make_world(.05, 25);
	serm_rng_seed(&rng, 26);
	for (size_t i = 0; i < ITEMS; i++) {
		int16_t common = say(&rng, FAIR, world.truth[i]);

		for (size_t j = 0; j < JUDGES; j++)
			world.label[i * JUDGES + j] =
			    serm_rng_uniform(&rng) < .75 ? common : say(&rng, FAIR, world.truth[i]);
	}
	for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); n++) {
		SermJudgeLabels labels = some_of((const int[]){0, 1, 2, 3, 4, 5, 6}, counts[n]);
		double sure = 0, right = 0;
		SermConsensus consensus;

		labels.gold = world.gold;
		consensus = fit(&labels, &options);
		for (size_t i = 0; i < ITEMS; i++) {
			SermOpinion opinion = opinion_on(&consensus, &labels, i);
			uint32_t best = 0;

			for (uint32_t y = 1; y < GRADES; y++)
				best = opinion.target[y] > opinion.target[best] ? y : best;
			sure += opinion.target[best] / ITEMS;
			right += (best == (uint32_t) world.truth[i]) / (double) ITEMS;
		}
		CHECK_NEAR(sure, right, .07, "%u judges are %.2f sure and %.2f right", counts[n], sure, right);
		CHECK(
		    consensus.correlation > .5, "since gold shows how alike they err (%.2f)", consensus.correlation);
	}
}

/* How alike judges err is learned from gold, and shrunk to what real ones do. */
static void
test_correlation(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus consensus;

	serm_consensus_defaults(&options);
	options.rule = SERM_CONSENSUS_POSTERIOR;
	make_world(.05, 27);
	labels = some_of((const int[]){GOOD, FAIR, LENIENT, HARSH, ORIGINAL}, 5);
	labels.gold = world.gold;
	consensus = fit(&labels, &options);
	CHECK(consensus.correlation < .25, "some err by themselves (%.2f)", consensus.correlation);
	labels.gold = NULL;
	consensus = fit(&labels, &options);
	CHECK_NEAR(consensus.correlation, .65, 1e-9, "without gold they are taken for real ones");
	CHECK_NEAR(serm_judges_worth(7, .65), 7 / 4.9, 1e-12, "what seven are worth");
	CHECK(serm_judges_worth(.5, 0) == 1 && serm_judges_worth(3, 0) == 3 && serm_judges_worth(3, 1) == 1,
	    "never less than one, nor more than all");
}

/* The share kept, and how often the kept are right, by predicted grade. */
static void
test_abstention(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus consensus;
	double kept[GRADES] = {0}, all[GRADES] = {0}, right = 0, right_kept = 0, total = 0;

	make_world(.05, 23);
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	consensus = fit(&labels, &options);
	CHECK(consensus.threshold[0] == 0, "by default nothing is given up");
	options.keep = .6;
	consensus = fit(&labels, &options);
	for (size_t i = 0; i < ITEMS; i++) {
		SermOpinion opinion = opinion_on(&consensus, &labels, i);

		all[opinion.grade]++;
		right += opinion.grade == (uint32_t) world.truth[i];
		if (opinion.abstains)
			continue;
		kept[opinion.grade]++;
		total++;
		right_kept += opinion.grade == (uint32_t) world.truth[i];
	}
	for (int y = 0; y < GRADES; y++)
		CHECK(kept[y] >= .6 * all[y] - 1 && kept[y] < .75 * all[y], "grade %d: %.2f kept of %.0f", y,
		    kept[y] / all[y], all[y]);
	CHECK(right_kept / total > right / ITEMS + .05, "kept are right more often: %.3f, all %.3f",
	    right_kept / total, right / ITEMS);
}

static void
test_posterior(void)
{
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus plain, model;
	SermRng rng;
	double alone, both;
	static float prior[ITEMS * GRADES];

	make_world(.05, 29);
	serm_rng_seed(&rng, 30);
	/* A model that knows the truth half of the time, and sees the best grade far too often. */
	for (size_t i = 0; i < ITEMS; i++) {
		bool knows = serm_rng_uniform(&rng) < .5;

		for (int y = 0; y < GRADES; y++)
			prior[i * GRADES + (size_t) y] = y == 3 ? .55f : .15f;
		if (knows && world.truth[i] != 3) {
			prior[i * GRADES + (size_t) world.truth[i]] = .55f;
			prior[i * GRADES + 3] = .15f;
		}
	}
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	options.rule = SERM_CONSENSUS_POSTERIOR;
	plain = fit(&labels, &options);
	alone = consensus_kappa(&plain, &labels);
	labels.prior = prior;
	model = fit(&labels, &options);
	both = consensus_kappa(&model, &labels);
	CHECK(alone > judge_kappa(GOOD), "posterior: %.3f against %.3f of the best judge", alone,
	    judge_kappa(GOOD));
	CHECK(both > alone, "and more with a model that knows something: %.3f", both);
	CHECK(model.prior_scale[3] < .5 && model.prior_scale[0] > 1,
	    "gold shows that it sees too many of the best (%.2f) and too few of the worst (%.2f)",
	    model.prior_scale[3], model.prior_scale[0]);
	labels.gold = NULL;
	model = fit(&labels, &options);
	CHECK(model.prior_scale[3] == 1 && model.rule == SERM_CONSENSUS_POSTERIOR, "without gold it is believed");
	labels.prior = NULL;
	CHECK(fit(&labels, &options).rule == SERM_CONSENSUS_WEIGHTED, "without either the labels are weighed");
	labels.prior = prior;
	options.rule = SERM_CONSENSUS_WEIGHTED;
	model = fit(&labels, &options);
	{
		double best = 0;

		for (size_t i = 0; i < ITEMS; i++)
			best += opinion_on(&model, &labels, i).grade == 3;
		CHECK_NEAR(best / ITEMS, .36, .06, "and weighted cuts at its shares: %.2f", best / ITEMS);
	}
}

/* Gold that has every grade alike, and the shares where it was drawn from. */
static void
test_drawn_gold(void)
{
	static const double share[GRADES] = {.5, .25, .15, .1};
	static double weight[ITEMS];
	SermJudgeLabels labels;
	SermConsensusOptions options;
	SermConsensus told, untold, full;
	int left[GRADES] = {150, 150, 150, 150};

	make_world(1, 31);
	labels = labels_of(&world);
	serm_consensus_defaults(&options);
	full = fit(&labels, &options);
	for (size_t i = 0; i < ITEMS; i++)
		if (left[world.truth[i]]-- <= 0)
			world.gold[i] = SERM_LABEL_MISSING;
	untold = fit(&labels, &options);
	for (size_t i = 0; i < ITEMS; i++)
		weight[i] = share[world.truth[i]];
	options.gold_weight = weight;
	told = fit(&labels, &options);
	CHECK(fabs(told.cut[0] - full.cut[0]) < .5 * fabs(untold.cut[0] - full.cut[0]),
	    "weights by the shares of the grades put the cuts right: %.2f, not %.2f, for %.2f", told.cut[0],
	    untold.cut[0], full.cut[0]);
	CHECK_NEAR(told.judge[GOOD].gold_kappa, full.judge[GOOD].gold_kappa, .08, "and the kappas");
}

static bool
stop(void *context)
{
	return --*(int *) context >= 0;
}

static void
test_degenerate(void)
{
	int16_t one[] = {0, 1, 2, 3, 1, 0}, gold[] = {0, 1, 2, 3, -1, -1}, none[] = {-1, -1, -1, -1, -1, -1};
	int16_t constant[] = {2, 2, 2, 2, 2, 2};
	SermJudgeLabels labels = {GRADES, 1, 6, one, NULL, NULL};
	SermConsensusOptions options;
	SermConsensus consensus;
	bool as_said = true;
	int calls = 0;

	serm_consensus_defaults(&options);
	consensus = fit(&labels, &options);
	for (size_t i = 0; i < 6; i++)
		as_said = as_said && opinion_on(&consensus, &labels, i).grade == (uint32_t) one[i];
	CHECK(as_said && isnan(consensus.judge[0].agreement) && consensus.judge[0].weight == 1,
	    "one judge, no gold: as it says");
	CHECK_NEAR(consensus.judge[0].reliability, .3, 1e-12, "taken for an average one");
	labels.gold = gold;
	consensus = fit(&labels, &options);
	CHECK(consensus.gold_count == 4 && consensus.judge[0].gold_kappa == 1, "one judge, right four times");
	labels.label = constant;
	consensus = fit(&labels, &options);
	CHECK(consensus.cut[0] <= consensus.cut[1] && consensus.cut[1] <= consensus.cut[2] &&
	          opinion_on(&consensus, &labels, 0).answers == 1,
	    "a judge that never looks");
	labels.label = none;
	CHECK(serm_consensus_fit(&labels, &options, &arena, NULL, NULL, &consensus, &error) == SERM_ERR_NO_DATA,
	    "nobody said anything");
	labels.label = one;
	options.keep = 0;
	CHECK(serm_consensus_fit(&labels, &options, &arena, NULL, NULL, &consensus, &error) == SERM_ERR_INVALID,
	    "keeping nothing is refused");
	serm_consensus_defaults(&options);
	options.shrink = NAN;
	CHECK(serm_consensus_fit(&labels, &options, &arena, NULL, NULL, &consensus, &error) == SERM_ERR_INVALID,
	    "no number is refused");
	serm_consensus_defaults(&options);
	labels.judge_count = SERM_CONSENSUS_JUDGES_MAX + 1;
	CHECK(serm_consensus_fit(&labels, &options, &arena, NULL, NULL, &consensus, &error) == SERM_ERR_LIMIT,
	    "too many judges");
	make_world(.02, 37);
	labels = labels_of(&world);
	CHECK(
	    serm_consensus_fit(&labels, &options, &arena, stop, &calls, &consensus, &error) == SERM_ERR_CANCELED,
	    "canceled");
}

int
main(void)
{
	arena = unit_arena();
	test_planted();
	test_level();
	test_one_grade();
	test_invariance();
	test_ties();
	test_turned(SERM_CONSENSUS_WEIGHTED, false);
	test_turned(SERM_CONSENSUS_WEIGHTED, true);
	test_turned(SERM_CONSENSUS_POSTERIOR, false);
	test_turned(SERM_CONSENSUS_POSTERIOR, true);
	test_missing();
	test_targets();
	test_excellent();
	test_three();
	test_alike();
	test_correlation();
	test_abstention();
	test_posterior();
	test_drawn_gold();
	test_degenerate();
	serm_arena_free(&arena);
	DONE();
}
