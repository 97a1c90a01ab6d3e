/* Errors: one code, one line of text. Every text passes through error_quote, so that no file name, tensor
 * name or token can break the line or send commands to a terminal. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Room to format in: longer than error.text, so that a text is cut in one place only, by error_quote. */
enum { FORMAT_BYTES = 2048 };

static void set_text(struct error *err, const char *text)
{
    error_quote(err->text, sizeof err->text, text, strlen(text));
}

enum status fail(struct error *err, enum status code, const char *format, ...)
{
    char text[FORMAT_BYTES];
    va_list arguments;

    if (!err) return code;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    err->code = code;
    set_text(err, text);
    return code;
}

/* "No space left on device" becomes "no space left on device"; "RPC ..." stays. */
static void lower_first(char *text)
{
    bool acronym = text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'A' && text[1] <= 'Z';

    if (text[0] >= 'A' && text[0] <= 'Z' && !acronym) text[0] = (char)(text[0] - 'A' + 'a');
}

enum status fail_errno(struct error *err, int errno_value, const char *format, ...)
{
    enum status code = errno_value == ENOMEM ? ERR_MEMORY : ERR_IO;
    char text[FORMAT_BYTES], buffer[128], reason[128];
    va_list arguments;
    size_t used;

    if (!err) return code;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(reason, sizeof reason, "%s", strerror_r(errno_value, buffer, sizeof buffer));
    lower_first(reason);
    used = strlen(text);
    snprintf(text + used, sizeof text - used, ": %s", reason);
    err->code = code;
    set_text(err, text);
    return code;
}

enum status fail_within(struct error *err, enum status code, const char *format, ...)
{
    char text[FORMAT_BYTES];
    va_list arguments;
    size_t used;

    if (!err) return code;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    used = strlen(text);
    snprintf(text + used, sizeof text - used, ": %s", err->text);
    err->code = code;
    set_text(err, text);
    return code;
}

/* Controls (also the C1 set, which some terminals obey), line separators, and the marks that reorder what a
 * reader sees. */
static bool is_printable(uint32_t point)
{
    if (point < 0x20 || (point >= 0x7F && point < 0xA0)) return false;
    if (point >= 0x2028 && point <= 0x202E) return false;
    return point < 0x2066 || point > 0x2069;
}

/* Write the next unit of bytes as it shall be shown; returns how many bytes of the input it covers. */
static unsigned quote_unit(char shown[5], const char *bytes, size_t count)
{
    unsigned length = utf8_sequence(bytes, count);

    if (length && is_printable(utf8_code_point(bytes, length))) {
        memcpy(shown, bytes, length);
        shown[length] = 0;
        return length;
    }
    snprintf(shown, 5, "\\x%02x", (unsigned)(uint8_t)bytes[0]);
    return 1;
}

char *error_quote(char *out, size_t out_bytes, const char *bytes, size_t count)
{
    size_t used = 0, cut = 0; /* cut: the last place where "..." still fits */
    char shown[5];

    for (size_t at = 0; at < count;) {
        at += quote_unit(shown, bytes + at, count - at);
        size_t length = strlen(shown);
        if (used + length + 1 > out_bytes) {
            strcpy(out + cut, "...");
            return out;
        }
        memcpy(out + used, shown, length);
        used += length;
        if (used + sizeof "..." <= out_bytes) cut = used;
    }
    out[used] = 0;
    return out;
}

int exit_code(enum status code)
{
    switch (code) {
    case OK:
        return 0;
    case ERR_USAGE:
        return 2;
    case ERR_FORMAT:
        return 3;
    case ERR_IO:
        return 4;
    case ERR_MEMORY:
        return 5;
    case ERR_NUMERIC:
        return 6;
    case ERR_CHECK:
        return 7;
    case ERR_UNSUPPORTED:
    case ERR_DEVICE:
        return 8;
    case ERR_INTERRUPTED:
        return 130;
    }
    return 1;
}
