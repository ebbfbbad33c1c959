/*
 * Times the encoder in MiniLM-L6's shape with random weights. Reads commands from its standard input and
 * answers each with one line, so that cross.py can take turns between it and its peers:
 *
 *   forward PRECISION TOKENS BATCH     pairs per second of the best repetition within a second of CPU time
 *   mixed N LENGTH... | padded N LENGTH...   the same for pairs of these lengths, as they are or in batches
 * of 32 as long as their longest train TOKENS BATCH                 pairs per second of the best of a few
 * updates peak                               GFLOP per second of multiply-adds in registers flops TOKENS
 * GFLOP of one pair as computed, and as computed for every token difference PRECISION               of the
 * logits of 256 pairs from f32: root mean square as a share of their own spread, and Kendall's tau of the two
 * orders
 */
#include <time.h>

#include "core/base/rng.h"
#include "core/model/encoder.h"
#include "core/train/encoder_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SECONDS 1.0

static double
cpu_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
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
open_encoder(const SermEncoderConfig *config, SermPrecision precision, const SermReal *flat, SermArena *arena)
{
	void *packed = serm_arena_alloc(arena, serm_encoder_packed_bytes(config, precision, NULL));
	SermEncoder *encoder = NULL;
	SermError error;

	serm_encoder_pack(config, precision, NULL, flat, packed, NULL);
	if (serm_encoder_open(config, precision, NULL, flat, packed, arena, &encoder, &error) != SERM_OK)
		abort();
	return encoder;
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

/* Products of one pair in floating-point operations; `whole`: with the last layer's rows that nobody reads.
 */
static double
forward_flops(const SermEncoderConfig *config, double tokens, bool whole)
{
	double h = config->hidden, i = config->intermediate, rest = config->layers - 1;
	double layer = tokens * (4 * h * h + 2 * h * i + 2 * tokens * h);

	return 2 * (rest * layer + h * h +
	               (whole ? layer : tokens * 2 * h * h + 2 * h * h + 2 * h * i + 2 * tokens * h));
}

#if defined(__x86_64__)
#define STEP(v)                                                                                              \
	v = v * y + x;                                                                                           \
	__asm__ volatile("" : "+v"(v))
#define PEAK(name, bytes, features)                                                                          \
	typedef float name##Vector __attribute__((vector_size(bytes)));                                          \
	__attribute__((target(features))) static double name(void)                                               \
	{                                                                                                        \
		name##Vector x = {0}, y = {0}, a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x; \
		double best = 0;                                                                                     \
                                                                                                             \
		for (int round = 0; round < 20; round++) {                                                           \
			double start = cpu_seconds();                                                                    \
                                                                                                             \
			for (int n = 0; n < 1000000; n++) {                                                              \
				STEP(a);                                                                                     \
				STEP(b);                                                                                     \
				STEP(c);                                                                                     \
				STEP(d);                                                                                     \
				STEP(e);                                                                                     \
				STEP(f);                                                                                     \
				STEP(g);                                                                                     \
				STEP(h);                                                                                     \
				STEP(i);                                                                                     \
				STEP(j);                                                                                     \
			}                                                                                                \
			best = fmax(best, 1e-3 * 10 * 2 * (bytes / 4.) / (cpu_seconds() - start));                       \
		}                                                                                                    \
		return best;                                                                                         \
	}
PEAK(peak_64, 64, "avx512f")
PEAK(peak_32, 32, "avx2,fma")
#endif

static double
peak(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f"))
		return fmax(peak_64(), peak_32());
	if (__builtin_cpu_supports("fma"))
		return peak_32();
#endif
	return 0;
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

	while (fgets(line, sizeof(line), stdin) != NULL) {
		SermArena arena;
		char name[16];
		unsigned tokens, batch;

		serm_arena_init(&arena, serm_heap_allocator(), (size_t) 8 << 30);
		if (sscanf(line, "forward %15s %u %u", name, &tokens, &batch) == 3)
			bench_forward(precision_of(name), tokens, batch, &arena);
		else if (sscanf(line, "train %u %u", &tokens, &batch) == 2)
			printf("%.3f\n", bench_train(tokens, batch, &arena));
		else if (sscanf(line, "flops %u", &tokens) == 1)
			printf("%.4f %.4f\n", forward_flops(&config, tokens, false) / 1e9,
			    forward_flops(&config, tokens, true) / 1e9);
		else if (sscanf(line, "difference %15s", name) == 1)
			bench_difference(precision_of(name), &arena);
		else if (strncmp(line, "mixed ", 6) == 0 || strncmp(line, "padded ", 7) == 0)
			printf("%.3f\n", bench_lengths(line[0] == 'p', strchr(line, ' '), &arena));
		else if (strncmp(line, "peak", 4) == 0)
			printf("%.2f\n", peak());
		else
			printf("unknown\n");
		fflush(stdout);
		serm_arena_free(&arena);
	}
	return 0;
}
