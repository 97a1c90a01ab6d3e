/* See perplexity.h. Windows run in batches, logits in chunks of rows, so memory is bounded whatever the vocabulary. */
#include "runtime-check/judge/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/judge/divergence.h"
#include "runtime-check/judge/windows.h"

const char *perplexity_protocol_name(enum perplexity_protocol protocol)
{
    return protocol == PERPLEXITY_GPTQ ? "gptq" : "llama.cpp";
}

double perplexity_nll(const float *logits, uint64_t vocabulary, uint32_t target)
{
    float top;
    const double log_sum = divergence_log_sum(&top, logits, vocabulary);
    return log_sum + ((double)top - (double)logits[target]);
}

/* Everything one measurement holds. */
struct measurement {
    struct model *model;
    struct windows windows;
    float *hidden; /* [batch * context][hidden] */
    float *logits; /* [logit_rows][vocabulary] */
    uint64_t logit_rows;
    double *nll;        /* [logit_rows] of one chunk */
    double *window_nll; /* [windows] */
    struct clustered mean;
};

/* One chunk of logits rows of one window. */
struct scoring {
    const struct measurement *run;
    uint64_t window, begin; /* rows begin .. of the window's scored rows */
};

static enum status score_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct scoring *scoring = context;
    const struct measurement *run = scoring->run;
    const uint64_t vocabulary = run->model->config.vocabulary;
    const uint64_t row = scoring->begin + index;
    const uint32_t target = windows_target(&run->windows, scoring->window, row);
    (void)worker;
    const double nll = perplexity_nll(run->logits + index * vocabulary, vocabulary, target);
    if (!isfinite(nll)) {
        return fail(err, ERR_NUMERIC, "window %" PRIu64 ", position %" PRIu64 ": the logits are not finite",
            scoring->window, run->windows.first + row);
    }
    run->nll[index] = nll;
    return OK;
}

/* Rows are added in order, whoever scored them. */
static enum status score_window(
    struct measurement *run, uint64_t window, const float *hidden, struct error *err)
{
    const uint64_t scored = run->windows.scored, per_block = scored * estimate_block(run->windows.count);
    double sum = 0;
    for (uint64_t begin = 0; begin < scored; begin += run->logit_rows) {
        const uint64_t rows = scored - begin < run->logit_rows ? scored - begin : run->logit_rows;
        const float *from = hidden + (run->windows.first + begin) * run->model->config.hidden;
        enum status status = model_logits(run->model, run->logits, from, rows, err);
        if (status) return status;
        struct scoring scoring = {run, window, begin};
        if ((status = pool_run(run->model->pool, rows, score_row, &scoring, err))) return status;
        for (uint64_t i = 0; i < rows; i++) {
            sum += run->nll[i];
            clustered_add(&run->mean, per_block, run->nll[i]);
        }
    }
    run->window_nll[window] = sum / (double)scored;
    return OK;
}

/* Run windows [begin, begin + count) side by side and score them. */
static enum status score_batch(
    struct measurement *run, struct session *session, uint64_t begin, uint64_t count, struct error *err)
{
    session_reset(session);
    enum status status = session_step(
        session, run->hidden, run->windows.tokens + begin * run->windows.context, run->windows.context, err);
    for (uint64_t i = 0; i < count && !status; i++) {
        status = score_window(
            run, begin + i, run->hidden + i * run->windows.context * run->model->config.hidden, err);
    }
    return status;
}

static enum status score_all(struct measurement *run, const struct report *report, struct error *err)
{
    struct session *session = NULL;
    uint64_t session_windows = 0;
    enum status status = OK;
    struct progress *progress =
        progress_start(report, "scoring", run->windows.count * run->windows.context, PROGRESS_TOKENS);
    for (uint64_t begin = 0; begin < run->windows.count && !status; begin += run->windows.batch) {
        const uint64_t count = windows_batch(&run->windows, begin);
        if (count != session_windows) { /* the first batch, and the last if it is smaller */
            session_free(session);
            session = NULL;
            session_windows = count;
            if ((status = session_create(&session, run->model, count, run->windows.context, err))) break;
        }
        status = score_batch(run, session, begin, count, err);
        progress_add(progress, count * run->windows.context);
    }
    progress_end(progress);
    session_free(session);
    return status;
}

/* The mean and what follows from it. */
static void summarize(struct perplexity_result *out, struct measurement *run)
{
    const struct estimate mean = clustered_estimate(&run->mean);
    out->mean_nll = mean.value;
    out->perplexity = estimate_exp(mean);
    out->by_block = clustered_by_block(&run->mean);
    out->tokens_scored = run->mean.tokens.count;
    out->window_nll = run->window_nll;
    run->window_nll = NULL;
}

static enum status allocate(struct measurement *run, struct error *err)
{
    const struct model_config *config = &run->model->config;
    const struct windows *windows = &run->windows;
    run->logit_rows = windows_logit_rows(windows, config->vocabulary);
    run->hidden = memory_new(windows->batch * windows->context * config->hidden, sizeof(float), err);
    run->logits = run->hidden ? memory_new(run->logit_rows * config->vocabulary, sizeof(float), err) : NULL;
    run->nll = run->logits ? memory_new(run->logit_rows, sizeof *run->nll, err) : NULL;
    run->window_nll = run->nll ? memory_new(windows->count, sizeof *run->window_nll, err) : NULL;
    return run->window_nll ? OK : ERR_MEMORY;
}

/* What the result says about text and windows. */
static void describe(
    struct perplexity_result *out, const struct measurement *run, const char *text, uint64_t text_bytes)
{
    const struct windows *windows = &run->windows;
    uint32_t bos;
    const uint64_t text_tokens =
        windows->token_count - (tokenizer_prefix(run->model->tokenizer, &bos) ? 1 : 0);
    out->tokens = windows->token_count;
    out->windows = windows->count;
    out->context = windows->context;
    out->text_bytes = text_bytes;
    out->kv_bits = run->model->cache_bits;
    out->text_crc32 = file_crc32(0, text, text_bytes);
    out->tokens_per_second = (double)(windows->count * windows->context) / out->seconds;
    out->bits_per_byte = out->mean_nll / log(2.0) * (double)text_tokens / (double)text_bytes;
}

enum status perplexity_measure(struct perplexity_result *out, struct model *model, const char *text,
    uint64_t text_bytes, const struct perplexity_options *options, const struct report *report,
    struct error *err)
{
    struct measurement run = {.model = model};
    memset(out, 0, sizeof *out);
    enum status status = windows_cut(&run.windows, model, text, text_bytes, options, report, err);
    if (status || (status = allocate(&run, err))) goto done;
    const double start = report_seconds();
    if ((status = score_all(&run, report, err))) goto done;
    summarize(out, &run);
    out->seconds = report_seconds() - start;
    describe(out, &run, text, text_bytes);
done:
    windows_free(&run.windows);
    memory_free(run.hidden);
    memory_free(run.logits);
    memory_free(run.nll);
    memory_free(run.window_nll);
    return status;
}
