#include "core/train/network.h"

#include <math.h>
#include <string.h>

#define HIDDEN1 SERM_HIDDEN1
#define HIDDEN2 SERM_HIDDEN2
#define LAST_LAYER_DEVIATION 0.01

SermNetworkLayout
serm_network_layout(const SermNetwork *network)
{
	SermNetworkLayout at;

	at.w1 = 0;
	at.b1 = at.w1 + (size_t) HIDDEN1 * network->input_count;
	at.w2 = at.b1 + HIDDEN1;
	at.b2 = at.w2 + (size_t) HIDDEN2 * HIDDEN1;
	at.w3 = at.b2 + HIDDEN2;
	at.b3 = at.w3 + (size_t) network->grade_count * HIDDEN2;
	at.count = at.b3 + network->grade_count;
	return at;
}

bool
serm_network_batch(const SermNetwork *network, uint32_t capacity, SermArena *arena, SermNetworkBatch *batch)
{
	size_t n = capacity, size = sizeof(SermReal);

	batch->capacity = capacity;
	batch->input = serm_arena_array(arena, n * network->input_count, size);
	batch->hidden1 = serm_arena_array(arena, n * HIDDEN1, size);
	batch->hidden2 = serm_arena_array(arena, n * HIDDEN2, size);
	batch->logits = serm_arena_array(arena, n * network->grade_count, size);
	batch->d_logits = serm_arena_array(arena, n * network->grade_count, size);
	batch->d_hidden1 = serm_arena_array(arena, n * HIDDEN1, size);
	batch->d_hidden2 = serm_arena_array(arena, n * HIDDEN2, size);
	return batch->input != NULL && batch->hidden1 != NULL && batch->hidden2 != NULL &&
	       batch->logits != NULL && batch->d_logits != NULL && batch->d_hidden1 != NULL &&
	       batch->d_hidden2 != NULL;
}

static void
fill_normal(SermRng *rng, double deviation, SermReal *values, size_t count)
{
	for (size_t i = 0; i < count; i++)
		values[i] = (SermReal) (deviation * serm_rng_normal(rng));
}

void
serm_network_init(const SermNetwork *network, SermRng *rng, SermReal *parameters)
{
	SermNetworkLayout at = serm_network_layout(network);

	memset(parameters, 0, at.count * sizeof(*parameters));
	fill_normal(rng, sqrt(2.0 / network->input_count), parameters + at.w1, at.b1 - at.w1);
	fill_normal(rng, sqrt(2.0 / HIDDEN1), parameters + at.w2, at.b2 - at.w2);
	fill_normal(rng, LAST_LAYER_DEVIATION, parameters + at.w3, at.b3 - at.w3);
}

static void
set_rows(const SermReal *bias, uint32_t rows, uint32_t width, SermReal *values)
{
	for (uint32_t r = 0; r < rows; r++)
		memcpy(values + (size_t) r * width, bias, width * sizeof(*values));
}

/*
 * ReLU and inverted dropout in place. Four 16-bit draws come from one step of
 * the generator; a dropped value is exactly 0, so backward needs no mask.
 */
static void
rectify(SermReal *values, size_t count, double dropout, SermRng *rng)
{
	uint32_t limit = (uint32_t) (dropout * 65536);
	SermReal scale = (SermReal) (1 / (1 - dropout));

	if (rng == NULL || limit == 0) {
		for (size_t i = 0; i < count; i++)
			values[i] = values[i] > 0 ? values[i] : 0;
		return;
	}
	SERM_ASSERT(count % 4 == 0);
	for (size_t i = 0; i < count; i += 4) {
		uint64_t draw = serm_rng_next(rng);

		for (size_t j = 0; j < 4; j++, draw >>= 16) {
			SermReal kept = (draw & 0xffff) >= limit ? scale : 0;

			values[i + j] = values[i + j] > 0 ? kept * values[i + j] : 0;
		}
	}
}

void
serm_network_forward(const SermNetwork *network, const SermReal *parameters, uint32_t rows,
    SermRng *dropout_rng, SermNetworkBatch *batch)
{
	SermNetworkLayout at = serm_network_layout(network);
	uint32_t inputs = network->input_count, grades = network->grade_count;

	SERM_ASSERT(rows <= batch->capacity);
	set_rows(parameters + at.b1, rows, HIDDEN1, batch->hidden1);
	network->gemm(false, true, rows, HIDDEN1, inputs, batch->input, parameters + at.w1, 1, batch->hidden1);
	rectify(batch->hidden1, (size_t) rows * HIDDEN1, network->dropout, dropout_rng);
	set_rows(parameters + at.b2, rows, HIDDEN2, batch->hidden2);
	network->gemm(false, true, rows, HIDDEN2, HIDDEN1, batch->hidden1, parameters + at.w2, 1, batch->hidden2);
	rectify(batch->hidden2, (size_t) rows * HIDDEN2, network->dropout, dropout_rng);
	set_rows(parameters + at.b3, rows, grades, batch->logits);
	network->gemm(false, true, rows, grades, HIDDEN2, batch->hidden2, parameters + at.w3, 1, batch->logits);
}

static void
sum_rows(const SermReal *values, uint32_t rows, uint32_t width, SermReal *sums)
{
	memset(sums, 0, width * sizeof(*sums));
	for (uint32_t r = 0; r < rows; r++)
		for (uint32_t i = 0; i < width; i++)
			sums[i] += values[(size_t) r * width + i];
}

/* The derivative of rectify(): `scale` where the value passed. */
static void
gate(const SermReal *values, size_t count, SermReal scale, SermReal *gradient)
{
	for (size_t i = 0; i < count; i++)
		gradient[i] = values[i] > 0 ? scale * gradient[i] : 0;
}

void
serm_network_backward(const SermNetwork *network, const SermReal *parameters, uint32_t rows, bool dropped,
    SermNetworkBatch *batch, SermReal *gradient)
{
	SermNetworkLayout at = serm_network_layout(network);
	uint32_t inputs = network->input_count, grades = network->grade_count;
	SermGemm gemm = network->gemm;
	SermReal scale = dropped ? (SermReal) (1 / (1 - network->dropout)) : 1;

	gemm(true, false, grades, HIDDEN2, rows, batch->d_logits, batch->hidden2, 0, gradient + at.w3);
	sum_rows(batch->d_logits, rows, grades, gradient + at.b3);
	gemm(false, false, rows, HIDDEN2, grades, batch->d_logits, parameters + at.w3, 0, batch->d_hidden2);
	gate(batch->hidden2, (size_t) rows * HIDDEN2, scale, batch->d_hidden2);

	gemm(true, false, HIDDEN2, HIDDEN1, rows, batch->d_hidden2, batch->hidden1, 0, gradient + at.w2);
	sum_rows(batch->d_hidden2, rows, HIDDEN2, gradient + at.b2);
	gemm(false, false, rows, HIDDEN1, HIDDEN2, batch->d_hidden2, parameters + at.w2, 0, batch->d_hidden1);
	gate(batch->hidden1, (size_t) rows * HIDDEN1, scale, batch->d_hidden1);

	gemm(true, false, HIDDEN1, inputs, rows, batch->d_hidden1, batch->input, 0, gradient + at.w1);
	sum_rows(batch->d_hidden1, rows, HIDDEN1, gradient + at.b1);
}
