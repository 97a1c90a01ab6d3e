/* Dense linear algebra: the only includer of CBLAS. OpenBLAS gives different bits for different numbers of its own
 * threads, so it is pinned to one and our pool runs over tiles that depend on the shape alone. */
#ifndef NIBBLE_TENSOR_LINALG_H
#define NIBBLE_TENSOR_LINALG_H

#include <stdint.h>

#include "base/error.h"

/* Pin OpenBLAS to one thread. ERR_UNSUPPORTED if this build of OpenBLAS cannot be pinned (its OpenMP flavour overrides the
 * setting on every call when OMP_NUM_THREADS asks for more). Called once by each tool's main that multiplies. */
enum status linalg_init(struct error *err);

/* c[m, n] = alpha * a[m, k] * b[n, k]^T + beta * c, all row-major with row strides, on the calling thread. Safe from
 * several threads at once. m, n or k may be 0. */
void linalg_gemm_nt(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride);

/* c[m, n] = alpha * a[m, k] * b[k, n] + beta * c, likewise. */
void linalg_gemm_nn(uint64_t m, uint64_t n, uint64_t k, float alpha, const float *a, uint64_t a_stride,
    const float *b, uint64_t b_stride, float beta, float *c, uint64_t c_stride);

#endif
