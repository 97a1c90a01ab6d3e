/* Opening a model and looking into it: the table of formats, and what all formats have in common once read.
 */
#include "formats/container.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container_select.h"
#include "formats/llama2c.h"
#include "formats/packed/packed_read.h"
#include "formats/pytorch/pytorch.h"
#include "formats/reader.h"
#include "formats/safetensors.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

/* ---- the table of formats ---- */

enum { MAGIC_LIMIT = 8, HEAD_BYTES = LLAMA2C_HEAD_BYTES };

/* One row: how a file of the format begins, and who reads it. */
struct format {
    const char *name;
    const char *magic;
    size_t magic_bytes;
    enum status (*read)(struct container *container, const char *path, struct error *err);
    bool has_documents; /* inside the file; otherwise they are files beside it */
};

/* Safetensors has no signature: its first eight bytes are a length of at most 100,000,000. No signature below
 * is that small. */
static const struct format safetensors_format = {"safetensors", "", 0, safetensors_read, false};

/* Nor have the first llama2.c models: what their first numbers describe must be as large as the file. */
static const struct format llama2c_format = {LLAMA2C_FORMAT, "24ka", 4, llama2c_read, true};

static const struct format formats[] = {
    {"nbl", "\x89NBL", 4, nbl_read, true},
    {"nbl", "\n\x1A\n\rLBN\x89", 8, nbl_read, true}, /* big-endian: for its error */
    {"GGUF", "GGUF", 4, gguf_read, true}, {PYTORCH_FORMAT, "PK\x03\x04", 4, pytorch_read, false},
    {PYTORCH_FORMAT, PYTORCH_OLD_MAGIC, 8, pytorch_read, false}, /* before 1.6: for its error */
};

static const struct format *recognize(const uint8_t *head, uint64_t count, uint64_t file_bytes)
{
    if (llama2c_recognize(head, count, file_bytes)) return &llama2c_format;
    if (count >= MAGIC_LIMIT && bytes_get_u64(head) <= SAFETENSORS_HEADER_LIMIT) return &safetensors_format;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (count >= formats[i].magic_bytes && memcmp(head, formats[i].magic, formats[i].magic_bytes) == 0)
            return &formats[i];
    }
    return &safetensors_format; /* which then says what is wrong */
}

/* ---- opening ---- */

/* The format of a file, from its first bytes and its size. */
static enum status find_format(const struct format **out, const char *path, struct error *err)
{
    uint8_t head[HEAD_BYTES];
    struct file *file = NULL;
    enum status status = file_open(&file, path, err);

    if (status) return status;
    const uint64_t count = file->bytes < HEAD_BYTES ? file->bytes : HEAD_BYTES;
    status = file_read_at(file, 0, head, count, err);
    if (!status) *out = recognize(head, count, file->bytes);
    file_close(file);
    return status;
}

static enum status open_file(struct container *container, const char *path, struct error *err)
{
    const char *base = reader_base_name(path);
    const struct format *format;
    enum status status = find_format(&format, path, err);

    if (status) return status;
    container->format = format->name;
    if (!format->has_documents) {
        uint64_t folder_bytes = (uint64_t)(base - path); /* with the slash */
        container->folder = folder_bytes ? memory_text(path, folder_bytes, err) : memory_text(".", 1, err);
        if (!container->folder) return ERR_MEMORY;
    }
    return format->read(container, path, err);
}

/* What a folder may hold, in the order in which it is looked for. */
static const struct folder_row {
    const char *name;
    bool is_index;
    const struct shard_format *format;
} folder_rows[] = {
    {SINGLE_NAME, false, &safetensors_shards},
    {INDEX_NAME, true, &safetensors_shards},
    {"pytorch_model.bin", false, &pytorch_shards},
    {"pytorch_model.bin.index.json", true, &pytorch_shards},
};

/* The first of folder_rows that is there, and its path (owner: the caller); else NULL. */
static enum status look_into(
    const struct folder_row **row, char **path, const char *folder, struct error *err)
{
    for (size_t i = 0; i < sizeof folder_rows / sizeof *folder_rows; i++) {
        const char *name = folder_rows[i].name;
        enum status status = file_join(path, folder, name, strlen(name), err);
        *row = &folder_rows[i];
        if (status || file_kind(*path) != FILE_ABSENT) return status;
        memory_free(*path);
    }
    *row = NULL;
    *path = NULL;
    return OK;
}

static enum status open_folder(struct container *container, const char *folder, struct error *err)
{
    const struct folder_row *row;
    enum status status;
    char *path;

    container->folder = memory_text(folder, strlen(folder), err);
    if (!container->folder) return ERR_MEMORY;
    status = look_into(&row, &path, folder, err);
    if (status) return status;
    if (!row)
        return fail(err, ERR_FORMAT,
            "%s: holds neither " SINGLE_NAME " nor " INDEX_NAME ", nor pytorch_model.bin", folder);
    container->format = row->format->name;
    if (row->is_index) {
        status = shards_read(container, folder, row->name, row->format, err);
    } else {
        status = row->format->add(container, path, row->name, err);
        if (!status) status = row->format->finish(container, err);
    }
    memory_free(path);
    return status;
}

/* What is packed is seen; what no packed matrix has taken must be of a type that is known. */
static enum status see_packed(
    struct container *container, const struct container_options *options, struct error *err)
{
    enum status status = packed_see(container, options->gptq_zeros, err);

    for (uint64_t i = 0; i < container->entry_count && !status; i++) {
        const struct reader_entry *entry = &container->entries[i];
        if (entry->foreign)
            status = fail(err, ERR_UNSUPPORTED, "%s: tensor %s: type %s is not supported",
                container->files[entry->file].file->path, entry->tensor.name, entry->foreign);
    }
    return status;
}

enum status container_open(struct container **out, const char *path, struct error *err)
{
    return container_open_with(out, path, &(struct container_options){0}, err);
}

enum status container_open_with(
    struct container **out, const char *path, const struct container_options *options, struct error *err)
{
    struct container *container = memory_new(1, sizeof *container, err);
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (!container) return ERR_MEMORY;
    container->path = memory_text(path, strlen(path), err);
    if (!container->path) goto done;
    status =
        file_kind(path) == FILE_FOLDER ? open_folder(container, path, err) : open_file(container, path, err);
    if (!status && container->folder) status = see_packed(container, options, err);
    if (status) goto done;
    *out = container;
    container = NULL;
done:
    container_close(container);
    return status;
}

void reader_entry_release(struct reader_entry *entry)
{
    memory_free(entry->copy);
    packed_free(entry->packed);
    selection_free(entry->selection);
}

void container_close(struct container *container)
{
    if (!container) return;
    for (uint64_t i = 0; i < container->entry_count; i++)
        reader_entry_release(&container->entries[i]);
    for (uint64_t i = 0; i < container->document_count; i++)
        memory_free(container->documents[i].text);
    for (uint64_t i = 0; i < container->file_count; i++)
        file_close(container->files[i].file);
    names_index_free(&container->index);
    names_pool_free(&container->names);
    metadata_free(&container->metadata);
    memory_free(container->files);
    memory_free(container->entries);
    memory_free(container->aliases);
    memory_free(container->documents);
    memory_free(container->folder);
    memory_free(container->path);
    memory_free(container);
}

/* ---- looking ---- */

const char *container_path(const struct container *container)
{
    return container->path;
}

const char *container_format(const struct container *container)
{
    return container->format;
}

uint64_t container_bytes(const struct container *container)
{
    uint64_t bytes = 0;

    for (uint64_t i = 0; i < container->file_count; i++)
        bytes += container->files[i].file->bytes;
    return bytes;
}

uint64_t container_file_count(const struct container *container)
{
    return container->file_count;
}

struct container_file container_file(const struct container *container, uint64_t index)
{
    const struct file *file = container->files[index].file;

    return (struct container_file){file->path, file->bytes, file->map};
}

uint64_t container_count(const struct container *container)
{
    return container->entry_count;
}

const struct tensor *container_tensor(const struct container *container, uint64_t index)
{
    return &container->entries[index].tensor;
}

/* A tensor is the first member of its entry. */
static const struct reader_entry *entry_of(const struct tensor *tensor)
{
    return (const struct reader_entry *)(const void *)tensor;
}

uint64_t container_index(const struct container *container, const struct tensor *tensor)
{
    uint64_t index = (uint64_t)(entry_of(tensor) - container->entries);

    assert(index < container->entry_count); /* a tensor of this container */
    return index;
}

const char *container_packed(const struct container *container, const struct tensor *tensor, const char **why)
{
    const struct packed *packed = container->entries[container_index(container, tensor)].packed;

    *why = packed ? packed->decoded : NULL;
    return packed ? packed->layout->name : NULL;
}

const struct metadata *container_metadata(const struct container *container)
{
    return &container->metadata;
}

const struct tensor *container_find(const struct container *container, const char *name)
{
    uint64_t number;

    return names_find(&container->index, name, &number) ? &container->entries[number].tensor : NULL;
}

uint64_t container_alias_count(const struct container *container)
{
    return container->alias_count;
}

void container_alias(
    const struct container *container, uint64_t index, const char **alias, const char **target)
{
    *alias = container->aliases[index].alias;
    *target = container->aliases[index].target;
}

/* ---- tensor data ---- */

bool container_checksum(const struct container *container, const struct tensor *tensor, uint32_t *crc)
{
    *crc = entry_of(tensor)->crc;
    return container->records_checksums && !entry_of(tensor)->made;
}

/* Where row `row` of a tensor with interleaved heads is stored. */
static uint64_t stored_row(uint64_t row, uint64_t head)
{
    const uint64_t within = row % head, half = head / 2;

    return row - within + 2 * (within % half) + within / half;
}

/* Bytes of a tensor in the order in which its rows are stored. */
static enum status read_stored(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    if (entry->compute) return entry->compute(container, entry, offset, buffer, count, err);
    return file_read_at(container->files[entry->file].file, entry->offset + offset, buffer, count, err);
}

/* Gather `count` bytes at `offset` from rows that are not stored in order. */
static enum status read_interleaved(struct container *container, const struct reader_entry *entry,
    uint64_t offset, uint8_t *buffer, uint64_t count, struct error *err)
{
    const uint64_t row_bytes = entry->tensor.bytes / entry->tensor.shape[0];
    enum status status = OK;

    for (uint64_t done = 0, part; done < count && !status; done += part) {
        const uint64_t at = offset + done, within = at % row_bytes;
        const uint64_t from = stored_row(at / row_bytes, entry->head) * row_bytes + within;
        part = row_bytes - within < count - done ? row_bytes - within : count - done;
        status = read_stored(container, entry, from, buffer + done, part, err);
    }
    return status;
}

enum status reader_read(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    return entry->head ? read_interleaved(container, entry, offset, buffer, count, err)
                       : read_stored(container, entry, offset, buffer, count, err);
}

enum status container_read(struct container *container, const struct tensor *tensor, uint64_t offset,
    void *buffer, uint64_t count, struct error *err)
{
    const struct reader_entry *entry = entry_of(tensor);
    uint64_t end;
    enum status status;

    if (checked_add(&end, offset, count) || end > tensor->bytes)
        return fail(err, ERR_USAGE,
            "tensor %s: %" PRIu64 " bytes wanted at byte %" PRIu64 ", it has %" PRIu64, tensor->name, count,
            offset, tensor->bytes);
    status = reader_read(container, entry, offset, buffer, count, err);
    return status ? fail_within(err, status, "tensor %s", tensor->name) : OK;
}

/* ---- documents ---- */

static enum status document_inside(
    struct container *container, const char *name, char **out, uint64_t *bytes, struct error *err)
{
    for (uint64_t i = 0; i < container->document_count; i++) {
        const struct reader_document *document = &container->documents[i];
        enum status status;
        if (strcmp(document->name, name) != 0) continue;
        *out = memory_new(document->bytes + 1, 1, err);
        if (!*out) return ERR_MEMORY;
        *bytes = document->bytes;
        if (document->text) {
            memcpy(*out, document->text, document->bytes);
            return OK;
        }
        status = file_read_at(container->files[0].file, document->offset, *out, document->bytes, err);
        if (!status) return OK;
        memory_free(*out);
        *out = NULL;
        return fail_within(err, status, "document %s", name);
    }
    return OK;
}

static enum status document_beside(
    struct container *container, const char *name, char **out, uint64_t *bytes, struct error *err)
{
    char *path = NULL;
    enum status status = file_join(&path, container->folder, name, strlen(name), err);

    if (!status && file_kind(path) != FILE_ABSENT)
        status = file_read_all(out, bytes, path, CONTAINER_DOCUMENT_LIMIT, err);
    memory_free(path);
    return status;
}

enum status container_document(
    struct container *container, const char *name, char **out, uint64_t *bytes, struct error *err)
{
    *out = NULL;
    *bytes = 0;
    enum status status = document_inside(container, name, out, bytes, err);

    if (status || *out || !container->folder) return status;
    return document_beside(container, name, out, bytes, err);
}
