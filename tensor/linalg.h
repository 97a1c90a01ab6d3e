/* Dense linear algebra: the only includer of CBLAS and LAPACKE. OpenBLAS gives different bits for different numbers of its own
 * threads, so it is pinned to one and our pool runs over tiles that depend on the shape alone. */
#ifndef NIBBLE_TENSOR_LINALG_H
#define NIBBLE_TENSOR_LINALG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Pin OpenBLAS to one thread. ERR_UNSUPPORTED if this build of OpenBLAS cannot be pinned (its OpenMP flavour overrides the
 * setting on every call when OMP_NUM_THREADS asks for more). Called once by each tool's main that multiplies. */
enum status linalg_init(struct error *err);

/* The processor that OpenBLAS has chosen its kernels for ("Haswell"): another one may round differently. */
const char *linalg_core(void);

/* c[m, n] = alpha * a[m, k] * b[n, k]^T + beta * c, all row-major with row strides, on the calling thread. Safe from
 * several threads at once. m, n or k may be 0. */
void linalg_gemm_nt(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride);

/* c[m, n] = alpha * a[m, k] * b[k, n] + beta * c, likewise. */
void linalg_gemm_nn(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride);

/* c[m, n] = alpha * a[k, m]^T * b[k, n] + beta * c, likewise. */
void linalg_gemm_tn(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride);

/* c[n, n] = alpha * a[k, n]^T * a + beta * c, likewise; on and above the diagonal, nothing below is touched. */
void linalg_syrk_tn(uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride, float beta,
    float *c, uint64_t c_stride);

/* ---- the same in double precision ---- */

void linalg_dgemm_nt(uint64_t m, uint64_t n, uint64_t k, double alpha, const double *a, uint64_t a_stride,
    const double *b, uint64_t b_stride, double beta, double *c, uint64_t c_stride);
void linalg_dgemm_nn(uint64_t m, uint64_t n, uint64_t k, double alpha, const double *a, uint64_t a_stride,
    const double *b, uint64_t b_stride, double beta, double *c, uint64_t c_stride);

/* c[n, n] = alpha * a[n, k] * a^T + beta * c, on and above the diagonal. */
void linalg_dsyrk_nt(uint64_t n, uint64_t k, double alpha, const double *a, uint64_t a_stride, double beta,
    double *c, uint64_t c_stride);

/* How an upper triangular matrix r (nothing below its diagonal is read) meets b[m, n]. */
enum linalg_side {
    LINALG_LEFT,        /* r b,   r [m, m] */
    LINALG_RIGHT,       /* b r,   r [n, n] */
    LINALG_RIGHT_TURNED /* b r^T, r [n, n] */
};

/* b = alpha * r b (or b r, b r^T), in place. */
void linalg_dtrmm(enum linalg_side side, uint64_t m, uint64_t n, double alpha, const double *r,
    uint64_t r_stride, double *b, uint64_t b_stride);

/* The same with the inverse of r, whose diagonal may not hold 0. */
void linalg_dtrsm(enum linalg_side side, uint64_t m, uint64_t n, double alpha, const double *r,
    uint64_t r_stride, double *b, uint64_t b_stride);

/* Cholesky: the lower triangle of a[n, n] becomes L with L L^T = a; nothing above the diagonal is read or touched. False
 * if a is not positive definite. A NaN is not an error here: it is in L afterwards. For blocks: on one thread. */
bool linalg_dpotrf_lower(uint64_t n, double *a, uint64_t stride);

/* The upper triangle of a[n, n] becomes its inverse; nothing below is read or touched. False if its diagonal has a 0. */
bool linalg_dtrtri_upper(uint64_t n, double *a, uint64_t stride);

#endif
