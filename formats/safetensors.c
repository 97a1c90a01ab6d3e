/* Reading safetensors headers: one pass over the JSON that checks every tensor by itself, then one over the
 * tensors in the order of their data that checks them together. Tensor data is not touched. */
#include "formats/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/measure.h"

enum { LENGTH_BYTES = 8, DTYPE_NAME_LIMIT = 32, METADATA_LIMIT = 65536 };

/* One pass over the header of one file. */
struct pass {
    struct container *container;
    const char *path;
    char *header;
    uint64_t header_bytes;
    uint64_t data_offset; /* of the data in the file */
    struct json_reader json;
    struct json_keys keys, metadata_keys; /* to see duplicates */
    uint64_t first_entry;                 /* of this file in the container */
};

/* What the header says of one tensor, before it is known to make sense. */
struct claim {
    char dtype[DTYPE_NAME_LIMIT]; /* "" until read */
    uint32_t rank;
    uint64_t shape[TENSOR_RANK_LIMIT];
    uint64_t begin, end;
    bool has_shape, has_offsets;
};

/* Types that the format knows and this project does not compute with, and the bits of one element: their
 * sizes are checked like any other before they are refused, so that a damaged file is called damaged. */
static const struct foreign {
    const char *name;
    uint32_t bits;
} foreign_types[] = {
    {"F4", 4},
    {"F6_E2M3", 6},
    {"F6_E3M2", 6},
    {"F8_E4M3", 8},
    {"F8_E5M2", 8},
    {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8},
    {"U16", 16},
    {"U32", 32},
    {"U64", 64},
    {"C64", 64},
};

/* ---- the fields of one tensor ---- */

static enum status read_dtype(struct pass *pass, struct claim *claim, struct error *err)
{
    struct json_text text;
    char shown[64];
    enum status status;

    if (claim->dtype[0]) return fail(err, ERR_FORMAT, "duplicate field dtype");
    status = json_read_string(&pass->json, &text, err);
    if (status) return fail_within(err, status, "dtype");
    if (text.count == 0 || text.count >= DTYPE_NAME_LIMIT || memchr(text.bytes, 0, text.count))
        return fail(err, ERR_UNSUPPORTED, "type '%s' is unknown",
            error_quote(shown, sizeof shown, text.bytes, text.count));
    memcpy(claim->dtype, text.bytes, text.count); /* the rest is zero */
    return OK;
}

static enum status read_shape(struct pass *pass, struct claim *claim, struct error *err)
{
    enum status status;
    bool more;

    if (claim->has_shape) return fail(err, ERR_FORMAT, "duplicate field shape");
    claim->has_shape = true;
    status = json_enter_array(&pass->json, err);
    if (status) return fail_within(err, status, "shape");
    for (;;) {
        status = json_next_element(&pass->json, &more, err);
        if (status || !more) break;
        if (claim->rank == TENSOR_RANK_LIMIT)
            return fail(err, ERR_FORMAT, "shape has more than %d dimensions", TENSOR_RANK_LIMIT);
        status = json_read_u64(&pass->json, &claim->shape[claim->rank++], err);
        if (status) break;
    }
    return status ? fail_within(err, status, "shape") : OK;
}

/* Exactly two numbers. */
static enum status read_pair(struct json_reader *json, uint64_t pair[2], struct error *err)
{
    enum status status = json_enter_array(json, err);
    bool more;

    for (unsigned i = 0; i < 3 && !status; i++) {
        status = json_next_element(json, &more, err);
        if (status) break;
        if (more != (i < 2)) return fail(err, ERR_FORMAT, "must be two numbers");
        if (more) status = json_read_u64(json, &pair[i], err);
    }
    return status;
}

static enum status read_offsets(struct pass *pass, struct claim *claim, struct error *err)
{
    uint64_t pair[2];
    enum status status;

    if (claim->has_offsets) return fail(err, ERR_FORMAT, "duplicate field data_offsets");
    claim->has_offsets = true;
    status = read_pair(&pass->json, pair, err);
    if (status) return fail_within(err, status, "data_offsets");
    claim->begin = pair[0];
    claim->end = pair[1];
    return OK;
}

static bool text_is(struct json_text text, const char *word)
{
    return text.count == strlen(word) && memcmp(text.bytes, word, text.count) == 0;
}

static enum status read_field(struct pass *pass, struct json_text key, struct claim *claim, struct error *err)
{
    char shown[64];

    if (text_is(key, "dtype")) return read_dtype(pass, claim, err);
    if (text_is(key, "shape")) return read_shape(pass, claim, err);
    if (text_is(key, "data_offsets")) return read_offsets(pass, claim, err);
    return fail(err, ERR_UNSUPPORTED, "field '%s' is unknown",
        error_quote(shown, sizeof shown, key.bytes, key.count));
}

static enum status read_claim(struct pass *pass, struct claim *claim, struct error *err)
{
    enum status status = json_enter_object(&pass->json, err);
    struct json_text key;
    bool more = true;

    while (!status) {
        status = json_next_key(&pass->json, &key, &more, err);
        if (status || !more) break;
        status = read_field(pass, key, claim, err);
    }
    if (status) return status;
    if (!claim->dtype[0]) return fail(err, ERR_FORMAT, "field dtype is missing");
    if (!claim->has_shape) return fail(err, ERR_FORMAT, "field shape is missing");
    if (!claim->has_offsets) return fail(err, ERR_FORMAT, "field data_offsets is missing");
    return OK;
}

/* ---- one tensor ---- */

static uint32_t element_bits(const char *dtype)
{
    enum dtype known;

    if (dtype_by_name(&known, dtype, strlen(dtype))) return dtype_info(known)->bytes * 8;
    for (size_t i = 0; i < sizeof foreign_types / sizeof *foreign_types; i++) {
        if (strcmp(foreign_types[i].name, dtype) == 0) return foreign_types[i].bits;
    }
    return 0;
}

/* Shape, type and offsets of one tensor must agree. Whether they lie in the file is seen when all are in. */
static enum status check_claim(const struct claim *claim, struct error *err)
{
    uint32_t bits = element_bits(claim->dtype);
    char shape[MEASURE_SHAPE_TEXT];
    uint64_t elements, total;
    enum status status;

    if (bits == 0) return fail(err, ERR_UNSUPPORTED, "type '%s' is unknown", claim->dtype);
    if (claim->begin > claim->end)
        return fail(err, ERR_FORMAT, "data_offsets [%" PRIu64 ", %" PRIu64 "] end before they begin",
            claim->begin, claim->end);
    status = measure_shape(&elements, claim->rank, claim->shape, err);
    if (status) return status;
    measure_shape_text(shape, claim->rank, claim->shape);
    if (checked_multiply(&total, elements, bits))
        return fail(err, ERR_FORMAT, "shape %s of %s does not fit 2^64 bits", shape, claim->dtype);
    if (total % 8 != 0)
        return fail(err, ERR_FORMAT, "shape %s of %s does not fill whole bytes", shape, claim->dtype);
    if (total / 8 != claim->end - claim->begin)
        return fail(err, ERR_FORMAT,
            "shape %s of %s takes %" PRIu64 " bytes, data_offsets [%" PRIu64 ", %" PRIu64 "] are %" PRIu64,
            shape, claim->dtype, total / 8, claim->begin, claim->end, claim->end - claim->begin);
    return OK;
}

static enum status add_entry(
    struct pass *pass, const char *name, const struct claim *claim, struct error *err)
{
    struct reader_entry entry = {.tensor = {.name = name, .rank = claim->rank}};
    enum status status;

    if (strcmp(claim->dtype, "U32") == 0) {
        entry.foreign =
            "U32"; /* words of codes: as good as any other type of four bytes, if a packed matrix takes them */
        entry.tensor.dtype = DTYPE_I32;
    } else if (!dtype_by_name(&entry.tensor.dtype, claim->dtype, strlen(claim->dtype))) {
        return fail(err, ERR_UNSUPPORTED, "type %s is not supported", claim->dtype);
    }
    memcpy(entry.tensor.shape, claim->shape, sizeof entry.tensor.shape);
    status = measure_tensor(&entry.tensor, err);
    if (status) return status;
    entry.offset = claim->begin; /* in the data; place_entries makes it one in the file */
    return reader_add_entry(pass->container, &entry, err);
}

static enum status read_tensor(struct pass *pass, struct json_text key, struct error *err)
{
    struct claim claim = {0};
    enum status status = names_check(key.bytes, key.count, err);
    const char *name;

    if (status) return status;
    name =
        names_keep(&pass->container->names, key.bytes, key.count, err); /* reading on invalidates the key */
    if (!name) return ERR_MEMORY;
    status = read_claim(pass, &claim, err);
    if (!status) status = check_claim(&claim, err);
    if (!status) status = add_entry(pass, name, &claim, err);
    return status ? fail_within(err, status, "tensor %s", name) : OK;
}

/* ---- the metadata ---- */

/* Keep a pair if both sides could be names of tensors; whether they are is not known before the header's end.
 */
static enum status read_metadata_pair(struct pass *pass, struct json_text key, struct error *err)
{
    bool is_name = names_check(key.bytes, key.count, NULL) == OK && !text_is(key, "format");
    const char *alias = NULL, *target;
    struct json_text value;
    enum status status;

    if (is_name) {
        alias = names_keep(&pass->container->names, key.bytes, key.count, err);
        if (!alias) return ERR_MEMORY;
    }
    status = json_read_string(&pass->json, &value, err);
    if (status || !is_name || names_check(value.bytes, value.count, NULL) != OK) return status;
    target = names_keep(&pass->container->names, value.bytes, value.count, err);
    return target ? reader_add_alias(pass->container, alias, target, err) : ERR_MEMORY;
}

static enum status check_new(
    struct json_keys *keys, struct json_text key, const char *what, struct error *err)
{
    char shown[128];
    bool added;
    enum status status = json_keys_add(keys, key.bytes, key.count, &added, err);

    if (status || added) return status;
    return fail(
        err, ERR_FORMAT, "duplicate %s %s", what, error_quote(shown, sizeof shown, key.bytes, key.count));
}

static enum status read_metadata(struct pass *pass, struct error *err)
{
    enum status status = json_enter_object(&pass->json, err);
    struct json_text key;
    bool more;

    while (!status) {
        status = json_next_key(&pass->json, &key, &more, err);
        if (status || !more) break;
        if (pass->metadata_keys.count == METADATA_LIMIT)
            return fail(err, ERR_MEMORY, "__metadata__ has more than %d keys", METADATA_LIMIT);
        status = check_new(&pass->metadata_keys, key, "key", err);
        if (!status) status = read_metadata_pair(pass, key, err);
    }
    return status ? fail_within(err, status, "__metadata__") : OK;
}

/* ---- the whole header ---- */

static enum status read_members(struct pass *pass, struct error *err)
{
    enum status status = json_enter_object(&pass->json, err);
    struct json_text key;
    bool more;

    while (!status) {
        status = json_next_key(&pass->json, &key, &more, err);
        if (status || !more) break;
        status = check_new(&pass->keys, key, "tensor", err);
        if (status) break;
        status = text_is(key, "__metadata__") ? read_metadata(pass, err) : read_tensor(pass, key, err);
    }
    return status ? status : json_finish(&pass->json, err);
}

/* Fetch the header into memory; its length is checked before memory is asked for. Errors name the file. */
static enum status load_header(struct pass *pass, struct reader_file *file, struct error *err)
{
    uint8_t length[LENGTH_BYTES];
    uint64_t bytes = file->file->bytes;
    enum status status;

    if (bytes < LENGTH_BYTES)
        return fail(err, ERR_FORMAT, "%s: has %" PRIu64 " bytes, too short for a safetensors file",
            pass->path, bytes);
    status = file_read_at(file->file, 0, length, LENGTH_BYTES, err);
    if (status) return status;
    pass->header_bytes = bytes_get_u64(length);
    if (pass->header_bytes > SAFETENSORS_HEADER_LIMIT)
        return fail(err, ERR_FORMAT,
            "%s: header length %" PRIu64 " at byte 0 is above %d: damaged, or not a model file", pass->path,
            pass->header_bytes, SAFETENSORS_HEADER_LIMIT);
    pass->data_offset = LENGTH_BYTES + pass->header_bytes;
    if (pass->data_offset > bytes)
        return fail(err, ERR_FORMAT,
            "%s: the header ends at byte %" PRIu64 ", but the file has %" PRIu64 " bytes: cut short",
            pass->path, pass->data_offset, bytes);
    pass->header = memory_new(pass->header_bytes, 1, err);
    if (!pass->header) return ERR_MEMORY;
    status = file_read_at(file->file, LENGTH_BYTES, pass->header, pass->header_bytes, err);
    if (status) return status;
    file->head_bytes = pass->data_offset;
    file->head_crc = file_crc32(file_crc32(0, length, LENGTH_BYTES), pass->header, pass->header_bytes);
    return OK;
}

/* ---- all tensors together ---- */

/* By place in the data; an empty tensor stands before the one that begins where it does. */
static int compare_places(const void *left, const void *right)
{
    const struct reader_entry *a = left, *b = right;

    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    if (a->tensor.bytes != b->tensor.bytes) return a->tensor.bytes < b->tensor.bytes ? -1 : 1;
    return strcmp(a->tensor.name, b->tensor.name);
}

static enum status misplaced(
    const struct reader_entry *entry, const struct reader_entry *before, uint64_t expected, struct error *err)
{
    if (!before)
        return fail(err, ERR_FORMAT,
            "tensor %s: begins at byte %" PRIu64 " of the data, but no tensor is before it",
            entry->tensor.name, entry->offset);
    return fail(err, ERR_FORMAT,
        "tensor %s: begins at byte %" PRIu64 " of the data, but tensor %s ends at byte %" PRIu64 ": %s",
        entry->tensor.name, entry->offset, before->tensor.name, expected,
        entry->offset < expected ? "they overlap" : "a gap");
}

/* Put this file's tensors in the order of their data and check that they cover it: each begins where the one
 * before ended, the first at 0, and the last ends with the file. */
static enum status place_entries(struct pass *pass, uint64_t file_bytes, struct error *err)
{
    uint64_t first = pass->first_entry, count = pass->container->entry_count, expected = 0, end;
    struct reader_entry *entries = pass->container->entries;

    if (count > first) qsort(entries + first, count - first, sizeof *entries, compare_places);
    for (uint64_t i = first; i < count; i++) {
        if (entries[i].offset != expected)
            return misplaced(&entries[i], i > first ? &entries[i - 1] : NULL, expected, err);
        expected += entries[i].tensor.bytes; /* was begin + (end - begin): cannot wrap */
        entries[i].offset += pass->data_offset;
    }
    if (checked_add(&end, pass->data_offset, expected)) end = UINT64_MAX;
    if (end == file_bytes) return OK;
    return fail(err, ERR_FORMAT, "the header describes a file of %" PRIu64 " bytes, it has %" PRIu64 ": %s",
        end, file_bytes, end > file_bytes ? "cut short" : "bytes follow the last tensor");
}

/* ---- files ---- */

static enum status read_header(struct pass *pass, struct reader_file *file, struct error *err)
{
    enum status status = load_header(pass, file, err);

    if (status) return status;
    json_reader_init(&pass->json, "header", pass->header, pass->header_bytes);
    status = read_members(pass, err);
    if (!status) status = place_entries(pass, file->file->bytes, err);
    return status ? fail_within(err, status, "%s", pass->path) : OK;
}

static enum status add_file(
    struct container *container, const char *path, const char *name, struct error *err)
{
    struct pass pass = {.container = container, .path = path, .first_entry = container->entry_count};
    enum status status = reader_add_file(container, path, name, err);

    if (status) return status; /* names the path itself */
    status = read_header(&pass, &container->files[container->file_count - 1], err);
    json_reader_free(&pass.json);
    json_keys_free(&pass.keys);
    json_keys_free(&pass.metadata_keys);
    memory_free(pass.header);
    return status;
}

/* A metadata pair is an alias if its target is a tensor of the same file and its key is the name of none. */
static bool is_alias(const struct container *container, const struct reader_alias *pair)
{
    uint64_t target, taken;

    return names_find(&container->index, pair->target, &target) &&
           container->entries[target].file == pair->file &&
           !names_find(&container->index, pair->alias, &taken);
}

static enum status finish(struct container *container, struct error *err)
{
    enum status status = reader_index_tensors(container, err);
    uint64_t kept = 0;

    if (status) return status;
    for (uint64_t i = 0; i < container->alias_count; i++) {
        if (is_alias(container, &container->aliases[i])) container->aliases[kept++] = container->aliases[i];
    }
    container->alias_count = kept;
    return reader_index_aliases(container, err);
}

const struct shard_format safetensors_shards = {"safetensors", add_file, finish};

enum status safetensors_read(struct container *container, const char *path, struct error *err)
{
    enum status status = add_file(container, path, reader_base_name(path), err);

    return status ? status : finish(container, err);
}
