/* The pull parser: one byte of state per open container says what may come next, and nothing recurses. */
#include "base/json_scan.h"

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

/* ---- tokens ---- */

/* "expected <what>, found <the byte at the reader>". */
static enum status unexpected(const struct json_reader *reader, struct error *err, const char *expected)
{
    if (reader->at == reader->end)
        return json_fault(reader, reader->at, err, "expected %s, but the text ends", expected);
    uint8_t byte = (uint8_t)*reader->at;
    if (byte > 0x20 && byte < 0x7F)
        return json_fault(reader, reader->at, err, "expected %s, found '%c'", expected, byte);
    return json_fault(reader, reader->at, err, "expected %s, found byte 0x%02x", expected, byte);
}

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

static enum status take_string(struct json_reader *reader, struct json_text *text, struct error *err)
{
    bool has_escapes;
    enum status status = json_scan_string(reader, text, &has_escapes, err);

    if (status || !has_escapes) return status;
    return json_decode_string(reader, *text, text, err);
}

static enum status scan_word(struct json_reader *reader, const char *word, struct error *err)
{
    size_t count = strlen(word);

    if ((uint64_t)(reader->end - reader->at) < count || memcmp(reader->at, word, count) != 0)
        return json_fault(reader, reader->at, err, "malformed value (expected %s)", word);
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
        return json_fault(reader, reader->at, err, "no value may stand here");
    if (reader->at == reader->end) return unexpected(reader, err, "a value");
    switch (*reader->at) {
    case '{':
        *kind = JSON_OBJECT;
        return OK;
    case '[':
        *kind = JSON_ARRAY;
        return OK;
    case '"':
        *kind = JSON_STRING;
        return OK;
    case 't':
    case 'f':
        *kind = JSON_BOOL;
        return OK;
    case 'n':
        *kind = JSON_NULL;
        return OK;
    default:
        break;
    }
    if (*reader->at != '-' && (*reader->at < '0' || *reader->at > '9'))
        return unexpected(reader, err, "a value");
    *kind = JSON_NUMBER;
    return OK;
}

static enum status expect(struct json_reader *reader, enum json_kind wanted, struct error *err)
{
    static const char *const names[] = {
        "null", "true or false", "a number", "a string", "an array", "an object"};
    enum json_kind found;
    enum status status = json_peek(reader, &found, err);

    if (status) return status;
    if (found == wanted) return OK;
    return json_fault(reader, reader->at, err, "expected %s, found %s", names[wanted], names[found]);
}

static enum status enter(struct json_reader *reader, enum state first, struct error *err)
{
    if (reader->depth == JSON_DEPTH_LIMIT)
        return json_fault(reader, reader->at, err, "nested deeper than %d levels", JSON_DEPTH_LIMIT);
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
        return json_fault(reader, reader->at, err, "no key may stand here");
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
        return json_fault(reader, reader->at, err, "no array element may stand here");
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

/* Refuse the number that was just scanned and step back to it. */
static enum status number_fault(
    struct json_reader *reader, struct json_text raw, struct error *err, const char *text)
{
    reader->at = raw.bytes;
    return json_fault(reader, raw.bytes, err, "%s", text);
}

enum status json_read_u64(struct json_reader *reader, uint64_t *value, struct error *err)
{
    struct json_text raw;
    bool is_natural;
    uint64_t sum = 0;
    enum status status = expect(reader, JSON_NUMBER, err);

    if (!status) status = json_scan_number(reader, &raw, &is_natural, err);
    if (status) return status;
    if (!is_natural) return number_fault(reader, raw, err, "expected a whole number without sign");
    for (uint64_t i = 0; i < raw.count; i++) {
        if (__builtin_mul_overflow(sum, 10, &sum) ||
            __builtin_add_overflow(sum, (uint64_t)(raw.bytes[i] - '0'), &sum))
            return number_fault(reader, raw, err, "number above 2^64 - 1");
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

    if (!status) status = json_scan_number(reader, &raw, &is_natural, err);
    if (status) return status;
    if (!number_read(&number, raw.bytes, raw.count))
        return number_fault(reader, raw, err, "malformed number");
    if (!isfinite(number)) return number_fault(reader, raw, err, "number too large for a double");
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

/* Check a value that is no container and step over it, or enter the container. Decodes nothing, so that a key
 * read before stays valid. */
static enum status skip_head(struct json_reader *reader, struct error *err)
{
    enum json_kind kind;
    struct json_text raw;
    bool flag;
    enum status status = json_peek(reader, &kind, err);

    if (status) return status;
    switch (kind) {
    case JSON_OBJECT:
        return enter(reader, OBJECT_FIRST, err);
    case JSON_ARRAY:
        return enter(reader, ARRAY_FIRST, err);
    case JSON_NULL:
        return json_read_null(reader, err);
    case JSON_BOOL:
        return json_read_bool(reader, &flag, err);
    case JSON_STRING:
        status = json_scan_string(reader, &raw, &flag, err);
        break;
    case JSON_NUMBER:
        status = json_scan_number(reader, &raw, &flag, err);
        break;
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
    status = json_scan_string(reader, &raw, &has_escapes, err);
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
    if (reader->depth > 0 || reader->state[0] != DOCUMENT_END)
        return unexpected(reader, err, "more of the document");
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
