#include "prune/prune.h"

#include "base/memory.h"
#include "prune/structure.h"
#include "prune/weights.h"

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

enum status prune_run(struct prune_result *out, const struct prune_options *options, struct error *err)
{
    double start = report_seconds();
    *out = (struct prune_result){0};
    enum status status = prune_settings_resolve(&out->settings, options, err);
    if (status == OK) status = checkpoint_refuse_output(options->input, options->output, err);
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
    prune_settings_free(&result->settings);
    checkpoint_close(&result->input);
    *result = (struct prune_result){0};
}
