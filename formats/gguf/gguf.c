/* Reading a GGUF file (versions 2 and 3): header, metadata, tensor table. The whole head is walked once through a cursor that knows
 * where the file ends; a count is compared with the bytes that remain before anything is allocated for it.
 *
 *   "GGUF" | version: u32 | tensors: u64 | pairs: u64
 *   pairs:   key: string | type: u32 | value              string: bytes: u64, then so many
 *                                                         array:  element type: u32 | count: u64 | elements
 *   tensors: name: string | dimensions: u32 | each: u64, the fastest first | type: u32 | offset: u64
 *   padding to general.alignment | data: every tensor at its offset, a multiple of the alignment
 *
 * Source: ggml's GGUF specification. */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/gguf/gguf_parts.h"
#include "formats/gguf/gguf_types.h"
#include "formats/measure.h"
#include "formats/reader.h"
#include "tensor/blocks.h"

enum {
    KEY_LIMIT = 65535,
    NAME_LIMIT = 63,
    DIMENSIONS = 4,
    LEAST_PAIR = 8 + 1 + 4 + 1,           /* bytes: a key of one, its type, the smallest value */
    LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8, /* a name of one, one dimension */
    ALIGNMENT_MOST = 65536
};

/* ---- the cursor ---- */

/* The part of the file that is not read yet. */
struct pass {
    struct container *container;
    struct metadata *metadata; /* where pairs go */
    struct file *file;
    uint64_t first_entry; /* of the container's: this file's first tensor */
    uint64_t at;
    uint64_t alignment;
};

/* The next `count` bytes, or NULL with ERR_FORMAT naming what was wanted. */
static const uint8_t *take(struct pass *pass, uint64_t count, const char *what, struct error *err)
{
    const uint8_t *bytes = pass->file->map + pass->at;

    if (count > pass->file->bytes - pass->at) {
        fail(err, ERR_FORMAT, "%s: %" PRIu64 " bytes needed at byte %" PRIu64 ", the file has %" PRIu64, what,
            count, pass->at, pass->file->bytes);
        return NULL;
    }
    pass->at += count;
    return bytes;
}

static enum status take_u32(uint32_t *out, struct pass *pass, const char *what, struct error *err)
{
    const uint8_t *bytes = take(pass, 4, what, err);

    if (bytes) *out = bytes_get_u32(bytes);
    return bytes ? OK : ERR_FORMAT;
}

static enum status take_u64(uint64_t *out, struct pass *pass, const char *what, struct error *err)
{
    const uint8_t *bytes = take(pass, 8, what, err);

    if (bytes) *out = bytes_get_u64(bytes);
    return bytes ? OK : ERR_FORMAT;
}

static enum status take_string(
    const char **out, uint64_t *count, struct pass *pass, const char *what, struct error *err)
{
    enum status status = take_u64(count, pass, what, err);

    if (!status) *out = (const char *)take(pass, *count, what, err);
    return status ? status : *out ? OK : ERR_FORMAT;
}

/* ---- metadata ---- */

static enum status take_type(enum metadata_type *out, struct pass *pass, const char *key, struct error *err)
{
    uint32_t number;
    enum status status = take_u32(&number, pass, key, err);

    if (status) return status;
    if (number >= METADATA_TYPES)
        return fail(
            err, ERR_FORMAT, "%s: type %" PRIu32 " is unknown, at byte %" PRIu64, key, number, pass->at - 4);
    *out = (enum metadata_type)number;
    return OK;
}

/* Walk over the strings of an array: each must lie inside the file. */
static enum status check_strings(struct pass *pass, const struct metadata_item *item, struct error *err)
{
    for (uint64_t i = 0; i < item->count; i++) {
        const char *text;
        uint64_t bytes;
        enum status status = take_string(&text, &bytes, pass, item->key, err);
        if (status) return status;
    }
    return OK;
}

static enum status take_array(struct pass *pass, struct metadata_item *item, struct error *err)
{
    enum status status = take_type(&item->element, pass, item->key, err);
    uint64_t bytes;

    if (!status) status = take_u64(&item->count, pass, item->key, err);
    if (status) return status;
    if (item->element == METADATA_ARRAY) return fail(err, ERR_FORMAT, "%s: is an array of arrays", item->key);
    const uint64_t left = pass->file->bytes - pass->at;
    const uint64_t least = item->element == METADATA_STRING ? 8 : metadata_type_bytes(item->element);
    if (checked_multiply(&bytes, item->count, least) || bytes > left)
        return fail(err, ERR_FORMAT, "%s: claims %" PRIu64 " elements, %" PRIu64 " bytes are left", item->key,
            item->count, left);
    item->bytes = pass->file->map + pass->at;
    if (item->element == METADATA_STRING) return check_strings(pass, item, err);
    return take(pass, bytes, item->key, err) ? OK : ERR_FORMAT;
}

static enum status take_value(struct pass *pass, struct metadata_item *item, struct error *err)
{
    const char *text = NULL;
    enum status status;

    switch (item->type) {
    case METADATA_ARRAY:
        return take_array(pass, item, err);
    case METADATA_STRING:
        status = take_string(&text, &item->count, pass, item->key, err);
        item->bytes = (const uint8_t *)text;
        return status;
    default:
        item->bytes = take(pass, metadata_type_bytes(item->type), item->key, err);
        if (!item->bytes) return ERR_FORMAT;
        if (item->type == METADATA_BOOL && *item->bytes > 1)
            return fail(err, ERR_FORMAT, "%s: a bool is %u", item->key, *item->bytes);
        return OK;
    }
}

static enum status take_key(const char **out, struct pass *pass, struct error *err)
{
    const char *key;
    uint64_t bytes;
    char shown[64];
    enum status status = take_string(&key, &bytes, pass, "a metadata key", err);

    if (status) return status;
    if (bytes == 0 || bytes > KEY_LIMIT || memchr(key, 0, bytes))
        return fail(err, ERR_FORMAT, "metadata key %s: has %" PRIu64 " bytes%s",
            error_quote(shown, sizeof shown, key, bytes < 64 ? bytes : 64), bytes,
            bytes && bytes <= KEY_LIMIT ? ", one is zero" : "");
    *out = names_keep(&pass->container->names, key, bytes, err);
    return *out ? OK : ERR_MEMORY;
}

static enum status read_pair(struct pass *pass, struct error *err)
{
    struct metadata *metadata = pass->metadata;
    struct metadata_item item = {0};
    enum status status = take_key(&item.key, pass, err);

    if (!status) status = take_type(&item.type, pass, item.key, err);
    if (!status) status = take_value(pass, &item, err);
    if (!status)
        status = memory_grow(
            &metadata->items, &metadata->capacity, metadata->count + 1, sizeof *metadata->items, err);
    if (!status) status = names_add(&metadata->index, item.key, metadata->count, err);
    if (!status) metadata->items[metadata->count++] = item;
    return status;
}

static enum status read_metadata(struct pass *pass, uint64_t pairs, struct error *err)
{
    struct metadata *metadata = pass->metadata;
    const struct names_entry *twice;
    enum status status = OK;

    if (pairs > (pass->file->bytes - pass->at) / LEAST_PAIR)
        return fail(err, ERR_FORMAT, "claims %" PRIu64 " metadata pairs in %" PRIu64 " bytes", pairs,
            pass->file->bytes);
    for (uint64_t i = 0; i < pairs && !status; i++)
        status = read_pair(pass, err);
    if (status) return status;
    twice = names_sort(&metadata->index);
    if (twice) return fail(err, ERR_FORMAT, "duplicate metadata key %s", twice->name);
    const struct metadata_item *alignment = metadata_find(metadata, "general.alignment");
    if (alignment && alignment->type != METADATA_U32)
        return fail(err, ERR_FORMAT, "general.alignment: is of type %s, must be u32",
            metadata_type_name(alignment->type));
    status = metadata_get_u64(metadata, "general.alignment", 1, ALIGNMENT_MOST, &pass->alignment, err);
    if (!status && pass->alignment & (pass->alignment - 1))
        status = fail(err, ERR_FORMAT, "general.alignment: %" PRIu64 " is no power of two", pass->alignment);
    return status;
}

/* ---- tensors ---- */

static enum status take_name(const char **out, struct pass *pass, struct error *err)
{
    const char *name;
    uint64_t bytes;
    char shown[96];
    enum status status = take_string(&name, &bytes, pass, "a tensor's name", err);

    if (!status) status = names_check(name, bytes, err);
    if (status) return status;
    for (uint64_t i = 0; i < bytes; i++) {
        if (bytes > NAME_LIMIT || (uint8_t)name[i] < 0x20 || name[i] == 0x7F)
            return fail(err, ERR_FORMAT, "tensor %s: a name has at most %d bytes and no control characters",
                error_quote(shown, sizeof shown, name, bytes), NAME_LIMIT);
    }
    *out = names_keep(&pass->container->names, name, bytes, err);
    return *out ? OK : ERR_MEMORY;
}

/* The file has the fastest dimension first, a shape here the slowest. */
static enum status take_shape(struct tensor *tensor, struct pass *pass, struct error *err)
{
    enum status status = take_u32(&tensor->rank, pass, tensor->name, err);

    if (status) return status;
    if (tensor->rank < 1 || tensor->rank > DIMENSIONS)
        return fail(err, ERR_FORMAT, "tensor %s: has %" PRIu32 " dimensions, must have 1 to %d", tensor->name,
            tensor->rank, DIMENSIONS);
    for (uint32_t i = tensor->rank; i-- > 0 && !status;)
        status = take_u64(&tensor->shape[i], pass, tensor->name, err);
    return status;
}

static enum status take_storage(struct tensor *tensor, struct pass *pass, struct error *err)
{
    uint32_t id;
    enum status status = take_u32(&id, pass, tensor->name, err);

    if (status) return status;
    if (!gguf_types_set(tensor, id))
        return fail(err, ERR_UNSUPPORTED, "tensor %s: has GGUF type %" PRIu32 ", which is not read",
            tensor->name, id);
    status = measure_tensor(tensor, err);
    return status ? fail_within(err, status, "tensor %s", tensor->name) : OK;
}

/* Tensors lie in the order of the table, each at the next multiple of the alignment. *next: where this one belongs, then the
 * one after it. */
static enum status read_tensor(struct pass *pass, uint64_t *next, struct error *err)
{
    struct reader_entry entry = {0};
    enum status status = take_name(&entry.tensor.name, pass, err);

    if (!status) status = take_shape(&entry.tensor, pass, err);
    if (!status) status = take_storage(&entry.tensor, pass, err);
    if (!status) status = take_u64(&entry.offset, pass, entry.tensor.name, err);
    if (status) return status;
    if (entry.offset != *next)
        return fail(err, ERR_FORMAT, "tensor %s: lies at byte %" PRIu64 " of the data, expected at %" PRIu64,
            entry.tensor.name, entry.offset, *next);
    if (checked_add(next, *next, entry.tensor.bytes) || checked_align(next, *next, pass->alignment))
        return fail(err, ERR_FORMAT, "tensor %s: its data end beyond 2^64 bytes", entry.tensor.name);
    return reader_add_entry(pass->container, &entry, err);
}

/* Offsets become those of the file; every tensor must lie inside it. */
static enum status place_tensors(struct pass *pass, struct error *err)
{
    uint64_t data, end;

    if (checked_align(&data, pass->at, pass->alignment)) return fail(err, ERR_FORMAT, "the head is too long");
    for (uint64_t i = pass->first_entry; i < pass->container->entry_count; i++) {
        struct reader_entry *entry = &pass->container->entries[i];
        if (checked_add(&entry->offset, entry->offset, data) ||
            checked_add(&end, entry->offset, entry->tensor.bytes) || end > pass->file->bytes)
            return fail(err, ERR_FORMAT,
                "tensor %s: %" PRIu64 " bytes at byte %" PRIu64 ", the file has %" PRIu64, entry->tensor.name,
                entry->tensor.bytes, entry->offset, pass->file->bytes);
    }
    return OK;
}

static enum status read_tensors(struct pass *pass, uint64_t tensors, struct error *err)
{
    uint64_t next = 0;
    enum status status = OK;

    for (uint64_t i = 0; i < tensors && !status; i++)
        status = read_tensor(pass, &next, err);
    return status ? status : place_tensors(pass, err);
}

/* ---- the file ---- */

static enum status read_head(uint64_t *tensors, uint64_t *pairs, struct pass *pass, struct error *err)
{
    uint32_t version = 0;
    const uint8_t *signature = take(pass, 4, "the signature", err);
    enum status status = signature ? OK : ERR_FORMAT;

    if (!status && memcmp(signature, "GGUF", 4) != 0)
        status = fail(err, ERR_FORMAT, "is no GGUF file: it does not begin with GGUF");
    if (!status) status = take_u32(&version, pass, "the version", err);
    if (status) return status;
    if (version >> 16 && !(version & 0xFFFF))
        return fail(err, ERR_UNSUPPORTED, "is a big-endian GGUF file; little-endian ones are read");
    if (version < 2 || version > 3)
        return fail(err, ERR_UNSUPPORTED, "has GGUF version %" PRIu32 "; versions 2 and 3 are read", version);
    status = take_u64(tensors, pass, "the number of tensors", err);
    if (!status) status = take_u64(pairs, pass, "the number of metadata pairs", err);
    if (!status && *tensors > (pass->file->bytes - pass->at) / LEAST_TENSOR)
        status = fail(
            err, ERR_FORMAT, "claims %" PRIu64 " tensors in %" PRIu64 " bytes", *tensors, pass->file->bytes);
    return status;
}

static enum status read_all(struct pass *pass, struct error *err)
{
    uint64_t tensors = 0, pairs = 0;
    enum status status = read_head(&tensors, &pairs, pass, err);

    if (!status) status = read_metadata(pass, pairs, err);
    return status ? status : read_tensors(pass, tensors, err);
}

enum status gguf_parts_file(
    struct container *container, const char *path, struct metadata *metadata, struct error *err)
{
    struct pass pass = {
        .container = container, .metadata = metadata, .first_entry = container->entry_count, .alignment = 32};
    enum status status = reader_add_file(container, path, reader_base_name(path), err);

    if (status) return status;
    pass.file = container->files[container->file_count - 1].file;
    status = file_map(pass.file, err);
    if (!status) status = read_all(&pass, err);
    if (status) return fail_within(err, status, "%s", path);
    container->files[container->file_count - 1].head_bytes = pass.at;
    return OK;
}

enum status gguf_read(struct container *container, const char *path, struct error *err)
{
    enum status status = gguf_parts_file(container, path, &container->metadata, err);

    container->has_gaps = true;
    if (!status) status = gguf_parts_read(container, path, err);
    if (status) return status;
    status = reader_index_tensors(container, err);
    return status ? fail_within(err, status, "%s", path) : OK;
}
