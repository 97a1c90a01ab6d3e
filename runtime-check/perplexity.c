/* See perplexity.h. Windows run in batches, logits in chunks of rows, so memory is bounded whatever the vocabulary. */
#include "runtime-check/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "tensor/kernels/kernels.h"

enum {
    BATCH_TOKENS = 2048, /* windows side by side: enough rows for the products to run at full speed */
    LOGIT_FLOATS = 16 * 1024 * 1024 /* 64 MiB of logits at a time */
};

const char *perplexity_protocol_name(enum perplexity_protocol protocol)
{
    return protocol == PERPLEXITY_GPTQ ? "gptq" : "llama.cpp";
}

double perplexity_nll(float *logits, uint64_t vocabulary, uint32_t target)
{
    const double chosen = (double)logits[target];
    float highest, sum;
    kernels()->maximum(&highest, logits, vocabulary);
    kernels()->exp_sum(&sum, logits, highest, vocabulary);
    return log((double)sum) + (double)highest - chosen;
}

/* Everything one measurement holds. */
struct measurement {
    struct model *model;
    struct perplexity_options options;
    uint32_t *tokens; /* [token_count], first tokens of windows replaced where the protocol asks for it */
    uint64_t token_count, context, windows;
    uint64_t first, scored; /* logits rows first .. first + scored - 1 of a window predict a scored token */
    float *hidden;          /* [batch * context][hidden] */
    float *logits;          /* [logit_rows][vocabulary] */
    uint64_t logit_rows;
    float *nll; /* [windows * scored] */
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
    const uint32_t target = run->tokens[scoring->window * run->context + run->first + row + 1];
    (void)worker;
    const double nll = perplexity_nll(run->logits + index * vocabulary, vocabulary, target);
    if (!isfinite(nll)) {
        return fail(err, ERR_NUMERIC, "window %" PRIu64 ", position %" PRIu64 ": the logits are not finite",
            scoring->window, run->first + row);
    }
    run->nll[scoring->window * run->scored + row] = (float)nll;
    return OK;
}

static enum status score_window(
    struct measurement *run, uint64_t window, const float *hidden, struct error *err)
{
    for (uint64_t begin = 0; begin < run->scored; begin += run->logit_rows) {
        uint64_t rows = run->scored - begin < run->logit_rows ? run->scored - begin : run->logit_rows;
        const float *from = hidden + (run->first + begin) * run->model->config.hidden;
        enum status status = model_logits(run->model, run->logits, from, rows, err);
        if (status) return status;
        struct scoring scoring = {run, window, begin};
        if ((status = pool_run(run->model->pool, rows, score_row, &scoring, err))) return status;
    }
    return OK;
}

/* Run windows [begin, begin + count) side by side and score them. */
static enum status score_batch(
    struct measurement *run, struct session *session, uint64_t begin, uint64_t count, struct error *err)
{
    session_reset(session);
    enum status status =
        session_step(session, run->hidden, run->tokens + begin * run->context, run->context, err);
    for (uint64_t i = 0; i < count && !status; i++) {
        status =
            score_window(run, begin + i, run->hidden + i * run->context * run->model->config.hidden, err);
    }
    return status;
}

static enum status score_all(
    struct measurement *run, uint64_t batch, const struct report *report, struct error *err)
{
    struct session *session = NULL;
    uint64_t session_windows = 0;
    enum status status = OK;
    struct progress *progress =
        progress_start(report, "scoring", run->windows * run->context, PROGRESS_TOKENS);
    for (uint64_t begin = 0; begin < run->windows && !status; begin += batch) {
        const uint64_t count = run->windows - begin < batch ? run->windows - begin : batch;
        if (count != session_windows) { /* the first batch, and the last if it is smaller */
            session_free(session);
            session = NULL;
            session_windows = count;
            if ((status = session_create(&session, run->model, count, run->context, err))) break;
        }
        status = score_batch(run, session, begin, count, err);
        progress_add(progress, count * run->context);
    }
    progress_end(progress);
    session_free(session);
    return status;
}

/* Mean, spread and what follows from them. */
static void summarize(struct perplexity_result *out, const float *nll, uint64_t count)
{
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += (double)nll[i];
    out->mean_nll = sum / (double)count;
    for (uint64_t i = 0; i < count; i++) {
        const double d = (double)nll[i] - out->mean_nll;
        squares += d * d;
    }
    const double deviation = count > 1 ? sqrt(squares / (double)(count - 1)) : 0;
    out->perplexity = exp(out->mean_nll);
    out->perplexity_error = out->perplexity * deviation / sqrt((double)count);
    out->tokens_scored = count;
}

/* Decide context and windows. */
static enum status plan_windows(struct measurement *run, struct error *err)
{
    const bool gptq = run->options.protocol == PERPLEXITY_GPTQ;
    const uint64_t usual = gptq ? 2048 : 512;
    const uint64_t trained = run->model->config.context;
    run->context = run->options.context ? run->options.context : trained < usual ? trained : usual;
    if (run->context < 4)
        return fail(err, ERR_USAGE, "--context %" PRIu64 " is too short; at least 4", run->context);
    run->windows = run->token_count / run->context;
    if (run->windows == 0) {
        return fail(err, ERR_USAGE,
            "the text has %" PRIu64 " tokens, less than one window of %" PRIu64
            "; take a longer text or --context N",
            run->token_count, run->context);
    }
    if (run->options.max_windows && run->windows > run->options.max_windows)
        run->windows = run->options.max_windows;
    run->first = gptq ? 0 : run->context / 2;
    run->scored = run->context - 1 - run->first;
    return OK;
}

/* llama.cpp's protocol: every window begins with BOS, if this tokenizer puts one in front of a text at all. */
static void replace_first_tokens(struct measurement *run)
{
    uint32_t bos;
    if (run->options.protocol != PERPLEXITY_LLAMA_CPP || !tokenizer_prefix(run->model->tokenizer, &bos))
        return;
    for (uint64_t window = 0; window < run->windows; window++)
        run->tokens[window * run->context] = bos;
}

static enum status allocate(struct measurement *run, uint64_t *batch, struct error *err)
{
    const struct model_config *config = &run->model->config;
    *batch = BATCH_TOKENS / run->context ? BATCH_TOKENS / run->context : 1;
    if (*batch > run->windows) *batch = run->windows;
    run->logit_rows = LOGIT_FLOATS / config->vocabulary ? LOGIT_FLOATS / config->vocabulary : 1;
    if (run->logit_rows > run->scored) run->logit_rows = run->scored;
    run->hidden = memory_new(*batch * run->context * config->hidden, sizeof(float), err);
    run->logits = run->hidden ? memory_new(run->logit_rows * config->vocabulary, sizeof(float), err) : NULL;
    run->nll = run->logits ? memory_new(run->windows * run->scored, sizeof(float), err) : NULL;
    return run->nll ? OK : ERR_MEMORY;
}

enum status perplexity_measure(struct perplexity_result *out, struct model *model, const char *text,
    uint64_t text_bytes, const struct perplexity_options *options, const struct report *report,
    struct error *err)
{
    struct measurement run = {.model = model, .options = *options};
    uint64_t batch = 0;
    uint32_t bos;
    if (!model->tokenizer) {
        return fail(err, ERR_UNSUPPORTED, "the model carries no tokenizer.json, so text cannot be scored");
    }
    enum status status =
        tokenizer_encode(model->tokenizer, &run.tokens, &run.token_count, text, text_bytes, true, err);
    if (status || (status = plan_windows(&run, err)) || (status = allocate(&run, &batch, err))) goto done;
    replace_first_tokens(&run);
    if (run.context > model->config.context) {
        report_note(report, "note: context %" PRIu64 " is beyond the %" PRIu32 " tokens this model declares",
            run.context, model->config.context);
    }
    const double start = report_seconds();
    if ((status = score_all(&run, batch, report, err))) goto done;
    summarize(out, run.nll, run.windows * run.scored);
    out->seconds = report_seconds() - start;
    out->tokens = run.token_count;
    out->windows = run.windows;
    out->context = run.context;
    out->text_bytes = text_bytes;
    out->text_crc32 = file_crc32(0, text, text_bytes);
    out->tokens_per_second = (double)(run.windows * run.context) / out->seconds;
    const uint64_t text_tokens = run.token_count - (tokenizer_prefix(model->tokenizer, &bos) ? 1 : 0);
    out->bits_per_byte = out->mean_nll / log(2.0) * (double)text_tokens / (double)text_bytes;
done:
    memory_free(run.tokens);
    memory_free(run.hidden);
    memory_free(run.logits);
    memory_free(run.nll);
    return status;
}
