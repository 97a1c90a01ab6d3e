/* See width.h. */
#include "prune/width.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Something that stays or goes as a whole: a group of heads, or some channels. */
struct unit {
    double score; /* of all its members, per weight */
    uint64_t weights;
    uint32_t layer;
    enum channel_part part;
    uint64_t first, count; /* of the part's order, lowest score first */
};

/* What has a score: a group or a channel by number. */
struct ranked {
    double score;
    uint64_t number;
};

struct ranking {
    struct ranked *order; /* [count] lowest first; owned */
    uint64_t count;
    uint64_t gone; /* of them, the first in order */
};

struct choice {
    const struct channel_table *table;
    const struct model_config *config;
    const struct width_options *options;
    struct ranking (*layers)[CHANNEL_PARTS];
    struct unit *units; /* [unit_count] */
    uint64_t unit_count, unit_capacity;
};

uint64_t width_group_weights(const struct model_config *config)
{
    const uint64_t heads = config->heads / config->kv_heads;

    return 2 * (heads + 1) * config->head_size * config->hidden;
}

uint64_t width_channel_weights(const struct model_config *config)
{
    return (config->architecture->ungated ? 2 : 3) * (uint64_t)config->hidden;
}

static uint64_t unit_weights(const struct model_config *config, enum channel_part part)
{
    return part == CHANNELS_HEADS ? width_group_weights(config) : width_channel_weights(config);
}

/* How many of a part go at once, and how many must stay. */
static uint64_t step_of(enum channel_part part)
{
    return part == CHANNELS_HEADS ? 1 : WIDTH_CHANNELS;
}

/* ---- scores ---- */

static double score_channel(
    const struct channels *channels, uint64_t i, enum channel_part part, enum prune_score score)
{
    const double variance = fmax(0, channels->square[i] - channels->mean[i] * channels->mean[i]);
    const double flap = variance * channels->weight[i];

    if (score == SCORE_FLAP) return flap;
    return part == CHANNELS_HEADS ? channels->square[i] : channels->absolute[i];
}

/* In place: each score's share of all. */
static void share(double *scores, uint64_t count)
{
    double sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += scores[i];
    for (uint64_t i = 0; i < count && sum > 0; i++)
        scores[i] /= sum;
}

static int by_score(const void *a, const void *b)
{
    const struct ranked *left = a, *right = b;

    if (left->score != right->score) return left->score < right->score ? -1 : 1;
    return left->number < right->number ? -1 : left->number > right->number;
}

/* What the channels of a group give together; of a norm the root. */
static void sum_groups(const struct ranking *out, double *scores, uint64_t width, enum prune_score score)
{
    for (uint64_t group = 0; group < out->count; group++) {
        double sum = 0;
        for (uint64_t i = 0; i < width; i++)
            sum += scores[group * width + i];
        scores[group] = score == SCORE_ACTIVATION ? sqrt(sum) : sum;
    }
}

static enum status rank(struct ranking *out, const struct choice *choice, uint32_t layer,
    enum channel_part part, struct error *err)
{
    const struct channels *channels = &choice->table->layers[layer][part];
    const enum prune_score score = choice->options->score;
    double *scores = memory_new(channels->count, sizeof *scores, err);
    enum status status = OK;

    out->count = part == CHANNELS_HEADS ? config_widths(choice->config, layer).kv_heads : channels->count;
    out->order = memory_new(out->count, sizeof *out->order, err);
    if (!scores || !out->order) status = ERR_MEMORY;
    for (uint64_t i = 0; i < channels->count && !status; i++) {
        scores[i] = score_channel(channels, i, part, score);
        if (!isfinite(scores[i]))
            status = fail(err, ERR_NUMERIC,
                "layer %" PRIu32 ": the score of input channel %" PRIu64 " of %s is not finite", layer, i,
                part == CHANNELS_HEADS ? "o_proj" : "down_proj");
    }
    if (!status && part == CHANNELS_HEADS) sum_groups(out, scores, channels->count / out->count, score);
    if (!status) share(scores, out->count);
    for (uint64_t i = 0; i < out->count && !status; i++)
        out->order[i] = (struct ranked){scores[i], i};
    if (!status) qsort(out->order, out->count, sizeof *out->order, by_score);
    memory_free(scores);
    return status;
}

/* ---- layer by layer ---- */

/* The part of a layer, lowest first, in units; the first takes what is over, the last of all stays and is none. */
static enum status add_units(struct choice *choice, uint32_t layer, enum channel_part part, struct error *err)
{
    const struct ranking *ranking = &choice->layers[layer][part];
    const uint64_t step = step_of(part);

    for (uint64_t first = 0, count; first + step < ranking->count; first += count) {
        count = first == 0 && ranking->count % step ? ranking->count % step : step;
        struct unit unit = {.layer = layer, .part = part, .first = first, .count = count};
        for (uint64_t i = 0; i < count; i++)
            unit.score += ranking->order[first + i].score;
        unit.weights = count * unit_weights(choice->config, part);
        unit.score /= (double)unit.weights;
        enum status status =
            memory_grow(&choice->units, &choice->unit_capacity, choice->unit_count + 1, sizeof unit, err);
        if (status) return status;
        choice->units[choice->unit_count++] = unit;
    }
    return OK;
}

static int by_unit(const void *a, const void *b)
{
    const struct unit *left = a, *right = b;

    if (left->score != right->score) return left->score < right->score ? -1 : 1;
    if (left->layer != right->layer) return left->layer < right->layer ? -1 : 1;
    if (left->part != right->part) return left->part < right->part ? -1 : 1;
    return left->first < right->first ? -1 : left->first > right->first;
}

static bool part_goes(const struct width_options *options, enum channel_part part)
{
    return part == CHANNELS_HEADS ? options->heads : options->ffn;
}

/* The weights that shall go. */
static double wanted(const struct choice *choice)
{
    double weights = 0;

    for (uint32_t layer = 0; layer < choice->config->layers; layer++) {
        for (enum channel_part part = 0; part < CHANNEL_PARTS; part++) {
            if (part_goes(choice->options, part))
                weights +=
                    (double)choice->layers[layer][part].count * (double)unit_weights(choice->config, part);
        }
    }
    return weights * choice->options->sparsity;
}

/* The lowest units go until the next would lead further from the wanted weights. Units of a part are in the order of their scores
 * already, because those of their members are. */
static enum status choose_by_layer(struct choice *choice, struct error *err)
{
    const double goal = wanted(choice);
    double gone = 0;
    enum status status = OK;

    for (uint32_t layer = 0; layer < choice->config->layers; layer++) {
        for (enum channel_part part = 0; part < CHANNEL_PARTS && !status; part++) {
            if (part_goes(choice->options, part)) status = add_units(choice, layer, part, err);
        }
    }
    if (status || !choice->unit_count) return status;
    qsort(choice->units, choice->unit_count, sizeof *choice->units, by_unit);
    for (uint64_t i = 0; i < choice->unit_count; i++) {
        const struct unit *unit = &choice->units[i];
        if (gone + 0.5 * (double)unit->weights > goal) break;
        choice->layers[unit->layer][unit->part].gone += unit->count;
        gone += (double)unit->weights;
    }
    return OK;
}

/* ---- uniform ---- */

static uint64_t least_count(const struct choice *choice, enum channel_part part)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t layer = 0; layer < choice->config->layers; layer++) {
        if (choice->layers[layer][part].count < least) least = choice->layers[layer][part].count;
    }
    return least;
}

/* How many of `count` go, nearest to `goal`: what stays is all, or a multiple of the step and at least one. */
static uint64_t nearest(double goal, uint64_t count, uint64_t step)
{
    const double left = (double)count - goal;
    uint64_t steps = left > 0 ? (uint64_t)(left / (double)step + 0.5) : 0;

    if (steps > count / step) steps = count / step;
    if (steps == 0) steps = 1;
    if (count < step || goal <= fabs((double)(steps * step) - left)) return 0;
    return count - steps * step;
}

/* Groups are few: what rounding them misses, channels make up for. */
static void choose_uniform(struct choice *choice)
{
    const struct model_config *config = choice->config;
    const struct width_options *options = choice->options;
    const double goal = wanted(choice) / config->layers;
    const uint64_t groups = least_count(choice, CHANNELS_HEADS), channels = least_count(choice, CHANNELS_FFN);
    uint64_t gone[CHANNEL_PARTS] = {0};

    if (options->heads) gone[CHANNELS_HEADS] = nearest(options->sparsity * (double)groups, groups, 1);
    const double left = goal - (double)(gone[CHANNELS_HEADS] * width_group_weights(config));
    if (options->ffn)
        gone[CHANNELS_FFN] = nearest(left / (double)width_channel_weights(config), channels, WIDTH_CHANNELS);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        for (enum channel_part part = 0; part < CHANNEL_PARTS; part++) {
            struct ranking *ranking = &choice->layers[layer][part];
            const uint64_t least = part == CHANNELS_HEADS ? groups : channels;
            if (part_goes(options, part)) ranking->gone = ranking->count - (least - gone[part]);
        }
    }
}

/* ---- what stays ---- */

static int by_number(const void *a, const void *b)
{
    const uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

static enum status list_left(
    uint64_t **out, uint32_t *count, const struct ranking *ranking, struct error *err)
{
    *count = (uint32_t)(ranking->count - ranking->gone);
    *out = memory_new(*count, sizeof **out, err);
    if (!*out) return ERR_MEMORY;
    for (uint32_t i = 0; i < *count; i++)
        (*out)[i] = ranking->order[ranking->gone + i].number;
    qsort(*out, *count, sizeof **out, by_number);
    return OK;
}

static enum status list_all(struct width *out, const struct choice *choice, struct error *err)
{
    uint64_t gone = 0;
    enum status status = OK;

    for (uint32_t layer = 0; layer < out->count && !status; layer++) {
        struct width_layer *left = &out->layers[layer];
        const struct ranking *parts = choice->layers[layer];
        gone += parts[CHANNELS_HEADS].gone + parts[CHANNELS_FFN].gone;
        status = list_left(&left->groups, &left->group_count, &parts[CHANNELS_HEADS], err);
        if (!status) status = list_left(&left->channels, &left->channel_count, &parts[CHANNELS_FFN], err);
    }
    if (status || gone) return status;
    return fail(err, ERR_USAGE,
        "nothing would go: %g%% is less than half of what can go at once, a group of heads or %d "
        "feed-forward "
        "channels; say a higher --sparsity",
        100 * choice->options->sparsity, WIDTH_CHANNELS);
}

enum status width_choose(struct width *out, const struct channel_table *table,
    const struct model_config *config, const struct width_options *options, struct error *err)
{
    struct choice choice = {.table = table, .config = config, .options = options};
    enum status status = OK;

    *out = (struct width){.count = config->layers};
    out->layers = memory_new(config->layers, sizeof *out->layers, err);
    choice.layers = memory_new(config->layers, sizeof *choice.layers, err);
    if (!out->layers || !choice.layers) status = ERR_MEMORY;
    for (uint32_t layer = 0; layer < config->layers && !status; layer++) {
        for (enum channel_part part = 0; part < CHANNEL_PARTS && !status; part++)
            status = rank(&choice.layers[layer][part], &choice, layer, part, err);
    }
    if (!status && options->uniform)
        choose_uniform(&choice);
    else if (!status)
        status = choose_by_layer(&choice, err);
    if (!status) status = list_all(out, &choice, err);
    for (uint32_t layer = 0; choice.layers && layer < config->layers; layer++) {
        for (int part = 0; part < CHANNEL_PARTS; part++)
            memory_free(choice.layers[layer][part].order);
    }
    memory_free(choice.layers);
    memory_free(choice.units);
    return status;
}

void width_free(struct width *width)
{
    for (uint32_t layer = 0; width->layers && layer < width->count; layer++) {
        memory_free(width->layers[layer].groups);
        memory_free(width->layers[layer].channels);
        for (int part = 0; part < CHANNEL_PARTS; part++)
            memory_free(width->layers[layer].bias[part]);
    }
    memory_free(width->layers);
    *width = (struct width){0};
}
