#include "prune/weights_plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

/* ---- one matrix ---- */

static enum status check_pattern(
    const struct tensor *source, const struct prune_pattern *pattern, struct error *err)
{
    if (!pattern->of || source->shape[1] % pattern->of == 0) return OK;
    return fail(err, ERR_USAGE,
        "tensor %s: --pattern %" PRIu32 ":%" PRIu32 " does not divide its rows of %" PRIu64
        " weights; choose another pattern, or --keep it",
        source->name, pattern->keep, pattern->of, source->shape[1]);
}

/* Columns that share a scale: as --group says, else the largest of the usual sizes that divides the row. */
static uint32_t group_of(const struct prune_settings *settings, uint64_t cols)
{
    uint32_t group = 128;
    if (settings->group) return settings->group;
    while (group > 16 && cols % group)
        group /= 2;
    return group;
}

static enum status check_group(
    const struct tensor *source, const struct prune_settings *settings, struct error *err)
{
    uint64_t cols = source->shape[1];
    uint32_t group = group_of(settings, cols);
    if (!settings->bits || cols % group == 0) return OK;
    return fail(err, ERR_USAGE,
        "tensor %s: --group %" PRIu32 " does not divide its rows of %" PRIu64
        " weights; choose another group, or --keep it",
        source->name, group, cols);
}

static enum status check_dense(
    const struct container *container, const struct tensor *source, struct error *err)
{
    const char *why, *packed = container_packed(container, source, &why);
    if (!packed && source->storage == STORAGE_DENSE && dtype_info(source->dtype)->encode) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "tensor %s is quantized already%s%s; prune the original model and quantize it with --bits in the "
        "same "
        "run, or --keep this tensor",
        source->name, packed ? ", as " : "", packed ? packed : "");
}

static void set_target(struct prune_tensor *matrix, const struct prune_settings *settings)
{
    matrix->target = *matrix->source;
    matrix->target.data = NULL;
    if (!settings->bits) return;
    matrix->target.storage = STORAGE_TILES;
    matrix->target.dtype = DTYPE_F16;
    matrix->target.scheme =
        (struct scheme){settings->bits, group_of(settings, matrix->source->shape[1]), false};
}

static enum status add_matrix(
    struct weights *work, enum role role, uint32_t layer, const struct tensor *source, struct error *err)
{
    struct prune_result *result = work->job->result;
    const struct prune_settings *settings = work->job->settings;
    struct prune_tensor *matrix = &result->tensors[result->count];
    enum status status = check_dense(result->input.container, source, err);
    if (status == OK) status = check_pattern(source, &settings->pattern, err);
    if (status == OK) status = check_group(source, settings, err);
    if (status != OK) return status;
    *matrix = (struct prune_tensor){
        .name = source->name, .source = source, .role = role, .layer = layer, .weights = source->elements};
    set_target(matrix, settings);
    work->layer[layer][role] = matrix;
    result->count++;
    return OK;
}

/* ---- all of them ---- */

static bool is_kept(const struct prune_settings *settings, const char *name, bool *matched)
{
    for (uint64_t i = 0; i < settings->keep_count; i++) {
        if (regexec(&settings->keeps[i], name, 0, NULL, 0) == 0) matched[i] = true;
    }
    return prune_settings_keeps(settings, name);
}

static enum status check_kept(const struct weights *work, const bool *matched, struct error *err)
{
    const struct prune_options *options = work->job->options;
    for (uint64_t i = 0; i < work->job->settings->keep_count; i++) {
        if (!matched[i])
            return fail(err, ERR_USAGE, "--keep '%s' matches no weight matrix of the decoder layers",
                options->keep.values[i]);
    }
    if (work->job->result->count) return OK;
    return fail(err, ERR_USAGE, "--keep leaves no matrix to prune");
}

static enum status add_layer(struct weights *work, uint32_t layer, bool *matched, struct error *err)
{
    const struct checkpoint *input = work->job->input;
    enum status status = OK;
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        const struct tensor *source = input->tensors.layer[layer][role];
        if (!source || !layers_role_is_linear(role) || is_kept(work->job->settings, source->name, matched))
            continue;
        status = add_matrix(work, role, layer, source, err);
    }
    return status;
}

enum status weights_plan(struct weights *work, struct error *err)
{
    const struct checkpoint *input = work->job->input;
    const struct prune_settings *settings = work->job->settings;
    struct prune_result *result = work->job->result;
    uint32_t layers = input->config.layers;
    if (input->config.architecture->experts_key)
        return fail(err, ERR_UNSUPPORTED,
            "%s has a mixture of experts, whose matrices pruning of single weights does not see yet",
            input->config.architecture->name);
    result->layers_in = result->layers_out = layers;
    result->tensors = memory_new((uint64_t)layers * ROLE_COUNT, sizeof *result->tensors, err);
    work->layer = memory_new(layers, sizeof *work->layer, err);
    bool *matched = memory_new(settings->keep_count, sizeof *matched, err);
    enum status status = result->tensors && work->layer && matched ? OK : ERR_MEMORY;
    for (uint32_t layer = 0; status == OK && layer < layers; layer++)
        status = add_layer(work, layer, matched, err);
    if (status == OK) status = check_kept(work, matched, err);
    memory_free(matched);
    return status;
}

struct prune_tensor *weights_plan_find(const struct weights *work, const struct tensor *source)
{
    enum role role;
    uint32_t layer;
    if (!layers_role_of(&work->job->input->config, source->name, &role, &layer)) return NULL;
    if (role < ROLE_PER_LAYER || !work->layer[layer][role]) return NULL;
    return work->layer[layer][role]->source == source ? work->layer[layer][role] : NULL;
}

/* ---- how they are stored ---- */

bool weights_plan_sparse(struct tensor *out, const struct prune_tensor *matrix, const struct weights *work)
{
    const struct prune_pattern *pattern = &work->job->settings->pattern;
    *out = matrix->target;
    out->storage = STORAGE_SPARSE;
    out->mask = pattern->keep == 2 && pattern->of == 4 ? MASK_2_4 : MASK_BITMAP;
    return matrix->target.storage == STORAGE_TILES || out->dtype == DTYPE_F16 || out->dtype == DTYPE_BF16;
}

enum status weights_plan_target(struct tensor *out, const struct weights *work, const struct tensor *source,
    const struct prune_tensor *pruned, struct error *err)
{
    const struct destination destination = prune_destination(work->job->options);
    *out = pruned ? pruned->target : *source;
    out->data = NULL;
    return destination_target(&destination, &work->job->input->config, out, err);
}
