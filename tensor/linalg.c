/* Dense linear algebra over CBLAS and LAPACKE: one thread per call, so that the bits depend on the shapes alone. */
#include "tensor/linalg.h"

#include <assert.h>
#include <cblas.h>
#include <lapacke.h>
#include <limits.h>

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

const char *linalg_core(void)
{
    return openblas_get_corename();
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

static void gemm(CBLAS_TRANSPOSE a_form, CBLAS_TRANSPOSE b_form, uint64_t m, uint64_t n, uint64_t k,
    float alpha, const float *a, uint64_t a_stride, const float *b, uint64_t b_stride, float beta, float *c,
    uint64_t c_stride)
{
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, a_form, b_form, blas_int(m), blas_int(n), blas_int(k), alpha, a,
        blas_stride(a_stride), b, blas_stride(b_stride), beta, c, blas_stride(c_stride));
}

void linalg_gemm_nt(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    gemm(CblasNoTrans, CblasTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void linalg_gemm_nn(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    gemm(CblasNoTrans, CblasNoTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void linalg_gemm_tn(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride)
{
    gemm(CblasTrans, CblasNoTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void linalg_syrk_tn(uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride, float beta,
    float *c, uint64_t c_stride)
{
    if (n == 0) return;
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, blas_int(n), blas_int(k), alpha, a,
        blas_stride(a_stride), beta, c, blas_stride(c_stride));
}

/* ---- double precision ---- */

static void dgemm(CBLAS_TRANSPOSE b_form, uint64_t m, uint64_t n, uint64_t k, double alpha, const double *a,
    uint64_t a_stride, const double *b, uint64_t b_stride, double beta, double *c, uint64_t c_stride)
{
    if (m == 0 || n == 0) return;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, b_form, blas_int(m), blas_int(n), blas_int(k), alpha, a,
        blas_stride(a_stride), b, blas_stride(b_stride), beta, c, blas_stride(c_stride));
}

void linalg_dgemm_nt(uint64_t m, uint64_t n, uint64_t k, double alpha, const double *a, uint64_t a_stride,
    const double *b, uint64_t b_stride, double beta, double *c, uint64_t c_stride)
{
    dgemm(CblasTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void linalg_dgemm_nn(uint64_t m, uint64_t n, uint64_t k, double alpha, const double *a, uint64_t a_stride,
    const double *b, uint64_t b_stride, double beta, double *c, uint64_t c_stride)
{
    dgemm(CblasNoTrans, m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
}

void linalg_dsyrk_nt(uint64_t n, uint64_t k, double alpha, const double *a, uint64_t a_stride, double beta,
    double *c, uint64_t c_stride)
{
    if (n == 0) return;
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, blas_int(n), blas_int(k), alpha, a,
        blas_stride(a_stride), beta, c, blas_stride(c_stride));
}

static CBLAS_SIDE side_of(enum linalg_side side)
{
    return side == LINALG_LEFT ? CblasLeft : CblasRight;
}

static CBLAS_TRANSPOSE form_of(enum linalg_side side)
{
    return side == LINALG_RIGHT_TURNED ? CblasTrans : CblasNoTrans;
}

void linalg_dtrmm(enum linalg_side side, uint64_t m, uint64_t n, double alpha, const double *r,
    uint64_t r_stride, double *b, uint64_t b_stride)
{
    if (m == 0 || n == 0) return;
    cblas_dtrmm(CblasRowMajor, side_of(side), CblasUpper, form_of(side), CblasNonUnit, blas_int(m),
        blas_int(n), alpha, r, blas_stride(r_stride), b, blas_stride(b_stride));
}

void linalg_dtrsm(enum linalg_side side, uint64_t m, uint64_t n, double alpha, const double *r,
    uint64_t r_stride, double *b, uint64_t b_stride)
{
    if (m == 0 || n == 0) return;
    cblas_dtrsm(CblasRowMajor, side_of(side), CblasUpper, form_of(side), CblasNonUnit, blas_int(m),
        blas_int(n), alpha, r, blas_stride(r_stride), b, blas_stride(b_stride));
}

/* LAPACKE would copy row-major matrices to turn them. Read by columns, our lower triangle is the upper one of the
 * transpose: the same factor, and the inverse of the transpose is the transpose of the inverse. */
bool linalg_dpotrf_lower(uint64_t n, double *a, uint64_t stride)
{
    if (n == 0) return true;
    return LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', blas_int(n), a, blas_stride(stride)) == 0;
}

bool linalg_dtrtri_upper(uint64_t n, double *a, uint64_t stride)
{
    if (n == 0) return true;
    return LAPACKE_dtrtri_work(LAPACK_COL_MAJOR, 'L', 'N', blas_int(n), a, blas_stride(stride)) == 0;
}
