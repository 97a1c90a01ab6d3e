/* See compare.h. Each batch of windows runs through the models one after the other, so that only one KV cache exists at a time;
 * then logits are made and scored in chunks of rows, the base's once for all candidates. */
#include "runtime-check/judge/compare.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/judge/compare_check.h"
#include "runtime-check/judge/divergence.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/judge/same_tokens.h"
#include "runtime-check/judge/trace.h"
#include "runtime-check/judge/windows.h"

double compare_kld(const float *base, const float *candidate, uint64_t vocabulary, uint32_t target,
    bool *same_top, double *probability_change)
{
    struct divergence_row row;
    divergence_row(&row, base, candidate, vocabulary, target);
    *same_top = row.same_top;
    *probability_change = row.probability_change;
    return row.kld;
}

/* One model of the comparison. */
struct contestant {
    struct model *model;
    float *hidden;                /* [batch * context][hidden] */
    struct divergence divergence; /* candidates only */
    double seconds;
};

struct contest {
    const struct windows *windows;     /* `cut`, or those of `stored` */
    struct windows cut;                /* owned */
    struct base_logits *stored;        /* stands for the base's model, or NULL */
    struct base_logits_writer *writer; /* keeps the base's logits, or NULL */
    struct trace *trace;               /* or NULL */
    struct contestant base;            /* its model is NULL with `stored` */
    struct contestant *candidates;     /* [count] */
    uint64_t count, vocabulary, top_k; /* top_k of `stored`, 0: whole rows */
    struct pool *pool;
    float *base_logits, *logits; /* [logit_rows][vocabulary] each; base_logits NULL with top_k */
    struct divergence_row *rows; /* [logit_rows] */
    uint64_t logit_rows;
    struct clustered base_nll; /* only kept where there is no candidate */
    struct progress *progress;
    bool window_nll; /* keep the candidates' window means */
};

/* One chunk of scored rows of one window. `local` is the window's number within the batch. */
struct chunk {
    struct contest *contest;
    const struct contestant *contestant; /* who is scored */
    uint64_t window, local, begin, count;
};

static uint32_t target_of(const struct chunk *chunk, uint64_t index)
{
    return windows_target(chunk->contest->windows, chunk->window, chunk->begin + index);
}

/* ---- the base's rows ---- */

/* The logits of a chunk's rows under one model. */
static enum status chunk_logits(
    const struct chunk *chunk, const struct contestant *contestant, float *logits, struct error *err)
{
    const struct windows *windows = chunk->contest->windows;
    const uint64_t row = chunk->local * windows->context + windows->first + chunk->begin;
    return model_logits(contestant->model, logits,
        contestant->hidden + row * contestant->model->config.hidden, chunk->count, err);
}

static enum status decode_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct chunk *chunk = context;
    (void)worker;
    (void)err;
    base_logits_row(
        chunk->contest->stored, index, chunk->contest->base_logits + index * chunk->contest->vocabulary);
    return OK;
}

static enum status load_base(struct chunk *chunk, struct error *err)
{
    struct contest *contest = chunk->contest;
    enum status status = base_logits_load(contest->stored, chunk->window, chunk->begin, chunk->count, err);
    if (status || contest->top_k) return status;
    return pool_run(contest->pool, chunk->count, decode_row, chunk, err);
}

/* The base alone: how it predicts the text. */
static enum status score_base_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct chunk *chunk = context;
    const struct contest *contest = chunk->contest;
    const float *logits = contest->base_logits + index * contest->vocabulary;
    (void)worker;
    (void)err; /* the writer, which saw these logits first, has found them finite */
    contest->rows[index].base_nll = perplexity_nll(logits, contest->vocabulary, target_of(chunk, index));
    return OK;
}

static enum status score_base(struct chunk *chunk, struct error *err)
{
    struct contest *contest = chunk->contest;
    const uint64_t per_block = contest->windows->scored * estimate_block(contest->windows->count);
    enum status status = pool_run(contest->pool, chunk->count, score_base_row, chunk, err);
    for (uint64_t i = 0; i < chunk->count && !status; i++)
        clustered_add(&contest->base_nll, per_block, contest->rows[i].base_nll);
    return status;
}

static enum status take_base(struct chunk *chunk, struct error *err)
{
    struct contest *contest = chunk->contest;
    if (contest->stored) return load_base(chunk, err);
    enum status status = chunk_logits(chunk, &contest->base, contest->base_logits, err);
    if (!status && contest->writer)
        status = base_logits_add(contest->writer, contest->base_logits, chunk->count, err);
    if (!status && contest->count == 0) status = score_base(chunk, err);
    return status;
}

/* ---- scoring ---- */

static void score_top(const struct chunk *chunk, uint64_t index, float *logits)
{
    const struct contest *contest = chunk->contest;
    struct base_logits_top top;
    base_logits_row_top(contest->stored, index, &top);
    const struct divergence_top base = {
        .ids = top.ids,
        .log_probs = top.log_probs,
        .k = contest->top_k,
        .log_rest = top.log_rest,
        .base_log_prob = base_logits_target(contest->stored, index),
    };
    divergence_row_top(&contest->rows[index], &base, logits, contest->vocabulary, target_of(chunk, index));
}

static enum status score_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct chunk *chunk = context;
    const struct contest *contest = chunk->contest;
    struct divergence_row *row = &contest->rows[index];
    float *logits = contest->logits + index * contest->vocabulary;
    (void)worker;
    if (contest->top_k) {
        score_top(chunk, index, logits);
    } else {
        divergence_row(row, contest->base_logits + index * contest->vocabulary, logits, contest->vocabulary,
            target_of(chunk, index));
        if (contest->stored)
            divergence_row_exact(row, base_logits_target(contest->stored, index),
                base_logits_first(contest->stored, index), logits, contest->vocabulary);
    }
    if (isfinite(row->kld)) return OK;
    return fail(err, ERR_NUMERIC,
        "window %" PRIu64 ", position %" PRIu64 ": the logits of %s or of the base are not finite",
        chunk->window, contest->windows->first + chunk->begin + index,
        container_path(chunk->contestant->model->container));
}

/* Score one chunk of one candidate; rows are added in order, whoever scored them. */
static enum status score_candidate(struct chunk *chunk, struct contestant *candidate, struct error *err)
{
    struct contest *contest = chunk->contest;
    const double start = report_seconds();
    chunk->contestant = candidate;
    enum status status = chunk_logits(chunk, candidate, contest->logits, err);
    if (!status) status = pool_run(contest->pool, chunk->count, score_row, chunk, err);
    for (uint64_t i = 0; i < chunk->count && !status; i++)
        divergence_add(&candidate->divergence, &contest->rows[i]);
    candidate->seconds += report_seconds() - start;
    return status;
}

static enum status score_window(struct contest *contest, uint64_t window, uint64_t local, struct error *err)
{
    const uint64_t scored = contest->windows->scored;
    enum status status = OK;
    for (uint64_t begin = 0; begin < scored && !status; begin += contest->logit_rows) {
        const uint64_t count = scored - begin < contest->logit_rows ? scored - begin : contest->logit_rows;
        struct chunk chunk = {contest, NULL, window, local, begin, count};
        status = take_base(&chunk, err);
        for (uint64_t i = 0; i < contest->count && !status; i++)
            status = score_candidate(&chunk, &contest->candidates[i], err);
    }
    return status;
}

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
        status = score_window(contest, begin + i, i, err);
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

/* ---- preparing ---- */

static enum status allocate_hidden(
    const struct contest *contest, struct contestant *contestant, struct error *err)
{
    const uint64_t tokens = contest->windows->batch * contest->windows->context;
    contestant->hidden = memory_new(tokens * contestant->model->config.hidden, sizeof(float), err);
    return contestant->hidden ? OK : ERR_MEMORY;
}

static enum status allocate_candidate(
    struct contest *contest, uint64_t index, struct model *model, struct error *err)
{
    const struct windows *windows = contest->windows;
    struct contestant *candidate = &contest->candidates[index];
    candidate->model = model;
    candidate->divergence.capacity = windows->count * windows->scored;
    candidate->divergence.per_window = windows->scored;
    candidate->divergence.klds = memory_new(candidate->divergence.capacity, sizeof(float), err);
    if (!candidate->divergence.klds) return ERR_MEMORY;
    if (contest->window_nll) {
        candidate->divergence.window_nll = memory_new(windows->count, sizeof(double), err);
        if (!candidate->divergence.window_nll) return ERR_MEMORY;
    }
    return allocate_hidden(contest, candidate, err);
}

static enum status allocate(
    struct contest *contest, struct model *const *candidates, uint64_t count, struct error *err)
{
    const uint64_t vocabulary = contest->vocabulary;
    contest->logit_rows = windows_logit_rows(contest->windows, vocabulary);
    contest->rows = memory_new(contest->logit_rows, sizeof *contest->rows, err);
    contest->candidates = contest->rows ? memory_new(count, sizeof *contest->candidates, err) : NULL;
    if (!contest->candidates) return ERR_MEMORY;
    contest->count = count;
    if (!contest->top_k) {
        contest->base_logits = memory_new(contest->logit_rows * vocabulary, sizeof(float), err);
        if (!contest->base_logits) return ERR_MEMORY;
    }
    if (count > 0) {
        contest->logits = memory_new(contest->logit_rows * vocabulary, sizeof(float), err);
        if (!contest->logits) return ERR_MEMORY;
    }
    enum status status = contest->base.model ? allocate_hidden(contest, &contest->base, err) : OK;
    for (uint64_t i = 0; i < count && !status; i++)
        status = allocate_candidate(contest, i, candidates[i], err);
    return status;
}

/* The last part of a path, quoted: what a stored base says it is of. */
static void name_of(char *out, size_t out_bytes, const char *path)
{
    size_t end = strlen(path), begin;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';)
        begin--;
    error_quote(out, out_bytes, path + begin, end - begin);
}

static enum status start_saving(struct contest *contest, const char *text, uint64_t text_bytes,
    const struct compare_options *options, struct error *err)
{
    struct inspect_totals totals;
    struct model *base = contest->base.model;
    if (!base)
        return fail(err, ERR_USAGE, "only the predictions of a model can be saved, not those of stored ones");
    inspect_total(&totals, base->container);
    struct base_logits_info info = {
        .protocol = options->text.protocol,
        .context = contest->windows->context,
        .windows = contest->windows->count,
        .vocabulary = base->config.vocabulary,
        .top_k = options->save_top_k,
        .model_bytes = totals.bytes,
        .model_weights = totals.weights,
        .text_bytes = text_bytes,
        .text_crc32 = file_crc32(0, text, text_bytes),
    };
    name_of(info.model, sizeof info.model, container_path(base->container));
    return base_logits_create(
        &contest->writer, options->save_base, options->force, &info, contest->windows, contest->pool, err);
}

static enum status start_tracing(
    struct contest *contest, struct model *const *candidates, uint64_t count, struct error *err)
{
    const struct model *base = contest->base.model;
    if (!base)
        return fail(err, ERR_USAGE, "errors of layers need the base model; stored predictions have none");
    for (uint64_t i = 0; i < count; i++) {
        if (trace_matches(base, candidates[i])) continue;
        return fail(err, ERR_USAGE, "%s has other layers than %s: their outputs do not compare",
            container_path(candidates[i]->container), container_path(base->container));
    }
    return trace_create(
        &contest->trace, base, count, contest->windows->batch * contest->windows->context, err);
}

/* Take the base: cut the text with its model's tokenizer, or take the windows as they were stored. */
static enum status open_base(struct contest *contest, const struct compare_base *base, const char *text,
    uint64_t text_bytes, const struct compare_options *options, const struct report *report,
    struct error *err)
{
    contest->base.model = base->model;
    contest->stored = base->stored;
    if (base->stored) {
        contest->windows = base_logits_windows(base->stored);
        contest->vocabulary = base_logits_info(base->stored)->vocabulary;
        contest->top_k = base_logits_info(base->stored)->top_k;
        return text ? compare_check_text(base->stored, text, text_bytes, err) : OK;
    }
    if (!text) return fail(err, ERR_USAGE, "there is no text to read");
    contest->windows = &contest->cut;
    contest->vocabulary = base->model->config.vocabulary;
    return windows_cut(&contest->cut, base->model, text, text_bytes, &options->text, report, err);
}

static enum status check_all(const struct contest *contest, struct model *const *candidates, uint64_t count,
    const char *text, uint64_t text_bytes, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < count && !status; i++) {
        status = contest->stored
                     ? compare_check_stored(contest->stored, candidates[i], err)
                     : same_tokens_check(contest->base.model, candidates[i], text, text_bytes, err);
    }
    return status;
}

/* ---- the whole ---- */

static void release(struct contest *contest)
{
    for (uint64_t i = 0; i < contest->count; i++) {
        memory_free(contest->candidates[i].hidden);
        memory_free(contest->candidates[i].divergence.klds);
        memory_free(contest->candidates[i].divergence.window_nll);
    }
    memory_free(contest->base.hidden);
    memory_free(contest->candidates);
    memory_free(contest->base_logits);
    memory_free(contest->logits);
    memory_free(contest->rows);
    trace_free(contest->trace);
    base_logits_abandon(contest->writer);
    windows_free(&contest->cut);
}

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
    contest.pool = base->model ? base->model->pool : count ? candidates[0]->pool : NULL;
    enum status status = open_base(&contest, base, text, text_bytes, options, report, err);
    if (!status) status = check_all(&contest, candidates, count, text, text_bytes, err);
    if (!status && options->layers) status = start_tracing(&contest, candidates, count, err);
    if (!status && options->save_base) status = start_saving(&contest, text, text_bytes, options, err);
    contest.window_nll = options->window_nll;
    if (!status) status = allocate(&contest, candidates, count, err);
    if (!status) status = run_all(&contest, report, err);
    if (!status) status = summarize(out, &contest, err);
    if (!status && contest.writer) {
        status = base_logits_commit(contest.writer, err);
        contest.writer = NULL;
    }
    release(&contest);
    return status;
}
