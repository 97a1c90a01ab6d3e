/* Folding scales into a layer. */
#include "quantize/fold.h"

const struct fold_pair *fold_pair(enum stage stage)
{
    static const struct fold_pair pairs[WALK_STAGES] = {
        [WALK_QKV] = {ROLE_ATTENTION_NORM, ROLE_ATTENTION_NORM_BIAS, {ROLE_Q, ROLE_K, ROLE_V}, 3},
        [WALK_O] = {ROLE_V, ROLE_V_BIAS, {ROLE_O}, 1},
        [WALK_GATE_UP] = {ROLE_MLP_NORM, ROLE_MLP_NORM_BIAS, {ROLE_GATE, ROLE_UP}, 2},
        [WALK_DOWN] = {ROLE_UP, ROLE_UP_BIAS, {ROLE_DOWN}, 1},
    };
    return &pairs[stage];
}

void fold_columns(float *weights, uint64_t rows, uint64_t cols, const float *scales)
{
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t col = 0; col < cols; col++)
            weights[row * cols + col] *= scales[col];
    }
}

void fold_rows(float *weights, uint64_t rows, uint64_t cols, const float *scales)
{
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t col = 0; col < cols; col++)
            weights[row * cols + col] /= scales[row];
    }
}

void fold_gain(float *gain, uint64_t cols, const float *scales, float offset)
{
    for (uint64_t col = 0; col < cols; col++)
        gain[col] = (gain[col] + offset) / scales[col] - offset;
}

void fold_heads(
    float *row_scales, const float *scales, const struct model_config *config, uint32_t layer)
{
    const struct config_widths widths = config_widths(config, layer);
    uint32_t size = config->head_size, group = widths.heads / widths.kv_heads;
    for (uint32_t head = 0; head < widths.kv_heads; head++) {
        for (uint32_t d = 0; d < size; d++) /* any head of the group would do: take its first */
            row_scales[head * size + d] = scales[head * group * size + d];
    }
}
