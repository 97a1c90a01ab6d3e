/* Scaling channels between two matrices without changing the network: the columns of the readers are multiplied by s, and what
 * produces the channels is divided by s. Exact but for single-precision rounding, in every architecture:
 *
 *   stage          producer, divided      readers, multiplied   why it is exact
 *   WALK_QKV       attention norm's gain  q, k, v               the gain is the last thing that touches a channel; q and k come
 *                                                               out as before, so norms of their heads see no difference
 *   WALK_O         v rows and bias        o                     attention averages v over positions, channel by channel;
 *                                                               heads of one group read the same v and share its scale
 *   WALK_GATE_UP   feed-forward norm's gain   gate, up          as for q, k, v
 *   WALK_DOWN      up rows and bias       down                  the activation is on the gate only; its product with up is
 *                                                               linear in up
 *
 * In a mixture of experts gate and up of every expert, of the shared one, and the routers read the same norm; up and down of each
 * expert are a pair of their own.
 *
 * Norms after o and down see what they saw before. An architecture without norms before attention and the feed-forward block has
 * no producer at WALK_QKV and WALK_GATE_UP: nothing can be scaled there.
 */
#ifndef NIBBLE_QUANTIZE_FOLD_H
#define NIBBLE_QUANTIZE_FOLD_H

#include "model/walk.h"

#define FOLD_READERS 3

/* Who produces and who reads the channels of a stage. */
struct fold_pair {
    enum role producer;      /* a norm's gain [cols], or a matrix whose rows are the channels */
    enum role producer_bias; /* divided like them, where the configuration has it */
    enum role readers[FOLD_READERS];
    unsigned reader_count;
};

/* The pair of a stage; static. */
const struct fold_pair *fold_pair(enum stage stage);

/* Multiply the columns of weights [rows][cols] by scales [cols]. */
void fold_columns(float *weights, uint64_t rows, uint64_t cols, const float *scales);

/* Divide row r of weights [rows][cols] by scales[r]. A bias is a matrix of one column. */
void fold_rows(float *weights, uint64_t rows, uint64_t cols, const float *scales);

/* Divide gain [cols] by scales [cols]; a norm multiplies by gain + offset (struct architecture). */
void fold_gain(float *gain, uint64_t cols, const float *scales, float offset);

/* What the rows (and the bias) of v are divided by, given o's scales: the common scale of each group's heads.
 *   row_scales  [kv_heads of the layer * head_size]  out
 *   scales      [heads of the layer * head_size]     in, shared as awq_shared_heads says */
void fold_heads(
    float *row_scales, const float *scales, const struct model_config *config, uint32_t layer);

#endif
