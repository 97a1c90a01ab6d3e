/* See structure.h. */
#include "prune/structure.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/container_select.h"
#include "model/config_rewrite.h"
#include "prune/narrow.h"
#include "prune/sleb.h"
#include "prune/structure_write.h"

static struct destination destination_of(const struct prune_options *options)
{
    return (struct destination){
        .path = options->output, .format = options->format, .split_bytes = options->split_size};
}

/* ---- deciding ---- */

/* The folder that a file or folder is to lie in; memory_free. */
static char *folder_of(const char *path, struct error *err)
{
    uint64_t bytes = strlen(path);

    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    while (bytes && path[bytes - 1] != '/')
        bytes--;
    if (!bytes) return memory_text(".", 1, err);
    return memory_text(path, bytes > 1 ? bytes - 1 : 1, err);
}

static bool wants(const struct prune_options *options, const char *part)
{
    return !options->parts || strcmp(options->parts, "both") == 0 || strcmp(options->parts, part) == 0;
}

static struct width_options width_options(const struct prune_job *job)
{
    const struct prune_options *options = job->options;
    const struct destination destination = destination_of(options);
    const bool uniform =
        options->widths ? strcmp(options->widths, "uniform") == 0 : !destination_is_own(&destination);

    return (struct width_options){.score = job->settings->method->score,
        .sparsity = job->settings->sparsity,
        .heads = wants(options, "heads"),
        .ffn = wants(options, "ffn"),
        .uniform = uniform};
}

/* What the format cannot say is refused before the text is looked at. */
static enum status check_width(
    struct structure *out, const struct prune_job *job, const struct width_options *width, struct error *err)
{
    const struct destination destination = destination_of(job->options);
    const bool own = destination_is_own(&destination);
    struct model_config config = job->input->config;
    enum status status = narrow_refuse(job->input, width->heads, width->ffn, err);

    out->biases = job->settings->method->score == SCORE_FLAP && !job->options->no_bias;
    if (!status && !own && !width->uniform)
        status = fail(err, ERR_USAGE,
            "--widths layer: only .nbl files can say that layers differ; leave it out, or --format nbl");
    if (!status && !own && width->heads && config.architecture->fixed_head_size)
        status = fail(err, ERR_UNSUPPORTED,
            "readers of %s take heads to be hidden_size / num_attention_heads wide, which no longer holds "
            "with "
            "fewer of them: --parts ffn leaves heads alone, --format nbl can say it",
            config.architecture->name);
    if (!status && out->biases) status = narrow_say_biases(&config, own, width->heads, width->ffn, err);
    return status;
}

static enum status choose_width(
    struct structure *out, struct prune_job *job, const struct calibration *calibration, struct error *err)
{
    const struct width_options options = width_options(job);
    struct channel_table table = {0};
    char *folder = folder_of(job->options->output, err);
    enum status status = folder ? OK : ERR_MEMORY;

    if (!status)
        status = channels_observe(
            &table, job->input, calibration, folder, job->options->memory_limit, job->pool, job->report, err);
    if (!status) status = width_choose(&out->width, &table, &job->input->config, &options, err);
    if (!status && out->biases) status = narrow_means(job->input, &out->width, &table, err);
    channels_free(&table);
    memory_free(folder);
    return status;
}

/* Layers are judged by the model in memory, opened once more. */
static enum status choose_depth(
    struct structure *out, struct prune_job *job, const struct calibration *calibration, struct error *err)
{
    const enum prune_score score = job->settings->method->score;
    struct model *model = NULL;
    uint32_t count;
    enum status status = depth_count(&count, job->settings->sparsity, job->input->config.layers, err);

    if (!status) status = model_open(&model, job->options->input, job->pool, err);
    if (!status)
        status = score == SCORE_PERPLEXITY
                     ? sleb_choose(&out->depth, model, calibration, count, job->report, err)
                     : depth_by_stream(&out->depth, model, calibration, score, count, err);
    model_close(model);
    return status;
}

static enum status choose(struct structure *out, struct prune_job *job, struct error *err)
{
    const struct prune_method *method = job->settings->method;
    struct calibration calibration = {0};
    enum status status = OK;

    if (!method) return OK;
    if (method->kind == PRUNE_WIDTH) {
        const struct width_options options = width_options(job);
        status = check_width(out, job, &options, err);
    }
    if (!status)
        status =
            calibration_request_load(&calibration, &job->options->calibration, job->input, job->report, err);
    job->result->samples = calibration.samples;
    job->result->tokens = calibration.tokens_used;
    if (!status)
        status = method->kind == PRUNE_WIDTH ? choose_width(out, job, &calibration, err)
                                             : choose_depth(out, job, &calibration, err);
    calibration_free(&calibration);
    return status;
}

/* ---- seeing ---- */

/* Tensors of the layers that go are taken out, those of the others get new numbers. */
static enum status renumber(struct checkpoint *input, const struct depth *depth, struct error *err)
{
    const uint64_t count = container_count(input->container);
    bool *gone = memory_new(count, sizeof *gone, err);
    uint32_t kept[CONFIG_LAYER_LIMIT], number[CONFIG_LAYER_LIMIT] = {0};
    const uint32_t left = depth_kept(kept, depth);
    enum status status = gone ? OK : ERR_MEMORY;

    for (uint32_t i = 0; i < left; i++)
        number[kept[i]] = i;
    for (uint64_t i = 0; i < count && !status; i++) {
        const char *name = container_tensor(input->container, i)->name;
        char renamed[CONTAINER_NAME_LIMIT + 16];
        uint32_t layer;
        const char *suffix = layers_suffix(&input->config, name, &layer);
        if (!suffix) continue;
        gone[i] = depth->gone[layer];
        snprintf(renamed, sizeof renamed, "%.*s%" PRIu32 ".%s",
            (int)layers_prefix_bytes(input->config.architecture), name, number[layer], suffix);
        if (!gone[i]) status = container_rename(input->container, i, renamed, err);
    }
    if (!status) container_remove(input->container, gone);
    memory_free(gone);
    return status ? status : container_reindex(input->container, err);
}

/* What the checkpoint leaves out is not seen any more either, so that nobody has to know why. */
static enum status remove_dropped(struct checkpoint *input, struct error *err)
{
    bool *gone = memory_new(container_count(input->container), sizeof *gone, err);

    if (!gone) return ERR_MEMORY;
    for (uint64_t i = 0; i < input->dropped_count; i++)
        gone[container_index(input->container, input->dropped[i].tensor)] = true;
    container_remove(input->container, gone);
    memory_free(gone);
    return checkpoint_bind_again(input, err);
}

enum status structure_apply(
    struct checkpoint *input, const struct structure *structure, bool own_format, struct error *err)
{
    const struct model_config was = input->config;
    struct model_config wanted = input->config;
    enum status status = remove_dropped(input, err);

    if (!status && structure->trim) status = trim_select(input, structure->trim, &wanted, err);
    if (!status && structure->width.count && structure->biases) {
        bool parts[CHANNEL_PARTS] = {false};
        for (uint32_t i = 0; i < structure->width.count; i++) {
            for (int part = 0; part < CHANNEL_PARTS; part++)
                parts[part] |= structure->width.layers[i].bias[part] != NULL;
        }
        status = narrow_say_biases(&wanted, own_format, parts[CHANNELS_HEADS], parts[CHANNELS_FFN], err);
        if (!status) status = narrow_biases(input, &structure->width, &wanted, err);
    }
    if (!status && structure->width.count) status = narrow_select(input, &structure->width, &wanted, err);
    if (!status && structure->depth.dropped) {
        uint32_t kept[CONFIG_LAYER_LIMIT];
        const uint32_t count = depth_kept(kept, &structure->depth);
        status = renumber(input, &structure->depth, err);
        config_keep_layers(&wanted, kept, count);
    }
    if (!status)
        status = config_rewrite(
            input->container, &was, &wanted, structure->trim ? trim_ids(structure->trim) : NULL, err);
    return status ? status : checkpoint_bind_again(input, err);
}

void structure_free(struct structure *structure)
{
    width_free(&structure->width);
    trim_free(structure->trim);
    *structure = (struct structure){0};
}

/* ---- all of it ---- */

static void note_layers(const struct structure *structure, const struct report *report)
{
    char list[512];
    size_t used = 0;

    for (uint32_t i = 0; i < structure->depth.layers && used < sizeof list; i++) {
        if (structure->depth.gone[i])
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%" PRIu32, used ? ", " : "", i);
    }
    if (used) report_note(report, "layers that go: %s", list);
}

static void note_widths(const struct structure *structure, const struct report *report)
{
    for (uint32_t i = 0; i < structure->width.count; i++) {
        const struct width_layer *left = &structure->width.layers[i];
        report_detail(report, "layer %" PRIu32 ": %" PRIu32 " groups of heads and %" PRIu32 " channels stay",
            i, left->group_count, left->channel_count);
    }
}

static uint64_t count_weights(const struct checkpoint *input)
{
    uint64_t weights = 0;

    for (uint64_t i = 0; i < container_count(input->container); i++) {
        const struct tensor *tensor = container_tensor(input->container, i);
        if (!checkpoint_is_dropped(input, tensor)) weights += tensor->elements;
    }
    return weights;
}

enum status structure_run(struct prune_job *job, struct error *err)
{
    const struct destination destination = destination_of(job->options);
    struct structure structure = {.depth = {.layers = job->input->config.layers}};
    enum status status = destination_check(&destination, err);

    job->result->weights_in = count_weights(job->input);
    job->result->layers_in = job->input->config.layers;
    if (!status) status = destination_refuse_input(job->input->container, job->options->output, err);
    if (!status && job->options->drop_layers)
        status = depth_parse(&structure.depth, job->options->drop_layers, job->input->config.layers, err);
    if (!status && job->options->trim_vocabulary)
        status = trim_choose(&structure.trim, job->input, job->options->trim_vocabulary, job->report, err);
    if (!status) status = choose(&structure, job, err);
    if (!status) {
        note_layers(&structure, job->report);
        note_widths(&structure, job->report);
        status = structure_apply(job->input, &structure, destination_is_own(&destination), err);
    }
    if (!status) status = structure_write(job, err);
    structure_free(&structure);
    return status;
}
