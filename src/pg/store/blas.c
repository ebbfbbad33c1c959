/*
 * OpenBLAS and oneDNN are never linked: linking would run their constructors,
 * and with them a pool of threads, in the postmaster and in every backend. They
 * are opened by fixed names in the process that uses them, with one thread and
 * every signal blocked, so that a thread they might start never runs a server's
 * handler.
 */
#include "pg/serm.h"

#include <dlfcn.h>
#include <signal.h>

#include "miscadmin.h"
#include "utils/float.h"
#include "pg/store/blas.h"
#include "pg/store/internal.h"
#include "utils/guc.h"

#define OPENBLAS "libopenblas.so.0"
#define ONEDNN "libdnnl.so.2"

/* Of cblas.h, which is not needed to build. */
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112, PARALLEL_OPENMP = 2 };

typedef void (*CblasSgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
    const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
/* Row by row, 'N' or 'T'; returns 0. */
typedef int (*DnnlSgemm)(char transpose_a, char transpose_b, int64 m, int64 n, int64 k, float alpha,
    const float *a, int64 lda, const float *b, int64 ldb, float beta, float *c, int64 ldc);
typedef void (*SetNumber)(int);
typedef int (*GetNumber)(void);
typedef char *(*GetText)(void);

bool serm_blas_wanted = false;
static int gemm_wanted = SERM_LAYOUT_F32;

static CblasSgemm sgemm = NULL;
static DnnlSgemm dnnl_sgemm = NULL;
static char description[200];

/* Layouts of f32 that a library computes; F32 itself is ours. */
static const struct config_enum_entry gemm_names[] = {{"built-in", SERM_LAYOUT_F32, false},
    {"openblas", SERM_LAYOUT_OPENBLAS, false}, {"onednn", SERM_LAYOUT_ONEDNN, false}, {NULL, 0, false}};

void
serm_blas_define_gucs(void)
{
	DefineCustomBoolVariable("serm.blas", "Train with OpenBLAS where it is installed.",
	    "The last bits of a model depend on it; the version's config says which was used.", &serm_blas_wanted,
	    false, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("serm.gemm", "What multiplies the matrices of cross-encoders in f32.",
	    "Libraries are used where they are installed; the last bits of scores depend on them.", &gemm_wanted,
	    SERM_LAYOUT_F32, gemm_names, PGC_USERSET, 0, NULL, NULL, NULL);
}

static void
gemm(bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k, const SermReal *a, const SermReal *b,
    SermReal beta, SermReal *c)
{
	sgemm(ROW_MAJOR, transpose_a ? TRANSPOSE : NO_TRANSPOSE, transpose_b ? TRANSPOSE : NO_TRANSPOSE, (int) m,
	    (int) n, (int) k, 1, a, (int) (transpose_a ? m : k), b, (int) (transpose_b ? k : n), beta, c,
	    (int) n);
}

/* Why OpenBLAS cannot be used, or NULL. */
static const char *
open_openblas(void)
{
	float one = 1, result = 0;
	void *library = dlopen(OPENBLAS, RTLD_NOW | RTLD_LOCAL);
	CblasSgemm found;
	GetNumber threads, parallel;
	GetText config;

	if (library == NULL)
		return "it is not installed";
	found = (CblasSgemm) dlsym(library, "cblas_sgemm");
	threads = (GetNumber) dlsym(library, "openblas_get_num_threads");
	parallel = (GetNumber) dlsym(library, "openblas_get_parallel");
	config = (GetText) dlsym(library, "openblas_get_config");
	if (found == NULL || threads == NULL || parallel == NULL || config == NULL)
		return "it lacks the functions needed";
	if (threads() > 1)
		return parallel() == PARALLEL_OPENMP ? "its OpenMP build uses several threads"
		                                     : "it was loaded before with several threads";
	found(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, 1, 1, 1, 1, &one, 1, &one, 1, 0, &result, 1);
	if (result != 1)
		return "it computes wrongly";
	strlcpy(description, config(), sizeof(description));
	sgemm = found;
	return NULL;
}

/* The same for oneDNN, whose threads are those of OpenMP. */
static const char *
open_onednn(void)
{
	float one = 1, result = 0;
	void *library = dlopen(ONEDNN, RTLD_NOW | RTLD_LOCAL);
	DnnlSgemm found;
	GetNumber threads;
	SetNumber set_threads;

	if (library == NULL)
		return "it is not installed";
	found = (DnnlSgemm) dlsym(library, "dnnl_sgemm");
	threads = (GetNumber) dlsym(library, "omp_get_max_threads");
	set_threads = (SetNumber) dlsym(library, "omp_set_num_threads");
	if (found == NULL || threads == NULL || set_threads == NULL)
		return "it lacks the functions needed";
	set_threads(1);
	if (threads() > 1)
		return "it uses several threads";
	if (found('N', 'T', 1, 1, 1, 1, &one, 1, &one, 1, 0, &result, 1) != 0 || result != 1)
		return "it computes wrongly";
	dnnl_sgemm = found;
	return NULL;
}

/* Try once per process to open a library, by `open`; says why it cannot be used, once for each reason to ask.
 */
static bool
open_once(const char *library, const char *(*open)(void), const char *remedy, bool *tried, bool *usable)
{
	const char *problem;
	sigset_t all, before;

	if (*tried)
		return *usable;
	*tried = true;
	/* Read when the library is loaded; the server's own environment is not used for anything later. */
	setenv("OPENBLAS_NUM_THREADS", "1", 1);
	setenv("OMP_NUM_THREADS", "1", 1);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	problem = open();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	*usable = problem == NULL;
	if (problem != NULL)
		ereport(WARNING, errmsg("%s is not used: %s", library, problem),
		    errhint("The built-in kernel is used; %s to silence this.", remedy));
	return *usable;
}

/* Never in the postmaster, whose children would inherit what a library started. */
static bool
may_open(void)
{
	return IsUnderPostmaster && !process_shared_preload_libraries_in_progress;
}

static bool
have_openblas(const char *remedy)
{
	static bool tried = false, usable = false;

	return may_open() && open_once(OPENBLAS, open_openblas, remedy, &tried, &usable);
}

static bool
have_onednn(const char *remedy)
{
	static bool tried = false, usable = false;

	return may_open() && open_once(ONEDNN, open_onednn, remedy, &tried, &usable);
}

SermGemm
serm_blas_gemm(const char **name)
{
	*name = "built-in";
	if (!serm_blas_wanted || !have_openblas("SET serm.blas = off"))
		return NULL;
	*name = description;
	return gemm;
}

/* --- providers of core/math/gemm.h: the packed side is the turned matrix [n][k] as it is */

static size_t
plain_count(size_t n, size_t k)
{
	return n * k;
}

static void
plain_pack(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	for (size_t j = 0; j < n; j++)
		for (size_t p = 0; p < k; p++)
			packed[j * k + p] = transpose ? b[j * b_row + p] : b[p * b_row + j];
}

static void
plain_unpack(size_t n, size_t k, const SermReal *packed, SermReal *b)
{
	memcpy(b, packed, n * k * sizeof(SermReal));
}

/* What the product is added to. */
static void
start_rows(const SermProduct *product)
{
	for (size_t i = 0; i < product->m && !product->add; i++) {
		SermReal *row = product->c + i * product->c_row;

		if (product->bias != NULL)
			memcpy(row, product->bias, product->n * sizeof(SermReal));
		else
			memset(row, 0, product->n * sizeof(SermReal));
	}
}

static void
multiply_openblas(const SermProduct *product)
{
	bool turned = product->a_step != 1;
	int m = (int) product->m, n = (int) product->n, k = (int) product->k;

	start_rows(product);
	sgemm(ROW_MAJOR, turned ? TRANSPOSE : NO_TRANSPOSE, TRANSPOSE, m, n, k, 1, product->a,
	    (int) (turned ? product->a_step : product->a_row), product->b, k, 1, product->c,
	    (int) product->c_row);
}

static void
multiply_onednn(const SermProduct *product)
{
	bool turned = product->a_step != 1;
	int64 m = (int64) product->m, n = (int64) product->n, k = (int64) product->k;

	start_rows(product);
	if (dnnl_sgemm(turned ? 'T' : 'N', 'T', m, n, k, 1, product->a,
	        (int64) (turned ? product->a_step : product->a_row), product->b, k, 1, product->c,
	        (int64) product->c_row) == 0)
		return;
	/* It failed: a score that is not finite is refused. */
	for (size_t i = 0; i < product->m; i++)
		for (size_t j = 0; j < product->n; j++)
			product->c[i * product->c_row + j] = get_float4_nan();
}

SermLayout
serm_blas_layout(void)
{
	const char *remedy = "SET serm.gemm = 'built-in'";

	if ((gemm_wanted == SERM_LAYOUT_OPENBLAS && have_openblas(remedy)) ||
	    (gemm_wanted == SERM_LAYOUT_ONEDNN && have_onednn(remedy)))
		return gemm_wanted;
	return SERM_LAYOUT_F32;
}

const SermGemmProvider *
serm_blas_provider(SermLayout layout)
{
	static const SermGemmProvider openblas = {
	    "openblas", plain_count, plain_pack, plain_unpack, multiply_openblas};
	static const SermGemmProvider onednn = {"onednn", plain_count, plain_pack, plain_unpack, multiply_onednn};

	return layout == SERM_LAYOUT_OPENBLAS ? &openblas : layout == SERM_LAYOUT_ONEDNN ? &onednn : NULL;
}
