/* The tree over the pull parser. Nodes and texts lie in blocks that never move, so pointers into the tree are
 * stable, and freeing it is freeing a few blocks. */
#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/number.h"

enum {
    DOCUMENT_LIMIT_BYTES = 16 * 1024 * 1024,
    VALUES_LIMIT = 1000 * 1000,
    BLOCK_FIRST = 4 * 1024,
    BLOCK_LARGEST = 1024 * 1024,
    PAIRWISE_LIMIT = 16 /* members up to which comparing all pairs is the cheapest way to find duplicates */
};

struct block {
    struct block *older;
    uint64_t used, capacity;
    _Alignas(16) char bytes[];
};

struct json_document {
    struct block *blocks;
    struct json_value *root;
    uint64_t values;
};

/* A container whose children are being read. */
struct open_container {
    struct json_value *value, *last_child;
};

static void *document_new(struct json_document *document, uint64_t bytes, struct error *err)
{
    struct block *block = document->blocks;
    uint64_t capacity;
    void *piece;

    bytes = (bytes + 7) & ~UINT64_C(7); /* cannot wrap: at most the document's limit */
    if (!block || block->capacity - block->used < bytes) {
        capacity = block ? block->capacity * 2 : BLOCK_FIRST;
        if (capacity > BLOCK_LARGEST) capacity = BLOCK_LARGEST;
        if (capacity < bytes) capacity = bytes;
        block = memory_new(1, sizeof *block + capacity, err);
        if (!block) return NULL;
        block->capacity = capacity;
        block->older = document->blocks;
        document->blocks = block;
    }
    piece = block->bytes + block->used;
    block->used += bytes;
    return piece;
}

static enum status keep_text(struct json_document *document, struct json_text *text, struct error *err)
{
    char *copy = document_new(document, text->count + 1, err);

    if (!copy) return ERR_MEMORY;
    if (text->count > 0) memcpy(copy, text->bytes, text->count);
    text->bytes = copy;
    return OK;
}

static enum status read_number(struct json_reader *reader, struct json_value *value, struct error *err)
{
    struct json_reader again = *reader; /* to read a number changes no memory outside the reader */
    enum status status = json_read_number(reader, &value->number, err);

    if (!status) value->is_u64 = json_read_u64(&again, &value->u64, NULL) == OK;
    return status;
}

/* Read a value, or enter it if it is a container. */
static enum status read_head(
    struct json_document *document, struct json_reader *reader, struct json_value *value, struct error *err)
{
    enum status status = json_peek(reader, &value->kind, err);

    if (status) return status;
    switch (value->kind) {
    case JSON_NULL:
        return json_read_null(reader, err);
    case JSON_BOOL:
        return json_read_bool(reader, &value->boolean, err);
    case JSON_NUMBER:
        return read_number(reader, value, err);
    case JSON_STRING:
        status = json_read_string(reader, &value->text, err);
        return status ? status : keep_text(document, &value->text, err);
    case JSON_ARRAY:
        return json_enter_array(reader, err);
    case JSON_OBJECT:
        return json_enter_object(reader, err);
    }
    return OK;
}

static enum status new_value(struct json_document *document, const struct json_reader *reader,
    struct json_value **out, struct error *err)
{
    if (document->values == VALUES_LIMIT)
        return fail(err, ERR_MEMORY, "%s: more than %d values at byte %" PRIu64, reader->what, VALUES_LIMIT,
            json_offset(reader));
    document->values++;
    *out = document_new(document, sizeof **out, err);
    return *out ? OK : ERR_MEMORY;
}

/* Step to the next child of an open container: a new value that has its key but not yet its content, or NULL
 * at the end. */
static enum status next_child(struct json_document *document, struct json_reader *reader,
    const struct open_container *container, struct json_value **child, struct error *err)
{
    bool is_object = container->value->kind == JSON_OBJECT, more;
    struct json_text key = {NULL, 0};
    enum status status;

    *child = NULL;
    status = is_object ? json_next_key(reader, &key, &more, err) : json_next_element(reader, &more, err);
    if (status || !more) return status;
    status = new_value(document, reader, child, err);
    if (status || !is_object) return status;
    (*child)->key = key;
    return keep_text(document, &(*child)->key, err);
}

static void append_child(struct open_container *container, struct json_value *child)
{
    if (container->last_child)
        container->last_child->next = child;
    else
        container->value->children = child;
    container->last_child = child;
    container->value->count++;
}

static bool text_equal(struct json_text a, struct json_text b)
{
    return a.count == b.count && memcmp(a.bytes, b.bytes, a.count) == 0;
}

static enum status duplicate_key(const char *what, struct json_text key, struct error *err)
{
    char shown[128];

    return fail(err, ERR_FORMAT, "%s: duplicate key \"%s\" in one object", what,
        error_quote(shown, sizeof shown, key.bytes, key.count));
}

static enum status check_keys(const char *what, const struct json_value *object, struct error *err)
{
    struct json_keys keys = {0};
    enum status status = OK;
    bool added = true;

    for (const struct json_value *a = object->children; a && !status; a = a->next) {
        if (object->count > PAIRWISE_LIMIT) {
            status = json_keys_add(&keys, a->key.bytes, a->key.count, &added, err);
            if (!status && !added) status = duplicate_key(what, a->key, err);
            continue;
        }
        for (const struct json_value *b = object->children; b != a && !status; b = b->next)
            if (text_equal(a->key, b->key)) status = duplicate_key(what, a->key, err);
    }
    json_keys_free(&keys);
    return status;
}

/* Read the whole document, keeping the containers that are open in an array instead of on the call stack. */
static enum status build(struct json_document *document, struct json_reader *reader, struct error *err)
{
    struct open_container open[JSON_DEPTH_LIMIT + 1];
    unsigned depth = 0;
    struct json_value *value;
    enum status status = new_value(document, reader, &document->root, err);

    if (status) return status;
    value = document->root;
    do {
        if (value) {
            status = read_head(document, reader, value, err);
            if (status) return status;
            if (value->kind == JSON_ARRAY || value->kind == JSON_OBJECT)
                open[depth++] = (struct open_container){value, NULL};
        } else {
            depth--;
            if (open[depth].value->kind == JSON_OBJECT)
                status = check_keys(reader->what, open[depth].value, err);
            if (status) return status;
        }
        if (depth == 0) break;
        status = next_child(document, reader, &open[depth - 1], &value, err);
        if (status) return status;
        if (value) append_child(&open[depth - 1], value);
    } while (true);
    return json_finish(reader, err);
}

enum status json_parse(
    struct json_document **out, const char *what, const char *bytes, uint64_t count, struct error *err)
{
    struct json_document *document = NULL;
    struct json_reader reader;
    enum status status;

    *out = NULL;
    if (count > DOCUMENT_LIMIT_BYTES)
        return fail(
            err, ERR_MEMORY, "%s: has %" PRIu64 " bytes, the limit is %d", what, count, DOCUMENT_LIMIT_BYTES);
    document = memory_new(1, sizeof *document, err);
    if (!document) return fail_within(err, ERR_MEMORY, "%s", what);
    json_reader_init(&reader, what, bytes, count);
    status = build(document, &reader, err);
    if (status) goto done;
    *out = document;
    document = NULL;
done:
    json_reader_free(&reader);
    json_free(document);
    return status;
}

const struct json_value *json_root(const struct json_document *document)
{
    return document->root;
}

void json_free(struct json_document *document)
{
    if (!document) return;
    while (document->blocks) {
        struct block *older = document->blocks->older;
        memory_free(document->blocks);
        document->blocks = older;
    }
    memory_free(document);
}

/* ---- looking up ---- */

const struct json_value *json_member(const struct json_value *object, const char *key)
{
    struct json_text wanted = {key, strlen(key)};

    if (!object || object->kind != JSON_OBJECT) return NULL;
    for (const struct json_value *member = object->children; member; member = member->next) {
        if (text_equal(member->key, wanted)) return member;
    }
    return NULL;
}

/* The member, or NULL if it is absent or null: then the default stands. */
static const struct json_value *present(const struct json_value *object, const char *key)
{
    const struct json_value *member = json_member(object, key);

    return member && member->kind != JSON_NULL ? member : NULL;
}

/* What a value is, as an error shows it. Returns shown (at least 80 bytes). */
static const char *describe(char *shown, const struct json_value *value)
{
    char quoted[64];

    switch (value->kind) {
    case JSON_NULL:
        return "null";
    case JSON_BOOL:
        return value->boolean ? "true" : "false";
    case JSON_ARRAY:
        return "an array";
    case JSON_OBJECT:
        return "an object";
    case JSON_STRING:
        snprintf(
            shown, 80, "\"%s\"", error_quote(quoted, sizeof quoted, value->text.bytes, value->text.count));
        return shown;
    case JSON_NUMBER:
        if (value->is_u64)
            snprintf(shown, 80, "%" PRIu64, value->u64);
        else
            number_write(shown, value->number);
        return shown;
    }
    return shown;
}

enum status json_get_u64(const struct json_value *object, const char *what, const char *key, uint64_t minimum,
    uint64_t maximum, uint64_t *out, struct error *err)
{
    const struct json_value *value = present(object, key);
    char shown[80];

    if (!value) return OK;
    if (value->kind != JSON_NUMBER || !value->is_u64 || value->u64 < minimum || value->u64 > maximum)
        return fail(err, ERR_FORMAT, "%s: %s is %s, expected a whole number from %" PRIu64 " to %" PRIu64,
            what, key, describe(shown, value), minimum, maximum);
    *out = value->u64;
    return OK;
}

enum status json_get_number(const struct json_value *object, const char *what, const char *key,
    double minimum, double maximum, double *out, struct error *err)
{
    const struct json_value *value = present(object, key);
    char shown[80];

    if (!value) return OK;
    if (value->kind != JSON_NUMBER || !(value->number >= minimum && value->number <= maximum))
        return fail(err, ERR_FORMAT, "%s: %s is %s, expected a number from %g to %g", what, key,
            describe(shown, value), minimum, maximum);
    *out = value->number;
    return OK;
}

enum status json_get_bool(
    const struct json_value *object, const char *what, const char *key, bool *out, struct error *err)
{
    const struct json_value *value = present(object, key);
    char shown[80];

    if (!value) return OK;
    if (value->kind != JSON_BOOL)
        return fail(
            err, ERR_FORMAT, "%s: %s is %s, expected true or false", what, key, describe(shown, value));
    *out = value->boolean;
    return OK;
}

enum status json_get_text(
    const struct json_value *object, const char *what, const char *key, const char **out, struct error *err)
{
    const struct json_value *value = present(object, key);
    char shown[80];

    if (!value) return OK;
    if (value->kind != JSON_STRING)
        return fail(err, ERR_FORMAT, "%s: %s is %s, expected a string", what, key, describe(shown, value));
    if (memchr(value->text.bytes, 0, value->text.count))
        return fail(err, ERR_FORMAT, "%s: %s is %s, with U+0000 inside", what, key, describe(shown, value));
    *out = value->text.bytes;
    return OK;
}

bool json_is_text(const struct json_value *value, const char *text)
{
    return value && value->kind == JSON_STRING &&
           text_equal(value->text, (struct json_text){text, strlen(text)});
}
