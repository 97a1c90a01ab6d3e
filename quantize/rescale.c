/* Four pairs a layer, and one more for each expert of a mixture. Scales are found first, all of them on the layer as it was, and then folded: a channel's scale concerns only
 * the channel's producer and its consumers, so the pairs do not disturb one another. */
#include "quantize/rescale.h"

#include "base/memory.h"
#include "quantize/awq.h"
#include "quantize/fold.h"
#include "quantize/gptq.h"

/* A weight matrix that reads the channels of a stage, or of one expert at it. Those of all experts read what the layer's own do at
 * WALK_GATE_UP; at WALK_DOWN each expert's reads its own. */
static bool is_consumer(const struct plan_tensor *planned, struct gptq_group group)
{
    if (!planned || !layers_role_is_linear(planned->role)) return false;
    if (walk_stage_of(planned->role) != group.stage) return false;
    if (!layers_role_is_expert(planned->role)) return group.expert == GPTQ_LAYER;
    return group.expert == (group.stage == WALK_DOWN ? planned->expert : GPTQ_LAYER);
}

/* A router reads them too; it stays as exact as a norm. */
static bool is_router(enum role role)
{
    return role == ROLE_ROUTER || role == ROLE_SHARED_ROUTER;
}

/* Who produces the channels of a group: a role, or the place of an expert's matrix. */
static uint32_t producer_of(struct gptq_group group)
{
    if (group.expert == GPTQ_LAYER) return fold_pair(group.stage)->producer;
    return layers_place(ROLE_EXPERT_UP, group.expert);
}

bool rescale_possible(const struct plan *plan, uint32_t layer, struct gptq_group group)
{
    const uint32_t place = producer_of(group);
    const struct plan_tensor *producer = plan_at(plan, layer, place);
    bool read = false;
    if (!producer) return false;
    if (place == ROLE_ATTENTION_NORM && !plan_at(plan, layer, ROLE_MLP_NORM))
        return false; /* gate and up see this norm too */
    /* Between up and down without a gate is a bend. */
    if (place == ROLE_UP && !plan_at(plan, layer, ROLE_GATE)) return false;
    if (layers_role_is_linear(producer->role) && producer->recipe.keep) return false;
    for (uint32_t at = ROLE_PER_LAYER; at < plan->places; at++) {
        const struct plan_tensor *planned = plan_at(plan, layer, at);
        if (!is_consumer(planned, group)) continue;
        if (planned->recipe.keep) return false;
        read = true;
    }
    return read;
}

static void widen(struct plan *plan, uint32_t layer, enum role role)
{
    struct plan_tensor *planned = plan_at(plan, layer, role);
    if (planned) plan_widen(plan, planned);
}

void rescale_plan(struct plan *plan, uint32_t layers)
{
    for (uint32_t layer = 0; layer < layers; layer++) {
        for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
            const struct fold_pair *pair = fold_pair(stage);
            if (!rescale_possible(plan, layer, (struct gptq_group){stage, GPTQ_LAYER})) continue;
            if (!layers_role_is_linear(pair->producer)) widen(plan, layer, pair->producer);
            widen(plan, layer, pair->producer_bias);
            if (stage == WALK_GATE_UP) widen(plan, layer, ROLE_ROUTER);
            if (stage == WALK_GATE_UP) widen(plan, layer, ROLE_SHARED_ROUTER);
        }
    }
}

/* ---- searching ---- */

/* The matrices of a group as AWQ sees them. */
struct consumers {
    struct awq_matrix *list;      /* [places] */
    struct plan_tensor **planned; /* [places] */
    float **weights;              /* [places] */
    uint32_t count;
};

static enum status take_consumers(struct consumers *out, struct calibrated *work, const struct layer *layer,
    struct gptq_group group, struct error *err)
{
    out->list = memory_new(work->plan->places, sizeof *out->list, err);
    out->planned = memory_new(work->plan->places, sizeof *out->planned, err);
    out->weights = memory_new(work->plan->places, sizeof *out->weights, err);
    if (!out->list || !out->planned || !out->weights) return ERR_MEMORY;
    for (uint32_t place = ROLE_PER_LAYER; place < work->plan->places; place++) {
        struct plan_tensor *planned = plan_at(work->plan, layer->walk.index, place);
        if (!is_consumer(planned, group)) continue;
        float *weights = out->weights[out->count] = layer_floats(layer, place, err);
        if (!weights) return err->code;
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

static void free_consumers(struct consumers *consumers, double ratio)
{
    for (uint32_t i = 0; i < consumers->count; i++)
        consumers->planned[i]->outcome.scale_ratio = ratio;
    for (uint32_t i = 0; consumers->weights && i < consumers->count; i++)
        memory_free(consumers->weights[i]);
    memory_free(consumers->list);
    memory_free(consumers->planned);
    memory_free(consumers->weights);
}

static enum status search(struct calibrated *work, const struct layer *layer, struct gptq_group group,
    const struct hessian *hessian, float *scales, struct error *err)
{
    struct consumers consumers = {0};
    struct awq_choice choice = {0};
    uint32_t *shared = NULL;
    double start = report_seconds();
    enum status status = take_consumers(&consumers, work, layer, group, err);
    if (status == OK && group.stage == WALK_O) {
        shared = memory_new(hessian->cols, sizeof *shared, err);
        if (shared) awq_shared_heads(shared, &work->input->config, layer->walk.index);
        status = shared ? OK : ERR_MEMORY;
    }
    if (status == OK)
        status =
            awq_search(scales, &choice, consumers.list, consumers.count, hessian, shared, work->pool, err);
    free_consumers(&consumers, choice.ratio);
    memory_free(shared);
    work->phases.rescale += report_seconds() - start;
    return status;
}

/* *scales stays NULL where nothing can be scaled. */
static enum status find_scales(
    struct calibrated *work, struct layer *layer, enum stage stage, float **scales, struct error *err)
{
    const struct gptq_group group = {stage, GPTQ_LAYER};
    struct hessian hessian = {0};
    enum gptq_known known;
    if (!rescale_possible(work->plan, layer->walk.index, group))
        return walk_to(work->walk, stage, &layer->walk, true, NULL, NULL, err);
    *scales = memory_new(walk_stage_cols(&work->input->config, stage, layer->walk.index), sizeof **scales, err);
    enum status status =
        *scales ? gptq_observe(work, layer, group, false, true, &hessian, &known, err) : ERR_MEMORY;
    if (status == OK) status = search(work, layer, group, &hessian, *scales, err);
    hessian_free(&hessian);
    return status;
}

static bool is_expert_possible(const struct calibrated *work, uint32_t layer, uint32_t expert)
{
    return rescale_possible(work->plan, layer, (struct gptq_group){WALK_DOWN, expert});
}

/* What down sees of one expert. One that calibration did not reach keeps scales of 1. */
static enum status find_expert_scales(
    struct calibrated *work, struct layer *layer, uint32_t expert, float *scales, struct error *err)
{
    const struct gptq_group group = {WALK_DOWN, expert};
    struct hessian hessian = {0};
    enum gptq_known known;
    for (uint32_t i = 0; i < work->input->config.expert_ffn; i++)
        scales[i] = 1;
    if (!is_expert_possible(work, layer->walk.index, expert)) return OK;
    enum status status = gptq_observe(work, layer, group, false, true, &hessian, &known, err);
    if (status == OK && known == GPTQ_ALL) status = search(work, layer, group, &hessian, scales, err);
    hessian_free(&hessian);
    return status;
}

static enum status find_all_expert_scales(struct calibrated *work, struct layer *layer, struct error *err)
{
    const struct model_config *config = &work->input->config;
    enum status status = OK;
    if (!config->experts) return OK;
    layer->expert_scales =
        memory_new((uint64_t)config->experts * config->expert_ffn, sizeof *layer->expert_scales, err);
    if (!layer->expert_scales) return ERR_MEMORY;
    for (uint32_t expert = 0; status == OK && expert < config->experts; expert++)
        status = find_expert_scales(
            work, layer, expert, layer->expert_scales + (uint64_t)expert * config->expert_ffn, err);
    return status;
}

/* ---- folding ---- */

static enum status fold_into_gain(
    struct layer *layer, enum role role, const float *scales, float offset, struct error *err)
{
    float *gain = layer_floats(layer, role, err);
    if (!gain) return err->code;
    fold_gain(gain, layer->walk.current[role]->shape[0], scales, offset);
    layer_rewrite(layer, role, gain);
    return OK;
}

static enum status fold_into_rows(
    struct layer *layer, uint32_t place, const float *row_scales, struct error *err)
{
    const struct tensor *tensor = layer_current(layer, place);
    float *values = layer_floats(layer, place, err);
    if (!values) return err->code;
    fold_rows(values, tensor->shape[0], tensor->rank == 2 ? tensor->shape[1] : 1, row_scales);
    layer_rewrite(layer, place, values);
    return OK;
}

static enum status fold_into_columns(
    struct layer *layer, uint32_t place, const float *scales, struct error *err)
{
    const struct tensor *tensor = layer_current(layer, place);
    float *values = layer_floats(layer, place, err);
    if (!values) return err->code;
    fold_columns(values, tensor->shape[0], tensor->shape[1], scales);
    layer_rewrite(layer, place, values);
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
    enum status status =
        layers_role_is_linear(pair->producer)
            ? fold_into_rows(layer, pair->producer, row_scales, err)
            : fold_into_gain(layer, pair->producer, row_scales, config->architecture->gain_offset, err);
    if (status == OK && layer->walk.current[pair->producer_bias])
        status = fold_into_rows(layer, pair->producer_bias, row_scales, err);
    memory_free(row_scales);
    return status;
}

/* Into the columns of a group's matrices, and of the routers that read the same. */
static enum status fold_consumers(const struct calibrated *work, struct layer *layer, struct gptq_group group,
    const float *scales, struct error *err)
{
    enum status status = OK;
    for (uint32_t place = ROLE_PER_LAYER; status == OK && place < work->plan->places; place++) {
        const struct plan_tensor *planned = plan_at(work->plan, layer->walk.index, place);
        if (is_consumer(planned, group) ||
            (planned && group.stage == WALK_GATE_UP && is_router(planned->role)))
            status = fold_into_columns(layer, place, scales, err);
    }
    return status;
}

static enum status fold_experts(const struct calibrated *work, struct layer *layer, struct error *err)
{
    const struct model_config *config = &work->input->config;
    enum status status = OK;
    for (uint32_t expert = 0; layer->expert_scales && status == OK && expert < config->experts; expert++) {
        const struct gptq_group group = {WALK_DOWN, expert};
        const float *scales = layer->expert_scales + (uint64_t)expert * config->expert_ffn;
        if (!is_expert_possible(work, layer->walk.index, expert)) continue;
        status = fold_into_rows(layer, producer_of(group), scales, err);
        if (status == OK) status = fold_consumers(work, layer, group, scales, err);
    }
    return status;
}

static enum status fold_all(const struct calibrated *work, struct layer *layer, struct error *err)
{
    enum status status = OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++) {
        const float *scales = layer->scales[stage];
        if (!scales) continue;
        status = fold_producer(work, layer, stage, scales, err);
        if (status == OK)
            status = fold_consumers(work, layer, (struct gptq_group){stage, GPTQ_LAYER}, scales, err);
    }
    return status == OK ? fold_experts(work, layer, err) : status;
}

enum status rescale_layer(struct calibrated *work, struct layer *layer, struct error *err)
{
    enum status status = OK;
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = find_scales(work, layer, stage, &layer->scales[stage], err);
    if (status == OK) status = find_all_expert_scales(work, layer, err);
    return status == OK ? fold_all(work, layer, err) : status;
}

/* ---- in the journal ---- */

static const char *const scale_names[WALK_STAGES] = {"nibble-quantize.scales.qkv", "nibble-quantize.scales.o",
    "nibble-quantize.scales.gate_up", "nibble-quantize.scales.down"};
static const char expert_scales_name[] = "nibble-quantize.scales.experts_down";

static struct tensor as_tensor(const char *name, const float *scales, uint64_t count)
{
    return (struct tensor){.name = name,
        .dtype = DTYPE_F32,
        .rank = 1,
        .shape = {count},
        .elements = count,
        .bytes = count * sizeof *scales,
        .data = scales};
}

static uint64_t expert_scales_count(const struct model_config *config)
{
    return (uint64_t)config->experts * config->expert_ffn;
}

uint64_t rescale_tensors(
    struct tensor out[RESCALE_TENSORS], const struct layer *layer, const struct model_config *config)
{
    uint64_t count = 0;
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
        if (!layer->scales[stage]) continue;
        out[count++] = as_tensor(scale_names[stage], layer->scales[stage], walk_stage_cols(config, stage, layer->walk.index));
    }
    if (layer->expert_scales)
        out[count++] = as_tensor(expert_scales_name, layer->expert_scales, expert_scales_count(config));
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
        if (rescale_possible(work->plan, layer->walk.index, (struct gptq_group){stage, GPTQ_LAYER}))
            status = read_scales(&layer->scales[stage], from, scale_names[stage], cols, err);
    }
    if (status == OK && work->input->config.experts)
        status = read_scales(
            &layer->expert_scales, from, expert_scales_name, expert_scales_count(&work->input->config), err);
    return status == OK ? fold_all(work, layer, err) : status;
}
