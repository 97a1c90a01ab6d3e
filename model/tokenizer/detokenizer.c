/* One function per type of step, and the table of them. A step turns one list of texts into another. */
#include "model/tokenizer/detokenizer.h"

#include "base/memory.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/steps.h"
#include "model/tokenizer/unicode.h"

struct step;

/* One token, as a step sees it. */
struct token {
    const char *text;
    uint64_t bytes, index;
    bool last;
};

/* One row per type. A step rewrites tokens one by one (`map`, appending to a text), or the list as a whole (`apply`). */
struct kind {
    const char *type;
    enum status (*read)(struct step *step, const struct json_value *value, struct error *err);
    enum status (*map)(const struct step *step, struct pattern_scratch *scratch, const struct token *token,
        struct text *out, struct error *err);
    enum status (*apply)(const struct token_texts *tokens, struct token_texts *out, struct error *err);
};

struct step {
    const struct kind *kind;
    struct pattern *pattern; /* Replace, BPEDecoder */
    char *content;           /* Replace: what replaces; Strip, Metaspace: the character in question */
    uint64_t content_bytes;
    uint64_t start, stop; /* Strip */
    bool keep_first;      /* Metaspace */
};

struct detokenizer {
    struct step steps[STEP_LIMIT];
    unsigned count;
    bool none; /* no decoder at all, which is not the same as an empty list of steps */
};

/* ---- lists of texts ---- */

enum status token_texts_add(struct token_texts *texts, const char *bytes, uint64_t count, struct error *err)
{
    enum status status = text_append(&texts->bytes, bytes, count, err);

    if (status == OK && texts->count == texts->capacity)
        status = memory_grow(&texts->ends, &texts->capacity, texts->count + 64, sizeof *texts->ends, err);
    if (status == OK) texts->ends[texts->count++] = texts->bytes.count;
    return status;
}

void token_texts_free(struct token_texts *texts)
{
    text_free(&texts->bytes);
    memory_free(texts->ends);
    *texts = (struct token_texts){0};
}

static struct token token_at(const struct token_texts *tokens, uint64_t index)
{
    uint64_t begin = index > 0 ? tokens->ends[index - 1] : 0;

    return (struct token){
        tokens->bytes.bytes + begin, tokens->ends[index] - begin, index, index + 1 == tokens->count};
}

/* ---- Fuse, ByteLevel, ByteFallback: the list as a whole ---- */

static enum status apply_fuse(const struct token_texts *tokens, struct token_texts *out, struct error *err)
{
    return token_texts_add(out, tokens->bytes.bytes, tokens->bytes.count, err);
}

/* Append a token's bytes, if all its characters stand for bytes; or else as it is. */
static enum status append_bytes(const struct token *token, struct text *out, struct error *err)
{
    uint64_t begin = out->count;
    unsigned length;

    if (text_reserve(out, token->bytes, err) != OK) return ERR_MEMORY;
    for (uint64_t at = 0; at < token->bytes; at += length) {
        int byte = byte_level_byte(unicode_decode(token->text + at, &length));
        if (byte < 0) {
            out->count = begin;
            return text_append(out, token->text, token->bytes, err);
        }
        out->bytes[out->count++] = (char)byte;
    }
    return OK;
}

static enum status apply_byte_level(
    const struct token_texts *tokens, struct token_texts *out, struct error *err)
{
    struct text bytes = {0}, repaired = {0};
    enum status status = text_reserve(&bytes, 1, err);

    for (uint64_t i = 0; i < tokens->count && status == OK; i++) {
        struct token token = token_at(tokens, i);
        status = append_bytes(&token, &bytes, err);
    }
    if (status == OK) status = unicode_repair(&repaired, bytes.bytes, bytes.count, err);
    if (status == OK) status = token_texts_add(out, repaired.bytes, repaired.count, err);
    text_free(&bytes);
    text_free(&repaired);
    return status;
}

static int hexadecimal(char digit)
{
    if (digit >= '0' && digit <= '9') return digit - '0';
    if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f') return (digit | 0x20) - 'a' + 10;
    return -1;
}

/* The byte of a token like <0x0A>, or -1. */
static int byte_of_token(const struct token *token)
{
    if (token->bytes != 6 || memcmp(token->text, "<0x", 3) != 0 || token->text[5] != '>') return -1;
    int high = hexadecimal(token->text[3]), low = hexadecimal(token->text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* A run of byte tokens becomes one text, or U+FFFD for each byte if it is not well-formed as a whole. */
static enum status end_bytes(struct text *bytes, struct token_texts *out, struct error *err)
{
    enum status status = OK;

    if (bytes->count > 0 && json_valid_utf8(bytes->bytes, bytes->count)) {
        status = token_texts_add(out, bytes->bytes, bytes->count, err);
    } else {
        for (uint64_t i = 0; i < bytes->count && status == OK; i++)
            status = token_texts_add(out, "\xEF\xBF\xBD", 3, err);
    }
    bytes->count = 0;
    return status;
}

static enum status apply_fallback(
    const struct token_texts *tokens, struct token_texts *out, struct error *err)
{
    struct text bytes = {0};
    enum status status = OK;

    for (uint64_t i = 0; i < tokens->count && status == OK; i++) {
        struct token token = token_at(tokens, i);
        int value = byte_of_token(&token);
        char byte = (char)value;
        if (value >= 0) {
            status = text_append(&bytes, &byte, 1, err);
            continue;
        }
        status = end_bytes(&bytes, out, err);
        if (status == OK) status = token_texts_add(out, token.text, token.bytes, err);
    }
    if (status == OK) status = end_bytes(&bytes, out, err);
    text_free(&bytes);
    return status;
}

/* ---- Replace, BPEDecoder, Strip, Metaspace: token by token ---- */

static enum status keep_content(struct step *step, const struct json_text *content, struct error *err)
{
    step->content = memory_text(content->bytes, content->count, err);
    step->content_bytes = content->count;
    return step->content ? OK : ERR_MEMORY;
}

static enum status read_replace(struct step *step, const struct json_value *value, struct error *err)
{
    struct json_text content;
    enum status status = step_text(value, "content", &content, err);

    if (status == OK) status = keep_content(step, &content, err);
    return status == OK ? pattern_read(&step->pattern, json_member(value, "pattern"), err) : status;
}

/* Append the token with every match replaced. */
static enum status replace(const struct pattern *pattern, struct pattern_scratch *scratch,
    const struct token *token, const char *content, uint64_t content_bytes, struct text *out,
    struct error *err)
{
    struct pattern_walk walk;
    uint64_t copied = 0;
    bool found;
    enum status status;

    pattern_walk_init(&walk, pattern, scratch, token->text, token->bytes);
    while ((status = pattern_next(&walk, &found, err)) == OK && found) {
        status = text_append(out, token->text + copied, walk.begin - copied, err);
        if (status == OK) status = text_append(out, content, content_bytes, err);
        if (status != OK) return status;
        copied = walk.end;
    }
    return status == OK ? text_append(out, token->text + copied, token->bytes - copied, err) : status;
}

static enum status map_replace(const struct step *step, struct pattern_scratch *scratch,
    const struct token *token, struct text *out, struct error *err)
{
    if (token->bytes == 0) return OK; /* not even an empty match */
    return replace(step->pattern, scratch, token, step->content, step->content_bytes, out, err);
}

static enum status read_suffix(struct step *step, const struct json_value *value, struct error *err)
{
    struct json_text suffix;
    enum status status = step_text(value, "suffix", &suffix, err);

    return status == OK ? pattern_literal(&step->pattern, suffix.bytes, suffix.count, err) : status;
}

static enum status map_suffix(const struct step *step, struct pattern_scratch *scratch,
    const struct token *token, struct text *out, struct error *err)
{
    return replace(step->pattern, scratch, token, " ", token->last ? 0 : 1, out, err);
}

static enum status read_strip(struct step *step, const struct json_value *value, struct error *err)
{
    struct json_text content;
    enum status status = step_character(value, "content", &content, err);

    if (status == OK) status = keep_content(step, &content, err);
    if (status == OK) status = json_get_u64(value, "Strip", "start", 0, UINT32_MAX, &step->start, err);
    return status == OK ? json_get_u64(value, "Strip", "stop", 0, UINT32_MAX, &step->stop, err) : status;
}

static enum status map_strip(const struct step *step, struct pattern_scratch *scratch,
    const struct token *token, struct text *out, struct error *err)
{
    const char *begin = token->text, *end = begin + token->bytes;
    uint64_t bytes = step->content_bytes;

    (void)scratch;
    for (uint64_t i = 0; i < step->start && (uint64_t)(end - begin) >= bytes; i++) {
        if (memcmp(begin, step->content, bytes) != 0) break;
        begin += bytes;
    }
    for (uint64_t i = 0; i < step->stop && (uint64_t)(end - begin) >= bytes; i++) {
        if (memcmp(end - bytes, step->content, bytes) != 0) break;
        end -= bytes;
    }
    return text_append(out, begin, (uint64_t)(end - begin), err);
}

static enum status read_metaspace(struct step *step, const struct json_value *value, struct error *err)
{
    const struct json_value *scheme = json_member(value, "prepend_scheme");
    struct json_text replacement;
    bool prefix_space = true;
    enum status status = step_character(value, "replacement", &replacement, err);

    if (status == OK) status = keep_content(step, &replacement, err);
    if (status == OK) status = json_get_bool(value, "Metaspace", "add_prefix_space", &prefix_space, err);
    step->keep_first = scheme ? json_is_text(scheme, "never") : !prefix_space;
    return status;
}

/* The character becomes a space; in the first token it goes away, since it was put there when encoding. */
static enum status map_metaspace(const struct step *step, struct pattern_scratch *scratch,
    const struct token *token, struct text *out, struct error *err)
{
    enum status status = OK;
    unsigned length;

    (void)scratch;
    for (uint64_t at = 0; at < token->bytes && status == OK; at += length) {
        length = unicode_length(token->text[at]);
        if (length != step->content_bytes || memcmp(token->text + at, step->content, length) != 0)
            status = text_append(out, token->text + at, length, err);
        else if (token->index > 0 || step->keep_first)
            status = text_append(out, " ", 1, err);
    }
    return status;
}

/* ---- the list ---- */

static const struct kind kinds[] = {
    {"ByteLevel", NULL, NULL, apply_byte_level},
    {"ByteFallback", NULL, NULL, apply_fallback},
    {"Fuse", NULL, NULL, apply_fuse},
    {"Metaspace", read_metaspace, map_metaspace, NULL},
    {"Replace", read_replace, map_replace, NULL},
    {"Strip", read_strip, map_strip, NULL},
    {"BPEDecoder", read_suffix, map_suffix, NULL},
};

static enum status add_step(
    void *context, const struct json_value *value, const char *type, struct error *err)
{
    struct detokenizer *detokenizer = context;
    struct step *step = &detokenizer->steps[detokenizer->count];

    for (uint64_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        step->kind = &kinds[i];
        detokenizer->count++;
        return step->kind->read ? step->kind->read(step, value, err) : OK;
    }
    return steps_unknown(type, err);
}

enum status detokenizer_create(struct detokenizer **out, const struct json_value *section, struct error *err)
{
    struct detokenizer *detokenizer = memory_new(1, sizeof *detokenizer, err);
    enum status status =
        detokenizer ? steps_read(section, "decoders", add_step, detokenizer, err) : ERR_MEMORY;

    if (status == OK) {
        detokenizer->none = !section || section->kind == JSON_NULL;
        *out = detokenizer;
    } else {
        detokenizer_free(detokenizer);
    }
    return status;
}

void detokenizer_free(struct detokenizer *detokenizer)
{
    if (!detokenizer) return;
    for (unsigned i = 0; i < detokenizer->count; i++) {
        pattern_free(detokenizer->steps[i].pattern);
        memory_free(detokenizer->steps[i].content);
    }
    memory_free(detokenizer);
}

static enum status run_step(const struct step *step, struct pattern_scratch *scratch,
    const struct token_texts *tokens, struct token_texts *out, struct error *err)
{
    enum status status = OK;

    if (step->kind->apply) return step->kind->apply(tokens, out, err);
    for (uint64_t i = 0; i < tokens->count && status == OK; i++) {
        struct token token = token_at(tokens, i);
        status = step->kind->map(step, scratch, &token, &out->bytes, err);
        if (status == OK) status = token_texts_add(out, NULL, 0, err); /* ends the text that `map` wrote */
    }
    return status;
}

static enum status join_with_spaces(const struct token_texts *tokens, struct text *out, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < tokens->count && status == OK; i++) {
        struct token token = token_at(tokens, i);
        status = text_append(out, token.text, token.bytes, err);
        if (status == OK && !token.last) status = text_append(out, " ", 1, err);
    }
    return status;
}

enum status detokenizer_apply(const struct detokenizer *detokenizer, struct pattern_scratch *scratch,
    struct token_texts *tokens, struct text *out, struct error *err)
{
    struct token_texts written = {.bytes.limit = tokens->bytes.limit};
    enum status status = text_reserve(&tokens->bytes, 1, err); /* so that even no text has an address */

    if (status == OK && detokenizer->none) return join_with_spaces(tokens, out, err);
    if (status == OK) status = text_reserve(&written.bytes, 1, err);
    for (unsigned i = 0; i < detokenizer->count && status == OK; i++) {
        written.count = written.bytes.count = 0;
        status = run_step(&detokenizer->steps[i], scratch, tokens, &written, err);
        struct token_texts old = *tokens;
        *tokens = written;
        written = old;
    }
    if (status == OK) status = text_append(out, tokens->bytes.bytes, tokens->bytes.count, err);
    token_texts_free(&written);
    return status;
}
