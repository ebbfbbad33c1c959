#include "core/train/encoder_loss.h"

#include <math.h>
#include <string.h>

#include "core/train/distill.h"
#include "core/train/failure.h"

static SermStatus
read_terms(SermEncoderLoss *loss, const SermEncoderOptions *options, SermError *error)
{
	const SermEncoderSet *set = loss->set;
	uint32_t given =
	    (set->teacher != NULL ? SERM_LOSS_TEACHER : 0) | (set->reference != NULL ? SERM_LOSS_REFERENCE : 0);
	SermStatus status = serm_loss_parse(options->loss != NULL ? options->loss : "ce", set->grade_count,
	    loss->terms, &loss->term_count, error);

	if (status == SERM_OK)
		status = serm_loss_require(loss->terms, loss->term_count, given, error);
	if (status != SERM_OK || !set->distilled)
		return status;
	for (uint32_t i = 0; i < set->example_count; i++)
		loss->judged_count += !set->examples[i].unjudged;
	return serm_distill_mix(loss->terms, &loss->term_count, options->alpha, loss->judged_count > 0, error);
}

SermStatus
serm_encoder_loss_init(SermEncoderLoss *loss, const SermEncoderSet *set, uint32_t labels,
    const SermEncoderOptions *options, SermArena *arena, SermError *error)
{
	uint32_t list_max = options->list_max;
	SermStatus status;

	*loss = (SermEncoderLoss){.set = set, .labels = labels, .width = labels == 1 ? 2 : labels};
	status = read_terms(loss, options, error);
	if (status != SERM_OK)
		return status;
	loss->judged = serm_arena_array(arena, list_max, sizeof(uint32_t));
	loss->judged_place = serm_arena_array(arena, list_max, sizeof(uint32_t));
	if (loss->judged == NULL || loss->judged_place == NULL)
		return serm_train_out_of_memory(error);
	const struct {
		SermReal **array;
		size_t width;
	} scratch[] = {{&loss->target, loss->width}, {&loss->grade, 1}, {&loss->weight, 1}, {&loss->rank, 1},
	    {&loss->teacher, loss->width}, {&loss->teacher_score, 1}, {&loss->reference, 1},
	    {&loss->logits, loss->width}, {&loss->probability, loss->width}, {&loss->score, 1},
	    {&loss->d_score, 1}, {&loss->d_logits, loss->width}, {&loss->judged_logits, labels},
	    {&loss->judged_d_logits, labels}};
	for (size_t i = 0; i < SERM_LENGTH(scratch); i++) {
		*scratch[i].array = serm_arena_array(arena, list_max * scratch[i].width, sizeof(SermReal));
		if (*scratch[i].array == NULL)
			return serm_train_out_of_memory(error);
	}
	return SERM_OK;
}

/* The mean of a distribution over the grades; `out` gets it as the head's classes see it. */
static SermReal
read_distribution(const SermEncoderLoss *loss, const float *p, SermReal *out)
{
	uint32_t grades = loss->set->grade_count;
	double mean = 0;

	for (uint32_t y = 0; y < grades; y++)
		mean += (double) y * p[y];
	if (loss->labels == 1) {
		out[1] = (SermReal) (mean / (grades - 1));
		out[0] = 1 - out[1];
	} else
		for (uint32_t y = 0; y < grades; y++)
			out[y] = p[y];
	return (SermReal) mean;
}

static void
load(SermEncoderLoss *loss, const uint32_t *members, uint32_t n, bool taught)
{
	const SermEncoderSet *set = loss->set;

	for (uint32_t i = 0; i < n; i++) {
		const SermEncoderExample *example = &set->examples[members[i]];

		loss->grade[i] = read_distribution(loss, example->target, loss->target + i * loss->width);
		loss->weight[i] = taught ? example->teacher_weight : example->weight;
		if (set->rank != NULL)
			loss->rank[i] = set->rank[members[i]];
		if (set->reference != NULL)
			loss->reference[i] = set->reference[members[i]];
		if (set->teacher != NULL)
			loss->teacher_score[i] = read_distribution(
			    loss, set->teacher + (size_t) members[i] * set->grade_count, loss->teacher + i * loss->width);
	}
}

/* Probabilities and the score in grades of each document. */
static void
expect(SermEncoderLoss *loss, uint32_t n, const SermReal *logits)
{
	for (uint32_t i = 0; loss->labels == 1 && i < n; i++)
		loss->logits[2 * i] = 0, loss->logits[2 * i + 1] = logits[i];
	if (loss->labels > 1)
		memcpy(loss->logits, logits, (size_t) n * loss->width * sizeof(SermReal));
	serm_loss_expect(n, loss->width, loss->logits, loss->probability, loss->score);
	for (uint32_t i = 0; loss->labels == 1 && i < n; i++)
		loss->score[i] *= (SermReal) (loss->set->grade_count - 1);
}

static void
expect_back(const SermEncoderLoss *loss, uint32_t n, double factor, SermReal *d_logits)
{
	if (loss->labels > 1) {
		serm_loss_expect_back(
		    n, loss->width, loss->probability, loss->score, (SermReal) factor, loss->d_score, d_logits);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		SermReal p = loss->probability[2 * i + 1];

		d_logits[i] += (SermReal) (factor * (loss->set->grade_count - 1)) * p * (1 - p) * loss->d_score[i];
	}
}

/* Those of the losses that have or have not a teacher, in a distilled set; else all. Adds to d_logits. */
static double
add_terms(SermEncoderLoss *loss, const uint32_t *members, uint32_t n, const SermReal *logits, bool taught,
    double scale, SermReal *d_logits)
{
	const SermEncoderSet *set = loss->set;
	double sum = 0;

	load(loss, members, n, taught);
	expect(loss, n, logits);
	for (uint32_t t = 0; t < loss->term_count; t++) {
		const SermLossTerm *term = &loss->terms[t];
		bool wide = term->loss->input == SERM_LOSS_LOGITS;
		double factor = term->coefficient * scale;
		SermReal *derivative = wide ? loss->d_logits : loss->d_score;
		SermLossList list = {.n = n,
		    .width = wide ? loss->width : 1,
		    .scores = wide ? loss->logits : loss->score,
		    .targets = wide ? loss->target : loss->grade,
		    .weights = loss->weight,
		    .rank = set->rank == NULL ? NULL : loss->rank,
		    .reference = set->reference == NULL ? NULL : loss->reference,
		    .progress = loss->progress};

		if (set->distilled && ((term->loss->needs & SERM_LOSS_TEACHER) != 0) != taught)
			continue;
		if (set->teacher != NULL)
			list.teacher = wide ? loss->teacher : loss->teacher_score;
		sum += factor * term->loss->function(&list, &term->parameters, derivative);
		if (!wide)
			expect_back(loss, n, factor, d_logits);
		else if (loss->labels == 1)
			for (uint32_t i = 0; i < n; i++)
				d_logits[i] += (SermReal) factor * derivative[2 * i + 1];
		else
			serm_axpy((SermReal) factor, derivative, d_logits, (size_t) n * loss->labels);
	}
	return sum;
}

/* The losses of judgments of a distilled set: those of its judged members. */
static double
add_judged(SermEncoderLoss *loss, const uint32_t *members, uint32_t n, const SermReal *logits, double scale,
    SermReal *d_logits)
{
	size_t labels = loss->labels, row = labels * sizeof(SermReal);
	uint32_t judged = 0;
	double sum;

	for (uint32_t i = 0; i < n; i++) {
		if (loss->set->examples[members[i]].unjudged)
			continue;
		memcpy(loss->judged_logits + judged * labels, logits + i * labels, row);
		loss->judged_place[judged] = i;
		loss->judged[judged++] = members[i];
	}
	if (judged == 0)
		return 0;
	memset(loss->judged_d_logits, 0, judged * row);
	sum = add_terms(loss, loss->judged, judged, loss->judged_logits, false,
	    scale * judged / n * loss->set->example_count / loss->judged_count, loss->judged_d_logits);
	for (uint32_t i = 0; i < judged; i++)
		for (size_t y = 0; y < labels; y++)
			d_logits[loss->judged_place[i] * labels + y] += loss->judged_d_logits[i * labels + y];
	return sum;
}

double
serm_encoder_loss_list(SermEncoderLoss *loss, const uint32_t *members, uint32_t n, const SermReal *logits,
    double scale, SermReal *d_logits)
{
	double sum;

	memset(d_logits, 0, (size_t) n * loss->labels * sizeof(SermReal));
	sum = add_terms(loss, members, n, logits, loss->set->distilled, scale, d_logits);
	if (loss->set->distilled)
		sum += add_judged(loss, members, n, logits, scale, d_logits);
	return sum;
}
