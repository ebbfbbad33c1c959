/*
 * OpenBLAS is never linked: linking would run its constructor, and with it a
 * pool of threads, in the postmaster and in every backend. It is opened by its
 * fixed name in the process that trains, with one thread and every signal
 * blocked, so that a thread it might start never runs a server's handler.
 */
#include "pg/serm.h"

#include <dlfcn.h>
#include <signal.h>

#include "miscadmin.h"
#include "pg/store/blas.h"
#include "utils/guc.h"

#define LIBRARY "libopenblas.so.0"

/* Of cblas.h, which is not needed to build. */
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112, PARALLEL_OPENMP = 2 };

typedef void (*CblasSgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
    const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef int (*GetNumber)(void);
typedef char *(*GetText)(void);

bool serm_blas_wanted = false;

static CblasSgemm sgemm = NULL;
static char description[200];

void
serm_blas_define_gucs(void)
{
	DefineCustomBoolVariable("serm.blas", "Train with OpenBLAS where it is installed.",
	    "The last bits of a model depend on it; the version's config says which was used.", &serm_blas_wanted,
	    false, PGC_USERSET, 0, NULL, NULL, NULL);
}

static void
gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, const SermReal *a, const SermReal *b,
    SermReal beta, SermReal *c)
{
	sgemm(ROW_MAJOR, transpose_a ? TRANSPOSE : NO_TRANSPOSE, transpose_b ? TRANSPOSE : NO_TRANSPOSE, (int) m,
	    (int) n, (int) k, 1, a, (int) (transpose_a ? m : k), b, (int) (transpose_b ? k : n), beta, c,
	    (int) n);
}

/* Why the library cannot be used, or NULL. */
static const char *
open_library(void)
{
	float one = 1, result = 0;
	void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	GetNumber threads, parallel;
	GetText config;

	if (library == NULL)
		return "it is not installed";
	sgemm = (CblasSgemm) dlsym(library, "cblas_sgemm");
	threads = (GetNumber) dlsym(library, "openblas_get_num_threads");
	parallel = (GetNumber) dlsym(library, "openblas_get_parallel");
	config = (GetText) dlsym(library, "openblas_get_config");
	if (sgemm == NULL || threads == NULL || parallel == NULL || config == NULL)
		return "it lacks the functions needed";
	if (threads() > 1)
		return parallel() == PARALLEL_OPENMP ? "its OpenMP build uses several threads"
		                                     : "it was loaded before with several threads";
	sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, 1, 1, 1, 1, &one, 1, &one, 1, 0, &result, 1);
	if (result != 1)
		return "it computes wrongly";
	strlcpy(description, config(), sizeof(description));
	return NULL;
}

SermGemm
serm_blas_gemm(const char **name)
{
	static bool tried = false;
	const char *problem = NULL;

	*name = "built-in";
	if (!serm_blas_wanted || !IsUnderPostmaster || process_shared_preload_libraries_in_progress)
		return NULL;
	if (!tried) {
		sigset_t all, before;

		tried = true;
		/* Read when the library is loaded; the server's own environment is not used for anything later. */
		setenv("OPENBLAS_NUM_THREADS", "1", 1);
		setenv("OMP_NUM_THREADS", "1", 1);
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		problem = open_library();
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		if (problem != NULL)
			sgemm = NULL;
	}
	if (problem != NULL)
		ereport(WARNING, errmsg("%s is not used: %s", LIBRARY, problem),
		    errhint("The built-in kernel is used; SET serm.blas = off to silence this."));
	if (sgemm == NULL)
		return NULL;
	*name = description;
	return gemm;
}
