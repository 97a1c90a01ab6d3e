/* Strings and numbers of JSON. Nothing is allocated but the text of strings that contain escapes, and that is
 * never longer than the string as written. */
#include "base/json_scan.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/number.h"
#include "base/utf8.h"

enum status json_fault(
    const struct json_reader *reader, const char *at, struct error *err, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fail(
        err, ERR_FORMAT, "%s: %s at byte %" PRIu64, reader->what, text, (uint64_t)(at - reader->start));
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* ---- strings ---- */

/* The value of four hexadecimal digits, or -1. */
static int32_t hex4(const char *at, const char *end)
{
    int32_t value = 0;

    if (end - at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = at[i], lower = (char)(c | 0x20);
        if (is_digit(c))
            value = value * 16 + (c - '0');
        else if (lower >= 'a' && lower <= 'f')
            value = value * 16 + (lower - 'a' + 10);
        else
            return -1;
    }
    return value;
}

static bool is_surrogate(int32_t unit)
{
    return unit >= 0xD800 && unit <= 0xDFFF;
}

/* The code point of the \u escape at `at` and, for a surrogate pair, of its second half; -1 if it is
 * malformed. */
static int32_t unicode_escape(const char *at, const char *end, unsigned *length)
{
    int32_t high, low;

    *length = 6;
    high = hex4(at + 2, end);
    if (!is_surrogate(high)) return high;
    *length = 12;
    if (high >= 0xDC00 || end - at < 8 || at[6] != '\\' || at[7] != 'u') return -1;
    low = hex4(at + 8, end);
    if (low < 0xDC00 || low > 0xDFFF) return -1;
    return 0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00);
}

/* Check the escape at *at (a backslash) and step over it. */
static enum status scan_escape(struct json_reader *reader, const char **at, struct error *err)
{
    unsigned length = 2;

    if (reader->end - *at < 2) return json_fault(reader, reader->end, err, "the text ends inside a string");
    if ((*at)[1] == 'u') {
        if (unicode_escape(*at, reader->end, &length) < 0)
            return json_fault(reader, *at, err, "malformed \\u escape or lone surrogate");
    } else if (!(*at)[1] || !strchr("\"\\/bfnrt", (*at)[1])) {
        return json_fault(reader, *at, err, "unknown escape in a string");
    }
    *at += length;
    return OK;
}

enum status json_scan_string(
    struct json_reader *reader, struct json_text *raw, bool *has_escapes, struct error *err)
{
    const char *at = reader->at + 1, *end = reader->end;

    *has_escapes = false;
    while (at < end && *at != '"') {
        uint8_t byte = (uint8_t)*at;
        if (byte == '\\') {
            enum status status = scan_escape(reader, &at, err);
            if (status) return status;
            *has_escapes = true;
        } else if (byte < 0x20) {
            return json_fault(reader, at, err, "control character 0x%02x inside a string", byte);
        } else if (byte < 0x80) {
            at++;
        } else {
            unsigned length = utf8_sequence(at, (uint64_t)(end - at));
            if (length == 0) return json_fault(reader, at, err, "invalid UTF-8 inside a string");
            at += length;
        }
    }
    if (at == end) return json_fault(reader, at, err, "the text ends inside a string");
    raw->bytes = reader->at + 1;
    raw->count = (uint64_t)(at - raw->bytes);
    reader->at = at + 1;
    return OK;
}

static char *put_utf8(char *out, uint32_t point)
{
    if (point < 0x80) {
        *out++ = (char)point;
    } else if (point < 0x800) {
        *out++ = (char)(0xC0 | point >> 6);
        *out++ = (char)(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        *out++ = (char)(0xE0 | point >> 12);
        *out++ = (char)(0x80 | (point >> 6 & 0x3F));
        *out++ = (char)(0x80 | (point & 0x3F));
    } else {
        *out++ = (char)(0xF0 | point >> 18);
        *out++ = (char)(0x80 | (point >> 12 & 0x3F));
        *out++ = (char)(0x80 | (point >> 6 & 0x3F));
        *out++ = (char)(0x80 | (point & 0x3F));
    }
    return out;
}

static char simple_escape(char letter)
{
    switch (letter) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return letter; /* quote, backslash, slash */
    }
}

/* No escape is shorter than what it stands for, so the string as written is room enough. */
enum status json_decode_string(
    struct json_reader *reader, struct json_text raw, struct json_text *text, struct error *err)
{
    enum status status = memory_grow(&reader->scratch, &reader->scratch_capacity, raw.count, 1, err);
    const char *at = raw.bytes, *end = raw.bytes + raw.count;
    char *out = reader->scratch;

    if (status) return fail_within(err, status, "%s", reader->what);
    while (at < end) {
        unsigned length = 2;
        if (*at != '\\') {
            *out++ = *at++;
            continue;
        }
        if (at[1] == 'u')
            out = put_utf8(out, (uint32_t)unicode_escape(at, end, &length));
        else
            *out++ = simple_escape(at[1]);
        at += length;
    }
    text->bytes = reader->scratch;
    text->count = (uint64_t)(out - reader->scratch);
    return OK;
}

/* ---- numbers ---- */

static const char *skip_digits(const char *at, const char *end)
{
    while (at < end && is_digit(*at))
        at++;
    return at;
}

enum status json_scan_number(
    struct json_reader *reader, struct json_text *raw, bool *is_natural, struct error *err)
{
    const char *begin = reader->at, *end = reader->end, *at = begin, *digits;

    if (*at == '-') at++;
    digits = at;
    at = skip_digits(at, end);
    if (at == digits || (*digits == '0' && at - digits > 1))
        return json_fault(reader, begin, err, "malformed number");
    *is_natural = digits == begin;
    if (at < end && *at == '.') {
        digits = ++at;
        at = skip_digits(at, end);
        if (at == digits) return json_fault(reader, begin, err, "malformed number");
        *is_natural = false;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        digits = at;
        at = skip_digits(at, end);
        if (at == digits) return json_fault(reader, begin, err, "malformed number");
        *is_natural = false;
    }
    if (at - begin > NUMBER_TEXT_LIMIT)
        return json_fault(reader, begin, err, "a number of more than %d characters", NUMBER_TEXT_LIMIT);
    raw->bytes = begin;
    raw->count = (uint64_t)(at - begin);
    reader->at = at;
    return OK;
}
