#include "core/train/fit.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/train/adamw.h"
#include "core/train/continue.h"
#include "core/train/failure.h"
#include "core/train/loss.h"
#include "core/train/network.h"

/* Streams of one seed: a change in one use must not shift the draws of another. */
#define BOOTSTRAP_STREAM UINT64_C(0x626f6f74)
#define HEAD_STREAM UINT64_C(0x68656164)

/* Of the queries a head leaves out at most one in so many. */
#define PARTS_MIN 4

/* No document is left out of a curriculum altogether. */
#define CURRICULUM_FLOOR 1e-8

/* A list or a part of a long one, as positions in Fitter.member. */
typedef struct Piece {
	uint32_t start;
	uint32_t length;
	uint32_t judged; /* how many, at its front */
	uint32_t list;
} Piece;

typedef struct Head {
	SermRng rng;
	SermReal *parameters;
	SermReal *anchor; /* those of the parent, which stay; NULL without one */
	SermAdamW adamw;
	const uint8_t *seen; /* [list_count] how often it sees each list */
} Head;

typedef struct Fitter {
	const SermFitProblem *problem;
	const SermTrainOptions *options;
	const SermTrainHost *host;
	SermNetwork network;
	SermNetworkBatch batch;
	double progress; /* of training, in [0, 1] */
	uint32_t epoch;

	Head heads[SERM_HEADS_MAX];
	SermReal *gradient; /* of one head's parameters */
	SermReal *grade;    /* [example_count] expected grade of the target */
	Piece *pieces;
	uint32_t piece_count;
	uint32_t *order;      /* pieces of an epoch */
	uint32_t order_count; /* piece_count, unless the training is continued */
	uint32_t epoch_examples;
	SermMixture mixture; /* continued training */
	SermNetworkBatch anchor;
	const SermLoss *anchor_loss;
	uint32_t *member; /* [example_count] */

	/* One piece on its way through the losses, [SERM_LOSS_LIST_MAX][...]. */
	SermReal *target;
	SermReal *piece_grade;
	SermReal *weight;
	SermReal *taught_weight;
	SermReal *rank;
	SermReal *teacher;
	SermReal *teacher_score;
	SermReal *reference;
	SermReal *margin;
	SermReal *probability;
	SermReal *score;
	SermReal *d_score;
	SermReal *d_logits;
} Fitter;

static uint64_t
stream_seed(uint64_t seed, uint64_t stream, uint64_t number)
{
	return serm_hash_mix(serm_hash_mix(seed ^ serm_hash_mix(stream)) + number);
}

/*
 * Cross-validation committees (Parmanto, Munro and Doyle, NIPS 1995): the queries fall into as many parts as
 * there are heads, at least PARTS_MIN, and each head leaves one part out. Which part a query is of depends on
 * neither the order nor the number of queries.
 */
static void
leave_part_out(const SermFitProblem *problem, uint64_t seed, uint32_t heads, uint32_t head, uint8_t *counts)
{
	uint64_t stream = stream_seed(seed, BOOTSTRAP_STREAM, 0);
	uint32_t parts = heads > PARTS_MIN ? heads : PARTS_MIN;

	for (uint32_t list = 0; list < problem->list_count; list++)
		counts[list] = serm_hash_mix(problem->list_key[list] ^ stream) % parts != head;
}

/* Poisson(1) by query key and head. */
static void
draw_bootstrap(const SermFitProblem *problem, uint64_t seed, uint32_t head, uint8_t *counts)
{
	for (uint32_t list = 0; list < problem->list_count; list++) {
		SermRng rng;
		uint32_t count;

		serm_rng_seed(&rng, problem->list_key[list] ^ stream_seed(seed, BOOTSTRAP_STREAM, head));
		count = serm_rng_poisson(&rng, 1);
		counts[list] = (uint8_t) (count < UINT8_MAX ? count : UINT8_MAX);
	}
}

/* How often a head sees each list. */
static void
choose_lists(const SermFitProblem *problem, const SermTrainOptions *options, uint32_t head, uint8_t *counts)
{
	uint64_t total = 0;

	/* A temperature is measured on queries that half of the heads did not see. */
	if (options->calibrate)
		draw_bootstrap(problem, options->seed, head, counts);
	else
		leave_part_out(problem, options->seed, options->heads, head, counts);
	for (uint32_t list = 0; list < problem->list_count; list++)
		total += counts[list];
	/* With a handful of queries nothing may be left: it takes them all then. */
	if (total == 0)
		memset(counts, 1, problem->list_count);
}

static bool
allocate(Fitter *fitter, SermArena *arena)
{
	const SermFitProblem *problem = fitter->problem;
	size_t n = SERM_LOSS_LIST_MAX, grades = problem->grade_count, size = sizeof(SermReal);
	size_t parameters = serm_network_layout(&fitter->network).count;
	const struct {
		SermReal **array;
		size_t width;
	} scratch[] = {
	    {&fitter->target, grades},
	    {&fitter->piece_grade, 1},
	    {&fitter->weight, 1},
	    {&fitter->taught_weight, 1},
	    {&fitter->rank, 1},
	    {&fitter->teacher, grades},
	    {&fitter->teacher_score, 1},
	    {&fitter->reference, 1},
	    {&fitter->margin, 1},
	    {&fitter->probability, grades},
	    {&fitter->score, 1},
	    {&fitter->d_score, 1},
	    {&fitter->d_logits, grades},
	};

	for (uint32_t h = 0; h < fitter->options->heads; h++) {
		Head *head = &fitter->heads[h];

		head->parameters = serm_arena_array(arena, parameters, size);
		head->anchor = problem->parent != NULL ? serm_arena_array(arena, parameters, size) : NULL;
		if (head->parameters == NULL || (problem->parent != NULL && head->anchor == NULL) ||
		    !serm_adamw_init(&head->adamw, parameters, fitter->options->weight_decay, arena))
			return false;
	}
	fitter->gradient = serm_arena_array(arena, parameters, size);
	fitter->grade = serm_arena_array(arena, problem->example_count, size);
	fitter->pieces = serm_arena_array(
	    arena, problem->list_count + problem->example_count / SERM_LOSS_LIST_MAX, sizeof(Piece));
	fitter->order = serm_arena_array(arena,
	    problem->parent != NULL ? problem->example_count
	                            : problem->list_count + problem->example_count / SERM_LOSS_LIST_MAX,
	    sizeof(uint32_t));
	fitter->member = serm_arena_array(arena, problem->example_count, sizeof(uint32_t));
	if (fitter->gradient == NULL || fitter->grade == NULL || fitter->pieces == NULL ||
	    fitter->order == NULL || fitter->member == NULL)
		return false;
	for (size_t i = 0; i < SERM_LENGTH(scratch); i++) {
		*scratch[i].array = serm_arena_array(arena, n * scratch[i].width, size);
		if (*scratch[i].array == NULL)
			return false;
	}
	if (problem->parent != NULL && !serm_network_batch(&fitter->network,
	                                   fitter->options->batch + SERM_LOSS_LIST_MAX, arena, &fitter->anchor))
		return false;
	return serm_network_batch(
	    &fitter->network, fitter->options->batch + SERM_LOSS_LIST_MAX, arena, &fitter->batch);
}

/* One tensor of one head of the parent, into a flat vector. */
static void
take_over(const SermReal *tensor, uint32_t head, size_t start, size_t end, SermReal *parameters)
{
	memcpy(parameters + start, tensor + head * (end - start), (end - start) * sizeof(*parameters));
}

/* A head begins as the same head of the parent. */
static void
begin_with_parent(const Fitter *fitter, uint32_t h, Head *head)
{
	const SermHeads *parent = fitter->problem->parent;
	SermNetworkLayout at = serm_network_layout(&fitter->network);

	take_over(parent->w1, h, at.w1, at.b1, head->anchor);
	take_over(parent->b1, h, at.b1, at.w2, head->anchor);
	take_over(parent->w2, h, at.w2, at.b2, head->anchor);
	take_over(parent->b2, h, at.b2, at.w3, head->anchor);
	take_over(parent->w3, h, at.w3, at.b3, head->anchor);
	take_over(parent->b3, h, at.b3, at.count, head->anchor);
	memcpy(head->parameters, head->anchor, at.count * sizeof(*head->parameters));
}

/* The pieces by origin: a list is as new as the newest of its examples. */
static bool
prepare_mixture(Fitter *fitter, SermArena *arena)
{
	const SermFitProblem *problem = fitter->problem;
	uint8_t *origin = serm_arena_array(arena, fitter->piece_count, 1);
	uint32_t *length = serm_arena_array(arena, fitter->piece_count, sizeof(*length));

	if (origin == NULL || length == NULL)
		return false;
	for (uint32_t p = 0; p < fitter->piece_count; p++) {
		const Piece *piece = &fitter->pieces[p];

		length[p] = piece->length;
		origin[p] = SERM_ORIGIN_COUNT - 1;
		for (uint32_t i = problem->list_start[piece->list]; i < problem->list_start[piece->list + 1]; i++)
			origin[p] = problem->origin[i] < origin[p] ? problem->origin[i] : origin[p];
	}
	fitter->anchor_loss = serm_loss_find("kl");
	return serm_mixture_init(
	    &fitter->mixture, origin, length, fitter->piece_count, fitter->options->share, arena);
}

/* Bring the judged members of a piece to its front: losses depend on no order. */
static void
bring_judged(const Fitter *fitter, Piece *piece)
{
	const uint8_t *judged = fitter->problem->judged;
	uint32_t *member = fitter->member + piece->start;

	piece->judged = judged == NULL ? piece->length : 0;
	for (uint32_t i = 0; judged != NULL && i < piece->length; i++)
		if (judged[member[i]]) {
			uint32_t first = member[piece->judged];

			member[piece->judged++] = member[i];
			member[i] = first;
		}
}

static void
prepare(Fitter *fitter)
{
	const SermFitProblem *problem = fitter->problem;
	uint32_t grades = problem->grade_count;

	for (uint32_t i = 0; i < problem->example_count; i++) {
		fitter->member[i] = i;
		for (uint32_t y = 0; y < grades; y++)
			fitter->grade[i] += (SermReal) y * problem->target[(size_t) i * grades + y];
	}
	for (uint32_t list = 0; list < problem->list_count; list++)
		for (uint32_t at = problem->list_start[list]; at < problem->list_start[list + 1];) {
			uint32_t left = problem->list_start[list + 1] - at;
			uint32_t length = left < SERM_LOSS_LIST_MAX ? left : SERM_LOSS_LIST_MAX;

			fitter->pieces[fitter->piece_count] = (Piece){.start = at, .length = length, .list = list};
			bring_judged(fitter, &fitter->pieces[fitter->piece_count++]);
			at += length;
		}
	for (uint32_t h = 0; h < fitter->options->heads; h++) {
		Head *head = &fitter->heads[h];

		serm_rng_seed(&head->rng, stream_seed(fitter->options->seed, HEAD_STREAM, h));
		if (problem->parent != NULL)
			begin_with_parent(fitter, h, head);
		else
			serm_network_init(&fitter->network, &head->rng, head->parameters);
	}
	fitter->order_count = fitter->piece_count;
	fitter->epoch_examples = problem->example_count;
}

static uint32_t
list_length(const SermFitProblem *problem, uint32_t list)
{
	return problem->list_start[list + 1] - problem->list_start[list];
}

/* A new order of the pieces; documents change places inside lists that are cut. */
static void
shuffle(Fitter *fitter, Head *head)
{
	const SermFitProblem *problem = fitter->problem;

	for (uint32_t list = 0; list < problem->list_count; list++) {
		uint32_t start = problem->list_start[list], length = list_length(problem, list);

		if (length <= SERM_LOSS_LIST_MAX)
			continue;
		for (uint32_t i = 0; i < length; i++)
			fitter->member[start + i] = start + i;
		serm_rng_shuffle(&head->rng, fitter->member + start, length);
	}
	for (uint32_t p = 0; p < fitter->piece_count; p++)
		if (fitter->pieces[p].length < list_length(problem, fitter->pieces[p].list))
			bring_judged(fitter, &fitter->pieces[p]);
	if (problem->parent != NULL) {
		fitter->order_count = serm_mixture_draw(&fitter->mixture, &head->rng, fitter->order);
		fitter->epoch_examples = fitter->mixture.examples;
		return;
	}
	for (uint32_t i = 0; i < fitter->piece_count; i++)
		fitter->order[i] = i;
	serm_rng_shuffle(&head->rng, fitter->order, fitter->piece_count);
}

/* Does this loss learn from a teacher, in a training where others see the judged examples only? */
static bool
is_taught(const Fitter *fitter, const SermLossTerm *term)
{
	return fitter->problem->judged != NULL && (term->loss->needs & SERM_LOSS_TEACHER) != 0;
}

/* The loaded piece as this term sees it. */
static SermLossList
piece_list(const Fitter *fitter, const Piece *piece, const SermLossTerm *term, const SermReal *logits)
{
	const SermFitProblem *problem = fitter->problem;
	bool wide = term->loss->input == SERM_LOSS_LOGITS, taught = is_taught(fitter, term);
	SermLossList list = {.n = taught ? piece->length : piece->judged,
	    .width = wide ? problem->grade_count : 1,
	    .scores = wide ? logits : fitter->score,
	    .targets = wide ? fitter->target : fitter->piece_grade,
	    .weights = taught ? fitter->taught_weight : fitter->weight,
	    .progress = fitter->progress};

	if (problem->rank != NULL)
		list.rank = fitter->rank;
	if (problem->teacher != NULL)
		list.teacher = wide ? fitter->teacher : fitter->teacher_score;
	if (problem->reference != NULL)
		list.reference = fitter->reference;
	if (problem->margin.score != NULL && !taught) {
		list.margin = problem->margin;
		list.margin.score = fitter->margin;
	}
	return list;
}

/*
 * The objective of the loaded piece, whose logits start at `logits`: the sum of the terms, each times its
 * documents times `share`. Writes the derivative by the logits. Judged examples make up for those that are
 * not, so that both kinds of terms are means over what they see.
 */
static double
piece_loss(Fitter *fitter, const Piece *piece, const SermReal *logits, double share, SermReal *derivative)
{
	const SermFitProblem *problem = fitter->problem;
	uint32_t grades = problem->grade_count;
	double rare = problem->judged != NULL ? (double) problem->example_count / problem->judged_count : 1;
	double loss = 0;

	memset(derivative, 0, (size_t) piece->length * grades * sizeof(*derivative));
	serm_loss_expect(piece->length, grades, logits, fitter->probability, fitter->score);
	for (uint32_t t = 0; t < problem->term_count; t++) {
		const SermLossTerm *term = &problem->terms[t];
		bool wide = term->loss->input == SERM_LOSS_LOGITS;
		SermReal *gradient = wide ? fitter->d_logits : fitter->d_score;
		SermLossList list = piece_list(fitter, piece, term, logits);
		double scale = share * list.n * (is_taught(fitter, term) ? 1 : rare);
		SermReal factor = (SermReal) (term->coefficient * scale);

		if (list.n == 0)
			continue;
		loss += term->coefficient * scale * term->loss->function(&list, &term->parameters, gradient);
		if (wide)
			serm_axpy(factor, gradient, derivative, (size_t) list.n * grades);
		else
			serm_loss_expect_back(
			    list.n, grades, fitter->probability, fitter->score, factor, gradient, derivative);
	}
	return loss;
}

/*
 * Weights of a curriculum (MacAvaney et al., SIGIR 2020): easy documents first, all alike from epoch
 * `curriculum` on.
 */
static SermReal
curriculum_weight(const Fitter *fitter, uint32_t example)
{
	double share = (double) fitter->epoch / fitter->options->curriculum;

	return (SermReal) (fitter->problem->easiness[example] * (1 - share) + share + CURRICULUM_FLOOR);
}

/* Bring the members of a piece into the fields that the losses read. */
static void
load_piece(Fitter *fitter, const Piece *piece)
{
	const SermFitProblem *problem = fitter->problem;
	uint32_t grades = problem->grade_count;

	for (uint32_t i = 0; i < piece->length; i++) {
		uint32_t example = fitter->member[piece->start + i];

		memcpy(fitter->target + (size_t) i * grades, problem->target + (size_t) example * grades,
		    grades * sizeof(SermReal));
		fitter->piece_grade[i] = fitter->grade[example];
		fitter->weight[i] = problem->weight[example];
		if (problem->judged != NULL)
			fitter->taught_weight[i] = problem->teacher_weight[example];
		if (problem->easiness != NULL && fitter->epoch < fitter->options->curriculum)
			fitter->weight[i] *= curriculum_weight(fitter, example);
		if (problem->rank != NULL)
			fitter->rank[i] = problem->rank[example];
		if (problem->reference != NULL)
			fitter->reference[i] = problem->reference[example];
		if (problem->margin.score != NULL)
			fitter->margin[i] = problem->margin.score[example];
		fitter->teacher_score[i] = 0;
		for (uint32_t y = 0; problem->teacher != NULL && y < grades; y++) {
			SermReal p = problem->teacher[(size_t) example * grades + y];

			fitter->teacher[(size_t) i * grades + y] = p;
			fitter->teacher_score[i] += (SermReal) y * p;
		}
	}
}

/*
 * What holds a piece to the parent: KL of its distribution on the examples that are not new, times `scale`.
 * Adds to the derivative. Like every loss it counts as a mean over the piece, so new examples dilute it.
 */
static double
anchor_piece(Fitter *fitter, const Piece *piece, const SermReal *parent, const SermReal *logits, double scale,
    SermReal *derivative)
{
	const SermFitProblem *problem = fitter->problem;
	uint32_t grades = problem->grade_count;
	SermLossParameters parameters = serm_loss_parameters(fitter->anchor_loss, grades);
	SermLossList list = {.n = piece->length,
	    .width = grades,
	    .scores = logits,
	    .weights = fitter->weight,
	    .teacher = fitter->probability};
	double loss;

	serm_loss_expect(piece->length, grades, parent, fitter->probability, fitter->score);
	for (uint32_t i = 0; i < piece->length; i++)
		if (problem->origin[fitter->member[piece->start + i]] == SERM_ORIGIN_NEW)
			fitter->weight[i] = 0;
	loss = fitter->anchor_loss->function(&list, &parameters, fitter->d_logits);
	serm_axpy((SermReal) (fitter->options->anchor * scale), fitter->d_logits, derivative,
	    (size_t) piece->length * grades);
	return fitter->options->anchor * scale * loss;
}

/* logits[row][grade] += guard of the example * grade, for a piece. */
static void
add_guard(const Fitter *fitter, const Piece *piece, SermReal *logits)
{
	uint32_t grades = fitter->problem->grade_count;

	for (uint32_t i = 0; i < piece->length; i++)
		for (uint32_t y = 0; y < grades; y++)
			logits[(size_t) i * grades + y] +=
			    (SermReal) y * fitter->problem->guard[fitter->member[piece->start + i]];
}

/*
 * One step on the pieces order[0 .. pieces): `examples` of them in all, those
 * that the head leaves out included, so that every head takes the
 * same number of steps. Returns the summed loss.
 */
static double
run_batch(Fitter *fitter, Head *head, const uint32_t *order, uint32_t pieces, uint32_t examples, double rate)
{
	const SermFitProblem *problem = fitter->problem;
	uint32_t grades = problem->grade_count, inputs = problem->input_count, rows = 0;
	SermNetworkBatch *batch = &fitter->batch;
	bool anchored = head->anchor != NULL && fitter->options->anchor > 0;
	double loss = 0;

	for (uint32_t p = 0; p < pieces; p++) {
		const Piece *piece = &fitter->pieces[order[p]];

		for (uint32_t i = 0; head->seen[piece->list] > 0 && i < piece->length; i++, rows++)
			memcpy(batch->input + (size_t) rows * inputs,
			    problem->input + (size_t) fitter->member[piece->start + i] * inputs,
			    inputs * sizeof(SermReal));
	}
	if (rows == 0)
		return 0;
	serm_network_forward(
	    &fitter->network, head->parameters, rows, fitter->network.dropout > 0 ? &head->rng : NULL, batch);
	if (anchored) {
		memcpy(fitter->anchor.input, batch->input, (size_t) rows * inputs * sizeof(SermReal));
		serm_network_forward(&fitter->network, head->anchor, rows, NULL, &fitter->anchor);
	}
	rows = 0;
	for (uint32_t p = 0; p < pieces; p++) {
		const Piece *piece = &fitter->pieces[order[p]];
		size_t at = (size_t) rows * grades;
		double share = (double) head->seen[piece->list] / examples;

		if (head->seen[piece->list] == 0)
			continue;
		load_piece(fitter, piece);
		add_guard(fitter, piece, batch->logits + at);
		loss += piece_loss(fitter, piece, batch->logits + at, share, batch->d_logits + at);
		if (anchored) {
			add_guard(fitter, piece, fitter->anchor.logits + at);
			loss += anchor_piece(fitter, piece, fitter->anchor.logits + at, batch->logits + at,
			    share * piece->length, batch->d_logits + at);
		}
		rows += piece->length;
	}
	serm_network_backward(
	    &fitter->network, head->parameters, rows, fitter->network.dropout > 0, batch, fitter->gradient);
	serm_adamw_step(&head->adamw, rate, fitter->gradient, head->parameters);
	return loss * examples;
}

/* One epoch of one head; `loss` gets the mean over what the head sees. */
static SermStatus
run_epoch(Fitter *fitter, Head *head, uint32_t epoch, double *loss, SermError *error)
{
	const SermTrainOptions *options = fitter->options;
	uint32_t total, done = 0;
	double sum = 0, seen = 0;

	fitter->epoch = epoch;
	shuffle(fitter, head);
	total = fitter->epoch_examples;
	for (uint32_t at = 0, pieces; at < fitter->order_count; at += pieces) {
		double rate;
		uint32_t examples = 0;

		for (pieces = 0; at + pieces < fitter->order_count && examples < options->batch; pieces++) {
			const Piece *piece = &fitter->pieces[fitter->order[at + pieces]];

			examples += piece->length;
			seen += (double) head->seen[piece->list] * piece->length;
		}
		if (!fitter->host->keep_going(fitter->host->context))
			return serm_train_canceled(error);
		fitter->progress = (epoch + fmin((double) done / total, 1)) / options->epochs;
		rate = options->learning_rate * serm_adamw_schedule(head->adamw.step, fitter->progress);
		sum += run_batch(fitter, head, fitter->order + at, pieces, examples, rate);
		if (!isfinite(sum))
			return serm_fail(
			    error, SERM_ERR_DIVERGED, "training diverged in epoch %u: the loss is not finite", epoch + 1);
		done += examples;
	}
	*loss = seen > 0 ? sum / seen : 0;
	return SERM_OK;
}

static SermStatus
run_epochs(Fitter *fitter, double *loss, SermError *error)
{
	const SermTrainOptions *options = fitter->options;
	const SermTrainHost *host = fitter->host;
	double started = host->clock != NULL ? host->clock(host->context) : 0;

	for (uint32_t epoch = 0; epoch < options->epochs; epoch++) {
		double seconds;

		*loss = 0;
		for (uint32_t h = 0; h < options->heads; h++) {
			double one = 0;
			SermStatus status = run_epoch(fitter, &fitter->heads[h], epoch, &one, error);

			if (status != SERM_OK)
				return status;
			*loss += one / options->heads;
		}
		seconds = host->clock != NULL ? host->clock(host->context) - started : 0;
		if (host->progress != NULL)
			host->progress(
			    host->context, &(SermTrainProgress){"training", epoch + 1, options->epochs, *loss,
			                       seconds > 0 ? (epoch + 1.0) * fitter->epoch_examples / seconds : 0, 0});
	}
	return SERM_OK;
}

/* One tensor of all heads, out of each head's flat parameters. */
static SermReal *
collect(const Fitter *fitter, size_t start, size_t end, SermArena *arena)
{
	SermReal *tensor = serm_arena_array(arena, fitter->options->heads * (end - start), sizeof(*tensor));

	for (uint32_t h = 0; tensor != NULL && h < fitter->options->heads; h++)
		memcpy(
		    tensor + h * (end - start), fitter->heads[h].parameters + start, (end - start) * sizeof(*tensor));
	return tensor;
}

static SermStatus
finish(const Fitter *fitter, SermArena *arena, SermHeads *heads, SermError *error)
{
	SermNetworkLayout at = serm_network_layout(&fitter->network);

	for (uint32_t h = 0; h < fitter->options->heads; h++)
		for (size_t i = 0; i < at.count; i++)
			if (!isfinite(fitter->heads[h].parameters[i]))
				return serm_fail(error, SERM_ERR_DIVERGED, "training diverged: a weight is not finite");
	*heads = (SermHeads){.head_count = fitter->options->heads,
	    .input_count = fitter->problem->input_count,
	    .grade_count = fitter->problem->grade_count,
	    .w1 = collect(fitter, at.w1, at.b1, arena),
	    .b1 = collect(fitter, at.b1, at.w2, arena),
	    .w2 = collect(fitter, at.w2, at.b2, arena),
	    .b2 = collect(fitter, at.b2, at.w3, arena),
	    .w3 = collect(fitter, at.w3, at.b3, arena),
	    .b3 = collect(fitter, at.b3, at.count, arena)};
	if (heads->w1 == NULL || heads->b1 == NULL || heads->w2 == NULL || heads->b2 == NULL ||
	    heads->w3 == NULL || heads->b3 == NULL || !serm_heads_pack(heads, arena))
		return serm_train_out_of_memory(error);
	return SERM_OK;
}

SermStatus
serm_fit_heads(const SermFitProblem *problem, const SermTrainOptions *options, const SermTrainHost *host,
    SermArena *arena, SermFit *fit, SermError *error)
{
	Fitter fitter = {.problem = problem, .options = options, .host = host};
	SermStatus status;

	SERM_ASSERT(problem->example_count > 0 && problem->term_count > 0);
	SERM_ASSERT(options->heads > 0 && options->epochs > 0);
	fitter.network = (SermNetwork){problem->input_count, problem->grade_count, options->dropout,
	    host->gemm != NULL ? host->gemm : serm_gemm_builtin};
	fit->seen = serm_arena_array(arena, (size_t) options->heads * problem->list_count, 1);
	if (fit->seen == NULL || !allocate(&fitter, arena))
		return serm_train_out_of_memory(error);
	for (uint32_t h = 0; h < options->heads; h++) {
		uint8_t *counts = fit->seen + (size_t) h * problem->list_count;

		choose_lists(problem, options, h, counts);
		fitter.heads[h].seen = counts;
	}
	prepare(&fitter);
	if (problem->parent != NULL && !prepare_mixture(&fitter, arena))
		return serm_train_out_of_memory(error);
	status = run_epochs(&fitter, &fit->loss, error);
	return status == SERM_OK ? finish(&fitter, arena, &fit->heads, error) : status;
}
