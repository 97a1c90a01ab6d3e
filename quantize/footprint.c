/* The sum of what is alive at the worst moment: solving the stage with the widest inputs. */
#include "quantize/footprint.h"

#include "quantize/cost.h"
#include "quantize/gptq.h"
#include "tensor/hessian.h"
#include "tensor/obs.h"

#define BASE_BYTES (UINT64_C(24) << 20) /* the program, its libraries, tokenizer and buffers of BLAS */

/* While the matrices of a group are solved: their Hessian, targets, codes and packed results. */
static uint64_t group_bytes(
    const struct calibrated *work, enum correction correction, uint32_t layer, struct gptq_group group)
{
    const struct model_config *config = &work->input->config;
    const bool own = group.expert == GPTQ_LAYER;
    bool residual = correction == CORRECTION_RESIDUAL && observe_adds_to_stream(config, group.stage);
    uint64_t cols = own ? walk_stage_cols(config, group.stage, layer) : walk_expert_cols(config, group.stage);
    uint64_t targets = 0, largest = 0, scratch = 0;
    uint32_t first = own ? ROLE_PER_LAYER : layers_place(ROLE_EXPERT_GATE, group.expert);
    unsigned workers = pool_workers(work->pool);
    for (uint32_t place = first; place < (own ? ROLE_COUNT : first + EXPERT_ROLES); place++) {
        const struct plan_tensor *planned = plan_at(work->plan, layer, place);
        if (!planned || planned->recipe.keep || walk_stage_of(planned->role) != group.stage) continue;
        uint64_t elements = planned->source->elements;
        targets += elements * sizeof(float);
        if (elements > largest) largest = elements;
        uint64_t needed = obs_bytes(cols, planned->target.scheme.group, planned->target.block, workers);
        if (needed > scratch) scratch = needed;
    }
    if (targets == 0) return 0;
    return hessian_bytes(cols, correction != CORRECTION_NONE, residual ? config->hidden : 0, workers) +
           targets + 2 * largest + scratch;
}

/* The largest of a stage's groups: they are solved one after the other. */
static uint64_t stage_bytes(
    const struct calibrated *work, enum correction correction, uint32_t layer, enum stage stage)
{
    struct gptq_group group = {stage, GPTQ_LAYER};
    uint64_t largest = group_bytes(work, correction, layer, group);
    for (group.expert = 0; group.expert < work->input->config.experts; group.expert++) {
        uint64_t bytes = group_bytes(work, correction, layer, group);
        if (bytes > largest) largest = bytes;
    }
    return largest;
}

static uint64_t layer_peak(const struct calibrated *work, enum correction correction, uint32_t layer)
{
    uint64_t largest = 0, quantized = 0, weights = layer_bytes(work->input, layer);
    for (uint32_t place = ROLE_PER_LAYER; place < work->plan->places; place++) {
        const struct plan_tensor *planned = plan_at(work->plan, layer, place);
        if (planned && !planned->recipe.keep) quantized += planned->bytes;
        /* AWQ keeps the layer in single precision, and searches on a copy of a stage's matrices. */
        if (planned && work->settings->method.rescale) weights += planned->source->elements * sizeof(float);
    }
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
        uint64_t bytes = stage_bytes(work, correction, layer, stage);
        if (bytes > largest) largest = bytes;
    }
    return weights + quantized + largest;
}

static uint64_t largest_layer(const struct calibrated *work, enum correction correction)
{
    uint64_t largest = 0;
    for (uint32_t layer = 0; layer < work->input->config.layers; layer++) {
        uint64_t bytes = layer_peak(work, correction, layer);
        if (bytes > largest) largest = bytes;
    }
    return largest;
}

/* With `matrices`, of the measurement, else of the run. */
static uint64_t peak(const struct calibrated *work, uint64_t matrices, bool in_memory, uint64_t *states)
{
    const struct calibration *calibration = &work->calibration;
    const struct model_config *config = &work->input->config;
    enum correction correction = matrices ? CORRECTION_NONE : work->settings->method.correction;
    const struct walk_options options = {.original = correction != CORRECTION_NONE, .in_memory = in_memory};
    uint64_t largest = largest_layer(work, correction), probed = 0;
    uint64_t bytes = walk_bytes(config, calibration->samples, calibration->length, &options, states);
    if (matrices) {
        struct probes_options probing = cost_probing(work, matrices);
        uint64_t finish = probes_finish_bytes(work->input, calibration);
        probing.in_memory = in_memory;
        bytes += probes_bytes(config, calibration, &probing, &probed);
        *states += probed;
        if (finish > largest) largest = finish;
    }
    return BASE_BYTES + largest + bytes;
}

static enum status settle(struct footprint *out, const struct calibrated *work, uint64_t matrices,
    uint64_t limit, struct error *err)
{
    char needed[16], allowed[16];
    out->in_memory = true;
    out->peak = peak(work, matrices, true, &out->states);
    if (out->states <= FOOTPRINT_STATES && (limit == 0 || out->peak <= limit)) return OK;
    out->in_memory = false;
    out->peak = peak(work, matrices, false, &out->states);
    if (limit == 0 || out->peak <= limit) return OK;
    return fail(err, ERR_MEMORY,
        "this needs about %s of memory, --memory-limit allows %s; --correction none, fewer --threads and "
        "shorter samples take less",
        report_bytes(needed, out->peak), report_bytes(allowed, limit));
}

enum status footprint_settle(
    struct footprint *out, const struct calibrated *work, uint64_t limit, struct error *err)
{
    return settle(out, work, 0, limit, err);
}

enum status footprint_measuring(struct footprint *out, const struct calibrated *work, uint64_t matrices,
    uint64_t limit, struct error *err)
{
    return settle(out, work, matrices, limit, err);
}
