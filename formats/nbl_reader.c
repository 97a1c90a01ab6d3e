/* Reading a .nbl file: header, table and metadata, every rule of SPEC.md that needs no tensor data. The
 * checksum over the three is compared first, so that damage is called damage; everything is then checked as
 * if it were hostile. */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/nbl_layout.h"
#include "formats/reader.h"

/* One pass over a file. */
struct pass {
    struct container *container;
    struct file *file;
    struct nbl_header header;
    uint8_t *table, *metadata;
};

/* ---- loading ---- */

static enum status load_part(
    uint8_t **out, struct pass *pass, uint64_t offset, uint64_t bytes, uint32_t *crc, struct error *err)
{
    enum status status;

    *out = memory_new(bytes, 1, err);
    if (!*out) return ERR_MEMORY;
    status = file_read_at(pass->file, offset, *out, bytes, err);
    if (!status) *crc = file_crc32(*crc, *out, bytes);
    return status;
}

/* Header, table and metadata into memory, and their checksum (N12). Errors name the file. */
static enum status load(struct pass *pass, struct error *err)
{
    const char *path = pass->file->path;
    uint8_t bytes[NBL_HEADER_BYTES];
    enum status status;
    uint32_t crc;

    if (pass->file->bytes < NBL_HEADER_BYTES)
        return fail(
            err, ERR_FORMAT, "%s: has %" PRIu64 " bytes, too short for a .nbl file", path, pass->file->bytes);
    status = file_read_at(pass->file, 0, bytes, NBL_HEADER_BYTES, err);
    if (status) return status;
    status = nbl_get_header(&pass->header, bytes, pass->file->bytes, err);
    if (status) return fail_within(err, status, "%s", path);
    crc = file_crc32(0, bytes, NBL_CRC_OFFSET);
    status = load_part(&pass->table, pass, NBL_HEADER_BYTES, pass->header.table_bytes, &crc, err);
    if (!status)
        status = load_part(
            &pass->metadata, pass, pass->header.metadata_offset, pass->header.metadata_bytes, &crc, err);
    if (status) return status;
    if (crc != pass->header.crc)
        return fail(err, ERR_FORMAT,
            "%s: header, table or metadata are damaged: CRC-32 %08" PRIx32 ", recorded %08" PRIx32, path, crc,
            pass->header.crc);
    return OK;
}

/* ---- the table ---- */

/* The name of a record: names lie in the order of the table without gaps (N14). */
static enum status read_name(
    struct pass *pass, struct nbl_record *record, uint64_t expected, struct error *err)
{
    uint64_t names_offset = pass->header.tensor_count * NBL_RECORD_BYTES;
    uint64_t names_bytes = pass->header.table_bytes - names_offset;
    const char *name = (const char *)pass->table + names_offset + expected;
    enum status status;

    if (record->name_offset != expected || record->name_bytes > names_bytes - expected)
        return fail(err, ERR_FORMAT,
            "its name is at %" PRIu64 " with %" PRIu32 " bytes, expected at %" PRIu64 " of %" PRIu64,
            record->name_offset, record->name_bytes, expected, names_bytes);
    status = names_check(name, record->name_bytes, err);
    if (status) return status;
    record->tensor.name = names_keep(&pass->container->names, name, record->name_bytes, err);
    return record->tensor.name ? OK : ERR_MEMORY;
}

/* Where the reading of the table stands. */
struct place {
    uint64_t name_offset; /* of the next name */
    uint64_t data_end;    /* of the last tensor */
};

/* Each tensor begins at the next multiple of 64 after the one before it, and ends before the metadata (N24).
 */
static enum status check_place(
    const struct pass *pass, const struct nbl_record *record, uint64_t before, struct error *err)
{
    uint64_t limit = pass->header.metadata_offset, expected = limit, end;
    bool wraps = checked_align(&expected, before, NBL_TENSOR_ALIGNMENT) ||
                 checked_add(&end, expected, record->tensor.bytes);

    if (!wraps && record->offset == expected && end <= limit) return OK;
    return fail(err, ERR_FORMAT,
        "tensor %s: %" PRIu64 " bytes at byte %" PRIu64 "; they belong at byte %" PRIu64
        ", before byte %" PRIu64,
        record->tensor.name, record->tensor.bytes, record->offset, expected, limit);
}

/* One record, its name and its place. */
static enum status read_record(struct pass *pass, uint64_t index, struct place *place, struct error *err)
{
    struct reader_entry entry;
    struct nbl_record record;
    enum status status = nbl_get_record(&record, pass->table + index * NBL_RECORD_BYTES, err);

    if (!status) status = read_name(pass, &record, place->name_offset, err);
    if (status) return fail_within(err, status, "tensor %" PRIu64, index);
    status = check_place(pass, &record, place->data_end, err);
    if (status) return status;
    place->name_offset += record.name_bytes;
    place->data_end = record.offset + record.tensor.bytes;
    entry = (struct reader_entry){.tensor = record.tensor, .offset = record.offset, .crc = record.crc};
    return reader_add_entry(pass->container, &entry, err);
}

static enum status read_table(struct pass *pass, struct error *err)
{
    const struct nbl_header *header = &pass->header;
    struct place place = {.name_offset = 0, .data_end = header->data_offset};
    uint64_t names_bytes = header->table_bytes - header->tensor_count * NBL_RECORD_BYTES;
    uint64_t data_end;

    for (uint64_t i = 0; i < header->tensor_count; i++) {
        enum status status = read_record(pass, i, &place, err);
        if (status) return status;
    }
    if (place.name_offset != names_bytes)
        return fail(err, ERR_FORMAT, "%" PRIu64 " bytes of the table belong to no name",
            names_bytes - place.name_offset);
    if (checked_align(&data_end, place.data_end, NBL_TENSOR_ALIGNMENT) || data_end != header->metadata_offset)
        return fail(err, ERR_FORMAT, "the last tensor ends at byte %" PRIu64 ", the data at %" PRIu64,
            place.data_end, header->metadata_offset);
    return OK;
}

/* ---- the metadata ---- */

/* The part of the metadata that is not read yet: every read checks what is left. */
struct cursor {
    const uint8_t *bytes;
    uint64_t at, end;
};

static const uint8_t *take(struct cursor *cursor, uint64_t count, struct error *err)
{
    const uint8_t *bytes = cursor->bytes + cursor->at;

    if (count > cursor->end - cursor->at) {
        fail(err, ERR_FORMAT, "metadata: %" PRIu64 " bytes needed at byte %" PRIu64 ", it has %" PRIu64,
            count, cursor->at, cursor->end);
        return NULL;
    }
    cursor->at += count;
    return bytes;
}

/* What documents and aliases begin with: a name and a number. */
struct item {
    const char *name;
    uint32_t name_bytes;
    uint64_t number;
};

static enum status take_item(struct item *out, struct cursor *cursor, struct error *err)
{
    const uint8_t *head = take(cursor, NBL_ITEM_BYTES, err);

    if (!head) return ERR_FORMAT;
    out->name_bytes = bytes_get_u32(head);
    out->number = bytes_get_u64(head + 4);
    out->name = (const char *)take(cursor, out->name_bytes, err);
    return out->name ? OK : ERR_FORMAT;
}

static enum status read_document(struct pass *pass, struct cursor *cursor, struct error *err)
{
    struct container *container = pass->container;
    struct reader_document document;
    struct item item;
    enum status status = take_item(&item, cursor, err);

    if (!status) status = names_check_file(item.name, item.name_bytes, err);
    if (status) return status;
    document.name = names_keep(&container->names, item.name, item.name_bytes, err);
    if (!document.name) return ERR_MEMORY;
    document.bytes = item.number;
    document.offset = pass->header.metadata_offset + cursor->at;
    if (document.bytes > CONTAINER_DOCUMENT_LIMIT)
        return fail(err, ERR_FORMAT, "document %s: %" PRIu64 " bytes, the limit is %u", document.name,
            document.bytes, CONTAINER_DOCUMENT_LIMIT);
    for (uint64_t i = 0; i < container->document_count; i++) {
        if (strcmp(container->documents[i].name, document.name) == 0)
            return fail(err, ERR_FORMAT, "duplicate document %s", document.name);
    }
    if (!take(cursor, document.bytes, err)) return fail_within(err, ERR_FORMAT, "document %s", document.name);
    status = memory_grow(&container->documents, &container->document_capacity, container->document_count + 1,
        sizeof *container->documents, err);
    if (!status) container->documents[container->document_count++] = document;
    return status;
}

static enum status read_alias(struct pass *pass, struct cursor *cursor, struct error *err)
{
    struct container *container = pass->container;
    struct item item;
    enum status status = take_item(&item, cursor, err);
    const char *alias;

    if (!status) status = names_check(item.name, item.name_bytes, err);
    if (status) return status;
    alias = names_keep(&container->names, item.name, item.name_bytes, err);
    if (!alias) return ERR_MEMORY;
    if (item.number >= container->entry_count)
        return fail(err, ERR_FORMAT, "alias %s: stands for tensor %" PRIu64 " of %" PRIu64, alias,
            item.number, container->entry_count);
    return reader_add_alias(container, alias, container->entries[item.number].tensor.name, err);
}

static enum status read_metadata(struct pass *pass, struct error *err)
{
    struct cursor cursor = {.bytes = pass->metadata, .at = 0, .end = pass->header.metadata_bytes};
    const uint8_t *counts = take(&cursor, NBL_COUNTS_BYTES, err);
    uint32_t documents, aliases;
    enum status status = OK;

    if (!counts) return ERR_FORMAT;
    documents = bytes_get_u32(counts);
    aliases = bytes_get_u32(counts + 4);
    if (documents > NBL_DOCUMENT_COUNT_LIMIT)
        return fail(
            err, ERR_FORMAT, "%" PRIu32 " documents, the limit is %d", documents, NBL_DOCUMENT_COUNT_LIMIT);
    if (aliases > NBL_ALIAS_COUNT_LIMIT)
        return fail(err, ERR_FORMAT, "%" PRIu32 " aliases, the limit is %d", aliases, NBL_ALIAS_COUNT_LIMIT);
    for (uint32_t i = 0; i < documents && !status; i++)
        status = read_document(pass, &cursor, err);
    for (uint32_t i = 0; i < aliases && !status; i++)
        status = read_alias(pass, &cursor, err);
    if (!status && cursor.at != cursor.end)
        return fail(err, ERR_FORMAT, "metadata: %" PRIu64 " bytes belong to nothing", cursor.end - cursor.at);
    return status;
}

/* ---- the file ---- */

static enum status read_parts(struct pass *pass, struct error *err)
{
    enum status status = read_table(pass, err);

    if (!status) status = reader_index_tensors(pass->container, err);
    if (!status) status = read_metadata(pass, err);
    if (!status) status = reader_index_aliases(pass->container, err);
    return status ? fail_within(err, status, "%s", pass->file->path) : OK;
}

enum status nbl_read(struct container *container, const char *path, struct error *err)
{
    enum status status = reader_add_file(container, path, reader_base_name(path), err);
    struct pass pass = {.container = container};

    if (status) return status;
    pass.file = container->files[0].file;
    status = load(&pass, err);
    if (!status) status = read_parts(&pass, err);
    container->files[0].head_bytes = pass.header.data_offset;
    container->files[0].head_crc = pass.header.crc;
    container->records_checksums = true;
    memory_free(pass.table);
    memory_free(pass.metadata);
    return status;
}
