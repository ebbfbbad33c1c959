/*
 * Times the encoder on MiniLM-L6's shape with random weights and prints one
 * "name value" a line for cross.py, which interleaves it with its peers.
 *
 * encoder forward PRECISION TOKENS BATCH | encoder mixed PADDED | encoder train TOKENS BATCH | encoder peak
 * Each run repeats for about SECONDS of CPU time and prints pairs per second of its best repetition.
 */
#include <time.h>

#include "core/base/rng.h"
#include "core/model/encoder.h"
#include "core/train/encoder_back.h"

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

	printf("pairs/s %.2f\n", time_scores(encoder, inputs, batch, arena));
}

/* Products of one forward pass in floating-point operations, as computed: the last layer's first tokens only. */
static double
forward_flops(const SermEncoderConfig *config, double tokens)
{
	double h = config->hidden, i = config->intermediate, rest = config->layers - 1;

	return 2 * (rest * tokens * (4 * h * h + 2 * h * i + 2 * tokens * h) + tokens * 2 * h * h +
	               (2 * h * h + 2 * h * i + 2 * tokens * h) + h * h);
}

int
main(int argc, char **argv)
{
	SermArena arena;
	const char *what = argc > 1 ? argv[1] : "";

	serm_arena_init(&arena, serm_heap_allocator(), (size_t) 8 << 30);
	if (strcmp(what, "forward") == 0 && argc == 5)
		for (int p = 0; p < SERM_PRECISION_COUNT; p++) {
			if (strcmp(argv[2], serm_precision_name((SermPrecision) p)) == 0)
				bench_forward((SermPrecision) p, (uint32_t) atoi(argv[3]), (uint32_t) atoi(argv[4]), &arena);
		}
	SermEncoderConfig config = minilm();
	printf("gflop %.3f\n", forward_flops(&config, argc > 3 ? atoi(argv[3]) : 128) / 1e9);
	serm_arena_free(&arena);
	return 0;
}
