/* Provenance: documents carried over, and one written. Nothing here depends on time, place or user, so that
 * the same work gives the same bytes.
 *
 *   {"tool": "nibble-quantize", "version": "0.1.0",
 *    "options": {"bits": "4", ...},
 *    "sources": [{"file": "model.safetensors", "bytes": 123, "crc32": "0123abcd"}],
 *    "history": [{"tool": ..., "version": ..., "options": ..., "sources": ...}, ...]}
 *
 * History is a flat list, newest first, so that it never nests deeper however often a model is converted. */
#include "formats/provenance.h"

#include <string.h>

#include "base/memory.h"
#include "formats/container_json.h"

#define DOCUMENT_NAME PROVENANCE_DOCUMENT

/* Far deeper than anything written here; what a hostile source holds must not get near the reader's limit. */
enum { HISTORY_DEPTH_LIMIT = 32 };

const char *const provenance_carried[] = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    NULL,
};

enum status provenance_carry_document(
    struct writer *writer, struct container *container, const char *name, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = container_document(container, name, &text, &bytes, err);

    if (!status && text) status = writer_document(writer, name, text, bytes, err);
    memory_free(text);
    return status;
}

enum status provenance_carry(struct writer *writer, struct container *container, struct error *err)
{
    enum status status = OK;

    for (size_t i = 0; provenance_carried[i] && !status; i++)
        status = provenance_carry_document(writer, container, provenance_carried[i], err);
    return status;
}

/* ---- history ---- */

/* What this tool never writes is not carried on: values that nest deep, and keys that other readers would cut short. */
static enum status check_value(const struct json_value *value, unsigned depth, struct error *err)
{
    enum status status = OK;

    if (value->kind != JSON_ARRAY && value->kind != JSON_OBJECT) return OK;
    if (depth == HISTORY_DEPTH_LIMIT)
        return fail(err, ERR_FORMAT, DOCUMENT_NAME ": nested deeper than %d levels", HISTORY_DEPTH_LIMIT);
    for (const struct json_value *child = value->children; child && !status; child = child->next) {
        if (value->kind == JSON_OBJECT && strlen(child->key.bytes) != child->key.count)
            return fail(err, ERR_FORMAT, DOCUMENT_NAME ": key %s has U+0000 inside", child->key.bytes);
        status = check_value(child, depth + 1, err);
    }
    return status;
}

/* The source's own provenance becomes the newest entry, followed by what its history says. */
static enum status copy_history(struct json_writer *out, const struct json_value *before, struct error *err)
{
    static const char *const leave_out[] = {"history", NULL};
    const struct json_value *older = json_member(before, "history");
    enum status status;

    if (before->kind != JSON_OBJECT || (older && older->kind != JSON_ARRAY))
        return fail(err, ERR_FORMAT, DOCUMENT_NAME ": is no provenance");
    status = check_value(before, 0, err);
    if (status) return status;
    json_open_object(out);
    json_write_members(out, before, leave_out);
    json_close_object(out);
    for (const struct json_value *entry = older ? older->children : NULL; entry; entry = entry->next)
        json_write_value(out, entry);
    return OK;
}

static enum status write_history(struct json_writer *out, struct container *container, struct error *err)
{
    struct json_document *before = NULL;
    enum status status = container_json(&before, container, DOCUMENT_NAME, err);

    json_write_key(out, "history");
    json_open_array(out);
    if (!status && before) status = copy_history(out, json_root(before), err);
    json_close_array(out);
    json_free(before);
    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}

/* ---- the document ---- */

/* tensor_crcs NULL: zeros stand for the checksums, so that the length is known. Owner of *text: the caller, memory_free. */
static enum status write_text(char **text, uint64_t *bytes, struct container *container, const char *tool,
    const char *const (*options)[2], uint64_t option_count, const uint32_t *tensor_crcs, struct error *err)
{
    struct json_writer out = {.indent = 2};
    enum status status;

    json_open_object(&out);
    json_put_text(&out, "tool", tool);
    json_put_text(&out, "version", NIBBLE_VERSION);
    json_write_key(&out, "options");
    json_open_object(&out);
    for (uint64_t i = 0; i < option_count; i++)
        json_put_text(&out, options[i][0], options[i][1]);
    json_close_object(&out);
    json_write_key(&out, "sources");
    status = container_write_sources(container, tensor_crcs, &out, err);
    if (!status) status = write_history(&out, container, err);
    json_close_object(&out);
    if (!status) status = json_writer_take(&out, text, bytes, err);
    json_writer_free(&out);
    return status;
}

enum status provenance_reserve(struct writer *writer, struct container *container, const char *tool,
    const char *const (*options)[2], uint64_t option_count, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = write_text(&text, &bytes, container, tool, options, option_count, NULL, err);

    if (!status) status = writer_reserve(writer, DOCUMENT_NAME, bytes, err);
    memory_free(text);
    return status;
}

enum status provenance_attach(struct writer *writer, struct container *container, const char *tool,
    const char *const (*options)[2], uint64_t option_count, const uint32_t *tensor_crcs, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = provenance_carry(writer, container, err);

    if (!status) status = write_text(&text, &bytes, container, tool, options, option_count, tensor_crcs, err);
    if (!status) status = writer_document(writer, DOCUMENT_NAME, text, bytes, err);
    memory_free(text);
    return status;
}
