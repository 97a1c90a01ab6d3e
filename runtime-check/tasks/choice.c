/* See choice.h. */
#include "runtime-check/tasks/choice.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/tasks/task_clean.h"

void choice_free(struct choice_tokens *tokens)
{
    memory_free(tokens->ids);
    text_free(&tokens->before);
    text_free(&tokens->whole);
}

static enum status append(
    struct text *out, const struct task_file *file, struct task_text text, struct error *err)
{
    return text_append(out, task_file_text(file, text), text.bytes, err);
}

/* Put together what stands before a choice and, whole, both; white space between them goes with the choice. *bare: there is
 * nothing before. */
static enum status compose(struct choice_tokens *tokens, bool *bare, const struct task_file *file,
    const struct task_item *item, const struct task_choice *choice, struct error *err)
{
    struct text *before = &tokens->before, *whole = &tokens->whole;
    before->count = whole->count = 0;
    enum status status = append(before, file, item->description, err);
    if (!status) status = text_append(before, file->examples.bytes, file->examples.count, err);
    if (!status) status = append(before, file, choice->context, err);
    if (!status) status = text_append(whole, before->bytes, before->count, err);
    if (!status) status = append(whole, file, choice->continuation, err);
    *bare = before->count == 0;
    if (!*bare) before->count = task_clean_end((struct json_text){before->bytes, before->count}).count;
    return status;
}

/* The token that stands before a text that has nothing before it. */
static bool find_prefix(const struct model *model, uint32_t *id)
{
    const struct model_config *config = &model->config;
    if (tokenizer_prefix(model->tokenizer, id)) return true;
    const int64_t found = config->bos >= 0 ? config->bos : config->stop_count ? config->stops[0] : -1;
    if (found >= 0) *id = (uint32_t)found;
    return found >= 0;
}

/* Tokens of both texts: out is before, then whole without its first as many tokens. */
static enum status tokenize(
    struct choice_tokens *tokens, const struct model *model, bool bare, struct error *err)
{
    const struct text *before = &tokens->before, *whole = &tokens->whole;
    uint32_t *whole_ids = NULL, *before_ids = NULL, prefix;
    uint64_t whole_count = 0, before_count = 0, skip;
    enum status status =
        tokenizer_encode(model->tokenizer, &whole_ids, &whole_count, whole->bytes, whole->count, !bare, err);
    if (!status && !bare) {
        status = tokenizer_encode(
            model->tokenizer, &before_ids, &before_count, before->bytes, before->count, true, err);
    }
    if (status) goto done;
    skip = before_count;
    if (bare && find_prefix(model, &prefix)) before_count = 1;
    if (before_count == 0) {
        status = fail(err, ERR_FORMAT, "nothing stands before the choices, and the tokenizer adds no BOS");
        goto done;
    }
    tokens->scored = whole_count > skip ? whole_count - skip : 0;
    tokens->count = before_count + tokens->scored;
    memory_free(tokens->ids);
    tokens->ids = memory_new(tokens->count, sizeof *tokens->ids, err);
    if (!tokens->ids) {
        status = ERR_MEMORY;
        goto done;
    }
    memcpy(tokens->ids, bare ? &prefix : before_ids, before_count * sizeof *tokens->ids);
    if (tokens->scored)
        memcpy(tokens->ids + before_count, whole_ids + skip, tokens->scored * sizeof *tokens->ids);
done:
    memory_free(whole_ids);
    memory_free(before_ids);
    return status;
}

/* Keep the last context + 1 tokens: the last is predicted, not run. */
static void truncate_left(struct choice_tokens *tokens, uint64_t context)
{
    tokens->truncated = tokens->count > context + 1;
    if (!tokens->truncated) return;
    const uint64_t cut = tokens->count - (context + 1);
    memmove(tokens->ids, tokens->ids + cut, (context + 1) * sizeof *tokens->ids);
    tokens->count = context + 1;
}

static enum status prepare(struct choice_tokens *tokens, const struct model *model,
    const struct task_file *file, const struct task_item *item, const struct task_choice *choice,
    uint64_t context, struct error *err)
{
    bool bare;
    enum status status = compose(tokens, &bare, file, item, choice, err);
    if (!status) status = tokenize(tokens, model, bare, err);
    if (!status && tokens->scored == 0) {
        status = fail(err, ERR_FORMAT,
            "it has no token of its own: the tokenizer merges it with the text before it or drops it");
    }
    if (!status && tokens->scored > context) {
        status = fail(err, ERR_FORMAT, "it has %" PRIu64 " tokens, more than the context of %" PRIu64,
            tokens->scored, context);
    }
    if (!status) truncate_left(tokens, context);
    return status;
}

enum status choice_tokenize(struct choice_tokens *out, const struct model *model,
    const struct task_file *file, const struct task_item *item, uint32_t index, uint64_t context,
    struct error *err)
{
    const struct task_choice *choice = &file->choices[item->first + index];
    const enum status status = prepare(out, model, file, item, choice, context, err);
    return status ? fail_within(err, status, "line %" PRIu64 ", choice %" PRIu32, item->line, index + 1) : OK;
}
