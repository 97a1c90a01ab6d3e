/* From a container to a quantized file: open and account for every tensor, plan, let the method write, attach
 * what belongs to the file, commit. */
#include "quantize/quantize.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/nbl_layout.h"
#include "formats/provenance.h"
#include "quantize/budget.h"
#include "quantize/pairs.h"
#include "quantize/rescale.h"
#include "quantize/rtn.h"

/* ---- the output ---- */

static enum status attach(struct quantize_job *job, struct error *err)
{
    struct pairs pairs = {0};
    enum status status =
        pairs_create(&pairs, job->options, job->settings, &job->calibration, job->input->config.tied, err);
    if (status == OK)
        status = provenance_attach(job->writer, job->input->container, settings_command.name,
            (const char *const(*)[2])pairs.list, pairs.count, job->source_crcs, err);
    pairs_free(&pairs);
    return status;
}

static enum status write_output(struct quantize_job *job, struct error *err)
{
    const struct quantize_options *options = job->options;
    enum status status = nbl_writer_create(&job->writer, options->output, options->force, err);
    if (status == OK) status = job->settings->calibrated ? calibrated_run(job, err) : rtn_run(job, err);
    if (status == OK) status = checkpoint_write_aliases(job->input, job->writer, err);
    if (status == OK) status = attach(job, err);
    if (status != OK) {
        nbl_writer_abandon(job->writer);
        return status;
    }
    return nbl_writer_commit(job->writer, err);
}

/* What the file will take beside its tensors: documents, and the page of header and table in front. The rest (provenance, padding)
 * is some kilobytes. */
static enum status predict_rest(uint64_t *out, const struct quantize_result *result, struct error *err)
{
    *out = NBL_DATA_ALIGNMENT;
    for (size_t i = 0; provenance_carried[i]; i++) {
        char *text = NULL;
        uint64_t bytes = 0;
        enum status status =
            container_document(result->input.container, provenance_carried[i], &text, &bytes, err);
        if (status != OK) return status;
        if (text) *out += bytes;
        memory_free(text);
    }
    return OK;
}

/* ---- what must not be written over ---- */

/* Two paths of one file, also of one that is not there yet. */
static bool same_place(const char *a, const char *b)
{
    return a && b && (strcmp(a, b) == 0 || file_same(a, b));
}

static enum status refuse_place(
    const struct quantize_options *options, const char *option, const char *path, struct error *err)
{
    if (!path) return OK;
    if (same_place(path, options->calibration))
        return fail(err, ERR_USAGE, "%s%s: is the calibration text; name another file", option, path);
    if (same_place(path, options->allocation))
        return fail(err, ERR_USAGE, "%s%s: is the allocation to read; name another file", option, path);
    if (path != options->output && same_place(path, options->output))
        return fail(err, ERR_USAGE, "%s%s: is the output; name another file", option, path);
    return checkpoint_refuse_output(options->input, path, err);
}

/* What is read, and the output, must not be written over by what is written beside. */
static enum status refuse_places(const struct quantize_options *options, struct error *err)
{
    enum status status = refuse_place(options, "", options->output, err);
    if (status == OK) status = refuse_place(options, "--report ", options->report, err);
    if (status == OK) status = refuse_place(options, "--save-allocation ", options->save_allocation, err);
    if (status == OK && same_place(options->report, options->save_allocation))
        return fail(err, ERR_USAGE, "--report %s: is also --save-allocation", options->report);
    return status;
}

/* ---- all of it ---- */

/* A journal outlives everything but a complete output. Either way there is nothing more to say of it when a signal comes. */
static enum status finish_journal(struct quantize_job *job, enum status status, struct error *err)
{
    file_signal_note(NULL);
    if (status == OK && job->journal) return journal_remove(job->journal, err);
    journal_close(job->journal);
    return status;
}

static enum status run_job(struct quantize_result *result, struct quantize_job *job, struct error *err)
{
    const struct quantize_options *options = job->options;
    enum status status = ERR_MEMORY;
    job->source_crcs = memory_new(container_count(result->input.container), sizeof *job->source_crcs, err);
    if (!job->source_crcs) goto done;
    status = pool_create(&job->pool, (unsigned)options->common.threads, err);
    if (status != OK) goto done;
    result->threads = pool_workers(job->pool);
    if (options->dry_run) {
        if (job->settings->calibrated) status = calibrated_dry_run(job, err);
        result->bytes_out = result->plan.bytes + job->fixed_bytes;
    } else {
        status = finish_journal(job, write_output(job, err), err);
        if (status == OK) result->bytes_out = file_size(options->output);
    }
done:
    result->calibrated = job->calibrated;
    pool_free(job->pool);
    memory_free(job->source_crcs);
    return status;
}

enum status quantize_run(
    struct quantize_result *out, const struct quantize_options *options, struct error *err)
{
    struct report report = {options->common.quiet, options->common.verbose};
    struct quantize_job job = {.input = &out->input,
        .plan = &out->plan,
        .options = options,
        .settings = &out->settings,
        .report = &report};
    double start = report_seconds();
    *out = (struct quantize_result){0};
    enum status status = refuse_places(options, err);
    if (status == OK) status = settings_resolve(&out->settings, options, err);
    if (status == OK) status = checkpoint_open(&out->input, options->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    checkpoint_note_dropped(&out->input, &report);
    status = plan_create(&out->plan, &out->input, &out->settings, &report, err);
    if (status == OK && options->allocation) status = budget_apply(&out->plan, options->allocation, err);
    if (status == OK && out->settings.method.rescale) rescale_plan(&out->plan, out->input.config.layers);
    if (status == OK) status = predict_rest(&job.fixed_bytes, out, err);
    if (status == OK) status = run_job(out, &job, err);
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
