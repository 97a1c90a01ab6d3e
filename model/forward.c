/* The forward pass of a decoder: embedding, then per layer attention and a gated feed-forward block, each
 * behind a norm and added to the residual stream, then a last norm. Steps are cut into blocks of tokens, so
 * that activations take a bounded amount of memory whatever the batch and its length; the residual stream
 * lives in the caller's output. */
#include "model/forward.h"

#include <inttypes.h>
#include <math.h>

#include "base/checked.h"
#include "base/memory.h"
#include "model/experts.h"
#include "model/rope.h"

#define BLOCK_TOKENS 2048
#define SESSION_BYTES_LIMIT (UINT64_C(1) << 40)

struct session {
    struct model *model;
    uint64_t sequences, capacity, length;
    unsigned bits;         /* of the cache */
    uint64_t layer_floats; /* of the keys of one layer, and of its values */
    float *keys, *values;  /* [layers][sequences][kv_heads][capacity][head_size]; or NULL, and */
    struct cache cache;    /* a quantized one: strips [layers][sequences][kv_heads] */
    float *frequencies;    /* [rotary / 2] */
    float *cosine, *sine;  /* [rope_count][block positions][rotary / 2] */
    float *normed;         /* [block tokens][hidden]; also what comes back from o and down */
    float *q, *mixed;      /* [block tokens][heads * head_size] */
    float *k, *v;          /* [block tokens][kv_heads * head_size] */
    float *gate, *up;      /* [block tokens][decoder_ffn] */
    float *routed;         /* [block tokens][experts_scratch] */
    session_observer observer;
    void *observer_context;
};

/* The part of a step that goes through the layers at once: all positions of some sequences, or some positions
 * of one. */
struct block {
    uint64_t sequence, sequences; /* which sequences */
    uint64_t past, length;        /* positions past .. past+length-1 of each */
    uint64_t tokens;              /* sequences * length */
    uint64_t first_token;         /* the block's first row in the step's output */
    float *x;                     /* [tokens][hidden]: the residual stream */
};

/* ---- life ---- */

/* A zeroed array [rows][cols] of floats; *bytes sums up what a session takes. */
static enum status new_floats(float **out, uint64_t rows, uint64_t cols, uint64_t *bytes, struct error *err)
{
    uint64_t count, size;

    if (checked_multiply(&count, rows, cols) || checked_multiply(&size, count, sizeof(float)) ||
        checked_add(bytes, *bytes, size) || *bytes > SESSION_BYTES_LIMIT)
        return fail(
            err, ERR_MEMORY, "a session of this many sequences and tokens needs more than 2^40 bytes");
    *out = memory_new(count, sizeof(float), err);
    return *out ? OK : ERR_MEMORY;
}

/* Strips of a quantized cache, for all layers. */
static enum status new_strips(uint8_t **out, const struct session *session, const struct cache_layout *layout,
    uint64_t *bytes, struct error *err)
{
    const struct model_config *config = &session->model->config;
    uint64_t strips, size;

    if (checked_multiply(&strips, session->sequences, (uint64_t)config->layers * config->kv_heads) ||
        checked_multiply(&size, strips, layout->bytes) || checked_add(bytes, *bytes, size) ||
        *bytes > SESSION_BYTES_LIMIT)
        return fail(
            err, ERR_MEMORY, "a session of this many sequences and tokens needs more than 2^40 bytes");
    *out = memory_new(strips, layout->bytes, err);
    return *out ? OK : ERR_MEMORY;
}

static enum status new_quantized_cache(struct session *session, uint64_t *bytes, struct error *err)
{
    struct cache *cache = &session->cache;
    uint32_t bits = session->model->cache_bits, size = session->model->config.head_size;
    enum status status = cache_layout(&cache->keys, bits, size, session->capacity, true, err);

    if (!status) status = cache_layout(&cache->values, bits, size, session->capacity, false, err);
    if (!status) status = new_strips(&cache->key_strips, session, &cache->keys, bytes, err);
    return status ? status : new_strips(&cache->value_strips, session, &cache->values, bytes, err);
}

static enum status new_cache(struct session *session, uint64_t *bytes, struct error *err)
{
    const struct model_config *config = &session->model->config;
    uint64_t per_token = (uint64_t)config->kv_heads * config->head_size, tokens;
    enum status status;

    if (checked_multiply(&tokens, session->sequences, session->capacity) ||
        checked_multiply(&session->layer_floats, tokens, per_token))
        return fail(
            err, ERR_MEMORY, "a session of this many sequences and tokens needs more than 2^40 bytes");
    status = new_floats(&session->keys, config->layers, session->layer_floats, bytes, err);
    return status ? status : new_floats(&session->values, config->layers, session->layer_floats, bytes, err);
}

static enum status new_activations(struct session *session, uint64_t *bytes, struct error *err)
{
    const struct model_config *config = &session->model->config;
    uint64_t tokens = session->sequences * session->capacity, half = config->rotary / 2;
    uint64_t positions = session->capacity < BLOCK_TOKENS ? session->capacity : BLOCK_TOKENS;
    uint64_t q = (uint64_t)config->heads * config->head_size,
             kv = (uint64_t)config->kv_heads * config->head_size;
    const struct {
        float **array;
        uint64_t rows, cols;
    } arrays[] = {
        {&session->frequencies, 1, half},
        {&session->cosine, rope_count(config) * positions, half},
        {&session->sine, rope_count(config) * positions, half},
        {&session->normed, 0, config->hidden},
        {&session->q, 0, q},
        {&session->mixed, 0, q},
        {&session->k, 0, kv},
        {&session->v, 0, kv},
        {&session->gate, 0, decoder_ffn(config)},
        {&session->up, 0, decoder_ffn(config)},
        {&session->routed, 0, experts_scratch(config)},
    };
    enum status status = OK;

    if (tokens > BLOCK_TOKENS) tokens = BLOCK_TOKENS;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays && !status; i++)
        status =
            new_floats(arrays[i].array, arrays[i].rows ? arrays[i].rows : tokens, arrays[i].cols, bytes, err);
    return status;
}

enum status session_create(
    struct session **out, struct model *model, uint64_t sequences, uint64_t capacity, struct error *err)
{
    struct session *session;
    uint64_t bytes = 0;
    enum status status;

    *out = NULL;
    if (!sequences || !capacity)
        return fail(err, ERR_USAGE, "a session needs at least one sequence and one token");
    session = memory_new(1, sizeof *session, err);
    if (!session) return ERR_MEMORY;
    session->model = model;
    session->sequences = sequences;
    session->capacity = capacity;
    session->bits = model->cache_bits;
    status =
        session->bits == 32 ? new_cache(session, &bytes, err) : new_quantized_cache(session, &bytes, err);
    if (!status) status = new_activations(session, &bytes, err);
    if (status)
        session_free(session);
    else
        *out = session;
    return status;
}

void session_free(struct session *session)
{
    if (!session) return;
    memory_free(session->keys);
    memory_free(session->values);
    memory_free(session->cache.key_strips);
    memory_free(session->cache.value_strips);
    memory_free(session->frequencies);
    memory_free(session->cosine);
    memory_free(session->sine);
    memory_free(session->normed);
    memory_free(session->q);
    memory_free(session->mixed);
    memory_free(session->k);
    memory_free(session->v);
    memory_free(session->gate);
    memory_free(session->up);
    memory_free(session->routed);
    memory_free(session);
}

void session_reset(struct session *session)
{
    session->length = 0;
}

void session_truncate(struct session *session, uint64_t length)
{
    if (length < session->length) session->length = length;
}

void session_observe(struct session *session, session_observer observer, void *context)
{
    session->observer = observer;
    session->observer_context = context;
}

uint64_t session_length(const struct session *session)
{
    return session->length;
}

uint64_t session_cache_bytes_per_token(const struct session *session)
{
    const struct model_config *config = &session->model->config;

    const struct cache *cache = &session->cache;
    uint64_t heads = 0, spanwise;

    for (uint32_t layer = 0; layer < config->layers; layer++)
        heads += config_widths(config, layer).kv_heads;
    if (session->bits == 32) return 2 * sizeof(float) * heads * config->head_size;
    spanwise = heads * (cache_row_bytes_spanwise(&cache->keys) + cache_row_bytes_spanwise(&cache->values));
    return (spanwise + CACHE_SPAN - 1) / CACHE_SPAN;
}

/* ---- one layer ---- */

static enum status layer_block(
    struct session *session, const struct block *block, const struct decoder_layer *layer, struct error *err)
{
    const struct model_config *config = layer->config;
    /* A layer's sequences lie as its own heads need it, at the beginning of what the widest layer needs. */
    uint64_t strip = layer->index * session->sequences * config->kv_heads +
                     block->sequence * config_widths(config, layer->index).kv_heads;
    uint64_t offset = strip * session->capacity * config->head_size;
    const struct decoder_buffers buffers = {
        block->x, session->normed, session->gate, session->up, session->routed};
    struct cache cache = session->cache; /* from the block's first sequence on */
    struct decoder_attention call = {
        .sequences = block->sequences,
        .length = block->length,
        .past = block->past,
        .capacity = session->capacity,
        .cosine = session->cosine,
        .sine = session->sine,
        .q = session->q,
        .k = session->k,
        .v = session->v,
        .out = session->mixed,
    };

    if (session->bits == 32) {
        call.keys = session->keys + offset;
        call.values = session->values + offset;
    } else {
        cache.key_strips += strip * cache.keys.bytes;
        cache.value_strips += strip * cache.values.bytes;
        call.cache = &cache;
    }
    return decoder_run(layer, &call, &buffers, err);
}

/* ---- a step ---- */

static enum status check_finite(const struct block *block, uint64_t hidden, struct error *err)
{
    uint64_t i;

    if (decoder_finite(block->x, block->tokens * hidden, &i)) return OK;
    return fail(err, ERR_NUMERIC, "channel %" PRIu64 " is %s at position %" PRIu64 " of sequence %" PRIu64,
        i % hidden, isnan(block->x[i]) ? "NaN" : "infinite", block->past + i / hidden % block->length,
        block->sequence + i / hidden / block->length);
}

static enum status observe(
    struct session *session, const struct block *block, uint32_t layer, struct error *err)
{
    if (!session->observer) return OK;
    return session->observer(
        session->observer_context, layer, block->first_token, block->x, block->tokens, err);
}

static enum status run_embedding(
    struct session *session, const struct block *block, const uint32_t *tokens, struct error *err)
{
    const struct model *model = session->model;
    enum status status;

    status = decoder_embed(&model->backend, &model->config, model->tensors.once, block->x, session->normed,
        tokens, block->tokens, block->past, block->length, err);
    if (!status) status = check_finite(block, model->config.hidden, err);
    if (!status) status = observe(session, block, SESSION_EMBEDDING, err);
    return status ? fail_within(err, status, "embedding") : OK;
}

static enum status run_layer(
    struct session *session, const struct block *block, uint32_t index, struct error *err)
{
    const struct model *model = session->model;
    const struct model_tensors *tensors = &model->tensors;
    const struct decoder_layer layer = {&model->backend, &model->config, tensors->layer[index], index,
        tensors->experts ? tensors->experts + (uint64_t)index * model->config.experts : NULL};
    enum status status = layer_block(session, block, &layer, err);

    if (!status) status = check_finite(block, model->config.hidden, err);
    if (!status) status = observe(session, block, index, err);
    return status ? fail_within(err, status, "layer %" PRIu32, index) : OK;
}

static enum status run_final_norm(struct session *session, const struct block *block, struct error *err)
{
    const struct model *model = session->model;
    uint64_t hidden = model->config.hidden;
    enum status status;

    status = decoder_final_norm(
        &model->backend, &model->config, model->tensors.once, block->x, block->x, block->tokens, err);
    if (!status) status = check_finite(block, hidden, err);
    return status ? fail_within(err, status, "final norm") : OK;
}

/* All layers for one block. The cache beyond session->length is scratch until the step has succeeded. */
static enum status run_block(
    struct session *session, const struct block *block, const uint32_t *tokens, struct error *err)
{
    enum status status = run_embedding(session, block, tokens, err);

    for (uint32_t layer = 0; layer < session->model->config.layers && !status; layer++)
        status = run_layer(session, block, layer, err);
    return status ? status : run_final_norm(session, block, err);
}

static enum status check_step(
    const struct session *session, const uint32_t *tokens, uint64_t length, struct error *err)
{
    const struct model_config *config = &session->model->config;
    uint32_t vocabulary = config->vocabulary;

    if (length > session->capacity - session->length)
        return fail(err, ERR_USAGE,
            "%" PRIu64 " tokens after %" PRIu64 " exceed the session's capacity of %" PRIu64, length,
            session->length, session->capacity);
    if (config->architecture->learned_positions && session->length + length > config->context)
        return fail(err, ERR_USAGE,
            "%" PRIu64 " tokens after %" PRIu64 ": the model has learned %" PRIu32 " positions and no more",
            length, session->length, config->context);
    for (uint64_t i = 0; i < session->sequences * length; i++) {
        if (tokens[i] >= vocabulary)
            return fail(err, ERR_FORMAT,
                "token %" PRIu64 " of sequence %" PRIu64 " is %" PRIu32 ", the vocabulary has %" PRIu32,
                i % length, i / length, tokens[i], vocabulary);
    }
    return OK;
}

/* Short sequences go several at a time, long ones in pieces; either way a block's tokens are consecutive in
 * `tokens` and `hidden`. */
enum status session_step(
    struct session *session, float *hidden, const uint32_t *tokens, uint64_t length, struct error *err)
{
    const struct model_config *config = &session->model->config;
    uint64_t positions = length < BLOCK_TOKENS ? length : BLOCK_TOKENS, count, done, reach;
    struct block block;
    enum status status = check_step(session, tokens, length, err);

    if (status || !length) return status;
    reach = rope_reach(config, session->length + length, session->capacity);
    for (done = 0; done < session->sequences * length && !status; done += block.tokens) {
        block.sequence = done / length;
        block.past = session->length + done % length;
        count = length - done % length;
        block.length = count < positions ? count : positions;
        count = session->sequences - block.sequence;
        block.sequences = count < BLOCK_TOKENS / positions ? count : BLOCK_TOKENS / positions;
        block.tokens = block.sequences * block.length;
        block.first_token = done;
        block.x = hidden + done * config->hidden;
        rope_tables(
            session->cosine, session->sine, session->frequencies, config, reach, block.past, block.length);
        status = run_block(session, &block, tokens + done, err);
    }
    if (!status) session->length += length;
    return status;
}
