/* See goal.h. */
#include "prune/goal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "formats/provenance.h"
#include "model/forward.h"
#include "prune/structure_write.h"

/* Beyond tensors and documents: what a file takes for the description of a tensor and the gap in front of it; for its provenance and, in
 * .nbl, the gap in front of the data. */
enum { TENSOR_BYTES = 384, FILE_BYTES = 16384, NBL_BYTES = 65536 };

enum { PAST_TOKENS = 64, WARM_TOKENS = 4, TIMED_TOKENS = 24 };

/* One sparsity that was tried. */
struct candidate {
    bool whole; /* so little that nothing goes */
    uint64_t bytes;
    double milliseconds; /* per token; 0: not measured */
};

bool goal_given(const struct prune_options *options)
{
    return options->target_size > 0 || options->target_latency > 0;
}

/* ---- bytes ---- */

/* No less than what the output will take. */
static enum status count_bytes(
    uint64_t *out, struct prune_job *job, struct checkpoint *input, bool own, struct error *err)
{
    struct prune_job seen = *job;
    seen.input = input;
    enum status status = structure_bytes(out, &seen, err);

    *out += FILE_BYTES + TENSOR_BYTES * container_count(input->container);
    if (own) *out += NBL_BYTES;
    for (size_t i = 0; provenance_carried[i] && !status; i++) {
        char *text = NULL;
        uint64_t bytes = 0;
        status = container_document(input->container, provenance_carried[i], &text, &bytes, err);
        *out += bytes;
        memory_free(text);
    }
    return status;
}

/* ---- speed ---- */

static int by_size(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

/* The median of single tokens, each with its logits, in milliseconds. */
static enum status time_tokens(double *out, struct model *model, struct session *session, float *hidden,
    float *logits, struct error *err)
{
    uint32_t tokens[PAST_TOKENS] = {0}; /* which ones makes no difference */
    double times[TIMED_TOKENS];
    enum status status = session_step(session, hidden, tokens, PAST_TOKENS, err);

    for (int i = -WARM_TOKENS; i < TIMED_TOKENS && !status; i++) {
        const double start = report_seconds();
        status = session_step(session, hidden, tokens, 1, err);
        if (!status) status = model_logits(model, logits, hidden, 1, err);
        if (i >= 0) times[i] = 1000 * (report_seconds() - start);
    }
    if (status) return status;
    qsort(times, TIMED_TOKENS, sizeof *times, by_size);
    *out = (times[TIMED_TOKENS / 2 - 1] + times[TIMED_TOKENS / 2]) / 2;
    return OK;
}

static enum status measure(double *out, struct checkpoint *input, struct pool *pool, struct error *err)
{
    struct model *model = NULL;
    struct session *session = NULL;
    float *hidden = NULL, *logits = NULL;
    enum status status = model_of_checkpoint(&model, input, pool, err);

    if (!status) status = session_create(&session, model, 1, PAST_TOKENS + WARM_TOKENS + TIMED_TOKENS, err);
    if (!status) {
        hidden = memory_new(PAST_TOKENS, model->config.hidden * sizeof *hidden, err);
        logits = memory_new(model->config.vocabulary, sizeof *logits, err);
        status = hidden && logits ? time_tokens(out, model, session, hidden, logits, err) : ERR_MEMORY;
    }
    memory_free(hidden);
    memory_free(logits);
    session_free(session);
    model_close(model);
    return status;
}

enum status (*goal_measure)(double *, struct checkpoint *, struct pool *, struct error *) = measure;

/* ---- candidates ---- */

static enum status try(
    struct candidate *out, struct prune_job *job, const struct structure *structure, struct error *err)
{
    const struct destination destination = {.path = job->options->output, .format = job->options->format};
    const bool own = destination_is_own(&destination);
    struct checkpoint input;
    enum status status = checkpoint_open(&input, job->options->input, err);

    if (!status) status = structure_apply(&input, structure, own, err);
    if (!status) status = count_bytes(&out->bytes, job, &input, own, err);
    if (!status && job->options->target_latency > 0)
        status = goal_measure(&out->milliseconds, &input, job->pool, err);
    else
        checkpoint_close(&input);
    return status;
}

static bool keeps_to_size(const struct candidate *candidate, const struct prune_options *options)
{
    return !options->target_size || candidate->bytes <= options->target_size;
}

static bool keeps_to(const struct candidate *candidate, const struct prune_options *options)
{
    return keeps_to_size(candidate, options) &&
           (!(options->target_latency > 0) || candidate->milliseconds <= options->target_latency);
}

static void note(const struct candidate *candidate, double sparsity, const struct report *report)
{
    char bytes[16], time[48] = "";

    if (candidate->milliseconds > 0)
        snprintf(time, sizeof time, ", %.3g ms per token", candidate->milliseconds);
    report_note(
        report, "sparsity %.3g%%: at most %s%s", 100 * sparsity, report_bytes(bytes, candidate->bytes), time);
}

/* Whether k / steps keeps to the targets. */
static enum status judge(bool *out, struct candidate *candidate, struct prune_job *job, double sparsity,
    goal_make make, void *context, struct error *err)
{
    struct structure structure = {0};
    enum status status = make(&structure, context, sparsity, err);

    *out = false;
    *candidate = (struct candidate){.whole = status == ERR_USAGE};
    if (candidate->whole) { /* as the input is */
        structure_free(&structure);
        structure.depth.layers = job->input->config.layers;
        status = OK;
    }
    if (!status) status = try(candidate, job, &structure, err);
    structure.trim = NULL; /* the caller's */
    structure_free(&structure);
    if (status) return status;
    note(candidate, sparsity, job->report);
    *out = keeps_to(candidate, job->options);
    return OK;
}

enum status goal_sparsity(
    double *out, struct prune_job *job, uint32_t steps, goal_make make, void *context, struct error *err)
{
    uint32_t low = 0, high = steps - 1; /* low does not do, high does */
    struct candidate last;
    bool does, whole; /* whole: at high nothing goes */
    char bytes[16];
    enum status status = judge(&does, &last, job, (double)high / steps, make, context, err);

    if (!status && !does && !keeps_to_size(&last, job->options))
        return fail(err, ERR_USAGE, "--target-size: out of reach; the most that can go leaves %s",
            report_bytes(bytes, last.bytes));
    if (!status && !does)
        return fail(err, ERR_USAGE,
            "--target-latency: out of reach; with the most that can go a token takes %.3g ms",
            last.milliseconds);
    whole = last.whole;
    while (!status && high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        status = judge(&does, &last, job, (double)middle / steps, make, context, err);
        if (does) {
            high = middle;
            whole = last.whole;
        } else {
            low = middle;
        }
    }
    *out = (double)high / steps;
    if (!status && high == 1 && !whole) { /* the least that is tried; does it even take that? */
        status = judge(&does, &last, job, 0, make, context, err);
        whole = does;
    }
    if (status) return status;
    if (whole)
        return fail(err, ERR_USAGE, "the model keeps to %s as it is; nothing has to go",
            job->options->target_size ? "--target-size" : "--target-latency");
    report_note(job->report, "chosen: sparsity %.3g%%", 100 * *out);
    return OK;
}
