/* Writing GGUF. Tensors are declared, then dealt out to parts and laid out; data go straight to their places. The head of each part is
 * written last, because what it says of the provenance is known only then: until then the file does not begin like a GGUF file.
 *
 *   "GGUF" | 3: u32 | tensors: u64 | pairs: u64 | pairs | tensors | padding | data        (formats/gguf/gguf.c)
 */
#include "formats/gguf/gguf_writer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/gguf/gguf_types.h"
#include "formats/measure.h"
#include "formats/names.h"
#include "formats/provenance.h"

enum {
    VERSION = 3,
    QUANTIZATION_VERSION = 2, /* of ggml's block types; all files of our time have it */
    ALIGNMENT = 32,
    HEADER_BYTES = 4 + 4 + 8 + 8,
    RECORD_BYTES = 8 + 4 + 4 + 8, /* of a tensor, without its name and its dimensions of 8 bytes each */
    RANK_LIMIT = 4,
    TYPE_IDS = 64,      /* more than there are */
    PARTS_LIMIT = 65535 /* split.count is a u16 */
};

#define SUFFIX ".gguf"

struct gguf_tensor {
    struct tensor tensor; /* measured; its name is the writer's */
    uint32_t id, part;
    uint64_t missing; /* rows of a matrix that is joined of several, not declared yet */
    bool joined;
    uint64_t offset; /* in the data of its part */
    float *floats;   /* gguf_writer_floats: its data, owned */
};

/* What writer_add declared: a tensor of the file, or some rows of one. */
struct gguf_declared {
    uint64_t tensor;    /* its number */
    uint64_t at, bytes; /* in its data */
    uint64_t head;      /* rows interleaved, or 0 */
    float shift;
};

/* One file. */
struct gguf_part {
    char *path;
    struct output *output;
    struct metadata_builder metadata;
    uint64_t first, count; /* tensors */
    uint64_t data_at;      /* where the data begin in the file */
    uint64_t data_bytes;
};

struct gguf_writer {
    struct writer base; /* first */
    struct gguf_writer_options options;
    char *path;
    struct metadata_builder metadata; /* until it is the first part's */
    struct names_pool names;
    struct json_keys taken;
    struct gguf_tensor *tensors;
    uint64_t tensor_count, tensor_capacity;
    struct gguf_declared *declared;
    uint64_t declared_count, declared_capacity;
    struct gguf_part *parts;
    uint64_t part_count, part_capacity;
    uint64_t provenance_bytes; /* reserved */
    uint64_t provenance_at;    /* in the first part's metadata; 0: none */
    bool begun;
};

static struct gguf_writer *own(struct writer *writer)
{
    return (struct gguf_writer *)writer;
}

static const struct gguf_writer *own_const(const struct writer *writer)
{
    return (const struct gguf_writer *)writer;
}

static void gguf_writer_free(struct gguf_writer *writer)
{
    for (uint64_t i = 0; i < writer->part_count; i++) {
        output_abandon(writer->parts[i].output);
        metadata_builder_free(&writer->parts[i].metadata);
        memory_free(writer->parts[i].path);
    }
    for (uint64_t i = 0; i < writer->tensor_count; i++)
        memory_free(writer->tensors[i].floats);
    if (writer->options.naming.free_context)
        writer->options.naming.free_context(writer->options.naming.context);
    metadata_builder_free(&writer->metadata);
    memory_free(writer->parts);
    memory_free(writer->tensors);
    memory_free(writer->declared);
    json_keys_free(&writer->taken);
    names_pool_free(&writer->names);
    memory_free(writer->path);
    memory_free(writer);
}

/* ---- declaring ---- */

static enum status check_tensor(struct gguf_tensor *added, struct error *err)
{
    struct tensor *tensor = &added->tensor;
    enum status status;

    if (tensor->rank < 1 || tensor->rank > RANK_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "rank %" PRIu32 " has no place in GGUF files (1 to %d)",
            tensor->rank, RANK_LIMIT);
    if (!gguf_types_id(&added->id, tensor))
        return fail(err, ERR_UNSUPPORTED, "%s has no type in GGUF files; --type f16 writes it as F16",
            tensor->storage == STORAGE_TILES ? "quantized in tiles, it" : dtype_info(tensor->dtype)->name);
    status = measure_tensor(tensor, err);
    return status;
}

static enum status claim_name(
    const char **out, struct gguf_writer *writer, const char *name, struct error *err)
{
    const uint64_t bytes = strlen(name);
    bool added;
    enum status status = names_check(name, bytes, err);

    if (!status && bytes >= GGUF_WRITER_NAME_BYTES)
        status = fail(err, ERR_FORMAT, "tensor %s: a name in GGUF files has at most %d bytes", name,
            GGUF_WRITER_NAME_BYTES - 1);
    if (!status) status = json_keys_add(&writer->taken, name, bytes, &added, err);
    if (!status && !added) status = fail(err, ERR_FORMAT, "tensor %s: the name is in use already", name);
    if (status) return status;
    *out = names_keep(&writer->names, name, bytes, err);
    return *out ? OK : ERR_MEMORY;
}

static enum status append(
    struct gguf_writer *writer, struct gguf_tensor *added, const char *name, struct error *err)
{
    enum status status = check_tensor(added, err);

    if (status) return fail_within(err, status, "tensor %s", name);
    if (writer->begun) return fail(err, ERR_USAGE, "tensor %s: the layout is fixed already", name);
    if (writer->tensor_count == CONTAINER_TENSOR_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d tensors", CONTAINER_TENSOR_LIMIT);
    status = memory_grow(
        &writer->tensors, &writer->tensor_capacity, writer->tensor_count + 1, sizeof *writer->tensors, err);
    if (!status) status = claim_name(&added->tensor.name, writer, name, err);
    if (!status) writer->tensors[writer->tensor_count++] = *added;
    return status;
}

/* The matrix that is joined under a name, or as many as there are; its parts come close to one another. */
static uint64_t find_joined(const struct gguf_writer *writer, const char *name)
{
    for (uint64_t i = writer->tensor_count; i > 0; i--) {
        const struct gguf_tensor *tensor = &writer->tensors[i - 1];
        if (tensor->joined && strcmp(tensor->tensor.name, name) == 0) return i - 1;
    }
    return writer->tensor_count;
}

static const char *type_name(const struct tensor *tensor)
{
    return tensor->storage == STORAGE_BLOCKS ? block_info(tensor->block)->name
                                             : dtype_info(tensor->dtype)->name;
}

/* The shape of what is joined of rows. */
static void join_shape(struct tensor *whole, const struct gguf_place *place)
{
    whole->shape[0] = place->rows;
    if (!place->stacked) return;
    whole->rank = 3;
    whole->shape[2] = whole->shape[1];
    whole->shape[1] = place->rows / place->stacked;
    whole->shape[0] = place->stacked;
}

/* Some rows of a matrix, which is declared with the first of them. */
static enum status add_rows(struct gguf_declared *declared, struct gguf_writer *writer,
    const struct tensor *tensor, const struct gguf_place *place, struct error *err)
{
    struct gguf_tensor added = {.tensor = *tensor, .joined = true, .missing = place->rows}, *whole;
    enum status status = OK;

    join_shape(&added.tensor, place);
    declared->tensor = find_joined(writer, place->name);
    if (declared->tensor == writer->tensor_count) status = append(writer, &added, place->name, err);
    if (status) return status;
    whole = &writer->tensors[declared->tensor];
    if (whole->tensor.storage != tensor->storage || whole->tensor.block != tensor->block ||
        whole->tensor.dtype != tensor->dtype)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: is %s, but other rows of %s are %s: in GGUF files of this architecture they are one "
            "matrix, of one type",
            tensor->name, type_name(tensor), place->name, type_name(&whole->tensor));
    if (whole->tensor.rank != tensor->rank + (place->stacked != 0) ||
        (tensor->rank > 1 && tensor->shape[1] != whole->tensor.shape[whole->tensor.rank - 1]) ||
        tensor->shape[0] > whole->missing || tensor->shape[0] > place->rows ||
        place->first_row > place->rows - tensor->shape[0])
        return fail(err, ERR_FORMAT, "tensor %s: does not fit into the %" PRIu64 " rows of %s", tensor->name,
            place->rows, place->name);
    whole->missing -= tensor->shape[0];
    declared->at = whole->tensor.bytes / place->rows * place->first_row;
    declared->bytes = whole->tensor.bytes / place->rows * tensor->shape[0];
    return OK;
}

static enum status add_whole(struct gguf_declared *declared, struct gguf_writer *writer,
    const struct tensor *tensor, const char *name, struct error *err)
{
    struct gguf_tensor added = {.tensor = *tensor};
    enum status status = append(writer, &added, name, err);

    declared->tensor = writer->tensor_count - 1;
    declared->bytes = added.tensor.bytes;
    return status;
}

static enum status add(struct writer *base, const struct tensor *tensor, uint64_t *index, struct error *err)
{
    struct gguf_writer *writer = own(base);
    const struct gguf_naming *naming = &writer->options.naming;
    struct gguf_place place = {0};
    struct gguf_declared declared = {0};
    enum status status = OK;

    if (naming->name) status = naming->name(naming->context, &place, tensor, err);
    if (!status)
        status = memory_grow(&writer->declared, &writer->declared_capacity, writer->declared_count + 1,
            sizeof *writer->declared, err);
    if (!status)
        status = place.rows
                     ? add_rows(&declared, writer, tensor, &place, err)
                     : add_whole(&declared, writer, tensor, naming->name ? place.name : tensor->name, err);
    if (status) return status;
    declared.head = place.head;
    declared.shift = place.shift;
    *index = writer->declared_count;
    writer->declared[writer->declared_count++] = declared;
    return OK;
}

enum status gguf_writer_floats(
    struct writer *base, const char *name, const float *values, uint64_t count, struct error *err)
{
    struct gguf_tensor added = {
        .tensor = {.storage = STORAGE_DENSE, .dtype = DTYPE_F32, .rank = 1, .shape = {count}}};
    enum status status;

    added.floats = memory_new(count, sizeof *values, err);
    if (!added.floats) return ERR_MEMORY;
    memcpy(added.floats, values, count * sizeof *values);
    status = append(own(base), &added, name, err);
    if (status) memory_free(added.floats);
    return status;
}

static enum status add_alias(struct writer *writer, const char *alias, const char *target, struct error *err)
{
    (void)writer, (void)alias, (void)target, (void)err;
    return OK;
}

static uint64_t head_of(const struct writer *writer, uint64_t index)
{
    return own_const(writer)->declared[index].head;
}

static float shift_of(const struct writer *writer, uint64_t index)
{
    return own_const(writer)->declared[index].shift;
}

/* ---- documents ---- */

static enum status reserve(struct writer *base, const char *name, uint64_t bytes, struct error *err)
{
    (void)err;
    if (strcmp(name, PROVENANCE_DOCUMENT) == 0) own(base)->provenance_bytes = bytes;
    return OK;
}

/* Spaces after the end of a JSON document are part of it. */
static enum status add_document(
    struct writer *base, const char *name, const char *bytes, uint64_t count, struct error *err)
{
    struct gguf_writer *writer = own(base);

    if (strcmp(name, PROVENANCE_DOCUMENT) != 0) return OK;
    if (!writer->provenance_at || count > writer->provenance_bytes)
        return fail(err, ERR_USAGE, "%s: %" PRIu64 " bytes, room for %" PRIu64 " was reserved", name, count,
            writer->provenance_at ? writer->provenance_bytes : 0);
    memcpy(writer->parts[0].metadata.bytes + writer->provenance_at, bytes, count);
    return OK;
}

/* ---- metadata ---- */

/* What most weights of matrices are; F32 where there are none. */
static uint32_t file_type(const struct gguf_writer *writer)
{
    uint64_t elements[TYPE_IDS] = {0};
    uint32_t most = 0, found = 0;

    for (uint64_t i = 0; i < writer->tensor_count; i++) {
        const struct gguf_tensor *tensor = &writer->tensors[i];
        if (tensor->id >= TYPE_IDS || tensor->tensor.rank < 2) continue;
        elements[tensor->id] += tensor->tensor.elements;
        if (elements[tensor->id] > elements[most]) most = tensor->id;
    }
    gguf_types_file(&found, most, writer->options.file_type);
    return found;
}

/* A string of spaces, to be written over. */
static enum status add_provenance(struct gguf_writer *writer, struct error *err)
{
    char *spaces;

    if (!writer->provenance_bytes) return OK;
    spaces = memory_new(writer->provenance_bytes, 1, err);
    if (!spaces) return ERR_MEMORY;
    memset(spaces, ' ', writer->provenance_bytes);
    metadata_builder_string(&writer->metadata, GGUF_WRITER_PROVENANCE, spaces, writer->provenance_bytes);
    writer->provenance_at = writer->metadata.count - writer->provenance_bytes;
    memory_free(spaces);
    return OK;
}

static void add_split(struct metadata_builder *metadata, uint64_t number, uint64_t parts, uint64_t tensors)
{
    metadata_builder_u16(metadata, "split.no", (uint16_t)number);
    metadata_builder_u16(metadata, "split.count", (uint16_t)parts);
    metadata_builder_i32(metadata, "split.tensors.count", (int32_t)tensors);
}

/* ---- the layout ---- */

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint64_t record_bytes(const struct gguf_tensor *tensor)
{
    return RECORD_BYTES + strlen(tensor->tensor.name) + 8 * (uint64_t)tensor->tensor.rank;
}

static enum status add_part(struct gguf_writer *writer, uint64_t first, struct error *err)
{
    enum status status = OK;

    if (writer->part_count == PARTS_LIMIT)
        return fail(err, ERR_USAGE, "%s: more than %d parts; let them be larger", writer->path, PARTS_LIMIT);
    status = memory_grow(
        &writer->parts, &writer->part_capacity, writer->part_count + 1, sizeof *writer->parts, err);
    if (!status) writer->parts[writer->part_count++].first = first;
    return status;
}

static enum status check_joined(const struct gguf_writer *writer, struct error *err)
{
    for (uint64_t i = 0; i < writer->tensor_count; i++) {
        if (writer->tensors[i].missing)
            return fail(err, ERR_FORMAT, "tensor %s: %" PRIu64 " of its rows are missing",
                writer->tensors[i].tensor.name, writer->tensors[i].missing);
    }
    return OK;
}

/* Give every tensor its part and its place. split_pairs: bytes of the pairs that every part has. */
static enum status deal(struct gguf_writer *writer, uint64_t split_pairs, struct error *err)
{
    const uint64_t limit = writer->options.split_bytes ? writer->options.split_bytes : INT64_MAX / 2;
    uint64_t head = HEADER_BYTES + writer->metadata.count + split_pairs, data = 0, end;
    enum status status = add_part(writer, 0, err);

    if (status) return status;
    for (uint64_t i = 0; i < writer->tensor_count && !status; i++) {
        struct gguf_tensor *tensor = &writer->tensors[i];
        const uint64_t record = record_bytes(tensor);
        if (tensor->tensor.bytes > INT64_MAX / 4 || checked_add(&end, data, aligned(tensor->tensor.bytes)) ||
            end > INT64_MAX / 2)
            return fail(
                err, ERR_FORMAT, "tensor %s: the file would have 2^62 bytes or more", tensor->tensor.name);
        if (writer->options.split_bytes && writer->parts[writer->part_count - 1].count &&
            aligned(head + record) + end > limit) {
            status = add_part(writer, i, err);
            head = HEADER_BYTES + split_pairs;
            data = 0;
        }
        struct gguf_part *part = &writer->parts[writer->part_count - 1];
        tensor->part = (uint32_t)(writer->part_count - 1);
        tensor->offset = data;
        head += record;
        data += aligned(tensor->tensor.bytes);
        part->count++;
        part->data_at = aligned(head);
        part->data_bytes = data;
    }
    writer->parts[0].data_at = writer->parts[0].count ? writer->parts[0].data_at : aligned(head);
    return status;
}

/* The pairs of every part: the first has all of ours. */
static enum status share_metadata(struct gguf_writer *writer, struct error *err)
{
    enum status status = OK;

    writer->parts[0].metadata = writer->metadata;
    writer->metadata = (struct metadata_builder){0};
    for (uint64_t i = 0; i < writer->part_count && !status; i++) {
        struct metadata_builder *metadata = &writer->parts[i].metadata;
        if (writer->options.split_bytes) add_split(metadata, i, writer->part_count, writer->tensor_count);
        status = metadata_builder_status(metadata, err);
    }
    return status;
}

char *gguf_writer_part_path(const char *path, uint64_t number, uint64_t count, struct error *err)
{
    const size_t bytes = strlen(path), suffix = strlen(SUFFIX);
    const bool named = bytes > suffix && strcmp(path + bytes - suffix, SUFFIX) == 0;
    const size_t stem = named ? bytes - suffix : bytes;
    char *out = memory_new(stem + 64, 1, err);

    if (out)
        snprintf(out, stem + 64, "%.*s-%05" PRIu64 "-of-%05" PRIu64 SUFFIX, (int)stem, path, number, count);
    return out;
}

static enum status open_parts(struct gguf_writer *writer, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < writer->part_count && !status; i++) {
        struct gguf_part *part = &writer->parts[i];
        part->path = writer->options.split_bytes
                         ? gguf_writer_part_path(writer->path, i + 1, writer->part_count, err)
                         : memory_text(writer->path, strlen(writer->path), err);
        if (!part->path) return ERR_MEMORY;
        status = output_open(&part->output, part->path, writer->options.force, err);
        if (!status) status = output_reserve(part->output, part->data_at + part->data_bytes, err);
    }
    return status;
}

/* Bytes of a tensor, from byte `offset` of its data on. */
static enum status write_at(struct gguf_writer *writer, const struct gguf_tensor *tensor, uint64_t offset,
    const void *bytes, uint64_t count, struct error *err)
{
    const struct gguf_part *part = &writer->parts[tensor->part];

    return output_write_at(part->output, part->data_at + tensor->offset + offset, bytes, count, err);
}

static enum status write_floats(struct gguf_writer *writer, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < writer->tensor_count && !status; i++) {
        const struct gguf_tensor *tensor = &writer->tensors[i];
        if (tensor->floats) status = write_at(writer, tensor, 0, tensor->floats, tensor->tensor.bytes, err);
    }
    return status;
}

static enum status lay_out(struct gguf_writer *writer, struct error *err)
{
    struct metadata_builder split = {0};
    enum status status = check_joined(writer, err);

    if (status) return status;
    metadata_builder_u32(&writer->metadata, "general.file_type", file_type(writer));
    metadata_builder_u32(&writer->metadata, "general.quantization_version", QUANTIZATION_VERSION);
    status = add_provenance(writer, err);
    if (writer->options.split_bytes) add_split(&split, 0, 0, 0);
    if (!status) status = metadata_builder_status(&split, err);
    if (!status) status = metadata_builder_status(&writer->metadata, err);
    if (!status) status = deal(writer, split.count, err);
    if (!status) status = share_metadata(writer, err);
    metadata_builder_free(&split);
    return status;
}

static enum status count_bytes(struct writer *base, uint64_t *bytes, struct error *err)
{
    const struct gguf_writer *writer = own(base);
    enum status status = lay_out(own(base), err);

    *bytes = 0;
    for (uint64_t i = 0; i < writer->part_count && !status; i++)
        *bytes += writer->parts[i].data_at + writer->parts[i].data_bytes;
    return status;
}

static enum status begin(struct writer *base, struct error *err)
{
    struct gguf_writer *writer = own(base);
    enum status status = lay_out(writer, err);

    if (!status) status = open_parts(writer, err);
    if (status) return status;
    writer->begun = true;
    return write_floats(writer, err);
}

/* ---- data ---- */

static enum status write_data(struct writer *base, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err)
{
    struct gguf_writer *writer = own(base);
    const struct gguf_declared *declared = &writer->declared[index];
    const struct gguf_tensor *tensor = &writer->tensors[declared->tensor];
    uint64_t end;

    if (checked_add(&end, offset, count) || end > declared->bytes)
        return fail(err, ERR_USAGE,
            "tensor %s: %" PRIu64 " bytes written at byte %" PRIu64 ", it has %" PRIu64, tensor->tensor.name,
            count, offset, declared->bytes);
    return write_at(writer, tensor, declared->at + offset, bytes, count, err);
}

static void set_checksum(struct writer *writer, uint64_t index, uint32_t crc)
{
    (void)writer, (void)index, (void)crc;
}

/* ---- heads ---- */

static uint8_t *put(uint8_t *at, uint64_t value, unsigned bytes)
{
    bytes_put(at, value, bytes);
    return at + bytes;
}

/* The fastest dimension first. */
static uint8_t *put_record(uint8_t *at, const struct gguf_tensor *tensor)
{
    const struct tensor *described = &tensor->tensor;
    const size_t bytes = strlen(described->name);

    at = put(at, bytes, 8);
    memcpy(at, described->name, bytes);
    at = put(at + bytes, described->rank, 4);
    for (uint32_t i = described->rank; i-- > 0;)
        at = put(at, described->shape[i], 8);
    at = put(at, tensor->id, 4);
    return put(at, tensor->offset, 8);
}

static enum status write_head(struct gguf_writer *writer, const struct gguf_part *part, struct error *err)
{
    uint8_t *head = memory_new(part->data_at, 1, err), *at = head;
    enum status status;

    if (!head) return ERR_MEMORY;
    memcpy(at, "GGUF", 4);
    at = put(at + 4, VERSION, 4);
    at = put(at, part->count, 8);
    at = put(at, part->metadata.pairs, 8);
    memcpy(at, part->metadata.bytes, part->metadata.count);
    at += part->metadata.count;
    for (uint64_t i = 0; i < part->count; i++)
        at = put_record(at, &writer->tensors[part->first + i]);
    status = output_write_at(part->output, 0, head, part->data_at, err);
    memory_free(head);
    return status;
}

/* Zeros behind every tensor up to the alignment, also behind the last. */
static enum status write_padding(struct gguf_writer *writer, struct error *err)
{
    static const uint8_t zeros[ALIGNMENT];
    enum status status = OK;

    for (uint64_t i = 0; i < writer->tensor_count && !status; i++) {
        const struct gguf_tensor *tensor = &writer->tensors[i];
        const struct gguf_part *part = &writer->parts[tensor->part];
        const uint64_t bytes = tensor->tensor.bytes;
        status = output_write_at(
            part->output, part->data_at + tensor->offset + bytes, zeros, aligned(bytes) - bytes, err);
    }
    return status;
}

/* ---- the end ---- */

static const char *file_of(const struct writer *base, uint64_t index)
{
    const struct gguf_writer *writer = own_const(base);

    return writer->options.split_bytes && index < writer->part_count ? writer->parts[index].path : NULL;
}

/* The first part goes last, and an older one of its name first: nobody finds half of the old parts and half of the new. */
static enum status commit_parts(struct gguf_writer *writer, struct error *err)
{
    enum status status = OK;

    if (writer->part_count > 1) remove(writer->parts[0].path);
    for (uint64_t i = writer->part_count; i-- > 0 && !status;) {
        struct output *output = writer->parts[i].output;
        writer->parts[i].output = NULL; /* freed in any case */
        status = output_commit(output, err);
    }
    return status;
}

static enum status commit(struct writer *base, struct error *err)
{
    struct gguf_writer *writer = own(base);
    enum status status = writer->begun ? OK : begin(base, err);

    if (!status) status = write_padding(writer, err);
    for (uint64_t i = 0; i < writer->part_count && !status; i++)
        status = write_head(writer, &writer->parts[i], err);
    if (!status) status = commit_parts(writer, err);
    gguf_writer_free(writer);
    return status;
}

static void abandon(struct writer *writer)
{
    gguf_writer_free(own(writer));
}

/* ---- the kind ---- */

static const struct writer_kind kind = {
    .name = "GGUF",
    .add = add,
    .alias = add_alias,
    .begin = begin,
    .bytes = count_bytes,
    .write = write_data,
    .checksum = set_checksum,
    .head = head_of,
    .shift = shift_of,
    .reserve = reserve,
    .document = add_document,
    .file = file_of,
    .commit = commit,
    .abandon = abandon,
};

enum status gguf_writer_create(struct writer **out, const char *path,
    const struct gguf_writer_options *options, struct metadata_builder *metadata, struct error *err)
{
    struct gguf_writer *writer = memory_new(1, sizeof *writer, err);

    *out = NULL;
    if (!writer) {
        metadata_builder_free(metadata);
        if (options->naming.free_context) options->naming.free_context(options->naming.context);
        return ERR_MEMORY;
    }
    writer->base.kind = &kind;
    writer->options = *options;
    writer->metadata = *metadata;
    *metadata = (struct metadata_builder){0};
    writer->path = memory_text(path, strlen(path), err);
    if (!writer->path) {
        gguf_writer_free(writer);
        return ERR_MEMORY;
    }
    *out = &writer->base;
    return OK;
}
