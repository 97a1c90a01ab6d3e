/* Activation-aware weight quantization (Lin et al. 2023, arXiv:2306.00978): channels that carry large activations are scaled up in
 * the weights before rounding, and down where they are produced: exactly the same network, but for rounding.
 *
 * Pairs of a decoder layer, where the scale of the left is folded into the right's columns:
 *   attention norm -> q, k, v      feed-forward norm -> gate, up      up (rows) -> down      v (rows) -> o
 * With grouped query attention one channel of v feeds the same channel of every query head of its group; these share a
 * scale, and the pair is exact there too. */
#ifndef NIBBLE_QUANTIZE_AWQ_H
#define NIBBLE_QUANTIZE_AWQ_H

#include "base/threads.h"
#include "model/walk.h"
#include "tensor/grid.h"
#include "tensor/hessian.h"

/* One matrix that reads the scaled channels. */
struct awq_matrix {
    const float *weights; /* [rows][cols] in, as they are before scaling */
    uint64_t rows;
    struct scheme scheme;
    enum grid_range range; /* GRID_MSE: weighted by the Hessian's diagonal */
};

/* The choice for one stage. */
struct awq_choice {
    double ratio;      /* exponent of the activations' magnitude; 0: nothing is scaled */
    bool with_weights; /* also divided by the weights' own magnitude^(1 - ratio) ("duo scaling") */
    double error;      /* output error with the chosen scales, relative to that without: <= 1 */
};

/* Search the scales of one stage: s = magnitude^ratio, ratio 0, 0.05 .. 0.95 (and the variant with weights),
 * normalised by sqrt(max s * min s); identity is candidate 0. The error of a candidate is the sum over the matrices of
 * (Q(W s)/s - W) H (Q(W s)/s - W)^T, all tokens in it, with Q rounding to nearest on the range asked for.
 *   scales    [cols]  out, > 0; channels that must share a scale do
 *   matrices  [count] in
 *   hessian   in, after hessian_mean: second and magnitude are used
 *   shared    consecutive channels... channel j shares its scale with every channel of the same shared[j] ([cols]), or NULL: none
 * Dead channels keep scale 1. The result does not depend on the number of workers. ERR_MEMORY, ERR_NUMERIC. */
enum status awq_search(float *scales, struct awq_choice *choice, const struct awq_matrix *matrices,
    uint64_t count, const struct hessian *hessian, const uint32_t *shared, struct pool *pool,
    struct error *err);

/* shared [heads * head_size] of the pair v -> o: channel (head, d) shares with all heads of its group. */
void awq_shared_heads(uint32_t *shared, const struct model_config *config);

#endif
