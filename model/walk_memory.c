/* The memory of a walk: one table of arrays says what is allocated, and what walk_bytes foresees. */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "model/decoder.h"
#include "model/experts.h"
#include "model/rope.h"
#include "model/walk_parts.h"
#include "tensor/linalg.h"

enum { ARRAYS = 14 };

struct array {
    float **array;
    uint64_t rows, cols;
};

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t query_width(const struct model_config *config)
{
    return (uint64_t)config->heads * config->head_size;
}

/* Columns of stream->wide. What the down of experts and of the shared one is applied to is not kept (run_end in walk.c). */
static uint64_t wide_cols(const struct model_config *config)
{
    return greater(query_width(config), config->experts ? 0 : config->ffn);
}

/* How the samples are cut into blocks: by their length and the configuration alone, never by memory or workers, so
 * that results are the same everywhere. Where rotation depends on a sample's own length, samples go alone. */
static void set_shape(struct walk *walk, const struct model_config *config, uint64_t samples, uint64_t length,
    const struct walk_options *options)
{
    walk->config = config;
    walk->samples = samples;
    walk->length = length;
    walk->stream_count = options->original ? 2 : 1;
    walk->dynamic = config->rope.kind == ROPE_DYNAMIC && length > config->context;
    walk->block_samples = length == 0 ? 1 : WALK_BLOCK_TOKENS / length;
    if (walk->block_samples == 0 || walk->dynamic) walk->block_samples = 1;
    if (walk->block_samples > samples) walk->block_samples = samples;
}

static uint64_t list_arrays(struct array arrays[ARRAYS], struct walk *walk)
{
    const struct model_config *config = walk->config;
    uint64_t tokens = walk->block_samples * walk->length, half = config->rotary / 2, count = 0;
    uint64_t kv = (uint64_t)config->kv_heads * config->head_size;
    uint64_t wide = greater(wide_cols(config), decoder_ffn(config));

    for (unsigned i = 0; i < walk->stream_count; i++) {
        arrays[count++] = (struct array){&walk->streams[i].x, tokens, config->hidden};
        arrays[count++] = (struct array){&walk->streams[i].input, tokens, greater(wide, config->hidden)};
    }
    arrays[count++] = (struct array){&walk->normed, tokens, config->hidden};
    arrays[count++] = (struct array){&walk->beside, tokens, wide};
    arrays[count++] = (struct array){&walk->routed, tokens, experts_scratch(config)};
    arrays[count++] = (struct array){&walk->k, tokens, kv};
    arrays[count++] = (struct array){&walk->v, tokens, kv};
    arrays[count++] = (struct array){&walk->keys, tokens, kv};
    arrays[count++] = (struct array){&walk->values, tokens, kv};
    arrays[count++] = (struct array){&walk->frequencies, 1, half};
    arrays[count++] = (struct array){&walk->cosine, walk->length, rope_count(config) * half};
    arrays[count++] = (struct array){&walk->sine, walk->length, rope_count(config) * half};
    return count;
}

/* *sum += rows * cols elements in bytes; what does not fit is as much as can be. */
static void add_elements(uint64_t *sum, uint64_t rows, uint64_t cols, uint64_t size)
{
    uint64_t bytes;

    if (checked_multiply(&bytes, rows, cols) || checked_multiply(&bytes, bytes, size) ||
        checked_add(sum, *sum, bytes))
        *sum = UINT64_MAX;
}

uint64_t walk_bytes(const struct model_config *config, uint64_t samples, uint64_t length,
    const struct walk_options *options, uint64_t *state_bytes)
{
    struct walk walk = {0};
    struct array arrays[ARRAYS];
    uint64_t bytes = 0, states = 0, tokens, count;

    set_shape(&walk, config, samples, length, options);
    count = list_arrays(arrays, &walk);
    for (uint64_t i = 0; i < count; i++)
        add_elements(&bytes, arrays[i].rows, arrays[i].cols, sizeof(float));
    if (checked_multiply(&tokens, samples, length)) tokens = UINT64_MAX;
    for (unsigned i = 0; i < walk.stream_count; i++)
        add_elements(&states, tokens, 2 * (uint64_t)config->hidden + wide_cols(config), sizeof(float));
    if (config->experts) add_elements(&bytes, tokens, config->experts_per_token, sizeof *walk.routes);
    if (state_bytes) *state_bytes = states;
    if (options->in_memory && checked_add(&bytes, bytes, states)) bytes = UINT64_MAX;
    return bytes;
}

/* ---- life ---- */

static enum status new_state(struct spill **out, const struct walk *walk, uint64_t cols,
    const struct walk_options *options, struct error *err)
{
    uint64_t floats;

    if (checked_multiply(&floats, walk->samples * walk->length, cols))
        return fail(err, ERR_MEMORY, "the states of this many samples do not fit any memory");
    return spill_create(out, floats, sizeof(float), options->in_memory, options->folder, err);
}

static enum status new_states(struct walk *walk, const struct walk_options *options, struct error *err)
{
    static const char *const names[STREAMS] = {"current", "original"};
    uint64_t hidden = walk->config->hidden, wide = wide_cols(walk->config);
    enum status status = OK;

    for (unsigned i = 0; i < walk->stream_count && !status; i++) {
        struct stream *stream = &walk->streams[i];

        stream->name = names[i];
        status = new_state(&stream->start, walk, hidden, options, err);
        if (!status) status = new_state(&stream->middle, walk, hidden, options, err);
        if (!status) status = new_state(&stream->wide, walk, wide, options, err);
    }
    return status;
}

static enum status new_routes(struct walk *walk, struct error *err)
{
    const uint32_t most = walk->config->experts_per_token;

    if (!walk->config->experts) return OK;
    walk->routes = memory_new(walk->samples * walk->length, most * sizeof *walk->routes, err);
    return walk->routes ? OK : ERR_MEMORY;
}

static enum status new_arrays(struct walk *walk, struct error *err)
{
    struct array arrays[ARRAYS];
    uint64_t count = list_arrays(arrays, walk);

    for (uint64_t i = 0; i < count; i++) {
        uint64_t floats;

        if (checked_multiply(&floats, arrays[i].rows, arrays[i].cols))
            return fail(err, ERR_MEMORY, "the activations of samples this long do not fit any memory");
        *arrays[i].array = memory_new(floats, sizeof(float), err);
        if (!*arrays[i].array) return ERR_MEMORY;
    }
    return new_routes(walk, err);
}

enum status walk_create(struct walk **out, struct checkpoint *input, const struct calibration *calibration,
    const struct walk_options *options, struct pool *pool, struct error *err)
{
    const struct model_config *config = &input->config;
    struct walk *walk;
    enum status status = linalg_init(err);

    *out = NULL;
    if (status) return status;
    if (config->architecture->learned_positions && calibration->length > config->context)
        return fail(err, ERR_USAGE,
            "samples of %" PRIu64 " tokens: the model has learned %" PRIu32
            " positions; take shorter samples",
            calibration->length, config->context);
    walk = memory_new(1, sizeof *walk, err);
    if (!walk) return ERR_MEMORY;
    set_shape(walk, config, calibration->samples, calibration->length, options);
    walk->calibration = calibration;
    status = new_states(walk, options, err);
    if (!status) status = new_arrays(walk, err);
    if (!status) status = backend_cpu_create(&walk->backend, pool, decoder_widest(config), err);
    if (status) goto done;
    rope_tables(walk->cosine, walk->sine, walk->frequencies, config, walk->length, 0, walk->length);
    status = walk_embed(walk, input, err);
    if (status) goto done;
    *out = walk;
    walk = NULL;
done:
    walk_free(walk);
    return status;
}

void walk_free(struct walk *walk)
{
    struct array arrays[ARRAYS];
    uint64_t count;

    if (!walk) return;
    count = list_arrays(arrays, walk);
    for (uint64_t i = 0; i < count; i++)
        memory_free(*arrays[i].array);
    memory_free(walk->routes);
    for (unsigned i = 0; i < walk->stream_count; i++) {
        spill_free(walk->streams[i].start);
        spill_free(walk->streams[i].middle);
        spill_free(walk->streams[i].wide);
    }
    if (walk->backend.release) walk->backend.release(walk->backend.state);
    memory_free(walk);
}

/* ---- blocks ---- */

bool walk_next_block(const struct walk *walk, struct walk_block *block)
{
    uint64_t left;

    block->first_sample += block->samples;
    left = walk->samples - block->first_sample;
    block->samples = left < walk->block_samples ? left : walk->block_samples;
    block->first = block->first_sample * walk->length;
    block->tokens = block->samples * walk->length;
    return block->samples > 0;
}

enum status walk_read(
    struct spill *spill, const struct walk_block *block, uint64_t cols, float *rows, struct error *err)
{
    return spill_read(spill, block->first * cols, block->tokens * cols, rows, err);
}

enum status walk_write(
    struct spill *spill, const struct walk_block *block, uint64_t cols, const float *rows, struct error *err)
{
    return spill_write(spill, block->first * cols, block->tokens * cols, rows, err);
}
