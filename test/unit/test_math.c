#include "core/base/rng.h"
#include "core/math/kernels.h"
#include "core/math/vector.h"
#include "unit.h"

#ifdef SERM_REAL_DOUBLE
#define TOLERANCE 1e-12
#else
#define TOLERANCE 2e-5
#endif

static void
fill(SermRng *rng, SermReal *values, size_t count)
{
	for (size_t i = 0; i < count; i++)
		values[i] = (SermReal) serm_rng_normal(rng);
}

static void
test_vectors(SermArena *arena)
{
	static const size_t lengths[] = {0, 1, 3, 4, 7, 15, 16, 17, 31, 63, 64, 65, 73, 129, 1000};
	double dot_worst = 0, axpy_worst = 0;
	bool exact_small;
	SermRng rng;

	serm_rng_seed(&rng, 1);
	for (size_t l = 0; l < SERM_LENGTH(lengths); l++) {
		size_t n = lengths[l];
		SermReal *x = serm_arena_array(arena, n + 1, sizeof(*x)),
		         *y = serm_arena_array(arena, n + 1, sizeof(*y));
		SermReal *z = serm_arena_array(arena, n + 1, sizeof(*z));
		double sum = 0, scale = 1;

		fill(&rng, x, n);
		fill(&rng, y, n);
		y[n] = z[n] = 77;
		for (size_t i = 0; i < n; i++) {
			sum += (double) x[i] * y[i];
			scale += fabs((double) x[i] * y[i]);
			z[i] = y[i];
		}
		dot_worst = fmax(dot_worst, fabs(serm_dot(x, y, n) - sum) / scale);
		serm_axpy((SermReal) -0.75, x, z, n);
		for (size_t i = 0; i < n; i++)
			axpy_worst = fmax(axpy_worst, fabs(z[i] - (y[i] - 0.75 * x[i])));
		axpy_worst = fmax(axpy_worst, fabs(z[n] - 77));
	}
	CHECK(dot_worst < TOLERANCE, "dot agrees with the naive sum at every length");
	CHECK(axpy_worst < TOLERANCE, "axpy agrees and writes nothing behind the end");
	exact_small = serm_dot((SermReal[]){1, 2, 3}, (SermReal[]){4, 5, 6}, 3) == 32;
	CHECK(exact_small, "dot of small integers is exact");
}

static void
test_affine(SermArena *arena)
{
	enum { JOBS = 7, INPUTS = 73 };
	static const size_t outputs[] = {16, 32, 64, 48};
	double worst = 0;
	size_t different = 0, twins = 0, leaks = 0;
	uint16_t index[INPUTS];
	SermRng rng;

	serm_rng_seed(&rng, 2);
	for (size_t s = 0; s < SERM_LENGTH(outputs); s++) {
		size_t m = outputs[s], used = 0;
		SermReal *w = serm_arena_array(arena, JOBS * INPUTS * m, sizeof(*w));
		SermReal *b = serm_arena_array(arena, JOBS * m, sizeof(*b));
		SermReal *x = serm_arena_array(arena, JOBS * INPUTS, sizeof(*x));
		SermReal *y = serm_arena_array(arena, JOBS * m, sizeof(*y)),
		         *twin = serm_arena_array(arena, m, sizeof(*y));
		SermAffine jobs[JOBS];

		fill(&rng, w, JOBS * INPUTS * m);
		fill(&rng, b, JOBS * m);
		fill(&rng, x, JOBS * INPUTS);
		for (size_t i = 0; i < INPUTS; i++) {
			bool zero = i % 5 == 2;

			for (size_t j = 0; zero && j < JOBS; j++)
				x[j * INPUTS + i] = 0;
			index[used] = (uint16_t) i;
			used += !zero;
		}
		for (size_t j = 0; j < JOBS; j++)
			jobs[j] = (SermAffine){w + j * INPUTS * m, b + j * m, x + j * INPUTS, y + j * m};
		serm_affine(jobs, JOBS, index, used, m, s % 2 == 1);
		for (size_t j = 0; j < JOBS; j++) {
			SermAffine alone = jobs[j];
			uint16_t all[INPUTS];

			for (size_t i = 0; i < INPUTS; i++)
				all[i] = (uint16_t) i;
			alone.y = twin;
			serm_affine(&alone, 1, all, INPUTS, m, s % 2 == 1);
			different += memcmp(twin, jobs[j].y, m * sizeof(*y)) != 0;
			for (size_t bytes = 16; bytes <= 64; bytes *= 2) {
				if (!serm_affine_with(bytes, &alone, 1, index, used, m, s % 2 == 1))
					continue;
				twins++;
				for (size_t o = 0; o < m; o++)
					worst = fmax(worst, fabs(twin[o] - jobs[j].y[o]) / (1 + fabs(twin[o])));
			}
			for (size_t o = 0; o < m; o++) {
				double sum = b[j * m + o];

				for (size_t i = 0; i < INPUTS; i++)
					sum += (double) w[(j * INPUTS + i) * m + o] * x[j * INPUTS + i];
				leaks += s % 2 == 1 && jobs[j].y[o] < 0;
				worst = fmax(worst, fabs(jobs[j].y[o] - (s % 2 == 1 && sum < 0 ? 0 : sum)) / (1 + fabs(sum)));
			}
		}
	}
	CHECK(worst < TOLERANCE, "products agree with the naive ones, and with every width of vector");
	CHECK(
	    twins >= JOBS * SERM_LENGTH(outputs), "of which there were %zu", twins / JOBS / SERM_LENGTH(outputs));
	CHECK(different == 0, "a product alone, zeros included, has the same bits as among others without them");
	CHECK(leaks == 0, "nothing negative is left of what is rectified");
}

/* op(A) and op(B) written out, so that the check shares no index arithmetic with the kernel. */
static double
gemm_error(SermArena *arena, SermRng *rng, const size_t shape[3], bool ta, bool tb, bool add)
{
	size_t m = shape[0], n = shape[1], k = shape[2];
	SermArenaMark mark = serm_arena_mark(arena);
	SermReal *a = serm_arena_array(arena, m * k + 1, sizeof(*a)),
	         *b = serm_arena_array(arena, k * n + 1, sizeof(*b));
	SermReal *c = serm_arena_array(arena, m * n + 1, sizeof(*c)),
	         *before = serm_arena_array(arena, m * n + 1, sizeof(*c));
	double worst = 0;

	fill(rng, a, m * k);
	fill(rng, b, k * n);
	fill(rng, c, m * n + 1);
	memcpy(before, c, (m * n + 1) * sizeof(*c));
	serm_gemm_builtin(ta, tb, m, n, k, a, b, add, c);
	for (size_t i = 0; i < m; i++)
		for (size_t j = 0; j < n; j++) {
			double sum = add ? before[i * n + j] : 0, scale = 1;

			for (size_t p = 0; p < k; p++) {
				double term =
				    (double) (ta ? a[p * m + i] : a[i * k + p]) * (tb ? b[j * k + p] : b[p * n + j]);

				sum += term;
				scale += fabs(term);
			}
			worst = fmax(worst, fabs(c[i * n + j] - sum) / scale);
		}
	if (c[m * n] != before[m * n])
		worst = 1;
	serm_arena_rewind(arena, mark);
	return worst;
}

static void
test_gemm(SermArena *arena)
{
	static const size_t shapes[][3] = {{1, 1, 1}, {5, 7, 3}, {6, 32, 256}, {7, 33, 257}, {256, 64, 73},
	    {64, 73, 256}, {100, 4, 32}, {13, 100, 600}, {0, 3, 2}, {3, 5, 0}};
	SermRng rng;

	serm_rng_seed(&rng, 3);
	for (int mode = 0; mode < 8; mode++) {
		double worst = 0;

		for (size_t s = 0; s < SERM_LENGTH(shapes); s++)
			worst =
			    fmax(worst, gemm_error(arena, &rng, shapes[s], mode & 1, (mode & 2) != 0, (mode & 4) != 0));
		CHECK(
		    worst < TOLERANCE, "gemm: A%s B%s beta %d", mode & 1 ? "'" : "", mode & 2 ? "'" : "", mode >> 2);
	}
}

static void
test_gemm_rows(SermArena *arena)
{
	size_t m = 45, n = 40, k = 300;
	SermReal *a = serm_arena_array(arena, m * k, sizeof(*a)), *b = serm_arena_array(arena, k * n, sizeof(*b));
	SermReal *c = serm_arena_array(arena, m * n, sizeof(*c)), row[40];
	bool same = true;
	SermRng rng;

	serm_rng_seed(&rng, 4);
	fill(&rng, a, m * k);
	fill(&rng, b, k * n);
	serm_gemm_builtin(false, true, m, n, k, a, b, 0, c);
	for (size_t i = 0; i < m; i++) {
		serm_gemm_builtin(false, true, 1, n, k, a + i * k, b, 0, row);
		same = same && memcmp(row, c + i * n, sizeof(row)) == 0;
	}
	CHECK(same, "a row of a product does not depend on how many rows there are");
}

int
main(void)
{
	SermArena arena = unit_arena();

	test_vectors(&arena);
	test_affine(&arena);
	test_gemm(&arena);
	test_gemm_rows(&arena);
	serm_arena_free(&arena);
	DONE();
}
