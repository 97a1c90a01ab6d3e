#include "formats/nbl_bound.h"

#include <string.h>

#include "base/memory.h"
#include "formats/nbl_layout.h"
#include "formats/provenance.h"

#define FIELDS_BYTES 512 /* of provenance: tool, version, and options that only calibration decides */

/* Header, table and the padding up to and between tensors. */
static uint64_t frame_bytes(uint64_t count, uint64_t name_bytes)
{
    uint64_t bytes = NBL_HEADER_BYTES + count * NBL_RECORD_BYTES + name_bytes,
             past = bytes % NBL_DATA_ALIGNMENT;
    return bytes + count * NBL_TENSOR_ALIGNMENT + (past ? NBL_DATA_ALIGNMENT - past : 0);
}

static enum status add_document(
    uint64_t *sum, struct container *container, const char *name, uint64_t times, struct error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = container_document(container, name, &text, &bytes, err);
    if (text) *sum += times * bytes + strlen(name) + NBL_ITEM_BYTES;
    memory_free(text);
    return status;
}

/* The sources as provenance will name them; checksums always take the same space. */
static enum status add_sources(uint64_t *sum, struct container *container, struct error *err)
{
    struct json_writer json = {.indent = 4};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = container_write_sources(container, NULL, &json, err);
    if (status == OK) status = json_writer_take(&json, &text, &bytes, err);
    *sum += 2 * bytes;
    json_writer_free(&json);
    memory_free(text);
    return status;
}

/* The options as provenance will hold them. */
static enum status add_options(
    uint64_t *sum, const char *const (*options)[2], uint64_t count, struct error *err)
{
    struct json_writer json = {.indent = 4};
    char *text = NULL;
    uint64_t bytes = 0;
    json_open_object(&json);
    for (uint64_t i = 0; i < count; i++)
        json_put_text(&json, options[i][0], options[i][1]);
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    *sum += bytes + FIELDS_BYTES;
    json_writer_free(&json);
    memory_free(text);
    return status;
}

enum status nbl_bound(uint64_t *out, struct container *container, uint64_t count, uint64_t name_bytes,
    const char *const (*options)[2], uint64_t option_count, struct error *err)
{
    *out = frame_bytes(count, name_bytes);
    enum status status = add_options(out, options, option_count, err);
    if (status == OK) status = add_sources(out, container, err);
    for (size_t i = 0; provenance_carried[i] && status == OK; i++)
        status = add_document(out, container, provenance_carried[i], 1, err);
    return status == OK ? add_document(out, container, PROVENANCE_DOCUMENT, 2, err) : status;
}
