/* Four pairs a layer. Scales are found first, all of them on the layer as it was, and then folded: a channel's scale concerns only
 * the channel's producer and its consumers, so the pairs do not disturb one another. */
#include "quantize/rescale.h"

#include "base/memory.h"
#include "quantize/awq.h"
#include "quantize/fold.h"
#include "quantize/gptq.h"

static bool is_consumer(const struct plan_tensor *planned, enum role role, enum stage stage)
{
    return planned && layers_role_is_linear(role) && walk_stage_of(role) == stage;
}

/* True if scales go into the rows of a matrix, not into a norm's gain. */
static bool has_matrix(const struct fold_pair *pair)
{
    return layers_role_is_linear(pair->producer);
}

bool rescale_possible(const struct plan *plan, uint32_t layer, enum stage stage)
{
    struct plan_tensor *const *roles = plan->layer[layer];
    const struct fold_pair *pair = fold_pair(stage);
    if (!roles[pair->producer]) return false;
    if (stage == WALK_DOWN && !roles[ROLE_GATE]) return false; /* between up and down is a bend */
    if (has_matrix(pair) && roles[pair->producer]->recipe.keep) return false;
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        if (is_consumer(roles[role], role, stage) && roles[role]->recipe.keep) return false;
    }
    return true;
}

void rescale_plan(struct plan *plan, uint32_t layers)
{
    for (uint32_t layer = 0; layer < layers; layer++) {
        for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
            const struct fold_pair *pair = fold_pair(stage);
            struct plan_tensor *bias = plan->layer[layer][pair->producer_bias];
            if (!rescale_possible(plan, layer, stage)) continue;
            if (!has_matrix(pair)) plan_widen(plan, plan->layer[layer][pair->producer]);
            if (bias) plan_widen(plan, bias);
        }
    }
}

/* ---- searching ---- */

/* The matrices of a stage as AWQ sees them. */
struct consumers {
    struct awq_matrix list[3];
    struct plan_tensor *planned[3];
    float *weights[3];
    unsigned count;
};

static enum status take_consumers(struct consumers *out, struct calibrated *work, const struct layer *layer,
    enum stage stage, struct error *err)
{
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        struct plan_tensor *planned = work->plan->layer[layer->walk.index][role];
        if (!is_consumer(planned, role, stage)) continue;
        float *weights = out->weights[out->count] = layer_floats(layer, role, err);
        if (!weights) return ERR_MEMORY;
        out->planned[out->count] = planned;
        out->list[out->count++] = (struct awq_matrix){.weights = weights,
            .rows = planned->target.shape[0],
            .scheme = planned->target.scheme,
            .block = planned->target.block,
            .range = planned->recipe.range == RANGE_MINMAX ? GRID_MINMAX : GRID_MSE,
            .name = planned->target.name};
    }
    return OK;
}

static enum status search(struct calibrated *work, const struct layer *layer, enum stage stage,
    const struct hessian *hessian, float *scales, struct error *err)
{
    struct consumers consumers = {0};
    struct awq_choice choice = {0};
    uint32_t *shared = NULL;
    double start = report_seconds();
    enum status status = take_consumers(&consumers, work, layer, stage, err);
    if (status == OK && stage == WALK_O) {
        shared = memory_new(hessian->cols, sizeof *shared, err);
        if (shared) awq_shared_heads(shared, &work->input->config, layer->walk.index);
        status = shared ? OK : ERR_MEMORY;
    }
    if (status == OK)
        status =
            awq_search(scales, &choice, consumers.list, consumers.count, hessian, shared, work->pool, err);
    for (unsigned i = 0; i < consumers.count; i++)
        consumers.planned[i]->outcome.scale_ratio = choice.ratio;
    for (unsigned i = 0; i < 3; i++)
        memory_free(consumers.weights[i]);
    memory_free(shared);
    work->phases.rescale += report_seconds() - start;
    return status;
}

/* *scales stays NULL where nothing can be scaled. */
static enum status find_scales(
    struct calibrated *work, struct layer *layer, enum stage stage, float **scales, struct error *err)
{
    struct hessian hessian = {0};
    if (!rescale_possible(work->plan, layer->walk.index, stage))
        return walk_to(work->walk, stage, &layer->walk, true, NULL, NULL, err);
    *scales = memory_new(walk_stage_cols(&work->input->config, stage, layer->walk.index), sizeof **scales, err);
    enum status status = *scales ? gptq_observe(work, layer, stage, false, true, &hessian, err) : ERR_MEMORY;
    if (status == OK) status = search(work, layer, stage, &hessian, *scales, err);
    hessian_free(&hessian);
    return status;
}

/* ---- folding ---- */

static enum status fold_into_gain(
    struct layer *layer, enum role role, const float *scales, float offset, struct error *err)
{
    float *gain = layer_floats(layer, role, err);
    if (!gain) return ERR_MEMORY;
    fold_gain(gain, layer->walk.current[role]->shape[0], scales, offset);
    layer_rewrite(layer, role, gain);
    return OK;
}

static enum status fold_into_rows(
    struct layer *layer, enum role role, const float *row_scales, struct error *err)
{
    const struct tensor *tensor = layer->walk.current[role];
    float *values = layer_floats(layer, role, err);
    if (!values) return ERR_MEMORY;
    fold_rows(values, tensor->shape[0], tensor->rank == 2 ? tensor->shape[1] : 1, row_scales);
    layer_rewrite(layer, role, values);
    return OK;
}

/* Into the producer of the stage's inputs. */
static enum status fold_producer(const struct calibrated *work, struct layer *layer, enum stage stage,
    const float *scales, struct error *err)
{
    const struct model_config *config = &work->input->config;
    const struct fold_pair *pair = fold_pair(stage);
    uint64_t rows = layer->walk.current[pair->producer]->shape[0];
    float *row_scales = memory_new(rows, sizeof *row_scales, err);
    if (!row_scales) return ERR_MEMORY;
    for (uint64_t i = 0; stage != WALK_O && i < rows; i++)
        row_scales[i] = scales[i];
    if (stage == WALK_O) fold_heads(row_scales, scales, config, layer->walk.index);
    enum status status = has_matrix(pair) ? fold_into_rows(layer, pair->producer, row_scales, err)
                                          : fold_into_gain(layer, pair->producer, row_scales,
                                                config->architecture->gain_offset, err);
    if (status == OK && layer->walk.current[pair->producer_bias])
        status = fold_into_rows(layer, pair->producer_bias, row_scales, err);
    memory_free(row_scales);
    return status;
}

/* Into the columns of the stage's matrices. */
static enum status fold_consumers(const struct calibrated *work, struct layer *layer, enum stage stage,
    const float *scales, struct error *err)
{
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        if (!is_consumer(work->plan->layer[layer->walk.index][role], role, stage)) continue;
        const struct tensor *tensor = layer->walk.current[role];
        float *weights = layer_floats(layer, role, err);
        if (!weights) return ERR_MEMORY;
        fold_columns(weights, tensor->shape[0], tensor->shape[1], scales);
        layer_rewrite(layer, role, weights);
    }
    return OK;
}

static enum status fold_all(const struct calibrated *work, struct layer *layer, struct error *err)
{
    enum status status = OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++) {
        const float *scales = layer->scales[stage];
        if (!scales) continue;
        status = fold_producer(work, layer, stage, scales, err);
        if (status == OK) status = fold_consumers(work, layer, stage, scales, err);
    }
    return status;
}

enum status rescale_layer(struct calibrated *work, struct layer *layer, struct error *err)
{
    enum status status = OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = find_scales(work, layer, stage, &layer->scales[stage], err);
    return status == OK ? fold_all(work, layer, err) : status;
}

/* ---- in the journal ---- */

static const char *const scale_names[WALK_STAGES] = {"nibble-quantize.scales.qkv", "nibble-quantize.scales.o",
    "nibble-quantize.scales.gate_up", "nibble-quantize.scales.down"};

uint64_t rescale_tensors(struct tensor *out, const struct layer *layer, const struct model_config *config)
{
    uint64_t count = 0;
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
        if (!layer->scales[stage]) continue;
        uint64_t cols = walk_stage_cols(config, stage, layer->walk.index);
        out[count++] = (struct tensor){.name = scale_names[stage],
            .dtype = DTYPE_F32,
            .rank = 1,
            .shape = {cols},
            .elements = cols,
            .bytes = cols * sizeof(float),
            .data = layer->scales[stage]};
    }
    return count;
}

static enum status read_scales(
    float **out, struct container *from, const char *name, uint64_t cols, struct error *err)
{
    const struct tensor *tensor = container_find(from, name);
    bool fits = tensor && tensor->storage == STORAGE_DENSE && tensor->dtype == DTYPE_F32 &&
                tensor->bytes == cols * sizeof(float);
    if (!fits)
        return fail(err, ERR_FORMAT, "%s: tensor %s is not what this run makes of it; --restart begins anew",
            container_path(from), name);
    *out = memory_new(cols, sizeof **out, err);
    return *out ? container_read(from, tensor, 0, *out, tensor->bytes, err) : ERR_MEMORY;
}

enum status rescale_again(
    struct calibrated *work, struct layer *layer, struct container *from, struct error *err)
{
    enum status status = OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++) {
        uint64_t cols = walk_stage_cols(&work->input->config, stage, layer->walk.index);
        if (rescale_possible(work->plan, layer->walk.index, stage))
            status = read_scales(&layer->scales[stage], from, scale_names[stage], cols, err);
    }
    return status == OK ? fold_all(work, layer, err) : status;
}
