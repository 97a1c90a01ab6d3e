#include "prune/prune.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "prune/structure.h"
#include "prune/weights.h"

struct destination prune_destination(const struct prune_options *options)
{
    return (struct destination){.path = options->output,
        .format = options->format,
        .force = options->force,
        .split_bytes = options->split_size,
        .file_type = GGUF_TYPES_FILE_ANY};
}

static enum status run_kind(struct prune_job *job, struct error *err)
{
    const struct prune_method *method = job->settings->method;
    if (method && method->kind == PRUNE_WEIGHTS) return weights_run(job, err);
    return structure_run(job, err);
}

static enum status run_job(
    struct prune_result *result, const struct prune_options *options, struct error *err)
{
    struct report report = {options->common.quiet, options->common.verbose};
    struct prune_job job = {.result = result,
        .options = options,
        .settings = &result->settings,
        .input = &result->input,
        .report = &report};
    checkpoint_note_dropped(&result->input, &report);
    enum status status = pool_create(&job.pool, (unsigned)options->common.threads, err);
    if (status != OK) return status;
    result->threads = pool_workers(job.pool);
    status = run_kind(&job, err);
    pool_free(job.pool);
    return status;
}

static bool same_place(const char *a, const char *b)
{
    return a && b && (strcmp(a, b) == 0 || file_same(a, b));
}

/* What is read, and the output, must not be written over by what is written beside. */
static enum status refuse_places(const struct prune_options *options, struct error *err)
{
    const char *text = options->calibration.path, *report = options->report;
    if (same_place(options->output, text))
        return fail(err, ERR_USAGE, "%s: is the calibration text; name another file", text);
    if (same_place(report, text) || same_place(report, options->output))
        return fail(err, ERR_USAGE, "--report %s: is the %s; name another file", report,
            same_place(report, text) ? "calibration text" : "output");
    enum status status = checkpoint_refuse_output(options->input, options->output, err);
    return status == OK && report ? checkpoint_refuse_beside(options->input, report, err) : status;
}

enum status prune_run(struct prune_result *out, const struct prune_options *options, struct error *err)
{
    double start = report_seconds();
    *out = (struct prune_result){0};
    enum status status = prune_settings_resolve(&out->settings, options, err);
    if (status == OK) status = refuse_places(options, err);
    if (status == OK) status = checkpoint_open(&out->input, options->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    status = run_job(out, options, err);
    out->seconds = report_seconds() - start;
    return status;
}

void prune_release(struct prune_result *result)
{
    memory_free(result->tensors);
    memory_free(result->layers);
    prune_settings_free(&result->settings);
    checkpoint_close(&result->input);
    *result = (struct prune_result){0};
}
