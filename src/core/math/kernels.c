/*
 * One copy of the kernels per instruction set and the choice among them. The
 * choice is made at every call from the processor's features, so there is no
 * state to set up and none to share between threads.
 */
#include "core/math/kernels.h"

#include <string.h>

#include "core/math/vector.h"

#define TILE_ROWS ((size_t) 6)
#define TILE_DEPTH ((size_t) 256)

/* 16 bytes is what every x86-64 and every 64-bit ARM has. */
#define VECTOR_BYTES 16
#define TARGET
#define NAMED(name) name##_16
#include "core/math/kernels_template.h"

#if defined(__x86_64__)
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2,fma")))
#define NAMED(name) name##_32
#include "core/math/kernels_template.h"

#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#define NAMED(name) name##_64
#include "core/math/kernels_template.h"

static bool
has_64(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}

static bool
has_32(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define CHOOSE(name, ...)                                                                                    \
	(has_64() ? name##_64(__VA_ARGS__) : has_32() ? name##_32(__VA_ARGS__) : name##_16(__VA_ARGS__))
#else
#define CHOOSE(name, ...) name##_16(__VA_ARGS__)
#endif

SermVectorLevel
serm_vector_level(void)
{
#if defined(__x86_64__)
	return has_64() ? SERM_VECTOR_AVX512 : has_32() ? SERM_VECTOR_AVX2 : SERM_VECTOR_PLAIN;
#else
	return SERM_VECTOR_PLAIN;
#endif
}

SermReal
serm_dot(const SermReal *x, const SermReal *y, size_t n)
{
	return CHOOSE(dot, x, y, n);
}

void
serm_axpy(SermReal alpha, const SermReal *x, SermReal *y, size_t n)
{
	CHOOSE(axpy, alpha, x, y, n);
}

bool
serm_affine_with(size_t vector_bytes, const SermAffine *jobs, size_t job_count, const uint16_t *index,
    size_t count, size_t outputs, bool rectify)
{
	SERM_ASSERT(outputs % SERM_AFFINE_OUTPUTS == 0);
#if defined(__x86_64__)
	if (vector_bytes > 32 ? !has_64() : vector_bytes > 16 && !has_32())
		return false;
#else
	if (vector_bytes > 16)
		return false;
#endif
	for (size_t first = 0; first < job_count; first += 4) {
		const SermAffine *four[4];

		/* Past the end the last one is computed again. */
		for (size_t j = 0; j < 4; j++)
			four[j] = &jobs[first + j < job_count ? first + j : job_count - 1];
#if defined(__x86_64__)
		if (vector_bytes > 32)
			affine_64(four, index, count, outputs, rectify);
		else if (vector_bytes > 16)
			affine_32(four, index, count, outputs, rectify);
		else
#endif
			affine_16(four, index, count, outputs, rectify);
	}
	return true;
}

void
serm_affine(const SermAffine *jobs, size_t job_count, const uint16_t *index, size_t count, size_t outputs,
    bool rectify)
{
	static const size_t vector_bytes[] = {
	    [SERM_VECTOR_PLAIN] = 16, [SERM_VECTOR_AVX2] = 32, [SERM_VECTOR_AVX512] = 64};

	(void) serm_affine_with(
	    vector_bytes[serm_vector_level()], jobs, job_count, index, count, outputs, rectify);
}

void
serm_gemm_builtin(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, const SermReal *a,
    const SermReal *b, SermReal beta, SermReal *c)
{
	SERM_ASSERT(beta == 0 || beta == 1);
	if (k == 0 && beta == 0 && m * n > 0)
		memset(c, 0, m * n * sizeof(SermReal));
	CHOOSE(gemm, transpose_a, transpose_b, m, n, k, a, b, beta, c);
}
