/* See structure_write.h. */
#include "prune/structure_write.h"

#include <inttypes.h>

#include "base/memory.h"
#include "base/option_pairs.h"
#include "model/destination_write.h"

enum { PAIRS = 12 };

static void add_method(
    struct option_pairs *pairs, const struct prune_job *job, const struct structure *structure)
{
    const struct prune_method *method = job->settings->method;

    option_pairs_add(pairs, "method", method->name);
    option_pairs_add_number(pairs, "sparsity", structure->sparsity);
    if (method->kind == PRUNE_WIDTH) {
        option_pairs_add(pairs, "parts", job->options->parts ? job->options->parts : "both");
        option_pairs_add(pairs, "widths", structure_is_uniform(job) ? "uniform" : "layer");
        option_pairs_add(pairs, "biases", structure->biases ? "yes" : "no");
    }
    const struct calibration calibration = {.file_crc32 = structure->file_crc32,
        .samples = structure->samples,
        .length = structure->length,
        .tokens_crc32 = structure->tokens_crc32};
    calibration_request_pairs(pairs, &calibration);
}

static enum status record(struct option_pairs *out, const struct prune_job *job,
    const struct structure *structure, struct error *err)
{
    enum status status = option_pairs_create(out, PAIRS, err);
    if (status) return status;
    if (job->settings->method) add_method(out, job, structure);
    option_pairs_add(out, "drop-layers", job->options->drop_layers);
    if (structure->trim) option_pairs_add_text(out, "vocabulary", "%" PRIu32, job->input->config.vocabulary);
    return OK;
}

/* One item per tensor that is not dropped. */
static enum status plan_items(struct transfer_item *items, uint64_t *count, uint64_t *bytes,
    const struct prune_job *job, struct error *err)
{
    const struct destination destination = prune_destination(job->options);
    enum status status = OK;

    *count = *bytes = 0;
    for (uint64_t i = 0; i < container_count(job->input->container) && !status; i++) {
        const struct tensor *source = container_tensor(job->input->container, i);
        if (checkpoint_is_dropped(job->input, source)) continue;
        struct transfer_item *item = &items[(*count)++];
        *item = (struct transfer_item){.source = source, .target = *source};
        status = destination_target(&destination, &job->input->config, &item->target, err);
        *bytes += transfer_target_bytes(&item->target);
    }
    return status;
}

static enum status write_items(struct prune_job *job, const struct structure *structure,
    const struct transfer_item *items, uint64_t count, struct error *err)
{
    const struct destination destination = prune_destination(job->options);
    struct destination_parts parts = {0};
    struct option_pairs pairs;

    enum status status = record(&pairs, job, structure, err);
    const struct destination_model model = {.input = job->input,
        .items = items,
        .count = count,
        .tool = prune_settings_command.name,
        .options = (const char *const(*)[2])pairs.list,
        .option_count = pairs.count,
        .label = "writing"};
    if (!status) status = destination_write(&parts, &destination, &model, job->pool, job->report, err);
    if (!status) job->result->bytes_out = destination_parts_bytes(&parts, destination.path);
    destination_parts_free(&parts);
    option_pairs_free(&pairs);
    return status;
}

static void tell(struct prune_result *result, const struct transfer_item *items, uint64_t count)
{
    result->weights_out = 0;
    for (uint64_t i = 0; i < count; i++)
        result->weights_out += items[i].target.elements;
    result->layers_out = result->input.config.layers;
    result->vocabulary_out = result->input.config.vocabulary;
}

enum status structure_bytes(uint64_t *out, struct prune_job *job, struct error *err)
{
    struct transfer_item *items = memory_new(container_count(job->input->container), sizeof *items, err);
    uint64_t count;
    enum status status = items ? plan_items(items, &count, out, job, err) : ERR_MEMORY;

    memory_free(items);
    return status;
}

enum status structure_write(struct prune_job *job, const struct structure *structure, struct error *err)
{
    struct transfer_item *items = memory_new(container_count(job->input->container), sizeof *items, err);
    uint64_t count;
    enum status status = items ? plan_items(items, &count, &job->result->bytes_out, job, err) : ERR_MEMORY;

    if (!status) tell(job->result, items, count);
    if (!status && !job->options->dry_run) status = write_items(job, structure, items, count, err);
    memory_free(items);
    return status;
}
