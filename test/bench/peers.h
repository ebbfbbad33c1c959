/*
 * Other libraries behind the table of core/math/gemm.h, so that the encoder and its products can be timed
 * with each: OpenBLAS and oneDNN's sgemm read plain weights as src/pg/store/blas.c does, oneDNN's inner
 * product reads weights that it laid out beforehand, as serm's own kernel does. All are opened by name; one
 * that is absent is NULL. The caller sets OPENBLAS_NUM_THREADS and OMP_NUM_THREADS to 1.
 */
#ifndef SERM_BENCH_PEERS_H
#define SERM_BENCH_PEERS_H

#include "core/math/gemm.h"

#include <dlfcn.h>
#include <string.h>

enum { PEER_ROW_MAJOR = 101, PEER_NO_TRANSPOSE = 111, PEER_TRANSPOSE = 112 };

typedef void (*PeerCblas)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
    const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
typedef int (*PeerDnnl)(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

static PeerCblas peer_cblas;
static PeerDnnl peer_dnnl;

static size_t
peer_plain_count(size_t n, size_t k)
{
	return n * k;
}

/* `transpose` always, here and below: weights are [n][k]. */
static void
peer_plain_pack(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	SERM_ASSERT(transpose && b_row == k);
	memcpy(packed, b, n * k * sizeof(SermReal));
}

static void
peer_start(const SermProduct *product)
{
	size_t bytes = product->n * sizeof(SermReal);

	for (size_t i = 0; i < product->m; i++)
		if (product->bias != NULL)
			memcpy(product->c + i * product->c_row, product->bias, bytes);
}

static void
peer_openblas(const SermProduct *p)
{
	peer_start(p);
	peer_cblas(PEER_ROW_MAJOR, PEER_NO_TRANSPOSE, PEER_TRANSPOSE, (int) p->m, (int) p->n, (int) p->k, 1, p->a,
	    (int) p->a_row, p->b, (int) p->k, p->bias != NULL, p->c, (int) p->c_row);
}

static void
peer_onednn(const SermProduct *p)
{
	peer_start(p);
	if (peer_dnnl('N', 'T', (int64_t) p->m, (int64_t) p->n, (int64_t) p->k, 1, p->a, (int64_t) p->a_row, p->b,
	        (int64_t) p->k, p->bias != NULL, p->c, (int64_t) p->c_row) != 0)
		abort();
}

#if __has_include(<oneapi/dnnl/dnnl.h>)
#include <oneapi/dnnl/dnnl.h>

#define PEER_FUNCTIONS(X)                                                                                    \
	X(engine_create)                                                                                         \
	X(stream_create)                                                                                         \
	X(memory_desc_init_by_tag)                                                                               \
	X(memory_desc_get_size)                                                                                  \
	X(inner_product_forward_desc_init)                                                                       \
	X(primitive_desc_create)                                                                                 \
	X(primitive_desc_query_md)                                                                               \
	X(reorder_primitive_desc_create)                                                                         \
	X(primitive_create)                                                                                      \
	X(primitive_execute)                                                                                     \
	X(memory_create)                                                                                         \
	X(memory_set_data_handle)
#define PEER_POINTER(name) static __typeof__(dnnl_##name) *peer_##name;
PEER_FUNCTIONS(PEER_POINTER)

/* The rows that weights are laid out for, and zeros for a product without bias. */
#define PEER_ROWS 672
#define PEER_SHAPES 32
#define PEER_WIDEST 4096

static dnnl_engine_t peer_engine;
static dnnl_stream_t peer_stream;

/* A primitive for each shape that was met, with memories whose contents are set before each use. */
typedef struct PeerShape {
	size_t m, n, k;
	dnnl_primitive_t run;
	dnnl_memory_t a, b, bias, c;
} PeerShape;

static void
peer_check(dnnl_status_t status)
{
	if (status != dnnl_success)
		abort();
}

static dnnl_memory_desc_t
peer_plain(size_t rows, size_t columns, dnnl_format_tag_t tag)
{
	dnnl_dims_t dims = {(dnnl_dim_t) rows, (dnnl_dim_t) columns};
	dnnl_memory_desc_t made;

	peer_check(peer_memory_desc_init_by_tag(&made, columns > 0 ? 2 : 1, dims, dnnl_f32, tag));
	return made;
}

static dnnl_primitive_desc_t
peer_describe(size_t m, size_t n, size_t k, const dnnl_memory_desc_t *b)
{
	dnnl_memory_desc_t a = peer_plain(m, k, dnnl_ab), c = peer_plain(m, n, dnnl_ab),
	                   bias = peer_plain(n, 0, dnnl_a);
	dnnl_inner_product_desc_t inner;
	dnnl_primitive_desc_t made;

	peer_check(peer_inner_product_forward_desc_init(&inner, dnnl_forward_inference, &a, b, &bias, &c));
	peer_check(peer_primitive_desc_create(&made, &inner, NULL, peer_engine, NULL));
	return made;
}

/* As the library lays weights out for many rows. */
static dnnl_memory_desc_t
peer_layout(size_t n, size_t k)
{
	dnnl_memory_desc_t any = peer_plain(n, k, dnnl_format_tag_any);

	return *peer_primitive_desc_query_md(peer_describe(PEER_ROWS, n, k, &any), dnnl_query_weights_md, 0);
}

static size_t
peer_laid_count(size_t n, size_t k)
{
	dnnl_memory_desc_t layout = peer_layout(n, k);

	return (peer_memory_desc_get_size(&layout) + sizeof(SermReal) - 1) / sizeof(SermReal);
}

static void
peer_laid_pack(bool transpose, size_t n, size_t k, const SermReal *b, size_t b_row, SermReal *packed)
{
	dnnl_memory_desc_t plain = peer_plain(n, k, dnnl_ab), layout = peer_layout(n, k);
	dnnl_exec_arg_t args[2] = {{.arg = DNNL_ARG_FROM}, {.arg = DNNL_ARG_TO}};
	dnnl_primitive_desc_t made;
	dnnl_primitive_t run;

	SERM_ASSERT(transpose && b_row == k);
	peer_check(peer_memory_create(&args[0].memory, &plain, peer_engine, (void *) b));
	peer_check(peer_memory_create(&args[1].memory, &layout, peer_engine, packed));
	peer_check(peer_reorder_primitive_desc_create(&made, &plain, peer_engine, &layout, peer_engine, NULL));
	peer_check(peer_primitive_create(&run, made));
	peer_check(peer_primitive_execute(run, peer_stream, 2, args));
}

static PeerShape *
peer_shape(size_t m, size_t n, size_t k)
{
	static PeerShape shapes[PEER_SHAPES];
	static size_t count = 0;
	dnnl_memory_desc_t layout, a, c, bias;

	for (size_t i = 0; i < count; i++)
		if (shapes[i].m == m && shapes[i].n == n && shapes[i].k == k)
			return &shapes[i];
	if (count == PEER_SHAPES || n > PEER_WIDEST)
		abort();
	layout = peer_layout(n, k), a = peer_plain(m, k, dnnl_ab), c = peer_plain(m, n, dnnl_ab);
	bias = peer_plain(n, 0, dnnl_a);
	shapes[count] = (PeerShape){.m = m, .n = n, .k = k};
	peer_check(peer_primitive_create(&shapes[count].run, peer_describe(m, n, k, &layout)));
	peer_check(peer_memory_create(&shapes[count].a, &a, peer_engine, NULL));
	peer_check(peer_memory_create(&shapes[count].b, &layout, peer_engine, NULL));
	peer_check(peer_memory_create(&shapes[count].bias, &bias, peer_engine, NULL));
	peer_check(peer_memory_create(&shapes[count].c, &c, peer_engine, NULL));
	return &shapes[count++];
}

static void
peer_laid(const SermProduct *p)
{
	static SermReal zeros[PEER_WIDEST];
	PeerShape *shape = peer_shape(p->m, p->n, p->k);
	const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, shape->a}, {DNNL_ARG_WEIGHTS, shape->b},
	    {DNNL_ARG_BIAS, shape->bias}, {DNNL_ARG_DST, shape->c}};

	peer_check(peer_memory_set_data_handle(shape->a, (void *) p->a));
	peer_check(peer_memory_set_data_handle(shape->b, (void *) p->b));
	peer_check(peer_memory_set_data_handle(shape->bias, p->bias != NULL ? (void *) p->bias : zeros));
	peer_check(peer_memory_set_data_handle(shape->c, p->c));
	peer_check(peer_primitive_execute(shape->run, peer_stream, 4, args));
}

/* Headers of another major version than the library's would describe other structures: only libdnnl.so.2. */
static bool
peer_open_laid(void *library)
{
#define PEER_FIND(name)                                                                                      \
	if ((peer_##name = (__typeof__(peer_##name)) dlsym(library, "dnnl_" #name)) == NULL)                     \
		return false;
	PEER_FUNCTIONS(PEER_FIND)
	return DNNL_VERSION_MAJOR == 2 && peer_engine_create(&peer_engine, dnnl_cpu, 0) == dnnl_success &&
	       peer_stream_create(&peer_stream, peer_engine, dnnl_stream_default_flags) == dnnl_success;
}
#endif

enum { PEER_SERM, PEER_OPENBLAS, PEER_ONEDNN, PEER_ONEDNN_LAID, PEER_COUNT };

/* The provider of that number, or NULL where it is not installed. */
static const SermGemmProvider *
peer_provider(int peer)
{
	static const SermGemmProvider openblas = {
	    "OpenBLAS", peer_plain_count, peer_plain_pack, NULL, peer_openblas};
	static const SermGemmProvider onednn = {"oneDNN", peer_plain_count, peer_plain_pack, NULL, peer_onednn};
	static const SermGemmProvider *providers[PEER_COUNT] = {&serm_gemm_packed, NULL, NULL, NULL};
	static bool opened = false;
	void *library;

	if (!opened) {
		if ((library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL)) != NULL &&
		    (peer_cblas = (PeerCblas) dlsym(library, "cblas_sgemm")) != NULL)
			providers[PEER_OPENBLAS] = &openblas;
		if ((library = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL)) != NULL &&
		    (peer_dnnl = (PeerDnnl) dlsym(library, "dnnl_sgemm")) != NULL)
			providers[PEER_ONEDNN] = &onednn;
#if __has_include(<oneapi/dnnl/dnnl.h>)
		static const SermGemmProvider laid = {
		    "oneDNN, laid out", peer_laid_count, peer_laid_pack, NULL, peer_laid};

		if (library != NULL && peer_open_laid(library))
			providers[PEER_ONEDNN_LAID] = &laid;
#endif
		opened = true;
	}
	return providers[peer];
}

#endif
