/* See windows.h. */
#include "runtime-check/judge/windows.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

enum {
    BATCH_TOKENS = 2048, /* enough rows for the products to run at full speed */
    /* Rows of logits at a time: few, so that they are scored before they leave the cache, but enough that decoding a
     * quantized head is spread over many. */
    ROWS_MOST = 256,
    ROWS_LEAST = 64,
    LOGIT_FLOATS = 4 * 1024 * 1024
};

void windows_place(struct windows *windows, enum perplexity_protocol protocol)
{
    windows->first = protocol == PERPLEXITY_GPTQ ? 0 : windows->context / 2;
    windows->scored = windows->context - 1 - windows->first;
    windows->batch = BATCH_TOKENS / windows->context ? BATCH_TOKENS / windows->context : 1;
    if (windows->batch > windows->count) windows->batch = windows->count;
}

/* Decide context, windows and what is scored. */
static enum status plan(struct windows *windows, const struct model *model,
    const struct perplexity_options *options, struct error *err)
{
    const bool gptq = options->protocol == PERPLEXITY_GPTQ;
    const uint64_t usual = gptq ? 2048 : 512;
    const uint64_t trained = model->config.context;
    windows->context = options->context ? options->context : trained < usual ? trained : usual;
    if (windows->context < 4)
        return fail(err, ERR_USAGE, "--context %" PRIu64 " is too short; at least 4", windows->context);
    windows->count = windows->token_count / windows->context;
    if (windows->count == 0) {
        return fail(err, ERR_USAGE,
            "the text has %" PRIu64 " tokens, less than one window of %" PRIu64
            "; take a longer text or --context N",
            windows->token_count, windows->context);
    }
    if (options->max_windows && windows->count > options->max_windows) windows->count = options->max_windows;
    windows_place(windows, options->protocol);
    return OK;
}

/* llama.cpp's protocol: every window begins with BOS, if this tokenizer puts one in front of a text at all. */
static void replace_first_tokens(struct windows *windows, const struct model *model)
{
    uint32_t bos;
    if (!tokenizer_prefix(model->tokenizer, &bos)) return;
    for (uint64_t window = 0; window < windows->count; window++)
        windows->tokens[window * windows->context] = bos;
}

enum status windows_cut(struct windows *out, const struct model *model, const char *text, uint64_t text_bytes,
    const struct perplexity_options *options, const struct report *report, struct error *err)
{
    memset(out, 0, sizeof *out);
    if (!model->tokenizer) {
        return fail(err, ERR_UNSUPPORTED, "the model carries no tokenizer.json, so text cannot be scored");
    }
    enum status status =
        tokenizer_encode(model->tokenizer, &out->tokens, &out->token_count, text, text_bytes, true, err);
    if (status || (status = plan(out, model, options, err))) return status;
    if (options->protocol == PERPLEXITY_LLAMA_CPP) replace_first_tokens(out, model);
    if (out->context > model->config.context) {
        report_note(report, "note: context %" PRIu64 " is beyond the %" PRIu32 " tokens this model declares",
            out->context, model->config.context);
    }
    return OK;
}

void windows_free(struct windows *windows)
{
    memory_free(windows->tokens);
    memset(windows, 0, sizeof *windows);
}

uint64_t windows_logit_rows(const struct windows *windows, uint64_t vocabulary)
{
    uint64_t rows = LOGIT_FLOATS / vocabulary;
    rows = rows < ROWS_LEAST ? ROWS_LEAST : rows > ROWS_MOST ? ROWS_MOST : rows;
    return rows < windows->scored ? rows : windows->scored;
}

uint64_t windows_batch(const struct windows *windows, uint64_t begin)
{
    const uint64_t left = windows->count - begin;
    return left < windows->batch ? left : windows->batch;
}

uint32_t windows_target(const struct windows *windows, uint64_t window, uint64_t row)
{
    return windows->tokens[window * windows->context + windows->first + row + 1];
}
