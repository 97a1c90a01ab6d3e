/* Seeing a container in another way: other names, documents that were made, rows in another order, other numbers. The functions are declared
 * in container.h. */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/packed/packed_read.h"
#include "formats/reader.h"
#include "formats/transposed.h"

enum status container_rename(struct container *container, uint64_t index, const char *name, struct error *err)
{
    const uint64_t bytes = strlen(name);
    enum status status = names_check(name, bytes, err);
    const char *kept = status ? NULL : names_keep(&container->names, name, bytes, err);

    if (status) return status;
    if (!kept) return ERR_MEMORY;
    container->entries[index].tensor.name = kept;
    return OK;
}

enum status container_reindex(struct container *container, struct error *err)
{
    enum status status;

    names_index_free(&container->index);
    container->index = (struct names_index){0};
    status = reader_index_tensors(container, err);
    return status ? status : reader_index_aliases(container, err);
}

enum status container_attach(
    struct container *container, const char *name, char *text, uint64_t bytes, struct error *err)
{
    struct reader_document document = {.bytes = bytes, .text = text};
    enum status status = OK;

    if (bytes > CONTAINER_DOCUMENT_LIMIT)
        status = fail(
            err, ERR_MEMORY, "%s: %" PRIu64 " bytes are more than %u", name, bytes, CONTAINER_DOCUMENT_LIMIT);
    if (!status) {
        document.name = names_keep(&container->names, name, strlen(name), err);
        if (!document.name) status = ERR_MEMORY;
    }
    if (!status)
        status = memory_grow(&container->documents, &container->document_capacity,
            container->document_count + 1, sizeof document, err);
    if (status) {
        memory_free(text);
        return status;
    }
    container->documents[container->document_count++] = document;
    return OK;
}

void container_detach(struct container *container, const char *name)
{
    for (uint64_t i = 0; i < container->document_count; i++) {
        struct reader_document *document = &container->documents[i];
        if (strcmp(document->name, name) != 0) continue;
        memory_free(document->text);
        *document = container->documents[--container->document_count];
        return;
    }
}

/* ---- one model in several files ---- */

static bool same_entry(const struct reader_entry *a, const struct reader_entry *b)
{
    const struct tensor *left = &a->tensor, *right = &b->tensor;

    return left->storage == right->storage && left->dtype == right->dtype && left->block == right->block &&
           left->mask == right->mask && left->scheme.bits == right->scheme.bits &&
           left->scheme.group == right->scheme.group && left->scheme.asymmetric == right->scheme.asymmetric &&
           left->rank == right->rank && memcmp(left->shape, right->shape, sizeof left->shape) == 0 &&
           a->crc == b->crc;
}

static enum status absorb_entries(
    struct container *container, const struct container *from, uint32_t file, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < from->entry_count && !status; i++) {
        struct reader_entry entry = from->entries[i];
        uint64_t number;
        if (!names_find(&container->index, entry.tensor.name, &number)) {
            status = reader_add_entry(container, &entry, err);
            if (!status) container->entries[container->entry_count - 1].file = file + entry.file;
        } else if (!same_entry(&container->entries[number], &entry)) {
            return fail(err, ERR_FORMAT, "%s: tensor %s is another than that of %s", from->path,
                entry.tensor.name, container->path);
        }
    }
    return status;
}

static enum status absorb_aliases(
    struct container *container, const struct container *from, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < from->alias_count && !status; i++) {
        const struct reader_alias *alias = &from->aliases[i];
        uint64_t number;
        if (!names_find(&container->index, alias->alias, &number))
            status = reader_add_alias(container, alias->alias, alias->target, err);
    }
    return status;
}

static enum status absorb(struct container *container, struct container *from, struct error *err)
{
    const uint32_t file = (uint32_t)container->file_count;
    enum status status;

    if (!container->records_checksums || !from->records_checksums)
        return fail(
            err, ERR_UNSUPPORTED, "%s and %s: only .nbl files are joined", container->path, from->path);
    status = memory_grow(&container->files, &container->file_capacity,
        container->file_count + from->file_count, sizeof *container->files, err);
    if (status) return status;
    names_pool_join(&container->names, &from->names);
    memcpy(container->files + file, from->files, from->file_count * sizeof *from->files);
    container->file_count += from->file_count;
    from->file_count = 0; /* the files are no longer its own */
    status = absorb_entries(container, from, file, err);
    return status ? status : absorb_aliases(container, from, err);
}

enum status container_absorb(struct container *container, struct container *from, struct error *err)
{
    enum status status = absorb(container, from, err);

    container_close(from);
    return status ? status : container_reindex(container, err);
}

/* ---- rows in another order ---- */

enum status container_interleave(
    struct container *container, uint64_t index, uint64_t head, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    const struct tensor *tensor = &entry->tensor;
    const bool dense = tensor->storage == STORAGE_DENSE;

    if (tensor->rank < 1 || tensor->rank > 2 || tensor->storage == STORAGE_TILES ||
        tensor->storage == STORAGE_SPARSE || (!dense && tensor->rank != 2))
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: rank %" PRIu32 " and this storage have no interleaved rows", tensor->name,
            tensor->rank);
    if (head == 0 || head % 2 || tensor->shape[0] % head)
        return fail(err, ERR_FORMAT, "tensor %s: %" PRIu64 " rows are not whole heads of %" PRIu64,
            tensor->name, tensor->shape[0], head);
    if (tensor->bytes) entry->head = head; /* nothing has no order */
    return OK;
}

enum status container_reshape(
    struct container *container, uint64_t index, uint64_t rows, uint64_t cols, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    struct tensor *tensor = &entry->tensor;
    const bool blocks = tensor->storage == STORAGE_BLOCKS;
    uint64_t elements;

    if (checked_multiply(&elements, rows, cols) || elements != tensor->elements)
        return fail(err, ERR_FORMAT,
            "tensor %s: its %" PRIu64 " elements are no %" PRIu64 " rows of %" PRIu64, tensor->name,
            tensor->elements, rows, cols);
    if (tensor->storage == STORAGE_TILES || entry->head || entry->compute || entry->packed ||
        entry->foreign || (blocks && cols % block_info(tensor->block)->weights))
        return fail(err, ERR_UNSUPPORTED, "tensor %s: stored like this it has no other shape", tensor->name);
    tensor->rank = 2;
    memset(tensor->shape, 0, sizeof tensor->shape);
    tensor->shape[0] = rows;
    tensor->shape[1] = cols;
    return OK;
}

static enum status check_split(const struct container *container, const struct reader_entry *entry,
    const struct container_part *parts, unsigned count, uint64_t turn, struct error *err)
{
    const struct tensor *tensor = &entry->tensor;
    uint64_t rows = 0;

    for (unsigned i = 0; i < count; i++)
        rows += parts[i].rows;
    if (tensor->rank < 1 || tensor->rank > 2 || tensor->shape[0] != rows)
        return fail(
            err, ERR_FORMAT, "tensor %s: its rows are not the %" PRIu64 " of its parts", tensor->name, rows);
    for (unsigned i = 0; i < count && turn; i++)
        if (parts[i].rows != parts[0].rows || parts[i].rows % turn)
            return fail(err, ERR_FORMAT, "tensor %s: its parts do not take turns of %" PRIu64 " rows",
                tensor->name, turn);
    if (entry->packed) return OK; /* packed_part looks at the rows */
    if (tensor->storage == STORAGE_TILES || tensor->storage == STORAGE_SPARSE || entry->head ||
        entry->foreign || (entry->compute && (turn || entry->compute != transposed_compute)) ||
        container->records_checksums)
        return fail(
            err, ERR_UNSUPPORTED, "tensor %s: rows stored like this cannot be taken apart", tensor->name);
    return OK;
}

enum status container_transpose(struct container *container, uint64_t index, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    struct tensor *tensor = &entry->tensor;
    const uint64_t rows = tensor->shape[0];

    if (tensor->rank != 2) return fail(err, ERR_FORMAT, "tensor %s: is no matrix", tensor->name);
    if (tensor->storage != STORAGE_DENSE || entry->head || entry->compute || entry->packed ||
        entry->foreign || container->records_checksums)
        return fail(
            err, ERR_UNSUPPORTED, "tensor %s: stored like this it cannot be transposed", tensor->name);
    tensor->shape[0] = tensor->shape[1];
    tensor->shape[1] = rows;
    if (tensor->bytes) entry->compute = transposed_compute;
    container->has_gaps = true; /* checksums of rows say nothing about columns */
    return OK;
}

/* Rows that lie a run at a time. */
static enum status read_turns(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    enum status status = OK;

    for (uint64_t done = 0, part; done < count && !status; done += part) {
        const uint64_t at = offset + done, within = at % entry->run, left = entry->run - within;
        part = left < count - done ? left : count - done;
        status = file_read_at(container->files[entry->file].file,
            entry->offset + at / entry->run * entry->stride + within, buffer + done, part, err);
    }
    return status;
}

/* What part of a fused tensor an entry becomes; *offset moves on to the next part. */
static void become_part(
    struct reader_entry *entry, uint64_t *offset, uint64_t rows, unsigned count, uint64_t turn)
{
    struct tensor *tensor = &entry->tensor;
    const uint64_t row_bytes = tensor->shape[0] ? tensor->bytes / tensor->shape[0] : 0;

    entry->offset = *offset;
    if (entry->compute) { /* transposed: a part's rows lie side by side in every column */
        entry->column = tensor->shape[0];
        *offset += rows * dtype_info(tensor->dtype)->bytes;
    }
    tensor->shape[0] = rows;
    tensor->elements = rows * (tensor->rank == 2 ? tensor->shape[1] : 1);
    tensor->bytes = rows * row_bytes;
    if (turn && tensor->bytes) {
        entry->run = turn * row_bytes;
        entry->stride = count * entry->run;
        entry->compute = read_turns;
    }
    if (!entry->column) *offset += turn ? turn * row_bytes : tensor->bytes;
}

/* The parts of a matrix that is stored packed, which goes. */
static enum status split_packed(struct reader_entry *entries, const struct reader_entry *whole,
    const struct container_part *parts, unsigned count, uint64_t turn, struct error *err)
{
    uint64_t row = 0;
    enum status status = OK;

    for (unsigned i = 0; i < count; i++)
        entries[i].packed = NULL;
    for (unsigned i = 0; i < count && !status; i++) {
        status = packed_part(&entries[i], whole->packed, parts[i].rows, turn ? i * turn : row,
            turn ? turn : parts[i].rows, turn ? count * turn : 0, err);
        row += parts[i].rows;
    }
    packed_free(whole->packed);
    return status;
}

enum status container_split(struct container *container, uint64_t index, const struct container_part *parts,
    unsigned count, uint64_t turn, struct error *err)
{
    struct reader_entry whole = container->entries[index], *entries;
    enum status status = check_split(container, &whole, parts, count, turn, err);
    uint64_t offset = whole.offset;

    if (!status && count > CONTAINER_TENSOR_LIMIT - container->entry_count)
        status = fail(err, ERR_MEMORY, "more than %d tensors", CONTAINER_TENSOR_LIMIT);
    if (!status)
        status = memory_grow(&container->entries, &container->entry_capacity,
            container->entry_count + count - 1, sizeof whole, err);
    if (status) return status;
    entries = container->entries + index;
    memmove(entries + count, entries + 1, (container->entry_count - index - 1) * sizeof whole);
    container->entry_count += count - 1;
    for (unsigned i = 0; i < count; i++) {
        entries[i] = whole;
        if (!whole.packed) become_part(&entries[i], &offset, parts[i].rows, count, turn);
    }
    if (whole.packed) status = split_packed(entries, &whole, parts, count, turn, err);
    if (turn) container->has_gaps = true; /* no tensor's bytes follow those of another */
    for (unsigned i = 0; i < count && !status; i++)
        status = container_rename(container, index + i, parts[i].name, err);
    return status;
}

/* Whole elements at a time, also where a part of one is wanted. */
static enum status read_shifted(struct container *container, const struct reader_entry *entry,
    uint64_t offset, uint8_t *buffer, uint64_t count, struct error *err)
{
    float values[256];
    enum status status = OK;

    for (uint64_t done = 0, part; done < count && !status; done += part) {
        const uint64_t at = offset + done, within = at % sizeof *values, first = at - within;
        const uint64_t left = entry->tensor.bytes - first;
        const uint64_t bytes = left < sizeof values ? left : sizeof values;
        status = file_read_at(container->files[entry->file].file, entry->offset + first, values, bytes, err);
        for (uint64_t i = 0; i < bytes / sizeof *values; i++)
            values[i] += entry->addend;
        part = bytes - within < count - done ? bytes - within : count - done;
        if (!status) memcpy(buffer + done, (const uint8_t *)values + within, part);
    }
    return status;
}

enum status container_shift(struct container *container, uint64_t index, float addend, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    const struct tensor *tensor = &entry->tensor;

    if (tensor->storage != STORAGE_DENSE || tensor->dtype != DTYPE_F32 || entry->compute)
        return fail(err, ERR_UNSUPPORTED, "tensor %s: is not stored as F32", tensor->name);
    entry->addend = addend;
    entry->compute = read_shifted;
    return OK;
}
