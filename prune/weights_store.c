#include "prune/weights_store.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "formats/transfer.h"
#include "prune/weights_plan.h"
#include "tensor/sparse.h"
#include "tensor/tiles.h"

/* ---- with zeros ---- */

static enum status pack_tiles(
    void **data, const struct tensor *target, const struct weights_values *values, struct error *err)
{
    struct tiles_layout layout;
    enum status status = tiles_layout(&layout, target->shape[0], target->shape[1], target->scheme, err);
    if (status != OK) return status;
    uint8_t *out = *data = memory_new(layout.bytes, 1, err);
    if (!out) return ERR_MEMORY;
    for (uint64_t row = 0; row < layout.rows; row += TILE_ROWS) {
        uint64_t count = layout.rows - row < TILE_ROWS ? layout.rows - row : TILE_ROWS;
        struct tile tile = tiles_at(&layout, out, row / TILE_ROWS);
        tiles_pack(&layout, (uint8_t *)tile.codes, (uint16_t *)tile.scales, NULL,
            values->codes + row * layout.cols, values->scales + row * layout.groups, NULL, count);
    }
    return OK;
}

static enum status check_fits(
    const struct prune_tensor *matrix, const float *weights, const void *stored, struct error *err)
{
    const struct dtype_info *info = dtype_info(matrix->target.dtype);
    uint64_t cols = matrix->target.shape[1];
    for (uint64_t i = 0; i < matrix->weights; i++) {
        float value;
        info->decode(&value, (const uint8_t *)stored + i * info->bytes, 1);
        if (isfinite(value)) continue;
        return fail(err, ERR_NUMERIC,
            "tensor %s: weight [%" PRIu64 ", %" PRIu64 "] became %g, which does not fit %s", matrix->name,
            i / cols, i % cols, (double)weights[i], info->name);
    }
    return OK;
}

static enum status round_weights(
    void **data, const struct prune_tensor *matrix, const float *weights, struct error *err)
{
    const struct dtype_info *info = dtype_info(matrix->target.dtype);
    *data = memory_new(matrix->weights, info->bytes, err);
    if (!*data) return ERR_MEMORY;
    info->encode(*data, weights, matrix->weights);
    return check_fits(matrix, weights, *data, err);
}

/* ---- counting ---- */

static uint64_t count_zeros(
    const struct prune_tensor *matrix, const struct weights_values *values, const void *stored)
{
    const struct dtype_info *info = dtype_info(matrix->target.dtype);
    uint8_t middle = (uint8_t)(1u << (matrix->target.scheme.bits - 1) % 8);
    uint64_t zeros = 0;
    for (uint64_t i = 0; values->codes && i < matrix->weights; i++)
        zeros += values->codes[i] == middle;
    for (uint64_t i = 0; !values->codes && i < matrix->weights; i++) {
        float value;
        info->decode(&value, (const uint8_t *)stored + i * info->bytes, 1);
        zeros += value == 0;
    }
    return zeros;
}

/* ---- sparse ---- */

/* The sparse form if it is the smaller one; else nothing changes. */
static enum status prefer_sparse(struct tensor *out, void **data, const struct prune_tensor *matrix,
    const struct weights_values *values, const struct weights *work, struct error *err)
{
    struct tensor sparse;
    if (!work->sparse || !weights_plan_sparse(&sparse, matrix, work)) return OK;
    enum status status =
        sparse_make(&sparse, values->codes ? (const void *)values->codes : *data, values->scales, err);
    if (status != OK) return fail_within(err, status, "tensor %s", matrix->name);
    if (sparse.bytes >= out->bytes) {
        memory_free((void *)sparse.data);
        return OK;
    }
    memory_free(*data);
    *data = (void *)sparse.data;
    *out = sparse;
    return OK;
}

enum status weights_store(struct tensor *out, void **data, struct prune_tensor *matrix,
    const struct weights_values *values, const struct weights *work, struct error *err)
{
    *data = NULL;
    *out = matrix->target;
    enum status status = values->codes ? pack_tiles(data, &matrix->target, values, err)
                                       : round_weights(data, matrix, values->weights, err);
    if (status == OK) {
        out->bytes = transfer_target_bytes(out);
        matrix->zeros = count_zeros(matrix, values, *data);
        status = prefer_sparse(out, data, matrix, values, work, err);
    }
    if (status == OK) return OK;
    memory_free(*data);
    *data = NULL;
    return status;
}
