/* See structure_write.h. */
#include "prune/structure_write.h"

#include <string.h>

#include "base/memory.h"
#include "formats/provenance.h"
#include "formats/transfer.h"

enum { RECORDED_LIMIT = 20 };

/* The options that decide the bytes, for the provenance. */
static uint64_t record(const char *out[RECORDED_LIMIT][2], const struct prune_job *job)
{
    const struct prune_options *options = job->options;
    const struct prune_method *method = job->settings->method;
    const char *const all[][2] = {
        {"method", method ? method->name : NULL},
        {"sparsity", method ? (options->sparsity ? options->sparsity : "50%") : NULL},
        {"parts", options->parts},
        {"widths", options->widths},
        {"no-bias", options->no_bias ? "true" : NULL},
        {"drop-layers", options->drop_layers},
        {"trim-vocabulary", options->trim_vocabulary ? "true" : NULL},
    };
    uint64_t count = 0;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i][1]) memcpy(out[count++], all[i], sizeof *out);
    }
    return count;
}

static struct destination destination_of(const struct prune_options *options)
{
    return (struct destination){.path = options->output,
        .format = options->format,
        .force = options->force,
        .split_bytes = options->split_size,
        .file_type = GGUF_TYPES_FILE_ANY};
}

/* One item per tensor that is not dropped. */
static enum status plan_items(struct transfer_item *items, uint64_t *count, uint64_t *bytes,
    const struct prune_job *job, struct error *err)
{
    const struct destination destination = destination_of(job->options);
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

static enum status fill_output(struct writer *writer, struct destination_parts *parts, struct prune_job *job,
    const struct transfer_item *items, uint64_t count, uint32_t *crcs, struct error *err)
{
    struct container *container = job->input->container;
    const char *tool = prune_settings_command.name;
    const char *recorded[RECORDED_LIMIT][2];
    const uint64_t options = record(recorded, job);
    const char *const(*pairs)[2] = (const char *const(*)[2])recorded;
    enum status status = provenance_reserve(writer, container, tool, pairs, options, err);

    if (!status)
        status = transfer_run(container, writer, items, count, crcs, job->pool, job->report, "writing", err);
    if (!status) status = checkpoint_write_aliases(job->input, writer, err);
    if (!status) status = provenance_attach(writer, container, tool, pairs, options, crcs, err);
    return status ? status : destination_parts_note(parts, writer, container, err);
}

static enum status write_items(struct prune_job *job, const struct transfer_item *items, uint64_t count,
    uint32_t *crcs, struct error *err)
{
    const struct destination destination = destination_of(job->options);
    struct destination_parts parts = {0};
    struct writer *writer = NULL;
    enum status status = destination_create(&writer, &destination, job->input, job->report, err);

    if (!status) status = fill_output(writer, &parts, job, items, count, crcs, err);
    if (status)
        writer_abandon(writer);
    else
        status = writer_commit(writer, err);
    if (!status) job->result->bytes_out = destination_parts_bytes(&parts, job->options->output);
    destination_parts_free(&parts);
    return status;
}

static void tell(struct prune_result *result, const struct transfer_item *items, uint64_t count)
{
    result->weights_out = 0;
    for (uint64_t i = 0; i < count; i++)
        result->weights_out += items[i].target.elements;
    result->layers_out = result->input.config.layers;
}

enum status structure_bytes(uint64_t *out, struct prune_job *job, struct error *err)
{
    struct transfer_item *items = memory_new(container_count(job->input->container), sizeof *items, err);
    uint64_t count;
    enum status status = items ? plan_items(items, &count, out, job, err) : ERR_MEMORY;

    memory_free(items);
    return status;
}

enum status structure_write(struct prune_job *job, struct error *err)
{
    const uint64_t most = container_count(job->input->container);
    struct transfer_item *items = memory_new(most, sizeof *items, err);
    uint32_t *crcs = memory_new(most, sizeof *crcs, err);
    uint64_t count;
    enum status status = items && crcs ? OK : ERR_MEMORY;

    if (!status) status = plan_items(items, &count, &job->result->bytes_out, job, err);
    if (!status) tell(job->result, items, count);
    if (!status && !job->options->dry_run) status = write_items(job, items, count, crcs, err);
    memory_free(items);
    memory_free(crcs);
    return status;
}
