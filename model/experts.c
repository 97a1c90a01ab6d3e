/* Tokens are grouped by expert, so that a matrix is read once for all that need it. Weights are a dense matrix [tokens][experts]: a
 * zero says that the token is not sent there. */
#include "model/experts.h"

#include <math.h>
#include <string.h>

uint64_t experts_scratch(const struct model_config *config)
{
    return config->experts ? config->experts + 3 * (uint64_t)config->hidden : 0;
}

/* ---- routing ---- */

static void softmax(float *x, uint32_t count)
{
    float peak = x[0], sum = 0;

    for (uint32_t i = 1; i < count; i++)
        peak = x[i] > peak ? x[i] : peak;
    for (uint32_t i = 0; i < count; i++)
        sum += x[i] = expf(x[i] - peak);
    for (uint32_t i = 0; i < count; i++)
        x[i] /= sum;
}

void experts_route(float *logits, uint32_t experts, uint32_t chosen, bool normed)
{
    bool taken[CONFIG_EXPERT_LIMIT] = {false};
    float sum = 0;

    softmax(logits, experts);
    for (uint32_t n = 0; n < chosen; n++) {
        uint32_t best = 0;
        while (taken[best])
            best++;
        for (uint32_t i = best + 1; i < experts; i++)
            if (!taken[i] && logits[i] > logits[best]) best = i;
        taken[best] = true;
        sum += logits[best];
    }
    for (uint32_t i = 0; i < experts; i++)
        logits[i] = !taken[i] ? 0 : normed ? logits[i] / sum : logits[i];
}

enum status experts_weigh(const struct decoder_layer *layer, float *weights, const float *normed,
    uint64_t tokens, struct error *err)
{
    const struct model_config *config = layer->config;
    enum status status = decoder_linear(layer, weights, normed, tokens, ROLE_ROUTER, err);

    for (uint64_t i = 0; i < tokens && !status; i++)
        experts_route(weights + i * config->experts, config->experts, config->experts_per_token,
            config->normed_routing);
    return status;
}

uint64_t experts_gather(float *out, const float *x, uint64_t tokens, uint64_t cols, const float *weights,
    uint32_t experts, uint32_t expert)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < tokens; i++)
        if (weights[i * experts + expert] != 0)
            memcpy(out + count++ * cols, x + i * cols, cols * sizeof *out);
    return count;
}

/* ---- what experts give ---- */

/* The scratch of one call. */
struct mixture {
    const struct decoder_layer *layer;
    uint64_t tokens;
    const float *normed; /* [tokens][hidden] */
    float *weights;      /* [tokens][experts] */
    float *inputs;       /* [tokens][hidden]: those of one expert */
    float *outputs;      /* [tokens][hidden] */
    float *sum;          /* [tokens][hidden] */
    float *gate, *up;
};

/* Every gathered output, weighted, to where its token is. */
static void scatter(const struct mixture *mixture, uint32_t expert)
{
    const uint64_t hidden = mixture->layer->config->hidden, experts = mixture->layer->config->experts;
    const float *output = mixture->outputs;

    for (uint64_t i = 0; i < mixture->tokens; i++) {
        const float weight = mixture->weights[i * experts + expert];
        if (weight == 0) continue;
        for (uint64_t j = 0; j < hidden; j++)
            mixture->sum[i * hidden + j] += weight * output[j];
        output += hidden;
    }
}

enum status experts_gate(const struct decoder_layer *layer, uint32_t expert, float *gate, float *up,
    const float *inputs, uint64_t count, struct error *err)
{
    const struct backend *backend = layer->backend;
    const struct model_config *config = layer->config;
    const struct tensor *const *matrices = layer->experts[expert];
    enum status status = backend->linear(backend->state, gate, inputs, count, matrices[0], NULL, err);

    if (!status)
        status = backend->linear(
            backend->state, up, inputs, count, matrices[ROLE_EXPERT_UP - ROLE_EXPERT_GATE], NULL, err);
    return status
               ? status
               : backend->gate(backend->state, config->activation, gate, up, count * config->expert_ffn, err);
}

static enum status add_expert(const struct mixture *mixture, uint32_t expert, struct error *err)
{
    const struct decoder_layer *layer = mixture->layer;
    const struct backend *backend = layer->backend;
    const struct model_config *config = layer->config;
    const uint64_t count = experts_gather(mixture->inputs, mixture->normed, mixture->tokens, config->hidden,
        mixture->weights, config->experts, expert);
    enum status status;

    if (count == 0) return OK;
    status = experts_gate(layer, expert, mixture->gate, mixture->up, mixture->inputs, count, err);
    if (!status)
        status = backend->linear(backend->state, mixture->outputs, mixture->gate, count,
            layer->experts[expert][ROLE_EXPERT_DOWN - ROLE_EXPERT_GATE], NULL, err);
    if (!status) scatter(mixture, expert);
    return status;
}

/* The shared expert sees all tokens; a sigmoid says how much of it each takes. */
static enum status add_shared(const struct mixture *mixture, struct error *err)
{
    const struct decoder_layer *layer = mixture->layer;
    const uint64_t tokens = mixture->tokens, hidden = layer->config->hidden;
    float *share = mixture->weights;
    enum status status = decoder_gate(layer, mixture->gate, mixture->up, mixture->normed, tokens, err);

    if (!status) status = decoder_linear(layer, mixture->outputs, mixture->gate, tokens, ROLE_DOWN, err);
    if (!status) status = decoder_linear(layer, share, mixture->normed, tokens, ROLE_SHARED_ROUTER, err);
    for (uint64_t i = 0; i < tokens && !status; i++) {
        const float weight = 1 / (1 + expf(-share[i]));
        for (uint64_t j = 0; j < hidden; j++)
            mixture->sum[i * hidden + j] += weight * mixture->outputs[i * hidden + j];
    }
    return status;
}

enum status experts_add(const struct decoder_layer *layer, float *x, const float *normed, float *gate,
    float *up, float *scratch, uint64_t tokens, struct error *err)
{
    const struct backend *backend = layer->backend;
    const struct model_config *config = layer->config;
    const uint64_t floats = tokens * config->hidden;
    const struct mixture mixture = {.layer = layer,
        .tokens = tokens,
        .normed = normed,
        .weights = scratch + 3 * floats,
        .inputs = scratch,
        .outputs = scratch + floats,
        .sum = scratch + 2 * floats,
        .gate = gate,
        .up = up};
    enum status status = experts_weigh(layer, mixture.weights, normed, tokens, err);

    memset(mixture.sum, 0, floats * sizeof *mixture.sum);
    for (uint32_t expert = 0; expert < config->experts && !status; expert++)
        status = add_expert(&mixture, expert, err);
    if (!status && layer->tensors[ROLE_SHARED_ROUTER]) status = add_shared(&mixture, err);
    return status ? status : backend->add(backend->state, x, mixture.sum, floats, err);
}
