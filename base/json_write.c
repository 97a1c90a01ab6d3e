/* The writer: appends to one buffer, remembers the first failure, and always produces well-formed JSON. */
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/utf8.h"

static void append(struct json_writer *writer, const char *bytes, uint64_t count)
{
    uint64_t needed;

    if (writer->failed || count == 0) return;
    if (checked_add(&needed, writer->count, count) ||
        memory_grow(&writer->bytes, &writer->capacity, needed, 1, NULL) != OK) {
        writer->failed = true;
        return;
    }
    memcpy(writer->bytes + writer->count, bytes, count);
    writer->count = needed;
}

static void append_text(struct json_writer *writer, const char *text)
{
    append(writer, text, strlen(text));
}

static void new_line(struct json_writer *writer)
{
    if (writer->indent == 0) return;
    append(writer, "\n", 1);
    for (uint64_t i = 0; i < (uint64_t)writer->depth * writer->indent; i++)
        append(writer, " ", 1);
}

/* What must stand before a value or a key. */
static void begin_item(struct json_writer *writer)
{
    if (writer->after_key) {
        writer->after_key = false;
        return;
    }
    if (writer->need_comma) append(writer, ",", 1);
    if (writer->depth > 0) new_line(writer);
}

static void open_container(struct json_writer *writer, const char *bracket)
{
    begin_item(writer);
    append_text(writer, bracket);
    writer->depth++;
    writer->need_comma = false;
}

static void close_container(struct json_writer *writer, const char *bracket)
{
    if (writer->depth > 0) writer->depth--;
    if (writer->need_comma) new_line(writer); /* an empty container stays on its line */
    append_text(writer, bracket);
    writer->need_comma = true;
}

void json_open_object(struct json_writer *writer)
{
    open_container(writer, "{");
}

void json_close_object(struct json_writer *writer)
{
    close_container(writer, "}");
}

void json_open_array(struct json_writer *writer)
{
    open_container(writer, "[");
}

void json_close_array(struct json_writer *writer)
{
    close_container(writer, "]");
}

static void append_escaped(struct json_writer *writer, uint8_t byte)
{
    static const char letters[] = "\"\\\b\f\n\r\t", escapes[] = "\"\\bfnrt";
    const char *found = byte ? strchr(letters, byte) : NULL;
    char text[8];

    if (found)
        snprintf(text, sizeof text, "\\%c", escapes[found - letters]);
    else
        snprintf(text, sizeof text, "\\u%04x", byte);
    append_text(writer, text);
}

static void append_string(struct json_writer *writer, const char *bytes, uint64_t count)
{
    uint64_t plain = 0; /* where the run of bytes that stand for themselves began */

    append(writer, "\"", 1);
    for (uint64_t at = 0; at < count;) {
        uint8_t byte = (uint8_t)bytes[at];
        unsigned length = utf8_sequence(bytes + at, count - at);
        if (length > 0 && byte >= 0x20 && byte != '"' && byte != '\\') {
            at += length;
            continue;
        }
        append(writer, bytes + plain, at - plain);
        if (length == 0)
            append_text(writer, "\xEF\xBF\xBD");
        else
            append_escaped(writer, byte);
        plain = ++at;
    }
    append(writer, bytes + plain, count - plain);
    append(writer, "\"", 1);
}

static void write_key(struct json_writer *writer, const char *bytes, uint64_t count)
{
    begin_item(writer);
    append_string(writer, bytes, count);
    append_text(writer, writer->indent > 0 ? ": " : ":");
    writer->after_key = true;
}

void json_write_key(struct json_writer *writer, const char *key)
{
    write_key(writer, key, strlen(key));
}

void json_write_string(struct json_writer *writer, const char *bytes, uint64_t count)
{
    begin_item(writer);
    append_string(writer, bytes, count);
    writer->need_comma = true;
}

static void write_word(struct json_writer *writer, const char *word)
{
    begin_item(writer);
    append_text(writer, word);
    writer->need_comma = true;
}

void json_write_text(struct json_writer *writer, const char *text)
{
    if (text)
        json_write_string(writer, text, strlen(text));
    else
        write_word(writer, "null");
}

void json_write_u64(struct json_writer *writer, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%" PRIu64, value);
    write_word(writer, text);
}

void json_write_number(struct json_writer *writer, double value)
{
    char text[32];

    write_word(writer, isfinite(value) ? number_write(text, value) : "null");
}

void json_write_bool(struct json_writer *writer, bool value)
{
    write_word(writer, value ? "true" : "false");
}

static bool is_among(struct json_text key, const char *const *words)
{
    for (; *words; words++) {
        if (strlen(*words) == key.count && memcmp(*words, key.bytes, key.count) == 0) return true;
    }
    return false;
}

void json_write_members(
    struct json_writer *writer, const struct json_value *object, const char *const *leave_out)
{
    for (const struct json_value *child = object->children; child; child = child->next) {
        if (is_among(child->key, leave_out)) continue;
        write_key(writer, child->key.bytes, child->key.count);
        json_write_value(writer, child);
    }
}

/* 1.0 stays 1.0: readers that know types tell it from 1. */
static void write_parsed_number(struct json_writer *writer, const struct json_value *value)
{
    char text[40];

    if (value->is_u64) {
        json_write_u64(writer, value->u64);
        return;
    }
    number_write(text, value->number);
    if (value->number >= 0 && text[strspn(text, "0123456789")] == 0) strcat(text, ".0");
    write_word(writer, text);
}

/* What was parsed is at most JSON_DEPTH_LIMIT deep: that bounds the recursion. */
void json_write_value(struct json_writer *writer, const struct json_value *value)
{
    static const char *const nothing[] = {NULL};

    switch (value->kind) {
    case JSON_NULL:
        json_write_text(writer, NULL);
        break;
    case JSON_BOOL:
        json_write_bool(writer, value->boolean);
        break;
    case JSON_STRING:
        json_write_string(writer, value->text.bytes, value->text.count);
        break;
    case JSON_NUMBER:
        write_parsed_number(writer, value);
        break;
    case JSON_ARRAY:
        json_open_array(writer);
        for (const struct json_value *child = value->children; child; child = child->next)
            json_write_value(writer, child);
        json_close_array(writer);
        break;
    case JSON_OBJECT:
        json_open_object(writer);
        json_write_members(writer, value, nothing);
        json_close_object(writer);
        break;
    }
}

void json_put_text(struct json_writer *writer, const char *key, const char *text)
{
    json_write_key(writer, key);
    json_write_text(writer, text);
}

void json_put_u64(struct json_writer *writer, const char *key, uint64_t value)
{
    json_write_key(writer, key);
    json_write_u64(writer, value);
}

void json_put_number(struct json_writer *writer, const char *key, double value)
{
    json_write_key(writer, key);
    json_write_number(writer, value);
}

void json_put_crc32(struct json_writer *writer, const char *key, uint32_t crc)
{
    char text[9];
    snprintf(text, sizeof text, "%08" PRIx32, crc);
    json_put_text(writer, key, text);
}

void json_put_bool(struct json_writer *writer, const char *key, bool value)
{
    json_write_key(writer, key);
    json_write_bool(writer, value);
}

void json_put_numbers(struct json_writer *writer, const char *key, const double *values, uint64_t count)
{
    const unsigned indent = writer->indent;

    json_write_key(writer, key);
    writer->indent = 0;
    json_open_array(writer);
    for (uint64_t i = 0; i < count; i++)
        json_write_number(writer, values[i]);
    json_close_array(writer);
    writer->indent = indent;
}

enum status json_writer_take(struct json_writer *writer, char **out, uint64_t *count, struct error *err)
{
    *out = NULL;
    *count = 0;
    append(writer, "\n", 2); /* with its terminator, which is not counted */
    if (writer->failed) {
        json_writer_free(writer);
        return fail(err, ERR_MEMORY, "json: no memory left for the text");
    }
    *out = writer->bytes;
    *count = writer->count - 1;
    writer->bytes = NULL;
    json_writer_free(writer);
    return OK;
}

void json_writer_free(struct json_writer *writer)
{
    memory_free(writer->bytes);
    memset(writer, 0, sizeof *writer);
}
