/* See compare.h. Each batch of windows runs through the models one after the other, so that only one KV cache exists at a time;
 * then its rows are scored (contest_score.c). */
#include "runtime-check/judge/compare.h"

#include <string.h>

#include "base/memory.h"
#include "runtime-check/judge/contest.h"

/* ---- running ---- */

/* Candidate `index`, or the base, in a session that is about to run. */
static void watch(const struct contest *contest, const struct contestant *contestant, struct session *session)
{
    if (!contest->trace) return;
    if (contestant == &contest->base)
        trace_watch_base(contest->trace, session);
    else
        trace_watch(contest->trace, (uint64_t)(contestant - contest->candidates), session);
}

/* Run windows [begin, begin + count) through one model, in a session of their own. */
static enum status run_model(
    struct contest *contest, struct contestant *contestant, uint64_t begin, uint64_t count, struct error *err)
{
    const struct windows *windows = contest->windows;
    struct session *session = NULL;
    const double start = report_seconds();
    enum status status = session_create(&session, contestant->model, count, windows->context, err);
    if (!status) {
        watch(contest, contestant, session);
        status = session_step(
            session, contestant->hidden, windows->tokens + begin * windows->context, windows->context, err);
    }
    session_free(session);
    if (status) return fail_within(err, status, "%s", container_path(contestant->model->container));
    contestant->seconds += report_seconds() - start;
    progress_add(contest->progress, count * windows->context);
    return OK;
}

static enum status run_batch(struct contest *contest, uint64_t begin, struct error *err)
{
    const uint64_t count = windows_batch(contest->windows, begin);
    enum status status = OK;
    if (contest->base.model) status = run_model(contest, &contest->base, begin, count, err);
    for (uint64_t i = 0; i < contest->count && !status; i++)
        status = run_model(contest, &contest->candidates[i], begin, count, err);
    for (uint64_t i = 0; i < count && !status; i++)
        status = contest_score_window(contest, begin + i, i, err);
    return status;
}

static enum status run_all(struct contest *contest, const struct report *report, struct error *err)
{
    const struct windows *windows = contest->windows;
    const uint64_t models = contest->count + (contest->base.model != NULL);
    enum status status = OK;
    contest->progress =
        progress_start(report, "comparing", windows->count * windows->context * models, PROGRESS_TOKENS);
    for (uint64_t begin = 0; begin < windows->count && !status; begin += windows->batch)
        status = run_batch(contest, begin, err);
    progress_end(contest->progress);
    return status;
}

/* ---- the whole ---- */

static enum status take_layers(
    struct comparison *out, const struct contest *contest, uint64_t index, struct error *err)
{
    if (!contest->trace) return OK;
    const uint32_t layers = contest->base.model->config.layers;
    out->layer_errors = memory_new(layers, sizeof *out->layer_errors, err);
    if (!out->layer_errors) return ERR_MEMORY;
    out->layers = layers;
    for (uint32_t layer = 0; layer < layers; layer++)
        out->layer_errors[layer] = trace_error(contest->trace, index, layer);
    return OK;
}

/* What is known of a base alone. */
static void summarize_base(struct comparison *out, const struct contest *contest)
{
    *out = (struct comparison){
        .tokens_scored = contest->base_nll.tokens.count,
        .windows = contest->windows->count,
        .context = contest->windows->context,
        .by_block = clustered_by_block(&contest->base_nll),
        .base_perplexity = estimate_exp(clustered_estimate(&contest->base_nll)),
    };
}

static enum status summarize(struct comparison *out, struct contest *contest, struct error *err)
{
    enum status status = OK;
    if (contest->count == 0) summarize_base(out, contest);
    for (uint64_t i = 0; i < contest->count && !status; i++) {
        struct contestant *candidate = &contest->candidates[i];
        out[i] = (struct comparison){
            .windows = contest->windows->count,
            .context = contest->windows->context,
            .base_top_k = contest->top_k,
            .model_bytes = container_bytes(candidate->model->container),
            .seconds = candidate->seconds,
        };
        status = divergence_summarize(&out[i], &candidate->divergence, err);
        if (!status) status = take_layers(&out[i], contest, i, err);
    }
    return status;
}

enum status compare_models(struct comparison *out, const struct compare_base *base,
    struct model *const *candidates, uint64_t count, const char *text, uint64_t text_bytes,
    const struct compare_options *options, const struct report *report, struct error *err)
{
    struct contest contest = {0};
    memset(out, 0, (count ? count : 1) * sizeof *out);
    if (count == 0 && !options->save_base)
        return fail(err, ERR_USAGE, "there is no model to compare with the base");
    enum status status =
        contest_prepare(&contest, base, candidates, count, text, text_bytes, options, report, err);
    if (!status) status = run_all(&contest, report, err);
    if (!status) status = summarize(out, &contest, err);
    if (!status && contest.writer) {
        status = base_logits_commit(contest.writer, err);
        contest.writer = NULL;
    }
    contest_release(&contest);
    return status;
}
