/* One function per type of step, and the table of them. A step reads the text and writes to the other of two buffers. */
#include "model/tokenizer/normalizer.h"

#include "base/base64.h"
#include "base/memory.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/charsmap.h"
#include "model/tokenizer/steps.h"
#include "model/tokenizer/unicode.h"

struct step;

/* One row per type: how to read it and how to run it. */
struct kind {
    const char *type;
    enum status (*read)(struct step *step, const struct json_value *value, struct error *err);
    enum status (*apply)(const struct step *step, struct pattern_scratch *scratch, struct normal_text *text,
        struct error *err);
    enum unicode_form form;
};

struct step {
    const struct kind *kind;
    struct pattern *pattern;   /* Replace */
    struct charsmap *charsmap; /* Precompiled */
    bool longest;              /* Precompiled */
    char *content;             /* Replace, Prepend */
    uint64_t content_bytes;
    bool left, right; /* Strip */
};

struct normalizer {
    struct step steps[STEP_LIMIT];
    unsigned count;
};

/* ---- buffers ---- */

/* The buffer that does not hold the text, emptied. */
static struct text *other_buffer(struct normal_text *text)
{
    struct text *buffer = &text->buffers[1 - text->holder];

    buffer->count = 0;
    return buffer;
}

/* What was written becomes the text. */
static enum status settle(struct normal_text *text, const struct text *written, enum status status)
{
    text->holder = written == &text->buffers[1];
    text->text = written->bytes ? written->bytes : "";
    text->bytes = written->count;
    return status;
}

void normal_text_free(struct normal_text *text)
{
    text_free(&text->buffers[0]);
    text_free(&text->buffers[1]);
}

/* ---- the steps ---- */

static enum status apply_form(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    enum status status = unicode_normalize(out, text->text, text->first, step->kind->form, err);
    uint64_t first = out->count;

    (void)scratch;
    out->count = 0;
    if (status == OK) status = unicode_normalize(out, text->text, text->bytes, step->kind->form, err);
    /* Marks that follow may have changed the first character; it still ends between two characters. */
    while (first < out->count && ((uint8_t)out->bytes[first] & 0xC0) == 0x80)
        first++;
    text->first = first < out->count ? first : out->count;
    return settle(text, out, status);
}

static enum status apply_lower(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    uint64_t first = text->first;
    enum status status = unicode_lower(out, text->text, first, err);

    (void)step, (void)scratch;
    text->first = out->count;
    if (status == OK) status = unicode_lower(out, text->text + first, text->bytes - first, err);
    return settle(text, out, status);
}

static enum status read_strip(struct step *step, const struct json_value *value, struct error *err)
{
    enum status status = step_flag(value, "strip_left", &step->left, err);

    return status == OK ? step_flag(value, "strip_right", &step->right, err) : status;
}

static enum status apply_strip(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    (void)scratch, (void)err;
    while (step->left && text->bytes > 0) {
        unsigned length;
        if (!unicode_is_space(unicode_decode(text->text, &length))) break;
        text->text += length;
        text->bytes -= length;
        text->first -= text->first > 0 ? length : 0;
    }
    while (step->right && text->bytes > 0) {
        const char *end = text->text + text->bytes;
        if (!unicode_is_space(unicode_decode_before(end))) break;
        do {
            text->bytes--;
        } while (((uint8_t) * --end & 0xC0) == 0x80);
    }
    if (text->first > text->bytes) text->first = text->bytes;
    return OK;
}

static enum status apply_accents(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    uint64_t first = 0;
    enum status status = OK;
    unsigned length;

    (void)step, (void)scratch;
    for (uint64_t at = 0; at < text->bytes && status == OK; at += length) {
        if (!unicode_is_mark(unicode_decode(text->text + at, &length)))
            status = text_append(out, text->text + at, length, err);
        if (at < text->first) first = out->count;
    }
    text->first = first;
    return settle(text, out, status);
}

/* Keep the text that Replace and Prepend insert. */
static enum status read_content(
    struct step *step, const struct json_value *value, const char *key, struct error *err)
{
    struct json_text content;
    enum status status = step_text(value, key, &content, err);

    if (status != OK) return status;
    step->content = memory_text(content.bytes, content.count, err);
    step->content_bytes = content.count;
    return step->content ? OK : ERR_MEMORY;
}

static enum status read_replace(struct step *step, const struct json_value *value, struct error *err)
{
    enum status status = read_content(step, value, "content", err);

    return status == OK ? pattern_read(&step->pattern, json_member(value, "pattern"), err) : status;
}

static enum status apply_replace(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    struct pattern_walk walk;
    uint64_t copied = 0, first = 0;
    bool found;
    enum status status;

    if (text->bytes == 0) return OK;
    pattern_walk_init(&walk, step->pattern, scratch, text->text, text->bytes);
    while ((status = pattern_next(&walk, &found, err)) == OK && found) {
        if (copied < text->first)
            first = out->count + (walk.begin < text->first ? walk.begin : text->first) - copied;
        status = text_append(out, text->text + copied, walk.begin - copied, err);
        if (status == OK) status = text_append(out, step->content, step->content_bytes, err);
        if (status != OK) return status;
        copied = walk.end;
        /* What replaces several characters belongs to the last of them. */
        if (copied <= text->first) first = out->count;
    }
    if (copied < text->first) first = out->count + text->first - copied;
    if (status == OK) status = text_append(out, text->text + copied, text->bytes - copied, err);
    text->first = first;
    return settle(text, out, status);
}

static enum status read_prepend(struct step *step, const struct json_value *value, struct error *err)
{
    return read_content(step, value, "prepend", err);
}

static enum status apply_prepend(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    enum status status;

    (void)scratch;
    if (text->bytes == 0) return OK; /* nothing stays nothing */
    status = text_append(out, step->content, step->content_bytes, err);
    if (status == OK) status = text_append(out, text->text, text->bytes, err);
    if (text->first > 0) text->first += step->content_bytes;
    return settle(text, out, status);
}

static enum status apply_byte_level(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    uint64_t first = 0;
    enum status status = OK;

    (void)step, (void)scratch;
    for (uint64_t at = 0; at < text->bytes && status == OK; at++) {
        status = unicode_append(out, byte_level_point((uint8_t)text->text[at]), err);
        if (at < text->first) first = out->count;
    }
    text->first = first;
    return settle(text, out, status);
}

/* longest_match is ours: what comes of a tokenizer.model, where sentencepiece takes the longest rule. */
static enum status read_charsmap(struct step *step, const struct json_value *value, struct error *err)
{
    struct json_text text;
    uint8_t *table = NULL;
    uint64_t bytes;
    enum status status = step_text(value, "precompiled_charsmap", &text, err);

    if (!status) status = json_get_bool(value, "Precompiled", "longest_match", &step->longest, err);
    if (!status) status = base64_decode(&table, &bytes, text.bytes, text.count, err);
    if (!status) status = charsmap_create(&step->charsmap, table, bytes, err);
    memory_free(table);
    return status;
}

static enum status apply_charsmap(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);

    (void)scratch;
    return settle(text, out,
        charsmap_rewrite(step->charsmap, out, text->text, text->bytes, step->longest, &text->first, err));
}

/* Controls that go, and what becomes a space (SentencePiece's rules for machine translation, nmt_nfkc, without the NFKC). */
static bool is_nmt_removed(uint32_t point)
{
    return (point >= 0x01 && point <= 0x08) || point == 0x0B || (point >= 0x0E && point <= 0x1F) ||
           point == 0x7F || point == 0x8F || point == 0x9F;
}

static bool is_nmt_space(uint32_t point)
{
    return point == 0x09 || point == 0x0A || point == 0x0C || point == 0x0D || point == 0x1680 ||
           (point >= 0x200B && point <= 0x200F) || point == 0x2028 || point == 0x2029 || point == 0x2581 ||
           point == 0xFEFF || point == 0xFFFD;
}

static enum status apply_nmt(
    const struct step *step, struct pattern_scratch *scratch, struct normal_text *text, struct error *err)
{
    struct text *out = other_buffer(text);
    uint64_t first = 0;
    enum status status = OK;
    unsigned length;

    (void)step, (void)scratch;
    for (uint64_t at = 0; at < text->bytes && status == OK; at += length) {
        const uint32_t point = unicode_decode(text->text + at, &length);
        if (is_nmt_space(point))
            status = text_append(out, " ", 1, err);
        else if (!is_nmt_removed(point))
            status = text_append(out, text->text + at, length, err);
        if (at < text->first) first = out->count;
    }
    text->first = first;
    return settle(text, out, status);
}

static const struct kind kinds[] = {
    {"NFC", NULL, apply_form, UNICODE_NFC},
    {"NFD", NULL, apply_form, UNICODE_NFD},
    {"NFKC", NULL, apply_form, UNICODE_NFKC},
    {"NFKD", NULL, apply_form, UNICODE_NFKD},
    {"Lowercase", NULL, apply_lower, 0},
    {"Strip", read_strip, apply_strip, 0},
    {"StripAccents", NULL, apply_accents, 0},
    {"Replace", read_replace, apply_replace, 0},
    {"Prepend", read_prepend, apply_prepend, 0},
    {"ByteLevel", NULL, apply_byte_level, 0},
    {"Precompiled", read_charsmap, apply_charsmap, 0},
    {"Nmt", NULL, apply_nmt, 0},
};

/* ---- the list ---- */

static enum status add_step(
    void *context, const struct json_value *value, const char *type, struct error *err)
{
    struct normalizer *normalizer = context;
    struct step *step = &normalizer->steps[normalizer->count];

    for (uint64_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].type, type) != 0) continue;
        step->kind = &kinds[i];
        normalizer->count++;
        return step->kind->read ? step->kind->read(step, value, err) : OK;
    }
    return steps_unknown(type, err);
}

enum status normalizer_create(struct normalizer **out, const struct json_value *section, struct error *err)
{
    struct normalizer *normalizer = memory_new(1, sizeof *normalizer, err);
    enum status status =
        normalizer ? steps_read(section, "normalizers", add_step, normalizer, err) : ERR_MEMORY;

    if (status == OK)
        *out = normalizer;
    else
        normalizer_free(normalizer);
    return status;
}

void normalizer_free(struct normalizer *normalizer)
{
    if (!normalizer) return;
    for (unsigned i = 0; i < normalizer->count; i++) {
        pattern_free(normalizer->steps[i].pattern);
        charsmap_free(normalizer->steps[i].charsmap);
        memory_free(normalizer->steps[i].content);
    }
    memory_free(normalizer);
}

enum status normalizer_apply(const struct normalizer *normalizer, struct pattern_scratch *scratch,
    struct normal_text *text, struct error *err)
{
    enum status status = OK;

    for (unsigned i = 0; i < normalizer->count && status == OK; i++)
        status = normalizer->steps[i].kind->apply(&normalizer->steps[i], scratch, text, err);
    return status;
}
