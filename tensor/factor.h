/* The factor that column-by-column quantization works with, of a matrix that may be large: blocked and parallel, in place,
 * the same bits for any number of workers. */
#ifndef NIBBLE_TENSOR_FACTOR_H
#define NIBBLE_TENSOR_FACTOR_H

#include <stdint.h>

#include "base/error.h"
#include "base/threads.h"

/* Replace a symmetric positive definite matrix A by the upper triangular U with U^T U = A^-1, without forming A^-1: with
 * rows and columns in reverse order, one Cholesky factorization A = R R^T (R upper) and one triangular inverse U = R^-1.
 *   a  [n][n] row-major  in: A on and above the diagonal; out: U there. Nothing below the diagonal is read or touched.
 * ERR_NUMERIC: A is not positive definite, or U does not fit single precision; a then holds anything above the diagonal.
 * ERR_MEMORY: a is as it was. Needs one block of factor_scratch_bytes per worker besides. */
enum status factor_of_inverse(double *a, uint64_t n, struct pool *pool, struct error *err);

uint64_t factor_scratch_bytes(uint64_t n, unsigned workers);

#endif
