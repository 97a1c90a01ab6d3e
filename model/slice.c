/* See slice.h. */
#include "model/slice.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

/* ---- which tensors ---- */

/* Digits up to `end`, below CONFIG_LAYER_LIMIT. */
static bool parse_layer(uint32_t *out, const char *text, const char *end)
{
    uint32_t number = 0;
    for (const char *at = text; at < end; at++) {
        if (*at < '0' || *at > '9' || number >= CONFIG_LAYER_LIMIT) return false;
        number = number * 10 + (uint32_t)(*at - '0');
    }
    *out = number;
    return end > text;
}

enum status slice_parse(struct slice *out, const char *text, uint32_t layers, struct error *err)
{
    const char *end = text + strlen(text), *dash = strchr(text, '-');
    *out = (struct slice){.layers = layers};
    bool read = parse_layer(&out->first, text, dash ? dash : end) &&
                parse_layer(&out->last, dash ? dash + 1 : text, end);
    if (!read) return fail(err, ERR_USAGE, "--layers %s: expected FIRST-LAST, as in 0-11", text);
    if (out->first > out->last || out->last >= layers)
        return fail(err, ERR_USAGE, "--layers %s: the model has layers 0 to %" PRIu32, text, layers - 1);
    return OK;
}

bool slice_has(const struct slice *slice, const struct model_config *config,
    const struct model_tensors *tensors, const struct tensor *tensor)
{
    enum role role;
    uint32_t layer;
    bool first = slice->first == 0, last = slice->last == slice->layers - 1;
    if (tensor == tensors->once[ROLE_EMBEDDING]) return first || (config->tied && last);
    if (!layers_role_of(config, tensor->name, &role, &layer)) return true;
    if (role == ROLE_POSITIONS) return first;
    return role < ROLE_PER_LAYER ? last : layer >= slice->first && layer <= slice->last;
}

/* ---- the document ---- */

enum status slice_write(const struct slice *slice, struct writer *writer, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    json_put_u64(&json, "first", slice->first);
    json_put_u64(&json, "last", slice->last);
    json_put_u64(&json, "layers", slice->layers);
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    if (status == OK) status = writer_document(writer, SLICE_DOCUMENT, text, bytes, err);
    json_writer_free(&json);
    memory_free(text);
    return status;
}

static enum status parse_document(struct slice *out, const char *text, uint64_t bytes, struct error *err)
{
    static const char *const keys[] = {"first", "last", "layers"};
    struct json_document *document = NULL;
    uint64_t numbers[3] = {CONFIG_LAYER_LIMIT, CONFIG_LAYER_LIMIT, 0};
    enum status status = json_parse(&document, SLICE_DOCUMENT, text, bytes, err);
    for (int i = 0; i < 3 && status == OK; i++)
        status = json_get_u64(
            json_root(document), SLICE_DOCUMENT, keys[i], 0, CONFIG_LAYER_LIMIT, &numbers[i], err);
    json_free(document);
    if (status == OK && (numbers[0] > numbers[1] || numbers[1] >= numbers[2]))
        status = fail(err, ERR_FORMAT, SLICE_DOCUMENT ": layers %" PRIu64 " to %" PRIu64 " of %" PRIu64,
            numbers[0], numbers[1], numbers[2]);
    *out = (struct slice){(uint32_t)numbers[0], (uint32_t)numbers[1], (uint32_t)numbers[2]};
    return status;
}

enum status slice_read(struct slice *out, bool *found, struct container *container, struct error *err)
{
    char *text = NULL;
    uint64_t bytes;
    enum status status = container_document(container, SLICE_DOCUMENT, &text, &bytes, err);
    *found = status == OK && text;
    if (*found) status = parse_document(out, text, bytes, err);
    memory_free(text);
    return status == OK ? OK : fail_within(err, status, "%s", container_path(container));
}

enum status slice_refuse(struct container *container, struct error *err)
{
    struct slice slice;
    bool found;
    enum status status = slice_read(&slice, &found, container, err);
    if (status != OK || !found) return status;
    return fail(err, ERR_UNSUPPORTED,
        "%s: is a slice, layers %" PRIu32 " to %" PRIu32 " of %" PRIu32
        "; nibble-convert --join makes one model of all slices",
        container_path(container), slice.first, slice.last, slice.layers);
}

/* ---- joining ---- */

/* Which layers are there so far. */
struct coverage {
    uint32_t layers;
    bool has[CONFIG_LAYER_LIMIT];
};

static enum status cover(struct coverage *coverage, struct container *container, struct error *err)
{
    struct slice slice;
    bool found;
    enum status status = slice_read(&slice, &found, container, err);
    if (status != OK) return status;
    if (!found)
        return fail(err, ERR_FORMAT, "%s: is no slice: it has no " SLICE_DOCUMENT, container_path(container));
    if (coverage->layers && slice.layers != coverage->layers)
        return fail(err, ERR_FORMAT, "%s: is a slice of %" PRIu32 " layers, the first one of %" PRIu32,
            container_path(container), slice.layers, coverage->layers);
    coverage->layers = slice.layers;
    for (uint32_t layer = slice.first; layer <= slice.last; layer++) {
        if (coverage->has[layer])
            return fail(err, ERR_FORMAT, "%s: layer %" PRIu32 " is in another slice already",
                container_path(container), layer);
        coverage->has[layer] = true;
    }
    return OK;
}

static enum status check_complete(
    const struct coverage *coverage, const struct container *container, struct error *err)
{
    for (uint32_t layer = 0; layer < coverage->layers; layer++) {
        if (!coverage->has[layer])
            return fail(err, ERR_FORMAT,
                "%s: layer %" PRIu32 " of %" PRIu32 " is in no slice; name them all with --join",
                container_path(container), layer, coverage->layers);
    }
    return OK;
}

static enum status check_document(
    struct container *a, struct container *b, const char *name, struct error *err)
{
    char *left = NULL, *right = NULL;
    uint64_t left_bytes = 0, right_bytes = 0;
    enum status status = container_document(a, name, &left, &left_bytes, err);
    if (status == OK) status = container_document(b, name, &right, &right_bytes, err);
    if (status == OK &&
        (!left != !right || left_bytes != right_bytes || (left && memcmp(left, right, left_bytes) != 0)))
        status = fail(err, ERR_FORMAT, "%s and %s: are not slices of one model: %s differs",
            container_path(a), container_path(b), name);
    memory_free(left);
    memory_free(right);
    return status;
}

static enum status join_one(
    struct coverage *coverage, struct container *container, const char *path, struct error *err)
{
    struct container *other = NULL;
    enum status status = container_open(&other, path, err);
    if (status == OK) status = cover(coverage, other, err);
    if (status == OK) status = check_document(container, other, "config.json", err);
    if (status == OK) status = check_document(container, other, "tokenizer.json", err);
    if (status == OK) return container_absorb(container, other, err);
    container_close(other);
    return status;
}

enum status slice_join(
    struct container *container, const char *const *paths, uint64_t count, struct error *err)
{
    struct coverage *coverage = memory_new(1, sizeof *coverage, err);
    if (!coverage) return ERR_MEMORY;
    enum status status = cover(coverage, container, err);
    for (uint64_t i = 0; i < count && status == OK; i++)
        status = join_one(coverage, container, paths[i], err);
    if (status == OK) status = check_complete(coverage, container, err);
    memory_free(coverage);
    container_detach(container, SLICE_DOCUMENT);
    return status;
}
