/* See structure.h. */
#include "prune/structure.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/container_select.h"
#include "model/config_rewrite.h"
#include "prune/goal.h"
#include "prune/narrow.h"
#include "prune/sleb.h"
#include "prune/structure_write.h"

/* ---- deciding ---- */

static bool wants(const struct prune_options *options, const char *part)
{
    return !options->parts || strcmp(options->parts, "both") == 0 || strcmp(options->parts, part) == 0;
}

bool structure_is_uniform(const struct prune_job *job)
{
    return !job->options->widths || strcmp(job->options->widths, "uniform") == 0;
}

static struct width_options width_options(const struct prune_job *job)
{
    const struct prune_options *options = job->options;
    return (struct width_options){.score = job->settings->method->score,
        .sparsity = job->settings->sparsity,
        .heads = wants(options, "heads"),
        .ffn = wants(options, "ffn"),
        .uniform = structure_is_uniform(job)};
}

/* What the format cannot say is refused before the text is looked at. *config gets the biases. */
static enum status check_width(struct structure *out, struct model_config *config,
    const struct prune_job *job, const struct width_options *width, struct error *err)
{
    const struct destination destination = prune_destination(job->options);
    const bool own = destination_is_own(&destination);
    enum status status = narrow_refuse(job->input, width->heads, width->ffn, err);

    out->biases = job->settings->method->score == SCORE_FLAP && !job->options->no_bias;
    config->varied &= !width->uniform; /* they become alike */
    if (!status && !own && !width->uniform)
        status = fail(err, ERR_USAGE,
            "--widths layer: only .nbl files can say that layers differ; leave it out, or --format nbl");
    if (!status && !own && width->heads && config->architecture->fixed_head_size)
        status = fail(err, ERR_UNSUPPORTED,
            "readers of %s take heads to be hidden_size / num_attention_heads wide, which no longer holds "
            "with "
            "fewer of them: --parts ffn leaves heads alone, --format nbl can say it",
            config->architecture->name);
    if (!status && out->biases) status = narrow_say_biases(config, own, width->heads, width->ffn, err);
    return status;
}

/* Begin the output of a model of this configuration, and let it go: what its format has no place for shows before any work. */
static enum status try_output(
    const struct prune_job *job, const struct model_config *config, struct error *err)
{
    const struct destination destination = prune_destination(job->options);
    const struct report silent = {.quiet = true};
    struct checkpoint seen = *job->input;
    struct writer *writer = NULL;

    seen.config = *config;
    enum status status = destination_create(&writer, &destination, &seen, &silent, err);
    writer_abandon(writer);
    return status;
}

/* A width by its sparsity. */
struct width_maker {
    struct checkpoint *input;
    const struct channel_table *table;
    struct width_options options;
    const struct structure *decided; /* so far */
};

static enum status make_width(struct structure *out, void *context, double sparsity, struct error *err)
{
    struct width_maker *maker = context;
    enum status status;

    out->depth = maker->decided->depth;
    out->trim = maker->decided->trim;
    out->biases = maker->decided->biases;
    maker->options.sparsity = sparsity;
    status = width_choose(&out->width, maker->table, &maker->input->config, &maker->options, err);
    if (!status && out->biases) status = narrow_means(maker->input, &out->width, maker->table, err);
    return status;
}

enum { WIDTH_STEPS = 200 }; /* sparsities that are told apart when one is looked for */

static enum status choose_width(
    struct structure *out, struct prune_job *job, const struct calibration *calibration, struct error *err)
{
    struct channel_table table = {0};
    struct width_maker maker = {job->input, &table, width_options(job), out};
    struct structure made = {0};
    double sparsity = job->settings->sparsity;
    char *folder = file_parent(job->options->output, err);
    enum status status = folder ? OK : ERR_MEMORY;

    if (!status)
        status = channels_observe(
            &table, job->input, calibration, folder, job->options->memory_limit, job->pool, job->report, err);
    if (!status && goal_given(job->options))
        status = goal_sparsity(&sparsity, job, WIDTH_STEPS, make_width, &maker, err);
    if (!status) status = make_width(&made, &maker, sparsity, err);
    out->width = made.width;
    out->sparsity = sparsity;
    job->result->target_sparsity = goal_given(job->options) ? sparsity : 0;
    channels_free(&table);
    memory_free(folder);
    return status;
}

/* So many layers; for bytes and speed it makes no difference which. */
static enum status make_depth(struct structure *out, void *context, double sparsity, struct error *err)
{
    const struct structure *decided = context;

    (void)err;
    *out = *decided;
    out->depth.dropped = (uint32_t)(sparsity * out->depth.layers + 0.5);
    for (uint32_t layer = 0; layer < out->depth.layers; layer++)
        out->depth.gone[layer] = layer < out->depth.dropped;
    return OK;
}

static enum status check_memory(const struct prune_job *job, struct error *err)
{
    const uint64_t limit = job->options->memory_limit;
    const uint64_t needed = job->result->bytes_in + depth_bytes(&job->input->config);
    char needs[16], most[16];

    if (!limit || needed <= limit) return OK;
    return fail(err, ERR_MEMORY,
        "about %s are needed: layers are judged with the whole model in memory; --memory-limit is %s",
        report_bytes(needs, needed), report_bytes(most, limit));
}

/* Layers are judged by the model in memory, opened once more. */
static enum status choose_depth(
    struct structure *out, struct prune_job *job, const struct calibration *calibration, struct error *err)
{
    const enum prune_score score = job->settings->method->score;
    struct model *model = NULL;
    uint32_t count;
    double sparsity = job->settings->sparsity;
    const uint32_t layers = job->input->config.layers;
    enum status status = check_memory(job, err);

    if (!status && goal_given(job->options) && layers > 1)
        status = goal_sparsity(&sparsity, job, layers, make_depth, out, err);
    job->result->target_sparsity = goal_given(job->options) ? sparsity : 0;
    out->sparsity = sparsity;
    if (!status) status = depth_count(&count, sparsity, layers, err);

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
        struct model_config config = job->input->config;
        status = check_width(out, &config, job, &options, err);
        if (!status && !job->options->dry_run) status = try_output(job, &config, err);
    }
    if (!status)
        status =
            calibration_request_load(&calibration, &job->options->calibration, job->input, job->report, err);
    out->samples = job->result->samples = calibration.samples;
    out->length = calibration.length;
    out->file_crc32 = calibration.file_crc32;
    out->tokens_crc32 = calibration.tokens_crc32;
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

static uint64_t count_weights(const struct checkpoint *input)
{
    uint64_t weights = 0;

    for (uint64_t i = 0; i < container_count(input->container); i++) {
        const struct tensor *tensor = container_tensor(input->container, i);
        if (!checkpoint_is_dropped(input, tensor)) weights += tensor->elements;
    }
    return weights;
}

/* What has been decided, for the report; the input is still the whole model. */
static enum status tell(struct prune_job *job, const struct structure *structure, struct error *err)
{
    struct prune_result *result = job->result;

    result->layers = memory_new(result->layers_in, sizeof *result->layers, err);
    if (!result->layers) return ERR_MEMORY;
    for (uint32_t i = 0; i < result->layers_in; i++) {
        struct prune_layer *layer = &result->layers[i];
        layer->was = config_widths(&job->input->config, i);
        layer->gone = structure->depth.gone[i];
        layer->score = structure->depth.score[i];
        if (layer->gone) continue;
        layer->left = layer->was;
        if (!structure->width.count) continue;
        layer->left.kv_heads = structure->width.layers[i].group_count;
        layer->left.heads = layer->was.heads / layer->was.kv_heads * layer->left.kv_heads;
        layer->left.ffn = structure->width.layers[i].channel_count;
    }
    return OK;
}

enum status structure_run(struct prune_job *job, struct error *err)
{
    const struct destination destination = prune_destination(job->options);
    struct structure structure = {.depth = {.layers = job->input->config.layers}};
    enum status status = destination_check(&destination, err);

    if (!status && goal_given(job->options) && !job->settings->method)
        status =
            fail(err, ERR_USAGE, "--target-size and --target-latency choose how much a --method takes away");
    if (!status && goal_given(job->options) && job->options->sparsity)
        status = fail(
            err, ERR_USAGE, "--sparsity says how much goes; --target-size and --target-latency choose it");
    job->result->weights_in = count_weights(job->input);
    job->result->layers_in = job->input->config.layers;
    job->result->vocabulary_in = job->input->config.vocabulary;
    if (!status) status = destination_refuse_input(job->input->container, job->options->output, err);
    if (!status && job->options->drop_layers)
        status = depth_parse(&structure.depth, job->options->drop_layers, job->input->config.layers, err);
    if (!status && job->options->trim_vocabulary)
        status = trim_choose(&structure.trim, job->input, job->options->trim_vocabulary, err);
    if (!status) status = choose(&structure, job, err);
    if (!status) status = tell(job, &structure, err);
    if (!status) status = structure_apply(job->input, &structure, destination_is_own(&destination), err);
    if (!status) status = structure_write(job, &structure, err);
    structure_free(&structure);
    return status;
}
