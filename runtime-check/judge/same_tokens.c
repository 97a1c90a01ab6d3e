/* See same_tokens.h. */
#include "runtime-check/judge/same_tokens.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

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

static bool same_token(const struct model *a, const struct model *b, uint32_t id)
{
    uint64_t a_bytes = 0, b_bytes = 0;
    const char *a_token = tokenizer_token(a->tokenizer, id, &a_bytes);
    const char *b_token = tokenizer_token(b->tokenizer, id, &b_bytes);
    if (!a_token || !b_token) return a_token == b_token;
    return a_bytes == b_bytes && memcmp(a_token, b_token, a_bytes) == 0;
}

static enum status check_every_token(
    const struct model *base, const struct model *candidate, struct error *err)
{
    for (uint32_t id = 0; id < base->config.vocabulary; id++) {
        if (same_token(base, candidate, id)) continue;
        return fail(err, ERR_USAGE,
            "%s and %s have different tokenizers: token %" PRIu32 " is not the same text in both",
            container_path(base->container), container_path(candidate->container), id);
    }
    return OK;
}

/* What a text uses decides: two tokenizers may differ in tokens that it has not. */
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

enum status same_tokens_check(
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
    return text ? check_ids(base, candidate, text, text_bytes, err) : check_every_token(base, candidate, err);
}
