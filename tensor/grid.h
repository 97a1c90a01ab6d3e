/* The quantization grid: find a group's scale and zero-point, round to it, decode from it. Shared by every method that
 * quantizes (round-to-nearest, GPTQ, AWQ, sparse quantization).
 *
 * Results are the same bits for every kernel set: single-precision operations in a fixed order, no fused products. */
#ifndef NIBBLE_TENSOR_GRID_H
#define NIBBLE_TENSOR_GRID_H

#include "base/error.h"
#include "tensor/tensor.h"

/* How the range of a group is found. */
enum grid_range {
    GRID_MINMAX, /* the extremes of the group */
    GRID_MSE     /* the candidate with the least (weighted) squared error; min-max is candidate 0 */
};

/* One group's grid: value = scale * (code - zero). */
struct grid {
    uint16_t scale; /* half precision bits, finite; 0 for an all-zero group */
    uint8_t zero;   /* symmetric: 2^(bits-1) */
};

/* Fit the grid of one group.
 *
 * Symmetric: the full-range signed scale, scale = extreme / -2^(bits-1) where extreme is the weight of largest magnitude
 * (the first of equals), so that it is met exactly before the scale's rounding to half precision. MSE tries 2 signs x 91
 * scales, 0.30 to 1.20 of that.
 * Asymmetric: the range is extended to contain 0, scale = (max - min) / (2^bits - 1), zero = round(-min / scale), so that 0 is
 * exact. MSE tries 41 scales (0.40 to 1.20) x every integer zero-point (above 4 bits: the 17 around the min-max one).
 * Scales are rounded to half precision before anything is rounded to them; a candidate that this makes 0 or infinite is
 * left out. Of equal candidates the first is taken; min-max comes first.
 *
 *   weights     [count]  in, finite (the caller has checked)
 *   importance  [count]  in, weights of the squared error (the Hessian's diagonal), or NULL for 1
 * Returns false if the scale does not fit half precision (weights beyond about 65504 * 2^(bits-1)); *out is then unset. */
bool grid_fit(struct grid *out, const float *weights, const float *importance, uint64_t count, uint32_t bits,
    bool asymmetric, enum grid_range range);

/* Round `count` weights to the grid: code = clamp(round_half_even(w / scale) + zero, 0, 2^bits - 1); the division is a
 * product with the reciprocal. Scale 0: every code is the zero-point. */
void grid_encode(uint8_t *codes, const float *weights, uint64_t count, struct grid grid, uint32_t bits);

/* out = scale * (code - zero). */
void grid_decode(float *out, const uint8_t *codes, uint64_t count, struct grid grid);

/* Fit and round whole rows: the round-to-nearest method on a panel of rows.
 *   codes    [rows][cols]    out
 *   scales   [rows][groups]  out, half precision bits
 *   zeros    [rows][groups]  out; NULL if symmetric
 *   weights  [rows][cols]    in
 *   importance  [cols]       in, for every row; or NULL, as in grid_fit
 * ERR_NUMERIC: a weight is NaN or infinite, or a scale does not fit; *fault_row and *fault_col say where. */
enum status grid_quantize_rows(uint8_t *codes, uint16_t *scales, uint8_t *zeros, const float *weights,
    uint64_t rows, uint64_t cols, struct scheme scheme, enum grid_range range,
    const float *importance, uint64_t *fault_row, uint64_t *fault_col, struct error *err);

#endif
