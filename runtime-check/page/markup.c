/* See markup.h. */
#include "runtime-check/page/markup.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/utf8.h"

void markup_free(struct markup *markup)
{
    memory_free(markup->bytes);
    *markup = (struct markup){0};
}

/* Room for so many more bytes, or NULL. */
static char *grow(struct markup *markup, uint64_t count)
{
    uint64_t needed;
    if (markup->failed || checked_add(&needed, markup->count, count) ||
        memory_grow(&markup->bytes, &markup->capacity, needed, 1, NULL)) {
        markup->failed = true;
        return NULL;
    }
    return markup->bytes + markup->count;
}

void markup_add(struct markup *markup, const char *bytes, uint64_t count)
{
    char *at = grow(markup, count);
    if (!at) return;
    memcpy(at, bytes, count);
    markup->count += count;
}

void markup_put(struct markup *markup, const char *text)
{
    markup_add(markup, text, strlen(text));
}

void markup_format(struct markup *markup, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int count = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *at = grow(markup, (uint64_t)(count < 0 ? 0 : count) + 1); /* vsnprintf writes its terminator too */
    if (!at || count < 0) {
        markup->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(at, (size_t)count + 1, format, arguments);
    va_end(arguments);
    markup->count += (uint64_t)count;
}

/* What HTML forbids as text, and the marks of the bidirectional algorithm, which could make a name read as another. */
static bool is_unsafe(uint32_t point)
{
    const bool control = point < 0x20 || (point >= 0x7F && point < 0xA0);
    const bool nonchar = (point & 0xFFFE) == 0xFFFE || (point >= 0xFDD0 && point <= 0xFDEF);
    const bool direction = point == 0x061C || point == 0x200E || point == 0x200F ||
                           (point >= 0x2028 && point <= 0x202E) || (point >= 0x2066 && point <= 0x2069);
    return control || nonchar || direction;
}

void markup_escape(struct markup *markup, const char *text)
{
    static const char special[] = "&<>\"'";
    static const char *const references[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    const char *const end = text + strlen(text);
    while (text < end) {
        const unsigned length = utf8_sequence(text, (uint64_t)(end - text));
        const char *found = strchr(special, *text);
        if (length == 0 || is_unsafe(utf8_code_point(text, length)))
            markup_put(markup, "\xEF\xBF\xBD");
        else if (found)
            markup_put(markup, references[found - special]);
        else
            markup_add(markup, text, length);
        text += length ? length : 1;
    }
}

enum status markup_save(const struct markup *markup, const char *path, bool force, struct error *err)
{
    if (markup->failed) return fail(err, ERR_MEMORY, "%s: no memory left for its text", path);
    return output_whole(path, force, markup->bytes, markup->count, err);
}
