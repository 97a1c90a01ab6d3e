/* Dense linear algebra over CBLAS: one thread per call, so that the bits depend on the shapes alone. */
#include "tensor/linalg.h"

#include <assert.h>
#include <cblas.h>
#include <limits.h>
#include <stdbool.h>

/* Present only where an OpenMP run-time is loaded. */
extern void omp_set_num_threads(int threads) __attribute__((weak));

enum { OPENBLAS_WITH_OPENMP = 2 };

enum status linalg_init(struct error *err)
{
    openblas_set_num_threads(1);
    if (openblas_get_parallel() != OPENBLAS_WITH_OPENMP) return OK;
    /* This flavour asks OpenMP for its number of threads at every call and forgets what was set above. */
    if (!omp_set_num_threads) {
        return fail(err, ERR_UNSUPPORTED,
            "this OpenBLAS is the OpenMP flavour and cannot be pinned to one thread; use its pthread "
            "flavour");
    }
    omp_set_num_threads(1);
    return OK;
}

static int blas_int(uint64_t value)
{
    assert(value <= INT_MAX);
    return (int)value;
}

/* CBLAS refuses a stride of 0, also for a matrix without elements. */
static int blas_stride(uint64_t stride)
{
    return stride ? blas_int(stride) : 1;
}

static void gemm(CBLAS_TRANSPOSE b_form, uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a,
    uint64_t a_stride, const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, b_form, blas_int(m), blas_int(n), blas_int(k), alpha, a,
        blas_stride(a_stride), b, blas_stride(b_stride), beta, c, blas_stride(c_stride));
}

void linalg_gemm_nt(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    gemm(CblasTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void linalg_gemm_nn(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    gemm(CblasNoTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}
