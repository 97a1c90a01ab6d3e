/* See speculate_prompts.h. */
#include "runtime-check/generate/speculate_prompts.h"

#include <inttypes.h>
#include <math.h>

#include "base/memory.h"

enum status speculate_prompts_windows(struct prompts *prompts, const struct model *model, const char *text,
    uint64_t bytes, uint64_t count, uint64_t length, struct error *err)
{
    uint32_t *ids = NULL, bos;
    uint64_t found = 0;
    enum status status = prompts_need_tokenizer(model, err);
    if (!status) status = tokenizer_encode(model->tokenizer, &ids, &found, text, bytes, true, err);
    if (!status && found / length < count) {
        status = fail(err, ERR_USAGE,
            "the text has %" PRIu64 " tokens, less than %" PRIu64 " prompts of %" PRIu64
            "; take a longer text or less",
            found, count, length);
    }
    for (uint64_t i = 0; i < count && !status; i++) {
        uint32_t *window = ids + i * (found / count);
        if (tokenizer_prefix(model->tokenizer, &bos)) window[0] = bos;
        status = prompts_append(prompts, window, length, err);
    }
    memory_free(ids);
    return status;
}

/* Take the id of the highest logit out of the row. */
static uint32_t take_highest(float *logits, uint32_t vocabulary)
{
    uint32_t best = 0;
    for (uint32_t id = 1; id < vocabulary; id++) {
        if (logits[id] > logits[best]) best = id;
    }
    logits[best] = -INFINITY;
    return best;
}

static enum status logits_after(struct model *model, uint32_t token, float *logits, struct error *err)
{
    struct session *session = NULL;
    float *hidden = memory_new(model->config.hidden, sizeof *hidden, err);
    enum status status = hidden ? session_create(&session, model, 1, 1, err) : ERR_MEMORY;
    if (!status) status = session_step(session, hidden, &token, 1, err);
    if (!status) status = model_logits(model, logits, hidden, 1, err);
    session_free(session);
    memory_free(hidden);
    return status;
}

enum status speculate_prompts_likeliest(
    struct prompts *prompts, struct model *model, uint64_t count, struct error *err)
{
    uint32_t pair[2];
    float *logits = NULL;
    enum status status = prompts_need_tokenizer(model, err);
    if (status) return status;
    if (!tokenizer_prefix(model->tokenizer, &pair[0])) {
        return fail(err, ERR_USAGE,
            "this tokenizer puts no BOS in front, so there is nothing to start from; give --prompt TEXT, "
            "--prompts "
            "FILE or --text FILE");
    }
    if (!(logits = memory_new(model->config.vocabulary, sizeof *logits, err))) return ERR_MEMORY;
    status = logits_after(model, pair[0], logits, err);
    for (uint64_t i = 0; i < count && i < model->config.vocabulary && !status; i++) {
        pair[1] = take_highest(logits, model->config.vocabulary);
        status = prompts_append(prompts, pair, 2, err);
    }
    memory_free(logits);
    return status;
}
