/* The sum of what is alive at the worst moment: solving the stage with the widest inputs. */
#include "quantize/footprint.h"

#include "tensor/hessian.h"
#include "tensor/obs.h"

#define BASE_BYTES (UINT64_C(24) << 20) /* the program, its libraries, tokenizer and buffers of BLAS */

/* While the matrices of a stage are solved: their Hessian, targets, codes and packed results. */
static uint64_t stage_bytes(const struct calibrated *work, uint32_t layer, enum stage stage)
{
    const struct model_config *config = &work->input->config;
    enum correction correction = work->settings->method.correction;
    bool residual = correction == CORRECTION_RESIDUAL && (stage == WALK_O || stage == WALK_DOWN);
    uint64_t cols = walk_stage_cols(config, stage), targets = 0, largest = 0, group = 0;
    unsigned workers = pool_workers(work->pool);
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct plan_tensor *planned = work->plan->layer[layer][role];
        if (!planned || planned->recipe.keep || walk_stage_of(role) != stage) continue;
        uint64_t elements = planned->source->elements;
        targets += elements * sizeof(float);
        if (elements > largest) largest = elements;
        group = planned->target.scheme.group;
    }
    if (targets == 0) return 0;
    return hessian_bytes(cols, correction != CORRECTION_NONE, residual ? config->hidden : 0, workers) +
           targets + 2 * largest + obs_bytes(cols, group, workers);
}

static uint64_t layer_peak(const struct calibrated *work, uint32_t layer)
{
    uint64_t largest = 0, quantized = 0, weights = layer_bytes(work->input, layer);
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct plan_tensor *planned = work->plan->layer[layer][role];
        if (planned && !planned->recipe.keep) quantized += planned->bytes;
        /* AWQ keeps the layer in single precision, and searches on a copy of a stage's matrices. */
        if (planned && work->settings->method.rescale) weights += planned->source->elements * sizeof(float);
    }
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++) {
        uint64_t bytes = stage_bytes(work, layer, stage);
        if (bytes > largest) largest = bytes;
    }
    return weights + quantized + largest;
}

static uint64_t peak(const struct calibrated *work, bool in_memory, uint64_t *states)
{
    const struct calibration *calibration = &work->calibration;
    const struct walk_options options = {
        .original = work->settings->method.correction != CORRECTION_NONE, .in_memory = in_memory};
    uint64_t largest = 0;
    for (uint32_t layer = 0; layer < work->input->config.layers; layer++) {
        uint64_t bytes = layer_peak(work, layer);
        if (bytes > largest) largest = bytes;
    }
    return BASE_BYTES + largest +
           walk_bytes(&work->input->config, calibration->samples, calibration->length, &options, states);
}

enum status footprint_settle(
    struct footprint *out, const struct calibrated *work, uint64_t limit, struct error *err)
{
    char needed[16], allowed[16];
    out->in_memory = true;
    out->peak = peak(work, true, &out->states);
    if (out->states <= FOOTPRINT_STATES && (limit == 0 || out->peak <= limit)) return OK;
    out->in_memory = false;
    out->peak = peak(work, false, &out->states);
    if (limit == 0 || out->peak <= limit) return OK;
    return fail(err, ERR_MEMORY,
        "this needs about %s of memory, --memory-limit allows %s; --correction none, fewer --threads and "
        "shorter samples take less",
        report_bytes(needed, out->peak), report_bytes(allowed, limit));
}
