/* Products with a weight matrix in any storage: y = x W^T (+ bias). Many tokens: panels of rows are decoded to float and
 * multiplied by tiles through linalg. Few tokens: dot kernels read codes straight from the map. */
#ifndef NIBBLE_TENSOR_MATMUL_H
#define NIBBLE_TENSOR_MATMUL_H

#include "base/error.h"
#include "base/threads.h"
#include "tensor/tensor.h"

/* Scratch memory for products on one pool. Not for two products at a time. */
struct matmul;

/* max_cols: the widest weight that will be multiplied. */
enum status matmul_create(struct matmul **out, struct pool *pool, uint64_t max_cols, struct error *err);
void matmul_free(struct matmul *matmul);

/* y[tokens, rows] = x[tokens, cols] * weight[rows, cols]^T + bias[rows].
 *   y       out, row stride rows
 *   x       in, row stride cols
 *   weight  in, rank 2, in memory (data set); DENSE of a floating type, TILES, BLOCKS or SPARSE
 *   bias    in, rank 1 dense of `rows`, or NULL
 * The result depends on shapes and values only, not on the number of workers. A token's result has the same bits alone and among
 * up to 17 tokens (32 over TILES and SPARSE; not F64). Kernel sets agree to rounding.
 * ERR_MEMORY: scratch; ERR_UNSUPPORTED: an integer weight; ERR_FORMAT: SPARSE whose
 * parts do not fit together. */
enum status matmul_run(struct matmul *matmul, float *y, const float *x, uint64_t tokens,
    const struct tensor *weight, const struct tensor *bias, struct error *err);

#endif
