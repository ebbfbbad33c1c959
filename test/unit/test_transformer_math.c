/*
 * The kernels of a transformer against plain loops in double: products with a
 * packed side, the curves, softmax and layer normalisation, at every width of
 * vectors that this processor has.
 */
#include "core/base/rng.h"
#include "core/math/activation.h"
#include "core/math/gemm.h"
#include "core/math/int8.h"
#include "core/math/linear.h"
#include "unit.h"

#ifdef SERM_REAL_DOUBLE
#define TOLERANCE 1e-12
#else
#define TOLERANCE 4e-7
#endif

static const size_t widths[] = {16, 32, 64};

static void
fill(SermRng *rng, SermReal *values, size_t count)
{
	for (size_t i = 0; i < count; i++)
		values[i] = (SermReal) serm_rng_normal(rng);
}

/* The largest error in units of sum |a b| over the elements of one product. */
static double
product_error(const SermProduct *product, const SermReal *plain, const SermReal *before, const SermReal *c)
{
	double worst = 0;

	for (size_t i = 0; i < product->m; i++)
		for (size_t j = 0; j < product->n; j++) {
			double sum = 0, scale = 1;

			if (product->add)
				sum = before[i * product->c_row + j];
			else if (product->bias != NULL)
				sum = product->bias[j];
			for (size_t p = 0; p < product->k; p++) {
				double term =
				    (double) product->a[i * product->a_row + p * product->a_step] * plain[p * product->n + j];

				sum += term, scale += fabs(term);
			}
			worst = fmax(worst, fabs(c[i * product->c_row + j] - sum) / scale);
		}
	return worst;
}

/* One shape in both layouts of both sides, from nothing, from a bias and from what is there. */
static double
shape_error(size_t m, size_t n, size_t k, size_t width, SermArena *arena, SermRng *rng, bool *clean)
{
	size_t c_row = n + 5;
	SermReal *a = serm_arena_array(arena, m * k, sizeof(*a)), *b = serm_arena_array(arena, n * k, sizeof(*b));
	SermReal *turned = serm_arena_array(arena, n * k, sizeof(*b)),
	         *bias = serm_arena_array(arena, n, sizeof(*b));
	SermReal *packed = serm_arena_array(arena, serm_panels_count(n, k), sizeof(*b));
	SermReal *c = serm_arena_array(arena, m * c_row, sizeof(*c)),
	         *before = serm_arena_array(arena, m * c_row, sizeof(*c));
	double worst = 0;

	fill(rng, a, m * k), fill(rng, b, n * k), fill(rng, bias, n), fill(rng, before, m * c_row);
	for (size_t p = 0; p < k; p++)
		for (size_t j = 0; j < n; j++)
			turned[j * k + p] = b[p * n + j];
	for (int way = 0; way < 8; way++) {
		bool turn_a = way & 1, add = way & 2;
		SermProduct product = {
		    m, n, k, a, turn_a ? 1 : k, turn_a ? m : 1, packed, way & 4 ? bias : NULL, add, c, c_row};

		serm_panels_pack(way & 4, n, k, way & 4 ? turned : b, way & 4 ? k : n, packed);
		memcpy(c, before, m * c_row * sizeof(*c));
		if (!serm_panels_multiply_with(width, &product))
			return 0;
		worst = fmax(worst, product_error(&product, b, before, c));
		for (size_t i = 0; i < m; i++)
			for (size_t j = n; j < c_row; j++)
				*clean = *clean && c[i * c_row + j] == before[i * c_row + j];
	}
	return worst;
}

static void
test_products(SermArena *arena)
{
	static const size_t sizes[][3] = {{1, 1, 1}, {1, 32, 8}, {3, 33, 5}, {5, 16, 64}, {6, 31, 7},
	    {7, 64, 129}, {13, 40, 33}, {14, 32, 16}, {15, 96, 700}, {29, 65, 31}, {64, 312, 26}, {2, 7, 0}};
	SermRng rng;

	serm_rng_seed(&rng, 41);
	for (size_t w = 0; w < SERM_LENGTH(widths); w++) {
		double worst = 0;
		bool clean = true;

		for (size_t s = 0; s < SERM_LENGTH(sizes); s++) {
			SermArenaMark mark = serm_arena_mark(arena);

			worst = fmax(
			    worst, shape_error(sizes[s][0], sizes[s][1], sizes[s][2], widths[w], arena, &rng, &clean));
			serm_arena_rewind(arena, mark);
		}
		CHECK(worst < TOLERANCE, "products with vectors of %zu bytes", widths[w]);
		CHECK(clean, "products with vectors of %zu bytes: nothing behind the last column is written",
		    widths[w]);
	}
}

/* A row has the same bits alone and among others, or the score of a pair would depend on its batch. */
static void
test_rows_alone(SermArena *arena)
{
	enum { M = 33, N = 72, K = 200 };
	SermReal *a = serm_arena_array(arena, M * K, sizeof(*a)), *b = serm_arena_array(arena, N * K, sizeof(*b));
	SermReal *packed = serm_arena_array(arena, serm_panels_count(N, K), sizeof(*b));
	SermReal *c = serm_arena_array(arena, M * N, sizeof(*c)), alone[N];
	bool same = true;
	SermRng rng;

	serm_rng_seed(&rng, 42);
	fill(&rng, a, M * K), fill(&rng, b, N * K);
	serm_panels_pack(true, N, K, b, K, packed);
	for (size_t w = 0; w < SERM_LENGTH(widths); w++) {
		SermProduct all = {M, N, K, a, K, 1, packed, NULL, false, c, N};

		if (!serm_panels_multiply_with(widths[w], &all))
			continue;
		for (size_t i = 0; i < M; i++) {
			SermProduct one = {1, N, K, a + i * K, K, 1, packed, NULL, false, alone, N};

			serm_panels_multiply_with(widths[w], &one);
			same = same && memcmp(alone, c + i * N, sizeof(alone)) == 0;
		}
	}
	CHECK(same, "a row of a product has the same bits alone");
}

static double
curve_plain(SermCurve curve, double x)
{
	switch (curve) {
		case SERM_CURVE_GELU:
			return .5 * x * erfc(-x / sqrt(2));
		case SERM_CURVE_GELU_TANH:
			return .5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + .044715 * x * x * x)));
		case SERM_CURVE_RELU:
			return x > 0 ? x : 0;
		default:
			return x / (1 + exp(-x));
	}
}

static void
test_curves(SermArena *arena)
{
	static const char *const names[] = {"gelu", "gelu of tanh", "relu", "silu"};
	enum { COUNT = 60011 };
	SermReal *x = serm_arena_array(arena, COUNT, sizeof(*x)), *y = serm_arena_array(arena, COUNT, sizeof(*x));

	for (size_t i = 0; i < COUNT; i++)
		x[i] = (SermReal) (-15 + 30.0 * (double) i / (COUNT - 1));
	for (int curve = 0; curve < SERM_CURVE_COUNT; curve++) {
		double worst = 0, slope_worst = 0;
		bool same = true;

		for (size_t w = 0; w < SERM_LENGTH(widths); w++) {
			SermReal part[3];

			if (!serm_curve_with(widths[w], (SermCurve) curve, x, y, COUNT))
				continue;
			for (size_t i = 0; i < COUNT; i++)
				worst = fmax(worst, fabs(y[i] - curve_plain((SermCurve) curve, x[i])) / fmax(1, fabs(x[i])));
			serm_curve_with(widths[w], (SermCurve) curve, x + 30000, part, 3);
			same = same && memcmp(part, y + 30000, sizeof(part)) == 0;
		}
		CHECK(worst < TOLERANCE, "%s is exact to %.0e", names[curve], TOLERANCE);
		CHECK(same, "%s of a number does not depend on where it lies", names[curve]);
		for (size_t i = 0; i < COUNT; i++)
			y[i] = 2;
		serm_curve_back((SermCurve) curve, x, y, COUNT);
		for (size_t i = 0; i < COUNT; i++) {
			double at = x[i], step = 1e-5;

			if (curve != SERM_CURVE_RELU || fabs(at) > 1e-3)
				slope_worst = fmax(slope_worst, fabs(y[i] - (curve_plain((SermCurve) curve, at + step) -
				                                                curve_plain((SermCurve) curve, at - step)) /
				                                                step));
		}
		CHECK(slope_worst < 1e-5, "%s: derivative", names[curve]);
	}
}

static void
test_softmax(void)
{
	static const size_t lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 100, 129};
	SermRng rng;

	serm_rng_seed(&rng, 43);
	for (size_t w = 0; w < SERM_LENGTH(widths); w++) {
		double worst = 0;
		bool cleared = true;

		for (size_t l = 0; l < SERM_LENGTH(lengths); l++) {
			size_t n = lengths[l];
			SermReal x[160], y[160], sum;
			double top = -1e9, total = 0;

			fill(&rng, x, 160);
			for (size_t i = 0; i < n; i++)
				x[i] *= 10, top = fmax(top, x[i]);
			memcpy(y, x, sizeof(x));
			if (!serm_softmax_with(widths[w], y, n, (SermReal) .7, &sum))
				break;
			for (size_t i = 0; i < n; i++) {
				double truth = exp((SermReal) .7 * (x[i] - top));

				total += truth;
				worst = fmax(worst, fabs(y[i] - truth));
			}
			worst = fmax(worst, fabs(sum / total - 1));
			for (size_t i = n; i < (n + 31) / 32 * 32; i++)
				cleared = cleared && y[i] == 0;
		}
		CHECK(worst < 2 * TOLERANCE && cleared, "softmax with vectors of %zu bytes", widths[w]);
	}
}

static void
test_norm(void)
{
	enum { N = 77 };
	SermReal x[N], residual[N], gamma[N], beta[N], y[N], hat[N], d_y[N], d_x[N], d_gamma[N] = {0},
	                                                                             d_beta[N] = {0};
	SermNorm norm = {N, (SermReal) 1e-5, gamma, beta};
	double mean = 0, variance = 0, worst = 0, worst_back = 0, inner = 0, moved[N];
	SermReal factor;
	SermRng rng;

	serm_rng_seed(&rng, 44);
	fill(&rng, x, N), fill(&rng, residual, N), fill(&rng, gamma, N), fill(&rng, beta, N), fill(&rng, d_y, N);
	for (int i = 0; i < N; i++)
		moved[i] = (double) x[i] + residual[i], mean += moved[i] / N;
	for (int i = 0; i < N; i++)
		variance += (moved[i] - mean) * (moved[i] - mean) / N;
	factor = serm_layer_norm(&norm, x, residual, y, hat);
	for (int i = 0; i < N; i++)
		worst = fmax(worst, fabs(y[i] - (gamma[i] * (moved[i] - mean) / sqrt(variance + 1e-5) + beta[i])));
	CHECK(worst < 5 * TOLERANCE, "layer normalisation");
	serm_layer_norm_back(&norm, hat, factor, d_y, d_x, d_gamma, d_beta);
	/* Moving one input moves all outputs: d_x by definition, from the derivative of the mean and the spread.
	 */
	for (int i = 0; i < N; i++) {
		double truth = 0;

		for (int j = 0; j < N; j++)
			truth +=
			    (double) d_y[j] * gamma[j] * factor * ((i == j) - 1.0 / N - (double) hat[i] * hat[j] / N);
		worst_back = fmax(worst_back, fabs(d_x[i] - truth));
		inner = fmax(inner, fabs(d_gamma[i] - (double) d_y[i] * hat[i]) + fabs(d_beta[i] - (double) d_y[i]));
	}
	CHECK(worst_back < 10 * TOLERANCE && inner < TOLERANCE, "layer normalisation: derivatives");
}

/* Layers of every precision near the truth, a row alone as among others, VNNI and plain C alike. */
static void
test_linear(SermArena *arena)
{
	enum { ROWS = 27, IN = 70, OUT = 45 };
	static const double tolerance[] = {TOLERANCE, 2e-3, 8e-3};
	SermReal *x = serm_arena_array(arena, ROWS * IN, sizeof(*x)),
	         *w = serm_arena_array(arena, OUT * IN, sizeof(*w));
	SermReal *y = serm_arena_array(arena, ROWS * OUT, sizeof(*y)), bias[OUT], alone[OUT];
	SermReal *back = serm_arena_array(arena, OUT * IN, sizeof(*back));
	SermRng rng;

	serm_rng_seed(&rng, 45);
	fill(&rng, x, ROWS * IN), fill(&rng, w, OUT * IN), fill(&rng, bias, OUT);
	for (int precision = 0; precision < SERM_PRECISION_COUNT; precision++) {
		SermLinear linear = {IN, OUT, (SermPrecision) precision, &serm_gemm_packed, NULL, bias};
		void *packed = serm_arena_alloc(arena, serm_linear_bytes(&linear));
		void *scratch = serm_arena_alloc(arena, serm_linear_scratch(&linear, ROWS) + 1);
		double worst = 0;
		bool same = true;

		serm_linear_pack(&linear, w, packed);
		linear.packed = packed;
		serm_linear_run(&linear, ROWS, x, y, scratch);
		for (size_t r = 0; r < ROWS; r++) {
			for (size_t o = 0; o < OUT; o++) {
				double sum = bias[o], scale = 1;

				for (size_t i = 0; i < IN; i++) {
					sum += (double) x[r * IN + i] * w[o * IN + i];
					scale += fabs((double) x[r * IN + i] * w[o * IN + i]);
				}
				worst = fmax(worst, fabs(y[r * OUT + o] - sum) / scale);
			}
			serm_linear_run(&linear, 1, x + r * IN, alone, scratch);
			same = same && memcmp(alone, y + r * OUT, sizeof(alone)) == 0;
		}
		CHECK(worst < tolerance[precision], "a linear layer in %s: %.2g of the sum of its terms",
		    serm_precision_name((SermPrecision) precision), worst);
		CHECK(same, "a linear layer in %s: a row alone", serm_precision_name((SermPrecision) precision));
		serm_linear_unpack(&linear, back);
		worst = 0;
		for (size_t i = 0; i < OUT * IN; i++)
			worst = fmax(worst, fabs((double) back[i] - w[i]));
		CHECK(precision == 0 ? worst == 0 : worst > 0 && worst < 2e-2, "its weights unpacked: within %.2g",
		    worst);
	}
}

static void
test_int8(SermArena *arena)
{
	enum { ROWS = 31, IN = 131, OUT = 77, BYTES = 132 };
	SermReal *x = serm_arena_array(arena, ROWS * IN, sizeof(*x)),
	         *w = serm_arena_array(arena, OUT * IN, sizeof(*w));
	SermReal *plain = serm_arena_array(arena, ROWS * OUT, sizeof(*plain)),
	         *fast = serm_arena_array(arena, ROWS * OUT, sizeof(*fast));
	uint8_t *q = serm_arena_alloc(arena, ROWS * BYTES);
	void *packed = serm_arena_alloc(arena, serm_int8_packed_bytes(OUT, IN));
	SermQuantised row[ROWS];
	SermInt8Product product = {ROWS, IN, OUT, q, row, packed, NULL, plain};
	double worst = 0, off = 0;
	SermRng rng;

	serm_rng_seed(&rng, 46);
	fill(&rng, x, ROWS * IN), fill(&rng, w, OUT * IN);
	memset(x + IN, 0, IN * sizeof(*x));
	for (size_t i = 0; i < IN; i++)
		x[2 * IN + i] = (SermReal) fabs(x[2 * IN + i]), w[i] = 0;
	CHECK(serm_int8_row_bytes(IN) == BYTES, "inputs come in fours");
	serm_int8_pack(OUT, IN, w, packed);
	for (size_t r = 0; r < ROWS; r++) {
		row[r] = serm_int8_quantise(IN, x + r * IN, q + r * BYTES);
		for (size_t i = 0; i < IN; i++)
			off = fmax(
			    off, fabs(row[r].scale * (q[r * BYTES + i] - row[r].zero) - x[r * IN + i]) / row[r].scale);
	}
	CHECK(off < 1.01, "a quantised input is within a step of what it was");
	serm_int8_multiply_with(false, &product);
	CHECK(plain[OUT + 1] == 0 && plain[0] == 0, "a row or an output of zeros gives 0");
	product.y = fast;
	if (!serm_int8_multiply_with(true, &product))
		printf("# this processor has no VNNI\n");
	else
		for (size_t i = 0; i < ROWS * OUT; i++)
			worst = fmax(worst, fabs(fast[i] - plain[i]) / (1 + fabs(plain[i])));
	CHECK(worst < 1e-6, "VNNI and plain C give the same products");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_products(&arena);
	test_rows_alone(&arena);
	test_curves(&arena);
	test_softmax();
	test_norm();
	test_linear(&arena);
	test_int8(&arena);
	serm_arena_free(&arena);
	DONE();
}
