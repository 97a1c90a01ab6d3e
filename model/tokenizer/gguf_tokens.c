/* See gguf_tokens.h. */
#include "model/tokenizer/gguf_tokens.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES "tokenizer.ggml.token_type"
#define SCORES "tokenizer.ggml.scores"

static enum status read_contents(
    struct vocabulary *vocabulary, const struct metadata_item *list, struct error *err)
{
    const uint8_t *at = list->bytes;
    enum status status = OK;

    for (uint64_t i = 0; i < list->count && !status; i++) {
        uint64_t bytes;
        const char *content = metadata_next_string(&at, &bytes);
        if (bytes > UINT32_MAX || memchr(content, 0, bytes) || !json_valid_utf8(content, bytes))
            return fail(err, ERR_FORMAT, TOKENS "[%" PRIu64 "]: is no UTF-8 text without U+0000", i);
        status = vocabulary_add(vocabulary, content, bytes, i, err);
        if (status) fail_within(err, status, TOKENS "[%" PRIu64 "]", i);
    }
    return status;
}

/* A list beside the tokens; NULL where there is none. */
static enum status read_beside(const struct metadata_item **out, const struct metadata *metadata,
    const char *key, enum metadata_type element, uint64_t tokens, struct error *err)
{
    enum status status = metadata_get_array(metadata, key, element, out, err);

    if (status || !*out || (*out)->count == tokens) return status;
    return fail(err, ERR_FORMAT, "%s: %" PRIu64 " elements, there are %" PRIu64 " tokens", key, (*out)->count,
        tokens);
}

static enum status check_numbers(const struct gguf_tokens *tokens, struct error *err)
{
    for (uint64_t i = 0; tokens->types && i < tokens->types->count; i++) {
        const double type = metadata_number_at(tokens->types, i);
        if (type < 0 || type >= GGUF_TOKEN_TYPES)
            return fail(err, ERR_FORMAT, TYPES "[%" PRIu64 "]: %g is no type of token", i, type);
    }
    for (uint64_t i = 0; tokens->scores && i < tokens->scores->count; i++) {
        if (!isfinite(metadata_number_at(tokens->scores, i)))
            return fail(err, ERR_FORMAT, SCORES "[%" PRIu64 "]: is not finite", i);
    }
    return OK;
}

enum status gguf_tokens_read(struct gguf_tokens *out, const struct metadata *metadata, struct error *err)
{
    const struct metadata_item *list;
    enum status status = metadata_get_array(metadata, TOKENS, METADATA_STRING, &list, err);

    if (status) return status;
    if (!list) return fail(err, ERR_FORMAT, TOKENS " is missing");
    if (list->count == 0) return fail(err, ERR_FORMAT, TOKENS ": is empty");
    status = read_contents(&out->vocabulary, list, err);
    if (!status) status = read_beside(&out->types, metadata, TYPES, METADATA_I32, list->count, err);
    if (!status) status = read_beside(&out->scores, metadata, SCORES, METADATA_F32, list->count, err);
    return status ? status : check_numbers(out, err);
}

void gguf_tokens_free(struct gguf_tokens *tokens)
{
    vocabulary_free(&tokens->vocabulary);
}

enum gguf_token_type gguf_tokens_type(const struct gguf_tokens *tokens, uint32_t id)
{
    if (!tokens->types) return GGUF_TOKEN_NORMAL;
    return (enum gguf_token_type)metadata_number_at(tokens->types, id);
}
