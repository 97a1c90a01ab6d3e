/* Fitting blocks to weights: the search for d, scales, minima and codes with the least weighted squared error. The quantizer of
 * rounding to nearest, and what the solver (tensor/obs.h) asks for grids.
 *
 * Results are the same bits for every kernel set: single-precision operations in a fixed order, no fused products. */
#ifndef NIBBLE_TENSOR_BLOCK_FIT_H
#define NIBBLE_TENSOR_BLOCK_FIT_H

#include "tensor/block_parts.h"

/* Fit one block, codes included.
 *   weights     [form->weights]  in, finite
 *   importance  [form->weights]  in, weights of the squared error, finite and not negative (of columns: a Hessian's diagonal, an
 *               importance matrix); their scale does not matter, and below 2^-20 of the block's greatest they count as that.
 *               NULL: |weight| + the mean |weight| of its sub-block, and fewer guesses are tried (Q8_0: one)
 * False if d or m does not fit half precision (weights that large). Weights too small for it become the smallest steps, or 0. */
bool block_fit(struct block_parts *out, enum block_type type, const float *weights, const float *importance);

/* The same for the blocks of one place in several rows, many times as fast.
 *   out      [rows] `apart` from each other
 *   weights  [rows][form->weights]; importance [form->weights], of every row
 * Returns how many fit before the first that does not: `rows` if all do. What lies behind it in `out` is undefined. */
uint64_t block_fit_column(struct block_parts *out, uint64_t apart, enum block_type type, const float *weights,
    uint64_t rows, const float *importance);

/* With d and m as they are: choose scale, min and codes of one sub-block anew, in several rows. parts [rows] `apart` from each other;
 * weights [rows][form->sub], finite; importance [form->sub] of every row, may be NULL. For types without integer scales: codes only. */
void block_fit_sub(struct block_parts *parts, uint64_t apart, enum block_type type, uint32_t sub,
    const float *weights, uint64_t rows, const float *importance);

/* With everything as it is: the nearest code of every weight of a sub-block. weights [form->sub]. */
void block_fit_codes(struct block_parts *parts, enum block_type type, uint32_t sub, const float *weights);

/* Quantize whole rows: out [rows][cols / weights] blocks; weights [rows][cols]; importance [cols] for every row, or NULL. cols is a
 * multiple of the block's weights. Each block is what block_fit makes of it. False if a weight is not finite or does not fit; *row and
 * *col say where (of a block that does not fit: its largest weight). */
bool block_fit_rows(uint8_t *out, enum block_type type, const float *weights, uint64_t rows, uint64_t cols,
    const float *importance, uint64_t *row, uint64_t *col);

#endif
