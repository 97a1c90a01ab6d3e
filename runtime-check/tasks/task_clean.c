/* See task_clean.h. */
#include "runtime-check/tasks/task_clean.h"

#include <string.h>

#include "model/tokenizer/unicode.h"

static bool is_space(uint32_t point)
{
    return unicode_is_space(point) || (point >= 0x1C && point <= 0x1F);
}

struct json_text task_clean_start(struct json_text text)
{
    while (text.count > 0) {
        unsigned length;
        if (!is_space(unicode_decode(text.bytes, &length))) break;
        text.bytes += length;
        text.count -= length;
    }
    return text;
}

struct json_text task_clean_end(struct json_text text)
{
    while (text.count > 0) {
        const uint32_t point = unicode_decode_before(text.bytes + text.count);
        if (!is_space(point)) break;
        text.count -= point < 0x80 ? 1 : point < 0x800 ? 2 : 3; /* no white space lies beyond U+FFFF */
    }
    return text;
}

struct json_text task_clean_strip(struct json_text text)
{
    return task_clean_start(task_clean_end(text));
}

enum status task_clean_capitalize(struct text *out, struct json_text text, struct error *err)
{
    unsigned length;
    if (text.count == 0) return OK;
    const uint32_t first = unicode_title(unicode_decode(text.bytes, &length));
    const enum status status = unicode_append(out, first, err);
    return status ? status : unicode_lower(out, text.bytes + length, text.count - length, err);
}

/* str.replace */
static enum status replace(
    struct text *out, const struct text *in, const char *old, const char *new, struct error *err)
{
    const uint64_t old_bytes = strlen(old);
    uint64_t copied = 0;
    enum status status = OK;
    while (!status && copied < in->count) {
        const char *from = in->bytes + copied, *found = memmem(from, in->count - copied, old, old_bytes);
        status = text_append(out, from, found ? (uint64_t)(found - from) : in->count - copied, err);
        if (!found) break;
        if (!status) status = text_append_string(out, new, err);
        copied = (uint64_t)(found - in->bytes) + old_bytes;
    }
    return status;
}

/* The first ']' or line feed from `from` on, or `count`. */
static uint64_t find_stop(const struct text *in, uint64_t from)
{
    while (from < in->count && in->bytes[from] != ']' && in->bytes[from] != '\n')
        from++;
    return from;
}

/* re.sub(r"\[.*?\]", "", ...). Where the next stop is found out once, not once per bracket. */
static enum status drop_brackets(struct text *out, const struct text *in, struct error *err)
{
    uint64_t stop = 0;
    enum status status = OK;
    for (uint64_t i = 0; i < in->count && !status; i++) {
        if (in->bytes[i] == '[' && stop <= i) stop = find_stop(in, i + 1);
        if (in->bytes[i] == '[' && stop < in->count && in->bytes[stop] == ']')
            i = stop;
        else
            status = text_append(out, in->bytes + i, 1, err);
    }
    return status;
}

enum status task_clean_hellaswag(struct text *out, struct json_text text, struct error *err)
{
    struct text stripped = {0}, titled = {0}, bare = {0};
    text = task_clean_strip(text);
    enum status status = text_append(&stripped, text.bytes, text.count, err);
    if (!status) status = replace(&titled, &stripped, " [title]", ". ", err);
    if (!status) status = drop_brackets(&bare, &titled, err);
    if (!status) status = replace(out, &bare, "  ", " ", err);
    text_free(&stripped);
    text_free(&titled);
    text_free(&bare);
    return status;
}
