/* Writing a .nbl file: tensors are declared, laid out, and then written by any number of threads straight to
 * their final places; what cannot be known before the data is written (checksums, documents) comes at commit:
 * metadata behind the data, then the table and, last, the header. */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/measure.h"
#include "formats/names.h"
#include "formats/nbl.h"
#include "formats/nbl_layout.h"
#include "formats/writer.h"

struct writer_tensor {
    struct nbl_record record;
    bool has_checksum;
};

struct writer_alias {
    const char *alias, *target;
    uint64_t number; /* of the target, once the layout is fixed */
};

struct writer_document {
    const char *name;
    char *bytes;
    uint64_t count;
};

struct nbl_writer {
    struct writer base; /* first */
    struct output *output;
    char *path;
    struct names_pool names;
    struct json_keys taken; /* names of tensors and aliases */
    struct json_keys document_names;
    struct names_index index; /* tensors by name, once begun */
    struct writer_tensor *tensors;
    struct writer_alias *aliases;
    struct writer_document *documents;
    uint64_t tensor_count, tensor_capacity;
    uint64_t alias_count, alias_capacity;
    uint64_t document_count, document_capacity;
    uint64_t name_bytes; /* of all tensors */
    bool begun;
    struct nbl_header header;
};

static struct nbl_writer *own(struct writer *writer)
{
    return (struct nbl_writer *)writer;
}

static void nbl_writer_free(struct nbl_writer *writer)
{
    output_abandon(writer->output);
    for (uint64_t i = 0; i < writer->document_count; i++)
        memory_free(writer->documents[i].bytes);
    memory_free(writer->documents);
    memory_free(writer->aliases);
    memory_free(writer->tensors);
    names_index_free(&writer->index);
    json_keys_free(&writer->document_names);
    json_keys_free(&writer->taken);
    names_pool_free(&writer->names);
    memory_free(writer->path);
    memory_free(writer);
}

/* ---- declaring ---- */

/* Check a name of a tensor or alias and keep a copy (N15, N16, N31). */
static enum status claim_name(
    const char **out, struct nbl_writer *writer, const char *name, struct error *err)
{
    uint64_t count = strlen(name);
    enum status status = names_check(name, count, err);
    bool added;

    if (!status) status = json_keys_add(&writer->taken, name, count, &added, err);
    if (status) return status;
    if (!added) return fail(err, ERR_FORMAT, "name %s is in use already", name);
    *out = names_keep(&writer->names, name, count, err);
    return *out ? OK : ERR_MEMORY;
}

static enum status add(struct writer *base, const struct tensor *tensor, uint64_t *index, struct error *err)
{
    struct nbl_writer *writer = own(base);
    struct writer_tensor added = {.record.tensor = *tensor};
    enum status status;

    if (writer->begun) return fail(err, ERR_USAGE, "tensor %s: the layout is fixed already", tensor->name);
    if (writer->tensor_count == CONTAINER_TENSOR_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d tensors", CONTAINER_TENSOR_LIMIT);
    status = measure_tensor(&added.record.tensor, err);
    if (status) return fail_within(err, status, "tensor %s", tensor->name);
    status = memory_grow(
        &writer->tensors, &writer->tensor_capacity, writer->tensor_count + 1, sizeof *writer->tensors, err);
    if (!status) status = claim_name(&added.record.tensor.name, writer, tensor->name, err);
    if (status) return status;
    added.record.name_offset = writer->name_bytes;
    added.record.name_bytes = (uint32_t)strlen(tensor->name);
    added.has_checksum = added.record.tensor.bytes == 0; /* the CRC-32 of nothing is 0 */
    writer->name_bytes += added.record.name_bytes;
    *index = writer->tensor_count;
    writer->tensors[writer->tensor_count++] = added;
    return OK;
}

static enum status resolve_alias(struct nbl_writer *writer, struct writer_alias *alias, struct error *err)
{
    if (names_find(&writer->index, alias->target, &alias->number)) return OK;
    return fail(err, ERR_FORMAT, "alias %s: its target %s is no tensor", alias->alias, alias->target);
}

static enum status add_alias(struct writer *base, const char *alias, const char *target, struct error *err)
{
    struct nbl_writer *writer = own(base);
    struct writer_alias added = {0};
    enum status status;

    if (writer->alias_count == NBL_ALIAS_COUNT_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d aliases", NBL_ALIAS_COUNT_LIMIT);
    status = memory_grow(
        &writer->aliases, &writer->alias_capacity, writer->alias_count + 1, sizeof *writer->aliases, err);
    if (!status) status = claim_name(&added.alias, writer, alias, err);
    if (status) return status;
    added.target = names_keep(&writer->names, target, strlen(target), err);
    if (!added.target) return ERR_MEMORY;
    if (writer->begun) status = resolve_alias(writer, &added, err);
    if (!status) writer->aliases[writer->alias_count++] = added;
    return status;
}

static enum status add_document(
    struct writer *base, const char *name, const char *bytes, uint64_t count, struct error *err)
{
    struct nbl_writer *writer = own(base);
    struct writer_document added = {.count = count};
    enum status status = names_check_file(name, strlen(name), err);
    bool is_new;

    if (!status && count > CONTAINER_DOCUMENT_LIMIT)
        return fail(err, ERR_MEMORY, "document %s: %" PRIu64 " bytes, the limit is %u", name, count,
            CONTAINER_DOCUMENT_LIMIT);
    if (!status && writer->document_count == NBL_DOCUMENT_COUNT_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d documents", NBL_DOCUMENT_COUNT_LIMIT);
    if (!status) status = json_keys_add(&writer->document_names, name, strlen(name), &is_new, err);
    if (status) return status;
    if (!is_new) return fail(err, ERR_FORMAT, "duplicate document %s", name);
    status = memory_grow(&writer->documents, &writer->document_capacity, writer->document_count + 1,
        sizeof *writer->documents, err);
    if (status) return status;
    added.name = names_keep(&writer->names, name, strlen(name), err);
    added.bytes = added.name ? memory_text(bytes, count, err) : NULL;
    if (!added.bytes) return ERR_MEMORY;
    writer->documents[writer->document_count++] = added;
    return OK;
}

/* ---- the layout ---- */

/* Give every tensor its place (N8, N24, N25). */
static enum status place_tensors(struct nbl_writer *writer, struct error *err)
{
    struct nbl_header *header = &writer->header;
    uint64_t end;

    header->tensor_count = writer->tensor_count;
    header->table_bytes = writer->tensor_count * NBL_RECORD_BYTES + writer->name_bytes; /* both are limited */
    checked_align(&header->data_offset, NBL_HEADER_BYTES + header->table_bytes, NBL_DATA_ALIGNMENT);
    end = header->data_offset;
    for (uint64_t i = 0; i < writer->tensor_count; i++) {
        struct nbl_record *record = &writer->tensors[i].record;
        if (checked_align(&record->offset, end, NBL_TENSOR_ALIGNMENT) ||
            checked_add(&end, record->offset, record->tensor.bytes) || end > INT64_MAX / 2)
            return fail(
                err, ERR_FORMAT, "tensor %s: the file would have 2^62 bytes or more", record->tensor.name);
    }
    checked_align(&header->metadata_offset, end, NBL_TENSOR_ALIGNMENT);
    header->data_bytes = header->metadata_offset - header->data_offset;
    return OK;
}

static enum status begin(struct writer *base, struct error *err)
{
    struct nbl_writer *writer = own(base);
    enum status status = place_tensors(writer, err);

    for (uint64_t i = 0; i < writer->tensor_count && !status; i++)
        status = names_add(&writer->index, writer->tensors[i].record.tensor.name, i, err);
    if (status) return status;
    names_sort(&writer->index); /* claim_name has seen to it that all names differ */
    for (uint64_t i = 0; i < writer->alias_count; i++) {
        status = resolve_alias(writer, &writer->aliases[i], err);
        if (status) return status;
    }
    writer->begun = true;
    return output_reserve(writer->output, writer->header.metadata_offset, err);
}

/* ---- data ---- */

static enum status write_part(struct writer *base, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err)
{
    struct nbl_writer *writer = own(base);
    const struct nbl_record *record = &writer->tensors[index].record;
    uint64_t end;

    if (checked_add(&end, offset, count) || end > record->tensor.bytes)
        return fail(err, ERR_USAGE,
            "tensor %s: %" PRIu64 " bytes written at byte %" PRIu64 ", it has %" PRIu64, record->tensor.name,
            count, offset, record->tensor.bytes);
    return output_write_at(writer->output, record->offset + offset, bytes, count, err);
}

static void set_checksum(struct writer *base, uint64_t index, uint32_t crc)
{
    struct nbl_writer *writer = own(base);
    writer->tensors[index].record.crc = crc;
    writer->tensors[index].has_checksum = true;
}

/* ---- metadata, table, header ---- */

static uint8_t *put_item(uint8_t *at, const char *name, uint64_t number)
{
    size_t count = strlen(name);

    bytes_put(at, count, 4);
    bytes_put(at + 4, number, 8);
    memcpy(at + NBL_ITEM_BYTES, name, count);
    return at + NBL_ITEM_BYTES + count;
}

/* Aliases and documents are limited in number and size, so that this sum cannot wrap. */
static uint64_t metadata_size(const struct nbl_writer *writer)
{
    uint64_t bytes = NBL_COUNTS_BYTES;

    for (uint64_t i = 0; i < writer->document_count; i++)
        bytes += NBL_ITEM_BYTES + strlen(writer->documents[i].name) + writer->documents[i].count;
    for (uint64_t i = 0; i < writer->alias_count; i++)
        bytes += NBL_ITEM_BYTES + strlen(writer->aliases[i].alias);
    return bytes;
}

static enum status build_metadata(uint8_t **out, struct nbl_writer *writer, struct error *err)
{
    uint64_t bytes = metadata_size(writer);
    uint8_t *at;

    if (bytes > NBL_METADATA_LIMIT)
        return fail(err, ERR_MEMORY, "%s: documents and aliases of %" PRIu64 " bytes, the limit is %d",
            writer->path, bytes, NBL_METADATA_LIMIT);
    at = *out = memory_new(bytes, 1, err);
    if (!at) return ERR_MEMORY;
    writer->header.metadata_bytes = bytes;
    bytes_put(at, writer->document_count, 4);
    bytes_put(at + 4, writer->alias_count, 4);
    at += NBL_COUNTS_BYTES;
    for (uint64_t i = 0; i < writer->document_count; i++) {
        const struct writer_document *document = &writer->documents[i];
        at = put_item(at, document->name, document->count);
        if (document->count > 0) memcpy(at, document->bytes, document->count);
        at += document->count;
    }
    for (uint64_t i = 0; i < writer->alias_count; i++)
        at = put_item(at, writer->aliases[i].alias, writer->aliases[i].number);
    return OK;
}

static enum status build_table(uint8_t **out, struct nbl_writer *writer, struct error *err)
{
    uint8_t *names;

    *out = memory_new(writer->header.table_bytes, 1, err);
    if (!*out) return ERR_MEMORY;
    names = *out + writer->tensor_count * NBL_RECORD_BYTES;
    for (uint64_t i = 0; i < writer->tensor_count; i++) {
        const struct nbl_record *record = &writer->tensors[i].record;
        if (!writer->tensors[i].has_checksum)
            return fail(err, ERR_USAGE, "tensor %s: its checksum was never stated", record->tensor.name);
        nbl_put_record(*out + i * NBL_RECORD_BYTES, record);
        memcpy(names + record->name_offset, record->tensor.name, record->name_bytes);
    }
    return OK;
}

/* The header goes last: until then the file does not even begin like a .nbl file. */
static enum status write_frame(
    struct nbl_writer *writer, const uint8_t *table, const uint8_t *metadata, struct error *err)
{
    struct nbl_header *header = &writer->header;
    uint8_t bytes[NBL_HEADER_BYTES];
    enum status status;

    header->file_bytes = header->metadata_offset + header->metadata_bytes;
    nbl_put_header(bytes, header);
    header->crc = file_crc32(0, bytes, NBL_CRC_OFFSET);
    header->crc = file_crc32(header->crc, table, header->table_bytes);
    header->crc = file_crc32(header->crc, metadata, header->metadata_bytes);
    nbl_put_header(bytes, header);
    status = output_write_at(writer->output, header->metadata_offset, metadata, header->metadata_bytes, err);
    if (!status) status = output_write_at(writer->output, NBL_HEADER_BYTES, table, header->table_bytes, err);
    if (!status) status = output_write_at(writer->output, 0, bytes, NBL_HEADER_BYTES, err);
    return status;
}

static enum status commit(struct writer *base, struct error *err)
{
    struct nbl_writer *writer = own(base);
    uint8_t *table = NULL, *metadata = NULL;
    enum status status = writer->begun ? OK : begin(base, err);

    if (!status) status = build_metadata(&metadata, writer, err);
    if (!status) status = build_table(&table, writer, err);
    if (!status) status = write_frame(writer, table, metadata, err);
    if (!status) {
        status = output_commit(writer->output, err);
        writer->output = NULL; /* freed in any case */
    }
    memory_free(table);
    memory_free(metadata);
    nbl_writer_free(writer);
    return status;
}

/* ---- the kind ---- */

static void abandon(struct writer *base)
{
    nbl_writer_free(own(base));
}

static const struct writer_kind kind = {
    .name = "nbl",
    .add = add,
    .alias = add_alias,
    .begin = begin,
    .write = write_part,
    .checksum = set_checksum,
    .document = add_document,
    .commit = commit,
    .abandon = abandon,
};

enum status nbl_writer_create(struct writer **out, const char *path, bool force, struct error *err)
{
    struct nbl_writer *writer = memory_new(1, sizeof *writer, err);
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (!writer) return ERR_MEMORY;
    writer->base.kind = &kind;
    writer->path = memory_text(path, strlen(path), err);
    if (!writer->path) goto done;
    status = output_open(&writer->output, path, force, err);
    if (status) goto done;
    *out = &writer->base;
    writer = NULL;
done:
    if (writer) nbl_writer_free(writer);
    return status;
}
