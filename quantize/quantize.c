/* From a container to a quantized file: open and account for every tensor, plan, let the method write, attach
 * what belongs to the file, commit. */
#include "quantize/quantize.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/nbl_layout.h"
#include "formats/provenance.h"

/* ---- methods ---- */

static quantize_method find_method(const char *name)
{
#define METHOD_ROW(name, help) {#name, name##_run},
    static const struct {
        const char *name;
        quantize_method run;
    } methods[] = {METHOD_LIST(METHOD_ROW)};
#undef METHOD_ROW
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(methods[i].name, name) == 0) return methods[i].run;
    }
    return NULL;
}

/* ---- the output ---- */

/* The options that decide the bytes, for the provenance: never threads, paths or times. */
struct recorded {
    const char *(*pairs)[2];
    uint64_t count;
    char (*names)[32]; /* of the numbered ones */
};

static void record(struct recorded *recorded, const char *name, const char *value)
{
    recorded->pairs[recorded->count][0] = name;
    recorded->pairs[recorded->count++][1] = value;
}

static void record_list(struct recorded *recorded, const char *name, const struct option_list *list)
{
    for (uint64_t i = 0; i < list->count; i++) {
        char *numbered = recorded->names[recorded->count];
        snprintf(numbered, sizeof recorded->names[0], "%s %" PRIu64, name, i + 1);
        record(recorded, numbered, list->values[i]);
    }
}

static enum status attach(struct quantize_job *job, const struct quantize_options *options,
    const struct settings *settings, struct error *err)
{
    char group[16] = "row";
    if (settings->linear.group) snprintf(group, sizeof group, "%" PRIu32, settings->linear.group);
    uint64_t capacity = 16 + options->keep.count + options->override.count;
    struct recorded recorded = {.pairs = memory_new(capacity, sizeof *recorded.pairs, err),
        .names = memory_new(capacity, sizeof *recorded.names, err)};
    enum status status = ERR_MEMORY;
    if (!recorded.pairs || !recorded.names) goto done;
    record(&recorded, "method", options->method);
    record(&recorded, "bits", options->bits);
    record(&recorded, "group", group);
    record(&recorded, "symmetry", options->asymmetric ? "asymmetric" : "symmetric");
    record(&recorded, "range", options->range);
    record(&recorded, "embedding", options->embedding);
    if (!job->input->config.tied) record(&recorded, "head", options->head ? options->head : "keep");
    record(&recorded, "type", options->type);
    record(&recorded, "indivisible", options->indivisible);
    record_list(&recorded, "override", &options->override);
    record_list(&recorded, "keep", &options->keep);
    status = provenance_attach(job->writer, job->input->container, settings_command.name,
        (const char *const(*)[2])recorded.pairs, recorded.count, job->source_crcs, err);
done:
    memory_free(recorded.pairs);
    memory_free(recorded.names);
    return status;
}

static enum status write_output(struct quantize_job *job, const struct quantize_options *options,
    const struct settings *settings, struct error *err)
{
    enum status status = nbl_writer_create(&job->writer, options->output, options->force, err);
    if (status == OK) status = find_method(options->method)(job, err);
    if (status == OK) status = checkpoint_write_aliases(job->input, job->writer, err);
    if (status == OK) status = attach(job, options, settings, err);
    if (status != OK) {
        nbl_writer_abandon(job->writer);
        return status;
    }
    return nbl_writer_commit(job->writer, err);
}

/* What the file will take: tensors, documents, and the page of header and table in front. The rest
 * (provenance, padding) is some kilobytes. */
static enum status predict_size(struct quantize_result *result, struct error *err)
{
    result->bytes_out = result->plan.bytes + NBL_DATA_ALIGNMENT;
    for (size_t i = 0; provenance_carried[i]; i++) {
        char *text = NULL;
        uint64_t bytes = 0;
        enum status status =
            container_document(result->input.container, provenance_carried[i], &text, &bytes, err);
        if (status != OK) return status;
        if (text) result->bytes_out += bytes;
        memory_free(text);
    }
    return OK;
}

/* ---- all of it ---- */

static enum status run_job(struct quantize_result *result, const struct quantize_options *options,
    const struct report *report, struct error *err)
{
    struct quantize_job job = {.input = &result->input,
        .plan = &result->plan,
        .report = report,
        .measure_error = options->report_error};
    enum status status = ERR_MEMORY;
    job.source_crcs = memory_new(container_count(result->input.container), sizeof *job.source_crcs, err);
    if (!job.source_crcs) goto done;
    status = pool_create(&job.pool, (unsigned)options->common.threads, err);
    if (status != OK) goto done;
    result->threads = pool_workers(job.pool);
    status = write_output(&job, options, &result->settings, err);
    if (status == OK) result->bytes_out = file_size(options->output);
done:
    pool_free(job.pool);
    memory_free(job.source_crcs);
    return status;
}

enum status quantize_run(
    struct quantize_result *out, const struct quantize_options *options, struct error *err)
{
    struct report report = {options->common.quiet, options->common.verbose};
    double start = report_seconds();
    *out = (struct quantize_result){0};
    enum status status = checkpoint_refuse_output(options->input, options->output, err);
    if (status == OK) status = settings_resolve(&out->settings, options, err);
    if (status == OK) status = checkpoint_open(&out->input, options->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    checkpoint_note_dropped(&out->input, &report);
    status = plan_create(&out->plan, &out->input, &out->settings, &report, err);
    if (status == OK)
        status = options->dry_run ? predict_size(out, err) : run_job(out, options, &report, err);
    out->seconds = report_seconds() - start;
    return status;
}

void quantize_release(struct quantize_result *result)
{
    plan_free(&result->plan);
    settings_free(&result->settings);
    checkpoint_close(&result->input);
    *result = (struct quantize_result){0};
}
