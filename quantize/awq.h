/* Activation-aware weight quantization (Lin et al. 2023, arXiv:2306.00978): channels that carry large activations are
 * scaled up in the weights before rounding, and down where they are produced (quantize/fold.h): exactly the same network, but
 * for rounding.
 *
 * Pairs of a decoder layer, where the scale of the left is folded into the right's columns:
 *   attention norm -> q, k, v      feed-forward norm -> gate, up      up (rows) -> down      v (rows) -> o
 * With grouped query attention one channel of v feeds the same channel of every query head of its group; these share a
 * scale, and the pair is exact there too. */
#ifndef NIBBLE_QUANTIZE_AWQ_H
#define NIBBLE_QUANTIZE_AWQ_H

#include "base/threads.h"
#include "model/walk.h"
#include "tensor/block_parts.h"
#include "tensor/grid.h"
#include "tensor/hessian.h"

/* One matrix that reads the scaled channels. */
struct awq_matrix {
    const float *weights; /* [rows][cols] in, as they are before scaling */
    uint64_t rows;
    struct scheme scheme;
    enum block_type block; /* instead of the scheme, or BLOCK_NONE */
    enum grid_range range; /* of a scheme. GRID_MSE, and blocks: weighted by the Hessian's diagonal */
    const char *name;      /* of the tensor, for messages */
};

/* The choice for one stage. */
struct awq_choice {
    double ratio;      /* exponent of the activations' magnitude; 0: nothing is scaled, all scales are 1 */
    bool with_weights; /* also divided by the weights' own magnitude^(1 - ratio) ("duo scaling") */
    double error;      /* output error with the chosen scales, relative to that without: <= 1 */
};

/* Search the scales of one stage. Candidates: identity; s = m^r with r = 0.05, 0.10 .. 1; and s = m^r / (w^(1-r) + 1e-4) with the
 * same r. m: mean |x| of the channel, relative to the mean of all live channels; w: mean over all rows of all matrices of
 * |weight| / greatest |weight| of its group (of its sub-block). s is at least 1e-4, and then divided by sqrt(max s * min s) over live channels.
 *
 * The error of a candidate is the sum over the matrices of (Q(W s)/s - W) H (Q(W s)/s - W)^T, all tokens in it, with Q
 * rounding to nearest on the range asked for. With GRID_MSE the range search of every group, weighted by diag(H)/s^2 as in
 * the final rounding, takes the place of AWQ's separate clip search: scale and clipping are chosen jointly, since the
 * error that chooses the scales already includes the clipping they will get.
 *
 * Ratios are searched from coarse to fine (steps of 0.2, then 0.1 and 0.05 around each family's best) on at most 512
 * rows per matrix, every k-th with k from the shape alone; then the best and identity are compared on every row, and identity is
 * taken unless the other is better there. So the choice is never worse than not scaling.
 *
 *   scales    [cols]  out, > 0; channels that must share a scale do
 *   matrices  [count] in; cols is the Hessian's, every group or block divides it
 *   hessian   in, after hessian_mean: second (on and above the diagonal) and magnitude are used
 *   shared    [cols], each < cols: channels with equal shared[j] share a scale, found from the means of their m and w;
 *             NULL: every channel has its own
 * Dead channels (H's diagonal is 0) keep scale 1, unless they share it with a live one. The result does not depend on the
 * number of workers. ERR_MEMORY. ERR_NUMERIC: a weight is not finite or does not fit, unscaled; the text names tensor and row. */
enum status awq_search(float *scales, struct awq_choice *choice, const struct awq_matrix *matrices,
    uint64_t count, const struct hessian *hessian, const uint32_t *shared, struct pool *pool,
    struct error *err);

/* shared [heads of the layer * head_size] of the pair v -> o: channel (head, d) shares with all heads of its group; the number is the row of
 * v that feeds it. */
void awq_shared_heads(uint32_t *shared, const struct model_config *config, uint32_t layer);

#endif
