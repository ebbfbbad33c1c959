/*
 * The number type of weights, gradients and the kernels under them: float in
 * the extension, double in the build that checks gradients to 1e-6.
 */
#ifndef SERM_CORE_BASE_REAL_H
#define SERM_CORE_BASE_REAL_H

#ifdef SERM_REAL_DOUBLE
typedef double SermReal;
#else
typedef float SermReal;
#endif

#endif
