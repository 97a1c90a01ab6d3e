/* JSON: one strict reader with two faces, and a writer.
 *
 * struct json_reader is a pull parser: no tree, no recursion, bounded depth, strings that carry their length, integers
 * exact to 64 bits. struct json_value is a small tree built on it for documents one wants to look around in
 * (config.json, an index, the head of a tokenizer). Both refuse what RFC 8259 refuses and, beyond it, invalid UTF-8,
 * lone surrogates, duplicate keys in one object, and text after the document. */
#ifndef NIBBLE_BASE_JSON_H
#define NIBBLE_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define JSON_DEPTH_LIMIT 64

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* Text inside a JSON document, decoded (escapes resolved). Not terminated; may contain U+0000 (callers that make names of
 * it must refuse that). Valid until the next string is read, unless it came from a tree. */
struct json_text {
    const char *bytes;
    uint64_t count;
};

/* ---- the pull parser ---- */

/* The state of one pass over a document. Fields are private. */
struct json_reader {
    const char *what; /* the document's name, for messages */
    const char *start, *at, *end;
    char *scratch; /* decoded strings that contain escapes */
    uint64_t scratch_capacity;
    unsigned depth;
    uint8_t state[JSON_DEPTH_LIMIT + 1];
};

/* Begin reading `count` bytes. The bytes must stay valid; `what` names the document in errors. Leading and trailing
 * white space is accepted. */
void json_reader_init(struct json_reader *reader, const char *what, const char *bytes, uint64_t count);
void json_reader_free(struct json_reader *reader);

/* The kind of the next value, without consuming it. ERR_FORMAT if no value may stand here. */
enum status json_peek(struct json_reader *reader, enum json_kind *kind, struct error *err);

/* Enter the next value, which must be an object (array). */
enum status json_enter_object(struct json_reader *reader, struct error *err);
enum status json_enter_array(struct json_reader *reader, struct error *err);

/* Inside an object: read the next key (then read exactly one value), or leave it: *more = false consumed the '}'.
 * Does not detect duplicates (the caller knows its keys; json_keys below helps). */
enum status json_next_key(struct json_reader *reader, struct json_text *key, bool *more, struct error *err);

/* Inside an array: *more = true if a value follows (then read exactly one), false consumed the ']'. */
enum status json_next_element(struct json_reader *reader, bool *more, struct error *err);

/* Read one value of the named kind; a value of another kind is ERR_FORMAT and not consumed. json_read_u64 refuses signs,
 * fractions, exponents and values above 2^64 - 1. json_read_number refuses what is not finite as a double. Numbers of
 * more than 1024 characters are refused. */
enum status json_read_string(struct json_reader *reader, struct json_text *text, struct error *err);
enum status json_read_u64(struct json_reader *reader, uint64_t *value, struct error *err);
enum status json_read_number(struct json_reader *reader, double *value, struct error *err);
enum status json_read_bool(struct json_reader *reader, bool *value, struct error *err);
enum status json_read_null(struct json_reader *reader, struct error *err);

/* Skip one value of any kind, checking its syntax (not the size of numbers, nor duplicate keys). If raw is not NULL it
 * receives the value's own bytes. Text that was read before stays valid. */
enum status json_skip(struct json_reader *reader, struct json_text *raw, struct error *err);

/* After the outermost value: only white space may remain. */
enum status json_finish(struct json_reader *reader, struct error *err);

/* The byte offset of the reader, for messages. */
uint64_t json_offset(const struct json_reader *reader);

/* A set of byte strings, to detect duplicate keys and names in linear time, also in a file made to prevent that.
 * Zero-initialise. Fields are private but for `count`. */
struct json_keys {
    struct json_key *slots;
    struct json_keys_chunk *chunks;
    uint64_t count, capacity;
};

/* Add a key (its bytes are copied). *added = false if it was there already. */
enum status json_keys_add(
    struct json_keys *keys, const char *bytes, uint64_t count, bool *added, struct error *err);
void json_keys_free(struct json_keys *keys);

/* ---- the tree ---- */

/* One value. Strings and keys are decoded, terminated as well as counted, and owned by the document. Look at `kind`
 * first: fields of another kind overlap, because a hostile file decides how many values there are. */
struct json_value {
    enum json_kind kind;
    bool boolean;
    bool is_u64; /* number: written as a non-negative integer that fits; then `u64` is exact */
    union {
        struct {           /* number */
            double number; /* finite */
            uint64_t u64;
        };
        struct json_text text;                 /* string */
        struct {                               /* array, object */
            const struct json_value *children; /* the first of `count`, or NULL */
            uint64_t count;
        };
    };
    struct json_text key;          /* if the parent is an object */
    const struct json_value *next; /* the following sibling, or NULL */
};

struct json_document;

/* Parse a document of at most 16 MiB and 1 million values into a tree; more is ERR_MEMORY. It takes up to 48 bytes per
 * value beside the texts. Owner of *out: the caller, json_free. */
enum status json_parse(
    struct json_document **out, const char *what, const char *bytes, uint64_t count, struct error *err);
const struct json_value *json_root(const struct json_document *document);
void json_free(struct json_document *document);

/* The member of an object by exact key, or NULL if absent or if `object` is NULL or no object. */
const struct json_value *json_member(const struct json_value *object, const char *key);

/* Typed members. Absent or null: *out is left as it is and OK is returned. Of another type or out of range: ERR_FORMAT
 * naming `what` and the key. Ranges are inclusive. */
enum status json_get_u64(const struct json_value *object, const char *what, const char *key, uint64_t minimum,
    uint64_t maximum, uint64_t *out, struct error *err);
enum status json_get_number(const struct json_value *object, const char *what, const char *key,
    double minimum, double maximum, double *out, struct error *err);
enum status json_get_bool(
    const struct json_value *object, const char *what, const char *key, bool *out, struct error *err);
/* *out points to terminated text owned by the document; text with U+0000 inside is refused. */
enum status json_get_text(
    const struct json_value *object, const char *what, const char *key, const char **out, struct error *err);

/* True if the value is a string equal to `text`. */
bool json_is_text(const struct json_value *value, const char *text);

/* ---- the writer ---- */

/* Builds a document in memory. Commas and indentation are its business; the first allocation failure is remembered and
 * reported by json_writer_take. Zero-initialise; set `indent` to 2 for people, 0 for machines. */
struct json_writer {
    char *bytes;
    uint64_t count, capacity;
    unsigned depth, indent;
    bool need_comma, after_key, failed;
};

void json_open_object(struct json_writer *writer);
void json_close_object(struct json_writer *writer);
void json_open_array(struct json_writer *writer);
void json_close_array(struct json_writer *writer);
void json_write_key(struct json_writer *writer, const char *key);
/* Bytes that are not UTF-8 are replaced by U+FFFD, so that what is written is always JSON. */
void json_write_string(struct json_writer *writer, const char *bytes, uint64_t count);
void json_write_text(struct json_writer *writer, const char *text); /* NULL writes null */
void json_write_u64(struct json_writer *writer, uint64_t value);
void json_write_number(
    struct json_writer *writer, double value); /* shortest that reads back; not finite: null */
void json_write_bool(struct json_writer *writer, bool value);
/* Write a value of a parsed document with all it holds, or the members of an object into one that is open, but for those whose
 * keys are in `leave_out`, which NULL ends. Keys keep their order; U+0000 in one becomes its escape. */
void json_write_value(struct json_writer *writer, const struct json_value *value);
void json_write_members(
    struct json_writer *writer, const struct json_value *object, const char *const *leave_out);
/* Shorthands for key and value in one call. */
void json_put_text(struct json_writer *writer, const char *key, const char *text);
void json_put_u64(struct json_writer *writer, const char *key, uint64_t value);
void json_put_number(struct json_writer *writer, const char *key, double value);
void json_put_bool(struct json_writer *writer, const char *key, bool value);
/* A checksum as a string of eight lower-case hexadecimal digits. */
void json_put_crc32(struct json_writer *writer, const char *key, uint32_t crc);
/* An array of numbers, all on one line whatever the indentation. */
void json_put_numbers(struct json_writer *writer, const char *key, const double *values, uint64_t count);

/* Hand over the finished text (terminated, a newline at the end) and reset the writer, `indent` too. Owner: the caller,
 * memory_free. */
enum status json_writer_take(struct json_writer *writer, char **out, uint64_t *count, struct error *err);
void json_writer_free(struct json_writer *writer);

/* True if the bytes are well-formed UTF-8 (RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF). */
bool json_valid_utf8(const char *bytes, uint64_t count);

#endif
