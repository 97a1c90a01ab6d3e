/* All probes have the same shape, so that their samples go through a layer side by side, as many as make a block. */
#include "model/probes.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/spill.h"
#include "model/decoder.h"
#include "model/rope.h"
#include "tensor/kernels/kernels.h"

enum {
    BLOCK_TOKENS = 2048,
    ARRAYS = 14,
    LOGIT_FLOATS = 1 << 23, /* of a piece of predictions, but at least LOGIT_ROWS tokens */
    LOGIT_ROWS = 16,
    PART = 1024 /* logits at a time: their exponentials stay in the nearest cache */
};

struct probes {
    struct checkpoint *input;
    const struct model_config *config;
    const struct calibration *calibration;
    struct pool *pool;
    struct backend backend;
    uint64_t count, capacity, samples, length;
    bool dynamic;           /* rotation depends on the sample's own length */
    uint64_t block_samples; /* that go through a layer at once */
    struct spill *states;   /* [capacity][samples][length][hidden], addressed float by float */
    float *x, *normed;      /* [block tokens][hidden] */
    float *q, *mixed, *gate, *up, *k, *v, *keys, *values;
    float *frequencies, *cosine, *sine;
    float *base; /* [length][hidden]: a sample of the walk */
};

/* ---- memory ---- */

struct array {
    float **array;
    uint64_t rows, cols;
};

static void set_shape(struct probes *probes, const struct model_config *config,
    const struct calibration *calibration, const struct probes_options *options)
{
    uint64_t length = calibration->length;

    probes->config = config;
    probes->calibration = calibration;
    probes->capacity = options->capacity;
    probes->samples = options->samples;
    probes->length = length;
    probes->dynamic = config->rope.kind == ROPE_DYNAMIC && length > config->context;
    probes->block_samples = probes->dynamic || length > BLOCK_TOKENS ? 1 : BLOCK_TOKENS / length;
}

static void list_arrays(struct array arrays[ARRAYS], struct probes *probes)
{
    const struct model_config *config = probes->config;
    uint64_t tokens = probes->block_samples * probes->length, half = config->rotary / 2;
    uint64_t q = (uint64_t)config->heads * config->head_size,
             kv = (uint64_t)config->kv_heads * config->head_size;
    const struct array all[ARRAYS] = {
        {&probes->x, tokens, config->hidden},
        {&probes->normed, tokens, config->hidden},
        {&probes->q, tokens, q},
        {&probes->mixed, tokens, q},
        {&probes->gate, tokens, config->ffn},
        {&probes->up, tokens, config->ffn},
        {&probes->k, tokens, kv},
        {&probes->v, tokens, kv},
        {&probes->keys, tokens, kv},
        {&probes->values, tokens, kv},
        {&probes->frequencies, 1, half},
        {&probes->cosine, probes->length, rope_count(config) * half},
        {&probes->sine, probes->length, rope_count(config) * half},
        {&probes->base, probes->length, config->hidden},
    };

    for (unsigned i = 0; i < ARRAYS; i++)
        arrays[i] = all[i];
}

static uint64_t product(uint64_t a, uint64_t b)
{
    uint64_t out;

    return checked_multiply(&out, a, b) ? UINT64_MAX : out;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    uint64_t out;

    return checked_add(&out, a, b) ? UINT64_MAX : out;
}

static uint64_t state_floats(const struct probes *probes)
{
    return product(
        product(probes->capacity, probes->samples), product(probes->length, probes->config->hidden));
}

uint64_t probes_bytes(const struct model_config *config, const struct calibration *calibration,
    const struct probes_options *options, uint64_t *state_bytes)
{
    struct probes probes = {0};
    struct array arrays[ARRAYS];
    uint64_t bytes = 0;

    set_shape(&probes, config, calibration, options);
    list_arrays(arrays, &probes);
    for (unsigned i = 0; i < ARRAYS; i++)
        bytes = sum(bytes, product(product(arrays[i].rows, arrays[i].cols), sizeof(float)));
    *state_bytes = product(state_floats(&probes), sizeof(float));
    return options->in_memory ? sum(bytes, *state_bytes) : bytes;
}

/* Tokens whose logits are computed at once. */
static uint64_t piece_tokens(const struct model_config *config, uint64_t length)
{
    uint64_t piece = LOGIT_FLOATS / config->vocabulary;

    if (piece < LOGIT_ROWS) piece = LOGIT_ROWS;
    return piece < length ? piece : length;
}

uint64_t probes_finish_bytes(const struct checkpoint *input, const struct calibration *calibration)
{
    const struct model_config *config = &input->config;
    uint64_t logits = piece_tokens(config, calibration->length) * config->vocabulary; /* both below 2^32 */

    return sum(input->tensors.once[ROLE_HEAD]->bytes, product(logits, 2 * sizeof(float)));
}

static enum status new_arrays(struct probes *probes, struct error *err)
{
    struct array arrays[ARRAYS];

    list_arrays(arrays, probes);
    for (unsigned i = 0; i < ARRAYS; i++) {
        uint64_t floats = product(arrays[i].rows, arrays[i].cols);

        *arrays[i].array = memory_new(floats, sizeof(float), err);
        if (!*arrays[i].array) return ERR_MEMORY;
    }
    return OK;
}

enum status probes_create(struct probes **out, struct checkpoint *input,
    const struct calibration *calibration, const struct probes_options *options, struct pool *pool,
    struct error *err)
{
    struct probes *probes = memory_new(1, sizeof *probes, err);
    enum status status;

    *out = NULL;
    if (!probes) return ERR_MEMORY;
    set_shape(probes, &input->config, calibration, options);
    probes->input = input;
    probes->pool = pool;
    status = spill_create(
        &probes->states, state_floats(probes), sizeof(float), options->in_memory, options->folder, err);
    if (!status) status = new_arrays(probes, err);
    if (!status) status = backend_cpu_create(&probes->backend, pool, decoder_widest(probes->config), err);
    if (status) {
        probes_free(probes);
        return status;
    }
    *out = probes;
    return OK;
}

void probes_free(struct probes *probes)
{
    struct array arrays[ARRAYS];

    if (!probes) return;
    list_arrays(arrays, probes);
    for (unsigned i = 0; i < ARRAYS; i++)
        memory_free(*arrays[i].array);
    spill_free(probes->states);
    if (probes->backend.release) probes->backend.release(probes->backend.state);
    memory_free(probes);
}

/* ---- samples ---- */

/* The calibration's sample that is ours number `index`. */
static uint64_t sample_of(const struct probes *probes, uint64_t index)
{
    return index * probes->calibration->samples / probes->samples;
}

static uint64_t sample_floats(const struct probes *probes)
{
    return probes->length * probes->config->hidden;
}

/* ---- a layer ---- */

/* Tables for the positions of a sample. */
static void turn(struct probes *probes, uint64_t index)
{
    uint64_t length =
        probes->dynamic ? probes->calibration->lengths[sample_of(probes, index)] : probes->length;

    rope_tables(probes->cosine, probes->sine, probes->frequencies, probes->config, length, 0, probes->length);
}

/* `count` samples, one after the other in x, of which `index` is the first's number (it only matters where samples go alone). */
static enum status run(struct probes *probes, const struct decoder_layer *layer, uint64_t index,
    uint64_t count, struct error *err)
{
    const struct decoder_attention call = {.sequences = count,
        .length = probes->length,
        .capacity = probes->length,
        .cosine = probes->cosine,
        .sine = probes->sine,
        .keys = probes->keys,
        .values = probes->values,
        .q = probes->q,
        .k = probes->k,
        .v = probes->v,
        .out = probes->mixed};
    const struct decoder_buffers buffers = {probes->x, probes->normed, probes->gate, probes->up, NULL};
    uint64_t tokens = count * probes->length, bad;
    enum status status;

    turn(probes, index);
    status = decoder_run(layer, &call, &buffers, err);
    if (status || decoder_finite(probes->x, tokens * probes->config->hidden, &bad)) return status;
    return fail(err, ERR_NUMERIC, "layer %" PRIu32 ": an activation is not finite", layer->index);
}

enum status probes_advance(
    struct probes *probes, uint32_t layer, const struct tensor *const *tensors, struct error *err)
{
    const struct decoder_layer run_as = {&probes->backend, probes->config, tensors, layer, NULL};
    uint64_t all = probes->count * probes->samples, floats = sample_floats(probes);
    enum status status = OK;

    for (uint64_t first = 0, count; first < all && !status; first += count) {
        count = all - first < probes->block_samples ? all - first : probes->block_samples;
        status = spill_read(probes->states, first * floats, count * floats, probes->x, err);
        if (!status) status = run(probes, &run_as, first % probes->samples, count, err);
        if (!status) status = spill_write(probes->states, first * floats, count * floats, probes->x, err);
    }
    return status;
}

enum status probes_add(struct probes *probes, struct walk *walk, uint32_t layer,
    const struct tensor *const *tensors, struct error *err)
{
    const struct decoder_layer run_as = {&probes->backend, probes->config, tensors, layer, NULL};
    uint64_t floats = sample_floats(probes), at = probes->count * probes->samples * floats;
    enum status status = OK;

    assert(probes->count < probes->capacity);
    for (uint64_t first = 0, count; first < probes->samples && !status; first += count) {
        count = probes->samples - first;
        if (count > probes->block_samples) count = probes->block_samples;
        for (uint64_t i = 0; i < count && !status; i++)
            status = walk_states(walk, sample_of(probes, first + i), probes->x + i * floats, err);
        if (!status) status = run(probes, &run_as, first, count, err);
        if (!status)
            status = spill_write(probes->states, at + first * floats, count * floats, probes->x, err);
    }
    if (!status) probes->count++;
    return status;
}

/* ---- predictions ---- */

/* What the end takes: weights, and room for what a piece of a sample's tokens gives. */
struct verdict {
    struct probes *probes;
    struct tensor once[ROLE_PER_LAYER]; /* those below, data in memory */
    const struct tensor *bound[ROLE_PER_LAYER];
    void *data[ROLE_PER_LAYER];
    uint64_t piece;
    float *before, *now; /* [piece][vocabulary] logits of the walk and of a probe */
    double *klds;        /* [piece] */
};

static enum status load(struct verdict *verdict, enum role role, struct error *err)
{
    struct checkpoint *input = verdict->probes->input;
    const struct tensor *source = input->tensors.once[role];

    if (!source) return OK;
    verdict->data[role] = memory_new(source->bytes, 1, err);
    if (!verdict->data[role]) return ERR_MEMORY;
    verdict->once[role] = *source;
    verdict->once[role].data = verdict->data[role];
    verdict->bound[role] = &verdict->once[role];
    return container_read(input->container, source, 0, verdict->data[role], source->bytes, err);
}

/* logits [tokens][vocabulary] of the states in probes->x; changes x. */
static enum status predict(struct verdict *verdict, float *logits, uint64_t tokens, struct error *err)
{
    struct probes *probes = verdict->probes;
    const struct model_config *config = probes->config;
    enum status status =
        decoder_final_norm(&probes->backend, config, verdict->bound, probes->x, probes->x, tokens, err);

    if (status) return status;
    return decoder_logits(&probes->backend, config, verdict->bound, logits, probes->x, tokens, err);
}

/* sum p ln (p / q) over one token's predictions. Exponentials are single precision, sums double in a fixed order. */
static double divergence(const float *p, const float *q, uint64_t count)
{
    double p_sum = 0, q_sum = 0, moved = 0;
    float p_top, q_top, p_part[PART], q_part[PART], unused;

    kernels()->maximum(&p_top, p, count);
    kernels()->maximum(&q_top, q, count);
    for (uint64_t first = 0, part; first < count; first += part) {
        part = count - first < PART ? count - first : PART;
        memcpy(p_part, p + first, part * sizeof *p);
        memcpy(q_part, q + first, part * sizeof *q);
        kernels()->exp_sum(&unused, p_part, p_top, part);
        kernels()->exp_sum(&unused, q_part, q_top, part);
        for (uint64_t i = 0; i < part; i++) {
            p_sum += (double)p_part[i];
            q_sum += (double)q_part[i];
            moved += (double)p_part[i] * ((double)p[first + i] - (double)q[first + i]);
        }
    }
    return moved / p_sum - ((double)p_top - (double)q_top) - (log(p_sum) - log(q_sum));
}

static enum status compare_token(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct verdict *verdict = context;
    uint64_t vocabulary = verdict->probes->config->vocabulary;

    (void)worker, (void)err;
    verdict->klds[index] =
        divergence(verdict->before + index * vocabulary, verdict->now + index * vocabulary, vocabulary);
    return OK;
}

/* Add to every probe's sum what it says of `count` tokens of a sample, verdict->before being what the walk says. */
static enum status compare_piece(
    struct verdict *verdict, uint64_t sample, uint64_t token, uint64_t count, double *sums, struct error *err)
{
    struct probes *probes = verdict->probes;
    uint64_t hidden = probes->config->hidden;
    enum status status = OK;

    for (uint64_t i = 0; i < probes->count && !status; i++) {
        uint64_t at = ((i * probes->samples + sample) * probes->length + token) * hidden;
        status = spill_read(probes->states, at, count * hidden, probes->x, err);
        if (!status) status = predict(verdict, verdict->now, count, err);
        if (!status) status = pool_run(probes->pool, count, compare_token, verdict, err);
        for (uint64_t k = 0; k < count && !status; k++)
            sums[i] += verdict->klds[k];
    }
    return status;
}

static enum status compare_sample(
    struct verdict *verdict, struct walk *walk, uint64_t sample, double *sums, struct error *err)
{
    struct probes *probes = verdict->probes;
    uint64_t hidden = probes->config->hidden,
             length = probes->calibration->lengths[sample_of(probes, sample)];
    enum status status = walk_states(walk, sample_of(probes, sample), probes->base, err);

    for (uint64_t token = 0, count; token < length && !status; token += count) {
        count = length - token < verdict->piece ? length - token : verdict->piece;
        memcpy(probes->x, probes->base + token * hidden, count * hidden * sizeof *probes->x);
        status = predict(verdict, verdict->before, count, err);
        if (!status) status = compare_piece(verdict, sample, token, count, sums, err);
    }
    return status;
}

static enum status prepare(struct verdict *verdict, struct error *err)
{
    struct probes *probes = verdict->probes;
    uint64_t vocabulary = probes->config->vocabulary;
    enum status status = load(verdict, ROLE_HEAD, err);

    if (!status) status = load(verdict, ROLE_FINAL_NORM, err);
    if (!status) status = load(verdict, ROLE_FINAL_NORM_BIAS, err);
    if (status) return status;
    verdict->piece = piece_tokens(probes->config, probes->length);
    verdict->before = memory_new(verdict->piece * vocabulary, sizeof(float), err);
    verdict->now = memory_new(verdict->piece * vocabulary, sizeof(float), err);
    verdict->klds = memory_new(verdict->piece, sizeof *verdict->klds, err);
    return verdict->before && verdict->now && verdict->klds ? OK : ERR_MEMORY;
}

static void release(struct verdict *verdict)
{
    for (enum role role = 0; role < ROLE_PER_LAYER; role++)
        memory_free(verdict->data[role]);
    memory_free(verdict->before);
    memory_free(verdict->now);
    memory_free(verdict->klds);
}

enum status probes_finish(struct probes *probes, struct walk *walk, double *divergences, struct error *err)
{
    struct verdict verdict = {.probes = probes};
    uint64_t tokens = 0;
    enum status status = prepare(&verdict, err);

    for (uint64_t i = 0; i < probes->count; i++)
        divergences[i] = 0;
    for (uint64_t sample = 0; sample < probes->samples && !status; sample++) {
        status = compare_sample(&verdict, walk, sample, divergences, err);
        tokens += probes->calibration->lengths[sample_of(probes, sample)];
    }
    for (uint64_t i = 0; i < probes->count && !status; i++) {
        divergences[i] /= (double)tokens;
        if (!isfinite(divergences[i])) status = fail(err, ERR_NUMERIC, "predictions are not finite");
        if (divergences[i] < 0) divergences[i] = 0; /* rounding */
    }
    release(&verdict);
    return status;
}
