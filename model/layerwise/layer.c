/* A decoder layer, read by positioned reads (never mapped), so that memory is what is asked for and no more. */
#include "model/layerwise/layer.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"
#include "tensor/sparse.h"

#define PIECE 4096 /* elements decoded at a time */

/* ---- reading ---- */

enum status layer_check_finite(
    const struct tensor *tensor, const void *bytes, uint64_t first, uint64_t count, struct error *err)
{
    const struct dtype_info *info = dtype_info(tensor->dtype);
    float values[PIECE];
    if (tensor->storage != STORAGE_DENSE || !info->decode) return OK;
    for (uint64_t begin = 0; begin < count; begin += PIECE) {
        uint64_t piece = count - begin < PIECE ? count - begin : PIECE;
        info->decode(values, (const uint8_t *)bytes + begin * info->bytes, piece);
        for (uint64_t i = 0; i < piece; i++) {
            if (isfinite(values[i])) continue;
            return fail(err, ERR_NUMERIC, "tensor %s: element %" PRIu64 " is %s", tensor->name,
                first + begin + i, isnan(values[i]) ? "NaN" : "infinite");
        }
    }
    return OK;
}

static enum status load(struct layer *out, struct container *container, const struct tensor *source,
    enum role role, struct error *err)
{
    void *data = out->original_data[role] = memory_new(source->bytes, 1, err);
    if (!data) return ERR_MEMORY;
    enum status status = container_read(container, source, 0, data, source->bytes, err);
    if (status != OK) return status;
    out->original[role] = *source;
    out->original[role].data = data;
    out->walk.original[role] = out->walk.current[role] = &out->original[role];
    return layer_check_finite(source, data, 0, source->elements, err);
}

enum status layer_load(struct layer *out, struct checkpoint *input, uint32_t index, struct error *err)
{
    *out = (struct layer){.walk.index = index};
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct tensor *source = input->tensors.layer[index][role];
        enum status status = source ? load(out, input->container, source, role, err) : OK;
        if (status != OK) return status;
    }
    return OK;
}

void layer_free(struct layer *layer)
{
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        memory_free(layer->original_data[role]);
        memory_free(layer->current_data[role]);
    }
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++)
        memory_free(layer->scales[stage]);
    *layer = (struct layer){0};
}

uint64_t layer_bytes(const struct checkpoint *input, uint32_t index)
{
    uint64_t bytes = 0;
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct tensor *source = input->tensors.layer[index][role];
        if (source) bytes += source->bytes;
    }
    return bytes;
}

/* ---- replacing ---- */

void layer_replace(struct layer *layer, enum role role, const struct tensor *tensor, void *data)
{
    memory_free(layer->current_data[role]);
    layer->current_data[role] = data;
    layer->current[role] = *tensor;
    layer->current[role].data = data;
    layer->walk.current[role] = &layer->current[role];
}

void layer_rewrite(struct layer *layer, enum role role, float *values)
{
    struct tensor *original = &layer->original[role];
    memory_free(layer->original_data[role]);
    layer->original_data[role] = values;
    original->storage = STORAGE_DENSE;
    original->dtype = DTYPE_F32;
    original->scheme = (struct scheme){0};
    original->mask = MASK_NONE;
    original->bytes = original->elements * sizeof *values;
    original->data = values;
    layer->walk.original[role] = layer->walk.current[role] = original;
}

enum status layer_decode_rows(
    float *out, const struct tensor *tensor, uint64_t row, uint64_t rows, struct error *err)
{
    uint64_t cols = tensor->shape[1];
    const struct dtype_info *info = dtype_info(tensor->dtype);
    struct tiles_layout layout;
    if (tensor->storage == STORAGE_DENSE) {
        info->decode(out, (const uint8_t *)tensor->data + row * cols * info->bytes, rows * cols);
    } else if (tensor->storage == STORAGE_BLOCKS) {
        blocks_decode(out, tensor->block, tensor->data, row * cols, rows * cols);
    } else if (tensor->storage == STORAGE_SPARSE) {
        return sparse_rows(tensor, out, row, rows, err);
    } else {
        enum status status = tiles_layout(&layout, tensor->shape[0], cols, tensor->scheme, err);
        if (status) return fail_within(err, status, "tensor %s", tensor->name);
        tiles_decode(&layout, out, cols, tensor->data, row, rows);
    }
    return OK;
}

float *layer_floats(const struct layer *layer, enum role role, struct error *err)
{
    const struct tensor *tensor = layer->walk.current[role];
    float *out = memory_new(tensor->elements, sizeof *out, err);
    if (out && tensor->rank == 2 && layer_decode_rows(out, tensor, 0, tensor->shape[0], err)) {
        memory_free(out);
        return NULL;
    }
    if (out && tensor->rank != 2) dtype_info(tensor->dtype)->decode(out, tensor->data, tensor->elements);
    return out;
}
