/* See compare.h. Each batch of windows runs through all models; then logits are made and scored in chunks of rows, the base's
 * once for all candidates. */
#include "runtime-check/compare.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/divergence.h"
#include "runtime-check/windows.h"

enum {
    /* Rows of logits at a time: few, so that they are scored before they leave the cache, but enough that decoding a
     * quantized head is spread over many. */
    ROWS_MOST = 256,
    ROWS_LEAST = 64,
    LOGIT_FLOATS = 4 * 1024 * 1024
};

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
    struct session *session;
    float *hidden;                /* [batch * context][hidden] */
    struct divergence divergence; /* candidates only */
    double seconds;
};

struct contest {
    struct windows windows;
    struct contestant *contestants; /* [count], the base first */
    uint64_t count, session_windows;
    float *base_logits, *logits; /* [logit_rows][vocabulary] each */
    struct divergence_row *rows; /* [logit_rows] */
    uint64_t logit_rows;
    struct progress *progress;
};

/* One chunk of scored rows of one window. `local` is the window's number within the batch. */
struct chunk {
    struct contest *contest;
    const struct contestant *contestant;
    uint64_t window, local, begin, count;
};

/* ---- scoring ---- */

static enum status score_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct chunk *chunk = context;
    const struct contest *contest = chunk->contest;
    const uint64_t vocabulary = chunk->contestant->model->config.vocabulary;
    const uint64_t row = chunk->begin + index;
    (void)worker;
    divergence_row(&contest->rows[index], contest->base_logits + index * vocabulary,
        contest->logits + index * vocabulary, vocabulary,
        windows_target(&contest->windows, chunk->window, row));
    if (isfinite(contest->rows[index].kld)) return OK;
    return fail(err, ERR_NUMERIC,
        "window %" PRIu64 ", position %" PRIu64 ": the logits of %s or of the base are not finite",
        chunk->window, contest->windows.first + row, container_path(chunk->contestant->model->container));
}

/* The logits of a chunk's rows under one model. */
static enum status chunk_logits(
    const struct chunk *chunk, const struct contestant *contestant, float *logits, struct error *err)
{
    const struct windows *windows = &chunk->contest->windows;
    const uint64_t row = chunk->local * windows->context + windows->first + chunk->begin;
    return model_logits(contestant->model, logits,
        contestant->hidden + row * contestant->model->config.hidden, chunk->count, err);
}

/* Score one chunk of one candidate; rows are added in order, whoever scored them. */
static enum status score_candidate(struct chunk *chunk, struct contestant *candidate, struct error *err)
{
    struct contest *contest = chunk->contest;
    const double start = report_seconds();
    chunk->contestant = candidate;
    enum status status = chunk_logits(chunk, candidate, contest->logits, err);
    if (!status) status = pool_run(candidate->model->pool, chunk->count, score_row, chunk, err);
    for (uint64_t i = 0; i < chunk->count && !status; i++)
        divergence_add(&candidate->divergence, &contest->rows[i]);
    candidate->seconds += report_seconds() - start;
    return status;
}

static enum status score_window(struct contest *contest, uint64_t window, uint64_t local, struct error *err)
{
    const uint64_t scored = contest->windows.scored;
    enum status status = OK;
    for (uint64_t begin = 0; begin < scored && !status; begin += contest->logit_rows) {
        const uint64_t count = scored - begin < contest->logit_rows ? scored - begin : contest->logit_rows;
        struct chunk chunk = {contest, NULL, window, local, begin, count};
        status = chunk_logits(&chunk, &contest->contestants[0], contest->base_logits, err);
        for (uint64_t i = 1; i < contest->count && !status; i++)
            status = score_candidate(&chunk, &contest->contestants[i], err);
    }
    return status;
}

/* ---- running ---- */

/* A session for so many windows side by side: made for the first batch, and again for the last if it is smaller. */
static enum status open_session(
    struct contest *contest, struct contestant *contestant, uint64_t windows, struct error *err)
{
    if (contest->session_windows == windows) {
        session_reset(contestant->session);
        return OK;
    }
    session_free(contestant->session);
    contestant->session = NULL;
    return session_create(&contestant->session, contestant->model, windows, contest->windows.context, err);
}

/* Run windows [begin, begin + count) through one model. */
static enum status run_model(
    struct contest *contest, struct contestant *contestant, uint64_t begin, uint64_t count, struct error *err)
{
    const struct windows *windows = &contest->windows;
    const double start = report_seconds();
    enum status status = open_session(contest, contestant, count, err);
    if (!status)
        status = session_step(contestant->session, contestant->hidden,
            windows->tokens + begin * windows->context, windows->context, err);
    if (status) return fail_within(err, status, "%s", container_path(contestant->model->container));
    contestant->seconds += report_seconds() - start;
    progress_add(contest->progress, count * windows->context);
    return OK;
}

static enum status run_batch(struct contest *contest, uint64_t begin, struct error *err)
{
    const uint64_t count = windows_batch(&contest->windows, begin);
    enum status status = OK;
    for (uint64_t i = 0; i < contest->count && !status; i++)
        status = run_model(contest, &contest->contestants[i], begin, count, err);
    contest->session_windows = count;
    for (uint64_t i = 0; i < count && !status; i++)
        status = score_window(contest, begin + i, i, err);
    return status;
}

static enum status run_all(struct contest *contest, const struct report *report, struct error *err)
{
    const struct windows *windows = &contest->windows;
    enum status status = OK;
    contest->progress = progress_start(
        report, "comparing", windows->count * windows->context * contest->count, PROGRESS_TOKENS);
    for (uint64_t begin = 0; begin < windows->count && !status; begin += windows->batch)
        status = run_batch(contest, begin, err);
    progress_end(contest->progress);
    return status;
}

/* ---- the same tokens ---- */

static enum status same_document(
    bool *same, struct container *a, struct container *b, const char *name, struct error *err)
{
    char *a_text = NULL, *b_text = NULL;
    uint64_t a_bytes = 0, b_bytes = 0;
    enum status status = container_document(a, name, &a_text, &a_bytes, err);
    if (!status) status = container_document(b, name, &b_text, &b_bytes, err);
    *same = !status && a_text && b_text && a_bytes == b_bytes && memcmp(a_text, b_text, a_bytes) == 0;
    memory_free(a_text);
    memory_free(b_text);
    return status;
}

/* Two tokenizers written differently may still agree: on this text they must. */
static enum status check_ids(
    struct model *base, struct model *candidate, const char *text, uint64_t text_bytes, struct error *err)
{
    uint32_t *a = NULL, *b = NULL;
    uint64_t a_count, b_count;
    enum status status = tokenizer_encode(base->tokenizer, &a, &a_count, text, text_bytes, true, err);
    if (!status) status = tokenizer_encode(candidate->tokenizer, &b, &b_count, text, text_bytes, true, err);
    if (!status && (a_count != b_count || memcmp(a, b, a_count * sizeof *a) != 0)) {
        status = fail(err, ERR_USAGE, "%s and %s have different tokenizers: they cut this text differently",
            container_path(base->container), container_path(candidate->container));
    }
    memory_free(a);
    memory_free(b);
    return status;
}

static enum status check_candidate(
    struct model *base, struct model *candidate, const char *text, uint64_t text_bytes, struct error *err)
{
    bool same = false;
    if (base->config.vocabulary != candidate->config.vocabulary) {
        return fail(err, ERR_USAGE,
            "%s has a vocabulary of %" PRIu32 ", %s one of %" PRIu32 ": their predictions do not compare",
            container_path(base->container), base->config.vocabulary, container_path(candidate->container),
            candidate->config.vocabulary);
    }
    if (!base->tokenizer || !candidate->tokenizer) return OK;
    enum status status = same_document(&same, base->container, candidate->container, "tokenizer.json", err);
    if (status || same) return status;
    return check_ids(base, candidate, text, text_bytes, err);
}

/* ---- the whole ---- */

static enum status allocate_contestant(
    struct contest *contest, uint64_t index, struct model *model, struct error *err)
{
    const struct windows *windows = &contest->windows;
    struct contestant *contestant = &contest->contestants[index];
    contestant->model = model;
    contestant->hidden =
        memory_new(windows->batch * windows->context * model->config.hidden, sizeof(float), err);
    if (!contestant->hidden) return ERR_MEMORY;
    if (index == 0) return OK;
    contestant->divergence.capacity = windows->count * windows->scored;
    contestant->divergence.per_window = windows->scored;
    contestant->divergence.klds = memory_new(contestant->divergence.capacity, sizeof(float), err);
    return contestant->divergence.klds ? OK : ERR_MEMORY;
}

static enum status allocate(struct contest *contest, struct model *base, struct model *const *candidates,
    uint64_t count, struct error *err)
{
    const uint64_t vocabulary = base->config.vocabulary;
    uint64_t rows = LOGIT_FLOATS / vocabulary;
    rows = rows < ROWS_LEAST ? ROWS_LEAST : rows > ROWS_MOST ? ROWS_MOST : rows;
    contest->logit_rows = rows < contest->windows.scored ? rows : contest->windows.scored;
    contest->base_logits = memory_new(contest->logit_rows * vocabulary, sizeof(float), err);
    contest->logits =
        contest->base_logits ? memory_new(contest->logit_rows * vocabulary, sizeof(float), err) : NULL;
    contest->rows = contest->logits ? memory_new(contest->logit_rows, sizeof *contest->rows, err) : NULL;
    contest->contestants = contest->rows ? memory_new(count + 1, sizeof *contest->contestants, err) : NULL;
    if (!contest->contestants) return ERR_MEMORY;
    contest->count = count + 1;
    enum status status = allocate_contestant(contest, 0, base, err);
    for (uint64_t i = 0; i < count && !status; i++)
        status = allocate_contestant(contest, i + 1, candidates[i], err);
    return status;
}

static enum status allocate_window_nll(struct contest *contest, uint64_t index, struct error *err)
{
    struct divergence *divergence = &contest->contestants[index].divergence;
    divergence->window_nll = memory_new(contest->windows.count, sizeof *divergence->window_nll, err);
    return divergence->window_nll ? OK : ERR_MEMORY;
}

static void release(struct contest *contest)
{
    for (uint64_t i = 0; i < contest->count; i++) {
        session_free(contest->contestants[i].session);
        memory_free(contest->contestants[i].hidden);
        memory_free(contest->contestants[i].divergence.klds);
        memory_free(contest->contestants[i].divergence.window_nll);
    }
    memory_free(contest->contestants);
    memory_free(contest->base_logits);
    memory_free(contest->logits);
    memory_free(contest->rows);
    windows_free(&contest->windows);
}

static enum status summarize(struct comparison *out, struct contest *contest, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i + 1 < contest->count && !status; i++) {
        struct contestant *candidate = &contest->contestants[i + 1];
        out[i] = (struct comparison){
            .windows = contest->windows.count,
            .context = contest->windows.context,
            .model_bytes = container_bytes(candidate->model->container),
            .seconds = candidate->seconds,
        };
        status = divergence_summarize(&out[i], &candidate->divergence, err);
        out[i].window_nll = candidate->divergence.window_nll;
        candidate->divergence.window_nll = NULL;
    }
    return status;
}

enum status compare_models(struct comparison *out, const struct compare_base *stands,
    struct model *const *candidates, uint64_t count, const char *text, uint64_t text_bytes,
    const struct compare_options *options, const struct report *report, struct error *err)
{
    struct contest contest = {0};
    struct model *base = stands->model;
    if (count == 0) return fail(err, ERR_USAGE, "there is no model to compare with the base");
    enum status status = windows_cut(&contest.windows, base, text, text_bytes, &options->text, report, err);
    for (uint64_t i = 0; i < count && !status; i++)
        status = check_candidate(base, candidates[i], text, text_bytes, err);
    if (!status) status = allocate(&contest, base, candidates, count, err);
    for (uint64_t i = 1; i < contest.count && options->window_nll && !status; i++)
        status = allocate_window_nll(&contest, i, err);
    if (!status) status = run_all(&contest, report, err);
    if (!status) status = summarize(out, &contest, err);
    release(&contest);
    return status;
}
