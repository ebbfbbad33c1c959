#include "core/math/int8.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/math/cpu.h"

#define PANEL ((size_t) 32)
#define FOUR ((size_t) 4)
#define WEIGHT_MAX 127

#if defined(__x86_64__) && !defined(SERM_REAL_DOUBLE)
#define HAVE_VNNI 1
#define TARGET_VNNI __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,avx2,fma")))
#else
#define HAVE_VNNI 0
#endif

/* Where things lie in the packed weights. */
typedef struct Packed {
	const int8_t *weights; /* [panels][in / 4][PANEL][4] */
	const float *scale;    /* [panels x PANEL] */
	const int32_t *sum;    /* [panels x PANEL] of the weights of each output */
} Packed;

size_t
serm_int8_row_bytes(size_t in)
{
	return (in + FOUR - 1) / FOUR * FOUR;
}

static size_t
outputs_of(size_t out)
{
	return (out + PANEL - 1) / PANEL * PANEL;
}

size_t
serm_int8_packed_bytes(size_t out, size_t in)
{
	return outputs_of(out) * (serm_int8_row_bytes(in) + sizeof(float) + sizeof(int32_t));
}

static Packed
open_packed(size_t out, size_t in, const void *packed)
{
	Packed opened = {.weights = packed};

	opened.scale = (const float *) (opened.weights + outputs_of(out) * serm_int8_row_bytes(in));
	opened.sum = (const int32_t *) (opened.scale + outputs_of(out));
	return opened;
}

void
serm_int8_pack(size_t out, size_t in, const SermReal *weights, void *packed)
{
	Packed at = open_packed(out, in, packed);
	int8_t *panels = packed;
	float *scale = (float *) at.scale;
	int32_t *sum = (int32_t *) at.sum;
	size_t fours = serm_int8_row_bytes(in) / FOUR;

	memset(packed, 0, serm_int8_packed_bytes(out, in));
	for (size_t o = 0; o < out; o++) {
		const SermReal *row = weights + o * in;
		double largest = 0;

		for (size_t i = 0; i < in; i++)
			largest = fmax(largest, fabs((double) row[i]));
		scale[o] = (float) (largest / WEIGHT_MAX);
		for (size_t i = 0; i < in && largest > 0; i++) {
			int8_t value = (int8_t) lrint((double) row[i] / largest * WEIGHT_MAX);

			panels[((o / PANEL * fours + i / FOUR) * PANEL + o % PANEL) * FOUR + i % FOUR] = value;
			sum[o] += value;
		}
	}
}

void
serm_int8_unpack(size_t out, size_t in, const void *packed, SermReal *weights)
{
	Packed at = open_packed(out, in, packed);
	size_t fours = serm_int8_row_bytes(in) / FOUR;

	for (size_t o = 0; o < out; o++)
		for (size_t i = 0; i < in; i++)
			weights[o * in + i] =
			    (SermReal) at.scale[o] *
			    at.weights[((o / PANEL * fours + i / FOUR) * PANEL + o % PANEL) * FOUR + i % FOUR];
}

/* The range that the scale must cover: 0 is always in it, so that it is represented exactly. */
static SermQuantised
scale_of(float low, float high)
{
	SermQuantised row = {(high - low) / 255, 0};

	if (row.scale > 0)
		row.zero = (int32_t) lrintf(-low / row.scale);
	else
		row.scale = 1;
	return row;
}

static SermQuantised
quantise_plain(size_t in, const SermReal *x, uint8_t *q)
{
	float low = 0, high = 0, inverse;
	SermQuantised row;

	for (size_t i = 0; i < in; i++) {
		low = x[i] < low ? (float) x[i] : low;
		high = x[i] > high ? (float) x[i] : high;
	}
	row = scale_of(low, high);
	inverse = 1 / row.scale;
	for (size_t i = 0; i < in; i++) {
		long value = lrintf((float) x[i] * inverse) + row.zero;

		q[i] = (uint8_t) (value < 0 ? 0 : value > 255 ? 255 : value);
	}
	memset(q + in, 0, serm_int8_row_bytes(in) - in);
	return row;
}

/* (sum - zero x sum of weights) x scales + bias for one row and one panel. */
static void
finish_plain(const SermInt8Product *product, const Packed *packed, size_t r, size_t j0, const int32_t *sums)
{
	const SermQuantised *row = &product->row[r];
	size_t columns = product->out - j0 < PANEL ? product->out - j0 : PANEL;

	for (size_t j = 0; j < columns; j++) {
		SermReal value = (SermReal) (sums[j] - row->zero * packed->sum[j0 + j]) *
		                 (SermReal) (row->scale * packed->scale[j0 + j]);

		product->y[r * product->out + j0 + j] = product->bias == NULL ? value : value + product->bias[j0 + j];
	}
}

static void
multiply_plain(const SermInt8Product *product)
{
	Packed packed = open_packed(product->out, product->in, product->packed);
	size_t bytes = serm_int8_row_bytes(product->in);

	for (size_t r = 0; r < product->rows; r++)
		for (size_t j0 = 0; j0 < product->out; j0 += PANEL) {
			const int8_t *w = packed.weights + j0 * bytes;
			const uint8_t *q = product->q + r * bytes;
			int32_t sums[PANEL] = {0};

			for (size_t i = 0; i < bytes; i += FOUR, w += PANEL * FOUR)
				for (size_t j = 0; j < PANEL; j++)
					for (size_t f = 0; f < FOUR; f++)
						sums[j] += (int32_t) q[i + f] * w[j * FOUR + f];
			finish_plain(product, &packed, r, j0, sums);
		}
}

#if HAVE_VNNI
static bool
has_vnni(void)
{
	return serm_cpu_vector_bytes() == 64 && __builtin_cpu_supports("avx512vnni");
}

TARGET_VNNI static SermQuantised
quantise_vnni(size_t in, const SermReal *x, uint8_t *q)
{
	__m512 low = _mm512_setzero_ps(), high = low, inverse;
	__m512i zero, none = _mm512_setzero_si512();
	SermQuantised row;

	for (size_t i = 0; i < in; i += 16) {
		__mmask16 mask = (__mmask16) (in - i < 16 ? (1u << (in - i)) - 1 : 0xffff);
		__m512 v = _mm512_maskz_loadu_ps(mask, x + i);

		low = _mm512_min_ps(low, v);
		high = _mm512_max_ps(high, v);
	}
	row = scale_of(_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high));
	inverse = _mm512_set1_ps(1 / row.scale);
	zero = _mm512_set1_epi32(row.zero);
	for (size_t i = 0; i < in; i += 16) {
		__mmask16 mask = (__mmask16) (in - i < 16 ? (1u << (in - i)) - 1 : 0xffff);
		__m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));

		v = _mm512_max_epi32(_mm512_add_epi32(v, zero), none);
		_mm512_mask_cvtusepi32_storeu_epi8(q + i, mask, v);
	}
	memset(q + in, 0, serm_int8_row_bytes(in) - in);
	return row;
}

#define START(row) __m512i x##row = _mm512_setzero_si512(), y##row = x##row
#define STEP(row)                                                                                            \
	if (rows > (row)) {                                                                                      \
		__m512i four = _mm512_set1_epi32(*(const int *) (q + (row) *bytes));                                 \
		x##row = _mm512_dpbusd_epi32(x##row, four, w0);                                                      \
		y##row = _mm512_dpbusd_epi32(y##row, four, w1);                                                      \
	}
#define STOP(row)                                                                                            \
	if (rows > (row))                                                                                        \
	_mm512_storeu_si512(sums + (row) *PANEL, x##row), _mm512_storeu_si512(sums + (row) *PANEL + 16, y##row)
#define EACH(what)                                                                                           \
	what(0);                                                                                                 \
	what(1);                                                                                                 \
	what(2);                                                                                                 \
	what(3);                                                                                                 \
	what(4);                                                                                                 \
	what(5);                                                                                                 \
	what(6);                                                                                                 \
	what(7);                                                                                                 \
	what(8);                                                                                                 \
	what(9);                                                                                                 \
	what(10);                                                                                                \
	what(11)
#define ROWS ((size_t) 12)
#define BLOCK (14 * ROWS)

/* sums [rows][PANEL]; `rows` is a constant at each place that calls. `soon` is asked for, a part in each
 * step. */
TARGET_VNNI static inline __attribute__((always_inline)) void
tile_of(const size_t rows, size_t bytes, const uint8_t *q, const int8_t *w, const int8_t *soon, size_t part,
    int32_t *sums)
{
	EACH(START);
	for (size_t i = 0; i < bytes; i += FOUR, q += FOUR, w += PANEL * FOUR, soon += part) {
		__m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 64);

		_mm_prefetch((const char *) soon, _MM_HINT_T1);
		EACH(STEP);
	}
	EACH(STOP);
}

TARGET_VNNI static void
tile(size_t rows, size_t bytes, const uint8_t *q, const int8_t *w, const int8_t *soon, size_t part,
    int32_t *sums)
{
	if (rows == 12)
		tile_of(12, bytes, q, w, soon, part, sums);
	else if (rows >= 8)
		tile_of(8, bytes, q, w, soon, part, sums);
	else if (rows >= 4)
		tile_of(4, bytes, q, w, soon, part, sums);
	else if (rows >= 2)
		tile_of(2, bytes, q, w, soon, part, sums);
	else
		tile_of(1, bytes, q, w, soon, part, sums);
}

TARGET_VNNI static void
finish_vnni(const SermInt8Product *product, const Packed *packed, size_t r, size_t j0, const int32_t *sums)
{
	const SermQuantised *row = &product->row[r];
	__m512i zero = _mm512_set1_epi32(row->zero);
	__m512 scale = _mm512_set1_ps(row->scale);

	for (size_t j = j0; j < j0 + PANEL && j < product->out; j += 16) {
		__mmask16 mask = (__mmask16) (product->out - j < 16 ? (1u << (product->out - j)) - 1 : 0xffff);
		__m512i sum = _mm512_sub_epi32(
		    _mm512_loadu_si512(sums + j - j0), _mm512_mullo_epi32(zero, _mm512_loadu_si512(packed->sum + j)));
		__m512 bias =
		    product->bias == NULL ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, product->bias + j);
		__m512 factor = _mm512_mul_ps(scale, _mm512_loadu_ps(packed->scale + j));

		_mm512_mask_storeu_ps(
		    product->y + r * product->out + j, mask, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, bias));
	}
}

/* Every panel of weights meets a block of rows, and the next one is on its way from memory meanwhile. */
TARGET_VNNI static void
multiply_vnni(const SermInt8Product *product)
{
	Packed packed = open_packed(product->out, product->in, product->packed);
	size_t bytes = serm_int8_row_bytes(product->in), rows;
	size_t blocks = (product->rows + BLOCK - 1) / BLOCK;
	size_t equal = blocks == 0 ? 1 : ((product->rows + blocks - 1) / blocks + ROWS - 1) / ROWS * ROWS;
	int32_t sums[ROWS * PANEL] __attribute__((aligned(64)));

	for (size_t b0 = 0; b0 < product->rows; b0 += equal) {
		size_t block = product->rows - b0 < equal ? product->rows - b0 : equal;
		size_t part = PANEL * FOUR / ((block + ROWS - 1) / ROWS);

		for (size_t j0 = 0; j0 < product->out; j0 += PANEL) {
			const int8_t *weights = packed.weights + j0 * bytes, *soon = weights + PANEL * bytes;

			for (size_t r0 = b0; r0 < b0 + block; r0 += rows, soon += part * (bytes / FOUR)) {
				size_t left = b0 + block - r0;

				rows = left >= 12 ? 12 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
				tile(rows, bytes, product->q + r0 * bytes, weights, soon, part, sums);
				for (size_t r = 0; r < rows; r++)
					finish_vnni(product, &packed, r0 + r, j0, sums + r * PANEL);
			}
		}
	}
}
#endif

SermQuantised
serm_int8_quantise(size_t in, const SermReal *x, uint8_t *q)
{
#if HAVE_VNNI
	if (has_vnni())
		return quantise_vnni(in, x, q);
#endif
	return quantise_plain(in, x, q);
}

bool
serm_int8_fast(void)
{
#if HAVE_VNNI
	return has_vnni();
#else
	return false;
#endif
}

bool
serm_int8_multiply_with(bool vnni, const SermInt8Product *product)
{
#if HAVE_VNNI
	if (vnni && has_vnni()) {
		multiply_vnni(product);
		return true;
	}
#endif
	if (vnni)
		return false;
	multiply_plain(product);
	return true;
}

void
serm_int8_multiply(const SermInt8Product *product)
{
	if (!serm_int8_multiply_with(true, product))
		(void) serm_int8_multiply_with(false, product);
}
