#include "core/train/encoder_fit.h"

#include <math.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/rng.h"
#include "core/base/watch.h"
#include "core/train/encoder_back.h"
#include "core/train/encoder_loss.h"
#include "core/train/encoder_update.h"
#include "core/train/failure.h"

/* Streams of one seed. */
#define ORDER_STREAM UINT64_C(0x6f72646572)
#define DROPOUT_STREAM UINT64_C(0x64726f70)

/* A list or a part of a long one, as positions in Fitter.member. */
typedef struct Piece {
	uint32_t start, length;
} Piece;

typedef struct Fitter {
	const SermEncoderConfig *config;
	const SermEncoderSet *set;
	const SermEncoderOptions *options;
	const SermEncoderFitHost *host;
	SermEncoderHost go_on;
	SermEncoderState *state;
	SermEncoder *encoder;
	void *packed;
	SermEncoderBack back;
	SermEncoderLoss loss;
	uint32_t *list_start; /* [query_count + 1] */
	uint32_t *member;     /* [example_count] examples by query */
	uint32_t *sorted;     /* [example_count] the same before any shuffle */
	Piece *pieces;        /* [example_count] */
	uint32_t *order;      /* [example_count] */
	uint32_t piece_count;
	SermEncoderInput *inputs;       /* [group] */
	const SermEncoderInput **group; /* [group] */
	uint32_t *group_member;         /* [group] */
	uint32_t group_max;
	SermArena *arena; /* what stands behind its mark is scratch of a group */
} Fitter;

void
serm_encoder_options_defaults(SermEncoderOptions *options)
{
	*options = (SermEncoderOptions){.epochs = 3,
	    .batch = 32,
	    .list_max = 16,
	    .learning_rate = 2e-5,
	    .weight_decay = .01,
	    .warmup = .1,
	    .clip = 1,
	    .dropout = -1,
	    .alpha = .5};
}

bool
serm_encoder_state_init(const SermEncoderConfig *config, SermReal *flat, const SermEncoderHost *host,
    SermArena *arena, SermEncoderState *state)
{
	size_t count = serm_encoder_layout(config).count, bytes = count * sizeof(SermReal);

	*state = (SermEncoderState){.count = count, .flat = flat};
	state->mean = serm_arena_reserve(arena, bytes);
	state->square = serm_arena_reserve(arena, bytes);
	return state->mean != NULL && state->square != NULL && serm_watch_clear(host, state->mean, bytes) &&
	       serm_watch_clear(host, state->square, bytes);
}

double
serm_encoder_rate(double done, double warmup)
{
	if (done < warmup)
		return done / warmup;
	return warmup < 1 ? (1 - done) / (1 - warmup) : 1;
}

static SermStatus
check(const Fitter *fitter, SermError *error)
{
	const SermEncoderOptions *options = fitter->options;
	const SermEncoderSet *set = fitter->set;

	if (set->example_count == 0)
		return serm_fail(error, SERM_ERR_NO_DATA, "there are no examples to train on");
	if (set->grade_count < SERM_GRADES_MIN || set->grade_count > SERM_GRADES_MAX ||
	    (fitter->config->labels != 1 && fitter->config->labels != set->grade_count))
		return serm_fail(error, SERM_ERR_INVALID, "an encoder of %u labels cannot learn %u grades",
		    fitter->config->labels, set->grade_count);
	if (options->epochs == 0 || options->batch == 0 || options->list_max == 0 ||
	    options->list_max > SERM_LOSS_LIST_MAX || !(options->learning_rate > 0) ||
	    !(options->weight_decay >= 0) || !(options->warmup >= 0 && options->warmup <= 1) ||
	    !(options->clip >= 0) || !(options->dropout < 1) || options->freeze > fitter->config->layers)
		return serm_fail(error, SERM_ERR_INVALID, "an option of the training is out of its range");
	for (uint32_t i = 0; i < set->example_count; i++)
		if (set->examples[i].query >= set->query_count ||
		    !(set->examples[i].unjudged || set->examples[i].weight > 0))
			return serm_fail(error, SERM_ERR_INVALID, "example %u has no query or no weight", i);
	return SERM_OK;
}

static bool
allocate(Fitter *fitter, SermArena *arena)
{
	const SermEncoderSet *set = fitter->set;
	size_t n = set->example_count;

	fitter->group_max = SERM_ENCODER_GROUP + fitter->options->list_max;
	fitter->list_start = serm_arena_array(arena, (size_t) set->query_count + 2, sizeof(uint32_t));
	fitter->member = serm_arena_array(arena, n, sizeof(uint32_t));
	fitter->sorted = serm_arena_array(arena, n, sizeof(uint32_t));
	fitter->pieces = serm_arena_array(arena, n, sizeof(Piece));
	fitter->order = serm_arena_array(arena, n, sizeof(uint32_t));
	fitter->inputs = serm_arena_array(arena, fitter->group_max, sizeof(SermEncoderInput));
	fitter->group = serm_arena_array(arena, fitter->group_max, sizeof(*fitter->group));
	fitter->group_member = serm_arena_array(arena, fitter->group_max, sizeof(uint32_t));
	fitter->packed = serm_arena_reserve(
	    arena, serm_encoder_packed_bytes(fitter->config, SERM_PRECISION_F32, fitter->back.gemm));
	return fitter->list_start != NULL && fitter->member != NULL && fitter->sorted != NULL &&
	       fitter->pieces != NULL && fitter->order != NULL && fitter->inputs != NULL &&
	       fitter->group != NULL && fitter->group_member != NULL && fitter->packed != NULL &&
	       serm_encoder_back_init(&fitter->back, &fitter->go_on, arena);
}

/* Examples by query, in their own order within one. */
static void
sort_by_query(Fitter *fitter)
{
	const SermEncoderSet *set = fitter->set;
	uint32_t *start = fitter->list_start;

	for (uint32_t i = 0; i < set->example_count; i++)
		start[set->examples[i].query + 2]++;
	for (uint32_t q = 0; q < set->query_count; q++)
		start[q + 2] += start[q + 1];
	for (uint32_t i = 0; i < set->example_count; i++)
		fitter->sorted[start[set->examples[i].query + 1]++] = i;
}

/* The pieces of an epoch and their order, from the seed and the epoch alone. */
static void
plan_epoch(Fitter *fitter)
{
	const SermEncoderSet *set = fitter->set;
	uint32_t list_max = fitter->options->list_max;
	SermRng rng;

	serm_rng_seed(&rng, serm_hash_mix(fitter->options->seed ^ ORDER_STREAM) + fitter->state->epoch);
	memcpy(fitter->member, fitter->sorted, set->example_count * sizeof(uint32_t));
	fitter->piece_count = 0;
	for (uint32_t q = 0; q < set->query_count; q++) {
		uint32_t start = fitter->list_start[q], length = fitter->list_start[q + 1] - start;

		if (length > list_max)
			serm_rng_shuffle(&rng, fitter->member + start, length);
		for (uint32_t at = 0; at < length; at += list_max)
			fitter->pieces[fitter->piece_count++] =
			    (Piece){start + at, length - at < list_max ? length - at : list_max};
	}
	for (uint32_t p = 0; p < fitter->piece_count; p++)
		fitter->order[p] = p;
	serm_rng_shuffle(&rng, fitter->order, fitter->piece_count);
}

/* Forward, losses and back for whole pieces; the gradient is added up. */
static SermStatus
run_group(
    Fitter *fitter, const uint32_t *order, uint32_t pieces, uint32_t examples, double *loss, SermError *error)
{
	const SermEncoderOptions *options = fitter->options;
	const SermEncoderConfig *config = fitter->config;
	bool own = options->dropout >= 0;
	SermArenaMark mark = serm_arena_mark(fitter->arena);
	SermEncoderRun run = {.encoder = fitter->encoder,
	    .host = &fitter->go_on,
	    .inputs = fitter->group,
	    .keep = true,
	    .drop_hidden = own ? options->dropout : config->hidden_dropout,
	    .drop_attention = own ? options->dropout : config->attention_dropout,
	    .drop_class = own ? options->dropout : config->classifier_dropout,
	    .drop_embedding = own ? options->dropout : config->embedding_dropout,
	    .seed = serm_hash_mix(options->seed ^ DROPOUT_STREAM) + fitter->state->step};
	SermReal *d_logits;
	SermStatus status;

	for (uint32_t p = 0; p < pieces; p++)
		for (uint32_t i = 0; i < fitter->pieces[order[p]].length; i++, run.count++) {
			uint32_t example = fitter->member[fitter->pieces[order[p]].start + i];

			fitter->group_member[run.count] = example;
			fitter->inputs[run.count] = fitter->set->examples[example].input;
			fitter->inputs[run.count].key = example;
			fitter->group[run.count] = &fitter->inputs[run.count];
		}
	d_logits = serm_arena_array(fitter->arena, (size_t) run.count * config->labels, sizeof(*d_logits));
	status =
	    d_logits == NULL ? serm_train_out_of_memory(error) : serm_encoder_prepare(&run, fitter->arena, error);
	if (status == SERM_OK)
		status = serm_encoder_forward(&run, error);
	for (uint32_t p = 0, at = 0; status == SERM_OK && p < pieces; p++) {
		uint32_t length = fitter->pieces[order[p]].length;

		*loss += serm_encoder_loss_list(&fitter->loss, fitter->group_member + at, length,
		    run.logits + (size_t) at * config->labels, (double) length / examples,
		    d_logits + (size_t) at * config->labels);
		at += length;
	}
	if (status == SERM_OK)
		status = serm_encoder_backward(&fitter->back, &run, d_logits, fitter->arena, error);
	serm_arena_rewind(fitter->arena, mark);
	return status;
}

/* One update on the pieces order[0 .. pieces), `examples` of them in all. */
static SermStatus
run_batch(
    Fitter *fitter, const uint32_t *order, uint32_t pieces, uint32_t examples, double rate, SermError *error)
{
	SermStatus status = SERM_OK;
	double loss = 0;

	if (!serm_encoder_back_clear(&fitter->back, &fitter->go_on))
		return serm_train_canceled(error);
	for (uint32_t first = 0; status == SERM_OK && first < pieces;) {
		uint32_t end = first, tokens = 0;

		for (; end < pieces; end++) {
			const Piece *piece = &fitter->pieces[order[end]];
			uint32_t more = 0;

			for (uint32_t i = 0; i < piece->length; i++)
				more += fitter->set->examples[fitter->member[piece->start + i]].input.length;
			if (end > first && tokens + more > SERM_ENCODER_GROUP)
				break;
			tokens += more;
		}
		status = run_group(fitter, order + first, end - first, examples, &loss, error);
		first = end;
	}
	if (status == SERM_OK && !isfinite(loss))
		status = serm_fail(error, SERM_ERR_DIVERGED, "training diverged in epoch %u: the loss is not finite",
		    fitter->state->epoch + 1);
	if (status == SERM_OK)
		status = serm_encoder_update(
		    &(SermEncoderUpdate){fitter->config, fitter->options->weight_decay, fitter->options->clip,
		        fitter->options->freeze, &fitter->back, fitter->state, fitter->packed, &fitter->go_on},
		    rate, NULL, error);
	fitter->state->loss += loss * examples;
	return status;
}

static void
report_progress(const Fitter *fitter, double started, uint64_t since)
{
	const SermTrainHost *train = fitter->host->train;
	const SermEncoderState *state = fitter->state;
	uint64_t total = fitter->set->example_count, all = total * fitter->options->epochs;
	uint64_t done = state->epoch * total + state->example;
	double seconds = train->clock != NULL ? train->clock(train->context) - started : 0;
	double speed = seconds > 0 ? (double) (done - since) / seconds : 0;

	if (train->progress != NULL)
		train->progress(train->context,
		    &(SermTrainProgress){"training", state->epoch + (state->example == total),
		        fitter->options->epochs, state->example > 0 ? state->loss / state->example : 0, speed,
		        speed > 0 ? (double) (all - done) / speed : 0});
}

static SermStatus
run_epoch(Fitter *fitter, double started, uint64_t since, SermError *error)
{
	const SermEncoderOptions *options = fitter->options;
	SermEncoderState *state = fitter->state;
	uint32_t total = fitter->set->example_count, passed = 0;
	double all = (double) total * options->epochs;
	SermStatus status = SERM_OK;

	plan_epoch(fitter);
	for (uint32_t at = 0, pieces; status == SERM_OK && at < fitter->piece_count; at += pieces) {
		uint32_t examples = 0;
		double before, after;

		for (pieces = 0; at + pieces < fitter->piece_count && examples < options->batch; pieces++)
			examples += fitter->pieces[fitter->order[at + pieces]].length;
		passed += examples;
		/* A state that was kept has these behind it. */
		if (passed <= state->example)
			continue;
		before = (double) state->epoch * total + passed - examples;
		after = before + examples;
		fitter->loss.progress = before / all;
		/* While it rises the rate counts this update, while it falls it does not: neither end is 0. */
		status = run_batch(fitter, fitter->order + at, pieces, examples,
		    options->learning_rate *
		        fmin(serm_encoder_rate(
		                 after / all < options->warmup ? after / all : before / all, options->warmup),
		            1),
		    error);
		if (status != SERM_OK)
			break;
		state->example = passed;
		report_progress(fitter, started, since);
		if (options->checkpoint > 0 && state->step % options->checkpoint == 0 &&
		    fitter->host->checkpoint != NULL && !fitter->host->checkpoint(fitter->host->context, state))
			status = serm_train_canceled(error);
	}
	return status;
}

SermStatus
serm_encoder_fit(const SermEncoderConfig *config, const SermEncoderSet *set,
    const SermEncoderOptions *options, const SermEncoderFitHost *host, SermArena *arena,
    SermEncoderState *state, SermTrainReport *report, SermError *error)
{
	const SermTrainHost *train = host->train;
	Fitter fitter = {.config = config,
	    .set = set,
	    .options = options,
	    .host = host,
	    .go_on = {train->keep_going, train->context},
	    .state = state,
	    .back = {.config = config,
	        .gemm = host->gemm != NULL ? host->gemm : &serm_gemm_packed,
	        .frozen = options->freeze},
	    .arena = arena};
	double started = train->clock != NULL ? train->clock(train->context) : 0;
	uint64_t since = (uint64_t) state->epoch * set->example_count + state->example;
	SermStatus status = check(&fitter, error);

	if (status == SERM_OK)
		status = serm_encoder_loss_init(&fitter.loss, set, config->labels, options, arena, error);
	if (status == SERM_OK && !allocate(&fitter, arena))
		status = serm_train_not_made(&fitter.go_on, error);
	if (status == SERM_OK)
		status = serm_encoder_open(config, SERM_PRECISION_F32, fitter.back.gemm, state->flat, fitter.packed,
		    arena, &fitter.encoder, error);
	for (uint32_t i = 0; status == SERM_OK && i < set->example_count; i++)
		status = serm_encoder_go_on(&fitter.go_on)
		             ? serm_encoder_check(fitter.encoder, &set->examples[i].input, 1, error)
		             : serm_train_canceled(error);
	if (status == SERM_OK && (!serm_encoder_pack(config, SERM_PRECISION_F32, fitter.back.gemm, state->flat,
	                              fitter.packed, &fitter.go_on) ||
	                             !serm_encoder_back_pack(&fitter.back, state->flat, &fitter.go_on)))
		status = serm_train_canceled(error);
	if (status != SERM_OK)
		return status;
	sort_by_query(&fitter);
	*report = (SermTrainReport){.example_count = set->example_count,
	    .query_count = set->query_count,
	    .epochs = options->epochs,
	    .temperature = 1};
	while (status == SERM_OK && state->epoch < options->epochs) {
		status = run_epoch(&fitter, started, since, error);
		if (status != SERM_OK)
			return status;
		report->loss = state->loss / set->example_count;
		state->epoch++;
		state->example = 0;
		state->loss = 0;
	}
	report->seconds = train->clock != NULL ? train->clock(train->context) - started : 0;
	return status;
}
