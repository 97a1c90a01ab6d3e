/* From a container to a quantized file: open and account for every tensor, plan, let the method write, attach
 * what belongs to the file, commit. */
#include "quantize/quantize.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/nbl_bound.h"
#include "formats/provenance.h"
#include "model/destination.h"
#include "quantize/budget.h"
#include "quantize/pairs.h"
#include "quantize/rescale.h"
#include "quantize/rtn.h"

/* ---- the output ---- */

static struct destination destination_of(
    const struct quantize_options *options, const struct settings *settings)
{
    return (struct destination){.path = options->output,
        .format = options->format,
        .force = options->force,
        .split_bytes = options->split_size,
        .file_type = settings->mix ? settings->mix->file_type : GGUF_TYPES_FILE_ANY};
}

static enum status make_pairs(struct pairs *out, const struct quantize_job *job, struct error *err)
{
    enum status status =
        pairs_create(out, job->options, job->settings, &job->calibration, job->input->config.tied, err);
    if (status == OK && job->options->imatrix) pairs_add_imatrix(out, job->imatrix->crc32);
    return status == OK ? pairs_add_uncalibrated(out, job->plan, err) : status;
}

enum status quantize_reserve(struct quantize_job *job, struct error *err)
{
    struct pairs pairs = {0};
    enum status status = make_pairs(&pairs, job, err);
    if (status == OK)
        status = provenance_reserve(job->writer, job->input->container, settings_command.name,
            (const char *const(*)[2])pairs.all.list, pairs.all.count, err);
    pairs_free(&pairs);
    return status;
}

static enum status attach(struct quantize_job *job, struct error *err)
{
    struct pairs pairs = {0};
    enum status status = make_pairs(&pairs, job, err);
    if (status == OK)
        status = provenance_attach(job->writer, job->input->container, settings_command.name,
            (const char *const(*)[2])pairs.all.list, pairs.all.count, job->source_crcs, err);
    pairs_free(&pairs);
    return status;
}

static enum status write_output(struct quantize_job *job, struct error *err)
{
    const struct destination destination = destination_of(job->options, job->settings);
    enum status status = destination_create(&job->writer, &destination, job->input, job->report, err);
    if (status == OK) status = job->settings->calibrated ? calibrated_run(job, err) : rtn_run(job, err);
    if (status == OK) status = checkpoint_write_aliases(job->input, job->writer, err);
    if (status == OK) status = attach(job, err);
    if (status == OK) status = destination_parts_note(&job->parts, job->writer, job->input->container, err);
    if (status != OK) {
        writer_abandon(job->writer);
        return status;
    }
    return writer_commit(job->writer, err);
}

/* The parts of one fused matrix of a layer must have one type. */
static enum status check_fused(const struct quantize_result *result, uint32_t layer,
    const struct fused_rows *fused, const char *output, struct error *err)
{
    const struct plan_tensor *first = result->plan.layer[layer][fused->parts[0]];
    for (unsigned i = 1; first && i < fused->count; i++) {
        const struct tensor *one = &first->target,
                            *other = &result->plan.layer[layer][fused->parts[i]]->target;
        if (other->storage == one->storage && other->block == one->block && other->dtype == one->dtype &&
            other->scheme.bits == one->scheme.bits && other->scheme.group == one->scheme.group &&
            other->scheme.asymmetric == one->scheme.asymmetric)
            continue;
        return fail(err, ERR_USAGE,
            "%s: tensor %s would have another type than %s: in files of this architecture they are one "
            "matrix, of one type; give them the same with --override, or write a .nbl file",
            output, other->name, one->name);
    }
    return OK;
}

/* Before hours of work, not after them. */
static enum status check_all_fused(const struct quantize_result *result,
    const struct quantize_options *options, enum fused_in where, struct error *err)
{
    const struct model_config *config = &result->input.config;
    bool any = where == FUSED_IN_GGUF && config->experts;
    enum status status = OK;
    for (unsigned i = 0; i < config->architecture->fused_count; i++) {
        const struct fused_rows *fused = &config->architecture->fused[i];
        if (!layers_is_fused(fused, where) || fused->count == 1) continue;
        any = true;
        for (uint32_t layer = 0; layer < config->layers && status == OK; layer++)
            status = check_fused(result, layer, fused, options->output, err);
    }
    if (any && (options->target_bits != 0 || options->target_size))
        return fail(err, ERR_USAGE,
            "%s: in files of this architecture several matrices are one, of one type (q, k and v; gate and "
            "up; those of all experts), which --target-bits and --target-size do not heed; write a .nbl "
            "file, or choose with --type",
            options->output);
    return status;
}

/* What the output's format makes of the plan: kept tensors change as it wants them; codes need a format that holds them. */
static enum status fit_destination(
    struct quantize_result *result, const struct quantize_options *options, struct error *err)
{
    const struct destination destination = destination_of(options, &result->settings);
    enum status status = destination_check(&destination, err);
    for (uint64_t i = 0; status == OK && i < result->plan.count; i++) {
        struct plan_tensor *planned = &result->plan.tensors[i];
        struct tensor target = planned->target;
        status = destination_target(&destination, &result->input.config, &target, err);
        if (!planned->recipe.keep && planned->target.storage == STORAGE_TILES &&
            (status != OK || target.storage != STORAGE_TILES))
            return fail(err, ERR_USAGE,
                "%s: GGUF holds block types: say which with --type (q4_k_m, q4_0 ...), or write a .nbl file",
                options->output);
        if (status == OK) plan_set_target(&result->plan, planned, &target);
    }
    if (status == OK) status = check_all_fused(result, options, destination_fuses(&destination), err);
    return status;
}

/* A writer that is told of every tensor, and of which nothing will appear. Owner of *out, also after an error: the caller,
 * writer_abandon. */
static enum status rehearse(struct writer **out, const struct quantize_result *result,
    const struct quantize_options *options, struct error *err)
{
    const struct report silent = {.quiet = true};
    struct destination destination = destination_of(options, &result->settings);
    uint64_t index;
    *out = NULL;
    destination.force = true;
    enum status status = destination_create(out, &destination, &result->input, &silent, err);
    for (uint64_t i = 0; status == OK && i < result->plan.count; i++) {
        const struct plan_tensor *planned = &result->plan.tensors[i];
        status = writer_add(*out, &planned->target, &index, err);
        if (status == OK && !planned->recipe.keep && result->settings.calibrated)
            status = destination_certain(&destination, &planned->target, err);
    }
    return status;
}

/* Ask the format of the output before days of work whether it takes these tensors and this model. */
static enum status try_destination(
    const struct quantize_result *result, const struct quantize_options *options, struct error *err)
{
    struct writer *writer;
    if (!result->settings.calibrated && !options->dry_run) return OK; /* the real one comes at once */
    enum status status = rehearse(&writer, result, options, err);
    writer_abandon(writer);
    return status;
}

/* ---- what inputs are like ---- */

static enum status refuse_missing(struct error *err)
{
    return fail(err, ERR_FORMAT, "the importance matrix has no entry for it; make one of this very model");
}

/* An expert that its text never used is searched without, and reported. */
static enum status weigh_expert(struct plan_tensor *planned, const struct imatrix *imatrix,
    const struct model_config *config, struct error *err)
{
    const struct imatrix_expert wanted = {.role = planned->role,
        .layer = planned->layer,
        .expert = planned->expert,
        .experts = config->experts,
        .cols = planned->target.shape[1]};
    bool unseen;
    enum status status = imatrix_find_expert(&planned->column_weights, &unseen, imatrix, &wanted, err);
    planned->outcome.uncalibrated = unseen;
    if (unseen) planned->recipe.range = RANGE_MSE;
    return status != OK || planned->column_weights || unseen ? status : refuse_missing(err);
}

/* The importance matrix's columns for one matrix. What it does not have is searched without. */
static enum status weigh(struct plan_tensor *planned, const struct imatrix *imatrix,
    const struct model_config *config, struct error *err)
{
    enum role role = planned->role;
    const struct fused_rows *fused = layers_fused(config->architecture, role, FUSED_IN_GGUF);
    uint64_t cols = planned->target.shape[1];
    if (layers_role_is_expert(role)) return weigh_expert(planned, imatrix, config, err);
    enum status status = imatrix_find(&planned->column_weights, imatrix, role, planned->layer, cols, err);
    /* Parts of one matrix have the same inputs, and one entry. */
    for (unsigned i = 0; fused && i < fused->count && status == OK && !planned->column_weights; i++)
        status = imatrix_find(&planned->column_weights, imatrix, fused->parts[i], planned->layer, cols, err);
    if (status == OK && !planned->column_weights && role == ROLE_EMBEDDING && config->tied)
        status = imatrix_find(&planned->column_weights, imatrix, ROLE_HEAD, 0, cols, err);
    if (status != OK || planned->column_weights) return status;
    if (!layers_role_is_linear(role)) {
        planned->recipe.range = RANGE_MSE;
        return OK;
    }
    return refuse_missing(err);
}

static enum status read_imatrix(
    struct quantize_result *result, const struct quantize_options *options, struct error *err)
{
    enum status status = options->imatrix ? imatrix_read(&result->imatrix, options->imatrix, err) : OK;
    for (uint64_t i = 0; status == OK && options->imatrix && i < result->plan.count; i++) {
        struct plan_tensor *planned = &result->plan.tensors[i];
        if (planned->recipe.keep || planned->recipe.range != RANGE_HESSIAN) continue;
        status = weigh(planned, &result->imatrix, &result->input.config, err);
        if (status != OK) fail_within(err, status, "%s: tensor %s", options->imatrix, planned->target.name);
    }
    return status;
}

/* ---- how large it will be ---- */

/* What the file will take beside its tensors: a bound. */
static enum status predict_rest(uint64_t *out, const struct quantize_result *result,
    const struct quantize_options *options, struct error *err)
{
    const struct calibration none = {0};
    const struct plan *plan = &result->plan;
    struct pairs pairs = {0};
    uint64_t names = 0;
    for (uint64_t i = 0; i < plan->count; i++)
        names += strlen(plan->tensors[i].target.name);
    enum status status =
        pairs_create(&pairs, options, &result->settings, &none, result->input.config.tied, err);
    if (status == OK)
        status = nbl_bound(out, result->input.container, plan->count, names,
            (const char *const(*)[2])pairs.all.list, pairs.all.count, err);
    pairs_free(&pairs);
    return status;
}

/* What a dry run says: what the format lays out, or else the bound. */
static enum status predict_output(struct quantize_result *result, struct quantize_job *job, struct error *err)
{
    bool known = false;
    enum status status = rehearse(&job->writer, result, job->options, err);
    if (status == OK) status = quantize_reserve(job, err);
    if (status == OK) status = writer_bytes(job->writer, &result->bytes_out, &known, err);
    result->bounded = !known;
    if (!known) result->bytes_out = result->plan.bytes + job->fixed_bytes;
    writer_abandon(job->writer);
    job->writer = NULL;
    return status;
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
    if (same_place(path, options->calibration.path))
        return fail(err, ERR_USAGE, "%s%s: is the calibration text; name another file", option, path);
    if (same_place(path, options->allocation))
        return fail(err, ERR_USAGE, "%s%s: is the allocation to read; name another file", option, path);
    if (same_place(path, options->imatrix))
        return fail(
            err, ERR_USAGE, "%s%s: is the importance matrix to read; name another file", option, path);
    if (path != options->output && same_place(path, options->output))
        return fail(err, ERR_USAGE, "%s%s: is the output; name another file", option, path);
    return path == options->output ? checkpoint_refuse_output(options->input, path, err)
                                   : checkpoint_refuse_beside(options->input, path, err);
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

/* ---- what the model decides ---- */

/* A budget measures every matrix alone through the rest of the network: with experts those are thousands. */
static enum status suit_mixture(const struct settings *settings, const struct quantize_options *options,
    const struct architecture *architecture, const struct report *report, struct error *err)
{
    const char *target = options->target_bits > 0 ? "--target-bits" : "--target-size";
    if (options->target_bits > 0 || options->target_size)
        return fail(err, ERR_UNSUPPORTED,
            "%s: %s has a mixture of experts, for whose matrices bits are not chosen yet: give them with "
            "--bits, --type, --override or --allocation",
            target, architecture->name);
    if (settings->calibrated && settings->method.correction == CORRECTION_RESIDUAL)
        report_note(report,
            "%s weighs what experts give before it is added: their down matrices are corrected to their "
            "inputs alone",
            architecture->name);
    return OK;
}

/* Where a norm lies between a matrix and the residual stream, the matrix cannot make up for what is missing in the stream: the
 * difference of the streams is no target of its rows. */
static enum status suit_model(struct settings *settings, const struct quantize_options *options,
    const struct architecture *architecture, const struct report *report, struct error *err)
{
    if (architecture->experts_key) return suit_mixture(settings, options, architecture, report, err);
    if (!architecture->post_norm || settings->method.correction != CORRECTION_RESIDUAL) return OK;
    if (options->correction)
        return fail(err, ERR_UNSUPPORTED,
            "--correction residual: %s norms what o and down give before it is added; use inputs or none",
            architecture->name);
    if (settings->calibrated)
        report_note(report, "%s norms what o and down give before it is added: --correction inputs",
            architecture->name);
    settings->method.correction = CORRECTION_INPUTS;
    return OK;
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
        if (status == OK) status = predict_output(result, job, err);
    } else {
        status = finish_journal(job, write_output(job, err), err);
        if (status == OK) result->bytes_out = destination_parts_bytes(&job->parts, options->output);
    }
done:
    result->calibrated = job->calibrated;
    destination_parts_free(&job->parts);
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
        .imatrix = &out->imatrix,
        .report = &report};
    double start = report_seconds();
    *out = (struct quantize_result){0};
    enum status status = refuse_places(options, err);
    if (status == OK) status = settings_resolve(&out->settings, options, err);
    if (status == OK) status = checkpoint_open(&out->input, options->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    checkpoint_note_dropped(&out->input, &report);
    status = suit_model(&out->settings, options, out->input.config.architecture, &report, err);
    if (status == OK) status = plan_create(&out->plan, &out->input, &out->settings, &report, err);
    if (status == OK && options->allocation)
        status = budget_apply(&out->plan, &out->settings, options->allocation, err);
    if (status == OK && out->settings.method.rescale) rescale_plan(&out->plan, out->input.config.layers);
    if (status == OK) status = read_imatrix(out, options, err);
    if (status == OK) status = fit_destination(out, options, err);
    if (status == OK) status = try_destination(out, options, err);
    if (status == OK) status = predict_rest(&job.fixed_bytes, out, options, err);
    if (status == OK) status = run_job(out, &job, err);
    out->seconds = report_seconds() - start;
    return status;
}

void quantize_release(struct quantize_result *result)
{
    plan_free(&result->plan);
    imatrix_free(&result->imatrix);
    settings_free(&result->settings);
    checkpoint_close(&result->input);
    *result = (struct quantize_result){0};
}
