/* See gguf_shape.h. */
#include "model/tokenizer/gguf_shape.h"

#include <string.h>

#include "model/tokenizer/steps.h"

#define SPACE "\xE2\x96\x81" /* U+2581 */

/* The sections while they are read. */
struct reading {
    struct gguf_shape *shape;
    bool replaced; /* spaces are U+2581 */
    bool trimmed;  /* spaces around the text go */
    bool removed;  /* what does not match a pattern is left out */
};

static enum status refuse(const char *type, const char *why, struct error *err)
{
    char quoted[80];

    return fail(err, ERR_UNSUPPORTED,
        "%s%s: GGUF has no place for it; other output formats keep tokenizer.json",
        error_quote(quoted, sizeof quoted, type, strlen(type)), why);
}

static bool is_pattern(const struct json_value *step, const char *kind, const char *text)
{
    return json_is_text(json_member(json_member(step, "pattern"), kind), text);
}

/* ---- the normalizer ---- */

static bool is_replace(const struct json_value *step, const char *type, const char *regex, const char *with)
{
    return strcmp(type, "Replace") == 0 && is_pattern(step, "Regex", regex) &&
           json_is_text(json_member(step, "content"), with);
}

/* First of all steps only. */
static enum status read_charsmap(struct reading *reading, const struct json_value *step, struct error *err)
{
    struct gguf_shape *shape = reading->shape;

    if (shape->charsmap.count || shape->nfc || shape->prefix_space || reading->replaced || reading->trimmed)
        return refuse("Precompiled", " after another step", err);
    const enum status status = step_text(step, "precompiled_charsmap", &shape->charsmap, err);
    return status ? status : json_get_bool(step, "Precompiled", "longest_match", &shape->longest, err);
}

static enum status read_normalizer(
    void *context, const struct json_value *step, const char *type, struct error *err)
{
    struct reading *reading = context;

    if (strcmp(type, "NFC") == 0) {
        reading->shape->nfc = true;
        return OK;
    }
    if (strcmp(type, "Precompiled") == 0) return read_charsmap(reading, step, err);
    if (!reading->replaced && !reading->shape->prefix_space) {
        if (is_replace(step, type, "\\A +| +\\z", "")) {
            reading->trimmed = true;
            return OK;
        }
        if (reading->trimmed && is_replace(step, type, "  +", " ")) {
            reading->shape->strip_spaces = true;
            return OK;
        }
    }
    if (strcmp(type, "Prepend") == 0 && json_is_text(json_member(step, "prepend"), SPACE)) {
        reading->shape->prefix_space = true;
        return OK;
    }
    if (strcmp(type, "Replace") == 0 && is_pattern(step, "String", " ") &&
        json_is_text(json_member(step, "content"), SPACE)) {
        reading->replaced = true;
        return OK;
    }
    return refuse(type, "", err);
}

/* ---- the pre-tokenizer ---- */

static enum status add_pattern(
    struct reading *reading, const struct json_text *pattern, const char *type, struct error *err)
{
    if (reading->shape->count == GGUF_PRE_PATTERNS)
        return refuse(type, ", a pattern more than any model has", err);
    reading->shape->patterns[reading->shape->count++] = *pattern;
    return OK;
}

/* A pattern that takes in every character may as well remove what does not match. */
static enum status read_split(struct reading *reading, const struct json_value *step, struct error *err)
{
    const struct json_value *regex = json_member(json_member(step, "pattern"), "Regex"),
                            *behavior = json_member(step, "behavior");
    bool invert = false;
    enum status status = json_get_bool(step, "Split", "invert", &invert, err);

    if (status) return status;
    if (is_pattern(step, "String", " ") && reading->replaced) return OK; /* there are no spaces any more */
    if (!regex || regex->kind != JSON_STRING) return refuse("Split", " at a String", err);
    if (json_is_text(behavior, "Removed") && invert)
        reading->removed = true;
    else if (!json_is_text(behavior, "Isolated"))
        return refuse("Split", " with this behavior", err);
    return add_pattern(reading, &regex->text, "Split", err);
}

static enum status read_byte_level(struct reading *reading, const struct json_value *step, struct error *err)
{
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    const struct json_text pattern = {gpt2, sizeof gpt2 - 1};
    bool prefix = false, regex = true;
    enum status status = step_flag(step, "add_prefix_space", &prefix, err);

    if (!status) status = json_get_bool(step, "ByteLevel", "use_regex", &regex, err);
    if (status) return status;
    if (prefix) return refuse("ByteLevel", " with add_prefix_space", err);
    reading->shape->byte_level = true;
    return regex ? add_pattern(reading, &pattern, "ByteLevel", err) : OK;
}

static enum status read_digits(struct reading *reading, const struct json_value *step, struct error *err)
{
    const struct json_text pattern = {"\\p{N}", 5};
    bool single = false;
    enum status status = step_flag(step, "individual_digits", &single, err);

    if (status) return status;
    return single ? add_pattern(reading, &pattern, "Digits", err) : refuse("Digits", " in groups", err);
}

static enum status read_metaspace(struct reading *reading, const struct json_value *step, struct error *err)
{
    struct gguf_shape *shape = reading->shape;
    const struct json_value *scheme = json_member(step, "prepend_scheme");
    bool prefix = true;
    enum status status = json_get_bool(step, "Metaspace", "add_prefix_space", &prefix, err);

    shape->split = true;
    if (!status) status = json_get_bool(step, "Metaspace", "split", &shape->split, err);
    if (status) return status;
    if (!json_is_text(json_member(step, "replacement"), SPACE) || shape->prefix_space || reading->replaced)
        return refuse("Metaspace", " after a normalizer that writes spaces, or with another character", err);
    shape->metaspace = reading->replaced = true;
    shape->prefix_space = scheme ? !json_is_text(scheme, "never") : prefix;
    return OK;
}

static enum status read_pre_tokenizer(
    void *context, const struct json_value *step, const char *type, struct error *err)
{
    struct reading *reading = context;

    if (reading->shape->byte_level) return refuse(type, " after ByteLevel", err);
    if (strcmp(type, "Split") == 0) return read_split(reading, step, err);
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(reading, step, err);
    if (strcmp(type, "Digits") == 0) return read_digits(reading, step, err);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(reading, step, err);
    return refuse(type, "", err);
}

/* ---- both ---- */

static enum status check_together(const struct reading *reading, struct error *err)
{
    const struct gguf_shape *shape = reading->shape;

    if (reading->trimmed != shape->strip_spaces)
        return refuse("Replace", " of spaces around a text alone", err);
    if (shape->byte_level && (shape->strip_spaces || shape->charsmap.count))
        return refuse("ByteLevel", " after steps that rewrite spaces or characters", err);
    if (shape->byte_level) {
        if (reading->replaced || shape->prefix_space)
            return refuse("ByteLevel", " after steps that rewrite spaces", err);
        if (reading->removed && shape->count > 1)
            return refuse("Split", " that removes, among other patterns,", err);
        return OK;
    }
    if (!reading->replaced)
        return fail(err, ERR_UNSUPPORTED,
            "neither ByteLevel nor Metaspace nor spaces replaced by U+2581: GGUF knows no such tokenizer");
    if (shape->nfc) return refuse("NFC", " before pieces", err);
    if (shape->count) return refuse("Split", " of pieces", err);
    return OK;
}

enum status gguf_shape_read(struct gguf_shape *out, const struct json_value *normalizer,
    const struct json_value *pre_tokenizer, struct error *err)
{
    struct reading reading = {.shape = out};
    enum status status;

    *out = (struct gguf_shape){0};
    status = steps_read(normalizer, "normalizers", read_normalizer, &reading, err);
    if (status) return fail_within(err, status, "normalizer");
    status = steps_read(pre_tokenizer, "pretokenizers", read_pre_tokenizer, &reading, err);
    if (!status) status = check_together(&reading, err);
    return status ? fail_within(err, status, "pre_tokenizer") : OK;
}
