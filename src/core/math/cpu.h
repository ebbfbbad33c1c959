/*
 * What this processor has, asked at each call: there is no state to set up
 * and none to share. The attributes name what a kernel is compiled for.
 */
#ifndef SERM_CORE_MATH_CPU_H
#define SERM_CORE_MATH_CPU_H

#include "core/base/status.h"

#if defined(__x86_64__)
#define SERM_TARGET_32 __attribute__((target("avx2,fma")))
#define SERM_TARGET_64 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#endif

/* 64, 32 or 16: the widest vectors that the kernels may use. */
static inline size_t
serm_cpu_vector_bytes(void)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
		return 64;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
		return 32;
#endif
	return 16;
}

#endif
