/* The pull parser. One byte of state per open container says what may come next; nothing recurses, nothing is allocated
 * but the text of strings that contain escapes, and that never exceeds the string as written. */
#include "base/json.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/number.h"
#include "base/utf8.h"

/* What may come next at one depth. After a value the state is its _VALUE state plus one. */
enum state {
    DOCUMENT_VALUE,
    DOCUMENT_END,
    OBJECT_VALUE, /* a key was read */
    OBJECT_NEXT,  /* a comma or '}' */
    OBJECT_FIRST, /* a key or '}' */
    ARRAY_VALUE,
    ARRAY_NEXT,
    ARRAY_FIRST
};

/* ---- errors ---- */

static enum status fault(const struct json_reader *reader, const char *at, struct error *err, const char *format, ...)
    NIBBLE_PRINTF(4, 5);

static enum status fault(const struct json_reader *reader, const char *at, struct error *err, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fail(err, ERR_FORMAT, "%s: %s at byte %" PRIu64, reader->what, text, (uint64_t)(at - reader->start));
}

/* "expected <what>, found <the byte at the reader>". */
static enum status unexpected(const struct json_reader *reader, struct error *err, const char *expected)
{
    if (reader->at == reader->end) return fault(reader, reader->at, err, "expected %s, but the text ends", expected);
    uint8_t byte = (uint8_t)*reader->at;
    if (byte > 0x20 && byte < 0x7F) return fault(reader, reader->at, err, "expected %s, found '%c'", expected, byte);
    return fault(reader, reader->at, err, "expected %s, found byte 0x%02x", expected, byte);
}

/* ---- tokens ---- */

static void skip_space(struct json_reader *reader)
{
    const char *at = reader->at;

    while (at < reader->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    reader->at = at;
}

/* Go to the next byte that is no white space and consume it if it is `byte`. */
static bool take(struct json_reader *reader, char byte)
{
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != byte) return false;
    reader->at++;
    return true;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

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

/* The code point of the \u escape at `at` and, for a surrogate pair, of its second half; -1 if it is malformed. */
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

    if (reader->end - *at < 2) return fault(reader, reader->end, err, "the text ends inside a string");
    if ((*at)[1] == 'u') {
        if (unicode_escape(*at, reader->end, &length) < 0)
            return fault(reader, *at, err, "malformed \\u escape or lone surrogate");
    } else if (!(*at)[1] || !strchr("\"\\/bfnrt", (*at)[1])) {
        return fault(reader, *at, err, "unknown escape in a string");
    }
    *at += length;
    return OK;
}

/* Check a whole string and step over it. raw: what stands between the quotes. */
static enum status scan_string(struct json_reader *reader, struct json_text *raw, bool *has_escapes, struct error *err)
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
            return fault(reader, at, err, "control character 0x%02x inside a string", byte);
        } else if (byte < 0x80) {
            at++;
        } else {
            unsigned length = utf8_sequence(at, (uint64_t)(end - at));
            if (length == 0) return fault(reader, at, err, "invalid UTF-8 inside a string");
            at += length;
        }
    }
    if (at == end) return fault(reader, at, err, "the text ends inside a string");
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
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return letter; /* quote, backslash, slash */
    }
}

/* Decode a string that scan_string accepted into the scratch memory: never longer than it was written. */
static enum status decode_string(struct json_reader *reader, struct json_text raw, struct json_text *text,
    struct error *err)
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

static enum status take_string(struct json_reader *reader, struct json_text *text, struct error *err)
{
    bool has_escapes;
    enum status status = scan_string(reader, text, &has_escapes, err);

    if (status || !has_escapes) return status;
    return decode_string(reader, *text, text, err);
}

static const char *skip_digits(const char *at, const char *end)
{
    while (at < end && is_digit(*at))
        at++;
    return at;
}

/* Check a number against the grammar of RFC 8259 section 6 and step over it. is_natural: digits only. */
static enum status scan_number(struct json_reader *reader, struct json_text *raw, bool *is_natural, struct error *err)
{
    const char *begin = reader->at, *end = reader->end, *at = begin, *digits;

    if (*at == '-') at++;
    digits = at;
    at = skip_digits(at, end);
    if (at == digits || (*digits == '0' && at - digits > 1)) return fault(reader, begin, err, "malformed number");
    *is_natural = digits == begin;
    if (at < end && *at == '.') {
        digits = ++at;
        at = skip_digits(at, end);
        if (at == digits) return fault(reader, begin, err, "malformed number");
        *is_natural = false;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        digits = at;
        at = skip_digits(at, end);
        if (at == digits) return fault(reader, begin, err, "malformed number");
        *is_natural = false;
    }
    if (at - begin > NUMBER_TEXT_LIMIT)
        return fault(reader, begin, err, "a number of more than %d characters", NUMBER_TEXT_LIMIT);
    raw->bytes = begin;
    raw->count = (uint64_t)(at - begin);
    reader->at = at;
    return OK;
}

static enum status scan_word(struct json_reader *reader, const char *word, struct error *err)
{
    size_t count = strlen(word);

    if ((uint64_t)(reader->end - reader->at) < count || memcmp(reader->at, word, count) != 0)
        return fault(reader, reader->at, err, "malformed value (expected %s)", word);
    reader->at += count;
    return OK;
}

/* ---- values ---- */

void json_reader_init(struct json_reader *reader, const char *what, const char *bytes, uint64_t count)
{
    static const char empty[1];

    memset(reader, 0, sizeof *reader);
    reader->what = what;
    reader->start = count > 0 ? bytes : empty; /* bytes may be NULL then, and NULL + 0 is not defined */
    reader->at = reader->start;
    reader->end = reader->start + count;
    reader->state[0] = DOCUMENT_VALUE;
}

void json_reader_free(struct json_reader *reader)
{
    memory_free(reader->scratch);
    reader->scratch = NULL;
    reader->scratch_capacity = 0;
}

uint64_t json_offset(const struct json_reader *reader)
{
    return (uint64_t)(reader->at - reader->start);
}

static void value_done(struct json_reader *reader)
{
    reader->state[reader->depth]++;
}

enum status json_peek(struct json_reader *reader, enum json_kind *kind, struct error *err)
{
    uint8_t state = reader->state[reader->depth];

    skip_space(reader);
    if (state != DOCUMENT_VALUE && state != OBJECT_VALUE && state != ARRAY_VALUE)
        return fault(reader, reader->at, err, "no value may stand here");
    if (reader->at == reader->end) return unexpected(reader, err, "a value");
    switch (*reader->at) {
    case '{': *kind = JSON_OBJECT; return OK;
    case '[': *kind = JSON_ARRAY; return OK;
    case '"': *kind = JSON_STRING; return OK;
    case 't':
    case 'f': *kind = JSON_BOOL; return OK;
    case 'n': *kind = JSON_NULL; return OK;
    default: break;
    }
    if (*reader->at != '-' && !is_digit(*reader->at)) return unexpected(reader, err, "a value");
    *kind = JSON_NUMBER;
    return OK;
}

static enum status expect(struct json_reader *reader, enum json_kind wanted, struct error *err)
{
    static const char *const names[] = {"null", "true or false", "a number", "a string", "an array", "an object"};
    enum json_kind found;
    enum status status = json_peek(reader, &found, err);

    if (status) return status;
    if (found == wanted) return OK;
    return fault(reader, reader->at, err, "expected %s, found %s", names[wanted], names[found]);
}

static enum status enter(struct json_reader *reader, enum state first, struct error *err)
{
    if (reader->depth == JSON_DEPTH_LIMIT)
        return fault(reader, reader->at, err, "nested deeper than %d levels", JSON_DEPTH_LIMIT);
    reader->at++;
    reader->state[++reader->depth] = (uint8_t)first;
    return OK;
}

static void leave(struct json_reader *reader)
{
    reader->depth--;
    value_done(reader);
}

enum status json_enter_object(struct json_reader *reader, struct error *err)
{
    enum status status = expect(reader, JSON_OBJECT, err);

    return status ? status : enter(reader, OBJECT_FIRST, err);
}

enum status json_enter_array(struct json_reader *reader, struct error *err)
{
    enum status status = expect(reader, JSON_ARRAY, err);

    return status ? status : enter(reader, ARRAY_FIRST, err);
}

/* Step to the next key, whose opening quote is then at the reader, or out of the object. */
static enum status step_in_object(struct json_reader *reader, bool *more, struct error *err)
{
    uint8_t state = reader->state[reader->depth];

    *more = false;
    if (state != OBJECT_FIRST && state != OBJECT_NEXT)
        return fault(reader, reader->at, err, "no key may stand here");
    if (take(reader, '}')) {
        leave(reader);
        return OK;
    }
    if (state == OBJECT_NEXT && !take(reader, ',')) return unexpected(reader, err, "',' or '}'");
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != '"') return unexpected(reader, err, "a key in quotes");
    *more = true;
    return OK;
}

/* The colon after a key. */
static enum status step_to_value(struct json_reader *reader, struct error *err)
{
    if (!take(reader, ':')) return unexpected(reader, err, "':' after a key");
    reader->state[reader->depth] = OBJECT_VALUE;
    return OK;
}

enum status json_next_key(struct json_reader *reader, struct json_text *key, bool *more, struct error *err)
{
    enum status status = step_in_object(reader, more, err);

    if (status || !*more) return status;
    status = take_string(reader, key, err);
    return status ? status : step_to_value(reader, err);
}

enum status json_next_element(struct json_reader *reader, bool *more, struct error *err)
{
    uint8_t state = reader->state[reader->depth];

    *more = false;
    if (state != ARRAY_FIRST && state != ARRAY_NEXT)
        return fault(reader, reader->at, err, "no array element may stand here");
    if (take(reader, ']')) {
        leave(reader);
        return OK;
    }
    if (state == ARRAY_NEXT && !take(reader, ',')) return unexpected(reader, err, "',' or ']'");
    reader->state[reader->depth] = ARRAY_VALUE;
    *more = true;
    return OK;
}

enum status json_read_string(struct json_reader *reader, struct json_text *text, struct error *err)
{
    enum status status = expect(reader, JSON_STRING, err);

    if (!status) status = take_string(reader, text, err);
    if (!status) value_done(reader);
    return status;
}

enum status json_read_u64(struct json_reader *reader, uint64_t *value, struct error *err)
{
    struct json_text raw;
    bool is_natural;
    uint64_t sum = 0;
    enum status status = expect(reader, JSON_NUMBER, err);

    if (!status) status = scan_number(reader, &raw, &is_natural, err);
    if (status) return status;
    if (!is_natural) return fault(reader, raw.bytes, err, "expected a whole number without sign");
    for (uint64_t i = 0; i < raw.count; i++) {
        if (__builtin_mul_overflow(sum, 10, &sum) || __builtin_add_overflow(sum, (uint64_t)(raw.bytes[i] - '0'), &sum))
            return fault(reader, raw.bytes, err, "number above 2^64 - 1");
    }
    *value = sum;
    value_done(reader);
    return OK;
}

enum status json_read_number(struct json_reader *reader, double *value, struct error *err)
{
    struct json_text raw;
    bool is_natural;
    double number;
    enum status status = expect(reader, JSON_NUMBER, err);

    if (!status) status = scan_number(reader, &raw, &is_natural, err);
    if (status) return status;
    if (!number_read(&number, raw.bytes, raw.count)) return fault(reader, raw.bytes, err, "malformed number");
    if (!isfinite(number)) return fault(reader, raw.bytes, err, "number too large for a double");
    *value = number;
    value_done(reader);
    return OK;
}

enum status json_read_bool(struct json_reader *reader, bool *value, struct error *err)
{
    enum status status = expect(reader, JSON_BOOL, err);
    bool is_true;

    if (status) return status;
    is_true = *reader->at == 't';
    status = scan_word(reader, is_true ? "true" : "false", err);
    if (status) return status;
    *value = is_true;
    value_done(reader);
    return OK;
}

enum status json_read_null(struct json_reader *reader, struct error *err)
{
    enum status status = expect(reader, JSON_NULL, err);

    if (!status) status = scan_word(reader, "null", err);
    if (!status) value_done(reader);
    return status;
}

/* ---- skipping ---- */

/* Check a value that is no container and step over it, or enter the container. Decodes nothing, so that a key read
 * before stays valid. */
static enum status skip_head(struct json_reader *reader, struct error *err)
{
    enum json_kind kind;
    struct json_text raw;
    bool flag;
    enum status status = json_peek(reader, &kind, err);

    if (status) return status;
    switch (kind) {
    case JSON_OBJECT: return enter(reader, OBJECT_FIRST, err);
    case JSON_ARRAY: return enter(reader, ARRAY_FIRST, err);
    case JSON_NULL: return json_read_null(reader, err);
    case JSON_BOOL: return json_read_bool(reader, &flag, err);
    case JSON_STRING: status = scan_string(reader, &raw, &flag, err); break;
    case JSON_NUMBER: status = scan_number(reader, &raw, &flag, err); break;
    }
    if (!status) value_done(reader);
    return status;
}

/* Step to the next value of the container that the reader is in, or out of it. */
static enum status skip_to_next(struct json_reader *reader, bool *more, struct error *err)
{
    uint8_t state = reader->state[reader->depth];
    struct json_text raw;
    bool has_escapes;
    enum status status;

    if (state == ARRAY_FIRST || state == ARRAY_NEXT) return json_next_element(reader, more, err);
    status = step_in_object(reader, more, err);
    if (status || !*more) return status;
    status = scan_string(reader, &raw, &has_escapes, err);
    return status ? status : step_to_value(reader, err);
}

enum status json_skip(struct json_reader *reader, struct json_text *raw, struct error *err)
{
    unsigned outer = reader->depth;
    const char *begin;
    enum status status;
    bool more;

    skip_space(reader);
    begin = reader->at;
    status = skip_head(reader, err);
    while (!status && reader->depth > outer) {
        status = skip_to_next(reader, &more, err);
        if (!status && more) status = skip_head(reader, err);
    }
    if (!status && raw) {
        raw->bytes = begin;
        raw->count = (uint64_t)(reader->at - begin);
    }
    return status;
}

enum status json_finish(struct json_reader *reader, struct error *err)
{
    skip_space(reader);
    if (reader->depth > 0 || reader->state[0] != DOCUMENT_END) return unexpected(reader, err, "more of the document");
    if (reader->at != reader->end) return unexpected(reader, err, "the end of the document");
    return OK;
}

bool json_valid_utf8(const char *bytes, uint64_t count)
{
    for (uint64_t at = 0; at < count;) {
        unsigned length = utf8_sequence(bytes + at, count - at);
        if (length == 0) return false;
        at += length;
    }
    return true;
}
