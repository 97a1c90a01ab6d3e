/* See channels.h. A task sums up some channels over all tokens in their order: who does it makes no difference. */
#include "prune/channels.h"

#include <inttypes.h>

#include "base/memory.h"
#include "model/layerwise/layer.h"

#define STATES_IN_MEMORY (UINT64_C(512) << 20)

enum { TASK_CHANNELS = 128 };

/* ---- sums ---- */

struct summing {
    struct channels *channels;
    struct pool *pool;
    const struct walk_inputs *inputs;
};

static enum status sum_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct summing *summing = context;
    const struct walk_inputs *inputs = summing->inputs;
    const struct channels *channels = summing->channels;
    const uint64_t first = index * TASK_CHANNELS, left = channels->count - first;
    const uint64_t end = first + (left < TASK_CHANNELS ? left : TASK_CHANNELS);

    (void)worker, (void)err;
    for (uint64_t token = 0; token < inputs->tokens; token++) {
        const float *x = inputs->x + token * inputs->cols;
        for (uint64_t i = first; i < end; i++) {
            channels->mean[i] += (double)x[i];
            channels->absolute[i] += x[i] < 0 ? -(double)x[i] : (double)x[i];
            channels->square[i] += (double)x[i] * (double)x[i];
        }
    }
    return OK;
}

static enum status sum_inputs(void *context, const struct walk_inputs *inputs, struct error *err)
{
    struct summing *summing = context;

    summing->inputs = inputs;
    return pool_run(summing->pool, (summing->channels->count + TASK_CHANNELS - 1) / TASK_CHANNELS, sum_task,
        summing, err);
}

static enum status new_channels(struct channels *out, uint64_t count, struct error *err)
{
    out->count = count;
    out->mean = memory_new(count, sizeof *out->mean, err);
    out->absolute = memory_new(count, sizeof *out->absolute, err);
    out->square = memory_new(count, sizeof *out->square, err);
    out->weight = memory_new(count, sizeof *out->weight, err);
    return out->mean && out->absolute && out->square && out->weight ? OK : ERR_MEMORY;
}

static enum status sum_columns(
    struct channels *channels, const struct layer *layer, enum role role, struct error *err)
{
    const uint64_t rows = layer->walk.current[role]->shape[0];
    float *weights = layer_floats(layer, role, err);

    if (!weights) return ERR_MEMORY;
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t i = 0; i < channels->count; i++) {
            const double weight = (double)weights[row * channels->count + i];
            channels->weight[i] += weight * weight;
        }
    }
    memory_free(weights);
    return OK;
}

/* ---- the walk ---- */

static enum status observe_stage(struct channels *out, struct walk *walk, const struct layer *layer,
    enum stage stage, enum role role, const struct calibration *calibration, struct pool *pool,
    struct error *err)
{
    struct summing summing = {.channels = out, .pool = pool};
    enum status status = new_channels(out, layer->walk.current[role]->shape[1], err);

    if (!status) status = walk_to(walk, stage, &layer->walk, true, sum_inputs, &summing, err);
    for (uint64_t i = 0; i < out->count && !status; i++) {
        out->mean[i] /= (double)calibration->tokens_used;
        out->absolute[i] /= (double)calibration->tokens_used;
        out->square[i] /= (double)calibration->tokens_used;
    }
    return status ? status : sum_columns(out, layer, role, err);
}

static enum status observe_layer(struct channels out[CHANNEL_PARTS], struct walk *walk,
    struct checkpoint *input, uint32_t index, const struct calibration *calibration, struct pool *pool,
    struct error *err)
{
    struct layer layer;
    enum status status = layer_load(&layer, input, index, err);

    if (!status) status = walk_to(walk, WALK_QKV, &layer.walk, true, NULL, NULL, err);
    if (!status)
        status = observe_stage(&out[CHANNELS_HEADS], walk, &layer, WALK_O, ROLE_O, calibration, pool, err);
    if (!status) status = walk_to(walk, WALK_GATE_UP, &layer.walk, true, NULL, NULL, err);
    if (!status)
        status =
            observe_stage(&out[CHANNELS_FFN], walk, &layer, WALK_DOWN, ROLE_DOWN, calibration, pool, err);
    if (!status) status = walk_finish(walk, &layer.walk, err);
    layer_free(&layer);
    return status;
}

/* Where states are kept, within the limit. */
static enum status settle_memory(struct walk_options *options, const struct checkpoint *input,
    const struct calibration *calibration, uint64_t limit, struct error *err)
{
    uint64_t states, largest = 0;
    char needed[16], most[16];

    for (uint32_t layer = 0; layer < input->config.layers; layer++) {
        const uint64_t bytes = layer_bytes(input, layer);
        if (bytes > largest) largest = bytes;
    }
    walk_bytes(&input->config, calibration->samples, calibration->length, options, &states);
    for (int in_memory = states <= STATES_IN_MEMORY; in_memory >= 0; in_memory--) {
        options->in_memory = in_memory;
        const uint64_t walk =
            walk_bytes(&input->config, calibration->samples, calibration->length, options, NULL);
        if (!limit || (walk <= limit && 3 * largest <= limit - walk)) return OK;
        if (!in_memory)
            return fail(err, ERR_MEMORY, "about %s are needed, with states in a file; --memory-limit is %s",
                report_bytes(needed, walk + 3 * largest), report_bytes(most, limit));
    }
    return OK;
}

enum status channels_observe(struct channel_table *out, struct checkpoint *input,
    const struct calibration *calibration, const char *folder, uint64_t memory_limit, struct pool *pool,
    const struct report *report, struct error *err)
{
    struct walk_options options = {.folder = folder};
    struct progress *progress = NULL;
    struct walk *walk = NULL;
    enum status status = settle_memory(&options, input, calibration, memory_limit, err);

    *out = (struct channel_table){0};
    if (!status) status = walk_create(&walk, input, calibration, &options, pool, err);
    if (status) return status;
    out->layers = memory_new(input->config.layers, sizeof *out->layers, err);
    if (!out->layers) status = ERR_MEMORY;
    progress = progress_start(report, "observing", input->config.layers, PROGRESS_ITEMS);
    for (uint32_t layer = 0; layer < input->config.layers && !status; layer++) {
        out->count = layer + 1;
        status = observe_layer(out->layers[layer], walk, input, layer, calibration, pool, err);
        progress_add(progress, 1);
    }
    progress_end(progress);
    walk_free(walk);
    return status;
}

void channels_free(struct channel_table *table)
{
    for (uint32_t layer = 0; table->layers && layer < table->count; layer++) {
        for (int part = 0; part < CHANNEL_PARTS; part++) {
            struct channels *channels = &table->layers[layer][part];
            memory_free(channels->mean);
            memory_free(channels->absolute);
            memory_free(channels->square);
            memory_free(channels->weight);
        }
    }
    memory_free(table->layers);
    *table = (struct channel_table){0};
}
