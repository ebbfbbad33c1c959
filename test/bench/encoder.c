/*
 * Times the encoder in MiniLM-L6's shape with random weights. Reads commands from its standard input and
 * answers each with one line, so that cross.py can take turns between it and its peers:
 *
 *   forward PRECISION TOKENS BATCH
 *       pairs per second of the best repetition within a second of CPU time
 *   mixed N LENGTH... | padded N LENGTH...
 *       the same for pairs of these lengths, as they are or in batches of 32 as long as their longest
 *   train TOKENS BATCH
 *       pairs per second of the best of a few updates
 *   share TOKENS BATCH [alone] | product ROWS OUT IN
 *       for serm's own kernel, OpenBLAS, oneDNN and oneDNN with weights laid out beforehand, in turns: the
 *       GFLOP of a pass (of a product), the number of passes (0 where the library is absent or serm is
 *       `alone`), that of turns in each of them, and for each turn the seconds of the piece of work before it
 *       (of the first: 0), GFLOP of multiply-adds in registers and 10^9 idle instructions per second
 *   flops TOKENS
 *       GFLOP of one pair as computed, and as computed for every token
 *   difference PRECISION
 *       of the logits of 256 pairs from f32: root mean square as a share of their own spread, and Kendall's
 * tau of the two orders hold TOKENS BATCH, then many times: during SECONDS forward|spin pairs (or GFLOP) per
 * second by the clock on the wall, for processes that run at once
 */
#include "core/base/rng.h"
#include "core/model/encoder.h"
#include "core/train/encoder_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peers.h"
#include "spin.h"

#define SECONDS 1.0

static double
cpu_seconds(void)
{
	return spin_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static SermEncoderConfig
minilm(void)
{
	return (SermEncoderConfig){.architecture = SERM_ENCODER_BERT,
	    .layers = 6,
	    .hidden = 384,
	    .heads = 12,
	    .intermediate = 1536,
	    .vocab = 30522,
	    .positions = 512,
	    .types = 2,
	    .labels = 1,
	    .eps = 1e-12};
}

/* Random weights of the size of trained ones. */
static SermReal *
random_flat(const SermEncoderConfig *config, SermArena *arena)
{
	SermEncoderLayout layout = serm_encoder_layout(config);
	SermReal *flat = serm_arena_array(arena, layout.count, sizeof(*flat));
	SermRng rng;

	serm_rng_seed(&rng, 1);
	for (size_t i = 0; i < layout.count; i++)
		flat[i] = (SermReal) (0.05 * (serm_rng_uniform(&rng) * 2 - 1));
	for (uint32_t e = 0; e < serm_encoder_entry_count(config); e++) {
		SermEncoderEntry entry;

		serm_encoder_entry(config, &layout, e, &entry);
		for (size_t i = 0; strstr(entry.name, "LayerNorm.weight") != NULL && i < entry.count; i++)
			flat[entry.offset + i] += 1;
	}
	return flat;
}

static SermEncoder *
open_encoder_by(const SermEncoderConfig *config, SermPrecision precision, const SermGemmProvider *gemm,
    const SermReal *flat, SermArena *arena)
{
	void *packed = serm_arena_alloc(arena, serm_encoder_packed_bytes(config, precision, gemm));
	SermEncoder *encoder = NULL;
	SermError error;

	serm_encoder_pack(config, precision, gemm, flat, packed, NULL);
	if (serm_encoder_open(config, precision, gemm, flat, packed, arena, &encoder, &error) != SERM_OK)
		abort();
	return encoder;
}

static SermEncoder *
open_encoder(const SermEncoderConfig *config, SermPrecision precision, const SermReal *flat, SermArena *arena)
{
	return open_encoder_by(config, precision, NULL, flat, arena);
}

static SermEncoderInput *
random_inputs(uint32_t count, const uint32_t *lengths, uint32_t length, SermArena *arena)
{
	SermEncoderInput *inputs = serm_arena_array(arena, count, sizeof(*inputs));
	SermRng rng;

	serm_rng_seed(&rng, 2);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t n = lengths == NULL ? length : lengths[i];
		uint32_t *ids = serm_arena_array(arena, n, sizeof(*ids));

		for (uint32_t t = 0; t < n; t++)
			ids[t] = 1000 + serm_rng_below(&rng, 29000);
		inputs[i] = (SermEncoderInput){ids, NULL, n, i};
	}
	return inputs;
}

/* Pairs per second of the best repetition. */
static double
time_scores(const SermEncoder *encoder, const SermEncoderInput *inputs, uint32_t count, SermArena *arena)
{
	SermReal *logits = serm_arena_array(arena, count, sizeof(*logits));
	double best = INFINITY, end;
	SermError error;

	serm_encoder_score(encoder, inputs, count, NULL, arena, logits, &error);
	end = cpu_seconds() + SECONDS;
	do {
		double start = cpu_seconds();

		if (serm_encoder_score(encoder, inputs, count, NULL, arena, logits, &error) != SERM_OK)
			abort();
		best = fmin(best, cpu_seconds() - start);
	} while (cpu_seconds() < end);
	return count / best;
}

static void
bench_forward(SermPrecision precision, uint32_t tokens, uint32_t batch, SermArena *arena)
{
	SermEncoderConfig config = minilm();
	SermReal *flat = random_flat(&config, arena);
	SermEncoder *encoder = open_encoder(&config, precision, flat, arena);
	SermEncoderInput *inputs = random_inputs(batch, NULL, tokens, arena);

	printf("%.3f\n", time_scores(encoder, inputs, batch, arena));
}

/* GFLOP of the products of one pair; `whole`: with the last layer's rows that nobody reads. */
static double
forward_flops(const SermEncoderConfig *config, double tokens, bool whole)
{
	double h = config->hidden, i = config->intermediate, rest = config->layers - 1;
	double layer = tokens * (4 * h * h + 2 * h * i + 2 * tokens * h);

	return 2e-9 * (rest * layer + h * h +
	                  (whole ? layer : tokens * 2 * h * h + 2 * h * h + 2 * h * i + 2 * tokens * h));
}

/*
 * Pieces of work, and after each of them what the processor gives at that very time: multiply-adds in
 * registers, and instructions that do nothing. Pieces end at the same calls of take_turn in every pass, so
 * that the same piece can be compared from pass to pass.
 */
typedef struct Turn {
	double seconds, flops, idle; /* of the piece before it; per second, in the turn */
} Turn;

typedef struct Turns {
	Turn *turn;
	bool *ends; /* whether a call of take_turn ends a piece */
	int count, passes, call;
	double ended;
} Turns;

#define TURN_SECONDS 2e-3
#define TURN_STEPS 60000
#define TURN_IDLE_STEPS 4000
#define TURNS_MAX 20000
#define CALLS_MAX 10000

/* The clock stands still now and then, on a virtual processor. */
static double
per_second(double work, double seconds)
{
	return seconds > 0 ? work / seconds : 0;
}

static void
end_piece(Turns *turns)
{
	double start = cpu_seconds(), flops = spin(TURN_STEPS), middle = cpu_seconds();
	double idle = spin_idly(TURN_IDLE_STEPS), end = cpu_seconds();

	if (turns->count < TURNS_MAX)
		turns->turn[turns->count++] =
		    (Turn){start - turns->ended, per_second(flops, middle - start), per_second(idle, end - middle)};
	turns->ended = cpu_seconds();
}

static bool
take_turn(void *context)
{
	Turns *turns = context;

	if (turns->call < CALLS_MAX && turns->ends[turns->call++])
		end_piece(turns);
	return true;
}

/* Settles where pieces end, in a pass whose time does not count. */
static bool
place_turn(void *context)
{
	Turns *turns = context;
	double now = cpu_seconds();

	if (turns->call < CALLS_MAX && (turns->ends[turns->call++] = now >= turns->ended + TURN_SECONDS))
		turns->ended = now;
	return true;
}

/* Before the first piece comes a turn, too. */
static void
start_pass(Turns *turns)
{
	turns->call = 0;
	turns->passes++;
	turns->ended = cpu_seconds();
	end_piece(turns);
}

static void
print_turns(const Turns *turns, double flops)
{
	for (int peer = 0; peer < PEER_COUNT; peer++) {
		int passes = turns[peer].passes;

		printf("%.6f %d %d ", 1e-9 * flops, passes, passes == 0 ? 0 : turns[peer].count / passes);
		for (int i = 0; i < turns[peer].count; i++) {
			const Turn *turn = &turns[peer].turn[i];

			printf("%.7f %.2f %.3f ", turn->seconds, 1e-9 * turn->flops, 1e-9 * turn->idle);
		}
	}
	printf("\n");
}

/* Whole forward passes, one by one with each library for the products with weights. */
static void
bench_share(uint32_t tokens, uint32_t batch, bool alone, SermArena *arena)
{
	/* Pieces end where they ended when this shape was first asked for. */
	static bool ends[CALLS_MAX];
	static uint32_t placed_tokens, placed_batch;
	bool placed = placed_tokens == tokens && placed_batch == batch;
	SermEncoderConfig config = minilm();
	SermReal *flat = random_flat(&config, arena);
	SermEncoderInput *inputs = random_inputs(batch, NULL, tokens, arena);
	SermReal *logits = serm_arena_array(arena, batch, sizeof(*logits));
	SermEncoder *encoders[PEER_COUNT] = {NULL};
	Turns turns[PEER_COUNT];
	double start = 0;
	int present = 0;
	SermError error;

	for (int peer = 0; peer < PEER_COUNT; peer++) {
		turns[peer] = (Turns){.turn = serm_arena_array(arena, TURNS_MAX, sizeof(Turn)), .ends = ends};
		if (peer_provider(peer) != NULL && (!alone || peer == PEER_SERM))
			encoders[peer] = open_encoder_by(&config, SERM_PRECISION_F32, peer_provider(peer), flat, arena),
			present++;
	}
	for (bool warm = false; !warm || cpu_seconds() < start + present * SECONDS; warm = true)
		for (int peer = 0; peer < PEER_COUNT; peer++) {
			bool place = !warm && !placed && peer == PEER_SERM;
			SermEncoderHost host = {place ? place_turn : warm ? take_turn : NULL, &turns[peer]};

			if (encoders[peer] == NULL)
				continue;
			turns[peer].ended = cpu_seconds();
			if (warm)
				start_pass(&turns[peer]);
			if (serm_encoder_score(encoders[peer], inputs, batch, &host, arena, logits, &error) != SERM_OK)
				abort();
			if (warm)
				end_piece(&turns[peer]);
			start = warm ? start : cpu_seconds();
		}
	placed_tokens = tokens, placed_batch = batch;
	print_turns(turns, batch * 1e9 * forward_flops(&config, tokens, false));
}

/* One product with weights that come from behind the second cache, as they do in a forward pass. */
typedef struct Product {
	SermLinear linear;
	size_t bytes, copies, next;
	char *packed;
} Product;

static void
open_product(const SermGemmProvider *gemm, uint32_t out, uint32_t in, const SermReal *weights,
    SermArena *arena, Product *product)
{
	product->linear = (SermLinear){in, out, SERM_PRECISION_F32, gemm, NULL, NULL};
	product->bytes = serm_linear_bytes(&product->linear);
	product->copies = ((size_t) 32 << 20) / product->bytes + 1;
	product->packed = serm_arena_alloc(arena, product->copies * product->bytes);
	for (size_t i = 0; i < product->copies; i++)
		serm_linear_pack(&product->linear, weights, product->packed + i * product->bytes);
}

static void
run_product(Product *product, uint32_t rows, const SermReal *x, SermReal *y)
{
	product->linear.packed = product->packed + product->next++ % product->copies * product->bytes;
	serm_linear_run(&product->linear, rows, x, y, NULL);
}

/* Each library after the other; one product, some two milliseconds, is a pass of one piece. */
static void
bench_product(uint32_t rows, uint32_t out, uint32_t in, SermArena *arena)
{
	SermReal *weights = serm_arena_array(arena, (size_t) in * out, sizeof(*weights));
	SermReal *x = serm_arena_array(arena, (size_t) rows * in, sizeof(*x));
	SermReal *y = serm_arena_array(arena, (size_t) rows * out, sizeof(*y));
	Product products[PEER_COUNT] = {0};
	Turns turns[PEER_COUNT] = {0};
	double start = cpu_seconds();
	SermRng rng;

	serm_rng_seed(&rng, 3);
	for (size_t i = 0; i < (size_t) in * out; i++)
		weights[i] = (SermReal) serm_rng_normal(&rng);
	for (size_t i = 0; i < (size_t) rows * in; i++)
		x[i] = (SermReal) serm_rng_normal(&rng);
	for (int peer = 0; peer < PEER_COUNT; peer++)
		if (peer_provider(peer) != NULL) {
			open_product(peer_provider(peer), out, in, weights, arena, &products[peer]);
			turns[peer].turn = serm_arena_array(arena, TURNS_MAX, sizeof(Turn));
			run_product(&products[peer], rows, x, y);
		}
	while (cpu_seconds() < start + PEER_COUNT * SECONDS)
		for (int peer = 0; peer < PEER_COUNT; peer++) {
			if (products[peer].packed == NULL)
				continue;
			start_pass(&turns[peer]);
			run_product(&products[peer], rows, x, y);
			end_piece(&turns[peer]);
		}
	print_turns(turns, 2.0 * rows * out * in);
}

/* What `hold` made, for all that follows. */
typedef struct Held {
	SermArena arena;
	SermEncoder *encoder;
	SermEncoderInput *inputs;
	SermReal *logits;
	uint32_t count;
} Held;

static void
hold(uint32_t tokens, uint32_t batch, Held *held)
{
	SermEncoderConfig config = minilm();

	serm_arena_init(&held->arena, serm_heap_allocator(), (size_t) 1 << 30);
	held->encoder =
	    open_encoder(&config, SERM_PRECISION_F32, random_flat(&config, &held->arena), &held->arena);
	held->inputs = random_inputs(batch, NULL, tokens, &held->arena);
	held->logits = serm_arena_array(&held->arena, batch, sizeof(*held->logits));
	held->count = batch;
}

static double
during(double seconds, bool forward, Held *held)
{
	double start = spin_clock(CLOCK_MONOTONIC), done = 0, now;
	SermError error;

	do {
		if (!forward)
			done += 1e-9 * spin(1000000);
		else if (serm_encoder_score(held->encoder, held->inputs, held->count, NULL, &held->arena,
		             held->logits, &error) == SERM_OK)
			done += held->count;
		else
			abort();
		now = spin_clock(CLOCK_MONOTONIC);
	} while (now < start + seconds);
	return done / (now - start);
}

static bool
go_on(void *context)
{
	(void) context;
	return true;
}

/* Time between updates, by CPU. */
typedef struct Clock {
	double last, best;
} Clock;

static bool
lap(void *context, const SermEncoderState *state)
{
	Clock *clock = context;
	double now = cpu_seconds();

	(void) state;
	if (clock->last > 0)
		clock->best = fmin(clock->best, now - clock->last);
	clock->last = now;
	return true;
}

static double
bench_train(uint32_t tokens, uint32_t batch, SermArena *arena)
{
	SermEncoderConfig config = minilm();
	SermEncoderInput *inputs = random_inputs(batch, NULL, tokens, arena);
	SermEncoderExample *examples = serm_arena_array(arena, batch, sizeof(*examples));
	SermEncoderSet set = {
	    .grade_count = 2, .examples = examples, .example_count = batch, .query_count = batch};
	SermTrainHost train = {.keep_going = go_on};
	Clock clock = {0, INFINITY};
	SermEncoderFitHost host = {.train = &train, .checkpoint = lap, .context = &clock};
	SermEncoderOptions options;
	SermEncoderState state;
	SermTrainReport report;
	SermError error;

	serm_encoder_options_defaults(&options);
	options.epochs = 4, options.batch = batch, options.dropout = 0, options.checkpoint = 1;
	for (uint32_t i = 0; i < batch; i++)
		examples[i] =
		    (SermEncoderExample){.input = inputs[i], .query = i, .target = {i % 2, 1 - i % 2}, .weight = 1};
	if (!serm_encoder_state_init(&config, random_flat(&config, arena), NULL, arena, &state) ||
	    serm_encoder_fit(&config, &set, &options, &host, arena, &state, &report, &error) != SERM_OK)
		abort();
	return batch / clock.best;
}

static double
bench_lengths(bool padded, char *text, SermArena *arena)
{
	enum { MOST = 4096, BATCH = 32 };
	SermEncoderConfig config = minilm();
	SermEncoder *encoder = open_encoder(&config, SERM_PRECISION_F32, random_flat(&config, arena), arena);
	uint32_t lengths[MOST], count = (uint32_t) strtoul(text, &text, 10);

	for (uint32_t i = 0; i < count && i < MOST; i++)
		lengths[i] = (uint32_t) strtoul(text, &text, 10);
	for (uint32_t i = 0; padded && i < count; i += BATCH) {
		uint32_t longest = 0, end = i + BATCH < count ? i + BATCH : count;

		for (uint32_t j = i; j < end; j++)
			longest = lengths[j] > longest ? lengths[j] : longest;
		for (uint32_t j = i; j < end; j++)
			lengths[j] = longest;
	}
	return time_scores(encoder, random_inputs(count, lengths, 0, arena), count, arena);
}

static void
bench_difference(SermPrecision precision, SermArena *arena)
{
	enum { COUNT = 256 };
	SermEncoderConfig config = minilm();
	SermReal *flat = random_flat(&config, arena), exact[COUNT], other[COUNT];
	SermEncoderInput *inputs = random_inputs(COUNT, NULL, 48, arena);
	double mean = 0, spread = 0, difference = 0, agree = 0;
	SermError error;

	serm_encoder_score(
	    open_encoder(&config, SERM_PRECISION_F32, flat, arena), inputs, COUNT, NULL, arena, exact, &error);
	serm_encoder_score(
	    open_encoder(&config, precision, flat, arena), inputs, COUNT, NULL, arena, other, &error);
	for (int i = 0; i < COUNT; i++)
		mean += exact[i] / COUNT;
	for (int i = 0; i < COUNT; i++) {
		spread += (exact[i] - mean) * (exact[i] - mean) / COUNT;
		difference += (exact[i] - other[i]) * (exact[i] - other[i]) / COUNT;
		for (int j = 0; j < i; j++)
			agree += (exact[i] - exact[j]) * (other[i] - other[j]) > 0 ? 1 : -1;
	}
	printf("%.5f %.5f\n", sqrt(difference / spread), agree / (COUNT * (COUNT - 1) / 2));
}

static SermPrecision
precision_of(const char *name)
{
	int precision = 0;

	while (strcmp(name, serm_precision_name((SermPrecision) precision)) != 0)
		if (++precision == SERM_PRECISION_COUNT)
			exit(2);
	return (SermPrecision) precision;
}

int
main(void)
{
	static char line[65536];
	SermEncoderConfig config = minilm();
	Held held = {.encoder = NULL};

	while (fgets(line, sizeof(line), stdin) != NULL) {
		SermArena arena;
		char name[16];
		unsigned tokens, batch, out, in;
		double seconds;

		serm_arena_init(&arena, serm_heap_allocator(), (size_t) 8 << 30);
		if (sscanf(line, "forward %15s %u %u", name, &tokens, &batch) == 3)
			bench_forward(precision_of(name), tokens, batch, &arena);
		else if (sscanf(line, "train %u %u", &tokens, &batch) == 2)
			printf("%.3f\n", bench_train(tokens, batch, &arena));
		else if (sscanf(line, "flops %u", &tokens) == 1)
			printf(
			    "%.4f %.4f\n", forward_flops(&config, tokens, false), forward_flops(&config, tokens, true));
		else if (sscanf(line, "difference %15s", name) == 1)
			bench_difference(precision_of(name), &arena);
		else if (strncmp(line, "mixed ", 6) == 0 || strncmp(line, "padded ", 7) == 0)
			printf("%.3f\n", bench_lengths(line[0] == 'p', strchr(line, ' '), &arena));
		else if (sscanf(line, "share %u %u", &tokens, &batch) == 2)
			bench_share(tokens, batch, strstr(line, "alone") != NULL, &arena);
		else if (sscanf(line, "product %u %u %u", &tokens, &out, &in) == 3)
			bench_product(tokens, out, in, &arena);
		else if (sscanf(line, "hold %u %u", &tokens, &batch) == 2)
			hold(tokens, batch, &held), printf("0\n");
		else if (sscanf(line, "during %lf %15s", &seconds, name) == 2 && held.encoder != NULL)
			printf("%.3f\n", during(seconds, strcmp(name, "spin") != 0, &held));
		else
			printf("unknown\n");
		fflush(stdout);
		serm_arena_free(&arena);
	}
	return 0;
}
