/* See generate.h. */
#include "runtime-check/generate/generate.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/report.h"

/* The state of one generation. */
struct generation {
    struct model *model;
    struct session *session;
    float *hidden;                                                 /* [prompt tokens][hidden] */
    float *logits;                                                 /* [vocabulary] */
    struct sampling_candidate *scratch;                            /* [vocabulary] */
    uint8_t *occurred;                                             /* scratch of sampling_penalize */
    uint32_t *ids;                                                 /* prompt, then new tokens */
    uint64_t count;                                                /* of ids */
    uint64_t shown;                                                /* bytes of the text already emitted */
    void (*emit)(void *context, const char *text, uint64_t bytes); /* may be NULL */
    void *emit_context;
};

/* Bytes at the end of text that may still change: a replacement character stands for a sequence not yet complete. */
static uint64_t settled(const char *text, uint64_t bytes)
{
    while (bytes >= 3 && memcmp(text + bytes - 3, "\xef\xbf\xbd", 3) == 0)
        bytes -= 3;
    return bytes;
}

/* Decode prompt and continuation together, so that the space between them comes out right, and hand over what is new. */
static enum status emit_new(struct generation *run, bool last, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status =
        tokenizer_decode(run->model->tokenizer, &text, &bytes, run->ids, run->count, true, err);
    if (status) return status;
    const uint64_t until = last ? bytes : settled(text, bytes);
    if (until > run->shown) {
        if (run->emit) run->emit(run->emit_context, text + run->shown, until - run->shown);
        run->shown = until;
    }
    memory_free(text);
    return OK;
}

/* Vocabularies are often padded beyond the tokenizer's tokens; an id that stands for no text must not be picked. */
static void exclude_padding(const struct model *model, float *logits)
{
    uint64_t bytes;
    for (uint32_t id = 0; id < model->config.vocabulary; id++) {
        if (!tokenizer_token(model->tokenizer, id, &bytes)) logits[id] = -INFINITY;
    }
}

/* Run `length` tokens from ids[begin] and leave the logits of the last in run->logits. */
static enum status advance(struct generation *run, uint64_t begin, uint64_t length, struct error *err)
{
    const float *last = run->hidden + (length - 1) * run->model->config.hidden;
    enum status status = session_step(run->session, run->hidden, run->ids + begin, length, err);
    if (!status) status = model_logits(run->model, run->logits, last, 1, err);
    if (!status) exclude_padding(run->model, run->logits);
    return status;
}

static enum status prepare(struct generation *run, const char *prompt, uint64_t prompt_bytes,
    const struct generate_options *options, struct error *err)
{
    const struct model_config *config = &run->model->config;
    uint32_t *prompt_ids = NULL;
    enum status status =
        tokenizer_encode(run->model->tokenizer, &prompt_ids, &run->count, prompt, prompt_bytes, true, err);
    if (status) return status;
    if (run->count == 0) {
        memory_free(prompt_ids);
        return fail(err, ERR_USAGE, "the prompt is empty and this tokenizer adds no BOS; give --prompt TEXT");
    }
    status = ERR_MEMORY;
    if ((run->ids = memory_new(run->count + options->tokens, sizeof *run->ids, err)) &&
        (run->hidden = memory_new(run->count * config->hidden, sizeof(float), err)) &&
        (run->logits = memory_new(config->vocabulary, sizeof(float), err)) &&
        (run->scratch = memory_new(config->vocabulary, sizeof *run->scratch, err)) &&
        (run->occurred = memory_new((config->vocabulary + 7) / 8, 1, err))) {
        memcpy(run->ids, prompt_ids, run->count * sizeof *run->ids);
        status = session_create(&run->session, run->model, 1, run->count + options->tokens, err);
    }
    memory_free(prompt_ids);
    return status;
}

/* Sample, emit and run one token after the other, until enough or an end-of-sequence token. The logits of the prompt's
 * last token are there. */
static enum status continue_text(
    struct generation *run, const struct generate_options *options, bool *stopped, struct error *err)
{
    const uint64_t enough = run->count + options->tokens, vocabulary = run->model->config.vocabulary;
    uint64_t random = options->seed;
    enum status status = emit_new(run, false, err);
    while (!status && run->count < enough) {
        sampling_penalize(run->logits, vocabulary, run->ids, run->count, options->sampling.repetition_penalty,
            run->occurred);
        const uint32_t id = sampling_pick(run->logits, vocabulary, &options->sampling, &random, run->scratch);
        *stopped = !options->ignore_eos && sampling_is_stop(&run->model->config, id);
        if (*stopped) break;
        run->ids[run->count++] = id;
        status = emit_new(run, false, err);
        if (!status && run->count < enough) status = advance(run, run->count - 1, 1, err);
    }
    return status ? status : emit_new(run, true, err);
}

static enum status copy_ids(uint32_t **out, const uint32_t *ids, uint64_t count, struct error *err)
{
    if (!(*out = memory_new(count, sizeof *ids, err))) return ERR_MEMORY;
    memcpy(*out, ids, count * sizeof *ids);
    return OK;
}

enum status generate_text(struct generate_result *out, uint32_t **ids, struct model *model,
    const char *prompt, uint64_t prompt_bytes, const struct generate_options *options,
    void (*emit)(void *context, const char *text, uint64_t bytes), void *context, struct error *err)
{
    struct generation run = {.model = model, .emit = emit, .emit_context = context};
    *out = (struct generate_result){0};
    if (ids) *ids = NULL;
    if (!model->tokenizer) {
        return fail(err, ERR_UNSUPPORTED, "the model carries no tokenizer.json, so text cannot be generated");
    }
    enum status status = prepare(&run, prompt, prompt_bytes, options, err);
    out->prompt_tokens = run.count;
    double start = report_seconds();
    if (!status) status = advance(&run, 0, run.count, err);
    out->prompt_seconds = report_seconds() - start;
    start = report_seconds();
    if (!status) status = continue_text(&run, options, &out->stopped, err);
    out->new_seconds = report_seconds() - start;
    out->new_tokens = run.count - out->prompt_tokens;
    if (!status && ids) status = copy_ids(ids, run.ids + out->prompt_tokens, out->new_tokens, err);
    session_free(run.session);
    memory_free(run.hidden);
    memory_free(run.logits);
    memory_free(run.scratch);
    memory_free(run.occurred);
    memory_free(run.ids);
    return status;
}
