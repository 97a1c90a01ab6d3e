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

/* Show a tensor in its place, in one of the streams. */
static void show(struct layer *layer, uint32_t place, bool original, const struct tensor *tensor)
{
    const uint32_t expert = layers_place_expert(place), which = layers_place_role(place) - ROLE_EXPERT_GATE;
    struct walk_layer *walk = &layer->walk;
    if (place < ROLE_COUNT) {
        (original ? walk->original : walk->current)[place] = tensor;
    } else {
        (original ? walk->original_experts : walk->current_experts)[expert][which] = tensor;
    }
}

static enum status load(struct layer *out, struct container *container, const struct tensor *source,
    uint32_t place, struct error *err)
{
    struct layer_slot *slot = &out->slots[place];
    void *data = slot->original_data = memory_new(source->bytes, 1, err);
    if (!data) return ERR_MEMORY;
    enum status status = container_read(container, source, 0, data, source->bytes, err);
    if (status != OK) return status;
    slot->original = *source;
    slot->original.data = data;
    show(out, place, true, &slot->original);
    show(out, place, false, &slot->original);
    return layer_check_finite(source, data, 0, source->elements, err);
}

static enum status allocate(struct layer *out, const struct model_config *config, struct error *err)
{
    struct walk_layer *walk = &out->walk;
    out->slots = memory_new(layers_places(config), sizeof *out->slots, err);
    if (!out->slots) return ERR_MEMORY;
    out->places = layers_places(config);
    if (!config->experts) return OK;
    walk->original_experts = memory_new(config->experts, sizeof *walk->original_experts, err);
    walk->current_experts = memory_new(config->experts, sizeof *walk->current_experts, err);
    return walk->original_experts && walk->current_experts ? OK : ERR_MEMORY;
}

enum status layer_load(struct layer *out, struct checkpoint *input, uint32_t index, struct error *err)
{
    *out = (struct layer){.walk.index = index};
    enum status status = allocate(out, &input->config, err);
    for (uint32_t place = ROLE_PER_LAYER; status == OK && place < out->places; place++) {
        const struct tensor *source = layers_at(&input->tensors, &input->config, index, place);
        if (source) status = load(out, input->container, source, place, err);
    }
    return status;
}

void layer_free(struct layer *layer)
{
    for (uint32_t place = 0; place < layer->places; place++) {
        memory_free(layer->slots[place].original_data);
        memory_free(layer->slots[place].current_data);
    }
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++)
        memory_free(layer->scales[stage]);
    memory_free(layer->expert_scales);
    memory_free(layer->walk.original_experts);
    memory_free(layer->walk.current_experts);
    memory_free(layer->slots);
    *layer = (struct layer){0};
}

uint64_t layer_bytes(const struct checkpoint *input, uint32_t index)
{
    uint64_t bytes = 0;
    for (uint32_t place = ROLE_PER_LAYER; place < layers_places(&input->config); place++) {
        const struct tensor *source = layers_at(&input->tensors, &input->config, index, place);
        if (source) bytes += source->bytes;
    }
    return bytes;
}

/* ---- replacing ---- */

const struct tensor *layer_current(const struct layer *layer, uint32_t place)
{
    const uint32_t which = layers_place_role(place) - ROLE_EXPERT_GATE;
    if (place < ROLE_COUNT) return layer->walk.current[place];
    return layer->walk.current_experts[layers_place_expert(place)][which];
}

void layer_replace(struct layer *layer, uint32_t place, const struct tensor *tensor, void *data)
{
    struct layer_slot *slot = &layer->slots[place];
    memory_free(slot->current_data);
    slot->current_data = data;
    slot->current = *tensor;
    slot->current.data = data;
    show(layer, place, false, &slot->current);
}

void layer_rewrite(struct layer *layer, uint32_t place, float *values)
{
    struct layer_slot *slot = &layer->slots[place];
    struct tensor *original = &slot->original;
    memory_free(slot->original_data);
    slot->original_data = values;
    original->storage = STORAGE_DENSE;
    original->dtype = DTYPE_F32;
    original->scheme = (struct scheme){0};
    original->mask = MASK_NONE;
    original->bytes = original->elements * sizeof *values;
    original->data = values;
    show(layer, place, true, original);
    show(layer, place, false, original);
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

float *layer_floats(const struct layer *layer, uint32_t place, struct error *err)
{
    const struct tensor *tensor = layer_current(layer, place);
    float *out = memory_new(tensor->elements, sizeof *out, err);
    if (out && tensor->rank == 2 && layer_decode_rows(out, tensor, 0, tensor->shape[0], err)) {
        memory_free(out);
        return NULL;
    }
    if (out && tensor->rank != 2) dtype_info(tensor->dtype)->decode(out, tensor->data, tensor->elements);
    return out;
}
