/* See contest.h. Logits are made and scored in chunks of rows, the base's once for all candidates. */
#include <inttypes.h>
#include <math.h>

#include "runtime-check/judge/contest.h"

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

enum status contest_score_window(struct contest *contest, uint64_t window, uint64_t local, struct error *err)
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
