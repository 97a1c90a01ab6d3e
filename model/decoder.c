/* See decoder.h. */
#include "model/decoder.h"

#include <math.h>
#include <string.h>

#include "model/experts.h"
#include "model/rope.h"

uint64_t decoder_ffn(const struct model_config *config)
{
    return config->ffn > config->expert_ffn ? config->ffn : config->expert_ffn;
}

uint64_t decoder_widest(const struct model_config *config)
{
    uint64_t widest = (uint64_t)config->heads * config->head_size, ffn = decoder_ffn(config);

    if (widest < config->hidden) widest = config->hidden;
    return widest < ffn ? ffn : widest;
}

/* How a configuration norms, by some gain. */
static struct norm_call norm_by(
    const struct model_config *config, const struct tensor *gain, const struct tensor *bias)
{
    return (struct norm_call){.gain = gain,
        .bias = bias,
        .offset = config->architecture->gain_offset,
        .epsilon = (float)config->norm_epsilon,
        .centered = config->architecture->centered_norm};
}

enum status decoder_embed(const struct backend *backend, const struct model_config *config,
    const struct tensor *const *once, float *x, float *scratch, const uint32_t *ids, uint64_t tokens,
    uint64_t past, uint64_t length, struct error *err)
{
    const struct tensor *positions = once[ROLE_POSITIONS];
    const uint64_t hidden = config->hidden;
    enum status status =
        backend->embed(backend->state, x, ids, tokens, once[ROLE_EMBEDDING], config->embedding_scale, err);

    if (!positions) return status;
    for (uint64_t i = 0; i < tokens && !status; i++) {
        const uint32_t position = (uint32_t)(past + i % length);
        status = backend->embed(backend->state, scratch + i * hidden, &position, 1, positions, 1, err);
    }
    return status ? status : backend->add(backend->state, x, scratch, tokens * hidden, err);
}

enum status decoder_norm(const struct decoder_layer *layer, float *y, const float *x, uint64_t tokens,
    enum role gain, struct error *err)
{
    static const enum role bias_of[ROLE_COUNT] = {
        [ROLE_ATTENTION_NORM] = ROLE_ATTENTION_NORM_BIAS,
        [ROLE_MLP_NORM] = ROLE_MLP_NORM_BIAS,
    };
    const struct backend *backend = layer->backend;
    const struct tensor *const *tensors = layer->tensors;
    uint64_t hidden = layer->config->hidden;
    if (gain == ROLE_MLP_NORM && layer->config->shared_norm) gain = ROLE_ATTENTION_NORM;
    struct norm_call call =
        norm_by(layer->config, tensors[gain], bias_of[gain] ? tensors[bias_of[gain]] : NULL);

    if (call.gain) return backend->norm(backend->state, y, x, tokens, hidden, &call, err);
    if (y != x) memcpy(y, x, tokens * hidden * sizeof *y);
    return OK;
}

enum status decoder_linear(const struct decoder_layer *layer, float *y, const float *x, uint64_t tokens,
    enum role weight, struct error *err)
{
    static const enum role bias_of[ROLE_COUNT] = {
        [ROLE_Q] = ROLE_Q_BIAS,
        [ROLE_K] = ROLE_K_BIAS,
        [ROLE_V] = ROLE_V_BIAS,
        [ROLE_O] = ROLE_O_BIAS,
        [ROLE_GATE] = ROLE_GATE_BIAS,
        [ROLE_UP] = ROLE_UP_BIAS,
        [ROLE_DOWN] = ROLE_DOWN_BIAS,
    };
    const struct backend *backend = layer->backend;

    return backend->linear(
        backend->state, y, x, tokens, layer->tensors[weight], layer->tensors[bias_of[weight]], err);
}

static struct config_widths widths_of(const struct decoder_layer *layer)
{
    return config_widths(layer->config, layer->index);
}

/* ---- attention ---- */

/* Queries or keys before they meet: their own norm where the architecture has one, then rotation. */
static enum status prepare_heads(const struct decoder_layer *layer, const struct decoder_attention *call,
    float *x, uint32_t heads, const struct tensor *gain, struct error *err)
{
    const struct backend *backend = layer->backend;
    const struct model_config *config = layer->config;
    const struct norm_call norm = norm_by(config, gain, NULL);
    uint64_t floats = call->sequences * call->length * heads * config->head_size;
    uint64_t table = rope_of(config, layer->index) * call->length * (config->rotary / 2);
    enum status status = OK;

    if (gain)
        status = backend->norm(backend->state, x, x, floats / gain->shape[0], gain->shape[0], &norm, err);
    if (status || !config->rotary) return status;
    return backend->rope(backend->state, x, call->sequences, call->length, heads, config->head_size,
        config->rotary, call->cosine + table, call->sine + table, err);
}

/* Put new keys and values where attention reads them. */
static enum status store(
    const struct decoder_layer *layer, const struct decoder_attention *call, struct error *err)
{
    const struct backend *backend = layer->backend;
    uint32_t kv_heads = widths_of(layer).kv_heads, size = layer->config->head_size;
    enum status status = backend->store(backend->state, call->keys, call->k, call->sequences, call->length,
        call->past, call->capacity, kv_heads, size, err);

    return status ? status
                  : backend->store(backend->state, call->values, call->v, call->sequences, call->length,
                        call->past, call->capacity, kv_heads, size, err);
}

/* The same into a quantized cache; queries and keys are rotated alike. */
static enum status store_quantized(
    const struct decoder_layer *layer, const struct decoder_attention *call, struct error *err)
{
    const struct backend *backend = layer->backend;
    const struct cache *cache = call->cache;
    uint32_t heads = widths_of(layer).heads, kv_heads = widths_of(layer).kv_heads;
    uint64_t tokens = call->sequences * call->length;
    enum status status =
        backend->rotate(backend->state, call->q, tokens * heads, layer->config->head_size, err);

    if (!status)
        status = backend->rotate(backend->state, call->k, tokens * kv_heads, layer->config->head_size, err);
    if (!status)
        status = backend->store_quantized(backend->state, &cache->keys, cache->key_strips, call->k,
            call->sequences, call->length, call->past, kv_heads, err);
    return status ? status
                  : backend->store_quantized(backend->state, &cache->values, cache->value_strips, call->v,
                        call->sequences, call->length, call->past, kv_heads, err);
}

static enum status mix(
    const struct decoder_layer *layer, const struct decoder_attention *call, struct error *err)
{
    const struct model_config *config = layer->config;
    struct attention attention = {
        .out = call->out,
        .q = call->q,
        .keys = call->keys,
        .values = call->values,
        .cache = call->cache,
        .sequences = call->sequences,
        .length = call->length,
        .past = call->past,
        .capacity = call->capacity,
        .heads = widths_of(layer).heads,
        .kv_heads = widths_of(layer).kv_heads,
        .head_size = config->head_size,
        .window = config_slides(config, layer->index) ? config->window : 0,
        .scale = config->score_scale,
        .softcap = config->score_softcap,
    };

    return layer->backend->attention(layer->backend->state, &attention, err);
}

enum status decoder_attend(const struct decoder_layer *layer, const struct decoder_attention *call,
    const float *normed, struct error *err)
{
    const struct config_widths widths = widths_of(layer);
    const struct tensor *const *tensors = layer->tensors;
    uint64_t tokens = call->sequences * call->length;
    enum status status = decoder_linear(layer, call->q, normed, tokens, ROLE_Q, err);

    if (!status) status = decoder_linear(layer, call->k, normed, tokens, ROLE_K, err);
    if (!status) status = decoder_linear(layer, call->v, normed, tokens, ROLE_V, err);
    if (!status) status = prepare_heads(layer, call, call->q, widths.heads, tensors[ROLE_Q_NORM], err);
    if (!status) status = prepare_heads(layer, call, call->k, widths.kv_heads, tensors[ROLE_K_NORM], err);
    if (!status) status = call->cache ? store_quantized(layer, call, err) : store(layer, call, err);
    return status ? status : mix(layer, call, err);
}

/* ---- feed-forward ---- */

enum status decoder_gate(const struct decoder_layer *layer, float *gate, float *up, const float *normed,
    uint64_t tokens, struct error *err)
{
    const struct backend *backend = layer->backend;
    const enum activation activation = layer->config->activation;
    const bool gated = layer->tensors[ROLE_GATE] != NULL;
    const uint64_t count = tokens * widths_of(layer).ffn;
    enum status status = decoder_linear(layer, gate, normed, tokens, gated ? ROLE_GATE : ROLE_UP, err);

    if (status) return status;
    if (!gated) return backend->activate(backend->state, activation, gate, count, err);
    status = decoder_linear(layer, up, normed, tokens, ROLE_UP, err);
    return status ? status : backend->gate(backend->state, activation, gate, up, count, err);
}

/* ---- halves of a layer ---- */

enum status decoder_add_output(const struct decoder_layer *layer, float *x, const float *input,
    float *scratch, uint64_t tokens, enum role weight, struct error *err)
{
    const struct backend *backend = layer->backend;
    enum role norm = weight == ROLE_O ? ROLE_ATTENTION_POST_NORM : ROLE_MLP_POST_NORM;
    enum status status = decoder_linear(layer, scratch, input, tokens, weight, err);

    if (!status) status = decoder_norm(layer, scratch, scratch, tokens, norm, err);
    return status ? status : backend->add(backend->state, x, scratch, tokens * layer->config->hidden, err);
}

/* The second half. What attention gives is added in between where the residual is parallel: `attended` is then not NULL. */
static enum status add_mlp(const struct decoder_layer *layer, const struct decoder_buffers *buffers,
    const float *attended, uint64_t tokens, struct error *err)
{
    float *x = buffers->x, *normed = buffers->normed, *gate = buffers->gate;
    enum status status = decoder_norm(layer, normed, x, tokens, ROLE_MLP_NORM, err);

    if (!status && layer->experts)
        return experts_add(layer, x, normed, gate, buffers->up, buffers->routed, tokens, err);
    if (!status) status = decoder_gate(layer, gate, buffers->up, normed, tokens, err);
    if (!status && attended) status = decoder_add_output(layer, x, attended, normed, tokens, ROLE_O, err);
    return status ? status : decoder_add_output(layer, x, gate, normed, tokens, ROLE_DOWN, err);
}

enum status decoder_run(const struct decoder_layer *layer, const struct decoder_attention *call,
    const struct decoder_buffers *buffers, struct error *err)
{
    const bool parallel = layer->config->parallel_residual;
    uint64_t tokens = call->sequences * call->length;
    float *x = buffers->x, *normed = buffers->normed;
    enum status status = decoder_norm(layer, normed, x, tokens, ROLE_ATTENTION_NORM, err);

    if (!status) status = decoder_attend(layer, call, normed, err);
    if (!status && !parallel) status = decoder_add_output(layer, x, call->out, normed, tokens, ROLE_O, err);
    return status ? status : add_mlp(layer, buffers, parallel ? call->out : NULL, tokens, err);
}

/* ---- after the last layer ---- */

enum status decoder_final_norm(const struct backend *backend, const struct model_config *config,
    const struct tensor *const *once, float *y, const float *x, uint64_t tokens, struct error *err)
{
    const struct norm_call norm = norm_by(config, once[ROLE_FINAL_NORM], once[ROLE_FINAL_NORM_BIAS]);

    return backend->norm(backend->state, y, x, tokens, config->hidden, &norm, err);
}

enum status decoder_logits(const struct backend *backend, const struct model_config *config,
    const struct tensor *const *once, float *logits, const float *y, uint64_t tokens, struct error *err)
{
    enum status status = backend->linear(backend->state, logits, y, tokens, once[ROLE_HEAD], NULL, err);

    if (status || config->logit_softcap == 0) return status;
    return backend->softcap(backend->state, logits, config->logit_softcap, tokens * config->vocabulary, err);
}

/* ---- checks ---- */

/* On the bits, so that it becomes vector code: adding one to an exponent of all ones carries into the sign.
 */
static bool all_finite(const float *x, uint64_t count)
{
    uint32_t carries = 0, bits;

    for (uint64_t i = 0; i < count; i++) {
        memcpy(&bits, &x[i], sizeof bits);
        carries |= (bits & UINT32_C(0x7fffffff)) + UINT32_C(0x00800000);
    }
    return !(carries >> 31);
}

bool decoder_finite(const float *x, uint64_t count, uint64_t *bad)
{
    if (all_finite(x, count)) return true;
    for (*bad = 0; isfinite(x[*bad]);)
        ++*bad;
    return false;
}
