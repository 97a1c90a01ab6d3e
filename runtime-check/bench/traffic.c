/* See traffic.h. */
#include "runtime-check/bench/traffic.h"

#include "tensor/tiles.h"

/* One row of a matrix: of tiles, its share of codes, scales and zero-points, padding included; of a sparse one the mean. */
static uint64_t row_bytes(const struct tensor *tensor)
{
    struct tiles_layout layout;
    if (tensor->storage == STORAGE_DENSE) return tensor->shape[1] * dtype_info(tensor->dtype)->bytes;
    if (tensor->storage == STORAGE_BLOCKS || tensor->storage == STORAGE_SPARSE)
        return tensor->bytes / tensor->shape[0];
    if (tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, NULL)) return 0;
    return (layout.tile_code_bytes + layout.tile_scale_bytes + layout.tile_zero_bytes) / TILE_ROWS;
}

/* The mean of least(position + 1, window) over the generated positions; window 0: all are seen. */
static double positions_seen(uint64_t past, uint64_t tokens, uint64_t window)
{
    double sum = 0;
    for (uint64_t i = 0; i < tokens; i++) {
        const uint64_t seen = past + i + 1;
        sum += (double)(window && window < seen ? window : seen);
    }
    return sum / (double)tokens;
}

struct traffic traffic_per_token(
    const struct model *model, uint64_t cache_bytes, uint64_t past, uint64_t tokens)
{
    const struct model_config *config = &model->config;
    const struct tensor *const *once = model->tensors.once;
    const double full = positions_seen(past, tokens, 0), slid = positions_seen(past, tokens, config->window);
    struct traffic traffic = {
        .weights = row_bytes(once[ROLE_EMBEDDING]) + once[ROLE_HEAD]->bytes + once[ROLE_FINAL_NORM]->bytes,
    };
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        const double per_layer = (double)cache_bytes / config->layers;
        traffic.cache += per_layer * (config_slides(config, layer) ? slid : full);
        for (unsigned role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
            const struct tensor *tensor = model->tensors.layer[layer][role];
            if (tensor) traffic.weights += tensor->bytes;
        }
        traffic.weights += layers_routed_bytes(&model->tensors, config, layer);
    }
    return traffic;
}
