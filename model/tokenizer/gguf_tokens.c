/* See gguf_tokens.h. */
#include "model/tokenizer/gguf_tokens.h"

#include <inttypes.h>
#include <math.h>

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES "tokenizer.ggml.token_type"
#define SCORES "tokenizer.ggml.scores"

/* The lists of the file; types and scores NULL where it has none. */
struct lists {
    const struct metadata_item *contents, *types, *scores;
};

static enum status read_beside(const struct metadata_item **out, const struct metadata *metadata,
    const char *key, enum metadata_type element, uint64_t tokens, struct error *err)
{
    enum status status = metadata_get_array(metadata, key, element, out, err);

    if (status || !*out || (*out)->count == tokens) return status;
    return fail(err, ERR_FORMAT, "%s: %" PRIu64 " elements, there are %" PRIu64 " tokens", key, (*out)->count,
        tokens);
}

static enum status read_lists(struct lists *out, const struct metadata *metadata, struct error *err)
{
    enum status status = metadata_get_array(metadata, TOKENS, METADATA_STRING, &out->contents, err);

    if (status) return status;
    if (!out->contents) return fail(err, ERR_FORMAT, TOKENS " is missing");
    const uint64_t count = out->contents->count;
    if (count == 0) return fail(err, ERR_FORMAT, TOKENS ": is empty");
    status = read_beside(&out->types, metadata, TYPES, METADATA_I32, count, err);
    return status ? status : read_beside(&out->scores, metadata, SCORES, METADATA_F32, count, err);
}

static enum status read_token(struct token *out, const struct lists *lists, uint64_t index, struct error *err)
{
    const double type = lists->types ? metadata_number_at(lists->types, index) : TOKEN_NORMAL;
    const double score = lists->scores ? metadata_number_at(lists->scores, index) : 0;

    if (type < 0 || type >= TOKEN_TYPES)
        return fail(err, ERR_FORMAT, TYPES "[%" PRIu64 "]: %g is no type of token", index, type);
    if (!isfinite(score)) return fail(err, ERR_FORMAT, SCORES "[%" PRIu64 "]: is not finite", index);
    *out = (struct token){.type = (enum token_type)type, .score = (float)score};
    return OK;
}

enum status gguf_tokens_read(
    struct token_list *out, bool *scored, const struct metadata *metadata, struct error *err)
{
    struct lists lists = {0};
    enum status status = read_lists(&lists, metadata, err);

    if (status) return status;
    const uint8_t *at = lists.contents->bytes;
    *scored = lists.scores != NULL;
    for (uint64_t i = 0; i < lists.contents->count && !status; i++) {
        uint64_t bytes;
        const char *content = metadata_next_string(&at, &bytes);
        struct token token;
        status = read_token(&token, &lists, i, err);
        if (status) break;
        status = token_list_add(out, content, bytes, i, &token, err);
        if (status) fail_within(err, status, TOKENS "[%" PRIu64 "]", i);
    }
    return status;
}
