/* See narrow.h. */
#include "prune/narrow.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/cast.h"
#include "formats/container_select.h"
#include "model/config_rewrite.h"
#include "model/layerwise/layer.h"

/* ---- what cannot be done ---- */

static bool is_touched(enum role role, bool heads, bool ffn)
{
    return (heads && role >= ROLE_Q && role <= ROLE_O) || (ffn && role >= ROLE_GATE && role <= ROLE_DOWN);
}

static enum status refuse_quantized(
    const struct checkpoint *input, uint32_t layer, bool heads, bool ffn, struct error *err)
{
    const char *why;

    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct tensor *tensor = input->tensors.layer[layer][role];
        if (!tensor || !is_touched(role, heads, ffn)) continue;
        if (tensor->storage == STORAGE_DENSE && !container_packed(input->container, tensor, &why)) continue;
        return fail(err, ERR_UNSUPPORTED,
            "%s: tensor %s is quantized or sparse, and its rows and columns cannot be taken away: prune the "
            "original "
            "model, then "
            "quantize what is left",
            container_path(input->container), tensor->name);
    }
    return OK;
}

enum status narrow_refuse(const struct checkpoint *input, bool heads, bool ffn, struct error *err)
{
    const struct model_config *config = &input->config;
    enum status status = OK;

    if (config->experts)
        return fail(err, ERR_UNSUPPORTED,
            "%s has a mixture of experts, whose heads and channels are not pruned; whole layers can be "
            "(--drop-layers, --method shortgpt)",
            config->architecture->name);
    if (heads && config->architecture->qk_norm == QK_NORM_PROJECTION)
        return fail(err, ERR_UNSUPPORTED,
            "%s norms queries and keys across all heads, so that without one the others would change too: "
            "--parts ffn leaves heads alone",
            config->architecture->name);
    for (uint32_t layer = 0; layer < config->layers && !status; layer++)
        status = refuse_quantized(input, layer, heads, ffn, err);
    return status;
}

enum status narrow_say_biases(
    struct model_config *config, bool own_format, bool heads, bool ffn, struct error *err)
{
    const struct architecture *known = config->architecture;

    if (heads && !config->output_bias) {
        config->output_bias = true;
        if (known->attention_bias_option && !known->qkv_bias_always) config->attention_bias = true;
    }
    if (ffn && !config->mlp_bias && known->mlp_bias_option)
        config->mlp_bias = true;
    else if (ffn && !config->mlp_bias)
        config->down_bias = true;
    return own_format ? OK : config_refuse_own(config, "other formats", err);
}

/* ---- biases ---- */

/* For every number below `count` whether it is in the list, which ascends. */
static bool *mark_listed(const uint64_t *list, uint64_t listed, uint64_t count, struct error *err)
{
    bool *marks = memory_new(count, sizeof *marks, err);

    for (uint64_t i = 0; marks && i < listed; i++)
        marks[list[i]] = true;
    return marks;
}

/* bias[row] += the row's weights times the means of the channels that go; each of `width` columns. */
static void add_means(float *bias, const float *weights, const struct tensor *matrix,
    const struct channels *channels, const bool *stays, uint64_t width)
{
    const uint64_t rows = matrix->shape[0], cols = matrix->shape[1];

    for (uint64_t row = 0; row < rows; row++) {
        double sum = (double)bias[row];
        for (uint64_t col = 0; col < cols; col++) {
            if (!stays[col / width]) sum += (double)weights[row * cols + col] * channels->mean[col];
        }
        bias[row] = (float)sum;
    }
}

/* The new bias of o or of down: [hidden] floats. */
static enum status make_bias(struct width_layer *left, enum channel_part part,
    const struct channels *channels, const struct layer *layer, uint64_t units, struct error *err)
{
    const bool heads = part == CHANNELS_HEADS;
    const enum role role = heads ? ROLE_O : ROLE_DOWN, bias = heads ? ROLE_O_BIAS : ROLE_DOWN_BIAS;
    const struct tensor *matrix = layer->walk.current[role];
    bool *stays = mark_listed(
        heads ? left->groups : left->channels, heads ? left->group_count : left->channel_count, units, err);
    float *weights = layer_floats(layer, role, err);
    float *values = layer->walk.current[bias] ? layer_floats(layer, bias, err)
                                              : memory_new(matrix->shape[0], sizeof *values, err);

    left->bias[part] = values;
    if (stays && weights && values)
        add_means(values, weights, matrix, channels, stays, matrix->shape[1] / units);
    const enum status status = stays && weights && values ? OK : ERR_MEMORY;
    memory_free(stays);
    memory_free(weights);
    return status;
}

enum status narrow_means(
    struct checkpoint *input, struct width *width, const struct channel_table *table, struct error *err)
{
    enum status status = OK;

    for (uint32_t index = 0; index < width->count && !status; index++) {
        const struct config_widths widths = config_widths(&input->config, index);
        struct width_layer *left = &width->layers[index];
        struct layer layer;
        status = layer_load(&layer, input, index, err);
        if (!status && left->group_count < widths.kv_heads)
            status = make_bias(
                left, CHANNELS_HEADS, &table->layers[index][CHANNELS_HEADS], &layer, widths.kv_heads, err);
        if (!status && left->channel_count < widths.ffn)
            status =
                make_bias(left, CHANNELS_FFN, &table->layers[index][CHANNELS_FFN], &layer, widths.ffn, err);
        layer_free(&layer);
    }
    return status;
}

static enum role matrix_of(enum role bias)
{
    return bias >= ROLE_GATE_BIAS ? ROLE_GATE + (bias - ROLE_GATE_BIAS) : ROLE_Q + (bias - ROLE_Q_BIAS);
}

static const struct tensor *find(const struct checkpoint *input, enum role role, uint32_t layer)
{
    char name[CONTAINER_NAME_LIMIT];

    return container_find(
        input->container, layers_name(name, sizeof name, input->config.architecture, role, layer));
}

/* A bias, in place of the one that is there or as one more. Tensors are added behind the others: numbers stay what they were. */
static enum status put_bias(struct checkpoint *input, uint32_t layer, enum role role, const float *values,
    uint64_t count, bool *gone, struct error *err)
{
    const struct tensor *old = find(input, role, layer);
    const enum dtype dtype = old ? old->dtype : find(input, matrix_of(role), layer)->dtype;
    char name[CONTAINER_NAME_LIMIT];
    float *zeros = memory_new(count, sizeof *zeros, err), *bytes = memory_new(count, sizeof *bytes, err);
    struct tensor tensor = {
        .name = layers_name(name, sizeof name, input->config.architecture, role, layer),
        .dtype = dtype,
        .rank = 1,
        .shape = {count},
    };
    enum status status = zeros && bytes ? OK : ERR_MEMORY;

    if (!status && old) gone[container_index(input->container, old)] = true;
    if (!status) tensor.data = cast_from_floats(dtype, values ? values : zeros, bytes, count);
    if (!status) status = container_add(input->container, &tensor, err);
    memory_free(zeros);
    memory_free(bytes);
    return status;
}

/* All biases of a layer that `wanted` has and that are not there, or are others now. */
static enum status add_layer(struct checkpoint *input, const struct width_layer *left,
    const struct model_config *wanted, uint32_t layer, bool *gone, struct error *err)
{
    enum status status = OK;

    for (enum role role = ROLE_Q_BIAS; role <= ROLE_DOWN_BIAS && !status; role++) {
        const float *values = role == ROLE_O_BIAS      ? left->bias[CHANNELS_HEADS]
                              : role == ROLE_DOWN_BIAS ? left->bias[CHANNELS_FFN]
                                                       : NULL;
        uint32_t rank;
        uint64_t shape[2];
        if (role > ROLE_O_BIAS && role < ROLE_GATE_BIAS) continue;
        if (!layers_role_shape(wanted, role, layer, &rank, shape)) continue;
        if (values || !find(input, role, layer))
            status = put_bias(input, layer, role, values, shape[0], gone, err);
    }
    return status;
}

enum status narrow_biases(
    struct checkpoint *input, const struct width *width, const struct model_config *wanted, struct error *err)
{
    const uint64_t most = container_count(input->container) + (uint64_t)width->count * ROLE_COUNT;
    bool *gone = memory_new(most, sizeof *gone, err);
    enum status status = gone ? OK : ERR_MEMORY;

    for (uint32_t layer = 0; layer < width->count && !status; layer++)
        status = add_layer(input, &width->layers[layer], wanted, layer, gone, err);
    if (!status) container_remove(input->container, gone);
    memory_free(gone);
    return status ? status : container_reindex(input->container, err);
}

/* ---- rows and columns ---- */

/* Numbers of all channels of the groups, `width` each: [group_count * width], memory_free. */
static uint64_t *spread(const uint64_t *groups, uint32_t count, uint64_t width, struct error *err)
{
    uint64_t *out = memory_new((uint64_t)count * width, sizeof *out, err);

    for (uint64_t i = 0; out && i < count * width; i++)
        out[i] = groups[i / width] * width + i % width;
    return out;
}

static enum status select_role(struct checkpoint *input, uint32_t layer, enum role role,
    const struct container_choice *choice, struct error *err)
{
    const struct tensor *tensor = find(input, role, layer);

    return tensor ? container_select(input->container, container_index(input->container, tensor), choice, err)
                  : OK;
}

static enum status select_heads(
    struct checkpoint *input, const struct width_layer *left, uint32_t layer, struct error *err)
{
    const struct model_config *config = &input->config;
    const uint64_t size = config->head_size, group = config->heads / config->kv_heads;
    uint64_t *keys = spread(left->groups, left->group_count, size, err);
    uint64_t *queries = spread(left->groups, left->group_count, group * size, err);
    const struct container_choice key_rows = {.rows = keys, .row_count = left->group_count * size};
    const struct container_choice query_rows = {
        .rows = queries, .row_count = left->group_count * group * size};
    const struct container_choice cols = {.cols = queries, .col_count = query_rows.row_count};
    enum status status = keys && queries ? OK : ERR_MEMORY;

    if (!status) status = select_role(input, layer, ROLE_Q, &query_rows, err);
    if (!status) status = select_role(input, layer, ROLE_Q_BIAS, &query_rows, err);
    if (!status) status = select_role(input, layer, ROLE_K, &key_rows, err);
    if (!status) status = select_role(input, layer, ROLE_K_BIAS, &key_rows, err);
    if (!status) status = select_role(input, layer, ROLE_V, &key_rows, err);
    if (!status) status = select_role(input, layer, ROLE_V_BIAS, &key_rows, err);
    if (!status) status = select_role(input, layer, ROLE_O, &cols, err);
    memory_free(keys);
    memory_free(queries);
    return status;
}

static enum status select_channels(
    struct checkpoint *input, const struct width_layer *left, uint32_t layer, struct error *err)
{
    const struct container_choice rows = {.rows = left->channels, .row_count = left->channel_count};
    const struct container_choice cols = {.cols = left->channels, .col_count = left->channel_count};
    static const enum role producers[] = {ROLE_GATE, ROLE_UP, ROLE_GATE_BIAS, ROLE_UP_BIAS};
    enum status status = OK;

    for (size_t i = 0; i < sizeof producers / sizeof *producers && !status; i++)
        status = select_role(input, layer, producers[i], &rows, err);
    return status ? status : select_role(input, layer, ROLE_DOWN, &cols, err);
}

enum status narrow_select(
    struct checkpoint *input, const struct width *width, struct model_config *config, struct error *err)
{
    uint32_t kv_heads[CONFIG_LAYER_LIMIT], ffn[CONFIG_LAYER_LIMIT];
    enum status status = OK;

    for (uint32_t layer = 0; layer < width->count && !status; layer++) {
        const struct width_layer *left = &width->layers[layer];
        const struct config_widths was = config_widths(&input->config, layer);
        kv_heads[layer] = left->group_count;
        ffn[layer] = left->channel_count;
        if (left->group_count < was.kv_heads) status = select_heads(input, left, layer, err);
        if (!status && left->channel_count < was.ffn) status = select_channels(input, left, layer, err);
    }
    if (!status) config_set_widths(config, kv_heads, ffn);
    return status;
}
