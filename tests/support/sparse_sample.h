/* Sparse matrices and models for tests: weights are pruned by magnitude alone. */
#ifndef NIBBLE_TESTS_SUPPORT_SPARSE_SAMPLE_H
#define NIBBLE_TESTS_SUPPORT_SPARSE_SAMPLE_H

#include "tensor/sparse.h"

/* Make the smallest weights of a matrix 0: `percent` of each row, or (2:4) two of every four.
 *   weights  [rows][cols]: codes of `bits` bits, a byte each; or (bits 0) F16 or BF16 values */
void sparse_sample_prune(
    void *weights, uint64_t rows, uint64_t cols, uint32_t bits, enum mask mask, unsigned percent);

/* A copy of a .nbl file whose tiles of 2, 4 and 8 bits and whose F16 and BF16 matrices (but for embedding and head) are pruned and sparse, or
 * end the program. */
void sparse_sample_model(const char *input, const char *output, enum mask mask, unsigned percent);

#endif
