/*
 * From graded pairs to a model: order, statistics, embeddings, features,
 * scales, heads, cut points, tensors. What is reported or stored about a
 * prediction comes from serm_heads_predict() over the quantised embeddings,
 * that is from the code that will serve the model.
 */
#include "core/train/train.h"

#include <math.h>
#include <string.h>

#include "core/model/interaction.h"
#include "core/train/check.h"
#include "core/train/continue.h"
#include "core/train/distill.h"
#include "core/train/failure.h"
#include "core/train/fit.h"
#include "core/train/foundation.h"
#include "core/train/order.h"
#include "core/train/scaling.h"
#include "core/train/support.h"
#include "core/train/temperature.h"
#include "core/train/weights.h"

#define SMALL_EXAMPLES 1000
#define SMALL_QUERIES 100
/* Half the full slope of the guard at this many queries; measured in doc/training.md. */
#define GUARD_QUERIES 50
#define GUARD_SLOPE 0.5
/* What the head of a list may weigh beside RankNet, where no document but a few deserves it. */
#define HEAD_COEFFICIENT 0.1
#define CONTINUED_EPOCHS 8
#define CONTINUED_BATCH 128
/* Of Margin-MSE beside the divergence from a teacher; measured in doc/distillation.md. */
#define TAUGHT_MARGINS 1

typedef struct Trainer {
	const SermTrainingSet *set;
	const SermTrainHost *host;
	SermTrainOptions options; /* resolved */
	SermArena *arena;
	SermExampleOrder order;
	SermFoundation base;
	double prior[SERM_GRADES_MAX]; /* share of each grade in the targets */

	bool continued;              /* the parent's parts stay, its heads are where ours begin */
	SermInteractionParts parent; /* without a temperature */

	/* In canonical order, like all that follows: [example_count], or of one list at a time when continued. */
	SermFeatures *features;
	float *s0;             /* [example_count], or NULL when nothing asks for it */
	uint8_t *origin;       /* [example_count] SermOrigin when continued */
	SermReal *input;       /* [example_count][SERM_FEATURES] */
	SermReal *guard_value; /* [example_count] */
	SermReal *share;       /* [example_count] what the heads' logits count by when they serve */
	SermReal *target;      /* [example_count][grade_count] */
	SermReal *weight;      /* [example_count] of the judgments */
	SermReal *product;     /* [example_count] weight times what the options ask for */
	SermReal *easiness;    /* [example_count], or NULL */
	SermReal *rank;        /* these as the set has them, in canonical order, or NULL */
	SermReal *teacher;
	SermReal *reference;
	uint8_t *judged;          /* [example_count], or NULL: all are */
	SermReal *teacher_weight; /* [example_count] of mean 1 */
	uint32_t judged_count;
	SermLossMargin margin;
	double head_coefficient; /* of the loss that looks at the head of a list */
	SermLossTerm terms[SERM_LOSS_TERMS_MAX];
	uint32_t term_count;
	SermFit fit;
	SermTemperature temperature;

	float *scale_mean;    /* [SERM_FEATURES] */
	float *scale_inverse; /* [SERM_FEATURES] */
	SermReal *cuts;       /* [grade_count - 1] */
	SermGuard *guard;
} Trainer;

void
serm_train_defaults(SermTrainOptions *options)
{
	*options = (SermTrainOptions){.heads = 4,
	    .pretrain_epochs = SERM_PRETRAIN_EPOCHS_AUTO,
	    .learning_rate = 0.002,
	    .weight_decay = 1e-5,
	    .dropout = 0.1,
	    .pairwise = -1,
	    .guard = -1,
	    .propensity_clip = 0.1,
	    .share = {1, 1, 1},
	    .anchor = 0.3,
	    .alpha = 0.5,
	    .temperature = 1};
}

static void
report_phase(const Trainer *trainer, const char *phase, uint32_t step, uint32_t steps)
{
	if (trainer->host->progress != NULL)
		trainer->host->progress(
		    trainer->host->context, &(SermTrainProgress){.phase = phase, .step = step, .steps = steps});
}

/* Fill in what depends on the amount of data. */
static void
resolve_options(Trainer *trainer)
{
	SermTrainOptions *options = &trainer->options;
	uint32_t examples = trainer->order.example_count, queries = trainer->order.list_count;

	if (trainer->continued) {
		options->heads = trainer->parent.heads.head_count;
		options->epochs = options->epochs == 0 ? CONTINUED_EPOCHS : options->epochs;
		options->batch = options->batch == 0 ? CONTINUED_BATCH : options->batch;
	}
	if (options->epochs == 0)
		options->epochs = examples < SMALL_EXAMPLES ? 40 : 20;
	if (options->batch == 0)
		options->batch = examples < SMALL_EXAMPLES ? 64 : 256;
	if (options->pairwise < 0) {
		options->pairwise = queries < SMALL_QUERIES ? 1.0 : 0.3;
		trainer->head_coefficient = HEAD_COEFFICIENT * fmax(0, 2 * trainer->prior[0] - 1);
	}
	if (options->guard < 0)
		options->guard = GUARD_SLOPE * GUARD_QUERIES / (GUARD_QUERIES + (double) queries);
}

static void
add_term(Trainer *trainer, const char *name, double coefficient)
{
	const SermLoss *loss = serm_loss_find(name);

	trainer->terms[trainer->term_count++] =
	    (SermLossTerm){loss, coefficient, serm_loss_parameters(loss, trainer->set->grade_count)};
}

/* Unless the options name a loss. */
static void
choose_default_loss(Trainer *trainer)
{
	add_term(trainer, "ce", 1);
	if (trainer->options.pairwise > 0)
		add_term(trainer, "ranknet", trainer->options.pairwise);
	if (trainer->set->judged == NULL) {
		if (trainer->head_coefficient > 0)
			add_term(trainer, "lambda_ndcg", trainer->head_coefficient);
		return;
	}
	add_term(trainer, "kl", 1);
	trainer->terms[trainer->term_count - 1].parameters.temperature = trainer->options.temperature;
	add_term(trainer, "margin_mse", TAUGHT_MARGINS);
}

/*
 * What the heads minimise, once `pairwise` is known. Losses of scores leave the scale of the logits open, so
 * without one of logits a temperature is always looked for.
 */
static SermStatus
choose_loss(Trainer *trainer, SermError *error)
{
	SermTrainOptions *options = &trainer->options;
	uint32_t given = (trainer->set->teacher != NULL ? SERM_LOSS_TEACHER : 0) |
	                 (trainer->set->reference != NULL ? SERM_LOSS_REFERENCE : 0);
	SermStatus status = SERM_OK;
	bool likely = false;

	if (options->loss == NULL)
		choose_default_loss(trainer);
	else
		status = serm_loss_parse(
		    options->loss, trainer->set->grade_count, trainer->terms, &trainer->term_count, error);
	if (status == SERM_OK)
		status = serm_loss_require(trainer->terms, trainer->term_count, given, error);
	if (status == SERM_OK && trainer->set->judged != NULL)
		status = serm_distill_mix(
		    trainer->terms, &trainer->term_count, options->alpha, trainer->judged_count > 0, error);
	for (uint32_t t = 0; t < trainer->term_count; t++)
		likely |= trainer->terms[t].loss->input == SERM_LOSS_LOGITS;
	options->calibrate |= !likely;
	return status;
}

/* Everything that stays, and what is as large as the examples, before any scratch. */
static SermStatus
allocate(Trainer *trainer, SermError *error)
{
	size_t n = trainer->set->example_count, grades = trainer->set->grade_count, size = sizeof(SermReal);
	SermArena *arena = trainer->arena;

	trainer->scale_mean = serm_arena_array(arena, SERM_FEATURES, sizeof(float));
	trainer->scale_inverse = serm_arena_array(arena, SERM_FEATURES, sizeof(float));
	trainer->cuts = serm_arena_array(arena, grades - 1, size);
	trainer->guard = serm_arena_alloc(arena, sizeof(*trainer->guard));
	if (trainer->options.curriculum > 0 || trainer->options.margin_cap > 0) {
		trainer->s0 = serm_arena_array(arena, n, sizeof(float));
		if (trainer->s0 == NULL)
			return serm_train_out_of_memory(error);
	}
	trainer->input = serm_arena_array(arena, n * SERM_FEATURES, size);
	trainer->guard_value = serm_arena_array(arena, n, size);
	trainer->share = serm_arena_array(arena, n, size);
	trainer->target = serm_arena_array(arena, n * grades, size);
	trainer->weight = serm_arena_array(arena, n, size);
	if (trainer->scale_mean == NULL || trainer->scale_inverse == NULL || trainer->cuts == NULL ||
	    trainer->guard == NULL || trainer->input == NULL || trainer->guard_value == NULL ||
	    trainer->share == NULL || trainer->target == NULL || trainer->weight == NULL)
		return serm_train_out_of_memory(error);
	return SERM_OK;
}

/* Which examples are judged, and what they count for the teacher. */
static SermStatus
load_judged(Trainer *trainer, SermError *error)
{
	const SermTrainingSet *set = trainer->set;
	uint32_t n = trainer->order.example_count;
	double total = 0;

	trainer->judged_count = n;
	if (set->judged == NULL)
		return SERM_OK;
	trainer->judged = serm_arena_array(trainer->arena, n, 1);
	trainer->teacher_weight = serm_arena_array(trainer->arena, n, sizeof(SermReal));
	if (trainer->judged == NULL || trainer->teacher_weight == NULL)
		return serm_train_out_of_memory(error);
	trainer->judged_count = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = trainer->order.example[i];

		trainer->judged[i] = set->judged[at];
		trainer->judged_count += set->judged[at];
		trainer->teacher_weight[i] = set->teacher_weight != NULL ? set->teacher_weight[at] : 1;
		total += trainer->teacher_weight[i];
	}
	if (!(total > 0))
		return serm_fail(error, SERM_ERR_NO_DATA, "the teacher said nothing of any example");
	for (uint32_t i = 0; i < n; i++)
		trainer->teacher_weight[i] = (SermReal) (trainer->teacher_weight[i] / (total / n));
	return SERM_OK;
}

/* Does the target of an example count? Without any judgment the teacher's do. */
static bool
has_say(const Trainer *trainer, uint32_t i)
{
	return trainer->judged == NULL || trainer->judged_count == 0 || trainer->judged[i];
}

/* Targets that sum to 1 exactly, weights of mean 1 over those that count, and the prior of the grades. */
static void
load_targets(Trainer *trainer)
{
	uint32_t n = trainer->order.example_count, grades = trainer->set->grade_count;
	uint32_t counted = trainer->judged_count > 0 ? trainer->judged_count : n;
	double total = 0;

	for (uint32_t i = 0; i < n; i++)
		if (has_say(trainer, i))
			total += trainer->set->examples[trainer->order.example[i]].weight;
	for (uint32_t i = 0; i < n; i++) {
		const SermExample *example = &trainer->set->examples[trainer->order.example[i]];
		double weight = has_say(trainer, i) ? example->weight : 0, sum = 0;

		for (uint32_t y = 0; y < grades; y++)
			sum += example->target[y];
		trainer->weight[i] = (SermReal) (weight / (total / counted));
		for (uint32_t y = 0; y < grades; y++) {
			double share = example->target[y] / sum;

			trainer->target[(size_t) i * grades + y] = (SermReal) share;
			trainer->prior[y] += weight * share / total;
		}
	}
}

/* The documents of the examples in canonical order; NULL when the arena refuses. */
static SermText *
judged_documents(const Trainer *trainer)
{
	SermText *docs = serm_arena_array(trainer->arena, trainer->order.example_count, sizeof(*docs));

	for (uint32_t i = 0; docs != NULL && i < trainer->order.example_count; i++)
		docs[i] = trainer->set->examples[trainer->order.example[i]].doc;
	return docs;
}

/* Words are counted in the corpus and embeddings learned from it; without one, the examples' own documents.
 */
static SermStatus
lay_foundation(Trainer *trainer, SermError *error)
{
	const SermText *docs = trainer->set->corpus;
	size_t count = trainer->set->corpus_count;

	if (count == 0) {
		docs = judged_documents(trainer);
		if (docs == NULL)
			return serm_train_out_of_memory(error);
		count = trainer->order.example_count;
	}
	return serm_foundation_lay(docs, count, trainer->options.seed, trainer->options.pretrain_epochs,
	    trainer->host, trainer->arena, &trainer->base, error);
}

/*
 * What the judgments say something of. A continued version keeps what its parent was taught; one that was
 * trained before this was known stays without it.
 */
static SermStatus
learn_support(Trainer *trainer, SermError *error)
{
	SermStatistics *statistics = &trainer->base.statistics;
	const uint8_t *known = trainer->continued ? trainer->parent.statistics.word_support : NULL;
	uint8_t *support = serm_arena_array(trainer->arena, statistics->word_count, 1);
	SermArenaMark mark = serm_arena_mark(trainer->arena);
	SermText *docs, *judged;
	size_t count;
	SermStatus status;

	if (trainer->continued && known == NULL)
		return SERM_OK;
	docs = judged_documents(trainer);
	if (support == NULL || docs == NULL)
		return serm_train_out_of_memory(error);
	status = serm_order_documents(
	    docs, trainer->order.example_count, trainer->host, trainer->arena, &judged, &count, error);
	if (status == SERM_OK)
		status = serm_support_learn(statistics, judged, count, known != NULL ? judged : trainer->base.corpus,
		    known != NULL ? count : trainer->base.corpus_count, trainer->host, trainer->arena, support,
		    error);
	serm_arena_rewind(trainer->arena, mark);
	for (uint32_t w = 0; status == SERM_OK && known != NULL && w < statistics->word_count; w++)
		support[w] = support[w] > known[w] ? support[w] : known[w];
	statistics->word_support = support;
	return status;
}

/* Room for the features: of all examples where their scale is to be found, else of the longest list. */
static SermStatus
allocate_features(Trainer *trainer, SermError *error)
{
	const SermExampleOrder *order = &trainer->order;
	uint32_t most = trainer->continued ? 0 : order->example_count;

	for (uint32_t list = 0; trainer->continued && list < order->list_count; list++)
		if (order->list_start[list + 1] - order->list_start[list] > most)
			most = order->list_start[list + 1] - order->list_start[list];
	trainer->features = serm_arena_array(trainer->arena, most, sizeof(*trainer->features));
	return trainer->features != NULL ? SERM_OK : serm_train_out_of_memory(error);
}

/* A copy of `count` numbers; NULL when the arena refuses. */
static const uint32_t *
copy_numbers(const uint32_t *numbers, uint32_t count, SermArena *arena)
{
	uint32_t *copy = serm_arena_array(arena, count, sizeof(*copy));

	if (copy != NULL && count > 0)
		memcpy(copy, numbers, count * sizeof(*copy));
	return copy;
}

static const SermScriptStatistics *
copy_scripts(const SermScriptStatistics *scripts, SermArena *arena)
{
	SermScriptStatistics *copy;

	if (scripts == NULL)
		return NULL;
	copy = serm_arena_array(arena, SERM_SCRIPTS, sizeof(*copy));
	if (copy != NULL)
		memcpy(copy, scripts, SERM_SCRIPTS * sizeof(*copy));
	return copy;
}

/* What a continued version has in common with its parent, as a copy: the parent need not stay open. */
static SermStatus
take_over(Trainer *trainer, SermError *error)
{
	const SermInteractionParts *parent = &trainer->parent;
	const SermStatistics *known = &parent->statistics;
	SermArena *arena = trainer->arena;
	SermFoundation *base = &trainer->base;
	SermStatistics *own = &base->statistics;

	if (!serm_foundation_allocate(base, arena))
		return serm_train_out_of_memory(error);
	*own = *known;
	own->word_id = copy_numbers(known->word_id, known->word_count, arena);
	own->word_df = copy_numbers(known->word_df, known->word_count, arena);
	if (known->word_kin != NULL) {
		own->word_kin = copy_numbers(known->word_kin, known->word_count, arena);
		own->kin_df = copy_numbers(known->kin_df, known->word_count, arena);
	}
	own->trigram_id = copy_numbers(known->trigram_id, known->trigram_count, arena);
	own->trigram_df = copy_numbers(known->trigram_df, known->trigram_count, arena);
	own->scripts = copy_scripts(known->scripts, arena);
	trainer->origin = serm_arena_array(arena, trainer->order.example_count, 1);
	if (own->word_id == NULL || own->word_df == NULL || own->trigram_id == NULL || own->trigram_df == NULL ||
	    (known->scripts != NULL && own->scripts == NULL) ||
	    (known->word_kin != NULL && (own->word_kin == NULL || own->kin_df == NULL)) ||
	    trainer->origin == NULL)
		return serm_train_out_of_memory(error);
	memcpy(base->embedding_rows, parent->embedding.rows, (size_t) SERM_EMBEDDING_ROWS * SERM_EMBEDDING_WIDTH);
	memcpy(base->embedding_scale, parent->embedding.scale, SERM_EMBEDDING_ROWS * sizeof(float));
	memcpy(trainer->scale_mean, parent->mean, SERM_FEATURES * sizeof(float));
	memcpy(trainer->scale_inverse, parent->inverse, SERM_FEATURES * sizeof(float));
	*trainer->guard = parent->guard;
	for (uint32_t i = 0; i < trainer->order.example_count; i++)
		trainer->origin[i] =
		    trainer->set->origin != NULL ? trainer->set->origin[trainer->order.example[i]] : SERM_ORIGIN_NEW;
	return SERM_OK;
}

static SermStatus
compute_list(Trainer *trainer, const SermEmbedding *embedding, uint32_t list, SermError *error)
{
	const SermExampleOrder *order = &trainer->order;
	const SermTrainingSet *set = trainer->set;
	const SermExample *first = &set->examples[order->example[order->list_start[list]]];
	SermArenaMark mark = serm_arena_mark(trainer->arena);
	SermParsedQuery *query;
	SermStatus status = serm_features_parse_query(
	    &trainer->base.statistics, embedding, set->queries[first->query], trainer->arena, &query, error);
	SermFeatures *features = trainer->features + (trainer->continued ? 0 : order->list_start[list]);

	for (uint32_t i = order->list_start[list]; status == SERM_OK && i < order->list_start[list + 1]; i++) {
		if (i % 64 == 0 && !trainer->host->keep_going(trainer->host->context))
			return serm_train_canceled(error);
		status = serm_features_compute(&trainer->base.statistics, embedding, query,
		    set->examples[order->example[i]].doc, trainer->arena, features++, error);
	}
	serm_arena_rewind(trainer->arena, mark);
	return status;
}

/* From the features of a list to what the heads are given. */
static void
scale_list(Trainer *trainer, uint32_t list)
{
	uint32_t first = trainer->order.list_start[list];
	const SermFeatures *features = trainer->features + (trainer->continued ? 0 : first);

	for (uint32_t i = first; i < trainer->order.list_start[list + 1]; i++, features++) {
		serm_interaction_input(trainer->scale_mean, trainer->scale_inverse, features,
		    trainer->input + (size_t) i * SERM_FEATURES);
		trainer->guard_value[i] = serm_interaction_guard(trainer->guard, features);
		trainer->share[i] = features->support;
		if (trainer->s0 != NULL)
			trainer->s0[i] = serm_interaction_s0(trainer->guard, features);
	}
}

static SermStatus
compute_inputs(Trainer *trainer, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(trainer->arena);
	SermEmbedding embedding = {
	    trainer->base.embedding_rows, trainer->base.embedding_scale, serm_word_cache_create(trainer->arena)};
	uint32_t n = trainer->order.example_count;
	SermStatus status = SERM_OK;

	for (uint32_t list = 0; list < trainer->order.list_count; list++) {
		status = compute_list(trainer, &embedding, list, error);
		if (status != SERM_OK)
			return status;
		if (trainer->continued)
			scale_list(trainer, list);
	}
	serm_arena_rewind(trainer->arena, mark);
	if (trainer->continued)
		return SERM_OK;
	status = serm_scaling_fit(
	    trainer->features, n, trainer->host, trainer->scale_mean, trainer->scale_inverse, error);
	if (status != SERM_OK)
		return status;
	serm_scaling_guard(trainer->features, n, trainer->base.statistics.document_count, trainer->options.guard,
	    trainer->guard);
	for (uint32_t list = 0; list < trainer->order.list_count; list++)
		scale_list(trainer, list);
	return SERM_OK;
}

/* An optional array of the set, `width` per example, in canonical order; NULL when the set has none. */
static SermStatus
gather(const Trainer *trainer, const float *values, uint32_t width, SermReal **ordered, SermError *error)
{
	const SermExampleOrder *order = &trainer->order;

	*ordered = NULL;
	if (values == NULL)
		return SERM_OK;
	*ordered = serm_arena_array(trainer->arena, (size_t) order->example_count * width, sizeof(**ordered));
	if (*ordered == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t i = 0; i < order->example_count; i++)
		for (uint32_t k = 0; k < width; k++)
			(*ordered)[(size_t) i * width + k] = values[(size_t) order->example[i] * width + k];
	return SERM_OK;
}

/* The curriculum and the margins, both of which may need s0. */
static SermStatus
weigh_by_first_stage(Trainer *trainer, const SermWeighting *weighting, SermError *error)
{
	uint32_t n = trainer->order.example_count;
	SermReal *score = serm_arena_array(trainer->arena, n, sizeof(*score));

	if (score == NULL)
		return serm_train_out_of_memory(error);
	for (uint32_t i = 0; i < n; i++)
		score[i] = trainer->reference != NULL ? trainer->reference[i] : trainer->s0[i];
	if (trainer->options.curriculum > 0) {
		trainer->easiness = serm_arena_array(trainer->arena, n, sizeof(SermReal));
		if (trainer->easiness == NULL)
			return serm_train_out_of_memory(error);
		serm_weights_easiness(weighting, trainer->s0, trainer->easiness);
	}
	if (trainer->options.margin_cap > 0)
		return serm_weights_margin(weighting, score, trainer->host, trainer->arena, &trainer->margin, error);
	return SERM_OK;
}

static SermStatus
weigh_examples(Trainer *trainer, SermError *error)
{
	const SermTrainingSet *set = trainer->set;
	SermWeighting weighting = {set, &trainer->options, &trainer->order, trainer->target, trainer->weight};
	SermStatus status = gather(trainer, set->rank, 1, &trainer->rank, error);

	if (status == SERM_OK)
		status = gather(trainer, set->teacher, set->grade_count, &trainer->teacher, error);
	if (status == SERM_OK)
		status = gather(trainer, set->reference, 1, &trainer->reference, error);
	trainer->product = trainer->weight;
	if (status == SERM_OK && serm_weights_wanted(set, &trainer->options)) {
		trainer->product = serm_arena_array(trainer->arena, trainer->order.example_count, sizeof(SermReal));
		if (trainer->product == NULL)
			return serm_train_out_of_memory(error);
		status = serm_weights_multiply(&weighting, trainer->host, trainer->arena, trainer->product, error);
	}
	if (status == SERM_OK && (trainer->options.curriculum > 0 || trainer->options.margin_cap > 0))
		status = weigh_by_first_stage(trainer, &weighting, error);
	return status;
}

static SermStatus
fit_heads(Trainer *trainer, SermError *error)
{
	const SermExampleOrder *order = &trainer->order;
	SermFitProblem problem = {.input_count = SERM_FEATURES,
	    .grade_count = trainer->set->grade_count,
	    .example_count = order->example_count,
	    .list_count = order->list_count,
	    .input = trainer->input,
	    .guard = trainer->guard_value,
	    .target = trainer->target,
	    .weight = trainer->product,
	    .easiness = trainer->easiness,
	    .rank = trainer->rank,
	    .teacher = trainer->teacher,
	    .reference = trainer->reference,
	    .judged = trainer->judged,
	    .teacher_weight = trainer->teacher_weight,
	    .judged_count = trainer->judged_count,
	    .margin = trainer->margin,
	    .list_start = order->list_start,
	    .list_key = order->list_key,
	    .terms = trainer->terms,
	    .term_count = trainer->term_count,
	    .parent = trainer->continued ? &trainer->parent.heads : NULL,
	    .origin = trainer->origin};
	SermStatus status =
	    serm_fit_heads(&problem, &trainer->options, trainer->host, trainer->arena, &trainer->fit, error);

	trainer->temperature = (SermTemperature){.value = 1};
	if (status == SERM_OK && trainer->options.calibrate)
		status = serm_temperature_fit(&problem, trainer->weight, &trainer->fit, trainer->host, trainer->arena,
		    &trainer->temperature, error);
	if (trainer->temperature.value != 1)
		trainer->fit.heads.temperature = trainer->temperature.value;
	return status;
}

typedef struct Scores {
	const float *value;
} Scores;

static int
compare_scores(const void *items, uint32_t a, uint32_t b)
{
	const float *value = ((const Scores *) items)->value;

	return value[a] < value[b] ? -1 : value[a] > value[b];
}

/* f of each example from the heads that did not see its query, or from all where every head did. */
static SermStatus
score_examples(const Trainer *trainer, float *score, SermError *error)
{
	const SermExampleOrder *order = &trainer->order;
	SermPrediction prediction;

	for (uint32_t list = 0; list < order->list_count; list++)
		for (uint32_t i = order->list_start[list]; i < order->list_start[list + 1]; i++) {
			float sum = 0;
			uint32_t unseen = 0;

			if (i % 1024 == 0 && !trainer->host->keep_going(trainer->host->context))
				return serm_train_canceled(error);
			serm_heads_predict_rows(&trainer->fit.heads, 1, trainer->input + (size_t) i * SERM_FEATURES,
			    &trainer->guard_value[i], &trainer->share[i], &prediction);
			for (uint32_t h = 0; h < trainer->options.heads; h++)
				if (trainer->fit.seen[(size_t) h * order->list_count + list] == 0) {
					sum += prediction.head_score[h];
					unseen++;
				}
			score[i] = unseen > 0 ? sum / (float) unseen : prediction.score;
			if (!isfinite(score[i]))
				return serm_fail(error, SERM_ERR_DIVERGED, "training diverged: a score is not finite");
		}
	return SERM_OK;
}

static SermStatus
find_cuts(Trainer *trainer, SermError *error)
{
	SermArenaMark mark = serm_arena_mark(trainer->arena);
	uint32_t n = trainer->order.example_count;
	Scores scores;
	float *score = serm_arena_array(trainer->arena, n, sizeof(*score));
	uint32_t *ascending = serm_arena_array(trainer->arena, n, sizeof(*ascending));
	uint32_t *scratch = serm_arena_array(trainer->arena, n, sizeof(*scratch));
	SermStatus status;

	if (score == NULL || ascending == NULL || scratch == NULL)
		return serm_train_out_of_memory(error);
	status = score_examples(trainer, score, error);
	for (uint32_t i = 0; i < n; i++)
		ascending[i] = i;
	scores.value = score;
	if (status == SERM_OK)
		status = serm_order_sort(ascending, scratch, n, compare_scores, &scores, trainer->host, error);
	if (status == SERM_OK)
		serm_scaling_cuts(
		    score, trainer->weight, ascending, n, trainer->prior, trainer->set->grade_count, trainer->cuts);
	serm_arena_rewind(trainer->arena, mark);
	return status;
}

static SermStatus
write_tensors(Trainer *trainer, SermTensorSet *tensors, SermError *error)
{
	SermInteractionParts parts = {.statistics = trainer->base.statistics,
	    .embedding = {trainer->base.embedding_rows, trainer->base.embedding_scale, NULL},
	    .heads = trainer->fit.heads,
	    .guard = *trainer->guard,
	    .mean = trainer->scale_mean,
	    .inverse = trainer->scale_inverse};

	parts.heads.cuts = trainer->cuts;
	return serm_interaction_write(&parts, trainer->arena, tensors, error);
}

static SermStatus
prepare(Trainer *trainer, SermError *error)
{
	SermStatus status = allocate(trainer, error);

	if (status == SERM_OK)
		status = serm_order_examples(trainer->set, trainer->host, trainer->arena, &trainer->order, error);
	if (status != SERM_OK)
		return status;
	status = load_judged(trainer, error);
	if (status != SERM_OK)
		return status;
	load_targets(trainer);
	resolve_options(trainer);
	status = choose_loss(trainer, error);
	if (status != SERM_OK)
		return status;
	status = allocate_features(trainer, error);
	if (status != SERM_OK)
		return status;
	status = trainer->continued ? take_over(trainer, error) : lay_foundation(trainer, error);
	return status == SERM_OK ? learn_support(trainer, error) : status;
}

SermStatus
serm_train_interaction(const SermTrainingSet *set, const SermTrainOptions *options, const SermTrainHost *host,
    SermArena *arena, SermTensorSet *tensors, SermTrainReport *report, SermError *error)
{
	Trainer trainer = {.set = set, .host = host, .options = *options, .arena = arena};
	double started = host->clock != NULL ? host->clock(host->context) : 0;
	SermStatus status = serm_train_check_options(options, error);

	if (status == SERM_OK)
		status = serm_train_check_set(set, host, error);
	trainer.continued = set->parent != NULL;
	if (status == SERM_OK && trainer.continued)
		status = serm_continue_open(set->parent, arena, &trainer.parent, error);
	if (status == SERM_OK)
		status = prepare(&trainer, error);
	if (status == SERM_OK)
		status = compute_inputs(&trainer, error);
	if (status == SERM_OK) {
		report_phase(&trainer, "features", 1, 1);
		status = weigh_examples(&trainer, error);
	}
	if (status == SERM_OK)
		status = fit_heads(&trainer, error);
	if (status == SERM_OK)
		status = find_cuts(&trainer, error);
	if (status == SERM_OK)
		status = write_tensors(&trainer, tensors, error);
	if (status == SERM_OK)
		*report = (SermTrainReport){.loss = trainer.fit.loss,
		    .seconds = host->clock != NULL ? host->clock(host->context) - started : 0,
		    .example_count = trainer.order.example_count,
		    .query_count = trainer.order.list_count,
		    .corpus_count = trainer.base.corpus_count,
		    .epochs = trainer.options.epochs,
		    .temperature = trainer.temperature.value,
		    .temperature_gain = trainer.temperature.gain};
	return status;
}
